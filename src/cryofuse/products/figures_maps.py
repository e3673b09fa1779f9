"""Maps of results: regimes, skill, explained variance, coupling, lead and lag, lakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cryofuse.products import style
from cryofuse.products.style import TREATMENT_NAMES, BaseMap, MasconShapes

if TYPE_CHECKING:
    import geopandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Mean rate (m/yr) within which a regime neither thins nor thickens.
STEADY_M_YR = 0.05
#: White on every colour of a map.
_LAKE_MARK: dict[str, Any] = {
    "marker": "^", "ls": "none", "ms": 4.5, "mfc": "white", "mec": style.INK, "mew": 0.7,
}  # fmt: skip
#: Lakes whose series are drawn, largest range of volume first.
MOST_LAKES = 6
#: Side of a close-up about a candidate where the region names no window (m).
CLOSE_UP_M = 20_000.0
DEPARTURES = style.SEQUENTIAL.reversed()
EVENT_COLOURS = {"fill": "#0072B2", "drain": "#D55E00"}
#: Inventory lakes by outcome: colour of the mark, and words.
INVENTORY_MARKS = {
    "not_searched": ("#ffffff", "inventory lake, not searched"),
    "miss": ("#F0E442", "inventory lake without a candidate"),
    "hit": ("#009E73", "inventory lake with a candidate"),
}
LAKE_COLOURS = {"candidate": "#D55E00", "lookalike": "#7a7a7a"}


def _panels(
    figure: Figure, base: BaseMap, titles: list[str], ice: Sequence[str] = ()
) -> list[Axes]:
    """Return panels in a row with base maps and lettered titles."""
    panels = list(figure.subplots(1, len(titles)))
    for letter, axes, title, colour in zip(
        "abcdefgh", panels, titles, ice or [style.ICE] * len(titles), strict=False
    ):
        style.draw_base(axes, base, ice=colour)
        axes.set_title(f"{letter}  {title}", fontsize=7.5)
    return panels


def _rows(table: pd.DataFrame) -> list[Any]:
    return list(table.itertuples())


def _by_mascon(table: pd.DataFrame, column: str) -> dict[int, float]:
    return dict(zip(table["mascon_id"].astype(int), table[column].astype(float), strict=True))


@style.styled
def draw_regime_map(
    regimes: pd.DataFrame,
    nodes: pd.DataFrame,
    mascons: pd.DataFrame,
    centroids: pd.DataFrame,
    shapes: MasconShapes,
    base: BaseMap,
) -> Figure:
    """Draw the regimes of nodes and of mascons, each with a legend that names and describes them.

    Parameters
    ----------
    regimes
        Table ``regimes/nodes``.
    nodes
        Table ``altimetry/nodes``, for the cells' spacing and windows.
    mascons
        Table ``regimes/mascons``.
    centroids
        Table ``regimes/centroids``.
    shapes, base
        Cut mascons and base map.
    """
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.patches import Patch

    unit = shapes.unit
    table = regimes.merge(
        nodes[["node_id", "spacing_m", "window", "first", "last"]], on="node_id", how="left"
    )
    figure = style.new_figure(min(base.panel_height(2) + 2.0, 8.2))
    panels = _panels(
        figure, base, ["nodes", f"{unit}s, by their mean metrics"], ice=(style.UNSEEN, style.ICE)
    )
    kinds = {"nodes": regimes, "mascons": mascons}
    handles: dict[str, list[Patch]] = {}
    values = _by_mascon(mascons, "regime")
    # One colour for a name on both maps.
    names = centroids.dropna(subset=["regime"]).groupby("regime_name")["rate_m_yr"].mean()
    colour_of = regime_colours(names)
    for axes, (level, rows) in zip(panels, kinds.items(), strict=True):
        known = rows["regime"].dropna()
        handles[level] = []
        if known.empty:
            style.state_reason(axes, style.first_reason(rows["reason"], default="no regime"))
            continue
        described = centroids[centroids["level"] == level].dropna(subset=["regime"])
        described = described.sort_values("regime")
        colours = [colour_of[name] for name in described["regime_name"]]
        cmap, norm = ListedColormap(colours), Normalize(-0.5, len(colours) - 0.5)
        if level == "nodes":
            style.draw_nodes(axes, table, "regime", cmap, norm)
        else:
            style.draw_mascons(axes, shapes, values, cmap, norm, number=style.decimals(0))
        handles[level] = [
            Patch(color=colour, label=_describe(row))
            for colour, row in zip(colours, _rows(described), strict=True)
        ]
    filled = max(len(part) for part in handles.values())
    columns = [part + [Patch(alpha=0)] * (filled - len(part)) for part in handles.values()]
    if filled:
        columns[0].append(style.unseen_handle("a: no fit, or a rate too uncertain to classify"))
        none = Patch(
            facecolor=style.NULL_FACE, edgecolor=style.NULL_EDGE, hatch=style.NULL_HATCH, lw=0,
            label="b: not classified; pale: ice-free land",
        )  # fmt: skip
        columns[1].append(none)
        style.legend_below(
            figure,
            columns[0] + columns[1],
            2,
            fontsize=5.9,
            title=f"regime (left: nodes, right: {unit}s): ice area in thousand km², mean rate of "
            "elevation change, mean annual amplitude",
            title_fontsize=6.5,
            alignment="left",
        )
    months = style.months_text(table["first"], table["last"])
    style.head(
        figure,
        f"{base.title}: regimes of elevation change",
        f"K-Means on standardised metrics, {months}: {regimes['regime'].notna().sum():,} of "
        f"{len(table):,} nodes and {mascons['regime'].notna().sum()} of {len(mascons)} {unit}s "
        f"classified. Names by rule; 0 thins fastest. Nodes and {unit}s are clustered apart; a "
        "colour means a name: brown to yellow thins, pale green is steady, blue thickens."
        + ("" if shapes.selected.all() else " Dashed: footprints not in the totals."),
    )
    return figure


def regime_colours(rates: pd.Series) -> dict[str, Any]:
    """Return a colour for each regime: thinning, steady and thickening ones apart, by rank.

    Parameters
    ----------
    rates
        Mean rate of elevation change (m/yr) by the regime's name.

    Returns
    -------
    dict
        RGBA by name, from the two arms of a diverging map and its middle.
    """
    colours: dict[str, Any] = {}
    ranked = rates.sort_values()
    arms = {-1: (0.0, 0.34), 0: (0.46, 0.54), 1: (0.74, 0.97)}
    side = np.sign(ranked) * (ranked.abs() > STEADY_M_YR)
    for sign, (first, last) in arms.items():
        here = ranked.index[side == sign]
        places = np.linspace(first, last, len(here)) if len(here) > 1 else [(first + last) / 2]
        colours |= dict(zip(here, style.DIVERGING_CLASSES(places), strict=False))
    return colours


def _describe(row: Any) -> str:
    rate = style.decimals(2, "+")(row.rate_m_yr).replace("-", "−")
    return (
        f"{row.regime:.0f}  {row.regime_name}: {row.area_km2 / 1e3:,.0f}, "
        f"{rate} m/yr, {row.amplitude_m:.2f} m"
    )


def best_model(scores: pd.DataFrame, split: str, target: str) -> str | None:
    """Return the model (no baseline, no control) with the lowest pooled RMSE of a split."""
    rows = scores[
        (scores["kind"] == "model")
        & (scores["split"] == split)
        & (scores["target"] == target)
        & (scores["scope"] == "pooled")
        & (scores["score"] == "rmse_cm")
    ].dropna(subset=["value"])
    return None if rows.empty else str(rows.sort_values(["value", "model"])["model"].iloc[0])


def mascon_scores(scores: pd.DataFrame, model: str, split: str, target: str, score: str) -> dict:
    """Return a score by mascon_id."""
    rows = scores[
        (scores["model"] == model)
        & (scores["split"] == split)
        & (scores["target"] == target)
        & (scores["score"] == score)
        & scores["scope"].str.startswith("mascon:")
    ]
    ids = rows["scope"].str.removeprefix("mascon:").astype(int)
    return dict(zip(ids, rows["value"].astype(float), strict=True))


@style.styled
def draw_skill_map(
    scores: pd.DataFrame, shapes: MasconShapes, base: BaseMap, months: str
) -> Figure:
    """Draw R² of the monthly change by mascon, where mascons and where the future are left out.

    Parameters
    ----------
    scores
        Table ``skill/scores``.
    shapes, base
        Cut mascons and base map.
    months
        First and last month of altimetry, in words.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import TwoSlopeNorm

    figure = style.new_figure(min(base.panel_height(2) + 1.85, 8.0))
    splits = ["leave_mascon_out", "forward"]
    unit = shapes.unit
    panels = _panels(figure, base, [style.split_name(s, unit) for s in splits])
    cmap, norm = style.DIVERGING.reversed(), TwoSlopeNorm(0.0, -1.0, 1.0)
    every: list[float] = []
    drawn = []
    for axes, split in zip(panels, splits, strict=True):
        model = best_model(scores, split, "change")
        values = mascon_scores(scores, model, split, "change", "r2") if model else {}
        style.draw_mascons(axes, shapes, values, cmap, norm, number=style.decimals(2))
        every += values.values()
        drawn.append(values)
        if model:
            axes.set_title(f"{axes.get_title('left')}: {style.model_name(model)}", fontsize=7.5)
        if not np.isfinite(list(values.values()) or [np.nan]).any():
            rows = scores[(scores["split"] == split) & (scores["target"] == "change")]
            style.state_reason(axes, style.first_reason(rows["reason"], default="no score"))
    style.colour_bar(
        figure,
        ScalarMappable(norm, cmap),
        panels,
        f"R² of monthly mass change by {unit} (1; below 0: worse than the {unit}'s own mean)",
        every,
        location="bottom",
        shrink=0.6,
        aspect=40,
    )
    handles = style.mascon_handles(shapes, *drawn)
    style.legend_below(figure, list(handles), 4)
    style.head(
        figure,
        f"{base.title}: predictive skill",
        f"{months}. Held-out predictions of GRACE mass change (cm water equivalent per month) from "
        "ICESat-2 elevation change, by the model with the lowest pooled RMSE in each split. "
        f"{style.beyond_text(every, norm)}",
    )
    return figure


@style.styled
def draw_explained_map(
    explained: pd.DataFrame, shapes: MasconShapes, base: BaseMap, months: str
) -> Figure:
    """Draw explained variance of the monthly change: total, trend, seasonal, interannual.

    Parameters
    ----------
    explained
        Table ``explained/mascons``.
    shapes, base
        Cut mascons and base map.
    months
        First and last month of altimetry, in words.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import TwoSlopeNorm

    parts = ["total", "trend", "seasonal", "interannual"]
    figure = style.new_figure(min(2 * base.panel_height(3.4) + 2.2, 8.2))
    # Apart, so that neither the heat map's head nor its foot parts the maps from what is theirs.
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.9, 1.15))
    left, right = halves
    places = left.subplots(2, 2)
    cmap, norm = style.DIVERGING.reversed(), TwoSlopeNorm(0.0, -1.0, 1.0)
    drawn = []
    change = explained[(explained["target"] == "change") & (explained["scope"] == "mascon")]
    panels = []
    for index, (axes, part) in enumerate(zip(places.flat, parts, strict=True)):
        panels.append(axes)
        style.draw_base(axes, base, labels=index >= 2)
        axes.set_title(f"{'abcd'[index]}  {part}", fontsize=7.5)
        values = _by_mascon(change, f"explained_{part}")
        drawn.append(values)
        style.draw_mascons(axes, shapes, values, cmap, norm, number=style.decimals(1), panel_in=2.1)
        if not np.isfinite(list(values.values()) or [np.nan]).any():
            style.state_reason(axes, style.first_reason(change["reason"], default="no value"))
    heat = right.subplots()
    _draw_heat(heat, explained, parts, shapes, cmap, norm)
    everything = explained[[f"explained_{p}" for p in parts]].to_numpy(dtype=float)
    style.colour_bar(
        left,
        ScalarMappable(norm, cmap),
        panels,
        "explained share of variance (1; negative: the prediction adds variance)",
        everything,
        location="bottom",
        aspect=40,
    )
    handles = style.mascon_handles(shapes, *drawn)
    style.legend_below(figure, list(handles), 4)
    split = ", ".join(style.split_name(s, shapes.unit) for s in explained["split"].unique())
    style.head(
        figure,
        f"{base.title}: variance of GRACE mass that the model explains",
        f"{months}. Out-of-fold predictions ({split or 'no split'}). a–d: monthly change; e: "
        f"monthly change and cumulative anomaly, a row for each {shapes.unit} (number and centre), "
        "the best of the monthly change above, the whole region below. "
        "Where the observed part hardly varies, as a steady interior's trend, the share is far "
        f"below 0. {style.beyond_text(everything, norm)}",
    )
    return figure


def _draw_heat(
    axes: Axes,
    explained: pd.DataFrame,
    parts: list[str],
    shapes: MasconShapes,
    cmap: Any,
    norm: Any,
) -> None:
    from matplotlib.patches import Rectangle

    targets = [t for t in style.TARGET_NAMES if (explained["target"] == t).any()]
    mascons = explained[explained["scope"] == "mascon"]
    first = mascons[mascons["target"] == targets[0]] if targets else mascons
    first = first.sort_values(["explained_total", "mascon_id"], ascending=[False, True])
    ids = [*first["mascon_id"].astype(int), -1]
    explained = explained.assign(mascon_id=explained["mascon_id"].astype(float).fillna(-1))
    axes.set_title(f"e  by {shapes.unit}", fontsize=7.5, pad=24)
    if not targets or mascons.empty:
        style.state_reason(axes, f"no {shapes.unit}")
        return
    blocks = [
        explained[explained["target"] == t]
        .set_index("mascon_id")
        .reindex(ids)[[f"explained_{p}" for p in parts]]
        .to_numpy(dtype=float)
        for t in targets
    ]
    cells = np.hstack(blocks)
    axes.imshow(
        np.ma.masked_invalid(cells), cmap=cmap, norm=norm, aspect="auto", interpolation="nearest",
        gid="heat",
    )  # fmt: skip
    for row, column in np.argwhere(~np.isfinite(cells)):
        axes.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                facecolor=style.NULL_FACE,
                edgecolor=style.NULL_EDGE,
                hatch=style.NULL_HATCH,
                lw=0,
            )
        )
    if len(ids) <= style.MOST_NUMBERS:
        names = [f"{i}: {shapes.place.get(i, '')}" for i in ids[:-1]]
        axes.set_yticks(range(len(ids)), [*names, "region"], fontsize=5.5)
    else:
        axes.set_yticks([len(ids) - 1], ["region"], fontsize=5.5)
        axes.set_ylabel(f"{len(ids) - 1} {shapes.unit}s, best above", fontsize=6.5)
    axes.tick_params(length=0)
    axes.axhline(len(ids) - 1.5, color="white", lw=2)
    axes.set_xticks(range(cells.shape[1]), parts * len(targets), rotation=90, fontsize=6.5)
    for index, target in enumerate(targets):
        axes.annotate(
            style.TARGET_NAMES[target].replace(" ", "\n"), ((index + 0.5) * len(parts) - 0.5, 1),
            xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points",
            ha="center", va="bottom", fontsize=6,
        )  # fmt: skip
        if index:
            axes.axvline(index * len(parts) - 0.5, color="white", lw=2)


@style.styled
def draw_coupling_map(
    coupling: pd.DataFrame,
    lakes: pd.DataFrame,
    shapes: MasconShapes,
    base: BaseMap,
    months: str,
    fdr: float = 0.05,
) -> Figure:
    """Draw the correlation of elevation and mass at each mascon's best lag for three treatments.

    Parameters
    ----------
    coupling
        Table ``coupling/mascons``.
    lakes
        Table ``hydrology/lakes``: mascons with candidates are marked.
    shapes, base
        Cut mascons and base map.
    months
        First and last month of altimetry, in words.
    fdr
        False discovery rate up to which a mascon is stippled.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.lines import Line2D

    figure = style.new_figure(min(base.panel_height(3) + 1.95, 6.5))
    panels = _panels(figure, base, list(TREATMENT_NAMES.values()))
    cmap, norm = style.DIVERGING, TwoSlopeNorm(0.0, -1.0, 1.0)
    candidates = lakes[lakes["status"] == "candidate"]
    marks = candidates[["x_m", "y_m"]].to_numpy(dtype=float)
    drawn = []
    for axes, treatment in zip(panels, TREATMENT_NAMES, strict=True):
        mine = coupling[coupling["treatment"] == treatment]
        rows = mine[mine["best"]]
        values = _by_mascon(rows, "r")
        drawn.append(values)
        style.draw_mascons(
            axes,
            shapes,
            values,
            cmap,
            norm,
            significant=_significant(rows, fdr),
            number=style.decimals(1),
            avoid=marks,
            panel_in=2.1,
        )
        if len(candidates):
            axes.plot(*(marks / 1e3).T, zorder=9, gid="lake_candidates", **_LAKE_MARK)
        if not np.isfinite(list(values.values()) or [np.nan]).any():
            style.state_reason(axes, style.first_reason(mine["reason"], default="no value"))
    handles: list[Any] = [_stipple(fdr)]
    if len(candidates):
        handles.append(Line2D([], [], label="candidate of an active lake", **_LAKE_MARK))
    handles += style.mascon_handles(shapes, *drawn)
    style.legend_below(figure, handles, 3)
    style.colour_bar(
        figure,
        ScalarMappable(norm, cmap),
        panels,
        "correlation r of elevation change and mass at the best lag (1)",
        location="bottom",
        shrink=0.6,
        aspect=40,
    )
    style.head(
        figure,
        f"{base.title}: coupling of elevation and mass",
        f"{months}, {_n_text(coupling)}. Pearson correlation of ICESat-2 elevation and GRACE mass "
        f"by {shapes.unit}, {_lag_text(coupling)}. Significant: more than the best of all lags of "
        "unrelated series with the same memory and seasons, over the map. In panel a trends alone "
        f"can make unrelated series look related. {_lakes_text(candidates, shapes.unit)}",
    )
    return figure


def _significant(rows: pd.DataFrame, fdr: float) -> dict[int, bool]:
    """Return which mascons' coupling is told from chance."""
    small = (rows["q_fdr"] <= fdr).to_numpy(dtype=bool)
    return dict(zip(rows["mascon_id"].astype(int), small.tolist(), strict=True))


def _stipple(fdr: float) -> Any:
    """Return the legend's entry of significant mascons."""
    from matplotlib.patches import Patch

    return Patch(
        facecolor="white",
        edgecolor=style.INK,
        hatch=style.SIGNIFICANT_HATCH,
        lw=0.3,
        label=f"dots: significant, q ≤ {fdr:g} (false discovery rate)",
    )


def _lag_text(coupling: pd.DataFrame) -> str:
    reach = int(coupling["lag_months"].abs().max()) if len(coupling) else 0
    return f"best of the lags −{reach} to +{reach} months (positive: mass follows elevation)"


def _n_text(coupling: pd.DataFrame) -> str:
    n = coupling["n"]
    low, high = (int(n.min()), int(n.max())) if len(n) else (0, 0)
    return f"{high} common months" if low == high else f"{low} to {high} common months"


def _lakes_text(candidates: pd.DataFrame, unit: str) -> str:
    if candidates.empty:
        return ""
    ids = sorted(candidates["mascon_id"].dropna().astype(int).unique())
    return f"{unit.capitalize()}s with lake candidates: {', '.join(map(str, ids))}."


@style.styled
def draw_lead_lag_map(
    coupling: pd.DataFrame, shapes: MasconShapes, base: BaseMap, months: str, fdr: float = 0.05
) -> Figure:
    """Draw the lag of the largest |r| (two treatments) and the effective density (detrended).

    Parameters
    ----------
    coupling
        Table ``coupling/mascons``.
    shapes, base
        Cut mascons and base map.
    months
        First and last month of altimetry, in words.
    fdr
        False discovery rate up to which a mascon is stippled.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm
    from matplotlib.patches import Patch

    figure = style.new_figure(min(base.panel_height(3) + 1.85, 6.6))
    titles = ["lag, detrended", f"lag, {TREATMENT_NAMES['deseasonalised']}", "density, detrended"]
    panels = _panels(figure, base, titles)
    reach = max(int(coupling["lag_months"].abs().max()) if len(coupling) else 6, 1)
    cmap = style.DIVERGING
    norm = BoundaryNorm(np.arange(-reach - 0.5, reach + 1), cmap.N)
    best = coupling[coupling["best"]]
    drawn = []
    for axes, treatment in zip(panels[:2], ("detrended", "deseasonalised"), strict=True):
        rows = best[best["treatment"] == treatment]
        rows = rows[rows["r"].notna()]
        values = _by_mascon(rows, "lag_months")
        drawn.append(values)
        style.draw_mascons(
            axes,
            shapes,
            values,
            cmap,
            norm,
            significant=_significant(rows, fdr),
            untold=False,
            number=style.decimals(0, "+"),
            panel_in=2.1,
        )
        if not values:
            mine = coupling[coupling["treatment"] == treatment]
            style.state_reason(axes, style.first_reason(mine["reason"], default="no value"))
    bar = style.colour_bar(
        figure,
        ScalarMappable(norm, cmap),
        panels[:2],
        "lag of the largest |r| (months; positive: mass lags elevation)",
        location="bottom",
        aspect=40,
    )
    bar.set_ticks(np.arange(-reach, reach + 1, 2 if reach > 4 else 1))
    rows = best[best["treatment"] == "detrended"]
    values = _by_mascon(rows, "density_kg_m3")
    finite = np.array([v for v in values.values() if np.isfinite(v)])
    density_norm = style.range_norm(np.clip(finite, 0, 1500), quantile=0.95, low=0.0)
    told = _significant(rows, fdr)
    coloured = [v for i, v in values.items() if told[i]]
    style.draw_mascons(
        panels[2],
        shapes,
        values,
        style.SEQUENTIAL,
        density_norm,
        significant=told,
        untold=False,
        number=style.decimals(0),
        panel_in=2.1,
    )
    if not finite.size:
        mine = coupling[coupling["treatment"] == "detrended"]
        style.state_reason(panels[2], style.first_reason(mine["reason"], default="no value"))
    style.colour_bar(
        figure,
        ScalarMappable(density_norm, style.SEQUENTIAL),
        panels[2],
        "effective density (kg/m³)",
        coloured,
        location="bottom",
    )
    style.legend_below(
        figure,
        [
            _stipple(fdr),
            Patch(
                facecolor=style.ICE,
                edgecolor=style.INK,
                lw=0.3,
                label="white: not significant",
            ),
            *style.mascon_handles(shapes, *drawn, values),
        ],
        3,
    )
    beyond = style.beyond_text(coloured, density_norm).replace("Of", "c: of", 1)
    style.head(
        figure,
        f"{base.title}: lead and lag of mass and elevation, effective density",
        f"{months}, {_n_text(coupling)}. By {shapes.unit}, {_lag_text(coupling)}. In white, "
        "with pale numbers: not told from chance. Effective density: mass "
        f"over ice area times elevation change, errors in both. {beyond}",
    )
    return figure


def _name_lake(row: Any) -> str:
    bound = "≥ " if row.volume_is_lower_bound else ""
    text = f"{row.lake_id}  {bound}{row.volume_range_km3:.3f} km³, {row.area_km2:.0f} km²"
    return text + (f", {row.inventory_name}" if isinstance(row.inventory_name, str) else "")


@style.styled
def draw_lakes_map(
    lakes: geopandas.GeoDataFrame,
    months: pd.DataFrame,
    events: pd.DataFrame,
    searched: pd.DataFrame,
    matches: pd.DataFrame,
    base: BaseMap,
) -> Figure:
    """Draw lake candidates, look-alikes and inventory lakes, close-ups, and volume series.

    Parameters
    ----------
    lakes
        Table ``hydrology/lakes`` with outlines (longitude and latitude).
    months, events
        Tables ``hydrology/lake_months`` and ``hydrology/lake_events``.
    searched
        Table ``hydrology/searched_nodes``: the close-ups show how far each node departed.
    matches
        Table ``hydrology/inventory_matches``.
    base
        Base map.
    """
    largest = lakes[lakes["status"] == "candidate"].nlargest(MOST_LAKES, "volume_range_km3")
    rows = (len(largest) + 1) // 2
    top = min(4.4, 0.62 * style.PAGE_WIDTH_IN * base.aspect)
    figure = style.new_figure(top + 1.3 * rows + 0.9)
    heights = [top, 1.3 * rows][: 1 + bool(rows)]
    parts: Any = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    upper = parts[0]
    frames = _close_ups(lakes, searched)
    axes, close, rest = _lake_panels(upper, base, frames, top)
    style.draw_base(axes, base)
    notes = [_count(_within(lakes, frame)) for frame in frames.values()]
    style.mark_windows(axes, frames, "ABC"[: len(frames)], notes)
    for letter, place, (name, frame) in zip("ABC", close, frames.items(), strict=False):
        style.draw_base(place, base, window=frame, ice=style.UNSEEN)
        place.set_title(f"{letter}  {style.window_name(name)}", fontsize=7.5)
    beyond = _draw_departures(upper, close, searched, rest)
    for place in close:
        _draw_outlines(place, lakes, base)
    handles = _mark_lakes([axes, *close], lakes, matches)
    if close:
        handles.append(style.unseen_handle("close-ups: not searched"))
    if rows:
        _draw_volumes(parts[1], largest, months, events, rows)
    style.legend_below(figure, handles, 3, fontsize=6.3)
    if lakes.empty:
        style.state_reason(
            axes, "no lake candidate found" if len(searched) else "no node could be searched"
        )
    candidates = int((lakes["status"] == "candidate").sum())
    drawn = f"; the {len(largest)} largest below" if len(largest) < candidates else ""
    span = style.months_text(months["month"])
    note = (
        f"{_count(lakes).replace(chr(10), '; ')}{drawn}; "
        f"{len(searched):,} nodes searched, {span}. Close-ups: how far each node moved apart from "
        f"the ring of ice around it. {beyond} "
    )
    if rows:
        note += (
            "Series: volume against its median (positive: the lake stands higher), with 1σ, cut "
            "where a bar outreaches the panel; bands: fills (blue) and drains "
            "(orange); the largest draining is written out."
            + (" ≥: cut by unsearched ice." if largest["volume_is_lower_bound"].any() else "")
        )
    if (matches["outcome"] == "not_compared").any():
        note += f" Not compared: {style.first_reason(matches['reason'])}."
    style.head(figure, f"{base.title}: candidates of active subglacial lakes", note)
    return figure


def _count(lakes: pd.DataFrame) -> str:
    """Return how many candidates and look-alikes there are, a line for each."""
    candidates = int((lakes["status"] == "candidate").sum())
    others = len(lakes) - candidates
    text = f"{candidates} candidate{'' if candidates == 1 else 's'}"
    return text + (f"\n{others} look-alike{'' if others == 1 else 's'}" if others else "")


def _within(lakes: pd.DataFrame, frame: tuple[float, float, float, float]) -> pd.DataFrame:
    x_min, y_min, x_max, y_max = frame
    return lakes[lakes["x_m"].between(x_min, x_max) & lakes["y_m"].between(y_min, y_max)]


def _lake_panels(
    figure: Any, base: BaseMap, frames: dict[str, Any], height_in: float
) -> tuple[Axes, list[Axes], Axes | None]:
    """Return the map's axes, those of close-ups, and a place for the colour bar if one is left.

    Beside a narrow map three close-ups stand two in a row.
    """
    if not frames:
        return figure.add_subplot(), [], None
    map_in = height_in / base.aspect + (0.69 if base.holds_pole else 0.36)
    beside_in = style.PAGE_WIDTH_IN - map_in
    if len(frames) < 3 or beside_in < 3.0:
        grid = figure.add_gridspec(len(frames), 2, width_ratios=(map_in, beside_in))
        close = [figure.add_subplot(grid[row, 1]) for row in range(len(frames))]
        return figure.add_subplot(grid[:, 0]), close, None
    grid = figure.add_gridspec(2, 3, width_ratios=(map_in, beside_in / 2, beside_in / 2))
    places = [figure.add_subplot(grid[i // 2, 1 + i % 2]) for i in range(4)]
    places[3].set_axis_off()
    return figure.add_subplot(grid[:, 0]), places[:3], places[3]


def _close_ups(
    lakes: pd.DataFrame, searched: pd.DataFrame
) -> dict[str, tuple[float, float, float, float]]:
    """Return up to three frames (m): the windows, else squares about the largest candidates."""
    frames = dict(list(style.window_frames(searched).items())[:3])
    if frames:
        return frames
    for row in _rows(lakes.nlargest(len(lakes), "volume_range_km3")):
        inside = [f[0] < row.x_m < f[2] and f[1] < row.y_m < f[3] for f in frames.values()]
        if len(frames) < 3 and not any(inside):
            r = CLOSE_UP_M / 2
            frames[f"lake {row.lake_id}"] = (row.x_m - r, row.y_m - r, row.x_m + r, row.y_m + r)
    return frames


def _draw_departures(
    figure: Any, close: list[Axes], searched: pd.DataFrame, rest: Axes | None
) -> str:
    """Draw how far nodes departed; return what the colour bar leaves out."""
    if not close or searched.empty:
        return ""
    norm = style.range_norm(searched["departure_range_m"], 0.995, low=0.0)
    images = [
        image
        for place in close
        for image in style.draw_nodes(place, searched, "departure_range_m", DEPARTURES, norm)
    ]
    style.colour_bar(
        figure, images[0], close if rest is None else rest, "range of departure\nfrom the ring (m)",
        searched["departure_range_m"], location="bottom" if rest is None else "top", aspect=14,
        shrink=1.0,
    )  # fmt: skip
    return style.beyond_text(searched["departure_range_m"], norm)


def _draw_outlines(place: Axes, lakes: geopandas.GeoDataFrame, base: BaseMap) -> None:
    from matplotlib.patches import PathPatch

    from cryofuse.geo import reproject

    (x_low, x_high), (y_low, y_high) = place.get_xlim(), place.get_ylim()
    for row in _rows(lakes):
        x, y = row.x_m / 1e3, row.y_m / 1e3
        if not (x_low <= x <= x_high and y_low <= y <= y_high):
            continue
        outline = style.outline_path(reproject(row.geometry, "EPSG:4326", base.crs))
        colour = LAKE_COLOURS.get(row.status, style.FAINT)
        place.add_patch(
            PathPatch(outline, facecolor="none", edgecolor=colour, lw=1.3, zorder=8, gid="lake")
        )
        place.annotate(
            str(row.lake_id), (x, y), fontsize=6.5, fontweight="bold", ha="center", va="center",
            zorder=12, path_effects=style.halo(), gid="lake_number",
        )  # fmt: skip


def _mark_lakes(panels: list[Axes], lakes: pd.DataFrame, matches: pd.DataFrame) -> list[Any]:
    """Mark lakes of the inventory by outcome, look-alikes and candidates; return the handles."""
    from matplotlib.lines import Line2D

    kinds: list[tuple[pd.DataFrame, str, dict[str, Any], str, list[Axes]]] = []
    look: dict[str, Any]
    known = matches[matches["inventory_row"].notna()]
    for outcome, (face, label) in INVENTORY_MARKS.items():
        part = known[known["outcome"] == outcome]
        look = {"marker": "D", "ms": 3.6, "mfc": face, "mec": style.INK, "mew": 0.5, "ls": "none"}
        kinds.append((part, f"inventory_{outcome}", look, f"{label} ({len(part)})", panels))
    for status, label in (("lookalike", "look-alike"), ("candidate", "active-lake candidate")):
        part = lakes[lakes["status"] == status]
        look = {
            "marker": "^", "ms": 5.0, "mfc": LAKE_COLOURS[status], "mec": "white", "mew": 0.4,
            "ls": "none",
        }  # fmt: skip
        kinds.append((part, f"lakes_{status}", look, f"{label} ({len(part)})", panels[:1]))
    handles = []
    for part, gid, look, label, places in kinds:
        if part.empty:
            continue
        handles.append(Line2D([], [], label=label, **look))
        for place in places:
            limits = place.get_xlim(), place.get_ylim()
            place.plot(part["x_m"] / 1e3, part["y_m"] / 1e3, zorder=11, gid=gid, **look)
            place.set_xlim(*limits[0])
            place.set_ylim(*limits[1])
    return handles[::-1]


def _draw_volumes(
    figure: Any, largest: pd.DataFrame, months: pd.DataFrame, events: pd.DataFrame, rows: int
) -> None:
    """Draw volume with σ for each of some lakes, its events as dated bands."""
    panels = np.ravel(figure.subplots(rows, 2, sharex=True, squeeze=False))
    for axes in panels[len(largest) :]:
        axes.set_axis_off()
    for axes, lake in zip(panels, _rows(largest), strict=False):
        series = months[months["lake_id"] == lake.lake_id].sort_values("month")
        for event in _rows(events[events["lake_id"] == lake.lake_id]):
            axes.axvspan(
                event.start, event.end + pd.DateOffset(months=1), color=EVENT_COLOURS[event.kind],
                alpha=0.25, lw=0, zorder=0, gid=f"event_{event.kind}_{lake.lake_id}",
            )  # fmt: skip
        title = _name_lake(lake)
        drains = events[(events["lake_id"] == lake.lake_id) & (events["kind"] == "drain")]
        if len(drains):
            drain = drains.loc[drains["volume_km3"].idxmin()]
            title += f"\ndrains {drain['start']:%Y-%m} to {drain['end']:%Y-%m}: "
            title += f"−{-drain['volume_km3']:.3f} ± {drain['volume_sigma_km3']:.3f} km³"
        lowest, highest = float(series["volume_km3"].min()), float(series["volume_km3"].max())
        if highest > lowest:
            # One bar of a month with few nodes would hide what all others show.
            room = 0.12 * (highest - lowest)
            axes.set_ylim(lowest - room, highest + room)
        low = series["volume_km3"] - series["volume_sigma_km3"]
        high = series["volume_km3"] + series["volume_sigma_km3"]
        axes.vlines(series["month"], low, high, color=style.FAINT, lw=0.8, zorder=2)
        axes.plot(
            series["month"], series["volume_km3"], "o", ms=2.2, color=style.INK, ls="none",
            zorder=3, gid=f"volume_{lake.lake_id}",
        )  # fmt: skip
        axes.axhline(0, color=style.FAINT, lw=0.4, zorder=1)
        axes.set_title(title, fontsize=6.5)
        style.month_axis(axes)
    for axes in panels[: len(largest)][-2:]:
        axes.tick_params(labelbottom=True)
    for axes in panels[::2]:
        axes.set_ylabel("volume (km³)", fontsize=6.5)
