"""Workers inside a job: order, bounds, deaths, threads, logs, and results that stay the same."""

import logging
import os
import signal
import threading
import time
import traceback
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from cryofuse import compute
from cryofuse.compute import limit_threads, open_workers, run_serially
from cryofuse.config import ComputeSettings
from cryofuse.elevation import scatter
from cryofuse.logs import UserError, job_log
from tests import compute_cases as cases

MEMORY_MB = 4000


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The folder for temporary files while workers are open."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def two(temporary):
    """Two workers for all tests of the module: results must not depend on what they did before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(temporary))
        before = dict(os.environ)
        with open_workers(ComputeSettings(), 2, MEMORY_MB) as run:
            yield run
        assert dict(os.environ) == before
        assert not list(temporary.iterdir())


def distributed(address, workers=None):
    return ComputeSettings(scheduler="distributed", address=address, workers=workers)


def workers_of(run):
    """Processes of the workers."""
    return {pid for _, pid in run(cases.square, range(1, 9))}


def test_one_thread_is_the_job_itself():
    started = []
    with open_workers(ComputeSettings(), 1, MEMORY_MB) as run:
        results = run(lambda number: (started.append(number), os.getpid()), range(3))
        assert started == []
        assert next(results)[1] == os.getpid()
        assert started == [0]
        assert run is run_serially


def test_libraries_of_a_job_that_works_alone_use_its_threads():
    before = pa.cpu_count(), pa.io_thread_count()
    for threads in (1, 3):
        with limit_threads(threads):
            found = cases.count_threads(None)
        found.pop("numba")
        # A library may have been built for fewer threads than it is asked to use.
        assert {name: n for name, n in found.items() if n > threads} == {}
        assert found["arrow"] == found["arrow io"] == threads
    assert (pa.cpu_count(), pa.io_thread_count()) == before


def test_results_come_in_order_and_tasks_no_faster_than_results_are_taken(two):
    made, taken = [], 0

    def tasks():
        for number in range(1, 31):
            made.append(number)
            # Made, but not yet given away: one.
            assert len(made) - taken <= 2 * 2 + 1
            yield number

    pids = set()
    for number, (value, pid) in enumerate(two(cases.square, tasks()), 1):
        taken += 1
        assert value == number**2
        pids.add(pid)
    assert taken == len(made) == 30
    assert len(pids) == 2 and os.getpid() not in pids


def test_an_exception_of_a_task_is_raised_with_its_traceback(two):
    with pytest.raises(cases.SpoiltError, match="task 1 is spoilt") as caught:
        list(two(cases.spoil, [1, 2, 3]))
    told = "".join(traceback.format_exception(caught.value))
    assert "in spoil" in told and "this will not end well" in told
    assert len(list(two(cases.square, [1, 2]))) == 2


def test_what_tasks_say_reaches_the_log_and_what_dask_says_does_not(two, tmp_path):
    with job_log(tmp_path / "rule.log"):
        list(two(cases.shout, [1, 2]))
    text = (tmp_path / "rule.log").read_text()
    assert text.index("task 1 is under way") < text.index("task 2 is under way")
    assert "the ice is thin" in text and "connection closed" not in text


def test_libraries_in_workers_use_one_thread(two, monkeypatch):
    for found in two(cases.count_threads, [None, None]):
        assert len(found) >= 6
        assert set(found.values()) == {1}


def test_a_worker_killed_in_mid_task_costs_its_task_alone(two, tmp_path):
    killed = []

    def kill():
        mark = tmp_path / "2"
        while not (mark.exists() and mark.read_text().endswith("\n")):
            time.sleep(0.01)
        killed.append(int(mark.read_text()))
        os.kill(killed[0], signal.SIGKILL)

    assassin = threading.Thread(target=kill)
    assassin.start()
    results = list(two(cases.start_slowly, ((str(tmp_path), number) for number in range(6))))
    assassin.join()
    assert results == list(range(6))
    starts = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    assert starts["2"][0] == str(killed[0]) and len(starts["2"]) == 2
    # A result that nobody had asked for yet dies with its worker; nothing is done a third time.
    assert all(len(pids) <= 2 for pids in starts.values())
    assert not Path(f"/proc/{killed[0]}").exists() or killed[0] not in workers_of(two)


def test_a_task_that_ends_every_worker_is_named_in_one_line(two, tmp_path):
    with pytest.raises(SystemExit), job_log(tmp_path / "rule.log"):
        list(two(cases.swallow, [1, cases.Poison(), 3]))
    lines = (tmp_path / "rule.log").read_text().splitlines()
    (error,) = [line for line in lines if " ERROR " in line]
    assert "the poisoned one: 4 workers died" in error and "memory" in error
    assert "Traceback" not in "".join(lines)
    assert len(workers_of(two)) == 2


def test_workers_read_the_same_file_at_the_same_time(two, tmp_path):
    (path, *_) = sorted(cases.write_granules(tmp_path / "granules", passes=1).iterdir())
    expected = cases.read_heights(path)
    assert list(two(cases.read_heights, [path] * 12)) == [expected] * 12


def test_results_do_not_depend_on_who_works(two, tmp_path, monkeypatch):
    """The job itself, two processes, and a scheduler by its address whose workers are elsewhere."""
    from distributed import LocalCluster

    # Relative paths are those of the job's folder, not of the workers'.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scatter, "SQUARE_ROWS", 500)
    cases.write_granules(tmp_path / "granules")
    (tmp_path / "granules" / "ATL06_20190601000000_00090203_006_01.h5").write_text("broken")
    granules = Path("granules")
    alone = cases.chain(granules, Path("alone"), run_serially) | cases.learn(run_serially)
    assert alone["nodes"].num_rows > 50 and alone["node months"].num_rows > 50
    assert alone["checks"].num_rows and len(alone["scores"]) and len(alone["importance"])
    monkeypatch.chdir("/")
    with LocalCluster(
        n_workers=3,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        local_directory=tmp_path / "dask",
    ) as cluster:
        monkeypatch.chdir(tmp_path)
        with open_workers(distributed(cluster.scheduler_address), 1, MEMORY_MB) as elsewhere:
            for name, run in (("two", two), ("elsewhere", elsewhere)):
                found = cases.chain(granules, Path(name), run) | cases.learn(run)
                assert found.keys() == alone.keys()
                for table, expected in alone.items():
                    if isinstance(expected, pa.Table):
                        assert found[table].equals(expected), (name, table)
                    else:
                        pd.testing.assert_frame_equal(found[table], expected, check_exact=True)


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "CONNECT_LIMIT_S", 0.5)
    settings = distributed("tcp://127.0.0.1:9")
    with (
        pytest.raises(SystemExit),
        job_log(tmp_path / "rule.log"),
        open_workers(settings, 1, MEMORY_MB),
    ):
        pass
    (line,) = (tmp_path / "rule.log").read_text().splitlines()
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in line


def test_a_scheduler_without_workers_is_one_line(tmp_path, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(compute, "WORKER_LIMIT_S", 0.5)
    with (
        LocalCluster(
            n_workers=0, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp"
        ) as cluster,
        pytest.raises(UserError, match="has no worker"),
        open_workers(distributed(cluster.scheduler_address), 1, MEMORY_MB),
    ):
        pass


def test_slurm_without_slurm_is_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with (
        pytest.raises(UserError, match="no sbatch here"),
        open_workers(distributed("slurm"), 1, MEMORY_MB),
    ):
        pass


def test_levels_of_loggers_are_as_before():
    import distributed as _  # noqa: F401

    before = logging.getLogger("distributed").level
    with open_workers(ComputeSettings(workers=1), 1, MEMORY_MB):
        pass
    assert logging.getLogger("distributed").level == before
