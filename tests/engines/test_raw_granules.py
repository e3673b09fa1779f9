"""Raw granules that do not stay, and granules cut at the archive: the same tables either way."""

import shutil

import pyarrow.parquet as pq
import pytest
import yaml

from tests.archive.harmony import HarmonyService
from tests.earthdata import CACHE, MONTHS, QUARTER, Project, asked, assert_same_tables

REMOVED = [f"{CACHE}/removed/demo/{month}.csv" for month in MONTHS]
ALTIMETRY = ("altimetry/subset", "altimetry/ledger/subset")
#: A configuration value for the command line that cuts other tiles: the subset is made anew.
OTHER_TILES = "elevation={tile_m: 400000}"


@pytest.fixture(scope="module")
def archive(source):
    with source.serve(*MONTHS) as archive:
        yield archive


@pytest.fixture(scope="module")
def emptied(archive, tmp_path_factory):
    """A project that keeps no raw granules, after its subsets were written."""
    folder = tmp_path_factory.mktemp("emptied")
    project = Project(folder, archive, period=QUARTER, download={"keep_raw": False})
    project.run("subset", *REMOVED)
    return project


def raw(project):
    return sorted((project.folder / CACHE).rglob("*ATL06_*.h5"))


def test_no_raw_granule_is_left_and_the_tables_are_the_same(emptied, undisturbed, source):
    assert not raw(emptied)
    assert_same_tables(emptied.tables(*ALTIMETRY), undisturbed.tables(*ALTIMETRY))
    assert emptied.receipts().equals(undisturbed.receipts())
    sizes = {path.name: path.stat().st_size for path in source.granules(*MONTHS)}
    told = {}
    for name in REMOVED:
        head, *rows = (emptied.folder / name).read_text().splitlines()
        assert head == "granule,path,size_bytes"
        told |= {row.split(",")[0]: int(row.split(",")[2]) for row in rows}
    assert told == sizes


def test_keys_of_the_transfer_rerun_nothing(emptied, undisturbed):
    keys = (
        "parallel: 1, tries: 9, timeout_s: 5, backoff_s: 1, max_wait_s: 9, max_failed_share: 0.5, "
        "trusted_hosts: [127.0.0.1]"
    )
    more = ("refetch=true", "refresh=true")
    for project, kept in ((emptied, "false"), (emptied, "true"), (undisturbed, "true")):
        download = f"download={{keep_raw: {kept}, {keys}}}"
        assert project.jobs("subset", "--config", download, *more) == {}


def test_removal_begun_later_reruns_nothing_else(undisturbed):
    found = undisturbed.jobs(*REMOVED, "--config", "download={keep_raw: false}")
    assert found == {"remove_granules": 3}


def test_a_removal_begun_later_takes_the_marks_along(archive, tmp_path):
    month = {"start": "2018-10", "end": "2018-10", "length": "month"}
    project = Project(tmp_path / "late", archive, period=month)
    project.run("subset")
    # A run of another region removes granules that the first one shares with it.
    regions = project.folder / "config" / "regions"
    inner = yaml.safe_load((regions / "demo.yaml").read_text())
    inner["outline"] = {"west": -48.0, "south": 62.0, "east": -42.0, "north": 67.0}
    (regions / "inner.yaml").write_text(yaml.safe_dump(inner))
    overlay = project.folder / "tiny.yaml"
    own = overlay.read_text()
    other = yaml.safe_load(own) | {"regions": ["inner"], "region_settings": {}}
    other["download"]["keep_raw"] = False
    overlay.write_text(yaml.safe_dump(other))
    project.run("subset")
    overlay.write_text(own)
    assert project.jobs("subset") == {}
    before = project.tables("altimetry/subset")
    said = project.refused("subset", "--config", OTHER_TILES)
    assert "raw granules" in said and "refetch=true" in said and "Traceback" not in said
    assert_same_tables(project.tables("altimetry/subset"), before)
    project.run("subset", "--config", OTHER_TILES, "refetch=true")
    after = project.tables("altimetry/subset")
    assert [after[name].num_rows for name in after] == [before[name].num_rows for name in before]


def test_a_new_subset_asks_before_it_fetches_again(emptied, archive, source):
    before = emptied.tables(*ALTIMETRY)
    archive.clear_log()
    said = emptied.refused("subset", *REMOVED, "--config", OTHER_TILES)
    lines = {line.split("ERROR")[-1] for line in said.splitlines() if "refetch=true" in line}
    assert len(lines) == 3, said
    for month in MONTHS:
        count = len(source.granules(month))
        (line,) = [line for line in lines if month in line]
        assert f"{count} raw granules" in line and "GB" in line
    assert not asked(archive, "data")
    assert_same_tables(emptied.tables(*ALTIMETRY), before)

    emptied.run("subset", *REMOVED, "--config", OTHER_TILES, "refetch=true")
    names = [path.name for path in source.granules(*MONTHS)]
    assert sorted(asked(archive, "data")) == names
    assert not raw(emptied)
    after = emptied.tables("altimetry/subset")
    assert all(after[name].num_rows == before[name].num_rows for name in after)
    assert any(not after[name].equals(before[name]) for name in after)


def test_removal_waits_for_every_region(archive, undisturbed, tmp_path):
    project = Project(tmp_path / "two", archive, download={"keep_raw": False})
    regions = project.folder / "config" / "regions"
    shutil.copy(regions / "demo.yaml", regions / "inner.yaml")
    inner = {"outline": {"west": -48.0, "south": 62.0, "east": -42.0, "north": 67.0}}
    month = {"start": "2018-10", "end": "2018-10", "length": "month"}
    project.configure(regions=["demo", "inner"], region_settings={"inner": inner}, period=month)
    name = "removed/{}/2018-10.csv"
    first = f"{CACHE}/{name.format('demo')}"
    assert project.jobs(first)["subset_granules"] == 2
    archive.clear_log()
    project.run("subset", first, f"{CACHE}/{name.format('inner')}")
    assert not raw(project)
    assert max(asked(archive, "data").count(granule) for granule in asked(archive, "data")) == 1
    expected = undisturbed.tables(*ALTIMETRY)
    found = project.tables(*ALTIMETRY)
    assert_same_tables(found, {name: expected[name] for name in found})
    path = project.folder / "results" / "inner" / "altimetry" / "subset" / "2018-10.parquet"
    assert (
        0
        < pq.ParquetFile(path).metadata.num_rows
        < found["altimetry/subset/2018-10.parquet"].num_rows
    )


# ------------------------------------------------------------------ cut at the archive


@pytest.fixture(scope="module")
def service(archive, tmp_path_factory):
    return HarmonyService(archive, tmp_path_factory.mktemp("harmony"), polls=1)


@pytest.fixture
def cutting(archive, service, tmp_path):
    """A project that asks for parts cut at the archive."""
    service.faults.clear()
    system = archive.system() | {"harmony_url": service.root_url}
    download = {"subset": "harmony", "system": system}
    return Project(tmp_path / "cut", archive, period=QUARTER, download=download)


def plain(table):
    """Return a table with granules by the name of the whole one."""
    frame = table.to_pandas()
    names = frame["granule"].astype("str").str.removeprefix("processed_")
    return frame.assign(granule=names)


def test_granules_cut_at_the_archive_give_the_same_segments(cutting, undisturbed, source):
    cutting.run("subset")
    parts = raw(cutting)
    assert {path.name for path in parts} == {
        f"processed_{path.name}" for path in source.granules(*MONTHS)
    }
    whole, cut = undisturbed.tables("altimetry/subset"), cutting.tables("altimetry/subset")
    assert cut.keys() == whole.keys()
    for name, table in cut.items():
        assert table.schema.equals(whole[name].schema)
        assert table.num_rows > 0
        assert table.to_pandas()["granule"].astype("str").str.startswith("processed_").all()
        assert plain(table).equals(plain(whole[name])), name


def test_without_the_service_whole_granules_come_with_the_reason(
    cutting, service, undisturbed, source
):
    service.fault("no_service")
    cutting.run("subset")
    assert_same_tables(cutting.tables(*ALTIMETRY), undisturbed.tables(*ALTIMETRY))
    for month in MONTHS:
        log = cutting.log("download_granules", month)
        for path in source.granules(month):
            (line,) = [line for line in log.splitlines() if path.name in line]
            assert "fetched whole: " in line and line.split("fetched whole: ")[1]
