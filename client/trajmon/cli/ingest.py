"""`trajmon ingest`."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as RateColumn

from trajmon.cli.session import Problem, clean, family_option, home, make_console, server_option, text

if TYPE_CHECKING:
    from rich.console import Console

    from trajmon.checkpoints.finding import Order
    from trajmon.ingest.deliver import Delivery
    from trajmon.ingest.gram import Step
    from trajmon.ingest.run import Ingest, Stepper
    from trajmon.ingest.series import OpenSeries
    from trajmon.numerics.views import View

__all__ = ["ingest"]

_LINGER_SECONDS = 15.0
_MOST_THREADS = 8
_MOST_SHOWN = 60
_REPORT_SECONDS = 1.0
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_LEAST_MEMORY = 64 << 20


class _Size(click.ParamType[int]):
    """Bytes, with K, M or G (powers of 1024) if wanted."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            self.fail(f"{clean(value)!r} is not a number of bytes, for example 1G or 500M", param, ctx)
        size = int(float(match[1]) * _FACTORS[match[2].upper()])
        if size < _LEAST_MEMORY:
            self.fail(f"{clean(value)!r} is less than 64M", param, ctx)
        return size


def _views(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[View, ...]:
    """PATTERN=AXIS:NAME,NAME,...[:EXTENT,EXTENT,...]."""
    from trajmon.numerics.errors import ViewError
    from trajmon.numerics.views import View as Made

    made = []
    for value in values:
        pattern, equals, rest = value.rpartition("=")
        fields = rest.split(":")
        try:
            if not equals or not 2 <= len(fields) <= 3:
                raise ValueError
            axis, names = int(fields[0]), tuple(fields[1].split(","))
            reshape = tuple(int(extent) for extent in fields[2].split(",")) if len(fields) == 3 else None
        except ValueError:
            raise click.BadParameter(
                f"{clean(value)!r} is not PATTERN=AXIS:NAME,NAME[:EXTENT,EXTENT], "
                r"for example 'attn\.c_attn\.weight$=1:q,k,v'"
            ) from None
        try:
            made.append(Made(pattern, reshape, axis, names))
        except ViewError as error:
            raise click.BadParameter(clean(str(error), 500)) from error
    return tuple(made)


def _groups(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, list[str]]:
    """NAME=REGEX; a name may come several times."""
    made: dict[str, list[str]] = {}
    for value in values:
        name, equals, pattern = value.partition("=")
        if not equals or not name or not pattern:
            raise click.BadParameter(f"{clean(value)!r} is not NAME=REGEX, for example late='^h\\.(9|10)\\.'")
        made.setdefault(name, []).append(pattern)
    return made


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("--run", required=True, metavar="NAME", help="Name of the run that they become.")
@click.option(
    "--order",
    type=click.Choice(["step", "as-given"]),
    default="step",
    show_default=True,
    help="By training step, or as they stand on the command line.",
)
@click.option(
    "--every", type=click.IntRange(1), default=1, metavar="N", help="Take the first and each Nth after it."
)
@click.option(
    "--view",
    "views",
    multiple=True,
    callback=_views,
    metavar="PATTERN=AXIS:NAMES[:SHAPE]",
    help="Record matching tensors as equal parts along an axis, e.g. 'c_attn\\.weight$=1:q,k,v'. Repeatable.",
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    callback=_groups,
    metavar="NAME=REGEX",
    help="A group by layer names. Repeatable.",
)
@family_option
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A tag of the run. Repeatable.")
@click.option(
    "--threads", type=click.IntRange(1), help="Threads that compute. Default: all cores, at most 8."
)
@click.option(
    "--memory", type=_Size(), default="1G", show_default=True, metavar="BYTES", help="Most memory to use."
)
@click.option("--scheduler", metavar="ADDRESS", help="Compute on a Dask cluster, e.g. tcp://head:8786.")
@click.option("--dry-run", is_flag=True, help="Show the order and what is left out, and do nothing.")
@click.option("--restart", is_flag=True, help="Throw away what this run has computed from other checkpoints.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@server_option
def ingest(
    paths: tuple[Path, ...],
    run: str,
    order: Order,
    every: int,
    views: tuple[View, ...],
    groups: dict[str, list[str]],
    family: str,
    tags: tuple[str, ...],
    threads: int | None,
    memory: int,
    scheduler: str | None,
    dry_run: bool,
    restart: bool,
    as_json: bool,
    server: str | None,
) -> None:
    """Make a run of checkpoints that already exist.

    PATH is a checkpoint, or a folder that holds checkpoints: safetensors, PyTorch, Lightning, distributed and Hugging
    Face ones. Each byte is read once. Interrupted, the same command goes on where it was.
    """
    from trajmon.errors import TrajmonError
    from trajmon.ingest.run import Options
    from trajmon.numerics.errors import NumericsError

    options = Options(
        run=run,
        tags=tags,
        server=server,
        threads=threads or min(_MOST_THREADS, len(os.sched_getaffinity(0))),
        memory_bytes=memory,
        restart=restart,
    )
    screen = _Screen(make_console(), as_json)
    try:
        series = _open(paths, order, every, views, groups, family)
        try:
            screen.order(series)
            if not dry_run:
                _ingest(series, options, scheduler, screen)
        finally:
            series.close()
    except (TrajmonError, NumericsError) as error:
        raise Problem(str(error)) from error
    except OSError as error:
        raise Problem(
            f"{error.filename or 'the disk'}: {error.strerror or error}; see `trajmon doctor`"
        ) from error
    if series.refused:
        count = len(series.refused)
        raise Problem(
            f"{count} of {count + len(series.checkpoints)} checkpoints left out: "
            + "; ".join(reason for _, reason in series.refused[:3])
            + (f"; and {count - 3} more" if count > 3 else "")
        )


def _ingest(series: OpenSeries, options: Any, scheduler: str | None, screen: _Screen) -> None:
    """Compute what is missing, hand in, say how it ended."""
    from trajmon.ingest.run import compute, open_ingest

    with open_ingest(home(), series, options) as begun:
        screen.resumed(begun)
        if not begun.is_complete:
            with _stepper(scheduler, begun) as stepper, screen.progress(begun) as on_step:
                try:
                    compute(begun, on_step, stepper)
                except KeyboardInterrupt:
                    raise Problem("interrupted; the same command goes on from here") from None
        delivery = _deliver(begun, screen)
        screen.end(begun, delivery)
        if delivery.acknowledged < delivery.total:
            raise Problem(_waiting(begun, delivery))
        begun.journal.forget_sums()


def _deliver(begun: Ingest, screen: _Screen) -> Delivery:
    from trajmon._settings import AgentSettings
    from trajmon.ingest.deliver import deliver

    settings = AgentSettings.from_environment()
    settings = replace(settings, linger_seconds=min(settings.linger_seconds, _LINGER_SECONDS))
    return deliver(
        begun.run_dir,
        begun.run,
        begun.journal,
        begun.series.checkpoints,
        settings=settings,
        let_go=begun.owner.release,
        on_progress=screen.sent,
    )


def _waiting(begun: Ingest, delivery: Delivery) -> str:
    left = delivery.total - delivery.acknowledged
    why = f": {delivery.problem}" if delivery.problem else ""
    return (
        f"{left} of {delivery.total} rows are computed and not handed in{why}; {delivery.spooled} of them wait in "
        f"{begun.run_dir.spool}; the same command sends them"
    )


def _open(
    paths: tuple[Path, ...],
    order: Order,
    every: int,
    views: tuple[View, ...],
    groups: dict[str, list[str]],
    family: str,
) -> OpenSeries:
    from trajmon.ingest.series import find_series

    chosen = None if family == "none" else family
    return find_series(paths, order=order, every=every, views=views, groups=groups, family=chosen)


@contextmanager
def _stepper(scheduler: str | None, begun: Ingest) -> Iterator[Stepper | None]:
    """Where the sums are made: None is this machine."""
    if scheduler is None:
        yield None
        return
    try:
        from trajmon.ingest.cluster import connect
    except ImportError as error:
        raise Problem(f"--scheduler needs Dask ({error}): pip install 'trajmon[dask]'") from error
    with connect(scheduler, begun.series) as stepper:
        yield stepper


def _late_start(step: int) -> list[str]:
    if step == 0:
        return []
    return [
        f"the first checkpoint is from step {step}: what counts as the initialization is not that of training"
    ]


class _Screen:
    """What the user sees: tables and a bar, or one JSON object a line."""

    def __init__(self, console: Console, as_json: bool) -> None:
        self._console = console
        self._as_json = as_json
        self._sent = -1

    def order(self, series: OpenSeries) -> None:
        """Which checkpoints, in which order, and what is left out."""
        skipped = series.readers[0].skipped
        remarks = [*series.remarks, *_late_start(series.checkpoints[0].step)]
        if self._as_json:
            self._say(
                "order",
                checkpoints=[
                    {"checkpoint": number, "path": str(a.path), "label": a.label, "step": a.step}
                    for number, a in enumerate(series.checkpoints)
                ],
                refused=[{"label": label, "reason": reason} for label, reason in series.refused],
                remarks=remarks,
                skipped_tensors=dict(skipped),
                layers=len(series.layout.layers),
                parameters=series.layout.num_parameters,
            )
            return
        shown = series.checkpoints
        width = max(len("step"), len(str(max(checkpoint.step for checkpoint in shown))))
        self._console.print(f"checkpoint  {'step':>{width}}  path", style="dim")
        for number, checkpoint in enumerate(shown):
            # The middle of a long list says nothing that its ends do not.
            if _MOST_SHOWN // 2 <= number < len(shown) - _MOST_SHOWN // 2:
                if number == _MOST_SHOWN // 2:
                    self._console.print(f"{'...':>10}  {'':>{width}}  {len(shown) - _MOST_SHOWN} more")
                continue
            path = clean(str(checkpoint.path), 4096)
            self._console.print(f"{number:>10}  {checkpoint.step:>{width}}  {path}", soft_wrap=True)
        self._console.print(
            f"{len(shown)} checkpoints of {len(series.layout.layers)} layers, "
            f"{series.layout.num_parameters:,} parameters"
        )
        for remark in remarks:
            self._console.print(text(remark, "yellow"))
        if skipped:
            names = ", ".join(list(skipped)[:3]) + (", ..." if len(skipped) > 3 else "")
            self._console.print(text(f"no parameters, left out of every checkpoint: {names}", "dim"))
        for label, reason in series.refused:
            self._console.print(
                text(f"left out: {clean(label)}: {clean(reason, 500)}", "yellow"), soft_wrap=True
            )

    def resumed(self, begun: Ingest) -> None:
        """That an earlier ingest is gone on with."""
        place = begun.place
        if place.tensor == 0 and place.block == 0:
            return
        words = "all sums are there" if begun.is_complete else f"going on after {place.tensor} tensors"
        if self._as_json:
            self._say(
                "resumed", tensors=place.tensor, of=len(begun.series.tensors), complete=begun.is_complete
            )
        else:
            self._console.print(f"{words} of {len(begun.series.tensors)}")

    @contextmanager
    def progress(self, begun: Ingest) -> Iterator[Callable[[Step], None]]:
        """A bar with rate and remaining time; with --json a line a second."""
        total = begun.source.total_bytes()
        done = total - begun.source.remaining_bytes(begun.place.tensor, begun.place.block)
        if self._as_json:
            began, last, start = time.monotonic(), -_REPORT_SECONDS, done

            def report(step: Step) -> None:
                nonlocal done, last
                done += step.read_bytes
                now = time.monotonic() - began
                if now - last >= _REPORT_SECONDS or done == total:
                    last = now
                    self._say(
                        "progress",
                        bytes=done,
                        of_bytes=total,
                        bytes_per_second=(done - start) / max(now, 1e-9),
                    )

            yield report
            return
        columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), RateColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console) as bar:
            task = bar.add_task("reading", total=total, completed=done)
            yield lambda step: bar.advance(task, step.read_bytes)

    def sent(self, checkpoints: int) -> None:
        """How many the server has."""
        if self._as_json and checkpoints != self._sent:
            self._say("sent", checkpoints=checkpoints)
        self._sent = checkpoints

    def end(self, begun: Ingest, delivery: Delivery) -> None:
        """The last line."""
        if self._as_json:
            self._say(
                "end",
                run=begun.run.name,
                run_id=begun.run.run_id,
                checkpoints=delivery.total,
                acknowledged=delivery.acknowledged,
                spooled=delivery.spooled,
                problem=clean(delivery.problem, 500),
                server=delivery.server,
            )
        elif delivery.acknowledged == delivery.total:
            name = clean(begun.run.name)
            self._console.print(
                f"{delivery.total} checkpoints are on {delivery.server}; look: trajmon show {name}",
                # A command that is to be copied.
                soft_wrap=True,
            )

    def _say(self, event: str, **values: Any) -> None:
        click.echo(json.dumps({"event": event, **values}, allow_nan=False))
