"""Coupling of elevation change and mass change per mascon: correlation, lag, effective density.

Signs: a positive lag says that mass follows elevation by so many months. A positive correlation
says that thickening goes with gain.

Significance comes from surrogates: pairs of unrelated series with the autocorrelation of both
(an AR(1) process whose lag-1 autocorrelation is corrected for the bias that short records and
the removal of trend and season bring) and with their annual and semi-annual power at random
phases. They pass through the same gaps, treatments and choice of lag as the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from cryofuse.calendar import month_index, month_middle, year_fraction
from cryofuse.learning.density import fit_density
from cryofuse.learning.treatments import (
    AUTOCORRELATIONS,
    TREATMENTS,
    Filter,
    build_design,
    build_filter,
    cycle_columns,
    estimate_autocorrelation,
    lag_one,
    treat,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from cryofuse.config import CouplingSettings

#: A negative correlation is the best one only where it exceeds the largest positive one by this:
#: an annual cycle repeats its correlation with the other sign six months away.
SIGN_MARGIN = 0.1
#: Density of a kilogram per square metre and metre from Gt, km² and m (10¹² kg / 10⁶ m²).
KG_M2_PER_GT_KM2 = 1e6
#: Trend and seasonal components are compared where both exceed this many standard errors.
RESOLVED_SIGMAS = 2.0

#: Number-valued columns that are null until they are filled.
VALUES = (
    "r",
    "r_lower",
    "r_upper",
    "rho",
    "n_effective",
    "p",
    "p_best",
    "density_kg_m3",
    "density_lower_kg_m3",
    "density_upper_kg_m3",
    "density_ols_kg_m3",
)


def control_false_discoveries(p: np.ndarray) -> np.ndarray:
    """Return Benjamini–Hochberg q values of p values; NaN stays NaN and does not count.

    Notes
    -----
    Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57, 289.
    """
    q = np.full(np.shape(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    if known.size:
        order = known[np.argsort(p[known], kind="stable")]
        raised = p[order] * order.size / np.arange(1, order.size + 1)
        q[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1.0)
    return q


def correlate_lags(
    first: np.ndarray, second: np.ndarray, lags: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Pearson correlation of one series with another that follows it.

    Parameters
    ----------
    first, second
        Series on the same months, shape (..., months); NaN where there is none. The pattern of
        gaps is the first row's.
    lags
        Months by which the second series is later.

    Returns
    -------
    tuple
        Correlations, shape (..., lags), NaN where there are fewer than three pairs or no
        variance; number of pairs, shape (lags,).
    """
    first, second = np.asarray(first), np.asarray(second)
    months = first.shape[-1]
    has_first = np.isfinite(first.reshape(-1, months)[0])
    has_second = np.isfinite(second.reshape(-1, months)[0])
    r = np.full((*first.shape[:-1], len(lags)), np.nan)
    n = np.zeros(len(lags), dtype=np.int64)
    for k, lag in enumerate(lags):
        index = _pairs(has_first, has_second, int(lag))
        n[k] = index.size
        if index.size < 3:
            continue
        x, y = first[..., index], second[..., index + lag]
        x = x - x.mean(axis=-1, keepdims=True)
        y = y - y.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.einsum("...i,...i", x, x) * np.einsum("...i,...i", y, y))
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.einsum("...i,...i", x, y) / scale
        r[..., k] = np.where(scale > 0, np.clip(value, -1.0, 1.0), np.nan)
    return r, n


def _pairs(has_first: np.ndarray, has_second: np.ndarray, lag: int) -> np.ndarray:
    """Return the months of the first series whose partner ``lag`` months later exists."""
    index = np.arange(has_first.size)
    partner = index + lag
    inside = (partner >= 0) & (partner < has_second.size)
    index = index[inside]
    return index[has_first[index] & has_second[index + lag]]


def choose_lag(r: np.ndarray) -> np.ndarray:
    """Return the index of the best lag of correlations, shape (..., lags) → (...).

    The largest |r|, a positive one preferred where both are within ``SIGN_MARGIN``; a lag without
    a correlation is never the best of several.
    """
    most, least = np.where(np.isnan(r), -np.inf, r), np.where(np.isnan(r), np.inf, r)
    high, low = most.argmax(axis=-1), least.argmin(axis=-1)
    top = np.take_along_axis(most, high[..., None], -1)[..., 0]
    bottom = np.take_along_axis(least, low[..., None], -1)[..., 0]
    return np.where(-bottom > top + SIGN_MARGIN, low, high)


def draw_autoregressive(phi: np.ndarray, months: int, rng: np.random.Generator) -> np.ndarray:
    """Return stationary AR(1) series of unit variance, one per φ, shape (draws, months)."""
    noise = rng.standard_normal((months, phi.size))
    step = np.sqrt(1.0 - phi**2)
    for t in range(1, months):
        noise[t] = phi * noise[t - 1] + step * noise[t]
    return noise.T.copy()


def _surrogates(
    values: np.ndarray, treated: Filter, years: np.ndarray, draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Return treated surrogates of a series, shape (draws, months), and its autocorrelation."""
    filled = np.where(treated.mask, values, 0.0)
    residual = treated.whiten @ filled
    phi = estimate_autocorrelation(values, treated)
    # The autocorrelation itself is an estimate: each surrogate takes one from its scatter.
    scatter = np.sqrt((1.0 - phi**2) / treated.mask.sum())
    drawn = np.clip(
        phi + scatter * rng.standard_normal(draws), AUTOCORRELATIONS[0], AUTOCORRELATIONS[-1]
    )
    noise = draw_autoregressive(drawn, years.size, rng)
    variance = np.mean(residual[treated.mask] ** 2) / np.interp(
        phi, AUTOCORRELATIONS, treated.residual_variance
    )
    if variance <= 0:
        return np.full((draws, years.size), np.nan), phi
    coefficients = treated.harmonics @ filled
    angle = 2.0 * np.pi * years
    for number, pair in enumerate((coefficients[:2], coefficients[2:])):
        # What noise alone puts into a fitted cycle is in the AR(1) part already.
        chance = variance * np.interp(phi, AUTOCORRELATIONS, treated.noise_power[:, number])
        amplitude = np.sqrt(max(float(pair @ pair) - chance, 0.0) / variance)
        phase = rng.uniform(0.0, 2.0 * np.pi, (draws, 1))
        noise += amplitude * np.cos((number + 1) * angle - phase)
    out = noise @ treated.project.T
    out[:, ~treated.mask] = np.nan
    return out, phi


def _bootstrap_counts(months: int, block: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each month is drawn by a circular block bootstrap, (draws, months)."""
    block = min(block, months)
    blocks = -(-months // block)
    start = rng.integers(0, months, (draws, blocks))
    index = (start[..., None] + np.arange(block)) % months
    index = index.reshape(draws, -1)[:, :months]
    counts = np.zeros((draws, months))
    np.add.at(counts, (np.arange(draws)[:, None], index), 1.0)
    return counts


def _weighted_correlation(count: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the correlation of drawn pairs for each row of counts."""
    x, y = x - x.mean(), y - y.mean()
    total = count.sum(axis=1)
    sums = count @ np.column_stack([x, y, x * x, y * y, x * y])
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_x, mean_y = sums[:, 0] / total, sums[:, 1] / total
        var_x = sums[:, 2] / total - mean_x**2
        var_y = sums[:, 3] / total - mean_y**2
        r = (sums[:, 4] / total - mean_x * mean_y) / np.sqrt(var_x * var_y)
    return np.clip(r, -1.0, 1.0)


def _interval(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    # Fewer than four fifths of the draws with a value: their spread says nothing reliable.
    if known.size < 0.8 * values.size or known.size < 20:
        return np.nan, np.nan
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _opposing(dh: np.ndarray, mass: np.ndarray, years: np.ndarray, lag: int) -> bool:
    """Say whether trend and annual cycle imply densities of opposite sign, both resolved."""
    design = np.column_stack([build_design("detrended", years), cycle_columns(years)])
    parts = []
    for series in (dh, mass):
        mask = np.isfinite(series)
        if mask.sum() <= design.shape[1] + 2:
            return False
        solution, *_ = np.linalg.lstsq(design[mask], series[mask], rcond=None)
        residual = series[mask] - design[mask] @ solution
        phi = np.clip(np.nan_to_num(lag_one(_spread(residual, mask), mask)), 0.0, 0.95)
        scale = residual.var(ddof=design.shape[1]) * (1 + phi) / (1 - phi)
        sigma = np.sqrt(np.diag(np.linalg.inv(design[mask].T @ design[mask])) * scale)
        annual = complex(solution[2], -solution[3])
        if abs(solution[1]) < RESOLVED_SIGMAS * sigma[1]:
            return False
        if abs(annual) < RESOLVED_SIGMAS * np.hypot(sigma[2], sigma[3]) / np.sqrt(2):
            return False
        parts.append((solution[1], annual))
    (trend_dh, annual_dh), (trend_mass, annual_mass) = parts
    # Mass read `lag` months later is the same cycle turned forward.
    turned = annual_mass * np.exp(2j * np.pi * lag / 12.0)
    season = (turned * annual_dh.conjugate()).real
    return bool(trend_dh * trend_mass * season < 0)


def _spread(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    full = np.zeros(mask.size)
    full[mask] = values
    return full


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    first, second = rankdata(x), rankdata(y)
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first @ first) * (second @ second))
    return float(np.clip(first @ second / scale, -1.0, 1.0)) if scale > 0 else np.nan


def couple_series(
    dh: np.ndarray,
    mass: np.ndarray,
    months: np.ndarray,
    settings: CouplingSettings,
    *,
    dh_sigma: np.ndarray | None = None,
    mass_sigma: np.ndarray | None = None,
    stream: int = 0,
    filters: dict[tuple[str, bytes], Filter] | None = None,
) -> pd.DataFrame:
    """Correlate two monthly series under every treatment and lag.

    Parameters
    ----------
    dh
        Elevation change (m), shape (months,), NaN in gaps.
    mass
        Mass per ice area (kg/m²), shape (months,), NaN in gaps.
    months
        Consecutive months (first days).
    settings
        Lags, fewest pairs, bootstrap, surrogates and seed.
    dh_sigma, mass_sigma
        σ of both, in the same units; without them no density with errors in both is given.
    stream
        Number that, with the seed, starts the random numbers (a mascon's id).
    filters
        Matrices already built for a treatment and pattern of gaps, filled here.

    Returns
    -------
    pandas.DataFrame
        The columns of ``coupling/mascons`` except ``mascon_id`` and ``q_fdr``, one row per
        treatment and lag. Where fewer than ``min_n`` pairs exist values are null and
        ``reason`` says so.
    """
    filters = {} if filters is None else filters
    years = year_fraction(month_middle(months))
    lags = np.arange(-settings.lags_months, settings.lags_months + 1)
    has_dh, has_mass = np.isfinite(dh), np.isfinite(mass)
    blocks = []
    for number, treatment in enumerate(TREATMENTS):
        rows = _empty_rows(treatment, lags)
        n = np.array([_pairs(has_dh, has_mass, int(lag)).size for lag in lags])
        rows["n"] = n
        enough = n >= settings.min_n
        rows["reason"][~enough] = [
            f"{count} common months, fewer than min_n ({settings.min_n})" for count in n[~enough]
        ]
        if enough.any():
            rng = np.random.default_rng([settings.seed, stream, number])
            sides = []
            for series, mask in ((dh, has_dh), (mass, has_mass)):
                key = (treatment, mask.tobytes())
                if key not in filters:
                    filters[key] = build_filter(treatment, years, mask)
                rest = treat(series, filters[key])
                sides.append((np.where(mask, rest, np.nan), filters[key]))
            both, sigmas = (dh, mass), (dh_sigma, mass_sigma)
            _fill_rows(rows, sides, both, sigmas, years, lags, enough, settings, rng, filters)
        blocks.append(rows)
    table = pd.DataFrame({name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]})
    text = ["treatment", "flag", "reason"]
    return table.astype(dict.fromkeys(text, "str"))


def _empty_rows(treatment: str, lags: np.ndarray) -> dict[str, np.ndarray]:
    """Return columns of nulls for one treatment, a row per lag."""
    size = lags.size
    rows: dict[str, np.ndarray] = {
        "treatment": np.full(size, treatment, dtype=object),
        "lag_months": lags.astype(np.int32),
    }
    for name in VALUES:
        rows[name] = np.full(size, np.nan)
    rows["n"] = np.zeros(size, dtype=np.int64)
    rows["best"] = np.zeros(size, dtype=bool)
    for name in ("flag", "reason"):
        rows[name] = np.full(size, None, dtype=object)
    return rows


def _fill_rows(
    rows: dict[str, np.ndarray],
    sides: list[tuple[np.ndarray, Filter]],
    series: tuple[np.ndarray, np.ndarray],
    sigmas: tuple[np.ndarray | None, np.ndarray | None],
    years: np.ndarray,
    lags: np.ndarray,
    enough: np.ndarray,
    settings: CouplingSettings,
    rng: np.random.Generator,
    filters: dict[tuple[str, bytes], Filter],
) -> None:
    """Write one treatment's correlations, probabilities, intervals and density."""
    (x, filter_x), (y, filter_y) = sides
    r, n = correlate_lags(x, y, lags)
    r = np.where(enough, r, np.nan)
    if not np.isfinite(r).any():
        rows["reason"][enough] = "a series does not vary"
        return
    draws = settings.surrogates
    null_x, _ = _surrogates(series[0], filter_x, years, draws, rng)
    null_y, _ = _surrogates(series[1], filter_y, years, draws, rng)
    chance = np.where(enough, correlate_lags(null_x, null_y, lags)[0], np.nan)
    rows["r"] = r
    with np.errstate(divide="ignore", invalid="ignore"):
        n_effective = 1.0 + 1.0 / np.mean(chance**2, axis=0)
    n_effective = np.minimum(n_effective, n)
    known = enough & np.isfinite(n_effective) & np.isfinite(r)
    rows["n_effective"] = np.where(known, n_effective, np.nan)
    exceeding = np.count_nonzero(np.abs(chance) >= np.abs(r), axis=0)
    rows["p"] = np.where(known, (1 + exceeding) / (1 + draws), np.nan)

    best = int(choose_lag(r))
    rows["best"][best] = True
    null_best = choose_lag(chance)
    largest = np.abs(np.take_along_axis(chance, null_best[:, None], 1)[:, 0])
    if np.isfinite(largest).all():
        exceeding = np.count_nonzero(largest >= abs(r[best]))
        rows["p_best"][best] = (1 + exceeding) / (1 + draws)

    counts = _bootstrap_counts(x.size, settings.block_months, settings.bootstrap_draws, rng)
    has_x, has_y = filter_x.mask, filter_y.mask
    for k in np.flatnonzero(enough & np.isfinite(r)):
        index = _pairs(has_x, has_y, int(lags[k]))
        first, second = x[index], y[index + lags[k]]
        rows["rho"][k] = _spearman(first, second)
        low, high = _interval(_weighted_correlation(counts[:, index], first, second))
        rows["r_lower"][k], rows["r_upper"][k] = low, high
    treatment = str(rows["treatment"][best])
    _fill_density(rows, best, series, sigmas, years, treatment, filters)
    if _opposing(series[0], series[1], years, int(lags[best])):
        rows["flag"][best] = "opposing_components"


def _fill_density(
    rows: dict[str, np.ndarray],
    row: int,
    series: tuple[np.ndarray, np.ndarray],
    sigmas: tuple[np.ndarray | None, np.ndarray | None],
    years: np.ndarray,
    treatment: str,
    filters: dict[tuple[str, bytes], Filter],
) -> None:
    """Write the effective density of the best lag, its interval and the least-squares one."""
    lag = int(rows["lag_months"][row])
    unknown = np.full(years.size, np.nan)
    dh, mass = series[0], _bring_forward(series[1], lag)
    dh_sigma = unknown if sigmas[0] is None else sigmas[0]
    mass_sigma = unknown if sigmas[1] is None else _bring_forward(sigmas[1], lag)
    density = fit_density(
        dh, mass, dh_sigma, mass_sigma, years, treatment, filters, sigma_is_bound=True
    )
    rows["density_kg_m3"][row] = density.value
    rows["density_lower_kg_m3"][row] = density.lower
    rows["density_upper_kg_m3"][row] = density.upper
    rows["density_ols_kg_m3"][row] = density.least_squares
    if density.reason:
        rows["reason"][row] = f"no density: {density.reason}"


def _bring_forward(series: np.ndarray, lag: int) -> np.ndarray:
    """Return a series whose every value stands so many months earlier, NaN where none comes."""
    moved = np.full(series.size, np.nan)
    index = np.arange(max(-lag, 0), series.size - max(lag, 0))
    moved[index] = series[index + lag]
    return moved


def correlate_mascons(
    fusion: pd.DataFrame, mascons: pd.DataFrame, settings: CouplingSettings
) -> pa.Table:
    """Correlate elevation and mass of every selected mascon.

    Parameters
    ----------
    fusion
        Retrospective mascon months (``fusion/mascon_months``).
    mascons
        Mascons with ``mascon_id``, ``selected`` and ``ice_area_km2``.
    settings
        Lags, fewest pairs, bootstrap, surrogates, FDR and seed.

    Returns
    -------
    pyarrow.Table
        ``coupling/mascons``: one row per selected mascon, treatment and lag. ``q_fdr`` is the
        Benjamini–Hochberg value of ``p_best`` over the mascons of a treatment, on the best row.
    """
    from cryofuse.tables import COUPLING, from_pandas

    chosen = mascons.loc[mascons["selected"], ["mascon_id", "ice_area_km2"]]
    chosen = chosen.sort_values("mascon_id")
    if chosen.empty or fusion.empty:
        return COUPLING.empty()
    index = month_index(fusion["month"].to_numpy())
    first = int(index.min())
    count = int(index.max()) - first + 1
    months = (first + np.arange(count)).astype("datetime64[M]").astype("datetime64[us]")
    filters: dict[tuple[str, bytes], Filter] = {}
    blocks = []
    for mascon_id, ice_area in zip(
        chosen["mascon_id"].to_numpy(), chosen["ice_area_km2"].to_numpy(), strict=True
    ):
        rows = (fusion["mascon_id"] == mascon_id).to_numpy()
        position = index[rows] - first
        columns = {}
        for name in ("dh_m", "dh_sigma_m", "mass_gt", "mass_sigma_gt"):
            columns[name] = np.full(count, np.nan)
            columns[name][position] = fusion.loc[rows, name].to_numpy(dtype=np.float64)
        scale = KG_M2_PER_GT_KM2 / ice_area if ice_area > 0 else np.nan
        table = couple_series(
            columns["dh_m"],
            columns["mass_gt"] * scale,
            months,
            settings,
            dh_sigma=columns["dh_sigma_m"],
            mass_sigma=columns["mass_sigma_gt"] * scale,
            stream=int(mascon_id),
            filters=filters,
        )
        if not ice_area > 0:
            table["reason"] = "the mascon holds no ice"
        table.insert(0, "mascon_id", np.int32(mascon_id))
        blocks.append(table)
    result = pd.concat(blocks, ignore_index=True)
    result["q_fdr"] = np.nan
    for treatment in TREATMENTS:
        best = ((result["treatment"] == treatment) & result["best"]).to_numpy()
        result.loc[best, "q_fdr"] = control_false_discoveries(
            result.loc[best, "p_best"].to_numpy(dtype=np.float64)
        )
    arrow = from_pandas(result[list(COUPLING.columns)])
    return arrow.cast(COUPLING.schema)
