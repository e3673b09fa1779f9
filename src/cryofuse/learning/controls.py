"""Controls: what the same folds give away without elevation change, or with the wrong labels.

Three kinds stand beside every score:

- ``control_noise…``: place, season, time and pure noise, by models that may learn by heart;
- ``…_blind``, the twin of each model: same class, folds and search, without elevation change;
- ``control_permuted``: all features, but training labels of other years.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cryofuse.calendar import month_index, month_middle, year_fraction

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from cryofuse.config import SkillSettings

#: The control that METHODS 7 quotes: a forest on place, season, time and noise.
CONTROL = "control_noise"
#: Controls of noise: the class of model and its settings; they may learn by heart, untuned.
NOISE_CONTROLS: dict[str, tuple[str, dict[str, Any]]] = {
    CONTROL: ("forest", {"max_features": 0.6, "min_samples_leaf": 1, "max_samples": None}),
    "control_noise_xgboost": ("xgboost", {"max_depth": 6, "learning_rate": 0.1}),
}
#: The control whose training labels belong to other years.
PERMUTED = "control_permuted"
#: The class of model of the permuted control, where it is among the models: quick enough for many
#: permutations, and the steadier its fits, the fewer of them beat the true labels by chance.
PERMUTED_MODEL = "ridge"
#: Ending of the name of a model's twin that sees no elevation change.
BLIND = "_blind"
#: Prefix of the feature columns that come from elevation change.
ALTIMETRY_PREFIX = "dh_"
MONTHS_PER_YEAR = 12


def blind_columns(names: Sequence[str]) -> np.ndarray:
    """Return which feature columns hold no elevation change (bool).

    Terrain, place, season and how much of a mascon is sampled stay with the blind twin.
    """
    return np.array([not name.startswith(ALTIMETRY_PREFIX) for name in names], bool)


def control_features(table: pd.DataFrame, settings: SkillSettings) -> np.ndarray:
    """Return place, season, time and seeded noise for each sample (n × (5 + noise columns))."""
    noise = np.random.default_rng(settings.seed).normal(size=(len(table), settings.noise_features))
    month = table["month"].to_numpy()
    angle = 2 * np.pi * (month_index(month) % MONTHS_PER_YEAR + 0.5) / MONTHS_PER_YEAR
    return np.column_stack(
        [
            table["latitude"].to_numpy(),
            table["longitude"].to_numpy(),
            np.cos(angle),
            np.sin(angle),
            year_fraction(month_middle(month)),
            noise,
        ]
    )


def permute_years(
    mascon_id: np.ndarray, month: np.ndarray, value: np.ndarray, seed: Sequence[int]
) -> np.ndarray:
    """Return every sample's value of another year: same mascon, same calendar month.

    Years of 12 months from the first month on change places, all mascons together and none
    staying in its own, so that season, autocorrelation and what mascons share remain and only the
    tie between a month's features and its value is cut.

    Parameters
    ----------
    mascon_id, month, value
        One sample each.
    seed
        Seed.

    Returns
    -------
    ndarray
        NaN where the mascon has no sample in that month of the other year, everywhere with a
        single year.
    """
    index = month_index(month)
    year, place = np.divmod(index - index.min(), MONTHS_PER_YEAR)
    n_years = int(year.max()) + 1
    if n_years < 2:
        return np.full(len(value), np.nan)
    rng = np.random.default_rng(seed)
    own = np.arange(n_years)
    other = rng.permutation(n_years)
    while (other == own).any():
        other = rng.permutation(n_years)
    ids, mascon = np.unique(mascon_id, return_inverse=True)
    held = np.full((n_years, MONTHS_PER_YEAR, len(ids)), np.nan)
    held[year, place, mascon] = value
    return held[other[year], place, mascon]
