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
from cryofuse.compute import Run, run_serially
from cryofuse.learning.models import build, single_threaded
from cryofuse.learning.skill import (
    Samples,
    bootstrap_weights,
    select_samples,
    tune_fold,
    usable_folds,
)
from cryofuse.learning.splits import Fold, SplitError
from cryofuse.tables import EXPLAINED, IMPORTANCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from sklearn.pipeline import Pipeline

    from cryofuse.config import ExplainedSettings, SkillSettings

logger = logging.getLogger(__name__)

#: Families of feature groups, the first question of a reader: is it altimetry, season or place?
#: A group that is named in none is altimetry: elevation change in one form or another.
FAMILIES = {
    "season": "season",
    "position": "place",
    "topography": "place",
    "ice": "place",
    "marine_margin": "place",
    "sampling": "sampling",
}
ALTIMETRY = "altimetry"
#: The model whose held-out predictions are explained.
MODEL = "xgboost"
METHODS = ("permutation", "shap", "gain")
PARTS = ("trend", "seasonal", "interannual")
#: Fewest months of a mascon for a variance.
MIN_MONTHS = 6
#: Fewest blocks of months for an interval.
MIN_BLOCKS = 3
#: A series or a part of it that varies less has no share (cm²).
SMALLEST_VARIANCE_CM2 = 1e-12
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
    return dict(
        zip(PARTS, _split(month_index(month), value, np.ones((1, len(value))))[:, 0], strict=True)
    )


def _split(index: np.ndarray, value: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the parts of a series as each row of weights splits it, shape (3, draws, n)."""
    total = weights.sum(axis=1, keepdims=True)
    time = index - weights @ index[:, None] / total
    middle = weights @ value[:, None] / total
    power = (weights * time**2).sum(axis=1, keepdims=True)
    slope = (weights * time * value).sum(axis=1, keepdims=True) / np.where(power > 0, power, 1)
    trend = middle + slope * time
    rest = value - trend
    calendar = np.eye(12)[index % 12]
    count = weights @ calendar
    seasonal = ((weights * rest) @ calendar / np.maximum(count, 1e-12)) @ calendar.T
    return np.stack([trend, seasonal, rest - seasonal])


def explain_variance(
    predictions: pd.DataFrame,
    settings: ExplainedSettings,
    mascons: pd.DataFrame,
    skill: SkillSettings,
) -> pd.DataFrame:
    """Return the share of the variance of each mascon, and of their mean, that is explained.

    The share of the total, and of each part of :func:`split_parts`, is 1 − Var(part of observed −
    predicted) / Var(part of observed). It is negative where the prediction adds variance. Being
    about variances it forgives a constant bias, which the R² of the scores does not. Intervals
    are 95 % of a bootstrap of whole blocks of months; each draw is split into parts anew.

    Parameters
    ----------
    predictions
        Table PREDICTIONS.
    settings
        Split that is explained.
    mascons
        Columns mascon_id and target: the rows the result must have.
    skill
        Blocks, draws and seed of the bootstrap.

    Returns
    -------
    DataFrame
        Table EXPLAINED; rows of scope ``region`` are about the mean of all mascons by area.
    """
    chosen = predictions[(predictions["model"] == MODEL) & (predictions["split"] == settings.split)]
    groups = dict(list(chosen.groupby(["mascon_id", "target"], sort=False)))
    months = month_index(chosen["month"].to_numpy()) if len(chosen) else np.zeros(1, int)
    first = int(months.min())
    weights = bootstrap_weights(
        int(months.max()) - first + 1, skill.block_months, skill.bootstrap_draws, skill.seed
    )
    work = partial(_explain, weights=weights, first=first, block=skill.block_months)
    rows = []
    for mascon, target in mascons[["mascon_id", "target"]].itertuples(index=False):
        group = groups.get((mascon, target))
        head = {"scope": "mascon", "mascon_id": mascon, "target": target, "split": settings.split}
        found = work(group) if group is not None else {"n": 0, "reason": "no prediction"}
        rows.append(head | found)
    for target in dict.fromkeys(mascons["target"]):
        part = chosen[chosen["target"] == target]
        head = {"scope": "region", "mascon_id": None, "target": target, "split": settings.split}
        found = work(_sum_mascons(part)) if len(part) else {"n": 0, "reason": "no prediction"}
        rows.append(head | found)
    frame = pd.DataFrame(rows, columns=list(EXPLAINED.columns))
    frame["reason"] = frame["reason"].astype("str")
    frame["mascon_id"] = frame["mascon_id"].astype("Int32")
    frame["n_blocks"] = frame["n_blocks"].astype("Int64")
    return frame


def _sum_mascons(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of all mascons by land area, in the months in which none is missing."""
    area = predictions["land_area_km2"]
    columns = ["observed_cm", "predicted_cm"]
    mass = predictions[columns].mul(area, axis=0).assign(month=predictions["month"], area=area)
    whole = mass.groupby("month").agg(
        observed_cm=("observed_cm", "sum"), predicted_cm=("predicted_cm", "sum"),
        area=("area", "sum"), count=("area", "size"),
    )  # fmt: skip
    whole = whole[whole["count"] == predictions["mascon_id"].nunique()]
    return whole[columns].div(whole["area"], axis=0).reset_index()


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
    neighbours: pd.DataFrame | None = None,
    run: Run = run_serially,
) -> pd.DataFrame:
    """Return the importance of each feature group, out of fold.

    The model of each outer fold of the split is fitted as the scores' is (same folds, tuned on
    the same inner folds), once per seed. A group is a feature with all its lags; a family is all
    groups of altimetry, of season, of place or of sampling, moved together: what is common to
    several groups shows in their family alone.

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
    neighbours
        Footprints near each other, as for the scores.
    run
        Who does the fits; results do not depend on it.

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
        left_out = {feature_group(name): why for name, why in samples.dropped.items()}
        left_out |= {family_of(group): why for group, why in left_out.items()}
        kinds = [("group", name) for name in every]
        kinds += [("family", name) for name in dict.fromkeys(map(family_of, every))]
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
        for result, message in run(work, jobs):
            logger.info("%s", message)
            results.append(result)
        for method in METHODS:
            for kind, group in kinds:
                values = np.array(
                    [r[method][kind, group] for r in results if (kind, group) in r[method]]
                )
                why = reason or left_out.get(group, "null everywhere")
                rows.append({"target": target, "method": method, "kind": kind, "group": group})
                rows[-1] |= _spread(values) if len(values) else {"reason": why}
    frame = pd.DataFrame(rows, columns=list(IMPORTANCE.columns))
    frame["reason"] = frame["reason"].astype("str")
    for name in ("importance", "lower", "upper"):
        frame[name] = frame[name].astype(float)
    return frame


def family_of(group: str) -> str:
    """Return the family of a feature group."""
    return FAMILIES.get(group, ALTIMETRY)


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
) -> tuple[dict[str, dict[tuple[str, str], float]], str]:
    """Return each method's importance of each group and family in one fold with one seed."""
    train, test = job.fold.train, job.fold.test
    x, y = job.samples.x, job.samples.table["observed_cm"].to_numpy()
    seed = skill.seed + job.number
    with single_threaded():
        seeded = skill.model_copy(update={"seed": seed})
        tuned = tune_fold(MODEL, job.samples, job.split, job.fold, seeded, neighbours)
        fitted = build(MODEL, tuned.parameters, skill.trees, seed, job.samples.names)
        fitted.fit(x[train], y[train])
        found: dict[str, dict[tuple[str, str], float]] = {name: {} for name in METHODS}
        families = tuple(family_of(group) for group in job.groups)
        for kind, labels in (("group", job.groups), ("family", families)):
            for method, values in (
                ("permutation", permute_groups(
                    fitted.predict, x[test], y[test], labels, settings.permutations, seed
                )),
                ("shap", _shap(fitted, x[test], labels)),
                ("gain", _gain(fitted, labels)),
            ):  # fmt: skip
                found[method] |= {(kind, name): value for name, value in values.items()}
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


def _explain(group: pd.DataFrame, weights: np.ndarray, first: int, block: int) -> dict[str, Any]:
    """Return the explained shares of one series, with intervals over the weights of its months."""
    ordered = group.sort_values("month")
    index = month_index(ordered["month"].to_numpy())
    observed = ordered["observed_cm"].to_numpy()
    rest = observed - ordered["predicted_cm"].to_numpy()
    n = len(index)
    if n < MIN_MONTHS:
        return {"n": n, "reason": f"{n} held-out months, fewer than {MIN_MONTHS}"}
    span = int(index.max() - index.min()) + 1
    parts = span >= MIN_PART_MONTHS and len(np.unique(index % 12)) == 12
    once = np.ones((1, n))
    names = ("total", *PARTS) if parts else ("total",)
    whole = dict(zip(names, _shares(index, observed, rest, once)[:, 0], strict=False))
    found: dict[str, Any] = {"n": n, "n_blocks": n // block}
    found |= {f"explained_{part}": value for part, value in whole.items()}
    reasons = []
    if not parts:
        reasons.append(f"no parts: {span} months, or not every calendar month")
    elif not np.isfinite(list(whole.values())).all():
        reasons.append("a part of the observed series does not vary")
    if n // block < MIN_BLOCKS:
        reasons.append(f"no interval: fewer than {MIN_BLOCKS} blocks of {block} months")
    else:
        drawn = _shares(index, observed, rest, weights[:, index - first])
        for part, draws in zip(whole, drawn, strict=False):
            known = draws[np.isfinite(draws)]
            if np.isfinite(whole[part]) and len(known) >= len(draws) / 2:
                low, high = np.quantile(known, (0.025, 0.975))
                found[f"{part}_lower"], found[f"{part}_upper"] = float(low), float(high)
    if reasons:
        found["reason"] = "; ".join(reasons)
    return found


def _shares(
    index: np.ndarray, observed: np.ndarray, rest: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the explained share of the total and of the parts by draw, shape (4, draws)."""
    before = [np.broadcast_to(observed, weights.shape), *_split(index, observed, weights)]
    after = [np.broadcast_to(rest, weights.shape), *_split(index, rest, weights)]
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)

    def variance(values: np.ndarray) -> np.ndarray:
        mean = (weights * values).sum(axis=1, keepdims=True) / total
        return ((weights * (values - mean) ** 2).sum(axis=1, keepdims=True) / total)[:, 0]

    shares = []
    for one, other in zip(before, after, strict=True):
        size = variance(one)
        known = size > SMALLEST_VARIANCE_CM2
        shares.append(np.where(known, 1 - variance(other) / np.where(known, size, 1), np.nan))
    return np.array(shares)
