"""A full-size synthetic granule: release 006's layout, values that compress like real ones."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np

from benchmarks import scene
from cryofuse.acquire.manifest import GranuleFile, build_manifest
from cryofuse.calendar import year_fraction
from cryofuse.geo import project
from cryofuse.simulate import granules, orbit
from cryofuse.simulate.orbit import BEAMS
from cryofuse.tables import MANIFEST, write_table

#: A descending track (orbit region 05) with four fifths of its way from 86° N to 59° N over ice.
RGT, ORBIT_REGION, CYCLE = 117, 5, 3
#: Segments a beam of a full-size granule, and of its gaps (share of segments, in runs).
FULL_SEGMENTS, GAP_SHARE, GAP = 150_000, 0.02, 5
#: Flags of the atmosphere keep their value this long (segments).
FLAG_RUN = 400
#: The datasets behind the columns of contract SEGMENTS.
DATASETS = (
    "latitude", "longitude", "delta_time", "segment_id", "h_li", "h_li_sigma", "sigma_geo_h",
    "atl06_quality_summary", "dem/dem_h", "fit_statistics/dh_fit_dx",
    "fit_statistics/h_robust_sprd", "fit_statistics/n_fit_photons",
    "fit_statistics/snr_significance", "geophysical/bsnow_conf", "geophysical/cloud_flg_asr",
    "geophysical/msw_flag", "geophysical/r_eff",
)  # fmt: skip
_GROUP = "land_ice_segments"


def granule_name(cycle: int = CYCLE, rgt: int = RGT) -> str:
    """Return the name of the granule of a track in a cycle."""
    region = orbit.orbit_regions()[ORBIT_REGION - 1]
    seconds = orbit.node_seconds(rgt, cycle) + region.start / 360 * orbit.ORBIT_SECONDS
    start = orbit.seconds_to_time(float(seconds)).astype("M8[s]")
    return granules.Granule(orbit.Pass(rgt, ORBIT_REGION, (), ()), cycle, start).name


def write_granule(folder: str, segments: int, seed: int = 20) -> Path:
    """Write a granule with so many segments a beam, about the middle of its way over Greenland.

    Written by HDF5 itself in the layout's chunks of 10 000, gzip 6, shuffle on integers only.
    The datasets behind SEGMENTS hold values, the others are fill. ``orbit_info`` is left out, as
    in subsets, so that copies under other cycles' names do not contradict theirs.

    Parameters
    ----------
    folder
        Where the file goes.
    segments
        Segments a beam.
    seed
        Seed of the noise.
    """
    rng = np.random.default_rng(seed)
    region = orbit.orbit_regions()[ORBIT_REGION - 1]
    last = int(orbit.along_track(np.array([region.stop]))[0] / orbit.SEGMENT_M)
    points = int(segments / (1 - 2 * GAP_SHARE)) + 10 * GAP
    first = last - FULL_SEGMENTS // 2 - points // 2
    number = np.arange(first, first + points)
    argument = orbit.argument_at(number * orbit.SEGMENT_M)
    longitude, latitude, _ = orbit.beam_points(RGT, argument, orbit.BEAM_OFFSETS_M[:, None])
    seconds = orbit.node_seconds(RGT, CYCLE) + argument / 360 * orbit.ORBIT_SECONDS
    path = Path(folder) / granule_name()
    path.write_bytes(granules.template(orbit.orientation(float(seconds[0]))))
    with h5py.File(path, "r+", libver="v110") as file:
        del file["orbit_info"]
        for beam, name in enumerate(BEAMS):
            gaps = np.repeat(rng.random(points // GAP + 1) < GAP_SHARE, GAP)[:points]
            rows = np.flatnonzero(~gaps)[:segments]
            values = _values(rng, longitude[beam][rows], latitude[beam][rows], seconds[rows])
            values["segment_id"] = number[rows]
            group = file[f"{name}/{_GROUP}"]
            for dataset, _ in granules.segment_datasets():
                group[dataset].resize((segments,))
                if dataset in values:
                    group[dataset][:] = values[dataset]
    return path


def _values(
    rng: np.random.Generator, longitude: np.ndarray, latitude: np.ndarray, seconds: np.ndarray
) -> dict[str, np.ndarray]:
    """Return what a beam measures: full-precision noise, fills and flags in runs."""
    count = seconds.size
    x, y = project(longitude, latitude, "EPSG:3413")
    surface = scene.topography(x, y)
    slope = np.gradient(surface, orbit.SEGMENT_M)
    noise = rng.standard_normal((6, count), dtype=np.float32)
    sigma = 0.06 * np.exp2(0.5 * noise[0])
    year = float(year_fraction(orbit.seconds_to_time(float(seconds[0]))))
    height = surface + scene.change(x, y, year) + sigma * noise[1]
    drawn = np.repeat(rng.random(count // scene.RUN + 1), scene.RUN)[:count]
    fill, problem = drawn < scene.FILL_SHARE, drawn >= 1 - scene.PROBLEM_SHARE
    height[problem] += rng.normal(scale=0.6, size=int(problem.sum()))
    outlier = np.flatnonzero(rng.random(count) < scene.OUTLIER_SHARE)
    height[outlier] += rng.uniform(20.0, 300.0, outlier.size)

    def flags(top: int) -> np.ndarray:
        return np.repeat(rng.integers(0, top, count // FLAG_RUN + 1), FLAG_RUN)[:count]

    values = {
        "latitude": latitude,
        "longitude": longitude,
        "delta_time": seconds,
        "h_li": height,
        "h_li_sigma": sigma,
        "sigma_geo_h": 0.2 * np.exp2(0.3 * noise[2]),
        "fit_statistics/dh_fit_dx": slope + 0.002 * noise[3],
        "fit_statistics/h_robust_sprd": np.where(problem, 0.6, 0.1) + sigma,
        "fit_statistics/n_fit_photons": rng.poisson(60, count),
        "fit_statistics/snr_significance": np.where(problem, rng.random(count) * 0.3, 0.0),
        "geophysical/r_eff": 0.5 * np.exp2(0.5 * noise[4]),
    }
    for name, column in values.items():
        if name not in ("latitude", "longitude", "delta_time"):
            column[fill] = granules.FILL_I4 if column.dtype.kind == "i" else granules.FILL_F4
    return values | {
        "atl06_quality_summary": fill | problem,
        "dem/dem_h": surface + 2.5 * noise[5],
        "geophysical/bsnow_conf": flags(4),
        "geophysical/cloud_flg_asr": flags(6),
        "geophysical/msw_flag": flags(4),
    }


def stored_bytes(path: str) -> dict[str, float]:
    """Return the bytes a row that a granule's datasets take in the file."""
    stored: dict[str, float] = {}
    rows: dict[str, int] = {}
    with h5py.File(path) as file:
        for beam in BEAMS:
            group = file.get(f"{beam}/{_GROUP}", {})
            for name in DATASETS:
                if name in group:
                    stored[name] = stored.get(name, 0) + group[name].id.get_storage_size()
                    rows[name] = rows.get(name, 0) + group[name].shape[0]
    return {name: stored[name] / rows[name] for name in stored}


def write_manifest(granule: str, copies: int, path: str) -> None:
    """Write the manifest of a granule flown in so many cycles: hard links of one file.

    Parameters
    ----------
    granule
        The file.
    copies
        Cycles, from the file's own on.
    path
        Parquet file of contract MANIFEST.
    """
    files = []
    for cycle in range(CYCLE, CYCLE + copies):
        link = Path(granule).with_name(granule_name(cycle))
        if not link.exists():
            os.link(granule, link)
        files.append(GranuleFile(str(link), link.stat().st_size))
    span = np.datetime64("2018-01-01"), np.datetime64("2040-01-01")
    write_table(build_manifest(files, *span), path, MANIFEST)
