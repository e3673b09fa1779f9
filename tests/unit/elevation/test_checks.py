"""Crossovers and repeats against tracks laid by hand and against a search over all pieces."""

import dataclasses
from itertools import combinations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryofuse.altimetry import beam_labels
from cryofuse.config import ElevationSettings
from cryofuse.elevation import checks
from cryofuse.elevation.checks import TrackSegments, check_block, summarise_checks
from cryofuse.tables import CHECK_PAIRS, CHECKS, check

RATE, AMPLITUDE, PHASE, SLOPE_X, SLOPE_Y = -0.8, 0.3, 1.0, 0.03, -0.05
YEAR_US = 365.2425 * 86_400e6
STEP_M = 20.0
#: Across-track distance of the beams from their reference track (m), as flown.
BEAM_OFFSETS_M = (3345.0, 3255.0, 45.0, -45.0, -3255.0, -3345.0)
BOX = (-5000.0, -5000.0, 5000.0, 5000.0)
FIELDS = [field.name for field in dataclasses.fields(TrackSegments)]
NODE = pd.DataFrame(
    {
        "x_m": [0.0],
        "y_m": [0.0],
        "rate_m_yr": [RATE],
        "amplitude_m": [AMPLITUDE],
        "phase_rad": [PHASE],
        "slope_x": [SLOPE_X],
        "slope_y": [SLOPE_Y],
    }
)


def to_time(year):
    """Timestamps of years since 2000."""
    return np.datetime64("2000-01-01", "us") + np.round(np.asarray(year) * YEAR_US).astype("m8[us]")


def change(year):
    """Elevation change at years since 2000 (m)."""
    return RATE * year + AMPLITUDE * np.cos(2 * np.pi * year - PHASE)


def surface(x, y, year):
    return 1500 + SLOPE_X * x + SLOPE_Y * y + change(year)


GRID = pd.concat(
    [NODE.assign(x_m=x, y_m=y) for x in np.arange(-4500.0, 5000, 1000)
     for y in np.arange(-4500.0, 5000, 1000)]
)  # fmt: skip


def make_settings(**keys):
    keep_all = {"max_crossovers_per_km2": None, "max_repeats_per_km2": None}
    return ElevationSettings.model_validate({"checks": keep_all | keys})


def lay(x, y, year, *, rgt, cycle=5, beam=2, sigma=0.1, first_id=40_000, keep=None):
    """One beam of one pass through given points, numbered in order, as a dict of columns."""
    count = len(x)
    year = np.full(count, year) + np.arange(count) * STEP_M / 7000 * 1e6 / YEAR_US
    columns = {
        "x_m": np.asarray(x, dtype=float),
        "y_m": np.asarray(y, dtype=float),
        "time": to_time(year),
        "height_m": surface(np.asarray(x), np.asarray(y), year),
        "sigma_m": np.full(count, sigma) if np.isscalar(sigma) else np.asarray(sigma),
        "rgt": np.full(count, rgt, dtype=np.int16),
        "cycle": np.full(count, cycle, dtype=np.int16),
        "beam": np.full(count, beam, dtype=np.int8),
        "segment_id": first_id + np.arange(count, dtype=np.int32),
    }
    return columns if keep is None else {name: values[keep] for name, values in columns.items()}


def lay_line(through, azimuth_degrees, year, *, back_m=3000.0, count=300, offset_m=0.0, **keys):
    """A straight beam whose first point lies ``back_m`` before a place on it."""
    azimuth = np.radians(azimuth_degrees)
    along = np.arange(count) * STEP_M - back_m
    x = through[0] + along * np.sin(azimuth) + offset_m * np.cos(azimuth)
    y = through[1] + along * np.cos(azimuth) - offset_m * np.sin(azimuth)
    return lay(x, y, year, **keys)


def join(*parts):
    return TrackSegments(**{name: np.concatenate([p[name] for p in parts]) for name in FIELDS})


def take(segments, rows):
    return TrackSegments(**{name: getattr(segments, name)[rows] for name in FIELDS})


def run(segments, fits=NODE, box=BOX, seed=1, **keys):
    table = check_block(segments, fits, box, make_settings(**keys), seed)
    check(table, CHECK_PAIRS)
    return table.to_pandas()


def make_world(seed, rgts=4, cycles=3, dropped=0.05, count=400):
    """Passes of several tracks with six winding beams each and gaps at random."""
    rng = np.random.default_rng(seed)
    # The last of all labels is flown in the middle.
    codes = (3, 4, len(beam_labels()) - 1, 5, 6, 7) if seed == 2 else range(6)
    parts = []
    for number in range(rgts):
        azimuth = np.radians((25 if number % 2 else 155) + rng.uniform(-6, 6))
        ahead = np.array([np.sin(azimuth), np.cos(azimuth)])
        aside = np.array([ahead[1], -ahead[0]])
        centre = rng.uniform(-1000, 1000, 2)
        for cycle in range(1, cycles + 1):
            for beam, offset in enumerate(BEAM_OFFSETS_M):
                along = (np.arange(count) - count / 2) * 19.97 + rng.uniform(-5, 5)
                wave = rng.normal(0, 20) + 8 * np.sin(along / 700 + rng.uniform(0, 6))
                points = centre + along[:, None] * ahead + (offset + wave)[:, None] * aside
                part = lay(
                    points[:, 0], points[:, 1], 18.8 + 0.25 * cycle + 0.03 * number,
                    rgt=100 + number, cycle=cycle, beam=codes[beam],
                    sigma=rng.uniform(0.05, 0.2, count),
                    keep=rng.random(count) > dropped,
                )  # fmt: skip
                parts.append(part)
    whole = join(*parts)
    return take(whole, rng.permutation(whole.x_m.size))


def beams_of(segments):
    """Rows of each pass's beam in order of segment number."""
    groups = pd.DataFrame({n: getattr(segments, n) for n in ("cycle", "rgt", "beam")}).groupby(
        ["cycle", "rgt", "beam"]
    )
    return {
        key: np.asarray(rows)[np.argsort(segments.segment_id[rows])]
        for key, rows in groups.indices.items()
    }


def search_crossings(segments, box):
    """Every crossing in a box: all pieces of all pairs of tracks, by two linear equations."""
    near = (np.abs(segments.x_m - (box[0] + box[2]) / 2) < (box[2] - box[0]) / 2 + 100) & (
        np.abs(segments.y_m - (box[1] + box[3]) / 2) < (box[3] - box[1]) / 2 + 100
    )
    segments = take(segments, near)
    beams = {
        key: rows[np.flatnonzero(np.diff(segments.segment_id[rows]) == 1)[:, None] + [0, 1]]
        for key, rows in beams_of(segments).items()
    }
    xy = np.column_stack([segments.x_m, segments.y_m])
    found = []
    for (one, a), (two, b) in combinations(beams.items(), 2):
        if one[1] == two[1]:
            continue
        d, e = xy[a[:, 1]] - xy[a[:, 0]], xy[b[:, 1]] - xy[b[:, 0]]
        determinant = np.outer(d[:, 1], e[:, 0]) - np.outer(d[:, 0], e[:, 1])
        gap = xy[b[:, 0]][None] - xy[a[:, 0]][:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            u = (gap[..., 1] * e[:, 0] - gap[..., 0] * e[:, 1]) / determinant
            v = (gap[..., 1] * d[:, None, 0] - gap[..., 0] * d[:, None, 1]) / determinant
        sides = np.hypot(*d.T)[:, None] * np.hypot(*e.T)
        steep = np.abs(determinant) / sides >= np.sin(np.radians(5))
        for i, j in np.argwhere((u >= 0) & (u < 1) & (v >= 0) & (v < 1) & steep):
            x, y = xy[a[i, 0]] + u[i, j] * d[i]
            if box[0] <= x < box[2] and box[1] <= y < box[3]:
                found.append((*one, *two, x, y))
    return found


def search_repeats(segments, box, separation):
    """Every repeat whose earlier segment lies in a box, by comparing all with all."""
    columns = ["rgt", "beam", "segment_id", "cycle", "x_m", "y_m"]
    frame = pd.DataFrame({name: getattr(segments, name) for name in columns})
    both = frame.merge(frame, on=columns[:3], suffixes=("_a", "_b"))
    both = both[both["cycle_a"] < both["cycle_b"]]
    both["apart"] = np.hypot(both["x_m_a"] - both["x_m_b"], both["y_m_a"] - both["y_m_b"])
    x, y = both["x_m_a"], both["y_m_a"]
    inside = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
    return both[inside & (both["apart"] <= separation)]


PASSES = [
    f"{part}_{side}" for side in ("first", "second") for part in ("cycle", "rgt", "beam")
]  # fmt: skip


def as_set(pairs, columns=(*PASSES, "segment_id")):
    return set(pairs[list(columns)].fillna(-1).itertuples(index=False, name=None))


def test_two_tracks_cross_where_geometry_says():
    place, years = (137.0, -211.0), (19.3, 21.85)
    pairs = run(
        join(
            lay_line(place, 10, years[0], back_m=3007.0, rgt=7, beam=0, cycle=2, sigma=0.1),
            lay_line(place, 165, years[1], back_m=2015.0, rgt=9, beam=5, cycle=12, sigma=0.3),
        )
    )
    assert len(pairs) == 1
    row = pairs.iloc[0]
    assert row["kind"] == "crossover"
    assert (row["x_m"], row["y_m"]) == pytest.approx(place, abs=1e-6)
    assert row["angle_degrees"] == pytest.approx(25.0, abs=1e-9)
    # 10 and 165 degrees from north: 155° between directions of flight, 25° between lines.
    assert [row[name] for name in PASSES] == [2, 7, "gt1l", 12, 9, "gt3r"]
    # The crossing comes so long after the first segment of either track.
    first, second = (
        t + back / 7000 * 1e6 / YEAR_US for t, back in zip(years, (3007, 2015), strict=True)
    )
    for name, year in (("time_first", first), ("time_second", second)):
        assert abs(row[name].to_datetime64() - to_time(year)) <= np.timedelta64(2, "us")
    assert row["dt_years"] == pytest.approx(second - first, abs=1e-12)
    assert row["dh_m"] == pytest.approx(change(second) - change(first), abs=1e-7)
    assert row["model_dh_m"] == pytest.approx(change(second) - change(first), abs=1e-9)
    assert row["residual_m"] == pytest.approx(0, abs=1e-7)
    # Places between two segments: 3007 = 150 × 20 + 7 m, 2015 = 100 × 20 + 15 m.
    variance = sum(
        s**2 * ((1 - u) ** 2 + u**2 + u * (1 - u)) for s, u in ((0.1, 7 / 20), (0.3, 15 / 20))
    )
    assert row["dh_sigma_m"] == pytest.approx(np.sqrt(variance), rel=1e-9)
    assert row["stands_for"] == 1
    assert row[["separation_m", "segment_id"]].isna().all()


def test_change_is_later_minus_earlier_whatever_the_track():
    early, late = 19.0, 20.0
    for one, two in ((early, late), (late, early)):
        pairs = run(join(lay_line((3, 5), 8, one, rgt=3), lay_line((3, 5), 172, two, rgt=4)))
        assert pairs["dh_m"].item() == pytest.approx(RATE, abs=1e-6)
        assert pairs["rgt_first"].item() == (3 if one < two else 4)


def test_several_tracks_cross_each_other_once():
    up = [
        lay_line((x, 0), 9, 19 + k / 4, rgt=10 + k, back_m=3001)
        for k, x in enumerate((-30, 0, 40.5))
    ]
    down = [
        lay_line((x, 0), 171, 20 + k / 4, rgt=20 + k, back_m=3003)
        for k, x in enumerate((-100, 11, 60.5))
    ]
    pairs = run(join(*up, *down))
    assert len(pairs) == 9
    # Lines x = x0 ± y tan 9° meet halfway between their starts.
    expected = {(10 + i, 20 + j): (a + b) / 2 for i, a in enumerate((-30, 0, 40.5))
                for j, b in enumerate((-100, 11, 60.5))}  # fmt: skip
    for row in pairs.itertuples():
        x = expected[row.rgt_first, row.rgt_second]
        assert row.x_m == pytest.approx(x, abs=1e-6)
        x0 = (-30, 0, 40.5)[row.rgt_first - 10]
        assert row.y_m == pytest.approx((x - x0) / np.tan(np.radians(9)), abs=1e-6)


@pytest.mark.parametrize(
    ("gone", "crossings"),
    [((150,), 0), ((151,), 0), ((150, 151), 0), ((149, 152), 1), (tuple(range(60)), 1),
     (tuple(range(130)) + tuple(range(170, 290)), 1)],
)  # fmt: skip
def test_never_across_a_gap(gone, crossings):
    keep = np.setdiff1d(np.arange(300), gone)
    cut = lay_line((0, 0), 10, 19.0, back_m=3008, rgt=7, keep=keep)
    assert len(run(join(cut, lay_line((0, 0), 170, 20.0, back_m=3004, rgt=9)))) == crossings
    # The same on the other track.
    cut["rgt"] = cut["rgt"] + 100
    assert len(run(join(cut, lay_line((0, 0), 170, 20.0, back_m=3004, rgt=9)))) == crossings


@pytest.mark.parametrize(
    ("azimuth", "rgt", "crossings"), [(14, 9, 0), (16, 9, 1), (194, 9, 0), (30, 7, 0)]
)
def test_shallow_angles_and_the_own_track_do_not_count(azimuth, rgt, crossings):
    one = lay_line((0, 0), 10, 19.0, back_m=3008, rgt=7)
    two = lay_line((0, 0), azimuth, 20.0, back_m=3004, rgt=rgt, cycle=9, first_id=70_000)
    assert len(run(join(one, two))) == crossings


def test_tracks_that_end_before_they_meet_do_not_cross():
    one = lay_line((0, 0), 10, 19.0, back_m=3008, count=150, rgt=7)
    assert run(join(one, lay_line((0, 0), 170, 20.0, back_m=3004, rgt=9))).empty
    # One segment further the piece reaches the crossing.
    one = lay_line((0, 0), 10, 19.0, back_m=3008, count=152, rgt=7)
    assert len(run(join(one, lay_line((0, 0), 170, 20.0, back_m=3004, rgt=9)))) == 1


def test_a_track_that_swings_aside_is_followed():
    along = np.arange(400) * STEP_M - 4000
    bent = lay(1500 * np.tanh(along / 1500) * np.sign(along) ** 2, along, 19.0, rgt=7)
    other = lay_line((900, 1100), 100, 20.0, back_m=2900, rgt=9)
    segments = join(bent, other)
    pairs, expected = run(segments), search_crossings(segments, BOX)
    assert len(pairs) == len(expected) == 1
    assert tuple(pairs[["x_m", "y_m"]].iloc[0]) == pytest.approx(expected[0][-2:], abs=1e-6)


def test_a_bulge_is_met_beyond_the_line_between_its_ends():
    north = np.arange(300) * STEP_M - 2990
    bulge = lay(300 * (1 - (north / 3000) ** 2), north, 19.0, rgt=7)
    # It ends 50 m after the bulge, 250 m before the line.
    other = lay_line((1000, 3), 270, 20.0, back_m=0, count=38, rgt=9)
    row = run(join(bulge, other)).iloc[0]
    assert (row["x_m"], row["y_m"]) == pytest.approx((300, 3), abs=0.01)


def test_a_track_that_runs_beside_the_other_at_first_is_followed():
    straight = np.arange(100) * STEP_M - 2000
    x = np.concatenate([np.zeros(100), np.arange(100) * STEP_M * np.sqrt(0.5)])
    y = np.concatenate([straight, np.arange(100) * STEP_M * np.sqrt(0.5)])
    # The search begins in a gap of the part that is parallel to the other track.
    bent = lay(x, y, 19.0, rgt=7, keep=np.setdiff1d(np.arange(200), np.arange(40, 95)))
    bent["segment_id"][40:] += 1_000_000
    other = lay(np.full(200, 505.0), np.arange(200) * STEP_M - 2000, 20.0, rgt=9)
    row = run(join(bent, other)).iloc[0]
    assert (row["x_m"], row["y_m"]) == pytest.approx((505, 505), abs=1e-6)


def test_a_pair_on_an_edge_belongs_to_one_block():
    cross = join(
        lay(np.arange(-2000.0, 2000, 20), np.full(200, 7.0), 19.0, rgt=7),
        lay(np.full(200, 13.0), np.arange(-2000.0, 2000, 20), 20.0, rgt=9),
    )
    passes = [
        lay_line((0, 0), 0, t, back_m=2000, rgt=7, cycle=c) for c, t in ((3, 19.0), (4, 19.2))
    ]
    for segments, x, y, number in ((cross, 13.0, 7.0, 1), (join(*passes), 0.0, 40.0, 300)):
        west, east = (-9000.0, x), (x, 9000.0)
        south, north = (-9000.0, y), (y, 9000.0)
        counts = {
            (i, j): len(run(segments, box=(columns[0], rows[0], columns[1], rows[1])))
            for i, columns in enumerate((west, east))
            for j, rows in enumerate((south, north))
        }
        assert sum(counts.values()) == number
        assert counts[0, 0] == counts[0, 1] == 0
        # Points on the lower edge are inside, those on the upper are not.
        assert counts[1, 0] == (0 if number == 1 else (40 + 2000) / STEP_M)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_crossings_and_repeats_are_found(seed):
    segments = make_world(seed)
    box = (-2000.0, -2500.0, 1500.0, 2000.0)
    pairs = run(segments, GRID, box)
    crossovers = pairs[pairs["kind"] == "crossover"]
    expected = search_crossings(segments, box)
    assert len(crossovers) == len(expected) > 50
    found = crossovers.sort_values(["x_m", "y_m"])[["x_m", "y_m"]].to_numpy()
    assert found == pytest.approx(np.array(sorted(e[-2:] for e in expected)), abs=1e-6)
    # A plane is interpolated without error.
    assert crossovers["residual_m"].abs().max() < 1e-5
    repeats = pairs[pairs["kind"] == "repeat"]
    expected = search_repeats(segments, box, 50.0)
    assert len(repeats) == len(expected) > 1000
    beams = np.array(beam_labels())[expected["beam"]]
    keys = zip(expected["cycle_a"], expected["rgt"], beams, expected["cycle_b"], expected["rgt"],
               beams, expected["segment_id"].astype(float), strict=True)  # fmt: skip
    assert as_set(repeats) == set(keys)
    assert np.sort(repeats["separation_m"]) == pytest.approx(np.sort(expected["apart"]), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    columns=st.lists(st.integers(-3999, 3999), max_size=3, unique=True),
    rows=st.lists(st.integers(-3999, 3999), max_size=3, unique=True),
    shuffle=st.integers(0, 2**31),
)
def test_blocks_neither_repeat_nor_lose_pairs(seed, columns, rows, shuffle):
    segments = make_world(seed, rgts=3, cycles=2, count=500)
    whole = run(segments, GRID, (-4000.0, -4000.0, 4000.0, 4000.0))
    mixed = take(segments, np.random.default_rng(shuffle).permutation(segments.x_m.size))
    x_edges, y_edges = ([-4000.0, *sorted(map(float, e)), 4000.0] for e in (columns, rows))
    parts = [
        run(mixed, GRID, (x0, y0, x1, y1))
        for x0, x1 in zip(x_edges, x_edges[1:], strict=False)
        for y0, y1 in zip(y_edges, y_edges[1:], strict=False)
    ]
    keys = ["kind", *PASSES, "segment_id"]
    together = pd.concat([p for p in parts if len(p)]).sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(
        together, whole.sort_values(keys, ignore_index=True), check_exact=True
    )


def test_the_order_of_segments_does_not_matter():
    segments = make_world(5)
    keep = {"max_crossovers_per_km2": 1.0, "max_repeats_per_km2": 2.0}
    table = check_block(segments, NODE, BOX, make_settings(**keep), 3)
    assert table.num_rows == 300
    for seed in (1, 2):
        rows = np.random.default_rng(seed).permutation(segments.x_m.size)
        again = check_block(take(segments, rows), NODE, BOX, make_settings(**keep), 3)
        assert again.equals(table)


def test_caps_keep_a_seeded_draw_and_count_all():
    segments = make_world(6)
    everything = run(segments)
    sizes = everything["kind"].value_counts()
    keep = {"max_crossovers_per_km2": 0.5, "max_repeats_per_km2": 0.25}
    kept = run(segments, **keep)
    for kind, number in (("crossover", 50), ("repeat", 25)):
        own = kept[kept["kind"] == kind]
        assert len(own) == number
        assert own["stands_for"].sum() == pytest.approx(sizes[kind])
        assert as_set(own) < as_set(everything[everything["kind"] == kind])
    # What is kept is measured as if all were.
    keys = [*PASSES, "segment_id"]
    columns = ["x_m", "y_m", "dh_m", "dh_sigma_m", "residual_m", "time_first", "separation_m"]
    both = kept.merge(everything, on=["kind", *keys], suffixes=("", "_all"))
    assert len(both) == 75
    for name in columns:
        pd.testing.assert_series_equal(both[name], both[f"{name}_all"], check_names=False)
    pd.testing.assert_frame_equal(run(segments, **keep), kept)
    assert as_set(run(segments, seed=2, **keep)) != as_set(kept)
    # The draw is fair: over many seeds every part of the area is kept as often as it holds pairs.
    west = np.mean(
        [
            (run(segments, seed=s, **keep).query("kind == 'crossover'")["x_m"] < 0).mean()
            for s in range(20)
        ]
    )
    assert west == pytest.approx(
        (everything.query("kind == 'crossover'")["x_m"] < 0).mean(), abs=0.08
    )


def test_crowded_blocks_draw_tracks_and_scale_their_count(monkeypatch):
    segments = make_world(7, rgts=6, cycles=4, count=400)
    full = run(segments, max_crossovers_per_km2=1000.0)
    count = (full["kind"] == "crossover").sum()
    monkeypatch.setattr(checks, "MOST_TRACKS", 100)
    estimates = []
    for seed in range(12):
        pairs = run(segments, seed=seed, max_crossovers_per_km2=1.0, max_repeats_per_km2=0.01)
        own = pairs[pairs["kind"] == "crossover"]
        assert len(own) == 100
        assert as_set(own) < as_set(full)
        estimates.append(own["stands_for"].sum())
    assert np.mean(estimates) == pytest.approx(count, rel=0.05)
    # Where all are asked for, all tracks are searched.
    assert (run(segments)["kind"] == "crossover").sum() == count


def test_repeats_are_moved_to_one_place_by_the_gradient():
    offsets, years = (0.0, 30.0, -15.0), (19.0, 19.25, 20.5)
    passes = [
        lay_line((0, 0), 10, t, offset_m=o, count=20, back_m=200, rgt=7, cycle=c, sigma=s)
        for c, (o, t, s) in enumerate(zip(offsets, years, (0.1, 0.2, 0.4), strict=True), start=3)
    ]
    pairs = run(join(*passes))
    assert len(pairs) == 3 * 20
    assert (pairs["kind"] == "repeat").all()
    assert pairs["angle_degrees"].isna().all()
    times, sigmas = dict(zip((3, 4, 5), years, strict=True)), {3: 0.1, 4: 0.2, 5: 0.4}
    where = dict(zip((3, 4, 5), offsets, strict=True))
    for row in pairs.itertuples():
        a, b = row.cycle_first, row.cycle_second
        assert a < b
        flown = (row.segment_id - 40_000) * STEP_M / 7000 * 1e6 / YEAR_US
        expected = change(times[b] + flown) - change(times[a] + flown)
        # The raw difference would be off by the slope across the track.
        assert abs((where[b] - where[a]) * (SLOPE_X * np.cos(0.1745))) > 0.4
        assert row.dh_m == pytest.approx(expected, abs=1e-6)
        assert row.residual_m == pytest.approx(0, abs=1e-6)
        assert row.separation_m == pytest.approx(abs(where[b] - where[a]), abs=1e-9)
        assert row.dh_sigma_m == pytest.approx(np.hypot(sigmas[a], sigmas[b]))
    # The point is the earlier segment's.
    one = pairs[(pairs["cycle_first"] == 4) & (pairs["segment_id"] == 40_010)].iloc[0]
    azimuth = np.radians(10)
    assert one["x_m"] == pytest.approx(30 * np.cos(azimuth), abs=1e-9)
    assert one["y_m"] == pytest.approx(-30 * np.sin(azimuth), abs=1e-9)


def test_passes_pointed_aside_are_no_repeats():
    passes = [
        lay_line((0, 0), 10, 19.0 + c / 4, offset_m=o, count=10, back_m=100, rgt=7, cycle=c)
        for c, o in ((1, 1800.0), (3, 0.0), (4, 49.5), (5, 50.5))
    ]
    pairs = run(join(*passes))
    assert set(zip(pairs["cycle_first"], pairs["cycle_second"], strict=True)) == {(3, 4), (4, 5)}
    assert len(run(join(*passes), max_separation_m=2000.0)) == 6 * 10
    # Another beam or track with the same number is another place on the ground.
    other = lay_line((0, 0), 10, 19.8, count=10, back_m=100, rgt=7, cycle=4, beam=3)
    track = lay_line((0, 0), 10, 19.8, count=10, back_m=100, rgt=8, cycle=4)
    assert run(join(passes[1], other, track)).empty


def test_a_segment_given_twice_counts_once():
    one = lay_line((0, 0), 10, 19.0, back_m=3008, rgt=7)
    two = lay_line((0, 0), 10, 19.5, back_m=3008, rgt=7, cycle=6)
    three = lay_line((0, 0), 170, 20.0, back_m=3004, rgt=9)
    single = join(one, two, three)
    later = {name: values + 0 for name, values in two.items()}
    later["time"] = later["time"] + np.timedelta64(1, "s")
    later["height_m"] = later["height_m"] - 5
    for order in ((one, two, three, one, later), (later, one, one, two, three)):
        pd.testing.assert_frame_equal(run(join(*order)), run(single))


def test_the_nearest_fitted_node_within_reach_is_asked():
    segments = join(lay_line((0, 0), 10, 19.0, rgt=7), lay_line((0, 0), 170, 20.5, rgt=9))
    near, far = NODE.assign(x_m=100.0, rate_m_yr=np.nan), NODE.assign(x_m=-900.0, rate_m_yr=-0.5)
    fits = pd.concat([near, far], ignore_index=True)
    row = run(segments, fits).iloc[0]
    years = [(row[f"time_{w}"].to_datetime64() - to_time(0)) / np.timedelta64(1, "us") / YEAR_US
             for w in ("first", "second")]  # fmt: skip
    annual = AMPLITUDE * np.diff(np.cos(2 * np.pi * np.array(years) - PHASE)).item()
    assert row["model_dh_m"] == pytest.approx(-0.5 * 1.5 + annual, abs=1e-6)
    assert row["residual_m"] == pytest.approx(-0.3 * 1.5, abs=1e-6)
    for nodes, keys in ((fits, {"max_node_distance_m": 800.0}), (fits[:1], {}), (fits[:0], {})):
        row = run(segments, nodes, **keys).iloc[0]
        assert row[["model_dh_m", "residual_m"]].isna().all()
        assert row["dh_m"] == pytest.approx(RATE * 1.5 + annual, abs=1e-6)
    # Without a gradient a repeat can't be moved to one place.
    pair = [lay_line((0, 0), 10, t, count=9, rgt=7, cycle=c) for c, t in ((3, 19.0), (4, 19.2))]
    repeats = run(join(*pair), fits[:1])
    assert len(repeats) == 9
    assert repeats[["dh_m", "dh_sigma_m", "model_dh_m", "residual_m"]].isna().all(axis=None)


def test_no_segments_and_no_pairs_give_an_empty_table():
    nothing = take(make_world(1), slice(0, 0))
    for segments in (
        nothing,
        take(make_world(1), slice(0, 1)),
        join(lay_line((0, 0), 9, 19.0, rgt=7)),
    ):
        table = check_block(segments, NODE, BOX, make_settings(), 1)
        assert table.num_rows == 0
        assert table.schema == CHECK_PAIRS.schema


def make_pairs(seed, count=3000, nodes=0.8):
    """Made-up pairs of both kinds with residuals of a rate missed by 0.05 m/yr."""
    rng = np.random.default_rng(seed)
    span = rng.uniform(0, 5, count)
    frame = pd.DataFrame(
        {
            "kind": rng.choice(["crossover", "repeat"], count),
            "dt_years": span,
            "dh_m": -0.8 * span + rng.normal(0, 0.1, count),
            "dh_sigma_m": rng.uniform(0.05, 0.15, count),
            "residual_m": 0.05 * span + rng.standard_t(2, count) * 0.1,
            "stands_for": rng.uniform(1, 50, count),
        }
    )
    frame.loc[rng.random(count) > nodes, "residual_m"] = np.nan
    frame.loc[(frame["kind"] == "repeat") & frame["residual_m"].isna(), "dh_m"] = np.nan
    return frame


def to_tables(frame, parts):
    cuts = np.linspace(0, len(frame), parts + 1).astype(int)
    return [
        pa.Table.from_pandas(frame.iloc[a:b], preserve_index=False)
        for a, b in zip(cuts, cuts[1:], strict=False)
    ]


def robust_spread(values):
    return 1.4826 * np.median(np.abs(values - np.median(values)))


SPANS = {"all": (0, 99), "under_0.5_years": (0, 0.5), "0.5_to_1.5_years": (0.5, 1.5),
         "over_1.5_years": (1.5, 99)}  # fmt: skip


def test_the_summary_is_that_of_the_pairs():
    frame = make_pairs(1)
    table = summarise_checks(to_tables(frame, 7))
    check(table, CHECKS)
    rows = table.to_pandas().set_index(["kind", "span"])
    assert len(rows) == 8
    for (kind, span), row in rows.iterrows():
        low, high = SPANS[span]
        own = frame[(frame["kind"] == kind) & frame["dt_years"].between(low, high, "left")]
        model, long = own.dropna(subset="residual_m"), own[own["dt_years"] >= 0.5]
        assert row["n_found"] == round(own["stands_for"].sum())
        assert (row["n_kept"], row["n_model"]) == (len(own), len(model))
        assert row["residual_m"] == pytest.approx(model["residual_m"].median(), abs=5e-4)
        assert row["residual_spread_m"] == pytest.approx(
            robust_spread(model["residual_m"]), abs=5e-4
        )
        share = (model["residual_m"].abs() <= 2 * model["dh_sigma_m"]).mean()
        assert row["share_within_2_sigma"] == pytest.approx(share, abs=1e-12)
        if span == "under_0.5_years":
            names = ["dh_rate_m_yr", "rate_difference_m_yr", "rate_difference_sigma_m_yr"]
            assert row[names].isna().all()
            continue
        rate = (long["dh_m"] / long["dt_years"]).median()
        assert row["dh_rate_m_yr"] == pytest.approx(rate, abs=5e-4)
        missed = (long["residual_m"] / long["dt_years"]).dropna()
        assert row["rate_difference_m_yr"] == pytest.approx(missed.median(), abs=5e-4)
        assert row["rate_difference_sigma_m_yr"] == pytest.approx(
            np.sqrt(np.pi / 2) * robust_spread(missed) / np.sqrt(len(missed)), rel=0.01
        )
        assert row["rate_difference_m_yr"] == pytest.approx(
            0.05, abs=4 * row["rate_difference_sigma_m_yr"]
        )
    assert rows["reason"].isna().all()


def test_the_summary_does_not_depend_on_how_pairs_are_cut_into_tables():
    tables = to_tables(make_pairs(2), 9)
    expected = summarise_checks(tables)
    assert summarise_checks(iter(tables[::-1])).drop("n_found").equals(expected.drop("n_found"))
    assert (
        summarise_checks([pa.concat_tables(tables)])
        .drop("n_found")
        .equals(expected.drop("n_found"))
    )


def test_the_summary_says_what_is_missing():
    rows = summarise_checks([CHECK_PAIRS.empty()]).to_pandas()
    assert (rows["reason"] == "no_pairs").all()
    assert rows[["n_found", "n_kept", "n_model"]].eq(0).all(axis=None)
    assert rows[["residual_m", "dh_rate_m_yr", "share_within_2_sigma"]].isna().all(axis=None)
    bare = make_pairs(3, nodes=0.0)
    rows = summarise_checks(to_tables(bare, 2)).to_pandas()
    assert (rows["reason"] == "no_model").all()
    assert rows.loc[rows["kind"] == "crossover", "dh_rate_m_yr"].notna().sum() == 3


@given(st.lists(st.floats(-3e3, 3e3), min_size=1, max_size=60))
def test_medians_by_counting_are_those_of_the_values(values):
    tally = checks._Distribution()
    for part in np.array_split(np.array(values), 3):
        tally.add(part)
    median, spread = tally.median_and_spread()
    slack = 1e-4 + 5e-4 * np.abs(values).max()
    assert median == pytest.approx(np.median(values), abs=slack)
    assert spread == pytest.approx(robust_spread(np.array(values)), abs=4 * slack)


def test_a_wrong_rate_shows_in_the_summary():
    segments = make_world(8, cycles=8)
    rows = {}
    for name, error in (("right", 0.0), ("wrong", 0.1)):
        fits = GRID.assign(rate_m_yr=RATE + error)
        table = check_block(segments, fits, BOX, make_settings(max_repeats_per_km2=10.0), 1)
        rows[name] = summarise_checks([table]).to_pandas().set_index(["kind", "span"])
    for kind in ("crossover", "repeat"):
        assert rows["right"].loc[(kind, "all"), "rate_difference_m_yr"] == pytest.approx(
            0, abs=1e-4
        )
        assert rows["wrong"].loc[(kind, "all"), "rate_difference_m_yr"] == pytest.approx(
            -0.1, abs=5e-4
        )
        assert rows["right"].loc[(kind, "all"), "share_within_2_sigma"] == 1
