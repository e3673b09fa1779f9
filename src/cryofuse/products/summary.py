"""The summary page: what a run found, in plain sentences and small tables, as one HTML file."""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from cryofuse.atl06.report import WHOLE
from cryofuse.products.case_study import AFTER_SEASON
from cryofuse.products.style import MONTH_NAMES, source_name

#: Texts that are dates or numbers, and must not break between lines.
_FIGURES = re.compile(r"[−+]?\d[\d\s.,+−±%()-]*(to [\d\s.,+−±%()-]*)?")

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; margin: .8rem 0; font-size: .9rem }
th, td { border-bottom: 1px solid #ccc; padding: .25rem .8rem .25rem 0; text-align: left;
         vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
td.number, td.figures { white-space: nowrap }
.no { color: #a40000; font-weight: 600 } .yes { color: #00600f }
h3 { font-size: 1rem; margin: 1.2rem 0 0 } h3 + p { margin-top: .2rem } a { color: #00539b }
dt { font-weight: 600 } dd { margin: 0 0 .4rem 1rem }
.notice { border-left: .3rem solid #b35c00; background: #fff6e8; padding: .6rem 1rem }
.wide { overflow-x: auto }
"""


def _number(value: Any, digits: int = 3) -> str:
    """Return a value as people read it; every kind of null is a dash."""
    if pd.isna(value):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}".replace(",", " ")
    if isinstance(value, float | np.floating):
        number = float(value)
        text = f"{number:.{digits}g}" if abs(number) < 1000 else f"{number:,.0f}".replace(",", " ")
        return text.replace("-", "−")
    if isinstance(value, pd.Timestamp):
        return value.strftime("%Y-%m")
    return str(value)


def _cell(value: Any, numeric: bool) -> str:
    text = _number(value)
    kind = "number" if numeric else "figures" if _FIGURES.fullmatch(text) else "text"
    return f'<td class="{kind}">{html.escape(text)}</td>'


def render_table(frame: pd.DataFrame, titles: dict[str, str]) -> str:
    """Return a table as HTML: the columns named in ``titles``, in that order, nulls as dashes."""
    numeric = {name: pd.api.types.is_numeric_dtype(frame[name]) for name in titles}
    head = "".join(
        f'<th class="{"number" if numeric[name] else "text"}">{html.escape(title)}</th>'
        for name, title in titles.items()
    )
    rows = []
    for row in frame[list(titles)].itertuples(index=False):
        cells = "".join(
            _cell(value, numeric[name]) for name, value in zip(titles, row, strict=True)
        )
        rows.append(f"<tr>{cells}</tr>")
    return _table(f"<tr>{head}</tr>", rows)


def _table(head: str, rows: list[str]) -> str:
    """Return a table that scrolls by itself where the page is narrow."""
    return (
        f'<div class="wide" tabindex="0"><table><thead>{head}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _reasons(frame: pd.DataFrame, value: str) -> str:
    """Return the reasons why a table's values are null, with their counts."""
    empty = frame[frame[value].isna()]
    counts = empty["reason"].fillna("no reason given").value_counts()
    return "; ".join(f"{reason} ({count})" for reason, count in counts.items())


def describe_filters(report: pd.DataFrame) -> str:
    """Return what became of the segments, filter by filter, and of files that were left out."""
    whole = report[report["period"] == WHOLE]
    cost = whole[whole["stage"] == "filter"]
    left = whole[(whole["stage"] != "filter") & (whole["filter"] != "read")]
    parts = []
    if len(cost):
        first, last = (
            cost["rows_in"].iloc[0],
            cost["rows_in"].iloc[-1] - cost["rows_removed"].iloc[-1],
        )
        parts.append(_paragraph(f"{_number(first)} segments in the region; {_number(last)} kept."))
        parts.append(
            render_table(
                cost,
                {
                    "filter": "filter",
                    "rows_in": "segments before",
                    "rows_removed": "removed",
                    "rows_alone": "alone it would remove",
                },
            )
        )
    if len(left):
        parts.append(
            render_table(
                left,
                {
                    "stage": "stage",
                    "filter": "left out",
                    "granules": "files",
                    "beams": "beams",
                    "rows_removed": "segments",
                },
            )
        )
    return "".join(parts)


def describe_checks(checks: pd.DataFrame) -> str:
    """Return how far height differences of two passes lie from what the fits say."""
    return _paragraph(
        "Height differences where tracks cross, and where a track was flown again; what is left "
        "of them after the nearest node's rate and annual cycle. Neither uses the fitted rates."
    ) + render_table(
        checks.assign(span=checks["span"].str.replace("_", " ")),
        {
            "kind": "pairs",
            "span": "time between",
            "n_found": "found",
            "n_model": "compared",
            "residual_m": "median residual (m)",
            "residual_spread_m": "spread (m)",
            "rate_difference_m_yr": "missed by rates (m/yr)",
            "rate_difference_sigma_m_yr": "σ (m/yr)",
            "reason": "why none",
        },
    )


def describe_coupling(coupling: pd.DataFrame, fdr: float, unit: str = "mascon") -> str:
    """Return how strongly elevation and mass go together, by treatment."""
    best = coupling[coupling["best"]]
    if best["r"].notna().sum() == 0:
        return _paragraph(f"No coupling could be computed: {_reasons(coupling, 'r')}.")
    rows = []
    for treatment, group in best.groupby("treatment", sort=False):
        known = group.dropna(subset=["r"])
        rows.append(
            {
                "treatment": treatment,
                "mascons": len(known),
                "r": known["r"].median(),
                "significant": int((known["q_fdr"] <= fdr).sum()),
                "lag": known["lag_months"].median(),
                "density": known["density_kg_m3"].median(),
            }
        )
    return render_table(
        pd.DataFrame(rows),
        {
            "treatment": "treatment",
            "mascons": f"{unit}s",
            "r": "median r at the best lag",
            "significant": f"significant (FDR {fdr:g})",
            "lag": "median lag, months",
            "density": "median density, kg/m³",
        },
    )


def describe_regimes(centroids: pd.DataFrame, stability: pd.DataFrame, unit: str = "mascon") -> str:
    """Return the regimes of nodes and mascons, and why there are so many."""
    columns = {
        "level": "level",
        "regime_name": "regime",
        "n_mascons": f"{unit}s",
        "n_nodes": "nodes",
        "area_km2": "ice area, km²",
        "rate_m_yr": "rate, m/yr",
        "amplitude_m": "annual amplitude, m",
        "elevation_m": "elevation, m",
        "slope": "slope, m/m",
    }
    named = {"mascons": f"{unit}s"}
    centroids = centroids.assign(level=centroids["level"].replace(named))
    known = centroids.dropna(subset=["regime"])
    why = stability.dropna(subset=["why"])
    why = why.assign(level=why["level"].replace(named))
    none = centroids[centroids["regime"].isna()]
    return "\n".join(
        [
            *([render_table(known, columns)] if len(known) else []),
            *(
                _paragraph(f"Regimes of {row.level}: {str(row.why).replace('mascon', unit)}")
                for row in why.itertuples()
            ),
            *(_paragraph(f"No regimes of {row.level}: {row.reason}.") for row in none.itertuples()),
        ]
    )


def describe_explained(explained: pd.DataFrame, unit: str = "mascon") -> str:
    """Return how much of GRACE's signal is explained out of fold."""
    region = explained[explained["scope"] == "region"].dropna(subset=["explained_total"])
    explained = explained[explained["scope"] == "mascon"]
    if explained["explained_total"].notna().sum() == 0:
        return _paragraph(f"Nothing could be explained: {_reasons(explained, 'explained_total')}.")
    names = ["explained_total", "explained_trend", "explained_seasonal", "explained_interannual"]
    medians = explained.groupby("target")[names].median().reset_index()
    return render_table(
        medians,
        {
            "target": "target",
            "explained_total": "total",
            "explained_trend": "trend",
            "explained_seasonal": "seasonal",
            "explained_interannual": "interannual",
        },
    ) + _paragraph(
        f"Median over {unit}s of the share of variance; a negative share is worse than the mean. "
        + " ".join(
            f"Of the mean of all {unit}s ({target}): {_percent(total)} "
            + (f"[{_percent(low)}, {_percent(high)}]." if np.isfinite(low) else "(no interval).")
            for target, total, low, high in region[
                ["target", "explained_total", "total_lower", "total_upper"]
            ].itertuples(index=False)
        )
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %".replace("-", "−")


def describe_archive(
    granules: int,
    totals: pd.DataFrame,
    *,
    min_months: int,
    synthetic: bool,
    unit: str = "mascon",
) -> str:
    """Return how many months of granules the run had, and whether that can carry skill.

    Parameters
    ----------
    granules
        Number of granules that were read.
    totals
        Table ``applications/totals``: months asked for, and in how many altimetry saw a mascon.
    min_months
        Fewest common months at which a mascon's coupling is computed.
    synthetic
        Whether the granules are those of a synthetic world.
    unit
        What the mascons are: mascon or basin.
    """
    rows = totals[totals["source"] != "gravity"]
    asked = rows["month"].nunique()
    seen = rows.loc[rows["n_mascons"] > 0, "month"].nunique()
    whole = rows.loc[rows["volume_km3"].notna(), "month"].nunique()
    kind = "synthetic granules" if synthetic else "granules"
    parts = [
        f"This run read {granules} {kind}. Of {asked} months asked for, altimetry has a value in "
        f"some {unit} in {seen}, and a total of the region in {whole}."
    ]
    if seen < min_months:
        parts.append(
            f"That is fewer than the {min_months} months that the coupling of a {unit} needs, so "
            "this run cannot tell whether elevation change predicts mass change: real skill at "
            f"{unit} scale needs a multi-year archive of granules over the whole region. The sheet "
            "as a whole can be coupled from published series (below)."
        )
    else:
        parts.append(
            f"Real skill at {unit} scale needs a multi-year archive of real granules"
            + (": skill in a synthetic world proves the method, not nature." if synthetic else ".")
        )
    return _paragraph(" ".join(parts))


def describe_sheet_coupling(coupling: pd.DataFrame) -> str:
    """Return how the sheet's volume goes together with its mass, pair by pair."""
    known = coupling[coupling["r"].notna() | coupling["density_kg_m3"].notna()]
    parts = [
        _paragraph(
            "The whole sheet's volume against its mass. A volume at an instant (ATL15, each "
            "quarter) is paired with the mean of the monthly masses before and after it. Effective "
            "n and p come from unrelated surrogates with the autocorrelation and the cycles of "
            "both series; p is never below one over their number. Two series that both fall "
            "correlate by that alone: read the detrended rows. The density is the slope with "
            "errors in both series and a scatter (least squares beside it, biased low by noise in "
            "volume); its 95 % interval and that of r take the effective number of pairs. Volume "
            "is not corrected for firn: trend and season then have densities of their own, and "
            "neither need be that of ice."
        )
    ]
    if len(known):
        shown = known.assign(
            correlation=_with_interval(known, "r", "{:.2f}"),
            density=_with_interval(known, "density", "{:.0f}", "_kg_m3"),
        )
        parts.append(
            render_table(
                shown,
                {
                    "volume": "volume",
                    "mass": "mass",
                    "treatment": "treatment",
                    "start": "from",
                    "end": "to",
                    "n": "pairs",
                    "n_effective": "effective n",
                    "correlation": "r (95 %)",
                    "p": "p",
                    "density": "density, kg/m³ (95 %)",
                    "density_ols_kg_m3": "least squares",
                    "reason": "note",
                },
            )
        )
    for (volume, reason), group in coupling.drop(known.index).groupby(["volume", "reason"]):
        masses = ", ".join(group["mass"].unique())
        parts.append(_paragraph(f"Not coupled: {volume} with {masses} ({reason})."))
    return "".join(parts)


def _with_interval(frame: pd.DataFrame, name: str, form: str, unit: str = "") -> pd.Series:
    """Return a column with its interval as people read them, e.g. ``0.92 (0.60 to 0.99)``."""
    columns = [f"{name}{unit}", f"{name}_lower{unit}", f"{name}_upper{unit}"]

    def read(value: float, lower: float, upper: float) -> str | None:
        if not np.isfinite(value):
            return None
        text = form.format(value)
        if np.isfinite(lower):
            text += f" ({form.format(lower)} to {form.format(upper)})"
        return text.replace("-", "−")

    texts = [read(*row) for row in frame[columns].astype(float).to_numpy()]
    return pd.Series(texts, frame.index, dtype="str")


def describe_sea_level(sea_level: pd.DataFrame) -> str:
    """Return the trends of the totals as mass and sea level."""
    density = _with_interval(sea_level, "density", "{:.0f}", "_kg_m3")
    return render_table(
        sea_level.assign(density=density, source=_source_names(sea_level)),
        {
            "source": "source",
            "density": "density, kg/m³ (95 %)",
            "start": "from",
            "end": "to",
            "n": "months",
            "trend_gt_yr": "trend, Gt/yr",
            "trend_sigma_gt_yr": "σ",
            "sea_level_mm_yr": "sea level, mm/yr",
            "sea_level_sigma_mm_yr": "σ",
            "reason": "note",
        },
    ) + _paragraph(
        "σ is that of the fitted trend, for autocorrelated residuals. Not in it: glacial isostatic "
        "adjustment, leakage, and the density, for which there is a row each."
    )


def _source_names(frame: pd.DataFrame) -> pd.Series:
    """Return the sources of totals by the names that the figures' legends have."""
    if "density_kg_m3" not in frame:
        return frame["source"].map(source_name)
    names = [
        source_name(source, density)
        for source, density in zip(
            frame["source"], frame["density_kg_m3"].astype(float), strict=True
        )
    ]
    return pd.Series(names, frame.index, dtype="str")


def describe_comparison(comparison: pd.DataFrame) -> str:
    """Return how the totals agree with published series; what could not be compared, and why."""
    if comparison.empty:
        return ""
    known = comparison[comparison["rmse_gt"].notna()]
    parts = []
    if len(known):
        apart = _with_interval(known, "trend_difference", "{:.1f}", "_gt_yr")
        parts.append(
            render_table(
                # Two digits would call 0.9997 a one.
                known.assign(
                    apart=apart,
                    r=known["r"].map("{:.4f}".format),
                    source=_source_names(known),
                ),
                {
                    "series": "reference series",
                    "source": "compared with",
                    "start": "from",
                    "end": "to",
                    "n": "values",
                    "bias_gt": "bias, Gt",
                    "rmse_gt": "RMSE, Gt",
                    "r": "r",
                    "trend_gt_yr": "trend, Gt/yr",
                    "reference_trend_gt_yr": "its trend, Gt/yr",
                    "apart": "difference, Gt/yr (95 %)",
                },
            )
        )
        parts.append(
            _paragraph(
                "Bias: mean difference once both are zero over the first twelve months of the "
                "common record. RMSE: without the mean difference. The interval is that of the "
                "difference's own trend, for autocorrelated differences."
            )
        )
    for (series, reason), group in comparison.drop(known.index).groupby(["series", "reason"]):
        sources = ", ".join(_source_names(group))
        parts.append(_paragraph(f"Not compared: {series} with {sources} ({reason})."))
    return "".join(parts)


def describe_lakes(
    lakes: pd.DataFrame, events: pd.DataFrame, searched: pd.DataFrame, matches: pd.DataFrame
) -> str:
    """Return how many lakes were found, their drainings, and how an inventory compares.

    Parameters
    ----------
    lakes, events, searched, matches
        Tables ``hydrology/lakes``, ``lake_events``, ``searched_nodes``, ``inventory_matches``.
    """
    if searched.empty:
        text = "Not searched: no finely spaced node is seen often enough beside its neighbours."
        return _paragraph(text) + _compare_inventory(matches)
    candidates = lakes[lakes["status"] == "candidate"]
    others = lakes[lakes["status"] != "candidate"]
    parts = [
        _paragraph(
            f"{len(searched):,} nodes were searched for ice that rises and sinks apart from the "
            f"ice around it: {len(candidates)} "
            f"candidate{'' if len(candidates) == 1 else 's'} of active subglacial lakes, "
            f"{len(others)} look-alike{'' if len(others) == 1 else 's'}."
        ),
        *(
            _paragraph(f"Look-alikes: {reason} ({count}).")
            for reason, count in others["reason"].value_counts().items()
        ),
    ]
    if len(candidates):
        drains = events[events["kind"] == "drain"].sort_values("volume_km3")
        largest = drains.drop_duplicates("lake_id").set_index("lake_id")
        at = largest.reindex(candidates["lake_id"].to_numpy())
        parts.append(
            render_table(
                candidates.assign(
                    drain_start=at["start"].to_numpy(),
                    drain_end=at["end"].to_numpy(),
                    drain_km3=at["volume_km3"].to_numpy(),
                    drain_sigma_km3=at["volume_sigma_km3"].to_numpy(),
                    distance_km=candidates["inventory_distance_m"].astype(float) / 1e3,
                ),
                {
                    "lake_id": "lake",
                    "latitude": "latitude",
                    "longitude": "longitude",
                    "area_km2": "area, km²",
                    "volume_range_km3": "volume range, km³",
                    "drain_start": "largest draining from",
                    "drain_end": "to",
                    "drain_km3": "km³",
                    "drain_sigma_km3": "σ",
                    "inventory_name": "inventory",
                    "distance_km": "km away",
                },
            )
        )
    return "".join(parts) + _compare_inventory(matches)


def _compare_inventory(matches: pd.DataFrame) -> str:
    """Return how candidates and an inventory's lakes go together, in sentences."""
    known = matches[matches["inventory_row"].notna()]
    if known.empty:
        why = matches["reason"].dropna()
        reason = why.iloc[0] if len(why) else "the region names no inventory with a lake in it"
        return _paragraph(f"Not compared with an inventory: {reason}.")
    count = matches["outcome"].value_counts()
    active = known[known["kind"] == "Active"]
    active_seen = int((active["outcome"] != "not_searched").sum())
    return _paragraph(
        f"The inventory has {len(known)} lakes here, {len(active)} of them known to be active. "
        f"{count.get('not_searched', 0)} lie where no node was searched, and are neither found "
        f"nor missed. Of the others {count.get('hit', 0)} have a candidate (hits) and "
        f"{count.get('miss', 0)} have none (misses; a lake that does not fill or drain in these "
        f"months cannot show); among active ones, {int((active['outcome'] == 'hit').sum())} of "
        f"{active_seen}. Candidates in no inventory (new): {count.get('new', 0)}."
    )


def describe_melt_seasons(
    case_study: pd.DataFrame, months: list[int], coverage: float, unit: str = "mascon"
) -> str:
    """Return the melt seasons of the sheet, and whether the model agrees with GRACE.

    Parameters
    ----------
    case_study
        Table ``applications/case_study``.
    months
        Calendar months of the season.
    coverage
        Nominal coverage of the model's intervals.
    unit
        What the mascons are: mascon or basin.
    """
    sheet = case_study[case_study["scope"] == "sheet"].sort_values("year")
    table = pd.DataFrame(
        {
            "year": sheet["year"].astype(str),
            "dh": _plus_minus(sheet, "dh_season_m", "dh_change_sigma_m", "{:+.2f}"),
            "observed": _plus_minus(sheet, "observed_gt", "observed_sigma_gt", "{:+.0f}"),
            "predicted": _with_interval(sheet, "predicted", "{:+.0f}", "_gt"),
            "late": _plus_minus(sheet, "observed_late_gt", "observed_late_sigma_gt", "{:+.0f}"),
            "predicted_late": _with_interval(sheet, "predicted_late", "{:+.0f}", "_gt"),
            **{
                f"{name}_low": _month_between(sheet, name)
                for name in ("dh", "observed", "predicted")
            },
            "reason": sheet["reason"],
        }
    )
    before, last = MONTH_NAMES[(months[0] - 2) % 12], MONTH_NAMES[months[-1] - 1]
    late = MONTH_NAMES[(months[-1] - 1 + AFTER_SEASON) % 12]
    return (
        _paragraph(judge_melt_seasons(case_study, months, coverage, unit))
        + render_table(
            table,
            {
                "year": "year",
                "dh": f"elevation, {before} to {last}, minus other years, m",
                "observed": f"GRACE, {before} to {last}, Gt",
                "predicted": "model, Gt",
                "late": f"GRACE, {before} to {late}, Gt",
                "predicted_late": "model, Gt",
                "dh_low": "lowest elevation",
                "observed_low": "lowest mass, GRACE",
                "predicted_low": "model",
                "reason": "note",
            },
        )
        + _paragraph(
            "±: 1σ; in brackets: intervals. The model is trained on gravity of other years alone; "
            f"its intervals are meant to hold {_percent(coverage)}. The change to {late} is there "
            "because gravity sees meltwater until it has run off."
        )
    )


def judge_melt_seasons(
    case_study: pd.DataFrame, months: list[int], coverage: float, unit: str = "mascon"
) -> str:
    """Return one sentence: does the model agree with GRACE on the studied seasons.

    It agrees where, in every year, GRACE's change of the sheet lies in the model's interval for
    the season and until the end of the window, the minima are at most a month apart, and the share
    of mascons inside is not below the nominal one by more than two binomial σ.
    """
    sheet = case_study[case_study["scope"] == "sheet"].sort_values("year")
    single = case_study[case_study["scope"] != "sheet"]
    names = ["observed_gt", "predicted_lower_gt", "predicted_upper_gt"]
    known, whole = single.dropna(subset=names), sheet.dropna(subset=names)
    if known.empty or whole.empty:
        why = next(iter(case_study["reason"].dropna()), "no season")
        return f"Whether the model agrees with GRACE on the melt seasons cannot be said: {why}."
    inside = known["observed_gt"].between(known["predicted_lower_gt"], known["predicted_upper_gt"])
    share, n = float(inside.mean()), len(inside)
    least = coverage - 2 * np.sqrt(coverage * (1 - coverage) / n)
    agrees, told = [share >= least], []
    quantile = norm.ppf((1 + coverage) / 2)
    for row in whole.to_dict("records"):
        parts, missing = [], []
        for kind, what in (("", "season"), ("late_", "until it has run off")):
            value, predicted = row[f"observed_{kind}gt"], row[f"predicted_{kind}gt"]
            upper = row[f"predicted_{kind}upper_gt"]
            if not np.isfinite([value, predicted, upper]).all():
                missing.append(what)
                continue
            # The interval holds GRACE's noise, too: it is of errors against GRACE.
            apart = (value - predicted) * quantile / (upper - predicted)
            agrees.append(abs(apart) <= quantile)
            parts.append(f"{apart:+.1f} σ {what}".replace("-", "−"))
        lows = [row["observed_minimum"], row["predicted_minimum"]]
        if pd.notna(lows).all():
            place = [(int(low) - months[0]) % 12 for low in lows]
            agrees.append(abs(place[0] - place[1]) <= 1)
            gap = abs(place[0] - place[1])
            parts.append(f"minima {gap} month{'' if gap == 1 else 's'} apart")
        else:
            missing.append("minima")
        unsaid = f" (cannot be said: {', '.join(missing)})" if missing else ""
        told.append(f"{row['year']} {', '.join(parts)}{unsaid}")
    verdict = "agrees" if all(agrees) else "does not agree"
    unjudged = [
        f"{row['year']} ({row['reason'] or 'no value'})"
        for row in sheet[~sheet.index.isin(whole.index)].to_dict("records")
    ]
    years = " and ".join(str(year) for year in whole["year"])
    where = f" of {years}; it cannot be said for {' and '.join(unjudged)}" if unjudged else ""
    orders = [
        f"{name} {' > '.join(str(year) for year in ranked)}"
        for name, column in (
            ("elevation", "dh_season_m"),
            ("GRACE", "observed_gt"),
            ("model", "predicted_gt"),
        )
        if len(ranked := whole.dropna(subset=[column]).sort_values(column)["year"]) > 1
    ]
    return (
        f"Trained on other years only, the model of elevation {verdict} with GRACE on the melt "
        f"seasons{where}: GRACE's value lies in the model's interval in {inside.sum()} of {n} "
        f"{unit}s and seasons ({_percent(share)}, meant {_percent(coverage)}); whole region, GRACE "
        f"minus model: {'; '.join(told)}."
        + (f" Strongest season first: {'; '.join(orders)}." if orders else "")
    )


def _plus_minus(frame: pd.DataFrame, value: str, sigma: str, form: str) -> pd.Series:
    """Return a column with its σ as people read them, e.g. ``−77 ± 85``."""
    texts = [
        f"{form.format(v)} ± {form.format(s).lstrip('+')}".replace("-", "−")
        if np.isfinite([v, s]).all()
        else None
        for v, s in frame[[value, sigma]].astype(float).to_numpy()
    ]
    return pd.Series(texts, frame.index, dtype="str")


def _month_between(frame: pd.DataFrame, name: str) -> pd.Series:
    """Return the month of a minimum with its interval, e.g. ``Sep (Aug to Oct)``."""
    texts = []
    for low, first, last in frame[[f"{name}_minimum{e}" for e in ("", "_first", "_last")]].to_numpy(
        dtype=float
    ):
        text = MONTH_NAMES[int(low) - 1] if np.isfinite(low) else None
        if text and np.isfinite([first, last]).all():
            text += f" ({MONTH_NAMES[int(first) - 1]} to {MONTH_NAMES[int(last) - 1]})"
        texts.append(text)
    return pd.Series(texts, frame.index, dtype="str")


def describe_rapid_melt(months: pd.DataFrame, rates: pd.DataFrame, unit: str = "mascon") -> str:
    """Return the months of rapid loss of the region, and what chance alone would flag."""
    sheet = rates[rates["scope"] == "sheet"]
    rows = []
    for rate in sheet.to_dict("records"):
        own = months[(months["scope"] == "sheet") & (months["source"] == rate["source"])]
        flagged = own.loc[own["flagged"].fillna(False).astype(bool), "month"]
        rows.append(
            rate
            | {
                "months": ", ".join(f"{month:%Y-%m}" for month in flagged),
                "alarms": f"{100 * rate['false_alarm_rate']:.1f} % "
                f"({100 * rate['false_alarm_lower']:.1f} to {100 * rate['false_alarm_upper']:.1f})"
                if np.isfinite(rate["false_alarm_rate"])
                else None,
            }
        )
    if not rows:
        return _paragraph(f"No month was looked at: no {unit} is selected.")
    single = rates[(rates["scope"] != "sheet") & rates["p"].notna()]
    many = int((single["p"] <= 0.05).sum())
    return render_table(
        pd.DataFrame(rows),
        {
            "source": "source",
            "n": "months",
            "months": "flagged, whole region",
            "n_flagged": "flags",
            "most_by_chance": "at most by chance (95 %)",
            "alarms": "false alarms (95 %)",
            "reason": "note",
        },
    ) + _paragraph(
        "A month is flagged where its change, without trend and mean season, lies below the "
        f"{_percent_exact(rows[0]['nominal_rate'])} quantile of noise with the series' own "
        "autocorrelation and a spread that follows the time of the year. False alarms are measured "
        "on other noise, with the spread of the three calendar months around: as many months are "
        f"flagged where nothing happened. Of {len(single)} series of {unit}s, {many} have more "
        f"flags than 95 % of the noise; chance alone gives about {0.05 * len(single):.0f}."
    )


def _percent_exact(share: float) -> str:
    return f"{100 * share:g} %"


def describe_early_warning(trends: pd.DataFrame, unit: str = "mascon") -> str:
    """Return the early-warning statistics of the region, with what they cannot say."""
    sheet = trends[trends["scope"] == "sheet"]
    years = trends["n"].max() / 12 if len(trends) else 0.0
    single = trends[(trends["scope"] != "sheet") & trends["p"].notna()]
    low = int((single["p"] <= 0.05).sum())
    return (
        _paragraph(
            f"Exploratory: {years:.0f} years support no tipping claim. Rising variance and lag-1 "
            "autocorrelation would be signs of a slower recovery; they are told only against "
            "surrogates with the same spectrum and random phases."
        )
        + render_table(
            sheet,
            {
                "source": "source",
                "statistic": "statistic in running windows",
                "n": "months",
                "tau": "Kendall's tau",
                "tau_lower": "surrogates, from",
                "tau_upper": "to",
                "p": "p (rise)",
                "reason": "note",
            },
        )
        + _paragraph(
            f"Of {len(single)} statistics of {unit}s, {low} have p of at most 0.05; chance alone "
            f"gives about {0.05 * len(single):.0f}."
        )
    )


def describe_sensitivity(sensitivity: pd.DataFrame, unit: str = "mascon") -> str:
    """Return what the mascon rule and the density do to the trend of mass."""
    gravity = sensitivity[(sensitivity["source"] == "gravity") & sensitivity["trend_gt_yr"].notna()]
    whole = gravity[gravity["start"] == gravity["start"].min()]
    parts = []
    if len(whole):
        low, high = (
            f"{value:.0f}".replace("-", "−")
            for value in (whole["trend_gt_yr"].min(), whole["trend_gt_yr"].max())
        )
        parts.append(
            _paragraph(
                f"What counts as the region's ice moves gravity's trend between {low} and "
                f"{high} Gt/yr ({len(whole)} mascon rules, {whole['start'].min():%Y-%m} to "
                f"{whole['end'].max():%Y-%m})."
            )
        )
    shown = sensitivity.assign(
        source=_source_names(sensitivity),
        choice=sensitivity["choice"]
        + np.where(sensitivity["configured"] & (sensitivity["n"] > 0), " (this run)", ""),
    )
    parts.append(
        render_table(
            shown,
            {
                "choice": "choice",
                "n_mascons": f"{unit}s",
                "source": "source",
                "start": "from",
                "end": "to",
                "trend_gt_yr": "trend, Gt/yr",
                "trend_sigma_gt_yr": "σ",
                "difference_gt_yr": "less this run's",
                "change_gt": "change, Gt",
                "sea_level_mm_yr": "sea level, mm/yr",
                "sea_level_sigma_mm_yr": "σ",
                "reason": "note",
            },
        )
    )
    return "".join(parts)


def describe_validation(validation: dict[str, Any]) -> str:
    """Return the comparison with the planted truth and the factors of the synthetic world."""
    rows = []
    for metric in validation["metrics"]:
        holds = metric["holds"]
        said = "; ".join(filter(None, [metric.get("about"), metric.get("reason")]))
        mark = {
            True: '<td class="yes">holds</td>',
            False: '<td class="no">does not hold</td>',
            None: "<td>to read</td>",
        }[holds]
        rows.append(
            f"<tr><td>{html.escape(str(metric['metric']))}</td>"
            f'<td class="number">{_number(metric["value"])}</td>'
            f"<td>{html.escape(_number(metric['tolerance']))}</td>{mark}"
            f"<td>{html.escape(said)}"
            "</td></tr>"
        )
    world = validation.get("world", {})
    factors = "; ".join(
        f"{key} {value}" for key, value in world.items() if not isinstance(value, dict | list)
    )
    head = "<tr><th>metric</th><th>value</th><th>tolerance</th><th></th><th>meaning</th></tr>"
    return _table(head, rows) + _paragraph(f"The world: {factors}.")


def render_summary(
    *,
    title: str,
    source: str,
    unit: str,
    months: str,
    filter_report: pd.DataFrame,
    checks: pd.DataFrame,
    centroids: pd.DataFrame,
    stability: pd.DataFrame,
    lead: str,
    verdict: str,
    explained: pd.DataFrame,
    coupling: pd.DataFrame,
    fdr: float,
    min_months: int,
    granules: int,
    totals: pd.DataFrame,
    sea_level: pd.DataFrame,
    comparison: pd.DataFrame,
    sheet_coupling: pd.DataFrame,
    case_study: pd.DataFrame,
    season_months: list[int],
    coverage: float,
    rapid_melt: pd.DataFrame,
    rapid_melt_rates: pd.DataFrame,
    early_warning: pd.DataFrame,
    sensitivity: pd.DataFrame,
    lakes: pd.DataFrame,
    lake_events: pd.DataFrame,
    searched_nodes: pd.DataFrame,
    inventory_matches: pd.DataFrame,
    features_ledger: pd.DataFrame,
    validation: dict[str, Any] | None,
) -> str:
    """Return the summary page of a region.

    Parameters
    ----------
    title, source, months
        Region, source of the data, and the months covered, as people read them.
    unit
        What the mascons are: mascon or basin.
    filter_report, checks, centroids, stability, explained, coupling, totals, sea_level, \
    comparison,     sheet_coupling, case_study, rapid_melt, rapid_melt_rates, early_warning, \
    sensitivity, lakes, lake_events, searched_nodes, inventory_matches
        The tables of those names (see :mod:`cryofuse.tables`).
    lead
        First words, of :func:`cryofuse.products.answers.render_lead`.
    verdict
        The sentence that the skill table gives.
    fdr
        False discovery rate of the coupling map.
    min_months
        Fewest common months of a mascon's coupling.
    granules
        Number of granules that were read.
    season_months, coverage
        Calendar months of a melt season, and nominal coverage of the model's intervals.
    features_ledger
        Features that are null and why.
    validation
        Recovery of the planted truth, for the synthetic world.

    Returns
    -------
    str
        One HTML page, whose links are to files beside it.
    """
    parts = [
        _paragraph(
            f"Region {title}, months {months}, source {source}. Elevation change is positive for "
            "thickening, mass change for gain. A dash is a missing value, never a zero."
        ),
        lead,
        "<h2>In detail</h2>",
        _paragraph("The same and more in the terms and tables of the field."),
        "<h2>Does elevation change predict mass change?</h2>",
        _paragraph(verdict),
        describe_archive(
            granules,
            totals,
            min_months=min_months,
            synthetic=source == "synthetic",
            unit=unit,
        ),
        "<h2>How much of GRACE's signal does it explain?</h2>",
        describe_explained(explained, unit),
        "<h2>Where is the coupling strongest?</h2>",
        describe_coupling(coupling, fdr, unit),
        "<h2>Which regimes exist?</h2>",
        describe_regimes(centroids, stability, unit),
        "<h2>Mass and sea level</h2>",
        describe_sea_level(sea_level),
        describe_comparison(comparison),
        "<h2>What do choices do to the mass?</h2>",
        describe_sensitivity(sensitivity, unit),
        "<h2>Do the sheet's volume and mass go together?</h2>",
        describe_sheet_coupling(sheet_coupling),
        "<h2>Melt seasons</h2>",
        describe_melt_seasons(case_study, season_months, coverage, unit),
        "<h2>Months of rapid loss</h2>",
        describe_rapid_melt(rapid_melt, rapid_melt_rates, unit),
        "<h2>Early warning (exploratory)</h2>",
        describe_early_warning(early_warning, unit),
        "<h2>Subglacial lakes</h2>",
        describe_lakes(lakes, lake_events, searched_nodes, inventory_matches),
        "<h2>Do crossovers and repeats agree with the fits?</h2>",
        describe_checks(checks),
        "<h2>What was left out, and why</h2>",
        describe_filters(filter_report),
    ]
    empty = (
        features_ledger[features_ledger["n_null"] > 0] if len(features_ledger) else features_ledger
    )
    if len(empty):
        parts.append(
            render_table(empty, {"feature": "feature", "n_null": "missing", "reason": "reason"})
        )
    if validation:
        parts += ["<h2>Recovery of the planted truth</h2>", describe_validation(validation)]
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>cryofuse: {html.escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{html.escape(title)}: elevation change and mass change</h1>{''.join(parts)}"
        "</main></body></html>\n"
    )


def report_run(folder: Path) -> list[str]:
    """Return the lines that `make demo` ends with: what holds, and where to look."""
    pages = ("report", "summary", "dashboard")
    lines = [f"{page + ':':<11} {folder / page}.html" for page in pages]
    path = folder / "validation.json"
    if path.is_file():
        metrics = json.loads(path.read_text())["metrics"]
        failed = [metric for metric in metrics if metric["holds"] is False]
        asked = [metric for metric in metrics if metric["holds"] is not None]
        lines.append(
            f"validation: {len(asked) - len(failed)} of {len(asked)} metrics hold ({path})"
        )
        lines += [
            f"  does not hold: {m['metric']} {_number(m['value'])}, tolerance {m['tolerance']}"
            for m in failed
        ]
    return lines


if __name__ == "__main__":
    print("\n".join(report_run(Path(sys.argv[1]))))  # noqa: T201
