"""Single files: planned ones behind a log-in, and plain ones that are pinned."""

import hashlib
import os
import shutil

import h5py
import numpy as np
import pytest

from cryofuse.acquire.collections import fetch_pinned, fetch_planned
from cryofuse.acquire.plan import ManifestRow, read_manifest, read_searched
from cryofuse.config import DownloadSettings
from cryofuse.logs import UserError
from tests.archive import LoopbackArchive, Response
from tests.transfer_site import TOKEN

NAME = "GRCTellus.JPL.200204_202408.nc"


def write_grid(path, seed=0):
    with h5py.File(path, "w") as file:
        file["lwe"] = np.random.default_rng(seed).random(4000)
    return path


class Site:
    def __init__(self, archive, root):
        self.archive, self.root = archive, root
        self.served = archive.folder / NAME
        self.manifest = root / "manifests" / "plain" / "csr.csv"
        self.target = root / "cache" / "mascons" / "csr.nc"
        self.cached = root / "cache" / "files" / NAME
        self.url = archive.add_public(NAME)

    def settings(self):
        return DownloadSettings(
            cache_dir=str(self.root / "cache"),
            tries=3,
            timeout_s=1.0,
            backoff_s=0.01,
            max_wait_s=1.0,
            trusted_hosts=["127.0.0.1"],
            system=self.archive.system(),
        )

    def pinned(self, refresh=False, url=None):
        fetch_pinned(url or self.url, self.manifest, self.settings(), self.target, refresh)
        return self.target.read_bytes()

    def digest(self):
        return hashlib.sha256(self.served.read_bytes()).hexdigest()

    def pin(self):
        (row,) = read_manifest(self.manifest, ["127.0.0.1"], of_granules=False)
        return row


@pytest.fixture
def site(tmp_path, monkeypatch):
    for name in ("EARTHDATA_TOKEN", "EARTHDATA_USERNAME", "EARTHDATA_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    (tmp_path / "archive").mkdir()
    write_grid(tmp_path / "archive" / NAME)
    with LoopbackArchive(tmp_path / "archive", tokens=(TOKEN,)) as archive:
        yield Site(archive, tmp_path)


def one_line(site, match, **options):
    with pytest.raises(UserError, match=match) as caught:
        site.pinned(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------- plain files


def test_the_first_download_pins(site):
    assert site.pinned() == site.served.read_bytes()
    row = site.pin()
    assert (row.granule, row.url, row.reason) == (NAME, site.url, None)
    assert row.checksum_algorithm == "SHA-256" and row.checksum == site.digest()
    assert row.size_bytes == site.served.stat().st_size
    assert set(read_searched(site.manifest)) == {"pinned", "rows"}
    assert site.cached.read_bytes() == site.served.read_bytes()
    assert [p.name for p in site.cached.parent.rglob("*") if p.is_file()] == [NAME]
    assert [one.token for one in site.archive.log] == [None]


def test_what_is_pinned_and_there_needs_no_network(site):
    first = site.pinned()
    pin = site.manifest.read_bytes()
    write_grid(site.served, seed=1)
    site.archive.clear_log()
    site.target.unlink()
    assert site.pinned() == first and site.archive.log == []
    assert site.manifest.read_bytes() == pin


def test_a_pin_that_came_with_the_project_is_kept(site):
    """The plan was committed and shared; the cache is empty."""
    first = site.pinned()
    pin = site.manifest.read_bytes()
    shutil.rmtree(site.root / "cache")
    assert site.pinned() == first and site.manifest.read_bytes() == pin


def test_a_file_that_has_changed_is_refused_until_it_is_wanted(site):
    site.pinned()
    pin, old = site.manifest.read_bytes(), site.digest()
    shutil.rmtree(site.root / "cache")
    write_grid(site.served, seed=1)
    for _ in range(2):
        text = one_line(site, "has changed")
        assert old[:12] in text and site.digest()[:12] in text
        assert "refresh=true" in text and site.url in text
        assert not site.target.exists() and not site.cached.exists()
        assert site.manifest.read_bytes() == pin
    assert site.pinned(refresh=True) == site.served.read_bytes()
    assert site.pin().checksum == site.digest()
    assert site.pinned() == site.served.read_bytes()


def test_a_refresh_asks_and_pins_what_is_new(site):
    site.pinned()
    pin = site.manifest.read_bytes()
    site.archive.clear_log()
    site.pinned(refresh=True)
    assert len(site.archive.log) == 1 and site.manifest.read_bytes() == pin
    write_grid(site.served, seed=1)
    assert site.pinned(refresh=True) == site.served.read_bytes()
    assert site.pin().checksum == site.digest()
    assert site.cached.read_bytes() == site.served.read_bytes()


def test_a_refresh_that_fails_keeps_what_was(site):
    first = site.pinned()
    pin = site.manifest.read_bytes()
    site.archive.fault("503")
    one_line(site, "answered 503", refresh=True)
    assert site.cached.read_bytes() == first and site.manifest.read_bytes() == pin
    assert site.pinned() == first


def test_a_file_that_was_never_pinned_is_not_taken_for_the_one_of_today(site):
    """A run was killed between the download and the pin."""
    left = site.cached.parent / "new" / NAME
    left.parent.mkdir(parents=True)
    shutil.copy(site.served, left)
    write_grid(site.served, seed=1)
    assert site.pinned() == site.served.read_bytes()
    assert site.pin().checksum == site.digest()


def test_damage_in_the_cache_is_mended(site):
    first = site.pinned()
    site.target.unlink()
    os.truncate(site.cached, 100)
    assert site.pinned() == first


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("404", "404"),
        ("html", "HTML"),
        ("silent", "time-out"),
        ("truncated", "HDF5"),
        ("401", "401"),
    ],
)
def test_what_cannot_be_had_is_one_line(site, kind, said):
    site.archive.fault(kind)
    text = one_line(site, said)
    assert NAME in text and site.url in text
    assert not site.target.exists() and not site.manifest.exists() and not site.cached.exists()
    site.archive.clear_faults()
    assert site.pinned() == site.served.read_bytes()


def test_a_page_in_place_of_a_file(site):
    page = Response(200, {"Content-Type": "application/octet-stream"}, b"<html>moved</html>")
    site.archive.add_route("GET", "/old/grid.nc", lambda request: page)
    one_line(site, "HTML or XML page", url=f"{site.archive.base_url}/old/grid.nc")


def test_the_pin_of_another_address_is_refused(site):
    site.pinned()
    other = site.archive.add_public(site.served, "other.nc")
    text = one_line(site, "pins", url=other)
    assert site.url in text and other in text
    assert not any(one.name == "other.nc" for one in site.archive.log)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("SHA-256", "MD5"),
        lambda text: text.replace(NAME, f"../{NAME}", 1),
        lambda text: "",
    ],
)
def test_a_damaged_pin_is_not_passed_over(site, damage):
    site.pinned()
    site.manifest.write_text(damage(site.manifest.read_text()))
    site.archive.clear_log()
    with pytest.raises(UserError, match="csr.csv"):
        site.pinned()
    assert site.archive.log == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/grid.nc",
        "https://example.org/",
        "https://example.org/..",
        "https://example.org/a%2Fb.nc",
        "https://example.org/%2e%2e",
        "https://example.org/grid.nc?key=1",
        "https://user:word@example.org/grid.nc",
        "ftp://example.org/grid.nc",
        "file:///etc/passwd",
        "grid.nc",
    ],
)
def test_an_address_that_is_none(site, url):
    text = one_line(site, "download: plain", url=url)
    assert url in text
    assert not (site.root / "cache").exists()


def test_a_broken_download_goes_on(site):
    with h5py.File(site.served, "w") as file:
        file["lwe"] = np.random.default_rng(2).random(150_000)
    size = site.served.stat().st_size
    site.archive.fault("reset", times=1, after_bytes=size - 1000)
    assert site.pinned() == site.served.read_bytes()
    assert site.archive.body_bytes(NAME) <= size + (1 << 18)


# ---------------------------------------------------------------------- planned files


@pytest.fixture
def planned(site, monkeypatch):
    """A file of a collection, and its row."""
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    site.archive.add_collection("TELLUS", "1", [NAME])
    content = site.served.read_bytes()
    return ManifestRow(
        granule=NAME,
        url=site.archive.url(NAME),
        size_bytes=len(content),
        checksum=hashlib.sha512(content).hexdigest(),
        checksum_algorithm="SHA-512",
    )


def test_a_planned_file_is_fetched_once(site, planned, monkeypatch):
    fetch_planned(planned, site.settings(), site.target)
    assert site.target.read_bytes() == site.served.read_bytes() == site.cached.read_bytes()
    assert site.target.stat().st_mode & 0o444 == 0o444
    site.target.unlink()
    monkeypatch.delenv("EARTHDATA_TOKEN")
    fetch_planned(planned, site.settings(), site.target)
    assert site.target.read_bytes() == site.served.read_bytes()
    assert site.archive.completed(NAME) == 1
    # Snakemake removes outputs: the file in the cache stays.
    site.target.unlink()
    assert site.cached.is_file()


def test_a_planned_file_that_was_replaced(site, planned):
    write_grid(site.served, seed=1)
    with pytest.raises(UserError, match="SHA-512") as caught:
        fetch_planned(planned, site.settings(), site.target)
    assert "\n" not in str(caught.value) and not site.target.exists()


def test_a_refusal_names_the_credentials(site, planned):
    site.archive.expire_tokens()
    with pytest.raises(UserError, match="variable EARTHDATA_TOKEN") as caught:
        fetch_planned(planned, site.settings(), site.target)
    text = str(caught.value)
    assert "401" in text and "\n" not in text and TOKEN not in text


def test_without_credentials_nothing_is_asked(site, planned, monkeypatch):
    monkeypatch.delenv("EARTHDATA_TOKEN")
    with pytest.raises(UserError, match="no Earthdata credentials"):
        fetch_planned(planned, site.settings(), site.target)
    assert site.archive.log == []


def test_where_no_second_link_can_be_made_it_is_a_copy(site, planned, monkeypatch):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    fetch_planned(planned, site.settings(), site.target)
    assert site.target.read_bytes() == site.served.read_bytes()
    assert [p.name for p in site.target.parent.iterdir()] == [site.target.name]
