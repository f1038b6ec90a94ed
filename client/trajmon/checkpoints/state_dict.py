"""Which of the entries of a saved object are the model's, and what step it states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trajmon.checkpoints.inert import Name, Opaque
from trajmon.checkpoints.skipping import is_optimizer_key
from trajmon.errors import CheckpointFileError

__all__ = ["StateDict", "choose_state_dict", "stated_step"]

# What training programs call the model's state dict.
_WRAPPERS: Final = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
)
_STEPS: Final = ("global_step", "global_steps", "step", "steps", "iteration", "iter", "iter_num", "num_steps")
_MAX_DEPTH: Final = 3


@dataclass(frozen=True, slots=True)
class StateDict:
    """The model's entries."""

    tensors: Mapping[str, Any]
    """By name; only those of the kind that was asked for."""
    skipped: Mapping[str, str]


def choose_state_dict(root: object, kind: type, path: Path, key: str | None = None) -> StateDict:
    """The state dict in a saved object: itself, or what lies under a usual name, or under `key`.

    `kind` is the class of a tensor. Raises CheckpointFileError that lists what is there if that is not clear.
    """
    if not isinstance(root, dict):
        raise CheckpointFileError(
            f"{path}: it holds {_described(root)}, not a state dict; save model.state_dict() instead"
        )
    table: dict[Any, Any] = root
    if key is not None:
        chosen: object = table
        for part in key.split("/"):
            chosen = chosen.get(part) if isinstance(chosen, dict) else None
        if not isinstance(chosen, dict) or not _count(chosen, kind):
            raise CheckpointFileError(
                f"{path}: there are no tensors under {key!r}; it holds {_contents(table, kind)}"
            )
        return _flat(chosen, kind)
    for _ in range(_MAX_DEPTH):
        named = [name for name in _WRAPPERS if _is_table(table.get(name), kind)]
        if len(named) == 1:
            table = table[named[0]]
            continue
        if named:
            raise CheckpointFileError(
                f"{path}: it is not clear which of {_listed(named)} is the model; it holds {_contents(table, kind)}"
            )
        if any(isinstance(value, kind) for value in table.values()):
            return _flat(table, kind)
        others = [
            name for name, value in table.items() if _is_table(value, kind) and not is_optimizer_key(name)
        ]
        if len(others) != 1:
            raise CheckpointFileError(
                f"{path}: it is not clear what in it is the model; it holds {_contents(table, kind)}"
            )
        table = table[others[0]]
    return _flat(table, kind)


def stated_step(root: object) -> int | None:
    """The training step that a saved object states at its top, or one level below."""
    if not isinstance(root, dict):
        return None
    inner = [value for key in ("train_state", "trainer_state", "progress", "app") if (value := root.get(key))]
    for table in (root, *inner):
        for name in _STEPS:
            value = table.get(name) if isinstance(table, dict) else None
            # True is an int to Python.
            if type(value) is int and 0 <= value < 2**63:
                return value
    return None


def _is_table(value: object, kind: type) -> bool:
    return isinstance(value, dict) and _count(value, kind) > 0


def _count(table: Mapping[Any, Any], kind: type, depth: int = 0) -> int:
    """Tensors in a table and in the tables in it."""
    count = 0
    for value in table.values():
        if isinstance(value, kind):
            count += 1
        elif isinstance(value, dict) and depth < _MAX_DEPTH:
            count += _count(value, kind, depth + 1)
    return count


def _flat(table: Mapping[Any, Any], kind: type) -> StateDict:
    tensors, skipped = {}, {}
    for name, value in table.items():
        if isinstance(value, kind):
            tensors[str(name)] = value
        else:
            skipped[str(name)] = f"{_described(value)}, not a tensor"
    return StateDict(tensors, skipped)


def _contents(table: Mapping[Any, Any], kind: type) -> str:
    shown = []
    for name, value in list(table.items())[:12]:
        count = _count(value, kind) if isinstance(value, dict) else 0
        what = f"{count} tensors" if count else _described(value)
        shown.append(f"{str(name)[:60]} ({what})")
    more = len(table) - len(shown)
    return (", ".join(shown) + (f", and {more} more" if more else "")) or "nothing"


def _described(value: object) -> str:
    match value:
        case Opaque(kind=Name() as name):
            return f"an object of {name}"
        case Opaque():
            return "an object"
        case dict():
            return "a table"
        case None:
            return "nothing"
    kind = type(value).__name__
    return "a tensor" if kind in ("PickledTensor", "RawTensor") else f"a value of type {kind}"


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
