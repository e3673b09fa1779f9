"""A run of Snakemake watched from outside: when each job's process lived, and whose time it was.

Core-time of a run, its wall time times its cores, is shared out without remainder, as there are
never more jobs than cores and each has one core, in this order: the processes of jobs, from fork
to exit (of it apart: start-up, up to the moment when a script opens its log, after all of its
imports); Snakemake, which is (1) all cores while no job runs, (2) a core that stands idle while a
job that could run has not been started, (3) what the main process itself computes while jobs hold
every core or nothing more can run; and idle cores, for which there was no job left to start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Time between two looks (s).
STEP_S = 0.03
#: What Snakemake and its jobs get to end before they are killed (s).
GRACE_S = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")
#: Where Snakemake keeps the scripts of running jobs.
_SCRIPTS = ".snakemake/scripts/"


@dataclass
class Life:
    """The process of a job; times in seconds since the run began.

    Parameters
    ----------
    rule, target
        Rule, and the name of the job's log file without its suffix: its period or tile.
    start, work, end
        When the process was made, when its script had its imports and opened its log, and when
        it was last seen.
    cpu_s
        CPU time of user and system.
    peak_mb
        The kernel's high-water mark of its memory.
    """

    rule: str
    target: str
    start: float
    work: float | None
    end: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True)
class Run:
    """A run of Snakemake that has ended: what it took, its jobs, and looks at its main process."""

    wall_s: float
    cpu_s: float
    lives: list[Life]
    #: Time since the begin (s) and CPU time so far of the main process (s).
    looks: list[tuple[float, float]]
    main_peak_mb: float


def run_watched(command: Sequence[str], cwd: Path, environment: dict[str, str], cores: int) -> Run:
    """Run Snakemake on the first cores of this process and watch it.

    Parameters
    ----------
    command
        Words of the command.
    cwd
        Folder of the run.
    environment
        Its variables.
    cores
        Cores it is pinned to.

    Raises
    ------
    RuntimeError
        If it fails, with the end of what it said.
    """
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    words = ["taskset", "-c", ",".join(map(str, chosen)), *command]
    with (cwd / "snakemake.out").open("w+") as said:
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            # A group of its own, with all of its jobs.
            start_new_session=True,
        )
        lives: dict[int, Life] = {}
        looks = [(0.0, 0.0)]
        peak = 0.0
        try:
            while True:
                done, status, usage = os.wait4(process.pid, os.WNOHANG)
                now = time.clock_gettime(time.CLOCK_BOOTTIME) - began
                if done:
                    break
                try:
                    looks.append((now, _cpu_s(process.pid)))
                    peak = max(peak, _peak_mb(process.pid))
                    for pid in _descendants(process.pid, lives):
                        _look_at(pid, now, began, lives)
                except OSError:
                    # It ended between two lines.
                    pass
                time.sleep(STEP_S)
        except BaseException:
            end_group(process, GRACE_S)
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"snakemake failed:\n{said.read()[-4000:]}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Run(now, cpu_s, list(lives.values()), looks, peak)


def end_group(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """End a process that leads a session, and all of its group: asked first, then killed.

    Parameters
    ----------
    process
        The leader.
    grace_s
        What they get between the two (s).
    """
    # An interrupted Snakemake ends its jobs and takes its incomplete outputs away.
    for number, wait_s in ((signal.SIGINT, grace_s), (signal.SIGKILL, 1.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        until = time.monotonic() + wait_s
        while time.monotonic() < until and _group_lives(process):
            time.sleep(STEP_S)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    # An ended leader is a member until it is waited for.
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _look_at(pid: int, now: float, began: float, lives: dict[int, Life]) -> None:
    try:
        if pid not in lives:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            scripts = [word for word in words if _SCRIPTS in word]
            if not scripts or "python" not in Path(words[0]).name:
                return
            born = int(_stat(pid)[19]) / _TICKS - began
            # tmp….rule.py
            rule = Path(scripts[0]).name.split(".")[-2]
            lives[pid] = Life(rule, "", born, None, now, 0.0, 0.0)
        life = lives[pid]
        life.peak_mb = max(life.peak_mb, _peak_mb(pid))
        life.cpu_s = _cpu_s(pid)
        life.end = now
        if life.work is None and (log := _open_log(pid)):
            life.work, life.target = now, Path(log).stem
    except (OSError, IndexError):
        # A process ends whenever it likes.
        return


def _stat(pid: int) -> list[str]:
    """Return the fields of a process's status that follow its name."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def _cpu_s(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def _descendants(pid: int, jobs: Container[int]) -> Iterable[int]:
    """Yield a process's children and theirs, but none of a job: a fork of it looks like it."""
    if pid in jobs:
        return
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            try:
                yield from _descendants(child, jobs)
            except OSError:
                continue


def _open_log(pid: int) -> str | None:
    for entry in os.scandir(f"/proc/{pid}/fd"):
        path = os.readlink(entry.path)
        if path.endswith(".log") and "/logs/" in path:
            return path
    return None


def share_out(run: Run, cores: int, ready: Callable[[list[Life], float], int]) -> dict[str, float]:
    """Return the core-seconds of a run by whose they were; they add up to all of them.

    Parameters
    ----------
    run
        The run.
    cores
        Its cores.
    ready
        Function of the run's processes and a time: how many jobs could have been started then
        and had not.

    Raises
    ------
    ValueError
        If more jobs live at a time than there are cores: the shares would not add up.

    Returns
    -------
    dict
        ``all``; ``work`` and ``start_up`` of jobs; ``snakemake``, of which ``no_job``,
        ``late_start`` and ``beside``; and ``idle``.
    """
    held = dict.fromkeys(("no_job", "late_start", "beside", "idle", "work", "start_up"), 0.0)
    edges = sorted(
        {0.0, run.wall_s}
        | {min(max(t, 0.0), run.wall_s) for life in run.lives for t in (life.start, life.end)}
    )
    looks = iter(run.looks)
    last_cpu, look = 0.0, next(looks, None)
    for first, stop in zip(edges[:-1], edges[1:], strict=True):
        span = stop - first
        middle = (first + stop) / 2
        alive = sum(life.start <= middle < life.end for life in run.lives)
        computed, cpu = 0.0, last_cpu
        while look is not None and look[0] <= stop:
            cpu, look = look[1], next(looks, None)
        computed, last_cpu = cpu - last_cpu, cpu
        if alive > cores:
            raise ValueError(f"{alive} jobs live on {cores} cores at {middle:.2f} s")
        free = cores - alive
        if not alive:
            held["no_job"] += cores * span
            continue
        late = min(free, ready(run.lives, middle))
        held["late_start"] += late * span
        nothing_left = (free - late) * span
        # What the main process computes takes a core from jobs, or a core that had no job.
        beside = 0.0 if late else min(computed, span)
        from_idle = min(beside, nothing_left)
        held["beside"] += beside
        held["idle"] += nothing_left - from_idle
        held["work"] -= beside - from_idle
    for life in run.lives:
        work = life.end if life.work is None else life.work
        held["start_up"] += work - life.start
        held["work"] += life.end - work
    held["snakemake"] = held["no_job"] + held["late_start"] + held["beside"]
    return {"all": cores * run.wall_s} | held


def snakemake_command(targets: Sequence[str], cores: int, configfile: str) -> list[str]:
    """Return the command that makes some targets with the shipped profile of one machine."""
    command = [sys.executable, "-m", "snakemake", *targets, "--profile", "profiles/local"]
    return [*command, "--cores", str(cores), "--configfile", configfile]
