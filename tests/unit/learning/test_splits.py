"""No fold trains on a neighbour or on a month that the test months reach into."""

import logging

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


@st.composite
def footprints(draw: st.DrawFn, n: int = 12) -> pd.DataFrame:
    """Draw which of the mascons touch or lie near each other, as a table of both directions."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    left, right = np.triu_indices(n, 1)
    kept = rng.random(len(left)) < draw(st.sampled_from([0.0, 0.2, 0.5]))
    left, right = left[kept], right[kept]
    distance = np.where(rng.random(len(left)) < 0.4, 0.0, rng.uniform(1, 600, len(left)))
    one = pd.DataFrame({"mascon_id": left, "neighbour_id": right, "distance_km": distance})
    other = one.rename(columns={"mascon_id": "neighbour_id", "neighbour_id": "mascon_id"})
    both = pd.concat([one, other], ignore_index=True)
    return both.assign(touches=both["distance_km"] == 0).sample(frac=1, random_state=1)


def near(neighbours: pd.DataFrame, buffer_km: float) -> set[tuple[int, int]]:
    rows = neighbours.itertuples()
    return {
        (row.mascon_id, row.neighbour_id)
        for row in rows
        if row.touches or row.distance_km <= buffer_km
    }


def number(table: pd.DataFrame) -> np.ndarray:
    stamp = table["month"].dt
    return (12 * stamp.year + stamp.month).to_numpy()


def make(
    table: pd.DataFrame,
    split: str,
    buffer_km: float | None,
    embargo: int,
    warm_up: int,
    neighbours: pd.DataFrame | None = None,
) -> list[splits.Fold]:
    options = SkillSettings(
        neighbour_buffer_km=buffer_km,
        embargo_months=embargo,
        min_train_months=warm_up,
        folds=4,
        mascon_folds=4,
    )
    return splits.make_folds(split, table, options, neighbours)


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


@settings(max_examples=40, deadline=None)
@given(
    table=samples(),
    neighbours=footprints(),
    split=st.sampled_from(["leave_mascon_out", "both"]),
    buffer_km=st.sampled_from([None, 0.0, 300.0]),
)
def test_no_neighbour_of_a_test_mascon_trains(
    table: pd.DataFrame, neighbours: pd.DataFrame, split: str, buffer_km: float | None
) -> None:
    options = SkillSettings(
        neighbour_buffer_km=buffer_km,
        embargo_months=2,
        min_train_months=6,
        folds=4,
        mascon_folds=4,
    )
    forbidden = near(neighbours, buffer_km) if buffer_km is not None else set()
    try:
        folds = splits.make_folds(split, table, options, neighbours)
    except splits.SplitError:
        folds = []
    mascon = table["mascon_id"].to_numpy()
    for fold in folds:
        pairs = {(a, b) for a in set(mascon[fold.test]) for b in set(mascon[fold.train])}
        assert not pairs & forbidden
        assert all(a != b for a, b in pairs)
    # every sample is tested once, or counted with the reason
    tested = np.concatenate([fold.test for fold in folds]) if folds else np.empty(0, int)
    assert len(tested) == len(set(tested))
    untested = splits.count_untested(split, table, folds, options)
    assert sum(untested.values()) == len(table) - len(tested)
    early = [count for why, count in untested.items() if "first 8 months" in why]
    index = number(table)
    expected = int((index < index.min() + 8).sum()) if split == "both" else 0
    assert sum(early) == expected
    if split == "leave_mascon_out" and folds:
        ids = set(mascon)
        alone = {a for a in ids if all(a == b or (a, b) in forbidden for b in ids)}
        assert sum(untested.values()) == np.isin(mascon, list(alone)).sum()


@settings(max_examples=40, deadline=None)
@given(
    table=samples(),
    neighbours=footprints(),
    split=st.sampled_from(["random", "leave_mascon_out", "forward", "both"]),
)
def test_inner_folds_lie_in_the_training_set_and_keep_its_neighbours_apart(
    table: pd.DataFrame, neighbours: pd.DataFrame, split: str
) -> None:
    options = SkillSettings(
        neighbour_buffer_km=300, embargo_months=2, min_train_months=6, folds=3, inner_folds=2
    )
    try:
        folds = splits.make_folds(split, table, options, neighbours)
    except splits.SplitError:
        return
    mascon, index, forbidden = table["mascon_id"].to_numpy(), number(table), near(neighbours, 300)
    for fold in folds[:2]:
        said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record, said=said: said.append(record.getMessage())  # type: ignore[method-assign]
        splits.logger.addHandler(handler)
        try:
            inner = splits.inner_folds(split, table.iloc[fold.train], options, neighbours)
        finally:
            splits.logger.removeHandler(handler)
        relaxed = any("none lies beyond" in line for line in said)
        for part in inner:
            train, test = fold.train[part.train], fold.train[part.test]
            assert not set(train) & set(test)
            assert not (set(train) | set(test)) & set(fold.test)
            pairs = {(a, b) for a in set(mascon[test]) for b in set(mascon[train])}
            if split in ("leave_mascon_out", "both"):
                assert all(a != b for a, b in pairs)
                assert relaxed or not pairs & forbidden
            if split in ("forward", "both"):
                span = index[fold.train].max() - index[fold.train].min() + 1
                assert index[train].max() + min(2, span // 3) < index[test].min()
        if relaxed:  # unavoidable: every two training mascons are near each other
            ids = set(mascon[fold.train])
            assert all((a, b) in forbidden for a in ids for b in ids if a != b)


def test_footprints_that_touch_or_lie_within_the_buffer_are_kept_apart() -> None:
    """Boxes of 3° in two rows: those side by side, corner to corner, and one box between."""
    import geopandas
    import shapely

    from cryofuse.mascons.footprints import neighbours

    west = np.array([-50.0, -42.0, -34.0, -26.0])
    boxes = [shapely.box(w, 66.0, w + 8.0, 69.0) for w in west]
    boxes += [shapely.box(w, 69.0, w + 8.0, 72.0) for w in west]
    mascons = geopandas.GeoDataFrame({"mascon_id": np.arange(8)}, geometry=boxes, crs=4326)
    found = neighbours(mascons, 300.0)
    place = np.array([[box.centroid.y, box.centroid.x] for box in boxes]).T
    apart = splits.keep_apart(np.arange(8), *place, 300.0, found)
    column = np.arange(8) % 4
    # 8° of longitude at 72°N are 275 km: one box between is too near there, two never are
    expected = np.abs(column[:, None] - column) <= 1
    row = np.arange(8) // 4
    one_between = np.abs(column[:, None] - column) == 2
    assert (apart[expected]).all()
    assert apart[one_between & ((row[:, None] + row) == 2)].all()
    assert not apart[np.abs(column[:, None] - column) == 3].any()
    touching = splits.keep_apart(np.arange(8), *place, 0.0, found)
    np.testing.assert_array_equal(touching, expected)
    np.testing.assert_array_equal(
        splits.keep_apart(np.arange(8), *place, None, found), np.eye(8, dtype=bool)
    )
    # mascons in another order, and fewer of them
    some = np.array([6, 1, 3])
    np.testing.assert_array_equal(
        splits.keep_apart(some, *place[:, some], 300.0, found), apart[np.ix_(some, some)]
    )


@pytest.mark.parametrize("split", ["forward", "both"])
def test_a_table_of_quarters_keeps_the_embargo_in_calendar_months(split: str) -> None:
    quarters = np.tile(MONTH0 + 3 * np.arange(16), 6).astype("datetime64[us]")
    table = pd.DataFrame(
        {
            "mascon_id": np.repeat(np.arange(6), 16),
            "month": quarters,
            "latitude": np.repeat(60.0 + 3 * np.arange(6), 16),
            "longitude": -40.0,
        }
    )
    folds = make(table, split, 300, 12, 12)
    index = number(table)
    assert folds
    for fold in folds:
        # four whole quarters lie between: 15 months from the last training to the first test row
        assert index[fold.test].min() - index[fold.train].max() >= 15
    first = min(index[fold.test].min() for fold in folds)
    assert first == index.min() + 24
    options = SkillSettings(embargo_months=12, min_train_months=12)
    last = folds[-1].train
    for inner in splits.inner_folds(split, table.iloc[last], options):
        train, test = last[inner.train], last[inner.test]
        assert index[train].max() < index[test].min()


@settings(max_examples=15, deadline=None)
@given(
    table=samples(),
    neighbours=st.one_of(st.none(), footprints()),
    split=st.sampled_from(["leave_mascon_out", "forward", "both"]),
)
def test_folds_do_not_depend_on_the_order_of_rows(
    table: pd.DataFrame, neighbours: pd.DataFrame | None, split: str
) -> None:
    shuffled = table.sample(frac=1, random_state=3)

    def described(frame: pd.DataFrame) -> list[tuple[set, set]]:
        rows = frame.index.to_numpy()
        folds = make(frame.reset_index(drop=True), split, 300, 2, 6, neighbours)
        again = make(frame.reset_index(drop=True), split, 300, 2, 6, neighbours)
        for one, other in zip(folds, again, strict=True):
            np.testing.assert_array_equal(one.train, other.train)
            np.testing.assert_array_equal(one.test, other.test)
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
