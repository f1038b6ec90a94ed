"""A real training over several processes, in every way of sharding; a program for torchrun.

    torchrun --standalone --nproc-per-node 4 tests/support/sharded_training.py --out DIR --kinds fsdp2,tp [--home DIR]

With `--home` each kind is recorded as a run of its own name; without, rank 0 leaves every parameter, whole, at every
checkpoint in DIR/<kind>.npz. Both leave DIR/<kind>.json: the losses, and each rank's recorder status. Step s sees
the batch that step s always sees, whatever the number of ranks: every rank takes all of it.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    ShardingStrategy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import trajmon

KINDS = (
    "ddp",
    "ddp_compile",
    "fsdp2",
    "fsdp2_bf16",
    "hsdp",
    "fsdp2_tp",
    "tp",
    "fsdp1",
    "fsdp1_flat",
    "pipeline",
)
# Odd extents: nothing divides evenly.
FEATURES, HIDDEN, CLASSES = 7, 13, 5


class Block(nn.Module):
    """Up, down, add, normalise."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(FEATURES, HIDDEN)
        self.down = nn.Linear(HIDDEN, FEATURES)
        self.norm = nn.LayerNorm(FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """[n, FEATURES] to the same."""
        return self.norm(x + self.down(nn.functional.gelu(self.up(x))))  # type: ignore[no-any-return]


class Network(nn.Module):
    """Two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[n, FEATURES] to [n, CLASSES]."""
        for block in self.blocks:
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


class Stage(nn.Module):
    """One stage of a pipeline: the block of this rank, under its name in the whole network."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        torch.manual_seed(rank)
        self.blocks = nn.ModuleDict({str(rank): Block()})

    def forward(self, x: Tensor) -> Tensor:
        """[n, FEATURES] to the same; what the stages hand to each other does not matter here."""
        for block in self.blocks.values():
            x = block(x)
        return x


def wrap(kind: str, network: Network) -> Any:
    """The network, sharded as `kind` says over all ranks."""
    world = dist.get_world_size()
    if kind == "pipeline":
        return Stage(dist.get_rank())
    if kind == "ddp":
        return DistributedDataParallel(network)
    if kind == "ddp_compile":
        return DistributedDataParallel(torch.compile(network, backend="eager"))
    if kind in ("fsdp2", "fsdp2_bf16"):
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if kind == "fsdp2_bf16" else None)
        for block in network.blocks:
            fully_shard(block, mp_policy=policy, reshard_after_forward=False)
        return fully_shard(network, mp_policy=policy)
    if kind == "hsdp":
        shape = (2, world // 2) if world % 2 == 0 else (world, 1)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))
        fully_shard(network.blocks[0], mesh=mesh)
        return fully_shard(network, mesh=mesh)
    if kind in ("tp", "fsdp2_tp"):
        tensor_ranks = 2 if kind == "fsdp2_tp" and world % 2 == 0 else world
        mesh = init_device_mesh("cpu", (world // tensor_ranks, tensor_ranks), mesh_dim_names=("dp", "tp"))
        for block in network.blocks:
            parallelize_module(
                block, mesh["tp"], {"up": ColwiseParallel(use_local_output=False), "down": RowwiseParallel()}
            )
        if kind == "fsdp2_tp":
            fully_shard(network.blocks[1], mesh=mesh["dp"])
            return fully_shard(network, mesh=mesh["dp"])
        return network
    return FullyShardedDataParallel(
        network,
        device_id=torch.device("cpu"),
        use_orig_params=kind == "fsdp1",
        sharding_strategy=ShardingStrategy.FULL_SHARD,
    )


def batch(step: int) -> tuple[Tensor, Tensor]:
    """The same on every rank."""
    generator = torch.Generator().manual_seed(1_000 + step)
    return (
        torch.randn(8, FEATURES, generator=generator),
        torch.randint(CLASSES, (8,), generator=generator),
    )


def whole_parameters(model: nn.Module) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Every parameter whole, in float64; a collective."""

    def collect() -> dict[str, Any]:
        found = {}
        for name, value in model.named_parameters():
            for prefix in ("_fsdp_wrapped_module.", "_orig_mod.", "module."):
                name = name.replace(prefix, "")
            full = value.full_tensor() if isinstance(value, DTensor) else value
            found[name] = full.detach().to(torch.float64).numpy().copy()
        return found

    if isinstance(model, Stage):
        stages: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(stages, collect())
        return {name: value for stage in stages for name, value in stage.items()}
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            return collect()
    return collect()


def train(kind: str, options: argparse.Namespace) -> None:
    """Train one kind from its first step, or from its last saved state."""
    torch.manual_seed(11)
    model = wrap(kind, Network())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    recorder = None
    if options.home:
        recorder = trajmon.watch(
            model,
            run=options.name or kind,
            optimizer=optimizer,
            server=options.server,
            home=options.home,
            resume=options.resume,
            mode=options.mode,
            sketch=trajmon.SketchSpec(bins=options.sketch_bins) if options.sketch_bins else False,
        )
    truth: list[dict[str, Any]] = []
    if options.first_step == 0 and not options.home:
        truth.append(whole_parameters(model))
    losses = []
    for step in range(options.steps):
        inputs, labels = batch(step)
        loss = nn.functional.cross_entropy(model(inputs).float(), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
        due = (step + 1) % options.every == 0 and step + 1 > options.first_step
        if options.evaluate and due:
            # Afterwards FSDP2 shows whole parameters until the next backward pass.
            with torch.no_grad():
                model(inputs)
        if due and recorder is not None:
            recorder.checkpoint(step=step + 1, metrics={"loss": losses[-1]})
        elif due and not options.home:
            truth.append(whole_parameters(model))
        if options.die_at == step + 1 and dist.get_rank() == options.die_rank:
            os.kill(os.getpid(), 9)
    statuses: list[Any] = [None] * dist.get_world_size()
    if recorder is not None:
        recorder.close(timeout=options.close_seconds)
        dist.all_gather_object(statuses, asdict(recorder.status))
    if dist.get_rank() == 0:
        if truth:
            np.savez(options.out / f"{kind}.npz", **_stacked(truth))
        report = {"losses": losses, "statuses": statuses}
        (options.out / f"{kind}.json").write_text(json.dumps(report))


def _stacked(truth: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.stack([point[name] for point in truth]) for name in truth[0]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--home")
    parser.add_argument("--name", help="of the run; the kind by default")
    parser.add_argument("--server")
    parser.add_argument("--resume", default="never")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--first-step", type=int, default=0, help="record only after this step")
    parser.add_argument("--close-seconds", type=float, default=60.0)
    parser.add_argument("--mode", default="exact")
    parser.add_argument("--sketch-bins", type=int, default=0)
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--die-at", type=int, default=-1)
    parser.add_argument("--die-rank", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")

    for kind in options.kinds.split(","):
        train(kind, options)
    dist.destroy_process_group()
    # On a busy machine gloo's threads now and then abort the interpreter's end, watched or not.
    os._exit(0)


if __name__ == "__main__":
    main()
