"""A page that is open while its run goes on, while its server stops, and after it has come back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from browser.runs import Pushed, Training, shown_curves, shown_map, until
from browser.visiting import TIMEOUT_MS, Site, Watched, run_server
from support.calls import get_map
from support.server import Client, ServerProcess
from trajmon_protos.v1.ingest_pb2 import RunPhase

FLOAT32 = 6e-8


def shows(page: Page, client: Client, run: str, checkpoints: int) -> None:
    """The page comes to show the whole run as the server has it."""
    expected = get_map(client, run)["map"]
    assert len(expected) == checkpoints

    def check() -> None:
        shown = shown_map(page)
        assert shown.shape == expected.shape
        np.testing.assert_allclose(shown, expected, rtol=0, atol=FLOAT32)
        assert shown_curves(page, "mds")["MDS ω"][0] == list(range(checkpoints))

    until(check)


def test_checkpoints_show_up_as_they_come(page: Page, site: Site, client: Client) -> None:
    run = Training("growing", seed=21)
    pushed = Pushed.begin(client, run)
    pushed.push(0, 3)
    page.goto(site.url("/runs/growing"))
    page.locator("body[data-ready]").wait_for()
    shows(page, client, "growing", 3)
    expect(page.locator("#live")).to_have_text("live")
    for stop in (4, 9, 16):
        pushed.push(stop - 1 if stop == 4 else shown_map(page).shape[0], stop)
        shows(page, client, "growing", stop)
    expect(page.locator("#facts")).to_contain_text("checkpoints16")
    assert int(page.locator("#tau").get_attribute("max") or 0) == 15
    pushed.report(RunPhase.RUN_PHASE_FINISHED)
    expect(page.locator("#phase")).to_have_text("finished")
    expect(page.locator("#live")).to_have_text("finished")


def test_layers_and_comparisons_follow_too(page: Page, site: Site, client: Client) -> None:
    run = Training("growing-too", seed=22)
    pushed = Pushed.begin(client, run)
    pushed.push(0, 4)
    page.goto(site.url("/runs/growing-too/layers"))
    page.locator("body[data-ready]").wait_for()
    small = page.locator("canvas.small").first
    expect(small).to_have_attribute("width", "4")
    pushed.push(4, 7)
    expect(page.locator("canvas.small").first).to_have_attribute("width", "7")
    page.goto(site.url("/compare?run=growing-too"))
    page.locator("body[data-ready]").wait_for()
    pushed.push(7, 8)
    plot = page.locator("#maps .plot")
    until(lambda: _length_is(plot.evaluate("gd => gd.data[0].z.length"), 8))


def _length_is(found: int, expected: int) -> None:
    assert found == expected


def test_a_hidden_page_does_not_listen(page: Page, site: Site) -> None:
    page.add_init_script(
        "const plain = EventSource.prototype.close; window.streamsEnded = 0;"
        "EventSource.prototype.close = function () { window.streamsEnded += 1; plain.call(this); }"
    )
    page.goto(site.url("/runs/plain"))
    page.locator("body[data-ready]").wait_for()
    expect(page.locator("#live")).to_have_text("live")
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    assert page.evaluate("window.streamsEnded") == 1


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    yield from run_server(tmp_path / "home")


def test_a_stopped_server_is_said_and_the_page_goes_on_when_it_is_back(
    browser: Browser, own_server: ServerProcess, watched: Watched
) -> None:
    run = Training("outlasting", seed=23)
    site = Site(own_server)
    with Client(own_server.addresses["grpc"], own_server.token) as client:
        Pushed.begin(client, run).push(0, 5)
        context = browser.new_context()
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        watched.expected = "net::ERR_"
        watched.watch(page)
        page.goto(site.entry)
        page.goto(site.url("/runs/outlasting"))
        page.locator("body[data-ready]").wait_for()
        shows(page, client, "outlasting", 5)
        http = own_server.addresses["http"]
        own_server.kill()
        expect(page.locator("#banner")).to_be_visible()
        expect(page.locator("#banner")).to_contain_text("The server does not answer.")
        # What was there stays, and a click does no harm.
        page.locator("#scope").select_option("group:mlp")
        assert shown_map(page).shape == (5, 5)
        page.locator("#scope").select_option("network")
        own_server.start("--http", http)
        expect(page.locator("#banner")).to_be_hidden()
    with Client(own_server.addresses["grpc"], own_server.token) as client:
        Pushed.begin(client, run).push(5, 7)
        shows(page, client, "outlasting", 7)
        expect(page.locator("#live")).to_have_text("live")
    context.close()
    assert watched.problems == []
