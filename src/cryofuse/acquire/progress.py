"""How far transfers are: bytes and files, rate and remaining time."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

#: Time between two lines where nobody watches a terminal (s).
LINE_PERIOD_S = 30.0


class ProgressBar:
    """A bar of bytes with a count of files; a line now and then where there is no terminal.

    Parameters
    ----------
    title
        What is fetched.
    files
        Number of files.
    total_bytes
        Announced size of all; None where one is unknown: there is no remaining time then.
    stream
        Where it is drawn.
    line_period_s
        Time between two lines (s).
    """

    def __init__(
        self,
        title: str,
        files: int,
        total_bytes: int | None,
        stream: TextIO | None = None,
        line_period_s: float = LINE_PERIOD_S,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._title, self._files, self._total = title, files, total_bytes
        self._sizes: dict[str, int] = {}
        self._fetched = self._done = 0
        self._lock = threading.Lock()
        self._period = line_period_s
        self._begin = self._told = time.monotonic()
        # Names in the log of a run that nobody watches are better than an overwritten bar.
        self._bar = tqdm(
            total=total_bytes,
            desc=title,
            unit="B",
            unit_scale=True,
            file=self._stream,
            disable=not self._stream.isatty(),
        )

    def at(self, name: str, size_bytes: int, fetched: bool = True) -> None:
        """Note how much of a file is there; what lay there before counts in no rate."""
        with self._lock:
            more = size_bytes - self._sizes.get(name, 0)
            self._sizes[name] = size_bytes
            if fetched:
                self._fetched += more
            elif not self._bar.disable:
                self._bar.initial += more
            self._bar.update(more)
            if self._bar.disable and time.monotonic() - self._told >= self._period:
                self._tell()

    def done(self, name: str) -> None:  # noqa: ARG002  files are counted, not named
        """Note that a file is there, or given up."""
        with self._lock:
            self._done += 1
            self._bar.set_postfix_str(f"{self._done} of {self._files} files", refresh=False)

    def _tell(self) -> None:
        self._told = time.monotonic()
        print(self.line(), file=self._stream, flush=True)

    def line(self) -> str:
        """Return the state in a line."""
        there = sum(self._sizes.values())
        spent = max(time.monotonic() - self._begin, 1e-3)
        rate = self._fetched / spent
        parts = [
            f"{self._title}: {self._done} of {self._files} files",
            f"{tqdm.format_sizeof(there)}B"
            + (f" of {tqdm.format_sizeof(self._total)}B" if self._total else ""),
            f"{tqdm.format_sizeof(rate)}B/s",
        ]
        if self._total and rate and there < self._total:
            parts.append(f"{tqdm.format_interval((self._total - there) / rate)} left")
        return ", ".join(parts)

    def __enter__(self) -> ProgressBar:
        """Return the bar."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Tell the last state and leave it there."""
        with self._lock:
            if self._bar.disable:
                self._tell()
            self._bar.close()
