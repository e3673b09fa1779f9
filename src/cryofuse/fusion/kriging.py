"""Ordinary kriging with a linear variogram: values at places between and beyond known ones.

The linear variogram γ(h) = b·h needs no scale: the weights do not depend on b, and b is measured
by leaving known places out one by one (Chilès and Delfiner 2012, ISBN 9780470183151, sections
3.4 and 3.6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

#: Known places that speak for an unknown one: 20 change a mascon's mean by a hundredth of its
#: error on the synthetic world, and take four times as long.
NEIGHBOURS = 12
#: Nugget of the variogram (m of distance): two places at one point are then no contradiction.
_NUGGET_M = 1.0
#: Systems solved at once: bounds memory, changes no result.
_BATCH = 4096


@dataclass(frozen=True)
class Weights:
    """Weights of known places at others.

    Attributes
    ----------
    index
        Known places that speak for each target, shape (targets, k).
    weight
        Their weights, which sum to 1, shape (targets, k).
    variance_m
        Kriging variance for a variogram of slope 1 per metre (m), shape (targets,).
    """

    index: np.ndarray
    weight: np.ndarray
    variance_m: np.ndarray

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return values of known places (known, …) carried to the targets (targets, …)."""
        out = np.zeros((self.index.shape[0], *values.shape[1:]))
        for column in range(self.index.shape[1]):
            weight = self.weight[:, column].reshape(-1, *[1] * (values.ndim - 1))
            out += weight * values[self.index[:, column]]
        return out


def krige(known_m: np.ndarray, target_m: np.ndarray) -> Weights:
    """Return the weights of the nearest known places at each target.

    Parameters
    ----------
    known_m
        Places with a value (m), shape (known, 2), at least one.
    target_m
        Places without (m), shape (targets, 2), none of them known.
    """
    count = min(NEIGHBOURS, known_m.shape[0])
    _, index = cKDTree(known_m).query(target_m, k=list(range(1, count + 1)))
    return _solve(known_m, target_m, index)


def leave_one_out(known_m: np.ndarray) -> Weights:
    """Return the weights at each known place of the nearest others.

    Parameters
    ----------
    known_m
        Places with a value (m), shape (known, 2), at least two, no place twice.
    """
    count = min(NEIGHBOURS, known_m.shape[0] - 1)
    _, index = cKDTree(known_m).query(known_m, k=list(range(2, count + 2)))
    return _solve(known_m, known_m, index)


def _solve(known_m: np.ndarray, target_m: np.ndarray, index: np.ndarray) -> Weights:
    count = index.shape[1]
    weight, variance = np.empty(index.shape), np.empty(index.shape[0])
    for begin in range(0, index.shape[0], _BATCH):
        part = slice(begin, begin + _BATCH)
        near = known_m[index[part]]
        between = near[:, :, np.newaxis, :] - near[:, np.newaxis, :, :]
        to_target = near - target_m[part][:, np.newaxis, :]
        system = np.ones((near.shape[0], count + 1, count + 1))
        system[:, :count, :count] = np.hypot(between[..., 0], between[..., 1]) + _NUGGET_M
        system[:, range(count), range(count)] = 0.0
        system[:, count, count] = 0.0
        right = np.ones((near.shape[0], count + 1, 1))
        right[:, :count, 0] = np.hypot(to_target[..., 0], to_target[..., 1]) + _NUGGET_M
        solution = np.linalg.solve(system, right)
        weight[part] = solution[:, :count, 0]
        variance[part] = (solution * right).sum(axis=(1, 2))
    return Weights(index, weight, np.maximum(variance, 0.0))
