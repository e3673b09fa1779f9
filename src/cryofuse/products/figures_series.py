"""Figures of series: mascons, totals against published series, melt seasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cryofuse.calendar import month_index, month_middle
from cryofuse.products import style
from cryofuse.products.style import MONTH_NAMES
from cryofuse.units import GT_PER_MM_SEA_LEVEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cryofuse.products.reference import Reference

_COLUMNS = 4
_GAP_ALPHA = 0.55
#: Fewest months of the panel on the years of altimetry.
SHORTEST_WINDOW_MONTHS = 36


def _draw_band(
    axes: Axes,
    month: pd.Series,
    value: np.ndarray,
    sigma: np.ndarray | None,
    colour: str,
    label: str,
    **line: Any,
) -> None:
    """Draw a monthly series that breaks at gaps, lone values as dots, with a 1σ band."""
    time = month_middle(month.to_numpy())
    axes.plot(time, value, color=colour, label=label, gid=label, **line)
    alone = style.lone_points(value)
    if alone.size:
        axes.plot(time[alone], value[alone], ".", ms=2.5, color=colour, gid=f"{label} lone")
    if sigma is not None and np.isfinite(sigma).any():
        axes.fill_between(time, value - sigma, value + sigma, color=colour, alpha=0.18, lw=0)


@style.styled
def draw_mascon_series(
    fusion: pd.DataFrame, mascons: pd.DataFrame, title: str, unit: str = "mascon"
) -> Figure:
    """Draw elevation (left axis) and mass (right axis) of every selected mascon.

    Parameters
    ----------
    fusion
        Table ``fusion/mascon_months`` (retrospective).
    mascons
        Table ``gravimetry/mascons``.
    title
        Name of the region.
    unit
        What the rows are: mascon or basin.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    chosen = mascons[mascons["selected"]]
    # Row by row as on the map: neighbours of a parallel differ a little in latitude.
    chosen = chosen.assign(parallel=chosen["latitude"].round()).sort_values(
        ["parallel", "longitude", "mascon_id"], ascending=[False, True, True]
    )
    rows = max(1, -(-len(chosen) // _COLUMNS))
    figure = style.new_figure(1.0 + 1.12 * rows)
    panels = np.ravel(figure.subplots(rows, _COLUMNS, sharex=True, squeeze=False))
    dh_colour, mass_colour = style.SOURCE_COLOURS["altimetry"], style.SOURCE_COLOURS["predicted"]
    for number, axes in enumerate(panels):
        if number >= len(chosen):
            axes.set_visible(False)
            continue
        mascon = chosen.iloc[number]
        one = fusion[fusion["mascon_id"] == mascon["mascon_id"]].sort_values("month")
        series = style.with_gaps(one, ["dh_m", "dh_sigma_m", "lwe_cm", "lwe_sigma_cm"])
        right = axes.twinx()
        right.spines["right"].set_visible(True)
        for place, column, sigma, colour in (
            (axes, "dh_m", "dh_sigma_m", dh_colour),
            (right, "lwe_cm", "lwe_sigma_cm", mass_colour),
        ):
            value = series[column].to_numpy(dtype=float)
            place.tick_params(axis="y", colors=colour, labelsize=5.5, pad=1, length=2)
            if np.isfinite(value).any():
                value = value - np.nanmean(value)
                _draw_band(
                    place, series["month"], value, series[sigma].to_numpy(dtype=float), colour,
                    column, lw=0.8,
                )  # fmt: skip
            else:
                place.set_yticks([])
            _mark_gaps(place, series["month"], series[column], column, colour)
            place.locator_params(axis="y", nbins=3)
        reason = _panel_reason(one)
        if reason:
            axes.text(
                0.5, 0.08, style.fold(reason, 30), transform=axes.transAxes, ha="center",
                va="bottom", fontsize=5.3, color="#8b1a1a", gid="reason",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
            )  # fmt: skip
        where = style.place_text(mascon["latitude"], mascon["longitude"])
        axes.set_title(f"{mascon['mascon_id']}", fontsize=6.5, pad=2)
        axes.set_title(where, loc="right", fontsize=5.5, pad=2, fontweight="normal")
        style.month_axis(axes, 2)
        axes.tick_params(axis="x", labelsize=6)
        if number + _COLUMNS >= len(chosen):
            axes.tick_params(axis="x", labelbottom=True)
    gap: dict[str, Any] = {"alpha": _GAP_ALPHA, "lw": 0}
    style.legend_below(
        figure,
        [
            Line2D([], [], color=dh_colour, label="elevation change dh (m, left axis)"),
            Line2D([], [], color=mass_colour, label="GRACE mass (cm water equivalent, right axis)"),
            Patch(facecolor=dh_colour, label="bottom edge: month without dh", **gap),
            Patch(facecolor=mass_colour, label="top edge: month without GRACE", **gap),
        ],
        2,
    )
    style.head(
        figure,
        f"{title}: {unit} series",
        f"{style.months_text(fusion['month'])}; each series minus its own mean, bands are 1σ, axes "
        "differ between panels. Lines break where a month has no value. Number and centre "
        "above each panel, from north to south and from west to east.",
    )
    return figure


def _mark_gaps(axes: Axes, month: pd.Series, value: pd.Series, column: str, colour: str) -> None:
    """Mark the months without a value on the edge of a panel: elevation below, mass above."""
    from matplotlib.dates import date2num

    first = month[value.isna().to_numpy()]
    if len(first):
        start, stop = date2num(first), date2num(first + pd.offsets.MonthBegin(1))
        axes.broken_barh(
            list(zip(start, stop - start, strict=True)),
            (0.0, 0.05) if column == "dh_m" else (0.95, 0.05),
            color=colour, alpha=_GAP_ALPHA, lw=0, transform=axes.get_xaxis_transform(),
            gid=f"gaps {column}",
        )  # fmt: skip


def _panel_reason(one: pd.DataFrame) -> str | None:
    if one["dh_m"].isna().all():
        return "no dh: " + style.first_reason(one["reason"], default="no value")
    if one["lwe_cm"].isna().all():
        return "no gravity in these months"
    return None


@style.styled
def draw_totals(
    totals: pd.DataFrame,
    comparison: pd.DataFrame,
    references: Sequence[Reference],
    title: str,
    unit: str = "mascon",
) -> Figure:
    """Draw the region's total from gravity, altimetry and published series.

    Parameters
    ----------
    totals
        Table ``applications/totals``.
    comparison
        Table ``applications/comparison``.
    references
        Published series, as read.
    title
        Name of the region.
    unit
        What is added up: mascon or basin.
    """
    from matplotlib.dates import date2num

    figure = style.new_figure(8.0)
    grid = figure.add_gridspec(3, 1, height_ratios=(1.15, 1.5, 0.9))
    upper, middle, lower = (figure.add_subplot(grid[row]) for row in range(3))
    gravity = _of(totals, "gravity")
    sources = [s for s in totals["source"].unique() if s != "gravity"]
    asked = totals.loc[totals["source"] != "gravity", "month"]
    window = _window(asked, references)
    upper.set_title("a  whole record; zero: baseline of the mascon file")
    if gravity["mass_gt"].notna().any():
        whole = (gravity["month"].min(), _last_month(gravity, references))
        shown = _best_altimetry(totals, sources)
        _draw_sources(upper, totals, ["gravity", *shown], whole, 0.0)
        _draw_references(upper, references, gravity, whole, 0.0)
        upper.axhline(0, color=style.FAINT, lw=0.4)
        _shade_period(upper, asked)
    else:
        style.state_reason(upper, f"no month in which every selected {unit} has a value")
    lower.set_title("c  monthly change")
    common = _common_months(totals)
    known = gravity.dropna(subset=["mass_gt"])
    level = known[known["month"].isin(common)] if len(common) else _within(known, window)
    if level.empty:
        middle.set_title("b  months of altimetry")
        for axes in (middle, lower):
            style.state_reason(axes, "no month with gravity in the months of altimetry")
            axes.set_xticks([])
            axes.set_yticks([])
    else:
        which = "the months with both" if len(common) else "these months"
        middle.set_title(f"b  years of altimetry; zero: mean of gravity over {which}")
        zero = float(level["mass_gt"].mean())
        _draw_sources(middle, totals, ["gravity", *sources], window, zero)
        _draw_references(middle, references, _within(gravity, window), window, zero)
        _shade_period(middle, asked)
        _mark_altimetry(middle, totals, unit)
        middle.axhline(0, color=style.FAINT, lw=0.4)
        _draw_changes(lower, totals, ["gravity", *_best_altimetry(totals, sources)], window)
        half_month = np.timedelta64(15, "D")
        edges = date2num([window[0] - half_month, window[1] + 3 * half_month])
        for axes in (middle, lower):
            axes.set_xlim(*edges)
            style.month_axis(axes)
    for axes, label in ((upper, "mass (Gt)"), (middle, "mass (Gt)"), (lower, "Gt per month")):
        axes.set_ylabel(label)
        _sea_level_axis(axes, "mm per month" if axes is lower else "sea-level rise (mm)")
    style.month_axis(upper, 2)
    handles = {
        label: handle
        for axes in (upper, middle)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    style.legend_below(figure, list(handles.values()), 5 if len(handles) <= 5 else 4)
    months = style.months_text(totals.loc[totals["mass_gt"].notna(), "month"])
    style.head(
        figure,
        f"{title}: total mass change",
        f"{months}; {len(common)} months common to gravity and altimetry. Shaded: months of "
        f"altimetry asked for; ticks on the bottom of b: months in which it saw any {unit}. "
        f"{'Published series and altimetry are' if references else 'Altimetry is'} shifted to "
        "gravity's mean over the months that both have. Bands and bars: 1σ of a month, of "
        f"cumulative sums since the panel's first. Lines break where any selected {unit} has no "
        "value. " + _agreement(comparison),
    )
    return figure


def _of(totals: pd.DataFrame, source: str) -> pd.DataFrame:
    return totals[totals["source"] == source]


def _within(frame: pd.DataFrame, window: tuple[pd.Timestamp, pd.Timestamp]) -> pd.DataFrame:
    return frame[frame["month"].between(*window)]


def _window(asked: pd.Series, references: Sequence[Reference]) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the first and last month of altimetry, the run's and published volumes'.

    Widened to ``SHORTEST_WINDOW_MONTHS`` so that a run of few months has its context.
    """
    volumes = [r.frame["month"] for r in references if r.quantity == "volume"]
    months = pd.concat([asked, *volumes])
    first, last = months.min(), months.max()
    lacking = SHORTEST_WINDOW_MONTHS - 1 - int(np.ptp(month_index([first, last])))
    pad = pd.DateOffset(months=max(-(-lacking // 2), 0))
    return first - pad, last + pad


def _last_month(gravity: pd.DataFrame, references: Sequence[Reference]) -> pd.Timestamp:
    return max([gravity["month"].max(), *(r.frame["month"].max() for r in references)])


def _best_altimetry(totals: pd.DataFrame, sources: Sequence[str]) -> list[str]:
    """Return the altimetric total at the fitted density, or at the first one that has values."""
    known = [s for s in sources if _of(totals, s)["mass_gt"].notna().any()]
    return ([s for s in known if s.endswith("fitted")] or known)[:1]


def _common_months(totals: pd.DataFrame) -> np.ndarray:
    known = totals.dropna(subset=["mass_gt"])
    gravity = known.loc[known["source"] == "gravity", "month"].to_numpy()
    altimetry = known.loc[known["source"] != "gravity", "month"].to_numpy()
    return np.intersect1d(gravity, altimetry)


def _source_style(totals: pd.DataFrame, source: str) -> dict[str, Any]:
    """Return colour, label and width of one of the run's own totals."""
    return {
        "colour": style.source_colours(list(totals["source"].unique()))[source],
        "label": style.source_name(source, _of(totals, source)["density_kg_m3"].iloc[0]),
        "lw": 1.4 if source == "gravity" else 1.0,
    }


def _draw_sources(
    axes: Axes,
    totals: pd.DataFrame,
    sources: Sequence[str],
    window: tuple[pd.Timestamp, pd.Timestamp],
    zero: float,
) -> None:
    """Draw the run's own totals, less a common zero; they share gravity's baseline already."""
    for source in sources:
        part = _within(_of(totals, source), window)
        if part["mass_gt"].isna().all():
            continue
        series = style.with_gaps(part, ["mass_gt", "mass_sigma_gt"])
        _draw_band(
            axes,
            series["month"],
            series["mass_gt"].to_numpy(dtype=float) - zero,
            series["mass_sigma_gt"].to_numpy(dtype=float),
            **_source_style(totals, source),
        )


def _draw_references(
    axes: Axes,
    references: Sequence[Reference],
    gravity: pd.DataFrame,
    window: tuple[pd.Timestamp, pd.Timestamp],
    zero: float,
) -> None:
    """Draw published series, each shifted to gravity's mean over the months that both have."""
    from cryofuse.products.reference import sigma_since
    from cryofuse.products.totals import match_series, reference_mass

    dashes = ((4, 1.5), (1, 1), (6, 1.5, 1, 1.5), (2, 1))
    for number, reference in enumerate(references):
        name, frame = reference_mass(reference, float("nan"))
        if reference.quantity == "mass":
            frame = sigma_since(reference, window[0].to_datetime64())
        both = match_series(gravity, frame, reference.stamp, centred=False)
        if both.empty:
            continue
        shift = float((both["ours"] - both["theirs"]).mean()) - zero
        colour = style.REFERENCES[number % len(style.REFERENCES)]
        part = _within(frame, window)
        look: dict[str, Any] = {"color": colour, "label": name, "gid": f"reference {name}"}
        if reference.stamp == "month":
            series = style.with_gaps(part, ["value", "sigma"])
            time = month_middle(series["month"].to_numpy())
            value = series["value"].to_numpy(dtype=float) + shift
            sigma = series["sigma"].to_numpy(dtype=float)
            axes.plot(time, value, lw=0.9, ls=(0, dashes[number % len(dashes)]), **look)
            if np.isfinite(sigma).any():
                axes.fill_between(
                    time, value - sigma, value + sigma, color=colour, alpha=0.13, lw=0
                )
        else:
            time, value = part["time"].to_numpy(), part["value"].to_numpy(dtype=float) + shift
            axes.errorbar(
                time, value, yerr=part["sigma"].to_numpy(), ls="none", marker="D", ms=3,
                mfc="white", mew=0.9, elinewidth=0.6, zorder=3, **look,
            )  # fmt: skip
            step = np.diff(month_index(part["month"].to_numpy()))
            for first in np.flatnonzero(step == step.min(initial=12)):
                axes.plot(
                    time[first : first + 2], value[first : first + 2], color=colour, lw=0.5,
                    alpha=0.7, zorder=2,
                )  # fmt: skip


def _shade_period(axes: Axes, asked: pd.Series) -> None:
    """Shade the months of altimetry that were asked for."""
    if len(asked):
        edges = (asked.min(), asked.max() + pd.offsets.MonthBegin(1))
        axes.axvspan(*edges, color="#f3efe6", zorder=0, lw=0, gid="period")


def _mark_altimetry(axes: Axes, totals: pd.DataFrame, unit: str) -> None:
    """Mark the months in which altimetry saw anything; say why there is no total."""
    measured = totals[totals["source"] != "gravity"]
    seen = measured.loc[measured["n_mascons"] > 0, "month"].drop_duplicates().to_numpy()
    axes.plot(
        month_middle(seen), np.full(seen.size, 0.012), "|", ms=4, mew=0.6, color=style.FAINT,
        transform=axes.get_xaxis_transform(), gid="months of altimetry",
    )  # fmt: skip
    if measured["mass_gt"].isna().all():
        most = int(measured["n_mascons"].max()) if len(measured) else 0
        axes.text(
            0.99, 0.97, "no altimetric total of this run: "
            f"at most {most} of the selected {unit}s at once",
            transform=axes.transAxes, ha="right", va="top", color="#8b1a1a", fontweight="bold",
            gid="reason",
        )  # fmt: skip


def _draw_changes(
    axes: Axes,
    totals: pd.DataFrame,
    sources: Sequence[str],
    window: tuple[pd.Timestamp, pd.Timestamp],
) -> None:
    for source in sources:
        part = _within(_of(totals, source), window)
        if part["mass_change_gt"].isna().all():
            continue
        look = _source_style(totals, source)
        series = style.with_gaps(part, ["mass_change_gt", "mass_change_sigma_gt"])
        value = series["mass_change_gt"].to_numpy(dtype=float)
        sigma = series["mass_change_sigma_gt"].to_numpy(dtype=float)
        # A change lies between the middles of its two months: at the first of the month.
        axes.plot(
            series["month"], value, color=look["colour"], lw=0.9, marker=".", ms=2.5,
            gid=f"change {source}",
        )  # fmt: skip
        axes.fill_between(
            series["month"], value - sigma, value + sigma, color=look["colour"], alpha=0.18, lw=0
        )
    axes.axhline(0, color=style.FAINT, lw=0.4)


def _sea_level_axis(axes: Axes, label: str) -> None:
    def to_rise(mass: Any) -> Any:
        return -mass / GT_PER_MM_SEA_LEVEL

    def to_mass(rise: Any) -> Any:
        return -rise * GT_PER_MM_SEA_LEVEL

    right = axes.secondary_yaxis("right", functions=(to_rise, to_mass))
    right.spines["right"].set_visible(True)
    right.set_ylabel(label)


def _agreement(comparison: pd.DataFrame) -> str:
    rows = comparison[(comparison["source"] == "gravity") & comparison["r"].notna()]
    parts = []
    for row in rows.to_dict("records"):
        apart, lower, upper = (
            f"{row[f'trend_difference{end}_gt_yr']:+.1f}".replace("-", "−")
            for end in ("", "_lower", "_upper")
        )
        parts.append(
            f"{row['series']} (n {row['n']}) r {row['r']:.4f}, RMSE {row['rmse_gt']:.0f} Gt, "
            f"{apart} ({lower} to {upper}) Gt/yr"
        )
    if not parts:
        return ""
    return "Gravity against published series, with the trend of their difference: " + (
        "; ".join(parts) + " (95 % intervals)."
    )


#: What a row of the timing panel is: column, label, colour.
_MINIMA = (
    ("dh", "elevation", style.SOURCE_COLOURS["altimetry"]),
    ("observed", "GRACE", style.SOURCE_COLOURS["gravity"]),
    ("predicted", "model", style.SOURCE_COLOURS["predicted"]),
)


@style.styled
def draw_case_study(
    case_study: pd.DataFrame, title: str, months: Sequence[int], unit: str = "mascon"
) -> Figure:
    """Draw observed and predicted melt seasons: the sheet, the mascons, the timing.

    Parameters
    ----------
    case_study
        Table ``applications/case_study``.
    title
        Name of the region.
    months
        Calendar months of the season.
    unit
        What the parts of the region are: mascon or basin.
    """
    from matplotlib.lines import Line2D

    from cryofuse.products.case_study import season_of

    figure = style.new_figure(6.6)
    grid = figure.add_gridspec(2, 6, height_ratios=(1, 1.25))
    season_axes, late_axes, elevation_axes = (
        figure.add_subplot(grid[0, 2 * i : 2 * i + 2]) for i in range(3)
    )
    timing_axes, mascon_axes = figure.add_subplot(grid[1, :3]), figure.add_subplot(grid[1, 3:])
    years = sorted(int(y) for y in case_study["year"].unique())
    sheet = case_study[case_study["scope"] == "sheet"].set_index("year").reindex(years)
    single = case_study[case_study["scope"] != "sheet"]
    seasons = [season_of(year, months) for year in years or [2019]]
    calendar = (month_index(seasons[0].window) % 12).tolist()
    shown = pd.Series([seasons[0].before, seasons[-1].window[-1]])
    names = [MONTH_NAMES[m] for m in calendar]
    before, last = MONTH_NAMES[(months[0] - 2) % 12], MONTH_NAMES[months[-1] - 1]
    reason = _brief(sheet["reason"], case_study["reason"])
    season_axes.set_title(f"a  mass, {before} to {last}")
    late_axes.set_title(f"b  mass, {before} to {names[-1]}")
    for axes, kind in ((season_axes, ""), (late_axes, "late_")):
        _draw_sheet_seasons(axes, sheet, kind, reason)
        axes.set_ylabel("Gt")
    elevation_axes.set_title("c  elevation anomaly")
    dh = sheet["dh_season_m"].to_numpy(dtype=float)
    place = np.arange(len(years))
    elevation_axes.errorbar(
        place, dh, yerr=sheet["dh_change_sigma_m"].to_numpy(dtype=float), fmt="o", ms=5,
        color=style.SOURCE_COLOURS["altimetry"], capsize=2, gid="sheet dh",
    )  # fmt: skip
    if not np.isfinite(dh).any():
        _state_small(elevation_axes, "no elevation change in a season, or in no other year")
    elevation_axes.axhline(0, color=style.FAINT, lw=0.4)
    elevation_axes.set_ylabel("m")
    for axes in (season_axes, late_axes, elevation_axes):
        axes.set_xticks(place, [str(y) for y in years])
        axes.set_xlim(-0.6, len(years) - 0.4)
    timing_axes.set_title("d  month of the minimum")
    _draw_timing(timing_axes, single, sheet, calendar, names)
    mascon_axes.set_title(f"e  mass, {before} to {last}, by {unit}")
    _draw_mascon_seasons(mascon_axes, single, years)
    handles: list[Any] = [
        Line2D([], [], marker="o", ls="none", color=colour, label=label)
        for _, label, colour in _MINIMA
    ]
    handles += [
        Line2D(
            [],
            [],
            marker="o",
            ms=3,
            ls="none",
            color=style.CATEGORIES[2 + i % 5],
            label=f"{year} (panel e)",
        )  # fmt: skip
        for i, year in enumerate(years)
    ]
    style.legend_below(figure, handles, 6)
    missing = sheet[sheet["reason"].notna()]
    nulls = "; ".join(f"{year}: {row.reason}" for year, row in missing.iterrows())
    style.head(
        figure,
        f"{title}: melt seasons {', '.join(str(y) for y in years)}",
        f"{style.months_text(shown)}. a–c: whole region. GRACE and elevation: 1σ; model: "
        "conformal interval, trained on other years' gravity alone. b: GRACE sees meltwater "
        f"until it has run off. c: change of elevation from {before} to {last} minus that of the "
        "other years. d: large marks and "
        f"lines are the region with its interval, small dots the {unit}s, larger for more. {nulls}",
    )
    return figure


def _brief(*reasons: pd.Series) -> str:
    """Return the first part of the reason given most often: a panel has no room for all."""
    return style.first_reason(*reasons, default="no season").split("; ")[0]


def _state_small(axes: Axes, reason: str) -> None:
    """State a reason in a panel of a third of the page."""
    style.state_reason(axes, reason)
    axes.texts[-1].set_fontsize(6.5)


def _draw_sheet_seasons(axes: Axes, sheet: pd.DataFrame, kind: str, reason: str) -> None:
    """Draw observed and predicted changes of the sheet, side by side for each year."""
    place = np.arange(len(sheet))
    observed = sheet[f"observed_{kind}gt"].to_numpy(dtype=float)
    predicted = sheet[f"predicted_{kind}gt"].to_numpy(dtype=float)
    if not (np.isfinite(observed).any() or np.isfinite(predicted).any()):
        _state_small(axes, reason)
    axes.errorbar(
        place - 0.12, observed, yerr=sheet[f"observed_{kind}sigma_gt"].to_numpy(dtype=float),
        fmt="o", ms=5, color=style.SOURCE_COLOURS["gravity"], capsize=2,
        gid=f"sheet {kind}observed",
    )  # fmt: skip
    ends = sheet[[f"predicted_{kind}lower_gt", f"predicted_{kind}upper_gt"]]
    axes.errorbar(
        place + 0.12, predicted, yerr=np.abs(ends.to_numpy(dtype=float).T - predicted), fmt="s",
        ms=5, color=style.SOURCE_COLOURS["predicted"], capsize=2, gid=f"sheet {kind}predicted",
    )  # fmt: skip
    for x, value in zip(place, predicted, strict=True):
        if not np.isfinite(value):
            axes.annotate(
                "not predicted", (x + 0.12, 0.03), xycoords=("data", "axes fraction"),
                rotation=90, fontsize=6, color="#8b1a1a", ha="center", va="bottom",
            )  # fmt: skip
    axes.axhline(0, color=style.FAINT, lw=0.4)


def _draw_mascon_seasons(axes: Axes, single: pd.DataFrame, years: list[int]) -> None:
    known = single.dropna(subset=["observed_gt", "predicted_gt"])
    axes.set_xlabel("GRACE (Gt)")
    axes.set_ylabel("model (Gt)")
    if known.empty:
        style.state_reason(axes, _brief(single["reason"]))
        return
    for number, year in enumerate(years):
        part = known[known["year"] == year]
        reach = np.abs(
            part[["predicted_lower_gt", "predicted_upper_gt"]].to_numpy(dtype=float).T
            - part["predicted_gt"].to_numpy(dtype=float)
        )
        axes.errorbar(
            part["observed_gt"], part["predicted_gt"], yerr=reach, fmt="o", ms=2.5, lw=0.4,
            color=style.CATEGORIES[2 + number % 5], gid=f"mascons {year}",
        )  # fmt: skip
    both = known[["observed_gt", "predicted_gt"]].to_numpy(dtype=float)
    ends = [float(both.min()), float(both.max())]
    axes.plot(ends, ends, color=style.FAINT, lw=0.6, ls="--")
    axes.annotate(
        "1:1", (ends[1], ends[1]), xytext=(-2, 3), textcoords="offset points", fontsize=6,
        ha="right", color=style.FAINT,
    )  # fmt: skip


def _draw_timing(
    axes: Axes, single: pd.DataFrame, sheet: pd.DataFrame, calendar: list[int], names: list[str]
) -> None:
    """Draw when elevation, gravity and model were lowest: a row of three for each year."""
    order = {month + 1: place for place, month in enumerate(calendar)}
    found = False
    for number, (year, row) in enumerate(sheet.iterrows()):
        for step, (name, _, colour) in enumerate(_MINIMA):
            height = number + 0.27 * (step - 1)
            mascons = single.loc[single["year"] == year, f"{name}_minimum"].dropna()
            counts = mascons.map(order).value_counts().sort_index()
            axes.scatter(
                counts.index, np.full(len(counts), height), s=5 * counts, color=colour, alpha=0.35,
                lw=0, gid=f"minima {name} {year}",
            )  # fmt: skip
            found |= len(counts) > 0 or pd.notna(row[f"{name}_minimum"])
            if pd.isna(row[f"{name}_minimum"]):
                continue
            ends = [row[f"{name}_minimum_first"], row[f"{name}_minimum_last"]]
            if pd.notna(ends).all():
                axes.plot(
                    [order[int(e)] for e in ends], [height] * 2, color=colour, lw=1.6,
                    solid_capstyle="butt",
                )  # fmt: skip
            axes.plot(
                order[int(row[f"{name}_minimum"])], height, "D", ms=6, mfc="white", mec=colour,
                mew=1.4, gid=f"minimum {name} {year}",
            )  # fmt: skip
    if not found:
        style.state_reason(axes, _brief(sheet["reason"], single["reason"]))
    for edge in range(1, len(sheet)):
        axes.axhline(edge - 0.5, color=style.FAINT, lw=0.4)
    axes.set_yticks(range(len(sheet)), [str(year) for year in sheet.index])
    axes.set_ylim(max(len(sheet), 1) - 0.5, -0.5)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
