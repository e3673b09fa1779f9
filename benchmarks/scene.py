"""Segments with a known truth along plausible tracks, at any density, made in pieces.

A survey covers a box of the projected plane. Its reference tracks are straight lines of two
headings that come back every 91 days (three months); each carries the mission's six beams with a
segment every 20 m. At density 1 a square kilometre gets 1 470 segments in 75 months, Greenland's
mean after 25 cycles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cryofuse.atl06.tiles import tile_codes
from cryofuse.calendar import year_fraction
from cryofuse.geo import unproject
from cryofuse.simulate.orbit import BEAM_OFFSETS_M, BEAMS
from cryofuse.tables import SEGMENTS

#: Segments per square kilometre of a full record, and its length (months).
DEFAULT_DENSITY_KM2, RECORD_MONTHS = 1470.0, 75
FIRST_MONTH = np.datetime64("2018-10", "M")
#: Distance of segments along a track (m), and speed over ground (m/s).
STEP_M, SPEED_M_S = 20.0, 7000.0
#: What the segments of one number lag from beam to beam (s): no two share a time.
BEAM_LAG_S = 0.000311
#: Months after which a track is flown again.
REPEAT_MONTHS = 3
#: Angle of the two headings to the y axis (degrees).
HEADING_DEG = 15.0
#: Scatter of a pass across its track, and shared height error of its segments (m, 1σ).
ACROSS_M, PASS_SIGMA_M = 6.0, 0.02
#: Distance of the points between which positions are interpolated (m).
KNOT_M = 1000.0
#: Shares of segments without a height, flagged as problems (both in runs), and grossly wrong.
FILL_SHARE, PROBLEM_SHARE, OUTLIER_SHARE = 0.09, 0.14, 0.01
RUN = 8
#: Segments that a cloud hides at a time.
CLOUD = 50
#: Columns that are null where the height is, and those that only the filters read.
_OF_HEIGHT = ("height_m", "height_sigma_m", "slope_along", "robust_spread_m")
_OF_FILTERS = (
    "dem_m", "quality_summary", "robust_spread_m", "snr_significance", "photon_count",
    "geolocation_sigma_m", "multiple_scattering", "cloud_flag", "blowing_snow",
    "effective_reflectance",
)  # fmt: skip
#: Segments are made this far beyond a tile (m): more than the edge of its neighbours.
RING_M = 3000.0


def topography(x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
    """Return the height of the surface at the start of 2020 (m)."""
    hills = 20.0 * np.sin(x_m / 7000.0) * np.cos(y_m / 9000.0)
    return 1500.0 + hills + 2.0 * np.sin(x_m / 800.0 + y_m / 1100.0)


def gradient(x_m: np.ndarray, y_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the slopes of :func:`topography` along x and y (m/m)."""
    ripple = 2.0 * np.cos(x_m / 800.0 + y_m / 1100.0)
    along_x = 20.0 / 7000.0 * np.cos(x_m / 7000.0) * np.cos(y_m / 9000.0) + ripple / 800.0
    along_y = -20.0 / 9000.0 * np.sin(x_m / 7000.0) * np.sin(y_m / 9000.0) + ripple / 1100.0
    return along_x, along_y


def change(x_m: np.ndarray, y_m: np.ndarray, year: np.ndarray | float) -> np.ndarray:
    """Return elevation change since the start of 2020 (m), year in years since 2000."""
    rate = -0.5 + 0.3 * np.sin(x_m / 40_000.0) * np.cos(y_m / 60_000.0)
    season = np.cos(2 * np.pi * np.asarray(year) - 1.0) - np.cos(1.0)
    return rate * (np.asarray(year) - 20.0) + 0.2 * season


@dataclass(frozen=True)
class Path:
    """A reference track: distance along it (m) and positions (m in the CRS) of its points."""

    along_m: np.ndarray
    x_m: np.ndarray
    y_m: np.ndarray


@dataclass(frozen=True)
class Pass:
    """A track flown once: its number, the cycle, and when it is at its first point."""

    path: Path
    rgt: int
    cycle: int
    start: np.datetime64

    @property
    def granule(self) -> str:
        """Return the name of its granule."""
        digits = "".join(c for c in str(self.start.astype("M8[s]")) if c.isdigit())
        return f"ATL06_{digits}_{self.rgt:04d}{self.cycle:02d}03_006_01.h5"


@dataclass(frozen=True)
class Survey:
    """Where segments fall, how densely, and the seed of all that is drawn.

    Parameters
    ----------
    box
        x_min, y_min, x_max, y_max (m), edges at the top excluded.
    crs
        Its CRS.
    tile_m
        Side of a tile (m).
    density
        Multiple of the default track density.
    clean
        Whether only segments come that the filters keep; the density then counts those, and
        what only the filters read is null.
    clear_share
        Share of the segments that no cloud hides.
    seed
        Seed.
    """

    box: tuple[float, float, float, float]
    crs: str = "EPSG:3413"
    tile_m: float = 100_000.0
    density: float = 1.0
    clean: bool = False
    clear_share: float = 1.0
    seed: int = 20


def straight_passes(survey: Survey, month: int) -> list[Pass]:
    """Return the passes of a month, in order of time.

    Lines of one heading are evenly spaced and the spacing follows from the density alone: a
    line takes 6 segments each 20 m, and lines a distance s apart have a length 1/s per area.

    Parameters
    ----------
    survey
        Box and density.
    month
        Months since the first of the record.
    """
    per_month = survey.density * DEFAULT_DENSITY_KM2 * 1e-6 / RECORD_MONTHS
    spacing = 2 * len(BEAMS) / (STEP_M * per_month)
    part, cycle = month % REPEAT_MONTHS, month // REPEAT_MONTHS + 1
    paths = []
    for heading in (-HEADING_DEG, HEADING_DEG):
        paths += _lines(survey.box, np.radians(heading), spacing, part / REPEAT_MONTHS)
    start = (FIRST_MONTH + month).astype("M8[us]")
    gap = np.timedelta64(28 * 86_400_000_000 // max(len(paths), 1), "us")
    # Numbers of the month's part of the cycle, so that a track keeps its own.
    return [
        Pass(path, REPEAT_MONTHS * number + part + 1, cycle, start + number * gap)
        for number, path in enumerate(paths)
    ]


def _lines(
    box: tuple[float, float, float, float], heading: float, spacing: float, phase: float
) -> list[Path]:
    """Return the lines of a heading, a spacing apart, whose beams reach a box."""
    ahead = np.array([np.sin(heading), np.cos(heading)])
    left = np.array([-ahead[1], ahead[0]])
    corners = np.array([[box[i], box[j]] for i in (0, 2) for j in (1, 3)])
    reach = float(np.abs(BEAM_OFFSETS_M).max()) + 5 * ACROSS_M
    across, along = corners @ left, corners @ ahead
    numbers = np.arange(
        np.ceil((across.min() - reach) / spacing - phase),
        np.floor((across.max() + reach) / spacing - phase) + 1,
    )
    points = np.arange(along.min() - reach, along.max() + reach + KNOT_M, KNOT_M)
    # Distances are counted from a multiple of the step, so that segment numbers are whole.
    points = np.round(points / STEP_M) * STEP_M
    paths = []
    for offset in (numbers + phase) * spacing:
        x_m, y_m = (offset * left[:, None] + points * ahead[:, None]).tolist()
        paths.append(Path(points - points[0], np.array(x_m), np.array(y_m)))
    return paths


def observe(survey: Survey, flown: Pass) -> pa.Table:
    """Return the segments of a pass in a survey's box: contract SEGMENTS, beam after beam.

    Parameters
    ----------
    survey
        Box, CRS, tiles and seed.
    flown
        The pass.
    """
    rng = np.random.default_rng([survey.seed, flown.rgt, flown.cycle, int(flown.path.along_m[0])])
    number, beam, x, y, latitude, longitude, ahead = _positions(survey, flown, rng)
    count = x.size
    seconds = (number * STEP_M - flown.path.along_m[0]) / SPEED_M_S + BEAM_LAG_S * beam
    surface = topography(x, y)
    slope_x, slope_y = gradient(x, y)
    slope = slope_x * ahead[0] + slope_y * ahead[1]
    noise = rng.standard_normal((4, count), dtype=np.float32)
    sigma = 0.06 * np.exp2(0.5 * noise[0])
    height = surface + change(x, y, float(year_fraction(flown.start))) + sigma * noise[1]
    height += PASS_SIGMA_M * rng.standard_normal()
    fill, problem = _spoil(rng, survey, height)
    steps = rng.integers(0, 256, count, dtype=np.uint8)
    codes, names = tile_codes(x, y, survey.tile_m)

    def label(codes: np.ndarray, names: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string()))

    values = {
        "tile": label(codes, names),
        "x_m": x,
        "y_m": y,
        "latitude": latitude,
        "longitude": longitude,
        "height_m": height,
        "height_sigma_m": sigma,
        "time": flown.start + np.round(seconds * 1e6).astype("m8[us]"),
        "rgt": np.full(count, flown.rgt, np.int16),
        "cycle": np.full(count, flown.cycle, np.int16),
        "beam": label(beam, list(BEAMS)),
        "segment_id": (number + 100_000).astype(np.int32),
        "slope_along": (slope + 0.002 * noise[2]).astype(np.float32),
        "granule": label(np.zeros(count, np.int32), [flown.granule]),
    }
    if not survey.clean:
        values |= {
            "dem_m": (surface + 2.5 * noise[3]).astype(np.float32),
            "quality_summary": (fill | problem).astype(np.int8),
            "robust_spread_m": np.where(problem, 0.6, 0.1).astype(np.float32) + sigma,
            "snr_significance": problem * steps / np.float32(512),
            "photon_count": rng.integers(11, 120, count, dtype=np.int32),
            "geolocation_sigma_m": 0.2 + steps / np.float32(1000),
            "multiple_scattering": (steps // 64).astype(np.int8),
            "cloud_flag": (steps % 6).astype(np.int8),
            "blowing_snow": (steps % 5).astype(np.int8),
            "effective_reflectance": steps / np.float32(256),
        }
    arrays = []
    for name, column in SEGMENTS.columns.items():
        if survey.clean and name in _OF_FILTERS:
            arrays.append(pa.nulls(count, column.kind))
        else:
            mask = fill if name in _OF_HEIGHT else None
            arrays.append(pa.array(values[name], column.kind, mask=mask))
    return pa.table(arrays, schema=SEGMENTS.schema)


def _positions(survey: Survey, flown: Pass, rng: np.random.Generator) -> tuple:
    """Return number, beam, position and direction of the segments that lie in the box."""
    path = flown.path
    ahead_x, ahead_y = np.gradient(path.x_m), np.gradient(path.y_m)
    length = np.hypot(ahead_x, ahead_y)
    ahead_x, ahead_y = ahead_x / length, ahead_y / length
    number = np.arange(int(path.along_m[0] / STEP_M), int(path.along_m[-1] / STEP_M) + 1)
    along = number * STEP_M
    x_min, y_min, x_max, y_max = survey.box
    offsets = BEAM_OFFSETS_M + ACROSS_M * rng.standard_normal()
    parts: list[tuple] = []
    for beam, offset in enumerate(offsets):
        knots_x, knots_y = path.x_m - offset * ahead_y, path.y_m + offset * ahead_x
        x, y = np.interp(along, path.along_m, knots_x), np.interp(along, path.along_m, knots_y)
        inside = np.flatnonzero((x >= x_min) & (x < x_max) & (y >= y_min) & (y < y_max))
        knots_longitude, knots_latitude = unproject(knots_x, knots_y, survey.crs)
        parts.append(
            (
                number[inside],
                np.full(inside.size, beam, np.int32),
                x[inside],
                y[inside],
                np.interp(along[inside], path.along_m, knots_latitude),
                np.interp(along[inside], path.along_m, knots_longitude),
                np.interp(along[inside], path.along_m, ahead_x),
                np.interp(along[inside], path.along_m, ahead_y),
            )
        )
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    if survey.clear_share < 1:
        clouds = rng.random(joined[0].size // CLOUD + 1) >= survey.clear_share
        clear = ~np.repeat(clouds, CLOUD)[: joined[0].size]
        joined = [column[clear] for column in joined]
    return (*joined[:6], joined[6:])


def _spoil(
    rng: np.random.Generator, survey: Survey, height: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put problems and outliers into heights; return masks of fills and problems."""
    count = height.size
    outlier = np.flatnonzero(rng.random(count, dtype=np.float32) < OUTLIER_SHARE)
    none = np.zeros(count, bool)
    if survey.clean:
        # What the filters let through: wrong by metres, not by hundreds.
        height[outlier] += rng.normal(scale=3.0, size=outlier.size)
        return none, none
    height[outlier] += rng.uniform(20.0, 300.0, outlier.size)
    drawn = np.repeat(rng.random(count // RUN + 1), RUN)[:count]
    problem = drawn >= 1 - PROBLEM_SHARE
    height[problem] += rng.normal(scale=0.6, size=int(problem.sum()))
    return drawn < FILL_SHARE, problem


def segments_of(survey: Survey, month: int) -> Iterator[pa.Table]:
    """Yield the segments of a month, a table for each pass that reaches the box."""
    for flown in straight_passes(survey, month):
        table = observe(survey, flown)
        if table.num_rows:
            yield table
