"""Predictive skill: every model, baseline and control under every split, on the same folds.

A sample is a mascon month whose target is known and which has some elevation change. Scores
are pooled over all held-out samples and per mascon, with block-bootstrap intervals; the gain over
the best baseline, and that over the best model blind to elevation change, stand beside every
score. Where the data allow no honest fold, rows hold nulls and the reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from cryofuse.calendar import TIME_DTYPE, month_index
from cryofuse.compute import Run, run_serially
from cryofuse.learning.baselines import BASELINES, BaselineError, previous_values
from cryofuse.learning.conformal import calibrate
from cryofuse.learning.controls import (
    ALTIMETRY_PREFIX,
    BLIND,
    NOISE_CONTROLS,
    PERMUTED,
    PERMUTED_MODEL,
    blind_columns,
    control_features,
    permute_years,
)
from cryofuse.learning.models import Tuned, build, choose, fit, list_candidates, single_threaded
from cryofuse.learning.splits import (
    MIN_TRAIN_SAMPLES,
    Fold,
    SplitError,
    count_untested,
    inner_folds,
    make_folds,
)
from cryofuse.learning.terms import choose_terms
from cryofuse.tables import PREDICTIONS, SCORES
from cryofuse.units import GT_PER_CM_KM2

if TYPE_CHECKING:
    from cryofuse.config import SkillSettings

logger = logging.getLogger(__name__)

#: The one baseline that sees elevation change; ``gain_vs_best_blind`` leaves it out.
ELEVATION_BASELINE = "physics"
#: Level below which labels of other years count as worse than the true ones.
SIGNIFICANCE = 0.05
#: The splits that a claim may rest on, strictest first.
HONEST_SPLITS = ("both", "leave_mascon_out", "forward")
#: Fewest held-out samples of a mascon for scores of its own.
MIN_MASCON_SAMPLES = 3
#: Mean elevation change since the period's first month (m).
_ELEVATION = "dh_m"
#: Trees of a forest that chooses settings, or learns noise by heart: a share of the model's.
_FOREST_SHARE = 0.25
_FEWEST_TREES = 20


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

    @property
    def keys(self) -> np.ndarray | None:
        """Return mascon and step of each sample (n × 2) where the target is a change."""
        if self.target != "change":
            return None
        steps = month_index(self.table["month"].to_numpy())
        apart = np.diff(np.unique(steps))
        step = int(apart.min()) if len(apart) else 1
        return np.column_stack([self.table["mascon_id"].to_numpy(), steps // step])

    def blind(self) -> Samples:
        """Return the same samples without the features of elevation change."""
        kept = blind_columns(self.names)
        names = [name for name, keep in zip(self.names, kept, strict=True) if keep]
        return replace(self, x=self.x[:, kept], names=names)


def fit_predict(
    model: str,
    samples: Samples,
    train: np.ndarray,
    test: np.ndarray,
    parameters: dict[str, Any],
    trees: int,
    seed: int,
) -> np.ndarray:
    """Fit a model to training samples and predict held-out ones (cm).

    Parameters
    ----------
    model, parameters, trees, seed
        As for :func:`cryofuse.learning.models.build`.
    samples
        Samples of a target.
    train, test
        Positions of the training and of the held-out samples.
    """
    y = samples.table["observed_cm"].to_numpy()
    known = None if samples.keys is None else samples.keys[train]
    fitted = build(model, parameters, trees, seed, samples.names)
    return fit(fitted, samples.x[train], y[train], known).predict(samples.x[test])


#: Does what :func:`fit_predict` does.
FitPredict = Callable[[str, Samples, np.ndarray, np.ndarray, dict[str, Any], int, int], np.ndarray]


@dataclass(frozen=True)
class Engine:
    """Fits some of the models elsewhere, on the same samples and folds.

    ``models`` are those that it fits; ``fit_predict`` does what the function of that name does,
    and ``run`` maps a function that calls it over independent tasks. ``about`` says for the
    provenance of tables what it is.
    """

    models: Collection[str]
    fit_predict: FitPredict
    run: Run
    about: dict[str, str]


def select_samples(features: pd.DataFrame, target: str, settings: SkillSettings) -> Samples:
    """Return the samples of a target, ordered by month and mascon.

    Parameters
    ----------
    features
        Feature table, one row per mascon and month.
    target
        ``change`` or ``cumulative``.
    settings
        Terms that models see.

    Returns
    -------
    Samples
        Features that hold no value in any sample, and those that are no term, are left out.
    """
    from cryofuse.fusion.features import feature_columns

    ordered = features.sort_values(["month", "mascon_id"], kind="stable").reset_index(drop=True)
    observed = ordered[f"target_{target}_cm"].to_numpy(float, na_value=np.nan)
    columns = feature_columns(ordered)
    values = ordered[columns].to_numpy(float, na_value=np.nan)
    seen = has_altimetry(ordered)
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
    dropped = choose_terms(columns, target, settings)
    dropped |= {name: "null everywhere" for name, e in zip(columns, empty, strict=True) if e}
    shown = [k for k, name in enumerate(columns) if name not in dropped]
    return Samples(
        target=target,
        table=table,
        x=x[:, shown],
        names=[columns[k] for k in shown],
        dropped=dropped,
        reason=reason,
    )


def has_altimetry(features: pd.DataFrame) -> np.ndarray:
    """Return for each row of a feature table whether it holds any elevation change."""
    from cryofuse.fusion.features import feature_columns

    names = [name for name in feature_columns(features) if name.startswith(ALTIMETRY_PREFIX)]
    return np.asarray(features[names].notna().any(axis=1))


def evaluate(
    features: pd.DataFrame,
    settings: SkillSettings,
    neighbours: pd.DataFrame | None = None,
    run: Run = run_serially,
    engine: Engine | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score every model, baseline and control under every split.

    Parameters
    ----------
    features
        Feature table, one row per mascon and month (any order).
    settings
        Models, splits, targets, folds and seeds.
    neighbours
        Footprints near each other: the table of :func:`cryofuse.mascons.footprints.neighbours`
        for the buffer. Without it the distance of centres counts in place of edges.
    run
        Who does the fits; results do not depend on it.
    engine
        Who does those of its models, and of their blind twins, in place of ``run``.

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
        samples = select_samples(features, target, settings)
        for name, why in samples.dropped.items():
            logger.info("%s: feature %s left out: %s", target, name, why)
        names = [*settings.models, *_twins(settings), *NOISE_CONTROLS, PERMUTED]
        if not blind_columns(samples.names).any():
            names = [name for name in names if name not in _twins(settings)]
            for name in _twins(settings):
                reasons |= {(name, s, target): "no feature but elevation" for s in settings.splits}
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
                inner = inner_folds(split, samples.table.iloc[fold.train], settings, neighbours)
                jobs += [_Job(samples, split, fold, len(folds), name, inner) for name in names]
    permuted: dict[tuple[str, str], list[_Permuted]] = {}
    # The longest first: no core waits for a long one at the end. What comes out is put in order.
    jobs.sort(key=_expected_cost, reverse=True)
    work = partial(_run, settings=settings)
    if engine is None:
        results = run(work, jobs)
    else:
        theirs = [job for job in jobs if job.model.removesuffix(BLIND) in engine.models]
        ours = [job for job in jobs if job.model.removesuffix(BLIND) not in engine.models]
        jobs = ours + theirs
        results = chain(
            run(work, ours), engine.run(partial(work, predict=engine.fit_predict), theirs)
        )
    for number, (job, result) in enumerate(zip(jobs, results, strict=True)):
        found, message = result
        logger.info("%s; %d of %d", message, number + 1, len(jobs))
        if isinstance(found, _Permuted):
            permuted.setdefault((job.split, job.samples.target), []).append(found)
        else:
            pieces.append(found)
    failed_baselines = {key for key in reasons if key[0] in BASELINES}
    predictions = _collect(pieces, settings, failed_baselines)
    return score(predictions, settings, reasons, permuted), predictions


def score(
    predictions: pd.DataFrame,
    settings: SkillSettings,
    reasons: dict[tuple[str, str, str], str] | None = None,
    permuted: dict[tuple[str, str], list[_Permuted]] | None = None,
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
    permuted
        Predictions of the permuted control, by (split, target).
    """
    reasons, permuted = reasons or {}, permuted or {}
    rows: list[dict[str, Any]] = []
    grouped = dict(list(predictions.groupby(["split", "target"], sort=False)))
    for target in settings.targets:
        for split in settings.splits:
            group = grouped.get((split, target))
            scored = _Scored(group, settings) if group is not None else None
            for model in _names(settings):
                if scored is not None and model in scored.models:
                    found = scored.rows(model)
                elif scored is not None and model == PERMUTED and (split, target) in permuted:
                    found = scored.permuted_rows(permuted[split, target])
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

    For each honest split the model with the largest gain speaks. It wins where the 95 % intervals
    of two gains lie above 0: that over the best baseline, and that over the best model of the same
    folds that sees everything but elevation change. The second is what place and season cannot
    give. Each has two intervals, over blocks of months and over mascons (jackknife): a pattern
    that a few mascons share by chance lasts all months. A mascon counts where both of its own
    gains do.

    Parameters
    ----------
    scores
        Table SCORES.
    """
    target = claimed_target(scores)
    noun = {"change": "monthly mass change", "cumulative": "the cumulative mass anomaly"}[target]
    judged, reason = judge_splits(scores)
    if reason is not None:
        return f"Whether elevation change predicts {noun} cannot be said: {reason}."
    wins = [split.text for split in judged if split.won]
    fails = [split.text for split in judged if not split.won]
    rivals = f"both the best baseline and the best model blind to elevation change for {noun}"
    if not wins:
        return (
            f"Learning from elevation change does not demonstrably beat {rivals} "
            f"under {'; '.join(fails)}."
        )
    sentence = f"Learning from elevation change beats {rivals} under {'; '.join(wins)}"
    return sentence + (f"; but not demonstrably under {'; '.join(fails)}." if fails else ".")


@dataclass(frozen=True)
class Judged:
    """An honest split: its name, the row of its best model's gain, whether that wins, in words.

    ``seasonal`` says that labels of other years teach as much: what is learnt is the season.
    """

    split: str
    best: pd.Series
    won: bool
    text: str
    seasonal: bool


def claimed_target(scores: pd.DataFrame) -> str:
    """Return the target that claims are about: the change, where it was scored."""
    return "change" if (scores["target"] == "change").any() else "cumulative"


def judge_splits(scores: pd.DataFrame) -> tuple[list[Judged], str | None]:
    """Return each honest split's best model and whether it wins, or why none can be judged.

    Parameters
    ----------
    scores
        Table SCORES.
    """
    scores = scores[scores["target"] == claimed_target(scores)]
    pooled = scores[scores["scope"] == "pooled"]
    gains = pooled[(pooled["score"] == "gain_vs_best") & (pooled["kind"] == "model")]
    known = gains[gains["value"].notna()]
    if known.empty:
        return [], next(iter(gains["reason"].dropna()), "no score")
    judged = []
    for split in (name for name in HONEST_SPLITS if (known["split"] == name).any()):
        best = known[known["split"] == split].sort_values(["value", "model"]).iloc[-1]
        rows = scores[scores["split"] == split]
        won, text = _split_verdict(rows, best)
        chance = rows[(rows["score"] == "p_permuted") & (rows["value"] > SIGNIFICANCE)]
        judged.append(Judged(split, best, won, text, seasonal=len(chance) > 0))
    return judged, None if judged else "no honest split"


def _split_verdict(rows: pd.DataFrame, best: pd.Series) -> tuple[bool, str]:
    """Return whether a split's best model wins, and that in words."""
    pooled = rows[rows["scope"] == "pooled"]
    own = rows[rows["model"] == best["model"]]
    errors = pooled[(pooled["score"] == "rmse_cm") & pooled["value"].notna()]
    errors = errors.sort_values(["value", "model"]).set_index("model")
    baseline = str(errors.index[errors["kind"] == "baseline"][0])
    text = (
        f"{_words(best['split'])} ({_words(best['model'])}: {_gain(best)} over {_words(baseline)}"
    )
    if baseline == ELEVATION_BASELINE:
        blind = own[(own["score"] == "gain_vs_best_blind") & (own["scope"] == "pooled")].iloc[0]
        text += f", which is elevation change at one density, {_gain(blind)} over the others"
    twins = own[(own["score"] == "gain_vs_best_twin") & own["value"].notna()]
    pooled_twin = twins[twins["scope"] == "pooled"]
    if pooled_twin.empty:
        return False, text + ", no model blind to elevation change)"
    twin = pooled_twin.iloc[0]
    rival = next(n for n in errors.index if n.endswith(BLIND) or n in NOISE_CONTROLS)
    blind_to = "the blind " if rival.endswith(BLIND) else ""
    text += f" and {_gain(twin)} over {blind_to}{_words(rival.removesuffix(BLIND))}"
    if not np.isfinite(best["lower"]):
        return False, text + ", too short a record for intervals)"
    both = own[own["score"].isin(["gain_vs_best", "gain_vs_best_twin"]) & own["value"].notna()]
    lowest = both[both["scope"] != "pooled"].groupby("scope")["lower"].agg(["min", "size"])
    alone = int(((lowest["min"] > 0) & (lowest["size"] == 2)).sum())
    text += f", {best['n_blocks']} blocks, {alone} of {len(lowest)} mascons on their own"
    permuted = pooled[(pooled["score"] == "p_permuted") & (pooled["value"] > SIGNIFICANCE)]
    if len(permuted):
        chance = permuted["value"].iloc[0]
        text += (
            f", while labels of other years teach {_words(PERMUTED_MODEL)} as much (p {chance:.2f})"
        )
        text += ": what is learnt there is the season"
    text += ")"
    jackknife = pooled[
        (pooled["model"] == best["model"])
        & pooled["score"].isin(["gain_vs_best_jackknife", "gain_vs_best_twin_jackknife"])
    ]["lower"]
    if len(jackknife) < 2 or jackknife.isna().any():
        return False, text.removesuffix(")") + ", too few mascons for a jackknife)"
    if not (jackknife > 0).all():
        return False, text.removesuffix(")") + ", and a jackknife over mascons reaches 0)"
    return bool(best["lower"] > 0 and twin["lower"] > 0), text


def _gain(row: pd.Series) -> str:
    """Return a gain in words: how much of the squared error is gone."""
    value, lower, upper = (100 * float(row[name]) for name in ("value", "lower", "upper"))
    interval = f" [{lower:+.0f}, {upper:+.0f}]" if np.isfinite(lower) else ""
    return f"gain {value:+.0f} %{interval}"


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


@dataclass(frozen=True)
class _Job:
    samples: Samples
    split: str
    fold: Fold
    n_folds: int
    model: str
    inner: list[Fold]


@dataclass(frozen=True)
class _Permuted:
    """Held-out predictions of one fold (cm): row 0 of the true labels' model, then permuted."""

    fold: int
    observed: np.ndarray
    predicted: np.ndarray


#: Work of one fit in arbitrary units: only the order counts.
_COST = {
    "ridge": 1.0,
    "varying_density": 4.0,
    "xgboost": 8.0,
    "hist_gradient_boosting": 12.0,
    "forest": 40.0,
}


def _expected_cost(job: _Job) -> float:
    """Return about how long a job takes, to start the longest first."""
    name = job.model.removesuffix(BLIND)
    blind = 0.5 if job.model.endswith(BLIND) else 1.0
    return _COST.get(name, 20.0) * blind * len(job.fold.train)


def _run(
    job: _Job, settings: SkillSettings, predict: FitPredict = fit_predict
) -> tuple[pd.DataFrame | _Permuted, str]:
    """Tune, fit and predict one model in one fold; return predictions and a line to log."""
    began = time.perf_counter()
    train, test = job.fold.train, job.fold.test
    y = job.samples.table["observed_cm"].to_numpy()
    radius: np.ndarray | float = float("nan")
    about = "not tuned"
    found: pd.DataFrame | _Permuted
    with single_threaded():
        if job.model == PERMUTED:
            found = _permute(job, settings)
            predicted = np.median(found.predicted[1:], axis=0)
            about = f"{len(found.predicted) - 1} permutations"
        elif job.model in NOISE_CONTROLS:
            name, parameters = NOISE_CONTROLS[job.model]
            x = control_features(job.samples.table, settings)
            fitted = build(name, parameters, _fewer_trees(name, settings), settings.seed)
            predicted = fitted.fit(x[train], y[train]).predict(x[test])
        else:
            samples = job.samples.blind() if job.model.endswith(BLIND) else job.samples
            name = job.model.removesuffix(BLIND)
            tuned = tune_training(name, samples, train, job.inner, settings, predict)
            predicted = predict(
                name, samples, train, test, tuned.parameters, settings.trees, settings.seed
            )
            table = job.samples.table
            month, mascon = table["month"].to_numpy(), table["mascon_id"].to_numpy()
            widths = calibrate(
                tuned.residuals, job.inner, mascon[train], month[train], y[train], settings.coverage
            )
            radius, about = widths.radius(month[test]), str(tuned.parameters)
            if widths.reason:
                about += f", no interval: {widths.reason}"
    if job.model != PERMUTED:
        found = _predictions(job.samples, job.split, job.fold, job.model, predicted, radius)
    rmse = float(np.sqrt(np.mean((y[test] - predicted) ** 2)))
    message = (
        f"{job.samples.target}, {job.split}, fold {job.fold.number + 1} of {job.n_folds}, "
        f"{job.model}: {len(train)} train, {len(test)} test, RMSE {rmse:.3g} cm, {about}, "
        f"{time.perf_counter() - began:.1f} s"
    )
    return found, message


def _permute(job: _Job, settings: SkillSettings) -> _Permuted:
    """Fit the control's model to the true labels and to those of permuted years.

    All with the settings chosen with the true labels.
    """
    name = PERMUTED_MODEL if PERMUTED_MODEL in settings.models else settings.models[0]
    train, test = job.fold.train, job.fold.test
    table, x = job.samples.table.iloc[train], job.samples.x
    y = job.samples.table["observed_cm"].to_numpy()
    parameters = tune_training(name, job.samples, train, job.inner, settings).parameters
    predicted = np.full((settings.label_permutations + 1, len(test)), np.nan)
    for draw in range(len(predicted)):
        label = y[train]
        if draw:
            seed = (settings.seed, job.fold.number, draw)
            label = permute_years(
                table["mascon_id"].to_numpy(), table["month"].to_numpy(), label, seed
            )
        known = np.isfinite(label)
        if known.sum() < MIN_TRAIN_SAMPLES:
            continue
        fitted = build(name, parameters, settings.trees, settings.seed, job.samples.names)
        fitted.fit(x[train[known]], label[known])
        predicted[draw] = fitted.predict(x[test])
    return _Permuted(job.fold.number, y[test], predicted)


def tune_fold(
    model: str,
    samples: Samples,
    split: str,
    fold: Fold,
    settings: SkillSettings,
    neighbours: pd.DataFrame | None = None,
) -> Tuned:
    """Return a model's settings for one outer fold, chosen on inner folds of its training set."""
    inner = inner_folds(split, samples.table.iloc[fold.train], settings, neighbours)
    return tune_training(model, samples, fold.train, inner, settings)


def tune_training(
    model: str,
    samples: Samples,
    train: np.ndarray,
    inner: list[Fold],
    settings: SkillSettings,
    predict: FitPredict = fit_predict,
) -> Tuned:
    """Return a model's settings for a training set, chosen on its inner folds.

    A forest chooses with fewer trees than it predicts with.
    """
    trees = _fewer_trees(model, settings)

    def held_out(parameters: dict[str, Any], fold: Fold) -> np.ndarray:
        inner_train, inner_test = train[fold.train], train[fold.test]
        return predict(model, samples, inner_train, inner_test, parameters, trees, settings.seed)

    options = list_candidates(settings.search.space(model), settings.candidates)
    return choose(options, samples.table["observed_cm"].to_numpy()[train], inner, held_out)


def _fewer_trees(model: str, settings: SkillSettings) -> int:
    """Return the trees of a fit that only chooses settings: a forest's choice needs few."""
    if model != "forest":
        return settings.trees
    return min(settings.trees, max(_FEWEST_TREES, int(settings.trees * _FOREST_SHARE)))


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
    samples: Samples,
    split: str,
    fold: Fold,
    model: str,
    predicted: np.ndarray,
    radius: np.ndarray | float,
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


def _twins(settings: SkillSettings) -> list[str]:
    return [name + BLIND for name in settings.models]


def _names(settings: SkillSettings) -> list[str]:
    return [*settings.models, *BASELINES, *_twins(settings), *NOISE_CONTROLS, PERMUTED]


def _kind(model: str) -> str:
    if model in BASELINES:
        return "baseline"
    control = model.endswith(BLIND) or model in NOISE_CONTROLS or model == PERMUTED
    return "control" if control else "model"


def _words(name: str) -> str:
    return name.replace("_", " ")


#: Scores of the conformal intervals, over the samples that have one (their ``n``).
_INTERVAL_SCORES = ("coverage", "interval_width_cm")
_ERRORS = ("r2", "rmse_cm", "rmse_gt", "mae_cm")


def _pooled_names(model: str) -> list[str]:
    if model == PERMUTED:
        return ["r2", "rmse_cm", "gain_vs_best", "r2_true_labels", "p_permuted"]
    names = [*_ERRORS, "r2_jackknife"]
    if model not in BASELINES:
        names += [f"skill_vs_{name}" for name in BASELINES]
        names += ["gain_vs_best", "gain_vs_best_jackknife"]
    if model not in BASELINES or model == ELEVATION_BASELINE:
        names += ["gain_vs_best_blind"]
    if _kind(model) == "model":
        names += ["gain_vs_blind_twin", "gain_vs_best_twin", "gain_vs_best_twin_jackknife"]
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
        self._by_mascon: dict[str, np.ndarray] = {}
        label = group["model"].to_numpy()
        for model in self.models:
            rows = label == model
            held = np.zeros((n_months, len(self.mascons), len(_SUMS)))
            stacked = np.column_stack([terms[name][rows] for name in _SUMS])
            np.add.at(held, (month[rows], mascon[rows]), stacked)
            self.sums[model] = held
        self.baselines = [name for name in BASELINES if name in self.models]
        self.twins = [
            name for name in self.models if name.endswith(BLIND) or name in NOISE_CONTROLS
        ]

    def rows(self, model: str) -> list[dict[str, Any]]:
        """Return a model's rows, pooled then per mascon."""
        by_month = self.sums[model].sum(axis=1)
        references = {name: self.sums[name].sum(axis=1) for name in self.baselines + self.twins}
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

    def permuted_rows(self, folds: list[_Permuted]) -> list[dict[str, Any]]:
        """Return the rows of the permuted control: medians and 95 % ranges over permutations."""
        ordered = sorted(folds, key=lambda fold: fold.fold)
        observed = np.concatenate([fold.observed for fold in ordered])
        predicted = np.concatenate([fold.predicted for fold in ordered], axis=1)
        n, draws = len(observed), len(predicted) - 1
        squared = ((predicted - observed) ** 2).sum(axis=1)
        names = _pooled_names(PERMUTED)
        if not np.isfinite(squared).all():
            return [_row(name, n=n, reason="a fold trains on a single year") for name in names]
        r2 = 1 - _ratio(squared, np.sum((observed - observed.mean()) ** 2))
        best = min((self.sums[name][..., 3].sum() for name in self.baselines), default=np.nan)
        values = {
            "r2": r2[1:],
            "rmse_cm": np.sqrt(squared[1:] / n),
            "gain_vs_best": 1 - _ratio(squared[1:], best),
        }
        found = []
        for name, drawn in values.items():
            if not np.isfinite(drawn).all():
                found.append(_row(name, n=n, reason=self._missing(name)))
                continue
            lower, upper = np.quantile(drawn, [0.025, 0.975])
            value = float(np.median(drawn))
            found.append(_row(name, n=n, value=value, lower=lower, upper=upper, n_blocks=draws))
        # The true labels are one of the arrangements, so p is never 0 (Phipson and Smyth 2010).
        share = (1 + np.sum(r2[1:] >= r2[0])) / (1 + draws)
        single: dict[str, Any] = {"n": n, "n_blocks": draws, "reason": "one value, no interval"}
        found.append(_row("r2_true_labels", value=float(r2[0]), **single))
        found.append(_row("p_permuted", value=float(share), **single))
        return found

    def _per_mascon(self, model: str) -> list[dict[str, Any]]:
        names = ["r2", "rmse_cm"]
        if model not in BASELINES:
            names += ["gain_vs_best"]
        if _kind(model) == "model":
            names += ["gain_vs_best_twin"]
        held = {name: self.sums[name] for name in self.baselines + self.twins}
        totals = self.sums[model].sum(axis=0)
        values = self._values(model, totals, _total(held))
        draws = self._values(model, *self._drawn_by_mascon(model))
        found = []
        for name in names:
            if name not in values:
                continue
            lower, upper = _percentiles(draws[name])
            for k, mascon in enumerate(self.mascons):
                n = int(totals[k, 0])
                if n < MIN_MASCON_SAMPLES:
                    row = {"reason": f"fewer than {MIN_MASCON_SAMPLES} held-out months"}
                else:
                    row = self._interval(name, values[name][k], lower[k], upper[k])
                found.append(_row(name, f"mascon:{mascon}", n=n, **row))
        return found

    def _drawn_by_mascon(self, model: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the sums of every draw by mascon, of the model and of what it is compared with."""
        drawn = {
            name: np.tensordot(self.weights, self.sums[name], axes=(1, 0))
            for name in {model, *self.baselines, *self.twins} - set(self._by_mascon)
        }
        self._by_mascon |= drawn
        compared = {name: self._by_mascon[name] for name in self.baselines + self.twins}
        return self._by_mascon[model], compared

    def _values(
        self, model: str, sums: np.ndarray, references: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return every score made of sums (last axis: the sums); others stay vectorised."""
        found = _errors(sums)
        squared = {name: ref[..., 3] for name, ref in references.items()}

        def gain(names: list[str]) -> np.ndarray:
            return 1 - _ratio(sums[..., 3], np.min([squared[name] for name in names], axis=0))

        if model not in BASELINES and self.baselines:
            for name in self.baselines:
                found[f"skill_vs_{name}"] = gain([name])
            found["gain_vs_best"] = gain(self.baselines)
        blind = [name for name in self.baselines if name != ELEVATION_BASELINE]
        if (model not in BASELINES or model == ELEVATION_BASELINE) and blind:
            found["gain_vs_best_blind"] = gain(blind)
        if _kind(model) == "model":
            if model + BLIND in self.twins:
                found["gain_vs_blind_twin"] = gain([model + BLIND])
                found["gain_vs_best_twin"] = gain(self.twins)
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
        references = {name: self.sums[name].sum(axis=0) for name in self.baselines + self.twins}
        rest = {name: ref.sum(axis=0) - ref for name, ref in references.items()}
        whole = self._values(model, by_mascon.sum(axis=0), _total(references))
        left = self._values(model, by_mascon.sum(axis=0) - by_mascon, rest)
        n = len(self.mascons)
        found: dict[str, dict[str, Any]] = {}
        for name in ("r2", "gain_vs_best", "gain_vs_best_twin"):
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
        if name.endswith("_twin") and not self.twins:
            return "no model blind to elevation change"
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
