"""(d) How time and peak memory grow with the number of segments: by area, months and density."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import filtering, granules, jobs, scene
from benchmarks.measure import growth_exponent, run_alone, time_repeats
from cryofuse.geo import tile_name
from cryofuse.tables import LEDGER, SEGMENTS, write_table

FACTORS = (1, 2, 4, 8)
TILE_M = 100_000.0
#: South-western corner of the surveys (m, EPSG:3413): the middle of Greenland.
CORNER_M = (0.0, -2_000_000.0)
CRS = "EPSG:3413"
#: Columns and rows of tiles by which the area grows.
AREAS = {1: (1, 1), 2: (1, 2), 4: (2, 2), 8: (2, 4)}
#: Months of default density that put 10⁷ segments into one tile, and into three.
TILE_MONTHS, THREE_TILES_MONTHS = 51, 17
#: Full-size granules of the smallest subset job: more rows than it holds in memory.
GRANULES = 5


@dataclass(frozen=True)
class Case:
    """What one job chain is run on."""

    columns: int
    rows: int
    months: int
    density: float
    tile_m: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Return the square of the tiles (m)."""
        # On the grid of tiles, whatever their size.
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


def case_of(axis: str, factor: int, tile_m: float) -> Case:
    """Return the case of so many times 10⁷ segments, grown along an axis."""
    if axis == "area":
        return Case(*AREAS[factor], TILE_MONTHS, 1.0, tile_m)
    if axis == "months":
        return Case(1, 3, THREE_TILES_MONTHS * factor, 1.0, tile_m)
    return Case(1, 1, TILE_MONTHS, float(factor), tile_m)


def period_of(month: int) -> str:
    """Return the period of a month, counted from the first of the record."""
    return str(scene.FIRST_MONTH + month)


def write_sorted(table: pa.Table, tiles: list[str], path: Path) -> int:
    """Write a month's segments as subset jobs do: a row group for each tile, tiles by name.

    Returns the number of rows written: those in the tiles named.
    """
    names = table.column("tile").combine_chunks()
    codes = {name: code for code, name in enumerate(names.dictionary.to_pylist())}
    written = 0
    with pq.ParquetWriter(path, SEGMENTS.schema, compression="zstd") as writer:
        for tile in sorted(set(tiles) & set(codes)):
            part = table.filter(pc.equal(names.indices, codes[tile]))
            writer.write_table(part, row_group_size=max(part.num_rows, 1))
            written += part.num_rows
    return written


def make_subset(folder: str, axis: str, factors: list[int], tile_m: float) -> dict[str, Any]:
    """Write monthly subsets of the cases of an axis that share their segments.

    The largest case is flown, month by month; smaller areas take part of its tiles.
    """
    cases = {factor: case_of(axis, factor, tile_m) for factor in factors}
    largest = cases[max(factors)]
    survey = scene.Survey(largest.box, CRS, tile_m, largest.density)
    rows = dict.fromkeys(factors, 0)
    for factor in factors:
        (Path(folder) / f"{factor}").mkdir()
    for month in range(largest.months):
        tables = [SEGMENTS.empty(), *scene.segments_of(survey, month)]
        table = pa.concat_tables(tables).unify_dictionaries()
        for factor, case in cases.items():
            if month < case.months:
                path = Path(folder) / f"{factor}" / f"{period_of(month)}.parquet"
                rows[factor] += write_sorted(table, case.tiles, path)
    write_table(LEDGER.empty(), f"{folder}/no_ledger.parquet", LEDGER)
    return {"rows": {str(factor): count for factor, count in rows.items()}}


def filter_all(folder: str, factor: int, case: dict[str, Any]) -> dict[str, Any]:
    """Return the time of all filter jobs of a case, one after the other."""
    whole = Case(**case)
    region = jobs.box_region(whole.box, CRS)
    target = Path(folder) / "filtered"
    target.mkdir()

    def job(month: int) -> None:
        period = period_of(month)
        jobs.filter_job(
            f"{folder}/{factor}/{period}.parquet",
            f"{folder}/no_ledger.parquet",
            f"{target}/{period}.parquet",
            f"{folder}/ledger.parquet",
            region,
            period,
        )

    job(0)

    def every_job() -> None:
        for month in range(whole.months):
            job(month)

    kept = {"cpu_s": 0.0} | time_repeats(every_job, 1)
    files = sorted(target.iterdir())
    return kept | {
        "rows": sum(pq.read_metadata(p).num_rows for p in files),
        "largest_row_group": max(
            pq.read_metadata(p).row_group(g).num_rows
            for p in files
            for g in range(pq.read_metadata(p).num_row_groups)
        ),
    }


def fit_tile_alone(
    folder: str,
    tile: str,
    region: dict[str, Any],
    elevation: dict[str, Any],
    last_month: int,
) -> dict[str, Any]:
    """Return the time of one tile job on the filtered tables of a folder."""
    period = {"start": period_of(0), "end": period_of(last_month)}
    paths = [str(path) for path in sorted((Path(folder) / "filtered").iterdir())]
    # A tile without segments loads all that is compiled and imported.
    jobs.tile_job([], tile, folder, region, period, elevation)
    nodes = 0

    def job() -> None:
        nonlocal nodes
        nodes = jobs.tile_job(paths, tile, folder, region, period, elevation)

    times = time_repeats(job, 1)
    return times | {"nodes": nodes}


def measure_case(folder: str, axis: str, factor: int, tile_m: float, rows: int) -> dict[str, Any]:
    """Return time and memory of the filter jobs and the tile jobs of a case."""
    case = case_of(axis, factor, tile_m)
    region = jobs.box_region(case.box, CRS)
    source = factor if (Path(folder) / f"{factor}").is_dir() else max(FACTORS)
    filtered = run_alone("growth:filter_all", folder=folder, factor=source, case=vars(case))
    tiles = [
        run_alone(
            "growth:fit_tile_alone",
            folder=folder,
            tile=tile,
            region=region,
            elevation={"tile_m": tile_m},
            last_month=case.months - 1,
        )
        for tile in case.tiles
    ]
    shutil.rmtree(Path(folder) / "filtered")
    return {
        "segments": rows,
        "tiles": len(tiles),
        "months": case.months,
        "density": case.density,
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
    """Return exponents of growth of each stage's CPU time and peak memory with segments."""
    sizes = [case["segments"] for case in cases]
    found = {
        stage: {
            "time": growth_exponent(sizes, [case[stage]["cpu_s"] for case in cases]),
            "memory": growth_exponent(sizes, [case[stage]["peak_mb"] for case in cases]),
        }
        for stage in stages
    }
    if len(stages) > 1:
        total = [sum(case[stage]["cpu_s"] for stage in stages) for case in cases]
        found["all"] = {"time": growth_exponent(sizes, total)}
    return found


def measure_axis(folder: str, axis: str, tile_m: float) -> list[dict[str, Any]]:
    """Return measured cases of 1, 2, 4 and 8 times 10⁷ segments along an axis."""
    cases = []
    # Growing months only lengthens a record, growing areas only adds tiles to it; denser tracks
    # are other segments.
    shared = {"area": [list(FACTORS)], "months": [[8]], "density": [[f] for f in FACTORS]}
    for factors in shared[axis]:
        made = run_alone(
            "growth:make_subset", folder=folder, axis=axis, factors=factors, tile_m=tile_m
        )
        for factor in FACTORS if axis == "months" else factors:
            case = case_of(axis, factor, tile_m)
            rows = made["rows"].get(str(factor)) or _rows_of(folder, case.months)
            began = time.perf_counter()
            cases.append(measure_case(folder, axis, factor, tile_m, rows))
            print(f"  {axis} × {factor}: {time.perf_counter() - began:.0f} s", flush=True)
        for factor in factors:
            shutil.rmtree(Path(folder) / f"{factor}")
    return cases


def _rows_of(folder: str, months: int) -> int:
    """Return the rows of the first months of the longest record."""
    return sum(
        pq.read_metadata(f"{folder}/{max(FACTORS)}/{period_of(month)}.parquet").num_rows
        for month in range(months)
    )


def measure_granules(folder: str, segments: int) -> list[dict[str, Any]]:
    """Return the subset job on 1, 2, 4 and 8 times some full-size granules."""
    cases = []
    for factor in FACTORS:
        copies = GRANULES * factor
        run_alone("filtering:prepare", folder=folder, segments=segments, copies=copies)
        subset = run_alone("filtering:measure", folder=folder, job="subset", repeats=1)
        cases.append(
            {"granules": copies, "segments": 6 * segments * copies, "subset": subset}
        )
    return cases


def run(folder: str, scale: int) -> dict[str, Any]:
    """Return measured cases and exponents of growth along every axis.

    Parameters
    ----------
    folder
        For the tables; each axis removes its own.
    scale
        How many times fewer segments than at full size: tiles are so much smaller.
    """
    tile_m = round(TILE_M / math.sqrt(scale) / 1000) * 1000.0
    result: dict[str, Any] = {"tile_m": tile_m}
    for axis in ("area", "months", "density"):
        place = Path(folder) / axis
        place.mkdir()
        cases = measure_axis(str(place), axis, tile_m)
        result[axis] = {"cases": cases, "exponents": exponents(cases, ("filter", "fit"))}
        shutil.rmtree(place)
    place = Path(folder) / "granules"
    place.mkdir()
    cases = measure_granules(str(place), granules.FULL_SEGMENTS // scale)
    result["granules"] = {"cases": cases, "exponents": exponents(cases, ("subset",))}
    shutil.rmtree(place)
    return result
