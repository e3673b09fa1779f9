"""Coupling against known truths: false alarms, planted lags, planted effective densities."""

import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter

from cryofuse.calendar import month_middle, month_range, year_fraction
from cryofuse.config import CouplingSettings, PeriodSettings, RegionSettings, WorldSettings
from cryofuse.learning.coupling import couple_series
from cryofuse.simulate.mascons import plant_mass, tabulate_truth
from cryofuse.simulate.world import World
from tests.conftest import ROOT

TREATMENTS = ["raw", "detrended", "deseasonalised"]
#: Pairs of unrelated series, and the shares of a nominal 5 % test (%) that hold.
PAIRS, REJECTED = 2000, (3.5, 6.5)
#: Worlds and smallest share of ice of a mascon that is coupled.
SEEDS, ICE_SHARE = (7, 11, 12, 13, 14, 15, 16, 17), 0.04
#: Shares of mascons whose planted density an interval of 95 % may hold.
HELD = (0.90, 0.985)
OUTLINES = ROOT / "config" / "outlines"


def red(rng, phi, n):
    """A stationary AR(1) series of unit variance."""
    noise = np.sqrt(1 - phi**2) * rng.standard_normal(n + 200)
    return lfilter([1.0], [1.0, -phi], noise)[200:]


def reject(pairs, n=72, trend=0.0, cycle=0.0, phi=(0.7, 0.7), gaps=(), seed=1):
    """Percent of unrelated pairs called related at 5 %: at lag 0, and for the best of all lags."""
    settings = CouplingSettings(bootstrap_draws=1, surrogates=199)
    rng = np.random.default_rng(seed)
    months = month_range("2018-10", "2028-10")[:n]
    years = np.arange(n) / 12
    filters: dict = {}
    tables = []
    for number in range(pairs):
        series = []
        for one in phi:
            turn = rng.uniform(0, 2 * np.pi)
            moving = cycle * np.cos(2 * np.pi * years - turn) + trend * rng.normal() * years
            series.append(red(rng, one, n) + moving)
        series[1][list(gaps)] = np.nan
        found = couple_series(*series, months, settings, stream=number, filters=filters)
        tables.append(found[["treatment", "lag_months", "p", "p_best", "best"]])
    table = pd.concat(tables)
    at_zero = table[table["lag_months"] == 0].set_index("treatment")["p"] <= 0.05
    best = table[table["best"]].set_index("treatment")["p_best"] <= 0.05
    assert len(at_zero) == len(best) == 3 * pairs
    return 100 * pd.DataFrame(
        {"zero": at_zero.groupby(level=0).mean(), "best": best.groupby(level=0).mean()}
    )


def test_unrelated_red_noise_is_rejected_at_the_nominal_rate():
    rates = reject(PAIRS)
    assert sorted(rates.index) == sorted(TREATMENTS)
    assert ((rates >= REJECTED[0]) & (rates <= REJECTED[1])).to_numpy().all(), rates


@pytest.mark.parametrize(
    "case",
    [
        {"phi": (0.0, 0.0)},
        {"phi": (0.9, 0.9)},
        {"phi": (0.9, 0.3)},
        {"n": 36},
        {"n": 75, "gaps": (2, 3, 20, 21, 22)},
        {"cycle": 2.0},
    ],
    ids=str,
)
def test_other_unrelated_series_are_not_rejected_more_often(case):
    """Three standard errors of 300 pairs above 5 %; cycles of random phase make it less."""
    rates = reject(300, **case)
    assert (rates <= 5 + 3 * np.sqrt(5 * 95 / 300)).to_numpy().all(), rates


def test_a_trend_of_both_is_no_reason_to_reject_once_it_is_removed():
    """The raw treatment keeps trends, and its p calls unrelated series with trends related."""
    rates = reject(300, trend=0.7)
    removed = rates.drop(index="raw")
    assert (removed <= 5 + 3 * np.sqrt(5 * 95 / 300)).to_numpy().all(), rates
    assert (rates.loc["raw"] > 15).all()


# ------------------------------------------------------------------ planted lags and densities


def plant(seed):
    """Truth tables of a synthetic Greenland, no granule flown."""
    region = RegionSettings(
        title="Greenland",
        crs="EPSG:3413",
        outline=str(OUTLINES / "greenland.geojson"),
        coast=str(OUTLINES / "coast_arctic.geojson"),
        footprints="jpl_greenland",
    )
    world = World(WorldSettings(seed=seed), region, PeriodSettings(start="2018-10", end="2024-12"))
    return tabulate_truth(world, plant_mass(world))


def remove(treatment, years, values):
    columns = [np.ones(years.size)]
    if treatment != "raw":
        columns.append(years - years.mean())
    if treatment == "deseasonalised":
        for k in (1, 2):
            columns += [np.cos(2 * np.pi * k * years), np.sin(2 * np.pi * k * years)]
    design = np.column_stack(columns)
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def couple_world(seed, settings):
    """Best lags and densities of every mascon beside the planted ones.

    Altimetry's error is white, of 0.2 to 1.1 times the σ stated with it, as in runs on granules.
    """
    truth = plant(seed)
    facts = truth["mascons"].set_index("mascon_id")
    months = np.sort(truth["mascon_months"]["month"].unique())
    years = year_fraction(month_middle(months))
    rng = np.random.default_rng([seed, 1])
    rows = []
    filters: dict = {}
    for mascon_id, own in truth["mascon_months"].groupby("mascon_id"):
        fact = facts.loc[mascon_id]
        if not fact["ice_area_km2"] > ICE_SHARE * fact["land_area_km2"]:
            continue
        own = own.sort_values("month")
        scale = 10 * fact["land_area_km2"] / fact["ice_area_km2"]
        true, law = own["dh_m"].to_numpy(), own["lwe_law_cm"].to_numpy() * scale
        sigma = np.full(years.size, 0.06 * np.exp(0.7 * rng.standard_normal()))
        seen = true + rng.uniform(0.2, 1.1) * sigma * rng.standard_normal(years.size)
        seen[rng.random(years.size) < 0.03] = np.nan
        mass = own["lwe_cm"].to_numpy() * scale
        found = couple_series(
            seen, mass, months, settings, dh_sigma=sigma,
            mass_sigma=np.full(years.size, 5.6 * scale), stream=int(mascon_id), filters=filters,
        )  # fmt: skip
        planted = own["lwe_planted_cm"].to_numpy()
        known = np.isfinite(planted)
        noise = own["lwe_noise_cm"].to_numpy()[known].std()
        signal = remove("detrended", years[known], planted[known]).std()
        for row in found[found["best"]].to_dict("records"):
            lag = row["lag_months"]
            index = np.arange(max(-lag, 0), years.size - max(lag, 0))
            index = index[np.isfinite(seen[index]) & np.isfinite(mass[index + lag])]
            x, y = (
                remove(row["treatment"], years[index], v) for v in (true[index], law[index + lag])
            )
            row["true"] = x @ y / (x @ x)
            row["strong"] = signal >= 2 * noise
            row["planted_lag"] = fact["lag_months"]
            row["lag_seen"] = fact.get(f"lag_{row['treatment']}_months", np.nan)
            rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def worlds():
    settings = CouplingSettings(bootstrap_draws=1, surrogates=49)
    return pd.concat([couple_world(seed, settings) for seed in SEEDS], ignore_index=True)


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_intervals_hold_the_planted_density(worlds, treatment):
    rows = worlds[worlds["treatment"] == treatment]
    assert len(rows) > 25 * len(SEEDS)
    assert rows["density_kg_m3"].notna().all()
    inside = rows["true"].between(rows["density_lower_kg_m3"], rows["density_upper_kg_m3"])
    assert HELD[0] <= inside.mean() <= HELD[1], inside.mean()
    assert inside[rows["strong"]].mean() >= HELD[0]
    # Wide intervals would hold anything: they are narrow enough to tell firn from ice.
    strong = rows[rows["strong"]]
    half = (strong["density_upper_kg_m3"] - strong["density_lower_kg_m3"]) / 2
    assert half.median() < {"raw": 60, "detrended": 110, "deseasonalised": 190}[treatment]
    # Choosing the largest correlation steepens, noise flattens: the middle stays near the truth.
    error = (strong["density_kg_m3"] / strong["true"] - 1).median()
    assert abs(error) < {"raw": 0.03, "detrended": 0.06, "deseasonalised": 0.12}[treatment]


def test_planted_lags_are_found(worlds):
    strong = worlds[worlds["strong"] & (worlds["treatment"] == "detrended")]
    assert len(strong) > 8 * len(SEEDS)
    assert ((strong["lag_months"] - strong["lag_seen"]).abs() <= 1).mean() >= 0.95
    # Lags are whole months, planted ones are not: within one month of the nearest whole one.
    assert ((strong["lag_months"] - strong["planted_lag"]).abs() <= 1.5).mean() >= 0.95
    assert (strong["p_best"] <= 0.05).mean() > 0.9
