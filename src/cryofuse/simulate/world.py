"""The truth of the synthetic world: topography, elevation change, mass, and lakes.

Elevation change is a sum over five regimes, each with a smooth spatial share and a daily
history built from snowfall, firn compaction, melt and ice flow. Mass follows each of those
through its own density (snow 300–400, melt 450–917 by season and regime, ice 917, compaction
none) and comes later than elevation by a lag of the regime. Thickening and gain are positive.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from scipy import ndimage

from cryofuse.calendar import TIME_DTYPE, add_months, month_range, parse_month, year_fraction
from cryofuse.config import (
    ElevationSettings,
    PeriodSettings,
    RasterSource,
    RegionSettings,
    WorldSettings,
)
from cryofuse.geo import load_outline, unproject, window_bounds
from cryofuse.units import DAYS_PER_YEAR, ICE_DENSITY_KG_M3

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

logger = logging.getLogger(__name__)

#: Days of the world's history: first and one past the last.
HISTORY_START = np.datetime64("1998-01-01", "D")
HISTORY_STOP = np.datetime64("2041-01-01", "D")
#: Mean length of a month (days), in which lags count.
DAYS_PER_MONTH = DAYS_PER_YEAR / 12
#: Density of new snow by season (kg/m³): mean, swing, and the year's fraction of the densest.
SNOW_DENSITY_KG_M3, SNOW_DENSITY_SWING_KG_M3, SNOW_DENSEST = 350.0, 50.0, 0.6
#: Relative strength of melt seasons; the record's strong and weak years are planted.
MELT_SEASONS = {
    2002: 1.0, 2003: 0.95, 2004: 0.9, 2005: 1.0, 2006: 0.9, 2007: 1.15, 2008: 1.0, 2009: 0.85,
    2010: 1.3, 2011: 1.15, 2012: 1.5, 2013: 0.75, 2014: 0.95, 2015: 0.95, 2016: 1.1, 2017: 0.75,
    2018: 0.75, 2019: 1.4, 2020: 1.0, 2021: 0.7, 2022: 0.85, 2023: 1.1, 2024: 0.8,
}  # fmt: skip
#: Middle and spread of the melt season (day of the year), and when melt turns from snow to ice.
MELT_DAY, MELT_SPREAD_DAYS = 197.0, 30.0
MELT_TURNS_TO_ICE = (166.0, 213.0)
#: Patterns of regional weather, their length relative to the region, and their spread.
PATTERNS, PATTERN_LENGTH_M = 4, 300_000.0
#: Part by which a regime's whole history varies along the first pattern.
MODULATION = 0.12
#: Spread of the height that snowfall anomalies leave (years of snowfall), and its memory.
SNOW_ANOMALY, SNOW_MEMORY_MONTHS = 0.12, 10.0
#: Relative spread of a melt season from place to place, and memory of ice-flow anomalies.
MELT_ANOMALY, FLOW_MEMORY_MONTHS = 0.12, 18.0
#: Months in which planted lakes drain.
LAKE_DRAINAGE = ("2020-10", "2023-02")
#: Where the law is one of density: relative swing of density and swing of the lag (months) with
#: slope and with latitude, each about a middle (m/m; degrees) and within a span (degrees).
DENSITY_SWING, LAG_SWING_MONTHS = 0.1, 0.3
MEDIAN_SLOPE, MIDDLE_LATITUDE_DEG, LATITUDE_SPAN_DEG = 0.006, 72.0, 8.0
#: Size to which lengths scale: the distance from Greenland's divide to its margin (m).
REFERENCE_HALF_WIDTH_M = 450_000.0


@dataclass(frozen=True)
class Regime:
    """How a part of the ice behaves: rates in metres of height per year.

    ``snow_swing`` is the relative swing of snowfall over the year and ``snow_peak`` its time
    (fraction of the year); ``compaction`` the share of a steady state's firn compaction that
    takes place; ``melt_density_kg_m3`` the density of the first and of the last melt of a
    season; ``flow_m_yr`` the height lost to ice flow beyond what snowfall feeds (negative:
    flow brings ice), ``flow_swing_m_yr`` and ``flow_peak`` its annual swing; ``flow_anomaly_m``
    the spread of its slow changes; ``lag_months`` how much later the mass follows;
    ``density_kg_m3`` what turns its height into mass where the world's law is one of density.
    """

    name: str
    snow_m_yr: float
    snow_swing: float
    snow_peak: float
    compaction: float
    melt_m_yr: float
    melt_density_kg_m3: tuple[float, float]
    flow_m_yr: float
    flow_swing_m_yr: float
    flow_peak: float
    flow_anomaly_m: float
    lag_months: float
    density_kg_m3: float


_FIRN, _ICE = (450.0, 550.0), (550.0, 917.0)
#: Planted regimes; a label is the index, in the order of their rates.
REGIMES = (
    Regime(
        "rapid thinning outlet", 1.0, 0.5, 0.88, 1.0, 0.9, _ICE, 1.95, 2.4, 0.55, 0.20, 1.0, 900.0
    ),
    Regime(
        "marine-terminating margin",
        1.3,
        0.4,
        0.80,
        1.1,
        0.3,
        _ICE,
        0.22,
        3.6,
        0.78,
        0.08,
        1.0,
        850.0,
    ),
    Regime("seasonal melt", 0.7, 0.5, 0.88, 1.0, 1.6, _ICE, -1.26, 0.0, 0.0, 0.03, 2.0, 650.0),
    Regime("stable interior", 0.5, 0.6, 0.70, 1.0, 0.0, _FIRN, 0.0, 0.0, 0.0, 0.0, 0.0, 400.0),
    Regime("thickening", 2.2, 0.9, 0.74, 0.74, 0.0, _FIRN, -0.06, 0.0, 0.0, 0.0, 0.0, 380.0),
)


@dataclass(frozen=True)
class Grid:
    """A regular grid of cell centres: x ascending along columns, y ascending along rows (m)."""

    x0: float
    y0: float
    cell: float
    columns: int
    rows: int

    @property
    def x(self) -> np.ndarray:
        """Return the columns' x (m)."""
        return self.x0 + self.cell * np.arange(self.columns)

    @property
    def y(self) -> np.ndarray:
        """Return the rows' y (m)."""
        return self.y0 + self.cell * np.arange(self.rows)

    def index(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """Return fractional (row, column) indices of points, shape (2, n)."""
        return np.stack(
            [(np.ravel(y_m) - self.y0) / self.cell, (np.ravel(x_m) - self.x0) / self.cell]
        )


@dataclass(frozen=True)
class Lake:
    """A planted lake: where, how large, how deep, and when it fills and drains."""

    lake_id: int
    window: str
    x_m: float
    y_m: float
    radius_m: float
    depth_m: float
    fill_start: np.datetime64
    drain_start: np.datetime64
    drain_days: float

    def profile(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """Return the share of the lake's depth felt at points: 1 in the middle, 0 at the rim."""
        r = np.hypot(x_m - self.x_m, y_m - self.y_m) / self.radius_m
        taper = 0.5 * (1 + np.cos(np.pi * (np.clip(r, 0.5, 1.0) - 0.5) / 0.5))
        return np.where(r < 1, taper, 0.0)

    @property
    def profile_area_m2(self) -> float:
        """Return the profile's integral over the lake (m²)."""
        r = (np.arange(2000) + 0.5) / 2000
        shape = self.profile(self.x_m + r * self.radius_m, np.full(r.size, self.y_m))
        return float((shape * 2 * np.pi * r).sum() / 2000 * self.radius_m**2)


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * value))


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([s & 0xFFFFFFFF for s in seed]))


class World:
    """The planted truth over a region.

    Parameters
    ----------
    settings
        Section ``world`` of the configuration.
    region
        The region: its CRS and outline.
    period
        Months over which rates and seasons are taken, and in which lakes are active.
    elevation
        Reference date of the elevation change, and the windows that hold lakes and outlets.
    """

    def __init__(
        self,
        settings: WorldSettings,
        region: RegionSettings,
        period: PeriodSettings | None = None,
        elevation: ElevationSettings | None = None,
    ) -> None:
        self.settings = settings
        self.region = region
        self.period = period or PeriodSettings()
        self.elevation = elevation or ElevationSettings()
        self.crs = region.crs
        self.outline = load_outline(region)
        shapely.prepare(self.outline)
        self._check_history()
        self._plant_grid()
        self._plant_outlets()
        self._plant_topography()
        self._plant_shares()
        self._plant_histories()
        self.lake_list = self._plant_lakes()
        self._plant_raster()

    # ------------------------------------------------------------------ planting

    def _check_history(self) -> None:
        first = min(parse_month(self.settings.mass_start), parse_month(self.period.start))
        last = add_months(parse_month(self.period.end), 2)
        earliest = (HISTORY_START + 730).astype(TIME_DTYPE)
        if first < earliest or last > HISTORY_STOP.astype(TIME_DTYPE):
            raise ValueError(
                f"the synthetic world lasts from {earliest.astype('M8[M]')} to "
                f"{HISTORY_STOP.astype('M8[M]')}; world: mass_start or period reaches outside"
            )

    def _plant_grid(self) -> None:
        x_min, y_min, x_max, y_max = self.outline.bounds
        span = np.sqrt((x_max - x_min) * (y_max - y_min))
        cell = float(np.clip(round(span / 400 / 100) * 100, 500, 12_500))
        margin = 16 * cell
        self.grid = Grid(
            float(np.floor((x_min - margin) / cell) * cell),
            float(np.floor((y_min - margin) / cell) * cell),
            cell,
            int(np.ceil((x_max - x_min + 2 * margin) / cell)) + 1,
            int(np.ceil((y_max - y_min + 2 * margin) / cell)) + 1,
        )
        x, y = np.meshgrid(self.grid.x, self.grid.y)
        self._inside = np.asarray(shapely.contains_xy(self.outline, x, y))
        if not self._inside.any():
            raise ValueError("the outline is smaller than a cell of the synthetic world")
        depth = ndimage.distance_transform_edt(self._inside) * cell
        outside = ndimage.distance_transform_edt(~self._inside) * cell
        #: Ratio of lengths to Greenland's.
        self.scale = float(np.clip(depth.max() / REFERENCE_HALF_WIDTH_M, 0.02, 1.0))
        signed = depth - outside
        self._margin_m = ndimage.gaussian_filter(signed, max(1.5, 8_000 * self.scale / cell))
        self._margin_smooth_m = ndimage.gaussian_filter(
            signed, max(2.0, 20_000 * self.scale / cell)
        )

    def _plant_outlets(self) -> None:
        """Place outlets along the margin: one near each window, others apart from each other."""
        rng = _rng(self.settings.seed, 101)
        radius = self.outlet_radius_m
        edge = shapely.get_coordinates(shapely.segmentize(self.outline.boundary, radius / 3))
        ice = ndimage.gaussian_filter(self._inside.astype(float), radius / self.grid.cell / 1.5)
        share = self.sample_grid(ice, edge[:, 0], edge[:, 1], order=1)
        order = rng.permutation(np.flatnonzero((share > 0.35) & (share < 0.75)))
        wanted = []
        for window in self.elevation.windows:
            x_min, y_min, x_max, y_max = window_bounds(window, self.crs)
            centre = shapely.Point((x_min + x_max) / 2, (y_min + y_max) / 2)
            if self.outline.contains(centre):
                distance = np.hypot(edge[:, 0] - centre.x, edge[:, 1] - centre.y)
                wanted.append(int(np.argmin(distance + 1e9 * (share < 0.2))))
        chosen: list[int] = []
        apart = 4.4 * radius
        for i in [*wanted, *order]:
            gap = [np.hypot(*(edge[i] - edge[j])) for j in chosen]
            if not gap or min(gap) > apart:
                chosen.append(int(i))
            if len(chosen) == 40:
                break
        self.outlets = edge[chosen] if chosen else edge[:1]

    @property
    def outlet_radius_m(self) -> float:
        """Return how far an outlet's thinning reaches (m)."""
        return 42_000.0 * self.scale

    def _plant_topography(self) -> None:
        x, y = np.meshgrid(self.grid.x, self.grid.y)
        soft, rise = 15_000.0 * self.scale, 30_000.0 * self.scale
        depth = soft * np.logaddexp(0.0, self._margin_smooth_m / soft)
        height = 3100.0 * np.sqrt(self.scale)
        top = np.sqrt(depth.max() + rise) - np.sqrt(rise)
        surface = 150.0 + height * (np.sqrt(depth + rise) - np.sqrt(rise)) / top
        slope_y, slope_x = np.gradient(self._margin_smooth_m, self.grid.cell)
        width = max(25_000.0 * self.scale, 5_000.0)
        for x0, y0 in self.outlets:
            inward = np.array(
                [
                    float(self.sample_grid(slope_x, x0, y0, order=1)[0]),
                    float(self.sample_grid(slope_y, x0, y0, order=1)[0]),
                ]
            )
            inward /= np.hypot(*inward) or 1.0
            along = (x - x0) * inward[0] + (y - y0) * inward[1] - 0.6 * width
            across = -(x - x0) * inward[1] + (y - y0) * inward[0]
            trough = np.exp(-0.5 * ((along / (2.2 * width)) ** 2 + (across / width) ** 2))
            surface -= 220.0 * np.sqrt(self.scale) * trough
        surface += 35.0 * np.sqrt(self.scale) * self._pattern(99, max(60_000 * self.scale, 8_000))
        self._surface = ndimage.spline_filter(surface, order=3)
        self._slope_y, self._slope_x = np.gradient(surface, self.grid.cell)

    def _pattern(self, number: int, length_m: float) -> np.ndarray:
        """Return a smooth random field on the grid: mean 0, standard deviation 1 over the ice."""
        rng = _rng(self.settings.seed, 202, number)
        rough = rng.normal(size=(self.grid.rows, self.grid.columns))
        field = ndimage.gaussian_filter(rough, length_m / self.grid.cell / 2, mode="wrap")
        field -= field[self._inside].mean()
        return field / (field[self._inside].std() or 1.0)

    def _plant_shares(self) -> None:
        """Split the region softly between the regimes, and lay patterns of weather over it."""
        x, y = np.meshgrid(self.grid.x, self.grid.y)
        centre = (float(x[self._inside].mean()), float(y[self._inside].mean()))
        width = max(4_500.0 * self.scale, 0.8 * self.grid.cell)
        outlet = np.zeros_like(x)
        for x0, y0 in self.outlets:
            near = _sigmoid((self.outlet_radius_m - np.hypot(x - x0, y - y0)) / width)
            outlet = np.maximum(outlet, near)
        # Melt in the west and south-west, marine margins elsewhere; thickening in the south.
        west = -((x - centre[0]) * np.cos(0.5) + (y - centre[1]) * np.sin(0.5))
        melt_side = _sigmoid((west - 40_000.0 * self.scale) / width)
        belt = (50_000.0 + 60_000.0 * melt_side) * self.scale
        interior = _sigmoid((self._margin_m - belt) / width)
        wave = 50_000.0 * self.scale
        south = centre[1] - y + wave * np.sin((x - centre[0]) / (2 * wave))
        south_side = _sigmoid((south - 0.4 * wave) / width)
        rest = 1 - outlet
        self.shares = np.stack(
            [
                outlet,
                rest * (1 - interior) * (1 - melt_side),
                rest * (1 - interior) * melt_side,
                rest * interior * (1 - south_side),
                rest * interior * south_side,
            ]
        )
        length = PATTERN_LENGTH_M * self.scale
        self.patterns = np.stack(
            [np.ones_like(x), *(self._pattern(k, length) for k in range(PATTERNS))]
        )
        self.patterns[1:] /= np.sqrt(PATTERNS)
        self._basis = np.stack(
            [ndimage.spline_filter(b, order=3, output=np.float32) for b in self._grid_basis()]
        )

    def _plant_histories(self) -> None:
        self.days = np.arange(HISTORY_START, HISTORY_STOP)
        self.height_history, self.mass_history = build_histories(self.settings.seed, self.days)
        reference = np.datetime64(self.elevation.reference_date, "D")
        at = int((reference - HISTORY_START).astype(int))
        if not 0 <= at < self.days.size:
            raise ValueError(
                f"elevation: reference_date {reference} is outside the world's history"
            )
        self.height_history -= self.height_history[:, at : at + 1]
        self.mass_history -= self.mass_history[:, at : at + 1]
        self._rate_of = _harmonic_fit(self.days, self.period)

    def _plant_lakes(self) -> list[Lake]:
        windows = self.elevation.windows
        if not windows or not self.settings.lakes:
            return []
        lakes: list[Lake] = []
        for number, window in enumerate(windows):
            count = self.settings.lakes // len(windows) + (
                number < self.settings.lakes % len(windows)
            )
            rng = _rng(self.settings.seed, 303, number)
            places = self._lake_places(window_bounds(window, self.crs), count, rng)
            for x_m, y_m, radius in places:
                lakes.append(self._fill_lake(len(lakes) + 1, window.name, x_m, y_m, radius, rng))
            if len(places) < count:
                logger.warning(
                    "window %s holds %d of %d planted lakes", window.name, len(places), count
                )
        return lakes

    def _lake_places(self, bounds, count, rng) -> list[tuple[float, float, float]]:
        """Choose places at least 8 km apart, on ice, where the outlets thin least."""
        x_min, y_min, x_max, y_max = bounds
        radius = rng.uniform(2000.0, 3000.0, 400)
        x = rng.uniform(x_min + 3400.0, max(x_max - 3400.0, x_min + 3401.0), 400)
        y = rng.uniform(y_min + 3400.0, max(y_max - 3400.0, y_min + 3401.0), 400)
        depth = self.sample_grid(self._margin_m, x, y, order=1)
        outlet = self.sample_grid(self.shares[0], x, y, order=1)
        good = np.flatnonzero((depth > 2 * radius) & self.outline_contains(x, y))
        good = good[np.argsort(np.round(outlet[good], 2), kind="stable")]
        chosen: list[int] = []
        for i in good:
            if all(np.hypot(x[i] - x[j], y[i] - y[j]) >= 8000.0 for j in chosen):
                chosen.append(int(i))
            if len(chosen) == count:
                break
        return [(float(x[i]), float(y[i]), float(radius[i])) for i in chosen]

    def _fill_lake(self, lake_id, window, x_m, y_m, radius, rng) -> Lake:
        # Drainage comes in winter, so that no look-alike is meant, and on dates that don't
        # depend on the configured period: a longer record leaves its first years as they are.
        months = month_range(*LAKE_DRAINAGE)
        winter = [m for m in months if int(str(m)[5:7]) in (10, 11, 12, 1, 2, 3)]
        drain = rng.choice(np.array(winter)) + np.timedelta64(int(rng.integers(0, 28)), "D")
        fill = drain - np.timedelta64(int(rng.uniform(500, 900)), "D")
        return Lake(
            lake_id,
            window,
            x_m,
            y_m,
            radius,
            float(rng.uniform(3.0, 9.0)),
            np.datetime64(fill, "D"),
            np.datetime64(drain, "D"),
            float(rng.uniform(30.0, 60.0)),
        )

    def _plant_raster(self) -> None:
        """Take rates of 2018-10 to 2024-12 from a raster in place of the planted ones."""
        self._extra: np.ndarray | None = None
        self.raster_share = 0.0
        if not self.settings.rate_raster:
            return
        from cryofuse.rasters import sample_raster

        x, y = np.meshgrid(self.grid.x, self.grid.y)
        source = RasterSource.model_validate({"file": self.settings.rate_raster})
        values = np.asarray(sample_raster(source, x.ravel(), y.ravel(), self.crs)).reshape(x.shape)
        known = np.isfinite(values)
        self.raster_share = float(known[self._inside].mean())
        if self.raster_share == 0:
            raise ValueError(
                f"world: rate_raster {self.settings.rate_raster} has no value over the region"
            )
        if self.raster_share < 0.999:
            logger.warning("the rate raster covers %.1f %% of the ice", 100 * self.raster_share)
            # The nearest value stands where there is none: a step would be no smooth field.
            nearest = ndimage.distance_transform_edt(
                ~known, return_distances=False, return_indices=True
            )
            values = values[tuple(nearest)]
        # Over fixed months, not the run's own: a longer record leaves its granules as they are.
        rates = _harmonic_fit(self.days, PeriodSettings())[1] @ self.height_history.T
        planted = np.tensordot(rates, self._grid_basis(), 1)
        self._extra = ndimage.spline_filter(values - planted, order=3)

    # ------------------------------------------------------------------ sampling

    def sample_grid(
        self, field: np.ndarray, x_m: ArrayLike, y_m: ArrayLike, order: int
    ) -> np.ndarray:
        """Return a grid's values at points; for order 3 the grid holds spline coefficients."""
        index = self.grid.index(np.asarray(x_m, float), np.asarray(y_m, float))
        return ndimage.map_coordinates(
            field, index, order=order, mode="nearest", prefilter=False, output=np.float64
        )

    def extra_rate(self, x_m: ArrayLike, y_m: ArrayLike) -> np.ndarray:
        """Return what a rate raster adds to the planted rate at points (m/yr); 0 without one."""
        x, y = np.broadcast_arrays(np.asarray(x_m, float), np.asarray(y_m, float))
        if self._extra is None:
            return np.zeros(x.shape)
        return self.sample_grid(self._extra, x, y, 3).reshape(x.shape)

    def _grid_basis(self) -> np.ndarray:
        return (self.shares[:, None] * self.patterns[None, :]).reshape(
            -1, self.grid.rows, self.grid.columns
        )

    def basis_at(self, x_m: ArrayLike, y_m: ArrayLike) -> np.ndarray:
        """Return the weights of the histories at n points, shape (n, histories)."""
        return np.stack([self.sample_grid(b, x_m, y_m, 3) for b in self._basis], axis=1)

    def outline_contains(self, x_m: ArrayLike, y_m: ArrayLike) -> np.ndarray:
        """Return whether points lie inside the region's outline."""
        return np.asarray(shapely.contains_xy(self.outline, np.asarray(x_m), np.asarray(y_m)))

    def topography(self, x_m: ArrayLike, y_m: ArrayLike) -> np.ndarray:
        """Return the surface height at the reference date (m above WGS84)."""
        x_m, y_m = np.broadcast_arrays(np.asarray(x_m, float), np.asarray(y_m, float))
        return self.sample_grid(self._surface, x_m, y_m, 3).reshape(x_m.shape)

    @cached_property
    def in_north(self) -> bool:
        """Return whether the region lies in the northern hemisphere."""
        centre = self.outline.centroid
        return bool(unproject(centre.x, centre.y, self.crs)[1] > 0)

    def slope(self, x_m: ArrayLike, y_m: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return the surface slope along x and along y (m/m)."""
        x_m, y_m = np.broadcast_arrays(np.asarray(x_m, float), np.asarray(y_m, float))
        return (
            self.sample_grid(self._slope_x, x_m, y_m, 1).reshape(x_m.shape),
            self.sample_grid(self._slope_y, x_m, y_m, 1).reshape(x_m.shape),
        )

    def _day_weights(self, time: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        stamp = np.asarray(time, dtype=TIME_DTYPE)
        day = (stamp - HISTORY_START.astype(TIME_DTYPE)) / np.timedelta64(86_400_000_000, "us")
        lower = np.clip(np.floor(day).astype(int), 0, self.days.size - 2)
        return lower, day - lower

    def heights_at(self, time: ArrayLike) -> np.ndarray:
        """Return the histories of height at m times, shape (histories, m); 0 at the reference."""
        lower, part = self._day_weights(time)
        return self.height_history[:, lower] * (1 - part) + self.height_history[:, lower + 1] * part

    def lake_level(self, lake: Lake, time: ArrayLike) -> np.ndarray:
        """Return how high a lake has lifted the ice at times (m), 0 at the reference date."""
        reference = np.datetime64(self.elevation.reference_date, "us")
        return _raw_level(lake, np.asarray(time, TIME_DTYPE)) - _raw_level(lake, reference)

    def years_since_reference(self, time: ArrayLike) -> np.ndarray:
        """Return times in years since the reference date."""
        reference = np.datetime64(self.elevation.reference_date, "us")
        return year_fraction(time) - year_fraction(reference)

    def elevation_change(self, x_m: ArrayLike, y_m: ArrayLike, time: ArrayLike) -> np.ndarray:
        """Return the elevation change since the reference date.

        Parameters
        ----------
        x_m, y_m
            Points in the region's CRS (m).
        time
            Timestamps; arrays broadcast together, and points of shape (n, 1) with times of
            shape (m,) are taken as a table of n points and m times.

        Returns
        -------
        numpy.ndarray
            Metres, of the broadcast shape.
        """
        x, y = np.broadcast_arrays(np.asarray(x_m, float), np.asarray(y_m, float))
        stamp = np.asarray(time, TIME_DTYPE)
        shape = np.broadcast_shapes(x.shape, stamp.shape)
        if x.ndim == 2 and x.shape[1] == 1 and stamp.ndim <= 1:
            change = self.basis_at(x, y) @ np.atleast_2d(self.heights_at(np.atleast_1d(stamp)))
        elif stamp.ndim == 0:
            change = self.change_grid(stamp).at(x, y)
        else:
            x, y, stamp = (np.broadcast_to(a, shape) for a in (x, y, stamp))
            weights = self.basis_at(x.ravel(), y.ravel())
            change = np.einsum("nk,kn->n", weights, self.heights_at(stamp.ravel()))
        change = change.reshape(shape)
        if self._extra is not None and stamp.ndim:
            change = change + self.extra_rate(x, y) * self.years_since_reference(stamp)
        for lake in self.lake_list:
            change = change + lake.profile(x, y) * self.lake_level(lake, stamp)
        return change

    def change_grid(self, time: ArrayLike) -> ChangeGrid:
        """Return the elevation change at one instant, ready to be sampled (without lakes)."""
        weights = self.heights_at(np.atleast_1d(np.asarray(time, TIME_DTYPE)))[:, 0]
        # A plain sum: a matrix product would wake every core for a few milliseconds.
        total = np.zeros(self._basis.shape[1:], np.float32)
        scaled = np.empty_like(total)
        for weight, basis in zip(weights.astype(np.float32), self._basis, strict=True):
            total += np.multiply(basis, weight, out=scaled)
        field = total.astype(np.float64)
        if self._extra is not None:
            field = field + self._extra * float(self.years_since_reference(time))
        return ChangeGrid(self, field)

    @cached_property
    def _harmonics(self) -> np.ndarray:
        """Return offset, rate, cosine and sine of the histories, shape (4, histories)."""
        return self._rate_of @ self.height_history.T

    def _fitted(self, x_m: ArrayLike, y_m: ArrayLike) -> np.ndarray:
        x, y = np.broadcast_arrays(np.asarray(x_m, float), np.asarray(y_m, float))
        fitted = self.basis_at(x.ravel(), y.ravel()) @ self._harmonics.T
        if self._extra is not None:
            fitted[:, 1] += self.extra_rate(x, y).ravel()
        for lake in self.lake_list:
            level = self._rate_of @ self.lake_level(lake, self.days.astype(TIME_DTYPE))
            fitted += lake.profile(x.ravel(), y.ravel())[:, None] * level
        return fitted.reshape(*x.shape, 4)

    def rate(self, x_m: ArrayLike, y_m: ArrayLike) -> np.ndarray:
        """Return the rate of elevation change (m/yr).

        It is the slope of a line with an annual cycle through the daily truth of the period,
        which is what a node's fit estimates.
        """
        return self._fitted(x_m, y_m)[..., 1]

    def amplitude(self, x_m: ArrayLike, y_m: ArrayLike) -> np.ndarray:
        """Return the annual amplitude (m) of the same fit."""
        fitted = self._fitted(x_m, y_m)
        return np.hypot(fitted[..., 2], fitted[..., 3])

    def phase(self, x_m: ArrayLike, y_m: ArrayLike) -> np.ndarray:
        """Return the annual phase (radians): dh = amplitude·cos(2π·t − phase)."""
        fitted = self._fitted(x_m, y_m)
        return np.arctan2(fitted[..., 3], fitted[..., 2])

    def regime(self, x_m: ArrayLike, y_m: ArrayLike) -> np.ndarray:
        """Return the label of the regime with the largest share at points (0 thins fastest)."""
        x, y = np.broadcast_arrays(np.asarray(x_m, float), np.asarray(y_m, float))
        shares = np.stack([self.sample_grid(s, x, y, 1) for s in self.shares])
        return shares.argmax(axis=0).reshape(x.shape)

    def density_law(self, x_m: ArrayLike, y_m: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return density (kg/m³) and lag (months) of mass behind height at n points.

        Both are those of the regimes by their shares; the density rises where the surface is
        steep and towards the pole, the lag where it is flat and away from the pole.
        """
        x, y = np.broadcast_arrays(np.asarray(x_m, float), np.asarray(y_m, float))
        shares = np.stack([self.sample_grid(s, x, y, 1) for s in self.shares])
        by_regime = np.array([[r.density_kg_m3, r.lag_months] for r in REGIMES])
        density, lag = (shares.T @ by_regime / shares.sum(axis=0)[:, None]).T
        steep = np.tanh(np.log(np.maximum(np.hypot(*self.slope(x, y)), 1e-4) / MEDIAN_SLOPE))
        latitude = np.abs(unproject(x, y, self.crs)[1])
        poleward = np.tanh((latitude - MIDDLE_LATITUDE_DEG) / LATITUDE_SPAN_DEG)
        place = steep + poleward
        return density * (1 + DENSITY_SWING * place), np.maximum(lag - LAG_SWING_MONTHS * place, 0)

    @property
    def lakes(self) -> pd.DataFrame:
        """Return the planted lakes, one a row."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for lake in self.lake_list:
            longitude, latitude = unproject(lake.x_m, lake.y_m, self.crs)
            rows.append(
                {
                    "lake_id": lake.lake_id,
                    "window": lake.window,
                    "longitude": float(longitude),
                    "latitude": float(latitude),
                    "x_m": lake.x_m,
                    "y_m": lake.y_m,
                    "radius_m": lake.radius_m,
                    "depth_m": lake.depth_m,
                    "area_km2": np.pi * lake.radius_m**2 / 1e6,
                    "volume_range_km3": lake.depth_m * lake.profile_area_m2 / 1e9,
                    "elevation_m": float(self.topography(lake.x_m, lake.y_m)),
                    "regime": int(self.regime(lake.x_m, lake.y_m)),
                    "fill_start": lake.fill_start.astype(TIME_DTYPE),
                    "drain_start": lake.drain_start.astype(TIME_DTYPE),
                    "drain_days": lake.drain_days,
                }
            )
        return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["lake_id", "window"])


@dataclass(frozen=True)
class ChangeGrid:
    """The elevation change of a world at one instant, as spline coefficients (lakes apart)."""

    world: World
    coefficients: np.ndarray

    def at(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """Return the change at points (m), of the points' shape."""
        values = self.world.sample_grid(self.coefficients, x_m, y_m, 3)
        return values.reshape(np.shape(x_m))


def _raw_level(lake: Lake, time: ArrayLike) -> np.ndarray:
    """Return a lake's level: it fills, drains within two months, and slowly fills again (m)."""
    stamp = np.asarray(time, TIME_DTYPE)
    day = (stamp - lake.drain_start.astype(TIME_DTYPE)) / np.timedelta64(86_400_000_000, "us")
    filling_days = (lake.drain_start - lake.fill_start).astype(int)
    filled = np.clip(1 + day / filling_days, 0.0, 1.0)
    drained = 0.5 * (1 - np.cos(np.pi * np.clip(day / lake.drain_days, 0.0, 1.0)))
    again = np.clip((day - lake.drain_days) / (6 * DAYS_PER_YEAR), 0.0, 1.0)
    return lake.depth_m * (filled - drained + again)


def _harmonic_fit(days: np.ndarray, period: PeriodSettings) -> np.ndarray:
    """Return the matrix (4, days) that fits offset, rate, cosine and sine over the period."""
    stop = add_months(parse_month(period.end), 1)
    stamp = days.astype(TIME_DTYPE)
    used = (stamp >= parse_month(period.start)) & (stamp < stop)
    years = year_fraction(stamp[used])
    design = np.column_stack(
        [
            np.ones(years.size),
            years - years.mean(),
            np.cos(2 * np.pi * years),
            np.sin(2 * np.pi * years),
        ]
    )
    matrix = np.zeros((4, days.size))
    matrix[:, used] = np.linalg.pinv(design)
    return matrix


def snow_density(years: np.ndarray) -> np.ndarray:
    """Return the density of new snow (kg/m³) at times in years."""
    swing = np.cos(2 * np.pi * (years - SNOW_DENSEST))
    return SNOW_DENSITY_KG_M3 + SNOW_DENSITY_SWING_KG_M3 * swing


def melt_density(regime: Regime, day_of_year: np.ndarray) -> np.ndarray:
    """Return the density of what melts (kg/m³): snow early in the season, ice later."""
    start, stop = MELT_TURNS_TO_ICE
    low, high = regime.melt_density_kg_m3
    return low + (high - low) * np.clip((day_of_year - start) / (stop - start), 0.0, 1.0)


def _wander(rng: np.random.Generator, months: int, memory: float, spread: float) -> np.ndarray:
    """Return a monthly series of a standard deviation that forgets within ``memory`` months."""
    keep = 1 - 1 / memory
    steps = rng.normal(scale=spread * np.sqrt(1 - keep**2), size=months)
    series = np.empty(months)
    value = rng.normal(scale=spread)
    for i, change in enumerate(steps):
        value = keep * value + change
        series[i] = value
    return series


def build_histories(seed: int, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the daily histories of height and of mass.

    Parameters
    ----------
    seed
        Seed of the weather.
    days
        Days, in order (datetime64[D]).

    Returns
    -------
    tuple
        Height (m) and mass (kg/m²), each of shape (regimes × (1 + patterns), days). The first
        history of a regime is its mean, the others what regional weather adds along a pattern.
        The mass of a regime comes later than its height by the regime's lag.
    """
    years = year_fraction(days.astype(TIME_DTYPE))
    first_year = int(str(days[0])[:4])
    year = days.astype("datetime64[Y]").astype(int) + 1970
    day_of_year = (days - days.astype("datetime64[Y]").astype("datetime64[D]")).astype(float) + 1
    step = 1 / DAYS_PER_YEAR
    whole = min(days.size, 4 * 365 + 1)
    firn_season = 1 + 0.6 * np.cos(2 * np.pi * (years - 0.58))
    pulse = np.exp(-0.5 * ((day_of_year - MELT_DAY) / MELT_SPREAD_DAYS) ** 2)
    pulse *= DAYS_PER_YEAR / (MELT_SPREAD_DAYS * np.sqrt(2 * np.pi))
    density = snow_density(years)
    index = year - first_year
    rng = _rng(seed, 404)
    drawn = np.exp(rng.normal(scale=0.25, size=index.max() + 1))
    strength = np.array(
        [MELT_SEASONS.get(first_year + i, float(drawn[i])) for i in range(index.max() + 1)]
    )
    months = days.astype("datetime64[M]").astype(int)
    count = int(months[-1] - months[0]) + 2
    first_of_month = np.arange(months[0], months[0] + count).astype("datetime64[M]")
    knots = year_fraction(first_of_month.astype(TIME_DTYPE))
    snowfall = [
        np.interp(years, knots, _wander(_rng(seed, 505, k), count, SNOW_MEMORY_MONTHS, 1.0))
        for k in range(PATTERNS)
    ]
    flow = [
        np.interp(years, knots, _wander(_rng(seed, 606, k), count, FLOW_MEMORY_MONTHS, 1.0))
        for k in range(PATTERNS)
    ]
    places = [_rng(seed, 707, k).normal(size=index.max() + 1) for k in range(PATTERNS)]
    height, mass = [], []
    for regime in REGIMES:
        snow_season = 1 + regime.snow_swing * np.cos(2 * np.pi * (years - regime.snow_peak))
        flow_season = np.cos(2 * np.pi * (years - regime.flow_peak))
        snow = regime.snow_m_yr * snow_season
        mean_density = float((density * snow_season)[:whole].mean())
        feed = regime.snow_m_yr * mean_density / ICE_DENSITY_KG_M3
        compacted = regime.compaction * (regime.snow_m_yr - feed) * firn_season
        flown = feed + regime.flow_m_yr + regime.flow_swing_m_yr * flow_season
        melted = regime.melt_m_yr * strength[index] * pulse
        heavy = melt_density(regime, day_of_year)
        own = np.cumsum((snow - compacted - flown - melted) * step)
        weight = np.cumsum((snow * density - flown * ICE_DENSITY_KG_M3 - melted * heavy) * step)
        heights, masses = [own], [weight]
        for k in range(PATTERNS):
            snowy = SNOW_ANOMALY * regime.snow_m_yr * snowfall[k]
            local = regime.melt_m_yr * MELT_ANOMALY * (places[k] * strength)[index] * pulse
            flowing = regime.flow_anomaly_m * np.sqrt(PATTERNS) * flow[k]
            part = MODULATION * np.sqrt(PATTERNS) * (k == 0)
            heights.append(part * own + snowy - np.cumsum(local) * step - flowing)
            masses.append(
                part * weight
                + np.cumsum(density * np.gradient(snowy))
                - np.cumsum(local * heavy) * step
                - flowing * ICE_DENSITY_KG_M3
            )
        lag = round(regime.lag_months * DAYS_PER_MONTH)
        height += heights
        mass += [np.concatenate([np.full(lag, m[0]), m[: m.size - lag]]) for m in masses]
    return np.stack(height), np.stack(mass)
