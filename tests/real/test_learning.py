"""What splits give away on real mass, without any elevation change: the figures of METHODS 7.

The forest knows place, season, time and noise (``control_noise``). The published R² came of cells
of half a degree as samples; the project's samples are mascons, which give less away.
"""

import netCDF4
import numpy as np
import pandas as pd
import pytest

from cryofuse.config import SkillSettings
from cryofuse.learning.baselines import predict_persistence, previous_values
from cryofuse.learning.controls import CONTROL, NOISE_CONTROLS, control_features
from cryofuse.learning.models import build, single_threaded
from cryofuse.learning.splits import make_folds
from cryofuse.mascons import load_footprints, read_mascons
from cryofuse.mascons.footprints import neighbours

pytestmark = pytest.mark.real

FIRST, LAST = "2018-06-01", "2024-08-01"
#: As the figures were made: mascons left out without a buffer. The project's default has one.
SETTINGS = SkillSettings(trees=10, neighbour_buffer_km=None)
BUFFERED = SkillSettings(trees=10)
SPLITS = ("random", "leave_mascon_out", "forward")
#: METHODS 7: R² by split.
PUBLISHED = {"change": (0.871, 0.185, -0.096), "cumulative": (1.000, 0.390, 0.991)}
#: How far off the published R² may be: an embargo, few trees, and a ninth of the cells
#: (with every land cell the random folds give 0.81 of the change).
CLOSE = {"change": (0.25, 0.2, 0.2), "cumulative": (0.01, 0.4, 0.06)}


@pytest.fixture(scope="module")
def jpl(real_folder):
    path = real_folder / "grace" / "JPL_MSCN_layout_greenland_200204_202408.nc"
    mascons, mass = read_mascons(str(path), "jpl", footprints=load_footprints("jpl_greenland"))
    places = mascons[["mascon_id", "latitude", "longitude"]]
    mass = mass[(mass["month"] >= FIRST) & (mass["month"] <= LAST)]
    return path, mass[["mascon_id", "month", "lwe_cm"]].merge(places, on="mascon_id")


@pytest.fixture(scope="module")
def by_mascon(jpl):
    """One sample a mascon and month."""
    table = jpl[1].assign(unit=jpl[1]["mascon_id"])
    return {target: score(samples(table, target)) for target in PUBLISHED}


@pytest.fixture(scope="module")
def by_cell(jpl):
    """One sample a land cell and month, of every third cell each way: mascons many times over."""
    path, mass = jpl
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        number = np.where(file["land_mask"][:] == 1, file["mascon_ID"][:], 0)
        thinned = np.zeros(number.shape, bool)
        thinned[::3, ::3] = True
        row, column = np.nonzero(thinned & np.isin(number, mass["mascon_id"].unique()))
        longitude = (file["lon"][:][column] + 180) % 360 - 180
        cells = pd.DataFrame(
            {
                "unit": np.arange(row.size),
                "mascon_id": number[row, column].astype(np.int32),
                "latitude": file["lat"][:][row],
                "longitude": longitude,
            }
        )
    table = cells.merge(mass[["mascon_id", "month", "lwe_cm"]], on="mascon_id")
    return {target: score(samples(table, target)) for target in PUBLISHED}


def samples(table, target):
    """The rows with a target: mass itself, or its change since the month before."""
    table = table.sort_values(["unit", "month"], ignore_index=True)
    observed = table["lwe_cm"]
    if target == "change":
        observed = table.groupby("unit")["lwe_cm"].diff()
    previous = previous_values(
        table["unit"].to_numpy(), table["month"].to_numpy(), observed.to_numpy()
    )
    table = table.assign(observed_cm=observed, previous_cm=previous)
    kept = table.dropna(subset=["observed_cm"])
    return kept.sort_values(["month", "unit"], ignore_index=True)


def score(table):
    """R² of the noise control by split, and of persistence forward in time."""
    y = table["observed_cm"].to_numpy()
    x = control_features(table, SETTINGS)
    name, parameters = NOISE_CONTROLS[CONTROL]
    found = {}
    with single_threaded():
        near = neighbours(load_footprints("jpl_greenland"), BUFFERED.neighbour_buffer_km)
        for split in (*SPLITS, "buffered"):
            if split == "buffered":
                folds = make_folds("leave_mascon_out", table, BUFFERED, near)
            else:
                folds = make_folds(split, table, SETTINGS)
            predicted, persisted = np.full(len(y), np.nan), np.full(len(y), np.nan)
            for fold in folds:
                forest = build(name, parameters, SETTINGS.trees, SETTINGS.seed)
                predicted[fold.test] = forest.fit(x[fold.train], y[fold.train]).predict(
                    x[fold.test]
                )
                persisted[fold.test] = predict_persistence(
                    table.iloc[fold.train], table.iloc[fold.test], ""
                )
            found[split] = r_squared(y, predicted)
            found["persistence"] = r_squared(y, persisted)
    return found


def r_squared(y, predicted):
    known = np.isfinite(predicted)
    rest = y[known] - y[known].mean()
    return 1 - np.sum((y[known] - predicted[known]) ** 2) / np.sum(rest**2)


@pytest.mark.parametrize("target", PUBLISHED)
def test_cells_as_samples_give_the_published_figures(by_cell, target):
    found = [by_cell[target][split] for split in SPLITS]
    print("cells", target, by_cell[target])
    for value, published, close in zip(found, PUBLISHED[target], CLOSE[target], strict=True):
        assert value == pytest.approx(published, abs=close)
    assert found[0] - found[1] > 0.3


@pytest.mark.parametrize("target", PUBLISHED)
def test_a_buffer_about_mascons_takes_what_neighbours_give_away(by_cell, by_mascon, target):
    for found in (by_cell[target], by_mascon[target]):
        assert found["buffered"] < found["leave_mascon_out"]


def test_change_by_cells_is_known_under_random_folds_alone(by_cell):
    found = by_cell["change"]
    assert found["random"] > found["leave_mascon_out"] + 0.3
    assert found["random"] > found["forward"] + 0.6


def test_mascons_as_samples_give_away_little_of_the_change(by_mascon, by_cell):
    """Where a mascon's month is one sample, no copy of it is left to learn by heart."""
    found = by_mascon["change"]
    print("mascons change", found)
    assert found["random"] < by_cell["change"]["random"] - 0.4
    assert found["forward"] < 0.15
    assert found["random"] > found["forward"] + 0.05


@pytest.mark.parametrize("samples_by", ["mascon", "cell"])
def test_cumulative_is_known_but_for_mascons_left_out_and_persistence_knows_it(
    by_mascon, by_cell, samples_by
):
    found = {"mascon": by_mascon, "cell": by_cell}[samples_by]["cumulative"]
    print(samples_by, "cumulative", found)
    assert found["random"] > found["leave_mascon_out"] + 0.3
    assert found["forward"] > 0.9
    assert found["persistence"] > found["forward"]
