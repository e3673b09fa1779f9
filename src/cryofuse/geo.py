"""Outlines, tiles, projections and equal-area measures.

Positions are longitude/latitude in degrees (WGS84) or x/y in metres of the region's CRS.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from cryofuse.config import ElevationSettings, RegionSettings, WindowSettings

#: Radius of the sphere on which the centres sum cells, and of every great circle (km).
EARTH_RADIUS_KM = 6371.0
#: Regular expression of the workflow's ``{tile}`` wildcard.
TILE_PATTERN = r"x-?\d+_y-?\d+"
_TILE = re.compile(r"^x(-?\d+)_y(-?\d+)$")
#: Straight lines of a longitude/latitude box are drawn as parallels with points this far apart.
_BOX_STEP_DEGREES = 0.25


class OutlineError(ValueError):
    """An outline that is missing, empty or unreadable."""


@dataclass(frozen=True)
class Tile:
    """A square of the tile grid, half open: x_min <= x < x_max."""

    name: str
    x_min: float
    y_min: float
    x_max: float
    y_max: float


@lru_cache(maxsize=32)
def transformer(source: str, target: str) -> pyproj.Transformer:
    """Return a transformer between two CRS with x (or longitude) first."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def project(longitude: ArrayLike, latitude: ArrayLike, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """Project degrees to metres of a CRS; arrays of one shape in and out."""
    x_m, y_m = transformer("EPSG:4326", crs).transform(np.asarray(longitude), np.asarray(latitude))
    return np.asarray(x_m), np.asarray(y_m)


def unproject(x_m: ArrayLike, y_m: ArrayLike, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude (degrees) of metres in a CRS."""
    lon, lat = transformer(crs, "EPSG:4326").transform(np.asarray(x_m), np.asarray(y_m))
    return np.asarray(lon), np.asarray(lat)


def reproject(geometry: BaseGeometry, source: str, target: str) -> BaseGeometry:
    """Return a geometry moved vertex by vertex from one CRS to another."""
    move = transformer(source, target).transform

    def moved(xy: np.ndarray) -> np.ndarray:
        return np.column_stack(move(xy[:, 0], xy[:, 1]))

    return shapely.transform(geometry, moved)


def great_circle_km(
    longitude: ArrayLike,
    latitude: ArrayLike,
    other_longitude: ArrayLike,
    other_latitude: ArrayLike,
) -> np.ndarray:
    """Return great-circle distances between points on the sphere (km), by the haversine.

    Parameters
    ----------
    longitude, latitude, other_longitude, other_latitude
        Degrees, any turn; arrays that broadcast against each other.
    """
    lon, lat, other_lon, other_lat = (
        np.radians(np.asarray(value, dtype=float))
        for value in (longitude, latitude, other_longitude, other_latitude)
    )
    half = (
        np.sin((lat - other_lat) / 2) ** 2
        + np.cos(lat) * np.cos(other_lat) * np.sin((lon - other_lon) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1)))


def distance_matrix_km(longitude: ArrayLike, latitude: ArrayLike) -> np.ndarray:
    """Return the great-circle distances (km, shape n × n) between n points in degrees."""
    lon, lat = np.asarray(longitude, dtype=float), np.asarray(latitude, dtype=float)
    return great_circle_km(lon[:, np.newaxis], lat[:, np.newaxis], lon, lat)


def equal_area_crs(latitude: float) -> str:
    """Return the CRS in which areas are measured: Lambert azimuthal (polar) or EASE-Grid global."""
    if latitude >= 45:
        return "EPSG:6931"
    if latitude <= -45:
        return "EPSG:6932"
    return "EPSG:6933"


def area_km2(geometry: BaseGeometry, crs: str) -> float:
    """Return the area of a geometry in km², measured in an equal-area projection."""
    if geometry.is_empty:
        return 0.0
    densified = shapely.segmentize(geometry, 10_000) if pyproj.CRS(crs).is_projected else geometry
    longitude, latitude = unproject(*_first_point(densified), crs)
    return float(reproject(densified, crs, equal_area_crs(float(latitude))).area / 1e6)


def _first_point(geometry: BaseGeometry) -> tuple[float, float]:
    x, y = shapely.get_coordinates(geometry)[0]
    return float(x), float(y)


def box_polygon(west: float, south: float, east: float, north: float) -> BaseGeometry:
    """Return a longitude/latitude box as a polygon whose parallels bend as they should.

    A box with ``east < west`` runs over the antimeridian; longitudes are then left above 180.
    """
    if east <= west:
        east += 360
    along = np.linspace(west, east, max(2, int(np.ceil((east - west) / _BOX_STEP_DEGREES)) + 1))
    ring = np.concatenate(
        [
            np.column_stack([along, np.full(along.size, south)]),
            np.column_stack([along[::-1], np.full(along.size, north)]),
        ]
    )
    return shapely.Polygon(ring)


def read_vector(path: str, crs: str) -> BaseGeometry:
    """Return the union of a vector file's polygons in a CRS.

    GeoJSON is read as longitude/latitude, other formats (GeoPackage, Shapefile …) through pyogrio.

    Raises
    ------
    OutlineError
        If the file is missing, unreadable or holds no polygon.
    """
    if not Path(path).is_file():
        raise OutlineError(f"no file {path}")
    if path.endswith((".geojson", ".json")):
        try:
            return polygons_of(json.loads(Path(path).read_text()), crs)
        except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
            raise OutlineError(f"{path} is not GeoJSON ({error})") from None
    import pyogrio

    try:
        frame = pyogrio.read_dataframe(path)
    except Exception as error:  # noqa: BLE001  pyogrio raises many kinds for one broken file
        raise OutlineError(f"{path} is not a vector file ({error})") from None
    if frame.empty or frame.geometry.is_empty.all():
        raise OutlineError(f"{path} holds no polygon")
    return shapely.make_valid(shapely.union_all(frame.to_crs(crs).geometry.to_numpy()))


def polygons_of(content: dict[str, Any], crs: str) -> BaseGeometry:
    """Return the union of the polygons of a GeoJSON mapping, projected to a CRS.

    Raises
    ------
    OutlineError
        If it holds no polygon.
    """
    kind = content.get("type")
    if kind == "FeatureCollection":
        geometries = [
            shape(feature["geometry"]) for feature in content["features"] if feature.get("geometry")
        ]
    elif kind == "Feature":
        geometries = [shape(content["geometry"])]
    elif kind in ("Polygon", "MultiPolygon"):
        geometries = [shape(content)]
    else:
        raise OutlineError(f"GeoJSON of type {kind!r} holds no polygon")
    polygons = [
        g for g in geometries if g.geom_type in ("Polygon", "MultiPolygon") and not g.is_empty
    ]
    if not polygons:
        raise OutlineError("it is empty")
    moved = [shapely.make_valid(reproject(p, "EPSG:4326", crs)) for p in polygons]
    # On a metre grid: the antimeridian is no seam through Antarctica.
    merged = shapely.union_all(moved, grid_size=1.0)
    if merged.is_empty or merged.area == 0:
        raise OutlineError("it is empty")
    return merged


def load_outline(region: RegionSettings) -> BaseGeometry:
    """Return a region's outline in its CRS (metres).

    Raises
    ------
    OutlineError
        If there is none, or it is empty.
    """
    from cryofuse.config import Box

    outline = region.outline
    if isinstance(outline, Box):
        box = box_polygon(outline.west, outline.south, outline.east, outline.north)
        return shapely.make_valid(reproject(box, "EPSG:4326", region.crs))
    if isinstance(outline, dict):
        return polygons_of(outline, region.crs)
    return read_vector(outline, region.crs)


def tile_name(x_m: float, y_m: float, tile_m: float) -> str:
    """Return the name of the tile that holds a point."""
    # Floor division, not the floor of a quotient: that rounds across the edge of a tile.
    return f"x{int(x_m // tile_m)}_y{int(y_m // tile_m)}"


def tile_bounds(name: str, tile_m: float) -> Tile:
    """Return the square of a tile's name.

    Raises
    ------
    ValueError
        If the name is not one of a tile.
    """
    match = _TILE.match(name)
    if not match:
        raise ValueError(f"{name!r} is not a tile such as x-3_y-21")
    i, j = (int(part) for part in match.groups())
    return Tile(name, i * tile_m, j * tile_m, (i + 1) * tile_m, (j + 1) * tile_m)


def list_tiles(outline: BaseGeometry, tile_m: float) -> list[str]:
    """Return the names of the tiles that touch an outline, in order of column and row."""
    x_min, y_min, x_max, y_max = outline.bounds
    columns = range(int(np.floor(x_min / tile_m)), int(np.floor(x_max / tile_m)) + 1)
    rows = range(int(np.floor(y_min / tile_m)), int(np.floor(y_max / tile_m)) + 1)
    shapely.prepare(outline)
    return [
        f"x{i}_y{j}"
        for i in columns
        for j in rows
        if outline.intersects(
            shapely.box(i * tile_m, j * tile_m, (i + 1) * tile_m, (j + 1) * tile_m)
        )
    ]


def window_bounds(window: WindowSettings, crs: str) -> tuple[float, float, float, float]:
    """Return a window's square (x_min, y_min, x_max, y_max; m), on multiples of its spacing."""
    x, y = project(window.longitude, window.latitude, crs)
    count = max(1, round(window.width_m / window.node_spacing_m))
    x_min = (round(float(x) / window.node_spacing_m) - count // 2) * window.node_spacing_m
    y_min = (round(float(y) / window.node_spacing_m) - count // 2) * window.node_spacing_m
    width = count * window.node_spacing_m
    return x_min, y_min, x_min + width, y_min + width


def in_window(
    x_m: np.ndarray, y_m: np.ndarray, settings: ElevationSettings, crs: str
) -> np.ndarray:
    """Return the index of the window that holds each point, −1 outside all of them."""
    index = np.full(np.shape(x_m), -1)
    for number, window in enumerate(settings.windows):
        x_min, y_min, x_max, y_max = window_bounds(window, crs)
        index[(x_m >= x_min) & (x_m < x_max) & (y_m >= y_min) & (y_m < y_max)] = number
    return index


def locate(longitude: np.ndarray, latitude: np.ndarray, polygons: ArrayLike) -> np.ndarray:
    """Return the index of the first polygon that holds each point, −1 where none does.

    Parameters
    ----------
    longitude, latitude
        Points (degrees), shape (n,); longitudes of any turn (−180…180 or 0…360).
    polygons
        Geometries in longitude and latitude, shape (m,).
    """
    index = np.full(np.shape(longitude), -1)
    for number, polygon in enumerate(np.asarray(polygons, dtype=object)):
        west, south, east, north = polygon.bounds
        turned = west + np.mod(np.asarray(longitude) - west, 360.0)
        near = (index < 0) & (turned <= east) & (latitude >= south) & (latitude <= north)
        inside = np.flatnonzero(near)
        if inside.size:
            hit = shapely.intersects_xy(polygon, turned[inside], np.asarray(latitude)[inside])
            index[inside[hit]] = number
    return index


def scale_factor(x_m: ArrayLike, y_m: ArrayLike, crs: str) -> np.ndarray:
    """Return true area over projected area at points of a CRS (1: none is distorted)."""
    longitude, latitude = unproject(x_m, y_m, crs)
    factors = pyproj.Proj(crs).get_factors(longitude, latitude)
    return 1.0 / np.asarray(factors.areal_scale)
