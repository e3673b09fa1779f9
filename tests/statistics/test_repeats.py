"""Repeats of a beam pair over 5 000 and more nodes: two lines 90 m apart, every 91 days.

The worlds are those of the unit tests (``repeat_world``); settings are the defaults.
"""

from datetime import date

import numpy as np
import pytest
from scipy import stats

from tests.unit.elevation.conftest import repeat_world

from .conftest import (
    AMPLITUDE_BIAS,
    FITTED,
    NODES,
    OUTLIER_BIAS,
    SETTINGS,
    assert_held,
    assert_unbiased,
    draw_truths,
    fit,
    held,
    true_change,
)

RATE, AMPLITUDE, PHASE = -0.5, 0.3, 1.0
DATES = ["2018-10-01", "2020-01-01", "2020-02-15", "2021-07-15", "2022-10-20", "2024-12-31"]


@pytest.fixture(scope="module")
def default():
    """25 repeats, 40 segments each; 0.05 m noise of segments, 0.03 m of passes."""
    return fit(repeat_world(NODES))


def test_bias_with_one_truth(default):
    assert_unbiased(default[0], RATE, AMPLITUDE)


def test_intervals_hold_the_rate(default):
    fits, _ = default
    assert_held(fits["rate_m_yr"] - RATE, fits["rate_sigma_m_yr"])


def test_intervals_hold_the_months(default):
    _, months = default
    assert months["node_id"].nunique() >= FITTED
    error = months["dh_m"] - true_change(months["month"].to_numpy(), RATE, AMPLITUDE, PHASE)
    assert abs(error.mean()) < 0.003
    assert_held(error, months["dh_sigma_m"])


def test_bias_where_truth_and_noise_change_from_node_to_node():
    """Noise 0.02 to 0.3 m, passes up to 0.1 m off."""
    truth = draw_truths(NODES, seed=11)
    rng = np.random.default_rng(12)
    noise = np.exp(rng.uniform(np.log(0.02), np.log(0.3), NODES))
    pass_noise = rng.uniform(0, 0.1, NODES)
    world = repeat_world(NODES, per_line=10, noise=noise, pass_noise=pass_noise, seed=13, **truth)
    fits, months = fit(world)
    assert_unbiased(fits, truth["rate"], truth["amplitude"])
    assert_held(fits["rate_m_yr"] - truth["rate"], fits["rate_sigma_m_yr"])
    of_node = truth.loc[months["node_id"]].reset_index(drop=True)
    error = months["dh_m"] - true_change(months["month"].to_numpy(), **of_node)
    assert_held(error, months["dh_sigma_m"])
    # No part of the truth is lost: fitted against planted is a line of slope one.
    cosine = truth["amplitude"] * np.cos(truth["phase"])
    found = fits["amplitude_m"] * np.cos(fits["phase_rad"])
    assert np.polyfit(truth["rate"], fits["rate_m_yr"], 1)[0] == pytest.approx(1.0, abs=0.001)
    assert np.polyfit(cosine, found, 1)[0] == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize("pass_noise", [0.0, 0.03, 0.1])
@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1, 0.3])
def test_noise_makes_no_bias_and_its_interval(noise, pass_noise):
    fits, _ = fit(repeat_world(NODES, per_line=6, noise=noise, pass_noise=pass_noise, seed=21))
    assert_unbiased(fits, RATE, AMPLITUDE)
    assert_held(fits["rate_m_yr"] - RATE, fits["rate_sigma_m_yr"])


@pytest.mark.parametrize("pass_noise", [0.0, 0.03])
@pytest.mark.parametrize("repeats", [8, 9, 10, 12, 16, 20])
def test_passes(repeats, pass_noise):
    world = repeat_world(NODES, repeats, 6, noise=0.03, pass_noise=pass_noise, seed=31)
    fits, _ = fit(world)
    assert_unbiased(fits, RATE, AMPLITUDE)
    assert_held(fits["rate_m_yr"] - RATE, fits["rate_sigma_m_yr"])


@pytest.mark.parametrize("pass_noise", [0.0, 0.03, 0.05])
@pytest.mark.parametrize("repeats", [6, 7])
def test_passes_too_few_to_show_their_noise(repeats, pass_noise):
    """0.05 m are taken for granted: intervals are too wide where passes err less."""
    fits, _ = fit(repeat_world(NODES, repeats, 6, noise=0.03, pass_noise=pass_noise, seed=41))
    assert_unbiased(fits, RATE, AMPLITUDE)
    share_68, share_95 = held(fits["rate_m_yr"] - RATE, fits["rate_sigma_m_yr"])
    assert share_68 > 0.62
    assert share_95 > 0.92


def test_reference_date_moves_neither_rate_nor_amplitude():
    world = repeat_world(NODES, per_line=6, seed=51)
    first, _ = fit(world)
    for day in DATES:
        settings = SETTINGS.model_copy(update={"reference_date": date.fromisoformat(day)})
        fits, months = fit(world, settings)
        assert_unbiased(fits, RATE, AMPLITUDE)
        for name in ("rate_m_yr", "rate_sigma_m_yr", "amplitude_m", "phase_rad"):
            assert np.abs(fits[name] - first[name]).max() < 1e-9
        since = (months["month"].to_numpy(), RATE, AMPLITUDE, PHASE, day)
        assert abs((months["dh_m"] - true_change(*since)).mean()) < 0.003


@pytest.mark.parametrize("planted", [0.02, 0.05, 0.1, 0.2, 0.5])
def test_amplitudes(planted):
    fits, _ = fit(repeat_world(NODES, per_line=6, amplitude=planted, seed=61))
    assert_unbiased(fits, RATE, planted)


@pytest.mark.parametrize(("planted", "pass_noise"), [(0.0, 0.03), (0.02, 0.1), (0.3, 0.3)])
def test_amplitude_is_too_large_where_noise_rules_it(planted, pass_noise):
    """The length of a noisy vector (Rice 1945): cosine and sine themselves have no bias.

    Here the bound on the amplitude does not hold, and cannot: 25 passes of 0.03 m noise plant
    0.011 m where there is no annual cycle; with 0.3 m it takes passes of 0.27 m noise.
    """
    world = repeat_world(
        NODES, per_line=6, amplitude=planted, pass_noise=pass_noise, jitter=0.0, seed=71
    )
    fits, _ = fit(world)
    t = np.unique(world.year)
    angle = 2 * np.pi * t
    design = np.column_stack([np.ones(t.size), t - t.mean(), np.cos(angle), np.sin(angle)])
    variances = np.diag(np.linalg.inv(design.T @ design))[2:] * (pass_noise**2 + 0.05**2 / 12)
    sigma = np.sqrt(variances.mean())
    found = fits["amplitude_m"].mean()
    assert found - planted > AMPLITUDE_BIAS
    assert found == pytest.approx(stats.rice.mean(planted / sigma, scale=sigma), rel=0.02)
    for part in (np.cos, np.sin):
        component = fits["amplitude_m"] * part(fits["phase_rad"])
        assert component.mean() == pytest.approx(planted * part(PHASE), abs=4 * sigma / 72)


def spoil(world, kind, seed=81):
    """One segment in twenty grossly off."""
    rng = np.random.default_rng(seed)
    size = world.x.size
    error = {
        "both_signs": lambda: rng.normal(0, 30, size),
        "clouds_above": lambda: np.abs(rng.normal(0, 30, size)),
        "scattered_below": lambda: -rng.exponential(3.0, size),
        "just_above": lambda: rng.exponential(1.0, size),
    }[kind]()
    world.height = world.height + error * (rng.random(size) < 0.05)
    return world


@pytest.mark.parametrize("kind", ["both_signs", "clouds_above", "scattered_below", "just_above"])
@pytest.mark.parametrize("repeats", [12, 25])
def test_gross_outliers(kind, repeats):
    fits, _ = fit(spoil(repeat_world(NODES, repeats, 10, seed=82), kind))
    assert_unbiased(fits, RATE, AMPLITUDE, rate_bias=OUTLIER_BIAS)
    assert_held(fits["rate_m_yr"] - RATE, fits["rate_sigma_m_yr"])


@pytest.mark.parametrize("sign", ["both", "above"])
def test_whole_passes_in_clouds(sign):
    """One pass in twenty tens of metres off: up to five of a node's 25."""
    world = repeat_world(NODES, per_line=10, seed=91)
    rng = np.random.default_rng(92)
    error = rng.normal(0, 30, (NODES, 25)) * (rng.random((NODES, 25)) < 0.05)
    if sign == "above":
        error = np.abs(error)
    world.height = world.height + error[world.node, world.passes]
    fits, _ = fit(world)
    assert_unbiased(fits, RATE, None, rate_bias=OUTLIER_BIAS)
    assert abs((fits["amplitude_m"] - AMPLITUDE).median()) < AMPLITUDE_BIAS
    assert_held(fits["rate_m_yr"] - RATE, fits["rate_sigma_m_yr"])
