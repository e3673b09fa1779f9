"""Coupling of the whole sheet against planted densities, closed formulas and NumPy."""

import numpy as np
import pandas as pd
import pytest

from cryofuse.calendar import month_index, month_range, year_fraction
from cryofuse.config import ApplicationSettings, CouplingSettings
from cryofuse.learning.treatments import TREATMENTS, build_filter
from cryofuse.products.reference import Reference
from cryofuse.products.sheet import couple_sheet, fit_volume_density, mean_at_instants, pair_series
from cryofuse.products.totals import sum_totals
from cryofuse.tables import SHEET_COUPLING, check, from_pandas

QUARTERS = month_range("2019-01", "2024-07")[::3]
YEARS = year_fraction(QUARTERS)
SETTINGS = CouplingSettings(surrogates=200)


def red(rng, phi, n):
    noise = np.zeros(n + 50)
    for i in range(1, noise.size):
        noise[i] = phi * noise[i - 1] + np.sqrt(1 - phi**2) * rng.standard_normal()
    return noise[50:]


def monthly(values, months, sigma=20.0):
    return pd.DataFrame({"month": months, "time": months, "value": values, "sigma": sigma})


def test_mean_at_an_instant_is_that_of_the_months_either_side():
    months = month_range("2019-01", "2019-06")
    table = monthly(np.array([1.0, 3.0, np.nan, 7.0, 9.0, 11.0]), months)
    table = table[table["month"] != pd.Timestamp("2019-05-01")].assign(sigma=[3, 4, 1, 5, 12])
    found = mean_at_instants(table).set_index("month")
    assert found["value"].dropna().to_dict() == {pd.Timestamp("2019-02-01"): 2.0}
    assert found.loc[pd.Timestamp("2019-02-01"), "sigma"] == pytest.approx(2.5)
    # May has no row, so neither 1 May nor 1 June has two sides.
    assert [f"{m:%m}" for m in found.index] == ["02", "03", "04"]


def test_pairs_stand_on_a_regular_grid_with_gaps():
    months = month_range("2018-12", "2021-01")
    mass = monthly(np.arange(26.0), months)
    volume = monthly(np.arange(9.0), month_range("2019-01", "2021-01")[::3])
    volume = volume.drop(index=[2, 3])
    found = pair_series(volume, mass, "instant")
    assert np.diff(month_index(found["month"].to_numpy())).tolist() == [3] * 8
    assert found["volume_km3"].isna().tolist() == [False] * 2 + [True] * 2 + [False] * 5
    np.testing.assert_allclose(found["mass_gt"].dropna(), [0.5, 3.5, 12.5, 15.5, 18.5, 21.5, 24.5])
    assert pair_series(volume, mass.iloc[:0], "instant").empty


def test_the_density_with_errors_in_both_is_the_planted_one():
    """Noise in volume pulls least squares down by its share of variance; York's slope stays."""
    rng = np.random.default_rng(3)
    years = year_fraction(month_range("1990-01", "2019-12"))
    volume = 100 * rng.standard_normal(years.size)
    seen = volume + rng.normal(0, 50, years.size)
    mass = 0.7 * volume + rng.normal(0, 20, years.size) + rng.normal(0, 30, years.size)
    sigma = (np.full(years.size, 50.0), np.full(years.size, 20.0))
    found = fit_volume_density(seen, mass, *sigma, years)
    assert found.value == pytest.approx(700, rel=0.05)
    assert found.least_squares == pytest.approx(700 / 1.25, rel=0.05)
    assert found.least_squares == pytest.approx(1e3 * np.polyfit(seen, mass, 1)[0])
    # What the σ of mass does not hold is found as scatter.
    assert found.scatter == pytest.approx(30, rel=0.15)
    assert found.lower < 700 < found.upper and found.n == years.size


def test_without_noise_the_density_is_exact_under_every_treatment():
    volume = -200 * YEARS + 150 * np.cos(2 * np.pi * YEARS) + 40 * np.sin(5.3 * YEARS)
    sigma = np.full(YEARS.size, 10.0)
    for treatment in TREATMENTS:
        found = fit_volume_density(volume, 0.5 * volume + 3, sigma, sigma, YEARS, treatment)
        assert found.value == pytest.approx(500, rel=1e-5) and found.scatter == 0


def test_an_unknown_sigma_of_mass_is_left_to_the_scatter():
    rng = np.random.default_rng(5)
    volume = -200 * YEARS + 150 * np.cos(2 * np.pi * YEARS)
    mass = 0.8 * volume + rng.normal(0, 30, YEARS.size)
    found = fit_volume_density(volume, mass, np.full(23, 1.0), np.full(23, np.nan), YEARS)
    assert found.scatter == pytest.approx(30, rel=0.4)
    assert found.value == pytest.approx(found.least_squares, rel=0.01)


@pytest.mark.parametrize(("treatment", "phi"), [("raw", 0.3), ("detrended", 0.5)])
def test_intervals_of_the_density_cover_at_23_quarters(treatment, phi):
    rng = np.random.default_rng(6)
    hits = 0
    filters = {}
    for _ in range(150):
        volume = -200 * YEARS + 150 * np.cos(2 * np.pi * YEARS) + 100 * red(rng, 0.6, 23)
        mass = 0.8 * volume + 60 * red(rng, phi, 23) + rng.normal(0, 24, 23)
        seen = volume + rng.normal(0, 33, 23)
        sigma = (np.full(23, 33.0), np.full(23, 24.0))
        found = fit_volume_density(seen, mass, *sigma, YEARS, treatment, filters)
        hits += found.lower < 800 < found.upper
    assert 0.88 < hits / 150 <= 0.99


def test_intervals_of_the_density_widen_where_both_series_remember():
    """Thirty years of quarters that remember: as many independent pairs would promise too much."""
    rng = np.random.default_rng(12)
    years = year_fraction(month_range("1990-01", "2019-12")[::3])
    sigma = (np.full(120, 1.0), np.full(120, 1.0))
    hits = 0
    filters = {}
    for _ in range(80):
        volume = 100 * red(rng, 0.8, 120)
        mass = 0.8 * volume + 60 * red(rng, 0.8, 120)
        found = fit_volume_density(volume, mass, *sigma, years, "raw", filters)
        hits += found.lower < 800 < found.upper
    assert hits / 80 > 0.88


def test_unrelated_quarters_are_called_related_about_one_time_in_twenty():
    rng = np.random.default_rng(7)
    months = month_range("2018-12", "2024-07")
    hits = {name: 0 for name in TREATMENTS}
    for number in range(60):
        season = [np.cos(2 * np.pi * YEARS - rng.uniform(0, 6.3)) for _ in range(2)]
        volume = Reference(
            "V", "volume", "instant", monthly(red(rng, 0.5, 23) + season[0], QUARTERS)
        )
        # Both months about an instant take its value: the mean of two is the series again.
        values = np.repeat(red(rng, 0.5, 23) + season[1], 3)[: months.size]
        mass = Reference("M", "mass", "month", monthly(values, months, 0.1))
        settings = SETTINGS.model_copy(update={"seed": number})
        table = couple_sheet(no_totals(), [volume, mass], settings)
        pair = table[(table["volume"] == "V") & (table["mass"] == "M")]
        for row in pair.itertuples():
            hits[row.treatment] += row.p < 0.05
    assert all(count <= 8 for count in hits.values()), hits


def no_totals():
    columns = ["month", "mass_gt", "mass_sigma_gt", "volume_km3", "volume_sigma_km3"]
    empty = pd.DataFrame({name: pd.Series(dtype=float) for name in columns})
    return empty.assign(source=pd.Series(dtype="str"), month=pd.Series(dtype="datetime64[us]"))


def published(rng):
    months = month_range("2018-11", "2024-08")
    years = year_fraction(months)
    mass = -220 * years + 120 * np.cos(2 * np.pi * years) + 30 * red(rng, 0.5, months.size)
    at = np.searchsorted(months, QUARTERS)
    means = (mass[at] + mass[at - 1]) / 2
    volume = monthly(means / 0.6 + rng.normal(0, 20, 23), QUARTERS, 33.0)
    return [
        Reference("V", "volume", "instant", volume),
        Reference("M", "mass", "month", monthly(mass, months)),
    ], means


def test_published_series_couple_without_a_granule(world):
    references, means = published(np.random.default_rng(9))
    fusion = world["fusion"].assign(dh_m=np.nan, dh_sigma_m=np.nan)
    totals = sum_totals(fusion, world["mass"], world["mascons"], ApplicationSettings())
    table = couple_sheet(totals, references, SETTINGS)
    check(from_pandas(table), SHEET_COUPLING)
    pairs = table[["volume", "mass"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["altimetry", "gravity"], ["altimetry", "M"], ["V", "gravity"], ["V", "M"]]
    own = table[table["volume"] == "altimetry"]
    assert own["r"].isna().all() and own["reason"].str.contains("a coupling needs 12").all()
    rows = table[(table["volume"] == "V") & (table["mass"] == "M")].set_index("treatment")
    assert (rows["n"] == 23).all() and (rows["step_months"] == 3).all()
    assert rows["start"].iloc[0] == pd.Timestamp("2019-01-01")
    volume = references[0].frame["value"].to_numpy()
    season = np.column_stack([np.cos(2 * np.pi * YEARS), np.sin(2 * np.pi * YEARS),
                              np.cos(4 * np.pi * YEARS)])  # fmt: skip
    # Cycles are fitted at the middles of months, half a month off: 2 % of their removal's density.
    for name, extra, near in (
        ("raw", [], 1e-6),
        ("detrended", [YEARS], 2e-3),
        ("deseasonalised", [YEARS, *season.T], 2e-2),
    ):
        design = np.column_stack([np.ones(23), *(e - e.mean() for e in extra)])
        x, y = (s - design @ np.linalg.lstsq(design, s, rcond=None)[0] for s in (volume, means))
        assert rows.loc[name, "r"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=near)
        slope = 1e3 * (x @ y) / (x @ x)
        assert rows.loc[name, "density_ols_kg_m3"] == pytest.approx(slope, rel=near)
        assert rows.loc[name, "r_lower"] < rows.loc[name, "r"] < rows.loc[name, "r_upper"]
        assert rows.loc[name, "density_lower_kg_m3"] < 600 < rows.loc[name, "density_upper_kg_m3"]
        assert 1 < rows.loc[name, "n_effective"] <= 23


def test_the_runs_own_series_give_the_fitted_density(world):
    totals = sum_totals(world["fusion"], world["mass"], world["mascons"], ApplicationSettings())
    table = couple_sheet(totals, [], SETTINGS).set_index("treatment")
    assert list(table.index) == list(TREATMENTS) and (table["step_months"] == 1).all()
    fitted = totals.loc[totals["source"] == "altimetry_fitted"].iloc[0]
    for end in ("", "_lower", "_upper"):
        name = f"density{end}_kg_m3"
        assert table.loc["raw", name] == pytest.approx(fitted[name])
    assert table.loc["detrended", "density_kg_m3"] == pytest.approx(600, rel=0.1)
    assert table.loc["raw", "n"] == 74


def test_too_short_a_record_is_null_with_its_length():
    references, _ = published(np.random.default_rng(10))
    short = Reference("V", "volume", "instant", references[0].frame.iloc[:7])
    table = couple_sheet(no_totals(), [short, references[1]], SETTINGS)
    row = table[(table["volume"] == "V") & (table["mass"] == "M")].iloc[0]
    assert np.isnan(row["r"]) and row["n"] == 7
    assert row["reason"] == "7 pairs over 21 months: a coupling needs 12 over 24"
    check(from_pandas(table), SHEET_COUPLING)


def test_of_quarters_the_semi_annual_sine_is_not_removed():
    """It is nearly zero at every quarter: two harmonics take three directions, not four."""
    taken = {
        name: round(23 - np.trace(build_filter(name, YEARS, np.ones(23, bool)).project))
        for name in TREATMENTS
    }
    assert taken == {"raw": 1, "detrended": 2, "deseasonalised": 5}
    years = year_fraction(month_range("2019-01", "2024-12"))
    whole = build_filter("deseasonalised", years, np.ones(72, bool))
    assert round(72 - np.trace(whole.project)) == 6
