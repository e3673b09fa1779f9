"""Slopes with errors in both, against closed formulas and planted values."""

import numpy as np
import pytest
from scipy import stats

from cryofuse.learning.density import fit_density, limit_sigma

YEARS = np.arange(75) / 12


def planted(rng, sigma=0.05, slope=600.0, spread=0.3, scatter=30.0):
    """Smooth elevation, seen with white noise, and mass that follows it with scatter."""
    smooth = np.convolve(rng.standard_normal(75 + 11), np.ones(12) / np.sqrt(12), "valid")
    dh = spread * smooth
    return dh, dh + sigma * rng.standard_normal(75), slope * dh + scatter * rng.standard_normal(75)


def test_sigma_is_held_below_what_the_series_shows():
    rng = np.random.default_rng(1)
    noise = 0.05 * rng.standard_normal(2000)
    known = np.ones(2000, bool)
    stated = np.full(2000, 0.2)
    # White noise of 0.05: second differences spread by sqrt(6) times that.
    held = limit_sigma(noise, stated, known)
    assert held == pytest.approx(np.full(2000, np.diff(noise, 2).std() / np.sqrt(6)), rel=0.01)
    assert held[0] == pytest.approx(0.05, rel=0.05)
    # What is stated is never raised, and its shape stays.
    uneven = np.where(np.arange(2000) % 2, 0.01, 0.02)
    np.testing.assert_array_equal(limit_sigma(noise, uneven, known), uneven)
    large = limit_sigma(noise, 10 * uneven, known)
    np.testing.assert_allclose(large / large[0], uneven / uneven[0])


def test_gaps_break_second_differences():
    series = np.arange(40.0) ** 2
    known = np.arange(40) % 3 != 2  # no three in a row
    np.testing.assert_array_equal(limit_sigma(series, np.full(40, 9.0), known), np.full(40, 9.0))


def test_an_overstated_sigma_does_not_steepen_the_line():
    rng = np.random.default_rng(2)
    errors = {True: [], False: []}
    for _ in range(30):
        _, seen, mass = planted(rng, scatter=100.0)
        for bound, found in errors.items():
            fit = fit_density(
                seen, mass, np.full(75, 0.15), np.full(75, 50.0), YEARS, "detrended",
                sigma_is_bound=bound,
            )  # fmt: skip
            found.append(fit.value / 600 - 1)
    assert np.median(errors[False]) > 0.15
    assert 0 < np.median(errors[True]) < 0.6 * np.median(errors[False])


def test_the_interval_of_a_bound_reaches_from_least_squares_to_york():
    rng = np.random.default_rng(3)
    _, seen, mass = planted(rng, sigma=0.15)
    arguments = (seen, mass, np.full(75, 0.15), np.full(75, 30.0), YEARS, "raw")
    wide = fit_density(*arguments, sigma_is_bound=True)
    plain = stats.linregress(seen, mass)
    assert wide.least_squares == pytest.approx(plain.slope)
    assert wide.value > wide.least_squares
    # As far below least squares as independent pairs would have it, at the least.
    assert wide.lower <= plain.slope - stats.t.ppf(0.975, 73) * plain.stderr * 0.99
    assert wide.upper > wide.value + (wide.value - wide.least_squares) / 2


def test_nulls_where_pairs_or_sigma_are_few():
    rng = np.random.default_rng(4)
    _, seen, mass = planted(rng)
    sigma = np.full(75, np.nan)
    none = fit_density(seen, mass, sigma, sigma, YEARS)
    assert np.isnan([none.value, none.lower, none.upper]).all()
    assert none.least_squares == pytest.approx(stats.linregress(seen, mass).slope)
    assert none.reason == "0 pairs with σ, fewer than 12"
    seen[11:] = np.nan
    few = fit_density(seen, mass, np.full(75, 0.1), sigma, YEARS)
    assert np.isnan(few.least_squares) and few.n == 11
    flat = fit_density(np.ones(75), mass, np.full(75, 0.1), sigma, YEARS)
    assert flat.reason == "a series does not vary"
