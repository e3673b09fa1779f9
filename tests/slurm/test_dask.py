"""Dask workers that are Slurm jobs: the same tables, and one of them cancelled in mid-task."""

import threading
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa

from cryofuse.compute import open_workers, run_serially
from cryofuse.config import ComputeSettings
from cryofuse.elevation import scatter
from tests import compute_cases as cases

SETTINGS = ComputeSettings(scheduler="distributed", address="slurm", workers=2)
MEMORY_MB = 1500


def alive(slurm):
    """Jobs that run or wait."""
    return {job.number for job in slurm.squeue() if job.state in ("PENDING", "RUNNING")}


def test_workers_from_slurm_give_the_same_tables_and_one_that_is_lost_is_replaced(
    slurm, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scatter, "SQUARE_ROWS", 500)
    granules = cases.write_granules(Path("granules"))
    alone = cases.chain(granules, Path("alone"), run_serially) | cases.learn(run_serially)
    others = alive(slurm)
    (tmp_path / "starts").mkdir()
    cancelled = []

    def cancel():
        while not (tmp_path / "starts" / "2").exists():
            time.sleep(0.05)
        # Workers of one core each: one of these two is in mid-task.
        cancelled.append(min(alive(slurm) - others, key=int))
        slurm.scancel(cancelled[0])

    with open_workers(SETTINGS, 1, MEMORY_MB) as run:
        pids = {pid for _, pid in run(cases.square, range(1, 20))}
        assert len(alive(slurm) - others) == 2
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
        assert pids
    deadline = time.monotonic() + 20
    while alive(slurm) - others:
        assert time.monotonic() < deadline, "jobs of workers are left"
        time.sleep(0.2)
    for table, expected in alone.items():
        if isinstance(expected, pa.Table):
            assert found[table].equals(expected), table
        else:
            pd.testing.assert_frame_equal(found[table], expected, check_exact=True)
    assert {path.name for path in tmp_path.iterdir()} == {"granules", "alone", "slurm", "starts"}
