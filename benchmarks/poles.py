"""The tiles with most segments: where tracks converge in Greenland, and where all of them turn."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from benchmarks import filtering, growth, jobs, scene
from benchmarks.measure import run_alone, time_repeats
from cryofuse.atl06.tiles import grow
from cryofuse.calendar import month_index
from cryofuse.config import RegionSettings
from cryofuse.geo import load_outline, project, tile_bounds, tile_name
from cryofuse.simulate import orbit
from cryofuse.simulate.orbit import BEAMS, REACH_M, SEGMENT_M
from cryofuse.tables import LEDGER, write_table

#: A place in each tile (m): 82° N in north Greenland, and the latitude where tracks turn.
PLACES = {
    "82° N": ("EPSG:3413", (150_000.0, -852_000.0)),
    "88° S": ("EPSG:3031", (214_000.0, 30_000.0)),
}
#: Steps along the orbit (degrees) where a tile is searched, and where a continent is.
FINE_STEP_DEG, COARSE_STEP_DEG = 0.008, 0.05

#: Bytes a segment takes on disk: in the filtered table, and scattered with its margins' copies.
BYTES_A_SEGMENT = 200
#: Share of the free disk that may be taken.
DISK_SHARE = 0.8

Box = tuple[float, float, float, float]


@cache
def _arguments(step: float, north: bool) -> np.ndarray:
    """Return the arguments of latitude of one polar half of the orbit (degrees)."""
    return np.arange(30.0, 150.0, step) + (0.0 if north else 180.0)


def orbit_paths(box: Box, crs: str) -> list[tuple[int, float, scene.Path]]:
    """Return the reference tracks over a box: track, argument of latitude at its first point, path.

    Parameters
    ----------
    box
        x_min, y_min, x_max, y_max (m).
    crs
        Its CRS, EPSG:3413 or EPSG:3031.
    """
    argument = _arguments(FINE_STEP_DEG, crs == "EPSG:3413")
    along = orbit.along_track(argument) / SEGMENT_M * scene.STEP_M
    x_min, y_min, x_max, y_max = box
    found = []
    for rgt in range(1, orbit.TRACKS + 1):
        x, y = project(*orbit.track_points(rgt, argument), crs)
        inside = (x >= x_min - REACH_M) & (x < x_max + REACH_M)
        inside &= (y >= y_min - REACH_M) & (y < y_max + REACH_M)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(np.int8), [0]])))
        for first, stop in edges.reshape(-1, 2):
            if stop - first >= 2:
                part = slice(first, stop)
                path = scene.Path(along[part], x[part], y[part])
                found.append((rgt, float(argument[first]), path))
    return found


def density_km2(box: Box, crs: str, months: int) -> float:
    """Return segments per square kilometre of the plane that a record leaves, none lost."""
    x_min, y_min, x_max, y_max = box
    length = 0.0
    for _, _, path in orbit_paths(box, crs):
        inside = (path.x_m >= x_min) & (path.x_m < x_max)
        inside &= (path.y_m >= y_min) & (path.y_m < y_max)
        length += inside.sum() * np.median(np.diff(path.along_m))
    cycles = months / scene.REPEAT_MONTHS
    per_m2 = length / scene.STEP_M * len(BEAMS) * cycles / ((x_max - x_min) * (y_max - y_min))
    return float(per_m2 * 1e6)


@cache
def clear_share() -> float:
    """Return the share of segments that stay: default density over what tracks would leave."""
    region = RegionSettings.model_validate(filtering.greenland())
    outline = load_outline(region)
    shapely.prepare(outline)
    argument = _arguments(COARSE_STEP_DEG, True)
    step_m = float(np.median(np.diff(orbit.along_track(argument))))
    length = 0.0
    for rgt in range(1, orbit.TRACKS + 1):
        x, y = project(*orbit.track_points(rgt, argument), region.crs)
        length += float(shapely.contains_xy(outline, x, y).sum()) * step_m
    cycles = scene.RECORD_MONTHS / scene.REPEAT_MONTHS
    per_km2 = length / SEGMENT_M * len(BEAMS) * cycles / outline.area * 1e6
    return scene.DEFAULT_DENSITY_KM2 / per_km2


def months_that_fit(density: float, tile_m: float, folder: str) -> int:
    """Return how many months of the record the disk has room for, at most all.

    Parameters
    ----------
    density
        Segments per square kilometre of the whole record.
    tile_m
        Side of the tile (m).
    folder
        Where the files go.
    """
    needed = density * (tile_m / 1000) ** 2 * BYTES_A_SEGMENT
    share = min(1.0, DISK_SHARE * shutil.disk_usage(folder).free / needed)
    return int(share * scene.RECORD_MONTHS)


def passes_by_month(
    paths: list[tuple[int, float, scene.Path]], months: int
) -> list[list[scene.Pass]]:
    """Return the passes of each month of a record: every track every 91 days, safe holds apart."""
    first = int(month_index(scene.FIRST_MONTH.astype("M8[us]")))
    passes: list[list[scene.Pass]] = [[] for _ in range(months)]
    for rgt, argument, path in paths:
        for cycle in range(1, months // scene.REPEAT_MONTHS + 3):
            seconds = float(orbit.node_seconds(rgt, cycle)) + argument / 360 * orbit.ORBIT_SECONDS
            start = orbit.seconds_to_time(seconds)[()]
            month = int(month_index(start)) - first
            if start >= orbit.FIRST_DATA and month < months and not orbit.in_safe_hold(start):
                passes[month].append(scene.Pass(path, rgt, cycle, start))
    return [sorted(found, key=lambda flown: flown.start) for found in passes]


def make_tile(folder: str, place: str, tile_m: float) -> dict[str, Any]:
    """Write the filtered segments of a tile and a ring about it, and a subset of one month."""
    crs, point = PLACES[place]
    tile = tile_name(*point, tile_m)
    bounds = tile_bounds(tile, tile_m)
    box = (bounds.x_min, bounds.y_min, bounds.x_max, bounds.y_max)
    ring = grow(box, scene.RING_M)
    share = clear_share()
    density = density_km2(box, crs, scene.RECORD_MONTHS) * share
    months = months_that_fit(density, tile_m, folder)
    flown = passes_by_month(orbit_paths(ring, crs), months)
    filtered = Path(folder) / "filtered"
    filtered.mkdir()

    def segments(survey: scene.Survey, month: int) -> Iterator[pa.Table]:
        for one in flown[month]:
            table = scene.observe(survey, one)
            if table.num_rows:
                yield table

    kept = scene.Survey(ring, crs, tile_m, clean=True, clear_share=share)
    for month in range(months):
        path = f"{filtered}/{growth.month_name(month)}.parquet"
        jobs.write_segments(segments(kept, month), path, tile_m)
    # The fullest month as the filter job gets it, clouds and all.
    fullest = max(range(months), key=lambda month: len(flown[month]))
    raw = scene.Survey(ring, crs, tile_m)
    jobs.write_segments(segments(raw, fullest), f"{folder}/subset.parquet", tile_m)
    write_table(LEDGER.empty(), f"{folder}/no_ledger.parquet", LEDGER)
    return {
        "tile": tile,
        "crs": crs,
        "box": box,
        "months": months,
        "density_km2": density,
        "relative_density": density / scene.DEFAULT_DENSITY_KM2,
        "kept_share": share,
        "segments": sum(pq.read_metadata(p).num_rows for p in filtered.iterdir()),
        "subset_month_segments": pq.read_metadata(f"{folder}/subset.parquet").num_rows,
    }


def filter_month(folder: str, region: dict[str, Any], tile_m: float) -> dict[str, Any]:
    """Return time and memory of the filter job on the tile's fullest month."""

    def job() -> None:
        jobs.filter_job(
            f"{folder}/subset.parquet",
            f"{folder}/no_ledger.parquet",
            f"{folder}/kept.parquet",
            f"{folder}/ledger.parquet",
            region,
            "2019-01",
            tile_m,
        )

    return time_repeats(job, 1)


def run(folder: str, scale: int) -> dict[str, Any]:
    """Return density, time and peak memory of the tile job and the filter job of each tile.

    Parameters
    ----------
    folder
        For the tables; each tile removes its own.
    scale
        How many times smaller than 100 km × 100 km a tile is.
    """
    tile_m = growth.scaled_tile_m(scale)
    places: dict[str, Any] = {}
    for number, place in enumerate(PLACES):
        inner = Path(folder) / f"{number}"
        inner.mkdir()
        made = run_alone(
            "poles:make_tile",
            folder=str(inner),
            place=place,
            tile_m=tile_m,
        )
        region = jobs.box_region(made.pop("box"), made["crs"])
        made["filter"] = run_alone(
            "poles:filter_month", folder=str(inner), region=region, tile_m=tile_m
        )
        made["fit"] = run_alone(
            "growth:fit_tile_alone",
            folder=str(inner),
            tile=made["tile"],
            region=region,
            elevation={"tile_m": tile_m},
            months=made["months"],
        )
        places[place] = made
        shutil.rmtree(inner)
    return {"tile_m": tile_m, "places": places}
