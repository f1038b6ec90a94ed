"""What a model is wrapped in, and which freeze that allows.

======================================  =====  ==========================================================
wrapper                                 mode   why
======================================  =====  ==========================================================
none, torch.compile, DataParallel       hard
FSDP2, tensor parallel                  hard   FSDP2 takes over requires_grad at each reshard
FSDP1 with use_orig_params              hard
DDP                                     soft   its reducer waits for every gradient that it saw when built
DDP with find_unused_parameters         hard
torch.distributed runs, no wrapper seen soft   the caller may hold the module inside a DDP
FSDP1 without use_orig_params           -      one flat parameter cannot be half frozen
DeepSpeed                               -      keeps flat fp32 partitions of its own
======================================  =====  ==========================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import torch
from torch import nn

from trajmon.errors import SwitchError
from trajmon.numerics.modules import is_instance, submodules, unwrap

__all__ = ["Freeze", "Mode", "bare", "choose", "comes_from_deepspeed", "gather", "is_fsdp1", "walk"]

Mode = Literal["auto", "hard", "soft"]
Freeze = Literal["hard", "soft"]

_DDP: Final = ("torch.nn.parallel.distributed", "DistributedDataParallel")
_FSDP1: Final = ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel")
_FSDP2: Final = ("torch.distributed.fsdp._fully_shard._fully_shard", "FSDPModule")
_DTENSOR: Final = ("torch.distributed.tensor", "DTensor")


def bare(module: nn.Module) -> nn.Module:
    """The module inside any nest of wrappers, sharding ones too.

    >>> bare(nn.DataParallel(nn.Flatten()))
    Flatten(start_dim=1, end_dim=-1)
    """
    return unwrap(module, sharded=True)


def walk(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Path without wrappers and unwrapped module, for every place in the tree; parents first."""
    return ((path, owners[-1]) for path, owners in submodules(model, sharded=True))


def is_fsdp1(module: nn.Module) -> bool:
    """Whether this is a FullyShardedDataParallel wrapper."""
    return is_instance(module, *_FSDP1)


def comes_from_deepspeed(thing: object) -> bool:
    """Whether an object's class, or one above it, is DeepSpeed's; tells without importing it."""
    return any(kind.__module__.partition(".")[0] == "deepspeed" for kind in type(thing).__mro__)


def gather(model: nn.Module) -> None:
    """Bring FSDP2's own parameters back where a forward without a backward left the gathered ones."""
    for module in model.modules():
        if is_instance(module, *_FSDP2):
            module.reshard()  # type: ignore[operator] # FSDPModule's


def choose(model: nn.Module, mode: Mode) -> Freeze:
    """How to freeze this model; raises SwitchError where it cannot be done, or not as asked."""
    if mode not in ("auto", "hard", "soft"):
        raise SwitchError(f'mode={mode!r} is not one of "auto", "hard", "soft"')
    if comes_from_deepspeed(model) or any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise SwitchError(
            "DeepSpeed keeps flat copies of the parameters that cannot be frozen in place; save a checkpoint, "
            "and start again with the other parameters frozen"
        )
    modules = list(model.modules())
    if any(is_fsdp1(module) and not getattr(module, "_use_orig_params", False) for module in modules):
        raise SwitchError(
            "FullyShardedDataParallel holds flat parameters that cannot be frozen in part; wrap the model with "
            "use_orig_params=True, or use fully_shard"
        )
    reducers = [module for module in modules if is_instance(module, *_DDP)]
    if any(not _tolerates_missing_gradients(module) for module in reducers):
        if mode == "hard":
            raise SwitchError(
                "DistributedDataParallel waits for the gradients of frozen parameters; use mode='soft', or build it "
                "with find_unused_parameters=True"
            )
        return "soft"
    if mode != "auto":
        return mode
    return "soft" if not reducers and _may_be_inside_ddp(model, modules) else "hard"


def _tolerates_missing_gradients(ddp: nn.Module) -> bool:
    # A static graph stays the one that was seen first, whatever else is asked for.
    return bool(getattr(ddp, "find_unused_parameters", False)) and not getattr(ddp, "static_graph", False)


def _may_be_inside_ddp(model: nn.Module, modules: list[nn.Module]) -> bool:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    sharded = any(is_fsdp1(module) or is_instance(module, *_FSDP2) for module in modules)
    return not sharded and not any(is_instance(p, *_DTENSOR) for p in model.parameters())
