"""A file filtered a few tiles at a time, against the filters over all of it."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cryofuse.atl06 import tiles
from cryofuse.atl06.filtering import filter_file
from cryofuse.atl06.quality import apply_filters, reach_m
from cryofuse.atl06.tiles import list_row_groups, write_by_tile
from cryofuse.config import FilterSettings
from cryofuse.geo import tile_name
from cryofuse.tables import SEGMENTS, TableError

KEYS = ["granule", "beam", "segment_id"]
LEDGER_KEYS = ["granule", "beam", "filter"]


def make_tracks(tile_m, granules=4, rows=1500, seed=5):
    """Straight tracks over many tiles, with outliers alone and in runs, gaps and missing σ."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(granules):
        for beam in ("gt1l", "gt3r"):
            segment_id = np.sort(rng.choice(rows * 5 // 4, rows, replace=False))
            angle = 0.3 + number
            along = segment_id * 20.0
            height = 1000 + rng.normal(0, 0.05, rows) + 1e-3 * along
            height[rng.random(rows) < 0.05] += rng.normal(0, 5)
            for start in rng.integers(0, rows - 8, 12):
                height[start : start + 6] += 3.0
            sigma = np.where(rng.random(rows) < 0.1, np.nan, 0.03)
            if beam == "gt3r":
                # Given in one place only, so most parts of the beam have none.
                sigma = np.where(np.arange(rows) < 5, 0.03, np.nan)
            parts.append(
                pd.DataFrame(
                    {
                        "x_m": along * np.cos(angle) + 13.0 * number,
                        "y_m": along * np.sin(angle) - 4000.0,
                        "height_m": height,
                        "height_sigma_m": sigma.astype(np.float32),
                        "segment_id": segment_id.astype(np.int32),
                        "beam": beam,
                        "granule": f"granule_{number}.h5",
                        "slope_along": np.float32(1e-3),
                        "dem_m": np.where(rng.random(rows) < 0.02, 0.0, height).astype(np.float32),
                    }
                )
            )
    frame = pd.concat(parts, ignore_index=True)
    frame["tile"] = [
        tile_name(x, y, tile_m) for x, y in zip(frame["x_m"], frame["y_m"], strict=True)
    ]
    columns = {}
    for name, column in SEGMENTS.columns.items():
        if name in frame:
            array = pa.array(frame[name].tolist(), from_pandas=True)
            if pa.types.is_dictionary(column.kind):
                array = array.dictionary_encode()
        elif column.null:
            array = pa.nulls(len(frame))
        else:
            array = pa.array(np.zeros(len(frame), np.int16)).cast(pa.int64())
        columns[name] = array.cast(column.kind)
    return pa.table(columns, schema=SEGMENTS.schema)


def in_order(table):
    frame = table.to_pandas().astype(dict.fromkeys(["tile", "granule", "beam"], str))
    return frame.sort_values(KEYS, ignore_index=True)


def ledger(rows):
    return pd.DataFrame(rows).sort_values(LEDGER_KEYS, ignore_index=True)


def write_granules(table, path, tile_m):
    """Write granule by granule, each put aside."""
    names = sorted(set(table["granule"].to_pylist()))
    tables = [table.filter(pc.equal(table["granule"], name)) for name in names]
    write_by_tile(tables, path, tile_m, batch_rows=1)


@pytest.mark.parametrize("tile_m", [1000.0, 30_000.0])
@pytest.mark.parametrize("batch_rows", [1, 2000, 10**9])
@pytest.mark.parametrize("group_rows", [1, 500_000])
def test_tiles_are_filtered_as_the_whole(tmp_path, monkeypatch, tile_m, batch_rows, group_rows):
    monkeypatch.setattr(tiles, "GROUP_ROWS", group_rows)
    settings = FilterSettings(ice_mask=False, height_sigma_max_m=1.0)
    table = make_tracks(tile_m)
    write_granules(table, tmp_path / "subset.parquet", tile_m)
    with pq.ParquetFile(tmp_path / "subset.parquet") as file:
        granules = [group.granules for group in list_row_groups(file)]
    assert all(first == last for first, last in granules) == (group_rows == 1)
    expected, expected_rows = apply_filters(table, settings)
    assert 0.3 < expected.num_rows / table.num_rows < 0.7
    rows = filter_file(
        tmp_path / "subset.parquet",
        tmp_path / "filtered.parquet",
        settings,
        tile_m,
        provenance={"made": "here"},
        batch_rows=batch_rows,
    )
    kept = pq.ParquetFile(tmp_path / "filtered.parquet").read()
    pd.testing.assert_frame_equal(in_order(kept), in_order(expected))
    pd.testing.assert_frame_equal(ledger(rows), ledger(expected_rows))
    # The rows of a beam stand together, in the order of the filters.
    assert [row["filter"] for row in rows[: len(rows) // 8]] == [
        row["filter"] for row in expected_rows[: len(expected_rows) // 8]
    ]
    assert not set(in_order(kept)["tile"]) - set(in_order(table)["tile"])


def test_reach_covers_the_window_and_its_neighbours():
    # 21 segments: 10 to each side, one more whose removal counts, and the length of a segment.
    assert reach_m(FilterSettings()) >= 11 * 20 + 20
    assert reach_m(FilterSettings(running_median_segments=None)) >= 2 * 20


def test_only_neighbours_are_read_beside_a_tile(tmp_path, monkeypatch):
    tile_m = 5000.0
    write_by_tile([make_tracks(tile_m)], tmp_path / "a.parquet", tile_m)
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        groups = {group.number: group for group in list_row_groups(file)}
    batches, beside = [], []
    many, one = pq.ParquetFile.read_row_groups, pq.ParquetFile.read_row_group

    def read_batch(self, numbers, **more):
        batches.append({groups[number].tile for number in numbers})
        return many(self, numbers, **more)

    def read_beside(self, number, columns=None):
        if columns is None:
            beside.append((batches[-1], groups[number].tile))
        return one(self, number, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", read_batch)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_beside)
    settings = FilterSettings(ice_mask=False)
    filter_file(tmp_path / "a.parquet", tmp_path / "b.parquet", settings, tile_m, batch_rows=1)
    assert beside and all(len(tiles) == 1 for tiles in batches)
    for (tile,), other in beside:
        places = [[int(part[1:]) for part in name.split("_")] for name in (tile, other)]
        assert max(abs(a - b) for a, b in zip(*places, strict=True)) == 1


def test_a_finer_dem_is_asked_for_rows_and_their_neighbours(tmp_path):
    tile_m = 1000.0
    table = make_tracks(tile_m)
    write_by_tile([table], tmp_path / "a.parquet", tile_m)
    settings = FilterSettings(ice_mask=False, height_sigma_max_m=None, dem_difference_max_m=2.0)

    def dem(x_m, y_m):
        return 1000.0 + 0.0 * x_m

    expected, _ = apply_filters(
        table.set_column(
            table.schema.get_field_index("dem_m"),
            "dem_m",
            pa.array(np.full(table.num_rows, 1000.0, np.float32)),
        ),
        settings,
    )
    for batch_rows in (1, 10**9):
        filter_file(
            tmp_path / "a.parquet",
            tmp_path / "b.parquet",
            settings,
            tile_m,
            dem=dem,
            batch_rows=batch_rows,
        )
        kept = pq.ParquetFile(tmp_path / "b.parquet").read()
        assert kept.num_rows == expected.num_rows
        assert in_order(kept)[KEYS].equals(in_order(expected)[KEYS])


def test_an_empty_file_stays_one(tmp_path):
    write_by_tile([], tmp_path / "a.parquet", 1e5)
    rows = filter_file(tmp_path / "a.parquet", tmp_path / "b.parquet", FilterSettings(), 1e5)
    assert rows == [] and pq.ParquetFile(tmp_path / "b.parquet").read().num_rows == 0


def test_a_failure_leaves_no_file(tmp_path):
    write_by_tile([make_tracks(1000.0)], tmp_path / "a.parquet", 1000.0)

    class Broken:
        def contains(self, x_m, y_m):
            raise TableError("no mask")

    with pytest.raises(TableError):
        filter_file(
            tmp_path / "a.parquet",
            tmp_path / "b.parquet",
            FilterSettings(),
            1000.0,
            ice=Broken(),
            batch_rows=1,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
