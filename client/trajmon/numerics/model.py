"""From a torch module to its layout, and its parameters into a snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from trajmon.numerics.errors import ModelChangedError, ModelError
from trajmon.numerics.grouping import user_groups
from trajmon.numerics.groups import default_groups
from trajmon.numerics.layout import Dtype, Layer, Layout
from trajmon.numerics.modules import Owned, is_instance, is_norm_module, owned_parameters
from trajmon.numerics.views import Part, View, match_views, split

__all__ = ["DTYPES", "ModelPlan", "is_norm_module", "plan_model", "tensors_in"]

DTYPES: Final[Mapping[torch.dtype, Dtype]] = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
# torch places a tensor inside a buffer by whole elements.
_OFFSET_MULTIPLE: Final = 8


@dataclass(frozen=True, slots=True)
class _Source:
    """One parameter and the layers that it gives."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layers: tuple[int, ...]
    parts: tuple[Part, ...]
    """Empty: the tensor is one layer."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelPlan:
    """Which parameters of a model are recorded, and how they come into a snapshot."""

    layout: Layout
    """Of every snapshot of this model."""
    aliases: Mapping[str, tuple[str, ...]]
    """Other names of tied parameters, by the name that is recorded."""
    skipped: tuple[str, ...]
    """Parameters of whole numbers or booleans, which have no direction and are not recorded."""
    _sources: tuple[_Source, ...] = field(repr=False)
    _targets: Any = field(default_factory=WeakIdKeyDictionary, repr=False)

    def copy_into(self, model: nn.Module, buffer: torch.Tensor, *, non_blocking: bool = False) -> None:
        """Copy the model's parameters as they are now into `buffer`, [layout.nbytes] uint8 on the CPU.

        Elements come row-major, whatever the memory format. The model, its gradients and random numbers are not
        touched. `non_blocking` as in ``Tensor.copy_``. Parameters are looked up by name each time, for they may
        have been replaced. Raises :class:`ModelChangedError` if one is gone, new, or of another shape or dtype
        than planned, before anything is copied, and ValueError for a buffer that does not fit.
        """
        parameters = self._parameters(model)
        targets = tensors_in(self.layout, buffer, self._targets)
        with torch.no_grad():
            for source, parameter in zip(self._sources, parameters, strict=True):
                if not source.parts:
                    targets[source.layers[0]].copy_(parameter, non_blocking=non_blocking)
                    continue
                whole = parameter.detach().reshape(source.parts[0].whole)
                for layer, part in zip(source.layers, source.parts, strict=True):
                    piece = whole.narrow(part.axis, part.start, part.shape[part.axis])
                    targets[layer].copy_(piece, non_blocking=non_blocking)

    def _parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The planned parameters of the model, in plan order."""
        found, _ = _distinct(model)
        by_name = {owned.name: owned.parameter for owned in found}
        parameters = []
        for source in self._sources:
            parameter = by_name.pop(source.name, None)
            if parameter is None:
                raise ModelChangedError(
                    f"layer {source.name!r} of shape {source.shape} is no longer in the model"
                )
            if tuple(parameter.shape) != source.shape:
                raise ModelChangedError(
                    f"layer {source.name!r} has shape {tuple(parameter.shape)}, recording began with {source.shape}"
                )
            if parameter.dtype != source.dtype:
                raise ModelChangedError(
                    f"layer {source.name!r} has dtype {parameter.dtype}, recording began with {source.dtype}"
                )
            _refuse_without_data(source.name, parameter)
            parameters.append(parameter)
        for name, parameter in by_name.items():
            if parameter.is_floating_point() or parameter.is_complex():
                raise ModelChangedError(
                    f"parameter {name!r} of shape {tuple(parameter.shape)} was not in the model when recording began"
                )
        return parameters


def tensors_in(layout: Layout, buffer: torch.Tensor, known: Any) -> list[torch.Tensor]:
    """One tensor per layer that lies in `buffer`, [layout.nbytes] uint8 on the CPU.

    `known`, a WeakIdKeyDictionary, keeps them as long as the buffer lives. Raises ValueError for a buffer that
    does not fit.
    """
    key = (buffer.data_ptr(), buffer.numel())
    before = known.get(buffer)
    if before is not None and before[0] == key:
        kept: list[torch.Tensor] = before[1]
        return kept
    offset = buffer.storage_offset()
    if (
        buffer.dtype != torch.uint8
        or buffer.shape != (layout.nbytes,)
        or buffer.device.type != "cpu"
        or not buffer.is_contiguous()
        or offset % _OFFSET_MULTIPLE
    ):
        raise ValueError(
            f"buffer is {buffer.dtype} {tuple(buffer.shape)} on {buffer.device} at offset {offset}; the layout "
            f"needs contiguous torch.uint8 ({layout.nbytes},) on cpu at a multiple of {_OFFSET_MULTIPLE}"
        )
    # Not views: those would keep the buffer object alive, and with it a memory map that should go.
    storage = buffer.untyped_storage()
    dtypes = {text: dtype for dtype, text in DTYPES.items()}
    targets = []
    for layer, start in zip(layout.layers, layout.offsets_bytes, strict=True):
        target = torch.empty(0, dtype=dtypes[layer.dtype])
        place = (offset + start) // target.element_size()
        targets.append(target.set_(storage, place, layer.shape, _strides(layer.shape)))
    known[buffer] = (key, targets)
    return targets


def plan_model(
    model: nn.Module,
    *,
    groups: Mapping[str, str | Sequence[str]] | None = None,
    views: Sequence[View] = (),
) -> ModelPlan:
    """Plan what of a model is recorded.

    Layers come in the order of ``named_parameters``, a tied parameter once, frozen ones included, under names
    without the prefixes of wrappers. `groups`: patterns by group name, searched in layer names; see
    :mod:`trajmon.numerics.groups` for the default ones. `views`: tensors to record as their parts.

    Raises :class:`ModelError` for a model without parameters, and for sharded, not yet initialised, complex
    and float8 parameters, each by name; ``ViewError`` for a view that does not fit.

    >>> plan = plan_model(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    >>> [layer.name for layer in plan.layout.layers]
    ['0.weight', '0.bias', '1.weight', '1.bias']
    >>> [group.name for group in plan.layout.groups]
    ['network', 'norm', 'non_norm', 'linear', 'block.00', 'block.01']
    """
    found, aliases = _distinct(model)
    recorded, skipped = [], []
    for owned in found:
        _refuse_without_data(owned.name, owned.parameter)
        if owned.parameter.is_floating_point() or owned.parameter.is_complex():
            recorded.append(owned)
        else:
            skipped.append(owned.name)
    if not recorded:
        raise ModelError(
            f"{type(model).__name__} has no floating-point parameters: there is nothing to record"
        )
    taken = match_views(views, [owned.name for owned in recorded])
    layers: list[Layer] = []
    sources = []
    for owned in recorded:
        name, shape, dtype = owned.name, tuple(owned.parameter.shape), _dtype_of(owned)
        parts = split(taken[name], name, shape) if name in taken else ()
        start = len(layers)
        layers += [Layer(part.name, part.shape, dtype) for part in parts] or [Layer(name, shape, dtype)]
        indices = tuple(range(start, len(layers)))
        sources.append(_Source(name, shape, owned.parameter.dtype, indices, parts))
    defaults = default_groups(recorded, [source.layers for source in sources])
    chosen = user_groups(groups or {}, [layer.name for layer in layers], defaults)
    return ModelPlan(Layout(tuple(layers), chosen), aliases, tuple(skipped), tuple(sources))


def _distinct(model: nn.Module) -> tuple[list[Owned], dict[str, tuple[str, ...]]]:
    """Each parameter once, under its first name; and its other names."""
    by_identity: dict[int, Owned] = {}
    aliases: dict[str, tuple[str, ...]] = {}
    for owned in owned_parameters(model):
        known = by_identity.setdefault(id(owned.parameter), owned)
        if known is not owned:
            aliases[known.name] = (*aliases.get(known.name, ()), owned.name)
    return list(by_identity.values()), aliases


def _dtype_of(owned: Owned) -> Dtype:
    dtype = DTYPES.get(owned.parameter.dtype)
    if dtype is None:
        known = ", ".join(DTYPES.values())
        raise ModelError(f"layer {owned.name!r} has dtype {owned.parameter.dtype}; recorded are {known}")
    return dtype


def _refuse_without_data(name: str, parameter: nn.Parameter) -> None:
    """Raise unless all elements are here, in this process, as themselves."""
    if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
        raise ModelError(f"layer {name!r} is not initialised yet: run one forward pass before recording")
    sharded = "ds_id" in parameter.__dict__ or (
        type(parameter) is not nn.Parameter
        and (
            is_instance(parameter, "torch.distributed.tensor", "DTensor")
            or is_instance(parameter, "torch.distributed._shard.sharded_tensor.api", "ShardedTensor")
        )
    )
    if sharded:
        raise ModelError(
            f"layer {name!r} is sharded ({type(parameter).__name__}); sharded models cannot be recorded yet"
        )
    if parameter.is_meta:
        raise ModelError(f"layer {name!r} is on the meta device and has no values")
    if parameter.layout != torch.strided or parameter.is_quantized:
        raise ModelError(
            f"layer {name!r} is sparse or quantized ({parameter.layout}); recorded are dense tensors"
        )


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(reversed(strides))
