"""The HTTP side: connections, requests and answers, bodies with ranges, pacing and the record."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import re
import select
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.archive.faults import Fault, Scope

_BLOCK_BYTES = 1 << 20
#: A paced body goes out in blocks of this many seconds of the whole rate.
_PACE_S = 0.002
#: Time that a sender that woke late may catch up.
_CATCH_UP_S = 0.02
_POLL_S = 0.05


@dataclass
class Request:
    """What a client asked for."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    #: The parts of the pattern of the route.
    match: re.Match[str] | None = None
    #: How the client showed who it is: ``bearer``, ``cookie``; None if it did not, or wrongly.
    token: str | None = None
    scope: Scope = "route"

    @property
    def name(self) -> str:
        """The last part of the path, decoded."""
        return unquote(self.path).rsplit("/", 1)[-1]


@dataclass
class Response:
    """An answer; a path as body is sent as a file: with length, validators and ranges."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Path = b""

    @classmethod
    def of_json(
        cls, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Return an answer in JSON."""
        text = json.dumps(content).encode()
        return cls(status, {"Content-Type": "application/json", **(headers or {})}, text)

    @classmethod
    def redirect(cls, url: str, headers: Mapping[str, str] | None = None) -> Response:
        """Return a redirection (302)."""
        return cls(302, {"Location": url, **(headers or {})})


@dataclass
class LogEntry:
    """A request as it was answered; nothing of a token, a password or a query is kept.

    ``bytes_sent`` counts what was handed to the system: some of it may not have arrived if the
    client left. A block counts from just before it is sent, so that a client that has it all
    finds it all counted.
    """

    method: str
    path: str
    name: str
    status: int
    scope: Scope
    #: First byte of a partial answer (206), else None.
    range_start: int | None
    token: str | None
    fault: str | None
    started_s: float
    bytes_sent: int = 0
    #: The whole body of this answer was sent.
    complete: bool = False
    #: The last byte of the file was sent.
    last_byte: bool = False

    @property
    def had_token(self) -> bool:
        """Whether a valid token or session came with the request."""
        return self.token is not None


class Log:
    """The record of requests, in the order in which their answers began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[LogEntry] = []
        self._active = 0
        self.most_at_once = 0
        self.bytes_sent = 0

    def entries(self) -> list[LogEntry]:
        """Return the entries so far."""
        with self._lock:
            return list(self._entries)

    def clear(self) -> None:
        """Forget all entries and counts."""
        with self._lock:
            self._entries.clear()
            self.most_at_once = self._active
            self.bytes_sent = 0

    def add(self, entry: LogEntry) -> None:
        """Append an entry."""
        with self._lock:
            self._entries.append(entry)

    @contextlib.contextmanager
    def transfer(self, entry: LogEntry):
        """Count a body under way among those at once."""
        counted = entry.scope == "data"
        with self._lock:
            self._active += counted
            self.most_at_once = max(self.most_at_once, self._active)
        try:
            yield
        finally:
            with self._lock:
                self._active -= counted

    def count(self, entry: LogEntry, n_bytes: int) -> None:
        """Add to the bytes of an entry."""
        with self._lock:
            entry.bytes_sent += n_bytes
            if entry.scope == "data":
                self.bytes_sent += n_bytes


class Pacer:
    """Holds all connections together to a rate; they take turns block by block."""

    def __init__(self, rate_bytes_s: float | None, closing: threading.Event) -> None:
        self.rate_bytes_s = rate_bytes_s
        self._closing = closing
        self._lock = threading.Lock()
        self._free_s = 0.0

    def block_bytes(self) -> int:
        """Return the size of the next block to send."""
        if not self.rate_bytes_s:
            return _BLOCK_BYTES
        return min(max(int(self.rate_bytes_s * _PACE_S), 1024), _BLOCK_BYTES)

    def wait(self, n_bytes: int) -> None:
        """Wait for one's turn to send a block."""
        rate = self.rate_bytes_s
        if not rate:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(self._free_s, now - _CATCH_UP_S)
            self._free_s = turn + n_bytes / rate
        if turn > now:
            self._closing.wait(turn - now)


class DisconnectedError(ConnectionError):
    """The server ended the connection on purpose."""


#: Answers a request: the response, and the fault that its body meets on its way.
Answer = Callable[[Request], tuple[Response, Fault | None]]


class Server(HTTPServer):
    """A threaded server that ends all its connections when it is closed."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self,
        port: int,
        answer: Answer,
        log: Log,
        pacer: Pacer,
        latency_s: float,
        closing: threading.Event,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer, self.log, self.pacer = answer, log, pacer
        self.latency_s, self.closing = latency_s, closing
        self.errors: list[Exception] = []
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        super().__init__(("127.0.0.1", port), Handler)
        if tls is not None:
            # The handshake comes with the first read, in the connection's own thread.
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_POLL_S,), name="archive", daemon=True
        )

    def server_bind(self) -> None:
        """Bind without asking for the machine's name, which can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.socket.getsockname()

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, end every connection and wait for their threads."""
        self.closing.set()
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in connections.values():
            thread.join(timeout=10)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own."""
        thread = threading.Thread(
            target=self._serve_connection, args=(request, client_address), daemon=True
        )
        with self._lock:
            self._connections[request] = thread
        thread.start()

    def _serve_connection(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except (ConnectionError, TimeoutError, ssl.SSLError):
            pass  # the client left, or was sent away
        except OSError as error:
            if not self.closing.is_set():
                self.errors.append(error)
        except Exception as error:  # noqa: BLE001  kept for the test that runs the archive
            self.errors.append(error)
        finally:
            with self._lock:
                self._connections.pop(request, None)
            self.shutdown_request(request)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "LoopbackArchive"
    sys_version = ""
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        """Take the connection up, after the latency of a new one."""
        self.server.closing.wait(self.server.latency_s)
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the record is kept in the log."""

    def do_GET(self) -> None:
        """Answer one request."""
        split = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        query: dict[str, list[str]] = {}
        for key, value in parse_qsl(split.query, keep_blank_values=True):
            query.setdefault(key, []).append(value)
        request = Request(self.command, split.path, query, self.headers, body)
        self.server.closing.wait(self.server.latency_s)
        response, fault = self.server.answer(request)
        if fault is not None and fault.kind == "silent":
            self._record(request, 0, None, fault)
            self._hang()
        if isinstance(response.body, Path):
            with response.body.open("rb") as stream:
                self._send_file(request, response, fault, stream)
        else:
            self._send_bytes(request, response, fault, response.body)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  names of the base class

    def _record(
        self, request: Request, status: int, range_start: int | None, fault: Fault | None
    ) -> LogEntry:
        entry = LogEntry(
            request.method,
            request.path,
            request.name,
            status,
            request.scope,
            range_start,
            request.token,
            fault.kind if fault else None,
            time.monotonic(),
        )
        self.server.log.add(entry)
        return entry

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _send_bytes(
        self, request: Request, response: Response, fault: Fault | None, body: bytes
    ) -> None:
        if fault is not None and fault.kind == "truncated":
            body = body[: _cut(fault, len(body))]
        if fault is not None and fault.kind == "wrong_bytes":
            body = _spoil(body)
        entry = self._record(request, response.status, None, fault)
        self._send_head(response.status, {**response.headers, "Content-Length": str(len(body))})
        if request.method == "HEAD":
            return
        self._send_body(entry, fault, body, 0, len(body))
        entry.last_byte = entry.complete

    def _send_file(
        self, request: Request, response: Response, fault: Fault | None, stream: BinaryIO
    ) -> None:
        state = os.fstat(stream.fileno())
        size = state.st_size
        if fault is not None and fault.kind == "truncated":
            size = _cut(fault, size)
        headers = {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "ETag": f'"{state.st_mtime_ns:x}-{size:x}"',
            "Last-Modified": formatdate(state.st_mtime, usegmt=True),
            **response.headers,
        }
        status, start, stop = response.status, 0, size
        if status == 200 and _range_holds(request.headers, headers):
            wanted = _parse_range(request.headers.get("Range", ""), size)
            if wanted is not None and wanted[0] >= wanted[1]:
                self._record(request, 416, None, fault)
                self._send_head(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
                return
            if wanted is not None:
                status, (start, stop) = 206, wanted
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        headers["Content-Length"] = str(stop - start)
        entry = self._record(request, status, start if status == 206 else None, fault)
        self._send_head(status, headers)
        if request.method == "HEAD":
            return
        body: BinaryIO | bytes = stream
        if fault is not None and fault.kind == "wrong_bytes":
            stream.seek(start)
            body = bytes(start) + _spoil(stream.read(stop - start))
        self._send_body(entry, fault, body, start, stop, state.st_size)

    def _send_body(
        self,
        entry: LogEntry,
        fault: Fault | None,
        body: BinaryIO | bytes,
        start: int,
        stop: int,
        size: int | None = None,
    ) -> None:
        """Send a part of a body; end the connection as a fault has it."""
        cut = fault if fault is not None and fault.kind in ("stall", "reset", "short") else None
        end = start + min(_cut(cut, stop - start), stop - start) if cut else stop
        with self.server.log.transfer(entry):
            entry.complete = start == stop
            entry.last_byte = start == stop == size
            while start < end:
                start += self._send_block(entry, body, start, end, stop, size)
            if cut is None:
                return
            if cut.kind == "stall":
                self._hang()
            if cut.kind == "reset":
                self._reset()
            raise DisconnectedError

    def _send_block(
        self,
        entry: LogEntry,
        body: BinaryIO | bytes,
        start: int,
        end: int,
        stop: int,
        size: int | None,
    ) -> int:
        """Send the next block and return its size; it is counted before it can arrive."""
        n_bytes = min(self.server.pacer.block_bytes(), end - start)
        self.server.pacer.wait(n_bytes)
        sent = 0
        self.server.log.count(entry, n_bytes)
        entry.complete = start + n_bytes == stop
        entry.last_byte = start + n_bytes == size
        try:
            if isinstance(body, bytes):
                self.connection.sendall(body[start : start + n_bytes])
                sent = n_bytes
            else:
                sent = os.sendfile(self.connection.fileno(), body.fileno(), start, n_bytes)
                if sent == 0:
                    raise DisconnectedError  # the file has become shorter
        finally:
            if sent < n_bytes:
                self.server.log.count(entry, sent - n_bytes)
                entry.complete = entry.last_byte = False
        return sent

    def _hang(self) -> None:
        """Send nothing until the client leaves or the server is closed."""
        while not self.server.closing.is_set():
            readable, _, _ = select.select([self.connection], [], [], _POLL_S)
            if readable and not self.connection.recv(1):
                break
        raise DisconnectedError

    def _reset(self) -> None:
        """End the connection with a reset, once what was sent has arrived."""
        waiting = array.array("i", [0])
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            fcntl.ioctl(self.connection, termios.TIOCOUTQ, waiting)
            if waiting[0] == 0:
                break
            time.sleep(0.001)
        # Lingering for no time turns the close into a reset.
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        os.close(self.connection.detach())
        raise DisconnectedError


def _cut(fault: Fault, length: int) -> int:
    """Return how many of a body's bytes a fault lets through: half, if it does not say."""
    return length // 2 if fault.after_bytes is None else min(fault.after_bytes, length)


def _spoil(body: bytes) -> bytes:
    """Return a body with some bytes in its middle inverted."""
    middle = len(body) // 2
    piece = bytes(255 - byte for byte in body[middle : middle + 64])
    return body[:middle] + piece + body[middle + len(piece) :]


def _range_holds(asked: Message, headers: Mapping[str, str]) -> bool:
    """Say whether a condition on a range (If-Range) holds."""
    condition = asked.get("If-Range")
    return condition is None or condition in (headers["ETag"], headers["Last-Modified"])


def _parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Return first byte and byte after the last of a range, an empty one if it has no byte.

    None stands for the whole file: there is no range, or none that is understood.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text.strip())
    if not match or not (match[1] or match[2]):
        return None
    if not match[1]:
        first, stop = max(size - int(match[2]), 0), size
    else:
        first = int(match[1])
        stop = min(int(match[2]) + 1, size) if match[2] else size
        if match[2] and int(match[2]) < first:
            return None
    return first, stop
