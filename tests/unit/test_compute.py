"""Workers inside a job: order, bounds, deaths, threads, logs, and results that stay the same."""

import inspect
import logging
import os
import signal
import socket
import subprocess
import sys
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
from tests.conftest import ROOT

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
        before = dict(os.environ), levels(), signal.getsignal(signal.SIGTERM)
        with open_workers(ComputeSettings(), 2, MEMORY_MB) as run:
            assert levels() != before[1]
            yield run
        assert (dict(os.environ), levels(), signal.getsignal(signal.SIGTERM)) == before
        assert not list(temporary.iterdir())


def levels():
    import distributed as _  # noqa: F401  it sets them when it is loaded

    return [logging.getLogger(f"distributed{part}").level for part in ("", ".nanny", ".client")]


def distributed(address, workers=None):
    return ComputeSettings(scheduler="distributed", address=address, workers=workers)


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
        # A library may have been built for fewer threads than it is asked to use.
        assert {name: n for name, n in found.items() if n > threads} == {}
        assert found["arrow"] == found["arrow io"] == found["numba"] == threads
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


def test_what_tasks_say_reaches_the_log_in_their_order(two, tmp_path):
    with job_log(tmp_path / "rule.log"):
        list(two(cases.shout, [1, 2]))
    text = (tmp_path / "rule.log").read_text()
    assert text.index("task 1 is under way") < text.index("task 2 is under way")
    assert "the ice is thin" in text


def test_libraries_in_workers_use_one_thread(two, monkeypatch):
    for found in two(cases.count_threads, [None, None]):
        assert len(found) >= 6
        assert set(found.values()) == {1}


def test_the_job_itself_has_memory_beside_its_workers(two):
    """Half of what remains for each, and no less than a worker needs before it does anything."""
    limits = set(two(cases.memory_limit, [None, None]))
    assert limits == {(MEMORY_MB - 1000) / 2}
    assert compute.worker_memory(6500, 4) == 1375
    assert compute.worker_memory(1500, 8) == 400


def test_there_are_never_more_processes_than_threads():
    with open_workers(ComputeSettings(workers=4), 2, MEMORY_MB) as run:
        assert pa.cpu_count() == 1
        pids = {pid for _, pid in run(cases.square, range(1, 13))}
        assert len(pids) == 2 and os.getpid() not in pids
    with open_workers(ComputeSettings(workers=4), 1, MEMORY_MB) as run:
        assert run is run_serially


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
        n_workers=1,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        local_directory=tmp_path / "dask",
    ) as cluster:
        monkeypatch.chdir(tmp_path)
        with open_workers(distributed(cluster.scheduler_address), 1, MEMORY_MB) as elsewhere:
            here = cases.chain(granules, Path("here"), two) | cases.learn(two)
            there = cases.chain(granules, Path("there"), elsewhere)
    assert here.keys() == alone.keys()
    for found in (here, there):
        for name, table in found.items():
            if isinstance(table, pa.Table):
                assert table.equals(alone[name]), name
            else:
                pd.testing.assert_frame_equal(table, alone[name], check_exact=True)


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


def test_a_scheduler_without_workers_is_one_line():
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=0, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp"
        ) as cluster,
        pytest.raises(UserError, match="has no worker after 1 s"),
        open_workers(distributed(cluster.scheduler_address), 1, MEMORY_MB, runtime_min=1 / 54),
    ):
        pass


def test_workers_with_several_threads_are_refused_in_one_line(tmp_path):
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            dashboard_address="127.0.0.1:0",
            local_directory=tmp_path / "dask",
        ) as cluster,
        pytest.raises(SystemExit),
        job_log(tmp_path / "rule.log"),
        open_workers(distributed(cluster.scheduler_address), 1, MEMORY_MB) as run,
    ):
        list(run(cases.square, [1, 2, 3]))
    (line,) = (tmp_path / "rule.log").read_text().splitlines()
    assert "has 2 threads" in line and "--nthreads 1" in line


def test_a_scheduler_that_dies_in_mid_run_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    address = f"tcp://127.0.0.1:{free_port()}"
    options = {"stderr": subprocess.DEVNULL, "cwd": tmp_path}
    scheduler = ["dask_scheduler", "--host", address, "--no-dashboard"]
    worker = ["dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    daemons = []
    try:
        for module, *words in (scheduler, worker):
            command = [sys.executable, "-m", f"distributed.cli.{module}", *words]
            daemons.append(subprocess.Popen(command, **options))
        with (
            pytest.raises(SystemExit),
            job_log(tmp_path / "rule.log"),
            open_workers(distributed(address), 1, MEMORY_MB) as run,
        ):
            for _ in run(cases.square, range(1, 1000)):
                daemons[0].kill()
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait()
    lines = (tmp_path / "rule.log").read_text().splitlines()
    (error,) = [line for line in lines if " ERROR " in line]
    assert "the Dask scheduler has gone in the middle of the work" in error
    # On a busy machine Dask may warn of its own delays.
    assert "Traceback" not in "".join(lines)


#: A job of a rule with two workers, whose tasks end when they are ended.
JOB = """
import sys
from cryofuse.compute import open_workers
from cryofuse.config import ComputeSettings
from tests import compute_cases

if __name__ == "__main__":
    with open_workers(ComputeSettings(), 2, 4000) as run:
        list(run(compute_cases.linger, sys.argv[1:]))
"""


def test_a_job_that_is_ended_leaves_no_worker_and_no_file(tmp_path):
    marks, temporary = [tmp_path / "1", tmp_path / "2"], tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "job.py").write_text(JOB)
    variables = {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "TMPDIR": str(temporary),
    }
    job = subprocess.Popen(
        [sys.executable, tmp_path / "job.py", *marks],
        env=os.environ | variables,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: all(mark.exists() for mark in marks), job)
        assert list(temporary.iterdir())
        job.send_signal(signal.SIGTERM)
        _, said = job.communicate(timeout=30)
        assert job.returncode == 128 + signal.SIGTERM
        assert "Traceback" not in said
        wait_until(lambda: not is_there(job.pid))
        assert not list(temporary.iterdir())
    finally:
        if is_there(job.pid):
            os.killpg(job.pid, signal.SIGKILL)


def is_there(group):
    """Whether a process group has any process, which takes its workers in."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(done, job=None):
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        assert job is None or job.poll() is None, job.communicate()[1]
        time.sleep(0.05)


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


#: A job that can import nothing but what the run's lock installs.
ONLY_LOCKED = """
import re
import sys
from importlib.metadata import packages_distributions


def normal(name):
    return re.sub("[-_.]+", "-", name).lower()


class Refuse:
    def __init__(self, lock):
        self.locked = {normal(name) for name in re.findall(r"(?m)^([A-Za-z0-9._-]+)==", lock)}
        self.known = packages_distributions()

    def find_spec(self, name, path=None, target=None):
        packages = {normal(package) for package in self.known.get(name.split(".")[0], ())}
        if packages and not packages & (self.locked | {"cryofuse"}):
            raise ModuleNotFoundError(f"{name} is in no package of the lock", name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, Refuse(open(sys.argv[1]).read()))
    import dask_jobqueue

    from cryofuse.compute import open_workers
    from cryofuse.config import ComputeSettings
    from tests import compute_cases

    with open_workers(ComputeSettings(), 2, 4000) as run:
        print([value for value, _ in run(compute_cases.square, [1, 2])])
"""


def test_workers_need_nothing_that_a_run_does_not_install(tmp_path):
    (tmp_path / "job.py").write_text(ONLY_LOCKED)
    command = [sys.executable, tmp_path / "job.py", ROOT / "envs" / "lock.txt"]
    variables = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    said = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert said.stdout == "[1, 4]\n", said.stderr


def test_the_private_name_of_dask_is_still_there():
    """Its task of one key, which alone can say that it waits at the scheduler."""
    import dask

    parameters = inspect.signature(dask._task_spec.Task).parameters
    assert "_data_producer" in parameters, (
        f"compute.py wants another way with Dask {dask.__version__}"
    )


def test_slurm_without_slurm_is_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with (
        pytest.raises(UserError, match="no sbatch here"),
        open_workers(distributed("slurm"), 1, MEMORY_MB),
    ):
        pass


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
    assert killed[0] not in {pid for _, pid in two(cases.square, range(1, 9))}


def test_a_task_that_ends_every_worker_is_named_in_one_line(two, tmp_path):
    with pytest.raises(SystemExit), job_log(tmp_path / "rule.log"):
        list(two(cases.swallow, [1, cases.Poison(), 3]))
    lines = (tmp_path / "rule.log").read_text().splitlines()
    (error,) = [line for line in lines if " ERROR " in line]
    assert "the poisoned one: 4 workers died" in error and "memory" in error
    assert "Traceback" not in "".join(lines)
    assert [value for value, _ in two(cases.square, [1, 2])] == [1, 4]
