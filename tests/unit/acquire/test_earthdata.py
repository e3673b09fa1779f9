"""Search, transfer and checks against an archive that is a folder; no network."""

import hashlib
import shutil

import h5py
import numpy as np
import pytest
import shapely

from cryofuse.acquire.earthdata import (
    Earthdata,
    RemoteFile,
    bounding_box,
    describe,
    download_granules,
    download_mascons,
    fetch_file,
    find_credentials,
)
from cryofuse.calendar import period_bounds
from cryofuse.config import DownloadSettings
from cryofuse.geo import project
from cryofuse.logs import UserError

NAME = "ATL06_20200102030405_01230603_{}_01.h5"
SQUARE = shapely.box(-1e5, -2.1e6, 1e5, -1.9e6)
MONTH = period_bounds("2020-01")


class Folder:
    """An archive of files in a folder, by release."""

    def __init__(self, folder):
        self.folder, self.releases, self.asked, self.fetched = folder, {}, [], []

    def add(self, version, name, content=None, **told):
        path = self.folder / name
        if content is None:
            with h5py.File(path, "w") as file:
                file["x"] = np.arange(100)
        else:
            path.write_bytes(content)
        told = {
            "size_bytes": path.stat().st_size,
            "checksum": hashlib.sha256(path.read_bytes()).hexdigest(),
            "algorithm": "SHA-256",
        } | told
        self.releases.setdefault(version, []).append(RemoteFile(name, handle=path, **told))

    def search(self, short_name, version=None, box=None, months=None):
        self.asked.append((short_name, version, box, months))
        return self.releases.get(version, [])

    def fetch(self, remote, folder):
        self.fetched.append(remote.name)
        if not remote.handle.exists():
            raise OSError("Download failed for https://host/file?A-userid=me&Signature=s: 404")
        return shutil.copy(remote.handle, folder) and folder / remote.name


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "archive").mkdir()
    return Folder(tmp_path / "archive")


@pytest.fixture
def settings(tmp_path):
    return DownloadSettings(cache_dir=str(tmp_path / "cache"), parallel=2)


def run(archive, settings):
    return download_granules(archive, settings, SQUARE, "EPSG:3413", *MONTH).to_pylist()


def test_granules_arrive_once(archive, settings, tmp_path):
    archive.add("007", NAME.format("007"))
    archive.add("007", "ATL06_20200201000000_01230603_007_01.h5")
    rows = run(archive, settings)
    # A search also returns what overlaps the period; it belongs to the next one.
    assert [row["granule"] for row in rows] == [NAME.format("007")]
    path = tmp_path / "cache" / "atl06" / NAME.format("007")
    assert rows[0]["path"] == str(path) and rows[0]["size_bytes"] == path.stat().st_size
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    run(archive, settings)
    assert archive.fetched == [NAME.format("007")]
    short_name, version, box, months = archive.asked[0]
    assert (short_name, version, months) == ("ATL06", "007", MONTH) and len(box) == 4


def test_the_fallback_release_only_where_the_first_has_none(archive, settings):
    archive.add("006", NAME.format("006"))
    assert [row["release"] for row in run(archive, settings)] == ["006"]
    archive.add("007", NAME.format("007"))
    assert [row["release"] for row in run(archive, settings)] == ["007"]
    assert run(Folder(archive.folder), settings) == []


@pytest.mark.parametrize(
    ("content", "told", "reason"),
    [
        (None, {"size_bytes": 7}, "the catalogue says 7"),
        (None, {"checksum": "0" * 64}, "SHA-256"),
        (b"<html>log in</html>", {}, "HDF5"),
    ],
)
def test_a_wrong_file_never_gets_its_name(archive, settings, tmp_path, content, told, reason):
    archive.add("007", NAME.format("007"), content, **told)
    rows = run(archive, settings)
    assert reason in rows[0]["reason"] and rows[0]["size_bytes"] is None
    assert list((tmp_path / "cache" / "atl06").iterdir()) == []


def test_a_failed_transfer_is_in_the_manifest_without_its_signature(archive, settings):
    archive.add("007", NAME.format("007"))
    (archive.folder / NAME.format("007")).unlink()
    rows = run(archive, settings)
    assert rows[0]["reason"].startswith("not fetched: Download failed")
    assert "Signature" not in rows[0]["reason"]


def test_a_half_file_in_the_cache_is_fetched_again(archive, settings, tmp_path):
    archive.add("007", NAME.format("007"))
    target = tmp_path / "cache" / "atl06" / NAME.format("007")
    target.parent.mkdir(parents=True)
    target.write_bytes(b"\x89HDF\r\n\x1a\nhalf")
    assert run(archive, settings)[0]["reason"] is None
    with h5py.File(target) as file:
        assert file["x"].shape == (100,)


def test_an_unknown_checksum_is_left_to_the_other_checks(archive, tmp_path):
    archive.add("007", NAME.format("007"), algorithm="Adler-32")
    (remote,) = archive.releases["007"]
    assert fetch_file(archive, remote, tmp_path / "there.h5") is None


def test_the_newest_mascon_file(archive, settings, tmp_path):
    for name in ("GRCTellus.200204_202312.nc", "GRCTellus.200204_202408.nc", "CLM4.txt"):
        archive.add(None, name)
    target = tmp_path / "mascons" / "jpl.nc"
    download_mascons(archive, settings, "jpl", target)
    assert target.is_file() and archive.fetched == ["GRCTellus.200204_202408.nc"]
    with pytest.raises(UserError, match="csr"):
        download_mascons(archive, settings, "csr", target)
    with pytest.raises(UserError, match="mascons_short_name"):
        download_mascons(Folder(archive.folder), settings, "jpl", target)


def test_credentials_are_found_or_named(tmp_path, monkeypatch):
    assert find_credentials({"EARTHDATA_TOKEN": "t"}) == "environment"
    pair = {"EARTHDATA_USERNAME": "u", "EARTHDATA_PASSWORD": "p"}
    assert find_credentials(pair) == "environment"
    path = tmp_path / "netrc"
    path.write_text("machine urs.earthdata.nasa.gov login u password p\n")
    path.chmod(0o600)
    assert find_credentials({"NETRC": str(path)}) == "netrc"
    path.write_text("machine elsewhere.org login u password hidden\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for known in ({"NETRC": str(path)}, {}, {"EARTHDATA_USERNAME": "u"}):
        with pytest.raises(UserError) as caught:
            find_credentials(known)
        text = str(caught.value)
        for name in ("netrc", "EARTHDATA_TOKEN", "EARTHDATA_USERNAME", "EARTHDATA_PASSWORD"):
            assert name in text
        assert "hidden" not in text and "\n" not in text
    path.write_text("nonsense hidden\n")
    with pytest.raises(UserError, match="netrc file") as caught:
        find_credentials({"NETRC": str(path)})
    assert "hidden" not in str(caught.value)


def test_without_credentials_nothing_is_asked(tmp_path, monkeypatch):
    for name in ("TOKEN", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"EARTHDATA_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match="EARTHDATA_TOKEN"):
        Earthdata()


def test_descriptions_are_one_line_without_queries():
    assert describe(OSError("a\nb https://x/y?token=1 c")) == "a b https://x/y?… c"
    assert describe(OSError()) == "OSError"


def test_boxes():
    west, south, east, north = bounding_box(SQUARE, "EPSG:3413")
    assert west < -47 < -43 < east and south < 71 < 72.5 < north
    assert bounding_box(shapely.Point(0, 0).buffer(5e5), "EPSG:3413")[::2] == (-180.0, 180.0)
    x_m, y_m = project([180.0], [70.0], "EPSG:3413")
    over = shapely.box(x_m[0] - 1e5, y_m[0] - 1e5, x_m[0] + 1e5, y_m[0] + 1e5)
    west, south, east, north = bounding_box(over, "EPSG:3413")
    assert 175 < west < 180 and -180 < east < -175 and south < 70 < north
