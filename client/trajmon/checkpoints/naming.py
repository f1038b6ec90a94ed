"""What the name of a checkpoint says: its step, and its place among others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["natural_key", "step_in_name", "step_in_path"]

# `checkpoint-500`, `step1000`, `global_step5000`, `step-001000-2BT`, `stage1-step150-tokens1B`, `epoch=1-step=16`,
# `iter_0001000`, `ckpt-7`; the last one in a name counts.
_STEP: Final = re.compile(
    r"(?:^|[-_/.=])(?:(?:global[-_]?)?steps?|checkpoint|ckpt|iter(?:ation)?|it)[-_=]?0*(\d+)(?![\d.]*[eE.]\d)",
    re.IGNORECASE,
)
_NUMBER_BEFORE: Final = re.compile(r"(?:^|[-_/.=])0*(\d+)[-_]?(?:global[-_]?)?steps?(?![a-z])", re.IGNORECASE)
_DIGITS: Final = re.compile(r"(\d+)")


def step_in_name(name: str) -> int | None:
    """The training step that a name states; None if it states none.

    >>> [step_in_name(name) for name in ("checkpoint-500", "stage1-step150-tokens1B", "epoch=1-step=16.ckpt")]
    [500, 150, 16]
    >>> [step_in_name(name) for name in ("step-001000-2BT", "global_step5000", "checkpoint-1000step", "epoch=3.ckpt")]
    [1000, 5000, 1000, None]
    """
    found = _STEP.findall(name) or _NUMBER_BEFORE.findall(name)
    step = int(found[-1]) if found and len(found[-1]) < 20 else None
    return step if step is not None and step < 2**63 else None


def step_in_path(path: Path, root: Path) -> int | None:
    """As :func:`step_in_name`, from the innermost part of the path below `root` that states one; `root` itself counts.

    >>> step_in_path(Path("/runs/a/step-20/model.pt"), Path("/runs/a"))
    20
    """
    for part in (path, *path.parents):
        step = step_in_name(part.name)
        if step is not None or part == root:
            return step
    return None


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts names as people count.

    >>> sorted(["model_10.pt", "model_9.pt", "model_a.pt"], key=natural_key)
    ['model_9.pt', 'model_10.pt', 'model_a.pt']
    """
    return tuple(
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _DIGITS.split(text) if part
    )
