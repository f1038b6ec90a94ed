"""Which sketches of a run are there. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from trajmon_protos.sketch import SketchSpec
from trajmon_protos.v1 import types_pb2
from trajmon_server.runs.parts import OpenRow

__all__ = ["KnownSketches"]


class KnownSketches:
    """The sketches that are known whole, and those of which parts have come. Changed on the event loop only."""

    def __init__(self) -> None:
        self.spec: SketchSpec | None = None
        """That all of them have; None before the first."""
        self.known: set[int] = set()
        """Checkpoints whose sketch is known."""
        self.open: dict[int, OpenRow] = {}
        """Checkpoints of whose sketch some parts have come."""

    def has(self, header: types_pb2.RowHeader) -> bool:
        """Whether what this header announces is there."""
        known = self.open.get(header.checkpoint)
        return header.checkpoint in self.known or (known is not None and known.has(header.part))

    def add(self, header: types_pb2.RowHeader, spec: SketchSpec) -> bool:
        """Note what has become durable; True if all parts of the checkpoint's sketch are there, and it is new."""
        self.spec = spec
        checkpoint = header.checkpoint
        if checkpoint in self.known:
            return False
        known = self.open.get(checkpoint) or OpenRow.announced_by(header)
        self.open[checkpoint] = known.with_part(header.part)
        return self.open[checkpoint].is_complete or header.num_parts <= 1

    def settle(self, checkpoint: int, is_whole: bool) -> None:
        """Note that a sketch is known, or that it cannot be read: its parts may then come again."""
        self.open.pop(checkpoint, None)
        if is_whole:
            self.known.add(checkpoint)

    def recovered(self, spec: SketchSpec | None, known: Iterable[int], open_rows: dict[int, OpenRow]) -> None:
        """Take in what the journal held at start."""
        self.spec, self.known, self.open = spec, set(known), dict(open_rows)
