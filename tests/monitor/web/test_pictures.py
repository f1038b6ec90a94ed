"""Pictures: the colours are those of the command line, and what is read off them is right."""

from __future__ import annotations

import io
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from trajmon.plot.colors import SWITCH_RGB, UNDEFINED_RGB
from trajmon.plot.colors import colormap as command_colormap
from trajmon_server.web.pictures import SWITCH, UNDEFINED, colormap, draw_map, printable


def head(count: int, **more: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "run": "demo",
        "scope": "network",
        "kernel": "linear",
        "relative_to": None,
        "mean": 0.5,
        "mean_error": 0.0,
        "reduced": None,
        "checkpoint": list(range(count)),
        "mode": [0] * count,
    }
    return told | more


def colors_in(png: bytes) -> set[tuple[int, int, int]]:
    pixels = (matplotlib.image.imread(io.BytesIO(png))[:, :, :3] * 255).round().astype(int)
    found, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    return {(int(r), int(g), int(b)) for r, g, b in found[counts > 500]}


def test_the_colours_are_those_of_the_command_line() -> None:
    np.testing.assert_array_equal(np.rint(255 * colormap()), command_colormap())
    assert "#" + bytes(UNDEFINED_RGB).hex() == UNDEFINED
    assert "#" + bytes(SWITCH_RGB).hex() == SWITCH


def test_entries_have_the_colours_of_their_values() -> None:
    entries = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, np.nan], [0.5, np.nan, 1.0]])
    found = colors_in(draw_map(head(3), entries, "png"))
    table = command_colormap()
    for value in (table[255], table[0], table[128], np.array(UNDEFINED_RGB)):
        assert any(np.abs(np.array(color) - value).max() <= 1 for color in found), value


@pytest.mark.parametrize("count", [0, 1, 2, 40])
@pytest.mark.parametrize("form", ["png", "svg"])
def test_any_size_and_no_defined_entry(count: int, form: str) -> None:
    for entries in (np.ones((count, count)), np.full((count, count), np.nan)):
        for fitted in (False, True):
            assert len(draw_map(head(count, mean=None), entries, form, fitted=fitted)) > 1000


def test_everything_that_is_said_fits_in() -> None:
    told = head(
        4,
        run="a$b^c_{d}\\x" * 6,
        scope="layer:<img>\x1b[31m\u202e💩",
        relative_to=12,
        mean_error=0.0123,
        mode=[0, 1, 1, 0],
        reduced={"from": 40, "to": 4, "block": 10},
    )
    drawn = draw_map(told, np.eye(4), "svg")
    assert b"<img>" not in drawn
    assert draw_map(told, np.eye(4), "png").startswith(b"\x89PNG")


def test_unprintable_signs() -> None:
    assert printable("run\x1b[31m\u202eω") == "run□[31m□ω"
