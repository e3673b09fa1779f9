"""Published series of the folder of real files, against a second reading of each file."""

import csv
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from cryofuse.products.reference import (
    read_atl15_volume,
    read_imbie,
    read_jpl_text,
    read_mankoff,
)
from tests.conftest import skip_without

pytestmark = pytest.mark.real
#: Months without a solution up to August 2024.
ABSENT = (
    (
        "2002-06 2002-07 2003-06 2011-01 2011-06 2012-05 2012-10 2013-03 2013-08 2013-09 2014-02 "
        "2014-07 2014-12 2015-06 2015-10 2015-11 2016-04 2016-09 2016-10 2017-02 2018-08 2018-09"
    ).split()
    + [f"2017-{m:02d}" for m in range(7, 13)]
    + [f"2018-{m:02d}" for m in range(1, 6)]
)


@pytest.fixture(scope="module")
def folder():
    root = Path(__file__).resolve().parents[2]
    given = Path(os.environ.get("CRYOFUSE_REAL_DATA", "../shared/real"))
    path = (given if given.is_absolute() else root / given) / "reference"
    if not path.is_dir():
        skip_without(f"no folder of real files at {path} (set CRYOFUSE_REAL_DATA)")
    return path


def rows(path):
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("sheet", ["greenland", "antarctica"])
def test_jpl_series(folder, sheet):
    path = folder / f"{sheet}_mass_200204_202408.txt"
    found = read_jpl_text(path).frame
    plain = np.array(
        [line.split() for line in path.read_text().splitlines() if line[:1].isdigit()], dtype=float
    )
    assert len(plain) == 236
    np.testing.assert_array_equal(found["value"], plain[:, 1])
    np.testing.assert_array_equal(found["sigma"], plain[:, 2])
    every = [f"{y}-{m:02d}" for y in range(2002, 2025) for m in range(1, 13)]
    expected = [m for m in every if "2002-04" <= m <= "2024-08" and m not in ABSENT]
    assert [f"{m:%Y-%m}" for m in found["month"]] == expected


def test_imbie_series(folder):
    path = folder / "imbie3_greenland_Gt_partitioned.csv"
    found = read_imbie(path).frame
    plain = rows(path)
    dates = [datetime.strptime(row["Date"], "%d/%m/%Y") for row in plain]
    assert found["month"].tolist() == dates
    assert (dates[0].year, dates[-1].year, dates[-1].month) == (1971, 2023, 12)
    ends = np.array([float(r["Cumulative mass balance anomaly (Gt)"]) for r in plain])
    # The rates are those of the months themselves: cumulative values stand at month ends.
    rates = np.array([float(r["Mass balance (Gt/yr)"]) for r in plain])
    np.testing.assert_allclose(np.cumsum(rates / 12), ends, atol=1)
    np.testing.assert_allclose(found["value"], ends - rates / 24, atol=0.1)


def test_mankoff_series(folder):
    path = folder / "greenland_total_mass_balance_mankoff_daily.csv"
    found = read_mankoff(path)
    plain = rows(path)
    forecast = 0
    while float(plain[-1 - forecast]["SMB"]) == 0 and float(plain[-1 - forecast]["BMB"]) == 0:
        forecast += 1
    assert forecast >= 1
    assert found.dropped["forecast"] == forecast
    assert found.dropped["not_daily"] == sum(row["time"] < "1986" for row in plain)
    months = [f"{m:%Y-%m}" for m in found.frame["month"]]
    assert (months[0], months[-1]) == ("1986-01", "2023-10")
    kept = [row for row in plain[: len(plain) - forecast] if row["time"] >= "1986"]
    change = sum(float(r["MB"]) for r in kept if "2019-01-31" < r["time"] <= "2019-12-31")
    mass, by_month = 0.0, {}
    for row in kept:
        mass += float(row["MB"])
        by_month.setdefault(row["time"][:7], []).append(mass)
    for month, value in zip(months, found.frame["value"], strict=True):
        assert value == pytest.approx(np.mean(by_month[month]), rel=1e-9)
    assert -600 < change < -300


@pytest.mark.parametrize("sheet", ["greenland", "antarctica"])
def test_atl15_series(folder, sheet):
    path = folder / "atl15_v5_integrated_volume.csv"
    found = read_atl15_volume(path, sheet)
    plain = [row for row in rows(path) if row["ice_sheet"] == sheet]
    assert len(found.frame) == 29
    assert found.frame["value"].tolist() == [float(row["value_km3"]) for row in plain]
    quarters = [f"{y}-{m:02d}" for y in range(2019, 2026) for m in (1, 4, 7, 10)] + ["2026-01"]
    assert [f"{m:%Y-%m}" for m in found.frame["month"]] == quarters
