"""A bar for work that takes longer than a moment: shown late, so that quick commands stay calm."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from trajmon.cli.session import clean

__all__ = ["waiting"]

SHOW_AFTER_SECONDS = 1.0


@contextmanager
def waiting(
    total: int,
    console: Console | None = None,
    after_seconds: float = SHOW_AFTER_SECONDS,
    *,
    quiet: bool = False,
) -> Iterator[Callable[[str], None]]:
    """Give a function to call before each of `total` steps with its name.

    On a terminal, a bar on stderr appears once the whole has taken `after_seconds`, and goes away at the end. Nothing
    is shown elsewhere, nor where the command's own output goes into a pipe or file, nor if `quiet`. What is asked of a
    server may hang, so the bar's clock runs within a step too.
    """
    stderr = console or Console(stderr=True)
    is_seen = stderr.is_terminal and (console is not None or sys.stdout.isatty())
    if quiet or not is_seen:
        yield lambda name: None
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=stderr,
        transient=True,
    )
    task = bar.add_task("", total=total)
    started = -1

    def step(name: str) -> None:
        nonlocal started
        started += 1
        bar.update(task, description=clean(name, 60), completed=started)

    timer = threading.Timer(after_seconds, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield step
    finally:
        timer.cancel()
        # It may be starting the bar this moment.
        timer.join()
        bar.stop()
