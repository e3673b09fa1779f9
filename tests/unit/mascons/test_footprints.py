"""Footprints on ice: areas, pole, antimeridian, selection and neighbours."""

import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
import yaml
from pyproj import Transformer

from cryofuse.config import RegionSettings, SelectSettings
from cryofuse.logs import UserError
from cryofuse.mascons.blocks import block_geometry, degree_box
from cryofuse.mascons.csr import degree_cells
from cryofuse.mascons.footprints import (
    load_footprints,
    locate,
    measure_footprints,
    measure_ice,
    neighbours,
    region_extent,
    select_mascons,
)
from cryofuse.mascons.jpl import place_bands
from cryofuse.rasters import load_ice
from cryofuse.simulate.placement import degree_footprints, tile_footprints
from cryofuse.tables import MASCONS, write_geo_table

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


def _boxes(ids, west, south, east, north):
    frame = _frame(*zip(west, south, east, north, strict=True))
    return frame.assign(mascon_id=np.asarray(ids, dtype=np.int32))


@pytest.fixture(scope="module")
def footprints_of():
    """Footprints of each product over the two caps of the globe, measured."""
    bands = place_bands()
    boxes = degree_footprints()
    boxes = boxes.take(np.flatnonzero(np.abs(boxes.south) >= 55))
    latitude, longitude = np.arange(-89.875, 90, 0.25), np.arange(0.125, 360, 0.25)
    polar = latitude[np.abs(latitude) > 59]
    cells = [degree_cells(part, longitude) for part in (polar[polar < 0], polar[polar > 0])]
    owner = tile_footprints().locate(*np.meshgrid(longitude, polar))
    rows, columns = np.indices(owner.shape)
    order = np.argsort(owner, axis=None, kind="stable")
    numbers, first = np.unique(owner.ravel()[order], return_index=True)
    parts = [np.split(v.ravel()[order], first[1:]) for v in (rows, columns)]
    # Rows of both caps: the grid between them is left out, so rows count from the south pole.
    whole_row = np.flatnonzero(np.abs(latitude) > 59)
    tiles = [
        block_geometry(whole_row[i], j, latitude, longitude) for i, j in zip(*parts, strict=True)
    ]
    frames = {
        "jpl": _boxes(bands[:, 0], *bands[:, [3, 1, 4, 2]].T),
        "gsfc": _boxes(boxes.mascon_id, boxes.west, boxes.south, boxes.east, boxes.north),
        "csr cells": pd.concat(cells, ignore_index=True),
        "csr tiles": geopandas.GeoDataFrame(
            {"mascon_id": (numbers + 1).astype(np.int32)}, geometry=tiles, crs="EPSG:4326"
        ),
    }
    return {k: measure_footprints(v.assign(land_area_km2=1e5)) for k, v in frames.items()}


def _geodesic_km2(geometry, crs):
    """Return the ellipsoidal area of polygons by their geodesic edges, without a projection."""
    from pyproj import Geod, Transformer

    geod = Geod(ellps="WGS84")
    move = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform

    def ring(line):
        x, y = shapely.get_coordinates(shapely.segmentize(line, 5_000)).T
        area = abs(geod.polygon_area_perimeter(*move(x, y))[0]) / 1e6
        return min(area, 510_065_621.7 - area)

    polygons = [p for p in shapely.get_parts(geometry) if p.geom_type == "Polygon"]
    return sum(ring(p.exterior) - sum(map(ring, p.interiors)) for p in polygons)


@pytest.mark.parametrize("name", ["greenland", "antarctica", "vatnajokull"])
@pytest.mark.parametrize("product", ["jpl", "gsfc", "csr cells", "csr tiles"])
def test_shipped_outlines_are_shared_out_to_a_thousandth(name, product, footprints_of):
    root = Path(__file__).parents[3]
    content = yaml.safe_load((root / "config" / "regions" / f"{name}.yaml").read_text())
    content["outline"] = str(root / content["outline"])
    region = RegionSettings.model_validate(content)
    ice = load_ice(region).polygon
    parts = measure_ice(footprints_of[product], ice, region.crs)
    assert parts["ice_area_km2"].sum() == pytest.approx(_geodesic_km2(ice, region.crs), rel=1e-3)
    assert (parts["ice_area_km2"] <= parts["area_km2"] * (1 + 1e-4)).all()
    if name == "greenland":
        # The ice of one mascon alone, cut by its own parallels and meridians.
        number = parts["mascon_id"].iloc[len(parts) // 2]
        outline = footprints_of[product].set_index("mascon_id").geometry[number]
        dense = shapely.segmentize(outline, 0.02)
        move = Transformer.from_crs("EPSG:4326", region.crs, always_xy=True).transform
        there = shapely.transform(dense, lambda xy: np.column_stack(move(xy[:, 0], xy[:, 1])))
        alone = _geodesic_km2(ice.intersection(there), region.crs)
        found = parts.set_index("mascon_id")["ice_area_km2"][number]
        assert found == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("product", ["jpl", "gsfc", "csr tiles"])
def test_neighbours_of_the_pole_and_the_antimeridian_touch(product, footprints_of):
    mascons = footprints_of[product]
    cap = mascons[mascons["latitude"] < -75]
    pairs = neighbours(cap)
    touching = set(zip(pairs["mascon_id"], pairs["neighbour_id"], strict=True))
    # Every two footprints that hold points a little apart are neighbours: about the pole, on
    # either side of the antimeridian, and anywhere.
    rng = np.random.default_rng(6)
    lon = np.concatenate([np.full(200, 180.0), rng.uniform(-180, 180, 400)])
    lat = np.concatenate(
        [rng.uniform(-88, -80, 200), np.full(200, -90.0), rng.uniform(-88, -80, 200)]
    )
    turn = 0.05 / np.maximum(np.cos(np.radians(lat)), 1e-2)
    lat[200:400] += 0.02
    a, b = locate(cap, lon - turn, lat), locate(cap, lon + turn, lat + 0.01)
    assert (a > 0).all() and (b > 0).all()
    crossed = {(i, j) for i, j in zip(a.tolist(), b.tolist(), strict=True) if i != j}
    assert len(crossed) > 5
    assert crossed <= touching
    assert {(j, i) for i, j in touching} == touching


def test_ice_of_a_raster_mask_over_the_pole_is_shared_out(tmp_path, footprints_of):
    import rasterio
    from pyproj import Geod

    side = 50_000.0
    x = (np.arange(40) - 19.5) * side
    ice = np.hypot(x[:, np.newaxis], x - 3e5) < 7e5
    path = tmp_path / "mask.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=40, height=40, count=1, dtype="uint8",
        crs="EPSG:3031", transform=rasterio.transform.from_origin(-1e6, 1e6, side, side),
    ) as file:  # fmt: skip
        file.write(ice.astype("uint8"), 1)
    region = RegionSettings(
        title="Cells", crs="EPSG:3031", outline={
            "type": "Polygon",
            "coordinates": [[[lon, -60.0] for lon in range(-180, 181, 5)]],
        }, ice_mask={"file": str(path)},
    )  # fmt: skip
    polygon = load_ice(region).polygon
    move = Transformer.from_crs("EPSG:3031", "EPSG:4326", always_xy=True).transform
    geod = Geod(ellps="WGS84")
    expected = 0.0
    # Row 0 of the file is its northern edge, at the largest y.
    for row, column in np.argwhere(ice):
        west, north = -1e6 + column * side, 1e6 - row * side
        ring = shapely.segmentize(shapely.box(west, north - side, west + side, north), 5_000)
        lon, lat = move(*shapely.get_coordinates(ring).T)
        expected += abs(geod.polygon_area_perimeter(lon, lat)[0]) / 1e6
    for product in ("jpl", "gsfc"):
        parts = measure_ice(footprints_of[product], polygon, "EPSG:3031")
        assert parts["ice_area_km2"].sum() == pytest.approx(expected, rel=1e-3)


def test_footprints_are_geoparquet(tmp_path, footprints_of):
    mascons = measure_ice(
        footprints_of["gsfc"], shapely.Point(0, 0).buffer(5e5, quad_segs=90), "EPSG:3031"
    )
    table = select_mascons(mascons, SelectSettings())
    path = tmp_path / "mascons.parquet"
    write_geo_table(table[[*MASCONS.columns, "geometry"]], str(path), MASCONS, {"a": "b"})
    read = geopandas.read_parquet(path)
    assert read.crs == "EPSG:4326" and len(read) == len(mascons) > 40
    assert read.geometry.geom_equals_exact(mascons.geometry, 1e-9).all()
    assert np.isclose(read["ice_area_km2"].sum(), np.pi * 5e5**2 / 1e6, rtol=0.07)


def test_the_package_loads_its_parts_only_when_they_are_asked_for():
    code = (
        "import sys, cryofuse.mascons, cryofuse.fusion; "
        "assert not {'geopandas', 'pandas', 'cryofuse.mascons.jpl'} & set(sys.modules); "
        "from cryofuse.mascons import read_mascons; "
        "assert 'cryofuse.mascons.csr' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
