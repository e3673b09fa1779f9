"""A job that is cancelled, hangs, loses its node, or has too little memory; and what one sees."""

import re

import pytest

from tests.earthdata import MONTHS, assert_same_tables
from tests.slurm.cluster import wait_until
from tests.slurm.conftest import TOO_SMALL_MB
from tests.slurm.project import WAIT_S

RUNS = ("troubled",)
ENOUGH_MB = 2000


@pytest.fixture(scope="module")
def troubled(runs, slurm):
    """The run in which a job is cancelled, one hangs, and one loses its node; what it said."""
    run = runs["troubled"]
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
    run, first = runs["troubled"], troubled["cancelled"]
    assert state(run, slurm, first.number) == "CANCELLED"
    assert [job.state for job in later(run, slurm, first)] == ["COMPLETED"]


def test_a_job_over_its_time_limit_gets_more_time(troubled, runs, slurm):
    run, first = runs["troubled"], troubled["hanging"]
    assert state(run, slurm, first.number) == "TIMEOUT"
    assert "TimeLimit=00:02:00" in slurm.scontrol("show", "job", first.number)
    (again,) = later(run, slurm, first)
    assert again.state == "COMPLETED"
    assert "TimeLimit=00:20:00" in slurm.scontrol("show", "job", again.number)


def test_a_job_whose_node_fails_starts_again_without_costing_a_retry(troubled, runs, slurm):
    run, first = runs["troubled"], troubled["lost"]
    assert troubled["down"].startswith("DOWN")
    assert state(run, slurm, first.number) == "COMPLETED"
    assert "Restarts=1" in slurm.scontrol("show", "job", first.number)
    assert later(run, slurm, first) == []


def test_a_job_that_fails_for_good_is_told_in_a_line_with_its_log(troubled, runs, slurm):
    run, said = runs["troubled"], troubled["said"]
    failed = [job for job in run.jobs(slurm) if job.rule == "filter_segments"]
    assert len(failed) == 2 * len(MONTHS)
    assert {job.state for job in failed} <= {"OUT_OF_MEMORY", "FAILED"}
    assert "Traceback" not in said
    for job in failed:
        (line,) = re.findall(rf"^.*SLURM-job '{job.number}' failed.*$", said, re.MULTILINE)
        assert job.state in line
        assert f"logs/slurm/rule_filter_segments/demo_{job.comment[-7:]}/{job.number}.log" in said


def test_the_same_command_completes_the_run_once_memory_grows(troubled, runs, slurm):
    run, other = runs["troubled"], runs["untroubled"].start("filter", local=True)
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
    other.finish()
    assert_same_tables(run.tables(), other.tables())


def shown(slurm, job):
    return slurm.scontrol("show", "job", job.number)
