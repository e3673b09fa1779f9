"""Melt seasons: elevation, gravity, and a model that never saw gravity of these years.

The study looks back, so it uses the retrospective elevation series; what it must not see is
gravity of the studied years. A model of the monthly mass change (cm water equivalent) is trained
on every mascon in the other years, months within the longest lag of a studied year left out. Its
intervals are conformal: absolute errors of left-out training years, summed over as many
consecutive months as the season has.

The month of the minimum has an interval, too: that of the lowest month of the series with its
errors drawn again, independent normal ones of the tables' σ for elevation and gravity, and for the
model every run of errors of left-out training years as long as the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cryofuse.calendar import TIME_DTYPE, add_months, month_index
from cryofuse.products.totals import correlate_errors, follow_unseen, to_grid
from cryofuse.units import FIRN_MIX_DENSITY_KG_M3, lwe_to_mass, thickness_to_mass

if TYPE_CHECKING:
    from sklearn.base import RegressorMixin

    from cryofuse.config import ApplicationSettings, CaseStudySettings, SkillSettings

#: Spans (months) of elevation change given to the model; the longest is the embargo.
SPANS = (1, 2, 3)
#: Months after the season in which the minimum may still come.
AFTER_SEASON = 6
#: Draws of the errors of a window, for the interval of its minimum.
DRAWS = 1000
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
    "dh_change_m",
    "dh_change_sigma_m",
    "dh_season_m",
    "elevation_gt",
    "elevation_sigma_gt",
    "observed_gt",
    "observed_sigma_gt",
    "observed_anomaly_gt",
    "predicted_gt",
    "predicted_lower_gt",
    "predicted_upper_gt",
    "observed_late_gt",
    "observed_late_sigma_gt",
    "predicted_late_gt",
    "predicted_late_lower_gt",
    "predicted_late_upper_gt",
    *(
        f"{name}_minimum{end}"
        for name in ("dh", "observed", "predicted")
        for end in ("", "_first", "_last")
    ),
    "n_months",
    "reason",
]
MONTHS_COLUMNS = ["mascon_id", "month", "predicted_change_gt", "followed", "all_other_years"]


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
        Predicted monthly change, month × mascon: near studied years of the model of all other
        years, in a year that it was trained on of one without that year.
    error_cm
        Errors on left-out training years, month × mascon (empty where not predicted), those of
        mascons that follow their own fits among them.
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
    applications: ApplicationSettings,
    sample: str = "jpl",
) -> tuple[pd.DataFrame, pd.DataFrame]:
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
    applications, sample
        Correlation of mascon errors in the sheet's σ, as for the totals.

    Returns
    -------
    tuple of pandas.DataFrame
        Tables ``applications/case_study`` and ``applications/case_study_months``. A season's
        change of mass and of elevation runs from the month before it to its last month;
        ``dh_season_m`` and ``observed_anomaly_gt`` are the change minus its mean over the years
        not studied. Gravity sees meltwater until it has run off: ``…_late_gt`` is the change until
        the end of the window. The sheet is the sum (dh: ice-area mean) of the selected mascons,
        where a mascon without a track in a month follows its own fit
        (:func:`cryofuse.products.totals.follow_unseen`); a mascon's own row is null then. Nulls
        carry a reason.
    """
    chosen = mascons[mascons["selected"]].sort_values("mascon_id")
    ids = chosen["mascon_id"].to_numpy()
    table = fusion[fusion["mascon_id"].isin(ids)]
    if table.empty:
        return pd.DataFrame(columns=COLUMNS), pd.DataFrame(columns=MONTHS_COLUMNS)
    names = ("dh_m", "dh_sigma_m", "mass_gt", "mass_sigma_gt", "lwe_cm")
    grids = {name: _grid(table, name, ids) for name in names}
    # The sheet needs every mascon: those not seen follow their fits, and train nothing.
    filled = follow_unseen(table)
    followed = grids | {name: _grid(filled, name, ids) for name in ("dh_m", "dh_sigma_m")}
    areas = chosen.set_index("mascon_id")[["land_area_km2", "ice_area_km2"]]
    land, ice = areas["land_area_km2"], areas["ice_area_km2"]
    samples = build_samples(followed, chosen)
    samples["seen"] = build_samples(grids, chosen).notna().drop(columns="change_cm").all(axis=1)
    prediction = train_and_predict(samples, settings, skill)
    series = _mascon_series(grids, prediction, land, ice)
    correlation = correlate_errors(chosen, applications, sample)
    series[_SHEET] = _sheet_series(followed, prediction, land, ice, correlation)
    rng = np.random.default_rng(skill.seed)
    rows: list[dict] = []
    for year in settings.years:
        season = season_of(year, settings.months)
        drawn = rng.standard_normal((DRAWS, season.window.size))
        for scope, one in series.items():
            row = _row(year, season, one, settings, skill.coverage, drawn, prediction.reason)
            mascon = None if scope == _SHEET else int(scope)
            rows.append(
                {"scope": _SHEET if mascon is None else f"mascon:{mascon}", "mascon_id": mascon}
                | row
            )
    return pd.DataFrame(rows, columns=COLUMNS), _tabulate_months(prediction, land, settings)


def _tabulate_months(
    prediction: Prediction, land: pd.Series, settings: CaseStudySettings
) -> pd.DataFrame:
    """Return the predicted change of every mascon and month that has one."""
    if prediction.reason:
        return pd.DataFrame(columns=MONTHS_COLUMNS)
    change = _to_gt(prediction.change_cm, land)
    table = pd.DataFrame(
        {
            "month": np.repeat(change.index.to_numpy(), change.shape[1]),
            "mascon_id": np.tile(change.columns.to_numpy(), len(change)),
            "predicted_change_gt": change.to_numpy().ravel(),
            "followed": ~prediction.seen.to_numpy().ravel(),
        }
    )
    table["all_other_years"] = is_unseen(table["month"].to_numpy(), settings)
    return table.dropna(subset=["predicted_change_gt"])[MONTHS_COLUMNS]


@dataclass(frozen=True)
class _Series:
    """Monthly series of a mascon or of the sheet, and the errors of its model.

    Attributes
    ----------
    frame
        Months as index; dh, dh_sigma (m), mass, mass_sigma (Gt), predicted (change, Gt).
    errors
        Errors of left-out training years in Gt, month × one or more columns.
    ice_area_km2
        Area over which the elevation changes.
    """

    frame: pd.DataFrame
    errors: pd.DataFrame
    ice_area_km2: float


def _mascon_series(
    grids: dict[str, pd.DataFrame], prediction: Prediction, land: pd.Series, ice: pd.Series
) -> dict[int | str, _Series]:
    """Return the series of every mascon, null where it was not seen."""
    series: dict[int | str, _Series] = {}
    seen = prediction.seen
    predicted = _to_gt(prediction.change_cm.where(seen), land)
    for mascon in grids["mass_gt"].columns:
        frame = pd.DataFrame(
            {
                "dh": grids["dh_m"][mascon],
                "dh_sigma": grids["dh_sigma_m"][mascon],
                "mass": grids["mass_gt"][mascon],
                "mass_sigma": grids["mass_sigma_gt"][mascon],
            }
        )
        frame["predicted"] = predicted[mascon] if mascon in predicted else np.nan
        # Errors scale with land area, so mascons share those in cm.
        errors = prediction.error_cm.where(seen) * lwe_to_mass(1.0, float(land[mascon]))
        series[mascon] = _Series(frame, errors, float(ice[mascon]))
    return series


def _sheet_series(
    grids: dict[str, pd.DataFrame],
    prediction: Prediction,
    land: pd.Series,
    ice: pd.Series,
    correlation: np.ndarray,
) -> _Series:
    """Return the series of the sheet: null where any mascon (dh: with ice) is."""
    icy = ice[ice > 0]
    weight = icy / icy.sum()
    sigma = grids["mass_sigma_gt"].to_numpy(dtype=float)
    frame = pd.DataFrame(
        {
            "dh": (grids["dh_m"][icy.index] * weight).sum(axis=1, skipna=False),
            "dh_sigma": np.sqrt(
                ((grids["dh_sigma_m"][icy.index] * weight) ** 2).sum(axis=1, skipna=False)
            ),
            "mass": grids["mass_gt"].sum(axis=1, skipna=False),
            "mass_sigma": np.sqrt(np.einsum("mi,ij,mj->m", sigma, correlation, sigma)),
        }
    )
    if icy.empty:
        frame[["dh", "dh_sigma"]] = np.nan
    if prediction.reason:
        return _Series(frame.assign(predicted=np.nan), prediction.error_cm, float(icy.sum()))
    frame["predicted"] = _to_gt(prediction.change_cm, land).sum(axis=1, skipna=False)
    errors = _to_gt(prediction.error_cm, land).sum(axis=1, skipna=False).to_frame()
    return _Series(frame, errors, float(icy.sum()))


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
    change there uses gravity of the studied year, or elevation change that began in it. A year
    that is trained on is predicted without itself in the same way, months within the longest lag
    left out, by the candidate that errs least on other years without either.

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
    usable = ~unseen & complete
    known = usable & samples["change_cm"].notna().to_numpy()
    seen = samples["seen"].to_numpy()
    train = known & seen
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

    def fit(name: str, inner: np.ndarray) -> RegressorMixin | None:
        """Return a model of the samples, none where they are fewer than its features."""
        if inner.sum() < len(features) + 1:
            return None
        parameters = list_candidates(skill.search.space(name), 1)[0]
        model = build(name, parameters, skill.trees, skill.seed)
        return model.fit(x[inner], y[inner])

    known_years = np.unique(years[usable]).tolist()
    away = {year: ~is_near_year(months, year) for year in known_years}
    with single_threaded():
        # Errors on a year of each candidate that saw neither it nor the other of a pair.
        errors: dict[tuple[str, int, int], np.ndarray] = {}
        alone: dict[tuple[str, int], np.ndarray] = {}
        for name in CANDIDATES:
            for first, second in combinations_with_replacement(known_years, 2):
                model = fit(name, train & away[first] & away[second])
                if model is None:
                    continue
                for judged, other in {(first, second), (second, first)}:
                    test = usable & (years == judged)
                    held = np.full(len(samples), np.nan)
                    held[test] = model.predict(x[test])
                    # Changes beside the other year hold its gravity.
                    seen_apart = test & train & (away[other] | (judged == other))
                    errors[name, judged, other] = (held - y)[seen_apart]
                    if judged == other:
                        alone[name, judged] = held[test]

        def choose(pairs: list[tuple[int, int]]) -> str:
            """Return the candidate with the smallest error on the first years of pairs."""
            none = np.empty(0)
            return min(
                CANDIDATES,
                key=lambda name: _rms(
                    np.concatenate([none, *(errors.get((name, *pair), none) for pair in pairs)])
                ),
            )

        predicted = np.full(len(samples), np.nan)
        for left in known_years:
            own = choose([(other, left) for other in known_years if other != left])
            if (own, left) in alone:
                predicted[usable & (years == left)] = alone[own, left]
        left_out = predicted.copy()
        best = fit(choose([(year, year) for year in known_years]), train)
        near = unseen & complete
        if best is not None:
            predicted[near] = best.predict(x[near])
    everything = np.unique(months)
    ids = np.unique(samples["mascon_id"])
    frame = samples[["month", "mascon_id"]].assign(
        predicted=predicted, error=left_out - y, seen=samples["seen"].astype(float)
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


def is_near_year(months: np.ndarray, year: int) -> np.ndarray:
    """Return whether each month lies in a year or within the longest lag of it."""
    after = month_index(months) - int(month_index(np.datetime64(f"{year}-01-01", "us")))
    return (after >= -max(SPANS)) & (after <= 11 + max(SPANS))


def _rms(errors: np.ndarray) -> float:
    known = errors[np.isfinite(errors)]
    return float(np.sqrt(np.mean(known**2))) if known.size else np.inf


def _to_gt(change_cm: pd.DataFrame, land: pd.Series) -> pd.DataFrame:
    """Return changes per mascon (columns) in Gt."""
    gt = lwe_to_mass(change_cm.to_numpy(), land.reindex(change_cm.columns).to_numpy())
    return pd.DataFrame(gt, index=change_cm.index, columns=change_cm.columns)


def _season_change(series: pd.Series, of: int, months: Sequence[int]) -> float:
    """Return what a series changed by over the season of a year, NaN where an end is missing."""
    season = season_of(of, months)
    before, last = pd.Timestamp(season.before), pd.Timestamp(season.months[-1])
    return float(series.get(last, np.nan) - series.get(before, np.nan))


def _usual_change(series: pd.Series, settings: CaseStudySettings) -> float:
    """Return the mean change over the season of the years not studied that have one."""
    years = [y for y in sorted(set(pd.DatetimeIndex(series.index).year)) if y not in settings.years]
    changes = np.array([_season_change(series, year, settings.months) for year in years])
    changes = changes[np.isfinite(changes)]
    return float(changes.mean()) if changes.size else np.nan


def _row(
    year: int,
    season: Season,
    one: _Series,
    settings: CaseStudySettings,
    coverage: float,
    drawn: np.ndarray,
    untrained: str | None,
) -> dict:
    """Return a row of the table but its scope; reasons in order of what is missing."""
    frame = one.frame
    before, last = pd.Timestamp(season.before), pd.Timestamp(season.months[-1])
    ends = frame.reindex([before, last])
    dh = _season_change(frame["dh"], year, settings.months)
    observed = _season_change(frame["mass"], year, settings.months)
    window = frame.reindex(pd.DatetimeIndex(season.window))
    amount = float(window.loc[window.index <= last, "predicted"].sum(skipna=False))
    half = conformal_sum(one.errors, settings.months, coverage)
    late = float(window["mass"].iloc[-1] - frame["mass"].get(before, np.nan))
    late_ends = (frame["mass_sigma"].get(before, np.nan), window["mass_sigma"].iloc[-1])
    late_amount = float(window["predicted"].sum(skipna=False))
    calendar = (month_index(season.window) % 12 + 1).tolist()
    late_half = conformal_sum(one.errors, calendar, coverage)
    anomaly = dh - _usual_change(frame["dh"], settings)
    reasons = []
    if not np.isfinite(observed):
        reasons.append("no gravity in the month before the season or in its last month")
    if not np.isfinite(amount):
        reasons.append(untrained or "a month of the season has no elevation change")
    if not np.isfinite(anomaly):
        reasons.append("no elevation change in the season, or in no other year")
    if np.isfinite(amount) and not np.isfinite(half):
        reasons.append("too few left-out seasons for an interval")
    lows: dict[str, int | None] = {}
    for name, level, errors, said, noun in (
        (
            "dh",
            window["dh"],
            drawn * window["dh_sigma"].to_numpy(),
            "lowest elevation",
            "elevation",
        ),
        (
            "observed",
            window["mass"],
            drawn * window["mass_sigma"].to_numpy(),
            "observed minimum",
            "mass",
        ),
        (
            "predicted",
            window["predicted"].cumsum(skipna=False),
            error_runs(one.errors, season.window.size),
            "predicted minimum",
            "mass",
        ),
    ):
        values = level.to_numpy(dtype=float)
        low, why = find_minimum(season.window, values, noun)
        first, final = (
            minimum_interval(season.window, values, errors, coverage) if low else (None, None)
        )
        lows |= {
            f"{name}_minimum": low,
            f"{name}_minimum_first": first,
            f"{name}_minimum_last": final,
        }
        # What is missing is told above already.
        if why and (name != "predicted" or np.isfinite(amount)):
            reasons.append(f"{said}: {why}")
    dh_sigma = float(np.hypot(*ends["dh_sigma"])) if np.isfinite(dh) else np.nan
    in_season = frame["mass"].reindex(pd.DatetimeIndex(season.months))
    return {
        "year": year,
        "dh_change_m": dh,
        "dh_change_sigma_m": dh_sigma,
        "dh_season_m": anomaly,
        "elevation_gt": thickness_to_mass(dh, one.ice_area_km2, FIRN_MIX_DENSITY_KG_M3),
        "elevation_sigma_gt": thickness_to_mass(dh_sigma, one.ice_area_km2, FIRN_MIX_DENSITY_KG_M3),
        "observed_gt": observed,
        "observed_sigma_gt": (
            float(np.hypot(*ends["mass_sigma"])) if np.isfinite(observed) else np.nan
        ),
        "observed_anomaly_gt": observed - _usual_change(frame["mass"], settings),
        "predicted_gt": amount,
        "predicted_lower_gt": amount - half,
        "predicted_upper_gt": amount + half,
        "observed_late_gt": late,
        "observed_late_sigma_gt": float(np.hypot(*late_ends)) if np.isfinite(late) else np.nan,
        "predicted_late_gt": late_amount,
        "predicted_late_lower_gt": late_amount - late_half,
        "predicted_late_upper_gt": late_amount + late_half,
        **lows,
        "n_months": int(in_season.notna().sum()),
        "reason": "; ".join(reasons) or None,
    }


def find_minimum(
    months: np.ndarray, values: np.ndarray, noun: str
) -> tuple[int | None, str | None]:
    """Return the calendar month of the lowest value after which it rises, or why there is none.

    Parameters
    ----------
    months
        Consecutive months from the season's first.
    values
        Elevation, mass anomaly, or a running sum of changes.
    noun
        What the values are.
    """
    if not np.isfinite(values).all():
        return None, "a month of the window is missing"
    lowest = int(np.argmin(values))
    if lowest == len(values) - 1:
        return None, f"{noun} does not rise again by {str(months[-1])[:7]}"
    return int(month_index(months[lowest]) % 12) + 1, None


def error_runs(error: pd.DataFrame, length: int) -> np.ndarray:
    """Return the running sums of errors of every run of consecutive months, shape (runs, length).

    Parameters
    ----------
    error
        Errors of monthly predictions, month × series, null where not predicted.
    length
        Months of a run.
    """
    values = error.to_numpy(dtype=float)
    if len(values) < length:
        return np.empty((0, length))
    runs = np.lib.stride_tricks.sliding_window_view(values, length, axis=0).reshape(-1, length)
    return np.cumsum(runs[np.isfinite(runs).all(axis=1)], axis=1)


def minimum_interval(
    months: np.ndarray, mass: np.ndarray, errors: np.ndarray, coverage: float
) -> tuple[int | None, int | None]:
    """Return the first and the last calendar month between which the minimum lies.

    Parameters
    ----------
    months
        Consecutive months from the season's first.
    mass
        Mass anomaly, or a running sum of changes.
    errors
        Draws of the errors of ``mass``, shape (draws, months).
    coverage
        Nominal coverage: the central share of the drawn minima.

    Returns
    -------
    tuple
        None, None with fewer draws than that coverage takes, or a draw without a value.
    """
    from cryofuse.learning.conformal import fewest_residuals

    if len(errors) < fewest_residuals(coverage) or not np.isfinite(errors).all():
        return None, None
    lowest = np.argmin(mass - errors, axis=1)
    tails = ((1 - coverage) / 2, (1 + coverage) / 2)
    first, last = np.quantile(lowest, tails, method="inverted_cdf").astype(int)
    return int(month_index(months[first]) % 12) + 1, int(month_index(months[last]) % 12) + 1


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
