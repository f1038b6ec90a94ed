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

SALT = contextvars.ContextVar("SALT", default="")
"""Goes into every run id: tests that share a server choose each their own."""


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
        theta = self.parameters
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
        header = self.header(checkpoint, path[-1] if path else None, attempt)
        return record.Row(header, gram, products, np.zeros(self.num_layers, dtype=np.uint8))

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
