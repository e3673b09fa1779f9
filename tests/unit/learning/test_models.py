"""Pipelines fit inside the fold; tuning and intervals rest on inner held-out samples."""

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest

from cryofuse.config import Model, SearchSettings
from cryofuse.learning import models
from cryofuse.learning.splits import random_folds

MODELS = get_args(Model)
NAMES = ("dh_change_1m_m", "dh_rate_m_yr", "season_cos", "latitude", "slope")
SEARCH = SearchSettings()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Fit as the skill module does."""
    with models.single_threaded():
        yield


def first(model: str) -> dict[str, object]:
    """Return the first settings tried of a model."""
    return models.list_candidates(SEARCH.space(model), 1)[0]


def data(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5))
    return x, 3 * x[:, 0] + 0.1 * rng.normal(size=n)


@pytest.mark.parametrize("model", MODELS)
def test_each_model_learns_and_copes_with_nulls(model: str) -> None:
    x, y = data()
    x[:, 4] = np.nan  # null in the whole training set
    x[:100:7, 1] = np.nan
    fitted = models.build(model, first(model), 200, 0, NAMES).fit(x[:150], y[:150])
    predicted = fitted.predict(x[150:])
    assert 1 - np.var(y[150:] - predicted) / np.var(y[150:]) > (0.4 if model == "ridge" else 0.6)


@pytest.mark.parametrize("model", MODELS)
def test_a_fit_is_the_same_twice(model: str) -> None:
    x, y = data()
    parameters = first(model)
    once, twice = (
        models.build(model, parameters, 10, 3, NAMES).fit(x, y).predict(x) for _ in range(2)
    )
    np.testing.assert_array_equal(once, twice)


@pytest.mark.parametrize("model", MODELS)
def test_candidates_are_distinct_and_nested(model: str) -> None:
    many = models.list_candidates(SEARCH.space(model), 50)
    assert len({str(item) for item in many}) == len(many) >= 5
    assert models.list_candidates(SEARCH.space(model), 2) == many[:2]


def test_candidates_are_the_configured_values_and_the_diagonal_comes_first() -> None:
    space = {"a": [1, 2], "b": ["x", "y", "z"], "c": [0.5]}
    found = [tuple(item.values()) for item in models.list_candidates(space, 99)]
    assert found[:3] == [(1, "x", 0.5), (2, "y", 0.5), (2, "z", 0.5)]
    assert set(found) == {(a, b, 0.5) for a in (1, 2) for b in "xyz"} and len(found) == 6


@pytest.mark.parametrize("model", MODELS)
def test_every_searched_parameter_reaches_the_model(model: str) -> None:
    last_step = models.build(model, first(model), 5, 0, NAMES)[-1]
    assert {name: last_step.get_params()[name] for name in first(model)} == first(model)


def test_the_imputer_sees_training_samples_only() -> None:
    x, y = data()
    fitted = models.build("ridge", {"alpha": 1.0}, 10, 0).fit(x[:50], y[:50])
    np.testing.assert_allclose(fitted[0].statistics_, np.median(x[:50], axis=0))
    np.testing.assert_allclose(fitted[1].mean_, x[:50].mean(axis=0))


def test_tuning_takes_the_smallest_held_out_error() -> None:
    x, y = data()
    inner = random_folds(len(y), 3, 0)
    space = SEARCH.space("ridge")
    tuned = models.tune("ridge", x, y, inner, space=space, candidates=5, trees=5, seed=0)
    errors = []
    for parameters in models.list_candidates(space, 5):
        total = 0.0
        for fold in inner:  # ridge written out: centred and scaled, intercept not shrunk
            z = (x - x[fold.train].mean(0)) / x[fold.train].std(0)
            a, b = z[fold.train], y[fold.train]
            weights = np.linalg.solve(
                a.T @ a + parameters["alpha"] * np.eye(5), a.T @ (b - b.mean())
            )
            total += np.sum((y[fold.test] - b.mean() - z[fold.test] @ weights) ** 2)
        errors.append(np.sqrt(total / len(y)))
    np.testing.assert_allclose(tuned.rmse, errors)
    assert tuned.parameters == models.list_candidates(space, 5)[int(np.argmin(errors))]
    assert np.sqrt(np.mean(tuned.residuals**2)) == pytest.approx(min(errors))


def test_without_inner_folds_the_first_candidate_is_taken() -> None:
    x, y = data()
    space = SEARCH.space("forest")
    tuned = models.tune("forest", x, y, [], space=space, candidates=3, trees=5, seed=0)
    assert tuned.parameters == first("forest")
    assert len(tuned.residuals) == 0
