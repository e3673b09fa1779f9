"""Mascon footprints on ice: exact intersections, selection, neighbours, point location.

Areas are measured in a Lambert azimuthal equal-area projection on the WGS84 ellipsoid centred
on what is measured, so neither pole nor antimeridian is special. Outlines are kept in
longitude/latitude, −180 … 180, cut at the antimeridian.
"""

from __future__ import annotations

import logging
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely

from cryofuse.geo import great_circle_km, reproject, transformer, unproject
from cryofuse.logs import UserError
from cryofuse.mascons.blocks import degree_box
from cryofuse.mascons.solutions import Extent

if TYPE_CHECKING:
    from collections.abc import Callable

    import geopandas
    from numpy.typing import ArrayLike
    from shapely.geometry.base import BaseGeometry

    from cryofuse.config import SelectSettings

logger = logging.getLogger(__name__)

#: Tables of footprints that are shipped, by the name a region gives.
FOOTPRINT_TABLES = {"jpl_greenland": "jpl_mascons_greenland.csv"}
#: Points along a footprint's parallels, and along the ice's edges, stand this close.
_STEP_DEGREES = 0.25
_STEP_M = 10_000.0
#: Ice of less than this in a mascon is a sliver of the outline's simplification (km²).
_SLIVER_KM2 = 1.0
#: Pieces into which ice is cut before it is intersected have about so many corners.
_PIECE_CORNERS = 256
#: Share of the ice in no mascon that is worth a remark, and that is refused.
_REMARKED_SHARE, _REFUSED_SHARE = 1e-3, 1e-2
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
        geometry; ``attrs`` hold a title.

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
    table = geopandas.GeoDataFrame(
        {
            "mascon_id": facts["mascon_id"].astype("int32"),
            "in_product_set": facts["in_greenland_set"] == 1,
            "whole_land_km2": facts["land_area_km2"].astype(float),
            "whole_ice_fraction": facts["ice_fraction_of_land"].astype(float),
        },
        geometry=boxes,
        crs="EPSG:4326",
    )
    table.attrs = {"title": f"the shipped table {name}"}
    return table


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


def project_footprints(geometries: ArrayLike, crs: str) -> np.ndarray:
    """Return longitude/latitude footprints in a CRS, their parallels bent as they should be.

    The ring of a cap or belt around a pole meets itself along one meridian; making it valid
    dissolves that seam.
    """
    dense = shapely.segmentize(np.asarray(geometries, dtype=object), _STEP_DEGREES)
    move = transformer("EPSG:4326", crs).transform
    moved = shapely.transform(dense, lambda xy: np.column_stack(move(xy[:, 0], xy[:, 1])))
    return shapely.make_valid(moved)


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
    geometries = mascons.geometry.to_numpy()
    centres = np.array([_centre(geometry) for geometry in geometries]).reshape(-1, 2)
    # Turned to the prime meridian, so that one projection serves all footprints of a latitude.
    turned = np.array(
        [
            shapely.transform(geometry, lambda xy, east=east: xy - [east, 0.0])
            for geometry, (east, _) in zip(geometries, centres, strict=True)
        ],
        dtype=object,
    )
    area, lon, lat = (np.empty(len(mascons)) for _ in range(3))
    band = np.round(centres[:, 1])
    for latitude in np.unique(band):
        here = band == latitude
        crs = area_crs(0.0, float(latitude))
        moved = project_footprints(turned[here], crs)
        middle = shapely.centroid(moved)
        area[here] = shapely.area(moved) / 1e6
        lon[here], lat[here] = unproject(shapely.get_x(middle), shapely.get_y(middle), crs)
    return mascons.assign(
        area_km2=area,
        latitude=lat,
        longitude=(lon + centres[:, 0] + 180.0) % 360.0 - 180.0,
    )


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
        If no mascon holds ice, more than 1 % of the ice lies in no mascon, or ice lies in the
        part of a mascon that a cropped file lacks.
    """
    dense = shapely.segmentize(ice, _STEP_M)
    points = shapely.get_coordinates(dense)
    lon, lat = unproject(points[:, 0], points[:, 1], crs)
    centre = _centre(shapely.MultiPoint(np.column_stack([lon, lat])))
    local = area_crs(*centre)
    moved = shapely.make_valid(reproject(dense, crs, local))
    pieces = np.array(_subdivide(moved), dtype=object)
    tree = shapely.STRtree(pieces)
    reach = great_circle_km(*centre, lon, lat).max()

    def ice_within(geometries: np.ndarray) -> np.ndarray:
        found = np.zeros(geometries.size)
        near = np.flatnonzero([_may_touch(geometry, centre, reach) for geometry in geometries])
        outlines = project_footprints(geometries[near], local)
        which, piece = tree.query(outlines, predicate="intersects")
        parts = shapely.area(shapely.intersection(outlines[which], pieces[piece])) / 1e6
        found[near] = np.bincount(which, weights=parts, minlength=near.size)
        return found

    areas = ice_within(mascons.geometry.to_numpy())
    _check_coverage(mascons, areas, moved.area / 1e6, ice_within)
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
    out = out[listed].drop(columns="beyond_file", errors="ignore")
    return out.sort_values("mascon_id").reset_index(drop=True)


def _may_touch(geometry: BaseGeometry, centre: tuple[float, float], reach_km: float) -> bool:
    """Return whether a footprint can touch ice that lies within a distance of its centre."""
    if geometry.is_empty:
        return False
    lon, lat = shapely.get_coordinates(geometry).T
    away = great_circle_km(*centre, lon, lat)
    width = great_circle_km(lon[0], lat[0], lon, lat).max()
    # One whose nearest corner is farther than ice and its own width cannot.
    return bool(away.min() <= reach_km + np.ptp(away) + width)


def _subdivide(geometry: BaseGeometry) -> list[BaseGeometry]:
    """Cut a geometry into pieces of few corners, so that each meets few others."""
    if geometry.is_empty:
        return []
    if shapely.get_num_coordinates(geometry) <= _PIECE_CORNERS:
        return [geometry]
    west, south, east, north = geometry.bounds
    if east - west > north - south:
        middle = (west + east) / 2
        halves = shapely.box([west, middle], south, [middle, east], north)
    else:
        middle = (south + north) / 2
        halves = shapely.box(west, [south, middle], east, [middle, north])
    return [piece for half in halves for piece in _subdivide(geometry.intersection(half))]


def _check_coverage(
    mascons: geopandas.GeoDataFrame,
    areas: np.ndarray,
    whole_km2: float,
    ice_within: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Refuse mascons that leave out ice, as those of a cropped file do."""
    if "beyond_file" in mascons:
        lacking = ice_within(mascons["beyond_file"].to_numpy())
        worst = int(np.argmax(lacking))
        if lacking[worst] >= _SLIVER_KM2:
            raise UserError(
                f"mascon {mascons['mascon_id'].iloc[worst]} is cut by the edge of the file: "
                f"{lacking[worst]:.0f} km² of its ice lie outside; take a file that holds it whole"
            )
    if not (areas >= _SLIVER_KM2).any():
        raise UserError("no mascon of the file touches the region's ice")
    share = 1 - areas.sum() / whole_km2
    if share > _REFUSED_SHARE:
        raise UserError(
            f"{share:.1%} of the region's ice lie in no mascon of the file: is it cropped? Take a "
            "file that holds all of the region (or name the footprints that belong to it)"
        )
    if share > _REMARKED_SHARE:
        logger.warning("%.2f %% of the region's ice lie in no mascon of the file", 100 * share)


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
    moved = project_footprints(mascons.geometry.to_numpy(), crs)
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
