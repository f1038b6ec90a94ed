"""How the sums of a tensor's blocks are added: always in the same order, whoever computed them.

Blocks are the leaves of a binary tree that is filled from the left: 0+1, 2+3, (0+1)+(2+3), … A subtree over 2^k blocks
that starts at a multiple of 2^k can be summed anywhere, one after the other or on another machine; the result has
the same bits. Its depth also keeps the rounding small: log2(blocks) additions lie between an entry and its block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Addable", "Sums", "Tree", "push", "total"]


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Inner products and update products of one tensor's layers, over some of its elements."""

    gram: NDArray[np.float64]
    """[layers of the tensor, T, T]; the lower triangle counts."""
    products: NDArray[np.float64]
    """[layers of the tensor, T, 4], columns as in ``trajmon_protos.record.PRODUCTS``."""

    @classmethod
    def zeros(cls, layers: int, num_checkpoints: int) -> Sums:
        """Of no elements."""
        t = num_checkpoints
        return cls(np.zeros((layers, t, t)), np.zeros((layers, t, 4)))

    def __add__(self, other: Sums) -> Sums:
        # Inf - Inf is how an overflow of an overflow looks; rows are marked later.
        with np.errstate(invalid="ignore", over="ignore"):
            return Sums(self.gram + other.gram, self.products + other.products)


class Addable(Protocol):
    """What a tree may hold: sums, or the promise of sums."""

    def __add__(self, other: Self, /) -> Self: ...


S = TypeVar("S", bound=Addable)


@dataclass(frozen=True, slots=True, eq=False)
class Tree(Generic[S]):
    """Complete subtrees, the widest first, that wait for their right neighbours."""

    pending: tuple[tuple[int, S], ...] = ()
    """Level k of a subtree over 2^k leaves, and its sum; levels fall strictly."""


def push(tree: Tree[S], leaf: S) -> Tree[S]:
    """The tree with one more leaf at its right end.

    >>> tree = Tree()
    >>> for leaf in "abcde":
    ...     tree = push(tree, leaf)
    >>> tree.pending, total(tree)
    (((2, 'abcd'), (0, 'e')), 'abcde')
    """
    pending = list(tree.pending)
    level, sums = 0, leaf
    while pending and pending[-1][0] == level:
        sums = pending.pop()[1] + sums
        level += 1
    return Tree((*pending, (level, sums)))


def total(tree: Tree[S]) -> S | None:
    """The sum over all leaves; None if there are none."""
    if not tree.pending:
        return None
    sums = tree.pending[-1][1]
    for _, left in reversed(tree.pending[:-1]):
        sums = left + sums
    return sums
