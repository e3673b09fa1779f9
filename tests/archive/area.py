"""Which footprints touch an area, on the sphere: edges of polygons are great circles, as at CMR."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from typing_extensions import TypeIs

#: Corners of a closed ring: longitude, latitude (degrees).
Ring = Sequence[tuple[float, float]]
#: West, south, east, north (degrees); west > east over ±180°.
Box = tuple[float, float, float, float]

#: Boxes are cut into pieces of at most this size (degrees), and their edges at every degree.
_PIECE = 60.0
#: Cosine of the angle from a projection's centre beyond which points are left out.
_HORIZON = 0.05


def touches(footprint: Ring | Box, area: Ring | Box) -> bool:
    """Say whether a footprint and an area have a point in common."""
    if _is_box(footprint) and _is_box(area):
        return _boxes_touch(footprint, area)
    if _is_box(area):
        return not _is_box(footprint) and _ring_touches_box(footprint, area)
    if _is_box(footprint):
        return _ring_touches_box(area, footprint)
    return _rings_touch(footprint, area)


def _ring_touches_box(ring: Ring, box: Box) -> bool:
    return _is_globe(box) or any(_rings_touch(ring, piece) for piece in _box_pieces(box))


def _is_box(shape: Ring | Box) -> TypeIs[Box]:
    return len(shape) == 4 and all(np.isscalar(value) for value in shape)


def _is_globe(box: Box) -> bool:
    west, south, east, north = box
    return east - west >= 360 and south <= -90 and north >= 90


def _spans(box: Box) -> list[tuple[float, float]]:
    west, _, east, _ = box
    return [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]


def _boxes_touch(one: Box, other: Box) -> bool:
    if max(one[1], other[1]) > min(one[3], other[3]):
        return False
    return any(max(a[0], b[0]) <= min(a[1], b[1]) for a in _spans(one) for b in _spans(other))


def _box_pieces(box: Box) -> list[Ring]:
    """Return a box as rings small enough for one projection each."""
    _, south, _, north = box
    rows = _cuts(south, north, _PIECE)
    pieces: list[Ring] = []
    for west, east in _spans(box):
        columns = _cuts(west, east, _PIECE)
        for left, right in zip(columns[:-1], columns[1:], strict=True):
            across = _cuts(left, right, 1.0)
            for bottom, top in zip(rows[:-1], rows[1:], strict=True):
                pieces.append([(x, bottom) for x in across] + [(x, top) for x in reversed(across)])
    return pieces


def _cuts(first: float, last: float, step: float) -> list[float]:
    return np.linspace(first, last, max(int(np.ceil((last - first) / step)), 1) + 1).tolist()


def _vectors(ring: Ring) -> np.ndarray:
    longitude, latitude = np.radians(np.asarray(ring, dtype=float)).T
    return np.column_stack(
        [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.sin(latitude),
        ]
    )


def _rings_touch(one: Ring, other: Ring) -> bool:
    """Compare two rings in the gnomonic projection about the second, where edges are straight."""
    vectors = _vectors(other)
    centre = vectors.mean(axis=0)
    centre /= np.linalg.norm(centre)
    helper = np.eye(3)[np.argmin(np.abs(centre))]
    east = np.cross(helper, centre)
    east /= np.linalg.norm(east)
    north = np.cross(centre, east)

    def projected(points: np.ndarray) -> shapely.Geometry | None:
        depth = points @ centre
        points, depth = points[depth > _HORIZON], depth[depth > _HORIZON]
        if len(points) < 3:
            return None
        flat = np.column_stack([points @ east, points @ north]) / depth[:, None]
        return shapely.make_valid(shapely.polygons(flat))

    shapes = projected(_vectors(one)), projected(vectors)
    return None not in shapes and bool(shapely.intersects(*shapes))
