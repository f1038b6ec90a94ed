"""What an experiment works with: recorded trainings that are made once, files for figures, a progress bar.

Below the workshop's folder::

    runs/NAME.json       a recorded training: its recipe, the run's name at the server, its results
    runs/NAME.begun      how often it was begun; a training that was stopped is begun anew as another run
    figures/NAME.png     what the experiment drew
    scratch/             whatever the experiment wants to keep between two calls
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from benchmarks._files import read_json, write_whole
from torch import nn

import trajmon
from trajmon.query import NotFoundError, ServerFailedError
from trajmon.reading.errors import UnknownNameError
from trajmon.reading.view import RunView

__all__ = ["Progress", "Recorded", "Tell", "Train", "Watch", "Workshop"]

ACKNOWLEDGED_WITHIN_SECONDS = 600.0
Tell = Callable[[str, int, int], None]
"""Hears of progress: what, done, total."""


class Watch(Protocol):
    """:func:`trajmon.watch` with run, server, home and strict filled in."""

    def __call__(
        self, model: nn.Module, *, optimizer: torch.optim.Optimizer | None = None, **options: Any
    ) -> trajmon.Recorder:
        """Begin to record; checkpoint 0 is the model as it is now."""
        ...


Train = Callable[[Watch], dict[str, float]]
"""Trains under watch, once, and returns final numbers."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A training that is complete at the server."""

    run: RunView
    results: dict[str, float]
    """What the training returned."""


class Progress:
    """A bar that an experiment moves on."""

    def __init__(self, what: str, total: int, tell: Tell) -> None:
        self._what, self._total, self._tell = what, total, tell
        self._done = 0
        tell(what, 0, total)

    def advance(self, steps: int = 1) -> None:
        """So much more is done."""
        self._done += steps
        self._tell(self._what, self._done, self._total)


class Workshop:
    """The place of one experiment; for one process at a time."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        server: str,
        home: Path,
        tell: Tell = lambda what, done, total: None,
    ) -> None:
        """`server` and `home` are what :func:`trajmon.watch` takes; `folder` is the experiment's own."""
        self.name = name
        self.folder = folder
        self.scratch = folder / "scratch"
        """Stays between two calls; emptied by nobody."""
        self.training_seconds = 0.0
        """Processor time of all trainings that were asked for, those of earlier calls included."""
        self.trained_here_seconds = 0.0
        """Of those that this call did."""
        self.num_runs = 0
        """Trainings that were asked for."""
        self.num_checkpoints = 0
        """Of them, together."""
        self._server, self._home, self._tell = server, home, tell
        self._views: list[RunView] = []
        for path in (folder / "runs", folder / "figures", self.scratch):
            path.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Give up the connections to the server."""
        while self._views:
            self._views.pop().close()

    def record(self, run: str, train: Train, *, recipe: object) -> Recorded:
        """A training, recorded: the one of an earlier call if its recipe was the same, else `train` is called.

        `run` names it within the experiment. `recipe` is compared as JSON; whatever changes the outcome belongs in it.
        Returns when the server has acknowledged every checkpoint. Raises ValueError if `train` watches not exactly one
        model, or records fewer than two checkpoints.
        """
        made_by = json.loads(json.dumps({"recipe": recipe, "torch": torch.__version__}))
        path = self.folder / "runs" / f"{run}.json"
        known = read_json(path)
        recorded = None if known is None or known["made_by"] != made_by else self._open(known)
        if recorded is None:
            path.unlink(missing_ok=True)
            known = {"made_by": made_by, **self._train(run, train)}
            self.trained_here_seconds += known["seconds"]
            write_whole(path, json.dumps(known, indent=1).encode())
            recorded = self._open(known)
            if recorded is None:
                raise RuntimeError(f"the server does not know the run {known['run']} that it acknowledged")
        assert known is not None
        self.training_seconds += known["seconds"]
        self.num_runs += 1
        self.num_checkpoints += known["checkpoints"]
        return recorded

    def figure(self, name: str) -> Path:
        """Where to write the PNG of this name."""
        return self.folder / "figures" / f"{name}.png"

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Progress]:
        """A bar of so many steps."""
        yield Progress(what, total, self._tell)

    def _open(self, known: dict[str, Any]) -> Recorded | None:
        try:
            view = self._worked_off(known["run"])
        except (NotFoundError, UnknownNameError):
            # The server's folder was removed, or is another one.
            return None
        self._views.append(view)
        if view.checkpoints.sizes["checkpoint"] != known["checkpoints"]:
            return None
        return Recorded(view, dict(known["results"]))

    def _worked_off(self, run: str) -> RunView:
        """Open the run; what is acknowledged may wait to be shown on a busy machine."""
        deadline = time.monotonic() + ACKNOWLEDGED_WITHIN_SECONDS
        while True:
            view = trajmon.open_run(run, server=self._server, home=self._home)
            try:
                # Answered once every acknowledged row is worked off.
                _ = view.checkpoints
            except ServerFailedError:
                view.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)
            except BaseException:
                view.close()
                raise
            else:
                return view

    def _name_of(self, run: str, count: int) -> str:
        return f"{self.name}.{run}" + (f".{count}" if count > 1 else "")

    def _train(self, run: str, train: Train) -> dict[str, Any]:
        count_file = self.folder / "runs" / f"{run}.begun"
        count = (read_json(count_file) or {"count": 0})["count"] + 1
        while (self._home / "client" / (name := self._name_of(run, count))).exists():
            # Of a training whose folder here was thrown away.
            count += 1
        # Before training: a name that a stopped training took is not taken again.
        write_whole(count_file, json.dumps({"count": count}).encode())
        snapshots = self.folder / "snapshots"
        recorders: list[trajmon.Recorder] = []

        def watch(
            model: nn.Module, *, optimizer: torch.optim.Optimizer | None = None, **options: Any
        ) -> trajmon.Recorder:
            fixed: dict[str, Any] = {
                "run": name,
                "server": self._server,
                "home": self._home,
                "snapshot_dir": snapshots,
                "strict": True,
                "agent_threads": 1,
            }
            recorders.append(trajmon.watch(model, optimizer=optimizer, **fixed, **options))
            return recorders[-1]

        started = time.process_time()
        try:
            results = {key: float(value) for key, value in train(watch).items()}
            seconds = time.process_time() - started
            if len(recorders) != 1:
                raise ValueError(f"training {run!r} watched {len(recorders)} models; it takes exactly one")
            checkpoints = _acknowledged(recorders[0], name)
        finally:
            for recorder in recorders:
                recorder.close(timeout=0)
        if checkpoints < 2:
            raise ValueError(
                f"training {run!r} recorded {checkpoints} checkpoints; a trajectory has at least two"
            )
        # Everything is in the Gram rows by now, and the disk is not for ever.
        shutil.rmtree(snapshots / name, ignore_errors=True)
        return {"run": name, "checkpoints": checkpoints, "results": results, "seconds": seconds}


def _acknowledged(recorder: trajmon.Recorder, name: str) -> int:
    """Wait until the server has every checkpoint; how many there are. Raises TimeoutError, RuntimeError."""
    recorder.close(timeout=ACKNOWLEDGED_WITHIN_SECONDS)
    # The training may have closed it before, without waiting so long.
    deadline = time.monotonic() + ACKNOWLEDGED_WITHIN_SECONDS
    while (status := recorder.status).pending:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{status.pending} checkpoints of run {name} are not acknowledged after "
                f"{ACKNOWLEDGED_WITHIN_SECONDS:.0f} s: {status.reason or 'the agent gives no reason'}"
            )
        time.sleep(0.05)
    if status.skipped:
        raise RuntimeError(f"{status.skipped} checkpoints of run {name} were not recorded: {status.reason}")
    return status.recorded
