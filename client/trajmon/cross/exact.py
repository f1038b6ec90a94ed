"""A map across two runs out of the snapshots of both, where they are on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trajmon.cross.errors import NotComparableError
from trajmon.cross.folders import KeptRun, open_kept
from trajmon.cross.products import Vectors, cross_products
from trajmon.cross.result import CrossResult
from trajmon.numerics.layout import Layout
from trajmon_protos.errors import ScopeError
from trajmon_protos.names import parse_scope

__all__ = ["ExactMap", "exact_map"]


@dataclass(frozen=True, slots=True)
class ExactMap:
    """The map, and what it was made of."""

    result: CrossResult
    """All standard errors are 0, or NaN where undefined."""
    run: KeptRun
    other: KeptRun


def exact_map(
    home: Path, run: str, other: str, scope: str = "network", from_initialization: bool = False
) -> ExactMap:
    """Compare the snapshots of two runs in `home`; no server takes part.

    Layers must have the same names and shapes; their dtypes may differ. Snapshots that were not kept are left out.
    Raises NotComparableError that names both sides, and OSError.
    """
    sides = open_kept(home, run), open_kept(home, other)
    _refuse_other_layers(*sides)
    layers = _layers_of(sides[0], scope)
    a, b = (
        Vectors(side.layout, side.snapshots, side.initialization() if from_initialization else None)
        for side in sides
    )
    products = cross_products(a, b, layers)
    cosines, distances = products.cosines(), products.distances()
    result = CrossResult(
        map=cosines,
        error=np.where(np.isnan(cosines), np.nan, 0.0),
        distance=distances,
        distance_error=np.where(np.isnan(distances), np.nan, 0.0),
        checkpoint=sides[0].checkpoint,
        step=sides[0].step,
        other_checkpoint=sides[1].checkpoint,
        other_step=sides[1].step,
        run=sides[0].name,
        other=sides[1].name,
        scope=str(parse_scope(scope)),
        from_initialization=from_initialization,
    )
    return ExactMap(result, sides[0], sides[1])


def _refuse_other_layers(first: KeptRun, second: KeptRun) -> None:
    ours, theirs = ([(a.name, a.shape) for a in each.layout.layers] for each in (first, second))
    if ours == theirs:
        return
    where = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    if where is None:
        text = f"run {first.name!r} has {len(ours)} layers, run {second.name!r} has {len(theirs)}"
    else:
        here, there = (f"{name!r} {shape}" for name, shape in (ours[where], theirs[where]))
        text = f"layer {where} of run {first.name!r} is {here}, of run {second.name!r} {there}"
    raise NotComparableError(f"{text}; a map across runs needs the same layers in both")


def _layers_of(run: KeptRun, text: str) -> tuple[int, ...]:
    try:
        scope = parse_scope(text)
    except ScopeError as error:
        raise NotComparableError(str(error)) from error
    layout: Layout = run.layout
    known = layout.layers if scope.kind == "layer" else layout.groups
    names = [item.name for item in known]
    if scope.name not in names:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise NotComparableError(f"run {run.name!r} has no {scope.kind} {scope.name[:80]!r}; it has: {shown}")
    index = names.index(scope.name)
    return (index,) if scope.kind == "layer" else layout.groups[index].layers
