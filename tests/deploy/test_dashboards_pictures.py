"""The pictures of maps in the dashboard of a run: what their addresses need, and when a browser shows them.

Grafana itself is not here. A few lines stand in for its proxy to a data source: they take cookies away, name the server
as Host, and add the token that the data source holds.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, sync_playwright

from browser.visiting import ARGUMENTS, TIMEOUT_MS
from support.calls import get_map, push_all
from support.dashboards import load, substitute
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.web import Web

RUN = SyntheticRun("pictured", num_checkpoints=6)
READER, STRANGER = "token-that-may-read-alone", "token-of-another-team"
PANELS = ("About the origin", "About the initialization")


def token_entry(token: str, team: str) -> dict[str, str]:
    return {"sha256": hashlib.sha256(token.encode()).hexdigest(), "team": team, "role": "read"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    tokens = json.dumps([token_entry(READER, "local"), token_entry(STRANGER, "strangers")])
    home = tmp_path_factory.mktemp("pictures") / "home"
    started = ServerProcess(home, environment={"TRAJMON_SERVER_TOKENS": tokens}).start()
    with Client(started.addresses["grpc"], started.token) as client:
        push_all(client, RUN)
        get_map(client, RUN.name)
    yield started
    assert started.stop() == 0


def content(title: str, pictures: str, newest: int = 1_795_274_333_462) -> str:
    """The HTML of a panel, as Grafana fills it in."""
    panel = next(panel for panel in load("trajmon-run")["panels"] if panel["title"] == title)
    values = {
        "pictures": pictures,
        "web": "http://page",
        "run_id": RUN.run_id,
        "newest": str(newest),
    }
    return substitute(panel["options"]["content"], values)


def picture(title: str) -> str:
    """The address that a browser asks for, below `pictures`."""
    found = re.search(r'<img src="([^"]*)"', content(title, ""))
    assert found is not None
    return html.unescape(found[1])


@pytest.mark.parametrize("title", PANELS)
def test_a_token_that_may_only_read_gets_the_picture(server: ServerProcess, title: str) -> None:
    answer = Web(server.addresses["http"], READER).get(picture(title))
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert answer.body.startswith(b"\x89PNG\r\n\x1a\n")


def test_the_two_pictures_are_of_two_maps(server: ServerProcess) -> None:
    reader = Web(server.addresses["http"], READER)
    one, other = (reader.get(picture(title)).body for title in PANELS)
    assert one != other


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("no-such-token", 401), (STRANGER, 404)])
def test_nobody_else_gets_it(server: ServerProcess, token: str | None, status: int) -> None:
    assert Web(server.addresses["http"], token).get(picture(PANELS[0])).status == status


@pytest.mark.parametrize("title", PANELS)
def test_the_panels_hold_a_picture_in_a_link_and_nothing_else(title: str) -> None:
    """What Grafana's filter for text panels lets through: these tags with these attributes, addresses from the root."""
    text = content(title, "/api/datasources/proxy/uid/trajmon-pictures")
    assert re.findall(r"</?\w+", text) == ["<a", "<img", "</a"]
    assert set(re.findall(r' ([\w-]+)="', text)) == {"href", "target", "src", "alt", "width"}
    assert f'href="http://page/runs/{RUN.run_id}"' in text


@dataclass
class Standin:
    """A site with a page that shows a panel, and with a proxy to trajmon's HTTP API."""

    trajmon: str
    page: str = ""
    asked: list[str] = field(default_factory=list)
    """What the browser asked the proxy for, with the headers that it sent."""

    def serve(self) -> ThreadingHTTPServer:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                prefix = "/api/datasources/proxy/uid/trajmon-pictures"
                if not self.path.startswith(prefix):
                    self.answer(200, "text/html", site.page.encode())
                    return
                site.asked.append(f"{self.path}\n{self.headers}")
                request = urllib.request.Request(
                    f"http://{site.trajmon}{self.path.removeprefix(prefix)}",
                    headers={"Authorization": f"Bearer {READER}"},
                )
                with urllib.request.urlopen(request, timeout=20) as found:
                    self.answer(
                        found.status, found.headers["Content-Type"], found.read(), dict(found.headers)
                    )

            def answer(self, status: int, kind: str, body: bytes, more: dict[str, str] | None = None) -> None:
                self.send_response(status)
                kept = {name: value for name, value in (more or {}).items() if name.startswith(("C", "X"))}
                for name, value in {**kept, "Content-Type": kind, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def standin(server: ServerProcess) -> Iterator[tuple[Standin, str]]:
    made = Standin(server.addresses["http"])
    with made.serve() as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield made, f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path is not None, "these tests need chromium on the PATH; on Debian: make browser"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield started
        started.close()


WIDTH = """async () => {
  const image = document.querySelector('img');
  await image.decode().catch(() => 0);
  return image.naturalWidth;
}"""


def test_a_browser_shows_it_through_the_proxy(browser: Browser, standin: tuple[Standin, str]) -> None:
    site, address = standin
    site.page = content(PANELS[0], "/api/datasources/proxy/uid/trajmon-pictures")
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(address)
    assert page.evaluate(WIDTH) > 400
    (asked,) = site.asked
    assert asked.startswith(
        f"/api/datasources/proxy/uid/trajmon-pictures/api/v1/runs/{RUN.run_id}/map?format=png&stop="
    )
    assert "token" not in asked.lower()
    assert "authorization" not in asked.lower()
    page.close()


def test_a_new_row_makes_it_ask_again(browser: Browser, standin: tuple[Standin, str]) -> None:
    site, address = standin
    pictures = "/api/datasources/proxy/uid/trajmon-pictures"
    site.page = content(PANELS[0], pictures)
    page = browser.new_page()
    page.goto(address)
    page.evaluate(WIDTH)
    assert len(site.asked) == 1
    page.evaluate(
        "text => { document.body.innerHTML = text }", content(PANELS[0], pictures, newest=1_795_274_350_000)
    )
    assert page.evaluate(WIDTH) > 400
    assert len(site.asked) == 2
    page.close()


def test_straight_from_the_server_it_is_not_shown_to_another_site(
    browser: Browser, server: ServerProcess, standin: tuple[Standin, str]
) -> None:
    """Not even to somebody who is signed in there: the server says Cross-Origin-Resource-Policy: same-origin."""
    site, address = standin
    trajmon = f"http://{server.addresses['http']}"
    site.page = content(PANELS[0], trajmon)
    page = browser.new_page()
    page.goto(f"{trajmon}/?token={server.token}")
    own = page.goto(f"{trajmon}{picture(PANELS[0])}")
    assert own is not None
    assert own.status == 200
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(str(request.failure)))
    page.goto(address)
    assert page.evaluate(WIDTH) == 0
    assert failed == ["net::ERR_BLOCKED_BY_RESPONSE.NotSameOrigin"]
    page.close()


def test_the_variable_of_the_address_is_a_number_that_leaves_no_checkpoint_out(server: ServerProcess) -> None:
    """`stop` far beyond the last checkpoint gives the whole map."""
    reader = Web(server.addresses["http"], READER)
    whole = reader.json(f"/api/v1/runs/{RUN.run_id}/map")
    assert reader.json(f"/api/v1/runs/{RUN.run_id}/map?stop=1795274333462")["map"] == whole["map"]
    assert len(whole["map"]) == RUN.num_checkpoints
    variable = next(v for v in load("trajmon-run")["templating"]["list"] if v["name"] == "newest")
    # Grafana writes what a query answers as labels, value and time.
    found = re.search(variable["regex"].strip("/"), "{} 1795274333462 1795274334000")
    assert found is not None
    assert found[1] == "1795274333462"


def test_the_link_around_it_leads_to_the_page_of_the_run(server: ServerProcess) -> None:
    found = re.search(r'<a href="http://page([^"]*)"', content(PANELS[0], ""))
    assert found is not None
    answer = Web(server.addresses["http"], READER).get(found[1])
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert RUN.name in answer.text
