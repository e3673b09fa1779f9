"""The three readers on small files of each layout, written here with plain h5py and netCDF4."""

import h5py
import netCDF4
import numpy as np
import pytest
import shapely
from pyproj import Transformer

from cryofuse.logs import UserError
from cryofuse.mascons import measure_ice, read_mascons

#: Days since 2002-01-01 of three months: January, February, April 2002.
BOUNDS = np.array([[0.0, 31.0], [31.0, 59.0], [90.0, 120.0]])


def write_jpl(
    path, *, descending=False, west=False, coast=False, damage=None, seam=False, empty=None
):
    """Write four 3° × 6° blocks on half-degree cells across Greenwich: ids 11, 12, 21 and 0."""
    lat = np.arange(70.25, 76.0, 0.5)
    lon = np.arange(354.25, 366.0, 0.5)
    rows, columns = np.meshgrid((lat > 73).astype(int), (lon > 360).astype(int), indexing="ij")
    ids = np.array([[11, 12], [21, 0]])[rows, columns]
    land = ((np.arange(lon.size) % 2 == 0)[np.newaxis, :] & (ids != 12)).astype(float)
    value = {0: 0.0, 11: -5.0, 12: 2.0, 21: 8.0}
    grid = np.vectorize(value.get)(ids)
    lwe = np.stack([grid * k for k in (1.0, 2.0, 3.0)])
    if coast:
        lwe = np.where((land == 0) & (ids == 11), 99.0, lwe)
    lwe[1][ids == 21] = -99999.0
    if damage:
        lwe[2, 0, 0] += damage
    if empty is not None:
        lwe[empty] = -99999.0
    lon = (lon + 180) % 360 - 180 if west else lon % 360
    # Columns follow each other over the end of the circle, unless they are sorted.
    order = np.argsort(lon) if west or seam else np.arange(lon.size)
    lon, ids, land, lwe = lon[order], ids[:, order], land[:, order], lwe[:, :, order]
    if descending:
        lat, ids, land, lwe = lat[::-1], ids[::-1], land[::-1], lwe[:, ::-1]
    with netCDF4.Dataset(path, "w") as file:
        for name, size in (("time", 3), ("lat", lat.size), ("lon", lon.size), ("bounds", 2)):
            file.createDimension(name, size)
        time = file.createVariable("time", "f8", ("time",))
        time.units = "days since 2002-01-01T00:00:00Z"
        time[:] = BOUNDS.mean(axis=1)
        file.createVariable("time_bounds", "f8", ("time", "bounds"))[:] = BOUNDS
        file.createVariable("lat", "f8", ("lat",))[:] = lat
        file.createVariable("lon", "f8", ("lon",))[:] = lon
        for name, values in (("lwe_thickness", lwe), ("uncertainty", np.full(lwe.shape, 1.5))):
            variable = file.createVariable(name, "f8", ("time", "lat", "lon"), fill_value=-99999.0)
            variable[:] = values
        file.createVariable("mascon_ID", "f8", ("lat", "lon"))[:] = ids
        file.createVariable("land_mask", "f8", ("lat", "lon"))[:] = land
        file.product_version = "v9"


@pytest.mark.parametrize("descending", [False, True])
def test_jpl_gives_one_value_per_mascon_with_gaps_and_fill_as_null(tmp_path, descending):
    path = tmp_path / "jpl.nc"
    write_jpl(path, descending=descending, west=True)
    mascons, mass = read_mascons(str(path), "jpl")
    assert mascons["mascon_id"].tolist() == [11, 12, 21]
    assert mascons.attrs["release"] == "v9"
    wide = mass.pivot(index="month", columns="mascon_id", values="lwe_cm")
    assert wide.index.strftime("%Y-%m").tolist() == ["2002-01", "2002-02", "2002-03", "2002-04"]
    assert wide[11].tolist() == pytest.approx([-5.0, -10.0, np.nan, -15.0], nan_ok=True)
    assert wide[21].tolist() == pytest.approx([8.0, np.nan, np.nan, 24.0], nan_ok=True)
    # Half of the cells of mascon 11 are land: half of its area on the sphere.
    sphere = 6371.0**2 * np.radians(6) * (np.sin(np.radians(73)) - np.sin(np.radians(70))) / 2
    assert mascons["land_area_km2"].tolist()[:2] == pytest.approx([sphere, 0.0])
    first = mass[(mass["mascon_id"] == 11)].iloc[0]
    assert first["mass_gt"] == pytest.approx(-5.0 * sphere * 1e-5)
    assert first["lwe_sigma_cm"] == 1.5


def test_jpl_outlines_are_boxes_with_exact_ellipsoidal_area(tmp_path):
    import pyproj

    path = tmp_path / "jpl.nc"
    write_jpl(path, west=True)
    mascons, _ = read_mascons(str(path), "jpl")
    box = mascons.set_index("mascon_id").geometry[11]
    assert box.bounds == pytest.approx((-6.0, 70.0, 0.0, 73.0))
    # Area between parallels by geodesic triangles of fine steps, another way round.
    along = np.linspace(-6, 0, 601)
    ring_lon = np.concatenate([along, along[::-1]])
    ring_lat = np.concatenate([np.full(601, 70.0), np.full(601, 73.0)])
    expected = abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(ring_lon, ring_lat)[0]) / 1e6
    area = mascons.set_index("mascon_id")["area_km2"]
    assert area[11] == pytest.approx(expected, rel=1e-5)
    assert mascons["longitude"].tolist() == pytest.approx([-3.0, 3.0, -3.0], abs=1e-4)


def test_jpl_takes_land_cells_where_the_coastline_filter_split_a_mascon(tmp_path):
    path = tmp_path / "jpl.nc"
    write_jpl(path, coast=True)
    _, mass = read_mascons(str(path), "jpl")
    assert mass[mass["mascon_id"] == 11]["lwe_cm"].iloc[0] == -5.0


def test_jpl_refuses_a_mascon_that_is_not_one_number(tmp_path):
    path = tmp_path / "jpl.nc"
    write_jpl(path, west=True, damage=0.5)
    with pytest.raises(UserError, match="mascon 11 is not one number .* in solution 2"):
        read_mascons(str(path), "jpl")


def test_jpl_keeps_only_mascons_of_the_extent(tmp_path):
    path = tmp_path / "jpl.nc"
    write_jpl(path)
    mascons, mass = read_mascons(str(path), "jpl", extent=(1.0, 70.5, 5.0, 72.0))
    assert mascons["mascon_id"].tolist() == [12]
    with pytest.raises(UserError, match="no mascon"):
        read_mascons(str(path), "jpl", extent=(100.0, 70.0, 110.0, 72.0))


#: Quarter-degree cells of the files in CSR's layout.
CSR_LAT, CSR_LON = np.arange(60.125, 62, 0.25), np.arange(300.125, 304, 0.25)
#: Number of the 1° block of each cell.
CSR_BLOCK = (np.arange(8) // 4)[:, np.newaxis] * 4 + np.arange(16) // 4


def write_cells(path, values, name, lat=CSR_LAT, lon=CSR_LON):
    """Write one variable on lat × lon."""
    with netCDF4.Dataset(path, "w") as file:
        for axis, centres in (("lat", lat), ("lon", lon)):
            file.createDimension(axis, centres.size)
            file.createVariable(axis, "f8", (axis,))[:] = centres
        file.createVariable(name, "f8", ("lat", "lon"))[:] = values


def write_csr(path, mask, *, tiles, lwe=None, lat=CSR_LAT, lon=CSR_LON, empty=None):
    """Write a quarter-degree crop in CSR's layout; cells share series in blocks if ``tiles``."""
    field = CSR_BLOCK + 0.5 if tiles else np.arange(CSR_BLOCK.size).reshape(8, 16) / 100.0
    if lwe is None:
        lwe = np.stack([field + 1, 2 * field, 3 * field - 1]).astype(np.float32)
    if empty is not None:
        lwe[empty] = -99999.0
    with netCDF4.Dataset(path, "w") as file:
        for name, size in (("time", 3), ("lat", lat.size), ("lon", lon.size), ("timebound", 2)):
            file.createDimension(name, size)
        time = file.createVariable("time", "f8", ("time",))
        time.Units = "days since 2002-01-01T00:00:00Z"
        time[:] = BOUNDS.mean(axis=1)
        file.createVariable("time_bounds", "f8", ("time", "timebound"))[:] = BOUNDS
        file.createVariable("lat", "f8", ("lat",))[:] = lat
        file.createVariable("lon", "f8", ("lon",))[:] = lon
        file.createVariable("lwe_thickness", "f4", ("time", "lat", "lon"))[:] = lwe
        file.title = "CSR layout, release 9"
    land = np.ones(lwe.shape[1:], np.float32)
    land[:, 9:11] = 0
    write_cells(mask, land, "LO_val", lat, lon)
    return lat, lwe, land


def test_csr_tiles_are_found_as_cells_with_one_series(tmp_path):
    path, mask = tmp_path / "csr.nc", tmp_path / "mask.nc"
    _, lwe, _ = write_csr(path, mask, tiles=True)
    mascons, mass = read_mascons(str(path), "csr", str(mask))
    assert mascons.attrs["unit"] == "native"
    assert len(mascons) == 8
    assert sorted(mass[mass["month"] == "2002-04-01"]["lwe_cm"]) == pytest.approx(
        sorted(np.unique(lwe[2]))
    )
    assert mass[mass["month"] == "2002-03-01"]["lwe_cm"].isna().all()


def test_csr_without_tiles_is_averaged_onto_degree_cells_over_land(tmp_path):
    path, mask = tmp_path / "csr.nc", tmp_path / "mask.nc"
    lat, lwe, land = write_csr(path, mask, tiles=False)
    mascons, mass = read_mascons(str(path), "csr", str(mask))
    assert mascons.attrs["unit"] == "derived"
    # 60–61°N holds round(360·cos 60.5°) = 177 cells of 2.0339°; one lies in 300–304°E whole.
    width = 360 / round(360 * np.cos(np.radians(60.5)))
    places = [k for k in range(177) if k * width >= 300 and (k + 1) * width <= 304]
    assert [number % 1000 for number in mascons["mascon_id"] if number // 1000 == 151] == places
    lon = np.arange(300.125, 304, 0.25)
    inside = (lon > places[0] * width) & (lon < (places[0] + 1) * width)
    weight = np.outer(np.cos(np.radians(lat[:4])), inside) * land[:4]
    # Areas of bands are proportional to the cosine of their middle.
    expected = (weight * lwe[1, :4]).sum() / weight.sum()
    found = mass[(mass["mascon_id"] == 151_000 + places[0]) & (mass["month"] == "2002-02-01")]
    assert found["lwe_cm"].iloc[0] == pytest.approx(expected, rel=1e-6)


def test_csr_needs_its_land_mask(tmp_path):
    path, mask = tmp_path / "csr.nc", tmp_path / "mask.nc"
    write_csr(path, mask, tiles=True)
    with pytest.raises(UserError, match="land_mask_file"):
        read_mascons(str(path), "csr")


def test_csr_blocks_that_share_a_series_but_do_not_touch_are_two_tiles(tmp_path):
    path, mask = tmp_path / "csr.nc", tmp_path / "mask.nc"
    field = CSR_BLOCK + 0.5
    field[CSR_BLOCK == 7] = field[CSR_BLOCK == 0][0]
    # Blocks 0 and 5 touch by a corner alone, and are cells of one tile if they share a series.
    field[CSR_BLOCK == 5] = field[CSR_BLOCK == 0][0]
    lwe = np.stack([field, 2 * field, 3 * field]).astype(np.float32)
    write_csr(path, mask, tiles=True, lwe=lwe)
    mascons, _ = read_mascons(str(path), "csr", str(mask))
    assert len(mascons) == 7
    size = mascons.set_index("mascon_id")["area_km2"]
    # The number of a tile is that of its first cell: row 600, columns 1200 and 1212 of 1440.
    assert size[1 + 1440 * 600 + 1200] == pytest.approx(2 * size[1 + 1440 * 600 + 1208], rel=0.1)
    assert 1 + 1440 * 604 + 1212 in size.index


def test_csr_cells_of_fill_or_zero_are_no_tile(tmp_path):
    path, mask = tmp_path / "csr.nc", tmp_path / "mask.nc"
    field = CSR_BLOCK + 0.5
    field[:, :4] = 0.0
    lwe = np.stack([field, 2 * field, 3 * field]).astype(np.float32)
    lwe[:, :, 12:] = -99999.0
    lwe[:, 0, 15] = np.nan
    write_csr(path, mask, tiles=True, lwe=lwe)
    mascons, mass = read_mascons(str(path), "csr", str(mask))
    assert len(mascons) == 4 and mascons.attrs["unit"] == "native"
    assert mascons.total_bounds == pytest.approx((-59.0, 60.0, -57.0, 62.0))


def test_csr_tiles_have_the_same_numbers_in_any_crop_direction_and_record(tmp_path):
    path, mask = tmp_path / "csr.nc", tmp_path / "mask.nc"
    write_csr(path, mask, tiles=True)
    whole, _ = read_mascons(str(path), "csr", str(mask))
    _, lwe, _ = write_csr(path, mask, tiles=True)
    other = 3 * lwe[:, ::-1, 4:] + 5
    west = CSR_LON[4:] - 360
    write_csr(path, mask, tiles=True, lwe=other, lat=CSR_LAT[::-1], lon=west)
    crop, _ = read_mascons(str(path), "csr", str(mask))
    assert len(crop) == 6 and set(crop["mascon_id"]) < set(whole["mascon_id"])
    boxes = whole.set_index("mascon_id").geometry
    for number, box in crop.set_index("mascon_id").geometry.items():
        assert box.equals_exact(boxes[number], 1e-6)


def test_csr_tiles_round_the_globe_are_one_across_greenwich(tmp_path):
    path, mask = tmp_path / "csr.nc", tmp_path / "mask.nc"
    lon = np.arange(0.125, 360, 0.25)
    block = np.roll(np.arange(1440) // 4, -2) + 0.5
    lwe = (np.ones((3, 4, 1)) * [[[1.0]], [[2.0]], [[3.0]]] * block).astype(np.float32)
    write_csr(path, mask, tiles=True, lwe=lwe, lat=CSR_LAT[:4], lon=lon)
    mascons, _ = read_mascons(str(path), "csr", str(mask), extent=(-1.0, 60.0, 2.0, 61.0))
    bounds = sorted(box.bounds for box in mascons.geometry)
    assert bounds[1] == pytest.approx((-0.5, 60.0, 0.5, 61.0))


def test_csr_mapping_names_the_tiles(tmp_path):
    path, mask, mapping = (tmp_path / f"{name}.nc" for name in ("csr", "mask", "mapping"))
    _, lwe, _ = write_csr(path, mask, tiles=True)
    # The mapping is larger than the file, and its longitudes are of the other convention.
    lat, lon = np.arange(59.125, 63, 0.25), np.arange(299.125, 305, 0.25)
    cells = np.zeros((lat.size, lon.size))
    cells[4:12, 4:20] = CSR_BLOCK + 41_000
    cells[4:12, 4:8] = np.nan
    write_cells(mapping, cells, "mascon_id", lat, lon - 360)
    mascons, mass = read_mascons(str(path), "csr", str(mask), mapping=str(mapping))
    assert mascons["mascon_id"].tolist() == [41_001, 41_002, 41_003, 41_005, 41_006, 41_007]
    assert mascons.attrs["unit"] == "native" and "mapping.nc" in mascons.attrs["footprints"]
    second = mass[mass["month"] == "2002-02-01"].set_index("mascon_id")["lwe_cm"]
    assert second[41_006] == pytest.approx(lwe[1][CSR_BLOCK == 6][0])
    # Two of the six tiles' columns are sea.
    land = mascons.set_index("mascon_id")["land_area_km2"]
    assert land[41_002] == pytest.approx(land[41_001] / 2)

    wrong = np.where(CSR_BLOCK == 2, 3, CSR_BLOCK + 1)
    wrong[0, :4] = 2
    write_cells(mapping, wrong, "tile")
    with pytest.raises(UserError, match="its tiles are not those of .*csr.nc.*another release"):
        read_mascons(str(path), "csr", str(mask), mapping=str(mapping))
    write_cells(mapping, CSR_BLOCK + 0.5, "tile")
    with pytest.raises(UserError, match="mapping.nc: numbers of tiles are not whole"):
        read_mascons(str(path), "csr", str(mask), mapping=str(mapping))
    write_cells(mapping, CSR_BLOCK + 1, "tile", CSR_LAT + 0.1)
    with pytest.raises(UserError, match="mapping.nc: its cells are not those of"):
        read_mascons(str(path), "csr", str(mask), mapping=str(mapping))
    mapping.write_text("<html>")
    with pytest.raises(UserError, match="mapping.nc: unreadable as a mapping"):
        read_mascons(str(path), "csr", str(mask), mapping=str(mapping))


def test_csr_smooth_file_is_averaged_onto_the_mapping(tmp_path):
    path, mask, mapping = (tmp_path / f"{name}.nc" for name in ("csr", "mask", "mapping"))
    lat, lwe, land = write_csr(path, mask, tiles=False)
    write_cells(mapping, CSR_BLOCK + 1, "mascon_id")
    mascons, mass = read_mascons(str(path), "csr", str(mask), mapping=str(mapping))
    assert mascons.attrs["unit"] == "derived" and len(mascons) == 8
    weight = (CSR_BLOCK == 2) * land * np.cos(np.radians(lat))[:, np.newaxis]
    expected = (weight * lwe[0]).sum() / weight.sum()
    found = mass[(mass["mascon_id"] == 3) & (mass["month"] == "2002-01-01")]["lwe_cm"]
    assert found.iloc[0] == pytest.approx(expected, rel=1e-6)


def write_gsfc(path, *, empty=None, **replace):
    """Write three mascons over two months: Greenland, ocean at Greenwich, Antarctica at 180°."""
    content = {
        "mascon/lat_center": np.array([[70.5, 70.5, -80.5]]),
        "mascon/lon_center": np.array([[310.0, 359.5, 180.0]]),
        "mascon/lat_span": np.ones((1, 3)),
        "mascon/lon_span": np.array([[3.0, 3.0, 6.0]]),
        "mascon/area_km2": np.array([[12_000.0, 12_100.0, 11_900.0]]),
        "mascon/labels": np.array([[5, 6, 7]]),
        "mascon/location": np.array([[1, 90, 3]]),
        # Counted since 2002-01-00: January is 1 to 31.
        "time/ref_days_first": np.array([[1, 32]]),
        "time/ref_days_last": np.array([[31, 59]]),
        "solution/cmwe": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        "uncertainty/noise_2sigma": np.full((3, 2), 3.0),
        "uncertainty/leakage_2sigma": np.array([[1.0], [2.0], [3.0]]),
        "uncertainty/leakage_trend": np.full((3, 2), 50.0),
    } | {name.replace("__", "/"): value for name, value in replace.items()}
    if empty is not None:
        content["solution/cmwe"][:, empty] = np.nan
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            file[name] = values
        file["solution"].attrs["Version"] = np.bytes_("RL06 v9.0")


def test_gsfc_days_locations_and_sigma(tmp_path):
    path = tmp_path / "gsfc.h5"
    write_gsfc(path)
    mascons, mass = read_mascons(str(path), "gsfc")
    assert mascons["land_area_km2"].tolist() == [12_000.0, 0.0, 11_900.0]
    assert mascons.attrs["release"] == "RL06 v9.0"
    assert mascons.attrs["sigma"] == "(noise_2sigma + leakage_2sigma)/2"
    assert mass[mass["mascon_id"] == 5]["lwe_cm"].tolist() == [1.0, 2.0]
    assert mass["month"].dt.strftime("%Y-%m").unique().tolist() == ["2002-01", "2002-02"]
    # The uncertainty of the trend is no scatter of months.
    assert mass["lwe_sigma_cm"].tolist() == pytest.approx([2.0, 2.0, 2.5, 2.5, 3.0, 3.0])
    assert mass["solution_end"].iloc[0] == np.datetime64("2002-02-01")
    # The cell at 180° is cut in two, the one at 0° is not.
    kinds = mascons.set_index("mascon_id").geometry.geom_type
    assert kinds.to_dict() == {5: "Polygon", 6: "Polygon", 7: "MultiPolygon"}
    assert abs(mascons["longitude"].iloc[2]) == pytest.approx(180.0)


def test_gsfc_refuses_arrays_that_do_not_belong_together(tmp_path):
    path = tmp_path / "gsfc.h5"
    for replace, words in (
        ({"mascon__location": np.array([[1, 90]])}, "mascon/location has 2 values, expected 3"),
        ({"mascon__labels": np.array([[5, 5, 7]])}, "a number stands for two mascons"),
        ({"time__ref_days_last": np.array([[31]])}, "2 first days and 1 last days"),
        ({"solution__cmwe": np.ones((4, 2))}, r"solution/cmwe has shape \(4, 2\)"),
    ):
        write_gsfc(path, **replace)
        with pytest.raises(UserError, match=words):
            read_mascons(str(path), "gsfc")


#: How a small file of each product is written; returns what read_mascons takes.
def written(product, folder, **options):
    path, mask = folder / f"{product}.dat", folder / "mask.nc"
    if product == "csr":
        write_csr(path, mask, tiles=True, **options)
        return str(path), product, str(mask)
    {"jpl": write_jpl, "gsfc": write_gsfc}[product](path, **options)
    return str(path), product


PRODUCTS = ("jpl", "csr", "gsfc")


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_solution_of_fill_alone_is_a_null_month_with_a_line_in_the_log(product, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        _, mass = read_mascons(*written(product, tmp_path, empty=1))
    assert len(caplog.records) == 1
    assert "solution 1 (2002-02-01 to 2002-03-01) holds only fill" in caplog.text
    null = mass.groupby(mass["month"].dt.strftime("%Y-%m"))["lwe_cm"].apply(lambda v: v.isna())
    assert null["2002-02"].all() and not null["2002-01"].any()
    assert mass[mass["lwe_cm"].isna()]["solution_start"].isna().all()


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_file_of_fill_alone_is_refused(product, tmp_path):
    with pytest.raises(UserError, match="every solution holds only fill|no mascon"):
        read_mascons(*written(product, tmp_path, empty=slice(None)))


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.995])
def test_a_file_cut_short_is_told_in_one_line(product, kept, tmp_path):
    arguments = written(product, tmp_path)
    path = tmp_path / f"{product}.dat"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=rf"{product}.dat: unreadable as a file of {product}"):
        read_mascons(*arguments)


@pytest.mark.parametrize("product", PRODUCTS)
def test_data_that_cannot_be_inflated_are_told_in_one_line(product, tmp_path):
    name = {"gsfc": "solution/cmwe"}.get(product, "lwe_thickness")
    arguments = written(product, tmp_path)
    path = tmp_path / f"{product}.dat"
    with h5py.File(path, "a") as file:
        values = file[name][()]
        del file[name]
        data = file.create_dataset(name, data=values, chunks=True, compression="gzip")
        if product != "gsfc":
            for axis, scale in enumerate(("time", "lat", "lon")):
                data.dims[axis].attach_scale(file[scale])
        where = data.id.get_chunk_info(0)
    with path.open("r+b") as stream:
        stream.seek(where.byte_offset)
        stream.write(b"\xff" * where.size)
    with pytest.raises(UserError, match=rf"{product}.dat: unreadable as a file of {product}"):
        read_mascons(*arguments)


def test_a_land_mask_of_another_grid_is_told_in_one_line(tmp_path):
    arguments = written("csr", tmp_path)
    land = np.ones(CSR_BLOCK.shape)
    write_cells(tmp_path / "mask.nc", land, "LO_val", CSR_LAT + 0.125)
    with pytest.raises(UserError, match="mask.nc: its cells are not those of .*csr.dat"):
        read_mascons(*arguments)
    write_cells(tmp_path / "mask.nc", land, "other")
    with pytest.raises(UserError, match="mask.nc: no LO_val: this is not CSR's land mask"):
        read_mascons(*arguments)
    (tmp_path / "mask.nc").write_text("<html>")
    with pytest.raises(UserError, match="mask.nc: unreadable as CSR's land mask"):
        read_mascons(*arguments)
    arguments = written("jpl", tmp_path)
    with h5py.File(arguments[0], "a") as file:
        del file["land_mask"]
        file["land_mask"] = np.ones((3, 4))
    with pytest.raises(UserError, match=r"land_mask has the shape \(3, 4\), expected \(12, 24\)"):
        read_mascons(*arguments)


def test_times_that_are_fill_or_absent_are_told_in_one_line(tmp_path):
    for product in ("jpl", "csr"):
        arguments = written(product, tmp_path)
        with netCDF4.Dataset(arguments[0], "a") as file:
            file["time_bounds"][1, 0] = 9.96921e36
        with pytest.raises(UserError, match="time holds fill"):
            read_mascons(*arguments)
    write_gsfc(tmp_path / "gsfc.h5", time__ref_days_first=np.array([[1, np.nan]]))
    with pytest.raises(UserError, match="time holds fill"):
        read_mascons(str(tmp_path / "gsfc.h5"), "gsfc")


def test_longitudes_sorted_over_the_seam_of_a_crop_are_refused(tmp_path):
    path = tmp_path / "jpl.nc"
    write_jpl(path, seam=True)
    with pytest.raises(UserError, match="lon is not evenly spaced"):
        read_mascons(str(path), "jpl")


def ice_box(west, south, east, north):
    """Return a box of degrees in EPSG:3413."""
    box = shapely.segmentize(shapely.box(west, south, east, north), 0.1)
    move = Transformer.from_crs("EPSG:4326", "EPSG:3413", always_xy=True).transform
    return shapely.transform(box, lambda xy: np.column_stack(move(xy[:, 0], xy[:, 1])))


def test_a_crop_that_leaves_ice_out_is_refused(tmp_path):
    # Each file holds the ice of the first box, and half of that of the second.
    for product, inside, beyond in (
        ("jpl", (-5.0, 70.5, 5.0, 72.5), (-5.0, 69.5, 5.0, 70.5)),
        ("csr", (-59.5, 60.2, -56.5, 61.8), (-59.5, 61.5, -56.5, 62.5)),
        ("gsfc", (-51.4, 70.1, -48.6, 70.9), (-51.4, 70.5, -48.6, 71.5)),
    ):
        mascons, _ = read_mascons(*written(product, tmp_path))
        parts = measure_ice(mascons, ice_box(*inside), "EPSG:3413")
        assert parts["ice_area_km2"].sum() > 10_000 / (10 if product == "gsfc" else 1)
        with pytest.raises(UserError, match="ice lie in no mascon of the file: is it cropped"):
            measure_ice(mascons, ice_box(*beyond), "EPSG:3413")


def test_a_known_mascon_whose_ice_the_file_lacks_is_refused(tmp_path):
    import geopandas

    known = geopandas.GeoDataFrame(
        {"mascon_id": [11, 12]},
        geometry=[shapely.box(-9.0, 70.0, 0.0, 73.0), shapely.box(0.0, 70.0, 6.0, 73.0)],
        crs="EPSG:4326",
    )
    mascons, _ = read_mascons(*written("jpl", tmp_path), footprints=known)
    kept = measure_ice(mascons, ice_box(-5.0, 70.5, 5.0, 72.5), "EPSG:3413")
    assert "beyond_file" not in kept
    with pytest.raises(UserError, match="mascon 11 is cut by the edge of the file: .* km² of its"):
        measure_ice(mascons, ice_box(-7.0, 70.5, 5.0, 72.5), "EPSG:3413")
    # The same of averages onto known footprints.
    write_csr(tmp_path / "csr.nc", tmp_path / "mask.nc", tiles=False)
    known = known.set_geometry([shapely.box(-62, 60, -58, 62), shapely.box(-58, 60, -56, 62)])
    arguments = str(tmp_path / "csr.nc"), "csr", str(tmp_path / "mask.nc")
    mascons, _ = read_mascons(*arguments, footprints=known)
    measure_ice(mascons, ice_box(-59.5, 60.2, -56.5, 61.8), "EPSG:3413")
    with pytest.raises(UserError, match="mascon 11 is cut by the edge of the file"):
        measure_ice(mascons, ice_box(-61.5, 60.2, -56.5, 61.8), "EPSG:3413")


def test_every_product_says_where_its_sigma_comes_from(tmp_path):
    said = {p: read_mascons(*written(p, tmp_path))[0].attrs["sigma"] for p in PRODUCTS}
    assert said == {
        "jpl": "uncertainty of the file, 1σ of a mascon",
        "csr": "scatter of the series (upper bound): the product states none",
        "gsfc": "(noise_2sigma + leakage_2sigma)/2",
    }


def test_what_is_no_mascon_file_is_told_in_one_line(tmp_path):
    other = tmp_path / "other.nc"
    with netCDF4.Dataset(other, "w") as file:
        file.createDimension("x", 1)
    page = tmp_path / "page.nc"
    page.write_text("<html>log in</html>")
    for product, path, words in (
        ("jpl", other, "not in the layout of JPL"),
        ("csr", other, "not in the layout of CSR"),
        ("gsfc", other, "not in the layout of GSFC"),
        ("jpl", page, "unreadable"),
        ("gsfc", page, "unreadable"),
        ("jpl", tmp_path / "absent.nc", "no mascon file"),
        ("grgs", other, "none of jpl, csr, gsfc"),
    ):
        with pytest.raises(UserError, match=words):
            read_mascons(str(path), product)
