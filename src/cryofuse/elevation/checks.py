"""Checks of elevation change on the same segments but without the fits: crossovers and repeats.

Crossover: two passes' beams on different reference tracks cross; each height is interpolated
along its track to the crossing, between two segments with adjacent numbers. Repeat: segments of
one reference track, beam and segment number in two cycles; the height difference is moved to one
place by the nearest node's fitted gradient. The fitted rate and annual cycle enter neither: they
make the model's change, and what is left of the difference is the residual.

Only crossings of different reference tracks count: where one track crosses itself (its turn near
the pole) nothing is looked for. Nodes beyond the tile are not asked. Work goes block by block. A
pair belongs to the block that holds its point (half open: a crossing, or the centre of a repeat's
earlier segment), so blocks neither repeat nor lose pairs. All pairs are counted; of each kind a
seeded draw over a canonical order (cycle, track, beam, segment) is kept, and only those get
heights. Where more than ``MOST_TRACKS`` passes' beams meet in a block (near 88° of latitude),
crossovers are looked for among a draw of them and their count is scaled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from scipy.spatial import cKDTree

from cryofuse.altimetry import beam_labels
from cryofuse.atl06.tiles import Box, grow, in_box
from cryofuse.calendar import year_fraction
from cryofuse.tables import CHECK_PAIRS, CHECKS

if TYPE_CHECKING:
    import pandas as pd

    from cryofuse.config import ElevationSettings

KINDS = ("crossover", "repeat")
#: Smallest angle between two tracks (degrees). Ascending and descending tracks cross at 12° or
#: more above 60° of latitude; at 5°, 5 m of geolocation error already moves a crossing by 57 m.
MIN_ANGLE_DEGREES = 5.0
#: How far beyond a block its crossings reach for segments (m): they are 20 m apart.
CROSSING_REACH_M = 50.0
#: Correlation of the errors of neighbouring segments: 40 m long and 20 m apart, they share half
#: of their photons; Smith et al. 2019, doi:10.1016/j.rse.2019.111352.
NEIGHBOUR_CORRELATION = 0.5
#: Shortest span over which a difference is read as a rate (years): below it, the annual cycle
#: and noise rule.
MIN_RATE_YEARS = 0.5
#: Passes' beams of a block among which all crossovers are found; about 450 at 70°.
MOST_TRACKS = 1500
#: Classes of a pair's span (years): name, from, to (half open).
SPANS = (
    ("all", 0.0, np.inf),
    ("under_0.5_years", 0.0, 0.5),
    ("0.5_to_1.5_years", 0.5, 1.5),
    ("over_1.5_years", 1.5, np.inf),
)
#: Robust spread of a normal distribution over its MAD.
MAD_TO_SIGMA = 1.4826
#: σ of a median over that of a mean, for normal values: √(π/2).
MEDIAN_TO_MEAN_SIGMA = float(np.sqrt(np.pi / 2))

#: Bits of cycle, segment number and beam in a segment's key; the track stands above them.
_CYCLE_BITS, _ID_BITS, _BEAM_BITS = 15, 31, 4
#: Steps from piece to piece along two tracks; nearly straight ones need two.
_MOST_STEPS = 20
#: A crossing this near a vertex (pieces) lies on it, on whichever side rounding puts it.
_VERTEX = 1e-9
#: Parallel pieces count as meeting far away (m², their cross product).
_PARALLEL_M2 = 1e-12
#: Pairs of tracks, and reference points, worked on at a time; bound the memory.
_TRACK_PAIRS = 1_000_000
_POINTS = 2048


@dataclass(frozen=True)
class TrackSegments:
    """Segments of a block and its margin; arrays of one length in any order, all finite.

    ``x_m``, ``y_m`` (m), ``time`` (UTC, datetime64[us]), ``height_m``, ``sigma_m`` (m), ``rgt``,
    ``cycle``, ``beam`` (its place among :func:`cryofuse.altimetry.beam_labels`), ``segment_id``.
    """

    x_m: np.ndarray
    y_m: np.ndarray
    time: np.ndarray
    height_m: np.ndarray
    sigma_m: np.ndarray
    rgt: np.ndarray
    cycle: np.ndarray
    beam: np.ndarray
    segment_id: np.ndarray


@dataclass(frozen=True)
class _Table:
    """Segments by cycle and reference point (track, beam, segment number).

    ``rows`` (−1: no segment), ``x_m`` and ``y_m`` (m, NaN: none) have shape (cycles, points);
    ``track`` is each point's track and beam, ``segment_id`` its number, ascending within a track.
    """

    rows: np.ndarray
    x_m: np.ndarray
    y_m: np.ndarray
    track: np.ndarray
    segment_id: np.ndarray


@dataclass(frozen=True)
class _Crossings:
    """Crossings: the two segments around each on either track, and the place between them.

    ``rows`` has shape (crossings, 2 tracks, 2 segments), ``place`` (crossings, 2): 0 at the
    first segment, 1 at the second. ``angle_degrees`` is between the tracks. ``count`` is how many
    the block holds (estimated where tracks were drawn).
    """

    count: float
    rows: np.ndarray
    place: np.ndarray
    x_m: np.ndarray
    y_m: np.ndarray
    angle_degrees: np.ndarray


class _Nodes:
    """Fitted nodes: what the nearest one says at any point."""

    NAMES = ("rate_m_yr", "amplitude_m", "phase_rad", "slope_x", "slope_y")

    def __init__(self, fits: pd.DataFrame, distance_m: float) -> None:
        columns = {name: fits[name].to_numpy(np.float64) for name in ("x_m", "y_m", *self.NAMES)}
        fitted = ~np.isnan(columns["rate_m_yr"])
        self.distance_m = distance_m
        self.tree = cKDTree(np.column_stack([columns["x_m"], columns["y_m"]])[fitted])
        # The tree answers with the number of nodes where none is near.
        self.values = {name: np.append(columns[name][fitted], np.nan) for name in self.NAMES}

    def nearest(self, x_m: np.ndarray, y_m: np.ndarray) -> dict[str, np.ndarray]:
        """Return the nearest node's values at each point, NaN where none is near."""
        points = np.column_stack([x_m, y_m])
        near = self.tree.query(points, distance_upper_bound=self.distance_m)[1]
        return {name: values[near] for name, values in self.values.items()}


def check_block(
    segments: TrackSegments,
    fits: pd.DataFrame,
    box: Box,
    settings: ElevationSettings,
    seed: int,
) -> pa.Table:
    """Return crossovers and repeats of a block.

    Parameters
    ----------
    segments
        Segments of the block and at least ``CROSSING_REACH_M`` and ``max_separation_m`` around
        it. Of a segment that comes twice the earliest counts.
    fits
        Nodes: x_m, y_m (m), rate_m_yr, amplitude_m, phase_rad, slope_x, slope_y (gradient of the
        fitted surface, m per m of the projection); null where unfitted.
    box
        The block: x_min, y_min, x_max, y_max (m), half open.
    settings
        Its ``checks``, and the search radius.
    seed
        Seed of the draw; each block draws for itself.

    Returns
    -------
    pyarrow.Table
        CHECK_PAIRS: crossovers, then repeats, each in canonical order.
    """
    checks = settings.checks
    table = _arrange(segments, box, max(checks.max_separation_m, CROSSING_REACH_M))
    if not table.rows.size:
        return CHECK_PAIRS.empty()
    area_km2 = (box[2] - box[0]) * (box[3] - box[1]) / 1e6
    distance = checks.max_node_distance_m or settings.search_radius_m
    nodes = _Nodes(fits, distance)
    parts = []

    most = _most_kept(checks.max_crossovers_per_km2, area_km2)
    tracks = None if most is None else MOST_TRACKS
    crossings = _find_crossings(table, box, tracks, (seed, 0, box[0], box[1]))
    kept = _draw(crossings.x_m.size, most, (seed, 1, box[0], box[1]))
    if kept.size:
        pairs = _measure_crossings(segments, crossings, kept)
        node = nodes.nearest(pairs["x_m"], pairs["y_m"])
        parts.append(_finish("crossover", pairs, node, crossings.count / kept.size))

    first_x, counts = _count_repeats(table, box, checks.max_separation_m)
    count = int(counts.sum())
    most = _most_kept(checks.max_repeats_per_km2, area_km2)
    kept = _draw(count, most, (seed, 2, box[0], box[1]))
    if kept.size:
        rows, point = _list_repeats(table, first_x, counts, kept, checks.max_separation_m)
        pairs = _measure_repeats(segments, rows, table.segment_id[point])
        node = nodes.nearest(pairs["x_m"], pairs["y_m"])
        # Both segments are taken to one place on the node's plane.
        pairs["dh_m"] = pairs["dh_m"] - (
            node["slope_x"] * pairs.pop("east_m") + node["slope_y"] * pairs.pop("north_m")
        )
        pairs["dh_sigma_m"] = np.where(np.isnan(pairs["dh_m"]), np.nan, pairs["dh_sigma_m"])
        parts.append(_finish("repeat", pairs, node, count / kept.size))
    return pa.concat_tables([CHECK_PAIRS.empty(), *parts])


def _arrange(segments: TrackSegments, box: Box, reach_m: float) -> _Table:
    """Return the rows of segments in and around a box by cycle and reference point."""
    x, y = segments.x_m, segments.y_m
    near = np.flatnonzero(in_box(x, y, grow(box, reach_m)))
    key = segments.rgt[near].astype(np.int64) << _BEAM_BITS | segments.beam[near]
    key = (key << _ID_BITS | segments.segment_id[near]) << _CYCLE_BITS | segments.cycle[near]
    order = np.argsort(key)
    rows, key = near[order], key[order]
    again = key[1:] == key[:-1]
    if again.any():
        order = np.lexsort((segments.height_m[rows], y[rows], x[rows], segments.time[rows], key))
        order = order[np.concatenate([[True], ~again])]
        rows, key = rows[order], key[order]
    cycle, point = key & ((1 << _CYCLE_BITS) - 1), key >> _CYCLE_BITS
    flown = np.bincount(cycle) > 0
    first = np.ones(point.size, dtype=bool)
    np.not_equal(point[1:], point[:-1], out=first[1:])
    shape = (int(flown.sum()), int(first.sum()))
    place = (np.cumsum(flown) - 1)[cycle] * shape[1] + np.cumsum(first) - 1

    def spread(values: np.ndarray, none: float) -> np.ndarray:
        table = np.full(shape[0] * shape[1], none, dtype=values.dtype)
        table[place] = values
        return table.reshape(shape)

    points = point[first]
    return _Table(
        spread(rows, -1),
        spread(x[rows], np.nan),
        spread(y[rows], np.nan),
        points >> _ID_BITS,
        points & ((1 << _ID_BITS) - 1),
    )


def _most_kept(per_km2: float | None, area_km2: float) -> int | None:
    """Return how many pairs a block keeps at most, None for all."""
    return None if per_km2 is None else max(1, round(per_km2 * area_km2))


def _draw(count: int, most: int | None, seed: tuple[float, ...]) -> np.ndarray:
    """Return which of ``count`` things are kept, ascending."""
    if most is None or count <= most:
        return np.arange(count)
    rng = np.random.default_rng([int(s) & 0xFFFFFFFF for s in seed])
    return np.sort(rng.choice(count, size=most, replace=False, shuffle=False))


def _find_crossings(
    table: _Table, box: Box, most_tracks: int | None, seed: tuple[float, ...]
) -> _Crossings:
    """Return the crossings of a block, by cycle, track and beam of both passes.

    Straight lines through each track's ends say which tracks can cross; from where these lines
    meet, steps along the pieces between neighbouring segments lead to the crossing itself.

    Parameters
    ----------
    table
        Segments in and around the block.
    box
        The block (m).
    most_tracks
        More passes' beams than this are drawn from; None takes all.
    seed
        Seed of that draw.
    """
    present = table.rows >= 0
    rows, x, y = table.rows[present], table.x_m[present], table.y_m[present]
    tracks, track = np.unique(table.track, return_inverse=True)
    passes = np.arange(table.rows.shape[0])[:, None] * tracks.size + track
    # Numbers of all passes' segments on one ascending axis: one search finds places on many.
    axis = ((passes << _ID_BITS) + table.segment_id)[present]
    which = axis >> _ID_BITS
    new = np.ones(rows.size, dtype=bool)
    np.not_equal(which[1:], which[:-1], out=new[1:])
    starts = np.flatnonzero(new)
    stops = np.append(starts[1:], rows.size)
    length = np.hypot(x[stops - 1] - x[starts], y[stops - 1] - y[starts])
    rgt = tracks[which[starts] % tracks.size] >> _BEAM_BITS
    whole = np.flatnonzero(length > 0)
    drawn = whole[_draw(whole.size, most_tracks, seed)]
    lines = _straighten(x, y, starts, stops, length)
    found = [
        _step_along(x, y, axis, starts, stops, a, b, along_a, along_b)
        for a, b, along_a, along_b in _candidates(lines, rgt, drawn)
    ]
    i, j, u, v, sine = (
        np.concatenate([f[k] for f in found]) if found else np.zeros(0, kind)
        for k, kind in enumerate((np.int64, np.int64, float, float, float))
    )
    at_x, at_y = x[i] + u * (x[i + 1] - x[i]), y[i] + u * (y[i + 1] - y[i])
    good = (
        (axis[i + 1] - axis[i] == 1)
        & (axis[j + 1] - axis[j] == 1)
        & (sine >= np.sin(np.radians(MIN_ANGLE_DEGREES)))
        & (at_x >= box[0])
        & (at_x < box[2])
        & (at_y >= box[1])
        & (at_y < box[3])
    )
    i, j = i[good], j[good]
    # Of n tracks, n (n - 1) / 2 pairs may cross.
    every, some = (n * (n - 1) for n in (whole.size, drawn.size))
    return _Crossings(
        i.size * every / max(some, 1),
        np.stack([rows[i], rows[i + 1], rows[j], rows[j + 1]], axis=-1).reshape(-1, 2, 2),
        np.column_stack([u[good], v[good]]),
        at_x[good],
        at_y[good],
        np.degrees(np.arcsin(np.minimum(sine[good], 1.0))),
    )


def _straighten(
    x: np.ndarray, y: np.ndarray, starts: np.ndarray, stops: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """Return each track's line: start (x, y), direction (x, y), length and largest departure (m).

    Shape (6, tracks).
    """
    x0, y0 = x[starts], y[starts]
    scale = np.where(length > 0, length, 1.0)
    east, north = (x[stops - 1] - x0) / scale, (y[stops - 1] - y0) / scale
    sizes = stops - starts
    away = (x - np.repeat(x0, sizes)) * np.repeat(north, sizes)
    away -= (y - np.repeat(y0, sizes)) * np.repeat(east, sizes)
    wander = np.maximum.reduceat(np.abs(away), starts)
    return np.stack([x0, y0, east, north, length, wander])


def _candidates(
    lines: np.ndarray, rgt: np.ndarray, whole: np.ndarray
) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield tracks that can cross: both numbers, and how far along either (0 … 1) lines meet."""
    x, y, east, north, length, wander = lines[:, whole]
    step = max(1, _TRACK_PAIRS // max(whole.size, 1))
    # Pieces may turn a little from their line.
    least = 0.5 * np.sin(np.radians(MIN_ANGLE_DEGREES))
    for start in range(0, whole.size, step):
        own = slice(start, start + step)
        sine = east[own, None] * north[start:] - north[own, None] * east[start:]
        other = rgt[whole][own, None] != rgt[whole][start:]
        other &= np.abs(sine) > least
        i, j = np.nonzero(np.triu(other, 1))
        sine = sine[i, j]
        a, b = i + start, j + start
        dx, dy = x[b] - x[a], y[b] - y[a]
        s = (dx * north[b] - dy * east[b]) / sine
        t = (dx * north[a] - dy * east[a]) / sine
        # A crossing lies within both departures of where the lines meet.
        slack = (wander[a] + wander[b]) / np.abs(sine) + _VERTEX
        meet = (s >= -slack) & (s <= length[a] + slack) & (t >= -slack) & (t <= length[b] + slack)
        a, b = a[meet], b[meet]
        yield whole[a], whole[b], s[meet] / length[a], t[meet] / length[b]


def _step_along(
    x: np.ndarray,
    y: np.ndarray,
    axis: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    along_a: np.ndarray,
    along_b: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Return where pairs of tracks cross: piece and place in it on either, sine of the angle.

    Parameters
    ----------
    x, y, axis
        Segments track by track: position (m) and number on one ascending axis.
    starts, stops
        First segment of each track, and the one after its last.
    a, b
        Pairs of tracks.
    along_a, along_b
        Where to begin on either (0 … 1).
    """

    def piece(at: np.ndarray, track: np.ndarray) -> np.ndarray:
        before = np.searchsorted(axis, at, side="right") - 1
        return np.clip(before, starts[track], stops[track] - 2)

    def begin(track: np.ndarray, along: np.ndarray) -> np.ndarray:
        first, last = axis[starts[track]], axis[stops[track] - 1]
        return piece(first + np.floor(along * (last - first)).astype(np.int64), track)

    def follow(i: np.ndarray, place: np.ndarray, track: np.ndarray) -> np.ndarray:
        first, last = axis[starts[track]], axis[stops[track] - 1]
        steps = np.floor(place * (axis[i + 1] - axis[i]))
        steps = np.clip(steps, first - axis[i], last - axis[i])
        return piece(axis[i] + steps.astype(np.int64), track)

    i, j = begin(a, along_a), begin(b, along_b)
    u, v, sine = np.full(a.size, np.nan), np.full(a.size, np.nan), np.zeros(a.size)
    moving = np.arange(a.size)
    for _ in range(_MOST_STEPS):
        m, n = i[moving], j[moving]
        ax, ay, bx, by = x[m + 1] - x[m], y[m + 1] - y[m], x[n + 1] - x[n], y[n + 1] - y[n]
        cross = ax * by - ay * bx
        cross[cross == 0] = _PARALLEL_M2
        dx, dy = x[n] - x[m], y[n] - y[m]
        p, q = (dx * by - dy * bx) / cross, (dx * ay - dy * ax) / cross
        here = (np.minimum(p, q) >= -_VERTEX) & (np.maximum(p, q) <= 1 + _VERTEX)
        done = moving[here]
        u[done], v[done] = np.clip(p[here], 0.0, 1.0), np.clip(q[here], 0.0, 1.0)
        sine[done] = (np.abs(cross) / (np.hypot(ax, ay) * np.hypot(bx, by)))[here]
        moving, m, n, p, q = (values[~here] for values in (moving, m, n, p, q))
        i[moving], j[moving] = follow(m, p, a[moving]), follow(n, q, b[moving])
        # At an end, or on a bend that turns away: they don't cross.
        moving = moving[(i[moving] != m) | (j[moving] != n)]
        if not moving.size:
            break
    crossed = ~np.isnan(u)
    return i[crossed], j[crossed], u[crossed], v[crossed], sine[crossed]


def _measure_crossings(
    segments: TrackSegments, crossings: _Crossings, kept: np.ndarray
) -> dict[str, Any]:
    """Return the columns of crossovers: heights and times interpolated along both tracks."""
    rows, place = crossings.rows[kept], crossings.place[kept]
    near, far = rows[..., 0], rows[..., 1]
    height = (1 - place) * segments.height_m[near] + place * segments.height_m[far]
    own = (1 - place) * segments.sigma_m[near], place * segments.sigma_m[far]
    variance = own[0] ** 2 + own[1] ** 2 + 2 * NEIGHBOUR_CORRELATION * own[0] * own[1]
    between = (segments.time[far] - segments.time[near]).astype(np.int64)
    time = segments.time[near] + np.round(place * between).astype("timedelta64[us]")
    order = np.argsort(time, axis=1, kind="stable")
    height, time = np.take_along_axis(height, order, 1), np.take_along_axis(time, order, 1)
    passes = np.take_along_axis(near, order, 1)
    return {
        "x_m": crossings.x_m[kept],
        "y_m": crossings.y_m[kept],
        "dh_m": height[:, 1] - height[:, 0],
        "dh_sigma_m": np.sqrt(variance.sum(axis=1)),
        "angle_degrees": crossings.angle_degrees[kept],
        **_name_passes(segments, passes, time),
    }


def _count_repeats(table: _Table, box: Box, separation_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Count the repeats of each reference point whose earlier segment is in the block.

    Returns
    -------
    first_x
        ``x_m`` of the segments in the block, which may be the earlier of a pair, else NaN.
    counts
        Repeats of each point.
    """
    x, y = table.x_m, table.y_m
    inside = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
    first_x = np.where(inside, x, np.nan)
    counts = np.zeros(table.track.size, dtype=np.int64)
    for start in range(0, counts.size, _POINTS):
        part = slice(start, start + _POINTS)
        for cycle in range(table.rows.shape[0] - 1):
            dx = x[cycle + 1 :, part] - first_x[cycle, part]
            dy = y[cycle + 1 :, part] - y[cycle, part]
            dx *= dx
            dy *= dy
            dx += dy
            counts[part] += np.count_nonzero(dx <= separation_m**2, axis=0)
    return first_x, counts


def _list_repeats(
    table: _Table,
    first_x: np.ndarray,
    counts: np.ndarray,
    kept: np.ndarray,
    separation_m: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return both rows of each repeat that is kept, and its reference point.

    Repeats are numbered by point, earlier and later cycle.
    """
    x, y = table.x_m, table.y_m
    stops = np.cumsum(counts)
    points = np.unique(np.searchsorted(stops, kept, side="right"))
    cycles = np.arange(table.rows.shape[0])
    later = (cycles[:, None] < cycles)[None, :, :]
    rows, at = [], []
    for start in range(0, points.size, _POINTS):
        part = points[start : start + _POINTS]
        dx = x[:, part].T[:, None, :] - first_x[:, part].T[:, :, None]
        dy = y[:, part].T[:, None, :] - y[:, part].T[:, :, None]
        where, first, second = np.nonzero((dx * dx + dy * dy <= separation_m**2) & later)
        begin = stops[part] - counts[part]
        own = np.cumsum(counts[part]) - counts[part]
        number = begin[where] + np.arange(where.size) - own[where]
        chosen = np.isin(number, kept, assume_unique=True)
        where, first, second = part[where[chosen]], first[chosen], second[chosen]
        rows.append(np.column_stack([table.rows[first, where], table.rows[second, where]]))
        at.append(where)
    return np.concatenate(rows), np.concatenate(at)


def _measure_repeats(
    segments: TrackSegments, rows: np.ndarray, segment_id: np.ndarray
) -> dict[str, Any]:
    """Return the columns of repeats, and the offset of the later segment (east_m, north_m)."""
    order = np.argsort(segments.time[rows], axis=1, kind="stable")
    rows = np.take_along_axis(rows, order, 1)
    height, time = segments.height_m[rows], segments.time[rows]
    east, north = np.diff(segments.x_m[rows])[:, 0], np.diff(segments.y_m[rows])[:, 0]
    return {
        "x_m": segments.x_m[rows[:, 0]],
        "y_m": segments.y_m[rows[:, 0]],
        "dh_m": height[:, 1] - height[:, 0],
        "dh_sigma_m": np.hypot(*segments.sigma_m[rows].T),
        "separation_m": np.hypot(east, north),
        "segment_id": segment_id,
        "east_m": east,
        "north_m": north,
        **_name_passes(segments, rows, time),
    }


def _name_passes(segments: TrackSegments, rows: np.ndarray, time: np.ndarray) -> dict[str, Any]:
    """Return times, tracks, cycles and beams of the earlier and the later segment of pairs."""
    columns: dict[str, Any] = {}
    beams = beam_labels()
    for side, which in enumerate(("first", "second")):
        own = rows[:, side]
        columns[f"time_{which}"] = time[:, side]
        columns[f"rgt_{which}"] = segments.rgt[own]
        columns[f"cycle_{which}"] = segments.cycle[own]
        columns[f"beam_{which}"] = [beams[code] for code in segments.beam[own]]
    return columns


def _finish(
    kind: str, pairs: dict[str, Any], node: dict[str, np.ndarray], stands_for: float
) -> pa.Table:
    """Return pairs as a table, with the model's change and what it leaves."""
    first, second = (year_fraction(pairs[f"time_{which}"]) for which in ("first", "second"))
    span = second - first
    later, earlier = (np.cos(2 * np.pi * t - node["phase_rad"]) for t in (second, first))
    model = node["rate_m_yr"] * span + node["amplitude_m"] * (later - earlier)
    columns = pairs | {
        "kind": [kind] * span.size,
        "dt_years": span,
        "model_dh_m": model,
        "residual_m": pairs["dh_m"] - model,
        "stands_for": np.full(span.size, stands_for),
    }
    return pa.table(
        [
            pa.array(columns[name], column.kind, from_pandas=True)
            if name in columns
            else pa.nulls(span.size, column.kind)
            for name, column in CHECK_PAIRS.columns.items()
        ],
        schema=CHECK_PAIRS.schema,
    )


class _Distribution:
    """Counts in bins of fixed edges: medians of any number of values in fixed memory.

    Bins are even in asinh(value / SCALE): 0.1 mm wide at zero, 0.05 % of large values.
    """

    SCALE, WIDTH, BINS = 0.2, 5e-4, 24_000

    def __init__(self) -> None:
        self.counts = np.zeros(2 * self.BINS + 1, dtype=np.int64)

    @property
    def size(self) -> int:
        """Return the number of values."""
        return int(self.counts.sum())

    def add(self, values: np.ndarray) -> None:
        """Count values."""
        index = np.rint(np.arcsinh(values / self.SCALE) / self.WIDTH)
        index = np.clip(index, -self.BINS, self.BINS).astype(np.int64) + self.BINS
        self.counts += np.bincount(index, minlength=self.counts.size)

    def median_and_spread(self) -> tuple[float, float]:
        """Return the median and 1.4826 × MAD; NaN without values."""
        used = np.flatnonzero(self.counts)
        if not used.size:
            return np.nan, np.nan
        values = self.SCALE * np.sinh((used - self.BINS) * self.WIDTH)
        middle = _weighted_median(values, self.counts[used])
        away = np.abs(values - middle)
        return middle, MAD_TO_SIGMA * _weighted_median(away, self.counts[used])


def _weighted_median(values: np.ndarray, counts: np.ndarray) -> float:
    """Return the median of values of which each comes so many times."""
    order = np.argsort(values)
    total = np.cumsum(counts[order])
    ranks = np.array([(total[-1] - 1) // 2, total[-1] // 2])
    return float(values[order][np.searchsorted(total, ranks, side="right")].mean())


class _Tally:
    """What a summary row needs of its pairs."""

    def __init__(self) -> None:
        self.found = 0.0
        self.kept = self.within = 0
        self.rate, self.residual, self.difference = (_Distribution() for _ in range(3))

    def add(self, pairs: dict[str, np.ndarray]) -> None:
        """Count pairs."""
        self.found += float(pairs["stands_for"].sum())
        self.kept += pairs["stands_for"].size
        dh, residual, span = pairs["dh_m"], pairs["residual_m"], pairs["dt_years"]
        known, long = ~np.isnan(residual), span >= MIN_RATE_YEARS
        self.within += int((np.abs(residual) <= 2 * pairs["dh_sigma_m"]).sum())
        self.residual.add(residual[known])
        steady = long & ~np.isnan(dh)
        self.rate.add(dh[steady] / span[steady])
        self.difference.add(residual[long & known] / span[long & known])

    def row(self) -> dict[str, Any]:
        """Return the columns of a summary row."""
        n_model = self.residual.size
        residual, spread = self.residual.median_and_spread()
        missed, missed_spread = self.difference.median_and_spread()
        return {
            "n_found": round(self.found),
            "n_kept": self.kept,
            "n_model": n_model,
            "dh_rate_m_yr": self.rate.median_and_spread()[0],
            "residual_m": residual,
            "residual_spread_m": spread,
            "rate_difference_m_yr": missed,
            "rate_difference_sigma_m_yr": MEDIAN_TO_MEAN_SIGMA
            * missed_spread
            / np.sqrt(max(self.difference.size, 1)),
            "share_within_2_sigma": self.within / n_model if n_model else np.nan,
            "reason": None if n_model else ("no_model" if self.kept else "no_pairs"),
        }


def summarise_checks(pairs: Iterable[pa.Table]) -> pa.Table:
    """Return what the pairs of all tiles say: one row per kind and class of span.

    Memory does not grow with the number of tables; medians are exact to 0.1 mm or 0.05 %, and do
    not depend on the order of tables.

    Parameters
    ----------
    pairs
        CHECK_PAIRS tables, taken one at a time.

    Returns
    -------
    pyarrow.Table
        CHECKS; null with the reason where no pair or no model is there.
    """
    tallies = {(kind, span[0]): _Tally() for kind in KINDS for span in SPANS}
    names = ("stands_for", "dt_years", "dh_m", "dh_sigma_m", "residual_m")
    for table in pairs:
        kinds = table.column("kind").to_numpy()
        values = {
            name: table.column(name).to_numpy().astype(np.float64, copy=False) for name in names
        }
        for kind in KINDS:
            for name, low, high in SPANS:
                own = (kinds == kind) & (values["dt_years"] >= low) & (values["dt_years"] < high)
                tallies[kind, name].add({key: column[own] for key, column in values.items()})
    rows = [{"kind": kind, "span": span, **t.row()} for (kind, span), t in tallies.items()]
    return pa.table(
        [
            pa.array([row[name] for row in rows], column.kind, from_pandas=True)
            for name, column in CHECKS.columns.items()
        ],
        schema=CHECKS.schema,
    )
