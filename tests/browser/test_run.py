"""A run's page: what its plots hold is what the server has."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

from browser.runs import PLAIN, keep_screenshot, shown_curves, shown_map, until
from browser.visiting import Site, Watched
from support.calls import get_hallmarks, get_map, get_run, push_all
from support.planned_rows import PlannedRun
from support.server import Client
from trajmon_server.hallmarks.random_walk_null import random_walk_null

FLOAT32 = 6e-8
"""Half a unit in the last place of a float32 near 1: the page is sent no more."""


def open_run(page: Page, site: Site, address: str = "/runs/plain") -> None:
    page.goto(site.url(address))
    page.locator("body[data-ready]").wait_for()


def module(page: Page, name: str, exported: str) -> Any:
    """What a module of the page exports."""
    source = "document.querySelector('script[type=module]').src.replace('run.js', name + '.js')"
    return page.evaluate(f"([name, exported]) => import({source}).then(m => m[exported])", [name, exported])


def assert_shown(page: Page, expected: NDArray[np.float64], element: str = "map") -> None:
    def check() -> None:
        shown = shown_map(page, element)
        assert shown.shape == expected.shape
        np.testing.assert_allclose(shown, expected, rtol=0, atol=FLOAT32)

    until(check)


def test_the_map_is_the_exported_one(page: Page, site: Site, client: Client) -> None:
    open_run(page, site)
    expected = get_map(client, "plain")["map"]
    assert_shown(page, expected)
    expect(page.locator("#map-omega")).to_have_text(f"ω = {expected.mean():.3f}")
    drawn = page.evaluate(
        "() => { const {zmin, zmax} = document.getElementById('map').data[0]; return [zmin, zmax]; }"
    )
    off = expected[~np.eye(len(expected), dtype=bool)]
    np.testing.assert_allclose(drawn, [off.min(), 1.0], atol=FLOAT32)
    keep_screenshot(page, "run")


def test_the_cursor_says_which_entry_it_is_on(page: Page, site: Site, client: Client) -> None:
    open_run(page, site)
    expected = get_map(client, "plain")["map"]
    box = page.locator("#map .nsewdrag").bounding_box()
    assert box is not None
    n = len(expected)
    page.mouse.move(box["x"] + box["width"] * 18.5 / n, box["y"] + box["height"] * 3.5 / n, steps=3)
    words = f"i 3, j 18 · steps 30, 180 · cosine {expected[3, 18]:.6f}"
    expect(page.locator("#map-readout")).to_have_text(words)
    expect(page.locator("#map .tip div")).to_have_text(words.split(" · "))
    page.locator("#map").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowUp")
    i, j = n - 12, n - 1
    expect(page.locator("#map-readout")).to_have_text(
        f"i {i}, j {j} · steps {10 * i}, {10 * j} · cosine {expected[i, j]:.6f}"
    )


def test_the_slider_turns_the_map_into_relative_ones(page: Page, site: Site, client: Client) -> None:
    open_run(page, site)
    page.locator("#tau").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tau-words")).to_have_text("about the initialization (τ = 0)")
    expected = get_map(client, "plain", relative_to=0)["map"]
    assert_shown(page, expected)
    expect(page.locator("#map-omega")).to_have_text(f"ω₀ = {np.nanmean(expected):.3f}")
    page.keyboard.press("End")
    last = PLAIN.num_checkpoints - 1
    assert_shown(page, get_map(client, "plain", relative_to=last)["map"])
    expect(page).to_have_url(site.url(f"/runs/plain?tau={last}"))
    page.reload()
    page.locator("body[data-ready]").wait_for()
    expect(page.locator("#tau-words")).to_have_text(f"about checkpoint τ = {last}")
    assert_shown(page, get_map(client, "plain", relative_to=last)["map"])
    page.locator("#tau").blur()
    page.keyboard.press("o")
    assert_shown(page, get_map(client, "plain")["map"])
    page.keyboard.press("]")
    page.keyboard.press("]")
    assert_shown(page, get_map(client, "plain", relative_to=1)["map"])


@pytest.mark.parametrize("kernel", ["rbf", "polynomial"])
def test_other_kernels(page: Page, site: Site, client: Client, kernel: str) -> None:
    open_run(page, site)
    page.locator("#kernel").select_option(kernel)
    assert_shown(page, get_map(client, "plain", kernel=f"KERNEL_{kernel.upper()}")["map"])
    expect(page.locator("#tau")).to_be_disabled()
    page.go_back()
    expect(page.locator("#kernel")).to_have_value("linear")
    assert_shown(page, get_map(client, "plain")["map"])


def test_any_scope_and_its_address(page: Page, site: Site, client: Client) -> None:
    open_run(page, site)
    for scope in ("group:mlp", "layer:h.1.attn.qkv.weight"):
        page.locator("#scope").select_option(scope)
        assert_shown(page, get_map(client, "plain", scope)["map"])
    address = page.url
    page.goto(site.url("/"))
    page.goto(address)
    page.locator("body[data-ready]").wait_for()
    expect(page.locator("#scope")).to_have_value("layer:h.1.attn.qkv.weight")
    assert_shown(page, get_map(client, "plain", "layer:h.1.attn.qkv.weight")["map"])
    expected = get_hallmarks(client, "plain", "layer:h.1.attn.qkv.weight")["mds"]
    until(lambda: np.testing.assert_allclose(shown_curves(page, "mds")["MDS ω"][1], expected, rtol=1e-12))


def test_the_scale_is_fixed_fitted_or_given(page: Page, site: Site, client: Client) -> None:
    open_run(page, site)
    expected = get_map(client, "plain")["map"]
    off = expected[~np.eye(len(expected), dtype=bool)]

    def drawn() -> Any:
        return page.evaluate(
            "() => [document.getElementById('map').data[0].zmin, document.getElementById('map').data[0].zmax]"
        )

    page.locator("#scale").select_option("fitted")
    until(lambda: np.testing.assert_allclose(drawn(), [off.min(), off.max()], atol=FLOAT32))
    page.locator("#scale").select_option("fixed")
    page.locator("#low").fill("0.25")
    page.locator("#low").press("Enter")
    until(lambda: np.testing.assert_allclose(drawn(), [0.25, 1.0]))
    expect(page).to_have_url(site.url("/runs/plain?low=0.25"))


def test_every_hallmark_has_a_curve(page: Page, site: Site, client: Client) -> None:
    open_run(page, site)
    told = get_hallmarks(client, "plain")
    about = {"checkpoint", "step", "mode", "epoch", "time_unix_seconds", "learning_rate"}
    names = {name for name in told if name not in about and ":" not in name}
    panels = module(page, "curves", "PANELS")
    assert names | {"learning_rate"} == {name for panel in panels for name in panel[2]}
    words = module(page, "words", "HALLMARKS")
    for panel, _, hallmarks, *_ in panels:
        curves = shown_curves(page, panel)
        for name in hallmarks:
            x, y = curves[words.get(name, name)]
            assert x == told["checkpoint"].tolist()
            np.testing.assert_allclose(y, told[name], rtol=1e-12)


def test_curves_run_over_steps_and_time_with_rate_and_loss_behind(
    page: Page, site: Site, client: Client
) -> None:
    open_run(page, site, "/runs/plain?axis=step")
    told = get_hallmarks(client, "plain")
    curves = shown_curves(page, "mds")
    assert curves["MDS ω"][0] == told["step"].tolist()
    np.testing.assert_array_equal(curves["loss"][1], told["metric:loss"])
    np.testing.assert_array_equal(curves["learning rate"][1], told["learning_rate"])
    page.locator("#axis").select_option("time")
    until(
        lambda: np.testing.assert_array_equal(
            shown_curves(page, "mds")["MDS ω"][0], 1000 * told["time_unix_seconds"]
        )
    )
    page.locator("#behind").select_option("none")

    def nothing_behind() -> None:
        assert "loss" not in shown_curves(page, "mds")

    until(nothing_behind)
    expect(page).to_have_url(site.url("/runs/plain?axis=time&behind=none"))


def test_phases_and_findings_stand_at_their_checkpoints(page: Page, site: Site) -> None:
    open_run(page, site)
    expect(page.locator("#findings li")).to_have_text(
        "Twice the same checkpoint Checkpoint 15 holds the same parameters as checkpoint 14."
    )
    shapes, notes = page.evaluate(
        "() => { const {shapes, annotations} = document.getElementById('map').layout; return [shapes, annotations]; }"
    )
    assert sorted(shape["x0"] for shape in shapes if shape["xref"] == "x") == [7.5, 15.5]
    assert sorted(shape["y0"] for shape in shapes if shape["yref"] == "y") == [7.5, 15.5]
    assert [(note["x"], note["hovertext"]) for note in notes] == [
        (15, "Checkpoint 15 holds the same parameters as checkpoint 14.")
    ]
    marks = page.evaluate("() => document.getElementById('curve-norms').layout.shapes.map(s => s.x0)")
    assert sorted(marks) == [7.5, 15, 15.5]


def test_advice_with_its_evidence_and_history(page: Page, site: Site, client: Client) -> None:
    open_run(page, site)
    advice = get_run(client, "plain").summary.advice
    expect(page.locator(".advice-words")).to_have_text(advice.reason)
    page.locator("#advice summary").click()
    assert set(
        page.locator("#advice [data-evidence]").evaluate_all("all => all.map(a => a.dataset.evidence)")
    ) == set(advice.evidence)
    expect(page.locator('[data-evidence="relative_mds"]')).to_have_text(
        f"{advice.evidence['relative_mds']:.4f}"
    )
    told = page.evaluate("() => fetch('/api/v1/runs/plain').then(a => a.json())")
    groups = page.locator("#advice [data-outlook]").evaluate_all("all => all.map(a => a.dataset.outlook)")
    assert groups == [outlook["group"] for outlook in told["outlooks"]]
    assert told["history"][0] == {"checkpoint": 0, "state": "unknown"}
    expect(page.locator(".timeline span")).to_have_count(len(told["history"]))
    expect(page.locator(".history p")).to_contain_text(
        f"{told['history'][-1]['state']} from {told['history'][-1]['checkpoint']}"
    )


def test_the_plan_and_what_is_forecast_of_each_group(page: Page, site: Site, client: Client) -> None:
    source = PlannedRun("with-a-plan")
    push_all(client, source, stop=38)
    get_map(client, "with-a-plan")  # waits until the rows are worked off
    open_run(page, site, "/runs/with-a-plan")
    page.locator("#advice summary").click()
    expect(page.locator("#advice .plan")).to_have_text(
        "Planned: 100 steps ahead, learning rates known; for accuracy, larger is better."
    )
    outlooks = get_run(client, "with-a-plan").outlooks
    rows = page.locator("#advice [data-outlook]")
    assert rows.evaluate_all("all => all.map(a => a.dataset.outlook)") == [one.group for one in outlooks]
    expect(rows.first.locator("td")).to_have_text(
        [
            f"{percent(outlooks[0].remaining)} ({percent(outlooks[0].low)} to {percent(outlooks[0].high)})",
            f"settled since checkpoint {outlooks[0].settled_since}",
        ]
    )
    keep_screenshot(page, "plan")


def percent(value: float) -> str:
    """Two significant digits, as the page has them of small parts."""
    assert 1e-5 < value < 0.1
    return f"{Decimal(f'{100 * value:.1e}'):f} %"


def test_a_random_walk_stands_beside_the_run(page: Page, site: Site, client: Client) -> None:
    open_run(page, site)
    page.locator("#null-panel > summary").click()
    page.locator("#null-walk .hm").wait_for()
    assert_shown(page, get_map(client, "plain", relative_to=0)["map"], "null-own")
    walk = random_walk_null(PLAIN.rates()[1:])
    assert_shown(page, walk, "null-walk")
    expect(page.locator("#null-walk-title")).to_have_text(f"random walk · ω₀ = {walk.mean():.3f}")
    expect(page).to_have_url(site.url("/runs/plain?open=null"))
    keep_screenshot(page, "null")


def test_the_spectrum(page: Page, site: Site, client: Client) -> None:
    open_run(page, site, "/runs/plain?open=spectrum")
    told = get_map(client, "plain")
    page.locator("#spectrum .scatterlayer").wait_for()

    def check() -> None:
        for index, matrix in enumerate((told["map"], told["gram"])):
            values = np.linalg.eigvalsh(matrix)[::-1]
            shown = page.evaluate("i => Array.from(document.getElementById('spectrum').data[i].y)", index)
            np.testing.assert_allclose(shown[:8], values[:8] / values.sum(), rtol=1e-9)
            # Two checkpoints are the same: one eigenvalue is 0, and what is computed for it is rounding.
            assert [value is None for value in shown] == [False] * (len(values) - 1) + [True]

    until(check)
    expect(page.locator("#spectrum-words")).to_contain_text(
        f"of {PLAIN.num_checkpoints} checkpoints; eigenvalues below their own error are left out"
    )


def test_a_run_of_one_checkpoint(page: Page, site: Site) -> None:
    open_run(page, site, "/runs/single")
    assert shown_map(page).tolist() == [[1.0]]
    expect(page.locator("#map-omega")).to_have_text("ω = 1.000")
    expect(page.locator("#curves .undefined:visible").first).to_have_text("undefined")


def test_undefined_entries_are_no_numbers(page: Page, site: Site, client: Client) -> None:
    open_run(page, site, "/runs/gaps?scope=layer:h.0.attn.qkv.weight")
    expected = get_map(client, "gaps", "layer:h.0.attn.qkv.weight")["map"]
    assert np.isnan(expected[4]).all()
    assert_shown(page, expected)
    expect(page.locator("#map-notes")).to_contain_text("17 of 81 entries are undefined")
    expect(page.locator("#map-omega")).to_have_text(f"ω = {np.nanmean(expected):.3f}")
    page.locator("#map").focus()
    for _ in range(5):
        page.keyboard.press("ArrowUp")
    expect(page.locator("#map-readout")).to_have_text("i 4, j 8 · steps 40, 80 · cosine undefined")
    expect(page.locator("#findings")).to_contain_text("h.0.attn.qkv.weight")


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("/runs/plain?scope=layer:nope", "has no layer 'nope'"),
        ("/runs/plain?tau=999", "checkpoint 999 is not among those of the map (0 to 23)"),
        ("/runs/plain?tau=x", "relative_to: 'x' is not a whole number"),
        ("/runs/plain?kernel=cubic", "kernel: 'cubic' is not one of linear, rbf, polynomial"),
    ],
)
def test_a_wrong_address_is_said_to_be_wrong(
    page: Page, site: Site, watched: Watched, address: str, text: str
) -> None:
    watched.expected = "Failed to load resource"
    open_run(page, site, address)
    expect(page.locator("#problem")).to_contain_text(text)
    expect(page.locator("#name")).to_have_text("plain")
