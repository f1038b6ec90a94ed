"""The checkpoints of one ingest: found, opened, and known again when it goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trajmon.checkpoints.base import CheckpointReader, FoundCheckpoint
from trajmon.checkpoints.families import with_family
from trajmon.checkpoints.finding import Order, Series, find_checkpoints
from trajmon.checkpoints.opening import open_checkpoint
from trajmon.checkpoints.plan import CheckpointPlan, plan_checkpoints
from trajmon.errors import CheckpointFileError, RefusedError
from trajmon.ingest.cut import Tensor
from trajmon.numerics.layout import Layout
from trajmon.numerics.views import View

__all__ = [
    "Checkpoint",
    "OpenSeries",
    "files_of",
    "find_series",
    "first_difference",
    "open_series",
    "plan_of",
    "tensors_of",
]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint of the series."""

    path: Path
    label: str
    """How it is called to the user."""
    step: int
    time_unix_seconds: float
    """When its newest file was written."""
    files: tuple[tuple[str, int, int], ...]
    """Name below the path, size in bytes and mtime in nanoseconds of each file."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenSeries:
    """Open checkpoints of one model, in their order."""

    checkpoints: tuple[Checkpoint, ...]
    readers: tuple[CheckpointReader, ...]
    """One for each checkpoint; the series' to close."""
    tensors: tuple[Tensor, ...]
    """In the order of the layers."""
    layout: Layout
    """Layers with the dtypes of the first checkpoint."""
    views: tuple[View, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    """Label of what is left out, and why."""
    remarks: tuple[str, ...] = ()
    """What the user should know of the order."""

    def close(self) -> None:
        """Let go of all files."""
        for reader in self.readers:
            reader.close()


def find_series(
    paths: Sequence[Path],
    *,
    order: Order = "step",
    every: int = 1,
    views: Sequence[View] = (),
    groups: Mapping[str, str | Sequence[str]] | None = None,
    family: str | None = None,
) -> OpenSeries:
    """Find the checkpoints at these paths and open the first and each `every`-th after it.

    Raises CheckpointFileError if there is nothing at a path, and what :func:`open_series` raises.
    """
    found = find_checkpoints(paths, order=order)
    chosen = replace(found, checkpoints=found.checkpoints[::every])
    return open_series(chosen, views=views, groups=groups, family=family)


def open_series(
    found: Series,
    *,
    views: Sequence[View] = (),
    groups: Mapping[str, str | Sequence[str]] | None = None,
    family: str | None = None,
) -> OpenSeries:
    """Open the checkpoints in the order given.

    The first one says what the model is; `family` as in :func:`trajmon.checkpoints.families.with_family`. One that
    cannot be read, or that holds other tensors, is refused with a reason, and the rest goes on. Raises RefusedError
    if none is left or the named family does not fit, ViewError for a view that does not fit, ModelError for groups
    that do not.
    """
    readers: list[CheckpointReader] = []
    checkpoints: list[Checkpoint] = []
    refused = list(found.refused)
    plan: CheckpointPlan | None = None
    try:
        for entry in found.checkpoints:
            try:
                reader = open_checkpoint(entry.path)
                checkpoint = _checkpoint(entry, checkpoints)
            except CheckpointFileError as error:
                refused.append((entry.label, str(error)))
                continue
            reason = plan.refusal(reader) if plan else _empty(reader)
            if reason:
                reader.close()
                refused.append((entry.label, reason))
                continue
            readers.append(reader)
            checkpoints.append(checkpoint)
            if plan is None:
                views, groups = with_family(reader, family, views, groups)
                plan = plan_checkpoints(reader, groups=groups, views=views)
        if plan is None:
            raise RefusedError(_nothing_left(refused))
    except BaseException:
        for reader in readers:
            reader.close()
        raise
    unknown = sum(entry.step is None for entry in found.checkpoints)
    remark = f"no step is known of {unknown} checkpoints: each counts on from the one before"
    return OpenSeries(
        tuple(checkpoints),
        tuple(readers),
        tensors_of(plan),
        plan.layout,
        tuple(views),
        tuple(refused),
        (*found.remarks, *([remark] if unknown else [])),
    )


def tensors_of(plan: CheckpointPlan) -> tuple[Tensor, ...]:
    """The tensors of a plan, in the order of their layers."""
    return tuple(
        Tensor(source.name, source.info.shape, source.layers[0], source.parts) for source in plan.sources
    )


def plan_of(series: OpenSeries, elements: int) -> dict[str, Any]:
    """What the sums are made from, as a JSON object: equal plans give equal bits."""
    return {
        "format": 1,
        "block_elements": elements,
        "layout": series.layout.to_json(),
        "views": [view.to_json() for view in series.views],
        "checkpoints": [
            {
                "path": str(checkpoint.path.absolute()),
                "step": checkpoint.step,
                "files": [list(file) for file in checkpoint.files],
            }
            for checkpoint in series.checkpoints
        ],
    }


def first_difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """In what two plans differ, for the user; empty if in nothing."""
    if old == new:
        return ""
    before, now = old.get("checkpoints", []), new["checkpoints"]
    for number, (a, b) in enumerate(zip(before, now, strict=False)):
        for key, words in (("path", "was {}, is {}"), ("step", "had step {}, has {}")):
            if a.get(key) != b[key]:
                return f"checkpoint {number} " + words.format(a.get(key), b[key])
        if a.get("files") != b["files"]:
            return f"checkpoint {number} has changed on disk: {b['path']}"
    if len(before) != len(now):
        return f"there were {len(before)} checkpoints, there are {len(now)}"
    for key, words in (("views", "other views"), ("layout", "other layers or groups")):
        if old.get(key) != new[key]:
            return words
    return "another limit of memory"


def _checkpoint(entry: FoundCheckpoint, before: Sequence[Checkpoint]) -> Checkpoint:
    """Raises CheckpointFileError."""
    try:
        files = files_of(entry.path)
    except OSError as error:
        raise CheckpointFileError(f"{error.filename or entry.path}: {error.strerror}") from error
    step = entry.step
    if step is None:
        step = before[-1].step + 1 if before else 0
    newest = max((mtime for _, _, mtime in files), default=0)
    return Checkpoint(entry.path, entry.label, step, newest / 1e9, files)


def _empty(reader: CheckpointReader) -> str:
    return "" if reader.tensors else f"{reader.path}: it holds no floating-point parameters"


def _nothing_left(refused: Sequence[tuple[str, str]]) -> str:
    if not refused:
        return "there are no checkpoints"
    more = f"; and {len(refused) - 1} more" if len(refused) > 1 else ""
    return f"none of {len(refused)} checkpoints can be used: {refused[0][1]}{more}"


def files_of(path: Path) -> tuple[tuple[str, int, int], ...]:
    """The files of a checkpoint, by name; links are followed. Raises OSError."""
    if not path.is_dir():
        facts = path.stat()
        return (("", facts.st_size, facts.st_mtime_ns),)
    found = []
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder) / name
            facts = file.stat()
            found.append((str(file.relative_to(path)), facts.st_size, facts.st_mtime_ns))
    return tuple(sorted(found))
