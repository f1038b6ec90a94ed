"""Names from outside are text: no script runs, nothing is drawn of them but letters."""

from __future__ import annotations

from urllib.parse import quote

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from browser.runs import HOSTILE, IMAGE, shown_map
from browser.visiting import Site, Watched
from support.calls import get_map
from support.server import Client


def unharmed(page: Page) -> None:
    assert "owned" not in page.title()
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("main script").count() == 0


@pytest.mark.parametrize("index", range(len(HOSTILE.names)))
def test_a_layer_of_any_name_has_its_map(page: Page, site: Site, client: Client, index: int) -> None:
    scope = f"layer:{HOSTILE.names[index]}"
    page.goto(site.url(f"/runs/hostile?scope={quote(scope, safe='')}"))
    page.locator("body[data-ready]").wait_for()
    np.testing.assert_allclose(shown_map(page), get_map(client, "hostile", scope)["map"], rtol=0, atol=6e-8)
    expect(page.locator("#map-title")).to_have_text(f"Trajectory map · layer {HOSTILE.names[index]}")
    assert page.locator("#scope").evaluate("s => s.value") == scope
    unharmed(page)


def test_names_in_plots_are_letters(page: Page, site: Site) -> None:
    page.goto(site.url("/runs/hostile"))
    page.locator("body[data-ready]").wait_for()
    box = page.locator("#curve-mds .nsewdrag").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    expect(page.locator("#curve-mds .hoverlayer")).to_contain_text(HOSTILE.metric)
    unharmed(page)


def test_every_view_shows_them_letter_by_letter(page: Page, site: Site, watched: Watched) -> None:
    watched.expected = "Failed to load resource"
    page.goto(site.url("/runs/hostile/layers"))
    page.locator("body[data-ready]").wait_for()
    names = page.locator(".tile").evaluate_all("all => all.map(a => a.dataset.layer)")
    assert sorted(names) == sorted(HOSTILE.names)
    page.locator(".tile").filter(has_text=IMAGE).click()
    expect(page.locator("#large-title")).to_have_text(IMAGE)
    page.locator("#large-map .hm").wait_for()
    unharmed(page)
    page.goto(site.url("/compare?run=hostile&run=plain"))
    page.locator("body[data-ready]").wait_for()
    unharmed(page)
    page.goto(site.url(f"/compare?run={quote(IMAGE)}"))
    expect(page.locator("#chosen")).to_contain_text(IMAGE)
    unharmed(page)


@pytest.mark.parametrize("name", [IMAGE, "%2e%2e", "..%2f..", 'a"b', "x" * 300, "<script>alert(1)</script>"])
def test_a_run_that_cannot_be_is_not_found(page: Page, site: Site, watched: Watched, name: str) -> None:
    watched.expected = "Failed to load resource"
    answer = page.goto(site.url(f"/runs/{quote(name, safe='')}"))
    assert answer is not None
    assert answer.status == 404
    expect(page.locator("body")).to_contain_text("no")
    unharmed(page)


def test_an_address_is_no_markup(page: Page, site: Site, watched: Watched) -> None:
    watched.expected = "Failed to load resource"
    page.goto(
        site.url(
            f"/runs/plain?scope={quote(IMAGE)}&axis={quote(IMAGE)}&scale={quote(IMAGE)}&behind={quote(IMAGE)}&low=x"
        )
    )
    page.locator("body[data-ready]").wait_for()
    expect(page.locator("#problem")).to_contain_text(f"scope: scope {IMAGE!r} is not one of")
    unharmed(page)
