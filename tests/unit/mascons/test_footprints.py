"""Footprints on ice: areas, pole, antimeridian, selection and neighbours."""

import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely

from cryofuse.config import SelectSettings
from cryofuse.logs import UserError
from cryofuse.mascons.blocks import block_geometry, degree_box
from cryofuse.mascons.footprints import (
    load_footprints,
    locate,
    measure_footprints,
    measure_ice,
    neighbours,
    region_extent,
    select_mascons,
)

#: Semi-axes of WGS84 (km).
A, B = 6378.137, 6356.752314245


def _zone_km2(south, north, degrees):
    """Return the area of an ellipsoidal zone by the closed formula (Snyder 1987, 3-12)."""
    e = np.sqrt(1 - (B / A) ** 2)

    def q(latitude):
        s = np.sin(np.radians(latitude))
        return (1 - e**2) * (s / (1 - e**2 * s**2) - np.log((1 - e * s) / (1 + e * s)) / (2 * e))

    return A**2 / 2 * (q(north) - q(south)) * np.radians(degrees)


def _frame(*boxes, land=1e5):
    return geopandas.GeoDataFrame(
        {
            "mascon_id": np.arange(1, len(boxes) + 1, dtype=np.int32),
            "land_area_km2": np.full(len(boxes), land),
        },
        geometry=[degree_box(*box) for box in boxes],
        crs="EPSG:4326",
    )


@pytest.mark.parametrize(
    "box",
    [
        (300.0, 73.5, 311.5, 76.5),
        (170.0, -75.0, 190.0, -72.0),
        (-180.0, 88.5, 180.0, 90.0),
        (-180.0, 85.5, 180.0, 88.5),
        (0.0, -90.0, 360.0, -88.5),
        (-10.0, -1.5, 10.0, 1.5),
    ],
)
def test_footprint_area_is_that_of_the_ellipsoid_anywhere(box):
    west, south, east, north = box
    measured = measure_footprints(_frame(box))
    assert measured["area_km2"].iloc[0] == pytest.approx(
        _zone_km2(south, north, east - west), rel=2e-4
    )


def test_cells_that_end_at_the_antimeridian_are_one_box_whatever_their_last_bits():
    for count in range(3, 361):
        width = 360 / count
        centre = (width * np.arange(count) + width / 2 + 180) % 360 - 180
        boxes = [degree_box(c - width / 2, 10.0, c + width / 2, 11.0) for c in centre]
        assert sum(box.area for box in boxes) == pytest.approx(360, rel=1e-6)
        cut = [box for box in boxes if box.geom_type == "MultiPolygon"]
        # With an even number a meridian between two cells is the antimeridian.
        assert len(cut) == count % 2
        assert all(-180 <= box.bounds[0] < box.bounds[2] <= 180 for box in boxes)


def test_blocks_of_any_form_are_their_cells():
    rng = np.random.default_rng(2)
    latitude, longitude = np.arange(60.125, 64, 0.25), np.arange(0.125, 360, 0.25)
    rows, columns = np.nonzero(rng.random((8, 8)) < 0.6)
    block = block_geometry(rows, (columns + 1436) % 1440, latitude, longitude)
    assert block.area == pytest.approx(rows.size * 0.25**2)
    lon = (longitude[(columns + 1436) % 1440] + 180) % 360 - 180
    assert shapely.contains_xy(block, lon, latitude[rows]).all()


def _globe():
    """Return 15° boxes and two caps that tile the globe."""
    boxes = [(-180.0, 84.0, 180.0, 90.0), (-180.0, -90.0, 180.0, -84.0)]
    for south in range(-84, 84, 12):
        boxes += [(west, south, west + 15.0, south + 12.0) for west in np.arange(7.5, 367.5, 15.0)]
    return _frame(*boxes)


@pytest.mark.parametrize(
    ("crs", "ice"),
    [
        # A disc about each pole, and one across the antimeridian off Fiji.
        ("EPSG:3413", shapely.Point(2e5, -3e5).buffer(1.5e6, quad_segs=90)),
        ("EPSG:3031", shapely.Point(1e5, 1e5).buffer(2e6, quad_segs=90)),
        ("EPSG:3832", shapely.box(3.2e6, -2e6, 3.9e6, -1.5e6)),
    ],
)
def test_ice_is_shared_out_among_mascons_without_loss(crs, ice):
    from cryofuse.geo import transformer

    mascons = measure_footprints(_globe())
    parts = measure_ice(mascons, ice, crs)
    # The same ice by geodesic polygon area, independent of any projection.
    import pyproj

    ring = shapely.get_coordinates(shapely.segmentize(ice, 5_000).exterior)
    lon, lat = transformer(crs, "EPSG:4326").transform(ring[:, 0], ring[:, 1])
    expected = abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0]) / 1e6
    if ice.covers(shapely.Point(0, 0)):
        expected = min(expected, 510_065_622 - expected)
    assert parts["ice_area_km2"].sum() == pytest.approx(expected, rel=1e-3)
    assert (parts["ice_area_km2"] <= parts["area_km2"] * (1 + 1e-5)).all()
    # Nothing is missed by reading only mascons of the region's extent.
    west, south, east, north = region_extent(ice, crs)
    boxes = (
        shapely.box(-180, south, 180, north)
        if east - west >= 360
        else (degree_box(west, south, east, north))
    )
    touched = mascons[mascons.intersects(boxes)]["mascon_id"]
    assert set(parts["mascon_id"]) <= set(touched)


def test_known_footprints_are_the_31_of_greenland():
    known = load_footprints("jpl_greenland")
    assert len(known) == 31
    assert known["in_product_set"].sum() == 27
    assert known.total_bounds == pytest.approx((-80.0, 58.5, 0.0, 85.5))
    with pytest.raises(UserError, match="none of jpl_greenland"):
        load_footprints("jpl_mars")


def test_selection_rules():
    table = _frame((0, 70, 3, 73), (3, 70, 6, 73), (6, 70, 9, 73)).assign(
        ice_fraction=[0.1, 0.3, 0.9],
        whole_ice_fraction=[np.nan, 0.2, np.nan],
        in_product_set=pd.array([None, None, None], dtype="boolean"),
    )
    assert select_mascons(table, SelectSettings())["selected"].tolist() == [False, False, True]
    by_id = SelectSettings(rule="ids", ids=[1, 2])
    assert select_mascons(table, by_id)["selected"].tolist() == [True, True, False]
    with pytest.raises(UserError, match=r"\[8\]"):
        select_mascons(table, SelectSettings(rule="ids", ids=[8]))
    with pytest.raises(UserError, match="product_set"):
        select_mascons(table, SelectSettings(rule="product_set"))


def test_neighbours_share_edges_also_over_the_antimeridian_and_the_pole():
    mascons = _frame(
        (170.0, 81.0, 180.0, 84.0),
        (180.0, 81.0, 190.0, 84.0),
        (200.0, 81.0, 210.0, 84.0),
        (-180.0, 84.0, 180.0, 90.0),
        (0.0, 60.0, 10.0, 63.0),
    )
    pairs = neighbours(mascons)
    touching = {(row.mascon_id, row.neighbour_id) for row in pairs.itertuples()}
    assert touching == {(1, 2), (2, 1), (1, 4), (4, 1), (2, 4), (4, 2), (3, 4), (4, 3)}
    wider = neighbours(mascons, 200.0)
    apart = wider[(wider["mascon_id"] == 2) & (wider["neighbour_id"] == 3)]["distance_km"].iloc[0]
    # Ten degrees of longitude at 84°N, along the shorter chord.
    assert apart == pytest.approx(6400 * np.cos(np.radians(84)) * np.radians(10), rel=0.02)


def test_points_are_found_in_either_longitude_convention_and_edges_have_one_owner():
    mascons = _frame((170.0, 70.0, 190.0, 73.0), (190.0, 70.0, 200.0, 73.0))
    found = locate(mascons, np.array([175.0, 185.0, -175.0, 190.0, -165.0, 0.0]), np.full(6, 71.0))
    assert found.tolist() == [1, 1, 1, 1, 2, 0]


@pytest.mark.parametrize("name", ["greenland", "antarctica", "vatnajokull"])
def test_shipped_outlines_are_shared_out_to_a_thousandth(name):
    import yaml

    from cryofuse.config import RegionSettings
    from cryofuse.geo import area_km2
    from cryofuse.rasters import load_ice

    root = Path(__file__).parents[3]
    content = yaml.safe_load((root / "config" / "regions" / f"{name}.yaml").read_text())
    content["outline"] = str(root / content["outline"])
    region = RegionSettings.model_validate(content)
    ice = load_ice(region).polygon
    parts = measure_ice(measure_footprints(_globe()), ice, region.crs)
    assert parts["ice_area_km2"].sum() == pytest.approx(area_km2(ice, region.crs), rel=1e-3)


def test_the_package_loads_its_parts_only_when_they_are_asked_for():
    code = (
        "import sys, cryofuse.mascons, cryofuse.fusion; "
        "assert not {'geopandas', 'pandas', 'cryofuse.mascons.jpl'} & set(sys.modules); "
        "from cryofuse.mascons import read_mascons; "
        "assert 'cryofuse.mascons.csr' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
