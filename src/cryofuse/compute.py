"""Who does the tasks of a job: the job itself, processes beside it, or Dask workers elsewhere.

Library functions take ``run``, which maps a function over independent tasks; scripts get one from
:func:`open_workers`. Results come in the order of the tasks and do not depend on who did them.
Tasks travel by value: files that they name must be the workers' too, nothing else is shared.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from functools import cache
from logging.handlers import QueueHandler
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cryofuse.logs import UserError

if TYPE_CHECKING:
    from distributed import Client, Future

    from cryofuse.config import ComputeSettings

#: Maps a function over independent tasks: results in the order of the tasks.
Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]

#: Tasks under way or done and not yet asked for, in workers: memory stays bounded.
_AHEAD = 2
#: Longest wait for a scheduler to answer (s).
CONNECT_LIMIT_S = 30.0
#: Longest time without any worker, such as in Slurm's queue, before a job gives up (s).
WORKER_LIMIT_S = 900.0
#: How often a job that waits looks whether there are workers at all (s).
_LOOK_S = 5.0
#: What numerical libraries read when they are loaded. Arrow and XGBoost go by OpenMP's.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
#: Dask keeps little in workers here: no file to spill to, and no worker that waits for memory
#: which never comes back. What takes too much is stopped, as a cluster would.
_DASK = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.profile.enabled": False,
    # Tasks carry their data, so that they can be done again elsewhere.
    "distributed.admin.large-graph-warning-threshold": "1TB",
}
#: What Dask itself says in workers; what tasks say comes back with their results.
_WORKER_LOGGING = {"distributed": "critical", "distributed.client": "critical"}
#: Dask's loggers, and the level from which a rule's log shows them: workers that died or took too
#: much memory, and none of what follows from it.
_JOB_LOGGING = {
    "distributed": logging.CRITICAL,
    "distributed.client": logging.CRITICAL,
    "distributed.nanny": logging.WARNING,
    "tornado": logging.CRITICAL,
    "tornado.application": logging.CRITICAL,
}


def run_serially(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
    """Yield the results of independent tasks, done one after the other where they are asked for."""
    yield from map(function, tasks)


@contextmanager
def open_workers(settings: ComputeSettings, threads: int, memory_mb: float) -> Iterator[Run]:
    """Open the workers of a job, and close them whatever happens.

    What is yielded takes a function and its tasks, which may be made as they are asked for, and
    yields results in the order of the tasks; no more than two tasks a worker are ahead of the
    one asked for. An exception of a task is raised here. A worker that dies costs its task,
    which others do again. A task with an attribute ``name`` is called by it in errors.

    Parameters
    ----------
    settings
        Whose workers, and how many.
    threads
        Threads of the job's rule: its workers, or where it works alone those of its libraries.
        In workers libraries use one.
    memory_mb
        Memory of the job's rule (MB), shared equally by its threads or workers.

    Raises
    ------
    UserError
        If there is no scheduler or no worker, or a task ends every worker that takes it.
    """
    if settings.scheduler == "processes":
        workers = settings.workers or threads
        if workers == 1:
            with limit_threads(threads):
                yield run_serially
            return
        opened = _processes(workers, memory_mb / workers)
    elif settings.address == "slurm":
        opened = _slurm_jobs(settings.workers or threads, memory_mb / threads)
    else:
        opened = _scheduler(str(settings.address), settings.workers)
    import dask.config
    import distributed  # noqa: F401  so that the levels of its loggers are set, to be set again

    with dask.config.set(_DASK), _log_levels(_JOB_LOGGING), opened as pool, limit_threads(threads):
        yield pool.run


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Let numerical libraries and Arrow use this many threads for a while."""
    import pyarrow as pa
    from threadpoolctl import threadpool_limits

    before = pa.cpu_count(), pa.io_thread_count()
    pa.set_cpu_count(threads)
    pa.set_io_thread_count(threads)
    try:
        # Libraries that are there, and those that are loaded meanwhile.
        with threadpool_limits(threads), _environment(_thread_variables(threads)):
            yield
    finally:
        pa.set_cpu_count(before[0])
        pa.set_io_thread_count(before[1])


def _thread_variables(threads: int) -> dict[str, str]:
    return dict.fromkeys(_THREAD_VARIABLES, str(threads))


@contextmanager
def _processes(workers: int, memory_mb: float) -> Iterator[_Pool]:
    """Open processes on this machine: Dask starts them afresh (spawn), as HDF5 needs it."""
    from distributed import Client, LocalCluster

    with (
        _environment(_worker_variables()),
        _own_folder() as folder,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            memory_limit=f"{memory_mb:.0f}MB",
            local_directory=folder,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield _Pool(client, workers)


@contextmanager
def _scheduler(address: str, workers: int | None) -> Iterator[_Pool]:
    """Open the workers of a scheduler that runs, all or so many of them."""
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_LIMIT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"compute: address: no Dask scheduler answers at {address} ({error}); start one, or "
            "set scheduler: processes"
        ) from None
    with client:
        _wait_for_worker(client, f"the Dask scheduler at {address} has no worker")
        yield _Pool(client, workers or sum(client.nthreads().values()))


@contextmanager
def _slurm_jobs(workers: int, memory_mb: float) -> Iterator[_Pool]:
    """Open workers that are Slurm jobs of one core each; jobs that are lost are asked for anew."""
    import dask.config
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    if not shutil.which("sbatch"):
        raise UserError("compute: address: slurm needs Slurm's commands: there is no sbatch here")
    site = dask.config.get("jobqueue.slurm")
    directives = list(site["job-extra-directives"])
    if not site["log-directory"]:
        # Slurm would leave a file for each worker where the run is.
        directives += ["--output=/dev/null", "--error=/dev/null"]
    variables = _worker_variables() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    options: dict[str, Any] = {"dashboard": False, "dashboard_address": ":0"}
    options |= site["scheduler-options"]
    if not site["interface"]:
        options.setdefault("host", _own_address())
    with (
        _own_folder(),
        SLURMCluster(
            cores=1,
            processes=1,
            memory=f"{memory_mb:.0f}MB",
            queue=os.environ.get("SLURM_JOB_PARTITION"),
            account=os.environ.get("SLURM_JOB_ACCOUNT"),
            job_extra_directives=directives,
            job_script_prologue=[
                *site["job-script-prologue"],
                *(f"export {name}='{value}'" for name, value in variables.items()),
            ],
            scheduler_options=options,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        cluster.adapt(minimum_jobs=workers, maximum_jobs=workers)
        _wait_for_worker(client, "no Slurm job of a Dask worker has started")
        yield _Pool(client, workers)


def _worker_variables() -> dict[str, str]:
    """Return the variables of a worker's process: one thread, and the settings of Dask here."""
    import dask.config

    told = dask.config.merge(dask.config.global_config, {"logging": _WORKER_LOGGING})
    inherited = {"DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(told)}
    return _thread_variables(1) | {"NUMBA_NUM_THREADS": "1"} | inherited


@contextmanager
def _own_folder() -> Iterator[str]:
    """Let Dask's files of this job lie in a temporary folder that goes with it."""
    import dask.config

    with (
        TemporaryDirectory(prefix="workers-") as folder,
        dask.config.set({"temporary-directory": folder}),
    ):
        yield folder


def _own_address() -> str:
    """Return the address by which this machine reaches Slurm's controller, and so the nodes."""
    from distributed.utils import get_ip

    shown = subprocess.run(
        ["scontrol", "show", "config"], capture_output=True, text=True, check=False
    ).stdout
    controller = re.search(r"^SlurmctldHost\S*\s*=\s*(\S+?)(?:\((\S+)\))?$", shown, re.MULTILINE)
    return str(get_ip(controller[2] or controller[1]) if controller else get_ip())


def _wait_for_worker(client: Client, problem: str) -> None:
    try:
        client.wait_for_workers(1, timeout=WORKER_LIMIT_S)
    except TimeoutError:
        raise UserError(
            f"{problem} after {WORKER_LIMIT_S:.0f} s; see why, or set compute: scheduler: processes"
        ) from None


@dataclass(frozen=True)
class _Pool:
    """Dask workers behind a client, and how many tasks they take at a time."""

    client: Client
    workers: int

    def run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """Yield the results of tasks in their order."""
        ahead: deque[tuple[str, Future]] = deque()
        try:
            for number, task in enumerate(tasks, 1):
                # One a worker: a task that ends its worker would take what waits there with it.
                while len(ahead) >= _AHEAD * self.workers or self._busy(ahead) >= self.workers:
                    if ahead[0][1].done():
                        yield _result(*ahead.popleft())
                    else:
                        self._wait([future for _, future in ahead if not future.done()])
                name = getattr(task, "name", f"task {number}")
                ahead.append((name, self._submit(function, task)))
            while ahead:
                self._wait([ahead[0][1]])
                yield _result(*ahead.popleft())
        finally:
            self.client.cancel([future for _, future in ahead])

    def _submit(self, function: Callable[[Any], Any], task: Any) -> Future:
        return self.client.submit(_work, function, task, os.getcwd(), pure=False)

    @staticmethod
    def _busy(ahead: deque[tuple[str, Future]]) -> int:
        return sum(not future.done() for _, future in ahead)

    def _wait(self, futures: list[Future]) -> None:
        """Wait for any of the futures, as long as there are workers now and then."""
        from distributed import wait

        alone_s = 0.0
        while True:
            try:
                with self.client.as_current():
                    wait(futures, timeout=_LOOK_S, return_when="FIRST_COMPLETED")
                return
            except TimeoutError:
                alone_s = 0.0 if self.client.nthreads() else alone_s + _LOOK_S
            if alone_s >= WORKER_LIMIT_S:
                raise UserError(
                    f"all Dask workers are lost, and none came back in {WORKER_LIMIT_S:.0f} s"
                )


def _result(name: str, future: Future) -> Any:
    """Return what a task returned, after what it logged."""
    from distributed import KilledWorker

    try:
        value, records = future.result()
    except KilledWorker as error:
        raise UserError(
            f"{name}: {error.allowed_failures + 1} workers died of it one after the other, most "
            "likely for want of memory; give the rule more mem_mb, or fewer workers to share it"
        ) from None
    for record in records:
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    return value


def _work(
    function: Callable[[Any], Any], task: Any, folder: str
) -> tuple[Any, list[logging.LogRecord]]:
    """Do a task in a worker, in the job's folder; return its result and what it logged."""
    _settle()
    said: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(said)
    handler.addFilter(lambda record: not record.name.startswith(("distributed", "tornado")))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with chdir(folder):
            value = function(task)
        return value, [said.get() for _ in range(said.qsize())]
    except Exception as error:
        for _ in range(said.qsize()):
            error.add_note(f"Before: {said.get().getMessage()}")
        raise
    finally:
        root.removeHandler(handler)


@cache
def _settle() -> None:
    """Prepare a worker's process: one thread, and warnings where log records go."""
    import pyarrow as pa
    from threadpoolctl import threadpool_limits

    # For libraries that are loaded later, then for those that are there.
    os.environ.update(_thread_variables(1))
    threadpool_limits(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    logging.captureWarnings(True)
    warnings.simplefilter("default")
    logging.getLogger().setLevel(logging.INFO)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables for a while: processes that start now see them before any library is loaded."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        # All of it: Dask adds to the variables of the process that starts workers.
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _log_levels(levels: dict[str, int]) -> Iterator[None]:
    """Set the levels of loggers for a while."""
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
