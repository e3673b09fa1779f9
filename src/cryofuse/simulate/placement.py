"""Where the mascons of each product lie, for the synthetic world.

JPL's are boxes of 3° (its own table around Greenland, its rule elsewhere), GSFC's boxes of one
arc degree of about equal area, CSR's hexagon-like tiles of about 1° on quarter-degree cells.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cryofuse.mascons.jpl import place_bands

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

#: Side of a cell of CSR's grid (degrees).
CSR_CELL_DEG = 0.25
#: CSR estimates about as many tiles as a geodesic grid of this many points has (Save 2016).
_CSR_TILES = 40_962


class Placement(Protocol):
    """Mascons: their numbers, middles, and which of them holds a point."""

    @property
    def mascon_id(self) -> np.ndarray:
        """Return the product's numbers, ascending."""

    @property
    def centre(self) -> tuple[np.ndarray, np.ndarray]:
        """Return longitudes and latitudes of the middles (degrees)."""

    def locate(self, longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
        """Return the index of the mascon that holds each point, −1 where none does."""

    def take(self, index: np.ndarray) -> Placement:
        """Return some of the mascons."""


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
    """Return JPL's mascons by the rule of their placement."""
    table = place_bands()
    return Footprints(table[:, 0].astype(int), *table[:, 1:].T)


def degree_footprints() -> Footprints:
    """Return boxes of 1° of latitude and about as much arc of longitude, as GSFC has.

    A band holds ``round(360·cos(latitude of its middle))`` boxes; numbers run from the south.
    """
    rows: list[tuple[float, ...]] = []
    for south in np.arange(-90.0, 90.0):
        count = max(1, round(360 * np.cos(np.radians(south + 0.5))))
        edges = np.arange(count + 1) * 360.0 / count
        for west, east in zip(edges[:-1], edges[1:], strict=True):
            rows.append((len(rows) + 1, south, south + 1.0, west, east))
    table = np.array(rows)
    return Footprints(table[:, 0].astype(int), *table[:, 1:].T)


@dataclass(frozen=True)
class Tiles:
    """Hexagon-like tiles: quarter-degree cells belong to the nearest middle.

    Numbers count all tiles of the globe from the south pole; some of them are held.
    """

    mascon_id: np.ndarray

    @property
    def centre(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the tiles' middles: longitude and latitude (degrees)."""
        longitude, latitude, _ = _tile_centres()
        return longitude[self.mascon_id - 1], latitude[self.mascon_id - 1]

    def locate(self, longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
        """Return the index of the tile that holds each point, −1 where none does."""
        longitude, latitude = np.broadcast_arrays(longitude, latitude)
        across = round(360 / CSR_CELL_DEG)
        column = np.floor(longitude % 360 / CSR_CELL_DEG).astype(np.int64) % across
        row = np.floor((latitude + 90) / CSR_CELL_DEG).astype(np.int64)
        cell, inverse = np.unique(row * across + column, return_inverse=True)
        lon = (cell % across + 0.5) * CSR_CELL_DEG
        lat = (np.minimum(cell // across, across // 2 - 1) + 0.5) * CSR_CELL_DEG - 90
        number = _tile_centres()[2].query(_on_sphere(lon, lat))[1] + 1
        at = np.clip(np.searchsorted(self.mascon_id, number), 0, self.mascon_id.size - 1)
        found = np.where(self.mascon_id[at] == number, at, -1)
        return found[inverse].reshape(longitude.shape)

    def take(self, index: np.ndarray) -> Tiles:
        """Return some of the tiles."""
        return Tiles(self.mascon_id[index])


def tile_footprints() -> Tiles:
    """Return all tiles of the globe."""
    return Tiles(np.arange(1, _tile_centres()[0].size + 1))


def _on_sphere(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    lon, lat = np.radians(longitude), np.radians(latitude)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


@lru_cache(maxsize=1)
def _tile_centres() -> tuple[np.ndarray, np.ndarray, cKDTree]:
    """Return the middles of all tiles: rows of a hexagonal lattice, every other one shifted."""
    from scipy.spatial import cKDTree

    apart = np.sqrt(360**2 / np.pi / _CSR_TILES * 2 / np.sqrt(3))
    rows = round(180 / (apart * np.sqrt(3) / 2))
    longitudes, latitudes = [], []
    for row, latitude in enumerate(-90 + (np.arange(rows) + 0.5) * 180 / rows):
        count = max(1, round(360 * np.cos(np.radians(latitude)) / apart))
        longitudes.append((np.arange(count) + row % 2 / 2) * 360 / count)
        latitudes.append(np.full(count, latitude))
    longitude, latitude = np.concatenate(longitudes), np.concatenate(latitudes)
    return longitude, latitude, cKDTree(_on_sphere(longitude, latitude))
