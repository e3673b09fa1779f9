"""One Slurm for the session, and the runs on it, which all go at the same time."""

import os

import pytest

from tests.slurm.cluster import LoopbackSlurm, lacking


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """Two virtual nodes for undisturbed runs, and two that tests may switch off."""
    reason = lacking()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    with LoopbackSlurm(
        folder, nodes=2, memory_mb=8000, cpus=2, partitions=("main", "rough")
    ) as cluster:
        yield cluster
