"""The ATL11 reader against what was written, in both layouts."""

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from cryofuse.acquire.local import list_local
from cryofuse.atl06.filtering import filter_file
from cryofuse.atl06.granule import Area
from cryofuse.atl06.ledger import ledger_table
from cryofuse.atl06.quality import apply_filters
from cryofuse.atl06.report import report_filters
from cryofuse.atl06.subset import cut_granules
from cryofuse.atl06.tiles import write_by_tile
from cryofuse.atl11.granule import read_granule
from cryofuse.calendar import list_periods, period_bounds
from cryofuse.config import FilterSettings
from cryofuse.geo import project
from cryofuse.tables import SEGMENTS, check
from tests.atl11_files import NAME, PASSES, make_pair, write_atl11

AREA = Area(shapely.box(-3e6, -3e6, 3e6, 0), "EPSG:3413", 1e5)
EPOCH = np.datetime64("2018-01-01", "us")


def events(ledger, beam):
    return [
        (row["filter"], row["rows_in"], row["rows_removed"])
        for row in ledger
        if row["beam"] == beam
    ]


def adds_up(table, ledger):
    """Rows read minus rows removed are the rows returned, beam by beam."""
    for beam in ("pt1", "pt2", "pt3"):
        rows = [row for row in ledger if row["beam"] == beam]
        left = sum(r["rows_in"] for r in rows if r["filter"] == "read")
        left -= sum(r["rows_removed"] for r in rows)
        assert left == pc.sum(pc.equal(table["beam"], beam)).as_py() or (left == 0)
    return True


@pytest.mark.parametrize("prototype", [False, True])
def test_every_column_is_what_was_written(tmp_path, prototype):
    pair = make_pair(4)
    table, ledger = read_granule(write_atl11(tmp_path, {"pt2": pair}, prototype=prototype))
    frame = check(table, SEGMENTS).to_pandas()
    assert table.schema == SEGMENTS.empty().schema or table.schema.names == list(SEGMENTS.columns)
    # Cycle after cycle, points in the file's order.
    for name, place in (
        ("height_m", "h_corr"),
        ("snr_significance", "cycle_stats/min_snr_significance"),
        ("geolocation_sigma_m", "cycle_stats/sigma_geo_h"),
        ("cloud_flag", "cycle_stats/cloud_flg_asr"),
        ("blowing_snow", "cycle_stats/bsnow_conf"),
        ("effective_reflectance", "cycle_stats/r_eff"),
        ("quality_summary", "quality_summary"),
    ):
        assert frame[name].to_numpy(float) == pytest.approx(pair[place].T.ravel(), rel=1e-6), name
    for name, place in (
        ("latitude", "latitude"),
        ("longitude", "longitude"),
        ("segment_id", "ref_pt"),
        ("slope_along", "ref_surf/at_slope"),
        ("dem_m", "ref_surf/dem_h"),
    ):
        assert frame[name].to_numpy(float) == pytest.approx(np.tile(pair[place], 2), rel=1e-6), name
    assert frame["height_sigma_m"].to_numpy() == pytest.approx(0.05, rel=1e-6)
    seconds = (frame["time"].to_numpy() - EPOCH) / np.timedelta64(1, "s")
    assert seconds == pytest.approx(pair["delta_time"].T.ravel(), abs=1e-6)
    x_m, y_m = project(np.tile(pair["longitude"], 2), np.tile(pair["latitude"], 2), "EPSG:3413")
    assert frame["x_m"].to_numpy() == pytest.approx(x_m)
    assert frame["y_m"].to_numpy() == pytest.approx(y_m)
    assert frame["cycle"].tolist() == [3] * 4 + [4] * 4 and set(frame["rgt"]) == {123}
    assert set(frame["beam"]) == {"pt2"} and set(frame["granule"]) == {NAME}
    for name in ("photon_count", "robust_spread_m", "multiple_scattering"):
        assert frame[name].isna().all()
    assert events(ledger, "pt2") == [("read", 8, 0)]
    assert events(ledger, "pt1") == events(ledger, "pt3") == [("no_beam", 0, 0)]


@pytest.mark.parametrize("prototype", [False, True])
def test_fill_is_null_and_points_without_height_are_no_rows(tmp_path, prototype):
    height = make_pair(4)["h_corr"]
    height[0, 1] = height[2, 0] = np.nan
    sigma = np.full((4, 2), 0.04)
    sigma[1, 0] = np.nan
    flag = np.full((4, 2), 1.0)
    flag[3, 1] = np.nan
    pair = make_pair(
        4,
        h_corr=height,
        h_corr_sigma_systematic=sigma,
        cycle_stats__bsnow_conf=flag,
        ref_surf__dem_h=[1, 2, np.nan, 4],
        cycle_stats__r_eff=None,
    )
    table, ledger = read_granule(write_atl11(tmp_path, {"pt1": pair}, prototype=prototype))
    frame = table.to_pandas()
    assert frame["segment_id"].tolist() == [600_000, 600_003, 600_009, 600_003, 600_006, 600_009]
    assert frame["height_sigma_m"].isna().tolist() == [False, True] + [False] * 4
    assert frame["blowing_snow"].isna().tolist() == [False] * 5 + [True]
    assert frame["dem_m"].isna().tolist() == [False] * 4 + [True, False]
    assert frame["effective_reflectance"].isna().all()
    assert events(ledger, "pt1") == [("read", 8, 0), ("no_height", 8, 2)]


def test_formal_errors_alone_where_no_other_is_given(tmp_path):
    path = write_atl11(tmp_path, {"pt1": make_pair(h_corr_sigma_systematic=None)})
    assert read_granule(path)[0]["height_sigma_m"].to_numpy() == pytest.approx(0.03)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_point_and_cycle_belongs_to_one_period(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    passes = 39_800_000.25 + np.arange(6) * 90.82 * 86_400
    # Some passes begin in one month and end in the next, some cycles are empty.
    passes[rng.integers(6)] = (np.datetime64("2019-09-01") - EPOCH) / np.timedelta64(1, "s")
    pair = make_pair(9, passes)
    pair["delta_time"] += (np.arange(9)[:, np.newaxis] - 4) * 60
    gone = rng.random((9, 6)) < 0.3
    gone[:, rng.integers(6)] = True
    pair["h_corr"][gone] = np.nan
    pair["delta_time"][gone] = np.nan
    folder = tmp_path_factory.mktemp("atl11")
    path = write_atl11(folder, {"pt1": pair}, name="ATL11_012303_0308_006_02.h5")
    whole, _ = read_granule(path)
    assert whole.num_rows == (~gone).sum()
    parts, read, no_height = [], 0, 0
    for period in list_periods("2019-03", "2020-12", "month"):
        manifest = list_local(folder, *period_bounds(period), "atl11")
        for part, ledger in cut_granules(manifest, AREA, 0.0, "atl11", period_bounds(period)):
            assert adds_up(part, ledger)
            months = pc.strftime(part["time"], "%Y-%m").to_pylist()
            assert set(months) <= {period}
            parts.append(part)
            here = dict((kind, (n, m)) for kind, n, m in events(ledger, "pt1"))
            read += here.get("read", (0, 0))[0]
            no_height += here.get("no_height", (0, 0))[1]
            assert here.get("read", (0, 0))[0] + here.get("outside_period", (0, 0))[0] == 54
    assert (read, no_height) == (54, gone.sum())
    joined = pa.concat_tables(parts).to_pandas()[["cycle", "segment_id", "height_m"]]
    expected = whole.to_pandas()[["cycle", "segment_id", "height_m"]]
    key = ["cycle", "segment_id"]
    assert joined.sort_values(key).to_numpy().tolist() == (
        expected.sort_values(key).to_numpy().tolist()
    )


def test_a_point_without_a_time_belongs_to_the_month_of_its_pass(tmp_path):
    # Ten days later than track and cycle say, and in another month.
    pair = make_pair(5, PASSES + 25 * 86_400)
    for name in ("h_corr", "delta_time"):
        pair[name][2, 0] = np.nan
    path = write_atl11(tmp_path, {"pt1": pair})
    may = read_granule(path, period=period_bounds("2019-05"))
    assert events(may[1], "pt1") == [("outside_period", 5, 0), ("read", 5, 0), ("no_height", 5, 1)]
    assert may[0].num_rows == 4
    april = read_granule(path, period=period_bounds("2019-04"))
    assert events(april[1], "pt1") == [("outside_period", 10, 0)] and april[0].num_rows == 0


def test_fill_is_known_by_its_size_where_the_file_does_not_say(tmp_path):
    pair = make_pair(4)
    pair["h_corr"][1, 0] = np.nan
    pair["quality_summary"][0, 1] = np.nan
    path = write_atl11(tmp_path, {"pt1": pair})
    with h5py.File(path, "a") as file:
        for name in ("h_corr", "quality_summary"):
            del file[f"pt1/{name}"].attrs["_FillValue"]
    table, ledger = read_granule(path)
    assert events(ledger, "pt1") == [("read", 8, 0), ("no_height", 8, 1)]
    assert table["quality_summary"].null_count == 1


def test_a_subset_is_sorted_by_pair_cycle_and_point(tmp_path):
    turned = make_pair(4)
    for name in ("ref_pt", "latitude", "longitude", "ref_surf/at_slope", "ref_surf/dem_h"):
        turned[name] = turned[name][::-1]
    write_atl11(tmp_path, {"pt1": make_pair(4), "pt3": turned})
    year = period_bounds("2019")
    (cut,) = cut_granules(list_local(tmp_path, *year, "atl11"), AREA, 0.0, "atl11", year)
    rows = cut[0].to_pandas()[["beam", "cycle", "segment_id"]].astype({"beam": str})
    assert rows.to_numpy().tolist() == sorted(rows.to_numpy().tolist())
    assert len(rows) == 16


def test_periods_add_up_in_the_filter_report(tmp_path):
    write_atl11(tmp_path, {"pt1": make_pair(9), "pt3": make_pair(4)})
    ledgers = []
    for period in ("2019-04", "2019-05", "2019-07"):
        manifest = list_local(tmp_path, *period_bounds(period), "atl11")
        (cut,) = cut_granules(manifest, AREA, 0.0, "atl11", period_bounds(period))
        _, filtered = apply_filters(cut[0], FilterSettings(order=["finite_height"]))
        ledgers.append((period, ledger_table(cut[1] + filtered, period)))
    report = report_filters(ledgers).set_index(["period", "filter"])
    assert report.loc[("all", "read"), "rows_in"] == 26
    assert report.loc[("2019-05", "read"), "rows_in"] == 0
    assert report.loc[("all", "finite_height"), "kept_percent"] == 100
    assert report.loc[("2019-05", "outside_period"), "rows_removed"] == 0


def test_region_and_repeated_numbers_and_missing_values_are_counted(tmp_path):
    pair = make_pair(6)
    pair["latitude"][0] = -75.0
    pair["latitude"][1] = np.nan
    pair["ref_pt"] = pair["ref_pt"].astype(float)
    pair["ref_pt"][2] = np.nan
    pair["delta_time"][3, 0] = np.nan
    pair["ref_pt"][5] = pair["ref_pt"][4]
    table, ledger = read_granule(write_atl11(tmp_path, {"pt1": pair}), region=AREA)
    assert events(ledger, "pt1") == [
        ("read", 12, 0),
        ("outside_region", 12, 2),
        ("incomplete", 10, 5),
        ("duplicate_segment", 5, 2),
    ]
    assert table["segment_id"].to_pylist() == [600_012, 600_009, 600_012]
    assert adds_up(table, ledger)


def test_a_pair_full_of_fill_and_one_without_points(tmp_path):
    full = make_pair(3, h_corr=np.full((3, 2), np.nan))
    path = write_atl11(tmp_path, {"pt1": full, "pt2": make_pair(0), "pt3": make_pair(2)})
    table, ledger = read_granule(path)
    assert table.num_rows == 4
    assert events(ledger, "pt1") == [("read", 6, 0), ("all_fill", 6, 0), ("no_height", 6, 6)]
    assert events(ledger, "pt2") == [("no_segments", 0, 0)]
    path = write_atl11(tmp_path, {"pt1": None})
    assert events(read_granule(path)[1], "pt1") == [("no_segments", 0, 0)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"delta_time": None}, "no dataset delta_time"),
        ({"h_corr": np.zeros((3, 5))}, "h_corr has shape"),
        ({"ref_pt": np.zeros(4)}, "ref_pt has shape"),
        ({"cycle_number": [3, np.nan]}, "cycle_number is fill"),
    ],
)
def test_a_broken_pair_leaves_the_others(tmp_path, change, reason):
    path = write_atl11(tmp_path, {"pt1": make_pair(3, **change), "pt2": make_pair(3)})
    table, ledger = read_granule(path)
    assert set(table["beam"].to_pylist()) == {"pt2"} and table.num_rows == 6
    broken = [row for row in ledger if row["filter"] == "unreadable"]
    assert [row["beam"] for row in broken] == ["pt1"] and reason in broken[0]["reason"]


@pytest.mark.parametrize("content", [b"", b"<html>log in</html>", b"\x89HDF\r\n\x1a\n", b"text"])
def test_no_file_of_this_kind_is_a_row_of_the_ledger(tmp_path, content):
    path = tmp_path / NAME
    path.write_bytes(content)
    table, ledger = read_granule(path)
    assert table.num_rows == 0 and table.schema.names == list(SEGMENTS.columns)
    assert [(row["beam"], row["filter"]) for row in ledger] == [(None, "unreadable")]


def test_truncated_files_and_wrong_names(tmp_path):
    path = write_atl11(tmp_path, {"pt1": make_pair(3000)})
    whole = path.read_bytes()
    for share in (0.05, 0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        table, ledger = read_granule(path)
        assert table.num_rows == 0 and ledger[0]["filter"] == "unreadable"
    other = tmp_path / "ATL11_wrong.h5"
    other.write_bytes(whole)
    (row,) = read_granule(other)[1]
    assert row["filter"] == "unreadable" and "not an ATL11 name" in row["reason"]


def test_a_track_that_is_not_the_names_is_told(tmp_path):
    path = write_atl11(tmp_path, {"pt1": make_pair(2)}, rgt=124)
    table, ledger = read_granule(path)
    assert events(ledger, "pt1")[0] == ("name_mismatch", 0, 0)
    assert "124 in the file, 123 in its name" in ledger[0]["reason"]
    assert set(table["rgt"].to_pylist()) == {123}


def test_only_the_columns_asked_for(tmp_path):
    path = write_atl11(tmp_path, {"pt1": make_pair(2)})
    assert read_granule(path, ["cycle", "height_m"])[0].column_names == ["height_m", "cycle"]
    with pytest.raises(ValueError, match="nonsense"):
        read_granule(path, ["nonsense"])


def test_an_older_file_steps_in_for_a_broken_one(tmp_path):
    write_atl11(tmp_path, {"pt1": make_pair(3)}, name="ATL11_012303_0304_005_01.h5")
    (tmp_path / "ATL11_012303_0310_006_01.h5").write_bytes(b"")
    year = period_bounds("2019")
    (cut,) = cut_granules(list_local(tmp_path, *year, "atl11"), AREA, 0.0, "atl11", year)
    assert cut[0].num_rows == 6
    assert [r["granule"] for r in cut[1] if r["filter"] == "unreadable"] == [
        "ATL11_012303_0310_006_01.h5"
    ]


def test_two_passes_of_one_file_are_no_spikes_of_each_other(tmp_path):
    # Points as dense as segments, and ten metres between the cycles.
    pair = make_pair(60, ref_pt=600_000 + np.arange(60))
    pair["h_corr"][:, 1] -= 10.0
    pair["h_corr"][30, 0] += 20.0
    year = period_bounds("2019")
    write_atl11(tmp_path, {"pt1": pair})
    (cut,) = cut_granules(list_local(tmp_path, *year, "atl11"), AREA, 0.0, "atl11", year)
    write_by_tile([cut[0]], tmp_path / "subset.parquet", 1e5)
    order = ["finite_height", "along_track_consistency", "running_median"]
    rows = filter_file(
        tmp_path / "subset.parquet",
        tmp_path / "filtered.parquet",
        FilterSettings(order=order),
        1e5,
    )
    removed = {row["filter"]: row["rows_removed"] for row in rows}
    assert removed == {"finite_height": 0, "along_track_consistency": 1, "running_median": 0}
    assert {row["rows_alone"] for row in rows if row["filter"] == "running_median"} == {1}


def test_the_passes_of_the_tests_are_those_of_the_track():
    from cryofuse.atl11.product import pass_time

    for cycle, seconds in zip((3, 4), PASSES, strict=True):
        away = pass_time(123, cycle) - EPOCH - np.timedelta64(int(seconds), "s")
        assert abs(away) < np.timedelta64(2, "D")
