"""The models on one footing: scikit-learn pipelines fitted, tuned and calibrated inside a fold.

Each model is a pipeline whose imputer and scaler see training samples only. Its settings are
chosen on inner folds that mimic the outer split; the residuals of those inner held-out samples
calibrate its prediction interval. One fit uses one thread, so that results do not depend on how
many run beside each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import ThreadpoolController

from cryofuse.learning.terms import ICE, RATE, SEASON, VaryingDensity, WeighByIce, driver_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cryofuse.learning.splits import Fold

#: Bins of the boosted histograms: a few hundred to a few thousand samples need no more.
BINS = 64


@dataclass(frozen=True)
class Tuned:
    """Chosen settings and what the inner folds say about them.

    ``residuals`` are the inner held-out residuals (cm) of the chosen settings, fold after fold,
    ``rmse`` their root mean square for every candidate in order (empty without inner folds).
    """

    parameters: dict[str, Any]
    residuals: np.ndarray
    rmse: tuple[float, ...]


class DropEmpty(TransformerMixin, BaseEstimator):
    """Leave out columns without any value in the training samples: histograms need one."""

    def fit(self, x: np.ndarray, y: np.ndarray | None = None) -> DropEmpty:
        """Note which columns hold a value."""
        self.kept_ = np.isfinite(x).any(axis=0)
        return self

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Return the noted columns."""
        return x[:, self.kept_]


def list_candidates(space: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, Any]]:
    """Return the first ``count`` settings of a search space.

    The diagonal of the space comes first (all first choices, all second choices …), so that few
    candidates already differ in everything; the other combinations follow.

    Parameters
    ----------
    space
        Values tried for each parameter, at least one.
    count
        Most settings returned.
    """
    longest = max(len(values) for values in space.values())
    diagonal = [tuple(v[min(k, len(v) - 1)] for v in space.values()) for k in range(longest)]
    pairs = list(dict.fromkeys([*diagonal, *product(*space.values())]))
    return [dict(zip(space, values, strict=True)) for values in pairs[:count]]


def build(
    model: str, parameters: dict[str, Any], trees: int, seed: int, names: Sequence[str] = ()
) -> Pipeline:
    """Return an unfitted pipeline.

    Parameters
    ----------
    model
        ``ridge``, ``varying_density``, ``forest``, ``hist_gradient_boosting`` or ``xgboost``.
    parameters
        Settings of the last step.
    trees
        Trees of forests and boosting.
    seed
        Seed.
    names
        Names of the feature columns; without them nothing is weighed by ice, and there is no
        varying density.

    Returns
    -------
    Pipeline
        Elevation change enters times the ice fraction. Ridge and forest impute the training
        median and mark what was missing, the varying density imputes alone; the boosted models
        take missing values as they are.
    """
    weighed = []
    drivers = np.flatnonzero(driver_columns(names)).tolist()
    if drivers and ICE in names:
        weighed = [WeighByIce(drivers, list(names).index(ICE))]
    if model == "varying_density":
        if not names:
            raise ValueError("varying_density has to know the names of the features")
        season = [k for k, name in enumerate(names) if name in SEASON[:2]]
        place = [
            k
            for k, name in enumerate(names)
            if name == RATE or not (k in drivers or name in SEASON)
        ]
        impute = SimpleImputer(strategy="median", keep_empty_features=True)
        last = VaryingDensity(drivers, season, place, **parameters)
        return make_pipeline(*weighed, impute, StandardScaler(), last)
    if model == "ridge":
        return make_pipeline(*weighed, _imputer(), StandardScaler(), Ridge(**parameters))
    if model == "forest":
        forest = RandomForestRegressor(
            n_estimators=trees, random_state=seed, n_jobs=1, **parameters
        )
        return make_pipeline(*weighed, _imputer(), forest)
    if model == "hist_gradient_boosting":
        return make_pipeline(
            *weighed,
            DropEmpty(),
            HistGradientBoostingRegressor(
                max_iter=trees,
                max_bins=BINS,
                early_stopping=False,
                random_state=seed,
                **parameters,
            ),
        )
    if model == "xgboost":
        from xgboost import XGBRegressor

        return make_pipeline(
            *weighed,
            XGBRegressor(
                n_estimators=trees,
                tree_method="hist",
                max_bin=BINS,
                nthread=1,
                random_state=seed,
                **parameters,
            ),
        )
    raise ValueError(f"{model!r} is not a model")


def fit(
    pipeline: Pipeline, x: np.ndarray, y: np.ndarray, keys: np.ndarray | None = None
) -> Pipeline:
    """Fit a pipeline, telling a last step that asks for them which samples share errors.

    Parameters
    ----------
    pipeline
        Of :func:`build`.
    x, y
        Training samples (n × p, NaN where missing) and targets (cm).
    keys
        Mascon and step of each sample (n × 2) where targets are changes, else None.
    """
    last = pipeline.steps[-1][0]
    told = {f"{last}__keys": keys} if last == "varyingdensity" else {}
    return pipeline.fit(x, y, **told)


def tune(
    model: str,
    x: np.ndarray,
    y: np.ndarray,
    inner: Sequence[Fold],
    *,
    space: Mapping[str, Sequence[Any]],
    candidates: int,
    trees: int,
    seed: int,
    names: Sequence[str] = (),
    keys: np.ndarray | None = None,
) -> Tuned:
    """Choose a model's settings by the pooled error of inner held-out samples.

    Parameters
    ----------
    model
        Name of the model.
    x, y
        Training samples (n × p, NaN where missing) and targets (cm).
    inner
        Inner folds; without any, the first candidate is taken and there are no residuals.
    space, candidates
        Values of each parameter, and how many settings are tried (:func:`list_candidates`).
    trees, seed, names
        Passed to :func:`build`.
    keys
        Passed to :func:`fit`.
    """

    def predict(parameters: dict[str, Any], fold: Fold) -> np.ndarray:
        fitted = build(model, parameters, trees, seed, names)
        known = None if keys is None else keys[fold.train]
        return fit(fitted, x[fold.train], y[fold.train], known).predict(x[fold.test])

    return choose(list_candidates(space, candidates), y, inner, predict)


def choose(
    options: Sequence[dict[str, Any]],
    y: np.ndarray,
    inner: Sequence[Fold],
    predict: Callable[[dict[str, Any], Fold], np.ndarray],
) -> Tuned:
    """Choose settings by the pooled error of inner held-out samples, whoever fits.

    Parameters
    ----------
    options
        Settings tried.
    y
        Targets (cm) of the training samples.
    inner
        Inner folds; without any, the first settings are taken and there are no residuals.
    predict
        Fits with settings to a fold's training samples and predicts its test samples (cm).
    """
    if not inner:
        return Tuned(options[0], np.empty(0), ())
    residuals = [
        np.concatenate([y[fold.test] - predict(parameters, fold) for fold in inner])
        for parameters in options
    ]
    rmse = tuple(float(np.sqrt(np.mean(r**2))) for r in residuals)
    best = int(np.argmin(rmse))
    return Tuned(options[best], residuals[best], rmse)


_CONTROLLERS: list[ThreadpoolController] = []


def single_threaded() -> Any:
    """Return a context in which this thread's numerical libraries use one thread."""
    if not _CONTROLLERS:
        import xgboost  # noqa: F401  its OpenMP runtime has to be known to the controller

        _CONTROLLERS.append(ThreadpoolController())
    return _CONTROLLERS[0].limit(limits=1)


def _imputer() -> SimpleImputer:
    return SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
