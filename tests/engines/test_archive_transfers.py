"""Transfers whose log-in ends, is renewed or refused: needs the log-in host, port 443."""

import logging

import pytest

from cryofuse.acquire.earthdata import download_granules
from cryofuse.acquire.plan import ManifestRow
from cryofuse.calendar import period_bounds
from cryofuse.logs import UserError
from tests.archive import LoginHostError, LoopbackArchive
from tests.atl06_files import write_granule
from tests.conftest import skip_without
from tests.transfer_site import TOKEN, Site, digest

MONTH = period_bounds("2020-01")
PASSWORD = "password-that-nobody-may-see"


@pytest.fixture(params=[True, False], ids=["redirected", "refused"])
def site(tmp_path, monkeypatch, request, caplog):
    """Five granules; a token that has ended leads to the log-in host, or is refused."""
    caplog.set_level(logging.DEBUG)
    for name in ("EARTHDATA_TOKEN", "EARTHDATA_USERNAME", "EARTHDATA_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "archive").mkdir()
    files = [write_granule(tmp_path / "archive", number) for number in range(5)]
    try:
        server = LoopbackArchive(
            tmp_path / "archive",
            login=True,
            tokens=(TOKEN,),
            users={"somebody": PASSWORD},
            redirect_bad_token=request.param,
        ).start()
    except LoginHostError as error:
        skip_without(str(error))
    with server:
        server.add_collection("ATL06", "007", files)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.ca_bundle))
        yield Site(server, tmp_path)
    kept = [p.read_text("latin-1") for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    for text in (caplog.text, *kept):
        assert TOKEN not in text and PASSWORD not in text and "loopback-token" not in text


def use_password(monkeypatch, password=PASSWORD):
    monkeypatch.setenv("EARTHDATA_USERNAME", "somebody")
    monkeypatch.setenv("EARTHDATA_PASSWORD", password)


def download(site, **changes):
    rows = []
    for name in site.names:
        content = site.content[name]
        told = {"size_bytes": len(content), "checksum": digest(content)}
        url = site.archive.url(name)
        rows.append(ManifestRow(granule=name, url=url, checksum_algorithm="SHA-256", **told))
    options = {"parallel": 1, "max_failed_share": 0.5} | changes
    return download_granules(rows, site.settings(**options), *MONTH).to_pylist()


def complete(site):
    assert site.arrived() == site.names and site.left() == [] and site.aside() == {}
    assert [site.archive.completed(name) for name in site.names] == [1] * 5


def half(site):
    """Bytes of the first two files and some of the next."""
    return sum(len(site.content[name]) for name in site.names[:2]) + 1000


def stopped(site, match, **changes):
    with pytest.raises(UserError, match=match) as caught:
        download(site, **changes)
    text = str(caught.value)
    assert "\n" not in text and PASSWORD not in text and TOKEN not in text
    return text


@pytest.mark.parametrize("parallel", [1, 3])
def test_name_and_password_go_on_past_the_end_of_a_token(site, monkeypatch, parallel):
    use_password(monkeypatch)
    fault = site.archive.fault("expired", times=1, after_bytes=half(site))
    receipt = download(site, parallel=parallel)
    assert fault.struck == 1 and [one["reason"] for one in receipt] == [None] * 5
    complete(site)
    # Sent to the log-in host the old session goes on with a cookie, else there is a new token.
    redirected = site.archive.redirect_bad_token
    assert site.archive.login.issued == (1 if redirected else 2)
    tokens = {one.token for one in site.archive.log if one.status == 200 and one.scope == "data"}
    assert tokens == ({"bearer", "cookie"} if redirected else {"bearer"})


def test_a_netrc_file_does_so_too(site, tmp_path):
    path = tmp_path / "netrc"
    path.write_text(f"machine localhost login somebody password {PASSWORD}\n")
    path.chmod(0o600)
    site.archive.fault("expired", times=1, after_bytes=half(site))
    assert [one["reason"] for one in download(site)] == [None] * 5
    complete(site)


def test_a_token_alone_ends_the_run_in_one_line(site, monkeypatch):
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    site.archive.fault("expired", times=1, after_bytes=half(site))
    stopped(site, "refuses the log-in.*variable EARTHDATA_TOKEN", max_failed_share=1.0)
    there = site.arrived()
    assert there == site.names[: len(there)] and 2 <= len(there) < 5
    # A new token, and the same command goes on.
    site.archive.login.add_token("another-token")
    monkeypatch.setenv("EARTHDATA_TOKEN", "another-token")
    assert [one["reason"] for one in download(site)] == [None] * 5
    complete(site)


def test_a_wrong_password_is_one_line(site, monkeypatch):
    use_password(monkeypatch, "wrong")
    text = stopped(site, "EARTHDATA_USERNAME and EARTHDATA_PASSWORD")
    assert "https://localhost" in text and site.archive.requests(site.names[0]) == []


def test_a_wrong_password_in_the_netrc_file_is_one_line(site, tmp_path):
    path = tmp_path / "netrc"
    path.write_text("machine localhost login somebody password wrong\n")
    path.chmod(0o600)
    assert str(path) in stopped(site, "refused the credentials of the file")


def test_a_password_changed_half_way_is_one_line(site, monkeypatch):
    use_password(monkeypatch)
    site.archive.fault("expired", times=1, after_bytes=half(site))
    # The first log-in passes; the client sends each request to this host twice.
    site.archive.fault("login_401", skip=2)
    text = stopped(site, "EARTHDATA_USERNAME and EARTHDATA_PASSWORD", max_failed_share=1.0)
    assert "refused the credentials" in text and len(site.arrived()) >= 2


@pytest.mark.parametrize("times", [1, None])
def test_a_log_in_page_in_place_of_a_file(site, monkeypatch, times):
    use_password(monkeypatch)
    site.archive.fault("html", site.names[2], times=times)
    receipt = download(site)
    if times:
        return complete(site)
    assert "HTML" in receipt[2]["reason"] and "EARTHDATA_PASSWORD" in receipt[2]["reason"]
    assert site.arrived() == [name for name in site.names if name != site.names[2]]


def test_the_log_in_host_is_out_of_order_half_way(site, monkeypatch):
    use_password(monkeypatch)
    site.archive.fault("expired", times=1, after_bytes=half(site))
    fault = site.archive.fault("login_503", skip=2, times=2)
    assert [one["reason"] for one in download(site)] == [None] * 5
    assert fault.struck
    complete(site)


def test_a_log_in_host_that_is_out_of_order_from_the_start(site, monkeypatch):
    use_password(monkeypatch)
    site.archive.fault("login_503")
    stopped(site, "out of order; try later")
