"""The feature files as Spark reads them: types, rows, nulls, values, partitions.

Not part of `make test`: Spark is 450 MB and needs Java 17. `make test-engines` installs it.
"""

import numpy as np
import pytest

from cryofuse.learning.spark.session import open_session
from tests.partitions import COLUMNS, read_with, write_regions


@pytest.fixture(scope="module")
def spark(spark_is_there):
    with open_session("local[1]", "features", cores=1, memory_mb=1500) as session:
        # A zone far from UTC: months must not move.
        session.conf.set("spark.sql.session.timeZone", "America/Los_Angeles")
        yield session


@pytest.fixture(scope="module")
def written(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    (folder / "features").mkdir()
    rows = write_regions(folder)
    (folder / "features" / ".snakemake_timestamp").touch()
    return rows, read_with("Spark", folder / "features")


def test_spark_finds_the_types_that_were_written(written):
    _, found = written
    types = {field.name: field.dataType.simpleString() for field in found.schema}
    assert types == {"mascon_id": "int", "month": "timestamp_ntz"} | dict.fromkeys(
        COLUMNS, "double"
    ) | {"region": "string", "year": "int"}


def test_spark_counts_the_rows_and_nulls_that_were_written(written):
    rows, found = written
    assert found.count() == len(rows)
    for name in COLUMNS:
        assert found.filter(f"{name} IS NULL").count() == rows[name].isna().sum()
        assert found.filter(f"isnan({name})").count() == 0


def test_spark_reads_the_values_that_were_written(written):
    rows, found = written
    names = ["region", "year", "mascon_id", "month", *COLUMNS]
    got = found.select(*names).orderBy("region", "mascon_id", "month").collect()
    for row, expected in zip(got, rows[names].itertuples(index=False), strict=True):
        assert tuple(row)[:3] == tuple(expected)[:3]
        assert row.month == expected.month.to_pydatetime()
        mine = [np.nan if row[name] is None else row[name] for name in COLUMNS]
        assert np.array_equal(mine, expected[4:], equal_nan=True)


def test_spark_reads_only_the_partition_that_is_asked_for(written):
    rows, found = written
    part = found.filter("region = 'greenland' AND year = 2019")
    assert part.count() == ((rows["region"] == "greenland") & (rows["year"] == 2019)).sum()
    names = part.selectExpr("input_file_name()").distinct().collect()
    files = {path.split("features/")[1] for (path,) in names}
    assert files == {"region=greenland/year=2019/part-0.parquet"}
