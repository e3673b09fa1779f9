"""Figures of the applications: months of rapid melt, early warning, sensitivity to choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.dates import date2num

from cryofuse.calendar import month_index
from cryofuse.products import style
from cryofuse.units import GT_PER_MM_SEA_LEVEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SOURCES = {
    "dh": ("elevation", "m per month", style.SOURCE_COLOURS["altimetry"]),
    "gravimetry": ("GRACE", "Gt per month", style.SOURCE_COLOURS["gravity"]),
    "model": ("model", "Gt per month", style.SOURCE_COLOURS["predicted"]),
}
FLAG = "#b2182b"
_STATISTICS = {"variance": "variance", "autocorrelation": "lag-1 autocorrelation"}


@style.styled
def draw_rapid_melt(
    months: pd.DataFrame, rates: pd.DataFrame, title: str, unit: str = "mascon"
) -> Figure:
    """Draw the sheet's monthly anomalies with threshold and flags, and the mascons flagged.

    Parameters
    ----------
    months
        Table ``applications/rapid_melt``.
    rates
        Table ``applications/rapid_melt_rates``.
    title
        Name of the region.
    unit
        What the parts of the region are: mascon or basin.
    """
    figure = style.new_figure(7.6)
    panels = figure.subplots(4, 1, sharex=True)
    seen = months[(months["source"] == "dh") & months["anomaly"].notna()]["month"]
    window = (seen.min(), seen.max()) if len(seen) else None
    sheet = months[months["scope"] == "sheet"]
    for letter, axes, (source, (name, measured, colour)) in zip(
        "abc", panels, _SOURCES.items(), strict=False
    ):
        part = sheet[sheet["source"] == source].dropna(subset=["anomaly"])
        rate = rates[(rates["scope"] == "sheet") & (rates["source"] == source)]
        axes.set_title(f"{letter}  {name}: anomaly of the monthly change, whole region")
        axes.set_ylabel(measured)
        axes.axhline(0, color=style.FAINT, lw=0.4)
        if part.empty:
            why = style.first_reason(rate["reason"], rates["reason"], default="no monthly change")
            style.state_reason(axes, why)
            continue
        shown = part if window is None else part[part["month"].between(*window)]
        _draw_anomalies(axes, shown, colour, source)
        _tell_rates(axes, rate.iloc[0], len(shown))
    _draw_flag_counts(panels[3], months, rates, window, unit)
    style.month_axis(panels[3])
    for axes in panels:
        axes.tick_params(axis="x", labelbottom=axes is panels[3])
    nominal = 100 * float(rates["nominal_rate"].iloc[0]) if len(rates) else np.nan
    style.head(
        figure,
        f"{title}: months of rapid loss",
        f"{style.months_text(seen)}; monthly change without its trend, annual and semi-annual "
        f"cycle. Dashed: the {nominal:g} % quantile of autoregressive surrogates with the series' "
        "own autocorrelation and a spread that follows the time of the year; red: below it. "
        "GRACE's climatology is that of its whole record, counts by chance are for all of it. "
        "False alarms: share of months flagged in other surrogates, which have no extreme and the "
        "spread of the three calendar months around.",
    )
    return figure


def _draw_anomalies(axes: Axes, shown: pd.DataFrame, colour: str, source: str) -> None:
    """Draw a bar for each month's anomaly, flagged ones in red with their month."""
    flagged = shown["flagged"].astype(bool).to_numpy()
    colours = np.where(flagged, FLAG, colour)
    bars = axes.bar(shown["month"], shown["anomaly"], width=26, color=colours, alpha=0.85)
    for bar in bars:
        bar.set_gid(f"anomaly {source}")
    axes.step(
        shown["month"], shown["threshold"], where="mid", color=FLAG, lw=0.8, ls="--",
        gid=f"threshold {source}",
    )  # fmt: skip
    low, high = axes.get_ylim()
    # Room for the months below and for the rates above.
    axes.set_ylim(low - 0.18 * (high - low), high + 0.3 * (high - low))
    run = month_index(shown["month"].to_numpy()) - np.cumsum(flagged)
    for _, part in shown[flagged].groupby(pd.Series(run, shown.index)):
        first, last = part["month"].iloc[[0, -1]]
        lowest = part.iloc[int(part["anomaly"].to_numpy().argmin())]
        axes.annotate(
            f"{first:%Y-%m}" + (f" to {last:%Y-%m}" if last > first else ""),
            (lowest["month"], lowest["anomaly"]), xytext=(0, -3), textcoords="offset points",
            ha="center", va="top", fontsize=5.5, color=FLAG, gid=f"flag {source}",
        )  # fmt: skip


def _tell_rates(axes: Axes, rate: pd.Series, shown: int) -> None:
    """Write how many months are flagged, and how many chance alone flags."""
    own = f"{rate['n_flagged']:.0f} of {rate['n']:.0f} months flagged"
    if rate["n"] > shown:
        own += f" since {rate['start']:%Y-%m}"
    axes.text(
        0.995, 0.97,
        f"{own}; by chance at most {rate['most_by_chance']:.0f} (95 %)\n"
        f"false alarms {100 * rate['false_alarm_rate']:.1f} % "
        f"({100 * rate['false_alarm_lower']:.1f} to {100 * rate['false_alarm_upper']:.1f})",
        transform=axes.transAxes, ha="right", va="top", fontsize=6, gid="rates",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )  # fmt: skip


def _draw_flag_counts(
    axes: Axes,
    months: pd.DataFrame,
    rates: pd.DataFrame,
    window: tuple[pd.Timestamp, pd.Timestamp] | None,
    unit: str,
) -> None:
    """Draw the share of mascons with a value that are flagged in each month."""
    axes.set_title(f"d  {unit}s flagged")
    axes.set_ylabel("% of those with a value")
    single = months[(months["scope"] != "sheet") & months["anomaly"].notna()]
    if window is not None:
        single = single[single["month"].between(*window)]
    if single.empty:
        style.state_reason(axes, style.first_reason(rates["reason"], default="no monthly change"))
        return
    for step, (source, (name, _, colour)) in enumerate(_SOURCES.items()):
        part = single[single["source"] == source]
        share = 100 * part["flagged"].astype(float).groupby(part["month"]).mean()
        day = date2num(share.index) + 9 * (step - 1)
        bars = axes.bar(day, share, width=9, color=colour, label=name)
        for bar in bars:
            bar.set_gid(f"share {source}")
    nominal = 100 * float(rates["nominal_rate"].iloc[0])
    axes.axhline(nominal, color=FLAG, lw=0.8, ls="--", gid="nominal", label="by chance")
    axes.legend(loc="upper right", ncols=4, fontsize=6)


@style.styled
def draw_early_warning(
    trends: pd.DataFrame,
    windows: pd.DataFrame,
    window_months: int,
    title: str,
    unit: str = "mascon",
) -> Figure:
    """Draw the sheet's running variance and autocorrelation in the band of their surrogates.

    Parameters
    ----------
    trends
        Table ``applications/early_warning``.
    windows
        Table ``applications/early_warning_windows``.
    window_months
        Length of the running window.
    title
        Name of the region.
    unit
        What the parts of the region are: mascon or basin.
    """
    figure = style.new_figure(6.6)
    grid = figure.add_gridspec(3, 2, height_ratios=(1, 1, 0.55))
    units = {"dh": "m²", "gravimetry": "Gt²"}
    letters = iter("abcd")
    for row, (statistic, noun) in enumerate(_STATISTICS.items()):
        for column, source in enumerate(units):
            axes = figure.add_subplot(grid[row, column])
            name, _, colour = _SOURCES[source]
            axes.set_title(f"{next(letters)}  {name}: {noun}")
            axes.set_ylabel(units[source] if statistic == "variance" else "1")
            of = _rows(trends, source, statistic)
            part = _rows(windows, source, statistic)
            part = part[part["scope"] == "sheet"]
            if part.empty:
                style.state_reason(
                    axes, style.first_reason(of["reason"], default="no series of the region")
                )
                continue
            axes.fill_between(
                part["month"], part["lower"], part["upper"], color=style.FAINT, alpha=0.25, lw=0,
                gid=f"surrogates {source} {statistic}",
            )  # fmt: skip
            axes.plot(
                part["month"], part["value"], color=colour, lw=1.2, gid=f"{source} {statistic}"
            )
            one = of[of["scope"] == "sheet"].iloc[0]
            axes.text(
                0.98, 0.96, f"τ = {one['tau']:.2f}, p = {one['p']:.2f}".replace("-", "−"),
                transform=axes.transAxes, ha="right", va="top", fontsize=6.5, gid="tau",
            )  # fmt: skip
            style.month_axis(axes)
    _draw_chances(figure.add_subplot(grid[2, :]), trends, unit)
    known = trends.dropna(subset=["tau"])
    style.head(
        figure,
        f"{title}: early-warning statistics (exploratory)",
        f"{style.months_text(known['start'], known['end'])}; running windows of {window_months} "
        "months, dated by their last, over series without trend, annual and semi-annual cycle. "
        "Band: middle 95 % of phase-randomised surrogates; τ: Kendall's, rising is positive; p: "
        "share of surrogates with as large a τ. Windows overlap, and so few years support no "
        "tipping claim, whatever p is.",
    )
    return figure


def _rows(table: pd.DataFrame, source: str, statistic: str) -> pd.DataFrame:
    return table[(table["source"] == source) & (table["statistic"] == statistic)]


def _draw_chances(axes: Axes, trends: pd.DataFrame, unit: str) -> None:
    """Draw p of every mascon and of the sheet: spread evenly where nothing changes."""
    axes.set_title(f"e  p of every {unit} (ticks) and the region (diamonds)")
    axes.set_xlabel("p; spread evenly from 0 to 1 where nothing changes")
    axes.set_xlim(0, 1)
    rows = [(source, statistic) for source in ("dh", "gravimetry") for statistic in _STATISTICS]
    for height, (source, statistic) in enumerate(rows):
        part = _rows(trends, source, statistic).dropna(subset=["p"])
        colour = _SOURCES[source][2]
        whole = part["scope"] == "sheet"
        axes.plot(
            part.loc[~whole, "p"], np.full(int((~whole).sum()), height), "|", ms=7, color=colour,
            gid=f"p {source} {statistic}",
        )  # fmt: skip
        axes.plot(
            part.loc[whole, "p"], np.full(int(whole.sum()), height), "D", ms=5, mfc="white",
            mec=colour, mew=1.3, clip_on=False,
        )  # fmt: skip
    axes.axvline(0.05, color=FLAG, lw=0.8, ls="--")
    names = [f"{_SOURCES[source][0]}, {_STATISTICS[name]}" for source, name in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)


@style.styled
def draw_sensitivity(sensitivity: pd.DataFrame, title: str, unit: str = "mascon") -> Figure:
    """Draw the trend of mass under every mascon rule and density.

    Parameters
    ----------
    sensitivity
        Table ``applications/sensitivity``.
    title
        Name of the region.
    unit
        What each choice adds up: mascon or basin.
    """
    known = sensitivity[sensitivity["n"] > 0]
    gravity = known[known["source"] == "gravity"]
    first = gravity.groupby("choice", sort=False)["start"].transform("min")
    # Gravity has a row for its whole record, and one for the months that altimetry has, too.
    whole = known.loc[gravity.index[gravity["start"] == first]]
    common = known.drop(whole.index)
    choices = list(dict.fromkeys(known["choice"]))
    figure = style.new_figure(1.9 + 0.42 * max(len(choices), 3))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.5))
    left.set_title("a  gravity, whole record", pad=32)
    right.set_title("b  months of gravity and altimetry", pad=32)
    sources = list(dict.fromkeys(known["source"]))
    for axes, part in ((left, whole), (right, common)):
        _draw_trends(axes, part, choices, sources)
    counts = known.groupby("choice")["n_mascons"].first()
    own = set(known.loc[known["configured"], "choice"])
    labels = [
        f"{_rule(choice)}\n{counts[choice]:.0f} {unit}s{', this run' if choice in own else ''}"
        for choice in choices
    ]
    left.set_yticks(range(len(choices)), labels)
    left.set_ylim(max(len(choices), 1) - 0.5, -0.5)
    handles = {
        label: handle
        for axes in (left, right)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    style.legend_below(figure, list(handles.values()), 4)
    style.head(
        figure,
        f"{title}: what choices do to the trend of mass",
        f"a: {_span(whole)}; b: {_span(common)}. Bars: 1σ of the trend, residuals autocorrelated. "
        "Densities in kg/m³. " + _tell_rebound(sensitivity),
    )
    return figure


def _rule(choice: str) -> str:
    return choice.replace("ice_fraction_of_land >= ", "ice on land ≥ ").replace("_", " ")


def _span(rows: pd.DataFrame) -> str:
    return style.months_text(rows["start"], rows["end"])


def _draw_trends(axes: Axes, part: pd.DataFrame, choices: list[str], sources: list[str]) -> None:
    """Draw a mark with its σ for each source in the row of its choice; sea level above."""
    axes.set_xlabel("trend (Gt/yr)")
    if part["trend_gt_yr"].notna().sum() == 0:
        style.state_reason(axes, style.first_reason(part["reason"], default="no common month"))
        axes.set_xticks([])
        return
    colours = (style.SOURCE_COLOURS["gravity"], *(style.CATEGORIES[i] for i in (0, 5, 2, 3)))
    for number, source in enumerate(sources):
        rows = part[(part["source"] == source) & part["trend_gt_yr"].notna()]
        if rows.empty:
            continue
        shift = 0.16 * (number - (len(sources) - 1) / 2) if len(set(part["source"])) > 1 else 0.0
        height = np.array([choices.index(choice) for choice in rows["choice"]]) + shift
        label = source.replace("altimetry_", "altimetry ")
        axes.errorbar(
            rows["trend_gt_yr"], height, xerr=rows["trend_sigma_gt_yr"], fmt="o", ms=4, capsize=2,
            lw=0.9, color=colours[number % len(colours)], label=label, gid=f"trend {source}",
        )  # fmt: skip
    for edge in range(1, len(choices)):
        axes.axhline(edge - 0.5, color=style.FAINT, lw=0.3)

    def to_rise(mass: Any) -> Any:
        return -mass / GT_PER_MM_SEA_LEVEL

    def to_mass(rise: Any) -> Any:
        return -rise * GT_PER_MM_SEA_LEVEL

    above = axes.secondary_xaxis("top", functions=(to_rise, to_mass))
    above.spines["top"].set_visible(True)
    above.set_xlabel("sea-level rise (mm/yr)")


def _tell_rebound(sensitivity: pd.DataFrame) -> str:
    """Return what the table says of glacial isostatic adjustment."""
    rebound = sensitivity[(sensitivity["source"] == "altimetry") & (sensitivity["n"] == 0)]
    if rebound.empty:
        return ""
    row = rebound.iloc[0]
    return (
        "Glacial isostatic adjustment: removed by the gravimetry product with one model; another "
        f"moves gravity's trend by their difference. To altimetry, if {row['choice']}, that "
        f"reads as {row['difference_gt_yr']:+.1f} Gt/yr.".replace("-", "−")
    )
