"""Mascon readers on the real-signal files, against plain netCDF4 and NumPy."""

import csv

import netCDF4
import numpy as np
import pandas as pd
import pytest

from cryofuse.config import SelectSettings
from cryofuse.mascons import load_footprints, measure_ice, read_mascons, select_mascons

pytestmark = pytest.mark.real

EPOCH = np.datetime64("2002-01-01", "us")
#: Months without a solution: those of the product and those that the folder's README names.
ABSENT = (
    "2002-06 2002-07 2003-06 2004-07 2004-08 2004-09 2004-10 2011-01 2011-06 2012-04 2012-05 "
    "2012-06 2012-07 2012-10 2013-03 2013-08 2013-09 2014-02 2014-07 2014-12 2015-01 2015-02 "
    "2015-06 2015-10 2015-11 2016-04 2016-09 2016-10 2017-02 2017-07 2017-08 2017-09 2017-10 "
    "2017-11 2017-12 2018-01 2018-02 2018-03 2018-04 2018-05 2018-08 2018-09"
).split()


@pytest.fixture(scope="module")
def jpl_file(real_folder):
    return real_folder / "grace" / "JPL_MSCN_layout_greenland_200204_202408.nc"


@pytest.fixture(scope="module")
def jpl(jpl_file):
    return read_mascons(str(jpl_file), "jpl", footprints=load_footprints("jpl_greenland"))


@pytest.fixture(scope="module")
def own_27(real_folder):
    path = real_folder / "geometry" / "jpl_mascon_greenland_geometry.csv"
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    return [int(row["mascon_ID"]) for row in rows if row["in_greenland_set"] == "1"]


@pytest.fixture(scope="module")
def independent(jpl_file, own_27):
    """Time (years), and the land sum of JPL's own 27 (Gt), cell by cell on the sphere."""
    with netCDF4.Dataset(jpl_file) as file:
        file.set_auto_mask(False)
        lat, bounds = file["lat"][:], file["time_bounds"][:]
        use = np.isin(file["mascon_ID"][:], own_27) & (file["land_mask"][:] == 1)
        lwe = file["lwe_thickness"][:]
    half = np.radians(0.25)
    band = 6371.0**2 * np.radians(0.5) * 2 * np.cos(np.radians(lat)) * np.sin(half)
    weight = use * band[:, np.newaxis] * 1e-5
    return 2002 + bounds.mean(axis=1) / 365.25, (lwe * weight).sum(axis=(1, 2))


def _sum(mass, ids):
    return mass[mass["mascon_id"].isin(ids)].groupby("month")["mass_gt"].sum(min_count=len(ids))


def test_jpl_gives_31_mascons_and_a_nominal_month_to_each_of_227_solutions(jpl):
    mascons, mass = jpl
    assert len(mascons) == 31
    one = mass[mass["mascon_id"] == 166].set_index("month")
    held = one.index[one["lwe_cm"].notna()].strftime("%Y-%m").tolist()
    assert len(held) == len(set(held)) == 227
    assert {"2011-11", "2011-12", "2012-01", "2015-04", "2015-05", "2018-10", "2018-11"} <= set(
        held
    )
    assert one.index[one["lwe_cm"].isna()].strftime("%Y-%m").tolist() == ABSENT
    assert len(one) == 227 + len(ABSENT)
    assert mass.groupby("mascon_id")["lwe_cm"].count().eq(227).all()


def test_bounds_of_the_solutions_are_kept(jpl, jpl_file):
    with netCDF4.Dataset(jpl_file) as file:
        bounds = np.asarray(file["time_bounds"][:])
    one = jpl[1][jpl[1]["mascon_id"] == 17].dropna(subset=["lwe_cm"])
    day = np.timedelta64(86_400_000_000, "us")
    assert np.array_equal((one["solution_start"].to_numpy() - EPOCH) / day, bounds[:, 0])
    assert np.array_equal((one["solution_end"].to_numpy() - EPOCH) / day, bounds[:, 1])
    december = one[one["month"] == "2011-12-01"].iloc[0]
    assert str(december["solution_start"])[:10] == "2011-12-17"


def test_greenland_mass_is_the_cell_sum_and_falls_by_263_gt_a_year(jpl, own_27, independent):
    years, expected = independent
    assert len(own_27) == 27
    total = _sum(jpl[1], own_27)
    assert total.dropna().to_numpy() == pytest.approx(expected, rel=1e-6)
    assert np.polyfit(years, expected, 1)[0] == pytest.approx(-263, abs=1)
    held = jpl[1][jpl[1]["mascon_id"] == 17].dropna(subset=["lwe_cm"])
    middle = held["solution_start"] + (held["solution_end"] - held["solution_start"]) / 2
    time = (middle.to_numpy() - EPOCH) / np.timedelta64(1, "D") / 365.25
    assert np.polyfit(time, total.dropna().to_numpy(), 1)[0] == pytest.approx(-263, abs=1)
    year_2019 = total[pd.Timestamp("2020-01-01")] - total[pd.Timestamp("2019-01-01")]
    assert year_2019 == pytest.approx(-593, abs=30)


def test_greenland_mass_follows_the_official_series(jpl, own_27, independent, real_folder):
    reference = np.loadtxt(
        real_folder / "reference" / "greenland_mass_200204_202408.txt", comments="HDR"
    )
    years, expected = independent
    total = _sum(jpl[1], own_27).dropna().to_numpy()
    # January 2019 to January 2020 of the official series.
    at = [np.abs(reference[:, 0] - year).argmin() for year in (2019.04, 2020.04)]
    assert np.diff(reference[at, 1])[0] == pytest.approx(-593, abs=1)
    nearest = np.abs(years[:, np.newaxis] - reference[:, 0]).argmin(axis=1)
    near = np.abs(years - reference[nearest, 0]) < 0.02
    assert near.sum() >= 220
    for series in (total, expected):
        assert np.corrcoef(series[near], reference[nearest[near], 1])[0, 1] >= 0.999


def test_sigma_is_that_of_a_mascon_not_divided_by_cells(jpl, jpl_file):
    with netCDF4.Dataset(jpl_file) as file:
        file.set_auto_mask(False)
        sigma = file["uncertainty"][100][file["mascon_ID"][:] == 166]
    held = jpl[1][jpl[1]["mascon_id"] == 166].dropna(subset=["lwe_cm"])
    assert held["lwe_sigma_cm"].iloc[100] == sigma[0] == sigma[-1]


@pytest.mark.parametrize("outline", ["gris-outline-1980.gpkg", "mouginot_gis_w_shelves.gpkg"])
def test_ice_of_the_real_outline_is_shared_out_and_27_mascons_are_selected(
    jpl, real_folder, outline
):
    import geopandas

    ice = geopandas.read_file(real_folder / "geometry" / outline).to_crs("EPSG:3413").union_all()
    mascons = measure_ice(jpl[0], ice, "EPSG:3413", load_footprints("jpl_greenland"))
    whole = geopandas.GeoSeries([ice], crs="EPSG:3413").to_crs("EPSG:6931").area.iloc[0] / 1e6
    assert mascons["ice_area_km2"].sum() == pytest.approx(whole, rel=1e-3)
    for smallest, count in ((0.5, 24), (0.25, 27), (0.05, 31)):
        chosen = select_mascons(mascons, SelectSettings(min=smallest))["selected"]
        assert chosen.sum() == count
    # Interior mascons are all ice: fractions pass 1 only by sphere against ellipsoid.
    assert mascons["ice_fraction"].max() < 1.0095
    assert mascons.set_index("mascon_id")["ice_fraction"][[57, 58, 88, 124]].min() > 1.0


@pytest.fixture(scope="module")
def csr_files(real_folder):
    folder = real_folder / "grace"
    return (
        str(folder / "CSR_MSCN_layout_greenland_200204_202404.nc"),
        str(folder / "CSR_LandMask_layout_greenland.nc"),
    )


@pytest.fixture(scope="module")
def csr_cells(csr_files, real_folder, own_27):
    """Time (years), and lwe × area of the land cells inside JPL's own 27 boxes (Gt)."""
    path, mask = csr_files
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        lat, lon, bounds = (file[name][:] for name in ("lat", "lon", "time_bounds"))
        lwe = file["lwe_thickness"][:].astype(float)
    with netCDF4.Dataset(mask) as file:
        land = np.asarray(file["LO_val"][:]) == 1
    box = np.zeros(land.shape, bool)
    with (real_folder / "geometry" / "jpl_mascon_greenland_geometry.csv").open() as stream:
        for row in csv.DictReader(stream):
            if int(row["mascon_ID"]) in own_27:
                south, north, west, east = (
                    float(row[key]) for key in ("lat_s", "lat_n", "lon_w", "lon_e")
                )
                inside = (lat[:, None] > south) & (lat[:, None] < north)
                box |= inside & (lon > west) & (lon < east)
    half = np.radians(0.125)
    band = 6371.0**2 * np.radians(0.25) * 2 * np.cos(np.radians(lat)) * np.sin(half)
    weight = (box & land) * band[:, np.newaxis] * 1e-5
    return 2002 + bounds.mean(axis=1) / 365.25, np.einsum("tyx,yx->t", lwe, weight)


def test_csr_is_averaged_onto_stated_footprints_and_agrees(csr_files, csr_cells, own_27):
    path, mask = csr_files
    mascons, mass = read_mascons(path, "csr", mask, footprints=load_footprints("jpl_greenland"))
    assert mascons.attrs["unit"] == "derived"
    assert mascons.attrs["footprints"] == "the shipped table jpl_greenland"
    assert "DERIVED TEST FILE" in mascons.attrs["release"]
    assert len(mascons) == 31
    held = mass[mass["mascon_id"] == 166].dropna(subset=["lwe_cm"])
    assert len(held) == held["month"].nunique() == 231
    assert {"2011-11-01", "2015-05-01"} <= set(held["month"].dt.strftime("%Y-%m-%d"))
    years, expected = csr_cells
    assert np.polyfit(years, expected, 1)[0] == pytest.approx(-264, abs=3)
    total = _sum(mass, own_27).dropna().to_numpy()
    assert total == pytest.approx(expected, rel=1e-6, abs=1e-3)
    assert np.polyfit(years, total, 1)[0] == pytest.approx(-264, abs=3)


def test_csr_without_a_table_is_averaged_onto_cells_of_one_degree(csr_files):
    mascons, mass = read_mascons(*csr_files[:1], "csr", csr_files[1])
    assert mascons.attrs["unit"] == "derived"
    assert mascons.attrs["footprints"] == "equal-area cells of 1°"
    # No quarter-degree cell is a sample: an arc degree squared is 12 364 km².
    assert mascons["area_km2"].min() > 11_000 and mascons["area_km2"].max() < 14_000
    assert len(mascons) < 1000
    assert mass["mascon_id"].nunique() == len(mascons)


def test_jpl_numbers_and_boxes_are_those_of_the_rule(jpl_file):
    from cryofuse.mascons.jpl import place_bands

    bands = {int(row[0]): row[1:] for row in place_bands()}
    with netCDF4.Dataset(jpl_file) as file:
        ids, lat, lon = (np.asarray(file[name][:]) for name in ("mascon_ID", "lat", "lon"))
    for number in np.unique(ids[ids > 0]):
        rows, columns = np.nonzero(ids == number)
        south, north, west, east = bands[int(number)]
        assert lon[columns].min() - 0.25 == west and lon[columns].max() + 0.25 == east
        assert lat[rows].min() - 0.25 == south
        assert lat[rows].max() + 0.25 == min(north, lat.max() + 0.25)
