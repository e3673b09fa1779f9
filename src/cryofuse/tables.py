"""The data contract: every table's columns, types, units and rules, checked at every write.

Tables are Parquet. A file appears under its name only when it is complete; its metadata
carries the provenance. Missing is null. ``month`` is the first day of a month, ``time`` is
UTC; both are timestamps in microseconds without a zone.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import geopandas
    import pandas as pd

#: Key of the file metadata under which the provenance is stored, as JSON.
PROVENANCE_KEY = b"cryofuse"

TIME = pa.timestamp("us")
TEXT = pa.string()
LABEL = pa.dictionary(pa.int32(), pa.string())
F4, F8 = pa.float32(), pa.float64()
I1, I2, I4, I8 = pa.int8(), pa.int16(), pa.int32(), pa.int64()
FLAG = pa.bool_()
LIST = pa.list_(pa.int32())


class TableError(ValueError):
    """A table that breaks its contract: names the table, the column and the rule."""


@dataclass(frozen=True)
class Column:
    """One column: Arrow type, whether null is allowed, the range, and what it means."""

    kind: pa.DataType
    about: str
    null: bool = False
    low: float | None = None
    high: float | None = None
    month: bool = False


@dataclass(frozen=True)
class Table:
    """A table's contract: its columns and the columns that make a row unique."""

    name: str
    columns: dict[str, Column]
    key: tuple[str, ...] = ()
    geometry: bool = False

    @property
    def schema(self) -> pa.Schema:
        """Return the Arrow schema (without a geometry column)."""
        return pa.schema([pa.field(n, c.kind, nullable=c.null) for n, c in self.columns.items()])

    def empty(self) -> pa.Table:
        """Return the table with no row."""
        return self.schema.empty_table()


def check(table: pa.Table, contract: Table) -> pa.Table:
    """Return a table cast to its contract, or say what breaks it.

    Parameters
    ----------
    table
        Arrow table; columns in any order.
    contract
        What it must be.

    Raises
    ------
    TableError
        If a column is missing, unknown, of another kind, null where it may not be, out of
        range, no first of a month, or if two rows share a key.
    """
    missing = [name for name in contract.columns if name not in table.column_names]
    unknown = [name for name in table.column_names if name not in contract.columns]
    if missing or unknown:
        raise TableError(f"{contract.name}: missing columns {missing}, unknown columns {unknown}")
    schema = contract.schema
    loose = pa.schema([f.with_nullable(True) for f in schema])
    try:
        cast = table.select(list(contract.columns)).cast(loose)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise TableError(f"{contract.name}: {error}") from None
    _check_values(cast, contract)
    return cast.cast(schema)


def _holds(table: pa.Table, contract: Table) -> bool:
    """Return whether nulls and ranges are as they must be; False where it takes more to tell."""
    if contract.key or any(column.month for column in contract.columns.values()):
        return False
    for name, column in contract.columns.items():
        values = table.column(name)
        if not column.null and not _complete(values):
            return False
        if column.low is not None or column.high is not None:
            found = pc.min_max(values)
            low, high = found["min"].as_py(), found["max"].as_py()
            if low is not None and column.low is not None and not low >= column.low:
                return False
            if high is not None and column.high is not None and not high <= column.high:
                return False
    return True


def _complete(values: pa.ChunkedArray) -> bool:
    """Return whether a column has neither null nor NaN."""
    floating = pa.types.is_floating(values.type)
    return not values.null_count and not (floating and pc.any(pc.is_nan(values)).as_py())


def _check_values(table: pa.Table, contract: Table) -> None:
    """Check nulls, ranges, months and keys with pandera, which says what is wrong.

    Tables of segments hold a hundred million rows: what Arrow finds right at once is right.
    """
    if _holds(table, contract):
        return
    import pandera.pandas as pandera
    from pandera.errors import SchemaErrors

    checked: dict[str, Any] = {}
    for name, column in contract.columns.items():
        rules = []
        if column.low is not None:
            rules.append(pandera.Check.ge(column.low))
        if column.high is not None:
            rules.append(pandera.Check.le(column.high))
        if column.month:
            rules.append(
                pandera.Check(
                    lambda s: (s.dt.day == 1) & (s.dt.normalize() == s), error="first of a month"
                )
            )
        lacking = not column.null and not _complete(table.column(name))
        if rules or lacking or name in contract.key:
            checked[name] = pandera.Column(None, rules, nullable=column.null)
    if not checked or table.num_rows == 0:
        return
    frame = table.select(list(checked)).to_pandas()
    try:
        pandera.DataFrameSchema(checked, unique=list(contract.key) or None).validate(
            frame, lazy=True
        )
    except SchemaErrors as error:
        cases = error.failure_cases.drop_duplicates(["column", "check"]).head(5)
        found = "; ".join(
            f"column {row.column}: {row.check} (found {row.failure_case!r})"
            for row in cases.itertuples()
        )
        raise TableError(f"{contract.name}: {found}") from None


def from_pandas(frame: pd.DataFrame) -> pa.Table:
    """Return a pandas table as Arrow, without an index and with NaN as null."""
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` and move it there when the block succeeds."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(
    table: pa.Table | pd.DataFrame,
    path: str | os.PathLike[str],
    contract: Table,
    provenance: dict[str, Any] | None = None,
    *,
    row_groups: list[int] | None = None,
) -> None:
    """Check a table and write it as Parquet.

    Parameters
    ----------
    table
        Arrow or pandas table.
    path
        File to write.
    contract
        What the table must be.
    provenance
        Plain values for the file's metadata.
    row_groups
        Number of rows of each row group, in order (default: as Arrow chooses).
    """
    arrow = table if isinstance(table, pa.Table) else from_pandas(table)
    arrow = check(arrow, contract)
    metadata = {PROVENANCE_KEY: json.dumps(provenance or {}, sort_keys=True, default=str).encode()}
    arrow = arrow.replace_schema_metadata(metadata)
    with (
        written(path) as temporary,
        pq.ParquetWriter(temporary, arrow.schema, compression="zstd") as writer,
    ):
        if row_groups is None:
            writer.write_table(arrow)
        else:
            start = 0
            for count in row_groups:
                writer.write_table(arrow.slice(start, count), row_group_size=max(count, 1))
                start += count


def _packing(contract: Table) -> dict[str, Any]:
    """Return how big tables are packed: three times as fast to write and read, and smaller.

    Floats by byte planes, whole numbers by differences, labels and what repeats by dictionary.
    """
    encoding, repeated = {}, []
    for name, column in contract.columns.items():
        kind = column.kind
        if pa.types.is_floating(kind):
            encoding[name] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_dictionary(kind) or pa.types.is_string(kind) or kind == I2:
            repeated.append(name)
        elif pa.types.is_timestamp(kind) or kind in (I4, I8):
            encoding[name] = "DELTA_BINARY_PACKED"
    return {"compression": "lz4", "use_dictionary": repeated, "column_encoding": encoding}


@contextmanager
def table_writer(
    path: str | os.PathLike[str], contract: Table, provenance: dict[str, Any] | None = None
) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that checks a part of a table and writes it as one row group.

    For tables that do not fit in memory: a key is checked within each part only. The file
    appears under its name when the block succeeds.

    Parameters
    ----------
    path
        File to write.
    contract
        What the table must be.
    provenance
        Plain values for the file's metadata.
    """
    metadata = {PROVENANCE_KEY: json.dumps(provenance or {}, sort_keys=True, default=str).encode()}
    schema = contract.schema.with_metadata(metadata)
    with (
        written(path) as temporary,
        pq.ParquetWriter(temporary, schema, **_packing(contract)) as writer,
    ):

        def write_part(part: pa.Table) -> None:
            checked = check(part, contract).cast(schema)
            writer.write_table(checked, row_group_size=max(part.num_rows, 1))

        yield write_part


def write_geo_table(
    frame: geopandas.GeoDataFrame,
    path: str | os.PathLike[str],
    contract: Table,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Check a table with geometries (longitude/latitude) and write it as GeoParquet."""
    import pandas as pd

    plain = check(from_pandas(pd.DataFrame(frame.drop(columns="geometry"))), contract)
    whole = frame[["geometry"]].reset_index(drop=True)
    for name in plain.column_names:
        whole[name] = plain.column(name).to_pandas()
    with written(path) as temporary:
        whole.to_parquet(temporary, index=False, compression="zstd")
        stored = pq.read_table(temporary)
        metadata = dict(stored.schema.metadata or {})
        metadata[PROVENANCE_KEY] = json.dumps(
            provenance or {}, sort_keys=True, default=str
        ).encode()
        pq.write_table(stored.replace_schema_metadata(metadata), temporary, compression="zstd")


def read_table(path: str | os.PathLike[str], columns: list[str] | None = None) -> pd.DataFrame:
    """Return a Parquet table as pandas."""
    return pq.ParquetFile(path).read(columns=columns).to_pandas()


def read_geo_table(path: str | os.PathLike[str]) -> geopandas.GeoDataFrame:
    """Return a GeoParquet table as geopandas."""
    import geopandas

    return geopandas.read_parquet(path)


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the provenance stored in a Parquet file (empty where there is none)."""
    metadata = pq.read_schema(path).metadata or {}
    return json.loads(metadata.get(PROVENANCE_KEY, b"{}"))


_MASCON = Column(I4, "number of the mascon in its product")
_MONTH = Column(TIME, "first day of the month", month=True)
_NODE = Column(I8, "number of the node")
_LON = Column(F8, "degrees east", low=-180, high=360)
_LAT = Column(F8, "degrees north", low=-90, high=90)
_X = Column(F8, "metres in the region's CRS")
_Y = Column(F8, "metres in the region's CRS")


def _null(
    kind: pa.DataType, about: str, low: float | None = None, high: float | None = None
) -> Column:
    return Column(kind, about, null=True, low=low, high=high)


_REASON = _null(TEXT, "why values are null")

MANIFEST = Table(
    "acquire/manifest",
    {
        "granule": Column(TEXT, "file name"),
        "path": Column(TEXT, "file"),
        "size_bytes": _null(I8, "size", low=0),
        "start_time": Column(TIME, "start of the granule, from its name (ATL11: earliest)"),
        "rgt": Column(I2, "reference ground track", low=1, high=1387),
        "cycle": Column(I2, "cycle (ATL11: the first)", low=0),
        "orbit_region": Column(I1, "region of the orbit, 1–14", low=1, high=14),
        "release": Column(TEXT, "release"),
        "revision": Column(TEXT, "revision"),
        "superseded_by": _null(TEXT, "file of a later release or revision of the same granule"),
        "reason": _REASON,
    },
    ("path",),
)

SEGMENTS = Table(
    "altimetry/segments",
    {
        "tile": Column(LABEL, "tile that holds the segment"),
        "x_m": _X,
        "y_m": _Y,
        "latitude": _LAT,
        "longitude": _LON,
        "height_m": _null(F8, "h_li (ATL11: h_corr), metres above WGS84"),
        "height_sigma_m": _null(F4, "h_li_sigma (ATL11: h_corr_sigma and _systematic)"),
        "time": Column(TIME, "UTC"),
        "rgt": Column(I2, "reference ground track"),
        "cycle": Column(I2, "cycle"),
        "beam": Column(LABEL, "gt1l … gt3r (ATL11: pt1 … pt3)"),
        "segment_id": Column(I4, "segment number along the track, 20 m apart (ATL11: ref_pt)"),
        "slope_along": _null(F4, "dh_fit_dx (ATL11: at_slope), m/m"),
        "dem_m": _null(F4, "dem_h, metres above WGS84"),
        "granule": Column(LABEL, "file name"),
        "quality_summary": _null(I1, "atl06_quality_summary"),
        "robust_spread_m": _null(F4, "h_robust_sprd"),
        "snr_significance": _null(F4, "snr_significance"),
        "photon_count": _null(I4, "n_fit_photons"),
        "geolocation_sigma_m": _null(F4, "sigma_geo_h"),
        "multiple_scattering": _null(I1, "msw_flag"),
        "cloud_flag": _null(I1, "cloud_flg_asr"),
        "blowing_snow": _null(I1, "bsnow_conf"),
        "effective_reflectance": _null(F4, "r_eff"),
    },
)

LEDGER = Table(
    "altimetry/ledger",
    {
        "period": Column(TEXT, "period of the job"),
        "granule": Column(TEXT, "file name"),
        "beam": _null(TEXT, "beam; null for a whole granule"),
        "stage": Column(TEXT, "acquire, subset or filter"),
        "filter": Column(
            TEXT,
            "filter, or kind of event (read, outside_region, superseded, unreadable, no_beam …)",
        ),
        "rows_in": Column(I8, "rows before", low=0),
        "rows_removed": Column(I8, "rows removed", low=0),
        "rows_alone": _null(I8, "rows that this filter alone would remove", low=0),
        "reason": _REASON,
    },
)

FILTER_REPORT = Table(
    "altimetry/filter_report",
    {
        "period": Column(TEXT, "period; all for the whole record"),
        "stage": Column(TEXT, "acquire, subset or filter"),
        "position": Column(I4, "place in the order in which the period's steps ran", low=1),
        "filter": Column(TEXT, "filter, or kind of event, as in the ledger"),
        "granules": Column(I8, "granules with a ledger row of the step", low=0),
        "beams": Column(I8, "their beams; 0 where whole granules are meant", low=0),
        "beams_not_given": Column(I8, "beams that lack the filter's value", low=0),
        "rows_in": Column(
            I8, "rows before the step; of an event that removes none, rows of its beams", low=0
        ),
        "rows_removed": Column(I8, "rows removed in its turn", low=0),
        "rows_alone": _null(I8, "rows that the filter alone would remove", low=0),
        "removed_percent": _null(F8, "rows removed, of rows before the step", low=0, high=100),
        "alone_percent": _null(
            F8,
            "rows that the filter alone would remove, of rows that entered the filters",
            low=0,
            high=100,
        ),
        "kept_percent": _null(F8, "rows left after the step, of rows read", low=0, high=100),
    },
    ("period", "stage", "filter"),
)

NODES = Table(
    "altimetry/nodes",
    {
        "node_id": _NODE,
        "tile": Column(TEXT, "tile"),
        "window": _null(TEXT, "window the node belongs to"),
        "spacing_m": Column(F8, "node spacing"),
        "x_m": _X,
        "y_m": _Y,
        "latitude": _LAT,
        "longitude": _LON,
        "area_km2": Column(F8, "true area of ice that the node stands for", low=0),
        "elevation_m": _null(F8, "fitted height at the reference date"),
        "slope": _null(F8, "fitted surface slope, m/m", low=0),
        "rate_m_yr": _null(F8, "rate of elevation change"),
        "rate_sigma_m_yr": _null(F8, "its σ", low=0),
        "amplitude_m": _null(F8, "annual amplitude", low=0),
        "phase_rad": _null(
            F8, "annual phase: dh = amplitude·cos(2π·t − phase), t in years since 2000-01-01"
        ),
        "rms_m": _null(F8, "weighted RMS of the residuals", low=0),
        "interannual_m": _null(F8, "standard deviation of the node-month residuals", low=0),
        "degree": _null(TEXT, "biquadratic, plane or along_track"),
        "n_segments": Column(I8, "segments kept in the fit", low=0),
        "n_edited": Column(I8, "segments edited", low=0),
        "n_epochs": Column(I4, "distinct passes", low=0),
        "first": _null(TIME, "first segment"),
        "last": _null(TIME, "last segment"),
        "bed_m": _null(F8, "bed elevation, where the region names a bed"),
        "speed_m_yr": _null(F8, "surface speed, where the region names a velocity"),
        "reason": _REASON,
    },
    ("node_id",),
)

NODE_MONTHS = Table(
    "altimetry/node_months",
    {
        "node_id": _NODE,
        "month": _MONTH,
        "dh_m": Column(F8, "elevation change since the reference date"),
        "dh_sigma_m": Column(F8, "its σ", low=0),
        "model_m": Column(F8, "the node's fitted change at the month since the reference date"),
        "response": Column(
            F8,
            "share of a departure of the season around this month that the fit leaves in change "
            "and residual; the rest is lost in the relief",
            low=0,
            high=1,
        ),
        "n_segments": Column(I4, "segments", low=1),
        "tracks": Column(LIST, "distinct passes, RGT × 1000 + cycle"),
    },
    ("node_id", "month"),
)

CHECK_PAIRS = Table(
    "altimetry/check_pairs",
    {
        "kind": Column(
            TEXT, "crossover (two reference tracks), or repeat (one segment number, two cycles)"
        ),
        "x_m": _X,
        "y_m": _Y,
        "time_first": Column(TIME, "earlier pass, UTC"),
        "time_second": Column(TIME, "later pass"),
        "dt_years": Column(F8, "time between them", low=0),
        "dh_m": _null(
            F8,
            "height of the later minus the earlier; of a repeat at one place by the nearest node's "
            "gradient, null without one",
        ),
        "dh_sigma_m": _null(F8, "its σ from both passes' segments", low=0),
        "rgt_first": Column(I2, "reference ground track of the earlier pass"),
        "cycle_first": Column(I2, "its cycle"),
        "beam_first": Column(TEXT, "its beam"),
        "rgt_second": Column(I2, "reference ground track of the later pass"),
        "cycle_second": Column(I2, "its cycle"),
        "beam_second": Column(TEXT, "its beam"),
        "segment_id": _null(I4, "segment number of a repeat"),
        "separation_m": _null(F8, "distance between a repeat's two segments", low=0),
        "angle_degrees": _null(F8, "angle between a crossover's tracks", low=0, high=90),
        "model_dh_m": _null(
            F8, "change by the nearest node's rate and annual cycle; null where none is near"
        ),
        "residual_m": _null(F8, "dh − model"),
        "stands_for": Column(F8, "pairs found in the block for each one kept", low=1),
    },
)

CHECKS = Table(
    "altimetry/checks",
    {
        "kind": Column(TEXT, "crossover or repeat"),
        "span": Column(TEXT, "class of the time between both passes, or all"),
        "n_found": Column(I8, "pairs found (of a class of span: estimated from those kept)", low=0),
        "n_kept": Column(I8, "pairs kept by the draw", low=0),
        "n_model": Column(I8, "pairs with a residual", low=0),
        "dh_rate_m_yr": _null(F8, "median of dh / dt where dt ≥ 0.5 years"),
        "residual_m": _null(F8, "median residual"),
        "residual_spread_m": _null(F8, "1.4826 × MAD of the residuals", low=0),
        "rate_difference_m_yr": _null(
            F8, "median of residual / dt where dt ≥ 0.5 years: what the fitted rates miss"
        ),
        "rate_difference_sigma_m_yr": _null(
            F8, "its σ, √(π/2) × robust spread / √n: as if pairs were independent", low=0
        ),
        "share_within_2_sigma": _null(
            F8, "share of residuals within 2 σ of dh (the model's own σ left out)", low=0, high=1
        ),
        "reason": _REASON,
    },
    ("kind", "span"),
)

NODE_MONTHS_CAUSAL = Table(
    "altimetry/node_months_causal",
    {
        "node_id": _NODE,
        "month": _MONTH,
        "model_m": Column(
            F8, "change since the period's first month by the fit to segments up to this month"
        ),
        "model_sigma_m": Column(F8, "its σ", low=0),
        "rate_m_yr": Column(F8, "rate by the same fit"),
        "amplitude_m": Column(F8, "annual amplitude by the same fit", low=0),
        "phase_rad": Column(F8, "annual phase by the same fit"),
        "elevation_m": Column(F4, "height in the middle of the first month by the same fit"),
        "slope": Column(F4, "surface slope by the same fit, m/m", low=0),
        "residual_m": _null(F8, "mean residual of the month's segments against that fit"),
        "residual_sigma_m": _null(F8, "its σ", low=0),
        "response": _null(
            F8,
            "share of a departure in this month and the three before that the fit leaves visible",
            low=0,
            high=1,
        ),
        "start_residual_m": _null(
            F8, "mean residual of the period's first three months against that fit"
        ),
        "start_response": _null(
            F8, "share of a departure in those months that the fit leaves visible", low=0, high=1
        ),
        "n_segments": Column(I4, "segments seen in the month", low=0),
        "tracks": Column(LIST, "distinct passes in the month, RGT × 1000 + cycle"),
    },
    ("node_id", "month"),
)

MASCONS = Table(
    "gravimetry/mascons",
    {
        "mascon_id": _MASCON,
        "area_km2": Column(F8, "area of the footprint", low=0),
        "land_area_km2": Column(F8, "area of the file's land cells", low=0),
        "ice_area_km2": Column(F8, "area of ice", low=0),
        "ice_fraction": Column(F8, "ice area over land area", low=0),
        "latitude": _LAT,
        "longitude": _LON,
        "selected": Column(FLAG, "chosen by the mascon rule"),
        "in_product_set": _null(FLAG, "in the product's own set for the region"),
        "whole_ice_fraction": _null(
            F8, "all its ice over land in the shipped footprints, which the rule asks first", low=0
        ),
    },
    ("mascon_id",),
    geometry=True,
)

_MASS = {
    "lwe_cm": _null(F8, "mass anomaly as water equivalent; null where no solution exists"),
    "lwe_sigma_cm": _null(F8, "its σ", low=0),
    "mass_gt": _null(F8, "mass anomaly over the land area"),
    "mass_sigma_gt": _null(F8, "its σ", low=0),
    "mass_change_gt": _null(F8, "change since the month before; null next to a gap"),
    "mass_change_sigma_gt": _null(F8, "its σ", low=0),
}

MASS = Table(
    "gravimetry/mass",
    {
        "mascon_id": _MASCON,
        "month": _MONTH,
        **_MASS,
        "solution_start": _null(TIME, "first instant of the solution"),
        "solution_end": _null(TIME, "last instant of the solution"),
    },
    ("mascon_id", "month"),
)

MASCON_MONTHS = Table(
    "fusion/mascon_months",
    {
        "mascon_id": _MASCON,
        "month": _MONTH,
        "dh_m": _null(F8, "mean elevation change over the mascon's ice"),
        "dh_sigma_m": _null(F8, "its σ", low=0),
        "dh_mean_m": _null(F8, "plain mean of the nodes seen, for comparison"),
        "rate_m_yr": _null(F8, "mean fitted rate"),
        "amplitude_m": _null(F8, "annual amplitude of the mean fitted cycle", low=0),
        "phase_rad": _null(F8, "its phase"),
        "spread_m": _null(F8, "standard deviation of the nodes' change", low=0),
        "fraction_thinning": _null(F8, "share of ice area whose rate is negative", low=0, high=1),
        "elevation_m": _null(F8, "mean fitted height: at the reference date; causal: first month"),
        "slope": _null(F8, "mean fitted surface slope, m/m", low=0),
        "sampled_fraction": Column(F8, "share of the ice area seen in the month", low=0, high=1),
        "n_nodes": Column(I8, "nodes seen in the month", low=0),
        "n_tracks": Column(I8, "distinct passes in the month", low=0),
        "reason": _REASON,
        **_MASS,
    },
    ("mascon_id", "month"),
)

FEATURES_LEDGER = Table(
    "features_ledger",
    {
        "feature": Column(TEXT, "feature column"),
        "reason": _REASON,
        "n_null": Column(I8, "rows where it is null", low=0),
    },
    ("feature",),
)

REGIME_NODES = Table(
    "regimes/nodes",
    {
        "node_id": _NODE,
        "x_m": _X,
        "y_m": _Y,
        "latitude": _LAT,
        "longitude": _LON,
        "regime": _null(I4, "0 thins fastest", low=0),
        "regime_name": _null(TEXT, "name by rule"),
        "silhouette": _null(F8, "silhouette, for the sampled nodes", low=-1, high=1),
        "reason": _REASON,
    },
    ("node_id",),
)

REGIME_MASCONS = Table(
    "regimes/mascons",
    {
        "mascon_id": _MASCON,
        "regime": _null(I4, "by the mascon's own metrics; 0 thins fastest", low=0),
        "regime_name": _null(TEXT, "name by rule"),
        "silhouette": _null(F8, "silhouette among mascons", low=-1, high=1),
        "rate_m_yr": _null(F8, "mean rate of its usable nodes, by area, like the metrics below"),
        "amplitude_m": _null(F8, "annual amplitude of the mean cycle", low=0),
        "phase_rad": _null(F8, "phase of the mean cycle"),
        "slope": _null(F8, "mean slope", low=0),
        "latitude": _null(F8, "mean latitude"),
        "elevation_m": _null(F8, "mean elevation"),
        "interannual_m": _null(F8, "mean interannual variability", low=0),
        "node_regime": _null(I4, "node regime of the largest share of its ice", low=0),
        "node_regime_name": _null(TEXT, "its name"),
        "share": _null(F8, "that share of the classified ice area", low=0, high=1),
        "n_nodes": Column(I8, "usable nodes", low=0),
        "area_km2": Column(F8, "ice area they stand for", low=0),
        "reason": _REASON,
    },
    ("mascon_id",),
)

REGIME_CENTROIDS = Table(
    "regimes/centroids",
    {
        "level": Column(TEXT, "what was clustered: nodes or mascons"),
        "regime": _null(I4, "0 thins fastest; null where the level has no regime", low=0),
        "regime_name": _null(TEXT, "name by rule"),
        "n_mascons": _null(I8, "mascons (level mascons)", low=1),
        "n_nodes": Column(I8, "nodes", low=0),
        "area_km2": _null(F8, "ice area", low=0),
        "rate_m_yr": _null(F8, "mean rate"),
        "amplitude_m": _null(F8, "mean annual amplitude"),
        "phase_rad": _null(F8, "phase of the mean cycle"),
        "slope": _null(F8, "mean slope"),
        "latitude": _null(F8, "mean latitude"),
        "elevation_m": _null(F8, "mean elevation"),
        "interannual_m": _null(F8, "mean interannual variability"),
        "reason": _REASON,
    },
    ("level", "regime"),
)

REGIME_STABILITY = Table(
    "regimes/stability",
    {
        "level": Column(TEXT, "what was clustered: nodes or mascons"),
        "k": Column(I4, "number of regimes", low=2),
        "silhouette": _null(F8, "mean silhouette", low=-1, high=1),
        "gap": _null(F8, "gap statistic"),
        "gap_sigma": _null(F8, "its σ", low=0),
        "adjusted_rand": _null(F8, "mean adjusted Rand index over bootstraps", low=-1, high=1),
        "score": _null(F8, "silhouette + gap, each scaled to 0…1 over the k tried", low=0, high=2),
        "chosen": Column(FLAG, "the k in use"),
        "why": _null(TEXT, "why it is, on its row"),
        "reason": _REASON,
    },
    ("level", "k"),
)

SCORES = Table(
    "skill/scores",
    {
        "model": Column(TEXT, "model, baseline or control"),
        "kind": Column(TEXT, "model, baseline or control"),
        "split": Column(TEXT, "split"),
        "target": Column(TEXT, "change (cm/month) or cumulative (cm)"),
        "scope": Column(TEXT, "pooled, or mascon:<id>"),
        "score": Column(
            TEXT,
            "r2, rmse_cm, rmse_gt, mae_cm, skill_vs_<baseline>; gain_vs_best: 1 − squared error "
            "over that of the best baseline, gain_vs_best_blind: of the best that sees no "
            "elevation change, gain_vs_blind_twin, gain_vs_best_twin: of the same model, of the "
            "best model, without elevation change; p_permuted: share of permuted labels that do as "
            "well; coverage …",
        ),
        "value": _null(F8, "value"),
        "lower": _null(F8, "lower end of the 95 % interval"),
        "upper": _null(F8, "upper end of the 95 % interval"),
        "n": Column(I8, "samples", low=0),
        "n_blocks": _null(
            I8,
            "independent blocks behind the interval; mascons of a jackknife, permutations of "
            "permuted labels",
            low=0,
        ),
        "reason": _REASON,
    },
    ("model", "split", "target", "scope", "score"),
)

LEARNING_CURVE = Table(
    "skill/learning_curve",
    {
        "target": Column(TEXT, "change or cumulative"),
        "split": Column(TEXT, "forward (months are left away) or leave_mascon_out (mascons)"),
        "model": Column(TEXT, "model, or its twin without elevation change (…_blind)"),
        "share": Column(F8, "share of the training months or mascons", low=0, high=1),
        "n_units": _null(F8, "training months or mascons, mean over folds", low=0),
        "n_train": _null(F8, "training samples, mean over folds and draws", low=0),
        "r2": _null(F8, "pooled held-out R², mean over draws", high=1),
        "lower": _null(F8, "2.5th percentile over draws", high=1),
        "upper": _null(F8, "97.5th percentile over draws", high=1),
        "n_draws": Column(I8, "subsets drawn", low=0),
        "n": Column(I8, "held-out samples", low=0),
        "reason": _REASON,
    },
    ("target", "split", "model", "share"),
)

PREDICTIONS = Table(
    "skill/predictions",
    {
        "model": Column(TEXT, "model, baseline or control"),
        "split": Column(TEXT, "split"),
        "target": Column(TEXT, "change or cumulative"),
        "fold": Column(I4, "fold", low=0),
        "mascon_id": _MASCON,
        "month": _MONTH,
        "observed_cm": Column(F8, "target"),
        "predicted_cm": Column(F8, "out-of-fold prediction"),
        "lower_cm": _null(F8, "lower end of the conformal interval"),
        "upper_cm": _null(F8, "upper end of the conformal interval"),
        "land_area_km2": Column(F8, "for Gt", low=0),
    },
    ("model", "split", "target", "mascon_id", "month"),
)

PREDICTED_MASS = Table(
    "predicted/mass_change",
    {
        "mascon_id": _MASCON,
        "month": _MONTH,
        "target": Column(TEXT, "change (a month's, or season's) or cumulative"),
        "model": Column(TEXT, "saved model"),
        "predicted_cm": _null(F8, "prediction, water equivalent over the mascon's land"),
        "lower_cm": _null(F8, "lower end of the conformal interval"),
        "upper_cm": _null(F8, "upper end"),
        "predicted_gt": _null(F8, "prediction as mass"),
        "lower_gt": _null(F8, "lower end of its interval"),
        "upper_gt": _null(F8, "upper end"),
        "trained_on": Column(
            FLAG, "the model was trained on this mascon month: a fit, not a forecast"
        ),
        "extrapolates": _null(
            F8, "share of the model's features outside their range in training", low=0, high=1
        ),
        "reason": _REASON,
    },
    ("mascon_id", "month"),
)

EXPLAINED = Table(
    "explained/mascons",
    {
        "scope": Column(TEXT, "mascon, or region: the mean of all mascons by land area"),
        "mascon_id": _null(I4, "identifier of the mascon; null for the region"),
        "target": Column(TEXT, "change or cumulative"),
        "split": Column(TEXT, "split of the held-out predictions"),
        "explained_total": _null(F8, "share of variance explained; may be negative", high=1),
        "explained_trend": _null(F8, "of the trend part", high=1),
        "explained_seasonal": _null(F8, "of the seasonal part", high=1),
        "explained_interannual": _null(F8, "of the interannual part", high=1),
        **{
            f"{part}_{end}": _null(F8, f"{end} end of the 95 % interval, {part}", high=1)
            for part in ("total", "trend", "seasonal", "interannual")
            for end in ("lower", "upper")
        },
        "n": Column(I8, "months", low=0),
        "n_blocks": _null(I8, "independent blocks behind the intervals", low=0),
        "reason": _REASON,
    },
    ("scope", "mascon_id", "target"),
)

IMPORTANCE = Table(
    "explained/importance",
    {
        "target": Column(TEXT, "change or cumulative"),
        "method": Column(TEXT, "permutation, shap or gain"),
        "kind": Column(TEXT, "group (a feature with all its lags) or family of groups"),
        "group": Column(TEXT, "group, or family: altimetry, season, place, sampling"),
        "importance": _null(F8, "rise of RMSE (cm), mean |SHAP| (cm), or share of gain"),
        "lower": _null(F8, "lower end over folds and seeds"),
        "upper": _null(F8, "upper end over folds and seeds"),
        "reason": _REASON,
    },
    ("target", "method", "kind", "group"),
)

COUPLING = Table(
    "coupling/mascons",
    {
        "mascon_id": _MASCON,
        "treatment": Column(
            TEXT, "raw, detrended or deseasonalised (detrended and deseasonalised)"
        ),
        "lag_months": Column(I4, "positive: mass follows elevation"),
        "r": _null(F8, "Pearson correlation", low=-1, high=1),
        "r_lower": _null(F8, "lower end of its block-bootstrap 95 % interval", low=-1, high=1),
        "r_upper": _null(F8, "upper end", low=-1, high=1),
        "rho": _null(F8, "Spearman correlation", low=-1, high=1),
        "n": Column(I8, "common months", low=0),
        "n_effective": _null(
            F8, "effective sample size, from the spread of r of unrelated surrogates", low=0
        ),
        "p": _null(F8, "p of |r| at this lag alone, by surrogates", low=0, high=1),
        "q_fdr": _null(
            F8, "Benjamini–Hochberg of p_best over mascons (on the best row)", low=0, high=1
        ),
        "best": Column(
            FLAG, "lag of the largest r, or of the largest −r where that is larger by 0.1"
        ),
        "p_best": _null(
            F8, "p of the largest |r| over all lags, by surrogates (on the best row)", low=0, high=1
        ),
        "density_kg_m3": _null(
            F8, "effective density: mass over ice area × dh, errors in both (on the best row)"
        ),
        "density_lower_kg_m3": _null(
            F8, "lower end of its 95 % interval, which reaches from no error in dh to its σ"
        ),
        "density_upper_kg_m3": _null(F8, "upper end"),
        "density_ols_kg_m3": _null(F8, "by ordinary least squares, biased low by noise in dh"),
        "flag": _null(TEXT, "opposing_components where trend and season disagree"),
        "reason": _REASON,
    },
    ("mascon_id", "treatment", "lag_months"),
)

LAKES = Table(
    "hydrology/lakes",
    {
        "lake_id": Column(I4, "number", low=1),
        "status": Column(TEXT, "candidate or lookalike"),
        "window": _null(TEXT, "window"),
        "x_m": _X,
        "y_m": _Y,
        "latitude": _LAT,
        "longitude": _LON,
        "area_km2": Column(F8, "area of the outline", low=0),
        "n_nodes": Column(I4, "nodes", low=1),
        "n_tracks": Column(
            I4, "reference tracks that alone saw it in 6 months or more; one has no witness", low=0
        ),
        "n_confirming": Column(I4, "nodes at which other tracks follow the leading one's", low=0),
        "n_denying": Column(I4, "nodes at which other tracks do not, though they should", low=0),
        "slope": Column(F8, "mean slope of its nodes, m/m", low=0),
        "scatter_m": Column(F8, "scatter of its nodes' segments within a month", low=0),
        "open_share": Column(
            F8,
            "share of its sides where it still moves and no ice was searched beyond",
            low=0,
            high=1,
        ),
        "volume_is_lower_bound": Column(FLAG, "cut by unsearched ice: open_share 0.25 or more"),
        "volume_range_km3": Column(F8, "largest minus smallest volume of well-seen months", low=0),
        "first_fill": _null(TIME, "month the first filling starts"),
        "first_drain": _null(TIME, "month the first draining starts"),
        "mascon_id": _null(I4, "mascon that holds it"),
        "inventory_name": _null(TEXT, "nearest inventory lake within the match distance"),
        "inventory_distance_m": _null(F8, "distance to it", low=0),
        "reason": _null(TEXT, "why it is a look-alike"),
    },
    ("lake_id",),
    geometry=True,
)

LAKE_MONTHS = Table(
    "hydrology/lake_months",
    {
        "lake_id": Column(I4, "number", low=1),
        "month": _MONTH,
        "departure_m": Column(F8, "mean change against the ring"),
        "departure_sigma_m": Column(F8, "its σ", low=0),
        "volume_km3": Column(F8, "departure × area"),
        "volume_sigma_km3": Column(F8, "its σ, that of the departure alone", low=0),
        "n_nodes": Column(I4, "nodes seen", low=1),
    },
    ("lake_id", "month"),
)

LAKE_EVENTS = Table(
    "hydrology/lake_events",
    {
        "lake_id": Column(I4, "number", low=1),
        "kind": Column(TEXT, "fill or drain"),
        "start": Column(TIME, "month before the change", month=True),
        "end": Column(TIME, "month after the change", month=True),
        "volume_km3": Column(F8, "change, positive for filling"),
        "volume_sigma_km3": Column(F8, "its σ: of the departure, and 30 % for the area", low=0),
    },
)

SEARCHED_NODES = Table(
    "hydrology/searched_nodes",
    {
        "node_id": _NODE,
        "window": _null(TEXT, "window the node belongs to"),
        "spacing_m": Column(F8, "node spacing"),
        "x_m": _X,
        "y_m": _Y,
        "n_months": Column(I4, "months with a departure", low=1),
        "departure_range_m": Column(F8, "5 to 95 % range of its departures from the ring", low=0),
        "noise_m": Column(F8, "σ of a departure", low=0),
        "departing": Column(FLAG, "far enough and for long enough"),
        "lake_id": _null(I4, "candidate or look-alike it belongs to"),
    },
    ("node_id",),
)

INVENTORY_MATCHES = Table(
    "hydrology/inventory_matches",
    {
        "inventory_row": _null(
            I4,
            "row of the inventory, from 1, below the header of its sheet; null for new candidates",
            low=1,
        ),
        "inventory_name": _null(TEXT, "its name; null where unnamed"),
        "kind": _null(TEXT, "its kind (Active, Stable …); null where the inventory does not say"),
        "candidate_id": _null(I4, "lake_id of the candidate: of a hit, new or not compared one"),
        "outcome": Column(
            TEXT,
            "hit; miss; not_searched (no searched node near); new (candidate without an inventory "
            "lake); not_compared (no inventory)",
        ),
        "distance_km": _null(
            F8,
            "from the inventory lake to the nearest candidate's outline, or from a new candidate "
            "to the nearest inventory lake",
            low=0,
        ),
        "x_m": _X,
        "y_m": _Y,
        "latitude": _LAT,
        "longitude": _LON,
        "reason": _null(TEXT, "why it was not searched or not compared"),
    },
)

TOTALS = Table(
    "applications/totals",
    {
        "source": Column(TEXT, "gravity, or altimetry at a density"),
        "density_kg_m3": _null(F8, "density of the altimetric total"),
        "density_lower_kg_m3": _null(F8, "lower end of the fitted density's 95 % interval"),
        "density_upper_kg_m3": _null(F8, "upper end"),
        "month": _MONTH,
        "mass_gt": _null(F8, "mass anomaly on gravity's baseline; null in gaps"),
        "mass_sigma_gt": _null(
            F8, "its 1σ: mascon σ; not GIA, leakage, density or the shift of baselines", low=0
        ),
        "mass_change_gt": _null(F8, "change since the month before; null beside a gap"),
        "mass_change_sigma_gt": _null(F8, "its 1σ, both months' in quadrature", low=0),
        "sea_level_mm": _null(F8, "the mass as global mean sea level, rise positive"),
        "sea_level_sigma_mm": _null(F8, "its 1σ", low=0),
        "sea_level_change_mm": _null(F8, "the change as sea level, rise positive"),
        "sea_level_change_sigma_mm": _null(F8, "its 1σ", low=0),
        "volume_km3": _null(F8, "volume anomaly behind an altimetric total, before the shift"),
        "volume_sigma_km3": _null(F8, "its 1σ", low=0),
        "n_mascons": Column(I4, "mascons with a value of their own in the month", low=0),
    },
    ("source", "month"),
)

SEA_LEVEL = Table(
    "applications/sea_level",
    {
        "source": Column(TEXT, "gravity, or altimetry at a density"),
        "density_kg_m3": _null(F8, "density of the altimetric total"),
        "density_lower_kg_m3": _null(F8, "lower end of the fitted density's 95 % interval"),
        "density_upper_kg_m3": _null(F8, "upper end"),
        "start": Column(TIME, "first month", month=True),
        "end": Column(TIME, "last month", month=True),
        "trend_gt_yr": _null(F8, "trend"),
        "trend_sigma_gt_yr": _null(F8, "its σ, for autocorrelated residuals", low=0),
        "sea_level_mm_yr": _null(F8, "trend as sea level, rise positive"),
        "sea_level_sigma_mm_yr": _null(F8, "its σ", low=0),
        "sea_level_total_mm": _null(F8, "trend × length of the record"),
        "n": Column(I8, "months", low=0),
        "reason": _REASON,
    },
    ("source", "start"),
)

COMPARISON = Table(
    "applications/comparison",
    {
        "series": Column(TEXT, "reference series"),
        "source": Column(TEXT, "gravity, or altimetry at a density"),
        "start": Column(TIME, "first common month, or instant", null=True, month=True),
        "end": Column(TIME, "last one", null=True, month=True),
        "n": Column(I8, "common months, or instants", low=0),
        "bias_gt": _null(
            F8, "mean difference after aligning both on the first 12 months of the common record"
        ),
        "rmse_gt": _null(F8, "RMSE after removing each mean over common months", low=0),
        "r": _null(F8, "correlation", low=-1, high=1),
        "trend_gt_yr": _null(F8, "our trend"),
        "reference_trend_gt_yr": _null(F8, "its trend"),
        "trend_difference_gt_yr": _null(F8, "trend of the difference, ours minus its"),
        "trend_difference_lower_gt_yr": _null(
            F8, "lower end of its 95 % interval, for autocorrelated differences"
        ),
        "trend_difference_upper_gt_yr": _null(F8, "upper end"),
        "reason": _REASON,
    },
    ("series", "source"),
)

SHEET_COUPLING = Table(
    "applications/sheet_coupling",
    {
        "volume": Column(TEXT, "altimetry (this run's), or a published volume"),
        "mass": Column(TEXT, "gravity (this run's), or a published mass"),
        "treatment": Column(TEXT, "raw, detrended, deseasonalised"),
        "step_months": _null(I1, "months between pairs", low=1),
        "start": Column(TIME, "first pair", null=True, month=True),
        "end": Column(TIME, "last pair", null=True, month=True),
        "n": Column(I8, "pairs", low=0),
        "r": _null(F8, "Pearson correlation at lag 0", low=-1, high=1),
        "r_lower": _null(F8, "lower end of its 95 % interval, Fisher with effective n"),
        "r_upper": _null(F8, "upper end"),
        "n_effective": _null(F8, "independent pairs worth the same", low=0),
        "p": _null(F8, "share of unrelated surrogates that correlate as much", low=0, high=1),
        "density_kg_m3": _null(F8, "effective density, errors in both and scatter"),
        "density_lower_kg_m3": _null(F8, "lower end of its 95 % interval, effective n"),
        "density_upper_kg_m3": _null(F8, "upper end"),
        "density_ols_kg_m3": _null(F8, "least squares, biased low by noise in volume"),
        "scatter_gt": _null(F8, "scatter added to the σ of mass", low=0),
        "reason": _REASON,
    },
    ("volume", "mass", "treatment"),
)

CASE_STUDY = Table(
    "applications/case_study",
    {
        "scope": Column(TEXT, "sheet, or mascon:<id>"),
        "mascon_id": _null(I4, "mascon"),
        "year": Column(I2, "melt season"),
        "dh_change_m": _null(F8, "elevation change of the season"),
        "dh_change_sigma_m": _null(F8, "its σ, months taken as independent", low=0),
        "dh_season_m": _null(F8, "the change minus its mean over the years not studied"),
        "elevation_gt": _null(F8, "elevation change × ice area at 850 kg/m³, beside gravity's"),
        "elevation_sigma_gt": _null(F8, "its σ, not that of the density", low=0),
        "observed_gt": _null(F8, "gravity: mass change of the season"),
        "observed_sigma_gt": _null(F8, "its σ", low=0),
        "observed_anomaly_gt": _null(F8, "the change minus its mean over the years not studied"),
        "predicted_gt": _null(F8, "model trained on other years"),
        "predicted_lower_gt": _null(F8, "lower end of the conformal interval"),
        "predicted_upper_gt": _null(F8, "upper end"),
        "observed_late_gt": _null(F8, "gravity: change until six months after the season"),
        "observed_late_sigma_gt": _null(F8, "its σ", low=0),
        "predicted_late_gt": _null(F8, "the model's"),
        "predicted_late_lower_gt": _null(F8, "lower end of its conformal interval"),
        "predicted_late_upper_gt": _null(F8, "upper end"),
        **{
            f"{name}_minimum{end}": _null(I1, f"{who}{about}", low=1, high=12)
            for name, who in (("dh", "elevation"), ("observed", "gravity"), ("predicted", "model"))
            for end, about in (
                ("", ": calendar month of the minimum, after which it rises again"),
                ("_first", ": the minimum lies not before this month (interval)"),
                ("_last", ": nor after this one"),
            )
        },
        "n_months": Column(I1, "months of the season with gravity", low=0),
        "reason": _REASON,
    },
    ("scope", "year"),
)

PRODUCT_MONTHS = Table(
    "product/months",
    {
        "mascon_id": _MASCON,
        "month": _MONTH,
        "dh_m": _null(F8, "mean elevation change over the mascon's ice (retrospective)"),
        "dh_sigma_m": _null(F8, "its σ", low=0),
        "predicted_change_gt": _null(
            F8,
            "mass change since the month before, by a model fitted without the mascon (that one of "
            "the models speaks is chosen by the error over all mascons)",
        ),
        "predicted_change_lower_gt": _null(F8, "lower end of its conformal interval"),
        "predicted_change_upper_gt": _null(F8, "upper end"),
        "predicted_mass_gt": _null(
            F8,
            "mass anomaly by such a model; zero is the mascon's mean over the first twelve months "
            "of the period with a solution",
        ),
        "predicted_mass_lower_gt": _null(F8, "lower end of its conformal interval"),
        "predicted_mass_upper_gt": _null(F8, "upper end"),
        "observed_change_gt": _null(F8, "gravity's change since the month before; null at a gap"),
        "observed_change_sigma_gt": _null(F8, "its σ", low=0),
        "observed_mass_gt": _null(F8, "gravity's mass anomaly, the same zero"),
        "observed_mass_sigma_gt": _null(F8, "its σ", low=0),
        "has_gravimetry": Column(FLAG, "the month has a solution of gravity"),
        "reason": _null(TEXT, "why predicted values, or their intervals, are null"),
    },
    ("mascon_id", "month"),
)

CASE_STUDY_MONTHS = Table(
    "applications/case_study_months",
    {
        "mascon_id": _MASCON,
        "month": _MONTH,
        "predicted_change_gt": Column(F8, "mass change since the month before, from elevation"),
        "followed": Column(FLAG, "a month was not seen: elevation of the mascon's own fit"),
        "all_other_years": Column(
            FLAG, "of the model of all years not studied; else of one without the month's year"
        ),
    },
    ("mascon_id", "month"),
)

_SOURCE = Column(TEXT, "dh, gravimetry or model")
_SCOPE = Column(TEXT, "sheet, or mascon:<id>")
_UNIT = Column(TEXT, "unit of the changes: m or Gt")

RAPID_MELT = Table(
    "applications/rapid_melt",
    {
        "scope": _SCOPE,
        "mascon_id": _null(I4, "mascon"),
        "source": _SOURCE,
        "unit": _UNIT,
        "month": _MONTH,
        "change": _null(F8, "change since the month before, loss negative"),
        "anomaly": _null(F8, "the change without trend, annual and semi-annual cycle"),
        "threshold": _null(
            F8, "anomaly below which a month is flagged; follows the time of the year"
        ),
        "p": _null(F8, "share of surrogate months with as low an anomaly", low=0, high=1),
        "flagged": _null(FLAG, "rapid loss: the anomaly lies below the threshold"),
    },
    ("scope", "source", "month"),
)

RAPID_MELT_RATES = Table(
    "applications/rapid_melt_rates",
    {
        "scope": _SCOPE,
        "mascon_id": _null(I4, "mascon"),
        "source": _SOURCE,
        "unit": _UNIT,
        "start": Column(TIME, "first month with a change", null=True, month=True),
        "end": Column(TIME, "last one", null=True, month=True),
        "n": Column(I8, "months with a change", low=0),
        "autocorrelation": _null(
            F8, "lag-1 autocorrelation of anomalies over their spread", low=-1, high=1
        ),
        "threshold": _null(F8, "median over months of the threshold"),
        "n_flagged": _null(I8, "flagged months", low=0),
        "nominal_rate": Column(F8, "quantile that sets the threshold", low=0, high=1),
        "false_alarm_rate": _null(
            F8, "rate on noise with the spread of the three calendar months around", low=0, high=1
        ),
        "false_alarm_lower": _null(F8, "lower end of its 95 % interval", low=0),
        "false_alarm_upper": _null(F8, "upper end"),
        "most_by_chance": _null(I8, "flags that 95 % of surrogates do not exceed", low=0),
        "p": _null(F8, "share of surrogates with as many flags", low=0, high=1),
        "reason": _REASON,
    },
    ("scope", "source"),
)

EARLY_WARNING = Table(
    "applications/early_warning",
    {
        "scope": _SCOPE,
        "mascon_id": _null(I4, "mascon"),
        "source": _SOURCE,
        "statistic": Column(TEXT, "variance or autocorrelation (lag 1) in running windows"),
        "start": Column(TIME, "first month", null=True, month=True),
        "end": Column(TIME, "last one", null=True, month=True),
        "n": Column(I8, "months with a value", low=0),
        "n_windows": Column(I8, "windows", low=0),
        "tau": _null(F8, "Kendall's tau of the statistic against time", low=-1, high=1),
        "tau_lower": _null(F8, "lower end of the middle 95 % of surrogates", low=-1, high=1),
        "tau_upper": _null(F8, "upper end", low=-1, high=1),
        "p": _null(F8, "exploratory: share of surrogates with as large a tau", low=0, high=1),
        "reason": _REASON,
    },
    ("scope", "source", "statistic"),
)

EARLY_WARNING_WINDOWS = Table(
    "applications/early_warning_windows",
    {
        "scope": _SCOPE,
        "mascon_id": _null(I4, "mascon"),
        "source": _SOURCE,
        "statistic": Column(TEXT, "variance (m² or Gt²) or autocorrelation"),
        "month": Column(TIME, "last month of the window", month=True),
        "value": Column(F8, "statistic of the window"),
        "lower": Column(F8, "lower end of the middle 95 % of surrogates"),
        "upper": Column(F8, "upper end"),
    },
    ("scope", "source", "statistic", "month"),
)

SENSITIVITY = Table(
    "applications/sensitivity",
    {
        "choice": Column(TEXT, "mascon rule, or what rebound does"),
        "source": Column(TEXT, "gravity, or altimetry at a density"),
        "density_kg_m3": _null(F8, "density of the altimetric total"),
        "configured": Column(FLAG, "the run's own mascon rule"),
        "n_mascons": Column(I4, "mascons chosen", low=0),
        "land_area_km2": Column(F8, "their land", low=0),
        "ice_area_km2": Column(F8, "their ice", low=0),
        "start": Column(TIME, "first month; null for what rebound does", null=True, month=True),
        "end": Column(TIME, "last month", null=True, month=True),
        "n": Column(I8, "months", low=0),
        "trend_gt_yr": _null(F8, "trend"),
        "trend_sigma_gt_yr": _null(F8, "its σ, for autocorrelated residuals", low=0),
        "difference_gt_yr": _null(F8, "trend less that of the configured rule, same months"),
        "change_gt": _null(F8, "trend × length of the record"),
        "change_sigma_gt": _null(F8, "its σ", low=0),
        "sea_level_mm_yr": _null(F8, "trend as sea level, rise positive"),
        "sea_level_sigma_mm_yr": _null(F8, "its σ", low=0),
        "reason": _REASON,
    },
    ("choice", "source", "start"),
)

#: Every contract by name.
CONTRACTS: dict[str, Table] = {
    value.name: value for value in list(globals().values()) if isinstance(value, Table)
}
