"""Conformal prediction intervals from inner held-out residuals, and how wide they are by month.

Split conformal prediction (Lei et al. 2018, doi:10.1080/01621459.2017.1307116) with held-out
residuals of inner folds (cross-conformal; Vovk 2015, doi:10.1007/s10472-013-9368-4). Its promise
needs exchangeable residuals. A record has none: months are autocorrelated (Chernozhukov et al.
2018, arXiv:1802.06300, ask for stationary residuals at least), and inner folds train on less and
lie earlier than what is predicted (Barber et al. 2023, doi:10.1214/23-AOS2276: what is lost is at
most how far residuals and errors differ in distribution). Two things bring them nearer:

- only inner folds whose training ends last count: forward in time, those most like the outer one;
- residuals are divided by a scale that belongs to their month and to their lead beyond the last
  training month (locally weighted conformal; Lei et al. 2018, section 5.2), for errors of a
  cumulative anomaly grow with both. It is learnt from the target of the training samples alone.

Coverage is measured, not promised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from cryofuse.calendar import month_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from cryofuse.learning.splits import Fold

#: Least share of the target's mean square that a month's may fall to: near its zero a cumulative
#: anomaly is small, and its errors are not.
SMALLEST_SHARE = 0.1
#: Coefficients of 1, t and t².
Quadratic = tuple[float, float, float]


@dataclass(frozen=True)
class Growth:
    """How errors grow by month and lead, up to a factor; plain numbers, so that it can be saved.

    Months are counted as by ``calendar.month_index``. ``by_month`` gives the target's mean square
    (cm²) at months since ``first_month``, never below ``floor``; ``by_lead`` the mean square of its
    change (cm²) over as many months as lie between ``last_month``, where training ends, and the
    month.
    """

    first_month: int
    last_month: int
    by_month: Quadratic
    floor: float
    by_lead: Quadratic

    def scale(self, month: ArrayLike, last_month: int | None = None) -> np.ndarray:
        """Return the scale of each month where training ends in a month (default: its own).

        The target's root mean square by the month times the mean square of its change over the
        lead. The product, and the whole square, were chosen on synthetic worlds: with less, 90 %
        intervals of the cumulative anomaly held fewer of later months (docs/methods.md).
        """
        index = month_index(month)
        end = self.last_month if last_month is None else last_month
        square = np.maximum(_quadratic(self.by_month, index - self.first_month), self.floor)
        change = _quadratic(self.by_lead, np.maximum(index - end, 1))
        return np.sqrt(square) * change


@dataclass(frozen=True)
class Calibration:
    """Half width of intervals by month.

    ``quantile`` is that of the residuals over their scale (NaN where there are too few, with the
    ``reason``), ``n`` the number of residuals.
    """

    growth: Growth
    quantile: float
    n: int
    reason: str | None

    def radius(self, month: ArrayLike) -> np.ndarray:
        """Return the half width (cm) of the interval of each month; NaN without a quantile."""
        return self.quantile * self.growth.scale(month)


def conformal_radius(residuals: np.ndarray, coverage: float) -> float:
    """Return the half width of a split-conformal interval, NaN with too few residuals.

    The ⌈(n + 1)·coverage⌉-th smallest absolute residual (Lei et al. 2018,
    doi:10.1080/01621459.2017.1307116): of n + 1 exchangeable residuals at least that share is no
    larger.

    Parameters
    ----------
    residuals
        Held-out residuals, in any order.
    coverage
        Nominal coverage.
    """
    n = len(residuals)
    rank = _rank(n, coverage)
    return float(np.sort(np.abs(residuals))[rank - 1]) if 0 < rank <= n else float("nan")


def fewest_residuals(coverage: float) -> int:
    """Return how many residuals an interval needs: 9 for 90 %."""
    n = 1
    while _rank(n, coverage) > n:
        n += 1
    return n


def fit_growth(mascon_id: np.ndarray, month: ArrayLike, value: np.ndarray) -> Growth:
    """Fit how the target grows with time and how it changes over a lead, from training samples.

    Non-negative least squares on 1, t and t² (noise and season, a random walk, a trend): what does
    not grow, such as the monthly change, keeps a constant scale; what does is extrapolated and
    never shrinks.

    Parameters
    ----------
    mascon_id, month, value
        Mascon, month and target (cm) of each training sample.
    """
    index = month_index(month)
    first, last = int(index.min()), int(index.max())
    ids, column = np.unique(mascon_id, return_inverse=True)
    values = np.full((last - first + 1, len(ids)), np.nan)
    values[index - first, column] = value
    squared = np.asarray(value, float) ** 2
    by_month = _fit_quadratic(index - first, squared, np.ones(len(squared)))
    lags, mean_squares, counts = [], [], []
    for lag in range(1, len(values)):
        change = values[lag:] - values[:-lag]
        known = np.isfinite(change)
        if known.any():
            lags.append(lag)
            mean_squares.append(np.mean(change[known] ** 2))
            counts.append(known.sum())
    by_lead = _fit_quadratic(np.array(lags), np.array(mean_squares), np.array(counts, float))
    floor = SMALLEST_SHARE * float(squared.mean())
    if floor == 0 or sum(by_lead) == 0:
        return Growth(first, last, (1.0, 0.0, 0.0), 0.0, (1.0, 0.0, 0.0))
    return Growth(first, last, by_month, floor, by_lead)


def calibrate(
    residuals: np.ndarray,
    inner: Sequence[Fold],
    mascon_id: np.ndarray,
    month: ArrayLike,
    value: np.ndarray,
    coverage: float,
) -> Calibration:
    """Return the calibration of a model's intervals from its inner held-out residuals.

    Parameters
    ----------
    residuals
        Residuals (cm) of the inner test samples, fold after fold.
    inner
        Inner folds, positions within the training samples.
    mascon_id, month, value
        Mascon, month and target (cm) of each training sample.
    coverage
        Nominal coverage.
    """
    months = np.asarray(month)
    growth = fit_growth(mascon_id, months, value)
    scaled = np.empty(0)
    if len(inner):
        ends = [int(month_index(months[fold.train]).max()) for fold in inner]
        stops = np.cumsum([len(fold.test) for fold in inner])
        parts = np.split(residuals, stops[:-1])
        scaled = np.concatenate(
            [
                part / growth.scale(months[fold.test], end)
                for part, fold, end in zip(parts, inner, ends, strict=True)
                if end == max(ends)
            ]
        )
    quantile = conformal_radius(scaled, coverage)
    reason = None
    if np.isnan(quantile):
        reason = (
            f"{len(scaled)} inner residuals, fewer than the {fewest_residuals(coverage)} of a "
            f"{100 * coverage:g} % interval"
        )
    return Calibration(growth, quantile, len(scaled), reason)


def _fit_quadratic(t: np.ndarray, value: np.ndarray, weight: np.ndarray) -> Quadratic:
    """Return the non-negative coefficients of 1, t and t² by weighted least squares."""
    if len(t) == 0:
        return (0.0, 0.0, 0.0)
    # Columns of like size: t² is in the thousands.
    size = max(float(t.max()), 1.0) ** np.arange(3)
    root = np.sqrt(weight)
    design = t.astype(float)[:, np.newaxis] ** np.arange(3) / size
    fitted, _ = nnls(design * root[:, np.newaxis], value * root)
    noise, walk, trend = (float(c) for c in fitted / size)
    return noise, walk, trend


def _quadratic(coefficients: Quadratic, t: np.ndarray) -> np.ndarray:
    noise, walk, trend = coefficients
    return noise + walk * t + trend * t**2


def _rank(n: int, coverage: float) -> int:
    # Rounded: 100 × 0.55 is a little more than 55 in binary.
    return int(np.ceil(round((n + 1) * coverage, 9)))
