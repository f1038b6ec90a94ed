"""Starting or continuing a run that is recorded in parts, one folder for each rank."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from trajmon._opening import (
    Known,
    Options,
    asked_spec,
    begin,
    check_spec,
    create_folders,
    other_owner,
    own,
)
from trajmon._session import Session
from trajmon._settings import home_directory
from trajmon.errors import DamagedRunError, ShardError, SnapshotError
from trajmon.numerics.views import View, match_views, split
from trajmon.rundir import RecorderNote, RunDescription, RunDir
from trajmon.sharding.agreement import Decision, Found, TensorWord, Word, agree
from trajmon.sharding.chunks import Chunk, Shard
from trajmon.sharding.copying import ShardPlan, Source
from trajmon.sharding.cutting import cut
from trajmon.sharding.exchange import Exchange
from trajmon.sharding.local import local_parameters
from trajmon.snapshots.slot import Slot, SlotState
from trajmon.snapshots.store import SnapshotStore

__all__ = ["has_shards", "open_shard"]


def has_shards(home: Path, run: str) -> bool:
    """Whether an earlier attempt of the run was recorded in parts on this machine."""
    return any((home / "client").glob(f"{run}~*/run.json"))


def open_shard(
    model: nn.Module,
    optimizer: object | None,
    options: Options,
    groups: Mapping[str, str | Sequence[str]],
    views: Sequence[View],
    exchange: Exchange,
) -> Session:
    """This rank's session. Every rank calls it; each raises what speaks against the run."""
    home = home_directory(options.home)

    def decide(words: Sequence[Any]) -> list[Any]:
        for rank, word in enumerate(words):
            if "error" in word:
                raise ShardError(f"rank {rank}: {word['error']}")
        read = [Word.from_json(word) for word in words]
        return [a.to_json() for a in agree(read, options.run, options.resume)]

    try:
        declared = {name: (a,) if isinstance(a, str) else tuple(a) for name, a in groups.items()}
        found = tuple(_found(home, options.run))
        word = Word(_tensor_words(model), found, tuple(views), declared).to_json()
    except Exception as error:
        # The others must not wait for a word that will never come.
        exchange.round({"error": str(error) or repr(error)}, decide)
        raise
    decision = Decision.from_json(exchange.round(word, decide))
    sources = _sources(decision)
    chunks = tuple(piece.chunk for source in sources for piece in source.pieces)
    if not chunks:
        # A rank that owns nothing hands in a part without elements: it still hears the advice.
        numel = decision.layout.layers[0].num_parameters
        chunks = (Chunk(0, (numel,), (0,), (0,)),)
    run_dir = RunDir.of(home, f"{options.run}~{decision.cut}~{exchange.rank:05d}")
    create_folders(run_dir, options)
    owner = own(run_dir, options.run)
    try:
        run = _describe(run_dir, options, decision, exchange, chunks)
        plan = ShardPlan(run.snapshot_layout, sources)
        known = Known(decision.attempt, decision.next_checkpoint, decision.path, decision.headers)
        return begin(model, optimizer, plan, run, run_dir, owner, options, known)
    except BaseException:
        owner.release()
        raise


def _tensor_words(model: nn.Module) -> tuple[TensorWord, ...]:
    return tuple(
        TensorWord(a.name, a.shape, a.dtype, a.frame, a.offsets, a.sizes, a.digest(), a.traits())
        for a in local_parameters(model)
    )


def _sources(decision: Decision) -> list[Source]:
    taken = match_views(decision.views, [parameter.name for parameter in decision.parameters])
    sources = []
    for owned in decision.owned:
        parameter = decision.parameters[owned.layer]
        view = taken.get(parameter.name)
        parts = () if view is None else split(view, parameter.name, parameter.shape)
        box = (owned.frame, owned.offsets, owned.sizes)
        pieces = cut(parameter.name, parameter.shape, parameter.layers, parts, box)
        sources.append(Source(parameter.name, *box, parameter.dtype, tuple(pieces)))
    return sources


def _describe(
    run_dir: RunDir, options: Options, decision: Decision, exchange: Exchange, chunks: tuple[Chunk, ...]
) -> RunDescription:
    """The description in the folder, written if this cut is new here."""
    if run_dir.run_file.exists():
        run = RunDescription.read(run_dir)
        if run.run_id != decision.run_id or run.shard is None or run.shard.chunks != chunks:
            raise DamagedRunError(f"{run_dir.path} holds another cut than its name says; move it away")
        check_spec(run, options)
        return run
    shard = Shard(
        part=exchange.rank,
        num_parts=exchange.world,
        writer=os.urandom(16).hex(),
        first_checkpoint=decision.first_checkpoint,
        chunks=chunks,
    )
    run = RunDescription(
        decision.run_id,
        options.run,
        options.tags,
        decision.layout,
        time.time(),
        shard,
        asked_spec(options),
    )
    run.write(run_dir)
    return run


def _found(home: Path, run: str) -> list[Found]:
    """What this machine holds of the run."""
    found = []
    for folder in sorted({home / "client" / run, *(home / "client").glob(f"{run}~*")}):
        run_dir = RunDir(folder)
        if run_dir.run_file.exists():
            found.append(_look_into(run_dir, folder.name.partition("~")[2].partition("~")[0]))
    return found


def _look_into(run_dir: RunDir, cut_name: str) -> Found:
    description = RunDescription.read(run_dir)
    layout = description.snapshot_layout
    store = SnapshotStore(run_dir.snapshots, layout.fingerprint, layout.nbytes, writer="training")
    # The slot before the store: an agent may be moving a checkpoint from one to the other.
    slot = Slot.find(run_dir.slot_file, layout.nbytes)
    headers = {}
    if slot is not None:
        try:
            if slot.state == SlotState.FULL:
                waiting = slot.header()
                headers[waiting.checkpoint] = waiting
        except SnapshotError:
            # The agent gives it up, and says so; its number was never told to anybody.
            headers.clear()
        finally:
            slot.close()
    numbers = store.numbers()
    headers = {**headers, **store.headers()}
    note = RecorderNote.read(run_dir)
    attempts = [header.attempt for header in headers.values()] + ([] if note is None else [note.attempt])
    return Found(
        run_id=description.run_id,
        fingerprint=description.layout.fingerprint,
        cut=cut_name,
        first_checkpoint=0 if description.shard is None else description.shard.first_checkpoint,
        next_checkpoint=max([*numbers, *headers, run_dir.acked() - 1], default=-1) + 1,
        attempt=max(attempts, default=0),
        holder=other_owner(run_dir),
        checkpoints={n: (a.attempt, a.step, a.previous) for n, a in headers.items()},
    )
