"""The reader of one ATL06 granule: segments out of HDF5, and a ledger of what was not there.

Real files lack beams, groups and datasets, carry fill values, or are no HDF5 at all. None of
that stops a run: what can be read is read, the rest is a ledger row with a reason.

Source of the layout: ATL06 data dictionary, releases 001–007 (NSIDC), and real files.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import shapely
from shapely.geometry.base import BaseGeometry

from cryofuse.atl06.chunks import Column, memory_type, open_column
from cryofuse.atl06.ledger import LedgerRow, ledger_row
from cryofuse.atl06.product import BEAMS, parse_name
from cryofuse.atl06.tiles import tile_codes
from cryofuse.geo import project, unproject
from cryofuse.tables import SEGMENTS

#: ``delta_time`` counts seconds from here; GPS and UTC have kept their distance since 2017.
EPOCH = np.datetime64("2018-01-01", "us")
#: Without a region positions are projected by hemisphere and named in tiles of this size (m).
NORTH_CRS, SOUTH_CRS, DEFAULT_TILE_M = "EPSG:3413", "EPSG:3031", 100_000.0
#: Values beyond this are fill, whether or not the file says so (f4 fills with 3.4e38).
_LARGEST = 1e30
#: Times further from the epoch than this (s, 300 years) are no times.
_LONGEST_S = 1e10
#: Degrees by which the outline's latitudes are widened: its edges are followed in steps.
_LATITUDE_MARGIN = 0.1
_OUTLINE_STEP_M = 10_000.0
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Rows whose nulls are looked for at once: temporary arrays stay in the processor's cache.
_BLOCK_ROWS = 16_384
#: Beams with no more rows than this in all are joined in one chunk: fewer, longer arrays are
#: quicker to handle, but many long ones are slow to copy.
_JOINED_ROWS = 100_000
#: Columns for which positions are projected.
_PLACED = frozenset({"tile", "x_m", "y_m"})
#: Integers fill with their type's largest value.
_INTEGER_FILL = {np.dtype(kind): np.iinfo(kind).max for kind in (np.int8, np.int32)}

#: Columns that are stored as they stand in the file: dataset, and type in memory.
_OPTIONAL = {
    "height_sigma_m": ("h_li_sigma", np.float32),
    "slope_along": ("fit_statistics/dh_fit_dx", np.float32),
    "dem_m": ("dem/dem_h", np.float32),
    "quality_summary": ("atl06_quality_summary", np.int8),
    "robust_spread_m": ("fit_statistics/h_robust_sprd", np.float32),
    "snr_significance": ("fit_statistics/snr_significance", np.float32),
    "photon_count": ("fit_statistics/n_fit_photons", np.int32),
    "geolocation_sigma_m": ("sigma_geo_h", np.float32),
    "multiple_scattering": ("geophysical/msw_flag", np.int8),
    "cloud_flag": ("geophysical/cloud_flg_asr", np.int8),
    "blowing_snow": ("geophysical/bsnow_conf", np.int8),
    "effective_reflectance": ("geophysical/r_eff", np.float32),
}

#: Datasets without which a beam is of no use.
_REQUIRED = ("latitude", "longitude", "delta_time", "segment_id", "h_li")


def dataset_paths() -> tuple[str, ...]:
    """Return the HDF5 paths of all datasets that segments are read from, of all beams."""
    places = (*_REQUIRED, *(place for place, _ in _OPTIONAL.values()))
    return tuple(f"/{beam}/land_ice_segments/{place}" for beam in BEAMS for place in places)


@dataclass(frozen=True)
class Area:
    """Where segments are kept, and how the ones kept are placed.

    Parameters
    ----------
    polygon
        Outline in ``crs`` (m).
    crs
        Projected CRS of the region.
    tile_m
        Side of a tile (m).
    """

    polygon: BaseGeometry
    crs: str
    tile_m: float

    @cached_property
    def latitudes(self) -> tuple[float, float]:
        """Return latitudes (degrees) between which all of the outline lies."""
        edge = shapely.get_coordinates(shapely.segmentize(self.polygon.boundary, _OUTLINE_STEP_M))
        _, latitude = unproject(edge[:, 0], edge[:, 1], self.crs)
        latitude = latitude[np.isfinite(latitude)]
        south = float(latitude.min()) - _LATITUDE_MARGIN
        north = float(latitude.max()) + _LATITUDE_MARGIN
        for pole in (-90.0, 90.0):
            x_m, y_m = project([0.0], [pole], self.crs)
            if np.isfinite(x_m[0]) and self.contains(x_m, y_m)[0]:
                south, north = min(south, pole), max(north, pole)
        return south, north

    def contains(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """Return whether each point (m) lies inside the outline."""
        shapely.prepare(self.polygon)
        return np.asarray(shapely.contains_xy(self.polygon, x_m, y_m))


@dataclass
class _Beam:
    """Rows of one beam that are kept: plain arrays, and masks of the values that are no null."""

    name: str
    rows: int
    values: dict[str, np.ndarray]
    given: dict[str, np.ndarray]


def read_granule(
    path: str | os.PathLike[str],
    columns: Iterable[str] | None = None,
    region: Area | None = None,
) -> tuple[pa.Table, list[LedgerRow]]:
    """Read the segments of an ATL06 file, those of a region only if one is given.

    Rows come in the file's order, beam after beam. Datasets that the file lacks and fill
    values are null. Track and cycle are the name's; where the content differs a ledger row
    ``name_mismatch`` says so. Rows that two beams or files share are not looked for here, but
    of rows of a beam with one ``segment_id`` the first with a height stays.

    Without a region all rows come, placed in polar stereographic coordinates by hemisphere
    (EPSG:3413 north, EPSG:3031 south), in tiles of 100 km of that CRS.

    With a region only the chunks that can hold rows of it are read, if the first latitude and
    time of every chunk are those of an orbit; otherwise, as where rows are unsorted, all
    latitudes are. What is damaged or null in chunks that are not read goes unnoticed: their
    rows are ``outside_region``.

    Parameters
    ----------
    path
        File; anything may be wrong with it.
    columns
        Columns of SEGMENTS wanted (default: all); only the datasets behind them are read.
    region
        Outline, CRS and tile size.

    Returns
    -------
    pyarrow.Table
        The columns wanted, in the order of contract SEGMENTS.
    list of dict
        Ledger rows: ``read`` with all rows of a beam, then what took rows away
        (``outside_region``, ``incomplete``: no position, time or segment number;
        ``duplicate_segment``), so that rows in minus rows removed is the number of rows
        returned; events without rows ``no_beam``, ``no_segments``, ``all_fill`` and
        ``name_mismatch``; ``unreadable`` with the reason for a beam or, with beam None, for
        the file.

    Raises
    ------
    ValueError
        If a column is none of SEGMENTS.
    """
    wanted = wanted_columns(columns)
    granule = Path(path).name
    try:
        with open(path, "rb", buffering=0) as stream:
            file = open_hdf5(path, stream)
            try:
                return _read_beams(file, stream.fileno(), granule, wanted, region)
            finally:
                file.close()
    except (OSError, RuntimeError, ValueError) as error:
        return _schema(wanted).empty_table(), [unreadable(granule, None, error)]


def _read_beams(
    file: h5py.h5f.FileID, descriptor: int, granule: str, wanted: list[str], region: Area | None
) -> tuple[pa.Table, list[LedgerRow]]:
    """Return the segments of all beams that can be read, and the ledger rows."""
    ledger: list[LedgerRow] = []
    beams: list[_Beam] = []
    track, mismatch = _track(file, granule)
    if mismatch:
        ledger.append(ledger_row(granule, None, "subset", "name_mismatch", reason=mismatch))
    for name in BEAMS:
        try:
            beam, rows = _read_beam(file, descriptor, granule, name, wanted, region)
        # h5py answers a broken object with any of these.
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
            ledger.append(unreadable(granule, name, error))
            continue
        ledger += rows
        if beam is not None:
            beams.append(beam)
    tile_m = region.tile_m if region else DEFAULT_TILE_M
    return _assemble(beams, granule, track, wanted, tile_m), ledger


def wanted_columns(columns: Iterable[str] | None) -> list[str]:
    """Return columns of SEGMENTS in its order (default: all).

    Raises
    ------
    ValueError
        If a column is none of SEGMENTS.
    """
    if columns is None:
        return list(SEGMENTS.columns)
    chosen = set(columns)
    unknown = sorted(chosen - set(SEGMENTS.columns))
    if unknown:
        raise ValueError(f"columns {unknown} are none of {list(SEGMENTS.columns)}")
    return [name for name in SEGMENTS.columns if name in chosen]


def unreadable(granule: str, beam: str | None, error: Exception) -> LedgerRow:
    """Return the ledger row of a file (beam None) or beam that cannot be read."""
    text = " ".join(str(error).split()).strip("'\"") or type(error).__name__
    return ledger_row(granule, beam, "subset", "unreadable", reason=text)


def open_hdf5(path: str | os.PathLike[str], stream: io.FileIO) -> h5py.h5f.FileID:
    """Open an HDF5 file without locking it, or say in one line why that fails."""
    head = stream.read(512)
    if not head:
        raise ValueError("the file is empty (0 bytes)")
    if not head.startswith(_HDF5_SIGNATURE):
        if head.lstrip()[:1] == b"<":
            raise ValueError("the file is an HTML or XML page, not HDF5 (a log-in page?)")
        raise ValueError("the file is not HDF5")
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_file_locking(False, True)
    return h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, access)


def _track(file: h5py.h5f.FileID, granule: str) -> tuple[tuple[int, int], str | None]:
    """Return track and cycle, and how name and content differ where they do."""
    inside = tuple(_first(file, f"orbit_info/{key}") for key in ("rgt", "cycle_number"))
    try:
        name = parse_name(granule)
    except ValueError as error:
        if None in inside:
            raise ValueError(f"{error}, and orbit_info is missing") from None
        return (int(inside[0] or 0), int(inside[1] or 0)), str(error)
    outside = (name.rgt, name.cycle)
    differ = [
        f"{key} {within} in the file, {without} in its name"
        for key, within, without in zip(("rgt", "cycle"), inside, outside, strict=True)
        if within is not None and within != without
    ]
    return outside, "; ".join(differ) or None


def _first(file: h5py.h5f.FileID, place: str) -> int | None:
    """Return the first value of a small integer dataset, None where there is none."""
    try:
        dataset = _dataset(file, place)
        if dataset is None or dataset.shape not in ((), (1,)):
            return None
        value = np.empty(dataset.shape, np.int64)
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, value)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        return None
    return int(value.reshape(-1)[0])


def _exists(parent: h5py.h5g.GroupID, place: str) -> bool:
    """Return whether every link of a path is there (h5py asks for one at a time)."""
    parts = place.split("/")
    return all(
        parent.links.exists("/".join(parts[: depth + 1]).encode()) for depth in range(len(parts))
    )


def _dataset(parent: h5py.h5g.GroupID, place: str) -> h5py.h5d.DatasetID | None:
    """Open a dataset, None where there is none; a link to something broken raises."""
    try:
        return h5py.h5d.open(parent, place.encode())
    except KeyError:
        if _exists(parent, place):
            raise
        return None


@dataclass(frozen=True)
class _Source:
    """The land_ice_segments of a beam, the descriptor of their file, and datasets opened."""

    group: h5py.h5g.GroupID
    rows: int
    descriptor: int
    opened: dict[str, Column]

    def column(self, place: str, kind: type) -> Column | None:
        """Return a dataset, None where there is none."""
        if place in self.opened:
            return self.opened[place]
        dataset = _dataset(self.group, place)
        if dataset is None:
            return None
        column = open_column(dataset, np.dtype(kind))
        if column.shape != (self.rows,):
            raise ValueError(f"{place} has shape {column.shape}, latitude has {self.rows} rows")
        return column

    def require(self, place: str, kind: type) -> Column:
        """Return a dataset without which a beam is of no use, and keep it open."""
        column = self.column(place, kind)
        if column is None:
            raise ValueError(f"land_ice_segments has no dataset {place}")
        self.opened[place] = column
        return column


def _given(column: Column, values: np.ndarray, largest: float | None = None) -> np.ndarray:
    """Return where values are no fill (by attribute, or by what fill always is).

    Floats are given up to ``largest`` in size, if it is stated.
    """
    fill = _fill_value(column)
    given = np.empty(values.size, bool)
    for start in range(0, values.size, _BLOCK_ROWS):
        block = values[start : start + _BLOCK_ROWS]
        part = given[start : start + _BLOCK_ROWS]
        if values.dtype.kind == "i":
            np.not_equal(block, _INTEGER_FILL[values.dtype], out=part)
        # One comparison for NaN, infinity and every customary fill.
        elif largest is None:
            np.less(np.abs(block), _LARGEST, out=part)
        else:
            np.less_equal(np.abs(block), largest, out=part)
        if fill is not None:
            part &= block != fill
    return given


def _fill_value(column: Column) -> np.generic | None:
    """Return the attribute ``_FillValue``, None where it is missing or fills as is customary.

    It may be an array of length one.
    """
    if not h5py.h5a.exists(column.dataset, b"_FillValue"):
        return None
    attribute = h5py.h5a.open(column.dataset, b"_FillValue")
    found = np.empty(attribute.shape, column.kind)
    attribute.read(found, memory_type(column.kind))
    if not found.size:
        return None
    fill = found.reshape(-1)[0]
    usual = _INTEGER_FILL[column.kind] if column.kind.kind == "i" else _LARGEST
    return None if fill >= usual else fill


@dataclass
class _Rows:
    """Rows of a beam that are kept, what is known of them, and how many were lost before."""

    index: np.ndarray
    values: dict[str, np.ndarray]
    outside: int = 0
    incomplete: int = 0
    repeated: int = 0

    def keep(self, stay: np.ndarray) -> int:
        """Keep the rows of a mask, and return the number of the others."""
        lost = stay.size - int(np.count_nonzero(stay))
        if lost:
            self.index = self.index[stay]
            self.values = {name: values[stay] for name, values in self.values.items()}
        return lost


def _read_beam(
    file: h5py.h5f.FileID,
    descriptor: int,
    granule: str,
    name: str,
    wanted: list[str],
    region: Area | None,
) -> tuple[_Beam | None, list[LedgerRow]]:
    """Return the kept rows of a beam (None if there are none) and its ledger rows."""

    def entry(kind: str, rows_in: int, removed: int = 0, reason: str | None = None) -> LedgerRow:
        return ledger_row(granule, name, "subset", kind, rows_in, removed, reason=reason)

    source, missing = _open_beam(file, descriptor, name)
    if source is None:
        return None, [entry(*missing)]
    rows = _locate(source, region, bool(_PLACED.intersection(wanted)))
    _identify(source, rows, "height_m" in wanted)
    beam = _take(source, name, rows, wanted) if rows.index.size else None
    ledger = [entry("read", source.rows)]
    left = source.rows
    for kind, removed, reason in (
        ("outside_region", rows.outside, None),
        ("incomplete", rows.incomplete, "no position, time or segment number"),
        ("duplicate_segment", rows.repeated, "the segment number occurs before"),
    ):
        if removed:
            ledger.append(entry(kind, left, removed, reason))
            left -= removed
    if beam is not None and (given := beam.given.get("height_m")) is not None and not given.any():
        ledger.append(entry("all_fill", left, 0, "every h_li kept is fill"))
    return beam, ledger


def _open_beam(
    file: h5py.h5f.FileID, descriptor: int, name: str
) -> tuple[_Source | None, tuple[str, int, int, str]]:
    """Return the segments of a beam, or the event that says why there are none."""
    place = f"{name}/land_ice_segments"
    if not _exists(file, place):
        if not _exists(file, name):
            return None, ("no_beam", 0, 0, "the file has no such group")
        return None, ("no_segments", 0, 0, "the beam has no group land_ice_segments")
    group = h5py.h5g.open(file, place.encode())
    dataset = _dataset(group, "latitude")
    if dataset is None:
        raise ValueError("land_ice_segments has no dataset latitude")
    latitude = open_column(dataset, np.dtype(np.float64))
    if len(latitude.shape) != 1:
        raise ValueError(f"latitude has shape {latitude.shape}, expected one dimension")
    if latitude.shape[0] == 0:
        return None, ("no_segments", 0, 0, "land_ice_segments has no rows")
    return _Source(group, latitude.shape[0], descriptor, {"latitude": latitude}), ("", 0, 0, "")


def _locate(source: _Source, region: Area | None, placed: bool) -> _Rows:
    """Return the rows of a beam with a position, those in the region only if one is given.

    Latitudes alone decide which longitudes are read. Positions are projected where a region
    or the caller asks for it.
    """
    column = source.require("latitude", np.float64)
    if region is None:
        index = np.arange(source.rows)
        latitude = column.read(index)
    else:
        south, north = region.latitudes
        index, latitude = _near(source, south, north)
    rows = _Rows(index, {"latitude": latitude})
    rows.incomplete += rows.keep(_given(column, latitude, 90.0))
    if region is not None:
        latitude = rows.values["latitude"]
        rows.keep((latitude >= south) & (latitude <= north))
    if rows.index.size:
        column = source.require("longitude", np.float64)
        longitude = rows.values["longitude"] = column.read(rows.index)
        rows.incomplete += rows.keep(_given(column, longitude, 360.0))
    if rows.index.size and (placed or region is not None):
        x_m, y_m = place_points(rows.values["longitude"], rows.values["latitude"], region)
        rows.values |= {"x_m": x_m, "y_m": y_m}
        if region is not None:
            rows.keep(region.contains(x_m, y_m))
    rows.outside = source.rows - rows.incomplete - rows.index.size
    return rows


def _near(source: _Source, south: float, north: float) -> tuple[np.ndarray, np.ndarray]:
    """Return rows, with their latitudes, among which are all that lie between two latitudes.

    Rows are taken to follow the orbit: time grows, and latitude grows or falls and turns once
    at most. The first values of neighbouring chunks then bracket the latitudes between them,
    on both sides of a turn up to the pole, and only chunks whose bracket reaches the span are
    inflated. All are where the first values (of time as well) don't look like this, or where
    a latitude that was read lies outside its bracket by more than a region's latitudes are
    widened; the first and the last chunk are always read, so that shuffled rows show. Single
    rows astray in chunks that are not read do not.
    """
    column = source.require("latitude", np.float64)
    step = column.chunk_rows
    brackets = _brackets(source) if step and source.rows > 2 * step else None
    if brackets is not None:
        low, high = brackets
        reaching = (high >= south) & (low <= north)
        reaching[[0, -1]] = True
        chunks = np.flatnonzero(reaching)
        some = (chunks[:, None] * step + np.arange(step)).reshape(-1)
        some = some[: some.size - (low.size * step - source.rows)]
        latitude = column.read(some)
        starts = np.arange(chunks.size) * step
        lowest = np.minimum.reduceat(latitude, starts)
        highest = np.maximum.reduceat(latitude, starts)
        near = (lowest >= low[chunks] - _LATITUDE_MARGIN) & (
            highest <= high[chunks] + _LATITUDE_MARGIN
        )
        if near.all():
            return some, latitude
    every = np.arange(source.rows)
    return every, column.read(every)


def _brackets(source: _Source) -> tuple[np.ndarray, np.ndarray] | None:
    """Return latitudes between which each chunk's rows lie, None if rows follow no orbit."""
    time = source.column("delta_time", np.float64)
    if time is None:
        return None
    source.opened["delta_time"] = time
    seconds = time.firsts(source.descriptor)
    latitude = source.require("latitude", np.float64).firsts(source.descriptor)
    if seconds is None or latitude is None:
        return None
    if not ((np.diff(seconds) > 0).all() and (np.abs(latitude) <= 90).all()):
        return None
    # Where the last chunk leads is not known: its heading of 0 counts as a turn.
    following = np.append(latitude[1:], latitude[-1])
    heading = np.sign(following - latitude)
    if np.count_nonzero(np.diff(heading[heading != 0])) > 1:
        return None
    low, high = np.minimum(latitude, following), np.maximum(latitude, following)
    # Where the heading changes the turn lies in the chunk before or after.
    turn = np.diff(heading)
    for bound, pole, at in ((high, 90.0, turn < 0), (low, -90.0, turn > 0)):
        bound[:-1][at] = pole
        bound[1:][at] = pole
    return low, high


def place_points(
    longitude: np.ndarray, latitude: np.ndarray, region: Area | None
) -> tuple[np.ndarray, np.ndarray]:
    """Project positions to the region's CRS, or to their hemisphere's."""
    if region is not None:
        return project(longitude, latitude, region.crs)
    x_m, y_m = np.empty(latitude.size), np.empty(latitude.size)
    for rows, crs in ((latitude >= 0, NORTH_CRS), (latitude < 0, SOUTH_CRS)):
        if rows.any():
            x_m[rows], y_m[rows] = project(longitude[rows], latitude[rows], crs)
    return x_m, y_m


def _identify(source: _Source, rows: _Rows, with_height: bool) -> None:
    """Read times, segment numbers and (if asked for, or needed) heights of the rows located.

    Rows without time or number are dropped, and of rows with one number all but the first
    with a height.
    """
    if rows.index.size:
        column = source.require("delta_time", np.float64)
        rows.values["seconds"] = column.read(rows.index)
        whole = _given(column, rows.values["seconds"], _LONGEST_S)
        column = source.require("segment_id", np.int32)
        rows.values["segment_id"] = column.read(rows.index)
        whole &= _given(column, rows.values["segment_id"])
        rows.incomplete += rows.keep(whole)
    if rows.index.size:
        repeats = _repeats(rows.values["segment_id"])
        if with_height or repeats:
            column = source.require("h_li", np.float32)
            rows.values["height_m"] = column.read(rows.index)
            rows.values["measured"] = _given(column, rows.values["height_m"])
        if repeats:
            rows.repeated = rows.keep(
                _first_with_height(rows.values["segment_id"], ~rows.values["measured"])
            )


def _take(source: _Source, name: str, rows: _Rows, wanted: list[str]) -> _Beam:
    """Return the rows that are kept, with the other datasets wanted at them."""
    values = rows.values
    given = {}
    if "height_m" in values:
        values["height_m"] = values["height_m"].astype(np.float64)
        given["height_m"] = values["measured"]
    if "time" in wanted:
        values["time"] = _microseconds(values["seconds"])
    for column in wanted:
        if column in _OPTIONAL:
            place, kind = _OPTIONAL[column]
            found = source.column(place, kind)
            if found is None:
                values[column] = np.zeros(rows.index.size, kind)
                given[column] = np.zeros(rows.index.size, bool)
            else:
                values[column] = found.read(rows.index)
                given[column] = _given(found, values[column])
    return _Beam(name, rows.index.size, values, given)


def _microseconds(seconds: np.ndarray) -> np.ndarray:
    """Return times (s since the epoch) as UTC in microseconds since 1970."""
    time = np.empty(seconds.size, np.int64)
    np.rint(seconds * 1e6, out=time, casting="unsafe")
    time += EPOCH.astype(np.int64)
    return time


def _repeats(segment_id: np.ndarray) -> bool:
    """Return whether a segment number occurs twice."""
    rising = bool((segment_id[1:] > segment_id[:-1]).all())
    return not rising and np.unique(segment_id).size < segment_id.size


def _first_with_height(segment_id: np.ndarray, no_height: np.ndarray) -> np.ndarray:
    """Return a mask of one row for each segment number: the first with a height, else the first."""
    order = np.lexsort((np.arange(segment_id.size), no_height, segment_id))
    ranked = segment_id[order]
    first = np.zeros(segment_id.size, bool)
    first[order[np.concatenate([[True], ranked[1:] != ranked[:-1]])]] = True
    return first


#: One field of each column: asking the contract builds the schema anew.
_FIELDS = {field.name: field for field in SEGMENTS.schema}


def _schema(wanted: list[str]) -> pa.Schema:
    return pa.schema([_FIELDS[name] for name in wanted])


def _assemble(
    beams: list[_Beam], granule: str, track: tuple[int, int], wanted: list[str], tile_m: float
) -> pa.Table:
    """Return the beams as one Arrow table with the columns wanted; long beams are not copied."""
    schema = _schema(wanted)
    numbers = np.arange(len(beams), dtype=np.int32)
    joined = sum(beam.rows for beam in beams) <= _JOINED_ROWS
    batches = []
    for part in [numbers] if joined and beams else numbers[:, None]:
        group = [beams[number] for number in part]
        counts = [beam.rows for beam in group]
        same = np.zeros(sum(counts), np.int32)
        arrays = []
        for name in wanted:
            if name == "tile":
                x_m, y_m = (_join([beam.values[axis] for beam in group]) for axis in ("x_m", "y_m"))
                array = _labels(*tile_codes(x_m, y_m, tile_m))
            elif name == "beam":
                array = _labels(np.repeat(part, counts), [beam.name for beam in beams])
            elif name == "granule":
                array = _labels(same, [granule])
            elif name in ("rgt", "cycle"):
                array = _array(np.full(same.size, track[name == "cycle"], np.int16), name)
            else:
                values = _join([beam.values[name] for beam in group])
                masks = [beam.given[name] for beam in group if name in beam.given]
                array = _array(values, name, _join(masks) if masks else None)
            arrays.append(array)
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return pa.Table.from_batches(batches, schema).unify_dictionaries()


def _join(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _array(values: np.ndarray, name: str, given: np.ndarray | None = None) -> pa.Array:
    """Return a column's values without copying them, null where they are not given."""
    valid = None
    if given is not None and not given.all():
        valid = pa.py_buffer(np.packbits(given, bitorder="little"))
    return pa.Array.from_buffers(_FIELDS[name].type, values.size, [valid, pa.py_buffer(values)])


def _labels(codes: np.ndarray, names: list[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names))
