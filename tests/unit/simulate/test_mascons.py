import csv
import json
from importlib import resources

import h5py
import netCDF4
import numpy as np
import pandas as pd
import pytest
import shapely
from pyproj import Transformer

from cryofuse.config import PeriodSettings, WorldSettings
from cryofuse.simulate import mascons
from cryofuse.simulate.mascons import (
    band_footprints,
    leakage_matrix,
    list_solutions,
    load_footprints,
    plant_mass,
    write_mascons,
    write_truth,
)
from cryofuse.simulate.placement import degree_footprints, tile_footprints
from cryofuse.simulate.world import World


@pytest.fixture(scope="module")
def truth(greenland):
    return plant_mass(greenland)


@pytest.fixture(scope="module")
def facts():
    text = resources.files("cryofuse.data").joinpath("jpl_mascons_greenland.csv").read_text()
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {int(r["mascon_id"]): {k: float(v) for k, v in r.items()} for r in rows}


def test_band_rule_gives_the_products_own_boxes_around_greenland(facts):
    bands = band_footprints()
    assert bands.mascon_id.tolist() == list(range(1, 4552))
    # Six mascons about each pole, so that the band about 84°N begins with number 7.
    assert (bands.north == 90).sum() == (bands.south == -90).sum() == 6
    assert bands.mascon_id[bands.south == 82.5].min() == 7
    assert len(facts) == 31
    for number, fact in facts.items():
        k = int(np.flatnonzero(bands.mascon_id == number)[0])
        box = [bands.south[k], bands.north[k], bands.west[k], bands.east[k]]
        assert box == [fact["lat_s"], fact["lat_n"], fact["lon_w"], fact["lon_e"]]


def test_bands_cover_the_globe_once():
    bands = band_footprints()
    area = np.radians(bands.east - bands.west) * (
        np.sin(np.radians(bands.north)) - np.sin(np.radians(bands.south))
    )
    assert area.sum() == pytest.approx(4 * np.pi)
    rng = np.random.default_rng(3)
    lon, lat = rng.uniform(-180, 180, 500), rng.uniform(-90, 90, 500)
    found = bands.locate(lon, lat)
    assert (found >= 0).all()
    assert (bands.south[found] <= lat).all() and (lat < bands.north[found]).all()
    assert (bands.west[found] <= lon % 360).all() and (lon % 360 < bands.east[found]).all()


def test_boxes_of_a_degree_cover_the_globe_once_and_are_of_one_size():
    boxes = degree_footprints()
    area = (
        6371.0**2
        * np.radians(boxes.east - boxes.west)
        * (np.sin(np.radians(boxes.north)) - np.sin(np.radians(boxes.south)))
    )
    assert area.sum() == pytest.approx(4 * np.pi * 6371.0**2)
    # GSFC has 41 168; an arc degree squared is 12 364 km².
    assert boxes.mascon_id.size == pytest.approx(41_168, rel=0.005)
    assert np.percentile(area, [0.1, 99.9]) == pytest.approx(12_364, rel=0.06)


def test_tiles_are_hexagons_of_quarter_degree_cells():
    tiles = tile_footprints()
    # 40 962 points of a geodesic grid, which CSR cuts into 42 107 tiles along coasts.
    assert tiles.mascon_id.size == pytest.approx(40_962, rel=0.005)
    lon, lat = np.meshgrid(np.arange(280.125, 360, 0.25), np.arange(60.125, 84, 0.25))
    owner = tiles.locate(lon, lat)
    # The nearest of all middles, by the angle between unit vectors.
    rng = np.random.default_rng(4)
    east, north = (np.radians(v) for v in tiles.centre)
    for i, j in rng.integers(0, [lat.shape], (40, 2)):
        a, b = np.radians([lon[i, j], lat[i, j]])
        cosine = np.sin(b) * np.sin(north) + np.cos(b) * np.cos(north) * np.cos(a - east)
        assert owner[i, j] == np.argmax(cosine)
    # Tiles that the crop does not cut are of one size.
    area = 6371.0**2 * np.radians(0.25) ** 2 * np.cos(np.radians(lat))
    inner = np.setdiff1d(owner, np.concatenate([owner[[0, -1]].ravel(), owner[:, [0, -1]].ravel()]))
    size = np.array([area[owner == k].sum() for k in inner])
    assert size.mean() == pytest.approx(4 * np.pi * 6371.0**2 / 40_962, rel=0.02)
    assert size.std() / size.mean() < 0.12
    # A point belongs to the tile of its cell, in any longitude convention.
    assert (tiles.locate(lon - 360 + 0.1, lat - 0.1) == owner).all()


def test_leakage_keeps_mass_and_falls_with_distance(truth):
    boxes = truth.cells.footprints
    matrix = leakage_matrix(boxes, truth.land_area_km2, 300.0)
    assert np.allclose(matrix.sum(axis=0), 1.0)
    assert np.allclose(leakage_matrix(boxes, truth.land_area_km2, 0.0), np.eye(31))
    ids = boxes.mascon_id.tolist()
    own, beside, far = (matrix[ids.index(i), ids.index(125)] for i in (125, 124, 265))
    assert own > 0.6 > beside > 0.01 > far
    # The whole sheet weighs the same before and after.
    assert np.allclose((matrix @ truth.own_gt).sum(axis=0), truth.own_gt.sum(axis=0))


def test_mass_is_the_integral_of_the_histories(greenland, truth, facts):
    # Another grid, other code: 4 km points, boxes by comparison, area by PROJ's ellipsoid.
    x_min, y_min, x_max, y_max = greenland.outline.bounds
    x, y = np.meshgrid(np.arange(x_min, x_max, 4000.0), np.arange(y_min, y_max, 4000.0))
    inside = shapely.contains_xy(greenland.outline, x, y)
    x, y = x[inside], y[inside]
    lon, lat = Transformer.from_crs("EPSG:3413", "EPSG:4326", always_xy=True).transform(x, y)
    # Scale of the polar stereographic projection on the sphere, true at 70° (Snyder 1987, 21-4).
    scale = ((1 + np.sin(np.radians(70))) / (1 + np.sin(np.radians(lat)))) ** 2
    first, last = (
        np.flatnonzero(truth.months == np.datetime64(m, "us"))[0]
        for m in ("2019-05-01", "2019-11-01")
    )
    ids = truth.cells.footprints.mascon_id.tolist()
    from cryofuse.simulate.world import HISTORY_START, REGIMES

    day = (
        truth.days[[first, last]] + (np.datetime64("2002-01-01") - HISTORY_START).astype(int)
    ).astype(int)
    mean = [greenland.mass_history[:, a:b].mean(axis=1) for a, b in day]
    change = (mean[1] - mean[0]).reshape(len(REGIMES), -1)
    patterns = np.stack([greenland.sample_grid(p, x, y, 1) for p in greenland.patterns])
    shares = np.stack([greenland.sample_grid(s, x, y, 1) for s in greenland.shares])
    load = np.einsum("rk,rn,kn->n", change, shares, patterns)
    for number in (57, 165, 212, 266, 35):
        fact = facts[number]
        here = (lat >= fact["lat_s"]) & (lat < fact["lat_n"])
        here &= (lon % 360 >= fact["lon_w"]) & (lon % 360 < fact["lon_e"])
        expected = (load * 16e6 / scale)[here].sum() * 1e-12
        k = ids.index(number)
        found = truth.own_gt[k, last] - truth.own_gt[k, first]
        assert found == pytest.approx(expected, rel=0.03, abs=0.15)
        area = (16 / scale)[here].sum()
        assert truth.cells.ice_area_m2[k] / 1e6 == pytest.approx(area, rel=0.01)


def test_totals_are_greenlands(truth):
    total = truth.own_gt.sum(axis=0)
    years = truth.days.mean(axis=1) / 365.2425
    assert np.polyfit(years, total, 1)[0] == pytest.approx(-250, abs=25)
    months = truth.months.astype("M8[M]")

    def at(text):
        return total[np.flatnonzero(months == np.datetime64(text))[0]]

    assert (
        at("2019-11") - at("2019-05")
        < at("2020-11") - at("2020-05")
        < at("2021-11") - at("2021-05")
        < 0
    )
    assert truth.cells.ice_area_m2.sum() / 1e6 == pytest.approx(1_753_605, rel=0.002)


def test_one_density_does_not_explain_the_mass(greenland, truth):
    months = np.arange("2018-11", "2025-01", dtype="M8[M]").astype("M8[us]")
    seen = np.isin(months, truth.months)
    change = mascons.mascon_change(greenland, truth, months[seen])
    own = truth.own_gt[:, np.isin(truth.months, months)]
    volume = change * truth.cells.ice_area_m2[:, None] / 1e9
    density = [
        np.polyfit(v, m, 1)[0] * 1000
        for v, m in zip(volume, own, strict=True)
        if np.isfinite(v).all()
    ]
    assert np.percentile(density, 90) - np.percentile(density, 10) > 300


def test_months_are_those_of_the_real_record():
    months, days = list_solutions("2002-04", "2024-12")
    names = {str(m)[:7] for m in months}
    assert not names & set(mascons.MISSING_MONTHS)
    assert not names & {"2017-07", "2017-12", "2018-05"}
    assert {"2002-04", "2017-06", "2018-06", "2018-10", "2024-12"} <= names
    # 273 calendar months, 22 of them missing alone and 11 in the gap between the missions.
    assert len(months) == 273 - 22 - 11
    assert (days[:, 1] > days[:, 0]).all() and (np.diff(days[:, 0]) > 0).all()
    overlap = np.minimum(days[:-1, 1], days[1:, 1]) - days[1:, 0]
    assert overlap.max() <= 22
    august = np.flatnonzero(months == np.datetime64("2020-08-01"))[0]
    assert (np.datetime64("2002-01-01") + days[august]).astype(str).tolist() == [
        "2020-08-01",
        "2020-09-01",
    ]


def test_absent_months_are_absent_and_change_no_other(make_small):
    whole = mascons.plant_mass(make_small())
    lacking = mascons.plant_mass(make_small(absent_months=["2021-05", "2021-06", "2023-03"]))
    absent = np.array(["2021-05", "2021-06", "2023-03"], "M8[M]")
    kept = ~np.isin(whole.months.astype("M8[M]"), absent)
    assert (~kept).sum() == 3
    for name in ("months", "days"):
        np.testing.assert_array_equal(getattr(lacking, name), getattr(whole, name)[kept])
    for name in ("own_gt", "law_cm", "residual_cm", "noise_cm", "sigma_cm"):
        np.testing.assert_array_equal(getattr(lacking, name), getattr(whole, name)[:, kept])


def test_noise_is_as_large_and_as_wide_as_planted(truth):
    late = truth.months >= np.datetime64("2018-06-01")
    noise = truth.noise_cm[:, late]
    assert noise.std() == pytest.approx(5.6, rel=0.12)
    assert np.allclose(truth.sigma_cm[:, late], 5.6)
    assert truth.sigma_cm[:, truth.months == np.datetime64("2017-03-01")][0, 0] == pytest.approx(
        11.2
    )
    ids = truth.cells.footprints.mascon_id.tolist()
    correlation = np.corrcoef(noise)
    beside = correlation[ids.index(124), ids.index(125)]
    apart = correlation[ids.index(34), ids.index(324)]
    assert beside == pytest.approx(np.exp(-325 / 500), abs=0.25)
    assert abs(apart) < 0.35
    assert truth.residual_cm[:, late].std() == pytest.approx(1.5, rel=0.2)


def test_file_is_in_the_products_layout(truth, tmp_path):
    write_mascons(truth, tmp_path / "mascons.nc")
    with netCDF4.Dataset(tmp_path / "mascons.nc") as file:
        assert "ynthetic" in file.title
        assert file["time"].units == "days since 2002-01-01T00:00:00Z"
        assert {d: len(file.dimensions[d]) for d in ("time", "bounds")} == {
            "time": 240,
            "bounds": 2,
        }
        assert file["lwe_thickness"].units == "cm" and file["lwe_thickness"]._FillValue == -99999.0
        file.set_auto_mask(False)
        ids, land = file["mascon_ID"][:], file["land_mask"][:] == 1
        lat, lon = file["lat"][:], file["lon"][:]
        assert lat[0] % 1 == 0.25 or lat[0] % 1 == 0.75
        assert (np.diff(lat) == 0.5).all() and (np.diff(lon) == 0.5).all()
        lwe, sigma = file["lwe_thickness"][:], file["uncertainty"][:]
        assert np.isin(land, [0, 1]).all() and (ids > 0).any()
        assert (lwe[:, ids == 0] == -99999.0).all()
        for k, number in enumerate(truth.cells.footprints.mascon_id):
            cells = (ids == number) & land
            assert cells.any()
            assert np.ptp(lwe[:, cells], axis=1).max() == 0
            assert np.allclose(lwe[:, cells][:, 0], truth.lwe_cm[k])
            assert (sigma[:, cells] > 5).all()
        base = (file["time"][:] / 365.2425 > 2.0) & (file["time"][:] / 365.2425 < 8.0)
        assert abs(lwe[base][:, (ids == 165) & land].mean()) < 0.2
        assert (file["scale_factor"][:][land & (ids > 0)] != 1).any()


def test_reader_finds_every_mascon_and_month(truth, tmp_path):
    from cryofuse.mascons.read import read_mascons

    write_mascons(truth, tmp_path / "mascons.nc")
    found, mass = read_mascons(str(tmp_path / "mascons.nc"), "jpl")
    assert set(found["mascon_id"]) == set(truth.cells.footprints.mascon_id)
    one = mass[mass["mascon_id"] == 165].dropna(subset="lwe_cm")
    assert np.array_equal(one["month"].to_numpy().astype("M8[M]"), truth.months.astype("M8[M]"))
    k = truth.cells.footprints.mascon_id.tolist().index(165)
    assert np.allclose(one["lwe_cm"], truth.lwe_cm[k])


@pytest.fixture(scope="module")
def fine(greenland):
    """The same world in the finer mascons of CSR and GSFC."""
    return {product: plant_mass(greenland, product) for product in ("csr", "gsfc")}


@pytest.fixture(scope="module")
def files(truth, fine, tmp_path_factory):
    """The three products' files: arguments of the reader."""
    folder = tmp_path_factory.mktemp("products")
    arguments = {}
    for product, planted in (fine | {"jpl": truth}).items():
        path, mask, mapping = (folder / f"{product}_{n}" for n in ("mass", "land", "tiles"))
        write_mascons(planted, path, mask, mapping)
        beside = {"land_mask": str(mask), "mapping": str(mapping)} if product == "csr" else {}
        arguments[product] = (str(path), product), beside
    return arguments


def test_file_is_in_csrs_layout(fine, files):
    truth = fine["csr"]
    (path, _), beside = files["csr"]
    with netCDF4.Dataset(path) as file:
        assert "ynthetic" in file.title
        # Spelt so that no reader of CF conventions decodes it.
        assert file["time"].Units == "days since 2002-01-01T00:00:00Z"
        assert "units" not in file["time"].ncattrs()
        lat, lon = file["lat"][:].data, file["lon"][:].data
        assert np.allclose(np.diff(lat), 0.25) and np.allclose(np.diff(lon), 0.25)
        assert lat[0] % 0.25 == lon[0] % 0.25 == 0.125 and 0 < lon.min() < lon.max() < 360
        assert file["lwe_thickness"].dtype == np.float32
        assert file["time_bounds"].dimensions == ("time", "timebound")
        lwe = file["lwe_thickness"][:].data
    with netCDF4.Dataset(beside["land_mask"]) as file:
        land = file["LO_val"][:].data
    with netCDF4.Dataset(beside["mapping"]) as file:
        tile = file["mascon_id"][:].data
    assert np.isfinite(lwe).all() and set(np.unique(land)) == {0.0, 1.0}
    # One number to a tile, of its own; the ocean has some, too.
    ids = truth.cells.footprints.mascon_id.tolist()
    for number in np.unique(tile)[::7]:
        cells = lwe[:, tile == number]
        assert np.ptp(cells, axis=1).max() == 0
        if number in ids:
            expected = truth.lwe_cm[ids.index(int(number))]
            assert np.allclose(cells[:, 0], expected, atol=1e-4)
            area = (np.cos(np.radians(lat)) * (6371.0 * np.radians(0.25)) ** 2)[:, None]
            held = (area * ((tile == number) & (land == 1))).sum()
            assert truth.land_area_km2[ids.index(int(number))] == pytest.approx(held, rel=1e-4)
        else:
            assert not (land[tile == number] == 1).any() and 0.5 < cells.std() < 2


def test_file_is_in_gsfcs_layout(fine, files):
    truth = fine["gsfc"]
    with h5py.File(files["gsfc"][0][0]) as file:
        count = file["mascon/labels"].size
        assert file["solution/cmwe"].shape == (count, 240)
        assert file["mascon/labels"].shape == (1, count)
        assert file["solution"].attrs["Version"] == "synthetic"
        first, last = file["time/ref_days_first"][0], file["time/ref_days_last"][0]
        # Days of 2002-01-00: 1 August 2020 is the 6788th after 31 December 2001.
        august = np.flatnonzero(truth.months == np.datetime64("2020-08-01"))[0]
        assert first[august] == (np.datetime64("2020-08-01") - np.datetime64("2001-12-31")).astype(
            int
        )
        assert last[august] - first[august] == 30
        location, labels = file["mascon/location"][0], file["mascon/labels"][0]
        cmwe = file["solution/cmwe"][()]
        assert np.isfinite(cmwe).all() and set(np.unique(location)) == {1, 80, 90}
        assert (labels[location != 90] == truth.cells.footprints.mascon_id).all()
        assert np.allclose(cmwe[location != 90], truth.lwe_cm)
        assert 0.5 < cmwe[location == 90].std() < 2
        parts = [file[f"uncertainty/{n}_2sigma"][()] for n in ("noise", "leakage")]
        assert np.allclose(sum(parts)[location != 90] / 2, truth.sigma_cm)
        # Kangerlussuaq stands in Greenland, Thingvellir in other land.
        for lon, lat, place in ((309.4, 67.2, 1), (339.0, 64.3, 80), (320.2, 61.4, 90)):
            near = np.abs(file["mascon/lat_center"][0] - lat) <= 0.5
            near &= np.abs(file["mascon/lon_center"][0] - lon) <= file["mascon/lon_span"][0] / 2
            assert location[near].tolist() == [place]


@pytest.mark.parametrize("product", ["csr", "gsfc"])
def test_reader_gives_the_planted_mass_of_each_product(product, fine, files):
    from cryofuse.mascons.read import read_mascons

    truth = fine[product]
    arguments, beside = files[product]
    found, mass = read_mascons(*arguments, **beside)
    ids = truth.cells.footprints.mascon_id
    area = found.set_index("mascon_id")["land_area_km2"]
    assert np.allclose(area[ids], truth.land_area_km2, rtol=1e-6)
    assert (area.drop(ids) == 0).all()
    held = mass.dropna(subset="lwe_cm").set_index(["month", "mascon_id"])
    wide, sigma = (held[name].unstack()[ids] for name in ("lwe_cm", "lwe_sigma_cm"))  # noqa: PD010
    assert np.array_equal(wide.index.to_numpy().astype("M8[M]"), truth.months.astype("M8[M]"))
    assert np.allclose(wide.to_numpy().T, truth.lwe_cm, atol=1e-4)
    if product == "gsfc":
        assert np.allclose(sigma.to_numpy().T, truth.sigma_cm)
    else:
        # Scatter of the series: an upper bound of the noise, and no wild one.
        noise = np.sqrt((truth.sigma_cm**2).mean())
        assert 0.9 < sigma.to_numpy().mean() / noise < 1.5


def test_csr_tiles_are_found_without_the_mapping(fine, files):
    from cryofuse.mascons.read import read_mascons

    truth = fine["csr"]
    arguments, beside = files["csr"]
    mapped, _ = read_mascons(*arguments, **beside)
    found, mass = read_mascons(*arguments, beside["land_mask"])
    assert not set(found["mascon_id"]) <= set(mapped["mascon_id"])
    assert found.attrs["unit"] == "native" and len(found) == len(mapped)
    assert sorted(found["land_area_km2"]) == pytest.approx(sorted(mapped["land_area_km2"]))
    last = mass[mass["month"] == mass["month"].max()].merge(found[found["land_area_km2"] > 0])
    assert sorted(last["lwe_cm"]) == pytest.approx(sorted(truth.lwe_cm[:, -1]), abs=1e-4)


def test_noise_of_finer_mascons_is_as_large_and_shared_with_neighbours(fine):
    for truth in fine.values():
        late = truth.months >= np.datetime64("2018-06-01")
        noise = truth.noise_cm[:, late]
        assert noise.std() == pytest.approx(5.6, rel=0.12)
        assert np.allclose(truth.sigma_cm[:, late], 5.6)
        lon, lat = (np.radians(v) for v in truth.cells.footprints.centre)
        cosine = np.sin(lat[:, None]) * np.sin(lat) + np.cos(lat[:, None]) * np.cos(lat) * np.cos(
            lon[:, None] - lon
        )
        apart = 6371.0 * np.arccos(np.clip(cosine, -1, 1))
        correlation = np.corrcoef(noise)
        for low, high in ((50, 150), (300, 400), (900, 1100)):
            pairs = (apart > low) & (apart < high)
            expected = np.exp(-apart[pairs] / 500).mean()
            assert correlation[pairs].mean() == pytest.approx(expected, abs=0.12)
        residual = np.corrcoef(truth.residual_cm)[(apart > 50) & (apart < 150)].mean()
        assert residual == pytest.approx(np.exp(-100 / 300), abs=0.1)
    assert not np.allclose(fine["csr"].noise_cm[:9, :9], fine["gsfc"].noise_cm[:9, :9])


def test_three_products_give_one_trend_within_their_planted_noise(greenland, truth, fine, files):
    from cryofuse.mascons.read import read_mascons

    settings = greenland.settings
    trends, sigmas, planted = {}, {}, {}
    for product, mass_truth in (fine | {"jpl": truth}).items():
        arguments, beside = files[product]
        _, mass = read_mascons(*arguments, **beside)
        total = mass.groupby("month")["mass_gt"].sum(min_count=1).dropna()
        years = mass_truth.days.mean(axis=1) / 365.2425
        assert len(total) == years.size
        trends[product] = np.polyfit(years, total.to_numpy(), 1)[0]
        planted[product] = np.polyfit(years, mass_truth.own_gt.sum(axis=0), 1)[0]
        # Weights of a slope; variance of a sum of correlated mascons (m) and months (k).
        c = (years - years.mean()) / ((years - years.mean()) ** 2).sum()
        a = mass_truth.land_area_km2 * 1e-5
        lon, lat = (np.radians(v) for v in mass_truth.cells.footprints.centre)
        xyz = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
        apart = 6371.0 * np.arccos(np.clip(xyz.T @ xyz, -1, 1))
        noise = a @ np.exp(-apart / settings.mass_noise_correlation_km) @ a
        wide = np.eye(a.size) if product == "jpl" else np.exp(-apart / 300.0)
        month = mass_truth.months.astype("M8[M]").astype(int)
        memory = np.exp(-np.abs(month[:, None] - month) / 2.5)
        variance = (c**2 * mass_truth.sigma_cm[0] ** 2).sum() * noise
        variance += settings.mascon_residual_cm**2 * (a @ wide @ a) * (c @ memory @ c)
        sigmas[product] = np.sqrt(variance)
    # All three were planted the same ice, whose mass leaks but is not lost.
    assert max(planted.values()) - min(planted.values()) < 0.5
    for product, trend in trends.items():
        assert sigmas[product] < 4.0
        assert abs(trend - planted[product]) < 2.5 * sigmas[product]
        for other in trends:
            apart_by = np.hypot(sigmas[product], sigmas[other])
            assert abs(trend - trends[other]) < 2.5 * apart_by


def test_csr_files_come_together(fine, tmp_path):
    with pytest.raises(ValueError, match="land mask and a mapping"):
        write_mascons(fine["csr"], tmp_path / "alone.nc")


def test_longer_record_begins_with_the_shorter_in_finer_mascons(small, small_region):
    longer = World(small.settings, small_region, PeriodSettings(start="2019-01", end="2024-12"))
    for product in ("csr", "gsfc"):
        short = plant_mass(small, product)
        assert np.allclose(
            plant_mass(longer, product).noise_cm[:, : short.months.size], short.noise_cm
        )


def test_truth_tables_of_finer_mascons(greenland, fine):
    tables = mascons.tabulate_truth(greenland, fine["gsfc"])
    table = tables["mascons"]
    iced = table[table["ice_area_km2"] > 0]
    assert iced["ice_area_km2"].sum() == pytest.approx(1_753_605, rel=0.002)
    assert np.allclose(iced.filter(like="share_").sum(axis=1), 1)
    assert table[table["ice_area_km2"] == 0]["regime"].isna().all()
    assert (table["land_area_km2"] >= 0.985 * table["ice_area_km2"]).all()


def test_truth_tables(greenland, truth, tmp_path):
    write_truth(greenland, truth, tmp_path)
    table = pd.read_parquet(tmp_path / "mascon_months.parquet")
    assert len(table) == 31 * 75 and not table.duplicated(["mascon_id", "month"]).any()
    seen = table.dropna(subset="lwe_cm")
    total = seen["lwe_law_cm"] + seen["lwe_residual_cm"] + seen["lwe_noise_cm"]
    assert np.allclose(total, seen["lwe_cm"])
    # October 2018 to December 2024 has every month.
    assert len(seen) == len(table)
    regimes = pd.read_parquet(tmp_path / "mascons.parquet")
    bare = regimes[regimes["ice_area_km2"] == 0]
    assert set(bare["mascon_id"]) == {18, 164, 211} and bare["lag_months"].isna().all()
    iced = regimes[regimes["ice_area_km2"] > 0]
    assert iced["lag_months"].between(0, 2).all()
    assert np.allclose(iced.filter(like="share_").sum(axis=1), 1)
    # Where one regime moves nearly all the mass, noise-free series show its lag.
    for number, lag in ((265, 2), (266, 2), (17, 1), (126, 1)):
        row = regimes[regimes["mascon_id"] == number].iloc[0]
        assert abs(row["lag_months"] - lag) < 0.1
        assert abs(row["lag_detrended_months"] - lag) <= 1
    # The mean over a mascon of one regime is that of its points.
    world = json.loads((tmp_path / "world.json").read_text())
    assert world["mascons"] == 31 and world["track_step"] == 200 and world["lakes"] == 0
    assert len(world["regimes"]) == 5


def test_mean_change_is_that_of_points(greenland, truth, facts):
    month = np.array(["2022-03-01"], "M8[us]")
    middle = np.datetime64("2022-03-16T12:00", "us")
    change = mascons.mascon_change(greenland, truth, month)[:, 0]
    rng = np.random.default_rng(5)
    ids = truth.cells.footprints.mascon_id.tolist()
    for number in (165, 213):
        fact = facts[number]
        # Uniform on the sphere: sine of latitude.
        bounds = np.sin(np.radians([fact["lat_s"], fact["lat_n"]]))
        lat = np.degrees(np.arcsin(rng.uniform(*bounds, 30_000)))
        lon = rng.uniform(fact["lon_w"], fact["lon_e"], 30_000)
        x, y = Transformer.from_crs("EPSG:4326", "EPSG:3413", always_xy=True).transform(lon, lat)
        ice = shapely.contains_xy(greenland.outline, x, y)
        points = greenland.elevation_change(x[ice], y[ice], middle)
        assert change[ids.index(number)] == pytest.approx(points.mean(), abs=0.03)


def test_without_coupling_mass_knows_nothing_of_elevation(greenland_region, truth, greenland):
    settings = WorldSettings(track_step=200, segment_step=20, coupling=0.0)
    free = plant_mass(World(settings, greenland_region))
    months = truth.months[truth.months >= np.datetime64("2018-10-01")]
    column = np.isin(truth.months, months)
    change = mascons.mascon_change(greenland, truth, months)
    iced = np.isfinite(change).all(axis=1)

    def correlation(own):
        steps = [np.diff(v[iced], axis=1) for v in (change, own[:, column])]
        return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(*steps, strict=True)])

    assert np.median(correlation(truth.own_gt)) > 0.25
    assert abs(np.median(correlation(free.own_gt))) < 0.25
    # Trends are as large as before, but no longer where the ice thins, nor all down.
    slope = np.polyfit(np.arange(months.size), free.own_gt[iced][:, column].T, 1)[0]
    assert 0.2 < (slope > 0).mean() < 0.8
    # Differences between solutions are as large as before.
    ratio = np.diff(free.own_gt, axis=1).std() / np.diff(truth.own_gt, axis=1).std()
    assert 0.6 < ratio < 1.5


def test_elsewhere_the_band_rule_holds(small, tmp_path):
    truth = plant_mass(small)
    boxes = truth.cells.footprints
    assert set(boxes.mascon_id) <= {165, 166, 124}
    assert (truth.land_area_km2 > 0).all()
    write_mascons(truth, tmp_path / "mascons.nc")
    with netCDF4.Dataset(tmp_path / "mascons.nc") as file:
        assert str(netCDF4.num2date(file["time"][-1], file["time"].units))[:7] == "2023-12"


def test_longer_record_begins_with_the_shorter(small, small_region, small_elevation):
    short = plant_mass(small)
    longer = plant_mass(
        World(
            small.settings,
            small_region,
            PeriodSettings(start="2019-01", end="2024-12"),
            small_elevation,
        )
    )
    n = short.months.size
    assert np.allclose(longer.lwe_cm[:, :n], short.lwe_cm)


def test_footprints_of_an_unknown_table_are_refused():
    with pytest.raises(ValueError, match="jpl_greenland"):
        load_footprints("nowhere")
