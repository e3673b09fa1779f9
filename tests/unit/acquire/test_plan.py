"""Plans of a download: what is fetched, what is left out and why, and which files are believed."""

import csv
import itertools
import re
import string
from pathlib import PurePosixPath

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from cryofuse.acquire.catalogue import Entry, search_area
from cryofuse.acquire.plan import (
    ManifestRow,
    check_fetchable,
    list_refused,
    only_file,
    plan_file,
    plan_granules,
    read_manifest,
    read_searched,
    summarise_plan,
    write_manifest,
)
from cryofuse.calendar import period_bounds
from cryofuse.config import DownloadSettings
from cryofuse.logs import UserError

SQUARE = shapely.box(-1e5, -2.1e6, 1e5, -1.9e6)
MONTH = period_bounds("2020-01")
TRUSTED = ["earthdatacloud.nasa.gov", "nsidc.org"]
FOLDER = "https://data.nsidc.earthdatacloud.nasa.gov/ATLAS/ATL06/"
NAME = "ATL06_20200102030405_01230603_007_01.h5"
SEARCHED = {"collection": "ATL06", "months": "2020-01-01 2020-02-01"}


def entry(name=NAME, number=1, **told):
    told = {
        "url": FOLDER + name,
        "size_bytes": 123_456_789,
        "checksum": "0123456789abcdef0123456789abcdef",
        "algorithm": "MD5",
        "concept_id": f"G{number}-NSIDC",
        "revision_date": "2024-01-01T00:00:00Z",
    } | told
    return Entry(name, **told)


def plan(*entries, trusted=TRUSTED, **by_release):
    releases = {"007": list(entries)} | {key[1:]: value for key, value in by_release.items()}

    def search(short_name, version, area, months):
        assert short_name == "ATL06" and months == MONTH
        assert area == search_area(SQUARE, "EPSG:3413")
        return releases.get(version, [])

    return plan_granules(
        search, DownloadSettings(), SQUARE, "EPSG:3413", *MONTH, trusted_hosts=trusted
    )


def reasons(rows):
    return {row.granule: row.reason for row in rows}


def test_a_row_says_what_the_name_and_the_catalogue_say():
    assert plan(entry()) == [
        ManifestRow(
            granule=NAME,
            url=FOLDER + NAME,
            size_bytes=123_456_789,
            checksum="0123456789abcdef0123456789abcdef",
            checksum_algorithm="MD5",
            release="007",
            revision="01",
            rgt=123,
            cycle=6,
            orbit_region=3,
            start_time="2020-01-02T03:04:05Z",
            concept_id="G1-NSIDC",
            reason=None,
        )
    ]


def test_what_the_catalogue_does_not_know_stays_unknown():
    (row,) = plan(entry(size_bytes=None, checksum=None, algorithm=None, concept_id=None))
    assert (row.size_bytes, row.checksum, row.checksum_algorithm, row.concept_id) == (None,) * 4
    assert row.reason is None
    # A size of nothing and half a checksum say nothing either.
    for told in ({"checksum": "abc"}, {"algorithm": None}, {"checksum": None}):
        (row,) = plan(entry(size_bytes=0, **told))
        assert (row.size_bytes, row.checksum, row.checksum_algorithm) == (None, None, None)
    (row,) = plan(entry(checksum="4038471504", algorithm="POSIX"))
    assert (row.checksum, row.checksum_algorithm) == ("4038471504", "POSIX")


def test_the_highest_revision_is_fetched_in_whatever_order_they_come():
    names = [NAME.replace("_01.h5", f"_{number}.h5") for number in ("01", "02", "10")]
    other = NAME.replace("0123", "0124")
    entries = [entry(name, i) for i, name in enumerate([*names, other])]
    expected = plan(*entries)
    assert [row.granule for row in expected] == [*names, other]
    for order in itertools.permutations(entries):
        assert plan(*order) == expected
    assert [row.granule for row in expected if row.reason is None] == [names[2], other]
    assert all("revision 10 " in row.reason for row in expected if row.granule in names[:2])
    # One that cannot be had leaves the granule to the next.
    entries[2] = entry(names[2], 2, url=None)
    assert [row.granule for row in plan(*entries) if row.reason is None] == [names[1], other]


def test_of_two_entries_of_one_name_the_one_revised_last_is_fetched():
    old, new = entry(number=9), entry(number=1, revision_date="2024-05-01T00:00:00Z")
    for order in ((old, new), (new, old), (old, new, old)):
        first, second = plan(*order)
        assert {first.concept_id: first.reason, second.concept_id: second.reason} == {
            "G1-NSIDC": None,
            "G9-NSIDC": "another entry of the same release and revision is used",
        }


def test_the_whole_granule_goes_before_a_subset_and_a_later_revision_before_both():
    subset, later = f"processed_{NAME}", f"processed_{NAME.replace('_01.h5', '_02.h5')}"
    told = reasons(plan(entry(subset, 2), entry()))
    assert told[NAME] is None and "same release and revision" in told[subset]
    assert reasons(plan(entry(subset, 2), entry(), entry(later, 3)))[later] is None


def test_a_granule_belongs_to_the_period_of_its_start():
    def at(time):
        return NAME.replace("20200102030405", time)

    outside = [at("20191231235959"), at("20200201000000")]
    inside = [at("20200101000000"), at("20200131235959")]
    told = reasons(plan(*(entry(name, i) for i, name in enumerate(outside + inside))))
    assert told == dict.fromkeys(inside) | dict.fromkeys(outside, "it starts outside the period")


def test_the_fallback_release_for_the_granules_that_the_first_lacks():
    six = entry(NAME.replace("_007_", "_006_"), 2)
    other = entry(NAME.replace("_007_", "_006_").replace("0123", "0124"), 3)
    assert reasons(plan(entry(), _006=[six, other])) == {
        NAME: None,
        six.name: "release 007 revision 01 of the same granule is used",
        other.name: None,
    }
    assert reasons(plan(_006=[six])) == {six.name: None}
    # What cannot be fetched of the first release is taken from the other.
    assert reasons(plan(entry(url=None), _006=[six]))[six.name] is None
    late = entry(NAME.replace("20200102", "20200202"))
    rows = plan(late, _006=[six])
    assert [row.granule for row in rows] == [six.name, late.name]
    assert [row.reason for row in rows] == [None, "it starts outside the period"]
    assert plan() == []


def test_a_plan_of_which_nothing_can_be_fetched_is_none():
    far = entry(url=f"https://elsewhere.org/{NAME}")
    with pytest.raises(UserError, match="none of 1 granules .* not among the trusted") as caught:
        check_fetchable(plan(far), *MONTH)
    assert "\n" not in str(caught.value)
    check_fetchable([], *MONTH)
    check_fetchable(plan(far, entry(NAME.replace("0123", "0124"), 2)), *MONTH)
    # Beside one that can be, it is told as refused.
    other = entry(NAME.replace("0123", "0124"), 2)
    rows = plan(far, other, entry("../x.h5", 3), entry(NAME.replace("20200102", "20200202"), 4))
    assert [row.granule for row in list_refused(rows, *MONTH)] == [NAME]
    assert list_refused(plan(far, entry(number=5)), *MONTH) == []


def test_the_only_file_of_a_plan():
    one, left = ManifestRow(granule="a.nc"), ManifestRow(granule="b.nc", reason="old")
    assert only_file([left, one], "x.csv") is one
    for rows in ([], [left], [one, one]):
        with pytest.raises(UserError, match="x.csv: expected one file"):
            only_file(rows, "x.csv")


HOSTILE = [
    f"../{NAME}",
    f"../../../{NAME}",
    f"/etc/{NAME}",
    "..",
    ".",
    "",
    "/etc/passwd",
    "..\\..\\" + NAME,
    f"C:{NAME}",
    f"{NAME}\n",
    f"{NAME}\x00.txt",
    f"\x1b[2J{NAME}",
    f"\u202e{NAME}",
    f"..%2F{NAME}",
    f"~/{NAME}",
    f".{NAME}",
    f"-rf {NAME}",
    "=HYPERLINK(1)",
    "\ud800.h5",
    "ATL06_" + "9" * 300 + ".h5",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_lead_elsewhere_are_written_harmlessly_and_not_fetched(name, tmp_path):
    rows = plan(entry(name, url=FOLDER + "x"), entry(number=2))
    (bad,) = (row for row in rows if row.concept_id == "G1-NSIDC")
    assert bad.reason == "its name is not a plain file name"
    assert re.fullmatch(r"[\w.%-]{1,200}", bad.granule, flags=re.ASCII)
    assert PurePosixPath(bad.granule).name == bad.granule and bad.granule[0] not in ".-="
    assert [row.granule for row in rows if row.reason is None] == [NAME]
    write_manifest(rows, tmp_path / "plan.csv", SEARCHED)
    assert read_manifest(tmp_path / "plan.csv", TRUSTED) == rows


def test_other_names_are_not_fetched():
    for name in ("readme.txt", NAME.replace("ATL06", "ATL08"), NAME.replace("0123", "1388")):
        (row,) = plan(entry(name))
        assert row.reason == "its name is not one of an ATL06 granule" and row.granule == name


@pytest.mark.parametrize(
    ("url", "reason", "trusted"),
    [
        (None, "no link", TRUSTED),
        (f"https://evil.test/{NAME}", "evil.test", TRUSTED),
        (f"https://evilnsidc.org/{NAME}", "evilnsidc.org", TRUSTED),
        (f"https://nsidc.org.evil.test/{NAME}", "nsidc.org.evil.test", TRUSTED),
        (f"https://nsidc.org@evil.test/{NAME}", "plain", TRUSTED),
        (f"https://evil.test\\@nsidc.org/{NAME}", "plain", TRUSTED),
        (f"https://evil.test#nsidc.org/{NAME}", "plain", TRUSTED),
        (f"https://evil.test?nsidc.org/{NAME}", "plain", TRUSTED),
        (FOLDER + "other.h5", "does not end with its name", TRUSTED),
        (f"https://nsidc.org:99999/{NAME}", "plain", TRUSTED),
        (f"https://[::1/{NAME}", "plain", TRUSTED),
        (f"https:///{NAME}", "plain", TRUSTED),
        (f"http://n5eil01u.ecs.nsidc.org/{NAME}", "not https", TRUSTED),
        (f"http://127.0.0.1:8000/{NAME}", "trusted", TRUSTED),
        (f"http://10.0.0.1/{NAME}", "not https", ["10.0.0.1"]),
        (f"http://127.0.0.1:8000/{NAME}", None, ["127.0.0.1"]),
        (f"http://localhost:8000/{NAME}", None, ["localhost"]),
        (f"http://[::1]:8000/{NAME}", None, ["::1"]),
        (f"https://N5EIL01U.ecs.NSIDC.org/{NAME}", None, TRUSTED),
        (f"https://nsidc.org/{NAME}", None, ["NSIDC.org"]),
    ],
)
def test_links_are_followed_to_trusted_hosts_alone(url, reason, trusted):
    (row,) = plan(entry(url=url), trusted=trusted)
    assert row.reason is None if reason is None else reason in row.reason


def test_no_signature_of_a_link_stands_in_a_plan():
    (row,) = plan(entry(url=f"{FOLDER}{NAME}?Signature=secret"))
    assert "secret" not in row.model_dump_json() and row.url == FOLDER + NAME


anything = st.one_of(st.none(), st.text(max_size=40), st.sampled_from([*HOSTILE, "MD5", "ab" * 16]))
links = st.one_of(
    anything, st.text(max_size=20).map(lambda text: FOLDER + text), st.just(FOLDER + NAME)
)
any_entry = st.builds(
    Entry,
    name=st.one_of(st.text(max_size=40), st.sampled_from([*HOSTILE, NAME])),
    url=links,
    size_bytes=st.one_of(st.none(), st.integers(-5, 10**12)),
    checksum=anything,
    algorithm=st.one_of(anything, st.sampled_from(["MD5", "SHA-256", "POSIX"])),
    concept_id=anything,
    revision_date=st.one_of(st.none(), st.just("2024")),
)


@settings(max_examples=150, deadline=None)
@given(found=st.lists(any_entry, max_size=8))
def test_whatever_the_catalogue_says_the_plan_can_be_read_again(tmp_path_factory, found):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    rows = plan(*found)
    assert len(rows) == len(set(found))
    write_manifest(rows, path, SEARCHED)
    assert read_manifest(path, TRUSTED) == rows
    fetched = [row for row in rows if row.reason is None]
    assert {row.granule for row in fetched} <= {NAME} and len(fetched) <= 1


text_of = st.text(alphabet=string.ascii_letters + string.digits, min_size=1, max_size=20)
prose = st.text(
    st.characters(exclude_categories=["C", "Zl", "Zp"], codec="utf-8"), min_size=1, max_size=40
)


@st.composite
def plans(draw):
    rows = []
    for number in draw(st.lists(st.integers(1, 1387), max_size=6, unique=True)):
        rgt, cycle, region = number, draw(st.integers(0, 99)), draw(st.integers(1, 14))
        time = draw(st.datetimes()).replace(microsecond=0)
        stamp = time.strftime("%Y%m%d%H%M%S").zfill(14)
        release, revision = draw(st.integers(0, 999)), draw(st.integers(0, 99))
        name = f"ATL06_{stamp}_{rgt:04d}{cycle:02d}{region:02d}_{release:03d}_{revision:02d}.h5"
        algorithm, digits = draw(
            st.sampled_from([(None, 0), ("MD5", 32), ("SHA-256", 64), ("sha512", 128)])
        )
        rows.append(
            ManifestRow(
                granule=name,
                url=f"https://{draw(text_of)}.nsidc.org/{draw(text_of)}/{name}",
                size_bytes=draw(st.one_of(st.none(), st.integers(1, 2**62))),
                checksum="5" * digits or None,
                checksum_algorithm=algorithm,
                release=f"{release:03d}",
                revision=f"{revision:02d}",
                rgt=rgt,
                cycle=cycle,
                orbit_region=region,
                start_time=f"{time:%Y-%m-%dT%H:%M:%S}Z".zfill(20),
                concept_id=draw(st.one_of(st.none(), text_of)),
                reason=draw(st.one_of(st.none(), prose)),
            )
        )
    return rows


@settings(max_examples=100, deadline=None)
@given(rows=plans(), value=prose)
def test_a_plan_comes_back_as_it_was_written(tmp_path_factory, rows, value):
    path = tmp_path_factory.getbasetemp() / "round.csv"
    write_manifest(rows, path, {"collection": value})
    assert read_manifest(path, TRUSTED) == rows
    assert read_searched(path) == {
        "collection": " ".join(value.split()),
        "rows": str(len(rows)),
    }


@pytest.fixture
def path(tmp_path):
    """A plan of two granules and one that is left out."""
    rows = plan(
        entry(),
        entry(NAME.replace("0123", "0124"), 2),
        entry(NAME.replace("20200102", "20200202"), 3),
    )
    write_manifest(rows, tmp_path / "plan.csv", SEARCHED)
    return tmp_path / "plan.csv"


def cells(path):
    """The file, its comment lines apart, as plain lists of cells."""
    lines = path.read_text().splitlines()
    assert lines[:3] == ["# collection: ATL06", "# months: 2020-01-01 2020-02-01", "# rows: 3"]
    return list(csv.reader(lines[3:]))


def rewrite(path, table, delimiter=","):
    with path.open("w", newline="") as file:
        file.write("# rows: 3\n")
        csv.writer(file, delimiter=delimiter).writerows(table)


def test_the_file_is_plain_csv_with_its_origin_above(path):
    table = cells(path)
    assert table[0] == list(ManifestRow.model_fields)
    assert [len(line) for line in table] == [13] * 4
    assert table[1][0] == NAME and table[1][-1] == ""
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("granule", "../x.h5", "a file name of letters"),
        ("granule", "", "found nothing"),
        ("granule", "mascons.nc", "the name of an ATL06 granule"),
        ("granule", NAME.replace("0123", "0124"), "each granule once"),
        ("url", "", "https address on earthdatacloud.nasa.gov"),
        ("url", f"https://evil.test/{NAME}", "https address on earthdatacloud.nasa.gov"),
        ("url", f"https://me:secret@nsidc.org/{NAME}", "without user"),
        ("url", f"http://data.nsidc.org/{NAME}", "https address on earthdatacloud.nasa.gov"),
        ("url", FOLDER + "other.h5", f"ends with {NAME}"),
        ("url", FOLDER + NAME + "/", f"ends with {NAME}"),
        ("url", f"{FOLDER}..%2F{NAME}", f"ends with {NAME}"),
        ("size_bytes", "0", "positive"),
        ("size_bytes", "-4", "positive"),
        ("size_bytes", "1.2E+08 bytes", "positive"),
        ("checksum", "0123", "32 hexadecimal digits"),
        ("checksum", "z" * 32, "32 hexadecimal digits"),
        ("checksum", "", "a checksum and its algorithm"),
        ("checksum_algorithm", "", "a checksum and its algorithm"),
        ("checksum_algorithm", "SHA-256", "64 hexadecimal digits"),
        ("release", "7", "three digits"),
        ("release", "006", "007 as in the name"),
        ("revision", "02", "01 as in the name"),
        ("revision", "", "01 as in the name"),
        ("rgt", "124", "123 as in the name"),
        ("rgt", "x", "whole number"),
        ("cycle", "7", "6 as in the name"),
        ("orbit_region", "4", "3 as in the name"),
        ("start_time", "2020-01-02T03:04:06Z", "2020-01-02T03:04:05Z as in the name"),
        ("start_time", "02/01/2020 03:04", "a time such as"),
        ("concept_id", "G 1", "identifier"),
        ("reason", "two\x07bells", "one line"),
    ],
)
def test_a_wrong_value_is_named_with_its_row_and_column(path, column, value, expected):
    table = cells(path)
    assert table[1][0] == NAME
    table[1][table[0].index(column)] = value
    rewrite(path, table)
    with pytest.raises(UserError) as caught:
        read_manifest(path, TRUSTED)
    # The header is line 2, the granule is line 3; an equal one shows at the later row.
    row = 4 if expected == "each granule once" else 3
    told = [line for line in str(caught.value).splitlines() if f"{path}: row {row}: " in line]
    named = "checksum" if expected.startswith(("a checksum", "64 hex")) else column
    assert any(f": {named}: expected" in line and expected in line for line in told), told


def test_all_that_is_wrong_is_told_at_once(path):
    table = cells(path)
    table[1][2], table[1][7] = "none", "one"
    table[2][1] = "ftp://x"
    table[3] = table[3][:5]
    rewrite(path, table)
    with pytest.raises(UserError) as caught:
        read_manifest(path, TRUSTED)
    assert [re.search(r"row \d+: \w+", line)[0] for line in str(caught.value).splitlines()] == [
        "row 3: size_bytes",
        "row 3: rgt",
        "row 4: url",
        "row 5: expected",
    ]
    assert len(str(caught.value).splitlines()) == 4


def test_two_revisions_of_one_granule_are_not_both_fetched(path):
    table = cells(path)
    second = [cell.replace("_007_01.h5", "_007_02.h5") for cell in table[1]]
    second[6] = "02"
    table[3] = second
    rewrite(path, table)
    with pytest.raises(UserError, match="row 5: granule: expected each granule once .*row 3"):
        read_manifest(path, TRUSTED)
    second[-1] = "superseded"
    rewrite(path, table)
    assert len(read_manifest(path, TRUSTED)) == 3


def test_a_file_that_a_spreadsheet_saved_again_is_accepted(path):
    rows = read_manifest(path, TRUSTED)
    lines = path.read_text().splitlines()
    # Comments get the commas of the other rows, lines the ends of another system.
    lines[:3] = [f'"{line}"' + "," * 12 for line in lines[:3]]
    path.write_bytes("\r\n".join(["\ufeff" + lines[0], *lines[1:], "," * 12, ""]).encode())
    assert read_manifest(path, TRUSTED) == rows
    # Columns may stand in another order.
    rewrite(path, [line[::-1] for line in csv.reader(lines[3:])])
    assert read_manifest(path, TRUSTED) == rows


def test_a_file_cut_off_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError) as caught:
            read_manifest(path, TRUSTED)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: [line[1:] for line in table], "column granule is missing"),
        (lambda table: [[*line, "x"] for line in table], "column 'x' is not one of a plan"),
        (lambda table: [[*line, line[0]] for line in table], "column granule is there twice"),
        (lambda table: table[1:], "column granule is missing"),
        (lambda table: [[";".join(line)] for line in table], "column granule is missing"),
    ],
)
def test_wrong_columns_are_told_in_one_line(path, change, told):
    rewrite(path, change(cells(path)))
    with pytest.raises(UserError) as caught:
        read_manifest(path, TRUSTED)
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\x89HDF\r\n\x1a\n\xff\xff\n",
        b"<html>\n<p>log in</p>\n",
        b'"never closed\n',
        b'"a"b,c\n',
        b"a" * 200_000 + b"\n",
        "granule,url\n".encode("utf-16"),
    ],
)
def test_other_files_are_refused_in_one_line(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_manifest(path, TRUSTED)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert "expected" in str(caught.value) or "not whole" in str(caught.value)
    assert len(str(caught.value)) < 10_000


def test_broken_quotes_are_told_as_such(path):
    text = path.read_text()
    for broken in (text + '"a"b,c\n', text + '"never closed\n'):
        path.write_text(broken)
        with pytest.raises(UserError, match="line 8: expected a CSV file, found"):
            read_manifest(path, TRUSTED)


def test_what_was_searched_stands_on_a_line_each(path):
    write_manifest([], path, {"note": 'two\nlines, "quoted"', "collection": "ATL06"})
    assert read_searched(path) == {
        "note": 'two lines, "quoted"',
        "collection": "ATL06",
        "rows": "0",
    }
    assert len(path.read_text().splitlines()) == 4 and read_manifest(path, TRUSTED) == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="none.csv"):
        read_manifest(tmp_path / "none.csv", TRUSTED)


def test_a_removed_row_shows(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match="rows: .*says 3, found 2 rows"):
        read_manifest(path, TRUSTED)
    # One who means it changes the number, or leaves the line out.
    path.write_text("".join([*lines[:2], *lines[3:-1]]))
    assert len(read_manifest(path, TRUSTED)) == 2


def test_the_newest_file_of_a_collection(tmp_path):
    names = [
        "GRCTellus.JPL.200204_202408.GLO.nc",
        "GRCTellus.JPL.200204_202311.GLO.nc",
        "zzz.txt",
        "../zz.nc",
    ]

    def newest(*found):
        def search(short_name, version=None):
            assert (short_name, version) == ("MASCONS", "4")
            return list(found)

        return plan_file(search, "MASCONS", "4", trusted_hosts=TRUSTED)

    entries = [entry(name, i, url=f"{FOLDER}{name}") for i, name in enumerate(names)]
    row = newest(*entries)
    assert row == newest(*entries[::-1])
    assert row.granule == names[0] and row.size_bytes == 123_456_789 and row.rgt is None
    write_manifest([row], tmp_path / "plan.csv", {})
    assert read_manifest(tmp_path / "plan.csv", TRUSTED, of_granules=False) == [row]
    with pytest.raises(UserError, match="ATL06"):
        read_manifest(tmp_path / "plan.csv", TRUSTED)
    # Numbers count as numbers; a file elsewhere is no file.
    elsewhere = entry("BedMachine-v11.nc", 3, url="https://evil.test/BedMachine-v11.nc")
    nine, ten = entry("BedMachine-v9.nc", 1), entry("BedMachine-v10.nc", 2)
    assert newest(nine, ten, elsewhere).concept_id == "G2-NSIDC"
    again = entry("BedMachine-v9.nc", 0, revision_date="2025")
    assert newest(nine, again) == newest(again, nine)
    assert newest(nine, again).concept_id == "G0-NSIDC"
    for found in ([], [entry("zzz.txt"), elsewhere]):
        with pytest.raises(UserError, match="MASCONS") as caught:
            newest(*found)
        assert "\n" not in str(caught.value)


def test_the_summary_adds_up():
    def row(number, size, reason=None):
        return ManifestRow(granule=f"f{number}.h5", size_bytes=size, reason=reason)

    manifests = {
        "2020-01": [
            row(1, 1_500_000_000),
            row(2, 250_000_000),
            row(3, None),
            row(4, 9_000_000_000, "it has no link to its data"),
        ],
        "2020-02": [row(5, 4_000_000_000), row(6, 1, "it starts outside the period")],
        "2020-03": [row(7, 1, "it starts outside the period")],
    }
    text = summarise_plan(manifests, lambda row: row.granule in ("f2.h5", "f4.h5"))
    lines = [line.split() for line in text.splitlines()]
    assert lines[1:5] == [
        ["2020-01", "3", "1.75", "1", "0.25", "2", "1.50", "1", "1"],
        ["2020-02", "1", "4.00", "0", "0.00", "1", "4.00", "0", "1"],
        ["2020-03", "0", "0.00", "0", "0.00", "0", "0.00", "0", "1"],
        ["total", "4", "5.75", "1", "0.25", "3", "5.50", "1", "3"],
    ]
    assert [line.strip() for line in text.splitlines()[6:]] == [
        "2 × it starts outside the period",
        "1 × it has no link to its data",
    ]
    assert len({len(line) for line in text.splitlines()[:5]}) == 1
    assert summarise_plan({}, lambda row: True).splitlines()[1].split() == [
        "total",
        *"0 0.00".split() * 3,
        "0",
        "0",
    ]
