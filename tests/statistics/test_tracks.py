"""ICESat-2's sampling at its default density: 1 470 segments per km² after 25 cycles.

Ascending and descending tracks of three beam pairs, the first two cycles off their tracks, gaps,
and relief that a biquadratic surface does not describe (``track_world``); default settings.
"""

import numpy as np
import pandas as pd
import pytest

from tests.unit.elevation.conftest import track_world

from .conftest import (
    FITTED,
    OUTLIER_BIAS,
    assert_held,
    assert_unbiased,
    draw_truths,
    fit,
    true_change,
)

#: Worlds and nodes of each: a twelfth of the nodes lie between all tracks.
WORLDS, NODES = 5, 1150


@pytest.fixture(scope="module")
def fitted():
    """Fits and months with the truth beside them; noise 0.02 to 0.3 m, passes 0.03 m off."""
    parts = []
    for number in range(WORLDS):
        truth = draw_truths(NODES, seed=number)
        noise = np.exp(np.random.default_rng(number).uniform(np.log(0.02), np.log(0.3), NODES))
        world = track_world(NODES, noise=noise, seed=100 + number, **truth)
        fits, months = fit(world)
        planted = truth.assign(noise=noise, near=np.bincount(world.node, minlength=NODES))
        parts.append((pd.concat([fits, planted], axis=1), months.join(truth, on="node_id")))
    return tuple(pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))


def test_sampling_is_the_default_density(fitted):
    fits, _ = fitted
    assert fits["near"].mean() / np.pi == pytest.approx(1470, rel=0.03)
    passes = fits["n_epochs"][fits["reason"].isna()]
    assert passes.quantile(0.05) < 24 < 60 < passes.quantile(0.95)
    # Relief stands out of what a biquadratic surface describes.
    quiet = fits[fits["noise"] < 0.04]
    assert (quiet["rms_m"] / quiet["noise"]).median() > 2


def test_bias(fitted):
    fits, _ = fitted
    assert_unbiased(fits, fits["rate"], fits["amplitude"])


def test_intervals_hold_the_rate(fitted):
    fits, _ = fitted
    assert fits["reason"].isna().sum() >= FITTED
    error = fits["rate_m_yr"] - fits["rate"]
    assert_held(error, fits["rate_sigma_m_yr"])
    for part in (fits["n_epochs"] < 24, fits["n_epochs"] > 40):
        assert part.sum() > 1000
        assert_held(error[part], fits["rate_sigma_m_yr"][part])


def test_intervals_hold_the_months(fitted):
    _, months = fitted
    assert len(months) > 50_000
    truth = [months[name] for name in ("rate", "amplitude", "phase")]
    error = months["dh_m"] - true_change(months["month"].to_numpy(), *truth)
    assert_held(error, months["dh_sigma_m"])


@pytest.mark.parametrize("above", [False, True])
def test_gross_outliers(above):
    """1 150 nodes, one segment in twenty tens of metres off."""
    world = track_world(NODES, seed=201)
    rng = np.random.default_rng(202)
    error = rng.normal(0, 30, world.x.size) * (rng.random(world.x.size) < 0.05)
    world.height += np.abs(error) if above else error
    fits, _ = fit(world)
    assert_unbiased(fits, -0.5, 0.3, fitted=1000, rate_bias=OUTLIER_BIAS)
    assert_held(fits["rate_m_yr"] + 0.5, fits["rate_sigma_m_yr"])
