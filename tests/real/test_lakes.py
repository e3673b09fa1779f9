"""The real inventory: every lake of its sheet, where it belongs on the map; real nodes searched."""

import zipfile
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import h5py
import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely

from cryofuse.config import ElevationSettings, HydrologySettings, load_region
from cryofuse.elevation.anomalies import fit_months
from cryofuse.elevation.surface import sort_segments
from cryofuse.geo import project, unproject
from cryofuse.hydrology import find_lakes, match_inventory, read_inventory
from cryofuse.hydrology.inventory import inside_region
from cryofuse.products.figures_maps import draw_lakes_map
from cryofuse.products.style import base_map
from cryofuse.tables import LAKE_EVENTS, LAKE_MONTHS, LAKES, SEARCHED_NODES

pytestmark = pytest.mark.real
CRS = "EPSG:3413"
#: Two tracks each way, which cross.
TRACKS = ("0277", "0399", "1169", "1161")
WORKBOOK = "geometry/subglacial_lake_inventory_livingstone_2022.xlsx"
MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


@pytest.fixture(scope="module")
def sheet(real_folder):
    """Rows of sheet Greenland with a tally, read by position: B name, C and D place, K kind."""
    with zipfile.ZipFile(real_folder / WORKBOOK) as archive:
        book = ElementTree.fromstring(archive.read("xl/workbook.xml"))
        names = [sheet.get("name") for sheet in book.iter(f"{MAIN}sheet")]
        texts = [
            "".join(part.itertext())
            for part in ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
        ]
        member = f"xl/worksheets/sheet{names.index('Greenland') + 1}.xml"
        rows = []
        for row in ElementTree.fromstring(archive.read(member)).iter(f"{MAIN}row"):
            cells = {}
            for cell in row:
                value = cell.findtext(f"{MAIN}v")
                if value is not None:
                    column = cell.get("r").rstrip("0123456789")
                    cells[column] = texts[int(value)] if cell.get("t") == "s" else value
            if cells.get("A", "").isdigit():
                rows.append([cells.get(c) for c in "BCDK"])
    return rows


def test_sheet_greenland_is_read_whole(sheet, real_folder):
    inventory = read_inventory(real_folder / WORKBOOK)
    places = {
        (round(lon, 6), round(lat, 6)): (name, kind)
        for name, lon, lat, kind in inventory.itertuples(index=False)
    }
    assert len(sheet) == 64
    for name, latitude, longitude, kind in sheet:
        found = places[round(float(longitude), 6), round(float(latitude), 6)]
        for told, expected in zip(found, (name, kind), strict=True):
            assert pd.isna(told) if expected is None else told == expected.strip()
    kinds = pd.Series([row[3] for row in sheet]).value_counts()
    assert set(kinds.index) == {"Stable", "Active"} and kinds["Active"] == 7


def test_lakes_of_greenland_lie_on_its_ice_and_are_drawn_there(sheet, real_folder):
    region = load_region("greenland", Path(__file__).parents[2] / "config/regions")
    inventory = read_inventory(real_folder / WORKBOOK)
    here = inside_region(inventory, region, 5000.0)
    assert 60 <= here.sum() <= 66
    outline = gpd.read_file(real_folder / "geometry" / "gris-outline-1980.gpkg").union_all()
    longitude, latitude = (np.array([float(row[i]) for row in sheet]) for i in (2, 1))
    inside = shapely.contains_xy(outline.simplify(0.01), longitude, latitude)
    # Flade Isblink is an ice cap of its own beside the sheet.
    assert inside.sum() >= 60
    assert not inside[[row[0] == "Flade Isblink ice cap" for row in sheet]].any()
    nothing = LAKES.empty().to_pandas()
    lakes = gpd.GeoDataFrame(nothing, geometry=gpd.GeoSeries([], crs="EPSG:4326"))
    searched = SEARCHED_NODES.empty().to_pandas()
    lakes, matches = match_inventory(lakes, inventory[here], searched, CRS, 5000.0)
    assert (matches["outcome"] == "not_searched").all()
    figure = draw_lakes_map(
        lakes, LAKE_MONTHS.empty().to_pandas(), LAKE_EVENTS.empty().to_pandas(), searched,
        matches, base_map(region),
    )  # fmt: skip
    (marks,) = figure.findobj(lambda artist: artist.get_gid() == "inventory_not_searched")
    # Snyder 1987, polar stereographic with standard parallel 70° N, here by PROJ's own string.
    place = pyproj.Proj("+proj=stere +lat_0=90 +lat_ts=70 +lon_0=-45 +ellps=WGS84")
    x, y = place(longitude, latitude)
    apart = np.hypot(
        marks.get_xdata()[:, None] * 1e3 - x, marks.get_ydata()[:, None] * 1e3 - y
    ).min(axis=1)
    assert apart.max() < 1.0
    assert len(marks.get_xdata()) == here.sum()


def test_real_segments_hold_nothing_absurd(real_folder):
    """Three months of one cycle: nodes are fitted, none is seen often enough to be judged.

    The same segments repeated each 91 days with their own noise hold no lake either.
    """
    parts = []
    for path in sorted((real_folder / "atl06").glob("processed_ATL06_2019*_002_01.h5")):
        if path.name[31:35] not in TRACKS:
            continue
        with h5py.File(path) as file:
            for beam in ("gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r"):
                if f"{beam}/land_ice_segments" not in file:
                    continue
                group = file[f"{beam}/land_ice_segments"]
                names = ("longitude", "latitude", "delta_time", "h_li", "h_li_sigma")
                values = pd.DataFrame({name: group[name][:].astype(float) for name in names})
                good = (group["atl06_quality_summary"][:] == 0) & (values["h_li_sigma"] < 1)
                parts.append(values[good].assign(rgt=int(path.name[31:35])))
    table = pd.concat(parts, ignore_index=True)
    x, y = project(table["longitude"].to_numpy(), table["latitude"].to_numpy(), CRS)
    stamp = np.datetime64("2018-01-01", "us")
    stamp = stamp + np.round(table["delta_time"].to_numpy() * 1e6).astype("m8[us]")
    rng = np.random.default_rng(4)
    sigma = np.hypot(table["h_li_sigma"].to_numpy(), 0.02)
    repeats = 8
    segments = sort_segments(
        np.tile(x, repeats), np.tile(y, repeats),
        np.concatenate([stamp + np.timedelta64(91 * k, "D") for k in range(repeats)]),
        np.concatenate(
            [table["h_li"] + (rng.normal(0, sigma) if k else 0.0) for k in range(repeats)]
        ),
        np.tile(sigma, repeats),
        np.concatenate([table["rgt"] * 1000 + 3 + k for k in range(repeats)]),
    )  # fmt: skip
    node = np.unique(np.floor(np.column_stack([x, y]) / 1000), axis=0) * 1000 + 500
    months = np.arange("2019-03", "2021-08", dtype="M8[M]").astype("M8[us]")
    fitted = fit_months(
        segments, node[:, 0], node[:, 1], np.full(len(node), 1000.0), ElevationSettings(), months
    )
    longitude, latitude = unproject(node[:, 0], node[:, 1], CRS)
    nodes = pd.DataFrame(
        {
            "node_id": np.arange(len(node)), "window": None, "spacing_m": 1000.0,
            "x_m": node[:, 0], "y_m": node[:, 1], "longitude": longitude, "latitude": latitude,
        }
    ).join(fitted.fits)  # fmt: skip
    mascons = gpd.GeoDataFrame(
        {"mascon_id": [1]}, geometry=[shapely.box(-60, 65, -40, 75)], crs="EPSG:4326"
    )
    months_of_nodes = fitted.months.to_pandas()
    found = find_lakes(nodes, months_of_nodes, mascons, HydrologySettings(), CRS)
    assert len(found.nodes) > 100
    assert found.nodes["departure_range_m"].median() < 0.2
    assert (found.lakes["status"] == "candidate").sum() == 0
    early = months_of_nodes[months_of_nodes["month"] < np.datetime64("2019-07")]
    short = find_lakes(nodes, early, mascons, HydrologySettings(), CRS)
    assert len(short.nodes) == len(short.lakes) == 0
