"""`trajmon demo`: a server, a real training under watch, its map, hallmarks, metrics and advice."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trajmon.cli.show import show

if TYPE_CHECKING:
    from trajmon import Recorder

__all__ = ["demo"]

RUN = "demo"
START_SECONDS = 30.0
DRAIN_SECONDS = 60.0
SHOWN_METRICS = (
    "trajmon_mean_directional_similarity",
    "trajmon_relative_mean_directional_similarity",
    "trajmon_update_angle_degrees",
    "trajmon_distance_from_initialization",
    "trajmon_switch_advised",
    "trajmon_checkpoint_step",
)


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("trajmon-demo"),
    show_default=True,
    help="Where the data is left. An earlier demo in it is replaced.",
)
@click.option(
    "--epochs", type=click.IntRange(4, 1000), default=48, show_default=True, help="How long to train."
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="What `show --json` says of the run, on stdout; all else on stderr.",
)
def demo(directory: Path, epochs: int, as_json: bool) -> None:
    """Watch a small ResNet learn handwritten digits, about a minute on two cores."""
    console = Console(stderr=as_json)
    directory = directory.absolute()
    _clear(directory)
    os.environ["TRAJMON_HOME"] = str(directory)
    os.environ.pop("TRAJMON_SERVER", None)
    os.environ.pop("TRAJMON_TOKEN", None)
    with _server(directory) as addresses:
        console.print(f"server      gRPC {addresses['grpc']}   metrics http://{addresses['metrics']}/metrics")
        _train(console, addresses["grpc"], epochs)
        _show(console, directory, addresses, as_json)
    _say_where(console, directory)


def _clear(directory: Path) -> None:
    marker = directory / "demo.json"
    if directory.exists() and any(directory.iterdir()):
        if not marker.exists():
            raise click.UsageError(f"{directory} holds something that is not a demo; give another with --dir")
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"run": RUN}))


@contextlib.contextmanager
def _server(directory: Path) -> Iterator[dict[str, str]]:
    """A server of its own on free ports, stopped at the end."""
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "trajmon_server", "serve", "--data-dir", str(directory / "data")]
            + [part for name in ("grpc", "http", "metrics") for part in (f"--{name}", "127.0.0.1:0")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield _wait_for_server(process, directory / "server.json", log)
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_server(process: subprocess.Popen[bytes], announced: Path, log: Path) -> dict[str, str]:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if announced.exists():
            addresses: dict[str, str] = json.loads(announced.read_text())
            return addresses
        time.sleep(0.05)
    tail = log.read_text(errors="replace").strip().splitlines()[-3:]
    raise click.ClickException("the server did not start: " + (" | ".join(tail) or "it wrote no log"))


def _train(console: Console, server: str, epochs: int) -> None:
    import torch

    import trajmon
    from trajmon.demo.training import Training

    # The agent only runs where training leaves a core, and what it finds is to be seen while training goes on.
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    training = Training(epochs)
    progress = Progress(
        TextColumn("training   "),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TimeElapsedColumn(),
    )
    task = progress.add_task("training", total=epochs)
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    console.print(f"network     ResNet with BatchNorm, {parameters:,} parameters; SGD, step schedule\n")
    console.print(_header())
    with (
        trajmon.watch(training.model, run=RUN, optimizer=training.optimizer, server=server) as recorder,
        Live(progress, console=console, refresh_per_second=8),
    ):
        for epoch in training.run():
            recorder.checkpoint(
                step=epoch.step, epoch=epoch.number, metrics={"loss": epoch.loss, "accuracy": epoch.accuracy}
            )
            progress.update(task, completed=epoch.number)
            if epoch.number % max(1, epochs // 12) == 0:
                console.print(_line(epoch.number, epoch.loss, epoch.accuracy, recorder))
        progress.update(task, description="waiting")
        recorder.close(timeout=DRAIN_SECONDS)


def _header() -> str:
    return f"{'epoch':>5}  {'loss':>6}  {'accuracy':>8}  {'MDS':>6}  {'relative':>8}  {'update angle':>12}  advice"


def _line(number: int, loss: float, accuracy: float, recorder: Recorder) -> str:
    hallmarks = recorder.hallmarks.get("network", {})

    def shown(name: str, form: str) -> str:
        value = hallmarks.get(name, math.nan)
        return format(value, form) if math.isfinite(value) else "-"

    return (
        f"{number:>5}  {loss:6.3f}  {accuracy:8.1%}  {shown('mds', '.3f'):>6}  {shown('relative_mds', '.3f'):>8}  "
        f"{shown('update_angle_degrees', '.1f') + '°':>12}  {recorder.advice.state}"
    )


def _show(console: Console, directory: Path, addresses: dict[str, str], as_json: bool) -> None:
    """The map in the terminal and as a picture, then the metrics as Prometheus would read them."""
    arguments = [RUN, "--server", addresses["grpc"], "--out", str(directory / f"{RUN}.png")]
    show.main([*arguments, *(["--json"] if as_json else [])], standalone_mode=False)
    with urllib.request.urlopen(f"http://{addresses['metrics']}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    console.print("\nlive metrics")
    for line in lines:
        name, _, value = line.rpartition(" ")
        if name.startswith(SHOWN_METRICS) and ('group="network"' in name or "group=" not in name):
            console.print(f"  {float(value):<12.6g}{name}", soft_wrap=True, highlight=False, markup=False)


def _say_where(console: Console, directory: Path) -> None:
    shown = directory.name if directory.parent == Path.cwd() else str(directory)
    console.print(f"\npicture     {shown}/{RUN}.png")
    console.print(f"maps        xarray.open_zarr('{shown}/data/maps/<run id>.zarr')")
    console.print(f"look again  TRAJMON_HOME={shown} trajmon show {RUN}", soft_wrap=True)
    console.print(f"web page    TRAJMON_HOME={shown} trajmon-server serve, then open", soft_wrap=True)
    console.print(f"            http://127.0.0.1:8080/?token=$(cat {shown}/token)", soft_wrap=True)
