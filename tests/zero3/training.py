"""A ZeRO-3 training; a program for torchrun: training.py OUT [HOME SERVER]. Rank 0 keeps the whole parameters."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param
from torch import nn

import trajmon

STEPS, EVERY = 6, 2
CONFIG = {
    "train_micro_batch_size_per_gpu": 4,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_force_ds_cpu_optimizer": False,
    "bf16": {"enabled": True},
}


def whole(engine: Any) -> dict[str, Any]:
    """The float32 parameters; a collective."""
    return {
        name: safe_get_full_fp32_param(parameter).double().numpy().copy()
        for name, parameter in engine.module.named_parameters()
    }


def main(out: Path, watched: list[str]) -> None:
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(7, 13), nn.LayerNorm(13), nn.Linear(13, 5))
    engine, _, _, _ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=CONFIG)
    recorder = None
    if watched:
        home, server = watched
        recorder = trajmon.watch(engine, run="zero3", home=home, server=server)
    kept = [whole(engine)]
    losses = []
    for step in range(STEPS):
        data = torch.randn(4, 7, generator=torch.Generator().manual_seed(step)).bfloat16()
        loss = engine(data).float().square().mean()
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
        if (step + 1) % EVERY == 0:
            if recorder is not None:
                recorder.checkpoint(step=step + 1)
            kept.append(whole(engine))
    status: dict[str, Any] = {}
    if recorder is not None:
        recorder.close(timeout=60.0)
        status = asdict(recorder.status)
    if dist.get_rank() == 0:
        stacked: dict[str, Any] = {name: np.stack([point[name] for point in kept]) for name in kept[0]}
        np.savez(out / "zero3.npz", **stacked)
        (out / "zero3.json").write_text(json.dumps({"losses": losses, "status": status}))
    dist.barrier()
    # On a busy machine gloo's threads now and then abort the interpreter's end.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
