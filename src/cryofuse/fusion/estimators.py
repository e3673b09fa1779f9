"""Estimators of a mascon's mean elevation change from the sums over its nodes, and their σ.

Three estimators (``fusion: estimator``), each over the ice of one mascon:

``regression``
    mean over ALL ice of the nodes' own models at the month, plus the mean residual of the nodes
    seen in the month. Ice whose nodes have no model (between tracks, at the margin) is filled
    from its surroundings by ordinary kriging: a mean over fitted nodes alone would stand for
    them. The mean residual is Σ area·residual / Σ area·response: a pass at a place of its own
    across the track (as all passes of the mispointed cycles 1 and 2 were) also settles the relief
    there, and part of what the month departs from the model is lost in that (``response`` of the
    node months says which part is left);
``mean``
    area-weighted mean of the nodes seen;
``hypsometric``
    means of the nodes seen by elevation band, weighted by the bands' areas; bands between seen
    ones are interpolated, bands beyond them take the nearest.

σ² has three parts.

- Passes: one pass differs from another by what it samples and by errors that all its segments
  share. Their variance within a month, pooled over the months (known so far), over the effective
  number of the month's passes, times the share of ice not seen (a node counts as seen when one
  pass crosses it, so never less than a quarter), and never below what the nodes' own σ leave
  were they independent. Where too few months have two passes, the nodes' own σ stand in, fully
  correlated within a patch and independent between patches (a patch is as large as a circle of
  the correlation length).
- Filling: the kriging variance of the cells without a model, its scale by leaving known cells
  out, errors fully correlated within a patch.
- Zero: see :func:`anchor` and :func:`count_from_start`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cryofuse.calendar import TIME_DTYPE, month_middle
from cryofuse.elevation.kernels import START_MONTHS
from cryofuse.fusion.kriging import Weights, krige, leave_one_out

if TYPE_CHECKING:
    from cryofuse.config import FusionSettings
    from cryofuse.fusion.aggregate import Frame, Sums

#: Half-width at half maximum of the Gaussian of ``scale: gaussian_300km`` (m); Jekeli 1981.
GAUSSIAN_RADIUS_M = 300_000.0
#: Known cells whose left-out errors give a mascon its own scale; fewer take the region's.
_OWN_CELLS = 10
#: Share of the scatter between passes that is left however much is seen.
_LEAST_UNSEEN = 0.25
#: Pooled degrees of freedom from which the scatter between passes is taken.
_LEAST_FREEDOM = 2.0


@dataclass(frozen=True)
class Models:
    """Node models over all ice, shape (mascons, months) each; NaN without any model.

    Attributes
    ----------
    model_m, rate_m_yr, cycle_cos_m, cycle_sin_m
        Area-weighted means of the modelled change, rate and cycle.
    variance_m2
        Variance of the mean change from filling.
    patch_model_m
        Mean change of each patch, shape (patches, months).
    """

    model_m: np.ndarray
    rate_m_yr: np.ndarray
    cycle_cos_m: np.ndarray
    cycle_sin_m: np.ndarray
    variance_m2: np.ndarray
    patch_model_m: np.ndarray


def fill_models(sums: Sums) -> Models:
    """Return means of the node models over all ice, cells without a model filled by kriging.

    Parameters
    ----------
    sums
        Filled sums.
    """
    frame = sums.frame
    shape = (frame.mascon_id.size, frame.months.size)
    out = np.full((5, *shape), np.nan)
    patch_model = np.full((frame.patch_mascon.size, shape[1]), np.nan)
    area = frame.cell_area_km2
    ice = np.bincount(frame.cell_mascon, area, shape[0])
    patch_ice = np.bincount(frame.cell_patch, area, frame.patch_mascon.size)
    before = np.zeros(area.size, dtype=bool)
    for month in range(shape[1]):
        known = sums.known[:, month] > 0
        if not known.any():
            continue
        if not np.array_equal(known, before):
            places = frame.cell_m[known]
            filling = krige(places, frame.cell_m[~known])
            left_out = leave_one_out(places) if len(places) > 1 else None
            before = known
        values = np.stack(
            [
                getattr(sums, name)[known, month] / sums.known[known, month]
                for name in ("model", "rate", "cycle_cos", "cycle_sin")
            ],
            axis=1,
        )
        cells = np.empty((area.size, values.shape[1]))
        cells[known] = values
        cells[~known] = filling.apply(values)
        with np.errstate(divide="ignore", invalid="ignore"):
            for number in range(values.shape[1]):
                total = np.bincount(frame.cell_mascon, area * cells[:, number], shape[0])
                out[number, :, month] = total / ice
            total = np.bincount(frame.cell_patch, area * cells[:, 0], len(patch_ice))
            patch_model[:, month] = total / patch_ice
        out[4, :, month] = _filling_variance(frame, known, values[:, 0], filling, left_out, ice)
    return Models(out[0], out[1], out[2], out[3], out[4], patch_model)


def _filling_variance(
    frame: Frame,
    known: np.ndarray,
    model_m: np.ndarray,
    filling: Weights,
    left_out: Weights | None,
    ice: np.ndarray,
) -> np.ndarray:
    """Return the variance (m²) of each mascon's mean model from the cells that were filled."""
    count = ice.size
    if left_out is None:
        return np.zeros(count)
    owner = frame.cell_mascon[known]
    error = (left_out.apply(model_m) - model_m) ** 2
    square, distance = (np.bincount(owner, v, count) for v in (error, left_out.variance_m))
    own = np.bincount(owner, minlength=count) >= _OWN_CELLS
    slope = np.where(
        own, square / np.where(own, distance, 1.0), error.sum() / left_out.variance_m.sum()
    )
    target = frame.cell_mascon[~known]
    sigma = frame.cell_area_km2[~known] * np.sqrt(slope[target] * filling.variance_m)
    by_patch = np.bincount(frame.cell_patch[~known], sigma, frame.patch_mascon.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.bincount(frame.patch_mascon, by_patch**2, count) / ice**2


def estimate(sums: Sums, models: Models, settings: FusionSettings, *, causal: bool) -> pd.DataFrame:
    """Return mean elevation change per mascon and month from the sums.

    Parameters
    ----------
    sums
        Filled sums.
    models
        Output of :func:`fill_models`.
    settings
        Estimator, smallest share of ice with fitted nodes.
    causal
        Whether the scatter between passes may be pooled over months up to each month only.

    Returns
    -------
    pandas.DataFrame
        The altimetric columns of ``MASCON_MONTHS``, and ``model_m``, ``cycle_cos``, ``cycle_sin``,
        ``pass_variance_m2`` (the part of σ² that passes have); one row per mascon and month.
    """
    frame = sums.frame
    area = frame.ice_area_km2[:, np.newaxis]
    known, seen = sums.over_mascons(sums.known), sums.over_mascons(sums.seen)
    ice = np.maximum(np.maximum(area, 0.0), 1e-9)
    known_share, seen_share = np.minimum(known / ice, 1.0), np.minimum(seen / ice, 1.0)
    keys, passes = sums.passes()
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums.change / seen
        residual = sums.residual / sums.response
        centre = sums.over_mascons(sums.model) / known
        spread = np.sqrt(np.maximum(sums.model_square / known - centre**2, 0.0))
        thinning = np.minimum(sums.thinning / known, 1.0)
    change = {
        "regression": models.model_m + residual,
        "mean": mean.copy(),
        "hypsometric": _hypsometric(sums),
    }[settings.estimator]
    regression = settings.estimator == "regression"
    observed = passes[:, [1, 2]] if regression else passes[:, [0, 3]]
    with np.errstate(divide="ignore", invalid="ignore"):
        # What is given back to the residual is given to its noise.
        gain = (seen / sums.response) ** 2 if regression else np.ones(seen.shape)
        least = gain * sums.noise / seen**2
        measured = gain * _patch_variance(sums)
    variance = _pass_variance(keys, observed, measured, least, 1.0 - seen_share, causal=causal)
    sigma = np.sqrt(variance + models.variance_m2 if regression else variance)

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
    fitted = {
        "model_m": models.model_m,
        "rate_m_yr": models.rate_m_yr,
        "cycle_cos": models.cycle_cos_m,
        "cycle_sin": models.cycle_sin_m,
        "spread_m": spread,
        "fraction_thinning": thinning,
    }
    fitted = {name: np.where(none | few, np.nan, values) for name, values in fitted.items()}
    mean[few] = np.nan
    tracks = np.zeros(known.shape, dtype=np.int64)
    np.add.at(tracks, (keys[:, 0], keys[:, 1]), 1)
    columns = {"dh_m": change, "dh_sigma_m": sigma, "dh_mean_m": mean} | fitted
    columns["pass_variance_m2"] = variance
    return pd.DataFrame(
        {
            "mascon_id": np.repeat(frame.mascon_id, known.shape[1]),
            "month": np.tile(frame.months, known.shape[0]),
            **{name: np.ravel(values) for name, values in columns.items()},
            "sampled_fraction": np.ravel(seen_share),
            "n_nodes": np.ravel(sums.count).round().astype(np.int64),
            "n_tracks": np.ravel(tracks),
            "reason": pd.array(np.ravel(reason), dtype="str"),
        }
    )


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


def _patch_variance(sums: Sums) -> np.ndarray:
    """Return the variance (m²) of the mean over what is seen by the nodes' own σ."""
    frame = sums.frame
    seen = sums.over_mascons(sums.seen)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.nan_to_num(sums.seen / seen[frame.patch_mascon])
        inside = np.where(sums.seen > 0, sums.residual_variance / sums.seen, 0.0)
    return sums.over_mascons(weight**2 * inside)


def _pass_variance(
    keys: np.ndarray,
    passes: np.ndarray,
    measured: np.ndarray,
    least: np.ndarray,
    unseen_share: np.ndarray,
    *,
    causal: bool,
) -> np.ndarray:
    """Return the variance (m²) of each month's mean of passes, shape (mascons, months).

    Parameters
    ----------
    keys
        Mascon, month and pass of each row, shape (n, 3).
    passes
        Weight and weighted sum of each pass, shape (n, 2).
    measured, least
        Variance by the nodes' own σ (m²): correlated within patches, and independent.
    unseen_share
        Share of the ice that is not seen.
    causal
        Whether scatter is pooled up to each month only.
    """
    shape = measured.shape
    place = keys[:, 0] * shape[1] + keys[:, 1]

    def by_month(values: np.ndarray) -> np.ndarray:
        return np.bincount(place, values, shape[0] * shape[1]).reshape(shape)

    with np.errstate(divide="ignore", invalid="ignore"):
        total = by_month(passes[:, 0])
        mean = by_month(passes[:, 1]) / total
        share = passes[:, 0] / total.ravel()[place]
        effective = 1.0 / by_month(share**2)
        apart = passes[:, 1] / passes[:, 0] - mean.ravel()[place]
        seen = total > 0
        # Each month gives its effective number of passes less one.
        squares = np.where(seen, by_month(share * apart**2) * effective, 0.0)
        freedom = np.where(seen, effective - 1.0, 0.0)
        squares, freedom = (_pool(values, causal=causal) for values in (squares, freedom))
        between = squares / freedom / effective
    sampled = np.maximum(between * np.maximum(unseen_share, _LEAST_UNSEEN), least)
    return np.where(freedom >= _LEAST_FREEDOM, sampled, measured)


def _pool(values: np.ndarray, *, causal: bool) -> np.ndarray:
    """Return sums over the months up to each one, or over all of them; one row a mascon."""
    total = np.cumsum(values, axis=1)
    return total if causal else np.broadcast_to(total[:, -1:], total.shape)


def anchor(table: pd.DataFrame, reference: np.datetime64, within_days: float) -> pd.DataFrame:
    """Count changes from what was seen around the reference date, not from the fits there.

    A node's line and annual cycle pass the reference date at a distance wherever a year was
    unlike the others (a strong melt season just before it, say); the mascon's mean keeps that
    distance as a constant. The mean residual of the months near the reference date is taken
    off, and its variance added.

    Parameters
    ----------
    table
        Output of :func:`estimate`.
    reference
        Reference date.
    within_days
        Months whose middle lies this near it count (days); 0 leaves the fits' zero.

    Returns
    -------
    pandas.DataFrame
        The same rows with ``dh_m`` and ``dh_sigma_m`` (m) counted from the reference date. A
        mascon that was not seen then keeps the fits' zero.
    """
    distance = np.abs(month_middle(table["month"]) - reference.astype(TIME_DTYPE))
    close = distance < np.timedelta64(round(within_days * 24), "h")
    near = close & table["dh_m"].notna().to_numpy()
    residual = (table["dh_m"] - table["model_m"])[near].groupby(table["mascon_id"][near])
    variance = (table["dh_sigma_m"][near] ** 2).groupby(table["mascon_id"][near]).mean()
    variance = variance / residual.count()
    offset = table["mascon_id"].map(residual.mean()).fillna(0.0)
    added = table["mascon_id"].map(variance).fillna(0.0)
    return table.assign(
        dh_m=table["dh_m"] - offset,
        dh_sigma_m=np.sqrt(table["dh_sigma_m"] ** 2 + added),
        model_m=table["model_m"] - offset,
    )


def count_from_start(table: pd.DataFrame, sums: Sums) -> pd.DataFrame:
    """Count causal changes from what was seen in the period's first months.

    As :func:`anchor`, by what the vintage of each month says: where the fits pass the middle of
    the first month the surface was off them, by Σ area·residual / Σ area·response of the
    segments of the first months. Their variance is that of the month's passes, over the number of
    the first months, raised by what the response gave back. A mascon without segments then keeps
    the fits' zero; the departures seen since, up to each month, say how far off that may be.

    Parameters
    ----------
    table
        Output of :func:`estimate`, by mascon and month.
    sums
        The sums that it was made of.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.ravel(sums.start_residual / sums.start_response)
        gain = np.ravel(sums.start_area / sums.start_response) ** 2
    square = (table["dh_m"] - table["model_m"]) ** 2
    total = square.fillna(0.0).groupby(table["mascon_id"]).cumsum()
    count = square.notna().groupby(table["mascon_id"]).cumsum()
    started = gain * table["pass_variance_m2"] / START_MONTHS
    added = np.where(np.isfinite(zero), started, total / count)
    return table.assign(
        dh_m=table["dh_m"] - np.nan_to_num(zero),
        dh_sigma_m=np.sqrt(table["dh_sigma_m"] ** 2 + added),
        model_m=table["model_m"] - np.nan_to_num(zero),
    )


def smooth_gaussian(
    table: pd.DataFrame,
    frame: Frame,
    models: Models,
    settings: FusionSettings,
    *,
    causal: bool,
    radius_m: float = GAUSSIAN_RADIUS_M,
) -> pd.DataFrame:
    """Return mascon means of elevation change smoothed to the resolution of gravimetry.

    The field of changes, patch by patch (the patch's own model and the mascon's residual; with
    the other estimators the mascon's mean), is smoothed with weights exp(−ln 2·(d/radius)²) ×
    ice area, d the distance on the region's map (Jekeli 1981's radius: half the weight at that
    distance), and then averaged over each mascon's ice. A mascon not seen in the month takes part
    by its model alone, with the mean square of its residuals (known so far) in σ; its own value
    stays null. With the other estimators only mascons with a value take part. σ assumes
    independent mascons.

    Parameters
    ----------
    table
        Output of :func:`estimate`, by mascon and month.
    frame
        Places of the sums.
    models
        Output of :func:`fill_models`.
    settings
        Estimator.
    causal
        Whether residuals may speak for months up to each one only.
    radius_m
        Half-width at half maximum (m).
    """
    shape = (frame.mascon_id.size, frame.months.size)

    def grid(name: str) -> np.ndarray:
        return table[name].to_numpy(dtype=float).reshape(shape)

    change, variance = grid("dh_m"), grid("dh_sigma_m") ** 2
    held = np.isfinite(change)
    taking = held
    owner = frame.patch_mascon
    local = change[owner]
    if settings.estimator == "regression":
        # The model counts from the same zero as the change does.
        model = grid("model_m")
        taking = np.isfinite(model)
        residual = np.where(held, change - model, 0.0)
        square, count = (_pool(values, causal=causal) for values in (residual**2, held))
        taking = taking & (count > 0)
        scatter = np.divide(square, count, out=np.zeros(shape), where=count > 0)
        variance = np.where(held, variance, scatter + models.variance_m2)
        local = models.patch_model_m + (model + residual - models.model_m)[owner]
    weights = _smoothing_weights(frame, radius_m)
    by_mascon = np.zeros((shape[0], shape[0]))
    np.add.at(by_mascon.T, owner, weights.T)
    out = table.copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        total = _mix(by_mascon, taking)
        smoothed = {"dh_m": _mix(weights, np.where(taking[owner], local, 0.0)) / total}
        for name in ("dh_mean_m", "rate_m_yr", "cycle_cos", "cycle_sin"):
            values = grid(name)
            known = np.isfinite(values)
            mixed = _mix(by_mascon, np.where(known, values, 0.0)) / _mix(by_mascon, known)
            smoothed[name] = np.where(known, mixed, np.nan)
        errors = np.where(taking, variance, 0.0)
        smoothed["dh_sigma_m"] = np.sqrt(_mix(by_mascon**2, errors)) / total
    for name in ("dh_m", "dh_sigma_m"):
        smoothed[name] = np.where(held, smoothed[name], np.nan)
    return out.assign(**{name: np.ravel(values) for name, values in smoothed.items()})


def _smoothing_weights(frame: Frame, radius_m: float) -> np.ndarray:
    """Return how much each patch weighs in each mascon's smoothed mean, (mascons, patches)."""
    count = frame.patch_mascon.size
    area = np.bincount(frame.cell_patch, frame.cell_area_km2, count)
    weight = frame.cell_area_km2 + 1e-9
    total = np.bincount(frame.cell_patch, weight, count)
    centre = np.stack(
        [np.bincount(frame.cell_patch, weight * xy, count) / total for xy in frame.cell_m.T], 1
    )
    out = np.zeros((frame.mascon_id.size, count))
    for patch in range(count):
        square = ((centre - centre[patch]) ** 2).sum(axis=1)
        out[frame.patch_mascon[patch]] += area[patch] * np.exp(-np.log(2.0) * square / radius_m**2)
    return out * area


def _mix(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return sums of values (rows × months) by the weights of each pair (mascons × rows).

    Row by row: a matrix product rounds a month by how many months there are.
    """
    out = np.zeros((weights.shape[0], values.shape[1]))
    for number, row in enumerate(values):
        out += weights[:, number, np.newaxis] * row
    return out
