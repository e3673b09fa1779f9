"""No fold trains on a neighbour or on a month that the test months reach into."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryofuse.config import SkillSettings
from cryofuse.learning import splits

MONTH0 = np.datetime64("2019-01", "M")


def haversine_by_vectors(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Return distances (km) from the angle between unit vectors: another formula."""
    a, b = np.radians(lat), np.radians(lon)
    xyz = np.column_stack([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)])
    cross = np.linalg.norm(np.cross(xyz[:, None], xyz[None]), axis=-1)
    return 6371.0 * np.arctan2(cross, xyz @ xyz.T)


@st.composite
def samples(draw: st.DrawFn) -> pd.DataFrame:
    """Draw mascons at random places, months with gaps, rows shuffled."""
    n = draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    months = draw(st.integers(12, 50))
    mascon = np.repeat(np.arange(n), months)
    month = np.tile(MONTH0 + np.arange(months), n)
    lat, lon = rng.uniform(60, 84, n), rng.uniform(-70, -15, n)
    kept = rng.permutation(n * months)[: max(2 * n, int(0.8 * n * months))]
    return pd.DataFrame(
        {
            "mascon_id": mascon[kept],
            "month": month[kept].astype("datetime64[us]"),
            "latitude": lat[mascon][kept],
            "longitude": lon[mascon][kept],
        }
    )


def number(table: pd.DataFrame) -> np.ndarray:
    stamp = table["month"].dt
    return (12 * stamp.year + stamp.month).to_numpy()


def make(
    table: pd.DataFrame, split: str, buffer_km: float, embargo: int, warm_up: int
) -> list[splits.Fold]:
    options = SkillSettings(
        neighbour_buffer_km=buffer_km, embargo_months=embargo, min_train_months=warm_up, folds=4
    )
    return splits.make_folds(split, table, options)


@settings(max_examples=40, deadline=None)
@given(
    table=samples(),
    split=st.sampled_from(["random", "leave_mascon_out", "forward", "both"]),
    buffer_km=st.sampled_from([0.0, 300.0, 900.0]),
    embargo=st.integers(0, 8),
    warm_up=st.integers(1, 12),
)
def test_folds_are_honest(
    table: pd.DataFrame, split: str, buffer_km: float, embargo: int, warm_up: int
) -> None:
    try:
        folds = make(table, split, buffer_km, embargo, warm_up)
    except splits.SplitError:
        folds = []
    mascon, index = table["mascon_id"].to_numpy(), number(table)
    every = haversine_by_vectors(table["latitude"].to_numpy(), table["longitude"].to_numpy())
    tested = np.zeros(len(table), int)
    for fold in folds:
        tested[fold.test] += 1
        assert len(fold.train) and len(fold.test)
        assert not set(fold.train) & set(fold.test)
        if split in ("leave_mascon_out", "both"):
            assert not set(mascon[fold.train]) & set(mascon[fold.test])
            assert every[np.ix_(fold.train, fold.test)].min() > buffer_km - 1e-6
        if split in ("forward", "both"):
            # `embargo` whole months lie between the last training and the first test month
            assert index[fold.train].max() + embargo < index[fold.test].min()
    assert tested.max(initial=0) <= 1
    late = index >= index.min() + warm_up + embargo
    if split == "random":
        assert (tested == 1).all()
    if split == "leave_mascon_out":
        trainable = (every > buffer_km).any(axis=1) if buffer_km else np.ones(len(table), bool)
        np.testing.assert_array_equal(tested == 1, trainable)
    if split == "forward":
        np.testing.assert_array_equal(tested == 1, late)
    if split == "both":
        assert not (tested & ~late).any()


def test_both_tests_every_late_sample_where_data_are_whole() -> None:
    table = pd.DataFrame(
        {
            "mascon_id": np.repeat(np.arange(8), 40),
            "month": np.tile(MONTH0 + np.arange(40), 8).astype("datetime64[us]"),
            "latitude": np.repeat(60.0 + 3 * np.arange(8), 40),
            "longitude": -40.0,
        }
    )
    folds = make(table, "both", 400, 3, 12)
    tested = np.concatenate([fold.test for fold in folds])
    assert len(tested) == len(set(tested)) == 8 * (40 - 15)


@settings(max_examples=15, deadline=None)
@given(table=samples(), split=st.sampled_from(["leave_mascon_out", "forward", "both"]))
def test_folds_do_not_depend_on_the_order_of_rows(table: pd.DataFrame, split: str) -> None:
    shuffled = table.sample(frac=1, random_state=3)

    def described(frame: pd.DataFrame) -> list[tuple[set, set]]:
        rows = frame.index.to_numpy()
        folds = make(frame.reset_index(drop=True), split, 300, 2, 6)
        return [(set(rows[fold.train]), set(rows[fold.test])) for fold in folds]

    try:
        expected = described(table)
    except splits.SplitError:
        return
    assert described(shuffled) == expected


def test_folds_become_finer_where_the_buffer_leaves_nothing() -> None:
    # a square of about 400 km: every pair of corners has the other two within 500 km
    folds = splits.leave_mascon_out(
        np.arange(4),
        np.array([60.0, 60.0, 63.6, 63.6]),
        np.array([-50.0, -42.8, -50.0, -42.8]),
        folds=2,
        buffer_km=500,
        seed=0,
    )
    assert [
        (fold.train.tolist(), fold.test.tolist()) for fold in sorted(folds, key=lambda f: f.test)
    ] == [
        ([3], [0]),
        ([2], [1]),
        ([1], [2]),
        ([0], [3]),
    ]


def test_what_cannot_be_split_says_why() -> None:
    ids, latitude, longitude = np.arange(3), np.array([60.0, 60.5, 61.0]), np.full(3, -40.0)
    with pytest.raises(splits.SplitError, match="300 km"):
        splits.leave_mascon_out(ids, latitude, longitude, folds=3, buffer_km=300, seed=0)
    months = (MONTH0 + np.arange(20)).astype("datetime64[us]")
    with pytest.raises(splits.SplitError, match="24 months of training and an embargo of 12"):
        splits.forward(months, folds=3, embargo_months=12, min_train_months=24)


@pytest.mark.parametrize("split", ["random", "leave_mascon_out", "forward", "both"])
def test_inner_folds_keep_test_samples_out(split: str) -> None:
    table = pd.DataFrame(
        {
            "mascon_id": np.repeat(np.arange(9), 24),
            "month": np.tile(MONTH0 + np.arange(24), 9).astype("datetime64[us]"),
            "latitude": np.repeat(60.0 + 3 * np.arange(9), 24),
            "longitude": -40.0,
        }
    )
    inner = splits.inner_folds(split, table, SkillSettings())
    mascon, index = table["mascon_id"].to_numpy(), number(table)
    assert inner
    for fold in inner:
        assert not set(fold.train) & set(fold.test)
        if split in ("leave_mascon_out", "both"):
            assert not set(mascon[fold.train]) & set(mascon[fold.test])
        if split in ("forward", "both"):
            assert index[fold.train].max() + 8 < index[fold.test].min()
