"""The module tree without its wrappers: whose parameter is called what.

Wrappers are recognised by their class and stepped over in the tree. A prefix is never cut from a name: a
submodule that a user called ``module`` keeps its name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from trajmon.numerics.errors import ModelError

__all__ = [
    "Owned",
    "is_instance",
    "is_norm_module",
    "owned_parameters",
    "parameters_in",
    "submodules",
    "unwrap",
]

# Module and name of a class, and the child that it wraps. A class whose module was never imported has no
# instances, so that torch._dynamo and torch.distributed need not be imported to look for them.
_WRAPPERS: Final = (
    ("torch.nn.parallel.distributed", "DistributedDataParallel", "module"),
    ("torch.nn.parallel.data_parallel", "DataParallel", "module"),
    ("deepspeed.runtime.engine", "DeepSpeedEngine", "module"),
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    (
        "torch.distributed.algorithms._checkpoint.checkpoint_wrapper",
        "ActivationWrapper",
        "_checkpoint_wrapped_module",
    ),
    (
        "torch.distributed.fsdp.fully_sharded_data_parallel",
        "FullyShardedDataParallel",
        "_fsdp_wrapped_module",
    ),
    # Wraps nothing, it changes the module's class; listed because it shards.
    ("torch.distributed.fsdp._fully_shard._fully_shard", "FSDPModule", ""),
)
# "Norm" and "Normalization", not "Normal" and "NormalizedSomething"; nor "NoNorm", which stands in its place.
_NORM_NAME: Final = re.compile(r"(?!.*(?-i:NoNorm)).*(?:norm(?!al)|normali[sz](?!ed))", re.IGNORECASE)
_NORM_CLASSES: Final = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_NEVER_NORM: Final = (nn.Embedding, nn.EmbeddingBag, nn.Linear, nn.modules.conv._ConvNd)


@dataclass(frozen=True, slots=True, eq=False)
class Owned:
    """One place in the tree where a parameter is registered; a tied parameter has several."""

    name: str
    """Dotted path without wrappers."""
    parameter: nn.Parameter
    """As it is now."""
    owners: tuple[nn.Module, ...]
    """The modules from the root down to the one that registers it, without wrappers."""


def is_instance(thing: object, module: str, name: str) -> bool:
    """``isinstance`` without importing the class's module."""
    known = getattr(sys.modules.get(module), name, None)
    return isinstance(known, type) and isinstance(thing, known)


def unwrap(module: nn.Module, *, sharded: bool = False) -> nn.Module:
    """The module inside any nest of DDP, torch.compile, activation checkpointing and FSDP wrappers.

    Raises :class:`ModelError` for a wrapper that shards, unless `sharded` allows them.
    """
    return _unwrapped(module, _known_wrappers(), sharded=sharded)


def submodules(model: nn.Module, *, sharded: bool = False) -> list[tuple[str, tuple[nn.Module, ...]]]:
    """Path and modules from the root down, for every unwrapped module; parents first, in torch's own order.

    A module that is registered twice comes twice. `sharded`: step into wrappers that shard, too.
    """
    found: list[tuple[str, tuple[nn.Module, ...]]] = []
    _descend(model, "", (), _known_wrappers(), found, sharded)
    return found


def owned_parameters(model: nn.Module, *, sharded: bool = False) -> list[Owned]:
    """Every place of every parameter, in the order of ``named_parameters``."""
    return parameters_in(submodules(model, sharded=sharded))


def parameters_in(tree: Sequence[tuple[str, tuple[nn.Module, ...]]]) -> list[Owned]:
    """The same of a tree that :func:`submodules` gave."""
    return [
        Owned(f"{path}.{name}" if path else name, parameter, owners)
        for path, owners in tree
        for name, parameter in owners[-1]._parameters.items()
        if parameter is not None
    ]


def is_norm_module(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer, by class or, for a model's own classes, by name and shape.

    Torch's BatchNorm, InstanceNorm, LayerNorm, GroupNorm and RMSNorm, unless a subclass adds parameters of more
    than one axis; or a class with "norm" or "normalization" in its name (not "normal", "normalized" or "NoNorm")
    that holds parameters itself, all of at most one axis, and none in submodules.

    >>> is_norm_module(nn.BatchNorm2d(3)), is_norm_module(nn.Linear(3, 3))
    (True, False)
    """
    own = {name: parameter for name, parameter in module._parameters.items() if parameter is not None}
    if isinstance(module, _NORM_CLASSES):
        # Theirs may have several axes: LayerNorm((28, 28)).
        return all(map(_is_scale, (own[name] for name in own.keys() - {"weight", "bias"})))
    if isinstance(module, _NEVER_NORM) or _NORM_NAME.match(type(module).__name__) is None:
        return False
    below = any(True for child in module.children() for _ in child.parameters())
    return bool(own) and not below and all(map(_is_scale, own.values()))


def _is_scale(parameter: nn.Parameter) -> bool:
    """Of at most one axis; one without a shape yet is not."""
    return not isinstance(parameter, torch.nn.parameter.UninitializedParameter) and parameter.dim() <= 1


_Wrappers = tuple[tuple[type, str], ...]


def _known_wrappers() -> _Wrappers:
    """Class and child of each wrapper that may have instances; looked up once a walk, a walk holds up training."""
    loaded = ((getattr(sys.modules.get(home), name, None), child) for home, name, child in _WRAPPERS)
    return tuple((known, child) for known, child in loaded if isinstance(known, type))


def _descend(
    module: nn.Module,
    name: str,
    above: tuple[nn.Module, ...],
    wrappers: _Wrappers,
    found: list[tuple[str, tuple[nn.Module, ...]]],
    sharded: bool,
) -> None:
    module = _unwrapped(module, wrappers, sharded=sharded)
    owners = (*above, module)
    found.append((name, owners))
    for child_name, child in module._modules.items():
        if child is not None:
            _descend(child, f"{name}.{child_name}" if name else child_name, owners, wrappers, found, sharded)


def _unwrapped(module: nn.Module, wrappers: _Wrappers, *, sharded: bool = False) -> nn.Module:
    while True:
        for known, child in wrappers:
            if isinstance(module, known):
                if not sharded:
                    _refuse_sharded(module)
                inner = module._modules.get(child)
                if inner is not None:
                    module = inner
                    break
        else:
            return module


def _refuse_sharded(module: nn.Module) -> None:
    advice = "sharded models cannot be recorded yet"
    if is_instance(module, "torch.distributed.fsdp._fully_shard._fully_shard", "FSDPModule"):
        raise ModelError(f"{type(module).__name__} was sharded with fully_shard; {advice}")
    if is_instance(module, "torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel"):
        strategy = getattr(getattr(module, "sharding_strategy", None), "name", "unknown")
        if strategy != "NO_SHARD" or not getattr(module, "_use_orig_params", False):
            raise ModelError(f"model is wrapped in FullyShardedDataParallel ({strategy}); {advice}")
