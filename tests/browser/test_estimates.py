"""A run with few snapshots: estimated values stand with their standard errors, exact ones without."""

from __future__ import annotations

import re

import numpy as np
from playwright.sync_api import Page, expect

from browser.runs import shown_map, until
from browser.visiting import TIMEOUT_MS, Site
from support.calls import get_hallmarks, get_map, open_run, push
from support.server import Client
from support.sketched_rows import SketchedRun, anchored


def test_estimated_entries_have_their_errors(page: Page, site: Site, client: Client) -> None:
    run = SketchedRun("estimated", kept=anchored)
    epoch = open_run(client, run).writer_epoch
    for checkpoint in range(run.num_checkpoints):
        push(client, run, epoch, run.sketch_record(checkpoint))
        push(client, run, epoch, run.record(checkpoint))
    told = get_map(client, "estimated")
    page.goto(site.url("/runs/estimated"))
    page.locator("body[data-ready]").wait_for()
    np.testing.assert_allclose(shown_map(page), told["map"], rtol=0, atol=6e-8)
    expect(page.locator("#map-omega")).to_have_text(re.compile(r"^ω = 0\.\d+ ± 0\.\d+$"))
    expect(page.locator("#map-notes")).to_contain_text("Entries with ± are estimated from sketches.")
    last = len(told["map"]) - 1
    estimated = int(np.flatnonzero(told["error"][last] > 0)[-1])
    page.locator("#map").focus()
    page.keyboard.press("ArrowLeft")
    readout = page.locator("#map-readout")
    expect(readout).to_have_text(re.compile(rf"^i {last}, j {last} .* cosine 1\.000000$"))
    for _ in range(last - estimated):
        page.keyboard.press("ArrowLeft")
    expect(readout).to_contain_text(f"j {estimated} ")
    words = re.search(r"cosine (\S+) ± (\S+) \(estimated\)$", readout.inner_text())
    assert words is not None
    digits = len(words[2].partition(".")[2])
    assert words[1] == f"{told['map'][last, estimated]:.{digits}f}"
    assert words[2] == f"{told['error'][last, estimated]:.{digits}f}"
    bars = page.evaluate("() => Array.from(document.getElementById('curve-mds').data[0].error_y.array)")
    errors = get_hallmarks(client, "estimated")["error:mds"]
    np.testing.assert_allclose(bars, 1.96 * np.nan_to_num(errors), rtol=1e-12)
    assert max(bars) > 0


def test_exact_values_take_the_place_of_estimates_while_the_page_is_open(
    page: Page, site: Site, client: Client
) -> None:
    """The row of a checkpoint that was shown from its sketch: no checkpoint more, and better numbers."""
    run = SketchedRun("made-exact", num_checkpoints=5, kept=lambda newest, earlier: True)
    epoch = open_run(client, run).writer_epoch
    for checkpoint in range(4):
        push(client, run, epoch, run.sketch_record(checkpoint))
        push(client, run, epoch, run.record(checkpoint))
    page.goto(site.url("/runs/made-exact"))
    page.locator("body[data-ready]").wait_for()
    push(client, run, epoch, run.sketch_record(4))
    notes = page.locator("#map-notes")
    # The server waits a while for the row.
    expect(notes).to_contain_text("Entries with ± are estimated from sketches.", timeout=TIMEOUT_MS)
    assert shown_map(page).shape == (5, 5)
    push(client, run, epoch, run.record(4))
    expect(notes).not_to_contain_text("±", timeout=TIMEOUT_MS)
    expect(page.locator("#map-omega")).to_have_text(re.compile(r"^ω = 0\.\d+$"))
    np.testing.assert_allclose(shown_map(page), get_map(client, "made-exact")["map"], rtol=0, atol=6e-8)
    errors = (
        "() => document.getElementById('curve-mds').data[0].error_y?.array?.some(value => value > 0) ?? false"
    )
    until(lambda: _is_false(page.evaluate(errors)))


def _is_false(value: object) -> None:
    assert value is False
