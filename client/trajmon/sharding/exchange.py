"""How the ranks of a training agree: a few small values in the store that their process group already has.

No collective: a rank that never asks keeps the others waiting no longer than the timeout, and training is
never held by a library that one rank calls and another does not. Rank 0 gathers, decides and publishes.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol

from torch import distributed

from trajmon.errors import RanksMissingError, ShardError

__all__ = ["Exchange", "LocalExchange", "StoreAgreement", "StoreExchange", "this_exchange"]

TIMEOUT_SECONDS = 60.0
# The n-th call for a run on this rank meets the n-th call on every other one.
_calls: Counter[str] = Counter()


class Exchange(Protocol):
    """One round: every rank's word to rank 0, rank 0's word to each."""

    @property
    def rank(self) -> int:
        """Of this process."""

    @property
    def world(self) -> int:
        """Number of ranks."""

    def round(self, word: Any, decide: Callable[[Sequence[Any]], Sequence[Any]]) -> Any:
        """This rank's share of what `decide` makes, on rank 0, of all words in rank order.

        Words and shares are JSON values. Raises ShardError if a rank does not take part, or if `decide` raises.
        """

    def refuse(self, reason: str) -> None:
        """Say that this rank takes no part, and wait for nobody; the others hear why instead of waiting."""

    def all_agree(self, yes: bool) -> bool:
        """After a round: whether every rank says yes; False, too, if one does not say anything in time."""


class LocalExchange:
    """One process alone."""

    rank = 0
    world = 1

    def round(self, word: Any, decide: Callable[[Sequence[Any]], Sequence[Any]]) -> Any:
        """See :class:`Exchange`."""
        return decide([word])[0]

    def refuse(self, reason: str) -> None:
        """See :class:`Exchange`."""

    def all_agree(self, yes: bool) -> bool:
        """See :class:`Exchange`."""
        return yes


class StoreAgreement:
    """What all ranks do at the same checkpoint; see :class:`trajmon.switch.actor.Agreement`.

    Rank 0 writes at checkpoint n what every rank does at checkpoint n + 1. Between the two lies at least one
    optimizer step, which no rank ends before rank 0 has begun it: all of them find the word.
    """

    def __init__(self, room: Callable[[], Any], rank: int) -> None:
        self.rank = rank
        self._room = room

    def decide(self, number: int, action: str) -> None:
        """On rank 0: `action` is due at the checkpoint after `number`."""
        if self.rank == 0:
            self._room().set(f"action/{number + 1}", action.encode())

    def due(self, number: int) -> str | None:
        """What to do at this checkpoint."""
        key, store = f"action/{number}", self._room()
        return store.get(key).decode() if store.check([key]) else None


class StoreExchange:
    """Through the store of the default process group, in a room of its own.

    The store is asked for at every use and never kept: it must go when the process group goes.
    """

    def __init__(self, room: Callable[[], Any], rank: int, world: int, timeout_seconds: float) -> None:
        self.rank = rank
        self.world = world
        self._room = room
        self._has_share = False
        self._is_over = False
        self._timeout = timedelta(seconds=timeout_seconds)

    def agreement(self) -> StoreAgreement:
        """For what comes after this round."""
        return StoreAgreement(self._room, self.rank)

    def round(self, word: Any, decide: Callable[[Sequence[Any]], Sequence[Any]]) -> Any:
        """See :class:`Exchange`."""
        self._room().set(f"word/{self.rank}", _pack(word))
        if self.rank == 0:
            self._publish(decide)
        answer = self._get([f"share/{self.rank}"])
        if answer is None:
            # A rank 0 that comes later must not count on this one.
            self._room().set(f"word/{self.rank}", _pack({"error": "it waited for rank 0 and gave up"}))
            raise ShardError(
                f"rank 0 did not answer within {self._timeout.total_seconds():.0f} s: call trajmon.watch on every rank"
            )
        self._is_over = True
        share = _unpack(answer[0])
        if "error" in share:
            raise ShardError(str(share["error"]))
        self._has_share = True
        return share["share"]

    def refuse(self, reason: str) -> None:
        """See :class:`Exchange`."""
        if self._has_share:
            self._room().set(f"yes/{self.rank}", b"0")
            if self.rank == 0:
                self._room().set("agreed", b"0")
            return
        if self._is_over:
            return
        self._room().set(f"word/{self.rank}", _pack({"error": reason}))
        if self.rank == 0:
            self._tell_all(f"rank 0: {reason}")

    def all_agree(self, yes: bool) -> bool:
        """See :class:`Exchange`."""
        self._room().set(f"yes/{self.rank}", b"1" if yes else b"0")
        if self.rank == 0:
            answers = self._get([f"yes/{rank}" for rank in range(self.world)])
            agreed = answers is not None and all(answer == b"1" for answer in answers)
            self._room().set("agreed", b"1" if agreed else b"0")
        return self._get(["agreed"]) == [b"1"]

    def _publish(self, decide: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        try:
            words = self._get([f"word/{rank}" for rank in range(self.world)])
            if words is None:
                missing = [rank for rank in range(self.world) if not self._room().check([f"word/{rank}"])]
                raise RanksMissingError(
                    f"{_ranks(missing)} did not call trajmon.watch within {self._timeout.total_seconds():.0f} s: "
                    "call it on every rank"
                )
            shares = [{"share": share} for share in decide([_unpack(word) for word in words])]
        except Exception as error:
            # Every rank hears why, and refuses alike.
            self._tell_all(str(error) or repr(error))
            raise
        for rank, share in enumerate(shares):
            self._room().set(f"share/{rank}", _pack(share))

    def _tell_all(self, reason: str) -> None:
        self._is_over = True
        for rank in range(self.world):
            self._room().set(f"share/{rank}", _pack({"error": reason}))

    def _get(self, keys: list[str]) -> list[bytes] | None:
        """The values of keys that others set; None if they do not come in time."""
        try:
            self._room().wait(keys, self._timeout)
        except distributed.DistStoreError:
            return None
        return [self._room().get(key) for key in keys]


def this_exchange(run: str, timeout_seconds: float = TIMEOUT_SECONDS) -> Exchange:
    """For the training that this process belongs to, and this call of `watch`."""
    if (
        not distributed.is_available()
        or not distributed.is_initialized()
        or distributed.get_world_size() == 1
    ):
        return LocalExchange()
    _calls[run] += 1
    prefix = f"trajmon/{run}/{_calls[run]}"

    def room() -> Any:
        # No public way leads to the store that every process group has.
        c10d = distributed.distributed_c10d
        return c10d.PrefixStore(prefix, c10d._get_default_store())

    return StoreExchange(room, distributed.get_rank(), distributed.get_world_size(), timeout_seconds)


def _ranks(ranks: Sequence[int]) -> str:
    named = ", ".join(str(rank) for rank in ranks[:8]) + (", …" if len(ranks) > 8 else "")
    return f"rank {named}" if len(ranks) == 1 else f"ranks {named}"


def _pack(value: Any) -> bytes:
    return zlib.compress(json.dumps(value).encode())


def _unpack(data: bytes) -> Any:
    return json.loads(zlib.decompress(data))
