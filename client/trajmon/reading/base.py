"""What a view of a run asks of where the run is kept. Plain arrays: labels come later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    # At run time it would bring gRPC with it, which reading files does not need.
    from trajmon.query import Kernel

__all__ = ["Arrays", "LayoutFacts", "MapRequest", "Source", "last_values"]

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by name."""


@dataclass(frozen=True, slots=True)
class MapRequest:
    """Which map is asked for."""

    scope: str = "network"
    """`network`, `group:NAME` or `layer:NAME`."""
    relative_to: int | None = None
    """Checkpoint that the cosines are taken about; None: the origin."""
    kernel: Kernel = "linear"
    start: int | None = None
    """First checkpoint number, inclusive."""
    stop: int | None = None
    """Last checkpoint number, exclusive."""
    include_superseded: bool = False


@dataclass(frozen=True, slots=True)
class LayoutFacts:
    """What a run's maps are over."""

    layers: tuple[str, ...]
    groups: Mapping[str, tuple[int, ...]]
    """Positions in `layers` by group; `network` comes first."""
    columns: Mapping[str, list[Any]] = field(default_factory=dict)
    """What else is known of each layer, by name: lists as long as `layers`."""


class Source(Protocol):
    """One run, wherever it is kept. Every call reads anew: a live run grows between two calls.

    Raises QueryError or ReadingError.
    """

    def facts(self) -> dict[str, Any]:
        """`run`, `run_id`, `source` and whatever else is known of the run as a whole: numbers and texts."""
        ...

    def layout(self) -> LayoutFacts:
        """Layers and groups."""
        ...

    def map(self, request: MapRequest) -> Arrays:
        """`map`, `gram` [T, T], `checkpoint`, `step` [T]; `mode` [T] where known.

        Where entries are estimates, `error` and `gram_error` [T, T]; or, if the map can only be had without them,
        `is_partial` [], true: then its mean is not that of the map.
        """
        ...

    def hallmarks(self, scope: str) -> Arrays:
        """`checkpoint`, `step` and the hallmarks, [T] each along the path; `error:NAME` beside estimated ones."""
        ...

    def checkpoints(self) -> Arrays:
        """`checkpoint` and what is known of each, [T] each along the path."""
        ...

    def latest(self) -> Mapping[str, Mapping[str, float]]:
        """The latest hallmarks by group; undefined ones NaN or left out; `error:NAME` beside estimated ones."""
        ...

    def close(self) -> None:
        """Give up what is held open."""
        ...


def last_values(arrays: Arrays) -> dict[str, float]:
    """The last value of each array, [T]; nothing for T = 0."""
    return {name: float(np.asarray(array)[-1]) for name, array in arrays.items() if len(array)}
