"""Explained variance of held-out predictions, and which features they rest on.

Everything is computed out of fold: a model explains mascons and months it was not trained on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cryofuse.calendar import month_index
from cryofuse.learning.models import build, single_threaded
from cryofuse.learning.skill import Samples, run_jobs, select_samples, tune_fold, usable_folds
from cryofuse.learning.splits import Fold, SplitError
from cryofuse.tables import EXPLAINED, IMPORTANCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from sklearn.pipeline import Pipeline

    from cryofuse.config import ExplainedSettings, SkillSettings

logger = logging.getLogger(__name__)

#: The model whose held-out predictions are explained.
MODEL = "xgboost"
METHODS = ("permutation", "shap", "gain")
PARTS = ("trend", "seasonal", "interannual")
#: Fewest months of a mascon for a variance.
MIN_MONTHS = 6
#: Shortest span in which a trend and a 12-month climatology can be told apart (months).
MIN_PART_MONTHS = 24


def split_parts(month: np.ndarray, value: np.ndarray) -> dict[str, np.ndarray]:
    """Split a series into trend, seasonal and interannual parts that add up to it.

    The trend is a straight line by least squares, the seasonal part the mean of what is left in
    each calendar month, the interannual part the rest. The split is linear in the values, so
    the parts of a residual series are those of the observed less those of the predicted one.

    Parameters
    ----------
    month
        Months, in any order.
    value
        Values, without nulls.
    """
    index = month_index(month)
    time = index - index.mean()
    power = float(time @ time)
    slope = float(time @ value) / power if power > 0 else 0.0
    trend = value.mean() + slope * time
    rest = value - trend
    calendar = index % 12
    count = np.bincount(calendar, minlength=12)
    total = np.bincount(calendar, weights=rest, minlength=12)
    seasonal = (total / np.maximum(count, 1))[calendar]
    return {"trend": trend, "seasonal": seasonal, "interannual": rest - seasonal}


def explain_variance(
    predictions: pd.DataFrame, settings: ExplainedSettings, mascons: pd.DataFrame
) -> pd.DataFrame:
    """Return the share of each mascon's variance that held-out predictions explain.

    The share of the total, and of each part of :func:`split_parts`, is 1 − Var(part of observed −
    predicted) / Var(part of observed). It is negative where the prediction adds variance. Being
    about variances it forgives a constant bias, which the R² of the scores does not.

    Parameters
    ----------
    predictions
        Table PREDICTIONS.
    settings
        Split that is explained.
    mascons
        Columns mascon_id and target: the rows the result must have.

    Returns
    -------
    DataFrame
        Table EXPLAINED.
    """
    chosen = predictions[(predictions["model"] == MODEL) & (predictions["split"] == settings.split)]
    groups = dict(list(chosen.groupby(["mascon_id", "target"], sort=False)))
    rows = []
    for mascon, target in mascons[["mascon_id", "target"]].itertuples(index=False):
        group = groups.get((mascon, target))
        head = {"mascon_id": mascon, "target": target, "split": settings.split}
        found = _explain(group) if group is not None else {"n": 0, "reason": "no prediction"}
        rows.append(head | found)
    frame = pd.DataFrame(rows, columns=list(EXPLAINED.columns))
    frame["reason"] = frame["reason"].astype("str")
    return frame


def list_rows(features: pd.DataFrame, skill: SkillSettings) -> pd.DataFrame:
    """Return the mascon_id and target of every row that the explained table must have."""
    ids = np.unique(features["mascon_id"].to_numpy(np.int32))
    return pd.DataFrame(
        {
            "mascon_id": np.tile(ids, len(skill.targets)),
            "target": np.repeat(np.array(skill.targets), len(ids)),
        }
    )


def rank_features(
    features: pd.DataFrame,
    settings: ExplainedSettings,
    skill: SkillSettings,
    threads: int = 1,
    neighbours: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return the importance of each feature group, out of fold.

    The model of each outer fold of the split is fitted as the scores' is (same folds, tuned on
    the same inner folds), once per seed. A group is a feature with all its lags.

    - ``permutation``: rise of the held-out RMSE (cm) when the group's columns are shuffled
      together among the held-out samples;
    - ``shap``: mean over held-out samples of |sum of the group's SHAP values| (cm), by the
      booster's exact tree algorithm (Lundberg et al. 2020, doi:10.1038/s42256-019-0138-9);
    - ``gain``: share of the training gain, a footnote for it is biased to noisy columns.

    Parameters
    ----------
    features
        Feature table.
    settings
        Split, permutations and seeds.
    skill
        Targets, folds and tuning.
    threads
        Fits at the same time; results do not depend on it.
    neighbours
        Footprints near each other, as for the scores.

    Returns
    -------
    DataFrame
        Table IMPORTANCE: mean over folds and seeds, with their 2.5 and 97.5 percentiles.
    """
    from cryofuse.fusion.features import feature_columns, feature_group

    rows: list[dict[str, Any]] = []
    for target in skill.targets:
        samples = select_samples(features, target, skill)
        every = list(dict.fromkeys(feature_group(name) for name in feature_columns(features)))
        group_of = [feature_group(name) for name in samples.names]
        reason = None
        jobs: list[_Job] = []
        try:
            folds = usable_folds(settings.split, samples, skill, neighbours)
            jobs = [
                _Job(samples, settings.split, fold, len(folds), number, tuple(group_of))
                for fold in folds
                for number in range(settings.seeds)
            ]
        except SplitError as error:
            reason = str(error)
            logger.warning("%s, %s: %s", target, settings.split, error)
        results = []
        work = partial(_rank, settings=settings, skill=skill, neighbours=neighbours)
        for result, message in run_jobs(work, jobs, threads):
            logger.info("%s", message)
            results.append(result)
        for method in METHODS:
            for group in every:
                values = np.array([r[method][group] for r in results if group in r[method]])
                why = reason or "null everywhere"
                rows.append({"target": target, "method": method, "group": group})
                rows[-1] |= _spread(values) if len(values) else {"reason": why}
    frame = pd.DataFrame(rows, columns=list(IMPORTANCE.columns))
    frame["reason"] = frame["reason"].astype("str")
    for name in ("importance", "lower", "upper"):
        frame[name] = frame[name].astype(float)
    return frame


def permute_groups(
    predict: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    groups: tuple[str, ...],
    permutations: int,
    seed: int,
) -> dict[str, float]:
    """Return how much the RMSE rises when each group's columns are shuffled together.

    Parameters
    ----------
    predict
        Function from samples (n × p) to predictions (n).
    x, y
        Held-out samples and their targets.
    groups
        Group of each column.
    permutations
        Shuffles that are averaged.
    seed
        Seed; every group meets the same shuffles.
    """
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(y)) for _ in range(permutations)])
    plain = float(np.sqrt(np.mean((predict(x) - y) ** 2)))
    repeated = np.tile(x, (permutations, 1))
    label = np.array(groups)
    found = {}
    for group in dict.fromkeys(groups):
        columns = (label == group).nonzero()[0]
        shuffled = repeated.copy()
        shuffled[:, columns] = x[np.ix_(order, columns)]
        error = (predict(shuffled).reshape(permutations, -1) - y) ** 2
        found[group] = float(np.sqrt(error.mean(axis=1)).mean()) - plain
    return found


@dataclass(frozen=True)
class _Job:
    samples: Samples
    split: str
    fold: Fold
    n_folds: int
    number: int
    groups: tuple[str, ...]


def _rank(
    job: _Job,
    settings: ExplainedSettings,
    skill: SkillSettings,
    neighbours: pd.DataFrame | None,
) -> tuple[dict[str, dict[str, float]], str]:
    """Return each method's importance of each group in one fold with one seed."""
    train, test = job.fold.train, job.fold.test
    x, y = job.samples.x, job.samples.table["observed_cm"].to_numpy()
    seed = skill.seed + job.number
    with single_threaded():
        seeded = skill.model_copy(update={"seed": seed})
        tuned = tune_fold(MODEL, job.samples, job.split, job.fold, seeded, neighbours)
        fitted = build(MODEL, tuned.parameters, skill.trees, seed, job.samples.names)
        fitted.fit(x[train], y[train])
        found = {
            "permutation": permute_groups(
                fitted.predict, x[test], y[test], job.groups, settings.permutations, seed
            ),
            "shap": _shap(fitted, x[test], job.groups),
            "gain": _gain(fitted, job.groups),
        }
    message = (
        f"{job.samples.target}, {job.split}, fold {job.fold.number + 1} of {job.n_folds}, "
        f"seed {seed}: importance of {len(set(job.groups))} groups"
    )
    return found, message


def _shap(fitted: Pipeline, x: np.ndarray, groups: tuple[str, ...]) -> dict[str, float]:
    from xgboost import DMatrix

    booster = fitted[-1].get_booster()
    seen = fitted[:-1].transform(x) if len(fitted) > 1 else x
    values = booster.predict(DMatrix(seen, nthread=1), pred_contribs=True)[:, :-1]
    label = np.array(groups)
    return {
        group: float(np.abs(values[:, label == group].sum(axis=1)).mean())
        for group in dict.fromkeys(groups)
    }


def _gain(fitted: Pipeline, groups: tuple[str, ...]) -> dict[str, float]:
    gain = fitted[-1].get_booster().get_score(importance_type="total_gain")
    total = sum(gain.values())
    found = dict.fromkeys(groups, 0.0)
    for name, value in gain.items():
        found[groups[int(name.removeprefix("f"))]] += value / total
    return found


def _spread(values: np.ndarray) -> dict[str, Any]:
    several = len(values) > 1
    return {
        "importance": float(values.mean()),
        "lower": float(np.quantile(values, 0.025)) if several else None,
        "upper": float(np.quantile(values, 0.975)) if several else None,
        "reason": None if several else "no interval: one fold and one seed",
    }


def _explain(group: pd.DataFrame) -> dict[str, Any]:
    """Return one mascon's explained shares."""
    ordered = group.sort_values("month")
    month = ordered["month"].to_numpy()
    observed = ordered["observed_cm"].to_numpy()
    rest = observed - ordered["predicted_cm"].to_numpy()
    n = len(month)
    if n < MIN_MONTHS:
        return {"n": n, "reason": f"{n} held-out months, fewer than {MIN_MONTHS}"}
    found: dict[str, Any] = {"n": n, "explained_total": _share(observed, rest)}
    index = month_index(month)
    span = int(index.max() - index.min()) + 1
    if span < MIN_PART_MONTHS or len(np.unique(index % 12)) < 12:
        found["reason"] = f"no parts: {span} months, or not every calendar month"
        return found
    whole, left = split_parts(month, observed), split_parts(month, rest)
    for part in PARTS:
        found[f"explained_{part}"] = _share(whole[part], left[part])
    if any(found[f"explained_{part}"] is None for part in PARTS):
        found["reason"] = "a part of the observed series does not vary"
    return found


def _share(observed: np.ndarray, rest: np.ndarray) -> float | None:
    total = float(np.var(observed))
    return 1 - float(np.var(rest)) / total if total > 1e-12 else None
