"""How far transfers are: bytes and files, rate and remaining time."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

#: A line this often where nobody watches a terminal (s).
_LOG_PERIOD_S = 30.0
_WATCHED_PERIOD_S = 0.5


class ProgressBar:
    """A bar of bytes with a count of files; plain lines now and then where there is no terminal.

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
    """

    def __init__(
        self, title: str, files: int, total_bytes: int | None, stream: TextIO | None = None
    ) -> None:
        target = sys.stderr if stream is None else stream
        watched = target.isatty()
        self._files, self._done = files, 0
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._bar = tqdm(
            total=total_bytes,
            desc=title,
            unit="B",
            unit_scale=True,
            file=target,
            ascii=not watched,
            mininterval=_WATCHED_PERIOD_S if watched else _LOG_PERIOD_S,
            # Lines of their own end in a file as lines, not as one long overwritten one.
            bar_format=None
            if watched
            else "{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left, {postfix}\n",
            postfix=self._postfix(),
        )

    def _postfix(self) -> str:
        return f"{self._done} of {self._files} files"

    def at(self, name: str, size_bytes: int) -> None:
        """Note how much of a file is there."""
        with self._lock:
            self._bar.update(size_bytes - self._sizes.get(name, 0))
            self._sizes[name] = size_bytes

    def done(self, name: str) -> None:  # noqa: ARG002  files are counted, not named
        """Note that a file is there, or given up."""
        with self._lock:
            self._done += 1
            self._bar.set_postfix_str(self._postfix(), refresh=False)

    def __enter__(self) -> ProgressBar:
        """Return the bar."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Draw the last state and leave it."""
        self._bar.refresh()
        self._bar.close()
