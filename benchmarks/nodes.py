"""What a cluster would take: the workflow's jobs laid on nodes by list scheduling.

Durations come from the jobs that :mod:`benchmarks.scale` measured, sizes from the orbit's
geometry, dependencies from the rules. Downloads are left out; the file system is a bound beside
the schedule and not part of it.
"""

from __future__ import annotations

import heapq
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import nnls

from benchmarks import fleet, poles
from benchmarks.measure import ROOT
from benchmarks.watch import snakemake_command
from cryofuse.config import RegionSettings
from cryofuse.geo import list_tiles, load_outline, project
from cryofuse.simulate import orbit
from cryofuse.simulate.orbit import BEAMS, SEGMENT_M

#: The record of a whole run, and the side of a tile (m).
PERIOD = ("2018-10", "2024-12")
TILE_M = 100_000.0
#: Whole tile jobs of that record at the defaults, vintages included: kept segments and seconds of
#: a core; docs/benchmarks.md, the default density, 82° N and 88° S.
FULL_TILES = ((1.47e7, 35.0), (3.09e7, 74.0), (2.4e8, 802.0))
#: The largest memory of such jobs (MB), and of any job that was measured apart from them.
FULL_TILE_PEAK_MB = 1869.0
#: Memory that the rules ask for (MB).
MEMORY_MB = {
    "list_granules": 600.0,
    "subset_granules": 2000.0,
    "filter_segments": 2000.0,
    "fit_nodes": 2000.0,
    "summarise_checks": 1000.0,
}
#: A Slurm job starts Snakemake twice before its script (s); submitting one takes this at least.
SLURM_START_S, SLURM_SUBMIT_S = 10.0, 0.1
#: Jobs in the queue at the same time: profiles/slurm, and where a cluster lets in more.
SLURM_JOBS, MORE_JOBS = 100, 1000
#: Rate of a shared file system for all nodes together that the bound is reckoned with (bytes/s).
FILE_SYSTEM_BYTES_S = 2e9
#: Distance of the points at which tracks are asked for their tile (degrees along the orbit).
STEP_DEG = 0.01
#: Bytes that a tile job puts aside for each of its segments, and reads twice.
SCATTERED_BYTES = 56

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A job: name, rule, run time (s), memory it asks for (MB), jobs that it waits for."""

    name: str
    rule: str
    seconds: float
    memory_mb: float
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """Where jobs run.

    Parameters
    ----------
    nodes, cores, memory_mb
        Nodes, and the cores and memory (MB) of each.
    limit
        Jobs that Snakemake has handed over and that have not ended.
    submit_s
        What it takes Snakemake to hand over a job, one after the other (s).
    start_s
        What a job takes before its own run time (s); its core is taken.
    begin_s
        What Snakemake takes before the first job (s).
    """

    nodes: int
    cores: int
    memory_mb: float
    limit: int
    submit_s: float = 0.0
    start_s: float = 0.0
    begin_s: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """When each job began and ended (s), how many ran at most, and the fullest node (MB)."""

    begins: dict[str, float]
    ends: dict[str, float]
    most_jobs: int
    node_peak_mb: float

    @property
    def wall_s(self) -> float:
        """Return when the last job ended."""
        return max(self.ends.values(), default=0.0)


def schedule(jobs: Sequence[Job], machine: Machine) -> Schedule:
    """Return the list schedule of some jobs: each as soon as there is room, in the order given.

    Parameters
    ----------
    jobs
        Jobs; what one needs is among them.
    machine
        Where they run.

    Raises
    ------
    ValueError
        If a job never finds room, or waits for one that never ends.
    """
    order = {job.name: number for number, job in enumerate(jobs)}
    waits = {job.name: len(job.needs) for job in jobs}
    followers: dict[str, list[str]] = {}
    for job in jobs:
        if job.memory_mb > machine.memory_mb:
            raise ValueError(f"{job.name} asks for more memory than a node has")
        for name in job.needs:
            followers.setdefault(name, []).append(job.name)
    ready = [order[job.name] for job in jobs if not job.needs]
    heapq.heapify(ready)
    #: Time, whether it is an end (ends go first), job, and its node.
    events: list[tuple[float, int, int, int]] = []
    cores = [machine.cores] * machine.nodes
    memory = [machine.memory_mb] * machine.nodes
    waiting: list[int] = []
    now = handed = machine.begin_s
    running = flying = most = 0
    least_free = machine.memory_mb
    begins: dict[str, float] = {}
    ends: dict[str, float] = {}
    while ready or events:
        while ready and flying < machine.limit:
            handed = max(handed, now) + machine.submit_s
            heapq.heappush(events, (handed, 1, heapq.heappop(ready), -1))
            flying += 1
        now, handing, number, node = heapq.heappop(events)
        job = jobs[number]
        if handing:
            waiting.append(number)
        else:
            cores[node] += 1
            memory[node] += job.memory_mb
            running, flying = running - 1, flying - 1
            ends[job.name] = now
            for name in followers.get(job.name, ()):
                waits[name] -= 1
                if not waits[name]:
                    heapq.heappush(ready, order[name])
        for other in list(waiting):
            asked = jobs[other]
            room = [n for n in range(machine.nodes) if cores[n] and memory[n] >= asked.memory_mb]
            if room:
                # The emptiest node, the first of equals.
                place = max(room, key=lambda n: (cores[n], -n))
                cores[place] -= 1
                memory[place] -= asked.memory_mb
                least_free = min(least_free, memory[place])
                waiting.remove(other)
                running += 1
                most = max(most, running)
                begins[asked.name] = now
                end = now + machine.start_s + asked.seconds
                heapq.heappush(events, (end, 0, other, place))
    if len(ends) < len(jobs):
        raise ValueError("jobs wait for each other")
    return Schedule(begins, ends, most, machine.memory_mb - least_free)


def critical_path(jobs: Sequence[Job], before_s: float = 0.0) -> tuple[float, list[Job]]:
    """Return the longest chain of jobs that wait for each other, and its length (s).

    Parameters
    ----------
    jobs
        Jobs, each after those that it needs.
    before_s
        What each takes beside its run time.
    """
    known = {job.name: job for job in jobs}
    length: dict[str, float] = {}
    last: dict[str, str | None] = {}
    for job in jobs:
        slowest = max(job.needs, key=length.__getitem__, default=None)
        length[job.name] = before_s + job.seconds + (length[slowest] if slowest else 0.0)
        last[job.name] = slowest
    name: str | None = max(length, key=length.__getitem__)
    whole = length[name]
    chain = []
    while name is not None:
        chain.append(known[name])
        name = last[name]
    return whole, chain[::-1]


# ---------------------------------------------------------------------- what jobs cost


@dataclass(frozen=True)
class Costs:
    """What jobs take (s): for themselves, and for each of what they work on.

    Parameters
    ----------
    start
        Start-up of a job's Python by rule, imports included.
    listing, summary
        The rest of a listing job and of the summary.
    subset, filter
        A raw segment of the subset job, and of the filter job.
    tile
        A kept segment, a node, and a segment of a fitted node, of a tile job.
    """

    start: Mapping[str, float]
    listing: float
    summary: float
    subset: float
    filter: float
    tile: tuple[float, float, float]

    def tile_s(self, tile: Mapping[str, float]) -> float:
        """Return the run time of a tile job of a short record, its start-up included."""
        terms = (tile["segments"], tile["nodes"], tile["fitted_segments"])
        return self.start["fit_nodes"] + float(np.dot(self.tile, terms))

    def month_jobs(self, month: str, segments: float, inside: float) -> list[Job]:
        """Return a month's jobs of listing, cutting and filtering."""
        seconds = {
            "list_granules": self.listing,
            "subset_granules": self.subset * segments,
            "filter_segments": self.filter * inside,
        }
        found: list[Job] = []
        for rule, took in seconds.items():
            needs = (found[-1].name,) if found else ()
            took += self.start[rule]
            found.append(Job(f"{rule} {month}", rule, took, MEMORY_MB[rule], needs))
        return found


def learn_costs(measured: Result) -> Costs:
    """Return what jobs cost by the jobs of all records that were measured."""
    runs = [*measured["pieces"], *measured["tiles"].values()]
    lives: dict[str, list[Result]] = {}
    for run in runs:
        for life in run["jobs"]:
            lives.setdefault(life["rule"], []).append(life)

    def works(rule: str) -> list[float]:
        return [life["end"] - _work(life) for life in lives.get(rule, [])]

    start = {
        rule: float(
            np.mean([_work(life) - life["start"] for life in lives.get(rule, lives["fit_nodes"])])
        )
        for rule in MEMORY_MB
    }
    months = [month for piece in measured["pieces"] for month in piece["months"]]
    terms, took = [], []
    for run in measured["tiles"].values():
        by_tile = {life["target"]: life for life in run["jobs"] if life["rule"] == "fit_nodes"}
        for name, tile in run["tiles"].items():
            if name in by_tile:
                terms.append([tile["segments"], tile["nodes"], tile["fitted_segments"]])
                took.append(by_tile[name]["end"] - _work(by_tile[name]))
    return Costs(
        start,
        float(np.mean(works("list_granules"))),
        float(np.mean(works("summarise_checks") or [0.0])),
        sum(works("subset_granules")) / sum(month["segments"] for month in months),
        sum(works("filter_segments")) / sum(month["inside"] for month in months),
        tuple(nnls(np.array(terms, float), np.array(took))[0].tolist()),
    )


def _work(life: Result) -> float:
    return life["end"] if life["work"] is None else life["work"]


def snakemake_costs(measured: Result) -> tuple[float, float]:
    """Return what Snakemake takes before and after all jobs (s), and for each job (s of a core)."""
    runs = [*measured["pieces"], *measured["tiles"].values()]
    cores = measured["cores"]
    outside = [run["begin_s"] + run["close_s"] for run in runs]
    between = sum(
        run["shares"]["no_job"] + run["shares"]["late_start"] - cores * out
        for run, out in zip(runs, outside, strict=True)
    )
    return float(np.mean(outside)), max(between, 0.0) / sum(len(run["jobs"]) for run in runs)


def check(measured: Result, costs: Costs) -> list[Result]:
    """Return each record's measured wall time beside that of its schedule on the same cores."""
    outside, each = snakemake_costs(measured)
    cores = measured["cores"]
    machine = Machine(1, cores, 1e9, cores, submit_s=each, begin_s=outside)
    piece_s = []
    for piece in measured["pieces"]:
        jobs: list[Job] = []
        for month in piece["months"]:
            jobs += costs.month_jobs(month["month"], month["segments"], month["inside"])
        piece_s.append((len(piece["months"]), piece["wall_s"], schedule(jobs, machine).wall_s))
    found = []
    for months, run in measured["tiles"].items():
        jobs = [
            Job(name, "fit_nodes", costs.tile_s(tile), MEMORY_MB["fit_nodes"])
            for name, tile in run["tiles"].items()
        ]
        if len(run["jobs"]) > len(jobs):
            rule = "summarise_checks"
            needs = tuple(job.name for job in jobs)
            took = costs.start[rule] + costs.summary
            jobs.append(Job(rule, rule, took, MEMORY_MB[rule], needs))
        wall_s, reckoned_s, count = run["wall_s"], schedule(jobs, machine).wall_s, 0
        for length, measured_s, expected_s in piece_s:
            if count < int(months):
                wall_s, reckoned_s, count = (
                    wall_s + measured_s,
                    reckoned_s + expected_s,
                    count + length,
                )
        found.append(
            {
                "months": int(months),
                "wall_s": wall_s,
                "reckoned_s": reckoned_s,
                "ratio": reckoned_s / wall_s,
            }
        )
    return found


# ---------------------------------------------------------------------- how much there is


@cache
def region_settings(name: str) -> RegionSettings:
    """Return the settings of a shipped region, with the path of its outline."""
    region = RegionSettings.model_validate(
        yaml.safe_load((ROOT / f"config/regions/{name}.yaml").read_text())
    )
    return region.model_copy(update={"outline": str(ROOT / region.outline)})


def whole_period() -> list[np.datetime64]:
    """Return the months of a whole run."""
    first, last = (np.datetime64(month, "M") for month in PERIOD)
    return list(np.arange(first, last + 1))


def flown_segments(name: str) -> tuple[dict[str, float], dict[str, float], float]:
    """Return raw segments by month and by tile of a whole run, and the region's area (km²).

    Clouds hide the share of segments that they hide of Greenland.

    Parameters
    ----------
    name
        Shipped region.
    """
    region = region_settings(name)
    outline = load_outline(region)
    found = fleet.passes(str(region.outline), region.crs)
    per_m = len(BEAMS) / SEGMENT_M * poles.clear_share()
    length: dict[Any, float] = {}
    tracks: dict[Any, dict[tuple[int, int], float]] = {}
    for way in found:
        parts = [np.arange(first, stop, STEP_DEG) for first, stop in way.spans]
        argument = np.concatenate(parts)
        arc = orbit.along_track(argument + STEP_DEG) - orbit.along_track(argument)
        x_m, y_m = project(*orbit.track_points(way.rgt, argument), region.crs)
        cells = np.stack([x_m // TILE_M, y_m // TILE_M], axis=1).astype(int)
        distinct, place = np.unique(cells, axis=0, return_inverse=True)
        sums = np.bincount(place.ravel(), weights=arc)
        key = (way.rgt, way.orbit_region)
        tracks[key] = {
            tuple(cell): total for cell, total in zip(distinct.tolist(), sums, strict=True)
        }
        length[key] = float(arc.sum())
    months, flown = {}, dict.fromkeys(length, 0)
    for month in whole_period():
        total = 0.0
        for granule in fleet.granules_of(found, month):
            key = (granule.path.rgt, granule.path.orbit_region)
            flown[key] += 1
            total += length[key]
        months[str(month)] = total * per_m
    tiles = dict.fromkeys(list_tiles(outline, TILE_M), 0.0)
    for key, cells in tracks.items():
        for (column, row), metres in cells.items():
            tile = f"x{column}_y{row}"
            if tile in tiles:
                tiles[tile] += metres * per_m * flown[key]
    return months, tiles, float(outline.area) / 1e6


def full_tile_s(segments: float) -> float:
    """Return the seconds of a core that a tile job of the whole record takes, start-up apart."""
    sizes, seconds = np.array(FULL_TILES).T
    return segments * float(np.interp(np.log(max(segments, 1.0)), np.log(sizes), seconds / sizes))


def region_jobs(
    costs: Costs, months: Mapping[str, float], tiles: Mapping[str, float], kept_share: float
) -> list[Job]:
    """Return the jobs of a whole run from listing to the summary of checks.

    Parameters
    ----------
    costs
        What jobs cost.
    months, tiles
        Raw segments of each.
    kept_share
        Share of the raw segments that the filters keep.
    """
    jobs: list[Job] = []
    for month, segments in months.items():
        jobs += costs.month_jobs(month, segments, segments)
    filtered = tuple(job.name for job in jobs if job.rule == "filter_segments")
    names = []
    for tile, segments in tiles.items():
        took = costs.start["fit_nodes"] + full_tile_s(segments * kept_share)
        jobs.append(Job(tile, "fit_nodes", took, MEMORY_MB["fit_nodes"], filtered))
        names.append(tile)
    rule = "summarise_checks"
    took = costs.start[rule] + costs.summary
    jobs.append(Job(rule, rule, took, MEMORY_MB[rule], tuple(names)))
    return jobs


def machines(submit_s: float, begin_s: float) -> dict[str, Machine]:
    """Return the machines that a run is laid on: a laptop, and nodes as SDSC's Expanse has them."""
    slurm = max(submit_s, SLURM_SUBMIT_S)

    def cluster(nodes: int, limit: int) -> Machine:
        return Machine(nodes, 128, 256_000.0, limit, slurm, SLURM_START_S, begin_s)

    return {
        "2 cores, 16 GB, no Slurm": Machine(1, 2, 16_000.0, 2, submit_s, 0.0, begin_s),
        f"1 node, jobs: {SLURM_JOBS}": cluster(1, SLURM_JOBS),
        f"4 nodes, jobs: {SLURM_JOBS}": cluster(4, SLURM_JOBS),
        f"16 nodes, jobs: {SLURM_JOBS}": cluster(16, SLURM_JOBS),
        f"1 node, jobs: {MORE_JOBS}": cluster(1, MORE_JOBS),
        f"4 nodes, jobs: {MORE_JOBS}": cluster(4, MORE_JOBS),
        f"16 nodes, jobs: {MORE_JOBS}": cluster(16, MORE_JOBS),
    }


def count_jobs(project: Path, region: str) -> dict[str, int]:
    """Return the jobs of the stage elevation by rule, as a dry run counts them.

    Parameters
    ----------
    project
        Folder with the workflow and a folder ``granules``.
    region
        Shipped region.
    """
    overlay = {
        "source": "local",
        "regions": [region],
        "period": {"start": PERIOD[0], "end": PERIOD[1], "length": "month"},
        "local": {"atl06_dir": "granules", "mascons_file": "none.nc"},
    }
    (project / "whole.yaml").write_text(yaml.safe_dump(overlay))
    command = [*snakemake_command(["elevation"], 1, "whole.yaml"), "-n", "--forceall"]
    done = subprocess.run(
        [*command, "--quiet", "rules"], cwd=project, capture_output=True, text=True, check=True
    )
    counted = {}
    for line in (done.stdout + done.stderr).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] in MEMORY_MB and words[1].isdigit():
            counted[words[0]] = int(words[1])
    return counted


def reckon(measured: Result, project: Path, *, quick: bool) -> Result:
    """Return the model's check against what was measured, and what whole runs would take.

    Parameters
    ----------
    measured
        What :func:`benchmarks.scale.run` has so far.
    project
        Folder of its run.
    quick
        Whether figures are of a quick run: the continent is then left out.
    """
    costs = learn_costs(measured)
    outside, each = snakemake_costs(measured)
    months = [month for piece in measured["pieces"] for month in piece["months"]]
    sums = {
        name: sum(month[name] for month in months)
        for name in ("segments", "bytes", "inside", "kept", "subset_bytes", "filtered_bytes")
    }
    kept_share = sums["kept"] / sums["segments"]
    regions = {}
    for name in ("greenland",) if quick else ("greenland", "antarctica"):
        by_month, by_tile, area_km2 = flown_segments(name)
        jobs = region_jobs(costs, by_month, by_tile, kept_share)
        began = time.perf_counter()
        counted = count_jobs(project, name)
        dry_run_s = time.perf_counter() - began
        segments = sum(by_month.values())
        traffic = (
            segments
            / sums["segments"]
            * (sums["bytes"] + 2 * sums["subset_bytes"] + 2 * sums["filtered_bytes"])
            + 3 * SCATTERED_BYTES * segments * kept_share
        )
        regions[name] = {
            "segments": segments,
            "bytes": segments * sums["bytes"] / sums["segments"],
            "kept": segments * kept_share,
            "nodes": area_km2,
            "jobs": counted,
            "jobs_reckoned": _counts(jobs),
            "dry_run_s": dry_run_s,
            "largest_tile": max(by_tile.values()) * kept_share,
            "traffic_bytes": traffic,
            "file_system_s": traffic / FILE_SYSTEM_BYTES_S,
            "machines": {
                title: lay(jobs, machine)
                for title, machine in machines(each, max(outside, dry_run_s)).items()
            },
        }
    return {
        "costs": vars(costs) | {"start": dict(costs.start)},
        "snakemake_begin_s": outside,
        "snakemake_job_s": each,
        "kept_share": kept_share,
        "check": check(measured, costs),
        "regions": regions,
    }


def _counts(jobs: Iterable[Job]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.rule] = counts.get(job.rule, 0) + 1
    return counts


def lay(jobs: Sequence[Job], machine: Machine) -> Result:
    """Return what a machine takes for some jobs: hours, core-hours, memory, and what limits it."""
    found = schedule(jobs, machine)
    chain_s, chain = critical_path(jobs, machine.start_s + machine.submit_s)
    busy_s = sum(job.seconds + machine.start_s for job in jobs)
    return {
        "hours": found.wall_s / 3600,
        "core_hours": busy_s / 3600,
        "most_jobs": found.most_jobs,
        "node_peak_gb": found.node_peak_mb / 1000,
        "critical_hours": (machine.begin_s + chain_s) / 3600,
        "critical_path": [f"{job.name}: {job.seconds:.0f} s" for job in chain],
        "snakemake_hours": (machine.begin_s + machine.submit_s * len(jobs)) / 3600,
        "slurm_start_core_hours": machine.start_s * len(jobs) / 3600,
    }
