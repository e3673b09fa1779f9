"""Months that lose far more than their season's usual: flags, and what chance alone would flag.

A month's anomaly is its monthly change without the series' trend and mean annual and semi-annual
cycle, fitted over the whole record (the detector looks back). Melt months vary more than others:
the spread of anomalies, too, has an annual and a semi-annual cycle, fitted to logarithms so that
extremes hardly widen it. A month is flagged where its anomaly, in spreads of its time of the year,
lies below the climatological quantile of the series' own noise: that quantile of first-order
autoregressive surrogates with the series' autocorrelation, gaps, treatment and spread, each of
which has its spread fitted again as the series has.

One half of the surrogates sets the threshold. The other half, whose spread is that of the three
calendar months around each month in place of the fitted cycle, measures the false alarms: the
share of months without any extreme that are flagged, and how many of a record's months are flagged
at most in 95 % of such records. Of 1800 worlds of 75 months without an extreme, with
autocorrelations of −0.4 to 0.5 and June to August once, twice or three times as variable as other
months, 2.0 to 2.6 % of the months are flagged where 2 % are meant, and 1.8 to 3.9 % of June to
August; stated are 2.1 to 2.2 %. A month 3, 4, 5 or 6 spreads below its usual is found with a
probability of 0.65, 0.85, 0.95 or 0.98.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import norm

from cryofuse.calendar import month_middle, year_fraction
from cryofuse.learning.coupling import draw_autoregressive
from cryofuse.learning.treatments import (
    AUTOCORRELATIONS,
    Filter,
    build_filter,
    cycle_columns,
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
#: Mean of ln |z| of a standard normal z.
LOG_MEAN = -(np.euler_gamma + np.log(2)) / 2
#: Smallest anomaly in the logarithm, as a share of the series' median spread: zero has none.
SMALLEST_SHARE = 0.02
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
        Anomaly below which a month is flagged, NaN where there is no value, shape (steps,).
    p
        Share of the surrogates' months that lie as low, shape (steps,).
    autocorrelation
        Lag-1 autocorrelation of the surrogates.
    false_alarms
        Flagged share of each surrogate that did not set the threshold.
    """

    anomaly: np.ndarray
    threshold: np.ndarray
    p: np.ndarray
    autocorrelation: float
    false_alarms: np.ndarray

    @property
    def flagged(self) -> np.ndarray:
        """Return the flagged steps, shape (steps,)."""
        return self.anomaly < self.threshold


def detect_extremes(
    series: np.ndarray,
    years: np.ndarray,
    treated: Filter,
    quantile: float,
    draws: int,
    rng: np.random.Generator,
) -> Detection:
    """Flag the steps of a series that lie below a quantile of its own noise.

    Parameters
    ----------
    series
        Monthly changes on a regular grid, shape (steps,).
    years
        Times of the grid (years), shape (steps,).
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
    if _median_spread(anomaly[mask]) <= 0:
        raise ValueError("the series does not vary beyond trend and season")
    cycle = cycle_columns(years[mask])
    spread = fit_spread(anomaly[mask], cycle)
    standard = np.zeros(mask.size)
    standard[mask] = anomaly[mask] / spread
    phi = estimate_autocorrelation(standard, treated)
    # The autocorrelation is an estimate: each surrogate takes one from its scatter.
    scatter = np.sqrt((1 - phi**2) / mask.sum())
    drawn = np.clip(
        phi + scatter * rng.standard_normal(draws), AUTOCORRELATIONS[0], AUTOCORRELATIONS[-1]
    )
    noise = draw_autoregressive(drawn, mask.size, rng)
    half = draws // 2
    noise[:half, mask] *= spread
    # What measures must be able to fail: it takes nothing from the fitted cycles.
    noise[half:, mask] *= _spread_by_quarter(anomaly[mask], years[mask])
    chance = (noise @ treated.project.T)[:, mask]
    chance /= fit_spread(chance, cycle)
    setting, measuring = chance[:half], chance[half:]
    level = float(np.quantile(setting, quantile))
    pool = np.sort(setting, axis=None)
    p, threshold = np.full(mask.size, np.nan), np.full(mask.size, np.nan)
    p[mask] = (1 + np.searchsorted(pool, standard[mask], side="right")) / (1 + pool.size)
    threshold[mask] = level * spread
    return Detection(
        np.where(mask, anomaly, np.nan), threshold, p, phi, (measuring < level).mean(axis=1)
    )


def fit_spread(values: np.ndarray, cycle: np.ndarray) -> np.ndarray:
    """Return the spread of every month: the logarithm has an annual and a semi-annual cycle.

    Least squares of ln |value|: an extreme of six spreads among 75 months widens its own by a
    sixth.

    Parameters
    ----------
    values
        Anomalies, shape (..., months).
    cycle
        Columns of the two cycles, shape (months, 4).

    Returns
    -------
    numpy.ndarray
        One standard deviation of normal noise, in the unit of the values and of their shape.
    """
    least = SMALLEST_SHARE * _median_spread(values)[..., np.newaxis]
    logs = np.log(np.maximum(np.abs(values), least))
    columns = np.column_stack([np.ones(len(cycle)), cycle])
    return np.exp(logs @ (columns @ np.linalg.pinv(columns)).T - LOG_MEAN)


def _spread_by_quarter(values: np.ndarray, years: np.ndarray) -> np.ndarray:
    """Return the median spread of the three calendar months around each month, shape (months,)."""
    number = np.floor(years * 12).astype(int) % 12
    apart = np.abs(values - np.median(values))
    quarters = [
        np.median(apart[np.isin(number, [(n - 1) % 12, n, (n + 1) % 12])]) / MAD_PER_SIGMA
        for n in number
    ]
    return np.maximum(quarters, SMALLEST_SHARE * _median_spread(values))


def _median_spread(values: np.ndarray) -> np.ndarray:
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
        Table ``applications/case_study_months``. Only the months of the one model of all years
        not studied: in a short record those of the other years are by models of fewer years, and
        swing more.
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
        ("model", _predicted_changes(predicted[predicted["all_other_years"]], chosen)),
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
            found, rate = _detect_one(series, pd.DatetimeIndex(grid.index), settings, filters, rng)
            months.append(found.assign(**named))
            rates.append(named | rate)
    table = pd.concat(months, ignore_index=True)
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
    years = year_fraction(month_middle(months.to_numpy()))
    key = months[:1].asi8.tobytes() + mask.tobytes()
    if key not in filters:
        filters[key] = build_filter("deseasonalised", years, mask)
    try:
        seen = detect_extremes(
            series, years, filters[key], settings.quantile, settings.surrogates, rng
        )
    except ValueError as error:
        return found, rate | {"reason": str(error)}
    flags = int(seen.flagged.sum())
    shares = seen.false_alarms
    mean = float(shares.mean())
    half = float(norm.ppf((1 + CONFIDENCE) / 2) * shares.std(ddof=1) / np.sqrt(shares.size))
    found = found.assign(anomaly=seen.anomaly, threshold=seen.threshold, p=seen.p)
    found["flagged"] = pd.Series(seen.flagged).astype("boolean").where(mask)
    return found, rate | {
        "autocorrelation": seen.autocorrelation,
        "threshold": float(np.median(seen.threshold[mask])),
        "n_flagged": flags,
        "false_alarm_rate": mean,
        "false_alarm_lower": max(mean - half, 0.0),
        "false_alarm_upper": mean + half,
        "most_by_chance": round(n * float(np.quantile(shares, CONFIDENCE, method="higher"))),
        "p": float((1 + np.sum(shares * n > flags - 0.5)) / (1 + shares.size)),
        "reason": None,
    }
