"""Scores against plain formulas; honest splits are not fooled and do find what is planted."""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from cryofuse.config import SkillSettings
from cryofuse.learning import evaluate, skill
from cryofuse.learning.splits import inner_folds
from cryofuse.tables import PREDICTIONS, SCORES, check, from_pandas

Maker = Callable[..., pd.DataFrame]

SMALL = {
    "folds": 3,
    "mascon_folds": 3,
    "inner_folds": 2,
    "candidates": 1,
    "trees": 15,
    "embargo_months": 3,
    "min_train_months": 18,
    "neighbour_buffer_km": 200,
    "bootstrap_draws": 200,
    "noise_features": 2,
    "label_permutations": 3,
}


def small(**changes: object) -> SkillSettings:
    return SkillSettings.model_validate(SMALL | changes)


def pick(
    scores: pd.DataFrame, model: str, score: str, split: str, target: str = "change"
) -> pd.Series:
    rows = scores[
        (scores["model"] == model)
        & (scores["score"] == score)
        & (scores["split"] == split)
        & (scores["target"] == target)
        & (scores["scope"] == "pooled")
    ]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.fixture(scope="module")
def planted() -> tuple[pd.DataFrame, pd.DataFrame, SkillSettings]:
    """Return scores and predictions of a table with planted coupling."""
    from cryofuse.fusion.features import feature_columns

    rng = np.random.default_rng(4)
    n, months = 9, 54
    k = np.repeat(np.arange(n), months)
    month = np.tile(np.arange("2019-01", "2029-01", dtype="datetime64[M]")[:months], n)
    driver = rng.normal(size=len(k))
    ice = 0.4 + 0.05 * k
    change = 60 * ice * driver + 3 * rng.normal(size=len(k))
    table = pd.DataFrame(
        {
            "mascon_id": k.astype(np.int32),
            "month": month.astype("datetime64[us]"),
            "latitude": 62.0 + 3 * (k // 3),
            "longitude": -50.0 + 7 * (k % 3),
            "land_area_km2": 5e4 + 1e4 * k,
            "ice_area_km2": (5e4 + 1e4 * k) * ice,
            "ice_fraction": ice,
            "target_change_cm": change,
            "target_cumulative_cm": pd.Series(change).groupby(k).cumsum(),
            "dh_m": pd.Series(driver).groupby(k).cumsum(),
            "dh_change_1m_m": driver,
        }
    )
    table.loc[5:9, "target_change_cm"] = np.nan
    assert len(feature_columns(table)) == 6
    options = small(targets=["change"], label_permutations=19)
    return *evaluate(table, options), options


def test_tables_keep_their_contract(planted: tuple) -> None:
    scores, predictions, options = planted
    check(from_pandas(scores), SCORES)
    check(from_pandas(predictions), PREDICTIONS)
    twins = {name + "_blind" for name in options.models}
    controls = twins | {"control_noise", "control_noise_xgboost"}
    names = {*options.models, *skill.BASELINES, *controls}
    assert set(predictions["model"]) == names
    assert set(scores["model"]) == names | {"control_permuted"}
    kinds = scores.groupby("kind")["model"].agg(set)
    assert kinds["model"] == set(options.models)
    assert kinds["control"] == controls | {"control_permuted"}
    for _, group in predictions.groupby(["split", "target"]):
        assert len(set(group["model"].value_counts())) == 1  # all on the same samples
    assert (
        predictions.query("split == 'random' and target == 'change'")
        .groupby("model")
        .size()
        .eq(9 * 54 - 5)
        .all()
    )  # rows without a target are no samples


@pytest.mark.parametrize("split", ["random", "leave_mascon_out", "forward", "both"])
def test_scores_follow_the_plain_formulas(planted: tuple, split: str) -> None:
    scores, predictions, _ = planted
    group = predictions[(predictions["split"] == split) & (predictions["target"] == "change")]
    mine = group[group["model"] == "ridge"]
    y, p = mine["observed_cm"].to_numpy(), mine["predicted_cm"].to_numpy()
    found = {name: pick(scores, "ridge", name, split) for name in ("r2", "rmse_cm", "rmse_gt")}
    assert found["r2"]["value"] == pytest.approx(
        1 - np.sum((y - p) ** 2) / np.sum((y - y.mean()) ** 2)
    )
    assert found["rmse_cm"]["value"] == pytest.approx(np.sqrt(np.mean((y - p) ** 2)))
    # 1 cm over 1 km² is 10⁴ m³ of water, 10⁷ kg, 10⁻⁵ Gt
    gt = (y - p) * mine["land_area_km2"].to_numpy() * 1e-5
    assert found["rmse_gt"]["value"] == pytest.approx(np.sqrt(np.mean(gt**2)))
    assert pick(scores, "ridge", "mae_cm", split)["value"] == pytest.approx(np.mean(np.abs(y - p)))
    bounded = mine[mine["lower_cm"].notna()]
    inside = (bounded["observed_cm"] >= bounded["lower_cm"]) & (
        bounded["observed_cm"] <= bounded["upper_cm"]
    )
    coverage = pick(scores, "ridge", "coverage", split)
    assert coverage["value"] == pytest.approx(inside.mean())
    assert coverage["n"] == len(bounded)
    squared = {
        name: np.mean((g["observed_cm"] - g["predicted_cm"]) ** 2)
        for name, g in group.groupby("model")
    }
    best = min(squared[name] for name in skill.BASELINES)
    gain = pick(scores, "ridge", "gain_vs_best", split)["value"]
    assert gain == pytest.approx(1 - squared["ridge"] / best)
    blind = min(squared[name] for name in skill.BASELINES if name != "physics")
    assert pick(scores, "ridge", "gain_vs_best_blind", split)["value"] == pytest.approx(
        1 - squared["ridge"] / blind
    )
    twin = pick(scores, "ridge", "gain_vs_blind_twin", split)["value"]
    assert twin == pytest.approx(1 - squared["ridge"] / squared["ridge_blind"])
    best_twin = min(value for name, value in squared.items() if name.endswith("_blind"))
    found_twin = pick(scores, "ridge", "gain_vs_best_twin", split)["value"]
    assert found_twin == pytest.approx(1 - squared["ridge"] / best_twin)
    against = pick(scores, "ridge", "skill_vs_climatology", split)["value"]
    assert against == pytest.approx(1 - squared["ridge"] / squared["climatology"])


def test_mascon_scores_and_jackknife_follow_the_plain_formulas(planted: tuple) -> None:
    scores, predictions, _ = planted
    mine = predictions.query(
        "split == 'leave_mascon_out' and target == 'change' and model == 'xgboost'"
    )

    def r2(frame: pd.DataFrame) -> float:
        y = frame["observed_cm"].to_numpy()
        rest = y - frame["predicted_cm"].to_numpy()
        return 1 - float(rest @ rest) / float(np.sum((y - y.mean()) ** 2))

    rows = scores.query("split == 'leave_mascon_out' and target == 'change' and model == 'xgboost'")
    one = rows[(rows["scope"] == "mascon:4") & (rows["score"] == "r2")].iloc[0]
    assert one["value"] == pytest.approx(r2(mine[mine["mascon_id"] == 4]))
    group = predictions.query("split == 'leave_mascon_out' and target == 'change'")
    squared = {
        name: np.sum((g["observed_cm"] - g["predicted_cm"]) ** 2)
        for name, g in group[group["mascon_id"] == 4].groupby("model")
    }
    for score, rivals in (
        ("gain_vs_best", list(skill.BASELINES)),
        ("gain_vs_best_twin", [name for name in squared if name.endswith("_blind")]),
    ):
        gain = rows[(rows["scope"] == "mascon:4") & (rows["score"] == score)].iloc[0]
        best = min(squared[name] for name in rivals)
        assert gain["value"] == pytest.approx(1 - squared["xgboost"] / best)
        assert gain["lower"] <= gain["value"] <= gain["upper"]
    left = np.array([r2(mine[mine["mascon_id"] != k]) for k in range(9)])
    sigma = np.sqrt(8 / 9 * np.sum((left - left.mean()) ** 2))
    row = pick(scores, "xgboost", "r2_jackknife", "leave_mascon_out")
    assert row["upper"] - row["value"] == pytest.approx(2.306 * sigma, rel=1e-3)  # t(0.975; 8)
    assert row["n_blocks"] == 9


def test_planted_coupling_is_found_leaving_mascons_out(planted: tuple) -> None:
    scores, _, _ = planted
    # signal 60·ice·N(0, 1), noise 3 cm: the R² of the planted law itself
    ceiling = 1 - 9 / (9 + np.mean((60 * (0.4 + 0.05 * np.arange(9))) ** 2))
    for split in ("leave_mascon_out", "forward", "both"):
        # physics carries the planted law exactly; the models have to come near it
        assert pick(scores, "physics", "r2", split)["value"] == pytest.approx(ceiling, abs=0.03)
        assert pick(scores, "ridge", "r2", split)["value"] > 0.7
        blind = pick(scores, "ridge", "gain_vs_best_blind", split)
        assert blind["value"] > 0.6
    assert pick(scores, "ridge", "gain_vs_best_blind", "leave_mascon_out")["lower"] > 0


def test_labels_of_other_years_are_worth_less_than_the_true_ones(planted: tuple) -> None:
    scores, _, _ = planted
    for split in ("leave_mascon_out", "forward", "both"):
        permuted = pick(scores, "control_permuted", "r2", split)
        true = pick(scores, "control_permuted", "r2_true_labels", split)["value"]
        # driver and noise are independent from month to month: other years' labels say nothing
        assert permuted["lower"] <= permuted["value"] <= permuted["upper"] < 0.2
        assert true > 0.7
        assert pick(scores, "control_permuted", "p_permuted", split)["value"] == 1 / 20
        assert permuted["n_blocks"] == 19


def test_verdict_needs_both_gains(planted: tuple) -> None:
    scores, _, _ = planted
    sentence = skill.verdict(scores)
    assert sentence.count(".") == 1
    assert "monthly mass change" in sentence
    assert "physics, which is elevation change at one density" in sentence

    good, bad = [0.2, 0.1, 0.3], [0.2, -0.1, 0.3]

    def with_gains(
        best: list[float], twin: list[float], over_mascons: list[float] = good
    ) -> pd.DataFrame:
        table = scores.copy()
        for name, values in (
            ("gain_vs_best", best),
            ("gain_vs_best_twin", twin),
            ("gain_vs_best_jackknife", over_mascons),
            ("gain_vs_best_twin_jackknife", good),
        ):
            table.loc[table["score"] == name, ["value", "lower", "upper"]] = values
        return table

    won = skill.verdict(with_gains(good, good))
    by_chance = skill.verdict(with_gains(good, good, bad))
    assert "does not demonstrably beat" in by_chance
    assert "a jackknife over mascons reaches 0" in by_chance
    assert won.startswith(
        "Learning from elevation change beats both the best baseline and the best model blind to "
        "elevation change for monthly mass change under both"
    )
    assert "gain +20 % [+10, +30] over physics" in won
    assert "gain +20 % [+10, +30] over the blind" in won
    assert "4 blocks, 9 of 9 mascons on their own" in won
    for table in (with_gains(good, bad), with_gains(bad, good)):
        assert "does not demonstrably beat" in skill.verdict(table)
        assert "0 of 9 mascons" in skill.verdict(table)


def test_place_and_season_alone_make_no_claim_for_elevation(make_features: Maker) -> None:
    """A season that grows northward beats every baseline at a left-out mascon: no elevation."""
    table = make_features(mascons=16, months=60, lags=0, noise_features=True, seed=3)
    season = table["season_cos"] * (table["latitude"] - 66.5)
    noise = np.random.default_rng(1).normal(size=len(table))
    table["target_change_cm"] = 6 * season + 9 * noise
    options = small(
        models=["xgboost"],
        targets=["change"],
        splits=["leave_mascon_out"],
        mascon_folds=8,
        neighbour_buffer_km=None,
        label_permutations=1,
        trees=100,
        search={"xgboost": {"colsample_bytree": [1.0]}},
    )
    scores, _ = evaluate(table, options)
    assert pick(scores, "xgboost", "gain_vs_best", "leave_mascon_out")["lower"] > 0.05
    assert pick(scores, "xgboost", "gain_vs_blind_twin", "leave_mascon_out")["lower"] < 0
    assert "does not demonstrably beat" in skill.verdict(scores)


@pytest.mark.parametrize("split", ["random", "leave_mascon_out", "forward", "both"])
def test_what_is_fitted_in_a_fold_knows_nothing_of_held_out_samples(
    make_features: Maker, split: str
) -> None:
    """Imputer, scaler, search, climatology, density: all stay as they are, bit for bit."""
    table = make_features(mascons=9, months=48, lags=1)
    rng = np.random.default_rng(0)
    for name in ("dh_m", "dh_interannual_m"):
        table.loc[rng.random(len(table)) < 0.1, name] = np.nan
    options = small(trees=5, candidates=2)
    samples = skill.select_samples(table, "change", options)
    fold = skill.usable_folds(split, samples, options)[-1]
    spoilt, kept = fold.test[::2], slice(1, None, 2)
    x, known = samples.x.copy(), samples.table.copy()
    x[spoilt] = rng.normal(1e3, 1e3, x[spoilt].shape)
    for name in ("observed_cm", "dh_m", "previous_cm", "ice_fraction"):
        known.loc[spoilt, name] = rng.normal(1e3, 1e3, len(spoilt))
    other = dataclasses.replace(samples, x=x, table=known)
    found = []
    for one in (samples, other):
        inner = inner_folds(split, one.table.iloc[fold.train], options)
        pieces = skill._baselines(one, split, fold)[0]
        for model in [*options.models, "ridge_blind", "control_noise", "control_permuted"]:
            result, _ = skill._run(skill._Job(one, split, fold, 1, model, inner), options)
            if model == "control_permuted":
                found.append(result.predicted[:, kept])
            else:
                pieces.append(result)
        columns = ["predicted_cm", "lower_cm", "upper_cm"]
        found += [piece[columns].to_numpy()[kept] for piece in pieces]
    half = len(found) // 2
    assert half == 5 + 7 + 1
    for before, after in zip(found[:half], found[half:], strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_step_of_seasons_has_its_own_step_before(make_features: Maker) -> None:
    """Quarters: change and persistence look one quarter back, whatever the month's number."""
    table = make_features(mascons=6, months=60, lags=0)
    quarters = table[table["month"].dt.month % 3 == 1].reset_index(drop=True)
    samples = skill.select_samples(quarters, "change", small())
    one = samples.table[samples.table["mascon_id"] == 101]
    own = quarters[quarters["mascon_id"] == 101]
    np.testing.assert_array_equal(one["previous_cm"][1:], own["target_change_cm"][:-1])
    np.testing.assert_allclose(one["dh_m"][1:], np.diff(own["dh_m"]))
    options = small(
        models=["ridge"], targets=["change"], splits=["forward"], min_train_months=12, trees=5
    )
    scores, predictions = evaluate(quarters, options)
    assert predictions["month"].min() == np.datetime64("2020-04-01")  # 12 + 3 months, a quarter on
    assert pick(scores, "ridge", "r2", "forward")["n_blocks"] == 3  # 43 calendar months


def test_results_do_not_depend_on_row_order(make_features: Maker) -> None:
    table = make_features(mascons=6, months=40, lags=1)
    options = small(models=["ridge", "xgboost"], splits=["forward"], targets=["change"], trees=5)
    once, again = (
        evaluate(table, options),
        evaluate(table.sample(frac=1, random_state=1), options),
    )
    for left, right in zip(once, again, strict=True):
        pd.testing.assert_frame_equal(left, right)


def test_noise_features_bring_no_gain_under_honest_splits(make_features: Maker) -> None:
    for seed in range(3):
        table = make_features(mascons=9, months=48, lags=1, noise_features=True, seed=seed)
        options = small(
            models=["ridge", "forest"],
            targets=["change"],
            splits=["leave_mascon_out", "forward", "both"],
            trees=10,
            label_permutations=1,
        )
        scores, _ = evaluate(table, options)
        gains = scores[(scores["score"] == "gain_vs_best") & (scores["kind"] == "model")]
        gains = gains[gains["scope"] == "pooled"]
        assert len(gains) == 6
        assert not (gains["lower"] > 0).any()
        assert (gains["value"] < 0.1).all()
        assert "does not demonstrably beat" in skill.verdict(scores)


def test_random_folds_flatter_pure_noise(make_features: Maker) -> None:
    """Reproduce METHODS 7: without altimetry, R² is high under random folds alone."""
    table = make_features(mascons=12, months=60, lags=0, noise_cm=0.5, seed=2)
    options = small(
        models=["ridge"],
        splits=["random", "leave_mascon_out", "forward"],
        trees=60,
        neighbour_buffer_km=650,
        embargo_months=12,
    )
    scores, _ = evaluate(table, options)

    def r2(model: str, split: str, target: str) -> float:
        return float(pick(scores, model, "r2", split, target)["value"])

    assert r2("control_noise", "random", "cumulative") > 0.8
    assert r2("control_noise", "leave_mascon_out", "cumulative") < 0.2
    for split in ("leave_mascon_out", "forward"):
        assert r2("control_noise", "random", "change") > r2("control_noise", split, "change") + 0.1
    assert r2("persistence", "forward", "cumulative") > 0.8


def test_conformal_intervals_cover_what_they_say(make_features: Maker) -> None:
    table = make_features(mascons=12, months=60, lags=1, noise_cm=4, seed=5)
    options = small(models=["ridge"], targets=["change"], splits=["random", "leave_mascon_out"])
    scores, predictions = evaluate(table, options)
    for split in options.splits:
        assert 0.84 < pick(scores, "ridge", "coverage", split)["value"] < 0.97
    widths = predictions.query("model == 'ridge' and split == 'random'")
    half = (widths["upper_cm"] - widths["lower_cm"]).to_numpy() / 2
    assert half.mean() == pytest.approx(1.645 * 4, rel=0.25)  # noise of 4 cm, 90 %


def test_bootstrap_interval_matches_the_closed_formula_for_independent_data() -> None:
    rng = np.random.default_rng(0)
    n = 400
    month = np.arange("1990-01", "2090-01", dtype="datetime64[M]")[:n].astype("datetime64[us]")
    error = rng.normal(size=n)
    observed = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "model": "ridge",
            "split": "random",
            "target": "change",
            "fold": np.int32(0),
            "mascon_id": np.int32(1),
            "month": month,
            "observed_cm": observed,
            "predicted_cm": observed + error,
            "lower_cm": np.nan,
            "upper_cm": np.nan,
            "land_area_km2": 1e5,
        }
    )
    options = small(
        models=["ridge"],
        targets=["change"],
        splits=["random"],
        block_months=1,
        bootstrap_draws=4000,
    )
    row = pick(skill.score(frame, options), "ridge", "mae_cm", "random")
    half = 1.96 * np.abs(error).std() / np.sqrt(n)  # central limit theorem for a mean
    assert row["upper"] - row["value"] == pytest.approx(half, rel=0.08)
    assert row["value"] - row["lower"] == pytest.approx(half, rel=0.08)
    assert row["n_blocks"] == n


def test_bootstrap_draws_whole_blocks() -> None:
    weights = skill.bootstrap_weights(60, 12, 50, 0)
    assert (weights.sum(axis=1) == 60).all()
    one = skill.bootstrap_weights(12, 12, 5, 0)
    np.testing.assert_array_equal(one, np.ones((5, 12)))  # one block of everything, cut in a circle
    # neighbours in time are drawn together: within one block of the first month's, mostly
    assert np.corrcoef(weights[:, 10], weights[:, 11])[0, 1] > 0.7


def test_two_blocks_are_the_least_for_an_interval(make_features: Maker) -> None:
    table = make_features(mascons=6, months=38, lags=0)
    options = small(models=["ridge"], targets=["change"], splits=["forward"])
    scores, _ = evaluate(table, options)
    row = pick(scores, "ridge", "r2", "forward")  # 38 − 18 − 3 months are one block
    assert np.isfinite(row["value"])
    assert np.isnan(row["lower"])
    assert row["n_blocks"] == 1
    assert "two blocks" in row["reason"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda t: t.assign(dh_m=np.nan, dh_change_1m_m=np.nan, dh_interannual_m=np.nan),
            "no altimetry",
        ),
        (lambda t: t.assign(target_change_cm=np.nan, target_cumulative_cm=np.nan), "no gravimetry"),
        (lambda t: t[t["month"] < "2019-03-01"], "months"),
        (lambda t: t.iloc[:0], "no gravimetry"),
    ],
)
def test_too_few_data_give_nulls_with_a_reason(
    make_features: Maker, spoil: Callable[[pd.DataFrame], pd.DataFrame], reason: str
) -> None:
    table = spoil(make_features(mascons=6, months=30, lags=0))
    scores, predictions = evaluate(table, small(trees=5))
    check(from_pandas(scores), SCORES)
    check(from_pandas(predictions), PREDICTIONS)
    forward = scores[scores["split"] == "forward"]
    assert len(forward)
    assert forward["value"].isna().all()
    assert forward["reason"].str.contains(reason).all()
    assert skill.verdict(scores).count(".") == 1
    if reason != "months":
        assert predictions.empty
        assert "cannot be said" in skill.verdict(scores)


def test_a_feature_that_is_null_everywhere_is_left_out(
    make_features: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    table = make_features(mascons=6, months=40, lags=0).assign(slope=np.nan)
    samples = skill.select_samples(table, "change", small(terms="all"))
    assert "slope" not in samples.names
    assert samples.dropped == {"slope": "null everywhere"}
    caplog.set_level(logging.INFO)
    options = small(models=["ridge"], targets=["change"], splits=["forward"])
    evaluate(table, options)
    assert "feature slope left out" in caplog.text
    assert "change, forward, fold 1 of 3, ridge" in caplog.text


def test_one_mascon_leaves_mascon_splits_null(make_features: Maker) -> None:
    table = make_features(mascons=1, months=48, lags=0)
    options = small(models=["ridge"], targets=["change"])
    scores, _ = evaluate(table, options)
    assert "1 mascon" in pick(scores, "ridge", "r2", "leave_mascon_out")["reason"]
    assert np.isfinite(pick(scores, "ridge", "r2", "forward")["value"])


def test_the_sentence_says_where_other_years_teach_as_much(planted: tuple) -> None:
    scores = planted[0].copy()
    chosen = (scores["score"] == "p_permuted") & (scores["split"] == "both")
    assert chosen.any()
    scores.loc[chosen, "value"] = 0.4
    assert "labels of other years teach ridge as much (p 0.40)" in skill.verdict(scores)
    scores.loc[scores["score"] == "p_permuted", "value"] = 0.03
    assert "other years" not in skill.verdict(scores)
