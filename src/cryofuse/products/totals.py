"""Totals of a region from gravity and from altimetry, their trends, sea level, comparisons.

Baseline: gravity keeps its product's own (the 2004–2009 mean), so that a total is the plain sum
of its mascons. Altimetric totals are shifted to it by the mean difference over the months that
both have. Comparisons and figures remove each series' mean over the common months.

What σ holds, always 1σ of one month:

- gravity: the product's own mascon σ, errors correlated over a stated length (0 km:
  independent, which gives the σ of JPL's own Greenland series). Not in it: glacial isostatic
  adjustment and leakage across the rim of the selection, which are the same every month or drift;
- altimetry: the mascons' σ of elevation change × ice area × density, mascons independent, since
  their σ already holds the correlation of elevation errors inside them. Not in it: the density
  (that is what the totals at several densities and the interval of the fitted one are for), and
  the shift to gravity's baseline, one number for all months that no change and no trend feels;
- a monthly change: both months' σ in quadrature. That is right where their errors are
  independent, as gravity's are; months of altimetry share node fits, so theirs is an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import t

from cryofuse.calendar import TIME_DTYPE, month_index, month_middle, year_fraction
from cryofuse.geo import distance_matrix_km
from cryofuse.learning.density import CONFIDENCE, Density
from cryofuse.products.sheet import fit_volume_density, mean_at_instants
from cryofuse.units import FIRN_MIX_DENSITY_KG_M3, mass_to_sea_level

if TYPE_CHECKING:
    from cryofuse.config import ApplicationSettings
    from cryofuse.products.reference import Reference

#: Shortest record with a trend: two annual cycles, and no fewer than this many values.
MIN_TREND_MONTHS, MIN_TREND_VALUES = 24, 12
#: First months of a common record over which two series are aligned before their bias is
#: measured: a whole annual cycle.
ALIGN_MONTHS = 12
#: Largest lag-1 autocorrelation that residuals of a trend are taken to have.
MAX_AUTOCORRELATION = 0.95
_DENSITY = ("density_kg_m3", "density_lower_kg_m3", "density_upper_kg_m3")
#: Correlation length (km) of a product's mascon errors. JPL's 3° mascons are taken as independent,
#: which gives the σ of its own series. Of 1° mascons 22 count as one, as in the regional
#: uncertainty of GSFC (Loomis et al. 2019): 2π·L² is their area. Basins share mascons, so their
#: errors are taken as fully correlated: an upper bound.
MASS_CORRELATION_KM = {"jpl": 0.0, "csr": 207.0, "gsfc": 207.0, "basin": np.inf}
_TOTALS = [
    "source",
    *_DENSITY,
    "month",
    "mass_gt",
    "mass_sigma_gt",
    "mass_change_gt",
    "mass_change_sigma_gt",
    "sea_level_mm",
    "sea_level_sigma_mm",
    "sea_level_change_mm",
    "sea_level_change_sigma_mm",
    "volume_km3",
    "volume_sigma_km3",
    "n_mascons",
]
_COMPARED = (
    "bias_gt",
    "rmse_gt",
    "r",
    "trend_gt_yr",
    "reference_trend_gt_yr",
    "trend_difference_gt_yr",
    "trend_difference_lower_gt_yr",
    "trend_difference_upper_gt_yr",
)


@dataclass(frozen=True)
class Trend:
    """A linear trend (per year) with its σ and 95 % interval, or nulls and the reason."""

    value: float
    sigma: float
    lower: float
    upper: float
    n: int
    reason: str | None = None


def follow_unseen(fusion: pd.DataFrame) -> pd.DataFrame:
    """Let mascons follow their own fitted line and cycle through months without a track.

    A small mascon is crossed a few times a year; a sum over all of them would otherwise exist in
    few months. This is the regression estimator with no residual seen: the mascon's mean fitted
    change, at the level of the months that were seen, with their scatter about it in σ.

    Parameters
    ----------
    fusion
        Table ``fusion/mascon_months`` (retrospective).

    Returns
    -------
    pandas.DataFrame
        The same rows; ``dh_m`` and ``dh_sigma_m`` (m) filled where the mascon has a fit and at
        least 12 months seen; ``followed`` says where.
    """
    years = year_fraction(month_middle(fusion["month"].to_numpy()))
    model = fusion["rate_m_yr"] * years + fusion["amplitude_m"] * np.cos(
        2 * np.pi * years - fusion["phase_rad"]
    )
    residual = (fusion["dh_m"] - model).groupby(fusion["mascon_id"])
    variance = (fusion["dh_sigma_m"] ** 2).groupby(fusion["mascon_id"])
    enough = residual.transform("count") >= MIN_TREND_VALUES
    followed = fusion["dh_m"].isna() & model.notna() & enough
    level = residual.transform("mean")
    sigma = np.sqrt(residual.transform("var") + variance.transform("mean"))
    return fusion.assign(
        dh_m=fusion["dh_m"].where(~followed, model + level),
        dh_sigma_m=fusion["dh_sigma_m"].where(~followed, sigma),
        followed=followed,
    )


def sum_totals(
    fusion: pd.DataFrame,
    mass: pd.DataFrame,
    mascons: pd.DataFrame,
    settings: ApplicationSettings,
    sample: str = "jpl",
) -> pd.DataFrame:
    """Sum the selected mascons' mass by month, from gravity and from altimetry.

    Parameters
    ----------
    fusion
        Table ``fusion/mascon_months`` (retrospective).
    mass
        Table ``gravimetry/mass`` (the file's whole record).
    mascons
        Table ``gravimetry/mascons``.
    settings
        Densities, and the correlation length of mascon errors.
    sample
        Whose errors they are: the gravimetry product's, or ``basin``. Its correlation length
        stands where the settings give none.

    Returns
    -------
    pandas.DataFrame
        Table ``applications/totals``: sources ``gravity``, ``altimetry_<density>`` and
        ``altimetry_fitted``; every calendar month from first to last, null in gaps. Gravity is
        null where any selected mascon is; altimetry where one with ice has no fit (see
        :func:`follow_unseen`), or where the mascons seen hold too small a share of the ice.
        ``n_mascons`` counts those that were seen.
    """
    selected = mascons[mascons["selected"]].sort_values("mascon_id")
    ids = selected["mascon_id"].to_numpy()
    correlation = correlate_errors(selected, settings, sample)
    gravity = _sum_months(mass, ids, "mass_gt", "mass_sigma_gt", correlation)
    icy = selected[selected["ice_area_km2"] > 0]
    area = icy.set_index("mascon_id")["ice_area_km2"]
    volume_table = follow_unseen(fusion[fusion["mascon_id"].isin(area.index)])
    km2 = volume_table["mascon_id"].map(area)
    volume_table["volume_km3"] = volume_table["dh_m"] * km2 * 1e-3
    volume_table["volume_sigma_km3"] = volume_table["dh_sigma_m"] * km2 * 1e-3
    volume = _sum_months(
        volume_table, area.index.to_numpy(), "volume_km3", "volume_sigma_km3", np.eye(len(area))
    )
    seen_now = ~volume_table["followed"] & volume_table["dh_m"].notna()
    seen = seen_now.groupby(volume_table["month"])
    volume["n"] = volume["month"].map(seen.sum()).fillna(0)
    share = (km2 * seen_now).groupby(volume_table["month"]).sum() / area.sum()
    little = volume["month"].map(share).fillna(0) < settings.min_seen_share
    volume.loc[little | (volume["n"] == 0), ["value", "sigma"]] = np.nan
    parts = [_finish(gravity, "gravity")]
    fitted = _density_of_totals(volume, gravity)
    for name, density, lower, upper in [
        *((f"altimetry_{d:g}", float(d), np.nan, np.nan) for d in settings.densities_kg_m3),
        ("altimetry_fitted", fitted.value, fitted.lower, fitted.upper),
    ]:
        total = volume.copy()
        # A fitted density may be negative, where noise outweighs the signal; σ never is.
        total[["value", "sigma"]] *= [density * 1e-3, abs(density) * 1e-3]
        part = _finish(_shift_to(total, gravity), name)
        part["density_kg_m3"] = density
        part["density_lower_kg_m3"], part["density_upper_kg_m3"] = lower, upper
        part[["volume_km3", "volume_sigma_km3"]] = volume[["value", "sigma"]]
        parts.append(part)
    columns = [name for name in _TOTALS if name not in ("source", "month", "n_mascons")]
    parts = [part.reindex(columns=_TOTALS).astype(dict.fromkeys(columns, float)) for part in parts]
    return pd.concat(parts, ignore_index=True)


def correlate_errors(
    mascons: pd.DataFrame, settings: ApplicationSettings, sample: str
) -> np.ndarray:
    """Return exp(−distance/length) between mascon centres, the identity for length 0.

    Parameters
    ----------
    mascons
        Rows of ``gravimetry/mascons``.
    settings, sample
        The correlation length of mascon errors: the settings', else the sample's own.
    """
    length_km = settings.mass_correlation_km
    if length_km is None:
        length_km = MASS_CORRELATION_KM.get(sample, 0.0)
    if length_km <= 0:
        return np.eye(len(mascons))
    apart = distance_matrix_km(mascons["longitude"], mascons["latitude"])
    return np.exp(-apart / length_km)


def _sum_months(
    table: pd.DataFrame, ids: np.ndarray, value: str, sigma: str, correlation: np.ndarray
) -> pd.DataFrame:
    """Return month, value, sigma, n over the mascons ``ids``; null where one is missing.

    Every calendar month from the first to the last of the table has a row.
    """
    index = month_index(table["month"].to_numpy())
    first, last = (index.min(), index.max()) if index.size else (0, -1)
    months = np.arange(first, last + 1).astype("datetime64[M]").astype(TIME_DTYPE)
    grid, errors = (to_grid(table, column, months, ids) for column in (value, sigma))
    whole = np.isfinite(grid).all(axis=1) & (len(ids) > 0)
    variance = np.einsum("mi,ij,mj->m", errors, correlation, errors)
    return pd.DataFrame(
        {
            "month": months,
            "value": np.where(whole, grid.sum(axis=1), np.nan),
            "sigma": np.where(whole, np.sqrt(variance), np.nan),
            "n": np.isfinite(grid).sum(axis=1),
        }
    )


def to_grid(table: pd.DataFrame, column: str, months: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return a column of a mascon × month table as an array, month × mascon, NaN where absent.

    Parameters
    ----------
    table
        Columns mascon_id, month (unique together) and ``column``.
    column
        Column to lay out.
    months, ids
        Sorted months and mascons of the array; rows of others are left out.
    """
    grid = np.full((len(months), len(ids)), np.nan)
    used = table[table["mascon_id"].isin(ids) & table["month"].isin(months)]
    row = np.searchsorted(months, used["month"].to_numpy())
    grid[row, np.searchsorted(ids, used["mascon_id"].to_numpy())] = used[column].to_numpy(float)
    return grid


def _density_of_totals(volume: pd.DataFrame, gravity: pd.DataFrame) -> Density:
    """Return the density at which the volume total fits the gravity total best."""
    both = volume.merge(gravity, on="month", suffixes=("", "_gravity"))
    known = both.dropna(subset=["value", "value_gravity"])
    span = int(np.ptp(month_index(known["month"].to_numpy()))) + 1 if len(known) else 0
    if len(known) < MIN_TREND_MONTHS:
        reason = f"{len(known)} common months over {span}: fewer than {MIN_TREND_MONTHS}"
        return Density(np.nan, np.nan, np.nan, np.nan, np.nan, len(known), reason)
    return fit_volume_density(
        both["value"].to_numpy(dtype=float),
        both["value_gravity"].to_numpy(dtype=float),
        both["sigma"].to_numpy(dtype=float),
        both["sigma_gravity"].to_numpy(dtype=float),
        year_fraction(month_middle(both["month"].to_numpy())),
    )


def _shift_to(total: pd.DataFrame, gravity: pd.DataFrame) -> pd.DataFrame:
    """Return a total moved to gravity's baseline by the mean difference of common months."""
    both = total.merge(gravity, on="month", suffixes=("", "_gravity"))
    offset = (both["value_gravity"] - both["value"]).mean()
    if np.isfinite(offset):
        total["value"] += offset
    return total


def _finish(total: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return rows of the totals table from consecutive months' value, sigma, n."""
    value, sigma = (total[name].to_numpy(dtype=float) for name in ("value", "sigma"))
    change = np.diff(value, prepend=np.nan)
    change_sigma = np.hypot(sigma, np.concatenate([[np.nan], sigma[:-1]]))[: sigma.size]
    return pd.DataFrame(
        {
            "source": source,
            "month": total["month"],
            "mass_gt": value,
            "mass_sigma_gt": sigma,
            "mass_change_gt": change,
            "mass_change_sigma_gt": change_sigma,
            "sea_level_mm": mass_to_sea_level(value),
            "sea_level_sigma_mm": mass_to_sea_level(-sigma),
            "sea_level_change_mm": mass_to_sea_level(change),
            "sea_level_change_sigma_mm": mass_to_sea_level(-change_sigma),
            "n_mascons": total["n"].astype("int32"),
        }
    )


def fit_trend(month: np.ndarray, value: np.ndarray, time: np.ndarray | None = None) -> Trend:
    """Fit intercept, trend, annual and semi-annual cycle; inflate σ for autocorrelation.

    σ is that of ordinary least squares times √((1 + r)/(1 − r)), with r the lag-1
    autocorrelation of the residuals (at least 0), over pairs one sampling step apart, plus
    (2 + 4r)/n for what a fitted line takes from it (Santer et al. 2000,
    doi:10.1029/1999JD901105; Tjøstheim and Paulsen 1983, doi:10.1093/biomet/70.2.377). The
    interval takes Student's t, its degrees of freedom reduced by the same factor. In simulations
    with lag-1 autocorrelations of 0 to 0.6 it covers 0.90–0.96, from 23 quarters to ten years of
    months.

    Parameters
    ----------
    month
        First days of months.
    value
        Values; nulls are left out.
    time
        Instants in place of the months' middles.

    Returns
    -------
    Trend
        Per year of 365.2425 days; null with a reason for records under two years or twelve values.
    """
    here = np.isfinite(value)
    month, value = np.asarray(month)[here], np.asarray(value, dtype=float)[here]
    n = int(value.size)
    span = int(np.ptp(month_index(month))) + 1 if n else 0
    if n < MIN_TREND_VALUES or span < MIN_TREND_MONTHS:
        reason = (
            f"{n} values over {span} months: a trend needs {MIN_TREND_VALUES} values "
            f"over {MIN_TREND_MONTHS} months"
        )
        return Trend(np.nan, np.nan, np.nan, np.nan, n, reason)
    instant = month_middle(month) if time is None else np.asarray(time)[here]
    years = year_fraction(instant)
    cycle = 2 * np.pi * years
    columns = [np.ones(n), years - years.mean()]
    for harmonic in (1, 2):
        columns += [np.cos(harmonic * cycle), np.sin(harmonic * cycle)]
    design = np.column_stack(columns)
    inverse = np.linalg.pinv(design, rcond=1e-8)
    coefficients = inverse @ value
    residual = value - design @ coefficients
    freedom = n - np.linalg.matrix_rank(design, tol=1e-8)
    variance = float(residual @ residual) / freedom * float((inverse @ inverse.T)[1, 1])
    step = np.diff(month_index(month))
    pairs = step == np.min(step)
    energy = float(residual @ residual)
    r = float(residual[:-1][pairs] @ residual[1:][pairs]) / energy * n / max(int(pairs.sum()), 1)
    r = float(np.clip(r + (2 + 4 * r) / n, 0.0, MAX_AUTOCORRELATION)) if energy > 0 else 0.0
    share = (1 - r) / (1 + r)
    slope, sigma = float(coefficients[1]), float(np.sqrt(variance / share))
    half = sigma * float(t.ppf((1 + CONFIDENCE) / 2, max(freedom * share, 1.0)))
    return Trend(slope, sigma, slope - half, slope + half, n)


def sea_level_trends(totals: pd.DataFrame) -> pd.DataFrame:
    """Return each total's trend as mass and sea level, over its record and the common months.

    Parameters
    ----------
    totals
        Table ``applications/totals``.

    Returns
    -------
    pandas.DataFrame
        Table ``applications/sea_level``: gravity over its whole record, then every source over
        the months that gravity and altimetry both have.
    """
    rows = []
    gravity = totals[totals["source"] == "gravity"]
    known = gravity.dropna(subset=["mass_gt"])
    rows.append(_trend_row("gravity", gravity, known))
    others = totals[totals["source"] != "gravity"]
    measured = others.dropna(subset=["mass_gt"])["month"]
    common = np.intersect1d(known["month"].to_numpy(), measured.to_numpy())
    first_row_start = rows[0]["start"]
    for source, part in totals.groupby("source", sort=False):
        used = part[part["month"].isin(common)].dropna(subset=["mass_gt"])
        row = _trend_row(str(source), part, used)
        if source != "gravity" or (len(common) and row["start"] != first_row_start):
            rows.append(row)
    return pd.DataFrame(rows)


def _trend_row(source: str, part: pd.DataFrame, used: pd.DataFrame) -> dict:
    """Return one row of the sea-level table."""
    trend = fit_trend(used["month"].to_numpy(), used["mass_gt"].to_numpy())
    record = used["month"] if len(used) else part["month"]
    start, end = record.min(), record.max()
    years = (int(month_index(end.to_datetime64())) - int(month_index(start.to_datetime64()))) / 12
    reason = trend.reason
    if part["mass_gt"].isna().all() and part["volume_km3"].notna().any():
        reason = f"no density could be fitted: fewer than {MIN_TREND_MONTHS} common months"
    elif not len(used):
        best = int(part["n_mascons"].max()) if len(part) else 0
        reason = (
            "no month in which every selected mascon and gravity have a value "
            f"(at most {best} mascons have one)"
        )
    rise = float(mass_to_sea_level(trend.value))
    return {
        "source": source,
        **{name: part[name].iloc[0] for name in _DENSITY},
        "start": start,
        "end": end,
        "trend_gt_yr": trend.value,
        "trend_sigma_gt_yr": trend.sigma,
        "sea_level_mm_yr": rise,
        "sea_level_sigma_mm_yr": -float(mass_to_sea_level(trend.sigma)),
        "sea_level_total_mm": rise * years,
        "n": trend.n,
        "reason": reason,
    }


def reference_mass(reference: Reference, density: float) -> tuple[str, pd.DataFrame]:
    """Return a reference series' name and its frame as mass (Gt).

    A volume becomes mass at the density of the total that it is compared with, at 850 kg/m³
    beside gravity; the name then says so.
    """
    frame = reference.frame.copy()
    if reference.quantity == "mass":
        return reference.title, frame
    used = density if np.isfinite(density) else FIRN_MIX_DENSITY_KG_M3
    frame[["value", "sigma"]] *= used * 1e-3
    return f"{reference.title} at {used:.0f} kg/m³", frame


def match_series(
    total: pd.DataFrame, reference: pd.DataFrame, stamp: str, *, centred: bool = True
) -> pd.DataFrame:
    """Return common months with ``ours`` and ``theirs`` (Gt), each without its own mean.

    Against instants at the first of a month, ours is the mean of the month before and the month
    itself, both present (:func:`cryofuse.products.sheet.mean_at_instants`).

    Parameters
    ----------
    total
        Rows of one source of the totals table.
    reference
        Columns month, time, value.
    stamp
        ``month`` or ``instant``.
    centred
        Whether the means are taken off.
    """
    ours = total[["month", "mass_gt", "mass_sigma_gt"]].set_axis(
        ["month", "value", "sigma"], axis=1
    )
    if stamp == "instant":
        ours = mean_at_instants(ours)
    both = ours.rename(columns={"value": "ours"}).merge(
        reference[["month", "time", "value"]].rename(columns={"value": "theirs"}), on="month"
    )
    both = both[["month", "time", "ours", "theirs"]].dropna(subset=["ours", "theirs"])
    if centred:
        both[["ours", "theirs"]] -= both[["ours", "theirs"]].mean()
    return both.sort_values("month", ignore_index=True)


def compare_series(totals: pd.DataFrame, references: Sequence[Reference]) -> pd.DataFrame:
    """Compare every total with every published series over their common months.

    Returns
    -------
    pandas.DataFrame
        Table ``applications/comparison``. ``rmse_gt``, ``r`` and the trends are of series without
        their means over the common months; ``bias_gt`` (ours minus theirs) is the mean difference
        when both are set to zero over the first twelve months of the common record instead: what
        has built up since. ``trend_difference_gt_yr`` is the trend of ours minus theirs, month
        by month, so that what both share is not in its interval. No rows without a reference.
    """
    rows = []
    for reference in references:
        for source, part in totals.groupby("source", sort=False):
            name, frame = reference_mass(reference, float(part["density_kg_m3"].iloc[0]))
            both = match_series(part, frame, reference.stamp)
            row = {"series": name, "source": source} | _compare(both, reference.stamp)
            if part["mass_gt"].isna().all():
                row["reason"] = "the total has no value"
            rows.append(row)
    names = ["series", "source", "start", "end", "n", *_COMPARED, "reason"]
    table = pd.DataFrame(rows, columns=names)
    return table.astype({"start": "datetime64[us]", "end": "datetime64[us]"})


def _compare(both: pd.DataFrame, stamp: str) -> dict:
    n = len(both)
    month = both["month"].to_numpy()
    ours, theirs = both["ours"].to_numpy(dtype=float), both["theirs"].to_numpy(dtype=float)
    time = both["time"].to_numpy() if stamp == "instant" else None
    trend, other, apart = (fit_trend(month, s, time) for s in (ours, theirs, ours - theirs))
    row = {"start": both["month"].min(), "end": both["month"].max(), "n": n}
    if trend.reason:
        reason = trend.reason.replace("values", "common values", 1) if n else "no common month"
        return row | dict.fromkeys(_COMPARED, np.nan) | {"reason": reason}
    difference = ours - theirs
    first = month_index(month) < month_index(month[0]) + ALIGN_MONTHS
    spread = ours.std() * theirs.std()
    values = (
        float(difference.mean() - difference[first].mean()),
        float(np.sqrt(np.mean(difference**2))),
        float(np.clip(np.mean(ours * theirs) / spread, -1, 1)) if spread > 0 else np.nan,
        trend.value,
        other.value,
        apart.value,
        apart.lower,
        apart.upper,
    )
    return row | dict(zip(_COMPARED, values, strict=True)) | {"reason": None}
