"""Two runs across each other, on the page that compares runs."""

from __future__ import annotations

import io
import json
import re
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

from browser.runs import keep_screenshot, until
from browser.test_saving import saved
from browser.visiting import Site, Watched
from support.calls import push, push_all
from support.rows import SALT, SyntheticRun
from support.server import Client
from support.sketches import sketch_record
from support.web import Web

ESTIMATED = "run=wide-a&run=wide-b"


@pytest.fixture(scope="module", autouse=True)
def sketched(site: Site) -> None:
    """`wide-a`, `wide-b`: estimates; `exact-a`, `exact-b`: layers that fit a sketch; `more`: other layers."""
    salt = SALT.set("cross")
    wide = [
        SyntheticRun(name, layer_size=64, seed=seed, num_checkpoints=count)
        for name, seed, count in (("wide-a", 1, 12), ("wide-b", 2, 9))
    ]
    exact = [SyntheticRun(name, seed=seed) for name, seed in (("exact-a", 1), ("exact-b", 2))]
    # Away from the other, so that cosines are negative.
    exact[1].parameters = exact[1].parameters - 9.0
    with Client(site.server.addresses["grpc"], site.server.token) as client:
        for run in (*wide, *exact, SyntheticRun("more", num_layers=4, num_checkpoints=2)):
            epoch = push_all(client, run)
            for checkpoint in range(run.num_checkpoints):
                push(client, run, epoch, sketch_record(run, checkpoint))
    SALT.reset(salt)


def told(site: Site, run: str, other: str, **query: str) -> dict[str, Any]:
    web = Web(site.server.addresses["http"], site.server.token)
    answer: dict[str, Any] = web.json(f"/api/v1/cross?{urlencode({'run': run, 'other': other, **query})}")
    return answer


def open_view(page: Page, site: Site, query: str) -> None:
    page.goto(site.url(f"/compare?{query}"))
    page.locator("body[data-ready]").wait_for()


def read(page: Page, element: str, what: str) -> NDArray[np.float64]:
    found = page.evaluate(f"id => document.getElementById(id).data[0].{what}", element)
    return np.array(found, dtype=np.float64)


def floats(values: Any) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def test_numbers_are_those_of_the_server(page: Page, site: Site) -> None:
    open_view(page, site, ESTIMATED)
    answer = told(site, "wide-a", "wide-b")
    shown = read(page, "cross-map", "z")
    assert shown.shape == (12, 9)
    np.testing.assert_array_equal(shown, floats(answer["map"]))
    ends = [float(read(page, "cross-map", end)) for end in ("zmin", "zmax")]
    assert ends == [shown.min(), 1.0]
    # Distances at equal numbers, with 95 % bars; checkpoints 9 to 11 have no partner.
    assert read(page, "cross-distance", "x").tolist() == list(range(9))
    y, bars = read(page, "cross-distance", "y"), read(page, "cross-distance", "error_y.array")
    np.testing.assert_array_equal(y, np.diag(floats(answer["distance"])))
    np.testing.assert_allclose(bars, 1.96 * np.diag(floats(answer["distance_error"])), rtol=1e-12)
    assert bars.min() > 0
    expect(page.locator("#cross-about")).to_have_text("network · about the origin")
    keep_screenshot(page, "cross")


def test_the_nearest_checkpoint_is_told(page: Page, site: Site) -> None:
    open_view(page, site, ESTIMATED)
    answer = told(site, "wide-a", "wide-b")
    distance, error = floats(answer["distance"])[-1], floats(answer["distance_error"])[-1]
    best = int(distance.argmin())
    near = np.flatnonzero(distance - error < distance[best] + error[best])
    words = page.locator("#cross-nearest").inner_text()
    found = re.fullmatch(
        r"Nearest to checkpoint 11 of wide-a, its last: checkpoint (\d+) of wide-b"
        r"(?: \((\d+) to (\d+) within error\))?, at distance (\S+) ± (\S+)\.",
        words,
    )
    assert found is not None, words
    assert int(found[1]) == best
    assert (int(found[2] or best), int(found[3] or best)) == (near[0], near[-1])
    digits = len(found[5].partition(".")[2])
    assert (found[4], found[5]) == (f"{distance[best]:.{digits}f}", f"{error[best]:.{digits}f}")


def test_a_pair_is_told_under_the_cursor_and_the_mouse(page: Page, site: Site) -> None:
    open_view(page, site, ESTIMATED)
    answer = told(site, "wide-a", "wide-b")
    readout = page.locator("#cross-readout")
    page.locator("#cross-map").focus()
    page.keyboard.press("ArrowUp")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    check_words(readout.inner_text(), answer, 11, 5)
    page.keyboard.press("Escape")
    plot = page.locator("#cross-map .nsewdrag").bounding_box()
    assert plot is not None
    page.mouse.move(plot["x"] + plot["width"] * 2.2 / 9, plot["y"] + plot["height"] * 7.2 / 12)
    expect(readout).to_contain_text("i 7, j 2 ")
    check_words(readout.inner_text(), answer, 7, 2)
    label = page.locator("#cross-map .hoverlayer .hovertext")
    expect(label).to_contain_text("steps 70, 20")
    # A part is enlarged: every checkpoint that is seen has its number.
    page.mouse.down()
    page.mouse.move(plot["x"] + plot["width"] * 6 / 9, plot["y"] + plot["height"] * 11 / 12, steps=4)
    page.mouse.up()
    until(lambda: np.testing.assert_array_equal(ticks(page, "yaxis"), ["7", "8", "9", "10"]))
    np.testing.assert_array_equal(ticks(page, "xaxis"), ["2", "3", "4", "5"])


def ticks(page: Page, axis: str) -> list[str]:
    found: list[str] = page.evaluate(
        "axis => document.getElementById('cross-map')._fullLayout[axis].ticktext", axis
    )
    return found


def check_words(words: str, answer: dict[str, Any], i: int, j: int) -> None:
    found = re.fullmatch(
        r"i (\d+), j (\d+) · steps (\d+), (\d+) · cosine (\S+) ± (\S+) · distance (\S+) ± (\S+)", words
    )
    assert found is not None, words
    assert [int(found[k]) for k in (1, 2, 3, 4)] == [i, j, 10 * i, 10 * j]
    for at, name, error in ((5, "map", "error"), (7, "distance", "distance_error")):
        digits = len(found[at + 1].partition(".")[2])
        assert found[at] == f"{answer[name][i][j]:.{digits}f}"
        assert found[at + 1] == f"{answer[error][i][j]:.{digits}f}"
        assert len(found[at + 1].replace(".", "").lstrip("0")) == 2


def test_cosines_may_be_negative(page: Page, site: Site) -> None:
    open_view(page, site, "run=exact-a&run=exact-b&scale=fitted")
    answer = told(site, "exact-a", "exact-b")
    shown = read(page, "cross-map", "z")
    np.testing.assert_array_equal(shown, floats(answer["map"]))
    assert shown.min() < 0
    ends = [float(read(page, "cross-map", end)) for end in ("zmin", "zmax")]
    assert ends == [shown.min(), shown.max()]
    page.locator("#scale").select_option("fixed")
    until(lambda: np.testing.assert_equal(float(read(page, "cross-map", "zmax")), 1.0))


def test_about_the_initialization_of_a_group(page: Page, site: Site) -> None:
    open_view(page, site, ESTIMATED)
    page.locator("#about").select_option("0")
    page.locator("#scope").fill("group:first")
    page.locator("#scope").press("Enter")
    answer = told(site, "wide-a", "wide-b", scope="group:first", from_initialization="true")

    def agrees() -> None:
        np.testing.assert_array_equal(read(page, "cross-map", "z"), floats(answer["map"]))
        np.testing.assert_array_equal(read(page, "cross-distance", "y"), np.diag(floats(answer["distance"])))

    # The initialization has no direction from itself.
    assert np.isnan(floats(answer["map"])[0]).all()
    until(agrees)
    page.reload()
    page.locator("body[data-ready]").wait_for()
    agrees()
    expect(page.locator("#cross-about")).to_have_text("group first · about the initializations")
    page.locator("#cross-map").focus()
    page.keyboard.press("ArrowRight")
    for _ in range(12):
        page.keyboard.press("ArrowUp")
    expect(page.locator("#cross-readout")).to_contain_text(
        "i 0, j 8 · steps 0, 80 · cosine undefined · distance"
    )
    page.go_back()
    page.go_back()
    until(
        lambda: np.testing.assert_array_equal(
            read(page, "cross-map", "z"), floats(told(site, "wide-a", "wide-b")["map"])
        )
    )


def test_runs_without_sketches_say_so(page: Page, site: Site) -> None:
    web = Web(site.server.addresses["http"], site.server.token)
    for run, other in (("plain", "other"), ("exact-a", "plain")):
        answer = web.get(f"/api/v1/cross?run={run}&other={other}")
        assert answer.reason == "NO_SKETCHES"
        open_view(page, site, f"run={run}&run={other}")
        expect(page.locator("#cross-why")).to_have_text(answer.json["detail"])
        expect(page.locator("#cross-map")).to_be_hidden()
        expect(page.locator("#maps figure")).to_have_count(2)


def test_a_refusal_is_shown_in_the_servers_words(page: Page, site: Site, watched: Watched) -> None:
    watched.expected = "Failed to load resource"
    open_view(page, site, ESTIMATED)
    page.get_by_role("button", name="Take wide-a out").click()
    expect(page.locator("#cross")).to_be_hidden()
    page.locator("#add").fill("more")
    page.locator("#add").press("Enter")
    words = re.compile(r"^layer 0 of run 'wide-b' is .*; a map across runs needs the same layers in both$")
    expect(page.locator("#cross-why")).to_have_text(words)
    expect(page.locator("#cross-map")).to_be_hidden()
    page.get_by_role("button", name="Take more out").click()
    page.locator("#add").fill("wide-a")
    page.locator("#add").press("Enter")
    expect(page.locator("#cross-map")).to_be_visible()
    answer = told(site, "wide-b", "wide-a")
    until(lambda: np.testing.assert_array_equal(read(page, "cross-map", "z"), floats(answer["map"])))


def test_two_runs_it_takes(page: Page, site: Site) -> None:
    for query in ("run=wide-a", f"{ESTIMATED}&run=exact-a"):
        open_view(page, site, query)
        expect(page.locator("#maps figure").first).to_be_visible()
        expect(page.locator("#cross")).to_be_hidden()


def test_pictures_and_data(page: Page, site: Site) -> None:
    open_view(page, site, f"{ESTIMATED}&about=0")
    name, picture = saved(page, "#cross-save", "PNG")
    assert name == "wide-a-wide-b-network-cross.png"
    drawn = imread(io.BytesIO(picture), format="png")[::3, ::3, :3]
    assert len(np.unique((drawn * 255).astype(int).reshape(-1, 3), axis=0)) > 10
    name, text = saved(page, "#cross-distance-save", "SVG")
    assert name == "wide-a-wide-b-network-distance.svg"
    assert b"<svg" in text
    _, data = saved(page, "#cross-save", "Data (JSON)")
    assert json.loads(data) == told(site, "wide-a", "wide-b", from_initialization="true")
