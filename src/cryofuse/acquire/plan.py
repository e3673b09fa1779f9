"""The plan of a download: which files, from where, how large, and why others are left out.

A plan is a CSV file that a person can read, commit and share. With it a run uses the same files
whatever the catalogue says later, so it is checked row by row when it is read: names stay inside
the folder of the download, and the log-in's token is sent to trusted hosts alone.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from shapely.geometry.base import BaseGeometry

from cryofuse.acquire.catalogue import HDF5_SUFFIXES, Entry, Search, last_part, search_area
from cryofuse.altimetry import GranuleName
from cryofuse.atl06.product import TITLE, parse_name
from cryofuse.config import DownloadSettings, is_loopback
from cryofuse.logs import UserError
from cryofuse.tables import written

_LOG = logging.getLogger(__name__)
#: A name under which a file may be written: nothing that leads out of a folder, or hides in it.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_NAME_LENGTH = 200
#: Characters of an address without user, query and fragment (RFC 3986).
_ADDRESS = re.compile(r"https?://[A-Za-z0-9._~:/\[\]!$&'()*+,;=%-]{1,2000}")
#: Hexadecimal digits of the checksums that can be computed; others are kept as they are.
HEX_DIGITS = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}
BYTES_PER_GB = 1e9
#: Comment line with the number of rows: a plan cut off between two lines shows.
_ROWS_KEY = "rows"
#: Characters of a wrong value that a message shows.
_SHOWN_LENGTH = 100


class ManifestRow(BaseModel):
    """One file of a plan; without a reason it is fetched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    granule: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_%][A-Za-z0-9._%-]{0,199}$",
            description="a file name of letters, digits and . _ -",
        ),
    ]
    url: Annotated[
        str | None,
        Field(
            pattern=rf"^{_ADDRESS.pattern}$",
            description="an address without user, query and fragment, or nothing",
        ),
    ] = None
    size_bytes: Annotated[
        int | None, Field(gt=0, description="a positive whole number of bytes, or nothing")
    ] = None
    checksum: Annotated[
        str | None,
        Field(pattern=r"^[0-9A-Za-z]{1,128}$", description="letters and digits, or nothing"),
    ] = None
    checksum_algorithm: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,31}$",
            description="the name of a checksum such as SHA-256, or nothing",
        ),
    ] = None
    release: Annotated[
        str | None, Field(pattern=r"^[0-9]{3}$", description="three digits, or nothing")
    ] = None
    revision: Annotated[
        str | None, Field(pattern=r"^[0-9]{2}$", description="two digits, or nothing")
    ] = None
    rgt: Annotated[int | None, Field(description="a whole number, or nothing")] = None
    cycle: Annotated[int | None, Field(description="a whole number, or nothing")] = None
    orbit_region: Annotated[int | None, Field(description="a whole number, or nothing")] = None
    start_time: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$",
            description="a time such as 2019-07-01T03:04:05Z, or nothing",
        ),
    ] = None
    concept_id: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$",
            description="an identifier of letters, digits and _ -, or nothing",
        ),
    ] = None
    reason: Annotated[
        str | None,
        Field(
            pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$",
            description="one line of text why the file is not fetched, or nothing",
        ),
    ] = None


COLUMNS = tuple(ManifestRow.model_fields)
_ORBIT_COLUMNS = ("release", "revision", "rgt", "cycle", "orbit_region", "start_time")


def plan_granules(
    search: Search,
    settings: DownloadSettings,
    outline: BaseGeometry,
    crs: str,
    first: np.datetime64,
    stop: np.datetime64,
    *,
    trusted_hosts: Sequence[str],
) -> list[ManifestRow]:
    """Return a period's plan: every entry that the catalogue has, the ones left out with a reason.

    Both releases are asked for: of a granule that is in both, or in several revisions, the highest
    that can be fetched is.

    Parameters
    ----------
    search
        A :class:`cryofuse.acquire.catalogue.Catalogue`, or what answers like one.
    settings
        Releases.
    outline, crs
        The region's outline and its CRS.
    first, stop
        The period: first instant, and first instant after it. A granule belongs to the period
        that holds its start.
    trusted_hosts
        Hosts, and domains of hosts, to which the log-in's token may be sent.

    Returns
    -------
    list[ManifestRow]
        Sorted by granule; independent of the order of the search.
    """
    area = search_area(outline, crs)
    planned: list[ManifestRow] = []
    for version in filter(None, (settings.atl06_version, settings.atl06_fallback_version)):
        found = search(TITLE, version, area, (first, stop))
        _LOG.info("%d entries of release %s", len(found), version)
        planned += [_plan_granule(entry, first, stop, trusted_hosts) for entry in _sorted(found)]
    return sorted(_choose(planned), key=_row_order)


def check_fetchable(rows: Sequence[ManifestRow], first: np.datetime64, stop: np.datetime64) -> None:
    """Refuse a plan that has granules and fetches none of them: it would be kept for good.

    Raises
    ------
    UserError
        If it is such a plan, with the reasons counted.
    """
    refused = list_refused(rows, first, stop)
    if refused and all(row.reason is not None for row in rows):
        why = Counter(row.reason for row in refused)
        told = "; ".join(f"{count} × {reason}" for reason, count in sorted(why.items(), key=str))
        raise UserError(f"none of {len(refused)} granules of the period can be fetched: {told}")


def list_refused(
    rows: Sequence[ManifestRow], first: np.datetime64, stop: np.datetime64
) -> list[ManifestRow]:
    """Return a period's granules of which no entry is fetched, one row each.

    Parameters
    ----------
    rows
        Rows of a plan.
    first, stop
        The period: first instant, and first instant after it.
    """
    fetched, refused = set(), {}
    for row in rows:
        if not PLAIN_NAME.fullmatch(row.granule):
            continue
        try:
            name = parse_name(row.granule)
        except ValueError:
            continue
        if row.reason is None:
            fetched.add(name.identity)
        elif first <= name.start_time < stop:
            refused[name.identity] = row
    return [row for identity, row in refused.items() if identity not in fetched]


def only_file(rows: Sequence[ManifestRow], path: str | os.PathLike[str]) -> ManifestRow:
    """Return the one file of a plan that is fetched.

    Raises
    ------
    UserError
        If there is none, or more than one.
    """
    fetched = [row for row in rows if row.reason is None]
    if len(fetched) != 1:
        raise UserError(f"{path}: expected one file without a reason, found {len(fetched)}")
    return fetched[0]


def plan_file(
    search: Search,
    short_name: str,
    version: str | None = None,
    *,
    trusted_hosts: Sequence[str],
    pattern: str | None = None,
) -> ManifestRow:
    """Return the newest NetCDF or HDF5 file of a collection, as a row of a plan.

    The name decides which is newest, its numbers read as numbers: collections of one growing
    file write its last month into the name.

    Raises
    ------
    UserError
        If the collection has no such file that can be fetched.
    """
    found = _sorted(search(short_name, version))
    if pattern:
        found = [entry for entry in found if fnmatchcase(entry.name, pattern)]
    rows = [_plan_file(entry, trusted_hosts) for entry in found]
    usable = [row for row in rows if row.reason is None]
    if not usable:
        why = Counter(row.reason for row in rows)
        told = "; ".join(f"{count} × {reason}" for reason, count in sorted(why.items(), key=str))
        raise UserError(
            f"the collection {short_name} holds no NetCDF or HDF5 file that can be fetched "
            f"({told or 'it is empty'})"
        )
    # The last of equal names is the one revised last.
    newest = max(enumerate(usable), key=lambda pair: (_natural(pair[1].granule), pair[0]))[1]
    _LOG.info("%s: %s of %d files", short_name, newest.granule, len(usable))
    return newest


def _natural(name: str) -> list[Any]:
    """Return what orders names with their numbers read as numbers."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _sorted(found: Iterable[Entry]) -> list[Entry]:
    """Return entries in an order of their own, the one revised last at the end."""
    fields = ("name", "revision_date", "concept_id", "url")
    return sorted(
        set(found), key=lambda entry: tuple(getattr(entry, field) or "" for field in fields)
    )


def _row_order(row: ManifestRow) -> tuple[str, ...]:
    return row.granule, row.reason or "", row.concept_id or "", row.url or ""


def _plan_granule(
    entry: Entry, first: np.datetime64, stop: np.datetime64, trusted_hosts: Sequence[str]
) -> ManifestRow:
    if not PLAIN_NAME.fullmatch(entry.name):
        return _describe(entry, None, "its name is not a plain file name")
    try:
        name = parse_name(entry.name)
    except ValueError:
        return _describe(entry, None, f"its name is not one of an {TITLE} granule")
    if not first <= name.start_time < stop:
        return _describe(entry, name, "it starts outside the period")
    return _describe(entry, name, _problem_of_link(entry, trusted_hosts))


def _plan_file(entry: Entry, trusted_hosts: Sequence[str]) -> ManifestRow:
    if not PLAIN_NAME.fullmatch(entry.name):
        return _describe(entry, None, "its name is not a plain file name")
    if not entry.name.endswith(HDF5_SUFFIXES):
        return _describe(entry, None, "its name is not one of a NetCDF or HDF5 file")
    return _describe(entry, None, _problem_of_link(entry, trusted_hosts))


def _problem_of_link(entry: Entry, trusted_hosts: Sequence[str]) -> str | None:
    problem = link_problem(entry.url, trusted_hosts)
    if problem is None and last_part(str(entry.url)) != entry.name:
        return "its link does not end with its name"
    return problem


def _describe(entry: Entry, name: GranuleName | None, reason: str | None) -> ManifestRow:
    """Return an entry as a row; what the server wrote is kept only where it is harmless."""
    entry = _harmless(entry)
    row = {
        "granule": _escape(entry.name),
        "url": entry.url,
        "size_bytes": entry.size_bytes,
        "checksum": entry.checksum,
        "checksum_algorithm": entry.algorithm,
        "concept_id": entry.concept_id,
        "reason": reason,
    }
    return ManifestRow(**row, **(_orbit(name) if name else {}))


def _orbit(name: GranuleName) -> dict[str, Any]:
    """Return what a name says, as columns of a row."""
    return {
        "release": name.release,
        "revision": name.revision,
        "rgt": name.rgt,
        "cycle": name.cycle,
        "orbit_region": name.orbit_region,
        "start_time": f"{name.start_time.astype('datetime64[s]')}Z",
    }


def _harmless(entry: Entry) -> Entry:
    """Return an entry without what a row cannot hold: such values are unknown."""
    url = re.split(r"[?#]", entry.url or "", maxsplit=1)[0]
    checksum, algorithm = entry.checksum, entry.algorithm
    if checksum is not None or algorithm is not None:
        expected = _expected_checksum(checksum, algorithm)
        if expected is None and not _matches("checksum_algorithm", algorithm):
            expected = "the name of a checksum"
        if expected:
            _LOG.warning("%s: its checksum is left out: expected %s", _escape(entry.name), expected)
            checksum = algorithm = None
    return replace(
        entry,
        url=url if _ADDRESS.fullmatch(url) else None,
        size_bytes=entry.size_bytes if (entry.size_bytes or 0) > 0 else None,
        checksum=checksum,
        algorithm=algorithm,
        concept_id=entry.concept_id if _matches("concept_id", entry.concept_id) else None,
    )


def _matches(column: str, text: str | None) -> bool:
    (pattern,) = (
        part.pattern
        for part in ManifestRow.model_fields[column].metadata
        if hasattr(part, "pattern")
    )
    return text is not None and re.fullmatch(pattern, text) is not None


def _escape(name: str) -> str:
    """Return a name with every character that is not plain as ``%`` and its number."""
    text = quote(name, safe="", errors="replace").replace("~", "%7E")
    if text[:1] in (".", "-"):
        text = f"%{ord(text[0]):02X}{text[1:]}"
    return text[:_NAME_LENGTH] or "nameless"


def _choose(rows: Sequence[ManifestRow]) -> list[ManifestRow]:
    """Return rows with only the highest of several revisions left to be fetched.

    Of several entries of one rank the whole granule goes before a subset, then the last row.
    """
    best: dict[tuple[Any, ...], tuple[tuple[Any, ...], int]] = {}
    for number, row in enumerate(rows):
        if row.reason is None:
            name = parse_name(row.granule)
            rank = ((name.rank, not name.subset, number), number)
            best[name.identity] = max(best.get(name.identity, rank), rank)
    chosen = []
    for row in rows:
        if row.reason is None:
            kept = rows[best[parse_name(row.granule).identity][1]]
            if kept is not row:
                row = row.model_copy(update={"reason": _why(row, kept)})
        chosen.append(row)
    return chosen


def _why(row: ManifestRow, kept: ManifestRow) -> str:
    if (row.release, row.revision) == (kept.release, kept.revision):
        return "another entry of the same release and revision is used"
    return f"release {kept.release} revision {kept.revision} of the same granule is used"


def link_problem(url: str | None, trusted_hosts: Sequence[str]) -> str | None:
    """Return in one line why nothing is asked of an address, None if it may be.

    Parameters
    ----------
    url
        Address of a file.
    trusted_hosts
        Names of hosts, or of domains that they are in.
    """
    if url is None:
        return "it has no link to its data"
    if not _ADDRESS.fullmatch(url):
        return "its link is not a plain https address (without user, query and fragment)"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        return "its link is not a plain https address (without user, query and fragment)"
    trusted = (known.lower() for known in trusted_hosts)
    if not any(host == known or host.endswith(f".{known}") for known in trusted):
        return f"its link leads to {host}, which is not among the trusted hosts"
    if parts.scheme != "https" and not is_loopback(host):
        return f"its link to {host} is not https"
    return None


def _expected_checksum(checksum: str | None, algorithm: str | None) -> str | None:
    """Return what a checksum should be, None if it is that."""
    if checksum is None or algorithm is None:
        return "a checksum and its algorithm, or neither"
    digits = HEX_DIGITS.get(algorithm.lower().replace("-", ""))
    if digits is None:
        return None if _matches("checksum", checksum) else "letters and digits"
    if not re.fullmatch(rf"[0-9A-Fa-f]{{{digits}}}", checksum):
        return f"{digits} hexadecimal digits ({algorithm})"
    return None


def write_manifest(
    rows: Sequence[ManifestRow], path: str | os.PathLike[str], searched: Mapping[str, str]
) -> None:
    """Write a plan as CSV, under a temporary name first.

    Parameters
    ----------
    rows
        Rows of the plan.
    path
        File to write.
    searched
        What was searched, when and where: a comment line each.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for key, value in {**searched, _ROWS_KEY: str(len(rows))}.items():
        writer.writerow([f"# {key}: {' '.join(str(value).split())}"])
    writer.writerow(COLUMNS)
    for row in rows:
        values = row.model_dump()
        writer.writerow(["" if values[column] is None else values[column] for column in COLUMNS])
    with written(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def read_manifest(
    path: str | os.PathLike[str], trusted_hosts: Sequence[str], *, of_granules: bool = True
) -> list[ManifestRow]:
    """Read a plan and check every row of it.

    Parameters
    ----------
    path
        File that :func:`write_manifest` wrote; a spreadsheet may have saved it again.
    trusted_hosts
        Hosts, and domains of hosts, to which the log-in's token may be sent.
    of_granules
        Whether its files are ATL06 granules.

    Raises
    ------
    UserError
        If it is not such a file, or with a line for each thing that is wrong in a row.
    """
    searched, header, lines = _read_csv(path)
    wrong = sorted(set(COLUMNS) ^ set(header)) or sorted(
        column for column, count in Counter(header).items() if count > 1
    )
    if wrong:
        known = [f"column {name} is missing" for name in COLUMNS if name not in header]
        extra = [
            f"column {name[:40]!r} is not one of a plan" for name in header if name not in COLUMNS
        ]
        twice = [f"column {name} is there twice" for name in wrong if header.count(name) > 1]
        raise UserError(f"{path}: {'; '.join(known + extra + twice)}; expected {','.join(COLUMNS)}")
    problems: list[str] = []
    rows: list[tuple[int, ManifestRow]] = []
    for number, cells in lines:
        if len(cells) != len(header):
            problems.append(
                f"{path}: row {number}: expected {len(header)} values, found {len(cells)}"
            )
            continue
        values = {name: cell or None for name, cell in zip(header, cells, strict=True)}
        try:
            row = ManifestRow.model_validate(values)
        except ValidationError as error:
            for item in error.errors():
                column = str(item["loc"][0])
                expected = str(ManifestRow.model_fields[column].description)
                problems.append(_problem(path, number, column, expected, values[column]))
            continue
        for column, expected, found in _contradictions(row, trusted_hosts, of_granules):
            problems.append(_problem(path, number, column, expected, found))
        rows.append((number, row))
    problems.extend(_doubled(path, rows, of_granules))
    told = searched.get(_ROWS_KEY, str(len(lines)))
    if told != str(len(lines)):
        problems.append(
            f"{path}: its line '# {_ROWS_KEY}: …' says {told[:20]}, found {len(lines)} rows: "
            "the file is not whole, or the line was not changed with the rows"
        )
    if problems:
        raise UserError("\n".join(problems))
    return [row for _, row in rows]


def read_searched(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the comment lines of a plan: what was searched, when and where.

    Raises
    ------
    UserError
        If it is not a CSV file.
    """
    return _read_csv(path)[0]


def _read_csv(
    path: str | os.PathLike[str],
) -> tuple[dict[str, str], list[str], list[tuple[int, list[str]]]]:
    """Return the comments, the header, and each row with the number of its line."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; make the plan first") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected a CSV file in UTF-8, found other bytes") from None
    if not text.endswith(("\n", "\r")):
        raise UserError(f"{path}: its last line has no end: the file is not whole")
    searched: dict[str, str] = {}
    lines: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells and cells[0].startswith("#"):
                key, _, value = cells[0].removeprefix("#").partition(":")
                searched[key.strip()] = value.strip()
            elif any(cells):
                lines.append((reader.line_num, cells))
    except csv.Error as error:
        raise UserError(
            f"{path}: line {reader.line_num}: expected a CSV file, found {error}"
        ) from None
    if not lines:
        raise UserError(f"{path}: expected the header {','.join(COLUMNS)}, found no line")
    return searched, lines[0][1], lines[1:]


def _problem(
    path: str | os.PathLike[str], number: int, column: str, expected: str, found: object
) -> str:
    shown = "nothing" if found is None else repr(found)
    if len(shown) > _SHOWN_LENGTH:
        shown = f"{shown[:_SHOWN_LENGTH]}…"
    return f"{path}: row {number}: {column}: expected {expected}, found {shown}"


def _contradictions(
    row: ManifestRow, trusted_hosts: Sequence[str], of_granules: bool
) -> Iterator[tuple[str, str, object]]:
    """Yield the columns of a row that contradict another: column, what is expected, found."""
    if row.checksum is not None or row.checksum_algorithm is not None:
        expected = _expected_checksum(row.checksum, row.checksum_algorithm)
        if expected:
            yield "checksum", expected, row.checksum
    told = {column: getattr(row, column) for column in _ORBIT_COLUMNS}
    if any(value is not None for value in told.values()) or (of_granules and row.reason is None):
        try:
            said = _orbit(parse_name(row.granule))
        except ValueError:
            yield "granule", f"the name of an {TITLE} granule", row.granule
        else:
            for column in _ORBIT_COLUMNS:
                if told[column] != said[column]:
                    yield column, f"{said[column]} as in the name", told[column]
    if row.reason is not None:
        return
    if not PLAIN_NAME.fullmatch(row.granule):
        yield "granule", "a plain file name", row.granule
    problem = link_problem(row.url, trusted_hosts)
    if problem:
        yield "url", f"an https address on {', '.join(trusted_hosts)}", row.url
    elif last_part(str(row.url)) != row.granule:
        yield "url", f"an address that ends with {row.granule}", row.url


def _doubled(
    path: str | os.PathLike[str], rows: Iterable[tuple[int, ManifestRow]], of_granules: bool
) -> Iterator[str]:
    """Yield a line for each row that fetches what an earlier row fetches."""
    seen: dict[Any, int] = {}
    for number, row in rows:
        if row.reason is not None:
            continue
        identity: Any = row.granule
        if of_granules:
            try:
                identity = parse_name(row.granule).identity
            except ValueError:
                continue
        if identity in seen:
            expected = f"each granule once (it is in row {seen[identity]})"
            yield _problem(path, number, "granule", expected, row.granule)
        seen.setdefault(identity, number)


def summarise_plan(
    manifests: Mapping[str, Sequence[ManifestRow]], present: Callable[[ManifestRow], bool]
) -> str:
    """Return plans as a table to read: files and gigabytes, there already and to fetch.

    Parameters
    ----------
    manifests
        Rows of each period.
    present
        Whether a file is there already.
    """
    head = ["period", "granules", "GB", "there", "GB", "to fetch", "GB", "no size", "left out"]
    fetched = {
        period: [row for row in rows if row.reason is None] for period, rows in manifests.items()
    }
    left_out = {
        period: [row.reason for row in rows if row.reason is not None]
        for period, rows in manifests.items()
    }
    counted = {
        period: _count(rows, len(left_out[period]), present) for period, rows in fetched.items()
    }
    # A granule of two regions is fetched once.
    every = {row.granule: row for rows in fetched.values() for row in rows}
    total = _count(list(every.values()), sum(map(len, left_out.values())), present)
    body = [[period, *_show(numbers)] for period, numbers in counted.items()]
    table = [head, *body, ["total", *_show(total)]]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]
    reasons = Counter(reason for each in left_out.values() for reason in each)
    if reasons:
        lines.append("Left out:")
        lines += [
            f"  {count} × {reason}"
            for reason, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
        ]
    return "\n".join(lines)


def _count(
    rows: Sequence[ManifestRow], left_out: int, present: Callable[[ManifestRow], bool]
) -> list[int]:
    """Return files and bytes in all, there, to fetch; files of unknown size; rows left out."""
    there = [row for row in rows if present(row)]
    names = {row.granule for row in there}
    missing = [row for row in rows if row.granule not in names]
    counts: list[int] = []
    for some in (rows, there, missing):
        counts += [len(some), sum(row.size_bytes or 0 for row in some)]
    return [*counts, sum(row.size_bytes is None for row in rows), left_out]


def _show(numbers: Sequence[int]) -> list[str]:
    """Return the numbers of :func:`_count` as text, bytes in GB."""
    return [
        f"{number / BYTES_PER_GB:.2f}" if i in (1, 3, 5) else str(number)
        for i, number in enumerate(numbers)
    ]
