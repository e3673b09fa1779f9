"""Progress on a terminal and in a log."""

import contextlib
import io
import os
import re
import threading
import time

import pytest

from cryofuse.acquire import progress
from cryofuse.acquire.progress import ProgressBar


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets; the bar's own pace is its library's."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_line_of_a_log(clock):
    stream = io.StringIO()
    with ProgressBar("2019-07", 3, 4_000_000, stream, line_period_s=30.0) as bar:
        bar.at("old", 1_000_000, fetched=False)
        bar.done("old")
        clock.now += 10
        bar.at("new", 500_000)
        bar.at("new", 1_000_000)
        # 1 MB in 10 s; 2 MB are left.
        expected = "2019-07: 1 of 3 files, 2.00MB of 4.00MB, 100kB/s, 00:20 left"
        assert bar.line() == expected
        assert stream.getvalue() == ""
        clock.now += 20
        bar.at("new", 1_000_000)
        (line,) = stream.getvalue().splitlines()
        assert line.startswith("2019-07: 1 of 3 files, 2.00MB of 4.00MB, 33.3kB/s, ")
        bar.at("new", 1_000_001)
        assert len(stream.getvalue().splitlines()) == 1
        bar.at("new", 3_000_000)
        bar.done("new")
        bar.done("lost")
    last = stream.getvalue().splitlines()[-1]
    assert last.startswith("2019-07: 3 of 3 files, 4.00MB of 4.00MB, ") and "left" not in last


def test_a_size_that_is_not_known(clock):
    stream = io.StringIO()
    with ProgressBar("mascons", 1, None, stream) as bar:
        clock.now += 2
        bar.at("a", 2_000_000)
    assert stream.getvalue() == "mascons: 0 of 1 files, 2.00MB, 1.00MB/s\n"


def test_a_file_that_begins_again_is_counted_as_fetched_twice(clock):
    with ProgressBar("t", 1, 1000, io.StringIO()) as bar:
        bar.at("a", 600, fetched=False)
        clock.now += 10
        bar.at("a", 1000)
        bar.at("a", 0)
        assert bar.line() == "t: 0 of 1 files, 0.00B of 1.00kB, 40.0B/s, 00:25 left"
        bar.at("a", 0, fetched=False)
        bar.at("a", 1000)
        assert bar.line() == "t: 0 of 1 files, 1.00kB of 1.00kB, 140B/s"


def through(terminal):
    """Draw to one end of a pipe or terminal and return what comes out of the other."""
    out, into = os.openpty() if terminal else os.pipe()
    with os.fdopen(into, "w") as stream:
        with ProgressBar("2019-07", 2, 2_000_000, stream, line_period_s=0.0) as bar:
            bar.at("old", 500_000, fetched=False)
            bar.done("old")
            for size in (500_000, 1_000_000, 1_500_000):
                time.sleep(0.15)
                bar.at("new", size)
            bar.done("new")
    text = b""
    # A terminal whose other end is closed ends with an error.
    with contextlib.suppress(OSError):
        while block := os.read(out, 1 << 16):
            text += block
    os.close(out)
    return text.decode()


def test_a_terminal_has_a_bar():
    text = through(terminal=True)
    assert text.count("\r") > 2
    assert "2019-07" in text and "2.00M/2.00M" in text and "100%" in text
    assert re.search(r"<\d\d:\d\d, +[\d.]+[kM]B/s", text)  # remaining time and rate
    assert "1 of 2 files" in text and "2 of 2 files" in text


def test_a_pipe_has_lines():
    text = through(terminal=False)
    assert "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert len(lines) == 5 and all(line.startswith("2019-07: ") for line in lines)
    assert lines[0].startswith("2019-07: 0 of 2 files, 500kB of 2.00MB, 0.00B/s")
    assert lines[-1].startswith("2019-07: 2 of 2 files, 2.00MB of 2.00MB, ")


def test_a_bar_that_goes_back_keeps_its_counts():
    out, into = os.openpty()
    with os.fdopen(into, "w") as stream, ProgressBar("t", 1, 1000, stream) as bar:
        bar.at("a", 600, fetched=False)
        bar.at("a", 1000)
        # What lay there before counts in no rate.
        assert (bar._bar.n, bar._bar.initial) == (1000, 600)
        bar.at("a", 0)
        bar.at("a", 0, fetched=False)
        assert (bar._bar.n, bar._bar.initial) == (0, 0)
        bar.at("a", 1000)
        assert (bar._bar.n, bar._bar.initial) == (1000, 0)
    os.close(out)


def test_threads_lose_nothing():
    with ProgressBar("t", 8, 8000, io.StringIO()) as bar:

        def fetch(name):
            for size in range(1, 1001):
                bar.at(name, size)
            bar.done(name)

        threads = [threading.Thread(target=fetch, args=(str(i),)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert bar.line().startswith("t: 8 of 8 files, 8.00kB of 8.00kB")
