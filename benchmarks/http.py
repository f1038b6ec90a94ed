"""The HTTP API: maps of long runs, the list of many runs, and pages that are open while rows come.

Every figure is taken on a real server process over loopback, from the request to the last byte of the answer.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from benchmarks._figures import figure
from benchmarks._http_pages import pages_and_ingest
from benchmarks.server import wait_idle

from browser.visiting import ARGUMENTS
from support.house import describe
from support.rows import SyntheticRun
from support.server import ServerProcess
from support.web import Web
from trajmon_protos import record
from trajmon_server.runs.run import RunControl

NUM_RUNS = 1000
ROWS_EACH = 6
CLICKS = 5


def long_run(data_dir: Path, name: str, count: int) -> None:
    """A run of one layer with `count` rows in the journal, as the server writes them but for the syncs."""
    run = SyntheticRun(name, num_layers=1, layer_size=8, num_checkpoints=count)
    write_run(data_dir, run, count)


def write_run(data_dir: Path, run: SyntheticRun, count: int) -> None:
    """The same for any run."""
    folder = data_dir / "journal" / run.run_id
    (folder / "rows").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(describe(run).to_json()))
    (folder / "control.json").write_text(json.dumps(RunControl(1, 1).to_json()))
    for checkpoint in range(count):
        row = run.row(checkpoint, [checkpoint - 1] if checkpoint else [])
        if checkpoint > 1:
            # The path is all of them; naming it in full would take a list as long for each row.
            step, before = np.diff(run.parameters[checkpoint - 2 : checkpoint + 1], axis=0)[::-1]
            moved, first = (
                run.parameters[checkpoint] - run.parameters[0],
                run.parameters[1] - run.parameters[0],
            )
            row.products[:, 1] = np.einsum("lp,lp->l", step, before)
            row.products[:, 3] = np.einsum("lp,lp->l", moved, first)
        (folder / "rows" / f"{checkpoint:08d}.0000.row").write_bytes(record.encode(row))


def answered(web: Web, path: str, repetitions: int = 5) -> tuple[float, int]:
    """Median seconds to the last byte, and the bytes."""
    taken = []
    for _ in range(repetitions):
        start = time.perf_counter()
        answer = web.get(path)
        taken.append(time.perf_counter() - start)
        assert answer.status == 200, answer.text
    return statistics.median(taken), len(answer.body)


def wait_known(web: Web, run: str, seconds: float = 300.0) -> None:
    """Until the rows of a run are worked off."""
    deadline = time.monotonic() + seconds
    while web.get(f"/api/v1/runs/{run}/map?start=0&stop=1").status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def maps_and_list(folder: Path) -> list[dict[str, Any]]:
    server = ServerProcess(folder / "reading")
    long_run(server.data_dir, "t1000", 1000)
    long_run(server.data_dir, "t10000", 10_000)
    for index in range(NUM_RUNS - 2):
        write_run(server.data_dir, SyntheticRun(f"run-{index}", num_checkpoints=ROWS_EACH), ROWS_EACH)
    server.start()
    try:
        web = Web(server.addresses["http"], server.token)
        for run in ("t1000", "t10000"):
            wait_known(web, run)
        wait_idle(server)
        figures = []
        scope = "scope=layer:layer0.weight"
        for name, path, limit in (
            ("map of a layer, T=1000, f32", f"/api/v1/runs/t1000/map?{scope}&format=f32", 1.0),
            (
                "relative map of a layer, T=1000, f32",
                f"/api/v1/runs/t1000/map?{scope}&format=f32&relative_to=0",
                1.0,
            ),
            ("map of a layer, T=1000, JSON", f"/api/v1/runs/t1000/map?{scope}", None),
            ("map of a layer, T=1000, PNG", f"/api/v1/runs/t1000/map?{scope}&format=png", None),
            ("map of a layer, T=10,000 reduced, f32", f"/api/v1/runs/t10000/map?{scope}&format=f32", 2.0),
            (
                "relative map of a layer, T=10,000 reduced, f32",
                f"/api/v1/runs/t10000/map?{scope}&format=f32&relative_to=0",
                2.0,
            ),
            ("hallmarks of a layer, T=10,000", f"/api/v1/runs/t10000/hallmarks?{scope}", None),
            ("the same, each 10th, again", f"/api/v1/runs/t10000/hallmarks?{scope}&max_points=1024", None),
            (f"list of {NUM_RUNS} runs", f"/api/v1/runs?limit={NUM_RUNS}", 0.5),
        ):
            seconds, size = answered(web, path)
            figures.append(figure(name, seconds, "s", limit))
            print(f"{name}: {seconds:.3f} s, {size / 1e6:.1f} MB", file=sys.stderr)
        figures += clicks(server)
        figures.append(figure("server's memory after it", server.rss_bytes() / 2**20, "MiB", 1024.0))
        return figures
    finally:
        server.stop()


CLICK = """async scope => {
  const plot = document.getElementById("map"), select = document.getElementById("scope");
  const drawn = new Promise(resolve => plot.on("plotly_afterplot", resolve));
  const start = performance.now();
  select.value = scope;
  select.dispatchEvent(new Event("change", { bubbles: true }));
  await drawn;
  await new Promise(requestAnimationFrame);
  const end = performance.now();
  plot.removeAllListeners("plotly_afterplot");
  const asked = performance.getEntriesByType("resource").filter(
    a => a.startTime >= start && a.responseEnd <= end && decodeURIComponent(a.name).includes("scope=" + scope)
  );
  if (scope !== "network" && !asked.some(a => a.name.includes("/map?"))) throw Error("something else was drawn");
  return (end - start) / 1000;
}"""
"""From the choice of a scope to its map on the screen, in seconds."""


def clicks(server: ServerProcess) -> list[dict[str, Any]]:
    """Maps in a real browser, from the click to the picture."""
    path = shutil.which("chromium")
    if path is None:
        raise RuntimeError("the browser's figures need chromium on the PATH; on Debian: make browser")
    address, figures = f"http://{server.addresses['http']}", []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/?token={server.token}")
        for run, limit in (("t1000", 1.0), ("t10000", 2.0)):
            page.goto(f"{address}/runs/{run}")
            page.locator("body[data-ready]").wait_for()
            page.wait_for_load_state("networkidle")
            scopes = ["layer:layer0.weight", "network"] * CLICKS
            taken = []
            for scope in scopes:
                taken.append(float(page.evaluate(CLICK, scope)))
                page.wait_for_load_state("networkidle")
            name = f"browser: from the click to a layer's map, {run}"
            figures.append(figure(name, statistics.median(taken[::2]), "s", limit))
            figures.append(figure("the same, slowest", max(taken[::2]), "s", None))
            print(f"{name}: {[round(a, 2) for a in taken[::2]]}", file=sys.stderr)
        browser.close()
    return figures


def run() -> list[dict[str, Any]]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="trajmon-http-") as folder:
        return [*maps_and_list(Path(folder)), *pages_and_ingest(Path(folder))]
