"""What a list and a page of a run show beside its maps: where layers stand, when the learning rate changed. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trajmon_server.model import RunDescription
from trajmon_server.runs.run import Run
from trajmon_server.signals.settling import SettlingState, order

__all__ = [
    "KINDS",
    "SPARKLINE_POINTS",
    "GroupOutlook",
    "Phase",
    "Phases",
    "Place",
    "group_outlooks",
    "layer_places",
    "matching",
    "phases_of",
    "sparkline",
    "thinned",
]

KINDS = ("norm", "attention.qkv", "attention", "mlp", "embedding", "head", "conv", "linear")
"""Groups that say what a layer is, the more exact one first."""
SPARKLINE_POINTS = 64
MOST_PHASES = 64
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer stands in its model."""

    kind: str
    """One of :data:`KINDS`, else ``other``."""
    role: str
    """Its name with ``*`` for every number: the same in all blocks."""
    depth: int
    """How many blocks, or modules outside of blocks, come before its own."""


def layer_places(description: RunDescription) -> list[Place]:
    """The place of each layer, in the order of the layout."""
    kinds = ["other"] * len(description.layers)
    groups = {group.name: group.layers for group in description.groups}
    for kind in reversed(KINDS):
        for index in groups.get(kind, ()):
            kinds[index] = kind
    depths: dict[str, int] = {}
    places = []
    for layer, kind in zip(description.layers, kinds, strict=True):
        unit = block_path(layer.name)
        depth = depths.setdefault(unit, len(depths))
        places.append(Place(kind, _NUMBER.sub("*", layer.name), depth))
    return places


def block_path(name: str) -> str:
    """The block that a layer belongs to: its name up to the first number; its module where there is none.

    >>> block_path("h.3.attn.weight"), block_path("layer1.0.conv1.weight"), block_path("wte.weight")
    ('h.3', 'layer1.0', 'wte')
    """
    parts = name.split(".")
    for index, part in enumerate(parts):
        if _NUMBER.fullmatch(part):
            return ".".join(parts[: index + 1])
    return ".".join(parts[:-1]) or name


@dataclass(frozen=True, slots=True)
class Phase:
    """Neighbouring checkpoints of the path with one learning rate."""

    start: int
    """Number of the first checkpoint."""
    stop: int
    """Number of the last one, inclusive."""
    learning_rate: float
    """NaN where it was not told."""


@dataclass(frozen=True, slots=True)
class Phases:
    """The learning rate over a run."""

    schedule: Literal["constant", "stepwise", "continuous", "unknown"]
    ranges: tuple[Phase, ...]
    """Empty for a continuous schedule: the rate itself is among the hallmarks."""


def phases_of(run: Run) -> Phases:
    """Where the learning rate changed along the path."""
    ranges: list[Phase] = []
    for number in run.path:
        meta = run.metas.get(number)
        told = meta.learning_rate if meta is not None else None
        rate = math.nan if told is None else told
        last = ranges[-1] if ranges else None
        if last is not None and (
            last.learning_rate == rate or (math.isnan(rate) and math.isnan(last.learning_rate))
        ):
            ranges[-1] = Phase(last.start, number, last.learning_rate)
        else:
            ranges.append(Phase(number, number, rate))
    if all(math.isnan(phase.learning_rate) for phase in ranges):
        return Phases("unknown", ())
    if len(ranges) > MOST_PHASES or len(ranges) > max(8, len(run.path) // 2):
        return Phases("continuous", ())
    return Phases("constant" if len(ranges) == 1 else "stepwise", tuple(ranges))


@dataclass(frozen=True, slots=True)
class GroupOutlook:
    """How far a group still has to go, relative to its distance from the initialization."""

    group: str
    remaining: float
    low: float
    high: float
    """Ends of its interval."""
    settled_since: int | None
    """Checkpoint from which on the upper end was small without a break; None: it is not."""


def group_outlooks(state: SettlingState) -> list[GroupOutlook]:
    """Settled groups in the order in which they settled, then the others, the one with the least way ahead first.

    Groups of which nothing can be said are left out.
    """
    told = {
        name: GroupOutlook(
            name, group.outlook.remaining, group.outlook.low, group.outlook.high, group.settled_since
        )
        for name, group in state.groups.items()
        if group.outlook is not None
    }
    settled = order(state)
    others = sorted(
        (one for name, one in told.items() if name not in settled), key=lambda one: (one.remaining, one.group)
    )
    return [*(told[name] for name in settled), *others]


def thinned(count: int, most: int) -> list[int]:
    """At most `most`, 2 or more, of the positions 0 to count - 1, evenly spread, both ends among them.

    >>> thinned(10, 4), thinned(3, 4), thinned(0, 4)
    ([0, 3, 6, 9], [0, 1, 2], [])
    """
    if count <= most:
        return list(range(count))
    return [(index * (count - 1) + (most - 1) // 2) // (most - 1) for index in range(most)]


def sparkline(run: Run) -> Sequence[float]:
    """MDS of the network over the run, at most 64 values, evenly spread; NaN where undefined."""
    trace: Sequence[float] = run.shown.mds_trace
    return [trace[position] for position in thinned(len(trace), SPARKLINE_POINTS)]


def matching(runs: Sequence[Run], search: str, tags: Sequence[str], phase: int | None) -> list[Run]:
    """Runs whose name holds `search` (in any case), that have all of the `tags`, and are in this phase."""
    wanted, sought = set(tags), search.casefold()
    return [
        run
        for run in runs
        if sought in run.description.name.casefold()
        and wanted <= set(run.description.tags)
        and (phase is None or run.control.phase == phase)
    ]
