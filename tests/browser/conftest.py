"""A real headless Chromium in front of a real gateway and engine. Screenshots of all tests: build/screenshots/."""

from __future__ import annotations

import re
import shutil

import pytest
from prepared import prepared
from processes import server

WAIT = 60_000  # milliseconds, on a busy machine


def chromium():
    """The path of a Chromium; a test that needs one is skipped where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return found or pytest.skip("needs a Chromium: apt install chromium")


@pytest.fixture(scope="module")
def browser():
    """Of one file's tests: while Playwright's interface is open, no other test of the process can start an event loop."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="make test-browser installs it")
    sync_api.expect.set_options(timeout=WAIT)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def address(base, tmp_path_factory):
    store = tmp_path_factory.mktemp("up") / "store"
    ports = ["--port", 0, "--engine-port", 0]
    with server("serve", "--store", store, *ports, "--no-browser", "--allow-plaintext", "--base", base) as (_, url):
        yield url


@pytest.fixture
def page(browser, request):
    """A page that fails its test when a script fails or something is fetched from elsewhere; and a screenshot at the end."""
    from page_steps import shoot

    settings = {"color_scheme": getattr(request, "param", "light"), "permissions": ["clipboard-read", "clipboard-write"]}
    with browser.new_context(viewport={"width": 1280, "height": 900}, **settings) as context:
        page, faults, hosts = context.new_page(), [], set()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: hosts.add(re.sub(r"(https?://[^/]+).*", r"\1", asked.url)))
        page.set_default_timeout(WAIT)
        yield page
        shoot(page, request.node.name)
        assert not faults and len(hosts) <= 1, (faults, hosts)


@pytest.fixture
def opened(page, address):
    """A function that opens the page and begins a collection, so that a test has documents of its own."""

    def begin(name):
        page.goto(address)
        page.click("text=New collection")
        page.fill("#new-collection", name)
        page.press("#new-collection", "Enter")
        page.wait_for_function("name => document.querySelector('#collection').value === name", arg=name)
        return page

    return begin
