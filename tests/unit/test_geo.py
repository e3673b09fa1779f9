import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st

from cryofuse import geo
from cryofuse.config import ElevationSettings, RegionSettings, load_config

ROOT = Path(__file__).parents[2]
# Mean Earth radius of equal area (km); Moritz 2000, Geodetic Reference System 1980.
R2_KM = 6371.0072


def outline(name):
    return geo.load_outline(load_config({"regions": name}, ROOT / "config" / "regions")[1][name])


@pytest.mark.parametrize(
    ("name", "crs", "low", "high"),
    [
        # Rastner et al. 2012 (ice sheet 1.68–1.80 million km²); Burton-Banks 2021 grounded
        # Antarctica 12.3 million km²; Björnsson and Pálsson 2008: Vatnajökull 8 100 km².
        ("greenland", "EPSG:3413", 1.68e6, 1.82e6),
        ("antarctica", "EPSG:3031", 12.0e6, 12.6e6),
        ("vatnajokull", "EPSG:3413", 7.4e3, 8.5e3),
    ],
)
def test_shipped_outlines_have_the_area_of_their_ice(name, crs, low, high):
    assert low < geo.area_km2(outline(name), crs) < high


def test_antarctica_is_whole_over_the_pole_and_the_antimeridian():
    whole = outline("antarctica")
    assert whole.is_valid
    assert whole.contains(shapely.Point(0, 0))
    # No seam along the antimeridian: the point lies deep inside on either side of it.
    assert whole.contains(shapely.Point(0, -400_000).buffer(50_000))


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "outlines").glob("*.geojson")), ids=str)
def test_shipped_outlines_are_small_and_in_degrees(path):
    assert path.stat().st_size < 50_000
    content = json.loads(path.read_text())
    for feature in content["features"]:
        west, south, east, north = shapely.geometry.shape(feature["geometry"]).bounds
        assert -180 <= west <= east <= 180
        assert -90 <= south <= north <= 90


@given(st.floats(-170, 100), st.floats(50, 80), st.floats(1, 60), st.floats(1, 9))
def test_the_area_of_a_box_is_that_of_the_closed_formula(west, south, width, height):
    box = geo.box_polygon(west, south, west + width, south + height)
    projected = geo.reproject(box, "EPSG:4326", "EPSG:3413")
    # Authalic sphere; the latitude is taken as geodetic, which is good to half a per cent.
    bands = np.sin(np.radians(south + height)) - np.sin(np.radians(south))
    expected = R2_KM**2 * np.radians(width) * bands
    assert geo.area_km2(projected, "EPSG:3413") == pytest.approx(expected, rel=0.012)


@example(-5e-324, 0.0, 50e3)
@given(st.floats(-3e6, 3e6), st.floats(-3e6, 3e6), st.sampled_from([50e3, 100e3, 500e3]))
def test_a_point_lies_in_the_tile_of_its_name(x, y, tile_m):
    tile = geo.tile_bounds(geo.tile_name(x, y, tile_m), tile_m)
    assert tile.x_min <= x < tile.x_max
    assert tile.y_min <= y < tile.y_max


def test_tiles_cover_the_outline_and_nothing_else():
    shape = shapely.Polygon([(10, 10), (250, 10), (10, 130)])
    names = geo.list_tiles(shape, 100.0)
    squares = [geo.tile_bounds(name, 100.0) for name in names]
    cover = shapely.union_all([shapely.box(t.x_min, t.y_min, t.x_max, t.y_max) for t in squares])
    assert cover.covers(shape)
    assert all(shapely.box(t.x_min, t.y_min, t.x_max, t.y_max).intersects(shape) for t in squares)
    assert "x2_y1" not in names


def test_windows_lie_on_multiples_of_their_spacing():
    settings = ElevationSettings.model_validate(
        {"windows": [{"name": "a", "longitude": -48.3, "latitude": 69.2, "width_m": 20_000}]}
    )
    x_min, y_min, x_max, y_max = geo.window_bounds(settings.windows[0], "EPSG:3413")
    assert (x_min % 1000, y_min % 1000, x_max - x_min, y_max - y_min) == (0, 0, 20_000, 20_000)
    x, y = geo.project(-48.3, 69.2, "EPSG:3413")
    assert abs((x_min + x_max) / 2 - x) <= 1000
    inside = geo.in_window(
        np.array([x_min, x_max]), np.array([y_min, y_min]), settings, "EPSG:3413"
    )
    assert inside.tolist() == [0, -1]


def test_the_scale_factor_is_one_on_the_standard_parallel():
    x, y = geo.project(np.array([-45.0, 0.0]), np.array([70.0, 70.0]), "EPSG:3413")
    assert geo.scale_factor(x, y, "EPSG:3413") == pytest.approx(1.0, abs=1e-6)


def test_a_box_region_crosses_the_antimeridian():
    region = RegionSettings(
        title="box",
        crs="EPSG:3031",
        outline={"west": 170, "south": -80, "east": -170, "north": -75},
    )
    x, y = geo.project(180.0, -77.0, "EPSG:3031")
    assert geo.load_outline(region).contains(shapely.Point(float(x), float(y)))


def test_points_are_located_over_any_turn_of_longitude() -> None:
    boxes = [shapely.box(310, 60, 320, 70), shapely.box(-50, 60, -35, 65)]
    longitude = np.array([-45.0, 315.0, -38.0, 322.0, 100.0, -45.0])
    latitude = np.array([62.0, 62.0, 62.0, 62.0, 62.0, 80.0])
    # The first polygon wins where both hold a point.
    assert geo.locate(longitude, latitude, boxes).tolist() == [0, 0, 1, 1, -1, -1]


def test_distances_are_great_circles():
    # Angle between unit vectors: another formula.
    lon, lat = np.array([-50.0, 315.0, 179.0, -179.0]), np.array([60.0, 84.0, -75.5, -75.5])
    a, b = np.radians(lat), np.radians(lon)
    xyz = np.column_stack([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)])
    cross = np.linalg.norm(np.cross(xyz[:, None], xyz[None]), axis=-1)
    expected = 6371.0 * np.arctan2(cross, xyz @ xyz.T)
    np.testing.assert_allclose(geo.distance_matrix_km(lon, lat), expected, atol=1e-6)
    # A quarter of the Earth's round, from the equator to a pole; and no distance to oneself.
    assert geo.great_circle_km(20.0, 0.0, -75.0, 90.0) == pytest.approx(np.pi / 2 * 6371.0)
    assert geo.great_circle_km(20.0, 50.0, 380.0, 50.0) == pytest.approx(0.0, abs=1e-6)
