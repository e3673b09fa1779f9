"""A throw-away Slurm on loopback: munge, a controller and a few virtual nodes in one folder.

It needs Debian's packages (slurmctld, slurmd, slurm-client, munge) and root, but no systemd. Its
keys, ports, states and logs are its own. Only one can be up on a machine: every Slurm command finds
its configuration through a link at ``/etc/slurm``, because Snakemake's job step drops the
variables that would name it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
DAEMONS = {"munged", "slurmctld", "slurmd", "slurmstepd"}
SYSTEM_CONF = Path("/etc/slurm/slurm.conf")
CGROUPS = Path("/sys/fs/cgroup")
PARTITION = "main"
START_S, STOP_S, POLL_S = 60.0, 20.0, 0.1
JOB_FORMAT = "%i|%T|%N|%k"

_CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{limits}
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Nodes may claim more processors than the machine has.
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
# The plugin asks squeue for jobs that have ended: there is no accounting.
MinJobAge=3600
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0
# A node that says nothing is down after this; one that comes back is used again.
SlurmdTimeout=20
ReturnToService=2
KillWait=2
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_ports} CPUs={cpus} \
RealMemory={memory_mb} State=UNKNOWN
PartitionName={partition} Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_BY_CGROUP = """\
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1"""
_BY_PROCESS = """\
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill"""
_CGROUP_CONF = "CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\nConstrainSwapSpace=no\n"


class SlurmError(RuntimeError):
    """What stands in the way of a throw-away Slurm, in one line."""


def lacking() -> str | None:
    """Return what a throw-away Slurm lacks here, or None."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_search_path()) is None]
    if missing:
        packages = "slurmctld slurmd slurm-client munge"
        return f"no {', '.join(missing)} here (apt-get install {packages})"
    if os.geteuid() != 0:
        return "a throw-away Slurm is brought up as root"
    return _taken(None)


def _search_path() -> str:
    # Daemons are in folders that a plain user's path lacks.
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _taken(folder: Path | None) -> str | None:
    """Return why the system's place of the configuration cannot be had, or None."""
    if os.environ.get("SLURM_CONF"):
        return f"SLURM_CONF names a Slurm configuration ({os.environ['SLURM_CONF']}): unset it"
    if not SYSTEM_CONF.is_symlink():
        if SYSTEM_CONF.exists():
            return f"a Slurm configuration stands at {SYSTEM_CONF}: this machine is a cluster's"
        return None
    other = SYSTEM_CONF.readlink().parent
    if not (other / "munge.key").exists() and (other / "slurm.conf").exists():
        return f"{SYSTEM_CONF} leads to a Slurm configuration in {other} that is not ours"
    if other != folder and any(_daemons(other)):
        return f"a throw-away Slurm is up already: python -m tests.slurm down {other}"
    return None


def _processes() -> Iterator[tuple[int, int, str]]:
    """Yield every process: its number, its parent's, its name."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text()
        except OSError:
            continue
        name, rest = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :]
        state, parent = rest.split()[:2]
        if state != "Z":
            yield int(path.name), int(parent), name


def _opened(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield os.readlink(path)


def _daemons(folder: Path, log: str = "") -> Iterator[int]:
    """Yield the daemons and job steps that hold a log of the folder open."""
    start = f"{folder}/{log}"
    for pid, _, name in _processes():
        if name in DAEMONS and any(file.startswith(start) for file in _opened(pid)):
            yield pid


def _started_by(pids: set[int]) -> set[int]:
    """Return processes with all that they have started."""
    children: dict[int, set[int]] = {}
    for pid, parent, _ in _processes():
        children.setdefault(parent, set()).add(pid)
    found, left = set(pids), list(pids)
    while left:
        new = children.get(left.pop(), set()) - found
        found |= new
        left += new
    return found


def _in_cgroups(node: str) -> set[int]:
    """Return the processes of a node's jobs, where cgroups tell."""
    found = set()
    for path in CGROUPS.glob(f"*/slurm_{node}/**/cgroup.procs"):
        with contextlib.suppress(OSError):
            found |= {int(line) for line in path.read_text().split()}
    return found


def _remove_cgroups(node: str) -> None:
    for top in CGROUPS.glob(f"*/slurm_{node}"):
        for path in sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir()
        with contextlib.suppress(OSError):
            top.rmdir()


def _end(find: Callable[[], set[int]]) -> None:
    """End processes at once: they are stopped first, so that none starts another meanwhile."""
    ended: set[int] = set()
    while new := find() - ended:
        for pid in new:
            _signal(pid, signal.SIGSTOP)
        ended |= new
    for pid in ended:
        _signal(pid, signal.SIGKILL)
    wait_until(
        lambda: not ended & {pid for pid, *_ in _processes()}, STOP_S, "end of its processes"
    )


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _cgroups_writable() -> bool:
    """Return whether memory can be held by cgroups of the first version."""
    for controller in ("memory", "freezer"):
        probe = CGROUPS / controller / f"probe-{os.getpid()}"
        try:
            probe.mkdir()
            limited = controller != "memory" or (probe / "memory.limit_in_bytes").exists()
            probe.rmdir()
        except OSError:
            return False
        if not limited:
            return False
    return True


def _free_ports(count: int) -> list[int]:
    """Return free ports that follow one another."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        ports = list(range(first, first + count))
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            for port in ports:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return ports


def wait_until(holds: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise SlurmError(f"after {seconds:.0f} s there is still no {what}")
        time.sleep(POLL_S)


class Job(NamedTuple):
    """A job as Slurm knows it; the comment is the plugin's: ``rule_NAME_wildcards_…``."""

    number: str
    state: str
    node: str
    comment: str

    @property
    def rule(self) -> str:
        """Its rule."""
        return self.comment.removeprefix("rule_").split("_wildcards_")[0]


class LoopbackSlurm:
    """A Slurm in a folder, to be entered or brought up and taken down.

    Parameters
    ----------
    folder
        Holds its configuration, key, states and logs; made if it is not there.
    nodes
        How many virtual nodes, named n1, n2, …
    memory_mb
        Of each node; what jobs ask for is held against it, and jobs to what they ask for.
    cpus
        Of each node; they may be more than the machine has.
    """

    def __init__(self, folder: Path, nodes: int = 2, memory_mb: int = 16000, cpus: int = 8) -> None:
        self.folder = Path(folder).resolve()
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self.memory_mb, self.cpus = memory_mb, cpus
        self._guard: subprocess.Popen | None = None

    def up(self) -> Self:
        """Bring it up; in a few seconds every node takes jobs."""
        reason = lacking()
        if reason:
            raise SlurmError(reason)
        if self.folder.exists() and any(self.folder.iterdir()):
            raise SlurmError(f"{self.folder} is not empty: name a folder of its own")
        self.folder.mkdir(parents=True, exist_ok=True)
        # munged takes no key that others may reach.
        self.folder.chmod(0o755)
        self._write()
        self._link()
        try:
            self._start_munge()
            self._run("slurmctld", "-f", self.conf)
            for node in self.nodes:
                self.start_node(node)
            for node in self.nodes:
                wait_until(lambda node=node: self.state(node) == "IDLE", START_S, f"node {node}")
        except (SlurmError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or str(error)
            self.down()
            raise SlurmError(f"{said.strip()} (logs are in {self.folder})") from None
        return self

    def down(self) -> None:
        """Take it down: no process, cgroup or link of it is left; its folder stays."""
        nodes = [path.name.removeprefix("spool-") for path in self.folder.glob("spool-*")]
        _end(
            lambda: _started_by(set(_daemons(self.folder))).union(
                *(_in_cgroups(node) for node in nodes)
            )
        )
        for node in nodes:
            _remove_cgroups(node)
        self._unlink()
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None

    def __enter__(self) -> Self:
        # It goes down with the process that brought it up, also when that is killed.
        down = [sys.executable, "-m", "tests.slurm", "down", "--when-closed", str(self.folder)]
        root = Path(__file__).parents[2]
        self._guard = subprocess.Popen(
            down, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            return self.up()
        except BaseException:
            self._guard.kill()
            self._guard.communicate()
            raise

    def __exit__(self, *error) -> None:
        self.down()

    @property
    def conf(self) -> Path:
        """Its configuration."""
        return self.folder / "slurm.conf"

    def start_node(self, name: str) -> None:
        """Switch a node on."""
        self._run("slurmd", "-f", self.conf, "-N", name)

    def stop_node(self, name: str) -> None:
        """Take a node's power away: its daemon and its jobs end without a word."""
        if not any(_daemons(self.folder, f"slurmd-{name}.log")):
            raise SlurmError(f"node {name} is not on")
        _end(
            lambda: (
                _started_by(set(_daemons(self.folder, f"slurmd-{name}.log"))) | _in_cgroups(name)
            )
        )
        _remove_cgroups(name)

    def state(self, node: str) -> str:
        """Return what the controller says of a node."""
        told = self._ask(
            "sinfo", "--noheader", "--nodes", node, "--partition", PARTITION, "--format=%T"
        )
        return told.upper()

    def squeue(self) -> list[Job]:
        """Return every job, ended ones too, in the order of submission."""
        told = self._ask("squeue", "--noheader", "--states=all", f"--format={JOB_FORMAT}")
        jobs = [Job(*line.split("|", 3)) for line in told.splitlines()]
        return sorted(jobs, key=lambda job: int(job.number))

    def scancel(self, number: str) -> None:
        """End a job."""
        self._ask("scancel", number)

    def scontrol(self, *words: str) -> str:
        """Return what scontrol says."""
        return self._ask("scontrol", *words)

    def _ask(self, *words: str) -> str:
        return self._run(*words).stdout.strip()

    def _run(self, *words: str | Path) -> subprocess.CompletedProcess:
        return subprocess.run(
            words,
            env=os.environ | {"PATH": _search_path(), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )

    def _start_munge(self) -> None:
        files = {
            "key-file": "munge.key",
            "socket": "munge.socket",
            "pid-file": "munge.pid",
            "log-file": "munge.log",
            "seed-file": "munge.seed",
        }
        self._run("munged", "--force", *(f"--{key}={self.folder / n}" for key, n in files.items()))

    def _write(self) -> None:
        controller, *ports = _free_ports(len(self.nodes) + 1)
        cgroups = _cgroups_writable()
        text = _CONF.format(
            folder=self.folder,
            host=socket.gethostname().split(".")[0],
            limits=_BY_CGROUP if cgroups else _BY_PROCESS,
            controller_port=controller,
            nodes=f"n[1-{len(self.nodes)}]",
            node_ports=f"{ports[0]}-{ports[-1]}",
            cpus=self.cpus,
            memory_mb=self.memory_mb,
            partition=PARTITION,
        )
        self.conf.write_text(text)
        if cgroups:
            (self.folder / "cgroup.conf").write_text(_CGROUP_CONF)
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))

    def _link(self) -> None:
        if SYSTEM_CONF.is_symlink():
            # Left by one that is no longer up.
            SYSTEM_CONF.unlink()
        if not SYSTEM_CONF.parent.is_dir():
            SYSTEM_CONF.parent.mkdir()
            (self.folder / "made-etc-slurm").touch()
        SYSTEM_CONF.symlink_to(self.conf)

    def _unlink(self) -> None:
        if SYSTEM_CONF.is_symlink() and SYSTEM_CONF.readlink() == self.conf:
            SYSTEM_CONF.unlink()
        if (self.folder / "made-etc-slurm").exists():
            with contextlib.suppress(OSError):
                SYSTEM_CONF.parent.rmdir()
