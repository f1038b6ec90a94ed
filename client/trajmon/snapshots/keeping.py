"""Which snapshots are kept. Pure.

* ``exact``: all of them. Every inner product is exact.
* ``anchored``: at most a number N of them, N >= 4: checkpoint 0, the last two, and *anchors* between: the multiples of
  a stride, which is the least power of two with which they fit. When it doubles, every second anchor goes. So each
  set is what is left of the one before, and any two checkpoints of the past lie between anchors at most a stride away.
* ``sketch``: the last two.

What is exact of a checkpoint's row is what was kept when the row was computed; the rest is estimated from sketches.
"""

from __future__ import annotations

from typing import Final, Literal

from trajmon.snapshots.format import HEAD_BYTES

__all__ = [
    "FEWEST_ANCHORED",
    "LAST",
    "SnapshotMode",
    "files_within",
    "is_kept",
    "is_nearly_used",
    "most_anchored",
    "stride",
]

SnapshotMode = Literal["exact", "anchored", "sketch"]

LAST: Final = 2
"""That the update products of the next checkpoint need."""
FEWEST_ANCHORED: Final = 4
"""Checkpoint 0, an anchor, and the last two."""


def most_anchored(budget_bytes: int, nbytes: int) -> int:
    """How many snapshots can be kept within a budget: a quarter of it, and at least two, is for those that wait.

    >>> most_anchored(budget_bytes=6_100_000, nbytes=1_000_000), most_anchored(41_000_000, 1_000_000)
    (4, 30)
    """
    fitting = files_within(budget_bytes, nbytes)
    return fitting - waiting_room(fitting)


def is_nearly_used(used_bytes: int, budget_bytes: int, nbytes: int) -> bool:
    """Whether only the room is left that those take which wait for their row."""
    left = files_within(budget_bytes - used_bytes, nbytes)
    return left <= waiting_room(files_within(budget_bytes, nbytes))


def files_within(budget_bytes: int, nbytes: int) -> int:
    """Snapshots that a budget has room for."""
    return max(0, budget_bytes // (nbytes + HEAD_BYTES))


def waiting_room(fitting: int) -> int:
    """How many of the snapshots that fit may be such as wait for their row."""
    return max(LAST, fitting // 4)


def stride(newest: int, keep: int) -> int:
    """Distance of the anchors once `newest` is recorded, with `keep` snapshots in all.

    >>> [stride(newest, keep=6) for newest in (5, 6, 8, 16, 59)]
    [1, 2, 2, 4, 16]
    """
    if keep < FEWEST_ANCHORED:
        raise ValueError(f"{keep} snapshots cannot be anchored; at least {FEWEST_ANCHORED} are needed")
    between, room = max(0, newest - LAST), keep - 1 - LAST
    step = 1
    while between // step > room:
        step *= 2
    return step


def is_kept(checkpoint: int, newest: int, mode: SnapshotMode, keep: int, previous: int | None = None) -> bool:
    """Whether the snapshot of a checkpoint is kept once the row of `newest` is computed.

    The last two are `newest` and the one before it on its path, `previous`; None: the one with the number before.

    >>> [number for number in range(60) if is_kept(number, 59, "anchored", keep=6)]
    [0, 16, 32, 48, 58, 59]
    >>> [number for number in range(60) if is_kept(number, 59, "sketch", keep=2)]
    [58, 59]
    """
    if (
        mode == "exact"
        or checkpoint >= newest
        or checkpoint == (newest - 1 if previous is None else previous)
    ):
        return True
    if mode == "sketch":
        return False
    return checkpoint % stride(newest, keep) == 0
