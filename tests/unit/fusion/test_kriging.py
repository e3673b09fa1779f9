"""Weights and variances of a linear variogram against closed formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryofuse.fusion.kriging import NEIGHBOURS, krige, leave_one_out

#: The variogram's nugget is 1 m beside distances of kilometres.
CLOSE = 1e-3


def test_half_way_between_two_places_each_counts_half():
    known = np.array([[0.0, 0.0], [10_000.0, 0.0]])
    middle = krige(known, np.array([[5_000.0, 0.0]]))
    assert middle.weight[0].tolist() == pytest.approx([0.5, 0.5])
    # 2 Σ λ γ(i, 0) − Σ Σ λ λ γ(i, j) = 2·5 km − 2·(1/4)·10 km.
    assert middle.variance_m[0] == pytest.approx(5_000.0, rel=CLOSE)
    assert middle.apply(np.array([1.0, 4.0])).tolist() == pytest.approx([2.5])


def test_on_a_line_values_are_interpolated_and_not_carried_beyond():
    known = np.column_stack([[0.0, 10_000.0, 30_000.0], np.zeros(3)])
    found = krige(known, np.array([[5_000.0, 0.0], [15_000.0, 0.0], [90_000.0, 0.0]]))
    values = found.apply(np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]))
    # A line of places and a linear variogram: only the two beside a place speak for it.
    assert values[:, 0].tolist() == pytest.approx([1.0, 2.5, 4.0], abs=2e-3)
    assert values[:, 1].tolist() == pytest.approx([1.0, 1.0, 1.0])
    # One place 60 km away and no other: 2γ.
    assert found.variance_m[2] == pytest.approx(120_000.0, rel=CLOSE)


def test_one_known_place_speaks_for_all_and_a_place_given_twice_is_no_contradiction():
    alone = krige(np.array([[1.0, 2.0]]), np.array([[8.0, 2.0], [1e6, 2.0]]))
    assert alone.weight.tolist() == [[1.0], [1.0]]
    twice = krige(np.array([[0.0, 0.0], [0.0, 0.0]]), np.array([[5_000.0, 0.0]]))
    assert twice.weight[0].tolist() == pytest.approx([0.5, 0.5])


def test_a_place_left_out_is_told_by_the_others_alone():
    rng = np.random.default_rng(2)
    places = rng.uniform(0, 1e5, (60, 2))
    values = rng.normal(size=60)
    left = leave_one_out(places)
    assert left.index.shape == (60, NEIGHBOURS)
    assert not (left.index == np.arange(60)[:, np.newaxis]).any()
    for number in (0, 17, 59):
        others = np.delete(np.arange(60), number)
        alone = krige(places[others], places[[number]])
        assert left.apply(values)[number] == pytest.approx(alone.apply(values[others])[0])
        assert left.variance_m[number] == pytest.approx(alone.variance_m[0])


@given(st.integers(1, 40), st.integers(0, 10_000))
def test_weights_sum_to_one_and_variance_grows_with_distance(count, seed):
    rng = np.random.default_rng(seed)
    known = rng.uniform(0, 1e5, (count, 2))
    found = krige(known, np.array([[50_000.0, 150_000.0], [50_000.0, 900_000.0]]))
    assert found.weight.sum(axis=1).tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert 0 < found.variance_m[0] < found.variance_m[1]
