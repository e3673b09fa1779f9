"""Blocks of grid cells that share a mascon: their outlines and the cells they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from cryofuse.geo import box_polygon
from cryofuse.mascons.solutions import cell_edges

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry


def degree_box(west: float, south: float, east: float, north: float) -> BaseGeometry:
    """Return a box of degrees with longitudes in −180 … 180, cut in two at the antimeridian.

    Parameters
    ----------
    west, south, east, north
        Edges (degrees; any longitude convention, ``east`` > ``west`` or over the antimeridian).
    """
    width = east - west if east > west else east - west + 360
    if width >= 360:
        return box_polygon(-180.0, south, 180.0, north)
    # Centre and span of a cell give its edges but for the last bits; a sliver is no box.
    west = round((west + 180.0) % 360.0, 9) % 360.0 - 180.0
    east = round(west + width, 9)
    if east <= 180:
        return box_polygon(west, south, east, north)
    return shapely.MultiPolygon(
        [box_polygon(west, south, 180.0, north), box_polygon(-180.0, south, east - 360.0, north)]
    )


def grid_box(latitude: np.ndarray, longitude: np.ndarray) -> BaseGeometry:
    """Return the box that the cells of a grid cover (degrees, ascending longitudes)."""
    lat, lon = cell_edges(latitude), cell_edges(longitude)
    low, high = max(float(lat.min()), -90.0), min(float(lat.max()), 90.0)
    return degree_box(float(lon[0]), low, float(lon[-1]), high)


def block_geometry(
    rows: np.ndarray, columns: np.ndarray, latitude: np.ndarray, longitude: np.ndarray
) -> BaseGeometry:
    """Return the outline of a block of grid cells (longitude/latitude).

    A full rectangle of cells, also one that runs over the ends of a global grid, becomes one
    box; any other block the union of its cells' boxes.

    Parameters
    ----------
    rows, columns
        Indices of the block's cells in the grid.
    latitude, longitude
        Centres of the grid's rows and columns (degrees, evenly spaced).
    """
    lat, lon = cell_edges(latitude), cell_edges(longitude)
    step = abs(lon[1] - lon[0])
    used = np.unique(columns)
    start = used[0]
    if round(longitude.size * step, 6) >= 360 and used.size < longitude.size:
        # A block over the ends of a global grid starts east of the widest gap.
        gaps = np.diff(np.concatenate([used, [used[0] + longitude.size]]))
        start = used[(int(np.argmax(gaps)) + 1) % used.size]
    span = int(((used - start) % longitude.size).max() + 1)
    heights = np.unique(rows)
    tall = int(heights[-1] - heights[0] + 1)
    low = min(lat[heights[0]], lat[heights[-1] + 1])
    high = max(lat[heights[0]], lat[heights[-1] + 1])
    if span * tall == rows.size:
        west = lon[start]
        return degree_box(west, max(low, -90.0), west + span * step, min(high, 90.0))
    boxes = []
    for row in heights:
        held = np.sort((columns[rows == row] - start) % longitude.size)
        for run in np.split(held, np.flatnonzero(np.diff(held) > 1) + 1):
            west = lon[start] + run[0] * step
            edges = lat[row], lat[row + 1]
            boxes.append(degree_box(west, min(edges), west + run.size * step, max(edges)))
    return shapely.union_all(boxes)
