"""Mascon footprints on ice: exact intersections, selection, neighbours, point location.

Areas are measured in a Lambert azimuthal equal-area projection on the WGS84 ellipsoid centred
on what is measured, so neither pole nor antimeridian is special. Outlines are kept in
longitude/latitude, −180 … 180, cut at the antimeridian.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely

from cryofuse.geo import great_circle_km, project, reproject, transformer, unproject
from cryofuse.logs import UserError
from cryofuse.mascons.blocks import degree_box
from cryofuse.mascons.solutions import Extent

if TYPE_CHECKING:
    import geopandas
    from shapely.geometry.base import BaseGeometry

    from cryofuse.config import SelectSettings

#: Tables of footprints that are shipped, by the name a region gives.
FOOTPRINT_TABLES = {"jpl_greenland": "jpl_mascons_greenland.csv"}
#: Points along a footprint's parallels, and along the ice's edges, stand this close.
_STEP_DEGREES = 0.25
_STEP_M = 10_000.0
#: Ice of less than this in a mascon is a sliver of the outline's simplification (km²).
_SLIVER_KM2 = 1.0
#: Footprints this close share an edge or a corner (km).
TOUCH_KM = 0.1


def load_footprints(name: str) -> geopandas.GeoDataFrame:
    """Return a shipped table of footprints.

    Parameters
    ----------
    name
        ``jpl_greenland``: the 31 JPL mascons that touch Greenland.

    Returns
    -------
    geopandas.GeoDataFrame
        mascon_id, in_product_set, whole_land_km2 (all land of the mascon, sphere),
        whole_ice_fraction (all its ice, glaciers off the ice sheet included, over that land),
        geometry.

    Raises
    ------
    UserError
        If no such table is shipped.
    """
    import geopandas

    if name not in FOOTPRINT_TABLES:
        raise UserError(f"region: footprints: {name!r} is none of {', '.join(FOOTPRINT_TABLES)}")
    path = files("cryofuse.data") / FOOTPRINT_TABLES[name]
    with path.open() as stream:
        facts = pd.read_csv(stream, comment="#")
    edges = facts[["lon_w", "lat_s", "lon_e", "lat_n"]].to_numpy(dtype=float)
    boxes = [degree_box(*map(float, box)) for box in edges]
    return geopandas.GeoDataFrame(
        {
            "mascon_id": facts["mascon_id"].astype("int32"),
            "in_product_set": facts["in_greenland_set"] == 1,
            "whole_land_km2": facts["land_area_km2"].astype(float),
            "whole_ice_fraction": facts["ice_fraction_of_land"].astype(float),
        },
        geometry=boxes,
        crs="EPSG:4326",
    )


def area_crs(longitude: float, latitude: float) -> str:
    """Return the equal-area CRS centred on a point."""
    return (
        f"+proj=laea +lat_0={latitude:.6f} +lon_0={longitude:.6f} +x_0=0 +y_0=0 "
        "+datum=WGS84 +units=m +no_defs"
    )


def region_extent(outline: BaseGeometry, crs: str, margin_degrees: float = 1.0) -> Extent:
    """Return west, south, east, north (degrees) of an outline, safe at pole and antimeridian.

    Parameters
    ----------
    outline
        Geometry in ``crs`` (metres).
    crs
        Its CRS.
    margin_degrees
        Margin of latitude; that of longitude is widened by 1/cos(latitude).
    """
    points = shapely.get_coordinates(shapely.segmentize(outline, 5 * _STEP_M))
    lon, lat = unproject(points[:, 0], points[:, 1], crs)
    south, north = float(lat.min()) - margin_degrees, float(lat.max()) + margin_degrees
    for pole in (90.0, -90.0):
        x, y = transformer("EPSG:4326", crs).transform(0.0, pole)
        if np.isfinite([x, y]).all() and outline.covers(shapely.Point(x, y)):
            edge = min(south, 90.0) if pole > 0 else max(north, -90.0)
            return (-180.0, edge, 180.0, 90.0) if pole > 0 else (-180.0, -90.0, 180.0, edge)
    margin = margin_degrees / max(float(np.cos(np.radians(max(abs(south), abs(north))))), 0.01)
    # The widest gap between longitudes is outside; the extent starts east of it.
    ordered = np.unique(lon % 360).astype(float)
    gaps = np.diff(np.concatenate([ordered, [ordered[0] + 360]]))
    widest = int(np.argmax(gaps))
    if gaps[widest] <= 2 * margin:
        return -180.0, max(south, -90.0), 180.0, min(north, 90.0)
    west = float(ordered[(widest + 1) % ordered.size] - margin)
    east = west + 360 - float(gaps[widest]) + 2 * margin
    return west, max(south, -90.0), east, min(north, 90.0)


def project_footprint(geometry: BaseGeometry, crs: str) -> BaseGeometry:
    """Return a longitude/latitude footprint in a CRS, its parallels bent as they should be.

    The ring of a cap or belt around a pole meets itself along one meridian; making it valid
    dissolves that seam.
    """
    dense = shapely.segmentize(geometry, _STEP_DEGREES)
    return shapely.make_valid(reproject(dense, "EPSG:4326", crs))


def _centre(geometry: BaseGeometry) -> tuple[float, float]:
    """Return the mean direction of a lon/lat geometry's vertices (longitude, latitude)."""
    lon, lat = np.radians(shapely.get_coordinates(geometry)).T
    x, y, z = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)
    mx, my, mz = x.mean(), y.mean(), z.mean()
    return float(np.degrees(np.arctan2(my, mx))), float(
        np.degrees(np.arctan2(mz, np.hypot(mx, my)))
    )


def measure_footprints(mascons: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """Return mascons with the area and the centroid of their footprints.

    Parameters
    ----------
    mascons
        GeoDataFrame in longitude/latitude.

    Returns
    -------
    geopandas.GeoDataFrame
        The same with area_km2 (ellipsoid), latitude, longitude (degrees, −180 … 180).
    """
    out = mascons.copy()
    areas, lons, lats = [], [], []
    for geometry in mascons.geometry:
        lon0, lat0 = _centre(geometry)
        # Turned to the prime meridian, so that few projections serve all footprints.
        turned = shapely.transform(geometry, lambda xy, turn=lon0: xy - [turn, 0.0])
        crs = area_crs(0.0, round(lat0))
        moved = project_footprint(turned, crs)
        lon, lat = unproject(moved.centroid.x, moved.centroid.y, crs)
        areas.append(moved.area / 1e6)
        lons.append((float(lon) + lon0 + 180.0) % 360.0 - 180.0)
        lats.append(float(lat))
    return out.assign(area_km2=areas, latitude=lats, longitude=lons)


def measure_ice(
    mascons: geopandas.GeoDataFrame,
    ice: BaseGeometry,
    crs: str,
    known: geopandas.GeoDataFrame | None = None,
) -> geopandas.GeoDataFrame:
    """Return the mascons that hold ice, with its area and share of the land.

    Parameters
    ----------
    mascons
        Output of :func:`cryofuse.mascons.read_mascons`.
    ice
        The region's ice, in ``crs``.
    crs
        Projected CRS of ``ice``.
    known
        Shipped footprints: their ``whole_land_km2`` stands under the ice fraction (the mask of
        a cropped file may miss land beyond the region), ``in_product_set`` and
        ``whole_ice_fraction`` are kept, and they are listed even where the outline leaves out
        what little ice they hold.

    Returns
    -------
    geopandas.GeoDataFrame
        Rows with at least 1 km² of ice (and all known ones), with ice_area_km2 (ellipsoid),
        ice_fraction (of the mascon's land; land is summed on a sphere, so up to 0.9 % above 1),
        in_product_set (null where unknown) and whole_ice_fraction (NaN where unknown). A mascon
        without land cells has the fraction 0.

    Raises
    ------
    UserError
        If no mascon holds ice.
    """
    dense = shapely.segmentize(ice, _STEP_M)
    points = shapely.get_coordinates(dense)
    lon, lat = unproject(points[:, 0], points[:, 1], crs)
    centre = _centre(shapely.MultiPoint(np.column_stack([lon, lat])))
    local = area_crs(*centre)
    moved = shapely.make_valid(reproject(dense, crs, local))
    shapely.prepare(moved)
    reach = great_circle_km(*centre, lon, lat).max()
    areas = np.zeros(len(mascons))
    for number, geometry in enumerate(mascons.geometry):
        corners = shapely.get_coordinates(geometry)
        away = great_circle_km(*centre, corners[:, 0], corners[:, 1])
        # A footprint whose nearest corner is farther than ice and its own width cannot touch it.
        if away.min() > reach + np.ptp(away) + _width_km(geometry):
            continue
        footprint = project_footprint(geometry, local)
        if moved.intersects(footprint):
            areas[number] = moved.intersection(footprint).area / 1e6
    out = mascons.assign(ice_area_km2=areas)
    land = out["land_area_km2"].to_numpy(dtype=float)
    in_set = pd.array([None] * len(out), dtype="boolean")
    whole_fraction = np.full(len(out), np.nan)
    if known is not None:
        facts = known.set_index("mascon_id").reindex(out["mascon_id"])
        whole = facts["whole_land_km2"].to_numpy(dtype=float)
        land = np.where(np.isfinite(whole), whole, land)
        whole_fraction = facts["whole_ice_fraction"].to_numpy(dtype=float)
        in_set = pd.array(
            [None if pd.isna(value) else bool(value) for value in facts["in_product_set"]],
            dtype="boolean",
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = np.where(land > 0, areas / land, 0.0)
    out = out.assign(
        ice_fraction=fraction, in_product_set=in_set, whole_ice_fraction=whole_fraction
    )
    listed = (areas >= _SLIVER_KM2) | np.isfinite(whole_fraction)
    out = out[listed].sort_values("mascon_id").reset_index(drop=True)
    if not (out["ice_area_km2"] >= _SLIVER_KM2).any():
        raise UserError("no mascon of the file touches the region's ice")
    return out


def _width_km(geometry: BaseGeometry) -> float:
    lon, lat = shapely.get_coordinates(geometry).T
    return float(great_circle_km(lon[0], lat[0], lon, lat).max())


def select_mascons(
    mascons: geopandas.GeoDataFrame, settings: SelectSettings
) -> geopandas.GeoDataFrame:
    """Return mascons with ``selected``: which of them count as the region's ice.

    The rule ``ice_fraction_of_land`` asks the shipped table (``whole_ice_fraction``, all ice of
    the mascon) where there is one, so that a simplified outline or one of the ice sheet alone
    does not change what is counted; elsewhere the measured ``ice_fraction``.

    Raises
    ------
    UserError
        If the product has no set of its own for the region, or an id is not there.
    """
    if settings.rule == "product_set":
        if mascons["in_product_set"].isna().all():
            raise UserError(
                "mascons: select: rule: product_set needs a region whose footprints are shipped "
                f"(footprints: {', '.join(FOOTPRINT_TABLES)})"
            )
        chosen = mascons["in_product_set"].fillna(False).to_numpy(dtype=bool)
    elif settings.rule == "ids":
        wanted = settings.ids or []
        absent = sorted(set(wanted) - set(mascons["mascon_id"]))
        if absent:
            raise UserError(f"mascons: select: ids: {absent} hold no ice of the region")
        chosen = mascons["mascon_id"].isin(wanted).to_numpy()
    else:
        measured = mascons["ice_fraction"].to_numpy(dtype=float)
        whole = mascons["whole_ice_fraction"].to_numpy(dtype=float)
        chosen = np.where(np.isfinite(whole), whole, measured) >= settings.min
    return mascons.assign(selected=chosen)


def neighbours(mascons: geopandas.GeoDataFrame, buffer_km: float = 0.0) -> pd.DataFrame:
    """Return the pairs of mascons that touch or lie within a buffer, both ways.

    Parameters
    ----------
    mascons
        GeoDataFrame with mascon_id and geometry (longitude/latitude).
    buffer_km
        Largest distance between the footprints' edges (km); 0 keeps those that touch.

    Returns
    -------
    pandas.DataFrame
        mascon_id, neighbour_id, distance_km (edge to edge), touches; a mascon is not its own
        neighbour.
    """
    corners = shapely.MultiPoint(shapely.get_coordinates(mascons.geometry.to_numpy()))
    crs = area_crs(*_centre(corners))
    moved = np.array([project_footprint(g, crs) for g in mascons.geometry])
    ids = mascons["mascon_id"].to_numpy()
    left, right = shapely.STRtree(moved).query(
        moved, predicate="dwithin", distance=max(buffer_km, TOUCH_KM) * 1e3
    )
    apart = left != right
    left, right = left[apart], right[apart]
    distance = shapely.distance(moved[left], moved[right]) / 1e3
    table = pd.DataFrame(
        {
            "mascon_id": ids[left],
            "neighbour_id": ids[right],
            "distance_km": distance,
            "touches": distance <= TOUCH_KM,
        }
    )
    return table.sort_values(["mascon_id", "neighbour_id"], ignore_index=True)


def locate(
    mascons: geopandas.GeoDataFrame, longitude: np.ndarray, latitude: np.ndarray
) -> np.ndarray:
    """Return the mascon that holds each point, 0 where none does.

    A point on a shared edge belongs to the mascon with the lower number.

    Parameters
    ----------
    mascons
        GeoDataFrame with mascon_id and geometry (longitude/latitude, −180 … 180).
    longitude, latitude
        Degrees, shape (n,), any longitude convention.

    Returns
    -------
    numpy.ndarray
        mascon_id (int32), shape (n,).
    """
    lon = (np.asarray(longitude, dtype=float) + 180.0) % 360.0 - 180.0
    points = shapely.points(lon, np.asarray(latitude, dtype=float))
    geometries = mascons.geometry.to_numpy()
    which, place = shapely.STRtree(geometries).query(points, predicate="intersects")
    ids = mascons["mascon_id"].to_numpy()[place]
    found = np.full(points.size, np.iinfo(np.int32).max, dtype=np.int32)
    np.minimum.at(found, which, ids.astype(np.int32))
    found[found == np.iinfo(np.int32).max] = 0
    return found


def project_centres(mascons: geopandas.GeoDataFrame) -> np.ndarray:
    """Return the mascons' centroids in metres of an equal-area CRS about them, shape (n, 2)."""
    lon, lat = mascons["longitude"].to_numpy(), mascons["latitude"].to_numpy()
    crs = area_crs(*_centre(shapely.MultiPoint(np.column_stack([lon, lat]))))
    return np.column_stack(project(lon, lat, crs))
