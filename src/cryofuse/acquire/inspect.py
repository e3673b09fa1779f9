"""Whether a file that came is what its name says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cryofuse.acquire.transfer import describe
from cryofuse.atl06.product import BEAMS, parse_name

#: The first segment of a granule comes up to eight minutes after the start in its name (real
#: granules of releases 001 to 006); a granule is a fourteenth of an orbit of 94 minutes.
_LATEST_START = np.timedelta64(15, "m")
_EARLIEST_START = np.timedelta64(-2, "s")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NETCDF3_SIGNATURE = b"CDF"
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z?")
#: Characters of a file's own text that are looked at.
_TEXT_LENGTH = 40


def inspect_granule(path: Path, name: str) -> str | None:
    """Return in one line why a file is not the ATL06 granule of a name, None if it is.

    Track, cycle, orbit region, release and start are compared where the file states them:
    subsets may lack them, and beams. A file that has neither a beam nor one of these is none.

    Parameters
    ----------
    path
        File, under whatever name.
    name
        Name that it is to have.
    """
    try:
        said = parse_name(name)
    except ValueError as error:
        return str(error)
    if (problem := _no_hdf5(path)) is not None:
        return problem
    try:
        with h5py.File(path, "r", locking=False) as file:
            inside = {
                "track": (_first(file, "orbit_info/rgt"), said.rgt),
                "cycle": (_first(file, "orbit_info/cycle_number"), said.cycle),
                "orbit region": (_first(file, "ancillary_data/start_region"), said.orbit_region),
                "release": (_text(_first(file, "ancillary_data/release")), said.release),
            }
            start = _text(_first(file, "ancillary_data/data_start_utc"))
            has_beam = any(f"{beam}/land_ice_segments" in file for beam in BEAMS)
    except Exception as error:  # noqa: BLE001  h5py meets damage with errors of any kind
        return f"it does not open as HDF5 ({describe(error)})"
    for what, (found, expected) in inside.items():
        if found is not None and found != expected:
            return f"its {what} is {found}, its name says {expected}"
    time = _time(start)
    if time is not None and not _EARLIEST_START <= time - said.start_time <= _LATEST_START:
        return f"it starts at {start}, its name says {said.start_time.astype('datetime64[s]')}"
    if has_beam or time is not None or any(found is not None for found, _ in inside.values()):
        return None
    return "it holds nothing of an ATL06 granule"


def _time(text: str | None) -> np.datetime64 | None:
    """Return the time that a file states (UTC), None where it states none that can be read."""
    if not text or not _TIME.fullmatch(text):
        return None
    try:
        return np.datetime64(text.removesuffix("Z"), "us")
    except ValueError:
        return None


def inspect_grid(path: Path, name: str) -> str | None:  # noqa: ARG001  any name will do
    """Return in one line why a file is neither NetCDF nor HDF5, None if it is."""
    with path.open("rb") as stream:
        if stream.read(3) == _NETCDF3_SIGNATURE:
            return None
    if (problem := _no_hdf5(path)) is not None:
        return problem
    try:
        with h5py.File(path, "r", locking=False):
            return None
    except Exception as error:  # noqa: BLE001  as above
        return f"it does not open as HDF5 ({describe(error)})"


def _no_hdf5(path: Path) -> str | None:
    """Return what a file is that does not begin like HDF5, None if it does."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith(_HDF5_SIGNATURE):
        return None
    if not head:
        return "it is empty"
    if head.lstrip()[:1] == b"<":
        return "it is an HTML or XML page, not HDF5 (a log-in page?)"
    return "it is not HDF5"


def _first(file: h5py.File, place: str) -> Any:
    """Return the first value of a dataset, None where there is none."""
    dataset = file.get(place)
    if not isinstance(dataset, h5py.Dataset) or not dataset.size:
        return None
    return dataset[(0,) * dataset.ndim]


def _text(value: Any) -> str | None:
    """Return a padded byte string as one line; None where there is none or it is blank."""
    if not isinstance(value, bytes | str):
        return None
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    text = text.strip(" \0")[:_TEXT_LENGTH]
    return "".join(letter if letter.isprintable() else "?" for letter in text) or None
