"""The product of real mascons: what was observed is in it, and nothing is predicted."""

import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray

from cryofuse.config import SkillSettings
from cryofuse.learning import evaluate
from cryofuse.learning.months import NO_ALTIMETRY, predict_months
from cryofuse.mascons import load_footprints, read_mascons
from cryofuse.products.mass_change import (
    STATUS,
    build_dataset,
    describe_product,
    write_geopackage,
    write_netcdf,
)
from cryofuse.provenance import CITATIONS
from cryofuse.tables import PRODUCT_MONTHS, check, from_pandas
from tests.compliance import check_geometry, list_failures, list_faults

pytestmark = pytest.mark.real

FIRST, LAST = "2018-06-01", "2024-08-01"
OF_SHEET = 166


@pytest.fixture(scope="module")
def jpl_file(real_folder):
    return real_folder / "grace" / "JPL_MSCN_layout_greenland_200204_202408.nc"


@pytest.fixture(scope="module")
def product(jpl_file, tmp_path_factory):
    """Folder of the files, made of mascons without a single granule."""
    mascons, mass = read_mascons(str(jpl_file), "jpl", footprints=load_footprints("jpl_greenland"))
    # Where the ice lies is not asked here.
    mascons["ice_area_km2"] = mascons["land_area_km2"]
    mass = mass[(mass["month"] >= FIRST) & (mass["month"] <= LAST)]
    fusion = mass.assign(dh_m=np.nan, dh_sigma_m=np.nan)
    places = mascons[["mascon_id", "latitude", "longitude", "land_area_km2", "ice_area_km2"]]
    features = mass[["mascon_id", "month"]].merge(places, on="mascon_id")
    features["dh_m"] = np.nan
    for target, column in (("change", "mass_change_gt"), ("cumulative", "mass_gt")):
        features[f"target_{target}_cm"] = mass[column].to_numpy() / features["land_area_km2"] * 1e5
    settings = SkillSettings()
    scores, _ = evaluate(features, settings)
    months, models = predict_months(features, fusion, scores, settings)
    check(from_pandas(months), PRODUCT_MONTHS)
    assert set(months["reason"]) == {NO_ALTIMETRY}
    told = {"version": "0", "code": "0", "config": "0", "seed": 1, "coverage": 0.9}
    told |= {"source": "local", "citations": list(CITATIONS.values()), "models": models}
    gravimetry = {"product": "jpl", "release": mascons.attrs["release"]}
    folder = tmp_path_factory.mktemp("product")
    attributes = describe_product("Greenland", told, gravimetry, "atl06", [])
    write_netcdf(build_dataset(months, mascons, attributes), folder / "mass_change.nc")
    write_geopackage(months, mascons, "EPSG:3413", folder / "mass_change.gpkg")
    return folder


def test_the_file_of_what_was_observed_keeps_the_conventions(product):
    path = product / "mass_change.nc"
    assert list_faults(list_failures(path, "cf:1.11")) == []
    with netCDF4.Dataset(path) as file:
        check_geometry(file)
        assert np.isnan(file["predicted_mass"][:].filled(np.nan)).all()
        for name in ("no_altimetry", "no_predicted_mass", "no_predicted_change"):
            assert (file["status"][:] & STATUS[name]).all()


def test_observed_mass_is_the_files_own(product, jpl_file):
    with netCDF4.Dataset(jpl_file) as file:
        file.set_auto_mask(False)
        rows, columns = np.nonzero((file["mascon_ID"][:] == OF_SHEET) & (file["land_mask"][:] == 1))
        lwe = file["lwe_thickness"][:, rows[0], columns[0]]
        days = file["time"][:]
        lat = file["lat"][:][rows]
    half = np.radians(0.25)
    # Cells on the sphere, as in the other tests of real mascons.
    land_km2 = np.sum(6371.0**2 * np.radians(0.5) * 2 * np.cos(np.radians(lat)) * np.sin(half))
    middle = pd.Timestamp("2002-01-01") + pd.to_timedelta(days, unit="D")
    kept = middle >= FIRST
    expected = (lwe[kept] - lwe[kept][:12].mean()) * land_km2 * 1e-5
    with xarray.open_dataset(product / "mass_change.nc") as data:
        row = data.isel(mascon=int(np.flatnonzero(data["mascon_id"] == OF_SHEET)[0]))
        found = row["observed_mass"].to_numpy()
        absent = data["time"].to_numpy()[np.isnan(found)].astype("datetime64[M]")
        flagged = (row["status"].to_numpy() & STATUS["no_gravimetry"]) > 0
    assert [str(month) for month in absent] == ["2018-08", "2018-09"]
    assert (flagged == np.isnan(found)).all()
    np.testing.assert_allclose(found[~flagged], expected, rtol=5e-3, atol=0.05)
