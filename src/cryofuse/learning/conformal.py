"""Conformal prediction intervals from inner held-out residuals, and how wide they are by month.

Split conformal prediction (Lei et al. 2018, doi:10.1080/01621459.2017.1307116) with the held-out
residuals of all inner folds pooled (cross-conformal; Vovk 2015, doi:10.1007/s10472-013-9368-4).
Its promise needs exchangeable residuals. A record has none: months are autocorrelated (for which
Chernozhukov et al. 2018, arXiv:1802.06300, ask for residuals that are at least stationary) and
inner folds lie earlier than what is predicted (Barber et al. 2023, doi:10.1214/23-AOS2276: what is
lost is at most how far residuals and errors differ in distribution). Errors of a cumulative
anomaly do differ, they grow with the anomaly. Residuals are therefore divided by a scale that
belongs to their month (locally weighted conformal; Lei et al. 2018, section 5.2) and carries what
the training months show on to the months predicted. Coverage is measured, not promised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from cryofuse.calendar import month_index

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: Share of the errors' mean square that grows as the target's does; the rest stays as it is.
#: Chosen on ten synthetic worlds, and measured on others (docs/methods.md). Without growth 90 %
#: intervals of the cumulative anomaly hold 75-82 % of later months; with all of it up to 97 %.
GROWING_SHARE = 0.5


@dataclass(frozen=True)
class Growth:
    """Scale of errors by month, in the target's unit; plain numbers, so that it can be saved.

    ``first_month`` is the month that time is counted from (as of ``calendar.month_index``),
    ``coefficients`` those of 1, time and time² in the target's mean square (cm², months) and
    ``mean_square`` its mean over the training samples (cm²).
    """

    first_month: int
    coefficients: tuple[float, float, float]
    mean_square: float

    def scale(self, month: ArrayLike) -> np.ndarray:
        """Return the scale (cm) of each month."""
        if self.mean_square <= 0:
            return np.ones(np.shape(month))
        time = np.maximum(month_index(month) - self.first_month, 0)
        grown = np.polynomial.polynomial.polyval(time, self.coefficients)
        return np.sqrt((1 - GROWING_SHARE) * self.mean_square + GROWING_SHARE * grown)


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


def fit_growth(month: ArrayLike, value: np.ndarray) -> Growth:
    """Fit how the target's mean square grows with time, from training samples alone.

    Non-negative least squares of the squared values on 1, time and time²: noise and season, a
    random walk and a trend. What does not grow (the monthly change) keeps a constant scale; what
    does is extrapolated and never shrinks.

    Parameters
    ----------
    month, value
        Month and target (cm) of each training sample.
    """
    index = month_index(month)
    time = (index - index.min()).astype(float)
    squared = np.asarray(value, float) ** 2
    mean_square = float(squared.mean())
    # Columns of like size: time² is in the thousands.
    size = max(float(time.max()), 1.0) ** np.arange(3)
    fitted, _ = nnls(time[:, np.newaxis] ** np.arange(3) / size, squared)
    noise, walk, trend = (float(c) for c in fitted / size)
    return Growth(int(index.min()), (noise, walk, trend), mean_square)


def calibrate(
    residuals: np.ndarray, month: ArrayLike, growth: Growth, coverage: float
) -> Calibration:
    """Return the calibration of a model's intervals from its inner held-out residuals.

    Parameters
    ----------
    residuals, month
        Residual (cm) and month of each inner held-out sample.
    growth
        Scale by month, of the same training samples.
    coverage
        Nominal coverage.
    """
    quantile = conformal_radius(residuals / growth.scale(month), coverage)
    reason = None
    if np.isnan(quantile):
        reason = (
            f"{len(residuals)} inner residuals, fewer than the {fewest_residuals(coverage)} of a "
            f"{100 * coverage:g} % interval"
        )
    return Calibration(growth, quantile, len(residuals), reason)


def _rank(n: int, coverage: float) -> int:
    # Rounded: 100 × 0.55 is a little more than 55 in binary.
    return int(np.ceil(round((n + 1) * coverage, 9)))
