from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from scipy.stats import studentized_range

from cryofuse.config import HydrologySettings
from cryofuse.geo import project, unproject
from cryofuse.hydrology.lakes import (
    explain_lookalike,
    explain_relief,
    find_departing,
    find_events,
    find_lakes,
    fit_history,
    grow_groups,
    is_steady,
    measure_departures,
    measure_jitter,
    measure_open_share,
    measure_scatter,
)
from cryofuse.tables import LAKE_EVENTS, LAKE_MONTHS, LAKES, SEARCHED_NODES, check, from_pandas

CRS = "EPSG:3413"
SETTINGS = HydrologySettings()
MONTHS = np.arange("2018-10", "2025-01", dtype="datetime64[M]").astype("datetime64[us]")
YEARS = np.arange(MONTHS.size) / 12
CENTRE = tuple(float(v) for v in project(-47.5, 66.5, CRS))
MASCONS = gpd.GeoDataFrame(
    {"mascon_id": [7]}, geometry=[shapely.box(300, 60, 320, 72)], crs="EPSG:4326"
)
#: Fills for three years from 2018-10 on, then drains within ten weeks (after 2021-10).
FILL_AND_DRAIN = np.where(YEARS < 3, YEARS / 3, np.clip(1 - (YEARS - 3) / 0.2, 0, 1))


def make_world(
    lake: tuple[float, float, float, float] | None,
    *,
    elevation_m: float = 1800.0,
    seed: int = 0,
    tracks: Sequence[int] = range(8),
    biased: tuple[int, ...] = (),
    patch: tuple[float, float, float] = (0.0, 0.0, 0.0),
    bias_m: float = 0.0,
    bias_months: slice = slice(40, None),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Nodes of a 20 km window that up to eight tracks cross, each seen every third month.

    ``biased`` tracks read ``bias_m`` too high within a patch (x, y, radius) in some months.
    """
    rng = np.random.default_rng(seed)
    along = (np.arange(20) - 9.5) * 1000
    dx, dy = (a.ravel() for a in np.meshgrid(along, along))
    by_track = np.zeros((8, dx.size, MONTHS.size), dtype=bool)
    for track in tracks:
        angle = np.deg2rad(20 if track % 2 else -20)
        distance = dx * np.cos(angle) + dy * np.sin(angle) - (-10_500 + 3000 * track)
        near = np.any([np.abs(distance - beam) < 1000 for beam in (-3300, 0, 3300)], axis=0)
        by_track[track] = near[:, None] & (np.arange(MONTHS.size) % 3 == track % 3)
    seen = by_track.any(axis=0)
    dh = (1 + 0.3 * dx / 1e4)[:, None] * (-0.8 * YEARS - 0.3 * np.cos(2 * np.pi * YEARS))
    if lake:
        x, y, radius, depth = lake
        shape = np.clip(1 - ((dx - x) ** 2 + (dy - y) ** 2) / radius**2, 0, 1)
        dh = dh + depth * shape[:, None] * FILL_AND_DRAIN
    dh = dh + rng.normal(0, 0.05, dh.shape)
    share = by_track[list(biased)].sum(axis=0) / np.maximum(by_track.sum(axis=0), 1)
    inside = np.hypot(dx - patch[0], dy - patch[1]) < patch[2]
    dh[:, bias_months] += bias_m * (share * inside[:, None])[:, bias_months]
    node, month = np.nonzero(seen)
    node_months = pd.DataFrame(
        {
            "node_id": node + 100,
            "month": MONTHS[month],
            "dh_m": dh[node, month],
            "dh_sigma_m": 0.05,
            # Cycles of 91 days; tracks 11, 12 … 18.
            "tracks": [
                (np.flatnonzero(by_track[:, i, j]) + 11) * 1000 + j // 3 + 1
                for i, j in zip(node, month, strict=True)
            ],
        }
    )
    longitude, latitude = unproject(CENTRE[0] + dx, CENTRE[1] + dy, CRS)
    nodes = pd.DataFrame(
        {
            "node_id": np.arange(dx.size) + 100,
            "window": "west",
            "spacing_m": 1000.0,
            "x_m": CENTRE[0] + dx,
            "y_m": CENTRE[1] + dy,
            "latitude": latitude,
            "longitude": longitude,
            "rate_m_yr": -0.8,
            "elevation_m": elevation_m,
            "slope": 0.01,
            "rms_m": 0.3,
            "interannual_m": 0.29,
        }
    )
    return nodes[seen.any(axis=1)], node_months


@pytest.fixture(scope="module")
def found():  # noqa: ANN201
    return find_lakes(*make_world((-4000.0, 2000.0, 2500.0, 4.0)), MASCONS, SETTINGS, CRS)


def test_planted_lake_is_found_where_it_lies(found) -> None:
    assert len(found.lakes) == 1
    lake = found.lakes.iloc[0]
    assert lake["status"] == "candidate"
    assert np.hypot(lake["x_m"] - CENTRE[0] + 4000, lake["y_m"] - CENTRE[1] - 2000) < 1000
    assert lake["window"] == "west"
    assert lake["mascon_id"] == 7
    # A paraboloid of depth 4 m and radius 2.5 km holds half its cylinder.
    assert lake["volume_range_km3"] == pytest.approx(0.5 * np.pi * 2.5**2 * 4e-3, rel=0.25)
    assert 8 < lake["area_km2"] < np.pi * 2.5**2 * 1.3
    longitude, latitude = unproject(lake["x_m"], lake["y_m"], CRS)
    assert lake["geometry"].contains(shapely.Point(float(longitude), float(latitude)))


def test_drain_is_dated_within_a_repeat(found) -> None:
    drains = found.events[found.events["kind"] == "drain"]
    assert len(drains) == 1
    drain = drains.iloc[0]
    assert drain["start"] <= pd.Timestamp("2021-12-01")
    assert drain["end"] >= pd.Timestamp("2021-11-01")
    assert (drain["end"] - drain["start"]).days <= 153
    assert drain["volume_km3"] < 0
    fills = found.events[found.events["kind"] == "fill"]
    assert fills["volume_km3"].max() > 0.02


def test_tables_keep_their_contracts(found) -> None:
    check(from_pandas(found.months), LAKE_MONTHS)
    check(from_pandas(found.events), LAKE_EVENTS)
    check(from_pandas(found.nodes), SEARCHED_NODES)
    check(from_pandas(pd.DataFrame(found.lakes.drop(columns="geometry"))), LAKES)


def test_no_lake_no_candidate() -> None:
    nothing = find_lakes(*make_world(None), MASCONS, SETTINGS, CRS)
    assert len(nothing.lakes) == len(nothing.months) == len(nothing.events) == 0
    check(from_pandas(nothing.months), LAKE_MONTHS)
    check(from_pandas(nothing.events), LAKE_EVENTS)
    check(from_pandas(nothing.nodes), SEARCHED_NODES)
    # The search took place: its nodes are listed.
    assert len(nothing.nodes) > 200 and not nothing.nodes["departing"].any()
    check(from_pandas(pd.DataFrame(nothing.lakes.drop(columns="geometry"))), LAKES)


def test_coarse_nodes_are_not_searched() -> None:
    nodes, months = make_world((-4000.0, 2000.0, 2500.0, 4.0))
    coarse = nodes.assign(spacing_m=10_000.0)
    assert len(find_lakes(coarse, months, MASCONS, SETTINGS, CRS).lakes) == 0
    assert len(find_lakes(nodes, None, MASCONS, SETTINGS, CRS).lakes) == 0


def test_departure_is_free_of_what_the_ring_does_together() -> None:
    x, y = (a.ravel() for a in np.meshgrid(np.arange(9) * 1000.0, np.arange(9) * 1000.0))
    lake = (x == 4000) & (y == 4000)
    node = np.tile(np.arange(81), 3)
    month = np.repeat([0, 1, 2], 81)
    plane = 1.0 + 0.1 * month * (x[node] / 1000 + 2 * y[node] / 1000)
    dh = plane + np.where(lake[node], np.array([0.0, 0.5, 2.0])[month], 0.0)
    table = measure_departures(x, y, node, month, dh, 4000.0)
    centre = table[table["node"] == np.flatnonzero(lake)[0]]
    # Relative to the node's own median, 0.5 m.
    np.testing.assert_allclose(centre["departure_m"], [-0.5, 0.0, 1.5], atol=0.02)
    beside = table[table["node"] == np.flatnonzero((x == 4000) & (y == 5000))[0]]
    np.testing.assert_allclose(beside["departure_m"], 0.0, atol=0.06)


def test_history_is_told_apart_from_the_nodes_seen() -> None:
    rng = np.random.default_rng(2)
    shape = np.array([0.4, 0.8, 1.2, 1.6])
    history = np.repeat([0.0, 2.0], 12)
    node, month = np.meshgrid(np.arange(4), np.arange(24), indexing="ij")
    kept = rng.random(node.shape) < 0.6
    node, month = node[kept], month[kept]
    value = shape[node] * history[month] + np.array([1.0, -2.0, 0.5, 0.0])[node]
    value = value + rng.normal(0, 0.02, value.size)
    level, sigma, found, count = fit_history(node, month, value, np.full(value.size, 0.02))
    np.testing.assert_allclose(found, shape, atol=0.1)
    assert level[12:].mean() - level[:12].mean() == pytest.approx(2.0, abs=0.1)
    assert count.tolist() == np.bincount(month).tolist()
    assert (sigma > 0).all()


def test_events_are_the_turns_above_noise() -> None:
    volume = np.array([0, 0.01, 0.02, 0.03, 0.03, 0.0, 0.001, 0.0, 0.001, 0.02])
    events = find_events(volume, np.full(10, 0.001), 0.005)
    assert [e["kind"] for e in events] == ["fill", "drain", "fill"]
    assert (events[1]["start"], events[1]["end"]) == (4, 5)
    assert events[1]["volume_km3"] == pytest.approx(-0.03)
    # 0.001 twice, and 30 % of 0.03.
    assert events[1]["volume_sigma_km3"] == pytest.approx((2e-6 + 0.009**2) ** 0.5)
    assert (events[2]["start"], events[2]["end"]) == (8, 9)
    assert find_events(volume, np.full(10, 0.02), 0.005) == []
    assert find_events(np.zeros(10), np.full(10, 0.001), 0.005) == []


def test_surface_water_is_a_lookalike() -> None:
    month = 588 + np.arange(72)  # from January 2019
    sigma = np.full(72, 0.05)
    calendar = month % 12 + 1
    melt = np.where(np.isin(calendar, [7, 8]) & (month < 612), 2.0, 0.0)
    assert "June" in str(explain_lookalike(month, melt, sigma, 900.0, SETTINGS))
    assert explain_lookalike(month, melt, sigma, 2000.0, SETTINGS) is None
    winter = np.where((month > 600) & (month < 640), 2.0, 0.0)
    assert explain_lookalike(month, winter, sigma, 900.0, SETTINGS) is None
    season = np.cos(2 * np.pi * month / 12)
    assert "annual" in str(explain_lookalike(month, season, sigma, 900.0, SETTINGS))


def test_searched_nodes_say_how_far_they_departed(found) -> None:
    nodes = found.nodes.set_index("node_id")
    x, y = nodes["x_m"] - CENTRE[0] + 4000, nodes["y_m"] - CENTRE[1] - 2000
    apart = np.hypot(x, y)
    # A paraboloid of 4 m and 2.5 km, its range between the 5 and 95 % quantiles of the history.
    shape = np.clip(1 - apart**2 / 2500.0**2, 0, 1)
    swing = 4 * np.ptp(np.quantile(FILL_AND_DRAIN, [0.05, 0.95]))
    inner = apart < 2000
    assert inner.sum() > 8
    np.testing.assert_allclose(
        nodes["departure_range_m"][inner], swing * shape[inner], rtol=0.25, atol=0.3
    )
    far = apart > 8000
    assert nodes["departure_range_m"][far].max() < 0.5
    assert nodes["lake_id"][far].isna().all() and (nodes["lake_id"][apart < 1500] == 1).all()


@pytest.mark.parametrize("edge", ["no nodes", "one node", "all null", "one month"])
def test_edges_give_tables_without_a_lake(edge: str) -> None:
    nodes, months = make_world((-4000.0, 2000.0, 2500.0, 4.0))
    if edge == "no nodes":
        nodes, months = nodes.iloc[:0], months.iloc[:0]
    elif edge == "one node":
        nodes = nodes.iloc[:1]
        months = months[months["node_id"].isin(nodes["node_id"])]
    elif edge == "all null":
        nodes = nodes.assign(rate_m_yr=np.nan)
    else:
        months = months[months["month"] == MONTHS[3]]
    nothing = find_lakes(nodes, months, MASCONS, SETTINGS, CRS)
    assert len(nothing.lakes) == len(nothing.months) == len(nothing.nodes) == 0
    check(from_pandas(nothing.nodes), SEARCHED_NODES)


def test_order_of_rows_changes_nothing(found) -> None:
    nodes, months = make_world((-4000.0, 2000.0, 2500.0, 4.0))
    again = find_lakes(
        nodes.sample(frac=1, random_state=1), months.sample(frac=1, random_state=2), MASCONS,
        SETTINGS, CRS,
    )  # fmt: skip
    pd.testing.assert_frame_equal(again.months, found.months)
    pd.testing.assert_frame_equal(again.nodes, found.nodes)


def test_jitter_is_the_spread_of_single_months_not_of_a_drainage() -> None:
    rng = np.random.default_rng(5)
    slow = np.concatenate([np.linspace(0, 8, 300), np.linspace(8, 0, 5), np.linspace(0, 2, 300)])
    assert measure_jitter(slow) == pytest.approx(0.0, abs=1e-12)
    assert measure_jitter(slow + rng.normal(0, 0.3, slow.size)) == pytest.approx(0.3, rel=0.15)
    assert measure_jitter(slow[:5]) == 0.0


def test_events_of_noise_are_as_rare_as_its_range_says() -> None:
    """Turns of Gaussian noise: its range beyond four σ of a difference (studentized range)."""
    rng = np.random.default_rng(6)
    months, series = 70, 1500
    found = [
        bool(find_events(value, np.ones(months), 1e-9))
        for value in rng.normal(size=(series, months))
    ]
    expected = studentized_range.sf(4 * np.sqrt(2), months, np.inf)
    assert 0.01 < expected < 0.1
    assert abs(np.mean(found) - expected) < 3 * np.sqrt(expected * (1 - expected) / series)


def test_rim_joins_and_halves_are_one_lake() -> None:
    """A row of nodes 1 km apart: two cores, a rim between and beside them, still ice beyond."""
    rng = np.random.default_rng(7)
    share = np.array([0.0, 0.2, 1.0, 1.0, 0.3, 1.0, 1.0, 0.2, 0.0, 0.0])
    nodes = pd.DataFrame({"x_m": np.arange(10) * 1000.0, "y_m": 0.0})
    month = np.arange(40)
    history = np.where(month < 25, month / 10.0, 0.0)
    departures = pd.DataFrame(
        {
            "node": np.repeat(np.arange(10), 40),
            "month": np.tile(month, 10),
            "departure_m": (share[:, None] * history + rng.normal(0, 0.03, (10, 40))).ravel(),
            "noise_m": 0.03,
        }
    )
    groups = [np.array([2, 3]), np.array([5, 6])]
    (grown,) = grow_groups(nodes, departures, groups, SETTINGS)
    assert grown.tolist() == [1, 2, 3, 4, 5, 6, 7]
    # Halves with histories of their own stay apart.
    other = departures["node"] >= 4
    departures.loc[other, "departure_m"] = (
        share[4:, None] * np.roll(history[::-1], 3) + rng.normal(0, 0.03, (6, 40))
    ).ravel()
    first, second = grow_groups(nodes, departures, groups, SETTINGS)
    assert first.tolist() == [1, 2, 3] and second.tolist() == [4, 5, 6, 7]


def test_a_steady_drift_is_no_lake_and_a_turn_is() -> None:
    month = np.arange(60)
    rng = np.random.default_rng(8)
    drift = 0.03 * month + rng.normal(0, 0.1, 60)
    fill, drain = {"kind": "fill"}, {"kind": "drain"}
    assert is_steady(month, drift, [fill])
    assert not is_steady(month, drift, [fill, drain])
    assert not is_steady(month, np.where(month < 40, 0.0, 2.0), [fill])
    assert not is_steady(month, np.zeros(60), [])


#: A place near which tracks 14 and 15 cross, 6 km apart otherwise.
CROSSING = (-3052.0, -4000.0)


@pytest.mark.parametrize("biased", [(3,), (4,)])
def test_what_one_track_alone_shows_is_a_lookalike(biased: tuple[int, ...]) -> None:
    """Both tracks see the same ice in turn; one reads 2 m too high from a month on."""
    place = (CROSSING[0] * (1 if biased == (3,) else -1), CROSSING[1])
    nodes, months = make_world(
        None, tracks=(3, 4), biased=biased, patch=(*place, 2500.0), bias_m=2.0
    )
    found = find_lakes(nodes, months, MASCONS, SETTINGS, CRS).lakes.iloc[0]
    assert found["status"] == "lookalike"
    assert found["n_denying"] >= 3 and found["n_confirming"] == 0
    assert f"only track {biased[0] + 11} " in found["reason"]
    # A lake in that place, which both see, and a bias of both are no bias of one.
    lake = make_world((*place, 2500.0, 4.0), tracks=(3, 4))
    both = make_world(None, tracks=(3, 4), biased=(3, 4), patch=(*place, 2500.0), bias_m=2.0)
    for world in (lake, both):
        found = find_lakes(*world, MASCONS, SETTINGS, CRS).lakes.iloc[0]
        assert found["status"] == "candidate"
        assert found["n_tracks"] == 2 and found["n_confirming"] >= 5 and found["n_denying"] == 0


def test_a_candidate_of_a_single_track_says_so() -> None:
    found = find_lakes(
        *make_world((*CROSSING, 2500.0, 4.0), tracks=(3,)), MASCONS, SETTINGS, CRS
    ).lakes.iloc[0]
    assert found["status"] == "candidate"
    assert (found["n_tracks"], found["n_confirming"], found["n_denying"]) == (1, 0, 0)


def test_a_bias_of_one_pass_is_no_candidate() -> None:
    """Each track passes once in three months."""
    world = {"tracks": (3, 4), "biased": (3,), "patch": (*CROSSING, 2500.0), "bias_m": 2.0}
    one = make_world(None, bias_months=slice(40, 43), **world)
    assert len(find_lakes(*one, MASCONS, SETTINGS, CRS).lakes) == 0
    many = make_world(None, bias_months=slice(40, None), **world)
    assert len(find_lakes(*many, MASCONS, SETTINGS, CRS).lakes) == 1


@pytest.mark.parametrize(
    ("relief", "reason"),
    [
        ({"slope": 0.2}, "steep"),
        ({"rms_m": 3.0, "interannual_m": 0.3}, "rough"),
        # Residuals as large, but of whole months: the lake itself.
        ({"rms_m": 3.0, "interannual_m": 2.9}, None),
        ({"slope": 0.05}, None),
    ],
)
def test_steep_or_rough_ice_explains_a_departure(relief: dict, reason: str | None) -> None:
    nodes, months = make_world((-4000.0, 2000.0, 2500.0, 4.0))
    (lake,) = find_lakes(nodes.assign(**relief), months, MASCONS, SETTINGS, CRS).lakes.itertuples()
    assert lake.status == ("candidate" if reason is None else "lookalike")
    assert reason is None or reason in lake.reason
    assert lake.slope == pytest.approx(relief.get("slope", 0.01))


def test_relief_explains_up_to_its_size() -> None:
    # 4.4 m off to either side, twice, on a slope of 5 %: 0.88 m.
    assert "steep" in str(explain_relief(0.87, 0.05, 0.0, SETTINGS))
    assert explain_relief(0.89, 0.05, 0.0, SETTINGS) is None
    assert "rough" in str(explain_relief(0.89, 0.05, 0.9, SETTINGS))
    exact = HydrologySettings(geolocation_error_m=0.0)
    assert explain_relief(0.01, 0.05, 0.0, exact) is None
    # Months that differ by σ 0.8 and segments by σ 0.6 within them; months alone.
    nodes = pd.DataFrame({"rms_m": [1.0, 0.5], "interannual_m": [0.8, 0.6]})
    assert measure_scatter(nodes) == pytest.approx(0.6 / np.sqrt(2))


def test_open_sides_are_those_that_move_beside_unsearched_ice() -> None:
    """A square of 3 × 3 members in 5 × 5 nodes: twelve sides."""
    places = np.array([(x, y) for x in range(5) for y in range(5)]) * 1000.0
    spacing, members = np.full(25, 1000.0), np.array([6, 7, 8, 11, 12, 13, 16, 17, 18])
    outline = shapely.box(500, 500, 3500, 3500)
    shape = np.ones(9)

    def share(judged: np.ndarray) -> float:
        return measure_open_share(places, spacing, judged, members, shape, outline)

    everywhere = np.arange(25)
    assert share(everywhere) == 0.0
    west = everywhere[places[:, 0] > 500]
    assert share(west) == pytest.approx(3 / 12)
    assert share(members) == 1.0
    # Where it has faded there is nothing more to find.
    shape[:3] = 0.2
    assert share(west) == 0.0
    # A gap that the outline closes is no side.
    members, shape = np.delete(members, 4), np.ones(8)
    assert share(np.delete(everywhere, 12)) == 0.0


def test_a_lake_cut_by_unsearched_ice_is_a_lower_bound() -> None:
    """Its middle 500 m from the edge of the window, and well inside."""
    cut, whole = (
        find_lakes(*make_world((x, 0.0, 2500.0, 4.0)), MASCONS, SETTINGS, CRS).lakes.iloc[0]
        for x in (-9500.0, -1500.0)
    )
    assert (cut["status"], whole["status"]) == ("candidate", "candidate")
    assert cut["volume_is_lower_bound"] and not whole["volume_is_lower_bound"]
    assert cut["open_share"] > 0.25 > whole["open_share"]
    assert cut["volume_range_km3"] < 0.75 * whole["volume_range_km3"]


@pytest.mark.parametrize(
    ("beyond", "departs"),
    [
        ([30, 33, 36], True),
        # Three months in a row, as passes of several tracks may see; two half a year apart.
        ([30, 31, 32], False),
        ([30, 36], False),
        # With one lapse in four months, and with two in five.
        ([30, 31, 36, 32], True),
    ],
)
def test_a_departure_lasts_half_a_year_with_few_lapses(beyond: list[int], departs: bool) -> None:
    month = np.array([*range(0, 30, 3), *sorted(beyond), *range(39, 60, 3)])
    value = np.where(np.isin(month, beyond), 1.0, 0.0)
    table = pd.DataFrame({"node": 4, "month": month, "departure_m": value, "noise_m": 0.05})
    assert find_departing(table, SETTINGS).tolist() == ([4] if departs else [])
    # Half of the months between lapse.
    lapse = table.assign(departure_m=np.where(np.arange(len(table)) % 2, value, 0.0))
    assert find_departing(lapse, SETTINGS).tolist() == []
    # Below half a metre, and within three MADs of noise.
    assert find_departing(table.assign(departure_m=0.49 * value), SETTINGS).tolist() == []
    assert find_departing(table.assign(noise_m=0.51), SETTINGS).tolist() == []
