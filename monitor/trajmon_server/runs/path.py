"""The path of a run: which checkpoints form its map.

A row names the checkpoint before it. A training that resumed from an earlier step records a
checkpoint whose `previous` lies further back: everything in between is superseded. The path is the
chain of `previous` from the newest checkpoint to checkpoint 0.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["extend_path", "path_of", "superseded_by"]


def extend_path(path: Sequence[int], checkpoint: int, previous: int | None) -> tuple[int, ...]:
    """The path after `checkpoint` was recorded behind `previous`.

    Raises ValueError if `previous` is not on the path.

    >>> extend_path((0, 1, 2, 3), 4, previous=1)
    (0, 1, 4)
    """
    return (*path[: len(path) - len(superseded_by(path, previous))], checkpoint)


def superseded_by(path: Sequence[int], previous: int | None) -> tuple[int, ...]:
    """The checkpoints at the end of `path` that a row behind `previous` supersedes.

    Raises ValueError if `previous` is not on the path.

    >>> superseded_by((0, 1, 2, 3), 1)
    (2, 3)
    """
    if previous is None:
        return tuple(path)
    for kept in range(len(path), 0, -1):
        if path[kept - 1] == previous:
            return tuple(path[kept:])
        if path[kept - 1] < previous:
            break
    raise ValueError(
        f"checkpoint {previous} is superseded or does not exist; the path ends in {list(path[-3:])}"
    )


def path_of(previous: Sequence[int | None]) -> tuple[int, ...]:
    """The path of a run from the `previous` of all its checkpoints in order.

    >>> path_of([None, 0, 1, 0])
    (0, 3)
    """
    path: list[int] = []
    for checkpoint, before in enumerate(previous):
        del path[len(path) - len(superseded_by(path, before)) :]
        path.append(checkpoint)
    return tuple(path)
