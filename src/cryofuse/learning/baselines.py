"""Forecasts that need no learning: what a model has to beat before it has shown anything.

Each baseline is fitted on the training samples of a fold and predicts its test samples, in cm
water equivalent over land. Samples are rows of a table with the columns

- ``mascon_id``, ``month``, ``observed_cm`` (the target),
- ``previous_cm``: the target of the same mascon in the latest month before that has one,
- ``dh_m``: elevation change that belongs to the target (m; over one month for ``change``, since
  the reference for ``cumulative``), ``ice_fraction``: ice area over land area.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from cryofuse.calendar import month_index, month_middle, year_fraction
from cryofuse.units import WATER_DENSITY_KG_M3

#: Metres of ice at 1 kg/m³ as centimetres of water.
_CM_PER_M = 100.0 / WATER_DENSITY_KG_M3


class BaselineError(ValueError):
    """A baseline that the samples do not allow: says what they lack."""


def predict_zero(train: pd.DataFrame, test: pd.DataFrame, target: str) -> np.ndarray:
    """Predict no change; for the cumulative target, its zero: the mean of the first 12 months."""
    return np.zeros(len(test))


def predict_persistence(train: pd.DataFrame, test: pd.DataFrame, target: str) -> np.ndarray:
    """Predict the mascon's own latest earlier target, in every split.

    This looks at gravimetry one month back even for mascons and months the models may not see:
    the hardest reading of persistence. Without an earlier value it predicts the training mean.
    """
    previous = test["previous_cm"].to_numpy(float)
    return np.where(np.isnan(previous), _mean(train), previous)


def predict_climatology(train: pd.DataFrame, test: pd.DataFrame, target: str) -> np.ndarray:
    """Predict the training mean of the calendar month: of the mascon, if trained on, else of all.

    A calendar month never trained on takes the mean of the mascon's months.
    """
    own = _fallback(
        _lookup(train, test, ["mascon_id", "calendar_month"]), _lookup(train, test, ["mascon_id"])
    )
    every = _fallback(_lookup(train, test, ["calendar_month"]), np.full(len(test), _mean(train)))
    return _fallback(own, every)


def predict_trend_season(train: pd.DataFrame, test: pd.DataFrame, target: str) -> np.ndarray:
    """Predict a trend and an annual cycle fitted by least squares: per mascon, else to all.

    For the monthly change a trend of mass is a constant, so the fit is constant + annual cycle;
    for the cumulative anomaly it is linear + annual cycle.
    """
    predicted = np.full(len(test), np.nan)
    groups = test.groupby("mascon_id", sort=True).indices
    trained = train.groupby("mascon_id", sort=True).indices
    for mascon, rows in groups.items():
        own = train.iloc[trained[mascon]] if mascon in trained else train
        centre = float(year_fraction(month_middle(own["month"].to_numpy())).mean())
        design = _trend_design(own, target, centre)
        if len(own) < 2 * design.shape[1]:
            predicted[rows] = _mean(own)
            continue
        weights, *_ = np.linalg.lstsq(design, own["observed_cm"].to_numpy(float), rcond=None)
        predicted[rows] = _trend_design(test.iloc[rows], target, centre) @ weights
    return predicted


def fit_density(train: pd.DataFrame, target: str) -> float:
    """Return the one density (kg/m³) that turns elevation change over ice into mass.

    Least squares of the target against dh × ice fraction: through the origin for the monthly
    change, about each mascon's own means for the cumulative anomaly, whose zeros differ.

    Raises
    ------
    BaselineError
        If no training sample has elevation change that varies.
    """
    x, y = _physics_terms(train)
    known = np.isfinite(x)
    x, y = x[known], y[known]
    if target == "cumulative" and len(x):
        groups = pd.DataFrame({"m": train["mascon_id"].to_numpy()[known], "x": x, "y": y})
        centred = groups[["x", "y"]] - groups.groupby("m")[["x", "y"]].transform("mean")
        x, y = centred["x"].to_numpy(), centred["y"].to_numpy()
    power = float(x @ x)
    if power <= 0:
        raise BaselineError("no elevation change to fit a density to")
    return float(x @ y) / power / _CM_PER_M


def predict_physics(train: pd.DataFrame, test: pd.DataFrame, target: str) -> np.ndarray:
    """Predict ρ·A·dh with one density fitted on the training samples.

    The cumulative anomaly adds an offset: the mascon's own training mean of the difference, or
    that of all training samples. Samples without elevation change take the training mean.

    Raises
    ------
    BaselineError
        If no density can be fitted.
    """
    density = fit_density(train, target)
    x_train, y_train = _physics_terms(train)
    x_test, _ = _physics_terms(test)
    predicted = density * _CM_PER_M * x_test
    if target == "cumulative":
        rest = train.assign(observed_cm=y_train - density * _CM_PER_M * x_train)
        rest = rest[np.isfinite(rest["observed_cm"].to_numpy())]
        own = _lookup(rest, test, ["mascon_id"])
        predicted = predicted + _fallback(own, np.full(len(test), _mean(rest)))
    return _fallback(predicted, np.full(len(test), _mean(train)))


#: Every baseline by name: (train, test, target) → prediction (cm) of each test sample.
BASELINES: dict[str, Callable[[pd.DataFrame, pd.DataFrame, str], np.ndarray]] = {
    "zero": predict_zero,
    "persistence": predict_persistence,
    "climatology": predict_climatology,
    "trend_season": predict_trend_season,
    "physics": predict_physics,
}


def previous_values(mascon_id: np.ndarray, month: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return each row's latest earlier known value of the same mascon (NaN where none).

    Parameters
    ----------
    mascon_id, month, value
        One row each; rows in any order, values NaN where unknown.
    """
    frame = pd.DataFrame({"mascon_id": mascon_id, "month": month, "value": value})
    ordered = frame.sort_values(["mascon_id", "month"], kind="stable")
    earlier = ordered.groupby("mascon_id", sort=False)["value"].shift(1)
    filled = earlier.groupby(ordered["mascon_id"], sort=False).ffill()
    return filled.reindex(frame.index).to_numpy(float)


def _mean(train: pd.DataFrame) -> float:
    return float(train["observed_cm"].mean())


def _fallback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(first), second, first)


def _lookup(train: pd.DataFrame, test: pd.DataFrame, keys: list[str]) -> np.ndarray:
    """Return the training mean of each test sample's group (NaN where the group has none)."""
    grouped = _with_calendar(train).groupby(keys)["observed_cm"].mean().rename("mean")
    joined = _with_calendar(test)[keys].merge(
        grouped, left_on=keys, right_index=True, how="left", sort=False
    )
    return joined["mean"].to_numpy(float)


def _with_calendar(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(calendar_month=month_index(table["month"].to_numpy()) % 12)


def _trend_design(table: pd.DataFrame, target: str, centre: float) -> np.ndarray:
    time = year_fraction(month_middle(table["month"].to_numpy()))
    angle = 2 * np.pi * time
    columns = [np.ones(len(table)), np.cos(angle), np.sin(angle)]
    if target == "cumulative":
        columns.append(time - centre)
    return np.column_stack(columns)


def _physics_terms(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return dh × ice fraction (m) and the target (cm)."""
    x = table["dh_m"].to_numpy(float) * table["ice_fraction"].to_numpy(float)
    return x, table["observed_cm"].to_numpy(float)
