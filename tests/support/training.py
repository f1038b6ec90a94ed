"""A real training, small and the same to the last bit wherever it runs; as a function, and as a program.

    python tests/support/training.py --out DIR [--run NAME --home DIR [--server ADDR] [--resume allow]] ...

Step s sees the batch that step s always sees, so a training that goes on from a saved state takes exactly the
steps that it would have taken. The program leaves in DIR:

    state.pt       what it goes on from, replaced every `--save-every` steps
    kept.npz       with `--keep`: `step` [T], and every parameter, [T, ...], at the steps of its checkpoints
    report.json    written last: see :class:`Report`
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import trajmon

FEATURES = 12
CLASSES = 5


@dataclass(frozen=True, slots=True)
class Report:
    """What a training says of itself when it ends."""

    digest: str
    """Over the final parameters and buffers."""
    step_seconds: list[float]
    """Of each step with its checkpoint, without the pauses."""
    checkpoint_seconds: float
    """Of all calls of `checkpoint` together."""
    last_step_monotonic: float
    """Clock of the machine when the last step was done."""
    status: dict[str, object] = field(default_factory=dict)
    """Of the recorder, once closed."""


def make_model(seed: int, width: int = 16) -> nn.Sequential:
    """Two linear layers with BatchNorm, then a linear head."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(FEATURES, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, CLASSES),
        )


def make_optimizer(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def make_batch(seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
    """The batch of a step: noisy points around one centre a class."""
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(1_000_003 * seed + step)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return centres[labels] + torch.randn(size, FEATURES, generator=generator), labels


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, step: int, size: int = 32
) -> float:
    """One step of SGD; returns the loss."""
    inputs, labels = make_batch(seed, step, size)
    dtype = next(model.parameters()).dtype
    loss = nn.functional.cross_entropy(model(inputs.to(dtype)).float(), labels)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.item()


def digest(model: nn.Module) -> str:
    """Over every parameter and buffer, bit by bit."""
    state = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        state.update(name.encode())
        state.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def parameters(model: nn.Module) -> dict[str, NDArray[np.float64]]:
    """A copy of every parameter, exact in float64."""
    return {name: value.detach().to(torch.float64).numpy().copy() for name, value in model.named_parameters()}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch with one thread, so that sums run in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass
class TrainingProcess:
    """The program, started by a test."""

    out: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, out: Path, *options: str, **environment: str) -> TrainingProcess:
        """Start it; its output goes to ``DIR/log``."""
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").unlink(missing_ok=True)
        with (out / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", __file__, "--out", str(out), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )
        return cls(out, process)

    def wait(self, timeout_seconds: float = 120.0) -> Report:
        """Until it has ended, which it has to do well."""
        status = self.process.wait(timeout=timeout_seconds)
        assert status == 0, f"training ended with {status}:\n{(self.out / 'log').read_text()[-3000:]}"
        return Report(**json.loads((self.out / "report.json").read_text()))

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(timeout=10)


def main(arguments: list[str]) -> None:
    options = _parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    model = make_model(options.seed, options.width)
    optimizer = make_optimizer(model)
    start = _restore(options.out / "state.pt", model, optimizer) if options.resume != "never" else 0
    kept = {0: parameters(model)} if start == 0 and options.keep else {}
    recorder = None
    if options.run is not None:
        recorder = trajmon.watch(
            model,
            run=options.run,
            optimizer=optimizer,
            server=options.server,
            home=options.home,
            resume=options.resume,
        )
    step_seconds, checkpoint_seconds = [], 0.0
    for step in range(start + 1, options.steps + 1):
        began = time.perf_counter()
        loss = train_step(model, optimizer, options.seed, step, options.batch)
        if step % options.every == 0:
            if recorder is not None:
                called = time.perf_counter()
                recorder.checkpoint(step=step, epoch=step / options.steps, metrics={"loss": loss})
                checkpoint_seconds += time.perf_counter() - called
            if options.keep:
                kept[step] = parameters(model)
        step_seconds.append(time.perf_counter() - began)
        if options.save_every and step % options.save_every == 0:
            _save(options.out / "state.pt", model, optimizer, step)
        if options.pause:
            time.sleep(options.pause)
    last_step = time.monotonic()
    final = digest(model)
    if recorder is not None:
        recorder.close()
    if kept:
        arrays: dict[str, Any] = {"step": np.array(list(kept))}
        arrays |= {name: np.stack([values[name] for values in kept.values()]) for name in kept[0]}
        np.savez(options.out / "kept.npz", **arrays)
    status = {} if recorder is None else asdict(recorder.status)
    report = Report(final, step_seconds, checkpoint_seconds, last_step, status)
    (options.out / "report.json").write_text(json.dumps(asdict(report)))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", help="without it, the training is unwatched")
    parser.add_argument("--home")
    parser.add_argument("--server")
    parser.add_argument("--resume", default="never")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--save-every", type=int, default=0)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between steps")
    parser.add_argument("--keep", action="store_true")
    return parser.parse_args(arguments)


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    fresh = path.with_name(f".{path.name}")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, fresh)
    fresh.replace(path)


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Step that the training goes on from."""
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


if __name__ == "__main__":
    main(sys.argv[1:])
