"""`watch`: from a model and a run's name to a recorder."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from trajmon._agent_process import AgentProcess
from trajmon._files import ProcessLock, lock_holder
from trajmon._metadata import Metadata
from trajmon._recorder import Recorder
from trajmon._session import Session, Start
from trajmon._settings import Limits, default_threads, home_directory
from trajmon._status import RecorderStatus
from trajmon.errors import (
    NoSuchRunError,
    OtherModelError,
    RefusedError,
    RunExistsError,
    RunNameError,
    RunOwnedError,
    SnapshotError,
)
from trajmon.numerics.layout import Layout
from trajmon.numerics.model import plan_model
from trajmon.numerics.views import View
from trajmon.rundir import RecorderNote, RunDescription, RunDir
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.slot import Slot, SlotState, remove_forgotten
from trajmon.snapshots.store import SnapshotStore, path_to
from trajmon_protos.names import RUN_NAME, RUN_NAME_RULE

__all__ = ["Resume", "watch"]

log = logging.getLogger("trajmon")

Resume = Literal["never", "allow", "must"]
LIMITS = Limits()
_HANDOVER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Options:
    run: str
    server: str | None
    tags: tuple[str, ...]
    resume: Resume
    home: str | os.PathLike[str] | None
    budget_bytes: int | None
    threads: int


def watch(
    model: nn.Module,
    *,
    run: str,
    optimizer: object | None = None,
    server: str | None = None,
    initial: bool = True,
    tags: Sequence[str] = (),
    groups: Mapping[str, str | Sequence[str]] | None = None,
    views: Sequence[View] = (),
    resume: Resume = "never",
    home: str | os.PathLike[str] | None = None,
    snapshot_budget_bytes: int | None = None,
    strict: bool = False,
    agent_threads: int | None = None,
) -> Recorder:
    """Start recording a training, or continue a recorded run as its next attempt.

    `initial` records the parameters as they are now as checkpoint 0 of a new run. `server` is ``HOST:PORT``;
    else ``TRAJMON_SERVER``, else the local server. Outside ``strict=True`` nothing is raised: a run that
    cannot be recorded gives a recorder that does nothing, whose `status` says why. With `torch.distributed`,
    rank 0 records. With ``strict=True`` raises RefusedError, or what the model has against it.
    """
    session: Session | None = None
    try:
        rank = _rank()
        if rank != 0:
            return Recorder(None, RecorderStatus("closed", f"rank 0 records, this is rank {rank}"))
        options = _Options(
            run=run,
            server=server or os.environ.get("TRAJMON_SERVER") or None,
            tags=tuple(tags),
            resume=resume,
            home=home,
            budget_bytes=snapshot_budget_bytes,
            threads=default_threads() if agent_threads is None else agent_threads,
        )
        session = _open(model, optimizer, options, groups, views)
        recorder = Recorder(session, RecorderStatus("recording"), strict=strict)
        if initial and session.recorded == 0:
            recorder.checkpoint(step=0)
        return recorder
    except Exception as error:
        if strict:
            if session is not None:
                session.finish("the first checkpoint failed", 0.0)
            raise
        log.error("run %r is not recorded: %s; training goes on", run, error)
        return Recorder(None, RecorderStatus("refused", str(error) or repr(error)))


def _rank() -> int:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return 0


def _open(
    model: nn.Module,
    optimizer: object | None,
    options: _Options,
    groups: Mapping[str, str | Sequence[str]] | None,
    views: Sequence[View],
) -> Session:
    _check_options(options)
    plan = plan_model(model, groups=groups, views=views)
    run_dir = RunDir.of(home_directory(options.home), options.run)
    _check_resume(run_dir, options)
    _create(run_dir)
    owner = ProcessLock(run_dir.owner_lock)
    _acquire(owner, run_dir, options.run)
    try:
        # Again under the lock: another training may have been quicker.
        is_new = not _check_resume(run_dir, options, owned=True)
        run = _new_run(run_dir, options, plan.layout) if is_new else _old_run(run_dir, plan.layout)
        store = SnapshotStore(run_dir.snapshots, run.layout.fingerprint, run.layout.nbytes, writer="training")
        store.remove_leftovers()
        slot = _slot(run_dir, run)
        start, attempt = _start(run_dir, store, slot, options)
        note = RecorderNote(attempt=attempt, server=options.server, threads=options.threads)
        session = Session(
            model=model,
            optimizer=optimizer,
            plan=plan,
            run=run,
            run_dir=run_dir,
            owner=owner,
            store=store,
            slot=slot,
            agent=AgentProcess(run_dir, LIMITS),
            metadata=Metadata(LIMITS),
            note=note,
            start=start,
        )
        session.begin()
    except BaseException:
        owner.release()
        raise
    return session


def _create(run_dir: RunDir) -> None:
    try:
        run_dir.create()
    except OSError as error:
        raise RefusedError(
            f"{run_dir.home} cannot be written: {error.strerror}; give another home=, or set TRAJMON_HOME"
        ) from error


def _check_options(options: _Options) -> None:
    if RUN_NAME.fullmatch(options.run) is None:
        raise RunNameError(f"{options.run!r} is not a run name; use {RUN_NAME_RULE}")
    if options.resume not in get_args(Resume):
        raise RefusedError(f'resume={options.resume!r} is not one of "never", "allow", "must"')
    long = [tag for tag in options.tags if not 1 <= len(tag) <= LIMITS.tag_characters]
    if long or len(options.tags) > LIMITS.tags:
        raise RunNameError(
            f"at most {LIMITS.tags} tags of 1 to {LIMITS.tag_characters} characters are allowed"
        )
    if options.threads < 1:
        raise RefusedError(f"agent_threads={options.threads} is not at least 1")
    if options.budget_bytes is not None and options.budget_bytes <= 0:
        raise RefusedError(f"snapshot_budget_bytes={options.budget_bytes} is not at least 1")


def _check_resume(run_dir: RunDir, options: _Options, *, owned: bool = False) -> bool:
    """Whether the run exists; raises RefusedError where `resume` is against it."""
    exists = run_dir.run_file.exists()
    if exists and options.resume == "never":
        holder = None if owned else _other_owner(run_dir)
        if holder is not None:
            raise _owned_by(holder, options.run)
        raise RunExistsError(
            f'run {options.run!r} exists in {run_dir.path}; continue it with resume="allow", or choose another name'
        )
    if not exists and options.resume == "must":
        raise NoSuchRunError(
            f'there is no run {options.run!r} in {run_dir.path.parent}; start it with resume="allow"'
        )
    return exists


def _other_owner(run_dir: RunDir) -> int | None:
    """Process id of the training that records the run; an agent that is about to end does not count."""
    holder = lock_holder(run_dir.owner_lock)
    return None if holder is None or holder == lock_holder(run_dir.agent_lock) else holder


def _owned_by(pid: int, run: str) -> RunOwnedError:
    return RunOwnedError(f"run {run!r} is being recorded by process {pid}; end that, or choose another name")


def _acquire(owner: ProcessLock, run_dir: RunDir, run: str) -> None:
    """Become the run's owner. An agent holds the lock for a moment while it ends; that is waited for."""
    deadline = time.monotonic() + _HANDOVER_SECONDS
    while not owner.acquire():
        holder = _other_owner(run_dir)
        if holder is not None:
            raise _owned_by(holder, run)
        if time.monotonic() > deadline:
            raise RefusedError(f"the agent of run {run!r} does not let go of it; try again")
        time.sleep(0.01)


def _new_run(run_dir: RunDir, options: _Options, layout: Layout) -> RunDescription:
    # os.urandom: the generators of random, NumPy and PyTorch belong to training.
    run = RunDescription(os.urandom(16).hex(), options.run, options.tags, layout, time.time())
    run.write(run_dir)
    return run


def _old_run(run_dir: RunDir, layout: Layout) -> RunDescription:
    run = RunDescription.read(run_dir)
    if run.layout.fingerprint != layout.fingerprint:
        raise OtherModelError(
            f"run {run.name!r} was recorded from a model {run.layout.fingerprint}, this one is "
            f"{layout.fingerprint}: {_first_difference(run.layout, layout)}; choose another name"
        )
    return run


def _first_difference(old: Layout, new: Layout) -> str:
    for index, (before, now) in enumerate(zip(old.layers, new.layers, strict=False)):
        if before != now:
            return (
                f"layer {index} was {before.name!r} {tuple(before.shape)} {before.dtype}, "
                f"is {now.name!r} {tuple(now.shape)} {now.dtype}"
            )
    return f"it had {len(old.layers)} layers, has {len(new.layers)}"


def _slot(run_dir: RunDir, run: RunDescription) -> Slot | None:
    """The slot of an earlier attempt, or a new one. Only called by the owner: nobody else writes to it."""
    slot = Slot.find(run_dir.slot_file, run.layout.nbytes)
    if slot is None:
        remove_forgotten()
        return Slot.create(run_dir.slot_file, run.run_id, run.layout.nbytes) if run.layout.nbytes else None
    if slot.state == SlotState.WRITING:
        # Half a copy of a training that was killed.
        slot.set_state(SlotState.FREE)
    return slot


def _start(run_dir: RunDir, store: SnapshotStore, slot: Slot | None, options: _Options) -> tuple[Start, int]:
    """Where the next attempt starts, and its number."""
    # The slot before the store: an agent of the last attempt may be moving a checkpoint from one to the other.
    waiting = _slot_header(slot)
    headers = store.headers()
    numbers = store.numbers()
    if waiting is not None:
        headers.setdefault(waiting.checkpoint, waiting)
        numbers.append(waiting.checkpoint)
    next_checkpoint = max([*numbers, run_dir.acked() - 1], default=-1) + 1
    path = path_to(next_checkpoint - 1, headers) if next_checkpoint else []
    earlier = RecorderNote.read(run_dir)
    attempts = [header.attempt for header in headers.values()] + (
        [] if earlier is None else [earlier.attempt]
    )
    used_bytes = store.used_bytes()
    budget_bytes = options.budget_bytes
    if budget_bytes is None:
        free_bytes = shutil.disk_usage(run_dir.path).free
        budget_bytes = min(LIMITS.snapshot_budget_bytes, used_bytes + free_bytes // 2)
    start = Start(next_checkpoint, tuple(path), headers, used_bytes, budget_bytes)
    return start, max(attempts, default=0) + 1


def _slot_header(slot: Slot | None) -> SnapshotHeader | None:
    """Header of the checkpoint that waits in the slot."""
    if slot is None or slot.state != SlotState.FULL:
        return None
    try:
        return slot.header()
    except SnapshotError:
        # It cannot be told what the bytes are: they are given up, as the agent would.
        slot.set_state(SlotState.FREE)
        return None
