"""The mascon rule on the real-signal file in JPL's layout, against plain xarray and NumPy."""

import csv

import numpy as np
import pandas as pd
import pytest
import xarray

from cryofuse.config import ApplicationSettings, SelectSettings
from cryofuse.mascons import load_footprints, read_mascons, select_mascons
from cryofuse.products.sensitivity import weigh_choices

pytestmark = pytest.mark.real

#: Smallest ice fraction of land → mascons, and trend of the land sum (Gt/yr), as published with
#: the file.
STATED = {0.5: (24, -256), 0.25: (27, -263), 0.05: (31, -273)}


@pytest.fixture(scope="module")
def jpl_file(real_folder):
    return real_folder / "grace" / "JPL_MSCN_layout_greenland_200204_202408.nc"


@pytest.fixture(scope="module")
def fractions(real_folder):
    path = real_folder / "geometry" / "jpl_mascon_greenland_geometry.csv"
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    return {int(row["mascon_ID"]): float(row["ice_fraction_of_land"]) for row in rows}


@pytest.fixture(scope="module")
def table(jpl_file):
    facts = load_footprints("jpl_greenland")
    mascons, mass = read_mascons(str(jpl_file), "jpl", footprints=facts)
    known = facts.set_index("mascon_id")
    own = mascons["mascon_id"].to_numpy()
    mascons = pd.DataFrame(mascons.drop(columns="geometry")).assign(
        whole_ice_fraction=known["whole_ice_fraction"].reindex(own).to_numpy(),
        in_product_set=known["in_product_set"].reindex(own).to_numpy(),
        ice_fraction=np.nan,
        ice_area_km2=1.0,
    )
    mascons = select_mascons(mascons, SelectSettings())
    months = pd.date_range("2019-01-01", "2024-08-01", freq="MS").as_unit("us")
    # No granule: elevation of no month, so that gravity alone speaks.
    fusion = pd.MultiIndex.from_product([own, months], names=["mascon_id", "month"]).to_frame(
        index=False
    )
    empty = ("dh_m", "dh_sigma_m", "rate_m_yr", "amplitude_m", "phase_rad")
    fusion = fusion.assign(**dict.fromkeys(empty, np.nan))
    return weigh_choices(fusion, mass, mascons, SelectSettings(), ApplicationSettings())


@pytest.mark.parametrize("least", STATED)
def test_the_mascon_rule_gives_the_stated_trends(table, jpl_file, fractions, least):
    chosen = [number for number, fraction in fractions.items() if fraction >= least]
    count, stated = STATED[least]
    with xarray.open_dataset(jpl_file, decode_times=False) as file:
        land = (file["land_mask"] == 1) & file["mascon_ID"].isin(chosen)
        half, latitude = np.radians(0.25), np.radians(file["lat"])
        cell = 6371.0**2 * 2 * half * (np.sin(latitude + half) - np.sin(latitude - half))
        total = (file["lwe_thickness"] * land * cell * 1e-5).sum(("lat", "lon")).to_numpy()
        years = 2002 + file["time_bounds"].mean(file["time_bounds"].dims[1]).to_numpy() / 365.25
    line = np.polyfit(years, total, 1)[0]
    assert len(chosen) == count and line == pytest.approx(stated, abs=1)
    rows = table[(table["choice"] == f"ice_fraction_of_land >= {least:g}") & (table["n"] > 0)]
    row = rows[rows["source"] == "gravity"].iloc[0]
    assert row["n_mascons"] == count and row["n"] == years.size == 227
    assert row["configured"] == (least == 0.25)
    # Season and semi-annual cycle beside the line, and whole months: 1 Gt/yr apart at most.
    cycle = [f(2 * np.pi * k * years) for k in (1, 2) for f in (np.cos, np.sin)]
    design = np.column_stack([np.ones(years.size), years - years.mean(), *cycle])
    fitted = np.linalg.lstsq(design, total, rcond=None)[0][1]
    assert row["trend_gt_yr"] == pytest.approx(fitted, abs=1.0)
    assert row["trend_gt_yr"] == pytest.approx(stated, abs=2.5)
    assert row["sea_level_mm_yr"] == pytest.approx(-row["trend_gt_yr"] / 361.8)
    assert 0 < row["trend_sigma_gt_yr"] < 15


def test_the_products_own_set_is_that_of_27(table):
    own = table[(table["choice"] == "product_set") & (table["source"] == "gravity")].iloc[0]
    assert own["n_mascons"] == 27 and own["difference_gt_yr"] == pytest.approx(0.0, abs=3)
