"""Granule names, and the manifest: which files a period has and which of them count.

A granule is identified by its start time, reference ground track, cycle and orbit region.
The archive holds it in several releases and revisions; one file of each is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import pyarrow as pa

from cryofuse.calendar import TIME_DTYPE
from cryofuse.tables import MANIFEST

#: ``(processed_)ATL06_YYYYMMDDhhmmss_RRRRCCSS_VVV_RR.h5``; ATL06 user guide, section 1.2.5.
_NAME = re.compile(
    r"^(?P<subset>processed_)?ATL06_(?P<start>[0-9]{14})_(?P<rgt>[0-9]{4})(?P<cycle>[0-9]{2})"
    r"(?P<orbit_region>[0-9]{2})_(?P<release>[0-9]{3})_(?P<revision>[0-9]{2})\.h5$"
)
#: Reference ground tracks of the repeat orbit.
TRACKS = 1387
#: Regions into which an orbit is cut.
ORBIT_REGIONS = 14


@dataclass(frozen=True)
class GranuleName:
    """What the name of an ATL06 file says."""

    granule: str
    start_time: np.datetime64
    rgt: int
    cycle: int
    orbit_region: int
    release: str
    revision: str
    subset: bool

    @property
    def identity(self) -> tuple[str, int, int, int]:
        """Return what all releases of one granule share: start, track, cycle, orbit region."""
        return str(self.start_time), self.rgt, self.cycle, self.orbit_region


@dataclass(frozen=True)
class GranuleFile:
    """A file of a granule: where it is, its size (bytes), and why it could not be had."""

    path: str
    size_bytes: int | None = None
    reason: str | None = None


def parse_name(name: str) -> GranuleName:
    """Return what an ATL06 file name says.

    Parameters
    ----------
    name
        File name, or a path whose last part is one.

    Raises
    ------
    ValueError
        If it is not the name of an ATL06 granule, with the part that is wrong.
    """
    text = PurePath(name).name
    match = _NAME.match(text)
    if not match:
        raise ValueError(f"{text!r} is not an ATL06 name (ATL06_YYYYMMDDhhmmss_RRRRCCSS_VVV_RR.h5)")
    start = match["start"]
    try:
        time = np.datetime64(
            f"{start[:4]}-{start[4:6]}-{start[6:8]}T{start[8:10]}:{start[10:12]}:{start[12:]}", "us"
        )
    except ValueError:
        raise ValueError(f"{text!r}: {start} is not a date and time") from None
    rgt, orbit_region = int(match["rgt"]), int(match["orbit_region"])
    if not 1 <= rgt <= TRACKS:
        raise ValueError(f"{text!r}: reference ground track {rgt} is not in 1–{TRACKS}")
    if not 1 <= orbit_region <= ORBIT_REGIONS:
        raise ValueError(f"{text!r}: orbit region {orbit_region} is not in 1–{ORBIT_REGIONS}")
    return GranuleName(
        granule=text,
        start_time=time,
        rgt=rgt,
        cycle=int(match["cycle"]),
        orbit_region=orbit_region,
        release=match["release"],
        revision=match["revision"],
        subset=match["subset"] is not None,
    )


def build_manifest(
    files: Iterable[GranuleFile], first: np.datetime64, stop: np.datetime64
) -> pa.Table:
    """Return the manifest of a period: its files by name, the ones replaced marked so.

    A granule belongs to the period that holds the start time of its name, whole: its last
    segments may be some minutes later.

    Of several files of one granule the highest release counts, then the highest revision.
    Where both are equal a file that could be had goes before one that could not, the whole
    granule before a subset, then the larger file, then the first path.

    Parameters
    ----------
    files
        Files with ATL06 names, in any order.
    first, stop
        The period: first instant, and first instant after it.

    Returns
    -------
    pyarrow.Table
        Of contract MANIFEST, sorted by granule and path.

    Raises
    ------
    ValueError
        If a name is not one of an ATL06 granule.
    """
    named = [(parse_name(file.path), file) for file in files]
    named = [(name, file) for name, file in named if first <= name.start_time < stop]
    named.sort(key=lambda pair: (pair[0].granule, pair[1].path))
    best: dict[tuple[str, int, int, int], tuple[GranuleName, GranuleFile]] = {}
    for pair in named:
        known = best.get(pair[0].identity)
        if known is None or _rank(*pair) > _rank(*known):
            best[pair[0].identity] = pair
    rows = []
    for name, file in named:
        kept_name, kept = best[name.identity]
        replaced = kept.path != file.path
        rows.append(
            {
                "granule": name.granule,
                "path": file.path,
                "size_bytes": file.size_bytes,
                "start_time": name.start_time.astype(TIME_DTYPE).item(),
                "rgt": name.rgt,
                "cycle": name.cycle,
                "orbit_region": name.orbit_region,
                "release": name.release,
                "revision": name.revision,
                "superseded_by": kept_name.granule if replaced else None,
                "reason": _why(name, kept_name) if replaced else file.reason,
            }
        )
    return pa.Table.from_pylist(rows, schema=MANIFEST.schema)


def _rank(name: GranuleName, file: GranuleFile) -> tuple[int, int, bool, bool, int]:
    """Return what decides between two files of one granule; on a tie the first path stays."""
    return (
        int(name.release),
        int(name.revision),
        file.reason is None,
        not name.subset,
        file.size_bytes or 0,
    )


def _why(name: GranuleName, kept: GranuleName) -> str:
    if (name.release, name.revision) == (kept.release, kept.revision):
        return (
            f"another file of the same granule, release {name.release} and revision "
            f"{name.revision} is used"
        )
    return f"release {kept.release} revision {kept.revision} of the same granule is used"


def equal_copies(manifest: pa.Table) -> list[str]:
    """Return granules that lie in more than one file of the same release and revision.

    Such files may be copies, or subsets of different places of which only one is used: the
    user is told.
    """
    rows = manifest.select(["granule", "superseded_by"]).to_pylist()
    return sorted(
        {
            row["granule"]
            for row in rows
            if row["superseded_by"]
            and row["granule"].removeprefix("processed_")
            == row["superseded_by"].removeprefix("processed_")
        }
    )
