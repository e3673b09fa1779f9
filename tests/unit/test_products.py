"""Products of both kinds: what each registered module offers, and a toy of each run through."""

import inspect
import re
import sys
import types
from importlib import import_module
from pathlib import PurePath

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shapely

from cryofuse import altimetry
from cryofuse.acquire.local import list_local
from cryofuse.altimetry import AltimetryProduct, GranuleName, beam_labels, load_product
from cryofuse.atl06.filtering import filter_file
from cryofuse.atl06.granule import Area
from cryofuse.atl06.ledger import ledger_row
from cryofuse.atl06.subset import cut_granules
from cryofuse.atl06.tiles import write_by_tile
from cryofuse.calendar import period_bounds
from cryofuse.config import (
    AltimetrySettings,
    ElevationSettings,
    FilterSettings,
    FusionSettings,
    MasconSettings,
    PeriodSettings,
    RegionSettings,
)
from cryofuse.elevation.tiles import fit_tile
from cryofuse.geo import project, tile_name, unproject
from cryofuse.mascons import read, read_mascons
from cryofuse.mascons.solutions import Solutions
from cryofuse.tables import MASS, SEGMENTS, check, from_pandas
from cryofuse.units import DAYS_PER_YEAR

#: Methods that a protocol asks for.
ALTIMETRY = ("parse_name", "read_granule")
CRS = "EPSG:3413"
X0, Y0 = (float(v) for v in project(-45, 70, CRS))
RATE = -0.8


def asked(protocol, name):
    """The arguments of a protocol's method, without the instance."""
    return list(inspect.signature(getattr(protocol, name)).parameters)[1:]


def test_every_altimetry_product_satisfies_the_interface():
    assert set(altimetry.PRODUCTS) == set(
        AltimetrySettings.model_fields["product"].annotation.__args__
    )
    for name in altimetry.PRODUCTS:
        module = load_product(name)
        for method in ALTIMETRY:
            function = getattr(module, method)
            assert list(inspect.signature(function).parameters) == asked(AltimetryProduct, method)
        assert module.TITLE.lower() == name and all(isinstance(b, str) for b in module.BEAMS)
        with pytest.raises(ValueError, match=module.TITLE) as caught:
            module.parse_name("notes.txt")
        assert "\n" not in str(caught.value)
        # Nothing is read of a file that is none; columns are still the contract's.
        table, ledger = module.read_granule("/nowhere/notes.txt")
        assert table.schema.names == list(SEGMENTS.columns) and table.num_rows == 0
        assert [(row["beam"], row["filter"]) for row in ledger] == [(None, "unreadable")]
    assert len(set(beam_labels())) == len(beam_labels()) <= 16
    with pytest.raises(ValueError, match="none of atl06, atl11"):
        load_product("toy")


def test_every_gravimetry_product_satisfies_the_interface():
    assert set(read.PRODUCTS) == set(MasconSettings.model_fields["product"].annotation.__args__)
    for name in read.PRODUCTS:
        module = import_module(read.PRODUCTS[name])
        found = list(inspect.signature(module.read_solutions).parameters)
        assert found == asked(read.GravimetryProduct, "read_solutions")


def register(monkeypatch, table, name, **offers):
    """Add a product to a table of products, from the test alone."""
    module = types.ModuleType(f"toy_{name}")
    vars(module).update(offers)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(table, name, module.__name__)


# --- a toy of altimetry: text files of x, y, day, height; one file spans two years ---------------


def parse_toy(name):
    match = re.match(r"TOY_(\d{4})_(\d)\.h5$", PurePath(name).name)
    if not match:
        raise ValueError(f"{name!r} is not a TOY name")
    start = np.datetime64(match[1], "Y")
    return GranuleName(
        granule=PurePath(name).name,
        start_time=start.astype("datetime64[us]"),
        end_time=(start + 2).astype("datetime64[us]") - np.timedelta64(1, "us"),
        rgt=1,
        cycle=1,
        orbit_region=1,
        release="1",
        revision=match[2],
        subset=False,
        identity=(match[1],),
        rank=(int(match[2]),),
    )


def read_toy(path, columns=None, region=None, period=None):
    x_m, y_m, day, height, number = np.loadtxt(path, unpack=True)
    time = np.datetime64("2018-01-01", "us") + (day * 86_400e6).astype("timedelta64[us]")
    mine = (time >= period[0]) & (time < period[1]) & region.contains(x_m, y_m)
    x_m, y_m = x_m[mine], y_m[mine]
    longitude, latitude = unproject(x_m, y_m, region.crs)
    columns = {
        "tile": [tile_name(x, y, region.tile_m) for x, y in zip(x_m, y_m, strict=True)],
        "x_m": x_m,
        "y_m": y_m,
        "latitude": latitude,
        "longitude": longitude,
        "height_m": height[mine],
        "time": time[mine],
        "rgt": np.ones(x_m.size, np.int16),
        "cycle": (day[mine] // 91).astype(np.int16),
        "beam": np.full(x_m.size, "toy"),
        "segment_id": number[mine].astype(np.int32),
        "granule": np.full(x_m.size, PurePath(path).name),
    }
    arrays = [
        pa.array(columns[f.name]).cast(f.type) if f.name in columns else pa.nulls(x_m.size, f.type)
        for f in SEGMENTS.schema
    ]
    row = ledger_row(PurePath(path).name, "toy", "subset", "read", x_m.size)
    return pa.table(arrays, schema=SEGMENTS.schema), [row]


def test_a_toy_of_altimetry_runs_from_files_to_node_months(tmp_path, monkeypatch):
    register(
        monkeypatch,
        altimetry.PRODUCTS,
        "toy",
        BEAMS=("toy",),
        TITLE="TOY",
        parse_name=parse_toy,
        read_granule=read_toy,
    )
    assert beam_labels()[-1] == "toy"
    rng = np.random.default_rng(5)
    for start in (2018, 2020):
        day = (start - 2018) * 365.25 + np.repeat(np.arange(8) * 91 + 20, 400)
        x_m = X0 + rng.uniform(-5e3, 5e3, day.size)
        y_m = Y0 + rng.uniform(-5e3, 5e3, day.size)
        height = 1500 + 0.01 * (x_m - X0) + RATE * day / DAYS_PER_YEAR
        rows = np.column_stack([x_m, y_m, day, height, np.arange(day.size)])
        for revision in (1, 2):
            # The older revision lies a hundred metres off.
            np.savetxt(
                tmp_path / f"TOY_{start}_{revision}.h5", rows + [0, 0, 0, 100 * (2 - revision), 0]
            )
    (tmp_path / "TOY_x.h5").touch()
    area = Area(shapely.box(X0 - 2e4, Y0 - 2e4, X0 + 2e4, Y0 + 2e4), CRS, 1e5)
    paths = []
    for year in ("2018", "2019", "2020", "2021"):
        period = period_bounds(year)
        manifest = list_local(tmp_path, *period, "toy")
        assert manifest.num_rows == 2
        source, target = tmp_path / f"subset{year}.parquet", tmp_path / f"{year}.parquet"
        parts = cut_granules(manifest, area, 0.0, "toy", period)
        write_by_tile((table for table, _ in parts), source, 1e5)
        filter_file(source, target, FilterSettings(), 1e5)
        paths.append(target)
    region = RegionSettings.model_validate(
        {
            "title": "toy",
            "crs": CRS,
            "outline": {"west": -45.05, "south": 69.98, "east": -44.95, "north": 70.02},
        }
    )
    result = fit_tile(
        paths,
        tile_name(X0, Y0, 1e5),
        region,
        ElevationSettings(),
        FusionSettings(),
        PeriodSettings(start="2018-01", end="2021-12"),
    )
    rate = result.fits["rate_m_yr"].dropna()
    assert len(rate) > 5 and rate.to_numpy() == pytest.approx(RATE, abs=1e-3)
    assert len(result.months) > 0 and len(result.causal) > 0


# --- a toy of gravimetry: a table of two mascons ------------------------------------------------


def read_toy_solutions(path, land_mask, extent, footprints, mapping):
    table = pd.read_csv(path, parse_dates=["start", "end"])
    mascons = geopandas.GeoDataFrame(
        {"mascon_id": np.array([5, 9], np.int32), "land_area_km2": [1000.0, 2000.0]},
        geometry=[shapely.box(-45, 70, -44, 71), shapely.box(-44, 70, -43, 71)],
        crs="EPSG:4326",
    )
    values = table[["a", "b"]].to_numpy(float)
    start, end = (table[name].to_numpy().astype("datetime64[us]") for name in ("start", "end"))
    return Solutions(mascons, values, np.ones_like(values), start, end, "toy", "1")


def test_a_toy_of_gravimetry_runs_from_a_file_to_both_tables(tmp_path, monkeypatch):
    register(monkeypatch, read.PRODUCTS, "toy", read_solutions=read_toy_solutions)
    path = tmp_path / "toy.csv"
    path.write_text("start,end,a,b\n2020-01-01,2020-02-01,1,2\n2020-02-01,2020-03-01,3,\n")
    mascons, mass = read_mascons(str(path), "toy")
    check(from_pandas(mass), MASS)
    assert mascons["mascon_id"].tolist() == [5, 9] and mascons.attrs["product"] == "toy"
    # Centimetres over 1000 and 2000 km² are hundredths of a gigatonne.
    assert mass["mass_gt"].tolist()[:3] == pytest.approx([0.01, 0.03, 0.04])
    assert np.isnan(mass["mass_gt"].iloc[3])
    assert mass["mass_change_gt"].iloc[1] == pytest.approx(0.02)
