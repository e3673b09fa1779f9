"""What a cluster would take: the workflow's jobs laid on nodes by list scheduling.

Durations come from the jobs that :mod:`benchmarks.scale` measured, sizes from the orbit's
geometry, dependencies from the rules. Downloads are left out; the file system is a bound beside
the schedule and not part of it.
"""

from __future__ import annotations

import heapq
import math
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import yaml
from scipy.optimize import nnls

from benchmarks import fleet, poles
from benchmarks.measure import ROOT
from benchmarks.watch import snakemake_command
from cryofuse.config import ElevationSettings, RegionSettings
from cryofuse.elevation.scatter import RECORD, cut_squares
from cryofuse.elevation.tiles import CROSSING_REACH_M
from cryofuse.geo import list_tiles, load_outline, project, tile_bounds
from cryofuse.simulate import orbit
from cryofuse.simulate.orbit import BEAMS, SEGMENT_M

#: The record of a whole run, and the side of a tile (m).
PERIOD = ("2018-10", "2024-12")
TILE_M = 100_000.0
#: Whole tile jobs of that record at the defaults, vintages included: kept segments and seconds of
#: a core; docs/benchmarks.md, the default density, 82° N and 88° S.
FULL_TILES = ((1.47e7, 35.0), (3.09e7, 74.0), (2.4e8, 802.0))
#: A Slurm job starts Snakemake twice before its script (s); ``sbatch`` takes this beside what
#: Snakemake computes for a job (s).
SLURM_START_S, SLURM_SUBMIT_S = 10.0, 0.1
#: profiles/slurm: jobs in the queue at the same time, and where a cluster lets in more; cores of
#: the rules that stay where Snakemake runs.
SLURM_JOBS, MORE_JOBS, LOCAL_CORES = 100, 1000, 2
#: Rate of a shared file system for all nodes together that the bound is reckoned with (bytes/s).
FILE_SYSTEM_BYTES_S = 2e9
#: Distance of the points at which tracks are asked for their tile (degrees along the orbit).
STEP_DEG = 0.01
#: Bytes that a subset job puts aside for each segment inside, written once and read once: the
#: columns of contract SEGMENTS (104) and the bits of what is missing.
ASIDE_BYTES = 105
#: Bytes of a segment that a tile job puts aside, written once, and read for fits and for checks;
#: what lies in the margins of squares is there several times.
RECORD_BYTES = RECORD.itemsize
#: Sides of tiles whose share of Snakemake is reckoned (m).
TILE_SIDES_M = (TILE_M, 150_000.0, 200_000.0)

#: Which rule's job of the same target each waits for.
BEFORE = {"subset_granules": "list_granules", "filter_segments": "subset_granules"}

Result = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What the jobs of a rule ask for.

    Parameters
    ----------
    memory_mb
        Memory (MB).
    minutes, minutes_mb
        Run time (minutes), and what each megabyte of input adds.
    cores
        Cores, by ``set-threads`` of profiles/slurm.
    local
        Whether they stay where Snakemake runs.
    """

    memory_mb: float
    minutes: float
    minutes_mb: float = 0.0
    cores: int = 1
    local: bool = False


#: The stage's rules, in order, as workflow/rules and profiles/slurm have them.
ASKED = {
    "list_granules": Asked(600.0, 10.0, local=True),
    "subset_granules": Asked(2000.0, 20.0, 0.005),
    "filter_segments": Asked(2000.0, 15.0, 0.02),
    "fit_nodes": Asked(2500.0, 20.0, 0.1),
    "summarise_checks": Asked(1000.0, 10.0, local=True),
}


@dataclass(frozen=True)
class Job:
    """A job.

    Parameters
    ----------
    name, rule
        Its name and its rule.
    seconds
        Run time (s).
    memory_mb
        Memory it asks for (MB).
    needs
        Jobs that it waits for.
    cores
        Cores it asks for.
    local
        Whether it stays where Snakemake runs.
    """

    name: str
    rule: str
    seconds: float
    memory_mb: float
    needs: tuple[str, ...] = ()
    cores: int = 1
    local: bool = False


def make_job(name: str, rule: str, seconds: float, needs: tuple[str, ...] = ()) -> Job:
    """Return a job that asks for what its rule asks for.

    Parameters
    ----------
    name, rule
        Its name, and a rule of ``ASKED``.
    seconds
        Run time (s).
    needs
        Jobs that it waits for.
    """
    asked = ASKED[rule]
    return Job(name, rule, seconds, asked.memory_mb, needs, asked.cores, asked.local)


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
        What a job on a node takes before its own run time (s); its cores are taken.
    begin_s
        What Snakemake takes before the first job (s).
    local_cores
        Cores beside the nodes for local jobs; without any these run on the nodes.
    """

    nodes: int
    cores: int
    memory_mb: float
    limit: int
    submit_s: float = 0.0
    start_s: float = 0.0
    begin_s: float = 0.0
    local_cores: int = 0

    def beside(self, job: Job) -> bool:
        """Return whether a job runs beside the nodes."""
        return job.local and self.local_cores > 0

    def before_s(self, job: Job) -> float:
        """Return what a job takes before its own run time (s)."""
        return 0.0 if self.beside(job) else self.start_s


@dataclass(frozen=True)
class Schedule:
    """When jobs began and ended (s), how many ran on nodes at most, and the fullest node (MB)."""

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
        If a job asks for more than a node has, or waits for one that never ends.
    """
    order = {job.name: number for number, job in enumerate(jobs)}
    waits = {job.name: len(job.needs) for job in jobs}
    followers: dict[str, list[str]] = {}
    for job in jobs:
        beside = machine.beside(job)
        if job.cores > (machine.local_cores if beside else machine.cores):
            raise ValueError(f"{job.name} asks for more cores than there are")
        if job.memory_mb > machine.memory_mb and not beside:
            raise ValueError(f"{job.name} asks for more memory than a node has")
        for name in job.needs:
            followers.setdefault(name, []).append(job.name)
    ready = [order[job.name] for job in jobs if not job.needs]
    heapq.heapify(ready)
    #: Time, whether it is an end (ends go first), job, and its node.
    events: list[tuple[float, int, int, int]] = []
    #: The last place is where Snakemake runs.
    cores = [machine.cores] * machine.nodes + [machine.local_cores]
    memory = [machine.memory_mb] * machine.nodes + [float("inf")]
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
            cores[node] += job.cores
            memory[node] += job.memory_mb
            running, flying = running - (node < machine.nodes), flying - 1
            ends[job.name] = now
            for name in followers.get(job.name, ()):
                waits[name] -= 1
                if not waits[name]:
                    heapq.heappush(ready, order[name])
        for other in list(waiting):
            asked = jobs[other]
            beside = machine.beside(asked)
            places = [machine.nodes] if beside else range(machine.nodes)
            room = [n for n in places if cores[n] >= asked.cores and memory[n] >= asked.memory_mb]
            if room:
                # The emptiest node, the first of equals.
                place = max(room, key=lambda n: (cores[n], -n))
                cores[place] -= asked.cores
                memory[place] -= asked.memory_mb
                least_free = min(least_free, memory[place])
                waiting.remove(other)
                running += not beside
                most = max(most, running)
                begins[asked.name] = now
                end = now + machine.before_s(asked) + asked.seconds
                heapq.heappush(events, (end, 0, other, place))
    if len(ends) < len(jobs):
        raise ValueError("jobs wait for each other")
    return Schedule(begins, ends, most, machine.memory_mb - least_free)


def critical_path(jobs: Sequence[Job], machine: Machine) -> tuple[float, list[Job]]:
    """Return the longest chain of jobs that wait for each other, and its length (s).

    Parameters
    ----------
    jobs
        Jobs, each after those that it needs.
    machine
        Where they run: what each takes beside its run time.
    """
    known = {job.name: job for job in jobs}
    length: dict[str, float] = {}
    last: dict[str, str | None] = {}
    for job in jobs:
        slowest = max(job.needs, key=length.__getitem__, default=None)
        took = machine.submit_s + machine.before_s(job) + job.seconds
        length[job.name] = took + (length[slowest] if slowest else 0.0)
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
        Of a tile job a kept segment, a node, a fitted node, and a segment in the fit of a node.
    """

    start: Mapping[str, float]
    listing: float
    summary: float
    subset: float
    filter: float
    tile: tuple[float, float, float, float]

    def tile_s(self, tile: Mapping[str, float]) -> float:
        """Return the run time of a tile job, its start-up included."""
        return self.start["fit_nodes"] + float(np.dot(self.tile, _terms(tile)))

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
            found.append(make_job(f"{rule} {month}", rule, took, needs))
        return found


def _terms(tile: Mapping[str, float]) -> list[float]:
    return [tile[name] for name in ("segments", "nodes", "fitted", "fitted_segments")]


def shorter(measured: Result, months: int) -> Result:
    """Return the part of what was measured that belongs to records of at most so many months.

    Parameters
    ----------
    measured
        Result of a run.
    months
        Length of the longest record.
    """
    found, count = [], 0
    for piece in measured["pieces"]:
        count += len(piece["months"])
        if count <= months:
            found.append(piece)
    tiles = {key: run for key, run in measured["tiles"].items() if int(key) <= months}
    return measured | {"pieces": found, "tiles": tiles}


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
        for rule in ASKED
    }
    months = [month for piece in measured["pieces"] for month in piece["months"]]
    terms, took = [], []
    for run in measured["tiles"].values():
        by_tile = {life["target"]: life for life in run["jobs"] if life["rule"] == "fit_nodes"}
        for name, tile in run["tiles"].items():
            if name in by_tile:
                terms.append(_terms(tile))
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


@dataclass(frozen=True)
class Own:
    """What Snakemake itself takes.

    Parameters
    ----------
    outside_s
        Before the first job and after the last (s).
    wait_s
        For each job, in which cores wait for it (s of a core).
    cpu_s
        For each job, computed by the main process, for the most part while other jobs run (s).
    """

    outside_s: float
    wait_s: float
    cpu_s: float


def learn_own(measured: Result) -> Own:
    """Return what Snakemake itself takes by all commands that were measured."""
    runs = [*measured["pieces"], *measured["tiles"].values()]
    cores = measured["cores"]
    outside = [run["begin_s"] + run["close_s"] for run in runs]
    counts = [len(run["jobs"]) for run in runs]
    waits = sum(
        run["shares"]["no_job"] + run["shares"]["late_start"] - cores * out
        for run, out in zip(runs, outside, strict=True)
    )
    # Commands of a few jobs and of hundreds: the slope leaves out what is computed once.
    slope = np.polyfit(counts, [run["main_cpu_s"] for run in runs], 1)[0]
    return Own(float(np.mean(outside)), max(waits, 0.0) / sum(counts), max(float(slope), 0.0))


def bare_wall_s(run: Result, cores: int) -> float:
    """Return the wall time of a run had Snakemake taken none: its very jobs in a list schedule.

    Parameters
    ----------
    run
        A command that was measured.
    cores
        Its cores.
    """
    lives = sorted(run["jobs"], key=lambda life: life["start"])
    names = {f"{life['rule']} {life['target']}" for life in lives}
    jobs = []
    for life in lives:
        rule, target = life["rule"], life["target"]
        before = {f"{BEFORE[rule]} {target}"} if rule in BEFORE else set()
        if rule == "summarise_checks":
            before = names - {f"{rule} {target}"}
        took = life["end"] - life["start"]
        jobs.append(make_job(f"{rule} {target}", rule, took, tuple(sorted(before & names))))
    return schedule(jobs, Machine(1, cores, float("inf"), cores)).wall_s


def runs_of(measured: Result, months: int) -> list[Result]:
    """Return the commands of a record: its pieces, and its tiles last.

    Parameters
    ----------
    measured
        Result of a run.
    months
        Length of the record.
    """
    return [*shorter(measured, months)["pieces"], measured["tiles"][str(months)]]


def own_time(measured: Result) -> list[Result]:
    """Return Snakemake's own time in each record: its months, its tiles, and both."""
    cores, found = measured["cores"], []
    for months in map(int, measured["tiles"]):
        runs = runs_of(measured, months)
        for title, chosen in (("months", runs[:-1]), ("tiles", runs[-1:]), ("all", runs)):
            wall_s = sum(run["wall_s"] for run in chosen)
            shares = {
                name: sum(run["shares"][name] for run in chosen) for name in chosen[0]["shares"]
            }
            longer_s = wall_s - sum(bare_wall_s(run, cores) for run in chosen)
            outside_s = sum(run["begin_s"] + run["close_s"] for run in chosen)
            found.append(
                {
                    "months": months,
                    "part": title,
                    "jobs": sum(len(run["jobs"]) for run in chosen),
                    "wall_s": wall_s,
                    "core_time": shares["snakemake"] / shares["all"],
                    "no_job": shares["no_job"] / shares["all"],
                    "longer": longer_s / wall_s,
                    "with_start_up": (shares["snakemake"] + shares["start_up"]) / shares["all"],
                    "outside": outside_s / wall_s,
                    "main_cpu_s": sum(run["main_cpu_s"] for run in chosen),
                }
            )
    return found


def larger_tiles(measured: Result) -> list[Result]:
    """Return Snakemake's share of the longest record's tile jobs, had there been fewer of them."""
    months = max(map(int, measured["tiles"]))
    run, cores = measured["tiles"][str(months)], measured["cores"]
    region = region_settings(measured["region"])
    outline = load_outline(region)
    shares, count = run["shares"], len(run["jobs"])
    once = cores * (run["begin_s"] + run["close_s"])
    each, start = (shares["snakemake"] - once) / count, shares["start_up"] / count
    found = []
    for side_m in TILE_SIDES_M:
        tiles = len(list_tiles(outline, side_m))
        fewer = len(run["tiles"]) - tiles
        whole = shares["all"] - fewer * (each + start)
        own, starts = shares["snakemake"] - fewer * each, shares["start_up"] - fewer * start
        found.append(
            {
                "side_m": side_m,
                "tiles": tiles,
                "core_s": whole,
                "core_time": own / whole,
                "with_start_up": (own + starts) / whole,
            }
        )
    return found


def check(measured: Result) -> list[Result]:
    """Return each record's measured wall time beside that of schedules on the same cores.

    In sample, a record is laid with the costs of all records; out of sample, what it adds to
    shorter ones with the costs of those alone.
    """
    found: list[Result] = []
    before = 0
    for months in map(int, measured["tiles"]):
        runs = runs_of(measured, months)
        entry: Result = {"months": months, "wall_s": sum(run["wall_s"] for run in runs)}
        entry["reckoned_s"] = _lay_runs(runs, measured)
        if before:
            known = len(shorter(measured, before)["pieces"])
            entry["learned_to"] = before
            for name, new in (("months", runs[known:-1]), ("tiles", runs[-1:])):
                entry[f"new_{name}_s"] = sum(run["wall_s"] for run in new)
                entry[f"foretold_{name}_s"] = _lay_runs(new, shorter(measured, before))
        found.append(entry)
        before = months
    return found


def _lay_runs(runs: Sequence[Result], known: Result) -> float:
    """Return the wall time of commands one after the other by the costs of what is known."""
    costs, own, cores = learn_costs(known), learn_own(known), known["cores"]
    machine = Machine(1, cores, float("inf"), cores, submit_s=own.wait_s, begin_s=own.outside_s)
    whole = 0.0
    for run in runs:
        jobs: list[Job] = []
        for month in run.get("months", ()):
            jobs += costs.month_jobs(month["month"], month["segments"], month["inside"])
        for name, tile in run.get("tiles", {}).items():
            jobs.append(make_job(name, "fit_nodes", costs.tile_s(tile)))
        if len(run["jobs"]) > len(jobs):
            rule = "summarise_checks"
            took = costs.start[rule] + costs.summary
            jobs.append(make_job(rule, rule, took, tuple(job.name for job in jobs)))
        whole += schedule(jobs, machine).wall_s
    return whole


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


@cache
def flown_segments(name: str) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Return raw segments by month and by tile of a whole run, and the tiles' areas (km²).

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
    areas = {}
    for tile in tiles:
        box = tile_bounds(tile, TILE_M)
        inside = shapely.clip_by_rect(outline, box.x_min, box.y_min, box.x_max, box.y_max)
        areas[tile] = float(inside.area) / 1e6
    return months, tiles, areas


def full_tile_s(segments: float) -> float:
    """Return what a tile job of the whole record took alone on a core (s), start-up apart.

    Parameters
    ----------
    segments
        Kept segments of the tile.
    """
    sizes, seconds = np.array(FULL_TILES).T
    return segments * float(np.interp(np.log(max(segments, 1.0)), np.log(sizes), seconds / sizes))


def full_tile(segments: float, area_km2: float) -> dict[str, float]:
    """Return the amounts of a tile job of the whole record: a fit at each node of the defaults.

    Parameters
    ----------
    segments
        Kept segments of the tile.
    area_km2
        Its area inside the region.
    """
    settings = ElevationSettings()
    nodes = area_km2 * 1e6 / settings.node_spacing_m**2
    reached = math.pi * (settings.search_radius_m / settings.node_spacing_m) ** 2
    return {
        "segments": segments,
        "nodes": nodes,
        "fitted": nodes,
        "fitted_segments": segments * reached,
    }


def aside_bytes(segments: float) -> float:
    """Return the bytes that a tile job of the defaults puts aside, margins of squares included.

    Parameters
    ----------
    segments
        Kept segments of the tile.
    """
    settings = ElevationSettings()
    reach = max(settings.margin_m, settings.checks.max_separation_m, CROSSING_REACH_M)
    squares = cut_squares("x0_y0", TILE_M, reach, int(segments))
    wide = 1 + 2 * squares.margin_m / squares.side_m
    return RECORD_BYTES * segments * wide**2


def tile_rates(measured: Result) -> list[Result]:
    """Return what the tiles of each record took for a kept segment beside the whole record's.

    The fullest tenth of the tiles stands for dense ones. ``costs`` are those of the longest
    record alone, ``alone`` is :func:`full_tile_s`.
    """
    months = max(map(int, measured["tiles"]))
    costs = learn_costs(measured | {"tiles": {str(months): measured["tiles"][str(months)]}})
    _, flown, areas = flown_segments(measured["region"])
    share = kept_share(measured)
    found = []
    for record, run in measured["tiles"].items():
        took = {
            life["target"]: life["end"] - _work(life)
            for life in run["jobs"]
            if life["rule"] == "fit_nodes"
        }
        ranked = sorted(took, key=lambda tile: -run["tiles"][tile]["segments"])
        entry: Result = {"months": int(record)}
        for title, tiles in (("all", ranked), ("fullest", ranked[: max(len(ranked) // 10, 1)])):
            kept = sum(run["tiles"][tile]["segments"] for tile in tiles)
            whole = {tile: flown[tile] * share for tile in tiles}
            modelled = sum(
                costs.tile_s(full_tile(whole[tile], areas[tile])) - costs.start["fit_nodes"]
                for tile in tiles
            )
            entry[title] = {
                "tiles": len(tiles),
                "segments": kept,
                "measured_us": 1e6 * sum(took[tile] for tile in tiles) / kept,
                "full_segments": sum(whole.values()),
                "modelled_us": 1e6 * modelled / sum(whole.values()),
                "alone_us": 1e6 * sum(map(full_tile_s, whole.values())) / sum(whole.values()),
            }
        found.append(entry)
    return found


def kept_share(measured: Result) -> float:
    """Return the share of the segments in the files that the filters kept."""
    months = [month for piece in measured["pieces"] for month in piece["months"]]
    return sum(month["kept"] for month in months) / sum(month["segments"] for month in months)


def region_jobs(
    costs: Costs, months: Mapping[str, float], tiles: Mapping[str, Mapping[str, float]]
) -> list[Job]:
    """Return the jobs of a whole run from listing to the summary of checks.

    A tile job takes the longer of what it took alone on a core and of what the costs say.

    Parameters
    ----------
    costs
        What jobs cost.
    months
        Raw segments of each.
    tiles
        Amounts of each, as :func:`full_tile` returns them.
    """
    jobs: list[Job] = []
    for month, segments in months.items():
        jobs += costs.month_jobs(month, segments, segments)
    filtered = tuple(job.name for job in jobs if job.rule == "filter_segments")
    for name, tile in tiles.items():
        alone = costs.start["fit_nodes"] + full_tile_s(tile["segments"])
        jobs.append(make_job(name, "fit_nodes", max(alone, costs.tile_s(tile)), filtered))
    rule = "summarise_checks"
    jobs.append(make_job(rule, rule, costs.start[rule] + costs.summary, tuple(tiles)))
    return jobs


def machines(own: Own) -> dict[str, Machine]:
    """Return the machines that a run is laid on: a laptop, and nodes as SDSC's Expanse has them.

    Parameters
    ----------
    own
        What Snakemake itself takes. With Slurm its main process has a core to itself and hands
        over one job after the other.
    """
    submit_s = own.cpu_s + SLURM_SUBMIT_S

    def cluster(nodes: int, limit: int) -> Machine:
        begin_s = own.outside_s
        return Machine(nodes, 128, 256_000.0, limit, submit_s, SLURM_START_S, begin_s, LOCAL_CORES)

    laptop = Machine(1, 2, 16_000.0, 2, own.wait_s, 0.0, own.outside_s)
    found = {"2 cores, 16 GB, no Slurm": laptop}
    for limit in (SLURM_JOBS, MORE_JOBS):
        for nodes in (1, 4, 16):
            count = f"{nodes} node{'s' if nodes > 1 else ''}"
            found[f"{count}, jobs: {limit}"] = cluster(nodes, limit)
    return found


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
        if len(words) == 2 and words[0] in ASKED and words[1].isdigit():
            counted[words[0]] = int(words[1])
    return counted


def dry_runs(project: Path, names: Iterable[str]) -> dict[str, Result]:
    """Return jobs by rule of whole runs of some regions, and what a dry run takes (s).

    Parameters
    ----------
    project
        Folder with the workflow and a folder ``granules``.
    names
        Shipped regions.
    """
    found: dict[str, Result] = {}
    for name in names:
        began = time.perf_counter()
        jobs = count_jobs(project, name)
        found[name] = {"jobs": jobs, "dry_run_s": time.perf_counter() - began}
    return found


def known_dry_runs(measured: Result) -> dict[str, Result]:
    """Return the dry runs that a result holds."""
    return {
        name: {key: region[key] for key in ("jobs", "dry_run_s")}
        for name, region in measured["cluster"]["regions"].items()
    }


def reckon(measured: Result, counted: Mapping[str, Result]) -> Result:
    """Return the model's check against what was measured, and what whole runs would take.

    Parameters
    ----------
    measured
        What :func:`benchmarks.scale.run` has so far.
    counted
        Dry runs of the regions that are reckoned, as :func:`dry_runs` returns them.
    """
    costs, own = learn_costs(measured), learn_own(measured)
    months = [month for piece in measured["pieces"] for month in piece["months"]]
    sums = {
        name: sum(month[name] for month in months)
        for name in ("segments", "bytes", "subset_bytes", "filtered_bytes")
    }
    each = {name: amount / sums["segments"] for name, amount in sums.items()}
    share = kept_share(measured)
    regions = {}
    for name, dry in counted.items():
        by_month, by_tile, areas = flown_segments(name)
        tiles = {tile: full_tile(flown * share, areas[tile]) for tile, flown in by_tile.items()}
        jobs = region_jobs(costs, by_month, tiles)
        segments = sum(by_month.values())
        aside = [aside_bytes(tile["segments"]) for tile in tiles.values()]
        # What is written once is read once, what tile jobs put aside twice.
        moved = {
            "granules": segments * each["bytes"],
            "subsets": 2 * segments * each["subset_bytes"],
            "filtered": 2 * segments * each["filtered_bytes"],
            "subset_aside": 2 * segments * ASIDE_BYTES,
            "tile_aside": 3 * sum(aside),
        }
        fullest = max(by_month.values())
        inputs_mb = {
            "subset_granules": fullest * each["bytes"] / 1e6,
            "filter_segments": fullest * each["subset_bytes"] / 1e6,
            "fit_nodes": segments * each["filtered_bytes"] / len(tiles) / 1e6,
        }
        begun = replace(own, outside_s=max(own.outside_s, dry["dry_run_s"]))
        regions[name] = {
            **dry,
            "segments": segments,
            "bytes": moved["granules"],
            "nodes": sum(areas.values()),
            "own_share": own_share(jobs, begun, measured["cores"]),
            "reckoned_jobs": dict(Counter(job.rule for job in jobs)),
            "largest_tile": max(tile["segments"] for tile in tiles.values()),
            "month_aside_bytes": fullest * ASIDE_BYTES,
            "tile_aside_bytes": max(aside),
            "moved_bytes": moved,
            "longest": {
                rule: {
                    "minutes": max(job.seconds for job in jobs if job.rule == rule) / 60,
                    "asked": int(ASKED[rule].minutes + ASKED[rule].minutes_mb * size_mb),
                }
                for rule, size_mb in inputs_mb.items()
            },
            "machines": {title: lay(jobs, machine) for title, machine in machines(begun).items()},
        }
    return {
        "costs": asdict(costs),
        "own": asdict(own),
        "kept_share": share,
        "own_time": own_time(measured),
        "larger_tiles": larger_tiles(measured),
        "check": check(measured),
        "tile_rates": tile_rates(measured),
        "regions": regions,
    }


def own_share(jobs: Sequence[Job], own: Own, cores: int) -> float:
    """Return Snakemake's share of the core-time of some jobs on one machine.

    Parameters
    ----------
    jobs
        Jobs of a core each.
    own
        What Snakemake itself takes.
    cores
        Cores of the machine, all of them at work while jobs run.
    """
    taken_s = cores * own.outside_s + len(jobs) * (own.wait_s + own.cpu_s)
    return taken_s / (taken_s + sum(job.seconds for job in jobs))


def lay(jobs: Sequence[Job], machine: Machine) -> Result:
    """Return what a machine takes for some jobs: hours, core-hours, memory, and what limits it.

    Core-hours are those of the nodes.
    """
    found = schedule(jobs, machine)
    chain_s, chain = critical_path(jobs, machine)
    busy_s = sum(
        job.cores * (job.seconds + machine.start_s) for job in jobs if not machine.beside(job)
    )
    return {
        "hours": found.wall_s / 3600,
        "core_hours": busy_s / 3600,
        "most_jobs": found.most_jobs,
        "node_peak_gb": found.node_peak_mb / 1000,
        "critical_hours": (machine.begin_s + chain_s) / 3600,
        "critical_path": [f"{job.name}: {job.seconds:.0f} s" for job in chain],
        "snakemake_hours": (machine.begin_s + machine.submit_s * len(jobs)) / 3600,
    }
