"""(b) Segments a second from granule files to the filtered table, as the two jobs do it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from benchmarks import granules, jobs
from benchmarks.measure import ROOT, run_alone, time_repeats
from cryofuse.tables import LEDGER, write_table

#: Full-size granules in the period: some four days of Greenland.
GRANULES = 5
REPEATS = 3
PERIOD, TILE_M = "2019-04", 100_000.0


def greenland() -> dict[str, Any]:
    """Return the settings of the shipped region Greenland."""
    region = yaml.safe_load((ROOT / "config" / "regions" / "greenland.yaml").read_text())
    return region | {name: str(ROOT / region[name]) for name in ("outline", "coast")}


@contextmanager
def clocked(module: str, function: str) -> Iterator[list[float]]:
    """Yield a list that takes the CPU time (s) of each call of a function, wherever imported."""
    original = getattr(sys.modules[module], function)
    spent: list[float] = []

    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return original(*arguments, **named)
        finally:
            spent.append(time.process_time() - began)

    owners = [m for m in list(sys.modules.values()) if vars(m).get(function) is original]
    for owner in owners:
        setattr(owner, function, timed)
    try:
        yield spent
    finally:
        for owner in owners:
            setattr(owner, function, original)


def prepare(folder: str, segments: int, copies: int) -> dict[str, Any]:
    """Write a granule, manifests of so many copies of it and of one, and an empty ledger."""
    granule = granules.write_granule(folder, segments)
    granules.write_manifest(str(granule), copies, f"{folder}/manifest.parquet")
    granules.write_manifest(str(granule), 1, f"{folder}/first.parquet")
    write_table(LEDGER.empty(), f"{folder}/no_ledger.parquet", LEDGER)
    return {}


def _subset(folder: str, manifest: str = "manifest") -> None:
    jobs.subset_job(
        f"{folder}/{manifest}.parquet",
        f"{folder}/subset.parquet",
        f"{folder}/subset_ledger.parquet",
        greenland(),
        PERIOD,
        TILE_M,
    )


def _filter(folder: str) -> None:
    jobs.filter_job(
        f"{folder}/subset.parquet",
        f"{folder}/subset_ledger.parquet",
        f"{folder}/filtered.parquet",
        f"{folder}/ledger.parquet",
        greenland(),
        PERIOD,
        TILE_M,
    )


def measure(folder: str, job: str, repeats: int) -> dict[str, Any]:
    """Return times of one of the two jobs, and of the function at its heart."""
    run, module, function, written = {
        "subset": (_subset, "cryofuse.atl06.granule", "read_granule", "subset"),
        "filter": (_filter, "cryofuse.atl06.quality", "apply_filters", "filtered"),
    }[job]
    jobs.script({"subset": "subset_granules", "filter": "filter_segments"}[job])
    # What is imported when it is first needed: on a single granule, or on all of the subset.
    _subset(folder, "first") if job == "subset" else run(folder)
    with clocked(module, function) as spent:
        times = time_repeats(lambda: run(folder), repeats)
    path = Path(folder) / f"{written}.parquet"
    return times | {
        "heart": function,
        "heart_cpu_s": sum(spent) / repeats,
        "rows": pq.read_metadata(path).num_rows,
        "file_mb": path.stat().st_size / 1e6,
    }


def run(folder: str, scale: int) -> dict[str, Any]:
    """Return times of the subset and the filter job on some full-size granules.

    Parameters
    ----------
    folder
        For the granules and tables.
    scale
        How many times smaller than full size.
    """
    segments = granules.FULL_SEGMENTS // scale
    run_alone("filtering:prepare", folder=folder, segments=segments, copies=GRANULES)
    result: dict[str, Any] = {"granules": GRANULES, "rows_read": GRANULES * 6 * segments}
    for job in ("subset", "filter"):
        result[job] = run_alone("filtering:measure", folder=folder, job=job, repeats=REPEATS)
    return result
