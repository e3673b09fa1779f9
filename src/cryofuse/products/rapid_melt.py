"""Months that lose far more than their season's usual: flags, and what chance alone would flag.

A month's anomaly is its monthly change without the series' trend and mean annual and semi-annual
cycle, fitted over the whole record (the detector looks back). It is flagged where it lies below the
climatological quantile of the series' own noise: that quantile of first-order autoregressive
surrogates with the series' autocorrelation, gaps, treatment and robust spread. The spread is the
median absolute deviation, so that the extremes themselves do not widen the threshold.

One half of the surrogates sets the threshold, the other half measures the false alarms: the share
of months without any extreme that it flags, and how many of a record's months it flags at most in
95 % of such records. Surrogates have one spread for all months of the year: where melt varies more
than snowfall, false alarms gather in the melt season.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import norm

from cryofuse.calendar import month_index, month_middle, year_fraction
from cryofuse.learning.coupling import draw_autoregressive
from cryofuse.learning.treatments import (
    AUTOCORRELATIONS,
    Filter,
    build_filter,
    estimate_autocorrelation,
    treat,
)
from cryofuse.products.sheet import own_volume
from cryofuse.products.totals import to_grid

if TYPE_CHECKING:
    from cryofuse.config import RapidMeltSettings

#: Fewest monthly changes of a series: two annual cycles.
MIN_CHANGES = 24
#: Median absolute deviations of a normal distribution in one standard deviation.
MAD_PER_SIGMA = float(norm.ppf(0.75))
#: Confidence of the bounds on false alarms.
CONFIDENCE = 0.95
SHEET = "sheet"
UNITS = {"dh": "m", "gravimetry": "Gt", "model": "Gt"}
_RATES = [
    "nominal_rate",
    "false_alarm_rate",
    "false_alarm_lower",
    "false_alarm_upper",
    "most_by_chance",
    "p",
]


@dataclass(frozen=True)
class Detection:
    """What a detector finds in one series.

    Attributes
    ----------
    anomaly
        The series without trend and season, NaN where it has no value, shape (steps,).
    threshold
        Anomaly below which a month is flagged.
    p
        Share of the surrogates' months that lie as low, shape (steps,).
    autocorrelation
        Lag-1 autocorrelation of the surrogates.
    false_alarms
        Flagged share of each surrogate that did not set the threshold.
    """

    anomaly: np.ndarray
    threshold: float
    p: np.ndarray
    autocorrelation: float
    false_alarms: np.ndarray

    @property
    def flagged(self) -> np.ndarray:
        """Return the flagged steps, shape (steps,)."""
        return self.anomaly < self.threshold


def detect_extremes(
    series: np.ndarray, treated: Filter, quantile: float, draws: int, rng: np.random.Generator
) -> Detection:
    """Flag the steps of a series that lie below a quantile of its own noise.

    Parameters
    ----------
    series
        Monthly changes on a regular grid, shape (steps,).
    treated
        Filter ``deseasonalised`` of the series' pattern of gaps.
    quantile
        Nominal rate of false alarms.
    draws
        Surrogates; half of them set the threshold, half measure the false alarms.
    rng
        Source of randomness.

    Raises
    ------
    ValueError
        If the series does not vary once trend and season are gone.
    """
    mask = treated.mask
    anomaly = treat(series, treated)
    spread = _spread(anomaly[mask])
    if spread <= 0:
        raise ValueError("the series does not vary beyond trend and season")
    phi = estimate_autocorrelation(series, treated)
    # The autocorrelation is an estimate: each surrogate takes one from its scatter.
    scatter = np.sqrt((1 - phi**2) / mask.sum())
    drawn = np.clip(
        phi + scatter * rng.standard_normal(draws), AUTOCORRELATIONS[0], AUTOCORRELATIONS[-1]
    )
    chance = (draw_autoregressive(drawn, mask.size, rng) @ treated.project.T)[:, mask]
    chance /= _spread(chance)[:, np.newaxis]
    setting, measuring = chance[: draws // 2], chance[draws // 2 :]
    level = float(np.quantile(setting, quantile))
    pool = np.sort(chance, axis=None)
    p = np.full(mask.size, np.nan)
    p[mask] = (1 + np.searchsorted(pool, anomaly[mask] / spread, side="right")) / (1 + pool.size)
    return Detection(
        np.where(mask, anomaly, np.nan),
        level * spread,
        p,
        phi,
        (measuring < level).mean(axis=1),
    )


def _spread(values: np.ndarray) -> np.ndarray:
    """Return the robust standard deviation about the median along the last axis."""
    apart = np.abs(values - np.median(values, axis=-1, keepdims=True))
    return np.median(apart, axis=-1) / MAD_PER_SIGMA


def detect_rapid_melt(
    fusion: pd.DataFrame,
    mass: pd.DataFrame,
    mascons: pd.DataFrame,
    totals: pd.DataFrame,
    predicted: pd.DataFrame,
    settings: RapidMeltSettings,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Flag the months of rapid loss of every selected mascon and of the sheet.

    Parameters
    ----------
    fusion
        Table ``fusion/mascon_months`` (retrospective).
    mass
        Table ``gravimetry/mass``; gravity's climatology is that of its whole record.
    mascons
        Table ``gravimetry/mascons``.
    totals
        Table ``applications/totals``, the sheet's series.
    predicted
        Table ``applications/case_study_months``: no prediction saw gravity of its own year.
    settings
        Quantile, surrogates and seed.

    Returns
    -------
    tuple of pandas.DataFrame
        Tables ``applications/rapid_melt`` (months) and ``applications/rapid_melt_rates`` (series).
    """
    chosen = mascons[mascons["selected"]].sort_values("mascon_id")
    months, rates = [], []
    filters: dict[bytes, Filter] = {}
    for source, grid in (
        ("dh", _elevation_changes(fusion, chosen, totals)),
        ("gravimetry", _mass_changes(mass, chosen, totals)),
        ("model", _predicted_changes(predicted, chosen)),
    ):
        for column, series in _series(grid):
            mascon = None if column == SHEET else int(column)
            named = {
                "scope": SHEET if mascon is None else f"mascon:{mascon}",
                "mascon_id": mascon,
                "source": source,
                "unit": UNITS[source],
            }
            number = 0 if mascon is None else 1 + mascon
            rng = np.random.default_rng((settings.seed, list(UNITS).index(source), number))
            found, rate = _detect_one(series, grid.index, settings, filters, rng)
            months.append(found.assign(**named))
            rates.append(named | rate)
    table = pd.concat(months, ignore_index=True) if months else pd.DataFrame()
    names = ["scope", "mascon_id", "source", "unit"]
    found_names = ["month", "change", "anomaly", "threshold", "p", "flagged"]
    rate_names = ["start", "end", "n", "autocorrelation", "threshold", "n_flagged"]
    return (
        table.reindex(columns=[*names, *found_names]),
        pd.DataFrame(rates, columns=[*names, *rate_names, *_RATES, "reason"]),
    )


def _series(grid: pd.DataFrame) -> Iterator[tuple[str | int, np.ndarray]]:
    """Return every column of a grid with its values."""
    for column in grid.columns:
        yield column, grid[column].to_numpy(dtype=float)


def _lay(table: pd.DataFrame, column: str, ids: np.ndarray) -> pd.DataFrame:
    """Return month × mascon of a column, every calendar month from first to last present."""
    if table.empty:
        return pd.DataFrame(columns=ids, index=pd.DatetimeIndex([]).as_unit("us"))
    months = pd.date_range(table["month"].min(), table["month"].max(), freq="MS").as_unit("us")
    return pd.DataFrame(to_grid(table, column, months.to_numpy(), ids), index=months, columns=ids)


def _elevation_changes(
    fusion: pd.DataFrame, chosen: pd.DataFrame, totals: pd.DataFrame
) -> pd.DataFrame:
    """Return monthly changes of elevation (m): mascons, and the sheet by its volume."""
    icy = chosen[chosen["ice_area_km2"] > 0]
    dh = _lay(fusion, "dh_m", icy["mascon_id"].to_numpy())
    volume = own_volume(totals).set_index("month")["value"].reindex(dh.index)
    dh[SHEET] = volume / icy["ice_area_km2"].sum() * 1e3 if len(icy) else np.nan
    return dh.diff()


def _mass_changes(mass: pd.DataFrame, chosen: pd.DataFrame, totals: pd.DataFrame) -> pd.DataFrame:
    """Return monthly changes of mass (Gt): mascons, and the sheet."""
    grid = _lay(mass, "mass_gt", chosen["mascon_id"].to_numpy())
    gravity = totals[totals["source"] == "gravity"].set_index("month")["mass_gt"]
    grid[SHEET] = gravity.reindex(grid.index)
    return grid.diff()


def _predicted_changes(predicted: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Return predicted monthly changes of mass (Gt): mascons seen, and the sum of all."""
    ids = chosen["mascon_id"].to_numpy()
    whole = _lay(predicted, "predicted_change_gt", ids)
    grid = _lay(predicted[~predicted["followed"].astype(bool)], "predicted_change_gt", ids)
    grid = grid.reindex(whole.index)
    grid[SHEET] = whole.sum(axis=1, skipna=False) if len(ids) else np.nan
    return grid


def _detect_one(
    series: np.ndarray,
    months: pd.DatetimeIndex,
    settings: RapidMeltSettings,
    filters: dict[bytes, Filter],
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, dict]:
    """Return a series' months and its rates, null with a reason where it is too short."""
    mask = np.isfinite(series)
    found = pd.DataFrame({"month": months, "change": series})
    n = int(mask.sum())
    rate = {
        "start": months[mask].min() if n else None,
        "end": months[mask].max() if n else None,
        "n": n,
        "nominal_rate": settings.quantile,
        "reason": f"{n} monthly changes: {MIN_CHANGES} are needed",
    }
    if n < MIN_CHANGES:
        return found, rate
    key = mask.tobytes()
    if key not in filters:
        years = year_fraction(month_middle(months.to_numpy()))
        filters[key] = build_filter("deseasonalised", years, mask)
    try:
        seen = detect_extremes(series, filters[key], settings.quantile, settings.surrogates, rng)
    except ValueError as error:
        return found, rate | {"reason": str(error)}
    flags = int(seen.flagged.sum())
    shares = seen.false_alarms
    mean = float(shares.mean())
    half = float(norm.ppf((1 + CONFIDENCE) / 2) * shares.std(ddof=1) / np.sqrt(shares.size))
    found = found.assign(anomaly=seen.anomaly, threshold=seen.threshold, p=seen.p)
    found["flagged"] = pd.array(np.where(mask, seen.flagged, None), dtype="boolean")
    return found, rate | {
        "autocorrelation": seen.autocorrelation,
        "threshold": seen.threshold,
        "n_flagged": flags,
        "false_alarm_rate": mean,
        "false_alarm_lower": max(mean - half, 0.0),
        "false_alarm_upper": mean + half,
        "most_by_chance": round(n * float(np.quantile(shares, CONFIDENCE, method="higher"))),
        "p": float((1 + np.sum(shares * n > flags - 0.5)) / (1 + shares.size)),
        "reason": None,
    }
