"""One server with a few runs for all tests of this folder, a browser for each file, a page for each test.

A page fails its test if a script fails on it, if anything is written to its console as an error, or if the security
policy had to stop something.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from browser.runs import GAPS, HOSTILE, OTHER, PLAIN, SINGLE, Pushed
from browser.visiting import ARGUMENTS, TIMEOUT_MS, Site, Watched, run_server
from support.rows import SALT
from support.server import Client


# Not for longer: while playwright is there, its event loop runs, and nobody else can start one.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path is not None, "these tests need chromium on the PATH; on Debian: make browser"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server that holds the runs of :mod:`browser.runs`."""
    for server in run_server(tmp_path_factory.mktemp("browser") / "home"):
        salt = SALT.set("browser")
        with Client(server.addresses["grpc"], server.token) as client:
            for run in (PLAIN, OTHER, HOSTILE, SINGLE):
                Pushed.begin(client, run).push(0, run.num_checkpoints)
            pushed = Pushed.begin(client, GAPS)
            pushed.push(0, 4)
            pushed.push_undefined(4, [0])
            pushed.push(5, GAPS.num_checkpoints)
        SALT.reset(salt)
        yield Site(server)


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    with Client(site.server.addresses["grpc"], site.server.token) as connected:
        yield connected


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    made.set_default_timeout(TIMEOUT_MS)
    yield made
    made.close()


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def page(context: BrowserContext, site: Site, watched: Watched) -> Iterator[Page]:
    opened = context.new_page()
    watched.watch(opened)
    opened.goto(site.entry)
    yield opened
    opened.close()
    assert watched.problems == []


@pytest.fixture(autouse=True)
def own_salt(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs that a test makes itself have ids of their own."""
    token = SALT.set(request.node.nodeid)
    yield
    SALT.reset(token)
