"""Whatever one rank cannot do, all ranks go on alike: over a real store, between threads that stand for ranks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed import HashStore  # type: ignore[attr-defined] # there since torch 1.x

from trajmon._opening import Options
from trajmon._overlap import steps_all
from trajmon._recorder import Recorder
from trajmon._session import Session
from trajmon._status import RecorderStatus
from trajmon.agent.rows import RowMaker
from trajmon.errors import ShardError
from trajmon.sharding.exchange import LocalExchange, StoreAgreement, StoreExchange
from trajmon.sharding.opening import open_shard
from trajmon.snapshots.store import SnapshotStore
from trajmon.switch.actor import AdviceActor
from trajmon.switch.core import is_switched
from trajmon_protos.record import LayerStatus, decode


def between(world: int, act: Callable[[StoreExchange], Any], timeout_seconds: float = 30.0) -> list[Any]:
    """What `act` gives on each rank, or the error that it raises."""
    store = HashStore()
    results: list[Any] = [None] * world

    def run(rank: int) -> None:
        try:
            results[rank] = act(StoreExchange(lambda: store, rank, world, timeout_seconds))
        except ShardError as error:
            results[rank] = str(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def decide(words: Any) -> list[Any]:
    for rank, word in enumerate(words):
        if "error" in word:
            raise ShardError(f"rank {rank}: {word['error']}")
    return list(words)


def test_a_rank_that_refuses_before_the_round_is_heard_and_not_waited_for() -> None:
    for refusing in range(3):

        def act(exchange: StoreExchange, refusing: int = refusing) -> Any:
            if exchange.rank == refusing:
                return exchange.refuse("no such schedule")
            return exchange.round({}, decide)

        expected: list[Any] = [f"rank {refusing}: no such schedule"] * 3
        expected[refusing] = None
        assert between(3, act) == expected


def test_a_rank_0_that_comes_too_late_does_not_count_on_those_that_gave_up() -> None:
    store = HashStore()
    late = StoreExchange(lambda: store, 1, 2, 0.2)
    assert between_error(late) == "rank 0 did not answer within 0 s: call trajmon.watch on every rank"
    first = StoreExchange(lambda: store, 0, 2, 0.2)
    assert between_error(first) == "rank 1: it waited for rank 0 and gave up"


def between_error(exchange: StoreExchange) -> str:
    try:
        exchange.round({}, decide)
    except ShardError as error:
        return str(error)
    return ""


def test_all_agree_only_if_every_rank_says_yes() -> None:
    def ask(*answers: bool | None) -> list[Any]:
        def act(exchange: StoreExchange) -> Any:
            exchange.round({}, decide)
            answer = answers[exchange.rank]
            return exchange.refuse("no disk") if answer is None else exchange.all_agree(answer)

        return between(len(answers), act)

    assert ask(True, True, True) == [True] * 3
    assert ask(True, False, True) == [False] * 3
    assert ask(True, True, None) == [False, False, None]
    assert ask(None, True, True) == [None, False, False]
    assert [LocalExchange().all_agree(yes) for yes in (True, False)] == [True, False]


def session_of(model: nn.Module, optimizer: torch.optim.Optimizer | None, home: Path) -> Session:
    """Of a run in parts, which copies straight into the store."""
    options = Options(
        run="parts",
        server="127.0.0.1:9",
        tags=(),
        resume="never",
        home=home,
        budget_bytes=None,
        threads=1,
        memory_bytes=0,
    )
    return open_shard(model, optimizer, options, {}, (), LocalExchange())


def training() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def obstacle(session: Session, number: int) -> Path:
    """Makes the file of a checkpoint impossible while it is there."""
    folder = session.run_dir.snapshots / f".training.{number:08d}.tmp"
    folder.mkdir()
    return folder


def test_ranks_act_at_the_same_checkpoint_though_one_of_them_cannot_record_it(tmp_path: Path) -> None:
    store = HashStore()
    trainings = [training() for _ in range(3)]
    recorders = []
    for rank, (model, optimizer) in enumerate(trainings):
        actor = AdviceActor(model, optimizer, "switch", agreement=StoreAgreement(lambda: store, rank))
        session = session_of(model, optimizer, tmp_path / str(rank))
        recorders.append(Recorder(session, RecorderStatus("recording"), actor=actor))
    try:
        assert [recorder.checkpoint(step=0) for recorder in recorders] == [0] * 3
        for recorder in recorders[1:2]:
            assert recorder._session is not None
            obstacle(recorder._session, 1)
        # A rank whose recording has stopped for good.
        assert recorders[2]._session is not None
        recorders[2]._session.stopped = True
        StoreAgreement(lambda: store, 0).decide(0, "switch")
        assert [recorder.checkpoint(step=10) for recorder in recorders] == [1, None, None]
        assert [is_switched(model) for model, _ in trainings] == [True] * 3
        assert recorders[1].status.skipped == 1
    finally:
        for recorder in recorders:
            recorder.close(0.0)


def test_a_skipped_checkpoint_has_the_step_that_other_ranks_have_for_it(tmp_path: Path) -> None:
    model, optimizer = training()
    session = session_of(model, optimizer, tmp_path)
    recorder = Recorder(session, RecorderStatus("recording"))
    try:
        assert recorder.checkpoint(step=0) == 0
        folder = obstacle(session, 1)
        assert recorder.checkpoint(step=500) is None
        assert not session.run_dir.snapshots.joinpath("00000001.snap").exists()
        folder.rmdir()
        assert recorder.checkpoint(step=1000) == 2
    finally:
        recorder.close(0.0)
    layout = session.run.snapshot_layout
    store = SnapshotStore(session.run_dir.snapshots, layout.fingerprint, layout.nbytes, writer="none")
    told = [(header.step, header.previous) for header in store.headers().values()]
    assert told == [(0, None), (500, 0), (1000, 1)]
    rows = RowMaker(session.run_dir, session.run, store, threads=1)
    lost, kept = (decode(rows.make(number)) for number in (1, 2))
    assert (lost.header.info.step, lost.header.previous) == (500, 0)
    assert (lost.status == LayerStatus.NON_FINITE).all()
    assert np.isnan(lost.gram).all()
    assert np.isfinite(kept.gram[:, [0, 2]]).all()
    assert np.isnan(kept.gram[:, 1]).all()


def test_a_rank_that_died_before_the_others_knows_their_step_when_it_comes_back(tmp_path: Path) -> None:
    model, optimizer = training()
    session = session_of(model, optimizer, tmp_path)
    recorder = Recorder(session, RecorderStatus("recording"))
    for step in (0, 500, 1000):
        recorder.checkpoint(step=step)
    headers = session._store.headers()
    recorder.close(0.0)
    # As if this rank had been killed before its last checkpoint, and the others after it.
    session._store.path(2).unlink()
    session._absent.find(headers, 3, session.run_dir, slot=None)
    before = time.time()
    session._absent.leave()
    left = session._store.header(2)
    assert (left.attempt, left.step, left.previous) == (1, 1000, 1)
    assert left.time_unix_seconds <= before
    assert session._store.numbers() == [0, 1, 2]


def test_an_optimizer_that_steps_a_part_of_the_model_cannot_guard_a_copy_of_all() -> None:
    model, optimizer = training()
    assert steps_all(optimizer, model)
    partial = torch.optim.SGD(model[0].parameters(), lr=0.1)  # type: ignore[index] # a Sequential
    assert not steps_all(partial, model)
    for parameter in model[1:].parameters():  # type: ignore[index] # a Sequential
        parameter.requires_grad_(False)
    assert steps_all(partial, model)
