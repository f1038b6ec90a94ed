"""One rank of a real process group: shards a model in every way there is, and writes down what it owns.

``python ranks.py RANK WORLD FOLDER``
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from trajmon.numerics.layout import Layer
from trajmon.sharding.chunks import Chunk
from trajmon.sharding.local import local_parameters
from trajmon.sharding.plan import Held, plan_owners


class Block(nn.Module):
    """Odd extents, a norm outside of every tensor-parallel plan, and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(7, 13)
        self.down = nn.Linear(13, 7, bias=False)
        self.norm = nn.LayerNorm(7)
        self.gain = nn.Parameter(torch.rand(1))

    def forward(self, x: Tensor) -> Tensor:
        """[n, 7] of [n, 7]."""
        result: Tensor = self.norm(x + self.gain * self.down(torch.relu(self.up(x))))
        return result


def plain_model() -> nn.Sequential:
    """The same on every rank."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 7), Block(), Block(), nn.Linear(7, 2))


def ddp(model: nn.Sequential, world: int) -> nn.Module:
    """Everything everywhere."""
    return DistributedDataParallel(model)


def fsdp2(model: nn.Sequential, world: int) -> nn.Module:
    """Rows of everything; with 4 ranks the last one has none of some."""
    return _fully_sharded(model, init_device_mesh("cpu", (world,)))


def hsdp(model: nn.Sequential, world: int) -> nn.Module:
    """Two replicas of two shards."""
    return _fully_sharded(model, init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))


def tp(model: nn.Sequential, world: int) -> nn.Module:
    """Some layers divided, the others whole everywhere."""
    return _parallelized(model, init_device_mesh("cpu", (world,)))


def fsdp2_tp(model: nn.Sequential, world: int) -> nn.Module:
    """Both; what is outside of the tensor-parallel plan lies twice on the data axis."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    return _fully_sharded(_parallelized(model, mesh["tp"]), mesh["dp"])


def fsdp1(model: nn.Sequential, world: int) -> nn.Module:
    """Runs of elements of flat parameters."""
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


def _fully_sharded(model: nn.Sequential, mesh: DeviceMesh) -> nn.Module:
    for block in (model[1], model[2]):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _parallelized(model: nn.Sequential, mesh: DeviceMesh) -> nn.Sequential:
    for block in (model[1], model[2]):
        parallelize_module(
            block, mesh, {"up": ColwiseParallel(use_local_output=False), "down": RowwiseParallel()}
        )
    return model


WAYS: dict[str, tuple[Callable[[nn.Sequential, int], nn.Module], tuple[int, ...]]] = {
    "ddp": (ddp, (2, 3, 4)),
    "fsdp2": (fsdp2, (2, 3, 4)),
    "fsdp1": (fsdp1, (2, 3, 4)),
    "tp": (tp, (2, 3, 4)),
    "hsdp": (hsdp, (4,)),
    "fsdp2_tp": (fsdp2_tp, (4,)),
}


def owned_arrays(model: nn.Module, rank: int, world: int) -> tuple[dict[str, np.ndarray], str]:
    """The elements that this rank owns, by layer, frame and place; and the whole plan as text."""
    mine = local_parameters(model)
    described = [
        (local.name, local.shape, local.frame, local.offsets, local.sizes, local.digest()) for local in mine
    ]
    everyone: list[list[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], str]]]
    everyone = [[] for _ in range(world)]
    distributed.all_gather_object(everyone, described)
    shapes = {name: shape for entries in everyone for name, shape, *_ in entries}
    place = {name: index for index, name in enumerate(sorted(shapes))}
    layers = [Layer(name, shapes[name], "float32") for name in place]
    held = [
        [
            Held(Chunk(place[name], frame, offsets, sizes), digest)
            for name, _, frame, offsets, sizes, digest in entries
        ]
        for entries in everyone
    ]
    plan = plan_owners(layers, held)
    by_name = {local.name: local for local in mine}
    arrays = {}
    for chunk in plan[rank]:
        local = by_name[layers[chunk.layer].name]
        key = f"{local.name}|{chunk.frame}|{chunk.offsets}"
        arrays[key] = local.read().reshape(chunk.sizes).numpy().copy()
    return arrays, repr(plan)


def main(rank: int, world: int, folder: Path) -> None:
    """All ways that there are for so many ranks."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    for way, (shard, worlds) in WAYS.items():
        if world not in worlds:
            continue
        model = shard(plain_model(), world)
        # FSDP2 shows whole parameters after it.
        model(torch.ones(2, 3))
        arrays, plan = owned_arrays(model, rank, world)
        np.savez(folder / f"{way}.{rank}.npz", **arrays)  # type: ignore[arg-type] # names of arrays are keywords
        (folder / f"{way}.{rank}.plan").write_text(plan)
    distributed.destroy_process_group()
    # On a busy machine gloo's threads now and then abort the interpreter's end.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
