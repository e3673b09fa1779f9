"""Log-in to Earthdata, and the sessions that carry it.

Credentials are read from the environment or a netrc file when a session is made, on the machine
where Snakemake runs. They are never an argument, a parameter or a line of a log.
"""

from __future__ import annotations

import logging
import netrc
import os
import re
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

from cryofuse.config import SystemSettings, is_loopback
from cryofuse.logs import UserError

if TYPE_CHECKING:
    from earthaccess import Auth

#: Where Earthdata Login is: the machine named in a netrc file.
LOGIN_HOST = "urs.earthdata.nasa.gov"
#: What a header may carry; anything else would be refused there, with the token in the message.
_TOKEN = re.compile(r"[!-~]+")
#: What a host or the gateway before it says that cannot answer now; RFC 9110 and RFC 6585.
_OUT_OF_ORDER = re.compile(
    "unavailable|bad gateway|gateway time-?out|internal server error|too many requests", re.I
)
_ACCOUNT = "free account and tokens: https://urs.earthdata.nasa.gov"


class LoginUnavailableError(UserError):
    """The log-in host does not answer; it may later."""


def find_credentials(
    environment: Mapping[str, str] | None = None, login_host: str = LOGIN_HOST
) -> str:
    """Return where the log-in finds credentials: ``environment`` or ``netrc``.

    Parameters
    ----------
    environment
        Variables (default: those of the process).
    login_host
        Machine whose line counts in the netrc file.

    Raises
    ------
    UserError
        If there are none, naming the file and the variables.
    """
    known = os.environ if environment is None else environment
    token = known.get("EARTHDATA_TOKEN")
    if token:
        if not _TOKEN.fullmatch(token):
            raise UserError(
                "variable EARTHDATA_TOKEN: expected a token alone, found blanks, line ends or "
                "other characters in it; set it anew"
            )
        return "environment"
    if known.get("EARTHDATA_USERNAME") and known.get("EARTHDATA_PASSWORD"):
        return "environment"
    path = Path(known.get("NETRC") or Path.home() / ".netrc")
    try:
        if path.is_file() and login_host in netrc.netrc(str(path)).hosts:
            return "netrc"
    except netrc.NetrcParseError as error:
        raise UserError(f"{path} is not a netrc file (line {error.lineno})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a netrc file (it is no text)") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); chmod 600 it") from None
    raise UserError(
        f"no Earthdata credentials: write `machine {login_host} login NAME password WORD` into "
        f"{path} (chmod 600), or set EARTHDATA_TOKEN, or EARTHDATA_USERNAME and "
        f"EARTHDATA_PASSWORD ({_ACCOUNT})"
    )


def name_credentials(environment: Mapping[str, str] | None = None) -> str:
    """Return in words which file or variables the credentials in use come from."""
    known = os.environ if environment is None else environment
    if known.get("EARTHDATA_TOKEN"):
        return "variable EARTHDATA_TOKEN"
    if known.get("EARTHDATA_USERNAME") and known.get("EARTHDATA_PASSWORD"):
        return "variables EARTHDATA_USERNAME and EARTHDATA_PASSWORD"
    return f"file {known.get('NETRC') or Path.home() / '.netrc'}"


def log_in(system: SystemSettings | None = None) -> Auth:
    """Log in to Earthdata with the user's own credentials.

    Parameters
    ----------
    system
        Endpoints other than the production system's.

    Raises
    ------
    UserError
        If there are no credentials, or they are refused: one line that says which.
    """
    login_host = system.edl_hostname if system else LOGIN_HOST
    strategy = find_credentials(login_host=login_host)
    import earthaccess

    # The library logs the server's answer to a failed log-in.
    logging.getLogger("earthaccess").setLevel(logging.CRITICAL)
    endpoints = earthaccess.PROD
    if system:
        # The fields are plain text under names of their own, so they pass through unchanged.
        endpoints = type(earthaccess.PROD)(**system.model_dump(exclude={"harmony_url"}))
    auth = earthaccess.Auth()
    try:
        accepted = auth.login(strategy=strategy, system=endpoints).authenticated
    except requests.exceptions.RequestException as error:
        raise LoginUnavailableError(
            f"Earthdata Login at https://{login_host} does not answer "
            f"({type(error).__name__}); try later"
        ) from None
    except earthaccess.exceptions.LoginAttemptFailure as error:
        # The library keeps the answer's text alone, not its status.
        if _OUT_OF_ORDER.search(str(error)):
            raise LoginUnavailableError(
                f"Earthdata Login at https://{login_host} is out of order; try later"
            ) from None
        raise UserError(_refused(login_host)) from None
    except Exception as error:  # noqa: BLE001  the library wraps what any answer brings
        raise UserError(f"{_refused(login_host)} ({type(error).__name__})") from None
    if not accepted:
        raise UserError(_refused(login_host))
    return auth


def _refused(login_host: str) -> str:
    return (
        f"Earthdata Login refused the credentials of the {name_credentials()}; check them at "
        f"https://{login_host}"
    )


class PlainRedirectError(requests.exceptions.RequestException):
    """A redirect leads from https to plain http."""


def guard(session: requests.Session) -> requests.Session:
    """Keep a session from adding credentials of the netrc file, and from leaving https.

    Left to itself the library behind sessions sends the line of a netrc file for any host that is
    asked or led to, or the ``default`` line, in place of the token.

    Parameters
    ----------
    session
        Session that is changed; what it carries already stays.

    Returns
    -------
    requests.Session
        The same.
    """
    session.auth = _leave_as_is
    # The class of a session of a log-in is not ours to derive from.
    session.rebuild_auth = partial(_strip_auth, session)  # type: ignore[method-assign]
    return session


def _leave_as_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _strip_auth(
    session: requests.Session, request: requests.PreparedRequest, response: requests.Response
) -> None:
    """Take the token from a request to where an answer leads, if that is another host.

    Raises
    ------
    PlainRedirectError
        If the request would go from https to plain http, except on loopback.
    """
    asked, aim = response.request.url or "", request.url or ""
    parts = urlsplit(aim)
    if (
        urlsplit(asked).scheme == "https"
        and parts.scheme != "https"
        and not is_loopback(parts.hostname)
    ):
        raise PlainRedirectError(f"it leads from https to {parts.scheme}")
    if session.should_strip_auth(asked, aim):
        request.headers.pop("Authorization", None)


class Sessions:
    """A session for each thread, all of one log-in; without a log-in they carry nothing.

    Parameters
    ----------
    auth
        Log-in.
    system
        Endpoints of a renewed log-in.
    """

    def __init__(self, auth: Auth | None = None, system: SystemSettings | None = None) -> None:
        self._auth, self._system = auth, system
        self._own = threading.local()
        self._lock = threading.Lock()
        self._made: list[requests.Session] = []
        self._age = 0

    @property
    def authenticated(self) -> bool:
        """Return whether the sessions carry credentials."""
        return self._auth is not None

    @property
    def age(self) -> int:
        """Return how often the log-in was renewed."""
        return self._age

    def get(self) -> requests.Session:
        """Return the session of this thread."""
        if getattr(self._own, "age", None) != self._age:
            with self._lock:
                session = self._auth.get_session() if self._auth else requests.Session()
                self._own.session = guard(session)
                self._own.age = self._age
                self._made.append(self._own.session)
        return self._own.session

    def renew(self, age: int) -> None:
        """Log in again, unless another thread has done so since ``age``.

        A token from the environment stays what it is; a name and password bring a new one.
        """
        with self._lock:
            if self._auth is not None and age == self._age:
                self._auth = log_in(self._system)
                self._age += 1

    def close(self) -> None:
        """Close all sessions."""
        for session in self._made:
            session.close()
