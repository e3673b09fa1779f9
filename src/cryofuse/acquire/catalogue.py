"""The catalogue of Earthdata (CMR): which files a collection has in an area and some months.

The search itself is earthaccess's. Added here: a search is tried again when the catalogue fails,
and its answer counts only when as many entries came as the catalogue says there are.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import requests
import shapely
from requests.adapters import HTTPAdapter
from shapely.geometry.base import BaseGeometry
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from cryofuse.acquire.credentials import guard
from cryofuse.geo import project, unproject
from cryofuse.logs import UserError

if TYPE_CHECKING:
    import earthaccess

_LOG = logging.getLogger(__name__)
#: Most tries of one search.
TRIES = 6
#: Longest wait between two tries, also where the server asks for a longer one.
LONGEST_WAIT_S = 120.0
_BACK_OFF = wait_exponential(multiplier=2.0, max=60.0) + wait_random(0.0, 2.0)
#: To connect, and between two pieces of an answer: earthaccess itself waits for ever.
_TIMEOUT_S = (30.0, 180.0)
#: A window of time is not halved below this.
_SHORTEST_WINDOW = np.timedelta64(60, "s")
#: Answers below 500 that are another one a little later: too slow, too many.
_PASSING_STATUS = frozenset({408, 429})

#: Added around an outline: tracks of a granule lie up to 3.3 km beside its footprint's middle.
_BUFFER_M = 10_000.0
#: Of the buffer, what simplification and the bend of great circles may each take away.
_SHARE = 0.25
_MOST_POINTS = 60
_LONGEST_EDGE_M = 600_000.0
_SHORTEST_EDGE_M = 50_000.0
#: Decimals of a degree (11 m) in the addresses of a search.
_DECIMALS = 4
_OUTLINE_STEP_M = 10_000.0
#: Degrees added around the outline's bounding box.
_BOX_MARGIN = 0.1

#: West, south, east, north (degrees); west > east over ±180°.
Box = tuple[float, float, float, float]
#: A closed ring of longitude and latitude (degrees), counter-clockwise.
Ring = tuple[tuple[float, float], ...]
Area = Box | Ring
#: First instant, and first instant after it.
Months = tuple[np.datetime64, np.datetime64]

#: How names of HDF5 and NetCDF files end.
HDF5_SUFFIXES = (".h5", ".nc", ".nc4", ".hdf5", ".he5")
#: Names of a distributed part that name nothing.
_NAMELESS = ("", "Not provided")


@dataclass(frozen=True)
class Entry:
    """A file of a collection, as the catalogue describes it.

    Parameters
    ----------
    name
        Last part of the link's path, decoded; without a link the entry's own name. It is the
        server's text: unchecked.
    url
        Link to the data, None where there is none.
    size_bytes
        Size, None where the catalogue states none in bytes.
    checksum, algorithm
        Checksum and how it is made, None where the catalogue states none.
    concept_id, revision_date
        The catalogue's number of the entry, and when it was last revised.
    """

    name: str
    url: str | None
    size_bytes: int | None = None
    checksum: str | None = None
    algorithm: str | None = None
    concept_id: str | None = None
    revision_date: str | None = None


Search = Callable[..., list[Entry]]


class _RefusedError(Exception):
    """The catalogue says that the question itself is wrong: asking again will not help."""


class _FailedError(Exception):
    """A search failed in a way that may pass; in one line, and how long the server asks to wait."""

    def __init__(self, problem: str, wait_s: float = 0.0) -> None:
        super().__init__(problem)
        self.wait_s = wait_s


class _IncompleteError(_FailedError):
    """Fewer entries came than the catalogue says there are."""


class _TimedAdapter(HTTPAdapter):
    """Transport that gives up on a server that says nothing."""

    def send(self, request: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send a request, with a time limit where it has none."""
        if options.get("timeout") is None:
            options["timeout"] = _TIMEOUT_S
        return super().send(request, **options)


class Catalogue:
    """Searches of one log-in; called as ``search(short_name, version, area, months)``.

    Parameters
    ----------
    auth
        Log-in; its system says where the catalogue is.
    sleep
        What waits between two tries (s).
    """

    def __init__(self, auth: earthaccess.Auth, sleep: Callable[[float], None] = time.sleep) -> None:
        self._auth = auth
        self._sleep = sleep

    def __call__(
        self,
        short_name: str,
        version: str | None = None,
        area: Area | None = None,
        months: Months | None = None,
    ) -> list[Entry]:
        """Return a collection's entries, each once, as many as the catalogue says there are.

        A search that fails is tried again. Where fewer entries came than there are, the window
        of time is halved, and halved again.

        Parameters
        ----------
        short_name, version
            The collection.
        area
            Box or ring that an entry touches.
        months
            Window of time that an entry touches.

        Raises
        ------
        UserError
            If the catalogue does not answer, refuses the question, or its answer stays incomplete.
        """
        question = _Question(short_name, version, area)
        found: list[Mapping[str, Any]] = []
        try:
            for window in _windows(months) if months else [None]:
                found.extend(self._search(question, window))
            entries = [_entry(granule) for granule in _latest(found)]
        except (_FailedError, _RefusedError) as error:
            raise UserError(f"the Earthdata catalogue failed for {short_name}: {error}") from None
        _LOG.info("search of %s: %d entries", question.title, len(entries))
        return sorted(entries, key=lambda entry: (entry.name, entry.concept_id or ""))

    def _search(self, question: _Question, window: Months | None) -> list[Mapping[str, Any]]:
        """Return the answer for a window of time, put together from halves where need be."""
        try:
            return self._try(question, window, patient=False)
        except _IncompleteError as problem:
            if window is None or window[1] - window[0] < 2 * _SHORTEST_WINDOW:
                return self._try(question, window, patient=True)
            _LOG.warning("search of %s: %s; the time is halved", question.title, problem)
        first, stop = window
        middle = first + (stop - first) // 2
        return [
            granule
            for half in ((first, middle), (middle, stop))
            for granule in self._search(question, half)
        ]

    def _try(
        self, question: _Question, window: Months | None, *, patient: bool
    ) -> list[Mapping[str, Any]]:
        """Ask until an answer comes; a patient one also asks again for an incomplete answer."""

        def passes(error: BaseException) -> bool:
            return isinstance(error, _FailedError) and (
                patient or not isinstance(error, _IncompleteError)
            )

        retrying = Retrying(
            stop=stop_after_attempt(TRIES),
            wait=_wait,
            retry=retry_if_exception(passes),
            sleep=self._sleep,
            before_sleep=lambda state: _LOG.warning(
                "search of %s, try %d: %s; again in %.0f s",
                question.title,
                state.attempt_number,
                state.outcome.exception() if state.outcome else "",
                state.next_action.sleep if state.next_action else 0.0,
            ),
            reraise=True,
        )
        return retrying(self._ask, question, window)

    def _ask(self, question: _Question, window: Months | None) -> list[Mapping[str, Any]]:
        """Ask once for the entries of a window, each once.

        Raises
        ------
        _FailedError
            If no answer came, or an incomplete one.
        _RefusedError
            If the catalogue will not answer this question, or not in its words.
        """
        import earthaccess

        query = earthaccess.DataGranules(self._auth)
        for scheme in ("https://", "http://"):
            guard(query.session).mount(scheme, _TimedAdapter())
        question.put(query, window)
        try:
            hits = query.hits()
            # The query's own method looks into the entries, and fails at a malformed one.
            results = earthaccess.search.get_results(query.session, query, hits) if hits else []
            found = _latest(results)
        except requests.RequestException as error:
            raise _FailedError(f"no answer ({type(error).__name__})") from None
        except RuntimeError as error:
            raise _failure(error) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _FailedError(f"its answer is not one of CMR ({type(error).__name__})") from None
        if len(found) < hits:
            raise _IncompleteError(f"{len(found)} of {hits} entries came")
        return found


@dataclass(frozen=True)
class _Question:
    """What is searched, but for the time."""

    short_name: str
    version: str | None
    area: Area | None

    @property
    def title(self) -> str:
        return f"{self.short_name} {self.version}" if self.version else self.short_name

    def put(self, query: Any, window: Months | None) -> None:
        """Write the question, and a window of time, into a query."""
        query.short_name(self.short_name)
        if self.version:
            query.version(self.version)
        if window:
            query.temporal(*(str(instant.astype("datetime64[s]")) for instant in window))
        if self.area is None:
            return
        if isinstance(self.area[0], tuple):
            query.polygon(list(self.area))
        else:
            query.bounding_box(*self.area)


def _windows(months: Months) -> Iterator[Months]:
    """Yield a span of time month by month."""
    first, stop = months
    while first < stop:
        following = (first.astype("datetime64[M]") + 1).astype(first.dtype)
        yield first, min(following, stop)
        first = following


def _failure(error: RuntimeError) -> _FailedError | _RefusedError:
    """Return what a status of the catalogue means; the text of its answer is left out."""
    response = getattr(error.__cause__, "response", None)
    if response is None:
        return _FailedError(f"no answer ({type(error).__name__})")
    status = response.status_code
    if status in (401, 403):
        return _RefusedError(f"status {status}: the log-in is not accepted; log in anew")
    if status < 500 and status not in _PASSING_STATUS:
        return _RefusedError(f"status {status}: it does not accept this search")
    return _FailedError(f"status {status}", asked_wait_s(response.headers.get("Retry-After")))


def asked_wait_s(text: str | None, now: datetime | None = None) -> float:
    """Return the seconds that a header Retry-After asks for, 0 where it says nothing.

    Parameters
    ----------
    text
        Seconds, or a date (RFC 9110, section 10.2.3).
    now
        The time, by default this moment.
    """
    if text is None:
        return 0.0
    if text.strip().isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    # A date that names no zone is in UTC.
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max((until - (now or datetime.now(UTC))).total_seconds(), 0.0)


def _wait(state: RetryCallState) -> float:
    """Return how long to wait for the next try (s): longer each time, at least as asked for."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.wait_s if isinstance(error, _FailedError) else 0.0
    return min(max(_BACK_OFF(state), asked), LONGEST_WAIT_S)


def _latest(found: Iterable[Any]) -> list[Mapping[str, Any]]:
    """Return each entry once, by its number; of two states the one revised last.

    Raises
    ------
    _RefusedError
        If an entry has no number.
    """
    kept: dict[str, Mapping[str, Any]] = {}
    for granule in found:
        meta = _mapping(_mapping(granule).get("meta"))
        number = _text(meta.get("concept-id"))
        if number is None:
            raise _RefusedError("an entry of its answer has no number (concept-id)")
        known = kept.get(number)
        if known is None or _revised(meta) > _revised(known["meta"]):
            kept[number] = granule
    return list(kept.values())


def _revised(meta: Mapping[str, Any]) -> tuple[int, str]:
    return _whole_number(meta.get("revision-id")) or 0, _text(meta.get("revision-date")) or ""


def _entry(granule: Mapping[str, Any]) -> Entry:
    """Return a catalogue entry as name, link, size and checksum (UMM-G, DataGranule).

    What is not of the kind that it should be is unknown.

    Raises
    ------
    _RefusedError
        If the entry has no name.
    """
    umm, meta = _mapping(granule.get("umm")), granule["meta"]
    url = _data_link(_mappings(umm.get("RelatedUrls")))
    name = last_part(url) if url else _text(umm.get("GranuleUR"))
    if name is None:
        raise _RefusedError(f"entry {meta['concept-id']} has neither name nor link")
    described = _mapping(umm.get("DataGranule")).get("ArchiveAndDistributionInformation")
    part = _part(_mappings(described), name)
    checksum = _mapping(part.get("Checksum"))
    value, algorithm = _text(checksum.get("Value")), _text(checksum.get("Algorithm"))
    known = value is not None and algorithm is not None
    return Entry(
        name=name,
        url=url,
        size_bytes=_whole_number(part.get("SizeInBytes")),
        checksum=value if known else None,
        algorithm=algorithm if known else None,
        concept_id=meta["concept-id"],
        revision_date=_text(meta.get("revision-date")),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole_number(value: Any) -> int | None:
    """Return a number of things, None where a value is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    whole = isinstance(value, int) or value.is_integer()
    return int(value) if whole and value >= 0 else None


def _data_link(links: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the link to the data over HTTP: of several, an HDF5 or NetCDF file, the first."""
    data = [
        str(link["URL"])
        for link in links
        if link.get("Type") == "GET DATA"
        and str(link.get("URL", "")).lower().startswith(("https://", "http://"))
    ]
    files = [url for url in data if last_part(url).endswith(HDF5_SUFFIXES)]
    return next(iter(files or data), None)


def last_part(url: str) -> str:
    """Return the last part of an address's path, decoded: the server's text, unchecked."""
    return unquote(re.split(r"[?#]", url, maxsplit=1)[0].rsplit("/", 1)[-1])


def _part(parts: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Return the distributed part of a name, or the only one where it names nothing."""
    every = [inner for part in parts for inner in (part, *_mappings(part.get("Files")))]
    for part in every:
        if part.get("Name") == name:
            return part
    if len(every) == 1 and (every[0].get("Name") or "") in _NAMELESS:
        return every[0]
    return {}


def search_area(outline: BaseGeometry, crs: str) -> Area:
    """Return the area to search for an outline: a ring of few points, or a box.

    The ring is the convex hull of the outline with a margin; its edges are short enough that
    the great circles of the catalogue and the straight lines of the projection are one within
    the margin. A region with a pole in it, or over ±180°, has a box.

    Parameters
    ----------
    outline, crs
        The region's outline and its CRS (metres).
    """
    wide = outline.convex_hull.buffer(_BUFFER_M)
    hull = wide.simplify(_SHARE * _BUFFER_M)
    longest = _LONGEST_EDGE_M
    while longest >= _SHORTEST_EDGE_M:
        ring = _ring(hull, crs, longest)
        if ring is None:
            break
        if len(ring) <= _MOST_POINTS and _bend(ring, crs) <= _SHARE * _BUFFER_M:
            return tuple((float(longitude), float(latitude)) for longitude, latitude in ring)
        longest /= 2
    return bounding_box(outline.buffer(_BUFFER_M), crs)


def _ring(hull: BaseGeometry, crs: str, longest_m: float) -> np.ndarray | None:
    """Return a hull's boundary in degrees, counter-clockwise, None where it passes ±180°.

    Around a pole every boundary does.
    """
    edge = shapely.get_coordinates(shapely.segmentize(hull.boundary, longest_m))
    ring = np.column_stack(unproject(edge[:, 0], edge[:, 1], crs)).round(_DECIMALS)
    if not np.isfinite(ring).all() or np.abs(np.diff(ring[:, 0])).max() > 180.0:
        return None
    return ring if shapely.is_ccw(shapely.LinearRing(ring)) else ring[::-1]


def _bend(ring: np.ndarray, crs: str) -> float:
    """Return how far the middles of a ring's great circles lie from its straight edges (m)."""
    longitude, latitude = np.radians(ring.T)
    point = np.column_stack(
        [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.sin(latitude),
        ]
    )
    x, y, z = (point[1:] + point[:-1]).T
    middle = project(np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y))), crs)
    corner = np.column_stack(project(ring[:, 0], ring[:, 1], crs))
    edges = shapely.linestrings(np.stack([corner[:-1], corner[1:]], axis=1))
    return float(shapely.distance(edges, shapely.points(*middle)).max())


def _holds_pole(outline: BaseGeometry, crs: str) -> float | None:
    """Return the latitude of the pole in an outline, None if there is none."""
    for pole in (-90.0, 90.0):
        x_m, y_m = project([0.0], [pole], crs)
        if np.isfinite(x_m[0]) and shapely.contains_xy(outline, x_m[0], y_m[0]):
            return pole
    return None


def bounding_box(outline: BaseGeometry, crs: str) -> Box:
    """Return west, south, east, north (degrees) of an outline; west > east over ±180°.

    A box around a pole spans all longitudes.
    """
    edge = shapely.get_coordinates(shapely.segmentize(outline.boundary, _OUTLINE_STEP_M))
    longitude, latitude = unproject(edge[:, 0], edge[:, 1], crs)
    south = max(float(latitude.min()) - _BOX_MARGIN, -90.0)
    north = min(float(latitude.max()) + _BOX_MARGIN, 90.0)
    pole = _holds_pole(outline, crs)
    if pole is not None:
        return -180.0, min(south, pole), 180.0, max(north, pole)
    around = np.unique(np.mod(longitude, 360.0))
    gaps = np.diff(np.concatenate([around, [around[0] + 360.0]]))
    widest = int(np.argmax(gaps))
    if gaps[widest] <= 2 * _BOX_MARGIN:
        return -180.0, south, 180.0, north
    # The box is what the widest stretch without outline leaves.
    west = around[(widest + 1) % around.size] - _BOX_MARGIN
    east = around[widest] + _BOX_MARGIN
    return _wrap(west), south, _wrap(east), north


def _wrap(longitude: float) -> float:
    return float((longitude + 180.0) % 360.0 - 180.0)
