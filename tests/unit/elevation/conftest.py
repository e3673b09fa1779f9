"""Segments around nodes, made with a truth that is known."""

from dataclasses import dataclass, fields

import numpy as np
import pytest

DAYS_PER_YEAR = 365.2425
YEAR_US = DAYS_PER_YEAR * 86_400e6
EPOCH = np.datetime64("2000-01-01", "us")
#: ICESat-2: days of a cycle, beams of a pair and pairs of a track (m apart), segments along (m).
CYCLE_DAYS, BEAM_M, PAIR_M, SEGMENT_M = 91, 90.0, 3300.0, 20.0
#: Beams of a track, across (m).
BEAMS_M = np.add.outer([-PAIR_M, 0.0, PAIR_M], [-BEAM_M / 2, BEAM_M / 2]).ravel()
#: First data, and safe holds (years since 2000).
FIRST_DATA = 18.78
SAFE_HOLDS = ((19.482, 19.567), (22.255, 22.290))
#: Tracks of one direction at 75° N (m apart), and their heading (degrees from the y axis).
TRACK_M, HEADING_DEG = 7400.0, 20.0


@dataclass
class World:
    """Segments of many nodes; ``noise`` is the σ that each segment's noise was drawn with (m)."""

    node_x: np.ndarray
    node_y: np.ndarray
    x: np.ndarray
    y: np.ndarray
    year: np.ndarray
    time: np.ndarray
    height: np.ndarray
    passes: np.ndarray
    node: np.ndarray
    noise: np.ndarray

    def sigma(self, value=0.05):
        return np.full(self.x.size, value)

    def keep(self, rows):
        """Leave the other segments out."""
        for field in fields(self):
            if not field.name.startswith("node_"):
                setattr(self, field.name, getattr(self, field.name)[rows])

    def move(self, dx, dy):
        """Move segments over the ground without changing their heights."""
        self.x, self.y = self.x + dx, self.y + dy


def timestamps(year):
    return EPOCH + np.round(np.asarray(year) * YEAR_US).astype("timedelta64[us]")


def repeat_world(
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
    """Repeats of one beam pair over each node: two lines 90 m apart, every 91 days.

    Truth and noise are one number or one for each node.
    """
    rate, amplitude, phase, noise, pass_noise = (
        np.reshape(value, (-1, 1, 1, 1)) for value in (rate, amplitude, phase, noise, pass_noise)
    )
    rng = np.random.default_rng(seed)
    shape = (nodes, repeats, lines, per_line)
    year = np.broadcast_to(
        (start + np.arange(repeats) * CYCLE_DAYS / DAYS_PER_YEAR)[None, :, None, None], shape
    )
    along = np.broadcast_to(np.linspace(-900, 900, per_line), shape)
    line = (np.arange(lines) - (lines - 1) / 2) * BEAM_M
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
    noise = np.broadcast_to(noise, shape)
    flat = [a.ravel().copy() for a in (node_x[node] + dx, dy, year, height, passes, node, noise)]
    x, y, year, height, passes, node, noise = flat
    return World(node_x, np.zeros(nodes), x, y, year, timestamps(year), height, passes, node, noise)


def track_world(
    nodes=1,
    cycles=25,
    *,
    rate=-0.5,
    amplitude=0.3,
    phase=1.0,
    noise=0.05,
    pass_noise=0.03,
    relief=0.5,
    along_m=SEGMENT_M,
    missed=0.12,
    clouded=0.3,
    seed=1,
):
    """Nodes far from each other under ICESat-2's tracks at 75° N, about 1 470 segments a km².

    Six beams of ascending and descending tracks, each on its own day of the cycle; cycles 1 and
    2 point up to 3.5 km beside their tracks; safe holds, missed passes and passes with a gap
    under a cloud. Relief (m, RMS) is six waves 0.8 to 5 km long on a slope of about 2 %: more
    than a biquadratic surface describes. Segments' σ spread 0.6 to 1.6 times ``noise`` (m).
    Truth and noise are one number or one for each node.
    """
    rate, amplitude, phase, noise, pass_noise, relief = (
        np.broadcast_to(value, nodes)
        for value in (rate, amplitude, phase, noise, pass_noise, relief)
    )
    rng = np.random.default_rng(seed)
    shape = (nodes, 2, 5, cycles)
    of_node, direction, track, cycle = (a.ravel() for a in np.indices(shape))
    day = np.broadcast_to(rng.uniform(0, CYCLE_DAYS, shape[:3])[..., None], shape).ravel()
    pass_year = FIRST_DATA + (day + CYCLE_DAYS * cycle) / DAYS_PER_YEAR
    flown = rng.random(cycle.size) >= missed
    for begin, end in SAFE_HOLDS:
        flown &= (pass_year < begin) | (pass_year >= end)
    centre = rng.uniform(-0.5, 0.5, (nodes, 2))[of_node, direction] * TRACK_M
    pointing = np.where(
        cycle < 2, rng.uniform(-3500, 3500, cycle.size), rng.normal(0, 10, cycle.size)
    )
    level = pass_noise[of_node] * rng.normal(size=cycle.size)
    cloud_at = rng.uniform(-1000, 1000, cycle.size)
    cloud = (rng.random(cycle.size) < clouded) * rng.uniform(150, 1000, cycle.size)

    # Lines of beams that come within a kilometre of the node, then their segments.
    across = (centre + (track - 2) * TRACK_M + pointing)[:, None] + BEAMS_M
    line_pass, beam = np.nonzero(flown[:, None] & (np.abs(across) < 1000))
    across = across[line_pass, beam]
    half = np.sqrt(1000**2 - across**2)
    count = (2 * half / along_m).astype(int)
    line = np.repeat(np.arange(count.size), count)
    place = np.arange(line.size) - np.repeat(np.cumsum(count) - count, count)
    along = (place + rng.random(count.size)[line]) * along_m - half[line]
    of_pass = line_pass[line]
    clear = np.abs(along - cloud_at[of_pass]) >= cloud[of_pass]
    along, across, of_pass = along[clear], across[line][clear], of_pass[clear]

    node, year = of_node[of_pass], pass_year[of_pass]
    heading = np.radians(HEADING_DEG) * np.where(direction[of_pass] == 0, 1, -1)
    dx = along * np.sin(heading) + across * np.cos(heading)
    dy = along * np.cos(heading) - across * np.sin(heading)
    slope = rng.normal(0, 0.015, (nodes, 2))
    height = 1500 + slope[node, 0] * dx + slope[node, 1] * dy
    length = rng.uniform(800, 5000, (6, nodes))
    size = relief * length / np.sqrt((length**2).sum(axis=0) / 2)
    for wave in range(6):
        toward, start = rng.uniform(0, 2 * np.pi, (2, nodes))
        distance = np.cos(toward)[node] * dx + np.sin(toward)[node] * dy
        phase_here = 2 * np.pi * distance / length[wave][node] + start[node]
        height += size[wave][node] * np.cos(phase_here)
    height += rate[node] * year + amplitude[node] * np.cos(2 * np.pi * year - phase[node])
    sigma = noise[node] * rng.uniform(0.6, 1.6, node.size)
    height += sigma * rng.normal(size=node.size) + level[of_pass]
    columns = int(np.ceil(np.sqrt(nodes)))
    node_x, node_y = (np.arange(nodes) % columns) * 4e3, (np.arange(nodes) // columns) * 4e3
    number = (direction * 5 + track + 1) * 1000 + cycle + 1
    return World(
        node_x, node_y, node_x[node] + dx, node_y[node] + dy, year, timestamps(year), height,
        number[of_pass], node, sigma,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_world():
    return repeat_world
