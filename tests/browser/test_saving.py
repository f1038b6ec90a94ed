"""Pictures and data that a page saves."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.image import imread
from playwright.sync_api import Page

from browser.visiting import Site
from support.calls import get_hallmarks, get_map
from support.server import Client


def saved(page: Page, menu: str, entry: str) -> tuple[str, bytes]:
    """What a menu's entry hands out: the file's name and its bytes."""
    page.locator(f"{menu} > summary").click()
    with page.expect_download() as caught:
        page.locator(menu).get_by_text(entry, exact=True).click()
    return caught.value.suggested_filename, Path(caught.value.path()).read_bytes()


def open_view(page: Page, site: Site, address: str) -> None:
    page.goto(site.url(address))
    page.locator("body[data-ready]").wait_for()


@pytest.mark.parametrize(
    ("address", "menu", "stem"),
    [
        ("/runs/plain", "#map-save", "plain-network"),
        ("/runs/plain", "figure:has(#curve-norms) .menu", "plain-norms"),
        ("/compare?run=plain&run=other", 'figure[data-run="other"] .menu', "other-network"),
    ],
)
def test_pictures(page: Page, site: Site, address: str, menu: str, stem: str) -> None:
    open_view(page, site, address)
    name, picture = saved(page, menu, "PNG")
    assert name == f"{stem}.png"
    drawn = imread(io.BytesIO(picture), format="png")
    # Drawn, and not in one colour.
    assert min(drawn.shape[:2]) > 300
    assert len(np.unique((drawn[::3, ::3, :3] * 255).astype(int).reshape(-1, 3), axis=0)) > 10
    name, text = saved(page, menu, "SVG")
    assert name == f"{stem}.svg"
    assert ET.fromstring(text).tag.endswith("svg")


def test_the_layers_on_one_sheet(page: Page, site: Site) -> None:
    open_view(page, site, "/runs/plain/layers?filter=*.mlp.*")
    name, text = saved(page, "#layers-save", "SVG of all shown")
    assert name == "plain-layers.svg"
    root = ET.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}image")) == 3
    assert "h.1.mlp.fc.weight" in [text.text for text in root.findall(f"{space}text")]
    _, picture = saved(page, "#layers-save", "PNG of all shown")
    drawn = imread(io.BytesIO(picture), format="png")
    assert len(np.unique((drawn[..., :3] * 255).astype(int).reshape(-1, 3), axis=0)) > 30


def test_data(page: Page, site: Site, client: Client) -> None:
    open_view(page, site, "/runs/plain?tau=0&scope=group%3Amlp")
    _, data = saved(page, "#map-save", "Data (.npz, all checkpoints)")
    expected = get_map(client, "plain", "group:mlp", relative_to=0)
    with np.load(io.BytesIO(data)) as file:
        np.testing.assert_array_equal(file["map"], expected["map"])
        np.testing.assert_array_equal(file["gram"], expected["gram"])
        assert str(file["scope"]) == "group:mlp"
    _, table = saved(page, "figure:has(#curve-mds) .menu", "Data (CSV)")
    columns = table.decode().splitlines()[0].split(",")
    last = table.decode().splitlines()[-1].split(",")
    assert float(last[columns.index("mds")]) == get_hallmarks(client, "plain", "group:mlp")["mds"][-1]
