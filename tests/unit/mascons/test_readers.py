"""The three readers on small files of each layout, written here with plain h5py and netCDF4."""

import h5py
import netCDF4
import numpy as np
import pytest

from cryofuse.logs import UserError
from cryofuse.mascons import read_mascons

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


def write_csr(path, mask, *, tiles):
    """Write a quarter-degree crop in CSR's layout; cells share series in blocks if ``tiles``."""
    lat, lon = np.arange(60.125, 62, 0.25), np.arange(300.125, 304, 0.25)
    block = (np.arange(lat.size) // 4)[:, np.newaxis] * 4 + (np.arange(lon.size) // 4)
    own = np.arange(lat.size * lon.size).reshape(block.shape) / 100.0
    field = block.astype(float) if tiles else own
    lwe = np.stack([field + 1, 2 * field, 3 * field - 1]).astype(np.float32)
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
    land = np.ones(block.shape, np.float32)
    land[:, 9:11] = 0
    with netCDF4.Dataset(mask, "w") as file:
        file.createDimension("lat", lat.size)
        file.createDimension("lon", lon.size)
        file.createVariable("lat", "f8", ("lat",))[:] = lat
        file.createVariable("lon", "f8", ("lon",))[:] = lon
        file.createVariable("LO_val", "f4", ("lat", "lon"))[:] = land
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


def test_gsfc_days_locations_and_sigma(tmp_path):
    path = tmp_path / "gsfc.h5"
    with h5py.File(path, "w") as file:
        file["mascon/lat_center"] = np.array([[70.5, 70.5, -80.5]])
        file["mascon/lon_center"] = np.array([[310.0, 359.5, 180.0]])
        file["mascon/lat_span"] = np.ones((1, 3))
        file["mascon/lon_span"] = np.array([[3.0, 3.0, 6.0]])
        file["mascon/area_km2"] = np.array([[12_000.0, 12_100.0, 11_900.0]])
        file["mascon/labels"] = np.array([[5, 6, 7]])
        file["mascon/location"] = np.array([[1, 90, 3]])
        # Counted since 2002-01-00: January is 1 to 31.
        file["time/ref_days_first"] = np.array([[1, 32]])
        file["time/ref_days_last"] = np.array([[31, 59]])
        file["solution/cmwe"] = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        file["uncertainty/noise_2sigma"] = np.full((3, 2), 3.0)
        file["uncertainty/leakage_2sigma"] = np.array([[1.0], [2.0], [3.0]])
    mascons, mass = read_mascons(str(path), "gsfc")
    assert mascons["land_area_km2"].tolist() == [12_000.0, 0.0, 11_900.0]
    assert mass[mass["mascon_id"] == 5]["lwe_cm"].tolist() == [1.0, 2.0]
    assert mass["month"].dt.strftime("%Y-%m").unique().tolist() == ["2002-01", "2002-02"]
    assert mass["lwe_sigma_cm"].tolist() == pytest.approx([2.0, 2.0, 2.5, 2.5, 3.0, 3.0])
    assert mass["solution_end"].iloc[0] == np.datetime64("2002-02-01")
    # The cell at 180° is cut in two, the one at 0° is not.
    kinds = mascons.set_index("mascon_id").geometry.geom_type
    assert kinds.to_dict() == {5: "Polygon", 6: "Polygon", 7: "MultiPolygon"}
    assert abs(mascons["longitude"].iloc[2]) == pytest.approx(180.0)


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
