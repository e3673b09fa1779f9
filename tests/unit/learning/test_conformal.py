"""Conformal intervals: rank, coverage and the scale by month, against counting and formulas."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryofuse.learning.conformal import (
    GROWING_SHARE,
    Growth,
    calibrate,
    conformal_radius,
    fewest_residuals,
    fit_growth,
)

MONTHS = np.arange("2019-01", "2025-04", dtype="datetime64[M]").astype("datetime64[us]")
FLAT = Growth(0, (0.0, 0.0, 0.0), 0.0)


@given(
    st.lists(st.integers(-1000, 1000), min_size=1, max_size=120),
    st.integers(1, 99),
)
def test_radius_is_the_smallest_residual_that_enough_of_n_plus_one_reach(residuals, percent):
    """By counting: a new residual ranks anywhere among n + 1; too few can hold none."""
    share, n = Fraction(percent, 100), len(residuals)
    sizes = [abs(value) for value in residuals]
    enough = [a for a in sizes if Fraction(sum(b <= a for b in sizes), n + 1) >= share]
    found = conformal_radius(np.array(residuals, float), percent / 100)
    assert found == min(enough) if enough else np.isnan(found)
    assert (n >= fewest_residuals(percent / 100)) == bool(enough)


def test_exchangeable_residuals_are_covered_as_often_as_their_rank_says():
    # Exactly ⌈(n + 1)·0.9⌉ / (n + 1) of new residuals lie inside, on average over calibrations.
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        radius = conformal_radius(rng.standard_t(3, size=49), 0.9)
        covered.append(np.mean(np.abs(rng.standard_t(3, size=400)) <= radius))
    assert np.mean(covered) == pytest.approx(45 / 50, abs=0.01)


def test_too_few_residuals_make_no_interval_and_say_so():
    assert fewest_residuals(0.9) == 9 and fewest_residuals(0.95) == 19
    for count in (0, 8):
        found = calibrate(np.ones(count), MONTHS[:count], FLAT, 0.9)
        assert np.isnan(found.radius(MONTHS[:3])).all()
        assert found.reason == (f"{count} inner residuals, fewer than the 9 of a 90 % interval")
    found = calibrate(np.arange(1.0, 10.0), MONTHS[:9], FLAT, 0.9)
    assert found.reason is None and found.n == 9
    assert np.array_equal(found.radius(MONTHS[:3]), [9.0, 9.0, 9.0])


@pytest.mark.parametrize("first", ["1969-11", "2019-01"])
def test_scale_of_a_trend_is_the_trend(first):
    """Mean square 4 + 2·t + 9·t²: noise, a random walk and a trend come back and go on."""
    month = (np.datetime64(first, "M") + np.arange(60)).astype("datetime64[us]")
    time = np.arange(60.0)
    size = np.sqrt(4 + 2 * time + 9 * time**2)
    growth = fit_growth(np.repeat(month, 2), np.column_stack([size, -size]).ravel())
    assert growth.coefficients == pytest.approx((4, 2, 9), rel=1e-6)
    later = month + np.timedelta64(366, "D") * 3
    elapsed = (later.astype("datetime64[M]") - month[0].astype("datetime64[M]")).astype(float)
    expected = (1 - GROWING_SHARE) * np.mean(size**2) + GROWING_SHARE * (
        4 + 2 * elapsed + 9 * elapsed**2
    )
    assert growth.scale(later) == pytest.approx(np.sqrt(expected), rel=1e-6)
    # Before the first training month the scale is that month's.
    assert growth.scale(month[:1] - np.timedelta64(900, "D")) == growth.scale(month[:1])


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 5.0]), st.floats(0.01, 100))
def test_scale_never_shrinks_and_has_the_unit_of_the_target(seed, trend, unit):
    rng = np.random.default_rng(seed)
    value = trend * np.arange(40) + rng.normal(size=40)
    growth = fit_growth(MONTHS[:40], value)
    scale = growth.scale(MONTHS)
    assert (scale > 0).all() and (np.diff(scale) >= 0).all()
    assert fit_growth(MONTHS[:40], unit * value).scale(MONTHS) == pytest.approx(
        unit * scale, rel=1e-6
    )


def test_target_without_any_value_but_zero_has_a_scale_of_one():
    assert np.array_equal(fit_growth(MONTHS[:5], np.zeros(5)).scale(MONTHS), np.ones(len(MONTHS)))


def test_errors_that_grow_with_the_target_are_covered_beyond_the_training_months():
    """Walks with a trend: E[value²] = t² + 2t; half of the errors' mean square grows so."""
    rng = np.random.default_rng(4)
    early, late = slice(0, 40), slice(52, 75)
    time = np.arange(1.0, 76.0)
    square = time**2 + 2 * time
    sigma = np.sqrt((square[early].mean() + square) / 2)[:, np.newaxis]
    month = np.repeat(MONTHS, 40).reshape(75, 40)
    flat, scaled = [], []
    for _ in range(200):
        value = np.cumsum(1 + rng.normal(size=(75, 40)) * np.sqrt(2), axis=0)
        error = sigma * rng.normal(size=value.shape)
        growth = fit_growth(month[early].ravel(), value[early].ravel())
        found = calibrate(error[early].ravel(), month[early].ravel(), growth, 0.9)
        scaled.append(np.mean(np.abs(error[late]) <= found.radius(month[late])))
        flat.append(np.mean(np.abs(error[late]) <= conformal_radius(error[early].ravel(), 0.9)))
    assert np.mean(flat) < 0.75
    assert 0.88 < np.mean(scaled) < 0.92
