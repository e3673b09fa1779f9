"""Robust fit of topography, rate and annual cycle to the segments around each node.

Model: h(x, y, t) = topography + rate · t + a cos 2πt + b sin 2πt, with t in years since
2000-01-01 (:func:`cryofuse.calendar.year_fraction`). Topography is biquadratic in x and y and
falls back to a plane, then to a parabola along the segments' principal direction, where the
design with columns of one length is conditioned worse than ``max_condition``.

Weights are 1/(σ² + misfit²): σ is the segment's own, misfit² what the robust spread of the
residuals shows on top of it (relief that the polynomial leaves), so that a few segments with
tiny σ don't rule a rough place. Editing drops segments that depart from their neighbours in the
pass by more than ``edit_mads`` × 1.4826 × MAD, and stretches of a pass that depart from the model
grossly and alone; it may take them back. A melt year or a drained lake is no outlier: measured
against the model it would be, and the rate would lose whole passes. Before editing, stretches
that depart grossly are weighed down, so that clouds do not hide each other. Directions that the
segments leave open are held by a weak prior (``SLOPE_SPREAD`` … in
:mod:`cryofuse.elevation.kernels`).

σ of the rate counts noise that segments of one pass (RGT and cycle) share: the variances of
segments and of passes are estimated from the residuals by the method of moments (Henderson
1953, Estimation of variance and covariance components, Biometrics 9) and carried through the
weighted fit, which itself ignores the correlation. With few passes to spare it is widened, so
that ±1 σ and ±1.96 σ hold 68 % and 95 % of the truth as nearly as one number can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cryofuse.calendar import TIME_DTYPE, month_index, year_fraction
from cryofuse.elevation import kernels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from cryofuse.config import ElevationSettings

#: What each status of a fit says in the tables.
REASONS = (
    None,
    "no_segments",
    "too_few_segments",
    "too_few_epochs",
    "short_span",
    "singular",
)
DEGREES = ("biquadratic", "plane", "along_track")
#: Passes are told apart by gaps longer than this where no pass numbers are given: a pass crosses
#: a region within minutes, and the next one comes half an orbit (47 minutes) later.
PASS_GAP_US = 600_000_000
#: Entries of neighbour lists worked on at a time; bounds the memory.
BLOCK_ENTRIES = 2_000_000
_MOST_CELLS = 4_000_000


@dataclass(frozen=True)
class Segments:
    """Segments in order of time, ready for the fits; arrays of one length.

    ``year`` is years since 2000, ``pass_id`` the pass (RGT × 1000 + cycle), ``month`` months
    since January 1970, ``variance_m2`` σ².
    """

    x_m: np.ndarray
    y_m: np.ndarray
    time: np.ndarray
    year: np.ndarray
    month: np.ndarray
    height_m: np.ndarray
    variance_m2: np.ndarray
    pass_id: np.ndarray

    @property
    def size(self) -> int:
        """Return the number of segments."""
        return self.x_m.size


@dataclass(frozen=True)
class Block:
    """Consecutive nodes with the segments around each: rows of segments, cut by offsets."""

    nodes: slice
    entries: np.ndarray
    offsets: np.ndarray


def sort_segments(
    x_m: ArrayLike,
    y_m: ArrayLike,
    time: ArrayLike,
    height_m: ArrayLike,
    sigma_m: ArrayLike,
    pass_id: ArrayLike | None = None,
) -> Segments:
    """Return segments in order of time and place, without those that lack a number.

    Parameters
    ----------
    x_m, y_m
        Positions (m).
    time
        UTC timestamps.
    height_m, sigma_m
        Heights and their σ (m); segments without a finite height or a positive σ are left out.
    pass_id
        Number of the pass of each segment, such as RGT × 1000 + cycle. Without it, passes are
        told apart by gaps in time.
    """
    x, y, h = (np.asarray(a, dtype=np.float64) for a in (x_m, y_m, height_m))
    sigma = np.asarray(sigma_m, dtype=np.float64)
    stamp = np.asarray(time, dtype=TIME_DTYPE)
    order = _order(stamp.astype(np.int64), x, y, h)
    good = np.isfinite(x) & np.isfinite(y) & np.isfinite(h) & (sigma > 0) & np.isfinite(sigma)
    order = order[good[order] & ~np.isnat(stamp)[order]]
    stamp = stamp[order]
    if pass_id is None:
        gaps = np.diff(stamp.astype(np.int64)) > PASS_GAP_US
        passes = np.concatenate([[0], np.cumsum(gaps)]) if order.size else np.zeros(0)
    else:
        passes = np.asarray(pass_id)[order]
    return Segments(
        x[order],
        y[order],
        stamp,
        year_fraction(stamp),
        month_index(stamp).astype(np.int32),
        h[order],
        sigma[order] ** 2,
        passes.astype(np.int32),
    )


def _order(stamp: np.ndarray, x: np.ndarray, y: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Return the order by time, x, y and height; only beams that share a time need the latter."""
    order = np.argsort(stamp)
    tied = np.diff(stamp[order]) == 0
    if tied.any():
        places = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
        rows = order[places]
        order[places] = rows[np.lexsort((h[rows], y[rows], x[rows], stamp[rows]))]
    return order


def list_blocks(
    segments: Segments,
    node_x_m: np.ndarray,
    node_y_m: np.ndarray,
    node_radius_m: np.ndarray,
    threads: int = 1,
    block_entries: int = BLOCK_ENTRIES,
) -> Iterator[Block]:
    """Yield blocks of nodes with the segments within each node's radius, in order of time.

    Parameters
    ----------
    segments
        Sorted segments.
    node_x_m, node_y_m, node_radius_m
        Nodes and their search radii (m).
    threads
        Threads to use.
    block_entries
        Segments listed at a time, unless one node has more.
    """
    count = node_x_m.size
    if not count:
        return
    if not segments.size:
        yield Block(slice(0, count), np.zeros(0, np.int64), np.zeros(count + 1, np.int64))
        return
    x, y, order, starts, grid = _cells(segments, float(node_radius_m.min()) / 2)
    counts = np.zeros(count, np.int64)
    share_out(
        kernels.count_neighbours, count, threads,
        x, y, order, starts, grid, node_x_m, node_y_m, node_radius_m, counts,
    )  # fmt: skip
    ends = np.cumsum(counts)
    first = 0
    while first < count:
        before = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, before + block_entries, side="right")), first + 1)
        part = slice(first, last)
        offsets = np.concatenate([[0], ends[part] - before]).astype(np.int64)
        entries = np.empty(int(offsets[-1]), np.int64)
        share_out(
            kernels.list_neighbours, last - first, threads,
            x, y, order, starts, grid, node_x_m[part], node_y_m[part], node_radius_m[part],
            offsets, entries,
        )  # fmt: skip
        yield Block(part, entries, offsets)
        first = last


def _cells(segments: Segments, cell_m: float) -> tuple[Any, ...]:
    """Return positions, rows, starts and the shape of segments sorted into square cells."""
    x_0, y_0 = segments.x_m.min(), segments.y_m.min()
    width, height = np.ptp(segments.x_m), np.ptp(segments.y_m)
    cell = max(cell_m, float(np.sqrt(max(width, cell_m) * max(height, cell_m) / _MOST_CELLS)))
    columns, rows = int(width // cell) + 1, int(height // cell) + 1
    number = ((segments.y_m - y_0) // cell).astype(np.int64) * columns
    number += ((segments.x_m - x_0) // cell).astype(np.int64)
    order = np.argsort(number, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=columns * rows))])
    grid = np.array([x_0, y_0, cell, columns, rows], dtype=np.float64)
    return segments.x_m[order], segments.y_m[order], order, starts, grid


def thin(block: Block, most: int | None) -> Block:
    """Return a block whose nodes keep at most so many segments, evenly in time."""
    counts = np.diff(block.offsets)
    if most is None or not (counts > most).any():
        return block
    new = np.minimum(counts, most)
    offsets = np.concatenate([[0], np.cumsum(new)]).astype(np.int64)
    node = np.repeat(np.arange(new.size), new)
    place = np.arange(offsets[-1]) - offsets[node]
    rows = block.offsets[node] + place * counts[node] // np.maximum(new[node], 1)
    return Block(block.nodes, block.entries[rows], offsets)


def fit_options(settings: ElevationSettings, min_span_years: float | None = None) -> np.ndarray:
    """Return the numbers that steer the compiled fit."""
    return np.array(
        [
            settings.edit_mads,
            settings.max_iterations,
            settings.max_condition,
            settings.min_segments,
            settings.min_epochs,
            settings.min_span_years if min_span_years is None else min_span_years,
        ],
        dtype=np.float64,
    )


def share_out(kernel: Callable[..., None], count: int, threads: int, *arguments: Any) -> None:
    """Run a compiled loop over ``count`` nodes, in as many threads.

    Parameters
    ----------
    kernel
        Function of the first node, the one after the last, and the arguments; it writes into
        its arguments and does not hold the interpreter's lock.
    """
    if threads <= 1:
        kernel(0, count, *arguments)
        return
    edges = np.linspace(0, count, 8 * threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        jobs = [
            pool.submit(kernel, a, b, *arguments) for a, b in zip(edges, edges[1:], strict=False)
        ]
        for job in jobs:
            job.result()


def fit_table(
    segments: Segments, block: Block, fit: np.ndarray, counts: np.ndarray
) -> pd.DataFrame:
    """Return a block's fits as a table: null where a node has none, with the reason."""
    fitted = counts[:, kernels.STATUS] == kernels.FITTED
    values = np.where(fitted[:, None], fit, np.nan)
    edges = {}
    for name, column in (("first", kernels.FIRST), ("last", kernels.LAST)):
        stamps = np.full(fitted.size, np.datetime64("NaT"), dtype=TIME_DTYPE)
        rows = block.offsets[:-1][fitted] + fit[fitted, column].astype(np.int64)
        stamps[fitted] = segments.time[block.entries[rows]]
        edges[name] = stamps
    degree = pd.Series([DEGREES[d] if d >= 0 else None for d in counts[:, kernels.DEGREE]])
    return pd.DataFrame(
        {
            "elevation_m": values[:, kernels.ELEVATION],
            "slope_x": values[:, kernels.SLOPE_X],
            "slope_y": values[:, kernels.SLOPE_Y],
            "slope": np.hypot(values[:, kernels.SLOPE_X], values[:, kernels.SLOPE_Y]),
            "rate_m_yr": values[:, kernels.RATE],
            "rate_sigma_m_yr": values[:, kernels.RATE_SIGMA],
            "amplitude_m": values[:, kernels.AMPLITUDE],
            "phase_rad": values[:, kernels.PHASE],
            "rms_m": values[:, kernels.RMS],
            "interannual_m": values[:, kernels.INTERANNUAL],
            "degree": degree.astype("str").where(fitted),
            "n_segments": counts[:, kernels.N_SEGMENTS],
            "n_edited": counts[:, kernels.N_EDITED],
            "n_epochs": counts[:, kernels.N_EPOCHS].astype(np.int32),
            **edges,
            "reason": pd.Series([REASONS[s] for s in counts[:, kernels.STATUS]], dtype="str"),
        }
    )


def fit_nodes(
    x_m: ArrayLike,
    y_m: ArrayLike,
    time: ArrayLike,
    height_m: ArrayLike,
    sigma_m: ArrayLike,
    node_x_m: ArrayLike,
    node_y_m: ArrayLike,
    settings: ElevationSettings,
    *,
    node_radius_m: ArrayLike | None = None,
    pass_id: ArrayLike | None = None,
    threads: int = 1,
) -> pd.DataFrame:
    """Fit topography, rate and annual cycle to the segments around each node.

    Parameters
    ----------
    x_m, y_m
        Positions of segments (m, a projected CRS), shape (segments,).
    time
        Their times (UTC).
    height_m, sigma_m
        Their heights and σ (m).
    node_x_m, node_y_m
        Positions of nodes (m), shape (nodes,).
    settings
        Search radius, reference date, editing and limits.
    node_radius_m
        Search radius of each node (m), in place of ``settings.search_radius_m``.
    pass_id
        Pass of each segment (RGT × 1000 + cycle); without it, passes are told by time.
    threads
        Threads to use; the result does not depend on them.

    Returns
    -------
    pandas.DataFrame
        One row per node: x_m, y_m, elevation_m (at the reference date), slope_x, slope_y (m/m),
        slope, rate_m_yr, rate_sigma_m_yr, amplitude_m, phase_rad (dh = amplitude·cos(2πt −
        phase)), rms_m, interannual_m, degree, n_segments, n_edited, n_epochs, first, last, reason.
        Nodes without a fit hold nulls and the reason.
    """
    from cryofuse.elevation.anomalies import fit_months

    node_x, node_y = (np.asarray(a, dtype=np.float64).ravel() for a in (node_x_m, node_y_m))
    radius = settings.search_radius_m if node_radius_m is None else node_radius_m
    segments = sort_segments(x_m, y_m, time, height_m, sigma_m, pass_id)
    months = (
        np.unique(segments.month).astype("datetime64[M]") if segments.size else np.zeros(0, "M8[M]")
    )
    if months.size:
        months = np.arange(months[0], months[-1] + 1)
    result = fit_months(
        segments,
        node_x,
        node_y,
        np.broadcast_to(np.asarray(radius, dtype=np.float64), node_x.shape),
        settings,
        months.astype(TIME_DTYPE),
        threads=threads,
    )
    result.fits.insert(0, "x_m", node_x)
    result.fits.insert(1, "y_m", node_y)
    return result.fits
