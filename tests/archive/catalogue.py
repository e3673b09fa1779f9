"""The catalogue: collections and granules as CMR describes and finds them (UMM-C, UMM-G 1.6)."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import h5py
import numpy as np

from tests.archive.area import Box, Ring, touches
from tests.archive.server import Request, Response

_GLOBE: Box = (-180.0, -90.0, 180.0, 90.0)
#: A year before GRACE to long after: files that say nothing of their time.
_ALWAYS = (datetime(2001, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, tzinfo=UTC))
_ATL06_NAME = re.compile(r"ATL06_(\d{14})_\d{8}_\d{3}_\d{2}\.h5$")
_ATL06_EPOCH = datetime(2018, 1, 1, tzinfo=UTC)
#: An ATL06 granule is a fourteenth of an orbit of 94 minutes.
_ATL06_LENGTH = timedelta(minutes=7)
_BEAMS = ("gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r")
#: Points of a beam that go into a footprint.
_FOOTPRINT_POINTS = 64
#: Width of a footprint with a single beam, degrees of latitude.
_SLIVER = 0.02
#: Largest page that CMR gives, and the one it gives unasked.
_CMR_PAGE, _CMR_DEFAULT_PAGE = 2000, 10
_PARAMETERS = {
    "bounding_box",
    "cloud_hosted",
    "collection_concept_id",
    "concept_id",
    "downloadable",
    "granule_ur",
    "has_granules",
    "page_num",
    "page_size",
    "polygon",
    "provider",
    "readable_granule_name",
    "short_name",
    "sort_key",
    "temporal",
    "version",
}


@dataclass
class GranuleEntry:
    """A granule as the search shows it; what is left out comes from its file.

    Parameters
    ----------
    name
        File name in the record, of any characters.
    path
        File that is served under its address; None serves nothing.
    url
        Address in the record; by default on the archive, made of the name.
    size_bytes, checksum, algorithm
        What the record states of the file, true or not.
    begin, end
        Time that it spans.
    footprint
        Ring of (longitude, latitude), or box (west, south, east, north); degrees.
    """

    name: str
    path: Path | None = None
    url: str | None = None
    size_bytes: int | None = None
    checksum: str | None = None
    algorithm: str | None = None
    begin: datetime | None = None
    end: datetime | None = None
    footprint: Ring | Box | None = None
    number: int = field(default=0, init=False)
    revised: datetime = field(default_factory=lambda: datetime.now(UTC), init=False)

    def complete(self, given: Ring | Box | None) -> None:
        """Take time and footprint from the file where they are not given."""
        self.footprint = self.footprint or given
        named = _ATL06_NAME.search(self.name)
        times: list[datetime] = []
        if named:
            times.append(datetime.strptime(named[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC))
            if self.path is not None:
                ring, read = _read_beams(self.path)
                self.footprint = self.footprint or ring
                times.extend(read)
            if len(times) == 1:
                times.append(times[0] + _ATL06_LENGTH)
        else:
            times.extend(_ALWAYS)
        self.begin = self.begin or min(times)
        self.end = self.end or max(times)
        self.footprint = self.footprint or _GLOBE


@dataclass
class Collection:
    """A collection and its granules."""

    short_name: str
    version: str
    provider: str
    number: int
    algorithm: str | None
    sizes: bool
    granules: list[GranuleEntry] = field(default_factory=list)

    @property
    def concept_id(self) -> str:
        """Its identifier in the catalogue."""
        return f"C{self.number}-{self.provider}"

    def granule_id(self, granule: GranuleEntry) -> str:
        """Return the identifier of one of its granules."""
        return f"G{granule.number}-{self.provider}"


def _read_beams(path: Path) -> tuple[Ring | None, list[datetime]]:
    """Return a ring around an ATL06 granule's beams, and its first and last time."""
    tracks: list[list[tuple[float, float]]] = []
    times: list[datetime] = []
    try:
        with h5py.File(path, "r", locking=False) as file:
            for beam in _BEAMS:
                segments = file.get(f"{beam}/land_ice_segments")
                if segments is None or "latitude" not in segments:
                    continue
                count = segments["latitude"].shape[0]
                if count == 0:
                    continue
                # First, last, and points between: all chunks hold 10 000, so few are inflated.
                rows = np.unique(np.linspace(0, count - 1, _FOOTPRINT_POINTS).astype(int))
                longitude, latitude = segments["longitude"][:][rows], segments["latitude"][:][rows]
                tracks.append(list(zip(longitude.tolist(), latitude.tolist(), strict=True)))
                seconds = segments["delta_time"][:][[0, -1]]
                times.extend(_ATL06_EPOCH + timedelta(seconds=float(s)) for s in seconds)
    except (OSError, KeyError):
        return None, []
    if not tracks:
        return None, []
    back = tracks[-1]
    if len(tracks) == 1:
        back = [(longitude, latitude + _SLIVER) for longitude, latitude in back]
    ring = tracks[0] + back[::-1]
    return [*ring, ring[0]], times


class Catalogue:
    """All collections, and the search over them.

    Parameters
    ----------
    page_size
        Largest page that is given, whatever is asked for.
    """

    def __init__(self, page_size: int = _CMR_PAGE) -> None:
        self.page_size = page_size
        self.lock = threading.RLock()
        self._collections: list[Collection] = []
        self._numbers = itertools.count(1_000_000_001)

    def add(
        self,
        short_name: str,
        version: str,
        entries: Iterable[GranuleEntry],
        footprints: Mapping[str, Ring | Box],
        provider: str,
        algorithm: str | None,
        sizes: bool,
    ) -> Collection:
        """Add a collection, or granules to the one of this name and version."""
        with self.lock:
            known = [
                one
                for one in self._collections
                if (one.short_name, one.version) == (short_name, version)
            ]
            if known:
                collection = known[0]
            else:
                number = next(self._numbers)
                collection = Collection(short_name, version, provider, number, algorithm, sizes)
                self._collections.append(collection)
            for entry in entries:
                entry.number = next(self._numbers)
                entry.complete(footprints.get(entry.name))
                collection.granules.append(entry)
        return collection

    def find(self, name: str) -> tuple[Collection, GranuleEntry]:
        """Return a granule by its name."""
        with self.lock:
            for collection in self._collections:
                for granule in collection.granules:
                    if granule.name == name:
                        return collection, granule
        raise KeyError(name)

    def identified(self, concept_id: str) -> GranuleEntry | None:
        """Return the granule of an identifier, None if there is none (any more)."""
        with self.lock:
            for collection in self._collections:
                for granule in collection.granules:
                    if collection.granule_id(granule) == concept_id:
                        return granule
        return None

    def reissue(self, name: str, new_name: str, path: Path | None) -> GranuleEntry:
        """Replace a granule by a new revision and return it."""
        with self.lock:
            collection, old = self.find(name)
            new = replace(old, name=new_name, path=path or old.path, url=None)
            new.size_bytes = new.checksum = None
            new.number = next(self._numbers)
            collection.granules.remove(old)
            collection.granules.append(new)
        return new

    def search(self, request: Request, shift: int = 0) -> Response:
        """Answer a search for collections or granules.

        Parameters
        ----------
        request
            With parameters in its address or, as a form, in its body.
        shift
            By how many entries a page after the first starts too early (fault ``duplicates``).
        """
        try:
            asked = _parameters(request)
            kind = request.match["kind"] if request.match else "granules"
            with self.lock:
                records = self._granules(asked) if kind == "granules" else self._found(asked)
            return self._page(records, asked, request, shift)
        except (ValueError, IndexError) as error:
            return Response.of_json({"errors": [str(error)]}, 400)

    def _found(self, asked: dict[str, list[str]]) -> list[tuple[int, Callable[[], Any]]]:
        """Return the collections that hold what is asked for."""
        spatial = {"bounding_box", "polygon", "temporal"} & set(asked)
        return [
            (one.number, functools.partial(_collection_record, one))
            for one in self._collections
            if _is_collection(one, asked, of_granules=False)
            and (not spatial or any(_is_granule(one, g, asked) for g in one.granules))
        ]

    def _granules(self, asked: dict[str, list[str]]) -> list[tuple[int, Callable[[], Any]]]:
        """Return the granules asked for, in the order asked for (by start time)."""
        found = [
            (collection, granule)
            for collection in self._collections
            if _is_collection(collection, asked, of_granules=True)
            for granule in collection.granules
            if _is_granule(collection, granule, asked)
        ]
        sort_key = asked.get("sort_key", ["start_date"])[0]
        value = {
            "start_date": lambda granule: granule.begin,
            "revision_date": lambda granule: granule.revised,
            "granule_ur": lambda granule: granule.name,
        }.get(sort_key.lstrip("-"))
        if value is None:
            raise ValueError(f"The sort key [{sort_key}] is not a valid field for sorting.")
        found.sort(key=lambda one: one[1].number)
        found.sort(key=lambda one: value(one[1]), reverse=sort_key.startswith("-"))
        return [(g.number, functools.partial(_granule_record, c, g)) for c, g in found]

    def _page(
        self,
        records: list[tuple[int, Callable[[], Any]]],
        asked: dict[str, list[str]],
        request: Request,
        shift: int,
    ) -> Response:
        """Return the page that follows the one named in the request's header."""
        wanted = int(asked.get("page_size", [str(_CMR_DEFAULT_PAGE)])[0])
        if not 0 <= wanted <= _CMR_PAGE:
            raise ValueError(f"page_size must be a number between 0 and {_CMR_PAGE}")
        size = min(wanted, self.page_size)
        start = (int(asked.get("page_num", ["1"])[0]) - 1) * size
        numbers = [number for number, _ in records]
        if after := request.headers.get("cmr-search-after"):
            previous, position = json.loads(after)
            # A granule that is gone meanwhile leaves its place to the next one.
            start = numbers.index(previous) + 1 if previous in numbers else position
            start = max(start - shift, 0)
        page = records[start : start + size]
        headers = {"CMR-Hits": str(len(records)), "CMR-Took": "1"}
        if page:
            headers["cmr-search-after"] = json.dumps([page[-1][0], start + len(page)])
        content = {"hits": len(records), "took": 1, "items": [make() for _, make in page]}
        return Response.of_json(content, headers=headers)


def _parameters(request: Request) -> dict[str, list[str]]:
    """Return a search's parameters; refuse unknown ones, as CMR does."""
    asked = {key: list(values) for key, values in request.query.items()}
    if request.method == "POST":
        for key, values in parse_qs(request.body.decode()).items():
            asked.setdefault(key, []).extend(values)
    plain: dict[str, list[str]] = {}
    for key, values in asked.items():
        if key.startswith("options["):
            continue
        bare = key.removesuffix("[]")
        if bare not in _PARAMETERS:
            raise ValueError(f"Parameter [{bare}] was not recognized.")
        plain.setdefault(bare, []).extend(values)
    return plain


def _is_collection(one: Collection, asked: dict[str, list[str]], of_granules: bool) -> bool:
    for key, value in (
        ("short_name", one.short_name),
        ("version", one.version),
        ("provider", one.provider),
        ("collection_concept_id", one.concept_id),
    ):
        if key in asked and value.lower() not in [text.lower() for text in asked[key]]:
            return False
    ids = [text for text in asked.get("concept_id", []) if not of_granules or text[0] == "C"]
    return not ids or one.concept_id in ids


def _is_granule(collection: Collection, one: GranuleEntry, asked: dict[str, list[str]]) -> bool:
    ids = [text for text in asked.get("concept_id", []) if text[0] == "G"]
    if ids and collection.granule_id(one) not in ids:
        return False
    for key in ("granule_ur", "readable_granule_name"):
        if key in asked and not any(fnmatch.fnmatchcase(one.name, p) for p in asked[key]):
            return False
    if "temporal" in asked and not any(_overlaps(one, text) for text in asked["temporal"]):
        return False
    areas: list[Ring | Box] = [_box(text) for text in asked.get("bounding_box", [])]
    areas += [_ring(text) for text in asked.get("polygon", [])]
    assert one.footprint is not None
    return not areas or any(touches(one.footprint, area) for area in areas)


def _overlaps(one: GranuleEntry, text: str) -> bool:
    first, last = (text + ",").split(",")[:2]
    assert one.begin is not None and one.end is not None
    if first and one.end < _instant(first):
        return False
    return not last or one.begin <= _instant(last)


def _instant(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _box(text: str) -> Box:
    west, south, east, north = (float(part) for part in text.split(","))
    if south > north:
        raise ValueError(f"The bounding_box north value [{north}] is south of [{south}]")
    return west, south, east, north


def _ring(text: str) -> Ring:
    numbers = [float(part) for part in text.split(",")]
    ring = list(zip(numbers[::2], numbers[1::2], strict=True))
    if len(ring) < 4 or ring[0] != ring[-1]:
        raise ValueError("Polygon boundary was not closed; the first and last points must match.")
    corners = np.asarray(ring)
    turn = np.diff(np.unwrap(corners[:, 0], period=360.0))
    area = float(np.sum(turn * (corners[1:, 1] + corners[:-1, 1])))
    if area > 0 and abs(turn.sum()) < 180:
        raise ValueError("The polygon boundary points are listed in the wrong order (clockwise).")
    return ring


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, algorithm: str, _mtime_ns: int, _size: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm.lower().replace("-", "")).hexdigest()


def _iso(time: datetime | None) -> str:
    assert time is not None
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _file_record(collection: Collection, one: GranuleEntry) -> dict[str, Any]:
    """Return what the record says of the file: its size and its checksum."""
    record: dict[str, Any] = {"Name": one.name}
    size, checksum = one.size_bytes, one.checksum
    algorithm = one.algorithm or collection.algorithm
    if one.path is not None and one.path.is_file():
        state = one.path.stat()
        size = state.st_size if size is None else size
        if checksum is None and algorithm:
            checksum = _digest(one.path, algorithm, state.st_mtime_ns, state.st_size)
    if size is not None and collection.sizes:
        record["SizeInBytes"] = size
        record["Size"], record["SizeUnit"] = size / 2**20, "MB"
    record["Format"] = "NetCDF-4" if one.name.endswith((".nc", ".nc4")) else "HDF5"
    if checksum is not None and algorithm:
        record["Checksum"] = {"Value": checksum, "Algorithm": algorithm}
    return record


def _spatial(footprint: Ring | Box | None) -> dict[str, Any]:
    assert footprint is not None
    if isinstance(footprint[0], int | float):
        keys = "WestBoundingCoordinate SouthBoundingCoordinate EastBoundingCoordinate "
        sides = dict(zip((keys + "NorthBoundingCoordinate").split(), footprint, strict=True))
        geometry: dict[str, Any] = {"BoundingRectangles": [sides]}
    else:
        points = [{"Longitude": x, "Latitude": y} for x, y in footprint]  # type: ignore[misc]
        geometry = {"GPolygons": [{"Boundary": {"Points": points}}]}
    return {"HorizontalSpatialDomain": {"Geometry": geometry}}


def _granule_record(collection: Collection, one: GranuleEntry) -> dict[str, Any]:
    """Return a granule as the search shows it (UMM-G)."""
    url = one.url or ""
    host, _, rest = url.partition("/data/")
    tail = rest or quote(one.name)
    secondary = {"Name": f"{one.name}.iso.xml", "SizeInBytes": 12_345, "Format": "ISO XML"}
    return {
        "meta": {
            "concept-type": "granule",
            "concept-id": collection.granule_id(one),
            "revision-id": 1,
            "native-id": one.name,
            "collection-concept-id": collection.concept_id,
            "provider-id": collection.provider,
            "format": "application/vnd.nasa.cmr.umm+json",
            "revision-date": _iso(one.revised),
        },
        "umm": {
            "GranuleUR": one.name,
            "CollectionReference": {
                "ShortName": collection.short_name,
                "Version": collection.version,
            },
            "DataGranule": {
                "DayNightFlag": "Unspecified",
                "ProductionDateTime": _iso(one.revised),
                "Identifiers": [{"Identifier": one.name, "IdentifierType": "ProducerGranuleId"}],
                "ArchiveAndDistributionInformation": [_file_record(collection, one), secondary],
            },
            "TemporalExtent": {
                "RangeDateTime": {
                    "BeginningDateTime": _iso(one.begin),
                    "EndingDateTime": _iso(one.end),
                }
            },
            "SpatialExtent": _spatial(one.footprint),
            "RelatedUrls": [
                {"URL": f"{host}/browse/{tail}_BRW.jpg", "Type": "GET RELATED VISUALIZATION"},
                {"URL": url, "Type": "GET DATA", "MimeType": "application/x-hdf5"},
                {"URL": f"s3://loopback-protected/{tail}", "Type": "GET DATA VIA DIRECT ACCESS"},
                {"URL": f"{host}/metadata/{tail}.iso.xml", "Type": "EXTENDED METADATA"},
                {"URL": f"{host}/s3credentials", "Type": "VIEW RELATED INFORMATION"},
            ],
            "ProviderDates": [
                {"Date": _iso(one.revised), "Type": "Insert"},
                {"Date": _iso(one.revised), "Type": "Update"},
            ],
            "MetadataSpecification": {
                "URL": "https://cdn.earthdata.nasa.gov/umm/granule/v1.6.6",
                "Name": "UMM-G",
                "Version": "1.6.6",
            },
        },
    }


def _collection_record(one: Collection) -> dict[str, Any]:
    """Return a collection as the search shows it (UMM-C)."""
    return {
        "meta": {
            "concept-type": "collection",
            "concept-id": one.concept_id,
            "revision-id": 1,
            "native-id": f"{one.short_name} {one.version}",
            "provider-id": one.provider,
            "granule-count": len(one.granules),
            "has-formats": False,
            "format": "application/vnd.nasa.cmr.umm+json",
        },
        "umm": {
            "ShortName": one.short_name,
            "Version": one.version,
            "EntryTitle": f"{one.short_name} of the loopback archive V{one.version}",
            "Abstract": "Files of a test.",
            "ProcessingLevel": {"Id": "3"},
        },
    }
