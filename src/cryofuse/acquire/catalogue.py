"""The catalogue of Earthdata (CMR): which files a collection has in an area and some months.

The search itself is earthaccess's. Added here: a search is tried again when the catalogue fails,
and its answer counts only when as many entries came as the catalogue says there are.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import requests
import shapely
from requests.adapters import HTTPAdapter
from shapely.geometry.base import BaseGeometry
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)
from tenacity.nap import sleep as tenacity_sleep

from cryofuse.geo import project, unproject
from cryofuse.logs import UserError

if TYPE_CHECKING:
    import earthaccess

_LOG = logging.getLogger(__name__)
#: Most tries of one search.
TRIES = 6
_FIRST_WAIT_S = 2.0
#: Longest wait between two tries, also where the server asks for a longer one.
LONGEST_WAIT_S = 120.0
#: To connect, and between two pieces of an answer: earthaccess itself waits for ever.
_TIMEOUT_S = (30.0, 180.0)
#: A window of time is not halved below this (s).
_SHORTEST_WINDOW_S = 60
_PASSING_STATUS = frozenset({408, 429})

#: Added around an outline: tracks of a granule lie up to 3.3 km beside its footprint's middle.
_BUFFER_M = 10_000.0
#: Of the buffer, what simplification and the bend of great circles may each take away.
_SHARE = 0.25
_MOST_POINTS = 60
_LONGEST_EDGE_M = 600_000.0
_SHORTEST_EDGE_M = 50_000.0
#: Decimals of a degree (11 m) in the addresses of a search.
_DECIMALS = 4
_OUTLINE_STEP_M = 10_000.0
#: Degrees added around the outline's bounding box.
_BOX_MARGIN = 0.1

#: West, south, east, north (degrees); west > east over ±180°.
Box = tuple[float, float, float, float]
#: A closed ring of longitude and latitude (degrees), counter-clockwise.
Ring = tuple[tuple[float, float], ...]
Area = Box | Ring
#: First instant, and first instant after it.
Months = tuple[np.datetime64, np.datetime64]

_HDF5_SUFFIXES = (".h5", ".nc", ".nc4", ".hdf5", ".he5")
#: Names of a distributed part that name nothing.
_NAMELESS = ("", "Not provided")


@dataclass(frozen=True)
class Entry:
    """A file of a collection, as the catalogue describes it.

    Parameters
    ----------
    name
        Last part of the link's path, decoded; without a link the entry's own name. It is the
        server's text: unchecked.
    url
        Link to the data, None where there is none.
    size_bytes
        Size, None where the catalogue states none in bytes.
    checksum, algorithm
        Checksum and how it is made, None where the catalogue states none.
    concept_id, revision_date
        The catalogue's number of the entry, and when it was last revised.
    """

    name: str
    url: str | None
    size_bytes: int | None = None
    checksum: str | None = None
    algorithm: str | None = None
    concept_id: str | None = None
    revision_date: str | None = None


Search = Callable[..., list[Entry]]


def search_area(outline: BaseGeometry, crs: str) -> Area:
    """Return the area to search for an outline: a ring of few points, or a box.

    The ring is the convex hull of the outline with a margin; its edges are short enough that
    the great circles of the catalogue and the straight lines of the projection are one within
    the margin. A region with a pole in it, or over ±180°, has a box.

    Parameters
    ----------
    outline, crs
        The region's outline and its CRS (metres).
    """
    wide = outline.convex_hull.buffer(_BUFFER_M)
    hull = wide.simplify(_SHARE * _BUFFER_M)
    longest = _LONGEST_EDGE_M
    while longest >= _SHORTEST_EDGE_M and not _holds_pole(hull, crs):
        ring = _ring(hull, crs, longest)
        if ring is None:
            break
        if len(ring) <= _MOST_POINTS and _bend(ring, crs) <= _SHARE * _BUFFER_M:
            return tuple((float(longitude), float(latitude)) for longitude, latitude in ring)
        longest /= 2
    return bounding_box(outline.buffer(_BUFFER_M), crs)


def _ring(hull: BaseGeometry, crs: str, longest_m: float) -> np.ndarray | None:
    """Return a hull's boundary in degrees, counter-clockwise, None where it passes ±180°."""
    edge = shapely.get_coordinates(shapely.segmentize(hull.boundary, longest_m))
    ring = np.column_stack(unproject(edge[:, 0], edge[:, 1], crs)).round(_DECIMALS)
    if not np.isfinite(ring).all() or np.abs(np.diff(ring[:, 0])).max() > 180.0:
        return None
    return ring if shapely.is_ccw(shapely.LinearRing(ring)) else ring[::-1]


def _bend(ring: np.ndarray, crs: str) -> float:
    """Return how far the middles of a ring's great circles lie from its straight edges (m)."""
    longitude, latitude = np.radians(ring.T)
    point = np.column_stack(
        [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.sin(latitude),
        ]
    )
    x, y, z = (point[1:] + point[:-1]).T
    middle = project(np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y))), crs)
    corner = np.column_stack(project(ring[:, 0], ring[:, 1], crs))
    edges = shapely.linestrings(np.stack([corner[:-1], corner[1:]], axis=1))
    return float(shapely.distance(edges, shapely.points(*middle)).max())


def _holds_pole(outline: BaseGeometry, crs: str) -> float | None:
    """Return the latitude of the pole in an outline, None if there is none."""
    for pole in (-90.0, 90.0):
        x_m, y_m = project([0.0], [pole], crs)
        if np.isfinite(x_m[0]) and shapely.contains_xy(outline, x_m[0], y_m[0]):
            return pole
    return None


def bounding_box(outline: BaseGeometry, crs: str) -> Box:
    """Return west, south, east, north (degrees) of an outline; west > east over ±180°.

    A box around a pole spans all longitudes.
    """
    edge = shapely.get_coordinates(shapely.segmentize(outline.boundary, _OUTLINE_STEP_M))
    longitude, latitude = unproject(edge[:, 0], edge[:, 1], crs)
    south = max(float(latitude.min()) - _BOX_MARGIN, -90.0)
    north = min(float(latitude.max()) + _BOX_MARGIN, 90.0)
    pole = _holds_pole(outline, crs)
    if pole is not None:
        return -180.0, min(south, pole), 180.0, max(north, pole)
    around = np.unique(np.mod(longitude, 360.0))
    gaps = np.diff(np.concatenate([around, [around[0] + 360.0]]))
    widest = int(np.argmax(gaps))
    if gaps[widest] <= 2 * _BOX_MARGIN:
        return -180.0, south, 180.0, north
    # The box is what the widest stretch without outline leaves.
    west = around[(widest + 1) % around.size] - _BOX_MARGIN
    east = around[widest] + _BOX_MARGIN
    return _wrap(west), south, _wrap(east), north


def _wrap(longitude: float) -> float:
    return float((longitude + 180.0) % 360.0 - 180.0)
