import numpy as np
import pytest
import shapely
from pyproj import Geod, Transformer

from cryofuse.simulate import orbit

GEOD = Geod(ellps="WGS84")


def test_tracks_divide_the_equator_evenly():
    nodes = np.sort(orbit.node_longitude(np.arange(1, 1388)))
    assert np.allclose(np.diff(nodes), 360 / 1387, atol=1e-9)


def test_consecutive_tracks_are_consecutive_orbits():
    # The Earth turns 91 times under the plane in 1 387 revolutions.
    shift = (orbit.node_longitude(1) - orbit.node_longitude(2)) % 360
    assert shift == pytest.approx(360 * 91 / 1387, abs=1e-9)
    minutes = (orbit.node_seconds(2, 1) - orbit.node_seconds(1, 1)) / 60
    assert minutes == pytest.approx(94.29, abs=0.01)
    assert orbit.node_seconds(1, 2) - orbit.node_seconds(1387, 1) == pytest.approx(60 * minutes)


def test_track_follows_the_closed_formula_of_a_circular_orbit():
    argument = np.array([0.0, 30.0, 57.0, 90.0, 135.0, 200.0, 300.0])
    longitude, latitude = orbit.track_points(1, argument)
    # Position on a sphere of the orbit's radius by rotation matrices, then PROJ's own inverse.
    i, u = np.radians(92.0), np.radians(argument)
    radius = 6_378_137.0 + 496_000.0
    orbital = radius * np.stack([np.cos(u), np.sin(u) * np.cos(i), np.sin(u) * np.sin(i)])
    turn = np.radians(orbit.node_longitude(1) - argument / 360 * (360 * 91 / 1387))
    x = np.cos(turn) * orbital[0] - np.sin(turn) * orbital[1]
    y = np.sin(turn) * orbital[0] + np.cos(turn) * orbital[1]
    move = Transformer.from_crs("EPSG:4978", "EPSG:4979", always_xy=True)
    lon, lat, _ = move.transform(x, y, orbital[2])
    assert np.allclose(latitude, lat, atol=1e-7)
    assert np.allclose((longitude - lon + 180) % 360 - 180, 0, atol=1e-7)


def test_highest_latitude_is_that_of_the_inclination():
    latitude = orbit.track_points(1, np.linspace(0, 360, 3601))[1]
    assert latitude.max() == pytest.approx(88.01, abs=0.02)
    assert latitude.min() == pytest.approx(-88.01, abs=0.02)


def test_azimuth_at_the_node_has_the_turning_earth_in_it():
    azimuth = orbit.beam_points(5, np.array([0.0]), np.zeros((1, 1)))[2][0]
    # Eastward over northward speed: cos(i) less the Earth's turns per revolution, over sin(i);
    # geodetic latitude runs slower than geocentric on a flattened Earth seen from above.
    expected = np.degrees(np.arctan2(np.cos(np.radians(92)) - 91 / 1387, np.sin(np.radians(92))))
    assert azimuth == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("rgt", "longitude", "tolerance"),
    # Ascending nodes as stated by granules of several cycles.
    [(338, -39.8391, 0.01), (1352, 130.1682, 0.01), (878, 165.7261, 0.01), (235, -127.0482, 0.01)],
)
def test_nodes_lie_where_the_mission_has_them(rgt, longitude, tolerance):
    assert orbit.node_longitude(rgt) == pytest.approx(longitude, abs=tolerance)


def test_times_are_the_missions_over_years():
    # Track 878 of cycle 20 crossed the equator on 2023-08-16 at 16:08:06.
    time = orbit.seconds_to_time(orbit.node_seconds(878, 20))
    assert abs(time - np.datetime64("2023-08-16T16:08:06")) < np.timedelta64(60, "s")
    assert orbit.orbit_number(878, 20) == 27432


def test_beams_keep_their_distances_on_the_ellipsoid():
    argument = np.array([60.0, 75.0, 88.0, 100.0])
    lon, lat, azimuth = orbit.beam_points(277, argument, orbit.BEAM_OFFSETS_M[:, None])

    def apart(a, b):
        return GEOD.inv(lon[a], lat[a], lon[b], lat[b])[2]

    for left, right in ((0, 1), (2, 3), (4, 5)):
        assert np.allclose(apart(left, right), 90.0, atol=0.05)
    for pair, other in ((0, 2), (2, 4)):
        assert np.allclose(apart(pair, other), 3300.0, atol=1.0)
    # From right to left is a quarter turn against the clock from the way of flight.
    to_left = GEOD.inv(lon[5], lat[5], lon[0], lat[0])[0]
    assert np.allclose((to_left - azimuth + 180) % 360 - 180, -90, atol=1.5)


def test_distance_along_the_track_is_the_geodesic():
    argument = np.array([59.4, 62.0, 70.0, 79.5])
    lon, lat = orbit.track_points(3, np.linspace(59.4, 79.5, 4000))
    whole = GEOD.inv(lon[:-1], lat[:-1], lon[1:], lat[1:])[2].sum()
    along = orbit.along_track(argument)
    assert along[-1] - along[0] == pytest.approx(whole, abs=5.0)
    assert np.allclose(orbit.argument_at(along), argument, atol=1e-9)


def test_orbit_regions_begin_at_their_latitudes():
    regions = orbit.orbit_regions()
    assert [region.number for region in regions] == list(range(1, 15))
    latitude = [float(orbit.track_points(1, np.array([r.start]))[1][0]) for r in regions]
    wanted = [0, 27, 59.5, 80, 80, 59.5, 27, 0, -27, -50, -79, -79, -50, -27]
    assert np.allclose(latitude, wanted, atol=0.01)
    assert all(a.stop == b.start for a, b in zip(regions[:-1], regions[1:], strict=True))


def test_greenland_is_seen_in_regions_3_4_5_and_antarctica_in_10_11_12():
    north = orbit.find_passes(shapely.box(-200e3, -2500e3, 300e3, -900e3), "EPSG:3413", 100)
    assert {p.orbit_region for p in north} == {3, 4, 5}
    south = orbit.find_passes(shapely.box(-1000e3, -1000e3, 1500e3, 2000e3), "EPSG:3031", 300)
    assert {p.orbit_region for p in south} == {10, 11, 12}


def test_every_track_over_a_window_is_found():
    box = (-120e3, -2290e3, -100e3, -2270e3)
    found = orbit.find_passes(shapely.box(0, 0, 1, 1).buffer(1), "EPSG:3413", 1387, [box])
    rgt = np.arange(1, 1388)
    argument = np.concatenate([np.arange(60, 80, 0.005), np.arange(100, 120, 0.005)])
    # Independent search: a spherical distance to the middle, then the projection.
    lon, lat = orbit.track_points(rgt[:, None], argument[None, :])
    middle = Transformer.from_crs("EPSG:3413", "EPSG:4326", always_xy=True).transform(
        -110e3, -2280e3
    )
    near = np.hypot((lon - middle[0]) * np.cos(np.radians(69)), lat - middle[1]) < 0.4
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:3413", always_xy=True).transform(
        lon[near], lat[near]
    )
    inside = (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
    crossing = set(np.broadcast_to(rgt[:, None], lon.shape)[near][inside].tolist())
    assert len(crossing) >= 4
    assert crossing <= {p.rgt for p in found if p.window_spans}


def test_safe_holds_and_orientation():
    assert orbit.in_safe_hold(np.datetime64("2019-07-10", "us"))
    assert orbit.in_safe_hold(np.datetime64("2022-04-16T23:00", "us"))
    assert not orbit.in_safe_hold(np.datetime64("2022-04-17", "us"))
    days = np.arange(0, 365 * 6)
    seconds = days * 86_400.0 + orbit.node_seconds(235, 1)
    states = np.array([orbit.orientation(s) for s in seconds])
    # As stated by granules: forward in October 2018, backward in April to June 2019.
    assert states[0] == 1
    assert orbit.orientation(40_641_819.4) == 0
    assert 1 < np.abs(np.diff(states)).sum() / 6 < 2.5


def test_thinned_tracks_are_evenly_spread_in_longitude():
    nodes = np.sort((np.array(orbit.thin_tracks(12)) * -360.0 * 91 / 1387) % 360.0)
    gaps = np.diff(np.append(nodes, nodes[0] + 360.0))
    assert len(nodes) == 116
    assert gaps.max() < 1.01 * 12 * 360.0 / 1387
