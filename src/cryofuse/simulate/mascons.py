"""The mass of the synthetic world in a product's mascons, and the truth behind its file.

Mass is summed over cells into the product's own footprints, leaks between neighbours, gets a
residual that elevation does not show and spatially correlated noise, and is written for the
months that the real record has. Mass in Gt, water equivalent in cm over the land area.

All products see the same ice, leakage and months. Their errors are independent of each other,
but of one size and one correlation length, as those of fields of one resolution are: a mascon
of 1° is as noisy as one of 3°, and shares its error with its neighbours. The residual is one
number to a 3° mascon, and a field as wide in mascons of 1°.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from cryofuse.calendar import (
    TIME_DTYPE,
    add_months,
    month_index,
    month_middle,
    month_range,
    parse_month,
    year_fraction,
)
from cryofuse.geo import (
    EARTH_RADIUS_KM,
    distance_matrix_km,
    project,
    read_vector,
    scale_factor,
    unproject,
)
from cryofuse.simulate.mascon_files import (
    GSFC_LEAKAGE_SHARE,
    box_area_km2,
    write_csr,
    write_gsfc,
    write_jpl,
)
from cryofuse.simulate.placement import (
    CSR_CELL_DEG,
    Footprints,
    Placement,
    Tiles,
    band_footprints,
    degree_footprints,
    load_footprints,
    tile_footprints,
)
from cryofuse.simulate.world import DAYS_PER_MONTH, HISTORY_START, REGIMES, World
from cryofuse.tables import written
from cryofuse.units import DAYS_PER_YEAR, ICE_DENSITY_KG_M3, mass_to_lwe

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_array

logger = logging.getLogger(__name__)

#: Months without a solution (DATA, section 2); with the gap between the missions.
MISSING_MONTHS = (
    "2002-06", "2002-07", "2003-06", "2011-01", "2011-06", "2012-05", "2012-10", "2013-03",
    "2013-08", "2013-09", "2014-02", "2014-07", "2014-12", "2015-06", "2015-10", "2015-11",
    "2016-04", "2016-09", "2016-10", "2017-02", "2018-08", "2018-09",
)  # fmt: skip
MISSION_GAP = ("2017-07", "2018-05")
#: Solutions that don't span their calendar month: first day, and day after the last, counted
#: from 2002-01-01; time_bounds of JPL RL06.
SOLUTION_DAYS = {
    "2002-04": (93, 120), "2002-05": (121, 138), "2003-05": (485, 506), "2004-01": (730, 743),
    "2004-02": (764, 790), "2010-12": (3256, 3283), "2011-02": (3325, 3346),
    "2011-07": (3472, 3499), "2011-11": (3576, 3607), "2011-12": (3637, 3667),
    "2012-09": (3896, 3920), "2012-11": (3962, 3987), "2013-02": (4049, 4075),
    "2013-04": (4118, 4138), "2014-01": (4383, 4400), "2014-06": (4534, 4558),
    "2014-11": (4687, 4719), "2015-05": (4849, 4879), "2015-07": (4927, 4960),
    "2015-09": (4991, 5018), "2015-12": (5093, 5116), "2016-01": (5116, 5141),
    "2016-02": (5141, 5173), "2016-05": (5241, 5265), "2016-07": (5295, 5324),
    "2016-08": (5333, 5360), "2016-11": (5431, 5458), "2016-12": (5458, 5485),
    "2017-01": (5485, 5513), "2017-03": (5554, 5583), "2017-04": (5578, 5607),
    "2017-05": (5600, 5621), "2017-06": (5621, 5659), "2018-07": (6025, 6043),
    "2018-10": (6138, 6157), "2019-02": (6234, 6272),
}  # fmt: skip
#: Months whose solutions are noisier, and by how much: first months, and the weak last ones.
NOISY_SPANS = (("2002-04", "2002-12", 1.6), ("2016-08", "2017-06", 2.0))
#: Mean that is taken from every series: 2004.000 to 2009.999.
BASELINE = ("2004-01", "2009-12")
#: Memory of the mascon residual (months).
RESIDUAL_MEMORY_MONTHS = 2.5
#: Side of a cell of JPL's grid (degrees).
_JPL_CELL_DEG = 0.5
#: Correlation length of the residual in products of finer mascons than JPL's (km): the width
#: of one of those.
_RESIDUAL_KM = 300.0
#: Degrees around the ice that a file of CSR or GSFC holds.
_MARGIN_DEG = 2.0
#: A GSFC mascon is land if at least this share of its points is, or any of its ice.
_LAND_SHARE = 0.5
#: What tells the random numbers of the products apart: none for the first.
_SEEDS: dict[str, tuple[int, ...]] = {"jpl": (), "csr": (1,), "gsfc": (2,)}
_EPOCH = np.datetime64("2002-01-01", "D")
_SUBCELLS = 5


@dataclass(frozen=True)
class Cells:
    """Cells of ice: middles (m, region's CRS), and the ice area of each mascon in each (m²).

    ``area_m2`` is sparse, shape (mascons, cells).
    """

    x_m: np.ndarray
    y_m: np.ndarray
    area_m2: csr_array
    footprints: Placement

    @property
    def ice_area_m2(self) -> np.ndarray:
        """Return each mascon's ice area (m²)."""
        return np.asarray(self.area_m2.sum(axis=1))

    def in_mascon(self, index: int) -> np.ndarray:
        """Return the ice area of each cell in one mascon (m²)."""
        return self.area_m2[[index], :].toarray()[0]


def cut_cells(world: World, footprints: Placement, *, keep_all: bool = False) -> Cells:
    """Cut the ice into cells and share them out between mascons.

    Parameters
    ----------
    world
        The planted truth; its settings give the cell's side.
    footprints
        Mascons.
    keep_all
        Keep mascons without ice, too.

    Returns
    -------
    Cells
        All cells of ice, also those outside the mascons.
    """
    from rasterio.features import rasterize
    from rasterio.transform import from_origin
    from scipy.sparse import coo_array

    side = world.settings.cell_m
    fine = side / _SUBCELLS
    x_min, y_min, x_max, y_max = world.outline.bounds
    left, bottom = np.floor(x_min / side) * side, np.floor(y_min / side) * side
    columns = int(np.ceil((x_max - left) / side))
    rows = int(np.ceil((y_max - bottom) / side))
    top = bottom + rows * side
    mask = rasterize(
        [(world.outline, 1)],
        out_shape=(rows * _SUBCELLS, columns * _SUBCELLS),
        transform=from_origin(left, top, fine, fine),
        dtype="uint8",
    )
    row, column = np.nonzero(mask)
    x, y = left + (column + 0.5) * fine, top - (row + 0.5) * fine
    owner = footprints.locate(*unproject(x, y, world.crs))
    if (owner < 0).any():
        logger.info("%.2f %% of the ice lies in no footprint", 100 * (owner < 0).mean())
    cell = (row // _SUBCELLS) * columns + column // _SUBCELLS
    cell, row_of = np.unique(cell, return_inverse=True)
    used = np.arange(footprints.mascon_id.size) if keep_all else np.unique(owner[owner >= 0])
    held = owner >= 0
    middle_x = left + (cell % columns + 0.5) * side
    middle_y = top - (cell // columns + 0.5) * side
    true = fine**2 * scale_factor(middle_x, middle_y, world.crs)
    at = row_of[held]
    area = coo_array(
        (true[at], (np.searchsorted(used, owner[held]), at)), shape=(used.size, cell.size)
    ).tocsr()
    return Cells(middle_x, middle_y, area, footprints.take(used))


@dataclass(frozen=True)
class CellGrid:
    """The file's grid: cells, the mascon of each (index, −1 none), and its land.

    ``tile`` numbers each cell's tile, also at sea, where the product has tiles there.
    """

    latitude: np.ndarray
    longitude: np.ndarray
    owner: np.ndarray
    land: np.ndarray
    cell_deg: float
    tile: np.ndarray | None = None

    @property
    def area_km2(self) -> np.ndarray:
        """Return the area of a cell in each row (km²), on the sphere."""
        half = self.cell_deg / 2
        edges = np.radians(np.stack([self.latitude - half, self.latitude + half]))
        width = np.radians(self.cell_deg)
        return EARTH_RADIUS_KM**2 * width * (np.sin(edges[1]) - np.sin(edges[0]))

    def land_area_km2(self, count: int) -> np.ndarray:
        """Return the land area of each of so many mascons (km²)."""
        area = np.where(self.land, self.area_km2[:, None], 0.0)
        return np.array([area[self.owner == k].sum() for k in range(count)])


def _on_land(world: World, longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Return which points stand on ice or on the region's coast."""
    x, y = project(longitude, latitude, world.crs)
    shape = world.outline
    if world.region.coast:
        shape = shapely.union(shape, read_vector(world.region.coast, world.crs))
    shapely.prepare(shape)
    return np.isfinite(x) & np.asarray(shapely.contains_xy(shape, x, y))


def _find_land(
    world: World, cells: Cells, owner: np.ndarray, longitude: np.ndarray, latitude: np.ndarray
) -> np.ndarray:
    """Return the grid's land; ice that misses every cell's middle still has a cell to stand in."""
    lon, lat = np.meshgrid(longitude, latitude)
    land = _on_land(world, lon, lat)
    for k in np.setdiff1d(np.flatnonzero(cells.ice_area_m2), owner[land]):
        heaviest = int(np.argmax(cells.in_mascon(int(k))))
        at_lon, at_lat = unproject(cells.x_m[heaviest], cells.y_m[heaviest], world.crs)
        near = np.hypot((lon - at_lon % 360.0) * np.cos(np.radians(lat)), lat - at_lat)
        land.flat[int(np.argmin(np.where(owner == k, near, np.inf)))] = True
    return land


def lay_grid(world: World, cells: Cells) -> CellGrid:
    """Lay half-degree cells over JPL's footprints, and find the land among them."""
    boxes = cells.footprints
    assert isinstance(boxes, Footprints)
    low, high = max(boxes.south.min() - 1.0, -90.0), min(boxes.north.max() + 1.0, 90.0)
    latitude = np.arange(low + _JPL_CELL_DEG / 2, high, _JPL_CELL_DEG)
    west, east = max(boxes.west.min() - 1.0, 0.0), min(boxes.east.max() + 1.0, 360.0)
    longitude = np.arange(west + _JPL_CELL_DEG / 2, east, _JPL_CELL_DEG)
    owner = boxes.locate(*np.meshgrid(longitude, latitude))
    land = _find_land(world, cells, owner, longitude, latitude)
    return CellGrid(latitude, longitude, owner, land, _JPL_CELL_DEG)


def _surroundings(world: World) -> tuple[float, float, float, float]:
    """Return west, south, east, north of the ice and a margin, whole degrees from 0 to 360."""
    from cryofuse.mascons.footprints import region_extent

    west, south, east, north = region_extent(world.outline, world.crs, _MARGIN_DEG)
    south, north = np.floor(south), np.ceil(north)
    width = np.ceil(east) - np.floor(west)
    west = np.floor(west) % 360
    if width >= 360 or west + width > 360:
        return 0.0, float(south), 360.0, float(north)
    return float(west), float(south), float(west + width), float(north)


def lay_tiles(world: World) -> tuple[Cells, CellGrid]:
    """Lay CSR's cells and tiles over the ice and around it; tiles with land are the mascons."""
    west, south, east, north = _surroundings(world)
    latitude = np.arange(south + CSR_CELL_DEG / 2, north, CSR_CELL_DEG)
    longitude = np.arange(west + CSR_CELL_DEG / 2, east, CSR_CELL_DEG)
    every = tile_footprints()
    tile = every.mascon_id[every.locate(*np.meshgrid(longitude, latitude))]
    present = Tiles(np.unique(tile))
    owner = np.searchsorted(present.mascon_id, tile)
    land = _find_land(world, cut_cells(world, present, keep_all=True), owner, longitude, latitude)
    cells = cut_cells(world, present.take(np.unique(owner[land])), keep_all=True)
    place = cells.footprints.locate(*np.meshgrid(longitude, latitude))
    return cells, CellGrid(latitude, longitude, place, land, CSR_CELL_DEG, tile)


def lay_boxes(world: World) -> tuple[Cells, Footprints]:
    """Lay GSFC's mascons over the ice and around it; return those of land, and the ocean's."""
    west, south, east, north = _surroundings(world)
    every = degree_footprints()
    longitude, latitude = every.centre
    here = (longitude >= west) & (longitude <= east) & (latitude >= south) & (latitude <= north)
    boxes = every.take(np.flatnonzero(here))
    place = (np.arange(_SUBCELLS) + 0.5) / _SUBCELLS
    lon = boxes.west[:, None, None] + (boxes.east - boxes.west)[:, None, None] * place
    lat = boxes.south[:, None, None] + place[:, None]
    share = _on_land(world, *np.broadcast_arrays(lon, lat)).mean(axis=(1, 2))
    land = (cut_cells(world, boxes, keep_all=True).ice_area_m2 > 0) | (share >= _LAND_SHARE)
    cells = cut_cells(world, boxes.take(np.flatnonzero(land)), keep_all=True)
    return cells, boxes.take(np.flatnonzero(~land))


def list_solutions(first: str, last: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the months that the record has, and the days that each solution spans.

    Parameters
    ----------
    first, last
        First and last month, ``YYYY-MM``.

    Returns
    -------
    tuple
        Nominal months, and first day and day after the last, counted from 2002-01-01 (n, 2).
    """
    gap = {str(m)[:7] for m in month_range(*MISSION_GAP)}
    months = [m for m in month_range(first, last) if str(m)[:7] not in {*MISSING_MONTHS, *gap}]
    spans = []
    for month in months:
        start, stop = month.astype("M8[D]"), add_months(month, 1).astype("M8[D]")
        whole = (int((start - _EPOCH).astype(int)), int((stop - _EPOCH).astype(int)))
        spans.append(SOLUTION_DAYS.get(str(month)[:7], whole))
    return np.array(months, dtype=TIME_DTYPE), np.array(spans)


def leakage_matrix(
    footprints: Placement, land_area_km2: np.ndarray, leakage_km: float
) -> np.ndarray:
    """Return how mass spreads between mascons; every column sums to 1, so mass is conserved.

    Parameters
    ----------
    footprints
        Mascons.
    land_area_km2
        Their land: a mascon receives in proportion to it.
    leakage_km
        Distance at which the Gaussian has fallen to exp(−2): two standard deviations.

    Returns
    -------
    numpy.ndarray
        Element (i, j) is the share of mascon j's mass that is seen in mascon i.
    """
    if leakage_km <= 0:
        return np.eye(footprints.mascon_id.size)
    spread = np.exp(-0.5 * (distance_matrix_km(*footprints.centre) / (leakage_km / 2)) ** 2)
    spread = spread * land_area_km2[:, None]
    return spread / spread.sum(axis=0)


def noise_factor(months: np.ndarray) -> np.ndarray:
    """Return how much noisier than usual each month's solution is."""
    factor = np.ones(months.size)
    for first, last, times in NOISY_SPANS:
        factor[(months >= parse_month(first)) & (months <= parse_month(last))] = times
    return factor


@dataclass(frozen=True)
class MassTruth:
    """Everything that a mascon file is made of: arrays of shape (mascons, solutions).

    ``grid`` is that of JPL's or CSR's file, ``ocean`` are the mascons around those of GSFC's.
    """

    product: str
    seed: int
    months: np.ndarray
    days: np.ndarray
    cells: Cells
    grid: CellGrid | None
    ocean: Footprints | None
    land_area_km2: np.ndarray
    own_gt: np.ndarray
    law_cm: np.ndarray
    residual_cm: np.ndarray
    noise_cm: np.ndarray
    sigma_cm: np.ndarray

    @property
    def planted_cm(self) -> np.ndarray:
        """Return the water equivalent without noise."""
        return self.law_cm + self.residual_cm

    @property
    def lwe_cm(self) -> np.ndarray:
        """Return what the file holds."""
        return self.planted_cm + self.noise_cm


def sum_histories(world: World, cells: Cells) -> np.ndarray:
    """Return the area-weighted sums of the histories' weights (m²), (mascons, histories)."""
    return cells.area_m2 @ world.basis_at(cells.x_m, cells.y_m)


def _extra_sum(world: World, cells: Cells) -> np.ndarray:
    """Return each mascon's sum of what a rate raster adds to the planted rate (m³/yr)."""
    return cells.area_m2 @ world.extra_rate(cells.x_m, cells.y_m)


def _mean_history(world: World, history: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return the means of daily histories over solutions, shape (histories, solutions)."""
    offset = int((_EPOCH - HISTORY_START).astype(int))
    total = np.concatenate([np.zeros((history.shape[0], 1)), np.cumsum(history, axis=1)], axis=1)
    first, stop = days[:, 0] + offset, days[:, 1] + offset
    return (total[:, stop] - total[:, first]) / (stop - first)


def weigh_mascons(world: World, cells: Cells, days: np.ndarray) -> np.ndarray:
    """Return each mascon's mass (Gt) in each solution, before leakage and without noise.

    Parameters
    ----------
    world
        The planted truth.
    cells
        Cells of ice by mascon.
    days
        First day and day after the last of each solution, counted from 2002-01-01.
    """
    if world.settings.law == "density":
        mass = _weigh_heights(world, cells, days)
    else:
        mass = sum_histories(world, cells) @ _mean_history(world, world.mass_history, days)
    middle = _EPOCH.astype(TIME_DTYPE) + (days.mean(axis=1) * 86_400e6).astype("m8[us]")
    extra = (
        _extra_sum(world, cells)[:, None] * world.years_since_reference(middle) * ICE_DENSITY_KG_M3
    )
    own = (mass + extra) * 1e-12
    share = world.settings.coupling
    if share < 1:
        own = share * own + (1 - share) * _unrelated(own, days, world.settings.seed)
    return own


def _weigh_heights(world: World, cells: Cells, days: np.ndarray) -> np.ndarray:
    """Return each mascon's mass (kg) by the law of density and lag, before leakage."""
    density, lag = world.density_law(cells.x_m, cells.y_m)
    basis = world.basis_at(cells.x_m, cells.y_m) * density[:, None]
    longest = int(np.ceil(lag.max()))
    mass = np.zeros((cells.footprints.mascon_id.size, len(days)))
    for months in range(longest + 1):
        share = np.clip(1 - np.abs(lag - months), 0, None)
        shift = round(months * DAYS_PER_MONTH)
        history = _mean_history(world, world.height_history, days - shift)
        mass += (cells.area_m2 @ (basis * share[:, None])) @ history
    return mass


def _unrelated(own: np.ndarray, days: np.ndarray, seed: int) -> np.ndarray:
    """Return mass of the same statistics that elevation knows nothing of.

    Mascons change places, trends change sign at random, and what is left of each series gets
    random phases, the same for all mascons (Prichard and Theiler 1994), so that their
    correlation stays.
    """
    rng = np.random.default_rng([seed, 808])
    iced = np.flatnonzero(own.any(axis=1))
    series = own[rng.permutation(iced)]
    years = days.mean(axis=1) / DAYS_PER_YEAR
    design = np.column_stack([np.ones(years.size), years - years.mean()])
    fit = series @ np.linalg.pinv(design).T
    spectrum = np.fft.rfft(series - fit @ design.T, axis=1)
    turn = np.exp(2j * np.pi * rng.random(spectrum.shape[1]))
    turn[0] = 1.0
    turned = np.fft.irfft(spectrum * turn, n=own.shape[1], axis=1)
    sign = rng.choice([-1.0, 1.0], iced.size)
    unrelated = np.zeros_like(own)
    unrelated[iced] = turned + np.outer(sign * fit[:, 1], design[:, 1])
    return unrelated


def plant_mass(world: World, product: str = "jpl") -> MassTruth:
    """Return the mass of a world in its mascons, from the file's first month to the period's end.

    Parameters
    ----------
    world
        The planted truth.
    product
        ``jpl``, ``csr`` or ``gsfc``: whose mascons.

    Raises
    ------
    ValueError
        If no month of the record has a solution, or no ice lies in a footprint.
    """
    settings = world.settings
    months, days = list_solutions(settings.mass_start, world.period.end)
    if not {str(month)[:7] for month in months} - set(settings.absent_months):
        raise ValueError(f"no gravity solution from {settings.mass_start} to {world.period.end}")
    cells, grid, ocean, land = _survey(world, product)
    ids = cells.footprints.mascon_id
    own = weigh_mascons(world, cells, days)
    spread = leakage_matrix(cells.footprints, land, settings.leakage_km)
    leaked = spread @ own
    if (land == 0).any():
        raise ValueError(f"mascons {ids[land == 0].tolist()} hold no land: name the region's coast")
    law = mass_to_lwe(leaked, land[:, None])
    own_seed = _SEEDS[product]
    apart = distance_matrix_km(*cells.footprints.centre)
    rng = np.random.default_rng([settings.seed, 909, *own_seed])
    residual = _red_noise(rng, own.shape, month_index(months)) * settings.mascon_residual_cm
    if product != "jpl":
        residual = _spread(apart, _RESIDUAL_KM) @ residual
    if settings.law == "density":
        # A mascon's own density belongs to what no law of place knows.
        stray = np.random.default_rng([settings.seed, 1212]).standard_normal(ids.size)
        own_part = settings.density_residual * stray[:, None] * own
        own, residual = own + own_part, residual + mass_to_lwe(spread @ own_part, land[:, None])
    factor = noise_factor(months)
    if product == "gsfc":
        # What its file calls leakage is the same in every month.
        factor = GSFC_LEAKAGE_SHARE + (1 - GSFC_LEAKAGE_SHARE) * factor
    sigma = settings.mass_noise_cm * factor
    # One generator for each month: a longer record leaves its first years as they are.
    white = np.stack(
        [
            np.random.default_rng([settings.seed, 1001, int(m), *own_seed]).standard_normal(
                ids.size
            )
            for m in month_index(months)
        ],
        axis=1,
    )
    noise = _spread(apart, settings.mass_noise_correlation_km) @ white * sigma
    base = (months >= parse_month(BASELINE[0])) & (months <= parse_month(BASELINE[1]))
    if not base.any():
        base[:] = True
    law, residual, noise = (
        v - v[:, base].mean(axis=1, keepdims=True) for v in (law, residual, noise)
    )
    sigma = np.broadcast_to(sigma, own.shape)
    # Left out at last, so that they change nothing of the other months.
    kept = ~np.isin(months, [parse_month(month) for month in settings.absent_months])
    own, law, residual, noise, sigma = (v[:, kept] for v in (own, law, residual, noise, sigma))
    return MassTruth(
        product, settings.seed, months[kept], days[kept], cells, grid, ocean, land, own, law,
        residual, noise, sigma,
    )  # fmt: skip


def _survey(
    world: World, product: str
) -> tuple[Cells, CellGrid | None, Footprints | None, np.ndarray]:
    """Return a product's mascons on ice, what its file stands on, and their land (km²)."""
    grid: CellGrid | None = None
    ocean: Footprints | None = None
    if product == "csr":
        cells, grid = lay_tiles(world)
    elif product == "gsfc":
        cells, ocean = lay_boxes(world)
    elif world.region.footprints:
        cells = cut_cells(world, load_footprints(world.region.footprints), keep_all=True)
    else:
        cells = cut_cells(world, band_footprints())
    if not cells.ice_area_m2.any():
        raise ValueError("no ice of the region lies in a mascon footprint")
    if product == "gsfc":
        assert isinstance(cells.footprints, Footprints)
        return cells, None, ocean, box_area_km2(cells.footprints)
    grid = grid or lay_grid(world, cells)
    return cells, grid, None, grid.land_area_km2(cells.footprints.mascon_id.size)


def _spread(apart_km: np.ndarray, length_km: float) -> np.ndarray:
    """Return what turns white noise into noise that is correlated as exp(−distance/length)."""
    return np.linalg.cholesky(np.exp(-apart_km / length_km) + 1e-9 * np.eye(len(apart_km)))


def _red_noise(rng: np.random.Generator, shape: tuple[int, int], month: np.ndarray) -> np.ndarray:
    """Return series of unit spread that forget within some months, gaps between them respected."""
    values = np.empty(shape)
    values[:, 0] = rng.standard_normal(shape[0])
    for i in range(1, shape[1]):
        keep = np.exp(-(month[i] - month[i - 1]) / RESIDUAL_MEMORY_MONTHS)
        values[:, i] = keep * values[:, i - 1] + np.sqrt(1 - keep**2) * rng.standard_normal(
            shape[0]
        )
    return values


def write_mascons(
    truth: MassTruth,
    path: str | os.PathLike[str],
    land_mask: str | os.PathLike[str] | None = None,
    mapping: str | os.PathLike[str] | None = None,
) -> None:
    """Write the mascon file of a truth in its product's layout.

    Parameters
    ----------
    truth
        The planted mass.
    path
        The file; it appears under its name when it is complete.
    land_mask, mapping
        The files beside it that CSR's layout has.
    """
    if truth.product == "gsfc":
        write_gsfc(truth, path)
    elif truth.product == "jpl":
        write_jpl(truth, path)
    elif land_mask and mapping:
        write_csr(truth, path, land_mask, mapping)
    else:
        raise ValueError("CSR's layout has a land mask and a mapping beside the mascon file")


# ---------------------------------------------------------------------- truth tables


def mascon_change(world: World, truth: MassTruth, months: np.ndarray) -> np.ndarray:
    """Return the true mean elevation change (m) over each mascon's ice at the middle of months."""
    cells = truth.cells
    middle = month_middle(months)
    volume = sum_histories(world, cells) @ world.heights_at(middle)
    volume += _extra_sum(world, cells)[:, None] * world.years_since_reference(middle)
    for lake in world.lake_list:
        owner = int(cells.footprints.locate(*unproject(lake.x_m, lake.y_m, world.crs)))
        if owner >= 0:
            volume[owner] += lake.profile_area_m2 * world.lake_level(lake, middle)
    area = cells.ice_area_m2[:, None]
    return np.where(area > 0, volume, np.nan) / np.where(area > 0, area, 1.0)


def _detrended(series: np.ndarray, years: np.ndarray, seasons: bool) -> np.ndarray:
    columns = [np.ones(years.size), years - years.mean()]
    if seasons:
        for k in (1, 2):
            columns += [np.cos(2 * np.pi * k * years), np.sin(2 * np.pi * k * years)]
    design = np.column_stack(columns)
    return series - series @ np.linalg.pinv(design).T @ design.T


def _best_lag(change: np.ndarray, mass: np.ndarray, month: np.ndarray, most: int = 6) -> float:
    """Return the lag (months, positive: mass later) of the largest correlation; NaN if too few."""
    at = month - month[0]
    series = np.full((2, int(at[-1]) + 1), np.nan)
    series[:, at] = change, mass
    best, found = -np.inf, np.nan
    for lag in range(-most, most + 1):
        early, late = (series[0], series[1]) if lag >= 0 else (series[1], series[0])
        pair = np.stack([early[: early.size - abs(lag)], late[abs(lag) :]])
        pair = pair[:, np.isfinite(pair).all(axis=0)]
        if pair.shape[1] > 12 and pair.std(axis=1).min() > 0:
            pair -= pair.mean(axis=1, keepdims=True)
            r = float((pair[0] * pair[1]).sum() / np.sqrt((pair**2).sum(axis=1).prod()))
            if r > best:
                best, found = r, float(lag)
    return found


def tabulate_truth(world: World, truth: MassTruth) -> dict[str, pd.DataFrame]:
    """Return the truth tables: ``mascons``, ``mascon_months``, and those of the lakes.

    Parameters
    ----------
    world
        The planted truth.
    truth
        Its mass.

    Returns
    -------
    dict of str to pandas.DataFrame
        ``mascons`` (planted lag, the lags that noise-free series show, effective density,
        shares of the regimes), ``mascon_months`` over the period, ``lakes``, ``lake_months``,
        ``lake_events``.
    """
    import pandas as pd

    months = month_range(world.period.start, world.period.end)
    change = mascon_change(world, truth, months)
    ids = truth.cells.footprints.mascon_id
    at = {m: i for i, m in enumerate(month_index(truth.months).tolist())}
    column = np.array([at.get(m, -1) for m in month_index(months).tolist()])
    seen = column >= 0
    frames = []
    for k, mascon in enumerate(ids):
        frame: dict[str, Any] = {"mascon_id": int(mascon), "month": months, "dh_m": change[k]}
        for name, values in (
            ("mass_gt_own", truth.own_gt),
            ("lwe_planted_cm", truth.planted_cm),
            ("lwe_law_cm", truth.law_cm),
            ("lwe_residual_cm", truth.residual_cm),
            ("lwe_noise_cm", truth.noise_cm),
            ("lwe_cm", truth.lwe_cm),
        ):
            frame[name] = np.where(seen, values[k, column], np.nan)
        frames.append(pd.DataFrame(frame))
    mascons = pd.DataFrame(
        _mascon_rows(world, truth, months[seen], change[:, seen], column[seen])
    ).astype({"regime": "Int32"})
    tables = {
        "mascons": mascons,
        "mascon_months": pd.concat(frames, ignore_index=True),
    }
    return tables | _lake_tables(world, months)


def _mascon_rows(
    world: World, truth: MassTruth, months: np.ndarray, change: np.ndarray, column: np.ndarray
) -> list[dict[str, Any]]:
    cells, ids = truth.cells, truth.cells.footprints.mascon_id
    years, month = year_fraction(month_middle(months)), month_index(months)
    labels = world.regime(cells.x_m, cells.y_m)
    weights = sum_histories(world, cells).reshape(ids.size, len(REGIMES), -1)
    daily = _mean_history(world, world.mass_history, truth.days[column])
    parts = np.einsum("mrk,rks->mrs", weights, daily.reshape(len(REGIMES), -1, months.size)) * 1e-12
    longitude, latitude = cells.footprints.centre
    rows = []
    for k, mascon in enumerate(ids):
        row: dict[str, Any] = {
            "mascon_id": int(mascon),
            "longitude": float((longitude[k] + 180) % 360 - 180),
            "latitude": float(latitude[k]),
            "ice_area_km2": float(cells.ice_area_m2[k] / 1e6),
            "land_area_km2": float(truth.land_area_km2[k]),
        }
        rows.append(row)
        if not cells.ice_area_m2[k]:
            # Its water equivalent is its neighbours' leakage; it has no elevation to lag behind.
            row |= {"lag_months": np.nan, "density_kg_m3": np.nan, "regime": None}
            continue
        share = np.bincount(labels, cells.in_mascon(k), len(REGIMES))
        share = share / share.sum()
        moving = _detrended(parts[k], years, seasons=False).var(axis=1)
        lag = float((moving * [r.lag_months for r in REGIMES]).sum() / (moving.sum() or 1.0))
        law, own = truth.law_cm[k, column], truth.own_gt[k, column]
        volume_km3 = change[k] * cells.ice_area_m2[k] / 1e9
        slope = float(np.polyfit(volume_km3, own, 1)[0]) if months.size > 2 else np.nan
        row |= {"lag_months": lag, "density_kg_m3": slope * 1000.0}
        row |= {"regime": int(share.argmax()), "regime_name": REGIMES[int(share.argmax())].name}
        for name, seasons in (("detrended", False), ("deseasonalised", True)):
            row[f"lag_{name}_months"] = _best_lag(
                _detrended(change[k], years, seasons), _detrended(law, years, seasons), month
            )
        row |= {f"share_{r}": float(share[r]) for r in range(len(REGIMES))}
    return rows


def _lake_tables(world: World, months: np.ndarray) -> dict[str, pd.DataFrame]:
    import pandas as pd

    middle = month_middle(months)
    monthly, events = [], []
    for lake in world.lake_list:
        level = world.lake_level(lake, middle)
        monthly.append(
            pd.DataFrame(
                {
                    "lake_id": lake.lake_id,
                    "month": months,
                    "volume_km3": level * lake.profile_area_m2 / 1e9,
                    "departure_m": level * lake.profile_area_m2 / (np.pi * lake.radius_m**2),
                }
            )
        )
        for kind, day in (("fill", lake.fill_start), ("drain", lake.drain_start)):
            first = day.astype("M8[M]").astype(TIME_DTYPE)
            events.append({"lake_id": lake.lake_id, "kind": kind, "month": first})
    empty = ["lake_id", "month", "volume_km3", "departure_m"]
    return {
        "lakes": world.lakes,
        "lake_months": pd.concat(monthly, ignore_index=True)
        if monthly
        else pd.DataFrame(columns=empty),
        "lake_events": pd.DataFrame(events, columns=["lake_id", "kind", "month"]),
    }


def describe_world(world: World, truth: MassTruth) -> dict[str, Any]:
    """Return a world's facts as plain values: seeds, thinning factors, totals, regimes, outlets."""
    settings = world.settings
    total = truth.own_gt.sum(axis=0)
    years = truth.days.mean(axis=1) / DAYS_PER_YEAR
    in_period = (truth.months >= parse_month(world.period.start)) & (
        truth.months <= parse_month(world.period.end)
    )

    def trend(use: np.ndarray) -> float | None:
        return float(np.polyfit(years[use], total[use], 1)[0]) if use.sum() > 12 else None

    longitude, latitude = unproject(world.outlets[:, 0], world.outlets[:, 1], world.crs)
    return {
        "settings": settings.model_dump(mode="json"),
        "track_step": settings.track_step,
        "segment_step": settings.segment_step,
        "node_spacing_m": world.elevation.node_spacing_m,
        "windows": [window.model_dump(mode="json") for window in world.elevation.windows],
        "raster_share": world.raster_share if settings.rate_raster else None,
        "grid_cell_m": world.grid.cell,
        "mascons": int(truth.cells.footprints.mascon_id.size),
        "solutions": int(truth.months.size),
        "ice_area_km2": float(truth.cells.ice_area_m2.sum() / 1e6),
        "trend_gt_yr": trend(np.ones(years.size, bool)),
        "trend_period_gt_yr": trend(in_period),
        "outlets": [
            {"longitude": float(a), "latitude": float(b)}
            for a, b in zip(longitude, latitude, strict=True)
        ],
        "lakes": len(world.lake_list),
        "regimes": [
            {
                "regime": r,
                "name": regime.name,
                "lag_months": regime.lag_months,
                "share": float(
                    (cells_share := truth.cells.area_m2.sum(axis=0))[
                        world.regime(truth.cells.x_m, truth.cells.y_m) == r
                    ].sum()
                    / cells_share.sum()
                ),
            }
            for r, regime in enumerate(REGIMES)
        ],
    }


def write_truth(world: World, truth: MassTruth, folder: str | os.PathLike[str]) -> None:
    """Write the truth tables (Parquet) and ``world.json`` into a folder."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, table in tabulate_truth(world, truth).items():
        for stamp in table.select_dtypes("datetime").columns:
            table[stamp] = table[stamp].to_numpy().astype(TIME_DTYPE)
        with written(target / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
    with written(target / "world.json") as temporary:
        temporary.write_text(json.dumps(describe_world(world, truth), indent=2) + "\n")
