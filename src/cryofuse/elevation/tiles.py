"""Tiles: the node grid of a tile, the segments it needs, and its three tables.

Nodes stand at the centres of a regular grid (multiples of the spacing plus half of it) that
runs over all tiles. Inside a window the coarse nodes give way to the window's own finer grid;
a window may cross tiles, each of which takes the nodes that lie in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from cryofuse.calendar import month_range
from cryofuse.compute import Run, run_serially
from cryofuse.elevation.anomalies import NodeResult, fit_months
from cryofuse.elevation.checks import CROSSING_REACH_M, TrackSegments, check_block
from cryofuse.elevation.scatter import scatter_segments
from cryofuse.elevation.surface import Segments, sort_segments
from cryofuse.geo import Tile, in_window, scale_factor, tile_bounds, unproject, window_bounds
from cryofuse.rasters import load_ice, sample_raster
from cryofuse.tables import CHECK_PAIRS, NODES

if TYPE_CHECKING:
    from os import PathLike

    from cryofuse.config import ElevationSettings, FusionSettings, PeriodSettings, RegionSettings

#: Horizontal geolocation error of a segment (m): 2.5–4.4 m by beam (mean + 1σ), Luthcke et al.
#: 2021, Earth and Space Science 8, doi:10.1029/2020EA001494; rounded up.
GEOLOCATION_SIGMA_M = 5.0
#: σ below which h_li_sigma is not believed (m): the segments' repeatability on flat ice.
SIGMA_FLOOR_M = 0.02
#: σ of a segment without h_li_sigma (m): the largest that the default filters let through.
UNKNOWN_SIGMA_M = 1.0
#: Node numbers: window in the high bits, then column and row of its grid, each shifted to be
#: positive and 24 bits wide.
_INDEX_BITS = 24
_INDEX_SHIFT = 1 << (_INDEX_BITS - 1)


@dataclass(frozen=True)
class Nodes:
    """Nodes of a tile: positions and search radii (m), spacing (m), window (−1: none)."""

    node_id: np.ndarray
    x_m: np.ndarray
    y_m: np.ndarray
    radius_m: np.ndarray
    spacing_m: np.ndarray
    window: np.ndarray

    def take(self, rows: np.ndarray) -> Nodes:
        """Return some of the nodes, given as a mask or as positions."""
        return Nodes(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def node_ids(column: np.ndarray, row: np.ndarray, window: np.ndarray | int) -> np.ndarray:
    """Return 64-bit node numbers from the indices of a node in its grid; window −1 is the coarse.

    Raises
    ------
    ValueError
        If the grid has more than 2²³ columns or rows on either side of the origin.
    """
    for index in (column, row):
        if index.size and np.abs(index).max() >= _INDEX_SHIFT:
            raise ValueError("elevation: node_spacing_m is too small to number the nodes")
    number = (np.asarray(window, dtype=np.int64) + 1) << (2 * _INDEX_BITS)
    return np.asarray(
        number
        | ((column.astype(np.int64) + _INDEX_SHIFT) << _INDEX_BITS)
        | (row.astype(np.int64) + _INDEX_SHIFT)
    )


def _grid(
    box: tuple[float, float, float, float], tile: Tile, spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return columns and rows of the grid whose centres lie in a box and a tile (half open)."""
    low = (max(box[0], tile.x_min), max(box[1], tile.y_min))
    high = (min(box[2], tile.x_max), min(box[3], tile.y_max))
    ranges = [
        np.arange(np.ceil(a / spacing - 0.5), np.ceil(b / spacing - 0.5), dtype=np.int64)
        for a, b in zip(low, high, strict=True)
    ]
    columns, rows = np.meshgrid(ranges[0], ranges[1], indexing="xy")
    return columns.ravel(), rows.ravel()


def node_grid(tile: str, settings: ElevationSettings, region: RegionSettings) -> Nodes:
    """Return the nodes of a tile whose centre lies on the region's ice.

    Parameters
    ----------
    tile
        Name of the tile.
    settings
        Node spacing, windows and tile size.
    region
        CRS and ice.
    """
    square = tile_bounds(tile, settings.tile_m)
    whole = (square.x_min, square.y_min, square.x_max, square.y_max)
    grids = [(-1, whole, settings.node_spacing_m, settings.search_radius_m)]
    grids += [
        (number, window_bounds(window, region.crs), window.node_spacing_m, window.search_radius_m)
        for number, window in enumerate(settings.windows)
    ]
    parts = []
    for number, box, spacing, radius in grids:
        column, row = _grid(box, square, spacing)
        x, y = (column + 0.5) * spacing, (row + 0.5) * spacing
        mine = in_window(x, y, settings, region.crs) == number
        parts.append(
            Nodes(
                node_ids(column[mine], row[mine], number),
                x[mine],
                y[mine],
                np.full(int(mine.sum()), radius, dtype=np.float64),
                np.full(int(mine.sum()), spacing, dtype=np.float64),
                np.full(int(mine.sum()), number, dtype=np.int64),
            )
        )
    joined = Nodes(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in Nodes.__dataclass_fields__
        )
    )
    if not joined.x_m.size:
        return joined
    return joined.take(load_ice(region).contains(joined.x_m, joined.y_m))


def segment_sigma(height_sigma_m: np.ndarray, slope_along: np.ndarray) -> np.ndarray:
    """Return σ of segment heights (m): h_li_sigma ⊕ slope × geolocation error ⊕ a floor.

    Parameters
    ----------
    height_sigma_m
        h_li_sigma (m); NaN counts as 1 m.
    slope_along
        dh_fit_dx (m/m); NaN counts as flat.
    """
    own = np.where(np.isfinite(height_sigma_m), height_sigma_m, UNKNOWN_SIGMA_M)
    tilt = np.where(np.isfinite(slope_along), slope_along, 0.0) * GEOLOCATION_SIGMA_M
    return np.sqrt(own.astype(np.float64) ** 2 + tilt.astype(np.float64) ** 2 + SIGMA_FLOOR_M**2)


@dataclass
class TileResult(NodeResult):
    """What :func:`fit_months` gives for a tile, and the pairs that check it."""

    checks: pa.Table


def sort_records(records: np.ndarray) -> Segments:
    """Return scattered segments (type ``RECORD``) ready for the fits, σ with what adds to it."""
    return sort_segments(
        records["x_m"],
        records["y_m"],
        records["time"],
        records["height_m"],
        segment_sigma(records["height_sigma_m"], records["slope_along"]),
        records["rgt"].astype(np.int32) * 1000 + records["cycle"],
    )


def track_segments(records: np.ndarray) -> TrackSegments:
    """Return scattered segments (type ``RECORD``) ready for the checks, those with a height."""
    records = records[np.isfinite(records["height_m"])]
    sigma = segment_sigma(records["height_sigma_m"], records["slope_along"])
    columns = {
        name: np.ascontiguousarray(records[name])
        for name in TrackSegments.__dataclass_fields__
        if name != "sigma_m"
    }
    return TrackSegments(**columns, sigma_m=sigma)


@dataclass(frozen=True)
class _Square:
    """A square's segments (type ``RECORD``) and nodes, by value: workers need not share a disk."""

    name: str
    records: np.ndarray
    nodes: Nodes


def fit_tile(
    paths: Iterable[str | PathLike[str]],
    tile: str,
    region: RegionSettings,
    settings: ElevationSettings,
    fusion: FusionSettings,
    period: PeriodSettings,
    run: Run = run_serially,
) -> TileResult:
    """Fit every node of a tile, retrospectively and causally, and check the fits.

    Work goes square by square: memory holds the segments of those under way. Nodes come in the
    order of the squares, each with the segments that it would have in the whole tile.

    Parameters
    ----------
    paths
        Tables of filtered segments of all periods.
    tile
        Name of the tile.
    region, settings, fusion, period
        Configuration; of fusion, the shortest past of a causal vintage is used.
    run
        Who fits the squares; the result does not depend on it.

    Returns
    -------
    TileResult
        The NODES table as ``fits``, NODE_MONTHS as ``months``, NODE_MONTHS_CAUSAL as ``causal``
        and CHECK_PAIRS as ``checks``.
    """
    nodes = node_grid(tile, settings, region)
    months = month_range(period.start, period.end)
    margin_m = max(settings.margin_m, settings.checks.max_separation_m, CROSSING_REACH_M)
    checks = [CHECK_PAIRS.empty()]
    with TemporaryDirectory(prefix="tile-") as folder:
        scattered = scatter_segments(
            paths if nodes.x_m.size else [], tile, settings.tile_m, margin_m, folder
        )
        square = scattered.squares.number(nodes.x_m, nodes.y_m)
        order = np.argsort(square, kind="stable")
        nodes, square = nodes.take(order), square[order]

        def squares() -> Iterator[_Square]:
            for number in np.unique(square).tolist() or [0]:
                mine = nodes.take(np.flatnonzero(square == number))
                yield _Square(f"{tile}, square {number}", scattered.read(number), mine)

        fit = partial(
            _fit_square,
            settings=settings,
            months=months,
            causal_min_years=fusion.causal_min_years,
        )
        parts = list(run(fit, squares()))
        fits = pd.concat([part.fits for part in parts], ignore_index=True)
        # The nearest node may be the next square's, so that checks come after all fits.
        placed = fits.assign(x_m=nodes.x_m, y_m=nodes.y_m)
        for number in sorted(scattered.extents):
            records, box = scattered.read(number), scattered.squares.box(number)
            checks.append(
                check_block(track_segments(records), placed, box, settings, settings.checks.seed)
            )
    return TileResult(
        _describe(fits, nodes, tile, settings, region),
        pa.concat_tables([part.months for part in parts]),
        slopes_on_ground(pa.concat_tables([part.causal for part in parts]), nodes, region.crs),
        pa.concat_tables(checks),
    )


def _fit_square(
    square: _Square, settings: ElevationSettings, months: np.ndarray, causal_min_years: float
) -> NodeResult:
    """Fit the nodes of one square."""
    nodes = square.nodes
    return fit_months(
        sort_records(square.records),
        nodes.x_m,
        nodes.y_m,
        nodes.radius_m,
        settings,
        months,
        node_id=nodes.node_id,
        causal_min_years=causal_min_years,
    )


def slopes_on_ground(causal: pa.Table, nodes: Nodes, crs: str) -> pa.Table:
    """Return causal node months whose slope is per metre of ground, not of the projection."""
    if not causal.num_rows:
        return causal
    order = np.argsort(nodes.node_id)
    place = np.searchsorted(nodes.node_id, causal["node_id"].to_numpy(), sorter=order)
    rows = order[place]
    slope = causal["slope"].to_numpy() / np.sqrt(scale_factor(nodes.x_m, nodes.y_m, crs))[rows]
    number = causal.schema.get_field_index("slope")
    return causal.set_column(number, causal.schema.field(number), pa.array(slope, pa.float32()))


def _describe(
    fits: pd.DataFrame, nodes: Nodes, tile: str, settings: ElevationSettings, region: RegionSettings
) -> pd.DataFrame:
    """Return fits with what is known of each node besides."""
    longitude, latitude = unproject(nodes.x_m, nodes.y_m, region.crs)
    factor = scale_factor(nodes.x_m, nodes.y_m, region.crs) if nodes.x_m.size else np.zeros(0)
    names = np.array([*(window.name for window in settings.windows), None], dtype=object)
    extra = {
        "node_id": nodes.node_id,
        "tile": tile,
        "window": pd.Series(names[nodes.window], dtype="str"),
        "spacing_m": nodes.spacing_m,
        "x_m": nodes.x_m,
        "y_m": nodes.y_m,
        "latitude": latitude,
        "longitude": longitude,
        "area_km2": nodes.spacing_m**2 * factor / 1e6,
    }
    for name, source in (("bed_m", region.bed), ("speed_m_yr", region.velocity)):
        extra[name] = (
            sample_raster(source, nodes.x_m, nodes.y_m, region.crs)
            if source is not None and nodes.x_m.size
            else np.full(nodes.x_m.size, np.nan)
        )
    # A metre of the projection is not a metre of ground away from its standard parallel.
    slope = fits["slope"] / np.sqrt(factor)
    table = pd.DataFrame(extra, index=fits.index).join(fits.assign(slope=slope))
    return table[list(NODES.columns)]
