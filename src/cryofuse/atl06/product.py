"""ATL06 as an altimetry product: its beams, its file names, and its reader.

A granule is identified by its start time, reference ground track, cycle and orbit region. The
archive holds it in several releases and revisions; one file of each is used. It belongs to the
period that holds the start time of its name, whole: its last segments may be some minutes later.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from cryofuse.altimetry import GranuleName, Span, check_orbit

if TYPE_CHECKING:
    import pyarrow as pa

    from cryofuse.atl06.granule import Area
    from cryofuse.atl06.ledger import LedgerRow

BEAMS = ("gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r")
TITLE = "ATL06"
#: ``(processed_)ATL06_YYYYMMDDhhmmss_RRRRCCSS_VVV_RR.h5``; ATL06 user guide, section 1.2.5.
_NAME = re.compile(
    r"^(?P<subset>processed_)?ATL06_(?P<start>[0-9]{14})_(?P<rgt>[0-9]{4})(?P<cycle>[0-9]{2})"
    r"(?P<orbit_region>[0-9]{2})_(?P<release>[0-9]{3})_(?P<revision>[0-9]{2})\.h5$"
)


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
    rgt, cycle, orbit_region = (int(match[key]) for key in ("rgt", "cycle", "orbit_region"))
    check_orbit(text, rgt, orbit_region)
    subset = match["subset"] is not None
    return GranuleName(
        granule=text,
        start_time=time,
        end_time=time,
        rgt=rgt,
        cycle=cycle,
        orbit_region=orbit_region,
        release=match["release"],
        revision=match["revision"],
        subset=subset,
        identity=(str(time), rgt, cycle, orbit_region),
        rank=(int(match["release"]), int(match["revision"])),
    )


def read_granule(
    path: str | os.PathLike[str],
    columns: Iterable[str] | None = None,
    region: Area | None = None,
    period: Span | None = None,  # noqa: ARG001  a granule belongs to its period whole
) -> tuple[pa.Table, list[LedgerRow]]:
    """Return a granule's segments and ledger rows: :func:`cryofuse.atl06.granule.read_granule`."""
    from cryofuse.atl06 import granule

    return granule.read_granule(path, columns, region)
