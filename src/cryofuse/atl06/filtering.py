"""A period's segments filtered file to file, a few tiles at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Set
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cryofuse.atl06.ledger import LedgerRow
from cryofuse.atl06.quality import IceMask, apply_filters, reach_m, replace_dem
from cryofuse.atl06.tiles import RowGroup, grow, in_box, list_row_groups, write_whole_tiles
from cryofuse.config import FilterSettings
from cryofuse.tables import SEGMENTS

#: Rows filtered at a time (about 150 MB), unless a row group has more.
BATCH_ROWS = 500_000

Elevations = Callable[[np.ndarray, np.ndarray], np.ndarray]


def filter_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    settings: FilterSettings,
    tile_m: float,
    ice: IceMask | None = None,
    dem: Elevations | None = None,
    provenance: dict[str, Any] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> list[LedgerRow]:
    """Filter a file of segments tile by tile, and count what each filter costs.

    What is kept and counted does not depend on the batches: segments near the edge of a tile
    are tested along the track with their neighbours in the next one.

    Parameters
    ----------
    source
        Segments as :func:`cryofuse.atl06.tiles.write_by_tile` writes them.
    target
        File for the segments kept, in the same layout.
    settings
        Order and thresholds.
    tile_m
        Side of a tile (m).
    ice
        Where the region's ice is.
    dem
        Function of x and y (m) that gives heights (m above WGS84) of a finer elevation model,
        NaN where it has none.
    provenance
        Plain values for the target's metadata.
    batch_rows
        Rows filtered at a time; a tile is cut between granules only.

    Returns
    -------
    list of dict
        A ledger row for each granule × beam × filter that runs.
    """
    costs: dict[tuple[str, str, str], LedgerRow] = {}
    with pq.ParquetFile(source) as file:
        groups = list_row_groups(file)
        batches = list(_batches(groups, batch_rows))
        sigma_given = _beams_with_sigma(file) if len(batches) > 1 else None

        def kept_tables() -> Iterator[pa.Table]:
            for batch in batches:
                table = file.read_row_groups([group.number for group in batch])
                beside = _beside(file, groups, batch, reach_m(settings))
                if dem is not None:
                    table, beside = _finer(table, dem), _finer(beside, dem)
                kept, rows = apply_filters(
                    table, settings, ice, beside=beside, sigma_given=sigma_given
                )
                _add(costs, rows)
                yield kept

        write_whole_tiles(kept_tables(), target, tile_m, provenance)
    return [costs[key] for key in sorted(costs, key=lambda key: key[:2])]


def _batches(groups: list[RowGroup], most_rows: int) -> Iterator[list[RowGroup]]:
    """Yield consecutive row groups, so that no granule's rows of a tile come apart."""
    batch: list[RowGroup] = []
    for group in groups:
        together = [g for g in batch if g.tile == group.tile and g.granules[1] >= group.granules[0]]
        if batch and not together and sum(g.rows for g in batch) + group.rows > most_rows:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def _beside(
    file: pq.ParquetFile, groups: list[RowGroup], batch: list[RowGroup], reach: float
) -> pa.Table:
    """Return the rows of other batches that lie within reach (m) of a batch's row groups."""
    mine = {group.number for group in batch}
    boxes = [grow(group.box, reach) for group in batch]
    first, last = (choose(g.granules[i] for g in batch) for i, choose in ((0, min), (1, max)))
    parts = [SEGMENTS.empty()]
    for group in groups:
        if group.number in mine or group.granules[0] > last or group.granules[1] < first:
            continue
        near = [box for box in boxes if group.touches(box)]
        if near:
            table = file.read_row_group(group.number)
            x_m, y_m = table["x_m"].to_numpy(), table["y_m"].to_numpy()
            inside = np.logical_or.reduce([in_box(x_m, y_m, box) for box in near])
            parts.append(table.filter(pa.array(inside)))
    return pa.concat_tables(parts)


def _finer(table: pa.Table, dem: Elevations) -> pa.Table:
    return replace_dem(table, dem(table["x_m"].to_numpy(), table["y_m"].to_numpy()))


def _beams_with_sigma(file: pq.ParquetFile) -> Set[tuple[str, str]]:
    """Return the granules and beams that have a σ in any row of a file."""
    found: set[tuple[str, str]] = set()
    for number in range(file.metadata.num_row_groups):
        table = file.read_row_group(number, columns=["granule", "beam", "height_sigma_m"])
        table = table.filter(table["height_sigma_m"].is_valid())
        distinct = table.group_by(["granule", "beam"]).aggregate([])
        found.update(
            zip(distinct["granule"].to_pylist(), distinct["beam"].to_pylist(), strict=True)
        )
    return found


def _add(costs: dict[tuple[str, str, str], LedgerRow], rows: list[LedgerRow]) -> None:
    """Add the ledger rows of a part to those of the parts before it."""
    for row in rows:
        known = costs.setdefault((row["granule"], row["beam"], row["filter"]), row)
        if known is row:
            continue
        for count in ("rows_in", "rows_removed", "rows_alone"):
            known[count] += row[count]
        # A value given anywhere in the beam is given.
        known["reason"] = known["reason"] and row["reason"]
