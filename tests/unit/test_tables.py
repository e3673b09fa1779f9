import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cryofuse import tables
from cryofuse.tables import MASS, NODE_MONTHS, TableError, write_table


def mass(**change):
    frame = pd.DataFrame({name: [None, None] for name in MASS.columns})
    frame["mascon_id"] = [57, 58]
    frame["month"] = pd.to_datetime(["2020-01-01", "2020-01-01"]).astype("datetime64[us]")
    frame["lwe_cm"] = [1.5, np.nan]
    for name, value in change.items():
        frame[name] = value
    return frame


def test_a_table_comes_back_with_nulls_types_and_provenance(tmp_path):
    path = tmp_path / "deep" / "mass.parquet"
    write_table(mass(), path, MASS, {"code": "abc"})
    stored = pq.read_table(path)
    assert stored.schema.field("month").type == pa.timestamp("us")
    assert stored.column("lwe_cm").to_pylist() == [1.5, None]
    assert stored.column_names == list(MASS.columns)
    assert tables.read_provenance(path) == {"code": "abc"}
    assert [p.name for p in path.parent.iterdir()] == ["mass.parquet"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mascon_id": [57, 57]}, "mascon_id"),
        ({"mascon_id": [57, None]}, "mascon_id"),
        ({"lwe_sigma_cm": [-1.0, 1.0]}, "lwe_sigma_cm"),
        (
            {"month": pd.to_datetime(["2020-01-02"] * 2).astype("datetime64[us]")},
            "first of a month",
        ),
        ({"extra": 1}, "unknown columns"),
        ({"lwe_cm": ["much", "little"]}, "little"),
    ],
)
def test_a_table_that_breaks_its_contract_is_refused_and_no_file_is_left(
    tmp_path, change, expected
):
    with pytest.raises(TableError, match=expected):
        write_table(mass(**change), tmp_path / "mass.parquet", MASS)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(TableError, match="lwe_cm"):
        write_table(mass().drop(columns="lwe_cm"), tmp_path / "mass.parquet", MASS)


def test_a_failure_while_writing_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), tables.written(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_row_groups_are_as_asked(tmp_path):
    months = pd.to_datetime(["2020-01-01"] * 5).astype("datetime64[us]")
    frame = pd.DataFrame(
        {
            "node_id": np.arange(5),
            "month": months,
            "dh_m": 0.0,
            "dh_sigma_m": 0.1,
            "model_m": 0.0,
            "response": 1.0,
            "n_segments": 1,
            "tracks": [[1], [2, 3], [4], [5], [6]],
        }
    )
    write_table(frame, tmp_path / "n.parquet", NODE_MONTHS, row_groups=[2, 0, 3])
    file = pq.ParquetFile(tmp_path / "n.parquet")
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert [size for size in sizes if size] == [2, 3]
    assert file.read().column("tracks").to_pylist() == [[1], [2, 3], [4], [5], [6]]


def test_every_contract_has_a_description_and_a_key_among_its_columns():
    assert len(tables.CONTRACTS) >= 25
    for contract in tables.CONTRACTS.values():
        assert set(contract.key) <= set(contract.columns)
        assert all(column.about for column in contract.columns.values())
        assert contract.empty().num_rows == 0
