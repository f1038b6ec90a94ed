"""An ingest from files to rows, step by step; also the program that a test kills."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trajmon._settings import AgentSettings
from trajmon.ingest.deliver import Delivery, deliver, row_record
from trajmon.ingest.gram import Step
from trajmon.ingest.run import Options, Stepper, compute, open_ingest
from trajmon.ingest.series import find_series

SMALL = 1 << 20
"""So little memory that a tensor has many blocks."""
SETTINGS = AgentSettings(linger_seconds=3.0, settle_seconds=1.0)


def ingest(
    home: Path,
    paths: Sequence[Path],
    options: Options,
    *,
    settings: AgentSettings = SETTINGS,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Delivery:
    """All of it, as the program does it."""
    series = find_series(paths)
    try:
        with open_ingest(home, series, options) as begun:
            if not begun.is_complete:
                compute(begun, on_step)
            return deliver(
                begun.run_dir,
                begun.run,
                begun.journal,
                series.checkpoints,
                settings=settings,
                let_go=begun.owner.release,
                on_progress=lambda sent: None,
            )
    finally:
        series.close()


def records(
    home: Path, paths: Sequence[Path], options: Options, stepper: Stepper | None = None
) -> tuple[list[bytes], int]:
    """The rows, less what differs from run to run; and how many steps were still to be made."""
    steps = 0

    def count(step: Step) -> None:
        nonlocal steps
        steps += 1

    series = find_series(paths)
    try:
        with open_ingest(home, series, options) as begun:
            if not begun.is_complete:
                compute(begun, count, stepper)
            run = replace(begun.run, run_id="0" * 32)
            rows = [row_record(begun.journal, run, *entry) for entry in enumerate(series.checkpoints)]
            return rows, steps
    finally:
        series.close()


def main(home: str, folder: str, run: str, steps: str, save_seconds: str) -> None:
    """Ingest, and die after so many steps."""
    left = int(steps)

    def count(step: Step) -> None:
        nonlocal left
        left -= 1
        # Long enough for some of the steps to be saved.
        time.sleep(0.01)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    series = find_series([Path(folder)])
    with open_ingest(Path(home), series, Options(run=run, threads=2, memory_bytes=SMALL)) as begun:
        compute(begun, count, save_seconds=float(save_seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
