"""Predictive skill: every model, baseline and control under every split, on the same folds.

A sample is a mascon month whose target is known and which has some elevation change. Scores
are pooled over all held-out samples and per mascon, with block-bootstrap intervals; a gain over
the best baseline stands beside every score. Where the data allow no honest fold, rows hold nulls
and the reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from cryofuse.calendar import TIME_DTYPE, month_index, month_middle, year_fraction
from cryofuse.learning.baselines import BASELINES, BaselineError, previous_values
from cryofuse.learning.models import (
    build,
    conformal_radius,
    single_threaded,
    tune,
)
from cryofuse.learning.splits import (
    MIN_TRAIN_SAMPLES,
    Fold,
    SplitError,
    count_untested,
    inner_folds,
    make_folds,
)
from cryofuse.tables import PREDICTIONS, SCORES
from cryofuse.units import GT_PER_CM_KM2

if TYPE_CHECKING:
    from cryofuse.config import SkillSettings

logger = logging.getLogger(__name__)

#: A forest on place, season, time and pure noise: what a split gives away without altimetry.
CONTROL = "control_noise"
#: The one baseline that sees elevation change; ``gain_vs_best_blind`` leaves it out.
ELEVATION_BASELINE = "physics"
#: The splits that a claim may rest on, strictest first.
HONEST_SPLITS = ("both", "leave_mascon_out", "forward")
#: Fewest held-out samples of a mascon for scores of its own.
MIN_MASCON_SAMPLES = 3
#: Prefix of the feature columns that come from elevation change.
ALTIMETRY_PREFIX = "dh_"
#: Mean elevation change since the period's first month (m).
_ELEVATION = "dh_m"
#: The noise control is a plain forest that may learn by heart; it is not tuned.
_CONTROL_PARAMETERS = {"max_features": 0.6, "min_samples_leaf": 1, "max_samples": None}


@dataclass(frozen=True)
class Samples:
    """The samples of one target.

    ``table`` holds mascon_id, month, latitude, longitude, land_area_km2, ice_fraction,
    observed_cm, previous_cm and dh_m; ``x`` the features (n × p, NaN where missing) with their
    ``names``; ``dropped`` the features left out, with the reason; ``reason`` why there is no
    sample (None where there are some).
    """

    target: str
    table: pd.DataFrame
    x: np.ndarray
    names: list[str]
    dropped: dict[str, str]
    reason: str | None


def select_samples(features: pd.DataFrame, target: str) -> Samples:
    """Return the samples of a target, ordered by month and mascon.

    Parameters
    ----------
    features
        Feature table, one row per mascon and month.
    target
        ``change`` or ``cumulative``.

    Returns
    -------
    Samples
        Features that hold no value in any sample are left out.
    """
    from cryofuse.fusion.features import feature_columns

    ordered = features.sort_values(["month", "mascon_id"], kind="stable").reset_index(drop=True)
    observed = ordered[f"target_{target}_cm"].to_numpy(float, na_value=np.nan)
    columns = feature_columns(ordered)
    values = ordered[columns].to_numpy(float, na_value=np.nan)
    altimetry = [k for k, name in enumerate(columns) if name.startswith(ALTIMETRY_PREFIX)]
    seen = np.isfinite(values[:, altimetry]).any(axis=1)
    known = np.isfinite(observed)
    kept = known & seen
    reason = None
    if not kept.any():
        reason = "no gravimetry" if not known.any() else "no altimetry"

    month = ordered["month"].to_numpy(TIME_DTYPE)
    mascon = ordered["mascon_id"].to_numpy(np.int32)
    table = pd.DataFrame(
        {
            "mascon_id": mascon,
            "month": month,
            "latitude": ordered["latitude"].to_numpy(float),
            "longitude": ordered["longitude"].to_numpy(float),
            "land_area_km2": ordered["land_area_km2"].to_numpy(float),
            "ice_fraction": ordered["ice_area_km2"].to_numpy(float)
            / ordered["land_area_km2"].to_numpy(float),
            "observed_cm": observed,
            "previous_cm": previous_values(mascon, month, observed),
            "dh_m": _elevation(ordered, mascon, month, target),
        }
    )[kept].reset_index(drop=True)
    x = values[kept]
    empty = ~np.isfinite(x).any(axis=0) if len(x) else np.ones(len(columns), bool)
    dropped = {name: "null everywhere" for name, e in zip(columns, empty, strict=True) if e}
    return Samples(
        target=target,
        table=table,
        x=x[:, ~empty],
        names=[name for name, e in zip(columns, empty, strict=True) if not e],
        dropped=dropped,
        reason=reason,
    )


def evaluate(
    features: pd.DataFrame,
    settings: SkillSettings,
    threads: int = 1,
    neighbours: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score every model, baseline and control under every split.

    Parameters
    ----------
    features
        Feature table, one row per mascon and month (any order).
    settings
        Models, splits, targets, folds and seeds.
    threads
        Fits at the same time; results do not depend on it.
    neighbours
        Footprints near each other: the table of :func:`cryofuse.mascons.footprints.neighbours`
        for the buffer. Without it the distance of centres counts in place of edges.

    Returns
    -------
    scores : DataFrame
        Table SCORES: pooled and per mascon, nulls with a reason where data are too few.
    predictions : DataFrame
        Table PREDICTIONS: held-out predictions, empty where there is no honest fold.
    """
    jobs: list[_Job] = []
    pieces: list[pd.DataFrame] = []
    reasons: dict[tuple[str, str, str], str] = {}
    for target in settings.targets:
        samples = select_samples(features, target)
        for name, why in samples.dropped.items():
            logger.info("%s: feature %s left out: %s", target, name, why)
        for split in settings.splits:
            try:
                folds = usable_folds(split, samples, settings, neighbours)
            except SplitError as error:
                for model in _names(settings):
                    reasons[model, split, target] = str(error)
                logger.warning("%s, %s: %s", target, split, error)
                continue
            for fold in folds:
                baselines, failed = _baselines(samples, split, fold)
                pieces += baselines
                reasons.update({(name, split, target): why for name, why in failed.items()})
            jobs += [
                _Job(samples, split, fold, len(folds), model)
                for fold in folds
                for model in [*settings.models, CONTROL]
            ]
    work = partial(_run, settings=settings, neighbours=neighbours)
    for piece, message in run_jobs(work, jobs, threads):
        logger.info("%s", message)
        pieces.append(piece)
    failed_baselines = {key for key in reasons if key[0] in BASELINES}
    predictions = _collect(pieces, settings, failed_baselines)
    return score(predictions, settings, reasons), predictions


def score(
    predictions: pd.DataFrame,
    settings: SkillSettings,
    reasons: dict[tuple[str, str, str], str] | None = None,
) -> pd.DataFrame:
    """Return the scores of held-out predictions (table SCORES).

    Intervals are 95 % percentiles of a circular moving-block bootstrap over months with all
    mascons together (Politis and Romano 1992); every model meets the same draws. ``n_blocks``
    is the number of whole blocks in the tested months: with five or six, intervals are rough,
    and with fewer than two there are none. ``…_jackknife`` rows leave one mascon out at a time
    (t interval; ``n_blocks`` is then the number of mascons).

    Parameters
    ----------
    predictions
        Table PREDICTIONS.
    settings
        Block length, draws and seed; models, splits and targets that must have rows.
    reasons
        Why a (model, split, target) has no prediction.
    """
    reasons = reasons or {}
    rows: list[dict[str, Any]] = []
    grouped = dict(list(predictions.groupby(["split", "target"], sort=False)))
    for target in settings.targets:
        for split in settings.splits:
            group = grouped.get((split, target))
            scored = _Scored(group, settings) if group is not None else None
            for model in _names(settings):
                if scored is not None and model in scored.models:
                    found = scored.rows(model)
                else:
                    reason = reasons.get((model, split, target), "no prediction")
                    found = [_row(name, reason=reason) for name in _pooled_names(model)]
                head = {"model": model, "kind": _kind(model), "split": split, "target": target}
                rows += [head | row for row in found]
    frame = pd.DataFrame(rows, columns=list(SCORES.columns))
    frame["n_blocks"] = frame["n_blocks"].astype("Int64")
    frame["reason"] = frame["reason"].astype("str")
    for name in ("value", "lower", "upper"):
        frame[name] = frame[name].astype(float)
    return frame


def verdict(scores: pd.DataFrame) -> str:
    """Return one sentence: does elevation change beat the best baseline, where, by how much.

    For each honest split the model with the largest gain speaks, so a win is that of the best of
    all models; a gain counts only where its block-bootstrap 95 % interval lies above 0.

    Parameters
    ----------
    scores
        Table SCORES.
    """
    pooled = scores[scores["scope"] == "pooled"]
    target = "change" if (pooled["target"] == "change").any() else "cumulative"
    noun = {"change": "monthly mass change", "cumulative": "the cumulative mass anomaly"}[target]
    pooled = pooled[pooled["target"] == target]
    gains = pooled[(pooled["score"] == "gain_vs_best") & (pooled["kind"] == "model")]
    known = gains[gains["value"].notna()]
    if known.empty:
        why = next(iter(gains["reason"].dropna()), "no score")
        return f"Whether elevation change predicts {noun} cannot be said: {why}."
    wins: list[str] = []
    fails: list[str] = []
    for split in (name for name in HONEST_SPLITS if (known["split"] == name).any()):
        best = known[known["split"] == split].sort_values(["value", "model"]).iloc[-1]
        rows = pooled[pooled["split"] == split]
        errors = rows[
            (rows["kind"] == "baseline") & (rows["score"] == "rmse_cm") & rows["value"].notna()
        ]
        baseline = str(errors.sort_values(["value", "model"]).iloc[0]["model"])
        text = f"{_words(split)} ({_words(best['model'])} against {_words(baseline)}: {_gain(best)}"
        if baseline == ELEVATION_BASELINE:
            blind = rows[(rows["score"] == "gain_vs_best_blind") & (rows["model"] == best["model"])]
            text += (
                "; physics is elevation change at one density, against the best baseline that "
                f"sees none: {_gain(blind.iloc[0])}"
            )
        (wins if best["lower"] > 0 else fails).append(text + ")")
    if not wins and not fails:
        return f"Whether elevation change predicts {noun} cannot be said: no honest split."
    if not wins:
        return (
            f"Learning from elevation change does not demonstrably beat the best baseline for "
            f"{noun} under {', '.join(fails)}."
        )
    sentence = (
        f"Learning from elevation change beats the best baseline for {noun} under {', '.join(wins)}"
    )
    return sentence + (f", but not demonstrably under {', '.join(fails)}." if fails else ".")


def _gain(row: pd.Series) -> str:
    """Return a gain in words."""
    value, lower, upper = (100 * float(row[name]) for name in ("value", "lower", "upper"))
    size = f"{abs(value):.0f} % {'less' if value >= 0 else 'more'} squared error"
    if not np.isfinite(lower):
        return f"{size}, too short a record for an interval"
    return f"{size}, gain {value:+.0f} % [{lower:+.0f}, {upper:+.0f}] over {row['n_blocks']} blocks"


def bootstrap_weights(n_months: int, block_months: int, draws: int, seed: int) -> np.ndarray:
    """Return how often each month is drawn by a circular moving-block bootstrap.

    Parameters
    ----------
    n_months
        Months from the first to the last tested one.
    block_months
        Block length.
    draws
        Number of draws.
    seed
        Seed.

    Returns
    -------
    ndarray
        Counts, shape draws × n_months; each row sums to n_months.
    """
    rng = np.random.default_rng(seed)
    block = min(block_months, n_months)
    count = -(-n_months // block)
    starts = rng.integers(n_months, size=(draws, count))
    drawn = (starts[:, :, None] + np.arange(block)).reshape(draws, -1)[:, :n_months] % n_months
    weights = np.zeros((draws, n_months))
    np.add.at(weights, (np.repeat(np.arange(draws), n_months), drawn.ravel()), 1.0)
    return weights


def run_jobs(function: Callable[[Any], Any], jobs: Iterable[Any], threads: int) -> Iterator[Any]:
    """Yield the results of independent jobs in their order, a number of them at a time.

    Processes, not threads: small fits spend most of their time holding Python's lock.
    """
    if threads == 1:
        yield from map(function, jobs)
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    yield from Parallel(n_jobs=threads, return_as="generator")(
        delayed(function)(job) for job in jobs
    )
    get_reusable_executor().shutdown(wait=True)


@dataclass(frozen=True)
class _Job:
    samples: Samples
    split: str
    fold: Fold
    n_folds: int
    model: str


def _run(
    job: _Job, settings: SkillSettings, neighbours: pd.DataFrame | None
) -> tuple[pd.DataFrame, str]:
    """Tune, fit and predict one model in one fold; return predictions and a line to log."""
    began = time.perf_counter()
    train, test = job.fold.train, job.fold.test
    y = job.samples.table["observed_cm"].to_numpy()
    with single_threaded():
        if job.model == CONTROL:
            x = control_features(job.samples.table, settings)
            fitted = build("forest", _CONTROL_PARAMETERS, settings.trees, settings.seed)
            predicted = fitted.fit(x[train], y[train]).predict(x[test])
            radius, about = float("nan"), "not tuned"
        else:
            x = job.samples.x
            tuned = tune_fold(job.model, job.samples, job.split, job.fold, settings, neighbours)
            fitted = build(
                job.model, tuned.parameters, settings.trees, settings.seed, job.samples.names
            )
            predicted = fitted.fit(x[train], y[train]).predict(x[test])
            radius = conformal_radius(tuned.residuals, settings.coverage)
            about = str(tuned.parameters)
    rmse = float(np.sqrt(np.mean((y[test] - predicted) ** 2)))
    message = (
        f"{job.samples.target}, {job.split}, fold {job.fold.number + 1} of {job.n_folds}, "
        f"{job.model}: {len(train)} train, {len(test)} test, RMSE {rmse:.3g} cm, {about}, "
        f"{time.perf_counter() - began:.1f} s"
    )
    return _predictions(job.samples, job.split, job.fold, job.model, predicted, radius), message


def tune_fold(
    model: str,
    samples: Samples,
    split: str,
    fold: Fold,
    settings: SkillSettings,
    neighbours: pd.DataFrame | None = None,
) -> Any:
    """Return a model's settings for one outer fold, chosen on inner folds of its training set."""
    train = fold.train
    inner = inner_folds(split, samples.table.iloc[train], settings, neighbours)
    return tune(
        model,
        samples.x[train],
        samples.table["observed_cm"].to_numpy()[train],
        inner,
        space=settings.search.space(model),
        candidates=settings.candidates,
        trees=settings.trees,
        seed=settings.seed,
        names=samples.names,
    )


def control_features(table: pd.DataFrame, settings: SkillSettings) -> np.ndarray:
    """Return place, season, time and seeded noise for each sample (n × (5 + noise columns))."""
    noise = np.random.default_rng(settings.seed).normal(size=(len(table), settings.noise_features))
    month = table["month"].to_numpy()
    return np.column_stack(
        [
            table["latitude"].to_numpy(),
            table["longitude"].to_numpy(),
            _season(month),
            year_fraction(month_middle(month)),
            noise,
        ]
    )


def _elevation(
    ordered: pd.DataFrame, mascon: np.ndarray, month: np.ndarray, target: str
) -> np.ndarray:
    """Return elevation change as the target counts it: since the zero, or since the step before."""
    if _ELEVATION not in ordered:
        return np.full(len(ordered), np.nan)
    dh = pd.Series(ordered[_ELEVATION].to_numpy(float, na_value=np.nan))
    if target == "cumulative":
        return dh.to_numpy()
    index = pd.Series(month_index(month))
    gap = index.groupby(mascon).diff()
    return dh.groupby(mascon).diff().where(gap == gap.min()).to_numpy()


def _season(month: np.ndarray) -> np.ndarray:
    angle = 2 * np.pi * (month_index(month) % 12 + 0.5) / 12
    return np.column_stack([np.cos(angle), np.sin(angle)])


def usable_folds(
    split: str,
    samples: Samples,
    settings: SkillSettings,
    neighbours: pd.DataFrame | None = None,
) -> list[Fold]:
    """Return the outer folds of a split that have enough to train on.

    The log counts the samples that no fold tests, and why.

    Raises
    ------
    SplitError
        If there is none.
    """
    if samples.reason is not None:
        raise SplitError(samples.reason)
    folds = make_folds(split, samples.table, settings, neighbours)
    usable = [fold for fold in folds if len(fold.train) >= MIN_TRAIN_SAMPLES]
    if not usable:
        most = max(len(fold.train) for fold in folds)
        raise SplitError(f"{most} training samples, fewer than {MIN_TRAIN_SAMPLES}")
    untested = count_untested(split, samples.table, usable, settings)
    logger.info(
        "%s, %s: %d folds, %d of %d samples not tested%s",
        samples.target,
        split,
        len(usable),
        sum(untested.values()),
        len(samples.table),
        "".join(f"; {count}: {why}" for why, count in untested.items()),
    )
    return [fold._replace(number=number) for number, fold in enumerate(usable)]


def _baselines(
    samples: Samples, split: str, fold: Fold
) -> tuple[list[pd.DataFrame], dict[str, str]]:
    train, test = samples.table.iloc[fold.train], samples.table.iloc[fold.test]
    pieces, failed = [], {}
    for name, predict in BASELINES.items():
        try:
            predicted = predict(train, test, samples.target)
        except BaselineError as error:
            failed[name] = str(error)
            continue
        pieces.append(_predictions(samples, split, fold, name, predicted, float("nan")))
    return pieces, failed


def _predictions(
    samples: Samples, split: str, fold: Fold, model: str, predicted: np.ndarray, radius: float
) -> pd.DataFrame:
    test = samples.table.iloc[fold.test]
    return pd.DataFrame(
        {
            "model": model,
            "split": split,
            "target": samples.target,
            "fold": np.int32(fold.number),
            "mascon_id": test["mascon_id"].to_numpy(),
            "month": test["month"].to_numpy(),
            "observed_cm": test["observed_cm"].to_numpy(),
            "predicted_cm": np.asarray(predicted, float),
            "lower_cm": predicted - radius,
            "upper_cm": predicted + radius,
            "land_area_km2": test["land_area_km2"].to_numpy(),
        }
    )


def _collect(
    pieces: list[pd.DataFrame], settings: SkillSettings, failed: set[tuple[str, str, str]]
) -> pd.DataFrame:
    """Join the pieces in a fixed order; a baseline that failed in one fold is left out whole."""
    if not pieces:
        return PREDICTIONS.empty().to_pandas()
    joined = pd.concat(pieces, ignore_index=True)
    for model, split, target in failed:
        rows = (
            (joined["model"] == model) & (joined["split"] == split) & (joined["target"] == target)
        )
        joined = joined[~rows]
    order = {name: k for k, name in enumerate(_names(settings))}
    split_order = {name: k for k, name in enumerate(settings.splits)}
    keys = pd.DataFrame(
        {
            "target": joined["target"],
            "split": joined["split"].map(split_order),
            "model": joined["model"].map(order),
            "month": joined["month"],
            "mascon_id": joined["mascon_id"],
        }
    )
    rows_in_order = keys.sort_values(list(keys.columns), kind="stable").index
    return joined.loc[rows_in_order].reset_index(drop=True)


def _names(settings: SkillSettings) -> list[str]:
    return [*settings.models, *BASELINES, CONTROL]


def _kind(model: str) -> str:
    if model in BASELINES:
        return "baseline"
    return "control" if model == CONTROL else "model"


def _words(name: str) -> str:
    return name.replace("_", " ")


#: Scores of the conformal intervals, over the samples that have one (their ``n``).
_INTERVAL_SCORES = ("coverage", "interval_width_cm")
_ERRORS = ("r2", "rmse_cm", "rmse_gt", "mae_cm")


def _pooled_names(model: str) -> list[str]:
    names = [*_ERRORS, "r2_jackknife"]
    if model not in BASELINES:
        names += [f"skill_vs_{name}" for name in BASELINES]
        names += ["gain_vs_best", "gain_vs_best_jackknife"]
    if model not in BASELINES or model == ELEVATION_BASELINE:
        names += ["gain_vs_best_blind"]
    if _kind(model) == "model":
        names += _INTERVAL_SCORES
    return names


def _row(name: str, scope: str = "pooled", **found: Any) -> dict[str, Any]:
    empty = {"value": None, "lower": None, "upper": None, "n": 0, "n_blocks": None, "reason": None}
    return {"scope": scope, "score": name} | empty | found


#: Sums over samples from which every score follows.
_SUMS = ("n", "y", "yy", "ee", "abs", "gg", "covered", "width", "bounded")


class _Scored:
    """Sums per model, month and mascon of one split and target, and the scores made of them."""

    def __init__(self, group: pd.DataFrame, settings: SkillSettings) -> None:
        index = month_index(group["month"].to_numpy())
        self.models = list(dict.fromkeys(group["model"]))
        self.mascons, mascon = np.unique(group["mascon_id"].to_numpy(), return_inverse=True)
        month = index - index.min()
        n_months = int(month.max()) + 1
        self.block_months = settings.block_months
        self.n_blocks = n_months // settings.block_months
        self.weights = bootstrap_weights(
            n_months, settings.block_months, settings.bootstrap_draws, settings.seed
        )
        observed = group["observed_cm"].to_numpy()
        centred = observed - observed.mean()
        error = group["predicted_cm"].to_numpy() - observed
        width = (group["upper_cm"] - group["lower_cm"]).to_numpy()
        inside = (observed >= group["lower_cm"].to_numpy()) & (
            observed <= group["upper_cm"].to_numpy()
        )
        bounded = np.isfinite(width)
        terms = {
            "n": np.ones(len(group)),
            "y": centred,
            "yy": centred**2,
            "ee": error**2,
            "abs": np.abs(error),
            "gg": (error * group["land_area_km2"].to_numpy() * GT_PER_CM_KM2) ** 2,
            "covered": inside & bounded,
            "width": np.where(bounded, width, 0.0),
            "bounded": bounded,
        }
        self.sums = {}
        label = group["model"].to_numpy()
        for model in self.models:
            rows = label == model
            held = np.zeros((n_months, len(self.mascons), len(_SUMS)))
            stacked = np.column_stack([terms[name][rows] for name in _SUMS])
            np.add.at(held, (month[rows], mascon[rows]), stacked)
            self.sums[model] = held
        self.baselines = [name for name in BASELINES if name in self.models]

    def rows(self, model: str) -> list[dict[str, Any]]:
        """Return a model's rows, pooled then per mascon."""
        by_month = self.sums[model].sum(axis=1)
        references = {name: self.sums[name].sum(axis=1) for name in self.baselines}
        whole = self._values(model, by_month.sum(axis=0), _total(references))
        drawn = self._values(model, self.weights @ by_month, _drawn(self.weights, references))
        jack = self._jackknife(model)
        found = []
        for name in _pooled_names(model):
            n = int(by_month[:, 8 if name in _INTERVAL_SCORES else 0].sum())
            base = name.removesuffix("_jackknife")
            if base not in whole:
                found.append(_row(name, n=n, reason=self._missing(base)))
            elif name != base:
                found.append(_row(name, n=n, **jack[base]))
            else:
                interval = self._interval(name, whole[name], *_percentiles(drawn[name]))
                found.append(_row(name, n=n, **interval))
        return found + self._per_mascon(model)

    def _per_mascon(self, model: str) -> list[dict[str, Any]]:
        held = self.sums[model]
        totals = held.sum(axis=0)
        drawn = np.tensordot(self.weights, held, axes=(1, 0))
        values, draws = _errors(totals), _errors(drawn)
        found = []
        for name in ("r2", "rmse_cm"):
            lower, upper = _percentiles(draws[name])
            for k, mascon in enumerate(self.mascons):
                n = int(totals[k, 0])
                if n < MIN_MASCON_SAMPLES:
                    row = {"reason": f"fewer than {MIN_MASCON_SAMPLES} held-out months"}
                else:
                    row = self._interval(name, values[name][k], lower[k], upper[k])
                found.append(_row(name, f"mascon:{mascon}", n=n, **row))
        return found

    def _values(
        self, model: str, sums: np.ndarray, references: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return every score made of sums (last axis: the sums); others stay vectorised."""
        found = _errors(sums)
        if model not in BASELINES and references:
            squared = {name: ref[..., 3] for name, ref in references.items()}
            for name, value in squared.items():
                found[f"skill_vs_{name}"] = 1 - _ratio(sums[..., 3], value)
            best = np.min(np.stack(list(squared.values())), axis=0)
            found["gain_vs_best"] = 1 - _ratio(sums[..., 3], best)
        if model not in BASELINES or model == ELEVATION_BASELINE:
            blind = [r[..., 3] for name, r in references.items() if name != ELEVATION_BASELINE]
            if blind:
                best = np.min(np.stack(blind), axis=0)
                found["gain_vs_best_blind"] = 1 - _ratio(sums[..., 3], best)
        if _kind(model) == "model":
            found["coverage"] = _ratio(sums[..., 6], sums[..., 8])
            found["interval_width_cm"] = _ratio(sums[..., 7], sums[..., 8])
        return found

    def _interval(self, name: str, value: Any, lower: Any, upper: Any) -> dict[str, Any]:
        if not np.isfinite(value):
            return {"reason": self._missing(name)}
        reason = None
        if self.n_blocks < 2 or not np.isfinite(lower):
            reason = f"no interval: fewer than two blocks of {self.block_months} months"
            lower = upper = None
        return {
            "value": value,
            "lower": lower,
            "upper": upper,
            "n_blocks": self.n_blocks,
            "reason": reason,
        }

    def _jackknife(self, model: str) -> dict[str, dict[str, Any]]:
        """Return scores with the t interval of the leave-one-mascon-out jackknife."""
        by_mascon = self.sums[model].sum(axis=0)
        references = {name: self.sums[name].sum(axis=0) for name in self.baselines}
        rest = {name: ref.sum(axis=0) - ref for name, ref in references.items()}
        whole = self._values(model, by_mascon.sum(axis=0), _total(references))
        left = self._values(model, by_mascon.sum(axis=0) - by_mascon, rest)
        n = len(self.mascons)
        found: dict[str, dict[str, Any]] = {}
        for name in ("r2", "gain_vs_best"):
            if name not in whole:
                continue
            value = whole[name]
            if not np.isfinite(value):
                found[name] = {"reason": self._missing(name)}
            elif n < MIN_MASCON_SAMPLES or not np.isfinite(left[name]).all():
                found[name] = {"value": value, "reason": "no interval: too few mascons"}
            else:
                spread = left[name] - left[name].mean()
                sigma = np.sqrt((n - 1) / n * np.sum(spread**2))
                half = stdtrit(n - 1, 0.975) * sigma
                found[name] = {
                    "value": value,
                    "lower": value - half,
                    "upper": value + half,
                    "n_blocks": n,
                }
        return found

    def _missing(self, name: str) -> str:
        if name in _INTERVAL_SCORES:
            return "too few inner residuals for an interval"
        if name.startswith("skill_vs_") and name.removeprefix("skill_vs_") not in self.baselines:
            return "the baseline has no prediction"
        return "the held-out target or the baseline's error does not vary"


def _percentiles(draws: np.ndarray) -> tuple[Any, Any]:
    """Return the 95 % percentile interval over the first axis, NaN where a draw has no value.

    Fewer than one draw in twenty without a value is passed over.
    """
    missing = ~np.isfinite(draws)
    few = missing.mean(axis=0) < 0.05
    filled = np.where(missing, np.nanmedian(np.where(few, draws, 0.0), axis=0), draws)
    lower, upper = np.quantile(filled, [0.025, 0.975], axis=0)
    return np.where(few, lower, np.nan), np.where(few, upper, np.nan)


def _total(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value.sum(axis=0) for name, value in sums.items()}


def _drawn(weights: np.ndarray, sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: weights @ value for name, value in sums.items()}


def _ratio(above: Any, below: Any) -> np.ndarray:
    """Return above / below, NaN where below is 0."""
    above, below = np.asarray(above, float), np.asarray(below, float)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 1e-12)


def _errors(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return R², RMSE (cm and Gt) and MAE from sums on the last axis."""
    n, y, yy, ee, absolute, gg = (sums[..., k] for k in range(6))
    return {
        "r2": 1 - _ratio(ee, yy - _ratio(y * y, n)),
        "rmse_cm": np.sqrt(_ratio(ee, n)),
        "rmse_gt": np.sqrt(_ratio(gg, n)),
        "mae_cm": _ratio(absolute, n),
    }
