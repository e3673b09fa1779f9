import zipfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from cryofuse.config import RegionSettings
from cryofuse.geo import project, reproject, unproject
from cryofuse.hydrology.inventory import inside_region, match_inventory, read_inventory
from cryofuse.logs import UserError
from cryofuse.tables import INVENTORY_MATCHES, SEARCHED_NODES, check, from_pandas

CRS = "EPSG:3413"


def write_workbook(path: Path, sheet: str = "Greenland") -> Path:
    """Write a two-lake workbook in the layout of Livingstone et al. 2022."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    strings = ["Tally", "Name / Location", "Lat. oN", "Lon. oE", "Lake Type", "Flade", "Active"]
    rows = [
        [("A1", 0), ("B1", 1), ("C1", 2), ("D1", 3), ("E1", 4)],
        [("A2", "1"), ("B2", 5), ("C2", "81.16"), ("D2", "-16.58"), ("E2", 6)],
        [("A3", "2"), ("C3", "78"), ("D3", "-48")],
        [("A5", 5)],
    ]
    cells = "".join(
        "<row>"
        + "".join(
            f'<c r="{r}" t="s"><v>{v}</v></c>'
            if isinstance(v, int)
            else f'<c r="{r}"><v>{v}</v></c>'
            for r, v in row
        )
        + "</row>"
        for row in rows
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
            f'<sheet name="{sheet}" sheetId="2" r:id="rId1"/></sheets></workbook>',
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}">'
            '<Relationship Id="rId1" Target="worksheets/sheet1.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/worksheets/sheet1.xml",
            f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>',
        )
        archive.writestr(
            "xl/sharedStrings.xml",
            f'<sst xmlns="{main}">' + "".join(f"<si><t>{s}</t></si>" for s in strings) + "</sst>",
        )
    return path


def test_workbook_is_read_without_a_spreadsheet_library(tmp_path: Path) -> None:
    lakes = read_inventory(write_workbook(tmp_path / "lakes.xlsx"))
    assert lakes[["longitude", "latitude"]].to_numpy().tolist() == [[-16.58, 81.16], [-48, 78]]
    assert lakes["name"].iloc[0] == "Flade"
    assert lakes["kind"].iloc[0] == "Active"
    assert lakes[["name", "kind"]].iloc[1].isna().all()


def test_csv_and_vector_files_agree(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"name": ["a", "b"], "longitude": [-48.0, -40.5], "latitude": [67.0, 75.0]}
    )
    table.to_csv(tmp_path / "lakes.csv", index=False)
    points = gpd.GeoDataFrame(
        {"Name": table["name"]},
        geometry=gpd.points_from_xy(table["longitude"], table["latitude"]),
        crs="EPSG:4326",
    )
    points.to_crs(CRS).to_file(tmp_path / "lakes.gpkg")
    first, second = (read_inventory(tmp_path / f"lakes.{kind}") for kind in ("csv", "gpkg"))
    assert first["name"].tolist() == second["name"].tolist() == ["a", "b"]
    np.testing.assert_allclose(
        first[["longitude", "latitude"]], second[["longitude", "latitude"]], atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "no file"),
        ("lakes.csv", "name,lon\na,1\n", "no column longitude or latitude"),
        ("lakes.csv", "longitude,latitude\n1,2\nx,3\n", "row 2"),
        ("lakes.xlsx", "not a workbook", "not an xlsx workbook"),
        ("lakes.gpkg", "not a vector file", "no vector file"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_inventory(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_workbook_without_lake_sheets_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="save it as CSV"):
        read_inventory(write_workbook(tmp_path / "lakes.xlsx", sheet="Other"))


X0, Y0 = (float(v) for v in project(-47.5, 66.5, CRS))


def make_lakes() -> gpd.GeoDataFrame:
    """Two candidates and a look-alike, discs of 1 km, 9 km apart."""
    centres = X0 + np.zeros(3), Y0 + np.array([0.0, 9000.0, 18_000.0])
    outlines = [shapely.Point(x, y).buffer(1000.0) for x, y in zip(*centres, strict=True)]
    longitude, latitude = unproject(*centres, CRS)
    return gpd.GeoDataFrame(
        {
            "lake_id": [1, 2, 3],
            "status": ["candidate", "candidate", "lookalike"],
            "x_m": centres[0],
            "y_m": centres[1],
            "latitude": latitude,
            "longitude": longitude,
            "inventory_name": pd.Series([None] * 3, dtype="str"),
            "inventory_distance_m": [np.nan] * 3,
        },
        geometry=[reproject(g, CRS, "EPSG:4326") for g in outlines],
        crs="EPSG:4326",
    )


def make_inventory(*places: tuple[str | None, float, float, str | None]) -> pd.DataFrame:
    """An inventory of lakes at offsets (m) from the first candidate."""
    x, y = X0 + np.array([p[1] for p in places]), Y0 + np.array([p[2] for p in places])
    longitude, latitude = unproject(x, y, CRS)
    return pd.DataFrame(
        {
            "name": pd.Series([p[0] for p in places], dtype="str"),
            "longitude": longitude,
            "latitude": latitude,
            "kind": pd.Series([p[3] for p in places], dtype="str"),
        }
    )


def make_searched() -> pd.DataFrame:
    """Nodes of 1 km from 10 km south to 20 km north of the first candidate."""
    x, y = np.meshgrid(np.arange(-10, 11) * 1e3, np.arange(-10, 21) * 1e3)
    return pd.DataFrame({"x_m": X0 + x.ravel(), "y_m": Y0 + y.ravel(), "spacing_m": 1000.0})


def test_hits_misses_new_and_not_searched() -> None:
    inventory = make_inventory(
        ("far", 3000, 0, "Active"),
        (None, 2000, 0, "Active"),
        ("missed", -9000, 0, "Stable"),
        ("by a look-alike", 0, 18_500, "Active"),
        ("elsewhere", 900_000, 0, None),
    )
    # Rows keep the numbers they have in their file.
    inventory.index += 10
    lakes, table = match_inventory(make_lakes(), inventory, make_searched(), CRS, 5000.0)
    check(from_pandas(table), INVENTORY_MATCHES)
    assert table["outcome"].tolist() == ["miss", "hit", "miss", "miss", "not_searched", "new"]
    assert table["inventory_row"].iloc[:5].tolist() == [11, 12, 13, 14, 15]
    assert table["candidate_id"].iloc[[1, 5]].tolist() == [1, 2]
    assert table["candidate_id"].iloc[[0, 2, 3, 4]].isna().all()
    assert table["reason"].iloc[4] == "no searched node near"
    # Distances run to the outline, 1 km from the centre; of the new one, back to the inventory.
    np.testing.assert_allclose(
        table["distance_km"], [2.0, 1.0, 8.0, 8.5, 899.0, np.hypot(2, 9) - 1], atol=0.02
    )
    np.testing.assert_allclose(table["x_m"].iloc[[0, 5]], [X0 + 3000, X0], atol=0.1)
    assert lakes["inventory_distance_m"].iloc[0] == pytest.approx(1000.0, abs=10)
    assert lakes["inventory_name"].iloc[0] == "inventory row 12"
    assert lakes["inventory_name"].iloc[1:].isna().all()


def test_a_lake_whose_nearest_candidate_is_taken_gets_the_next() -> None:
    inventory = make_inventory(("a", 0, 500, None), ("b", 0, 4400, None))
    _, table = match_inventory(make_lakes(), inventory, make_searched(), CRS, 5000.0)
    assert table["outcome"].tolist() == ["hit", "hit"]
    assert table["candidate_id"].tolist() == [1, 2]


def test_a_lake_at_rest_does_not_take_the_hit_of_an_active_one() -> None:
    """The candidate's outline ends 1 km from its centre: 0.5 km from one, 1.5 km from the other."""
    for kind in ("Active", None):
        inventory = make_inventory(("rests", 1500, 0, "Stable"), ("moves", -2500, 0, kind))
        _, table = match_inventory(make_lakes(), inventory, make_searched(), CRS, 5000.0)
        assert table["outcome"].tolist() == ["miss", "hit", "new"]
        assert table["candidate_id"].iloc[1] == 1
    # Alone it has it.
    _, table = match_inventory(make_lakes(), inventory.iloc[:1], make_searched(), CRS, 5000.0)
    assert table["outcome"].tolist() == ["hit", "new"]


def test_rows_of_a_workbook_count_in_their_sheet(tmp_path: Path) -> None:
    """Two sheets of two lakes and, between these and the end, a row that is no lake."""
    path = write_workbook(tmp_path / "lakes.xlsx")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name).decode() for name in archive.namelist()}
    book = members["xl/workbook.xml"]
    other = '<sheet name="Antarctica" sheetId="1" r:id="rId1"/>'
    members["xl/workbook.xml"] = book.replace("<sheets>", f"<sheets>{other}")
    sheet = members["xl/worksheets/sheet1.xml"]
    empty = '<row><c r="B2" t="s"><v>5</v></c></row>'
    members["xl/worksheets/sheet1.xml"] = sheet.replace("</row>", f"</row>{empty}", 1)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    lakes = read_inventory(path)
    assert lakes.index.tolist() == [1, 2, 1, 2]
    _, table = match_inventory(make_lakes(), lakes.iloc[2:], make_searched(), CRS, 5000.0)
    assert table["inventory_row"].dropna().tolist() == [2, 3]


def test_without_candidates_or_nodes_or_inventory() -> None:
    lakes, inventory = make_lakes(), make_inventory(("a", 0, 0, "Active"))
    _, table = match_inventory(lakes.iloc[:0], inventory, make_searched(), CRS, 5000.0)
    assert table["outcome"].tolist() == ["miss"] and table["distance_km"].isna().all()
    nothing = SEARCHED_NODES.empty().to_pandas()
    _, table = match_inventory(lakes.iloc[:0], inventory, nothing, CRS, 5000.0)
    assert table["outcome"].tolist() == ["not_searched"]
    _, table = match_inventory(lakes, inventory.iloc[:0], make_searched(), CRS, 5000.0)
    assert table["outcome"].tolist() == ["new", "new"] and table["distance_km"].isna().all()
    same, table = match_inventory(lakes, None, make_searched(), CRS, 5000.0)
    check(from_pandas(table), INVENTORY_MATCHES)
    assert table["outcome"].tolist() == ["not_compared"] * 2
    assert set(table["reason"]) == {"the region names no inventory"}
    assert same["inventory_name"].isna().all()
    _, table = match_inventory(lakes.iloc[:0], None, nothing, CRS, 5000.0)
    check(from_pandas(table), INVENTORY_MATCHES)
    assert len(table) == 0


def test_lakes_of_other_ice_sheets_are_left_out() -> None:
    region = RegionSettings(
        title="box", crs=CRS, outline={"west": -50, "south": 66, "east": -45, "north": 68}
    )
    table = pd.DataFrame({"longitude": [-47.0, 120.0, -44.95], "latitude": [67.0, -75.0, 67.0]})
    assert inside_region(table, region, 5000.0).tolist() == [True, False, True]
