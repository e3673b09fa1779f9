"""A period's granules: fetched as planned, told in the receipt, removed, and had again."""

import logging
import os
import shutil
import sys

import pandas as pd
import pytest

from cryofuse.acquire.earthdata import (
    download_granules,
    drop_marks,
    is_present,
    missing_granules,
    remove_granules,
    restore_granules,
)
from cryofuse.acquire.plan import ManifestRow, read_manifest, write_manifest
from cryofuse.calendar import period_bounds
from cryofuse.logs import UserError
from cryofuse.tables import MANIFEST, read_table, write_table
from tests.atl06_files import granule_name, write_granule
from tests.transfer_site import TOKEN, digest

MONTH = period_bounds("2020-01")


def row(site, name, **changes):
    content = site.content[name]
    number = site.names.index(name)
    told = {
        "granule": name,
        "release": "007",
        "revision": "01",
        "rgt": 123 + number,
        "cycle": 6,
        "orbit_region": 3,
        "start_time": f"2020-01-{2 + number:02d}T03:04:05Z",
        "url": site.archive.url(name),
        "size_bytes": len(content),
        "checksum": digest(content),
        "checksum_algorithm": "SHA-256",
    }
    return ManifestRow(**(told | changes))


@pytest.fixture
def rows(site):
    return [row(site, name) for name in site.names]


def download(site, rows, removed=None, **changes):
    options = {"max_failed_share": 0.5} | changes
    table = download_granules(rows, site.settings(**options), *MONTH, removed=removed)
    return table.to_pylist()


def test_the_receipt_is_what_is_there(site, rows, tmp_path):
    superseded = granule_name(4, revision=0)
    later = granule_name(60)
    left_out = [
        ManifestRow(granule=superseded, reason="release 007 revision 01 is used"),
        ManifestRow(granule=later, reason="it starts outside the period"),
        ManifestRow(granule="%2E.%2Fx.h5", reason="its name is not a plain file name"),
    ]
    table = download_granules([*left_out, *rows], site.settings(), *MONTH)
    path = tmp_path / "receipt.parquet"
    write_table(table, path, MANIFEST)
    receipt = read_table(path).set_index("granule")
    assert sorted(receipt.index) == sorted([superseded, *site.names])
    for name in site.names:
        assert receipt["path"][name] == str(site.folder / name)
        assert receipt["size_bytes"][name] == len(site.content[name])
        assert pd.isna(receipt["reason"][name])
    assert receipt["superseded_by"][superseded] == site.names[4]
    assert site.arrived() == site.names


def test_the_order_of_the_plan_does_not_matter(site, rows):
    assert download(site, rows) == download(site, rows[::-1])


def test_nothing_is_asked_for_what_is_there(site, rows, monkeypatch):
    first = download(site, rows)
    site.archive.clear_log()
    monkeypatch.delenv("EARTHDATA_TOKEN")
    assert download(site, rows) == first and site.archive.log == []
    assert all(is_present(one, site.settings()) for one in rows)
    # One that is not as announced is fetched, which needs the credentials again.
    os.truncate(site.folder / site.names[3], 10)
    assert not is_present(rows[3], site.settings())
    with pytest.raises(UserError, match="no Earthdata credentials"):
        download(site, rows)
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    assert download(site, rows) == first
    assert {one.name for one in site.archive.log} == {site.names[3]}


@pytest.mark.parametrize("kind", ["404", "503", "reset", "wrong_bytes", "html", "reissued"])
def test_a_loss_is_in_the_receipt(site, rows, kind):
    site.archive.fault(kind, site.names[2], times=1 if kind == "reissued" else None)
    receipt = download(site, rows, tries=2)
    assert [one["granule"] for one in receipt] == site.names
    for one in receipt:
        lost = one["granule"] == site.names[2]
        assert (one["size_bytes"] is None) == lost == (one["reason"] is not None)
    assert receipt[2]["reason"].startswith("not fetched: ")
    assert site.names[2] not in site.arrived() and len(site.arrived()) == 4
    assert f"{site.names[2]}.json" in site.aside()


def test_too_many_losses_stop_the_period(site, rows):
    for name in site.names[:2]:
        site.archive.fault("404", name)
    with pytest.raises(UserError, match="2 of 5 files"):
        download(site, rows, max_failed_share=0.3)
    site.archive.clear_faults()
    assert all(one["reason"] is None for one in download(site, rows, max_failed_share=0.3))
    assert [site.archive.completed(name) for name in site.names] == [1] * 5


def test_a_granule_under_anothers_name_is_not_accepted(site, rows):
    """The archive mixes two files up, record and all."""
    name, other = site.names[:2]
    shutil.copy(site.archive.folder / other, site.archive.folder / name)
    size, checksum = len(site.content[other]), digest(site.content[other])
    mixed = row(site, name, size_bytes=size, checksum=checksum)
    receipt = download(site, [mixed, *rows[1:]], tries=2)
    assert "its track is 124, its name says 123" in receipt[0]["reason"]
    assert site.arrived() == site.names[1:]
    # Nor is one that lies in the cache.
    shutil.copy(site.archive.folder / other, site.folder / name)
    assert "its track is 124" in download(site, [mixed, *rows[1:]], tries=2)[0]["reason"]


def test_a_bare_plan_holds_too(site):
    """No size, no checksum: the content decides."""
    bare = {"size_bytes": None, "checksum": None, "checksum_algorithm": None}
    rows = [row(site, name, **bare) for name in site.names]
    for kind, name in zip(("truncated", "short", "html", "503"), site.names, strict=False):
        site.archive.fault(kind, name, times=1)
    assert [one["reason"] for one in download(site, rows)] == [None] * 5
    assert site.arrived() == site.names
    assert download(site, rows) and all(site.archive.completed(name) == 1 for name in site.names)


def test_no_secret_is_logged(site, rows, caplog):
    caplog.set_level(logging.DEBUG)
    for kind, name in zip(("401", "html", "429", "reset"), site.names, strict=False):
        site.archive.fault(kind, name, times=1)
    download(site, rows)
    assert TOKEN not in caplog.text and "Bearer" not in caplog.text
    assert not any(TOKEN.encode() in p.read_bytes() for p in site.cache.rglob("*") if p.is_file())


def test_a_shared_plan_gives_the_same_receipt(site, rows, tmp_path):
    write_manifest(rows, tmp_path / "plan.csv", {"collection": "ATL06"})
    again = read_manifest(tmp_path / "plan.csv", ["127.0.0.1"])
    assert download(site, again) == download(site, rows)


# ---------------------------------------------------------------------- removal


def frame(receipt):
    return pd.DataFrame(receipt).astype({"superseded_by": object, "reason": object})


@pytest.fixture
def used(site, rows):
    """A receipt with one loss, whose granules were used and removed; and the record."""
    site.archive.fault("404", site.names[4], times=1)
    receipt = frame(download(site, rows))
    record = remove_granules(receipt, site.settings())
    site.archive.clear_log()
    return receipt, record


def test_what_was_used_is_removed_and_recorded(site, used):
    receipt, record = used
    assert site.arrived() == []
    assert record.to_dict("records") == [
        {"granule": n, "path": str(site.folder / n), "size_bytes": len(site.content[n])}
        for n in site.names[:4]
    ]
    again = remove_granules(receipt, site.settings())
    pd.testing.assert_frame_equal(again, record)
    assert missing_granules(receipt)["granule"].tolist() == site.names[:4]


def test_a_users_own_files_are_never_removed(site, tmp_path):
    own = write_granule(tmp_path, 7)
    sly = site.cache / ".." / own.name
    beside = tmp_path / "cache-of-mine" / own.name
    beside.parent.mkdir()
    shutil.copy(own, beside)
    for path in (own, sly, beside):
        told = {"granule": own.name, "path": str(path), "size_bytes": 1}
        receipt = frame([told | {"superseded_by": None, "reason": None}])
        assert remove_granules(receipt, site.settings()).empty
    assert own.is_file() and beside.is_file()


def test_an_empty_period_has_an_empty_record(site, tmp_path):
    record = remove_granules(pd.DataFrame(columns=MANIFEST.schema.names), site.settings())
    path = tmp_path / "record.csv"
    record.to_csv(path, index=False)
    assert list(record.columns) == ["granule", "path", "size_bytes"] and record.empty
    assert download(site, [], pd.read_csv(path)) == []


def test_removed_granules_stay_in_the_receipt_and_are_not_fetched(site, rows, used, tmp_path):
    receipt, record = used
    path = tmp_path / "record.csv"
    record.to_csv(path, index=False)
    again = download(site, rows, pd.read_csv(path))
    # The one that was lost is asked for again, the removed ones are not.
    assert {one.name for one in site.archive.log} == {site.names[4]}
    assert again[:4] == receipt.astype(object).where(receipt.notna(), None).to_dict("records")[:4]
    assert again[4]["reason"] is None and site.arrived() == site.names[4:]


def test_a_removed_granule_that_the_plan_has_replaced_is_fetched(site, rows, used):
    _, record = used
    changed = write_granule(site.archive.folder, 0, n_bytes=50_000)
    site.content[changed.name] = changed.read_bytes()
    download(site, [row(site, changed.name), *rows[1:]], record)
    assert site.arrived() == [site.names[0], site.names[4]]


def test_fetching_again_is_refused_with_its_size(site, rows, used):
    receipt, _ = used
    receipt["size_bytes"] = [3e9, 2e9, 1e9, 0.5e9, None]
    with pytest.raises(UserError, match=r"4 raw granules \(6\.50 GB\)") as caught:
        restore_granules(receipt, rows, site.settings(), allowed=False)
    assert "refetch=true" in str(caught.value) and "\n" not in str(caught.value)
    assert site.archive.log == [] and site.arrived() == []


def test_fetching_again_brings_the_same_bytes(site, rows, used):
    receipt, _ = used
    assert restore_granules(receipt, rows, site.settings(), allowed=True) == 4
    assert site.arrived() == site.names[:4]
    site.archive.clear_log()
    for allowed in (True, False):
        assert restore_granules(receipt, rows, site.settings(), allowed=allowed) == 0
    assert site.archive.log == []


def test_what_cannot_be_had_again_is_one_line(site, rows, used):
    receipt, _ = used
    site.archive.fault("404", site.names[1])
    with pytest.raises(UserError, match="1 granules could not be had again") as caught:
        restore_granules(receipt, rows, site.settings(max_failed_share=0.5), allowed=True)
    assert site.names[1] in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=site.names[1]):
        restore_granules(receipt, rows[2:], site.settings(), allowed=True)


# ---------------------------------------------------------------------- parts cut at the archive


BOX = (-50.0, 69.0, -46.0, 71.0)


@pytest.fixture
def cut(site, monkeypatch):
    """Parts of two granules, of a service that has no part of the others."""
    asked = []
    made = site.root / "made"
    made.mkdir()
    urls = {}
    for number in range(2):
        part = write_granule(made, number, n_bytes=1000)
        path = site.archive.folder / f"processed_{part.name}"
        shutil.move(part, path)
        site.content[path.name] = path.read_bytes()
        urls[part.name] = site.archive.add_public(path.name)

    def request(rows, box, variables, auth, root_url=None):
        asked.append(sorted(one.granule for one in rows))
        assert box == BOX and auth.authenticated
        names = {one.granule for one in rows}
        reasons = {name: "no part" for name in names - set(urls)}
        return {name: url for name, url in urls.items() if name in names}, reasons

    monkeypatch.setattr("cryofuse.acquire.harmony.request_subsets", request)
    return asked


def download_cut(site, rows, removed=None):
    settings = site.settings(subset="harmony", max_failed_share=0.5, tries=2)
    return download_granules(rows, settings, *MONTH, box=BOX, removed=removed).to_pylist()


def test_parts_where_there_are_any_else_whole_granules(site, rows, cut, caplog):
    receipt = download_cut(site, rows)
    names = [f"processed_{name}" for name in site.names[:2]] + site.names[2:]
    assert sorted(one["granule"] for one in receipt) == sorted(names)
    assert all(one["reason"] is None for one in receipt)
    for one in receipt:
        with open(one["path"], "rb") as stream:
            assert stream.read() == site.content[one["granule"]]
    assert site.arrived() == site.names[2:]
    assert f"{site.names[2]}: fetched whole: no part" in caplog.text
    site.archive.clear_log()
    assert download_cut(site, rows) == receipt
    # Neither parts nor whole granules that are there are asked of the service, or fetched.
    assert len(cut) == 1 and site.archive.log == []


def test_a_part_that_does_not_come_is_no_loss(site, rows, cut, caplog):
    site.archive.fault("404", "processed_.*" + site.names[0])
    receipt = download_cut(site, rows)
    assert {one["granule"] for one in receipt} == {
        f"processed_{site.names[1]}",
        site.names[0],
        *site.names[2:],
    }
    assert all(one["reason"] is None for one in receipt)
    assert f"{site.names[0]}: fetched whole: 404" in caplog.text


def test_parts_that_are_all_refused_are_no_loss(site, rows, cut, caplog, monkeypatch):
    # Three refusals in a row end a download, but not one that whole granules can stand in for.
    request = sys.modules["cryofuse.acquire.harmony"].request_subsets

    def many(wanted, *arguments):
        urls, reasons = request(wanted, *arguments)
        more = {name: next(iter(urls.values())) for name in reasons}
        return urls | more, {}

    monkeypatch.setattr("cryofuse.acquire.harmony.request_subsets", many)
    site.archive.fault("403", "processed_")
    receipt = download_cut(site, rows)
    assert [one["granule"] for one in receipt] == site.names
    assert all(one["reason"] is None for one in receipt)
    assert caplog.text.count("fetched whole: the archive refuses the log-in") == len(site.names)


def test_parts_are_removed_and_had_again(site, rows, cut):
    receipt = frame(download_cut(site, rows))
    record = remove_granules(receipt, site.settings())
    assert len(record) == 5 and not any(os.path.exists(path) for path in record["path"])
    site.archive.clear_log()
    assert frame(download_cut(site, rows, record)).equals(receipt) and site.archive.log == []
    settings = site.settings(subset="harmony")
    assert restore_granules(receipt, rows, settings, True, box=BOX) == 5
    for name, path in zip(receipt["granule"], receipt["path"], strict=True):
        with open(path, "rb") as stream:
            assert stream.read() == site.content[name]


def test_an_entry_that_stands_twice_is_fetched_once(site, rows):
    # Two providers list one file: the plan fetches one entry and leaves the other out.
    reason = "another entry of the same release and revision is used"
    doubled = [one.model_copy(update={"concept_id": "G9-OTHER", "reason": reason}) for one in rows]
    receipt = download(site, [*doubled, *rows], max_failed_share=0.0)
    assert [one["granule"] for one in receipt] == site.names == site.arrived()
    assert all(one["reason"] is None for one in receipt)
    assert all(site.archive.completed(name) == 1 for name in site.names)


def test_granules_that_a_plan_refuses_count_as_failed(site, rows):
    far = "its link leads to elsewhere.org, which is not among the trusted hosts"
    refused = [one.model_copy(update={"reason": far}) for one in rows[:2]]
    with pytest.raises(UserError, match=r"leaves out 2 of 5 granules") as caught:
        download(site, [*refused, *rows[2:]], max_failed_share=0.3)
    assert far in str(caught.value) and site.archive.log == []
    receipt = download(site, [*refused, *rows[2:]], max_failed_share=0.4)
    assert [one["reason"] for one in receipt][:2] == [f"not fetched: {far}"] * 2
    assert site.arrived() == site.names[2:]


def test_the_share_that_may_fail_is_one_of_the_whole_period(site, rows):
    receipt = frame(download(site, rows))
    record = remove_granules(receipt[:4], site.settings())
    site.archive.fault("404", site.names[4])
    (site.folder / site.names[4]).unlink()
    again = download(site, rows, record, max_failed_share=0.2)
    assert [one["reason"] is None for one in again] == [True] * 4 + [False]
    with pytest.raises(UserError, match="1 of 5 files"):
        download(site, rows, record, max_failed_share=0.1)


def test_granules_of_other_months_are_left_alone(site, rows, caplog):
    caplog.set_level(logging.INFO)
    later = "ATL06_20200302030405_01230603_007_01.h5"
    other = rows[0].model_copy(
        update={
            "granule": later,
            "url": rows[0].url.replace(site.names[0], later),
            "start_time": "2020-03-02T03:04:05Z",
        }
    )
    receipt = download(site, [*rows, other], max_failed_share=0.0)
    assert [one["granule"] for one in receipt] == site.names
    assert not any(later in one.path for one in site.archive.log)
    assert "outside the run's months" in caplog.text


def test_marks_of_removed_granules_go_with_them(site):
    held = site.cache / "held"
    for region, paths in {"here": ["a.h5", "b.h5"], "there": ["b.h5"], "far": ["c.h5"]}.items():
        (held / region).mkdir(parents=True)
        (held / region / "2020-01.txt").write_text("".join(f"{path}\n" for path in paths))
    drop_marks(site.settings(), ["b.h5", "d.h5"])
    assert [path.parent.name for path in held.glob("*/*.txt")] == ["far"]
