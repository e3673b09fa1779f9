"""The first words of the summary: their numbers are the tables', and null has words of its own."""

import html
import re

import numpy as np
import pandas as pd
import pytest

from cryofuse.products.answers import (
    FILES,
    answer_coupling,
    answer_explained,
    answer_mass,
    answer_prediction,
    answer_regimes,
    render_lead,
)

from .test_summary import NASTY, read


def sea_level(**changed):
    early = {"source": "gravity", "start": pd.Timestamp("2002-04-01"), "trend_gt_yr": -999.0}
    row = {
        "source": "gravity",
        "start": pd.Timestamp("2018-10-01"),
        "end": pd.Timestamp("2021-12-01"),
        "trend_gt_yr": -263.4,
        "trend_sigma_gt_yr": 12.0,
        "sea_level_mm_yr": 0.728,
        "sea_level_sigma_mm_yr": 0.0332,
        "reason": None,
    }
    other = row | {"source": "altimetry_850", "trend_gt_yr": -111.0}
    rows = [row | changed, other]
    return pd.DataFrame(rows if changed.get("reason") else [row | early, *rows])


def scores(forward=(0.04, -0.02, 0.08), twin=(0.11, 0.07, 0.13), p=0.01, blocks=5):
    """Two honest splits: one is won by the gains given here, the other as ``forward`` says."""
    rows = []
    for split, gain in (("leave_mascon_out", (0.15, 0.10, 0.17)), ("forward", forward)):
        plain = {"split": split, "target": "change", "scope": "pooled", "n": 90, "n_blocks": blocks}

        def row(model, kind, score, values, plain=plain):
            value, lower, upper = values
            told = {"model": model, "kind": kind, "score": score, "value": value, "reason": None}
            return plain | told | {"lower": lower, "upper": upper}

        none = (np.nan, np.nan)
        rows += [
            row("ridge", "model", "gain_vs_best", gain),
            row("forest", "model", "gain_vs_best", (gain[0] - 0.5, gain[1] - 0.5, gain[2] - 0.5)),
            row("ridge", "model", "gain_vs_best_twin", twin),
            row("ridge", "model", "gain_vs_best_jackknife", gain),
            row("ridge", "model", "gain_vs_best_twin_jackknife", twin),
            row("ridge", "model", "rmse_cm", (1.0, *none)),
            row("climatology", "baseline", "rmse_cm", (1.2, *none)),
            row("ridge_blind", "control", "rmse_cm", (1.3, *none)),
            row("control_permuted", "control", "p_permuted", (p, *none)),
        ]
    return pd.DataFrame(rows)


def explained(**changed):
    rows = [
        {"scope": "region", "target": "change", "explained_total": 0.24, "reason": None}
        | {"total_lower": 0.12, "total_upper": 0.34},
        {"scope": "region", "target": "cumulative", "explained_total": -0.31, "reason": None}
        | {"total_lower": np.nan, "total_upper": np.nan},
        {"scope": "mascon", "target": "change", "explained_total": 0.99, "reason": None},
    ]
    return pd.DataFrame([row | changed for row in rows])


def coupling(**changed):
    def row(mascon, r, q, lag, **more):
        told = {"mascon_id": mascon, "r": r, "q_fdr": q, "lag_months": lag, "best": True}
        told |= {"treatment": "deseasonalised", "reason": None}
        return told | {"r_lower": r - 0.2, "r_upper": r + 0.05} | more | changed

    rows = [row(35, 0.61, 0.01, 2), row(50, 0.42, 0.04, 0), row(68, 0.9, 0.3, 1)]
    rows += [row(35, 0.99, 0.0, 6, best=False), row(35, 0.98, 0.0, 1, treatment="raw")]
    return pd.DataFrame(rows)


def regimes():
    return pd.DataFrame(
        {
            "level": ["nodes", "nodes", "nodes", "mascons"],
            "regime": [0.0, 1.0, 2.0, 0.0],
            "regime_name": ["fast outlet", "seasonal melt", "stable interior", "other"],
            "area_km2": [1000.0, 3000.0, 6000.0, 1e9],
            "rate_m_yr": [-2.174, -0.3, 0.0012, 9.0],
            "reason": None,
        }
    )


def test_mass_is_that_of_gravity_in_the_years_of_altimetry():
    # 1.96 σ: 23.5 Gt and 0.065 mm a year.
    assert answer_mass(sea_level()) == (
        "From 2018-10 to 2021-12 it lost 263 billion tonnes of ice a year (give or take 24), by "
        "satellite gravity. That raises the sea by 0.73 mm a year (give or take 0.07)."
    )
    gained = answer_mass(sea_level(trend_gt_yr=50.4, sea_level_mm_yr=-0.139))
    assert "gained 50 billion" in gained and "lowers the sea by 0.14 mm" in gained
    none = sea_level(trend_gt_yr=np.nan, reason="3 values over 2 months")
    assert answer_mass(none) == "That cannot be said: 3 values over 2 months."
    assert answer_mass(none.iloc[:0]) == "That cannot be said: no gravimetry."


def test_prediction_is_as_good_as_the_intervals_let_it_be():
    part = answer_prediction(scores())
    assert part.startswith("In part. ") and part.count("squared error") == 2
    won, lost = part.split("; but not demonstrably ")
    assert "places that it had not learnt from (squared error smaller by 15 %" in won
    assert "95 % range 10 to 17 %" in won
    assert lost == "in later months (squared error smaller by 4 %, 95 % range −2 to 8 %)."
    assert "season" not in part
    assert "mostly the season" in answer_prediction(scores(p=0.85))
    assert "stretches" not in part
    thin = answer_prediction(scores(blocks=2))
    assert (
        thin.count("95 % range") == thin.count(", from only 2 independent stretches of time") == 2
    )
    assert "stretches" not in answer_prediction(scores(blocks=None))
    whole = answer_prediction(scores(forward=(0.2, 0.1, 0.3)))
    assert whole.startswith("Yes. ") and "not demonstrably" not in whole
    assert "smaller by 20 %, 95 % range 10 to 30 %" in whole
    # Nothing is won where the models that do not see the surface do as well.
    assert answer_prediction(scores(twin=(0.01, -0.1, 0.1))).startswith("Not shown. ")
    bare = scores().assign(value=np.nan, reason="no altimetry")
    assert answer_prediction(bare) == "That cannot be said: no altimetry."


def test_shares_are_those_of_the_region():
    said = answer_explained(explained())
    assert "24 % of the ups and downs from month to month (95 % range 12 to 34 %)" in said
    assert "−31 % of the curve that adds them up. Less than 0 % would be worse" in said
    assert "99" not in said
    none = explained(explained_total=np.nan, reason="12 common months")
    assert answer_explained(none) == "That cannot be said: 12 common months."


def test_coupling_counts_what_is_left_without_trend_and_season():
    said = answer_coupling(coupling(), 0.05)
    assert "in 2 of 3 mascons (of those, 5 % may be chance)" in said
    assert "mascon 35 (correlation 0.61, 95 % range 0.41 to 0.66; mass 2 months after" in said
    assert "mass 1 month before height" in answer_coupling(coupling(lag_months=-1), 0.05)
    assert "at the same time" in answer_coupling(coupling(lag_months=0), 0.05)
    few = answer_coupling(coupling(q_fdr=0.5), 0.05)
    assert few.endswith("in 0 of 3 mascons (of those, 5 % may be chance).")
    none = coupling(r=np.nan, reason="too few common months (9)")
    assert answer_coupling(none, 0.05) == "That cannot be said: too few common months (9)."


def test_regimes_are_told_by_the_fastest_and_the_largest():
    said = answer_regimes(regimes())
    assert said.startswith("3 kinds of ice behave differently.")
    assert "“fast outlet” (10 % of the ice that was grouped, sinking 2.17 m a year)" in said
    assert "“stable interior” (60 % of the ice that was grouped, neither rising nor" in said
    alone = answer_regimes(regimes().iloc[:1])
    assert "the largest" not in alone
    none = regimes().assign(regime=np.nan, reason="12 nodes")
    assert answer_regimes(none) == "That cannot be said: 12 nodes."


@pytest.fixture
def lead():
    def render(planted=True, **changed):
        given = {
            "sea_level": sea_level(),
            "scores": scores(),
            "explained": explained(),
            "coupling": coupling(),
            "fdr": 0.05,
            "centroids": regimes(),
            "product": "jpl",
            "unit": "mascon",
        }
        return render_lead(planted=planted, **(given | changed))

    return render


def test_every_question_has_its_answer_and_links_are_beside_the_page(lead):
    text = lead()
    found = read(text)
    assert text.count("<h3>") == 5 and found.tags.count("dt") == found.tags.count("dd") > 5
    assert found.links == list(FILES) and "report.html" not in found.links
    assert "report.html, where built" in text
    assert not [link for link in found.links if "//" in link or link.startswith("/")]
    words = html.unescape(re.sub("<[^>]*>", " ", text)).replace("\u00a0", " ")
    for answer in (
        answer_mass(sea_level()),
        answer_prediction(scores()),
        answer_explained(explained()),
        answer_coupling(coupling(), 0.05),
        answer_regimes(regimes()),
    ):
        assert answer in words
    assert "This world is invented." in words
    assert "invented" not in lead(planted=False)


def test_foreign_text_is_escaped(lead):
    text = lead(
        sea_level=sea_level(trend_gt_yr=np.nan, reason=NASTY),
        scores=scores().assign(value=np.nan, reason=NASTY),
        explained=explained(explained_total=np.nan, reason=NASTY),
        coupling=coupling(r=np.nan, reason=NASTY),
        centroids=regimes().assign(regime_name=NASTY),
    )
    assert not {"script", "img"} & set(read(text).tags)
    assert text.count("&lt;script&gt;") == 6


@pytest.mark.parametrize(
    ("product", "unit", "said", "not_said"),
    [
        ("jpl", "mascon", "some 300 km across, that GRACE weighs", "basin"),
        ("csr", "mascon", "some 100 km across, that CSR", "some 300 km across"),
        ("gsfc", "mascon", "some 100 km across, that GSFC", "some 300 km across"),
        ("jpl", "basin", "drains to one stretch of coast", "mascon"),
    ],
)
def test_what_is_weighed_is_said_of_its_product_and_unit(lead, product, unit, said, not_said):
    words = html.unescape(re.sub("<[^>]*>", " ", lead(product=product, unit=unit)))
    words = words.replace("mass_change.", "")
    assert said in words and not_said not in words
