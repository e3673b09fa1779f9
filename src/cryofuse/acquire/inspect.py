"""Whether a file that came is what its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cryofuse.acquire.transfer import describe
from cryofuse.atl06.product import parse_name

#: The first segment of a granule comes up to eight minutes after the start in its name (real
#: granules of releases 001 to 006); a granule is a fourteenth of an orbit of 94 minutes.
_LATEST_START = np.timedelta64(15, "m")
_EARLIEST_START = np.timedelta64(-2, "s")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NETCDF3_SIGNATURE = b"CDF"


def inspect_granule(path: Path, name: str) -> str | None:
    """Return in one line why a file is not the ATL06 granule of a name, None if it is.

    Track, cycle, orbit region, release and start are compared where the file states them:
    subsets may lack them.

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
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        return f"it does not open as HDF5 ({describe(error)})"
    for what, (found, expected) in inside.items():
        if found is not None and found != expected:
            return f"its {what} is {found}, its name says {expected}"
    return _start_differs(start, said.start_time)


def _start_differs(text: str | None, expected: np.datetime64) -> str | None:
    """Return how the start that a file states differs from its name's, None if it does not."""
    if not text:
        return None
    try:
        start = np.datetime64(text.removesuffix("Z"), "us")
    except ValueError:
        return None
    if _EARLIEST_START <= start - expected <= _LATEST_START:
        return None
    return f"it starts at {text}, its name says {expected.astype('datetime64[s]')}"


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
    except OSError as error:
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
    if not isinstance(dataset, h5py.Dataset) or dataset.size == 0:
        return None
    return np.asarray(dataset[()]).reshape(-1)[0]


def _text(value: Any) -> str | None:
    """Return a padded byte string as text; None where there is none or it is blank."""
    if not isinstance(value, bytes | str):
        return None
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    return text.strip(" \0") or None
