"""Synthetic ATL06 granules: what ICESat-2 would have seen of the planted world, as HDF5.

The layout is release 006's. A file is made from an image of an empty granule in memory, into
which the datasets that carry content are written chunk by chunk; the others keep their fill
value. Every granule has a random generator of its own, so the order of writing is free.
"""

from __future__ import annotations

import csv
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5p, h5s

from cryofuse.geo import project, window_bounds
from cryofuse.simulate import orbit
from cryofuse.simulate.orbit import BEAM_OFFSETS_M, BEAMS, SEGMENT_M, Pass

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from cryofuse.simulate.world import World

#: Release and revision in the names of synthetic granules.
RELEASE, REVISION = "006", "01"
FILL_F4 = np.float32(3.4028234663852886e38)
FILL_I4 = np.int32(2147483647)
FILL_I1 = np.int8(127)
#: GPS seconds of 2018-01-01; ATL06 data dictionary, atlas_sdp_gps_epoch.
GPS_EPOCH = 1_198_800_018.0
#: Off-pointing of the first cycles (m), at most.
OFF_POINTING_M = 3500.0
#: Error of a pass in place along and across the track, and in height (m, 1σ).
GEOLOCATION_M, RADIAL_M = 2.0, 0.015
#: Noise that a slope adds (m per m/m), and how much noisier the weak beams are.
SLOPE_NOISE_M, WEAK_NOISE = 1.5, 1.6
#: Share of segments with a height that the quality summary calls a potential problem.
PROBLEM_FRACTION = 0.08
#: Share of passes whose geolocation is degraded: sigma_geo_h is then 5 m, as in release 006.
DEGRADED_FRACTION, DEGRADED_M = 0.01, 5.0
#: Share of segments without a reference height, and that height's own error (m, 1σ).
DEM_VOID_FRACTION, DEM_ERROR_M = 0.02, 2.5
#: Segments missing from one beam alone, in blocks of clouds; length of a block (segments).
DROP_FRACTION, BLOCK = 0.01, 8
#: Level of compression; the datasets name gzip 6, as in the product, which readers don't use.
_LEVEL = 1
_CHUNK = 10_000
_SEGMENTS = "land_ice_segments"
#: Limits and steps of the retrieval; ATL06 theoretical basis document, release 006.
_RETRIEVAL = {
    "fit_maxiter": 25, "fpb_maxiter": 20, "max_res_ids": 10, "min_dist": 20.0, "min_n_pe": 10,
    "min_n_sel": 10, "min_signal_conf": 2, "n_sigmas": 6.0, "qs_lim_bsc": 3, "qs_lim_hrs": 1.0,
    "qs_lim_hsigma": 1.0, "qs_lim_msw": 3, "qs_lim_snr": 0.02, "qs_lim_sss": 1,
    "sigma_beam": 4.25, "txp_maxiter": 50,
}  # fmt: skip
_METADATA = (
    "AcquisitionInformation/lidar", "AcquisitionInformation/platform",
    "DataQuality/CompletenessOmission", "DataQuality/DomainConsistency",
    "DatasetIdentification", "Extent", "Lineage", "ProcessStep/PGE",
    "ProductSpecificationDocument", "QADatasetIdentification", "SeriesIdentification",
)  # fmt: skip


@dataclass(frozen=True)
class Granule:
    """A granule to be written: its pass, cycle, and time of start (UTC)."""

    path: Pass
    cycle: int
    start: np.datetime64

    @property
    def name(self) -> str:
        """Return the file name."""
        stamp = str(self.start.astype("datetime64[s]"))
        digits = "".join(c for c in stamp if c.isdigit())
        return (
            f"ATL06_{digits}_{self.path.rgt:04d}{self.cycle:02d}"
            f"{self.path.orbit_region:02d}_{RELEASE}_{REVISION}.h5"
        )


@dataclass(frozen=True)
class Segments:
    """What the six beams of a granule see: arrays of shape (6, n), and which rows each keeps."""

    granule: Granule
    segment_id: np.ndarray
    seconds: np.ndarray
    track_longitude: np.ndarray
    track_latitude: np.ndarray
    keep: np.ndarray
    filled: np.ndarray
    outlier: np.ndarray
    missing: tuple[str | None, ...]
    columns: dict[str, np.ndarray]


# ---------------------------------------------------------------------- which granules


def list_granules(
    world: World, first: np.datetime64, stop: np.datetime64, passes: list[Pass] | None = None
) -> list[Granule]:
    """Return the granules that start in a span of time, in order of start.

    Parameters
    ----------
    world
        The planted truth, with its windows.
    first, stop
        First instant, and first instant after the span.
    passes
        Passes over the region, where they are known already.

    Returns
    -------
    list of Granule
        None before the first data of the mission, and none in safe hold.
    """
    found = plan_passes(world) if passes is None else passes
    begin = {region.number: region.start for region in orbit.orbit_regions()}
    granules = []
    repeat = orbit.ORBIT_SECONDS * orbit.TRACKS
    for path in found:
        offset = begin[path.orbit_region] / 360.0 * orbit.ORBIT_SECONDS
        at_first = float(orbit.node_seconds(path.rgt, 1)) + offset
        low = (first - orbit.EPOCH) / np.timedelta64(1, "s")
        high = (stop - orbit.EPOCH) / np.timedelta64(1, "s")
        # Names hold whole seconds, and the name decides to which span a granule belongs.
        cycle = max(1, int(np.ceil((low - at_first) / repeat)))
        while (start := at_first + (cycle - 1) * repeat) < high:
            time = orbit.EPOCH + np.timedelta64(int(start), "s")
            if first <= time and time >= orbit.FIRST_DATA and not orbit.in_safe_hold(time):
                granules.append(Granule(path, cycle, time))
            cycle += 1
    return sorted(granules, key=lambda g: (g.start, g.path.rgt, g.path.orbit_region))


def plan_passes(world: World) -> list[Pass]:
    """Return the passes over a world's outline and windows."""
    boxes = [
        _grown(window_bounds(window, world.crs), window.search_radius_m)
        for window in world.elevation.windows
    ]
    return orbit.find_passes(world.outline, world.crs, world.settings.track_step, boxes)


def _grown(
    bounds: tuple[float, float, float, float], margin: float
) -> tuple[float, float, float, float]:
    x_min, y_min, x_max, y_max = bounds
    return x_min - margin, y_min - margin, x_max + margin, y_max + margin


# ---------------------------------------------------------------------- what they see


def _segment_ids(spans: tuple[tuple[float, float], ...], step: int) -> np.ndarray:
    parts = []
    for start, stop in spans:
        first, last = orbit.along_track(np.array([start, stop])) / SEGMENT_M
        low = int(np.ceil(first / step)) * step
        parts.append(np.arange(low, int(np.floor(last)) + 1, step))
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, int)


def _blocks(rng: np.random.Generator, n: int, fraction: float) -> np.ndarray:
    """Return a mask (6, n) of runs of rows that make up a share of all rows."""
    count = n // BLOCK + 2
    start = int(rng.integers(0, BLOCK))
    drawn = rng.random((6, count)) < fraction
    return np.repeat(drawn, BLOCK, axis=1)[:, start : start + n]


def _rounded(values: np.ndarray, step: float) -> np.ndarray:
    # Steps of a power of two leave the low bits empty, which halves the file.
    return np.round(values / step) * step


def observe(world: World, granule: Granule) -> Segments | None:
    """Return what a granule's beams see of the world, or None where they see nothing.

    Parameters
    ----------
    world
        The planted truth.
    granule
        Which pass, and when.
    """
    settings, path = world.settings, granule.path
    rng = np.random.default_rng([settings.seed, path.rgt, granule.cycle, path.orbit_region])
    own = _segment_ids(path.spans, settings.segment_step)
    dense = _segment_ids(path.window_spans, 1)
    ids = np.union1d(own, dense)
    if ids.size < 3:
        return None
    argument = orbit.argument_at(ids * SEGMENT_M)
    across = rng.normal(scale=settings.pointing_jitter_m)
    if granule.cycle <= settings.first_cycle_mispointed:
        across += rng.uniform(-OFF_POINTING_M, OFF_POINTING_M)
    offsets = BEAM_OFFSETS_M + across
    longitude, latitude, azimuth = orbit.beam_points(path.rgt, argument, offsets[:, None])
    x, y = (
        a.reshape(longitude.shape) for a in project(longitude.ravel(), latitude.ravel(), world.crs)
    )
    in_window = np.zeros(x.shape, bool)
    for window in world.elevation.windows:
        bounds = _grown(window_bounds(window, world.crs), window.search_radius_m)
        in_window |= (x >= bounds[0]) & (x < bounds[2]) & (y >= bounds[1]) & (y < bounds[3])
    keep = np.isin(ids, own)[None, :] | (np.isin(ids, dense)[None, :] & in_window)
    seconds = orbit.node_seconds(path.rgt, granule.cycle) + argument / 360.0 * orbit.ORBIT_SECONDS
    forward = orbit.orientation(float(seconds[0]))
    noise = _draw(rng, settings, forward, keep)
    values = _measure(world, rng, x, y, seconds, across, azimuth, noise)
    values["latitude"] = _rounded(latitude, 2.0**-27)
    values["longitude"] = _rounded(longitude, 2.0**-27)
    values["geoid_h"] = _geoid(longitude, latitude)
    _spoil(rng, values, noise)
    track_longitude, track_latitude = orbit.track_points(path.rgt, argument)
    return Segments(
        granule,
        ids,
        seconds,
        track_longitude,
        track_latitude,
        noise.keep,
        noise.filled,
        noise.outlier,
        noise.missing,
        values,
    )


@dataclass(frozen=True)
class _Noise:
    """What goes wrong in a granule, drawn beforehand: masks of shape (6, n)."""

    keep: np.ndarray
    filled: np.ndarray
    problem: np.ndarray
    outlier: np.ndarray
    missing: tuple[str | None, ...]
    strong: np.ndarray


def _draw(rng: np.random.Generator, settings: Any, forward: int, keep: np.ndarray) -> _Noise:
    n = keep.shape[1]
    filled = _blocks(rng, n, settings.fill_fraction)
    problem = _blocks(rng, n, PROBLEM_FRACTION) & ~filled
    outlier = (rng.random((6, n)) < settings.outlier_fraction) & ~filled & ~problem
    keep = keep & ~_blocks(rng, n, DROP_FRACTION)
    lost = rng.random(6) < settings.missing_beam_fraction
    kind = rng.integers(0, 3, 6)
    missing: list[str | None] = []
    for beam in range(6):
        state = None
        if lost[beam]:
            state = ("no_group", "no_segments", "all_fill")[int(kind[beam])]
        if state != "no_group" and not keep[beam].any():
            state = "no_segments"
        if state == "all_fill":
            filled[beam] = True
            problem[beam] = outlier[beam] = False
        elif state:
            keep[beam] = False
        missing.append(state)
    right = np.array([beam.endswith("r") for beam in BEAMS])
    return _Noise(keep, filled, problem, outlier, tuple(missing), right == bool(forward))


def _measure(
    world: World,
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    seconds: np.ndarray,
    across: float,
    azimuth: np.ndarray,
    noise: _Noise,
) -> dict[str, np.ndarray]:
    """Return heights and their quality, arrays of shape (6, n)."""
    shape = x.shape
    surface = world.topography(x, y)
    slope_x, slope_y = world.slope(x, y)
    middle = orbit.seconds_to_time(seconds[seconds.size // 2])
    change = world.change_grid(middle).at(x, y)
    for lake in world.lake_list:
        near = np.flatnonzero(
            (np.abs(x - lake.x_m) < lake.radius_m).any(axis=0)
            & (np.abs(y - lake.y_m) < lake.radius_m).any(axis=0)
        )
        if near.size:
            level = float(world.lake_level(lake, middle))
            change[:, near] += level * lake.profile(x[:, near], y[:, near])
    ahead_x, ahead_y = np.gradient(x, axis=1), np.gradient(y, axis=1)
    length = np.hypot(ahead_x, ahead_y)
    ahead_x, ahead_y = ahead_x / length, ahead_y / length
    along = slope_x * ahead_x + slope_y * ahead_y
    aside = slope_y * ahead_x - slope_x * ahead_y
    slope = np.hypot(slope_x, slope_y)
    weak = np.where(noise.strong, 1.0, WEAK_NOISE)[:, None]
    sigma = weak * np.hypot(world.settings.height_noise_m, SLOPE_NOISE_M * slope)
    misplaced = rng.normal(scale=GEOLOCATION_M, size=(2, 6, 1))
    height = surface + change + rng.normal(scale=RADIAL_M)
    height += along * misplaced[0] + aside * misplaced[1]
    height += sigma * rng.standard_normal(shape, dtype=np.float32)
    spread = (0.08 + 1.5 * sigma) * np.exp2(0.25 * _uneven(rng, shape))
    degraded = rng.random() < DEGRADED_FRACTION
    vertical = np.hypot(0.2, 4.0 * slope) + 0.02 * _uneven(rng, shape)
    if degraded:
        vertical = np.full(shape, DEGRADED_M)
    photons = rng.poisson(np.where(noise.strong, 70.0, 26.0)[:, None], shape)
    cloud = np.repeat(rng.integers(0, 6, (6, shape[1] // 64 + 1)), 64, axis=1)[:, : shape[1]]
    blowing = np.repeat(rng.integers(-1, 4, (6, shape[1] // 64 + 1)), 64, axis=1)
    scatter = np.repeat(rng.integers(0, 21, (6, shape[1] // 64 + 1)), 64, axis=1)
    flat = np.float32
    return {
        "h_li": _rounded(height, 2.0**-11).astype(flat),
        "h_li_sigma": _rounded(sigma * np.exp2(0.2 * _uneven(rng, shape)), 2.0**-10).astype(flat),
        "sigma_geo_h": _rounded(vertical, 2.0**-8).astype(flat),
        "atl06_quality_summary": np.zeros(shape, np.int8),
        "delta_time": np.broadcast_to(_rounded(seconds, 2.0**-20), shape),
        "dem/dem_h": _rounded(
            surface + DEM_ERROR_M * rng.standard_normal(shape, dtype=flat), 2.0**-3
        ).astype(flat),
        "dem/dem_flag": np.full(shape, 1 if world.in_north else 4, np.int8),
        "fit_statistics/dh_fit_dx": _rounded(
            along + 0.1 * sigma / 20 * rng.standard_normal(shape, dtype=flat), 2.0**-14
        ).astype(flat),
        "fit_statistics/dh_fit_dy": _rounded(aside, 2.0**-14).astype(flat),
        "fit_statistics/h_robust_sprd": _rounded(spread, 2.0**-9).astype(flat),
        "fit_statistics/h_rms_misfit": _rounded(0.9 * spread + 0.02, 2.0**-9).astype(flat),
        "fit_statistics/n_fit_photons": np.maximum(photons, 11).astype(np.int32),
        "fit_statistics/snr": _rounded(photons / 4.0, 1.0).astype(flat),
        "fit_statistics/snr_significance": np.zeros(shape, flat),
        "fit_statistics/w_surface_window_final": _rounded(
            np.maximum(3.0, 6 * spread + 40 * slope), 2.0**-3
        ).astype(flat),
        "fit_statistics/signal_selection_source": np.zeros(shape, np.int8),
        "geophysical/bsnow_conf": blowing[:, : shape[1]].astype(np.int8),
        "geophysical/cloud_flg_asr": cloud.astype(np.int8),
        "geophysical/layer_flag": (cloud > 2).astype(np.int8),
        # One block of twenty scatters more than the filters allow.
        "geophysical/msw_flag": np.where(scatter == 20, 5, scatter // 7)[:, : shape[1]].astype(
            np.int8
        ),
        "geophysical/r_eff": _rounded(
            np.clip((0.9 - 0.15 * cloud) * np.exp2(0.2 * _uneven(rng, shape)), 0.02, 1.2), 2.0**-6
        ).astype(flat),
        "ground_track/x_atc": np.zeros(shape),
        "ground_track/y_atc": np.broadcast_to((BEAM_OFFSETS_M + across)[:, None], shape).astype(
            flat
        ),
        "ground_track/ref_azimuth": np.broadcast_to(_rounded(azimuth, 2.0**-6), shape).astype(flat),
        "ground_track/seg_azimuth": np.broadcast_to(_rounded(azimuth, 2.0**-6), shape).astype(flat),
        "ground_track/sigma_geo_at": np.full(shape, DEGRADED_M if degraded else 3.5, flat),
        "ground_track/sigma_geo_xt": np.full(shape, DEGRADED_M if degraded else 3.5, flat),
    }


def _uneven(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return cheap bell-shaped numbers of standard deviation about 1."""
    return rng.integers(-6, 7, shape, dtype=np.int8) / np.float32(3.74)


def _geoid(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Return a smooth stand-in for geoid heights (m)."""
    wave = np.sin(np.radians(2 * longitude)) * np.cos(np.radians(3 * latitude))
    return _rounded(30.0 + 18.0 * wave, 2.0**-3).astype(np.float32)


def _spoil(rng: np.random.Generator, values: dict[str, np.ndarray], noise: _Noise) -> None:
    """Put fills, potential problems and gross outliers into measured values, in place."""
    height = values["h_li"]
    problem = noise.problem
    count = int(problem.sum())
    values["atl06_quality_summary"][problem | noise.filled] = 1
    height[problem] += rng.normal(scale=0.6, size=count).astype(np.float32)
    spread, significance = rng.integers(70, 300, count), rng.integers(2, 200, count)
    values["fit_statistics/h_robust_sprd"][problem] = spread / np.float32(64)
    values["fit_statistics/snr_significance"][problem] = significance / np.float32(512)
    values["fit_statistics/signal_selection_source"][problem] = 1
    where = np.nonzero(noise.outlier)
    size = where[0].size
    kind = rng.random(size)
    far = rng.uniform(20.0, 300.0, size) * np.where(rng.random(size) < 0.5, -1, 1)
    wrong = height[where] + far
    near_geoid = values["geoid_h"][where] + rng.normal(scale=0.5, size=size)
    wrong = np.where(kind < 0.25, near_geoid, wrong)
    wrong = np.where(kind < 0.03, rng.uniform(-1700.0, -200.0, size), wrong)
    height[where] = _rounded(wrong, 2.0**-11).astype(np.float32)
    values["dem/dem_h"][rng.random(height.shape) < DEM_VOID_FRACTION] = FILL_F4
    for name in (
        "h_li",
        "h_li_sigma",
        "sigma_geo_h",
        "fit_statistics/dh_fit_dx",
        "fit_statistics/dh_fit_dy",
        "fit_statistics/h_robust_sprd",
        "fit_statistics/h_rms_misfit",
        "fit_statistics/snr",
        "fit_statistics/snr_significance",
        "fit_statistics/w_surface_window_final",
        "geophysical/r_eff",
        "ground_track/y_atc",
    ):
        values[name][noise.filled] = FILL_F4
    values["fit_statistics/n_fit_photons"][noise.filled] = FILL_I4
    values["fit_statistics/signal_selection_source"][noise.filled] = 3


# ---------------------------------------------------------------------- the layout


@cache
def layout() -> tuple[dict[str, str], ...]:
    """Return the datasets of a granule of release 006; ``gtx`` stands for each beam."""
    text = resources.files("cryofuse.data").joinpath("atl06_v006_layout.csv").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(csv.DictReader(lines))


@cache
def segment_datasets() -> tuple[tuple[str, np.dtype], ...]:
    """Return names (below ``land_ice_segments``) and kinds of a beam's segment datasets."""
    prefix = f"gtx/{_SEGMENTS}/"
    return tuple(
        (row["path"].removeprefix(prefix), np.dtype(row["dtype"]))
        for row in layout()
        if row["path"].startswith(prefix)
    )


def _fill_value(row: dict[str, str]) -> Any:
    kind = np.dtype(row["dtype"])
    return np.array(float(row["fill"]) if kind.kind == "f" else int(row["fill"])).astype(kind)[()]


def _create(file: h5py.File, path: str, row: dict[str, str]) -> None:
    """Create one empty dataset as the layout says."""
    size = [None if part == "n" else int(part) for part in row["size"].split("x")]
    options: dict[str, Any] = {}
    if row["chunk"]:
        options["chunks"] = tuple(int(part) for part in row["chunk"].split("x"))
        options["maxshape"] = tuple(size)
    if row["gzip"]:
        options |= {
            "compression": "gzip",
            "compression_opts": int(row["gzip"]),
            "shuffle": row["shuffle"] == "1",
        }
    if row["fill"]:
        options["fillvalue"] = _fill_value(row)
    shape = tuple(part or 0 for part in size)
    data = file.create_dataset(path, shape=shape, dtype=row["dtype"], **options)
    named = {
        "units": "units",
        "long_name": "long_name",
        "standard_name": "standard_name",
        "contentType": "content_type",
        "coordinates": "coordinates",
        "flag_meanings": "flag_meanings",
    }
    for attribute, column in named.items():
        if row[column]:
            data.attrs[attribute] = np.bytes_(row[column])
    if row["fill"]:
        data.attrs["_FillValue"] = _fill_value(row)
    for limit in ("valid_min", "valid_max"):
        if row[limit]:
            data.attrs[limit] = np.array(float(row[limit])).astype(data.dtype)
    if row["flag_values"]:
        data.attrs["flag_values"] = np.array(row["flag_values"].split(), float).astype(data.dtype)
    if row["scale"] == "1":
        data.make_scale(path.rsplit("/", 1)[-1])


@cache
def template(forward: int) -> bytes:
    """Return the image of a granule without segments, for one orientation of the spacecraft."""
    # The format of HDF5 1.10, with which release 006 is made: its chunk index is a third smaller.
    options = {"driver": "core", "backing_store": False, "libver": ("v110", "v110")}
    with h5py.File("template.h5", "w", **options) as file:
        file.attrs["short_name"] = np.bytes_("ATL06")
        file.attrs["title"] = np.bytes_("Synthetic land ice heights in the layout of ATL06")
        file.attrs["comment"] = np.bytes_("Made from a planted truth; not data of ICESat-2")
        file.attrs["identifier_product_type"] = np.bytes_("ATL06")
        file.attrs["Conventions"] = np.bytes_("CF-1.6")
        file.attrs["featureType"] = np.bytes_("trajectory")
        file.attrs["level"] = np.bytes_("L3A")
        for name in ("time_coverage_start", "time_coverage_end"):
            file.attrs[name] = np.bytes_(" " * 27)
        for name in _METADATA:
            file.require_group(f"METADATA/{name}")
        for row in layout():
            beams = BEAMS if "gtx" in row["path"] else ("",)
            for beam in beams:
                _create(file, row["path"].replace("gtx", beam), row)
        for number, beam in enumerate(BEAMS):
            _describe_beam(file, beam, number, forward)
        _preset(file, forward)
        file.flush()
        return bytes(file.id.get_file_image())


def _describe_beam(file: h5py.File, beam: str, number: int, forward: int) -> None:
    """Set a beam's attributes and attach its dimension scale."""
    group = file[beam]
    strong = beam.endswith("r") == bool(forward)
    # Spots run from left to right flying backward, from right to left flying forward.
    spot = 6 - number if forward else number + 1
    for name, text in {
        "groundtrack_id": beam,
        "atlas_beam_type": "strong" if strong else "weak",
        "atlas_spot_number": str(spot),
        "atlas_pce": f"pce{(spot + 1) // 2}",
        "atmosphere_profile": f"profile_{(spot + 1) // 2}",
        "sc_orientation": "Forward" if forward else "Backward",
    }.items():
        group.attrs[name] = np.bytes_(text)
    for part in (_SEGMENTS, "segment_quality"):
        scale = group[f"{part}/delta_time"]

        def attach(_: str, item: Any, scale: h5py.Dataset = scale) -> None:
            if isinstance(item, h5py.Dataset) and item != scale:
                item.dims[0].attach_scale(scale)

        group[part].visititems(attach)
    group["residual_histogram/bin_top_h"][:] = np.linspace(-50.0, 50.0, 748, dtype=np.float32)
    group["residual_histogram/ds_segment_id"][:] = np.arange(1, 11, dtype=np.int8)


def _preset(file: h5py.File, forward: int) -> None:
    """Write what all granules share, and make room for what each writes."""
    ancillary, info = file["ancillary_data"], file["orbit_info"]
    for name, value in _RETRIEVAL.items():
        ancillary[f"land_ice/{name}"][:] = value
    for name, item in ancillary.items():
        if isinstance(item, h5py.Dataset) and name != "control":
            item[:] = np.zeros(1, item.dtype)
    ancillary["atlas_sdp_gps_epoch"][:] = GPS_EPOCH
    ancillary["release"][:] = np.bytes_(RELEASE.ljust(80))
    ancillary["version"][:] = np.bytes_(REVISION.ljust(80))
    ancillary["qa_at_interval"][:] = 1.0
    for item in info.values():
        if "polygon" not in item.name:
            item.resize((1,))
            item[:] = np.zeros(1, item.dtype)
    info["sc_orient"][:] = forward
    quality = file["quality_assessment"]
    quality["qa_granule_pass_fail"][:] = 0
    quality["qa_granule_fail_reason"][:] = 0


# ---------------------------------------------------------------------- writing


@cache
def _blank(size: int) -> bytes:
    """Return the last part of a deflate stream: so many zero bytes."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(bytes(size)) + packer.flush()


def _deflate(head: bytes, total: int) -> bytes:
    """Return the zlib stream of some bytes followed by zeros up to a total length.

    Chunks are mostly empty: their zeros are compressed once, and their share of the checksum
    (RFC 1950) is known, a zero byte adding only the first sum to the second.
    """
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = zlib.adler32(head)
    low, high, empty = checksum & 0xFFFF, checksum >> 16, total - len(head)
    high = (high + empty * low) % 65_521
    return b"\x78\x01" + body + _blank(empty) + ((high << 16) | low).to_bytes(4, "big")


def _pack(values: np.ndarray, kind: np.dtype, shuffle: bool) -> Iterator[tuple[int, bytes]]:
    """Return the compressed chunks of a column with their first rows."""
    for first in range(0, values.size, _CHUNK):
        part = np.ascontiguousarray(values[first : first + _CHUNK], kind)
        if shuffle and kind.itemsize > 1:
            planes = np.zeros((kind.itemsize, _CHUNK), np.uint8)
            planes[:, : part.size] = part.view(np.uint8).reshape(-1, kind.itemsize).T
            yield first, zlib.compress(planes.tobytes(), _LEVEL)
        else:
            yield first, _deflate(part.tobytes(), _CHUNK * kind.itemsize)


def _store(group: h5g.GroupID, name: bytes, values: np.ndarray, kind: np.dtype) -> None:
    data = h5d.open(group, name)
    data.set_extent((values.size,))
    for first, packed in _pack(values, kind, kind.kind == "i"):
        data.write_direct_chunk((first,), packed, 0)


def _set(file: h5f.FileID, path: str, value: Any) -> None:
    data = h5d.open(file, path.encode())
    data.write(h5s.ALL, h5s.ALL, np.array([value], dtype=data.dtype))


def granule_image(segments: Segments) -> bytes:
    """Return the bytes of a granule's file."""
    granule, seconds = segments.granule, segments.seconds
    forward = orbit.orientation(float(seconds[0]))
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fapl_core(1 << 20, False)
    access.set_file_image(template(forward))
    file = h5f.open(b"granule.h5", h5f.ACC_RDWR, access)
    try:
        shared = [
            (name, list(_pack(values, kind, kind.kind == "i")), values.size)
            for name, values, kind in _reference_points(segments)
        ]
        for number, beam in enumerate(BEAMS):
            if segments.missing[number] == "no_group":
                file.unlink(beam.encode())
                continue
            if segments.missing[number] == "no_segments":
                file.unlink(f"{beam}/{_SEGMENTS}".encode())
            else:
                _write_beam(file, beam, number, segments)
            quality = h5g.open(file, f"{beam}/segment_quality".encode())
            for name, chunks, size in shared:
                data = h5d.open(quality, name)
                data.set_extent((size,))
                for first, packed in chunks:
                    data.write_direct_chunk((first,), packed, 0)
        _write_header(file, granule, segments)
        h5f.flush(file)
        return bytes(file.get_file_image())
    finally:
        file.close()


def _reference_points(segments: Segments) -> list[tuple[bytes, np.ndarray, np.dtype]]:
    # Longer than any beam's segments, as in the product: nothing may be aligned by position.
    extra = segments.segment_id[0] - np.arange(5, 0, -1)
    ids = np.concatenate([extra, segments.segment_id])
    pad = np.full(5, 0)

    def lengthened(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[pad], values])

    f8, i4, i1 = np.dtype("f8"), np.dtype("i4"), np.dtype("i1")
    zeros = np.zeros(ids.size, np.int8)
    return [
        (b"delta_time", lengthened(segments.seconds), f8),
        (b"reference_pt_lat", _rounded(lengthened(segments.track_latitude), 2.0**-27), f8),
        (b"reference_pt_lon", _rounded(lengthened(segments.track_longitude), 2.0**-27), f8),
        (b"segment_id", ids, i4),
        (b"record_number", np.arange(ids.size), i4),
        (b"signal_selection_source", zeros, i1),
        (b"signal_selection_status/signal_selection_status_all", zeros, i1),
        (b"signal_selection_status/signal_selection_status_backup", zeros, i1),
        (b"signal_selection_status/signal_selection_status_confident", zeros, i1),
    ]


def _write_beam(file: h5f.FileID, beam: str, number: int, segments: Segments) -> None:
    rows = np.flatnonzero(segments.keep[number])
    group = h5g.open(file, f"{beam}/{_SEGMENTS}".encode())
    ids = segments.segment_id[rows]
    for name, kind in segment_datasets():
        if name == "segment_id":
            column = ids
        elif name == "ground_track/x_atc":
            column = ids * SEGMENT_M
        else:
            key = "geoid_h" if name == "dem/geoid_h" else name
            values = segments.columns.get(key)
            if values is None:
                data = h5d.open(group, name.encode())
                data.set_extent((rows.size,))
                continue
            column = values[number][rows]
        _store(group, name.encode(), column, kind)


def _write_header(file: h5f.FileID, granule: Granule, segments: Segments) -> None:
    path, cycle = granule.path, granule.cycle
    first, last = float(segments.seconds[0]), float(segments.seconds[-1])
    utc = [f"{orbit.seconds_to_time(s)}Z".encode() for s in (first, last)]
    region = orbit.orbit_regions()[path.orbit_region - 1]
    node = float(orbit.node_seconds(path.rgt, cycle))
    whole = [
        f"{orbit.seconds_to_time(node + a / 360.0 * orbit.ORBIT_SECONDS)}Z".encode()
        for a in (region.start, region.stop)
    ]
    number = int(orbit.orbit_number(path.rgt, cycle))
    for end, at in (("start", 0), ("end", 1)):
        seconds = (first, last)[at]
        gps = seconds + GPS_EPOCH
        _set(file, f"ancillary_data/data_{end}_utc", utc[at])
        _set(file, f"ancillary_data/granule_{end}_utc", whole[at])
        _set(file, f"ancillary_data/{end}_delta_time", seconds)
        _set(file, f"ancillary_data/{end}_rgt", path.rgt)
        _set(file, f"ancillary_data/{end}_cycle", cycle)
        _set(file, f"ancillary_data/{end}_region", path.orbit_region)
        _set(file, f"ancillary_data/{end}_orbit", number)
        _set(file, f"ancillary_data/{end}_geoseg", int(segments.segment_id[-at]))
        _set(file, f"ancillary_data/{end}_gpsweek", int(gps // 604_800))
        _set(file, f"ancillary_data/{end}_gpssow", gps % 604_800)
        attribute = h5a.open(file, f"time_coverage_{end}".encode())
        attribute.write(np.array(utc[at].ljust(27), dtype="S27"))
    for name, value in (
        ("rgt", path.rgt),
        ("cycle_number", cycle),
        ("orbit_number", number),
        ("crossing_time", node),
        ("lan", float(orbit.node_longitude(path.rgt))),
        ("sc_orient_time", first),
    ):
        _set(file, f"orbit_info/{name}", value)


def write_granules(
    world: World, folder: str | os.PathLike[str], first: np.datetime64, stop: np.datetime64
) -> tuple[pa.Table, pd.DataFrame]:
    """Write the granules that start in a span of time.

    Parameters
    ----------
    world
        The planted truth.
    folder
        Where the files go; files from before are removed.
    first, stop
        First instant, and first instant after the span.

    Returns
    -------
    tuple
        The manifest (contract MANIFEST), and the ledger of what was planted: one row for each
        granule and beam with ``rows``, ``fill_rows``, ``outliers`` and ``missing``.
    """
    import pandas as pd

    from cryofuse.acquire.manifest import GranuleFile, build_manifest

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for stale in target.iterdir():
        if stale.suffix in (".h5", ".part"):
            stale.unlink()
    files, rows = [], []
    for granule in list_granules(world, first, stop):
        segments = observe(world, granule)
        if segments is None or not segments.keep.any():
            continue
        image = granule_image(segments)
        path = target / granule.name
        temporary = path.with_suffix(".part")
        temporary.write_bytes(image)
        os.replace(temporary, path)
        files.append(GranuleFile(str(path), len(image)))
        rows += _ledger_rows(segments)
    columns = ["granule", "beam", "rows", "fill_rows", "outliers", "missing"]
    return build_manifest(files, first, stop), pd.DataFrame(rows, columns=columns)


def _ledger_rows(segments: Segments) -> list[tuple[Any, ...]]:
    return [
        (
            segments.granule.name,
            beam,
            int(segments.keep[number].sum()),
            int((segments.filled & segments.keep)[number].sum()),
            int((segments.outlier & segments.keep)[number].sum()),
            segments.missing[number],
        )
        for number, beam in enumerate(BEAMS)
    ]
