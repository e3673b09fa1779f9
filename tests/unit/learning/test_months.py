"""Every mascon month is predicted by models that never saw the mascon, as the skill predicts."""

import numpy as np
import pandas as pd
import pytest

from cryofuse.config import SkillSettings
from cryofuse.learning.months import (
    NO_ALTIMETRY,
    NO_CAUSAL_FIT,
    choose_model,
    predict_months,
    predict_target,
)
from cryofuse.learning.skill import evaluate
from cryofuse.tables import PRODUCT_MONTHS, SCORES, check, from_pandas

GT_PER_CM = 1e5 * 1e-5  # 1e5 km² of land in the table of the tests
SETTINGS = SkillSettings(
    models=["ridge", "hist_gradient_boosting"],
    splits=["leave_mascon_out"],
    trees=20,
    candidates=2,
    mascon_folds=4,
    inner_folds=2,
    neighbour_buffer_km=0,
    label_permutations=1,
    bootstrap_draws=20,
    terms="all",
)
GAP = pd.date_range("2020-06-01", "2020-11-01", freq="MS")
BLIND_MONTH = pd.Timestamp("2021-03-01")


@pytest.fixture(scope="module")
def complete() -> pd.DataFrame:
    """Twelve mascons and 48 months with the mass of every month, and no elevation in one."""
    from tests.unit.learning.conftest import build_features

    features = build_features(months=48)
    altimetry = [name for name in features if name.startswith("dh_")]
    features.loc[features["month"] == BLIND_MONTH, altimetry] = np.nan
    return features


@pytest.fixture(scope="module")
def table(complete: pd.DataFrame) -> pd.DataFrame:
    """The same as gravimetry sees it: not for half a year."""
    features = complete.copy()
    targets = [name for name in features if name.startswith("target_")]
    features.loc[features["month"].isin(GAP), targets] = np.nan
    return features


@pytest.fixture(scope="module")
def skill(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return evaluate(table, SETTINGS)


def fuse(features: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of MASCON_MONTHS that matter, masses counted from another zero."""
    return pd.DataFrame(
        {
            "mascon_id": features["mascon_id"],
            "month": features["month"],
            "dh_m": features["dh_m"],
            "dh_sigma_m": 0.1,
            "mass_gt": features["target_cumulative_cm"] * GT_PER_CM + 7.0 * features["mascon_id"],
            "mass_sigma_gt": features["target_cumulative_sigma_cm"] * GT_PER_CM,
            "mass_change_gt": features["target_change_cm"] * GT_PER_CM,
            "mass_change_sigma_gt": features["target_change_sigma_cm"] * GT_PER_CM,
        }
    ).sample(frac=1, random_state=1)


@pytest.mark.parametrize("target", ["change", "cumulative"])
@pytest.mark.parametrize("model", SETTINGS.models)
def test_samples_are_predicted_as_the_skill_predicts_them(
    table: pd.DataFrame, skill: tuple, model: str, target: str
) -> None:
    rows = skill[1][(skill[1]["model"] == model) & (skill[1]["target"] == target)]
    found = predict_target(model, table.sample(frac=1, random_state=3), target, SETTINGS)
    both = rows.merge(found, on=["mascon_id", "month"], suffixes=("", "_here"))
    assert len(both) == len(rows) == 12 * (48 - len(GAP) - 1)
    for column in ("predicted_cm", "lower_cm", "upper_cm"):
        np.testing.assert_array_equal(both[column], both[f"{column}_here"])
        assert both[column].notna().all()


def test_months_without_gravimetry_are_predicted_near_the_truth(
    complete: pd.DataFrame, table: pd.DataFrame, skill: tuple
) -> None:
    months, models = predict_months(table, fuse(table), skill[0], SETTINGS)
    check(from_pandas(months), PRODUCT_MONTHS)
    assert len(months) == 12 * 48
    assert not months.duplicated(["mascon_id", "month"]).any()
    gap = months[months["month"].isin(GAP)]
    assert not gap["has_gravimetry"].any()
    assert gap["observed_mass_gt"].isna().all() and gap["observed_change_gt"].isna().all()
    truth = complete.set_index(["mascon_id", "month"])["target_change_cm"] * GT_PER_CM
    planted = truth.reindex(pd.MultiIndex.from_frame(gap[["mascon_id", "month"]])).to_numpy()
    error = gap["predicted_change_gt"].to_numpy() - planted
    # Noise of 1 Gt is planted on changes of 5 Gt.
    assert np.sqrt(np.mean(error**2)) < 2 < planted.std()
    inside = (planted >= gap["predicted_change_lower_gt"]) & (
        planted <= gap["predicted_change_upper_gt"]
    )
    assert inside.mean() > 0.75
    assert gap["predicted_mass_gt"].notna().all()
    errors = skill[0].query("score == 'rmse_cm' and scope == 'pooled' and kind == 'model'")
    for target, told in models.items():
        values = errors[errors["target"] == target].set_index("model")["value"]
        assert (told["model"], told["rmse_cm"]) == (values.idxmin(), values.min())


def test_a_mascons_gravimetry_does_not_change_its_own_predictions(
    table: pd.DataFrame, skill: tuple
) -> None:
    poisoned, own = table.copy(), 105
    rows = poisoned["mascon_id"] == own
    targets = [name for name in table if name.startswith("target_") and "sigma" not in name]
    known = rows & poisoned["target_change_cm"].notna()
    poisoned.loc[known, targets] = 1e4 * np.random.default_rng(1).normal(size=(known.sum(), 2))
    clean, _ = predict_months(table, fuse(table), skill[0], SETTINGS)
    dirty, _ = predict_months(poisoned, fuse(poisoned), skill[0], SETTINGS)
    predicted = [name for name in PRODUCT_MONTHS.columns if name.startswith("predicted_")]
    of_own = clean["mascon_id"] == own
    assert clean.loc[of_own, predicted].notna().sum().min() == 47
    pd.testing.assert_frame_equal(
        clean.loc[of_own, predicted], dirty.loc[of_own, predicted], check_exact=True
    )
    others = clean.loc[~of_own, predicted].to_numpy() != dirty.loc[~of_own, predicted].to_numpy()
    assert others.any()
    assert (clean["observed_mass_gt"] != dirty["observed_mass_gt"])[of_own].any()


def test_observed_mass_counts_from_the_first_twelve_months(
    table: pd.DataFrame, skill: tuple
) -> None:
    fusion = fuse(table)
    months, _ = predict_months(table, fusion, skill[0], SETTINGS)
    for mascon in (100, 111):
        mass = fusion[fusion["mascon_id"] == mascon].set_index("month")["mass_gt"].sort_index()
        # The first twelve months are before the gap.
        expected = mass - mass.iloc[:12].mean()
        found = months[months["mascon_id"] == mascon].set_index("month")["observed_mass_gt"]
        np.testing.assert_allclose(found, expected, atol=1e-9)
        change = mass.diff().iloc[1:]
        observed = months[months["mascon_id"] == mascon].set_index("month")["observed_change_gt"]
        np.testing.assert_allclose(observed.iloc[1:][change.notna()], change.dropna(), atol=1e-9)


def test_null_has_a_reason(table: pd.DataFrame, skill: tuple) -> None:
    scores = skill[0]
    months, _ = predict_months(table, fuse(table), scores, SETTINGS)
    predicted = [name for name in PRODUCT_MONTHS.columns if name.startswith("predicted_")]
    blind = months["month"] == BLIND_MONTH
    assert months.loc[blind, predicted].isna().all(axis=None)
    # Elevation was seen before, but no features are made of it.
    assert set(months.loc[blind, "reason"]) == {NO_CAUSAL_FIT}
    assert months.loc[~blind, predicted].notna().all(axis=None)
    assert months.loc[~blind, "reason"].isna().all()

    # A target without a score, and folds that leave no mascon to train on.
    months, models = predict_months(
        table, fuse(table), scores[scores["target"] == "change"], SETTINGS
    )
    assert months["predicted_mass_gt"].isna().all()
    assert models["cumulative"] == {
        "reason": "skill has no score of cumulative under leave_mascon_out"
    }
    assert set(months.loc[~blind, "reason"]) == {
        "mass anomaly: skill has no score of cumulative under leave_mascon_out"
    }
    assert set(months.loc[blind, "reason"]) == {NO_CAUSAL_FIT}
    far = SETTINGS.model_copy(update={"neighbour_buffer_km": 1e5})
    months, _ = predict_months(table, fuse(table), scores, far)
    assert months[predicted].isna().all(axis=None)
    assert months.loc[~blind, "reason"].str.startswith("every mascon touches").all()
    assert set(months.loc[blind, "reason"]) == {NO_CAUSAL_FIT}

    seasons = table[table["month"].dt.month % 3 == 0]
    months, _ = predict_months(seasons, fuse(table), scores, SETTINGS)
    assert set(months["reason"]) == {"features are of seasons, not of months"}
    assert months["observed_mass_gt"].notna().sum() == 12 * (48 - len(GAP))


def test_months_before_the_first_causal_fit_are_not_called_blind(
    table: pd.DataFrame, skill: tuple
) -> None:
    """A mascon first seen in its fourth month, whose fits of the past begin in its thirteenth."""
    features, fusion = table.copy(), fuse(table)
    altimetry = [name for name in features if name.startswith("dh_")]
    first = features["month"].min()
    before_fit = features["month"] < first + pd.DateOffset(months=12)
    features.loc[before_fit, altimetry] = np.nan
    unseen = (fusion["mascon_id"] == 105) & (fusion["month"] < first + pd.DateOffset(months=3))
    fusion.loc[unseen, "dh_m"] = np.nan
    later = (fusion["mascon_id"] == 106) & (fusion["month"] == first + pd.DateOffset(months=5))
    fusion.loc[later, "dh_m"] = np.nan
    months, _ = predict_months(features, fusion, skill[0], SETTINGS)
    early = months[months["month"] < first + pd.DateOffset(months=12)]
    told = early.groupby("mascon_id")["reason"].apply(list)
    assert told[105] == [NO_ALTIMETRY] * 3 + [NO_CAUSAL_FIT] * 9
    assert told[106] == told[107] == [NO_CAUSAL_FIT] * 12
    assert early["predicted_mass_gt"].isna().all()


def test_the_model_with_the_smallest_error_on_left_out_mascons_speaks() -> None:
    def row(model: str, value: float, **other: object) -> dict:
        plain = {"kind": "model", "split": "leave_mascon_out", "target": "change"}
        return {
            "model": model,
            "scope": "pooled",
            "score": "rmse_cm",
            "value": value,
            "n": 9,
            "reason": None if np.isfinite(value) else "too few",
        } | (plain | other)

    scores = pd.DataFrame(
        [
            row("ridge", 3.0),
            row("xgboost", 2.0),
            row("forest", np.nan),
            row("forest", 1.0, split="random"),
            row("climatology", 0.5, kind="baseline"),
            row("ridge", 1.0, target="cumulative"),
        ]
    ).reindex(columns=list(SCORES.columns))
    assert choose_model(scores, "change") == ("xgboost", 2.0, None)
    assert choose_model(scores, "cumulative") == ("ridge", 1.0, None)
    model, _, reason = choose_model(scores[scores["model"] == "forest"], "change")
    assert (model, reason) == (None, "too few")
