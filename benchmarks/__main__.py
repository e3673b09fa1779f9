"""Run the benchmarks: ``python -m benchmarks [parts] [--quick]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT
from benchmarks.projection import project
from benchmarks.report import markdown

#: Each part and the module that measures it.
PARTS = {
    "read": "reading",
    "filter": "filtering",
    "fits": "fitting",
    "tiles": "projection",
    "poles": "poles",
    "growth": "growth",
    "learning": "learning",
    "transfers": "transfers",
    "scale": "scale",
    "dashboard": "dashboard",
}
#: How many times smaller everything is with --quick.
QUICK_SCALE = 20
PACKAGES = ("cryofuse", "numpy", "h5py", "pyarrow", "numba", "pandas", "shapely", "pyproj")


def machine() -> dict[str, Any]:
    """Return what results depend on: processor, cores, memory, versions; no name of the machine."""
    import h5py

    from cryofuse.provenance import code_digest

    information = Path("/proc/cpuinfo").read_text()
    models = [
        line.split(":")[1].strip() for line in information.splitlines() if "model name" in line
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 2**30),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "hdf5": h5py.version.hdf5_version,
        "code": code_digest(),
    }


def main() -> None:
    """Measure the parts asked for; write results and their table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SCALE} times smaller")
    parser.add_argument(
        "--months", nargs="+", type=int, help="lengths of the records of part scale"
    )
    parser.add_argument("--output", default=str(ROOT / "results" / "benchmarks"))
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"{', '.join(unknown)}: parts are {', '.join(PARTS)}")
    if options.months and options.parts and "scale" not in options.parts:
        parser.error("--months is of part scale, which is not asked for: name it too")
    if min(options.months or [1]) < 1:
        parser.error(f"--months {min(options.months)}: a record has one month at least")
    scale = QUICK_SCALE if options.quick else 1
    output = Path(options.output) / ("quick" if options.quick else "full")
    output.mkdir(parents=True, exist_ok=True)
    for part in options.parts or PARTS:
        began = time.perf_counter()
        print(f"{part} …", flush=True)

        def save(measured: dict[str, Any], part: str = part, began: float = began) -> None:
            seconds = time.perf_counter() - began
            result = {"machine": machine(), "scale": scale, "seconds": seconds}
            text = json.dumps(result | {"measured": measured}, indent=1) + "\n"
            (output / f"{part}.json").write_text(text)

        # A killed run leaves the records that it had measured.
        more = {"months": options.months, "save": save} if part == "scale" else {}
        with tempfile.TemporaryDirectory(prefix="cryofuse-") as folder:
            save(import_module(f"benchmarks.{PARTS[part]}").run(folder, scale, **more))
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
    results = {
        part: json.loads((output / f"{part}.json").read_text())
        for part in PARTS
        if (output / f"{part}.json").is_file()
    }
    projection = None
    if {"filter", "fits", "tiles"} <= set(results):
        projection = project({part: result["measured"] for part, result in results.items()})
    whole = {"parts": results, "projection": projection}
    (output / "benchmarks.json").write_text(json.dumps(whole, indent=1) + "\n")
    table = markdown(results, projection)
    (output / "benchmarks.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
