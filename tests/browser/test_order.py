"""What a page asks for first: maps, which people come for; curves once they are drawn."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, Request, Route, expect

from browser.runs import shown_curves, shown_map, until
from browser.visiting import Site
from support.calls import get_hallmarks, get_map
from support.server import Client

CURVES = re.compile(r"/api/v1/runs/[a-z]+/hallmarks\?")
MAPS = re.compile(r"/api/v1/runs/[a-z]+/map\?")


class Held:
    """Questions for curves, which are not let through before the test wants it; and all that is asked, in its order."""

    def __init__(self, page: Page) -> None:
        self.routes: list[Route] = []
        self.is_open = False
        self.order: list[str] = []
        page.route(CURVES, self._meet)
        page.on("request", lambda asked: self._note(asked, "asked"))
        page.on("requestfinished", lambda asked: self._note(asked, "had"))

    def _note(self, asked: Request, what: str) -> None:
        for kind, pattern in (("map", MAPS), ("curves", CURVES)):
            if pattern.search(asked.url):
                self.order.append(f"{what} {kind}")

    def _meet(self, route: Route) -> None:
        if self.is_open:
            route.continue_()
        else:
            self.routes.append(route)

    def wait(self, page: Page) -> None:
        """Until curves are asked for. Events of the page come while one of its calls is waited for."""

        def check() -> None:
            page.wait_for_timeout(20)
            assert self.routes

        until(check)

    def let_through(self) -> None:
        self.is_open = True
        for route in self.routes:
            route.continue_()


def is_drawn(page: Page, element: str) -> None:
    assert page.evaluate("id => Boolean(document.getElementById(id)?.data)", element)


def test_the_map_of_a_run_does_not_wait_for_its_curves(page: Page, site: Site, client: Client) -> None:
    held = Held(page)
    page.goto(site.url("/runs/plain"))
    expected = get_map(client, "plain")["map"]
    until(lambda: is_drawn(page, "map"))
    np.testing.assert_allclose(shown_map(page), expected, rtol=0, atol=6e-8)
    expect(page.locator("#map-panel")).to_have_attribute("aria-busy", "false")
    held.wait(page)
    assert held.order == ["asked map", "had map", "asked curves"]
    assert not page.evaluate("document.getElementById('curve-mds')?.data")
    held.let_through()
    until(lambda: is_drawn(page, "curve-mds"))
    np.testing.assert_allclose(
        shown_curves(page, "mds")["MDS ω"][1], get_hallmarks(client, "plain")["mds"], rtol=1e-12
    )
    page.locator("body[data-ready]").wait_for()


def test_another_scope_shows_its_map_first_too(page: Page, site: Site, client: Client) -> None:
    page.goto(site.url("/runs/plain"))
    page.locator("body[data-ready]").wait_for()
    # The stream's first event asks for everything once more.
    page.wait_for_timeout(1000)
    held = Held(page)
    page.locator("#scope").select_option("group:mlp")
    expected = get_map(client, "plain", "group:mlp")["map"]
    until(lambda: np.testing.assert_allclose(shown_map(page), expected, rtol=0, atol=6e-8))
    held.wait(page)
    assert held.order == ["asked map", "had map", "asked curves"]
    held.let_through()
    expected = get_hallmarks(client, "plain", "group:mlp")["mds"]
    until(lambda: np.testing.assert_allclose(shown_curves(page, "mds")["MDS ω"][1], expected, rtol=1e-12))


@pytest.mark.parametrize("about", ["", "&about=7"])
def test_compared_maps_do_not_wait_for_curves(page: Page, site: Site, client: Client, about: str) -> None:
    held = Held(page)
    page.goto(site.url(f"/compare?run=plain&run=other{about}"))
    options: dict[str, Any] = {"relative_to": 7} if about else {}
    for run in ("plain", "other"):
        expected = get_map(client, run, **options)["map"]
        plot = page.locator(f'figure[data-run="{run}"] .plot.js-plotly-plot')
        plot.wait_for()
        np.testing.assert_allclose(
            plot.evaluate("gd => gd.data[0].z.map(r => Array.from(r))"), expected, rtol=0, atol=6e-8
        )
    held.wait(page)
    assert held.order[:4] == ["asked map"] * 2 + ["had map"] * 2
    assert set(held.order[4:]) == {"asked curves"}
    held.let_through()
    page.locator("body[data-ready]").wait_for()
    assert list(shown_curves(page, "mds")) == ["plain", "other"]
