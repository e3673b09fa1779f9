"""Segments sorted by tile, one row group each, whatever the batches."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cryofuse.atl06.granule import read_granule
from cryofuse.atl06.tiles import (
    EDGE_SHARE,
    list_row_groups,
    sort_by_tile,
    tile_codes,
    write_by_tile,
)
from cryofuse.geo import tile_name
from cryofuse.tables import SEGMENTS, TableError, read_provenance

TILE_M = 1e5


def test_tile_codes_are_the_tiles_of_the_grid():
    rng = np.random.default_rng(3)
    x_m, y_m = rng.uniform(-3e5, 3e5, (2, 500))
    codes, names = tile_codes(x_m, y_m, 1e5)
    assert [names[c] for c in codes] == [
        tile_name(x, y, 1e5) for x, y in zip(x_m, y_m, strict=True)
    ]
    assert tile_codes(np.empty(0), np.empty(0), 1e5)[1] == []


@pytest.fixture
def parts(write_granule, beam):
    """Three granules, each over three tiles of 100 km that do not come in order of names."""
    tables = []
    for number in range(3):
        rows = beam(90)
        rows["latitude"] = np.repeat([72.0, 70.0, 71.5], 30) + np.tile(np.arange(30) * 5e-3, 3)
        name = f"ATL06_2020010203040{number}_01230603_006_02.h5"
        tables.append(read_granule(write_granule({"gt1l": rows, "gt3r": rows}, name=name))[0])
    return tables


@pytest.mark.parametrize("batch_rows", [10_000_000, 200, 1])
def test_a_row_group_for_each_interior_and_edge_in_order(parts, tmp_path, batch_rows):
    path = tmp_path / "segments.parquet"
    write_by_tile(parts, path, TILE_M, {"made": "here"}, batch_rows)
    file = pq.ParquetFile(path)
    found = []
    for number in range(file.metadata.num_row_groups):
        table = file.read_row_group(number)
        (tile,) = set(table["tile"].to_pylist())
        column, row = (int(part[1:]) for part in tile.split("_"))
        from_border = np.minimum.reduce(
            [
                table["x_m"].to_numpy() - column * TILE_M,
                (column + 1) * TILE_M - table["x_m"].to_numpy(),
                table["y_m"].to_numpy() - row * TILE_M,
                (row + 1) * TILE_M - table["y_m"].to_numpy(),
            ]
        )
        edge = from_border < EDGE_SHARE * TILE_M
        assert edge.all() or not edge.any()
        found.append((tile, bool(edge[0])))
    assert found == sorted(set(found)) and len({tile for tile, _ in found}) == 3
    assert len(found) > 3
    frame = file.read().to_pandas()
    expected = pa.concat_tables(parts).to_pandas()
    for column in ("tile", "granule", "beam"):
        frame[column] = frame[column].astype(str)
        expected[column] = expected[column].astype(str)
    keys = ["tile", "granule", "beam", "segment_id"]
    expected = expected.sort_values(keys, ignore_index=True)
    frame = frame.sort_values(keys, ignore_index=True)
    assert frame[keys].equals(expected[keys]) and frame["height_m"].equals(expected["height_m"])
    assert read_provenance(path) == {"made": "here"}


def test_the_bytes_do_not_depend_on_the_batches(parts, tmp_path):
    for name, batch_rows in (("a", 10_000_000), ("b", 100)):
        write_by_tile(parts, tmp_path / name, TILE_M, None, batch_rows)
    a, b = (pq.ParquetFile(tmp_path / name).read().to_pandas() for name in "ab")
    assert a.astype({"granule": str, "beam": str, "tile": str}).equals(
        b.astype({"granule": str, "beam": str, "tile": str})
    )


def test_no_rows_give_the_empty_table(tmp_path):
    for name, tables in (("none", []), ("empty", [SEGMENTS.empty()])):
        write_by_tile(tables, tmp_path / name, TILE_M)
        table = pq.ParquetFile(tmp_path / name).read()
        assert table.num_rows == 0 and table.column_names == list(SEGMENTS.columns)


def test_a_broken_part_leaves_no_file(parts, tmp_path):
    broken = parts[0].set_column(3, "latitude", pa.array(np.full(parts[0].num_rows, 100.0)))
    with pytest.raises(TableError, match="latitude"):
        write_by_tile([broken], tmp_path / "segments.parquet", TILE_M)
    assert not list(tmp_path.glob("*.parquet"))


def test_sorting_keeps_the_order_within_a_tile(parts):
    table, tiles = sort_by_tile(pa.concat_tables(parts), TILE_M)
    for (name, _), rows in tiles.items():
        part = table.slice(rows.start, rows.stop - rows.start)
        assert set(part["tile"].to_pylist()) == {name}
        assert part["granule"].to_pylist() == sorted(part["granule"].to_pylist())


def test_row_groups_are_told_by_their_positions(parts, tmp_path):
    write_by_tile(parts, tmp_path / "a", TILE_M)
    with pq.ParquetFile(tmp_path / "a") as file:
        groups = list_row_groups(file)
        for group in groups:
            table = file.read_row_group(group.number)
            x_m, y_m = (table[name].to_numpy() for name in ("x_m", "y_m"))
            assert group.box == (x_m.min(), y_m.min(), x_m.max(), y_m.max())
            assert (group.tile, group.rows) == (table["tile"][0].as_py(), table.num_rows)
            inside = (x_m[0] - 1, y_m[0] - 1, x_m[0] + 1, y_m[0] + 1)
            beside = (x_m.max() + 1, y_m.min(), x_m.max() + 2, y_m.max())
            assert group.touches(inside) and not group.touches(beside)
    assert sum(group.rows for group in groups) == sum(part.num_rows for part in parts)
