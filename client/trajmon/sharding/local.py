"""Which boxes of which parameters this process holds, and how they are read at a checkpoint.

Read without communication, and without a change: a shard is read as it lies here. FSDP2 may show whole,
low-precision parameters after a forward pass; its shards lie beside them. They are not made to show instead: the
next forward pass would gather again here, and would wait for ranks that do not. FSDP1 keeps its parameters in flat
ones, of which this process has a run of elements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from trajmon.errors import ShardError
from trajmon.numerics.grouping import Traits
from trajmon.numerics.groups import describe
from trajmon.numerics.layout import Dtype
from trajmon.numerics.model import DTYPES
from trajmon.numerics.modules import Owned, is_instance, parameters_in, submodules

__all__ = ["LocalParameter", "is_sharded", "lies_in_runs", "local_parameters"]

_SAMPLE: Final = 256
_FSDP1 = ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel")
_FSDP2 = ("torch.distributed.fsdp._fully_shard._fully_shard", "FSDPModule")


@dataclass(frozen=True, slots=True)
class LocalParameter:
    """What this process holds of one parameter."""

    name: str
    """Dotted path without wrappers."""
    shape: tuple[int, ...]
    """Of the whole parameter."""
    dtype: Dtype
    frame: tuple[int, ...]
    """Shape in which the box is a box: `shape`, or ``(numel,)`` for a run of elements."""
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    """Of the box that lies here; an extent of 0: nothing does."""
    owned: Owned
    """Where it is registered."""
    read: Callable[[], Tensor]
    """The box as it is now, of shape `sizes`, detached, not copied."""

    def traits(self) -> Traits:
        """What decides its groups; asked for once, and not at every checkpoint."""
        return describe(self.owned)

    def digest(self) -> str:
        """Hex digest over some of the elements: replicas have the same, different tensors hardly ever."""
        with torch.no_grad():
            flat = self.read().reshape(-1)
            count = flat.numel()
            if count > _SAMPLE:
                flat = flat[torch.arange(_SAMPLE, device=flat.device) * (count - 1) // (_SAMPLE - 1)]
            data = flat.to("cpu", copy=True).contiguous().view(torch.uint8).numpy().tobytes()
        return hashlib.blake2b(data, digest_size=8).hexdigest()


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only shards of some parameters."""
    if any(is_instance(module, *_FSDP1) or is_instance(module, *_FSDP2) for module in model.modules()):
        return True
    return any(_is_dtensor(parameter) or "ds_id" in parameter.__dict__ for parameter in model.parameters())


def lies_in_runs(model: nn.Module) -> bool:
    """Whether shards are runs of elements, as those of FSDP1 and ZeRO-3, of which no columns can be taken."""
    return bool(_flat_parameters(model)) or any("ds_id" in p.__dict__ for p in model.parameters())


def local_parameters(model: nn.Module) -> list[LocalParameter]:
    """What this process holds, each distinct parameter once, in the order of ``named_parameters``.

    Calling this again finds parameters that were replaced. Raises ShardError, by name, for what cannot be read.
    """
    shards = _shards_of_fsdp2(model)
    tree = submodules(model, sharded=True)
    paths = {id(owners[-1]): (path, owners) for path, owners in tree}
    flat_names = {id(flat) for flat, _ in _flat_parameters(model)}
    tied = _tied_in_flat_parameters(model)
    found: list[LocalParameter] = []
    seen: set[int] = set()
    in_flat = _in_flat_parameters(model, paths)
    covered = {parameter.name for parameter in in_flat}
    for owned in parameters_in(tree):
        place = id(owned.owners[-1]), owned.name.rpartition(".")[2]
        if place in shards:
            owned = replace(owned, parameter=shards[place])
        parameter = owned.parameter
        if id(parameter) in seen or id(parameter) in flat_names or owned.name in covered or place in tied:
            continue
        seen.add(id(parameter))
        if parameter.is_floating_point() or parameter.is_complex():
            found.append(_of(owned))
    order = {path: index for index, (path, _) in enumerate(tree)}
    found += in_flat
    return sorted(found, key=lambda parameter: order.get(parameter.name.rpartition(".")[0], 0))


def _of(owned: Owned) -> LocalParameter:
    parameter = owned.parameter
    dtype = DTYPES.get(parameter.dtype)
    if dtype is None:
        raise ShardError(
            f"layer {owned.name!r} has dtype {parameter.dtype}; recorded are {', '.join(DTYPES.values())}"
        )
    if "ds_id" in parameter.__dict__:
        return _of_zero3(owned)
    if _is_dtensor(parameter):
        return _of_dtensor(owned, dtype)
    if type(parameter) is not nn.Parameter and is_instance(
        parameter, "torch.distributed._shard.sharded_tensor.api", "ShardedTensor"
    ):
        raise ShardError(f"layer {owned.name!r} is a ShardedTensor; shard with FSDP2 or FSDP1 instead")
    if isinstance(parameter, torch.nn.parameter.UninitializedParameter) or parameter.is_meta:
        raise ShardError(f"layer {owned.name!r} has no values yet: initialise the model before recording")
    if parameter.layout != torch.strided or parameter.is_quantized:
        raise ShardError(f"layer {owned.name!r} is sparse or quantized; recorded are dense tensors")
    master = _master_weights(parameter)
    shape = tuple(parameter.shape)
    if master is not None:
        return _whole(owned, shape, "float32", lambda: master)
    return _whole(owned, shape, dtype, lambda: parameter.detach())


def _whole(owned: Owned, shape: tuple[int, ...], dtype: Dtype, read: Callable[[], Tensor]) -> LocalParameter:
    return LocalParameter(owned.name, shape, dtype, shape, (0,) * len(shape), shape, owned, read)


def _master_weights(parameter: nn.Parameter) -> Tensor | None:
    """The float32 copy that the optimizer steps, where the parameter carries one; its digits are the true ones."""
    master = getattr(parameter, "main_param", None)
    fits = isinstance(master, Tensor) and master.shape == parameter.shape and master.dtype == torch.float32
    return master.detach() if isinstance(master, Tensor) and fits else None


def _is_dtensor(parameter: Tensor) -> bool:
    return type(parameter) is not nn.Parameter and is_instance(
        parameter, "torch.distributed.tensor", "DTensor"
    )


def _of_dtensor(owned: Owned, dtype: Dtype) -> LocalParameter:
    parameter: Any = owned.parameter
    shape = tuple(parameter.shape)
    if any(placement.is_partial() for placement in parameter.placements):
        raise ShardError(
            f"layer {owned.name!r} is placed as {parameter.placements}: a partial sum has no values of its own"
        )
    # The protocol of distributed checkpoints: right also where the placements alone would mislead.
    chunks = parameter.__create_chunk_list__()
    if len(chunks) > 1:
        raise ShardError(f"layer {owned.name!r} lies here in {len(chunks)} pieces; recorded is one a process")
    local = parameter.to_local().detach()
    offsets = tuple(chunks[0].offsets) if chunks else (0,) * len(shape)
    sizes = tuple(local.shape)
    if chunks and tuple(chunks[0].sizes) != sizes and local.numel():
        raise ShardError(
            f"layer {owned.name!r} holds {sizes} here, its placement says {tuple(chunks[0].sizes)}"
        )
    return LocalParameter(
        owned.name,
        shape,
        dtype,
        shape,
        offsets if local.numel() else (0,) * len(shape),
        sizes if local.numel() else (0,) * len(shape),
        owned,
        lambda: local,
    )


def _of_zero3(owned: Owned) -> LocalParameter:
    """DeepSpeed ZeRO-3: each rank has a run of elements; the last ones are padded."""
    parameter: Any = owned.parameter
    partition = parameter.ds_tensor
    total = int(parameter.ds_numel)
    rank = torch.distributed.get_rank(parameter.ds_process_group)
    start = min(total, rank * int(partition.ds_numel))
    count = max(0, min(int(partition.ds_numel), total - start))

    def read() -> Tensor:
        from deepspeed.utils import safe_get_local_fp32_param

        master = safe_get_local_fp32_param(parameter)
        local: Tensor = partition.data if master is None else master
        return local.detach().reshape(-1)[:count]

    dtype = DTYPES[read().dtype]
    return LocalParameter(
        owned.name,
        tuple(parameter.ds_shape),
        dtype,
        (total,),
        (start,),
        (count,),
        owned,
        read,
    )


# FSDP2


def _shards_of_fsdp2(model: nn.Module) -> dict[tuple[int, str], nn.Parameter]:
    """The parameters that the optimizer steps, by module and name, whatever FSDP2 shows in their place now."""
    found = {}
    for module in model.modules():
        if not is_instance(module, *_FSDP2):
            continue
        # No public way leads to the shards while whole parameters are shown.
        state: Any = module._get_fsdp_state()  # type: ignore[operator] # of an FSDPModule
        for group in _groups_of(state):
            for parameter in group.fsdp_params:
                if not _shows_shard(parameter):
                    info = parameter._module_info
                    places = [(info.module, info.param_name)]
                    places += zip(info.shared_modules, info.shared_param_names, strict=True)
                    for owner, name in places:
                        found[id(owner), name] = parameter.sharded_param
    return found


def _groups_of(state: Any) -> list[Any]:
    """One, none, or in later versions of torch several."""
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:
        groups = [] if state._fsdp_param_group is None else [state._fsdp_param_group]
    return list(groups)


def _shows_shard(parameter: Any) -> bool:
    """Then what the module has counts: it may have been replaced."""
    return bool(parameter.sharded_state.name == "SHARDED")


# FSDP1


def _flat_parameters(model: nn.Module) -> list[tuple[Any, Any]]:
    """The flat parameters of FSDP1 that are cut up, and their handles."""
    found = []
    for module in model.modules():
        handle = getattr(module, "_handle", None) if is_instance(module, *_FSDP1) else None
        if handle is not None and (handle.uses_sharded_strategy or not handle._use_orig_params):
            found.append((handle.flat_param, handle))
    return found


def _tied_in_flat_parameters(model: nn.Module) -> set[tuple[int, str]]:
    """Further places of parameters that lie in flat ones under their first name, by module and name."""
    infos = (info for flat, _ in _flat_parameters(model) for info in flat._shared_param_infos)
    return {(id(info.module), info.param_name) for info in infos}


def _in_flat_parameters(
    model: nn.Module, paths: dict[int, tuple[str, tuple[nn.Module, ...]]]
) -> list[LocalParameter]:
    found = []
    for flat, _ in _flat_parameters(model):
        entries = zip(flat._param_infos, flat._shapes, flat._shard_param_infos, strict=True)
        for info, shape, place in entries:
            if id(info.module) not in paths:
                raise ShardError(
                    f"parameter {info.param_name!r} of FSDP lies in a module that is not in the model"
                )
            path, owners = paths[id(info.module)]
            name = f"{path}.{info.param_name}" if path else info.param_name
            numel = torch.Size(shape).numel()
            start = place.intra_param_start_idx if place.in_shard else 0
            count = place.numel_in_shard if place.in_shard else 0
            dtype = DTYPES.get(flat.dtype)
            if dtype is None:
                raise ShardError(f"layer {name!r} has dtype {flat.dtype}, which is not recorded")
            found.append(
                LocalParameter(
                    name,
                    tuple(shape),
                    dtype,
                    (numel,),
                    (int(start),),
                    (int(count),),
                    Owned(name, flat, owners),
                    _reader_of_flat(flat, int(place.offset_in_shard or 0), int(count)),
                )
            )
    return found


def _reader_of_flat(flat: Any, start: int, count: int) -> Callable[[], Tensor]:
    def read() -> Tensor:
        # Before the first forward pass the flat parameter itself is the shard.
        local: Tensor = getattr(flat, "_local_shard", flat.data)
        return local.detach()[start : start + count]

    return read
