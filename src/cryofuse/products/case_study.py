"""Melt seasons: elevation, gravity, and a model that never saw gravity of these years.

The study looks back, so it uses the retrospective elevation series; what it must not see is
gravity of the studied years. A model of the monthly mass change (cm water equivalent) is trained
on every mascon in the other years, months within the longest lag of a studied year left out. Its
intervals are conformal: absolute errors of left-out training years, summed over as many
consecutive months as the season has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cryofuse.calendar import TIME_DTYPE, add_months, month_index
from cryofuse.products.totals import follow_unseen, to_grid
from cryofuse.units import lwe_to_mass

if TYPE_CHECKING:
    from cryofuse.config import CaseStudySettings, SkillSettings

#: Spans (months) of elevation change given to the model; the longest is the embargo.
SPANS = (1, 2, 3)
#: Months after the season in which the minimum may still come.
AFTER_SEASON = 4
#: Models tried; the one with the smallest error on left-out training years is used.
CANDIDATES = ("ridge", "hist_gradient_boosting")
#: Fewest windows of the season itself that calibrate an interval; else all windows do.
MIN_CALIBRATION = 20
#: Metres of ice equivalent to centimetres of water at 1000 kg/m³.
_CM_PER_M = 100.0
_SHEET = "sheet"
COLUMNS = [
    "scope",
    "mascon_id",
    "year",
    "dh_season_m",
    "observed_gt",
    "observed_sigma_gt",
    "predicted_gt",
    "predicted_lower_gt",
    "predicted_upper_gt",
    "observed_minimum",
    "predicted_minimum",
    "n_months",
    "reason",
]


@dataclass(frozen=True)
class Season:
    """Months of a season: the one before it, its own, and those in which the minimum may come."""

    before: np.datetime64
    months: np.ndarray
    window: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """Monthly predictions and the errors that calibrate their sums.

    Attributes
    ----------
    change_cm
        Predicted monthly change, month × mascon.
    error_cm
        Errors on left-out training years, month × mascon (empty where not predicted).
    seen
        Where the mascon's own elevation change is behind the prediction, month × mascon.
    reason
        Why there is no prediction.
    """

    change_cm: pd.DataFrame
    error_cm: pd.DataFrame
    seen: pd.DataFrame
    reason: str | None = None


def season_of(year: int, months: Sequence[int]) -> Season:
    """Return the months of a season that starts in a year (December to February runs over).

    Parameters
    ----------
    year
        Year of the first month.
    months
        Calendar months in order, such as (6, 7, 8) or (12, 1, 2).
    """
    own, in_year = [], year
    for place, month in enumerate(months):
        if place and month < months[place - 1]:
            in_year += 1
        own.append(np.datetime64(f"{in_year}-{month:02d}-01", "us"))
    season = np.array(own, dtype=TIME_DTYPE)
    length = int(month_index(season[-1]) - month_index(season[0])) + AFTER_SEASON + 1
    window = add_months(np.repeat(season[:1], length), np.arange(length))
    before = add_months(season[:1], -1)[0]
    return Season(before, season, window)


def study_melt_seasons(
    fusion: pd.DataFrame,
    mascons: pd.DataFrame,
    settings: CaseStudySettings,
    skill: SkillSettings,
) -> pd.DataFrame:
    """Return observed and predicted melt seasons of every selected mascon and of their sum.

    Parameters
    ----------
    fusion
        Table ``fusion/mascon_months`` (retrospective).
    mascons
        Table ``gravimetry/mascons``.
    settings
        Years, never trained on, and months of the season.
    skill
        Trees, seed, coverage of the intervals, fewest training months.

    Returns
    -------
    pandas.DataFrame
        Table ``applications/case_study``. A season's mass change runs from the month before it to
        its last month; ``dh_season_m`` is the change of elevation over the same span minus its
        mean over the years not studied. The sheet is the sum (dh: ice-area mean) of the selected
        mascons, where a mascon without a track in a month follows its own fit
        (:func:`cryofuse.products.totals.follow_unseen`); a mascon's own row is null then. Nulls
        carry a reason.
    """
    chosen = mascons[mascons["selected"]].sort_values("mascon_id")
    ids = chosen["mascon_id"].to_numpy()
    table = fusion[fusion["mascon_id"].isin(ids)]
    if table.empty:
        return pd.DataFrame(columns=COLUMNS)
    grids = {
        name: _grid(table, name, ids) for name in ("dh_m", "mass_gt", "mass_sigma_gt", "lwe_cm")
    }
    # The sheet needs every mascon: those not seen follow their fits, and train nothing.
    followed = grids | {"dh_m": _grid(follow_unseen(table), "dh_m", ids)}
    land = chosen.set_index("mascon_id")["land_area_km2"].reindex(ids)
    ice = chosen.set_index("mascon_id")["ice_area_km2"].reindex(ids)
    samples = build_samples(followed, chosen)
    samples["seen"] = build_samples(grids, chosen).notna().drop(columns="change_cm").all(axis=1)
    rows: list[dict] = []
    prediction = train_and_predict(samples, settings, skill)
    for year in settings.years:
        season = season_of(year, settings.months)
        rows += _rows_of_year(
            year, season, settings, grids, followed["dh_m"], prediction, land, ice, skill.coverage
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def _grid(table: pd.DataFrame, column: str, ids: np.ndarray) -> pd.DataFrame:
    """Return month × mascon of a column, every calendar month present."""
    first, last = table["month"].min(), table["month"].max()
    months = pd.date_range(first, last, freq="MS").as_unit("us")
    return pd.DataFrame(to_grid(table, column, months.to_numpy(), ids), index=months, columns=ids)


def build_samples(grids: dict[str, pd.DataFrame], mascons: pd.DataFrame) -> pd.DataFrame:
    """Return one row per mascon and month: features of elevation, and the monthly mass change.

    Features are elevation change over 1, 2 and 3 months spread over the land area (cm of ice),
    the same times the cosine and sine of the calendar month (so that the density may follow the
    season), the calendar month, and where the mascon is. ``change_cm`` is null next to gaps.
    """
    dh = grids["dh_m"]
    fraction = mascons.set_index("mascon_id")["ice_fraction"].reindex(dh.columns)
    months = dh.index.to_numpy()
    angle = 2 * np.pi * (month_index(months) % 12) / 12
    columns: dict[str, pd.DataFrame] = {"change_cm": grids["lwe_cm"].diff()}
    for span in SPANS:
        # Spread over land as gravity is: a mascon with little ice moves little water.
        columns[f"dh_{span}"] = dh.diff(span) * fraction * _CM_PER_M
    for span in (SPANS[0], SPANS[-1]):
        for name, wave in (("cos", np.cos(angle)), ("sin", np.sin(angle))):
            columns[f"dh_{span}_{name}"] = columns[f"dh_{span}"].mul(wave, axis=0)
    for name, wave in (("cos", np.cos(angle)), ("sin", np.sin(angle))):
        columns[name] = pd.DataFrame(
            np.repeat(wave[:, None], dh.shape[1], axis=1), index=dh.index, columns=dh.columns
        )
    n_months, n_mascons = dh.shape
    long = pd.DataFrame(
        {
            "month": np.repeat(months, n_mascons),
            "mascon_id": np.tile(dh.columns.to_numpy(), n_months),
        }
        | {name: grid.to_numpy().ravel() for name, grid in columns.items()}
    )
    where = mascons.set_index("mascon_id")[["latitude", "ice_fraction"]]
    return long.join(where, on="mascon_id")


def train_and_predict(
    samples: pd.DataFrame, settings: CaseStudySettings, skill: SkillSettings
) -> Prediction:
    """Train on the years not studied and predict the monthly change of every month.

    Months from the longest lag before a studied year to the longest lag after it, or after the
    window of a season that runs over the turn of the year, are left out of training: a monthly
    change there uses gravity of the studied year, or elevation change that began in it.

    Parameters
    ----------
    samples
        Of :func:`build_samples`, with ``seen``: only those samples train.
    settings
        Studied years and months.
    skill
        Trees, seed and fewest training months.
    """
    from cryofuse.learning.models import build, list_candidates, single_threaded

    features = [c for c in samples.columns if c not in ("month", "mascon_id", "change_cm", "seen")]
    months = samples["month"].to_numpy()
    years = samples["month"].dt.year.to_numpy()
    complete = samples[features].notna().all(axis=1).to_numpy()
    unseen = is_unseen(months, settings)
    train = ~unseen & samples["seen"].to_numpy() & samples["change_cm"].notna().to_numpy()
    n_months = len(np.unique(months[train]))
    if n_months < skill.min_train_months:
        return Prediction(
            pd.DataFrame(),
            pd.DataFrame(),
            pd.DataFrame(),
            f"{n_months} months with elevation and gravity outside the studied years: "
            f"{skill.min_train_months} are needed to train",
        )
    x, y = samples[features].to_numpy(dtype=float), samples["change_cm"].to_numpy(dtype=float)
    # Models are built without names, by which they would weigh by ice: elevation change here is.
    with single_threaded():
        errors = {}
        for name in CANDIDATES:
            parameters = list_candidates(skill.search.space(name), 1)[0]
            held = np.full(len(samples), np.nan)
            for left in np.unique(years[train]):
                inner = train & (years != left)
                test = train & (years == left)
                if inner.sum() < len(features) + 1:
                    continue
                model = build(name, parameters, skill.trees, skill.seed)
                model.fit(x[inner], y[inner])
                held[test] = model.predict(x[test]) - y[test]
            errors[name] = held
        best = min(CANDIDATES, key=lambda name: _rms(errors[name]))
        parameters = list_candidates(skill.search.space(best), 1)[0]
        model = build(best, parameters, skill.trees, skill.seed)
        model.fit(x[train], y[train])
        predicted = np.full(len(samples), np.nan)
        predicted[complete] = model.predict(x[complete])
    everything = np.unique(months)
    ids = np.unique(samples["mascon_id"])
    frame = samples[["month", "mascon_id"]].assign(
        predicted=predicted, error=errors[best], seen=samples["seen"].astype(float)
    )
    laid = {
        name: pd.DataFrame(
            to_grid(frame, name, everything, ids), index=pd.DatetimeIndex(everything), columns=ids
        )
        for name in ("predicted", "error", "seen")
    }
    return Prediction(laid["predicted"], laid["error"], laid["seen"] == 1)


def is_unseen(months: np.ndarray, settings: CaseStudySettings) -> np.ndarray:
    """Return whether each month lies within the longest lag of a studied year or its season."""
    number = month_index(months)
    unseen = np.zeros(len(months), dtype=bool)
    for year in settings.years:
        first = int(month_index(np.datetime64(f"{year}-01-01", "us")))
        season = season_of(year, settings.months)
        last = max(first + 11, int(month_index(season.window[-1])))
        unseen |= (number >= first - max(SPANS)) & (number <= last + max(SPANS))
    return unseen


def _rms(errors: np.ndarray) -> float:
    known = errors[np.isfinite(errors)]
    return float(np.sqrt(np.mean(known**2))) if known.size else np.inf


def _rows_of_year(
    year: int,
    season: Season,
    settings: CaseStudySettings,
    grids: dict[str, pd.DataFrame],
    followed: pd.DataFrame,
    prediction: Prediction,
    land: pd.Series,
    ice: pd.Series,
    coverage: float,
) -> list[dict]:
    """Return the rows of a year: every mascon, then the sheet."""
    dh = _season_anomaly(grids["dh_m"], settings, year)
    mass, sigma = grids["mass_gt"], grids["mass_sigma_gt"]
    predicted = _to_gt(
        prediction.change_cm.reindex(index=season.window, columns=mass.columns), land
    )
    error = _to_gt(prediction.error_cm.reindex(columns=mass.columns), land)
    seen = prediction.seen.reindex(index=season.window, columns=mass.columns) == 1
    rows = []
    # Errors scale with land area, so mascons share one radius in cm.
    radius_cm = conformal_sum(prediction.error_cm, settings.months, coverage)
    for mascon in mass.columns:
        row = _row(
            year,
            season,
            dh[mascon],
            mass[mascon],
            sigma[mascon],
            predicted[mascon].where(seen[mascon]),
            prediction,
        )
        half = float(lwe_to_mass(radius_cm, float(land[mascon])))
        rows.append(
            {"scope": f"mascon:{mascon}", "mascon_id": int(mascon)} | _with_interval(row, half)
        )
    icy = ice[ice > 0]
    sheet_dh = _season_anomaly(followed, settings, year)
    weighted = (
        (sheet_dh.reindex(icy.index) * icy).sum(skipna=False) / icy.sum() if len(icy) else np.nan
    )
    total = mass.sum(axis=1, skipna=False)
    total_sigma = np.sqrt((sigma**2).sum(axis=1, skipna=False))
    total_error = error.sum(axis=1, skipna=False).to_frame() if len(error) else error
    row = _row(
        year,
        season,
        float(weighted),
        total,
        total_sigma,
        predicted.sum(axis=1, skipna=False),
        prediction,
    )
    half = conformal_sum(total_error, settings.months, coverage)
    rows.append({"scope": _SHEET, "mascon_id": None} | _with_interval(row, half))
    return rows


def _to_gt(change_cm: pd.DataFrame, land: pd.Series) -> pd.DataFrame:
    """Return changes per mascon (columns) in Gt."""
    gt = lwe_to_mass(change_cm.to_numpy(), land.reindex(change_cm.columns).to_numpy())
    return pd.DataFrame(gt, index=change_cm.index, columns=change_cm.columns)


def _season_anomaly(dh: pd.DataFrame, settings: CaseStudySettings, year: int) -> pd.Series:
    """Return the change of elevation over a season minus its mean over years not studied (m)."""

    def change(of: int) -> pd.Series:
        season = season_of(of, settings.months)
        ends = dh.reindex([pd.Timestamp(season.before), pd.Timestamp(season.months[-1])])
        return ends.iloc[1] - ends.iloc[0]

    others = [y for y in sorted(set(pd.DatetimeIndex(dh.index).year)) if y not in settings.years]
    if not others:
        return pd.Series(np.nan, index=dh.columns)
    return change(year) - pd.concat([change(y) for y in others], axis=1).mean(axis=1)


def _row(
    year: int,
    season: Season,
    dh: float,
    mass: pd.Series,
    sigma: pd.Series,
    predicted: pd.Series,
    prediction: Prediction,
) -> dict:
    """Return a row without its interval; reasons in order of what is missing."""
    before, last = pd.Timestamp(season.before), pd.Timestamp(season.months[-1])
    observed = mass.get(last, np.nan) - mass.get(before, np.nan)
    error = np.hypot(sigma.get(last, np.nan), sigma.get(before, np.nan))
    span = predicted[predicted.index <= last]
    amount = float(span.sum(skipna=False)) if len(span) else np.nan
    reasons = []
    if not np.isfinite(observed):
        reasons.append("no gravity in the month before the season or in its last month")
    if not np.isfinite(amount):
        reasons.append(prediction.reason or "a month of the season has no elevation change")
    if not np.isfinite(dh):
        reasons.append("no elevation change in the season, or in no other year")
    seen = mass.reindex(pd.DatetimeIndex(season.window))
    low_seen, why_seen = find_minimum(season.window, seen.to_numpy(dtype=float))
    low_predicted, why_predicted = find_minimum(
        season.window, predicted.cumsum(skipna=False).to_numpy()
    )
    if why_seen:
        reasons.append(f"observed minimum: {why_seen}")
    if why_predicted and np.isfinite(amount):
        reasons.append(f"predicted minimum: {why_predicted}")
    in_season = mass.reindex(pd.DatetimeIndex(season.months))
    return {
        "year": year,
        "dh_season_m": dh,
        "observed_gt": float(observed),
        "observed_sigma_gt": float(error) if np.isfinite(observed) else np.nan,
        "predicted_gt": amount,
        "observed_minimum": low_seen,
        "predicted_minimum": low_predicted,
        "n_months": int(in_season.notna().sum()),
        "reason": "; ".join(reasons) or None,
    }


def find_minimum(months: np.ndarray, mass: np.ndarray) -> tuple[int | None, str | None]:
    """Return the calendar month of the lowest mass after which it rises, or why there is none.

    Parameters
    ----------
    months
        Consecutive months from the season's first.
    mass
        Mass anomaly, or a running sum of changes.
    """
    if not np.isfinite(mass).all():
        return None, "a month of the window is missing"
    lowest = int(np.argmin(mass))
    if lowest == len(mass) - 1:
        return None, f"mass does not rise again by {str(months[-1])[:7]}"
    return int(month_index(months[lowest]) % 12) + 1, None


def _with_interval(row: dict, half: float) -> dict:
    row["predicted_lower_gt"] = row["predicted_gt"] - half
    row["predicted_upper_gt"] = row["predicted_gt"] + half
    if np.isfinite(row["predicted_gt"]) and not np.isfinite(half):
        note = "too few left-out seasons for an interval"
        row["reason"] = f"{row['reason']}; {note}" if row["reason"] else note
    return row


def conformal_sum(error: pd.DataFrame, months: Sequence[int], coverage: float) -> float:
    """Return the half width of an interval for a sum of monthly predictions over a season.

    The conformal quantile of |summed error| over the left-out seasons themselves where there are
    at least twenty, else over every run of as many consecutive months. Runs overlap and share
    their months between mascons, so coverage is nominal.

    Parameters
    ----------
    error
        Errors, month × series, null where not predicted; every calendar month a row.
    months
        Calendar months of the season.
    coverage
        Nominal coverage.

    Returns
    -------
    float
        In the unit of the errors; NaN with too few sums.
    """
    from cryofuse.learning.conformal import conformal_radius

    if error.empty:
        return float("nan")
    sums = error.rolling(len(months), min_periods=len(months)).sum().iloc[len(months) - 1 :]
    own = sums[pd.DatetimeIndex(sums.index).month == months[-1]].to_numpy(dtype=float)
    own = own[np.isfinite(own)]
    every = sums.to_numpy(dtype=float)
    every = every[np.isfinite(every)]
    return float(conformal_radius(own if own.size >= MIN_CALIBRATION else every, coverage))
