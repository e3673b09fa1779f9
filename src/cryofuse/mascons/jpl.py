"""JPL RL06.xM mascons: 3° equal-area caps on half-degree cells (Watkins et al. 2015).

The file names each cell's mascon (``mascon_ID``); all land cells of one mascon carry one
number, and the coastline filter of the CRI grids gives its ocean cells another. One value per
mascon is taken, that of its land cells.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from cryofuse.logs import UserError
from cryofuse.mascons.blocks import block_geometry
from cryofuse.mascons.solutions import (
    Extent,
    Solutions,
    cell_area_km2,
    decode_days,
    in_extent,
    time_units,
)

if TYPE_CHECKING:
    import geopandas

logger = logging.getLogger(__name__)

#: Fill value of the product.
FILL = -99999.0
#: Largest difference between cells of one mascon (cm): float32 copies of one number.
_CONSTANT_CM = 1e-3
_NEEDED = ("lat", "lon", "time", "time_bounds", "lwe_thickness", "mascon_ID", "land_mask")


def read_solutions(
    path: str,
    land_mask: str | None = None,
    extent: Extent | None = None,
    footprints: geopandas.GeoDataFrame | None = None,
) -> Solutions:
    """Read a file in JPL's layout.

    Parameters
    ----------
    path
        NetCDF file; a crop of the globe is allowed, rows and columns in either direction.
    land_mask
        Not used: the file carries its own.
    extent
        West, south, east, north (degrees): only mascons with a cell inside are kept.
    footprints
        Mascons whose outline is known (``mascon_id``, ``geometry``): only these are kept,
        whatever the extent, and their outlines replace those of the blocks of cells, which a
        crop of the file may have cut.

    Returns
    -------
    Solutions
        ``land_area_km2`` is the summed area of the mascon's cells with ``land_mask``.

    Raises
    ------
    UserError
        If the file is not in JPL's layout, or a mascon is not constant over its land cells.
    """
    import netCDF4

    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        missing = [name for name in _NEEDED if name not in file.variables]
        if missing:
            raise UserError(f"{path}: not in the layout of JPL mascons (no {', '.join(missing)})")
        latitude = np.asarray(file["lat"][:], dtype=float)
        longitude = np.asarray(file["lon"][:], dtype=float)
        ids = np.nan_to_num(np.asarray(file["mascon_ID"][:], dtype=float), nan=0.0)
        ids = np.where((ids > 0) & (ids < 1e6), ids, 0).astype(np.int32)
        land = np.asarray(file["land_mask"][:]) == 1
        if footprints is None:
            inside = in_extent(longitude[np.newaxis, :], latitude[:, np.newaxis], extent)
        else:
            inside = np.isin(ids, footprints["mascon_id"])
        kept = np.unique(ids[inside & (ids > 0)])
        if kept.size == 0:
            raise UserError(f"{path}: no mascon of the file lies in the region")
        use = np.isin(ids, kept)
        with_land = np.unique(ids[use & land])
        # Ocean cells speak only for mascons without land.
        speaking = use & (land | ~np.isin(ids, with_land))
        units = time_units(file["time"])
        bounds = np.asarray(file["time_bounds"][:], dtype=float)
        lwe = _read_blocks(file, "lwe_thickness", ids, kept, speaking, path)
        if "uncertainty" in file.variables:
            sigma = _read_blocks(file, "uncertainty", ids, kept, speaking, path)
        else:
            logger.warning("%s: no uncertainty: σ is null", path)
            sigma = np.full_like(lwe, np.nan)
        release = _release(file)
    start, end = decode_days(bounds[:, 0], units, path), decode_days(bounds[:, 1], units, path)
    empty = np.isnan(lwe).all(axis=1)
    for number in np.flatnonzero(empty):
        logger.warning("%s: solution %d (%s) holds only fill", path, number, start[number])
    area = cell_area_km2(latitude, longitude)
    mascons = _outlines(ids, kept, land, area, latitude, longitude, footprints, path)
    return Solutions(mascons, lwe, sigma, start, end, "jpl", release)


def _read_blocks(
    file: Any, name: str, ids: np.ndarray, kept: np.ndarray, speaking: np.ndarray, path: str
) -> np.ndarray:
    """Return one value per solution and mascon, checked to be the value of every cell."""
    variable = file[name]
    rows, columns = np.nonzero(speaking)
    owner = np.searchsorted(kept, ids[rows, columns])
    order = np.argsort(owner, kind="stable")
    rows, columns, owner = rows[order], columns[order], owner[order]
    first = np.searchsorted(owner, np.arange(kept.size))
    top, bottom = rows.min(), rows.max() + 1
    fills = {FILL, float(np.ravel(getattr(variable, "_FillValue", FILL))[0])}
    values = np.empty((variable.shape[0], kept.size))
    for number in range(variable.shape[0]):
        cells = np.asarray(variable[number, top:bottom, :], dtype=float)[rows - top, columns]
        cells[np.isin(cells, list(fills))] = np.nan
        block = cells[first]
        apart = np.abs(cells - block[owner])
        mixed = np.isnan(cells) != np.isnan(block[owner])
        wrong = np.flatnonzero((apart > _CONSTANT_CM) | mixed)
        if wrong.size:
            mascon = kept[owner[wrong[0]]]
            raise UserError(
                f"{path}: {name} of mascon {mascon} is not one number over its land cells in "
                f"solution {number}: these are not JPL mascons on their own blocks"
            )
        values[number] = block
    return values


def _outlines(
    ids: np.ndarray,
    kept: np.ndarray,
    land: np.ndarray,
    area: np.ndarray,
    latitude: np.ndarray,
    longitude: np.ndarray,
    footprints: geopandas.GeoDataFrame | None,
    path: str,
) -> geopandas.GeoDataFrame:
    """Return id, outline and land area of each kept mascon."""
    import geopandas

    known = (
        {}
        if footprints is None
        else dict(zip(footprints["mascon_id"], footprints.geometry, strict=True))
    )
    geometries = []
    for mascon in kept:
        rows, columns = np.nonzero(ids == mascon)
        block = block_geometry(rows, columns, latitude, longitude)
        if mascon in known:
            outside = block.difference(known[mascon].buffer(1e-6)).area
            if outside > 0:
                raise UserError(
                    f"{path}: the cells of mascon {mascon} lie outside its known footprint: "
                    "the file numbers mascons in another way (region: footprints)"
                )
            block = known[mascon]
        geometries.append(block)
    land_area = np.bincount(
        np.searchsorted(kept, ids[land & np.isin(ids, kept)]),
        weights=area[land & np.isin(ids, kept)],
        minlength=kept.size,
    )
    return geopandas.GeoDataFrame(
        {"mascon_id": kept.astype(np.int32), "land_area_km2": land_area},
        geometry=geometries,
        crs="EPSG:4326",
    )


def _release(file: Any) -> str:
    """Return what the file says about its product and release."""
    for name in ("product_version", "title", "id"):
        if name in file.ncattrs():
            return str(file.getncattr(name))
    return "not stated"
