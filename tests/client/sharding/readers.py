"""One rank of two: reads shards that FSDP hides or shows twice, alone and in the middle of a training.

``python readers.py RANK FOLDER``
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from trajmon.sharding.local import local_parameters


class Tied(nn.Module):
    """The head is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 5)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 9, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """[n] to [n, 9]."""
        result: Tensor = self.head(self.norm(self.embedding(x)))
        return result


def read_alone(rank: int) -> dict[str, object]:
    """Only rank 0 reads, after an evaluation; then both go on training."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    fully_shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    with torch.no_grad():
        model(torch.ones(2, 5))
    weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    read = [(a.name, a.dtype, a.sizes) for a in local_parameters(model)] if rank == 0 else []
    shown = model[0].weight is weight and not isinstance(weight, DTensor)
    # A rank that gathers again here waits for one that does not.
    loss = model(torch.ones(2, 5)).float().square().sum()
    loss.backward()
    optimizer.step()
    stepped = [a.read().double().sum().item() for a in local_parameters(model)]
    return {"read": read, "unchanged": shown, "stepped": stepped, "loss": loss.item()}


def read_tied(use_orig_params: bool) -> list[object]:
    """A tied parameter is one, and lies under its first name."""
    torch.manual_seed(3)
    model = FullyShardedDataParallel(Tied(), device_id=torch.device("cpu"), use_orig_params=use_orig_params)
    model(torch.arange(4)).square().sum().backward()
    return [[a.name, a.shape, sum(a.sizes)] for a in local_parameters(model)]


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=20),
    )
    said = {
        "tied": read_tied(True),
        "tied_flat": read_tied(False),
        "alone": read_alone(rank),
    }
    (folder / f"{rank}.json").write_text(json.dumps(said))
    distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
