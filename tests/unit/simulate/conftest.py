from pathlib import Path

import numpy as np
import pytest

from cryofuse.config import Box, ElevationSettings, PeriodSettings, RegionSettings, WorldSettings
from cryofuse.simulate.world import World

OUTLINES = Path(__file__).parents[3] / "config" / "outlines"


@pytest.fixture(scope="session")
def greenland_region():
    return RegionSettings(
        title="Greenland",
        crs="EPSG:3413",
        outline=str(OUTLINES / "greenland.geojson"),
        coast=str(OUTLINES / "coast_arctic.geojson"),
        footprints="jpl_greenland",
    )


@pytest.fixture(scope="session")
def greenland(greenland_region):
    return World(WorldSettings(track_step=200, segment_step=20), greenland_region)


@pytest.fixture(scope="session")
def small_region():
    return RegionSettings(
        title="A box of ice",
        crs="EPSG:3413",
        outline=Box(west=-49.0, south=69.0, east=-46.0, north=70.0),
    )


@pytest.fixture(scope="session")
def small_elevation():
    return ElevationSettings(
        windows=[{"name": "west", "longitude": -47.6, "latitude": 69.5, "width_m": 20_000}]
    )


@pytest.fixture(scope="session")
def small_period():
    return PeriodSettings(start="2019-01", end="2023-12", length="year")


@pytest.fixture(scope="session")
def make_small(small_region, small_elevation, small_period):
    def make(**settings):
        options = {"track_step": 8, "segment_step": 10, "lakes": 2} | settings
        return World(WorldSettings(**options), small_region, small_period, small_elevation)

    return make


@pytest.fixture(scope="session")
def small(make_small):
    return make_small()


def instant(text):
    return np.datetime64(text, "us")
