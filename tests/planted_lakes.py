"""Lakes and look-alikes planted in windows anywhere on the ice: segments, fits, search, truth.

Segments are those that granules of the synthetic world hold (noise, outliers, fills, mispointed
cycles), made and fitted without files.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from cryofuse.calendar import month_range
from cryofuse.config import (
    ElevationSettings,
    HydrologySettings,
    PeriodSettings,
    WorldSettings,
    load_region,
)
from cryofuse.elevation.anomalies import fit_months
from cryofuse.elevation.surface import sort_segments
from cryofuse.elevation.tiles import segment_sigma
from cryofuse.geo import unproject
from cryofuse.hydrology.lakes import find_lakes
from cryofuse.simulate.granules import list_granules, observe, plan_passes
from cryofuse.simulate.orbit import seconds_to_time
from cryofuse.simulate.world import Lake, World

REGION = load_region("demo", Path(__file__).parents[1] / "config/regions")
PERIOD = PeriodSettings(start="2018-10", end="2024-12")
MONTHS = month_range("2018-10", "2024-12")
WIDTH_M = 20_000.0
MASCONS = gpd.GeoDataFrame(
    {"mascon_id": [1]}, geometry=[shapely.box(180, 50, 360, 90)], crs="EPSG:4326"
)
#: Slack of a match beyond a lake's radius (m) and nodes within it that make it crossed.
SLACK_M, CROSSED_NODES = 2000.0, 3


@dataclass(frozen=True)
class Pond:
    """Water on the surface: it comes each June to August and is gone by the end of September."""

    x_m: float
    y_m: float
    radius_m: float
    depth_m: float

    def profile(self, x_m, y_m):
        """Share of the depth at points."""
        r = np.hypot(x_m - self.x_m, y_m - self.y_m) / self.radius_m
        return np.clip(1.0 - r**2, 0.0, None)

    def level(self, time):
        """Water level (m) over the dry basin."""
        day = (np.asarray(time, "M8[D]") - np.asarray(time, "M8[Y]").astype("M8[D]")).astype(float)
        return self.depth_m * np.interp(day, [151, 196, 232, 273], [0.0, 1.0, 1.0, 0.0])


class LakeWorld(World):
    """A world that can hold ponds beside lakes."""

    def lake_level(self, lake, time):
        """How high a lake or pond stands (m)."""
        if isinstance(lake, Pond):
            return lake.level(time)
        return super().lake_level(lake, time)


def draw_windows(seed, count=3, width_m=WIDTH_M, ponds=False):
    """Windows on the ice, 20 km or more from its edge; low ones where ponds are wanted."""
    rng = np.random.default_rng([seed, 1])
    plain = World(WorldSettings(seed=seed, lakes=0), REGION, PERIOD)
    inner = plain.outline.buffer(-20_000.0)
    x_min, y_min, x_max, y_max = inner.bounds
    windows = []
    while len(windows) < count:
        x, y = rng.uniform(x_min, x_max), rng.uniform(y_min, y_max)
        low = float(plain.topography(x, y)) < 1400.0
        if not inner.contains(shapely.Point(x, y)) or (ponds and not low):
            continue
        longitude, latitude = unproject(x, y, plain.crs)
        windows.append(
            {
                "name": f"w{len(windows)}",
                "longitude": float(longitude),
                "latitude": float(latitude),
                "width_m": width_m,
            }
        )
    return windows


def draw_lakes(
    world, seed, per_window=2, radius=(2000.0, 3000.0), depth=(3.0, 9.0),
    drains=("2020-01", "2023-12"), ponds=0,
):  # fmt: skip
    """Lakes 8 km apart anywhere in the windows, drained on any date; and ponds."""
    from cryofuse.geo import window_bounds

    rng = np.random.default_rng([seed, 2])
    dates = np.array(month_range(*drains), "M8[D]")
    lakes = []
    for window in world.elevation.windows:
        x_min, y_min, x_max, y_max = window_bounds(window, world.crs)
        chosen = []
        for _ in range(1000):
            if len(chosen) == per_window + ponds:
                break
            x, y = rng.uniform(x_min + 2000, x_max - 2000), rng.uniform(y_min + 2000, y_max - 2000)
            if all(np.hypot(x - a, y - b) >= 8000 for a, b in chosen):
                chosen.append((x, y))
        for number, (x, y) in enumerate(chosen):
            if number >= per_window:
                lakes.append(Pond(x, y, rng.uniform(700, 1500), rng.uniform(2.0, 6.0)))
                continue
            drain = rng.choice(dates) + np.timedelta64(int(rng.integers(0, 28)), "D")
            fill = drain - np.timedelta64(int(rng.uniform(500, 900)), "D")
            lakes.append(
                Lake(
                    len(lakes) + 1, window.name, x, y, float(rng.uniform(*radius)),
                    float(rng.uniform(*depth)), fill, drain, float(rng.uniform(30, 60)),
                )
            )  # fmt: skip
    return lakes


def observe_nodes(world, spoil=None):
    """Nodes and node months of the windows, from what all passes see of them."""
    passes = [replace(p, spans=()) for p in plan_passes(world) if p.window_spans]
    first, stop = np.datetime64("2018-10-01", "us"), np.datetime64("2025-01-01", "us")
    parts = []
    for granule in list_granules(world, first, stop, passes):
        seen = observe(world, granule)
        if seen is None:
            continue
        c = seen.columns
        good = seen.keep & (c["atl06_quality_summary"] == 0)
        good &= (np.abs(c["h_li"] - c["dem/dem_h"]) < 100) | (c["dem/dem_h"] > 1e30)
        beam, _ = np.nonzero(good)
        parts.append(
            pd.DataFrame(
                {
                    "longitude": c["longitude"][good],
                    "latitude": c["latitude"][good],
                    "time": np.broadcast_to(seconds_to_time(seen.seconds), good.shape)[good],
                    "height": c["h_li"][good].astype(float),
                    "sigma": segment_sigma(
                        c["h_li_sigma"][good], c["fit_statistics/dh_fit_dx"][good]
                    ),
                    "rgt": granule.path.rgt,
                    "cycle": granule.cycle,
                    "beam": beam,
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    if spoil is not None:
        table["height"] += spoil(table)
    from cryofuse.geo import project, window_bounds

    x, y = project(table["longitude"].to_numpy(), table["latitude"].to_numpy(), world.crs)
    segments = sort_segments(
        x, y, table["time"].to_numpy("M8[us]"), table["height"], table["sigma"],
        (table["rgt"] * 1000 + table["cycle"]).to_numpy(),
    )  # fmt: skip
    centres = []
    for window in world.elevation.windows:
        x_min, y_min, x_max, y_max = window_bounds(window, world.crs)
        gx, gy = np.meshgrid(
            np.arange(np.ceil(x_min / 1e3), np.floor(x_max / 1e3)) * 1e3 + 500,
            np.arange(np.ceil(y_min / 1e3), np.floor(y_max / 1e3)) * 1e3 + 500,
        )
        centres.append(pd.DataFrame({"x_m": gx.ravel(), "y_m": gy.ravel(), "window": window.name}))
    nodes = pd.concat(centres, ignore_index=True)
    fitted = fit_months(
        segments, nodes["x_m"].to_numpy(), nodes["y_m"].to_numpy(), np.full(len(nodes), 1000.0),
        world.elevation, MONTHS, threads=2,
    )  # fmt: skip
    longitude, latitude = unproject(nodes["x_m"].to_numpy(), nodes["y_m"].to_numpy(), world.crs)
    nodes = nodes.assign(
        node_id=np.arange(len(nodes)), spacing_m=1000.0, longitude=longitude, latitude=latitude
    ).join(fitted.fits)
    return nodes, fitted.months.to_pandas()


def make_world(seed, ponds=0, windows=3, **lakes):
    """A world with lakes and ponds of its own, in windows of its own."""
    elevation = ElevationSettings(windows=draw_windows(seed, windows, ponds=ponds > 0))
    world = LakeWorld(WorldSettings(seed=seed, lakes=0), REGION, PERIOD, elevation)
    world.lake_list = draw_lakes(world, seed, ponds=ponds, **lakes)
    return world


def score(world, nodes, found):
    """What was found of each planted lake, and which candidates are none."""
    candidates = found.lakes[found.lakes["status"] == "candidate"]
    fitted = nodes[nodes["rate_m_yr"].notna()]
    rows, taken = [], set()
    for lake in world.lake_list:
        apart = np.hypot(candidates["x_m"] - lake.x_m, candidates["y_m"] - lake.y_m)
        near = candidates[apart <= lake.radius_m + SLACK_M]
        inside = np.hypot(fitted["x_m"] - lake.x_m, fitted["y_m"] - lake.y_m)
        row = {
            "pond": isinstance(lake, Pond),
            "window": getattr(lake, "window", None),
            "x_m": lake.x_m, "y_m": lake.y_m,
            "radius_m": lake.radius_m,
            "depth_m": lake.depth_m,
            "nodes": int(np.count_nonzero(inside <= lake.radius_m)),
            "found": len(near),
        }  # fmt: skip
        if not row["pond"]:
            taken |= set(near["lake_id"])
            row["volume_km3"] = lake.depth_m * lake.profile_area_m2 / 1e9
            row["drain"] = lake.drain_start + np.timedelta64(int(lake.drain_days / 2), "D")
            own = found.events[found.events["lake_id"].isin(near["lake_id"])]
            drains = own[own["kind"] == "drain"]
            if len(drains):
                biggest = drains.loc[drains["volume_km3"].idxmin()]
                middle = biggest["start"] + (biggest["end"] - biggest["start"]) / 2
                middle += pd.Timedelta(days=15)
                row["drain_error_days"] = (middle - pd.Timestamp(row["drain"])).days
                row["drained_km3"] = -biggest["volume_km3"]
                row["drains"] = len(drains)
        rows.append(row)
    false = candidates[~candidates["lake_id"].isin(taken)]
    return pd.DataFrame(rows), false


def search(nodes, months, settings=None):
    """Candidates of the nodes."""
    return find_lakes(nodes, months, MASCONS, settings or HydrologySettings(), REGION.crs)
