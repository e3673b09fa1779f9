"""Nominal months, cell areas and the mass table, against hand-made cases and closed formulas."""

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely

from cryofuse.logs import UserError
from cryofuse.mascons.solutions import (
    Solutions,
    assign_months,
    cell_area_km2,
    decode_days,
    empirical_sigma,
    in_extent,
    tabulate_mass,
)


def _instants(*days):
    return np.array(days, dtype="datetime64[us]")


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        # Whole months keep their own.
        ([("2019-01-01", "2019-02-01"), ("2019-02-01", "2019-03-01")], ["2019-01", "2019-02"]),
        # JPL 2011-12: half of December and half of January, which has a solution of its own.
        (
            [
                ("2011-10-17", "2011-11-17"),
                ("2011-12-17", "2012-01-16"),
                ("2012-01-01", "2012-02-01"),
            ],
            ["2011-11", "2011-12", "2012-01"],
        ),
        # JPL 2015-05: more of April, but April is taken.
        (
            [("2015-04-01", "2015-05-01"), ("2015-04-12", "2015-05-12")],
            ["2015-04", "2015-05"],
        ),
        # CSR 2011-11: more of October, but October is taken.
        (
            [("2011-10-01", "2011-11-01"), ("2011-10-16", "2011-11-16")],
            ["2011-10", "2011-11"],
        ),
        # GSFC and JPL 2018-10.
        (
            [("2018-10-22", "2018-11-10"), ("2018-11-01", "2018-12-01")],
            ["2018-10", "2018-11"],
        ),
    ],
)
def test_nominal_months_are_those_of_the_most_overlap_that_are_free(bounds, expected):
    start, end = (_instants(*side) for side in zip(*bounds, strict=True))
    assert [str(month)[:7] for month in assign_months(start, end)] == expected


def test_two_solutions_inside_one_month_are_refused():
    start, end = _instants("2019-01-01", "2019-01-16"), _instants("2019-01-16", "2019-02-01")
    with pytest.raises(UserError, match="share one month"):
        assign_months(start, end)


def test_days_are_counted_from_the_epoch_and_day_zero_is_the_day_before():
    assert decode_days(np.array([31.5]), "days since 2002-01-01T00:00:00Z", "f")[0] == (
        np.datetime64("2002-02-01T12:00", "us")
    )
    assert decode_days(np.array([1.0]), "days since 2002-01-00", "f")[0] == (
        np.datetime64("2002-01-01", "us")
    )
    with pytest.raises(UserError, match="hours since"):
        decode_days(np.array([1.0]), "hours since 2002-01-01", "f")


def test_cells_of_the_globe_cover_the_sphere_in_either_direction():
    latitude, longitude = np.arange(-89.5, 90, 1.0), np.arange(0.5, 360, 1.0)
    area = cell_area_km2(latitude[::-1], longitude)
    assert area.shape == (180, 360)
    assert area.sum() == pytest.approx(4 * np.pi * 6371.0**2, rel=1e-12)


def test_extent_over_the_antimeridian_and_of_every_longitude():
    longitude = np.array([170.0, 179.9, -179.0, 190.0, 0.0])
    inside = in_extent(longitude, np.zeros(5), (175.0, -10.0, -165.0, 10.0))
    assert inside.tolist() == [False, True, True, True, False]
    assert in_extent(longitude, np.zeros(5), (-180.0, -10.0, 180.0, 10.0)).all()


def test_mass_table_has_null_rows_in_gaps_and_changes_only_between_neighbours():
    mascons = geopandas.GeoDataFrame(
        {"mascon_id": np.array([7, 9], dtype=np.int32), "land_area_km2": [1000.0, 50_000.0]},
        geometry=[shapely.box(0, 0, 1, 1), shapely.box(1, 0, 2, 1)],
        crs="EPSG:4326",
    )
    start = _instants("2019-01-01", "2019-02-01", "2019-05-01")
    end = _instants("2019-02-01", "2019-03-01", "2019-06-01")
    lwe = np.array([[1.0, 10.0], [3.0, np.nan], [7.0, 20.0]])
    table = tabulate_mass(
        Solutions(mascons, lwe, np.full((3, 2), 2.0), start, end, "jpl", "r"), "f"
    )
    assert len(table) == 10
    first = table[table["mascon_id"] == 7].set_index("month")
    assert first["lwe_cm"].isna().tolist() == [False, False, True, True, False]
    assert first["mass_gt"].dropna().tolist() == pytest.approx([0.01, 0.03, 0.07])
    assert first["mass_change_gt"].dropna().to_dict() == {
        pd.Timestamp("2019-02-01"): pytest.approx(0.02)
    }
    assert first["mass_change_sigma_gt"].dropna().tolist() == pytest.approx([0.02 * 2**0.5])
    second = table[table["mascon_id"] == 9]
    assert second["mass_change_gt"].isna().all()
    assert second["lwe_sigma_cm"].isna().tolist() == [False, True, True, True, False]
    assert second["solution_start"].isna().tolist() == [False, True, True, True, False]
    assert table["month"].dtype == "datetime64[us]"


def test_scatter_finds_the_planted_noise_under_trend_and_seasons():
    rng = np.random.default_rng(1)
    time = np.arange(np.datetime64("2003-01", "M"), np.datetime64("2023-01", "M")).astype(
        "datetime64[us]"
    )
    t = np.arange(time.size) / 12
    signal = -20 * t + 8 * np.cos(2 * np.pi * t) + 2 * np.sin(4 * np.pi * t)
    noise = rng.normal(0, 3.0, (time.size, 4))
    assert empirical_sigma(signal[:, np.newaxis] + noise, time) == pytest.approx(3.0, rel=0.15)
    assert np.isnan(empirical_sigma(noise[:20], time[:20])).all()
