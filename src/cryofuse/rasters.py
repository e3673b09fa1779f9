"""Ice masks, elevation models and other rasters: read once, sampled at points of a region.

GeoTIFF and anything else GDAL knows is read through rasterio, NetCDF through xarray. A raster
may lie in any CRS; points come in the region's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from cryofuse.geo import load_outline, read_vector, reproject, transformer

if TYPE_CHECKING:
    from cryofuse.config import RasterSource, RegionSettings

#: CRS of a grid_mapping variable `polar_stereographic` by standard parallel and hemisphere.
_POLAR = {70.0: "EPSG:3413", -71.0: "EPSG:3031"}


class RasterError(ValueError):
    """A raster that is missing, or that does not say where it lies."""


@dataclass(frozen=True)
class Raster:
    """A grid of values: x ascending, y ascending (cell centres, metres or degrees of its CRS)."""

    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    crs: str

    def sample(self, x: np.ndarray, y: np.ndarray, *, nearest: bool = False) -> np.ndarray:
        """Return values at points of the raster's own CRS; NaN outside and next to no data."""
        from scipy.interpolate import RegularGridInterpolator

        grid = RegularGridInterpolator(
            (self.y, self.x),
            self.values,
            method="nearest" if nearest else "linear",
            bounds_error=False,
            fill_value=np.nan,
        )
        return np.asarray(grid(np.column_stack([np.ravel(y), np.ravel(x)]))).reshape(np.shape(x))


@dataclass(frozen=True)
class Ice:
    """Where the region's ice is, in the region's CRS."""

    polygon: BaseGeometry
    crs: str

    def contains(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """Return whether each point (m) lies on ice."""
        shapely.prepare(self.polygon)
        return np.asarray(shapely.contains_xy(self.polygon, np.asarray(x_m), np.asarray(y_m)))


def read_raster(source: RasterSource) -> Raster:
    """Read a raster as float64 with NaN for no data.

    Raises
    ------
    RasterError
        If the file is missing, holds no such variable, or its CRS is unknown.
    """
    path = Path(source.file)
    if not path.is_file():
        raise RasterError(f"no raster file {path}")
    if path.suffix.lower() in (".nc", ".nc4", ".h5", ".hdf5"):
        return _read_netcdf(path, source)
    import rasterio

    with rasterio.open(path) as dataset:
        crs = source.crs or (dataset.crs.to_string() if dataset.crs else None)
        if crs is None:
            raise RasterError(f"{path}: no CRS; name it with `crs:`")
        values = dataset.read(1, masked=True).astype(np.float64).filled(np.nan)
        step_x, step_y = dataset.transform.a, dataset.transform.e
        x = dataset.transform.c + step_x * (np.arange(dataset.width) + 0.5)
        y = dataset.transform.f + step_y * (np.arange(dataset.height) + 0.5)
    return _ascending(x, y, values, crs)


def _ascending(x: np.ndarray, y: np.ndarray, values: np.ndarray, crs: str) -> Raster:
    if x[0] > x[-1]:
        x, values = x[::-1], values[:, ::-1]
    if y[0] > y[-1]:
        y, values = y[::-1], values[::-1]
    return Raster(np.ascontiguousarray(x), np.ascontiguousarray(y), values, crs)


def _read_netcdf(path: Path, source: RasterSource) -> Raster:
    import xarray as xr

    with xr.open_dataset(path, decode_times=False) as data:
        plane = [str(n) for n, v in data.data_vars.items() if v.ndim == 2]
        name = source.variable or (plane[0] if len(plane) == 1 else None)
        if name is None or name not in data:
            raise RasterError(
                f"{path}: name one of its variables with `variable:` ({', '.join(plane)})"
            )
        variable = data[name].squeeze()
        if variable.ndim != 2:
            raise RasterError(f"{path}: {name} has {variable.ndim} dimensions, expected 2")
        y_name, x_name = (str(d) for d in variable.dims)
        x, y = (data[n].to_numpy().astype(np.float64) for n in (x_name, y_name))
        for axis, values in ((x_name, x), (y_name, y)):
            if str(data[axis].attrs.get("units", "")).lower() in ("km", "kilometers", "kilometres"):
                values *= 1000.0
        crs = source.crs or _netcdf_crs(data, variable, x_name)
        if crs is None:
            raise RasterError(f"{path}: no CRS; name it with `crs:`")
        return _ascending(x, y, variable.to_numpy().astype(np.float64), crs)


def _netcdf_crs(data: Any, variable: Any, x_name: str) -> str | None:
    """Return the CRS a NetCDF file states: CF grid mapping, spatial_ref, or degrees."""
    import pyproj

    if str(data[x_name].attrs.get("units", "")).startswith("degrees"):
        return "EPSG:4326"
    for other in data.variables.values():
        if other.attrs.get("grid_mapping_name") == "polar_stereographic":
            parallel = other.attrs.get(
                "standard_parallel", other.attrs.get("latitude_of_projection_origin")
            )
            if parallel is not None and float(parallel) in _POLAR:
                return _POLAR[float(parallel)]
    for other in (variable, *data.variables.values()):
        for key in ("spatial_ref", "crs_wkt"):
            if key in other.attrs:
                return pyproj.CRS.from_user_input(other.attrs[key]).to_string()
    return None


def sample_raster(source: RasterSource, x_m: np.ndarray, y_m: np.ndarray, crs: str) -> np.ndarray:
    """Return a raster's values at points of a region's CRS (bilinear; NaN where it has none)."""
    return open_raster(source, crs)(x_m, y_m)


def open_raster(source: RasterSource, crs: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function that gives a raster's values at points of a region's CRS.

    The raster is read once; the values are those of :func:`sample_raster`.
    """
    raster = read_raster(source)

    def sample(x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        x, y = transformer(crs, raster.crs).transform(np.asarray(x_m), np.asarray(y_m))
        return raster.sample(np.asarray(x), np.asarray(y))

    return sample


def load_ice(region: RegionSettings) -> Ice:
    """Return the region's ice: its mask inside the outline, or the outline where there is none.

    Raises
    ------
    RasterError, OutlineError
        If the mask cannot be read.
    """
    outline = load_outline(region)
    if region.ice_mask is None:
        return Ice(outline, region.crs)
    if isinstance(region.ice_mask, str):
        return Ice(read_vector(region.ice_mask, region.crs).intersection(outline), region.crs)
    mask = _mask_polygon(region.ice_mask, region.crs)
    return Ice(mask.intersection(outline), region.crs)


def _mask_polygon(source: RasterSource, crs: str) -> BaseGeometry:
    """Return the outline of a mask raster's ice cells, in a CRS."""
    from rasterio.features import shapes
    from rasterio.transform import Affine

    raster = read_raster(source)
    if source.ice_values is None:
        ice = np.nan_to_num(raster.values) != 0
    else:
        ice = np.isin(raster.values, source.ice_values)
    step_x, step_y = raster.x[1] - raster.x[0], raster.y[1] - raster.y[0]
    place = Affine(step_x, 0, raster.x[0] - step_x / 2, 0, step_y, raster.y[0] - step_y / 2)
    pieces = [
        shapely.geometry.shape(piece)
        for piece, value in shapes(ice.astype(np.uint8), mask=ice, transform=place)
        if value
    ]
    if not pieces:
        raise RasterError(f"{source.file}: no cell is ice")
    union = shapely.union_all(pieces)
    return union if raster.crs == crs else shapely.make_valid(reproject(union, raster.crs, crs))
