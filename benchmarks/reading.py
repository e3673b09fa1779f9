"""(a) Reading a granule against plain h5py for the same datasets: whole, and a region of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks import granules
from benchmarks.measure import ROOT, run_alone, time_repeats
from cryofuse.atl06 import Area, read_granule
from cryofuse.config import RegionSettings
from cryofuse.geo import load_outline
from cryofuse.simulate.orbit import BEAMS
from cryofuse.tables import SEGMENTS

#: Columns that stand in the file; the others (tile and position) follow from a projection.
STORED_COLUMNS = [name for name in SEGMENTS.columns if name not in ("tile", "x_m", "y_m")]
#: Share of a granule that the region covers.
REGION_SHARE = 0.05
#: Segments a beam of a small granule.
SMALL_SEGMENTS = 2000
REPEATS = 7

Box = tuple[float, float, float, float]


def read_plain(path: str) -> dict[str, dict[str, np.ndarray]]:
    """Return a granule's datasets whole."""
    with h5py.File(path) as file:
        return {
            beam: {name: file[f"{beam}/land_ice_segments/{name}"][:] for name in granules.DATASETS}
            for beam in BEAMS
        }


def _inside(longitude: np.ndarray, latitude: np.ndarray, box: Box) -> np.ndarray:
    west, south, east, north = box
    return (longitude >= west) & (longitude <= east) & (latitude >= south) & (latitude <= north)


def read_and_mask(path: str, box: Box) -> dict[str, dict[str, np.ndarray]]:
    """Return a granule's rows in a box, from datasets read whole."""
    beams = read_plain(path)
    for columns in beams.values():
        inside = _inside(columns["longitude"], columns["latitude"], box)
        for name, values in columns.items():
            columns[name] = values[inside]
    return beams


def read_positions_first(path: str, box: Box) -> dict[str, dict[str, np.ndarray]]:
    """Return a granule's rows in a box: positions whole, then only the rows from first to last."""
    beams: dict[str, dict[str, np.ndarray]] = {}
    with h5py.File(path) as file:
        for beam in BEAMS:
            group = file[f"{beam}/land_ice_segments"]
            longitude, latitude = group["longitude"][:], group["latitude"][:]
            rows = np.flatnonzero(_inside(longitude, latitude, box))
            first, last = (rows[0], rows[-1] + 1) if rows.size else (0, 0)
            pick = rows - first
            beams[beam] = {name: group[name][first:last][pick] for name in granules.DATASETS}
            beams[beam] |= {"longitude": longitude[rows], "latitude": latitude[rows]}
    return beams


def _count(beams: dict[str, dict[str, np.ndarray]]) -> int:
    return sum(columns["latitude"].size for columns in beams.values())


def region_box(path: str) -> Box:
    """Return a box of longitude and latitude that holds the middle part of a granule's rows."""
    with h5py.File(path) as file:
        latitude = np.concatenate([file[f"{b}/land_ice_segments/latitude"][:] for b in BEAMS])
        longitude = np.concatenate([file[f"{b}/land_ice_segments/longitude"][:] for b in BEAMS])
    south, north = np.quantile(latitude, [0.5 - REGION_SHARE / 2, 0.5 + REGION_SHARE / 2])
    near = (latitude >= south) & (latitude <= north)
    west, east = longitude[near].min() - 1.0, longitude[near].max() + 1.0
    return float(west), float(south), float(east), float(north)


def measure(path: str, how: str, repeats: int) -> dict[str, Any]:
    """Return time and rows of one way to read a granule."""
    box = region_box(path)
    west, south, east, north = box
    outline = {"west": west, "south": south, "east": east, "north": north}
    region = RegionSettings(title="Part", crs="EPSG:3413", outline=outline)
    area = Area(load_outline(region), region.crs, 100_000.0)
    ways = {
        "plain": lambda: _count(read_plain(path)),
        "stored": lambda: read_granule(path, columns=STORED_COLUMNS)[0].num_rows,
        "default": lambda: read_granule(path)[0].num_rows,
        "region plain": lambda: _count(read_and_mask(path, box)),
        "region positions first": lambda: _count(read_positions_first(path, box)),
        "region stored": lambda: read_granule(path, STORED_COLUMNS, area)[0].num_rows,
        "region default": lambda: read_granule(path, region=area)[0].num_rows,
    }
    # The first call also fills the page cache and whatever is prepared once in a process.
    rows = ways[how]()
    return {"rows": rows} | time_repeats(ways[how], repeats)


def prepare(folder: str, segments: int) -> dict[str, Any]:
    """Write the granules to be read, and compare their storage with real ones where present."""
    full = granules.write_granule(folder, segments)
    (Path(folder) / "small").mkdir()
    small = granules.write_granule(f"{folder}/small", min(SMALL_SEGMENTS, segments))
    result = {
        "full": str(full),
        "small": str(small),
        "file_mb": full.stat().st_size / 1e6,
        "bytes_per_row": granules.stored_bytes(str(full)),
    }
    # The largest real files: in small ones half-empty chunks count more than values.
    real = ROOT / os.environ.get("CRYOFUSE_REAL_DATA", "../shared/real") / "atl06"
    files = [p for p in sorted(real.glob("*.h5")) if _rows(p) > 15_000]
    parts = [granules.stored_bytes(str(p)) for p in files]
    names = {name for part in parts for name in part}
    result["real_bytes_per_row"] = {
        name: sum(p[name] for p in parts if name in p) / sum(name in p for p in parts)
        for name in sorted(names)
    }
    return result


def _rows(path: Path) -> int:
    with h5py.File(path) as file:
        places = [f"{beam}/land_ice_segments/latitude" for beam in BEAMS]
        return sum(file[place].shape[0] for place in places if place in file)


def run(folder: str, scale: int) -> dict[str, Any]:
    """Return times of every way to read, and how much faster the reader is.

    Parameters
    ----------
    folder
        For the granules.
    scale
        How many times smaller than full size.
    """
    made = run_alone("reading:prepare", folder=folder, segments=granules.FULL_SEGMENTS // scale)
    result: dict[str, Any] = {
        "segments_per_beam": granules.FULL_SEGMENTS // scale,
        "region_share": REGION_SHARE,
        **{name: made[name] for name in ("file_mb", "bytes_per_row", "real_bytes_per_row")},
    }
    ways = (
        "plain", "stored", "default", "region plain", "region positions first", "region stored",
        "region default",
    )  # fmt: skip
    for size, hows in (("full", ways), ("small", ways[:3])):
        times = {}
        for how in hows:
            times[how] = run_alone("reading:measure", path=made[size], how=how, repeats=REPEATS)
        result[size] = times
    return result
