"""Make the GeoJSON outlines of this folder from two public data files.

    python make_outlines.py land-50m.json MCD12C1.A2019001.006.2020220162300.tif

The first file is Natural Earth's 1:50m land as TopoJSON, the second the 2019 land
cover of MODIS (MCD12C1, IGBP classes, 0.05 degrees). README.md says where they come
from. Needs geopandas, rasterio and shapely 2.1 or newer.
"""

import argparse
import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject

LONLAT = "EPSG:4326"
ARCTIC = "EPSG:3413"
ANTARCTIC = "EPSG:3031"
EQUAL_AREA_NORTH = "EPSG:6931"
EQUAL_AREA_SOUTH = "EPSG:6932"

SNOW_AND_ICE = 15  # IGBP class of MCD12C1
GRID_DEGREES = 0.001  # coordinates are rounded to this; about 100 m
MAX_BYTES = 50_000

ICE = "MODIS land cover MCD12C1 v006, 2019, IGBP class 15 (snow and ice)"
ICE_LICENCE = "NASA open data, no restriction on reuse"
LAND = "Natural Earth 4.1.0, 1:50m land"
LAND_LICENCE = "public domain"

# Boxes around one ice body, in metres of EPSG:3413: west, south, east, north.
GREENLAND_BOX = (-700_000, -3_400_000, 1_000_000, -600_000)
ICELAND_BOX = (850_000, -2_900_000, 1_500_000, -2_200_000)


def read_land(path):
    """Read the land polygons of a TopoJSON file.

    The file joins land over the antimeridian: a ring may jump from 180 to -180 degrees, so
    polygons are sound only once projected to a polar projection.

    Parameters
    ----------
    path : path of Natural Earth's land as TopoJSON

    Returns
    -------
    GeoSeries of single polygons, longitude and latitude in degrees
    """
    land = gpd.read_file(path).geometry.set_crs(LONLAT, allow_override=True)
    return land.explode(ignore_index=True)


def largest_ice(path, box_m, cell_m, opening_m):
    """Outline the largest body of snow and ice within a box.

    Parameters
    ----------
    path : path of the land cover raster
    box_m : west, south, east, north in metres of EPSG:3413
    cell_m : cell size in metres of the grid the raster is put on
    opening_m : radius in metres of the opening that cuts narrow tongues and arms

    Returns
    -------
    polygon without holes in EPSG:3413
    """
    west, south, east, north = box_m
    shape = ((north - south) // cell_m, (east - west) // cell_m)
    transform = from_origin(west, north, cell_m, cell_m)
    ice = np.zeros(shape, "uint8")
    with rasterio.open(path) as cover:
        reproject(
            (cover.read(1) == SNOW_AND_ICE).astype("uint8"),
            ice,
            src_transform=cover.transform,
            src_crs=LONLAT,
            dst_transform=transform,
            dst_crs=ARCTIC,
            resampling=Resampling.nearest,
        )
    bodies = [shapely.geometry.shape(body) for body, _ in shapes(ice, ice > 0, transform=transform)]
    opened = shapely.union_all(bodies).buffer(-opening_m).buffer(opening_m)
    largest = max(shapely.get_parts(opened), key=shapely.area)
    return shapely.Polygon(largest.exterior)


def keep_large(polygons, smallest_km2):
    """Keep the polygons of at least `smallest_km2` (measured in their own projection)."""
    return [polygon for polygon in polygons if polygon.area >= smallest_km2 * 1e6]


def arctic_land(land, smallest_km2):
    """Cut the land around Greenland (95 W to 20 E, 57 N to 85 N).

    Returns polygons without holes in EPSG:3413; cut edges follow the parallels.
    """
    frame = gpd.GeoSeries([shapely.box(-95, 57, 20, 85)], crs=LONLAT).segmentize(0.5).to_crs(ARCTIC)
    north = land[land.bounds.maxy > 57].to_crs(ARCTIC).make_valid()
    cut = north.intersection(frame.iloc[0]).union_all()
    solid = [shapely.Polygon(part.exterior) for part in polygon_parts(cut)]
    return keep_large(solid, smallest_km2)


def antarctic_land(land, smallest_km2):
    """Take the land south of 60 S; polygons without holes in EPSG:3031."""
    south = land[land.bounds.maxy < -60].to_crs(ANTARCTIC).make_valid().union_all()
    solid = [shapely.Polygon(part.exterior) for part in polygon_parts(south)]
    return keep_large(solid, smallest_km2)


def polygon_parts(shape):
    """Split a shape into its polygons and leave out points and lines."""
    return [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]


def cut_halves(polygons):
    """Cut polygons of EPSG:3031 along the meridians 0 and 180 into a western and an eastern part.

    Each half is then a plain polygon in longitude and latitude, and projects back vertex by vertex.
    """
    far = 4_000_000
    whole = shapely.union_all(polygons)
    halves = []
    for west, east in ((-far, 0), (0, far)):
        half = whole.intersection(shapely.box(west, -far, east, far))
        halves.append([part for part in shapely.get_parts(half) if part.area > 1e6])
    return halves


def half_to_lonlat(polygon, is_east):
    """Unproject a half of Antarctica; its edge on x = 0 is given through the pole.

    Parameters
    ----------
    polygon : polygon in EPSG:3031 on one side of x = 0, without holes
    is_east : whether it lies at positive x

    Returns
    -------
    polygon in longitude and latitude, degrees
    """
    side = 180.0 if is_east else -180.0
    to_lonlat = gpd.GeoSeries(
        [shapely.Point(xy) for xy in polygon.exterior.coords[:-1]], crs=ANTARCTIC
    )
    lonlat = [(point.x, point.y) for point in to_lonlat.to_crs(LONLAT)]
    ring = []
    for (x, y), (lon, lat) in zip(polygon.exterior.coords[:-1], lonlat, strict=True):
        if abs(x) < 1:
            lon = 0.0 if y > 0 else side
        ring.append((lon, lat))
    # The straight edge that passes the pole needs the pole at both of its longitudes.
    closed = []
    for (lon, lat), (lon_next, _) in zip(ring, ring[1:] + ring[:1], strict=True):
        closed.append((lon, lat))
        if {abs(lon), abs(lon_next)} == {0.0, 180.0}:
            closed += [(lon, -90.0), (lon_next, -90.0)]
    return shapely.Polygon(closed)


def write_outline(path, parts, equal_area, source, licence):
    """Round, check and write one outline.

    Parameters
    ----------
    path : file to write
    parts : dict of name -> list of polygons, longitude and latitude in degrees
    equal_area : CRS in which the area is measured
    source, licence : where the shape comes from and what may be done with it

    Raises
    ------
    ValueError : if a polygon is not valid, or the file is larger than MAX_BYTES
    """
    features = []
    for name, polygons in parts.items():
        shape = shapely.MultiPolygon(polygons) if len(polygons) > 1 else polygons[0]
        shape = shapely.orient_polygons(shapely.set_precision(shape, GRID_DEGREES))
        area = gpd.GeoSeries([shape], crs=LONLAT).segmentize(0.05).to_crs(equal_area)
        for crs in (LONLAT, ARCTIC if equal_area == EQUAL_AREA_NORTH else ANTARCTIC):
            if not gpd.GeoSeries([shape], crs=LONLAT).to_crs(crs).is_valid.all():
                raise ValueError(f"{path.name}: {name} is not a valid polygon in {crs}")
        properties = {
            "name": name,
            "area_km2": round(area.area.sum() / 1e6),
            "source": source,
            "licence": licence,
        }
        geometry = shapely.geometry.mapping(shape)
        geometry["coordinates"] = rounded(geometry["coordinates"])
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
        vertices = shapely.get_num_coordinates(shape)
        print(f"{path.name}: {name}, {properties['area_km2']:,} km2, {vertices} vertices")
    lines = ",\n".join(json.dumps(feature, separators=(",", ":")) for feature in features)
    text = f'{{"type":"FeatureCollection","features":[\n{lines}\n]}}\n'
    if len(text) > MAX_BYTES:
        raise ValueError(f"{path.name}: {len(text)} bytes, at most {MAX_BYTES} are allowed")
    path.write_text(text, encoding="utf-8")


def rounded(coordinates):
    """Round nested coordinates to three decimals."""
    if isinstance(coordinates, float | int):
        return round(coordinates, 3)
    return [rounded(inner) for inner in coordinates]


def simplify(polygons, crs, tolerance_m):
    """Simplify polygons in the projection `crs` and keep it; returns polygons in `crs`."""
    simple = gpd.GeoSeries(polygons, crs=crs).simplify(tolerance_m).make_valid()
    # Neighbours may overlap once simplified.
    return polygon_parts(simple.union_all())


def to_lonlat(polygons, crs):
    """Unproject polygons of `crs` to longitude and latitude in degrees."""
    return list(gpd.GeoSeries(polygons, crs=crs).to_crs(LONLAT))


def main():
    """Read the two files named on the command line and write the five outlines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("land", type=Path, help="Natural Earth 1:50m land, TopoJSON")
    parser.add_argument("cover", type=Path, help="MCD12C1 land cover 2019, GeoTIFF")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where to write")
    given = parser.parse_args()
    land = read_land(given.land)

    sheet = largest_ice(given.cover, GREENLAND_BOX, cell_m=2000, opening_m=6000)
    sheet = to_lonlat(simplify([sheet], ARCTIC, tolerance_m=1500), ARCTIC)
    write_outline(
        given.folder / "greenland.geojson",
        {"Greenland ice sheet": sheet},
        EQUAL_AREA_NORTH,
        ICE,
        ICE_LICENCE,
    )

    cap = largest_ice(given.cover, ICELAND_BOX, cell_m=500, opening_m=2000)
    cap = to_lonlat(simplify([cap], ARCTIC, tolerance_m=500), ARCTIC)
    write_outline(
        given.folder / "vatnajokull.geojson",
        {"Vatnajökull": cap},
        EQUAL_AREA_NORTH,
        ICE,
        ICE_LICENCE,
    )

    coast = simplify(arctic_land(land, smallest_km2=500), ARCTIC, tolerance_m=4000)
    coast = {"Land around Greenland": to_lonlat(coast, ARCTIC)}
    write_outline(
        given.folder / "coast_arctic.geojson", coast, EQUAL_AREA_NORTH, LAND, LAND_LICENCE
    )

    for name, smallest_km2, tolerance_m in (
        ("antarctica", 2000, 3000),
        ("coast_antarctic", 300, 4000),
    ):
        south = simplify(antarctic_land(land, smallest_km2), ANTARCTIC, tolerance_m)
        west, east = cut_halves(south)
        halves = {
            "Antarctica, western half": [half_to_lonlat(part, is_east=False) for part in west],
            "Antarctica, eastern half": [half_to_lonlat(part, is_east=True) for part in east],
        }
        write_outline(
            given.folder / f"{name}.geojson", halves, EQUAL_AREA_SOUTH, LAND, LAND_LICENCE
        )


if __name__ == "__main__":
    main()
