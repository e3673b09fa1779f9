"""(h) A year of Greenland from granules to nodes through Snakemake, month after month.

The granules of a few months are written, cut and filtered by the shipped workflow, and removed;
the node fits of all tiles come after. Shorter records are the beginning of the longest.
"""

from __future__ import annotations

import csv
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from benchmarks import fleet, jobs, nodes, scene
from benchmarks.measure import ROOT, growth_exponent, run_alone
from benchmarks.watch import Life, Run, run_watched, share_out, snakemake_command
from cryofuse.atl06.tiles import list_row_groups
from cryofuse.calendar import year_fraction
from cryofuse.config import RegionSettings
from cryofuse.geo import list_tiles, load_outline

#: Months of the measured records, from the first on: a year without safe hold.
MONTHS, FIRST_MONTH = (1, 3, 12), np.datetime64("2020-01", "M")
#: Months whose granules lie on disk at the same time.
PIECE_MONTHS = 2
CORES = 2
#: The region of the run, and those whose whole record is reckoned.
REGION, REGIONS, TILE_M = "greenland", ("greenland", "antarctica"), 100_000.0
#: What a run needs of the project.
_PROJECT = ("Snakefile", "config", "envs", "profiles", "src", "workflow")
#: A year has no fits at the defaults, which ask for a span of a year and four passes.
SHORT_RECORD = {
    "elevation": {"min_span_years": 0.1, "min_epochs": 2},
    "fusion": {"causal_min_years": 0.1},
}
#: The rules of the run, in order.
RULES = tuple(nodes.ASKED)
#: Bytes on disk for each segment in the files, as measured: granules, subset, and what the filters
#: keep of it (the subset and the filtered table have 40 and 42 for each of their own segments).
GRANULE_BYTES, SUBSET_BYTES, KEPT_BYTES = 43, 38, 31
#: Segments of a full month.
MONTH_SEGMENTS = 37e6
#: Tiles of the quick run, and of the longest record's fits that are held against the formula.
QUICK_TILES, CHECKED_TILES = 2, 10

Result = dict[str, Any]


def warm() -> Result:
    """Compile what jobs need, which happens once on a machine."""
    import tempfile

    box = (0.0, -2_000_000.0, TILE_M, -1_900_000.0)
    region = jobs.box_region(box, "EPSG:3413")
    with tempfile.TemporaryDirectory() as folder:
        jobs.tile_job([], "x0_y-20", folder, region, {"start": "2020-01", "end": "2020-03"}, {})
    return {}


def make_project(folder: Path) -> None:
    """Link what a run needs of the project into a folder of its own."""
    folder.mkdir()
    for part in _PROJECT:
        (folder / part).symlink_to(ROOT / part)


def write_overlay(project: Path, months: int) -> None:
    """Write the configuration of a record of so many months."""
    last = FIRST_MONTH + months - 1
    overlay = SHORT_RECORD | {
        "source": "local",
        "regions": [REGION],
        "period": {"start": str(FIRST_MONTH), "end": str(last), "length": "month"},
        # No rule that is asked for reads the mascon file.
        "local": {"atl06_dir": "granules", "mascons_file": "none.nc"},
    }
    (project / "overlay.yaml").write_text(yaml.safe_dump(overlay))


def pieces(sizes: Sequence[int]) -> list[range]:
    """Return the months that are on disk together; none reaches across the end of a record."""
    found = []
    for first, stop in zip([0, *sizes[:-1]], sizes, strict=True):
        found += [
            range(begin, min(begin + PIECE_MONTHS, stop))
            for begin in range(first, stop, PIECE_MONTHS)
        ]
    return found


def startable(expected: Sequence[tuple[str, str]]) -> Callable[[Sequence[Life], float], int]:
    """Return a function that counts the jobs of a run that could have been started at a time.

    Parameters
    ----------
    expected
        Rule and target of every job of the run. The summary waits for all others.
    """

    def count(lives: Sequence[Life], at: float) -> int:
        begun = [life for life in lives if life.start <= at]
        over = {(life.rule, life.target) for life in begun if life.end <= at}
        unstarted = Counter(expected)
        unstarted.subtract((life.rule, life.target) for life in begun if life.target)
        # A job that ended before its log was seen has no target: some other of its rule is taken.
        nameless = Counter(life.rule for life in begun if not life.target)
        free = 0
        for rule, target in +unstarted:
            if nameless[rule]:
                nameless[rule] -= 1
            elif rule == "summarise_checks":
                free += len(over) == len(expected) - 1
            else:
                before = nodes.BEFORE.get(rule)
                free += before is None or (before, target) in over
        return free

    return count


def run_snakemake(
    project: Path, targets: Sequence[str], expected: Sequence[tuple[str, str]]
) -> Result:
    """Run the workflow for some targets; return what it took, whose time it was, and its jobs."""
    environment = os.environ | {"PYTHONPATH": str(project / "src"), "PYTHONDONTWRITEBYTECODE": ""}
    command = snakemake_command(targets, CORES, "overlay.yaml")
    # Removed granules and subsets are no reason to make anew what came of them.
    command += ["--rerun-triggers", "mtime"]
    load = os.getloadavg()[0]
    run = run_watched(command, project, environment, CORES)
    if len(run.lives) > len(expected):
        raise RuntimeError(f"{len(run.lives)} jobs ran where {len(expected)} were expected")
    # On a busy machine a job of a second may begin and end between two looks.
    unseen = len(expected) - len(run.lives)
    if unseen:
        print(f"  {unseen} of {len(expected)} jobs were not seen: idle cores count as Snakemake's")
    return summarise(run, startable(expected)) | {"load": load, "unseen": unseen}


def summarise(run: Run, ready: Callable[[Sequence[Life], float], int]) -> Result:
    """Return a run as plain values: whose time it was, Snakemake's own costs, and its jobs."""
    first = min(life.start for life in run.lives)
    last = max(life.end for life in run.lives)
    shares = share_out(run, CORES, ready)
    return {
        "wall_s": run.wall_s,
        "cpu_s": run.cpu_s,
        "main_cpu_s": run.looks[-1][1],
        "main_peak_mb": run.main_peak_mb,
        "begin_s": first,
        "close_s": run.wall_s - last,
        "shares": shares,
        "jobs": [asdict(life) for life in run.lives],
    }


def _rows(project: Path, kind: str, month: np.datetime64) -> int:
    path = project / f"results/{REGION}/altimetry/{kind}/{month}.parquet"
    return pq.read_metadata(path).num_rows


def run_piece(project: Path, months: Sequence[np.datetime64], written: Sequence[Result]) -> Result:
    """Cut and filter the granules of some months, and remove them."""
    names = [str(month) for month in months]
    expected = [(rule, name) for name in names for rule in RULES[:3]]
    filtered = [f"results/{REGION}/altimetry/filtered/{name}.parquet" for name in names]
    result = run_snakemake(project, filtered, expected)
    result["months"] = [
        {
            "month": name,
            **sizes,
            "inside": _rows(project, "subset", month),
            "kept": _rows(project, "filtered", month),
            "subset_bytes": _size(project, "subset", name),
            "filtered_bytes": _size(project, "filtered", name),
        }
        for name, month, sizes in zip(names, months, written, strict=True)
    ]
    # The folder stays: a configuration that names a missing one is refused.
    for granule in (project / "granules").iterdir():
        granule.unlink()
    shutil.rmtree(project / f"results/{REGION}/altimetry/subset")
    return result


def _size(project: Path, kind: str, name: str) -> int:
    return (project / f"results/{REGION}/altimetry/{kind}/{name}.parquet").stat().st_size


def tile_sizes(project: Path) -> dict[str, int]:
    """Return the kept segments of each tile."""
    sizes: dict[str, int] = {}
    for path in (project / f"results/{REGION}/altimetry/filtered").iterdir():
        with pq.ParquetFile(path) as file:
            for group in list_row_groups(file):
                sizes[group.tile] = sizes.get(group.tile, 0) + group.rows
    return sizes


def run_tiles(project: Path, months: int, tiles: Sequence[str], *, whole: bool) -> Result:
    """Fit the nodes of some tiles to a record of so many months; of all of them, sum up checks."""
    write_overlay(project, months)
    folder = f"results/{REGION}/altimetry"
    expected = [("fit_nodes", tile) for tile in tiles]
    targets = [f"{folder}/nodes/{tile}.parquet" for tile in tiles]
    if whole:
        targets = ["elevation"]
        expected.append(("summarise_checks", "summarise_checks"))
    result = run_snakemake(project, targets, expected)
    rows = tile_sizes(project)
    result["tiles"] = {}
    for tile in tiles:
        with pq.ParquetFile(project / folder / f"nodes/{tile}.parquet") as file:
            found = file.read(columns=["n_segments", "reason"]).to_pandas()
        fitted = found["reason"].isna()
        result["tiles"][tile] = {
            "segments": rows.get(tile, 0),
            "nodes": len(found),
            "fitted": int(fitted.sum()),
            "fitted_segments": int(found.loc[fitted, "n_segments"].sum()),
        }
    return result


def check_fits(project: Path, tiles: Sequence[str]) -> Result:
    """Return how far the nodes' heights are from the formula, month by month (m).

    Parameters
    ----------
    tiles
        Tiles whose nodes are looked at.
    """
    away, fitted, nodes_count = [], 0, 0
    for tile in tiles:
        folder = project / f"results/{REGION}/altimetry"
        found = pq.ParquetFile(folder / f"nodes/{tile}.parquet").read().to_pandas()
        months = pq.ParquetFile(folder / f"node_months/{tile}.parquet").read().to_pandas()
        nodes_count += len(found)
        fitted += int(found["reason"].isna().sum())
        joined = months.merge(found[["node_id", "x_m", "y_m", "elevation_m"]], on="node_id")
        joined = joined.dropna(subset=["dh_m", "elevation_m"])
        middle = joined["month"].to_numpy().astype("M8[us]") + np.timedelta64(15, "D")
        x_m, y_m = joined["x_m"].to_numpy(), joined["y_m"].to_numpy()
        truth = scene.topography(x_m, y_m) + scene.change(x_m, y_m, year_fraction(middle))
        away.append((joined["elevation_m"] + joined["dh_m"]).to_numpy() - truth)
    differences = np.concatenate(away)
    counts = {"nodes": nodes_count, "fitted": fitted, "node_months": differences.size}
    if not differences.size:
        return counts | {"median_m": None, "spread_m": None}
    middle = float(np.median(differences))
    spread = float(1.4826 * np.median(np.abs(differences - middle)))
    return counts | {"median_m": middle, "spread_m": spread}


def benchmark_peaks(project: Path) -> dict[str, float]:
    """Return the largest memory of each rule's jobs as Snakemake's benchmarks have it (MB)."""
    peaks: dict[str, float] = {}
    for path in (project / f"logs/{REGION}").rglob("*.tsv"):
        rule = path.parent.name if path.parent.name != REGION else path.stem
        for row in csv.DictReader(path.open(), delimiter="\t"):
            if row["max_rss"] not in ("NA", "-"):
                peaks[rule] = max(peaks.get(rule, 0.0), float(row["max_rss"]))
    return peaks


def case_of(measured: Result, months: int) -> Result:
    """Return the figures of a record: its pieces and its tiles added up.

    Parameters
    ----------
    measured
        ``pieces`` of the record and perhaps of longer ones, and ``tiles`` by months.
    months
        Length of the record.
    """
    parts, count = [], 0
    for piece in measured["pieces"]:
        if count < months:
            parts.append(piece)
            count += len(piece["months"])
    runs = [*parts, measured["tiles"][str(months)]]
    shares = {name: sum(run["shares"][name] for run in runs) for name in runs[0]["shares"]}
    lives = [life for run in runs for life in run["jobs"]]
    sizes = [month for piece in parts for month in piece["months"]]
    by_rule = {}
    for rule in RULES:
        mine = [life for life in lives if life["rule"] == rule]
        if mine:
            by_rule[rule] = {
                "jobs": len(mine),
                "wall_s": sum(life["end"] - life["start"] for life in mine),
                "start_s": sum((life["work"] or life["end"]) - life["start"] for life in mine),
                "cpu_s": sum(life["cpu_s"] for life in mine),
                "peak_mb": max(life["peak_mb"] for life in mine),
            }
    wall_s = sum(run["wall_s"] for run in runs)
    tiles = runs[-1]["tiles"].values()
    return {
        "months": months,
        **{
            name: sum(month[name] for month in sizes)
            for name in ("granules", "segments", "bytes", "inside", "kept", "write_s")
        },
        "nodes": sum(tile["nodes"] for tile in tiles),
        "fitted": sum(tile["fitted"] for tile in tiles),
        "commands": len(runs),
        "jobs": len(lives),
        "wall_s": wall_s,
        "cpu_s": sum(run["cpu_s"] for run in runs),
        "jobs_s": sum(rule["wall_s"] for rule in by_rule.values()),
        "segments_s": sum(month["segments"] for month in sizes) / wall_s,
        "main_peak_mb": max(run["main_peak_mb"] for run in runs),
        "load": max(run["load"] for run in runs),
        "shares": shares,
        "rules": by_rule,
    }


def exponents(cases: Sequence[Result]) -> Result | None:
    """Return exponents of growth with raw segments of time and memory; None of a single case."""
    if len(cases) < 2:
        return None
    sizes = [case["segments"] for case in cases]
    found = {"wall": {"time": growth_exponent(sizes, [case["wall_s"] for case in cases])}}
    found["wall"]["memory"] = growth_exponent(sizes, [case["main_peak_mb"] for case in cases])
    for rule in RULES[:4]:
        held = [case["rules"][rule] for case in cases]
        found[rule] = {
            "time": growth_exponent(sizes, [entry["wall_s"] for entry in held]),
            "work": growth_exponent(sizes, [entry["wall_s"] - entry["start_s"] for entry in held]),
            "memory": growth_exponent(sizes, [entry["peak_mb"] for entry in held]),
        }
    return found


def run(
    folder: str,
    scale: int,
    months: Sequence[int] | None = None,
    save: Callable[[Result], None] = lambda measured: None,
) -> Result:
    """Return figures of records of several lengths, and of a cluster as they let one reckon.

    Parameters
    ----------
    folder
        For granules and tables.
    scale
        How many times fewer granules than at full size; above 1 one month and a few tiles.
    months
        Lengths of the records, in place of 1, 3 and 12 months.
    save
        Takes what has been measured so far, after each record.
    """
    quick = scale > 1
    sizes = sorted(months or (MONTHS[:1] if quick else MONTHS))
    check_room(folder, sizes[-1], scale)
    region = RegionSettings.model_validate(
        yaml.safe_load((ROOT / f"config/regions/{REGION}.yaml").read_text())
    )
    outline = str(ROOT / region.outline)
    tiles = list_tiles(load_outline(region.model_copy(update={"outline": outline})), TILE_M)
    project = Path(folder) / "project"
    make_project(project)
    run_alone("scale:warm")
    counted: dict[str, Result] = {}
    measured: Result = {"cores": CORES, "region": REGION, "pieces": [], "tiles": {}, "cases": []}
    for piece in pieces(sizes):
        flown = [FIRST_MONTH + number for number in piece]
        if not counted:
            (project / "granules").mkdir()
            # A quick run leaves the continent out.
            counted = nodes.dry_runs(project, REGIONS[:1] if quick else REGIONS)
        written = []
        for month in flown:
            began = time.perf_counter()
            sizes_of = fleet.write_month(
                project / "granules", outline, region.crs, month, CORES, scale
            )
            written.append(sizes_of | {"write_s": time.perf_counter() - began})
        write_overlay(project, piece.stop)
        measured["pieces"].append(run_piece(project, flown, written))
        _tell(
            f"{flown[0]} to {flown[-1]}", measured["pieces"][-1], sum(w["write_s"] for w in written)
        )
        if piece.stop in sizes:
            chosen = tiles
            if quick:
                held = tile_sizes(project)
                chosen = sorted(held, key=held.__getitem__)[-QUICK_TILES:]
            fits = run_tiles(project, piece.stop, chosen, whole=not quick)
            measured["tiles"][str(piece.stop)] = fits
            measured["cases"].append(case_of(measured, piece.stop))
            _tell(f"tiles of {piece.stop} months", fits, 0.0)
            densest = sorted(chosen, key=lambda tile: fits["tiles"][tile]["segments"])
            measured["fits"] = check_fits(project, densest[-CHECKED_TILES:])
            measured["benchmark_peaks"] = benchmark_peaks(project)
            measured["growth"] = exponents(measured["cases"])
            measured["cluster"] = nodes.reckon(measured, counted)
            save(measured)
    return measured


def check_room(folder: str, months: int, scale: int) -> None:
    """Refuse a record for which there is no room.

    Parameters
    ----------
    folder
        Where it goes.
    months
        Length of the longest record.
    scale
        How many times fewer segments than at full size.

    Raises
    ------
    OSError
        With what is there, what is needed, and how to mend it.
    """
    each = GRANULE_BYTES + nodes.ASIDE_BYTES + SUBSET_BYTES
    pieces_bytes = each * min(months, PIECE_MONTHS) + KEPT_BYTES * months
    needed, free = MONTH_SEGMENTS / scale * pieces_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} has {free / 1e9:.0f} GB of room and {months} months need "
            f"{needed / 1e9:.0f}: set TMPDIR to another disk, or take fewer months (--months)"
        )


def _tell(what: str, result: Result, write_s: float) -> None:
    own = result["shares"]["snakemake"] / result["shares"]["all"]
    print(
        f"  {what}: written in {write_s:.0f} s, run in {result['wall_s']:.0f} s, "
        f"Snakemake's own {own:.1%}",
        flush=True,
    )
