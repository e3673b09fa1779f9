"""A feature table of mascons in rows of 3°, with a planted law that a test chooses."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], phi: float) -> np.ndarray:
    """Return AR(1) series of unit variance along the first axis."""
    series = rng.normal(size=shape)
    for k in range(1, shape[0]):
        series[k] = phi * series[k - 1] + np.sqrt(1 - phi**2) * series[k]
    return series


def build_features(
    *,
    mascons: int = 12,
    months: int = 60,
    coupling: float = 1.0,
    noise_cm: float = 1.0,
    lags: int = 2,
    noise_features: bool = False,
    seed: int = 1,
) -> pd.DataFrame:
    """Return a table whose monthly mass change is 90 cm/m × dh over one month × ice fraction.

    With ``coupling=0`` elevation says of mass only that both have a season, with
    ``noise_features`` not even that. Mass itself is autocorrelated in time and, at neighbouring
    mascons, in space.
    """
    rng = np.random.default_rng(seed)
    rows = int(np.ceil(np.sqrt(mascons)))
    k = np.arange(mascons)
    latitude, longitude = 62.0 + 3.0 * (k // rows), -50.0 + 7.0 * (k % rows)
    ice = 0.5 + 0.5 * rng.random(mascons)
    month = np.arange("2019-01", "2039-01", dtype="datetime64[M]")[:months]
    far = np.hypot(latitude[:, None] - latitude, 0.4 * (longitude[:, None] - longitude))
    mixing = np.linalg.cholesky(np.exp(-far / 6) + 1e-6 * np.eye(mascons))
    season = np.cos(2 * np.pi * (np.arange(months) - 3) / 12)[:, None]
    driver = 0.05 * season + 0.05 * _smooth(rng, (months, mascons), 0.6) @ mixing.T
    unrelated = 0.05 * season + 0.05 * _smooth(rng, (months, mascons), 0.6) @ mixing.T
    change = 90 * ice * (coupling * driver + (1 - coupling) * unrelated)
    change = change + noise_cm * rng.normal(size=change.shape)
    table = pd.DataFrame(
        {
            "mascon_id": np.tile(k + 100, months).astype(np.int32),
            "month": np.repeat(month, mascons).astype("datetime64[us]"),
            "target_change_cm": change.ravel(),
            "target_change_sigma_cm": noise_cm,
            "target_cumulative_cm": np.cumsum(change, axis=0).ravel(),
            "target_cumulative_sigma_cm": noise_cm,
            "land_area_km2": 1e5,
            "ice_area_km2": 1e5 * np.tile(ice, months),
            "ice_fraction": np.tile(ice, months),
            "latitude": np.tile(latitude, months),
            "longitude": np.tile(longitude, months),
            "dh_m": np.cumsum(driver, axis=0).ravel(),
            "dh_change_1m_m": driver.ravel(),
            "dh_interannual_m": rng.normal(size=change.size),
            "season_cos": np.repeat(np.cos(2 * np.pi * (np.arange(months) + 0.5) / 12), mascons),
            "season_sin": np.repeat(np.sin(2 * np.pi * (np.arange(months) + 0.5) / 12), mascons),
        }
    )
    if noise_features:
        for name in ("dh_m", "dh_change_1m_m", "dh_interannual_m"):
            table[name] = rng.normal(size=len(table))
    grouped = table.groupby("mascon_id")
    for name in ("dh_m", "dh_change_1m_m", "dh_interannual_m"):
        for lag in range(1, lags + 1):
            table[f"{name}_lag{lag:02d}"] = grouped[name].shift(lag)
    return table


@pytest.fixture
def make_features() -> Callable[..., pd.DataFrame]:
    """Return the maker of feature tables."""
    return build_features
