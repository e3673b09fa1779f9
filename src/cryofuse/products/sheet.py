"""Coupling of a whole ice sheet: a volume series against a mass series.

Volumes are the altimetry of the run and published volumes that the region names; masses are the
gravity of the run and published masses. So one published pair couples without a granule.

Time: a volume that holds at an instant, the first of a month, is paired with the mean of the
monthly masses before and after it, both present (:func:`mean_at_instants`); a monthly volume
with the mass of its month. Values a step apart (a quarter, a month) stand on a regular grid.

Correlation, effective n and p come from :func:`cryofuse.learning.coupling.couple_series` at lag
0: p is the share of unrelated surrogates, with the autocorrelation and the cycles of both series,
that correlate as much. The density is that of
:func:`cryofuse.learning.density.fit_density`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import norm

from cryofuse.calendar import TIME_DTYPE, add_months, month_index, month_middle, year_fraction
from cryofuse.learning.coupling import couple_series
from cryofuse.learning.density import CONFIDENCE, MIN_PAIRS, Density, fit_density
from cryofuse.learning.treatments import TREATMENTS, Filter, build_filter
from cryofuse.products.reference import sigma_since

if TYPE_CHECKING:
    from cryofuse.config import CouplingSettings
    from cryofuse.products.reference import Reference

#: Shortest record that is coupled: two annual cycles.
MIN_MONTHS = 24
#: Density (kg/m³) of one Gt per km³.
KG_M3_PER_GT_KM3 = 1e3
#: Names of the run's own series, as sources of the totals table.
OWN_VOLUME, OWN_MASS = "altimetry", "gravity"
_VALUES = [
    "r",
    "r_lower",
    "r_upper",
    "n_effective",
    "p",
    "density_kg_m3",
    "density_lower_kg_m3",
    "density_upper_kg_m3",
    "density_ols_kg_m3",
    "scatter_gt",
]
_COLUMNS = [
    *("volume", "mass", "treatment", "step_months", "start", "end", "n"),
    *_VALUES,
    "reason",
]


def mean_at_instants(series: pd.DataFrame) -> pd.DataFrame:
    """Return a monthly series at the firsts of months: the mean of the months either side.

    Parameters
    ----------
    series
        Columns month, value and sigma, one row per month.

    Returns
    -------
    pandas.DataFrame
        The same columns; ``month`` is the instant. Null where one of the two months is; σ of
        the mean takes the months' errors for independent.
    """
    after = series[["month", "value", "sigma"]]
    before = after.assign(month=add_months(after["month"].to_numpy(), 1))
    both = after.merge(before, on="month", suffixes=("", "_before"))
    return pd.DataFrame(
        {
            "month": both["month"],
            "value": (both["value"] + both["value_before"]) / 2,
            "sigma": np.hypot(both["sigma"], both["sigma_before"]) / 2,
        }
    )


def fit_volume_density(
    volume_km3: np.ndarray,
    mass_gt: np.ndarray,
    volume_sigma_km3: np.ndarray,
    mass_sigma_gt: np.ndarray,
    years: np.ndarray,
    treatment: str = "raw",
    filters: dict[tuple[str, bytes], Filter] | None = None,
) -> Density:
    """Return the density (kg/m³) of a volume by its mass (:func:`fit_density`); scatter in Gt."""
    found = fit_density(
        volume_km3, mass_gt, volume_sigma_km3, mass_sigma_gt, years, treatment, filters
    )
    slopes = ("value", "lower", "upper", "least_squares")
    return replace(found, **{name: getattr(found, name) * KG_M3_PER_GT_KM3 for name in slopes})


def couple_sheet(
    totals: pd.DataFrame, references: Sequence[Reference], settings: CouplingSettings
) -> pd.DataFrame:
    """Couple every volume with every mass under every treatment.

    Parameters
    ----------
    totals
        Table ``applications/totals``.
    references
        Published series, as read.
    settings
        Number of surrogates and seed.

    Returns
    -------
    pandas.DataFrame
        Table ``applications/sheet_coupling``. The pair of the run's own series is always there;
        nulls have a reason.
    """
    blocks = [
        _couple(pairs, settings).assign(volume=volume, mass=mass)
        for volume, mass, pairs in list_pairs(totals, references)
    ]
    times = {"start": TIME_DTYPE, "end": TIME_DTYPE, "step_months": "Int8"}
    return pd.concat(blocks, ignore_index=True)[_COLUMNS].astype(times)


def list_pairs(
    totals: pd.DataFrame, references: Sequence[Reference]
) -> list[tuple[str, str, pd.DataFrame]]:
    """Return every volume with every mass: both names and the pairs (:func:`pair_series`)."""
    volumes = [(OWN_VOLUME, "month", own_volume(totals))]
    for reference in references:
        if reference.quantity == "volume":
            volumes.append((reference.title, reference.stamp, reference.frame))
    found = []
    for name, stamp, volume in volumes:
        start = volume["month"].min()
        found.append((name, OWN_MASS, pair_series(volume, own_mass(totals), stamp)))
        for reference in references:
            if reference.quantity == "mass":
                mass = sigma_since(reference, start)
                found.append((name, reference.title, pair_series(volume, mass, stamp)))
    return found


def treat_pairs(pairs: pd.DataFrame, treatment: str) -> pd.DataFrame:
    """Return pairs with a treatment's trend and cycle removed from volume and mass."""
    here = pairs[["volume_km3", "mass_gt"]].notna().all(axis=1).to_numpy()
    years = year_fraction(month_middle(pairs["month"].to_numpy()))
    project = build_filter(treatment, years, here).project
    treated = {
        name: np.where(here, project @ np.where(here, pairs[name], 0.0), np.nan)
        for name in ("volume_km3", "mass_gt")
    }
    return pairs.assign(**treated)


def own_volume(totals: pd.DataFrame) -> pd.DataFrame:
    """Return the run's altimetric volume as month, value and sigma (km³)."""
    rows = totals[totals["source"] != OWN_MASS]
    rows = rows[rows["source"] == rows["source"].iloc[0]] if len(rows) else rows
    return rows[["month", "volume_km3", "volume_sigma_km3"]].set_axis(
        ["month", "value", "sigma"], axis=1
    )


def own_mass(totals: pd.DataFrame) -> pd.DataFrame:
    """Return the run's gravimetric total as month, value and sigma (Gt)."""
    rows = totals[totals["source"] == OWN_MASS]
    return rows[["month", "mass_gt", "mass_sigma_gt"]].set_axis(["month", "value", "sigma"], axis=1)


def pair_series(volume: pd.DataFrame, mass: pd.DataFrame, stamp: str) -> pd.DataFrame:
    """Return a volume and a mass on one regular grid, NaN where either is missing.

    Parameters
    ----------
    volume, mass
        Columns month, value and sigma.
    stamp
        ``month``, or ``instant`` where volumes hold at the firsts of months.

    Returns
    -------
    pandas.DataFrame
        Columns month, volume_km3, volume_sigma_km3, mass_gt, mass_sigma_gt, from the first to
        the last pair in steps of the shortest distance of two; empty without a pair.
    """
    side = mean_at_instants(mass) if stamp == "instant" else mass[["month", "value", "sigma"]]
    both = volume[["month", "value", "sigma"]].merge(side, on="month", suffixes=("", "_mass"))
    both = both.set_axis(
        ["month", "volume_km3", "volume_sigma_km3", "mass_gt", "mass_sigma_gt"], axis=1
    )
    both = both.dropna(subset=["volume_km3", "mass_gt"]).sort_values("month", ignore_index=True)
    if len(both) < 2:
        return both
    index = month_index(both["month"].to_numpy())
    step = int(np.gcd.reduce(np.diff(index)))
    grid = np.arange(index[0], index[-1] + 1, step).astype("datetime64[M]")
    whole = pd.DataFrame({"month": grid.astype("datetime64[us]")})
    return whole.merge(both, on="month", how="left")


def _couple(pairs: pd.DataFrame, settings: CouplingSettings) -> pd.DataFrame:
    """Return the rows of one pair of series, one per treatment."""
    known = pairs.dropna(subset=["volume_km3", "mass_gt"])
    months = pairs["month"].to_numpy()
    index = month_index(months)
    step = int(index[1] - index[0]) if len(index) > 1 else None
    span = int(np.ptp(index)) + (step or 1) if len(index) else 0
    same = {
        "step_months": step,
        "start": known["month"].min(),
        "end": known["month"].max(),
        "n": len(known),
    }
    if len(known) < MIN_PAIRS or span < MIN_MONTHS:
        short = f"{len(known)} pairs over {span} months: "
        short += f"a coupling needs {MIN_PAIRS} over {MIN_MONTHS}"
        nulls = dict.fromkeys(_VALUES, np.nan) | {"reason": short}
        return pd.DataFrame([{"treatment": name} | same | nulls for name in TREATMENTS])
    columns = ["volume_km3", "mass_gt", "volume_sigma_km3", "mass_sigma_gt"]
    volume, mass, volume_sigma, mass_sigma = (pairs[c].to_numpy(dtype=float) for c in columns)
    asked = settings.model_copy(
        update={"lags_months": 0, "min_n": MIN_PAIRS, "bootstrap_draws": 1, "block_months": 1}
    )
    filters: dict[tuple[str, bytes], Filter] = {}
    found = couple_series(volume, mass, months, asked, filters=filters)
    years = year_fraction(month_middle(months))
    rows = []
    for one in found.to_dict("records"):
        r, n_effective, p = (float(one[name]) for name in ("r", "n_effective", "p"))
        density = fit_volume_density(
            volume, mass, volume_sigma, mass_sigma, years, one["treatment"], filters
        )
        values = (
            *(r, *_fisher_interval(r, n_effective), n_effective, p),
            *(density.value, density.lower, density.upper, density.least_squares),
            density.scatter,
        )
        reason = one["reason"] if not np.isfinite(r) else None
        if density.reason and not reason:
            reason = f"no density: {density.reason}"
        row = dict(zip(_VALUES, values, strict=True))
        rows.append({"treatment": one["treatment"]} | same | row | {"reason": reason})
    return pd.DataFrame(rows)


def _fisher_interval(r: float, n: float) -> tuple[float, float]:
    """Return the 95 % interval of a correlation of ``n`` independent pairs (Fisher 1921)."""
    if not (np.isfinite(r) and n > 3 and abs(r) < 1):
        return np.nan, np.nan
    half = float(norm.ppf((1 + CONFIDENCE) / 2)) / np.sqrt(n - 3)
    return float(np.tanh(np.arctanh(r) - half)), float(np.tanh(np.arctanh(r) + half))
