"""A planted rate and annual cycle in ATL11 files, recovered at the nodes."""

import numpy as np
import pytest
import shapely

from cryofuse.acquire.local import list_local
from cryofuse.atl06.filtering import filter_file
from cryofuse.atl06.granule import Area
from cryofuse.atl06.subset import cut_granules
from cryofuse.atl06.tiles import write_by_tile
from cryofuse.atl11.product import pass_time
from cryofuse.calendar import list_periods, month_middle, period_bounds, year_fraction
from cryofuse.config import (
    ElevationSettings,
    FilterSettings,
    FusionSettings,
    PeriodSettings,
    RegionSettings,
)
from cryofuse.elevation.tiles import fit_tile
from cryofuse.geo import project, tile_name, unproject
from tests.atl11_files import make_pair, write_atl11

CRS = "EPSG:3413"
X0, Y0 = (float(v) for v in project(-44, 70, CRS))
RATE_M_YR, AMPLITUDE_M, PHASE_RAD = -0.8, 0.3, 4.0
NOISE_M = 0.02
EPOCH = np.datetime64("2018-01-01", "us")
REGION = RegionSettings.model_validate(
    {
        "title": "planted",
        "crs": CRS,
        "outline": {"west": -44.1, "south": 69.97, "east": -43.9, "north": 70.03},
    }
)


def change(year):
    return RATE_M_YR * year + AMPLITUDE_M * np.cos(2 * np.pi * year - PHASE_RAD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve cycles of four tracks through a square of 10 km, three pairs each."""
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(3)
    along = np.arange(-6000, 6000, 60.0)
    for rgt, turn in ((100, 0.3), (400, 0.5), (700, 2.6), (1000, 2.9)):
        pairs = {}
        for number, across in enumerate((-2000.0, 0.0, 2000.0), 1):
            x_m = X0 + along * np.cos(turn) - across * np.sin(turn)
            y_m = Y0 + along * np.sin(turn) + across * np.cos(turn)
            longitude, latitude = unproject(x_m, y_m, CRS)
            times = [pass_time(rgt, cycle) for cycle in range(3, 15)]
            passes = [(time - EPOCH) / np.timedelta64(1, "s") for time in times]
            pair = make_pair(along.size, passes, latitude=latitude, longitude=longitude)
            surface = 1500 + 0.02 * (x_m - X0) - 0.01 * (y_m - Y0)
            year = year_fraction(EPOCH + (pair["delta_time"] * 1e6).astype("timedelta64[us]"))
            pair["h_corr"] = surface[:, np.newaxis] + change(year)
            pair["h_corr"] += rng.normal(0, NOISE_M, pair["h_corr"].shape)
            pair["h_corr"][rng.random(pair["h_corr"].shape) < 0.1] = np.nan
            pair["ref_surf/dem_h"] = surface
            pairs[f"pt{number}"] = pair
        write_atl11(folder, pairs, name=f"ATL11_{rgt:04d}03_0314_006_02.h5", rgt=rgt)
    return folder


def test_a_planted_rate_and_cycle_are_recovered(folder, tmp_path):
    area = Area(shapely.box(X0 - 2e4, Y0 - 2e4, X0 + 2e4, Y0 + 2e4), CRS, 1e5)
    paths, kept = [], 0
    for year in list_periods("2018-10", "2022-12", "year"):
        period = period_bounds(year)
        manifest = list_local(folder, *period, "atl11")
        source, target = tmp_path / f"subset{year}.parquet", tmp_path / f"{year}.parquet"
        parts = cut_granules(manifest, area, 0.0, "atl11", period)
        write_by_tile((table for table, _ in parts), source, area.tile_m)
        for row in filter_file(source, target, FilterSettings(), area.tile_m):
            kept += row["rows_in"] if row["filter"] == "finite_height" else -row["rows_removed"]
        paths.append(target)
    # Nine of ten points are there, and clean data pass the filters.
    assert kept == pytest.approx(0.9 * 4 * 3 * 12 * 200, rel=0.02)
    result = fit_tile(
        paths,
        tile_name(X0, Y0, area.tile_m),
        REGION,
        ElevationSettings(),
        FusionSettings(),
        PeriodSettings(start="2018-10", end="2022-12"),
    )
    fits = result.fits[result.fits["reason"].isna()]
    assert len(fits) > 30
    assert fits["rate_m_yr"].median() == pytest.approx(RATE_M_YR, abs=0.002)
    assert (fits["rate_m_yr"] - RATE_M_YR).abs().max() < 0.02
    assert fits["amplitude_m"].median() == pytest.approx(AMPLITUDE_M, abs=0.005)
    assert fits["phase_rad"].median() % (2 * np.pi) == pytest.approx(PHASE_RAD, abs=0.03)
    months = result.months.to_pandas() if hasattr(result.months, "to_pandas") else result.months
    seen = months.dropna(subset=["dh_m"])
    assert seen["month"].dt.to_period("M").nunique() > 30
    middle = year_fraction(month_middle(seen["month"].to_numpy()))
    zero = change(year_fraction(np.array(["2020-01-01"], "datetime64[us]")))
    # Node months are means over the passes of a month, not values at its middle.
    error = seen["dh_m"].to_numpy() - (change(middle) - zero)
    assert abs(np.median(error)) < 0.02 and np.sqrt(np.mean(error**2)) < 0.08
    pairs = result.checks.to_pandas()
    assert set(pairs["kind"]) == {"repeat"} and set(pairs["beam_first"]) == {"pt1", "pt2", "pt3"}
    assert pairs["residual_m"].abs().median() < 3 * NOISE_M
