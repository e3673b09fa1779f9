"""Faults on demand: what goes wrong, on which requests, and how often."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Literal
from urllib.parse import unquote

Scope = Literal["data", "search", "login", "route"]

#: Faults that replace the answer, by kind.
STATUS = {str(code): code for code in (401, 403, 404, 408, 410, 429, 500, 502, 503, 504)}
#: Faults of a body on its way; they strike where a body with status 200 or 206 would be sent.
TRANSMISSION = ("stall", "reset", "short", "truncated", "wrong_bytes")
#: Faults that strike before the answer is made.
EARLY = (*STATUS, "html", "silent", "expired", "reissued")
KINDS = (*EARLY, *TRANSMISSION, "duplicates")

LOGIN_PAGE = b"""<!DOCTYPE html>
<html><head><title>Earthdata Login</title></head>
<body><form action="/login" method="post"><input name="username"/></form></body></html>
"""


@dataclass
class Fault:
    """One fault, as :meth:`tests.archive.LoopbackArchive.fault` takes it."""

    kind: str
    scopes: frozenset[Scope]
    match: re.Pattern[str] | None = None
    times: int | None = None
    skip: int = 0
    after_bytes: int | None = None
    retry_after_s: float | None = None
    retry_after_date: bool = False
    struck: int = field(default=0, init=False)
    _seen: int = field(default=0, init=False)

    def headers(self) -> dict[str, str]:
        """Return the headers of a status fault."""
        headers = {"Content-Type": "text/plain"}
        if self.retry_after_s is not None:
            # A date has no fractions: the next whole second is never too early.
            date = formatdate(int(time.time() + self.retry_after_s) + 1, usegmt=True)
            seconds = f"{self.retry_after_s:g}"
            headers["Retry-After"] = date if self.retry_after_date else seconds
        return headers

    def text(self) -> bytes:
        """Return the body of a status fault."""
        return HTTPStatus(STATUS[self.kind]).phrase.encode() + b"\n"

    def concerns(self, scope: Scope, path: str) -> bool:
        """Say whether a request is one of those that the fault is about."""
        if scope not in self.scopes:
            return False
        if self.match is None:
            return True
        return any(self.match.search(text) for text in (path, unquote(path)))


class FaultTable:
    """The faults of an archive; the first that concerns a request strikes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, kind: str, match: str | None, **options: object) -> Fault:
        """Add a fault; kinds may begin with ``search_`` or ``login_``."""
        scopes: frozenset[Scope] = frozenset({"data", "route"})
        bare = kind
        if kind.startswith("search_"):
            scopes, bare = frozenset({"search"}), kind.removeprefix("search_")
        elif kind.startswith("login_"):
            scopes, bare = frozenset({"login"}), kind.removeprefix("login_")
        elif kind == "duplicates":
            scopes = frozenset({"search"})
        if bare not in KINDS:
            raise ValueError(f"no fault {kind!r}; there are {', '.join(KINDS)}")
        pattern = None if match is None else re.compile(match)
        fault = Fault(bare, scopes, pattern, **options)  # type: ignore[arg-type]
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()

    def strike(
        self, kinds: tuple[str, ...], scope: Scope, path: str, bytes_sent: int
    ) -> Fault | None:
        """Return the fault that strikes a request now, if any, and count it.

        Parameters
        ----------
        kinds
            Kinds that can strike at this moment.
        scope, path
            What the request asks for.
        bytes_sent
            Body bytes that the archive has sent in all (fault ``expired`` waits for them).
        """
        with self._lock:
            for fault in self._faults:
                if fault.kind not in kinds or not fault.concerns(scope, path):
                    continue
                if fault.times is not None and fault.struck >= fault.times:
                    continue
                if fault.kind == "expired" and bytes_sent < (fault.after_bytes or 0):
                    continue
                fault._seen += 1
                if fault._seen <= fault.skip:
                    continue
                fault.struck += 1
                return fault
        return None
