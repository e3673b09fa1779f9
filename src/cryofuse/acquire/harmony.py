"""Subsets of granules made at the archive: Harmony, through the library harmony-py.

A job cuts a batch of granules, named by concept id, to a bounding box, and to the datasets the
reader needs where Harmony offers that for the collection (for ATL06 it has not since 2024: all
datasets come). Nothing is transferred here: the answer is the address of each granule's subset,
or the reason why there is none, and the caller fetches the whole granule instead.

The token goes to Harmony's host alone: a redirect to any other host ends the request, and pages
of results are asked for by number, never by a link that a page holds. The library logs nothing;
what it would print (progress, paused jobs) stands in functions that are not used.

Which host that is: the library's own environments (production, UAT, SIT), and for a server on
this machine its environment LOCAL, whose ``Config(Environment.LOCAL, localhost_port=…)`` is given
to the client, because the client's constructor takes no port.

Sources: harmony-py 1.8; the service's guide (https://harmony.earthdata.nasa.gov/docs) and the
trajectory subsetter's documentation (https://github.com/nasa/harmony-trajectory-subsetter).
"""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urljoin, urlsplit

from requests.adapters import HTTPAdapter
from requests.exceptions import ChunkedEncodingError, Timeout
from requests.exceptions import ConnectionError as RequestsConnectionError
from urllib3.util.retry import Retry

from cryofuse.acquire.catalogue import Box
from cryofuse.acquire.credentials import guard
from cryofuse.atl06.product import parse_name
from cryofuse.logs import UserError

if TYPE_CHECKING:
    from requests import Response, Session

_LOG = logging.getLogger(__name__)
ROOT_URL = "https://harmony.earthdata.nasa.gov"
#: Datasets that tell a granule's name from its content, asked for beside the reader's.
_IDENTITY = (
    "/ancillary_data/release",
    "/ancillary_data/start_cycle",
    "/ancillary_data/start_region",
    "/ancillary_data/start_rgt",
    "/orbit_info/cycle_number",
    "/orbit_info/rgt",
    "/orbit_info/sc_orient",
)
#: A subset's name: perhaps a number, the granule's name, and what was done to it.
_SUBSET = re.compile(
    r"(?:[0-9]+_)?(ATL06_[0-9]{14}_[0-9]{8}_[0-9]{3}_[0-9]{2})_[A-Za-z0-9_]*subsetted\.h5"
)
_GRANULE = re.compile(r"ATL06_[0-9]{14}_[0-9]{8}_[0-9]{3}_[0-9]{2}")
#: Jobs of more granules than 100 are recognised when they are sent again within a day, and
#: their results given at once; jobs are limited to some thousands (settings of the service).
BATCH = 300
TIME_LIMIT_S = 4 * 3600.0
POLL_S = 15.0
#: Links of a page of results, the service's largest.
_PAGE = 2000
#: Connecting to the service, and waiting for a piece of its answer (s).
_TIMEOUT_S = (10.0, 60.0)
#: Longest wait that the service may ask for before a request is sent again (s).
_RETRY_AFTER_S = 120
_TRIES = 3
#: A job whose state could not be had as often as this in turn is given up.
_SILENT = 5
_FINISHED = frozenset({"successful", "complete_with_errors", "failed", "canceled", "paused"})


class GranuleRow(Protocol):
    """What is asked of a row of the manifest."""

    @property
    def granule(self) -> str:
        """Return the file name."""
        ...

    @property
    def concept_id(self) -> str | None:
        """Return the catalogue's name of the granule."""
        ...


class _RefusedError(Exception):
    """The service does not answer to the token; in one line."""


class _UnservedError(Exception):
    """The service can do nothing for a collection; the message is the reason."""


class _SteadyAdapter(HTTPAdapter):
    """A transport that ends in time, whatever the service does."""

    def __init__(self) -> None:
        retry = Retry(
            total=_TRIES,
            backoff_factor=1.0,
            backoff_jitter=1.0,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=("GET", "POST"),
            raise_on_status=False,
            retry_after_max=_RETRY_AFTER_S,
        )
        super().__init__(max_retries=retry)

    def send(self, request: Any, *args: Any, **options: Any) -> Response:
        """Send a request with a time-out: none of the libraries above sets one."""
        options["timeout"] = options.get("timeout") or _TIMEOUT_S
        return super().send(request, *args, **options)


def _steady(session: Session) -> Session:
    for scheme in ("https://", "http://"):
        session.mount(scheme, _SteadyAdapter())
    return session


def _persist(call: Callable[[], Any]) -> Any:
    """Return what a call returns, made again if a connection broke in the middle of an answer."""
    for attempt in range(1, _TRIES):
        try:
            return call()
        except (RequestsConnectionError, ChunkedEncodingError, Timeout):
            time.sleep(attempt)
    return call()


def subset_variables() -> tuple[str, ...]:
    """Return the HDF5 paths of the datasets that a subset must hold: what the reader needs."""
    from cryofuse.atl06.granule import dataset_paths

    return dataset_paths()


def request_subsets(
    rows: Iterable[GranuleRow],
    box: Box,
    variables: Sequence[str],
    auth: Any,
    root_url: str | None = None,
    *,
    batch: int = BATCH,
    time_limit_s: float = TIME_LIMIT_S,
    poll_s: float = POLL_S,
) -> tuple[dict[str, str], dict[str, str]]:
    """Have granules cut to a box at the archive; return where their subsets are.

    Parameters
    ----------
    rows
        Granules, with the concept ids by which exactly these are asked for.
    box
        West, south, east, north (degrees); west > east over ±180°.
    variables
        HDF5 paths of the datasets that are needed. Where Harmony can't choose datasets, or does
        not know one of these, it is asked for all.
    auth
        Log-in of earthaccess, with its token and system.
    root_url
        Address of Harmony (default: production).
    batch
        Granules of a job.
    time_limit_s
        Time for all jobs together (s); what is not ready then is given up and cancelled.
    poll_s
        Time between two questions after a job (s).

    Returns
    -------
    urls : dict
        Granule name to the address of its subset. The hosts are the service's to choose: they
        are to be checked before a token is sent to one.
    reasons : dict
        Granule name to the reason why it has no subset; every granule is in one of the two.

    Raises
    ------
    UserError
        If ``root_url`` is none that harmony-py can address.
    """
    reasons: dict[str, str] = {}
    groups: dict[tuple[str, str], list[GranuleRow]] = defaultdict(list)
    for row in rows:
        if row.concept_id is None:
            reasons[row.granule] = "the manifest has no concept id for it"
            continue
        try:
            release = parse_name(row.granule).release
        except ValueError as error:
            reasons[row.granule] = str(error)
            continue
        groups[release, row.concept_id.partition("-")[2]].append(row)
    if not groups:
        return {}, reasons
    asked = [row.granule for group in groups.values() for row in group]
    try:
        import harmony
    except ImportError:
        return {}, reasons | dict.fromkeys(asked, "harmony-py is not installed")
    token = (auth.token or {}).get("access_token")
    if not token:
        return {}, reasons | dict.fromkeys(asked, "Harmony needs a token, the log-in has none")
    work = _Work(_open_client(harmony, token, root_url or ROOT_URL), time_limit_s)
    try:
        for (release, provider), group in groups.items():
            try:
                collection = _find_collection(auth, release, provider)
                chosen = _choose_variables(work.client, collection, variables)
            except _RefusedError:
                raise
            except Exception as error:  # noqa: BLE001  whatever the service does is a reason
                work.give_up((row.granule for row in group), _describe(error))
                continue
            for start in range(0, len(group), batch):
                work.submit(group[start : start + batch], collection, box, chosen)
        work.wait(poll_s)
    except _RefusedError as error:
        work.give_up(asked, str(error))
    reasons |= work.reasons
    _LOG.info("Harmony made %d subsets of %d granules", len(work.urls), len(asked))
    return work.urls, reasons


def _open_client(harmony: Any, token: str, root_url: str) -> Any:
    """Return a client for an address; the token is handed over in memory.

    Raises
    ------
    UserError
        If harmony-py has no environment for the address.
    """
    from harmony.auth import create_session
    from harmony.config import HOSTNAMES, Config, Environment

    root_url = root_url.rstrip("/")
    known = {
        f"https://{host}": Config(environment)
        for environment, host in HOSTNAMES.items()
        if environment is not Environment.LOCAL
    }
    local = re.fullmatch(r"http://localhost:([0-9]{1,5})", root_url)
    if local:
        known[root_url] = Config(Environment.LOCAL, localhost_port=int(local[1]))
    if root_url not in known:
        raise UserError(
            f"{root_url} is no address of Harmony: expected one of {sorted(known)}, or "
            "http://localhost:PORT"
        )
    config = known[root_url]
    # The library takes its settings from variables of the environment before its own.
    if config.root_url != root_url:
        raise UserError(
            f"a variable of the environment (ROOT_URL, URL_SCHEME, HARMONY_HOSTNAME or "
            f"LOCALHOST_PORT) leads harmony-py to {config.root_url}, expected {root_url}: unset it"
        )
    client = harmony.Client(should_validate_auth=False, env=config.environment, token=token)
    client.config = config
    client.session = _steady(create_session(config, token=token))

    def bear(request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    # Without this a line of the netrc file for the host, or for all, would replace the token.
    client.session.auth = bear

    def stay(response: Response, *_args: Any, **_options: Any) -> None:
        if response.status_code == 401:
            response.close()
            raise _RefusedError("Harmony does not accept the log-in (status 401)")
        led = urljoin(root_url + "/", response.headers.get("Location", ""))
        if response.is_redirect and not led.startswith(root_url + "/"):
            response.close()
            raise _RefusedError(f"Harmony leads on to {_one_line(urlsplit(led).netloc)}")

    client.session.hooks["response"].append(stay)
    return client


def _find_collection(auth: Any, release: str, provider: str) -> str:
    """Return the concept id of a release of ATL06 at a provider."""
    import earthaccess

    query = earthaccess.DataCollections(auth).short_name("ATL06").version(release)
    _steady(guard(query.session))
    ids = [str(found["meta"]["concept-id"]) for found in _persist(lambda: query.get(100))]
    ids = [found for found in ids if found.partition("-")[2] == provider]
    if not ids:
        raise _UnservedError(f"the catalogue has no ATL06 {release} of {provider}")
    return ids[0]


def _choose_variables(client: Any, collection: str, wanted: Sequence[str]) -> list[str]:
    """Return the names by which Harmony knows datasets of a collection; ``all`` if not all.

    A subset without a dataset that the granule has would read otherwise than the granule.

    Raises
    ------
    _UnservedError
        If nothing cuts the collection to a box.
    """
    import harmony

    question = harmony.CapabilitiesRequest(collection_id=collection)
    offer = _persist(lambda: client.submit(question))
    if not isinstance(offer, dict) or not offer.get("bboxSubset"):
        raise _UnservedError(f"Harmony has no service that cuts {collection} to a box")
    names = {
        "/" + str(variable.get("name", "")).lstrip("/"): str(variable.get("name"))
        for variable in offer.get("variables") or []
        if isinstance(variable, dict)
    }
    unknown = [path for path in wanted if path not in names]
    if not offer.get("variableSubset") or unknown:
        _LOG.info("Harmony does not choose datasets of %s: all of them come", collection)
        return ["all"]
    chosen = [*wanted, *(path for path in _IDENTITY if path in names)]
    return [names[path] for path in chosen]


class _Work:
    """Jobs under way, and what came of them."""

    def __init__(self, client: Any, time_limit_s: float) -> None:
        self.client = client
        self.stop = time.monotonic() + time_limit_s
        self.jobs: dict[str, list[str]] = {}
        self.silent: dict[str, int] = defaultdict(int)
        self.urls: dict[str, str] = {}
        self.reasons: dict[str, str] = {}

    def give_up(self, granules: Iterable[str], reason: str) -> None:
        """Note a reason for granules that have neither address nor reason yet."""
        for granule in granules:
            if granule not in self.urls:
                self.reasons.setdefault(granule, reason)

    def submit(
        self, group: Sequence[GranuleRow], collection: str, box: Box, variables: list[str]
    ) -> None:
        """Send a job for some granules."""
        import harmony

        granules = [row.granule for row in group]
        request = harmony.Request(
            collection=harmony.Collection(id=collection),
            spatial=harmony.BBox(*(float(edge) for edge in box)),
            # One field of the form: the service takes a hundred at most.
            variables=[",".join(variables)],
            granule_id=[row.concept_id for row in group],
            ignore_errors=True,
            # Large jobs would pause after some granules, for somebody to look at them.
            skip_preview=True,
        )
        try:
            answer = _persist(lambda: self.client.submit(request))
            job = str(answer["jobID"] if isinstance(answer, dict) else answer)
        except _RefusedError:
            raise
        except Exception as error:  # noqa: BLE001  whatever the service does is a reason
            self.give_up(granules, f"Harmony took no job: {_describe(error)}")
            return
        # The service gives the job it has where one is sent twice.
        self.jobs.setdefault(job, []).extend(granules)
        _LOG.info("Harmony job %s: %d granules", job, len(granules))

    def wait(self, poll_s: float) -> None:
        """Ask after the jobs until all are finished or the time is up."""
        pending = set(self.jobs)
        while pending:
            pending = {job for job in sorted(pending) if not self._look(job)}
            left = self.stop - time.monotonic()
            if pending and left <= 0:
                for job in sorted(pending):
                    self._collect(job, "Harmony's job was not finished within the time limit")
                    self._cancel(job)
                return
            if pending:
                time.sleep(min(poll_s, left))

    def _look(self, job: str) -> bool:
        """Return whether a job is over; if so, note what came of it."""
        try:
            state = self.client.status(job)
        except _RefusedError:
            raise
        except Exception as error:  # noqa: BLE001  whatever the service does is a reason
            self.silent[job] += 1
            if self.silent[job] < _SILENT:
                return False
            self._collect(job, f"Harmony does not tell of its job: {_describe(error)}")
            return True
        self.silent[job] = 0
        if state["status"] not in _FINISHED:
            return False
        _LOG.info("Harmony job %s: %s", job, state["status"])
        reason = None
        if state["status"] not in ("successful", "complete_with_errors"):
            reason = f"Harmony's job ended as {state['status']}: {_one_line(state['message'])}"
        self._collect(job, reason, _failures(state.get("errors") or []))
        return True

    def _collect(
        self, job: str, reason: str | None, failures: Mapping[str, str] | None = None
    ) -> None:
        """Note the subsets of a job, whatever its state, and the reason for the others."""
        granules = set(self.jobs[job])
        strange = 0
        try:
            # Every page but the last one, which is empty, holds a link at least.
            for page in range(1, len(granules) + 2):
                links = _persist(partial(self._links, job, page))
                for url in links:
                    granule = _subset_of(url)
                    if granule in granules:
                        self.urls.setdefault(granule, url)
                    else:
                        strange += 1
                if not links or granules <= self.urls.keys():
                    break
        except _RefusedError:
            raise
        except Exception as error:  # noqa: BLE001  whatever the service does is a reason
            reason = reason or f"Harmony's results could not be listed: {_describe(error)}"
        if strange:
            _LOG.warning("Harmony job %s: %d links to no subset of its granules", job, strange)
        reason = reason or "Harmony made no subset of it (it may have no data in the box)"
        for granule in granules:
            self.give_up([granule], (failures or {}).get(granule, reason))

    def _links(self, job: str, page: int) -> list[Any]:
        """Return the links of a page of results, of those that are ready."""
        return list(self.client.result_urls(job, page=page, limit=_PAGE, allow_incomplete=True))

    def _cancel(self, job: str) -> None:
        """Spare the service a job that nobody waits for."""
        try:
            self.client.cancel(job)
        except Exception as error:  # noqa: BLE001  it ends by itself some day
            _LOG.info("Harmony job %s was not cancelled: %s", job, _describe(error))


def _subset_of(url: Any) -> str | None:
    """Return the granule whose subset an address names, None if it names none."""
    text = str(url)
    if not (text.isascii() and text.isprintable()) or " " in text:
        return None
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        return None
    if parts.scheme not in ("https", "http") or not host or "@" in parts.netloc:
        return None
    match = _SUBSET.fullmatch(unquote(parts.path).rsplit("/", 1)[-1])
    return f"{match[1]}.h5" if match else None


def _failures(errors: Iterable[Any]) -> dict[str, str]:
    """Return what the service says of granules that failed (the addresses it read them from)."""
    failures = {}
    for error in errors:
        if isinstance(error, dict) and (match := _GRANULE.search(str(error.get("url", "")))):
            failures[f"{match[0]}.h5"] = f"Harmony failed: {_one_line(error.get('message', ''))}"
    return failures


def _one_line(text: Any) -> str:
    """Return a text in one line of bounded length, without the query part of addresses."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    return re.sub(r"\?\S+", "?…", " ".join(line.split()))[:300]


def _describe(error: BaseException) -> str:
    parts = [str(part) for part in error.args] or [type(error).__name__]
    return _one_line(": ".join(parts))
