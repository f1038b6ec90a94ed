"""The list of runs."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from browser.runs import HOSTILE, PLAIN, keep_screenshot
from browser.visiting import Site
from support.calls import get_hallmarks
from support.server import Client


def row(page: Page, run: str):  # type: ignore[no-untyped-def]
    return page.locator(f'tr[data-run="{run}"]')


def test_a_row_says_how_a_run_stands(page: Page, site: Site, client: Client) -> None:
    page.goto(site.url("/"))
    mds = get_hallmarks(client, "plain")["mds"]
    cells = row(page, "plain").locator("td")
    expect(cells.nth(1)).to_have_text("running")
    expect(cells.nth(3)).to_have_text(f"{mds[-1]:.3f}")
    expect(cells.nth(5)).to_have_text(str(PLAIN.num_checkpoints))
    expect(cells.nth(6)).to_have_text(str(10 * (PLAIN.num_checkpoints - 1)))
    expect(row(page, "plain").locator(".spark path")).to_have_attribute(
        "d", re.compile(r"^M[\d. ]+(L[\d. ]+){23}$")
    )
    keep_screenshot(page, "list")


def test_search_tags_and_state_are_kept_in_the_address(page: Page, site: Site) -> None:
    page.goto(site.url("/"))
    page.locator("#search").fill("OTHE")
    expect(page.locator("#rows tr")).to_have_count(1)
    expect(page).to_have_url(site.url("/?search=OTHE"))
    page.reload()
    expect(page.locator("#search")).to_have_value("OTHE")
    expect(page.locator("#rows tr")).to_have_count(1)
    page.goto(site.url("/"))
    page.get_by_role("button", name="second", exact=True).click()
    expect(page.locator("#rows tr")).to_have_count(1)
    expect(page).to_have_url(site.url("/?tag=second"))
    page.go_back()
    expect(row(page, "plain")).to_be_visible()
    page.locator("#phase").select_option("stopped")
    expect(page.locator("#empty")).to_have_text("No run fits.")


def test_keys_lead_to_a_run(page: Page, site: Site) -> None:
    page.goto(site.url("/?search=plain"))
    expect(page.locator("#rows tr")).to_have_count(1)
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.locator("#search").blur()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page).to_have_url(site.url("/runs/plain"))


def test_picked_runs_are_compared(page: Page, site: Site) -> None:
    page.goto(site.url("/"))
    for run in ("plain", "other"):
        row(page, run).get_by_role("checkbox").check()
    page.locator("#compare").click()
    expect(page).to_have_url(site.url("/compare?run=plain&run=other"))


def test_tags_are_shown_letter_by_letter(page: Page, site: Site) -> None:
    page.goto(site.url("/?search=hostile"))
    expect(row(page, "hostile").locator(".tag")).to_have_text(list(HOSTILE.tags))
    assert page.title() == "Runs · trajmon"
