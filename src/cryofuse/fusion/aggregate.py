"""From nodes to mascons: sums over nodes, tile by tile, and the two tables made of them.

A month samples other tracks than the month before, so a plain mean of what is seen mixes
places. Node models and residuals are reduced tile by tile to sums that
:mod:`cryofuse.fusion.estimators` turns into means and their σ; memory does not grow with the
number of nodes. Models are summed over cells (squares of a fifth of the correlation length within
one mascon), measurement errors over patches (squares of the area π·L² within one mascon, L the
correlation length), what was seen over mascons and over passes.

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
from cryofuse.fusion.estimators import (
    anchor,
    count_from_start,
    estimate,
    fill_models,
    smooth_gaussian,
)
from cryofuse.mascons.footprints import locate

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
]
NODE_MONTH_COLUMNS = ["node_id", "month", "dh_m", "dh_sigma_m", "model_m", "response", "tracks"]
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
    "response",
    "start_residual_m",
    "start_response",
    "n_segments",
    "tracks",
]
#: Side of a cell as a share of the correlation length: inside it one model stands for all nodes.
CELL_SHARE = 0.2
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
        Nodes inside the mascons: node_id (ascending), ``mascon`` (index), ``cell`` (index),
        ``patch`` (index), area_km2 and the fitted columns.
    cell_mascon, cell_patch
        Mascon and patch index of each cell, shape (c,).
    cell_m
        Centre of each cell's ice (m, region's CRS), shape (c, 2).
    cell_area_km2
        Ice of each cell (km²), that of nodes without a fit included, shape (c,).
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
    cell_mascon: np.ndarray
    cell_patch: np.ndarray
    cell_m: np.ndarray
    cell_area_km2: np.ndarray
    patch_mascon: np.ndarray
    band_mascon: np.ndarray
    band_height_m: np.ndarray
    band_m: float


@dataclass
class Sums:
    """Sums that the estimators need, each by month (last axis).

    All are weighted by node area (km²) unless the name says otherwise. ``known`` counts nodes
    with a model at the month, ``seen`` those with segments in it; ``response`` is what a
    departure of 1 m of all seen nodes would leave visible in ``residual``.
    """

    frame: Frame
    #: Over cells: area with a model, the modelled change, rate and cycle.
    known: np.ndarray = field(init=False)
    model: np.ndarray = field(init=False)
    rate: np.ndarray = field(init=False)
    cycle_cos: np.ndarray = field(init=False)
    cycle_sin: np.ndarray = field(init=False)
    #: Over patches: area seen, and its measurement variance.
    seen: np.ndarray = field(init=False)
    residual_variance: np.ndarray = field(init=False)
    #: Over mascons.
    model_square: np.ndarray = field(init=False)
    thinning: np.ndarray = field(init=False)
    elevation: np.ndarray = field(init=False)
    slope: np.ndarray = field(init=False)
    response: np.ndarray = field(init=False)
    residual: np.ndarray = field(init=False)
    change: np.ndarray = field(init=False)
    #: Area, residual and response of the period's first months, over nodes known at the month.
    start_area: np.ndarray = field(init=False)
    start_residual: np.ndarray = field(init=False)
    start_response: np.ndarray = field(init=False)
    #: (km⁴·m²): area² times the nodes' own variance.
    noise: np.ndarray = field(init=False)
    count: np.ndarray = field(init=False)
    #: Over elevation bands.
    band_known: np.ndarray = field(init=False)
    band_seen: np.ndarray = field(init=False)
    band_change: np.ndarray = field(init=False)
    #: Over passes: mascon, month and pass; area seen, response, residual and change.
    pass_keys: list[np.ndarray] = field(init=False, default_factory=list)
    pass_sums: list[np.ndarray] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Start every sum at zero."""
        frame = self.frame
        for rows, names in (
            (frame.cell_mascon.size, "known model rate cycle_cos cycle_sin"),
            (frame.patch_mascon.size, "seen residual_variance"),
            (
                frame.mascon_id.size,
                "model_square thinning elevation slope response residual change "
                "start_area start_residual start_response noise count",
            ),
            (frame.band_mascon.size, "band_known band_seen band_change"),
        ):
            for name in names.split():
                setattr(self, name, np.zeros((rows, frame.months.size)))

    def over_mascons(self, values: np.ndarray) -> np.ndarray:
        """Return sums over the cells or patches of each mascon, shape (mascons, months)."""
        frame = self.frame
        owner = frame.cell_mascon if len(values) == frame.cell_mascon.size else frame.patch_mascon
        out = np.zeros((frame.mascon_id.size, values.shape[1]))
        np.add.at(out, owner, values)
        return out

    def passes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each pass of a mascon's month once.

        Returns
        -------
        keys
            Mascon index, month index and pass, shape (n, 3), ascending.
        sums
            Area seen (km²), response, residual and change (km²·m), shape (n, 4). A node that
            several passes crossed in the month is shared out evenly between them.
        """
        if not self.pass_keys:
            return np.empty((0, 3), dtype=np.int64), np.empty((0, 4))
        return _add_up(np.concatenate(self.pass_keys), np.concatenate(self.pass_sums))


def _add_up(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct rows of keys, ascending, and the sums of their values."""
    unique, place = np.unique(keys, axis=0, return_inverse=True)
    sums = [np.bincount(np.ravel(place), column, len(unique)) for column in values.T]
    return unique, np.stack(sums, axis=1)


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
    place = held[["x_m", "y_m"]].to_numpy(dtype=float)
    mascon = held["mascon"].to_numpy()
    area = held["area_km2"].to_numpy(dtype=float)
    # A share of the area even where there is none: a cell without ice has a centre, too.
    weight = area + 1e-9
    squares = np.floor(place / (CELL_SHARE * settings.correlation_length_m)).astype(np.int64)
    cells, cell = _number(mascon, squares)
    total = np.bincount(cell, weight, len(cells))
    centre = np.stack([np.bincount(cell, weight * xy, len(cells)) / total for xy in place.T], 1)
    # Counted from the mascon's own corner, so that a small mascon is not cut in vain.
    corner = np.full((ids.size, 2), np.inf)
    np.minimum.at(corner, cells[:, 0], centre)
    side = settings.correlation_length_m * np.sqrt(np.pi)
    patches, patch = _number(cells[:, 0], ((centre - corner[cells[:, 0]]) // side).astype(np.int64))
    low, high = (int(np.floor(edge / settings.elevation_band_m)) for edge in BAND_RANGE_M)
    steps = np.arange(low, high + 1 if settings.estimator == "hypsometric" else low)
    return Frame(
        mascon_id=ids,
        ice_area_km2=mascons["ice_area_km2"].to_numpy(dtype=float),
        months=np.asarray(months, TIME_DTYPE),
        nodes=held.assign(cell=cell, patch=patch[cell]),
        cell_mascon=cells[:, 0],
        cell_patch=patch,
        cell_m=centre,
        cell_area_km2=np.bincount(cell, area, len(cells)),
        patch_mascon=patches[:, 0],
        band_mascon=np.repeat(np.arange(ids.size), steps.size),
        band_height_m=np.tile((steps + 0.5) * settings.elevation_band_m, ids.size),
        band_m=settings.elevation_band_m,
    )


def _number(mascon: np.ndarray, square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct squares of mascons (mascon, column, row), and the one of each row."""
    table = np.column_stack([mascon, square]).reshape(-1, 3)
    unique, place = np.unique(table, axis=0, return_inverse=True)
    return unique, np.ravel(place)


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
    good = fitted_nodes(frame, reference, settings)
    cell, mascon = nodes["cell"].to_numpy()[good], nodes["mascon"].to_numpy()[good]
    area = value["area_km2"][good]
    parts = np.stack(
        [
            value["rate_m_yr"],
            value["amplitude_m"] * np.cos(value["phase_rad"]),
            value["amplitude_m"] * np.sin(value["phase_rad"]),
        ]
    )[:, good]

    def by_cell(values: np.ndarray) -> np.ndarray:
        return np.bincount(cell, area * values, frame.cell_mascon.size)[:, np.newaxis]

    def by_mascon(values: np.ndarray) -> np.ndarray:
        return np.bincount(mascon, area * values, frame.mascon_id.size)[:, np.newaxis]

    sums.known[:] = by_cell(np.ones(cell.size))
    sums.rate[:] = by_cell(parts[0])
    sums.cycle_cos[:] = by_cell(parts[1])
    sums.cycle_sin[:] = by_cell(parts[2])
    sums.thinning[:] = by_mascon((parts[0] < 0).astype(float))
    sums.elevation[:] = by_mascon(value["elevation_m"][good])
    sums.slope[:] = by_mascon(value["slope"][good])
    for i in range(3):
        sums.model += by_cell(parts[i]) * terms[i]
        for j in range(3):
            sums.model_square += by_mascon(parts[i] * parts[j]) * (terms[i] * terms[j])
    if frame.band_mascon.size:
        band = find_bands(frame, nodes["mascon"].to_numpy()[good], value["elevation_m"][good])
        by_band = np.bincount(band, weights=area, minlength=frame.band_mascon.size)
        sums.band_known[:] = by_band[:, np.newaxis]
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
    response = tile["response"].to_numpy(dtype=float)[rows]
    _add_seen(sums, node, month, residual, sigma, change, height, response)
    _add_passes(sums, tile, rows, node, month, residual, change, response)


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
    cell, mascon = nodes["cell"].to_numpy()[node], nodes["mascon"].to_numpy()[node]
    cos_part = value["amplitude_m"] * np.cos(value["phase_rad"])
    sin_part = value["amplitude_m"] * np.sin(value["phase_rad"])
    for target, values in (
        (sums.known, np.ones(node.size)),
        (sums.model, value["model_m"]),
        (sums.rate, value["rate_m_yr"]),
        (sums.cycle_cos, cos_part),
        (sums.cycle_sin, sin_part),
    ):
        _accumulate(target, cell, month, area * values)
    for target, values in (
        (sums.model_square, value["model_m"] ** 2),
        (sums.thinning, (value["rate_m_yr"] < 0).astype(float)),
        (sums.elevation, value["elevation_m"]),
        (sums.slope, value["slope"]),
        (sums.start_area, np.isfinite(value["start_residual_m"]).astype(float)),
        (sums.start_residual, np.nan_to_num(value["start_residual_m"])),
        (sums.start_response, np.nan_to_num(value["start_response"])),
    ):
        _accumulate(target, mascon, month, area * values)
    if sums.frame.band_mascon.size:
        band = find_bands(sums.frame, nodes["mascon"].to_numpy()[node], value["elevation_m"])
        _accumulate(sums.band_known, band, month, area)
    seen = np.isfinite(value["residual_m"]) & (value["n_segments"] > 0)
    rows, node, month = rows[seen], node[seen], month[seen]
    value = {name: values[seen] for name, values in value.items()}
    change = value["model_m"] + value["residual_m"]
    _add_seen(
        sums,
        node,
        month,
        value["residual_m"],
        value["residual_sigma_m"],
        change,
        value["elevation_m"],
        value["response"],
    )
    _add_passes(sums, tile, rows, node, month, value["residual_m"], change, value["response"])


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
    response: np.ndarray,
) -> None:
    nodes = sums.frame.nodes
    area = nodes["area_km2"].to_numpy(dtype=float)[node]
    patch, mascon = nodes["patch"].to_numpy()[node], nodes["mascon"].to_numpy()[node]
    variance = np.where(np.isfinite(sigma), sigma, 0.0) ** 2
    _accumulate(sums.seen, patch, month, area)
    _accumulate(sums.residual_variance, patch, month, area * variance)
    for target, values in (
        (sums.response, area * response),
        (sums.residual, area * residual),
        (sums.change, area * change),
        (sums.noise, area**2 * variance),
        (sums.count, np.ones(node.size)),
    ):
        _accumulate(target, mascon, month, values)
    if sums.frame.band_mascon.size:
        band = find_bands(sums.frame, nodes["mascon"].to_numpy()[node], height)
        _accumulate(sums.band_seen, band, month, area)
        _accumulate(sums.band_change, band, month, area * change)


def _add_passes(
    sums: Sums,
    tile: pd.DataFrame,
    rows: np.ndarray,
    node: np.ndarray,
    month: np.ndarray,
    residual: np.ndarray,
    change: np.ndarray,
    response: np.ndarray,
) -> None:
    lists = tile["tracks"].to_numpy()[rows]
    lengths = np.fromiter((len(entry) for entry in lists), dtype=np.int64, count=rows.size)
    if lengths.sum() == 0:
        return
    nodes = sums.frame.nodes
    share = nodes["area_km2"].to_numpy(dtype=float)[node] / np.maximum(lengths, 1)
    values = np.column_stack([share, share * response, share * residual, share * change])
    passes = np.concatenate([np.asarray(entry, dtype=np.int64) for entry in lists])
    owner = nodes["mascon"].to_numpy()[node]
    keys = np.column_stack([np.repeat(owner, lengths), np.repeat(month, lengths), passes])
    unique, added = _add_up(keys, np.repeat(values, lengths, axis=0))
    sums.pass_keys.append(unique)
    sums.pass_sums.append(added)


def add_surface(table: pd.DataFrame, sums: Sums) -> pd.DataFrame:
    """Return a table of estimates with the mean height and slope of the nodes' fits."""
    known = sums.over_mascons(sums.known)
    held = table["rate_m_yr"].notna().to_numpy()
    place = list(table.columns).index("fraction_thinning") + 1
    out = table.copy()
    for name, values in (("slope", sums.slope), ("elevation_m", sums.elevation)):
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.ravel(values / known)
        out.insert(place, name, np.where(held, mean, np.nan))
    return out


def _finish(table: pd.DataFrame, sums: Sums, mass: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its cycle as amplitude and phase, joined with gravimetry."""
    table = add_surface(table, sums).drop(columns=["model_m", "pass_variance_m2"])
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
    models = fill_models(sums)
    table = estimate(sums, models, settings, causal=False)
    table = anchor(table, reference, settings.anchor_days)
    if settings.scale == "gaussian_300km":
        table = smooth_gaussian(table, frame, models, settings, causal=False)
    return _finish(table, sums, mass)


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
    ice of the others is filled from them. The mean is null while they hold less than
    ``fusion: min_fitted_share`` of the mascon's ice, and σ carries what was filled.

    Parameters
    ----------
    mascons, mass, nodes, months, settings
        As for :func:`fuse_retrospective`; of the nodes only place and area are used.
    causal_months
        Tables ``NODE_MONTHS_CAUSAL``, tile by tile: read one at a time.

    Returns
    -------
    pandas.DataFrame
        Every mascon × every month; ``dh_m`` counts from the period's first months.
    """
    frame = place_nodes(mascons, nodes, months, settings)
    sums = Sums(frame)
    for tile in causal_months:
        add_causal_months(sums, tile, settings)
    models = fill_models(sums)
    table = count_from_start(estimate(sums, models, settings, causal=True), sums)
    if settings.scale == "gaussian_300km":
        table = smooth_gaussian(table, frame, models, settings, causal=True)
    return _finish(table, sums, mass)
