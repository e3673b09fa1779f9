"""Segments of a tile put aside square by square, so that memory holds one square at a time.

At the default density a tile of 100 km holds 15 million segments in seven years, next to the
pole ten times as many. They are read once, file by file, and scattered on disk into squares,
each with the margin that its nodes reach into.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cryofuse.altimetry import beam_labels
from cryofuse.atl06.tiles import Box, RowGroup, grow, in_box, list_row_groups
from cryofuse.geo import tile_bounds

#: Segments that a square holds on average, its margin apart.
SQUARE_ROWS = 500_000
#: Segments held before they are scattered.
BATCH_ROWS = 1_000_000
#: Columns of the segments that fits and checks need.
COLUMNS = (
    "x_m", "y_m", "time", "height_m", "height_sigma_m", "slope_along", "rgt", "cycle", "beam",
    "segment_id",
)  # fmt: skip
RECORD = np.dtype(
    [
        ("x_m", "f8"),
        ("y_m", "f8"),
        ("time", "M8[us]"),
        ("height_m", "f8"),
        ("height_sigma_m", "f4"),
        ("slope_along", "f4"),
        ("segment_id", "i4"),
        ("rgt", "i2"),
        ("cycle", "i2"),
        ("beam", "i1"),
    ],
    align=True,
)


@dataclass(frozen=True)
class Squares:
    """The squares of a tile: its corner, their side and how far beyond it they reach (m)."""

    x_min: float
    y_min: float
    side_m: float
    count: int
    margin_m: float

    def box(self, number: int) -> Box:
        """Return the bounds of a square (m), without its margin."""
        row, column = divmod(number, self.count)
        x_min, y_min = self.x_min + column * self.side_m, self.y_min + row * self.side_m
        return x_min, y_min, x_min + self.side_m, y_min + self.side_m

    def number(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """Return the number of the square that holds each point (row × count + column)."""
        column = np.floor((x_m - self.x_min) / self.side_m).astype(np.int64)
        row = np.floor((y_m - self.y_min) / self.side_m).astype(np.int64)
        return np.clip(row, 0, self.count - 1) * self.count + np.clip(column, 0, self.count - 1)

    def spread(self, x_m: np.ndarray, y_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and the numbers of the squares that need them: one row for up to four."""
        lows: list[np.ndarray] = []
        highs: list[np.ndarray] = []
        for position, origin in ((x_m, self.x_min), (y_m, self.y_min)):
            for sign, into in ((-1, lows), (1, highs)):
                place = np.floor((position + sign * self.margin_m - origin) / self.side_m)
                into.append(place.astype(np.int64))
        near = np.ones(x_m.size, bool)
        for low, high in zip(lows, highs, strict=True):
            near &= (high >= 0) & (low < self.count)
            # Beyond the tile there is no square: a margin may reach across all of it.
            np.maximum(low, 0, out=low)
            np.minimum(high, self.count - 1, out=high)
        rows, numbers = [], []
        wide, tall = highs[0] > lows[0], highs[1] > lows[1]
        for column, row, chosen in (
            (lows[0], lows[1], near),
            (highs[0], lows[1], near & wide),
            (lows[0], highs[1], near & tall),
            (highs[0], highs[1], near & wide & tall),
        ):
            rows.append(np.flatnonzero(chosen))
            numbers.append(row[chosen] * self.count + column[chosen])
        return np.concatenate(rows), np.concatenate(numbers)


def cut_squares(tile: str, tile_m: float, margin_m: float, segments: int) -> Squares:
    """Return the squares of a tile: halved until one holds ``SQUARE_ROWS`` on average.

    Parameters
    ----------
    tile
        Name of the tile.
    tile_m
        Side of the tile (m).
    margin_m
        How far outside a square segments are needed (m); a tile is never cut into squares less
        than twice as wide.
    segments
        Number of segments in the tile.
    """
    # A metre more than asked for: rounding loses no segment on the border.
    margin_m += 1.0
    count = 1
    while segments > SQUARE_ROWS * count**2 and tile_m / (2 * count) >= 2 * margin_m:
        count *= 2
    bounds = tile_bounds(tile, tile_m)
    return Squares(bounds.x_min, bounds.y_min, tile_m / count, count, margin_m)


@dataclass
class Scattered:
    """Segments on disk, square by square."""

    path: Path
    squares: Squares
    extents: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    rows: int = 0

    def add(self, records: np.ndarray) -> None:
        """Append segments of type ``RECORD`` to the squares that need them."""
        rows, numbers = self.squares.spread(records["x_m"], records["y_m"])
        squares = self.squares.count**2
        # Up to 16 bits a stable sort is a radix sort.
        order = np.argsort(
            numbers.astype(np.uint16) if squares <= 2**16 else numbers, kind="stable"
        )
        with self.path.open("ab") as stream:
            records[rows[order]].tofile(stream)
        counts = np.bincount(numbers, minlength=squares)
        starts = self.rows + np.cumsum(counts) - counts
        for number in np.flatnonzero(counts).tolist():
            extent = (int(starts[number]), int(counts[number]))
            self.extents.setdefault(number, []).append(extent)
        self.rows += numbers.size

    def read(self, number: int) -> np.ndarray:
        """Return the segments of a square and its margin, in the order of the files."""
        parts = [
            np.fromfile(self.path, RECORD, count, offset=start * RECORD.itemsize)
            for start, count in self.extents.get(number, [])
        ]
        return np.concatenate(parts) if parts else np.empty(0, RECORD)


def scatter_segments(
    paths: Iterable[str | PathLike[str]],
    tile: str,
    tile_m: float,
    margin_m: float,
    folder: str | PathLike[str],
) -> Scattered:
    """Scatter the segments of a tile and its margin from the row groups that can hold them.

    Parameters
    ----------
    paths
        Tables of filtered segments, as :func:`cryofuse.atl06.tiles.write_by_tile` writes them.
    tile
        Name of the tile.
    tile_m
        Side of a tile (m).
    margin_m
        How far outside the tile segments are needed (m).
    folder
        Where the segments are put aside.
    """
    bounds = tile_bounds(tile, tile_m)
    box = grow((bounds.x_min, bounds.y_min, bounds.x_max, bounds.y_max), margin_m)
    near: list[tuple[str | PathLike[str], list[RowGroup]]] = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            near.append((path, [group for group in list_row_groups(file) if group.touches(box)]))
    total = sum(group.rows for _, groups in near for group in groups if group.tile == tile)
    scattered = Scattered(
        Path(folder) / f"{tile}.segments", cut_squares(tile, tile_m, margin_m, total)
    )
    waiting: list[np.ndarray] = []
    for path, groups in near:
        with pq.ParquetFile(path) as file:
            for group in groups:
                table = file.read_row_group(group.number, columns=list(COLUMNS))
                waiting.append(_inside(_records(table), box))
                if sum(records.size for records in waiting) >= BATCH_ROWS:
                    scattered.add(np.concatenate(waiting))
                    waiting = []
    if waiting:
        scattered.add(np.concatenate(waiting))
    return scattered


def _inside(records: np.ndarray, box: Box) -> np.ndarray:
    """Return the segments in a box (edges included)."""
    inside = in_box(records["x_m"], records["y_m"], box)
    return records if inside.all() else records[inside]


def _records(table: pa.Table) -> np.ndarray:
    """Return a table of segments as an array of type ``RECORD``; missing σ and slopes are NaN."""
    records = np.empty(table.num_rows, RECORD)
    beams = beam_labels()
    for name in COLUMNS:
        if name == "beam":
            label = table[name].combine_chunks()
            code = np.array([beams.index(text) for text in label.dictionary.to_pylist()], np.int8)
            records[name] = code[label.indices.to_numpy()]
        else:
            records[name] = table[name].to_numpy()
    return records
