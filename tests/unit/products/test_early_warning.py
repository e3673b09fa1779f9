"""Early-warning statistics: right by hand, tested against surrogates, claimed of nothing."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from cryofuse.calendar import month_middle, month_range, year_fraction
from cryofuse.config import ApplicationSettings, EarlyWarningSettings
from cryofuse.learning.treatments import build_filter
from cryofuse.products.early_warning import (
    kendall_tau,
    measure_rise,
    randomise_phases,
    running_statistics,
    warn_early,
)
from cryofuse.products.totals import sum_totals
from cryofuse.tables import EARLY_WARNING, EARLY_WARNING_WINDOWS, check, from_pandas

MONTHS = month_range("2018-10", "2024-12")
YEARS = year_fraction(month_middle(MONTHS))
SETTINGS = EarlyWarningSettings(surrogates=100)


@pytest.fixture(scope="module")
def found(world):
    totals = sum_totals(world["fusion"], world["mass"], world["mascons"], ApplicationSettings())
    return warn_early(world["fusion"], world["mascons"], totals, SETTINGS)


def test_tables_keep_their_contracts(found):
    trends, windows = found
    assert check(from_pandas(trends), EARLY_WARNING).num_rows == 2 * 2 * 4
    assert check(from_pandas(windows), EARLY_WARNING_WINDOWS).num_rows == 16 * (75 - 35)
    assert windows["month"].min() == pd.Timestamp("2021-09-01")
    assert windows["month"].max() == pd.Timestamp("2024-12-01")


def test_running_statistics_are_those_of_each_window():
    series = np.random.default_rng(0).normal(size=40)
    got = running_statistics(series, 12)
    for start in (0, 7, 28):
        part = pd.Series(series[start : start + 12])
        assert got["variance"][start] == pytest.approx(part.var())
        apart = part.to_numpy() - part.mean()
        lagged = np.sum(apart[1:] * apart[:-1]) / np.sum(apart**2)
        assert got["autocorrelation"][start] == pytest.approx(lagged)
    assert got["variance"].shape == (29,)


def test_tau_is_kendalls():
    values = np.random.default_rng(1).normal(size=(5, 30))
    expected = [kendalltau(np.arange(30), row).statistic for row in values]
    np.testing.assert_allclose(kendall_tau(values), expected)
    assert kendall_tau(np.arange(9.0)) == 1.0


@pytest.mark.parametrize("steps", [74, 75])
def test_surrogates_keep_the_spectrum_and_the_mean(steps):
    series = np.cumsum(np.random.default_rng(2).normal(size=steps))
    drawn = randomise_phases(series, 20, np.random.default_rng(3))
    power = np.abs(np.fft.rfft(series))
    np.testing.assert_allclose(
        np.abs(np.fft.rfft(drawn)), np.tile(power, (20, 1)), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(drawn.mean(axis=1), series.mean())
    assert not np.allclose(drawn[0], drawn[1])


def test_a_rise_of_variance_is_told_from_chance_and_its_reverse_is_not():
    noise = np.random.default_rng(4).normal(size=YEARS.size)
    whole = build_filter("deseasonalised", YEARS, np.ones(YEARS.size, bool))
    growing = noise * np.linspace(0.2, 3.0, YEARS.size)
    up, down = (
        measure_rise(series, whole, 36, 200, np.random.default_rng(5))["variance"]
        for series in (growing, growing[::-1])
    )
    assert up["tau"] > up["tau_upper"] and up["p"] < 0.05
    assert down["tau"] < 0 and down["p"] > 0.9


def test_an_empty_fusion_gives_empty_tables(world):
    totals = sum_totals(world["fusion"], world["mass"], world["mascons"], ApplicationSettings())
    none = world["fusion"].iloc[:0]
    taus, windows = warn_early(none, world["mascons"], totals, EarlyWarningSettings())
    assert taus.empty and windows.empty
    assert check(from_pandas(taus), EARLY_WARNING).num_rows == 0


def test_gaps_are_bridged_and_too_many_are_refused(world):
    fusion = world["fusion"].copy()
    own = fusion["mascon_id"] == 35
    fusion.loc[own & (fusion["month"].dt.month == 4), ["dh_m", "dh_sigma_m"]] = np.nan
    many = (fusion["mascon_id"] == 50) & fusion["month"].dt.month.isin([2, 5])
    fusion.loc[many, "dh_m"] = np.nan
    late = (fusion["mascon_id"] == 68) & (fusion["month"] < pd.Timestamp("2019-07-01"))
    fusion.loc[late, "dh_m"] = np.nan
    totals = sum_totals(fusion, world["mass"], world["mascons"], ApplicationSettings())
    trends, windows = warn_early(fusion, world["mascons"], totals, SETTINGS)
    rows = trends[(trends["source"] == "dh") & (trends["statistic"] == "variance")]
    rows = rows.set_index("scope")
    assert rows.loc["mascon:35", "n"] == 69 and np.isfinite(rows.loc["mascon:35", "tau"])
    assert rows.loc["mascon:50", "reason"] == "12 of 75 months have no value"
    assert rows.loc["mascon:68", "reason"] == "66 months: 2 windows of 36 are needed"
    assert set(windows[windows["source"] == "dh"]["scope"]) == {"sheet", "mascon:35"}
    check(from_pandas(trends), EARLY_WARNING)


def test_a_short_record_has_reasons_and_no_window(world):
    fusion = world["fusion"][world["fusion"]["month"] < pd.Timestamp("2022-01-01")]
    totals = sum_totals(fusion, world["mass"], world["mascons"], ApplicationSettings())
    trends, windows = warn_early(fusion, world["mascons"], totals, SETTINGS)
    assert set(trends["reason"]) == {"39 months: 2 windows of 36 are needed"}
    assert check(from_pandas(windows), EARLY_WARNING_WINDOWS).num_rows == 0
    check(from_pandas(trends), EARLY_WARNING)


def test_a_region_without_selected_mascons_gives_empty_tables(world):
    mascons = world["mascons"].assign(selected=False)
    totals = sum_totals(world["fusion"], world["mass"], mascons, ApplicationSettings())
    trends, windows = warn_early(world["fusion"], mascons, totals, SETTINGS)
    assert check(from_pandas(trends), EARLY_WARNING).num_rows == 0
    assert check(from_pandas(windows), EARLY_WARNING_WINDOWS).num_rows == 0
