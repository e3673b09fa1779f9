"""The whole chain from the archive: the tables of local files, and no secret left anywhere."""

import base64
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.archive import LoginHostError
from tests.conftest import skip_without
from tests.earthdata import MONTHS, QUARTER, Project, assert_same_tables

USER, PASSWORD = "field-worker", "kangerlussuaq+7/Nuuk=Thule&92"
TOKEN = "tasiilaq-token-51c7e2d09b"
LOOK_EVERY_S = 0.02
#: What a run leaves besides Parquet, pictures, and pages that name their inputs.
PLAIN_RESULTS = ("skill/table.csv", "skill/table.md")


class Sampler:
    """Reads the arguments of every process, again and again."""

    def __init__(self):
        self.seen = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self):
        while not self._stop.wait(LOOK_EVERY_S):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    continue

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()


def forms(secret):
    """Return a secret as it may be written: plain, quoted, in hexadecimal, in base64.

    Within longer base64 it begins at one of three places of a group of four characters; those
    that its neighbours share are left out.
    """
    plain = secret.encode()
    found = {plain, quote(secret, safe="").encode(), plain.hex().encode()}
    for offset in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(bytes(offset) + plain)
            start, stop = -(-offset * 4 // 3), (offset + len(plain)) * 4 // 3
            found.add(whole[start:stop])
    return found


def assert_nowhere(secrets, sampler, project, said):
    """No form of a secret is in a file of the project, in arguments, or on the terminal."""
    wanted = re.compile(b"|".join(re.escape(form) for one in secrets for form in forms(one)))
    files = [path for path in project.folder.rglob("*") if path.is_file()]
    parts = {path.relative_to(project.folder).parts[0] for path in files}
    assert {"logs", ".snakemake", "results", "resources", "manifests"} <= parts
    assert not [str(path) for path in files if wanted.search(path.read_bytes())]
    assert not [path for path in project.folder.rglob("*") if wanted.search(bytes(path))]
    assert not [line for line in sampler.seen if wanted.search(line)]
    assert not wanted.search(said.encode())


def rule_seen(sampler, rule):
    return any(f".{rule}.py".encode() in line for line in sampler.seen)


@pytest.fixture(scope="module")
def archive(source):
    served = source.serve(login=True, users={USER: PASSWORD}, tokens=(TOKEN,))
    try:
        archive = served.__enter__()
    except LoginHostError as error:
        skip_without(str(error))
    yield archive
    served.__exit__(None, None, None)


def log_in_project(folder, archive, **config):
    project = Project(folder, archive, **config)
    del project.environment["EARTHDATA_TOKEN"]
    project.environment["REQUESTS_CA_BUNDLE"] = str(archive.ca_bundle)
    return project


@pytest.fixture(scope="module")
def whole(archive, tmp_path_factory):
    """The whole run with a name and a password in netrc; its arguments, and what it said."""
    folder = tmp_path_factory.mktemp("whole")
    project = log_in_project(folder / "project", archive)
    netrc = folder / "netrc"
    netrc.write_text(f"machine localhost login {USER} password {PASSWORD}\n")
    netrc.chmod(0o600)
    project.environment["NETRC"] = str(netrc)
    with Sampler() as sampler:
        said = project.run("all").stdout
        said += project.run("--report", "results/demo/report.html").stdout
    return project, sampler, said


@pytest.fixture(scope="module")
def issued(whole, archive):
    """The token that the log-in host gave out during the run."""
    (token,) = archive.login.tokens_issued
    assert {entry.token for entry in archive.log if entry.scope == "data"} == {"bearer"}
    return token


def test_the_forms_of_a_secret_are_found_wherever_it_stands():
    for before in ("", "a", "ab", "user:"):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(f"{before}{PASSWORD}{before}".encode())
            assert any(form in text for form in forms(PASSWORD))


def test_the_sampler_sees_arguments(whole):
    with Sampler() as sampler:
        mark = "a-mark-for-the-sampler"
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)", mark], check=True)
        time.sleep(2 * LOOK_EVERY_S)
    assert any(mark.encode() in line for line in sampler.seen)
    _, seen, _ = whole
    for rule in ("plan_granules", "plan_collection", "download_granules", "download_mascons"):
        assert rule_seen(seen, rule), rule


def test_neither_token_nor_password_is_left_anywhere(whole, issued):
    project, sampler, said = whole
    assert (project.folder / "results" / "demo" / "report.html").stat().st_size > 100_000
    assert len(issued) > 10
    assert_nowhere([PASSWORD, issued, f"{USER}:{PASSWORD}"], sampler, project, said)


@pytest.mark.parametrize("by", ["name and password", "token"])
def test_secrets_of_the_environment_are_left_nowhere_either(by, archive, tmp_path):
    project = log_in_project(tmp_path / "project", archive, period=QUARTER)
    if by == "token":
        project.environment["EARTHDATA_TOKEN"] = TOKEN
    else:
        project.environment |= {"EARTHDATA_USERNAME": USER, "EARTHDATA_PASSWORD": PASSWORD}
    before = len([entry for entry in archive.log if entry.scope == "login"])
    with Sampler() as sampler:
        said = project.run("download").stdout
    assert rule_seen(sampler, "download_granules")
    assert len(project.cached) == len(project.receipts()) > len(MONTHS)
    logged_in = len([entry for entry in archive.log if entry.scope == "login"]) > before
    assert logged_in == (by != "token")
    secrets = [TOKEN] if by == "token" else [PASSWORD, *archive.login.tokens_issued]
    assert_nowhere(secrets, sampler, project, said)


def read_card(results):
    """Return the features' card without where it came from."""
    card = json.loads((results / "demo" / "features_card.json").read_text())
    assert card.pop("provenance")
    return card


# It runs in the same folder, whose compiled functions it finds: the last of the module.
def test_the_tables_are_those_of_local_files(whole, source):
    project, _, _ = whole
    results = project.folder / "results"
    found = project.tables()
    plain = {name: (results / "demo" / name).read_bytes() for name in PLAIN_RESULTS}
    card = read_card(results)
    receipts = project.receipts()
    assert len(receipts) == len(source.granules()) and receipts["reason"].isna().all()
    results.rename(project.folder / "fetched")
    archive_mascons = project.folder / "resources" / "earthdata" / "mascons" / "jpl.nc"
    archive_mascons.unlink()
    local = {"atl06_dir": str(source.granule_folder), "mascons_file": str(source.mascons)}
    project.configure(source="local", local=local)
    project.run("all")
    expected = project.tables()
    assert len(expected) > 40
    assert_same_tables(found, expected)
    for name, content in plain.items():
        assert (results / "demo" / name).read_bytes() == content, name
    assert read_card(results) == card
    mine = project.receipts().drop(columns="path")
    assert receipts.drop(columns="path").equals(mine)
