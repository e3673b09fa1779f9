"""What the models see of the feature table, and how it enters.

A few hundred noisy months of a few tens of mascons do not bear every column of the table: with
12 lags of everything, models learn noise (on synthetic worlds the same models reach 0.63–0.67 of
the ceiling with all columns and 0.70–0.75 with these). The physical terms are those of a mass
balance that answers within months: what changed lately, what the mascon's own season would
bring, its rate, the calendar, and what kind of place it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin
from sklearn.gaussian_process.kernels import RBF

from cryofuse.fusion.features import split_lag

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from cryofuse.config import SkillSettings

#: The share of ice in the land that mass is counted over: elevation change enters times it.
ICE = "ice_fraction"
SEASON = ("season_cos", "season_sin", "season2_cos", "season2_sin")
#: What kind of place it is: its terrain, and the cycle that it has shown.
PLACE = (
    ICE,
    "latitude",
    "elevation_m",
    "slope",
    "marine_margin_fraction",
    "dh_cycle_cos_m",
    "dh_cycle_sin_m",
)
#: Elevation change that mass answers to, besides the shortest change and the cycle's with lags.
RATE = "dh_rate_m_yr"
DRIVERS = (RATE, "dh_change_3m_m")
_CHANGE = re.compile(r"^dh_change_(\d+)m_m$")
_CYCLE_CHANGE = "dh_cycle_change_1m_m"


def choose_terms(columns: Sequence[str], target: str, settings: SkillSettings) -> dict[str, str]:
    """Return the feature columns that models do not see, with the reason.

    Parameters
    ----------
    columns
        Feature columns of the table.
    target
        ``change`` or ``cumulative``; the terms are those of a change, a level sees all columns:
        where it stands says what the changes before were.
    settings
        ``terms`` (``physical`` or ``all``) and the longest lag shown.
    """
    if settings.terms == "all" or target != "change":
        return {}
    spans = [int(found[1]) for name in columns if (found := _CHANGE.match(name))]
    shortest = f"dh_change_{min(spans)}m_m" if spans else ""
    answered = {shortest, _CYCLE_CHANGE}
    shown = {*SEASON, *PLACE, *DRIVERS, *answered}
    hidden = {}
    for column in columns:
        base, lag = split_lag(column)
        if base not in shown:
            hidden[column] = "not among the physical terms"
        elif lag and (base not in answered or lag > settings.response_months):
            hidden[column] = f"lag of more than {settings.response_months} months"
    return hidden


def driver_columns(names: Sequence[str]) -> np.ndarray:
    """Return which columns are elevation change that mass answers to (bool)."""
    return np.array([n.startswith("dh_") and n not in PLACE for n in names], bool)


class WeighByIce(TransformerMixin, BaseEstimator):
    """Multiply elevation change over ice by the ice's share of the land that mass is counted over.

    Parameters
    ----------
    columns
        Positions of the columns of elevation change.
    by
        Position of the ice fraction.
    """

    def __init__(self, columns: list[int], by: int) -> None:
        self.columns = columns
        self.by = by

    def fit(self, x: np.ndarray, y: np.ndarray | None = None) -> WeighByIce:
        """Learn nothing."""
        return self

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Return the weighed columns among the others (NaN where missing)."""
        out = np.array(x, float)
        out[:, self.columns] *= out[:, [self.by]]
        return out

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


class VaryingDensity(RegressorMixin, BaseEstimator):
    """Mass as elevation change times densities that vary smoothly with season and place.

    The posterior mean of a Gaussian process (Rasmussen and Williams 2006, chapter 2) whose prior
    is the physics: a coefficient on each term of elevation change (its density, and by its lags
    the delay), each the same everywhere plus a part that varies with the season and a part that
    varies with the place; beside them a climatology of season and place. A varying-coefficient
    model (Hastie and Tibshirani 1993, J. R. Stat. Soc. B 55, 757) as kernel ridge.

    Parameters
    ----------
    drivers, season, place
        Positions of the columns: elevation change; calendar; what kind of place it is. All
        standardised and without missing values.
    alpha
        Noise variance over that of a coefficient.
    shared_error
        Share of a change's error variance that it has in common, with the other sign, with the
        change before and the one after: up to ½, for the month between them errs in both.
    season_length, place_length
        Distances, in standardised units, over which coefficients and climatology vary.
    varying
        Variance of the varying parts over that of the constant one.
    """

    def __init__(
        self,
        drivers: list[int],
        season: list[int],
        place: list[int],
        alpha: float = 20.0,
        shared_error: float = 0.4,
        season_length: float = 1.5,
        place_length: float = 3.0,
        varying: float = 0.5,
    ) -> None:
        self.drivers = drivers
        self.season = season
        self.place = place
        self.alpha = alpha
        self.shared_error = shared_error
        self.season_length = season_length
        self.place_length = place_length
        self.varying = varying

    def fit(self, x: np.ndarray, y: np.ndarray, keys: np.ndarray | None = None) -> VaryingDensity:
        """Solve for the weights of the training samples.

        Parameters
        ----------
        x, y
            Samples (n × p) and targets (n).
        keys
            Mascon and step of each sample (n × 2), where targets are changes from step to step;
            without them errors are independent.
        """
        self.x_ = np.ascontiguousarray(x, float)
        self.mean_ = float(np.mean(y))
        kernel = self._kernel(self.x_, self.x_)
        kernel += self.alpha * _error_correlation(keys, len(y), self.shared_error)
        self.weights_ = np.linalg.solve(kernel, y - self.mean_)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the predictions of samples."""
        return self.mean_ + self._kernel(np.ascontiguousarray(x, float), self.x_) @ self.weights_

    def _kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        season = _radial(a[:, self.season], b[:, self.season], self.season_length)
        place = _radial(a[:, self.place], b[:, self.place], self.place_length)
        share = self.varying
        kernel = share * season * (1 + place)
        if self.drivers:
            linear = a[:, self.drivers] @ b[:, self.drivers].T / len(self.drivers)
            kernel += linear * (1 + share * season + share * place + share**2 * season * place)
        return kernel


def _error_correlation(keys: np.ndarray | None, n: int, shared: float) -> np.ndarray:
    correlation = np.eye(n)
    if keys is not None:
        same = keys[:, None, 0] == keys[None, :, 0]
        next_to = np.abs(keys[:, None, 1] - keys[None, :, 1]) == 1
        correlation[same & next_to] = -shared
    return correlation


def _radial(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    return RBF(length)(a, b) if a.shape[1] else np.ones((len(a), len(b)))
