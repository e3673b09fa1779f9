"""Filters against plain loops over rows."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryofuse.atl06.quality import apply_filters, find_inconsistent, find_spikes, replace_dem
from cryofuse.config import FilterSettings
from cryofuse.tables import SEGMENTS


def segments(rows=6, **change):
    """Good rows of one beam, some columns changed (None is null)."""
    values = {
        "tile": ["x0_y0"] * rows,
        "x_m": np.arange(rows) * 20.0,
        "y_m": np.zeros(rows),
        "latitude": np.full(rows, 72.0),
        "longitude": np.full(rows, -40.0),
        "height_m": np.full(rows, 1000.0),
        "height_sigma_m": np.full(rows, 0.02),
        "time": np.full(rows, np.datetime64("2020-01-01", "us")),
        "rgt": np.full(rows, 1),
        "cycle": np.full(rows, 3),
        "beam": ["gt1l"] * rows,
        "segment_id": np.arange(rows),
        "slope_along": np.zeros(rows),
        "dem_m": np.full(rows, 1001.0),
        "granule": ["a.h5"] * rows,
        "quality_summary": np.zeros(rows, int),
        "robust_spread_m": np.full(rows, 0.1),
        "snr_significance": np.zeros(rows),
        "photon_count": np.full(rows, 100),
        "geolocation_sigma_m": np.full(rows, 0.1),
        "multiple_scattering": np.zeros(rows, int),
        "cloud_flag": np.zeros(rows, int),
        "blowing_snow": np.zeros(rows, int),
        "effective_reflectance": np.full(rows, 0.8),
    }
    values |= change
    arrays = []
    for name, column in SEGMENTS.columns.items():
        array = pa.array(list(values[name]))
        if pa.types.is_dictionary(column.kind):
            array = array.dictionary_encode()
        arrays.append(array.cast(column.kind))
    return pa.table(arrays, schema=SEGMENTS.schema)


def cost(ledger, name):
    rows = [row for row in ledger if row["filter"] == name]
    return [(row["rows_in"], row["rows_removed"], row["rows_alone"]) for row in rows]


SIMPLE = [
    ("quality_summary", "quality_summary", [0, 1, 0, None, 1, 0], [0, 2, 3, 5]),
    ("height_sigma", "height_sigma_m", [0.5, 1.5, 1.0, None, 0.1, 0.2], [0, 2, 4, 5]),
    ("robust_spread", "robust_spread_m", [0.5, 1.5, 1.0, None, 0.1, 0.2], [0, 2, 3, 4, 5]),
    ("snr_significance", "snr_significance", [0.03, 0, 0, None, 0.01, 1], [1, 2, 3, 4]),
    ("along_track_slope", "slope_along", [0.3, -0.3, 0.1, None, -0.1, 0], [2, 3, 4, 5]),
    ("photon_count", "photon_count", [9, 10, 11, None, 0, 500], [1, 2, 3, 5]),
    ("geolocation_sigma", "geolocation_sigma_m", [0.9, 1.1, 5.0, None, 0, 1], [0, 3, 4, 5]),
    ("multiple_scattering", "multiple_scattering", [4, 5, -1, None, 0, 6], [0, 2, 3, 4]),
    ("dem_difference", "dem_m", [1000, 880, 1120, None, 901, 1099], [0, 3, 4, 5]),
    # Last: its column null throughout does remove, a segment without a height is of no use.
    ("finite_height", "height_m", [1, None, 2, np.nan, -1703, np.inf], [0, 2, 4]),
]


@pytest.mark.parametrize(("name", "column", "values", "kept"), SIMPLE)
def test_a_filter_of_one_column(name, column, values, kept):
    table, ledger = apply_filters(segments(**{column: values}), FilterSettings(order=[name]))
    assert table["segment_id"].to_pylist() == kept
    assert cost(ledger, name) == [(6, 6 - len(kept), 6 - len(kept))]
    assert ledger[0]["reason"] is None


OFF = {
    "cloud_flag": ({"cloud_flag_max": 1}, [0, 1, 2, None, 1, 5], [0, 1, 3, 4]),
    "blowing_snow": ({"blowing_snow_max": 0}, [-3, 1, 0, None, 6, 0], [0, 2, 3, 5]),
    "effective_reflectance": (
        {"effective_reflectance_min": 0.5},
        [0.6, 0.4, 0.5, None, 0, 2],
        [0, 2, 3, 5],
    ),
}


@pytest.mark.parametrize("name", OFF)
def test_filters_that_are_off_by_default(name):
    threshold, values, kept = OFF[name]
    table = segments(**{name: values})
    untouched, ledger = apply_filters(table, FilterSettings())
    assert untouched.num_rows == 6 and cost(ledger, name) == []
    filtered, _ = apply_filters(table, FilterSettings(**threshold))
    assert filtered["segment_id"].to_pylist() == kept


@pytest.mark.parametrize(("name", "column", "values", "kept"), SIMPLE[:-1])
def test_a_column_that_is_null_throughout_removes_nothing(name, column, values, kept):
    table, ledger = apply_filters(segments(**{column: [None] * 6}), FilterSettings(order=[name]))
    assert table.num_rows == 6
    assert [row["reason"] for row in ledger] == ["not_given"]


def test_a_null_threshold_turns_a_filter_off():
    off = FilterSettings(
        quality_summary_max=None, along_track_tolerance_m=None, running_median_segments=None
    )
    table, ledger = apply_filters(segments(quality_summary=[1] * 6), off)
    assert table.num_rows == 6
    names = {row["filter"] for row in ledger}
    assert not names & {"quality_summary", "along_track_consistency", "running_median"}


def test_order_decides_what_each_filter_removes():
    table = segments(quality_summary=[1, 1, 0, 0, 0, 0], height_sigma_m=[9, 0, 9, 0, 0, 0])
    for order, first, second in (
        (["quality_summary", "height_sigma"], (6, 2, 2), (4, 1, 2)),
        (["height_sigma", "quality_summary"], (6, 2, 2), (4, 1, 2)),
    ):
        kept, ledger = apply_filters(table, FilterSettings(order=order))
        assert kept["segment_id"].to_pylist() == [3, 4, 5]
        assert cost(ledger, order[0]) == [first] and cost(ledger, order[1]) == [second]


def test_beams_and_granules_are_counted_apart():
    table = pa.concat_tables(
        [
            segments(4, granule=["b.h5"] * 4, quality_summary=[0, 1, 1, 1]),
            segments(3, granule=["a.h5"] * 3, beam=["gt2r"] * 3, quality_summary=[None] * 3),
            segments(2, granule=["a.h5"] * 2, quality_summary=[1, 0]),
        ]
    )
    kept, ledger = apply_filters(table, FilterSettings(order=["quality_summary"]))
    assert kept.num_rows == 1 + 3 + 1
    assert [(r["granule"], r["beam"], r["rows_in"], r["rows_removed"]) for r in ledger] == [
        ("a.h5", "gt1l", 2, 1),
        ("a.h5", "gt2r", 3, 0),
        ("b.h5", "gt1l", 4, 3),
    ]
    assert [r["reason"] for r in ledger] == [None, "not_given", None]


def test_sigma_missing_in_one_row_of_a_beam_that_has_it():
    table = pa.concat_tables(
        [
            segments(3, height_sigma_m=[None, 0.1, 0.1]),
            segments(3, height_sigma_m=[None] * 3, beam=["gt1r"] * 3),
        ]
    )
    kept, _ = apply_filters(table, FilterSettings(order=["height_sigma"]))
    assert kept["segment_id"].to_pylist() == [1, 2, 0, 1, 2]


class _EastOf50:
    def contains(self, x_m, y_m):
        return x_m > 50


def test_the_ice_mask_is_asked():
    table = segments()
    kept, ledger = apply_filters(table, FilterSettings(order=["ice_mask"]), _EastOf50())
    assert kept["segment_id"].to_pylist() == [3, 4, 5]
    assert cost(ledger, "ice_mask") == [(6, 3, 3)]
    kept, ledger = apply_filters(table, FilterSettings(order=["ice_mask"]))
    assert kept.num_rows == 6 and ledger[0]["reason"] == "not_given"
    kept, ledger = apply_filters(table, FilterSettings(ice_mask=False), _EastOf50())
    assert kept.num_rows == 6 and cost(ledger, "ice_mask") == []


def test_no_rows_no_ledger():
    kept, ledger = apply_filters(SEGMENTS.empty(), FilterSettings())
    assert kept.num_rows == 0 and ledger == []


def test_one_outlier_goes_and_its_neighbours_stay():
    height = [1000.0] * 6
    height[3] = 1005.0
    kept, ledger = apply_filters(
        segments(height_m=height), FilterSettings(order=["along_track_consistency"])
    )
    assert kept["segment_id"].to_pylist() == [0, 1, 2, 4, 5]
    assert cost(ledger, "along_track_consistency") == [(6, 1, 1)]


def test_neighbours_are_those_that_earlier_filters_left():
    table = segments(3, height_m=[1000, 1005, 1000], quality_summary=[0, 1, 0])
    order = ["quality_summary", "along_track_consistency"]
    kept, ledger = apply_filters(table, FilterSettings(order=order))
    assert kept["segment_id"].to_pylist() == [0, 2]
    assert cost(ledger, "along_track_consistency") == [(2, 0, 3)]


def test_a_steep_slope_is_consistent_and_a_wrong_one_is_not():
    index = np.arange(6)
    steep = segments(height_m=1000 + 0.19 * 20 * index, slope_along=np.full(6, 0.19))
    only = FilterSettings(order=["along_track_consistency"])
    assert apply_filters(steep, only)[0].num_rows == 6
    flat = segments(height_m=1000 + 0.19 * 20 * index)
    assert apply_filters(flat, only)[0].num_rows == 0


def test_nothing_is_compared_across_a_gap_or_between_beams():
    only = FilterSettings(order=["along_track_consistency"])
    rough = [1000.0, 1010, 1000, 1010, 1000, 1010]
    gaps = segments(height_m=rough, segment_id=np.arange(6) * 2)
    assert apply_filters(gaps, only)[0].num_rows == 6
    beams = segments(height_m=rough, beam=["gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r"])
    assert apply_filters(beams, only)[0].num_rows == 6
    assert apply_filters(segments(height_m=rough), only)[0].num_rows == 0


def test_thinned_data_pass_the_along_track_filters():
    rng = np.random.default_rng(1)
    table = segments(
        60,
        height_m=1000 + rng.normal(0, 30, 60),
        segment_id=np.arange(60) * 20,
        dem_m=[None] * 60,
    )
    kept, _ = apply_filters(table, FilterSettings())
    assert kept.num_rows == 60


def test_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(2)
    height = 1000 + rng.normal(0, 0.05, 80)
    height[[20, 50]] += [1.5, 30]
    table = segments(80, height_m=height)
    shuffled = table.take(rng.permutation(80))
    straight, first = apply_filters(table, FilterSettings())
    mixed, second = apply_filters(shuffled, FilterSettings())
    assert sorted(mixed["segment_id"].to_pylist()) == straight["segment_id"].to_pylist()
    assert straight.num_rows == 78 and first == second


def plain_inconsistent(group, number, height, slope, tolerance):
    out = []
    place = {(g, s): i for i, (g, s) in enumerate(zip(group, number, strict=True))}
    for i, (g, s) in enumerate(zip(group, number, strict=True)):
        misses = [
            abs(height[i] + side * 20 * slope[i] - height[place[g, s + side]])
            for side in (-1, 1)
            if (g, s + side) in place and np.isfinite(slope[i])
        ]
        out.append(bool(misses) and min(misses) > tolerance)
    return out


def plain_spikes(group, number, height, window, mads, floor):
    out = []
    for g, s, h in zip(group, number, height, strict=True):
        near = height[(group == g) & (np.abs(number - s) <= window // 2)]
        middle = np.median(near)
        spread = max(np.median(np.abs(near - middle)), floor)
        out.append(len(near) > window // 2 and abs(h - middle) > mads * spread)
    return out


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([3, 7, 21]), st.floats(0.0, 0.6))
def test_along_track_filters_as_plain_loops(seed, window, missing):
    rng = np.random.default_rng(seed)
    pairs = [(g, s) for g in range(3) for s in range(40) if rng.random() >= missing]
    group, number = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    height = rng.normal(0, 0.3, group.size) + 3 * (rng.random(group.size) < 0.1) + 0.05 * number
    slope = np.where(rng.random(group.size) < 0.1, np.nan, rng.normal(0, 0.02, group.size))
    assert find_inconsistent(group, number, height, slope, 0.5).tolist() == plain_inconsistent(
        group, number, height, slope, 0.5
    )
    assert find_spikes(group, number, height, window, 5.0, 0.1).tolist() == plain_spikes(
        group, number, height, window, 5.0, 0.1
    )


def test_a_finer_dem_stands_in_where_it_has_values():
    table = segments(rows=3, dem_m=[100.0, 200.0, None])
    replaced = replace_dem(table, np.array([101.5, np.nan, 303.5]))
    assert replaced.column("dem_m").to_pylist() == [101.5, 200.0, 303.5]
    assert replaced.schema == table.schema
