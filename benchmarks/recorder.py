"""What the recorder costs the training process.

* The time that `checkpoint()` holds training, beside one copy of the same bytes within memory.
* 500 training steps with a checkpoint each 50, watched and unwatched by turns.

No server is needed for either: nothing in the training process knows of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import trajmon
from trajmon._files import lock_holder
from trajmon.demo.network import SmallResNet
from trajmon.rundir import RunDir
from trajmon.snapshots.slot import Slot, SlotState

CHECKPOINTS = 15
STEPS, STEPS_PER_CHECKPOINT, REPETITIONS = 500, 50, 8
STALL_LIMIT, ADDED_LIMIT_PERCENT = 2.0, 2.0
_NOWHERE = "127.0.0.1:1"


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    """A home folder on disk; its agents give up at once when training ends."""
    os.environ["TRAJMON_AGENT_LINGER_SECONDS"] = "0"
    with tempfile.TemporaryDirectory(prefix="trajmon-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _close(recorder: trajmon.Recorder, run_dir: RunDir) -> None:
    recorder.close(timeout=60.0)
    while lock_holder(run_dir.agent_lock) is not None:
        time.sleep(0.01)


def stall() -> list[dict[str, Any]]:
    """About 100 MB of float32 through the slot, against one memcpy beside each checkpoint."""
    model = nn.Sequential(*[nn.Linear(1024, 1024) for _ in range(25)])
    with _home() as home:
        recorder = trajmon.watch(model, run="stall", server=_NOWHERE, home=home, agent_threads=1, strict=True)
        run_dir = RunDir.of(home, "stall")
        named = json.loads(run_dir.slot_file.read_text())
        data_bytes = int(named["data_bytes"])
        slot = Slot.find(run_dir.slot_file, data_bytes)
        assert slot is not None
        source, target = (torch.ones(data_bytes // 4) for _ in range(2))
        stalls, copies = [], []
        for number in range(1, CHECKPOINTS + 1):
            deadline = time.monotonic() + 60
            while slot.state != SlotState.FREE:
                assert time.monotonic() < deadline, "the agent does not drain the slot"
                time.sleep(0.01)
            # Let the agent's row be computed, or it would compete for the memory with what is measured.
            while len(list(run_dir.spool.glob("*.row"))) < number:
                assert time.monotonic() < deadline, "the agent computes no row"
                time.sleep(0.01)
            started = time.perf_counter()
            target.copy_(source)
            copies.append(time.perf_counter() - started)
            with torch.no_grad():
                model[0].bias.add_(1e-3)  # type: ignore[operator] # a Linear's bias
            recorder.checkpoint()
            stalls.append(recorder.status.last_stall_seconds)
        _close(recorder, run_dir)
    stall_seconds, copy_seconds = statistics.median(stalls), statistics.median(copies)
    ratio = stall_seconds / copy_seconds
    megabytes = f"{data_bytes / 1e6:.0f} MB"
    return [
        _figure(f"checkpoint() holds training, {megabytes}", 1e3 * stall_seconds, "ms"),
        _figure(f"one copy of {megabytes}", 1e3 * copy_seconds, "ms"),
        _figure("checkpoint() / one copy", ratio, "x", STALL_LIMIT),
    ]


def training() -> list[dict[str, Any]]:
    """Added time of watching; the two kinds take turns, so that the machine's moods meet both alike."""
    _train(watched=False)
    alone: list[float] = []
    watched: list[float] = []
    for number in range(REPETITIONS):
        # Each kind comes first as often as second.
        for kind in (False, True) if number % 2 else (True, False):
            (watched if kind else alone).append(_train(watched=kind))
    # Of each kind the fastest: on a machine that others use as well, everything else is their time.
    added_percent = 100.0 * (min(watched) / min(alone) - 1.0)
    return [
        _figure(f"{STEPS} steps unwatched", min(alone), "s"),
        _figure(f"{STEPS} steps, a checkpoint each {STEPS_PER_CHECKPOINT}", min(watched), "s"),
        _figure("added by watching", added_percent, "%", ADDED_LIMIT_PERCENT),
    ]


def _train(*, watched: bool) -> float:
    """Seconds for all steps, `watch` and the start of the agent included."""
    torch.manual_seed(0)
    model = SmallResNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs, labels = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,))
    with _home() as home:
        started = time.perf_counter()
        recorder = (
            trajmon.watch(model, run="train", optimizer=optimizer, server=_NOWHERE, home=home, strict=True)
            if watched
            else None
        )
        for step in range(1, STEPS + 1):
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            if recorder is not None and step % STEPS_PER_CHECKPOINT == 0:
                recorder.checkpoint(step=step, metrics={"loss": loss})
        seconds = time.perf_counter() - started
        if recorder is not None:
            _close(recorder, RunDir.of(home, "train"))
    return seconds


def _figure(name: str, value: float, unit: str, limit: float | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "limit": limit,
        "ok": limit is None or value <= limit,
    }


def run() -> list[dict[str, Any]]:
    """Figures with keys name, value, unit, limit, ok."""
    return stall() + training()


if __name__ == "__main__":
    for figure in run():
        print(figure)
