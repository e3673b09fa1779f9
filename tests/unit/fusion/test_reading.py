"""The feature files as pandas, Arrow, Dask and DuckDB read them, by the documentation's words."""

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT
from tests.partitions import COLUMNS, read_with, write_regions

#: Columns as they are written; region and year come from the folders' names.
SCHEMA = {"mascon_id": pa.int32(), "month": pa.timestamp("us")} | dict.fromkeys(
    COLUMNS, pa.float64()
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def written(folder):
    (folder / "features").mkdir()
    rows = write_regions(folder)
    # What Snakemake leaves in a folder that a rule made.
    (folder / "features" / ".snakemake_timestamp").touch()
    return rows


def compare(found, rows):
    """Hold what an engine found against what was written, values and nulls."""
    found = found.assign(
        region=found["region"].astype(str),
        year=found["year"].astype(int),
        month=found["month"].astype("datetime64[us]"),
    )
    found = found.sort_values(["region", "mascon_id", "month"], ignore_index=True)
    pd.testing.assert_frame_equal(found[rows.columns], rows, check_dtype=False, check_exact=True)
    assert not set(found.columns) - set(rows.columns), "an index that was stored"


def test_every_file_has_one_schema_whatever_is_null(folder, written):
    files = sorted((folder / "features").rglob("*.parquet"))
    assert [str(path.relative_to(folder / "features").parent) for path in files] == [
        f"region={region}/year={year}"
        for region in ("antarctica", "greenland")
        for year in (2018, 2019, 2020)
    ]
    for path in files:
        schema = pq.read_schema(path)
        assert dict(zip(schema.names, schema.types, strict=True)) == SCHEMA
        assert b"pandas" not in (schema.metadata or {})
    # A year in which a column is null throughout, with nulls and not with NaN.
    nulls = pq.read_table(files[0], partitioning=None)["dh_m"]
    assert nulls.null_count == len(nulls) == 4


def test_pandas(folder, written):
    found = read_with("pandas", folder / "features")
    assert found.dtypes[["mascon_id", "month"]].astype(str).tolist() == ["int32", "datetime64[us]"]
    compare(found, written)
    part = pd.read_parquet(folder / "features", filters=[("year", "==", 2019)])
    assert len(part) == (written["year"] == 2019).sum()


def test_arrow(folder, written):
    data = pyarrow.dataset.dataset(folder / "features", partitioning="hive")
    types = dict(zip(data.schema.names, data.schema.types, strict=True))
    assert types == SCHEMA | {"region": pa.string(), "year": pa.int32()}
    table = data.to_table()
    for name in COLUMNS:
        assert table[name].null_count == written[name].isna().sum()
    compare(table.to_pandas(), written)


# Dask's own use of pandas.
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")
def test_dask(folder, written):
    found = read_with("Dask", folder / "features")
    assert found.npartitions == 6
    assert str(found.dtypes["month"]) == "datetime64[us]"
    compare(found.compute(scheduler="synchronous"), written)
    mean = found.groupby("mascon_id")["dh_m"].mean().compute(scheduler="synchronous")
    assert mean.to_dict() == pytest.approx(written.groupby("mascon_id")["dh_m"].mean().to_dict())


def test_duckdb(folder, written):
    duckdb = pytest.importorskip("duckdb")
    found = read_with("DuckDB", folder / "features")
    types = dict(zip(found.columns, (str(kind) for kind in found.types), strict=True))
    assert types == {"mascon_id": "INTEGER", "month": "TIMESTAMP"} | dict.fromkeys(
        COLUMNS, "DOUBLE"
    ) | {"region": "VARCHAR", "year": "BIGINT"}
    for name in COLUMNS:
        ((count,),) = found.aggregate(f"count(*) - count({name})").fetchall()
        assert count == written[name].isna().sum()
    compare(found.df(), written)
    ((rows,),) = duckdb.sql("SELECT count(*) FROM found WHERE region = 'greenland'").fetchall()
    assert rows == (written["region"] == "greenland").sum()


@pytest.mark.parametrize("engine", ["pandas", "Dask", "DuckDB", "Spark"])
def test_the_documentation_shows_the_words_that_are_tested(engine):
    from cryofuse.fusion.card import READERS

    code = READERS[engine].format(folder="results/demo/features")
    assert f"{engine}:\n\n```python\n{code}```\n" in (ROOT / "docs" / "features.md").read_text()
