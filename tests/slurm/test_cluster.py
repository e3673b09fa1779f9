"""The throw-away Slurm itself: up and down, told from a real one, nothing left behind.

These tests come before the session's own: one can be up at a time.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.slurm import cluster
from tests.slurm.cluster import LoopbackSlurm, SlurmError, wait_until
from tests.slurm.conftest import require_slurm

WAIT_S = 60.0
#: A job that starts a process which leaves its session, and then waits.
JOB = "setsid --fork sleep 7341 & exec sleep 7342"
CRASH = """
import os, signal, sys
from pathlib import Path
from tests.slurm.cluster import LoopbackSlurm
with LoopbackSlurm(Path(sys.argv[1]), nodes=1) as slurm:
    print(slurm.state("n1"), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def type_in(*words):
    """Run a command as typed in the project's root."""
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def sleepers():
    """Return the processes that the test's job has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] in ([b"sleep", b"7341"], [b"sleep", b"7342"]):
            found.append(path)
    return found


def left(folder):
    """Return what is left of a Slurm: processes that hold its files, cgroups, its link."""
    holders = []
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(path).startswith(f"{folder}/"):
                holders.append(path)
        except OSError:
            continue
    groups = list(Path("/sys/fs/cgroup").glob("*/slurm_n*"))
    links = [cluster.SYSTEM_CONF] if cluster.SYSTEM_CONF.is_symlink() else []
    return holders + groups + links


def test_what_up_brings_down_takes(tmp_path):
    require_slurm()
    folder = tmp_path / "slurm"
    before = sorted(Path("/etc/slurm").rglob("*")) if Path("/etc/slurm").exists() else None
    mounts = Path("/proc/mounts").read_text()
    shown = type_in("-m", "tests.slurm", "up", "--nodes", "1", "--memory-mb", "900", str(folder))
    assert shown.returncode == 0, shown.stderr
    try:
        assert "snakemake --profile slurm" in shown.stdout
        assert f"python -m tests.slurm down {folder}" in shown.stdout
        assert cluster.SYSTEM_CONF.resolve() == folder / "slurm.conf"
        slurm = LoopbackSlurm(folder, nodes=1)
        assert slurm.state("n1") == "IDLE"
        node = slurm.scontrol("show", "node", "n1")
        assert "RealMemory=900 " in node and "CPUTot=8 " in node
        again = type_in("-m", "tests.slurm", "up", str(tmp_path / "second"))
        assert again.returncode != 0
        assert again.stderr.splitlines() == [
            f"error: a throw-away Slurm is up already: python -m tests.slurm down {folder}"
        ]
        job = ["sbatch", "--parsable", "--mem=100", "--output=/dev/null", f"--wrap={JOB}"]
        number = subprocess.run(job, check=True, capture_output=True, text=True).stdout.strip()
        wait_until(lambda: len(sleepers()) == 2, WAIT_S, "job with two processes")
        assert [(j.number, j.state, j.node) for j in slurm.squeue()] == [(number, "RUNNING", "n1")]
    finally:
        down = type_in("-m", "tests.slurm", "down", str(folder))
    assert down.returncode == 0, down.stderr
    assert sleepers() == [] and left(folder) == []
    after = sorted(Path("/etc/slurm").rglob("*")) if Path("/etc/slurm").exists() else None
    assert after == before
    assert Path("/proc/mounts").read_text() == mounts


def test_it_goes_down_with_a_caller_that_is_killed(tmp_path):
    require_slurm()
    killed = type_in("-c", CRASH, str(tmp_path / "slurm"))
    assert killed.returncode == -9 and killed.stdout == "IDLE\n", killed.stderr
    wait_until(lambda: not left(tmp_path / "slurm"), WAIT_S, "end of it")


def test_a_real_configuration_is_left_alone(tmp_path, monkeypatch):
    require_slurm()
    conf = tmp_path / "etc" / "slurm.conf"
    conf.parent.mkdir()
    conf.write_text("ClusterName=expanse\n")
    monkeypatch.setattr(cluster, "SYSTEM_CONF", conf)
    with pytest.raises(SlurmError, match=f"a Slurm configuration stands at {conf}"):
        LoopbackSlurm(tmp_path / "slurm").up()
    link = tmp_path / "etc" / "link.conf"
    link.symlink_to(conf)
    monkeypatch.setattr(cluster, "SYSTEM_CONF", link)
    with pytest.raises(SlurmError, match=r"leads to a Slurm configuration in .* not ours"):
        LoopbackSlurm(tmp_path / "slurm").up()
    monkeypatch.setenv("SLURM_CONF", str(conf))
    with pytest.raises(SlurmError, match="SLURM_CONF names a Slurm configuration"):
        LoopbackSlurm(tmp_path / "slurm").up()
    assert not (tmp_path / "slurm").exists()
    assert conf.read_text() == "ClusterName=expanse\n" and link.readlink() == conf


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    require_slurm()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SlurmError, match="is not empty: name a folder of its own"):
        LoopbackSlurm(tmp_path).up()
