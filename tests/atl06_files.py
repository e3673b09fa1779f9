"""Small ATL06 granules for tests of transfers: what a name says, and some bytes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np

_START = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)


def granule_name(number: int = 0, release: str = "007", revision: int = 1) -> str:
    """The name of the granule of a day."""
    start = _START + timedelta(days=number)
    return f"ATL06_{start:%Y%m%d%H%M%S}_{number + 123:04d}0603_{release}_{revision:02d}.h5"


def write_granule(folder: Path, number: int = 0, n_bytes: int = 40_000, **inside) -> Path:
    """Write the granule of a day, of random content; what it states of itself may be changed."""
    path = folder / granule_name(number)
    start = _START + timedelta(days=number, seconds=30)
    told = {
        "orbit_info/rgt": np.array([number + 123], "i2"),
        "orbit_info/cycle_number": np.array([6], "i1"),
        "ancillary_data/start_region": np.array([3], "i4"),
        "ancillary_data/release": np.array([b"007".ljust(80)]),
        "ancillary_data/data_start_utc": np.array([f"{start:%Y-%m-%dT%H:%M:%S}.123456Z".encode()]),
    } | inside
    with h5py.File(path, "w") as file:
        for place, value in told.items():
            if value is not None:
                file[place] = value
        noise = np.random.default_rng(number).bytes(n_bytes)
        file["noise"] = np.frombuffer(noise, "u1")
    return path
