"""Nodes of planted worlds without granules, with the noise of the demo's fits.

Rates are off by 0.02 m/yr, one in ten three times that, cycles by 0.025 m.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from cryofuse.calendar import month_middle, month_range, year_fraction
from cryofuse.config import WorldSettings, load_region
from cryofuse.geo import unproject
from cryofuse.simulate.world import World

SPACING_M = 16_000.0
MONTHS = month_range("2018-10", "2024-12")
REGION = load_region("demo", Path(__file__).parents[1] / "config/regions")


def plant(seed, spacing_m=SPACING_M):
    """Nodes of a world with noise, and the planted regime of each."""
    world = World(WorldSettings(seed=seed), REGION)
    rng = np.random.default_rng(seed)
    x_min, y_min, x_max, y_max = world.outline.bounds
    x, y = np.meshgrid(np.arange(x_min, x_max, spacing_m), np.arange(y_min, y_max, spacing_m))
    inside = world.outline_contains(x, y)
    x, y = x[inside], y[inside]
    longitude, latitude = unproject(x, y, world.crs)
    # Offset, rate, cosine and sine by least squares on the true months, as a fit would see them.
    t = year_fraction(month_middle(MONTHS))
    design = np.column_stack([t**0, t - t.mean(), np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)])
    change = world.elevation_change(x[:, None], y[:, None], month_middle(MONTHS))
    _, rate, cosine, sine = np.linalg.pinv(design) @ change.T
    left = change.T - design @ np.linalg.pinv(design) @ change.T
    sigma = 0.02 * np.where(rng.random(x.size) < 0.1, 3.0, 1.0)
    cycle = cosine + 1j * sine + 0.025 * (rng.normal(size=x.size) + 1j * rng.normal(size=x.size))
    nodes = pd.DataFrame(
        {
            "node_id": np.arange(x.size), "x_m": x, "y_m": y, "latitude": latitude,
            "longitude": longitude, "area_km2": (spacing_m / 1e3) ** 2,
            "rate_m_yr": rate + sigma * rng.normal(size=x.size), "rate_sigma_m_yr": sigma,
            "amplitude_m": np.abs(cycle), "phase_rad": np.angle(cycle),
            "slope": np.hypot(*world.slope(x, y)) * rng.lognormal(0, 0.08, x.size),
            "elevation_m": world.topography(x, y),
            "interannual_m": left.std(axis=0) * rng.lognormal(0, 0.12, x.size),
            "bed_m": np.nan,
        }
    )  # fmt: skip
    return nodes, world.regime(x, y)
