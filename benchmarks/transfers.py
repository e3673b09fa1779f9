"""(g) Downloads against curl, from an archive on loopback; checking again; jobs of a run."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from benchmarks.granules import ORBIT_REGION, granule_name, write_granule
from benchmarks.measure import ROOT, run_alone
from cryofuse.atl06.product import parse_name
from tests.archive.archive import TOKEN

#: What the archive is held to: bytes per second of all connections, seconds before an answer.
RATE_BYTES_S, LATENCY_S = 100e6, 0.050
#: Transfers at the same time, of both clients: the project's default.
PARALLEL = 4
#: Cores of a client; the archive has the same.
CORES = 2
#: Segments a beam of the large granules, in turn (31, 42 and 56 MB), and of small ones (1 MB).
LARGE_SEGMENTS, SMALL_SEGMENTS = (130_000, 180_000, 240_000), 1_900
LARGE_FILES, SMALL_FILES = 36, 300
REPEATS = 3
#: Sizes of one file whose download's memory is measured (MB).
MEMORY_SIZES_MB = (64, 256, 1024)
#: The run whose jobs are counted: one granule or two in each month.
PERIOD = {"start": "2018-10", "end": "2024-12", "length": "month"}
#: What a run needs of the project.
_PROJECT = ("Snakefile", "config", "envs", "profiles", "src", "workflow")
#: Tracks between the granules of that run: 23 days, so that no month is without one.
CYCLES, TRACKS = range(1, 27), range(1, 1388, 346)
#: The months' bounds: every granule named here lies between them.
_SPAN = ("2018-01-01", "2040-01-01")


@dataclass(frozen=True)
class Archive:
    """An archive that serves a folder: its address, and the configuration that leads to it."""

    url: str
    system: dict[str, str]


@contextmanager
def serve(folder: Path, rate_bytes_s: float | None = None, latency_s: float = 0.0):
    """Serve a folder's granules from a process of its own.

    Parameters
    ----------
    folder
        ATL06 files.
    rate_bytes_s
        Rate that all connections together are held to.
    latency_s
        Wait before each answer, and before a new connection is taken up (s).
    """
    command = [sys.executable, "-m", "tests.archive", str(folder), "--latency", str(latency_s)]
    if rate_bytes_s:
        command += ["--rate", str(rate_bytes_s)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        try:
            system = yaml.safe_load(_head(process.stdout))["download"]["system"]
            yield Archive(system["cmr_base_url"].removesuffix("/search/"), system)
        finally:
            process.terminate()


def _head(lines: Iterator[str]) -> str:
    """Return what the archive says as it starts, up to its last line."""
    head = []
    for line in lines:
        head.append(line)
        if line.startswith("# TELLUS"):
            return "".join(head)
    raise RuntimeError("the archive did not start")


# ---------------------------------------------------------------------- files


def spread_granules(source: Path, names: Sequence[str], folder: Path) -> None:
    """Copy a granule under other names, with the start and the orbit region that these say.

    Parameters
    ----------
    source
        Granule.
    names
        Names of the copies.
    folder
        Where they go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / name
        shutil.copyfile(source, path)
        with h5py.File(path, "r+") as file:
            ancillary = file["ancillary_data"]
            ancillary["start_region"][...] = ORBIT_REGION
            ancillary["data_start_utc"][...] = f"{parse_name(name).start_time}Z".encode()


def write_sets(folder: Path, scale: int) -> dict[str, Path]:
    """Write the granules, large and small ones, and return their folders."""
    work = folder / "work"
    work.mkdir()
    tracks = {"large": LARGE_FILES, "small": SMALL_FILES}
    kinds = {
        "large": [segments // scale for segments in LARGE_SEGMENTS],
        "small": [SMALL_SEGMENTS],
    }
    for kind, segments in kinds.items():
        count = max(tracks[kind] // scale, len(segments))
        names = [granule_name(rgt=track) for track in range(1, count + 1)]
        for number, rows in enumerate(segments):
            written = write_granule(str(work), rows)
            spread_granules(written, names[number :: len(segments)], folder / kind)
    return {kind: folder / kind for kind in kinds}


def list_rows(folder: Path, archive: Archive) -> list[dict[str, Any]]:
    """Return the plan of a folder's granules, as plain values."""
    return [
        {
            "granule": path.name,
            "url": f"{archive.url}/data/ATL06/006/{path.name}",
            "size_bytes": path.stat().st_size,
            "checksum": _sha256(path),
            "checksum_algorithm": "SHA-256",
        }
        for path in sorted(folder.iterdir())
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---------------------------------------------------------------------- clients


def fetch(plan: str, target: str, system: dict[str, str]) -> dict[str, float]:
    """Fetch a plan's granules as a job of a run does, and return what that took.

    What a client leaves in memory is waited for afterwards, apart (``flush_s``).
    """
    os.environ["EARTHDATA_TOKEN"] = TOKEN
    import earthaccess  # noqa: F401  imported by the first log-in

    from cryofuse.acquire.earthdata import download_granules
    from cryofuse.acquire.plan import ManifestRow
    from cryofuse.config import DownloadSettings

    rows = [ManifestRow(**row) for row in json.loads(Path(plan).read_text())]
    settings = DownloadSettings(
        cache_dir=target, parallel=PARALLEL, trusted_hosts=["127.0.0.1"], system=system
    )
    receipts = []
    span = [np.datetime64(day) for day in _SPAN]
    taken = _clock(
        lambda: receipts.append(download_granules(rows, settings, *span)), resource.RUSAGE_SELF
    )
    if receipts[0].num_rows != len(rows) or receipts[0]["reason"].null_count != len(rows):
        raise RuntimeError(f"not all came: {receipts[0]['reason'].to_pylist()}")
    return taken


def curl(plan: str, target: str) -> dict[str, float]:
    """Fetch a plan's granules with curl, unchecked, and return what that took."""
    rows = json.loads(Path(plan).read_text())
    Path(target).mkdir(parents=True)
    lines = [f'oauth2-bearer = "{TOKEN}"']
    for row in rows:
        lines += [f'url = "{row["url"]}"', f'output = "{target}/{row["granule"]}"']
    command = ["curl", "--silent", "--show-error", "--fail", "--parallel", "--parallel-immediate"]
    command += ["--parallel-max", str(PARALLEL), "--config", "-"]
    taken = _clock(
        lambda: subprocess.run(command, input="\n".join(lines), text=True, check=True),
        resource.RUSAGE_CHILDREN,
    )
    for row in rows:
        if os.path.getsize(f"{target}/{row['granule']}") != row["size_bytes"]:
            raise RuntimeError(f"curl: {row['granule']} is not whole")
    return taken


def _clock(call: Callable[[], Any], who: int) -> dict[str, float]:
    """Return the wall and CPU time of a call, and of what the system then writes to disk (s)."""
    used = resource.getrusage(who)
    began = time.perf_counter()
    call()
    wall = time.perf_counter() - began
    now = resource.getrusage(who)
    os.sync()
    return {
        "wall_s": wall,
        "cpu_s": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
        "flush_s": time.perf_counter() - began - wall,
    }


# ---------------------------------------------------------------------- measurements


def compare(folder: Path, work: Path, held: bool, repeats: int) -> dict[str, Any]:
    """Return what both clients take for a folder's granules, one after the other in turn.

    ``again`` is the project's download once more, with everything there, on one core.

    Parameters
    ----------
    folder
        Granules.
    work
        Where the clients write; emptied after each.
    held
        Whether the archive is held to its rate and latency.
    repeats
        Turns.
    """
    pace = (RATE_BYTES_S, LATENCY_S) if held else (None, 0.0)
    taken: dict[str, list[dict[str, float]]] = {"curl": [], "cryofuse": [], "again": []}
    with serve(folder, *pace) as archive:
        rows = list_rows(folder, archive)
        plan, target = work / "plan.json", work / "target"
        plan.write_text(json.dumps(rows))
        arguments = {"plan": str(plan), "target": str(target)}
        calls = {
            "curl": partial(run_alone, "transfers:curl", cores=CORES),
            "cryofuse": partial(run_alone, "transfers:fetch", cores=CORES, system=archive.system),
            "again": partial(run_alone, "transfers:fetch", system=archive.system),
        }
        for _ in range(repeats):
            for name, call in calls.items():
                os.sync()
                load = os.getloadavg()[0]
                taken[name].append(call(**arguments) | {"load": load})
                if name != "cryofuse":
                    shutil.rmtree(target)
    size = sum(row["size_bytes"] for row in rows)
    return {
        "files": len(rows),
        "bytes": size,
        "rate_bytes_s": pace[0],
        "latency_s": pace[1],
    } | {client: summarise(results, size) for client, results in taken.items()}


def summarise(results: Sequence[dict[str, float]], size: int) -> dict[str, Any]:
    """Return the best and the median of several results, and all of them.

    Parameters
    ----------
    results
        What :func:`fetch` or :func:`curl` took.
    size
        Bytes fetched by each.
    """
    walls = [result["wall_s"] for result in results]
    return {
        "wall_s": min(walls),
        "wall_median_s": statistics.median(walls),
        "cpu_s": min(result["cpu_s"] for result in results),
        "bytes_s": size / min(walls),
        "bytes_median_s": size / statistics.median(walls),
        "flushed_bytes_s": size / min(result["wall_s"] + result["flush_s"] for result in results),
        "peak_mb": max(result["peak_mb"] for result in results),
        "all": list(results),
    }


def memory(work: Path, scale: int) -> list[dict[str, float]]:
    """Return the peak memory of the download of one file, by its size."""
    small = write_granule(str(work), SMALL_SEGMENTS)
    found = []
    for megabytes in MEMORY_SIZES_MB:
        folder = work / f"memory-{megabytes}"
        name = granule_name()
        spread_granules(small, [name], folder)
        with h5py.File(folder / name, "r+") as file:
            count = megabytes * 1_000_000 // scale
            file["padding"] = np.random.default_rng(7).integers(0, 256, count, np.uint8)
        with serve(folder) as archive:
            plan, target = work / "plan.json", work / "target"
            plan.write_text(json.dumps(list_rows(folder, archive)))
            result = run_alone(
                "transfers:fetch", plan=str(plan), target=str(target), system=archive.system
            )
        found.append({"bytes": (folder / name).stat().st_size, "peak_mb": result["peak_mb"]})
        shutil.rmtree(folder)
        shutil.rmtree(target)
    return found


def run_jobs(work: Path, scale: int) -> dict[str, Any]:
    """Return what a run of monthly periods takes that plans, downloads and holds tiny granules."""
    project, served = work / "project", work / "served"
    project.mkdir()
    for part in _PROJECT:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, project / part)
    names = [granule_name(cycle, track) for cycle in CYCLES for track in TRACKS]
    spread_granules(write_granule(str(work), 100), names, served)
    period = PERIOD | ({"end": "2018-12"} if scale > 1 else {})
    months = np.arange(np.datetime64(period["start"]), np.datetime64(period["end"]) + 1)
    environment = os.environ | {"EARTHDATA_TOKEN": TOKEN, "PYTHONPATH": str(project / "src")}
    steps: dict[str, dict[str, float]] = {}
    with serve(served) as archive:
        settings = {"parallel": PARALLEL, "trusted_hosts": ["127.0.0.1"], "system": archive.system}
        overlay = {
            "source": "earthdata",
            "regions": ["greenland"],
            "period": period,
            "download": settings,
        }
        (project / "overlay.yaml").write_text(yaml.safe_dump(overlay))
        targets = {
            "plan": [f"manifests/greenland/{month}.csv" for month in months],
            "download": [f"results/greenland/acquire/atl06/{month}.parquet" for month in months],
            "hold": [f"resources/earthdata/held/greenland/{month}.txt" for month in months],
            "nothing left": [f"resources/earthdata/held/greenland/{month}.txt" for month in months],
        }
        for step, files in targets.items():
            command = [sys.executable, "-m", "snakemake", *files, "--profile", "profiles/local"]
            command += ["--cores", str(CORES), "--configfile", "overlay.yaml"]
            load = os.getloadavg()[0]
            call = partial(subprocess.run, command, cwd=project, env=environment, check=True)
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            steps[step] = _clock(partial(call, **quiet), resource.RUSAGE_CHILDREN) | {"load": load}
    fetched = sorted(path.name for path in project.glob("resources/earthdata/atl06/*.h5"))
    return {
        "periods": len(months),
        "granules": len(fetched),
        "steps": steps,
    }


def run(folder: str, scale: int) -> dict[str, Any]:
    """Measure downloads, memory and jobs."""
    root = Path(folder)
    work = root / "clients"
    work.mkdir()
    repeats = REPEATS if scale == 1 else 1
    measured: dict[str, Any] = {"parallel": PARALLEL, "cores": CORES, "sets": {}}
    for kind, files in write_sets(root, scale).items():
        measured["sets"][kind] = {
            pace: compare(files, work, pace == "held", repeats) for pace in ("held", "unthrottled")
        }
        shutil.rmtree(files)
    measured["memory"] = memory(work, scale)
    measured["jobs"] = run_jobs(work, scale)
    return measured
