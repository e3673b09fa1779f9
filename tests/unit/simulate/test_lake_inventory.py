"""The inventory of the synthetic world knows some planted lakes, and others that are none."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from cryofuse.geo import project, reproject, window_bounds
from cryofuse.hydrology.inventory import match_inventory, read_inventory
from cryofuse.simulate.lake_inventory import survey_lakes, write_inventory


@pytest.fixture(scope="module")
def inventory(small, tmp_path_factory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("inventory") / "inventory.csv"
    write_inventory(small, path)
    return read_inventory(path)


def test_lakes_stand_where_the_truth_says(small, inventory) -> None:
    x, y = project(inventory["longitude"].to_numpy(), inventory["latitude"].to_numpy(), small.crs)
    apart = np.array([np.hypot(x - lake.x_m, y - lake.y_m) for lake in small.lake_list])
    assert len(small.lake_list) == 2
    assert inventory["name"].tolist() == ["planted 1", "at rest", "far away"]
    assert inventory["kind"].tolist() == ["Active", "Stable", "Active"]
    assert 1000 <= apart[0, 0] <= 2000
    # Beyond a match of 5 km from the rim of any lake.
    radius = max(lake.radius_m for lake in small.lake_list)
    assert apart[:, 1].min() > 5000 + radius
    x_min, y_min, x_max, y_max = window_bounds(small.elevation.windows[0], small.crs)
    assert x_min < x[1] < x_max and y_min < y[1] < y_max
    outside = shapely.distance(shapely.box(x_min, y_min, x_max, y_max), shapely.Point(x[2], y[2]))
    assert outside > 10_000
    assert small.outline_contains(x, y).all()


def test_planted_lakes_found_are_hit_and_new(small, inventory) -> None:
    lakes = small.lakes
    outlines = [shapely.Point(lake.x_m, lake.y_m).buffer(lake.radius_m) for lake in small.lake_list]
    found = gpd.GeoDataFrame(
        lakes[["lake_id", "x_m", "y_m", "latitude", "longitude"]].assign(
            status="candidate",
            inventory_name=pd.Series([None] * len(lakes), dtype="str"),
            inventory_distance_m=np.nan,
        ),
        geometry=[reproject(outline, small.crs, "EPSG:4326") for outline in outlines],
        crs="EPSG:4326",
    )
    bounds = window_bounds(small.elevation.windows[0], small.crs)
    x, y = np.meshgrid(np.arange(bounds[0], bounds[2], 1e3), np.arange(bounds[1], bounds[3], 1e3))
    nodes = pd.DataFrame({"x_m": x.ravel(), "y_m": y.ravel(), "spacing_m": 1000.0})
    _, table = match_inventory(found, inventory, nodes, small.crs, 5000.0)
    assert table["outcome"].tolist() == ["hit", "miss", "not_searched", "new"]
    assert table["candidate_id"].dropna().tolist() == [1, 2]


def test_a_world_without_windows_has_lakes_that_nobody_searches(greenland) -> None:
    assert survey_lakes(greenland)["name"].tolist() == ["far away"]
