"""From a plan and a run's name to a session: the run's folder, its lock, slot, budget, and where it goes on."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from torch import nn

from trajmon._address import check_plaintext, parse_server
from trajmon._agent_process import AgentProcess
from trajmon._files import ProcessLock, lock_holder
from trajmon._metadata import Metadata
from trajmon._session import Plan, Session, Start
from trajmon._settings import Limits, home_directory, token
from trajmon.errors import (
    NoSuchRunError,
    OtherModelError,
    OtherSketchError,
    RefusedError,
    RunExistsError,
    RunNameError,
    RunOwnedError,
    ServerAddressError,
    SnapshotError,
)
from trajmon.numerics.layout import Layout
from trajmon.rundir import RecorderNote, RunDescription, RunDir
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.keeping import FEWEST_ANCHORED, LAST, SnapshotMode, files_within, most_anchored
from trajmon.snapshots.slot import Slot, SlotState, remove_forgotten
from trajmon.snapshots.store import SnapshotStore, path_to
from trajmon_protos.names import RUN_NAME, RUN_NAME_RULE
from trajmon_protos.sketch import SketchSpec

__all__ = [
    "LIMITS",
    "Options",
    "Resume",
    "asked_spec",
    "begin",
    "check_options",
    "check_spec",
    "create_folders",
    "open_whole",
    "other_owner",
    "own",
    "owned_by",
    "slot_header",
]

Resume = Literal["never", "allow", "must"]
LIMITS = Limits()
_HANDOVER_SECONDS = 2.0
_ANCHORED: Final = 32

log = logging.getLogger("trajmon")


@dataclass(frozen=True, slots=True)
class Options:
    """What `watch` was asked for, models and optimizers aside."""

    run: str
    server: str | None
    tags: tuple[str, ...]
    resume: Resume
    home: str | os.PathLike[str] | None
    budget_bytes: int | None
    threads: int
    snapshots_in: str | os.PathLike[str] | None = None
    memory_bytes: int | None = None
    mode: SnapshotMode = "exact"
    keep: int | None = None
    """Most snapshots that are kept in mode "anchored"; None: as many as the budget allows, at most 32."""
    sketch: SketchSpec | bool = False
    """Sketch every checkpoint, and how; other modes than "exact" do so in any case."""


def check_options(options: Options) -> None:
    """Raise RefusedError for what cannot be meant."""
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
    if options.mode not in get_args(SnapshotMode):
        raise RefusedError(f'mode={options.mode!r} is not one of "exact", "anchored", "sketch"')
    if options.keep is not None and options.mode != "anchored":
        raise RefusedError(f'snapshots_kept={options.keep} needs mode="anchored"; this is {options.mode!r}')
    if options.keep is not None and options.keep < FEWEST_ANCHORED:
        raise RefusedError(f"snapshots_kept={options.keep} is not at least {FEWEST_ANCHORED}")
    if options.memory_bytes is not None and options.memory_bytes < 0:
        raise RefusedError(f"memory_budget_bytes={options.memory_bytes} is not at least 0")
    if options.budget_bytes is not None and options.budget_bytes <= 0:
        raise RefusedError(f"snapshot_budget_bytes={options.budget_bytes} is not at least 1")
    if options.server is not None:
        _check_server(options, options.server)


def _check_server(options: Options, server: str) -> None:
    """Raise RefusedError for what is no address. What the agent will not do with it is said now, by a warning."""
    try:
        address = parse_server(server)
    except ServerAddressError as error:
        raise RefusedError(f"server={error}") from error
    try:
        check_plaintext(address, token(home_directory(options.home)))
    except ServerAddressError as error:
        log.warning("run %r: %s; its checkpoints wait on this machine until then", options.run, error)


def open_whole(model: nn.Module, optimizer: object | None, plan: Plan, options: Options) -> Session:
    """Start or continue a run whose snapshots are whole."""
    run_dir = RunDir.of(home_directory(options.home), options.run)
    _check_resume(run_dir, options)
    create_folders(run_dir, options)
    owner = own(run_dir, options.run)
    try:
        # Again under the lock: another training may have been quicker.
        is_new = not _check_resume(run_dir, options, owned=True)
        run = _new_run(run_dir, options, plan.layout) if is_new else _old_run(run_dir, options, plan.layout)
        return begin(model, optimizer, plan, run, run_dir, owner, options)
    except BaseException:
        owner.release()
        raise


@dataclass(frozen=True, slots=True)
class Known:
    """What the ranks of a training know together of the attempts before this one."""

    attempt: int
    """Number of this one."""
    next_checkpoint: int
    path: tuple[int, ...]
    headers: Mapping[int, SnapshotHeader]


def begin(
    model: nn.Module,
    optimizer: object | None,
    plan: Plan,
    run: RunDescription,
    run_dir: RunDir,
    owner: ProcessLock,
    options: Options,
    known: Known | None = None,
) -> Session:
    """The session of a run whose folder is owned; `known` overrules what the folder alone tells."""
    layout = plan.layout
    store = SnapshotStore(run_dir.snapshots, layout.fingerprint, layout.nbytes, writer="training")
    store.remove_leftovers()
    slot = _slot(run_dir, run, layout, options)
    start, attempt = _start(run_dir, store, slot, options, known)
    mode, keep = keeping(run_dir, options, layout.nbytes, start.budget_bytes)
    note = RecorderNote(
        attempt=attempt,
        server=options.server,
        threads=options.threads,
        keeping=mode,
        keep=keep,
        sketching=options.sketch is not False,
    )
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
    return session


def keeping(run_dir: RunDir, options: Options, nbytes: int, budget_bytes: int) -> tuple[SnapshotMode, int]:
    """Which snapshots an attempt keeps, and how many at most.

    What an earlier attempt did not keep is gone: one that asks for more goes on with what that one kept, as far as its
    budget allows. Raises RefusedError for a budget that is too small to go on in.
    """
    earlier = RecorderNote.read(run_dir)
    order = get_args(SnapshotMode)
    mode, most = options.mode, options.keep or _ANCHORED
    if earlier is not None and order.index(earlier.keeping) > order.index(options.mode):
        log.info("run %r goes on in mode %r, as before", options.run, earlier.keeping)
        mode, most = earlier.keeping, earlier.keep or _ANCHORED
    if mode == "exact":
        return mode, 0
    if mode == "sketch":
        if files_within(budget_bytes, nbytes) <= LAST:
            raise RefusedError(
                f'mode="sketch" keeps {LAST} snapshots of {nbytes} bytes and works on one more; the budget is '
                f"{budget_bytes} bytes: give a larger snapshot_budget_bytes"
            )
        return mode, LAST
    fitting = most_anchored(budget_bytes, nbytes)
    if fitting < FEWEST_ANCHORED:
        raise RefusedError(
            f'mode="anchored" keeps at least {FEWEST_ANCHORED} snapshots of {nbytes} bytes and works on two more; the '
            f'budget is {budget_bytes} bytes: give a larger snapshot_budget_bytes, or use mode="sketch"'
        )
    return mode, min(fitting, most)


def create_folders(run_dir: RunDir, options: Options) -> None:
    """Make the run's folders. Raises RefusedError."""
    try:
        run_dir.create(None if options.snapshots_in is None else Path(options.snapshots_in))
    except OSError as error:
        where = error.filename or run_dir.home
        raise RefusedError(
            f"{where} cannot be written: {error.strerror}; give another home= or snapshot_dir=, or set TRAJMON_HOME"
        ) from error
    if options.snapshots_in is not None and not run_dir.snapshots.is_symlink():
        raise RefusedError(
            f"run {options.run!r} has its snapshots in {run_dir.snapshots}; leave snapshot_dir= out, or move them"
        )


def _check_resume(run_dir: RunDir, options: Options, *, owned: bool = False) -> bool:
    """Whether the run exists; raises RefusedError where `resume` is against it."""
    exists = run_dir.run_file.exists()
    if exists and options.resume == "never":
        holder = None if owned else other_owner(run_dir)
        if holder is not None:
            raise owned_by(holder, options.run)
        raise RunExistsError(
            f'run {options.run!r} exists in {run_dir.path}; continue it with resume="allow", or choose another name'
        )
    if not exists and options.resume == "must":
        raise NoSuchRunError(
            f'there is no run {options.run!r} in {run_dir.path.parent}; start it with resume="allow"'
        )
    return exists


def other_owner(run_dir: RunDir) -> int | None:
    """Process id of the training that records the run; an agent that is about to end does not count."""
    holder = lock_holder(run_dir.owner_lock)
    return None if holder is None or holder == lock_holder(run_dir.agent_lock) else holder


def owned_by(pid: int, run: str) -> RunOwnedError:
    """The error for a run that another training records."""
    return RunOwnedError(f"run {run!r} is being recorded by process {pid}; end that, or choose another name")


def own(run_dir: RunDir, run: str) -> ProcessLock:
    """Become the run's owner. An agent holds the lock for a moment while it ends; that is waited for."""
    owner = ProcessLock(run_dir.owner_lock)
    deadline = time.monotonic() + _HANDOVER_SECONDS
    while not owner.acquire():
        holder = other_owner(run_dir)
        if holder is not None:
            raise owned_by(holder, run)
        if time.monotonic() > deadline:
            raise RefusedError(f"the agent of run {run!r} does not let go of it; try again")
        time.sleep(0.01)
    return owner


def _new_run(run_dir: RunDir, options: Options, layout: Layout) -> RunDescription:
    # os.urandom: the generators of random, NumPy and PyTorch belong to training.
    run_id = os.urandom(16).hex()
    run = RunDescription(run_id, options.run, options.tags, layout, time.time(), sketch=asked_spec(options))
    run.write(run_dir)
    return run


def asked_spec(options: Options) -> SketchSpec | None:
    """How checkpoints are to be sketched, if that was said."""
    return options.sketch if isinstance(options.sketch, SketchSpec) else None


def check_spec(run: RunDescription, options: Options) -> None:
    """Raise OtherSketchError if the run is sketched in another way than is asked for now."""
    asked = asked_spec(options)
    if asked is not None and asked != run.sketch_spec:
        raise OtherSketchError(
            f"run {run.name!r} is sketched with {run.sketch_spec}, sketch= asks for {asked}; leave sketch= out, or "
            "choose another name"
        )


def _old_run(run_dir: RunDir, options: Options, layout: Layout) -> RunDescription:
    run = RunDescription.read(run_dir)
    check_spec(run, options)
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


def _slot(run_dir: RunDir, run: RunDescription, layout: Layout, options: Options) -> Slot | None:
    """The slot of an earlier attempt, or a new one. Only called by the owner: nobody else writes to it."""
    slot = Slot.find(run_dir.slot_file, layout.nbytes)
    if slot is None:
        remove_forgotten()
        if options.memory_bytes is not None and layout.nbytes > options.memory_bytes:
            return None
        name = run.run_id if run.shard is None else run.shard.writer
        return Slot.create(run_dir.slot_file, name, layout.nbytes) if layout.nbytes else None
    if slot.state == SlotState.WRITING:
        # Half a copy of a training that was killed.
        slot.set_state(SlotState.FREE)
    return slot


def _start(
    run_dir: RunDir, store: SnapshotStore, slot: Slot | None, options: Options, known: Known | None
) -> tuple[Start, int]:
    """Where the next attempt starts, and its number."""
    # The slot before the store: an agent of the last attempt may be moving a checkpoint from one to the other.
    waiting = slot_header(slot)
    used_bytes = store.kept_bytes()
    budget_bytes = options.budget_bytes
    if budget_bytes is None:
        free_bytes = shutil.disk_usage(run_dir.snapshots).free
        budget_bytes = min(LIMITS.snapshot_budget_bytes, used_bytes + free_bytes // 2)
    if known is not None:
        start = Start(
            known.next_checkpoint,
            known.path,
            known.headers,
            used_bytes,
            budget_bytes,
            options.memory_bytes,
        )
        return start, known.attempt
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
    start = Start(next_checkpoint, tuple(path), headers, used_bytes, budget_bytes, options.memory_bytes)
    return start, max(attempts, default=0) + 1


def slot_header(slot: Slot | None) -> SnapshotHeader | None:
    """Header of the checkpoint that waits in the slot."""
    if slot is None or slot.state != SlotState.FULL:
        return None
    try:
        return slot.header()
    except SnapshotError:
        # It cannot be told what the bytes are: they are given up, as the agent would.
        slot.set_state(SlotState.FREE)
        return None
