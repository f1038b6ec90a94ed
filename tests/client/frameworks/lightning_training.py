"""A small training under the real Lightning trainer, here and in a process of its own.

As a program: resume a checkpoint twice, unwatched and watched, and say what came of it.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trajmon.lightning import TrajectoryCallback

BATCHES = 40
"""In an epoch."""


class Regression(LightningModule):
    """Dropout draws from the global generator: who else draws from it changes the losses."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(12, width), nn.LayerNorm(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 3)
        )
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        loss: Tensor = (self.net(inputs) - targets).square().mean()
        self.losses.append(float(loss.detach()))
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def data(batches: int = BATCHES) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8 * batches, 12, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs[:, :3].abs()), batch_size=8, shuffle=True)


def make_trainer(folder: Path, callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": CSVLogger(folder, name="log"),
        "log_every_n_steps": 5,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks),
    }
    return Trainer(callbacks=list(callbacks), **(settings | options))


class Validated(Regression):
    """The same with a validation after each epoch."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        self.log("val_loss", (self.net(inputs) - targets).square().mean())


def fit(
    folder: Path,
    callbacks: Sequence[Callback] = (),
    resume_from: Path | None = None,
    module: LightningModule | None = None,
    trainer: Trainer | None = None,
    validation: DataLoader[Any] | None = None,
    **options: Any,
) -> tuple[Trainer, LightningModule]:
    """A training from the same start each time, or of a trainer that is there."""
    torch.manual_seed(0)
    module = Regression() if module is None else module
    trainer = make_trainer(folder, callbacks, **options) if trainer is None else trainer
    with warnings.catch_warnings():
        # What Lightning has to say about few workers and few batches, and its own use of PyTorch.
        warnings.filterwarnings("ignore", module=r"lightning\.")
        trainer.fit(
            module, data(), validation, ckpt_path=resume_from, weights_only=True if resume_from else None
        )
    return trainer, module


def rows(trainer: Trainer) -> list[dict[str, float]]:
    """What the CSV logger has on disk."""
    assert isinstance(trainer.logger, CSVLogger)
    names, *lines = (
        (Path(trainer.logger.log_dir) / "metrics.csv").read_text(encoding="utf-8").strip().split("\n")
    )
    keys = names.split(",")
    return [
        {key: float(value) for key, value in zip(keys, line.split(","), strict=True) if value}
        for line in lines
    ]


def main(folder: str, checkpoint: str, run: str) -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    answer: dict[str, Any] = {}
    watched = TrajectoryCallback(run, every=20, close_timeout=60.0)
    for name, callbacks in (("unwatched", []), ("watched", [watched])):
        trainer, module = fit(Path(folder) / name, callbacks, Path(checkpoint), max_steps=200)
        assert isinstance(module, Regression)
        answer[name] = {"losses": module.losses, "rows": rows(trainer), "step": trainer.global_step}
    answer["problems"] = watched._follower.problems
    (Path(folder) / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
