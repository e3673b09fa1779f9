"""The whole sheet's coupling on published series, against a second way of computing it."""

import csv
from datetime import date

import netCDF4
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

from cryofuse.config import ApplicationSettings, CouplingSettings
from cryofuse.mascons import load_footprints, read_mascons
from cryofuse.products.reference import read_atl15_volume, read_jpl_text
from cryofuse.products.sheet import couple_sheet
from cryofuse.products.totals import sum_totals

pytestmark = pytest.mark.real

#: A solution's midpoint that far from an instant (years) belongs to a month beside it.
NEAR_YEARS = 0.09


@pytest.fixture(scope="module")
def volume(real_folder):
    """Decimal years, volume and σ of Greenland's ATL15 epochs."""
    path = real_folder / "reference" / "atl15_v5_integrated_volume.csv"
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["ice_sheet"] == "greenland"]
    years = []
    for row in rows:
        day = date.fromisoformat(row["epoch_date"])
        years.append(day.year + (day - date(day.year, 1, 1)).days / 365.25)
    columns = ("value_km3", "uncertainty_correlated_km3")
    return np.array(years), *(np.array([float(row[c]) for row in rows]) for c in columns)


@pytest.fixture(scope="module")
def official(real_folder):
    """Decimal years, mass and σ of JPL's own series."""
    path = real_folder / "reference" / "greenland_mass_200204_202408.txt"
    return np.loadtxt(path, comments="HDR").T


@pytest.fixture(scope="module")
def mascon_file(real_folder):
    return real_folder / "grace" / "JPL_MSCN_layout_greenland_200204_202408.nc"


@pytest.fixture(scope="module")
def own_27(real_folder):
    path = real_folder / "geometry" / "jpl_mascon_greenland_geometry.csv"
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    return [int(row["mascon_ID"]) for row in rows if row["in_greenland_set"] == "1"]


@pytest.fixture(scope="module")
def land_sum(mascon_file, own_27):
    """Decimal years and land sum of JPL's 27 mascons, cell by cell; σ mascon by mascon."""
    with netCDF4.Dataset(mascon_file) as file:
        file.set_auto_mask(False)
        number, land = file["mascon_ID"][:], file["land_mask"][:] == 1
        years = 2002 + file["time_bounds"][:].mean(axis=1) / 365.25
        lwe, sigma, lat = file["lwe_thickness"][:], file["uncertainty"][:], file["lat"][:]
    band = 6371.0**2 * np.radians(0.5) * 2 * np.cos(np.radians(lat)) * np.sin(np.radians(0.25))
    weight = land * band[:, None] * 1e-5
    total, variance = np.zeros(years.size), np.zeros(years.size)
    for one in own_27:
        cells = np.where(number == one, weight, 0.0)
        total += (lwe * cells).sum(axis=(1, 2))
        variance += (np.where(number == one, sigma, 0.0).max(axis=(1, 2)) * cells.sum()) ** 2
    return years, total, np.sqrt(variance)


def by_hand(volume, mass):
    """Pairs of an epoch's volume and the mean of the solutions before and after it."""
    pairs = []
    for year, value, sigma in zip(*volume, strict=True):
        before = np.flatnonzero((mass[0] < year) & (mass[0] > year - NEAR_YEARS))
        after = np.flatnonzero((mass[0] >= year) & (mass[0] < year + NEAR_YEARS))
        if before.size and after.size:
            two = [before[-1], after[0]]
            pairs.append([year, value, sigma, mass[1][two].mean(), np.hypot(*mass[2][two]) / 2])
    return np.array(pairs).T


def detrended(years, values):
    return values - np.polyval(np.polyfit(years, values, 1), years)


def least_chi2(x, y, x_sigma, y_sigma):
    """Slope of the line through the origin of centred data with the least effective χ²."""

    def chi2(slope):
        weight = 1 / (y_sigma**2 + slope**2 * x_sigma**2)
        apart = y - slope * x
        return (weight * (apart - np.average(apart, weights=weight)) ** 2).sum()

    return minimize_scalar(chi2, bounds=(0, 3), method="bounded", options={"xatol": 1e-9}).x


def compare(rows, pairs):
    years, x, x_sigma, y, y_sigma = pairs
    for treatment, a, b in (
        ("raw", x - x.mean(), y - y.mean()),
        ("detrended", detrended(years, x), detrended(years, y)),
    ):
        row = rows.loc[treatment]
        assert row["n"] == years.size == 23 and row["step_months"] == 3
        assert row["r"] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=2e-3)
        assert row["density_ols_kg_m3"] == pytest.approx(1e3 * (a @ b) / (a @ a), rel=5e-3)
        slope = least_chi2(a, b, x_sigma, np.hypot(y_sigma, row["scatter_gt"]))
        assert row["density_kg_m3"] == pytest.approx(1e3 * slope, rel=5e-3)
        assert row["density_lower_kg_m3"] < row["density_kg_m3"] < row["density_upper_kg_m3"]
        assert 4 < row["n_effective"] < 23 and row["p"] < 0.05


def test_atl15_volume_with_jpls_own_mass(real_folder, volume, official):
    reference = real_folder / "reference"
    references = [
        read_atl15_volume(reference / "atl15_v5_integrated_volume.csv"),
        read_jpl_text(reference / "greenland_mass_200204_202408.txt"),
    ]
    empty = pd.DataFrame(
        {
            "source": pd.Series(dtype="str"),
            "month": pd.Series(dtype="datetime64[us]"),
            **{
                name: pd.Series(dtype=float)
                for name in ("mass_gt", "mass_sigma_gt", "volume_km3", "volume_sigma_km3")
            },
        }
    )
    table = couple_sheet(empty, references, CouplingSettings())
    rows = table[(table["volume"] == "ATL15 volume") & (table["mass"] == "JPL")]
    rows = rows.set_index("treatment")
    compare(rows, by_hand(volume, official))
    assert rows.loc["raw", "r"] == pytest.approx(0.92, abs=0.005)
    assert rows.loc["raw", "density_ols_kg_m3"] == pytest.approx(766, abs=4)
    assert rows.loc["detrended", "r"] == pytest.approx(0.815, abs=0.01)
    assert rows.loc["detrended", "density_ols_kg_m3"] == pytest.approx(388, abs=4)


def test_atl15_volume_with_the_total_of_the_mascon_file(
    real_folder, mascon_file, own_27, volume, land_sum
):
    mascons, mass = read_mascons(
        str(mascon_file), "jpl", footprints=load_footprints("jpl_greenland")
    )
    mascons = mascons.assign(selected=mascons["mascon_id"].isin(own_27), ice_area_km2=1.0)
    fusion = pd.DataFrame({"mascon_id": own_27[0], "month": mass["month"].unique()[-60:]}).assign(
        **dict.fromkeys(("dh_m", "dh_sigma_m", "rate_m_yr", "amplitude_m", "phase_rad"), np.nan)
    )
    totals = sum_totals(fusion, mass, mascons, ApplicationSettings())
    published = read_atl15_volume(real_folder / "reference" / "atl15_v5_integrated_volume.csv")
    table = couple_sheet(totals, [published], CouplingSettings())
    rows = table[table["volume"] == "ATL15 volume"].set_index("treatment")
    compare(rows, by_hand(volume, land_sum))
    assert rows.loc["raw", "r"] == pytest.approx(0.94, abs=0.01)
