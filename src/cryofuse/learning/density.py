"""Effective density: the slope of mass on elevation or volume with errors in both.

An error of elevation that is taken for larger than it is steepens the line too much. The σ of a
mascon's elevation change is an upper bound of what moves it from month to month: it holds parts
that months share (the mean level, the filling of ice without a fit), which treatments remove. Such
a σ is held below what the series' own roughness allows, and the interval reaches from the line
without any such error to the line with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import t

from cryofuse.learning.treatments import (
    Filter,
    build_filter,
    effective_sample_size,
    estimate_autocorrelation,
    treat,
)

#: Fewest pairs of a density.
MIN_PAIRS = 12
#: Probability inside intervals.
CONFIDENCE = 0.95
#: Iterations and relative tolerance of the errors-in-variables slope.
YORK_ITERATIONS = 50
YORK_TOLERANCE = 1e-10
#: Stands for a scatter that is far too small.
UNSETTLED = 1e6
#: Variance of the second differences of independent values, in units of theirs: 1 + 4 + 1.
SECOND_DIFFERENCE_POWER = 6.0
#: Fewest second differences that say how large independent errors can be.
MIN_DIFFERENCES = 6


@dataclass(frozen=True)
class YorkFit:
    """A straight line with errors in both variables; arrays of the leading shape of the data."""

    slope: np.ndarray
    intercept: np.ndarray
    slope_sigma: np.ndarray


def fit_york(
    x: np.ndarray,
    y: np.ndarray,
    x_sigma: np.ndarray,
    y_sigma: np.ndarray,
    count: np.ndarray | None = None,
) -> YorkFit:
    """Fit a straight line to points with independent errors in both coordinates.

    Parameters
    ----------
    x, y
        Coordinates, shape (n,).
    x_sigma, y_sigma
        Their σ, shape (n,), in the same units.
    count
        How often each point is drawn, shape (..., n); default once each. A bootstrap passes
        one row per draw.

    Returns
    -------
    YorkFit
        Slope, intercept and σ of the slope; NaN where the iteration does not converge.

    Notes
    -----
    York, Evensen, López Martínez and De Basabe Delgado 2004, Am. J. Phys. 72, 367,
    doi:10.1119/1.1632486, with uncorrelated errors.
    """
    count = np.ones(np.size(x)) if count is None else np.asarray(count, dtype=np.float64)
    vx, vy = np.square(x_sigma), np.square(y_sigma)
    total = count.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mx = (count @ x)[..., None] / total
        my = (count @ y)[..., None] / total
        slope = (count * (x - mx) * (y - my)).sum(-1) / (count * (x - mx) ** 2).sum(-1)
        for _ in range(YORK_ITERATIONS):
            b = slope[..., None]
            weight = 1.0 / (vy + b**2 * vx)
            cw = count * weight
            norm = cw.sum(-1, keepdims=True)
            mx = (cw @ x)[..., None] / norm
            my = (cw @ y)[..., None] / norm
            u, v = x - mx, y - my
            beta = weight * (u * vy + b * v * vx)
            new = (cw * beta * v).sum(-1) / (cw * beta * u).sum(-1)
            converged = np.abs(new - slope) <= YORK_TOLERANCE * np.abs(new)
            slope = new
            if np.all(converged | ~np.isfinite(new)):
                break
        intercept = my[..., 0] - slope * mx[..., 0]
        adjusted = mx + beta
        centre = (cw * adjusted).sum(-1, keepdims=True) / norm
        sigma = 1.0 / np.sqrt((cw * (adjusted - centre) ** 2).sum(-1))
    # A slope that still wanders slightly after many steps is good to far better than its σ.
    settled = converged | (np.abs(new - b[..., 0]) <= 1e-4 * np.abs(new))
    return YorkFit(
        np.where(settled, slope, np.nan),
        np.where(settled, intercept, np.nan),
        np.where(settled, sigma, np.nan),
    )


@dataclass(frozen=True)
class Density:
    """A slope with its 95 % interval, or nulls and the reason.

    Attributes
    ----------
    value, lower, upper
        Slope with errors in both, and its interval.
    least_squares
        Slope of ordinary least squares, biased low by errors of the first series.
    scatter
        What had to be added to the σ of the second series for the line to fit.
    n
        Pairs.
    reason
        Why the values are null.
    """

    value: float
    lower: float
    upper: float
    least_squares: float
    scatter: float
    n: int
    reason: str | None = None


def limit_sigma(series: np.ndarray, sigma: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return σ scaled down where a series is smoother than independent errors of that σ.

    Parameters
    ----------
    series
        Treated series on a regular grid, shape (steps,).
    sigma
        σ of its values, shape (steps,).
    mask
        Where both are known, shape (steps,).

    Notes
    -----
    Independent errors of variance s² give second differences of variance 6 s², to which the
    signal adds: what the differences show is the most that the errors can be.
    """
    three = mask[:-2] & mask[1:-1] & mask[2:]
    stated = float(np.mean(sigma[mask] ** 2))
    if np.count_nonzero(three) < MIN_DIFFERENCES or stated <= 0:
        return sigma
    bend = (series[:-2] - 2.0 * series[1:-1] + series[2:])[three]
    allowed = float(np.mean(bend**2)) / SECOND_DIFFERENCE_POWER
    return sigma * np.sqrt(min(allowed / stated, 1.0))


def fit_density(
    first: np.ndarray,
    second: np.ndarray,
    first_sigma: np.ndarray,
    second_sigma: np.ndarray,
    years: np.ndarray,
    treatment: str = "raw",
    filters: dict[tuple[str, bytes], Filter] | None = None,
    *,
    sigma_is_bound: bool = False,
) -> Density:
    """Return the slope of a second series on a first with errors in both, and its 95 % interval.

    Parameters
    ----------
    first, second
        Elevation (m) or volume (km³), and mass per area (kg/m²) or mass (Gt), on one regular
        grid of times, shape (steps,), NaN in gaps.
    first_sigma, second_sigma
        Their σ; pairs without the first one are not used, an unknown second one is left to the
        scatter.
    years
        Times of the grid (years).
    treatment
        What is removed from both first: ``raw`` the mean, ``detrended`` a line,
        ``deseasonalised`` a line and an annual and semi-annual cycle.
    filters
        Matrices already built for a treatment and pattern of gaps, filled here.
    sigma_is_bound
        Whether the first σ is an upper bound, as a mascon's is.

    Returns
    -------
    Density
        In units of the second series over those of the first.

    Notes
    -----
    The slope is York's (:func:`fit_york`). Snow, firn and what altimetry does not see part the two
    by more than their σ: a constant scatter joins the second σ until the residuals are as large as
    expected (Tremaine et al. 2002, doi:10.1086/341002). The interval is the slope's σ × √(n/nₑ) ×
    Student's t: nₑ is the effective number of pairs for the autocorrelations of the first series
    and of the residual, each corrected for the bias of short records. At 23 quarters such intervals
    cover 0.95 with a line removed and about 0.9 else, in simulations; block bootstrap intervals
    covered 0.5–0.85.

    Of a σ that is an upper bound York's line takes :func:`limit_sigma`, and each end of the
    interval is the further one of that line's and of least squares', which is York's without
    errors in the first series: the true error lies between. On synthetic worlds of 75 months such
    intervals hold the planted density of 93 (deseasonalised) to 97 % (detrended) of the mascons at
    the best lag; a percentile bootstrap of York's line with the stated σ holds 69 and 83 %.
    """
    filters = {} if filters is None else filters
    pairs = np.isfinite(first) & np.isfinite(second)
    here = pairs & np.isfinite(first_sigma)
    n = int(here.sum())
    few = n < MIN_PAIRS
    reason = f"{n} pairs with σ, fewer than {MIN_PAIRS}"
    if few and np.count_nonzero(pairs) < MIN_PAIRS:
        return _no_density(n, reason)
    # Least squares ask for no σ.
    mask = pairs if few else here
    key = (treatment, mask.tobytes())
    if key not in filters:
        filters[key] = build_filter(treatment, years, mask)
    treated = filters[key]
    x_all, y_all = treat(first, treated), treat(second, treated)
    x, y = x_all[mask], y_all[mask]
    power = float(x @ x)
    if power <= 0 or not (y @ y) > 0:
        return _no_density(n, "a series does not vary")
    least_squares = float(x @ y) / power
    if few:
        return _no_density(n, reason, least_squares)
    x_sigma = (limit_sigma(x_all, first_sigma, here) if sigma_is_bound else first_sigma)[here]
    y_sigma = np.nan_to_num(second_sigma[here])
    # Unknowns: what the treatment took, and the slope.
    freedom = round(np.trace(treated.project)) - 1

    def excess(scatter: float) -> float:
        total = np.hypot(y_sigma, scatter)
        slope = float(fit_york(x, y, x_sigma, total).slope)
        variance = total**2 + slope**2 * x_sigma**2
        with np.errstate(divide="ignore", invalid="ignore"):
            size = float(np.sum((y - slope * x) ** 2 / variance)) / freedom - 1.0
        # Where the slope does not converge more scatter is asked for: with it, it does.
        return size if np.isfinite(size) else UNSETTLED

    largest = 10.0 * float(y.std())
    smallest = 1e-6 * largest
    scatter = 0.0
    if not excess(0.0) <= 0.0 and excess(smallest) > 0.0 > excess(largest):
        scatter = float(brentq(excess, smallest, largest, xtol=1e-3 * smallest))
    line = fit_york(x, y, x_sigma, np.hypot(y_sigma, scatter))
    slope = float(line.slope)
    if not np.isfinite(slope):
        reason = "the errors-in-variables slope does not converge"
        return _no_density(n, reason, least_squares)
    lines = [(slope, float(line.slope_sigma))]
    if sigma_is_bound:
        apart = y - least_squares * x
        lines.append((least_squares, float(np.sqrt(apart @ apart / freedom / power))))
    memory = max(estimate_autocorrelation(x_all, treated), 0.0)
    ends = []
    for value, sigma in lines:
        rest = max(estimate_autocorrelation(y_all - value * x_all, treated), 0.0)
        share = effective_sample_size(n, memory, rest) / n
        quantile = float(t.ppf((1 + CONFIDENCE) / 2, max(freedom * share, 1.0)))
        half = sigma / np.sqrt(share) * quantile
        ends += [value - half, value + half]
    return Density(slope, min(ends), max(ends), least_squares, scatter, n)


def _no_density(n: int, reason: str, least_squares: float = np.nan) -> Density:
    return Density(np.nan, np.nan, np.nan, least_squares, np.nan, n, reason)
