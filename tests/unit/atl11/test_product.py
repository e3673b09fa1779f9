"""ATL11 names, and the periods and files that count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryofuse.acquire.listing import folder_digest
from cryofuse.acquire.local import list_local
from cryofuse.acquire.manifest import GranuleFile, build_manifest
from cryofuse.atl11.product import parse_name, pass_time
from cryofuse.calendar import list_periods, period_bounds
from cryofuse.logs import UserError
from cryofuse.tables import MANIFEST, check

#: Passes of real files (UTC): the prototype's two, and start and end of a release 003 and a
#: release 007 file of track 519 (global attributes).
PASSES = [
    (788, 3, "2019-05-19T20:53:51"),
    (788, 4, "2019-08-18T16:33:37"),
    (519, 3, "2019-05-02T06:49:32"),
    (519, 9, "2020-10-28T04:53:58"),
    (519, 27, "2025-04-19T22:48:44"),
]


@pytest.mark.parametrize(("rgt", "cycle", "time"), PASSES)
def test_passes_are_where_track_and_cycle_say(rgt, cycle, time):
    away = abs(pass_time(rgt, cycle) - np.datetime64(time, "us")) / np.timedelta64(1, "D")
    assert away < 2


@given(
    st.integers(1, 1387),
    st.integers(1, 14),
    st.tuples(st.integers(1, 99), st.integers(1, 99)).map(sorted),
    st.integers(0, 999),
    st.integers(0, 99),
    st.booleans(),
)
def test_a_name_gives_back_what_it_was_made_of(rgt, region, cycles, release, revision, subset):
    text = (
        f"{'processed_' if subset else ''}ATL11_{rgt:04d}{region:02d}_"
        f"{cycles[0]:02d}{cycles[1]:02d}_{release:03d}_{revision:02d}.h5"
    )
    name = parse_name(f"some/folder/{text}")
    assert (name.rgt, name.orbit_region, name.cycle) == (rgt, region, cycles[0])
    assert (int(name.release), int(name.revision)) == (release, revision)
    assert name.granule == text and name.subset is subset
    days = (name.end_time - name.start_time) / np.timedelta64(1, "D")
    assert days == pytest.approx(90.82 * (cycles[1] - cycles[0]) + 20, abs=1)


def test_the_prototypes_name_is_one():
    name = parse_name("ATL11_078805_0304_02_v002.h5")
    assert (name.rgt, name.orbit_region, name.cycle, name.release) == (788, 5, 3, "02")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("ATL11_138805_0304_006_02.h5", "track 1388"),
        ("ATL11_078815_0304_006_02.h5", "region 15"),
        ("ATL11_078805_0403_006_02.h5", "cycles 4 to 3"),
        ("ATL11_078805_0004_006_02.h5", "cycles 0 to 4"),
        ("ATL06_20190203040500_01230203_006_01.h5", "not an ATL11 name"),
        ("ATL11_078805_0304_006_02.h5.part", "not an ATL11 name"),
    ],
)
def test_wrong_parts_are_named(name, part):
    with pytest.raises(ValueError, match=part):
        parse_name(name)


@pytest.mark.parametrize("length", ["month", "year"])
def test_a_file_is_listed_in_every_period_of_its_cycles(tmp_path, length):
    (tmp_path / "ATL11_051911_0309_003_01.h5").touch()
    (tmp_path / "ATL06_20190203040500_01230203_006_01.h5").touch()
    (tmp_path / "ATL11_999911_0309_003_01.h5").touch()
    listed = {}
    for period in list_periods("2018-10", "2021-12", length):
        manifest = check(list_local(tmp_path, *period_bounds(period), "atl11"), MANIFEST)
        listed[period] = manifest.num_rows
    expected = {"month": ("2019-04", "2020-11"), "year": ("2019", "2020")}[length]
    assert [p for p, rows in listed.items() if rows] == list(
        list_periods("2019-04", "2020-11", length)
    )
    assert set(listed.values()) == {0, 1} and listed[expected[0]] == listed[expected[1]] == 1
    with pytest.raises(UserError, match="local: atl11_dir: no folder .* ATL11"):
        list_local(tmp_path / "nowhere", *period_bounds("2019"), "atl11")


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("ATL11_051911_0309_004_01.h5", "ATL11_051911_0313_003_01.h5"),
        ("ATL11_051911_0313_003_01.h5", "ATL11_051911_0309_003_02.h5"),
        ("ATL11_051911_0313_003_01.h5", "ATL11_051911_0413_003_02.h5"),
        ("ATL11_051911_0309_003_02.h5", "ATL11_051911_0309_003_01.h5"),
        ("ATL11_051911_0309_003_02.h5", "processed_ATL11_051911_0309_003_02.h5"),
    ],
)
def test_one_file_of_a_track_and_region_counts(better, worse):
    other = GranuleFile("ATL11_051910_0309_003_01.h5")
    for files in ([better, worse], [worse, better]):
        manifest = build_manifest(
            [*map(GranuleFile, files), other], *period_bounds("2020"), "atl11"
        ).to_pandas()
        kept = manifest[manifest["superseded_by"].isna()]
        assert set(kept["path"]) == {better, other.path}
        assert manifest.set_index("path").loc[worse, "superseded_by"] == better


def test_the_digest_of_a_folder_knows_the_product(tmp_path):
    first = period_bounds("2019")
    empty = folder_digest(str(tmp_path), *first, "atl11")
    (tmp_path / "ATL06_20190203040500_01230203_006_01.h5").touch()
    assert folder_digest(str(tmp_path), *first, "atl11") == empty
    assert folder_digest(str(tmp_path), *first) != empty
    (tmp_path / "ATL11_051911_0309_003_01.h5").touch()
    assert folder_digest(str(tmp_path), *first, "atl11") != empty
    assert folder_digest(str(tmp_path), *period_bounds("2022"), "atl11") == empty
