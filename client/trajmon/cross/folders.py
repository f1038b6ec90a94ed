"""The snapshots of a run that are on this machine, along the run's path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trajmon.cross.errors import NotComparableError
from trajmon.errors import DamagedRunError, SnapshotError, SnapshotNotKeptError
from trajmon.numerics.layout import Layout
from trajmon.rundir import RunDescription, RunDir
from trajmon.snapshots.store import SnapshotStore, path_to
from trajmon_protos.names import RUN_ID, RUN_NAME, RUN_NAME_RULE

__all__ = ["MOST_SNAPSHOTS", "KeptRun", "open_kept"]

MOST_SNAPSHOTS: Final = 400
"""Of one run that are open at a time; each takes a file descriptor. Of more, checkpoints are left out evenly."""


@dataclass(frozen=True, slots=True)
class KeptRun:
    """What is left of a run's parameters."""

    name: str
    layout: Layout
    checkpoint: NDArray[np.int64]
    """[T], numbers of the checkpoints, ascending."""
    step: NDArray[np.int64]
    """[T]"""
    snapshots: tuple[NDArray[np.uint8], ...]
    """T of [layout.nbytes], mapped read-only."""
    on_path: int
    """Checkpoints along the run's path."""
    not_kept: int
    """Of those, given up as was planned."""
    unreadable: int
    """Of those, missing or damaged."""

    @property
    def left_out(self) -> int:
        """Of those, left out because there are more than can be open at a time."""
        return self.on_path - self.not_kept - self.unreadable - len(self.snapshots)

    def initialization(self) -> NDArray[np.uint8]:
        """The snapshot of checkpoint 0. Raises NotComparableError."""
        if not len(self.checkpoint) or self.checkpoint[0] != 0:
            raise NotComparableError(
                f"the snapshot of checkpoint 0 of run {self.name!r} is not on this machine any more; "
                "leave out --from-initialization"
            )
        return self.snapshots[0]


def open_kept(home: Path, run: str) -> KeptRun:
    """The snapshots of a run, by its name or id. Raises NotComparableError, OSError."""
    run_dir = _find(home, run)
    try:
        description = RunDescription.read(run_dir)
    except DamagedRunError as error:
        raise NotComparableError(str(error)) from error
    name, layout = description.name, description.layout
    if description.shard is not None or any(run_dir.path.parent.glob(f"{run_dir.path.name}~*/run.json")):
        raise _sharded(name)
    store = SnapshotStore(run_dir.snapshots, layout.fingerprint, layout.nbytes, writer="reader")
    if not run_dir.snapshots.is_dir() or not (numbers := store.numbers()):
        raise NotComparableError(f"run {name!r} has no snapshots on this machine, in {run_dir.snapshots}")
    headers = store.headers()
    path = path_to(numbers[-1], headers)
    kept = [number for number in path if number in headers and headers[number].kept]
    not_kept = sum(number in headers and not headers[number].kept for number in path)
    opened: dict[int, NDArray[np.uint8]] = {}
    for number in _evenly(kept):
        try:
            opened[number] = store.data(number)
        except SnapshotNotKeptError:
            # The run goes on: it was given up since its header was read.
            not_kept += 1
        except SnapshotError:
            continue
    if not opened:
        raise NotComparableError(
            f"of run {name!r} no snapshot is left on this machine: {not_kept} of {len(path)} were not kept, the others "
            "cannot be read"
        )
    unreadable = len(path) - not_kept - len(kept) + len(_evenly(kept)) - len(opened)
    return KeptRun(
        name=name,
        layout=layout,
        checkpoint=np.array(list(opened), dtype=np.int64),
        step=np.array([headers[number].step for number in opened], dtype=np.int64),
        snapshots=tuple(opened.values()),
        on_path=len(path),
        not_kept=not_kept,
        unreadable=unreadable,
    )


def _evenly(numbers: list[int]) -> list[int]:
    """At most :data:`MOST_SNAPSHOTS` of them, both ends among them."""
    if len(numbers) <= MOST_SNAPSHOTS:
        return numbers
    places = np.linspace(0, len(numbers) - 1, MOST_SNAPSHOTS).round().astype(int)
    return [numbers[place] for place in places]


def _find(home: Path, run: str) -> RunDir:
    folders = sorted((home / "client").glob("*/run.json"))
    names = [file.parent.name for file in folders]
    if RUN_NAME.fullmatch(run) and run in names:
        return RunDir.of(home, run)
    if any(name.partition("~")[0] == run for name in names):
        raise _sharded(run)
    if RUN_ID.fullmatch(run):
        for name in names:
            run_dir = RunDir.of(home, name)
            try:
                if RunDescription.read(run_dir).run_id == run:
                    return run_dir
            except DamagedRunError:
                continue
    elif not RUN_NAME.fullmatch(run):
        raise NotComparableError(f"{run[:80]!r} is no name of a run: {RUN_NAME_RULE}")
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    raise NotComparableError(
        f"no run {run[:80]!r} was recorded on this machine in {home}; there are: {shown or 'none'}"
    )


def _sharded(name: str) -> NotComparableError:
    return NotComparableError(
        f"run {name!r} was recorded in parts, one for each rank, and no snapshot holds all of a checkpoint; "
        "without --exact the server compares it by its sketches"
    )
