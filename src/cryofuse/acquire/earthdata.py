"""A period's granules from Earthdata into the cache: planned, fetched, removed, fetched again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from cryofuse.acquire.catalogue import Box
from cryofuse.acquire.credentials import Sessions, log_in
from cryofuse.acquire.inspect import inspect_granule
from cryofuse.acquire.manifest import (
    GranuleFile,
    build_manifest,
    missing_granules,
    used_granules,
)
from cryofuse.acquire.plan import BYTES_PER_GB, ManifestRow, list_refused
from cryofuse.acquire.progress import ProgressBar
from cryofuse.acquire.transfer import Outcome, Transfers, Wanted, check_announced
from cryofuse.altimetry import load_product
from cryofuse.config import DownloadSettings, digest
from cryofuse.logs import UserError

_LOG = logging.getLogger(__name__)
#: Columns of the record of granules that were removed.
_RECORD = ["granule", "path", "size_bytes"]


def granule_folder(settings: DownloadSettings) -> Path:
    """Return where raw granules lie."""
    return Path(settings.cache_dir) / "atl06"


def wanted_file(row: ManifestRow) -> Wanted:
    """Return a row of a plan as a file to fetch."""
    return Wanted(row.granule, row.url or "", row.size_bytes, row.checksum, row.checksum_algorithm)


def is_present(row: ManifestRow, settings: DownloadSettings) -> bool:
    """Return whether a granule of a plan lies in the cache, whole with the size announced."""
    path = granule_folder(settings) / row.granule
    return path.is_file() and row.size_bytes in (None, path.stat().st_size)


def is_cut(row: ManifestRow, settings: DownloadSettings) -> bool:
    """Return whether a part of a granule, cut at the archive, lies in the cache."""
    return any((Path(settings.cache_dir) / "harmony").glob(f"*/processed_{row.granule}"))


def download_granules(
    rows: Sequence[ManifestRow],
    settings: DownloadSettings,
    first: np.datetime64,
    stop: np.datetime64,
    title: str = "granules",
    box: Box | None = None,
    removed: pd.DataFrame | None = None,
) -> pa.Table:
    """Fetch a period's granules into the cache and return the receipt.

    A granule that is there and as announced is not fetched. One that could not be had is in the
    receipt with the reason, as is one that the plan leaves out. No log-in takes place where
    nothing is to be fetched.

    Parameters
    ----------
    rows
        Plan of the period.
    settings
        Cache, bounds, hosts.
    first, stop
        The period: first instant, and first instant after it.
    title
        What the progress bar says.
    box
        West, south, east, north (degrees): ask for parts cut to it where ``settings`` want parts.
    removed
        Record of granules that were removed after their use (:func:`remove_granules`): they
        stay in the receipt and are not fetched.

    Returns
    -------
    pyarrow.Table
        Of contract MANIFEST.

    Raises
    ------
    UserError
        If more than the share allowed could not be had, or credentials are missing or wrong.
    """
    wanted = [row for row in rows if row.reason is None and _is_within(row, first, stop)]
    if len(wanted) < sum(row.reason is None for row in rows):
        _LOG.info("granules of the plan outside the run's months are left alone")
    refused = list_refused(rows, first, stop)
    known = len(wanted) + len(refused)
    if len(refused) > settings.max_failed_share * known:
        told = "".join(f"\n  {row.granule}: {row.reason}" for row in refused)
        raise UserError(
            f"{title}: the plan leaves out {len(refused)} of {known} granules, more than download: "
            f"max_failed_share ({settings.max_failed_share:g}); mend the cause, and remove the "
            f"plan to make it again; the reasons:{told}"
        )
    # An entry may stand twice under one name: the one that is fetched counts.
    names = {row.granule for row in wanted}
    left_out = [row for row in rows if row.reason is not None and row.granule not in names]
    files = {row.granule: _left_out(row) for row in left_out}
    record = {} if removed is None else _still_valid(removed, wanted)
    files |= {name: file for name, file in record.items() if not Path(file.path).is_file()}
    missing = [row for row in wanted if row.granule not in files]
    if settings.subset == "harmony" and box is not None:
        files |= _fetch_parts(missing, settings, box, title)
        missing = [row for row in missing if row.granule not in files]
    for outcome in _fetch(missing, settings, title, known):
        files[outcome.wanted.name] = _receipt(outcome, granule_folder(settings))
    return build_manifest(_of_product(files), first, stop)


def _is_within(row: ManifestRow, first: np.datetime64, stop: np.datetime64) -> bool:
    """Return whether a granule starts in a span of time."""
    return bool(first <= load_product("atl06").parse_name(row.granule).start_time < stop)


def _fetch(
    rows: Sequence[ManifestRow], settings: DownloadSettings, title: str, of: int
) -> list[Outcome]:
    """Fetch whole granules; without a log-in where all of them are there."""
    folder = granule_folder(settings)
    # Checksums are made here only where they can spare the log-in: transfers make them anyway.
    there = all(is_present(row, settings) for row in rows)
    if there and all(_is_complete(row, folder) for row in rows):
        return [Outcome(wanted_file(row), folder / row.granule, None) for row in rows]
    files = [wanted_file(row) for row in rows]
    return _transfer(files, settings, folder, title, settings.max_failed_share, of)


def _is_complete(row: ManifestRow, folder: Path) -> bool:
    path = folder / row.granule
    return (
        path.is_file()
        and check_announced(path, wanted_file(row)) is None
        and inspect_granule(path, row.granule) is None
    )


def _transfer(
    files: Sequence[Wanted],
    settings: DownloadSettings,
    folder: Path,
    title: str,
    max_failed_share: float,
    of: int | None = None,
) -> list[Outcome]:
    """Fetch files side by side, with a log-in and a bar."""
    sizes = [file.size_bytes for file in files]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    sessions = Sessions(log_in(settings.system), settings.system)
    try:
        with ProgressBar(title, len(files), total) as bar:
            return Transfers(settings, sessions, inspect_granule, bar).fetch_all(
                files, folder, max_failed_share, of
            )
    finally:
        sessions.close()


def _fetch_parts(
    rows: Sequence[ManifestRow], settings: DownloadSettings, box: Box, title: str
) -> dict[str, GranuleFile]:
    """Fetch granules cut at the archive; those that have no part are left to be fetched whole."""
    from cryofuse.acquire.harmony import request_subsets, subset_variables

    variables = subset_variables()
    folder = Path(settings.cache_dir) / "harmony" / digest([box, variables])
    found = _list_parts(rows, folder)
    asked = [row for row in rows if row.granule not in found and not is_present(row, settings)]
    if not asked:
        return found
    root_url = settings.system.harmony_url if settings.system else None
    urls, reasons = request_subsets(asked, box, variables, log_in(settings.system), root_url)
    parts = [Wanted(f"processed_{name}", url) for name, url in sorted(urls.items())]
    # A part that does not come is no loss: the whole granule does.
    try:
        outcomes = _transfer(parts, settings, folder, f"{title}, cut", 1.0) if parts else []
    except UserError as error:
        outcomes = [Outcome(part, None, str(error)) for part in parts]
    reasons |= {
        outcome.wanted.name.removeprefix("processed_"): outcome.reason
        for outcome in outcomes
        if outcome.reason is not None
    }
    came = _list_parts(asked, folder)
    found |= came
    reasons = {name: reason for name, reason in reasons.items() if name not in came}
    for name, reason in sorted(reasons.items()):
        _LOG.warning("%s: fetched whole: %s", name, reason)
    return found


def _list_parts(rows: Iterable[ManifestRow], folder: Path) -> dict[str, GranuleFile]:
    """Return the parts of granules that lie in a folder and are what their names say."""
    found = {}
    for row in rows:
        path = folder / f"processed_{row.granule}"
        if path.is_file() and inspect_granule(path, path.name) is None:
            found[row.granule] = GranuleFile(str(path), path.stat().st_size)
    return found


def _left_out(row: ManifestRow) -> GranuleFile:
    return GranuleFile(row.granule, None, f"not fetched: {row.reason}")


def _receipt(outcome: Outcome, folder: Path) -> GranuleFile:
    if outcome.path is None:
        return GranuleFile(
            str(folder / outcome.wanted.name), None, f"not fetched: {outcome.reason}"
        )
    return GranuleFile(str(outcome.path), outcome.path.stat().st_size)


def _of_product(files: dict[str, GranuleFile]) -> list[GranuleFile]:
    """Return files whose names are ATL06's; entries of other names stay in the plan alone."""
    parse_name = load_product("atl06").parse_name
    kept = []
    for name in sorted(files):
        try:
            parse_name(name)
        except ValueError:
            _LOG.warning("%s: %s", name, files[name].reason)
            continue
        kept.append(files[name])
    return kept


# ---------------------------------------------------------------------- removal


def remove_granules(receipt: pd.DataFrame, settings: DownloadSettings) -> pd.DataFrame:
    """Remove the raw granules of a receipt from the cache and return the record of them.

    Parameters
    ----------
    receipt
        Of contract MANIFEST; the files that were used are removed, a user's own ones never.
    settings
        Cache.

    Returns
    -------
    pandas.DataFrame
        ``granule``, ``path``, ``size_bytes`` of each, whether it was still there or not.
    """
    cache = os.path.abspath(settings.cache_dir)
    used = used_granules(receipt)
    cached = [Path(os.path.abspath(path)).is_relative_to(cache) for path in used["path"]]
    used = used[np.array(cached, bool)]
    for path in used["path"]:
        Path(path).unlink(missing_ok=True)
    return used[_RECORD].sort_values("granule", ignore_index=True)


def _still_valid(removed: pd.DataFrame, rows: Iterable[ManifestRow]) -> dict[str, GranuleFile]:
    """Return the granules of a record that are what the plan announces."""
    record = {
        str(name).removeprefix("processed_"): GranuleFile(str(path), int(size))
        for name, path, size in zip(*(removed[column] for column in _RECORD), strict=True)
    }
    valid = {}
    for row in rows:
        file = record.get(row.granule)
        if file is None:
            continue
        cut = Path(file.path).name.startswith("processed_")
        if cut or row.size_bytes in (None, file.size_bytes):
            valid[row.granule] = file
    return valid


def drop_marks(settings: DownloadSettings, removed: Iterable[str]) -> None:
    """Take away the marks that say that removed granules are in the cache.

    Parameters
    ----------
    settings
        Cache.
    removed
        Paths of the granules.
    """
    gone = set(removed)
    for mark in (Path(settings.cache_dir) / "held").glob("*/*.txt"):
        if gone & set(mark.read_text().splitlines()):
            mark.unlink()


def restore_granules(
    receipt: pd.DataFrame,
    rows: Sequence[ManifestRow],
    settings: DownloadSettings,
    allowed: bool,
    title: str = "granules",
    box: Box | None = None,
) -> int:
    """Have a period's raw granules in the cache again; return how many were fetched.

    Parameters
    ----------
    receipt
        Of contract MANIFEST.
    rows
        Plan of the period.
    settings
        Cache, bounds, hosts.
    allowed
        Whether granules may be fetched again.
    title
        What the progress bar says.
    box
        Box of parts cut at the archive.

    Raises
    ------
    UserError
        If that is not allowed: with the number of granules and their size.
    """
    missing = missing_granules(receipt)
    if missing.empty:
        return 0
    gigabytes = missing["size_bytes"].sum() / BYTES_PER_GB
    if not allowed:
        raise UserError(
            f"{title}: {len(missing)} raw granules ({gigabytes:.2f} GB) are not in the cache any "
            "more; allow them to be fetched again with --config refetch=true, or leave the subset "
            "of this period as it is"
        )
    _LOG.info("%s: fetching %d granules (%.2f GB) again", title, len(missing), gigabytes)
    names = {str(name).removeprefix("processed_") for name in missing["granule"]}
    planned = [row for row in rows if row.granule in names and row.reason is None]
    parts = [Path(path).name.startswith("processed_") for path in missing["path"]]
    if any(parts) and box is not None:
        _fetch_parts(planned, settings, box, title)
    whole = set(missing["granule"][~np.array(parts, bool)])
    again = [wanted_file(row) for row in planned if row.granule in whole]
    if again:
        _transfer(again, settings, granule_folder(settings), title, 1.0)
    gone = missing_granules(receipt)
    if not gone.empty:
        raise UserError(
            f"{title}: {len(gone)} granules could not be had again, the first of them "
            f"{gone['granule'][0]}; to go on without them, remove the period's file in "
            f"{Path(settings.cache_dir) / 'removed'} and its receipt: it is then fetched anew"
        )
    return len(missing)
