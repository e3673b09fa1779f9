"""ATL11 as an altimetry product: its pair tracks, its file names, and its reader.

A file holds one reference ground track in one region of the orbit, over a range of cycles: one
file spans many periods and is listed in each of them. Of files of one track and region the one
of the highest release counts, then the one whose cycles reach farthest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from cryofuse.altimetry import TRACKS, GranuleName, Span, check_orbit

if TYPE_CHECKING:
    import pyarrow as pa

    from cryofuse.atl06.granule import Area
    from cryofuse.atl06.ledger import LedgerRow

#: Pair tracks, whose two beams ATL11 joins.
BEAMS = ("pt1", "pt2", "pt3")
TITLE = "ATL11"
#: ``ATL11_ttttss_c1c2_rrr_vv.h5``: track, region of the orbit, first and last cycle, release,
#: version; ATL11 user guide. The prototype writes ``_02_v002``.
_NAME = re.compile(
    r"^(?P<subset>processed_)?ATL11_(?P<rgt>[0-9]{4})(?P<orbit_region>[0-9]{2})_"
    r"(?P<first>[0-9]{2})(?P<last>[0-9]{2})_(?P<release>[0-9]{2,3})_(?P<revision>v?[0-9]{2,3})\.h5$"
)
#: Cycle 3, the first on the reference tracks, began on this day.
_THIRD_CYCLE = np.datetime64("2019-03-29", "us")
#: A cycle lasts 1 387 revolutions: 90.82 days between passes of one track, measured on cycles
#: 3 to 27 (time_coverage_start and _duration of a release 003 and a release 007 file).
_CYCLE = np.timedelta64(round(90.82 * 86_400e6), "us")
#: Passes lie nearer than this to the time that track and cycle say.
_MARGIN = np.timedelta64(10 * 86_400_000_000, "us")


def pass_time(rgt: int, cycle: int) -> np.datetime64:
    """Return about when a track was flown in a cycle (within a day or two)."""
    return np.datetime64(_THIRD_CYCLE + (cycle - 3) * _CYCLE + (rgt - 1) * _CYCLE // TRACKS)


def parse_name(name: str) -> GranuleName:
    """Return what an ATL11 file name says.

    Parameters
    ----------
    name
        File name, or a path whose last part is one.

    Raises
    ------
    ValueError
        If it is not the name of an ATL11 file, with the part that is wrong.
    """
    text = PurePath(name).name
    match = _NAME.match(text)
    if not match:
        raise ValueError(f"{text!r} is not an ATL11 name (ATL11_ttttss_c1c2_rrr_vv.h5)")
    rgt, orbit_region, first, last, release = (
        int(match[key]) for key in ("rgt", "orbit_region", "first", "last", "release")
    )
    check_orbit(text, rgt, orbit_region)
    if not 1 <= first <= last:
        raise ValueError(f"{text!r}: cycles {first} to {last} are no range")
    subset = match["subset"] is not None
    return GranuleName(
        granule=text,
        start_time=pass_time(rgt, first) - _MARGIN,
        end_time=pass_time(rgt, last) + _MARGIN,
        rgt=rgt,
        cycle=first,
        orbit_region=orbit_region,
        release=match["release"],
        revision=match["revision"],
        subset=subset,
        identity=(rgt, orbit_region),
        rank=(release, last, -first, int(match["revision"].removeprefix("v"))),
    )


def read_granule(
    path: str | os.PathLike[str],
    columns: Iterable[str] | None = None,
    region: Area | None = None,
    period: Span | None = None,
) -> tuple[pa.Table, list[LedgerRow]]:
    """Return a file's heights and ledger rows: :func:`cryofuse.atl11.granule.read_granule`."""
    from cryofuse.atl11 import granule

    return granule.read_granule(path, columns, region, period)
