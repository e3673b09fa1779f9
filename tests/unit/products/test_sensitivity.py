"""What choices do to the mass: every rule summed by hand, the configured one first."""

import numpy as np
import pandas as pd
import pytest

from cryofuse.config import ApplicationSettings, SelectSettings
from cryofuse.products.sensitivity import weigh_choices
from cryofuse.tables import SENSITIVITY, check, from_pandas

#: Ice fractions of the four mascons are 0.8, 0.78, 0.75 and 0.71.
SETTINGS = ApplicationSettings(ice_fractions=[0.79, 0.7])
SELECT = SelectSettings(min=0.75)


@pytest.fixture(scope="module")
def table(world):
    return weigh_choices(world["fusion"], world["mass"], world["mascons"], SELECT, SETTINGS)


def slope(months, values):
    """Trend per year of a line through values with an annual and semi-annual cycle."""
    t = (months - pd.Timestamp("2020-01-01")).days / 365.2425
    waves = [f(2 * np.pi * k * t) for k in (1, 2) for f in (np.cos, np.sin)]
    design = np.column_stack([np.ones(len(t)), t, *waves])
    return np.linalg.lstsq(design, values, rcond=None)[0][1]


def test_table_keeps_its_contract_and_lists_every_rule(table):
    assert check(from_pandas(table), SENSITIVITY).num_rows == len(table)
    counts = table.groupby("choice", sort=False)["n_mascons"].first()
    assert counts.to_dict() == {
        "ice_fraction_of_land >= 0.75": 3,
        "ice_fraction_of_land >= 0.79": 1,
        "ice_fraction_of_land >= 0.7": 4,
        "product_set": 4,
        "another model of glacial isostatic adjustment": 3,
        "bedrock rises by 1 mm/yr under all the ice": 3,
    }
    own = set(table.loc[table["configured"] & (table["n"] > 0), "choice"])
    assert own == {"ice_fraction_of_land >= 0.75"}


@pytest.mark.parametrize(
    ("choice", "ids"),
    [("ice_fraction_of_land >= 0.79", [35]), ("product_set", [35, 50, 68, 90])],
)
def test_trends_are_those_of_the_mascons_the_rule_chooses(world, table, choice, ids):
    mass = world["mass"]
    sums = mass[mass["mascon_id"].isin(ids)].groupby("month")["mass_gt"].sum(min_count=len(ids))
    sums = sums.dropna()
    rows = table[(table["choice"] == choice) & (table["source"] == "gravity")]
    row = rows.loc[rows["n"].idxmax()]
    assert row["n"] == len(sums)
    middle = sums.index + (sums.index + pd.offsets.MonthBegin(1) - sums.index) / 2
    expected = slope(middle, sums.to_numpy())
    assert row["trend_gt_yr"] == pytest.approx(expected, rel=1e-3)
    assert row["sea_level_mm_yr"] == pytest.approx(-row["trend_gt_yr"] / 361.8)
    assert row["sea_level_sigma_mm_yr"] == pytest.approx(row["trend_sigma_gt_yr"] / 361.8)
    usual = table[table["configured"] & (table["source"] == "gravity") & (table["n"] > 0)]
    usual = usual.loc[usual["n"].idxmax(), "trend_gt_yr"]
    assert row["difference_gt_yr"] == pytest.approx(row["trend_gt_yr"] - usual)
    land = world["mascons"].set_index("mascon_id").loc[ids, "land_area_km2"].sum()
    assert row["land_area_km2"] == land


def test_altimetry_scales_with_its_density(table):
    own = table[(table["choice"] == "product_set") & table["source"].str.startswith("alti")]
    trend = own.set_index("source")["trend_gt_yr"]
    assert trend["altimetry_917"] / trend["altimetry_850"] == pytest.approx(917 / 850)
    assert trend["altimetry_fitted"] == pytest.approx(trend["altimetry_850"] * 600 / 850, rel=0.02)


def test_what_rebound_does_to_altimetry_is_told_and_to_gravity_is_not_guessed(table):
    rebound = table[table["n"] == 0].set_index("source")
    # 210 000 km² × 1 mm × 850 kg/m³.
    assert rebound.loc["altimetry", "difference_gt_yr"] == pytest.approx(0.1785)
    assert np.isnan(rebound.loc["gravity", "difference_gt_yr"])
    assert "removed by the product" in rebound.loc["gravity", "reason"]
    assert rebound[["start", "end"]].isna().all(axis=None) and not rebound["configured"].any()


def test_trends_of_other_months_are_not_compared(world):
    """Another rule's record with a gap inside has the same ends, and no difference."""
    mass = world["mass"].copy()
    # Mascon 90 is chosen by the wider rules alone.
    gap = (mass["mascon_id"] == 90) & (mass["month"] == pd.Timestamp("2021-06-01"))
    mass.loc[gap, "mass_gt"] = np.nan
    table = weigh_choices(world["fusion"], mass, world["mascons"], SELECT, SETTINGS)
    row = table[(table["choice"] == "product_set") & (table["source"] == "gravity")].iloc[0]
    assert np.isfinite(row["trend_gt_yr"]) and np.isnan(row["difference_gt_yr"])


def test_a_rule_named_twice_stands_once(world):
    settings = ApplicationSettings(ice_fractions=[0.75, 0.75])
    table = weigh_choices(world["fusion"], world["mass"], world["mascons"], SELECT, settings)
    assert not table.duplicated(["choice", "source", "start"]).any()


def test_of_basins_only_the_run_is_told(world):
    table = weigh_choices(
        world["fusion"], world["mass"], world["mascons"], SELECT, SETTINGS, "basin"
    )
    assert set(table.loc[table["n"] > 0, "choice"]) == {"ice_fraction_of_land >= 0.75"}
