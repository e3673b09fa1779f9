"""Learning curves: nested subsets, and an end that is the score of the model."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from cryofuse.config import SkillSettings
from cryofuse.learning import curve, evaluate
from cryofuse.tables import LEARNING_CURVE, check, from_pandas

OPTIONS = SkillSettings(
    models=["ridge"],
    targets=["change"],
    splits=["leave_mascon_out", "forward"],
    folds=3,
    mascon_folds=3,
    inner_folds=2,
    candidates=2,
    trees=5,
    embargo_months=3,
    min_train_months=18,
    neighbour_buffer_km=350,
    bootstrap_draws=10,
    label_permutations=1,
    curve_models=["ridge", "xgboost"],
    curve_shares=[1.0, 0.25, 0.5],
    curve_draws=3,
)


def test_subsets_are_nested_and_never_empty() -> None:
    units = np.repeat(np.arange(10), 3)
    small, large = (curve.draw_subset(units, share, (1, 2)) for share in (0.3, 0.7))
    assert len(small) == 3 and len(large) == 7
    assert set(small) < set(large)
    assert set(curve.draw_subset(units, 1.0, (1, 2))) == set(range(10))
    assert len(curve.draw_subset(units, 0.01, (1, 2))) == 1
    assert set(curve.draw_subset(units, 0.3, (1, 3))) != set(small)


def test_the_curve_rises_to_the_score_of_the_model(
    make_features: Callable[..., pd.DataFrame],
) -> None:
    table = make_features(mascons=12, months=60, lags=1, noise_cm=3)
    found = curve.trace_learning(table, OPTIONS)
    check(from_pandas(found), LEARNING_CURVE)
    # only the models that are scored, each with its twin
    assert set(found["model"]) == {"ridge", "ridge_blind"}
    scores, predictions = evaluate(table, OPTIONS)
    for split in OPTIONS.splits:
        rows = found[found["split"] == split].set_index(["model", "share"])
        for model in ("ridge", "ridge_blind"):
            whole = rows.loc[(model, 1.0)]
            held = predictions[(predictions["model"] == model) & (predictions["split"] == split)]
            y, p = held["observed_cm"].to_numpy(), held["predicted_cm"].to_numpy()
            assert whole["r2"] == pytest.approx(
                1 - np.sum((y - p) ** 2) / np.sum((y - y.mean()) ** 2)
            )
            assert whole["n"] == len(held)
            assert np.isnan(whole["lower"]) and "one draw" in whole["reason"]
        line = rows.loc["ridge"].sort_index()
        assert line["n_units"].is_monotonic_increasing and line["n_train"].is_monotonic_increasing
        assert line["r2"].iloc[-1] > line["r2"].iloc[0]
        assert (line["lower"] <= line["r2"])[:2].all() and (line["r2"] <= line["upper"])[:2].all()
        assert line["n_draws"].tolist() == [3, 3, 1]
        # elevation carries the planted law
        assert line["r2"].iloc[-1] > rows.loc[("ridge_blind", 1.0), "r2"] + 0.2


def test_too_few_data_say_why(make_features: Callable[..., pd.DataFrame]) -> None:
    few = make_features(mascons=4, months=26, lags=0)
    found = curve.trace_learning(few, OPTIONS)
    check(from_pandas(found), LEARNING_CURVE)
    quarter = found[(found["split"] == "forward") & (found["share"] == 0.25)]
    assert quarter["r2"].isna().all()
    assert quarter["reason"].str.contains("fewer than 20 training samples in a fold").all()
    none = curve.trace_learning(few[few["month"] < "2019-06-01"], OPTIONS)
    forward = none[none["split"] == "forward"]
    assert forward["reason"].str.contains("5 months leave none").all()
