"""Conformal intervals: rank, coverage and the scale by month, against counting and formulas."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryofuse.learning.conformal import (
    SMALLEST_SHARE,
    calibrate,
    conformal_radius,
    fewest_residuals,
    fit_growth,
)
from cryofuse.learning.splits import Fold

MONTHS = np.arange("2019-01", "2025-04", dtype="datetime64[M]").astype("datetime64[us]")


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
    mascon, month, value = np.zeros(30), MONTHS[:30], np.zeros(30)
    for count in (0, 8, 9):
        fold = Fold(0, np.arange(15), np.arange(20, 20 + count))
        inner = [fold] if count else []
        residuals = np.arange(1.0, count + 1)
        found = calibrate(residuals, inner, mascon, month, value, 0.9)
        assert found.n == count
        if count == 9:
            assert found.reason is None
            assert np.array_equal(found.radius(MONTHS[30:33]), [9.0, 9.0, 9.0])
        else:
            assert np.isnan(found.radius(MONTHS[30:33])).all()
            assert found.reason == (f"{count} inner residuals, fewer than the 9 of a 90 % interval")


def trending(noise=0.0, mascons=2, months=60):
    """Mascon, month and value of series ±√(4 + 9·t²), with noise."""
    size = np.sqrt(4 + 9 * np.arange(months) ** 2)
    value = np.outer(size, np.tile([1, -1], mascons // 2))
    value = value + noise * np.random.default_rng(0).normal(size=value.shape)
    ids = np.tile(np.arange(mascons), (months, 1))
    month = np.repeat(MONTHS[:months], mascons)
    return ids.ravel(), month, value.ravel()


def test_scale_is_of_the_targets_size_by_month_and_of_its_change_over_the_lead():
    growth = fit_growth(*trending())
    assert growth.by_month == pytest.approx((4, 0, 9), rel=1e-6, abs=1e-6)
    assert (growth.first_month, growth.last_month) == (12 * 49, 12 * 49 + 59)
    # Far from its zero the series is 3·t: over a lead of n months it changes by 3·n.
    lead = np.arange(5, 15)
    later = (MONTHS[59].astype("datetime64[M]") + lead).astype("datetime64[us]")
    expected = np.sqrt(4 + 9 * (59 + lead) ** 2) * 9 * lead**2
    assert growth.scale(later) / growth.scale(later[:1]) == pytest.approx(
        expected / expected[0], rel=0.02
    )
    # The lead counts from where an inner fold's training ends.
    earlier = growth.scale(later, growth.last_month - 10)
    assert earlier / growth.scale(later) == pytest.approx((lead + 10) ** 2 / lead**2, rel=0.05)


def test_months_within_training_have_no_lead_and_a_smallest_size():
    growth = fit_growth(*trending())
    scale = growth.scale(MONTHS[:60])
    square = 4 + 9 * np.arange(60.0) ** 2
    expected = np.sqrt(np.maximum(square, SMALLEST_SHARE * square.mean()))
    assert scale / scale[-1] == pytest.approx(expected / expected[-1], rel=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 5.0]), st.floats(0.01, 100))
def test_scale_never_shrinks_and_intervals_have_the_unit_of_the_target(seed, trend, unit):
    rng = np.random.default_rng(seed)
    value = trend * np.arange(40) + rng.normal(size=40)
    residuals, fold = rng.normal(size=15), Fold(0, np.arange(20), np.arange(25, 40))
    found = calibrate(residuals, [fold], np.zeros(40), MONTHS[:40], value, 0.9)
    radius = found.radius(MONTHS)
    assert (radius > 0).all() and (np.diff(radius) >= 0).all()
    scaled = calibrate(unit * residuals, [fold], np.zeros(40), MONTHS[:40], unit * value, 0.9)
    assert scaled.radius(MONTHS) == pytest.approx(unit * radius, rel=1e-4)


def test_inner_folds_that_end_last_calibrate():
    mascon, month, value = np.zeros(60), MONTHS[:60], np.zeros(60)
    early = Fold(0, np.arange(20), np.arange(25, 40))
    late = Fold(1, np.arange(35), np.arange(40, 60))
    residuals = np.concatenate([np.full(15, 7.0), np.full(20, 3.0)])
    found = calibrate(residuals, [early, late], mascon, month, value, 0.9)
    assert found.n == 20
    assert found.radius(MONTHS[-1:]) == [3.0]
    # Folds that leave mascons out end together, and all count.
    beside = Fold(1, np.arange(20), np.arange(40, 60))
    assert calibrate(residuals, [early, beside], mascon, month, value, 0.9).n == 35


def test_target_that_never_moves_has_the_same_interval_everywhere():
    growth = fit_growth(np.zeros(5), MONTHS[:5], np.zeros(5))
    assert np.array_equal(growth.scale(MONTHS), np.ones(len(MONTHS)))


def test_errors_that_grow_as_the_scale_are_covered_beyond_the_training_months():
    """Errors in proportion to |E[value²]|^½ × E[change²], from the formula of a trend."""
    rng = np.random.default_rng(4)
    time, train = np.arange(75.0), 40
    ids, month = np.tile(np.arange(40), (75, 1)), np.repeat(MONTHS, 40).reshape(75, 40)
    inner = Fold(0, np.arange(20 * 40), np.arange(30 * 40, train * 40))
    flat, scaled = [], []
    for _ in range(100):
        value = 3 * (time[:, np.newaxis] + 1) * np.ones(40) + 0.1 * rng.normal(size=(75, 40))
        past = [ids[:train].ravel(), month[:train].ravel(), value[:train].ravel()]
        sigma = np.ones((75, 1))
        sigma[30:train] = ((time + 1) * (time - 19) ** 2)[30:train, np.newaxis]
        sigma[52:] = ((time + 1) * (time - train + 1) ** 2)[52:, np.newaxis]
        error = sigma * rng.normal(size=value.shape)
        found = calibrate(error[30:train].ravel(), [inner], *past, 0.9)
        scaled.append(np.mean(np.abs(error[52:]) <= found.radius(month[52:])))
        radius = conformal_radius(error[30:train].ravel(), 0.9)
        flat.append(np.mean(np.abs(error[52:]) <= radius))
    assert np.mean(flat) < 0.6
    assert 0.88 < np.mean(scaled) < 0.92
