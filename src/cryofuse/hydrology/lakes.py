"""Active subglacial lakes: places whose surface moves apart from the ice around them.

A node's departure is its elevation change minus that of the surrounding ring (a plane through
the ring's nodes seen in the same month, outliers trimmed about their median), relative to its own
median departure: what the neighbourhood does together (thinning, season, snow) drops out. Nodes
that depart for long and lie together form a candidate; one common history is fitted to its nodes,
because each month sees other ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cryofuse.calendar import month_index

if TYPE_CHECKING:
    import geopandas

    from cryofuse.config import HydrologySettings

#: Share of the ring's radius around a node that counts as its own near field, not as ring.
NEAR_FIELD = 0.5
#: Fewest ring nodes seen in a month for a departure.
MIN_RING_NODES = 5
#: Ring nodes farther than this from their median (MADs) do not enter the plane through the ring.
RING_TRIM_MADS = 4.0
#: Prior of that plane's gradient, as a share of the ring's data.
GRADIENT_PRIOR = 0.02
#: σ of normal noise over its median absolute deviation, and the least noise of a departure (m).
MAD_TO_SIGMA = 1.4826
LEAST_NOISE_M = 0.01
#: Fewest months with a departure for a node to be judged, and beyond the threshold to be taken.
MIN_MONTHS_SEEN = 6
MIN_MONTHS_BEYOND = 3
#: Share of a departing node's months of one run that may lie below the threshold.
MAX_LAPSES = 0.25
#: A node beside a candidate joins it where its departures correlate with the candidate's history
#: at least so well and swing by at least this share of it.
JOIN_CORRELATION = 0.7
JOIN_SHARE = 0.1
#: Turns of a volume series count as events above this many σ of the difference: the largest
#: difference of seventy months of noise alone is 3.4 of them on average, above 4 in 8 % of series.
EVENT_SIGMAS = 4.0
#: 1σ of an outline's area and of the share of the movement inside it, relative: a drained volume
#: over the planted one lies between 0.59 and 1.05 in 80 % of 71 planted lakes (docs/methods.md).
AREA_SIGMA_SHARE = 0.3
#: A month departs, in the test for surface water, above this many σ.
DEPARTURE_SIGMAS = 2.0
#: Months with a σ above this many times the lower quartile give no events.
FIRM_RATIO = 3.0
#: Share of an event's change by which its start and end may differ from the extremes.
EVENT_TRIM = 0.15
#: Quantiles between which a node's departures range on the map.
RANGE_QUANTILES = (0.05, 0.95)
#: Melt season in which supraglacial lakes fill (calendar months).
MELT_MONTHS = (6, 7, 8, 9)
#: Longest stay of a supraglacial lake (months).
SUPRAGLACIAL_MONTHS = 12
#: Share of a departure's variance in an annual cycle above which it is a seasonal look-alike.
SEASONAL_SHARE = 0.5
#: Share of a departure's variance in a straight line above which, without a turn, it is steady.
STEADY_SHARE = 0.8
#: A side of a node's cell is open where its own departure is at least this share of the mean.
OPEN_SHAPE = 0.5
#: Share of open sides from which an outline counts as cut: a straight cut that takes an eighth
#: of a disc makes a quarter of the outline that is left.
CUT_SHARE = 0.25
#: Steps of the fit of one history to a candidate's nodes.
HISTORY_STEPS = 100
#: Weight of the smoothness that ties nodes of different tracks, as a share of a mean month's data.
SMOOTHNESS = 0.3
#: Weight of that fit's prior, a node's own swing over the mean one, as a share of its data.
PRIOR_SHARE = 0.2


@dataclass(frozen=True)
class Lakes:
    """Tables of a search: candidates with outlines, their series and events, nodes searched."""

    lakes: geopandas.GeoDataFrame
    months: pd.DataFrame
    events: pd.DataFrame
    nodes: pd.DataFrame


def measure_departures(
    x_m: np.ndarray,
    y_m: np.ndarray,
    node: np.ndarray,
    month: np.ndarray,
    dh_m: np.ndarray,
    ring_m: float,
) -> pd.DataFrame:
    """Return how far each node month departs from the ring around it.

    Parameters
    ----------
    x_m, y_m
        Positions of the nodes (m), shape (nodes,).
    node, month
        Index of the node and number of the month of each node month, shape (n,).
    dh_m
        Elevation change (m), shape (n,).
    ring_m
        Outer radius of the ring (m); its inner radius is ``NEAR_FIELD`` of it.

    Returns
    -------
    pandas.DataFrame
        ``node``, ``month``, ``departure_m`` (relative to the node's median), ``ring_mad_m``
        (median absolute deviation of ring nodes from their own median, pooled over the node's
        months) and ``noise_m`` (σ of a departure). Node months with too few ring nodes are left
        out.

    Notes
    -----
    A node month's own σ is not used: it holds the misfit of trend and annual cycle, which is
    largest where a lake moves. The noise comes from the ring and from steps between months.
    """
    from scipy.spatial import cKDTree

    parts = []
    for number in np.unique(month):
        here = np.flatnonzero(month == number)
        tree = cKDTree(np.column_stack([x_m[node[here]], y_m[node[here]]]))
        pairs = tree.query_pairs(ring_m, output_type="ndarray")
        if not len(pairs):
            continue
        apart = np.hypot(*(tree.data[pairs[:, 0]] - tree.data[pairs[:, 1]]).T)
        pairs = pairs[apart > NEAR_FIELD * ring_m]
        centre = np.concatenate([pairs[:, 0], pairs[:, 1]])
        other = np.concatenate([pairs[:, 1], pairs[:, 0]])
        around = dh_m[here][other]
        middle, count = _group_median(centre, around, here.size)
        spread, _ = _group_median(centre, np.abs(around - middle[centre]), here.size)
        trusted = np.abs(around - middle[centre]) <= RING_TRIM_MADS * spread[centre]
        offset = tree.data[other] - tree.data[centre]
        surround = _surround(centre[trusted], offset[trusted] / ring_m, around[trusted], here.size)
        kept = count >= MIN_RING_NODES
        parts.append(
            pd.DataFrame(
                {
                    "node": node[here][kept],
                    "month": number,
                    "departure_m": (dh_m[here] - surround)[kept],
                    "ring_mad_m": spread[kept],
                }
            )
        )
    if not parts:
        names = ["node", "month", "departure_m", "ring_mad_m", "noise_m"]
        return pd.DataFrame(np.zeros((0, len(names))), columns=names).astype({"node": np.int64})
    table = pd.concat(parts, ignore_index=True).sort_values(["node", "month"], ignore_index=True)
    groups = table.groupby("node")
    table["departure_m"] -= groups["departure_m"].transform("median")
    table["ring_mad_m"] = groups["ring_mad_m"].transform("median")
    steps = groups["departure_m"].diff().abs()
    step = steps.groupby(table["node"]).transform("median").fillna(0.0) / np.sqrt(2.0)
    table["noise_m"] = np.maximum(
        MAD_TO_SIGMA * np.maximum(table["ring_mad_m"], step), LEAST_NOISE_M
    )
    return table


def _surround(centre: np.ndarray, offset: np.ndarray, value: np.ndarray, size: int) -> np.ndarray:
    """Return a plane through each centre's ring, read at the centre (NaN without a ring).

    Offsets are in ring radii. A prior holds gradients small where the ring lies on one side or
    on one track, so that the plane does not swing.
    """
    design = np.column_stack([np.ones(centre.size), offset])
    normal = np.zeros((size, 3, 3))
    np.add.at(normal, centre, design[:, :, None] * design[:, None, :])
    target = np.zeros((size, 3))
    np.add.at(target, centre, value[:, None] * design)
    count = normal[:, 0, 0].copy()
    some = count > 0
    normal[:, [1, 2], [1, 2]] += GRADIENT_PRIOR * np.maximum(count, 1.0)[:, None]
    normal[~some, 0, 0] = 1.0
    height = np.linalg.solve(normal, target[..., None])[:, 0, 0]
    return np.where(some, height, np.nan)


def _group_median(group: np.ndarray, value: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the median and number of values in each of ``size`` groups (NaN where none)."""
    order = np.lexsort((value, group))
    value = value[order]
    count = np.bincount(group, minlength=size)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    median = np.full(size, np.nan)
    some = count > 0
    low = start[some] + (count[some] - 1) // 2
    high = start[some] + count[some] // 2
    median[some] = 0.5 * (value[low] + value[high])
    return median, count


def find_departing(departures: pd.DataFrame, settings: HydrologySettings) -> np.ndarray:
    """Return the index of each node that departs from its ring far enough and for long enough.

    A node departs where |departure| exceeds ``departure_mads`` MADs of its ring (or of its own
    steps from month to month) and ``min_departure_m``, with one sign, over observed months that
    span ``min_persistence_months`` with few lapses between.
    """
    found = []
    for node, rows in departures.groupby("node", sort=True):
        if len(rows) < MIN_MONTHS_SEEN:
            continue
        value = rows["departure_m"].to_numpy()
        scale = rows["noise_m"].to_numpy() / MAD_TO_SIGMA
        threshold = np.maximum(settings.departure_mads * scale, settings.min_departure_m)
        month = rows["month"].to_numpy()
        for sign in (1.0, -1.0):
            if _lasts(sign * value > threshold, month, settings.min_persistence_months):
                found.append(node)
                break
    return np.array(found, dtype=np.int64)


def _lasts(beyond: np.ndarray, month: np.ndarray, shortest: int) -> bool:
    """Say whether enough months beyond the threshold span the shortest time, with few lapses."""
    index = np.flatnonzero(beyond)
    for i, first in enumerate(index):
        for last in index[i + MIN_MONTHS_BEYOND - 1 :]:
            inside = beyond[first : last + 1]
            if month[last] - month[first] >= shortest and 1.0 - inside.mean() <= MAX_LAPSES:
                return True
    return False


def fit_history(
    node: np.ndarray, month: np.ndarray, departure: np.ndarray, sigma: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit departures as node shape × one common history + a constant of each node.

    Each month sees other nodes; the fit tells the history apart from what differs between them.

    Parameters
    ----------
    node, month
        Index 0… of node and month of each value, shape (n,).
    departure, sigma
        Departure and its σ (m), shape (n,).

    Returns
    -------
    tuple
        History (months,) in metres of the mean over the nodes, its σ (months,), shape of each
        node (nodes,) with mean 1, and the number of nodes behind each month.
    """
    nodes, months = int(node.max()) + 1, int(month.max()) + 1
    weight = 1.0 / (sigma**2 + np.median(sigma) ** 2)
    own = np.array([np.ptp(np.quantile(departure[node == i], [0.1, 0.9])) for i in range(nodes)])
    own = own / own.mean() if own.mean() > 0 else np.ones(nodes)
    shape, constant = own.copy(), np.zeros(nodes)
    history: np.ndarray = np.zeros(months)
    # Nodes of different tracks are never seen in one month: only neighbouring months tie their
    # levels. The history itself is read without smoothing in the end.
    step = np.diff(np.eye(months), axis=0)
    roughness = step.T @ step + 1e-9 * np.eye(months)
    total = np.bincount(node, weight, nodes)
    for _ in range(HISTORY_STEPS):
        power = np.bincount(month, weight * shape[node] ** 2, months)
        rest = weight * shape[node] * (departure - constant[node])
        smooth = SMOOTHNESS * power.mean() * roughness
        level = np.linalg.solve(np.diag(power) + smooth, np.bincount(month, rest, months))
        history = level - np.median(level)
        seen = history[month]
        mean_seen = np.bincount(node, weight * seen, nodes) / total
        mean_value = np.bincount(node, weight * departure, nodes) / total
        swing = weight * (seen - mean_seen[node])
        cross = np.bincount(node, swing * (departure - mean_value[node]), nodes)
        square = np.bincount(node, swing * (seen - mean_seen[node]), nodes)
        # A node seen in few months keeps a shape near its own swing.
        prior = PRIOR_SHARE * square.mean() + 1e-12
        shape = np.maximum((cross + prior * own) / (square + prior), 0.0)
        shape = shape / shape.mean() if shape.mean() > 0 else np.ones(nodes)
        constant = mean_value - shape * mean_seen
    power = np.bincount(month, weight * shape[node] ** 2, months)
    rest = weight * shape[node] * (departure - constant[node])
    level = np.bincount(month, rest, months) / np.maximum(power, 1e-12)
    history = level - np.median(level)
    residual = departure - constant[node] - shape[node] * history[month]
    freedom = max(departure.size - months - 2 * nodes, 1)
    scale = max(float(np.sum(weight * residual**2) / freedom), 1.0)
    # What the nodes of a month share (its passes' own errors, shapes that are a little wrong) is
    # not in their scatter: it shows as months that jump about the line between their neighbours.
    history_sigma = np.sqrt(scale / np.maximum(power, 1e-12))
    history_sigma = np.hypot(history_sigma, measure_jitter(history[firm_months(history_sigma)]))
    return history, history_sigma, shape, np.bincount(month, minlength=months)


def firm_months(sigma: np.ndarray) -> np.ndarray:
    """Return which months are known about as well as the better ones.

    A month in which only a node of the rim is seen says nothing about the lake.
    """
    return sigma <= FIRM_RATIO * np.quantile(sigma, 0.25)


def measure_jitter(history: np.ndarray) -> float:
    """Return the σ of single months about the line through their two neighbours (m).

    A robust spread: the few months of a fast drainage do not count. 0 for fewer than
    ``MIN_MONTHS_SEEN`` months.

    Parameters
    ----------
    history
        Values of successive months, shape (months,).
    """
    if history.size < MIN_MONTHS_SEEN:
        return 0.0
    apart = history[1:-1] - 0.5 * (history[:-2] + history[2:])
    return float(MAD_TO_SIGMA * np.median(np.abs(apart)) / np.sqrt(1.5))


def find_events(
    volume_km3: np.ndarray, sigma_km3: np.ndarray, min_event_km3: float
) -> list[dict[str, Any]]:
    """Return the fill and drain events of a volume series.

    Parameters
    ----------
    volume_km3, sigma_km3
        Volume and the σ of its departure, months ascending, shape (n,).
    min_event_km3
        Smallest change between two turns of the series.

    Returns
    -------
    list of dict
        ``kind``, ``start``, ``end`` (indices into the series), ``volume_km3`` and its σ, which
        holds the departure's and the area's.
    """
    turns = _turns(volume_km3, sigma_km3, min_event_km3)
    events = []
    for first, last in zip(turns[:-1], turns[1:], strict=True):
        change = float(volume_km3[last] - volume_km3[first])
        done = (volume_km3[first : last + 1] - volume_km3[first]) / change
        half = int(np.argmax(done >= 0.5))
        before = np.flatnonzero(done[: half + 1] <= EVENT_TRIM)
        after = np.flatnonzero(done[half:] >= 1.0 - EVENT_TRIM)
        events.append(
            {
                "kind": "fill" if change > 0 else "drain",
                "start": first + int(before[-1]),
                "end": first + half + int(after[0]),
                "volume_km3": change,
                "volume_sigma_km3": float(
                    np.hypot(
                        np.hypot(sigma_km3[first], sigma_km3[last]), AREA_SIGMA_SHARE * abs(change)
                    )
                ),
            }
        )
    return events


def _turns(value: np.ndarray, sigma: np.ndarray, smallest: float) -> list[int]:
    """Return the indices of alternating extremes that differ by more than noise and smallest."""

    def beyond(i: int, j: int) -> bool:
        noise = EVENT_SIGMAS * np.hypot(sigma[i], sigma[j])
        return bool(abs(value[i] - value[j]) >= max(smallest, noise))

    low = high = 0
    turns: list[int] = []
    direction = 0
    for i in range(1, value.size):
        if direction >= 0:
            high = i if value[i] > value[high] else high
        if direction <= 0:
            low = i if value[i] < value[low] else low
        if direction == 0 and beyond(high, low):
            turns.append(min(high, low))
            direction = 1 if high > low else -1
        elif direction > 0 and value[i] < value[high] and beyond(high, i):
            turns.append(high)
            direction, low = -1, i
        elif direction < 0 and value[i] > value[low] and beyond(low, i):
            turns.append(low)
            direction, high = 1, i
    if direction:
        turns.append(high if direction > 0 else low)
    return turns


def explain_lookalike(
    month: np.ndarray,
    departure_m: np.ndarray,
    sigma_m: np.ndarray,
    elevation_m: float,
    settings: HydrologySettings,
) -> str | None:
    """Return why a candidate looks like surface water or season, None where it does not.

    Below ``supraglacial_elevation_max_m``, water on the surface comes in the melt season and
    goes within a year, and melt makes annual cycles that differ between a node and its ring.
    """
    if not elevation_m < settings.supraglacial_elevation_max_m:
        return None
    years = month / 12.0
    angle = 2.0 * np.pi * years
    design = np.column_stack([np.ones_like(years), years, np.cos(angle), np.sin(angle)])
    if month.size > design.shape[1] + 4:
        plain = design[:, :2] @ np.linalg.lstsq(design[:, :2], departure_m, rcond=None)[0]
        whole = design @ np.linalg.lstsq(design, departure_m, rcond=None)[0]
        left, rest = np.sum((departure_m - plain) ** 2), np.sum((departure_m - whole) ** 2)
        if left > 0 and 1.0 - rest / left > SEASONAL_SHARE:
            return "an annual cycle explains most of the departure below the supraglacial limit"
    threshold = np.maximum(settings.min_departure_m, DEPARTURE_SIGMAS * sigma_m)
    beyond = np.abs(departure_m - np.median(departure_m)) > threshold
    if not beyond.any():
        return None
    edges = np.flatnonzero(np.diff(np.concatenate([[False], beyond, [False]]).astype(int)))
    for first, stop in zip(edges[::2], edges[1::2], strict=True):
        gone = month[stop] if stop < month.size else np.inf
        season = month[first] % 12 + 1 in MELT_MONTHS
        if not season or gone - month[first] >= SUPRAGLACIAL_MONTHS:
            return None
    return "every departure comes in June–September and goes within a year"


def is_steady(month: np.ndarray, departure_m: np.ndarray, events: list[dict[str, Any]]) -> bool:
    """Say whether a candidate only drifts: events of one kind, most of it a straight line.

    Where an outlet thins faster than the ice beside it, a node departs from its ring at a steady
    rate. A lake that fills all the time cannot be told from that.
    """
    if len({event["kind"] for event in events}) > 1:
        return False
    left = np.sum((departure_m - departure_m.mean()) ** 2)
    line = np.polyval(np.polyfit(month - month.mean(), departure_m, 1), month - month.mean())
    return bool(left > 0 and 1.0 - np.sum((departure_m - line) ** 2) / left >= STEADY_SHARE)


@dataclass(frozen=True)
class Witnesses:
    """Reference tracks of a candidate and how many nodes of others confirm or deny the leading."""

    tracks: int
    leading: int
    confirming: int
    denying: int


def compare_tracks(rows: pd.DataFrame, members: np.ndarray) -> Witnesses:
    """Ask the other tracks whether they see what a candidate's leading track sees.

    The leading track has the largest sum of squared departures; its rows alone make a history.
    Another track confirms where its departures at a node follow that history. It denies where
    they do not, though the leading track at the same node sees the candidate's mean or more:
    nearer the rim, two tracks a kilometre apart may well differ.

    Parameters
    ----------
    rows
        ``node``, ``month``, ``departure_m``, ``noise_m`` and ``rgt`` (reference ground track, 0
        where a month has several) of the candidate's nodes and of those beside them.
    members
        Sorted nodes of the candidate.

    Returns
    -------
    Witnesses
        Tracks that alone saw members in ``MIN_MONTHS_SEEN`` months or more, the leading one
        (0 where there is none), nodes at which others confirm and deny it.
    """
    alone = rows[rows["rgt"] > 0]
    own = alone[alone["node"].isin(members)]
    months = own.groupby("rgt")["month"].nunique()
    firm = months.index[months >= MIN_MONTHS_SEEN]
    own = own[own["rgt"].isin(firm)]
    if not len(own):
        return Witnesses(0, 0, 0, 0)
    power = (own["departure_m"] ** 2).groupby(own["rgt"]).sum()
    leading = int(power.index.to_numpy()[np.argmax(power.to_numpy())])
    led = own[own["rgt"] == leading]
    month, step = np.unique(led["month"].to_numpy(), return_inverse=True)
    node = np.unique(led["node"].to_numpy(), return_inverse=True)[1]
    history = fit_history(node, step, led["departure_m"].to_numpy(), led["noise_m"].to_numpy())[0]
    confirming, denying = set(), set()
    overlap = alone[alone["month"].between(month[0], month[-1])]
    for number, here in overlap.groupby("node", sort=True):
        lead = here[here["rgt"] == leading]
        full = len(lead) >= MIN_MONTHS_SEEN and _shares(lead, month, history, least=1.0)
        for _, seen in here[here["rgt"] != leading].groupby("rgt", sort=True):
            if len(seen) < MIN_MONTHS_SEEN:
                continue
            if _shares(seen, month, history):
                confirming.add(number)
            elif full:
                denying.add(number)
    return Witnesses(firm.size, leading, len(confirming), len(denying - confirming))


def measure_scatter(nodes: pd.DataFrame) -> float:
    """Return how far segments of one month scatter about their mean (m), root mean square of nodes.

    What is left of a node's residuals without those of its month means: relief that the fitted
    surface does not hold. Where a lake moves, residuals are large, but those of a month agree.

    Parameters
    ----------
    nodes
        ``rms_m`` and ``interannual_m``, weighted RMS of residuals and spread of month means.
    """
    inside = nodes["rms_m"] ** 2 - nodes["interannual_m"] ** 2
    return float(np.sqrt(np.maximum(inside, 0.0).mean()))


def explain_relief(
    swing_m: float, slope: float, scatter_m: float, settings: HydrologySettings
) -> str | None:
    """Return why steep or rough ice explains departures of this swing, None where it does not.

    A track that lies off by the geolocation error reads another height on a slope; means of
    segments that scatter more than the departure depend on where each pass happened to lie.

    Parameters
    ----------
    swing_m
        Range of the candidate's history (m).
    slope
        Mean slope of its nodes (m/m).
    scatter_m
        Scatter of segments within a month (m).
    settings
        ``geolocation_error_m``.
    """
    # Off to either side.
    if swing_m <= 2.0 * DEPARTURE_SIGMAS * settings.geolocation_error_m * slope:
        return "slope times geolocation error gives departures as large: steep ice"
    if swing_m <= scatter_m:
        return "segments of one month scatter as much: rough or crevassed ice"
    return None


def measure_open_share(
    places: np.ndarray,
    spacing_m: np.ndarray,
    judged: np.ndarray,
    members: np.ndarray,
    shape: np.ndarray,
    outline: Any,
) -> float:
    """Return the share of a candidate's sides where it still moves and no ice was searched beyond.

    Parameters
    ----------
    places
        Positions of nodes (m), shape (nodes, 2).
    spacing_m
        Their spacing (m), shape (nodes,).
    judged
        Nodes with enough months to be judged.
    members
        Nodes of the candidate.
    shape
        Departure of each member over their mean, shape (members,).
    outline
        Outline of the candidate; a gap that it closes is no side.
    """
    import shapely
    from scipy.spatial import cKDTree

    sides = np.array([(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])
    half = np.repeat(spacing_m[members] / 2.0, len(sides))
    beside = (places[members][:, None] + spacing_m[members][:, None, None] * sides).reshape(-1, 2)
    outer = ~shapely.contains_xy(outline, beside)
    apart, _ = cKDTree(places[judged]).query(beside)
    moving = np.repeat(shape >= OPEN_SHAPE, len(sides))
    return float(np.count_nonzero(outer & moving & (apart > half)) / np.count_nonzero(outer))


def _single_track(tracks: pd.Series) -> np.ndarray:
    """Return the reference ground track of each node month, 0 where it has several."""
    found = [np.unique(np.asarray(passes) // 1000) for passes in tracks]
    return np.array([int(rgt[0]) if rgt.size == 1 else 0 for rgt in found], dtype=np.int64)


def _split_tracks(
    nodes: pd.DataFrame,
    departures: pd.DataFrame,
    groups: list[np.ndarray],
    tracks: pd.DataFrame,
    settings: HydrologySettings,
) -> list[pd.DataFrame]:
    """Return, for each candidate, departures of its nodes and those beside, with their track."""
    from scipy.spatial import cKDTree

    places = nodes[["x_m", "y_m"]].to_numpy(np.float64)
    tree = cKDTree(places)
    parts = []
    for members in groups:
        near = tree.query_ball_point(places[members], settings.cluster_distance_m)
        beside = np.unique(np.concatenate([np.asarray(part, dtype=np.int64) for part in near]))
        seen = tracks[tracks["node"].isin(beside)]
        seen = seen.assign(rgt=_single_track(seen["tracks"])).drop(columns="tracks")
        parts.append(departures[departures["node"].isin(beside)].merge(seen, on=["node", "month"]))
    return parts


def find_lakes(
    nodes: pd.DataFrame,
    node_months: pd.DataFrame | None,
    mascons: geopandas.GeoDataFrame,
    settings: HydrologySettings,
    crs: str,
) -> Lakes:
    """Search nodes for active-lake candidates.

    Parameters
    ----------
    nodes
        ``altimetry/nodes``; those spaced wider than ``max_node_spacing_m`` are not searched.
    node_months
        ``altimetry/node_months`` of these nodes (``node_id``, ``month``, ``dh_m``, ``tracks``),
        None where there are none.
    mascons
        ``gravimetry/mascons``.
    settings
        Ring, thresholds, grouping, persistence and look-alike limits.
    crs
        CRS of the nodes.

    Returns
    -------
    Lakes
        ``hydrology/lakes`` (outlines in longitude and latitude), ``lake_months``,
        ``lake_events`` and ``searched_nodes``; tables without rows where nothing departs, or
        nothing could be searched.
    """
    if node_months is None:
        return _nothing()
    nodes = nodes[(nodes["spacing_m"] <= settings.max_node_spacing_m) & nodes["rate_m_yr"].notna()]
    nodes = nodes.sort_values("node_id", ignore_index=True)
    position = pd.Index(nodes["node_id"]).get_indexer(node_months["node_id"])
    months = node_months[position >= 0]
    node = position[position >= 0]
    if not len(months):
        return _nothing()
    number = month_index(months["month"].to_numpy())
    departures = measure_departures(
        nodes["x_m"].to_numpy(np.float64),
        nodes["y_m"].to_numpy(np.float64),
        node,
        number,
        months["dh_m"].to_numpy(np.float64),
        settings.ring_m,
    )
    departing = find_departing(departures, settings)
    groups = _group_nodes(nodes, departing, settings)
    groups = grow_groups(nodes, departures, groups, settings)
    searched = _list_searched(nodes, departures, departing, groups)
    if not groups:
        return _nothing(searched)
    tracks = pd.DataFrame({"node": node, "month": number, "tracks": months["tracks"].to_numpy()})
    by_track = _split_tracks(nodes, departures, groups, tracks, settings)
    return _describe(nodes, departures, groups, by_track, mascons, settings, crs, searched)


def _list_searched(
    nodes: pd.DataFrame,
    departures: pd.DataFrame,
    departing: np.ndarray,
    groups: list[np.ndarray],
) -> pd.DataFrame:
    """Return the nodes with enough departures to be judged, and how far each departed."""
    by_node = departures.groupby("node")
    low, high = (by_node["departure_m"].quantile(q) for q in RANGE_QUANTILES)
    table = pd.DataFrame(
        {
            "n_months": by_node.size().astype(np.int32),
            "departure_range_m": high - low,
            "noise_m": by_node["noise_m"].first(),
        }
    )
    table = table[table["n_months"] >= MIN_MONTHS_SEEN]
    lake = pd.Series(pd.NA, index=table.index, dtype="Int32")
    for number, members in enumerate(groups, start=1):
        lake[members] = number
    table["departing"] = table.index.isin(departing)
    table["lake_id"] = lake
    places = nodes.loc[table.index, ["node_id", "window", "spacing_m", "x_m", "y_m"]]
    places["window"] = places["window"].astype("str")
    return places.join(table).reset_index(drop=True)


def _group_nodes(
    nodes: pd.DataFrame, departing: np.ndarray, settings: HydrologySettings
) -> list[np.ndarray]:
    """Return the nodes of each candidate, grouped by DBSCAN, ordered by place."""
    from sklearn.cluster import DBSCAN

    if departing.size < settings.min_nodes:
        return []
    places = nodes.loc[departing, ["x_m", "y_m"]].to_numpy(np.float64)
    model = DBSCAN(eps=settings.cluster_distance_m, min_samples=settings.min_nodes)
    labels = model.fit_predict(places)
    groups = [departing[labels == j] for j in range(labels.max() + 1)]
    return [g for g in groups if g.size >= settings.min_nodes]


def grow_groups(
    nodes: pd.DataFrame,
    departures: pd.DataFrame,
    groups: list[np.ndarray],
    settings: HydrologySettings,
) -> list[np.ndarray]:
    """Let nodes beside a candidate join it where they share its history; merge what meets.

    A lake's rim moves too little to depart on its own, and a gap between tracks cuts lakes in
    two: without this, areas and volumes come out a quarter too small.

    Parameters
    ----------
    nodes
        Nodes with ``x_m`` and ``y_m``.
    departures
        Table of :func:`measure_departures`.
    groups
        Nodes of each candidate.
    settings
        Nodes nearer than ``cluster_distance_m`` lie beside one another.

    Returns
    -------
    list of numpy.ndarray
        Sorted nodes of each candidate, by place; no node is in two.
    """
    from scipy.spatial import cKDTree

    if not groups:
        return groups
    rows: dict[Any, pd.DataFrame] = dict(list(departures.groupby("node")))
    counts = departures.groupby("node").size()
    seen = counts.index[counts >= MIN_MONTHS_SEEN].to_numpy()
    tree = cKDTree(nodes.loc[seen, ["x_m", "y_m"]].to_numpy(np.float64))
    grown = []
    for core in groups:
        own = departures[departures["node"].isin(core)]
        month, step = np.unique(own["month"].to_numpy(), return_inverse=True)
        history = fit_history(
            np.searchsorted(core, own["node"].to_numpy()),
            step,
            own["departure_m"].to_numpy(),
            own["noise_m"].to_numpy(),
        )[0]
        members, edge = set(core.tolist()), core
        while len(edge):
            places = nodes.loc[edge, ["x_m", "y_m"]].to_numpy(np.float64)
            near = tree.query_ball_point(places, settings.cluster_distance_m)
            beside = sorted({int(seen[i]) for part in near for i in part} - members)
            edge = np.array([i for i in beside if _shares(rows[i], month, history)], dtype=np.int64)
            members |= set(edge.tolist())
        grown.append(members)
    # A candidate that reaches another's core is one with it; a rim belongs to the first.
    merged: list[set[int]] = []
    cores: list[set[int]] = []
    for core, members in zip(groups, grown, strict=True):
        joined, heart = set(members), set(core.tolist())
        for i in reversed(range(len(merged))):
            if joined & cores[i] or heart & merged[i]:
                joined |= merged.pop(i)
                heart |= cores.pop(i)
        merged.append(joined)
        cores.append(heart)
    taken: set[int] = set().union(*cores)
    result = []
    for joined, heart in zip(merged, cores, strict=True):
        rim = joined - taken
        taken |= rim
        result.append(np.array(sorted(heart | rim), dtype=np.int64))
    return result


def _shares(
    own: pd.DataFrame, month: np.ndarray, history: np.ndarray, least: float = JOIN_SHARE
) -> bool:
    """Say whether a node's departures follow a history and swing by ``least`` of it or more."""
    value = own["departure_m"].to_numpy() - own["departure_m"].mean()
    common = np.interp(own["month"].to_numpy(), month, history)
    common = common - common.mean()
    square, power = float(common @ common), float(value @ value)
    if square == 0 or power == 0:
        return False
    cross = float(common @ value)
    return cross / np.sqrt(square * power) >= JOIN_CORRELATION and cross / square >= least


def _describe(
    nodes: pd.DataFrame,
    departures: pd.DataFrame,
    groups: list[np.ndarray],
    by_track: list[pd.DataFrame],
    mascons: geopandas.GeoDataFrame,
    settings: HydrologySettings,
    crs: str,
    searched: pd.DataFrame,
) -> Lakes:
    """Return the tables of candidates from the nodes of each."""
    import geopandas

    from cryofuse.geo import area_km2, locate, reproject, unproject

    lakes, series, events = [], [], []
    places = nodes[["x_m", "y_m"]].to_numpy(np.float64)
    spacing = nodes["spacing_m"].to_numpy(np.float64)
    judged = np.flatnonzero(nodes["node_id"].isin(searched["node_id"]))
    for number, (members, tracked) in enumerate(zip(groups, by_track, strict=True), start=1):
        here = nodes.loc[members]
        outline = _outline(here)
        size = area_km2(outline, crs)
        rows = departures[departures["node"].isin(members)]
        index = np.searchsorted(members, rows["node"].to_numpy())
        month, step = np.unique(rows["month"].to_numpy(), return_inverse=True)
        history, sigma, shape, count = fit_history(
            index, step, rows["departure_m"].to_numpy(), rows["noise_m"].to_numpy()
        )
        volume, volume_sigma = history * size * 1e-3, sigma * size * 1e-3
        stamps = month.astype("datetime64[M]").astype("datetime64[us]")
        series.append(
            pd.DataFrame(
                {
                    "lake_id": number,
                    "month": stamps,
                    "departure_m": history,
                    "departure_sigma_m": sigma,
                    "volume_km3": volume,
                    "volume_sigma_km3": volume_sigma,
                    "n_nodes": count,
                }
            )
        )
        firm = firm_months(sigma)
        found = find_events(volume[firm], volume_sigma[firm], settings.min_event_km3)
        days = stamps[firm]
        for event in found:
            first, last = days[event["start"]], days[event["end"]]
            events.append({"lake_id": number, **event, "start": first, "end": last})
        first_of = {
            kind: next((days[e["start"]] for e in found if e["kind"] == kind), None)
            for kind in ("fill", "drain")
        }
        reason = explain_lookalike(
            month[firm], history[firm], sigma[firm], float(here["elevation_m"].mean()), settings
        )
        witnesses = compare_tracks(tracked, members)
        if reason is None and witnesses.denying >= settings.min_nodes and not witnesses.confirming:
            reason = (
                f"only track {witnesses.leading} shows it: others deny it at "
                f"{witnesses.denying} nodes"
            )
        scatter, slope = measure_scatter(here), float(here["slope"].mean())
        if reason is None:
            swing = float(np.ptp(np.quantile(history[firm], RANGE_QUANTILES)))
            reason = explain_relief(swing, slope, scatter, settings)
        if reason is None and not found:
            reason = "no fill or drain event above min_event_km3 and noise"
        if reason is None and is_steady(month[firm], history[firm], found):
            reason = "a steady trend without a turn, as of fast ice beside slower ice"
        open_share = measure_open_share(places, spacing, judged, members, shape, outline)
        centre = outline.centroid
        longitude, latitude = unproject(centre.x, centre.y, crs)
        windows = here["window"].dropna()
        inside = locate(
            np.atleast_1d(longitude), np.atleast_1d(latitude), mascons.geometry.to_numpy()
        )[0]
        lakes.append(
            {
                "lake_id": number,
                "status": "candidate" if reason is None else "lookalike",
                "window": windows.mode().iloc[0] if len(windows) else None,
                "x_m": centre.x,
                "y_m": centre.y,
                "latitude": float(latitude),
                "longitude": float(longitude),
                "area_km2": size,
                "n_nodes": int(members.size),
                "n_tracks": witnesses.tracks,
                "n_confirming": witnesses.confirming,
                "n_denying": witnesses.denying,
                "slope": slope,
                "scatter_m": scatter,
                "open_share": open_share,
                "volume_is_lower_bound": open_share >= CUT_SHARE,
                "volume_range_km3": float(np.ptp(volume[firm])),
                "first_fill": first_of["fill"],
                "first_drain": first_of["drain"],
                "mascon_id": int(mascons["mascon_id"].iloc[inside]) if inside >= 0 else None,
                "inventory_name": None,
                "inventory_distance_m": None,
                "reason": reason,
                "geometry": reproject(outline, crs, "EPSG:4326"),
            }
        )
    return Lakes(
        _typed(geopandas.GeoDataFrame(lakes, geometry="geometry", crs="EPSG:4326")),
        pd.concat(series, ignore_index=True),
        pd.DataFrame(
            events, columns=["lake_id", "kind", "start", "end", "volume_km3", "volume_sigma_km3"]
        ),
        searched,
    )


def _outline(nodes: pd.DataFrame) -> Any:
    """Return the union of the nodes' cells, gaps between tracks closed."""
    import shapely

    half = nodes["spacing_m"].to_numpy(np.float64) / 2.0
    x, y = nodes["x_m"].to_numpy(np.float64), nodes["y_m"].to_numpy(np.float64)
    cells = shapely.union_all(shapely.box(x - half, y - half, x + half, y + half))
    reach = 0.75 * float(nodes["spacing_m"].max())
    closed = cells.buffer(reach, join_style="mitre").buffer(-reach, join_style="mitre")
    return shapely.union_all([closed, cells])


def _typed(frame: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """Return lakes with the types of their contract where every value of a column is null."""
    for name in ("window", "inventory_name", "reason"):
        frame[name] = frame[name].astype("str")
    for name in ("first_fill", "first_drain"):
        frame[name] = pd.to_datetime(frame[name]).astype("datetime64[us]")
    frame["inventory_distance_m"] = frame["inventory_distance_m"].astype(np.float64)
    frame["mascon_id"] = frame["mascon_id"].astype("Int32")
    return frame


def _nothing(searched: pd.DataFrame | None = None) -> Lakes:
    """Return tables without a lake."""
    import geopandas

    from cryofuse.tables import LAKE_EVENTS, LAKE_MONTHS, LAKES, SEARCHED_NODES

    lakes = LAKES.empty().to_pandas()
    return Lakes(
        geopandas.GeoDataFrame(lakes, geometry=geopandas.GeoSeries([], crs="EPSG:4326")),
        LAKE_MONTHS.empty().to_pandas(),
        LAKE_EVENTS.empty().to_pandas(),
        SEARCHED_NODES.empty().to_pandas() if searched is None else searched,
    )
