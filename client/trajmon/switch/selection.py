"""Which parameters of a model stay trainable."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import UninitializedParameter

from trajmon.errors import SwitchError
from trajmon.numerics.modules import is_norm_module
from trajmon.switch.wrapping import is_fsdp1, walk

__all__ = ["Choice", "Found", "Selection", "find_parameters", "select", "select_by_name"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a caller asked for beside the rule; regular expressions searched in names without wrappers."""

    include: tuple[str, ...] = ()
    """These count as norm parameters too."""
    exclude: tuple[str, ...] = ()
    """These do not."""
    keep: tuple[str, ...] = ()
    """These stay trainable beside the norm parameters."""

    @classmethod
    def of(
        cls, include: str | Sequence[str], exclude: str | Sequence[str], keep: str | Sequence[str]
    ) -> Choice:
        """One pattern may come alone."""
        return cls(
            *((given,) if isinstance(given, str) else tuple(given) for given in (include, exclude, keep))
        )


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One distinct parameter."""

    parameter: nn.Parameter
    """As it is now."""
    names: tuple[str, ...]
    """Without wrappers; a tied parameter has several."""
    is_norm: bool
    """By the rule: every module that holds it is a normalisation layer."""


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Every distinct parameter once."""

    norm: tuple[Found, ...]
    """Stay trainable if they are."""
    kept: tuple[Found, ...]
    """Asked for beside them."""
    frozen: tuple[Found, ...]
    """All others, those included that require no gradient already."""

    @property
    def staying(self) -> tuple[Found, ...]:
        """What is trained after the switch."""
        return tuple(found for found in (*self.norm, *self.kept) if found.parameter.requires_grad)


def find_parameters(model: nn.Module) -> list[Found]:
    """The distinct parameters of a model, in its order. Raises SwitchError for lazy ones without a shape."""
    axes = _axes_before_flattening(model)
    places: dict[int, tuple[nn.Parameter, list[str], list[bool]]] = {}
    for path, module in walk(model):
        of_norm = is_norm_module(module)
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            full_name = f"{path}.{name}" if path else name
            if isinstance(parameter, UninitializedParameter):
                raise SwitchError(f"parameter {full_name!r} has no shape yet; run a forward pass first")
            # FSDP1 shows pieces of one axis; torch's own classes may have norm scalars of more.
            flattened = axes.get(id(parameter), 1) > 1 and not type(module).__module__.startswith("torch.nn.")
            _, names, norms = places.setdefault(id(parameter), (parameter, [], []))
            names.append(full_name)
            norms.append(of_norm and not flattened)
    return [Found(parameter, tuple(names), all(norms)) for parameter, names, norms in places.values()]


def select(parameters: Sequence[Found], choice: Choice) -> Selection:
    """Apply the rule and the choice. Raises SwitchError for a pattern that is none or matches nothing, and where
    no norm parameter is left that could be trained."""
    matching = {pattern: _matching(pattern, parameters) for pattern in _patterns(choice)}
    included, excluded, kept = (
        set[int]().union(*(matching[pattern] for pattern in patterns))
        for patterns in (choice.include, choice.exclude, choice.keep)
    )
    norm = {index for index, found in enumerate(parameters) if found.is_norm} | included
    norm -= excluded
    return _selection(parameters, norm, kept - norm)


def select_by_name(parameters: Sequence[Found], norm: Sequence[str], kept: Sequence[str]) -> Selection:
    """The selection of an earlier switch. Raises SwitchError for a name that is not there."""
    index_of = {name: index for index, found in enumerate(parameters) for name in found.names}
    missing = [name for name in (*norm, *kept) if name not in index_of]
    if missing:
        raise SwitchError(
            f"{len(missing)} of the parameters that were trained are not in this model; the first is {missing[0]!r}"
        )
    return _selection(parameters, {index_of[name] for name in norm}, {index_of[name] for name in kept})


def _selection(parameters: Sequence[Found], norm: set[int], kept: set[int]) -> Selection:
    numbered = list(enumerate(parameters))
    chosen = Selection(
        norm=tuple(found for index, found in numbered if index in norm),
        kept=tuple(found for index, found in numbered if index in kept),
        frozen=tuple(found for index, found in numbered if index not in norm | kept),
    )
    if not chosen.norm:
        raise SwitchError(
            f"none of the {len(parameters)} parameters belongs to a normalisation layer; name those that do with "
            "include="
        )
    if not any(found.parameter.requires_grad for found in chosen.norm):
        raise SwitchError(f"all {len(chosen.norm)} norm parameters are frozen already (requires_grad=False)")
    return chosen


def _patterns(choice: Choice) -> tuple[str, ...]:
    return (*choice.include, *choice.exclude, *choice.keep)


def _matching(pattern: str, parameters: Sequence[Found]) -> set[int]:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise SwitchError(f"{pattern!r} is not a regular expression: {error}") from error
    matching = {index for index, found in enumerate(parameters) if any(map(regex.search, found.names))}
    if not matching:
        raise SwitchError(f"{pattern!r} matches none of the {len(parameters)} parameters")
    return matching


def _axes_before_flattening(model: nn.Module) -> dict[int, int]:
    """Axes that a parameter has in the model, by id, where FSDP1 shows a flat piece of it."""
    axes: dict[int, int] = {}
    for module in model.modules():
        flat = getattr(getattr(module, "_handle", None), "flat_param", None) if is_fsdp1(module) else None
        pieces, shapes = getattr(flat, "_params", None), getattr(flat, "_shapes", None)
        axes |= {id(piece): len(shape) for piece, shape in zip(pieces or (), shapes or (), strict=True)}
    return axes
