"""What a plan fixes, who may share it, and what is wrong with it in a line."""

import json
import re
import shutil

import pytest

from tests.earthdata import CACHE, MONTHS, QUARTER, Project, asked

REISSUED, ADDED = 1, 0
REFUSAL_KEY = {"max_failed_share": 0.7}


@pytest.fixture(scope="module")
def archive(source):
    with source.serve(*MONTHS) as archive:
        yield archive


@pytest.fixture(scope="module")
def told(archive, tmp_path_factory):
    """A project with a plan, what it said twice, and the requests up to each."""
    project = Project(tmp_path_factory.mktemp("planned"), archive, period=QUARTER)
    first = project.run("plan").stdout
    requests = len(archive.log)
    second = project.run("plan").stdout
    return project, first, second, archive.log[:requests], archive.log[requests:]


@pytest.fixture
def planned(told, archive, tmp_path):
    """Return a function: a fresh project that was given the plan alone."""

    def make(name="fresh", **config):
        project = Project(tmp_path / name, archive, period=QUARTER, **config)
        project.share_plan(told[0])
        return project

    return make


def summary(said, source):
    """Say whether the line of totals counts the files that are served, and none as there."""
    # Snakemake's own table of jobs has a total as well, of one number.
    (line,) = re.findall(r"^total(?: +[0-9.]+){8}$", said, flags=re.MULTILINE)
    files = source.granules(*MONTHS)
    gigabytes = f"{sum(path.stat().st_size for path in files) / 1e9:.2f}"
    return line.split()[1:] == [
        *[str(len(files)), gigabytes, "0", "0.00"],
        *[str(len(files)), gigabytes, "0", "0"],
    ]


def test_a_plan_tells_each_time_and_transfers_nothing(told, source):
    project, first, second, before, after = told
    assert summary(first, source) and summary(second, source)
    assert all(f"demo {month}" in said for said in (first, second) for month in MONTHS)
    assert "GRCTellus.JPL" in first
    assert {entry.scope for entry in before} == {"search"}
    assert not after, "the second call asks nobody"
    assert not project.cached


def test_a_shared_plan_is_used_without_any_search(planned, archive, undisturbed):
    project = planned()
    archive.clear_log()
    project.run("download")
    assert not asked(archive, "search")
    assert project.receipts().equals(undisturbed.receipts())
    assert project.jobs("download") == {}
    assert not (project.folder / "logs" / "demo" / "plan_granules").exists()


def test_an_edited_plan_fetches_its_own_period_alone(planned):
    project = planned()
    project.run("download")
    path = project.plan("2018-11")
    path.write_text("# note: read by a person\n" + path.read_text())
    assert project.jobs("download") == {"download_granules": 1, "download": 1}


def test_wrong_rows_are_told_one_line_each(planned):
    project = planned()
    path = project.plan("2018-11")
    lines = path.read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("granule,"))
    lines[head + 1] = lines[head + 1].replace("127.0.0.1", "archive.example")
    columns = lines[head].split(",")
    cells = lines[head + 2].split(",")
    cells[columns.index("size_bytes")] = "-3"
    lines[head + 2] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")
    said = project.refused("download").splitlines()
    wrong = [line for line in said if "row" in line and "expected" in line]
    assert len(wrong) == 2
    assert f"row {head + 2}: url" in wrong[0] and "archive.example" in wrong[0]
    assert f"row {head + 3}: size_bytes" in wrong[1] and "'-3'" in wrong[1]


def test_a_plan_for_less_is_refused_in_a_line(archive, tmp_path):
    yearly = {"start": "2018-10", "end": "2018-11", "length": "year"}
    project = Project(tmp_path / "less", archive, period=yearly)
    project.run("plan")
    project.configure(period={"end": "2018-12"})
    said = project.refused("download").splitlines()
    (line,) = [line for line in said if "was planned for" in line]
    assert "2018-10 to 2018-11" in line and "2018-10 to 2018-12" in line
    project.configure(
        period={"end": "2018-11"},
        region_settings={"demo": {"outline": {"north": 69.0}}},
    )
    said = project.refused("download").splitlines()
    (line,) = [line for line in said if "was planned for" in line]
    assert "another outline" in line
    assert not project.cached


def test_missing_credentials_are_told_in_a_line(archive, tmp_path, planned):
    bare = Project(tmp_path / "bare", archive, period=QUARTER)
    holder = planned("holder")
    for project, target in ((bare, "plan"), (holder, "download")):
        del project.environment["EARTHDATA_TOKEN"]
        project.environment["NETRC"] = str(tmp_path / "no-netrc")
        said = project.refused(target, "--cores", "1", "--config", f"period={json.dumps(QUARTER)}")
        lines = {line.split("ERROR")[-1] for line in said.splitlines() if "no Earthdata" in line}
        assert len(lines) == 1, said
        (line,) = lines
        for part in ("no-netrc", "EARTHDATA_TOKEN", "EARTHDATA_USERNAME", "EARTHDATA_PASSWORD"):
            assert part in line
        assert "machine localhost login NAME password WORD" in line and "chmod 600" in line
        assert "https://urs.earthdata.nasa.gov" in line


# The archive is another one after this test: it stays the last.
def test_a_plan_outlives_what_the_archive_changes(planned, archive, source, tmp_path):
    kept = {path.name for path in source.granules(*MONTHS)}
    gone = sorted(kept)[REISSUED]
    month = f"{gone[6:10]}-{gone[10:12]}"
    archive.reissue(gone)
    other = sorted(kept)[ADDED]
    added = tmp_path / "archive" / other.replace("_006_01", "_006_02")
    added.parent.mkdir()
    shutil.copy(source.granules(*MONTHS)[ADDED], added)
    archive.add_collection("ATL06", "006", [added])
    archive.clear_log()

    strict = planned("strict")
    said = strict.refused("download")
    assert "max_failed_share" in said and f"{gone}: 404" in said

    project = planned("lenient", download=REFUSAL_KEY)
    project.run("download")
    assert not asked(archive, "search")
    receipts = project.receipts().set_index("granule")
    assert set(receipts.index) == kept
    assert set(project.cached) == kept - {gone}
    reasons = receipts["reason"].dropna()
    assert list(reasons.index) == [gone] and "404" in reasons.iloc[0]
    note = json.loads((project.folder / CACHE / "quarantine" / f"{gone}.json").read_text())
    assert note["file"] == gone and "404" in note["reason"]
    assert receipts.loc[gone, "start_time"].strftime("%Y-%m") == month
