"""(e) The time that 2.5·10⁹ segments take on two cores, from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import filtering, growth, jobs, scene
from benchmarks.measure import run_alone
from cryofuse.atl06.tiles import grow
from cryofuse.config import RegionSettings
from cryofuse.geo import list_tiles, load_outline

SEGMENTS, CORES, GOAL_HOURS = 2.5e9, 2, 2.0
#: What a job costs before its first line: Snakemake and Python with the scientific stack (s).
JOB_START_S = 2.0
#: A node asks for more segments than there are, so that nothing is fitted.
NO_FITS = {"min_segments": 10**12}


def tile_case(tile_m: float) -> growth.Case:
    """Return a tile with a full record at the default density, a file a month."""
    return growth.Case(1, 1, scene.RECORD_MONTHS, 1, 1.0, tile_m)


def make_tile(folder: str, tile_m: float) -> dict[str, Any]:
    """Write filtered segments of a tile and a ring about it."""
    case = tile_case(tile_m)
    survey = scene.Survey(grow(case.box, scene.RING_M), growth.CRS, tile_m, clean=True)
    (Path(folder) / "filtered").mkdir()
    for period, months in case.periods.items():
        path = f"{folder}/filtered/{period}.parquet"
        jobs.write_segments(scene.segments_of(survey, months.start), path, tile_m)
    return {}


def run(folder: str, scale: int) -> dict[str, Any]:
    """Return what a tile job costs without its fits and whole, and how many tiles Greenland has.

    Parameters
    ----------
    folder
        For the tables.
    scale
        How many times smaller than 100 km × 100 km a tile is.
    """
    tile_m = growth.scaled_tile_m(scale)
    case = tile_case(tile_m)
    run_alone("projection:make_tile", folder=folder, tile_m=tile_m)
    region = RegionSettings.model_validate(filtering.greenland())
    result: dict[str, Any] = {
        "segments": scene.DEFAULT_DENSITY_KM2 * (tile_m / 1000) ** 2,
        "tiles": len(list_tiles(load_outline(region), growth.TILE_M)),
    }
    for name, settings in (("reading", NO_FITS), ("whole", {})):
        result[name] = run_alone(
            "growth:fit_tile_alone",
            folder=folder,
            tile=case.tiles[0],
            region=jobs.box_region(case.box, growth.CRS),
            elevation={"tile_m": tile_m} | settings,
            months=case.months,
        )
    return result


def project(results: dict[str, Any]) -> dict[str, Any]:
    """Return each term of the projected time (CPU s of one core), and the whole on two cores.

    Parameters
    ----------
    results
        Results of the parts ``filter``, ``fits`` and ``tiles``.
    """
    subset, filtered = results["filter"]["subset"], results["filter"]["filter"]
    fits, tiles = results["fits"]["dense with vintages 1"], results["tiles"]
    nodes = SEGMENTS / scene.DEFAULT_DENSITY_KM2
    whole, fitting = tiles["whole"], fits["cpu_s"] / fits["nodes"]
    # Never less than the whole job took: what its parts leave out stays a term.
    rest = max(whole["cpu_s"] - tiles["reading"]["cpu_s"] - whole["nodes"] * fitting, 0.0)
    jobs_count = 3 * scene.RECORD_MONTHS + tiles["tiles"]
    terms = {
        "read and subset": {
            "amount": SEGMENTS,
            "unit": "segments",
            "rate": subset["rows"] / subset["cpu_s"],
        },
        "filter": {
            "amount": SEGMENTS,
            "unit": "segments",
            "rate": subset["rows"] / filtered["cpu_s"],
        },
        "tile reading": {
            "amount": SEGMENTS,
            "unit": "segments",
            "rate": tiles["segments"] / tiles["reading"]["cpu_s"],
        },
        "node fits with vintages": {
            "amount": nodes,
            "unit": "nodes",
            "rate": 1 / fitting,
        },
        "checks and the rest of a tile": {
            "amount": SEGMENTS,
            "unit": "segments",
            "rate": tiles["segments"] / rest if rest else None,
        },
        "job start-up": {"amount": jobs_count, "unit": "jobs", "rate": 1 / JOB_START_S},
    }
    for term in terms.values():
        term["seconds"] = term["amount"] / term["rate"] if term["rate"] else 0.0
    total = sum(term["seconds"] for term in terms.values())
    return {
        "segments": SEGMENTS,
        "nodes": nodes,
        "segments_per_node": fits["segments_per_node"],
        "jobs": jobs_count,
        "terms": terms,
        "cpu_hours": total / 3600,
        "cores": CORES,
        "hours": total / CORES / 3600,
        "goal_hours": GOAL_HOURS,
    }
