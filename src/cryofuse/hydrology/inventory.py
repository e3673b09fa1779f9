"""Inventories of subglacial lakes: reading them and matching candidates with them."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from cryofuse.logs import UserError

if TYPE_CHECKING:
    import geopandas

    from cryofuse.config import RegionSettings

#: Columns of an inventory.
COLUMNS = ("name", "longitude", "latitude", "kind")
#: Sheets of Livingstone et al. 2022 that hold lakes; "Combined" repeats the others.
LIVINGSTONE_SHEETS = ("Antarctica", "Greenland", "Ice Caps", "Valley Glaciers")
#: Kind of lake whose surface moves, in that inventory.
ACTIVE = "Active"
#: Searched nodes this near (in spacings) make an inventory lake a searched one.
SEARCHED_REACH = 1.5
NO_INVENTORY = "the region names no inventory"
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
        (Active, Stable …, null where the file does not say). The index counts rows from 0, of a
        workbook those below the header of each sheet.

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
    return frame[list(COLUMNS)]


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
    return pd.concat(frames)


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
    lakes, numbers = [], []
    for number, row in enumerate(rows[1:]):
        try:
            place = (float(row[longitude[0]]), float(row[latitude[0]]))
        except (KeyError, ValueError):
            continue
        numbers.append(number)
        name = ", ".join(row[column] for column in names if column in row) or None
        kind = next((row[column] for column in kinds if column in row), None)
        lakes.append({"name": name, "longitude": place[0], "latitude": place[1], "kind": kind})
    return pd.DataFrame(lakes, index=numbers, columns=list(COLUMNS))


def match_inventory(
    lakes: geopandas.GeoDataFrame,
    inventory: pd.DataFrame | None,
    searched: pd.DataFrame,
    crs: str,
    match_m: float,
) -> tuple[geopandas.GeoDataFrame, pd.DataFrame]:
    """Match candidates with an inventory: nearest pairs first, each lake once.

    Lakes that are known not to move get a candidate that no other lake is near.

    Parameters
    ----------
    lakes
        Candidates and look-alikes (``hydrology/lakes``); look-alikes match nothing.
    inventory
        Lakes as :func:`read_inventory` returns them, or some of these rows; None where there is
        none.
    searched
        ``hydrology/searched_nodes``. An inventory lake without such a node within
        ``SEARCHED_REACH`` spacings is neither hit nor miss.
    crs
        Projected CRS of ``x_m`` and ``y_m``.
    match_m
        Largest distance of a hit, from the candidate's outline (m).

    Returns
    -------
    tuple
        The lakes with ``inventory_name`` and ``inventory_distance_m`` filled for hits, and the
        table ``hydrology/inventory_matches``: the inventory's lakes, then the other candidates.
    """
    import shapely

    from cryofuse.geo import project, reproject

    candidates = lakes[lakes["status"] == "candidate"]
    matched = lakes.copy()
    if inventory is None:
        return matched, _list_candidates(candidates, "not_compared", NO_INVENTORY)
    x, y = project(inventory["longitude"].to_numpy(), inventory["latitude"].to_numpy(), crs)
    x, y = np.atleast_1d(x), np.atleast_1d(y)
    table = pd.DataFrame(
        {
            "inventory_row": inventory.index.to_numpy() + 1,
            "inventory_name": inventory["name"].to_numpy(),
            "kind": inventory["kind"].to_numpy(),
            "candidate_id": pd.array([pd.NA] * len(inventory), dtype="Int32"),
            "outcome": "miss",
            "distance_km": np.nan,
            "x_m": x,
            "y_m": y,
            "latitude": inventory["latitude"].to_numpy(),
            "longitude": inventory["longitude"].to_numpy(),
            "reason": pd.Series(None, index=range(len(inventory)), dtype="str"),
        }
    )
    seen = _near_searched(x, y, searched)
    table.loc[~seen, "outcome"] = "not_searched"
    table.loc[~seen, "reason"] = "no searched node near"
    outlines = np.array([reproject(g, "EPSG:4326", crs) for g in candidates.geometry], dtype=object)
    apart = shapely.distance(shapely.points(x, y)[:, None], outlines[None, :]).astype(np.float64)
    if apart.size:
        table["distance_km"] = apart.min(axis=1) / 1e3
    free_rows, free_lakes = np.ones(len(table), bool), np.ones(len(candidates), bool)
    kind = inventory["kind"]
    at_rest = np.broadcast_to((kind.notna() & (kind != ACTIVE)).to_numpy()[:, None], apart.shape)
    order = np.unravel_index(np.lexsort((apart.ravel(), at_rest.ravel())), apart.shape)
    for row, lake in zip(*order, strict=True):
        if apart[row, lake] > match_m or not (free_rows[row] and free_lakes[lake]):
            continue
        free_rows[row] = free_lakes[lake] = False
        table.loc[row, ["outcome", "reason"]] = ["hit", None]
        table.loc[row, "candidate_id"] = int(candidates["lake_id"].iloc[lake])
        table.loc[row, "distance_km"] = apart[row, lake] / 1e3
        name = table["inventory_name"].iloc[row]
        place = candidates.index[lake]
        matched.loc[place, "inventory_name"] = (
            name if isinstance(name, str) else f"inventory row {table['inventory_row'].iloc[row]}"
        )
        matched.loc[place, "inventory_distance_m"] = apart[row, lake]
    new = _list_candidates(candidates[free_lakes], "new", None)
    if apart.shape[0]:
        new["distance_km"] = apart[:, free_lakes].min(axis=0) / 1e3
    return matched, pd.concat([table, new], ignore_index=True)


def inside_region(inventory: pd.DataFrame, region: RegionSettings, match_m: float) -> np.ndarray:
    """Return which lakes of an inventory lie within ``match_m`` of the region's outline."""
    import shapely

    from cryofuse.geo import load_outline, project

    x, y = project(inventory["longitude"].to_numpy(), inventory["latitude"].to_numpy(), region.crs)
    points = shapely.points(np.column_stack([np.atleast_1d(x), np.atleast_1d(y)]))
    outline = load_outline(region)
    shapely.prepare(outline)
    return np.asarray(shapely.dwithin(outline, points, match_m))


def _near_searched(x: np.ndarray, y: np.ndarray, searched: pd.DataFrame) -> np.ndarray:
    """Return which points have a searched node within ``SEARCHED_REACH`` of its spacings."""
    from scipy.spatial import cKDTree

    near = np.zeros(x.size, bool)
    spacings = searched["spacing_m"].to_numpy(np.float64)
    for spacing in np.unique(spacings):
        tree = cKDTree(searched.loc[spacings == spacing, ["x_m", "y_m"]].to_numpy(np.float64))
        reach = SEARCHED_REACH * float(spacing)
        gap = tree.query(np.column_stack([x, y]), distance_upper_bound=reach)[0]
        near |= np.isfinite(gap)
    return near


def _list_candidates(
    candidates: geopandas.GeoDataFrame, outcome: str, reason: str | None
) -> pd.DataFrame:
    """Return rows of ``hydrology/inventory_matches`` for candidates without a match."""
    from cryofuse.tables import INVENTORY_MATCHES

    rows = INVENTORY_MATCHES.empty().to_pandas().reindex(range(len(candidates)))
    rows["candidate_id"] = candidates["lake_id"].to_numpy()
    rows["outcome"], rows["reason"] = outcome, reason
    for name in ("x_m", "y_m", "latitude", "longitude"):
        rows[name] = candidates[name].to_numpy()
    for name in ("inventory_row", "candidate_id"):
        rows[name] = rows[name].astype("Int32")
    for name in ("inventory_name", "kind", "reason"):
        rows[name] = rows[name].astype("str")
    return rows
