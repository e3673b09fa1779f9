"""Searches of a catalogue that fails, repeats itself and leaves things out; and areas to search."""

import json
import logging
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import earthaccess
import numpy as np
import pytest
import requests
import shapely
from earthaccess.system import System

from cryofuse.acquire import catalogue
from cryofuse.acquire.catalogue import (
    LONGEST_WAIT_S,
    TRIES,
    Catalogue,
    Entry,
    asked_wait_s,
    bounding_box,
    search_area,
)
from cryofuse.acquire.plan import plan_granules, read_manifest, write_manifest
from cryofuse.calendar import period_bounds
from cryofuse.config import DownloadSettings, load_region
from cryofuse.geo import load_outline, project
from cryofuse.logs import UserError
from tests.archive import GranuleEntry, LoopbackArchive

SQUARE = shapely.box(-1e5, -2.1e6, 1e5, -1.9e6)
MONTH = period_bounds("2020-01")
HOST = "https://data.nsidc.earthdatacloud.nasa.gov"
REGIONS = Path(__file__).parents[3] / "config" / "regions"
SECRET = "a-token-nobody-may-read"


def granule(number, start="2020-01-02T03:04:05", **umm):
    """A record as the catalogue writes it (UMM-G)."""
    name = f"ATL06_{re.sub('[^0-9]', '', start)}_{number:04d}0603_007_01.h5"
    part = {"Name": name, "SizeInBytes": 1000 + number}
    part["Checksum"] = {"Value": f"{number:032x}", "Algorithm": "MD5"}
    return {
        "meta": {
            "concept-id": f"G{number}-NSIDC",
            "revision-id": 1,
            "revision-date": "2024-01-01T00:00:00Z",
        },
        "umm": {
            "GranuleUR": name,
            "RelatedUrls": [{"URL": f"{HOST}/ATLAS/{name}", "Type": "GET DATA"}],
            "DataGranule": {"ArchiveAndDistributionInformation": [part]},
            "start": start,
        }
        | umm,
    }


class FakeCatalogue(requests.Session):
    """A session that answers as the catalogue does; each fault is used up in its turn."""

    def __init__(self, records=(), page_size=2000):
        super().__init__()
        self.records, self.page_size = list(records), page_size
        self.faults, self.asked, self.waited = [], [], []
        self.hidden = set()
        self.headers["Authorization"] = f"Bearer {SECRET}"

    def get(self, url, headers=None, params=None, **_):
        assert urlsplit(url).path == "/search/granules.umm_json"
        question = parse_qs(urlsplit(url).query)
        self.asked.append(question | {"page_size": params["page_size"]})
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            if fault is not None:
                return self.answer(url, *fault)
        matching = self.records
        if "temporal[]" in question:
            (window,) = question["temporal[]"]
            first, last = (text.removesuffix("Z") for text in window.split(","))
            matching = [r for r in matching if first <= r["umm"]["start"] <= last]
        told = {"CMR-Hits": str(len(matching))}
        if params["page_size"] == 0:
            return self.answer(url, 200, {"items": []}, told)
        offset = int((headers or {}).get("cmr-search-after", 0))
        page = matching[offset : offset + min(params["page_size"], self.page_size)]
        told["cmr-search-after"] = str(offset + len(page))
        shown = [r for r in page if r["meta"]["concept-id"] not in self.hidden]
        return self.answer(url, 200, {"items": self.spoil(shown)}, told)

    def spoil(self, page):
        return page

    @staticmethod
    def answer(url, status, body, headers=None):
        response = requests.Response()
        response.status_code, response.url = status, url
        response._content = (body if isinstance(body, str) else json.dumps(body)).encode()
        response.headers.update(headers or {})
        return response

    def search(self, *words):
        system = SimpleNamespace(cmr_base_url="https://cmr.test/search/")
        auth = SimpleNamespace(authenticated=True, system=system, get_session=lambda: self)
        return Catalogue(auth, sleep=self.waited.append)(*words)


def minutes(count):
    """Records that start a minute after one another."""
    start = np.datetime64("2020-01-02T03:04:05") + np.arange(count).astype("timedelta64[m]")
    return [granule(i + 1, str(time)) for i, time in enumerate(start)]


def numbers(entries):
    return sorted(int(entry.concept_id[1:].split("-")[0]) for entry in entries)


def test_the_question_is_asked_in_the_catalogues_words():
    fake = FakeCatalogue([granule(1)])
    ring = ((0.0, 60.0), (1.0, 60.0), (1.0, 61.0), (0.0, 60.0))
    (entry,) = fake.search("ATL06", "007", ring, MONTH)
    name = "ATL06_20200102030405_00010603_007_01.h5"
    assert entry == Entry(
        name=name,
        url=f"{HOST}/ATLAS/{name}",
        size_bytes=1001,
        checksum="0" * 31 + "1",
        algorithm="MD5",
        concept_id="G1-NSIDC",
        revision_date="2024-01-01T00:00:00Z",
    )
    for question in fake.asked:
        assert question["short_name"] == ["ATL06"] and question["version"] == ["007"]
        assert question["temporal[]"] == ["2020-01-01T00:00:00Z,2020-02-01T00:00:00Z"]
        assert question["polygon"] == ["0.0,60.0,1.0,60.0,1.0,61.0,0.0,60.0"]
    fake.asked.clear()
    fake.search("IDBMG4", None, (-180.0, -90.0, 180.0, -60.0))
    for question in fake.asked:
        assert question["bounding_box"] == ["-180.0,-90.0,180.0,-60.0"]
        assert not {"version", "temporal[]", "polygon"} & set(question)


def test_a_year_is_searched_month_by_month_and_each_entry_is_there_once():
    # One starts in the second in which two windows meet.
    records = [granule(i, f"2020-{i:02d}-01T00:00:00") for i in range(1, 13)]
    fake = FakeCatalogue(records)
    first, stop = np.datetime64("2020-01-15", "us"), np.datetime64("2020-12-20", "us")
    assert numbers(fake.search("ATL06", "007", None, (first, stop))) == list(range(2, 13))
    windows = {question["temporal[]"][0] for question in fake.asked}
    edges = ["2020-01-15", *(f"2020-{month:02d}-01" for month in range(2, 13)), "2020-12-20"]
    assert windows == {
        f"{a}T00:00:00Z,{b}T00:00:00Z" for a, b in zip(edges[:-1], edges[1:], strict=True)
    }
    assert fake.search("ATL06", "007", None, period_bounds("2021")) == []


def test_a_short_page_halves_the_time_until_everything_came():
    fake = FakeCatalogue(minutes(100), page_size=7)
    assert numbers(fake.search("ATL06", "007", None, MONTH)) == list(range(1, 101))
    assert fake.waited == []


def test_an_entry_twice_over_two_pages_hides_another_and_is_noticed():
    class Doubling(FakeCatalogue):
        def spoil(self, page):
            # The last of a long page is its first once more.
            return page[:-1] + page[:1] if len(page) > 3 else page

    fake = Doubling(minutes(50))
    assert numbers(fake.search("ATL06", "007", None, MONTH)) == list(range(1, 51))


def test_an_entry_that_never_comes_ends_in_one_line_after_few_questions():
    fake = FakeCatalogue(minutes(20))
    fake.hidden = {"G11-NSIDC"}
    with pytest.raises(UserError, match="ATL06.*0 of 1 entries") as caught:
        fake.search("ATL06", "007", None, MONTH)
    assert "\n" not in str(caught.value)
    # Two requests a search, two searches a halving of 44 640 minutes, then the last one's tries.
    assert len(fake.asked) <= 2 * (2 * 16 + TRIES)


def test_a_collection_without_months_is_asked_again_for_what_is_missing():
    fake = FakeCatalogue(minutes(3), page_size=2)
    with pytest.raises(UserError, match="2 of 3 entries"):
        fake.search("IDBMG4")
    assert len(fake.waited) == TRIES - 1
    fake.page_size = 3
    fake.faults = [None, (200, {"items": []}, {})]
    assert numbers(fake.search("IDBMG4")) == [1, 2, 3]


@pytest.mark.parametrize(
    "fault",
    [
        (503, "<html>busy</html>", {}),
        (500, "", {}),
        (429, "", {}),
        (200, "<html>log in</html>", {"CMR-Hits": "1"}),
        (200, "{}", {}),
        requests.ConnectionError(f"https://cmr.test/?token={SECRET}"),
        requests.ReadTimeout("slow"),
    ],
)
@pytest.mark.parametrize("at", [0, 1])
def test_a_failure_is_tried_again_with_a_line_each(caplog, fault, at):
    fake = FakeCatalogue([granule(1)])
    fake.faults = [None] * at + [fault]
    with caplog.at_level(logging.WARNING):
        assert numbers(fake.search("ATL06", "007", None, MONTH)) == [1]
    fake.faults = [fault] * 100
    fake.waited.clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING), pytest.raises(UserError) as caught:
        fake.search("ATL06", "007", None, MONTH)
    assert len(caplog.records) == len(fake.waited) == TRIES - 1
    # Each wait is longer than the one before, but never beyond the bound.
    assert all(2 * 2**i <= wait <= 2 * 2**i + 2 for i, wait in enumerate(fake.waited))
    for text in (str(caught.value), *(record.getMessage() for record in caplog.records)):
        assert "\n" not in text and SECRET not in text and "?" not in text and "<" not in text


def test_the_server_says_how_long_to_wait():
    fake = FakeCatalogue([granule(1)])
    fake.faults = [
        (429, "", {"Retry-After": "50"}),
        (503, "", {"Retry-After": "99999"}),
        (503, "", {"Retry-After": "soon"}),
    ]
    assert len(fake.search("ATL06", "007", None, MONTH)) == 1
    assert fake.waited[:2] == [50.0, LONGEST_WAIT_S] and 8 <= fake.waited[2] <= 10


def test_a_wait_may_be_asked_for_as_a_date():
    now = datetime(2024, 2, 29, 12, 0, 0, tzinfo=UTC)
    assert asked_wait_s("Thu, 29 Feb 2024 12:01:30 GMT", now) == 90.0
    assert asked_wait_s("Thu, 29 Feb 2024 13:01:30 +0100", now) == 90.0
    assert asked_wait_s("Thu, 29 Feb 2024 11:00:00 -0000", now) == 0.0
    assert not any(asked_wait_s(text, now) for text in (None, "", "-5", "1.5e", "soon"))


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refused_question_is_asked_once(status):
    fake = FakeCatalogue([granule(1)])
    fake.faults = [(status, f"secret {SECRET}\nmore", {})] * 9
    with pytest.raises(UserError, match=f"status {status}") as caught:
        fake.search("ATL06", "007", None, MONTH)
    assert len(fake.asked) == 1 and fake.waited == []
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)


def test_a_server_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(catalogue, "_TIMEOUT_S", (0.1, 0.1))
    waited = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        system = SimpleNamespace(cmr_base_url=f"http://127.0.0.1:{server.getsockname()[1]}/search/")
        auth = SimpleNamespace(
            authenticated=True, system=system, get_session=lambda: requests.Session()
        )
        with pytest.raises(UserError, match="ReadTimeout"):
            Catalogue(auth, sleep=waited.append)("ATL06")
    assert len(waited) == TRIES - 1


def test_of_two_states_of_an_entry_the_later_counts():
    old, new, other = granule(1), granule(1), granule(2)
    new["meta"] |= {"revision-id": 2, "revision-date": "2024-06-01T00:00:00Z"}
    for records in ([old, other, new], [new, old, other]):
        fake = FakeCatalogue(records)
        # Three hits for two entries are an incomplete answer, whatever the window.
        with pytest.raises(UserError, match="2 of 3|1 of 2"):
            fake.search("ATL06", "007", None, MONTH)

    # The entry is revised between two searches that both hold it, or the second is behind.
    old["umm"]["start"] = new["umm"]["start"] = "2020-02-01T00:00:00"
    months = (np.datetime64("2020-01-01", "us"), np.datetime64("2020-03-01", "us"))
    for first, second in ((old, new), (new, old)):

        class Changing(FakeCatalogue):
            def spoil(self, page, second=second):
                return [second for _ in page] if len(self.asked) > 2 else page

        (entry,) = Changing([first]).search("ATL06", "007", None, months)
        assert entry.revision_date == "2024-06-01T00:00:00Z"


def parsed(**umm):
    (entry,) = FakeCatalogue([granule(1, **umm)]).search("ATL06")
    return entry


def links(*urls, kind="GET DATA"):
    return {"RelatedUrls": [{"URL": url, "Type": kind} for url in urls]}


def test_the_link_to_the_data():
    https = f"{HOST}/a/one.h5"
    assert parsed(**links(f"{HOST}/a/one.iso.xml", https, f"{HOST}/two.h5")).url == https
    assert parsed(**links("s3://bucket/one.h5", "ftp://host/one.h5", https)).url == https
    assert parsed(**links(f"{HOST}/a/one.zip")).url == f"{HOST}/a/one.zip"
    for none in (links("s3://bucket/one.h5"), links(https, kind="VIEW"), {"RelatedUrls": []}):
        entry = parsed(**none)
        assert entry.url is None and entry.name == "ATL06_20200102030405_00010603_007_01.h5"


@pytest.mark.parametrize(
    ("last", "name"),
    [
        ("one.h5", "one.h5"),
        ("..%2F..%2Fetc%2Fpasswd.h5", "../../etc/passwd.h5"),
        ("%2Fetc%2Fpasswd", "/etc/passwd"),
        ("one%0A.h5", "one\n.h5"),
        ("%252e%252e", "%2e%2e"),
        ("%FF.h5", "\ufffd.h5"),
        ("one.h5?A-userid=me#part/two.h5", "one.h5"),
        ("..", ".."),
        ("", ""),
    ],
)
def test_names_are_decoded_and_handed_on_as_they_are(last, name):
    assert parsed(**links(f"{HOST}/a/{last}")).name == name


def parts(*described):
    return {"DataGranule": {"ArchiveAndDistributionInformation": list(described)}} | links(
        f"{HOST}/one.h5"
    )


def test_sizes_and_checksums_are_those_of_the_file():
    whole = {"Name": "one.h5", "SizeInBytes": 7, "Checksum": {"Value": "ab", "Algorithm": "MD5"}}
    other = {"Name": "one.xml", "SizeInBytes": 3, "Checksum": {"Value": "cd", "Algorithm": "SHA-1"}}

    def told(*described):
        entry = parsed(**parts(*described))
        return entry.size_bytes, entry.checksum, entry.algorithm

    assert told(other, whole) == told(whole, other) == (7, "ab", "MD5")
    assert told({"Name": "one.zip", "SizeInBytes": 9, "Files": [other, whole]}) == (7, "ab", "MD5")
    # A size in megabytes is rounded: it says nothing about bytes.
    assert told({"Name": "one.h5", "Size": 1.0, "SizeUnit": "MB"}) == (None, None, None)
    assert told({"Name": "Not provided", "SizeInBytes": 5}) == (5, None, None)
    assert told(other) == told() == (None, None, None)
    entry = parsed(**({"DataGranule": {}} | links(f"{HOST}/one.h5")))
    assert (entry.size_bytes, entry.checksum) == (None, None)


ODD = [None, "x", 7, -7, 0.5, True, float("nan"), float("inf"), [], [None], ["x"], {}, {"a": 1}]


@pytest.mark.parametrize("odd", ODD)
def test_values_that_are_none_of_their_kind_are_unknown(odd):
    """In the first entry of a page as in another one; the rest of the entry stays."""
    url, name = f"{HOST}/one.h5", "ATL06_20200102030405_00010603_007_01.h5"
    part = {"Name": "one.h5", "SizeInBytes": 7, "Checksum": {"Value": "ab", "Algorithm": "MD5"}}

    def told(**umm):
        first, second = FakeCatalogue([granule(1, **umm), granule(2, **umm)]).search("ATL06")
        assert (first.concept_id, second.concept_id) == ("G1-NSIDC", "G2-NSIDC")
        return first.name, first.url, first.size_bytes, first.checksum, first.algorithm

    without = ("one.h5", url, None, None, None)
    assert told(**links(url), DataGranule=odd) == without
    inner = {"ArchiveAndDistributionInformation": odd}
    assert told(**links(url), DataGranule=inner) == without
    assert told(**parts({"Name": "one.zip", "Files": odd})) == without
    checksum = told(**parts(part | {"Checksum": odd}))
    assert checksum == ("one.h5", url, 7, None, None)
    text = odd if isinstance(odd, str) else None
    value = told(**parts(part | {"Checksum": {"Value": odd, "Algorithm": "MD5"}}))
    assert value[2:] == (7, text, text and "MD5")
    algorithm = told(**parts(part | {"Checksum": {"Value": "ab", "Algorithm": odd}}))
    assert algorithm[2:] == (7, text and "ab", text)
    size = told(**parts(part | {"SizeInBytes": odd}))
    assert size[2:] == (7 if odd is not True and odd == 7 else None, "ab", "MD5")
    assert told(RelatedUrls=odd)[:2] == (name, None)
    assert told(RelatedUrls=[{"URL": odd, "Type": "GET DATA"}])[:2] == (name, None)
    assert told(RelatedUrls=[{"URL": f"{HOST}/two.h5", "Type": odd}])[:2] == (name, None)
    assert told(RelatedUrls=[odd, *links(url)["RelatedUrls"]])[1] == url


@pytest.mark.parametrize(("said", "size"), [(7.0, 7), (10**400, 10**400), (0, 0)])
def test_whole_numbers_come_in_several_forms(said, size):
    assert parsed(**parts({"Name": "one.h5", "SizeInBytes": said})).size_bytes == size


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("key", ["revision-id", "revision-date"])
def test_a_revision_that_is_none_is_before_those_that_are(key, odd):
    old, new = granule(1), granule(1)
    old["meta"][key] = odd
    new["meta"]["revision-id"], new["meta"]["revision-date"] = 8, "y"
    for records in ([old, new], [new, old]):
        (entry,) = [catalogue._entry(one) for one in catalogue._latest(records)]
        assert entry.revision_date == "y"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("odd", [one for one in ODD if one != "x"])
def test_an_entry_without_a_name_ends_the_search_in_one_line(odd, first):
    records = [odd, granule(1), granule(1)]
    records[1]["meta"]["concept-id"] = odd
    records[2]["umm"] |= {"GranuleUR": odd, "RelatedUrls": []}
    records += [granule(1) | {"meta": odd}, granule(1) | {"umm": odd}]
    for record in records:

        class Odd(FakeCatalogue):
            def spoil(self, page, record=record):
                return [record, *page[1:]] if first else [*page[:-1], record]

        fake = Odd([granule(2), granule(3)])
        with pytest.raises(UserError) as caught:
            fake.search("ATL06")
        text = str(caught.value)
        assert "catalogue failed for ATL06: " in text and "\n" not in text
        # Asked again it would answer the same.
        assert fake.waited == []


@pytest.mark.parametrize("line", ["machine cmr.test login u", "default login anonymous"])
def test_a_netrc_line_does_not_replace_the_token_of_a_search(tmp_path, monkeypatch, line):
    (tmp_path / "netrc").write_text(f"{line} password hidden\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    session, sent = requests.Session(), []
    session.headers["Authorization"] = f"Bearer {SECRET}"

    def send(self, request, **options):
        sent.append(request.headers["Authorization"])
        answer = FakeCatalogue.answer(request.url, 200, {"items": []}, {"CMR-Hits": "0"})
        answer.request = request
        return answer

    monkeypatch.setattr(catalogue._TimedAdapter, "send", send)
    system = SimpleNamespace(cmr_base_url="https://cmr.test/search/")
    auth = SimpleNamespace(authenticated=True, system=system, get_session=lambda: session)
    assert Catalogue(auth)("ATL06") == []
    assert sent == [f"Bearer {SECRET}"]


def vectors(longitude, latitude):
    longitude, latitude = np.radians(longitude), np.radians(latitude)
    return np.stack(
        [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.sin(latitude),
        ],
        axis=-1,
    )


def margins_km(ring, point):
    """How far inside a ring of great circles points lie; negative is outside.

    A point is inside where the ring turns once around it, counter-clockwise.
    """
    corner = vectors(*np.asarray(ring).T)
    toward = corner[None] - (point @ corner.T)[..., None] * point[:, None]
    turn = np.arctan2(
        (np.cross(toward[:, :-1], toward[:, 1:]) * point[:, None]).sum(axis=2),
        (toward[:, :-1] * toward[:, 1:]).sum(axis=2),
    ).sum(axis=1)
    inside = np.abs(turn - 2 * np.pi) < 1e-6
    assert (inside | (np.abs(turn) < 1e-6)).all()
    # Distance to an edge: to its plane where the foot lies on the edge, else to its ends.
    left = np.cross(corner[:-1], corner[1:])
    left /= np.linalg.norm(left, axis=1)[:, None]
    across = np.arcsin(np.abs(point @ left.T))
    foot = point[:, None] - (point @ left.T)[..., None] * left[None]
    on_edge = ((np.cross(corner[:-1][None], foot) * left).sum(axis=2) >= 0) & (
        (np.cross(foot, corner[1:][None]) * left).sum(axis=2) >= 0
    )
    ends = np.arccos(np.clip(point @ corner.T, -1, 1))
    distance = np.where(on_edge, across, np.minimum(ends[:, :-1], ends[:, 1:])).min(axis=1)
    return np.where(inside, 6371.0, -6371.0) * distance


def outline_points(outline, crs):
    from pyproj import Transformer

    xy = shapely.get_coordinates(shapely.segmentize(outline.boundary, 2000.0))
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*xy.T)


@pytest.mark.parametrize("name", sorted(path.stem for path in REGIONS.glob("*.yaml")))
def test_the_area_searched_contains_the_outline_on_the_sphere(name):
    region = load_region(name, REGIONS)
    outline = load_outline(region)
    area = search_area(outline, region.crs)
    longitude, latitude = outline_points(outline, region.crs)
    if name == "antarctica":
        west, south, east, north = area
        assert (west, south, east) == (-180.0, -90.0, 180.0)
        # A degree of latitude has 111 km.
        assert 0.09 < north - latitude.max() < 0.3
        return
    ring = np.asarray(area)
    assert 4 <= len(ring) <= 60 and area[0] == area[-1]
    assert shapely.is_ccw(shapely.LinearRing(ring)) and shapely.Polygon(ring).is_valid
    margin = margins_km(ring, vectors(longitude, latitude))
    assert 4.0 < margin.min() < 12.0
    # It is a hull, not the box: nothing lies far from the outline's own hull.
    hull = shapely.convex_hull(outline)
    corners = shapely.points(*project(*ring.T, region.crs))
    assert shapely.distance(hull, corners).max() < 15_000


@pytest.mark.parametrize(
    ("crs", "box"),
    [
        ("EPSG:32627", (2e5, 7.0e6, 8e5, 7.4e6)),
        ("EPSG:3413", (-6e5, -3.3e6, 8e5, -7e5)),
        ("EPSG:3031", (5e5, 5e5, 2e6, 2e6)),
        # Here lengths are three times too long, and a parallel is no great circle by far.
        ("EPSG:3857", (-2e6, 1.0e7, -8.2e5, 1.1e7)),
        ("EPSG:3857", (-8e6, 8e6, -2e6, 1.8e7)),
    ],
)
def test_a_ring_holds_in_any_projection(crs, box):
    outline = shapely.box(*box)
    area = search_area(outline, crs)
    longitude, latitude = outline_points(outline, crs)
    if len(area) == 4:
        west, south, east, north = area
        assert west < longitude.min() and longitude.max() < east
        assert south < latitude.min() and latitude.max() < north
    else:
        assert len(area) <= 60
        # Half of the 10 km is left; this map draws them larger than they are.
        scale = 1 / np.cos(np.radians(latitude)) if crs == "EPSG:3857" else 1.0
        assert (margins_km(area, vectors(longitude, latitude)) * scale).min() > 4.8


def test_a_region_over_a_pole_or_180_degrees_has_a_box():
    assert search_area(shapely.Point(0, 0).buffer(5e5), "EPSG:3413")[::2] == (-180.0, 180.0)
    x_m, y_m = project([180.0], [70.0], "EPSG:3413")
    over = shapely.box(x_m[0] - 1e5, y_m[0] - 1e5, x_m[0] + 1e5, y_m[0] + 1e5)
    west, south, east, north = search_area(over, "EPSG:3413")
    assert 175 < west < 180 and -180 < east < -175 and south < 70 < north
    longitude, latitude = outline_points(over, "EPSG:3413")
    assert (np.mod(longitude, 360) > west).all() and (np.mod(longitude, 360) < east + 360).all()


def test_boxes():
    west, south, east, north = bounding_box(SQUARE, "EPSG:3413")
    assert west < -47 < -43 < east and south < 71 < 72.5 < north
    assert bounding_box(shapely.Point(0, 0).buffer(5e5), "EPSG:3413")[::2] == (-180.0, 180.0)
    x_m, y_m = project([180.0], [70.0], "EPSG:3413")
    over = shapely.box(x_m[0] - 1e5, y_m[0] - 1e5, x_m[0] + 1e5, y_m[0] + 1e5)
    west, south, east, north = bounding_box(over, "EPSG:3413")
    assert 175 < west < 180 and -180 < east < -175 and south < 70 < north


@pytest.fixture
def archive(tmp_path):
    with LoopbackArchive(tmp_path, page_size=40) as server:
        yield server


@pytest.fixture
def log_in(monkeypatch):
    """Log in to an archive as a job does: with a token no log-in host is asked."""

    def log_in(server):
        monkeypatch.setenv("EARTHDATA_TOKEN", server.token)
        auth = earthaccess.Auth()
        return auth.login(strategy="environment", system=System(**server.system()))

    return log_in


def entries(count, step=timedelta(minutes=20)):
    start = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    footprint = (-50.0, 65.0, -49.0, 66.0)
    return [
        GranuleEntry(
            f"ATL06_{start + i * step:%Y%m%d%H%M%S}_{i % 1387 + 1:04d}0603_007_01.h5",
            size_bytes=1000 + i,
            footprint=footprint,
        )
        for i in range(count)
    ]


def test_an_archive_of_small_pages_is_searched_completely(archive, log_in):
    known = entries(200)
    far = GranuleEntry(known[0].name.replace("_0001", "_1387"), footprint=(0.0, 65.0, 1.0, 66.0))
    archive.add_collection("ATL06", "007", [*known, far])
    older = [GranuleEntry(entry.name.replace("_007_", "_006_")) for entry in known[:3]]
    archive.add_collection("ATL06", "006", older)
    region = load_region("greenland", REGIONS)
    area = search_area(load_outline(region), region.crs)
    found = Catalogue(log_in(archive))("ATL06", "007", area, MONTH)
    assert {entry.name: entry.size_bytes for entry in found} == {
        entry.name: entry.size_bytes for entry in known
    }
    assert all(entry.url == archive.url(entry.name) for entry in found)


def test_entries_twice_over_the_pages_of_an_archive_are_noticed(tmp_path, log_in):
    # The library asks for pages of 2000.
    known = entries(2010, timedelta(minutes=10))
    with LoopbackArchive(tmp_path) as archive:
        archive.add_collection("ATL06", "007", known)
        fault = archive.fault("duplicates")
        found = Catalogue(log_in(archive))("ATL06", "007", None, MONTH)
    assert fault.struck > 0
    assert [entry.name for entry in found] == sorted(entry.name for entry in known)


def test_an_archive_that_is_busy_is_asked_again(archive, log_in, caplog):
    archive.add_collection("ATL06", "007", entries(3))
    waited = []
    search = Catalogue(log_in(archive), sleep=waited.append)
    archive.fault("search_503", times=1)
    archive.fault("search_429", times=1, skip=1, retry_after_s=77)
    archive.fault("search_reset", times=1, skip=1, after_bytes=20)
    assert len(search("ATL06", "007", None, MONTH)) == 3
    assert len(waited) == 3 and 77.0 in waited
    archive.fault("search_503")
    waited.clear()
    with pytest.raises(UserError, match="status 503") as caught:
        search("ATL06", "007", None, MONTH)
    assert len(waited) == TRIES - 1 and "\n" not in str(caught.value)
    assert archive.token not in caplog.text + str(caught.value)


def test_hostile_names_of_an_archive_stay_in_the_plan(archive, log_in, tmp_path):
    (good,) = entries(1)
    names = [f"../../{good.name}", f"/etc/{good.name}", f"{good.name}\n", "..", "%2e%2e", "\x1b[2J"]
    archive.add_collection("ATL06", "007", [good, *(GranuleEntry(name) for name in names)])
    region = load_region("greenland", REGIONS)
    rows = plan_granules(
        Catalogue(log_in(archive)),
        DownloadSettings(),
        load_outline(region),
        region.crs,
        *MONTH,
        trusted_hosts=["127.0.0.1"],
    )
    assert len(rows) == 1 + len(names)
    assert [row.granule for row in rows if row.reason is None] == [good.name]
    write_manifest(rows, tmp_path / "plan.csv", {"collection": "ATL06"})
    assert read_manifest(tmp_path / "plan.csv", ["127.0.0.1"]) == rows
    with pytest.raises(UserError, match="127.0.0.1"):
        read_manifest(tmp_path / "plan.csv", ["nsidc.org"])
