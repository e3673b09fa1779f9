"""Mascon files in the layouts of three centres, from one kind of planted truth."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from cryofuse.calendar import month_index
from cryofuse.geo import EARTH_RADIUS_KM
from cryofuse.simulate.placement import Footprints
from cryofuse.tables import written

if TYPE_CHECKING:
    from netCDF4 import Dataset

    from cryofuse.simulate.mascons import CellGrid, MassTruth

FILL = -99999.0
#: Part of a mascon's value in its ocean cells, which JPL's coastline filter sets apart.
_OCEAN_SHARE = 0.1
#: Scatter of what the files of CSR and GSFC hold over the ocean (cm).
_OCEAN_CM = 1.0
#: Share of a GSFC mascon's planted σ that its file calls leakage; the rest it calls noise.
GSFC_LEAKAGE_SHARE = 0.25
#: Uncertainty of trends that GSFC's file states (cm/yr); no reader may count it as scatter.
_LEAKAGE_TREND_CM_YR = 0.1
_COMMENT = "Made by cryofuse from a planted truth; not data of GRACE or GRACE-FO"


def box_area_km2(footprints: Footprints) -> np.ndarray:
    """Return the areas of boxes on the sphere (km²)."""
    low, high = np.radians(footprints.south), np.radians(footprints.north)
    width = np.radians(footprints.east - footprints.west)
    return EARTH_RADIUS_KM**2 * width * (np.sin(high) - np.sin(low))


def write_jpl(truth: MassTruth, path: str | os.PathLike[str]) -> None:
    """Write a mascon file in JPL's layout.

    Parameters
    ----------
    truth
        The planted mass.
    path
        NetCDF file; it appears under its name when it is complete.
    """
    import netCDF4

    grid = truth.grid
    assert grid is not None
    owner = grid.owner
    known = owner >= 0
    with written(path) as temporary, netCDF4.Dataset(temporary, "w") as file:
        file.title = "Synthetic mass anomalies in the layout of JPL RL06.3Mv04 CRI mascons"
        file.comment = _COMMENT
        file.product_version = "synthetic"
        file.time_mean_removed = "2004.000 to 2009.999"
        file.GIA_removed = "none planted"
        file.Conventions = "CF-1.6"
        _dimensions(file, grid, "bounds")
        half = grid.cell_deg / 2
        _put(
            file, "lon", ("lon",), grid.longitude, units="degrees_east",
            standard_name="longitude", axis="X", bounds="lon_bounds", valid_min=0.25,
            valid_max=359.75,
        )  # fmt: skip
        _put(
            file, "lat", ("lat",), grid.latitude, units="degrees_north",
            standard_name="latitude", axis="Y", bounds="lat_bounds", valid_min=-89.75,
            valid_max=89.75,
        )  # fmt: skip
        _put(
            file, "time", ("time",), truth.days.mean(axis=1),
            units="days since 2002-01-01T00:00:00Z", calendar="gregorian", standard_name="time",
            axis="T", bounds="time_bounds",
        )  # fmt: skip
        _put(file, "time_bounds", ("time", "bounds"), truth.days)
        for name, values in (("lat", grid.latitude), ("lon", grid.longitude)):
            edges = np.stack([values - half, values + half], axis=1)
            _put(file, f"{name}_bounds", (name, "bounds"), edges)
        share = np.where(grid.land, 1.0, _OCEAN_SHARE)
        for name, values, label in (
            ("lwe_thickness", truth.lwe_cm, "Liquid_Water_Equivalent_Thickness"),
            ("uncertainty", truth.sigma_cm, "1-sigma uncertainty per 3-degree mascon"),
        ):
            field = values.T[:, np.clip(owner, 0, None)]
            if name == "lwe_thickness":
                field = field * share
            _put(
                file, name, ("time", "lat", "lon"), np.where(known, field, FILL), fill=FILL,
                units="cm", long_name=label, grid_mapping="WGS84",
            )  # fmt: skip
        _put(file, "land_mask", ("lat", "lon"), grid.land & known, units="1", long_name="Land_Mask")
        # A gain for land hydrology, never applied over ice: not 1, so that applying it shows.
        gain = 1.2 + 0.5 * np.sin(np.radians(7 * grid.longitude)) * np.ones_like(share)
        _put(
            file, "scale_factor", ("lat", "lon"), np.where(grid.land & known, gain, FILL),
            fill=FILL, units="1", long_name="hydrology gain factor (not for ice)",
        )  # fmt: skip
        ids = np.where(known, truth.cells.footprints.mascon_id[np.clip(owner, 0, None)], 0)
        _put(
            file, "mascon_ID", ("lat", "lon"), ids, units="1",
            long_name="3-degree mascon placement",
        )  # fmt: skip


def write_csr(
    truth: MassTruth,
    path: str | os.PathLike[str],
    land_mask: str | os.PathLike[str],
    mapping: str | os.PathLike[str],
) -> None:
    """Write a mascon file in CSR's layout, its land mask, and the mapping of cells to tiles.

    Parameters
    ----------
    truth
        The planted mass.
    path, land_mask, mapping
        NetCDF files; each appears under its name when it is complete.
    """
    import netCDF4

    grid = truth.grid
    assert grid is not None and grid.tile is not None
    tiles, place = np.unique(grid.tile, return_inverse=True)
    place = place.reshape(grid.tile.shape)
    values = _ocean_values(truth, tiles.size)
    held = np.searchsorted(tiles, truth.cells.footprints.mascon_id)
    values[:, held] = truth.lwe_cm.T
    with written(path) as temporary, netCDF4.Dataset(temporary, "w") as file:
        file.title = "Synthetic mass anomalies in the layout of CSR RL06.3 mascons"
        file.comment = _COMMENT
        file.time_mean_removed = "2004.000 to 2009.999"
        _dimensions(file, grid, "timebound")
        _axes(file, grid)
        # As CSR spells it: no reader of CF conventions decodes these times.
        _put(
            file, "time", ("time",), truth.days.mean(axis=1),
            Units="days since 2002-01-01T00:00:00Z", bounds="time_bounds",
        )  # fmt: skip
        _put(file, "time_bounds", ("time", "timebound"), truth.days)
        _put(
            file, "lwe_thickness", ("time", "lat", "lon"), values[:, place], kind="f4",
            units="cm", long_name="Liquid Water Equivalent Thickness",
        )  # fmt: skip
    for target, name, cells, kind in (
        (land_mask, "LO_val", grid.land, "f4"),
        (mapping, "mascon_id", grid.tile, "f8"),
    ):
        with written(target) as temporary, netCDF4.Dataset(temporary, "w") as file:
            file.comment = _COMMENT
            _dimensions(file, grid, None)
            _axes(file, grid)
            _put(file, name, ("lat", "lon"), cells, kind=kind)


def write_gsfc(truth: MassTruth, path: str | os.PathLike[str]) -> None:
    """Write a mascon file in GSFC's layout (HDF5).

    Parameters
    ----------
    truth
        The planted mass; ``ocean`` are the mascons around it.
    path
        HDF5 file; it appears under its name when it is complete.
    """
    import h5py

    ice, ocean = truth.cells.footprints, truth.ocean
    assert isinstance(ice, Footprints) and ocean is not None
    order = np.argsort(np.concatenate([ice.mascon_id, ocean.mascon_id]))

    def row(name: str) -> np.ndarray:
        return np.concatenate([getattr(ice, name), getattr(ocean, name)])[order][np.newaxis]

    count = ocean.mascon_id.size
    cmwe = np.concatenate([truth.lwe_cm, _ocean_values(truth, count).T])[order]
    quiet = np.full((count, truth.months.size), _OCEAN_CM)
    sigma = np.concatenate([truth.sigma_cm, quiet])[order]
    usual = sigma.min(axis=1, keepdims=True)
    leakage = np.broadcast_to(GSFC_LEAKAGE_SHARE * usual, sigma.shape)
    located = np.concatenate([_locations(ice), np.full(count, 90)])[order][np.newaxis]
    area = np.concatenate([box_area_km2(ice), box_area_km2(ocean)])[order][np.newaxis]
    with written(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["title"] = "Synthetic mass anomalies in the layout of GSFC RL06v2.0 mascons"
        file.attrs["comment"] = _COMMENT
        solution = file.create_group("solution")
        solution.attrs["Version"] = "synthetic"
        solution["cmwe"] = cmwe
        file["uncertainty/noise_2sigma"] = 2 * (sigma - leakage)
        file["uncertainty/leakage_2sigma"] = 2 * leakage
        file["uncertainty/leakage_trend"] = np.full(sigma.shape, _LEAKAGE_TREND_CM_YR)
        file["mascon/labels"] = row("mascon_id").astype(float)
        for name, low, high in (("lat", "south", "north"), ("lon", "west", "east")):
            file[f"mascon/{name}_center"] = (row(low) + row(high)) / 2
            file[f"mascon/{name}_span"] = row(high) - row(low)
        file["mascon/area_km2"] = area
        file["mascon/location"] = located.astype(float)
        file["mascon/basin"] = np.zeros_like(area)
        # Days count from 2002-01-00, and the last day belongs to the solution.
        file["time/ref_days_first"] = truth.days[np.newaxis, :, 0] + 1.0
        file["time/ref_days_last"] = truth.days[np.newaxis, :, 1] + 0.0
        file["time/ref_days_middle"] = truth.days.mean(axis=1)[np.newaxis] + 0.5
        file["size/N_mascons"] = float(order.size)
        file["size/N_mascon_times"] = float(truth.months.size)


def _locations(footprints: Footprints) -> np.ndarray:
    """Return GSFC's location of land: 1 Greenland, 3 Antarctica, 80 elsewhere."""
    longitude, latitude = footprints.centre
    greenland = (latitude > 59) & (longitude > 286) & (longitude < 350)
    greenland &= (latitude > 68) | (longitude < 335)
    return np.where(latitude < -60, 3, np.where(greenland, 1, 80))


def _ocean_values(truth: MassTruth, count: int) -> np.ndarray:
    """Return small values for mascons without land (cm), shape (solutions, count)."""
    return np.stack(
        [
            np.random.default_rng([truth.seed, 1101, int(month)]).normal(0, _OCEAN_CM, count)
            for month in month_index(truth.months)
        ]
    )


def _dimensions(file: Dataset, grid: CellGrid, bounds: str | None) -> None:
    if bounds:
        file.createDimension("time", None)
    file.createDimension("lat", grid.latitude.size)
    file.createDimension("lon", grid.longitude.size)
    if bounds:
        file.createDimension(bounds, 2)


def _axes(file: Dataset, grid: CellGrid) -> None:
    _put(file, "lat", ("lat",), grid.latitude, units="degrees_north")
    _put(file, "lon", ("lon",), grid.longitude, units="degrees_east")


def _put(
    file: Dataset,
    name: str,
    dimensions: tuple[str, ...],
    values: np.ndarray,
    *,
    kind: str = "f8",
    fill: float | None = None,
    **about: Any,
) -> None:
    variable = file.createVariable(name, kind, dimensions, zlib=True, complevel=4, fill_value=fill)
    variable.setncatts(about)
    variable[:] = values
