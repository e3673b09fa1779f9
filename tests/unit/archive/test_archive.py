"""The loopback archive itself: what is sent, found and recorded, and how each fault looks."""

import hashlib
import http.client
import os
import re
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import earthaccess
import h5py
import numpy as np
import pytest
import requests
import shapely
from earthaccess.system import System
from hypothesis import given
from hypothesis import strategies as st

from tests.archive import GranuleEntry, LoopbackArchive, Response
from tests.archive.area import touches

GREENLAND = (-60.0, 60.0, -20.0, 84.0)
NAME = "ATL06_20190401120000_01230303_007_01.h5"
CONTENT = np.random.default_rng(1).bytes(3_000_000)


def atl06_name(day, rgt=123, revision=1):
    time = datetime(2019, 1, 1) + timedelta(days=day)
    return f"ATL06_{time:%Y%m%d%H%M%S}_{rgt:04d}0303_007_{revision:02d}.h5"


@pytest.fixture
def archive(tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT)
    with LoopbackArchive(tmp_path) as server:
        server.add_collection("ATL06", "007", [NAME])
        yield server


@pytest.fixture
def client(archive):
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {archive.token}"
        yield session


def fetch(client, url, **headers):
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    with client.get(url, headers=names, timeout=10, allow_redirects=False) as answer:
        answer.content  # noqa: B018  read to its end
        return answer


def log_in(archive, monkeypatch):
    monkeypatch.setenv("EARTHDATA_TOKEN", archive.token)
    return earthaccess.Auth().login(strategy="environment", system=System(**archive.system()))


def find(auth, limit=2000, **wanted):
    """Search as earthaccess does; return hits and entries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # earthaccess about its own next release
        query = earthaccess.DataGranules(auth).parameters(**wanted)
        with query.session:
            return query.hits(), query.get(limit)


def names_of(granules):
    return [granule["umm"]["GranuleUR"] for granule in granules]


# Data


def test_a_file_comes_whole_and_is_recorded(archive, client):
    answer = fetch(client, archive.url(NAME))
    assert answer.content == CONTENT
    assert int(answer.headers["Content-Length"]) == len(CONTENT)
    (entry,) = archive.log
    assert (entry.method, entry.name, entry.status) == ("GET", NAME, 200)
    assert (entry.bytes_sent, entry.complete, entry.last_byte) == (len(CONTENT), True, True)
    assert entry.had_token and entry.range_start is None
    assert archive.completed(NAME) == 1
    assert archive.body_bytes(NAME) == len(CONTENT)


def test_head_tells_without_sending(archive, client):
    with client.head(archive.url(NAME), timeout=10) as answer:
        assert int(answer.headers["Content-Length"]) == len(CONTENT)
        assert answer.headers["Accept-Ranges"] == "bytes"
    assert archive.completed(NAME) == archive.body_bytes(NAME) == 0


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=1000000-", slice(1_000_000, None)),
        ("bytes=10-19", slice(10, 20)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=2999999-9999999", slice(2_999_999, None)),
    ],
)
def test_a_range_comes_alone(archive, client, asked, expected):
    answer = fetch(client, archive.url(NAME), Range=asked)
    assert (answer.status_code, answer.content) == (206, CONTENT[expected])
    first, last, total = map(int, re.findall(r"\d+", answer.headers["Content-Range"]))
    assert CONTENT[first : last + 1] == answer.content
    assert total == len(CONTENT)
    assert archive.log[0].range_start == first
    assert archive.completed(NAME) == (last == total - 1)


def test_a_range_beyond_the_end_is_refused(archive, client):
    answer = fetch(client, archive.url(NAME), Range=f"bytes={len(CONTENT)}-")
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
def test_a_changed_file_comes_whole_whatever_range_is_asked(archive, client, tmp_path, validator):
    before = fetch(client, archive.url(NAME)).headers[validator]
    kept = fetch(client, archive.url(NAME), Range="bytes=5-", If_Range=before)
    assert (kept.status_code, kept.content) == (206, CONTENT[5:])
    (tmp_path / NAME).write_bytes(b"something else")
    later = (tmp_path / NAME).stat().st_mtime + 10
    os.utime(tmp_path / NAME, (later, later))
    changed = fetch(client, archive.url(NAME), Range="bytes=5-", If_Range=before)
    assert (changed.status_code, changed.content) == (200, b"something else")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_without_a_good_token_nothing_is_sent(archive, client, headers):
    client.headers.pop("Authorization")
    assert fetch(client, archive.url(NAME), **headers).status_code == 401
    assert archive.completed(NAME) == 0
    assert not archive.log[0].had_token


def test_expired_tokens_are_refused_and_new_ones_taken(archive, client):
    archive.expire_tokens()
    assert fetch(client, archive.url(NAME)).status_code == 401
    archive.login.add_token("loopback-new")
    assert fetch(client, archive.url(NAME), Authorization="Bearer loopback-new").ok


def test_a_public_file_needs_no_token_and_may_change(archive, client, tmp_path):
    client.headers.pop("Authorization")
    (tmp_path / "CSR.nc").write_bytes(b"one")
    url = archive.add_public("CSR.nc")
    assert url == archive.url("CSR.nc")
    first = fetch(client, url)
    (tmp_path / "CSR.nc").write_bytes(b"three")
    second = fetch(client, url)
    assert (first.content, second.content) == (b"one", b"three")
    assert first.headers["ETag"] != second.headers["ETag"]


def test_only_what_was_added_is_served(archive, client, tmp_path):
    (tmp_path / "secret").write_text("x")
    base = archive.url(NAME).rsplit("/", 1)[0]
    for path in ("/secret", "/../../../../etc/passwd", "/%2e%2e/secret"):
        assert fetch(client, base + path).status_code == 404


def test_a_connection_is_kept(archive, client):
    target = urlsplit(archive.url(NAME))
    connection = http.client.HTTPConnection(target.hostname, target.port, timeout=10)
    headers = {"Authorization": f"Bearer {archive.token}"}
    sockets = set()
    for _ in range(3):
        connection.request("GET", target.path, headers=headers)
        assert connection.getresponse().read() == CONTENT
        sockets.add(connection.sock)
    connection.close()
    assert len(sockets) == 1 and None not in sockets


def test_all_connections_together_are_held_to_the_rate(tmp_path):
    (tmp_path / "a.nc").write_bytes(bytes(500_000))
    done = {}
    with LoopbackArchive(tmp_path, rate_bytes_s=4e6) as archive:
        url = archive.add_public("a.nc")

        def load(number):
            with requests.get(url, timeout=10) as answer:
                assert len(answer.content) == 500_000
            done[number] = time.monotonic() - start

        start = time.monotonic()
        threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert archive.most_at_once == 4
    # 2 MB at 4 MB/s; all four share until the end.
    assert 0.45 < max(done.values()) < 1.5
    assert min(done.values()) > 0.35


def test_latency_comes_with_each_connection_and_each_answer(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"x")
    with LoopbackArchive(tmp_path, latency_s=0.2) as archive, requests.Session() as client:
        url = archive.add_public("a.nc")
        times = []
        for _ in range(2):
            start = time.monotonic()
            fetch(client, url)
            times.append(time.monotonic() - start)
    assert times[0] > 0.4
    assert 0.2 < times[1] < 0.4


# Search


def test_an_entry_reads_like_one_of_the_real_catalogue(archive, monkeypatch):
    auth = log_in(archive, monkeypatch)
    hits, (granule,) = find(auth, short_name="ATL06", version="007")
    assert hits == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        assert granule.data_links() == [archive.url(NAME)]
        # The record's other file, its metadata, counts as well.
        assert granule.size() == pytest.approx(len(CONTENT) / 2**20, rel=0.01)
    parts = granule["umm"]["DataGranule"]["ArchiveAndDistributionInformation"]
    (part,) = [part for part in parts if part["Name"] == NAME]
    assert part["SizeInBytes"] == len(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert part["Checksum"] == {"Value": digest, "Algorithm": "SHA-256"}
    assert re.fullmatch(r"G\d+-NSIDC_CPRD", granule["meta"]["concept-id"])
    begin = granule["umm"]["TemporalExtent"]["RangeDateTime"]["BeginningDateTime"]
    assert begin == "2019-04-01T12:00:00.000Z"
    types = {link["Type"] for link in granule["umm"]["RelatedUrls"]}
    assert {"GET DATA", "GET DATA VIA DIRECT ACCESS", "EXTENDED METADATA"} <= types


def test_sizes_and_checksums_can_be_left_out(archive, monkeypatch, tmp_path):
    (tmp_path / "a.nc").write_bytes(b"x")
    archive.add_collection("JPL", "1", ["a.nc"], checksum=None, sizes=False)
    _, (granule,) = find(log_in(archive, monkeypatch), short_name="JPL")
    part = granule["umm"]["DataGranule"]["ArchiveAndDistributionInformation"][0]
    assert not {"SizeInBytes", "Checksum"} & set(part)


def test_collections(archive, monkeypatch):
    auth = log_in(archive, monkeypatch)
    query = earthaccess.DataCollections(auth).short_name("ATL06").version("007")
    with query.session:
        (found,) = query.get(10)
        assert found["umm"]["ShortName"] == "ATL06"
        concept = found["meta"]["concept-id"]
        assert query.version("999").hits() == 0
    assert find(auth, collection_concept_id=concept)[0] == 1
    assert find(auth, concept_id=concept)[0] == 1


def test_days_are_searched_as_spans(archive, monkeypatch):
    entries = [GranuleEntry(atl06_name(day)) for day in range(10)]
    archive.add_collection("ATL06", "006", reversed(entries))
    auth = log_in(archive, monkeypatch)
    _, found = find(auth, short_name="ATL06", version="006", temporal=("2019-01-03", "2019-01-05"))
    assert names_of(found) == [atl06_name(day) for day in (2, 3, 4)]
    _, found = find(auth, short_name="ATL06", version="006", temporal=("2019-01-08", None))
    assert names_of(found) == [atl06_name(day) for day in (7, 8, 9)]


def test_pages_follow_each_other_in_a_stable_order(archive, client):
    names = [atl06_name(0, rgt) for rgt in range(1, 8)]
    archive.add_collection("ATL06", "006", [GranuleEntry(name) for name in names])
    found, pages, headers = [], 0, {}
    while True:
        url = f"{archive.cmr_base_url}granules.umm_json?short_name=ATL06&version=006&page_size=3"
        answer = fetch(client, url, **headers)
        assert answer.headers["CMR-Hits"] == "7"
        items = answer.json()["items"]
        if not items:
            assert "cmr-search-after" not in answer.headers
            break
        pages += 1
        found += names_of(items)
        headers = {"cmr-search-after": answer.headers["cmr-search-after"]}
    assert (pages, found) == (3, names)


def test_more_than_a_page_of_2000_comes_through_earthaccess(archive, monkeypatch):
    names = [atl06_name(0.01 * number) for number in range(2100)]
    archive.add_collection("ATL06", "006", [GranuleEntry(name) for name in names])
    hits, found = find(log_in(archive, monkeypatch), 2100, short_name="ATL06", version="006")
    assert hits == 2100
    assert sorted(names_of(found)) == sorted(names)


def test_a_search_may_be_sent_as_a_form(archive, client):
    url = f"{archive.cmr_base_url}granules.umm_json"
    form = {"short_name": "ATL06", "temporal[]": "2019-04-01T00:00:00Z,2019-04-02T00:00:00Z"}
    with client.post(url, data=form, timeout=10) as answer:
        assert names_of(answer.json()["items"]) == [NAME]
    with client.post(url, data={**form, "version": "006"}, timeout=10) as answer:
        assert answer.headers["CMR-Hits"] == "0"


def test_pages_can_be_shorter_than_asked(tmp_path):
    with LoopbackArchive(tmp_path, page_size=2) as archive, requests.Session() as client:
        archive.add_collection("X", "1", [GranuleEntry(f"{n}.h5") for n in range(5)])
        url = f"{archive.cmr_base_url}granules.umm_json?short_name=X&page_size=2000"
        answer = fetch(client, url)
        assert len(answer.json()["items"]) == 2
        assert answer.headers["CMR-Hits"] == "5"


@pytest.mark.parametrize(
    "query",
    [
        "no_such=1",
        "short_name=ATL06&page_size=2001",
        "short_name=ATL06&sort_key=colour",
        "short_name=ATL06&polygon=0,0,1,0,1,1,0,1",
        "short_name=ATL06&polygon=0,0,0,1,1,1,1,0,0,0",
        "short_name=ATL06&bounding_box=0,1,1,0",
    ],
)
def test_a_wrong_search_is_refused(archive, client, query):
    answer = fetch(client, f"{archive.cmr_base_url}granules.umm_json?{query}")
    assert answer.status_code == 400
    assert answer.json()["errors"]


def test_the_footprint_of_a_granule_is_a_ring_around_its_beams(tmp_path, monkeypatch):
    latitude = np.linspace(65.0, 75.0, 5000)
    longitude = -45.0 - (latitude - 65.0) * 0.5
    with h5py.File(tmp_path / NAME, "w") as file:
        for beam, shift in (("gt1l", -0.05), ("gt2r", 0.0), ("gt3r", 0.05)):
            group = file.create_group(f"{beam}/land_ice_segments")
            group["latitude"], group["longitude"] = latitude, longitude + shift
            group["delta_time"] = np.linspace(39_355_200.0, 39_355_500.0, 5000)
        file.create_group("gt1r")
    with LoopbackArchive(tmp_path) as archive:
        archive.add_collection("ATL06", "007", [NAME])
        auth = log_in(archive, monkeypatch)
        _, (granule,) = find(auth, short_name="ATL06")
        geometry = granule["umm"]["SpatialExtent"]["HorizontalSpatialDomain"]["Geometry"]
        points = geometry["GPolygons"][0]["Boundary"]["Points"]
        ring = shapely.Polygon([(one["Longitude"], one["Latitude"]) for one in points])
        assert ring.is_valid
        assert shapely.contains_xy(ring.buffer(1e-6), longitude, latitude).all()
        assert ring.area == pytest.approx(0.1 * 10.0, rel=0.01)
        # 39 355 500 s after 2018 began.
        end = granule["umm"]["TemporalExtent"]["RangeDateTime"]["EndingDateTime"]
        assert end == "2019-04-01T12:05:00.000Z"

        def hits(**area):
            return find(auth, short_name="ATL06", **area)[0]

        assert hits(bounding_box=GREENLAND) == 1
        assert hits(bounding_box=(-47.6, 69.9, -47.4, 70.1)) == 1
        assert hits(bounding_box=(-44.0, 69.9, -43.0, 70.1)) == 0
        assert hits(bounding_box=(10.0, 60.0, -20.0, 84.0)) == 1
        assert hits(bounding_box=(10.0, 60.0, -100.0, 84.0)) == 0
        around = [(-48.0, 69.0), (-47.0, 69.0), (-47.0, 71.0), (-48.0, 71.0), (-48.0, 69.0)]
        assert hits(polygon=around) == 1
        assert hits(polygon=[(x + 3, y) for x, y in around]) == 0


# Near the equator great circles are close to straight lines on the map.
boxes = st.tuples(st.floats(-8, 7), st.floats(-8, 7), st.floats(0.1, 3), st.floats(0.1, 3))


@given(boxes, boxes, st.sampled_from([0.0, 175.0, -178.0]))
def test_areas_touch_as_plane_shapes_do_near_the_equator(one, other, shift):
    def wrapped(x):
        return (x + shift + 180.0) % 360.0 - 180.0

    shapes = [shapely.box(x, y, x + w, y + h) for x, y, w, h in (one, other)]
    gap = shapes[0].distance(shapes[1])
    depth = shapely.intersection(*shapes).area
    if 0.0 < gap < 0.2 or (gap == 0.0 and depth < 0.01):
        return
    x, y, w, h = one
    ring = [(wrapped(a), b) for a, b in [(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)]]
    x, y, w, h = other
    assert touches(ring, (wrapped(x), y, wrapped(x + w), y + h)) == (gap == 0.0)


def test_the_far_side_of_the_globe_is_not_touched():
    ring = [(10.0, 10.0), (20.0, 10.0), (20.0, 20.0), (10.0, 20.0), (10.0, 10.0)]
    opposite = [(x - 180.0, -y) for x, y in ring]
    assert touches(ring, ring)
    assert not touches(ring, opposite)
    assert not touches(ring, (-171.0, -21.0, -159.0, -9.0))


def test_areas_around_a_pole():
    cap = [(longitude, -70.0) for longitude in range(0, 360, 10)]
    cap.append(cap[0])
    inside = [(0.0, -85.0), (5.0, -85.0), (5.0, -84.0), (0.0, -85.0)]
    outside = [(0.0, -65.0), (5.0, -65.0), (5.0, -64.0), (0.0, -65.0)]
    assert touches(inside, cap) and not touches(outside, cap)
    assert touches(inside, (-180.0, -90.0, 180.0, -70.0))
    assert not touches(outside, (-180.0, -90.0, 180.0, -70.0))


@pytest.mark.parametrize(
    "name", ["../x.h5", "/etc/x.h5", "a\u0000b.h5", "a\nb.h5", "%2e%2e%2fx.h5", "..\\x.h5"]
)
def test_hostile_names_stand_in_the_search_and_can_be_fetched(
    archive, client, monkeypatch, tmp_path, name
):
    archive.add_collection("X", "1", [GranuleEntry(name, tmp_path / NAME)])
    _, (granule,) = find(log_in(archive, monkeypatch), short_name="X")
    assert granule["umm"]["GranuleUR"] == name
    assert fetch(client, archive.url(name)).content == CONTENT


def test_an_entry_may_point_anywhere_and_lie(archive, monkeypatch):
    entry = GranuleEntry(
        "x.h5", url="http://elsewhere.invalid/x.h5", size_bytes=7, checksum="00", algorithm="MD5"
    )
    archive.add_collection("X", "1", [entry])
    _, (granule,) = find(log_in(archive, monkeypatch), short_name="X")
    part = granule["umm"]["DataGranule"]["ArchiveAndDistributionInformation"][0]
    assert (part["SizeInBytes"], part["Checksum"]["Value"]) == (7, "00")


# Faults


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502, 503])
def test_a_status_strikes_as_often_as_asked(archive, client, status):
    fault = archive.fault(str(status), match=NAME, times=2, skip=1)
    got = [fetch(client, archive.url(NAME)).status_code for _ in range(4)]
    assert got == [200, status, status, 200]
    assert fault.struck == 2
    assert [one.fault for one in archive.log] == [None, str(status), str(status), None]


def test_retry_after_in_seconds_or_as_a_date(archive, client):
    archive.fault("429", times=1, retry_after_s=1.5)
    assert fetch(client, archive.url(NAME)).headers["Retry-After"] == "1.5"
    archive.fault("429", times=1, retry_after_s=30, retry_after_date=True)
    date = parsedate_to_datetime(fetch(client, archive.url(NAME)).headers["Retry-After"])
    assert 29 < (date - datetime.now(UTC)).total_seconds() < 32


def test_a_fault_strikes_only_what_it_matches(archive, client, tmp_path):
    (tmp_path / "other.nc").write_bytes(b"x")
    url = archive.add_public("other.nc")
    archive.fault("503", match="other")
    assert fetch(client, archive.url(NAME)).ok
    assert fetch(client, url).status_code == 503
    archive.clear_faults()
    assert fetch(client, url).ok


def test_no_such_fault(archive):
    with pytest.raises(ValueError, match="no fault 'earthquake'"):
        archive.fault("earthquake")


BLOCK = 4096


def read_until_it_fails(client, url, timeout=0.3, **headers):
    """Return what came, and the error that ended it."""
    came = b""
    try:
        with client.get(url, stream=True, timeout=timeout, headers=headers) as answer:
            for block in answer.iter_content(BLOCK):
                came += block
    except requests.RequestException as error:
        return came, error
    return came, None


def assert_half(came):
    """Half of the file came; the client loses the block that it was reading."""
    half = CONTENT[: len(CONTENT) // 2]
    assert half.startswith(came)
    assert len(came) > len(half) - BLOCK


def test_a_stall_lasts_until_the_client_leaves(archive, client):
    archive.fault("stall", times=1)
    start = time.monotonic()
    came, error = read_until_it_fails(client, archive.url(NAME))
    assert time.monotonic() - start > 0.3
    assert "timed out" in str(error)
    assert_half(came)
    assert archive.completed(NAME) == 0
    assert fetch(client, archive.url(NAME)).content == CONTENT


def test_a_stall_does_not_keep_the_archive_from_closing(tmp_path):
    (tmp_path / "a.nc").write_bytes(CONTENT)
    with requests.Session() as client:
        with LoopbackArchive(tmp_path) as archive:
            archive.fault("stall", after_bytes=10)
            answer = client.get(archive.add_public("a.nc"), stream=True, timeout=10)
            start = time.monotonic()
        assert time.monotonic() - start < 3.0
        answer.close()


def test_a_silent_server_sends_no_answer(archive, client):
    archive.fault("silent", times=1)
    came, error = read_until_it_fails(client, archive.url(NAME))
    assert came == b"" and isinstance(error, requests.ReadTimeout)


def test_a_reset_comes_in_mid_body(archive, client):
    archive.fault("reset", times=1, after_bytes=1_000_000)
    came, error = read_until_it_fails(client, archive.url(NAME), timeout=10)
    assert "reset by peer" in str(error)
    assert CONTENT.startswith(came) and 900_000 < len(came) <= 1_000_000
    assert archive.body_bytes(NAME) == 1_000_000
    rest = fetch(client, archive.url(NAME), Range=f"bytes={len(came)}-")
    assert came + rest.content == CONTENT
    assert archive.completed(NAME) == 1


def test_a_short_body_ends_before_its_stated_length(archive, client):
    archive.fault("short", times=1)
    came, error = read_until_it_fails(client, archive.url(NAME), timeout=10)
    assert "IncompleteRead" in str(error)
    assert_half(came)
    assert [one.complete for one in archive.log] == [False]


def test_a_truncated_file_looks_whole(archive, client):
    archive.fault("truncated", times=1)
    answer = fetch(client, archive.url(NAME))
    assert answer.content == CONTENT[: len(CONTENT) // 2]
    assert int(answer.headers["Content-Length"]) == len(CONTENT) // 2
    assert archive.completed(NAME) == 0
    assert archive.log[0].complete


def test_wrong_bytes_are_of_the_right_length(archive, client):
    archive.fault("wrong_bytes", times=2)
    whole = fetch(client, archive.url(NAME)).content
    part = fetch(client, archive.url(NAME), Range="bytes=1000-1999").content
    for sent, right in ((whole, CONTENT), (part, CONTENT[1000:2000])):
        assert len(sent) == len(right)
        assert sum(a != b for a, b in zip(sent, right, strict=True)) == 64
    assert fetch(client, archive.url(NAME)).content == CONTENT


def test_a_log_in_page_comes_with_status_200(archive, client):
    archive.fault("html")
    answer = fetch(client, archive.url(NAME), Range="bytes=10-")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html"
    assert b"Earthdata Login" in answer.content
    assert archive.completed(NAME) == archive.body_bytes(NAME) == 0


def test_tokens_expire_after_requests_or_bytes(archive, client):
    archive.fault("expired", times=1, skip=2)
    assert [fetch(client, archive.url(NAME)).status_code for _ in range(4)] == [200, 200, 401, 401]
    archive.clear_log()
    archive.login.add_token(archive.token)
    archive.fault("expired", times=1, after_bytes=len(CONTENT) + 1)
    assert [fetch(client, archive.url(NAME)).status_code for _ in range(3)] == [200, 200, 401]


def test_pages_that_repeat_an_entry_leave_another_out(archive, client):
    names = [atl06_name(number) for number in range(6)]
    archive.add_collection("ATL06", "006", [GranuleEntry(name) for name in names])
    archive.fault("duplicates", times=2)

    def search():
        found, headers = [], {}
        for _ in range(3):
            query = "granules.umm_json?short_name=ATL06&version=006&page_size=2"
            answer = fetch(client, archive.cmr_base_url + query, **headers)
            found += names_of(answer.json()["items"])
            headers = {"cmr-search-after": answer.headers["cmr-search-after"]}
            assert answer.headers["CMR-Hits"] == "6"
        return found

    assert search() == [names[number] for number in (0, 1, 1, 2, 2, 3)]
    assert search() == names


def test_a_granule_is_reissued_when_it_is_asked_for(archive, client, monkeypatch):
    archive.fault("reissued", match=NAME, skip=1)
    got = [fetch(client, archive.url(NAME)).status_code]
    url = archive.url(NAME)
    got += [fetch(client, url).status_code for _ in range(2)]
    assert got == [200, 404, 404]
    _, (granule,) = find(log_in(archive, monkeypatch), short_name="ATL06")
    new = NAME.replace("_01.h5", "_02.h5")
    assert granule["umm"]["GranuleUR"] == new
    assert fetch(client, archive.url(new)).content == CONTENT


def test_the_search_fails_alone(archive, client, monkeypatch):
    archive.fault("search_503", times=1)
    auth = log_in(archive, monkeypatch)
    assert fetch(client, archive.url(NAME)).ok
    with pytest.raises(RuntimeError):
        find(auth, short_name="ATL06")
    assert find(auth, short_name="ATL06")[0] == 1


# Routes


def test_routes_of_other_services(archive, client):
    def answer(request):
        content = {
            "job": request.match["job"],
            "token": request.token,
            "query": request.query,
            "sent": request.body.decode(),
        }
        return Response.of_json(content, 201)

    archive.add_route("POST", r"/jobs/(?P<job>\d+)", answer)
    url = f"{archive.base_url}/jobs/7"
    with client.post(f"{url}?a=1&a=2", data={"b": "3"}, timeout=10) as reply:
        assert reply.status_code == 201
        expected = {"job": "7", "token": "bearer", "query": {"a": ["1", "2"]}, "sent": "b=3"}
        assert reply.json() == expected
    assert fetch(client, url).status_code == 404
    archive.fault("503", match="/jobs/", times=1)
    with client.post(url, timeout=10) as reply:
        assert reply.status_code == 503


def test_a_route_sends_files_as_the_archive_does(archive, client, tmp_path):
    archive.add_route("GET", "/result/x.h5", lambda request: Response(body=tmp_path / NAME))
    url = f"{archive.base_url}/result/x.h5"
    assert fetch(client, url, Range="bytes=100-199").content == CONTENT[100:200]
    archive.fault("short", times=1)
    assert read_until_it_fails(client, url, timeout=10)[1] is not None
    assert fetch(client, url).content == CONTENT
    assert archive.completed("x.h5") == 1


def test_an_error_of_the_archive_itself_is_not_swallowed(tmp_path):
    def broken(request):
        raise KeyError("a mistake in a test's handler")

    with pytest.raises(ExceptionGroup) as caught:
        with LoopbackArchive(tmp_path) as archive, requests.Session() as client:
            archive.add_route("GET", "/broken", broken)
            assert read_until_it_fails(client, f"{archive.base_url}/broken", 10)[1] is not None
    assert isinstance(caught.value.exceptions[0], KeyError)
