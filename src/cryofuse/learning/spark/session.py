"""A Spark session of one job: opened, and closed without a trace.

What decides results (time zone, numbers of partitions) is set here and the same everywhere;
sizes of executors, queues and the like are the cluster's and come from its
``spark-defaults.conf`` or from ``spark-submit``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import cryofuse
from cryofuse.config import PYSPARK_MISSING, LearningSettings, is_loopback, master_kind
from cryofuse.logs import UserError

if TYPE_CHECKING:
    from py4j.java_gateway import JavaGateway
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)

#: Oldest Java that Spark 4 runs on.
JAVA = 17
#: Partitions after a shuffle. A number of its own: Spark's default is that of cores, and sums
#: over other partitions differ in their last digits.
PARTITIONS = 8
#: Share of a job's memory that the heap takes; Python and the JVM's own tables take the rest.
HEAP_SHARE = 0.5
#: Smallest heap that Spark starts with, with room to work.
SMALLEST_HEAP_MB = 600
#: Seconds within which Java tells its version, a master answers, Spark starts, an executor works
#: and the JVM ends.
JAVA_S, CONNECT_S, START_S, EXECUTOR_S, STOP_S = 30, 10, 180, 120, 20

#: Settings that results may depend on.
RESULTS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": str(PARTITIONS),
    "spark.default.parallelism": str(PARTITIONS),
    # Adaptive execution merges partitions by the number of cores.
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}
#: A local driver's ports are open to other users of the machine: who has not the secret, which
#: Spark draws for itself and keeps, is sent away. A cluster has a secret of its own, or none.
_GUARDED = {"spark.authenticate": "true", "spark.network.crypto.enabled": "true"}
_QUIET = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "WARN",
    "spark.sql.catalogImplementation": "in-memory",
}


def describe_engine(session: SparkSession) -> dict[str, str]:
    """Return the engine of a session for the provenance of tables: no host, no address."""
    kind = master_kind(str(session.sparkContext.master))
    return {"name": "spark", "version": session.version, "master": kind}


def require_pyspark() -> None:
    """Check that pyspark is installed; a :class:`UserError` says how to mend it."""
    if importlib.util.find_spec("pyspark") is None:
        raise UserError(PYSPARK_MISSING)


def require_java() -> None:
    """Check that the Java that Spark would start is there and young enough.

    Raises
    ------
    UserError
        With what was found and how to mend it.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else "java"
    if shutil.which(java) is None:
        where = f"JAVA_HOME names {home}, which holds none" if home else "the path holds none"
        raise UserError(
            f"Spark needs Java {JAVA} or newer, and {where}: install it (Debian: "
            f"openjdk-{JAVA}-jre-headless) or load your cluster's module"
        )
    try:
        told = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=JAVA_S
        ).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"Spark needs Java {JAVA} or newer, and {java} fails: {error}") from None
    version = re.search(r'version "((\d+)[^"]*)"', told)
    if version is None or int(version[2]) < JAVA:
        found = version[1] if version else (told.strip().splitlines() or ["nothing"])[-1]
        raise UserError(
            f"Spark needs Java {JAVA} or newer, and {java} is {found}: install it, and let "
            "JAVA_HOME name its folder"
        )


def require_master(master: str) -> None:
    """Check that a standalone master answers: Spark itself would try for a minute.

    Raises
    ------
    UserError
        With what was found and how to mend it.
    """
    if master_kind(master) != "standalone":
        return
    found = ""
    for place in master.removeprefix("spark://").split(","):
        host, port = place.split(":")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        except OSError as error:
            found = str(error)
        else:
            return
    raise UserError(
        f"no Spark master answers at {master} ({found}): start it, or set learning.master to "
        "one that runs (local[*] needs none)"
    )


@contextmanager
def _environment(on_loopback: bool) -> Iterator[None]:
    """Set the variables that Spark starts with, and take back all of Spark's afterwards."""
    before = dict(os.environ)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if on_loopback:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    elif is_loopback(os.environ.get("SPARK_LOCAL_IP")):
        # Pandera sets it where it finds pyspark; no cluster reaches a driver there.
        del os.environ["SPARK_LOCAL_IP"]
    try:
        yield
    finally:
        for name in {*before, *os.environ}:
            if name.startswith(("SPARK_", "PYSPARK_")):
                os.environ.pop(name, None)
                os.environ.update({name: before[name]} if name in before else {})


@contextmanager
def _restore_interrupt() -> Iterator[None]:
    """Take back Spark's own answer to an interrupt, which outlives its session."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _relay(pipe: int) -> None:
    """Log what the JVM writes, line by line, until it ends."""
    spoken = logging.getLogger("spark")
    with open(pipe, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.strip():
                spoken.info("%s", line.rstrip())


@contextmanager
def _gateway(settings: dict[str, str]) -> Iterator[JavaGateway]:
    """Start a JVM whose words go to the log, and end it; take one that runs already as it is."""
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkRuntimeError
    from pyspark.java_gateway import launch_gateway

    running = SparkContext._gateway
    if running is not None and (running.proc is None or running.proc.poll() is None):
        yield running
        return
    # Spark keeps a JVM that was killed in mind.
    SparkContext._gateway = SparkContext._jvm = None
    reading, writing = os.pipe()
    listener = threading.Thread(target=_relay, args=(reading,), daemon=True)
    listener.start()
    conf = SparkConf(loadDefaults=False).setAll(list(settings.items()))
    try:
        gateway = launch_gateway(conf, {"stdout": writing, "stderr": writing})
    except PySparkRuntimeError:
        raise UserError("Java did not start for Spark: its own words stand in the log") from None
    finally:
        os.close(writing)
    try:
        yield gateway
    finally:
        gateway.shutdown()
        process = gateway.proc
        if process is not None:
            # The JVM ends with its standard input.
            process.stdin.close()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        listener.join(STOP_S)
        # Spark keeps them for a JVM that is no more.
        SparkContext._gateway = None
        SparkContext._jvm = None


@contextmanager
def open_session(
    master: str | None, name: str, cores: int, memory_mb: int
) -> Iterator[SparkSession]:
    """Open a Spark session for a job; a session that runs already is used as it is.

    Parameters
    ----------
    master
        Spark master. ``local[*]`` takes ``cores``, never all of a shared node; ``local[4]`` is
        taken as typed. None takes the one that ``spark-submit`` was given.
    name
        Name of the application.
    cores
        Threads of the job.
    memory_mb
        Memory of the job, MB. Half of it is the heap of the driver, which holds all data under a
        local master; under ``spark-submit`` the heap is the one that was asked for there.

    Yields
    ------
    SparkSession
        It is stopped afterwards, its JVM ended and its temporary files removed.

    Raises
    ------
    UserError
        Where pyspark or Java lacks, or no master or executor answers.
    """
    require_pyspark()
    from pyspark.sql import SparkSession

    running = SparkSession.getActiveSession()
    if running is not None:
        yield running
        return
    require_java()
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    if master is None and not submitted:
        raise UserError("no Spark master: set learning.master, or start through spark-submit")
    if master is not None:
        require_master(master)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="spark-"))
        settings = RESULTS | _QUIET | _settings_of_driver(folder, memory_mb)
        if master is not None:
            settings["spark.master"] = re.sub(r"^local\[\*", f"local[{cores}", master)
            settings |= _GUARDED if master_kind(master) == "local" else {}
        on_loopback = master is not None and _on_loopback(master)
        if on_loopback:
            settings["spark.driver.host"] = "127.0.0.1"
            settings["spark.driver.bindAddress"] = "127.0.0.1"
        settings["spark.app.name"] = name
        stack.enter_context(_environment(on_loopback))
        stack.enter_context(_restore_interrupt())
        gateway = stack.enter_context(_gateway(settings))
        session = _start(gateway, settings)
        stack.callback(session.stop)
        _require_executor(session)
        logger.info("Spark %s on %s", session.version, session.sparkContext.master)
        yield session


def _settings_of_driver(folder: str, memory_mb: int) -> dict[str, str]:
    """Return the driver's memory and its folders, and the way to the package for executors."""
    return {
        "spark.driver.memory": f"{max(int(HEAP_SHARE * memory_mb), SMALLEST_HEAP_MB)}m",
        "spark.driver.extraJavaOptions": f"-Djava.io.tmpdir={folder}",
        "spark.local.dir": folder,
        "spark.sql.warehouse.dir": f"{folder}/warehouse",
        "spark.executorEnv.PYTHONPATH": str(Path(cryofuse.__file__).parents[1]),
    }


def _on_loopback(master: str) -> bool:
    """Return whether all of Spark runs on this machine: a cluster has to reach the driver."""
    kind = master_kind(master)
    if kind == "standalone":
        places = master.removeprefix("spark://").split(",")
        return all(is_loopback(place.split(":")[0]) for place in places)
    return kind == "local"


def _start(gateway: JavaGateway, settings: dict[str, str]) -> SparkSession:
    from py4j.protocol import Py4JError
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    conf: Any = SparkConf(_jvm=gateway.jvm)
    conf.setAll(list(settings.items()))
    master = conf.get("spark.master")
    late = threading.Event()

    def give_up() -> None:
        late.set()
        gateway.proc.kill()
        gateway.proc.wait()

    # A resource manager that does not answer would be waited for without end.
    timer = threading.Timer(START_S, give_up) if gateway.proc else None
    if timer:
        timer.start()
    try:
        SparkContext(gateway=gateway, conf=conf)
        return SparkSession.builder.getOrCreate()
    except (Py4JError, OSError) as error:
        logger.exception("Spark did not start")
        reason = f"not within {START_S} s" if late.is_set() else _first_line(error)
        raise UserError(f"Spark did not start on {master}: {reason} (more in the log)") from None
    finally:
        if timer:
            timer.cancel()


def _first_line(error: Exception) -> str:
    """Return the first line of what an error says, its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _require_executor(session: SparkSession) -> None:
    """Check that a task finds an executor: Spark itself would wait for one without end."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    context = session.sparkContext
    if master_kind(str(context.master)) == "local":
        return
    ended, late = threading.Event(), threading.Event()

    def give_up() -> None:
        waited = ended.wait(EXECUTOR_S)
        # Again and again: what is not submitted yet cannot be cancelled.
        while not waited:
            late.set()
            context.cancelAllJobs()
            waited = ended.wait(1)

    threading.Thread(target=give_up, daemon=True).start()
    try:
        session.range(1).count()
    except (PySparkException, Py4JError) as error:
        logger.exception("the first task failed")
        if not late.is_set():
            raise UserError(
                f"the first task on {context.master} failed: {_first_line(error)} (more in the log)"
            ) from None
        raise UserError(
            f"no executor of {context.master} took a task within {EXECUTOR_S} s: it needs a "
            "worker with free cores and memory (spark.executor.memory; more in the log)"
        ) from None
    finally:
        ended.set()


def open_job_session(snakemake: Any) -> AbstractContextManager[SparkSession]:
    """Open the Spark session of a job, see :func:`open_session`.

    Parameters
    ----------
    snakemake
        The object that Snakemake hands to a script. The master is in its configuration, not
        among its params: where Spark runs is no reason to run again.
    """
    learning = LearningSettings.model_validate(snakemake.config.get("learning", {}))
    return open_session(
        learning.master, snakemake.rule, snakemake.threads, snakemake.resources.mem_mb
    )
