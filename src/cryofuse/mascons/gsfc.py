"""GSFC RL06v2 mascons: 1 arc-degree cells in an HDF5 file (Loomis et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cryofuse.logs import UserError
from cryofuse.mascons.blocks import degree_box
from cryofuse.mascons.solutions import (
    LWE_LIMIT_CM,
    Extent,
    Solutions,
    decode_days,
    in_extent,
    west_longitude,
)

if TYPE_CHECKING:
    import geopandas

#: Locations that stand on ground: Greenland, Antarctica, other land (4 is floating, 90 water).
LAND_LOCATIONS = (1, 3, 80)
_EPOCH = "days since 2002-01-00"
_CELL = (
    "lat_center", "lon_center", "lat_span", "lon_span", "area_km2", "labels", "location",
)  # fmt: skip
_NEEDED = (
    "solution/cmwe",
    *(f"mascon/{name}" for name in _CELL),
    "time/ref_days_first",
    "time/ref_days_last",
)


def read_solutions(
    path: str,
    land_mask: str | None = None,
    extent: Extent | None = None,
    footprints: geopandas.GeoDataFrame | None = None,
    mapping: str | None = None,
) -> Solutions:
    """Read a file in GSFC's HDF5 layout.

    Parameters
    ----------
    path
        HDF5 file.
    land_mask, footprints, mapping
        Not used: the file carries locations and cells of its own.
    extent
        West, south, east, north (degrees): only mascons whose centre is inside are kept.

    Returns
    -------
    Solutions
        σ is (noise_2sigma + leakage_2sigma) / 2, as the product adds both for a mascon; its
        ``leakage_trend``, the uncertainty of a trend, is no scatter of months and is left out.

    Raises
    ------
    UserError
        If the file is not in GSFC's layout.
    """
    import geopandas
    import h5py

    with h5py.File(path) as file:
        missing = [name for name in _NEEDED if name not in file]
        if missing:
            raise UserError(f"{path}: not in the layout of GSFC mascons (no {', '.join(missing)})")
        cell = {name: np.ravel(file[f"mascon/{name}"][()]) for name in _CELL}
        labels, location = cell["labels"].astype(np.int32), cell["location"]
        for name, values in cell.items():
            if values.size != labels.size:
                raise UserError(
                    f"{path}: mascon/{name} has {values.size} values, expected {labels.size}"
                )
        if np.unique(labels).size != labels.size:
            raise UserError(f"{path}: mascon/labels: a number stands for two mascons")
        kept = np.flatnonzero(in_extent(cell["lon_center"], cell["lat_center"], extent))
        if kept.size == 0:
            raise UserError(f"{path}: no mascon of the file lies in the region")
        first = np.ravel(file["time/ref_days_first"][()])
        last = np.ravel(file["time/ref_days_last"][()])
        shape = (labels.size, first.size)
        if first.size == 0 or last.size != first.size:
            raise UserError(
                f"{path}: {first.size} first days and {last.size} last days of solutions"
            )

        def read(name: str) -> np.ndarray:
            data = file[name]
            if data.shape == shape:
                return np.asarray(data[()], dtype=float)[kept].T
            if data.shape == shape[::-1]:
                return np.asarray(data[()], dtype=float)[:, kept]
            flat = np.ravel(data[()]).astype(float)
            if flat.size != labels.size:
                raise UserError(f"{path}: {name} has shape {data.shape}, expected {shape}")
            return np.broadcast_to(flat[kept], (first.size, kept.size))

        lwe = read("solution/cmwe")
        given = [n for n in ("noise_2sigma", "leakage_2sigma") if f"uncertainty/{n}" in file]
        parts = [read(f"uncertainty/{name}") for name in given]
        origin = f"({' + '.join(given)})/2" if given else "none: the file holds no uncertainty"
        release = _release(file)
    lwe = np.where(np.abs(lwe) < LWE_LIMIT_CM, lwe, np.nan)
    sigma = np.abs(np.array(parts)).sum(axis=0) / 2 if parts else np.full_like(lwe, np.nan)
    half_lat, half_lon = cell["lat_span"] / 2, cell["lon_span"] / 2
    lon = west_longitude(cell["lon_center"])
    boxes = [
        degree_box(
            lon[i] - half_lon[i],
            max(cell["lat_center"][i] - half_lat[i], -90.0),
            lon[i] + half_lon[i],
            min(cell["lat_center"][i] + half_lat[i], 90.0),
        )
        for i in kept
    ]
    land = np.isin(location[kept], LAND_LOCATIONS)
    mascons = geopandas.GeoDataFrame(
        {
            "mascon_id": labels[kept],
            "land_area_km2": np.where(land, cell["area_km2"][kept].astype(float), 0.0),
        },
        geometry=boxes,
        crs="EPSG:4326",
    )
    start = decode_days(first, _EPOCH, path)
    # The last day is counted whole.
    end = decode_days(last + 1, _EPOCH, path)
    return Solutions(mascons, lwe, sigma, start, end, "gsfc", release, sigma=origin)


def _release(file: Any) -> str:
    """Return what the file says about its release: the group of the solution does."""
    for attributes in (file["solution"].attrs, file.attrs):
        for name in ("Version", "version", "title"):
            if name in attributes:
                value = np.ravel(attributes[name])[0]
                return value.decode() if isinstance(value, bytes) else str(value)
    return "not stated"
