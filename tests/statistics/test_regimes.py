"""Regimes of planted worlds: the planted ones come back, and the same under every seed.

Worlds of other seeds than any that the rule was made with; nodes on a 16 km grid with the noise
of the demo's fits (rates off by 0.02 m/yr, one in ten three times that, cycles by 0.025 m).
"""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from cryofuse.calendar import month_middle, month_range, year_fraction
from cryofuse.config import RegimeSettings, WorldSettings, load_region
from cryofuse.geo import unproject
from cryofuse.learning.regimes import cluster_regimes
from cryofuse.mascons.footprints import load_footprints
from cryofuse.simulate.world import World

WORLDS, SEEDS = range(100, 108), 20
SPACING_M = 16_000.0
MONTHS = month_range("2018-10", "2024-12")
REGION = load_region("demo", Path(__file__).parents[2] / "config/regions")


def plant(seed):
    """Nodes of a world with noise, and the planted regime of each."""
    world = World(WorldSettings(seed=seed), REGION)
    rng = np.random.default_rng(seed)
    x_min, y_min, x_max, y_max = world.outline.bounds
    x, y = np.meshgrid(np.arange(x_min, x_max, SPACING_M), np.arange(y_min, y_max, SPACING_M))
    inside = world.outline_contains(x, y)
    x, y = x[inside], y[inside]
    longitude, latitude = unproject(x, y, world.crs)
    # Offset, rate, cosine and sine by least squares on the true months, as a fit would see them.
    t = year_fraction(month_middle(MONTHS))
    design = np.column_stack([t**0, t - t.mean(), np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)])
    change = world.elevation_change(x[:, None], y[:, None], month_middle(MONTHS))
    _, rate, cosine, sine = np.linalg.pinv(design) @ change.T
    left = change.T - design @ np.linalg.pinv(design) @ change.T
    sigma = 0.02 * np.where(rng.random(x.size) < 0.1, 3.0, 1.0)
    cycle = cosine + 1j * sine + 0.025 * (rng.normal(size=x.size) + 1j * rng.normal(size=x.size))
    nodes = pd.DataFrame(
        {
            "node_id": np.arange(x.size), "x_m": x, "y_m": y, "latitude": latitude,
            "longitude": longitude, "area_km2": (SPACING_M / 1e3) ** 2,
            "rate_m_yr": rate + sigma * rng.normal(size=x.size), "rate_sigma_m_yr": sigma,
            "amplitude_m": np.abs(cycle), "phase_rad": np.angle(cycle),
            "slope": np.hypot(*world.slope(x, y)) * rng.lognormal(0, 0.08, x.size),
            "elevation_m": world.topography(x, y),
            "interannual_m": left.std(axis=0) * rng.lognormal(0, 0.12, x.size),
            "bed_m": np.nan,
        }
    )  # fmt: skip
    return nodes, world.regime(x, y)


@pytest.fixture(scope="module")
def mascons():
    return load_footprints("jpl_greenland")


def found(nodes, mascons, **settings):
    result = cluster_regimes(nodes, mascons, RegimeSettings(bootstraps=5, k_max=8, **settings))
    return result.nodes.to_pandas()["regime"], result.mascons.to_pandas()["regime"]


@pytest.mark.parametrize("seed", WORLDS)
def test_planted_regimes_come_back(seed, mascons):
    nodes, planted = plant(seed)
    regime, _ = found(nodes, mascons)
    assert regime.notna().all()
    assert adjusted_rand_score(planted, regime) >= 0.8


def test_twenty_seeds_agree(mascons):
    nodes, _ = plant(WORLDS[0])
    runs = [found(nodes, mascons, seed=seed) for seed in range(SEEDS)]
    for one, other in combinations(runs, 2):
        assert adjusted_rand_score(one[0], other[0]) >= 0.99
        known = one[1].notna()
        assert known.sum() >= 20
        assert adjusted_rand_score(one[1][known], other[1][known]) >= 0.99
