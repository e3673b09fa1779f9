"""Inventories of subglacial lakes: reading them and matching candidates with them."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from cryofuse.logs import UserError

if TYPE_CHECKING:
    import geopandas

#: Columns of an inventory.
COLUMNS = ("name", "longitude", "latitude", "kind")
#: Sheets of Livingstone et al. 2022 that hold lakes; "Combined" repeats the others.
LIVINGSTONE_SHEETS = ("Antarctica", "Greenland", "Ice Caps", "Valley Glaciers")
#: Kind of lake whose surface moves, in that inventory.
ACTIVE = "Active"
_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_CELL = re.compile(r"^([A-Z]+)\d+$")


def read_inventory(path: str | Path) -> pd.DataFrame:
    """Read an inventory of subglacial lakes.

    Parameters
    ----------
    path
        A vector file (points, or polygons, of which the centroid counts), a CSV with
        ``longitude``, ``latitude`` and, if known, ``name`` and ``kind``, or the workbook of
        Livingstone et al. 2022 (Nat. Rev. Earth Environ. 3, 106), which is read without a
        spreadsheet library.

    Returns
    -------
    pandas.DataFrame
        ``name`` (null where unnamed), ``longitude`` and ``latitude`` (degrees), ``kind``
        (Active, Stable …, null where the file does not say).

    Raises
    ------
    UserError
        If the file is missing or is none of these.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"inventory: no file {path}")
    suffix = path.suffix.lower()
    if suffix == ".xlsx":
        frame = _read_workbook(path)
    elif suffix == ".csv":
        frame = _read_csv(path)
    else:
        frame = _read_vector(path)
    for name in ("name", "kind"):
        if name not in frame:
            frame[name] = None
        frame[name] = frame[name].astype("str")
    return frame[list(COLUMNS)].reset_index(drop=True)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, comment="#")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"inventory: {path} is not a CSV file ({error})") from None
    missing = [name for name in ("longitude", "latitude") if name not in frame]
    if missing:
        raise UserError(f"inventory: {path} has no column {' or '.join(missing)}")
    for name in ("longitude", "latitude"):
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    bad = np.flatnonzero(frame[["longitude", "latitude"]].isna().any(axis=1))
    if bad.size:
        raise UserError(f"inventory: {path}, row {bad[0] + 1}: longitude or latitude is no number")
    return frame


def _read_vector(path: Path) -> pd.DataFrame:
    import pyogrio

    try:
        frame = pyogrio.read_dataframe(path)
    except Exception as error:  # noqa: BLE001  pyogrio raises many kinds for one broken file
        raise UserError(f"inventory: {path} is no vector file, CSV or workbook ({error})") from None
    if "geometry" not in frame or frame.crs is None:
        raise UserError(f"inventory: {path} holds no geometry with a CRS")
    # A centroid in degrees is off by less than the lake; its own CRS is nearer to the truth.
    points = frame.to_crs("EPSG:6933" if frame.crs.is_geographic else frame.crs).centroid
    points = points.to_crs("EPSG:4326")
    names = {column.lower(): column for column in frame.columns}
    result = pd.DataFrame({"longitude": points.x.to_numpy(), "latitude": points.y.to_numpy()})
    for wanted in ("name", "kind"):
        if wanted in names:
            result[wanted] = frame[names[wanted]].to_numpy()
    return result


def _read_workbook(path: Path) -> pd.DataFrame:
    try:
        with zipfile.ZipFile(path) as archive:
            shared = _shared_strings(archive)
            parts = [
                _lakes_of(_sheet_rows(archive, member, shared), name)
                for name, member in _sheets(archive).items()
                if name in LIVINGSTONE_SHEETS
            ]
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError) as error:
        raise UserError(f"inventory: {path} is not an xlsx workbook ({error})") from None
    frames = [part for part in parts if part is not None]
    if not frames:
        raise UserError(
            f"inventory: {path} has no sheet {', '.join(LIVINGSTONE_SHEETS)} with columns "
            "Lat. and Lon.; save it as CSV with longitude, latitude and name"
        )
    return pd.concat(frames, ignore_index=True)


def _shared_strings(archive: zipfile.ZipFile) -> list[str]:
    if "xl/sharedStrings.xml" not in archive.namelist():
        return []
    root = ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
    return ["".join(part.text or "" for part in item.iter(f"{_SHEET}t")) for item in root]


def _sheets(archive: zipfile.ZipFile) -> dict[str, str]:
    """Return the archive member of each sheet by name."""
    relations = ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
    target = {item.get("Id"): str(item.get("Target")) for item in relations}
    book = ElementTree.fromstring(archive.read("xl/workbook.xml"))
    found = {}
    for sheet in book.iter(f"{_SHEET}sheet"):
        member = target[sheet.get(f"{_RELATION}id")]
        member = member.lstrip("/") if member.startswith("/") else f"xl/{member}"
        found[str(sheet.get("name"))] = member
    return found


def _sheet_rows(archive: zipfile.ZipFile, member: str, shared: list[str]) -> list[dict[str, str]]:
    """Return the cells of each row by column letter."""
    rows = []
    for row in ElementTree.fromstring(archive.read(member)).iter(f"{_SHEET}row"):
        cells: dict[str, str] = {}
        for cell in row:
            match = _CELL.match(cell.get("r", ""))
            kind = cell.get("t")
            if kind == "inlineStr":
                text = "".join(part.text or "" for part in cell.iter(f"{_SHEET}t"))
            else:
                value = cell.find(f"{_SHEET}v")
                text = "" if value is None else value.text or ""
                text = shared[int(text)] if kind == "s" and text else text
            if match and text.strip():
                cells[match.group(1)] = text.strip()
        rows.append(cells)
    return rows


def _lakes_of(rows: list[dict[str, str]], sheet: str) -> pd.DataFrame | None:
    """Return a sheet's lakes: every row whose latitude and longitude are numbers."""
    header = {column: text.lower() for column, text in rows[0].items()} if rows else {}

    def find(*starts: str) -> list[str]:
        return [column for column, text in header.items() if text.startswith(starts)]

    latitude, longitude = find("lat"), find("lon")
    if not latitude or not longitude:
        return None
    names, kinds = find("location", "name"), find("lake type")
    lakes = []
    for row in rows[1:]:
        try:
            place = (float(row[longitude[0]]), float(row[latitude[0]]))
        except (KeyError, ValueError):
            continue
        name = ", ".join(row[column] for column in names if column in row) or None
        kind = next((row[column] for column in kinds if column in row), None)
        lakes.append({"name": name, "longitude": place[0], "latitude": place[1], "kind": kind})
    return pd.DataFrame(lakes, columns=list(COLUMNS))


def match_inventory(
    lakes: geopandas.GeoDataFrame,
    inventory: pd.DataFrame,
    searched: Any,
    crs: str,
    match_m: float,
) -> tuple[geopandas.GeoDataFrame, pd.DataFrame]:
    """Match candidates with an inventory, each with its nearest and only once.

    Parameters
    ----------
    lakes
        Candidates (``hydrology/lakes``).
    inventory
        Lakes as :func:`read_inventory` returns them.
    searched
        The area that was searched, a shapely geometry in ``crs``; lakes farther from it than
        ``match_m`` are neither hits nor misses.
    crs
        Projected CRS of ``x_m`` and ``y_m``.
    match_m
        Largest distance of a hit, from the candidate's outline (m).

    Returns
    -------
    tuple
        The candidates with ``inventory_name`` and ``inventory_distance_m`` filled for hits (the
        others are new), and the inventory with ``status`` (hit, miss, not_searched), ``lake_id``
        and ``distance_m`` of the nearest candidate.
    """
    import shapely

    from cryofuse.geo import project, reproject

    table = inventory.copy()
    x, y = project(table["longitude"].to_numpy(), table["latitude"].to_numpy(), crs)
    points = shapely.points(x, y)
    inside = shapely.distance(points, searched) <= match_m if len(table) else np.zeros(0, bool)
    table["status"] = np.where(inside, "miss", "not_searched")
    table["lake_id"] = pd.array([pd.NA] * len(table), dtype="Int32")
    table["distance_m"] = np.nan
    lakes = lakes.copy()
    if not len(lakes) or not len(table):
        return lakes, table
    outlines = np.array([reproject(g, "EPSG:4326", crs) for g in lakes.geometry], dtype=object)
    distance = shapely.distance(points[:, None], outlines[None, :])
    nearest = distance.argmin(axis=1)
    table["distance_m"] = distance.min(axis=1)
    # Nearest pairs first, so that one candidate does not claim two lakes.
    taken: set[int] = set()
    names = lakes["inventory_name"].astype(object).to_numpy(copy=True)
    gaps = lakes["inventory_distance_m"].to_numpy(dtype=np.float64, copy=True)
    for row in np.argsort(table["distance_m"].to_numpy(), kind="stable"):
        lake = int(nearest[row])
        if distance[row, lake] > match_m or lake in taken:
            continue
        taken.add(lake)
        table.loc[row, "status"] = "hit"
        table.loc[row, "lake_id"] = int(lakes["lake_id"].iloc[lake])
        name = table["name"].iloc[row]
        names[lake] = name if isinstance(name, str) else f"inventory row {row + 1}"
        gaps[lake] = distance[row, lake]
    lakes["inventory_name"] = pd.Series(names, index=lakes.index, dtype="str")
    lakes["inventory_distance_m"] = gaps
    return lakes, table
