"""CSR RL06.x mascons: about 1° hexagon-like tiles shown on quarter-degree cells (Save 2016).

The samples are the tiles, never the cells. Tiles are found as cells that share one series.
Where no such blocks exist (a file that was interpolated), cells are averaged onto stated
footprints and the unit is ``derived``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from cryofuse.logs import UserError
from cryofuse.mascons.blocks import block_geometry, degree_box
from cryofuse.mascons.solutions import (
    Extent,
    Solutions,
    cell_area_km2,
    decode_days,
    empirical_sigma,
    in_extent,
    time_units,
    west_longitude,
)

if TYPE_CHECKING:
    import geopandas

logger = logging.getLogger(__name__)

#: Share of cells that must lie in blocks of equal series for the blocks to be the tiles.
_BLOCK_SHARE = 0.5
#: Smallest share of a footprint that the file's cells must cover for an average.
_COVERED_SHARE = 0.9
_MIX = np.uint64(0x9E3779B97F4A7C15)


def read_solutions(
    path: str,
    land_mask: str | None = None,
    extent: Extent | None = None,
    footprints: geopandas.GeoDataFrame | None = None,
) -> Solutions:
    """Read a file in CSR's layout.

    Parameters
    ----------
    path
        NetCDF file; its time unit may stand in an attribute spelt ``Units``.
    land_mask
        NetCDF file with ``LO_val`` (1 land) on the same cells.
    extent
        West, south, east, north (degrees): only mascons with a cell inside are kept.
    footprints
        Footprints to average onto when the file has no tiles; without them equal-area cells
        of about 1° are taken.

    Returns
    -------
    Solutions
        σ is the empirical scatter of each series: the product gives none.

    Raises
    ------
    UserError
        If the file is not in CSR's layout or the land mask is missing or of another grid.
    """
    import netCDF4

    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        needed = ("lat", "lon", "time", "time_bounds", "lwe_thickness")
        missing = [name for name in needed if name not in file.variables]
        if missing:
            raise UserError(f"{path}: not in the layout of CSR mascons (no {', '.join(missing)})")
        latitude = np.asarray(file["lat"][:], dtype=float)
        longitude = np.asarray(file["lon"][:], dtype=float)
        land = _read_land(path, land_mask, latitude, longitude)
        inside = in_extent(longitude[np.newaxis, :], latitude[:, np.newaxis], extent)
        tile = _tiles(file["lwe_thickness"])
        counts = np.bincount(tile.ravel())
        native = float((counts[tile] > 1).mean()) >= _BLOCK_SHARE
        if native:
            member = np.where(np.isin(tile, np.unique(tile[inside])), tile + 1, 0)
        else:
            if footprints is None:
                footprints = degree_cells(latitude, longitude)
            member = _members(latitude, longitude, footprints)
            member = np.where(np.isin(member, np.unique(member[inside])), member, 0)
            logger.info("%s: no tiles found: averaged onto %d footprints", path, len(footprints))
        area = cell_area_km2(latitude, longitude)
        ids = np.unique(member[member > 0])
        if ids.size == 0:
            raise UserError(f"{path}: no mascon of the file lies in the region")
        lwe = _average(file["lwe_thickness"], member, ids, np.where(land, area, 0.0), area)
        bounds = np.asarray(file["time_bounds"][:], dtype=float)
        units = time_units(file["time"])
        release = str(getattr(file, "title", "not stated"))
    start, end = decode_days(bounds[:, 0], units, path), decode_days(bounds[:, 1], units, path)
    mascons = _outlines(
        member, ids, land, area, latitude, longitude, None if native else footprints
    )
    sigma = np.broadcast_to(empirical_sigma(lwe, start + (end - start) // 2), lwe.shape)
    return Solutions(
        mascons,
        lwe,
        sigma,
        start,
        end,
        "csr",
        release,
        unit="native" if native else "derived",
        sigma="scatter of the series (upper bound)",
    )


def degree_cells(latitude: np.ndarray, longitude: np.ndarray) -> geopandas.GeoDataFrame:
    """Return equal-area cells of about 1° that the grid covers whole.

    Bands of 1° of latitude hold ``round(360·cos(latitude))`` cells each; the number of a cell
    is 1000 × band (from the south, first 1) + place in the band (from Greenwich eastwards).

    Parameters
    ----------
    latitude, longitude
        Centres of the grid's rows and columns (degrees).
    """
    import geopandas

    step = abs(latitude[1] - latitude[0])
    south, north = latitude.min() - step / 2, latitude.max() + step / 2
    start = min(longitude[0], longitude[-1]) - step / 2
    width = min(longitude.size * step, 360.0)
    ids, boxes = [], []
    for band in range(int(np.ceil(south - 1e-9)), int(np.floor(north + 1e-9))):
        count = max(1, round(360 * np.cos(np.radians(band + 0.5))))
        edges = np.arange(count + 1) * 360.0 / count
        for place in range(count):
            west, east = edges[place], edges[place + 1]
            if (west - start) % 360 + (east - west) <= width + 1e-9:
                ids.append(1000 * (band + 91) + place)
                boxes.append(degree_box(west, band, east, band + 1))
    return geopandas.GeoDataFrame(
        {"mascon_id": np.array(ids, dtype=np.int32)}, geometry=boxes, crs="EPSG:4326"
    )


def _read_land(
    path: str, land_mask: str | None, latitude: np.ndarray, longitude: np.ndarray
) -> np.ndarray:
    import netCDF4

    if not land_mask:
        raise UserError(
            f"{path}: CSR mascons need a separate land mask with LO_val (local: land_mask_file)"
        )
    with netCDF4.Dataset(land_mask) as file:
        file.set_auto_mask(False)
        if "LO_val" not in file.variables:
            raise UserError(f"{land_mask}: no LO_val: this is not CSR's land mask")
        mask_lat = np.asarray(file["lat"][:], dtype=float)
        mask_lon = np.asarray(file["lon"][:], dtype=float)
        values = np.asarray(file["LO_val"][:])

    def place(wanted: np.ndarray, offered: np.ndarray) -> np.ndarray:
        order = np.argsort(offered)
        near = np.clip(np.searchsorted(offered[order], wanted - 1e-3), 0, offered.size - 1)
        found = order[near]
        if np.abs(offered[found] - wanted).max() > 1e-3:
            raise UserError(f"{land_mask}: its cells are not those of {path}")
        return found

    rows, columns = place(latitude, mask_lat), place(longitude % 360, mask_lon % 360)
    return values[np.ix_(rows, columns)] == 1


def _tiles(variable: Any) -> np.ndarray:
    """Return a number per cell, equal where whole series are equal (bit for bit)."""
    digest = np.zeros(variable.shape[1:], dtype=np.uint64)
    for number in range(variable.shape[0]):
        bits = np.ascontiguousarray(variable[number], dtype=np.float32).view(np.uint32)
        with np.errstate(over="ignore"):
            digest = (digest ^ bits.astype(np.uint64)) * _MIX
            digest ^= digest >> np.uint64(29)
    return np.unique(digest, return_inverse=True)[1].reshape(digest.shape).astype(np.int64)


def _members(
    latitude: np.ndarray, longitude: np.ndarray, footprints: geopandas.GeoDataFrame
) -> np.ndarray:
    """Return the footprint id that holds each cell's centre (0: none)."""
    from cryofuse.mascons.footprints import locate

    lon, lat = np.meshgrid(west_longitude(longitude), latitude)
    return locate(footprints, lon.ravel(), lat.ravel()).reshape(lon.shape)


def _average(
    variable: Any, member: np.ndarray, ids: np.ndarray, land: np.ndarray, area: np.ndarray
) -> np.ndarray:
    """Return area-weighted means over each mascon's land cells (all cells where none is land)."""
    used = member > 0
    owner = np.searchsorted(ids, member[used])
    has_land = np.bincount(owner, weights=land[used], minlength=ids.size) > 0
    weight = np.where(has_land[owner], land[used], area[used])
    values = np.empty((variable.shape[0], ids.size))
    for number in range(variable.shape[0]):
        cells = np.asarray(variable[number], dtype=float)[used]
        good = np.isfinite(cells) & (np.abs(cells) < 9e4)
        total = np.bincount(owner, np.where(good, weight, 0.0), ids.size)
        summed = np.bincount(owner, np.where(good, weight * cells, 0.0), ids.size)
        with np.errstate(invalid="ignore"):
            values[number] = np.where(total > 0, summed / total, np.nan)
    return values


def _outlines(
    member: np.ndarray,
    ids: np.ndarray,
    land: np.ndarray,
    area: np.ndarray,
    latitude: np.ndarray,
    longitude: np.ndarray,
    footprints: geopandas.GeoDataFrame | None,
) -> geopandas.GeoDataFrame:
    import geopandas

    if footprints is None:
        rows, columns = np.nonzero(member)
        owner = np.searchsorted(ids, member[rows, columns])
        order = np.argsort(owner, kind="stable")
        cuts = np.searchsorted(owner[order], np.arange(1, ids.size))
        geometries = [
            block_geometry(r, c, latitude, longitude)
            for r, c in zip(
                np.split(rows[order], cuts), np.split(columns[order], cuts), strict=True
            )
        ]
    else:
        known = dict(zip(footprints["mascon_id"], footprints.geometry, strict=True))
        geometries = [known[number] for number in ids]
    on_land = land & (member > 0)
    land_area = np.bincount(
        np.searchsorted(ids, member[on_land]), weights=area[on_land], minlength=ids.size
    )
    return geopandas.GeoDataFrame(
        {"mascon_id": ids.astype(np.int32), "land_area_km2": land_area},
        geometry=geometries,
        crs="EPSG:4326",
    )
