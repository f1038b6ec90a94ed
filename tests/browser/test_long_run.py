"""A run of more checkpoints than a page is sent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from browser.runs import Training, shown_curves, shown_map, until
from browser.visiting import TIMEOUT_MS, Site, Watched, run_server
from support.calls import get_hallmarks, get_map
from support.house import House
from support.server import Client

LENGTH = 1030
RUN = Training("long", num_checkpoints=LENGTH, names=("a.weight", "b.weight"), layer_size=8)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A server that finds the run in its journal."""
    with ThreadPoolExecutor(2) as executor:
        House(tmp_path / "home" / "data", executor).store(RUN, LENGTH)
    for server in run_server(tmp_path / "home"):
        yield Site(server)


def test_a_long_map_is_reduced_and_says_so(browser: Browser, site: Site, watched: Watched) -> None:
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    watched.watch(page)
    page.goto(site.entry)
    page.goto(site.url("/runs/long"))
    page.locator("body[data-ready]").wait_for()
    with Client(site.server.addresses["grpc"], site.server.token) as client:
        whole = get_map(client, "long")["map"]
        every = get_hallmarks(client, "long")
    blocks = (
        np.add.reduceat(np.add.reduceat(whole, np.arange(0, LENGTH, 2), 0), np.arange(0, LENGTH, 2), 1) / 4
    )
    until(lambda: np.testing.assert_allclose(shown_map(page), blocks, rtol=0, atol=1e-6))
    expect(page.locator("#map-notes")).to_contain_text(
        "1030 checkpoints, shown as 515: each entry is the mean over 2 × 2."
    )
    expect(page.locator("#map-omega")).to_have_text(f"ω = {whole.mean():.3f}")
    expect(page.locator(".curves-notes")).to_have_text(
        "Every 2nd of 1030 checkpoints is shown, and the last. Saved data has all of them."
    )
    assert int(page.locator("#tau").get_attribute("max") or 0) == LENGTH - 1
    x, y = shown_curves(page, "mds")["MDS ω"]
    assert x == [*range(0, LENGTH, 2), LENGTH - 1]
    np.testing.assert_allclose(y, every["mds"][x], rtol=1e-12)
    saved = page.locator("#curve-mds").locator("xpath=ancestor::figure").get_by_text("Data (CSV)")
    assert "max_points" not in (saved.get_attribute("href") or "max_points")
    page.locator("#map").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#map-readout")).to_contain_text("i 1028–1029, j 1028–1029 · steps")
    context.close()
    assert watched.problems == []
