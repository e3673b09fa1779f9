"""What learning must not find in noise, and how often its intervals hold.

Noise-only features: mass series as real ones are (a trend, a season and slow departures that
differ by mascon but are shared by neighbours) and elevation change that is pure noise. No split
that a claim may rest on may show a gain; the random split shows what it gives away.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from cryofuse.config import SkillSettings
from cryofuse.geo import distance_matrix_km
from cryofuse.learning import skill
from cryofuse.mascons import load_footprints

#: Seeds of the noise, and how many may show a gain by chance (95 % of 40 must not).
NOISE_SEEDS, FALSE_WINS = range(40), 2
#: Columns of noise in place of elevation change.
NOISE_COLUMNS = [
    "dh_m",
    "dh_change_1m_m",
    "dh_change_12m_m",
    "dh_interannual_m",
    "dh_rate_m_yr",
] + [f"{name}_lag{lag:02d}" for name in ("dh_m", "dh_change_1m_m") for lag in (1, 3, 12)]
#: Few trees and folds, for 80 worlds. Inner folds tune and calibrate: neither is asked here.
NOISE_SETTINGS = SkillSettings(
    folds=2, candidates=1, trees=10, bootstrap_draws=300, splits=list(skill.HONEST_SPLITS)
)
MONTHS = np.arange("2018-10", "2025-01", dtype="datetime64[M]")


def smooth(rng, months, mixing, phi):
    """AR(1) series of unit variance, correlated between mascons."""
    series = rng.normal(size=(months, len(mixing))) @ mixing.T
    for k in range(1, months):
        series[k] = phi * series[k - 1] + np.sqrt(1 - phi**2) * series[k]
    return series


def noise_world(seed):
    """A feature table of the 31 real mascons whose elevation change is noise.

    Mass falls by 0 to 35 cm a year with a season of 5 to 12 cm and slow departures of 8 cm;
    measured with noise of 5.6 cm; what differs by mascon is shared over 500 km.
    """
    rng = np.random.default_rng([seed, 40])
    mascons = load_footprints("jpl_greenland")
    centre = mascons.geometry.representative_point()
    latitude, longitude = centre.y.to_numpy(), centre.x.to_numpy()
    n, months = len(mascons), len(MONTHS)
    far = np.exp(-distance_matrix_km(longitude, latitude) / 500)
    mixing = np.linalg.cholesky(far + 1e-9 * np.eye(n))
    time = (np.arange(months)[:, np.newaxis] + 0.5) / 12
    trend = -17 + 9 * (mixing @ rng.normal(size=n))
    season = 8 * (1 + 0.25 * (mixing @ rng.normal(size=n))) * np.cos(2 * np.pi * (time + 0.45))
    slow = 8 * smooth(rng, months, mixing, 0.93)
    mass = trend * time + season + slow + 5.6 * smooth(rng, months, mixing, 0.3)
    ice = rng.uniform(0.1, 1.0, n)
    by_mascon = {
        "ice_area_km2": 1e5 * ice,
        "ice_fraction": ice,
        "latitude": latitude,
        "longitude": longitude,
        "land_area_km2": np.full(n, 1e5),
        "elevation_m": rng.uniform(500, 3000, n),
        "slope": rng.uniform(0.001, 0.03, n),
        "marine_margin_fraction": rng.uniform(0, 0.3, n),
    }
    angle = 2 * np.pi * (MONTHS.astype(int) % 12 + 0.5) / 12
    change = np.diff(mass, axis=0, prepend=np.nan)
    noise = {name: rng.normal(size=n * months) for name in NOISE_COLUMNS}
    return pd.DataFrame(
        {
            "mascon_id": np.tile(mascons["mascon_id"].to_numpy(np.int32), months),
            "month": np.repeat(MONTHS.astype("datetime64[us]"), n),
            "target_change_cm": change.ravel(),
            "target_cumulative_cm": (mass - mass[:12].mean(axis=0)).ravel(),
            "season_cos": np.repeat(np.cos(angle), n),
            "season_sin": np.repeat(np.sin(angle), n),
        }
        | {name: np.tile(value, months) for name, value in by_mascon.items()}
        | noise
    )


def noise_alone(features, target):
    """The samples with their noise and nothing else: no place, no season."""
    samples = select_samples(features, target)
    kept = [k for k, name in enumerate(samples.names) if name.startswith(skill.ALTIMETRY_PREFIX)]
    return replace(samples, x=samples.x[:, kept], names=[samples.names[k] for k in kept])


select_samples = skill.select_samples


def score_noise(seed, alone):
    """Pooled scores of a world of noise; with or without the table's other features."""
    with (
        mock.patch.object(skill, "inner_folds", lambda *_: []),
        mock.patch.object(skill, "select_samples", noise_alone if alone else select_samples),
    ):
        scores, _ = skill.evaluate(noise_world(seed), NOISE_SETTINGS)
    return scores[scores["scope"] == "pooled"].assign(seed=seed)
