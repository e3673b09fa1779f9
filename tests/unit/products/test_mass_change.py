"""The product's files say what its table says, and pass the checkers of their formats."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas
import netCDF4
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
import xarray

from cryofuse.learning.months import NO_ALTIMETRY, NO_CAUSAL_FIT
from cryofuse.products.mass_change import (
    STATUS,
    build_dataset,
    describe_mascons,
    describe_product,
    write_geopackage,
    write_netcdf,
)
from cryofuse.tables import PRODUCT_MONTHS, check, from_pandas
from tests.compliance import check_geometry, list_failures, list_faults
from tests.conftest import ROOT

CRS = "EPSG:3413"
MONTHS = pd.date_range("2019-11-01", "2022-02-01", freq="MS").as_unit("us")
MASSES = ("predicted_change", "predicted_mass", "observed_change", "observed_mass")


@pytest.fixture(scope="module")
def mascons() -> geopandas.GeoDataFrame:
    """A square, a square with a hole and two squares, in no order of their numbers."""
    box = shapely.box
    holed = shapely.Polygon(
        box(-40, 70, -36, 74).exterior, [box(-39, 71, -38, 72).exterior.coords[::-1]]
    )
    both = shapely.MultiPolygon([box(-30, 65, -28, 67), box(-27, 65, -26, 67)])
    return geopandas.GeoDataFrame(
        {
            "mascon_id": np.array([30, 10, 20, 40], np.int32),
            "land_area_km2": [3e4, 1e4, 2e4, 5e4],
            "ice_area_km2": [2.5e4, 0.5e4, 2e4, 0.0],
            "latitude": [66.0, 61.0, 72.0, 0.0],
            "longitude": [-28.0, -49.0, -38.0, 0.0],
        },
        # Clockwise, as files may have it.
        geometry=[both, shapely.box(-50, 60, -48, 62, ccw=False), holed, box(0, 0, 1, 1)],
        crs="EPSG:4326",
    )


@pytest.fixture(scope="module")
def months() -> pd.DataFrame:
    """Three mascons with gaps of gravimetry, of altimetry and of intervals."""
    rng = np.random.default_rng(5)
    index = pd.MultiIndex.from_product([[10, 20, 30], MONTHS], names=["mascon_id", "month"])
    table = index.to_frame(index=False).astype({"mascon_id": "int32"})
    for name in PRODUCT_MONTHS.columns:
        if name.endswith(("_gt", "_m")):
            table[name] = rng.normal(size=len(table))
        if "sigma" in name:
            table[name] = np.abs(table[name])
    t = np.tile(np.arange(len(MONTHS)), 3) / 12
    table["predicted_mass_gt"] = -3.0 * t * table["mascon_id"]
    table["has_gravimetry"], table["reason"] = True, None
    observed = [name for name in table if name.startswith("observed_")]
    predicted = [name for name in table if name.startswith("predicted_")]
    gap = (table["month"] == "2020-08-01") & (table["mascon_id"] == 10)
    table.loc[gap, observed] = np.nan
    table.loc[gap, "has_gravimetry"] = False
    after = (table["month"] == "2020-09-01") & (table["mascon_id"] == 10)
    table.loc[after, ["observed_change_gt", "observed_change_sigma_gt"]] = np.nan
    blind = (table["month"] == "2020-03-01") & (table["mascon_id"] == 20)
    table.loc[blind, [*predicted, "dh_m", "dh_sigma_m"]] = np.nan
    table.loc[blind, "reason"] = NO_ALTIMETRY
    bare = (table["month"] == "2020-04-01") & (table["mascon_id"] == 20)
    table.loc[bare, [n for n in predicted if "lower" in n or "upper" in n]] = np.nan
    table.loc[bare, "reason"] = "no interval: 3 inner residuals"
    unfit = (table["month"] == "2020-05-01") & (table["mascon_id"] == 30)
    table.loc[unfit, predicted] = np.nan
    table.loc[unfit, "reason"] = "no fold"
    early = (table["month"] == MONTHS[0]) & (table["mascon_id"] == 10)
    table.loc[early, predicted] = np.nan
    table.loc[early, "reason"] = NO_CAUSAL_FIT
    check(from_pandas(table[list(PRODUCT_MONTHS.columns)]), PRODUCT_MONTHS)
    return table.sample(frac=1, random_state=2)


@pytest.fixture(scope="module")
def attributes() -> dict:
    return describe_product(
        "Testland",
        {
            "version": "0.1.0",
            "code": "abc",
            "config": "def",
            "seed": 7,
            "coverage": 0.9,
            "source": "local",
            "citations": ["Altimetry 2020.", "Gravimetry 2021."],
            "models": {
                "change": {"model": "ridge", "rmse_cm": 4.0, "split": "leave_mascon_out"},
                "cumulative": {"reason": "no score"},
            },
        },
        {"product": "jpl", "release": "RL06.3M", "sigma": "1σ of a mascon"},
        "atl06",
        ["006", "005", "006"],
    )


@pytest.fixture(scope="module")
def path(
    months: pd.DataFrame,
    mascons: geopandas.GeoDataFrame,
    attributes: dict,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("product") / "mass_change.nc"
    write_netcdf(build_dataset(months, mascons, attributes), path)
    return path


def test_it_keeps_the_conventions(path: Path) -> None:
    found = list_failures(path, "cf:1.11", "acdd:1.3")
    assert list_faults(found) == []
    # Of what discovery asks for most, only names that the vocabulary does not have.
    needed = [text for weight, text in found["acdd:1.3"] if weight == 3]
    assert [text for text in needed if "standard_name" not in text] == []
    with netCDF4.Dataset(path) as file:
        check_geometry(file)


def test_values_are_those_of_the_table(
    path: Path, months: pd.DataFrame, mascons: geopandas.GeoDataFrame
) -> None:
    ordered = months.sort_values(["mascon_id", "month"])
    columns = {
        name: f"{name.removesuffix(old)}{new}_gt"
        for stem in MASSES
        for end, new in (("", ""), ("_lower", "_lower"), ("_upper", "_upper"))
        for name, old in ((stem + end, end),)
        if not (end and stem.startswith("observed"))
    }
    columns |= {f"{s}_uncertainty": f"{s}_sigma_gt" for s in MASSES if s.startswith("observed")}
    columns |= {"elevation_change": "dh_m", "elevation_change_uncertainty": "dh_sigma_m"}
    with netCDF4.Dataset(path) as file:
        assert file.data_model == "NETCDF4"
        assert list(file["mascon_id"][:]) == [10, 20, 30]
        for name, column in columns.items():
            expected = ordered[column].to_numpy().reshape(3, -1)
            np.testing.assert_array_equal(file[name][:].filled(np.nan), expected, err_msg=name)
            assert file[name].units == ("m" if "elevation" in name else "Gt")
            assert file[name].filters()["zlib"]
        np.testing.assert_array_equal(file["land_area"][:], [1e4, 2e4, 3e4])
        np.testing.assert_array_equal(file["ice_area"][:], [0.5e4, 2e4, 2.5e4])
        np.testing.assert_array_equal(file["lat"][:], [61.0, 72.0, 66.0])
        # One gigatonne on 1e4 km² of land is 0.1 m of water: 100 kg/m².
        water = file["predicted_mass_water_equivalent"][:].filled(np.nan)
        mass = file["predicted_mass"][:].filled(np.nan)
        np.testing.assert_allclose(water[0], 100 * mass[0])
        np.testing.assert_allclose(water[2], 100 / 3 * mass[2])
        for stem in MASSES:
            ancillary = file[stem].ancillary_variables.split()
            assert len(ancillary) == (3 if stem.startswith("predicted") else 2)
            assert all(name in file.variables for name in ancillary)


def test_units_are_those_of_udunits() -> None:
    from cf_units import Unit

    assert Unit("Gt").convert(1.0, "kg") == 1e12
    # A millimetre of water of 1000 kg/m³ is a kilogram on a square metre.
    assert Unit("kg m-2") == Unit("mm") * Unit("1000 kg m-3")


def test_xarray_opens_it_with_months_and_gaps(path: Path) -> None:
    with xarray.open_dataset(path, engine="netcdf4") as data:
        starts = data["time_bounds"].to_numpy()
        np.testing.assert_array_equal(starts[:, 0].astype("datetime64[D]"), MONTHS.to_numpy())
        np.testing.assert_array_equal(starts[:-1, 1], starts[1:, 0])
        assert starts[3, 1] - starts[3, 0] == np.timedelta64(29, "D")  # February 2020
        middle = data["time"].to_numpy()
        assert (middle == starts[:, 0] + (starts[:, 1] - starts[:, 0]) / 2).all()
        row = data.set_coords("mascon_id").swap_dims(mascon="mascon_id")["observed_mass"]
        assert np.isnan(row.sel(mascon_id=10, time="2020-08").item())
        assert np.isfinite(row.sel(mascon_id=20, time="2020-08").item())


def test_status_says_why_values_are_missing(path: Path) -> None:
    with netCDF4.Dataset(path) as file:
        status = file["status"]
        assert dict(zip(status.flag_meanings.split(), status.flag_masks, strict=True)) == STATUS
        found = {
            (int(file["mascon_id"][i]), str(MONTHS[k])[:7]): {
                name for name, bit in STATUS.items() if status[i, k] & bit
            }
            for i, k in zip(*np.nonzero(status[:]), strict=True)
        }
    assert found == {
        (10, "2019-11"): {"no_causal_elevation", "no_predicted_change", "no_predicted_mass"},
        (10, "2020-08"): {"no_gravimetry", "no_observed_change"},
        (10, "2020-09"): {"no_observed_change"},
        (20, "2020-03"): {"no_altimetry", "no_predicted_change", "no_predicted_mass"},
        (20, "2020-04"): {"no_interval"},
        (30, "2020-05"): {"no_predicted_change", "no_predicted_mass"},
    }


def test_polygons_come_back_from_their_rings(path: Path, mascons: geopandas.GeoDataFrame) -> None:
    with netCDF4.Dataset(path) as file:
        lon, lat = file["node_lon"][:].data, file["node_lat"][:].data
        ends = np.cumsum(file["part_node_count"][:])
        holes = file["interior_ring"][:].data
        counts = file["node_count"][:].data
    rings = np.split(np.column_stack([lon, lat]), ends[:-1])
    rebuilt, used, k = [], 0, 0
    for count in counts:
        polygons: list[list] = []
        used += count
        while k < len(rings) and ends[k] <= used:
            x, y = rings[k].T
            turn = np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])
            assert (turn < 0) == bool(holes[k])  # outer rings anticlockwise, holes clockwise
            assert (rings[k][0] == rings[k][-1]).all()
            if holes[k]:
                polygons[-1][1].append(rings[k])
            else:
                polygons.append([rings[k], []])
            k += 1
        rebuilt.append(shapely.union_all([shapely.Polygon(*p) for p in polygons]))
    expected = mascons.set_index("mascon_id").loc[[10, 20, 30], "geometry"]
    assert [list(holes).count(1), len(rings)] == [1, 5]
    assert all(shapely.equals(a, b) for a, b in zip(rebuilt, expected, strict=True))


def test_the_same_tables_make_the_same_bytes(
    path: Path,
    months: pd.DataFrame,
    mascons: geopandas.GeoDataFrame,
    attributes: dict,
    tmp_path: Path,
) -> None:
    other = months.sort_values("month"), mascons.iloc[::-1]
    write_netcdf(build_dataset(*other, attributes), tmp_path / "again.nc")
    assert (tmp_path / "again.nc").read_bytes() == path.read_bytes()
    for name, tables in (("a", (months, mascons)), ("b", other)):
        write_geopackage(*tables, CRS, tmp_path / f"{name}.gpkg")
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gpkg", "again.nc", "b.gpkg"]


def test_the_file_says_what_it_is_and_how_to_cite_it(path: Path) -> None:
    with xarray.open_dataset(path) as data:
        said = data.attrs
    assert said["Conventions"].startswith("CF-1.11")
    assert said["source"] == "ATL06 release 005, 006; JPL mascons release RL06.3M"
    assert "SYNTHETIC" not in said["summary"] and "90 %" in said["summary"]
    assert said["references"] == "Altimetry 2020; Gravimetry 2021"
    assert said["model_change"].startswith("ridge (root mean square error 4 cm")
    assert said["model_mass"] == "none: no score"
    assert all(value in said["history"] for value in ("0.1.0", "abc", "def", "seed 7"))
    assert said["time_coverage_start"] == "2019-11-01T00:00:00Z"
    assert said["time_coverage_end"] == "2022-03-01T00:00:00Z"
    assert (said["geospatial_lon_min"], said["geospatial_lat_max"]) == (-50.0, 74.0)


def test_a_planted_world_is_called_one(attributes: dict) -> None:
    told = {
        "version": "1",
        "code": "",
        "config": "",
        "seed": 1,
        "coverage": 0.9,
        "source": "synthetic",
        "citations": [],
        "models": {"change": {"reason": "x"}, "cumulative": {"reason": "y"}},
    }
    said = describe_product("Demo", told, {"product": "csr", "release": "1"}, "atl11", [])
    assert said["summary"].startswith("SYNTHETIC WORLD")
    assert said["source"].endswith("ATL11 release unknown; CSR mascons release 1")


@pytest.fixture(scope="module")
def geopackage(
    months: pd.DataFrame,
    mascons: geopandas.GeoDataFrame,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("layers") / "mass_change.gpkg"
    write_geopackage(months, mascons, CRS, path)
    return path


def test_geopackage_has_a_polygon_for_each_mascon_month(
    geopackage: Path, months: pd.DataFrame, mascons: geopandas.GeoDataFrame
) -> None:
    names = {str(name) for name, _ in pyogrio.list_layers(geopackage)}
    assert names == {"mascons", "months", "mascon_months"}
    found = pyogrio.read_dataframe(geopackage, layer="mascon_months")
    assert found.crs == CRS
    fields = pyogrio.read_info(geopackage, layer="mascon_months")
    kinds = dict(zip(fields["fields"], fields["ogr_types"], strict=True))
    assert kinds["month"] == kinds["last_day"] == "OFTDate"
    assert fields["fid_column"] == "OGC_FID"
    expected = months.sort_values(["mascon_id", "month"], ignore_index=True)
    for name in PRODUCT_MONTHS.columns:
        if name.endswith(("_gt", "_m")):
            np.testing.assert_array_equal(found[name], expected[name])
    assert (found["month"] == expected["month"]).all()
    assert (found["last_day"] == expected["month"] + pd.offsets.MonthEnd(0)).all()
    # The polygons are those of the mascons, in the region's CRS.
    plain = mascons.to_crs(CRS).set_index("mascon_id")
    for mascon, group in found.groupby("mascon_id"):
        shape, near = group.geometry.iloc[0], plain.loc[mascon, "geometry"]
        assert (group.geometry == shape).all()
        # Parallels are bent there, and chords here.
        assert shape.symmetric_difference(near).area < 0.01 * near.area


def test_geopackage_sums_each_mascon_up(geopackage: Path, months: pd.DataFrame) -> None:
    with closing(sqlite3.connect(geopackage)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA application_id").fetchone() == (0x47504B47,)  # "GPKG"
        cells = database.execute(
            "SELECT mascon_id, predicted_rate_gt_yr, latest_month, latest_predicted_mass_gt, "
            "predicted_2020_gt, predicted_2021_gt, observed_2020_gt, observed_2021_gt, "
            "predicted_2022_gt FROM mascons ORDER BY mascon_id"
        ).fetchall()
        stamps = {row[0] for row in database.execute("SELECT last_change FROM gpkg_contents")}
    assert len(stamps) == 1
    held = months.set_index(["mascon_id", "month"]).sort_index()
    for mascon, rate, latest, last, change_2020, change_2021, seen_2020, seen_2021, cut in cells:
        own = held.loc[mascon]
        # A line in months of unequal length: the trend is that within a hundredth.
        assert rate == pytest.approx(-3.0 * mascon, rel=0.01)
        assert latest == "2022-02-01" and last == own["predicted_mass_gt"].iloc[-1]
        assert change_2021 == pytest.approx(own.loc["2021", "predicted_change_gt"].sum())
        assert (change_2020 is None) == (mascon != 10)  # the others lack a month
        mass = own["observed_mass_gt"]
        assert seen_2020 == pytest.approx(mass["2020-12-01"] - mass["2019-12-01"])
        assert seen_2021 == pytest.approx(mass["2021-12-01"] - mass["2020-12-01"])
        assert cut is None  # two months are no year
    assert [row[0] for row in cells] == [10, 20, 30]


def test_rates_compare_the_same_months(
    months: pd.DataFrame, mascons: geopandas.GeoDataFrame
) -> None:
    """Both fall alike from January 2020 to December 2021; observed fell faster before."""
    table = months.sort_values(["mascon_id", "month"], ignore_index=True)
    first, last = pd.Timestamp("2020-01-01"), pd.Timestamp("2021-12-01")
    line = table["predicted_mass_gt"].copy()
    for mascon, rows in table.groupby("mascon_id").groups.items():
        line[rows] = -3.0 * mascon * np.arange(len(MONTHS)) / 12
    fast = np.where(table["month"] < first, 100.0, 0.0)
    table["observed_mass_gt"] = (line + fast).where(table["month"] <= last)
    table["predicted_mass_gt"] = line.where(table["month"] >= first)
    none = table["mascon_id"] == 20
    table.loc[none, "predicted_mass_gt"] = np.nan
    found = describe_mascons(table, mascons, CRS).set_index("mascon_id")
    for mascon in (10, 30):
        row = found.loc[mascon]
        assert row["observed_rate_gt_yr"] == row["predicted_rate_gt_yr"]
        assert row["predicted_rate_gt_yr"] == pytest.approx(-3.0 * mascon, rel=0.01)
        assert (row["rate_start"], row["rate_end"]) == (first.date(), last.date())
    empty = ["observed_rate_gt_yr", "predicted_rate_gt_yr", "rate_start", "rate_end"]
    assert found.loc[20, empty].isna().all()


def test_measured_coverage_stands_beside_the_nominal_one(
    path: Path, months: pd.DataFrame, mascons: geopandas.GeoDataFrame, attributes: dict
) -> None:
    with xarray.open_dataset(path) as data:
        for name in ("change", "mass"):
            inside, known = 0, 0
            for row in months.itertuples():
                value = getattr(row, f"observed_{name}_gt")
                low = getattr(row, f"predicted_{name}_lower_gt")
                high = getattr(row, f"predicted_{name}_upper_gt")
                if not np.isnan(value + low + high):
                    known += 1
                    inside += low <= value <= high
            told = data.attrs[f"interval_coverage_measured_{name}"]
            assert told.startswith(f"{100 * inside / known:.1f} % of {known} observed")
            for end in ("lower", "upper"):
                assert data[f"predicted_{name}_{end}"].attrs["comment"] == told
    unseen = months.assign(observed_mass_gt=np.nan)
    said = build_dataset(unseen, mascons, attributes).attrs
    assert said["interval_coverage_measured_mass"].startswith("not measured: ")


def test_where_nothing_is_predicted_files_are_written_all_the_same(
    months: pd.DataFrame, mascons: geopandas.GeoDataFrame, attributes: dict, tmp_path: Path
) -> None:
    predicted = [name for name in months if name.startswith("predicted_")]
    bare = months.assign(**dict.fromkeys(predicted, np.nan), reason="no altimetry")
    write_netcdf(build_dataset(bare, mascons, attributes), tmp_path / "bare.nc")
    write_geopackage(bare, mascons, CRS, tmp_path / "bare.gpkg")
    with xarray.open_dataset(tmp_path / "bare.nc") as data:
        assert np.isnan(data["predicted_mass"]).all()
        assert np.isfinite(data["observed_mass"]).sum() == 3 * len(MONTHS) - 1
    found = pyogrio.read_dataframe(tmp_path / "bare.gpkg", layer="mascons")
    assert found["latest_month"].isna().all() and found["predicted_rate_gt_yr"].isna().all()


def test_the_guides_sample_runs(
    path: Path, geopackage: Path, months: pd.DataFrame, capsys: pytest.CaptureFixture
) -> None:
    page = (ROOT / "docs" / "products.md").read_text()
    (sample,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    folder = "results/demo/product/mass_change"
    assert sample.count(f"{folder}.nc") == sample.count(f"{folder}.gpkg") == 1
    names: dict = {}
    exec(
        sample.replace(f"{folder}.nc", str(path)).replace(f"{folder}.gpkg", str(geopackage)), names
    )
    names["data"].close()
    own = months[months["mascon_id"] == 10].sort_values("month")
    np.testing.assert_array_equal(names["one"]["observed_mass"], own["observed_mass_gt"])
    whole = months.groupby("month")["predicted_mass_gt"].sum(min_count=3)
    lacking = pd.DatetimeIndex(["2019-11-01", "2020-03-01", "2020-05-01"])
    np.testing.assert_allclose(names["total"], whole.drop(lacking))
    assert int(names["gaps"].sum()) == 1
    columns = ["predicted_rate_gt_yr", "observed_rate_gt_yr", "rate_start", "rate_end"]
    assert re.search(" +".join(columns), capsys.readouterr().out)
