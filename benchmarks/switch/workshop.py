"""What a run leaves on the disk while it is being made: every checkpoint's state, every outcome.

::

    WORK/NAME/recipe.json       what it is made by; another recipe, or another torch, begins anew
    WORK/NAME/state-00.pt       a checkpoint: its state, scores and training loss
    WORK/NAME/outcome-12.json   what came of the switch at checkpoint 12
    WORK/NAME/lock              held by who makes it

Every file is replaced whole, so that what is there is complete. The folder is removed when the recording is written.
"""

from __future__ import annotations

import fcntl
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from benchmarks._files import write_whole
from benchmarks.switch.outcomes import Outcome
from benchmarks.switch.recipes import Recipe
from benchmarks.switch.tasks import Score

__all__ = ["Busy", "Workshop"]


class Busy(Exception):
    """Another process makes this run."""


class Workshop:
    """The folder of one half-finished run."""

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self._recipe = recipe
        self._folder = root / recipe.name

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the folder; what another recipe left in it is thrown away. Raises :class:`Busy`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"{self._recipe.name}: another process makes it") from None
            wanted = json.dumps(
                {"recipe": self._recipe.to_json(), "torch": torch.__version__}, sort_keys=True
            )
            known = self._folder / "recipe.json"
            if not known.exists() or known.read_text(encoding="utf-8") != wanted:
                for path in (*self._folder.glob("state-*.pt"), *self._folder.glob("outcome-*.json")):
                    path.unlink()
                write_whole(known, wanted.encode())
            yield

    def checkpoints(self) -> list[dict[str, Any]]:
        """All that are there from the initialization on, without a gap."""
        found: list[dict[str, Any]] = []
        while (path := self._state_path(len(found))).exists():
            found.append(torch.load(path, weights_only=True))
        return found

    def save_checkpoint(self, record: dict[str, Any]) -> None:
        """Keys: state, metric, loss, train_loss."""
        buffer = io.BytesIO()
        torch.save(record, buffer)
        write_whole(self._state_path(record["state"]["checkpoint"]), buffer.getvalue())

    def outcomes(self) -> dict[int, Outcome]:
        """All that are there, by switch point."""
        found = {}
        for path in sorted(self._folder.glob("outcome-*.json")):
            read = json.loads(path.read_text(encoding="utf-8"))
            outcome = Outcome(Score(read["metric"], read["loss"]), tuple(read["tail"]), read["trained"])
            found[read["switch_point"]] = outcome
        return found

    def save_outcome(self, switch_point: int, outcome: Outcome) -> None:
        """Of one switch."""
        written = {
            "switch_point": switch_point,
            "metric": outcome.final.metric,
            "loss": outcome.final.loss,
            "tail": outcome.tail,
            "trained": outcome.trained,
        }
        write_whole(self._folder / f"outcome-{switch_point:02}.json", json.dumps(written).encode())

    def remove(self) -> None:
        """The recording is written; nothing of this is needed any more."""
        shutil.rmtree(self._folder)

    def _state_path(self, checkpoint: int) -> Path:
        return self._folder / f"state-{checkpoint:02}.pt"
