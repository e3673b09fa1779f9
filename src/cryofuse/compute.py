"""Who does the tasks of a job: the job itself, processes beside it, or Dask workers elsewhere.

Library functions take ``run``, which maps a function over independent tasks; scripts get one from
:func:`open_job_workers`. Results come in the order of the tasks and do not depend on who did them.
Tasks travel by value: files that they name must be the workers' too, nothing else is shared.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, chdir, contextmanager
from dataclasses import dataclass
from functools import cache
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from cryofuse.config import ComputeSettings
from cryofuse.logs import UserError

if TYPE_CHECKING:
    from distributed import Client, Future, Security

#: Maps a function over independent tasks: results in the order of the tasks.
Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]

#: Tasks under way or done and not yet asked for, in workers: memory stays bounded.
_AHEAD = 2
#: Longest wait for a scheduler to answer (s).
CONNECT_LIMIT_S = 30.0
#: Longest time without any worker, such as in Slurm's queue, before a job gives up: a share of what
#: it may take, so that it says so before its own limit ends it.
WAIT_SHARE = 0.9
#: Time that a job may take where its rule says nothing (minutes).
RUNTIME_MIN = 30.0
#: What a job's script and the two Snakemakes around it take beside its workers (MB).
JOB_MB = 1000
#: A worker with the libraries of learning (270 MB), and half as much for a small task (MB).
LEAST_WORKER_MB = 400
#: The process that starts a worker in Slurm and looks after it (MB).
NANNY_MB = 250
#: How often a job that waits looks whether there are workers at all (s).
_LOOK_S = 5.0
#: What numerical libraries read when they are loaded. Arrow and XGBoost go by OpenMP's.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
#: Dask keeps little in workers here: no file to spill to, and no worker that waits for memory
#: which never comes back. What takes too much is stopped, as a cluster would.
_DASK = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.worker-saturation": 1.0,
    # Half of what idle workers cost is looking at themselves.
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
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


def open_job_workers(snakemake: Any) -> AbstractContextManager[Run]:
    """Open the workers of a rule's job: the configuration's, with what the rule may take."""
    settings = ComputeSettings.model_validate(snakemake.config.get("compute") or {})
    given = snakemake.resources
    return open_workers(settings, snakemake.threads, given.mem_mb, given.runtime)


@contextmanager
def open_workers(
    settings: ComputeSettings, threads: int, memory_mb: float, runtime_min: float = RUNTIME_MIN
) -> Iterator[Run]:
    """Open the workers of a job, and close them whatever happens, also when the job is ended.

    What is yielded takes a function and its tasks, which may be made as they are asked for, and
    yields results in the order of the tasks; no more than two tasks a worker are ahead of the
    one asked for. An exception of a task is raised here. A worker that dies costs its task,
    which others do again. A task with an attribute ``name`` is called by it in errors.

    Parameters
    ----------
    settings
        Whose workers, and how many.
    threads
        Threads of the job's rule: the most processes beside it, or where it works alone the
        threads of its libraries. In workers libraries use one.
    memory_mb
        Memory of the job's rule (MB): what it needs itself, and equal shares for its workers.
    runtime_min
        Time that the job may take (minutes): that of its workers in Slurm, and with a margin the
        longest wait for one.

    Raises
    ------
    UserError
        If there is no scheduler or no worker, or a task ends every worker that takes it.
    """
    patience_s = WAIT_SHARE * 60 * runtime_min
    # Libraries of the job wait while processes beside it work on the same cores.
    own_threads = threads
    if settings.scheduler == "processes":
        workers = min(settings.workers or threads, threads)
        if workers == 1:
            with limit_threads(threads):
                yield run_serially
            return
        own_threads = 1
        opened = _processes(workers, worker_memory(memory_mb, workers), patience_s)
    elif settings.address == "slurm":
        memory = worker_memory(memory_mb, threads)
        opened = _slurm_jobs(settings.workers or threads, memory, runtime_min, patience_s)
    else:
        opened = _scheduler(str(settings.address), settings.workers, patience_s)
    import dask.config
    import distributed  # noqa: F401  so that the levels of its loggers are set, to be set again

    with (
        _end_by_exception(),
        dask.config.set(_DASK),
        _log_levels(_JOB_LOGGING),
        opened as pool,
        limit_threads(own_threads),
    ):
        yield pool.run


def worker_memory(memory_mb: float, workers: int) -> float:
    """Return a worker's share (MB) of a job's memory (MB), of which the job itself has its own."""
    return max((memory_mb - JOB_MB) / workers, LEAST_WORKER_MB)


@contextmanager
def _end_by_exception() -> Iterator[None]:
    """Let SIGTERM, by which Slurm ends jobs, end this one as an exception: what is open is closed.

    Handlers of signals belong to the main thread; in another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        # Once: what is being closed is not interrupted.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
def _processes(workers: int, memory_mb: float, patience_s: float) -> Iterator[_Pool]:
    """Open processes on this machine: Dask starts them afresh (spawn), as HDF5 needs it."""
    from distributed import Client, LocalCluster, Security

    with (
        _environment(_worker_variables()),
        _own_folder() as folder,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            memory_limit=f"{memory_mb:.0f}MB",
            local_directory=folder,
            # Others on this machine reach the port, but have no certificate of the job.
            security=Security.temporary(),
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield _Pool(client, workers, patience_s)


@contextmanager
def _scheduler(address: str, workers: int | None, patience_s: float) -> Iterator[_Pool]:
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
        _wait_for_worker(client, f"the Dask scheduler at {address} has no worker", patience_s)
        yield _Pool(client, workers or sum(client.nthreads().values()), patience_s)


@contextmanager
def _slurm_jobs(
    workers: int, memory_mb: float, runtime_min: float, patience_s: float
) -> Iterator[_Pool]:
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
        # Workers read the certificates of the job where the run is, which they share.
        TemporaryDirectory(dir=os.getcwd(), prefix=".workers-") as shared,
        SLURMCluster(
            cores=1,
            processes=1,
            memory=f"{memory_mb:.0f}MB",
            job_mem=f"{memory_mb + NANNY_MB:.0f}M",
            walltime=str(math.ceil(runtime_min)),
            queue=os.environ.get("SLURM_JOB_PARTITION"),
            account=os.environ.get("SLURM_JOB_ACCOUNT"),
            job_extra_directives=directives,
            job_script_prologue=[
                *site["job-script-prologue"],
                *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
            ],
            scheduler_options=options,
            security=_write_certificates(Path(shared)),
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        asked = subprocess.run(
            ["sbatch", "--test-only"],
            input=cluster.job_script(),
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode:
            raise UserError(
                f"compute: address: Slurm refuses jobs of Dask workers ({asked.stderr.strip()}); "
                "mend jobqueue.slurm in Dask's configuration"
            )
        cluster.adapt(minimum_jobs=workers, maximum_jobs=workers)
        _wait_for_worker(client, "no Dask worker has come out of Slurm's queue", patience_s)
        yield _Pool(client, workers, patience_s)


def _write_certificates(folder: Path) -> Security:
    """Make certificates for one job, in files of a folder that nobody else may read."""
    from distributed import Security

    made = Security.temporary().get_tls_config_for_role("worker")
    paths = {name: str(folder / f"{name}.pem") for name in ("ca_file", "cert", "key")}
    for name, path in paths.items():
        Path(path).write_text(made[name])
    roles = {
        f"tls_{role}_{name}": paths[name]
        for role in ("client", "scheduler", "worker")
        for name in ("cert", "key")
    }
    return Security(require_encryption=True, tls_ca_file=paths["ca_file"], **roles)


def _worker_variables() -> dict[str, str]:
    """Return the variables of a worker's process: one thread, and the settings of Dask here."""
    import dask.config

    told = dask.config.merge(dask.config.global_config, {"logging": _WORKER_LOGGING})
    inherited = {"DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(told)}
    return _thread_variables(1) | inherited


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


def _wait_for_worker(client: Client, problem: str, patience_s: float) -> None:
    try:
        client.wait_for_workers(1, timeout=patience_s)
    except TimeoutError:
        raise UserError(
            f"{problem} after {patience_s:.0f} s; see why, or set compute: scheduler: processes"
        ) from None


@dataclass(frozen=True)
class _Pool:
    """Dask workers behind a client, how many tasks they take at a time, and waits for them (s)."""

    client: Client
    workers: int
    patience_s: float

    def run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """Yield the results of tasks in their order."""
        from distributed import CancelledError
        from distributed.client import ClosedClientError
        from distributed.comm import CommClosedError

        ahead: deque[tuple[str, Future]] = deque()
        try:
            for number, task in enumerate(tasks, 1):
                if len(ahead) == _AHEAD * self.workers:
                    yield self._result(*ahead.popleft())
                name = getattr(task, "name", f"task {number}")
                ahead.append((name, self._submit(function, task)))
            while ahead:
                yield self._result(*ahead.popleft())
        except (CancelledError, ClosedClientError, CommClosedError):
            raise UserError(
                "compute: address: the Dask scheduler has gone in the middle of the work, and the "
                "tasks with it; start it again, then the same run"
            ) from None
        finally:
            self.client.cancel([future for _, future in ahead])

    def _submit(self, function: Callable[[Any], Any], task: Any) -> Future:
        from dask._task_spec import Task

        # What makes data waits at the scheduler until a worker is free: a task that ends its worker
        # takes no other with it, and gets no other blamed.
        key = f"task-{uuid4()}"
        made = Task(key, _work, function, task, os.getcwd(), _data_producer=True)
        return self.client.get({key: made}, [key], sync=False)[0]

    def _result(self, name: str, future: Future) -> Any:
        """Return what a task returned, after what it logged."""
        from distributed import KilledWorker

        self._wait(future)
        try:
            value, records = future.result()
        except KilledWorker as error:
            raise UserError(
                f"{name}: {error.allowed_failures + 1} workers died of it one after the other, "
                "most likely for want of memory; give the rule more mem_mb, or fewer workers to "
                "share it"
            ) from None
        for record in records:
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        return value

    def _wait(self, future: Future) -> None:
        """Wait for a future, as long as there are workers now and then."""
        from distributed import CancelledError, wait

        alone_s = 0.0
        while True:
            try:
                with self.client.as_current():
                    wait(future, timeout=_LOOK_S)
                return
            except TimeoutError:
                try:
                    alone_s = 0.0 if self.client.nthreads() else alone_s + _LOOK_S
                except OSError:
                    # The scheduler does not answer.
                    raise CancelledError from None
            if alone_s >= self.patience_s:
                raise UserError(
                    f"all Dask workers are lost, and none came back in {self.patience_s:.0f} s"
                )


def _work(
    function: Callable[[Any], Any], task: Any, folder: str
) -> tuple[Any, list[logging.LogRecord]]:
    """Do a task in a worker, in the job's folder; return its result and what it logged."""
    _settle()
    said: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(said)
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
    from distributed import get_worker
    from threadpoolctl import threadpool_limits

    worker = get_worker()
    if worker.state.nthreads > 1:
        # The folder of a process and its log handlers are those of all its threads.
        raise UserError(
            f"the Dask worker at {worker.address} has {worker.state.nthreads} threads, and tasks "
            "need processes of their own: start workers with dask worker --nthreads 1"
        )

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
