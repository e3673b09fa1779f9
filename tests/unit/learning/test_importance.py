"""Explained variance against parts that are known, importance against a planted law."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from cryofuse.config import ExplainedSettings, SkillSettings
from cryofuse.learning import importance
from cryofuse.tables import EXPLAINED, IMPORTANCE, check, from_pandas

Maker = Callable[..., pd.DataFrame]

SKILL = SkillSettings(
    folds=3,
    mascon_folds=3,
    inner_folds=2,
    candidates=1,
    trees=20,
    neighbour_buffer_km=350,
    embargo_months=3,
    min_train_months=18,
    targets=["change"],
)
EXPLAIN = ExplainedSettings(permutations=3, seeds=2)


def predictions(observed: np.ndarray, predicted: np.ndarray) -> pd.DataFrame:
    month = np.arange("2019-01", "2029-01", dtype="datetime64[M]")[: len(observed)]
    return pd.DataFrame(
        {
            "model": "xgboost",
            "split": "leave_mascon_out",
            "target": "change",
            "mascon_id": 7,
            "month": month.astype("datetime64[us]"),
            "observed_cm": observed,
            "predicted_cm": predicted,
            "land_area_km2": 1e5,
        }
    )


def explain(observed: np.ndarray, predicted: np.ndarray) -> pd.Series:
    rows = pd.DataFrame({"mascon_id": [7], "target": ["change"]})
    table = importance.explain_variance(predictions(observed, predicted), EXPLAIN, rows, SKILL)
    check(from_pandas(table), EXPLAINED)
    assert table["scope"].tolist() == ["mascon", "region"]
    return table.iloc[0]


def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a line, a cycle and a slow wave of 60 months that do not mix."""
    t = np.arange(60)
    slow = np.cos(2 * np.pi * t / 30)
    cycle = np.cos(2 * np.pi * t / 12)
    line = (t - t.mean()) / 20
    # take out of the cycle and the wave what a line could explain, and keep them periodic
    design = np.column_stack([np.ones(60), line])
    slow = slow - design @ np.linalg.lstsq(design, slow, rcond=None)[0]
    return line, cycle, slow


def test_parts_add_up_and_are_recovered() -> None:
    line, cycle, slow = parts()
    months = predictions(line, line)["month"].to_numpy()
    found = importance.split_parts(months, 5 + line + slow)
    total = found["trend"] + found["seasonal"] + found["interannual"]
    np.testing.assert_allclose(total, 5 + line + slow)
    np.testing.assert_allclose(found["trend"], 5 + line, atol=1e-9)
    assert np.var(found["interannual"]) > 0.9 * np.var(slow)
    only = importance.split_parts(months, cycle)
    assert np.var(only["seasonal"]) > 0.99 * np.var(cycle)


def test_each_part_is_explained_on_its_own() -> None:
    line, cycle, slow = parts()
    row = explain(line + cycle + slow, 0.5 * line + cycle + 3)  # half the trend, all the season
    assert row["explained_trend"] == pytest.approx(1 - 0.25, abs=0.03)
    assert row["explained_seasonal"] > 0.97
    assert abs(row["explained_interannual"]) < 0.05
    observed, rest = line + cycle + slow, 0.5 * line + slow
    assert row["explained_total"] == pytest.approx(1 - np.var(rest) / np.var(observed))


def test_a_share_may_be_negative_and_bias_is_forgiven() -> None:
    rng = np.random.default_rng(0)
    observed = rng.normal(size=48)
    assert explain(observed, -observed)["explained_total"] == pytest.approx(-3)
    assert explain(observed, observed + 9)["explained_total"] == pytest.approx(1)


def test_short_records_are_null_with_a_reason() -> None:
    row = explain(np.arange(4.0), np.zeros(4))
    assert np.isnan(row["explained_total"])
    assert "fewer than 6" in row["reason"]
    row = explain(np.sin(np.arange(20.0)), np.zeros(20))
    assert np.isfinite(row["explained_total"])
    assert np.isnan(row["explained_trend"])
    assert "20 months" in row["reason"]
    rows = pd.DataFrame({"mascon_id": [8], "target": ["change"]})
    empty = importance.explain_variance(predictions(np.ones(9), np.ones(9)), EXPLAIN, rows, SKILL)
    assert empty.iloc[0]["reason"] == "no prediction"


def test_intervals_are_those_of_a_plain_bootstrap_of_blocks() -> None:
    rng = np.random.default_rng(3)
    t = np.arange(72)
    observed = 0.05 * t + np.cos(2 * np.pi * t / 12) + rng.normal(0, 0.5, 72)
    predicted = 0.04 * t + 0.8 * np.cos(2 * np.pi * t / 12)
    row = explain(observed, predicted)
    assert row["n_blocks"] == 6
    drawn = []
    for _ in range(600):
        start = rng.integers(72, size=6)
        take = (start[:, None] + np.arange(12)).ravel() % 72
        y, left = observed[take], (observed - predicted)[take]
        line, rest = (np.polyval(np.polyfit(t[take], v, 1), t[take]) for v in (y, left))
        shares = [1 - np.var(left) / np.var(y), 1 - np.var(rest) / np.var(line)]
        mean = [
            pd.Series(v).groupby(take % 12).transform("mean").to_numpy()
            for v in (y - line, left - rest)
        ]
        shares.append(1 - np.var(mean[1]) / np.var(mean[0]))
        shares.append(1 - np.var(left - rest - mean[1]) / np.var(y - line - mean[0]))
        drawn.append(shares)
    expected = np.quantile(drawn, (0.025, 0.975), axis=0)
    for number, part in enumerate(("total", "trend", "seasonal", "interannual")):
        width = np.ptp(expected[:, number])
        assert row[f"{part}_lower"] == pytest.approx(expected[0, number], abs=0.2 * width + 0.01)
        assert row[f"{part}_upper"] == pytest.approx(expected[1, number], abs=0.2 * width + 0.01)
        assert row[f"{part}_lower"] <= row[f"explained_{part}"] <= row[f"{part}_upper"]


def test_the_region_is_the_mean_by_area_where_no_mascon_is_missing() -> None:
    rng = np.random.default_rng(5)
    first = predictions(rng.normal(size=60), rng.normal(size=60))
    second = predictions(rng.normal(size=60), rng.normal(size=60)).assign(
        mascon_id=8, land_area_km2=3e5
    )
    both = pd.concat([first, second.iloc[:48]])
    rows = pd.DataFrame({"mascon_id": [7, 8], "target": ["change"] * 2})
    table = importance.explain_variance(both, EXPLAIN, rows, SKILL)
    region = table[table["scope"] == "region"].iloc[0]
    y, p = (
        0.25 * first[c].to_numpy()[:48] + 0.75 * second[c].to_numpy()[:48]
        for c in ("observed_cm", "predicted_cm")
    )
    assert region["n"] == 48
    assert region["explained_total"] == pytest.approx(1 - np.var(y - p) / np.var(y))


def test_shap_of_stumps_is_leaf_less_mean_leaf() -> None:
    from sklearn.pipeline import make_pipeline
    from xgboost import XGBRegressor

    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 3))
    y = np.where(x[:, 0] > 0, 2.0, -1.0) + 0.5 * (x[:, 2] > 0.3) + rng.normal(0, 0.1, 300)
    model = make_pipeline(XGBRegressor(n_estimators=8, max_depth=1, n_jobs=1)).fit(x, y)
    expected = np.zeros((300, 3))
    for _, tree in model[-1].get_booster().trees_to_dataframe().groupby("Tree"):
        root, yes, no = (tree.iloc[i] for i in range(3))
        column = int(root["Feature"][1:])
        leaf = np.where(x[:, column] < root["Split"], yes["Gain"], no["Gain"])
        mean = (yes["Gain"] * yes["Cover"] + no["Gain"] * no["Cover"]) / root["Cover"]
        expected[:, column] += leaf - mean
    found = importance._shap(model, x, ("a", "b", "a"))
    grouped = expected[:, 0] + expected[:, 2]
    assert found["a"] == pytest.approx(np.abs(grouped).mean(), rel=1e-3)
    assert found["b"] == pytest.approx(np.abs(expected[:, 1]).mean(), rel=1e-3, abs=1e-6)


def test_permutation_of_a_linear_law_has_a_closed_form() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4000, 3))
    y = 2 * x[:, 0] + rng.normal(size=4000)
    found = importance.permute_groups(lambda z: 2 * z[:, 0], x, y, ("a", "b", "b"), 5, 0)
    # shuffling adds 2·2²·Var(x) to the squared error of 1
    assert found["a"] == pytest.approx(3 - 1, abs=0.1)
    assert found["b"] == 0


def test_columns_of_a_group_are_shuffled_together() -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(size=2000)
    x = np.column_stack([first, first])
    y = np.zeros(2000)
    difference = importance.permute_groups(lambda z: z[:, 0] - z[:, 1], x, y, ("a", "a"), 3, 0)
    assert difference["a"] == pytest.approx(0, abs=1e-12)


def test_the_planted_feature_ranks_first_by_every_method(make_features: Maker) -> None:
    table = make_features(mascons=9, months=48, lags=1).assign(slope=np.nan)
    found = importance.rank_features(table, EXPLAIN, SKILL)
    check(from_pandas(found), IMPORTANCE)
    assert set(found.loc[found["kind"] == "family", "group"]) >= {"altimetry", "season", "place"}
    families = found[found["kind"] == "family"]
    assert (
        families.groupby("method")["importance"].idxmax().map(found["group"]) == "altimetry"
    ).all()
    found = found[found["kind"] == "group"]
    for _, group in found.groupby("method"):
        ranked = group.sort_values("importance", ascending=False)
        assert ranked.iloc[0]["group"] == "elevation_change_1m"
        assert (ranked["lower"].dropna() <= ranked["upper"].dropna()).all()
    gain = found[found["method"] == "gain"]["importance"]
    assert gain.sum() == pytest.approx(1)
    null = found[found["group"] == "topography"]
    assert null["importance"].isna().all()
    assert (null["reason"] == "null everywhere").all()
    shuffled = importance.rank_features(table.sample(frac=1, random_state=0), EXPLAIN, SKILL)
    pd.testing.assert_frame_equal(found, shuffled[shuffled["kind"] == "group"])


def test_too_few_data_rank_nothing_with_a_reason(make_features: Maker) -> None:
    table = make_features(mascons=1, months=30, lags=0)
    found = importance.rank_features(table, EXPLAIN, SKILL)
    check(from_pandas(found), IMPORTANCE)
    assert found["importance"].isna().all()
    assert found["reason"].str.contains("1 mascon").all()
