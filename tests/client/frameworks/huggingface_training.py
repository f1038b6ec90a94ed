"""A tiny language model under the real transformers trainer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

STEPS_PER_EPOCH = 40


class Tokens(Dataset[dict[str, torch.Tensor]]):
    """Sequences that count upwards, modulo the vocabulary."""

    def __len__(self) -> int:
        return 4 * STEPS_PER_EPOCH

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.arange(index, index + 8) % 32
        return {"input_ids": tokens, "labels": tokens}


class Reporter(TrainerCallback):
    """Keeps what it is told to log, as integrations do."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append((state.global_step, dict(logs)))

    @property
    def losses(self) -> list[float]:
        return [logs["loss"] for _, logs in self.logs if "loss" in logs]


def make_model(width: int = 16) -> GPT2LMHeadModel:
    """GPT-2 with dropout, which draws from the global generator."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=32, n_positions=8, n_embd=width, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config)


def fit(
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    resume_from: Path | None = None,
    model: GPT2LMHeadModel | None = None,
    **options: Any,
) -> tuple[Trainer, Reporter]:
    """A training from the same start each time."""
    reporter = Reporter()
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    trainer = Trainer(
        make_model() if model is None else model,
        TrainingArguments(**(settings | options)),
        train_dataset=Tokens(),
        callbacks=[reporter, *callbacks],
    )
    with warnings.catch_warnings():
        # What transformers and its own use of PyTorch have to say.
        warnings.filterwarnings("ignore", module=r"(transformers|accelerate|torch)\.")
        trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
    return trainer, reporter
