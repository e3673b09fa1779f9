"""The loopback archive's log-in host, as earthaccess uses it: needs port 443."""

import warnings

import earthaccess
import pytest
import requests
from earthaccess.exceptions import LoginAttemptFailure
from earthaccess.system import System

from tests.archive import LoginHostError, LoopbackArchive
from tests.conftest import skip_without

NAME = "ATL06_20190101000000_00010203_007_01.h5"
CONTENT = bytes(range(256)) * 400


@pytest.fixture
def archive(tmp_path, monkeypatch):
    (tmp_path / NAME).write_bytes(CONTENT)
    for name in ("EARTHDATA_TOKEN", "EARTHDATA_USERNAME", "EARTHDATA_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    try:
        server = LoopbackArchive(tmp_path, login=True).start()
    except LoginHostError as error:
        skip_without(str(error))
    with server:
        server.add_collection("ATL06", "007", [NAME])
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.ca_bundle))
        yield server


def log_in(archive, strategy="environment"):
    auth = earthaccess.Auth()
    return auth.login(strategy=strategy, system=System(**archive.system()))


def use_password(archive, monkeypatch, password=None):
    monkeypatch.setenv("EARTHDATA_USERNAME", archive.username)
    monkeypatch.setenv("EARTHDATA_PASSWORD", password or archive.password)


def fetch(session, archive, **options):
    with session.get(archive.url(NAME), timeout=10, **options) as answer:
        return answer.status_code, answer.content


def test_user_and_password_give_a_token_that_opens_the_files(archive, monkeypatch):
    use_password(archive, monkeypatch)
    auth = log_in(archive)
    assert auth.authenticated
    with auth.get_session() as session:
        assert fetch(session, archive) == (200, CONTENT)
    assert [one.token for one in archive.requests(NAME)] == ["bearer"]
    assert archive.login.issued == 1


def test_netrc(archive, tmp_path):
    line = f"machine localhost login {archive.username} password {archive.password}\n"
    (tmp_path / "netrc").write_text(line)
    with log_in(archive, "netrc").get_session() as session:
        assert fetch(session, archive) == (200, CONTENT)


def test_a_wrong_password_is_refused(archive, monkeypatch):
    use_password(archive, monkeypatch, "wrong")
    with pytest.raises(LoginAttemptFailure, match="invalid_credentials"):
        log_in(archive)
    assert archive.login.issued == 0


def test_an_expired_token_is_mended_by_the_redirect_and_a_session(archive, monkeypatch):
    use_password(archive, monkeypatch)
    with log_in(archive).get_session() as session:
        archive.expire_tokens()
        assert fetch(session, archive, headers={"Range": "bytes=1000-"}) == (206, CONTENT[1000:])
        assert fetch(session, archive) == (200, CONTENT)
        archive.expire_tokens()  # the session ends with them
        assert fetch(session, archive) == (200, CONTENT)
    tokens = [(one.status, one.token) for one in archive.requests(NAME)]
    assert tokens[:3] == [(302, None), (206, "cookie"), (200, "cookie")]
    assert tokens[3:] == [(302, None), (200, "cookie")]


def test_an_expired_token_alone_ends_at_the_log_in_host(archive, monkeypatch):
    monkeypatch.setenv("EARTHDATA_TOKEN", archive.token)
    with log_in(archive).get_session() as session:
        assert not [one for one in archive.log if one.scope == "login"]
        assert fetch(session, archive) == (200, CONTENT)
        archive.expire_tokens()
        assert fetch(session, archive)[0] == 401


def test_an_expired_token_can_be_refused_outright(archive, monkeypatch):
    archive.redirect_bad_token = False
    use_password(archive, monkeypatch)
    with log_in(archive).get_session() as session:
        archive.expire_tokens()
        assert fetch(session, archive)[0] == 401
    with log_in(archive).get_session() as session:
        assert fetch(session, archive) == (200, CONTENT)
    assert archive.login.issued == 2


def test_the_search_refuses_an_expired_token(archive, monkeypatch):
    use_password(archive, monkeypatch)
    auth = log_in(archive)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # earthaccess about its own next release
        query = earthaccess.DataGranules(auth).short_name("ATL06")
        with query.session:
            assert query.hits() == 1
            archive.expire_tokens()
            with pytest.raises(RuntimeError, match="expired"):
                query.hits()


def test_who_it_is(archive):
    options = {"verify": str(archive.ca_bundle), "timeout": 10}
    known = (archive.username, archive.password)
    with requests.get("https://localhost/profile", auth=known, **options) as answer:
        assert answer.json() == {"uid": archive.username}
    with requests.get("https://localhost/profile", auth=("x", "y"), **options) as answer:
        assert answer.status_code == 401


def test_faults_of_the_log_in_host(archive, monkeypatch):
    use_password(archive, monkeypatch)
    archive.fault("login_503", times=2)  # earthaccess sends each request to this host twice
    with pytest.raises(LoginAttemptFailure):
        log_in(archive)
    assert log_in(archive).authenticated


def test_the_port_is_taken(archive, tmp_path):
    with pytest.raises(LoginHostError, match="port 443"):
        LoopbackArchive(tmp_path, login=True).start()


def test_no_secret_is_in_the_log(archive, monkeypatch):
    use_password(archive, monkeypatch)
    with log_in(archive).get_session() as session:
        fetch(session, archive)
        archive.expire_tokens()
        fetch(session, archive)
    text = repr(archive.log)
    assert archive.password not in text
    assert "loopback-token" not in text
    assert "code=" not in text
