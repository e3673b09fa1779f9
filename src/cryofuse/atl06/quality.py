"""The segment filters: what each removes in the configured order, and what it would alone.

A filter without a threshold does not run. A quality value that is null was not given and
removes nothing, with two exceptions: a segment without a height, and one without a σ in a beam
that has σ, are of no use to a fit. A column that is null throughout a beam is noted in the
ledger as ``not_given``.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cryofuse.atl06.ledger import LedgerRow, ledger_row
from cryofuse.config import FilterSettings

#: Distance between the centres of successive segments (m); ATL06 ATBD, section 3.1.
SEGMENT_STEP_M = 20.0
#: Bits of the cycle in the number of a pass.
_CYCLE_BITS = 8
#: Rows worked on at a time where each needs a window of its own.
_BLOCK_ROWS = 50_000

Comparison = Callable[[np.ndarray, float], np.ndarray]


class IceMask(Protocol):
    """Anything that knows where ice is, such as :class:`cryofuse.rasters.Ice`."""

    def contains(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """Return whether each point (m) lies on ice."""
        ...


def _above(value: np.ndarray, limit: float) -> np.ndarray:
    return value > limit


def _below(value: np.ndarray, limit: float) -> np.ndarray:
    return value < limit


def _steeper(value: np.ndarray, limit: float) -> np.ndarray:
    return np.abs(value) > limit


#: Filters of one column against one threshold: column, key of the settings, what is removed.
_SIMPLE: dict[str, tuple[str, str, Comparison]] = {
    "quality_summary": ("quality_summary", "quality_summary_max", _above),
    "height_sigma": ("height_sigma_m", "height_sigma_max_m", _above),
    "robust_spread": ("robust_spread_m", "robust_spread_max_m", _above),
    "snr_significance": ("snr_significance", "snr_significance_max", _above),
    "along_track_slope": ("slope_along", "along_track_slope_max", _steeper),
    "photon_count": ("photon_count", "photon_count_min", _below),
    "geolocation_sigma": ("geolocation_sigma_m", "geolocation_sigma_max_m", _above),
    "multiple_scattering": ("multiple_scattering", "multiple_scattering_max", _above),
    "cloud_flag": ("cloud_flag", "cloud_flag_max", _above),
    "blowing_snow": ("blowing_snow", "blowing_snow_max", _above),
    "effective_reflectance": ("effective_reflectance", "effective_reflectance_min", _below),
}


@dataclass(frozen=True)
class _Columns:
    """Columns of a segment table as NumPy arrays, and the granule × beam of each row."""

    table: pa.Table
    group: np.ndarray
    names: list[tuple[str, str]]

    @cached_property
    def total(self) -> np.ndarray:
        """Return the number of rows of each granule × beam."""
        return np.bincount(self.group, minlength=len(self.names))

    def values(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a column's values, and where they are given (not null, finite)."""
        array = self.table[column].combine_chunks()
        given = np.ones(len(array), bool)
        if array.null_count:
            given = array.is_valid().to_numpy(zero_copy_only=False)
            array = array.fill_null(0)
        values = array.to_numpy(zero_copy_only=False)
        if values.dtype.kind == "f":
            given &= np.isfinite(values)
        return values, given

    def count(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of rows of each granule × beam in a mask over the first rows."""
        group = self.group[: rows.size]
        return np.bincount(group[rows], minlength=len(self.names))

    def with_any(self, known: np.ndarray) -> np.ndarray:
        """Return which granule × beams have at least one row of a mask."""
        return self.count(~known) < self.total


@dataclass(frozen=True)
class _Track:
    """Rows with a height in along-track order: by granule, beam, cycle and segment number.

    ``group`` numbers granule, beam and cycle.
    """

    row: np.ndarray
    group: np.ndarray
    segment_id: np.ndarray
    height: np.ndarray
    slope: np.ndarray

    def only(self, alive: np.ndarray) -> _Track:
        """Return the rows of a mask over the table."""
        stay = alive[self.row]
        if stay.all():
            return self
        return _Track(
            self.row[stay],
            self.group[stay],
            self.segment_id[stay],
            self.height[stay],
            self.slope[stay],
        )


def replace_dem(segments: pa.Table, dem_m: np.ndarray) -> pa.Table:
    """Return segments whose ``dem_m`` is taken from another elevation model where it has values.

    Parameters
    ----------
    segments
        Table ``SEGMENTS``.
    dem_m
        Heights of the model at the segments (m above WGS84), NaN where it has none.
    """
    finer = pa.array(dem_m.astype(np.float32), mask=~np.isfinite(dem_m))
    column = segments.schema.get_field_index("dem_m")
    merged = pc.coalesce(finer, segments.column(column))
    return segments.set_column(column, segments.schema.field(column), merged)


def apply_filters(
    table: pa.Table,
    settings: FilterSettings,
    ice: IceMask | None = None,
    *,
    beside: pa.Table | None = None,
    sigma_given: Set[tuple[str, str]] | None = None,
) -> tuple[pa.Table, list[LedgerRow]]:
    """Remove the segments that a filter rejects, and count what each filter costs.

    A part of a file is filtered as the whole would be when the rows next to it along the
    tracks come along as ``beside``: they are neighbours, but neither counted nor returned.

    Parameters
    ----------
    table
        Segments of contract SEGMENTS, in any order.
    settings
        Order and thresholds.
    ice
        Where the region's ice is (for the filter ``ice_mask``).
    beside
        Segments within :func:`reach_m` of the table's.
    sigma_given
        Granules and beams with a σ anywhere, where the table is a part of them (default: those
        with a σ in the table).

    Returns
    -------
    pyarrow.Table
        The rows kept, in their order.
    list of dict
        A ledger row for each granule × beam × filter that runs: rows before it, rows it
        removed, rows it alone would remove from the table; reason ``not_given`` where the
        beam has no value of its column.
    """
    columns = _columns(table if beside is None else pa.concat_tables([table, beside]))
    own = table.num_rows
    alive = np.ones(columns.group.size, bool)
    left = columns.count(alive[:own])
    filters: list[_Cost] = []
    track: _Track | None = None
    for name in settings.order:
        if not _runs(name, settings):
            continue
        if name in ("along_track_consistency", "running_median"):
            track = _track(columns) if track is None else track
            alone = _reject_along_track(name, track, settings, alive.size)
            removed = _reject_along_track(name, track.only(alive), settings, alive.size)
            judged = "slope_along" if name == "along_track_consistency" else "height_m"
            given = columns.with_any(columns.values(judged)[1])
        else:
            alone, given = _reject(name, columns, settings, ice, sigma_given)
            removed = alone & alive
        gone = columns.count(removed[:own])
        filters.append(_Cost(name, left, gone, columns.count(alone[:own]), given))
        left = left - gone
        alive &= ~removed
    alive = alive[:own]
    kept = table if alive.all() else table.filter(pa.array(alive))
    mine = np.flatnonzero(columns.count(np.ones(own, bool))).tolist()
    return kept, [_ledger_row(columns.names[beam], cost, beam) for beam in mine for cost in filters]


def reach_m(settings: FilterSettings) -> float:
    """Return how far along a track a segment's neighbours decide on it (m).

    Half a window of the running median, and the neighbours that decide on those in the window;
    twice that, because a metre of the projection is not a metre of ground.
    """
    return 2 * SEGMENT_STEP_M * ((settings.running_median_segments or 1) // 2 + 2)


def _runs(name: str, settings: FilterSettings) -> bool:
    """Return whether a filter is on: its threshold is not null."""
    if name in _SIMPLE:
        return getattr(settings, _SIMPLE[name][1]) is not None
    return {
        "finite_height": True,
        "dem_difference": settings.dem_difference_max_m is not None,
        "ice_mask": settings.ice_mask,
        "along_track_consistency": settings.along_track_tolerance_m is not None,
        "running_median": settings.running_median_segments is not None,
    }[name]


def _columns(table: pa.Table) -> _Columns:
    """Return the table's columns with a number for each granule × beam, in order of names."""
    codes, names = [], []
    for column in ("granule", "beam"):
        label = table[column].unify_dictionaries().combine_chunks()
        text = np.array(label.dictionary.to_pylist(), dtype=object)
        order = np.argsort(text)
        rank = np.empty(text.size, np.int64)
        rank[order] = np.arange(text.size)
        codes.append(rank[label.indices.to_numpy()])
        names.append(text[order])
    pair = codes[0] * max(names[1].size, 1) + codes[1]
    present = np.flatnonzero(np.bincount(pair)) if pair.size else np.empty(0, np.int64)
    number = np.zeros(int(present[-1]) + 1 if present.size else 0, np.int32)
    number[present] = np.arange(present.size)
    return _Columns(
        table,
        number[pair],
        [(names[0][p // names[1].size], names[1][p % names[1].size]) for p in present],
    )


def _reject(
    name: str,
    columns: _Columns,
    settings: FilterSettings,
    ice: IceMask | None,
    sigma_given: Set[tuple[str, str]] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that a filter of single segments rejects, and which beams have its value."""
    if name == "ice_mask":
        given = np.full(len(columns.names), ice is not None)
        if ice is None:
            return np.zeros(columns.group.size, bool), given
        return ~ice.contains(columns.values("x_m")[0], columns.values("y_m")[0]), given
    if name == "finite_height":
        _, known = columns.values("height_m")
        return ~known, np.ones(len(columns.names), bool)
    if name == "dem_difference":
        height, known = columns.values("height_m")
        dem, valid = columns.values("dem_m")
        given = columns.with_any(valid)
        return known & valid & (np.abs(height - dem) > settings.dem_difference_max_m), given
    column, key, compare = _SIMPLE[name]
    value, known = columns.values(column)
    given = columns.with_any(known)
    rejected = known & compare(value, getattr(settings, key))
    if name == "height_sigma":
        if sigma_given is not None:
            given = np.array([beam in sigma_given for beam in columns.names], bool)
        rejected |= ~known & given[columns.group]
    return rejected, given


@dataclass(frozen=True)
class _Cost:
    """What a filter costs each granule × beam: rows before it, rows gone, rows it alone takes."""

    filter: str
    rows_in: np.ndarray
    removed: np.ndarray
    alone: np.ndarray
    given: np.ndarray


def _ledger_row(beam: tuple[str, str], cost: _Cost, place: int) -> LedgerRow:
    return ledger_row(
        *beam,
        "filter",
        cost.filter,
        int(cost.rows_in[place]),
        int(cost.removed[place]),
        rows_alone=int(cost.alone[place]),
        reason=None if cost.given[place] else "not_given",
    )


def _track(columns: _Columns) -> _Track:
    """Return the rows with a height in along-track order.

    A file may hold several cycles: each pass is a group of its own.
    """
    height, known = columns.values("height_m")
    segment_id, _ = columns.values("segment_id")
    cycle, _ = columns.values("cycle")
    slope, sloping = columns.values("slope_along")
    row = np.flatnonzero(known)
    passes = (columns.group << _CYCLE_BITS | cycle)[row]
    key = (passes.astype(np.int64) << 32) + segment_id[row]
    if (np.diff(key) < 0).any():
        order = np.argsort(key, kind="stable")
        row, passes = row[order], passes[order]
    return _Track(
        row,
        passes,
        segment_id[row],
        height[row].astype(np.float64),
        np.where(sloping[row], slope[row], np.nan).astype(np.float64),
    )


def _reject_along_track(
    name: str, track: _Track, settings: FilterSettings, total: int
) -> np.ndarray:
    """Return the rows that a filter of neighbouring segments rejects, as a mask over the table."""
    if name == "along_track_consistency":
        found = find_inconsistent(
            track.group,
            track.segment_id,
            track.height,
            track.slope,
            float(settings.along_track_tolerance_m or np.inf),
        )
    else:
        found = find_spikes(
            track.group,
            track.segment_id,
            track.height,
            int(settings.running_median_segments or 1),
            settings.running_median_mads,
            settings.running_median_floor_m,
        )
    rejected = np.zeros(total, bool)
    rejected[track.row[found]] = True
    return rejected


def find_inconsistent(
    group: np.ndarray,
    segment_id: np.ndarray,
    height: np.ndarray,
    slope: np.ndarray,
    tolerance_m: float,
) -> np.ndarray:
    """Return the segments whose ends meet none of their neighbours.

    A segment is 40 m long and its neighbours' centres are 20 m away, so its ends
    (height ± slope · 20 m) lie on them. Only segments whose numbers differ by one are
    neighbours: nothing is compared across a gap, and a segment without neighbours, or without
    a slope, is not tested. A segment that agrees with one neighbour stays, so that a single
    outlier does not take its neighbours along, nor a step in the ice both its sides. At the end
    of a run, where there is but one to agree with, both go.

    Parameters
    ----------
    group, segment_id : (n,)
        Beam and segment number of each row, sorted by both.
    height : (n,)
        Height (m).
    slope : (n,)
        Along-track slope (m/m), NaN where unknown.
    tolerance_m
        Largest mismatch of an end (m).

    Returns
    -------
    (n,) bool

    Notes
    -----
    As ``min_along_track_dh`` of ATL11 (ATBD, section 3.1): the smaller mismatch counts.
    """
    neighbours = (group[1:] == group[:-1]) & (segment_id[1:] - segment_id[:-1] == 1)
    ahead = np.abs(height[:-1] + slope[:-1] * SEGMENT_STEP_M - height[1:])
    behind = np.abs(height[1:] - slope[1:] * SEGMENT_STEP_M - height[:-1])
    tested, agrees = np.zeros(height.size, bool), np.zeros(height.size, bool)
    tested[:-1] |= neighbours & np.isfinite(ahead)
    tested[1:] |= neighbours & np.isfinite(behind)
    agrees[:-1] |= neighbours & (ahead <= tolerance_m)
    agrees[1:] |= neighbours & (behind <= tolerance_m)
    return tested & ~agrees


def find_spikes(
    group: np.ndarray,
    segment_id: np.ndarray,
    height: np.ndarray,
    window: int,
    mads: float,
    floor_m: float,
) -> np.ndarray:
    """Return the segments far from the running median of their beam.

    The window holds the rows whose segment numbers lie within half a window of the centre's,
    so it spans a fixed distance and a gap leaves it emptier, not longer. Where no more than
    half of it is filled (thinned data, short pieces) nothing is tested.

    Parameters
    ----------
    group, segment_id : (n,)
        Beam and segment number of each row, sorted by both, no number twice in a beam.
    height : (n,)
        Height (m), finite.
    window
        Odd number of segments.
    mads, floor_m
        Rejected are rows further from the median than ``mads`` times the larger of the
        window's median absolute deviation and ``floor_m`` (m).

    Returns
    -------
    (n,) bool
    """
    half = window // 2
    suspect = np.flatnonzero(_far_from_most(group, segment_id, height, half, mads * floor_m))
    found = np.zeros(height.size, bool)
    offsets = np.arange(-half, half + 1)
    for start in range(0, suspect.size, _BLOCK_ROWS):
        centre = suspect[start : start + _BLOCK_ROWS]
        near = np.clip(centre[:, None] + offsets, 0, height.size - 1)
        inside = (group[near] == group[centre, None]) & (
            np.abs(segment_id[near] - segment_id[centre, None]) <= half
        )
        # Clipped rows repeat the first or last one: only true offsets count.
        inside &= near == centre[:, None] + offsets
        departure = np.where(inside, height[near] - height[centre, None], np.inf)
        count = inside.sum(axis=1)
        median = _row_medians(departure, count)
        spread = _row_medians(np.where(inside, np.abs(departure - median[:, None]), np.inf), count)
        found[centre] = np.abs(median) > mads * np.maximum(spread, floor_m)
    return found


def _far_from_most(
    group: np.ndarray, segment_id: np.ndarray, height: np.ndarray, half: int, near_m: float
) -> np.ndarray:
    """Return the rows with more than half a window whose median may be further than ``near_m``.

    Counting neighbours above and below is exact and much cheaper than a median: with no more
    than half of the window on either side the median is near, and the row stays.
    """
    count = np.ones(height.size, np.int16)
    above, below = np.zeros(height.size, np.int16), np.zeros(height.size, np.int16)
    for offset in range(1, half + 1):
        inside = (group[offset:] == group[:-offset]) & (
            segment_id[offset:] - segment_id[:-offset] <= half
        )
        if not inside.any():
            break
        rise = height[offset:] - height[:-offset]
        up, down = inside & (rise > near_m), inside & (rise < -near_m)
        count[:-offset] += inside
        count[offset:] += inside
        above[:-offset] += up
        below[:-offset] += down
        above[offset:] += down
        below[offset:] += up
    most = (count - 1) // 2
    return (count > half) & ((above > most) | (below > most))


def _row_medians(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return each row's median over its ``count`` finite values; the others are infinite."""
    ordered = np.sort(values, axis=1)
    lower = np.take_along_axis(ordered, ((count - 1) // 2)[:, None], axis=1)[:, 0]
    upper = np.take_along_axis(ordered, (count // 2)[:, None], axis=1)[:, 0]
    return (lower + upper) / 2
