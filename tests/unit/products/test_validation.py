import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryofuse.products import rapid_melt, validation
from cryofuse.products.validation import validate

MONTHS = np.arange("2018-10", "2024-10", dtype="datetime64[M]").astype("datetime64[us]")
SPLIT = "both"


class FlatWorld:
    """Thins by 1 m/yr west of 0 and not at all east of it."""

    def rate(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        return np.where(x_m < 0, -1.0, 0.0)

    def regime(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        return np.where(x_m < 0, 0, 1)


def make_run() -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """Truth and results of two selected mascons, whose results miss the truth by known amounts."""
    rng = np.random.default_rng(1)
    t = np.arange(MONTHS.size) / 12
    x = np.linspace(-50_000, 50_000, 40)
    nodes = pd.DataFrame({"x_m": x, "y_m": 0.0, "window": np.where(np.arange(40) < 20, "w", None)})
    nodes["rate_m_yr"] = np.where(x < 0, -1.0, 0.0) + np.where(np.arange(40) < 20, 0.02, -0.004)
    regime_nodes = nodes[["x_m", "y_m"]].assign(regime=np.where(x < 0, 3, 1))
    truth_months, months, predictions = [], [], []
    for mascon in (1, 2, 3):
        law = -20 * t + 10 * np.cos(2 * np.pi * t)
        noise = rng.normal(0, 1.0, t.size)
        truth_months.append(
            pd.DataFrame(
                {
                    "mascon_id": mascon,
                    "month": MONTHS,
                    "dh_m": -0.5 * t,
                    "mass_gt_own": -1.1 * law,
                    "lwe_planted_cm": law,
                    "lwe_law_cm": law,
                    "lwe_noise_cm": noise,
                    "lwe_cm": law + noise,
                }
            )
        )
        # Mascon 3 is not selected: its error must not count.
        bias = {1: 0.01, 2: 0.03, 3: 9.0}[mascon]
        months.append(
            pd.DataFrame(
                {
                    "mascon_id": mascon,
                    "month": MONTHS,
                    "dh_m": -0.5 * t + bias,
                    "dh_sigma_m": 0.011,
                    "mass_gt": 1.0,
                    "dh_mean_m": -0.5 * t + 4 * bias,
                }
            )
        )
        predictions.append(
            pd.DataFrame({"mascon_id": mascon, "month": MONTHS[1:]})[lambda f: f["mascon_id"] < 3]
        )
    predicted = pd.concat(predictions).assign(model="ridge", split=SPLIT, target="change")
    scores = pd.DataFrame(
        {
            "model": ["ridge", "forest", "zero"],
            "kind": ["model", "model", "baseline"],
            "split": SPLIT,
            "target": "change",
            "scope": "pooled",
            "score": "r2",
            "value": [0.4, 0.1, 0.9],
        }
    )
    planted = pd.concat(truth_months, ignore_index=True)
    chosen = planted[planted["mascon_id"] < 3]
    gravity = chosen.groupby("month")["lwe_cm"].sum().reset_index()
    totals = pd.DataFrame(
        {
            "source": "gravity",
            "month": gravity["month"],
            "mass_gt": gravity["lwe_cm"] * 1e3 * 1e-5,
            # The sum of two mascons' noise of 1 cm.
            "mass_sigma_gt": np.sqrt(2) * 1e3 * 1e-5,
        }
    )
    # Volume is off by 1 km³ in every fourth month, σ is 0.3.
    volume = -0.5 * t * 1.7 + (np.arange(t.size) % 4 == 0)
    altimetry = pd.DataFrame({"month": MONTHS, "volume_km3": volume, "volume_sigma_km3": 0.3})
    both = [altimetry.assign(source=f"altimetry_{d}") for d in (850, 917)]
    totals = pd.concat([totals, *both], ignore_index=True)
    lakes = pd.DataFrame(
        {"lake_id": [1, 2, 3], "x_m": [-25_000.0, 25_000.0, 0.0], "y_m": [0.0, 0.0, 9e5]}
    )
    lakes["radius_m"] = 8000.0
    drained = {"lake_id": [1, 2], "kind": ["drain", "drain"], "month": MONTHS[[36, 40]]}
    truth = {
        "mascons": pd.DataFrame(
            {
                "mascon_id": [1, 2, 3],
                "lag_months": [2.0, 1.4, np.nan],
                "lag_detrended_months": [2.0, 3.0, np.nan],
            }
        ),
        "mascon_months": planted,
        "lakes": lakes,
        "lake_events": pd.DataFrame(drained),
    }
    results = {
        "nodes": nodes,
        "mascons": pd.DataFrame(
            {
                "mascon_id": [1, 2, 3],
                "selected": [True, True, False],
                "ice_area_km2": [800.0, 900.0, 1.0],
                "land_area_km2": 1000.0,
            }
        ),
        "mascon_months": pd.concat(months, ignore_index=True),
        # The truth begins at 0.
        "mascon_months_causal": pd.concat(months, ignore_index=True),
        "coupling": pd.DataFrame(
            {
                "mascon_id": [1, 2, 1, 2],
                "treatment": ["detrended", "detrended", "raw", "raw"],
                "lag_months": [2, 4, 2, 1],
                "best": True,
                # Mass falls by 20 cm where elevation falls by 0.5 m, over 1000 km² of land.
                "density_kg_m3": [np.nan, np.nan, 510.0, 400.0],
                "density_lower_kg_m3": [np.nan, np.nan, 450.0, 350.0],
                "density_upper_kg_m3": [np.nan, np.nan, 560.0, 430.0],
            }
        ),
        "regime_nodes": regime_nodes,
        "lakes": pd.DataFrame(
            {
                "lake_id": [1, 2, 3],
                "status": ["candidate", "candidate", "lookalike"],
                "x_m": [-24_000.0, 0.0, 25_000.0],
                "y_m": [500.0, 300_000.0, 0.0],
            }
        ),
        "lake_events": pd.DataFrame(
            {
                "lake_id": [1, 1],
                "kind": ["drain", "fill"],
                "start": MONTHS[[35, 2]],
                "end": MONTHS[[38, 30]],
                "volume_km3": [-0.1, 0.1],
            }
        ),
        "scores": scores,
        "predictions": predicted,
        "totals": totals,
    }
    return truth, results


@pytest.fixture(scope="module")
def metrics() -> dict[str, dict[str, Any]]:
    truth, results = make_run()
    return {m["metric"]: m for m in validate(truth, results, FlatWorld())}


def test_rates_are_split_by_window(metrics: dict[str, Any]) -> None:
    assert metrics["rate_bias_windows"]["value"] == pytest.approx(0.02)
    assert not metrics["rate_bias_windows"]["holds"]
    assert metrics["rate_bias_coarse"]["value"] == pytest.approx(-0.004)
    assert metrics["rate_bias_coarse"]["holds"]
    assert metrics["rate_rmse_all"]["value"] == pytest.approx(np.sqrt((0.02**2 + 0.004**2) / 2))
    assert metrics["rate_bias_all"]["n"] == 40


def test_only_selected_mascons_count(metrics: dict[str, Any]) -> None:
    assert metrics["mascon_dh_bias"]["value"] == pytest.approx((0.01 * 800 + 0.03 * 900) / 1700)
    assert metrics["mascon_dh_rmse"]["value"] == pytest.approx(
        np.sqrt((0.01**2 * 800 + 0.03**2 * 900) / 1700)
    )
    assert metrics["mascon_dh_rmse"]["detail"]["plain_rmse_m"] == pytest.approx(
        np.sqrt((0.01**2 + 0.03**2) / 2)
    )
    assert metrics["mascon_dh_within_2_sigma"]["value"] == pytest.approx(0.5)
    assert metrics["mascon_dh_within_1_sigma"]["value"] == pytest.approx(0.5 - 0.68)
    assert not metrics["mascon_dh_within_1_sigma"]["holds"]
    assert metrics["mascon_dh_within_1_sigma"]["detail"]["lowest_mascon"] == 0
    assert metrics["causal_dh_within_1_sigma"]["detail"]["share"] == pytest.approx(0.5)
    assert metrics["causal_dh_bias"]["value"] == metrics["mascon_dh_bias"]["value"]
    assert metrics["causal_dh_rmse_share"]["value"] == pytest.approx(0.25)
    assert metrics["mascon_dh_rmse_share"]["value"] == pytest.approx(0.25)
    assert metrics["mascon_dh_rmse_share"]["holds"]
    assert metrics["mascon_dh_bias"]["detail"]["largest_mascon_bias_m"] == pytest.approx(0.03)
    assert metrics["volume_trend_error"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["volume_trend_error"]["detail"]["true_km3_yr"] == pytest.approx(
        -0.5 * 1.7, rel=0.01
    )


def test_lags_regimes_and_totals(metrics: dict[str, Any]) -> None:
    # Errors 0 and 2.6 months.
    assert metrics["lag_error_median"]["value"] == pytest.approx(1.3)
    assert metrics["lag_share"]["value"] == pytest.approx(0.5)
    assert not metrics["lag_share"]["holds"]
    assert metrics["lag_share_raw"]["value"] == 1.0
    # Series without noise lag by 2 and 3 months; 2 and 4 were found.
    assert metrics["lag_share_after_leakage"]["value"] == 1.0
    assert metrics["regime_adjusted_rand"]["value"] == 1.0
    assert metrics["regime_adjusted_rand"]["holds"]
    gravity = metrics["gravity_trend_error"]
    assert gravity["holds"]
    assert gravity["detail"]["planted_gt_yr"] == pytest.approx(-20 * 2 * 1e-2, rel=0.01)
    assert metrics["gravity_within_2_sigma"]["holds"]
    assert metrics["gravity_within_2_sigma"]["n"] == MONTHS.size
    assert metrics["volume_within_2_sigma"]["value"] == pytest.approx(0.75)
    assert not metrics["volume_within_2_sigma"]["holds"]


def test_planted_densities_are_those_of_the_same_months_and_lag(metrics: dict[str, Any]) -> None:
    t = np.arange(MONTHS.size) / 12
    law = -20 * t + 10 * np.cos(2 * np.pi * t)
    first = np.polyfit(-0.5 * t[:-2], law[2:], 1)[0] * 10 * 1000 / 800
    second = np.polyfit(-0.5 * t[:-1], law[1:], 1)[0] * 10 * 1000 / 900
    assert 450 < first < 560 and second > 430
    found = metrics["density_share_raw"]
    assert found["value"] == 0.5 and found["n"] == 2 and not found["holds"]
    assert found["detail"]["median_error_kg_m3"] == pytest.approx(
        (510 - first + 400 - second) / 2, rel=1e-9
    )
    assert "density_share" not in metrics


def test_lakes_found_missed_and_false(metrics: dict[str, Any]) -> None:
    # Lake 3 has no node near; lake 2 has only a look-alike; one of two candidates is none.
    assert metrics["lakes_found"]["value"] == pytest.approx(0.5)
    assert metrics["lakes_found"]["n"] == 2
    assert metrics["lakes_found"]["detail"]["missed"] == [2, 3]
    assert metrics["lakes_found"]["detail"]["not_crossed"] == [3]
    assert metrics["lakes_missed"]["value"] == 1
    assert metrics["lakes_false"]["value"] == pytest.approx(0.5)
    # The drain lies between the middles of September and December 2021, planted October 2021.
    assert metrics["lake_drain_error"]["value"] < 20
    assert metrics["lake_drain_error"]["holds"]
    assert metrics["lake_drains_dated"]["value"] == 1.0


def test_a_late_drain_and_a_missing_one_fail() -> None:
    """Lakes 2 and 3 become found: one with a drain half a year late, one without any."""
    truth, results = make_run()
    found = results["lakes"]
    own = found.iloc[[0]]
    for lake_id, place in ((2, 81), (3, 82)):
        planted = truth["lakes"].loc[truth["lakes"]["lake_id"] == lake_id].iloc[0]
        added = own.assign(lake_id=place, x_m=planted["x_m"], y_m=planted["y_m"])
        found = pd.concat([found, added], ignore_index=True)
    late = results["lake_events"].query("kind == 'drain'").iloc[[0]]
    half_year = pd.DateOffset(months=6)
    late = late.assign(lake_id=81, start=late["start"] + half_year, end=late["end"] + half_year)
    drains = truth["lake_events"].query("kind == 'drain'").iloc[[0]]
    more = [drains.assign(lake_id=2), drains.assign(lake_id=3)]
    truth["lake_events"] = pd.concat([drains, *more], ignore_index=True)
    results |= {"lakes": found, "lake_events": pd.concat([results["lake_events"], late])}
    metrics = {m["metric"]: m for m in validate(truth, results, FlatWorld())}
    dated = metrics["lake_drains_dated"]
    assert dated["value"] == pytest.approx(1 / 3) and dated["n"] == 3 and not dated["holds"]
    assert dated["detail"]["without_drain"] == [3]
    error = metrics["lake_drain_error"]
    assert error["value"] == pytest.approx(182, abs=20) and not error["holds"]
    assert error["n"] == 2 and error["detail"]["median_days"] < error["value"]


def test_skill_is_a_share_of_the_ceiling(metrics: dict[str, Any]) -> None:
    truth, _ = make_run()
    months = truth["mascon_months"]
    months = months[months["mascon_id"] < 3]
    observed = np.concatenate([np.diff(g["lwe_cm"]) for _, g in months.groupby("mascon_id")])
    law = np.concatenate([np.diff(g["lwe_law_cm"]) for _, g in months.groupby("mascon_id")])
    ceiling = 1 - np.sum((observed - law) ** 2) / np.sum((observed - observed.mean()) ** 2)
    skill = metrics[f"skill_{SPLIT}_change"]
    assert skill["detail"]["ceiling"] == pytest.approx(ceiling)
    assert skill["detail"]["model"] == "ridge"
    assert skill["value"] == pytest.approx(0.4 / ceiling)
    assert skill["n"] == 2 * 71


def test_months_beside_a_gap_have_no_change() -> None:
    truth, results = make_run()
    months = truth["mascon_months"]
    months.loc[months["month"] == MONTHS[40], ["lwe_cm", "lwe_noise_cm"]] = np.nan
    truth["mascon_months"] = months[months["month"] != MONTHS[10]]
    found = {m["metric"]: m for m in validate(truth, results, FlatWorld())}
    assert found[f"skill_{SPLIT}_change"]["n"] == 2 * 67


def test_what_is_missing_is_null_with_a_reason() -> None:
    truth, results = make_run()
    for name in ("scores", "lakes", "coupling", "totals"):
        del results[name]
    results["regime_nodes"] = results["regime_nodes"].assign(regime=pd.NA)
    results["nodes"] = results["nodes"].iloc[:0]
    found = validate(truth, results, FlatWorld())
    null = {m["metric"]: m["reason"] for m in found if m["value"] is None}
    assert null["skill"] == "no table scores"
    assert null["lakes"] == "no table lakes"
    assert null["lag"] == "no table coupling"
    assert null["regime_adjusted_rand"] == "no node has a regime"
    assert null["rate"] == "table nodes has no row"
    assert null["gravity_trend_error"] == "no table totals"
    assert null["volume_within_2_sigma"] == "no table totals"
    assert not any(m["holds"] for m in found if m["value"] is None)
    json.dumps(found, allow_nan=False)


def test_everything_is_plain(metrics: dict[str, Any]) -> None:
    json.dumps(list(metrics.values()), allow_nan=False)
    for metric in metrics.values():
        assert set(metric) >= {"metric", "value", "tolerance", "holds", "n", "about", "reason"}


@pytest.fixture(autouse=True)
def few_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let false alarms be measured on few worlds where they are not what is tested."""
    monkeypatch.setattr(validation, "ALARM_WORLDS", 2)


def make_seasons() -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """Add three melt seasons to the run: the planted ice falls in summer, the first year most."""
    truth, results = make_run()
    months = truth["mascon_months"]
    year, month = months["month"].dt.year, months["month"].dt.month
    melt = sum(
        depth * ((year > y) | ((year == y) & (month >= 7)))
        for y, depth in ((2019, 3.0), (2020, 2.0), (2021, 1.0))
    )
    truth["mascon_months"] = months.assign(
        dh_m=months["dh_m"] - melt, lwe_planted_cm=months["lwe_planted_cm"] - 50 * melt
    )
    area = {1: 1000.0, 2: 1000.0}
    planted = truth["mascon_months"]
    planted = planted[planted["mascon_id"].isin(area)]
    gt = (planted["lwe_planted_cm"] * 1e3 * 1e-5).groupby(planted["month"]).sum()
    gravity = pd.DataFrame({"source": "gravity", "month": gt.index})
    # A month in four is 3σ off.
    off = np.where(np.arange(len(gt)) % 4 == 0, 3.0, 0.5) * 0.001
    gravity["sea_level_mm"] = -gt.to_numpy() / 361.8 + off
    gravity["sea_level_sigma_mm"] = 0.001
    results["totals"] = results["totals"].merge(gravity, on=["source", "month"], how="left")
    t = np.arange(MONTHS.size) / 12
    slope = np.linalg.lstsq(
        np.column_stack([np.ones(t.size), t, np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)]),
        -gt.to_numpy() / 361.8,
        rcond=None,
    )[0][1]
    results["sea_level"] = pd.DataFrame(
        {
            "source": ["gravity", "altimetry_850"],
            "start": MONTHS[0],
            "end": MONTHS[-1],
            "sea_level_mm_yr": [slope + 0.003, 9.0],
            "sea_level_sigma_mm_yr": [0.002, 0.1],
        }
    )
    rows = [
        {"scope": "sheet", "year": y, "dh_season_m": d, "observed_late_gt": g,
         "predicted_late_gt": m, "observed_gt": g, "predicted_gt": m,
         "predicted_lower_gt": m - 1, "predicted_upper_gt": m + 1}
        for y, d, g, m in ((2019, -2.0, -30.0, -9.0), (2020, -1.5, -20.0, -11.0),
                           (2021, 0.5, -10.0, -5.0))
    ]  # fmt: skip
    single = [rows[0] | {"scope": f"mascon:{i}", "observed_gt": -9.0 + i} for i in range(4)]
    results["case_study"] = pd.DataFrame(rows + single)
    flagged = np.isin(MONTHS.astype("datetime64[M]").astype(str), ["2019-07", "2022-02"])
    both = [
        pd.DataFrame({"month": MONTHS, "scope": scope, "source": "dh", "flagged": flagged})
        for scope in ("sheet", "mascon:1")
    ]
    results["rapid_melt"] = pd.concat(both, ignore_index=True)
    results["rapid_melt_rates"] = pd.DataFrame(
        {"scope": ["sheet"], "source": "dh", "nominal_rate": 0.02, "false_alarm_rate": 0.035,
         "false_alarm_upper": 0.037, "most_by_chance": 1}
    )  # fmt: skip
    return truth, results


def test_melt_seasons_rapid_melt_and_sea_level() -> None:
    truth, results = make_seasons()
    found = {m["metric"]: m for m in validate(truth, results, FlatWorld())}
    assert found["melt_order_dh"]["value"] == pytest.approx(0.5)
    assert found["melt_order_gravimetry"]["value"] == pytest.approx(10.0)
    assert found["melt_order_dh"]["holds"] and found["melt_order_gravimetry"]["holds"]
    # 2019 and 2020 exchanged.
    assert found["melt_order_model"]["value"] == pytest.approx(-2.0)
    assert not found["melt_order_model"]["holds"]
    assert found["melt_order_model"]["detail"]["order"] == [2019, 2020, 2021]
    # −9, −8 and no more of four lie in −10 to −8.
    assert found["melt_season_inside"]["value"] == pytest.approx(0.5)
    # 90 % less two binomial σ of four.
    assert found["melt_season_inside"]["tolerance"] == pytest.approx(0.9 - 2 * 0.15)
    assert found["melt_season_inside"]["holds"] is False
    assert found["rapid_melt_found"]["value"] == 1.0
    share = found["rapid_melt_share_found"]
    assert min(share["detail"]["spreads_of_their_season"]) == "2019-07"
    assert 0 < share["value"] <= 1 and share["holds"] is None
    assert found["rapid_melt_false"]["value"] == 1.0 and found["rapid_melt_false"]["holds"]
    for name in ("rapid_melt_false_alarm_rate", "rapid_melt_season_alarm_rate"):
        assert set(found[name]["detail"]["rates"]) == {"1", "2", "3"}
    assert found["sea_level_within_2_sigma"]["value"] == pytest.approx(0.75)
    assert not found["sea_level_within_2_sigma"]["holds"]
    assert found["sea_level_trend_error"]["value"] == pytest.approx(0.003, abs=2e-5)
    assert found["sea_level_trend_error"]["tolerance"] == pytest.approx(0.004)


def test_a_detector_with_one_spread_for_all_seasons_does_not_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def one_spread(values: np.ndarray, cycle: np.ndarray) -> np.ndarray:
        middle = np.median(np.abs(values), axis=-1, keepdims=True)
        return np.repeat(middle, len(cycle), axis=-1)

    monkeypatch.setattr(rapid_melt, "fit_spread", one_spread)
    monkeypatch.setattr(validation, "ALARM_WORLDS", 20)
    truth, results = make_seasons()
    found = {m["metric"]: m for m in validate(truth, results, FlatWorld())}
    assert not found["rapid_melt_season_alarm_rate"]["holds"]
    assert not found["rapid_melt_false_alarm_rate"]["holds"]


def test_seasons_are_those_of_the_configuration() -> None:
    truth, results = make_seasons()
    found = {m["metric"]: m for m in validate(truth, results, FlatWorld(), (9, 10))}
    assert found["melt_order_dh"]["detail"]["planted"] == pytest.approx([0.0] * 3, abs=0.5)
    found = {m["metric"]: m for m in validate(truth, results, FlatWorld())}
    assert found["melt_order_dh"]["detail"]["planted"][0] < -2.5


def test_altimetric_totals_are_held_against_the_planted_mass() -> None:
    truth, results = make_seasons()
    planted = truth["mascon_months"]
    planted = planted[planted["mascon_id"].isin({1, 2})]
    mass = (planted["lwe_planted_cm"] * 1e3 * 1e-5).groupby(planted["month"]).sum()
    # Half of the months 3σ off, either way, on another baseline.
    off = 3.0 * np.where(np.arange(len(mass)) % 4 < 2, 1, -1) * (np.arange(len(mass)) % 2)
    other = pd.DataFrame({"source": "altimetry_850", "month": mass.index, "density_kg_m3": 850.0})
    other["mass_gt"], other["mass_sigma_gt"] = mass.to_numpy() + 50 + off, 1.0
    rest = results["totals"][results["totals"]["source"] == "gravity"]
    results["totals"] = pd.concat([rest, other], ignore_index=True)
    results["sea_level"]["trend_gt_yr"] = -361.8 * results["sea_level"]["sea_level_mm_yr"]
    results["sea_level"]["trend_sigma_gt_yr"] = (
        361.8 * results["sea_level"]["sea_level_sigma_mm_yr"]
    )
    found = {m["metric"]: m for m in validate(truth, results, FlatWorld())}
    share = found["altimetry_850_within_2_sigma"]
    assert share["value"] == pytest.approx(0.5, abs=0.02) and share["holds"] is False
    assert "σ is that of elevation alone" in share["about"]
    assert found["altimetry_850_trend_error"]["value"] < -3000
    assert not found["altimetry_850_trend_error"]["holds"]


def test_a_planted_month_that_is_not_flagged_does_not_hold() -> None:
    truth, results = make_seasons()
    results["rapid_melt"] = results["rapid_melt"].assign(flagged=False)
    found = {m["metric"]: m for m in validate(truth, results, FlatWorld())}
    assert found["rapid_melt_found"]["value"] == 0.0 and not found["rapid_melt_found"]["holds"]
    results["rapid_melt"] = results["rapid_melt"].assign(flagged=None)
    found = {m["metric"]: m for m in validate(truth, results, FlatWorld())}
    assert "looked at" in found["rapid_melt"]["reason"]
