"""Regimes of elevation change: K-Means on node metrics, k chosen by a stated rule, names by rule.

Rule for k: among the k whose partitions come back under bootstrap (mean adjusted Rand index at
least ``MIN_STABILITY``; the most stable k where none reaches it), the one with the largest sum of
silhouette and gap, each scaled to 0…1 over the k tried. A partition that does not come back is
no regime map, so stability is a condition. Silhouette alone favours the coarsest split into a
fast margin and the rest; the gap alone rises with every cut through a continuous field; their sum
asks for clusters that are both apart and more compact than chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import geopandas
    import pyarrow as pa

    from cryofuse.config import RegimeSettings

#: Metrics a regime is formed by.
METRICS = (
    "rate_m_yr",
    "amplitude_m",
    "cosine_m",
    "sine_m",
    "slope",
    "latitude",
    "elevation_m",
    "interannual_m",
)
#: Weight of each standardised metric. What the surface does (rate, season, interannual
#: variability) forms a regime; where it lies (slope, elevation, latitude) only tips the balance,
#: else the wide, still interior is cut along parallels and contours before outlets are told from
#: margins. The rate counts double because regimes are ordered and named by it; the two
#: components of the annual cycle share one weight.
METRIC_WEIGHTS = {
    "rate_m_yr": 2.0,
    "amplitude_m": 1.0,
    "cosine_m": 0.5,
    "sine_m": 0.5,
    "slope": 0.5,
    "latitude": 0.1,
    "elevation_m": 0.25,
    "interannual_m": 1.0,
}
#: Sizes below which rates (m/yr), amplitudes and interannual variability (m) enter linearly, and
#: the smallest slope told apart (m/m).
RESOLVED_RATE_M_YR = 0.1
RESOLVED_AMPLITUDE_M = 0.1
SMALLEST_SLOPE = 1e-4
#: Standardised metrics are cut here, so that outliers do not make clusters of their own.
WINSOR = 3.0
#: Normal quartile range, which turns an interquartile range into a σ.
_IQR_OF_NORMAL = 1.349
#: Nodes on which silhouette, gap and bootstraps are computed.
MAX_DIAGNOSTIC_NODES = 3000
#: Uniform reference draws of the gap statistic.
GAP_DRAWS = 10
#: Bootstrap stability a k needs.
MIN_STABILITY = 0.9
#: Fewest nodes per regime tried; below ``k_min`` times this nothing is clustered.
MIN_NODES_PER_REGIME = 10
#: Thresholds of the naming rule, in the order they are asked.
RAPID_RATE_M_YR = -0.5
THICKENING_RATE_M_YR = 0.05
STABLE_RATE_M_YR = 0.1
STABLE_AMPLITUDE_M = 0.3
SEASONAL_AMPLITUDE_M = 0.3
MARINE_BED_M = 0.0
MARINE_ELEVATION_M = 1500.0


@dataclass(frozen=True)
class Regimes:
    """Tables of a clustering: ``regimes/nodes``, ``mascons``, ``centroids``, ``stability``."""

    nodes: pa.Table
    mascons: pa.Table
    centroids: pa.Table
    stability: pa.Table


@dataclass(frozen=True)
class Scaler:
    """Centre and width of each metric, from area-weighted quartiles."""

    centre: np.ndarray
    width: np.ndarray

    def apply(self, metrics: np.ndarray) -> np.ndarray:
        """Return standardised, cut and weighted metrics, shape (n, metrics)."""
        weights = np.array([METRIC_WEIGHTS[name] for name in METRICS])
        return np.clip((metrics - self.centre) / self.width, -WINSOR, WINSOR) * weights


def node_metrics(nodes: pd.DataFrame) -> np.ndarray:
    """Return the metrics of nodes, shape (n, metrics), in the units of ``altimetry/nodes``.

    The phase enters as amplitude × cosine and sine, so that a small cycle has no phase.
    """
    amplitude = nodes["amplitude_m"].to_numpy(dtype=np.float64)
    phase = nodes["phase_rad"].to_numpy(dtype=np.float64)
    columns = {name: nodes[name].to_numpy(np.float64) for name in METRICS if name in nodes}
    columns["cosine_m"] = amplitude * np.cos(phase)
    columns["sine_m"] = amplitude * np.sin(phase)
    return np.column_stack([columns[name] for name in METRICS])


def stretch_metrics(metrics: np.ndarray) -> np.ndarray:
    """Return metrics on the axes on which distances are taken, shape (n, metrics).

    Rates, cycles and interannual variability span two orders of magnitude between interior and
    outlet: they enter as asinh of their size over what an interior node resolves, which is
    linear for small values and logarithmic for large ones; the slope enters as its logarithm.
    """
    column = dict(zip(METRICS, metrics.T, strict=True))
    amplitude = column["amplitude_m"]
    size = np.arcsinh(amplitude / RESOLVED_AMPLITUDE_M)
    with np.errstate(divide="ignore", invalid="ignore"):
        shrink = np.where(amplitude > 0, size / amplitude, 0.0)
    column["rate_m_yr"] = np.arcsinh(column["rate_m_yr"] / RESOLVED_RATE_M_YR)
    column["amplitude_m"] = size
    column["cosine_m"] = column["cosine_m"] * shrink
    column["sine_m"] = column["sine_m"] * shrink
    column["slope"] = np.log(np.maximum(column["slope"], SMALLEST_SLOPE))
    column["interannual_m"] = np.arcsinh(column["interannual_m"] / RESOLVED_AMPLITUDE_M)
    return np.column_stack([column[name] for name in METRICS])


def fit_scaler(metrics: np.ndarray, weights: np.ndarray) -> Scaler:
    """Return a robust scaler from weighted median and interquartile range.

    Parameters
    ----------
    metrics
        Shape (n, metrics).
    weights
        Area each node stands for, shape (n,).
    """
    low, centre, high = (
        np.array([_quantile(column, weights, q) for column in metrics.T]) for q in (0.25, 0.5, 0.75)
    )
    width = (high - low) / _IQR_OF_NORMAL
    spread = metrics.std(axis=0)
    # A metric whose middle half is one value still separates the rest by its spread.
    width = np.where(width > 1e-12, width, np.where(spread > 1e-12, spread, 1.0))
    return Scaler(centre, width)


def _quantile(values: np.ndarray, weights: np.ndarray, q: float) -> float:
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order])
    middle = (cumulative - 0.5 * weights[order]) / cumulative[-1]
    return float(np.interp(q, middle, values[order]))


def sample_by_area(area: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return indices of ``count`` nodes drawn without replacement in proportion to their area.

    Notes
    -----
    Efraimidis and Spirakis 2006, Inf. Process. Lett. 97, 181: the largest u^(1/area).
    """
    if area.size <= count:
        return np.arange(area.size)
    key = np.log(rng.random(area.size)) / area
    return np.sort(np.argpartition(-key, count)[:count])


def _kmeans(points: np.ndarray, weights: np.ndarray, k: int, seed: int, starts: int) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(k, n_init=starts, random_state=seed).fit(points, sample_weight=weights)


def _dispersion(points: np.ndarray, k: int, seed: int) -> float:
    return float(np.log(_kmeans(points, np.ones(len(points)), k, seed, 2).inertia_))


def assess_counts(points: np.ndarray, settings: RegimeSettings) -> pd.DataFrame:
    """Return silhouette, gap and bootstrap stability for each number of regimes.

    Parameters
    ----------
    points
        Standardised metrics of nodes that stand for like areas, shape (n, metrics).
    settings
        Range of k, bootstraps and seed.

    Returns
    -------
    pandas.DataFrame
        Columns of ``regimes/stability`` without ``chosen``.

    Notes
    -----
    Silhouette: Rousseeuw 1987, J. Comput. Appl. Math. 20, 53. Gap with reference points uniform
    over the principal box: Tibshirani, Walther and Hastie 2001, J. R. Stat. Soc. B 63, 411.
    Stability: adjusted Rand index (Hubert and Arabie 1985, J. Classif. 2, 193) between the
    partition of all points by their own centres and by those of a bootstrap sample.
    """
    from sklearn.metrics import adjusted_rand_score, pairwise_distances, silhouette_score

    rng = np.random.default_rng([settings.seed, 1])
    distance = pairwise_distances(points)
    centre = points.mean(axis=0)
    _, _, axes = np.linalg.svd(points - centre, full_matrices=False)
    turned = (points - centre) @ axes.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    references = [rng.uniform(low, high, turned.shape) for _ in range(GAP_DRAWS)]
    draws = [rng.integers(0, len(points), len(points)) for _ in range(settings.bootstraps)]
    even = np.ones(len(points))
    most = min(settings.k_max, len(points) // MIN_NODES_PER_REGIME)
    rows = []
    for k in range(settings.k_min, settings.k_max + 1):
        row: dict[str, Any] = {"k": k, "silhouette": None, "gap": None, "gap_sigma": None}
        row |= {"adjusted_rand": None, "reason": None}
        if k > most:
            row["reason"] = f"{len(points)} nodes are too few for {k} regimes"
            rows.append(row)
            continue
        model = _kmeans(points, even, k, settings.seed, 10)
        row["silhouette"] = float(silhouette_score(distance, model.labels_, metric="precomputed"))
        chance = np.array([_dispersion(r, k, settings.seed) for r in references])
        row["gap"] = float(chance.mean() - np.log(model.inertia_))
        row["gap_sigma"] = float(chance.std() * np.sqrt(1.0 + 1.0 / GAP_DRAWS))
        agreement = [
            adjusted_rand_score(
                model.labels_,
                _kmeans(points[draw], even, k, settings.seed + i, 3).predict(points),
            )
            for i, draw in enumerate(draws)
        ]
        row["adjusted_rand"] = float(np.mean(agreement))
        rows.append(row)
    return pd.DataFrame(rows)


def choose_count(stability: pd.DataFrame) -> int | None:
    """Return the number of regimes by the module's rule, None where no k was assessed."""
    known = stability.dropna(subset=["silhouette", "gap", "adjusted_rand"])
    if known.empty:
        return None
    rand = known["adjusted_rand"].to_numpy(dtype=np.float64)
    score = _unit(known["silhouette"].to_numpy(np.float64)) + _unit(
        known["gap"].to_numpy(np.float64)
    )
    stable = rand >= min(MIN_STABILITY, rand.max())
    return int(known["k"].to_numpy()[np.argmax(np.where(stable, score, -np.inf))])


def _unit(values: np.ndarray) -> np.ndarray:
    width = values.max() - values.min()
    return (values - values.min()) / width if width > 0 else np.zeros_like(values)


def name_regimes(centroids: pd.DataFrame) -> list[str]:
    """Return a unique name for each regime from its centroid in physical units.

    Parameters
    ----------
    centroids
        Rows with ``rate_m_yr``, ``amplitude_m``, ``elevation_m`` and, where known, ``bed_m``.

    Notes
    -----
    Asked in this order: rapid thinning outlet (rate at most −0.5 m/yr), thickening (rate at
    least 0.05 m/yr), marine-terminating margin (thins, below 1 500 m, on a bed below sea level;
    only where the region names a bed), seasonal melt (annual amplitude at least 0.3 m), stable
    interior (rate within ±0.1 m/yr), else moderate thinning. Where two regimes earn one name
    they are numbered, the faster thinning first.
    """
    names = []
    for row in centroids.to_dict("records"):
        bed = row.get("bed_m")
        marine = bed is not None and np.isfinite(bed) and bed < MARINE_BED_M
        if row["rate_m_yr"] <= RAPID_RATE_M_YR:
            name = "rapid thinning outlet"
        elif row["rate_m_yr"] >= THICKENING_RATE_M_YR:
            name = "thickening"
        elif marine and row["rate_m_yr"] < 0 and row["elevation_m"] < MARINE_ELEVATION_M:
            name = "marine-terminating margin"
        elif row["amplitude_m"] >= SEASONAL_AMPLITUDE_M:
            name = "seasonal melt"
        elif abs(row["rate_m_yr"]) <= STABLE_RATE_M_YR:
            name = "stable interior"
        else:
            name = "moderate thinning"
        names.append(name)
    twice = {name for name in names if names.count(name) > 1}
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        if name in twice:
            seen[name] = seen.get(name, 0) + 1
            names[i] = f"{name} {seen[name]}"
    return names


def _why_left_out(nodes: pd.DataFrame, metrics: np.ndarray, settings: RegimeSettings) -> np.ndarray:
    """Return why each node is not classified, None where it is."""
    reason = np.full(len(nodes), None, dtype=object)
    missing = ~np.isfinite(metrics)
    for column, name in reversed(list(enumerate(METRICS))):
        reason[missing[:, column]] = f"{name} is unknown"
    no_fit = missing[:, METRICS.index("rate_m_yr")]
    reason[no_fit] = "no fit"
    sigma = nodes["rate_sigma_m_yr"].to_numpy(dtype=np.float64)
    loose = ~no_fit & ~(sigma <= settings.max_rate_sigma_m_yr)
    reason[loose] = f"rate σ above {settings.max_rate_sigma_m_yr:g} m/yr"
    reason[~(nodes["area_km2"].to_numpy(dtype=np.float64) > 0)] = "stands for no ice"
    return reason


def _order_by_rate(labels: np.ndarray, rate: np.ndarray, area: np.ndarray, k: int) -> np.ndarray:
    """Return each old label's new number: 0 has the lowest area-weighted mean rate."""
    mean = np.array([np.average(rate[labels == j], weights=area[labels == j]) for j in range(k)])
    rank = np.empty(k, dtype=np.int64)
    rank[np.argsort(mean, kind="stable")] = np.arange(k)
    return rank


def _partition(
    metrics: np.ndarray, area: np.ndarray, settings: RegimeSettings
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Return labels by mean rate, silhouettes (NaN outside the sample) and the stability table."""
    from sklearn.metrics import silhouette_samples

    rng = np.random.default_rng([settings.seed, 0])
    stretched = stretch_metrics(metrics)
    points = fit_scaler(stretched, area).apply(stretched)
    few = sample_by_area(area, MAX_DIAGNOSTIC_NODES, rng)
    stability = assess_counts(points[few], settings)
    k = choose_count(stability) if settings.k == "auto" else settings.k
    if k is None:
        raise RuntimeError("no number of regimes could be assessed")
    fitted = sample_by_area(area, settings.max_nodes, rng)
    # A sample drawn by area already stands for like areas; all nodes are weighted instead.
    weights = area / area.mean() if fitted.size == area.size else np.ones(fitted.size)
    found = _kmeans(points[fitted], weights, k, settings.seed, 10).predict(points)
    _, found = np.unique(found, return_inverse=True)
    k = int(found.max()) + 1
    found = _order_by_rate(found, metrics[:, METRICS.index("rate_m_yr")], area, k)[found]
    widths = np.full(area.size, np.nan)
    if np.unique(found[few]).size > 1:
        widths[few] = silhouette_samples(points[few], found[few])
    stability["chosen"] = stability["k"] == k
    return found, widths, stability


def _centroids(nodes: pd.DataFrame, labels: np.ndarray, k: int) -> pd.DataFrame:
    """Return area-weighted means of each regime in physical units, with the bed where known."""
    metrics = node_metrics(nodes)
    area = nodes["area_km2"].to_numpy(dtype=np.float64)
    bed = nodes["bed_m"].to_numpy(dtype=np.float64)
    rows = []
    for j in range(k):
        member = labels == j
        mean = dict(
            zip(METRICS, np.average(metrics[member], axis=0, weights=area[member]), strict=True)
        )
        cosine, sine = mean.pop("cosine_m"), mean.pop("sine_m")
        known = member & np.isfinite(bed)
        rows.append(
            {
                "regime": j,
                "n_nodes": int(member.sum()),
                "area_km2": float(area[member].sum()),
                "phase_rad": float(np.arctan2(sine, cosine)),
                "bed_m": float(np.average(bed[known], weights=area[known]))
                if known.any()
                else np.nan,
                **mean,
            }
        )
    return pd.DataFrame(rows)


def share_regimes(nodes: pd.DataFrame, mascons: geopandas.GeoDataFrame) -> pd.DataFrame:
    """Return the regime that holds the largest share of each mascon's classified ice area.

    Parameters
    ----------
    nodes
        Nodes with longitude, latitude, ``area_km2``, ``regime`` and ``regime_name``.
    mascons
        Footprints in longitude and latitude, with ``mascon_id``.

    Returns
    -------
    pandas.DataFrame
        The columns of ``regimes/mascons``; nulls and a reason where no node lies inside.
    """
    from cryofuse.geo import locate

    known = nodes[nodes["regime"].notna()]
    inside = locate(
        known["longitude"].to_numpy(np.float64),
        known["latitude"].to_numpy(np.float64),
        mascons.geometry.to_numpy(),
    )
    rows = []
    for number, mascon_id in enumerate(mascons["mascon_id"].to_numpy()):
        here = known[inside == number]
        row: dict[str, Any] = {"mascon_id": int(mascon_id), "regime": None, "regime_name": None}
        row |= {"share": None, "n_nodes": len(here), "reason": "no classified node"}
        if len(here):
            area = here.groupby(["regime", "regime_name"])["area_km2"].sum()
            regime, name = area.idxmax()
            row |= {"regime": int(regime), "regime_name": name, "reason": None}
            row["share"] = float(min(area.max() / area.sum(), 1.0))
        rows.append(row)
    return pd.DataFrame(rows)


def cluster_nodes(
    nodes: pd.DataFrame, mascons: geopandas.GeoDataFrame, settings: RegimeSettings
) -> Regimes:
    """Cluster nodes into regimes and describe them.

    Parameters
    ----------
    nodes
        ``altimetry/nodes`` of all tiles.
    mascons
        ``gravimetry/mascons``.
    settings
        Number of regimes or its range, bootstraps, largest sample and seed.

    Returns
    -------
    Regimes
        The four tables. Every node and mascon has a row; where nothing can be clustered the
        regime is null and ``reason`` says why.
    """
    from threadpoolctl import threadpool_limits

    from cryofuse.tables import (
        REGIME_CENTROIDS,
        REGIME_MASCONS,
        REGIME_NODES,
        REGIME_STABILITY,
    )

    nodes = nodes.sort_values("node_id", ignore_index=True)
    metrics = node_metrics(nodes)
    reason = _why_left_out(nodes, metrics, settings)
    usable = np.flatnonzero(pd.isna(reason))
    area = nodes["area_km2"].to_numpy(dtype=np.float64)
    names: list[str] = []
    labels = np.full(len(nodes), -1)
    silhouette = np.full(len(nodes), np.nan)
    fewest = MIN_NODES_PER_REGIME * (settings.k_min if settings.k == "auto" else settings.k)
    centroids = pd.DataFrame()
    if usable.size >= fewest:
        # One thread: sums in another order would let results depend on the number of threads.
        with threadpool_limits(1):
            found, widths, stability = _partition(metrics[usable], area[usable], settings)
        labels[usable], silhouette[usable] = found, widths
        centroids = _centroids(nodes.iloc[usable], found, int(found.max()) + 1)
        names = name_regimes(centroids)
        centroids["regime_name"] = names
    else:
        reason[usable] = f"{usable.size} usable nodes, fewer than {fewest}"
        stability = pd.DataFrame({"k": np.arange(settings.k_min, settings.k_max + 1)})
        for name in ("silhouette", "gap", "gap_sigma", "adjusted_rand"):
            stability[name] = np.nan
        stability["chosen"] = False
        stability["reason"] = f"{usable.size} usable nodes, fewer than {fewest}"
    classified = labels >= 0
    table = nodes[["node_id", "x_m", "y_m", "latitude", "longitude"]].copy()
    table["regime"] = pd.array(np.where(classified, labels, 0), dtype="Int32")
    table.loc[~classified, "regime"] = pd.NA
    table["regime_name"] = [names[j] if j >= 0 else None for j in labels]
    table["silhouette"] = silhouette
    table["reason"] = reason
    table["area_km2"] = area
    shares = share_regimes(table, mascons)
    return Regimes(
        _arrow(table, REGIME_NODES),
        _arrow(shares, REGIME_MASCONS),
        _arrow(centroids, REGIME_CENTROIDS) if len(centroids) else REGIME_CENTROIDS.empty(),
        _arrow(stability, REGIME_STABILITY),
    )


def _arrow(frame: pd.DataFrame, contract: Any) -> pa.Table:
    import pyarrow as pa

    schema = contract.schema
    return pa.Table.from_arrays(
        [
            pa.array(frame[name], type=schema.field(name).type, from_pandas=True)
            for name in schema.names
        ],
        schema=schema,
    )
