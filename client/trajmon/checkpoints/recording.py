"""Checkpoints of other programs into the run of a name: its snapshots are written here, its agent does the rest.

The run's folder is that of any run (trajmon.rundir), with one file more, ``watch.json``: the folder that is followed,
the tensors that the series began with, and which files are dealt with.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from trajmon._agent_process import AgentProcess
from trajmon._files import ProcessLock, lock_holder, read_json, write_json
from trajmon._settings import Limits, default_threads, home_directory
from trajmon.checkpoints.base import CheckpointReader, TensorInfo
from trajmon.checkpoints.families import with_family
from trajmon.checkpoints.following import Signature
from trajmon.checkpoints.plan import CheckpointPlan, known_plan, plan_checkpoints
from trajmon.errors import (
    CheckpointFileError,
    DamagedRunError,
    RecordingStoppedError,
    RefusedError,
    RunExistsError,
    RunNameError,
    RunOwnedError,
)
from trajmon.numerics.views import View
from trajmon.rundir import AgentNote, RecorderNote, RunDescription, RunDir
from trajmon.snapshots.format import SnapshotHeader, snapshot_bytes
from trajmon.snapshots.store import SnapshotStore, path_to
from trajmon_protos.names import RUN_NAME, RUN_NAME_RULE

__all__ = ["FolderRecorder", "Options"]

_HANDOVER_SECONDS: Final = 2.0
_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asks for."""

    run: str
    folder: Path
    """That is followed; absolute."""
    server: str | None = None
    """``HOST:PORT`` or ``grpcs://HOST:PORT``; None: the local server."""
    tags: tuple[str, ...] = ()
    groups: Mapping[str, str | Sequence[str]] | None = None
    """As in :func:`trajmon.watch`; only a new run takes them."""
    views: tuple[View, ...] = ()
    family: str | None = None
    """As in :func:`trajmon.checkpoints.families.with_family`."""


class FolderRecorder:
    """Records checkpoints one after the other. One process at a time may record a run."""

    def __init__(self, options: Options, home: str | os.PathLike[str] | None = None) -> None:
        """Begin, or go on with, a run. Raises RefusedError."""
        if RUN_NAME.fullmatch(options.run) is None:
            raise RunNameError(f"{options.run!r} is not a run name; use {RUN_NAME_RULE}")
        self.run_dir = RunDir.of(home_directory(home), options.run)
        self._options = options
        self._check_new_or_ours()
        try:
            self.run_dir.create()
        except OSError as error:
            raise RefusedError(
                f"{self.run_dir.home} cannot be written: {error.strerror}; set TRAJMON_HOME"
            ) from error
        self._owner = ProcessLock(self.run_dir.owner_lock)
        self._acquire()
        try:
            self._go_on()
        except BaseException:
            self._owner.release()
            raise

    def _go_on(self) -> None:
        """Where the run stands, from its own files."""
        # Again as the owner: another may have been quicker.
        self._check_new_or_ours()
        state = read_json(self._state_file) or {}
        self.done: dict[str, Signature] = {
            str(key): tuple((str(n), int(i), int(s), int(t)) for n, i, s, t in files)
            for key, files in state.get("done", {}).items()
        }
        self._tensors: dict[str, Any] = state.get("tensors", {})
        self._agent = AgentProcess(self.run_dir, _LIMITS)
        self._run: RunDescription | None = None
        self._plan: CheckpointPlan | None = None
        self._headers: dict[int, SnapshotHeader] = {}
        self._next, self._used_bytes = 0, 0
        self._note = RecorderNote(attempt=1, server=self._options.server, threads=default_threads())
        if self.run_dir.run_file.exists():
            self._run = RunDescription.read(self.run_dir)
            self._plan = self._known_plan(self._run, state)
            store = self._store(self._run)
            store.remove_leftovers()
            self._headers = store.headers()
            self._next = max([*store.numbers(), self.run_dir.acked() - 1], default=-1) + 1
            self._used_bytes = store.used_bytes()
            earlier = RecorderNote.read(self.run_dir)
            attempts = [header.attempt for header in self._headers.values()]
            if earlier is not None:
                attempts.append(earlier.attempt)
            self._note = replace(self._note, attempt=max(attempts, default=0) + 1)
            self._tell()
            self.keep_agent_alive()
        self._budget_bytes = min(
            _LIMITS.snapshot_budget_bytes, self._used_bytes + shutil.disk_usage(self.run_dir.path).free // 2
        )

    @property
    def recorded(self) -> int:
        """Checkpoints of the run."""
        return self._next

    @property
    def last_step(self) -> int | None:
        """Of the last checkpoint; None if there is none."""
        header = self._headers.get(self._next - 1)
        if header is None and self._headers:
            header = self._headers[max(self._headers)]
        return None if header is None else header.step

    def pending(self) -> int:
        """Checkpoints that the server has not acknowledged."""
        return max(0, self._next - self.run_dir.acked())

    def record(self, reader: CheckpointReader, step: int, time_unix_seconds: float) -> int:
        """Take a checkpoint; its number.

        Raises CheckpointFileError for one that does not belong or is damaged, RecordingStoppedError if the disk
        budget is used up, OSError if it cannot be stored, and ModelError or ViewError from the first one.
        """
        if self._plan is None:
            views, groups = with_family(
                reader, self._options.family, self._options.views, self._options.groups
            )
            self._options = replace(self._options, views=tuple(views), groups=groups)
            self._plan = plan_checkpoints(reader, groups=groups, views=views)
        refusal = self._plan.refusal(reader)
        if refusal is not None:
            raise CheckpointFileError(refusal)
        run = self._run or self._begin(self._plan, reader)
        number = self._next
        path = path_to(number - 1, self._headers) if number else []
        header = SnapshotHeader(
            checkpoint=number,
            attempt=self._note.attempt,
            step=step,
            fingerprint=run.layout.fingerprint,
            previous=path[-1] if path else None,
            time_unix_seconds=time_unix_seconds,
        )
        file_bytes = snapshot_bytes(header, run.layout.nbytes)
        if self._used_bytes + file_bytes > self._budget_bytes:
            raise RecordingStoppedError(
                f"the snapshot budget of {self._budget_bytes} bytes is used up: {number} checkpoints take "
                f"{self._used_bytes} bytes, checkpoint {number} needs {file_bytes} more"
            )
        # Anew each time: between two checkpoints, which may be hours, a model's worth of memory is not held.
        buffer = np.zeros(run.layout.nbytes, dtype=np.uint8)
        self._plan.fill(reader, buffer)
        self._headers[number] = self._store(run).write(number, header, buffer.data, durable=True)
        self._next, self._used_bytes = number + 1, self._used_bytes + file_bytes
        self.keep_agent_alive()
        return number

    def set_done(self, key: str, signature: Signature) -> None:
        """Remember that a file is dealt with, also over a restart. Raises OSError."""
        self.done[key] = signature
        if self._run is not None:
            self._write_state()

    def keep_agent_alive(self) -> None:
        """Start the agent if there is none. Raises OSError."""
        if self._run is not None:
            self._agent.ensure()

    def finish(self, state: Literal["finished", "stopped"], reason: str = "") -> None:
        """Say that no more will come; the agent hands in what is left, by itself. Raises OSError."""
        try:
            self._note = replace(self._note, state=state, reason=reason)
            if self._run is not None:
                self._tell()
                # Even with nothing left to send, somebody has to say that it is over.
                self._agent.ensure(at_once=True)
        finally:
            self._owner.release()

    def agent_has_ended(self) -> bool:
        """Whether the agent's work is done, or nobody does it any more."""
        return self._run is None or not self._agent.alive()

    def problem(self) -> str:
        """What the agent complains about; empty if nothing."""
        return AgentNote.problem_of(self.run_dir)

    @property
    def _state_file(self) -> Path:
        return self.run_dir.path / "watch.json"

    def _store(self, run: RunDescription) -> SnapshotStore:
        layout = run.layout
        return SnapshotStore(self.run_dir.snapshots, layout.fingerprint, layout.nbytes, writer="watch")

    def _begin(self, plan: CheckpointPlan, reader: CheckpointReader) -> RunDescription:
        """Make the run, now that its layers are known. Raises OSError."""
        self._tensors = {source.name: [source.info.dtype, list(source.info.shape)] for source in plan.sources}
        # Before run.json: a run without it would belong to somebody else.
        self._write_state()
        run = RunDescription(
            os.urandom(16).hex(), self._options.run, self._options.tags, plan.layout, time.time()
        )
        run.write(self.run_dir)
        self._run = run
        self._tell()
        return run

    def _write_state(self) -> None:
        views = [view.to_json() for view in self._options.views]
        value = {
            "format": 1,
            "folder": str(self._options.folder),
            "tensors": self._tensors,
            "views": views,
            "done": self.done,
        }
        write_json(self._state_file, value)

    def _known_plan(self, run: RunDescription, state: dict[str, Any]) -> CheckpointPlan:
        try:
            views = tuple(View.from_json(view) for view in state["views"])
            if self._options.views and self._options.views != views:
                raise RefusedError(f"run {run.name!r} began with other views; choose another name")
            tensors = {
                name: TensorInfo(tuple(shape), dtype) for name, (dtype, shape) in state["tensors"].items()
            }
            self._options = replace(self._options, views=views)
            return known_plan(run.layout, tensors, views)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedRunError(f"{self._state_file} is not what this program writes: {error!r}") from error

    def _check_new_or_ours(self) -> None:
        """Raise RefusedError if the name belongs to another run."""
        name, state = self._options.run, read_json(self._state_file)
        if state is None:
            if self.run_dir.run_file.exists():
                raise RunExistsError(
                    f"run {name!r} exists in {self.run_dir.path} and does not follow a folder; choose another name"
                )
            return
        if state.get("folder") != str(self._options.folder):
            raise RunExistsError(f"run {name!r} follows {state.get('folder')}; choose another name")

    def _acquire(self) -> None:
        """Become the run's owner. An agent holds the lock for a moment while it ends; that is waited for."""
        deadline = time.monotonic() + _HANDOVER_SECONDS
        while not self._owner.acquire():
            holder = lock_holder(self.run_dir.owner_lock)
            if holder is not None and holder != lock_holder(self.run_dir.agent_lock):
                raise RunOwnedError(
                    f"run {self._options.run!r} is being recorded by process {holder}; end that"
                )
            if time.monotonic() > deadline:
                raise RefusedError(f"the agent of run {self._options.run!r} does not let go of it; try again")
            time.sleep(0.01)

    def _tell(self) -> None:
        self._note.write(self.run_dir)
