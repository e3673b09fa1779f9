"""Training and test folds that keep neighbours, and the months about a test month, apart.

Every function takes plain arrays with one value per sample and returns folds of positions.
Nothing is drawn without a seed, and nothing depends on the order of the samples' mascons.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cryofuse.calendar import month_index
from cryofuse.geo import distance_matrix_km

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

    from cryofuse.config import SkillSettings

logger = logging.getLogger(__name__)

#: Fewest months in a training set that can still be cut into inner folds in time.
MIN_INNER_MONTHS = 6
#: Fewest samples a model is trained on, in outer and inner folds.
MIN_TRAIN_SAMPLES = 20
#: Share of the training mascons that an inner fold should train on: below it folds are made finer.
INNER_TRAIN_SHARE = 1 / 3
#: Without footprints: how much farther apart centres are than the buffer counts. With the default
#: of 300 km all of JPL's 3° mascons that share an edge, 330 to 360 km apart, are kept apart.
CENTRES_APART_KM = 150.0


class SplitError(ValueError):
    """No honest fold can be made: says what the data lack."""


class Fold(NamedTuple):
    """A fold: its number and the positions of its training and test samples."""

    number: int
    train: np.ndarray
    test: np.ndarray


def group_mascons(distance_km: np.ndarray, folds: int, seed: int) -> list[np.ndarray]:
    """Cut mascons into compact groups of nearly equal size.

    A group is a mascon and its nearest ungrouped ones, so that groups share their neighbours
    and a buffer costs little training data (Roberts et al. 2017, doi:10.1111/ecog.02881). The
    first group starts at a mascon drawn by the seed, each later one at the ungrouped mascon
    farthest from the other ungrouped ones.

    Parameters
    ----------
    distance_km
        Distances between mascons (n × n).
    folds
        Number of groups; no more than n are made.
    seed
        Seed.

    Returns
    -------
    list of ndarray
        Positions of each group's mascons.
    """
    n = len(distance_km)
    folds = min(folds, n)
    left = np.arange(n)
    groups = []
    for number in range(folds):
        size = len(left) // (folds - number)
        if number == 0:
            start = int(np.random.default_rng(seed).integers(n))
        else:
            start = int(left[np.argmax(distance_km[np.ix_(left, left)].sum(axis=1).round(6))])
        nearest = left[np.argsort(distance_km[start, left].round(6), kind="stable")][:size]
        groups.append(np.sort(nearest))
        left = np.setdiff1d(left, nearest)
    return groups


def random_folds(n_samples: int, folds: int, seed: int) -> list[Fold]:
    """Return shuffled K folds of samples: a warning, for neighbours and months leak across.

    Raises
    ------
    SplitError
        If there are fewer samples than two.
    """
    if n_samples < 2:
        raise SplitError(f"{n_samples} samples cannot be split")
    order = np.random.default_rng(seed).permutation(n_samples)
    parts = np.array_split(order, min(folds, n_samples))
    every = np.arange(n_samples)
    return [Fold(k, np.setdiff1d(every, part), np.sort(part)) for k, part in enumerate(parts)]


def keep_apart(
    mascon_id: ArrayLike,
    latitude: ArrayLike,
    longitude: ArrayLike,
    buffer_km: float | None,
    neighbours: pd.DataFrame | None = None,
) -> np.ndarray:
    """Return which mascons may not train where another one is tested.

    Parameters
    ----------
    mascon_id, latitude, longitude
        Mascons, each once, and their centres (degrees).
    buffer_km
        Footprints that touch, or whose edges are this near (km), are kept apart; None keeps apart
        a mascon and itself alone.
    neighbours
        Table of :func:`cryofuse.mascons.footprints.neighbours` for at least this buffer. Without
        it footprints are unknown, and centres count: as near as the buffer and
        ``CENTRES_APART_KM`` more.

    Returns
    -------
    ndarray of bool
        Square and symmetric, its diagonal true.
    """
    ids = np.asarray(mascon_id)
    apart = np.eye(len(ids), dtype=bool)
    if buffer_km is None:
        return apart
    if neighbours is None:
        near_km = buffer_km + CENTRES_APART_KM
        return apart | (distance_matrix_km(longitude, latitude) <= near_km)
    near = neighbours["touches"].to_numpy(bool) | (
        neighbours["distance_km"].to_numpy(float) <= buffer_km
    )
    pairs = neighbours.loc[near, ["mascon_id", "neighbour_id"]].to_numpy()
    pairs = pairs[np.isin(pairs, ids).all(axis=1)]
    order = np.argsort(ids)
    left, right = (order[np.searchsorted(ids, pairs[:, k], sorter=order)] for k in (0, 1))
    apart[left, right] = apart[right, left] = True
    return apart


def leave_mascon_out(
    mascon_id: ArrayLike,
    latitude: ArrayLike,
    longitude: ArrayLike,
    *,
    folds: int,
    buffer_km: float | None,
    seed: int,
    neighbours: pd.DataFrame | None = None,
    train_share: float = 0.0,
    finest: int | None = None,
) -> list[Fold]:
    """Return folds of whole mascons, trained on mascons beyond a buffer about every test mascon.

    Where the buffer leaves a fold no training mascon, the folds are made finer, down to one
    mascon each. A mascon that even then has no training mascon is in no fold.

    Parameters
    ----------
    mascon_id, latitude, longitude
        Mascon of each sample and its centre (degrees).
    folds
        Number of folds wanted.
    buffer_km, neighbours
        What is kept apart, of :func:`keep_apart`.
    seed
        Seed of the groups.
    train_share
        Share of the mascons that a fold should train on at least; finer folds are sought for it.
    finest
        Most folds; None allows one for each mascon.

    Returns
    -------
    list of Fold
        Folds with positions of samples.

    Raises
    ------
    SplitError
        If there is one mascon only, or if no mascon lies beyond the buffer of another.
    """
    ids, first, inverse = np.unique(np.asarray(mascon_id), return_index=True, return_inverse=True)
    if len(ids) < 2:
        raise SplitError(f"{len(ids)} mascon leaves none to train on")
    place = np.asarray(latitude)[first], np.asarray(longitude)[first]
    distance = distance_matrix_km(place[1], place[0])
    apart = keep_apart(ids, *place, buffer_km, neighbours)
    wanted = min(folds, len(ids))
    finest = len(ids) if finest is None else min(finest, len(ids))
    enough = max(1, int(train_share * len(ids)))
    while True:
        groups = group_mascons(distance, wanted, seed)
        far = [(~apart[group].any(axis=0)).nonzero()[0] for group in groups]
        if all(len(f) >= enough for f in far) or wanted >= finest:
            break
        wanted = min(2 * wanted, finest)
    if not any(len(f) for f in far):
        raise SplitError(
            f"every mascon touches a fold of test mascons or lies within {buffer_km:g} km of one"
        )
    return [
        Fold(k, np.isin(inverse, f).nonzero()[0], np.isin(inverse, group).nonzero()[0])
        for k, (group, f) in enumerate(zip(groups, far, strict=True))
        if len(f)
    ]


def forward(
    month: ArrayLike, *, folds: int, embargo_months: int, min_train_months: int
) -> list[Fold]:
    """Return folds forward in time: train on the past, leave an embargo, test on what follows.

    Parameters
    ----------
    month
        Month of each sample.
    folds
        Number of contiguous blocks of test months.
    embargo_months
        Calendar months between the last training and the first test month.
    min_train_months
        Shortest first training record, in calendar months from the first sample on.

    Returns
    -------
    list of Fold
        Folds in order of time; every month after the warm-up is tested once.

    Raises
    ------
    SplitError
        If no month is left to test.
    """
    index = month_index(month)
    months = np.unique(index)
    warm_up = max(1, min_train_months) + embargo_months
    tested = months[months - months.min() >= warm_up] if len(months) else months
    if len(tested) == 0:
        raise SplitError(
            f"{len(months)} months leave none to test after {min_train_months} months of training "
            f"and an embargo of {embargo_months}"
        )
    blocks = np.array_split(tested, min(folds, len(tested)))
    return [
        Fold(
            k,
            (index < block[0] - embargo_months).nonzero()[0],
            np.isin(index, block).nonzero()[0],
        )
        for k, block in enumerate(blocks)
    ]


def cross(in_space: list[Fold], in_time: list[Fold]) -> list[Fold]:
    """Return every pair of a fold in space and one in time: train and test on what both allow.

    Pairs without a test or a training sample are left out.

    Raises
    ------
    SplitError
        If no pair is left.
    """
    pairs = [
        (np.intersect1d(s.train, t.train), np.intersect1d(s.test, t.test))
        for t in in_time
        for s in in_space
    ]
    kept = [(train, test) for train, test in pairs if len(train) and len(test)]
    if not kept:
        raise SplitError("no test sample has training samples of the past beyond the buffer")
    return [Fold(k, train, test) for k, (train, test) in enumerate(kept)]


def make_folds(
    split: str,
    table: pd.DataFrame,
    settings: SkillSettings,
    neighbours: pd.DataFrame | None = None,
) -> list[Fold]:
    """Return the outer folds of a split.

    Parameters
    ----------
    split
        ``random``, ``leave_mascon_out``, ``forward`` or ``both`` (leave mascons out and forward
        in time: training mascons beyond the buffer, training months before the embargo).
    table
        Samples with columns mascon_id, month, latitude, longitude.
    settings
        Folds, buffer, embargo, warm-up and seed.
    neighbours
        Footprints near each other, of :func:`keep_apart`.

    Raises
    ------
    SplitError
        If the samples allow no honest fold.
    """
    if len(table) == 0:
        raise SplitError("no sample")
    if split == "random":
        return random_folds(len(table), settings.folds, settings.seed)
    in_space = in_time = None
    if split in ("leave_mascon_out", "both"):
        in_space = leave_mascon_out(
            table["mascon_id"],
            table["latitude"],
            table["longitude"],
            folds=settings.mascon_folds,
            buffer_km=settings.neighbour_buffer_km,
            seed=settings.seed,
            neighbours=neighbours,
        )
    if split in ("forward", "both"):
        in_time = forward(
            table["month"].to_numpy(),
            folds=settings.folds,
            embargo_months=settings.embargo_months,
            min_train_months=settings.min_train_months,
        )
    if in_space is not None and in_time is not None:
        return cross(in_space, in_time)
    found = in_space if in_space is not None else in_time
    if found is None:
        raise ValueError(f"{split!r} is not a split")
    return found


def count_untested(
    split: str, table: pd.DataFrame, folds: list[Fold], settings: SkillSettings
) -> dict[str, int]:
    """Return how many samples no fold tests, by the reason; a reason without a sample is left out.

    Parameters
    ----------
    split, table, settings
        As for :func:`make_folds`.
    folds
        Those of its folds that are used.
    """
    untested = np.ones(len(table), bool)
    for fold in folds:
        untested[fold.test] = False
    found = {}
    if split in ("forward", "both"):
        index = month_index(table["month"].to_numpy())
        first = max(1, settings.min_train_months) + settings.embargo_months
        early = index - index.min() < first
        found[f"in the first {first} months, of training and embargo"] = untested & early
        untested = untested & ~early
    found[f"without {MIN_TRAIN_SAMPLES} training samples"] = untested
    return {why: int(rows.sum()) for why, rows in found.items() if rows.any()}


def inner_folds(
    split: str,
    table: pd.DataFrame,
    settings: SkillSettings,
    neighbours: pd.DataFrame | None = None,
) -> list[Fold]:
    """Return folds inside a training set that mimic the outer split, for tuning and calibration.

    A training set is smaller than the whole, and warm-up and embargo take at most a third of its
    months each. The buffer stays: groups of mascons are made finer, and as many of them tested as
    there are inner folds. Only where no training mascon lies beyond the buffer of another is it
    given up for the mascons that touch, and at last for the test mascons alone; the log says so.
    Outer folds never relax; inner ones choose settings and widths only.

    Parameters
    ----------
    split
        The outer split.
    table
        The training samples of one outer fold.
    settings
        Inner folds, buffer, embargo and seed.
    neighbours
        Footprints near each other, of :func:`keep_apart`.

    Returns
    -------
    list of Fold
        Positions within ``table``, none with too few to train on; empty where the training set
        allows no inner fold.
    """
    try:
        folds = _inner(split, table, settings, neighbours)
    except SplitError:
        return []
    return [fold for fold in folds if len(fold.train) >= MIN_TRAIN_SAMPLES]


def _inner(
    split: str, table: pd.DataFrame, settings: SkillSettings, neighbours: pd.DataFrame | None
) -> list[Fold]:
    if split == "random":
        return random_folds(len(table), settings.inner_folds, settings.seed + 1)
    if split == "forward":
        return _inner_forward(table, settings, settings.inner_folds)
    in_space = _inner_mascons(table, settings, neighbours)
    return cross(in_space, _inner_forward(table, settings, 1)) if split == "both" else in_space


def _inner_forward(table: pd.DataFrame, settings: SkillSettings, folds: int) -> list[Fold]:
    """Return inner folds forward in time; warm-up and embargo of at most a third each."""
    month = table["month"].to_numpy()
    index = month_index(month)
    span = int(index.max() - index.min()) + 1
    if span < MIN_INNER_MONTHS:
        raise SplitError(f"fewer than {MIN_INNER_MONTHS} months to train on")
    third = span // 3
    return forward(
        month,
        folds=folds,
        embargo_months=min(settings.embargo_months, third),
        min_train_months=min(settings.min_train_months, third),
    )


def _inner_mascons(
    table: pd.DataFrame, settings: SkillSettings, neighbours: pd.DataFrame | None
) -> list[Fold]:
    """Return inner folds of mascons, with the whole buffer wherever any mascon lies beyond it."""
    whole, twice = settings.neighbour_buffer_km, 2 * settings.inner_folds
    for buffer_km, finest in ((whole, twice), (whole, None), (0.0, None), (None, None)):
        try:
            found = leave_mascon_out(
                table["mascon_id"],
                table["latitude"],
                table["longitude"],
                folds=settings.inner_folds,
                buffer_km=buffer_km,
                seed=settings.seed + 1,
                neighbours=neighbours,
                train_share=INNER_TRAIN_SHARE,
                finest=finest,
            )
        except SplitError:
            continue
        if buffer_km != whole:
            logger.warning(
                "%d training mascons: none lies beyond %g km of another, inner folds keep apart %s",
                table["mascon_id"].nunique(),
                whole,
                "test mascons alone" if buffer_km is None else "mascons that touch",
            )
        # Every so many of the finer ones: as many fits, and no worse a training set.
        chosen = np.linspace(0, len(found) - 1, min(settings.inner_folds, len(found)))
        return [found[k] for k in chosen.round().astype(int)]
    raise SplitError("one mascon cannot be split")
