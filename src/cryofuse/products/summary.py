"""The summary page: what a run found, in plain sentences and small tables, as one HTML file."""

from __future__ import annotations

import html
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cryofuse.atl06.report import WHOLE

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; margin: .8rem 0; font-size: .9rem }
th, td { border-bottom: 1px solid #ccc; padding: .25rem .8rem .25rem 0; text-align: left;
         vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
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
        return f"{number:.{digits}g}" if abs(number) < 1000 else f"{number:,.0f}".replace(",", " ")
    if isinstance(value, pd.Timestamp):
        return value.strftime("%Y-%m")
    return str(value)


def _cell(value: Any, numeric: bool) -> str:
    kind = "number" if numeric else "text"
    return f'<td class="{kind}">{html.escape(_number(value))}</td>'


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


def describe_coupling(coupling: pd.DataFrame, fdr: float) -> str:
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
            "mascons": "mascons",
            "r": "median r at the best lag",
            "significant": f"significant (FDR {fdr:g})",
            "lag": "median lag, months",
            "density": "median density, kg/m³",
        },
    )


def describe_regimes(centroids: pd.DataFrame, stability: pd.DataFrame) -> str:
    """Return the regimes of nodes and mascons, and why there are so many."""
    columns = {
        "level": "level",
        "regime_name": "regime",
        "n_mascons": "mascons",
        "n_nodes": "nodes",
        "area_km2": "ice area, km²",
        "rate_m_yr": "rate, m/yr",
        "amplitude_m": "annual amplitude, m",
        "elevation_m": "elevation, m",
        "slope": "slope, m/m",
    }
    known = centroids.dropna(subset=["regime"])
    why = stability.dropna(subset=["why"])
    none = centroids[centroids["regime"].isna()]
    return "\n".join(
        [
            *([render_table(known, columns)] if len(known) else []),
            *(_paragraph(f"Regimes of {row.level}: {row.why}") for row in why.itertuples()),
            *(_paragraph(f"No regimes of {row.level}: {row.reason}.") for row in none.itertuples()),
        ]
    )


def describe_explained(explained: pd.DataFrame) -> str:
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
        "Median over mascons of the share of variance; a negative share is worse than the mean. "
        + " ".join(
            f"Of the mean of all mascons ({target}): {_percent(total)} "
            + (f"[{_percent(low)}, {_percent(high)}]." if np.isfinite(low) else "(no interval).")
            for target, total, low, high in region[
                ["target", "explained_total", "total_lower", "total_upper"]
            ].itertuples(index=False)
        )
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %".replace("-", "−")


def describe_archive(
    granules: int, totals: pd.DataFrame, *, min_months: int, synthetic: bool
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
    """
    rows = totals[totals["source"] != "gravity"]
    asked = rows["month"].nunique()
    seen = rows.loc[rows["n_mascons"] > 0, "month"].nunique()
    whole = rows.loc[rows["volume_km3"].notna(), "month"].nunique()
    kind = "synthetic granules" if synthetic else "granules"
    parts = [
        f"This run read {granules} {kind}. Of {asked} months asked for, altimetry has a value in "
        f"some mascon in {seen}, and a total of the region in {whole}."
    ]
    if seen < min_months:
        parts.append(
            f"That is fewer than the {min_months} months that the coupling of a mascon needs, so "
            "this run cannot tell whether elevation change predicts mass change: real skill at "
            "mascon scale needs a multi-year archive of granules over the whole region. The sheet "
            "as a whole can be coupled from published series (below)."
        )
    else:
        parts.append(
            "Real skill at mascon scale needs a multi-year archive of real granules"
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
        sea_level.assign(density=density),
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
                known.assign(apart=apart, r=known["r"].map("{:.4f}".format)),
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
        sources = ", ".join(group["source"])
        parts.append(_paragraph(f"Not compared: {series} with {sources} ({reason})."))
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
    lakes: pd.DataFrame,
    features_ledger: pd.DataFrame,
    validation: dict[str, Any] | None,
) -> str:
    """Return the summary page of a region.

    Parameters
    ----------
    title, source, months
        Region, source of the data, and the months covered, as people read them.
    filter_report, checks, centroids, stability, explained, coupling, totals, sea_level, \
    comparison,     sheet_coupling, case_study, lakes
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
    features_ledger
        Features that are null and why.
    validation
        Recovery of the planted truth, for the synthetic world.

    Returns
    -------
    str
        One HTML page, whose links are to files beside it.
    """
    candidates = lakes[lakes["status"] == "candidate"]
    lookalikes = len(lakes) - len(candidates)
    sheet = case_study[case_study["scope"] == "sheet"].astype({"year": str})
    parts = [
        _paragraph(
            f"Region {title}, months {months}, source {source}. Elevation change is positive for "
            "thickening, mass change for gain. A dash is a missing value, never a zero."
        ),
        lead,
        "<h2>In detail</h2>",
        "<h2>Does elevation change predict mass change?</h2>",
        _paragraph(verdict),
        describe_archive(granules, totals, min_months=min_months, synthetic=source == "synthetic"),
        "<h2>How much of GRACE's signal does it explain?</h2>",
        describe_explained(explained),
        "<h2>Where is the coupling strongest?</h2>",
        describe_coupling(coupling, fdr),
        "<h2>Which regimes exist?</h2>",
        describe_regimes(centroids, stability),
        "<h2>Mass and sea level</h2>",
        describe_sea_level(sea_level),
        describe_comparison(comparison),
        "<h2>Do the sheet's volume and mass go together?</h2>",
        describe_sheet_coupling(sheet_coupling),
        "<h2>Melt seasons</h2>",
        render_table(
            sheet,
            {
                "year": "year",
                "dh_season_m": "elevation anomaly, m",
                "observed_gt": "GRACE, Gt",
                "observed_sigma_gt": "σ",
                "predicted_gt": "model, Gt",
                "predicted_lower_gt": "from",
                "predicted_upper_gt": "to",
                "reason": "note",
            },
        ),
        "<h2>Subglacial lakes</h2>",
        _paragraph(
            f"{len(candidates)} candidates, {lookalikes} look-alikes."
            if centroids["regime"].notna().any()
            else "Not searched: no node has a fit."
        ),
        render_table(
            candidates,
            {
                "lake_id": "lake",
                "latitude": "latitude",
                "longitude": "longitude",
                "area_km2": "area, km²",
                "volume_range_km3": "volume range, km³",
                "first_drain": "first draining",
            },
        )
        if len(candidates)
        else "",
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
    lines = [f"report:     {folder / 'report.html'}", f"summary:    {folder / 'summary.html'}"]
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
