"""Feature tables of synthetic worlds without granules: the planted truth, seen with stated errors.

A whole world costs minutes; what learning, coupling and intervals are tested on needs tens of
worlds. Here a mascon's elevation change is the planted truth plus noise, month by month, and
its rate and annual cycle are fitted to the months up to each one, as the nodes' causal fits are.
Gravimetry is that of the mascon file, with its leakage, residual, noise and missing months.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cryofuse.calendar import month_index, month_middle, month_range, year_fraction
from cryofuse.config import FeatureSettings, PeriodSettings, RegionSettings, WorldSettings
from cryofuse.fusion.features import build_features
from cryofuse.simulate.mascons import MassTruth, mascon_change, plant_mass
from cryofuse.simulate.placement import Footprints
from cryofuse.simulate.world import World
from cryofuse.units import GT_PER_CM_KM2

if TYPE_CHECKING:
    import geopandas

#: Error of a mascon's monthly elevation change (m) where its ice is 10⁵ km²; it grows with the
#: root of what is missing, up to the second figure. Measured on the demo's causal table.
DH_SIGMA_M, MAX_DH_SIGMA_M = 0.045, 0.3
#: Months before the first causal elevation change: a year is held, and three months to begin.
WARM_UP_MONTHS = 15


@dataclass(frozen=True)
class LearningWorld:
    """A world as learning sees it, and what was planted.

    ``features`` is the feature table; ``fusion`` the retrospective mascon months (the same
    noisy elevation change over all months, with its σ); ``truth`` holds mascon_id, month, the
    true dh_m and lwe_law_cm, lwe_residual_cm and lwe_noise_cm; ``mascons`` the footprints.
    """

    features: pd.DataFrame
    fusion: pd.DataFrame
    truth: pd.DataFrame
    mascons: geopandas.GeoDataFrame

    def oracle_cm(self, target: str) -> pd.Series:
        """Return what knows the planted law predicts, indexed by mascon_id and month.

        Parameters
        ----------
        target
            ``change`` or ``cumulative``; the latter about each mascon's own mean.
        """
        law = self.truth.set_index(["mascon_id", "month"])["lwe_law_cm"]
        by_mascon = law.groupby("mascon_id")
        return by_mascon.diff() if target == "change" else law - by_mascon.transform("mean")


def learning_world(
    seed: int,
    *,
    coupling: float = 1.0,
    dh_sigma_m: float = DH_SIGMA_M,
    features: FeatureSettings | None = None,
    region: RegionSettings | None = None,
    period: PeriodSettings | None = None,
    **world: Any,
) -> LearningWorld:
    """Return the feature table of a synthetic world, without granules.

    Parameters
    ----------
    seed
        Seed of the world and of the errors.
    coupling
        Share of mass that follows elevation; 0 plants none.
    dh_sigma_m
        Error of elevation change where a mascon holds 10⁵ km² of ice; 0 shows the truth.
    features
        Spans and lags.
    region, period
        Where and when; by default the demo's region over the default period.
    world
        Other keys of the section ``world``.
    """
    settings = WorldSettings.model_validate({"seed": seed, "coupling": coupling, **world})
    planted = World(settings, region or _demo_region(), period or PeriodSettings())
    mass = plant_mass(planted)
    months = month_range(planted.period.start, planted.period.end)
    change = mascon_change(planted, mass, months)
    rng = np.random.default_rng([seed, 1111])
    area_km2 = mass.cells.ice_area_m2 / 1e6
    sigma = np.minimum(dh_sigma_m * np.sqrt(1e5 / np.maximum(area_km2, 1.0)), MAX_DH_SIGMA_M)
    seen = change + sigma[:, None] * rng.standard_normal(change.shape)
    place = _mascon_places(planted, mass)
    lwe = _on_months(mass, months)
    truth = _table(mass, months, {"dh_m": change, **lwe})
    gravity = _gravity_columns(mass, lwe)
    noise = np.broadcast_to(sigma[:, None], change.shape)
    fusion = _table(mass, months, {"dh_m": seen, "dh_sigma_m": noise, **gravity})
    causal = _table(mass, months, _fit_causally(seen, months) | gravity)
    for name in ("elevation_m", "slope", "spread_m", "sampled_fraction"):
        causal[name] = causal["mascon_id"].map(place[name])
    causal.loc[causal["dh_m"].isna(), ["elevation_m", "slope", "spread_m"]] = np.nan
    causal["reason"] = None
    static = pd.DataFrame({"mascon_id": place.index, "marine_margin_fraction": np.nan})
    mascons = _footprints(planted, mass)
    table, _ = build_features(causal, mascons, static, features or FeatureSettings())
    return LearningWorld(table, fusion, truth, mascons)


@cache
def _demo_region() -> RegionSettings:
    from cryofuse.config import load_region

    return load_region("demo", Path("config/regions"))


def _on_months(mass: MassTruth, months: np.ndarray) -> dict[str, np.ndarray]:
    """Return law, residual and noise (cm) on the months, NaN where there is no solution."""
    at = {m: i for i, m in enumerate(month_index(mass.months).tolist())}
    column = np.array([at.get(m, -1) for m in month_index(months).tolist()])
    return {
        f"lwe_{name}_cm": np.where(column >= 0, getattr(mass, f"{name}_cm")[:, column], np.nan)
        for name in ("law", "residual", "noise", "sigma")
    }


def _table(mass: MassTruth, months: np.ndarray, columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return arrays of shape (mascons, months) as a table, a row for each mascon and month."""
    ids = mass.cells.footprints.mascon_id.astype(np.int32)
    head = {"mascon_id": np.repeat(ids, months.size), "month": np.tile(months, ids.size)}
    return pd.DataFrame(head | {name: np.ravel(values) for name, values in columns.items()})


def _gravity_columns(mass: MassTruth, lwe: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns of gravimetry as the reader makes them of the file."""
    level = lwe["lwe_law_cm"] + lwe["lwe_residual_cm"] + lwe["lwe_noise_cm"]
    sigma = lwe["lwe_sigma_cm"]
    gt = mass.land_area_km2[:, None] * GT_PER_CM_KM2
    change, change_sigma = np.full_like(level, np.nan), np.full_like(level, np.nan)
    change[:, 1:] = np.diff(level, axis=1)
    change_sigma[:, 1:] = np.hypot(sigma[:, 1:], sigma[:, :-1])
    return {
        "lwe_cm": level,
        "lwe_sigma_cm": sigma,
        "mass_gt": level * gt,
        "mass_sigma_gt": sigma * gt,
        "mass_change_gt": change * gt,
        "mass_change_sigma_gt": change_sigma * gt,
    }


def _fit_causally(seen: np.ndarray, months: np.ndarray) -> dict[str, np.ndarray]:
    """Return the change and the rate and cycle fitted to each month and those before it.

    The change counts from the mean of the first three months.
    """
    t = year_fraction(month_middle(months))
    angle = 2 * np.pi * t
    design = np.column_stack([np.ones(t.size), t - t[0], np.cos(angle), np.sin(angle)])
    found = {
        name: np.full(seen.shape, np.nan)
        for name in ("dh_m", "rate_m_yr", "amplitude_m", "phase_rad", "fraction_thinning")
    }
    for m in range(WARM_UP_MONTHS, months.size):
        weights = np.linalg.lstsq(design[: m + 1], seen[:, : m + 1].T, rcond=None)[0]
        found["rate_m_yr"][:, m] = weights[1]
        found["amplitude_m"][:, m] = np.hypot(weights[2], weights[3])
        found["phase_rad"][:, m] = np.arctan2(weights[3], weights[2])
        found["fraction_thinning"][:, m] = weights[1] < 0
        found["dh_m"][:, m] = seen[:, m] - seen[:, :3].mean(axis=1)
    iced = np.isfinite(seen).all(axis=1)
    return {name: np.where(iced[:, None], values, np.nan) for name, values in found.items()}


def _mascon_places(planted: World, mass: MassTruth) -> pd.DataFrame:
    """Return height, slope, spread and sampled share of each mascon, by mascon_id."""
    cells = mass.cells
    height = planted.topography(cells.x_m, cells.y_m)
    slope = np.hypot(*planted.slope(cells.x_m, cells.y_m))
    rate = planted.rate(cells.x_m, cells.y_m)
    area = np.maximum(cells.ice_area_m2, 1.0)
    mean_rate = cells.area_m2 @ rate / area
    spread = np.sqrt(np.maximum(cells.area_m2 @ rate**2 / area - mean_rate**2, 0.0))
    return pd.DataFrame(
        {
            "elevation_m": cells.area_m2 @ height / area,
            "slope": cells.area_m2 @ slope / area,
            "spread_m": spread,
            "sampled_fraction": np.where(cells.ice_area_m2 > 0, 0.2, 0.0),
        },
        index=pd.Index(cells.footprints.mascon_id.astype(np.int32), name="mascon_id"),
    )


def _footprints(planted: World, mass: MassTruth) -> geopandas.GeoDataFrame:
    """Return the mascons as gravimetry's table has them; all that hold ice are selected."""
    import geopandas
    import shapely

    boxes = mass.cells.footprints
    assert isinstance(boxes, Footprints)
    west, east = (np.where(v > 180, v - 360, v) for v in (boxes.west, boxes.east))
    longitude, latitude = boxes.centre
    ice = mass.cells.ice_area_m2 / 1e6
    return geopandas.GeoDataFrame(
        {
            "mascon_id": boxes.mascon_id.astype(np.int32),
            "land_area_km2": mass.land_area_km2,
            "ice_area_km2": ice,
            "ice_fraction": ice / mass.land_area_km2,
            "longitude": np.where(longitude > 180, longitude - 360, longitude),
            "latitude": latitude,
            "selected": ice > 0,
        },
        geometry=shapely.box(west, boxes.south, east, boxes.north),
        crs="EPSG:4326",
    )
