"""All layers of a run at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

from browser.runs import PLAIN, keep_screenshot, shown_map, until
from browser.visiting import Site
from support.calls import get_hallmarks, get_map
from support.server import Client
from trajmon.plot.colors import Scale, colormap, to_rgb

FLOAT32 = 6e-8


def open_layers(page: Page, site: Site, query: str = "") -> None:
    page.goto(site.url(f"/runs/plain/layers{query}"))
    page.locator("body[data-ready]").wait_for()


def pixels(page: Page, layer: str) -> NDArray[np.uint8]:
    """[n, n, 3], as they are drawn."""
    data = page.locator(f'[data-layer="{layer}"] canvas').evaluate(
        "c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    )
    n = round((len(data) / 4) ** 0.5)
    return np.array(data, dtype=np.uint8).reshape(n, n, 4)[:, :, :3]


def test_the_colours_are_those_of_the_command_line(page: Page, site: Site) -> None:
    open_layers(page, site)
    table = page.evaluate(
        "() => import(document.querySelector('script[type=module]').src.replace('layers.js', 'colors.js'))"
        ".then(m => Array.from(m.TABLE))"
    )
    np.testing.assert_array_equal(np.array(table).reshape(-1, 3), colormap())


def test_small_maps_hold_each_layers_map_on_one_scale(page: Page, site: Site, client: Client) -> None:
    open_layers(page, site)
    maps = {name: get_map(client, "plain", f"layer:{name}")["map"] for name in PLAIN.names}
    off = ~np.eye(PLAIN.num_checkpoints, dtype=bool)
    scale = Scale(min(float(entries[off].min()) for entries in maps.values()), 1.0)
    for name, entries in maps.items():
        # One step of the table: the page has float32 entries.
        np.testing.assert_allclose(pixels(page, name).astype(int), to_rgb(entries, scale).astype(int), atol=3)
        mds = get_hallmarks(client, "plain", f"layer:{name}")["mds"][-1]
        expect(page.locator(f'[data-layer="{name}"] .tile-omega')).to_have_text(f"ω {mds:.3f}")
    page.locator("#scale").select_option("each")
    last = maps[PLAIN.names[-1]]
    own = to_rgb(last, Scale(float(last[off].min()), 1.0))
    np.testing.assert_allclose(pixels(page, PLAIN.names[-1]).astype(int), own.astype(int), atol=3)
    keep_screenshot(page, "layers")


def test_layers_stand_by_kind_and_depth(page: Page, site: Site) -> None:
    open_layers(page, site)
    kinds = page.locator(".kind")
    assert kinds.evaluate_all("all => all.map(a => a.dataset.kind)") == ["attention.qkv", "mlp", "norm"]
    expected = [f"h.{block}.mlp.fc.weight" for block in range(3)]
    assert kinds.nth(1).locator(".tile").evaluate_all("all => all.map(a => a.dataset.layer)") == expected


def test_patterns_and_the_tree(page: Page, site: Site) -> None:
    open_layers(page, site)
    for pattern, count in (
        ("*.mlp.*", 3),
        ("QKV", 3),
        ("h.?.ln_1.weight", 3),
        ("h.2.*", 3),
        ("nothing", 0),
        ("", 9),
    ):
        page.locator("#filter").fill(pattern)
        expect(page.locator(".tile")).to_have_count(count)
    expect(page.locator("#empty")).to_be_hidden()
    page.get_by_title("Show h.1.* alone").click()
    expect(page.locator(".tile")).to_have_count(3)
    expect(page).to_have_url(site.url("/runs/plain/layers?filter=h.1.*"))
    page.reload()
    page.locator("body[data-ready]").wait_for()
    expect(page.locator("#count")).to_have_text("3 of 9")


def test_a_click_makes_a_layer_large(page: Page, site: Site, client: Client) -> None:
    name = "h.0.attn.qkv.weight"
    open_layers(page, site)
    page.locator(f'[data-layer="{name}"]').click()
    page.locator("#large-map .hm").wait_for()
    expected = get_map(client, "plain", f"layer:{name}")["map"]
    until(lambda: np.testing.assert_allclose(shown_map(page, "large-map"), expected, rtol=0, atol=FLOAT32))
    expect(page.locator("#large-omega")).to_have_text(f"ω = {expected.mean():.3f}")
    expect(page).to_have_url(site.url(f"/runs/plain/layers?layer={name}"))
    page.reload()
    page.locator("#large-map .hm").wait_for()
    page.keyboard.press("Escape")
    expect(page.locator("#large")).to_be_hidden()
    expect(page).to_have_url(site.url("/runs/plain/layers"))


def test_which_groups_settle_last(page: Page, site: Site, client: Client) -> None:
    open_layers(page, site)
    found = {}
    for group in ("network", "first", "attention.qkv", "mlp", "norm"):
        entries = get_map(client, "plain", "network" if group == "network" else f"group:{group}")["map"]
        away = 1 - entries[:, -1]
        found[group] = int(np.flatnonzero(away > 0.05 * away.max())[-1]) + 1
    bars = page.locator("#settled li")
    expect(bars).to_have_count(len(found))
    told = bars.evaluate_all("all => all.map(a => [a.dataset.group, Number(a.dataset.settled)])")
    assert dict(map(tuple, told)) == found
    assert [settled for _, settled in told] == sorted(found.values(), reverse=True)
