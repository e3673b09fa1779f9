"""Baselines against formulas written out by hand."""

import numpy as np
import pandas as pd
import pytest

from cryofuse.learning import baselines


def table(n_months: int = 36, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    month = np.tile(
        np.arange("2019-01", "2029-01", dtype="datetime64[M]")[:n_months].astype("datetime64[us]"),
        2,
    )
    n = len(month)
    return pd.DataFrame(
        {
            "mascon_id": np.repeat([5, 9], n_months),
            "month": month,
            "observed_cm": rng.normal(size=n),
            "previous_cm": rng.normal(size=n),
            "dh_m": rng.normal(size=n),
            "ice_fraction": np.repeat([0.5, 0.9], n_months),
        }
    )


def test_zero_and_persistence() -> None:
    train, test = table(), table(seed=1)
    test.loc[3, "previous_cm"] = np.nan
    assert (baselines.predict_zero(train, test, "change") == 0).all()
    expected = test["previous_cm"].to_numpy(copy=True)
    expected[3] = train["observed_cm"].mean()
    np.testing.assert_allclose(baselines.predict_persistence(train, test, "change"), expected)


def test_previous_value_skips_gaps_and_stays_in_the_mascon() -> None:
    month = np.array(["2020-03", "2020-01", "2020-02", "2020-04", "2020-01"], "datetime64[us]")
    value = np.array([3.0, 1.0, np.nan, 4.0, 7.0])
    found = baselines.previous_values(np.array([1, 1, 1, 1, 2]), month, value)
    np.testing.assert_array_equal(found, [1.0, np.nan, 1.0, 3.0, np.nan])


def test_climatology_is_the_mascons_own_else_that_of_all() -> None:
    whole = table()
    train = whole[whole["mascon_id"] == 5]
    predicted = baselines.predict_climatology(train, whole, "change")
    for k in range(12):
        mean = train["observed_cm"].to_numpy()[k::12].mean()
        np.testing.assert_allclose(predicted[:36][k::12], mean)
        np.testing.assert_allclose(predicted[36:][k::12], mean)
    both = baselines.predict_climatology(whole, whole, "change")
    np.testing.assert_allclose(
        both[36:48], whole["observed_cm"].to_numpy()[36:].reshape(3, 12).mean(0)
    )


@pytest.mark.parametrize(("target", "slope"), [("change", 0.0), ("cumulative", -3.0)])
def test_trend_and_season_are_extrapolated(target: str, slope: float) -> None:
    whole = table(60)
    # the axis of the project: years of 365.2425 days since 2000, at the middle of the month
    start = whole["month"].to_numpy("datetime64[us]").astype("datetime64[M]")
    middle = (
        start.astype("datetime64[us]")
        + ((start + 1).astype("datetime64[us]") - start.astype("datetime64[us]")) // 2
    )
    t = (middle - np.datetime64("2000-01-01")) / np.timedelta64(1, "D") / 365.2425
    level = np.where(whole["mascon_id"] == 5, 2.0, -1.0)
    whole["observed_cm"] = level + slope * t + 4 * np.cos(2 * np.pi * t - 1)
    late = whole["month"] >= "2022-01-01"
    predicted = baselines.predict_trend_season(whole[~late], whole[late], target)
    np.testing.assert_allclose(predicted, whole.loc[late, "observed_cm"], atol=1e-8)


@pytest.mark.parametrize("target", ["change", "cumulative"])
def test_physics_finds_the_planted_density(target: str) -> None:
    whole = table()
    offset = 0.0 if target == "change" else np.where(whole["mascon_id"] == 5, 30.0, -12.0)
    # 1 m of ice at 850 kg/m³ over the ice fraction is 85 cm of water times that fraction
    whole["observed_cm"] = 85 * whole["dh_m"] * whole["ice_fraction"] + offset
    train = whole.iloc[::2]
    assert baselines.fit_density(train, target) == pytest.approx(850)
    predicted = baselines.predict_physics(train, whole, target)
    np.testing.assert_allclose(predicted, whole["observed_cm"], atol=1e-9)


def test_physics_without_elevation_says_so() -> None:
    whole = table().assign(dh_m=np.nan)
    with pytest.raises(baselines.BaselineError, match="no elevation change"):
        baselines.predict_physics(whole, whole, "change")
    part = table()
    part.loc[4, "dh_m"] = np.nan
    assert np.isfinite(baselines.predict_physics(part, part, "change")).all()


@pytest.mark.parametrize("name", baselines.BASELINES)
@pytest.mark.parametrize("target", ["change", "cumulative"])
def test_every_baseline_predicts_unseen_mascons_and_short_records(name: str, target: str) -> None:
    whole = table()
    short = whole[(whole["mascon_id"] == 5)].iloc[:3]
    predicted = baselines.BASELINES[name](short, whole, target)
    assert predicted.shape == (len(whole),)
    assert np.isfinite(predicted).all()
