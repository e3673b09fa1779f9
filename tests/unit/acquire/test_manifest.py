"""Names in and out, and which release of a granule counts."""

import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryofuse.acquire.local import list_local
from cryofuse.acquire.manifest import GranuleFile, build_manifest, equal_copies, used_granules
from cryofuse.atl06.product import parse_name
from cryofuse.calendar import period_bounds
from cryofuse.logs import UserError
from cryofuse.tables import MANIFEST, check

YEAR = period_bounds("2019")


@given(
    st.datetimes(datetime.datetime(2018, 10, 1), datetime.datetime(2099, 1, 1)),
    st.integers(1, 1387),
    st.integers(0, 99),
    st.integers(1, 14),
    st.integers(0, 999),
    st.integers(0, 99),
    st.booleans(),
)
def test_a_name_gives_back_what_it_was_made_of(
    start, rgt, cycle, orbit_region, release, revision, subset
):
    text = (
        f"{'processed_' if subset else ''}ATL06_{start:%Y%m%d%H%M%S}_"
        f"{rgt:04d}{cycle:02d}{orbit_region:02d}_{release:03d}_{revision:02d}.h5"
    )
    for place in (text, f"some/folder/{text}"):
        name = parse_name(place)
        assert name.start_time.item() == start.replace(microsecond=0)
        assert (name.rgt, name.cycle, name.orbit_region) == (rgt, cycle, orbit_region)
        assert (int(name.release), int(name.revision)) == (release, revision)
        assert name.subset is subset and name.granule == text


@given(st.text(max_size=60))
def test_other_text_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match="ATL06") as caught:
        parse_name(text)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("ATL06_20191301000000_00010301_006_01.h5", "date"),
        ("ATL06_20190101240000_00010301_006_01.h5", "date"),
        ("ATL06_20190230000000_00010301_006_01.h5", "date"),
        ("ATL06_20190101000000_13880301_006_01.h5", "track 1388"),
        ("ATL06_20190101000000_00000301_006_01.h5", "track 0"),
        ("ATL06_20190101000000_00010315_006_01.h5", "region 15"),
        ("ATL06_20190101000000_00010300_006_01.h5", "region 0"),
        ("ATL11_078805_0304_02_v002.h5", "not an ATL06 name"),
        ("ATL06_20190101000000_00010301_006_01.h5.part", "not an ATL06 name"),
        ("ATL06_٢٠١٩٠١٠١٠٠٠٠٠٠_00010301_006_01.h5", "not an ATL06 name"),
    ],
)
def test_wrong_parts_are_named(name, part):
    with pytest.raises(ValueError, match=part):
        parse_name(name)


def granule(release="006", revision="01", second=0, subset=False, folder="a", size=10, reason=None):
    name = f"ATL06_201902030405{second:02d}_01230203_{release}_{revision}.h5"
    return GranuleFile(f"{folder}/{'processed_' if subset else ''}{name}", size, reason)


def kept(files):
    manifest = check(build_manifest(files, *YEAR), MANIFEST).to_pandas()
    return manifest[manifest["superseded_by"].isna()]["path"].tolist(), manifest


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (granule("006", "01"), granule("005", "09")),
        (granule("006", "02"), granule("006", "01")),
        (granule("010", "01"), granule("009", "01")),
        (granule(subset=False), granule(subset=True, size=99)),
        (granule("006", subset=True), granule("005")),
        (granule(folder="b", size=99), granule(folder="a", size=10)),
        (granule(folder="a"), granule(folder="b")),
        (granule(folder="b", size=1), granule(folder="a", reason="not fetched: 404")),
    ],
)
def test_the_better_file_counts_whatever_the_order(better, worse):
    for files in ([better, worse], [worse, better]):
        paths, manifest = kept(files)
        assert paths == [better.path] and len(manifest) == 2
        other = manifest.set_index("path").loc[worse.path]
        assert other["superseded_by"] == better.path.split("/")[1] and other["reason"]


def test_other_granules_are_not_duplicates():
    paths, _ = kept([granule(second=1), granule("005", second=2)])
    assert len(paths) == 2


def test_a_period_holds_the_granules_that_start_in_it():
    names = [
        "ATL06_20181231235959_01230203_006_01.h5",
        "ATL06_20190101000000_01230203_006_01.h5",
        "ATL06_20191231235959_01230203_006_01.h5",
        "ATL06_20200101000000_01230203_006_01.h5",
    ]
    paths, manifest = kept([GranuleFile(name) for name in names])
    assert paths == names[1:3]
    assert manifest["start_time"].dt.year.unique().tolist() == [2019]
    assert set(manifest["rgt"]) == {123} and set(manifest["orbit_region"]) == {3}


def test_copies_of_one_release_are_pointed_out():
    manifest = build_manifest([granule(subset=True), granule(), granule("005")], *YEAR)
    assert equal_copies(manifest) == ["processed_ATL06_20190203040500_01230203_006_01.h5"]


def test_a_folder_is_searched_in_depth_and_other_files_passed_over(tmp_path, caplog):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    good = tmp_path / "deep" / "er" / "ATL06_20190203040500_01230203_006_01.h5"
    good.write_bytes(b"12345")
    (tmp_path / "ATL06_20190203040500_99990203_006_01.h5").touch()
    (tmp_path / "ATL11_078805_0304_02_v002.h5").touch()
    (tmp_path / "notes.txt").touch()
    manifest = check(list_local(tmp_path, *YEAR), MANIFEST)
    assert manifest["path"].to_pylist() == [str(good)]
    assert manifest["size_bytes"].to_pylist() == [5]
    assert "track 9999" in caplog.text
    assert list_local(tmp_path, *period_bounds("2020")).num_rows == 0


def test_a_missing_folder_is_the_users(tmp_path):
    with pytest.raises(UserError, match="atl06_dir"):
        list_local(tmp_path / "nowhere", *YEAR)


def test_start_times_are_instants():
    name = parse_name("ATL06_20190203040506_01230203_006_01.h5")
    assert name.start_time == np.datetime64("2019-02-03T04:05:06")


def test_a_granule_is_counted_once_and_only_if_it_was_read():
    manifests = pd.DataFrame(
        {
            "granule": ["a.h5", "a.h5", "b.h5", "c.h5", "d.h5"],
            "superseded_by": [None, None, "a.h5", None, None],
            "reason": [None, None, None, "not found", None],
        }
    )
    assert used_granules(manifests)["granule"].tolist() == ["a.h5", "d.h5"]
