"""Segments by tile: the tile of a point, and files that hold each tile's rows apart.

A tile has one row group for its interior and one for its edge, so that a neighbour that needs a
margin reads the edge alone; a tile with very many rows has such a pair for each run of granules.
Which row groups a job needs is told by their ranges of position and of granules.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cryofuse.tables import SEGMENTS, table_writer

#: Rows held in memory before they are put aside on disk (about 100 MB).
BATCH_ROWS = 1_000_000
#: Rows of a tile from which on the next granules get row groups of their own.
GROUP_ROWS = 500_000
#: Width of a tile's edge as a share of its side: 2 km of 100 km, the search radius and more.
EDGE_SHARE = 0.02

#: x_min, y_min, x_max, y_max (m).
Box = tuple[float, float, float, float]


def grow(box: Box, by_m: float) -> Box:
    """Return a box that reaches so much further to every side."""
    return box[0] - by_m, box[1] - by_m, box[2] + by_m, box[3] + by_m


def in_box(x_m: np.ndarray, y_m: np.ndarray, box: Box) -> np.ndarray:
    """Return whether points lie in a box, its edges included."""
    return (x_m >= box[0]) & (x_m <= box[2]) & (y_m >= box[1]) & (y_m <= box[3])


def tile_codes(x_m: np.ndarray, y_m: np.ndarray, tile_m: float) -> tuple[np.ndarray, list[str]]:
    """Return each point's tile as an index into a list of tile names.

    Points along a track stay long in a tile, so names are made for runs, not for points.
    """
    column = np.floor_divide(x_m, tile_m).astype(np.int64)
    row = np.floor_divide(y_m, tile_m).astype(np.int64)
    change = np.flatnonzero((np.diff(column) != 0) | (np.diff(row) != 0)) + 1
    starts = np.concatenate([[0], change]) if x_m.size else np.empty(0, np.int64)
    lengths = np.diff(np.concatenate([starts, [x_m.size]]))
    names = [f"x{i}_y{j}" for i, j in zip(column[starts], row[starts], strict=True)]
    distinct = list(dict.fromkeys(names))
    number = {name: code for code, name in enumerate(distinct)}
    codes = np.array([number[name] for name in names], np.int32)
    return np.repeat(codes, lengths), distinct


@dataclass(frozen=True)
class _Sorted:
    """A table sorted by tile, interior before edge, and the rows of each."""

    table: pa.Table
    parts: dict[tuple[str, bool], slice]

    def rows(self, part: tuple[str, bool]) -> pa.Table:
        """Return the rows of a tile's interior or edge, without copying them."""
        rows = self.parts[part]
        return self.table.slice(rows.start, rows.stop - rows.start)


@dataclass(frozen=True)
class _Aside:
    """A sorted table on disk, a record batch for each tile's interior and edge."""

    reader: pa.ipc.RecordBatchFileReader
    parts: dict[tuple[str, bool], int]

    def rows(self, part: tuple[str, bool]) -> pa.Table:
        """Read the rows of a tile's interior or edge."""
        return pa.Table.from_batches([self.reader.get_batch(self.parts[part])])


def sort_by_tile(table: pa.Table, tile_m: float) -> tuple[pa.Table, dict[tuple[str, bool], slice]]:
    """Return segments sorted by tile name and by interior and edge, otherwise in their order.

    Parameters
    ----------
    table
        With a dictionary column ``tile`` and positions.
    tile_m
        Side of a tile (m).

    Returns
    -------
    pyarrow.Table, dict of slice
        The sorted table, and in it, in order, the rows of each (tile, whether its edge).
    """
    table = table.unify_dictionaries().combine_chunks()
    if table.num_rows == 0:
        return table, {}
    tile = table["tile"].combine_chunks()
    names = np.array(tile.dictionary.to_pylist(), dtype=str)
    rank = np.empty(names.size, np.int32)
    rank[np.argsort(names)] = np.arange(names.size)
    key = 2 * rank[tile.indices.to_numpy()]
    key += _on_edge(table["x_m"].to_numpy(), table["y_m"].to_numpy(), tile_m)
    # Up to 16 bits a stable sort is a radix sort.
    order = np.argsort(key.astype(np.int16) if names.size < 2**14 else key, kind="stable")
    ends = np.cumsum(np.bincount(key, minlength=2 * names.size))
    parts = {
        (str(name), edge): slice(int(start), int(end))
        for (name, edge), start, end in zip(
            [(name, edge) for name in np.sort(names) for edge in (False, True)],
            [0, *ends[:-1]],
            ends,
            strict=True,
        )
        if end > start
    }
    if (np.diff(order) < 0).any():
        table = table.take(order)
    return table, parts


def _on_edge(x_m: np.ndarray, y_m: np.ndarray, tile_m: float) -> np.ndarray:
    """Return whether points lie nearer to their tile's border than the edge is wide."""
    edge = np.zeros(x_m.size, bool)
    for position in (x_m, y_m):
        within = position / tile_m
        within = within - np.floor(within)
        edge |= np.abs(within - 0.5) > 0.5 - EDGE_SHARE
    return edge


def write_by_tile(
    tables: Iterable[pa.Table],
    path: str | os.PathLike[str],
    tile_m: float,
    provenance: dict[str, Any] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> None:
    """Write segments sorted by tile, a row group for its interior and one for its edge.

    Within these rows keep the order in which they come. More rows than ``batch_rows`` are put
    aside in temporary files and merged tile by tile, so that memory is bounded; from
    ``GROUP_ROWS`` rows of a tile on, what was put aside later gets row groups of its own.

    Parameters
    ----------
    tables
        Segments of contract SEGMENTS, granule after granule in order of names.
    path
        Parquet file; without any row it holds the empty table.
    tile_m
        Side of a tile (m).
    provenance
        Plain values for the file's metadata.
    batch_rows
        Rows held in memory before they are put aside.
    """
    with tempfile.TemporaryDirectory(prefix="segments-") as folder:
        batches: list[_Sorted | _Aside] = []
        waiting: list[pa.Table] = []
        rows = 0
        for table in tables:
            waiting.append(table)
            rows += table.num_rows
            if rows >= batch_rows:
                batches.append(_set_aside(waiting, tile_m, Path(folder) / f"{len(batches)}.arrow"))
                waiting, rows = [], 0
        if waiting:
            batches.append(_Sorted(*sort_by_tile(pa.concat_tables(waiting), tile_m)))
            waiting = []
        with table_writer(path, SEGMENTS, provenance) as write_part:
            for tile in sorted({tile for batch in batches for tile, _ in batch.parts}):
                _write_tile(tile, batches, write_part)


def _write_tile(
    tile: str, batches: list[_Sorted | _Aside], write_part: Callable[[pa.Table], None]
) -> None:
    """Write the rows of a tile, of as many batches at a time as ``GROUP_ROWS`` allows."""
    pieces: dict[bool, list[pa.Table]] = {False: [], True: []}
    rows = 0
    for number, batch in enumerate(batches, 1):
        for edge, found in pieces.items():
            if (tile, edge) in batch.parts:
                found.append(batch.rows((tile, edge)))
                rows += found[-1].num_rows
        if rows >= GROUP_ROWS or number == len(batches):
            for found in pieces.values():
                if found:
                    write_part(pa.concat_tables(found).unify_dictionaries())
                found.clear()
            rows = 0


def write_whole_tiles(
    tables: Iterable[pa.Table],
    path: str | os.PathLike[str],
    tile_m: float,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Write segments that come tile by tile as :func:`write_by_tile` would, as they come.

    Parameters
    ----------
    tables
        Segments of contract SEGMENTS in order of tiles; none has a part of another's granule in
        a tile.
    path, tile_m, provenance
        As for :func:`write_by_tile`.
    """
    with table_writer(path, SEGMENTS, provenance) as write_part:
        for table in tables:
            batch = _Sorted(*sort_by_tile(table, tile_m))
            for part in batch.parts:
                write_part(batch.rows(part))


def _set_aside(waiting: list[pa.Table], tile_m: float, path: Path) -> _Aside:
    """Sort tables by tile, write them to a file, and return what reads them from there."""
    batch = _Sorted(*sort_by_tile(pa.concat_tables(waiting), tile_m))
    with pa.ipc.new_file(path, batch.table.schema) as writer:
        for part in batch.parts:
            writer.write_table(batch.rows(part).combine_chunks())
    # Not mapped: pages of mapped files would count as memory of the job.
    numbers = {part: number for number, part in enumerate(batch.parts)}
    return _Aside(pa.ipc.open_file(pa.OSFile(str(path))), numbers)


@dataclass(frozen=True)
class RowGroup:
    """One row group of a file of segments: number, tile, rows, granules, and box of positions."""

    number: int
    tile: str
    rows: int
    granules: tuple[str, str]
    box: Box

    def touches(self, box: Box) -> bool:
        """Return whether the row group can hold points of a box."""
        return (
            self.box[0] <= box[2]
            and self.box[2] >= box[0]
            and self.box[1] <= box[3]
            and self.box[3] >= box[1]
        )


def list_row_groups(file: pq.ParquetFile) -> list[RowGroup]:
    """Return the row groups of a file that :func:`write_by_tile` wrote, in order."""
    metadata = file.metadata
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    places = [names.index(name) for name in ("tile", "granule", "x_m", "y_m")]
    found = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if group.num_rows == 0:
            continue
        tile, granule, x_m, y_m = (group.column(place).statistics for place in places)
        box = (x_m.min, y_m.min, x_m.max, y_m.max)
        granules = (granule.min, granule.max)
        found.append(RowGroup(number, tile.min, group.num_rows, granules, box))
    return found
