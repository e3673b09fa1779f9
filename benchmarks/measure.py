"""Measuring: a function alone in a fresh process, repeats, and exponents of growth."""

from __future__ import annotations

import gc
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
#: Libraries that would start threads of their own, each by its own name.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def run_alone(function: str, *, cores: int = 1, **arguments: Any) -> dict[str, Any]:
    """Return what a function returns in a process of its own, and what that process took.

    To its result come ``peak_mb``, the process's peak memory, and ``written_mb``, what it wrote.

    The process is new, so that its peak is the function's, and is pinned to as many cores as it
    is given. What it imports counts: a job of a run imports the same.

    Parameters
    ----------
    function
        ``module:function`` of this package; takes plain values and returns a dict of them.
    cores
        Cores to pin it to, and threads its libraries may use.
    arguments
        Its arguments: plain values.

    Raises
    ------
    RuntimeError
        If it fails, with what it wrote to standard error.
    """
    environment = os.environ | {name: str(cores) for name in THREAD_VARIABLES}
    paths = [str(ROOT / "src"), str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    request = {"function": function, "cores": cores, "arguments": arguments}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.alone"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(f"{function}: {done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def time_repeats(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Return best and median time of a call (s), of the process's cores and on the wall.

    Parameters
    ----------
    call
        Function without arguments; what it returns is thrown away.
    repeats
        Number of calls.
    """
    cpu, wall = [], []
    for _ in range(repeats):
        gc.collect()
        began = time.process_time(), time.perf_counter()
        call()
        cpu.append(time.process_time() - began[0])
        wall.append(time.perf_counter() - began[1])
    return {
        "cpu_s": min(cpu),
        "cpu_median_s": statistics.median(cpu),
        "cpu_mean_s": statistics.mean(cpu),
        "wall_s": min(wall),
        "wall_median_s": statistics.median(wall),
        "repeats": repeats,
    }


def growth_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return b of cost = a · size^b by least squares in the logarithms.

    Parameters
    ----------
    sizes, costs
        Positive numbers, at least two different sizes.
    """
    x, y = ([math.log(value) for value in values] for values in (sizes, costs))
    return statistics.linear_regression(x, y).slope
