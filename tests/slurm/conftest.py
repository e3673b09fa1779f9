"""One Slurm for the session, and the runs on it, which go at the same time."""

import re

import pytest

from tests.conftest import ROOT, skip_without
from tests.earthdata import QUARTER
from tests.slurm.cluster import LoopbackSlurm, lacking
from tests.slurm.project import SlurmProject

#: What a script and its imports do not fit into.
TOO_SMALL_MB = 250
#: Two tiles: each job starts Snakemake twice.
FEW_JOBS = {"elevation": {"tile_m": 2_000_000}}


def require_slurm() -> None:
    """Skip a test where no Slurm can be brought up; in CI it fails."""
    reason = lacking()
    if reason:
        skip_without(reason)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """Two virtual nodes for undisturbed runs, and two that tests may switch off."""
    require_slurm()
    folder = tmp_path_factory.mktemp("slurm")
    with LoopbackSlurm(
        folder, nodes=2, memory_mb=8000, cpus=2, partitions=("main", "rough")
    ) as cluster:
        yield cluster


def disk_of_its_own() -> str:
    """Return the folder of temporary files that the profile proposes."""
    profile = (ROOT / "profiles" / "slurm" / "config.yaml").read_text()
    return re.search(r'^ *# tmpdir: "(.*)"$', profile, re.MULTILINE)[1]


@pytest.fixture(scope="session")
def runs(slurm, request, tmp_path_factory):
    """The runs that modules name as ``RUNS``, all under way; those on one machine are not yet."""
    folder = tmp_path_factory.mktemp("runs")
    needed = {name for item in request.session.items for name in getattr(item.module, "RUNS", ())}
    projects = {}
    if "troubled" in needed:
        # A job's first attempt has two minutes to subset, and none has the memory to filter.
        projects["troubled"] = SlurmProject(folder / "troubled", period=QUARTER).start(
            "filter",
            "--retries",
            "1",
            "--default-resources",
            "slurm_partition=rough",
            "--set-resources",
            "subset_granules:runtime=2 if attempt == 1 else 20",
            f"filter_segments:mem_mb={TOO_SMALL_MB}",
        )
        projects["untroubled"] = SlurmProject(folder / "untroubled", period=QUARTER)
    if "whole" in needed:
        scratch = folder / "scratch"
        projects["whole"] = SlurmProject(folder / "whole", **FEW_JOBS).start(
            "all",
            "--default-resources",
            "tmpdir=" + disk_of_its_own().replace("/scratch/$USER", str(scratch)),
        )
        projects["local"] = SlurmProject(folder / "local", **FEW_JOBS)
    yield projects
    for project in projects.values():
        project.stop()
