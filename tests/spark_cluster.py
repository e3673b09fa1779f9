"""A standalone Spark master and worker on loopback, from pip's pyspark."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryofuse.learning.spark.session import require_java, require_pyspark
from cryofuse.logs import UserError

#: Seconds until a daemon has said that it is ready, and until it has ended.
READY_S, STOP_S = 90, 20
WORKER_CORES, WORKER_MEMORY = 2, "1500m"


def lacking() -> str | None:
    """Return what a Spark session lacks here."""
    try:
        require_pyspark()
        require_java()
    except UserError as error:
        return f"{error} (make test-engines installs pyspark)"
    return None


@contextmanager
def _daemon(folder: Path, ready: str, name: str, *arguments: str) -> Iterator[re.Match]:
    """Run a daemon of Spark and all that it starts; yield what it said when it was ready."""
    import pyspark

    home = Path(pyspark.__file__).parent
    log = folder / f"{name.rsplit('.', 1)[1]}.log"
    command = [home / "bin/spark-class", name, *arguments, "--webui-port", "0"]
    environment = os.environ | {
        "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_LOCAL_DIRS": str(folder), "SPARK_DAEMON_JAVA_OPTS": f"-Djava.io.tmpdir={folder}",
    }  # fmt: skip
    with log.open("w") as out:
        # A session of its own: executors are the worker's children and end with it.
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, cwd=folder, start_new_session=True
        )
    try:
        deadline = time.monotonic() + READY_S
        while not (said := re.search(ready, log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield said
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def start_cluster(folder: Path, worker: bool = True) -> Iterator[str]:
    """Start a master and a worker (or none) with free ports and yield the master's address."""
    name, ready = "org.apache.spark.deploy.master.Master", r"Starting Spark master at (spark://\S+)"
    with _daemon(folder, ready, name, "--host", "127.0.0.1", "--port", "0") as said:
        master = said.group(1)
        if not worker:
            yield master
            return
        options = ["--host", "127.0.0.1", "--cores", str(WORKER_CORES)]
        options += ["--memory", WORKER_MEMORY, "--work-dir", str(folder / "work"), master]
        name, ready = "org.apache.spark.deploy.worker.Worker", "Successfully registered with master"
        with _daemon(folder, ready, name, *options):
            yield master
