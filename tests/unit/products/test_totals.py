"""Totals, trends, sea level and comparisons against sums made by hand."""

import numpy as np
import pandas as pd
import pytest

from cryofuse.calendar import month_index, month_middle, month_range, year_fraction
from cryofuse.config import ApplicationSettings
from cryofuse.products.reference import Reference
from cryofuse.products.totals import (
    compare_series,
    fit_trend,
    follow_unseen,
    match_series,
    sea_level_trends,
    sum_totals,
)
from cryofuse.tables import COMPARISON, SEA_LEVEL, TOTALS, check, from_pandas

SETTINGS = ApplicationSettings()
IDS = (35, 50, 68)
ICE = {35: 80_000.0, 50: 70_000.0, 68: 60_000.0}


@pytest.fixture(scope="module")
def totals(world):
    return sum_totals(world["fusion"], world["mass"], world["mascons"], SETTINGS)


def series(totals, source):
    part = totals[totals["source"] == source].set_index("month")
    return part["mass_gt"]


def by_hand(table, column, factor):
    total = 0.0
    for number in IDS:
        one = table[table["mascon_id"] == number].sort_values("month")
        total = total + one[column].to_numpy() * factor(number)
    return total


def test_gravity_is_the_sum_of_the_selected_mascons(world, totals):
    expected = by_hand(world["mass"], "mass_gt", lambda _: 1.0)
    np.testing.assert_allclose(series(totals, "gravity").to_numpy(), expected)
    assert np.isnan(expected[5])


def test_sigma_of_independent_and_of_fully_correlated_mascons(world, totals):
    sigma = totals[totals["source"] == "gravity"]["mass_sigma_gt"].iloc[0]
    parts = np.array([5.6 * (100_000 - 10_000 * i) * 1e-5 for i in range(3)])
    assert sigma == pytest.approx(np.sqrt((parts**2).sum()))
    wide = ApplicationSettings(mass_correlation_km=1e9)
    together = sum_totals(world["fusion"], world["mass"], world["mascons"], wide)
    assert together["mass_sigma_gt"].iloc[0] == pytest.approx(parts.sum(), rel=1e-5)


def test_sigma_of_correlated_mascons_is_that_of_planted_noise(world):
    """Mascon errors drawn with exp(−distance/L) scatter the total by its σ; so does a change."""
    chosen = world["mascons"][world["mascons"]["selected"]].sort_values("mascon_id")
    lon, lat = (np.radians(chosen[c].to_numpy()) for c in ("longitude", "latitude"))
    xyz = np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    chord = np.linalg.norm(xyz[:, None] - xyz[None], axis=2)
    kilometres = 2 * 6371.0 * np.arcsin(chord / 2)
    sigma = np.array([5.6, 5.04, 4.48])
    covariance = np.exp(-kilometres / 800.0) * np.outer(sigma, sigma)
    months = month_range("1900-01", "2199-12")
    noise = np.random.default_rng(8).multivariate_normal(np.zeros(3), covariance, months.size)
    mass = pd.DataFrame(
        {
            "mascon_id": np.tile(IDS, months.size),
            "month": np.repeat(months, 3),
            "mass_gt": noise.ravel(),
            "mass_sigma_gt": np.tile(sigma, months.size),
        }
    )
    settings = ApplicationSettings(mass_correlation_km=800)
    total = sum_totals(world["fusion"], mass, world["mascons"], settings)
    gravity = total[total["source"] == "gravity"]
    expected = np.sqrt(covariance.sum())
    np.testing.assert_allclose(gravity["mass_sigma_gt"], expected, rtol=1e-6)
    assert gravity["mass_gt"].std() == pytest.approx(expected, rel=0.04)
    change = gravity["mass_change_sigma_gt"]
    np.testing.assert_allclose(change[1:], np.sqrt(2) * expected, rtol=1e-6)
    assert gravity["mass_change_gt"].std() == pytest.approx(change.iloc[-1], rel=0.04)
    assert np.isnan(change.iloc[0])
    inside = (gravity["mass_gt"].abs() < 2 * gravity["mass_sigma_gt"]).mean()
    assert 0.94 < inside < 0.97


def test_a_shift_of_baseline_leaves_sigma_and_changes_alone(world, totals):
    """Gravity on another baseline moves altimetry's level, nothing else."""
    mass = world["mass"].assign(mass_gt=world["mass"]["mass_gt"] + 1000.0)
    moved = sum_totals(world["fusion"], mass, world["mascons"], SETTINGS)
    for source in ("altimetry_850", "altimetry_fitted", "gravity"):
        one, other = (t[t["source"] == source].reset_index(drop=True) for t in (totals, moved))
        np.testing.assert_allclose(other["mass_gt"] - one["mass_gt"], np.where(
            one["mass_gt"].isna(), np.nan, 3000.0), rtol=1e-9)  # fmt: skip
        for name in ("mass_sigma_gt", "mass_change_gt", "mass_change_sigma_gt"):
            np.testing.assert_allclose(other[name], one[name], rtol=1e-6, atol=1e-8)


def test_altimetry_is_volume_times_density_on_gravitys_baseline(world, totals):
    volume = by_hand(world["fusion"], "dh_m", lambda n: ICE[n] * 1e-3)
    gravity = by_hand(world["mass"], "mass_gt", lambda _: 1.0)
    common = np.isfinite(gravity)
    mass = volume * 0.917
    expected = mass - mass[common].mean() + gravity[common].mean()
    np.testing.assert_allclose(series(totals, "altimetry_917").to_numpy(), expected)


def test_sigma_stays_positive_where_the_fitted_density_is_not(world):
    mass = world["mass"].assign(mass_gt=-world["mass"]["mass_gt"])
    table = sum_totals(world["fusion"], mass, world["mascons"], SETTINGS)
    fitted = table[table["source"] == "altimetry_fitted"]
    assert (fitted["density_kg_m3"] < 0).all()
    assert (fitted["mass_sigma_gt"].dropna() > 0).all() and fitted["mass_sigma_gt"].notna().any()


def test_fitted_density_is_the_planted_one(world, totals):
    density = totals.loc[totals["source"] == "altimetry_fitted", "density_kg_m3"].iloc[0]
    assert density == pytest.approx(600, abs=10)
    volume = by_hand(world["fusion"], "dh_m", lambda n: ICE[n] * 1e-3)
    gravity = by_hand(world["mass"], "mass_gt", lambda _: 1.0)
    here = np.isfinite(gravity)
    assert density == pytest.approx(1e3 * np.polyfit(volume[here], gravity[here], 1)[0], rel=1e-3)
    row = totals[totals["source"] == "altimetry_fitted"].iloc[0]
    assert row["density_lower_kg_m3"] < 600 < row["density_upper_kg_m3"]
    chosen = totals[totals["source"] == "altimetry_850"]
    assert chosen["density_lower_kg_m3"].isna().all()
    # The fitted density is the one of the coupling table too.
    np.testing.assert_allclose(chosen["volume_km3"], volume)


def test_a_mascon_not_seen_in_a_month_follows_its_own_fit(world):
    table = world["fusion"].copy()
    june = table["month"] == pd.Timestamp("2020-06-01")
    hit = june & (table["mascon_id"] == 50)
    table.loc[hit, ["dh_m", "dh_sigma_m"]] = np.nan
    filled = follow_unseen(table)
    own = table[(table["mascon_id"] == 50) & ~june]
    days = (table["month"] + pd.offsets.MonthBegin(1) - table["month"]) / 2
    year = ((table["month"] + days) - pd.Timestamp("2000-01-01")).dt.total_seconds() / (
        365.2425 * 86400
    )
    model = table["rate_m_yr"] * year + table["amplitude_m"] * np.cos(
        2 * np.pi * year - table["phase_rad"]
    )
    apart = own["dh_m"] - model[own.index]
    assert filled.loc[hit, "dh_m"].item() == pytest.approx(model[hit].item() + apart.mean())
    assert filled.loc[hit, "dh_sigma_m"].item() == pytest.approx(
        np.sqrt(apart.var() + (own["dh_sigma_m"] ** 2).mean())
    )
    assert filled["followed"].sum() == 1
    total = sum_totals(table, world["mass"], world["mascons"], SETTINGS)
    row = total[(total["source"] == "altimetry_850") & (total["month"] == "2020-06-01")].iloc[0]
    assert np.isfinite(row["mass_gt"]) and row["n_mascons"] == 2


def test_a_mascon_without_a_fit_makes_the_altimetric_total_null(world):
    table = world["fusion"].copy()
    hit = table["mascon_id"] == 50
    table.loc[hit, ["dh_m", "dh_sigma_m", "rate_m_yr", "amplitude_m", "phase_rad"]] = np.nan
    total = sum_totals(table, world["mass"], world["mascons"], SETTINGS)
    assert total.loc[total["source"] == "altimetry_850", "mass_gt"].isna().all()
    assert series(total, "gravity").notna().any()


def test_an_unselected_mascon_does_not_count(world, totals):
    table = world["mass"].copy()
    table.loc[table["mascon_id"] == 90, "mass_gt"] = np.nan
    again = sum_totals(world["fusion"], table, world["mascons"], SETTINGS)
    pd.testing.assert_frame_equal(again, totals)


def test_monthly_change_only_between_consecutive_months(totals):
    gravity = totals[totals["source"] == "gravity"].sort_values("month")
    change, value = gravity["mass_change_gt"].to_numpy(), gravity["mass_gt"].to_numpy()
    assert np.isnan(change[[0, 5, 6]]).all()
    np.testing.assert_allclose(change[1:5], np.diff(value[:5]))


def test_a_month_without_rows_is_no_neighbour(world):
    mass = world["mass"][world["mass"]["month"] != pd.Timestamp("2021-01-01")]
    total = sum_totals(world["fusion"], mass, world["mascons"], SETTINGS)
    gravity = total[total["source"] == "gravity"].set_index("month")
    assert np.isnan(gravity.loc[pd.Timestamp("2021-02-01"), "mass_change_gt"])
    gap = gravity.loc[pd.Timestamp("2021-01-01")]
    assert gap["n_mascons"] == 0 and gap[["mass_gt", "mass_sigma_gt", "sea_level_mm"]].isna().all()


def test_sea_level_identity(totals):
    np.testing.assert_allclose(totals["sea_level_mm"], -totals["mass_gt"] / 361.8)
    np.testing.assert_allclose(totals["sea_level_sigma_mm"], totals["mass_sigma_gt"] / 361.8)
    np.testing.assert_allclose(totals["sea_level_change_mm"], -totals["mass_change_gt"] / 361.8)
    np.testing.assert_allclose(
        totals["sea_level_change_sigma_mm"], totals["mass_change_sigma_gt"] / 361.8
    )
    table = sea_level_trends(totals)
    np.testing.assert_allclose(table["sea_level_mm_yr"], -table["trend_gt_yr"] / 361.8)
    years = (table["end"].dt.year - table["start"].dt.year) + (
        table["end"].dt.month - table["start"].dt.month
    ) / 12
    np.testing.assert_allclose(table["sea_level_total_mm"], table["sea_level_mm_yr"] * years)


def test_trend_and_its_cycles_by_normal_equations():
    months = month_range("2010-01", "2019-12")
    t = year_fraction(month_middle(months))
    rng = np.random.default_rng(0)
    value = -250 * t + 90 * np.cos(2 * np.pi * t - 1) + 20 * np.sin(4 * np.pi * t)
    value = value + rng.normal(0, 20, t.size)
    value[[3, 40, 41]] = np.nan
    here = np.isfinite(value)
    w = 2 * np.pi * t[here]
    design = np.column_stack(
        [np.ones(here.sum()), t[here], np.cos(w), np.sin(w), np.cos(2 * w), np.sin(2 * w)]
    )
    expected = np.linalg.solve(design.T @ design, design.T @ value[here])[1]
    found = fit_trend(months, value)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert abs(found.value + 250) < 3 * found.sigma
    assert found.n == 117


def test_autocorrelation_widens_the_trends_sigma():
    months = month_range("2005-01", "2019-12")
    rng = np.random.default_rng(4)
    shocks = rng.normal(0, 1, months.size)
    red = np.zeros(months.size)
    for i in range(1, months.size):
        red[i] = 0.8 * red[i - 1] + shocks[i]
    white = rng.permutation(red)
    assert fit_trend(months, red).sigma > 2 * fit_trend(months, white).sigma


def test_sigma_covers_the_truth_on_red_noise():
    months = month_range("2012-01", "2019-12")
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        shocks = rng.normal(0, 1, months.size + 50)
        red = np.zeros(shocks.size)
        for i in range(1, shocks.size):
            red[i] = 0.6 * red[i - 1] + shocks[i]
        found = fit_trend(months, red[50:])
        hits += found.lower < 0 < found.upper
        assert found.upper - found.value == pytest.approx(found.value - found.lower)
    assert 0.88 < hits / 200 < 0.99


def test_interval_of_a_trend_difference_covers_at_quarters(totals):
    """23 quarters of two series that share their noise: only what differs widens the interval."""
    quarters = month_range("2019-01", "2024-07")[::3]
    rng = np.random.default_rng(11)
    years = year_fraction(quarters)
    shared = 300 * np.sin(years) + 50 * rng.standard_normal(quarters.size)
    hits, widths = 0, []
    for _ in range(150):
        noise = np.zeros(quarters.size)
        for i in range(1, noise.size):
            noise[i] = 0.4 * noise[i - 1] + rng.normal(0, 5)
        found = fit_trend(quarters, shared + 10 * years + noise - shared, quarters)
        hits += found.lower < 10 < found.upper
        widths.append(found.upper - found.lower)
    assert 0.88 < hits / 150 < 0.99
    assert np.median(widths) < 10


def test_short_records_have_no_trend_but_a_reason():
    months = month_range("2019-01", "2019-12")
    found = fit_trend(months, np.arange(12.0))
    assert np.isnan(found.value) and "12 values over 12 months" in str(found.reason)


def test_no_common_month_gives_nulls_with_a_reason(world):
    fusion = world["fusion"].assign(dh_m=np.nan, dh_sigma_m=np.nan)
    total = sum_totals(fusion, world["mass"], world["mascons"], SETTINGS)
    assert series(total, "altimetry_850").isna().all()
    np.testing.assert_allclose(
        series(total, "gravity").to_numpy(), by_hand(world["mass"], "mass_gt", lambda _: 1.0)
    )
    table = sea_level_trends(total)
    rows = table[table["source"] != "gravity"]
    assert rows["trend_gt_yr"].isna().all() and rows["reason"].str.contains("no month").all()
    for contract, made in ((TOTALS, total), (SEA_LEVEL, table)):
        check(from_pandas(made), contract)


def reference(values, months, quantity="mass", stamp="month", time=None):
    time = month_middle(months) if time is None else time
    frame = pd.DataFrame({"month": months, "time": time, "value": values, "sigma": np.nan})
    return Reference("Other", quantity, stamp, frame)


def test_comparison_with_a_shifted_and_tilted_series(world, totals):
    gravity = series(totals, "gravity")
    months = gravity.index.to_numpy()
    years = year_fraction(month_middle(months))
    theirs = gravity.to_numpy() + 500 + 10 * (years - years[0])
    table = compare_series(totals, [reference(theirs, months)])
    row = table[table["source"] == "gravity"].iloc[0]
    here = np.isfinite(theirs)
    difference = gravity.to_numpy()[here] - theirs[here]
    centred = difference - difference.mean()
    assert row["n"] == 74
    assert row["rmse_gt"] == pytest.approx(np.sqrt((centred**2).mean()))
    # Of the first twelve months one is a gap.
    assert row["bias_gt"] == pytest.approx(
        difference.mean() - difference[:11].mean()
    )  # one of twelve
    assert row["start"] == pd.Timestamp("2018-10-01")
    assert row["reference_trend_gt_yr"] - row["trend_gt_yr"] == pytest.approx(10, abs=1e-6)
    assert row["trend_difference_gt_yr"] == pytest.approx(-10, abs=1e-6)
    assert row["r"] == pytest.approx(np.corrcoef(gravity.to_numpy()[here], theirs[here])[0, 1])
    check(from_pandas(table), COMPARISON)


def test_instants_are_compared_with_the_mean_of_both_sides(totals):
    gravity = totals[totals["source"] == "gravity"]
    first = pd.DatetimeIndex(["2020-01-01", "2020-04-01", "2021-01-01"]).as_unit("us")
    table = reference(np.zeros(3), first.to_numpy(), stamp="instant", time=first.to_numpy()).frame
    both = match_series(gravity, table, "instant")
    value = gravity.set_index("month")["mass_gt"]
    pairs = [
        ("2019-12-01", "2020-01-01"),
        ("2020-03-01", "2020-04-01"),
        ("2020-12-01", "2021-01-01"),
    ]
    means = np.array([(value.loc[a] + value.loc[b]) / 2 for a, b in pairs])
    np.testing.assert_allclose(both["ours"], means - means.mean())


def test_volumes_are_compared_at_each_totals_density(totals):
    months = np.array(totals["month"].unique())
    quarters = months[month_index(months) % 3 == 0]
    volume = reference(np.linspace(0, -900, quarters.size), quarters, "volume", "instant", quarters)
    table = compare_series(totals, [volume])
    at = dict(zip(table["source"], table["reference_trend_gt_yr"], strict=True))
    assert at["altimetry_917"] / at["altimetry_850"] == pytest.approx(917 / 850)
    assert at["gravity"] == pytest.approx(at["altimetry_850"], rel=0.02)
    assert "Other at 917 kg/m³" in set(table["series"])


def test_no_reference_gives_an_empty_table(totals):
    table = compare_series(totals, [])
    assert check(from_pandas(table), COMPARISON).num_rows == 0


def test_too_few_common_months_give_nulls_and_a_reason(totals):
    months = month_range("2019-01", "2019-06")
    table = compare_series(totals, [reference(np.arange(6.0), months)])
    assert table["rmse_gt"].isna().all() and table["trend_difference_gt_yr"].isna().all()
    assert table["reason"].str.contains("common values").all()


def test_a_total_without_values_says_so_in_the_comparison(world):
    fusion = world["fusion"].assign(dh_m=np.nan, dh_sigma_m=np.nan)
    total = sum_totals(fusion, world["mass"], world["mascons"], SETTINGS)
    months = month_range("2019-01", "2022-12")
    table = compare_series(total, [reference(np.arange(48.0), months)])
    rows = table[table["source"] != "gravity"]
    assert (rows["reason"] == "the total has no value").all() and rows["start"].isna().all()
    check(from_pandas(table), COMPARISON)
