"""Basins in place of mascons: closed formulas over squares, and every wrong file in one line."""

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from cryofuse.config import BasinSource, SelectSettings
from cryofuse.geo import project, reproject
from cryofuse.logs import UserError
from cryofuse.mascons.basins import join_basins, mascon_rule, read_basins, to_degrees
from cryofuse.mascons.footprints import locate
from cryofuse.tables import MASCONS, MASS, check, from_pandas

#: Equal area on the sphere about the pole: squares in it have the areas that they seem to have.
CRS = "EPSG:6931"
MONTHS = pd.date_range("2020-01-01", periods=4, freq="MS").astype("datetime64[us]")
#: Four mascons of 100 km × 100 km in a row, far from pole and antimeridian.
LEFT, LOW, SIDE = -400_000.0, -2_000_000.0, 100_000.0
MASS_GT = np.array([[1.0, 2.0, 4.0, 8.0], [3.0, 1.0, 0.0, 5.0], [7.0, 7.0, 7.0, 7.0], [0, 1, 2, 4]])
SIGMA_GT = np.array([0.1, 0.2, 0.4, 0.8])


def square(west, south, east, north):
    """A box in units of a mascon's side, counted from the first one's corner."""
    corners = np.array([west, south, east, north]) * SIDE
    return shapely.box(*(corners + [LEFT, LOW, LEFT, LOW]))


def make_mascons(selected=(True,) * 4):
    cells = [square(k, 0, k + 1, 1) for k in range(4)]
    degrees = [reproject(shapely.segmentize(cell, 5e3), CRS, "EPSG:4326") for cell in cells]
    return geopandas.GeoDataFrame(
        {"mascon_id": np.array([11, 12, 13, 14], np.int32), "selected": list(selected)},
        geometry=degrees,
        crs="EPSG:4326",
    )


def make_mass(values=MASS_GT):
    values = np.asarray(values, float)
    change = np.vstack([np.full(4, np.nan), np.diff(values, axis=0)])
    shape = values.shape
    table = pd.DataFrame(
        {
            "mascon_id": np.broadcast_to([11, 12, 13, 14], shape).ravel().astype(np.int32),
            "month": np.repeat(MONTHS, 4),
            "lwe_cm": values.ravel(),
            "lwe_sigma_cm": np.where(np.isnan(values), np.nan, SIGMA_GT).ravel(),
            "mass_gt": values.ravel(),
            "mass_sigma_gt": np.where(np.isnan(values), np.nan, SIGMA_GT).ravel(),
            "mass_change_gt": change.ravel(),
            "mass_change_sigma_gt": np.where(np.isnan(change), np.nan, 1.5 * SIGMA_GT).ravel(),
        }
    )
    for name, day in (("solution_start", 2), ("solution_end", 29)):
        instants = table["month"] + pd.to_timedelta(day - 1, "D")
        table[name] = instants.where(table["mass_gt"].notna()).astype("datetime64[us]")
    return table[list(MASS.columns)].sort_values(["mascon_id", "month"], ignore_index=True)


def make_basins(*shapes):
    return geopandas.GeoDataFrame(
        {
            "mascon_id": np.arange(1, len(shapes) + 1, dtype=np.int32),
            "name": [f"basin {k}" for k in range(1, len(shapes) + 1)],
        },
        geometry=list(shapes),
        crs=CRS,
    )


def join(basins, ice, mascons=None, mass=None, select=None):
    joined, table, told = join_basins(
        make_mascons() if mascons is None else mascons,
        make_mass() if mass is None else mass,
        basins,
        ice,
        CRS,
        select or SelectSettings(),
    )
    plain = pd.DataFrame(joined[list(MASCONS.columns)])
    check(from_pandas(plain), MASCONS)
    check(from_pandas(table), MASS)
    wide = {
        name: table.pivot(index="month", columns="mascon_id", values=name)  # noqa: PD010
        for name in table.columns[2:]
    }
    return joined, wide, told


def test_mass_follows_the_share_of_each_mascons_ice():
    # Ice covers the lower half of mascons 11 to 13 and all of 14; basin 1 ends in the middle
    # of 12, basin 2 at three quarters of 14.
    ice = shapely.union_all([square(0, 0, 3, 0.5), square(3, 0, 4, 1)])
    basins = make_basins(square(-1, -1, 1.5, 2), square(1.5, -1, 3.75, 2))
    joined, wide, told = join(basins, ice)
    share = np.array([[1, 0.5, 0, 0], [0, 0.5, 1, 0.75]])
    assert wide["mass_gt"].to_numpy() == pytest.approx(MASS_GT @ share.T, abs=1e-5)
    sigma = np.sqrt((share * SIGMA_GT) ** 2 @ np.ones(4))
    assert wide["mass_sigma_gt"].to_numpy() == pytest.approx(np.tile(sigma, (4, 1)), rel=1e-5)
    change = np.diff(MASS_GT, axis=0) @ share.T
    assert wide["mass_change_gt"].to_numpy()[1:] == pytest.approx(change, abs=1e-5)
    assert wide["mass_change_gt"].iloc[0].isna().all()
    assert wide["mass_change_sigma_gt"].to_numpy()[1:] == pytest.approx(
        np.tile(1.5 * sigma, (3, 1)), rel=1e-5
    )
    ice_km2 = np.array([0.75, 1.5]) * SIDE**2 / 1e6
    ice_km2[1] = (0.25 + 0.5 + 0.75) * SIDE**2 / 1e6
    assert joined["ice_area_km2"].to_numpy() == pytest.approx(ice_km2, rel=1e-5)
    lwe = MASS_GT @ share.T / ice_km2 / 1e-5
    assert wide["lwe_cm"].to_numpy() == pytest.approx(lwe, rel=1e-5)
    assert joined["selected"].all() and joined["mascon_id"].tolist() == [1, 2]
    assert told["basins"] == {1: "basin 1", 2: "basin 2"}
    outside = 0.25 * SIDE**2 / 1e6
    assert told["ice_outside_basins_km2"] == pytest.approx(outside, rel=1e-4)
    assert told["ice_outside_basins_share"] == pytest.approx(0.25 / 2.5, rel=1e-4)
    assert wide["solution_start"].iloc[0, 0] == MONTHS[0] + pd.Timedelta(days=1)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.05, 3.95), min_size=1, max_size=5, unique=True),
    st.lists(st.floats(0.1, 1.0), min_size=4, max_size=4),
)
def test_basins_that_cover_the_ice_sum_to_the_sum_of_the_mascons(cuts, heights):
    ice = shapely.union_all([square(k, 0, k + 1, h) for k, h in enumerate(heights)])
    edges = [-1.0, *sorted(cuts), 5.0]
    wide_enough = [e for e in edges[:1]] + [
        b for a, b in zip(edges[:-1], edges[1:], strict=True) if b - a > 0.02
    ]
    wide_enough[-1] = 5.0
    basins = make_basins(
        *(square(a, -1, b, 2) for a, b in zip(wide_enough[:-1], wide_enough[1:], strict=True))
    )
    _, wide, told = join(basins, ice)
    assert wide["mass_gt"].sum(axis=1).to_numpy() == pytest.approx(MASS_GT.sum(axis=1), rel=1e-9)
    assert wide["mass_change_gt"].iloc[1:].sum(axis=1).to_numpy() == pytest.approx(
        np.diff(MASS_GT.sum(axis=1)), rel=1e-9, abs=1e-9
    )
    assert told["ice_outside_basins_share"] == pytest.approx(0, abs=1e-6)


def test_a_null_mascon_makes_null_months_unless_it_is_a_sliver():
    values = MASS_GT.copy()
    values[1, 1] = np.nan
    ice = square(0, 0, 4, 1)
    # 12 gives basin 1 half a percent of its ice, and basin 2 nearly a third of its own.
    basins = make_basins(square(-1, -1, 1.005, 2), square(1.005, -1, 5, 2))
    _, wide, _ = join(basins, ice, mass=make_mass(values))
    assert wide["mass_gt"][2].isna().tolist() == [False, True, False, False]
    assert wide["mass_change_gt"][2].isna().tolist() == [True, True, True, False]
    assert wide["lwe_cm"][2].isna().tolist() == wide["solution_end"][2].isna().tolist()
    assert wide["mass_gt"][1].tolist() == pytest.approx(
        [1 + 0.005 * 2, 3.0, 7 + 0.005 * 7, 0.005], abs=1e-4
    )
    assert wide["mass_sigma_gt"][1].notna().all()


def test_mascons_that_the_rule_leaves_out_give_no_mass_and_their_ice_is_told(caplog):
    ice = square(0, 0, 4, 1)
    mascons = make_mascons((True, True, True, False))
    _, wide, told = join(make_basins(square(-1, -1, 5, 2)), ice, mascons=mascons)
    assert wide["mass_gt"][1].to_numpy() == pytest.approx(MASS_GT[:, :3].sum(axis=1), rel=1e-9)
    assert told["ice_outside_mascons_km2"] == pytest.approx(SIDE**2 / 1e6, rel=1e-4)
    assert "25 %" in caplog.text


def test_ids_name_basins_and_basins_without_ice_are_left_out(caplog):
    ice = square(0, 0, 4, 1)
    basins = make_basins(square(8, 0, 9, 1), square(0, 0, 2, 1), square(2, 0, 4, 1))
    joined, wide, _ = join(basins, ice, select=SelectSettings(rule="ids", ids=[3]))
    assert joined["mascon_id"].tolist() == [2, 3] == wide["mass_gt"].columns.tolist()
    assert joined["selected"].tolist() == [False, True]
    assert "basin 1 holds no ice" in caplog.text
    with pytest.raises(UserError, match=r"\[1\] are no basins with ice"):
        join(basins, ice, select=SelectSettings(rule="ids", ids=[1, 3]))
    with pytest.raises(UserError, match="no basin holds ice"):
        join(basins.iloc[:1], ice)
    own = SelectSettings(rule="product_set")
    assert mascon_rule(own) is own
    assert mascon_rule(SelectSettings(rule="ids", ids=[3])) == SelectSettings()


def write(tmp_path, frame, name="basins.gpkg"):
    path = str(tmp_path / name)
    frame.to_file(path)
    return path


def test_a_file_gives_basins_in_its_order_one_for_each_name(tmp_path):
    frame = geopandas.GeoDataFrame(
        {"zone": ["west", "east", "west"]},
        geometry=[square(0, 0, 1, 1), square(2, 0, 3, 1), square(1, 0, 2, 1)],
        crs=CRS,
    )
    path = write(tmp_path, frame.to_crs("EPSG:3413"))
    named = read_basins(BasinSource(file=path, name="zone"), CRS)
    assert named["name"].tolist() == ["west", "east"] and named["mascon_id"].tolist() == [1, 2]
    assert named.area.to_numpy() / SIDE**2 == pytest.approx([2, 1], rel=1e-3)
    assert read_basins(path, CRS)["name"].tolist() == ["1", "2", "3"]


def test_a_small_overlap_goes_to_the_earlier_basin(tmp_path):
    shapes = [square(0, 0, 1.0005, 1), square(1, 0, 2, 1)]
    path = write(tmp_path, geopandas.GeoDataFrame(geometry=shapes, crs=CRS))
    basins = read_basins(path, CRS)
    assert basins.area.to_numpy() / SIDE**2 == pytest.approx([1.0005, 0.9995], rel=1e-9)


@pytest.mark.parametrize(
    ("shapes", "crs", "source", "message"),
    [
        ([square(0, 0, 1, 1)], None, {}, "has no CRS"),
        ([square(0, 0, 1, 1), shapely.Polygon()], CRS, {}, "holds no polygon for 2"),
        ([square(0, 0, 1, 1), square(0.9, 0, 2, 1)], CRS, {}, "basins 1 and 2 overlap in 1000 km"),
        ([square(0, 0, 1, 1)], CRS, {"name": "zone"}, "no field 'zone' .fields: kind"),
        ([square(0, 0, 1, 1)], CRS, {"layer": "other"}, "cannot be read"),
        (None, CRS, {}, "no such file"),
    ],
)
@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_a_wrong_file_is_told_in_one_line(tmp_path, shapes, crs, source, message):
    path = str(tmp_path / "basins.gpkg")
    if shapes is not None:
        kinds = ["a"] * len(shapes)
        write(tmp_path, geopandas.GeoDataFrame({"kind": kinds}, geometry=shapes, crs=crs))
    with pytest.raises(UserError, match=message) as caught:
        read_basins(BasinSource(file=path, **source), CRS)
    assert "\n" not in str(caught.value) and "basins.gpkg" in str(caught.value)


def test_no_vector_file_at_all(tmp_path):
    path = tmp_path / "basins.gpkg"
    path.write_text("<html>")
    with pytest.raises(UserError, match="cannot be read as a vector file"):
        read_basins(str(path), CRS)


@pytest.mark.parametrize("crs", ["EPSG:3031", "EPSG:3413"])
def test_a_basin_over_the_pole_holds_the_points_that_it_held_before(crs):
    south = crs == "EPSG:3031"
    # Three sectors about the pole, one of which lies across the antimeridian.
    rng = np.random.default_rng(4)
    longitude = rng.uniform(-180, 180, 3000)
    latitude = rng.uniform(70, 90, 3000) * (-1 if south else 1)
    square_ = shapely.box(-1.5e6, -1.5e6, 1.5e6, 1.5e6)
    cutter = shapely.box(-2e6, -2e6, 3e5, 2e6)
    shapes = [square_.intersection(cutter), square_.difference(cutter)]
    degrees = geopandas.GeoDataFrame(
        {"mascon_id": [1, 2]}, geometry=[to_degrees(s, crs) for s in shapes], crs="EPSG:4326"
    )
    bounds = degrees.total_bounds
    assert bounds[0] >= -180 and bounds[2] <= 180 and degrees.geometry.is_valid.all()
    found = locate(degrees, longitude, latitude)
    x_m, y_m = project(longitude, latitude, crs)
    expected = np.where((np.abs(x_m) < 1.5e6) & (np.abs(y_m) < 1.5e6), np.where(x_m < 3e5, 1, 2), 0)
    # Edges are followed in steps of 10 km, straight in degrees between.
    far = (np.abs(np.abs(x_m) - 1.5e6) > 500) & (np.abs(np.abs(y_m) - 1.5e6) > 500)
    far &= np.abs(x_m - 3e5) > 500
    assert far.mean() > 0.99 and np.array_equal(found[far], expected[far])
    assert set(expected[far]) == {0, 1, 2}


def test_a_plain_basin_keeps_its_outline():
    shape = square(0, 0, 1, 1)
    again = reproject(to_degrees(shape, CRS), "EPSG:4326", CRS)
    assert again.symmetric_difference(shape).area < 1e-6 * shape.area
