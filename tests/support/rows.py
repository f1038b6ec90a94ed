"""Trajectories whose rows are known: what an agent would send, made from parameters in memory."""

from __future__ import annotations

import contextvars
import hashlib
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajmon_protos import record
from trajmon_protos.v1 import ingest_pb2, types_pb2
from trajmon_server.runs.parts import add_up

SALT = contextvars.ContextVar("SALT", default="")
"""Goes into every run id: tests that share a server choose each their own."""


@dataclass(frozen=True)
class Cut:
    """Who owns which elements of a run, in one attempt."""

    owner: NDArray[np.int64]
    """[layer, element]"""
    num_parts: int
    attempt: int = 1

    @classmethod
    def of(cls, run: SyntheticRun, num_parts: int, attempt: int = 1, seed: int = 0) -> Cut:
        """Every element by chance."""
        random = np.random.default_rng([seed, num_parts])
        shape = (run.num_layers, run.layer_size)
        return cls(random.integers(0, num_parts, size=shape), num_parts, attempt)

    def writer(self, part: int) -> str:
        """The same in every attempt that cuts the run so."""
        return hashlib.blake2b(f"{part}/{self.num_parts}".encode(), digest_size=16).hexdigest()


@dataclass
class SyntheticRun:
    """A run with `num_layers` layers of a few parameters each, and its exact rows."""

    name: str
    num_layers: int = 3
    layer_size: int = 5
    seed: int = 0
    num_checkpoints: int = 8

    def __post_init__(self) -> None:
        self.started = float(int(time.time()))
        random = np.random.default_rng(self.seed)
        self.run_id = hashlib.blake2b(
            f"{SALT.get()}/{self.name}/{self.seed}".encode(), digest_size=16
        ).hexdigest()
        self.fingerprint = hashlib.blake2b(f"{self.num_layers}".encode(), digest_size=16).hexdigest()
        shape = (self.num_checkpoints, self.num_layers, self.layer_size)
        self.parameters: NDArray[np.float64] = np.cumsum(random.normal(size=shape), axis=0) + 3.0

    @property
    def layer_names(self) -> list[str]:
        return [f"layer{index}.weight" for index in range(self.num_layers)]

    def layout(self) -> types_pb2.Layout:
        """`network`, and a group `first` with the first layer alone."""
        return types_pb2.Layout(
            layers=[
                types_pb2.Layer(name=name, shape=[self.layer_size], dtype="float64")
                for name in self.layer_names
            ],
            groups=[
                types_pb2.Group(name="network", layers=range(self.num_layers)),
                types_pb2.Group(name="first", layers=[0]),
            ],
            fingerprint=self.fingerprint,
        )

    def open_request(self, attempt: int = 1) -> ingest_pb2.OpenRunRequest:
        return ingest_pb2.OpenRunRequest(
            run_id=self.run_id,
            name=self.name,
            tags=["test"],
            attempt=attempt,
            layout=self.layout(),
            client_version="0",
        )

    def header(self, checkpoint: int, previous: int | None, attempt: int) -> types_pb2.RowHeader:
        return types_pb2.RowHeader(
            run_id=self.run_id,
            attempt=attempt,
            checkpoint=checkpoint,
            part=0,
            num_parts=1,
            previous=previous,
            fingerprint=self.fingerprint,
            num_layers=self.num_layers,
            info=types_pb2.CheckpointInfo(
                step=10 * checkpoint,
                epoch=float(checkpoint),
                time_unix_seconds=self.started + checkpoint,
                learning_rate=0.1,
                metrics={"loss": 1.0 / (1 + checkpoint)},
            ),
        )

    def row(self, checkpoint: int, path: list[int] | None = None, attempt: int = 1) -> record.Row:
        """The row of a checkpoint behind `path` (its predecessors; all earlier ones by default)."""
        path = list(range(checkpoint)) if path is None else path
        gram, products = self._numbers(self.parameters, checkpoint, path)
        header = self.header(checkpoint, path[-1] if path else None, attempt)
        return record.Row(header, gram, products, np.zeros(self.num_layers, dtype=np.uint8))

    def _numbers(
        self, theta: NDArray[np.float64], checkpoint: int, path: list[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        gram = np.einsum("slp,lp->ls", theta[: checkpoint + 1], theta[checkpoint])
        products = np.full((self.num_layers, 4), np.nan)
        products[:, 2:] = 0.0
        if path:
            update = theta[checkpoint] - theta[path[-1]]
            moved = theta[checkpoint] - theta[0]
            first = theta[([*path, checkpoint])[1]] - theta[0]
            products[:, 0] = np.einsum("lp,lp->l", update, update)
            products[:, 2] = np.einsum("lp,lp->l", moved, moved)
            products[:, 3] = np.einsum("lp,lp->l", moved, first)
        if len(path) > 1:
            products[:, 1] = np.einsum("lp,lp->l", update, theta[path[-1]] - theta[path[-2]])
        return gram, products

    def part_row(self, checkpoint: int, cut: Cut, part: int, path: list[int] | None = None) -> record.Row:
        """What the owner of a part hands in of a row: the same sums, over its own elements alone."""
        path = list(range(checkpoint)) if path is None else path
        owned = cut.owner == part
        gram, products = self._numbers(np.where(owned, self.parameters, 0.0), checkpoint, path)
        # One that owns nothing still says so: with zeros in some layer.
        layers = np.flatnonzero(owned.any(axis=1)).tolist() or [0]
        header = self.header(checkpoint, path[-1] if path else None, cut.attempt)
        header.part, header.num_parts, header.num_layers = part, cut.num_parts, len(layers)
        header.layers.extend(layers)
        header.info.time_unix_seconds += 0.25 * (cut.num_parts - part)
        header.info.stall_seconds = 0.01 * (part + 1)
        return record.Row(header, gram[layers], products[layers], np.zeros(len(layers), dtype=np.uint8))

    def part_record(self, checkpoint: int, cut: Cut, part: int, path: list[int] | None = None) -> bytes:
        return record.encode(self.part_row(checkpoint, cut, part, path))

    def sum_record(self, checkpoint: int, cut: Cut, path: list[int] | None = None) -> bytes:
        """What the server makes of all parts."""
        parts = (self.part_row(checkpoint, cut, part, path) for part in range(cut.num_parts))
        return record.encode(add_up(parts, self.num_layers))

    def part_request(self, cut: Cut, part: int, first_checkpoint: int = 0) -> ingest_pb2.OpenRunRequest:
        request = self.open_request(cut.attempt)
        request.part, request.num_parts, request.writer = part, cut.num_parts, cut.writer(part)
        request.first_checkpoint = first_checkpoint
        return request

    def record(self, checkpoint: int, path: list[int] | None = None, attempt: int = 1) -> bytes:
        return record.encode(self.row(checkpoint, path, attempt))

    def gram(self, numbers: list[int], scope: str = "network") -> NDArray[np.float64]:
        """Direct computation of a scope's Gram."""
        layers = {"network": slice(None), "group:first": slice(0, 1)}.get(scope)
        if layers is None:
            index = self.layer_names.index(scope.removeprefix("layer:"))
            layers = slice(index, index + 1)
        flat = self.parameters[numbers][:, layers].reshape(len(numbers), -1)
        return flat @ flat.T
