import netCDF4
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin

from cryofuse.config import RasterSource, RegionSettings
from cryofuse.rasters import RasterError, load_ice, sample_raster

# A plane: bilinear sampling must return it exactly.
X = np.arange(500.0, 10_500.0, 1000.0)
Y = np.arange(-9_500.0, 500.0, 1000.0)
PLANE = 0.01 * X[None, :] - 0.02 * Y[:, None] + 5


@pytest.fixture
def geotiff(tmp_path):
    path = tmp_path / "plane.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=10,
        height=10,
        count=1,
        dtype="float64",
        crs="EPSG:3413",
        transform=from_origin(0, 0, 1000, 1000),
        nodata=-9999,
    ) as file:
        values = PLANE[::-1].copy()
        values[0, 0] = -9999
        file.write(values, 1)
    return str(path)


@pytest.fixture
def netcdf(tmp_path):
    path = tmp_path / "plane.nc"
    with netCDF4.Dataset(path, "w") as file:
        for name, values in (("yc", Y), ("xc", X)):
            file.createDimension(name, values.size)
            axis = file.createVariable(name, "f8", (name,))
            axis[:] = values / 1000
            axis.units = "km"
        file.createVariable("plane", "f8", ("yc", "xc"))[:] = PLANE
        mask = np.zeros((10, 10))
        mask[2:5, 3:7] = 2
        mask[8, 8] = 1
        file.createVariable("mask", "f4", ("yc", "xc"))[:] = mask
        mapping = file.createVariable("polar_stereographic", "i4", ())
        mapping.grid_mapping_name = "polar_stereographic"
        mapping.latitude_of_projection_origin = 70.0
    return str(path)


def test_a_plane_is_sampled_exactly_from_both_formats(geotiff, netcdf):
    rng = np.random.default_rng(1)
    x, y = rng.uniform(2000, 9000, 50), rng.uniform(-9000, -2000, 50)
    expected = 0.01 * x - 0.02 * y + 5
    for source in (RasterSource(file=geotiff), RasterSource(file=netcdf, variable="plane")):
        assert sample_raster(source, x, y, "EPSG:3413") == pytest.approx(expected)


def test_outside_and_no_data_are_nan_never_a_fill(geotiff):
    source = RasterSource(file=geotiff)
    outside = sample_raster(
        source, np.array([-5000.0, 600.0]), np.array([0.0, -600.0]), "EPSG:3413"
    )
    assert np.isnan(outside).all()


def test_a_mask_raster_becomes_the_ice_inside_the_outline(netcdf):
    square = shapely.box(0, -10_000, 10_000, 0)
    degrees = shapely.transform(square, lambda xy: np.column_stack(_degrees(xy)))
    region = RegionSettings(
        title="t",
        crs="EPSG:3413",
        outline=shapely.geometry.mapping(degrees),
        ice_mask=RasterSource(file=netcdf, variable="mask", ice_values=[2]),
    )
    ice = load_ice(region)
    assert ice.polygon.area == pytest.approx(3 * 4 * 1e6, rel=1e-3)
    # Cells 3…6 by 2…4: x 3–7 km, y −8…−5 km.
    inside = ice.contains(np.array([3500.0, 3500.0, 8500.0]), np.array([-7500.0, -4500.0, -1500.0]))
    assert inside.tolist() == [True, False, False]


def _degrees(xy):
    from pyproj import Transformer

    return Transformer.from_crs("EPSG:3413", "EPSG:4326", always_xy=True).transform(
        xy[:, 0], xy[:, 1]
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"file": "nowhere.tif"}, "no raster file"),
        ({"variable": None}, "variable"),
        ({"variable": "x"}, "variable"),
    ],
)
def test_a_raster_that_cannot_be_read_says_why(netcdf, change, expected):
    source = RasterSource.model_validate({"file": netcdf, "variable": "plane"} | change)
    with pytest.raises(RasterError, match=expected):
        sample_raster(source, np.zeros(1), np.zeros(1), "EPSG:3413")
