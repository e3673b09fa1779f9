"""Drainage basins in place of mascons: mascon mass shared out by ice area.

A basin's mass is the sum over mascons of the mascon's mass times the share of its ice that lies
in the basin, so that basins which cover the ice sum to the sum of the mascons. Within a mascon
mass is taken to follow ice area: the product does not resolve more. Mascon errors are taken for
independent in a basin's σ; neighbouring basins share mascons, so their errors are correlated, and
σ of several basins must not be added in quadrature.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from cryofuse.config import BasinSource, SelectSettings
from cryofuse.geo import reproject, unproject
from cryofuse.logs import UserError
from cryofuse.mascons.footprints import area_crs, measure_footprints, project_footprints
from cryofuse.units import mass_to_lwe

if TYPE_CHECKING:
    import geopandas
    from shapely.geometry.base import BaseGeometry

logger = logging.getLogger(__name__)

#: A null mascon leaves a month of a basin null if it holds more than this of the basin's ice.
SLIVER_SHARE = 0.01
#: Basins that overlap in more than this share of the smaller one are refused.
OVERLAP_SHARE = 0.001
#: Ice of less than this in a basin is a sliver of the outlines (km²), as for mascons.
_SLIVER_KM2 = 1.0
#: Edges are followed in steps (m) when they are projected.
_STEP_M = 10_000.0
#: Farther than any place from the pole in a polar projection of its hemisphere (m).
_REACH_M = 4e7
#: A hole of this radius (m) is cut around the pole: it has no longitude.
_POLE_M = 1.0


def read_basins(source: str | BasinSource, crs: str) -> geopandas.GeoDataFrame:
    """Read drainage basins from a vector file.

    Parameters
    ----------
    source
        File, or file, field of names and layer. Without a field every polygon is a basin;
        with one, all polygons of a name are.
    crs
        Projected CRS in which they are wanted.

    Returns
    -------
    geopandas.GeoDataFrame
        mascon_id (1, 2, … in order of the file), name, geometry in ``crs``; small overlaps of
        digitising go to the earlier basin.

    Raises
    ------
    UserError
        If the file is missing, unreadable or without CRS, holds no such field or layer, or a
        basin that is empty or overlaps another.
    """
    import geopandas
    import pyogrio

    if isinstance(source, str):
        source = BasinSource(file=source)
    where = f"region: basins: {source.file}"
    if not Path(source.file).is_file():
        raise UserError(f"{where}: no such file")
    try:
        frame = pyogrio.read_dataframe(source.file, layer=source.layer)
    except Exception as error:  # noqa: BLE001  pyogrio raises many kinds for one broken file
        raise UserError(f"{where} cannot be read as a vector file ({error})") from None
    if not isinstance(frame, geopandas.GeoDataFrame) or frame.crs is None:
        raise UserError(f"{where} has no CRS: write the file with the one its positions are in")
    if source.name is not None and source.name not in frame.columns:
        fields = ", ".join(str(name) for name in frame.columns if name != "geometry")
        raise UserError(f"{where} has no field {source.name!r} (fields: {fields})")
    names = [str(n) for n in (frame[source.name] if source.name else range(1, len(frame) + 1))]
    empty = [name for name, shape in zip(names, frame.geometry, strict=True) if _is_empty(shape)]
    if empty or not names:
        raise UserError(f"{where} holds no polygon for {', '.join(empty) or 'any basin'}")
    moved = shapely.make_valid(frame.geometry.to_crs(crs).to_numpy())
    distinct = list(dict.fromkeys(names))
    label = np.array(names, dtype=object)
    shapes = np.array([shapely.union_all(moved[label == name]) for name in distinct])
    return geopandas.GeoDataFrame(
        {"mascon_id": np.arange(1, len(distinct) + 1, dtype=np.int32), "name": distinct},
        geometry=_without_overlaps(shapes, distinct, where),
        crs=crs,
    )


def _is_empty(shape: BaseGeometry | None) -> bool:
    return shape is None or shape.is_empty or shape.area == 0


def _without_overlaps(shapes: np.ndarray, names: list[str], where: str) -> np.ndarray:
    """Return basins with small overlaps left to the earlier one, or refuse larger ones."""
    out = shapes.copy()
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    for i, j in zip(first, second, strict=True):
        if i >= j:
            continue
        shared = shapely.intersection(shapes[i], shapes[j]).area
        if shared > OVERLAP_SHARE * min(shapes[i].area, shapes[j].area):
            raise UserError(
                f"{where}: basins {names[i]} and {names[j]} overlap in {shared / 1e6:.6g} km²: "
                "mass would be counted twice"
            )
        if shared:
            out[j] = shapely.difference(out[j], shapes[i])
    return out


def mascon_rule(select: SelectSettings) -> SelectSettings:
    """Return the rule by which mascons give their mass to basins.

    The configured one; ``rule: ids`` names basins, and mascons then follow the default rule.
    """
    return SelectSettings() if select.rule == "ids" else select


def join_basins(
    mascons: geopandas.GeoDataFrame,
    mass: pd.DataFrame,
    basins: geopandas.GeoDataFrame,
    ice: BaseGeometry,
    crs: str,
    select: SelectSettings,
) -> tuple[geopandas.GeoDataFrame, pd.DataFrame, dict[str, Any]]:
    """Return the two tables of gravimetry with basins in place of mascons.

    Parameters
    ----------
    mascons
        Footprints with ``selected``; those chosen by the mascon rule give their mass.
    mass
        Their table ``MASS``.
    basins
        As :func:`read_basins` gives them.
    ice
        The region's ice, in ``crs``.
    crs
        Projected CRS of ``ice`` and ``basins``.
    select
        ``rule: ids`` names basins; otherwise all basins with ice are selected.

    Returns
    -------
    mascons
        The basins with at least 1 km² of ice, in longitude and latitude, with the columns of
        ``MASCONS``: ``land_area_km2`` is their ice, over which water equivalent is spread.
    mass
        Table ``MASS`` of the basins. A month is null where a mascon with more than
        ``SLIVER_SHARE`` of the basin's ice is null.
    told
        Plain values for the provenance: unit, names, and the ice outside all basins, or in
        mascons that the rule leaves out (km² and share of the region's ice).

    Raises
    ------
    UserError
        If no basin holds ice, or an id is not there.
    """
    chosen = mascons[mascons["selected"]].reset_index(drop=True)
    ice_km2, basin_ice, region_ice = _intersect(chosen, basins, ice, crs)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(ice_km2 > 0, basin_ice / ice_km2, 0.0)
    own = region_ice["basins"]
    held = own >= _SLIVER_KM2
    if not held.any():
        raise UserError("region: basins: no basin holds ice of the region")
    for name in basins["name"][~held]:
        logger.warning("basin %s holds no ice of the region and is left out", name)
    listed = basins[held].reset_index(drop=True)
    told = _tell(listed, region_ice, float(basin_ice.sum()), own)
    out = listed.assign(
        geometry=[to_degrees(shape, crs) for shape in listed.geometry],
        land_area_km2=own[held],
        ice_area_km2=own[held],
        ice_fraction=1.0,
        in_product_set=pd.array([None] * len(listed), dtype="boolean"),
        whole_ice_fraction=np.nan,
        selected=_selected(listed, select),
    )
    out = measure_footprints(out.set_crs("EPSG:4326", allow_override=True))
    out.attrs = mascons.attrs
    return out, _share_out(mass, chosen, share[held], basin_ice[held], out), told


def _intersect(
    mascons: geopandas.GeoDataFrame, basins: geopandas.GeoDataFrame, ice: BaseGeometry, crs: str
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Return ice (km²) per mascon, per basin × mascon, and of the whole region and its basins."""
    longitude, latitude = unproject(ice.centroid.x, ice.centroid.y, crs)
    local = area_crs(float(longitude), float(latitude))

    def move(shape: BaseGeometry) -> BaseGeometry:
        return shapely.make_valid(reproject(shapely.segmentize(shape, _STEP_M), crs, local))

    moved = move(ice)
    footprints = project_footprints(mascons.geometry, local)
    ice_km2 = shapely.area(shapely.intersection(footprints, moved)) / 1e6
    pieces = np.array([shapely.intersection(move(shape), moved) for shape in basins.geometry])
    basin_ice = np.zeros((pieces.size, footprints.size))
    for number, piece in enumerate(pieces):
        shapely.prepare(piece)
        near = shapely.intersects(piece, footprints)
        basin_ice[number, near] = shapely.area(shapely.intersection(footprints[near], piece)) / 1e6
    whole = {"ice": moved.area / 1e6, "basins": shapely.area(pieces) / 1e6}
    return ice_km2, basin_ice, whole


def _tell(
    basins: geopandas.GeoDataFrame, region_ice: dict[str, Any], used_km2: float, own: np.ndarray
) -> dict[str, Any]:
    """Return what the provenance says of basins, and warn of ice whose mass is in none."""
    ice = float(region_ice["ice"])
    within = float(own.sum())
    outside, ungiven = max(ice - within, 0.0), max(within - used_km2, 0.0)
    for km2, what in ((outside, "in no basin"), (ungiven, "in basins, but in no chosen mascon")):
        if km2 > _SLIVER_KM2:
            logger.warning("%.6g km² of ice (%.3g %%) lie %s", km2, 100 * km2 / ice, what)
    return {
        "unit_fused": "basin",
        "basins": {
            int(i): str(n) for i, n in zip(basins["mascon_id"], basins["name"], strict=True)
        },
        "ice_outside_basins_km2": round(outside, 3),
        "ice_outside_basins_share": round(outside / ice, 6),
        "ice_outside_mascons_km2": round(ungiven, 3),
        "sigma_basins": "mascons independent; neighbouring basins share mascons",
    }


def _selected(basins: geopandas.GeoDataFrame, select: SelectSettings) -> np.ndarray:
    if select.rule != "ids":
        return np.ones(len(basins), dtype=bool)
    absent = sorted(set(select.ids or []) - set(basins["mascon_id"]))
    if absent:
        raise UserError(f"mascons: select: ids: {absent} are no basins with ice of the region")
    return basins["mascon_id"].isin(select.ids or []).to_numpy()


def _share_out(
    mass: pd.DataFrame,
    mascons: geopandas.GeoDataFrame,
    share: np.ndarray,
    basin_ice: np.ndarray,
    basins: geopandas.GeoDataFrame,
) -> pd.DataFrame:
    """Return the table ``MASS`` of basins.

    Parameters
    ----------
    mass
        Table of the mascons.
    mascons
        The mascons of ``share``, in its order.
    share, basin_ice
        Share of the mascon's ice in the basin, and that ice (km²), shape (basins, mascons).
    basins
        With mascon_id and land_area_km2, in the order of ``share``.
    """
    months = np.sort(mass["month"].unique())
    wide = {
        name: mass.pivot(index="month", columns="mascon_id", values=name).reindex(  # noqa: PD010
            index=months, columns=mascons["mascon_id"]
        )
        for name in mass.columns.drop(["mascon_id", "month"])
    }
    parts = []
    for number, (basin, area) in enumerate(
        zip(basins["mascon_id"], basins["land_area_km2"], strict=True)
    ):
        with_ice = share[number] > 0
        needed = basin_ice[number] > SLIVER_SHARE * area
        weight = share[number, with_ice]
        columns: dict[str, Any] = {"mascon_id": np.int32(basin), "month": months}
        for name in ("mass", "mass_change"):
            values, sigma = (
                wide[f"{name}{suffix}"].to_numpy(dtype=float) for suffix in ("_gt", "_sigma_gt")
            )
            lacking = np.isnan(values[:, needed]).any(axis=1) | ~needed.any()
            total = np.nansum(values[:, with_ice] * weight, axis=1)
            spread = np.sqrt(np.sum((sigma[:, needed] * share[number, needed]) ** 2, axis=1))
            columns[f"{name}_gt"] = np.where(lacking, np.nan, total)
            columns[f"{name}_sigma_gt"] = np.where(lacking, np.nan, spread)
        columns["lwe_cm"] = mass_to_lwe(columns["mass_gt"], area)
        columns["lwe_sigma_cm"] = mass_to_lwe(columns["mass_sigma_gt"], area)
        part = pd.DataFrame(columns)
        held = part["mass_gt"].notna()
        for name, extreme in (("solution_start", "min"), ("solution_end", "max")):
            bound = getattr(wide[name].loc[:, with_ice], extreme)(axis=1)
            part[name] = bound.to_numpy()
            part.loc[~held, name] = pd.NaT
        parts.append(part[list(mass.columns)])
    return pd.concat(parts, ignore_index=True)


def to_degrees(geometry: BaseGeometry, crs: str) -> BaseGeometry:
    """Return a projected geometry in longitude/latitude, −180 … 180, cut at the antimeridian.

    Parameters
    ----------
    geometry
        Polygons in ``crs`` (m); they may hold a pole or lie across the antimeridian.
    crs
        Projected CRS.

    Notes
    -----
    In a polar projection meridians are straight lines from the pole: there the two halves of
    the globe are cut apart, with a hole of a metre at the pole.
    """
    dense = shapely.segmentize(geometry, _STEP_M)
    _, latitude = unproject(geometry.centroid.x, geometry.centroid.y, crs)
    pole = 90 if float(latitude) >= 0 else -90
    polar = f"+proj=stere +lat_0={pole} +lon_0=0 +datum=WGS84 +units=m +no_defs"
    moved = shapely.make_valid(reproject(dense, crs, polar))
    # Longitude 180 runs up the y axis in the north, down it in the south.
    antimeridian = shapely.LineString([(0, 0), (0, _REACH_M if pole > 0 else -_REACH_M)])
    if not moved.intersects(antimeridian):
        return shapely.make_valid(reproject(moved, polar, "EPSG:4326"))
    moved = moved.difference(shapely.Point(0, 0).buffer(_POLE_M))
    halves = []
    for side in (-1, 1):
        west, east = sorted((0.0, side * _REACH_M))
        half = moved.intersection(shapely.box(west, -_REACH_M, east, _REACH_M))
        degrees = reproject(half, polar, "EPSG:4326")
        # On the cut a longitude of ±180, and of ±0, is this half's own.
        halves.append(shapely.transform(degrees, lambda xy, side=side: _own_side(xy, side)))
    return shapely.union_all(shapely.make_valid(halves))


def _own_side(degrees: np.ndarray, side: int) -> np.ndarray:
    return np.column_stack([side * np.abs(degrees[:, 0]), degrees[:, 1]])
