"""Earthdata Login: accounts, tokens and sessions, and the host that gives them out over TLS."""

from __future__ import annotations

import base64
import itertools
import re
import ssl
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import quote, urlencode

from tests.archive.server import Request, Response

HOST = "localhost"
PORT = 443
_COOKIE = "accessToken"
_TOKEN_DAYS = 60


class LoginHostError(RuntimeError):
    """The log-in host cannot be served on this machine."""


class Login:
    """Who is known, and which tokens and sessions are good at the moment.

    Parameters
    ----------
    users
        Password of each user.
    tokens
        Tokens that are good from the start.
    """

    def __init__(self, users: Mapping[str, str], tokens: Iterable[str]) -> None:
        self._users = dict(users)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._tokens = set(tokens)
        self._issued: dict[str, str] = {}
        self._sessions: set[str] = set()
        self._codes: set[str] = set()
        self.issued = 0

    @property
    def tokens_issued(self) -> list[str]:
        """Return the tokens that log-ins brought and that still hold."""
        return list(self._issued.values())

    def expire_tokens(self, sessions: bool = True) -> None:
        """Let all tokens (and sessions) given out so far be good no more."""
        with self._lock:
            self._tokens.clear()
            self._issued.clear()
            if sessions:
                self._sessions.clear()

    def add_token(self, token: str) -> None:
        """Let a token be good from now on."""
        with self._lock:
            self._tokens.add(token)

    def recognise(self, headers: Message) -> tuple[str | None, bool]:
        """Return how a request shows who sent it, and whether it showed a bad token."""
        cookies = SimpleCookie(headers.get("Cookie", ""))
        sent = re.fullmatch(r"Bearer (\S+)", headers.get("Authorization", ""))
        with self._lock:
            if sent and sent[1] in self._tokens:
                return "bearer", False
            if _COOKIE in cookies and cookies[_COOKIE].value in self._sessions:
                return "cookie", bool(sent)
        return None, bool(sent)

    def answer(self, request: Request) -> Response:
        """Answer a request to the log-in host."""
        user = self._user(request.headers)
        if user is None:
            refusal = {"error": "invalid_credentials", "error_description": "Invalid user"}
            challenge = {"WWW-Authenticate": 'Basic realm="Please enter your credentials"'}
            return Response.of_json(refusal, 401, challenge)
        if request.path == "/api/users/find_or_create_token" and request.method == "POST":
            return self._token(user)
        if request.path == "/oauth/authorize":
            back = request.query.get("redirect_uri", [""])[0]
            if not back:
                return Response.of_json({"error": "invalid_request"}, 400)
            code = self._new("code")
            with self._lock:
                self._codes.add(code)
            state = request.query.get("state", [""])[0]
            return Response.redirect(f"{back}?{urlencode({'code': code, 'state': state})}")
        if request.path == "/profile":
            return Response.of_json({"uid": user})
        return Response.of_json({"error": "not_found"}, 404)

    def redirection(self, data_url: str, path: str) -> Response:
        """Send a client that is not known to the log-in host."""
        asked = {
            "client_id": "loopback",
            "response_type": "code",
            "redirect_uri": f"{data_url}/login",
            "state": path,
        }
        return Response.redirect(f"https://{HOST}/oauth/authorize?{urlencode(asked)}")

    def arrival(self, request: Request) -> Response:
        """Take a client back from the log-in host: its code becomes a session."""
        code = request.query.get("code", [""])[0]
        with self._lock:
            known = code in self._codes
            self._codes.discard(code)
        if not known:
            return Response(401)
        session = self._new("session")
        with self._lock:
            self._sessions.add(session)
        path = quote(request.query.get("state", ["/"])[0], safe="/%")
        cookie = f"{_COOKIE}={session}; Path=/; HttpOnly"
        return Response.redirect(path, {"Set-Cookie": cookie})

    def _new(self, kind: str) -> str:
        return f"loopback-{kind}-{next(self._numbers):06d}"

    def _token(self, user: str) -> Response:
        with self._lock:
            if user not in self._issued:
                self._issued[user] = self._new("token")
                self._tokens.add(self._issued[user])
                self.issued += 1
            token = self._issued[user]
        expires = (datetime.now(UTC) + timedelta(days=_TOKEN_DAYS)).strftime("%m/%d/%Y")
        answer = {"access_token": token, "token_type": "Bearer", "expiration_date": expires}
        return Response.of_json(answer)

    def _user(self, headers: Message) -> str | None:
        sent = re.fullmatch(r"Basic (\S+)", headers.get("Authorization", ""))
        if not sent:
            return None
        user, _, password = base64.b64decode(sent[1]).decode().partition(":")
        return user if self._users.get(user) == password else None


def make_certificate(bundle: Path) -> ssl.SSLContext:
    """Return a TLS context for the log-in host and write the authority that vouches for it."""
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, "127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(bundle))
    return context
