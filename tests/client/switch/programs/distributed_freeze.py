"""One rank of a training under each wrapper: train, switch, train on, switch back; prints what happened as JSON.

python distributed_freeze.py TESTS RENDEZVOUS RANK WORLD
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from client.switch.networks import moved, network, train, values  # noqa: TID251 # on the path of the tests
from trajmon.errors import SwitchError
from trajmon.switch import is_switched, switch_back, switch_to_norm_only

MESH: Any = None


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)


def zero(model: nn.Module) -> torch.optim.Optimizer:
    # Its package warns when it is imported.
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.01, weight_decay=0.1)


def norms_and_lines(width: int = 12) -> nn.Module:
    """Without batch norm, whose buffers DDP would send about; no mean over an axis, which tensor parallel splits."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(15, width),
        nn.LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, 5),
        nn.RMSNorm(5),
        nn.Linear(5, 2),
    )


def fsdp1(use_orig_params: bool) -> nn.Module:
    return FullyShardedDataParallel(
        norms_and_lines(),
        device_id=torch.device("cpu"),
        use_orig_params=use_orig_params,
        auto_wrap_policy=ModuleWrapPolicy({nn.Linear}),
    )


def fsdp2() -> nn.Module:
    model = norms_and_lines()
    for layer in model:  # type: ignore[attr-defined] # a Sequential
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=MESH)
    fully_shard(model, mesh=MESH)
    return model


def tensor_parallel() -> nn.Module:
    model = norms_and_lines()
    return parallelize_module(
        model,
        MESH,
        {
            "1": ColwiseParallel(output_layouts=torch.distributed.tensor.Replicate()),
            "4": RowwiseParallel(input_layouts=torch.distributed.tensor.Replicate()),
        },
    )


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], torch.optim.Optimizer], str]] = {
    "ddp": (lambda: DistributedDataParallel(network()), adamw, "auto"),
    "ddp momentum bucket views": (
        lambda: DistributedDataParallel(network(), gradient_as_bucket_view=True),
        sgd,
        "auto",
    ),
    "ddp static graph": (
        lambda: DistributedDataParallel(network(), find_unused_parameters=True, static_graph=True),
        adamw,
        "auto",
    ),
    "ddp unused": (lambda: DistributedDataParallel(network(), find_unused_parameters=True), adamw, "auto"),
    "ddp compiled": (
        lambda: torch.compile(DistributedDataParallel(network()), backend="aot_eager"),  # type: ignore[dict-item, return-value]
        adamw,
        "auto",
    ),
    "ddp asked for hard": (lambda: DistributedDataParallel(network()), adamw, "hard"),
    "zero": (lambda: DistributedDataParallel(network()), zero, "auto"),
    "fsdp2": (fsdp2, adamw, "auto"),
    "fsdp2 momentum": (fsdp2, sgd, "auto"),
    "fsdp2 soft": (fsdp2, adamw, "soft"),
    "tensor parallel": (tensor_parallel, adamw, "auto"),
    "fsdp1": (lambda: fsdp1(True), adamw, "auto"),
    "fsdp1 flat": (lambda: fsdp1(False), adamw, "auto"),
}


def local(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: (value.to_local().clone() if isinstance(value, DTensor) else value)
        for name, value in values(model).items()
    }


def differing(before: dict[str, torch.Tensor], model: nn.Module) -> list[str]:
    """Names that moved on any rank."""
    after = local(model)
    mine = [name for name in before if not torch.equal(before[name], after[name])]
    all_of_them: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(all_of_them, mine)
    return sorted(set().union(*all_of_them))


def go_through(name: str) -> dict[str, Any]:
    build, optimize, mode = CASES[name]
    model = build()
    optimizer = optimize(model)
    train(model, optimizer, range(4))
    try:
        report = switch_to_norm_only(model, optimizer, mode=mode)  # type: ignore[arg-type] # one of them
    except SwitchError as error:
        # Training goes on as if nothing had been asked.
        before = local(model)
        train(model, optimizer, range(4, 6))
        return {"refused": str(error), "moved": differing(before, model)}
    before = local(model)
    train(model, optimizer, range(4, 54))
    answer: dict[str, Any] = {
        "mode": report.mode,
        "moved": differing(before, model),
        "bytes": [report.optimizer_bytes_before, report.optimizer_bytes_after],
        "switched": is_switched(model),
    }
    # An evaluation leaves FSDP2's gathered parameters in the model; the way back does not mind.
    with torch.no_grad():
        model(torch.zeros(2, 3, 5))
    switch_back(model, optimizer)
    before = local(model)
    train(model, optimizer, range(54, 57))
    return answer | {"moved_back": differing(before, model)}


def inside_ddp() -> dict[str, Any]:
    """The caller holds the inner module only, as a framework's hook may."""
    inner = network()
    ddp = DistributedDataParallel(inner)
    optimizer = adamw(inner)
    train(ddp, optimizer, range(4))
    report = switch_to_norm_only(inner, optimizer)
    before = values(inner)
    train(ddp, optimizer, range(4, 20))
    return {"mode": report.mode, "moved": moved(before, inner)}


def main() -> None:
    rank, world = int(sys.argv[2]), int(sys.argv[3])
    dist.init_process_group(
        "gloo",
        init_method=f"file://{sys.argv[1]}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    global MESH
    MESH = init_device_mesh("cpu", (world,))
    answers = {name: go_through(name) for name in CASES} | {"inside ddp": inside_ddp()}
    dist.destroy_process_group()
    print(json.dumps(answers), flush=True)
    # On a busy machine gloo's threads now and then abort the interpreter's end.
    os._exit(0)


if __name__ == "__main__":
    main()
