"""Early-warning statistics of the residual series, only against phase-randomised surrogates.

Exploratory: a system that loses stability recovers more slowly, so that the variance and the lag-1
autocorrelation of its fluctuations rise (Scheffer et al. 2009, doi:10.1038/nature08227). Both are
followed in running windows over the series without trend, annual and semi-annual cycle; Kendall's
tau says how steadily they rise. Windows overlap, so tau's own test does not hold: p is the share of
surrogates with the series' power spectrum and random phases (Theiler et al. 1992,
doi:10.1016/0167-2789(92)90102-S), stationary by construction, whose tau is as large. Six years
support no tipping claim, whatever p is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cryofuse.calendar import month_middle, year_fraction
from cryofuse.learning.treatments import Filter, build_filter, treat
from cryofuse.products.rapid_melt import SHEET
from cryofuse.products.sheet import own_mass, own_volume
from cryofuse.products.totals import to_grid

if TYPE_CHECKING:
    from cryofuse.config import EarlyWarningSettings

STATISTICS = ("variance", "autocorrelation")
SOURCES = {"dh": "m", "gravimetry": "Gt"}
#: Largest share of months without a value; they are interpolated, in surrogates as in the series.
MAX_GAPS = 0.1
#: Windows that do not overlap, of which a record holds at least so many.
MIN_WINDOWS = 2
#: Central share of the surrogates between the bounds given.
CENTRAL = 0.95
_WINDOWS = ["scope", "mascon_id", "source", "statistic", "month", "value", "lower", "upper"]
_TAUS = [
    "scope",
    "mascon_id",
    "source",
    "statistic",
    "start",
    "end",
    "n",
    "n_windows",
    "tau",
    "tau_lower",
    "tau_upper",
    "p",
    "reason",
]


def running_statistics(series: np.ndarray, window: int) -> dict[str, np.ndarray]:
    """Return variance and lag-1 autocorrelation in running windows.

    Parameters
    ----------
    series
        Series without gaps, shape (..., steps).
    window
        Steps of a window.

    Returns
    -------
    dict
        Each of :data:`STATISTICS`, shape (..., steps − window + 1), about the window's own mean.
    """
    parts = np.lib.stride_tricks.sliding_window_view(series, window, axis=-1)
    apart = parts - parts.mean(axis=-1, keepdims=True)
    power = np.sum(apart**2, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        neighbours = np.sum(apart[..., 1:] * apart[..., :-1], axis=-1) / power
    return {"variance": power / (window - 1), "autocorrelation": neighbours}


def kendall_tau(values: np.ndarray) -> np.ndarray:
    """Return Kendall's tau of series against time, shape (..., steps) → (...)."""
    first, second = np.triu_indices(values.shape[-1], 1)
    return np.sign(values[..., second] - values[..., first]).mean(axis=-1)


def randomise_phases(series: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return surrogates with a series' power spectrum and random phases, shape (draws, steps)."""
    spectrum = np.fft.rfft(series)
    phases = np.exp(2j * np.pi * rng.random((draws, spectrum.size)))
    # The mean, and of an even number of steps the last frequency, have no phase.
    phases[:, 0] = 1.0
    if series.size % 2 == 0:
        phases[:, -1] = np.sign(phases[:, -1].real)
    return np.fft.irfft(spectrum * phases, n=series.size, axis=-1)


def _interpolator(mask: np.ndarray) -> np.ndarray:
    """Return the matrix that fills gaps linearly between the values either side."""
    steps = np.arange(mask.size)
    columns = [np.interp(steps, steps[mask], unit) for unit in np.eye(mask.size)[:, mask]]
    return np.column_stack(columns)


def measure_rise(
    series: np.ndarray, treated: Filter, window: int, draws: int, rng: np.random.Generator
) -> dict[str, dict]:
    """Measure whether running statistics of a series rise more steadily than chance has them do.

    Parameters
    ----------
    series
        Values on a regular grid, shape (steps,).
    treated
        Filter ``deseasonalised`` of the series' pattern of gaps.
    window
        Steps of a running window.
    draws
        Surrogates.
    rng
        Source of randomness.

    Returns
    -------
    dict
        For each of :data:`STATISTICS`: ``values``, ``lower`` and ``upper`` (surrogates) of every
        window, ``tau``, ``tau_lower``, ``tau_upper`` and ``p`` (one-sided).
    """
    fill = _interpolator(treated.mask)
    residual = fill @ treat(series, treated)
    surrogates = randomise_phases(residual, draws, rng) @ treated.project.T @ fill.T
    seen = running_statistics(residual, window)
    chance = running_statistics(surrogates, window)
    tails = ((1 - CENTRAL) / 2, (1 + CENTRAL) / 2)
    found = {}
    for name in STATISTICS:
        tau = float(kendall_tau(seen[name]))
        taus = kendall_tau(chance[name])
        lower, upper = np.quantile(chance[name], tails, axis=0)
        tau_lower, tau_upper = np.quantile(taus, tails)
        found[name] = {
            "values": seen[name],
            "lower": lower,
            "upper": upper,
            "tau": tau,
            "tau_lower": float(tau_lower),
            "tau_upper": float(tau_upper),
            "p": float((1 + np.sum(taus >= tau)) / (1 + draws)),
        }
    return found


def warn_early(
    fusion: pd.DataFrame,
    mascons: pd.DataFrame,
    totals: pd.DataFrame,
    settings: EarlyWarningSettings,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Follow variance and autocorrelation of elevation and mass, of mascons and of the sheet.

    Parameters
    ----------
    fusion
        Table ``fusion/mascon_months`` (retrospective); its months bound both sources.
    mascons
        Table ``gravimetry/mascons``.
    totals
        Table ``applications/totals``, the sheet's series.
    settings
        Window, surrogates and seed.

    Returns
    -------
    tuple of pandas.DataFrame
        Tables ``applications/early_warning`` (series × statistic) and
        ``applications/early_warning_windows`` (windows).
    """
    chosen = mascons[mascons["selected"]].sort_values("mascon_id")
    ids = chosen["mascon_id"].to_numpy()
    if not len(ids) or fusion.empty:
        return pd.DataFrame(columns=_TAUS), pd.DataFrame(columns=_WINDOWS)
    months = pd.date_range(fusion["month"].min(), fusion["month"].max(), freq="MS").as_unit("us")
    years = year_fraction(month_middle(months.to_numpy()))
    filters: dict[bytes, Filter] = {}
    taus: list[dict] = []
    windows: list[pd.DataFrame] = []
    for number, (source, column, sheet) in enumerate(
        (("dh", "dh_m", own_volume(totals)), ("gravimetry", "mass_gt", own_mass(totals)))
    ):
        grid = to_grid(fusion, column, months.to_numpy(), ids)
        whole = sheet.set_index("month")["value"].reindex(months).to_numpy(dtype=float)
        if source == "dh":
            whole = whole / chosen["ice_area_km2"].sum() * 1e3
        for mascon, series in [(None, whole), *zip(ids.tolist(), grid.T, strict=True)]:
            named = {
                "scope": SHEET if mascon is None else f"mascon:{mascon}",
                "mascon_id": mascon,
                "source": source,
            }
            seed = (settings.seed, number, 0 if mascon is None else 1 + mascon)
            rows, parts = _warn_one(series, months, years, settings, filters, seed)
            taus += [named | row for row in rows]
            windows += [part.assign(**named) for part in parts]
    none = pd.DataFrame(columns=_WINDOWS)
    found = pd.concat(windows, ignore_index=True)[_WINDOWS] if windows else none
    return pd.DataFrame(taus, columns=_TAUS), found


def _warn_one(
    series: np.ndarray,
    months: pd.DatetimeIndex,
    years: np.ndarray,
    settings: EarlyWarningSettings,
    filters: dict[bytes, Filter],
    seed: tuple[int, ...],
) -> tuple[list[dict], list[pd.DataFrame]]:
    """Return a series' rows and its windows, none with a reason where it cannot be followed."""
    here = np.flatnonzero(np.isfinite(series))
    span = slice(here[0], here[-1] + 1) if here.size else slice(0, 0)
    values, inside = series[span], months[span]
    mask = np.isfinite(values)
    length = settings.window_months
    row = {
        "start": inside.min() if mask.size else None,
        "end": inside.max() if mask.size else None,
        "n": int(mask.sum()),
        "n_windows": 0,
    }
    reason = None
    if mask.size < MIN_WINDOWS * length:
        reason = f"{mask.size} months: {MIN_WINDOWS} windows of {length} are needed"
    elif mask.mean() < 1 - MAX_GAPS:
        reason = f"{mask.size - mask.sum()} of {mask.size} months have no value"
    if reason:
        return [row | {"statistic": name, "reason": reason} for name in STATISTICS], []
    key = months[span][:1].asi8.tobytes() + mask.tobytes()
    if key not in filters:
        filters[key] = build_filter("deseasonalised", years[span], mask)
    rng = np.random.default_rng(seed)
    found = measure_rise(values, filters[key], length, settings.surrogates, rng)
    rows, parts = [], []
    for name, one in found.items():
        numbers = ("tau", "tau_lower", "tau_upper", "p")
        rows.append(
            row
            | {"statistic": name, "n_windows": one["values"].size, "reason": None}
            | {number: one[number] for number in numbers}
        )
        parts.append(
            pd.DataFrame(
                {
                    "statistic": name,
                    # A window is dated by its last month.
                    "month": inside[length - 1 :],
                    "value": one["values"],
                    "lower": one["lower"],
                    "upper": one["upper"],
                }
            )
        )
    return rows, parts
