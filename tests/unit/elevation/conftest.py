"""Segments around nodes, made with a truth that is known."""

from dataclasses import dataclass

import numpy as np
import pytest

YEAR_US = 365.2425 * 86_400e6
EPOCH = np.datetime64("2000-01-01", "us")


@dataclass
class World:
    node_x: np.ndarray
    node_y: np.ndarray
    x: np.ndarray
    y: np.ndarray
    year: np.ndarray
    time: np.ndarray
    height: np.ndarray
    passes: np.ndarray
    node: np.ndarray

    def sigma(self, value=0.05):
        return np.full(self.x.size, value)


def timestamps(year):
    return EPOCH + np.round(np.asarray(year) * YEAR_US).astype("timedelta64[us]")


@pytest.fixture(scope="session")
def make_world():
    """Repeats of one beam pair over each node: two lines 90 m apart, every 91 days."""

    def make(
        nodes=1,
        repeats=25,
        per_line=20,
        *,
        lines=2,
        rate=-0.5,
        amplitude=0.3,
        phase=1.0,
        noise=0.05,
        pass_noise=0.03,
        outliers=0.0,
        jitter=10.0,
        start=18.8,
        curvature=1e-5,
        seed=1,
    ):
        rng = np.random.default_rng(seed)
        shape = (nodes, repeats, lines, per_line)
        year = np.broadcast_to(
            (start + np.arange(repeats) * 91 / 365.2425)[None, :, None, None], shape
        )
        along = np.broadcast_to(np.linspace(-900, 900, per_line), shape)
        line = (np.arange(lines) - (lines - 1) / 2) * 90.0
        across = line[None, None, :, None] + jitter * rng.normal(size=(nodes, repeats, 1, 1))
        across = np.broadcast_to(across, shape)
        dx, dy = 0.8 * along - 0.6 * across, 0.6 * along + 0.8 * across
        height = 1500 + 0.01 * dx - 0.02 * dy + curvature * (dx**2 - dx * dy)
        height = height + rate * year + amplitude * np.cos(2 * np.pi * year - phase)
        height = height + noise * rng.normal(size=shape)
        height = height + pass_noise * rng.normal(size=(nodes, repeats, 1, 1))
        gross = rng.random(shape) < outliers
        height = height + gross * rng.normal(0, 30, shape)
        node_x = np.arange(nodes) * 5000.0
        node = np.broadcast_to(np.arange(nodes)[:, None, None, None], shape)
        passes = np.broadcast_to(np.arange(repeats)[None, :, None, None], shape)
        flat = [a.ravel().copy() for a in (node_x[node] + dx, dy, year, height, passes, node)]
        x, y, year, height, passes, node = flat
        return World(node_x, np.zeros(nodes), x, y, year, timestamps(year), height, passes, node)

    return make
