"""Regimes of elevation change: K-Means on the metrics of nodes and of mascons, names by rule.

Rule for k: among the k whose partitions come back under bootstrap (mean adjusted Rand index at
least ``MIN_STABILITY``; the most stable k where none reaches it), the one with the largest sum of
silhouette and gap, each scaled to 0…1 over the k tried. A partition that does not come back is
no regime map, so stability is a condition. Silhouette alone favours the coarsest split into a
fast margin and the rest; the gap alone rises with every cut through a continuous field; their sum
asks for clusters that are both apart and more compact than chance. Mascons take the k of the
nodes: among thirty of them the gap's σ is as wide as its differences from k to k.

What the seed may move is kept small by design: the sample on which k is chosen is drawn at even
steps of area and has no chance in it; every partition is the best of many starts, one of them
Ward's, which has none either; the chosen one is then settled on all nodes. The seed is left with
the starts, the references of the gap and the bootstraps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import geopandas
    import pyarrow as pa

    from cryofuse.config import RegimeSettings

logger = logging.getLogger(__name__)

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
#: Columns of ``altimetry/nodes`` that regimes are made of.
NODE_COLUMNS = (
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
    "interannual_m",
    "bed_m",
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
#: Uniform reference draws of the gap statistic.
GAP_DRAWS = 20
#: k-means++ starts of a partition, of one of a bootstrap sample (which also starts from the
#: partition that it is compared with) and of one of reference points.
STARTS, BOOTSTRAP_STARTS, REFERENCE_STARTS = 30, 3, 2
#: Starts where k is given: of 27 mascons in six regimes, one start in forty finds the best.
GIVEN_STARTS = 500
#: Bootstrap stability a k needs.
MIN_STABILITY = 0.9
#: Fewest members per regime; with fewer than two (nodes: ``k_min``) times this there are none.
MIN_PER_REGIME = {"nodes": 10, "mascons": 4}
#: Fewest usable nodes of a mascon that has metrics of its own.
MIN_NODES_OF_MASCON = 10
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


def sample_evenly(area: np.ndarray, count: int) -> np.ndarray:
    """Return indices of ``count`` nodes at even steps of area along the nodes' order.

    Nodes are ordered by place, so the sample covers the region evenly, and without chance. A
    node larger than a step stands in it more than once.

    Parameters
    ----------
    area
        Area each node stands for, shape (n,).
    count
        Size of the sample; all nodes where there are no more.
    """
    if area.size <= count:
        return np.arange(area.size)
    edges = np.cumsum(area)
    return np.searchsorted(edges, (np.arange(count) + 0.5) * edges[-1] / count)


def _start_ward(points: np.ndarray, k: int) -> np.ndarray:
    """Return the centres of Ward's clusters, a start without chance."""
    from scipy.cluster.hierarchy import fcluster, ward

    label = fcluster(ward(points), k, "maxclust")
    return np.array([points[label == j].mean(axis=0) for j in np.unique(label)])


def _kmeans(
    points: np.ndarray, k: int, rng: np.random.Generator, starts: int, first: np.ndarray
) -> Any:
    """Return the partition with the least inertia of k-means++ starts and of given centres."""
    from sklearn.cluster import KMeans

    drawn = KMeans(k, n_init=starts, random_state=int(rng.integers(2**31))).fit(points)
    if len(first) != k:
        return drawn
    given = KMeans(k, n_init=1, init=first).fit(points)
    # Equal up to rounding is equal: the start without chance then decides.
    return drawn if drawn.inertia_ < given.inertia_ * (1 - 1e-6) else given


def find_partitions(points: np.ndarray, starts: dict[int, int], seed: int) -> dict[int, Any]:
    """Return the best K-Means partition found for each number of regimes.

    Parameters
    ----------
    points
        Standardised metrics, shape (n, metrics).
    starts
        k-means++ starts by number of regimes.
    seed
        Seed of the starts.

    Returns
    -------
    dict
        Fitted ``sklearn.cluster.KMeans`` by number of regimes.

    Notes
    -----
    Starts: k-means++ (Arthur and Vassilvitskii 2007, Proc. SODA, 1027) and Ward's clusters
    (Ward 1963, J. Am. Stat. Assoc. 58, 236).
    """
    rng = np.random.default_rng([seed, 0])
    return {k: _kmeans(points, k, rng, n, _start_ward(points, k)) for k, n in starts.items()}


def assess_counts(
    points: np.ndarray, partitions: dict[int, Any], settings: RegimeSettings, level: str
) -> pd.DataFrame:
    """Return silhouette, gap and bootstrap stability for each number of regimes.

    Parameters
    ----------
    points
        Standardised metrics of nodes that stand for like areas, or of mascons, shape
        (n, metrics).
    partitions
        Partitions of the points by number of regimes; a number without one is reported null.
    settings
        Range of k, bootstraps and seed.
    level
        ``nodes`` or ``mascons``.

    Returns
    -------
    pandas.DataFrame
        Columns of ``regimes/stability`` without ``score``, ``chosen`` and ``why``.

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
    rows = []
    for k in range(settings.k_min, settings.k_max + 1):
        row: dict[str, Any] = {"level": level, "k": k, "silhouette": None, "gap": None}
        row |= {"gap_sigma": None, "adjusted_rand": None, "reason": None}
        rows.append(row)
        if k not in partitions:
            row["reason"] = f"{len(points)} {level} are too few for {k} regimes"
            continue
        own = partitions[k]
        row["silhouette"] = float(silhouette_score(distance, own.labels_, metric="precomputed"))
        chance = np.log(
            [_kmeans(r, k, rng, REFERENCE_STARTS, np.empty(0)).inertia_ for r in references]
        )
        row["gap"] = float(chance.mean() - np.log(own.inertia_))
        row["gap_sigma"] = float(chance.std() * np.sqrt(1.0 + 1.0 / GAP_DRAWS))
        agreement = [
            adjusted_rand_score(
                own.labels_,
                _kmeans(points[draw], k, rng, BOOTSTRAP_STARTS, own.cluster_centers_).predict(
                    points
                ),
            )
            for draw in draws
        ]
        row["adjusted_rand"] = float(np.mean(agreement))
        logger.info(
            "%s, k = %d of %d to %d: silhouette %.3f, gap %.3f, adjusted Rand %.3f",
            level, k, settings.k_min, settings.k_max, row["silhouette"], row["gap"],
            row["adjusted_rand"],
        )  # fmt: skip
    return pd.DataFrame(rows)


def score_counts(stability: pd.DataFrame) -> np.ndarray:
    """Return the sum of silhouette and gap, each scaled to 0…1 over the k assessed.

    Parameters
    ----------
    stability
        Rows with ``silhouette`` and ``gap``; the score is NaN where they are null.
    """
    return _unit(stability["silhouette"]) + _unit(stability["gap"])


def choose_count(stability: pd.DataFrame) -> int:
    """Return the number of regimes by the module's rule.

    Parameters
    ----------
    stability
        Rows of one level with ``score``, which at least one of them has.
    """
    known = stability.dropna(subset=["score"])
    rand = known["adjusted_rand"].to_numpy(dtype=np.float64)
    stable = rand >= min(MIN_STABILITY, rand.max())
    best = np.argmax(np.where(stable, known["score"], -np.inf))
    return int(known["k"].to_numpy()[best])


def explain_choice(stability: pd.DataFrame) -> str:
    """Return why :func:`choose_count` chooses what it chooses, in words and numbers."""
    rows = stability.dropna(subset=["score"]).set_index("k")
    k = choose_count(stability)
    rand, score = rows["adjusted_rand"], rows["score"]
    stable = rows.index[rand >= MIN_STABILITY]
    if not len(stable):
        return (
            f"no partition comes back under bootstrap (adjusted Rand {MIN_STABILITY:g}), "
            f"this one most nearly ({rand[k]:.2f})"
        )
    others = score[stable].drop(k)
    following = f"; next {others.max():.2f} at k = {others.idxmax()}" if len(others) else ""
    return (
        f"the largest silhouette + gap, each scaled to 0…1 ({score[k]:.2f}{following}), among the "
        f"{len(stable)} of {len(rows)} partitions that come back under bootstrap (adjusted Rand "
        f"at least {MIN_STABILITY:g}; here {rand[k]:.3f})"
    )


def _unit(column: pd.Series) -> np.ndarray:
    values = column.to_numpy(dtype=np.float64)
    known = values[np.isfinite(values)]
    width = np.ptp(known) if known.size else 0.0
    return (values - known.min()) / width if width > 0 else values * 0.0


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


def explain_omissions(
    nodes: pd.DataFrame, metrics: np.ndarray, settings: RegimeSettings
) -> np.ndarray:
    """Return why each node is not classified, None where it is.

    Parameters
    ----------
    nodes
        Nodes with ``rate_sigma_m_yr`` and ``area_km2``.
    metrics
        Their metrics, shape (n, metrics).
    settings
        Largest σ of a rate.
    """
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


@dataclass(frozen=True)
class _Level:
    """Members of one level that can be classified: metrics, ice areas, sample, K-Means weights."""

    name: str
    metrics: np.ndarray
    area: np.ndarray
    sample: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Chosen:
    """A partition chosen on the sample, to be settled on all members of its level.

    ``partition`` is the fitted ``sklearn.cluster.KMeans`` of ``sample``, the sample's
    standardised metrics; ``stretched`` the metrics of all members before ``scaler``, shape
    (n, metrics), and ``weights`` their weights, shape (n,).
    """

    partition: Any
    sample: np.ndarray
    scaler: Scaler
    stretched: np.ndarray
    weights: np.ndarray


#: What settles a chosen partition: returns a label of each member, in the members' order.
Settle = Callable[[Chosen], np.ndarray]


def settle_here(chosen: Chosen) -> np.ndarray:
    """Return the labels of K-Means on all members, started at the sample's centres."""
    from sklearn.cluster import KMeans

    centres = chosen.partition.cluster_centers_
    settled = KMeans(len(centres), n_init=1, init=centres)
    return settled.fit(chosen.scaler.apply(chosen.stretched), sample_weight=chosen.weights).labels_


def _partition(
    level: _Level, settings: RegimeSettings, k: int | None, why: str, settle: Settle
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Return labels by mean rate, silhouettes (NaN outside the sample) and the stability rows.

    ``k`` is chosen where it is None, else used because of ``why``.
    """
    from sklearn.metrics import silhouette_samples

    stretched = stretch_metrics(level.metrics)
    scaler = fit_scaler(stretched, level.weights)
    few = scaler.apply(stretched[level.sample])
    most = min(settings.k_max, len(few) // MIN_PER_REGIME[level.name])
    starts = dict.fromkeys(range(settings.k_min, most + 1), STARTS)
    if k is not None:
        starts[k] = GIVEN_STARTS
    partitions = find_partitions(few, starts, settings.seed)
    stability = assess_counts(few, partitions, settings, level.name)
    stability["score"] = score_counts(stability)
    if k is None:
        k, why = choose_count(stability), explain_choice(stability)
    else:
        rand = float(stability.set_index("k")["adjusted_rand"].get(k, np.nan))
        steady = "steady" if rand >= MIN_STABILITY else "not steady"
        why += f"; {steady} under bootstrap (adjusted Rand {rand:.2f})"
    found = settle(Chosen(partitions[k], few, scaler, stretched, level.weights))
    _, found = np.unique(found, return_inverse=True)
    rate = level.metrics[:, METRICS.index("rate_m_yr")]
    found = _order_by_rate(found, rate, level.area, int(found.max()) + 1)[found]
    widths = np.full(len(found), np.nan)
    if 1 < np.unique(found[level.sample]).size < len(few):
        widths[level.sample] = silhouette_samples(few, found[level.sample])
    stability["chosen"] = stability["k"] == k
    stability["why"] = [f"k = {k}: {why}." if chosen else None for chosen in stability["chosen"]]
    logger.info("%d regimes of %s: %s", k, level.name, why)
    return found, widths, stability


def _centroids(members: pd.DataFrame, labels: np.ndarray, level: str) -> pd.DataFrame:
    """Return area-weighted means of each regime in physical units, with names by rule."""
    metrics = node_metrics(members)
    area = members["area_km2"].to_numpy(dtype=np.float64)
    bed = members["bed_m"].to_numpy(dtype=np.float64)
    nodes = members["n_nodes"].to_numpy() if level == "mascons" else np.ones(len(members))
    rows = []
    for j in range(int(labels.max()) + 1):
        member = labels == j
        mean = dict(
            zip(METRICS, np.average(metrics[member], axis=0, weights=area[member]), strict=True)
        )
        cosine, sine = mean.pop("cosine_m"), mean.pop("sine_m")
        known = member & np.isfinite(bed)
        rows.append(
            {
                "level": level,
                "regime": j,
                "n_mascons": int(member.sum()) if level == "mascons" else None,
                "n_nodes": int(nodes[member].sum()),
                "area_km2": float(area[member].sum()),
                "phase_rad": float(np.arctan2(sine, cosine)),
                "bed_m": float(np.average(bed[known], weights=area[known]))
                if known.any()
                else np.nan,
                "reason": None,
                **mean,
            }
        )
    table = pd.DataFrame(rows)
    table["regime_name"] = name_regimes(table)
    return table


def _cluster(
    members: pd.DataFrame,
    level: _Level,
    settings: RegimeSettings,
    k: int | None,
    why: str,
    settle: Settle = settle_here,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return regime, name, silhouette and reason of each member, centroids and stability rows."""
    from threadpoolctl import threadpool_limits

    fewest = MIN_PER_REGIME[level.name] * (k or settings.k_min)
    if len(members) >= fewest:
        # One thread: sums in another order would let results depend on the number of threads.
        with threadpool_limits(1):
            found, widths, stability = _partition(level, settings, k, why, settle)
        centroids = _centroids(members, found, level.name)
        names = centroids["regime_name"].to_numpy()[found]
        labels = pd.DataFrame(
            {"regime": pd.array(found, dtype="Int32"), "regime_name": names, "silhouette": widths},
            index=members.index,
        )
        return labels.assign(reason=None), centroids, stability
    why = f"{len(members)} usable {level.name}, fewer than {fewest}"
    logger.warning("no regimes: %s", why)
    null = {"regime": pd.NA, "regime_name": None, "silhouette": np.nan, "reason": why}
    labels = pd.DataFrame(null, index=members.index)
    centroids = pd.DataFrame([{"level": level.name, "n_nodes": 0, "reason": why}])
    stability = pd.DataFrame({"k": np.arange(settings.k_min, settings.k_max + 1)})
    stability = stability.assign(level=level.name, chosen=False, why=None, reason=why)
    return labels, centroids, stability


def mascon_metrics(nodes: pd.DataFrame, mascons: geopandas.GeoDataFrame) -> pd.DataFrame:
    """Return the metrics of mascons: area-weighted means of the nodes within.

    Amplitude and phase are those of the mean cycle, so that cycles of opposite phase cancel, as
    they do in the mascon's mass.

    Parameters
    ----------
    nodes
        Nodes that can be classified, with the columns of ``altimetry/nodes``.
    mascons
        Footprints in longitude and latitude, with ``mascon_id``.

    Returns
    -------
    pandas.DataFrame
        A row per mascon, in the order given: ``mascon_id``, ``n_nodes``, ``area_km2`` of these
        nodes, and where there are any, the metrics in the nodes' units and ``bed_m``.
    """
    metrics = dict(zip(METRICS, node_metrics(nodes).T, strict=True))
    del metrics["amplitude_m"]
    area = nodes["area_km2"].to_numpy(dtype=np.float64)
    inside = _locate(nodes, mascons)
    bed = nodes["bed_m"].to_numpy(dtype=np.float64)
    rows = []
    for number, mascon_id in enumerate(mascons["mascon_id"].to_numpy()):
        here = inside == number
        row: dict[str, Any] = {"mascon_id": int(mascon_id), "n_nodes": int(here.sum())}
        row |= {"area_km2": float(area[here].sum())} | dict.fromkeys(metrics, np.nan)
        row |= {"amplitude_m": np.nan, "phase_rad": np.nan, "bed_m": np.nan}
        if here.any():
            row |= {n: float(np.average(v[here], weights=area[here])) for n, v in metrics.items()}
            row["amplitude_m"] = float(np.hypot(row["cosine_m"], row["sine_m"]))
            row["phase_rad"] = float(np.arctan2(row["sine_m"], row["cosine_m"]))
        known = here & np.isfinite(bed)
        if known.any():
            row["bed_m"] = float(np.average(bed[known], weights=area[known]))
        rows.append(row)
    return pd.DataFrame(rows)


def _locate(nodes: pd.DataFrame, mascons: geopandas.GeoDataFrame) -> np.ndarray:
    """Return the number of the mascon that holds each node, −1 outside all."""
    from cryofuse.geo import locate

    return locate(
        nodes["longitude"].to_numpy(np.float64),
        nodes["latitude"].to_numpy(np.float64),
        mascons.geometry.to_numpy(),
    )


def share_regimes(nodes: pd.DataFrame, mascons: geopandas.GeoDataFrame) -> pd.DataFrame:
    """Return the node regime that holds the largest share of each mascon's classified ice area.

    Parameters
    ----------
    nodes
        Nodes with longitude, latitude, ``area_km2``, ``regime`` and ``regime_name``.
    mascons
        Footprints in longitude and latitude, with ``mascon_id``.

    Returns
    -------
    pandas.DataFrame
        Columns ``node_regime``, ``node_regime_name`` and ``share``, a row per mascon in the order
        given; null where no classified node lies inside.
    """
    known = nodes[nodes["regime"].notna()]
    inside = _locate(known, mascons)
    rows: list[dict[str, Any]] = []
    for number in range(len(mascons)):
        here = known[inside == number]
        rows.append({"node_regime": None, "node_regime_name": None, "share": None})
        if len(here):
            area = here.groupby(["regime", "regime_name"])["area_km2"].sum()
            regime, name = area.idxmax()
            rows[-1] = {"node_regime": int(regime), "node_regime_name": name}
            rows[-1]["share"] = float(min(area.max() / area.sum(), 1.0))
    return pd.DataFrame(rows, columns=["node_regime", "node_regime_name", "share"])


def cluster_regimes(
    nodes: pd.DataFrame,
    mascons: geopandas.GeoDataFrame,
    settings: RegimeSettings,
    settle: Settle = settle_here,
) -> Regimes:
    """Cluster nodes and mascons into regimes and describe them.

    Parameters
    ----------
    nodes
        ``altimetry/nodes`` of all tiles, :data:`NODE_COLUMNS` at least.
    mascons
        ``gravimetry/mascons``.
    settings
        Number of regimes or its range, bootstraps, size of the sample and seed.
    settle
        K-Means of all nodes, from the partition that was chosen on the sample.

    Returns
    -------
    Regimes
        The four tables. Every node and mascon has a row; where nothing can be clustered the
        regime is null and ``reason`` says why.
    """
    from cryofuse.tables import (
        REGIME_CENTROIDS,
        REGIME_MASCONS,
        REGIME_NODES,
        REGIME_STABILITY,
    )

    nodes = nodes.sort_values("node_id", ignore_index=True)
    metrics = node_metrics(nodes)
    nodes["reason"] = explain_omissions(nodes, metrics, settings)
    usable = nodes[nodes["reason"].isna()]
    area = usable["area_km2"].to_numpy(dtype=np.float64)
    sample = sample_evenly(area, settings.max_nodes)
    weights = area / area.mean() if area.size else area
    level = _Level("nodes", metrics[usable.index], area, sample, weights)
    asked = None if settings.k == "auto" else settings.k
    found, centroids, stability = _cluster(usable, level, settings, asked, "as configured", settle)
    table = nodes.join(found.drop(columns="reason"))
    table.loc[found.index, "reason"] = found["reason"]

    means = mascon_metrics(usable, mascons)
    enough = means[means["n_nodes"] >= MIN_NODES_OF_MASCON]
    # GRACE sees a mascon as one number, however much ice it holds: each counts once.
    level = _Level(
        "mascons",
        node_metrics(enough),
        enough["area_km2"].to_numpy(dtype=np.float64),
        np.arange(len(enough)),
        np.ones(len(enough)),
    )
    fewest = MIN_PER_REGIME["mascons"]
    k = max(2, min(len(centroids), len(enough) // fewest))
    why = f"as many as of nodes, with at least {fewest} mascons to a regime on average; " + (
        f"{len(enough)} mascons are too few to choose by"
    )
    grouped, of_mascons, steadiness = _cluster(enough, level, settings, k, why)
    means["reason"] = [
        f"{n} usable nodes, fewer than {MIN_NODES_OF_MASCON}" for n in means["n_nodes"]
    ]
    described = means.join(grouped.drop(columns="reason")).join(share_regimes(table, mascons))
    described.loc[grouped.index, "reason"] = grouped["reason"]
    return Regimes(
        _arrow(table, REGIME_NODES),
        _arrow(described, REGIME_MASCONS),
        _arrow(pd.concat([centroids, of_mascons], ignore_index=True), REGIME_CENTROIDS),
        _arrow(pd.concat([stability, steadiness], ignore_index=True), REGIME_STABILITY),
    )


def _arrow(frame: pd.DataFrame, contract: Any) -> pa.Table:
    import pyarrow as pa

    schema = contract.schema
    complete = frame.reindex(columns=schema.names)
    return pa.Table.from_arrays(
        [
            pa.array(complete[name], type=schema.field(name).type, from_pandas=True)
            for name in schema.names
        ],
        schema=schema,
    )
