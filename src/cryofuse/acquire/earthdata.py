"""Granules and mascon files from NASA Earthdata: search, transfer, checks, manifest.

Credentials are read by the log-in library from the environment or a netrc file when a job
runs; they are never an argument, a parameter or a line of a log.
"""

from __future__ import annotations

import hashlib
import logging
import netrc
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import pyarrow as pa
import shapely
from shapely.geometry.base import BaseGeometry

from cryofuse.acquire.manifest import GranuleFile, build_manifest
from cryofuse.atl06.product import parse_name
from cryofuse.config import DownloadSettings
from cryofuse.geo import project, unproject
from cryofuse.logs import UserError

_LOG = logging.getLogger(__name__)
#: Where Earthdata Login is: the machine named in a netrc file.
LOGIN_HOST = "urs.earthdata.nasa.gov"
_SEARCH_TRIES = 3
_SEARCH_WAIT_S = 5.0
_OUTLINE_STEP_M = 10_000.0
#: Degrees added around the outline's bounding box.
_BOX_MARGIN = 0.1
_BLOCK_BYTES = 1 << 20

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class RemoteFile:
    """A file of the archive: its name, and what the catalogue says of its content."""

    name: str
    size_bytes: int | None
    checksum: str | None
    algorithm: str | None
    handle: Any


class Archive(Protocol):
    """What is asked of an archive; Earthdata is one, a test's folder another."""

    def search(
        self,
        short_name: str,
        version: str | None = None,
        box: Box | None = None,
        months: tuple[np.datetime64, np.datetime64] | None = None,
    ) -> list[RemoteFile]:
        """Return the files of a collection, in a box (degrees) and between two instants."""
        ...

    def fetch(self, remote: RemoteFile, folder: Path) -> Path:
        """Write a file into a folder and return its path."""
        ...


def find_credentials(environment: Mapping[str, str] | None = None) -> str:
    """Return where the log-in finds credentials: ``environment`` or ``netrc``.

    Raises
    ------
    UserError
        If there are none, naming the file and the variables.
    """
    known = os.environ if environment is None else environment
    if known.get("EARTHDATA_TOKEN"):
        return "environment"
    if known.get("EARTHDATA_USERNAME") and known.get("EARTHDATA_PASSWORD"):
        return "environment"
    path = Path(known.get("NETRC") or Path.home() / ".netrc")
    try:
        if path.is_file() and LOGIN_HOST in netrc.netrc(str(path)).hosts:
            return "netrc"
    except netrc.NetrcParseError as error:
        raise UserError(f"{path} is not a netrc file (line {error.lineno})") from None
    raise UserError(
        f"no Earthdata credentials: write a line for machine {LOGIN_HOST} into {path}, or set "
        "EARTHDATA_TOKEN, or EARTHDATA_USERNAME and EARTHDATA_PASSWORD "
        "(free account: https://urs.earthdata.nasa.gov)"
    )


class Earthdata:
    """Earthdata through the earthaccess library; logs in when it is made.

    Parameters
    ----------
    system
        Endpoints other than the production system's (an ``earthaccess.system.System``).

    Raises
    ------
    UserError
        If there are no credentials, or they are refused.
    """

    def __init__(self, system: Any = None) -> None:
        strategy = find_credentials()
        import earthaccess

        # The library logs the server's answer to a failed log-in.
        logging.getLogger("earthaccess").setLevel(logging.CRITICAL)
        options = {} if system is None else {"system": system}
        try:
            accepted = earthaccess.login(strategy=strategy, **options).authenticated
        except Exception as error:  # noqa: BLE001  the library wraps what any transport raises
            raise UserError(
                f"Earthdata Login failed with the credentials of the {strategy} "
                f"({type(error).__name__}); check them at https://{LOGIN_HOST}"
            ) from None
        if not accepted:
            raise UserError(
                f"Earthdata Login refused the credentials of the {strategy}; check them at "
                f"https://{LOGIN_HOST}"
            )

    def search(
        self,
        short_name: str,
        version: str | None = None,
        box: Box | None = None,
        months: tuple[np.datetime64, np.datetime64] | None = None,
    ) -> list[RemoteFile]:
        """Return the files of a collection; as many as the catalogue says there are.

        Raises
        ------
        UserError
            If the catalogue does not answer, or answers with too few.
        """
        import earthaccess

        wanted: dict[str, Any] = {"short_name": short_name}
        if version:
            wanted["version"] = version
        if box:
            wanted["bounding_box"] = box
        if months:
            wanted["temporal"] = tuple(str(instant.astype("datetime64[s]")) for instant in months)
        for attempt in range(1, _SEARCH_TRIES + 1):
            try:
                query = earthaccess.granule_query().parameters(**wanted)
                hits = query.hits()
                found = query.get(hits) if hits else []
            except RuntimeError as error:
                problem = describe(error)
            else:
                if len(found) >= hits:
                    return [_remote(granule) for granule in found]
                problem = f"{len(found)} of {hits} entries came"
            _LOG.warning("search of %s, attempt %d: %s", short_name, attempt, problem)
            if attempt < _SEARCH_TRIES:
                time.sleep(_SEARCH_WAIT_S * attempt)
        raise UserError(f"the Earthdata catalogue failed for {short_name}: {problem}; try later")

    def fetch(self, remote: RemoteFile, folder: Path) -> Path:
        """Write a file of the archive into a folder and return its path."""
        import earthaccess

        earthaccess.download([remote.handle], str(folder), threads=1, show_progress=False)
        path = folder / remote.name
        if not path.is_file():
            raise OSError("the archive sent no file of this name")
        return path


def _remote(granule: Any) -> RemoteFile:
    """Return a catalogue entry as name, size and checksum (UMM-G, DataGranule)."""
    parts = granule["umm"].get("DataGranule", {}).get("ArchiveAndDistributionInformation", [])
    links = [str(link).split("?")[0].rsplit("/", 1)[-1] for link in granule.data_links()]
    data = [name for name in links if name.endswith((".h5", ".nc", ".nc4"))]
    name = data[0] if data else str(granule["umm"].get("GranuleUR", ""))
    described = [part for part in parts if part.get("Name") == name]
    part = described[0] if described else (parts[0] if len(parts) == 1 else {})
    size = part.get("SizeInBytes")
    checksum = part.get("Checksum") or {}
    return RemoteFile(
        name,
        int(size) if size else None,
        checksum.get("Value"),
        checksum.get("Algorithm"),
        granule,
    )


def describe(error: BaseException) -> str:
    """Return an error in one line, without the query part of addresses (signatures stand there)."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"\?\S+", "?…", text)[:300]


def bounding_box(outline: BaseGeometry, crs: str) -> Box:
    """Return west, south, east, north (degrees) of an outline; west > east over ±180°.

    A box around a pole spans all longitudes.
    """
    edge = shapely.get_coordinates(shapely.segmentize(outline.boundary, _OUTLINE_STEP_M))
    longitude, latitude = unproject(edge[:, 0], edge[:, 1], crs)
    south = max(float(latitude.min()) - _BOX_MARGIN, -90.0)
    north = min(float(latitude.max()) + _BOX_MARGIN, 90.0)
    for pole in (-90.0, 90.0):
        x_m, y_m = project([0.0], [pole], crs)
        if np.isfinite(x_m[0]) and shapely.contains_xy(outline, x_m[0], y_m[0]):
            return -180.0, min(south, pole), 180.0, max(north, pole)
    around = np.unique(np.mod(longitude, 360.0))
    gaps = np.diff(np.concatenate([around, [around[0] + 360.0]]))
    widest = int(np.argmax(gaps))
    if gaps[widest] <= 2 * _BOX_MARGIN:
        return -180.0, south, 180.0, north
    # The box is what the widest stretch without outline leaves.
    west = around[(widest + 1) % around.size] - _BOX_MARGIN
    east = around[widest] + _BOX_MARGIN
    return _wrap(west), south, _wrap(east), north


def _wrap(longitude: float) -> float:
    return float((longitude + 180.0) % 360.0 - 180.0)


def check_file(path: Path, remote: RemoteFile) -> str | None:
    """Return in one line what is wrong with a file, None if nothing is.

    Size and checksum are compared with the catalogue's where it states them; then the file
    must open as HDF5.
    """
    size = path.stat().st_size
    if remote.size_bytes is not None and size != remote.size_bytes:
        return f"{size} bytes came, the catalogue says {remote.size_bytes}"
    if remote.checksum and remote.algorithm:
        name = remote.algorithm.lower().replace("-", "")
        if name in hashlib.algorithms_available:
            digest = hashlib.new(name, usedforsecurity=False)
            with path.open("rb") as stream:
                while block := stream.read(_BLOCK_BYTES):
                    digest.update(block)
            if digest.hexdigest() != remote.checksum.lower():
                return f"its {remote.algorithm} differs from the catalogue's"
    try:
        with h5py.File(path, "r", locking=False):
            return None
    except OSError as error:
        return f"it does not open as HDF5 ({describe(error)})"


def fetch_file(archive: Archive, remote: RemoteFile, target: Path) -> str | None:
    """Fetch a file unless it is there already; return in one line why that failed.

    The file arrives under a temporary name in a folder of its own and gets its name when it
    has passed :func:`check_file`.
    """
    if target.is_file() and check_file(target, remote) is None:
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".transfer-", dir=target.parent))
    try:
        arrived = archive.fetch(remote, folder)
        problem = check_file(arrived, remote)
        if problem is None:
            os.replace(arrived, target)
        return problem
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  any transport error is this file's alone
        return describe(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def download_granules(
    archive: Archive,
    settings: DownloadSettings,
    outline: BaseGeometry,
    crs: str,
    first: np.datetime64,
    stop: np.datetime64,
) -> pa.Table:
    """Fetch a period's granules over a region and return their manifest.

    The first release is asked for; where it has no granule at all in the period, the fall-back
    release. A granule that cannot be fetched is in the manifest with the reason.

    Parameters
    ----------
    archive
        Where granules come from.
    settings
        Releases, cache folder, transfers at a time.
    outline, crs
        The region's outline and its CRS; its bounding box is searched.
    first, stop
        The period: first instant, and first instant after it.

    Returns
    -------
    pyarrow.Table
        Of contract MANIFEST.
    """
    box = bounding_box(outline, crs)
    remote: list[RemoteFile] = []
    for version in filter(None, (settings.atl06_version, settings.atl06_fallback_version)):
        found = archive.search("ATL06", version, box, (first, stop))
        remote = _of_period(found, first, stop)
        if remote:
            _LOG.info("%d granules of release %s", len(remote), version)
            break
        _LOG.warning("release %s has no granule between %s and %s", version, first, stop)
    folder = Path(settings.cache_dir) / "atl06"

    def fetch(one: RemoteFile) -> GranuleFile:
        target = folder / one.name
        problem = fetch_file(archive, one, target)
        if problem is not None:
            _LOG.warning("%s: %s", one.name, problem)
            return GranuleFile(str(target), None, f"not fetched: {problem}")
        return GranuleFile(str(target), target.stat().st_size)

    with ThreadPoolExecutor(settings.parallel) as pool:
        files = list(pool.map(fetch, remote))
    return build_manifest(files, first, stop)


def _of_period(
    found: Iterable[RemoteFile], first: np.datetime64, stop: np.datetime64
) -> list[RemoteFile]:
    """Return entries whose name starts in the period: a search returns whatever overlaps it."""
    kept: dict[str, RemoteFile] = {}
    for remote in found:
        try:
            start = parse_name(remote.name).start_time
        except ValueError as error:
            _LOG.warning("passed over: %s", error)
            continue
        if first <= start < stop:
            kept[remote.name] = remote
    return [kept[name] for name in sorted(kept)]


def download_mascons(
    archive: Archive, settings: DownloadSettings, product: str, target: Path
) -> None:
    """Fetch the mascon file of a product.

    Parameters
    ----------
    archive
        Where the file comes from.
    settings
        Short name of the collection.
    product
        ``jpl``; the other products are not on Earthdata.
    target
        File to write.

    Raises
    ------
    UserError
        If the product is elsewhere, the collection is empty, or the transfer fails.
    """
    if product != "jpl":
        raise UserError(
            f"mascons: product {product} is not on Earthdata: fetch its file from its centre and "
            f"save it as {target}, or name it with source: local and local: mascons_file"
        )
    found = [
        remote
        for remote in archive.search(settings.mascons_short_name)
        if remote.name.endswith((".nc", ".nc4"))
    ]
    if not found:
        raise UserError(
            f"download: mascons_short_name: {settings.mascons_short_name} holds no NetCDF file"
        )
    # The collection holds one growing file; its name ends with its last months.
    newest = max(found, key=lambda remote: remote.name)
    problem = fetch_file(archive, newest, target)
    if problem is not None:
        raise UserError(f"{newest.name} was not fetched: {problem}")
    _LOG.info("fetched %s", newest.name)
