"""A trainer that knows nothing of this project: ``fill_folder.py FOLDER KEPT STEPS [KEEP]``.

Saves every tenth step, in turns with safetensors and torch.save, the latter slowly and in place; keeps the last KEEP
files, all by default. Leaves in KEPT the parameters at each saved step.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn


def main(folder: Path, kept: Path, steps: int, keep: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    folder.mkdir(exist_ok=True)
    points: dict[str, list[np.ndarray]] = {name: [] for name, _ in model.named_parameters()}
    saved: list[Path] = []
    for step in range(steps):
        if step % 10 == 0:
            for name, value in model.named_parameters():
                points[name].append(value.detach().double().numpy().copy())
            saved.append(save(model, optimizer, folder, step))
            time.sleep(0.15)
            for old in saved[:-keep] if keep else ():
                # Only what somebody else has had time to look at.
                if time.time() - old.stat().st_mtime > 3:
                    old.unlink()
                    saved.remove(old)
        loss = nn.functional.cross_entropy(model(torch.randn(16, 6)), torch.randint(3, (16,)))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    arrays: dict[str, Any] = {name: np.stack(values) for name, values in points.items()}
    np.savez(kept, step=np.arange(0, steps, 10), **arrays)


def save(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, step: int) -> Path:
    if step % 20 == 0:
        path = folder / f"model-step{step}.safetensors"
        save_file(model.state_dict(), path)
        return path
    path = folder / f"model-step{step}.pt"
    content = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, content)
    with path.open("wb") as file:
        file.write(content.getvalue()[:1000])
        file.flush()
        time.sleep(0.15)
        file.write(content.getvalue()[1000:])
    return path


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int((*sys.argv, "0")[4]))
