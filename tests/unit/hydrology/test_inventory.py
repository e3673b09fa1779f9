import zipfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from cryofuse.geo import project, reproject
from cryofuse.hydrology.inventory import match_inventory, read_inventory
from cryofuse.logs import UserError

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


def test_hits_misses_and_new() -> None:
    x0, y0 = (float(v) for v in project(-47.5, 66.5, CRS))
    centres = np.array([[0.0, 0.0], [0.0, 9000.0]])
    outlines = [shapely.Point(x0 + x, y0 + y).buffer(1000.0) for x, y in centres]
    lakes = gpd.GeoDataFrame(
        {"lake_id": [1, 2], "inventory_name": [None, None], "inventory_distance_m": [np.nan] * 2},
        geometry=[reproject(g, CRS, "EPSG:4326") for g in outlines],
        crs="EPSG:4326",
    )
    # Near the first lake, nearer still, far inside the search, outside it.
    places = shapely.points([x0 + 3000, x0 + 2000, x0 - 9000, x0 + 900_000], [y0] * 4)
    points = [reproject(p, CRS, "EPSG:4326") for p in places]
    inventory = pd.DataFrame(
        {
            "name": ["far", None, "missed", "elsewhere"],
            "longitude": [p.x for p in points],
            "latitude": [p.y for p in points],
            "kind": None,
        }
    )
    searched = shapely.box(x0 - 10_000, y0 - 10_000, x0 + 10_000, y0 + 10_000)
    matched, table = match_inventory(lakes, inventory, searched, CRS, 5000.0)
    assert table["status"].tolist() == ["miss", "hit", "miss", "not_searched"]
    assert table["lake_id"].iloc[1] == 1
    # The distance runs to the outline, 1 km from the centre.
    assert matched["inventory_distance_m"].iloc[0] == pytest.approx(1000.0, abs=10)
    assert matched["inventory_name"].iloc[0] == "inventory row 2"
    assert pd.isna(matched["inventory_name"].iloc[1])
    assert np.isnan(matched["inventory_distance_m"].iloc[1])
