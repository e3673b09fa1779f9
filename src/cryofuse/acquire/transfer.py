"""Transfers that can be left alone: bounded, polite, resumed, and checked before a file counts.

A file arrives under a temporary name beside its place. It gets its name when its size and
checksum are those that were announced and its content is what its name says. What stays bad is
put aside with the reason.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TextIO

import requests
import tenacity
import urllib3

from cryofuse.acquire.catalogue import asked_wait_s
from cryofuse.acquire.credentials import (
    LoginUnavailableError,
    PlainRedirectError,
    Sessions,
    name_credentials,
)
from cryofuse.acquire.plan import HEX_DIGITS, PLAIN_NAME, link_problem
from cryofuse.config import DownloadSettings
from cryofuse.logs import UserError
from cryofuse.tables import written

_LOG = logging.getLogger(__name__)
#: Read at a time: what a broken connection loses at most.
_BLOCK_BYTES = 1 << 18
#: Pause between looks for a free place among the transfers of all jobs (s).
_SLOT_PAUSE_S = 0.05
_NAME_LOCKS = 256
#: Files in a row that the archive refuses to everybody before the log-in itself is doubted.
_REFUSALS = 3
#: Answers that another try may change; RFC 9110 and RFC 6585.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
#: What a file must be: a path with the temporary name, and the name it is to have; a problem in
#: one line, or None.
Inspector = Callable[[Path, str], str | None]


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: its name in the folder, its address, and what is announced of it."""

    name: str
    url: str
    size_bytes: int | None = None
    checksum: str | None = None
    checksum_algorithm: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a file: its path, or the reason why there is none; bytes transferred."""

    wanted: Wanted
    path: Path | None
    reason: str | None
    received_bytes: int = 0


class Progress(Protocol):
    """Where transfers tell what they did."""

    def at(self, name: str, size_bytes: int, fetched: bool = True) -> None:
        """Note how much of a file is there, and whether it was fetched now."""
        ...

    def done(self, name: str) -> None:
        """Note that a file is there, or given up."""
        ...


class PassingError(Exception):
    """A failure that another try may mend, with the wait the server asks for (s)."""

    def __init__(self, text: str, wait_s: float | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class LastingError(Exception):
    """A failure that stays."""


class RefusedError(LastingError):
    """The archive does not take the credentials for a file."""


class StoppedError(Exception):
    """The run is being stopped: transfers end where they are."""


def describe(error: BaseException) -> str:
    """Return an error in one line, without the query part of addresses (signatures stand there)."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"\?\S+", "?…", text)[:300]


def is_safe_name(name: str) -> bool:
    """Return whether a file name is one part of a path, of plain characters, and not hidden."""
    return PLAIN_NAME.fullmatch(name) is not None


def check_announced(path: Path, wanted: Wanted) -> str | None:
    """Return how a file differs in size or checksum from what was announced, None if it does not.

    A checksum of an unknown algorithm is passed over.
    """
    size = path.stat().st_size
    if wanted.size_bytes is not None and size != wanted.size_bytes:
        return f"it has {size} bytes, {wanted.size_bytes} were announced"
    if wanted.checksum and wanted.checksum_algorithm:
        digest = file_digest(path, wanted.checksum_algorithm)
        if digest is not None and digest != wanted.checksum.lower():
            return f"its {wanted.checksum_algorithm} is not the one announced"
    return None


def file_digest(path: Path, algorithm: str) -> str | None:
    """Return the hexadecimal digest of a file, None for an algorithm that is not known."""
    name = algorithm.lower().replace("-", "")
    if name not in HEX_DIGITS:
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(
            stream, lambda: hashlib.new(name, usedforsecurity=False)
        ).hexdigest()


def _try_lock(stream: TextIO) -> bool:
    """Lock an open file unless another holds it; the lock ends with the process.

    On a file system without locks every try succeeds: bounds then hold for each job alone.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise
    return True


@contextmanager
def _locked(path: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Hold a file's lock; the file stays."""
    with path.open("w") as stream:
        while not _try_lock(stream):
            wait()
        yield


class Slots:
    """Places for transfers, shared by all jobs that use one folder.

    Parameters
    ----------
    folder
        Folder of the locks.
    count
        Most transfers at the same time.
    """

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = [folder / f"slot-{number}.lock" for number in range(count)]

    @contextmanager
    def take(self, wait: Callable[[], None]) -> Iterator[None]:
        """Wait for a place and hold it."""
        while True:
            for path in self._paths:
                with path.open("w") as stream:
                    if _try_lock(stream):
                        yield
                        return
            wait()


class Transfers:
    """Files from an archive into a cache, one or many.

    Parameters
    ----------
    settings
        Tries, waits, bound, hosts; ``cache_dir`` holds the locks and what was put aside.
    sessions
        Sessions, with or without a log-in.
    inspect
        What a file must be besides size and checksum.
    progress
        Told of bytes and files.
    """

    def __init__(
        self,
        settings: DownloadSettings,
        sessions: Sessions,
        inspect: Inspector,
        progress: Progress | None = None,
    ) -> None:
        self._settings, self._sessions, self._inspect = settings, sessions, inspect
        self._progress = progress
        self._cache = Path(settings.cache_dir)
        self._locks = self._cache / ".locks"
        self._slots = Slots(self._locks, settings.parallel)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._refused_in_row, self._refusal = 0, ""

    # ------------------------------------------------------------------ many files

    def fetch_all(
        self, files: Sequence[Wanted], folder: Path, max_failed_share: float, of: int | None = None
    ) -> list[Outcome]:
        """Fetch files side by side; return an outcome for each, in their order.

        Parameters
        ----------
        files
            Files, of distinct names.
        folder
            Where they go.
        max_failed_share
            Share of the files that may fail.
        of
            Number of files that the share is taken of (default: of these); more where some
            need not be fetched.

        Raises
        ------
        UserError
            As soon as more than that share has failed, with the list; or as the archive takes
            the credentials for no file any more. Files that are complete stay.
        """
        failed: list[Outcome] = []
        count = len(files) if of is None else of

        def one(wanted: Wanted) -> Outcome:
            try:
                outcome = self.fetch(wanted, folder)
            except BaseException:
                self._stop.set()
                raise
            if outcome.reason is not None:
                with self._lock:
                    failed.append(outcome)
                    if len(failed) > max_failed_share * count:
                        self._stop.set()
            return outcome

        outcomes: list[Outcome] = []
        problem: Exception | None = None
        with ThreadPoolExecutor(self._settings.parallel) as pool:
            jobs = [pool.submit(one, wanted) for wanted in files]
            try:
                for job in jobs:
                    try:
                        outcomes.append(job.result())
                    except StoppedError:
                        continue
                    except Exception as error:  # noqa: BLE001  raised again below
                        problem = problem or error
            except BaseException:
                self._stop.set()
                raise
        if problem is not None:
            raise problem
        if len(failed) > max_failed_share * count:
            raise UserError(_too_many(failed, count, max_failed_share))
        self._check_log_in(outcomes)
        return outcomes

    # ------------------------------------------------------------------ one file

    def fetch(self, wanted: Wanted, folder: Path) -> Outcome:
        """Fetch a file unless it is there already and is as announced.

        Raises
        ------
        UserError
            If the archive has refused several files in a row, with fresh credentials too.
        StoppedError
            If the run was stopped meanwhile.
        """
        self._pause(0)
        problem = self._problem_of_request(wanted)
        if problem is not None:
            outcome = Outcome(wanted, None, problem)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            # Two jobs never fetch one file at a time; a few names share a lock.
            lock = self._locks / f"name-{zlib.crc32(wanted.name.encode()) % _NAME_LOCKS}.lock"
            with _locked(lock, lambda: self._pause(_SLOT_PAUSE_S)):
                outcome = self._fetch_locked(wanted, folder)
        if self._progress:
            self._progress.done(wanted.name)
        return outcome

    def _problem_of_request(self, wanted: Wanted) -> str | None:
        """Return why a file is not even asked for, None if it is."""
        if not is_safe_name(wanted.name):
            return f"{wanted.name!r} is no name for a file here"
        if self._sessions.authenticated:
            problem = link_problem(wanted.url, self._settings.trusted_hosts)
            if problem is not None:
                return f"{problem}; nothing was sent"
        return None

    def _fetch_locked(self, wanted: Wanted, folder: Path) -> Outcome:
        target, part = folder / wanted.name, _Part(folder, wanted.name)
        if target.is_file():
            if self._problem(target, wanted) is None:
                part.drop()
                self._tell(wanted, target.stat().st_size, fetched=False)
                return Outcome(wanted, target, None)
            part.take_bad(target)
        received = [0]
        try:
            with self._slots.take(lambda: self._pause(_SLOT_PAUSE_S)):
                self._try_repeatedly(wanted, part, received)
        except (PassingError, LastingError) as error:
            reason = describe(error)
            if isinstance(error, RefusedError) and self._sessions.authenticated:
                reason += f" (credentials: {name_credentials()})"
            # What a broken connection or a refusal left is gone on with by the next run.
            self._put_aside(wanted, part, reason, isinstance(error, (PassingError, RefusedError)))
            if isinstance(error, RefusedError):
                self._count_refusal(reason)
            _LOG.warning("%s: %s", wanted.name, reason)
            return Outcome(wanted, None, reason, received[0])
        os.replace(part.path, target)
        part.drop()
        self._forget_aside(wanted)
        with self._lock:
            self._refused_in_row = 0
        return Outcome(wanted, target, None, received[0])

    def _try_repeatedly(self, wanted: Wanted, part: _Part, received: list[int]) -> None:
        """Try until the file is complete and right, or no further try is allowed."""
        settings = self._settings
        backoff = tenacity.wait_exponential_jitter(
            multiplier=settings.backoff_s, max=settings.max_wait_s, jitter=settings.backoff_s
        )

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.wait_s if isinstance(error, PassingError) else None
            pause = max(backoff(state), asked or 0.0)
            _LOG.info(
                "%s, try %d of %d: %s; again in %.1f s",
                wanted.name,
                state.attempt_number,
                settings.tries,
                describe(error) if error else "",
                min(pause, settings.max_wait_s),
            )
            return min(pause, settings.max_wait_s)

        tenacity.Retrying(
            stop=tenacity.stop_after_attempt(settings.tries),
            wait=wait,
            sleep=self._pause,
            retry=tenacity.retry_if_exception_type(PassingError),
            reraise=True,
        )(self._try_with_log_in, wanted, part, received)

    def _try_with_log_in(self, wanted: Wanted, part: _Part, received: list[int]) -> None:
        """Try once, and once more with a fresh log-in where the old one is refused."""
        age = self._sessions.age
        try:
            self._try(wanted, part, received)
        except RefusedError:
            if not self._sessions.authenticated:
                raise
            try:
                self._sessions.renew(age)
            except LoginUnavailableError as error:
                raise PassingError(str(error)) from None
            self._try(wanted, part, received)

    def _try(self, wanted: Wanted, part: _Part, received: list[int]) -> None:
        """Bring the file to its end under its temporary name, and check it."""
        if not (wanted.size_bytes is not None and part.size() == wanted.size_bytes):
            self._receive(wanted, part, received)
        problem = self._problem(part.path, wanted)
        if problem is not None:
            if wanted.size_bytes is not None and part.size() < wanted.size_bytes:
                # A body that ended early is gone on with, not fetched again.
                raise PassingError(problem)
            part.set_aside()
            self._tell(wanted, 0)
            raise PassingError(problem)

    def _receive(self, wanted: Wanted, part: _Part, received: list[int]) -> None:
        """Stream the rest of a file to its temporary name."""
        if wanted.size_bytes is not None and part.size() > wanted.size_bytes:
            part.drop()
        headers = {"Accept-Encoding": "identity"}
        validator = part.validator()
        if validator:
            headers |= {"Range": f"bytes={part.size()}-", "If-Range": validator}
        try:
            with self._sessions.get().get(
                wanted.url,
                headers=headers,
                stream=True,
                timeout=(self._settings.timeout_s, self._settings.timeout_s),
            ) as response:
                if _is_whole(response, part.size()):
                    return
                append = self._judge(response, part)
                if not append:
                    part.begin(response.headers.get("ETag"))
                size = part.size()
                self._tell(wanted, size, fetched=False)
                with part.path.open("ab") as stream:
                    for block in response.iter_content(_BLOCK_BYTES):
                        stream.write(block)
                        size += len(block)
                        received[0] += len(block)
                        self._tell(wanted, size)
                        self._pause(0)
                        if wanted.size_bytes is not None and size > wanted.size_bytes:
                            break
                    stream.flush()
                    os.fsync(stream.fileno())
        except PlainRedirectError as error:
            raise LastingError(f"its redirect is not followed: {error}") from None
        # A redirect to a malformed address leaves requests as a plain ValueError.
        except (
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            ValueError,
        ) as error:
            raise PassingError(f"the connection failed ({_cause(error)})") from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"{part.path.parent} is full; what came stays, and the same command goes on"
            ) from None

    def _judge(self, response: requests.Response, part: _Part) -> bool:
        """Return whether an answer goes on where the part ends; raise where it is no file."""
        status = response.status_code
        if status in (401, 403):
            raise RefusedError(_refusal(response))
        if status in (404, 410):
            raise LastingError(
                f"{status}: it is not in the archive (any more); remove the manifest and plan "
                "again to have its successor"
            )
        if status == 416:
            part.drop()
            raise PassingError("416: the archive holds less than the part that came before")
        if status in _PASSING:
            raise PassingError(
                f"the archive answered {status}", asked_wait_s(response.headers.get("Retry-After"))
            )
        if status not in (200, 206):
            raise LastingError(f"the archive answered {status}")
        if _is_page(response):
            raise RefusedError("an HTML page came in place of the file (a log-in page?)")
        if status == 200:
            return False
        begin = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        mark = response.headers.get("ETag")
        if begin is None or int(begin[1]) != part.size() or mark not in (None, part.validator()):
            part.drop()
            raise PassingError("the archive sent another part than the one asked for")
        return True

    def _problem(self, path: Path, wanted: Wanted) -> str | None:
        """Return in one line what is wrong with a complete file, None if nothing is."""
        return check_announced(path, wanted) or self._inspect(path, wanted.name)

    # ------------------------------------------------------------------ what goes wrong

    def _put_aside(self, wanted: Wanted, part: _Part, reason: str, resumable: bool) -> None:
        """Leave the reason, and the bytes that were wrong, where a person can look."""
        folder = self._cache / "quarantine"
        folder.mkdir(parents=True, exist_ok=True)
        part.move_bad(folder / wanted.name)
        if not resumable:
            part.drop()
        note = {
            "file": wanted.name,
            "url": wanted.url.split("?")[0],
            "reason": reason,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_atomic(folder / f"{wanted.name}.json", json.dumps(note, indent=1) + "\n")

    def _forget_aside(self, wanted: Wanted) -> None:
        for name in (wanted.name, f"{wanted.name}.json"):
            (self._cache / "quarantine" / name).unlink(missing_ok=True)

    def _count_refusal(self, reason: str) -> None:
        """Doubt the log-in itself where file after file is refused."""
        with self._lock:
            self._refused_in_row += 1
            self._refusal = reason
            doubted = self._refused_in_row >= _REFUSALS
        if doubted and self._sessions.authenticated:
            raise UserError(_no_log_in(reason))

    def _check_log_in(self, outcomes: Sequence[Outcome]) -> None:
        """Make sure that the last files were refused for themselves, not for the log-in's end."""
        if not (self._refused_in_row and self._sessions.authenticated):
            return
        came = next((outcome for outcome in outcomes if outcome.path is not None), None)
        if came is None or self._is_refused(came.wanted.url):
            raise UserError(_no_log_in(self._refusal))

    def _is_refused(self, url: str) -> bool:
        """Return whether the archive refuses a file by now, of which one byte is asked."""
        try:
            with self._sessions.get().get(
                url,
                headers={"Range": "bytes=0-0"},
                stream=True,
                timeout=self._settings.timeout_s,
            ) as response:
                return response.status_code in (401, 403) or _is_page(response)
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, ValueError):
            return False

    def _tell(self, wanted: Wanted, size_bytes: int, fetched: bool = True) -> None:
        if self._progress:
            self._progress.at(wanted.name, size_bytes, fetched)

    def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until the run is stopped."""
        if self._stop.wait(seconds) if seconds else self._stop.is_set():
            raise StoppedError


class _Part:
    """A file on its way: its bytes so far, and the archive's mark of the version they are of."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f".{name}.part"
        self._mark = folder / f".{name}.etag"
        # Of one name, so that what a kill leaves is found again.
        self._new_mark = folder / f".{name}.etag.tmp"
        self._bad = folder / f".{name}.bad"

    def size(self) -> int:
        """Return how many bytes are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def validator(self) -> str | None:
        """Return the mark under which the rest may be asked for."""
        if not self.size() or not self._mark.is_file():
            return None
        mark = self._mark.read_text().strip()
        # A weak mark does not promise the same bytes (RFC 9110, 13.1.5).
        return mark if mark and not mark.startswith("W/") else None

    def begin(self, mark: str | None) -> None:
        """Begin anew, and remember the mark before the bytes that it stands for."""
        self.path.unlink(missing_ok=True)
        if mark and mark.isprintable() and mark.isascii():
            self._new_mark.write_text(mark, encoding="utf-8")
            os.replace(self._new_mark, self._mark)
        else:
            self._mark.unlink(missing_ok=True)

    def set_aside(self) -> None:
        """Keep bytes that proved wrong apart, so that the next try starts anew."""
        self.take_bad(self.path)
        self._mark.unlink(missing_ok=True)

    def take_bad(self, path: Path) -> None:
        """Take a file that is not what it should be out of its place."""
        os.replace(path, self._bad)

    def move_bad(self, target: Path) -> None:
        """Hand over the bytes that proved wrong, if any."""
        if self._bad.is_file():
            os.replace(self._bad, target)

    def drop(self) -> None:
        """Remove everything."""
        for path in (self.path, self._mark, self._new_mark, self._bad):
            path.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a small text file under a temporary name, then rename it."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _is_whole(response: requests.Response, size: int) -> bool:
    """Return whether the archive says that nothing is left to send after so many bytes."""
    whole = f"bytes */{size}"
    return bool(size) and (response.status_code, response.headers.get("Content-Range")) == (
        416,
        whole,
    )


def _refusal(response: requests.Response) -> str:
    """Return a refusal in words; the licence of a collection must be accepted by hand."""
    licence = (
        "eula" in response.raw.read(4096, decode_content=True).decode("utf-8", "replace").lower()
    )
    return f"the archive answered {response.status_code}" + (
        ": the data's licence (EULA) has to be accepted in the Earthdata profile" if licence else ""
    )


def _is_page(response: requests.Response) -> bool:
    return "html" in response.headers.get("Content-Type", "").lower()


def _no_log_in(reason: str) -> str:
    return (
        f"the archive refuses the log-in: {reason}; make a new token, or accept the data's "
        "licence, at the log-in host; what came stays, and the same command goes on"
    )


def _cause(error: BaseException) -> str:
    """Return what ended a connection, in few words."""
    text = describe(error)
    if "timed out" in text.lower():
        return "no answer within the time-out"
    if "IncompleteRead" in text:
        return "the body ended early"
    if "reset" in text.lower():
        return "it was reset"
    return type(error).__name__


def _too_many(failed: Sequence[Outcome], count: int, share: float) -> str:
    lines = [
        f"{len(failed)} of {count} files could not be had, more than download: max_failed_share "
        f"({share:g}); what came stays, and the same command goes on; the reasons:"
    ]
    lines += [
        f"  {outcome.wanted.name}: {outcome.reason}"
        for outcome in sorted(failed, key=lambda outcome: outcome.wanted.name)
    ]
    return "\n".join(lines)
