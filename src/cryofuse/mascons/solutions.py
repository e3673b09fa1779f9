"""What the readers of all centres share: nominal months, cell areas, and the mass table.

A product is one module with one function, ``read_solutions(path, land_mask, extent,
footprints, mapping) -> Solutions``; everything after it knows no product.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cryofuse.calendar import TIME_DTYPE, month_index, year_fraction
from cryofuse.geo import EARTH_RADIUS_KM
from cryofuse.logs import UserError
from cryofuse.units import GT_PER_CM_KM2, lwe_to_mass

if TYPE_CHECKING:
    import geopandas

_DAY = np.timedelta64(86_400_000_000, "us")
#: No day of the record lies so far from the epoch; fill does.
_DAYS_LIMIT = 1e5
#: Water equivalents beyond this are fill of one kind or another (cm).
LWE_LIMIT_CM = 9e4
_SINCE = re.compile(r"days since (\d{4})-(\d{2})-(\d{2})", re.IGNORECASE)
#: Window of the running mean that takes the slow signal out of the empirical scatter (months).
_SCATTER_WINDOW = 13

Extent = tuple[float, float, float, float]


@dataclass
class Solutions:
    """A product's solutions, one column per mascon.

    Attributes
    ----------
    mascons
        GeoDataFrame of mascon_id, geometry (longitude/latitude), land_area_km2; where outlines
        are known and the file may be cropped, also ``beyond_file``: the part of each outline
        that no cell of the file covers.
    lwe_cm, sigma_cm
        Water equivalent and its 1σ (cm), shape (solutions, mascons); NaN where missing.
    start, end
        First and last instant of each solution, datetime64[us], shape (solutions,).
    product, release
        The centre, and what the file says about its release.
    unit
        ``native`` (the product's own mascons) or ``derived`` (averages onto a stated set).
    sigma
        Where σ comes from.
    footprints
        Whose footprints the samples stand on.
    """

    mascons: geopandas.GeoDataFrame
    lwe_cm: np.ndarray
    sigma_cm: np.ndarray
    start: np.ndarray
    end: np.ndarray
    product: str
    release: str
    unit: str = "native"
    sigma: str = "file"
    footprints: str = "cells of the file"


@contextmanager
def reading(path: str, kind: str) -> Iterator[None]:
    """Turn what the HDF5 and NetCDF libraries say of a broken file into one line.

    Parameters
    ----------
    path
        The file that is read inside the block.
    kind
        What it should be.

    Raises
    ------
    UserError
        If it is no such file, is cut short, or its data cannot be inflated.
    """
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        # netCDF4 reports broken data as RuntimeError, h5py a broken object as KeyError.
        text = str(error).strip("'\"")
        if isinstance(error, OSError) or text.startswith(("NetCDF:", "Unable to")):
            raise UserError(f"{path}: unreadable as {kind} ({text})") from None
        raise


def check_shapes(file: Any, path: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse a NetCDF or HDF5 file whose variables are not of the expected shapes.

    Raises
    ------
    UserError
        With the first variable that differs; a mask on another grid is one.
    """
    for name, expected in shapes.items():
        found = tuple(int(n) for n in file[name].shape)
        if found != expected:
            raise UserError(f"{path}: {name} has the shape {found}, expected {expected}")


def cell_centres(variable: Any, path: str) -> np.ndarray:
    """Return the centres of a grid's rows or columns, longitudes unwound over the seam.

    Raises
    ------
    UserError
        If they are not evenly spaced, or longitudes do not ascend.
    """
    centre = np.ravel(np.asarray(variable[:], dtype=float))
    east = variable.name.lower().startswith("lon")
    if centre.size < 2 or not np.isfinite(centre).all():
        raise UserError(f"{path}: {variable.name} holds {centre.size} values, expected a grid")
    if east:
        centre = np.unwrap(centre, period=360.0)
    steps = np.diff(centre)
    if np.ptp(steps) > 1e-3 or steps[0] == 0 or (east and steps[0] < 0):
        raise UserError(
            f"{path}: {variable.name} is not evenly spaced from end to end (a crop that was put "
            "together across its seam?)"
        )
    return centre


def read_bounds(
    file: Any, path: str, variable: str = "time_bounds"
) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last instant of each solution of a NetCDF file, datetime64[us].

    Raises
    ------
    UserError
        If there is no solution, or bounds are not two to a solution.
    """
    count = int(file["time"].shape[0])
    if count == 0:
        raise UserError(f"{path}: holds no solution")
    check_shapes(file, path, {variable: (count, 2)})
    bounds = np.asarray(file[variable][:], dtype=float)
    units = time_units(file["time"])
    return decode_days(bounds[:, 0], units, path), decode_days(bounds[:, 1], units, path)


def stated_title(footprints: geopandas.GeoDataFrame) -> str:
    """Return what footprints are called: their title, where they have one."""
    return str(footprints.attrs.get("title", "the footprints given"))


def time_units(variable: Any) -> str:
    """Return the unit of a time variable, which CSR spells ``Units``."""
    names = variable.ncattrs()
    found = next((name for name in ("units", "Units") if name in names), None)
    return str(variable.getncattr(found)) if found else ""


def decode_days(days: np.ndarray, units: str, path: str) -> np.ndarray:
    """Return timestamps of days counted since the epoch that a units attribute names.

    A day 00 (``2002-01-00``, as GSFC writes it) is the day before the first.

    Raises
    ------
    UserError
        If the attribute is not ``days since YYYY-MM-DD``.
    """
    match = _SINCE.search(units)
    if not match:
        raise UserError(f"{path}: time is not counted in `days since YYYY-MM-DD` (found {units!r})")
    days = np.asarray(days, dtype=float)
    if not (np.abs(days) < _DAYS_LIMIT).all():
        raise UserError(f"{path}: time holds fill or days beyond {_DAYS_LIMIT:g}")
    year, month, day = match.groups()
    epoch = np.datetime64(f"{year}-{month}-01", "us") + (int(day) - 1) * _DAY
    seconds = np.round(days * 86_400).astype(np.int64)
    return epoch + seconds * np.timedelta64(1_000_000, "us")


def assign_months(start: np.ndarray, end: np.ndarray, path: str = "mascon file") -> np.ndarray:
    """Return the nominal month of each solution: distinct, in order, of the most overlap.

    Each solution may take any month that it overlaps. Among all assignments that give
    successive solutions successive (distinct, increasing) months, the one with the largest
    total overlap (days) is taken, the later month at a tie. So a solution keeps the month that
    it covers most unless another one needs it more, and then moves to its free neighbour.

    Parameters
    ----------
    start, end
        First instant of each solution and first instant after it, datetime64[us], shape (n,),
        in order of time.
    path
        File, for the message.

    Returns
    -------
    numpy.ndarray
        First days of months, datetime64[us], shape (n,).

    Raises
    ------
    UserError
        If two solutions cannot have months of their own, or bounds are not in order.
    """
    start, end = np.asarray(start, TIME_DTYPE), np.asarray(end, TIME_DTYPE)
    if (end <= start).any():
        bad = int(np.flatnonzero(end <= start)[0])
        raise UserError(f"{path}: solution {bad} ends ({end[bad]}) before it starts ({start[bad]})")
    if (np.diff(start) < np.timedelta64(0, "us")).any():
        raise UserError(f"{path}: solutions are not in order of time")
    best: dict[int, tuple[float, list[int]]] = {-(10**9): (0.0, [])}
    for number, (first, last) in enumerate(zip(start, end, strict=True)):
        low = int(month_index(first))
        high = int(month_index(last - np.timedelta64(1, "us")))
        step: dict[int, tuple[float, list[int]]] = {}
        for month in range(low, high + 1):
            opens = np.datetime64(month, "M").astype(TIME_DTYPE)
            closes = np.datetime64(month + 1, "M").astype(TIME_DTYPE)
            overlap = float((min(last, closes) - max(first, opens)) / _DAY)
            before = [entry for taken, entry in best.items() if taken < month]
            if before:
                total, chosen = max(before, key=lambda entry: (entry[0], entry[1]))
                step[month] = (total + overlap, [*chosen, month])
        if not step:
            raise UserError(
                f"{path}: solutions {number - 1} and {number} ({first} to {last}) share one month "
                "and neither overlaps another: two solutions for a month cannot be kept apart"
            )
        best = step
    _, months = max(best.values(), key=lambda entry: (entry[0], entry[1]))
    return np.array(months).astype("datetime64[M]").astype(TIME_DTYPE)


def cell_edges(centre: np.ndarray) -> np.ndarray:
    """Return the edges of evenly spaced cells from their centres (n + 1 values, same order)."""
    step = (centre[-1] - centre[0]) / (centre.size - 1)
    return centre[0] + step * (np.arange(centre.size + 1) - 0.5)


def cell_area_km2(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the area of each cell of a regular grid on the sphere (km²), shape (lat, lon).

    The centres publish areas and totals on a sphere; the ellipsoid is up to 0.9 % larger at
    the poles, so mass (water equivalent × area) follows their convention.
    """
    edges = np.radians(np.clip(cell_edges(latitude), -90, 90))
    bands = np.abs(np.diff(np.sin(edges)))
    width = np.radians(np.abs(longitude[-1] - longitude[0]) / (longitude.size - 1))
    return np.repeat((EARTH_RADIUS_KM**2 * width * bands)[:, np.newaxis], longitude.size, axis=1)


def west_longitude(longitude: np.ndarray) -> np.ndarray:
    """Return longitudes moved to −180 … 180 (180 itself becomes −180)."""
    return (np.asarray(longitude, dtype=float) + 180.0) % 360.0 - 180.0


def empirical_sigma(lwe_cm: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Estimate σ from a series' own scatter where the product gives none.

    Trend, curvature, annual and semi-annual terms and then a 13-month running mean are taken
    out; the standard deviation of what remains is an upper bound of the noise, because
    irregular month-to-month signal is in it (Wahr et al. 2006, doi:10.1029/2005GL025305).

    Parameters
    ----------
    lwe_cm
        Series (cm), shape (solutions, mascons).
    time
        Middle of each solution, datetime64[us], shape (solutions,).

    Returns
    -------
    numpy.ndarray
        σ (cm), shape (mascons,); NaN with fewer than 24 values.
    """
    years = year_fraction(time)
    centred = years - years.mean()
    angle = 2 * np.pi * years
    design = np.column_stack(
        [np.ones_like(years), centred, centred**2]
        + [f(k * angle) for k in (1, 2) for f in (np.cos, np.sin)]
    )
    sigma = np.full(lwe_cm.shape[1], np.nan)
    kernel = np.ones(_SCATTER_WINDOW)
    for column in range(lwe_cm.shape[1]):
        held = np.isfinite(lwe_cm[:, column])
        if held.sum() < 24:
            continue
        values = lwe_cm[held, column]
        rest = values - design[held] @ np.linalg.lstsq(design[held], values, rcond=None)[0]
        count = np.convolve(np.ones_like(rest), kernel, mode="same")
        slow = np.convolve(rest, kernel, mode="same") / count
        # A value is a thirteenth part of its own running mean.
        sigma[column] = np.std(rest - slow) / np.sqrt(1 - 1 / _SCATTER_WINDOW)
    return sigma


def in_extent(longitude: np.ndarray, latitude: np.ndarray, extent: Extent | None) -> np.ndarray:
    """Return which positions lie in an extent (west, south, east, north; degrees).

    ``west > east`` runs over the antimeridian; a width of 360 or more holds every longitude.
    """
    if extent is None:
        return np.ones(np.broadcast_shapes(np.shape(longitude), np.shape(latitude)), dtype=bool)
    west, south, east, north = extent
    width = 360.0 if abs(east - west) >= 360 else (east - west) % 360
    inside = (np.asarray(longitude) - west) % 360 <= width
    return inside & (np.asarray(latitude) >= south) & (np.asarray(latitude) <= north)


def tabulate_mass(solutions: Solutions, path: str) -> pd.DataFrame:
    """Return the mass table of a product's solutions (contract ``MASS``).

    Every month from the first to the last solution is there; months without one are null.
    ``mass_gt = lwe_cm × land_area_km2 × 1e-5``; the change is null unless the month before has
    a value too, and its σ is √2 × σ (errors of two months taken as independent).
    """
    months = assign_months(solutions.start, solutions.end, path)
    numbers = month_index(months)
    every = np.arange(numbers[0], numbers[-1] + 1)
    place = numbers - numbers[0]
    ids = solutions.mascons["mascon_id"].to_numpy()
    area = solutions.mascons["land_area_km2"].to_numpy(dtype=float)

    def spread(values: np.ndarray, empty: float | np.datetime64) -> np.ndarray:
        full = np.full((every.size, *values.shape[1:]), empty, dtype=values.dtype)
        full[place] = values
        return full

    lwe = spread(solutions.lwe_cm.astype(float), np.nan)
    sigma = spread(solutions.sigma_cm.astype(float), np.nan)
    sigma[np.isnan(lwe)] = np.nan
    mass = lwe_to_mass(lwe, area)
    change = np.full_like(mass, np.nan)
    change[1:] = np.diff(mass, axis=0)
    change_sigma = np.where(np.isnan(change), np.nan, np.sqrt(2.0) * sigma * area * GT_PER_CM_KM2)
    shape = (every.size, ids.size)
    columns = {
        "mascon_id": np.broadcast_to(ids, shape),
        "month": np.broadcast_to(
            every.astype("datetime64[M]").astype(TIME_DTYPE)[:, np.newaxis], shape
        ),
        "lwe_cm": lwe,
        "lwe_sigma_cm": sigma,
        "mass_gt": mass,
        "mass_sigma_gt": lwe_to_mass(sigma, area),
        "mass_change_gt": change,
        "mass_change_sigma_gt": change_sigma,
    }
    nat = np.datetime64("NaT", "us")
    for name, instants in (("solution_start", solutions.start), ("solution_end", solutions.end)):
        filled = spread(np.asarray(instants, TIME_DTYPE), nat)[:, np.newaxis]
        columns[name] = np.where(np.isnan(lwe), nat, np.broadcast_to(filled, shape))
    table = pd.DataFrame({name: np.ravel(values.T) for name, values in columns.items()})
    return table
