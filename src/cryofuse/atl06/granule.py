"""The reader of one ATL06 granule: segments out of HDF5, and a ledger of what was not there.

Real files lack beams, groups and datasets, carry fill values, or are no HDF5 at all. None of
that stops a run: what can be read is read, the rest is a ledger row with a reason.

Source of the layout: ATL06 data dictionary, releases 001–007 (NSIDC), and real files.
"""

from __future__ import annotations

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

from cryofuse.acquire.manifest import parse_name
from cryofuse.atl06.ledger import LedgerRow, ledger_row
from cryofuse.atl06.tiles import tile_codes
from cryofuse.geo import project, unproject
from cryofuse.tables import SEGMENTS

BEAMS = ("gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r")
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
    """Rows of one beam that are kept: plain arrays, and masks of the values that are null."""

    name: str
    values: dict[str, np.ndarray]
    nulls: dict[str, np.ndarray | None]


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
    wanted = _wanted(columns)
    granule = Path(path).name
    try:
        file = _open(path)
    except (OSError, ValueError) as error:
        return _assemble([], granule, (0, 0), wanted, region), [_unreadable(granule, None, error)]
    ledger: list[LedgerRow] = []
    beams: list[_Beam] = []
    try:
        track, mismatch = _track(file, granule)
        if mismatch:
            ledger.append(ledger_row(granule, None, "subset", "name_mismatch", reason=mismatch))
        for name in BEAMS:
            try:
                beam, rows = _read_beam(file, granule, name, wanted, region)
            # h5py answers a broken object with any of these.
            except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
                ledger.append(_unreadable(granule, name, error))
                continue
            ledger += rows
            if beam is not None:
                beams.append(beam)
    except (OSError, RuntimeError, ValueError) as error:
        return _assemble([], granule, (0, 0), wanted, region), [_unreadable(granule, None, error)]
    finally:
        file.close()
    return _assemble(beams, granule, track, wanted, region), ledger


def _wanted(columns: Iterable[str] | None) -> list[str]:
    if columns is None:
        return list(SEGMENTS.columns)
    chosen = set(columns)
    unknown = sorted(chosen - set(SEGMENTS.columns))
    if unknown:
        raise ValueError(f"columns {unknown} are none of {list(SEGMENTS.columns)}")
    return [name for name in SEGMENTS.columns if name in chosen]


def _unreadable(granule: str, beam: str | None, error: Exception) -> LedgerRow:
    text = " ".join(str(error).split()).strip("'\"") or type(error).__name__
    return ledger_row(granule, beam, "subset", "unreadable", reason=text)


def _open(path: str | os.PathLike[str]) -> h5py.h5f.FileID:
    """Open an HDF5 file without locking it, or say in one line why that fails."""
    with open(path, "rb") as stream:
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
    """The land_ice_segments of a beam: reads rows of its datasets, fill marked as null."""

    group: h5py.h5g.GroupID
    rows: int

    def read(
        self, place: str, kind: type, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Return rows ``start`` to ``stop`` and where they are null (None: nowhere).

        None where there is no such dataset.
        """
        dataset = _dataset(self.group, place)
        if dataset is None:
            return None
        if dataset.shape != (self.rows,):
            raise ValueError(f"{place} has shape {dataset.shape}, latitude has {self.rows} rows")
        values: np.ndarray = np.empty(stop - start, kind)
        if values.size == self.rows:
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        else:
            space = dataset.get_space()
            space.select_hyperslab((start,), (values.size,))
            dataset.read(h5py.h5s.create_simple((values.size,)), space, values)
        return values, _null(dataset, values)

    def require(
        self, place: str, kind: type, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and their null mask of a dataset without which a beam is of no use."""
        found = self.read(place, kind, start, stop)
        if found is None:
            raise ValueError(f"land_ice_segments has no dataset {place}")
        values, null = found
        return values, np.zeros(values.size, bool) if null is None else null


def _null(dataset: h5py.h5d.DatasetID, values: np.ndarray) -> np.ndarray | None:
    """Return where values are fill (by attribute, or by what fill always is), None if nowhere."""
    if values.dtype.kind == "f":
        # One comparison for NaN, infinity and every customary fill.
        null = ~(np.abs(values) < _LARGEST)
    else:
        null = values == np.iinfo(values.dtype).max
    if h5py.h5a.exists(dataset, b"_FillValue"):
        attribute = h5py.h5a.open(dataset, b"_FillValue")
        fill = np.empty(attribute.shape, values.dtype)
        attribute.read(fill)
        if fill.size:
            null |= values == fill.reshape(-1)[0]
    return null if null.any() else None


@dataclass
class _Rows:
    """Rows of a beam that are kept, and how many were lost on the way to them."""

    index: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray
    x_m: np.ndarray
    y_m: np.ndarray
    outside: int
    incomplete: int

    def take(self, stay: np.ndarray) -> None:
        """Keep some of the rows, given as a mask or as positions."""
        for name in ("index", "latitude", "longitude", "x_m", "y_m"):
            setattr(self, name, getattr(self, name)[stay])


def _read_beam(
    file: h5py.h5f.FileID, granule: str, name: str, wanted: list[str], region: Area | None
) -> tuple[_Beam | None, list[LedgerRow]]:
    """Return the kept rows of a beam (None if there are none) and its ledger rows."""

    def entry(kind: str, rows_in: int, removed: int = 0, reason: str | None = None) -> LedgerRow:
        return ledger_row(granule, name, "subset", kind, rows_in, removed, reason=reason)

    source, missing = _open_beam(file, name)
    if source is None:
        return None, [entry(*missing)]
    rows = _locate(source, region)
    beam, repeated = (None, 0) if rows.index.size == 0 else _take(source, name, rows, wanted)
    ledger = [entry("read", source.rows)]
    left = source.rows
    for kind, removed, reason in (
        ("outside_region", rows.outside, None),
        ("incomplete", rows.incomplete, "no position, time or segment number"),
        ("duplicate_segment", repeated, "the segment number occurs before"),
    ):
        if removed:
            ledger.append(entry(kind, left, removed, reason))
            left -= removed
    if beam is not None and (null := beam.nulls.get("height_m")) is not None and null.all():
        ledger.append(entry("all_fill", left, 0, "every h_li kept is fill"))
    return beam, ledger


def _open_beam(
    file: h5py.h5f.FileID, name: str
) -> tuple[_Source | None, tuple[str, int, int, str]]:
    """Return the segments of a beam, or the event that says why there are none."""
    place = f"{name}/land_ice_segments"
    if not file.links.exists(name.encode()):
        return None, ("no_beam", 0, 0, "the file has no such group")
    if not _exists(file, place):
        return None, ("no_segments", 0, 0, "the beam has no group land_ice_segments")
    group = h5py.h5g.open(file, place.encode())
    latitude = _dataset(group, "latitude")
    if latitude is None:
        raise ValueError("land_ice_segments has no dataset latitude")
    if len(latitude.shape) != 1:
        raise ValueError(f"latitude has shape {latitude.shape}, expected one dimension")
    if latitude.shape[0] == 0:
        return None, ("no_segments", 0, 0, "land_ice_segments has no rows")
    return _Source(group, latitude.shape[0]), ("", 0, 0, "")


def _locate(source: _Source, region: Area | None) -> _Rows:
    """Return the rows of a beam with a position, those in the region only if one is given.

    Latitudes alone decide which longitudes are read.
    """
    latitude, unknown = source.require("latitude", np.float64, 0, source.rows)
    unknown |= ~(np.abs(latitude) <= 90)
    incomplete = int(unknown.sum())
    candidate = ~unknown
    if region is not None:
        south, north = region.latitudes
        candidate &= (latitude >= south) & (latitude <= north)
    found = np.flatnonzero(candidate)
    if found.size == 0:
        none = np.empty(0)
        outside = source.rows - incomplete
        return _Rows(np.empty(0, np.int64), none, none, none, none, outside, incomplete)
    start, stop = int(found[0]), int(found[-1]) + 1
    longitude, unknown = source.require("longitude", np.float64, start, stop)
    unknown |= ~(np.abs(longitude) <= 360)
    known = ~unknown[found - start]
    incomplete += found.size - int(known.sum())
    found = found[known]
    latitude, longitude = latitude[found], longitude[found - start]
    x_m, y_m = _place(longitude, latitude, region)
    rows = _Rows(found, latitude, longitude, x_m, y_m, 0, incomplete)
    if region is not None:
        rows.take(region.contains(x_m, y_m))
    rows.outside = source.rows - incomplete - rows.index.size
    return rows


def _place(
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


def _take(source: _Source, name: str, rows: _Rows, wanted: list[str]) -> tuple[_Beam | None, int]:
    """Read the datasets wanted at the rows located; drop incomplete and repeated rows.

    Returns the beam (None where no row is left) and the number of repeated rows.
    """
    first, last = int(rows.index[0]), int(rows.index[-1]) + 1
    time, no_time = source.require("delta_time", np.float64, first, last)
    no_time |= ~(np.abs(time) <= _LONGEST_S)
    segment_id, no_id = source.require("segment_id", np.int32, first, last)
    whole = ~(no_time | no_id)[rows.index - first]
    rows.incomplete += whole.size - int(whole.sum())
    rows.take(whole)
    number = segment_id[rows.index - first]
    repeated = 0
    height = (
        source.require("h_li", np.float32, first, last)
        if "height_m" in wanted or _repeats(number)
        else None
    )
    if height is not None and _repeats(number):
        stay = _first_with_height(number, height[1][rows.index - first])
        repeated = number.size - stay.size
        rows.take(stay)
    if rows.index.size == 0:
        return None, repeated
    within = rows.index - first
    pick = slice(None) if within.size == last - first else within
    beam = _Beam(name, {}, {})
    beam.values = {
        "latitude": rows.latitude,
        "longitude": rows.longitude,
        "x_m": rows.x_m,
        "y_m": rows.y_m,
        "segment_id": segment_id[pick],
        "time": EPOCH + np.round(time[pick] * 1e6).astype("timedelta64[us]"),
    }
    if height is not None:
        beam.values["height_m"] = height[0][pick].astype(np.float64)
        beam.nulls["height_m"] = height[1][pick]
    for column in wanted:
        if column in _OPTIONAL:
            place, kind = _OPTIONAL[column]
            found = source.read(place, kind, first, last)
            if found is None:
                beam.values[column] = np.zeros(within.size, kind)
                beam.nulls[column] = np.ones(within.size, bool)
            else:
                beam.values[column] = found[0][pick]
                beam.nulls[column] = None if found[1] is None else found[1][pick]
    return beam, repeated


def _repeats(segment_id: np.ndarray) -> bool:
    """Return whether a segment number occurs twice."""
    step = np.diff(segment_id)
    return not (step > 0).all() and np.unique(segment_id).size < segment_id.size


def _first_with_height(segment_id: np.ndarray, no_height: np.ndarray) -> np.ndarray:
    """Return one row for each segment number, in order: the first with a height, else the first."""
    order = np.lexsort((np.arange(segment_id.size), no_height, segment_id))
    ranked = segment_id[order]
    first = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    return np.sort(order[first])


#: One field of each column: asking the contract builds the schema anew.
_FIELDS = {field.name: field for field in SEGMENTS.schema}


def _assemble(
    beams: list[_Beam],
    granule: str,
    track: tuple[int, int],
    wanted: list[str],
    region: Area | None,
) -> pa.Table:
    """Return the beams as one Arrow table with the columns wanted."""
    schema = pa.schema([_FIELDS[name] for name in wanted])
    if not beams:
        return schema.empty_table()
    counts = [beam.values["x_m"].size for beam in beams]
    total = sum(counts)

    def label(codes: np.ndarray, names: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names))

    arrays = []
    for column in wanted:
        kind = SEGMENTS.columns[column].kind
        if column == "tile":
            x_m = np.concatenate([beam.values["x_m"] for beam in beams])
            y_m = np.concatenate([beam.values["y_m"] for beam in beams])
            arrays.append(label(*tile_codes(x_m, y_m, region.tile_m if region else DEFAULT_TILE_M)))
        elif column == "beam":
            codes = np.repeat(np.arange(len(beams), dtype=np.int32), counts)
            arrays.append(label(codes, [beam.name for beam in beams]))
        elif column == "granule":
            arrays.append(label(np.zeros(total, np.int32), [granule]))
        elif column in ("rgt", "cycle"):
            arrays.append(pa.array(np.full(total, track[column == "cycle"], np.int16), kind))
        else:
            values = np.concatenate([beam.values[column] for beam in beams])
            masks = [beam.nulls.get(column) for beam in beams]
            mask = None
            if any(m is not None for m in masks):
                mask = np.concatenate(
                    [
                        np.zeros(count, bool) if m is None else m
                        for m, count in zip(masks, counts, strict=True)
                    ]
                )
            arrays.append(pa.array(values, kind, mask=mask))
    return pa.table(arrays, schema=schema)
