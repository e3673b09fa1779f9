"""The arithmetic of the run at scale: schedules by hand, shares by hand, granules by formula."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
import shapely

from benchmarks import __main__ as command
from benchmarks import fleet, nodes, scale, scaling_docs, scene, watch
from benchmarks.nodes import Job, Machine, critical_path, schedule
from benchmarks.watch import Life, Run, share_out
from cryofuse.atl06 import read_granule
from cryofuse.elevation.scatter import RECORD
from cryofuse.geo import project
from cryofuse.simulate import orbit
from cryofuse.tables import SEGMENTS

CRS = "EPSG:3413"
WIDE = Machine(nodes=1, cores=8, memory_mb=1000.0, limit=100)


def jobs_of(*rows):
    return [Job(name, "rule", seconds, memory, needs) for name, seconds, memory, needs in rows]


def machine(**other):
    return Machine(**({"nodes": 1, "cores": 2, "memory_mb": 1000.0, "limit": 100} | other))


# ---------------------------------------------------------------------- schedules


def test_jobs_fill_the_cores_in_the_order_given():
    found = schedule(jobs_of(*[(name, 10.0, 1.0, ()) for name in "abc"]), machine())
    assert found.begins == {"a": 0.0, "b": 0.0, "c": 10.0}
    assert (found.wall_s, found.most_jobs) == (20.0, 2)


def test_a_job_waits_for_what_it_needs_and_takes_the_next_free_core():
    rows = [("a", 5.0, 1.0, ()), ("b", 7.0, 1.0, ()), ("c", 5.0, 1.0, ("a",))]
    rows += [("d", 1.0, 1.0, ("a", "b", "c"))]
    found = schedule(jobs_of(*rows), machine())
    assert found.ends == {"a": 5.0, "b": 7.0, "c": 10.0, "d": 11.0}


def test_memory_keeps_jobs_apart_where_cores_would_not():
    rows = [(name, 10.0, 600.0, ()) for name in "ab"] + [("c", 3.0, 300.0, ())]
    alone = schedule(jobs_of(*rows), WIDE)
    # The small one finds room beside the first.
    assert alone.begins == {"a": 0.0, "c": 0.0, "b": 10.0}
    assert alone.node_peak_mb == 900.0
    assert schedule(jobs_of(*rows), machine(nodes=2)).wall_s == 10.0


def test_the_queue_limit_counts_jobs_and_not_cores():
    rows = [(name, 10.0, 1.0, ()) for name in "abcd"]
    assert schedule(jobs_of(*rows), machine(cores=8, limit=1)).wall_s == 40.0
    assert schedule(jobs_of(*rows), machine(cores=8, limit=3)).wall_s == 20.0


def test_jobs_are_handed_over_one_after_the_other_and_start_late():
    rows = [(name, 10.0, 1.0, ()) for name in "abc"]
    found = schedule(jobs_of(*rows), machine(cores=8, submit_s=1.0, start_s=4.0, begin_s=100.0))
    assert found.begins == {"a": 101.0, "b": 102.0, "c": 103.0}
    assert found.wall_s == 117.0


def test_every_job_runs_once_and_never_more_than_there_is_room_for():
    rng = np.random.default_rng(3)
    rows = []
    for number in range(120):
        before = np.unique(rng.integers(0, number, 2)) if number % 3 else []
        needs = tuple(f"{n}" for n in before)
        rows.append((f"{number}", float(rng.uniform(1, 9)), float(rng.integers(100, 500)), needs))
    jobs, place = jobs_of(*rows), machine(nodes=3, cores=4, limit=9)
    found = schedule(jobs, place)
    assert set(found.ends) == {job.name for job in jobs}
    for at in found.begins.values():
        running = [j for j in jobs if found.begins[j.name] <= at < found.ends[j.name]]
        assert len(running) <= 9
        assert sum(job.memory_mb for job in running) <= 3000.0
    for job in jobs:
        assert all(found.ends[name] <= found.begins[job.name] for name in job.needs)
        assert found.ends[job.name] - found.begins[job.name] == pytest.approx(job.seconds)
    # No schedule beats its longest chain, nor all cores at work throughout.
    bound = max(critical_path(jobs, place)[0], sum(job.seconds for job in jobs) / 12)
    assert bound <= found.wall_s <= 2 * bound


def test_a_job_of_several_cores_waits_until_they_are_free():
    jobs = [Job("a", "rule", 10.0, 1.0), Job("b", "rule", 5.0, 1.0, cores=3)]
    assert schedule(jobs, machine(cores=4)).begins == {"a": 0.0, "b": 0.0}
    assert schedule(jobs, machine(cores=3)).begins == {"a": 0.0, "b": 10.0}
    with pytest.raises(ValueError, match="b asks for more cores"):
        schedule(jobs, machine(cores=2))


def test_local_jobs_run_beside_the_nodes_without_their_start():
    jobs = [Job(name, "rule", 10.0, 5000.0, local=True) for name in "abc"]
    jobs += [Job("d", "rule", 10.0, 1.0, ("c",)), Job("e", "rule", 10.0, 1.0)]
    place = machine(cores=1, start_s=4.0, local_cores=2)
    found = schedule(jobs, place)
    # Two at a time, more memory than a node has or not; the node has a core for one job.
    assert found.begins == {"a": 0.0, "b": 0.0, "c": 10.0, "e": 0.0, "d": 20.0}
    assert found.ends["d"] == 20 + 4 + 10
    assert (found.most_jobs, found.node_peak_mb) == (1, 1.0)
    assert critical_path(jobs, place)[0] == 10 + 4 + 10
    laid = nodes.lay(jobs, place)
    assert laid["core_hours"] == pytest.approx(2 * 14 / 3600)
    assert laid["hours"] == pytest.approx(34 / 3600)
    # They count as jobs in the queue, and without a place of their own they need a node's.
    assert schedule(jobs, machine(cores=1, limit=1, local_cores=2)).wall_s == 50.0
    with pytest.raises(ValueError, match="a asks for more memory"):
        schedule(jobs, machine())


def test_what_can_never_run_is_refused():
    with pytest.raises(ValueError, match="big asks for more memory"):
        schedule(jobs_of(("big", 1.0, 2000.0, ())), machine())
    with pytest.raises(ValueError, match="wait for each other"):
        schedule(jobs_of(("a", 1.0, 1.0, ("b",)), ("b", 1.0, 1.0, ("a",))), machine())


def test_the_critical_path_is_the_longest_chain():
    rows = [("a", 5.0, 1.0, ()), ("b", 7.0, 1.0, ()), ("c", 5.0, 1.0, ("a",))]
    rows += [("d", 1.0, 1.0, ("b", "c"))]
    length, chain = critical_path(jobs_of(*rows), machine(submit_s=0.5, start_s=1.5))
    assert length == 5 + 5 + 1 + 3 * 2
    assert [job.name for job in chain] == ["a", "c", "d"]


# ---------------------------------------------------------------------- costs of jobs


def measured_run():
    """A record of one month and two tiles, as if jobs had cost exactly what is said here."""

    def life(rule, target, start, start_up, work):
        end = start + start_up + work
        return vars(Life(rule, target, start, start + start_up, end, end - start, 100.0))

    month = {"month": "2020-01", "segments": 1000, "inside": 800, "kept": 500, "bytes": 40_000}
    month |= {"subset_bytes": 30_000, "filtered_bytes": 20_000, "granules": 7, "write_s": 0.0}
    chain = [
        life("list_granules", "2020-01", 5.0, 1.0, 1.0),
        life("subset_granules", "2020-01", 7.0, 2.0, 10.0),
        life("filter_segments", "2020-01", 19.0, 2.0, 4.0),
    ]
    shares = {"all": 52.0, "no_job": 12.0, "late_start": 0.0, "beside": 0.0, "snakemake": 12.0}
    shares |= {"idle": 20.0, "start_up": 5.0, "work": 15.0}
    known = {"begin_s": 5.0, "close_s": 1.0, "cpu_s": 9.0, "main_peak_mb": 99.0, "load": 0.5}
    piece = {"months": [month], "jobs": chain, "wall_s": 26.0, "main_cpu_s": 4.0, **known}
    # Three seconds a thousand segments, two a hundred nodes.
    tiles = {
        "t1": {"segments": 1000, "nodes": 100, "fitted": 0, "fitted_segments": 0},
        "t2": {"segments": 2000, "nodes": 100, "fitted": 0, "fitted_segments": 0},
    }
    fits = [life("fit_nodes", "t1", 5.0, 1.0, 5.0), life("fit_nodes", "t2", 5.0, 1.0, 8.0)]
    run = {"tiles": tiles, "jobs": fits, "wall_s": 15.0, "main_cpu_s": 3.5, **known}
    on_tiles = {"all": 30.0, "no_job": 12.0, "late_start": 0.0, "beside": 1.0, "snakemake": 13.0}
    on_tiles |= {"idle": 3.0, "start_up": 2.0, "work": 12.0}
    return {
        "cores": 2,
        "region": "greenland",
        "pieces": [piece | {"shares": shares}],
        "tiles": {"1": run | {"shares": on_tiles}},
    }


def two_records():
    """A second month and the same tiles again, each twice as slow as what was known of it."""
    measured = measured_run()
    piece, tiles = (json.loads(json.dumps(measured[key])) for key in ("pieces", "tiles"))
    slow = piece[0]
    slow["wall_s"] = 6 + 2 * 20.0
    for number, (start, end) in enumerate(((5, 9), (9, 33), (33, 45))):
        life = slow["jobs"][number]
        length = life["work"] - life["start"]
        life |= {"start": start, "work": start + 2 * length, "end": end}
    for life in tiles["1"]["jobs"]:
        life |= {"work": 5 + 2 * (life["work"] - 5), "end": 5 + 2 * (life["end"] - 5)}
    fits = tiles["1"] | {"wall_s": 6 + 2 * 9.0}
    return measured | {
        "pieces": [*measured["pieces"], slow],
        "tiles": {**measured["tiles"], "2": fits},
    }


def test_costs_are_those_of_the_measured_jobs():
    costs = nodes.learn_costs(measured_run())
    assert (costs.listing, costs.subset, costs.filter) == (1.0, 0.01, 0.005)
    assert costs.start["subset_granules"] == 2.0
    assert costs.tile == pytest.approx((0.003, 0.02, 0.0, 0.0))
    tile = {"segments": 3000, "nodes": 50, "fitted": 0, "fitted_segments": 0}
    assert costs.tile_s(tile) == pytest.approx(11)


def test_snakemakes_own_costs_are_what_is_there_once_and_what_each_job_adds():
    measured = measured_run()
    # Half a second less for one job less of the main process.
    assert nodes.learn_own(measured) == nodes.Own(6.0, 0.0, pytest.approx(0.5))
    measured["tiles"]["1"]["shares"]["late_start"] = 3.0
    assert nodes.learn_own(measured).wait_s == pytest.approx(3 / 5)


def test_a_schedule_of_exact_costs_has_the_measured_wall_time():
    (found,) = nodes.check(measured_run())
    assert found == {"months": 1, "wall_s": 26 + 15, "reckoned_s": pytest.approx(26 + 15)}


def test_a_longer_record_is_foretold_by_shorter_ones_alone():
    measured = two_records()
    first, second = nodes.check(measured)
    assert second["learned_to"] == 1
    assert (second["new_months_s"], second["new_tiles_s"]) == (46.0, 24.0)
    # It took twice as long as the first month had said.
    assert second["foretold_months_s"] == pytest.approx(26.0)
    assert second["foretold_tiles_s"] == pytest.approx(15.0)
    # With the costs of both a month takes half as much again: 20 s and 40 s, 30 s each.
    assert second["wall_s"] == 26 + 46 + 24
    assert second["reckoned_s"] == pytest.approx(2 * (6 + 30) + 6 + 1.5 * 9)
    assert first["reckoned_s"] == pytest.approx(6 + 30 + 6 + 1.5 * 9)


def test_snakemakes_time_is_held_against_core_time_and_wall_time():
    months, tiles, both = nodes.own_time(measured_run())
    assert (months["core_time"], tiles["core_time"]) == (12 / 52, 13 / 30)
    assert both["core_time"] == 25 / 82
    assert both["with_start_up"] == (25 + 7) / 82
    # The chain takes 20 of 26 s, the longer of the tiles 9 of 15.
    assert (months["longer"], tiles["longer"]) == (6 / 26, 6 / 15)
    assert both["longer"] == 12 / 41
    assert [entry["jobs"] for entry in (months, tiles, both)] == [3, 2, 5]


def test_without_snakemake_jobs_wait_for_what_they_wait_for():
    run = measured_run()["tiles"]["1"]
    last = vars(Life("summarise_checks", "summarise_checks", 14.5, 15.0, 17.0, 0.0, 0.0))
    run["jobs"] = [*run["jobs"], last]
    assert nodes.bare_wall_s(run, 2) == 9 + 2.5
    assert nodes.bare_wall_s(run, 1) == 6 + 9 + 2.5


def test_larger_tiles_save_start_ups_and_bookkeeping():
    measured = measured_run()
    run = measured["tiles"]["1"]
    # 231 jobs: 2 s of all cores once, 0.4 s each beside the others, 1 s of start-up each.
    count = 231
    run["tiles"] = {f"t{number}": {} for number in range(count)}
    run["jobs"] = [{}] * count
    run |= {"begin_s": 0.5, "close_s": 0.5}
    run["shares"] |= {"all": 1000.0, "snakemake": 2 + 0.4 * count, "start_up": 1.0 * count}
    same, _, wide = nodes.larger_tiles(measured)
    assert same["tiles"] == count
    assert same["core_time"] == pytest.approx((2 + 0.4 * count) / 1000)
    fewer = count - wide["tiles"]
    assert 140 < fewer < 175
    assert wide["core_s"] == pytest.approx(1000 - 1.4 * fewer)
    assert wide["core_time"] == pytest.approx((2 + 0.4 * wide["tiles"]) / wide["core_s"])


def test_longer_jobs_leave_snakemake_a_smaller_share():
    jobs = jobs_of(*[(name, 10.0, 1.0, ()) for name in "abcd"])
    # Twice three seconds once, half a second and a quarter of each job.
    assert nodes.own_share(jobs, nodes.Own(3.0, 0.25, 0.5), 2) == 9 / 49


def test_full_tiles_cost_what_was_measured_and_in_between_by_density():
    for segments, seconds in nodes.FULL_TILES:
        assert nodes.full_tile_s(segments) == pytest.approx(seconds)
    assert nodes.full_tile_s(1.47e6) == pytest.approx(3.5)
    assert nodes.full_tile_s(0.0) == 0.0


def test_a_node_fits_the_segments_of_its_circle():
    tile = nodes.full_tile(8e6, 10_000.0)
    assert tile["nodes"] == tile["fitted"] == 10_000
    assert tile["fitted_segments"] / tile["fitted"] == pytest.approx(np.pi * 800)


def test_bytes_put_aside_are_those_of_the_columns_and_of_margins():
    bits = sum(
        32 if str(field.type).startswith("dictionary") else field.type.bit_width
        for field in SEGMENTS.empty().schema
    )
    assert bits / 8 < nodes.ASIDE_BYTES < bits / 8 + len(SEGMENTS.empty().schema) / 8
    # 8 million are cut into 4 × 4 squares of 25 km, each with a kilometre (and a metre) about it.
    assert nodes.RECORD_BYTES == RECORD.itemsize == 56
    assert nodes.aside_bytes(8e6) == pytest.approx(56 * 8e6 * (27.002 / 25) ** 2)


def test_a_region_has_three_jobs_a_month_one_a_tile_and_a_summary():
    costs = nodes.learn_costs(measured_run())
    months = {"2019-01": 1e6, "2019-02": 2e6}
    tiles = {
        name: nodes.full_tile(size, 50.0) for name, size in zip("abc", (1e6, 2e6, 0.0), strict=True)
    }
    jobs = nodes.region_jobs(costs, months, tiles)
    assert len(jobs) == 3 * 2 + 3 + 1
    fits = [job for job in jobs if job.rule == "fit_nodes"]
    assert all(set(job.needs) == {f"filter_segments {month}" for month in months} for job in fits)
    # Of a month 0.01 and 0.005 s a segment, of a tile 0.003 a kept one and 0.02 a node: far more
    # than what it takes alone.
    assert nodes.full_tile_s(2e6) < 6
    chain = [1 + 1, 2 + 2e4, 2 + 1e4, 1 + 6000 + 1, 1]
    assert critical_path(jobs, machine())[0] == pytest.approx(sum(chain))
    quick = replace(costs, tile=(0.0, 0.0, 0.0, 0.0))
    fits = [job for job in nodes.region_jobs(quick, months, tiles) if job.rule == "fit_nodes"]
    assert [job.seconds for job in fits] == pytest.approx(
        [1 + nodes.full_tile_s(1e6), 1 + nodes.full_tile_s(2e6), 1]
    )


# ---------------------------------------------------------------------- whose time it was


def test_shares_add_up_to_the_core_time_by_hand():
    lives = [
        Life("a", "1", 4.0, 5.0, 10.0, 0.0, 0.0),
        Life("a", "2", 4.0, 5.0, 8.0, 0.0, 0.0),
        Life("a", "3", 9.0, 10.0, 12.0, 0.0, 0.0),
    ]
    # The third could start when the second had ended, at 8, and did at 9. The main process
    # computes for half a second while two jobs run, and as long while one core has nothing to do.
    looks = [(0.0, 0.0), (4.0, 3.0), (8.0, 3.5), (9.0, 3.8), (10.0, 3.8), (12.0, 4.3), (13.0, 5.0)]
    run = Run(13.0, 0.0, lives, looks, 0.0)

    def ready(lives, at):
        return int(8 <= at < 9)

    found = share_out(run, 2, ready)
    assert found["all"] == 26.0
    assert found["no_job"] == 2 * 4 + 2 * 1
    assert found["late_start"] == 1.0
    assert found["beside"] == pytest.approx(0.5 + 0.5)
    assert found["start_up"] == 3.0
    assert found["idle"] == pytest.approx(2.0 - 0.5)
    assert found["work"] == pytest.approx(5 + 3 + 2 - 0.5)
    parts = ("snakemake", "start_up", "idle", "work")
    assert sum(found[name] for name in parts) == pytest.approx(26.0)


def test_shares_are_refused_where_jobs_outnumber_the_cores():
    lives = [Life("a", str(number), 1.0, 1.5, 3.0, 0.0, 0.0) for number in range(3)]
    with pytest.raises(ValueError, match="3 jobs live on 2 cores"):
        share_out(Run(4.0, 0.0, lives, [(0.0, 0.0)], 0.0), 2, lambda lives, at: 0)


def test_only_jobs_whose_input_is_there_could_start():
    expected = [(rule, "2020-01") for rule in scale.RULES[:3]] + [("list_granules", "2020-02")]
    ready = scale.startable(expected)
    lives = [
        Life("list_granules", "2020-01", 1.0, 1.5, 2.0, 0.0, 0.0),
        Life("subset_granules", "2020-01", 2.5, 3.0, 9.0, 0.0, 0.0),
    ]
    assert ready([], 0.5) == 2
    assert [ready(lives, at) for at in (1.2, 2.2, 5.0, 9.5)] == [1, 2, 1, 2]


def test_the_summary_waits_for_every_tile():
    ready = scale.startable([("fit_nodes", "a"), ("summarise_checks", "summarise_checks")])
    life = Life("fit_nodes", "a", 1.0, 2.0, 3.0, 0.0, 0.0)
    assert [ready([life], at) for at in (0.5, 2.5, 3.5)] == [1, 0, 1]


def test_pieces_hold_every_month_once_and_end_with_each_record():
    found = scale.pieces([1, 3, 12])
    assert [month for piece in found for month in piece] == list(range(12))
    assert {1, 3, 12} <= {piece.stop for piece in found}
    assert max(len(piece) for piece in found) == scale.PIECE_MONTHS


def test_a_record_without_room_is_refused_before_it_begins(tmp_path):
    with pytest.raises(OSError, match=r"100000 months need \d+: set TMPDIR"):
        scale.check_room(str(tmp_path), 100_000, 1)
    scale.check_room(str(tmp_path), 1, 10_000)


# ---------------------------------------------------------------------- processes

#: A leader that ends when it is asked to, with one child that does and one that does not.
TREE = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); "
deaf += "time.sleep(60)"
children = [subprocess.Popen(["sleep", "60"])]
children += [subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)]
children[1].stdout.readline()
open("pids", "w").write(" ".join(str(child.pid) for child in children))
"""


def living(pids):
    """Return which processes run: what has ended and waits for its parent does not."""
    found = []
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as file:
                state = file.read().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def written_pids(folder):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if (folder / "pids").exists() and (folder / "pids").read_text():
            return [int(word) for word in (folder / "pids").read_text().split()]
        time.sleep(0.02)
    raise AssertionError("the children have not started")


def test_a_group_is_asked_to_end_and_then_killed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", TREE + "time.sleep(60)"], cwd=tmp_path, start_new_session=True
    )
    pids = written_pids(tmp_path)
    assert living(pids) == pids
    watch.end_group(process, grace_s=0.5)
    # The leader took its time to say that it was asked: it was not killed.
    assert process.returncode == 1
    assert living(pids) == []


def test_a_stopped_run_leaves_no_job_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "GRACE_S", 0.5)

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, stop)
    tell = f"import os; os.kill({os.getpid()}, signal.SIGUSR1); time.sleep(60)"
    try:
        with pytest.raises(KeyboardInterrupt):
            watch.run_watched([sys.executable, "-c", TREE + tell], tmp_path, dict(os.environ), 1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert living(written_pids(tmp_path)) == []


def test_wrong_months_are_one_line(capsys, monkeypatch):
    for words, said in (
        (["scale", "--months", "3", "0"], "--months 0: a record has one month at least"),
        (["read", "--months", "3"], "--months is of part scale, which is not asked for"),
    ):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *words])
        with pytest.raises(SystemExit):
            command.main()
        assert said in capsys.readouterr().err.splitlines()[-1]


# ---------------------------------------------------------------------- granules


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    """A box of 1° × 4° in the middle of Greenland."""
    path = tmp_path_factory.mktemp("region") / "box.geojson"
    path.write_text(shapely.to_geojson(shapely.box(-42.0, 74.0, -38.0, 75.0)))
    return str(path)


def test_every_track_comes_once_in_three_months(region):
    found = fleet.passes(region, CRS)
    months = np.arange(np.datetime64("2020-02"), np.datetime64("2020-05"))
    listed = [granule for month in months for granule in fleet.granules_of(found, month)]
    for month in months:
        starts = [granule.start for granule in fleet.granules_of(found, month)]
        assert all(start.astype("M8[M]") == month for start in starts)
    # From February to April a leap year has 90 of the cycle's 91 days.
    assert len(listed) == pytest.approx(len(found), abs=len(found) / 20)
    keys = [(granule.path.rgt, granule.path.orbit_region) for granule in listed]
    assert len(set(keys)) == len(keys)


def test_a_written_granule_is_read_whole_and_follows_the_formula(region, tmp_path):
    granule = fleet.granules_of(fleet.passes(region, CRS), np.datetime64("2020-02"))[0]
    rows, size = fleet.write_granule(str(tmp_path), granule, CRS, clear_share=0.75)
    path = tmp_path / granule.name
    assert path.stat().st_size == size
    table, ledger = read_granule(path)
    assert table.num_rows == rows
    assert not [row for row in ledger if row["filter"] in ("unreadable", "name_mismatch")]
    found = table.to_pandas()
    x_m, y_m = project(found.longitude.to_numpy(), found.latitude.to_numpy(), CRS)
    # An ascending or descending line over the box at 6.9 km/s and a number every 20 m.
    beam = found[found.beam == "gt2l"].sort_values("segment_id")
    steps = np.diff(beam.segment_id)
    bx, by = (values[beam.index] for values in (x_m, y_m))
    scale_of_map = np.hypot(np.diff(bx), np.diff(by)) / (steps * orbit.SEGMENT_M)
    assert scale_of_map == pytest.approx(0.99, abs=0.02)
    missing = 1 - beam.shape[0] / (steps.sum() + 1)
    assert missing == pytest.approx(0.25, abs=0.08)
    truth = scene.topography(x_m, y_m) + scene.change(x_m, y_m, 20.1)
    left = (found.height_m - truth).dropna()
    assert abs(left.median()) < 0.1
    assert 0.05 < 1.4826 * (left - left.median()).abs().median() < 0.12
    assert found.height_m.isna().mean() == pytest.approx(scene.FILL_SHARE, abs=0.03)


def test_chunks_are_the_products_own(region, tmp_path):
    granule = fleet.granules_of(fleet.passes(region, CRS), np.datetime64("2020-02"))[0]
    fleet.write_granule(str(tmp_path), granule, CRS, clear_share=1.0)
    with h5py.File(tmp_path / granule.name) as file:
        # HDF5's own filter pipeline inflates and unshuffles what was packed here.
        group = file["gt1l/land_ice_segments"]
        numbers = group["segment_id"][:]
        assert (np.diff(numbers) == 1).all()
        assert group["fit_statistics/n_fit_photons"].shuffle
        assert group["h_li"].chunks == (fleet.CHUNK,)
        assert group["latitude"][:].min() > 73.8


# ---------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def result():
    """A small result with its dry runs, as the JSON file of a run holds it."""
    measured = two_records()
    tile = "x0_y-20"
    for run in measured["tiles"].values():
        # The tiles of the record are tiles of Greenland.
        run["tiles"] = {tile: run["tiles"]["t1"], "x1_y-20": run["tiles"]["t2"]}
        for life, name in zip(run["jobs"], run["tiles"], strict=True):
            life["target"] = name
    measured["cases"] = [scale.case_of(measured, months) for months in (1, 2)]
    measured["growth"] = scale.exponents(measured["cases"])
    measured["benchmark_peaks"] = {"fit_nodes": 90.0}
    measured["fits"] = {"nodes": 9, "fitted": 7, "median_m": 0.25, "spread_m": 0.5}
    jobs = dict.fromkeys(("list_granules", "subset_granules", "filter_segments"), 75)
    jobs |= {"fit_nodes": 230, "summarise_checks": 1}
    dry = {"jobs": jobs, "dry_run_s": 7.0}
    measured["cluster"] = {"regions": {"greenland": dry}}
    packages = {"numpy": "1.2.3"}
    machine = {"packages": packages, "cores": 2, "processor": "a", "memory_gb": 3, "python": "4"}
    return {
        "machine": machine | {"code": "0123456789abcdef"},
        "scale": 1,
        "seconds": 120.0,
        "measured": json.loads(json.dumps(measured)),
    }


def test_the_page_is_filled_from_what_was_measured(result):
    page = scaling_docs.fill(scaling_docs.PAGE.read_text(), result)
    assert scaling_docs.fill(page, result) == page
    parts = page.split("<!-- scale: ")
    tables = {part.split(" -->")[0]: part.split("-->\n")[1].split("<!--")[0] for part in parts[1:]}
    assert set(tables) == {*scaling_docs.SCALE_TABLES, "machine"}
    assert "2 minutes" in tables["machine"]
    # 25 of 82 core-seconds, as by hand above, and the same again in the second month.
    assert "| 1 months: all | 5 | 41 | 30.5% |" in tables["own"]
    assert "| 1 months, whole | all records | 41 | 56 | 1.35 | in |" in tables["check"]
    assert (
        "| 2 months, its new tiles | records to 1 months | 24 | 15 | 0.62 | **out** |"
        in (tables["check"])
    )
    # 13 s for 3000 kept segments; a full mean tile alone takes 2.4 µs.
    assert (
        "| 1 months, 2 tiles | 3 000 | 4333.33 | measured here, two at a time |"
        in (tables["tiles"])
    )
    assert "| 2.38 | full tiles, measured alone |" in tables["tiles"]
    assert (
        "456 in a dry run (7 s), 457 in the model, **which differs: fit_nodes +1**"
        in (tables["cluster"])
    )
    assert "median 0.250 m, spread 0.500 m" in tables["fits"]


def test_traffic_is_what_each_stage_reads_and_writes(result):
    measured = result["measured"]
    dry = nodes.known_dry_runs(measured)
    region = nodes.reckon(measured, dry)["regions"]["greenland"]
    moved, segments = region["moved_bytes"], region["segments"]
    # 40, 30 and 20 bytes a segment in the files; half of these are kept.
    assert moved["granules"] == pytest.approx(40 * segments)
    assert moved["subsets"] == pytest.approx(2 * 30 * segments)
    assert moved["filtered"] == pytest.approx(2 * 20 * segments)
    assert moved["subset_aside"] == pytest.approx(2 * 105 * segments)
    # Squares of 12.5 to 50 km with a kilometre about each.
    times = moved["tile_aside"] / (3 * 56 * segments / 2)
    assert (27 / 25) ** 2 < times < (14.5 / 12.5) ** 2
    # A record of 75 months less the safe hold, at 1 470 segments/km² in 75 months.
    assert segments / region["nodes"] == pytest.approx(1500, rel=0.05)
    assert region["longest"]["subset_granules"]["asked"] == int(
        20 + 0.005 * 40 * max(nodes.flown_segments("greenland")[0].values()) / 1e6
    )


def test_a_page_without_a_place_for_a_table_is_refused(result):
    page = scaling_docs.PAGE.read_text()
    for name in (*scaling_docs.SCALE_TABLES, "machine"):
        assert page.count(f"<!-- scale: {name} -->\n") == 1
    for name in ("cluster", "machine"):
        without = page.replace(f"<!-- scale: {name} -->\n", "")
        with pytest.raises(ValueError, match=f"no place for {name} "):
            scaling_docs.fill(without, result)


def test_exponents_are_the_slopes_of_logarithms():
    def case(segments, wall_s, peak_mb):
        entry = {"wall_s": wall_s, "start_s": wall_s / 2, "peak_mb": peak_mb}
        rules = dict.fromkeys(scale.RULES, entry)
        return {"segments": segments, "wall_s": wall_s, "main_peak_mb": peak_mb, "rules": rules}

    # Ten times the segments: twenty times as long at the same memory.
    found = scale.exponents([case(10, 5.0, 7.0), case(100, 100.0, 7.0)])
    assert found["wall"]["time"] == pytest.approx(np.log10(20))
    assert found["fit_nodes"]["work"] == pytest.approx(np.log10(20))
    assert found["subset_granules"]["memory"] == pytest.approx(0.0)
    assert scale.exponents([case(10, 5.0, 7.0)]) is None
