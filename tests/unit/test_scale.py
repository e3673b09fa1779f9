"""The arithmetic of the run at scale: schedules by hand, shares by hand, granules by formula."""

import h5py
import numpy as np
import pytest
import shapely

from benchmarks import fleet, nodes, scale, scaling_docs, scene
from benchmarks.nodes import Job, Machine, critical_path, schedule
from benchmarks.watch import Life, Run, share_out
from cryofuse.atl06 import read_granule
from cryofuse.geo import project
from cryofuse.simulate import orbit

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
    bound = max(critical_path(jobs)[0], sum(job.seconds for job in jobs) / 12)
    assert bound <= found.wall_s <= 2 * bound


def test_what_can_never_run_is_refused():
    with pytest.raises(ValueError, match="big asks for more memory"):
        schedule(jobs_of(("big", 1.0, 2000.0, ())), machine())
    with pytest.raises(ValueError, match="wait for each other"):
        schedule(jobs_of(("a", 1.0, 1.0, ("b",)), ("b", 1.0, 1.0, ("a",))), machine())


def test_the_critical_path_is_the_longest_chain():
    rows = [("a", 5.0, 1.0, ()), ("b", 7.0, 1.0, ()), ("c", 5.0, 1.0, ("a",))]
    rows += [("d", 1.0, 1.0, ("b", "c"))]
    length, chain = critical_path(jobs_of(*rows), before_s=2.0)
    assert length == 5 + 5 + 1 + 3 * 2
    assert [job.name for job in chain] == ["a", "c", "d"]


# ---------------------------------------------------------------------- costs of jobs


def measured_run():
    """A record of one month and two tiles, as if jobs had cost exactly what is said here."""

    def life(rule, target, start, start_up, work):
        end = start + start_up + work
        return vars(Life(rule, target, start, start + start_up, end, end - start, 100.0))

    month = {"month": "2020-01", "segments": 1000, "inside": 800, "kept": 500}
    chain = [
        life("list_granules", "2020-01", 5.0, 1.0, 1.0),
        life("subset_granules", "2020-01", 7.0, 2.0, 10.0),
        life("filter_segments", "2020-01", 19.0, 2.0, 4.0),
    ]
    shares = {"no_job": 12.0, "late_start": 0.0}
    piece = {"months": [month], "jobs": chain, "wall_s": 26.0, "begin_s": 5.0, "close_s": 1.0}
    # Three seconds a thousand segments, two a hundred nodes.
    tiles = {
        "t1": {"segments": 1000, "nodes": 100, "fitted_segments": 0},
        "t2": {"segments": 2000, "nodes": 100, "fitted_segments": 0},
    }
    fits = [life("fit_nodes", "t1", 5.0, 1.0, 5.0), life("fit_nodes", "t2", 5.0, 1.0, 8.0)]
    run = {"tiles": tiles, "jobs": fits, "wall_s": 15.0, "begin_s": 5.0, "close_s": 1.0}
    return {
        "cores": 2,
        "pieces": [piece | {"shares": shares}],
        "tiles": {"1": run | {"shares": shares}},
    }


def test_costs_are_those_of_the_measured_jobs():
    costs = nodes.learn_costs(measured_run())
    assert (costs.listing, costs.subset, costs.filter) == (1.0, 0.01, 0.005)
    assert costs.start["subset_granules"] == 2.0
    assert costs.tile == pytest.approx((0.003, 0.02, 0.0))
    assert costs.tile_s({"segments": 3000, "nodes": 50, "fitted_segments": 0}) == pytest.approx(11)


def test_a_schedule_of_exact_costs_has_the_measured_wall_time():
    measured = measured_run()
    (found,) = nodes.check(measured, nodes.learn_costs(measured))
    assert found["wall_s"] == 26 + 15
    assert found["ratio"] == pytest.approx(1.0)


def test_full_tiles_cost_what_was_measured_and_in_between_by_density():
    for segments, seconds in nodes.FULL_TILES:
        assert nodes.full_tile_s(segments) == pytest.approx(seconds)
    assert nodes.full_tile_s(1.47e6) == pytest.approx(3.5)
    assert nodes.full_tile_s(0.0) == 0.0


def test_a_region_has_three_jobs_a_month_one_a_tile_and_a_summary():
    costs = nodes.learn_costs(measured_run())
    months, tiles = {"2019-01": 1e6, "2019-02": 2e6}, {"a": 1e6, "b": 2e6, "c": 0.0}
    jobs = nodes.region_jobs(costs, months, tiles, 0.5)
    assert len(jobs) == 3 * 2 + 3 + 1
    fits = [job for job in jobs if job.rule == "fit_nodes"]
    assert all(set(job.needs) == {f"filter_segments {month}" for month in months} for job in fits)
    # Of a month 0.01 and 0.005 s a segment, one tile of a million kept segments.
    chain = [1 + 1, 2 + 2e4, 2 + 1e4, 1 + nodes.full_tile_s(1e6), 1]
    assert critical_path(jobs)[0] == pytest.approx(sum(chain))


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


def test_a_page_without_a_place_for_a_table_is_refused():
    page = scaling_docs.PAGE.read_text()
    for name in (*scaling_docs.SCALE_TABLES, "machine"):
        assert f"<!-- scale: {name} -->\n" in page
