"""What is taken from series before they are compared, and what that does to their memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: What is removed from both series before they are compared.
TREATMENTS = ("raw", "detrended", "deseasonalised")
#: Largest lag-1 autocorrelation of a surrogate.
MAX_AUTOCORRELATION = 0.99
#: Directions of a design weaker than this share of its strongest are not told apart by the months
#: of a series: of quarters the semi-annual sine, which is nearly zero at every one of them.
RANK_TOLERANCE = 0.02
#: Share of a series' size below which its treated rest is rounding.
ROUNDING = 1e-9
#: Lag-1 autocorrelations of which it is known what treatments do to them.
AUTOCORRELATIONS = np.concatenate(
    [np.linspace(-0.6, 0.8, 15), [0.85, 0.9, 0.93, 0.96, MAX_AUTOCORRELATION]]
)


@dataclass(frozen=True)
class Filter:
    """A treatment on one pattern of gaps.

    Attributes
    ----------
    mask
        Where a series has values, shape (steps,).
    project
        Matrix that takes the treatment off a series, shape (steps, steps).
    whiten
        Matrix that takes off its annual and semi-annual cycle, too.
    harmonics
        Matrix that gives the four coefficients of those cycles, shape (4, steps).
    expected, noise_power, residual_variance
        For AR(1) noise of unit variance and each of :data:`AUTOCORRELATIONS`: the lag-1
        autocorrelation that is left after ``whiten``, the power that falls into the annual and
        the semi-annual cycle, shape (…, 2), and the variance that is left.
    """

    mask: np.ndarray
    project: np.ndarray
    whiten: np.ndarray
    harmonics: np.ndarray
    expected: np.ndarray
    noise_power: np.ndarray
    residual_variance: np.ndarray


def effective_sample_size(n: int, first: float, second: float, longest: int | None = None) -> float:
    """Return the number of independent pairs worth ``n`` pairs of two AR(1) series.

    Parameters
    ----------
    n
        Pairs.
    first, second
        Lag-1 autocorrelations of the two series.
    longest
        Largest lag of the sum (default: n − 1).

    Notes
    -----
    Sum over lags of Bartlett 1946 (J. R. Stat. Soc. Suppl. 8, 27); for long series it becomes
    n (1 − r₁r₂) / (1 + r₁r₂), Bretherton et al. 1999 (J. Climate 12, 1990).
    """
    lag = np.arange(1, min(n, (longest or n - 1) + 1))
    product = np.clip(first * second, -MAX_AUTOCORRELATION, MAX_AUTOCORRELATION)
    return float(n / (1.0 + 2.0 * np.sum((1.0 - lag / n) * product**lag)))


def build_design(treatment: str, years: np.ndarray) -> np.ndarray:
    """Return the columns that a treatment fits at times (years), shape (steps, columns)."""
    columns = [np.ones_like(years)]
    if treatment != "raw":
        columns.append(years - years.mean())
    if treatment == "deseasonalised":
        columns.append(cycle_columns(years))
    return np.column_stack(columns)


def cycle_columns(years: np.ndarray) -> np.ndarray:
    """Return cosine and sine of the annual and the semi-annual cycle, shape (steps, 4)."""
    angle = 2.0 * np.pi * years
    return np.column_stack([np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)])


def _annihilator(design: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the matrix that removes a design's fit on the months of a mask (zero elsewhere)."""
    months = mask.size
    matrix = np.zeros((months, months))
    u, size, _ = np.linalg.svd(design[mask], full_matrices=False)
    q = u[:, size > RANK_TOLERANCE * size.max(initial=0.0)]
    matrix[np.ix_(mask, mask)] = np.eye(int(mask.sum())) - q @ q.T
    return matrix


def lag_one(values: np.ndarray, mask: np.ndarray) -> float:
    """Return the lag-1 autocorrelation of a residual on a grid with gaps (NaN if unknown)."""
    both = mask[:-1] & mask[1:]
    power = np.mean(values[mask] ** 2) if mask.any() else 0.0
    if not both.any() or power <= 0:
        return np.nan
    return float(np.mean(values[:-1][both] * values[1:][both]) / power)


def build_filter(treatment: str, years: np.ndarray, mask: np.ndarray) -> Filter:
    """Return a treatment's matrices and what they do to AR(1) noise of known autocorrelation.

    Parameters
    ----------
    treatment
        One of :data:`TREATMENTS`.
    years
        Times of a regular grid (years), shape (steps,).
    mask
        Where the series has a value, shape (steps,).
    """
    months = years.size
    base = build_design(treatment, years)
    harmonics = cycle_columns(years)
    full = base if treatment == "deseasonalised" else np.column_stack([base, harmonics])
    project = _annihilator(base, mask)
    whiten = _annihilator(full, mask)
    columns = np.zeros((4, months))
    columns[:, mask] = np.linalg.pinv(full[mask], rcond=RANK_TOLERANCE)[-4:]
    distance = np.abs(np.subtract.outer(np.arange(months), np.arange(months)))
    both = mask[:-1] & mask[1:]
    expected, power, variance = [], [], []
    for phi in AUTOCORRELATIONS:
        covariance = phi**distance
        residual = whiten @ covariance @ whiten
        spread = np.trace(residual) / mask.sum()
        step = np.diagonal(residual, 1)[both].mean() if both.any() else 0.0
        expected.append(step / spread)
        variance.append(spread)
        noise = np.einsum("ij,jk,ik->i", columns, covariance, columns)
        power.append([noise[:2].sum(), noise[2:].sum()])
    return Filter(
        mask,
        project,
        whiten,
        columns,
        np.maximum.accumulate(np.array(expected)),
        np.array(power),
        np.array(variance),
    )


def treat(series: np.ndarray, treated: Filter) -> np.ndarray:
    """Return a series without what a treatment takes, zero outside its mask, shape (steps,).

    What rounding leaves of a series that is nothing else becomes zero.
    """
    filled = np.where(treated.mask, series, 0.0)
    rest = treated.project @ filled
    return rest if np.abs(rest).max() > ROUNDING * np.abs(filled).max() else np.zeros_like(rest)


def estimate_autocorrelation(values: np.ndarray, treated: Filter) -> float:
    """Return the lag-1 autocorrelation of what trend and season leave of a series.

    Short records and the removal of trend and season bring the plain estimate down: the value
    returned is the one of an AR(1) process on which it would be expected. 0 where unknown.

    Parameters
    ----------
    values
        Series on a regular grid, shape (steps,); what lies outside the mask is not used.
    treated
        Filter of the series' pattern of gaps.
    """
    residual = treated.whiten @ np.where(treated.mask, values, 0.0)
    seen = lag_one(residual, treated.mask)
    return float(np.interp(seen, treated.expected, AUTOCORRELATIONS)) if np.isfinite(seen) else 0.0
