"""A month of granules over a region: every reference track where the orbit's geometry has it.

A granule holds the way of one track over the region within one part of the orbit, as the archive
cuts them, and what lies beside the region is left out. The layout is release 006's, the datasets
behind contract SEGMENTS hold values and those are compressed as the product's are (gzip 6, in
chunks of 10 000); heights follow the closed formula of :mod:`benchmarks.scene`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import deflate
import numpy as np
from h5py import h5d, h5f, h5g, h5p, h5s

from benchmarks import granules, poles, scene
from cryofuse.calendar import year_fraction
from cryofuse.config import RegionSettings
from cryofuse.geo import load_outline, project
from cryofuse.simulate import granules as layout
from cryofuse.simulate import orbit
from cryofuse.simulate.orbit import BEAM_OFFSETS_M, BEAMS, SEGMENT_M

#: Level and rows of a chunk of the product's datasets.
LEVEL, CHUNK = 6, 10_000
#: Segments between the points at which positions are computed; between them they are interpolated.
KNOT = 10
#: Photons of a segment: mean, and the square root of it.
PHOTONS, PHOTONS_SIGMA = 60.0, 7.7
#: Error of the reference height (m), of a slope (m/m), and the spread of the geolocation error.
DEM_SIGMA_M, SLOPE_SIGMA = 2.5, 0.002
_GROUP = b"land_ice_segments"


@cache
def passes(outline: str, crs: str) -> tuple[orbit.Pass, ...]:
    """Return the ways of all reference tracks over an outline, 5 km about it included.

    Parameters
    ----------
    outline
        Vector file.
    crs
        CRS of the region (m).
    """
    region = RegionSettings(title="Benchmark", crs=crs, outline=outline)
    return tuple(orbit.find_passes(load_outline(region), crs))


def granules_of(found: tuple[orbit.Pass, ...], month: np.datetime64) -> list[layout.Granule]:
    """Return the granules that start in a month, in order of start."""
    first, stop = month.astype("M8[us]"), (month + 1).astype("M8[us]")
    begin = {region.number: region.start for region in orbit.orbit_regions()}
    repeat = orbit.ORBIT_SECONDS * orbit.TRACKS
    listed = []
    for path in found:
        at_first = float(orbit.node_seconds(path.rgt, 1))
        at_first += begin[path.orbit_region] / 360 * orbit.ORBIT_SECONDS
        low = (first - orbit.EPOCH) / np.timedelta64(1, "s")
        cycle = max(1, int(np.ceil((low - at_first) / repeat)) + 1)
        start = orbit.EPOCH + np.timedelta64(int(at_first + (cycle - 1) * repeat), "s")
        # Shorter than a repeat, a month holds a granule once at most.
        if first <= start < stop and start >= orbit.FIRST_DATA and not orbit.in_safe_hold(start):
            listed.append(layout.Granule(path, cycle, start))
    return sorted(listed, key=lambda granule: granule.name)


def write_month(
    folder: Path,
    outline: str,
    crs: str,
    month: np.datetime64,
    workers: int,
    step: int = 1,
) -> dict[str, Any]:
    """Write a month's granules; return how many, their segments and their bytes.

    Parameters
    ----------
    folder
        Where they go.
    outline, crs
        The region.
    month
        The month.
    workers
        Processes that write.
    step
        Every so many-th granule is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = granules_of(passes(outline, crs), month)[::step]
    share = poles.clear_share()
    arguments = [(str(folder), granule, crs, share) for granule in wanted]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        written = list(pool.map(_write, arguments, chunksize=4))
    held = [sizes for sizes in written if sizes[0]]
    return {
        "granules": len(held),
        "segments": sum(rows for rows, _ in held),
        "bytes": sum(size for _, size in held),
    }


def _write(arguments: tuple[str, layout.Granule, str, float]) -> tuple[int, int]:
    return write_granule(*arguments)


def write_granule(
    folder: str, granule: layout.Granule, crs: str, clear_share: float, seed: int = 20
) -> tuple[int, int]:
    """Write a granule; return its segments and bytes, zeros where no segment is clear of clouds.

    Parameters
    ----------
    folder
        Where the file goes.
    granule
        Way, cycle and start.
    crs
        CRS of the heights' formula (m).
    clear_share
        Share of the segments that no cloud hides.
    seed
        Seed of all that is drawn.
    """
    path = granule.path
    rng = np.random.default_rng([seed, path.rgt, granule.cycle, path.orbit_region])
    number = _numbers(path.spans)
    across = scene.ACROSS_M * rng.standard_normal()
    seconds, beams = _positions(granule, number, across, crs)
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fapl_core(1 << 20, False)
    access.set_file_image(layout.template(orbit.orientation(float(seconds[0]))))
    file = h5f.open(b"granule.h5", h5f.ACC_RDWR, access)
    rows = 0
    try:
        for name, positions in zip(BEAMS, beams, strict=True):
            seen = _clear(rng, number.size, clear_share)
            columns = observe(rng, *(values[seen] for values in (*positions, seconds)))
            columns["segment_id"] = number[seen]
            _store_beam(h5g.open(file, name.encode() + b"/" + _GROUP), columns, seen.size)
            rows += seen.size
        for name, value in (("rgt", path.rgt), ("cycle_number", granule.cycle)):
            data = h5d.open(file, f"orbit_info/{name}".encode())
            data.write(h5s.ALL, h5s.ALL, np.array([value], dtype=data.dtype))
        h5f.flush(file)
        image = file.get_file_image()
    finally:
        file.close()
    if not rows:
        return 0, 0
    (Path(folder) / granule.name).write_bytes(image)
    return rows, len(image)


def _numbers(spans: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Return the numbers of the segments along some spans (arguments of latitude, degrees)."""
    ends = [orbit.along_track(np.array(span)) / SEGMENT_M for span in spans]
    parts = [np.arange(int(np.ceil(first)), int(last) + 1) for first, last in ends]
    return np.unique(np.concatenate(parts))


def _positions(
    granule: layout.Granule, number: np.ndarray, across_m: float, crs: str
) -> tuple[np.ndarray, list[tuple[np.ndarray, ...]]]:
    """Return the time of each segment (s), and longitude, latitude, x and y of each beam."""
    knots = np.unique(np.concatenate([(number // KNOT) * KNOT, (number // KNOT + 1) * KNOT]))
    argument = orbit.argument_at(knots * SEGMENT_M)
    offsets = (BEAM_OFFSETS_M + across_m)[:, None]
    longitude, latitude, _ = orbit.beam_points(granule.path.rgt, argument, offsets)
    flown = orbit.node_seconds(granule.path.rgt, granule.cycle)
    flown = flown + argument / 360 * orbit.ORBIT_SECONDS
    beams = []
    for beam in range(len(BEAMS)):
        x_m, y_m = project(longitude[beam], latitude[beam], crs)
        known = (np.unwrap(longitude[beam], period=360.0), latitude[beam], x_m, y_m)
        lon, lat, x_m, y_m = (np.interp(number, knots, values) for values in known)
        beams.append(((lon + 180.0) % 360.0 - 180.0, lat, x_m, y_m))
    return np.interp(number, knots, flown), beams


def _clear(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """Return the segments that no cloud hides; clouds hide some at a time."""
    drawn = rng.random(count // scene.CLOUD + 1) < share
    return np.flatnonzero(np.repeat(drawn, scene.CLOUD)[:count])


def observe(
    rng: np.random.Generator,
    longitude: np.ndarray,
    latitude: np.ndarray,
    x_m: np.ndarray,
    y_m: np.ndarray,
    seconds: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return what a beam measures, by dataset: full-precision noise, fills and flags in runs.

    Parameters
    ----------
    rng
        Of the granule.
    longitude, latitude
        Positions (degrees).
    x_m, y_m
        The same in the CRS of the heights' formula (m).
    seconds
        Times, seconds since 2018-01-01.
    """
    count = seconds.size
    if not count:
        return {"latitude": latitude, "longitude": longitude, "delta_time": seconds}
    noise = rng.standard_normal((7, count), dtype=np.float32)
    surface = scene.topography(x_m, y_m)
    slope_x, slope_y = scene.gradient(x_m, y_m)
    # The way is nearly straight: one direction for all of it is wrong by a share of the slope.
    run_x, run_y = x_m[-1] - x_m[0], y_m[-1] - y_m[0]
    length = max(float(np.hypot(run_x, run_y)), 1.0)
    sigma = 0.06 * np.exp2(0.5 * noise[0])
    year = float(year_fraction(orbit.seconds_to_time(float(seconds[0]))))
    height = surface + scene.change(x_m, y_m, year) + sigma * noise[1]
    height += scene.PASS_SIGMA_M * rng.standard_normal()
    drawn = np.repeat(rng.random(count // scene.RUN + 1), scene.RUN)[:count]
    fill, problem = drawn < scene.FILL_SHARE, drawn >= 1 - scene.PROBLEM_SHARE
    height[problem] += rng.normal(scale=0.6, size=int(problem.sum()))
    outlier = np.flatnonzero(rng.random(count, dtype=np.float32) < scene.OUTLIER_SHARE)
    height[outlier] += rng.uniform(20.0, 300.0, outlier.size)
    doubt = np.where(problem, 0.3 * rng.random(count, dtype=np.float32), np.float32(0))

    def flags(top: int) -> np.ndarray:
        runs = rng.integers(0, top, count // granules.FLAG_RUN + 1, dtype=np.int8)
        return np.repeat(runs, granules.FLAG_RUN)[:count]

    values = {
        "h_li": height,
        "h_li_sigma": sigma,
        "sigma_geo_h": 0.2 * np.exp2(0.3 * noise[2]),
        "fit_statistics/dh_fit_dx": (slope_x * run_x + slope_y * run_y) / length
        + SLOPE_SIGMA * noise[3],
        "fit_statistics/h_robust_sprd": np.where(problem, np.float32(0.6), np.float32(0.1)) + sigma,
        "fit_statistics/n_fit_photons": np.rint(PHOTONS + PHOTONS_SIGMA * noise[6]).astype("i4"),
        "fit_statistics/snr_significance": doubt,
        "geophysical/r_eff": 0.5 * np.exp2(0.5 * noise[4]),
    }
    for column in values.values():
        column[fill] = layout.FILL_I4 if column.dtype.kind == "i" else layout.FILL_F4
    return values | {
        "latitude": latitude,
        "longitude": longitude,
        "delta_time": seconds,
        "atl06_quality_summary": fill | problem,
        "dem/dem_h": surface + DEM_SIGMA_M * noise[5],
        "geophysical/bsnow_conf": flags(4),
        "geophysical/cloud_flg_asr": flags(6),
        "geophysical/msw_flag": flags(4),
    }


def _store_beam(group: h5g.GroupID, columns: dict[str, np.ndarray], rows: int) -> None:
    """Write a beam's columns; datasets without one keep their fill value."""
    for name, kind in layout.segment_datasets():
        data = h5d.open(group, name.encode())
        data.set_extent((rows,))
        if name in columns:
            for first, packed in _chunks(columns[name].astype(kind)):
                data.write_direct_chunk((first,), packed, 0)


def _chunks(values: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Yield first row and compressed bytes of each chunk; integers are shuffled, as they say."""
    size = values.dtype.itemsize
    for first in range(0, values.size, CHUNK):
        part = np.zeros(CHUNK, values.dtype)
        part[: min(CHUNK, values.size - first)] = values[first : first + CHUNK]
        block = part.view(np.uint8)
        if values.dtype.kind == "i" and size > 1:
            block = np.ascontiguousarray(block.reshape(-1, size).T)
        yield first, bytes(deflate.zlib_compress(block.tobytes(), LEVEL))
