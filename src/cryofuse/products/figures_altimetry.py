"""Figures of the altimetry: rate, seasonal cycle, coverage, cost of the filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cryofuse.products import style
from cryofuse.products.style import BaseMap, MasconShapes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Cycles smaller than this (m) have no meaningful phase and are not drawn in the phase map.
MIN_AMPLITUDE_M = 0.02


@style.styled
def draw_rate_map(nodes: pd.DataFrame, base: BaseMap) -> Figure:
    """Draw the rate of elevation change of every node, with close-ups of the windows.

    Parameters
    ----------
    nodes
        Table ``altimetry/nodes``.
    base
        Base map of the region.
    """
    figure, axes, close = style.map_with_windows(base, nodes)
    months = style.months_text(nodes["first"], nodes["last"])
    rate = nodes["rate_m_yr"].to_numpy(dtype=float)
    if not np.isfinite(rate).any():
        style.state_reason(axes, style.first_reason(nodes["reason"], default="no node was fitted"))
    else:
        norm = style.symmetric_norm(rate)
        shown = None
        for place in (axes, *close.values()):
            images = style.draw_nodes(place, nodes, "rate_m_yr", style.DIVERGING.reversed(), norm)
            shown = shown or images[0]
        style.colour_bar(
            figure,
            shown,
            axes,
            "rate of elevation change (m/yr; red thins, blue thickens)",
            rate,
            location="bottom",
        )
    fitted = int(np.isfinite(rate).sum())
    style.head(
        figure,
        f"{base.title}: rate of elevation change",
        f"ICESat-2 ATL06, {months}. {fitted:,} of {len(nodes):,} nodes fitted; each cell is one "
        "node at its own spacing. White: ice without a fit.",
    )
    return figure


@style.styled
def draw_amplitude_map(nodes: pd.DataFrame, base: BaseMap) -> Figure:
    """Draw the annual amplitude of elevation and the month in which it is highest."""
    figure = style.new_figure(min(3.25 * base.aspect + 1.15, 8.0))
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        style.draw_base(axes, base)
    left.set_title("a  amplitude")
    right.set_title("b  month of the highest surface")
    table = nodes.copy()
    known = table["amplitude_m"].notna()
    if not known.any():
        reason = style.first_reason(nodes["reason"], default="no node was fitted")
        style.state_reason(left, reason)
        style.state_reason(right, reason)
    else:
        amplitude = table.loc[known, "amplitude_m"].to_numpy(dtype=float)
        norm = style.range_norm(amplitude, low=0.0)
        images = style.draw_nodes(left, table, "amplitude_m", style.SEQUENTIAL, norm)
        style.colour_bar(
            figure, images[0], left, "annual amplitude (m)", amplitude, location="bottom"
        )
        # dh = amplitude·cos(2π·t − phase) peaks at the share phase/2π of the year.
        share = np.mod(table["phase_rad"].to_numpy(dtype=float) / (2 * np.pi), 1.0)
        large = (table["amplitude_m"] >= MIN_AMPLITUDE_M).to_numpy(dtype=bool)
        table["peak_month"] = np.where(large, 12 * share, np.nan)
        from matplotlib.colors import Normalize

        peaks = style.draw_nodes(right, table, "peak_month", style.CYCLIC, Normalize(0, 12))
        if peaks:
            bar = style.colour_bar(
                figure, peaks[0], right, "month of the highest surface", location="bottom"
            )
            bar.set_ticks(np.arange(12) + 0.5, labels=list("JFMAMJJASOND"))
            bar.ax.tick_params(length=0)
        else:
            style.state_reason(right, f"no amplitude above {MIN_AMPLITUDE_M} m")
    style.head(
        figure,
        f"{base.title}: seasonal cycle of elevation",
        f"ICESat-2 ATL06, {style.months_text(nodes['first'], nodes['last'])}. Annual cosine and "
        f"sine of every node's fit; the month is drawn for amplitudes of {MIN_AMPLITUDE_M} m and "
        "more.",
    )
    return figure


@style.styled
def draw_coverage(
    nodes: pd.DataFrame, node_months: pd.DataFrame, base: BaseMap, shapes: MasconShapes
) -> Figure:
    """Draw how many segments stand behind every node, and what each month sampled.

    Parameters
    ----------
    nodes
        Table ``altimetry/nodes``.
    node_months
        Table ``altimetry/node_months``.
    base
        Base map.
    shapes
        Cut mascons, whose footprints are outlined.
    """
    from matplotlib.patches import PathPatch

    figure = style.new_figure(5.6)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.15, 1.4))
    axes = figure.add_subplot(grid[:, 0])
    style.draw_base(axes, base)
    axes.set_title("a  segments behind each node")
    for footprint in shapes.footprint:
        axes.add_patch(
            PathPatch(
                style.outline_path(footprint),
                facecolor="none",
                edgecolor=style.INK,
                lw=0.3,
                zorder=6,
            )
        )
    segments = nodes["n_segments"].to_numpy(dtype=float)
    table = nodes.assign(drawn=np.where(segments > 0, segments, np.nan))
    if table["drawn"].notna().any():
        norm = style.log_norm(table["drawn"])
        images = style.draw_nodes(axes, table, "drawn", style.SEQUENTIAL, norm)
        style.colour_bar(figure, images[0], axes, "segments in the fit", location="bottom")
    else:
        style.state_reason(axes, "no segment reached a node")
    upper = figure.add_subplot(grid[0, 1])
    lower = figure.add_subplot(grid[1, 1], sharex=upper)
    _draw_monthly_sampling(upper, lower, nodes, node_months)
    empty = int((nodes["n_segments"] == 0).sum())
    style.head(
        figure,
        f"{base.title}: coverage by ICESat-2",
        f"{style.months_text(node_months['month'])}. {len(nodes):,} nodes, {empty:,} without any "
        "segment. A month without a bar has no data. Thin lines: mascon footprints.",
    )
    return figure


def _draw_monthly_sampling(upper, lower, nodes: pd.DataFrame, node_months: pd.DataFrame) -> None:  # noqa: ANN001
    upper.set_title("b  segments per month")
    lower.set_title("c  share of the ice area seen in the month")
    upper.set_ylabel("segments (thousands)")
    lower.set_ylabel("share of node area (%)")
    if node_months.empty:
        style.state_reason(upper, "no month with data")
        style.state_reason(lower, "no month with data")
        return
    area = nodes.set_index("node_id")["area_km2"]
    monthly = (
        node_months.assign(area=node_months["node_id"].map(area))
        .groupby("month", as_index=False)
        .agg(segments=("n_segments", "sum"), area=("area", "sum"))
    )
    width = np.timedelta64(24, "D")
    middle = monthly["month"] + np.timedelta64(14, "D")
    bars = upper.bar(middle, monthly["segments"] / 1e3, width=width, color=style.CATEGORIES[0])
    for bar in bars:
        bar.set_gid("segments_month")
    share = 100 * monthly["area"] / max(float(area.sum()), 1e-9)
    for bar in lower.bar(middle, share, width=width, color=style.CATEGORIES[2]):
        bar.set_gid("share_month")
    lower.set_ylim(0, max(5.0, 1.1 * float(share.max())))
    style.month_axis(lower)
    upper.tick_params(labelbottom=False)


@style.styled
def draw_filter_costs(ledger: pd.DataFrame, title: str) -> Figure:
    """Draw what every filter removes, in its turn and alone.

    Parameters
    ----------
    ledger
        Table ``altimetry/ledger`` of all periods.
    title
        Name of the region.
    """
    filters = ledger[ledger["stage"] == "filter"]
    costs = filter_costs(ledger)
    figure = style.new_figure(max(2.6, 0.27 * len(costs) + 1.6))
    axes = figure.subplots()
    if costs.empty or costs["entered"].iloc[0] == 0:
        axes.set_xticks([])
        axes.set_yticks([])
        style.state_reason(axes, "no segment reached the filters")
        kept, entered = 0, 0
    else:
        entered = int(costs["entered"].iloc[0])
        kept = entered - int(costs["removed"].sum())
        place = np.arange(len(costs))[::-1]
        alone = 100 * costs["alone"] / entered
        removed = 100 * costs["removed"] / entered
        bars = axes.barh(
            place + 0.19, alone, 0.36, color=style.CATEGORIES[5], label="this filter alone"
        )
        for bar in bars:
            bar.set_gid("alone")
        bars = axes.barh(
            place - 0.19, removed, 0.36, color=style.CATEGORIES[0], label="in its turn"
        )
        for bar in bars:
            bar.set_gid("removed")
        reach = max(1.0, float(np.nanmax([alone.max(), removed.max()])))
        for y, value in [
            *zip(place + 0.19, alone, strict=True),
            *zip(place - 0.19, removed, strict=True),
        ]:
            text = (
                "n/a"
                if not np.isfinite(value)
                else f"{value:.2g}"
                if value < 10
                else f"{value:.0f}"
            )
            shown = value if np.isfinite(value) else 0.0
            axes.text(shown + 0.01 * reach, y, text, va="center", fontsize=6)
        axes.set_yticks(place, [name.replace("_", " ") for name in costs["filter"]])
        axes.set_xlabel("share of the segments that entered the filters (%)")
        axes.set_xlim(0, 1.1 * reach)
        axes.legend(loc="lower right")
    granules = filters["granule"].nunique()
    share = f"{100 * kept / entered:.1f} %" if entered else "none"
    style.head(
        figure,
        f"{title}: what each segment filter costs",
        f"{entered:,} segments of {granules:,} granules, periods {_periods(ledger)}; {kept:,} kept "
        f"({share}). Filters run from top to bottom.",
    )
    return figure


def _periods(ledger: pd.DataFrame) -> str:
    names = sorted(ledger["period"].unique())
    return "none" if not names else names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def filter_costs(ledger: pd.DataFrame) -> pd.DataFrame:
    """Return rows removed by every filter over the whole ledger, in the filters' order.

    Returns
    -------
    pandas.DataFrame
        Columns filter, rows_in, removed, alone (NaN where not measured), entered (segments that
        entered the first filter).
    """
    filters = ledger[ledger["stage"] == "filter"]
    order = list(dict.fromkeys(filters["filter"]))
    total = filters.groupby("filter").agg(
        rows_in=("rows_in", "sum"),
        removed=("rows_removed", "sum"),
        alone=("rows_alone", lambda column: column.sum(min_count=1)),
    )
    total = total.reindex(order).rename_axis("filter").reset_index()
    entered = int(total["rows_in"].iloc[0]) if len(total) else 0
    return total.assign(entered=entered)
