"""ICESat-2's reference ground tracks from the geometry of its orbit.

A circular orbit of 92° inclination over an Earth that turns 91 times under it in 1 387
revolutions. Times and the longitude of one node crossing anchor it to the real mission.
Angles are degrees unless named otherwise; ``argument`` is the argument of latitude,
degrees along the orbit from the ascending node; across-track offsets are positive to the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import shapely

from cryofuse.geo import project, unproject

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

#: Inclination (degrees); Markus et al. 2017, doi:10.1016/j.rse.2016.12.029.
INCLINATION_DEG = 92.0
#: Reference ground tracks in a repeat cycle; Markus et al. 2017.
TRACKS = 1387
#: Turns of the Earth under the orbital plane in a repeat cycle; Markus et al. 2017.
TURNS = 91
#: Time from node to node (s): crossings of track 1352 in cycles 1 and 3, orbit_info/crossing_time.
ORBIT_SECONDS = 5657.3797
#: Westward shift of the ascending node from one track to the next (degrees).
NODE_SHIFT_DEG = 360.0 * TURNS / TRACKS
#: Ascending node of track 277 in cycle 3: longitude, seconds since 2018-01-01 (orbit_info).
ANCHOR_TRACK, ANCHOR_CYCLE = 277, 3
ANCHOR_LONGITUDE_DEG = -39.0605458
ANCHOR_SECONDS = 40_641_819.3605
#: Count of the anchor's orbit since launch (orbit_info/orbit_number).
ANCHOR_ORBIT = 3252
#: Mean height above the ellipsoid (m); Markus et al. 2017.
ALTITUDE_M = 496_000.0
#: Epoch of delta_time.
EPOCH = np.datetime64("2018-01-01", "us")
#: First data; Neumann et al. 2019, doi:10.1016/j.rse.2019.111325.
FIRST_DATA = np.datetime64("2018-10-13", "us")
#: Spans without data while the spacecraft was in safe hold.
SAFE_HOLDS = (
    (np.datetime64("2019-06-26", "us"), np.datetime64("2019-07-27", "us")),
    (np.datetime64("2022-04-04", "us"), np.datetime64("2022-04-17", "us")),
)
#: First change of orientation in the record, and the time between two: the plane turns by
#: 0.717° a day against the sun, and the spacecraft yaws when the sun crosses it.
FIRST_FLIP = np.datetime64("2018-12-28", "us")
FLIP_DAYS = 251
#: Beams from left to right, and their distance to the left of the reference track (m):
#: pairs 3.3 km apart, beams of a pair 90 m apart; Markus et al. 2017.
BEAMS = ("gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r")
PAIR_SPACING_M = 3300.0
BEAM_SPACING_M = 90.0
BEAM_OFFSETS_M = np.array([3345.0, 3255.0, 45.0, -45.0, -3255.0, -3345.0])
#: Length of the track that carries one segment number (m); x_atc over segment_id in granules.
SEGMENT_M = 20.04
#: Latitudes at which the 14 orbit regions of ATL06 begin, from the ascending node on.
_REGION_LATITUDES = (0, 27, 59.5, 80, 80, 59.5, 27, 0, -27, -50, -79, -79, -50, -27)
_REGION_ASCENDS = (1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1)

#: Tracks are looked for at points this far apart (degrees along the orbit).
_STEP_DEG, _COARSE_STEP_DEG, _FINE_STEP_DEG = 0.035, 0.1, 0.01
#: Reach of the outermost beam, off-pointing of the first cycles included (m).
REACH_M = 7000.0
_A_M = 6_378_137.0
_E2 = 0.0066943799901413165
_B_M = _A_M * np.sqrt(1 - _E2)


@dataclass(frozen=True)
class OrbitRegion:
    """Part of an orbit that one granule holds: its number and arguments of latitude (degrees)."""

    number: int
    start: float
    stop: float


@dataclass(frozen=True)
class Pass:
    """A track's way over a region within one granule.

    ``spans`` are arguments of latitude (start, stop; degrees) over the outline, empty where
    the track is not flown there; ``window_spans`` those over the windows.
    """

    rgt: int
    orbit_region: int
    spans: tuple[tuple[float, float], ...]
    window_spans: tuple[tuple[float, float], ...]


def node_longitude(rgt: np.ndarray | int) -> np.ndarray:
    """Return the longitude of a track's ascending node, −180 to 180 degrees."""
    longitude = ANCHOR_LONGITUDE_DEG - (np.asarray(rgt) - ANCHOR_TRACK) * NODE_SHIFT_DEG
    return (longitude + 180.0) % 360.0 - 180.0


def orbit_number(rgt: np.ndarray | int, cycle: np.ndarray | int) -> np.ndarray:
    """Return the count of an orbit since launch."""
    return (
        (np.asarray(cycle) - ANCHOR_CYCLE) * TRACKS
        + (np.asarray(rgt) - ANCHOR_TRACK)
        + ANCHOR_ORBIT
    )


def node_seconds(rgt: np.ndarray | int, cycle: np.ndarray | int) -> np.ndarray:
    """Return the time of a track's ascending node, seconds since 2018-01-01."""
    return ANCHOR_SECONDS + (orbit_number(rgt, cycle) - ANCHOR_ORBIT) * ORBIT_SECONDS


def seconds_to_time(seconds: np.ndarray | float) -> np.ndarray:
    """Return timestamps (UTC, µs) of seconds since 2018-01-01."""
    return EPOCH + np.round(np.asarray(seconds) * 1e6).astype("timedelta64[us]")


def orientation(seconds: float) -> int:
    """Return the spacecraft's orientation at a time: 0 backward, 1 forward (r beams strong)."""
    days = (seconds_to_time(seconds) - FIRST_FLIP) / np.timedelta64(1, "D")
    return int(np.floor(days / FLIP_DAYS) % 2)


def in_safe_hold(time: np.datetime64) -> bool:
    """Return whether the spacecraft was in safe hold at a time."""
    return any(start <= time < stop for start, stop in SAFE_HOLDS)


def _geodetic(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude (degrees) of Earth-centred positions (Bowring 1985)."""
    p = np.hypot(x, y)
    r = np.hypot(p, z)
    # Bowring's parametric latitude, exact to well below a millimetre at this height.
    tangent = (_B_M * z) / (_A_M * p) * (1 + _E2 / (1 - _E2) * _B_M / r)
    cosine = 1 / np.sqrt(1 + tangent**2)
    sine = tangent * cosine
    latitude = np.arctan2(z + _E2 / (1 - _E2) * _B_M * sine**3, p - _E2 * _A_M * cosine**3)
    return np.degrees(np.arctan2(y, x)), np.degrees(latitude)


def track_points(rgt: int | np.ndarray, argument: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a reference ground track.

    Parameters
    ----------
    rgt
        Reference ground track, 1 to 1 387; broadcasts with ``argument``.
    argument
        Arguments of latitude (degrees).

    Returns
    -------
    tuple
        Longitude (−180 to 180) and geodetic latitude (degrees) of the spacecraft's nadir.
    """
    u = np.radians(argument)
    inclination = np.radians(INCLINATION_DEG)
    along = np.arctan2(np.cos(inclination) * np.sin(u), np.cos(u))
    turned = np.radians(np.asarray(argument) / 360.0 * NODE_SHIFT_DEG)
    longitude = along - turned + np.radians(node_longitude(rgt))
    sine = np.sin(inclination) * np.sin(u)
    cosine = np.sqrt(1 - sine**2)
    radius = _A_M + ALTITUDE_M
    _, latitude = _geodetic(radius * cosine, np.zeros_like(cosine), radius * sine)
    longitude = (np.degrees(longitude) + 180.0) % 360.0 - 180.0
    return longitude, np.broadcast_to(latitude, longitude.shape)


def surface_points(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Return Earth-centred positions (m) on the ellipsoid, last axis of length 3."""
    lon, lat = np.radians(longitude), np.radians(latitude)
    normal = _A_M / np.sqrt(1 - _E2 * np.sin(lat) ** 2)
    return np.stack(
        [
            normal * np.cos(lat) * np.cos(lon),
            normal * np.cos(lat) * np.sin(lon),
            normal * (1 - _E2) * np.sin(lat),
        ],
        axis=-1,
    )


def beam_points(
    rgt: int, argument: np.ndarray, across_m: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points beside a reference ground track.

    Parameters
    ----------
    rgt
        Reference ground track.
    argument
        Arguments of latitude (degrees), n of them.
    across_m
        Distances to the left of the track (m), of shape (beams, 1) or (beams, n).

    Returns
    -------
    tuple
        Longitude and latitude (degrees), each of shape (beams, n), and the azimuth of the
        track (degrees east of north), of shape (n,).
    """
    longitude, latitude = track_points(rgt, argument)
    lon, lat = np.radians(longitude), np.radians(latitude)
    east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)], axis=-1)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=-1)
    ahead = surface_points(*track_points(rgt, argument + 1e-3)) - surface_points(
        *track_points(rgt, argument - 1e-3)
    )
    to_east, to_north = (ahead * east).sum(-1), (ahead * north).sum(-1)
    length = np.hypot(to_east, to_north)
    left = (east * -to_north[:, None] + north * to_east[:, None]) / length[:, None]
    moved = surface_points(longitude, latitude) + np.asarray(across_m)[..., None] * left
    p2 = np.hypot(moved[..., 0], moved[..., 1])
    # A few metres above the ellipsoid at most: the surface formula is exact to centimetres.
    beam_latitude = np.degrees(np.arctan2(moved[..., 2], p2 * (1 - _E2)))
    beam_longitude = np.degrees(np.arctan2(moved[..., 1], moved[..., 0]))
    return beam_longitude, beam_latitude, np.degrees(np.arctan2(to_east, to_north))


@cache
def _arc_table() -> tuple[np.ndarray, np.ndarray]:
    """Return arguments of latitude (degrees) and the distance along the ground to them (m)."""
    argument = np.linspace(0.0, 360.0, 18_001)
    points = surface_points(*track_points(1, argument))
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    return argument, np.concatenate([[0.0], np.cumsum(steps)])


def along_track(argument: np.ndarray) -> np.ndarray:
    """Return the distance along the ground from the ascending node (m)."""
    table, arc = _arc_table()
    return np.interp(argument, table, arc)


def argument_at(along_m: np.ndarray) -> np.ndarray:
    """Return the argument of latitude (degrees) at a distance along the ground (m)."""
    table, arc = _arc_table()
    return np.interp(along_m, arc, table)


@cache
def orbit_regions() -> tuple[OrbitRegion, ...]:
    """Return the 14 parts of an orbit that ATL06 granules hold, from the ascending node on."""
    argument = np.linspace(0.0, 360.0, 36_001)
    latitude = track_points(1, argument)[1]
    starts = []
    for at, ascends in zip(_REGION_LATITUDES, _REGION_ASCENDS, strict=True):
        if ascends:
            part = (argument <= 90) if at >= 0 else (argument >= 270)
            order = slice(None)
        else:
            part = (argument >= 90) & (argument <= 270)
            order = slice(None, None, -1)
        starts.append(float(np.interp(at, latitude[part][order], argument[part][order])))
    stops = [*starts[1:], 360.0]
    return tuple(
        OrbitRegion(number + 1, start, stop)
        for number, (start, stop) in enumerate(zip(starts, stops, strict=True))
    )


def thin_tracks(track_step: int) -> np.ndarray:
    """Return every so many-th reference ground track in order of longitude.

    Counted by number they would leave gaps of hundreds of kilometres: consecutive numbers lie
    23.6° apart, and some multiples of that nearly close.
    """
    place = (np.arange(TRACKS) * TURNS) % TRACKS
    return np.arange(1, TRACKS + 1)[place % track_step == 0]


def find_passes(
    outline: BaseGeometry,
    crs: str,
    track_step: int = 1,
    boxes: list[tuple[float, float, float, float]] | None = None,
) -> list[Pass]:
    """Return where the reference ground tracks cross a region.

    Parameters
    ----------
    outline
        Region in its CRS (m).
    crs
        The CRS.
    track_step
        Every so many-th track, counted by longitude, is flown over the outline.
    boxes
        Squares (x_min, y_min, x_max, y_max; m) over which every track is flown.

    Returns
    -------
    list of Pass
        In order of track and orbit region.
    """
    shape = outline.buffer(5000.0)
    shapely.prepare(shape)

    def over_outline(x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        return np.asarray(shapely.contains_xy(shape, x_m, y_m))

    flown = thin_tracks(track_step)
    argument = _arguments(_latitude_range(outline, crs), _STEP_DEG)
    spans = _find_spans(flown, argument, crs, over_outline, _STEP_DEG)
    windows: dict[int, list[tuple[float, float]]] = {}
    for x_min, y_min, x_max, y_max in boxes or []:
        box = shapely.box(x_min, y_min, x_max, y_max).buffer(REACH_M, join_style="mitre")
        x0, y0, x1, y1 = box.bounds

        def over_box(
            x_m: np.ndarray,
            y_m: np.ndarray,
            bounds: tuple[float, float, float, float] = (x0, y0, x1, y1),
        ) -> np.ndarray:
            west, south, east, north = bounds
            return (x_m >= west) & (x_m < east) & (y_m >= south) & (y_m < north)

        argument = _arguments(_latitude_range(box, crs), _FINE_STEP_DEG)
        near = _tracks_near(box, crs)
        found = _find_spans(near, argument, crs, over_box, _FINE_STEP_DEG)
        for rgt, parts in found.items():
            windows.setdefault(rgt, []).extend(parts)
    passes = []
    for rgt in sorted({*spans, *windows}):
        for region in orbit_regions():
            own = _clip(spans.get(rgt, []), region)
            inside = _clip(windows.get(rgt, []), region)
            if own or inside:
                passes.append(Pass(rgt, region.number, own, inside))
    return passes


def _latitude_range(shape: BaseGeometry, crs: str) -> tuple[float, float]:
    edge = shapely.get_coordinates(shapely.segmentize(shape, 20_000.0))
    latitude = unproject(edge[:, 0], edge[:, 1], crs)[1]
    low, high = float(latitude.min()), float(latitude.max())
    for pole in (-90.0, 90.0):
        x_m, y_m = project(0.0, pole, crs)
        if np.isfinite([x_m, y_m]).all() and shapely.contains_xy(shape, x_m, y_m):
            low, high = min(low, pole), max(high, pole)
    return low - 0.2, high + 0.2


def _arguments(latitudes: tuple[float, float], step: float) -> np.ndarray:
    argument = np.arange(0.0, 360.0, step)
    latitude = track_points(1, argument)[1]
    return argument[(latitude >= latitudes[0]) & (latitude <= latitudes[1])]


def _tracks_near(box: BaseGeometry, crs: str) -> np.ndarray:
    """Return the tracks that come near a box: a cheap search on the ellipsoid."""
    centre = box.centroid
    longitude, latitude = unproject(centre.x, centre.y, crs)
    x_min, y_min, x_max, y_max = box.bounds
    reach = 1.1 * np.hypot(x_max - x_min, y_max - y_min) / 2 + 12_000.0
    argument = _arguments(_latitude_range(box, crs), _COARSE_STEP_DEG)
    rgt = np.arange(1, TRACKS + 1)
    points = surface_points(*track_points(rgt[:, None], argument[None, :]))
    distance = np.linalg.norm(points - surface_points(longitude, latitude), axis=-1)
    return rgt[(distance < reach).any(axis=1)]


def _find_spans(rgts, argument, crs, inside, step) -> dict[int, list[tuple[float, float]]]:
    """Return for each track the runs of arguments whose points are inside."""
    if not len(rgts) or not argument.size:
        return {}
    longitude, latitude = track_points(np.asarray(rgts)[:, None], argument[None, :])
    within = inside(*project(longitude.ravel(), latitude.ravel(), crs)).reshape(longitude.shape)
    jump = np.diff(argument, prepend=argument[0] - 2 * step) > 1.5 * step
    spans: dict[int, list[tuple[float, float]]] = {}
    for rgt, row in zip(rgts, within, strict=True):
        if not row.any():
            continue
        first = row & (jump | ~np.concatenate([[False], row[:-1]]))
        last = row & np.concatenate([jump[1:] | ~row[1:], [True]])
        spans[int(rgt)] = [
            (float(a - step), float(b + step))
            for a, b in zip(argument[first], argument[last], strict=True)
        ]
    return spans


def _clip(spans: list[tuple[float, float]], region: OrbitRegion) -> tuple[tuple[float, float], ...]:
    clipped = [(max(a, region.start), min(b, region.stop)) for a, b in sorted(spans)]
    return tuple((a, b) for a, b in clipped if b > a)
