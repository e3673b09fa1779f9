"""The results as Markdown tables, each figure beside its goal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.nodes import FILE_SYSTEM_BYTES_S

#: Goals: times faster than plain h5py (whole, region), segments and nodes a second and core.
READ_WHOLE, READ_REGION = 1.5, 6.0
FILTER_RATE, FIT_RATE = 0.6e6, 5000.0
#: Goals: exponents of growth (time, memory), and peak memory of a job at the poles (MB).
TIME_EXPONENT, MEMORY_EXPONENT = 1.05, 0.1
TILE_MEMORY_MB = 2000.0
#: Goal: the learning stage on two cores (s).
LEARNING_S = 360.0
#: Goal: Snakemake's own share of a run's core-time.
SNAKEMAKE_SHARE = 0.1
#: Goals: size of the dashboard (MB), and its first paint (s).
PAGE_MB, PAINT_S = 10.0, 2.0
#: Goal: share of curl's rate.
TRANSFER_SHARE = 0.8
#: Rows of the reading table: title, our way, h5py's, goal, and which granule.
_READINGS = (
    ("whole, columns stored in the file", "stored", "plain", READ_WHOLE, "full"),
    ("whole, all columns with positions", "default", "plain", None, "full"),
    ("region; h5py reads all and masks", "region default", "region plain", READ_REGION, "full"),
    ("region, stored columns; the same", "region stored", "region plain", READ_REGION, "full"),
    ("region; h5py positions first", "region default", "region positions first", None, "full"),
    (
        "region, stored columns; the same",
        "region stored",
        "region positions first",
        None,
        "full",
    ),
    ("small granule, stored columns", "stored", "plain", None, "small"),
    ("small granule, all columns", "default", "plain", None, "small"),
)

Result = dict[str, Any]


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as a Markdown table, the first column left and the others right aligned."""
    align = ["---", *["---:"] * (len(heads) - 1)]
    lines = [heads, align, *[[str(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def _count_or_dash(value: float | None) -> str:
    if value is None:
        return "–"
    return _count(value) if value >= 10 else f"{value:g}"


def _times(entry: Result) -> list[str]:
    return [_seconds(entry[name]) for name in ("cpu_s", "cpu_median_s", "wall_s")]


def _met(value: float, goal: float | None, *, at_least: bool) -> str:
    if goal is None:
        return "–"
    return "yes" if (value >= goal if at_least else value <= goal) else "**no**"


def _goal(goal: float | None) -> str:
    return "–" if goal is None else f"{goal:g}"


def reading(measured: Result) -> str:
    """Return the table of part (a)."""
    rows = []
    for title, our_way, their_way, goal, size in _READINGS:
        ours, theirs = measured[size][our_way], measured[size][their_way]
        ratio = theirs["cpu_s"] / ours["cpu_s"]
        rows.append(
            [title, _count(ours["rows"]), *_times(ours)]
            + [*_times(theirs), f"{ratio:.2f}", _goal(goal), _met(ratio, goal, at_least=True)]
        )
    heads = ["reading", "rows", "best CPU (s)", "median", "best wall", "h5py best CPU", "median"]
    heads += ["best wall", "times faster", "goal", "met"]
    text = (
        f"## Reading ({_count(measured['segments_per_beam'])} segments × 6 beams, "
        f"17 datasets, region of {measured['region_share']:.0%})\n\n" + table(heads, rows)
    )
    stored, real = measured["bytes_per_row"], measured["real_bytes_per_row"]
    common = [name for name in stored if name in real]
    if common:
        here, there = (sum(sizes[name] for name in common) for sizes in (stored, real))
        text += f"\nStored bytes a row: {here:.1f} here, {there:.1f} in real granules.\n"
    return text


def filtering(measured: Result) -> str:
    """Return the table of part (b)."""
    subset, filtered = measured["subset"], measured["filter"]
    inside = subset["rows"]
    rows = []
    for title, entry, heart in (("subset", subset, "read and cut"), ("filter", filtered, "filter")):
        rate, peak = _count(inside / entry["cpu_s"]), _count(entry["peak_mb"])
        rows.append([f"{title} job", *_times(entry), rate, peak])
        rest = entry["cpu_mean_s"] - entry["heart_cpu_s"]
        for name, spent in ((heart, entry["heart_cpu_s"]), (f"write the {title} table", rest)):
            if spent > 0:
                rows.append(
                    [f"– {name} (mean)", _seconds(spent), "", "", _count(inside / spent), ""]
                )
    sums = [subset[name] + filtered[name] for name in ("cpu_s", "cpu_median_s", "wall_s")]
    rate = inside / sums[0]
    rows.append(["both", *map(_seconds, sums), _count(rate), ""])
    heads = ("job", "best CPU (s)", "median", "best wall", "segments/s", "peak (MB)")
    return (
        f"## Subset and filter ({measured['granules']} granules, "
        f"{_count(measured['rows_read'])} segments read, {_count(inside)} inside, "
        f"{_count(filtered['rows'])} kept)\n\n"
        + table(heads, rows)
        + f"\nSegments inside the region a second and core, ledger included: {_count(rate)}, "
        f"goal {_count(FILTER_RATE)}: {_met(rate, FILTER_RATE, at_least=True)}. "
        f"Of the segments read: {_count(measured['rows_read'] / sums[0])}.\n"
    )


def fitting(measured: Result) -> str:
    """Return the table of part (c)."""
    rows = []
    for entry in measured.values():
        alone = entry["threads"] == 1
        rate = entry["nodes"] / entry["cpu_s" if alone else "wall_s"]
        goal = FIT_RATE if alone and entry["case"] == "sparse" and not entry["causal"] else None
        kind = "with vintages" if entry["causal"] else "retrospective"
        rows.append(
            [f"{_count(entry['segments_per_node'])} segments a node, {kind}", entry["threads"]]
            + [_count(entry["nodes"]), *_times(entry), _count(rate)]
            + [_goal(goal), _met(rate, goal, at_least=True)]
        )
    heads = ("fits", "threads", "nodes", "best CPU (s)", "median", "best wall", "nodes/s")
    title = "## Node fits (nodes/s of CPU time; with two threads of wall time)\n\n"
    return title + table([*heads, "goal", "met"], rows)


def tiles(measured: Result) -> str:
    """Return the table of a tile at the default density."""
    titles = {"reading": "fitting no node", "whole": "whole: fits, vintages, checks"}
    rows = []
    for name, title in titles.items():
        job = measured[name]
        rate = measured["segments"] / job["cpu_s"]
        rows.append(
            [title, _seconds(job["cpu_s"]), _seconds(job["wall_s"]), _count(rate)]
            + [_count(job["peak_mb"])]
        )
    heads = ("tile job", "CPU (s)", "wall (s)", "segments/s", "peak (MB)")
    head = f"## A tile of {_count(measured['segments'])} segments, default density and record"
    return f"{head}\n\n{table(heads, rows)}"


def poles(measured: Result) -> str:
    """Return the table of the densest tiles."""
    rows = []
    for place, entry in measured["places"].items():
        fit, filtered = entry["fit"], entry["filter"]
        peak = max(fit["peak_mb"], filtered["peak_mb"])
        rows.append(
            [f"{place} ({entry['tile']})", _count(entry["density_km2"])]
            + [f"{entry['relative_density']:.1f}", entry["months"], _count(entry["segments"])]
            + [_count(fit["nodes"]), _seconds(fit["cpu_s"]), _seconds(fit["wall_s"])]
            + [f"{1000 * fit['cpu_s'] / fit['nodes']:.1f}", _count(fit["peak_mb"])]
            + [
                f"{fit['written_mb'] / 1024:.1f}",
                _count(entry["subset_month_segments"]),
                _count(filtered["peak_mb"]),
            ]
            + [_met(peak, TILE_MEMORY_MB, at_least=False)]
        )
    heads = [
        "tile",
        "segments/km²",
        "× default",
        "months",
        "segments",
        "nodes",
        "CPU (s)",
        "wall (s)",
    ]
    heads += ["ms a node", "tile job peak (MB)", "written (GB)", "segments in fullest month"]
    heads += ["filter job peak (MB)", f"< {_count(TILE_MEMORY_MB)} MB"]
    side = measured["tile_m"] / 1000
    return f"## Densest tiles ({side:.0f} km, from 2018-10 on)\n\n" + table(heads, rows)


def growth(measured: Result) -> str:
    """Return the tables of part (d): what was measured, and the exponents."""
    rows, slopes = [], []
    for axis, entry in measured["axes"].items():
        for case in entry["cases"]:
            for stage in ("subset", "filter", "fit"):
                if stage in case:
                    job = case[stage]
                    rows.append(
                        [axis, case["extent"], _count(case["segments"]), stage]
                        + [_seconds(job["cpu_s"]), _seconds(job["wall_s"]), _count(job["peak_mb"])]
                    )
        for stage, found in entry["exponents"].items():
            time, memory = found["time"], found["memory"]
            slopes.append(
                [axis, stage, f"{time:.3f}", _met(time, TIME_EXPONENT, at_least=False)]
                + [f"{memory:.3f}", _met(memory, MEMORY_EXPONENT, at_least=False)]
            )
    heads = ("axis", "extent", "segments", "jobs", "CPU (s)", "wall (s)", "largest peak (MB)")
    goals = (f"≤ {TIME_EXPONENT}", f"≤ {MEMORY_EXPONENT}")
    return (
        f"## Growth (tiles of {measured['tile_m'] / 1000:.0f} km)\n\n"
        + table(heads, rows)
        + "\n"
        + table(("axis", "jobs", "exponent of time", goals[0], "of memory", goals[1]), slopes)
    )


def projected(found: Result) -> str:
    """Return the table of part (e), from what :func:`benchmarks.projection.project` returns."""
    cores = found["cores"]
    rows = [
        [name, f"{_count(term['amount'])} {term['unit']}", _count_or_dash(term["rate"])]
        + [_count(term["seconds"]), f"{term['seconds'] / cores / 3600:.2f}"]
        for name, term in found["terms"].items()
    ]
    rows.append(["all", "", "", _count(found["cpu_hours"] * 3600), f"{found['hours']:.2f}"])
    heads = ("term", "amount", "a second and core", "CPU (s)", f"hours on {cores} cores")
    return (
        f"## Projection to {found['segments']:.2g} segments on {cores} cores\n\n"
        + table(heads, rows)
        + f"\n{_count(found['nodes'])} nodes of {_count(found['segments_per_node'])} segments; "
        f"goal {found['goal_hours']:g} hours: "
        f"{_met(found['hours'], found['goal_hours'], at_least=False)}.\n"
    )


def learning(measured: Result) -> str:
    """Return the tables of the learning stage."""
    wall = measured["wall_s"]
    whole = sum(wall.values())
    parts = [[name, _seconds(value), f"{value / whole:.0%}"] for name, value in wall.items()]
    parts.append(["whole", _seconds(whole), ""])
    text = (
        f"## Learning ({measured['mascons']} mascons, {measured['months']} months, "
        f"{measured['features']} features, {_count(measured['samples'])} samples; two cores)\n\n"
        + table(("part", "wall (s)", "share"), parts)
        + f"\nGoal {_count(LEARNING_S)} s: {_met(whole, LEARNING_S, at_least=False)}. "
        f"The {measured['fits']} jobs of the skill, in seconds of a core:\n\n"
    )
    rows = [
        [f"{name}: {key}", _seconds(value)]
        for name, sums in measured["skill_s"].items()
        for key, value in sorted(sums.items(), key=lambda item: -item[1])
    ]
    return text + table(("skill by", "seconds"), rows)


def dashboard(measured: Result) -> str:
    """Return the table of the dashboard: size, writing, first paint."""
    heads = ("mascons × months", "MB", "goal", "written in (s)", "first paint (s)", "goal",
             "script done (s)", "month slid (s)")  # fmt: skip
    rows = []
    for page in measured["pages"]:
        row = [f"{page['mascons']} × {page['months']}", f"{page['size_mb']:.2f}"]
        row += [_met(page["size_mb"], PAGE_MB, at_least=False), _seconds(page["write_s"])]
        if "reason" in page:
            row += [page["reason"], "–", "–", "–"]
        else:
            met = _met(page["first_paint_s"], PAINT_S, at_least=False)
            times = [_seconds(page[name]) for name in ("first_paint_s", "ready_s", "slide_s")]
            row += [times[0], met, *times[1:]]
        rows.append(row)
    goals = f"Goals: at most {PAGE_MB:g} MB, first paint within {PAINT_S:g} s. "
    return (
        "## Dashboard (one file, network off, two cores)\n\n"
        + table(heads, rows)
        + f"\n{goals}Medians of openings in a browser that was running.\n"
    )


def transfers(measured: Result) -> str:
    """Return the tables of the downloads: rates, checking again, memory, jobs."""
    rows, again = [], []
    for kind, paces in measured["sets"].items():
        for pace, entry in paces.items():
            ours, theirs = entry["cryofuse"], entry["curl"]
            share = ours["bytes_s"] / theirs["bytes_s"]
            middle = ours["bytes_median_s"] / theirs["bytes_median_s"]
            goal = TRANSFER_SHARE if pace == "held" else None
            rows.append(
                [f"{entry['files']} {kind} files, {entry['bytes'] / 1e9:.2f} GB, {pace}"]
                + [_megabytes(side[key]) for side in (theirs, ours) for key in _RATES]
                + [f"{share:.0%}", f"{middle:.0%}", _goal(goal), _met(share, goal, at_least=True)]
                + [f"{side['cpu_s'] / entry['bytes'] * 1e9:.2f}" for side in (theirs, ours)]
                + [_loads(theirs["all"] + ours["all"])]
            )
        checked = paces["unthrottled"]["again"]
        size = paces["unthrottled"]["bytes"]
        again.append(
            [f"{kind} files", _megabytes(checked["bytes_s"]), _megabytes(size / checked["cpu_s"])]
            + [_loads(checked["all"])]
        )
    heads = ["transfers", "curl best (MB/s)", "median", "until on disk", "cryofuse best (MB/s)"]
    heads += ["median", "until on disk", "share of curl", "of medians", "goal", "met"]
    heads += ["curl CPU (s/GB)", "cryofuse CPU (s/GB)", "load of the machine"]
    jobs = measured["jobs"]
    idle = jobs["steps"]["nothing left"]
    steps = [
        [step, _seconds(taken["wall_s"]), _seconds(taken["cpu_s"])]
        + [f"{(taken[key] - idle[key]) / jobs['periods']:.2f}" for key in ("wall_s", "cpu_s")]
        + [f"{taken['load']:.1f}"]
        for step, taken in jobs["steps"].items()
    ]
    step_heads = ("step", "wall (s)", "CPU (s)", "wall a job (s)", "CPU a job (s)", "load")
    return (
        f"## Transfers ({measured['parallel']} at a time, {measured['cores']} cores, the archive "
        "on the same)\n\n"
        + table(heads, rows)
        + "\n"
        + table(("everything there, one core", "wall (MB/s)", "CPU (MB/s)", "load"), again)
        + "\n"
        + table(
            ("one file (MB)", "peak (MB)"),
            [
                [_count(entry["bytes"] / 1e6), _count(entry["peak_mb"])]
                for entry in measured["memory"]
            ],
        )
        + f"\n{jobs['periods']} periods with {jobs['granules']} granules in all, a job each:\n\n"
        + table(step_heads, steps)
    )


#: Best, median, and best up to the moment when all of it is on disk.
_RATES = ("bytes_s", "bytes_median_s", "flushed_bytes_s")


def _megabytes(bytes_s: float) -> str:
    return f"{bytes_s / 1e6:.3g}" if bytes_s < 1e8 else _count(bytes_s / 1e6)


def _loads(results: Sequence[Result]) -> str:
    loads = [result["load"] for result in results]
    return f"{min(loads):.1f}–{max(loads):.1f}"


def scale_records(measured: Result) -> str:
    """Return the table of the records that were run through Snakemake."""
    rows = [
        [f"{case['months']} months", _count(case["granules"]), f"{case['bytes'] / 1e9:.2f}"]
        + [_count(case[name]) for name in ("segments", "inside", "kept", "nodes", "fitted")]
        + [case["jobs"], _count(case["wall_s"]), _count(case["cpu_s"])]
        + [_count(case["segments_s"]), _count(case["segments"] / case["cpu_s"])]
        + [f"{case['load']:.1f}"]
        for case in measured["cases"]
    ]
    heads = ["record", "granules", "GB", "segments in the files", "inside the region", "kept"]
    heads += ["nodes", "of them fitted", "jobs", "wall (s)", "CPU (s)", "segments/s of wall"]
    heads += ["a second of CPU", "load before"]
    return table(heads, rows)


def scale_shares(measured: Result) -> str:
    """Return the table of whose the core-time of the records was."""
    rows = []
    for case in measured["cases"]:
        shares = case["shares"]
        part = {name: value / shares["all"] for name, value in shares.items()}
        both = part["snakemake"] + part["start_up"]
        names = ("work", "start_up", "idle", "no_job", "late_start", "beside", "snakemake")
        rows.append(
            [f"{case['months']} months", _count(shares["all"])]
            + [f"{part[name]:.1%}" for name in names]
            + [_met(part["snakemake"], SNAKEMAKE_SHARE, at_least=False), f"{both:.1%}"]
        )
    heads = ["record", "core-seconds", "work of jobs", "(b) start-up of jobs", "(c) idle"]
    heads += ["no job runs", "late start", "main process beside jobs", "(a) Snakemake's own"]
    return table([*heads, f"< {SNAKEMAKE_SHARE:.0%}", "(a) + (b)"], rows)


def scale_rules(measured: Result) -> str:
    """Return the table of the longest record's jobs by rule."""
    case, peaks = measured["cases"][-1], measured["benchmark_peaks"]
    rows = [
        [rule, entry["jobs"], _seconds(entry["wall_s"]), _seconds(entry["wall_s"] / entry["jobs"])]
        + [f"{entry['start_s'] / entry['jobs']:.2f}", _seconds(entry["cpu_s"])]
        + [_count(entry["peak_mb"]), _count(peaks[rule]) if rule in peaks else "–"]
        for rule, entry in case["rules"].items()
    ]
    rows.append(
        ["Snakemake itself", "–", "–", "–", "–", "–", _count(case["main_peak_mb"]), "–"],
    )
    heads = (f"jobs of {case['months']} months", "jobs", "all (s)", "a job (s)", "its start-up (s)")
    more = ("CPU (s)", "largest peak, kernel (MB)", "benchmark files (MB)")
    return table([*heads, *more], rows)


def scale_growth(measured: Result) -> str:
    """Return the table of exponents of growth with the segments of the record."""
    found = measured["growth"]
    if not found:
        return "One record: no growth.\n"
    rows = [
        [name]
        + [f"{entry[key]:.2f}" if key in entry else "–" for key in ("time", "work", "memory")]
        for name, entry in found.items()
    ]
    return table(("growth", "exponent of time", "start-up left out", "of memory"), rows)


def scale_own(measured: Result) -> str:
    """Return the tables of Snakemake's own time: by commands, and with fewer tile jobs."""
    own = measured["cluster"]["own_time"]
    shares = ("core_time", "no_job", "outside", "longer", "with_start_up")
    rows = [
        [f"{entry['months']} months: {entry['part']}", entry["jobs"], _count(entry["wall_s"])]
        + [f"{entry[name]:.1%}" for name in shares]
        + [_met(entry["core_time"], SNAKEMAKE_SHARE, at_least=False)]
        + [_seconds(entry["main_cpu_s"])]
        for entry in own
    ]
    heads = ["commands", "jobs", "wall (s)", "(a) of core-time", "no job runs, of wall time"]
    heads += [
        "of it before and after all jobs",
        "longer by, of wall time",
        "(a) + (b) of core-time",
    ]
    text = table([*heads, f"(a) < {SNAKEMAKE_SHARE:.0%}", "CPU of the main process (s)"], rows)
    costs = measured["cluster"]["own"]
    text += (
        f"\nA command takes {costs['outside_s']:.1f} s before its first job and after its last. A "
        f"job takes {1000 * costs['cpu_s']:.0f} ms of the main process, and "
        f"{1000 * costs['wait_s']:.0f} ms in which a core waits for it.\n\n"
    )
    rows = [
        [f"{entry['side_m'] / 1000:.0f} km", entry["tiles"], _count(entry["core_s"])]
        + [f"{entry['core_time']:.1%}", f"{entry['with_start_up']:.1%}"]
        for entry in measured["cluster"]["larger_tiles"]
    ]
    heads = ["reckoned: tiles of", "tile jobs", "core-seconds", "(a)", "(a) + (b)"]
    return text + table(heads, rows)


def scale_check(measured: Result) -> str:
    """Return the table of measured wall times beside those of the simulation."""
    rows = []
    for entry in measured["cluster"]["check"]:
        rows.append(
            [f"{entry['months']} months, whole", "all records", _count(entry["wall_s"])]
            + [_count(entry["reckoned_s"]), f"{entry['reckoned_s'] / entry['wall_s']:.2f}", "in"]
        )
        if "learned_to" in entry:
            for part in ("months", "tiles"):
                took, foretold = entry[f"new_{part}_s"], entry[f"foretold_{part}_s"]
                rows.append(
                    [f"{entry['months']} months, its new {part}"]
                    + [f"records to {entry['learned_to']} months", _count(took)]
                    + [_count(foretold), f"{foretold / took:.2f}", "**out**"]
                )
    heads = ("record", "costs learned from", "measured wall (s)", "simulated (s)", "ratio")
    return table([*heads, "of sample"], rows)


def scale_tiles(measured: Result) -> str:
    """Return the table of what tile jobs take for a kept segment, measured and for all months."""
    rows = []
    rates = measured["cluster"]["tile_rates"]
    for entry in rates:
        for part in ("all", "fullest"):
            tiles = entry[part]
            rows.append(
                [f"{entry['months']} months, {tiles['tiles']} tiles", _count(tiles["segments"])]
                + [f"{tiles['measured_us']:.2f}", "measured here, two at a time"]
            )
    for part in ("all", "fullest"):
        tiles = rates[-1][part]
        count = _count(tiles["full_segments"])
        title = f"75 months, {tiles['tiles']} tiles"
        rows.append([title, count, f"{tiles['modelled_us']:.2f}", "costs of the longest record"])
        rows.append([title, count, f"{tiles['alone_us']:.2f}", "full tiles, measured alone"])
    return table(("tiles", "kept segments", "µs a kept segment", "from"), rows)


def scale_cluster(measured: Result) -> str:
    """Return the tables of whole runs on nodes."""
    lines = []
    for name, region in measured["cluster"]["regions"].items():
        jobs, reckoned = (sum(region[key].values()) for key in ("jobs", "reckoned_jobs"))
        moved = region["moved_bytes"]
        aside = moved["subset_aside"] + moved["tile_aside"]
        longest = "; ".join(
            f"{rule} {entry['minutes']:.1f} of {entry['asked']}"
            for rule, entry in region["longest"].items()
        )
        lines.append(
            f"**{name.capitalize()}**, 2018-10 to 2024-12: {region['segments']:.3g} segments in "
            f"the files, {region['bytes'] / 1e9:,.0f} GB, {_count(region['nodes'])} nodes; the "
            f"fullest tile keeps {region['largest_tile']:.2g} segments. Jobs: {jobs} in a dry run "
            f"({region['dry_run_s']:.0f} s), {reckoned} in the model, "
            f"{_differences(region)}. Read and written: {sum(moved.values()) / 1e12:.2f} TB, of "
            f"that {aside / 1e12:.2f} TB put aside ({moved['subset_aside'] / 1e12:.2f} by subset "
            f"jobs, {moved['tile_aside'] / 1e12:.2f} by tile jobs; the largest of each puts "
            f"{region['month_aside_bytes'] / 1e9:.1f} and {region['tile_aside_bytes'] / 1e9:.1f} "
            f"GB aside). Longest jobs, in minutes of those asked for: {longest}. "
            f"Snakemake's own share (a) of the whole record on {measured['cores']} cores: "
            f"{region['own_share']:.1%}.\n"
        )
        rows = [
            [title, f"{laid['hours']:.2f}", f"{laid['core_hours']:.1f}", laid["most_jobs"]]
            + [f"{laid['node_peak_gb']:.0f}", f"{laid['critical_hours']:.2f}"]
            + [f"{laid['snakemake_hours']:.2f}"]
            + [
                f"{bound / FILE_SYSTEM_BYTES_S / 3600:.2f}"
                for bound in (sum(moved.values()), _shared(moved))
            ]
            for title, laid in region["machines"].items()
        ]
        heads = ["machine", "hours", "core-hours", "jobs at once", "fullest node (GB asked for)"]
        heads += [
            "critical path (h)",
            "of all Snakemake (h)",
            f"file system at {FILE_SYSTEM_BYTES_S / 1e9:g} GB/s (h)",
        ]
        lines.append(table([*heads, "without what is put aside"], rows))
        chain = list(region["machines"].values())[-1]["critical_path"]
        lines.append(f"Critical path: {', '.join(chain)}.\n")
    return "\n".join(lines)


def _shared(moved: Result) -> float:
    return moved["granules"] + moved["subsets"] + moved["filtered"]


def _differences(region: Result) -> str:
    counted, reckoned = region["jobs"], region["reckoned_jobs"]
    found = [
        f"{rule} {reckoned.get(rule, 0) - counted.get(rule, 0):+d}"
        for rule in sorted({*counted, *reckoned})
        if reckoned.get(rule, 0) != counted.get(rule, 0)
    ]
    return f"**which differs: {', '.join(found)}**" if found else "the same of every rule"


def scale_fits(measured: Result) -> str:
    """Return what the fits of the densest tiles are away from the formula."""
    fits = measured["fits"]
    if fits["median_m"] is None:
        return "No fits.\n"
    return (
        f"Monthly heights of {_count(fits['fitted'])} fitted nodes of the densest tiles against "
        f"the formula: median {fits['median_m']:.3f} m, spread {fits['spread_m']:.3f} m "
        "(1.48 × MAD).\n"
    )


#: Tables of part scale by the name of their place in docs/scaling.md.
SCALE_TABLES = {
    "records": scale_records,
    "shares": scale_shares,
    "own": scale_own,
    "rules": scale_rules,
    "growth": scale_growth,
    "fits": scale_fits,
    "check": scale_check,
    "tiles": scale_tiles,
    "cluster": scale_cluster,
}


def scale(measured: Result) -> str:
    """Return the tables of a run through Snakemake and of what a cluster would take."""
    text = f"## Scale ({measured['region']}, {measured['cores']} cores, through Snakemake)\n\n"
    return text + "\n".join(part(measured) for part in SCALE_TABLES.values())


_SECTIONS = {
    "read": reading,
    "filter": filtering,
    "fits": fitting,
    "tiles": tiles,
    "poles": poles,
    "growth": growth,
    "learning": learning,
    "transfers": transfers,
    "scale": scale,
    "dashboard": dashboard,
}


def markdown(results: dict[str, Result], projection: Result | None) -> str:
    """Return the results of the parts that were measured as Markdown.

    Parameters
    ----------
    results
        What each part's JSON file holds.
    projection
        What :func:`benchmarks.projection.project` returns, if it can be had.
    """
    first = next(iter(results.values()))
    machine = first["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    codes = sorted({result["machine"]["code"][:12] for result in results.values()})
    lines = [
        "# Benchmarks\n",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GiB; Python "
        f"{machine['python']}, HDF5 {machine['hdf5']}, {packages}; code {', '.join(codes)}. "
        "Each measurement alone in a fresh process, on one core where not said otherwise.\n",
    ]
    if first["scale"] > 1:
        lines.append(
            f"**Quick run, {first['scale']} times smaller than full size**: it shows that all of "
            "it runs. Overheads weigh more, and jobs stay below the batches that bound their "
            "memory: no goal is decided here.\n"
        )
    lines += [_SECTIONS[part](result["measured"]) for part, result in results.items()]
    if projection is not None:
        lines.append(projected(projection))
    return "\n".join(lines)
