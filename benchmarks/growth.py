"""(d) How time and peak memory grow with the number of segments: by area, months and density."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import granules, jobs, scene
from benchmarks.measure import growth_exponent, run_alone, time_repeats
from cryofuse.geo import tile_name
from cryofuse.tables import LEDGER, write_table

AXES = ("area", "months", "density")
FACTORS = (1, 2, 4, 8)
TILE_M = 100_000.0
#: South-western corner of the surveys (m, EPSG:3413): the middle of Greenland.
CORNER_M = (0.0, -2_000_000.0)
CRS = "EPSG:3413"
#: Columns and rows of tiles by which the area grows.
AREAS = {1: (1, 1), 2: (1, 2), 4: (2, 2), 8: (2, 4)}
#: Months of default density that put 10⁷ segments into one tile, and into three.
TILE_MONTHS, THREE_TILES_MONTHS = 51, 18
#: Full-size granules of the smallest subset job: more rows than it holds in memory.
GRANULES = 5


@dataclass(frozen=True)
class Case:
    """Segments of a case: tiles, months, months in a file, and multiple of the default density."""

    columns: int
    rows: int
    months: int
    block: int
    density: float
    tile_m: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Return the square of the tiles (m), on the grid of tiles whatever their size."""
        west, south = (math.floor(value / self.tile_m) * self.tile_m for value in CORNER_M)
        return west, south, west + self.columns * self.tile_m, south + self.rows * self.tile_m

    @property
    def tiles(self) -> list[str]:
        """Return the names of the tiles."""
        west, south, _, _ = self.box
        return [
            tile_name(west + (i + 0.5) * self.tile_m, south + (j + 0.5) * self.tile_m, self.tile_m)
            for i in range(self.columns)
            for j in range(self.rows)
        ]

    @property
    def periods(self) -> dict[str, range]:
        """Return the months of each file, named after its first."""
        starts = range(0, self.months, self.block)
        return {
            month_name(start): range(start, min(start + self.block, self.months))
            for start in starts
        }


def case_of(axis: str, factor: int, tile_m: float) -> Case:
    """Return the case of so many times 10⁷ segments, grown along an axis.

    Files of a year and of a quarter hold more than a filter job takes at a time, as a month of
    Greenland does; where tracks grow denser a file is the default month.
    """
    if axis == "area":
        return Case(*AREAS[factor], TILE_MONTHS, 12, 1.0, tile_m)
    if axis == "months":
        return Case(1, 3, THREE_TILES_MONTHS * factor, 3, 1.0, tile_m)
    return Case(1, 1, TILE_MONTHS, 1, float(factor), tile_m)


def scaled_tile_m(scale: int) -> float:
    """Return the side (m) of a tile with so many times fewer segments, in whole kilometres."""
    return round(TILE_M / math.sqrt(scale) / 1000) * 1000.0


def month_name(month: int) -> str:
    """Return a month counted from the first of the record."""
    return str(scene.FIRST_MONTH + month)


def make_subset(folder: str, case: dict[str, Any]) -> dict[str, Any]:
    """Write the subsets of a case, file by file, and an empty ledger."""
    whole = Case(**case)
    survey = scene.Survey(whole.box, CRS, whole.tile_m, whole.density)
    place = Path(folder) / "subset"
    place.mkdir()

    def segments(months: range) -> Iterator[pa.Table]:
        for month in months:
            yield from scene.segments_of(survey, month)

    for period, months in whole.periods.items():
        jobs.write_segments(segments(months), f"{place}/{period}.parquet", whole.tile_m)
    write_table(LEDGER.empty(), f"{folder}/no_ledger.parquet", LEDGER)
    return {}


def _count(folder: str, periods: dict[str, range]) -> int:
    """Return the rows of the files of some periods."""
    return sum(pq.read_metadata(f"{folder}/{period}.parquet").num_rows for period in periods)


def filter_all(folder: str, case: dict[str, Any]) -> dict[str, Any]:
    """Return the time of all filter jobs of a case, one after the other."""
    whole = Case(**case)
    region = jobs.box_region(whole.box, CRS)
    (Path(folder) / "filtered").mkdir()

    def job(period: str) -> None:
        jobs.filter_job(
            f"{folder}/subset/{period}.parquet",
            f"{folder}/no_ledger.parquet",
            f"{folder}/filtered/{period}.parquet",
            f"{folder}/ledger.parquet",
            region,
            period,
            whole.tile_m,
        )

    def every_job() -> None:
        for period in whole.periods:
            job(period)

    # Once untimed: what is imported when it is first needed.
    job(min(whole.periods))
    times = time_repeats(every_job, 1)
    return times | {"rows": _count(f"{folder}/filtered", whole.periods)}


def fit_tile_alone(
    folder: str,
    tile: str,
    region: dict[str, Any],
    elevation: dict[str, Any],
    months: int,
) -> dict[str, Any]:
    """Return the time of one tile job on the filtered tables of a folder."""
    period = {"start": month_name(0), "end": month_name(months - 1)}
    paths = [str(path) for path in sorted((Path(folder) / "filtered").iterdir())]
    # A tile without segments loads all that is compiled and imported.
    jobs.tile_job([], tile, folder, region, period, elevation)
    nodes = 0

    def job() -> None:
        nonlocal nodes
        nodes = jobs.tile_job(paths, tile, folder, region, period, elevation)

    times = time_repeats(job, 1)
    return times | {"nodes": nodes}


def measure_case(folder: str, case: Case) -> dict[str, Any]:
    """Return time and memory of the filter jobs and the tile jobs of a case, from its subsets."""
    region = jobs.box_region(case.box, CRS)
    filtered = run_alone("growth:filter_all", folder=folder, case=vars(case))
    tiles = [
        run_alone(
            "growth:fit_tile_alone",
            folder=folder,
            tile=tile,
            region=region,
            elevation={"tile_m": case.tile_m},
            months=case.months,
        )
        for tile in case.tiles
    ]
    shutil.rmtree(Path(folder) / "filtered")
    return {
        "segments": _count(f"{folder}/subset", case.periods),
        "extent": f"{len(tiles)} tiles, {case.months} months, {case.density:g} × density, "
        f"{case.block} months a file",
        "filter": filtered,
        "fit": {
            "nodes": sum(tile["nodes"] for tile in tiles),
            "cpu_s": sum(tile["cpu_s"] for tile in tiles),
            "wall_s": sum(tile["wall_s"] for tile in tiles),
            # The largest job is what a machine must hold.
            "peak_mb": max(tile["peak_mb"] for tile in tiles),
        },
    }


def exponents(cases: list[dict[str, Any]], stages: tuple[str, ...]) -> dict[str, Any]:
    """Return exponents of growth with segments, of each stage's CPU time and peak and of all."""
    sizes = [case["segments"] for case in cases]
    found = {
        stage: {
            "time": growth_exponent(sizes, [case[stage]["cpu_s"] for case in cases]),
            "memory": growth_exponent(sizes, [case[stage]["peak_mb"] for case in cases]),
        }
        for stage in stages
    }
    if len(stages) == 1:
        return found
    total = [sum(case[stage]["cpu_s"] for stage in stages) for case in cases]
    largest = [max(case[stage]["peak_mb"] for stage in stages) for case in cases]
    found["all"] = {
        "time": growth_exponent(sizes, total),
        "memory": growth_exponent(sizes, largest),
    }
    return found


def measure_axis(folder: str, axis: str, tile_m: float) -> list[dict[str, Any]]:
    """Return measured cases of 1, 2, 4 and 8 times 10⁷ segments along an axis."""
    cases = []
    subset = Path(folder) / "subset"
    if axis == "months":
        # Shorter records are the beginning of the longest.
        longest = case_of(axis, max(FACTORS), tile_m)
        run_alone("growth:make_subset", folder=folder, case=vars(longest))
    for factor in FACTORS:
        began = time.perf_counter()
        case = case_of(axis, factor, tile_m)
        if axis != "months":
            run_alone("growth:make_subset", folder=folder, case=vars(case))
        cases.append(measure_case(folder, case))
        if axis != "months":
            shutil.rmtree(subset)
        print(f"  {axis} × {factor}: {time.perf_counter() - began:.0f} s", flush=True)
    return cases


def measure_granules(folder: str, segments: int) -> list[dict[str, Any]]:
    """Return the subset job on 1, 2, 4 and 8 times some full-size granules."""
    cases = []
    for factor in FACTORS:
        copies = GRANULES * factor
        run_alone("filtering:prepare", folder=folder, segments=segments, copies=copies)
        subset = run_alone("filtering:measure", folder=folder, job="subset", repeats=1)
        extent = f"{copies} granules"
        cases.append({"extent": extent, "segments": 6 * segments * copies, "subset": subset})
    return cases


def run(folder: str, scale: int, axes: tuple[str, ...] = (*AXES, "granules")) -> dict[str, Any]:
    """Return measured cases and exponents of growth along every axis.

    Parameters
    ----------
    folder
        For the tables; each axis removes its own.
    scale
        How many times fewer segments than at full size: tiles are so much smaller.
    axes
        Axes to measure.
    """
    tile_m = scaled_tile_m(scale)
    found: dict[str, Any] = {}
    for axis in axes:
        place = Path(folder) / axis
        place.mkdir()
        if axis == "granules":
            cases = measure_granules(str(place), granules.FULL_SEGMENTS // scale)
            stages: tuple[str, ...] = ("subset",)
        else:
            cases = measure_axis(str(place), axis, tile_m)
            stages = ("filter", "fit")
        found[axis] = {"cases": cases, "exponents": exponents(cases, stages)}
        shutil.rmtree(place)
    return {"tile_m": tile_m, "axes": found}
