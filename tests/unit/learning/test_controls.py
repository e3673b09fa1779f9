"""Labels of other years; features without elevation change."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from cryofuse.config import SkillSettings
from cryofuse.learning import controls


@settings(max_examples=40, deadline=None)
@given(
    months=st.integers(13, 60),
    step=st.sampled_from([1, 3]),
    kept=st.floats(0.3, 1.0),
    seed=st.integers(0, 100),
)
def test_permuted_labels_are_those_of_another_year(
    months: int, step: int, kept: float, seed: int
) -> None:
    number = np.arange(0, months, step)
    rng = np.random.default_rng(seed)
    rows = rng.random((len(number), 4)) < kept
    rows[0] = True  # the first month counts the years, and there is a second one
    rows[-1, 0] = True
    place, mascon = rows.nonzero()
    month = (np.datetime64("2019-03") + number[place]).astype("datetime64[us]")
    # a value that says which month and mascon it belongs to
    value = 1000.0 * number[place] + mascon
    found = controls.permute_years(mascon, month, value, (seed, 1))
    np.testing.assert_array_equal(found, controls.permute_years(mascon, month, value, (seed, 1)))
    known = np.isfinite(found)
    source, owner = np.divmod(found[known].astype(int), 1000)
    own = number[place][known]
    np.testing.assert_array_equal(owner, mascon[known])
    np.testing.assert_array_equal(source % 12, own % 12)
    assert (source // 12 != own // 12).all()
    # all mascons together, and whole years together
    moved = pd.DataFrame({"from": own // 12, "to": source // 12}).drop_duplicates()
    assert moved["from"].is_unique and moved["to"].is_unique
    # a label is missing only where that mascon has none in the other month
    there = set(zip(number[place], mascon, strict=True))
    other = dict(moved.itertuples(index=False))
    for k in (~known).nonzero()[0]:
        year, rest = divmod(int(number[place][k]), 12)
        assert year not in other or (12 * other[year] + rest, mascon[k]) not in there


def test_a_single_year_has_no_other() -> None:
    month = (np.datetime64("2020-01") + np.arange(12)).astype("datetime64[us]")
    found = controls.permute_years(np.zeros(12, int), month, np.arange(12.0), (1,))
    assert np.isnan(found).all()


def test_controls_see_no_elevation_change() -> None:
    names = ["dh_m", "dh_change_1m_m_lag03", "sampled_fraction", "season_cos", "latitude", "slope"]
    assert controls.blind_columns(names).tolist() == [False, False, True, True, True, True]
    table = pd.DataFrame(
        {
            "month": pd.to_datetime(["2020-01-01", "2020-07-01"]),
            "latitude": [60.0, 70.0],
            "longitude": [-40.0, -50.0],
        }
    )
    x = controls.control_features(table, SkillSettings(noise_features=3))
    assert x.shape == (2, 8)
    np.testing.assert_array_equal(x[:, :2], [[60, -40], [70, -50]])
    np.testing.assert_allclose(x[0, 2:4], -x[1, 2:4])  # half a year apart
    np.testing.assert_allclose(x[:, 4], [20 + 15.5 / 366, 20 + 197.5 / 366], atol=0.005)
