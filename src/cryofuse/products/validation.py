"""How well a run on the synthetic world recovered the planted truth.

Every metric states its value, its tolerance and whether it holds. What cannot be computed has a
null value, does not hold, and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd

from cryofuse.calendar import TIME_DTYPE, month_index, month_middle, year_fraction
from cryofuse.learning.models import single_threaded
from cryofuse.learning.treatments import build_design, build_filter, cycle_columns
from cryofuse.products.case_study import season_of
from cryofuse.products.rapid_melt import MAD_PER_SIGMA, detect_extremes, fit_spread
from cryofuse.products.sheet import own_volume
from cryofuse.units import GT_PER_MM_SEA_LEVEL, lwe_to_mass

#: Tolerances. Median bias of node rates, and their RMSE (m/yr).
RATE_BIAS_M_YR = 0.01
RATE_RMSE_M_YR = 0.15
#: Bias and RMSE (m), weighted by ice area, and share of errors within 2σ, of a mascon's
#: elevation change. A thinned world sees about a fifth of a mascon's ice in a month.
DH_BIAS_M = 0.01
DH_RMSE_M = 0.10
#: Bias of the causal change (m): its zero are three months of mispointed passes.
CAUSAL_BIAS_M = 0.03
WITHIN_TWO_SIGMA = 0.8
#: RMSE of the estimator as a share of the plain mean's; share of errors within 1σ, and how far
#: from it it may be; share of monthly totals within 2σ.
RMSE_SHARE = 0.5
WITHIN_ONE_SIGMA, WITHIN_ONE_SIGMA_ERROR = 0.68, 0.08
TOTALS_WITHIN_TWO_SIGMA = 0.9
#: Error of the planted lag (months), share of mascons within it, and the signal-to-noise asked.
LAG_ERROR_MONTHS = 1.0
LAG_SHARE = 0.95
LAG_SIGNAL_TO_NOISE = 2.0
#: Share of mascons whose planted effective density lies inside its 95 % interval.
DENSITY_SHARE = 0.9
#: Kilograms per square metre of a centimetre of water.
KG_M2_PER_CM = 10.0
#: Treatment whose best lag is compared: the annual cycle carries most of the timing.
LAG_TREATMENT = "detrended"
#: Agreement of regimes.
REGIME_RAND = 0.8
#: Share of crossed lakes found, share of candidates that are none, error of drain dates (days).
LAKES_FOUND = 0.8
LAKES_FALSE = 0.2
DRAIN_ERROR_DAYS = 91.0
#: Fitted nodes within a planted lake's radius that count as crossed, and slack of a match (m).
CROSSED_NODES = 3
LAKE_SLACK_M = 2000.0
#: Splits that hold mascons out: there elevation has to beat every baseline without it.
HELD_OUT_SPLITS = ("leave_mascon_out", "both")
#: Months whose mean is the zero of the cumulative target; as in the features.
BASELINE_MONTHS = 12
#: Share of the ceiling that the best model reaches for the monthly change, under the strictest
#: split and under the others.
STRICTEST_SPLIT, STRICTEST_SHARE = "both", 0.8
SKILL_SHARE = 0.5
#: Relative error of the altimetric volume trend, and σ of the gravimetric trend allowed.
VOLUME_TREND_SHARE = 0.05
TREND_SIGMAS = 2.0
#: Error of the rate of false alarms, of all months and of the melt season, on so many worlds
#: without an extreme whose season varies by each factor; surrogates of each.
FALSE_ALARM_ERROR, SEASON_ALARM_ERROR = 0.01, 0.025
ALARM_WORLDS, ALARM_FACTORS, ALARM_SURROGATES = 100, (1.0, 2.0, 3.0), 100
#: A planted month is extreme beyond so many robust spreads of all planted months.
EXTREME_SPREADS = 4.0

Metric = dict[str, Any]
Tables = Mapping[str, pd.DataFrame]


class PlantedWorld(Protocol):
    """What a world must answer."""

    def rate(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """Return the planted rate of elevation change (m/yr)."""

    def regime(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """Return the planted regime."""


class NotComputedError(Exception):
    """Why a metric has no value."""


def _metric(
    name: str,
    value: float,
    tolerance: float,
    n: int,
    about: str,
    *,
    least: bool = False,
    **detail: Any,
) -> Metric:
    """Return a metric; ``least``: it holds at or above the tolerance, else |value| below it.

    A tolerance of NaN makes it a figure to read: it neither holds nor fails (null).
    """
    known = bool(np.isfinite(value))
    holds: bool | None = bool(known and (value >= tolerance if least else abs(value) <= tolerance))
    if np.isnan(tolerance):
        holds = None
    return {
        "metric": name,
        "value": float(value) if known else None,
        "tolerance": float(tolerance) if np.isfinite(tolerance) else None,
        "rule": "at least" if least else "at most, in size",
        "holds": holds,
        "n": int(n),
        "about": about,
        "reason": None if known else "not finite",
        "detail": _plain(detail),
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN becomes null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _take(tables: Tables, name: str, *columns: str) -> pd.DataFrame:
    """Return a table that holds the columns.

    Raises
    ------
    NotComputedError
        If the table or a column is missing, or the table has no row.
    """
    if name not in tables:
        raise NotComputedError(f"no table {name}")
    missing = [column for column in columns if column not in tables[name]]
    if missing:
        raise NotComputedError(f"table {name} has no column {', '.join(missing)}")
    if tables[name].empty:
        raise NotComputedError(f"table {name} has no row")
    return tables[name]


def check_rates(results: Tables, world: PlantedWorld) -> list[Metric]:
    """Return bias and RMSE of node rates, for all nodes, those of windows, and the others."""
    nodes = _take(results, "nodes", "x_m", "y_m", "rate_m_yr", "window")
    nodes = nodes[nodes["rate_m_yr"].notna()]
    if nodes.empty:
        raise NotComputedError("no node has a rate")
    truth = world.rate(nodes["x_m"].to_numpy(np.float64), nodes["y_m"].to_numpy(np.float64))
    error = nodes["rate_m_yr"].to_numpy(np.float64) - truth
    fine = nodes["window"].notna().to_numpy()
    found = []
    for scope, rows in (("all", np.ones(len(nodes), bool)), ("windows", fine), ("coarse", ~fine)):
        part = error[rows]
        if not part.size:
            continue
        about = f"rate of elevation change, {scope} nodes (m/yr)"
        found.append(
            _metric(
                f"rate_bias_{scope}",
                float(np.median(part)),
                RATE_BIAS_M_YR,
                part.size,
                f"median error of the {about}",
                mean_error=float(part.mean()),
            )
        )
        found.append(
            _metric(
                f"rate_rmse_{scope}",
                float(np.sqrt(np.mean(part**2))),
                RATE_RMSE_M_YR,
                part.size,
                f"RMSE of the {about}",
                median_absolute_error=float(np.median(np.abs(part))),
            )
        )
    return found


def _selected(results: Tables) -> pd.DataFrame:
    mascons = _take(results, "mascons", "mascon_id", "selected", "ice_area_km2", "land_area_km2")
    chosen = mascons[mascons["selected"].astype(bool)]
    if chosen.empty:
        raise NotComputedError("no mascon is selected")
    return chosen


def _joined(truth: Tables, results: Tables, table: str, *columns: str) -> pd.DataFrame:
    """Return selected mascon months of a result beside the truth's."""
    fusion = _take(results, table, "mascon_id", "month", "dh_m")
    months = _take(truth, "mascon_months", "mascon_id", "month", *columns)
    planted = months[["mascon_id", "month", *columns]].rename(columns=lambda c: f"true_{c}")
    both = fusion.merge(
        planted, left_on=["mascon_id", "month"], right_on=["true_mascon_id", "true_month"]
    )
    return both[both["mascon_id"].isin(_selected(results)["mascon_id"])]


def check_mascon_elevation(truth: Tables, results: Tables) -> list[Metric]:
    """Return how well the mascons' retrospective elevation change follows the truth.

    Errors are weighted by ice area, as in every total; a mascon with a sliver of ice that few
    tracks cross would otherwise speak for itself alone. The plain figures stand beside.
    """
    both = _joined(truth, results, "mascon_months", "dh_m").dropna(subset=["dh_m", "true_dh_m"])
    if both.empty:
        raise NotComputedError("no mascon month has an elevation change")
    error = (both["dh_m"] - both["true_dh_m"]).to_numpy(np.float64)
    own = both["mascon_id"].to_numpy()
    mean = pd.Series(error).groupby(own).mean()
    about = "elevation change since the reference date, selected mascon months (m)"
    ice = _selected(results).set_index("mascon_id")["ice_area_km2"]
    area = ice.reindex(own).to_numpy(np.float64)
    found = [
        _metric(
            "mascon_dh_bias",
            float(np.average(error, weights=area)),
            DH_BIAS_M,
            error.size,
            f"mean error of the {about}, weighted by ice area",
            plain_mean_m=float(error.mean()),
            largest_mascon_bias_m=float(mean.abs().max()),
        ),
        _metric(
            "mascon_dh_rmse",
            float(np.sqrt(np.average(error**2, weights=area))),
            DH_RMSE_M,
            error.size,
            f"RMSE of the {about}, weighted by ice area",
            plain_rmse_m=float(np.sqrt(np.mean(error**2))),
        ),
    ]
    if "dh_mean_m" in both:
        plain = (both["dh_mean_m"] - both["true_dh_m"]).to_numpy(np.float64)
        share = np.sqrt(np.average(error**2, weights=area) / np.average(plain**2, weights=area))
        # Every mascon's own mean taken off: what is left when the zero does not count.
        moving = [
            np.asarray(v - v.groupby(own).transform("mean")) for v in map(pd.Series, (error, plain))
        ]
        found.append(
            _metric(
                "mascon_dh_rmse_share",
                float(share),
                RMSE_SHARE,
                error.size,
                f"RMSE over that of the plain mean of what was seen, of the {about}",
                without_mascon_means=float(
                    np.sqrt(np.average(moving[0] ** 2, weights=area))
                    / np.sqrt(np.average(moving[1] ** 2, weights=area))
                ),
            )
        )
    if "dh_sigma_m" in both:
        sigma = both["dh_sigma_m"].to_numpy(np.float64)
        known = np.isfinite(sigma)
        if known.any():
            found.append(
                _within_one_sigma("mascon_dh", error[known], sigma[known], own[known], about)
            )
            found.append(
                _metric(
                    "mascon_dh_within_2_sigma",
                    float(np.mean(np.abs(error[known]) <= 2 * sigma[known])),
                    WITHIN_TWO_SIGMA,
                    int(known.sum()),
                    f"share of errors within 2σ of the {about}",
                    least=True,
                )
            )
    return found


def _within_one_sigma(
    name: str, error: np.ndarray, sigma: np.ndarray, mascon: np.ndarray, about: str
) -> Metric:
    """Return how far the share of errors within 1σ is from 68 %; single mascons beside."""
    within = np.abs(error) <= sigma
    each = pd.Series(within).groupby(mascon).mean()
    return _metric(
        f"{name}_within_1_sigma",
        float(within.mean()) - WITHIN_ONE_SIGMA,
        WITHIN_ONE_SIGMA_ERROR,
        within.size,
        f"share of errors within 1σ, less 0.68, of the {about}",
        share=float(within.mean()),
        lowest_mascon=float(each.min()),
        median_mascon=float(each.median()),
        highest_mascon=float(each.max()),
    )


def check_causal_elevation(truth: Tables, results: Tables) -> list[Metric]:
    """Return how well the causal elevation change follows the truth since the first month."""
    both = _joined(truth, results, "mascon_months_causal", "dh_m")
    months = truth["mascon_months"]
    start = months[months["month"] == months["month"].min()].set_index("mascon_id")["dh_m"]
    both["true_dh_m"] -= both["mascon_id"].map(start)
    both = both.dropna(subset=["dh_m", "dh_sigma_m", "dh_mean_m", "true_dh_m"])
    if both.empty:
        raise NotComputedError("no mascon month has a causal elevation change")
    ice = _selected(results).set_index("mascon_id")["ice_area_km2"]
    area = ice.reindex(both["mascon_id"]).to_numpy(np.float64)
    error = (both["dh_m"] - both["true_dh_m"]).to_numpy(np.float64)
    plain = (both["dh_mean_m"] - both["true_dh_m"]).to_numpy(np.float64)
    rmse, other = (np.sqrt(np.average(e**2, weights=area)) for e in (error, plain))
    about = "causal elevation change since the first month, selected mascon months (m)"
    return [
        _metric(
            "causal_dh_bias",
            float(np.average(error, weights=area)),
            CAUSAL_BIAS_M,
            error.size,
            f"mean error of the {about}, weighted by ice area",
        ),
        _metric(
            "causal_dh_rmse_share",
            float(rmse / other),
            RMSE_SHARE,
            error.size,
            f"RMSE over that of the plain mean of what was seen, of the {about}",
            rmse_m=float(rmse),
        ),
        _within_one_sigma(
            "causal_dh",
            error,
            both["dh_sigma_m"].to_numpy(np.float64),
            both["mascon_id"].to_numpy(),
            about,
        ),
    ]


def _detrended_spread(month: np.ndarray, value: np.ndarray) -> float:
    years = year_fraction(month_middle(month))
    design = np.column_stack([np.ones_like(years), years - years.mean()])
    rest = value - design @ np.linalg.lstsq(design, value, rcond=None)[0]
    return float(rest.std())


def check_lags(truth: Tables, results: Tables) -> list[Metric]:
    """Return how well the planted lags are found where the signal stands out of the noise."""
    coupling = _take(results, "coupling", "mascon_id", "treatment", "lag_months", "best")
    planted = _take(truth, "mascons", "mascon_id", "lag_months", "lag_detrended_months").set_index(
        "mascon_id"
    )
    months = _take(
        truth, "mascon_months", "mascon_id", "month", "lwe_planted_cm", "lwe_noise_cm"
    ).dropna(subset=["lwe_planted_cm", "lwe_noise_cm"])
    if "mascon_months" in results:
        months = months[months["month"].isin(results["mascon_months"]["month"])]
    strong = []
    planted = planted[planted["lag_months"].notna()]
    for mascon_id, rows in months.groupby("mascon_id"):
        if mascon_id not in planted.index:
            continue
        noise = float(rows["lwe_noise_cm"].std())
        signal = _detrended_spread(rows["month"].to_numpy(), rows["lwe_planted_cm"].to_numpy())
        if noise == 0 or signal / noise >= LAG_SIGNAL_TO_NOISE:
            strong.append(mascon_id)
    best = coupling[coupling["best"].astype(bool) & coupling["mascon_id"].isin(strong)]
    found = []
    for treatment in (LAG_TREATMENT, *sorted(set(best["treatment"]) - {LAG_TREATMENT})):
        rows = best[best["treatment"] == treatment]
        if rows.empty:
            raise NotComputedError(
                f"no selected mascon with signal-to-noise of {LAG_SIGNAL_TO_NOISE:g} has a lag"
            )
        true = planted["lag_months"].reindex(rows["mascon_id"]).to_numpy(np.float64)
        error = rows["lag_months"].to_numpy(np.float64) - true
        # Half a month is the least a lag in whole months can say of a planted fraction.
        within = float(np.mean(np.abs(error) <= LAG_ERROR_MONTHS + 0.5))
        name = "" if treatment == LAG_TREATMENT else f"_{treatment}"
        about = f"{treatment} series, mascons with signal-to-noise of 2 or more"
        if treatment == LAG_TREATMENT:
            found.append(
                _metric(
                    "lag_error_median",
                    float(np.median(np.abs(error))),
                    LAG_ERROR_MONTHS,
                    error.size,
                    f"median error of the planted lag (months), {about}",
                    mean_error=float(error.mean()),
                )
            )
        found.append(
            _metric(
                f"lag_share{name}",
                within,
                LAG_SHARE if treatment == LAG_TREATMENT else np.nan,
                error.size,
                f"share of planted lags found within 1.5 months, {about}",
                least=True,
            )
        )
        if treatment != LAG_TREATMENT:
            continue
        # Leakage brings neighbours' mass with lags of its own: what noise-free series show.
        seen = planted["lag_detrended_months"].reindex(rows["mascon_id"]).to_numpy(np.float64)
        apart = np.abs(rows["lag_months"].to_numpy(np.float64) - seen)
        found.append(
            _metric(
                "lag_share_after_leakage",
                float(np.mean(apart <= LAG_ERROR_MONTHS)),
                LAG_SHARE,
                error.size,
                f"share of lags within a month of that of series without noise, {about}",
                least=True,
            )
        )
    return found


def check_densities(truth: Tables, results: Tables) -> list[Metric]:
    """Return in how many mascons the planted effective density lies inside its 95 % interval.

    The planted one is the slope of mass without noise, after leakage, over the mascon's ice, on
    the true mean elevation change: of the same months, treatment and lag as the estimate.
    """
    names = ("density_kg_m3", "density_lower_kg_m3", "density_upper_kg_m3")
    coupling = _take(results, "coupling", "mascon_id", "treatment", "lag_months", "best", *names)
    both = _joined(truth, results, "mascon_months", "dh_m", "lwe_law_cm")
    missing = {"dh_sigma_m", "mass_gt"} - set(both)
    if missing:
        raise NotComputedError(f"table mascon_months has no column {', '.join(sorted(missing))}")
    areas = _selected(results).set_index("mascon_id")
    rows = coupling[coupling["best"].astype(bool) & coupling[names[0]].notna()]
    if rows.empty:
        raise NotComputedError("no selected mascon has an effective density")
    months = dict(list(both.groupby("mascon_id")))
    scale = KG_M2_PER_CM * areas["land_area_km2"] / areas["ice_area_km2"]
    found = []
    for treatment in sorted(set(rows["treatment"])):
        mine = rows[rows["treatment"] == treatment]
        ids, lags = mine["mascon_id"].tolist(), mine["lag_months"].tolist()
        slopes = [
            _planted_slope(months[mascon_id], treatment, int(lag))
            for mascon_id, lag in zip(ids, lags, strict=True)
        ]
        true = np.array(slopes) * scale.reindex(ids).to_numpy(np.float64)
        value, lower, upper = (mine[name].to_numpy(np.float64) for name in names)
        name = "" if treatment == LAG_TREATMENT else f"_{treatment}"
        found.append(
            _metric(
                f"density_share{name}",
                float(np.mean((lower <= true) & (true <= upper))),
                DENSITY_SHARE,
                true.size,
                "share of mascons whose planted effective density lies inside its 95 % interval, "
                f"{treatment} series at the best lag",
                least=True,
                median_error_kg_m3=float(np.median(value - true)),
                median_half_width_kg_m3=float(np.median(upper - lower) / 2),
            )
        )
    return found


def _planted_slope(months: pd.DataFrame, treatment: str, lag: int) -> float:
    """Return the slope (cm/m) of the planted law on the true elevation change, a lag later."""
    series = months.set_index(month_index(months["month"].to_numpy()))
    series = series.reindex(range(int(series.index.min()), int(series.index.max()) + 1))
    later = series[["mass_gt", "true_lwe_law_cm"]].shift(-lag)
    here = series[["dh_m", "dh_sigma_m"]].notna().all(axis=1) & later.notna().all(axis=1)
    middle = month_middle(here.index[here].to_numpy().astype("datetime64[M]").astype(TIME_DTYPE))
    design = build_design(treatment, year_fraction(middle))
    dh, law = (
        v - design @ np.linalg.lstsq(design, v, rcond=None)[0]
        for v in (series.loc[here, "true_dh_m"].to_numpy(), later.loc[here, "true_lwe_law_cm"])
    )
    return float(dh @ law / (dh @ dh))


def check_regimes(results: Tables, world: PlantedWorld) -> list[Metric]:
    """Return the adjusted Rand index of the nodes' regimes."""
    from sklearn.metrics import adjusted_rand_score

    nodes = _take(results, "regime_nodes", "x_m", "y_m", "regime")
    nodes = nodes[nodes["regime"].notna()]
    if nodes.empty:
        raise NotComputedError("no node has a regime")
    planted = world.regime(nodes["x_m"].to_numpy(np.float64), nodes["y_m"].to_numpy(np.float64))
    found = nodes["regime"].to_numpy(np.int64)
    return [
        _metric(
            "regime_adjusted_rand",
            float(adjusted_rand_score(planted, found)),
            REGIME_RAND,
            found.size,
            "adjusted Rand index between found and planted regimes of the classified nodes",
            least=True,
            regimes_found=int(np.unique(found).size),
            regimes_planted=int(np.unique(planted).size),
        )
    ]


def check_lakes(truth: Tables, results: Tables) -> list[Metric]:
    """Return lakes found, missed and false, and the error of their drain dates."""
    planted = _take(truth, "lakes", "lake_id", "x_m", "y_m", "radius_m")
    if "lakes" not in results:
        raise NotComputedError("no table lakes")
    found = results["lakes"]
    found = found[found["status"] == "candidate"] if len(found) else found
    nodes = _take(results, "nodes", "x_m", "y_m", "rate_m_yr")
    nodes = nodes[nodes["rate_m_yr"].notna()]
    x, y = nodes["x_m"].to_numpy(np.float64), nodes["y_m"].to_numpy(np.float64)
    crossed = np.array(
        [
            np.count_nonzero(np.hypot(x - lake.x_m, y - lake.y_m) <= lake.radius_m)
            for lake in planted.itertuples()
        ]
    )
    apart = np.hypot(
        planted["x_m"].to_numpy(np.float64)[:, None] - found["x_m"].to_numpy(np.float64),
        planted["y_m"].to_numpy(np.float64)[:, None] - found["y_m"].to_numpy(np.float64),
    )
    near = apart <= planted["radius_m"].to_numpy(np.float64)[:, None] + LAKE_SLACK_M
    hit, matched = near.any(axis=1), near.any(axis=0)
    seen = crossed >= CROSSED_NODES
    if not seen.any():
        raise NotComputedError("tracks cross no planted lake")
    false = int(np.count_nonzero(~matched))
    metrics = [
        _metric(
            "lakes_found",
            float(hit[seen].mean()),
            LAKES_FOUND,
            int(seen.sum()),
            "share of the planted lakes that tracks cross which have a candidate",
            least=True,
            planted=len(planted),
            found=int(hit.sum()),
            missed=planted["lake_id"][~hit].tolist(),
            not_crossed=planted["lake_id"][~seen].tolist(),
        ),
        _metric(
            "lakes_missed",
            float(np.count_nonzero(~hit & seen)),
            float(np.floor((1 - LAKES_FOUND) * seen.sum() + 1e-9)),
            int(seen.sum()),
            "planted lakes that tracks cross without a candidate",
        ),
        _metric(
            "lakes_false",
            false / max(len(found), 1),
            LAKES_FALSE,
            len(found),
            "share of candidates that are no planted lake",
            false=false,
        ),
    ]
    metrics += _guarded(
        "lake_drain_error", lambda: _check_drains(truth, results, planted, found, near)
    )
    return metrics


def _check_drains(
    truth: Tables,
    results: Tables,
    planted: pd.DataFrame,
    found: pd.DataFrame,
    near: np.ndarray,
) -> list[Metric]:
    """Return the error of the largest drain's date, from the middle of its months.

    Found lakes without a drain event fail.
    """
    events = _take(results, "lake_events", "lake_id", "kind", "start", "end", "volume_km3")
    true = _take(truth, "lake_events", "lake_id", "kind", "month")
    errors: list[float] = []
    undrained = []
    for row, lake_id in enumerate(planted["lake_id"]):
        own = found["lake_id"].to_numpy()[near[row]]
        drains = events[events["lake_id"].isin(own) & (events["kind"] == "drain")]
        dates = true.loc[(true["lake_id"] == lake_id) & (true["kind"] == "drain"), "month"]
        if own.size == 0 or dates.empty:
            continue
        if drains.empty:
            undrained.append(lake_id)
            continue
        largest = drains.iloc[int(drains["volume_km3"].to_numpy(np.float64).argmin())]
        start, end = month_middle(np.array([largest["start"], largest["end"]], "datetime64[us]"))
        middle = start + (end - start) // 2
        gap = np.abs(month_middle(dates.to_numpy()) - middle) / np.timedelta64(1, "D")
        errors.append(float(gap.min()))
    compared = len(errors) + len(undrained)
    if not compared:
        raise NotComputedError("no planted lake that drains is found")
    dated = np.count_nonzero(np.array(errors) <= DRAIN_ERROR_DAYS)
    metrics = [
        _metric(
            "lake_drains_dated",
            dated / compared,
            1.0,
            compared,
            f"share of found lakes whose drain is dated within {DRAIN_ERROR_DAYS:g} days",
            least=True,
            without_drain=undrained,
        )
    ]
    if errors:
        metrics.append(
            _metric(
                "lake_drain_error",
                max(errors),
                DRAIN_ERROR_DAYS,
                len(errors),
                "largest error of the drain dates of found lakes (days)",
                median_days=float(np.median(errors)),
            )
        )
    return metrics


def _ceilings(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the R² of an oracle that knows the law, and of one that knows all but the noise."""
    observed = rows["observed"].to_numpy(np.float64)
    total = float(np.sum((observed - observed.mean()) ** 2))
    if total == 0:
        raise NotComputedError("the target does not vary")
    law = float(np.sum((observed - rows["law"].to_numpy(np.float64)) ** 2))
    noise = float(np.sum(rows["noise"].to_numpy(np.float64) ** 2))
    return 1.0 - law / total, 1.0 - noise / total


def _truth_target(truth: Tables, target: str, months_used: pd.Series) -> pd.DataFrame:
    """Return observed, law and noise of a target for mascon months of the truth.

    The cumulative target counts from the mean of the run's first 12 solutions, as features do.
    """
    names = {"lwe_cm": "observed", "lwe_law_cm": "law", "lwe_noise_cm": "noise"}
    months = _take(truth, "mascon_months", "mascon_id", "month", *names)
    table = months[["mascon_id", "month", *names]].rename(columns=names)
    table = table.sort_values(["mascon_id", "month"], ignore_index=True)
    if target == "change":
        index = pd.Series(month_index(table["month"].to_numpy()))
        follows = (index.diff() == 1) & (table["mascon_id"].diff() == 0)
        values = table[list(names.values())].diff()
        values[~follows.to_numpy()] = np.nan
        table[list(names.values())] = values
        return table.dropna(subset=list(names.values()))
    table = table[table["month"].isin(months_used)].dropna(subset=list(names.values()))
    place = table.groupby("mascon_id").cumcount()
    columns = list(names.values())
    zero = table[place < BASELINE_MONTHS].groupby("mascon_id")[columns].mean()
    table[columns] -= zero.reindex(table["mascon_id"]).to_numpy()
    return table


def check_skill(truth: Tables, results: Tables) -> list[Metric]:
    """Return the best model's R² as a share of the ceiling, per split and target.

    The ceiling is the R² on the same mascon months of an oracle that knows the planted law, but
    neither a mascon's own residual nor the noise. Beside it stands the ceiling that the noise
    alone sets. For the cumulative target the value is told without a tolerance to reach:
    persistence alone passes there. For the monthly change the gain over the best baseline that
    sees no elevation stands beside, asked of the splits that hold mascons out; forward in time a
    mascon's own trend and season are known, and the gain is told.
    """
    scores = _take(results, "scores", "model", "kind", "split", "target", "scope", "score", "value")
    predictions = _take(results, "predictions", "model", "split", "target", "mascon_id", "month")
    pooled = scores[
        (scores["kind"] == "model") & (scores["scope"] == "pooled") & (scores["score"] == "r2")
    ].dropna(subset=["value"])
    if pooled.empty:
        raise NotComputedError("no model has a pooled r2")
    metrics = []
    for (split, target), rows in pooled.groupby(["split", "target"], sort=False):
        best = rows.iloc[int(rows["value"].to_numpy(np.float64).argmax())]
        metrics += _guarded(
            f"skill_{split}_{target}",
            partial(_compare_skill, truth, results, predictions, best, str(split), str(target)),
        )
        if target == "change":
            metrics += _guarded(
                f"skill_gain_{split}", partial(_read_gain, scores, best, str(split), len(rows))
            )
    return metrics


def _read_gain(scores: pd.DataFrame, best: pd.Series, split: str, n: int) -> list[Metric]:
    """Return the best model's gain over the best baseline that sees no elevation."""
    rows = scores[
        (scores["model"] == best["model"])
        & (scores["split"] == split)
        & (scores["target"] == "change")
        & (scores["scope"] == "pooled")
        & (scores["score"] == "gain_vs_best_blind")
    ]
    if rows.empty:
        raise NotComputedError("the table of scores has no gain over a blind baseline")
    row = rows.iloc[0]
    return [
        _metric(
            f"skill_gain_{split}",
            float(row["value"]),
            0.0 if split in HELD_OUT_SPLITS else np.nan,
            int(best["n"]) if "n" in best else n,
            f"gain in R² of the best model over the best baseline without elevation, split {split}",
            least=True,
            model=best["model"],
            lower=float(row["lower"]) if "lower" in row else None,
            upper=float(row["upper"]) if "upper" in row else None,
        )
    ]


def _compare_skill(
    truth: Tables,
    results: Tables,
    predictions: pd.DataFrame,
    best: pd.Series,
    split: str,
    target: str,
) -> list[Metric]:
    """Return one split's best R² as a share of its ceiling."""
    used = predictions[
        (predictions["model"] == best["model"])
        & (predictions["split"] == split)
        & (predictions["target"] == target)
    ]
    keys = ["mascon_id", "month"]
    both = used[keys].merge(
        _truth_target(truth, target, _take(results, "mascon_months", "month")["month"]), on=keys
    )
    if both.empty:
        raise NotComputedError("no prediction has a planted value")
    law, noise = _ceilings(both)
    if law <= 0:
        raise NotComputedError(f"the law explains nothing there (ceiling {law:.3f})")
    asked = STRICTEST_SHARE if split == STRICTEST_SPLIT else SKILL_SHARE
    return [
        _metric(
            f"skill_{split}_{target}",
            float(best["value"]) / law,
            asked if target == "change" else np.nan,
            len(both),
            f"R² of the best model over its ceiling ({best['value']:.2f} of {law:.2f}), "
            f"{target}, split {split}",
            least=True,
            model=best["model"],
            r2=float(best["value"]),
            ceiling=law,
            ceiling_by_noise=noise,
        )
    ]


def _trend(month: np.ndarray, value: np.ndarray) -> tuple[float, float]:
    """Return the slope of a line with an annual cycle (per year), and its σ.

    The σ is raised for residuals of lag-1 autocorrelation φ by √((1 + φ) / (1 − φ)).
    """
    years = year_fraction(month_middle(month))
    angle = 2.0 * np.pi * years
    design = np.column_stack([np.ones_like(years), years, np.cos(angle), np.sin(angle)])
    if years.size < 12:
        raise NotComputedError("fewer than 12 months")
    solution = np.linalg.lstsq(design, value, rcond=None)[0]
    rest = value - design @ solution
    power = float(rest @ rest)
    phi = float(np.clip(rest[1:] @ rest[:-1] / power, 0.0, 0.95)) if power > 0 else 0.0
    variance = power / (years.size - 4) * (1 + phi) / (1 - phi)
    return float(solution[1]), float(np.sqrt(np.linalg.inv(design.T @ design)[1, 1] * variance))


def check_volume(truth: Tables, results: Tables) -> list[Metric]:
    """Return the error of the volume trend of all selected mascons."""
    chosen = _selected(results).set_index("mascon_id")["ice_area_km2"]
    both = _joined(truth, results, "mascon_months", "dh_m").dropna(subset=["dh_m", "true_dh_m"])
    area = chosen.reindex(both["mascon_id"]).to_numpy(np.float64)
    table = pd.DataFrame(
        {
            "month": both["month"].to_numpy(),
            "found": both["dh_m"].to_numpy() * area * 1e-3,
            "true": both["true_dh_m"].to_numpy() * area * 1e-3,
            "area": area,
        }
    )
    sums = table.groupby("month").sum()
    sums = sums[sums["area"] >= 0.999 * sums["area"].max()]
    months = sums.index.to_numpy()
    true, _ = _trend(months, sums["true"].to_numpy())
    found, _ = _trend(months, sums["found"].to_numpy())
    return [
        _metric(
            "volume_trend_error",
            (found - true) / abs(true),
            VOLUME_TREND_SHARE,
            len(sums),
            "relative error of the altimetric volume trend of the selected mascons",
            found_km3_yr=found,
            true_km3_yr=true,
        )
    ]


def _within_two_sigma(error: np.ndarray, sigma: np.ndarray, name: str, about: str) -> Metric:
    known = np.isfinite(error) & np.isfinite(sigma)
    if not known.any():
        raise NotComputedError("no month has a total, its σ and a planted one")
    error, sigma = error[known], sigma[known]
    return _metric(
        f"{name}_within_2_sigma",
        float(np.mean(np.abs(error) <= 2 * sigma)),
        TOTALS_WITHIN_TWO_SIGMA,
        error.size,
        f"share of months in which the {about} is within 2σ of the truth; σ of gravity with the "
        "configured correlation length",
        least=True,
        mean_error=float(error.mean()),
        rmse=float(np.sqrt(np.mean(error**2))),
        sigma=float(np.sqrt(np.mean(sigma**2))),
    )


def check_total_volume(truth: Tables, results: Tables) -> list[Metric]:
    """Return how often the altimetric total volume is within 2σ of the true one."""
    totals = _take(results, "totals", "source", "month", "volume_km3", "volume_sigma_km3")
    months = _take(truth, "mascon_months", "mascon_id", "month", "dh_m")
    ice = _selected(results).set_index("mascon_id")["ice_area_km2"]
    own = months[months["mascon_id"].isin(ice.index)]
    volume = own["dh_m"] * ice.reindex(own["mascon_id"]).to_numpy() * 1e-3
    true = volume.groupby(own["month"]).sum()
    part = own_volume(totals).dropna(subset=["value"])
    error = part["value"].to_numpy() - true.reindex(part["month"]).to_numpy()
    sigma = part["sigma"].to_numpy(np.float64)
    return [_within_two_sigma(error, sigma, "volume", "altimetric total volume (km³)")]


def check_totals(truth: Tables, results: Tables) -> list[Metric]:
    """Return the error of the gravimetric trend and totals against what is planted, leaked."""
    totals = _take(results, "totals", "source", "month", "mass_gt", "mass_sigma_gt")
    months = _take(truth, "mascon_months", "mascon_id", "month", "lwe_planted_cm", "mass_gt_own")
    gravity = totals[(totals["source"] == "gravity") & totals["mass_gt"].notna()]
    land = _selected(results).set_index("mascon_id")["land_area_km2"]
    own = months[months["mascon_id"].isin(land.index)].copy()
    own["planted_gt"] = lwe_to_mass(
        own["lwe_planted_cm"].to_numpy(np.float64),
        land.reindex(own["mascon_id"]).to_numpy(np.float64),
    )
    sums = own.groupby("month")[["planted_gt", "mass_gt_own"]].sum(min_count=len(land))
    both = gravity.set_index("month").join(sums, how="inner").dropna(subset=["planted_gt"])
    if both.empty:
        raise NotComputedError("no month has both a total and a planted one")
    index = both.index.to_numpy()
    found, sigma = _trend(index, both["mass_gt"].to_numpy(np.float64))
    true, _ = _trend(index, both["planted_gt"].to_numpy(np.float64))
    own_trend, _ = _trend(index, both["mass_gt_own"].to_numpy(np.float64))
    return [
        _metric(
            "gravity_trend_error",
            found - true,
            TREND_SIGMAS * sigma,
            len(both),
            "error of the gravimetric total's trend against the planted mass after leakage (Gt/yr)",
            found_gt_yr=found,
            planted_gt_yr=true,
            before_leakage_gt_yr=own_trend,
        ),
        _within_two_sigma(
            (both["mass_gt"] - both["planted_gt"]).to_numpy(np.float64),
            both["mass_sigma_gt"].to_numpy(np.float64),
            "gravity",
            "gravimetric total (Gt)",
        ),
    ]


def check_altimetric_totals(truth: Tables, results: Tables) -> list[Metric]:
    """Return how altimetric totals, as mass and so as sea level, agree with the planted mass.

    Both are compared without their means: an altimetric total has gravity's baseline. The detail
    says how far off the true volume at the same density would be, month by month.
    """
    totals = _take(
        results, "totals", "source", "month", "density_kg_m3", "mass_gt", "mass_sigma_gt"
    )
    trends = _take(results, "sea_level", "source", "start", "trend_gt_yr", "trend_sigma_gt_yr")
    months = _take(truth, "mascon_months", "mascon_id", "month", "dh_m", "lwe_planted_cm")
    areas = _selected(results).set_index("mascon_id")
    own = months[months["mascon_id"].isin(areas.index)]
    ice, land = (
        areas[name].reindex(own["mascon_id"]).to_numpy()
        for name in ("ice_area_km2", "land_area_km2")
    )
    own = own.assign(
        km3=own["dh_m"] * ice * 1e-3,
        gt=lwe_to_mass(own["lwe_planted_cm"].to_numpy(np.float64), land),
    )
    sums = own.groupby("month")[["km3", "gt"]].sum(min_count=len(areas))
    found = []
    for source, part in totals[totals["source"] != "gravity"].groupby("source"):
        both = part.set_index("month").join(sums, how="inner").dropna(subset=["mass_gt", "gt"])
        if both.empty:
            raise NotComputedError(f"no month has both a total of {source} and a planted one")
        density = float(both["density_kg_m3"].iloc[0])
        error = both["mass_gt"] - both["gt"]
        perfect = both["km3"] * density * 1e-3 - both["gt"]
        within = _within_two_sigma(
            (error - error.mean()).to_numpy(np.float64),
            both["mass_sigma_gt"].to_numpy(np.float64),
            str(source),
            f"altimetric total at {density:.0f} kg/m³, as mass or sea level,",
        )
        within["about"] = (
            f"share of months in which the altimetric total at {density:.0f} kg/m³, as mass or as "
            "sea level, is within 2σ of the truth; its σ is that of elevation alone: mass that "
            "lags elevation, and densities that differ, are in no σ"
        )
        within["detail"]["rmse_of_true_volume"] = _plain(float(perfect.std(ddof=0)))
        found.append(within)
        row = trends[trends["source"] == source].iloc[0]
        true, _ = _trend(both.index.to_numpy(), both["gt"].to_numpy(np.float64))
        found.append(
            _metric(
                f"{source}_trend_error",
                float(row["trend_gt_yr"]) - true,
                TREND_SIGMAS * float(row["trend_sigma_gt_yr"]),
                len(both),
                f"error of the trend of mass by altimetry at {density:.0f} kg/m³ (Gt/yr), against "
                "2σ; over 361.8 that of sea level (mm/yr)",
                found_gt_yr=row["trend_gt_yr"],
                planted_gt_yr=true,
            )
        )
    return found


def check_sea_level(truth: Tables, results: Tables) -> list[Metric]:
    """Return the error of sea level, month by month and as a trend, against the planted mass."""
    totals = _take(results, "totals", "source", "month", "sea_level_mm", "sea_level_sigma_mm")
    trends = _take(
        results, "sea_level", "source", "start", "end", "sea_level_mm_yr", "sea_level_sigma_mm_yr"
    )
    months = _take(truth, "mascon_months", "mascon_id", "month", "lwe_planted_cm")
    land = _selected(results).set_index("mascon_id")["land_area_km2"]
    own = months[months["mascon_id"].isin(land.index)]
    mass = own["lwe_planted_cm"] * land.reindex(own["mascon_id"]).to_numpy() * 1e-5
    rise = -mass.groupby(own["month"]).sum(min_count=len(land)) / GT_PER_MM_SEA_LEVEL
    gravity = totals[totals["source"] == "gravity"].dropna(subset=["sea_level_mm"])
    error = gravity["sea_level_mm"].to_numpy() - rise.reindex(gravity["month"]).to_numpy()
    sigma = gravity["sea_level_sigma_mm"].to_numpy(np.float64)
    found = [_within_two_sigma(error, sigma, "sea_level", "rise of sea level by gravity (mm)")]
    # The last row: the months that altimetry has, too, of which the whole truth is written.
    row = trends[trends["source"] == "gravity"].iloc[-1]
    used = gravity[gravity["month"].between(row["start"], row["end"])]["month"]
    true, _ = _trend(used.to_numpy(), rise.reindex(used).to_numpy(np.float64))
    found.append(
        _metric(
            "sea_level_trend_error",
            float(row["sea_level_mm_yr"]) - true,
            TREND_SIGMAS * float(row["sea_level_sigma_mm_yr"]),
            len(used),
            f"error of the trend of sea level by gravity (mm/yr), against 2σ, "
            f"{row['start']:%Y-%m} to {row['end']:%Y-%m}",
            found_mm_yr=row["sea_level_mm_yr"],
            planted_mm_yr=true,
        )
    )
    return found


def check_melt_seasons(
    truth: Tables, results: Tables, season_months: Sequence[int], coverage: float
) -> list[Metric]:
    """Return whether the order of the studied melt seasons is found, and how GRACE is covered.

    The value is the smallest step from a season to the next weaker one, in the planted order:
    positive where no two are exchanged.
    """
    study = _take(
        results, "case_study", "scope", "year", "dh_season_m", "observed_late_gt",
        "predicted_late_gt", "observed_gt", "predicted_gt", "predicted_lower_gt",
        "predicted_upper_gt",
    )  # fmt: skip
    months = _take(truth, "mascon_months", "mascon_id", "month", "dh_m", "lwe_planted_cm")
    areas = _selected(results).set_index("mascon_id")
    own = months[months["mascon_id"].isin(areas.index)]
    ice, land = (
        areas[name].reindex(own["mascon_id"]).to_numpy()
        for name in ("ice_area_km2", "land_area_km2")
    )
    sums = pd.DataFrame(
        {
            "dh": own["dh_m"].to_numpy() * ice / areas["ice_area_km2"].sum(),
            "mass": own["lwe_planted_cm"].to_numpy() * land * 1e-5,
        }
    )
    planted = sums.groupby(own["month"].to_numpy()).sum(min_count=len(areas))
    sheet = study[study["scope"] == "sheet"].set_index("year").sort_index()
    seasons = [season_of(year, season_months) for year in sheet.index]
    # Mass to the end of the window, in which gravity has seen the season.
    ends = {"dh": [s.months[-1] for s in seasons], "mass": [s.window[-1] for s in seasons]}
    before = [s.before for s in seasons]
    true = {
        name: planted[name].reindex(last).to_numpy() - planted[name].reindex(before).to_numpy()
        for name, last in ends.items()
    }
    found = []
    for source, column, name, unit in (
        ("dh", "dh_season_m", "dh", "m"),
        ("gravimetry", "observed_late_gt", "mass", "Gt"),
        ("model", "predicted_late_gt", "mass", "Gt"),
    ):
        order = np.argsort(true[name])
        if len(order) < 2 or not np.isfinite(true[name]).all():
            raise NotComputedError("fewer than two studied seasons have a planted change")
        values = sheet[column].to_numpy(np.float64)
        found.append(
            _metric(
                f"melt_order_{source}",
                float(np.diff(values[order]).min()),
                0.0,
                len(order),
                f"smallest step between melt seasons in the planted order, {source} of the "
                f"region ({unit})",
                least=True,
                order=sheet.index.to_numpy()[order].tolist(),
                found=values[order].tolist(),
                planted=true[name][order].tolist(),
            )
        )
    single = study[study["scope"] != "sheet"].dropna(
        subset=["observed_gt", "predicted_lower_gt", "predicted_upper_gt"]
    )
    inside = single["observed_gt"].between(
        single["predicted_lower_gt"], single["predicted_upper_gt"]
    )
    found.append(
        _metric(
            "melt_season_inside",
            float(inside.mean()) if len(inside) else np.nan,
            coverage - 2 * np.sqrt(coverage * (1 - coverage) / max(len(inside), 1)),
            len(inside),
            "share of mascons and studied seasons whose GRACE value lies in the model's interval, "
            f"against the {100 * coverage:g} % meant less two binomial σ",
            least=True,
        )
    )
    return found


def check_rapid_melt(truth: Tables, results: Tables, season_months: Sequence[int]) -> list[Metric]:
    """Return whether planted extremes of the sheet's elevation are flagged, and false alarms.

    The rate of false alarms is that of worlds with the record's months, independent of the
    surrogates of the run, whose melt season varies once, twice or three times as much.
    """
    flags = _take(results, "rapid_melt", "scope", "source", "month", "flagged")
    rates = _take(results, "rapid_melt_rates", "scope", "source", "nominal_rate", "most_by_chance")
    months = _take(truth, "mascon_months", "mascon_id", "month", "dh_m")
    ice = _selected(results).set_index("mascon_id")["ice_area_km2"]
    own = months[months["mascon_id"].isin(ice.index)]
    weight = ice.reindex(own["mascon_id"]).to_numpy() / ice.sum()
    dh = (own["dh_m"] * weight).groupby(own["month"]).sum(min_count=len(ice)).dropna()
    change = dh.diff().dropna()
    years = year_fraction(month_middle(change.index.to_numpy()))
    design = build_design("deseasonalised", years)
    value = change.to_numpy()
    anomaly = change - design @ np.linalg.lstsq(design, value, rcond=None)[0]
    apart = (anomaly - anomaly.median()).abs()
    spreads = anomaly * (MAD_PER_SIGMA / apart.median())
    own_spreads = anomaly / fit_spread(anomaly.to_numpy(), cycle_columns(years))
    sheet = flags[(flags["scope"] == "sheet") & (flags["source"] == "dh")]
    rate = rates[(rates["scope"] == "sheet") & (rates["source"] == "dh")].iloc[0]
    known = sheet["flagged"].notna()
    if not known.any():
        raise NotComputedError("no month of the region's elevation was looked at")
    flagged = set(sheet.loc[known & sheet["flagged"].fillna(False).astype(bool), "month"])
    looked = spreads[spreads.index.isin(sheet.loc[known, "month"])]
    extreme = looked.index[looked < -EXTREME_SPREADS]
    if extreme.empty:
        raise NotComputedError("no month of extreme loss is planted")
    ordinary = set(looked.index[looked >= -EXTREME_SPREADS])
    nominal = float(rate["nominal_rate"])
    ordered = sheet.assign(known=known).sort_values("month")
    grid, mask = ordered["month"].to_numpy(), ordered["known"].to_numpy()
    with single_threaded():
        alarms = _measure_alarms(grid, mask, nominal, season_months)
        power = _measure_power(grid, mask, nominal, own_spreads.reindex(extreme))
    return [
        _metric(
            "rapid_melt_found",
            float(looked.idxmin() in flagged),
            1.0,
            1,
            "1 where the month is flagged in which the planted elevation of the region falls most "
            "below its usual",
            least=True,
            flagged=sorted(f"{month:%Y-%m}" for month in flagged),
        ),
        _metric(
            "rapid_melt_share_found",
            float(np.mean([month in flagged for month in extreme])),
            np.nan,
            len(extreme),
            f"share of planted months {EXTREME_SPREADS:g} spreads of all months below their usual "
            f"that are flagged; of months as far below in spreads of their own time of the year, "
            f"{100 * power:.0f} % are found in noise",
            least=True,
            spreads_of_their_season={f"{m:%Y-%m}": own_spreads[m] for m in extreme},
            found_in_noise=power,
        ),
        _metric(
            "rapid_melt_false",
            float(len(flagged & ordinary)),
            float(rate["most_by_chance"]),
            len(looked),
            f"flagged months of the region's elevation that are not planted {EXTREME_SPREADS:g} "
            "spreads below their usual, against what 95 % of surrogates do not exceed",
        ),
        _metric(
            "rapid_melt_false_alarm_rate",
            max(alarms["all"].values()) - nominal,
            FALSE_ALARM_ERROR,
            ALARM_WORLDS,
            "rate of false alarms less the nominal one in worlds without an extreme whose melt "
            "season varies 1, 2 or 3 times as much as other months: the worst of the three",
            rates=alarms["all"],
        ),
        _metric(
            "rapid_melt_season_alarm_rate",
            max(alarms["season"].values()) - nominal,
            SEASON_ALARM_ERROR,
            ALARM_WORLDS,
            "the same in the months of the melt season",
            rates=alarms["season"],
        ),
    ]


def _measure_alarms(
    months: np.ndarray, known: np.ndarray, quantile: float, season_months: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Return the flagged share of noise by the factor its melt season varies more, and there.

    Parameters
    ----------
    months
        Consecutive months, shape (steps,).
    known
        Where the record has a value, shape (steps,).
    quantile
        Nominal rate.
    season_months
        Calendar months of the melt season.
    """
    years = year_fraction(month_middle(months))
    season = np.isin(month_index(months) % 12 + 1, season_months)
    treated = build_filter("deseasonalised", years, known)
    rng = np.random.default_rng(len(months))
    rates: dict[str, dict[str, float]] = {"all": {}, "season": {}}
    for factor in ALARM_FACTORS:
        noise = rng.standard_normal((ALARM_WORLDS, len(months))) * np.where(season, factor, 1.0)
        flags = np.array(
            [
                detect_extremes(world, years, treated, quantile, ALARM_SURROGATES, rng).flagged
                for world in noise
            ]
        )
        rates["all"][f"{factor:g}"] = float(flags[:, known].mean())
        rates["season"][f"{factor:g}"] = float(flags[:, known & season].mean())
    return rates


def _measure_power(
    months: np.ndarray, known: np.ndarray, quantile: float, planted: pd.Series
) -> float:
    """Return the mean probability that months so many spreads below their usual are flagged."""
    years = year_fraction(month_middle(months))
    treated = build_filter("deseasonalised", years, known)
    rng = np.random.default_rng(len(months))
    hits = []
    for month, spreads in planted.items():
        place = int(np.flatnonzero(months == np.datetime64(str(month)))[0])
        for world in rng.standard_normal((ALARM_WORLDS, len(months))):
            world[place] += spreads
            seen = detect_extremes(world, years, treated, quantile, ALARM_SURROGATES, rng)
            hits.append(seen.flagged[place])
    return float(np.mean(hits))


def _guarded(name: str, compute: Callable[[], list[Metric]]) -> list[Metric]:
    """Return metrics, or one without a value that says why."""
    try:
        return compute()
    except NotComputedError as error:
        return [
            {
                "metric": name,
                "value": None,
                "tolerance": None,
                "rule": None,
                "holds": False,
                "n": 0,
                "about": "could not be computed",
                "reason": str(error),
                "detail": {},
            }
        ]


def validate(
    truth: Tables,
    results: Tables,
    world: PlantedWorld,
    season_months: Sequence[int] = (6, 7, 8),
    coverage: float = 0.9,
) -> list[Metric]:
    """Compare a run's tables with the planted truth.

    Parameters
    ----------
    truth
        Truth tables by name: ``mascons``, ``mascon_months``, ``lakes``, ``lake_events``.
    results
        Result tables by name: ``nodes``, ``mascons``, ``mascon_months`` (retrospective),
        ``mascon_months_causal``, ``coupling``, ``regime_nodes``, ``lakes``, ``lake_events``,
        ``scores``, ``predictions``, ``totals``, ``sea_level``, ``case_study``, ``rapid_melt``,
        ``rapid_melt_rates``. Tables that are missing make their metrics null.
    world
        The planted world, asked for rates and regimes at nodes.
    season_months
        Calendar months of the melt season.
    coverage
        Nominal coverage of intervals.

    Returns
    -------
    list of dict
        ``metric``, ``value``, ``tolerance``, ``rule``, ``holds``, ``n``, ``about``, ``reason``
        (null where the value is known) and ``detail``.
    """
    checks: list[tuple[str, Callable[[], list[Metric]]]] = [
        ("rate", lambda: check_rates(results, world)),
        ("mascon_dh", lambda: check_mascon_elevation(truth, results)),
        ("causal_dh", lambda: check_causal_elevation(truth, results)),
        ("volume_trend_error", lambda: check_volume(truth, results)),
        ("lag", lambda: check_lags(truth, results)),
        ("density", lambda: check_densities(truth, results)),
        ("regime_adjusted_rand", lambda: check_regimes(results, world)),
        ("lakes", lambda: check_lakes(truth, results)),
        ("skill", lambda: check_skill(truth, results)),
        ("gravity_trend_error", lambda: check_totals(truth, results)),
        ("volume_within_2_sigma", lambda: check_total_volume(truth, results)),
        ("sea_level_within_2_sigma", lambda: check_sea_level(truth, results)),
        ("melt_order", lambda: check_melt_seasons(truth, results, season_months, coverage)),
        ("rapid_melt", lambda: check_rapid_melt(truth, results, season_months)),
        ("altimetric_totals", lambda: check_altimetric_totals(truth, results)),
    ]
    return [metric for name, check in checks for metric in _guarded(name, check)]
