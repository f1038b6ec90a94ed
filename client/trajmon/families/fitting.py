"""From a family to the views and groups that hold in one model: none that matches nothing, none in the user's way."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from trajmon.families.errors import FamilyError
from trajmon.families.presets import Family
from trajmon.numerics.grouping import MAX_DEFAULT_GROUPS
from trajmon.numerics.layout import MAX_GROUPS
from trajmon.numerics.views import View, match_views, split

__all__ = ["Fitted", "fit"]

log = logging.getLogger("trajmon")


@dataclass(frozen=True, slots=True)
class Fitted:
    """What to declare for one model; each view and each pattern matches something."""

    views: tuple[View, ...]
    """The user's first."""
    groups: Mapping[str, str | Sequence[str]]
    """The user's and the family's; a user's group stands in the place of the family's of that name."""


def fit(
    family: Family,
    shapes: Mapping[str, tuple[int, ...]],
    views: Sequence[View] = (),
    groups: Mapping[str, str | Sequence[str]] | None = None,
) -> Fitted:
    """Fit a family to parameters of these names and shapes, beside a user's own views and groups.

    A parameter that a user's view takes is left to it. Raises :class:`FamilyError` if nothing in the model is
    named as in the family, or if a tensor is not arranged as there; ``ViewError`` for a user's view that does
    not fit.
    """
    taken = match_views(views, list(shapes))
    parts = {name: split(view, name, shapes[name]) for name, view in taken.items()}
    chosen = list(views)
    for each in family.fused:
        matching = [name for name in shapes if each.view.matches(name)]
        free = [name for name in matching if name not in parts]
        for name in free:
            try:
                parts[name] = each.parts(name, shapes[name])
            except FamilyError as error:
                raise FamilyError(f"the model is not of family {family.name!r}: {error}") from error
        if free:
            chosen.append(each.view if free == matching else _only(each.view, free))
    layers = [layer for name in shapes for layer in ([p.name for p in parts.get(name, ())] or [name])]
    fitting = {
        name: kept
        for name, patterns in family.groups.items()
        if (kept := tuple(pattern for pattern in patterns if _occurs(pattern, layers)))
    }
    if not fitting:
        raise FamilyError(
            f"the model is not of family {family.name!r}: none of its {len(shapes)} parameters is named as there"
        )
    return Fitted(tuple(chosen), _merged(family.name, fitting, dict(groups or {})))


def _only(view: View, names: Sequence[str]) -> View:
    """The same parts, of these parameters alone."""
    return replace(view, pattern=f"^(?:{'|'.join(map(re.escape, names))})$")


def _occurs(pattern: str, layers: Sequence[str]) -> bool:
    regex = re.compile(pattern)
    return any(regex.search(layer) for layer in layers)


def _merged(
    family: str, fitting: Mapping[str, tuple[str, ...]], own: dict[str, str | Sequence[str]]
) -> dict[str, str | Sequence[str]]:
    wanted = [name for name in fitting if name not in own]
    room = max(0, MAX_GROUPS - MAX_DEFAULT_GROUPS - len(own))
    if len(wanted) > room:
        log.warning(
            "%d groups are declared: there is no room for %s of model family %r",
            len(own),
            ", ".join(wanted[room:]),
            family,
        )
    return {name: fitting[name] for name in wanted[:room]} | own
