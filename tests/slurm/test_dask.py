"""Dask workers that are Slurm jobs: the same tables, and one of them cancelled in mid-task."""

import subprocess
import threading
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from cryofuse.compute import open_workers, run_serially
from cryofuse.config import ComputeSettings
from cryofuse.elevation import scatter
from cryofuse.logs import UserError
from tests import compute_cases as cases
from tests.earthdata import assert_same_tables
from tests.slurm.project import SlurmProject

#: Two workers of one core each.
SETTINGS = ComputeSettings(scheduler="distributed", address="slurm", workers=2)
MEMORY_MB = 1500
MONTH = {"start": "2018-10", "end": "2018-10", "length": "month"}


def workers():
    """Jobs of workers that run or wait, whatever else does."""
    states = "PENDING,CONFIGURING,RUNNING"
    command = ["squeue", "--noheader", "--name=dask-worker", f"--states={states}", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_workers_from_slurm_give_the_same_tables_and_one_that_is_lost_is_replaced(
    slurm, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scatter, "SQUARE_ROWS", 500)
    granules = cases.write_granules(Path("granules"))
    alone = cases.chain(granules, Path("alone"), run_serially) | cases.learn(run_serially)
    (tmp_path / "starts").mkdir()
    cancelled = []

    def cancel():
        while not (tmp_path / "starts" / "2").exists():
            time.sleep(0.05)
        # Both workers are in mid-task.
        cancelled.append(min(workers(), key=int))
        slurm.scancel(cancelled[0])

    with open_workers(SETTINGS, 1, MEMORY_MB) as run:
        assert [value for value, _ in run(cases.square, [1, 2, 3])] == [1, 4, 9]
        assert len(workers()) == 2
        found = cases.chain(granules, Path("slurm"), run) | cases.learn(run)
        for threads in run(cases.count_threads, [None]):
            assert set(threads.values()) == {1}
        canceller = threading.Thread(target=cancel)
        canceller.start()
        tasks = [(str(tmp_path / "starts"), number) for number in range(12)]
        assert list(run(cases.start_slowly, tasks)) == list(range(12))
        canceller.join()
        started = {path.name: path.read_text().split() for path in (tmp_path / "starts").iterdir()}
        assert len(started) == 12 and 12 < sum(map(len, started.values())) <= 15
    deadline = time.monotonic() + 20
    while workers():
        assert time.monotonic() < deadline, "jobs of workers are left"
        time.sleep(0.2)
    for table, expected in alone.items():
        if isinstance(expected, pa.Table):
            assert found[table].equals(expected), table
        else:
            pd.testing.assert_frame_equal(found[table], expected, check_exact=True)
    assert {path.name for path in tmp_path.iterdir()} == {"granules", "alone", "slurm", "starts"}


def test_a_rule_in_a_job_of_slurm_asks_for_workers_beside_it(slurm, tmp_path):
    """As Snakemake starts it: the workers go where the job is, for as long, with their share."""
    run = SlurmProject(tmp_path / "run", period=MONTH)
    run.start("subset", local=True).finish()
    expected = run.tables()
    (segments,) = run.folder.glob("results/demo/altimetry/subset/*.parquet")
    segments.unlink()
    run.configure(period=MONTH, compute=SETTINGS.model_dump())
    rough = ["--default-resources", "slurm_partition=rough"]
    run.start("subset", *rough, "--set-resources", "subset_granules:runtime=7").finish()
    assert_same_tables(run.tables(), expected)
    job, *asked = run.jobs(slurm)
    assert job.rule == "subset_granules" and len(asked) == 2
    for worker in asked:
        assert worker.node in slurm.partitions["rough"]
        shown = slurm.scontrol("show", "job", worker.number)
        # What the rule has beside the job itself, and the process that looks after the worker.
        assert "JobName=dask-worker" in shown and "MinMemoryNode=1250M" in shown
        assert "TimeLimit=00:07:00" in shown
    assert not workers()
    assert not list(run.folder.glob(".workers-*"))


def test_jobs_that_slurm_refuses_are_one_line(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_PARTITION", "nonsense")
    with (
        pytest.raises(UserError, match="invalid partition specified: nonsense"),
        open_workers(SETTINGS, 1, MEMORY_MB),
    ):
        pass
    assert not workers()
