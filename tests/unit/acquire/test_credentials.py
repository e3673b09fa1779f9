"""Where credentials come from, what is said where there are none, and the sessions they open."""

import logging
import threading

import earthaccess
import pytest
import requests
from earthaccess.exceptions import LoginAttemptFailure
from requests.adapters import BaseAdapter

from cryofuse.acquire import credentials
from cryofuse.acquire.credentials import (
    LoginUnavailableError,
    PlainRedirectError,
    Sessions,
    find_credentials,
    log_in,
    name_credentials,
)
from cryofuse.config import SystemSettings
from cryofuse.logs import UserError
from tests.archive import LoopbackArchive, Response

TOKEN = "token-of-the-tests-that-nobody-may-see"
NAME = "ATL06_20190101000000_00010203_007_01.h5"
VARIABLES = ("EARTHDATA_TOKEN", "EARTHDATA_USERNAME", "EARTHDATA_PASSWORD")


@pytest.fixture(autouse=True)
def nothing_known(tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def write_netrc(tmp_path, text):
    path = tmp_path / "netrc"
    path.write_text(text)
    path.chmod(0o600)
    return {"NETRC": str(path)}


def refused(known, **options):
    with pytest.raises(UserError) as caught:
        find_credentials(known, **options)
    text = str(caught.value)
    assert "\n" not in text and "hidden" not in text
    return text


def test_where_they_are_found(tmp_path):
    assert find_credentials({"EARTHDATA_TOKEN": "t"}) == "environment"
    pair = {"EARTHDATA_USERNAME": "u", "EARTHDATA_PASSWORD": "p"}
    assert find_credentials(pair) == "environment"
    line = "machine urs.earthdata.nasa.gov login u password p\n"
    known = write_netrc(tmp_path, line)
    assert find_credentials(known) == "netrc"
    (tmp_path / ".netrc").write_text(line)
    (tmp_path / ".netrc").chmod(0o600)
    assert find_credentials({}) == "netrc"
    assert "machine localhost" in refused(known, login_host="localhost")


def test_missing_ones_are_named(tmp_path):
    known = write_netrc(tmp_path, "machine elsewhere.org login u password hidden\n")
    for found in (known, {}, {"EARTHDATA_USERNAME": "u"}, {"EARTHDATA_TOKEN": ""}):
        text = refused(found)
        for name in ("netrc", "urs.earthdata.nasa.gov", *VARIABLES):
            assert name in text
    assert str(tmp_path / ".netrc") in refused({})


@pytest.mark.parametrize("text", ["nonsense hidden\n", "machine\n"])
def test_what_is_no_netrc_file(tmp_path, text):
    known = write_netrc(tmp_path, text)
    assert f"{known['NETRC']} is not a netrc file" in refused(known)


def test_a_netrc_file_of_other_bytes(tmp_path):
    known = write_netrc(tmp_path, "")
    (tmp_path / "netrc").write_bytes(b"\xff\xfehidden\x00\x81")
    assert known["NETRC"] in refused(known)


def test_a_netrc_file_that_cannot_be_read(tmp_path, monkeypatch):
    known = write_netrc(tmp_path, "machine urs.earthdata.nasa.gov login u password hidden\n")

    def deny(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(credentials.netrc, "netrc", deny)
    assert "cannot be read (Permission denied)" in refused(known)


@pytest.mark.parametrize("token", ["hidden\n", " hidden", "Bearer hidden", "hiddén", "hidd\0en"])
def test_a_token_that_no_header_can_carry(token):
    assert "EARTHDATA_TOKEN" in refused({"EARTHDATA_TOKEN": token})


def test_they_are_named():
    pair = {"EARTHDATA_USERNAME": "u", "EARTHDATA_PASSWORD": "hidden"}
    assert name_credentials(pair | {"EARTHDATA_TOKEN": "hidden"}) == "variable EARTHDATA_TOKEN"
    assert name_credentials(pair) == "variables EARTHDATA_USERNAME and EARTHDATA_PASSWORD"
    assert name_credentials({"NETRC": "/home/n"}) == "file /home/n"
    assert name_credentials({}).endswith("/.netrc")


def test_without_any_nothing_is_asked(tmp_path):
    with pytest.raises(UserError, match="machine urs.earthdata.nasa.gov .* EARTHDATA_TOKEN"):
        log_in()
    with LoopbackArchive(tmp_path) as archive:
        system = SystemSettings(**archive.system())
    with pytest.raises(UserError, match="machine localhost"):
        log_in(system)


# ---------------------------------------------------------------------- log-in


def json_error():
    answer = requests.Response()
    answer._content = b"<html>down for maintenance</html>"
    try:
        answer.json()
    except requests.exceptions.RequestException as error:
        return error


REFUSAL = 'Authentication failed with:\n{"error":"invalid_credentials"}'


@pytest.mark.parametrize(
    ("error", "later", "said"),
    [
        (requests.exceptions.ConnectionError("hidden"), True, "does not answer"),
        (requests.exceptions.ReadTimeout("hidden"), True, "does not answer"),
        (json_error(), True, "does not answer"),
        (
            LoginAttemptFailure("with:\n<html>503 Service Temporarily Unavailable hidden"),
            True,
            "out of order",
        ),
        (LoginAttemptFailure(REFUSAL), False, "EARTHDATA_USERNAME and EARTHDATA_PASSWORD"),
        (ValueError("hidden"), False, "EARTHDATA_USERNAME and EARTHDATA_PASSWORD"),
    ],
)
def test_a_log_in_that_fails_is_one_line(monkeypatch, error, later, said):
    monkeypatch.setenv("EARTHDATA_USERNAME", "u")
    monkeypatch.setenv("EARTHDATA_PASSWORD", "hidden")

    def fail(self, **options):
        raise error

    monkeypatch.setattr(earthaccess.Auth, "login", fail)
    with pytest.raises(UserError, match=said) as caught:
        log_in()
    assert isinstance(caught.value, LoginUnavailableError) == later
    text = str(caught.value)
    assert "\n" not in text and "hidden" not in text and "urs.earthdata.nasa.gov" in text
    # Nothing of what the library was told shows in a traceback either.
    assert caught.value.__suppress_context__


def test_a_token_needs_no_log_in_host(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)

    def deny(*arguments, **options):
        raise AssertionError("a request was made")

    monkeypatch.setattr(requests.Session, "send", deny)
    sessions = Sessions(log_in())
    assert sessions.authenticated and not Sessions().authenticated
    assert sessions.get().headers["Authorization"] == f"Bearer {TOKEN}"
    assert "Authorization" not in Sessions().get().headers
    sessions.close()
    assert TOKEN not in caplog.text


# ---------------------------------------------------------------------- sessions


def test_each_thread_has_its_session_until_the_log_in_is_renewed(monkeypatch):
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    sessions = Sessions(log_in())
    mine, found = sessions.get(), []
    thread = threading.Thread(target=lambda: found.append(sessions.get()))
    thread.start()
    thread.join()
    assert sessions.get() is mine and found[0] is not mine
    monkeypatch.setenv("EARTHDATA_TOKEN", "another-token")
    age = sessions.age
    sessions.renew(age)
    assert sessions.age == age + 1 and sessions.get() is not mine
    assert sessions.get().headers["Authorization"] == "Bearer another-token"
    renewed = sessions.get()
    sessions.renew(age)  # another thread saw the old one refused as well
    assert sessions.age == age + 1 and sessions.get() is renewed
    closed = []
    monkeypatch.setattr(requests.Session, "close", lambda session: closed.append(session))
    sessions.close()
    assert {id(one) for one in closed} == {id(one) for one in (mine, found[0], renewed)}


@pytest.mark.parametrize("line", ["machine 127.0.0.1 login u", "default login anonymous"])
def test_a_netrc_line_does_not_replace_the_token(tmp_path, monkeypatch, line):
    monkeypatch.setenv("NETRC", write_netrc(tmp_path, f"{line} password hidden\n")["NETRC"])
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    (tmp_path / NAME).write_bytes(b"content")
    with LoopbackArchive(tmp_path, tokens=(TOKEN,)) as archive:
        archive.add_collection("ATL06", "007", [NAME])
        sessions = Sessions(log_in())
        with sessions.get().get(archive.url(NAME), timeout=5) as answer:
            assert (answer.status_code, answer.content) == (200, b"content")
        sessions.close()
        sent = []

        def answer_plain(request):
            sent.append(request.headers.get("Authorization"))
            return Response(200, {}, b"plain")

        archive.add_route("GET", "/plain", answer_plain)
        plain = Sessions()
        with plain.get().get(f"{archive.base_url}/plain", timeout=5) as answer:
            assert answer.content == b"plain"
        plain.close()
    assert sent == [None]


class Web(BaseAdapter):
    """A transport that leads on from host to host, and keeps what each was sent."""

    def __init__(self, moved):
        super().__init__()
        self.moved, self.seen = moved, []

    def send(self, request, **options):
        self.seen.append((request.url, request.headers.get("Authorization")))
        answer = requests.Response()
        answer.request, answer.url, answer.status_code = request, request.url, 200
        answer._content, answer.connection = b"content", self
        if request.url in self.moved:
            answer.status_code = 302
            answer.headers["Location"] = self.moved[request.url]
        return answer

    def close(self):
        pass


def follow(session, *places):
    """Follow redirects from place to place; return what each was sent."""
    web = Web(dict(zip(places, places[1:], strict=False)))
    for scheme in ("https://", "http://"):
        session.mount(scheme, web)
    try:
        session.get(places[0])
    finally:
        session.close()
    return web.seen


@pytest.mark.parametrize("line", ["machine cdn.example login u", "default login anonymous"])
@pytest.mark.parametrize("known", ["token", "password", "public"])
def test_a_redirect_carries_nothing_of_the_netrc_file(tmp_path, monkeypatch, line, known):
    text = f"{line} password hidden\nmachine data.example login v password hidden\n"
    monkeypatch.setenv("NETRC", write_netrc(tmp_path, text)["NETRC"])
    auth = earthaccess.Auth()
    auth.token = {"access_token": TOKEN}
    if known == "password":
        auth.username, auth.password = "u", "hidden"
    sessions = Sessions(None if known == "public" else auth)
    places = ["https://data.example/1", "https://data.example/2", "https://cdn.example/signed"]
    seen = follow(sessions.get(), *places)
    token = None if known == "public" else f"Bearer {TOKEN}"
    assert seen == list(zip(places, [token, token, None], strict=True))


@pytest.mark.parametrize("carrying", [True, False])
def test_no_redirect_leads_from_https_to_http_but_on_loopback(carrying):
    auth = earthaccess.Auth()
    auth.token = {"access_token": TOKEN}

    def session():
        return Sessions(auth if carrying else None).get()

    for host in ("data.example", "other.example", "127.0.0.1.example", "10.0.0.1"):
        places = ["https://data.example/1", f"http://{host}/2"]
        with pytest.raises(PlainRedirectError):
            follow(session(), *places)
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000"):
        places = ["https://data.example/1", f"http://{host}/2"]
        assert follow(session(), *places)[1] == (places[1], None)
    places = ["http://data.example/1", "http://other.example/2", "https://other.example/3"]
    assert len(follow(session(), *places)) == 3
