"""The benchmarks' own arithmetic: growth, the flown segments, what a projection adds up."""

import h5py
import numpy as np
import pyarrow as pa
import pytest

from benchmarks import granules, growth, poles, projection, scene, transfers
from benchmarks.measure import growth_exponent
from cryofuse.acquire.inspect import inspect_granule
from cryofuse.tables import SEGMENTS, check

BOX = (0.0, -2_000_000.0, 30_000.0, -1_980_000.0)
YEAR_S = 365.2425 * 86_400


def fly(survey, months):
    tables = [t for month in range(months) for t in scene.segments_of(survey, month)]
    return pa.concat_tables(tables).unify_dictionaries()


def closed_formula(x, y, time):
    """Return the height that a segment would have without noise, written out anew."""
    year = (time - np.datetime64("2000-01-01", "us")) / np.timedelta64(1, "s") / YEAR_S
    flat = 1500 + 20 * np.sin(x / 7e3) * np.cos(y / 9e3) + 2 * np.sin(x / 800 + y / 1100)
    rate = -0.5 + 0.3 * np.sin(x / 4e4) * np.cos(y / 6e4)
    season = 0.2 * (np.cos(2 * np.pi * year - 1) - np.cos(1.0))
    return flat + rate * (year - 20) + season


@pytest.mark.parametrize("power", [0.0, 0.1, 1.0, 1.7])
def test_the_exponent_of_a_power_law_is_its_power(power):
    sizes = np.array([1e7, 2e7, 4e7, 8e7])
    assert growth_exponent(sizes, 3.0 * sizes**power) == pytest.approx(power, abs=1e-9)


def test_the_exponent_is_the_slope_that_least_squares_gives():
    sizes, costs = [1.0, 2.0, 4.0, 8.0], [1.0, 2.3, 3.9, 9.1]
    slope = np.polyfit(np.log(sizes), np.log(costs), 1)[0]
    assert growth_exponent(sizes, costs) == pytest.approx(slope, rel=1e-12)


@pytest.mark.parametrize("density", [1.0, 4.0])
def test_a_survey_has_the_density_asked_for(density):
    survey = scene.Survey(BOX, tile_m=10_000.0, density=density)
    count = sum(t.num_rows for month in range(12) for t in scene.segments_of(survey, month))
    expected = density * 1470 * 600 * 12 / 75
    # Lines are few in so small a box, so their edges count.
    assert count == pytest.approx(expected, rel=0.12)


def test_segments_keep_the_contract_and_stay_in_the_box():
    table = check(fly(scene.Survey(BOX, tile_m=10_000.0), 3), SEGMENTS)
    x, y = table["x_m"].to_numpy(), table["y_m"].to_numpy()
    assert ((x >= BOX[0]) & (x < BOX[2]) & (y >= BOX[1]) & (y < BOX[3])).all()
    tiles = np.array([f"x{int(a // 1e4)}_y{int(b // 1e4)}" for a, b in zip(x, y, strict=True)])
    assert (np.array(table["tile"].to_pylist()) == tiles).all()


def test_heights_follow_the_truth_but_for_the_noise():
    table = fly(scene.Survey(BOX, clean=True), 15)
    x, y, time = (table[name].to_numpy() for name in ("x_m", "y_m", "time"))
    left = table["height_m"].to_numpy() - closed_formula(x, y, time.astype("M8[us]"))
    # The median: one in a hundred is an outlier.
    assert abs(np.median(left)) < 0.01
    assert 0.05 < 1.4826 * np.median(np.abs(left)) < 0.1


def test_slopes_are_those_of_the_surface_along_the_track():
    table = fly(scene.Survey(BOX, clean=True), 1).to_pandas()
    beam = table[(table.rgt == table.rgt.iloc[0]) & (table.beam == table.beam.iloc[0])]
    surface = closed_formula(beam.x_m, beam.y_m, np.datetime64("2020-01-01", "us"))
    steps = np.gradient(surface, 20.0)[1:-1]
    fitted = np.polyfit(steps, beam.slope_along[1:-1], 1)
    assert steps.size > 500
    assert fitted == pytest.approx([1.0, 0.0], abs=0.1)
    assert fitted[1] == pytest.approx(0.0, abs=5e-4)


def test_beams_lie_on_three_pairs_of_lines():
    survey = scene.Survey(BOX, clean=True)
    flown = next(p for p in scene.straight_passes(survey, 0) if scene.observe(survey, p).num_rows)
    table = scene.observe(survey, flown).to_pandas()
    angle = np.radians(15.0 if flown.path.x_m[-1] > flown.path.x_m[0] else -15.0)
    across = np.cos(angle) * table.x_m - np.sin(angle) * table.y_m
    lines = across.groupby(table.beam.astype(str)).agg(["mean", "std"])
    assert (lines["std"] < 1e-6).all()
    gaps = np.abs(lines["mean"].diff().dropna())
    assert np.isin(gaps.round().to_numpy(), [90.0, 3210.0]).all()


def test_no_two_segments_share_beam_and_number_or_a_time():
    whole = fly(scene.Survey(BOX, clean=True), 3).to_pandas()
    assert not whole.duplicated(["rgt", "cycle", "beam", "segment_id"]).any()
    assert whole.time.is_unique


def test_cases_grow_by_the_factor_along_every_axis():
    for axis in growth.AXES:
        sizes = []
        for factor in growth.FACTORS:
            case = growth.case_of(axis, factor, 100_000.0)
            area = len(case.tiles) * 1e4
            sizes.append(area * case.months * case.density * 1470 / 75)
            assert sum(len(months) for months in case.periods.values()) == case.months
        assert sizes[0] == pytest.approx(1e7, rel=0.1)
        assert np.array(sizes) / sizes[0] == pytest.approx(growth.FACTORS)


def test_tracks_over_a_tile_are_as_long_as_the_geometry_of_a_circular_orbit_says():
    # Density of crossings of a parallel, and the angle at which tracks cross it: Clairaut on a
    # sphere, the turning Earth apart.
    box, latitude = (100_000.0, -900_000.0, 200_000.0, -800_000.0), np.radians(82.0)
    circle_m = 2 * np.pi * 6_378_137.0 * np.cos(latitude)
    heading = np.arcsin(np.cos(np.radians(92.0)) / np.cos(latitude))
    per_m = 2 * 1387 / circle_m / np.cos(heading)
    expected = per_m / 20.0 * 6 * 25 * 1e6
    assert poles.density_km2(box, "EPSG:3413", 75) == pytest.approx(expected, rel=0.1)


def measured(whole_cpu_s):
    """Results of which a tile takes 5 s to read and 25 s to fit."""
    return {
        "filter": {"subset": {"rows": 1e6, "cpu_s": 1.0}, "filter": {"cpu_s": 0.5}},
        "fits": {
            "dense with vintages 1": {"nodes": 400, "cpu_s": 1.0, "segments_per_node": 4600.0}
        },
        "tiles": {
            "segments": 1e7,
            "reading": {"cpu_s": 5.0},
            "whole": {"cpu_s": whole_cpu_s, "nodes": 10_000},
            "tiles": 231,
        },
    }


def test_a_projection_adds_up_by_hand():
    found = projection.project(measured(35.0))
    # Beside reading and fitting 5 s are left for the rest.
    seconds = 2500 + 1250 + 1250 + 2.5e9 / 1470 / 400 + 1250 + 2.0 * (3 * 75 + 231)
    assert found["hours"] == pytest.approx(seconds / 2 / 3600)


def test_a_projection_takes_parts_that_exceed_the_whole_as_they_are():
    terms = projection.project(measured(20.0))["terms"]
    assert terms["checks and the rest of a tile"]["seconds"] == 0
    assert terms["node fits with vintages"]["seconds"] == pytest.approx(2.5e9 / 1470 / 400)


def test_copies_of_a_granule_are_what_their_names_say(tmp_path):
    names = [granules.granule_name(rgt=track) for track in (1, 1387)]
    source = granules.write_granule(str(tmp_path), 100)
    transfers.spread_granules(source, names, tmp_path / "copies")
    assert inspect_granule(source, names[0]) is not None
    for name in names:
        with h5py.File(tmp_path / "copies" / name) as file:
            begin = file["ancillary_data/data_start_utc"][0].decode()[:19]
        assert begin.translate(str.maketrans("", "", "-:T")) == name.split("_")[1]
        assert inspect_granule(tmp_path / "copies" / name, name) is None


def test_tracks_of_the_counted_run_leave_no_month_out():
    months = {
        name.split("_")[1][:6]
        for cycle in transfers.CYCLES
        for name in (granules.granule_name(cycle, track) for track in transfers.TRACKS)
    }
    wanted = {f"{year}{month:02d}" for year in range(2019, 2025) for month in range(1, 13)}
    assert wanted | {"201810", "201811", "201812"} <= months


def test_a_summary_holds_the_best_and_the_median():
    walls = [4.0, 2.0, 10.0]
    results = [
        {"wall_s": wall, "cpu_s": wall / 2, "flush_s": 12.0 - wall, "peak_mb": 100.0 + wall}
        for wall in walls
    ]
    found = transfers.summarise(results, 40)
    assert (found["bytes_s"], found["bytes_median_s"]) == (20, 10)
    assert found["flushed_bytes_s"] == pytest.approx(40 / 12)
    assert (found["cpu_s"], found["peak_mb"]) == (1.0, 110.0)
