"""Features of mascon × month, causal by construction, and the partitioned table they are in.

A feature at month m is computed from rows of the causal table at m and before; nothing is
fitted over time here. What is fitted (scalers, imputers, climatologies) belongs to the
training fold of whoever learns. Height and slope come from the causal fits as well; static
features know the node grid, the footprints and the bed, and nothing that was measured from
above.

Dynamic features, those that can have lags, are those that a month's own segments move
(``features: lagged``). By default these are the change itself, its shortest difference and its
interannual part. Thinning, spread and rate describe fits to the whole past: their lags tell
little that the month does not, and a lagged share of ice sampled tells of clouds and orbits.
They are one key away. Longer differences are sums of lagged shorter ones.

Targets stand in the same table: monthly change and cumulative anomaly, in cm water
equivalent over the mascon's land. The cumulative anomaly counts from its own mean over the
first twelve months of the period that have a solution, because elevation change knows
nothing of the mass lost before the period.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from cryofuse.calendar import TIME_DTYPE, month_index, month_middle, year_fraction
from cryofuse.tables import PROVENANCE_KEY
from cryofuse.units import GT_PER_CM_KM2

if TYPE_CHECKING:
    import geopandas
    import pyarrow as pa
    from shapely.geometry.base import BaseGeometry

    from cryofuse.config import FeatureSettings, LaggedFeature

#: Columns of ``NODES`` that the static features read: the grid and the bed, no fit.
NODE_COLUMNS = ["node_id", "x_m", "y_m", "latitude", "longitude", "area_km2", "bed_m"]
#: Months of the period whose mean is the zero of the cumulative target.
BASELINE_MONTHS = 12
_LAG = re.compile(r"^(?P<base>.+)_lag(?P<lag>\d{2})$")
_CHANGE = re.compile(r"^dh_change_(?P<span>\d+)m_m$")
_TWO_PI = 2.0 * np.pi


@dataclass(frozen=True)
class Feature:
    """What a feature is: unit, formula, causal window, group, and its name for lags, if any."""

    unit: str
    formula: str
    window: str
    group: str
    lagged_as: LaggedFeature | None = None


_TO_MONTH = "segments up to the end of the month"
_MONTH_ONLY = "segments of the month, at nodes that have a model by segments up to its end"
_STATIC = "static: footprint and ice"

#: Every feature by its name; ``dh_change_{n}m_m`` stands for each configured span n (months).
FEATURES: dict[str, Feature] = {
    "dh_m": Feature(
        "m",
        "mean elevation change of the mascon's ice since the middle of the period's first month",
        _TO_MONTH,
        "elevation",
        "dh_m",
    ),
    "dh_change_{n}m_m": Feature(
        "m",
        "dh_m less dh_m n months before",
        _TO_MONTH,
        "elevation_change_{n}m",
        "dh_change",
    ),
    "dh_interannual_m": Feature(
        "m",
        "dh_m less trend and annual cycle of the nodes' fits to segments up to the month: "
        "dh_m − rate·(t − t₁) − amplitude·(cos(2πt − phase) − cos(2πt₁ − phase)), t₁ the middle "
        "of the first month",
        _TO_MONTH,
        "interannual",
        "dh_interannual_m",
    ),
    "dh_rate_m_yr": Feature(
        "m/yr", "area-weighted mean of the nodes' fitted rates", _TO_MONTH, "rate", "dh_rate_m_yr"
    ),
    "dh_cycle_amplitude_m": Feature(
        "m", "amplitude of the mean fitted annual cycle", _TO_MONTH, "annual_cycle"
    ),
    "dh_cycle_cos_m": Feature(
        "m",
        "amplitude·cos(phase) of the mean fitted annual cycle dh = amplitude·cos(2πt − phase), "
        "t in years since 2000-01-01: the phase without a jump at its ends, and without a say "
        "where there is no cycle",
        _TO_MONTH,
        "annual_cycle",
    ),
    "dh_cycle_sin_m": Feature(
        "m",
        "amplitude·sin(phase) of the same cycle",
        _TO_MONTH,
        "annual_cycle",
    ),
    "dh_cycle_change_1m_m": Feature(
        "m",
        "change over the month before of the mean fitted annual cycle: amplitude·(cos(2πt − "
        "phase) − cos(2π(t − 1/12) − phase)), what the season alone would bring",
        _TO_MONTH,
        "annual_cycle_change",
        "dh_cycle_change",
    ),
    "dh_fraction_thinning": Feature(
        "1",
        "share of the fitted ice area whose rate is negative",
        _TO_MONTH,
        "thinning",
        "dh_fraction_thinning",
    ),
    "dh_spread_m": Feature(
        "m",
        "area-weighted standard deviation of the nodes' fitted change",
        _TO_MONTH,
        "spread",
        "dh_spread_m",
    ),
    "sampled_fraction": Feature(
        "1",
        "share of the ice area with segments in the month",
        _MONTH_ONLY,
        "sampling",
        "sampled_fraction",
    ),
    "season_cos": Feature("1", "cos(2π·(calendar month − 0.5)/12)", "calendar", "season"),
    "season_sin": Feature("1", "sin(2π·(calendar month − 0.5)/12)", "calendar", "season"),
    "season2_cos": Feature("1", "cos(4π·(calendar month − 0.5)/12)", "calendar", "season"),
    "season2_sin": Feature("1", "sin(4π·(calendar month − 0.5)/12)", "calendar", "season"),
    "ice_area_km2": Feature("km²", "area of ice in the footprint", _STATIC, "ice"),
    "ice_fraction": Feature("1", "ice area over land area", _STATIC, "ice"),
    "latitude": Feature("degrees north", "centroid of the footprint", _STATIC, "position"),
    "longitude": Feature("degrees east", "centroid of the footprint", _STATIC, "position"),
    "elevation_m": Feature(
        "m",
        "area-weighted mean of the nodes' fitted height above WGS84 in the middle of the "
        "period's first month",
        _TO_MONTH,
        "topography",
    ),
    "slope": Feature(
        "m/m", "area-weighted mean of the nodes' fitted slope", _TO_MONTH, "topography"
    ),
    "marine_margin_fraction": Feature(
        "1",
        "share of ice area on a bed below sea level and nearer to the sea than "
        "features: marine_distance_m",
        "static: bed and coast",
        "marine_margin",
    ),
}

TARGETS = {
    "target_change_cm": ("cm", "mass change since the month (season) before / land area"),
    "target_change_sigma_cm": ("cm", "its σ"),
    "target_cumulative_cm": (
        "cm",
        "mass anomaly / land area, less its mean over the period's first 12 months with a solution",
    ),
    "target_cumulative_sigma_cm": ("cm", "σ of the mass anomaly / land area"),
}
#: Columns that are neither target nor feature.
CONTEXT = {
    "mascon_id": "number of the mascon",
    "month": "first day of the month (season: of its first month)",
    "land_area_km2": "area of land cells, for Gt",
}


def split_lag(column: str) -> tuple[str, int]:
    """Return the feature that a column is a lag of, and its lag (months; 0: the feature)."""
    match = _LAG.match(column)
    return (match["base"], int(match["lag"])) if match else (column, 0)


def feature_group(column: str) -> str:
    """Return the group of a feature column: the feature with all its lags and its siblings.

    Raises
    ------
    KeyError
        If the column is no feature.
    """
    base, _ = split_lag(column)
    change = _CHANGE.match(base)
    if change:
        return FEATURES["dh_change_{n}m_m"].group.format(n=change["span"])
    return FEATURES[base].group


def feature_unit(column: str) -> str:
    """Return the unit of a feature column, that of a lag being its feature's.

    Raises
    ------
    KeyError
        If the column is no feature.
    """
    base, _ = split_lag(column)
    return FEATURES["dh_change_{n}m_m" if _CHANGE.match(base) else base].unit


def feature_columns(table: pd.DataFrame) -> list[str]:
    """Return the names of a table's feature columns, in the table's order."""
    names = []
    for column in table.columns:
        try:
            feature_group(str(column))
        except KeyError:
            continue
        names.append(str(column))
    return names


def data_dictionary(settings: FeatureSettings | None = None) -> list[dict[str, str]]:
    """Return one row per column of the feature table, for the documentation.

    Parameters
    ----------
    settings
        Spans and lags (default: the configuration's defaults).

    Returns
    -------
    list of dict
        Keys: name, kind (context, target, feature), unit, formula, window, group, lags.
    """
    from cryofuse.config import FeatureSettings

    settings = settings or FeatureSettings()
    step = _step(settings)
    lags = (
        f"{step}…{settings.lags_months} months, every {step}"
        if step > 1
        else (f"1…{settings.lags_months} months")
    )
    blank = {"window": "", "group": "", "lags": ""}
    rows = [
        {"name": name, "kind": "context", "unit": "", "formula": about} | blank
        for name, about in CONTEXT.items()
    ]
    rows += [
        {"name": name, "kind": "target", "unit": unit, "formula": about} | blank
        for name, (unit, about) in TARGETS.items()
    ]
    for name, feature in _expanded(settings).items():
        rows.append(
            {
                "name": name,
                "kind": "feature",
                "unit": feature.unit,
                "formula": feature.formula,
                "window": feature.window.replace("month", settings.step),
                "group": feature.group,
                "lags": lags if feature.lagged_as in settings.lagged else "",
            }
        )
    return rows


def _step(settings: FeatureSettings) -> int:
    return 3 if settings.step == "season" else 1


def _expanded(settings: FeatureSettings) -> dict[str, Feature]:
    """Return the features with one entry per configured span of change."""
    step = _step(settings)
    spans = sorted({span for span in settings.change_windows_months if span % step == 0})
    found: dict[str, Feature] = {}
    for name, feature in FEATURES.items():
        if "{n}" not in name:
            found[name] = feature
            continue
        for span in spans:
            found[name.format(n=span)] = Feature(
                feature.unit,
                feature.formula.replace("n months", f"{span} month{'s' if span > 1 else ''}"),
                feature.window,
                feature.group.format(n=span),
                # Longer changes are sums of lagged shorter ones.
                feature.lagged_as if span == min(spans) else None,
            )
    return found


def summarise_nodes(
    mascons: geopandas.GeoDataFrame,
    nodes: pd.DataFrame,
    settings: FeatureSettings,
    coast: BaseGeometry | None = None,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the static features that nodes carry, and why one is null.

    Parameters
    ----------
    mascons
        Table ``MASCONS`` with geometry.
    nodes
        All nodes (columns :data:`NODE_COLUMNS`).
    settings
        Distance of a marine margin.
    coast
        Land polygons in the region's CRS (that of ``x_m`` and ``y_m``): the sea begins at their
        edge.

    Returns
    -------
    table
        mascon_id, marine_margin_fraction (NaN where unknown).
    reasons
        Feature → why it is null for the whole region.
    """
    from cryofuse.mascons.footprints import locate

    owner = locate(mascons, nodes["longitude"].to_numpy(), nodes["latitude"].to_numpy())
    held = nodes[owner > 0].assign(mascon_id=owner[owner > 0])
    held = held.sort_values("node_id", ignore_index=True)
    reasons: dict[str, str] = {}
    bed = held["bed_m"].to_numpy(dtype=float)
    if not np.isfinite(bed).any():
        reasons["marine_margin_fraction"] = "the region names no bed (region: bed)"
    elif coast is None:
        reasons["marine_margin_fraction"] = "the region names no coast (region: coast)"
    marine = np.full(len(held), np.nan)
    if not reasons and coast is not None:
        marine = np.where(np.isfinite(bed), 0.0, np.nan)
        low = np.flatnonzero(bed < 0)
        edge = shapely.get_parts(_segments(coast.boundary))
        points = shapely.points(held["x_m"].to_numpy()[low], held["y_m"].to_numpy()[low])
        hit = shapely.STRtree(edge).query_nearest(
            points, max_distance=settings.marine_distance_m, all_matches=False
        )[0]
        marine[low[hit]] = 1.0
    held = held.assign(marine=marine)
    rows = [
        {
            "mascon_id": mascon,
            "marine_margin_fraction": _weighted(group["marine"], group["area_km2"]),
        }
        for mascon, group in held.groupby("mascon_id", sort=True)
    ]
    table = pd.DataFrame(rows, columns=["mascon_id", "marine_margin_fraction"])
    table = mascons[["mascon_id"]].merge(table, on="mascon_id", how="left")
    return pd.DataFrame(table), reasons


def _segments(line: BaseGeometry) -> BaseGeometry:
    """Return a line cut into its straight pieces."""
    pieces = []
    for part in shapely.get_parts(line):
        xy = shapely.get_coordinates(part)
        pieces.append(shapely.linestrings(np.stack([xy[:-1], xy[1:]], axis=1)))
    return shapely.multilinestrings(np.concatenate(pieces))


def _weighted(values: pd.Series, weights: pd.Series) -> float:
    value, weight = values.to_numpy(dtype=float), weights.to_numpy(dtype=float)
    good = np.isfinite(value) & (weight > 0)
    return float(np.average(value[good], weights=weight[good])) if good.any() else float("nan")


def build_features(
    causal: pd.DataFrame,
    mascons: pd.DataFrame,
    static: pd.DataFrame,
    settings: FeatureSettings,
    reasons: dict[str, str] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the feature table and the ledger of what is null in it.

    Parameters
    ----------
    causal
        Causal ``MASCON_MONTHS``: every mascon × every month of the period.
    mascons
        Table ``MASCONS``; only ``selected`` ones are kept.
    static
        Output of :func:`summarise_nodes`.
    settings
        Step, spans and lags.
    reasons
        Feature → why it is null for the whole region.

    Returns
    -------
    features
        One row per selected mascon × month (or season): context, targets, features.
    ledger
        feature, reason, n_null: one row per feature that is null somewhere.
    """
    kept = pd.DataFrame(mascons)
    kept = kept[kept["selected"]].sort_values("mascon_id", ignore_index=True)
    table = causal[causal["mascon_id"].isin(kept["mascon_id"])]
    table = table.sort_values(["mascon_id", "month"], ignore_index=True)
    grid = _to_grid(table, kept["mascon_id"].to_numpy())
    months = grid.months
    land = kept["land_area_km2"].to_numpy(dtype=float)[:, np.newaxis]

    dynamic = _monthly(grid)
    with np.errstate(divide="ignore", invalid="ignore"):
        cm = np.where(land > 0, 1.0 / (land * GT_PER_CM_KM2), np.nan)
    targets = {
        "target_change_cm": grid["mass_change_gt"] * cm,
        "target_change_sigma_cm": grid["mass_change_sigma_gt"] * cm,
        "target_cumulative_cm": grid["lwe_cm"] - _baseline(grid["lwe_cm"]),
        "target_cumulative_sigma_cm": grid["lwe_sigma_cm"],
    }
    step = _step(settings)
    if settings.step == "season":
        months, dynamic, targets = _to_seasons(months, dynamic, targets)
    columns = _ordered_features(dynamic, kept, static, months, settings, step)
    shape = (len(kept), months.size)
    frame = pd.DataFrame(
        {
            "mascon_id": np.repeat(kept["mascon_id"].to_numpy(dtype=np.int32), months.size),
            "month": np.tile(months, len(kept)),
            "land_area_km2": np.ravel(np.broadcast_to(land, shape)).astype(float),
            **{name: np.ravel(values) for name, values in targets.items()},
            **{
                name: np.array(np.broadcast_to(values, shape), dtype=float).ravel()
                for name, values in columns.items()
            },
        }
    )
    return frame, _ledger(frame, table, reasons or {})


@dataclass
class _Grid:
    """A table of mascon × month as arrays of one shape."""

    months: np.ndarray
    table: pd.DataFrame
    shape: tuple[int, int]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.table[name].to_numpy(dtype=float, na_value=np.nan).reshape(self.shape)


def _to_grid(table: pd.DataFrame, ids: np.ndarray) -> _Grid:
    months = np.unique(table["month"].to_numpy(TIME_DTYPE))
    shape = (ids.size, months.size)
    if len(table) != ids.size * months.size or (np.diff(month_index(months)) != 1).any():
        raise ValueError("the causal table does not hold every mascon × every month")
    return _Grid(months, table, shape)


def _monthly(grid: _Grid) -> dict[str, np.ndarray]:
    """Return the features of each month that need no other row."""
    change = grid["dh_m"]
    amplitude, phase, rate = grid["amplitude_m"], grid["phase_rad"], grid["rate_m_yr"]
    t = year_fraction(month_middle(grid.months))
    now = amplitude * np.cos(_TWO_PI * t - phase)
    cycle = now - amplitude * np.cos(_TWO_PI * t[0] - phase)
    return {
        "dh_m": change,
        "dh_interannual_m": change - rate * (t - t[0]) - cycle,
        "dh_rate_m_yr": rate,
        "dh_cycle_amplitude_m": amplitude,
        "dh_cycle_cos_m": amplitude * np.cos(phase),
        "dh_cycle_sin_m": amplitude * np.sin(phase),
        "dh_cycle_change_1m_m": now - amplitude * np.cos(_TWO_PI * (t - 1 / 12) - phase),
        "dh_fraction_thinning": grid["fraction_thinning"],
        "dh_spread_m": grid["spread_m"],
        "sampled_fraction": grid["sampled_fraction"],
        "elevation_m": grid["elevation_m"],
        "slope": grid["slope"],
    }


def _baseline(lwe_cm: np.ndarray) -> np.ndarray:
    """Return the mean of each mascon's first twelve values, shape (mascons, 1)."""
    held = np.isfinite(lwe_cm)
    first = held & (np.cumsum(held, axis=1) <= BASELINE_MONTHS)
    count = first.sum(axis=1, keepdims=True)
    total = np.where(first, lwe_cm, 0.0).sum(axis=1, keepdims=True)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _to_seasons(
    months: np.ndarray, dynamic: dict[str, np.ndarray], targets: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return whole seasons (DJF, MAM, JJA, SON) in place of months.

    Features are means of at least two months; the cumulative target needs all three, and its
    change is that since the season before. σ of three months' mean takes months as independent.
    """
    number = month_index(months)
    # January 1970 is month 0; December opens a season.
    season = (number + 1) // 3
    whole, count = np.unique(season, return_counts=True)
    whole = whole[count == 3]
    member = [np.flatnonzero(season == value) for value in whole]

    def mean(values: np.ndarray, least: int) -> np.ndarray:
        columns = []
        for place in member:
            part = values[:, place]
            held = np.isfinite(part).sum(axis=1)
            total = np.where(np.isfinite(part), part, 0.0).sum(axis=1)
            columns.append(np.where(held >= least, total / np.maximum(held, 1), np.nan))
        return np.stack(columns, axis=1) if columns else np.empty((values.shape[0], 0))

    seasonal = {name: mean(values, 2) for name, values in dynamic.items()}
    level = mean(targets["target_cumulative_cm"], 3)
    sigma = np.sqrt(mean(targets["target_cumulative_sigma_cm"] ** 2, 3) / 3)
    change, change_sigma = np.full_like(level, np.nan), np.full_like(level, np.nan)
    change[:, 1:] = np.diff(level, axis=1)
    change_sigma[:, 1:] = np.hypot(sigma[:, 1:], sigma[:, :-1])
    starts = (whole * 3 - 1).astype("datetime64[M]").astype(TIME_DTYPE)
    return (
        starts,
        seasonal,
        {
            "target_change_cm": change,
            "target_change_sigma_cm": change_sigma,
            "target_cumulative_cm": level,
            "target_cumulative_sigma_cm": sigma,
        },
    )


def _shift(values: np.ndarray, steps: int) -> np.ndarray:
    """Return values of ``steps`` columns before, NaN where there is none."""
    moved = np.full_like(values, np.nan)
    if steps < values.shape[1]:
        moved[:, steps:] = values[:, : values.shape[1] - steps]
    return moved


def _ordered_features(
    dynamic: dict[str, np.ndarray],
    mascons: pd.DataFrame,
    static: pd.DataFrame,
    months: np.ndarray,
    settings: FeatureSettings,
    step: int,
) -> dict[str, np.ndarray]:
    """Return every feature column in the order of :data:`FEATURES`, lags after all others."""
    middle = month_index(months) % 12 + step / 2
    fixed = mascons.merge(static, on="mascon_id", how="left", validate="one_to_one")
    found: dict[str, np.ndarray] = {}
    lagged: dict[str, np.ndarray] = {}
    for name, feature in _expanded(settings).items():
        change = _CHANGE.match(name)
        if change:
            values = dynamic["dh_m"] - _shift(dynamic["dh_m"], int(change["span"]) // step)
        elif name == "season_cos":
            values = np.cos(_TWO_PI * middle / 12)
        elif name == "season_sin":
            values = np.sin(_TWO_PI * middle / 12)
        elif name == "season2_cos":
            values = np.cos(2 * _TWO_PI * middle / 12)
        elif name == "season2_sin":
            values = np.sin(2 * _TWO_PI * middle / 12)
        elif name in dynamic:
            values = dynamic[name]
        else:
            values = fixed[name].to_numpy(dtype=float)[:, np.newaxis]
        found[name] = values
        if feature.lagged_as in settings.lagged:
            for lag in range(step, settings.lags_months + 1, step):
                lagged[f"{name}_lag{lag:02d}"] = _shift(values, lag // step)
    return found | lagged


def _ledger(frame: pd.DataFrame, causal: pd.DataFrame, reasons: dict[str, str]) -> pd.DataFrame:
    """Return one row per feature that is null somewhere, with the reason."""
    rows = []
    for name in feature_columns(frame):
        count = int(frame[name].isna().sum())
        if count == 0:
            continue
        base, lag = split_lag(name)
        if name in reasons:
            reason = reasons[name]
        elif lag:
            reason = f"{base} is null {lag} months before, or it is too early"
        elif _CHANGE.match(name):
            reason = "dh_m is null at an end of the span, or it is too early"
        elif name == "marine_margin_fraction":
            reason = "no node of the mascon lies on a known bed"
        else:
            reason = _why_null(frame[name], causal["reason"])
        rows.append({"feature": name, "reason": reason, "n_null": count})
    return pd.DataFrame(rows, columns=["feature", "reason", "n_null"]).astype(
        {"feature": "str", "reason": "str", "n_null": "int64"}
    )


def _why_null(values: pd.Series, told: pd.Series) -> str:
    """Return the reasons of the causal table, with how many rows each where rows are months."""
    if len(values) == len(told):
        counts = told[values.isna().to_numpy()].value_counts()
        found = [f"{reason} ({count})" for reason, count in counts.items()]
    else:
        found = [f"two months or more: {reason}" for reason in told.dropna().unique()]
    return "; ".join(found) or "no value in the causal table"


def feature_schema(columns: Iterable[str]) -> pa.Schema:
    """Return the Arrow schema of the feature files (the partition columns are in the path)."""
    import pyarrow as pa

    kinds = {"mascon_id": pa.int32(), "month": pa.timestamp("us")}
    return pa.schema(
        [
            pa.field(name, kinds.get(name, pa.float64()), nullable=name not in kinds)
            for name in columns
        ]
    )


def write_features(
    features: pd.DataFrame,
    folder: str | Path,
    region: str,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Write the feature table as ``region=<r>/year=<y>/part-0.parquet``.

    Timestamps are microseconds, there is no index, every file has one schema, missing is null.
    The folder appears under its name only when it is complete.

    Parameters
    ----------
    features
        Output of :func:`build_features`.
    folder
        Folder to write; an older one is replaced.
    region
        Name of the region.
    provenance
        Plain values for the files' metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    metadata = {PROVENANCE_KEY: json.dumps(provenance or {}, sort_keys=True, default=str).encode()}
    schema = feature_schema(features.columns).with_metadata(metadata)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        ordered = features.sort_values(["mascon_id", "month"], ignore_index=True)
        for year, part in ordered.groupby(ordered["month"].dt.year, sort=True):
            place = temporary / f"region={region}" / f"year={year}"
            place.mkdir(parents=True)
            arrow = pa.Table.from_pandas(part, schema=schema, preserve_index=False)
            pq.write_table(
                arrow.replace_schema_metadata(metadata),
                place / "part-0.parquet",
                compression="zstd",
            )
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_features(folder: str | Path) -> pd.DataFrame:
    """Return the feature table of a folder, with ``region`` and ``year``, by mascon and month."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = []
    for path in sorted(Path(folder).glob("region=*/year=*/*.parquet")):
        region, year = (name.split("=", 1)[1] for name in path.parts[-3:-1])
        table = pq.ParquetFile(path).read().replace_schema_metadata(None)
        table = table.append_column("region", pa.array([region] * table.num_rows, pa.string()))
        parts.append(
            table.append_column("year", pa.array([int(year)] * table.num_rows, pa.int32()))
        )
    if not parts:
        raise FileNotFoundError(f"{folder} holds no region=…/year=…/*.parquet")
    frame = pa.concat_tables(parts).to_pandas()
    return frame.sort_values(["region", "mascon_id", "month"], ignore_index=True)
