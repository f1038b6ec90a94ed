"""Light and dark, wide and narrow; files that a browser may keep."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

import trajmon_server.web
from browser.runs import keep_screenshot
from browser.visiting import Site, Watched
from trajmon_server.web.pages import static_digest, static_files

VIEWS = {
    "list": "/",
    "run": "/runs/plain",
    "layers": "/runs/plain/layers",
    "compare": "/compare?run=plain&run=other",
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_shows_every_view_without_sideways_scrolling(
    browser: Browser, site: Site, watched: Watched, view: str
) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    page = context.new_page()
    watched.watch(page)
    page.goto(site.entry)
    page.goto(site.url(VIEWS[view]))
    page.locator("#rows[aria-busy=false]" if view == "list" else "body[data-ready]").wait_for(
        state="attached"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    keep_screenshot(page, f"{view}-phone-dark")
    context.close()
    assert watched.problems == []


def test_the_theme_follows_the_system_until_one_is_chosen(page: Page, site: Site) -> None:
    page.goto(site.url("/runs/plain"))
    page.locator("body[data-ready]").wait_for()

    def paper() -> str:
        return str(page.evaluate("document.getElementById('map')._fullLayout.paper_bgcolor"))

    assert paper() == "#ffffff"
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body")).to_have_css("background-color", "rgb(16, 21, 27)")
    page.wait_for_function("document.getElementById('map')._fullLayout.paper_bgcolor === '#171e26'")
    page.locator("#theme").click()
    expect(page.locator("body")).to_have_css("background-color", "rgb(244, 246, 248)")
    page.reload()
    expect(page.locator("body")).to_have_css("background-color", "rgb(244, 246, 248)")


def test_keys_are_listed(page: Page, site: Site) -> None:
    page.goto(site.url("/runs/plain"))
    page.locator("body[data-ready]").wait_for()
    page.keyboard.press("?")
    expect(page.locator("dialog.keys")).to_be_visible()
    expect(page.locator("dialog.keys kbd")).to_have_count(6)
    page.keyboard.press("Escape")
    expect(page.locator("dialog.keys")).to_be_hidden()


def test_files_are_kept_by_their_digest_and_nobody_else_gets_them(
    page: Page, site: Site, browser: Browser
) -> None:
    prefix = f"/static/{static_digest()}"
    script = f"{prefix}/vendor/plotly-cartesian.min.js"
    answer = page.request.get(site.url(script))
    assert answer.ok
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert answer.headers["content-type"].startswith("text/javascript")
    body = answer.body()
    assert body == static_files()["vendor/plotly-cartesian.min.js"].body
    note = Path(trajmon_server.web.__file__).with_name("static") / "vendor" / "README.md"
    assert hashlib.sha256(body).hexdigest() in note.read_text()
    for wrong in (
        "/static/0000000000000000/page.css",
        f"{prefix}/no.css",
        f"{prefix}/..%2fpages.py",
        f"{prefix}/../pages.py",
    ):
        assert page.request.get(site.url(wrong)).status == 404
    stranger = browser.new_context()
    for path in (*VIEWS.values(), script):
        refused = stranger.request.get(site.url(path))
        assert refused.status == 401
        assert "plain" not in re.sub("(?<=href=)[^>]*", "", refused.text())
    stranger.close()
