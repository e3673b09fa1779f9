"""A copy of the project that runs a small synthetic world on the loopback Slurm."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from tests.conftest import copy_project, snakemake_command
from tests.earthdata import merged, small_config
from tests.slurm.cluster import OPTIONS, Job, LoopbackSlurm, wait_until

#: The nodes have few processors: a job takes one, and that of one rule two.
THREADS = ["fit_nodes=2"] + [
    f"{rule}=1" for rule in ("subset_granules", "score_skill", "trace_learning", "explain_variance")
]
WAIT_S = 300.0


class SlurmProject:
    """A copy of the project with its own configuration."""

    def __init__(self, folder: Path, **config):
        folder.mkdir(parents=True)
        self.folder = copy_project(folder)
        self.configure(**config)
        self._run: subprocess.Popen | None = None

    def configure(self, **config):
        """Write the configuration: that of the small world with other keys."""
        text = yaml.safe_dump(merged(small_config(), config))
        (self.folder / "tiny.yaml").write_text(text)

    def start(self, target: str, *options: str, local: bool = False, **environment: str):
        """Start Snakemake, as typed, with what this Slurm needs."""
        if local:
            command = snakemake_command(target, *options)
        else:
            typed = [target, "--profile", "slurm", "--configfile", "tiny.yaml", *OPTIONS]
            command = [sys.executable, "-m", "snakemake", *typed, "--set-threads", *THREADS]
            command += options
        with (self.folder / "said.txt").open("w") as said:
            self._run = subprocess.Popen(
                command,
                cwd=self.folder,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        return self

    def finish(self, fails: bool = False) -> str:
        """Wait for the run, and return what it said on the terminal."""
        code = self._run.wait()
        said = (self.folder / "said.txt").read_text()
        assert (code != 0) == fails, f"it ended with {code}:\n{said}"
        return said

    def stop(self):
        """End a run that goes on after a test has failed."""
        if self._run is not None and self._run.poll() is None:
            self._run.kill()
            self._run.wait()

    def jobs(self, slurm: LoopbackSlurm) -> list[Job]:
        """Return the jobs that were sent to nodes, in order, by Slurm's own record."""
        return [job for job in slurm.squeue() if job.folder == str(self.folder)]

    def hold(self, slurm: LoopbackSlurm, rule: str, wildcard: str) -> Job:
        """Wait until a job's script runs, and stop its clock: it hangs from then on."""
        held: list[Job] = []

        def stopped():
            assert self._run.poll() is None, (self.folder / "said.txt").read_text()
            for job in self.jobs(slurm):
                if job.rule == rule and job.comment.endswith(wildcard) and job.state == "RUNNING":
                    for pid in scripts(rule, job.number):
                        os.kill(pid, signal.SIGSTOP)
                        held.append(job)
            return held

        wait_until(stopped, WAIT_S, f"job of {rule} {wildcard}")
        return held[0]

    def tables(self):
        """Return all Parquet files but manifests, which hold paths, by their place."""
        results = self.folder / "results" / "demo"
        return {
            str(path.relative_to(results)): pq.ParquetFile(path).read()
            for path in sorted(results.rglob("*.parquet"))
            if "acquire" not in path.relative_to(results).parts and path.name[0] != "."
        }


def scripts(rule: str, number: str) -> list[int]:
    """Return the processes that run a rule's script in a Slurm job."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            if any(word.endswith(f".{rule}.py".encode()) for word in words):
                variables = (path / "environ").read_bytes().split(b"\0")
                if f"SLURM_JOB_ID={number}".encode() in variables:
                    found.append(int(path.name))
        except OSError:
            continue
    return found
