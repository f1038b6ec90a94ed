"""Several runs side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from playwright.sync_api import Page, expect

from browser.runs import keep_screenshot, shown_curves, until
from browser.visiting import Site, Watched
from support.calls import get_hallmarks, get_map
from support.server import Client

FLOAT32 = 6e-8
BOTH = "/compare?run=plain&run=other"


def open_comparison(page: Page, site: Site, address: str = BOTH) -> None:
    page.goto(site.url(address))
    page.locator("body[data-ready]").wait_for()


def shown(page: Page, run: str) -> dict[str, Any]:
    told: dict[str, Any] = page.locator(f'figure[data-run="{run}"] .plot').evaluate(
        "gd => ({z: gd.data[0].z.map(r => Array.from(r)), zmin: gd.data[0].zmin, zmax: gd.data[0].zmax})"
    )
    return told


def test_maps_share_one_scale(page: Page, site: Site, client: Client) -> None:
    open_comparison(page, site)
    maps = {run: get_map(client, run)["map"] for run in ("plain", "other")}
    low = min(float(entries.min()) for entries in maps.values())
    for run, entries in maps.items():
        told = shown(page, run)
        np.testing.assert_allclose(told["z"], entries, rtol=0, atol=FLOAT32)
        np.testing.assert_allclose([told["zmin"], told["zmax"]], [low, 1.0], atol=FLOAT32)
        expect(page.locator(f'figure[data-run="{run}"] .omega')).to_have_text(f"ω = {entries.mean():.3f}")
    keep_screenshot(page, "compare")


def test_about_the_initialization_and_of_a_group(page: Page, site: Site, client: Client) -> None:
    open_comparison(page, site)
    page.locator("#about").select_option("0")
    page.locator("#scope").fill("group:mlp")
    page.locator("#scope").press("Enter")
    expected = get_map(client, "other", "group:mlp", relative_to=0)["map"]
    until(lambda: np.testing.assert_allclose(shown(page, "other")["z"], expected, rtol=0, atol=FLOAT32))
    address = page.url
    assert address == site.url(f"{BOTH}&about=0&scope=group%3Amlp")
    page.reload()
    page.locator("body[data-ready]").wait_for()
    np.testing.assert_allclose(shown(page, "other")["z"], expected, rtol=0, atol=FLOAT32)


def about(page: Page, tau: int) -> None:
    page.locator("#about").select_option("tau")
    page.locator("#tau-number").fill(str(tau))
    page.locator("#tau-number").press("Enter")


def test_about_a_checkpoint_of_all_runs(page: Page, site: Site, client: Client) -> None:
    open_comparison(page, site)
    expect(page.locator("#tau-chosen")).to_be_hidden()
    about(page, 7)
    maps = {run: get_map(client, run, relative_to=7)["map"] for run in ("plain", "other")}
    low = min(float(entries.min()) for entries in maps.values())

    def check() -> None:
        for run, entries in maps.items():
            told = shown(page, run)
            np.testing.assert_allclose(told["z"], entries, rtol=0, atol=FLOAT32)
            np.testing.assert_allclose([told["zmin"], told["zmax"]], [low, 1.0], atol=FLOAT32)

    until(check)
    for run, entries in maps.items():
        expect(page.locator(f'figure[data-run="{run}"] .omega')).to_have_text(f"ω₇ = {entries.mean():.3f}")
    expect(page).to_have_url(site.url(f"{BOTH}&about=7"))
    page.reload()
    page.locator("body[data-ready]").wait_for()
    until(check)
    expect(page.locator("#about")).to_have_value("tau")
    expect(page.locator("#tau-number")).to_have_value("7")
    expect(page.locator("#tau")).to_have_value("7")
    assert int(page.locator("#tau").get_attribute("max") or 0) == 23
    page.locator("#tau").press("ArrowRight")
    expected = get_map(client, "other", relative_to=8)["map"]
    until(lambda: np.testing.assert_allclose(shown(page, "other")["z"], expected, rtol=0, atol=FLOAT32))
    expect(page).to_have_url(site.url(f"{BOTH}&about=8"))
    page.locator("#about").select_option("")
    whole = get_map(client, "other")["map"]
    until(lambda: np.testing.assert_allclose(shown(page, "other")["z"], whole, rtol=0, atol=FLOAT32))
    expect(page.locator("#tau-chosen")).to_be_hidden()
    expect(page).to_have_url(site.url(BOTH))


def test_what_is_being_typed_is_not_written_over(page: Page, site: Site) -> None:
    open_comparison(page, site)
    about(page, 7)
    expect(page.locator('figure[data-run="other"] .omega')).to_contain_text("ω₇")
    page.locator("#tau-number").fill("1")
    page.locator("#scope").evaluate("e => { e.value = 'group:mlp'; e.dispatchEvent(new Event('change')) }")
    expect(page.locator("#bar")).to_contain_text("mlp")
    page.wait_for_load_state("networkidle")
    expect(page.locator("#tau-number")).to_have_value("1")
    page.locator("#tau-number").press("Enter")
    expect(page.locator('figure[data-run="other"] .omega')).to_contain_text("ω₁")


def test_a_run_without_the_checkpoint_says_so_and_the_others_are_shown(
    page: Page, site: Site, client: Client, watched: Watched
) -> None:
    watched.expected = "Failed to load resource"
    open_comparison(page, site, "/compare?run=plain&run=gaps&about=15")
    expected = get_map(client, "plain", relative_to=15)["map"]
    np.testing.assert_allclose(shown(page, "plain")["z"], expected, rtol=0, atol=FLOAT32)
    gaps = page.locator('figure[data-run="gaps"]')
    expect(gaps.get_by_role("status")).to_have_text("checkpoint 15 is not among those of the map (0 to 8)")
    expect(gaps.locator(".plot")).to_be_hidden()
    expect(page.locator("#problem")).to_be_hidden()
    assert list(shown_curves(page, "mds")) == ["plain", "gaps"]
    page.locator("#tau-number").fill("24")
    page.locator("#tau-number").press("Enter")
    expect(page).to_have_url(site.url("/compare?run=plain&run=gaps&about=15"))
    page.locator("#tau-number").fill("5")
    page.locator("#tau-number").press("Enter")
    expect(gaps.locator(".plot")).to_be_visible()
    expected = get_map(client, "gaps", relative_to=5)["map"]
    until(lambda: np.testing.assert_allclose(shown(page, "gaps")["z"], expected, rtol=0, atol=FLOAT32))


def test_curves_lie_over_each_other(page: Page, site: Site, client: Client) -> None:
    open_comparison(page, site)
    for name in ("mds", "relative_mds", "update_angle_degrees", "distance_from_initialization"):
        curves = shown_curves(page, name)
        assert list(curves) == ["plain", "other"]
        for run, (_, y) in curves.items():
            np.testing.assert_allclose(y, get_hallmarks(client, run)[name], rtol=1e-12)
    np.testing.assert_array_equal(
        shown_curves(page, "metric:loss")["other"][1], get_hallmarks(client, "other")["metric:loss"]
    )


def test_runs_are_added_and_taken_out(page: Page, site: Site) -> None:
    open_comparison(page, site, "/compare?run=plain")
    page.keyboard.press("a")
    page.keyboard.type("other")
    page.keyboard.press("Enter")
    expect(page.locator("#maps figure")).to_have_count(2)
    expect(page).to_have_url(site.url(BOTH))
    page.get_by_role("button", name="Take plain out").click()
    expect(page.locator("#maps figure")).to_have_count(1)
    page.go_back()
    expect(page.locator("#maps figure")).to_have_count(2)


def test_an_unknown_run_is_named_and_the_others_stay(page: Page, site: Site, watched: Watched) -> None:
    watched.expected = "Failed to load resource"
    open_comparison(page, site, "/compare?run=plain&run=nobody")
    expect(page.locator("#problem")).to_contain_text("nobody: no run named 'nobody'")
    expect(page.locator("#maps figure")).to_have_count(1)
