"""(c) Nodes a second: at 200 segments a node, and at the density of the defaults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import jobs, scene
from benchmarks.measure import run_alone, time_repeats
from cryofuse.simulate.orbit import BEAM_SPACING_M
from cryofuse.tables import SEGMENTS

#: Nodes of each case at full size.
SPARSE_NODES, DENSE_NODES = 20_000, 2_500
#: Repeats of one pair of beams, and length of track around a node (m): 2 × 8 × 12.5 segments.
SPARSE_CYCLES, SPARSE_LENGTH_M = 8, 250.0
DENSE_RADIUS_M = 1000.0
NORTH_M = -2_000_000.0
REPEATS = 3


def sparse_case(nodes: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, float, Any]:
    """Return segments and nodes of a pair of beams flown eight times, a node each 250 m."""
    length = nodes * SPARSE_LENGTH_M
    along = np.array([0.0, length])
    path = scene.Path(along, np.zeros(2), along + NORTH_M)
    # The middle pair alone: the box leaves the others out.
    reach = BEAM_SPACING_M / 2 + 10 * scene.ACROSS_M
    survey = scene.Survey((-reach, NORTH_M, reach, NORTH_M + length), clean=True)
    first = scene.FIRST_MONTH
    passes = [
        scene.Pass(path, 1, cycle + 1, (first + scene.REPEAT_MONTHS * cycle).astype("M8[us]"))
        for cycle in range(SPARSE_CYCLES)
    ]
    segments = jobs.fit_arrays(scene.observe(survey, flown) for flown in passes)
    last = first + scene.REPEAT_MONTHS * SPARSE_CYCLES - 1
    node_y = NORTH_M + (np.arange(nodes) + 0.5) * SPARSE_LENGTH_M
    radius = float(np.hypot(SPARSE_LENGTH_M / 2, BEAM_SPACING_M / 2))
    return segments, np.zeros(nodes), node_y, radius, {"start": str(first), "end": str(last)}


def dense_case(nodes: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, float, Any]:
    """Return segments of a full record at the default density and nodes 1 km apart."""
    side = int(np.sqrt(nodes))
    box = (
        -DENSE_RADIUS_M,
        NORTH_M - DENSE_RADIUS_M,
        (side + 1) * DENSE_RADIUS_M,
        NORTH_M + (side + 1) * DENSE_RADIUS_M,
    )
    survey = scene.Survey(box, clean=True)
    tables: list[pa.Table] = [SEGMENTS.empty()]
    for month in range(scene.RECORD_MONTHS):
        tables += scene.segments_of(survey, month)
    grid = (np.arange(side) + 0.5) * DENSE_RADIUS_M
    x, y = np.meshgrid(grid, NORTH_M + grid)
    return jobs.fit_arrays(tables), x.ravel(), y.ravel(), DENSE_RADIUS_M, {}


def measure(case: str, nodes: int, causal: bool, repeats: int, threads: int) -> dict[str, Any]:
    """Return the time to fit the nodes of a case, and what the fits hold."""
    segments, x, y, radius, period = {"sparse": sparse_case, "dense": dense_case}[case](nodes)

    def fit(count: int) -> Any:
        return jobs.node_fits(
            segments, x[:count], y[:count], radius, period, causal=causal, threads=threads
        )

    fit(1)
    found = fit(x.size)
    held = found.fits["n_segments"] + found.fits["n_edited"]
    return {
        "case": case,
        "causal": causal,
        "threads": threads,
        "nodes": int(x.size),
        "segments": int(segments["x_m"].size),
        "segments_per_node": float(held.mean()),
        "nodes_without_segments": int((held == 0).sum()),
        "nodes_fitted": int(found.fits["reason"].isna().sum()),
        "vintages": found.causal.num_rows,
    } | time_repeats(lambda: fit(x.size), repeats)


def run(folder: str, scale: int) -> dict[str, Any]:
    """Return times of the fits, retrospective alone and with causal vintages.

    Parameters
    ----------
    folder
        Not used: everything is held in memory.
    scale
        How many times smaller than full size.
    """
    result: dict[str, Any] = {}
    for case, nodes in (("sparse", SPARSE_NODES // scale), ("dense", DENSE_NODES // scale)):
        for causal in (False, True):
            for threads in (1, 2):
                name = f"{case} {'with vintages' if causal else 'retrospective'} {threads}"
                result[name] = run_alone(
                    "fitting:measure",
                    case=case,
                    nodes=nodes,
                    causal=causal,
                    repeats=REPEATS,
                    threads=threads,
                    cores=threads,
                )
    return result
