"""The run's folder of an ingest: begun, gone on with, or refused; and the sums from there to the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trajmon._files import ProcessLock, lock_holder
from trajmon._settings import Limits
from trajmon.errors import RefusedError, RunExistsError, RunNameError, RunOwnedError
from trajmon.ingest.blocks import BlockSource
from trajmon.ingest.cut import block_elements
from trajmon.ingest.gram import Place, Step, sum_tensors
from trajmon.ingest.journal import Journal
from trajmon.ingest.series import OpenSeries, first_difference, plan_of
from trajmon.rundir import RecorderNote, RunDescription, RunDir
from trajmon_protos.names import RUN_NAME, RUN_NAME_RULE

__all__ = ["FOLDER", "Ingest", "Options", "compute", "open_ingest"]

FOLDER: Final = "ingest"
_SAVE_SECONDS: Final = 2.0

Stepper = Callable[[BlockSource, Place], Iterator[Step]]


@dataclass(frozen=True, slots=True)
class Options:
    """How a series becomes a run."""

    run: str
    """Name."""
    tags: tuple[str, ...] = ()
    server: str | None = None
    """Address; None: TRAJMON_SERVER, else the local server."""
    threads: int = 1
    memory_bytes: int = 1 << 30
    restart: bool = False
    """Throw away what an ingest of other checkpoints under this name has computed."""


@dataclass(frozen=True, slots=True, eq=False)
class Ingest:
    """An ingest that this process owns."""

    run_dir: RunDir
    run: RunDescription
    journal: Journal
    series: OpenSeries
    options: Options
    source: BlockSource
    place: Place
    """Where the sums go on; the beginning for a new one."""
    owner: ProcessLock
    """Held until every row is handed in."""

    @property
    def is_complete(self) -> bool:
        """Nothing is left to compute."""
        return self.place.tensor == len(self.series.tensors)


@contextmanager
def open_ingest(home: Path, series: OpenSeries, options: Options) -> Iterator[Ingest]:
    """Begin the ingest, or go on with it where an earlier one with the same plan was interrupted.

    Raises RunNameError; RunExistsError if the run is a training's, or an ingest's of other checkpoints and
    ``restart`` is not given or comes too late; RunOwnedError while another process works on it;
    DamagedRunError; RefusedError if the folder cannot be written.
    """
    if RUN_NAME.fullmatch(options.run) is None:
        raise RunNameError(f"{options.run!r} is not a run name; use {RUN_NAME_RULE}")
    limits = Limits()
    if len(options.tags) > limits.tags or not all(
        1 <= len(tag) <= limits.tag_characters for tag in options.tags
    ):
        raise RunNameError(
            f"at most {limits.tags} tags of 1 to {limits.tag_characters} characters are allowed"
        )
    run_dir = RunDir.of(home, options.run)
    journal = Journal(run_dir.path / FOLDER)
    elements = block_elements(len(series.readers), options.memory_bytes)
    plan = plan_of(series, elements)
    # Before anything is written: a training's run stays as it is.
    _check(run_dir, journal.plan(), plan, options)
    owner, agent = ProcessLock(run_dir.owner_lock), ProcessLock(run_dir.agent_lock)
    try:
        run_dir.create()
    except OSError as error:
        raise RefusedError(
            f"{run_dir.home} cannot be written: {error.strerror}; set TRAJMON_HOME to another folder"
        ) from error
    try:
        for lock, path in ((owner, run_dir.owner_lock), (agent, run_dir.agent_lock)):
            if not lock.acquire():
                raise RunOwnedError(
                    f"process {lock_holder(path)} works on run {options.run!r}; wait for it or end it"
                )
        # Again, with the locks: another process may have been quicker.
        _check(run_dir, journal.plan(), plan, options)
        if journal.plan() != plan:
            _begin(run_dir, journal, plan)
        if not run_dir.run_file.exists():
            fresh = RunDescription(
                os.urandom(16).hex(), options.run, options.tags, series.layout, time.time()
            )
            fresh.write(run_dir)
        run = RunDescription.read(run_dir)
        RecorderNote(attempt=1, server=options.server, threads=options.threads).write(run_dir)
        source = BlockSource(series.readers, series.tensors, elements)
        if run_dir.acked() >= len(series.readers):
            # The sums are gone by now, and nobody needs them.
            place = Place(len(series.tensors))
        else:
            journal.open(len(series.readers), len(series.layout.layers))
            place = journal.load(series.tensors)
        yield Ingest(run_dir, run, journal, series, options, source, place, owner)
    finally:
        journal.close()
        agent.release()
        owner.release()


def compute(
    ingest: Ingest,
    on_step: Callable[[Step], None],
    stepper: Stepper | None = None,
    *,
    save_seconds: float = _SAVE_SECONDS,
) -> None:
    """All sums that are missing, into the journal; saves its place every `save_seconds` and at the end.

    `on_step` hears of every block. Raises CheckpointFileError, OSError; what is saved stays.
    """
    options, journal = ingest.options, ingest.journal
    step_through = stepper or (
        lambda source, place: sum_tensors(
            source, place, threads=options.threads, memory_bytes=options.memory_bytes
        )
    )
    place, saved, saved_at = ingest.place, ingest.place, time.monotonic()
    steps = step_through(ingest.source, place)
    try:
        for step in steps:
            if step.done is not None and step.sums is not None:
                journal.put(ingest.series.tensors[step.done], step.sums)
            place = step.place
            on_step(step)
            if time.monotonic() - saved_at > save_seconds:
                journal.save(place)
                saved, saved_at = place, time.monotonic()
        # Files that changed meanwhile would make sums of two versions.
        ingest.source.verify_unchanged()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and place is not saved:
            journal.save(place)
        raise
    finally:
        close = getattr(steps, "close", None)
        if close is not None:
            close()
    journal.save(place)


def _check(run_dir: RunDir, old: dict[str, Any] | None, plan: dict[str, Any], options: Options) -> None:
    """Raise RunExistsError unless the run is new, the same, or may be begun anew."""
    name = options.run
    if old is None:
        if run_dir.run_file.exists():
            raise RunExistsError(
                f"run {name!r} exists in {run_dir.path} and was not ingested; choose another name"
            )
        return
    difference = first_difference(old, plan)
    if not difference:
        return
    sent = run_dir.acked()
    if sent:
        raise RunExistsError(
            f"run {name!r} was ingested from other checkpoints ({difference}), and the server has {sent} of them; "
            "choose another name"
        )
    if not options.restart:
        raise RunExistsError(
            f"run {name!r} was begun from other checkpoints ({difference}); --restart throws away what it has "
            "computed, or choose another name"
        )


def _begin(run_dir: RunDir, journal: Journal, plan: dict[str, Any]) -> None:
    """Forget an earlier ingest, none of whose rows the server has. Raises OSError."""
    for row in run_dir.spool.iterdir():
        row.unlink()
    # Without run.json, a plan only means that the ingest was interrupted just here.
    for left in (run_dir.run_file, run_dir.acked_file, run_dir.answer_file, run_dir.agent_file):
        left.unlink(missing_ok=True)
    journal.begin(plan)
