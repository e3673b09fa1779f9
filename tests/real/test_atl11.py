"""The real ATL11 file, of the prototype's layout, against counts made with h5py and NumPy."""

import h5py
import numpy as np
import pyarrow.compute as pc
import pytest
import shapely

from cryofuse.acquire.local import list_local
from cryofuse.atl06.granule import Area
from cryofuse.atl06.quality import apply_filters
from cryofuse.atl06.subset import cut_granules
from cryofuse.atl11.granule import read_granule
from cryofuse.calendar import list_periods, period_bounds
from cryofuse.config import FilterSettings
from cryofuse.tables import SEGMENTS, check

pytestmark = pytest.mark.real

EPOCH = np.datetime64("2018-01-01", "us")
WEST_GREENLAND = Area(shapely.box(-4e5, -2.3e6, 0, -1.8e6), "EPSG:3413", 1e5)


@pytest.fixture(scope="module")
def path(real_folder):
    return real_folder / "atl11" / "ATL11_078805_0304_02_v002.h5"


@pytest.fixture(scope="module")
def plain(path):
    """The datasets of the pair track that the file holds, by name."""
    with h5py.File(path) as file:
        names = [f"corrected_h/{name}" for name in file["pt2/corrected_h"]]
        names += [f"cycle_stats/{name}" for name in ("sigma_geo_h", "r_eff", "bsnow_conf")]
        return {name.split("/")[1]: file[f"pt2/{name}"][()] for name in names}


def test_every_point_and_cycle_is_a_row(path, plain):
    table, ledger = read_granule(path)
    frame = check(table, SEGMENTS).to_pandas()
    assert plain["h_corr"].shape == (1404, 2) and np.isfinite(plain["h_corr"]).all()
    assert len(frame) == 2808
    assert [(r["beam"], r["filter"], r["rows_in"], r["rows_removed"]) for r in ledger] == [
        ("pt1", "no_beam", 0, 0),
        ("pt2", "read", 2808, 0),
        ("pt3", "no_beam", 0, 0),
    ]
    for cycle, column in ((3, 0), (4, 1)):
        own = frame[frame["cycle"] == cycle]
        assert own["segment_id"].to_numpy().tolist() == plain["ref_pt"].tolist()
        assert np.array_equal(own["latitude"], plain["latitude"])
        assert np.array_equal(own["longitude"], plain["longitude"])
        assert np.array_equal(own["height_m"], plain["h_corr"][:, column])
        seconds = (own["time"].to_numpy() - EPOCH) / np.timedelta64(1, "s")
        assert seconds == pytest.approx(plain["delta_time"][:, column], abs=1e-6)
        squares = plain["h_corr_sigma"] ** 2 + plain["h_corr_sigma_systematic"] ** 2
        sigma = own["height_sigma_m"].to_numpy()
        assert sigma == pytest.approx(np.sqrt(squares[:, column]), rel=1e-6, nan_ok=True)
        assert own["effective_reflectance"].to_numpy() == pytest.approx(
            plain["r_eff"][:, column], rel=1e-6
        )
        assert own["geolocation_sigma_m"].to_numpy() == pytest.approx(
            plain["sigma_geo_h"][:, column], rel=1e-6
        )
    assert frame["height_sigma_m"].isna().sum() == 2
    assert frame["blowing_snow"].isna().sum() == np.isnan(plain["bsnow_conf"]).sum() == 2
    # The slopes of the reference surface are null throughout the prototype.
    assert frame["slope_along"].isna().all() and frame["dem_m"].isna().all()
    assert set(frame["rgt"]) == {788} and set(frame["beam"]) == {"pt2"}


def test_the_surface_fell_by_086_m_from_cycle_3_to_4(path):
    frame = read_granule(path)[0].to_pandas()
    third, fourth = (frame[frame["cycle"] == c].set_index("segment_id") for c in (3, 4))
    dh = fourth["height_m"] - third["height_m"]
    assert len(dh) == 1404 and dh.median() == pytest.approx(-0.86, abs=0.005)


def test_times_agree_with_the_atl06_granules_behind_the_file(path):
    frame = read_granule(path)[0].to_pandas()
    with h5py.File(path) as file:
        texts = []
        file["METADATA"].visititems(
            lambda _, item: texts.extend(str(value) for value in item.attrs.values())
        )
    text = " ".join(texts)
    # Start of each granule's name; a granule of a region lasts less than nine minutes.
    for cycle, start in ((3, "2019-05-19T20:51:42"), (4, "2019-08-18T16:31:28")):
        digits = start.replace("-", "").replace("T", "").replace(":", "")
        assert f"ATL06_{digits}_07880{cycle}05" in text
        late = frame[frame["cycle"] == cycle]["time"] - np.datetime64(start)
        assert 0 < late.dt.total_seconds().min() < late.dt.total_seconds().max() < 540


@pytest.mark.parametrize(
    ("length", "expected"),
    [("month", {"2019-05": 1404, "2019-08": 1404}), ("year", {"2019": 2808})],
)
def test_rows_of_each_period_once(path, length, expected):
    found, listed = {}, []
    for period in list_periods("2018-10", "2020-12", length):
        bounds = period_bounds(period)
        manifest = list_local(path.parent, *bounds, "atl11")
        if manifest.num_rows:
            listed.append(period)
        for table, ledger in cut_granules(manifest, WEST_GREENLAND, 0.0, "atl11", bounds):
            counts = {r["filter"]: r["rows_in"] for r in ledger if r["beam"] == "pt2"}
            assert counts.get("read", 0) == table.num_rows
            assert counts.get("read", 0) + counts.get("outside_period", 0) == 2808
            if table.num_rows:
                found[period] = table.num_rows
                assert pc.min_max(table["time"])["min"].as_py() >= bounds[0].item()
    assert found == expected
    assert listed == ["2019"] if length == "year" else listed == [f"2019-0{m}" for m in range(5, 9)]


def test_filters_whose_columns_are_given_run_on_it(path, plain):
    table, _ = read_granule(path)
    kept, ledger = apply_filters(table, FilterSettings())
    costs = {row["filter"]: row for row in ledger}
    sigma = np.hypot(plain["h_corr_sigma"], plain["h_corr_sigma_systematic"])
    # The two points without a systematic error have no σ and go with those above the threshold.
    assert costs["height_sigma"]["rows_alone"] == (~(sigma <= 1.0)).sum() > 0
    assert costs["geolocation_sigma"]["rows_alone"] == (plain["sigma_geo_h"] > 1.0).sum() > 0
    assert costs["quality_summary"]["rows_alone"] == (plain["quality_summary"] > 0).sum() == 0
    for name in ("photon_count", "robust_spread", "multiple_scattering", "along_track_slope"):
        assert costs[name]["reason"] == "not_given" and costs[name]["rows_removed"] == 0
    bad = ~(sigma <= 1.0) | (plain["sigma_geo_h"] > 1.0)
    assert kept.num_rows == 2808 - bad.sum()


def test_a_region_elsewhere_takes_nothing(path):
    area = Area(shapely.box(1e6, 1e6, 2e6, 2e6), "EPSG:3413", 1e5)
    table, ledger = read_granule(path, region=area)
    assert table.num_rows == 0
    removed = {r["filter"]: r["rows_removed"] for r in ledger if r["beam"] == "pt2"}
    assert removed == {"read": 0, "outside_region": 2808}
