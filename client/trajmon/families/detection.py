"""Which family a torch module is of, by its classes, its configuration and its structure.

=======================================  ==============================================================
what is found                            by what
=======================================  ==============================================================
a model of transformers                  its class, and the ``model_type`` of its configuration
a ResNet as torchvision and timm build   ``conv1`` at the root, stages ``layer1``, ``layer2``, … of
it, or written by hand after them        blocks with ``conv1`` and ``conv2``
anything else with torch's own attention ``torch.nn.MultiheadAttention``
=======================================  ==============================================================

They are found inside wrappers and larger models, too: a LightningModule, a PEFT model, a pair of encoder and
decoder. A name alone decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from torch import nn

from trajmon.families.errors import FamilyError
from trajmon.families.fitting import fit
from trajmon.families.presets import MODEL_TYPES, Family, preset
from trajmon.numerics.modules import is_instance, owned_parameters, submodules
from trajmon.numerics.views import View

__all__ = ["AUTO", "detect", "presets_for"]

log = logging.getLogger("trajmon")

AUTO: Final = "auto"
_FEWEST_STAGES: Final = 2


def detect(model: nn.Module) -> Family | None:
    """The family of a model, or of the known models in it; None if there are none.

    Raises :class:`FamilyError` if the family is known and the model's configuration lacks a number that it needs.
    """
    found = _known_models(model)
    if not found:
        return None
    if len(found) == 1:
        (prefix, family), *_ = found.items()
        return family.under(prefix)
    parts = [family.under(prefix) for prefix, family in found.items()]
    groups: dict[str, tuple[str, ...]] = {}
    for part in parts:
        for name, patterns in part.groups.items():
            groups[name] = (*groups.get(name, ()), *patterns)
    return Family(
        "+".join(dict.fromkeys(part.name for part in parts)),
        tuple(each for part in parts for each in part.fused),
        MappingProxyType(groups),
    )


def presets_for(
    model: nn.Module,
    family: str | Family | None = AUTO,
    *,
    views: Sequence[View] = (),
    groups: Mapping[str, str | Sequence[str]] | None = None,
) -> tuple[tuple[View, ...], dict[str, str | Sequence[str]]]:
    """Views and groups to declare for a model: the user's, given here, and those of its family.

    `family` is a name, a family from :func:`trajmon.families.preset`, None for none, or ``"auto"``: the one that
    is detected, if any, and none with a warning in the log if the model then turns out not to be built like it.
    A family that was asked for by name raises :class:`FamilyError` instead.
    """
    own = tuple(views), dict(groups or {})
    if family is None:
        return own
    shapes = _shapes(model)
    if family != AUTO:
        wanted = family if isinstance(family, Family) else _by_name(model, family)
        fitted = fit(wanted, shapes, *own)
        return fitted.views, dict(fitted.groups)
    try:
        detected = detect(model)
        if detected is None:
            return own
        fitted = fit(detected, shapes, *own)
    except FamilyError as error:
        log.warning("no views and groups of a model family are used: %s", error)
        return own
    return fitted.views, dict(fitted.groups)


def _by_name(model: nn.Module, name: str) -> Family:
    """The family of this name, in the part of the model where it is found, or for the whole of it."""
    found = {prefix: family for prefix, family in _known_models(model).items() if family.name == name}
    if len(found) == 1:
        ((prefix, family),) = found.items()
        return family.under(prefix)
    _, owners = submodules(model, sharded=True)[0]
    return preset(name, _config_of(owners[-1]))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters that are recorded, a tied one once, in the order of the plan."""
    seen: set[int] = set()
    shapes: dict[str, tuple[int, ...]] = {}
    for owned in owned_parameters(model, sharded=True):
        parameter = owned.parameter
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        uninitialized = isinstance(parameter, nn.parameter.UninitializedParameter)
        if not uninitialized and (parameter.is_floating_point() or parameter.is_complex()):
            shapes[owned.name] = tuple(parameter.shape)
    return shapes


def _known_models(model: nn.Module) -> dict[str, Family]:
    """Families by the path of the outermost modules that have one."""
    tree = submodules(model, sharded=True)
    found: dict[str, Family] = {}
    for path, owners in tree:
        if any(not above or path.startswith(f"{above}.") for above in found):
            continue
        family = _family_of(owners[-1])
        if family is not None:
            found[path] = family
    if not found and _has_only_torchs_attention([owners[-1] for _, owners in tree]):
        found[""] = preset("torch_transformer")
    return found


def _has_only_torchs_attention(modules: Sequence[nn.Module]) -> bool:
    """Some models of transformers use it for a pooling layer beside an attention of their own."""
    return any(isinstance(module, nn.MultiheadAttention) for module in modules) and not any(
        is_instance(module, "transformers.modeling_utils", "PreTrainedModel") for module in modules
    )


def _family_of(module: nn.Module) -> Family | None:
    if is_instance(module, "transformers.modeling_utils", "PreTrainedModel"):
        config = _config_of(module)
        model_type = config.get("model_type")
        name = MODEL_TYPES.get(model_type) if isinstance(model_type, str) else None
        return None if name is None else preset(name, config)
    return preset("resnet") if _is_resnet(module) else None


def _config_of(module: nn.Module) -> Mapping[str, object]:
    """The configuration that a model of transformers carries, or one like it; empty if there is none."""
    config = getattr(module, "config", None)
    if isinstance(config, Mapping):
        return config
    to_dict = getattr(config, "to_dict", None)
    values = to_dict() if callable(to_dict) else getattr(config, "__dict__", {})
    return values if isinstance(values, Mapping) else {}


def _is_resnet(module: nn.Module) -> bool:
    children = module._modules
    if not isinstance(children.get("conv1"), nn.Conv2d):
        return False
    stages = [children.get(f"layer{number}") for number in range(1, 5)]
    present = [stage for stage in stages if isinstance(stage, nn.Sequential | nn.ModuleList)]
    blocks = [block for stage in present for block in stage]
    return (
        len(present) >= _FEWEST_STAGES
        and all(
            isinstance(getattr(block, "conv1", None), nn.Conv2d)
            and isinstance(getattr(block, "conv2", None), nn.Conv2d)
            for block in blocks
        )
        and bool(blocks)
    )
