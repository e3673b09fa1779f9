"""One browser for all tests, and the page of planted tables, opened with the network off."""

import shutil

import pytest

from tests.conftest import skip_without
from tests.planted_dashboard import tables, write_dashboard


@pytest.fixture(scope="session")
def browser():
    """Debian's chromium; without it, or without what drives it, tests skip, but never in CI."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip_without("playwright is not installed: make test-engines installs it")
    path = shutil.which("chromium")
    if path is None:
        skip_without("no chromium: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The folder of the planted tables and of their page."""
    return write_dashboard(tmp_path_factory.mktemp("dashboard"), tables()).parent


@pytest.fixture
def open_page(browser, folder):
    """Open the page without a network; anything that it asks for or complains of fails the test."""
    opened, said = [], []

    def open_one(path=folder / "dashboard.html", **options):
        context = browser.new_context(accept_downloads=True, **options)
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda request: said.append(f"request: {request.url}"))
        page.goto(path.as_uri())
        assert said.pop(0) == f"request: {path.as_uri()}"
        opened.append(context)
        return page

    yield open_one
    for context in opened:
        context.close()
    # A download is a blob of the page's own.
    assert [one for one in said if not one.startswith("request: blob:")] == []


@pytest.fixture
def page(open_page):
    return open_page(viewport={"width": 1280, "height": 900})
