"""Node months and causal vintages: what each month's segments say about each node.

Retrospective: the fit to the whole record, and each month's mean residual about it. Causal:
for every month the fit to segments up to that month only. A vintage starts once the past
holds enough years, passes and segments (a robust fit to that past); from then on its normal
equations only grow, month by month, by the segments that editing lets through: those that agree
with their neighbours in the pass, unless the pass departs grossly from the vintage before. All
nine terms are fitted from the first vintage on; what the past leaves open the prior holds.

A month whose segments agree with each other but depart grossly from the model (a lake that
drained) is kept as a departure; it enters the fit once another pass within half a year, for a
vintage one of the past, bears witness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from cryofuse.calendar import TIME_DTYPE, month_index, month_middle, year_fraction
from cryofuse.elevation import kernels
from cryofuse.elevation.surface import (
    Block,
    Segments,
    fit_options,
    fit_table,
    list_blocks,
    share_out,
    thin,
)
from cryofuse.tables import NODE_MONTHS, NODE_MONTHS_CAUSAL

if TYPE_CHECKING:
    from cryofuse.config import ElevationSettings


@dataclass
class NodeResult:
    """Fits (one row per node), node months and causal node months."""

    fits: pd.DataFrame
    months: pa.Table
    causal: pa.Table


def fit_months(
    segments: Segments,
    node_x_m: np.ndarray,
    node_y_m: np.ndarray,
    node_radius_m: np.ndarray,
    settings: ElevationSettings,
    months: np.ndarray,
    *,
    node_id: np.ndarray | None = None,
    causal_min_years: float | None = None,
    threads: int = 1,
) -> NodeResult:
    """Fit nodes and average their months, retrospectively and causally.

    Parameters
    ----------
    segments
        Sorted segments.
    node_x_m, node_y_m, node_radius_m
        Nodes and their search radii (m), shape (nodes,).
    settings
        Reference date, editing and limits.
    months
        Every month of the period, in order.
    node_id
        Number of each node (default: its position).
    causal_min_years
        Shortest past of a causal vintage (years); None makes no causal table.
    threads
        Threads to use; the result does not depend on them.

    Returns
    -------
    NodeResult
        Fits, NODE_MONTHS and NODE_MONTHS_CAUSAL tables.
    """
    number = np.arange(node_x_m.size, dtype=np.int64) if node_id is None else node_id
    first_month = int(month_index(months[0])) if months.size else 0
    angle = 2 * np.pi * segments.year
    columns = (
        segments.x_m,
        segments.y_m,
        segments.year,
        np.cos(angle),
        np.sin(angle),
        segments.height_m,
        segments.variance_m2,
    )
    month = segments.month - np.int32(first_month)
    middles = np.atleast_1d(year_fraction(month_middle(months)))
    reference = float(year_fraction(np.datetime64(settings.reference_date)))
    node_x_m, node_y_m, node_radius_m = (
        np.ascontiguousarray(a, dtype=np.float64) for a in (node_x_m, node_y_m, node_radius_m)
    )
    fits, month_tables, causal_tables = [], [], []
    for whole in list_blocks(segments, node_x_m, node_y_m, node_radius_m, threads):
        block = thin(whole, settings.max_segments_per_node)
        size = whole.offsets.size - 1
        fit = np.full((size, kernels.FIT_COLUMNS), np.nan)
        counts = np.zeros((size, kernels.COUNT_COLUMNS), np.int64)
        flags = np.zeros(block.entries.size, np.uint8)
        values = np.full((size, months.size, 4), np.nan)
        seen = np.zeros((size, months.size), np.int32)
        share_out(
            kernels.fit_block,
            size,
            threads,
            columns,
            segments.pass_id,
            month,
            block.entries,
            block.offsets,
            node_x_m[whole.nodes],
            node_y_m[whole.nodes],
            node_radius_m[whole.nodes],
            fit_options(settings),
            reference,
            middles,
            fit,
            counts,
            flags,
            values,
            seen,
        )
        fits.append(fit_table(segments, block, fit, counts))
        here = number[whole.nodes]
        month_tables.append(_month_table(segments, block, here, months, flags, values, seen))
        if causal_min_years is not None:
            # Thinning looks at a node's whole record, so vintages take every segment.
            causal = np.full((size, months.size, kernels.CAUSAL_COLUMNS), np.nan)
            passed = np.full((size, months.size), -1, np.int32)
            marks = np.zeros(whole.entries.size, np.uint8)
            share_out(
                kernels.causal_block,
                size,
                threads,
                columns,
                segments.pass_id,
                month,
                whole.entries,
                whole.offsets,
                node_x_m[whole.nodes],
                node_y_m[whole.nodes],
                node_radius_m[whole.nodes],
                fit_options(settings, causal_min_years),
                middles,
                causal,
                passed,
                marks,
            )
            causal_tables.append(
                _causal_table(segments, whole, here, months, marks, causal, passed)
            )
    return NodeResult(
        pd.concat(fits, ignore_index=True) if fits else _no_fits(segments),
        pa.concat_tables([_bare(NODE_MONTHS.empty()), *month_tables]),
        pa.concat_tables([_bare(NODE_MONTHS_CAUSAL.empty()), *causal_tables]),
    )


def _no_fits(segments: Segments) -> pd.DataFrame:
    """Return the table of fits of no node."""
    block = Block(slice(0, 0), np.zeros(0, np.int64), np.zeros(1, np.int64))
    none = np.zeros((0, kernels.COUNT_COLUMNS), np.int64)
    return fit_table(segments, block, np.zeros((0, kernels.FIT_COLUMNS)), none)


def _bare(table: pa.Table) -> pa.Table:
    """Return a table whose columns may all hold nulls, so that parts can be joined."""
    return table.cast(pa.schema([field.with_nullable(True) for field in table.schema]))


def _tracks(
    segments: Segments, block: Block, months: np.ndarray, flags: np.ndarray, rows: np.ndarray
) -> pa.ListArray:
    """Return the distinct passes of chosen node months.

    Parameters
    ----------
    flags
        Flag of each entry of the block.
    rows
        Chosen node months as node × months + month, ascending.
    """
    used = np.flatnonzero(flags & kernels.IN_MONTH)
    node = np.searchsorted(block.offsets, used, side="right") - 1
    month = segments.month[block.entries[used]] - int(month_index(months[0])) if used.size else used
    place = node * months.size + month
    passes = segments.pass_id[block.entries[used]]
    new = np.ones(used.size, dtype=bool)
    new[1:] = (np.diff(place) != 0) | (np.diff(passes) != 0)
    place, passes = place[new], passes[new]
    starts = np.searchsorted(place, rows, side="left")
    offsets = np.append(starts, place.size).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(passes.astype(np.int32)))


def _month_table(
    segments: Segments,
    block: Block,
    node_id: np.ndarray,
    months: np.ndarray,
    flags: np.ndarray,
    values: np.ndarray,
    seen: np.ndarray,
) -> pa.Table:
    node, month = np.nonzero(seen)
    chosen = values[node, month]
    return _bare(
        pa.table(
            {
                "node_id": node_id[node],
                "month": months.astype(TIME_DTYPE)[month],
                "dh_m": chosen[:, 0],
                "dh_sigma_m": chosen[:, 2],
                "model_m": chosen[:, 1],
                "response": chosen[:, 3],
                "n_segments": seen[node, month],
                "tracks": _tracks(segments, block, months, flags, node * months.size + month),
            },
            schema=NODE_MONTHS.schema,
        )
    )


def _causal_table(
    segments: Segments,
    block: Block,
    node_id: np.ndarray,
    months: np.ndarray,
    flags: np.ndarray,
    values: np.ndarray,
    seen: np.ndarray,
) -> pa.Table:
    node, month = np.nonzero(seen >= 0)
    chosen = values[node, month]
    silent = seen[node, month] == 0
    unstarted = np.isnan(chosen[:, kernels.C_START])
    return _bare(
        pa.table(
            {
                "node_id": node_id[node],
                "month": months.astype(TIME_DTYPE)[month],
                "model_m": chosen[:, kernels.C_MODEL],
                "model_sigma_m": chosen[:, kernels.C_SIGMA],
                "rate_m_yr": chosen[:, kernels.C_RATE],
                "amplitude_m": chosen[:, kernels.C_AMPLITUDE],
                "phase_rad": chosen[:, kernels.C_PHASE],
                "elevation_m": chosen[:, kernels.C_ELEVATION].astype(np.float32),
                "slope": chosen[:, kernels.C_SLOPE].astype(np.float32),
                "residual_m": pa.array(chosen[:, kernels.C_RESIDUAL], mask=silent),
                "residual_sigma_m": pa.array(chosen[:, kernels.C_RESIDUAL_SIGMA], mask=silent),
                "response": pa.array(chosen[:, kernels.C_RESPONSE], mask=silent),
                "start_residual_m": pa.array(chosen[:, kernels.C_START], mask=unstarted),
                "start_response": pa.array(chosen[:, kernels.C_START_RESPONSE], mask=unstarted),
                "n_segments": seen[node, month],
                "tracks": _tracks(segments, block, months, flags, node * months.size + month),
            },
            schema=NODE_MONTHS_CAUSAL.schema,
        )
    )
