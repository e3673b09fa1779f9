"""CSR RL06.x mascons: about 1° hexagon-like tiles shown on quarter-degree cells (Save 2016).

The samples are the tiles, never the cells. A mapping file names each cell's tile; without one,
tiles are contiguous cells that share one series. Where no such blocks exist (a file that was
interpolated), cells are averaged onto stated footprints and the unit is ``derived``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from cryofuse.logs import UserError
from cryofuse.mascons.blocks import block_geometry, degree_box, grid_box
from cryofuse.mascons.solutions import (
    LWE_LIMIT_CM,
    Extent,
    Solutions,
    cell_area_km2,
    cell_centres,
    check_shapes,
    empirical_sigma,
    in_extent,
    read_bounds,
    reading,
    stated_title,
    west_longitude,
)

if TYPE_CHECKING:
    import geopandas

logger = logging.getLogger(__name__)

#: Share of cells that must lie in blocks of equal series for the blocks to be the tiles.
_BLOCK_SHARE = 0.5
_NEEDED = ("lat", "lon", "time", "time_bounds", "lwe_thickness")
#: Variable of the mapping file that CSR publishes (…_mascons_mapping_file.nc).
_MAPPING_VARIABLE = "mascon_id"
_MIX = np.uint64(0x9E3779B97F4A7C15)


def read_solutions(
    path: str,
    land_mask: str | None = None,
    extent: Extent | None = None,
    footprints: geopandas.GeoDataFrame | None = None,
    mapping: str | None = None,
) -> Solutions:
    """Read a file in CSR's layout.

    Parameters
    ----------
    path
        NetCDF file; its time unit may stand in an attribute spelt ``Units``.
    land_mask
        NetCDF file with ``LO_val`` (1 land) on the same cells, or on more.
    extent
        West, south, east, north (degrees): only mascons with a cell inside are kept.
    footprints
        Footprints to average onto when the file has no tiles; without them equal-area cells
        of about 1° are taken.
    mapping
        NetCDF file with the number of each cell's tile (``mascon_id``, or its one variable on
        lat × lon) on the same cells, or on more; numbers below 1 are no tile.

    Returns
    -------
    Solutions
        σ is the empirical scatter of each series: the product gives none. Tiles that no mapping
        numbers have the number 1 + 1440·row + column of their first cell, counted from the
        south pole and Greenwich.

    Raises
    ------
    UserError
        If the file is not in CSR's layout, the land mask is missing or of another grid, or the
        mapping is of another grid or release.
    """
    import netCDF4

    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        missing = [name for name in _NEEDED if name not in file.variables]
        if missing:
            raise UserError(f"{path}: not in the layout of CSR mascons (no {', '.join(missing)})")
        if not land_mask:
            raise UserError(
                f"{path}: CSR mascons need a separate land mask with LO_val (local: land_mask_file)"
            )
        latitude, longitude = (cell_centres(file[name], path) for name in ("lat", "lon"))
        variable = file["lwe_thickness"]
        cube = (int(file["time"].shape[0]), latitude.size, longitude.size)
        check_shapes(file, path, {"lwe_thickness": cube})
        start, end = read_bounds(file, path)
        land = _read_cells(land_mask, "LO_val", path, latitude, longitude) == 1
        inside = in_extent(longitude[np.newaxis, :], latitude[:, np.newaxis], extent)
        series, empty = _label_series(variable)
        member, stated, native = _find_tiles(
            path, series, empty, latitude, longitude, footprints, mapping
        )
        member = np.where(np.isin(member, np.unique(member[inside])), member, 0)
        area = cell_area_km2(latitude, longitude)
        ids = np.unique(member[member > 0])
        if ids.size == 0:
            raise UserError(f"{path}: no mascon of the file lies in the region")
        lwe = _average(variable, member, ids, np.where(land, area, 0.0), area)
        release = str(getattr(file, "title", "not stated"))
    known = None if native or mapping else footprints
    if not native and not mapping and footprints is None:
        known = degree_cells(latitude, longitude)
    mascons = _outlines(member, ids, land, area, latitude, longitude, known)
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
        sigma="scatter of the series (upper bound): the product states none",
        footprints=stated,
    )


def _find_tiles(
    path: str,
    series: np.ndarray,
    empty: np.ndarray,
    latitude: np.ndarray,
    longitude: np.ndarray,
    footprints: geopandas.GeoDataFrame | None,
    mapping: str | None,
) -> tuple[np.ndarray, str, bool]:
    """Return each cell's mascon (0: none), whose footprints these are, and if they are CSR's."""
    blocks = _contiguous(series, empty, latitude, longitude)
    counts = np.bincount(blocks.ravel())
    held = blocks[blocks > 0]
    blocky = held.size > 0 and float((counts[held] > 1).mean()) >= _BLOCK_SHARE
    if mapping:
        tiles = _read_cells(mapping, None, path, latitude, longitude)
        whole = np.where(np.isfinite(tiles) & (tiles >= 1) & (tiles < 2**31), tiles, 0)
        if (whole != np.round(whole)).any():
            raise UserError(f"{mapping}: numbers of tiles are not whole")
        member = whole.astype(np.int64)
        used = (member > 0) & ~empty
        _, first, owner = np.unique(member[used], return_index=True, return_inverse=True)
        agree = bool((series[used] == series[used][first][owner]).all())
        if not agree and blocky:
            raise UserError(
                f"{mapping}: its tiles are not those of {path}: cells of one tile hold different "
                "series (a mapping of another release?)"
            )
        if not agree:
            logger.info("%s: no tiles found: averaged onto those of %s", path, mapping)
        return np.where(empty, 0, member), f"the tiles of {mapping}", agree
    if blocky:
        return blocks, "blocks of equal series found in the file", True
    if footprints is None:
        stated, footprints = "equal-area cells of 1°", degree_cells(latitude, longitude)
    else:
        stated = stated_title(footprints)
    logger.info("%s: no tiles found: averaged onto %s", path, stated)
    return _members(latitude, longitude, footprints), stated, False


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


def _read_cells(
    source: str, name: str | None, path: str, latitude: np.ndarray, longitude: np.ndarray
) -> np.ndarray:
    """Return a variable of another file (its tiles, if not named) on the cells of the grid."""
    import netCDF4

    kind = "CSR's land mask" if name else "a mapping of cells to tiles"
    with reading(source, kind), netCDF4.Dataset(source) as file:
        file.set_auto_mask(False)
        if name is None:
            plane = [n for n, v in file.variables.items() if v.dimensions == ("lat", "lon")]
            named = [n for n in plane if n.lower() == _MAPPING_VARIABLE] or plane
            name = named[0] if len(named) == 1 else _MAPPING_VARIABLE
        missing = [n for n in ("lat", "lon", name) if n not in file.variables]
        if missing:
            raise UserError(f"{source}: no {', '.join(missing)}: this is not {kind}")
        offered_lat = np.ravel(np.asarray(file["lat"][:], dtype=float))
        offered_lon = np.ravel(np.asarray(file["lon"][:], dtype=float)) % 360
        check_shapes(file, source, {name: (offered_lat.size, offered_lon.size)})
        values = np.asarray(file[name][:], dtype=float)

    def place(wanted: np.ndarray, offered: np.ndarray) -> np.ndarray:
        order = np.argsort(offered)
        near = np.clip(np.searchsorted(offered[order], wanted - 1e-3), 0, offered.size - 1)
        found = order[near]
        if np.abs(offered[found] - wanted).max() > 1e-3:
            raise UserError(f"{source}: its cells are not those of {path}")
        return found

    return values[np.ix_(place(latitude, offered_lat), place(longitude % 360, offered_lon))]


def _label_series(variable: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a number per cell, equal where whole series are equal bit for bit; and the empty.

    A cell is empty that holds only fill or only zeros.
    """
    digest = np.zeros(variable.shape[1:], dtype=np.uint64)
    empty = np.ones(variable.shape[1:], dtype=bool)
    for number in range(variable.shape[0]):
        values = np.ascontiguousarray(variable[number], dtype=np.float32)
        empty &= ~(np.abs(values) < LWE_LIMIT_CM) | (values == 0)
        with np.errstate(over="ignore"):
            digest = (digest ^ values.view(np.uint32).astype(np.uint64)) * _MIX
            digest ^= digest >> np.uint64(29)
    return digest, empty


def _contiguous(
    series: np.ndarray, empty: np.ndarray, latitude: np.ndarray, longitude: np.ndarray
) -> np.ndarray:
    """Return the number of each cell's block: cells of one series that touch (0: empty).

    Cells touch by an edge or a corner, also over the ends of a global grid. A block's number
    does not depend on the crop or its direction: it is that of its first cell on the globe.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    step = abs(longitude[1] - longitude[0])
    around = round(360 / step)
    flat = np.arange(series.size).reshape(series.shape)
    if longitude.size == around:
        closed = np.concatenate([flat, flat[:, :1]], axis=1)
    else:
        closed = flat
    pairs = [
        (closed[:, :-1], closed[:, 1:]),
        (closed[:-1], closed[1:]),
        (closed[:-1, :-1], closed[1:, 1:]),
        (closed[:-1, 1:], closed[1:, :-1]),
    ]
    left = np.concatenate([a.ravel() for a, _ in pairs])
    right = np.concatenate([b.ravel() for _, b in pairs])
    value, hollow = series.ravel(), empty.ravel()
    same = (value[left] == value[right]) & ~hollow[left] & ~hollow[right]
    links = coo_array(
        (np.ones(int(same.sum()), dtype=np.int8), (left[same], right[same])),
        shape=(series.size, series.size),
    )
    _, block = connected_components(links, directed=False)
    row = np.round((latitude + 90) / step - 0.5).astype(np.int64)
    column = np.round((longitude % 360) / step - 0.5).astype(np.int64) % around
    place = (1 + around * row[:, np.newaxis] + column).ravel()
    first = np.full(int(block.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, block, place)
    return np.where(empty, 0, first[block].reshape(series.shape))


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
        good = np.abs(cells) < LWE_LIMIT_CM
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
        beyond = None
    else:
        known = dict(zip(footprints["mascon_id"], footprints.geometry, strict=True))
        geometries = [known[number] for number in ids]
        held = grid_box(latitude, longitude).buffer(1e-6)
        beyond = [geometry.difference(held) for geometry in geometries]
    on_land = land & (member > 0)
    land_area = np.bincount(
        np.searchsorted(ids, member[on_land]), weights=area[on_land], minlength=ids.size
    )
    mascons = geopandas.GeoDataFrame(
        {"mascon_id": ids.astype(np.int32), "land_area_km2": land_area},
        geometry=geometries,
        crs="EPSG:4326",
    )
    return mascons if beyond is None else mascons.assign(beyond_file=beyond)
