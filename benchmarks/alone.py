"""The process that a measurement has to itself: a request as JSON in, its result as JSON out."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys


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
    # Linux counts in kB. A new process starts at its parent's peak, so the parent holds no data.
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
