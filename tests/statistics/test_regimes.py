"""Regimes of planted worlds: the planted ones come back, and the same under every seed.

Worlds of other seeds than any that the rule was made with; nodes on a 16 km grid with the noise
of the demo's fits.
"""

from itertools import combinations

import pytest
from sklearn.metrics import adjusted_rand_score

from cryofuse.config import RegimeSettings
from cryofuse.learning.regimes import cluster_regimes
from cryofuse.mascons.footprints import load_footprints
from tests.planted_nodes import plant

WORLDS, SEEDS = range(100, 108), 20


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
