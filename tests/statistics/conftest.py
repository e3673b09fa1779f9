"""What the accuracy tests ask of node fits: bias against the truth and intervals that hold it."""

import numpy as np
import pandas as pd

from cryofuse.calendar import month_middle, month_range, year_fraction
from cryofuse.config import ElevationSettings
from cryofuse.elevation.anomalies import fit_months
from cryofuse.elevation.surface import sort_segments

SETTINGS = ElevationSettings()
MONTHS = month_range("2018-10", "2024-12")
#: Nodes of a world, and how many of them have to be fitted.
NODES, FITTED = 5200, 5000
#: Largest bias of a rate (m/yr), of an amplitude (m), of a rate with 5 % gross outliers (m/yr).
RATE_BIAS, AMPLITUDE_BIAS, OUTLIER_BIAS = 0.003, 0.01, 0.01
#: Shares of the truth that intervals of 1 σ (68 %) and 1.96 σ (95 %) have to hold.
HELD_68, HELD_95 = (0.62, 0.74), (0.92, 0.98)


def fit(world, settings=SETTINGS, sigma=None):
    """Fits and node months of a world; each segment's σ is the one its noise was drawn with."""
    segments = sort_segments(
        world.x, world.y, world.time, world.height, world.noise if sigma is None else sigma,
        world.passes,
    )  # fmt: skip
    radius = np.full(world.node_x.size, settings.search_radius_m)
    result = fit_months(segments, world.node_x, world.node_y, radius, settings, MONTHS)
    return result.fits, result.months.drop_columns("tracks").to_pandas()


def draw_truths(nodes, seed):
    """Rate, amplitude and phase of each node: 3 m/yr of thinning to 1 of thickening, 0 to 0.5 m."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "rate": rng.uniform(-3.0, 1.0, nodes),
            "amplitude": rng.uniform(0.0, 0.5, nodes),
            "phase": rng.uniform(-np.pi, np.pi, nodes),
        }
    )


def true_change(months, rate, amplitude, phase, since=SETTINGS.reference_date):
    """Change between a date and the middle of months (m), from the planted truth."""
    t, t0 = year_fraction(month_middle(months)), year_fraction(np.datetime64(since, "us"))
    cycle = np.cos(2 * np.pi * t - phase) - np.cos(2 * np.pi * t0 - phase)
    return rate * (t - t0) + amplitude * cycle


def assert_unbiased(fits, rate, amplitude, fitted=FITTED, rate_bias=RATE_BIAS):
    """Enough nodes are fitted; mean and median errors stay below the bounds."""
    good = fits["reason"].isna()
    assert good.sum() >= fitted
    errors = fits["rate_m_yr"] - rate
    assert abs(errors.mean()) < rate_bias
    assert abs(errors.median()) < rate_bias
    if amplitude is not None:
        errors = fits["amplitude_m"] - amplitude
        assert abs(errors.mean()) < AMPLITUDE_BIAS
        assert abs(errors.median()) < AMPLITUDE_BIAS


def held(error, sigma):
    """Shares of errors within 1 σ and 1.96 σ, among those that have both."""
    ratio = (np.abs(error) / sigma).dropna()
    return (ratio < 1).mean(), (ratio < 1.96).mean()


def assert_held(error, sigma):
    share_68, share_95 = held(error, sigma)
    assert HELD_68[0] < share_68 < HELD_68[1]
    assert HELD_95[0] < share_95 < HELD_95[1]
