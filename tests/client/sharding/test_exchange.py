"""The round of words over a real store, between threads that stand for ranks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined] # there since torch 1.x

from trajmon.errors import RanksMissingError, ShardError
from trajmon.sharding.exchange import LocalExchange, StoreExchange


def round_of(
    world: int,
    words: Callable[[int], Any],
    decide: Callable[[Sequence[Any]], Sequence[Any]],
    absent: Sequence[int] = (),
    timeout_seconds: float = 30.0,
) -> dict[int, Any]:
    """What each rank gets, or the error that it raises."""
    store = HashStore()
    results: dict[int, Any] = {}

    def run(rank: int) -> None:
        exchange = StoreExchange(lambda: store, rank, world, timeout_seconds)
        try:
            results[rank] = exchange.round(words(rank), decide)
        except ShardError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world) if rank not in absent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_each_rank_gets_its_share_of_what_rank_0_makes_of_all_words() -> None:
    results = round_of(
        3, lambda rank: {"of": rank}, lambda words: [[a["of"] * 10, len(words)] for a in words]
    )
    assert results == {0: [0, 3], 1: [10, 3], 2: [20, 3]}


def test_ranks_that_never_ask_are_named_and_hold_nobody_longer_than_the_timeout() -> None:
    results = round_of(
        4,
        lambda rank: {"rank": rank},
        lambda words: [a["rank"] for a in words],
        absent=(1, 3),
        timeout_seconds=0.5,
    )
    assert isinstance(results[0], RanksMissingError)
    text = "ranks 1, 3 did not call trajmon.watch within 0 s: call it on every rank"
    assert str(results[0]) == text
    assert isinstance(results[2], ShardError)


def test_without_rank_0_the_others_say_so() -> None:
    results = round_of(2, lambda rank: rank, lambda words: list(words), absent=(0,), timeout_seconds=0.2)
    assert str(results[1]) == "rank 0 did not answer within 0 s: call trajmon.watch on every rank"


def test_what_speaks_against_the_run_is_heard_by_all() -> None:
    def refuse(words: Sequence[Any]) -> Sequence[Any]:
        raise ShardError("layer 'w' is uncovered")

    results = round_of(2, lambda rank: rank, refuse)
    assert [str(results[rank]) for rank in range(2)] == ["layer 'w' is uncovered"] * 2


def test_an_action_is_due_on_every_rank_at_the_checkpoint_after_the_decision() -> None:
    store = HashStore()
    agreements = [StoreExchange(lambda: store, rank, 2, 1.0).agreement() for rank in range(2)]
    agreements[1].decide(4, "switch")
    assert [agreement.due(5) for agreement in agreements] == [None, None]
    agreements[0].decide(4, "switch")
    assert [agreement.due(4) for agreement in agreements] == [None, None]
    assert [agreement.due(5) for agreement in agreements] == ["switch", "switch"]
    assert [agreement.due(6) for agreement in agreements] == [None, None]


def test_one_process_decides_alone() -> None:
    assert LocalExchange().round({"a": 1}, lambda words: [words[0]["a"] + 1]) == 2
    with pytest.raises(ZeroDivisionError):
        LocalExchange().round(0, lambda words: [1 // words[0]])
