"""Training and test folds that keep neighbours, and the months about a test month, apart.

Every function takes plain arrays with one value per sample and returns folds of positions.
Nothing is drawn without a seed, and nothing depends on the order of the samples' mascons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cryofuse.calendar import month_index
from cryofuse.geo import distance_matrix_km

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

    from cryofuse.config import SkillSettings

#: Fewest months in a training set that can still be cut into inner folds in time.
MIN_INNER_MONTHS = 6
#: Fewest samples a model is trained on, in outer and inner folds.
MIN_TRAIN_SAMPLES = 20


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


def leave_mascon_out(
    mascon_id: ArrayLike,
    latitude: ArrayLike,
    longitude: ArrayLike,
    *,
    folds: int,
    buffer_km: float,
    seed: int,
    refine: bool = True,
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
    buffer_km
        Great-circle distance between centres up to which a mascon is kept out of training.
    seed
        Seed of the groups.
    refine
        Whether folds may be made finer; otherwise one fold without training is an error.

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
    distance = distance_matrix_km(np.asarray(longitude)[first], np.asarray(latitude)[first])
    wanted = min(folds, len(ids))
    while True:
        groups = group_mascons(distance, wanted, seed)
        far = [(distance[group].min(axis=0) > buffer_km).nonzero()[0] for group in groups]
        far = [np.setdiff1d(f, group) for f, group in zip(far, groups, strict=True)]
        if all(len(f) for f in far) or wanted == len(ids) or not refine:
            break
        wanted = min(2 * wanted, len(ids))
    if not all(len(f) for f in far) and (not refine or not any(len(f) for f in far)):
        raise SplitError(f"no mascon is more than {buffer_km:g} km from a fold of test mascons")
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


def make_folds(split: str, table: pd.DataFrame, settings: SkillSettings) -> list[Fold]:
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
            folds=settings.folds,
            buffer_km=settings.neighbour_buffer_km,
            seed=settings.seed,
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


def inner_folds(split: str, table: pd.DataFrame, settings: SkillSettings) -> list[Fold]:
    """Return folds inside a training set that mimic the outer split, for tuning and calibration.

    A training set is smaller than the whole, so the buffer is halved and at last dropped where
    it leaves no training mascon, and warm-up and embargo take at most a third of the months
    each. Outer folds never relax; inner ones choose settings and widths only.

    Parameters
    ----------
    split
        The outer split.
    table
        The training samples of one outer fold.
    settings
        Inner folds, buffer, embargo and seed.

    Returns
    -------
    list of Fold
        Positions within ``table``, none with too few to train on; empty where the training set
        allows no inner fold.
    """
    try:
        folds = _inner(split, table, settings)
    except SplitError:
        return []
    return [fold for fold in folds if len(fold.train) >= MIN_TRAIN_SAMPLES]


def _inner(split: str, table: pd.DataFrame, settings: SkillSettings) -> list[Fold]:
    if split == "random":
        return random_folds(len(table), settings.inner_folds, settings.seed + 1)
    if split == "forward":
        return _inner_forward(table, settings, settings.inner_folds)
    in_space = _inner_mascons(table, settings)
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


def _inner_mascons(table: pd.DataFrame, settings: SkillSettings) -> list[Fold]:
    """Return inner folds of mascons, with as much of the buffer as leaves training mascons."""
    for buffer_km in (settings.neighbour_buffer_km, settings.neighbour_buffer_km / 2, 0.0):
        try:
            return leave_mascon_out(
                table["mascon_id"],
                table["latitude"],
                table["longitude"],
                folds=settings.inner_folds,
                buffer_km=buffer_km,
                seed=settings.seed + 1,
                refine=False,
            )
        except SplitError:
            continue
    raise SplitError("one mascon cannot be split")
