"""JPL RL06.xM mascons: 3° equal-area caps on half-degree cells (Watkins et al. 2015).

The file names each cell's mascon (``mascon_ID``); all land cells of one mascon carry one
number, and the coastline filter of the CRI grids gives its ocean cells another. One value per
mascon is taken, that of its land cells.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from cryofuse.logs import UserError
from cryofuse.mascons.blocks import block_geometry
from cryofuse.mascons.solutions import (
    Extent,
    Solutions,
    cell_area_km2,
    cell_centres,
    check_shapes,
    in_extent,
    read_bounds,
    stated_title,
)

if TYPE_CHECKING:
    import geopandas

logger = logging.getLogger(__name__)

#: Fill value of the product.
FILL = -99999.0
#: Largest difference between cells of one mascon (cm): float32 copies of one number.
_CONSTANT_CM = 1e-3
#: Mascons in a band of 3° are this many times the cosine of its latitude, rounded down.
_AROUND_EQUATOR = 119.98
_NEEDED = ("lat", "lon", "time", "time_bounds", "lwe_thickness", "mascon_ID", "land_mask")


def read_solutions(
    path: str,
    land_mask: str | None = None,
    extent: Extent | None = None,
    footprints: geopandas.GeoDataFrame | None = None,
    mapping: str | None = None,
) -> Solutions:
    """Read a file in JPL's layout.

    Parameters
    ----------
    path
        NetCDF file; a crop of the globe is allowed, rows and columns in either direction.
    land_mask, mapping
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
        ``land_area_km2`` is the summed area of the mascon's cells with ``land_mask``; σ is the
        file's ``uncertainty``, 1σ of a mascon and not of a cell.

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
        latitude, longitude = (cell_centres(file[name], path) for name in ("lat", "lon"))
        plane = (latitude.size, longitude.size)
        cube = (int(file["time"].shape[0]), *plane)
        check_shapes(file, path, {"mascon_ID": plane, "land_mask": plane, "lwe_thickness": cube})
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
        start, end = read_bounds(file, path)
        lwe = _read_blocks(file, "lwe_thickness", ids, kept, speaking, path)
        if "uncertainty" in file.variables:
            check_shapes(file, path, {"uncertainty": cube})
            sigma = _read_blocks(file, "uncertainty", ids, kept, speaking, path)
            origin = "uncertainty of the file, 1σ of a mascon"
        else:
            logger.warning("%s: no uncertainty: σ is null", path)
            sigma = np.full_like(lwe, np.nan)
            origin = "none: the file holds no uncertainty"
        release = _release(file)
    area = cell_area_km2(latitude, longitude)
    mascons = _outlines(ids, kept, land, area, latitude, longitude, footprints, path)
    stated = "blocks of mascon_ID in the file"
    if footprints is not None:
        stated = stated_title(footprints)
    return Solutions(
        mascons, lwe, sigma, start, end, "jpl", release, sigma=origin, footprints=stated
    )


def place_bands() -> np.ndarray:
    """Return JPL's mascons by the rule of their placement: bands of 3° with boxes of about 3°.

    A band holds n = ⌊119.98·cos(latitude of its middle)⌋ mascons (six about a pole), whose
    edges are k·360°/n rounded half up to half a degree; numbers run from the north. There are
    4551, as many as JPL has, and around Greenland they are JPL's own boxes and numbers.

    Returns
    -------
    numpy.ndarray
        Number, south, north, west, east (degrees; longitudes 0 to 360), shape (4551, 5).
    """
    rows: list[tuple[float, ...]] = []
    for south in np.arange(85.5, -90.0, -3.0):
        count = int(_AROUND_EQUATOR * np.cos(np.radians(south + 1.5)))
        # The caps beyond the outermost bands belong to them.
        low = -90.0 if south <= -88.5 else south
        high = 90.0 if south >= 85.5 else south + 3.0
        edges = np.floor(np.arange(count + 1) * 720.0 / count + 0.5) / 2
        for west, east in zip(edges[:-1], edges[1:], strict=True):
            rows.append((len(rows) + 1, low, high, west, east))
    return np.array(rows)


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
    """Return id, outline, land area of each kept mascon, and what the file lacks of it."""
    import geopandas

    known = (
        {}
        if footprints is None
        else dict(zip(footprints["mascon_id"], footprints.geometry, strict=True))
    )
    geometries, beyond = [], []
    for mascon in kept:
        rows, columns = np.nonzero(ids == mascon)
        block = block_geometry(rows, columns, latitude, longitude)
        missing = shapely.Polygon()
        if mascon in known:
            outside = block.difference(known[mascon].buffer(1e-6)).area
            if outside > 0:
                raise UserError(
                    f"{path}: the cells of mascon {mascon} lie outside its known footprint: "
                    "the file numbers mascons in another way (region: footprints)"
                )
            missing = known[mascon].difference(block.buffer(1e-6))
            block = known[mascon]
        geometries.append(block)
        beyond.append(missing)
    land_area = np.bincount(
        np.searchsorted(kept, ids[land & np.isin(ids, kept)]),
        weights=area[land & np.isin(ids, kept)],
        minlength=kept.size,
    )
    return geopandas.GeoDataFrame(
        {"mascon_id": kept.astype(np.int32), "land_area_km2": land_area, "beyond_file": beyond},
        geometry=geometries,
        crs="EPSG:4326",
    )


def _release(file: Any) -> str:
    """Return what the file says about its product and release."""
    for name in ("product_version", "title", "id"):
        if name in file.ncattrs():
            return str(file.getncattr(name))
    return "not stated"
