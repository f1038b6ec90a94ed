"""`trajmon watch`."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.status import Status

from trajmon.cli.session import Problem, clean, family_option, make_console, server_option

if TYPE_CHECKING:
    from trajmon.checkpoints.finding import Candidate
    from trajmon.checkpoints.following import FolderWatcher, Look, Signature
    from trajmon.checkpoints.recording import FolderRecorder

__all__ = ["watch"]

_POLL_SECONDS = (0.05, 1.0)
_DRAIN_SECONDS = 20.0
_DRAIN_SECONDS_AFTER_CTRL_C = 3.0


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--run", required=True, help="Name of the run; the same name goes on where it was.")
@click.option(
    "--settle",
    type=click.FloatRange(0.0, 3600.0),
    default=5.0,
    show_default=True,
    help="Seconds for which a checkpoint's files must not change before it is read.",
)
@click.option(
    "--until-idle",
    type=click.FloatRange(0.0),
    help="End when nothing has come for so many seconds. Default: go on until Ctrl-C.",
)
@family_option
@click.option("--tag", "tags", multiple=True, help="Tag of the run; may be given several times.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@server_option
def watch(
    folder: Path,
    run: str,
    settle: float,
    until_idle: float | None,
    family: str,
    tags: tuple[str, ...],
    as_json: bool,
    server: str | None,
) -> None:
    """Follow DIR, which any trainer fills with checkpoints, and record each as it comes.

    The training program needs no change. Files may be rotated away once they are taken.
    """
    from trajmon.checkpoints.following import FolderWatcher
    from trajmon.checkpoints.recording import FolderRecorder, Options
    from trajmon.errors import RecordingStoppedError, RefusedError
    from trajmon.numerics.errors import ModelError

    folder = folder.expanduser().absolute()
    if not folder.parent.is_dir():
        raise Problem(f"{folder} cannot be followed: there is no folder {folder.parent}")
    try:
        recorder = FolderRecorder(
            Options(run, folder, server, tags, family=None if family == "none" else family)
        )
    except RefusedError as error:
        raise Problem(str(error)) from error
    out = _Output(make_console(), as_json)
    out.say(
        "following",
        f"following {folder} as run {run}"
        + (
            f": {recorder.recorded} checkpoints so far, the last at step {recorder.last_step}"
            if recorder.recorded
            else ""
        ),
        folder=str(folder),
        run=run,
        checkpoints=recorder.recorded,
    )
    follower = _Follower(recorder, FolderWatcher(folder, settle), out)
    with _stop_signals() as stop:
        try:
            with out.live(recorder):
                follower.follow(stop, settle, until_idle)
        except RecordingStoppedError as error:
            _end(recorder, out, "stopped", str(error), _DRAIN_SECONDS)
            raise Problem(str(error)) from error
        except ModelError as error:
            recorder.finish("stopped", str(error))
            raise Problem(str(error)) from error
        except BaseException as error:
            recorder.finish("stopped", f"watching ended with {type(error).__name__}")
            raise
        if stop.is_set():
            _end(recorder, out, "stopped", "watching was interrupted", _DRAIN_SECONDS_AFTER_CTRL_C)
        else:
            _end(recorder, out, "finished", "", _DRAIN_SECONDS)


@dataclass
class _Output:
    """Lines for people, or JSON objects for programs."""

    console: Console
    as_json: bool
    status: Status | None = None

    def say(self, event: str, words: str, style: str = "", **facts: Any) -> None:
        """One event."""
        if self.as_json:
            click.echo(json.dumps({"event": event, **facts}, allow_nan=False))
        else:
            self.console.print(clean(words, 1000), style=style, soft_wrap=True)

    @contextmanager
    def live(self, recorder: FolderRecorder) -> Iterator[None]:
        """A line that tells how things stand, on a terminal."""
        if self.as_json or not self.console.is_terminal:
            with nullcontext():
                yield
            return
        with self.console.status("looking") as self.status:
            yield
        self.status = None


@dataclass
class _Follower:
    """The loop of the command."""

    recorder: FolderRecorder
    folder: FolderWatcher
    out: _Output
    _failed: dict[str, str] = field(default_factory=dict)
    """What could not be stored, and was said."""

    def follow(self, stop: threading.Event, settle: float, until_idle: float | None) -> None:
        """Until `stop` is set, or nothing has come for long enough."""
        pause = min(max(settle / 4, _POLL_SECONDS[0]), _POLL_SECONDS[1])
        moved = time.monotonic()
        while not stop.is_set():
            look = self.folder.look(self.recorder.done)
            self._show(look)
            for candidate in look.lost:
                self._lose(candidate)
            took = self._take_all(look, stop)
            if took or look.changing:
                moved = time.monotonic()
            if until_idle is not None and time.monotonic() - moved >= until_idle:
                return
            self.recorder.keep_agent_alive()
            stop.wait(pause)

    def _take_all(self, look: Look, stop: threading.Event) -> bool:
        """Take what is ready, by step; True if there was something."""
        from trajmon.checkpoints.opening import open_checkpoint
        from trajmon.errors import CheckpointFileError

        opened = []
        for candidate, signature in look.ready:
            try:
                reader = open_checkpoint(candidate.path)
            except CheckpointFileError as error:
                self._refuse(candidate, signature, str(error))
                continue
            # Closed until its turn: there may be hundreds.
            reader.close()
            step = reader.step if candidate.name_step is None else candidate.name_step
            opened.append(
                (step is None, step or 0, candidate.name_step is None, candidate, signature, reader)
            )
        opened.sort(key=lambda entry: entry[:3])
        for is_nameless, step, _, candidate, signature, reader in opened:
            if stop.is_set():
                break
            try:
                self._take(candidate, signature, reader, None if is_nameless else step)
            finally:
                reader.close()
        return bool(look.ready)

    def _take(self, candidate: Candidate, signature: Signature, reader: Any, step: int | None) -> None:
        from trajmon.errors import CheckpointFileError

        last = self.recorder.last_step
        if step is None:
            step = 0 if last is None else last + 1
        if last is not None and step <= last:
            why = "is taken already" if step == last else f"came too late: step {last} is taken already"
            self._skip(candidate, signature, step, f"step {step} {why}")
            return
        newest_ns = max(mtime_ns for _, _, _, mtime_ns in signature)
        started = time.monotonic()
        try:
            number = self.recorder.record(reader, step, newest_ns / 1e9)
        except CheckpointFileError as error:
            self._refuse(candidate, signature, str(error))
            return
        except OSError as error:
            # A full disk, most of all. It stays new, and is tried again.
            self._fail(candidate, f"not stored: {error.strerror or error}; it is tried again")
            return
        key = self.folder.key(candidate)
        self._failed.pop(key, None)
        self.recorder.set_done(key, signature)
        self.out.say(
            "taken",
            f"checkpoint {number}  step {step}  {candidate.label}",
            checkpoint=number,
            step=step,
            path=str(candidate.path),
            seconds=round(time.monotonic() - started, 6),
        )

    def _skip(self, candidate: Candidate, signature: Signature, step: int, why: str) -> None:
        self.recorder.set_done(self.folder.key(candidate), signature)
        self.out.say(
            "skipped",
            f"skipped {candidate.label}: {why}",
            "yellow",
            path=str(candidate.path),
            step=step,
            reason=why,
        )

    def _refuse(self, candidate: Candidate, signature: Signature, why: str) -> None:
        # Until it changes: a trainer that was killed while it wrote may write it again.
        self.recorder.set_done(self.folder.key(candidate), signature)
        self.out.say("refused", f"refused {why}", "yellow", path=str(candidate.path), reason=why)

    def _lose(self, candidate: Candidate) -> None:
        why = "it went away before it was taken; a shorter --settle takes it earlier"
        self.out.say("lost", f"lost {candidate.label}: {why}", "red", path=str(candidate.path), reason=why)

    def _fail(self, candidate: Candidate, why: str) -> None:
        key = self.folder.key(candidate)
        if self._failed.get(key) != why:
            self._failed[key] = why
            self.out.say("failed", f"{candidate.path}: {why}", "red", path=str(candidate.path), reason=why)

    def _show(self, look: Look) -> None:
        if self.out.status is None:
            return
        recorded, pending = self.recorder.recorded, self.recorder.pending()
        parts = [f"{recorded} checkpoints", f"{recorded - pending} on the server"]
        if look.changing:
            parts.append(f"{look.changing[0].label} is being written")
        problem = self.recorder.problem()
        if problem:
            parts.append(problem)
        self.out.status.update(clean(", ".join(parts), self.out.console.width - 4))


def _end(recorder: FolderRecorder, out: _Output, state: Any, reason: str, seconds: float) -> None:
    """Let the agent hand in what is left, and say how it went."""
    recorder.finish(state, reason)
    deadline = time.monotonic() + seconds
    pending = recorder.pending()
    while not recorder.agent_has_ended() and time.monotonic() < deadline:
        time.sleep(0.05)
        if recorder.pending() < pending:
            pending, deadline = recorder.pending(), time.monotonic() + seconds
    left = recorder.pending()
    name = recorder.run_dir.path.name
    words = f"{recorder.recorded} checkpoints" + (f", {left} not on the server yet" if left else "")
    if recorder.recorded:
        words += f"; `trajmon show {name}` shows them"
    out.say("ended", words, run=name, checkpoints=recorder.recorded, waiting=left, reason=reason)
    if left and recorder.agent_has_ended():
        problem = recorder.problem()
        raise Problem(
            f"{left} checkpoints could not be handed in{': ' + problem if problem else ''}; they stay on this machine, "
            f"`trajmon sync {name}` sends them"
        )


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C or SIGTERM; a second one interrupts at once."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
