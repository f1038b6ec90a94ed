"""What the callbacks of all frameworks take, and how they name a run."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from trajmon._plan import Plan
from trajmon._watch import Resume
from trajmon.advice import Advice
from trajmon.numerics.views import View
from trajmon.rundir import RunDir
from trajmon.schedules import Schedule, parse_schedule
from trajmon.sharding.opening import has_shards
from trajmon.snapshots.format import CopyMode
from trajmon.snapshots.keeping import SnapshotMode
from trajmon.switch.actor import OnAdvice
from trajmon_protos.names import RUN_NAME
from trajmon_protos.sketch import SketchSpec

__all__ = ["OnAdvice", "Options", "free_name", "unique_name"]

log = logging.getLogger("trajmon")

_MOST_NAMES = 1000
_NAME_CHARACTERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the callbacks of all frameworks take. Raises ValueError for what makes no sense."""

    run: str | None = None
    """Name of the run; None: made from the model's class and the time."""
    every: str | int | Schedule = "epoch"
    """When a checkpoint is due; see :func:`trajmon.schedules.parse_schedule`."""
    server: str | None = None
    initial: bool = True
    """Record the parameters at the start of a new run as its checkpoint 0."""
    tags: Sequence[str] = ()
    groups: Mapping[str, str | Sequence[str]] | None = None
    views: Sequence[View] = ()
    family: str | None = "auto"
    """Views and groups of a known architecture: found, named, or None for none."""
    resume: Resume = "allow"
    """With `allow`, a resumed training continues its run; one that starts from the beginning never does."""
    copy: CopyMode = "wait"
    home: str | os.PathLike[str] | None = None
    snapshot_dir: str | os.PathLike[str] | None = None
    snapshot_budget_bytes: int | None = None
    mode: SnapshotMode = "exact"
    """Which snapshots are kept; see :func:`trajmon.watch`."""
    snapshots_kept: int | None = None
    sketch: SketchSpec | bool = False
    memory_budget_bytes: int | None = None
    agent_threads: int | None = None
    strict: bool = False
    plan: Plan | None = None
    """What training intends; steps and learning rates are filled in where the framework knows them."""
    on_advice: OnAdvice = "log"
    advice_callback: Callable[[Advice], object] | None = None
    log_hallmarks: bool | Sequence[str] = True
    """Groups whose hallmarks go to the framework's loggers; True: `network`."""
    close_timeout: float = 2.0
    """Longest wait for the server at the end of training, in seconds."""

    def __post_init__(self) -> None:
        parse_schedule(self.every)
        if self.resume not in get_args(Resume):
            raise ValueError(f'resume={self.resume!r} is not one of "never", "allow", "must"')
        if not (self.plan is None or isinstance(self.plan, Plan)):
            raise ValueError(f"plan is a {type(self.plan).__name__}; a trajmon.Plan is expected")
        if self.mode not in get_args(SnapshotMode):
            raise ValueError(f'mode={self.mode!r} is not one of "exact", "anchored", "sketch"')
        if self.copy not in get_args(CopyMode):
            raise ValueError(f'copy={self.copy!r} is not one of "wait", "overlap"')
        if self.on_advice not in get_args(OnAdvice):
            raise ValueError(f'on_advice={self.on_advice!r} is not one of "log", "callback", "switch"')
        if (self.on_advice == "callback") != (self.advice_callback is not None):
            raise ValueError('on_advice="callback" and advice_callback go together')
        if isinstance(self.log_hallmarks, str):
            raise ValueError(f"log_hallmarks={self.log_hallmarks!r} is not True, False or a list of groups")

    @property
    def logged_groups(self) -> tuple[str, ...]:
        """Groups whose hallmarks are logged."""
        if isinstance(self.log_hallmarks, bool):
            return ("network",) if self.log_hallmarks else ()
        return tuple(self.log_hallmarks)


def unique_name(word: str) -> str:
    """A run name that no other training has: a word, UTC time, four random digits.

    The random digits come from the system; the generators of random, NumPy and PyTorch belong to training.
    """
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "-", word).strip("-.")[:40] or "run"
    when = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"{kept}-{when}-{os.urandom(2).hex()}"


def free_name(home: Path, wanted: str) -> str:
    """`wanted`, or with the first of -2, -3, … that no run on this machine has."""
    if RUN_NAME.fullmatch(wanted) is None:
        # The recorder says what is wrong with it.
        return wanted
    for number in range(1, _MOST_NAMES):
        ending = "" if number == 1 else f"-{number}"
        name = wanted[: _NAME_CHARACTERS - len(ending)] + ending
        try:
            if not RunDir.of(home, name).run_file.exists() and not has_shards(home, name):
                return name
        except OSError as error:
            log.debug("%s cannot be looked at: %s; the recorder will say so", home, error)
            break
    return wanted
