"""The detector of rapid melt: planted months, false alarms, gaps, reasons."""

import numpy as np
import pandas as pd
import pytest

from cryofuse.calendar import month_middle, month_range, year_fraction
from cryofuse.config import ApplicationSettings, RapidMeltSettings
from cryofuse.learning.treatments import build_filter
from cryofuse.products.rapid_melt import detect_extremes, detect_rapid_melt, fit_spread
from cryofuse.products.totals import sum_totals
from cryofuse.tables import RAPID_MELT, RAPID_MELT_RATES, check, from_pandas

MONTHS = month_range("2018-10", "2024-12")
YEARS = year_fraction(month_middle(MONTHS))
SETTINGS = RapidMeltSettings(surrogates=200)
CYCLE = 3 + 2 * np.cos(2 * np.pi * YEARS) + np.sin(4 * np.pi * YEARS) - 0.4 * YEARS


def predicted(fusion):
    """What a model might predict: the mass changes themselves, one mascon not seen in a month."""
    table = fusion[["mascon_id", "month", "mass_change_gt"]].dropna()
    table = table.rename(columns={"mass_change_gt": "predicted_change_gt"})
    table["followed"] = (table["mascon_id"] == 35) & (table["month"] == pd.Timestamp("2020-06-01"))
    return table.assign(all_other_years=True)


@pytest.fixture(scope="module")
def found(world):
    fusion, mascons = world["fusion"], world["mascons"]
    mass = world["mass"]
    totals = sum_totals(fusion, mass, mascons, ApplicationSettings())
    return detect_rapid_melt(fusion, mass, mascons, totals, predicted(fusion), SETTINGS)


def test_tables_keep_their_contracts(found):
    months, rates = found
    assert check(from_pandas(months), RAPID_MELT).num_rows > 0
    assert check(from_pandas(rates), RAPID_MELT_RATES).num_rows == 3 * 4
    assert set(rates["scope"]) == {"sheet", "mascon:35", "mascon:50", "mascon:68"}


def test_changes_are_those_of_the_tables(world, found):
    months, _ = found
    fusion = world["fusion"].set_index(["mascon_id", "month"])
    row = months[(months["scope"] == "mascon:50") & (months["month"] == "2020-07-01")]
    row = row.set_index("source")["change"]
    july, june = ((50, pd.Timestamp(f"2020-{m}-01")) for m in ("07", "06"))
    assert row["dh"] == pytest.approx(fusion.loc[july, "dh_m"] - fusion.loc[june, "dh_m"])
    assert row["gravimetry"] == pytest.approx(fusion.loc[july, "mass_change_gt"])
    assert row["model"] == pytest.approx(fusion.loc[july, "mass_change_gt"])
    sheet = months[(months["scope"] == "sheet") & (months["month"] == "2020-07-01")]
    sheet = sheet.set_index("source")["change"]
    ice = {35: 80_000.0, 50: 70_000.0, 68: 60_000.0}
    dh = sum(
        area * (fusion.loc[(m, july[1]), "dh_m"] - fusion.loc[(m, june[1]), "dh_m"])
        for m, area in ice.items()
    )
    assert sheet["dh"] == pytest.approx(dh / sum(ice.values()))
    mass = sum(fusion.loc[(m, july[1]), "mass_change_gt"] for m in ice)
    assert sheet["gravimetry"] == pytest.approx(mass)
    assert sheet["model"] == pytest.approx(mass)


def test_a_month_that_was_not_seen_is_the_sheets_and_not_the_mascons(found):
    months, _ = found
    june = months[(months["month"] == "2020-06-01") & (months["source"] == "model")]
    june = june.set_index("scope")
    assert np.isnan(june.loc["mascon:35", "change"]) and pd.isna(june.loc["mascon:35", "flagged"])
    assert np.isfinite(june.loc["sheet", "change"])


def test_months_beside_a_gap_are_null(found):
    months, _ = found
    beside = months[(months["source"] == "gravimetry") & (months["month"].dt.year == 2019)]
    beside = beside[beside["month"].dt.month.isin([3, 4])]
    assert len(beside) == 8
    assert beside[["change", "anomaly", "p", "flagged"]].isna().all(axis=None)


def test_a_planted_month_is_flagged_and_trend_and_season_are_not():
    noise = np.random.default_rng(3).normal(0, 0.1, YEARS.size)
    series = CYCLE + noise
    series[40] -= 1.0
    whole = build_filter("deseasonalised", YEARS, np.ones(YEARS.size, bool))
    seen = detect_extremes(series, YEARS, whole, 0.02, 400, np.random.default_rng(0))
    assert seen.flagged[40] and seen.flagged.sum() <= 5
    assert seen.p[40] == seen.p.min() and seen.p[40] < 0.001
    # What is left is the noise without five fitted columns more; its 2 % quantile is −2.05 σ.
    design = np.column_stack(
        [np.ones(75), YEARS, *(f(2 * np.pi * k * YEARS) for k in (1, 2) for f in (np.cos, np.sin))]
    )
    left = series - design @ np.linalg.lstsq(design, series, rcond=None)[0]
    np.testing.assert_allclose(seen.anomaly, left, atol=1e-9)
    assert np.median(seen.threshold) == pytest.approx(-0.205, rel=0.25)
    assert seen.false_alarms.mean() == pytest.approx(0.02, abs=0.01)


def test_the_threshold_follows_the_spread_of_the_time_of_the_year():
    """Summers that vary three times as much have a threshold about three times as low."""
    calendar = MONTHS.astype("datetime64[M]").astype(int) % 12 + 1
    summer = np.isin(calendar, [6, 7, 8])
    whole = build_filter("deseasonalised", YEARS, np.ones(YEARS.size, bool))
    ratios = []
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0, np.where(summer, 0.3, 0.1))
        seen = detect_extremes(CYCLE + noise, YEARS, whole, 0.02, 100, np.random.default_rng(seed))
        july, winter = (seen.threshold[np.isin(calendar, m)].mean() for m in ([7], [12, 1, 2]))
        ratios.append(july / winter)
    assert np.median(ratios) == pytest.approx(3.0, rel=0.2)


def test_the_spread_is_that_of_noise_and_one_extreme_hardly_widens_it():
    cycle = np.column_stack([f(2 * np.pi * k * YEARS) for k in (1, 2) for f in (np.cos, np.sin)])
    planted = np.exp(0.5 + 0.7 * np.cos(2 * np.pi * YEARS) - 0.3 * np.sin(4 * np.pi * YEARS))
    noise = np.random.default_rng(6).normal(size=(4000, YEARS.size))
    fitted = fit_spread(planted * noise, cycle)
    assert fitted.shape == noise.shape
    np.testing.assert_allclose(np.median(fitted, axis=0), planted, rtol=0.06)
    noise[:, 33] = -6.0
    wider = fit_spread(planted * noise, cycle)[:, 33] / fitted[:, 33]
    assert 1.05 < np.median(wider) < 1.25


def test_a_gain_is_no_melt():
    series = CYCLE + np.random.default_rng(4).normal(0, 0.1, YEARS.size)
    series[20] += 2.0
    whole = build_filter("deseasonalised", YEARS, np.ones(YEARS.size, bool))
    seen = detect_extremes(series, YEARS, whole, 0.02, 200, np.random.default_rng(0))
    assert not seen.flagged[20] and seen.p[20] > 0.99


def test_units_do_not_change_what_is_flagged():
    series = CYCLE + np.random.default_rng(5).normal(0, 0.1, YEARS.size)
    whole = build_filter("deseasonalised", YEARS, np.ones(YEARS.size, bool))
    one, other = (
        detect_extremes(scale * series, YEARS, whole, 0.1, 200, np.random.default_rng(1))
        for scale in (1.0, 1000.0)
    )
    np.testing.assert_array_equal(one.flagged, other.flagged)
    np.testing.assert_allclose(other.threshold, 1000 * one.threshold)


def test_short_and_constant_series_say_why(world):
    fusion = world["fusion"]
    early = fusion[fusion["month"] < pd.Timestamp("2020-06-01")]
    still = early.assign(dh_m=0.0)
    mass = world["mass"].assign(mass_gt=0.0)
    totals = sum_totals(still, mass, world["mascons"], ApplicationSettings())
    months, rates = detect_rapid_melt(
        still, mass, world["mascons"], totals, predicted(fusion).iloc[:0], SETTINGS
    )
    why = rates.set_index(["scope", "source"])["reason"]
    assert why["mascon:35", "dh"] == "19 monthly changes: 24 are needed"
    assert why["mascon:35", "gravimetry"] == "the series does not vary beyond trend and season"
    assert why["mascon:35", "model"] == "0 monthly changes: 24 are needed"
    assert months["flagged"].isna().all() and rates["false_alarm_rate"].isna().all()
    check(from_pandas(months), RAPID_MELT)
    check(from_pandas(rates), RAPID_MELT_RATES)


def test_results_follow_the_seed_and_no_order_of_rows(world, found):
    fusion, mass, mascons = world["fusion"], world["mass"], world["mascons"]
    shuffled = fusion.sample(frac=1.0, random_state=1)
    totals = sum_totals(shuffled, mass, mascons, ApplicationSettings())
    again = detect_rapid_melt(shuffled, mass, mascons, totals, predicted(shuffled), SETTINGS)
    for one, other in zip(found, again, strict=True):
        pd.testing.assert_frame_equal(one, other)
    other = SETTINGS.model_copy(update={"seed": 99})
    seeded = detect_rapid_melt(fusion, mass, mascons, totals, predicted(fusion), other)[1]
    assert not seeded["threshold"].equals(found[1]["threshold"])


def test_months_by_models_of_fewer_years_are_left_out(world):
    table = predicted(world["fusion"])
    later = table["month"] >= pd.Timestamp("2022-01-01")
    fusion, mass, mascons = world["fusion"], world["mass"], world["mascons"]
    totals = sum_totals(fusion, mass, mascons, ApplicationSettings())
    both = [
        detect_rapid_melt(fusion, mass, mascons, totals, part, SETTINGS)[0]
        for part in (table.assign(all_other_years=~later), table[~later])
    ]
    months = both[0][both[0]["source"] == "model"].dropna(subset=["change"])["month"]
    assert months.max() == pd.Timestamp("2021-12-01")
    pd.testing.assert_frame_equal(*both)
