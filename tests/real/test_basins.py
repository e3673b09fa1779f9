"""Greenland's mascons shared out over six zones of the real ice sheet."""

import geopandas
import numpy as np
import pytest
import shapely

from cryofuse.calendar import year_fraction
from cryofuse.config import BasinSource, SelectSettings
from cryofuse.mascons import load_footprints, measure_ice, read_mascons, select_mascons
from cryofuse.mascons.basins import join_basins, read_basins

pytestmark = pytest.mark.real

CRS = "EPSG:3413"
#: The ice divide, roughly (degrees east, north).
DIVIDE = [(-44.5, 58), (-45, 61.5), (-45.5, 64), (-42.5, 66.5), (-39, 70), (-38.5, 72.5)]
DIVIDE += [(-41, 75), (-46, 77.5), (-45, 79)]


@pytest.fixture(scope="module")
def ice(real_folder):
    path = real_folder / "geometry" / "mouginot_gis_w_shelves.gpkg"
    return geopandas.read_file(path).to_crs(CRS).union_all()


@pytest.fixture(scope="module")
def zones(tmp_path_factory):
    """Six zones beside the divide, as a file a user would have."""
    west = shapely.Polygon([(-80, 58), *DIVIDE, (-80, 79)])
    east = shapely.Polygon([(-5, 58), *DIVIDE, (-5, 79)])

    def band(side, south, north):
        return shapely.segmentize(side & shapely.box(-90, south, 0, north), 0.25)

    shapes = {
        "SW": band(west, 58, 67.5),
        "CW": band(west, 67.5, 72),
        "NW": band(west, 72, 79),
        "NO": shapely.segmentize(shapely.box(-80, 79, -5, 84), 0.25),
        "NE": band(east, 69, 79),
        "SE": band(east, 58, 69),
    }
    path = tmp_path_factory.mktemp("zones") / "zones.gpkg"
    geopandas.GeoDataFrame(
        {"zone": list(shapes)}, geometry=list(shapes.values()), crs="EPSG:4326"
    ).to_file(path)
    return read_basins(BasinSource(file=str(path), name="zone"), CRS)


@pytest.fixture(scope="module")
def jpl(real_folder, ice):
    known = load_footprints("jpl_greenland")
    path = real_folder / "grace" / "JPL_MSCN_layout_greenland_200204_202408.nc"
    mascons, mass = read_mascons(str(path), "jpl", footprints=known)
    return select_mascons(measure_ice(mascons, ice, CRS, known), SelectSettings()), mass


def trend(series):
    held = series.dropna()
    return np.polyfit(year_fraction(held.index.to_numpy()), held.to_numpy(), 1)[0]


def test_zones_sum_to_the_selected_mascons_and_lose_where_greenland_loses(jpl, zones, ice):
    mascons, mass = jpl
    basins, shared, told = join_basins(mascons, mass, zones, ice, CRS, SelectSettings())
    chosen = mass[mass["mascon_id"].isin(mascons.loc[mascons["selected"], "mascon_id"])]
    assert chosen["mascon_id"].nunique() == 27
    total = chosen.groupby("month")["mass_gt"].sum(min_count=27)
    parts = shared.pivot(index="month", columns="mascon_id", values="mass_gt")  # noqa: PD010
    summed = parts.sum(axis=1, min_count=6)
    assert summed.notna().sum() == total.notna().sum() == 227
    assert (summed - total).abs().max() < 1e-3
    assert trend(summed) == pytest.approx(-263, abs=1)
    trends = {told["basins"][number]: trend(parts[number]) for number in parts.columns}
    # The north-west loses most; the north and the north-east, with a third of the ice and more,
    # lose less than any zone of the south and west.
    assert min(trends, key=trends.get) == "NW" and trends["NW"] < -55
    assert max(trends["NO"], trends["NE"]) < 0
    assert min(trends["NO"], trends["NE"]) > max(trends[name] for name in ("SW", "CW", "SE"))
    assert told["ice_outside_basins_km2"] < 10
    # Ice of the four mascons that the rule leaves out.
    assert 0 < told["ice_outside_mascons_km2"] < 0.01 * ice.area / 1e6
    whole = geopandas.GeoSeries([ice], crs=CRS).to_crs("EPSG:6931").area.iloc[0] / 1e6
    assert basins["ice_area_km2"].sum() == pytest.approx(whole, rel=1e-4)
