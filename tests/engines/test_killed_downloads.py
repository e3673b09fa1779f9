"""A download killed at ten random moments ends as one that nobody disturbed."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import snakemake_command
from tests.earthdata import CACHE, MONTHS, QUARTER, Project

KILLS = 10
#: About two granules a second, so that kills hit in mid-transfer.
RATE_BYTES_S = 1_500_000
#: Share of all bytes that comes before the kills, if none is sent twice: some is left for the end.
SHARE_BEFORE = 0.7
STARTED_WITHIN_S = 240


def session_members(leader):
    """Return the processes of a session."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            members.append(int(stat.parent.name))
    return members


def sent_bytes(archive):
    return sum(entry.bytes_sent for entry in archive.log if entry.scope == "data")


def kill_in_transfer(project, archive, after_bytes):
    """Start a download and kill all of it when so many more bytes were sent."""
    before = sent_bytes(archive)
    run = subprocess.Popen(
        snakemake_command("download"),
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + STARTED_WITHIN_S
    while sent_bytes(archive) - before <= after_bytes and run.poll() is None:
        assert time.monotonic() < deadline, "the transfer does not get on"
        time.sleep(0.005)
    assert run.poll() is None, "the run ended before it could be killed"
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    while session_members(run.pid):
        time.sleep(0.01)


@pytest.fixture(scope="module")
def killed(source, tmp_path_factory):
    """The project after ten kills and a last run; what lay in the cache at each kill."""
    whole = sum(path.stat().st_size for path in [*source.granules(*MONTHS), source.mascons])
    chance = random.Random(6)
    moments = [chance.random() for _ in range(KILLS)]
    moments = [SHARE_BEFORE * whole * moment / sum(moments) for moment in moments]
    with source.serve(*MONTHS, rate_bytes_s=RATE_BYTES_S) as archive:
        project = Project(
            tmp_path_factory.mktemp("killed"), archive, period=QUARTER, download={"parallel": 2}
        )
        project.run("plan")
        folder = project.folder / CACHE
        kills = []
        for moment in moments:
            kill_in_transfer(project, archive, moment)
            parts = {path.name: path.stat().st_size for path in folder.rglob(".*.part")}
            kills.append((len(archive.log), set(project.cached), parts))
        archive._pacer.rate_bytes_s = None
        project.run("download")
        yield project, archive, kills


def test_several_kills_hit_in_mid_transfer(killed):
    _, _, kills = killed
    assert sum(any(parts.values()) for _, _, parts in kills) >= KILLS // 2
    assert len(kills[-1][1]) >= 2, "some files were complete at a kill"


def test_the_cache_holds_what_is_served_and_nothing_else(killed, source):
    project, _, _ = killed
    served = {path.name: path.read_bytes() for path in source.granules(*MONTHS)}
    assert {name: path.read_bytes() for name, path in project.cached.items()} == served
    jpl = project.folder / CACHE / "mascons" / "jpl.nc"
    assert jpl.read_bytes() == source.mascons.read_bytes()
    ends = (".part", ".etag", ".bad", ".tmp")
    left = [path for path in (project.folder / CACHE).rglob("*") if path.name.endswith(ends)]
    assert not left
    assert not list((project.folder / CACHE).glob("quarantine/*"))


def test_the_receipts_are_those_of_an_undisturbed_run(killed, undisturbed):
    project, _, _ = killed
    assert project.receipts().equals(undisturbed.receipts())
    assert project.jobs("download") == {}


def transfers(entries, name):
    return [entry for entry in entries if entry.scope == "data" and entry.name == name]


def test_no_complete_file_is_fetched_twice(killed):
    """The archive counts what it handed to the system, which a kill may have lost on its way.

    So a file may be sent to its end before a kill and again after it, but never after it was
    complete in the cache, nor twice without a kill between.
    """
    _, archive, kills = killed
    log, before = archive.log, 0
    for requests, complete, _ in kills:
        for name in complete:
            assert not transfers(log[requests:], name)
            assert sum(entry.last_byte for entry in transfers(log[before:requests], name)) <= 1
        before = requests
    assert max(sum(one.last_byte for one in transfers(log[before:], n)) for n in names(log)) == 1


def names(log):
    return {entry.name for entry in log if entry.scope == "data"}


def test_what_came_before_a_kill_is_not_fetched_again(killed, source):
    _, archive, kills = killed
    sizes = {path.name: path.stat().st_size for path in [*source.granules(), source.mascons]}
    resumed = 0
    for requests, _, parts in kills:
        for part, size in parts.items():
            name = part.removeprefix(".").removesuffix(".part")
            later = transfers(archive.log[requests:], name)
            if size == sizes[name]:
                assert not later
            elif size:
                assert later[0].status == 206 and later[0].range_start == size
                resumed += 1
    assert resumed >= 3
