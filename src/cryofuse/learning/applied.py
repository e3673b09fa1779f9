"""Models fitted on all samples, and what a saved one says of any mascon month with altimetry.

Skill is measured on models that have not seen what they predict (:mod:`cryofuse.learning.skill`);
here every sample trains. Settings are tuned, and the interval's half width is calibrated, on inner
folds that leave mascons out, because each sample is held out once there and a mascon of another
region is like one left out; where there are too few mascons, on folds forward in time.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cryofuse.calendar import month_index
from cryofuse.learning.conformal import conformal_radius
from cryofuse.learning.models import Tuned, build, fit, single_threaded, tune
from cryofuse.learning.saved import (
    Card,
    FeatureCard,
    ScoreCard,
    digest_samples,
    library_versions,
    load_model,
    read_card,
    save_model,
    write_card,
)
from cryofuse.learning.skill import ALTIMETRY_PREFIX, HONEST_SPLITS, Samples, select_samples
from cryofuse.learning.splits import MIN_TRAIN_SAMPLES, inner_folds
from cryofuse.logs import UserError
from cryofuse.tables import PREDICTED_MASS
from cryofuse.units import GT_PER_CM_KM2

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from cryofuse.config import PredictSettings, SkillSettings, Target

logger = logging.getLogger(__name__)

#: Splits whose inner folds tune and calibrate, the first that the samples allow.
TUNING_SPLITS = ("leave_mascon_out", "forward")
#: Pooled scores that a card repeats.
CARD_SCORES = ("r2", "rmse_cm", "gain_vs_best")


def fit_on_all(
    model: str,
    samples: Samples,
    settings: SkillSettings,
    neighbours: pd.DataFrame | None = None,
) -> tuple[Pipeline, Tuned, str | None]:
    """Tune a model and fit it on every sample.

    Parameters
    ----------
    model
        Name of the model.
    samples
        Samples of one target.
    settings
        Search space, inner folds, trees and seed.
    neighbours
        Footprints near each other, for the buffer of the inner folds.

    Returns
    -------
    pipeline, tuned, split
        The fitted pipeline, the chosen settings with their held-out residuals, and the split
        that the inner folds mimic (None where the samples allow none).
    """
    split, inner = None, []
    for name in TUNING_SPLITS:
        inner = inner_folds(name, samples.table, settings, neighbours)
        if inner:
            split = name
            break
    # One layout in memory, so that sums are made in one order.
    x = np.ascontiguousarray(samples.x)
    y = samples.table["observed_cm"].to_numpy()
    with single_threaded():
        tuned = tune(
            model,
            x,
            y,
            inner,
            space=settings.search.space(model),
            candidates=settings.candidates,
            trees=settings.trees,
            seed=settings.seed,
            names=samples.names,
            keys=samples.keys,
        )
        pipeline = build(model, tuned.parameters, settings.trees, settings.seed, samples.names)
        fit(pipeline, x, y, samples.keys)
    return pipeline, tuned, split


def fit_models(
    features: pd.DataFrame,
    scores: pd.DataFrame,
    settings: SkillSettings,
    folder: str | Path,
    place: dict[str, str],
    neighbours: pd.DataFrame | None = None,
    provenance: dict[str, Any] | None = None,
) -> list[Card]:
    """Fit every configured model and target on all samples and save them.

    Parameters
    ----------
    features
        Feature table of one region.
    scores
        Table SCORES, whose honest splits the cards repeat.
    settings
        Models, targets, search, trees and seed.
    folder
        Models are written to ``{target}/{model}.skops`` in it, cards beside them; an older
        folder is replaced whole.
    place
        ``region``, ``product`` and ``unit`` of the mascons.
    neighbours
        Footprints near each other.
    provenance
        Plain values for the cards.

    Returns
    -------
    list of Card
        A card without a file, with the reason, where there are too few samples.
    """
    cards: list[Card] = []
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        for target in settings.targets:
            cards += _fit_target(
                target,
                features,
                scores,
                settings,
                temporary / target,
                place,
                neighbours,
                provenance,
            )
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return cards


def _fit_target(
    target: Target,
    features: pd.DataFrame,
    scores: pd.DataFrame,
    settings: SkillSettings,
    folder: Path,
    place: dict[str, str],
    neighbours: pd.DataFrame | None,
    provenance: dict[str, Any] | None,
) -> list[Card]:
    """Fit and save every model of one target."""
    samples = select_samples(features, target, settings)
    reason = samples.reason
    if reason is None and len(samples.table) < MIN_TRAIN_SAMPLES:
        reason = f"{len(samples.table)} samples, fewer than {MIN_TRAIN_SAMPLES}"
    known = _describe(samples, features) if reason is None else {}
    cards = []
    for number, model in enumerate(settings.models, start=1):
        began = time.perf_counter()
        card = Card(
            model=model,
            target=target,
            reason=reason,
            trees=settings.trees,
            seed=settings.seed,
            coverage=settings.coverage,
            scores=_card_scores(scores, model, target),
            versions=library_versions(),
            provenance=provenance or {},
            **place,
        )
        if reason is not None:
            write_card(card, folder)
            cards.append(card)
            logger.warning("%s, %s: no model: %s", target, model, reason)
            continue
        pipeline, tuned, split = fit_on_all(model, samples, settings, neighbours)
        half = conformal_radius(tuned.residuals, settings.coverage)
        found = {
            "parameters": tuned.parameters,
            "inner_rmse_cm": list(tuned.rmse),
            "calibration_split": split,
            "half_width_cm": half if np.isfinite(half) else None,
            "n_residuals": len(tuned.residuals),
        }
        cards.append(save_model(pipeline, card.model_copy(update=known | found), folder))
        logger.info(
            "%s, %s: fitted on %d samples, %s, %.1f s; %d of %d models",
            target,
            model,
            len(samples.table),
            tuned.parameters,
            time.perf_counter() - began,
            number,
            len(settings.models),
        )
    return cards


def _describe(samples: Samples, features: pd.DataFrame) -> dict[str, Any]:
    """Return what a card says of the training samples."""
    from cryofuse.fusion.features import feature_unit

    keys, y = samples.table, samples.table["observed_cm"].to_numpy()
    months: dict[int, list[str]] = {}
    for mascon, month in zip(keys["mascon_id"], keys["month"], strict=True):
        months.setdefault(int(mascon), []).append(_month(month))
    return {
        "data_sha256": digest_samples(keys, samples.x, y, samples.names),
        "n_samples": len(y),
        "first_month": _month(keys["month"].min()),
        "last_month": _month(keys["month"].max()),
        "zero_month": _month(features["month"].min()),
        "step_months": _step(features),
        "features": [
            FeatureCard(
                name=name,
                unit=feature_unit(name),
                low=float(np.nanmin(column)),
                high=float(np.nanmax(column)),
                nulls=bool(np.isnan(column).any()),
            )
            for name, column in zip(samples.names, samples.x.T, strict=True)
        ],
        "months": {mascon: " ".join(sorted(held)) for mascon, held in sorted(months.items())},
    }


def choose_card(folder: str | Path, settings: PredictSettings) -> tuple[Card, Path]:
    """Return the card of the model that is asked for, and the folder that it is in.

    ``best`` is the model with the smallest held-out RMSE under the strictest honest split that
    has one for every model, else the one with the smallest error in its inner folds.

    Parameters
    ----------
    folder
        Folder of saved models, ``{target}/{model}.json`` below it.
    settings
        Target and model.

    Raises
    ------
    UserError
        If the folder holds no such model.
    """
    inside = Path(folder) / settings.target
    paths = sorted(inside.glob("*.json"))
    if settings.model != "best":
        paths = [path for path in paths if path.stem == settings.model]
    if not paths:
        held = sorted(str(path.relative_to(folder)) for path in Path(folder).glob("*/*.json"))
        raise UserError(
            f"predict: no card {inside}/{settings.model.replace('best', '*')}.json "
            f"(found {', '.join(held) or 'none'})"
        )
    cards = [read_card(path) for path in paths]
    for path, card in zip(paths, cards, strict=True):
        if (card.model, card.target) != (path.stem, settings.target):
            raise UserError(f"{path} is the card of {card.target}/{card.model}")
    fitted = [card for card in cards if card.reason is None] or cards[:1]
    return min(fitted, key=_error_under(fitted)), inside


def _error_under(cards: list[Card]) -> Any:
    """Return the key by which models are ranked."""
    for split in HONEST_SPLITS:
        errors = {
            card.model: score.value
            for card in cards
            for score in card.scores
            if (score.split, score.score) == (split, "rmse_cm") and score.value is not None
        }
        if len(errors) == len(cards):
            return lambda card: (errors[card.model], card.model)
    return lambda card: (min(card.inner_rmse_cm, default=np.inf), card.model)


def apply_saved(
    features: pd.DataFrame,
    folder: str | Path,
    settings: PredictSettings,
    place: dict[str, str],
) -> tuple[pd.DataFrame, Card, list[str]]:
    """Apply the saved model that is asked for to a feature table.

    Parameters
    ----------
    features
        Feature table of one region, any order of rows and columns.
    folder
        Folder of saved models.
    settings
        Target and model.
    place
        ``region``, ``product`` and ``unit`` of the mascons of the table.

    Returns
    -------
    predicted, card, warnings
        Table PREDICTED_MASS, the model's card, and what a reader of the table must know.

    Raises
    ------
    UserError
        If there is no such model, its file cannot be trusted, or the table does not fit it.
    """
    card, inside = choose_card(folder, settings)
    if card.reason is not None:
        predicted = _empty_predictions(features, card, f"no model: {card.reason}")
        return predicted, card, [f"no model: {card.reason}"]
    check_features(features, card, inside)
    pipeline = load_model(card, inside)
    predicted = predict_mass(features, pipeline, card, place)
    warnings = _list_warnings(features, card, place, predicted)
    return predicted, card, warnings


def check_features(features: pd.DataFrame, card: Card, inside: Path) -> None:
    """Refuse a table that lacks a model's features, or has them in another unit or step.

    Raises
    ------
    UserError
        With one line that names what differs.
    """
    from cryofuse.fusion.features import feature_columns, feature_unit

    what = f"predict: the saved model {inside / card.model}"
    held = set(feature_columns(features))
    missing = [feature.name for feature in card.features if feature.name not in held]
    if missing:
        raise UserError(
            f"{what} asks for {len(card.features)} features, of which the table lacks "
            f"{len(missing)}: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''} "
            "(give the configuration the section features that the model was trained with)"
        )
    for feature in card.features:
        if feature_unit(feature.name) != feature.unit:
            raise UserError(
                f"{what} knows {feature.name} in {feature.unit}; in the table it is in "
                f"{feature_unit(feature.name)}"
            )
    step = _step(features)
    if card.step_months != step:
        raise UserError(
            f"{what} was trained on steps of {card.step_months} months; the table has {step} "
            "(features: step)"
        )


def predict_mass(
    features: pd.DataFrame, pipeline: Pipeline, card: Card, place: dict[str, str]
) -> pd.DataFrame:
    """Return what a fitted model says of every mascon month of a table.

    A mascon month needs some elevation change, and every feature that had a value in all training
    samples: what its absence means was never learned. Gravimetry is not looked at.

    Parameters
    ----------
    features
        Feature table with the features of the card.
    pipeline
        Fitted pipeline.
    card
        Its card: names and ranges of the features, months trained on, half width.
    place
        ``region``, ``product`` and ``unit`` of the table's mascons.

    Returns
    -------
    DataFrame
        Table PREDICTED_MASS, a row for every mascon month, null with a reason where there is no
        prediction.
    """
    ordered = features.sort_values(["month", "mascon_id"], kind="stable").reset_index(drop=True)
    names = [feature.name for feature in card.features]
    x = np.ascontiguousarray(ordered[names].to_numpy(float, na_value=np.nan))
    altimetry = [k for k, name in enumerate(names) if name.startswith(ALTIMETRY_PREFIX)]
    missing = np.isnan(x)
    unseen = missing & ~np.array([feature.nulls for feature in card.features])
    table = _empty_predictions(ordered, card, "no altimetry")
    without = missing[:, altimetry].all(axis=1)
    held = ~without & ~unseen.any(axis=1)
    for row in np.flatnonzero(~without & ~held):
        lacking = [names[k] for k in np.flatnonzero(unseen[row])]
        table.loc[row, "reason"] = (
            f"null here and never in training: {', '.join(lacking[:3])}"
            f"{f' and {len(lacking) - 3} more' if len(lacking) > 3 else ''}"
        )
    if held.any():
        with single_threaded():
            predicted = pipeline.predict(x[held]).astype(float)
        half = np.nan if card.half_width_cm is None else card.half_width_cm
        low, high = (np.array([getattr(f, end) for f in card.features]) for end in ("low", "high"))
        land = ordered["land_area_km2"].to_numpy(float)[held] * GT_PER_CM_KM2
        for name, values in (
            ("predicted", predicted),
            ("lower", predicted - half),
            ("upper", predicted + half),
        ):
            table.loc[held, f"{name}_cm"] = values
            table.loc[held, f"{name}_gt"] = values * land
        outside = (x[held] < low) | (x[held] > high)
        table.loc[held, "extrapolates"] = outside.mean(axis=1)
        table.loc[held, "reason"] = (
            "no interval: too few inner residuals" if card.half_width_cm is None else None
        )
    if place == {"region": card.region, "product": card.product, "unit": card.unit}:
        trained = {
            (mascon, month) for mascon, months in card.months.items() for month in months.split()
        }
        keys = zip(table["mascon_id"], table["month"], strict=True)
        table["trained_on"] = [(mascon, _month(month)) in trained for mascon, month in keys]
    return table


def _empty_predictions(features: pd.DataFrame, card: Card, reason: str) -> pd.DataFrame:
    """Return a row for every mascon month, without predictions, for one reason."""
    ordered = features.sort_values(["month", "mascon_id"], kind="stable")
    table = pd.DataFrame(
        {
            "mascon_id": ordered["mascon_id"].to_numpy(np.int32),
            "month": ordered["month"].to_numpy(),
        }
    )
    for name in PREDICTED_MASS.columns:
        if name.endswith(("_cm", "_gt")) or name == "extrapolates":
            table[name] = np.nan
    table["target"], table["model"], table["trained_on"] = card.target, card.model, False
    table["reason"] = pd.Series(reason, index=table.index, dtype="str")
    return table[list(PREDICTED_MASS.columns)]


def _list_warnings(
    features: pd.DataFrame, card: Card, place: dict[str, str], predicted: pd.DataFrame
) -> list[str]:
    """Return what sets the table apart from what the model was trained on, a line each."""
    found = [
        f"trained with {name} {getattr(card, name)}, applied with {name} {value}"
        for name, value in place.items()
        if getattr(card, name) != value
    ]
    zero = _month(features["month"].min())
    if zero != card.zero_month:
        found.append(f"heights counted from {card.zero_month} in training, here from {zero}")
    found += [
        f"fitted with {name} {card.versions.get(name)}, applied with {here}"
        for name, here in library_versions().items()
        if card.versions.get(name) != here
    ]
    share = predicted["extrapolates"].dropna()
    if (share > 0).any():
        found.append(
            f"{int((share > 0).sum())} of {len(share)} predictions have features outside the "
            "range of training (column extrapolates)"
        )
    return found


def _card_scores(scores: pd.DataFrame, model: str, target: str) -> list[ScoreCard]:
    """Return the pooled scores of the honest splits."""
    rows = scores[
        (scores["model"] == model)
        & (scores["target"] == target)
        & (scores["scope"] == "pooled")
        & scores["split"].isin(HONEST_SPLITS)
        & scores["score"].isin(CARD_SCORES)
    ]
    plain = rows.astype(object).where(rows.notna(), None)
    return [
        ScoreCard.model_validate({name: row[name] for name in ScoreCard.model_fields})
        for row in plain.to_dict("records")
    ]


def _month(value: Any) -> str:
    return str(np.datetime64(value, "M"))


def _step(features: pd.DataFrame) -> int | None:
    """Return the months from one row of a mascon to its next; None with one month alone."""
    index = np.unique(month_index(features["month"].to_numpy()))
    return int(np.diff(index).min()) if len(index) > 1 else None
