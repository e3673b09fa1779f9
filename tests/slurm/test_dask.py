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

#: Two workers of one core each.
SETTINGS = ComputeSettings(scheduler="distributed", address="slurm", workers=2)
MEMORY_MB = 1500


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


def test_jobs_that_slurm_refuses_are_one_line(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_PARTITION", "nonsense")
    with (
        pytest.raises(UserError, match="invalid partition specified: nonsense"),
        open_workers(SETTINGS, 1, MEMORY_MB),
    ):
        pass
    assert not workers()
