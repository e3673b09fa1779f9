"""The process that a measurement has to itself: a request as JSON in, its result as JSON out."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path


def peak_memory_mb() -> float:
    """Return the most memory this process has held (MiB).

    The kernel's mark for this address space; ``ru_maxrss`` starts at the peak of the parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def written_mb() -> float:
    """Return how much this process has written to files so far (MiB)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar")) / 2**20


def main() -> None:
    """Run the function that the request names, pinned, and print its result."""
    request = json.load(sys.stdin)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-request["cores"] :])
    import pyarrow

    pyarrow.set_cpu_count(request["cores"])
    pyarrow.set_io_thread_count(request["cores"])
    module, name = request["function"].split(":")
    result = getattr(importlib.import_module(f"benchmarks.{module}"), name)(**request["arguments"])
    result |= {"peak_mb": peak_memory_mb(), "written_mb": written_mb()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
