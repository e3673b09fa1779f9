"""The reader of one ATL11 file: a row for each reference point and cycle with a height.

Layouts: the released one (003–007), where a pair group holds ``h_corr (point, cycle)`` itself
beside ``ref_surf`` and ``cycle_stats``, and the prototype's, where that is in ``corrected_h``.
``crossing_track_data`` is not read: crossovers come from tracks as the fits see them, and heights
of other tracks would be counted twice.

Source of the layout: ATL11 data dictionary (NSIDC), and a real prototype file. Times count
seconds since 2018-01-01, as ATL06's do; in the real file they agree with the time span of the
ATL06 granules behind them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa

from cryofuse.altimetry import GranuleName, Span
from cryofuse.atl06.granule import (
    DEFAULT_TILE_M,
    EPOCH,
    Area,
    open_hdf5,
    place_points,
    unreadable,
    wanted_columns,
)
from cryofuse.atl06.ledger import LedgerRow, ledger_row
from cryofuse.atl06.tiles import tile_codes
from cryofuse.atl11.product import BEAMS, parse_name, pass_time
from cryofuse.tables import SEGMENTS

#: Values beyond this are fill (f4 fills with 3.4e38, f8 with 1.8e308).
_LARGEST = 1e30
#: Times further from the epoch than this (s, 300 years) are no times.
_LONGEST_S = 1e10
#: Group of the heights in the prototype; the released layout has none.
_PROTOTYPE = "corrected_h"

#: Columns beside height and σ: dataset of the pair group. Values of a cycle join the segments
#: of both beams: mean (σ, r_eff), least (snr_significance, cloud_flg_asr) or most (bsnow_conf).
_OPTIONAL = {
    "slope_along": "ref_surf/at_slope",
    "dem_m": "ref_surf/dem_h",
    "snr_significance": "cycle_stats/min_snr_significance",
    "geolocation_sigma_m": "cycle_stats/sigma_geo_h",
    "cloud_flag": "cycle_stats/cloud_flg_asr",
    "blowing_snow": "cycle_stats/bsnow_conf",
    "effective_reflectance": "cycle_stats/r_eff",
}


@dataclass(frozen=True)
class _Pair:
    """A pair track as it stands in the file, or some of its cycles; NaN is fill.

    ``latitude``, ``longitude`` (degrees) and ``ref_pt`` have shape (points,), ``cycle`` (cycles,)
    and ``seconds`` (since the epoch) both. ``columns`` says which of the file's cycles these are.
    """

    group: h5py.Group
    heights: h5py.Group
    cycle: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray
    ref_pt: np.ndarray
    seconds: np.ndarray
    columns: slice

    def cut(self, columns: slice) -> _Pair:
        """Return some of the cycles."""
        return replace(
            self,
            cycle=self.cycle[columns],
            seconds=self.seconds[:, columns],
            columns=columns,
        )

    def values(self, dataset: h5py.Dataset) -> np.ndarray:
        """Return a dataset of points, or of points × these cycles."""
        return _values(dataset, self.columns)


def read_granule(
    path: str | os.PathLike[str],
    columns: Iterable[str] | None = None,
    region: Area | None = None,
    period: Span | None = None,
) -> tuple[pa.Table, list[LedgerRow]]:
    """Read the heights of an ATL11 file, those of a region and a period only if they are given.

    Rows come pair after pair and cycle after cycle, in the file's order of points. σ is
    ``h_corr_sigma`` and ``h_corr_sigma_systematic`` in quadrature, null where one of them is
    fill. What ATL11 does not have (``photon_count``, ``robust_spread_m``,
    ``multiple_scattering``) is null, as are fill values and datasets that the file lacks.

    A point without a time in a cycle (it has no height there) counts for the period in which
    the pair's other points of that cycle were measured, or in which track and cycle say that it
    was: each point and cycle belongs to one period.

    Parameters
    ----------
    path
        File; anything may be wrong with it.
    columns
        Columns of SEGMENTS wanted (default: all).
    region
        Outline, CRS and tile size; without one positions are placed as ATL06's are.
    period
        First instant, and first instant after it; None takes all times.

    Returns
    -------
    pyarrow.Table
        The columns wanted, in the order of contract SEGMENTS.
    list of dict
        Ledger rows: ``read`` with the points × cycles of the period, then what took rows away
        (``outside_region``, ``no_height``, ``incomplete``: no position, time or number;
        ``duplicate_segment``: the point's number occurs before in its cycle); events without
        rows ``no_beam``, ``no_segments``, ``all_fill``, ``name_mismatch``, and
        ``outside_period`` with the points × cycles that other periods hold; ``unreadable``
        with the reason for a pair or, with beam None, for the file.

    Raises
    ------
    ValueError
        If a column is none of SEGMENTS.
    """
    wanted = wanted_columns(columns)
    granule = Path(path).name
    tables: list[pa.Table] = []
    ledger: list[LedgerRow] = []
    try:
        name = parse_name(granule)
        with open(path, "rb", buffering=0) as stream, h5py.File(open_hdf5(path, stream)) as file:
            for beam in BEAMS:
                try:
                    table, rows = _read_pair(file, beam, name, wanted, region, period)
                # h5py answers a broken object with any of these.
                except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
                    ledger.append(unreadable(granule, beam, error))
                    continue
                tables.append(table)
                ledger += rows
    except (OSError, RuntimeError, ValueError) as error:
        return _schema(wanted).empty_table(), [unreadable(granule, None, error)]
    merged = pa.concat_tables([_schema(wanted).empty_table(), *tables])
    return merged.unify_dictionaries().combine_chunks(), ledger


def _read_pair(
    file: h5py.File,
    beam: str,
    name: GranuleName,
    wanted: list[str],
    region: Area | None,
    period: Span | None,
) -> tuple[pa.Table, list[LedgerRow]]:
    """Return the rows of a pair track that are kept, and its ledger rows."""

    def entry(kind: str, rows_in: int, removed: int = 0, reason: str | None = None) -> LedgerRow:
        return ledger_row(name.granule, beam, "subset", kind, rows_in, removed, reason=reason)

    none = _schema(wanted).empty_table()
    if beam not in file:
        return none, [entry("no_beam", 0, 0, "the file has no such group")]
    group = file[beam]
    heights = group if "h_corr" in group else group.get(_PROTOTYPE)
    if heights is None or heights["latitude"].size == 0:
        return none, [entry("no_segments", 0, 0, "the pair has no h_corr, or no point")]
    pair = _open_pair(group, heights)
    ledger = [] if (wrong := _mismatch(pair, name)) is None else [entry("name_mismatch", 0)]
    for row in ledger:
        row["reason"] = wrong
    alive = _in_period(pair, name.rgt, period)
    if others := int(alive.size - alive.sum()):
        ledger.append(entry("outside_period", others, 0, "points × cycles of other periods"))
    if not alive.any():
        return none, ledger
    held = np.flatnonzero(alive.any(axis=0))
    columns = slice(int(held[0]), int(held[-1]) + 1)
    pair, alive = pair.cut(columns), alive[:, columns]
    height_m = pair.values(heights["h_corr"])
    left = int(alive.sum())
    ledger.append(entry("read", left))
    x_m, y_m, placed, inside = _locate(pair, region)
    numbered = np.isfinite(pair.ref_pt) & placed
    timed = np.isfinite(pair.seconds)
    for kind, stay, reason in (
        ("outside_region", (inside | ~placed)[:, np.newaxis], None),
        ("no_height", np.isfinite(height_m), "h_corr is fill"),
        ("incomplete", numbered[:, np.newaxis] & timed, "no position, time or point number"),
        ("duplicate_segment", _first_of_each(pair.ref_pt, alive), "the number occurs before"),
    ):
        kept = alive & stay
        if removed := left - int(kept.sum()):
            if kind == "no_height" and removed == left:
                ledger.append(entry("all_fill", left, 0, "every h_corr is fill"))
            ledger.append(entry(kind, left, removed, reason))
        alive, left = kept, left - removed
    # Cycle after cycle, so that each pass is one run of rows.
    cycle, point = np.nonzero(alive.T)
    tile_m = region.tile_m if region else DEFAULT_TILE_M
    return _tabulate(pair, beam, name, wanted, point, cycle, x_m, y_m, tile_m), ledger


def _open_pair(group: h5py.Group, heights: h5py.Group) -> _Pair:
    """Return a pair's positions and times; shapes fit those of its heights.

    Raises
    ------
    ValueError
        If a dataset is missing or has another shape.
    """
    names = ("cycle_number", "latitude", "longitude", "ref_pt", "delta_time", "h_corr")
    missing = [name for name in names if name not in heights]
    if missing:
        raise ValueError(f"the pair has no dataset {', '.join(missing)}")
    points, cycles = heights["latitude"].shape[:1], heights["cycle_number"].shape[:1]
    for name, expected in zip(
        names, (cycles, points, points, points, points + cycles, points + cycles), strict=True
    ):
        if heights[name].shape != expected:
            raise ValueError(f"{name} has shape {heights[name].shape}, expected {expected}")
    cycle, latitude, longitude, ref_pt, seconds = (_values(heights[n]) for n in names[:-1])
    if np.isnan(cycle).any():
        raise ValueError("a cycle_number is fill")
    latitude[np.abs(latitude) > 90] = np.nan
    longitude[np.abs(longitude) > 360] = np.nan
    seconds[np.abs(seconds) > _LONGEST_S] = np.nan
    whole = slice(None)
    return _Pair(
        group, heights, cycle.astype(np.int16), latitude, longitude, ref_pt, seconds, whole
    )


def _values(dataset: h5py.Dataset, columns: slice = slice(None)) -> np.ndarray:
    """Return a dataset as float64 with NaN for fill, by attribute or by what fill always is.

    Of points × cycles some cycles may be read.
    """
    raw = dataset[:, columns] if dataset.ndim == 2 else dataset[()]
    values = raw.astype(np.float64)
    if raw.dtype.kind == "i":
        fill = raw == np.iinfo(raw.dtype).max
    else:
        fill = ~(np.abs(values) < _LARGEST)
    for stated in np.ravel(dataset.attrs.get("_FillValue", [])):
        fill |= raw == stated
    values[fill] = np.nan
    return values


def _mismatch(pair: _Pair, name: GranuleName) -> str | None:
    """Return how a pair's own track differs from the name's, None where it does not."""
    inside = np.ravel(pair.group.attrs.get("ReferenceGroundTrack", []))
    if inside.size != 1 or int(inside[0]) == name.rgt:
        return None
    return f"rgt {int(inside[0])} in the file, {name.rgt} in its name"


def _in_period(pair: _Pair, rgt: int, period: Span | None) -> np.ndarray:
    """Return which points × cycles belong to a period."""
    if period is None:
        return np.ones(pair.seconds.shape, bool)
    first, stop = ((instant - EPOCH) / np.timedelta64(1, "s") for instant in period)
    nominal = [(pass_time(rgt, int(c)) - EPOCH) / np.timedelta64(1, "s") for c in pair.cycle]
    for column, expected in enumerate(nominal):
        known = pair.seconds[np.isfinite(pair.seconds[:, column]), column]
        nominal[column] = np.median(known) if known.size else expected
    seconds = np.where(np.isfinite(pair.seconds), pair.seconds, nominal)
    return (seconds >= first) & (seconds < stop)


def _locate(
    pair: _Pair, region: Area | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x and y (m, NaN unknown), which points have a place, and which lie in the region."""
    placed = np.isfinite(pair.latitude) & np.isfinite(pair.longitude)
    x_m, y_m = np.full(placed.size, np.nan), np.full(placed.size, np.nan)
    x_m[placed], y_m[placed] = place_points(pair.longitude[placed], pair.latitude[placed], region)
    placed &= np.isfinite(x_m) & np.isfinite(y_m)
    inside = placed.copy()
    if region is not None:
        inside[placed] = region.contains(x_m[placed], y_m[placed])
    return x_m, y_m, placed, inside


def _first_of_each(ref_pt: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Return a mask (points, 1) of the first point with each number."""
    first = np.zeros(ref_pt.size, bool)
    first[np.unique(ref_pt, return_index=True)[1]] = True
    return np.broadcast_to(first[:, np.newaxis], alive.shape)


def _tabulate(
    pair: _Pair,
    beam: str,
    name: GranuleName,
    wanted: list[str],
    point: np.ndarray,
    cycle: np.ndarray,
    x_m: np.ndarray,
    y_m: np.ndarray,
    tile_m: float,
) -> pa.Table:
    """Return the columns wanted of points × cycles."""
    rows = point.size
    schema = _schema(wanted)
    arrays = []
    for field in schema:
        column = field.name
        if column == "tile":
            codes, names = tile_codes(x_m[point], y_m[point], tile_m)
            array = pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string()))
        elif column in ("beam", "granule"):
            label = beam if column == "beam" else name.granule
            array = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [label])
        else:
            values = _column(pair, column, name, point, cycle, x_m, y_m)
            array = pa.nulls(rows, field.type) if values is None else _array(values, field.type)
        arrays.append(array)
    return pa.table(arrays, schema=schema)


def _column(
    pair: _Pair,
    column: str,
    name: GranuleName,
    point: np.ndarray,
    cycle: np.ndarray,
    x_m: np.ndarray,
    y_m: np.ndarray,
) -> np.ndarray | None:
    """Return a column of points × cycles, NaN where null, None where all of it is."""
    points = {
        "x_m": x_m,
        "y_m": y_m,
        "latitude": pair.latitude,
        "longitude": pair.longitude,
        "segment_id": pair.ref_pt,
    }
    if column in points:
        return points[column][point]
    if column == "height_m":
        return _optional(pair, pair.heights, "h_corr", point, cycle)
    if column == "time":
        micro = np.rint(pair.seconds[point, cycle] * 1e6).astype("timedelta64[us]")
        return np.asarray(EPOCH + micro)
    if column == "rgt":
        return np.full(point.size, name.rgt)
    if column == "cycle":
        return pair.cycle[cycle]
    if column == "height_sigma_m":
        return _sigma(pair, point, cycle)
    if column == "quality_summary":
        return _optional(pair, pair.heights, "quality_summary", point, cycle)
    return _optional(pair, pair.group, _OPTIONAL.get(column), point, cycle)


def _sigma(pair: _Pair, point: np.ndarray, cycle: np.ndarray) -> np.ndarray | None:
    """Return the σ of heights (m): formal and systematic error in quadrature."""
    formal = _optional(pair, pair.heights, "h_corr_sigma", point, cycle)
    systematic = _optional(pair, pair.heights, "h_corr_sigma_systematic", point, cycle)
    if formal is None or systematic is None:
        return formal
    return np.hypot(formal, systematic)


def _optional(
    pair: _Pair, group: h5py.Group, place: str | None, point: np.ndarray, cycle: np.ndarray
) -> np.ndarray | None:
    """Return a dataset of points, or of points × cycles, at rows; None where there is none."""
    if place is None or place not in group:
        return None
    values = pair.values(group[place])
    return values[point, cycle] if values.ndim == 2 else values[point]


def _array(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return values as an Arrow array, null where they are NaN."""
    if values.dtype.kind != "f":
        return pa.array(values, kind)
    given = np.isfinite(values)
    whole = np.where(given, values, 0)
    return pa.array(whole.astype(kind.to_pandas_dtype()), kind, mask=~given)


def _schema(wanted: list[str]) -> pa.Schema:
    return pa.schema([SEGMENTS.schema.field(name) for name in wanted])
