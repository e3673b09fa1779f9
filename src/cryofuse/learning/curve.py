"""Learning curves: held-out skill against how much there is to learn from.

Forward in time months are left away from each training set, leaving mascons out mascons are: the
folds and what they test stay as they are. A fold's settings are those chosen on its whole training
set, so that the curve shows the data and not the search, and ends at the score of the model.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cryofuse.compute import Run, run_serially
from cryofuse.learning.controls import BLIND, blind_columns
from cryofuse.learning.models import build, fit, single_threaded
from cryofuse.learning.skill import (
    Samples,
    select_samples,
    tune_training,
    usable_folds,
)
from cryofuse.learning.splits import MIN_TRAIN_SAMPLES, Fold, SplitError, inner_folds
from cryofuse.tables import LEARNING_CURVE

if TYPE_CHECKING:
    from cryofuse.config import SkillSettings

logger = logging.getLogger(__name__)

#: What each split's training set is cut in.
UNITS = {"forward": "month", "leave_mascon_out": "mascon_id"}


@dataclass(frozen=True)
class _Job:
    samples: Samples
    split: str
    fold: Fold
    n_folds: int
    model: str
    inner: list[Fold]


@dataclass(frozen=True)
class _Drawn:
    """One fit: held-out predictions (cm; None with too few samples) and what it was trained on."""

    share: float
    draw: int
    n_units: int
    n_train: int
    predicted: np.ndarray | None


def draw_subset(units: np.ndarray, share: float, seed: tuple[int, ...]) -> np.ndarray:
    """Return a share of the distinct units, at least one; a larger share holds every smaller one.

    Parameters
    ----------
    units
        Months or mascons, repeated as often as they have samples.
    share
        Share kept.
    seed
        Seed.
    """
    distinct = np.unique(units)
    order = np.random.default_rng(seed).permutation(distinct)
    return order[: max(1, round(share * len(distinct)))]


def trace_learning(
    features: pd.DataFrame,
    settings: SkillSettings,
    neighbours: pd.DataFrame | None = None,
    run: Run = run_serially,
) -> pd.DataFrame:
    """Return held-out R² against the share of training months and of training mascons.

    Parameters
    ----------
    features
        Feature table, one row per mascon and month.
    settings
        Shares, draws and models of the curve; targets, splits, folds and seed of the scores.
    neighbours
        Footprints near each other, as for the scores.
    run
        Who does the fits; results do not depend on it.

    Returns
    -------
    DataFrame
        Table LEARNING_CURVE. Subsets are nested, drawn anew for each fold and draw; the whole
        training set is one draw and has no interval.
    """
    seen: list[str] = [name for name in settings.curve_models if name in settings.models]
    models = seen + [name + BLIND for name in seen]
    cells: list[tuple[str, str, str]] = []
    jobs: list[_Job] = []
    reasons: dict[tuple[str, str], str] = {}
    for target in settings.targets:
        samples = select_samples(features, target, settings)
        sees_other = bool(blind_columns(samples.names).any())
        for split in (name for name in UNITS if name in settings.splits):
            cells += [(target, split, model) for model in models]
            try:
                folds = usable_folds(split, samples, settings, neighbours)
            except SplitError as error:
                reasons[target, split] = str(error)
                continue
            for fold in folds:
                inner = inner_folds(split, samples.table.iloc[fold.train], settings, neighbours)
                jobs += [
                    _Job(samples, split, fold, len(folds), model, inner)
                    for model in models
                    if sees_other or not model.endswith(BLIND)
                ]
    drawn: dict[tuple[str, str, str], list[tuple[_Job, list[_Drawn]]]] = {}
    results = run(partial(_fit_shares, settings=settings), jobs)
    for number, (job, (found, message)) in enumerate(zip(jobs, results, strict=True)):
        logger.info("%s; %d of %d", message, number + 1, len(jobs))
        drawn.setdefault((job.samples.target, job.split, job.model), []).append((job, found))
    rows = [
        {"target": cell[0], "split": cell[1], "model": cell[2], "share": share}
        | _pool(drawn.get(cell, []), share, reasons.get(cell[:2], "no feature but elevation"))
        for cell in cells
        for share in sorted(set(settings.curve_shares))
    ]
    frame = pd.DataFrame(rows, columns=list(LEARNING_CURVE.columns))
    frame["reason"] = frame["reason"].astype("str")
    for name in ("n_units", "n_train", "r2", "lower", "upper"):
        frame[name] = frame[name].astype(float)
    return frame


def _fit_shares(job: _Job, settings: SkillSettings) -> tuple[list[_Drawn], str]:
    """Fit one model to every share and draw of one fold's training set."""
    began = time.perf_counter()
    samples = job.samples.blind() if job.model.endswith(BLIND) else job.samples
    name = job.model.removesuffix(BLIND)
    y = samples.table["observed_cm"].to_numpy()
    unit = samples.table[UNITS[job.split]].to_numpy()[job.fold.train]
    found = []
    with single_threaded():
        parameters = tune_training(name, samples, job.fold.train, job.inner, settings).parameters
        for share in sorted(set(settings.curve_shares)):
            for draw in range(settings.curve_draws if share < 1 else 1):
                kept = draw_subset(unit, share, (settings.seed, job.fold.number, draw))
                train = job.fold.train[np.isin(unit, kept)]
                predicted = None
                if len(train) >= MIN_TRAIN_SAMPLES:
                    model = build(name, parameters, settings.trees, settings.seed, samples.names)
                    known = None if samples.keys is None else samples.keys[train]
                    fit(model, samples.x[train], y[train], known)
                    predicted = model.predict(samples.x[job.fold.test])
                found.append(_Drawn(share, draw, len(kept), len(train), predicted))
    message = (
        f"learning curve, {samples.target}, {job.split}, fold {job.fold.number + 1} of "
        f"{job.n_folds}, {job.model}: {len(found)} fits, {time.perf_counter() - began:.1f} s"
    )
    return found, message


def _pool(results: list[tuple[_Job, list[_Drawn]]], share: float, reason: str) -> dict[str, Any]:
    """Return one row: R² over the held-out samples of all folds, one for each draw."""
    if not results:
        return {"n_draws": 0, "n": 0, "reason": reason}
    observed = np.concatenate(
        [job.samples.table["observed_cm"].to_numpy()[job.fold.test] for job, _ in results]
    )
    here = [[one for one in found if one.share == share] for _, found in results]
    row: dict[str, Any] = {
        "n": len(observed),
        "n_draws": len(here[0]),
        "n_units": np.mean([one.n_units for found in here for one in found]),
        "n_train": np.mean([one.n_train for found in here for one in found]),
    }
    power = float(np.sum((observed - observed.mean()) ** 2))
    r2 = []
    for fits in zip(*here, strict=True):
        predicted = [one.predicted for one in fits if one.predicted is not None]
        if len(predicted) < len(fits):
            return row | {"reason": f"fewer than {MIN_TRAIN_SAMPLES} training samples in a fold"}
        r2.append(1 - float(np.sum((np.concatenate(predicted) - observed) ** 2)) / power)
    row["r2"] = float(np.mean(r2))
    if len(r2) < 2:
        return row | {"reason": "no interval: one draw"}
    row["lower"], row["upper"] = min(r2), max(r2)
    return row
