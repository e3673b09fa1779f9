"""The real ATL06 files: the reader and the filters against counts made with h5py and NumPy."""

from collections import defaultdict
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyogrio
import pytest
import shapely

from cryofuse.acquire.local import list_local
from cryofuse.atl06.granule import BEAMS, Area, read_granule
from cryofuse.atl06.product import parse_name
from cryofuse.atl06.quality import apply_filters
from cryofuse.atl06.subset import cut_granules
from cryofuse.calendar import period_bounds
from cryofuse.config import FilterSettings
from cryofuse.geo import project
from cryofuse.tables import SEGMENTS, check

pytestmark = pytest.mark.real

#: Every file: rows of each beam, None where the beam or its segments are absent.
ROWS = {
    "ATL06_20181014001049_02350102_001_01.h5": (924, 924, 957, 957, 492, 492),
    "ATL06_20181014001049_02350102_003_01.h5": (833, 833, 843, 843, 368, 368),
    "ATL06_20230816161508_08782002_006_02.h5": (1099, 1099, 1136, 1136, 1283, 1283),
    "processed_ATL06_20181128031527_09240105_001_01.h5": (None, None, 73, 73, 1668, 1690),
    "processed_ATL06_20181218132320_12360103_001_01.h5": (None, None, None, None, 880, 902),
    "processed_ATL06_20181226035130_13520105_001_01.h5": (None, None, 688, 687, None, None),
    "processed_ATL06_20190222155947_08580212_001_01.h5": (9481, 9449, 9300, 9301, 8024, 7943),
    "processed_ATL06_20190416093911_02770303_002_01.h5": (1838, 1838, 1360, 1355, 1408, 1372),
    "processed_ATL06_20190420093051_03380303_005_01.h5": (74, 73, 74, 73, 73, 74),
    "processed_ATL06_20190424092231_03990303_002_01.h5": (40, 42, 155, 158, 218, 219),
    "processed_ATL06_20190424220725_04070305_002_01.h5": (876, 875, 377, 373, 248, 245),
    "processed_ATL06_20190613065109_11610303_002_01.h5": (4152, 4119, 2846, 2811, 1624, 1588),
    "processed_ATL06_20190613193602_11690305_002_01.h5": (None, None, 185, 222, 1501, 1539),
    "processed_ATL06_20190621063429_12830303_002_01.h5": (284, 286, 347, 348, 454, 455),
    "processed_ATL06_20190621191922_12910305_002_01.h5": (188, 188, 169, 169, 176, 175),
    "processed_ATL06_20190625191102_13520305_002_01.h5": (26, 26, 24, 23, 6, 6),
}
CLEANEST = "processed_ATL06_20190613065109_11610303_002_01.h5"

#: Simple filters as METHODS states them: dataset, and what stays where it is given.
KEEP = {
    "quality_summary": ("atl06_quality_summary", lambda v: v == 0),
    "robust_spread": ("fit_statistics/h_robust_sprd", lambda v: v <= 1),
    "snr_significance": ("fit_statistics/snr_significance", lambda v: v <= 0.02),
    "along_track_slope": ("fit_statistics/dh_fit_dx", lambda v: np.abs(v) <= 0.2),
    "photon_count": ("fit_statistics/n_fit_photons", lambda v: v >= 10),
    "geolocation_sigma": ("sigma_geo_h", lambda v: v <= 1),
    "multiple_scattering": ("geophysical/msw_flag", lambda v: v <= 4),
    "cloud_flag": ("geophysical/cloud_flg_asr", lambda v: v <= 1),
    "blowing_snow": ("geophysical/bsnow_conf", lambda v: v <= 0),
    "effective_reflectance": ("geophysical/r_eff", lambda v: v >= 0.5),
}
SETTINGS = FilterSettings(
    cloud_flag_max=1, blowing_snow_max=0, effective_reflectance_min=0.5, ice_mask=False
)


@pytest.fixture(scope="module")
def folder(real_folder) -> Path:
    return real_folder / "atl06"


@pytest.fixture(scope="module")
def outline(real_folder):
    frame = pyogrio.read_dataframe(real_folder / "geometry" / "mouginot_gis_w_shelves.gpkg")
    polygon = shapely.union_all(frame.to_crs("EPSG:3413").geometry.to_numpy())
    shapely.prepare(polygon)
    return polygon


def beams_of(path):
    """Yield each beam's name and its segments by plain h5py, None where there are none."""
    with h5py.File(path, locking=False) as file:
        for name in BEAMS:
            group = file.get(name)
            yield name, None if group is None else group.get("land_ice_segments")


def plain(group, place):
    """Return a dataset as float64 with NaN for fill, None where there is none."""
    if place not in group:
        return None
    dataset = group[place]
    values = dataset[:].astype(float)
    if "_FillValue" in dataset.attrs:
        values[dataset[:] == np.ravel(dataset.attrs["_FillValue"])[0]] = np.nan
    return values


def totals(rows, kind):
    return {row["beam"]: row["rows_removed"] for row in rows if row["filter"] == kind}


def test_the_folder_holds_the_files_that_are_counted(folder):
    assert sorted(path.name for path in folder.glob("*.h5")) == sorted(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_every_beam_is_read_without_a_region(folder, name):
    table, ledger = read_granule(folder / name)
    assert check(table, SEGMENTS).num_rows == sum(filter(None, ROWS[name]))
    assert not [row for row in ledger if row["filter"] in ("unreadable", "name_mismatch")]
    frame = table.to_pandas()
    parsed = parse_name(name)
    for (beam, group), expected in zip(beams_of(folder / name), ROWS[name], strict=True):
        events = [row["filter"] for row in ledger if row["beam"] == beam]
        mine = frame[frame["beam"] == beam]
        if group is None:
            assert expected is None and len(mine) == 0
            assert events in (["no_beam"], ["no_segments"])
            continue
        height = plain(group, "h_li")
        assert len(mine) == group["latitude"].size == expected
        assert mine["height_m"].notna().sum() == np.isfinite(height).sum()
        assert np.array_equal(mine["height_m"], height, equal_nan=True)
        assert np.array_equal(mine["latitude"], group["latitude"][:])
        assert np.array_equal(mine["segment_id"], group["segment_id"][:])
        assert ("all_fill" in events) == (not np.isfinite(height).any())
        seconds = (mine["time"].to_numpy() - np.datetime64("2018-01-01")) / np.timedelta64(1, "us")
        assert np.abs(seconds / 1e6 - group["delta_time"][:]).max() < 1e-6
        # Names round to seconds; a region of the orbit takes a few minutes.
        late = (mine["time"].to_numpy() - parsed.start_time) / np.timedelta64(1, "m")
        assert -1 / 60 < late.min() <= late.max() < 25
        assert set(mine["rgt"]) == {parsed.rgt} and set(mine["cycle"]) == {parsed.cycle}
        for column, place in (
            ("height_sigma_m", "h_li_sigma"),
            ("dem_m", "dem/dem_h"),
            ("photon_count", "fit_statistics/n_fit_photons"),
            ("blowing_snow", "geophysical/bsnow_conf"),
        ):
            values = plain(group, place)
            given = 0 if values is None else np.isfinite(values).sum()
            assert mine[column].notna().sum() == given


def test_missing_beams_and_groups(folder):
    absent = "processed_ATL06_20190613193602_11690305_002_01.h5"
    _, ledger = read_granule(folder / absent)
    assert [row["beam"] for row in ledger if row["filter"] == "no_beam"] == ["gt1l", "gt1r"]
    for name, beams in ROWS.items():
        if name != absent and None in beams:
            _, ledger = read_granule(folder / name)
            empty = [row["beam"] for row in ledger if row["filter"] == "no_segments"]
            assert empty == [b for b, n in zip(BEAMS, beams, strict=True) if n is None]


def test_missing_datasets_are_null(folder):
    table, _ = read_granule(folder / "processed_ATL06_20190222155947_08580212_001_01.h5")
    for column in ("dem_m", "robust_spread_m", "multiple_scattering", "effective_reflectance"):
        assert table[column].null_count == table.num_rows
    assert table["quality_summary"].null_count == 0


@pytest.mark.parametrize("name", ROWS)
def test_rows_in_the_outline(folder, outline, name):
    table, ledger = read_granule(folder / name, region=Area(outline, "EPSG:3413", 1e5))
    kept = defaultdict(int)
    for row in table.select(["beam"]).to_pylist():
        kept[row["beam"]] += 1
    outside = totals(ledger, "outside_region")
    for beam, group in beams_of(folder / name):
        if group is None:
            assert kept[beam] == 0 and beam not in outside
            continue
        x_m, y_m = project(group["longitude"][:], group["latitude"][:], "EPSG:3413")
        inside = int(shapely.contains(outline, shapely.points(x_m, y_m)).sum())
        assert kept[beam] == inside
        assert outside.get(beam, 0) == len(x_m) - inside
    # No row is unaccounted for.
    read = sum(row["rows_in"] for row in ledger if row["filter"] == "read")
    assert read - sum(row["rows_removed"] for row in ledger) == table.num_rows


def inconsistent(place, tolerance=2):
    """Return segments (number to height and slope) whose ends meet no neighbour's height."""
    found = set()
    for number, (height, slope) in place.items():
        misses = [
            abs(height + side * 20 * slope - place[number + side][0])
            for side in (-1, 1)
            if number + side in place and np.isfinite(slope)
        ]
        if misses and min(misses) > tolerance:
            found.add(number)
    return found


def spikes(place):
    """Return segments far from the median of those within ten of them."""
    found = set()
    for number, (height, _) in place.items():
        near = [place[n][0] for n in range(number - 10, number + 11) if n in place]
        middle = np.median(near)
        spread = max(np.median(np.abs(near - middle)), 0.1)
        if len(near) > 10 and abs(height - middle) > 5 * spread:
            found.add(number)
    return found


def along_track(find, rows, number, height, slope):
    """Return the rows that a filter of neighbours rejects among those of a mask."""
    rows = rows & np.isfinite(height)
    place = {int(number[i]): (height[i], slope[i]) for i in np.flatnonzero(rows)}
    return rows & np.isin(number, sorted(find(place)))


@pytest.mark.parametrize("name", ROWS)
def test_each_filter_alone_and_in_order(folder, name):
    table, _ = read_granule(folder / name)
    kept, ledger = apply_filters(table, SETTINGS)
    found = {(row["beam"], row["filter"]): row for row in ledger}
    for beam, group in beams_of(folder / name):
        if group is None:
            continue
        height, sigma = plain(group, "h_li"), plain(group, "h_li_sigma")
        dem, slope = plain(group, "dem/dem_h"), plain(group, "fit_statistics/dh_fit_dx")
        rejected = {"finite_height": ~np.isfinite(height)}
        rejected["height_sigma"] = ~(sigma <= 1) if np.isfinite(sigma).any() else sigma > 1
        rejected["dem_difference"] = (
            np.zeros(len(height), bool) if dem is None else np.abs(height - dem) > 100
        )
        for rule, (place, stays) in KEEP.items():
            values = plain(group, place)
            if values is None:
                rejected[rule] = np.zeros(len(height), bool)
                assert found[beam, rule]["reason"] == "not_given"
            else:
                rejected[rule] = np.isfinite(values) & ~stays(values)
        alive = np.ones(len(height), bool)
        number = group["segment_id"][:]
        slope = np.full(len(height), np.nan) if slope is None else slope
        for rule in SETTINGS.order:
            if rule == "ice_mask":
                continue
            row = found[beam, rule]
            assert row["rows_in"] == alive.sum(), rule
            if rule in rejected:
                gone, alone = alive & rejected[rule], rejected[rule]
            else:
                find = {"along_track_consistency": inconsistent, "running_median": spikes}[rule]
                gone = along_track(find, alive, number, height, slope)
                everything = np.ones(len(height), bool)
                alone = along_track(find, everything, number, height, slope)
            assert row["rows_removed"] == gone.sum(), rule
            assert row["rows_alone"] == alone.sum(), rule
            alive &= ~gone
        if not np.isfinite(slope).any():
            assert found[beam, "along_track_consistency"]["reason"] == "not_given"
    gone = sum(row["rows_removed"] for row in ledger)
    assert table.num_rows - gone == kept.num_rows


def test_the_cleanest_granule(folder):
    table, _ = read_granule(folder / CLEANEST)
    quality = table["quality_summary"].to_numpy()
    assert table.num_rows == 17_140 and (quality == 0).sum() == 17_058
    kept, _ = apply_filters(table, FilterSettings(order=["quality_summary"]))
    assert kept.num_rows == 17_058


def test_two_releases_of_one_granule(folder):
    manifest = list_local(folder, *period_bounds("2018"))
    rows = manifest.to_pylist()
    assert len(rows) == 5
    assert [(row["granule"], row["superseded_by"]) for row in rows if row["superseded_by"]] == [
        ("ATL06_20181014001049_02350102_001_01.h5", "ATL06_20181014001049_02350102_003_01.h5")
    ]
    juneau = shapely.Point(*(float(v[0]) for v in project([-134.2], [58.8], "EPSG:3413")))
    area = Area(juneau.buffer(300_000), "EPSG:3413", 1e5)
    cut = list(cut_granules(manifest, area, max_unreadable_share=0.0))
    table = pa.concat_tables([part for part, _ in cut])
    assert table.num_rows == 4088
    assert set(table["granule"].to_pylist()) == {"ATL06_20181014001049_02350102_003_01.h5"}
    assert (np.array(table["beam"].to_pylist()) == "gt1l").sum() == 833


def test_files_outside_the_region_have_a_row_for_each_beam(folder, outline):
    area = Area(outline, "EPSG:3413", 1e5)
    for name in (
        "ATL06_20181014001049_02350102_003_01.h5",
        "ATL06_20230816161508_08782002_006_02.h5",
        "processed_ATL06_20190222155947_08580212_001_01.h5",
    ):
        table, ledger = read_granule(folder / name, region=area)
        assert table.num_rows == 0
        assert totals(ledger, "outside_region") == dict(zip(BEAMS, ROWS[name], strict=True))


def test_no_file_of_another_kind_is_taken_for_a_granule(real_folder):
    assert list_local(real_folder / "atl11", *period_bounds("2019")).num_rows == 0
    (path,) = (real_folder / "atl11").glob("*.h5")
    table, ledger = read_granule(path)
    assert table.num_rows == 0
    assert [(row["beam"], row["filter"]) for row in ledger] == [(None, "unreadable")]
