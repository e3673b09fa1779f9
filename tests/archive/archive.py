"""The archive as tests use it: data, search and log-in behind one object."""

from __future__ import annotations

import contextlib
import posixpath
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, unquote, urlsplit

from tests.archive.area import Box, Ring
from tests.archive.catalogue import Catalogue, GranuleEntry
from tests.archive.faults import EARLY, LOGIN_PAGE, STATUS, TRANSMISSION, Fault, FaultTable
from tests.archive.login import HOST, PORT, Login, LoginHostError, make_certificate
from tests.archive.server import Log, LogEntry, Pacer, Request, Response, Server

RouteHandler = Callable[[Request], Response]

USERNAME, PASSWORD = "loopback-user", "loopback-password"
TOKEN = "loopback-token-000000"
_SEARCH = re.compile(r"/search/(?P<kind>granules|collections)\.umm_json")


class LoopbackArchive:
    """An archive on loopback: use it as a context manager.

    Parameters
    ----------
    folder
        Where files named without a folder lie.
    login
        Serve the log-in host, ``https://localhost:443``, as well (needs root).
    rate_bytes_s
        Rate to which all connections together are held, bytes per second.
    latency_s
        Seconds before a new connection is taken up, and again before each answer.
    page_size
        Largest page of a search, whatever is asked for.
    tokens
        Bearer tokens that are good from the start.
    require_token
        Ask for a token or session for the files of collections.
    users
        Password of each user of the log-in host.
    redirect_bad_token
        What a token that is not good any more is answered, with the log-in host there:
        True sends the client to it, False refuses (401).
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        login: bool = False,
        rate_bytes_s: float | None = None,
        latency_s: float = 0.0,
        page_size: int = 2000,
        tokens: Iterable[str] = (TOKEN,),
        require_token: bool = True,
        users: Mapping[str, str] | None = None,
        redirect_bad_token: bool = True,
    ) -> None:
        tokens = tuple(tokens)
        self.folder = Path(folder)
        self.username, self.password = next(iter((users or {USERNAME: PASSWORD}).items()))
        self.token = next(iter(tokens), "")
        self.require_token = require_token
        self.redirect_bad_token = redirect_bad_token
        self.catalogue = Catalogue(page_size)
        self.login = Login(users or {USERNAME: PASSWORD}, tokens)
        self._with_login = login
        self._latency_s = latency_s
        self._closing = threading.Event()
        self._log = Log()
        self._faults = FaultTable()
        self._pacer = Pacer(rate_bytes_s, self._closing)
        self._routes: list[tuple[str, re.Pattern[str], RouteHandler]] = []
        self._files: dict[str, Path] = {}
        self._urls: dict[str, str] = {}
        self._scratch = contextlib.ExitStack()
        self._servers: list[Server] = []
        self._ca_bundle: Path | None = None
        self._url: str | None = None

    def __enter__(self) -> LoopbackArchive:
        """Start serving, unless it has been started."""
        return self if self._servers else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop serving; an error of the archive itself fails the test that ran it."""
        self.close()
        errors = [problem for server in self._servers for problem in server.errors]
        if errors and error is None:
            raise ExceptionGroup("the archive itself failed", errors)

    def start(self) -> LoopbackArchive:
        """Start serving, on a free port.

        Raises
        ------
        LoginHostError
            If the log-in host is asked for and cannot be served.
        """
        data = self._server(0, self._answer)
        self._url = f"http://127.0.0.1:{data.server_port}"
        try:
            if self._with_login:
                folder = Path(self._scratch.enter_context(tempfile.TemporaryDirectory()))
                self._ca_bundle = folder / "authority.pem"
                context = make_certificate(self._ca_bundle)
                try:
                    self._server(PORT, self._answer_login, context)
                except OSError as error:
                    raise LoginHostError(
                        f"the log-in host needs port {PORT} of 127.0.0.1: {error.strerror}"
                    ) from error
        except BaseException:
            self.close()
            raise
        for server in self._servers:
            server.start()
        return self

    def _server(self, port: int, answer, tls=None) -> Server:
        server = Server(port, answer, self._log, self._pacer, self._latency_s, self._closing, tls)
        self._servers.append(server)
        return server

    def close(self) -> None:
        """Stop serving and end every connection."""
        for server in self._servers:
            server.stop()
        self._scratch.close()

    # What clients are told

    @property
    def base_url(self) -> str:
        """Address of the data and search host, without a slash at its end."""
        if self._url is None:
            raise RuntimeError("the archive has not been started")
        return self._url

    @property
    def cmr_base_url(self) -> str:
        """Address of the search."""
        return f"{self.base_url}/search/"

    @property
    def ca_bundle(self) -> Path:
        """The authority that vouches for the log-in host, for REQUESTS_CA_BUNDLE."""
        if self._ca_bundle is None:
            raise RuntimeError("the archive serves no log-in host")
        return self._ca_bundle

    def system(self) -> dict[str, str]:
        """Return the end points, as the configuration key ``download: system`` takes them."""
        return {
            "cmr_base_url": self.cmr_base_url,
            "edl_hostname": HOST,
            "status_url": f"{self.base_url}/status/",
            "status_api_url": f"{self.base_url}/status/api",
        }

    def url(self, name: str) -> str:
        """Return the address of a file that is served."""
        return self._urls[name]

    # What is served

    def add_collection(
        self,
        short_name: str,
        version: str,
        files: Iterable[str | Path | GranuleEntry],
        footprints: Mapping[str, Ring | Box] | None = None,
        *,
        provider: str = "NSIDC_CPRD",
        checksum: str | None = "SHA-256",
        sizes: bool = True,
    ) -> str:
        """Add a collection, or files to one, and return its concept id.

        Parameters
        ----------
        short_name, version
            What a search names it.
        files
            Files (names are looked for in the archive's folder), or entries of any content.
        footprints
            By file name: a ring of (longitude, latitude) or a box (west, south, east, north),
            degrees. ATL06 files without one get a ring around their beams, others the globe.
        provider
            Archive of the collection, the last part of its concept ids.
        checksum
            Algorithm (``SHA-256``, ``MD5``, …) of the checksums in the records; None for none.
        sizes
            Whether the records state sizes.
        """
        entries = []
        for file in files:
            if not isinstance(file, GranuleEntry):
                path = self.folder / file
                file = GranuleEntry(path.name, path)
            entries.append(file)
        for entry in entries:
            if entry.url is None:
                entry.url = self._data_url(short_name, version, entry.name)
            self._serve(entry)
        collection = self.catalogue.add(
            short_name, version, entries, footprints or {}, provider, checksum, sizes
        )
        return collection.concept_id

    def add_public(self, file: str | Path, name: str | None = None) -> str:
        """Serve a file without any log-in and return its address.

        The file may change while it is served.
        """
        path = self.folder / file
        url = f"{self.base_url}/public/{quote(name or path.name)}"
        self._files[_key(urlsplit(url).path)] = path
        self._urls[name or path.name] = url
        return url

    def add_route(self, method: str, pattern: str, handler: RouteHandler) -> None:
        """Let a function answer requests whose whole path a pattern matches.

        Parameters
        ----------
        method
            ``GET`` (which stands for HEAD as well), ``POST``, …
        pattern
            Regular expression; its match is the request's ``match``.
        handler
            Called in the connection's thread. The request's ``token`` says whether the client
            is known; to ask for it is up to the function.
        """
        self._routes.append((method, re.compile(pattern), handler))

    def reissue(self, name: str, new_name: str | None = None, path: Path | None = None) -> str:
        """Replace a granule by a new revision, now, and return its name.

        The old file is gone (404), and the search shows the new one alone.

        Parameters
        ----------
        name
            Granule to be replaced.
        new_name
            By default the old one with its last two digits raised by one.
        path
            File of the new revision; by default the old one's.
        """
        if new_name is None:
            parts = re.fullmatch(r"(.*_)(\d\d)(\.\w+)", name)
            if parts is None:
                raise ValueError(f"{name} has no revision at its end: give the new name")
            new_name = f"{parts[1]}{int(parts[2]) + 1:02d}{parts[3]}"
        collection, _ = self.catalogue.find(name)
        new = self.catalogue.reissue(name, new_name, path)
        new.url = self._data_url(collection.short_name, collection.version, new_name)
        self._serve(new)
        self._files.pop(_key(urlsplit(self._urls.pop(name)).path), None)
        return new_name

    def _data_url(self, short_name: str, version: str, name: str) -> str:
        return f"{self.base_url}/data/{quote(short_name)}/{quote(version)}/{quote(name)}"

    def _serve(self, entry: GranuleEntry) -> None:
        assert entry.url is not None
        self._urls[entry.name] = entry.url
        if entry.path is not None:
            self._files[_key(urlsplit(entry.url).path)] = entry.path

    # What goes wrong

    def fault(
        self,
        kind: str,
        match: str | None = None,
        times: int | None = None,
        *,
        skip: int = 0,
        after_bytes: int | None = None,
        retry_after_s: float | None = None,
        retry_after_date: bool = False,
    ) -> Fault:
        """Let something go wrong from now on; the fault's ``struck`` counts how often it did.

        Parameters
        ----------
        kind
            For files and added routes:
            a status (``401 403 404 408 410 429 500 502 503 504``);
            ``html`` (status 200 with a log-in page); ``silent`` (no answer at all);
            ``stall`` (half a body, then nothing); ``reset`` (half a body, then TCP reset);
            ``short`` (half a body of full Content-Length, then the end);
            ``truncated`` (a file of half its length); ``wrong_bytes`` (some are inverted);
            ``expired`` (tokens and sessions end as a request comes); ``reissued`` (the granule
            asked for is replaced by a new revision as a request for it comes).
            ``search_…`` and ``login_…`` with one of these strikes the search or the log-in host.
            ``duplicates``: pages of a search after the first start one entry too early, so that
            entries come twice and others never.
        match
            Regular expression, searched in the path of a request; None: all.
        times
            How often it strikes; None: always.
        skip
            Requests that match and pass before it strikes first.
        after_bytes
            Body bytes sent before ``stall``, ``reset``, ``short`` and ``truncated`` (half by
            default); for ``expired``: bytes of all bodies before it strikes.
        retry_after_s, retry_after_date
            Retry-After of a status, in seconds or as a date.
        """
        return self._faults.add(
            kind,
            match,
            times=times,
            skip=skip,
            after_bytes=after_bytes,
            retry_after_s=retry_after_s,
            retry_after_date=retry_after_date,
        )

    def clear_faults(self) -> None:
        """Let all go well from now on."""
        self._faults.clear()

    def expire_tokens(self) -> None:
        """Let all tokens and sessions given out so far be good no more."""
        self.login.expire_tokens()

    # What happened

    @property
    def log(self) -> list[LogEntry]:
        """The requests so far."""
        return self._log.entries()

    @property
    def most_at_once(self) -> int:
        """Most bodies of files that were under way at the same time."""
        return self._log.most_at_once

    def clear_log(self) -> None:
        """Forget the requests so far."""
        self._log.clear()

    def requests(self, name: str) -> list[LogEntry]:
        """Return the requests (GET) for a file."""
        return [one for one in self.log if one.name == name and one.method == "GET"]

    def completed(self, name: str) -> int:
        """Return how often the last byte of a file was sent."""
        return sum(one.last_byte for one in self._bodies(name))

    def body_bytes(self, name: str) -> int:
        """Return how many bytes of a file were sent in all."""
        return sum(one.bytes_sent for one in self._bodies(name))

    def _bodies(self, name: str) -> list[LogEntry]:
        """Return the requests that were answered with some of a file."""
        return [
            one
            for one in self.requests(name)
            if one.status in (200, 206) and one.fault not in ("html", "silent")
        ]

    # How requests are answered

    def _answer_login(self, request: Request) -> tuple[Response, Fault | None]:
        request.scope = "login"
        return self._with_faults(request, self.login.answer)

    def _answer(self, request: Request) -> tuple[Response, Fault | None]:
        request.token, bad = self.login.recognise(request.headers)
        if match := _SEARCH.fullmatch(request.path):
            request.scope, request.match = "search", match
            return self._with_faults(request, lambda asked: self._search(asked, bad))
        if request.path.startswith(("/data/", "/public/")):
            request.scope = "data"
            return self._with_faults(request, self._data)
        if request.path == "/login":
            request.scope = "login"
            return self._with_faults(request, self.login.arrival)
        method = "GET" if request.method == "HEAD" else request.method
        for wanted, pattern, handler in self._routes:
            if wanted == method and (match := pattern.fullmatch(request.path)):
                request.match = match
                return self._with_faults(request, handler)
        return Response(404, {"Content-Type": "text/plain"}, b"no such address\n"), None

    def _with_faults(
        self, request: Request, handler: RouteHandler
    ) -> tuple[Response, Fault | None]:
        """Answer a request unless a fault does, and find the fault that meets the body."""
        scope, path = request.scope, request.path
        fault = self._faults.strike(EARLY, scope, path, self._log.bytes_sent)
        if fault is not None:
            if fault.kind in STATUS:
                return Response(STATUS[fault.kind], fault.headers(), fault.text()), fault
            if fault.kind == "html":
                return Response(200, {"Content-Type": "text/html"}, LOGIN_PAGE), fault
            if fault.kind == "silent":
                return Response(), fault
            if fault.kind == "expired":
                self.expire_tokens()
                request.token = None
            if fault.kind == "reissued":
                with contextlib.suppress(KeyError):  # it has been already
                    self.reissue(request.name)
        response = handler(request)
        if response.status == 200 and request.method != "HEAD" and response.body:
            meeting = self._faults.strike(TRANSMISSION, scope, path, self._log.bytes_sent)
            fault = meeting or fault
        return response, fault

    def _search(self, request: Request, bad_token: bool) -> Response:
        if bad_token and request.token is None:
            return Response.of_json({"errors": ["Token does not exist or has expired"]}, 401)
        shift = 0
        if request.headers.get("cmr-search-after") and self._faults.strike(
            ("duplicates",), "search", request.path, 0
        ):
            shift = 1
        return self.catalogue.search(request, shift)

    def _data(self, request: Request) -> Response:
        if self.require_token and request.path.startswith("/data/") and request.token is None:
            bad = request.headers.get("Authorization") is not None
            if self._with_login and (self.redirect_bad_token or not bad):
                return self.login.redirection(self.base_url, request.path)
            return Response(401, {"Content-Type": "text/plain"}, b"log in first\n")
        path = self._files.get(_key(request.path))
        if path is None or not path.is_file():
            return Response(404, {"Content-Type": "text/plain"}, b"no such file\n")
        return Response(body=path)


def _key(path: str) -> str:
    """Return a path as clients may ask for it: decoded, without dots and double slashes."""
    return posixpath.normpath(unquote(path))
