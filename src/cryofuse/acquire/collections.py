"""Single files: mascons, ice masks, elevation models; from Earthdata or by plain HTTPS."""

from __future__ import annotations

import logging
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryofuse.acquire.catalogue import last_part
from cryofuse.acquire.credentials import Sessions, log_in
from cryofuse.acquire.earthdata import wanted_file
from cryofuse.acquire.inspect import inspect_grid
from cryofuse.acquire.plan import ManifestRow, link_problem, read_manifest, write_manifest
from cryofuse.acquire.progress import ProgressBar
from cryofuse.acquire.transfer import (
    Transfers,
    Wanted,
    check_announced,
    file_digest,
    is_safe_name,
)
from cryofuse.config import DownloadSettings
from cryofuse.logs import UserError
from cryofuse.tables import written

_LOG = logging.getLogger(__name__)
_PIN = "SHA-256"


def fetch_planned(row: ManifestRow, settings: DownloadSettings, target: Path) -> None:
    """Fetch the file of a collection's plan and lay it where the workflow looks for it.

    Parameters
    ----------
    row
        Row of the plan.
    settings
        Cache, bounds, hosts.
    target
        Name under which it is used; the file itself stays in the cache under its own.

    Raises
    ------
    UserError
        If it cannot be had.
    """
    folder = Path(settings.cache_dir) / "files"
    path = folder / row.granule
    if not _unchanged(path, row):
        sessions = Sessions(log_in(settings.system), settings.system)
        path = _fetch_one(wanted_file(row), folder, settings, sessions)
    _lay(path, target)


def fetch_pinned(
    url: str, manifest: Path, settings: DownloadSettings, target: Path, refresh: bool
) -> None:
    """Fetch a file that a centre offers by plain HTTPS, the same one for good.

    The first download writes the file's SHA-256 into a plan of its own; from then on only a
    file with it is accepted.

    Parameters
    ----------
    url
        Address, https.
    manifest
        Plan of this file, written where there is none.
    settings
        Cache and bounds.
    target
        Name under which it is used.
    refresh
        Whether a file that has changed is accepted, and pinned in place of the old one.

    Raises
    ------
    UserError
        If it cannot be had, or has changed and ``refresh`` is false.
    """
    name = last_part(url)
    problem = link_problem(url, [urlsplit(url).hostname or ""])
    if problem or not is_safe_name(name):
        raise UserError(
            f"download: plain: {url}: {problem or 'it does not end with a plain file name'}"
        )
    pinned = _read_pin(url, manifest)
    folder = Path(settings.cache_dir) / "files"
    path = folder / name
    if refresh or not (pinned and _unchanged(path, pinned)):
        # A file of an earlier run is not asked about: it may be the one before.
        (folder / "new" / name).unlink(missing_ok=True)
        fresh = _fetch_one(Wanted(name, url), folder / "new", settings, Sessions())
        _accept(fresh, pinned, manifest, url, refresh)
        os.replace(fresh, path)
    _lay(path, target)


def _accept(
    fresh: Path, pinned: ManifestRow | None, manifest: Path, url: str, refresh: bool
) -> None:
    """Hold a file that came against its pin; pin it where there is none or a new one is wanted."""
    digest = file_digest(fresh, _PIN)
    if pinned is not None and digest == pinned.checksum:
        return
    if pinned is not None and not refresh:
        fresh.unlink()
        raise UserError(
            f"{url} has changed since {manifest} was written: SHA-256 {str(digest)[:12]}… "
            f"instead of {str(pinned.checksum)[:12]}…; accept it with --config refresh=true"
        )
    row = ManifestRow(
        granule=fresh.name,
        url=url,
        size_bytes=fresh.stat().st_size,
        checksum=digest,
        checksum_algorithm=_PIN,
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_manifest([row], manifest, {"pinned": now})
    _LOG.info("%s: SHA-256 %s pinned in %s", fresh.name, digest, manifest)


def _read_pin(url: str, manifest: Path) -> ManifestRow | None:
    """Return the pin of an address, None where there is none yet."""
    if not manifest.is_file():
        return None
    host = urlsplit(url).hostname or ""
    rows = [row for row in read_manifest(manifest, [host], of_granules=False) if not row.reason]
    if len(rows) != 1 or rows[0].checksum_algorithm != _PIN:
        raise UserError(f"{manifest}: expected one file with its SHA-256, found {len(rows)} rows")
    if rows[0].url != url:
        raise UserError(
            f"{manifest} pins {rows[0].url}, the configuration names {url}; remove the one that "
            "is not wanted"
        )
    return rows[0]


def _unchanged(path: Path, row: ManifestRow) -> bool:
    """Return whether the file of a row lies in the cache as announced."""
    return path.is_file() and check_announced(path, wanted_file(row)) is None


def _fetch_one(
    wanted: Wanted, folder: Path, settings: DownloadSettings, sessions: Sessions
) -> Path:
    """Fetch one file or say in one line why not."""
    try:
        with ProgressBar(wanted.name, 1, wanted.size_bytes) as bar:
            outcome = Transfers(settings, sessions, inspect_grid, bar).fetch(wanted, folder)
    finally:
        sessions.close()
    if outcome.path is None:
        raise UserError(f"{wanted.name} could not be had from {wanted.url}: {outcome.reason}")
    return outcome.path


def _lay(path: Path, target: Path) -> None:
    """Give a cached file the name under which it is used: a second link, or a copy."""
    with written(target) as temporary:
        temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
