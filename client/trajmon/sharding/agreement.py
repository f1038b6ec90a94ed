"""What rank 0 decides for all: the layout, who records what, which checkpoint comes next. Pure."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trajmon.errors import NoSuchRunError, OtherModelError, RunExistsError, RunOwnedError, ShardError
from trajmon.numerics.grouping import Traits, groups_of, user_groups
from trajmon.numerics.layout import Dtype, Layer, Layout
from trajmon.numerics.views import View, match_views, split
from trajmon.sharding.chunks import Chunk
from trajmon.sharding.plan import Held, plan_owners
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.store import path_to

__all__ = ["Decision", "Found", "Parameter", "TensorWord", "Word", "agree"]


@dataclass(frozen=True, slots=True)
class TensorWord:
    """What a rank holds of one parameter."""

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    frame: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    digest: str
    traits: Traits

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorWord:
        """Inverse of `asdict`."""
        kinds, blocks = data["traits"]["kinds"], data["traits"]["blocks"]
        return cls(
            name=str(data["name"]),
            shape=tuple(data["shape"]),
            dtype=data["dtype"],
            frame=tuple(data["frame"]),
            offsets=tuple(data["offsets"]),
            sizes=tuple(data["sizes"]),
            digest=str(data["digest"]),
            traits=Traits(tuple(kinds), tuple((int(depth), str(path)) for depth, path in blocks)),
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A folder of the run on a rank's machine."""

    run_id: str
    fingerprint: str
    cut: str
    """Empty for the folder of whole snapshots."""
    first_checkpoint: int
    next_checkpoint: int
    """One more than the highest number that was ever recorded there."""
    attempt: int
    holder: int | None
    """Process id of a living training that records into it."""
    checkpoints: Mapping[int, tuple[int, int, int | None]]
    """Attempt, step and previous of each, by number."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Found:
        """Inverse of `asdict`, after a way through JSON."""
        checkpoints = {
            int(number): (int(attempt), int(step), None if previous is None else int(previous))
            for number, (attempt, step, previous) in data["checkpoints"].items()
        }
        return cls(**{**data, "checkpoints": checkpoints})


@dataclass(frozen=True, slots=True)
class Word:
    """What a rank tells rank 0."""

    tensors: tuple[TensorWord, ...]
    found: tuple[Found, ...]
    views: tuple[View, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Patterns of the declared groups, by name."""

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "found": [asdict(found) for found in self.found],
            "views": [view.to_json() for view in self.views],
            "groups": {name: list(patterns) for name, patterns in self.groups.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Word:
        """Inverse of :meth:`to_json`."""
        return cls(
            tuple(TensorWord.from_json(tensor) for tensor in data["tensors"]),
            tuple(Found.from_json(found) for found in data["found"]),
            tuple(View.from_json(view) for view in data["views"]),
            {name: tuple(patterns) for name, patterns in data["groups"].items()},
        )


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the whole model, and the layers that it gives."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What rank 0 tells a rank."""

    run_id: str
    is_new: bool
    attempt: int
    next_checkpoint: int
    first_checkpoint: int
    """Of the cut."""
    cut: str
    layout: Layout
    parameters: tuple[Parameter, ...]
    owned: tuple[Chunk, ...]
    """What this rank records; `layer` is a position in `parameters`."""
    views: tuple[View, ...] = ()
    """That the layout was made with."""
    headers: Mapping[int, SnapshotHeader] = field(default_factory=dict)
    """Of the checkpoints before; attempt, step and previous alone are set."""

    @property
    def path(self) -> tuple[int, ...]:
        """The path before the next checkpoint."""
        if not self.next_checkpoint:
            return ()
        return tuple(path_to(self.next_checkpoint - 1, self.headers))

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "run_id": self.run_id,
            "is_new": self.is_new,
            "attempt": self.attempt,
            "next_checkpoint": self.next_checkpoint,
            "first_checkpoint": self.first_checkpoint,
            "cut": self.cut,
            "layout": self.layout.to_json(),
            "parameters": [[p.name, p.shape, p.dtype, p.layers] for p in self.parameters],
            "owned": [chunk.to_json() for chunk in self.owned],
            "views": [view.to_json() for view in self.views],
            "headers": {number: [a.attempt, a.step, a.previous] for number, a in self.headers.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Decision:
        """Inverse of :meth:`to_json`."""
        layout = Layout.from_json(data["layout"])
        headers = {
            int(number): SnapshotHeader(int(number), attempt, step, "", previous)
            for number, (attempt, step, previous) in data["headers"].items()
        }
        return cls(
            run_id=data["run_id"],
            is_new=data["is_new"],
            attempt=data["attempt"],
            next_checkpoint=data["next_checkpoint"],
            first_checkpoint=data["first_checkpoint"],
            cut=data["cut"],
            layout=layout,
            parameters=tuple(
                Parameter(name, tuple(shape), dtype, tuple(layers))
                for name, shape, dtype, layers in data["parameters"]
            ),
            owned=tuple(Chunk.from_json(chunk) for chunk in data["owned"]),
            views=tuple(View.from_json(view) for view in data["views"]),
            headers=headers,
        )


def agree(
    words: Sequence[Word],
    run: str,
    resume: str,
    draw_id: Callable[[], str] = lambda: os.urandom(16).hex(),
) -> list[Decision]:
    """The decision for each rank.

    Raises ShardError if the ranks' chunks do not make up one model; RunExistsError, NoSuchRunError,
    RunOwnedError, OtherModelError where `resume` and what is on the machines are against it.
    """
    merged = _merged(words)
    # Each stage of a pipeline declares what fits its own layers.
    views = tuple({json.dumps(view.to_json()): view for word in words for view in word.views}.values())
    groups: dict[str, tuple[str, ...]] = {}
    for word in words:
        for name, patterns in word.groups.items():
            groups[name] = tuple(dict.fromkeys((*groups.get(name, ()), *patterns)))
    layout, parameters = _layout(merged, views, groups)
    positions = {tensor.name: index for index, tensor in enumerate(merged)}
    held = [
        [
            Held(Chunk(positions[a.name], a.frame, a.offsets, a.sizes), a.digest)
            for a in word.tensors
            if 0 not in a.sizes
        ]
        for word in words
    ]
    whole = [Layer(a.name, a.shape, a.dtype) for a in merged]
    owned = plan_owners(whole, held)
    found = [found for word in words for found in word.found]
    run_id = _run_id(found, run, resume, layout)
    next_checkpoint = max((a.next_checkpoint for a in found), default=0)
    first_checkpoint, cut = _cut(owned, found, next_checkpoint)
    told: dict[int, list[tuple[int, int, int | None]]] = {}
    for a in found:
        for number, checkpoint in a.checkpoints.items():
            told.setdefault(number, []).append(checkpoint)
    headers = {}
    for number, checkpoints in told.items():
        # The same choice as where snapshots are put together.
        attempt, step, previous = max(checkpoints, key=lambda a: (a[0], a[1], -1 if a[2] is None else a[2]))
        headers[number] = SnapshotHeader(number, attempt, step, "", previous)
    chosen_id = run_id or draw_id()
    return [
        Decision(
            run_id=chosen_id,
            is_new=run_id is None,
            attempt=max((a.attempt for a in found), default=0) + 1,
            next_checkpoint=next_checkpoint,
            first_checkpoint=first_checkpoint,
            cut=cut,
            layout=layout,
            parameters=parameters,
            owned=mine,
            views=views,
            headers=headers,
        )
        for mine in owned
    ]


def _merged(words: Sequence[Word]) -> list[TensorWord]:
    """Every parameter of the model once, as the first rank that has it describes it."""
    merged: dict[str, tuple[int, TensorWord]] = {}
    for rank, word in enumerate(words):
        for tensor in word.tensors:
            first, known = merged.setdefault(tensor.name, (rank, tensor))
            if (known.shape, known.dtype) != (tensor.shape, tensor.dtype):
                raise ShardError(
                    f"layer {tensor.name!r} has shape {known.shape} {known.dtype} on rank {first}, {tensor.shape} "
                    f"{tensor.dtype} on rank {rank}: the layers of pipeline stages need names of their own"
                )
    if not merged:
        raise ShardError("no rank has a floating-point parameter: there is nothing to record")
    return [tensor for _, tensor in merged.values()]


def _layout(
    merged: Sequence[TensorWord], views: Sequence[View], groups: Mapping[str, str | Sequence[str]]
) -> tuple[Layout, tuple[Parameter, ...]]:
    taken = match_views(views, [tensor.name for tensor in merged])
    layers: list[Layer] = []
    parameters = []
    for a in merged:
        start = len(layers)
        parts = split(taken[a.name], a.name, a.shape) if a.name in taken else ()
        named = [(part.name, part.shape) for part in parts] or [(a.name, a.shape)]
        layers += [Layer(name, shape, a.dtype) for name, shape in named]
        parameters.append(Parameter(a.name, a.shape, a.dtype, tuple(range(start, len(layers)))))
    defaults = groups_of([a.traits for a in merged], [parameter.layers for parameter in parameters])
    chosen = user_groups(groups, [layer.name for layer in layers], defaults)
    return Layout(tuple(layers), chosen), tuple(parameters)


def _run_id(found: Sequence[Found], run: str, resume: str, layout: Layout) -> str | None:
    """Id of the run that goes on; None if a new one starts."""
    holders = [a.holder for a in found if a.holder is not None]
    if holders:
        raise RunOwnedError(
            f"run {run!r} is being recorded by process {holders[0]}; end that, or choose another name"
        )
    ids = sorted({a.run_id for a in found})
    if len(ids) > 1:
        raise ShardError(
            f"the ranks' machines have {len(ids)} runs named {run!r} ({', '.join(ids)}): choose another name"
        )
    if ids and resume == "never":
        raise RunExistsError(f'run {run!r} exists; continue it with resume="allow", or choose another name')
    if not ids and resume == "must":
        raise NoSuchRunError(f'there is no run {run!r}; start it with resume="allow"')
    other = next((a for a in found if a.fingerprint != layout.fingerprint), None)
    if other is not None:
        raise OtherModelError(
            f"run {run!r} was recorded from a model {other.fingerprint}, this one is {layout.fingerprint}; choose "
            "another name"
        )
    return ids[0] if ids else None


def _cut(owned: Sequence[Sequence[Chunk]], found: Sequence[Found], next_checkpoint: int) -> tuple[int, str]:
    """First checkpoint and name of the cut: that of the last attempt goes on if it is the same one."""
    last = [a for a in found if a.cut and a.next_checkpoint == next_checkpoint]
    for a in last:
        if _name(owned, a.first_checkpoint) == a.cut:
            return a.first_checkpoint, a.cut
    return next_checkpoint, _name(owned, next_checkpoint)


def _name(owned: Sequence[Sequence[Chunk]], first_checkpoint: int) -> str:
    text = json.dumps([first_checkpoint, [[chunk.to_json() for chunk in mine] for mine in owned]])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
