"""The mass of the synthetic world as a mascon file in JPL's layout, and the truth behind it.

Mass is summed over cells into the product's own footprints, leaks between neighbours, gets a
residual that elevation does not show and spatially correlated noise, and is written for the
months that the real record has. Mass in Gt, water equivalent in cm over the land area.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from dataclasses import dataclass
from importlib import resources
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
from cryofuse.simulate.world import HISTORY_START, REGIMES, World
from cryofuse.tables import written
from cryofuse.units import DAYS_PER_YEAR, ICE_DENSITY_KG_M3, mass_to_lwe

if TYPE_CHECKING:
    import pandas as pd

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
#: Side of a cell of the file's grid (degrees).
CELL_DEG = 0.5
FILL = -99999.0
#: Part of a mascon's value in its ocean cells, which the coastline filter sets apart.
_OCEAN_SHARE = 0.1
_EPOCH = np.datetime64("2002-01-01", "D")
_SUBCELLS = 5


@dataclass(frozen=True)
class Footprints:
    """Boxes of mascons: ids and edges (degrees; longitudes 0 to 360), arrays of one length."""

    mascon_id: np.ndarray
    south: np.ndarray
    north: np.ndarray
    west: np.ndarray
    east: np.ndarray

    def locate(self, longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
        """Return the index of the footprint that holds each point, −1 where none does."""
        longitude = np.asarray(longitude) % 360.0
        latitude = np.asarray(latitude)
        found = np.full(np.broadcast(longitude, latitude).shape, -1)
        longitude, latitude = np.broadcast_arrays(longitude, latitude)
        for south in np.unique(self.south):
            row = np.flatnonzero(self.south == south)
            row = row[np.argsort(self.west[row])]
            inside = (latitude >= south) & (latitude < self.north[row[0]])
            at = np.searchsorted(self.west[row], longitude[inside], side="right") - 1
            box = row[np.clip(at, 0, None)]
            held = (at >= 0) & (longitude[inside] < self.east[box])
            found[inside] = np.where(held, box, -1)
        return found

    def take(self, index: np.ndarray) -> Footprints:
        """Return some of the footprints."""
        fields = (self.mascon_id, self.south, self.north, self.west, self.east)
        return Footprints(*(values[index] for values in fields))

    @property
    def centre(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the boxes' middles: longitude and latitude (degrees)."""
        return (self.west + self.east) / 2, (self.south + self.north) / 2


def load_footprints(name: str) -> Footprints:
    """Return a shipped table of footprints (``jpl_greenland``).

    Raises
    ------
    ValueError
        If no such table is shipped.
    """
    if name != "jpl_greenland":
        raise ValueError(f"region: footprints: {name!r} is not jpl_greenland")
    text = resources.files("cryofuse.data").joinpath("jpl_mascons_greenland.csv").read_text()
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    return Footprints(
        np.array([int(row["mascon_id"]) for row in rows]),
        *(
            np.array([float(row[key]) for row in rows])
            for key in ("lat_s", "lat_n", "lon_w", "lon_e")
        ),
    )


def band_footprints() -> Footprints:
    """Return mascons by the rule of JPL's placement: bands of 3° with boxes of about 3° of arc.

    A band holds n = ⌊119.98·cos(latitude of its middle)⌋ mascons (six about a pole), whose
    edges are k·360°/n rounded half up to half a degree; numbers run from the north. There are
    4551, as many as JPL has, and around Greenland they are JPL's own boxes and numbers.
    """
    rows: list[tuple[int, float, float, float, float]] = []
    number = 1
    for south in np.arange(85.5, -90.0, -3.0):
        middle = south + 1.5
        count = max(1, int(119.98 * np.cos(np.radians(middle))))
        # The caps beyond the outermost bands belong to them.
        low = -90.0 if south <= -88.5 else south
        high = 90.0 if south >= 85.5 else south + 3.0
        edges = np.floor(np.arange(count + 1) * 360.0 / count * 2 + 0.5) / 2
        for west, east in zip(edges[:-1], edges[1:], strict=True):
            rows.append((number, low, high, west, east))
            number += 1
    table = np.array(rows)
    return Footprints(table[:, 0].astype(int), *table[:, 1:].T)


@dataclass(frozen=True)
class Cells:
    """Cells of ice: middles (m, region's CRS), and the ice area of each mascon in each (m²)."""

    x_m: np.ndarray
    y_m: np.ndarray
    area_m2: np.ndarray
    footprints: Footprints

    @property
    def ice_area_m2(self) -> np.ndarray:
        """Return each mascon's ice area (m²)."""
        return self.area_m2.sum(axis=1)


def cut_cells(world: World, footprints: Footprints, *, keep_all: bool = False) -> Cells:
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
        ``area_m2`` has shape (mascons, cells).
    """
    from rasterio.features import rasterize
    from rasterio.transform import from_origin

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
    area = np.zeros((used.size, cell.size))
    held = owner >= 0
    np.add.at(area, (np.searchsorted(used, owner[held]), row_of[held]), fine**2)
    middle_x = left + (cell % columns + 0.5) * side
    middle_y = top - (cell // columns + 0.5) * side
    area *= scale_factor(middle_x, middle_y, world.crs)
    return Cells(middle_x, middle_y, area, footprints.take(used))


@dataclass(frozen=True)
class CellGrid:
    """The file's grid: half-degree cells, the mascon of each (index, −1 none), and its land."""

    latitude: np.ndarray
    longitude: np.ndarray
    owner: np.ndarray
    land: np.ndarray

    @property
    def area_km2(self) -> np.ndarray:
        """Return the area of a cell in each row (km²), on the sphere."""
        edges = np.radians(np.stack([self.latitude - CELL_DEG / 2, self.latitude + CELL_DEG / 2]))
        width = np.radians(CELL_DEG)
        return EARTH_RADIUS_KM**2 * width * (np.sin(edges[1]) - np.sin(edges[0]))

    def land_area_km2(self, count: int) -> np.ndarray:
        """Return the land area of each of so many mascons (km²)."""
        area = np.where(self.land, self.area_km2[:, None], 0.0)
        return np.array([area[self.owner == k].sum() for k in range(count)])


def lay_grid(world: World, cells: Cells) -> CellGrid:
    """Lay half-degree cells over the footprints, and find the land among them."""
    boxes = cells.footprints
    low, high = max(boxes.south.min() - 1.0, -90.0), min(boxes.north.max() + 1.0, 90.0)
    latitude = np.arange(low + CELL_DEG / 2, high, CELL_DEG)
    west, east = max(boxes.west.min() - 1.0, 0.0), min(boxes.east.max() + 1.0, 360.0)
    longitude = np.arange(west + CELL_DEG / 2, east, CELL_DEG)
    lon, lat = np.meshgrid(longitude, latitude)
    owner = boxes.locate(lon, lat)
    x, y = project(lon, lat, world.crs)
    shape = world.outline
    if world.region.coast:
        shape = shapely.union(shape, read_vector(world.region.coast, world.crs))
    shapely.prepare(shape)
    land = np.isfinite(x) & np.asarray(shapely.contains_xy(shape, x, y))
    # Ice that misses every cell's middle still needs a cell to stand in.
    for k in range(boxes.mascon_id.size):
        if cells.area_m2[k].any() and not (land & (owner == k)).any():
            heaviest = int(np.argmax(cells.area_m2[k]))
            at_lon, at_lat = unproject(cells.x_m[heaviest], cells.y_m[heaviest], world.crs)
            near = np.hypot((lon - at_lon % 360.0) * np.cos(np.radians(lat)), lat - at_lat)
            land.flat[int(np.argmin(np.where(owner == k, near, np.inf)))] = True
    return CellGrid(latitude, longitude, owner, land)


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
    footprints: Footprints, land_area_km2: np.ndarray, leakage_km: float
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
    """Everything that a mascon file is made of: arrays of shape (mascons, solutions)."""

    months: np.ndarray
    days: np.ndarray
    cells: Cells
    grid: CellGrid
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


def plant_mass(world: World) -> MassTruth:
    """Return the mass of a world in its mascons, from the file's first month to the period's end.

    Parameters
    ----------
    world
        The planted truth.

    Raises
    ------
    ValueError
        If no month of the record has a solution, or no ice lies in a footprint.
    """
    settings, region = world.settings, world.region
    shipped = region.footprints
    if shipped:
        cells = cut_cells(world, load_footprints(shipped), keep_all=True)
    else:
        cells = cut_cells(world, band_footprints())
    if not cells.area_m2.any():
        raise ValueError("no ice of the region lies in a mascon footprint")
    months, days = list_solutions(settings.mass_start, world.period.end)
    if not months.size:
        raise ValueError(f"no gravity solution from {settings.mass_start} to {world.period.end}")
    grid = lay_grid(world, cells)
    count = cells.footprints.mascon_id.size
    land = grid.land_area_km2(count)
    own = weigh_mascons(world, cells, days)
    leaked = leakage_matrix(cells.footprints, land, settings.leakage_km) @ own
    if (land == 0).any():
        bare = cells.footprints.mascon_id[land == 0].tolist()
        raise ValueError(f"mascons {bare} hold no land: name the region's coast")
    law = mass_to_lwe(leaked, land[:, None])
    shape = own.shape
    rng = np.random.default_rng([settings.seed, 909])
    residual = _red_noise(rng, shape, month_index(months)) * settings.mascon_residual_cm
    apart = distance_matrix_km(*cells.footprints.centre) / settings.mass_noise_correlation_km
    factor = np.linalg.cholesky(np.exp(-apart) + 1e-9 * np.eye(count))
    sigma = settings.mass_noise_cm * noise_factor(months)
    # One generator for each month: a longer record leaves its first years as they are.
    white = np.stack(
        [
            np.random.default_rng([settings.seed, 1001, int(m)]).standard_normal(count)
            for m in month_index(months)
        ],
        axis=1,
    )
    noise = factor @ white * sigma
    base = (months >= parse_month(BASELINE[0])) & (months <= parse_month(BASELINE[1]))
    if not base.any():
        base[:] = True
    law, residual, noise = (
        v - v[:, base].mean(axis=1, keepdims=True) for v in (law, residual, noise)
    )
    return MassTruth(
        months, days, cells, grid, land, own, law, residual, noise, np.broadcast_to(sigma, shape)
    )


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


def write_mascons(truth: MassTruth, path: str | os.PathLike[str]) -> None:
    """Write a mascon file in JPL's layout.

    Parameters
    ----------
    truth
        The planted mass.
    path
        NetCDF file; it appears under its name when it is complete.
    """
    import netCDF4

    grid, owner = truth.grid, truth.grid.owner
    known = owner >= 0
    with written(path) as temporary, netCDF4.Dataset(temporary, "w") as file:
        file.title = "Synthetic mass anomalies in the layout of JPL RL06.3Mv04 CRI mascons"
        file.comment = "Made by cryofuse from a planted truth; not data of GRACE or GRACE-FO"
        file.product_version = "synthetic"
        file.time_mean_removed = "2004.000 to 2009.999"
        file.GIA_removed = "none planted"
        file.Conventions = "CF-1.6"
        for name, size in (
            ("time", None),
            ("lat", grid.latitude.size),
            ("lon", grid.longitude.size),
            ("bounds", 2),
        ):
            file.createDimension(name, size)

        def put(name: str, dimensions: tuple[str, ...], values: np.ndarray, **about: Any) -> None:
            fill = about.pop("fill", None)
            variable = file.createVariable(
                name, "f8", dimensions, zlib=True, complevel=4, fill_value=fill
            )
            variable.setncatts(about)
            variable[:] = values

        half = CELL_DEG / 2
        put(
            "lon", ("lon",), grid.longitude, units="degrees_east", standard_name="longitude",
            axis="X", bounds="lon_bounds", valid_min=0.25, valid_max=359.75,
        )  # fmt: skip
        put(
            "lat", ("lat",), grid.latitude, units="degrees_north", standard_name="latitude",
            axis="Y", bounds="lat_bounds", valid_min=-89.75, valid_max=89.75,
        )  # fmt: skip
        put(
            "time", ("time",), truth.days.mean(axis=1), units="days since 2002-01-01T00:00:00Z",
            calendar="gregorian", standard_name="time", axis="T", bounds="time_bounds",
        )  # fmt: skip
        put("time_bounds", ("time", "bounds"), truth.days)
        for name, values in (("lat", grid.latitude), ("lon", grid.longitude)):
            edges = np.stack([values - half, values + half], axis=1)
            put(f"{name}_bounds", (name, "bounds"), edges)
        share = np.where(grid.land, 1.0, _OCEAN_SHARE)
        for name, values, label in (
            ("lwe_thickness", truth.lwe_cm, "Liquid_Water_Equivalent_Thickness"),
            ("uncertainty", truth.sigma_cm, "1-sigma uncertainty per 3-degree mascon"),
        ):
            field = values.T[:, np.clip(owner, 0, None)]
            if name == "lwe_thickness":
                field = field * share
            put(
                name, ("time", "lat", "lon"), np.where(known, field, FILL), fill=FILL, units="cm",
                long_name=label, grid_mapping="WGS84",
            )  # fmt: skip
        put("land_mask", ("lat", "lon"), grid.land & known, units="1", long_name="Land_Mask")
        # A gain for land hydrology, never applied over ice: not 1, so that applying it shows.
        gain = 1.2 + 0.5 * np.sin(np.radians(7 * grid.longitude)) * np.ones_like(share)
        put(
            "scale_factor", ("lat", "lon"), np.where(grid.land & known, gain, FILL), fill=FILL,
            units="1", long_name="hydrology gain factor (not for ice)",
        )  # fmt: skip
        ids = np.where(known, truth.cells.footprints.mascon_id[np.clip(owner, 0, None)], 0)
        put("mascon_ID", ("lat", "lon"), ids, units="1", long_name="3-degree mascon placement")


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
        share = np.array([cells.area_m2[k, labels == r].sum() for r in range(len(REGIMES))])
        share /= share.sum()
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
