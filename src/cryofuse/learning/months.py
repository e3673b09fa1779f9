"""Mass change of every mascon month with altimetry, by models that never saw the mascon.

The folds are those of the split ``leave_mascon_out`` of :mod:`cryofuse.learning.skill`, with their
buffer, tuning and calibration: what a fold's model says of its left-out mascons in months without
a target stands beside what it says of the samples, which is what ``skill/predictions`` holds.
Only the choice of one model for all mascons, by its error over all of them, knows every mascon.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cryofuse.calendar import TIME_DTYPE, month_index
from cryofuse.fusion.features import BASELINE_MONTHS
from cryofuse.learning.conformal import calibrate
from cryofuse.learning.models import build, fit, single_threaded
from cryofuse.learning.skill import (
    Samples,
    has_altimetry,
    select_samples,
    tune_training,
    usable_folds,
)
from cryofuse.learning.splits import Fold, SplitError, inner_folds
from cryofuse.tables import PRODUCT_MONTHS
from cryofuse.units import lwe_to_mass

if TYPE_CHECKING:
    from cryofuse.config import SkillSettings

logger = logging.getLogger(__name__)

#: The split whose folds predict: every mascon by a model of mascons beyond the buffer.
SPLIT = "leave_mascon_out"
#: Targets, and what their columns are called.
TARGETS = {"change": "change", "cumulative": "mass"}
#: Reason of a mascon month without elevation change, in it or before it.
NO_ALTIMETRY = "no elevation change in the month or before"
#: Reason of one whose elevation change is known by later segments alone.
NO_CAUSAL_FIT = "too few segments before the month for a fit"
_WORDS = {"change": "monthly change", "cumulative": "mass anomaly"}
_KEYS = ["mascon_id", "month"]


def choose_model(scores: pd.DataFrame, target: str) -> tuple[str | None, float, str | None]:
    """Return the model with the smallest error on mascons left out.

    Parameters
    ----------
    scores
        Table SCORES.
    target
        ``change`` or ``cumulative``.

    Returns
    -------
    model, rmse_cm, reason
        None, NaN and why, where no model has such an error.
    """
    rows = scores[
        (scores["target"] == target)
        & (scores["split"] == SPLIT)
        & (scores["kind"] == "model")
        & (scores["scope"] == "pooled")
        & (scores["score"] == "rmse_cm")
    ]
    if rows.empty:
        return None, np.nan, f"skill has no score of {target} under {SPLIT}"
    known = rows[rows["value"].notna()].sort_values(["value", "model"])
    if known.empty:
        return None, np.nan, str(rows["reason"].iloc[0])
    return str(known["model"].iloc[0]), float(known["value"].iloc[0]), None


def predict_target(
    model: str,
    features: pd.DataFrame,
    target: str,
    settings: SkillSettings,
    neighbours: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Predict a target at every mascon month with altimetry, by models that never saw the mascon.

    Parameters
    ----------
    model
        Name of the model.
    features
        Feature table, one row per mascon and month (any order).
    target
        ``change`` or ``cumulative``.
    settings
        Folds, buffer, search space, coverage and seeds.
    neighbours
        Footprints near each other, for the buffer.

    Returns
    -------
    DataFrame
        mascon_id, month, predicted_cm, lower_cm, upper_cm (NaN where there is none) and reason
        (why the prediction, or its interval, is missing), a row for every one of ``features``.
    """
    ordered = features.sort_values(["month", "mascon_id"], kind="stable").reset_index(drop=True)
    table = ordered[_KEYS].copy()
    for name in ("predicted_cm", "lower_cm", "upper_cm"):
        table[name] = np.nan
    seen = has_altimetry(ordered)
    samples = select_samples(ordered, target, settings)
    try:
        folds = usable_folds(SPLIT, samples, settings, neighbours)
    except SplitError as error:
        table["reason"] = np.where(seen, str(error), NO_CAUSAL_FIT)
        return table
    known = pd.MultiIndex.from_frame(samples.table[_KEYS])
    unknown = seen & ~pd.MultiIndex.from_frame(ordered[_KEYS]).isin(known)
    x = np.ascontiguousarray(ordered[samples.names].to_numpy(float, na_value=np.nan))
    parts = []
    for fold in folds:
        held_out = samples.table["mascon_id"].to_numpy()[fold.test]
        rows = unknown & ordered["mascon_id"].isin(held_out).to_numpy()
        inner = inner_folds(SPLIT, samples.table.iloc[fold.train], settings, neighbours)
        others = ordered.loc[rows, _KEYS]
        parts.append(_predict_fold(model, samples, fold, inner, others, x[rows], settings))
    found = pd.concat(parts, ignore_index=True)
    table = table[_KEYS].merge(found, on=_KEYS, how="left", validate="one_to_one")
    missing = table["predicted_cm"].isna().to_numpy()
    table.loc[missing & seen, "reason"] = "no fold with enough training mascons leaves it out"
    table.loc[missing & ~seen, "reason"] = NO_CAUSAL_FIT
    return table


def _predict_fold(
    model: str,
    samples: Samples,
    fold: Fold,
    inner: list[Fold],
    others: pd.DataFrame,
    x: np.ndarray,
    settings: SkillSettings,
) -> pd.DataFrame:
    """Fit a fold's model as the skill does; predict its samples, and other months with features."""
    train, test = fold.train, fold.test
    mascon, month = samples.table["mascon_id"].to_numpy(), samples.table["month"].to_numpy()
    y = samples.table["observed_cm"].to_numpy()
    keys = None if samples.keys is None else samples.keys[train]
    with single_threaded():
        tuned = tune_training(model, samples, train, inner, settings)
        fitted = build(model, tuned.parameters, settings.trees, settings.seed, samples.names)
        fit(fitted, samples.x[train], y[train], keys)
        # Apart, so that the samples' predictions are those of the skill to the last digit.
        predicted = [fitted.predict(part) for part in (samples.x[test], x) if len(part)]
    widths = calibrate(
        tuned.residuals, inner, mascon[train], month[train], y[train], settings.coverage
    )
    rows = pd.concat([samples.table.iloc[test][_KEYS], others], ignore_index=True)
    rows["predicted_cm"] = np.concatenate(predicted)
    radius = widths.radius(rows["month"].to_numpy())
    rows["lower_cm"] = rows["predicted_cm"] - radius
    rows["upper_cm"] = rows["predicted_cm"] + radius
    rows["reason"] = None if widths.reason is None else f"no interval: {widths.reason}"
    return rows


def predict_months(
    features: pd.DataFrame,
    fusion: pd.DataFrame,
    scores: pd.DataFrame,
    settings: SkillSettings,
    neighbours: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return predicted and observed mass of every mascon month, and which models predicted.

    Parameters
    ----------
    features
        Feature table of the selected mascons, with the targets.
    fusion
        Table MASCON_MONTHS (retrospective), for elevation change and the months of the period.
    scores
        Table SCORES of the same features: the model with the smallest error speaks.
    settings
        Targets, folds, buffer, search space, coverage and seeds.
    neighbours
        Footprints near each other, for the buffer.

    Returns
    -------
    months : DataFrame
        Table PRODUCT_MONTHS.
    models : dict
        By target: ``model``, ``rmse_cm`` and ``split``, or ``reason``.
    """
    kept = fusion[fusion["mascon_id"].isin(features["mascon_id"].unique())]
    kept = kept.sort_values(_KEYS, ignore_index=True)
    table = kept[[*_KEYS, "dh_m", "dh_sigma_m"]].copy()
    table["observed_change_gt"] = kept["mass_change_gt"]
    table["observed_change_sigma_gt"] = kept["mass_change_sigma_gt"]
    table["observed_mass_gt"] = kept["mass_gt"] - kept["mascon_id"].map(zero_mass(kept))
    table["observed_mass_sigma_gt"] = kept["mass_sigma_gt"]
    table["has_gravimetry"] = kept["mass_gt"].notna()
    land = kept["mascon_id"].map(features.groupby("mascon_id")["land_area_km2"].first())
    monthly = not _is_seasonal(features)
    known = pd.MultiIndex.from_frame(features.loc[has_altimetry(features), _KEYS])
    seen = pd.MultiIndex.from_frame(table[_KEYS]).isin(known)
    # Rows are in order of months: whether any elevation change came before, or comes now.
    begun = kept["dh_m"].notna().groupby(kept["mascon_id"]).cummax().to_numpy()
    unseen = np.where(begun, NO_CAUSAL_FIT, NO_ALTIMETRY)
    models: dict[str, Any] = {}
    reasons = {}
    for target, name in TARGETS.items():
        model, rmse, why = choose_model(scores, target)
        if not monthly:
            model, why = None, "features are of seasons, not of months"
        if model is None:
            found = table[_KEYS].assign(predicted_cm=np.nan, lower_cm=np.nan, upper_cm=np.nan)
            found["reason"] = np.where(seen | (not monthly), str(why), unseen)
            models[target] = {"reason": why}
        else:
            logger.info("%s: %s, RMSE %.3g cm under %s", target, model, rmse, SPLIT)
            predicted = predict_target(model, features, target, settings, neighbours)
            found = table[_KEYS].merge(predicted, on=_KEYS, how="left", validate="one_to_one")
            found["reason"] = np.where(seen, found["reason"], unseen)
            models[target] = {"model": model, "rmse_cm": rmse, "split": SPLIT}
        for column, suffix in (("predicted", ""), ("lower", "_lower"), ("upper", "_upper")):
            values = found[f"{column}_cm"].to_numpy(float)
            table[f"predicted_{name}{suffix}_gt"] = lwe_to_mass(values, land.to_numpy(float))
        reasons[target] = found["reason"].astype(object).where(found["reason"].notna(), None)
    table["reason"] = [_join(*pair) for pair in zip(*reasons.values(), strict=True)]
    return table[list(PRODUCT_MONTHS.columns)], models


def zero_mass(fusion: pd.DataFrame) -> pd.Series:
    """Return what each mascon's mass anomaly is counted from (Gt), by mascon.

    The mean of its first months with a solution, from which the cumulative target counts as well.

    Parameters
    ----------
    fusion
        Table MASCON_MONTHS.
    """
    held = fusion[fusion["mass_gt"].notna()].sort_values(_KEYS)
    first = held.groupby("mascon_id").head(BASELINE_MONTHS)
    return first.groupby("mascon_id")["mass_gt"].mean()


def _is_seasonal(features: pd.DataFrame) -> bool:
    steps = np.unique(month_index(features["month"].to_numpy(TIME_DTYPE)))
    return len(steps) > 1 and int(np.diff(steps).min()) > 1


def _join(change: str | None, level: str | None) -> str | None:
    """Return the reasons of both targets in one, said once where they are the same."""
    if change == level:
        return change
    pair = zip(_WORDS.values(), (change, level), strict=True)
    return "; ".join(f"{words}: {why}" for words, why in pair if why is not None)
