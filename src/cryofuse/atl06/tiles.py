"""Segments by tile: the tile of a point, and files with one row group for each tile."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cryofuse.tables import SEGMENTS, table_writer

#: Rows held in memory before they are put aside on disk (about 300 MB).
BATCH_ROWS = 2_000_000


def tile_codes(x_m: np.ndarray, y_m: np.ndarray, tile_m: float) -> tuple[np.ndarray, list[str]]:
    """Return each point's tile as an index into a list of tile names.

    Points along a track stay long in a tile, so names are made for runs, not for points.
    """
    column = np.floor(x_m / tile_m).astype(np.int64)
    row = np.floor(y_m / tile_m).astype(np.int64)
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
    """A table sorted by tile, and the rows of each tile."""

    table: pa.Table
    tiles: dict[str, slice]

    def rows(self, tile: str) -> pa.Table:
        """Return a tile's rows, without copying them."""
        part = self.tiles.get(tile, slice(0, 0))
        return self.table.slice(part.start, part.stop - part.start)


def sort_by_tile(table: pa.Table) -> tuple[pa.Table, dict[str, slice]]:
    """Return segments sorted by tile name, otherwise in their order, and each tile's rows.

    Parameters
    ----------
    table
        With a dictionary column ``tile``.

    Returns
    -------
    pyarrow.Table, dict of slice
        The sorted table, and the rows of each tile in it, in order.
    """
    table = table.unify_dictionaries().combine_chunks()
    if table.num_rows == 0:
        return table, {}
    tile = table["tile"].combine_chunks()
    names = np.array(tile.dictionary.to_pylist(), dtype=str)
    rank = np.empty(names.size, np.int32)
    rank[np.argsort(names)] = np.arange(names.size)
    key = rank[tile.indices.to_numpy()]
    # Up to 16 bits a stable sort is a radix sort.
    order = np.argsort(key.astype(np.int16) if names.size < 2**15 else key, kind="stable")
    ends = np.cumsum(np.bincount(key, minlength=names.size))
    tiles = {
        str(name): slice(int(start), int(end))
        for name, start, end in zip(np.sort(names), [0, *ends[:-1]], ends, strict=True)
        if end > start
    }
    if (np.diff(order) < 0).any():
        table = table.take(order)
    return table, tiles


def write_by_tile(
    tables: Iterable[pa.Table],
    path: str | os.PathLike[str],
    provenance: dict[str, Any] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> None:
    """Write segments sorted by tile, a row group for each tile, in memory that is bounded.

    Within a tile rows keep the order in which they come. More rows than ``batch_rows`` are put
    aside in temporary files and merged tile by tile.

    Parameters
    ----------
    tables
        Segments of contract SEGMENTS, in any number of parts.
    path
        Parquet file; without any row it holds the empty table.
    provenance
        Plain values for the file's metadata.
    batch_rows
        Rows held in memory before they are put aside.
    """
    with tempfile.TemporaryDirectory(prefix="segments-") as folder:
        batches: list[_Sorted] = []
        waiting: list[pa.Table] = []
        for table in tables:
            waiting.append(table)
            if sum(part.num_rows for part in waiting) >= batch_rows:
                batches.append(_set_aside(waiting, Path(folder) / f"{len(batches)}.arrow"))
                waiting = []
        if waiting:
            batches.append(_Sorted(*sort_by_tile(pa.concat_tables(waiting))))
        with table_writer(path, SEGMENTS, provenance) as write_part:
            for tile in sorted({name for batch in batches for name in batch.tiles}):
                parts = [batch.rows(tile) for batch in batches if tile in batch.tiles]
                write_part(pa.concat_tables(parts).unify_dictionaries())


def _set_aside(waiting: list[pa.Table], path: Path) -> _Sorted:
    """Sort tables by tile, write them to a file, and return them mapped from there."""
    table, tiles = sort_by_tile(pa.concat_tables(waiting))
    table = table.combine_chunks()
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    return _Sorted(pa.ipc.open_file(pa.memory_map(str(path))).read_all(), tiles)
