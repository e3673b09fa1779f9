"""The results as Markdown tables, each figure beside its goal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Goals: times faster than h5py (whole, region), segments and nodes a second and core, exponents
#: of growth (time, memory), and peak memory of a tile job (MB).
READ_WHOLE, READ_REGION = 1.5, 6.0
FILTER_RATE, FIT_RATE = 0.6e6, 5000.0
TIME_EXPONENT, MEMORY_EXPONENT = 1.05, 0.1
TILE_MEMORY_MB = 2000.0


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as a Markdown table, the first column left and the others right aligned."""
    align = ["---", *["---:"] * (len(heads) - 1)]
    lines = [heads, align, *[[str(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def _times(entry: dict[str, Any]) -> list[str]:
    return [_seconds(entry[name]) for name in ("cpu_s", "cpu_median_s", "wall_s")]


def _verdict(value: float, goal: float, at_least: bool) -> str:
    met = value >= goal if at_least else value <= goal
    return "yes" if met else "**no**"


def reading(result: dict[str, Any]) -> str:
    """Return the tables of part (a)."""
    measured = result["measured"]
    full, small = measured["full"], measured["small"]
    pairs = (
        ("whole: columns stored in the file", "stored", "plain", READ_WHOLE, full),
        ("whole: all columns, projected", "default", "plain", READ_WHOLE, full),
        ("5 % region: stored, h5py whole and mask", "region stored", "region plain", 6.0, full),
        ("5 % region: all, h5py whole and mask", "region default", "region plain", 6.0, full),
        (
            "5 % region: stored, h5py positions first",
            "region stored",
            "region positions first",
            None,
            full,
        ),
        (
            "5 % region: all, h5py positions first",
            "region default",
            "region positions first",
            None,
            full,
        ),
        ("small granule, stored", "stored", "plain", None, small),
        ("small granule, all columns", "default", "plain", None, small),
    )
    rows = []
    for title, ours, theirs, goal, times in pairs:
        ratio = times[theirs]["cpu_s"] / times[ours]["cpu_s"]
        rows.append(
            [
                title,
                _count(times[ours]["rows"]),
                *(_seconds(times[way][unit]) for way in (ours, theirs) for unit in ("cpu_s", "cpu_median_s")),
                f"{ratio:.2f}",
                f"{goal}" if goal else "–",
                _verdict(ratio, goal, True) if goal else "–",
            ]
        )
    heads = ("reading", "rows", "best (s)", "median (s)", "h5py best (s)", "median (s)", "times faster", "goal", "met")
    stored, real = measured["bytes_per_row"], measured["real_bytes_per_row"]
    lines = [
        f"## Reading ({_count(measured['segments_per_beam'])} segments × 6 beams, CPU time)\n",
        table(heads, rows),
    ]
    common = [name for name in stored if name in real]
    if common:
        ours, theirs = (sum(sizes[name] for name in common) for sizes in (stored, real))
        lines.append(
            f"\nStored bytes per row of the {len(common)} datasets: {ours:.1f} here, "
            f"{theirs:.1f} in real granules.\n"
        )
    return "\n".join(lines)


def filtering(result: dict[str, Any]) -> str:
    """Return the table of part (b)."""
    measured = result["measured"]
    subset, filtered = measured["subset"], measured["filter"]
    rows = []
    for title, entry, heart in (
        ("subset job", subset, "read and cut"),
        ("filter job", filtered, "filter"),
    ):
        rest = entry["cpu_s"] - entry["heart_cpu_s"]
        rows.append([title, *_times(entry), _count(subset["rows"] / entry["cpu_s"]), _count(entry["peak_mb"])])
        for name, spent in ((heart, entry["heart_cpu_s"]), ("the rest: check, sort, write", rest)):
            if spent > 0:
                rows.append([f"– {name}", _seconds(spent), "", "", _count(subset["rows"] / spent), ""])
    cpu = subset["cpu_s"] + filtered["cpu_s"]
    wall = subset["wall_s"] + filtered["wall_s"]
    median = subset["cpu_median_s"] + filtered["cpu_median_s"]
    rate = subset["rows"] / cpu
    rows.append(["both", _seconds(cpu), _seconds(median), _seconds(wall), _count(rate), ""])
    heads = ("job", "best CPU (s)", "median CPU (s)", "best wall (s)", "segments/s", "peak (MB)")
    return "\n".join(
        [
            f"## Subset and filter ({measured['granules']} granules, {_count(measured['rows_read'])} "
            f"segments read, {_count(subset['rows'])} inside, {_count(filtered['rows'])} kept)\n",
            table(heads, rows),
            f"\nSegments a second and core, ledger included: {_count(rate)} of those inside "
            f"({_count(measured['rows_read'] / cpu)} of those read); goal {_count(FILTER_RATE)}: "
            f"{_verdict(rate, FILTER_RATE, True)}.\n",
        ]
    )


def fitting(result: dict[str, Any]) -> str:
    """Return the table of part (c)."""
    rows = []
    for name, entry in result["measured"].items():
        case, *kind, threads = name.split(" ")
        unit = "cpu_s" if threads == "1" else "wall_s"
        rate = entry["nodes"] / entry[unit]
        goal = FIT_RATE if case == "sparse" and kind == ["retrospective"] and threads == "1" else None
        rows.append(
            [
                f"{_count(entry['segments_per_node'])} segments a node, {' '.join(kind)}",
                threads,
                _count(entry["nodes"]),
                *_times(entry),
                _count(rate),
                _count(goal) if goal else "–",
                _verdict(rate, goal, True) if goal else "–",
            ]
        )
    heads = ("fits", "threads", "nodes", "best CPU (s)", "median CPU (s)", "best wall (s)", "nodes/s", "goal", "met")
    return "## Node fits (rates by CPU time, with two threads by wall time)\n\n" + table(heads, rows)


def tiles(result: dict[str, Any]) -> str:
    """Return the line on what a tile job costs besides its fits."""
    measured = result["measured"]
    reading = measured["reading"]
    return (
        "## Tile reading\n\n"
        f"A tile job of {_count(measured['segments'])} segments that fits no node: "
        f"{_seconds(reading['cpu_s'])} s CPU, {_seconds(reading['wall_s'])} s wall, "
        f"{_count(measured['segments'] / reading['cpu_s'])} segments/s, "
        f"peak {_count(reading['peak_mb'])} MB.\n"
    )


def poles(result: dict[str, Any]) -> str:
    """Return the table of the densest tiles."""
    rows = []
    measured = result["measured"]
    for place, entry in measured.items():
        if place == "tile_m":
            continue
        fit = entry["fit"]
        peak = max(fit["peak_mb"], entry["filter"]["peak_mb"])
        rows.append(
            [
                f"{place} ({entry['tile']})",
                _count(entry["density_km2"]),
                f"{entry['relative_density']:.1f}",
                _count(entry["segments"]),
                _count(fit["nodes"]),
                _seconds(fit["cpu_s"]),
                _seconds(fit["wall_s"]),
                f"{1000 * fit['cpu_s'] / fit['nodes']:.1f}",
                _count(fit["peak_mb"]),
                _count(entry["subset_month_segments"]),
                _count(entry["filter"]["peak_mb"]),
                _verdict(peak, TILE_MEMORY_MB, False),
            ]
        )
    heads = (
        "tile", "segments/km²", "× default", "segments", "nodes", "CPU (s)", "wall (s)",
        "ms/node", "tile job peak (MB)", "segments of a month", "filter job peak (MB)", "< 2 000 MB",
    )  # fmt: skip
    side = measured["tile_m"] / 1000
    return f"## Densest tiles ({side:.0f} km, 2018-10 to 2024-12)\n\n" + table(heads, rows)


def growth(result: dict[str, Any]) -> str:
    """Return the tables of part (d)."""
    measured = result["measured"]
    rows, slopes = [], []
    for axis, entry in measured.items():
        if axis == "tile_m":
            continue
        for case in entry["cases"]:
            stages = [stage for stage in ("subset", "filter", "fit") if stage in case]
            extent = (
                f"{case['granules']} granules"
                if axis == "granules"
                else f"{case['tiles']} tiles, {case['months']} months, density × {case['density']:.0f}"
            )
            for stage in stages:
                part = case[stage]
                rows.append(
                    [
                        axis,
                        extent,
                        _count(case["segments"]),
                        stage,
                        _seconds(part["cpu_s"]),
                        _seconds(part["wall_s"]),
                        _count(part["peak_mb"]),
                    ]
                )
        for stage, found in entry["exponents"].items():
            if stage == "all" and axis == "granules":
                continue
            slopes.append(
                [
                    axis,
                    stage,
                    f"{found['time']:.2f}",
                    _verdict(round(found["time"], 2), TIME_EXPONENT, False),
                    f"{found['memory']:.2f}",
                    _verdict(round(found["memory"], 2), MEMORY_EXPONENT, False),
                ]
            )
    lines = [
        f"## Growth (tiles of {measured['tile_m'] / 1000:.0f} km; peak of the largest job)\n",
        table(("axis", "extent", "segments", "job", "CPU (s)", "wall (s)", "peak (MB)"), rows),
        "",
        table(
            ("axis", "job", "exponent of time", f"≤ {TIME_EXPONENT}", "of memory", f"≤ {MEMORY_EXPONENT}"),
            slopes,
        ),
    ]
    return "\n".join(lines)


def projected(results: dict[str, Any]) -> str:
    """Return the table of part (e)."""
    from benchmarks.projection import project

    found = project({part: result["measured"] for part, result in results.items()})
    rows = [
        [
            name,
            f"{_count(term['amount'])} {term['unit']}",
            _count(term["rate"]) if term["rate"] >= 10 else f"{term['rate']:.2g}",
            _count(term["seconds"]),
            f"{term['seconds'] / found['cores'] / 3600:.2f}",
        ]
        for name, term in found["terms"].items()
    ]
    rows.append(["all", "", "", _count(found["cpu_hours"] * 3600), f"{found['hours']:.2f}"])
    heads = ("term", "amount", "a second and core", "CPU (s)", f"hours on {found['cores']} cores")
    return "\n".join(
        [
            f"## Projection to {_count(found['segments'])} segments on {found['cores']} cores\n",
            table(heads, rows),
            f"\n{_count(found['nodes'])} nodes of {_count(found['segments_per_node'])} segments; "
            f"goal {found['goal_hours']:g} hours: "
            f"{_verdict(found['hours'], found['goal_hours'], False)}.\n",
        ]
    )


SECTIONS = {
    "read": reading,
    "filter": filtering,
    "fits": fitting,
    "tiles": tiles,
    "poles": poles,
    "growth": growth,
}


def markdown(results: dict[str, Any]) -> str:
    """Return the results of the parts that were measured as Markdown.

    Parameters
    ----------
    results
        What each part's JSON file holds.
    """
    first = next(iter(results.values()))
    machine = first["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    lines = [
        "# Benchmarks\n",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GiB; Python "
        f"{machine['python']}, HDF5 {machine['hdf5']}, {packages}; code {machine['code'][:12]}. "
        "Each measurement alone in a fresh process, pinned to one core where not said otherwise.\n",
    ]
    if first["scale"] > 1:
        lines.append(
            f"**Quick run, {first['scale']} times smaller than full size**: it shows that everything "
            "runs. Times hold overheads, jobs stay below the batches that bound their memory, so "
            "no goal is decided here.\n"
        )
    lines += [SECTIONS[part](result) for part, result in results.items()]
    if {"filter", "fits", "tiles"} <= set(results):
        lines.append(projected(results))
    return "\n".join(lines)
