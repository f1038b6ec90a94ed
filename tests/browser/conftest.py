"""One server with a few runs and one browser for all tests of this folder; each test has a page of its own.

A page fails its test if a script fails on it, if anything is written to its console as an error, or if the security
policy had to stop something.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from browser.runs import IMAGE, Pushed, Training
from support.rows import SALT
from support.server import Client, ServerProcess

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 20_000


@dataclass
class Site:
    """A server and somebody who is signed in."""

    server: ServerProcess

    @property
    def address(self) -> str:
        return f"http://{self.server.addresses['http']}"

    def url(self, path: str) -> str:
        return self.address + path

    @property
    def entry(self) -> str:
        """The address of a first visit."""
        return self.url(f"/?token={self.server.token}")


@dataclass
class Watched:
    """What went wrong on a page."""

    problems: list[str] = field(default_factory=list)
    expected: str = ""
    """What a test provokes, in the browser's words: no problem."""

    def watch(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on("console", self._note)
        page.add_init_script(
            "addEventListener('securitypolicyviolation', "
            "e => console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI))"
        )

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (self.expected and self.expected in message.text):
            self.problems.append(f"console: {message.text}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path is not None, "these tests need chromium on the PATH; on Debian: make browser"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield started
        started.close()


def run_server(home: Path) -> Iterator[ServerProcess]:
    """A server for as long as the generator is held."""
    started = ServerProcess(home).start()
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server that holds the runs below."""
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


_salt = SALT.set("browser")
PLAIN = Training("plain", twin=15)
OTHER = Training("other", seed=3, tags=("test", "second"))
SINGLE = Training("single", num_checkpoints=1)
GAPS = Training("gaps", seed=5, num_checkpoints=9)
HOSTILE = Training(
    "hostile",
    seed=9,
    num_checkpoints=6,
    names=(
        IMAGE,
        f"<script>document.title='owned'</script>.{'a' * 290}",
        "a%2e%2e/b",
        "quo\"te'.w & <b>x</b>",
        "plain.w",
    ),
    tags=("test", IMAGE[:40], "%2e%2e"),
    metric="<b onmouseover=alert(1)>loss</b>",
    others={"<i>group</i>": ("a",), 'gr"oup': ("quo",)},
)
SALT.reset(_salt)
