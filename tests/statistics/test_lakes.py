"""Active lakes from segments to candidates, anywhere on the ice: found, false, dates, volumes."""

import pandas as pd
import pytest

from tests.planted_lakes import CROSSED_NODES, make_world, observe_nodes, score, search

#: The first seeds, whatever they draw: worlds without surface water; one low on the ice with a
#: pond beside the lake.
WORLDS = (
    *({"seed": seed, "windows": 2} for seed in range(1, 6)),
    {"seed": 3, "windows": 1, "per_window": 1, "ponds": 1},
)
FOUND, FALSE = 0.8, 0.2
REPEAT_DAYS = 91


@pytest.fixture(scope="module")
def scored():
    """Scores of what was planted, with the candidates that are nothing planted."""
    scores, false = [], 0
    for options in WORLDS:
        world = make_world(**options)
        nodes, months = observe_nodes(world)
        table, others = score(world, nodes, search(nodes, months))
        scores.append(table)
        false += len(others)
    return pd.concat(scores, ignore_index=True), false


def test_lakes_are_found_and_little_else(scored):
    table, false = scored
    lakes = table[~table["pond"].astype(bool) & (table["nodes"] >= CROSSED_NODES)]
    found = int((lakes["found"] > 0).sum())
    assert len(lakes) >= 12
    assert found >= FOUND * len(lakes)
    assert false <= FALSE * (found + false)
    assert (table["found"][table["pond"].astype(bool)] == 0).all()


def test_drains_are_dated_and_measured(scored):
    table, _ = scored
    errors = table["drain_error_days"].dropna().abs()
    assert len(errors) >= 5
    assert (errors <= REPEAT_DAYS).all()
    ratio = (table["drained_km3"] / table["volume_km3"]).dropna()
    assert 0.6 < ratio.median() < 1.2
