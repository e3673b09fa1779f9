"""Transfers from an archive that misbehaves: nothing lost, doubled, or accepted that is bad."""

import errno
import fcntl
import http.server
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryofuse.acquire.transfer import Wanted, check_announced, describe, is_safe_name
from cryofuse.logs import UserError
from tests.archive import LoopbackArchive, Response
from tests.atl06_files import granule_name
from tests.transfer_site import TOKEN, Site, digest

BLOCK = 1 << 18


@contextmanager
def recorder(host="127.0.0.1", content=b""):
    """A second server; it keeps the headers of what it is asked."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://localhost:{server.server_port}", server.server_port, seen
        server.shutdown()
        thread.join()


def test_files_arrive_once(site):
    outcomes = site.run()
    assert [outcome.path for outcome in outcomes] == [site.folder / name for name in site.names]
    assert [outcome.received_bytes for outcome in outcomes] == [
        len(site.content[name]) for name in site.names
    ]
    assert site.arrived() == site.names and site.left() == [] and site.aside() == {}
    site.archive.clear_log()
    again = site.run()
    assert [outcome.received_bytes for outcome in again] == [0] * 5 and site.archive.log == []


# ---------------------------------------------------------------------- faults that pass


PASSING = ("401", "403", "408", "429", "500", "502", "503", "504", "html")
BROKEN = ("silent", "stall", "reset", "short", "truncated", "wrong_bytes")


@pytest.mark.parametrize("kind", [*PASSING, *BROKEN])
def test_a_fault_that_strikes_once_heals(site, kind):
    fault = site.archive.fault(kind, site.names[1], times=1)
    outcomes = site.run(timeout_s=0.4)
    assert fault.struck == 1
    assert [outcome.reason for outcome in outcomes] == [None] * 5
    assert site.arrived() == site.names and site.left() == [] and site.aside() == {}
    for name in site.names:
        # Only bytes that proved wrong are fetched again to their end.
        twice = kind == "wrong_bytes" and name == site.names[1]
        assert site.archive.completed(name) == 1 + twice


@pytest.mark.parametrize("algorithm", ["SHA-256", "MD5", "sha512"])
def test_wrong_bytes_show_in_each_checksum(site, algorithm):
    name = site.names[0]
    site.archive.fault("wrong_bytes", name)
    checksum = digest(site.content[name], algorithm.lower().replace("-", "")).upper()
    wanted = site.wanted(name, checksum=checksum, checksum_algorithm=algorithm)
    (outcome,) = site.run([wanted], share=1.0, tries=2)
    assert algorithm in outcome.reason and site.arrived() == []
    site.archive.clear_faults()
    (outcome,) = site.run([wanted])
    assert outcome.path == site.folder / name and site.arrived() == [name]
    assert site.aside() == {}


@pytest.mark.parametrize("algorithm", ["Adler-32", "SHAKE_128", "ripemd160", "md5-sha1"])
def test_an_unknown_checksum_is_left_to_the_other_checks(site, algorithm):
    wanted = site.wanted(site.names[0], checksum="ab12", checksum_algorithm=algorithm)
    (outcome,) = site.run([wanted])
    assert outcome.reason is None and site.arrived() == [site.names[0]]


def test_without_size_and_checksum_a_body_is_whole_or_not_taken(site):
    bare = {"size_bytes": None, "checksum": None, "checksum_algorithm": None}
    files = [site.wanted(name, **bare) for name in site.names]
    for kind, name in zip(("reset", "short", "truncated", "html"), site.names, strict=False):
        site.archive.fault(kind, name, times=1)
    outcomes = site.run(files)
    assert [outcome.reason for outcome in outcomes] == [None] * 5
    assert site.arrived() == site.names and site.left() == []


# ---------------------------------------------------------------------- faults that stay


@pytest.mark.parametrize(
    ("kind", "requests_most", "reason"),
    [
        ("401", 2, "401"),
        ("403", 2, "403"),
        ("404", 1, "404: it is not in the archive"),
        ("410", 1, "410: it is not in the archive"),
        ("429", 3, "answered 429"),
        ("500", 3, "answered 500"),
        ("502", 3, "answered 502"),
        ("503", 3, "answered 503"),
        ("silent", 3, "no answer within the time-out"),
        ("stall", 3, "no answer within the time-out"),
        ("reset", 3, "reset"),
        ("short", 3, "the body ended early"),
        ("truncated", 3, "were announced"),
        ("wrong_bytes", 3, "SHA-256"),
        ("html", 2, "HTML"),
        ("reissued", 1, "404: it is not in the archive"),
    ],
)
def test_a_fault_that_stays_costs_one_file(site, caplog, kind, requests_most, reason):
    caplog.set_level(logging.DEBUG)
    name = site.names[2]
    site.archive.fault(kind, name, times=1 if kind == "reissued" else None)
    outcomes = site.run(tries=3, timeout_s=0.3)
    assert reason in outcomes[2].reason and outcomes[2].path is None
    assert "\n" not in outcomes[2].reason
    assert len(site.archive.requests(name)) == requests_most
    others = [one for one in site.names if one != name]
    assert [o.reason for i, o in enumerate(outcomes) if i != 2] == [None] * 4
    assert site.arrived() == others
    note = json.loads(site.aside().pop(f"{name}.json").read_text())
    assert note["file"] == name and note["reason"] == outcomes[2].reason
    wrong = site.aside().get(name)
    assert (wrong is not None) == (kind == "wrong_bytes")
    if wrong is not None:
        assert digest(wrong.read_bytes()) != digest(site.content[name])
    texts = [caplog.text, *(p.read_text("latin-1") for p in site.cache.rglob("*") if p.is_file())]
    assert not any(TOKEN in text for text in texts)
    if kind == "reissued":
        return
    # The next run goes on: what is complete is not asked for, what is there not sent again.
    site.archive.clear_faults()
    site.archive.clear_log()
    assert [outcome.reason for outcome in site.run()] == [None] * 5
    assert {one.name for one in site.archive.log} == {name}
    assert site.arrived() == site.names and site.left() == []
    assert list(site.aside()) == []


def test_the_run_stops_early_with_the_list(site):
    for name in site.names[1:3]:
        site.archive.fault("404", name)
    with pytest.raises(UserError) as caught:
        site.run(share=0.2, parallel=1)
    head, *rows = str(caught.value).splitlines()
    assert head.startswith("2 of 5 files") and "max_failed_share (0.2)" in head
    assert [row.split(":")[0].strip() for row in rows] == site.names[1:3]
    assert site.arrived() == site.names[:1]
    # The files after them were not asked for.
    assert {one.name for one in site.archive.log} == set(site.names[:3])
    site.archive.clear_faults()
    site.run(share=0.2)
    assert [site.archive.completed(name) for name in site.names] == [1] * 5


def test_the_share_itself_is_allowed(site):
    site.archive.fault("404", site.names[0])
    outcomes = site.run(share=0.2)
    assert [outcome.reason is None for outcome in outcomes] == [False, True, True, True, True]


def test_an_expired_token_ends_the_run_in_one_line(site):
    sent = len(site.content[site.names[0]])
    site.archive.fault("expired", times=1, after_bytes=sent)
    with pytest.raises(UserError, match="EARTHDATA_TOKEN") as caught:
        site.run(share=1.0, parallel=1)
    assert "\n" not in str(caught.value) and TOKEN not in str(caught.value)
    assert site.arrived() == site.names[:1]
    # Three in a row are enough to know.
    assert site.archive.requests(site.names[3]) and not site.archive.requests(site.names[4])
    site.archive.clear_faults()
    site.archive.login.add_token(TOKEN)
    site.run()
    assert [site.archive.completed(name) for name in site.names] == [1] * 5


@pytest.mark.parametrize("left", [1, 2])
def test_a_token_that_ends_with_the_last_files_costs_none(site, left):
    """Fewer than are refused in a row; the share would allow them."""
    sent = sum(len(site.content[name]) for name in site.names[:-left])
    site.archive.fault("expired", times=1, after_bytes=sent)
    with pytest.raises(UserError, match=r"refuses the log-in.*401.*variable EARTHDATA_TOKEN"):
        site.run(share=1.0, parallel=1)
    assert site.arrived() == site.names[:-left]


@pytest.mark.parametrize("kind", ["401", "403", "html"])
def test_the_last_file_may_be_refused_for_itself(site, kind):
    site.archive.fault(kind, site.names[-1])
    outcomes = site.run(parallel=1)
    assert "variable EARTHDATA_TOKEN" in outcomes[-1].reason
    assert site.arrived() == site.names[:-1]
    assert [site.archive.completed(name) for name in site.names[:-1]] == [1] * 4


def test_an_only_file_that_is_refused_names_the_credentials(site):
    site.archive.expire_tokens()
    with pytest.raises(UserError, match=r"401.*variable EARTHDATA_TOKEN"):
        site.run([site.wanted(site.names[0])], share=1.0)


def test_a_licence_that_is_not_accepted_is_told(site):
    page = Response(403, {"Content-Type": "application/json"}, b'{"error": "EULA_Acceptance"}')
    site.archive.add_route("GET", f"/moved/{site.names[0]}", lambda request: page)
    url = f"{site.archive.base_url}/moved/{site.names[0]}"
    files = [site.wanted(site.names[0], url=url), *map(site.wanted, site.names[1:])]
    assert "licence (EULA) has to be accepted" in site.run(files)[0].reason


# ---------------------------------------------------------------------- waits


def waited(site, name):
    """Time between two requests for a file (s)."""
    first, second = site.archive.requests(name)
    return second.started_s - first.started_s


def test_the_wait_asked_for_is_honoured(site):
    by_seconds, by_date = site.names[:2]
    site.archive.fault("429", by_seconds, times=1, retry_after_s=1)
    site.archive.fault("503", by_date, times=1, retry_after_s=0.5, retry_after_date=True)
    site.run(max_wait_s=10.0)
    assert 1.0 <= waited(site, by_seconds) < 3.0
    assert 0.5 <= waited(site, by_date) < 3.0
    assert site.arrived() == site.names


def test_a_wait_is_bounded(site):
    site.archive.fault("429", site.names[0], times=1, retry_after_s=86_400)
    begin = time.monotonic()
    site.run(max_wait_s=0.3)
    assert time.monotonic() - begin < 5.0
    assert 0.3 <= waited(site, site.names[0]) < 2.0


def test_waits_grow(site):
    site.archive.fault("500", site.names[0])
    (outcome,) = site.run([site.wanted(site.names[0])], share=1.0, tries=4, backoff_s=0.1)
    assert outcome.reason
    times = [one.started_s for one in site.archive.requests(site.names[0])]
    pauses = [after - before for before, after in zip(times[:-1], times[1:], strict=True)]
    # The chance in a wait is no longer than the first wait.
    for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True):
        assert least <= pause < least + 0.1 + 0.3


@pytest.mark.parametrize(
    "text", ["-5", "soon", "9" * 5000, "Mon, 01 Jan 999999999999 00:00:00 GMT", "nan", ""]
)
def test_a_senseless_wait_is_passed_over(site, text):
    answers = iter([Response(503, {"Retry-After": text})])
    path = site.archive.folder / site.names[0]

    def answer(request):
        return next(answers, Response(body=path))

    site.archive.add_route("GET", f"/odd/{site.names[0]}", answer)
    url = f"{site.archive.base_url}/odd/{site.names[0]}"
    (outcome,) = site.run([site.wanted(site.names[0], url=url)])
    assert outcome.reason is None and site.arrived() == [site.names[0]]


# ---------------------------------------------------------------------- going on with a part


@pytest.fixture
def large(site):
    """One file of ten blocks, served without a log-in."""
    content = os.urandom(10 * BLOCK + 12_345)
    (site.root / "archive" / "large.bin").write_bytes(content)
    site.content["large.bin"] = content
    site.archive.add_public("large.bin")
    return site


def anything(path, name):
    return None


BARE = {"size_bytes": None, "checksum": None, "checksum_algorithm": None}


def get_large(site, bare=False, **changes):
    wanted = site.wanted("large.bin", **(BARE if bare else {}))
    (outcome,) = site.run([wanted], share=1.0, inspect=anything, public=True, **changes)
    return outcome


@pytest.mark.parametrize("kind", ["reset", "short", "stall"])
def test_a_broken_body_is_gone_on_with(large, kind):
    large.archive.fault(kind, "large", times=1, after_bytes=6 * BLOCK + 100)
    assert get_large(large, timeout_s=0.4).reason is None
    first, second = large.archive.requests("large.bin")
    assert first.range_start is None
    assert 5 * BLOCK <= second.range_start <= 6 * BLOCK + 100 and second.status == 206
    assert large.archive.body_bytes("large.bin") <= len(large.content["large.bin"]) + BLOCK
    assert large.arrived() == ["large.bin"] and large.left() == []


@pytest.mark.parametrize("bare", [False, True])
def test_the_next_run_goes_on_too(large, bare):
    large.archive.fault("reset", "large", times=2, after_bytes=3 * BLOCK + 100)
    assert "reset" in get_large(large, bare, tries=1).reason
    assert "reset" in get_large(large, bare, tries=1).reason
    assert get_large(large, bare, tries=1).reason is None
    starts = [one.range_start for one in large.archive.requests("large.bin")]
    assert starts[0] is None and 2 * BLOCK <= starts[1] < starts[2]
    assert large.archive.body_bytes("large.bin") <= len(large.content["large.bin"]) + 2 * BLOCK
    assert large.arrived() == ["large.bin"] and large.left() == [] and large.aside() == {}


def change(site):
    """Let the archive serve other bytes under the name."""
    site.content["large.bin"] = os.urandom(8 * BLOCK)
    (site.root / "archive" / "large.bin").write_bytes(site.content["large.bin"])


def test_another_file_under_the_name_starts_anew(large):
    large.archive.fault("reset", "large", times=1, after_bytes=3 * BLOCK)
    get_large(large, bare=True, tries=1)
    change(large)
    assert get_large(large, bare=True).reason is None
    assert large.archive.requests("large.bin")[-1].status == 200
    assert large.arrived() == ["large.bin"]


@pytest.mark.parametrize("replaced", [True, False])
def test_killed_as_it_starts_anew_no_bytes_are_mixed(large, monkeypatch, replaced):
    large.archive.fault("reset", "large", times=1, after_bytes=3 * BLOCK)
    get_large(large, bare=True, tries=1)
    change(large)
    replace = os.replace

    def die_at_mark(source, target):
        if not str(target).endswith(".etag"):
            return replace(source, target)
        if replaced:
            replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die_at_mark)
    with pytest.raises(KeyboardInterrupt):
        get_large(large, bare=True)
    monkeypatch.undo()
    assert get_large(large, bare=True).reason is None
    assert large.arrived() == ["large.bin"]
    assert large.left() == []


@pytest.mark.parametrize("lie", ["mark", "place", "none"])
def test_a_server_that_sends_another_part(large, lie):
    """One that ignores the condition of a range, or sends the wrong one."""
    content = large.content["large.bin"]
    asked = []

    def answer(request):
        text = request.headers.get("Range")
        asked.append(text)
        if text is None:
            return Response(200, {"ETag": '"new"'}, content)
        begin = int(text.removeprefix("bytes=").removesuffix("-"))
        begin += lie == "place"
        headers = {
            "ETag": '"new"' if lie == "mark" else '"old"',
            "Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}",
        }
        if lie == "none":
            del headers["Content-Range"]
        return Response(206, headers, content[begin:])

    large.archive.add_route("GET", "/sloppy/large.bin", answer)
    large.part("large.bin", b"x" * BLOCK, '"old"')
    wanted = large.wanted("large.bin", url=f"{large.archive.base_url}/sloppy/large.bin", **BARE)
    (outcome,) = large.run([wanted], share=1.0, inspect=anything, public=True)
    assert outcome.reason is None and large.arrived() == ["large.bin"]
    assert asked == [f"bytes={BLOCK}-", None]


def test_a_part_without_a_mark_starts_anew(large):
    large.part("large.bin", large.content["large.bin"][: 4 * BLOCK])
    assert get_large(large).reason is None
    assert [one.range_start for one in large.archive.requests("large.bin")] == [None]
    assert large.arrived() == ["large.bin"]


def test_a_weak_mark_is_no_mark(large):
    asked = []

    def answer(request):
        asked.append((request.headers.get("Range"), request.headers.get("If-Range")))
        return Response(200, {"ETag": 'W/"1"'}, large.content["large.bin"])

    large.archive.add_route("GET", "/weak/large.bin", answer)
    large.part("large.bin", large.content["large.bin"][: 4 * BLOCK], 'W/"1"')
    wanted = large.wanted("large.bin", url=f"{large.archive.base_url}/weak/large.bin")
    (outcome,) = large.run([wanted], share=1.0, inspect=anything, public=True)
    assert outcome.reason is None and asked == [(None, None)]


def test_a_part_of_what_is_gone_does_not_stay(large):
    large.archive.fault("reset", "large", times=1, after_bytes=3 * BLOCK)
    get_large(large, tries=1)
    assert large.left() == [".large.bin.etag", ".large.bin.part"]
    large.archive.fault("404", "large")
    assert "404" in get_large(large).reason and large.left() == []


def test_a_part_longer_than_the_file(large):
    mark = large.mark(large.archive.url("large.bin"))
    large.part("large.bin", large.content["large.bin"] + b"more", mark)
    assert get_large(large, bare=True).reason is None
    assert [one.status for one in large.archive.requests("large.bin")] == [416, 200]
    assert large.arrived() == ["large.bin"]


@pytest.mark.parametrize("bare", [False, True])
def test_a_part_that_is_complete_is_not_fetched_again(large, bare):
    mark = large.mark(large.archive.url("large.bin"))
    large.part("large.bin", large.content["large.bin"], mark)
    assert get_large(large, bare).reason is None
    assert large.archive.body_bytes("large.bin") == 0
    assert large.arrived() == ["large.bin"] and large.left() == []


def test_an_answer_that_nothing_is_left_of_nothing(large):
    empty = Response(416, {"Content-Range": "bytes */0"})
    large.archive.add_route("GET", "/empty/large.bin", lambda request: empty)
    wanted = large.wanted("large.bin", url=f"{large.archive.base_url}/empty/large.bin")
    (outcome,) = large.run([wanted], share=1.0, inspect=anything, public=True)
    assert "416" in outcome.reason and large.arrived() == []


def test_a_body_without_end_is_cut_off(large):
    wanted = large.wanted("large.bin", size_bytes=BLOCK // 2)
    (outcome,) = large.run([wanted], share=1.0, inspect=anything, public=True, tries=2)
    assert "were announced" in outcome.reason
    assert outcome.received_bytes <= 2 * BLOCK and large.arrived() == []


def test_a_wrong_file_in_the_cache_is_replaced(site):
    site.folder.mkdir(parents=True)
    (site.folder / site.names[0]).write_bytes(b"\x89HDF\r\n\x1a\nhalf")
    (site.folder / site.names[1]).write_bytes(site.content[site.names[2]])
    assert [outcome.reason for outcome in site.run()] == [None] * 5
    assert site.arrived() == site.names and site.left() == []


def test_a_full_disk_is_one_line(site, monkeypatch):
    opened = Path.open

    def open_full(path, mode="r", *arguments, **options):
        if mode == "ab":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opened(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(UserError, match="is full") as caught:
        site.run()
    assert "\n" not in str(caught.value) and site.arrived() == []


# ---------------------------------------------------------------------- several processes


CHILD = """
import sys
from pathlib import Path
from cryofuse.acquire.credentials import Sessions
from cryofuse.acquire.transfer import Transfers, Wanted
from cryofuse.config import DownloadSettings

cache, parallel, *urls = sys.argv[1:]
settings = DownloadSettings(cache_dir=cache, parallel=int(parallel), backoff_s=0.01)
files = [Wanted(url.rsplit("/", 1)[-1], url) for url in urls]
print("ready", flush=True)
sys.stdin.readline()
transfers = Transfers(settings, Sessions(), lambda path, name: None)
outcomes = transfers.fetch_all(files, Path(cache) / "atl06", 0.0)
print(sum(outcome.received_bytes for outcome in outcomes), flush=True)
"""


@contextmanager
def children(site, parallel, *lists):
    """Processes, one for each list of addresses, that wait for a line before they fetch."""
    command = [sys.executable, "-c", CHILD, str(site.cache), str(parallel)]
    made = [
        subprocess.Popen(
            [*command, *urls], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for urls in lists
    ]
    try:
        for child in made:
            assert child.stdout.readline() == "ready\n"
        yield made
    finally:
        for child in made:
            child.kill()
            child.communicate()


def test_jobs_share_one_bound_and_fetch_a_file_once(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.bin").write_bytes(os.urandom(60_000))
    with LoopbackArchive(folder, rate_bytes_s=600_000) as archive:
        urls = [archive.add_public(f"{number}.bin") for number in range(8)]
        site = Site(archive, tmp_path)
        site.content = {path.name: path.read_bytes() for path in folder.iterdir()}
        with children(site, 2, urls, urls[3:] + urls[:3], urls[::-1]) as made:
            for child in made:
                child.stdin.write("go\n")
                child.stdin.flush()
            received = [int(child.stdout.readline()) for child in made]
            assert [child.wait(10) for child in made] == [0, 0, 0]
        assert archive.most_at_once == 2
        assert [archive.completed(f"{number}.bin") for number in range(8)] == [1] * 8
        assert sum(received) == 8 * 60_000
        assert site.arrived() == sorted(site.content) and site.left() == []


def test_a_killed_process_has_not_fetched_in_vain(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    content = os.urandom(12 * BLOCK)
    (folder / "large.bin").write_bytes(content)
    with LoopbackArchive(folder, rate_bytes_s=4_000_000) as archive:
        url = archive.add_public("large.bin")
        site = Site(archive, tmp_path)
        site.content = {"large.bin": content}
        part = site.folder / ".large.bin.part"
        with children(site, 1, [url]) as (child,):
            child.stdin.write("go\n")
            child.stdin.flush()
            deadline = time.monotonic() + 20
            while not (part.is_file() and part.stat().st_size > 3 * BLOCK):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            child.send_signal(signal.SIGKILL)
            child.wait()
        there = part.stat().st_size
        assert site.arrived() == []
        assert get_large(site).reason is None
        assert archive.requests("large.bin")[-1].range_start == there
        assert archive.completed("large.bin") == 1
        assert site.arrived() == ["large.bin"] and site.left() == []


def test_a_file_system_without_locks(site, monkeypatch):
    def refuse(stream, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert [outcome.reason for outcome in site.run()] == [None] * 5
    assert site.arrived() == site.names and site.archive.most_at_once <= 2


def test_another_failure_of_a_lock_is_not_passed_over(site, monkeypatch):
    def refuse(stream, how):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output"):
        site.run()
    assert site.archive.log == []


# ---------------------------------------------------------------------- names and hosts


HOSTILE = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            [
                "..",
                ".",
                "/",
                "\\",
                "a",
                "~",
                "\n",
                "\0",
                "%2e%2e",
                "%2F",
                "C:",
                "-rf",
                " ",
                "é",
                "\r",
            ]
        ),
        max_size=6,
    ).map("".join),
    st.sampled_from(["/etc/passwd", "../../x.h5", "x/../../y", ".hidden", "x\0.h5", "a" * 300]),
)


def listing(folder):
    return {p: p.stat().st_size for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A site for many examples."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "archive").mkdir()
    (root / "archive" / "a.bin").write_bytes(b"payload")
    with LoopbackArchive(root / "archive") as archive:
        archive.add_public("a.bin")
        yield Site(archive, root)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HOSTILE)
def test_no_name_leads_out_of_the_folder(shared, name):
    before = listing(shared.root)
    wanted = Wanted(name, shared.archive.url("a.bin"), 7)
    (outcome,) = shared.run([wanted], share=1.0, inspect=anything, public=True, tries=1)
    after = listing(shared.root)
    changed = {p for p in after.keys() | before.keys() if before.get(p) != after.get(p)}
    changed = {p for p in changed if p.parent.name != ".locks"}
    if outcome.reason is None:
        assert changed <= {shared.folder / name} and (shared.folder / name).is_file()
        assert PurePosixPath(name).name == name and name.isprintable()
    else:
        assert changed == set() and repr(name) in outcome.reason


def test_names():
    assert is_safe_name(granule_name()) and is_safe_name("_a.nc") and is_safe_name("a" * 200)
    for name in ("", ".", "..", ".a", "-a", "a/b", "a\\b", "a\n", "a\0", "é", "a" * 201, "a b"):
        assert not is_safe_name(name)


def test_a_host_that_is_not_trusted_is_asked_nothing(site):
    with recorder() as (_, port, seen):
        urls = [f"http://localhost:{port}/{name}" for name in site.names[:2]]
        urls.append(f"http://127.0.0.1:{site.archive.base_url.rsplit(':')[-1]}@localhost:{port}/x")
        files = [site.wanted(name, url=url) for name, url in zip(site.names, urls, strict=False)]
        outcomes = site.run(files, share=1.0)
        assert seen == []
    assert all("nothing was sent" in one.reason or "address" in one.reason for one in outcomes)
    assert site.arrived() == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_redirect_carries_no_token_to_another_host(site, host):
    name = site.names[0]
    with recorder(content=site.content[name]) as (_, port, seen):
        aim = f"http://{host}:{port}/signed/{name}?Signature=secret"
        moved = Response.redirect(aim, {"Set-Cookie": "session=secret"})
        asked = []

        def answer(request):
            asked.append(request.headers.get("Authorization"))
            return moved

        site.archive.add_route("GET", f"/moved/{name}", answer)
        url = f"{site.archive.base_url}/moved/{name}"
        (outcome,) = site.run([site.wanted(name, url=url)])
    assert asked == [f"Bearer {TOKEN}"]
    assert outcome.reason is None and site.arrived() == [name]
    (headers,) = seen
    assert "Authorization" not in headers and TOKEN not in repr(headers)
    if host == "localhost":
        assert "Cookie" not in headers


@pytest.mark.parametrize(
    "aim",
    ["/moved/{}", "http://[", "file:///etc/passwd", "//", "http://.x/", "http://%ff%fe/", ""],
)
def test_redirects_that_lead_nowhere_end(site, aim):
    name = site.names[0]
    answer = Response.redirect(aim.format(name))
    site.archive.add_route("GET", f"/moved/{name}", lambda request: answer)
    url = f"{site.archive.base_url}/moved/{name}"
    (outcome,) = site.run([site.wanted(name, url=url)], share=1.0, tries=2)
    assert outcome.reason and site.arrived() == []
    assert len(site.archive.requests(name)) <= 2 * 31


# ---------------------------------------------------------------------- what is told


class Told:
    def __init__(self):
        self.bytes, self.ended = {}, []

    def at(self, name, size_bytes, fetched=True):
        self.bytes[name] = size_bytes

    def done(self, name):
        self.ended.append(name)


def test_each_file_is_told_once_it_ends(site):
    site.told = Told()
    site.archive.fault("404", site.names[0])
    site.archive.fault("reset", site.names[1], times=1)
    files = [site.wanted(name) for name in site.names] + [
        site.wanted(site.names[0], url="http://elsewhere.example/x"),
    ]
    site.run(files)
    assert sorted(site.told.ended) == sorted([*site.names, site.names[0]])
    sizes = {name: len(site.content[name]) for name in site.names[1:]}
    assert {name: site.told.bytes[name] for name in sizes} == sizes


def test_what_differs_from_the_announcement(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    assert check_announced(path, Wanted("a.bin", "")) is None
    assert "3 bytes, 4" in check_announced(path, Wanted("a.bin", "", 4))
    right = Wanted("a.bin", "", 3, "900150983CD24FB0D6963F7D28E17F72", "MD5")  # RFC 1321
    assert check_announced(path, right) is None
    assert "MD5" in check_announced(path, Wanted("a.bin", "", 3, "0" * 32, "MD5"))


def test_descriptions_are_one_line_without_queries():
    assert describe(OSError("a\nb https://x/y?token=1 c")) == "a b https://x/y?… c"
    assert describe(OSError()) == "OSError"
