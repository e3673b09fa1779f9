"""From nodes to mascons: estimators of mean elevation change and its σ.

A month samples other tracks than the month before, so a plain mean of what is seen mixes
places. Three estimators (``fusion: estimator``), each over the ice of one mascon:

``regression``
    mean over ALL fitted nodes of each node's own model at the month, plus the mean residual of
    the nodes seen in the month, both weighted by area;
``mean``
    area-weighted mean of the nodes seen;
``hypsometric``
    means of the nodes seen by elevation band, weighted by the bands' areas; bands between seen
    ones are interpolated, bands beyond them take the nearest.

Node models and residuals are reduced tile by tile to sums over patches (a patch is a square
of the area π·L² within one mascon, L the correlation length), so memory does not grow with the
number of nodes. Errors are taken as fully correlated inside a patch and independent between
patches: the number of patches is the effective number of samples.

σ² has three parts: measurement (σ of the node months), sampling (the spread of residuals
between patches, pooled over the months known so far, for the share of ice not seen), and model
(σ of the fitted change, for the share of ice not seen). The causal tables add the spread of
the change itself for ice whose nodes have no model yet.

``retrospective`` changes count from the reference date, ``causal`` ones from the middle of the
period's first month, each month by fits that know nothing later; a node's band is then the one
of its height by the month's own fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cryofuse.calendar import TIME_DTYPE, month_index, month_middle, year_fraction
from cryofuse.mascons.footprints import locate, project_centres

if TYPE_CHECKING:
    import geopandas

    from cryofuse.config import FusionSettings

#: Columns that the functions read of each table.
NODE_COLUMNS = [
    "node_id",
    "x_m",
    "y_m",
    "latitude",
    "longitude",
    "area_km2",
    "elevation_m",
    "slope",
    "rate_m_yr",
    "rate_sigma_m_yr",
    "amplitude_m",
    "phase_rad",
    "rms_m",
    "n_epochs",
]
NODE_MONTH_COLUMNS = ["node_id", "month", "dh_m", "dh_sigma_m", "model_m", "tracks"]
CAUSAL_COLUMNS = [
    "node_id",
    "month",
    "model_m",
    "model_sigma_m",
    "rate_m_yr",
    "amplitude_m",
    "phase_rad",
    "elevation_m",
    "slope",
    "residual_m",
    "residual_sigma_m",
    "n_segments",
    "tracks",
]
#: Half-width at half maximum of the Gaussian of ``scale: gaussian_300km`` (km); Jekeli 1981.
GAUSSIAN_RADIUS_KM = 300.0
#: Heights that elevation bands cover (m above WGS84): all ice there is, whatever was measured;
#: what a fit puts beyond is counted in the first and the last band.
BAND_RANGE_M = (-500.0, 9000.0)
_TWO_PI = 2.0 * np.pi


@dataclass
class Frame:
    """Mascons, months, and the places of nodes: what all sums are indexed by.

    Attributes
    ----------
    mascon_id
        Ids, shape (k,), ascending.
    ice_area_km2
        Ice of each mascon (km²), shape (k,).
    months
        First days of months, shape (m,), consecutive.
    nodes
        Nodes inside the mascons: node_id (ascending), ``mascon`` (index), ``patch`` (index),
        area_km2 and the fitted columns.
    patch_mascon
        Mascon index of each patch, shape (p,).
    band_mascon, band_height_m
        Mascon index and middle (m) of each elevation band of a mascon, shape (b,): as many in
        every mascon, none where the estimator needs none.
    band_m
        Height of a band (m).
    """

    mascon_id: np.ndarray
    ice_area_km2: np.ndarray
    months: np.ndarray
    nodes: pd.DataFrame
    patch_mascon: np.ndarray
    band_mascon: np.ndarray
    band_height_m: np.ndarray
    band_m: float


@dataclass
class Sums:
    """Sums over patches × months (and bands × months) that the estimators need.

    All are weighted by node area (km²) unless the name says otherwise. ``known`` counts nodes
    with a model at the month, ``seen`` those with segments in it.
    """

    frame: Frame
    known: np.ndarray = field(init=False)
    model: np.ndarray = field(init=False)
    model_square: np.ndarray = field(init=False)
    model_variance: np.ndarray = field(init=False)
    rate: np.ndarray = field(init=False)
    cycle_cos: np.ndarray = field(init=False)
    cycle_sin: np.ndarray = field(init=False)
    thinning: np.ndarray = field(init=False)
    elevation: np.ndarray = field(init=False)
    slope: np.ndarray = field(init=False)
    seen: np.ndarray = field(init=False)
    residual: np.ndarray = field(init=False)
    residual_variance: np.ndarray = field(init=False)
    change: np.ndarray = field(init=False)
    count: np.ndarray = field(init=False)
    band_known: np.ndarray = field(init=False)
    band_seen: np.ndarray = field(init=False)
    band_change: np.ndarray = field(init=False)
    passes: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        """Start every sum at zero."""
        shape = (self.frame.patch_mascon.size, self.frame.months.size)
        bands = (self.frame.band_mascon.size, self.frame.months.size)
        for name in (
            "known model model_square model_variance rate cycle_cos cycle_sin thinning "
            "elevation slope seen residual residual_variance change count"
        ).split():
            setattr(self, name, np.zeros(shape))
        for name in ("band_known", "band_seen", "band_change"):
            setattr(self, name, np.zeros(bands))
        self.passes = []

    def over_mascons(self, values: np.ndarray) -> np.ndarray:
        """Return sums over the patches of each mascon, shape (mascons, months)."""
        out = np.zeros((self.frame.mascon_id.size, values.shape[1]))
        np.add.at(out, self.frame.patch_mascon, values)
        return out

    def track_counts(self) -> np.ndarray:
        """Return the number of distinct passes, shape (mascons, months)."""
        shape = (self.frame.mascon_id.size, self.frame.months.size)
        counts = np.zeros(shape, dtype=np.int64)
        if self.passes:
            unique = np.unique(np.concatenate(self.passes, axis=0), axis=0)
            np.add.at(counts, (unique[:, 0], unique[:, 1]), 1)
        return counts


def place_nodes(
    mascons: geopandas.GeoDataFrame,
    nodes: pd.DataFrame,
    months: np.ndarray,
    settings: FusionSettings,
) -> Frame:
    """Return the frame of all sums: each node's mascon and patch, each mascon's elevation bands.

    None of it depends on what was measured, so that it is the same at every month.

    Parameters
    ----------
    mascons
        Table ``MASCONS`` with geometry.
    nodes
        All nodes of the region (columns :data:`NODE_COLUMNS`), in any order.
    months
        Months of the tables, consecutive.
    settings
        Correlation length and band height.
    """
    mascons = mascons.sort_values("mascon_id")
    ids = mascons["mascon_id"].to_numpy()
    owner = locate(mascons, nodes["longitude"].to_numpy(), nodes["latitude"].to_numpy())
    held = nodes[owner > 0].assign(mascon=np.searchsorted(ids, owner[owner > 0]))
    held = held.sort_values("node_id", ignore_index=True)
    side = settings.correlation_length_m * np.sqrt(np.pi)
    corner = held.groupby("mascon")[["x_m", "y_m"]].transform("min")
    squares = np.column_stack(
        [
            held["mascon"].to_numpy(),
            # Counted from the mascon's own corner, so that a small mascon is not cut in vain.
            ((held[["x_m", "y_m"]] - corner) // side).to_numpy().astype(np.int64),
        ]
    )
    patches, patch = np.unique(squares, axis=0, return_inverse=True)
    low, high = (int(np.floor(edge / settings.elevation_band_m)) for edge in BAND_RANGE_M)
    steps = np.arange(low, high + 1 if settings.estimator == "hypsometric" else low)
    return Frame(
        mascon_id=ids,
        ice_area_km2=mascons["ice_area_km2"].to_numpy(dtype=float),
        months=np.asarray(months, TIME_DTYPE),
        nodes=held.assign(patch=np.ravel(patch)),
        patch_mascon=patches[:, 0],
        band_mascon=np.repeat(np.arange(ids.size), steps.size),
        band_height_m=np.tile((steps + 0.5) * settings.elevation_band_m, ids.size),
        band_m=settings.elevation_band_m,
    )


def find_bands(frame: Frame, mascon: np.ndarray, height_m: np.ndarray) -> np.ndarray:
    """Return the band of each height (m) in its mascon (index), as an index into the bands."""
    count = frame.band_mascon.size // frame.mascon_id.size
    lowest = frame.band_height_m[0] - frame.band_m / 2
    step = np.floor((height_m - lowest) / frame.band_m).astype(np.int64)
    return np.asarray(mascon * count + np.clip(step, 0, count - 1))


def sum_models(frame: Frame, reference: np.datetime64, settings: FusionSettings) -> Sums:
    """Return sums of the retrospective node models at every month.

    A node's change since the reference date is rate·(t − t₀) + amplitude·(cos(2πt − phase) −
    cos(2πt₀ − phase)), t at the middle of the month: linear in its rate and in the cosine and
    sine parts of its cycle, so sums of those and of their products are enough.

    Parameters
    ----------
    frame
        Output of :func:`place_nodes`.
    reference
        Reference date of the elevation changes.
    settings
        Largest σ of the fitted change at the ends of the period.
    """
    sums = Sums(frame)
    t = year_fraction(month_middle(frame.months))
    t0 = float(year_fraction(np.array([reference]))[0])
    terms = np.stack(
        [
            t - t0,
            np.cos(_TWO_PI * t) - np.cos(_TWO_PI * t0),
            np.sin(_TWO_PI * t) - np.sin(_TWO_PI * t0),
        ]
    )
    nodes = frame.nodes
    value = {name: nodes[name].to_numpy(dtype=float) for name in NODE_COLUMNS if name != "node_id"}
    rate_variance = value["rate_sigma_m_yr"] ** 2
    # Cosine and sine amplitudes of n independent passes with this scatter.
    cycle_variance = 2 * value["rms_m"] ** 2 / np.maximum(value["n_epochs"], 1)
    cycle_variance = np.where(np.isfinite(cycle_variance), cycle_variance, 0.0)
    good = fitted_nodes(frame, reference, settings)
    patch, area = nodes["patch"].to_numpy()[good], value["area_km2"][good]
    parts = np.stack(
        [
            value["rate_m_yr"],
            value["amplitude_m"] * np.cos(value["phase_rad"]),
            value["amplitude_m"] * np.sin(value["phase_rad"]),
        ]
    )[:, good]
    size = frame.patch_mascon.size

    def by_patch(values: np.ndarray) -> np.ndarray:
        return np.bincount(patch, weights=area * values, minlength=size)[:, np.newaxis]

    ones = np.ones((1, t.size))
    sums.known[:] = by_patch(np.ones(patch.size)) * ones
    sums.rate[:] = by_patch(parts[0]) * ones
    sums.cycle_cos[:] = by_patch(parts[1]) * ones
    sums.cycle_sin[:] = by_patch(parts[2]) * ones
    sums.thinning[:] = by_patch((parts[0] < 0).astype(float)) * ones
    sums.elevation[:] = by_patch(value["elevation_m"][good]) * ones
    sums.slope[:] = by_patch(value["slope"][good]) * ones
    for i in range(3):
        sums.model += by_patch(parts[i]) * terms[i]
        for j in range(3):
            sums.model_square += by_patch(parts[i] * parts[j]) * (terms[i] * terms[j])
    sums.model_variance[:] = by_patch(rate_variance[good]) * terms[0] ** 2 + by_patch(
        cycle_variance[good]
    ) * (terms[1] ** 2 + terms[2] ** 2)
    if frame.band_mascon.size:
        band = find_bands(frame, nodes["mascon"].to_numpy()[good], value["elevation_m"][good])
        by_band = np.bincount(band, weights=area, minlength=frame.band_mascon.size)
        sums.band_known[:] = by_band[:, np.newaxis] * ones
    return sums


def fitted_nodes(frame: Frame, reference: np.datetime64, settings: FusionSettings) -> np.ndarray:
    """Return which nodes of a frame have a fit precise enough to enter (boolean)."""
    t = year_fraction(month_middle(frame.months))
    t0 = float(year_fraction(np.array([reference]))[0])
    nodes = frame.nodes
    finite = np.isfinite(
        nodes[["rate_m_yr", "rate_sigma_m_yr", "amplitude_m", "phase_rad"]].to_numpy(dtype=float)
    ).all(axis=1)
    reach = float(np.abs(t - t0).max())
    sigma = nodes["rate_sigma_m_yr"].to_numpy(dtype=float) * reach
    return finite & (np.nan_to_num(sigma, nan=np.inf) <= settings.max_model_sigma_m)


def add_node_months(sums: Sums, tile: pd.DataFrame, good: np.ndarray) -> None:
    """Add one tile's node months to the retrospective sums.

    Parameters
    ----------
    sums
        Sums, changed in place.
    tile
        Rows of ``NODE_MONTHS`` (columns :data:`NODE_MONTH_COLUMNS`).
    good
        Which nodes of the frame enter (:func:`fitted_nodes`).
    """
    rows, node, month = _match(sums.frame, tile)
    keep = good[node]
    rows, node, month = rows[keep], node[keep], month[keep]
    change = tile["dh_m"].to_numpy(dtype=float)[rows]
    residual = change - tile["model_m"].to_numpy(dtype=float)[rows]
    sigma = tile["dh_sigma_m"].to_numpy(dtype=float)[rows]
    height = sums.frame.nodes["elevation_m"].to_numpy(dtype=float)[node]
    _add_seen(sums, node, month, residual, sigma, change, height)
    _add_passes(sums, tile, rows, node, month)


def add_causal_months(sums: Sums, tile: pd.DataFrame, settings: FusionSettings) -> None:
    """Add one tile's causal node months to the sums.

    Parameters
    ----------
    sums
        Sums, changed in place.
    tile
        Rows of ``NODE_MONTHS_CAUSAL`` (columns :data:`CAUSAL_COLUMNS`).
    settings
        Largest σ of a node's fitted change.
    """
    rows, node, month = _match(sums.frame, tile)
    # How a tile was cut, and so the order of its nodes, depends on all its segments, later ones
    # included; rounding of the sums must not.
    order = np.argsort(node, kind="stable")
    rows, node, month = rows[order], node[order], month[order]
    value = {
        name: tile[name].to_numpy(dtype=float)[rows]
        for name in CAUSAL_COLUMNS
        if name not in ("node_id", "month", "tracks")
    }
    good = np.isfinite(value["model_m"]) & (
        np.nan_to_num(value["model_sigma_m"], nan=np.inf) <= settings.max_model_sigma_m
    )
    rows, node, month = rows[good], node[good], month[good]
    value = {name: values[good] for name, values in value.items()}
    nodes = sums.frame.nodes
    area = nodes["area_km2"].to_numpy(dtype=float)[node]
    patch = nodes["patch"].to_numpy()[node]
    cos_part = value["amplitude_m"] * np.cos(value["phase_rad"])
    sin_part = value["amplitude_m"] * np.sin(value["phase_rad"])
    for target, values in (
        (sums.known, np.ones(node.size)),
        (sums.model, value["model_m"]),
        (sums.model_square, value["model_m"] ** 2),
        (sums.model_variance, value["model_sigma_m"] ** 2),
        (sums.rate, value["rate_m_yr"]),
        (sums.cycle_cos, cos_part),
        (sums.cycle_sin, sin_part),
        (sums.thinning, (value["rate_m_yr"] < 0).astype(float)),
        (sums.elevation, value["elevation_m"]),
        (sums.slope, value["slope"]),
    ):
        _accumulate(target, patch, month, area * values)
    if sums.frame.band_mascon.size:
        band = find_bands(sums.frame, nodes["mascon"].to_numpy()[node], value["elevation_m"])
        _accumulate(sums.band_known, band, month, area)
    seen = np.isfinite(value["residual_m"]) & (value["n_segments"] > 0)
    _add_seen(
        sums,
        node[seen],
        month[seen],
        value["residual_m"][seen],
        value["residual_sigma_m"][seen],
        (value["model_m"] + value["residual_m"])[seen],
        value["elevation_m"][seen],
    )
    _add_passes(sums, tile, rows[seen], node[seen], month[seen])


def _match(frame: Frame, tile: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the tile's rows that lie in the frame, with their node and month indices."""
    if tile.empty or frame.nodes.empty:
        return (np.empty(0, dtype=np.int64),) * 3
    ids = frame.nodes["node_id"].to_numpy()
    wanted = tile["node_id"].to_numpy()
    node = np.minimum(np.searchsorted(ids, wanted), ids.size - 1)
    month = month_index(tile["month"].to_numpy()) - month_index(frame.months[0])
    inside = (ids[node] == wanted) & (month >= 0) & (month < frame.months.size)
    rows = np.flatnonzero(inside)
    return rows, node[rows], month[rows]


def _accumulate(
    target: np.ndarray, row: np.ndarray, column: np.ndarray, values: np.ndarray
) -> None:
    flat = np.bincount(row * target.shape[1] + column, weights=values, minlength=target.size)
    target += flat.reshape(target.shape)


def _add_seen(
    sums: Sums,
    node: np.ndarray,
    month: np.ndarray,
    residual: np.ndarray,
    sigma: np.ndarray,
    change: np.ndarray,
    height: np.ndarray,
) -> None:
    nodes = sums.frame.nodes
    area = nodes["area_km2"].to_numpy(dtype=float)[node]
    patch = nodes["patch"].to_numpy()[node]
    variance = np.where(np.isfinite(sigma), sigma, 0.0) ** 2
    for target, values in (
        (sums.seen, area),
        (sums.residual, area * residual),
        (sums.residual_variance, area * variance),
        (sums.change, area * change),
        (sums.count, np.ones(node.size)),
    ):
        _accumulate(target, patch, month, values)
    if sums.frame.band_mascon.size:
        band = find_bands(sums.frame, nodes["mascon"].to_numpy()[node], height)
        _accumulate(sums.band_seen, band, month, area)
        _accumulate(sums.band_change, band, month, area * change)


def _add_passes(
    sums: Sums, tile: pd.DataFrame, rows: np.ndarray, node: np.ndarray, month: np.ndarray
) -> None:
    lists = tile["tracks"].to_numpy()[rows]
    lengths = np.fromiter((len(entry) for entry in lists), dtype=np.int64, count=rows.size)
    if lengths.sum() == 0:
        return
    passes = np.concatenate([np.asarray(entry, dtype=np.int64) for entry in lists])
    owner = np.repeat(sums.frame.nodes["mascon"].to_numpy()[node], lengths)
    triple = np.column_stack([owner, np.repeat(month, lengths), passes])
    sums.passes.append(np.unique(triple, axis=0))


def estimate(sums: Sums, settings: FusionSettings, *, causal: bool) -> pd.DataFrame:
    """Return mean elevation change per mascon and month from the sums.

    Parameters
    ----------
    sums
        Filled sums.
    settings
        Estimator, scale, smallest share of ice with fitted nodes.
    causal
        Whether sampling spread may be pooled over months up to each month only.

    Returns
    -------
    pandas.DataFrame
        The altimetric columns of ``MASCON_MONTHS``, one row per mascon and month.
    """
    frame = sums.frame
    area = frame.ice_area_km2[:, np.newaxis]
    known, seen = sums.over_mascons(sums.known), sums.over_mascons(sums.seen)
    ice = np.maximum(np.maximum(area, 0.0), 1e-9)
    known_share, seen_share = np.minimum(known / ice, 1.0), np.minimum(seen / ice, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums.over_mascons(sums.change) / seen
        model = sums.over_mascons(sums.model) / known
        residual = sums.over_mascons(sums.residual) / seen
        spread = np.sqrt(np.maximum(sums.over_mascons(sums.model_square) / known - model**2, 0.0))
        rate = sums.over_mascons(sums.rate) / known
        cycle_cos = sums.over_mascons(sums.cycle_cos) / known
        cycle_sin = sums.over_mascons(sums.cycle_sin) / known
        thinning = np.minimum(sums.over_mascons(sums.thinning) / known, 1.0)
    change = {
        "regression": model + residual,
        "mean": mean,
        "hypsometric": _hypsometric(sums),
    }[settings.estimator]
    sigma = _sigma(sums, known_share, seen_share, causal=causal, settings=settings)

    none = known <= 0
    few = ~none & (known_share < settings.min_fitted_share)
    unseen = ~none & ~few & (seen <= 0)
    reason = np.full(known.shape, None, dtype=object)
    held = f"{settings.causal_min_years:g} yr of data are held"
    reason[none] = f"no node has a model before {held}" if causal else "no node could be fitted"
    reason[np.broadcast_to(area <= 0, known.shape)] = "no ice of the region in the mascon"
    reason[few] = f"nodes with a model hold less than {settings.min_fitted_share:g} of the ice"
    reason[unseen] = "no node was seen in the month"
    for values in (change, sigma):
        values[none | few | unseen] = np.nan
    for values in (spread, rate, cycle_cos, cycle_sin, thinning):
        values[none | few] = np.nan
    mean[few] = np.nan

    columns = {
        "dh_m": change,
        "dh_sigma_m": sigma,
        "model_m": model,
        "dh_mean_m": mean,
        "rate_m_yr": rate,
        "cycle_cos": cycle_cos,
        "cycle_sin": cycle_sin,
    }
    shape = known.shape
    table = pd.DataFrame(
        {
            "mascon_id": np.repeat(frame.mascon_id, shape[1]),
            "month": np.tile(frame.months, shape[0]),
            **{name: np.ravel(values) for name, values in columns.items()},
            "spread_m": np.ravel(spread),
            "fraction_thinning": np.ravel(thinning),
            "sampled_fraction": np.ravel(seen_share),
            "n_nodes": np.ravel(sums.over_mascons(sums.count)).round().astype(np.int64),
            "n_tracks": np.ravel(sums.track_counts()),
            "reason": pd.array(np.ravel(reason), dtype="str"),
        }
    )
    return table


def _hypsometric(sums: Sums) -> np.ndarray:
    """Return means by elevation band weighted by the bands' areas (NaN where none is seen)."""
    frame = sums.frame
    out = np.full((frame.mascon_id.size, frame.months.size), np.nan)
    for number in range(frame.mascon_id.size):
        own = frame.band_mascon == number
        for month in range(frame.months.size):
            bands = np.flatnonzero(own & (sums.band_known[:, month] > 0))
            height = frame.band_height_m[bands]
            weight = sums.band_known[bands, month]
            seen = sums.band_seen[bands, month]
            if not (seen > 0).any():
                continue
            means = sums.band_change[bands, month][seen > 0] / seen[seen > 0]
            filled = np.interp(height, height[seen > 0], means)
            out[number, month] = np.average(filled, weights=weight)
    return out


def _sigma(
    sums: Sums,
    known_share: np.ndarray,
    seen_share: np.ndarray,
    *,
    causal: bool,
    settings: FusionSettings,
) -> np.ndarray:
    """Return σ of the mean change (m), shape (mascons, months); see the module's docstring."""
    frame = sums.frame
    seen, known = sums.over_mascons(sums.seen), sums.over_mascons(sums.known)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = sums.seen / seen[frame.patch_mascon]
        inside = np.where(sums.seen > 0, sums.residual_variance / sums.seen, 0.0)
        measurement = sums.over_mascons(np.nan_to_num(weight**2 * inside))
        effective = _inverse(sums.over_mascons(np.nan_to_num(weight**2)))
        # What is seen: residuals where a model carries the rest, changes where none does.
        observed = sums.residual if settings.estimator == "regression" else sums.change
        patch_mean = np.where(sums.seen > 0, observed / sums.seen, 0.0)
        mean = sums.over_mascons(np.nan_to_num(weight * patch_mean))
        apart = np.where(sums.seen > 0, (patch_mean - mean[frame.patch_mascon]) ** 2, 0.0)
        # Unbiased sum of squares: each month gives its effective number less one.
        squares = sums.over_mascons(np.nan_to_num(weight * apart)) * effective
        freedom = np.maximum(effective - 1.0, 0.0)
        if causal:
            between = np.cumsum(squares, axis=1) / np.cumsum(freedom, axis=1)
        else:
            between = squares.sum(axis=1, keepdims=True) / freedom.sum(axis=1, keepdims=True)
            between = np.broadcast_to(between, squares.shape)
        # One patch alone says nothing of the spread between patches: its own σ stands in.
        between = np.where(np.isfinite(between), between, np.nan_to_num(measurement))
        sampling = between * _inverse(effective) * (1.0 - seen_share)
        share = sums.known / known[frame.patch_mascon]
        error = np.where(sums.known > 0, sums.model_variance / sums.known, 0.0)
        model = sums.over_mascons(np.nan_to_num(share**2 * error)) * (1.0 - seen_share)
        centre = sums.over_mascons(sums.model) / known
        spread = np.maximum(sums.over_mascons(sums.model_square) / known - centre**2, 0.0)
        absent = spread * sums.over_mascons(np.nan_to_num(share**2)) * (1.0 - known_share)
        if settings.estimator != "regression":
            model = np.zeros_like(model)
        sigma = np.sqrt(measurement + sampling + model + absent)
    return np.where(seen > 0, sigma, np.nan)


def _inverse(values: np.ndarray) -> np.ndarray:
    """Return 1/values, 0 where a value is 0."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)


def smooth_gaussian(
    table: pd.DataFrame,
    mascons: pd.DataFrame,
    radius_km: float = GAUSSIAN_RADIUS_KM,
) -> pd.DataFrame:
    """Return mascon means smoothed to the resolution of satellite gravimetry.

    Each mean becomes the mean of all mascons with a value in the month, weighted by ice area ×
    exp(−ln 2·(d/radius)²), d the distance between centroids (Jekeli 1981's radius: half the
    weight at that distance). Mascons without a value stay null. σ assumes independent mascons.

    Parameters
    ----------
    table
        Output of :func:`estimate`.
    mascons
        Mascons with longitude, latitude, ice_area_km2.
    radius_km
        Half-width at half maximum (km).
    """
    mascons = mascons.sort_values("mascon_id")
    centre = project_centres(mascons) / 1e3
    distance = np.hypot(*(centre[:, np.newaxis, :] - centre[np.newaxis, :, :]).transpose(2, 0, 1))
    kernel = np.exp(-np.log(2.0) * (distance / radius_km) ** 2)
    kernel = kernel * mascons["ice_area_km2"].to_numpy(dtype=float)[np.newaxis, :]
    count = len(mascons)
    out = table.copy()
    for name in ("dh_m", "dh_mean_m", "rate_m_yr", "cycle_cos", "cycle_sin", "dh_sigma_m"):
        values = table[name].to_numpy(dtype=float).reshape(count, -1)
        held = np.isfinite(values)
        filled = np.where(held, values, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            if name == "dh_sigma_m":
                smoothed = np.sqrt(_mix(kernel**2, filled**2)) / _mix(kernel, held)
            else:
                smoothed = _mix(kernel, filled) / _mix(kernel, held)
        out[name] = np.where(held, smoothed, np.nan).ravel()
    return out


def _mix(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return sums of values (mascons × months) by the weights of each pair of mascons.

    Mascon by mascon: a matrix product rounds a month by how many months there are.
    """
    out = np.zeros(values.shape)
    for number, row in enumerate(values):
        out += weights[:, number, np.newaxis] * row
    return out


def add_surface(table: pd.DataFrame, sums: Sums) -> pd.DataFrame:
    """Return a table of :func:`estimate` with the mean height and slope of the nodes' fits."""
    known = sums.over_mascons(sums.known)
    held = table["rate_m_yr"].notna().to_numpy()
    place = list(table.columns).index("fraction_thinning") + 1
    out = table.copy()
    for name, values in (("slope", sums.slope), ("elevation_m", sums.elevation)):
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.ravel(sums.over_mascons(values) / known)
        out.insert(place, name, np.where(held, mean, np.nan))
    return out


def _finish(
    table: pd.DataFrame, mascons: pd.DataFrame, mass: pd.DataFrame, settings: FusionSettings
) -> pd.DataFrame:
    """Return the table with its cycle as amplitude and phase, joined with gravimetry."""
    if settings.scale == "gaussian_300km":
        table = smooth_gaussian(table, mascons)
    table = table.drop(columns="model_m")
    cos_part, sin_part = table.pop("cycle_cos"), table.pop("cycle_sin")
    place = list(table.columns).index("rate_m_yr") + 1
    table.insert(place, "amplitude_m", np.hypot(cos_part, sin_part))
    table.insert(place + 1, "phase_rad", np.arctan2(sin_part, cos_part))
    names = [
        "lwe_cm",
        "lwe_sigma_cm",
        "mass_gt",
        "mass_sigma_gt",
        "mass_change_gt",
        "mass_change_sigma_gt",
    ]
    return table.merge(
        mass[["mascon_id", "month", *names]],
        on=["mascon_id", "month"],
        how="left",
        validate="one_to_one",
    )


def anchor(table: pd.DataFrame, reference: np.datetime64, within_days: float) -> pd.DataFrame:
    """Count changes from what was seen around the reference date, not from the fits there.

    A node's line and annual cycle pass the reference date at a distance wherever a year was
    unlike the others (a strong melt season just before it, say); the mascon's mean keeps that
    distance as a constant. The mean residual of the months near the reference date is taken
    off, and its σ added. A mascon not seen then keeps the fits' zero.

    Parameters
    ----------
    table
        Output of :func:`estimate`, with ``model_m``.
    reference
        Reference date.
    within_days
        Months whose middle lies this near it count (days); 0 leaves the fits' zero.

    Returns
    -------
    pandas.DataFrame
        The same rows with ``dh_m`` and ``dh_sigma_m`` (m) counted from the reference date.
    """
    distance = np.abs(month_middle(table["month"]) - reference.astype(TIME_DTYPE))
    close = distance < np.timedelta64(round(within_days * 24), "h")
    near = close & table["dh_m"].notna().to_numpy()
    residual = (table["dh_m"] - table["model_m"])[near]
    group = table["mascon_id"][near]
    count = residual.groupby(group).count()
    offset = table["mascon_id"].map(residual.groupby(group).mean()).fillna(0.0)
    variance = (table["dh_sigma_m"][near] ** 2).groupby(group).sum() / count**2
    added = table["mascon_id"].map(variance).fillna(0.0)
    return table.assign(
        dh_m=table["dh_m"] - offset,
        dh_sigma_m=np.sqrt(table["dh_sigma_m"] ** 2 + added),
    )


def fuse_retrospective(
    mascons: geopandas.GeoDataFrame,
    mass: pd.DataFrame,
    nodes: pd.DataFrame,
    node_months: Iterable[pd.DataFrame],
    months: np.ndarray,
    reference: np.datetime64,
    settings: FusionSettings,
) -> pd.DataFrame:
    """Return the retrospective table of mascon × month (contract ``MASCON_MONTHS``).

    Parameters
    ----------
    mascons, mass
        Tables of gravimetry.
    nodes
        All nodes of the region (columns :data:`NODE_COLUMNS`).
    node_months
        Tables ``NODE_MONTHS``, tile by tile: read one at a time.
    months
        Months of the period.
    reference
        Reference date of the elevation changes.
    settings
        Estimator, scale, correlation length.

    Returns
    -------
    pandas.DataFrame
        Every mascon × every month; ``dh_m`` counts from the reference date.
    """
    frame = place_nodes(mascons, nodes, months, settings)
    sums = sum_models(frame, reference, settings)
    good = fitted_nodes(frame, reference, settings)
    for tile in node_months:
        add_node_months(sums, tile, good)
    table = anchor(estimate(sums, settings, causal=False), reference, settings.anchor_days)
    table = add_surface(table, sums)
    return _finish(table, mascons, mass, settings)


def fuse_causal(
    mascons: geopandas.GeoDataFrame,
    mass: pd.DataFrame,
    nodes: pd.DataFrame,
    causal_months: Iterable[pd.DataFrame],
    months: np.ndarray,
    settings: FusionSettings,
) -> pd.DataFrame:
    """Return the causal table of mascon × month (contract ``MASCON_MONTHS``).

    Only nodes with a causal model at the month enter; their number grows with time, and the
    mean is theirs, weighted by area. It is null while they hold less than
    ``fusion: min_fitted_share`` of the mascon's ice, and σ carries the ice they do not hold.

    Parameters
    ----------
    mascons, mass, nodes, months, settings
        As for :func:`fuse_retrospective`; of the nodes only place and area are used.
    causal_months
        Tables ``NODE_MONTHS_CAUSAL``, tile by tile: read one at a time.

    Returns
    -------
    pandas.DataFrame
        Every mascon × every month; ``dh_m`` counts from the middle of the first month.
    """
    frame = place_nodes(mascons, nodes, months, settings)
    sums = Sums(frame)
    for tile in causal_months:
        add_causal_months(sums, tile, settings)
    table = add_surface(estimate(sums, settings, causal=True), sums)
    return _finish(table, mascons, mass, settings)
