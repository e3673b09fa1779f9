"""Figures of the altimetry: rate, seasonal cycle, coverage, cost of the filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cryofuse.atl06.report import WHOLE
from cryofuse.products import style
from cryofuse.products.style import BaseMap, MasconShapes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

#: Cycles smaller than this (m) have no meaningful phase and are not drawn in the phase map.
MIN_AMPLITUDE_M = 0.02
#: Colours of the filters that take most, of all other filters, and of what is kept.
_COSTLIEST = style.CATEGORIES[:5]
_OTHERS, _KEPT = "#8c8c8c", "#d5dde2"
#: Share of the beams without a filter's value (%) from which it is written beside the bar: a
#: beam that is fill throughout lacks every value.
_MISSING_PERCENT = 1.0
#: Periods up to which each has a label and its own bar.
_MOST_LABELS = 12


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
    height = min(base.panel_height(1.45) + 1.6, 6.8)
    figure, axes, close = style.map_with_windows(base, nodes, height, style.UNSEEN)
    months, beyond = style.months_text(nodes["first"], nodes["last"]), ""
    rate = nodes["rate_m_yr"].to_numpy(dtype=float)
    if not np.isfinite(rate).any():
        style.state_reason(axes, style.first_reason(nodes["reason"], default="no node was fitted"))
    else:
        norm = style.symmetric_norm(rate)
        beyond = style.beyond_text(rate, norm)
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
    style.legend_below(figure, [style.unseen_handle("ice without a fit")], 1)
    style.head(
        figure,
        f"{base.title}: rate of elevation change",
        f"ICESat-2 ATL06, {months}. {fitted:,} of {len(nodes):,} nodes fitted; each cell is one "
        "node at its own spacing. "
        + ("Squares: close-ups, drawn larger than they are. " if close else "")
        + beyond,
    )
    return figure


@style.styled
def draw_amplitude_map(nodes: pd.DataFrame, base: BaseMap) -> Figure:
    """Draw the annual amplitude of elevation and the month in which it is highest.

    Parameters
    ----------
    nodes
        Table ``altimetry/nodes``.
    base
        Base map of the region.
    """
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.patches import Patch

    figure = style.new_figure(min(base.panel_height(2) + 1.43, 8.2))
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        style.draw_base(axes, base, ice=style.UNSEEN)
    left.set_title("a  amplitude")
    right.set_title("b  month of the highest surface")
    table = nodes.copy()
    known, beyond = table["amplitude_m"].notna(), ""
    if not known.any():
        reason = style.first_reason(nodes["reason"], default="no node was fitted")
        style.state_reason(left, reason)
        style.state_reason(right, reason)
    else:
        amplitude = table.loc[known, "amplitude_m"].to_numpy(dtype=float)
        norm = style.range_norm(amplitude, low=0.0)
        beyond = _beyond("a", amplitude, norm)
        images = style.draw_nodes(left, table, "amplitude_m", style.SEQUENTIAL, norm)
        style.colour_bar(
            figure, images[0], left, "annual amplitude (m)", amplitude, location="bottom"
        )
        # dh = amplitude·cos(2π·t − phase) peaks at the share phase/2π of the year.
        share = np.mod(table["phase_rad"].to_numpy(dtype=float) / (2 * np.pi), 1.0)
        large = (table["amplitude_m"] >= MIN_AMPLITUDE_M).to_numpy(dtype=bool)
        table["peak_month"] = np.where(large, 12 * share, np.nan)
        table["small"] = np.where(known & ~large, 1.0, np.nan)
        for image in style.draw_nodes(right, table, "small", ListedColormap([style.ICE]), None):
            image.set_gid("small")
        peaks = style.draw_nodes(right, table, "peak_month", style.CYCLIC, Normalize(0, 12))
        if peaks:
            bar = style.colour_bar(
                figure, peaks[0], right, "month of the year (J to D)", location="bottom"
            )
            bar.set_ticks(np.arange(12) + 0.5, labels=list("JFMAMJJASOND"))
            bar.ax.tick_params(length=0)
        else:
            style.state_reason(right, f"no amplitude above {MIN_AMPLITUDE_M} m")
    small = f"b: amplitude below {MIN_AMPLITUDE_M} m, no month"
    style.legend_below(
        figure,
        [
            style.unseen_handle("ice without a fit"),
            Patch(facecolor=style.ICE, edgecolor=style.EDGE, lw=0.4, label=small),
        ],
        2,
    )
    style.head(
        figure,
        f"{base.title}: seasonal cycle of elevation",
        f"ICESat-2 ATL06, {style.months_text(nodes['first'], nodes['last'])}. Annual cosine and "
        f"sine of every node's fit; the amplitude is half the way from low to high. {beyond}",
    )
    return figure


def _beyond(letter: str, values: np.ndarray, norm: Normalize) -> str:
    """Return what the colour bar of a panel leaves out, with a space before the next sentence."""
    said = style.beyond_text(values, norm)
    return f"{letter}: {said[:1].lower()}{said[1:]} " if said else ""


@style.styled
def draw_coverage(
    nodes: pd.DataFrame, node_months: pd.DataFrame, base: BaseMap, shapes: MasconShapes
) -> Figure:
    """Draw how many segments and passes stand behind every node, and what each month sampled.

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

    height = min(base.panel_height(2), 5.2)
    figure = style.new_figure(height + 3.4)
    grid = figure.add_gridspec(2, 2, height_ratios=(height + 0.7, 1.7))
    empty, beyond = int((nodes["n_segments"] == 0).sum()), ""
    for place, (column, label) in enumerate(
        (
            ("n_segments", "segments behind the node's fit"),
            ("n_epochs", "passes behind the node's fit"),
        )
    ):
        axes = figure.add_subplot(grid[0, place])
        style.draw_base(axes, base, ice=style.UNSEEN)
        axes.set_title(f"{'ab'[place]}  {label}")
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
        count = nodes[column].to_numpy(dtype=float)
        table = nodes.assign(drawn=np.where(count > 0, count, np.nan))
        if table["drawn"].notna().any():
            many = column == "n_segments"
            norm = style.log_norm(count) if many else style.range_norm(count, low=0.0)
            images = style.draw_nodes(axes, table, "drawn", style.SEQUENTIAL, norm)
            beyond += _beyond("ab"[place], table["drawn"].to_numpy(dtype=float), norm)
            unit = f"{label.split()[0]} per node (number)"
            bar = style.colour_bar(figure, images[0], axes, unit, table["drawn"], location="bottom")
            bar.ax.xaxis.set_major_formatter("{x:,g}")
        else:
            style.state_reason(axes, "no segment reached a node")
    upper = figure.add_subplot(grid[1, 0])
    lower = figure.add_subplot(grid[1, 1])
    _draw_monthly_sampling(upper, lower, nodes, node_months)
    style.legend_below(figure, [style.unseen_handle("ice without a segment")], 1)
    style.head(
        figure,
        f"{base.title}: coverage by ICESat-2",
        f"{style.months_text(node_months['month'])}. {len(nodes):,} nodes, {empty:,} without any "
        f"segment. A month without a bar has no data. Thin lines: {shapes.unit} footprints. "
        f"{beyond}",
    )
    return figure


def _draw_monthly_sampling(upper, lower, nodes: pd.DataFrame, node_months: pd.DataFrame) -> None:  # noqa: ANN001
    upper.set_title("c  segments per month")
    lower.set_title("d  share of the ice area seen in the month")
    upper.set_ylabel("segments (thousands)")
    lower.set_ylabel("share of node area (%)")
    if node_months.empty:
        for axes in (upper, lower):
            axes.set_xticks([])
            axes.set_yticks([])
            style.state_reason(axes, "no month with data")
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
    for axes in (upper, lower):
        style.month_axis(axes)


@style.styled
def draw_filter_costs(report: pd.DataFrame, title: str) -> Figure:
    """Draw what every filter removes, alone and in its turn, and what stays in every period.

    Parameters
    ----------
    report
        Table ``altimetry/filter_report``.
    title
        Name of the region.
    """
    costs, periods = filter_costs(report), period_costs(report)
    figure = style.new_figure(max(2.2, 0.27 * len(costs) + 1.2) + 2.3)
    grid = figure.add_gridspec(2, 1, height_ratios=(max(1.6, 0.27 * len(costs) + 0.4), 1.8))
    upper, lower = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    upper.set_title("a  whole record, filters in the order in which they run")
    lower.set_title("b  period by period: kept, and removed by the costliest filters")
    if costs.empty:
        for axes in (upper, lower):
            axes.set_xticks([])
            axes.set_yticks([])
            style.state_reason(axes, "no segment met a filter")
    else:
        colours = _filter_colours(costs)
        _draw_costs(upper, costs, colours)
        _draw_periods(lower, periods, colours)
    style.head(figure, f"{title}: what each segment filter costs", _costs_note(report, periods))
    return figure


def filter_costs(report: pd.DataFrame) -> pd.DataFrame:
    """Return what every filter removes over the whole record, in the filters' order.

    Returns
    -------
    pandas.DataFrame
        Columns filter, removed and alone (% of the segments that entered the filters), not_given
        (% of the beams that lack its value); NaN where nothing was measured.
    """
    whole = report[report["period"] == WHOLE]
    entered, _ = _entered_and_kept(whole)
    filters = whole[whole["stage"] == "filter"].sort_values("position")
    return pd.DataFrame(
        {
            "filter": filters["filter"],
            "removed": 100 * filters["rows_removed"] / (entered or np.nan),
            "alone": filters["alone_percent"].astype(float),
            "not_given": 100 * filters["beams_not_given"] / filters["beams"],
        }
    ).reset_index(drop=True)


def period_costs(report: pd.DataFrame) -> pd.DataFrame:
    """Return what every period kept and what each filter took of it in its turn.

    Returns
    -------
    pandas.DataFrame
        A row for each period, in order; columns ``kept`` and one for each filter, in % of the
        segments that entered the filters, NaN in a period that none entered.
    """
    rows = {}
    for period, steps in report[report["period"] != WHOLE].groupby("period", sort=True):
        entered, kept = _entered_and_kept(steps)
        removed = steps[steps["stage"] == "filter"].set_index("filter")["rows_removed"]
        rows[period] = 100 * pd.concat([pd.Series({"kept": kept}), removed]) / (entered or np.nan)
    return pd.DataFrame.from_dict(rows, orient="index")


def _entered_and_kept(steps: pd.DataFrame) -> tuple[int, int]:
    """Return how many rows of a period entered the filters, and how many they kept."""
    removed = steps.groupby(steps["stage"] == "filter")["rows_removed"].sum()
    entered = steps.loc[steps["filter"] == "read", "rows_in"].sum() - removed.get(False, 0)
    return int(entered), int(entered - removed.get(True, 0))


def _filter_colours(costs: pd.DataFrame) -> dict[str, str]:
    """Return a colour for each of the filters that take most, in the filters' order."""
    taking = costs[costs["removed"] > 0].nlargest(len(_COSTLIEST), "removed").sort_index()
    return dict(zip(taking["filter"], _COSTLIEST, strict=False))


def _draw_costs(axes: Axes, costs: pd.DataFrame, colours: dict[str, str]) -> None:
    from matplotlib.patches import Patch

    place = np.arange(len(costs), dtype=float)[::-1]
    reach = max(1.0, float(np.nanmax(costs[["alone", "removed"]].to_numpy())))
    faces = [colours.get(name, _OTHERS) for name in costs["filter"]]
    hollow = axes.barh(
        place + 0.19,
        costs["alone"].fillna(0.0),
        0.34,
        color="white",
        edgecolor=style.EDGE,
        lw=0.6,
        gid="alone",
    )
    filled = axes.barh(place - 0.19, costs["removed"].fillna(0.0), 0.34, color=faces, gid="removed")
    for bars, column in ((hollow, "alone"), (filled, "removed")):
        for bar, value, missing in zip(bars, costs[column], costs["not_given"], strict=True):
            text = "n/a" if np.isnan(value) else _short(value)
            if missing >= _MISSING_PERCENT and column == "alone":
                text += f"  (not given in {_short(missing)} % of the beams)"
            middle = bar.get_y() + bar.get_height() / 2
            axes.text(bar.get_width() + 0.01 * reach, middle, text, va="center", fontsize=6)
    axes.set_yticks(place, [name.replace("_", " ") for name in costs["filter"]])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("share of the segments that entered the filters (%)")
    axes.set_xlim(0, 1.1 * reach)
    axes.set_ylim(-0.6, len(costs) - 0.4)
    axes.legend(
        handles=[
            Patch(facecolor="white", edgecolor=style.EDGE, lw=0.6, label="this filter alone"),
            Patch(facecolor=_OTHERS, label="in its turn\n(colours as in b)"),
        ],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )


def _short(value: float) -> str:
    """Return a share to two digits, and a small one as smaller than what two would show."""
    if 0 < value < 0.01:
        return "< 0.01"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _draw_periods(axes: Axes, periods: pd.DataFrame, colours: dict[str, str]) -> None:
    shares = periods[["kept", *colours]].copy()
    shares["other_filters"] = periods.drop(columns=shares.columns).sum(axis=1)
    foot = np.zeros(len(periods))
    place = np.arange(len(periods), dtype=float)
    # Bars of a long record touch, so that a gap is a period without segments.
    few = len(periods) <= _MOST_LABELS
    for name, colour in ({"kept": _KEPT} | colours | {"other_filters": _OTHERS}).items():
        share = shares[name].fillna(0.0)
        if share.any():
            axes.bar(
                place,
                share,
                0.7 if few else 1.0,
                bottom=foot,
                color=colour,
                label=name.replace("_", " "),
                gid=f"period_{name}",
            )
        foot = foot + share.to_numpy()
    if few:
        for x, kept in zip(place, periods["kept"], strict=True):
            if np.isfinite(kept):
                axes.text(x, kept / 2, f"{kept:.0f}", ha="center", va="center", fontsize=6.5)
    labels = _period_labels(list(periods.index))
    axes.set_xticks(list(labels), list(labels.values()))
    # One bar alone is no wall.
    pad = max(0.6, 2.5 - len(periods) / 2)
    axes.set_xlim(-pad, len(periods) - 1 + pad)
    axes.set_ylim(0, 100)
    axes.set_ylabel("share of the segments (%)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), reverse=True)


def _period_labels(periods: list[str]) -> dict[int, str]:
    """Return labels by place: every period where there are few, else the starts of years."""
    if len(periods) <= _MOST_LABELS:
        return dict(enumerate(periods))
    starts = {
        place: name[:4] for place, name in enumerate(periods) if name[4:] in ("", "-01", "Q1")
    }
    step = -(-len(starts) // _MOST_LABELS)
    return {place: year for place, year in starts.items() if int(year) % step == 0}


def _costs_note(report: pd.DataFrame, periods: pd.DataFrame) -> str:
    whole = report[report["period"] == WHOLE]
    entered, kept = _entered_and_kept(whole)
    filters = whole[whole["stage"] == "filter"]
    if filters.empty:
        return f"{entered:,} segments lie in the region; no filter ran on them."
    seen = periods.index[periods["kept"].notna()]
    span = seen[0] if len(seen) == 1 else f"{seen[0]} to {seen[-1]}"
    return (
        f"{entered:,} segments of {filters['granules'].max():,} granules entered the filters "
        f"({span}); {kept:,} kept ({100 * kept / entered:.1f} %). Shares are of the segments that "
        "entered; in its turn a filter meets what the filters above it left. A period without a "
        "bar has no segment."
    )
