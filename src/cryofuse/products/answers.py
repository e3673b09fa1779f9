"""The summary's first words: five questions answered for readers who are no glaciologists.

Each answer is one or two sentences made of a table, with the range that goes with its number, or
what the table says of why there is none.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

import numpy as np
import pandas as pd

from cryofuse.learning.skill import judge_splits

#: Half a 95 % interval of a normal distribution (σ).
_SIGMAS = 1.96
#: Slower than this the surface stands still (m/yr).
_STILL_M_YR = 0.01
_WHERE = {
    "both": "in places and months that it had not learnt from",
    "leave_mascon_out": "in places that it had not learnt from",
    "forward": "in later months",
}
#: An interval from fewer independent blocks of months is told to be a thin one.
_FEW_BLOCKS = 5
#: What the smallest patches of a product of GRACE are.
_MASCONS = {
    "jpl": "a patch, some 300 km across, that GRACE weighs as one",
    "csr": "a patch, some 100 km across, that CSR's solutions weigh as one; GRACE itself tells "
    "places apart from some 300 km on, so that neighbours share what they say",
    "gsfc": "a patch, some 100 km across, that GSFC's solutions weigh as one; GRACE itself tells "
    "places apart from some 300 km on, so that neighbours share what they say",
}
_BASIN = (
    "the ice that drains to one stretch of coast; it weighs what the patches of GRACE under it do"
)
#: Words of the page that a newcomer may not know, beside those of what is weighed.
_TERMS = {
    "ICESat-2": "a satellite that measures the height of the ice with a laser, since 2018",
    "GRACE": "pairs of satellites that weigh the ice through its gravity, since 2002; GRACE-FO is "
    "the second pair",
    "elevation change": "how far the surface rose (+) or sank (−)",
    "mass change": "ice gained (+) or lost (−), in gigatonnes (Gt): a billion tonnes, the water "
    "of a cube one kilometre wide",
    "sea level": "361.8 Gt of ice make one millimetre of sea all over the world",
    "95 % range": "where the true value lies in 95 of 100 such cases, if the assumptions hold",
    "held out": "kept from a model while it learns, to test it on",
}
#: What a whole run writes beside the page.
FILES = {
    "dashboard.html": "map and series of every place, to click through; needs no network",
    "figures/": "every figure as PNG and PDF",
    "product/mass_change.nc": "mass by place and month for programs (NetCDF)",
    "product/mass_change.gpkg": "the same for maps (GeoPackage, for QGIS)",
    "skill/table.csv": "the scores of all models",
}


def terms(product: str, unit: str) -> dict[str, str]:
    """Return the words of the page that a newcomer may not know, with their meaning.

    Parameters
    ----------
    product
        Mascon product: jpl, csr or gsfc.
    unit
        What is weighed: mascon or basin.
    """
    weighed = {"mascon": _MASCONS[product], "basin": _BASIN}
    first = {name: _TERMS[name] for name in ("ICESat-2", "GRACE")}
    return first | {unit: weighed[unit]} | _TERMS


def answer_mass(sea_level: pd.DataFrame) -> str:
    """Return how much ice the region loses in the years of altimetry, and what the sea gets.

    Parameters
    ----------
    sea_level
        Table ``applications/sea_level``.
    """
    rows = sea_level[sea_level["source"] == "gravity"].sort_values("start")
    known = rows[rows["trend_gt_yr"].notna()]
    if known.empty:
        return f"That cannot be said: {_first_reason(rows, 'no gravimetry')}."
    row = known.iloc[-1]
    mass, sea = float(row["trend_gt_yr"]), float(row["sea_level_mm_yr"])
    lost = mass < 0
    return (
        f"From {row['start']:%Y-%m} to {row['end']:%Y-%m} it {'lost' if lost else 'gained'} "
        f"{abs(mass):.0f} billion tonnes of ice a year (give or take "
        f"{_SIGMAS * row['trend_sigma_gt_yr']:.0f}), by satellite gravity. That "
        f"{'raises' if lost else 'lowers'} the sea by {abs(sea):.2f} mm a year (give or take "
        f"{_SIGMAS * row['sea_level_sigma_mm_yr']:.2f})."
    )


def answer_prediction(scores: pd.DataFrame) -> str:
    """Return whether elevation change tells mass change better than rules without it.

    Parameters
    ----------
    scores
        Table SCORES.
    """
    judged, reason = judge_splits(scores)
    if reason is not None:
        return f"That cannot be said: {reason}."
    told: dict[bool, list[str]] = {True: [], False: []}
    for split in judged:
        value, lower, upper = (100 * float(split.best[n]) for n in ("value", "lower", "upper"))
        text = f"{_WHERE[split.split]} (squared error smaller by {_signed(value)} %"
        text += f", 95 % range {_signed(lower)} to {_signed(upper)} %" if np.isfinite(lower) else ""
        blocks = split.best["n_blocks"]
        if pd.notna(blocks) and blocks < _FEW_BLOCKS:
            text += f", from only {int(blocks)} independent stretches of time"
        text += "; what it learns there is mostly the season)" if split.seasonal else ")"
        told[split.won].append(text)
    if not told[True]:
        return (
            "Not shown. A model that sees the surface rise and fall does not demonstrably tell the "
            f"change of mass better than simple rules do: {'; '.join(told[False])}."
        )
    answer = (
        f"{'In part' if told[False] else 'Yes'}. A model that sees the surface rise and fall tells "
        "the change of mass better than the best simple rule, and than models that do not see it, "
        f"{'; '.join(told[True])}"
    )
    return answer + (f"; but not demonstrably {'; '.join(told[False])}." if told[False] else ".")


def answer_explained(explained: pd.DataFrame) -> str:
    """Return how much of gravity's signal elevation tells, for the mean of the region.

    Parameters
    ----------
    explained
        Table ``explained/mascons``.
    """
    region = explained[explained["scope"] == "region"].dropna(subset=["explained_total"])
    parts = []
    for target, words in (
        ("change", "the ups and downs from month to month"),
        ("cumulative", "the curve that adds them up"),
    ):
        rows = region[region["target"] == target]
        if rows.empty:
            continue
        row = rows.iloc[0]
        value, lower, upper = (
            100 * float(row[name]) for name in ("explained_total", "total_lower", "total_upper")
        )
        text = f"{_signed(value)} % of {words}"
        if np.isfinite(lower):
            text += f" (95 % range {_signed(lower)} to {_signed(upper)} %)"
        parts.append(text)
    if not parts:
        return f"That cannot be said: {_first_reason(explained, 'no prediction')}."
    less = " Less than 0 % would be worse than no model at all." if "−" in "".join(parts) else ""
    return (
        "Held-out models that see elevation, place and season account, over the region as a whole, "
        f"for {' and for '.join(parts)}.{less}"
    )


def answer_coupling(coupling: pd.DataFrame, fdr: float, unit: str = "mascon") -> str:
    """Return in how many mascons elevation and mass go together, and where most.

    Without trend and season: two series that both fall, or both have a summer, go together anyway.

    Parameters
    ----------
    coupling
        Table ``coupling/mascons``.
    fdr
        False discovery rate.
    unit
        What the mascons are: mascon or basin.
    """
    rows = coupling[coupling["treatment"] == "deseasonalised"]
    known = rows[rows["best"] & rows["r"].notna()]
    if known.empty:
        return f"That cannot be said: {_first_reason(rows, 'too few months')}."
    found = known[known["q_fdr"] <= fdr].sort_values(["r", "mascon_id"])
    answer = (
        f"Without their common trend and season, height and mass still go together in {len(found)} "
        f"of {len(known)} {unit}s (of those, {100 * fdr:g} % may be chance)"
    )
    if found.empty:
        return answer + "."
    top = found.iloc[-1]
    lag = int(top["lag_months"])
    when = "at the same time"
    if lag:
        months = f"{abs(lag)} month{'' if abs(lag) == 1 else 's'}"
        when = f"mass {months} {'after' if lag > 0 else 'before'} height"
    interval = ""
    if np.isfinite(top["r_lower"]):
        interval = f", 95 % range {_signed(top['r_lower'], 2)} to {_signed(top['r_upper'], 2)}"
    return (
        f"{answer}; most closely in {unit} {int(top['mascon_id'])} (correlation "
        f"{_signed(top['r'], 2)}{interval}; {when})."
    )


def answer_regimes(centroids: pd.DataFrame) -> str:
    """Return which kinds of ice there are, by how they rise and sink.

    Parameters
    ----------
    centroids
        Table ``regimes/centroids``.
    """
    nodes = centroids[centroids["level"] == "nodes"]
    known = nodes[nodes["regime"].notna()].sort_values("regime")
    if known.empty:
        return f"That cannot be said: {_first_reason(nodes, 'no node has a fit')}."
    area = known["area_km2"] / known["area_km2"].sum()
    fastest, largest = known.iloc[0], known.iloc[int(area.to_numpy().argmax())]

    def words(row: pd.Series, share: float) -> str:
        rate = float(row["rate_m_yr"])
        moves = f"{'rising' if rate > 0 else 'sinking'} {abs(rate):.2f} m a year"
        if abs(rate) < _STILL_M_YR:
            moves = "neither rising nor sinking by a centimetre a year"
        return f"“{row['regime_name']}” ({100 * share:.0f} % of the ice that was grouped, {moves})"

    answer = f"{len(known)} kinds of ice behave differently. The one that thins fastest is "
    answer += words(fastest, area.iloc[0])
    if largest["regime"] != fastest["regime"]:
        answer += f"; the largest is {words(largest, area.max())}"
    return answer + ". No range goes with these: they are means of groups."


def render_lead(
    *,
    planted: bool,
    sea_level: pd.DataFrame,
    scores: pd.DataFrame,
    explained: pd.DataFrame,
    coupling: pd.DataFrame,
    fdr: float,
    centroids: pd.DataFrame,
    product: str,
    unit: str,
) -> str:
    """Return the questions with their answers, what words mean, and what lies beside, as HTML.

    Parameters
    ----------
    planted
        Whether the world is a synthetic one.
    sea_level, scores, explained, coupling, centroids
        The tables of those names (see :mod:`cryofuse.tables`).
    fdr
        False discovery rate of the coupling.
    product, unit
        Mascon product, and what is weighed: mascon or basin.
    """
    answers = {
        "How much ice does it lose?": answer_mass(sea_level),
        "Does the height of the ice tell its change of mass?": answer_prediction(scores),
        "How much of what gravity sees can be told from above?": answer_explained(explained),
        "Where do height and mass go together most?": answer_coupling(coupling, fdr, unit),
        "Which kinds of ice are there?": answer_regimes(centroids),
    }
    notice = (
        '<p class="notice"><strong>This world is invented.</strong> Its ice was planted to test '
        "the method: the numbers say how well that is found again, and nothing about nature.</p>"
        if planted
        else ""
    )
    asked = "".join(
        f"<h3>{html.escape(question)}</h3><p>{html.escape(_keep_together(answer))}</p>"
        for question, answer in answers.items()
    )
    files = "".join(
        f'<li><a href="{name}">{name}</a>: {html.escape(about)}</li>'
        for name, about in FILES.items()
    )
    words = _define(terms(product, unit).items())
    return (
        f"{notice}<h2>In short</h2>{asked}<h2>Words</h2><dl>{words}</dl>"
        "<h2>Beside this page</h2><p>A whole run writes these; one of a single target, such as "
        "<code>snakemake summary</code>, does not write them all.</p>"
        f"<ul>{files}<li>report.html, where built (<code>snakemake --report</code>): all figures "
        "with captions</li></ul>"
    )


def _define(terms: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f"<dt>{html.escape(term)}</dt><dd>{html.escape(about)}</dd>" for term, about in terms
    )


def _keep_together(text: str) -> str:
    """Return a text whose percent signs stay with their numbers."""
    return text.replace(" %", "\u00a0%")


def _first_reason(rows: pd.DataFrame, otherwise: str) -> str:
    return str(next(iter(rows["reason"].dropna()), otherwise))


def _signed(value: float, decimals: int = 0) -> str:
    """Return a number with a true minus."""
    return f"{value:.{decimals}f}".replace("-", "−")
