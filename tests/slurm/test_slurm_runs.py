"""The whole chain through Slurm: the tables of a run on one machine, and what befalls jobs."""

import re

import pytest

from tests.earthdata import MONTHS, QUARTER, assert_same_tables
from tests.slurm.cluster import wait_until
from tests.slurm.project import WAIT_S, SlurmProject
from tests.workflow.test_resources import HEAVY

#: Few jobs: each starts Snakemake twice.
FEW = {"elevation": {"tile_m": 1_000_000}}
TOO_SMALL_MB, ENOUGH_MB = 250, 2000


@pytest.fixture(scope="module")
def runs(slurm, tmp_path_factory):
    """All runs of this module, under way at the same time."""
    folder = tmp_path_factory.mktemp("runs")
    started = {
        "rough": SlurmProject(folder / "rough", period=QUARTER),
        "whole": SlurmProject(folder / "whole", **FEW),
        "quarter": SlurmProject(folder / "quarter", period=QUARTER),
        "local": SlurmProject(folder / "local", **FEW),
    }
    # The first attempt of a job has a minute, and too little memory to filter.
    started["rough"].start(
        "filter",
        "--default-resources",
        "slurm_partition=rough",
        "--retries",
        "1",
        "--set-resources",
        "subset_granules:runtime=1 if attempt == 1 else 20",
        f"filter_segments:mem_mb={TOO_SMALL_MB}",
    )
    scratch = folder / "scratch"
    started["whole"].start(
        "all",
        "--default-resources",
        f"tmpdir=shutil.os.path.expandvars('{scratch}/job_$SLURM_JOB_ID')",
    )
    started["quarter"].start("filter", local=True)
    yield started
    for run in started.values():
        run.stop()


@pytest.fixture(scope="module")
def troubled(runs, slurm):
    """The run in which a job is cancelled, one hangs, and one loses its node; what it said."""
    run = runs["rough"]
    held = [run.hold(slurm, "subset_granules", month) for month in MONTHS]
    on = {node: [job for job in held if job.node == node] for node in slurm.partitions["rough"]}
    assert sorted(map(len, on.values())) == [1, 2], "three jobs of one processor on two nodes"
    (lost,) = min(on.values(), key=len)
    cancelled, hanging = max(on.values(), key=len)
    slurm.stop_node(lost.node)
    slurm.scancel(cancelled.number)
    wait_until(lambda: slurm.state(lost.node).startswith("DOWN"), WAIT_S, "node that is down")
    down = slurm.state(lost.node)
    slurm.start_node(lost.node)
    said = run.finish(fails=True)
    return {"said": said, "lost": lost, "cancelled": cancelled, "hanging": hanging, "down": down}


def state(run, slurm, number):
    (job,) = (job for job in run.jobs(slurm) if job.number == number)
    return job.state


def later(run, slurm, first):
    """Return the jobs that were sent after a job, for the same output."""
    return [
        job
        for job in run.jobs(slurm)
        if job.comment == first.comment and int(job.number) > int(first.number)
    ]


def test_a_cancelled_job_is_sent_again(troubled, runs, slurm):
    run, first = runs["rough"], troubled["cancelled"]
    assert state(run, slurm, first.number) == "CANCELLED"
    assert [job.state for job in later(run, slurm, first)] == ["COMPLETED"]


def test_a_job_over_its_time_limit_gets_more_time(troubled, runs, slurm):
    run, first = runs["rough"], troubled["hanging"]
    assert state(run, slurm, first.number) == "TIMEOUT"
    assert "TimeLimit=00:01:00" in slurm.scontrol("show", "job", first.number)
    (again,) = later(run, slurm, first)
    assert again.state == "COMPLETED"
    assert "TimeLimit=00:20:00" in slurm.scontrol("show", "job", again.number)


def test_a_job_whose_node_fails_starts_again_without_costing_a_retry(troubled, runs, slurm):
    run, first = runs["rough"], troubled["lost"]
    assert troubled["down"].startswith("DOWN")
    assert state(run, slurm, first.number) == "COMPLETED"
    assert "Restarts=1" in slurm.scontrol("show", "job", first.number)
    assert later(run, slurm, first) == []


def test_a_job_that_fails_for_good_is_told_in_a_line_with_its_log(troubled, runs, slurm):
    run, said = runs["rough"], troubled["said"]
    failed = [job for job in run.jobs(slurm) if job.rule == "filter_segments"]
    assert len(failed) == 2 * len(MONTHS)
    assert {job.state for job in failed} <= {"OUT_OF_MEMORY", "FAILED"}
    assert "Traceback" not in said
    for job in failed:
        (line,) = re.findall(rf"^.*SLURM-job '{job.number}' failed.*$", said, re.MULTILINE)
        assert job.state in line
        assert f"logs/slurm/rule_filter_segments/demo_{job.comment[-7:]}/{job.number}.log" in said


def test_the_same_command_completes_the_run_once_memory_grows(troubled, runs, slurm):
    run = runs["rough"]
    before = len(run.jobs(slurm))
    run.start(
        "filter",
        "--default-resources",
        "slurm_partition=rough",
        "--set-resources",
        f"filter_segments:mem_mb={TOO_SMALL_MB} if attempt == 1 else {ENOUGH_MB}",
    ).finish()
    jobs = run.jobs(slurm)[before:]
    assert {job.rule for job in jobs} == {"filter_segments"}
    first, second = jobs[: len(MONTHS)], jobs[len(MONTHS) :]
    assert len(second) == len(MONTHS)
    assert all(f"MinMemoryNode={TOO_SMALL_MB}M" in shown(slurm, job) for job in first)
    assert {job.state for job in second} == {"COMPLETED"}
    assert all(f"MinMemoryNode={ENOUGH_MB}M" in shown(slurm, job) for job in second)
    runs["quarter"].finish()
    assert_same_tables(run.tables(), runs["quarter"].tables())


def shown(slurm, job):
    return slurm.scontrol("show", "job", job.number)


def test_credentials_in_variables_are_refused(slurm, runs, tmp_path):
    run = SlurmProject(tmp_path / "refused", period=QUARTER)
    said = run.start("all", EARTHDATA_TOKEN="tasiilaq-token").finish(fails=True)
    assert "EARTHDATA_TOKEN would go to the nodes with every job" in said
    assert "tasiilaq" not in said and "Traceback" not in said
    assert run.jobs(slurm) == [] and not (run.folder / "results").exists()


def test_the_tables_are_those_of_one_machine(runs):
    runs["local"].start("all", local=True).finish()
    runs["whole"].finish()
    found, expected = runs["whole"].tables(), runs["local"].tables()
    assert len(expected) > 40
    assert_same_tables(found, expected)


def test_only_heavy_rules_went_to_nodes_and_both_were_used(runs, slurm):
    said = runs["whole"].finish()
    jobs = runs["whole"].jobs(slurm)
    assert {job.rule for job in jobs} == HEAVY
    assert {job.node for job in jobs} == set(slurm.partitions["main"])
    assert {job.state for job in jobs} == {"COMPLETED"}
    sent = {int(n) for n in re.findall(r"submitted with SLURM jobid (\d+)", said)}
    assert sent == {int(job.number) for job in jobs}


def test_temporary_files_went_to_a_folder_of_each_job(runs, slurm):
    scratch = runs["whole"].folder.parent / "scratch"
    made = {path.name for path in scratch.iterdir()}
    assert made == {f"job_{job.number}" for job in runs["whole"].jobs(slurm)}


def test_logs_of_jobs_that_went_well_are_gone(runs):
    logs = runs["whole"].folder / "logs" / "slurm"
    assert not list(logs.rglob("*.log"))
