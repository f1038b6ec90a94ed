"""Values that the server's parts hand to each other."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trajmon_protos.record import LayerStatus, Row
from trajmon_protos.v1 import types_pb2

__all__ = ["CheckpointMeta", "Group", "Layer", "RunDescription", "has_holes"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One named parameter tensor, or a declared view of it."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def parameters(self) -> int:
        """Number of elements."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True, slots=True)
class Group:
    """A named set of layers; its Gram is the sum of theirs."""

    name: str
    layers: tuple[int, ...]
    """Indices into the run's layers, ascending."""


@dataclass(frozen=True, slots=True)
class RunDescription:
    """What is fixed for the life of a run."""

    run_id: str
    name: str
    team: str
    tags: tuple[str, ...]
    created_unix_seconds: float
    fingerprint: str
    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    """`network` first."""

    def to_json(self) -> dict[str, Any]:
        """For the run's file in the journal."""
        return {
            "run_id": self.run_id,
            "name": self.name,
            "team": self.team,
            "tags": list(self.tags),
            "created_unix_seconds": self.created_unix_seconds,
            "fingerprint": self.fingerprint,
            "layers": [[layer.name, list(layer.shape), layer.dtype] for layer in self.layers],
            "groups": [[group.name, list(group.layers)] for group in self.groups],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunDescription:
        """Inverse of :meth:`to_json`; KeyError, TypeError or ValueError if the file is not one."""
        return cls(
            run_id=str(data["run_id"]),
            name=str(data["name"]),
            team=str(data["team"]),
            tags=tuple(data["tags"]),
            created_unix_seconds=float(data["created_unix_seconds"]),
            fingerprint=str(data["fingerprint"]),
            layers=tuple(Layer(name, tuple(shape), dtype) for name, shape, dtype in data["layers"]),
            groups=tuple(Group(name, tuple(layers)) for name, layers in data["groups"]),
        )

    def layout_message(self) -> types_pb2.Layout:
        """The same for the wire."""
        return types_pb2.Layout(
            layers=[types_pb2.Layer(name=a.name, shape=a.shape, dtype=a.dtype) for a in self.layers],
            groups=[types_pb2.Group(name=a.name, layers=a.layers) for a in self.groups],
            fingerprint=self.fingerprint,
        )


def has_holes(row: Row) -> bool:
    """Whether older snapshots were not kept, as was planned, when the row was computed."""
    return bool((row.status == LayerStatus.NOT_KEPT).any())


@dataclass(frozen=True, slots=True)
class CheckpointMeta:
    """What is known of one checkpoint besides its Gram row."""

    attempt: int
    previous: int | None
    step: int
    epoch: float | None
    time_unix_seconds: float
    learning_rate: float | None
    stall_seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    non_finite_layers: tuple[int, ...] = ()
    has_holes: bool = False
    """True if older snapshots were not kept when the row was computed: inner products with them are estimates."""
    mode: types_pb2.TrainingMode.ValueType = types_pb2.TRAINING_MODE_UNSPECIFIED
    """What was trained; unspecified means everything."""
    copy: str = ""
    """How the copy was taken: "wait" or "overlap"; empty where not told."""
    lost: bool = False
    """True if the row has been lost to damage; every number of it is missing."""

    @property
    def is_norm_only(self) -> bool:
        """True if only the scalars of normalisation layers were trained."""
        return self.mode == types_pb2.TRAINING_MODE_NORM_ONLY

    @classmethod
    def from_header(cls, header: types_pb2.RowHeader, non_finite_layers: tuple[int, ...]) -> CheckpointMeta:
        """Take what is kept in memory out of a row's header."""
        info = header.info
        return cls(
            attempt=header.attempt,
            previous=header.previous if header.HasField("previous") else None,
            step=info.step,
            epoch=info.epoch if info.HasField("epoch") else None,
            time_unix_seconds=info.time_unix_seconds,
            learning_rate=info.learning_rate if info.HasField("learning_rate") else None,
            stall_seconds=info.stall_seconds,
            # The same few names in every checkpoint: kept once.
            metrics={sys.intern(name): value for name, value in info.metrics.items()},
            non_finite_layers=non_finite_layers,
            mode=info.mode,
            copy=sys.intern(info.copy),
        )

    @classmethod
    def from_row(cls, row: Row) -> CheckpointMeta:
        """The same, with the layers that are not finite."""
        non_finite = np.flatnonzero(row.status == LayerStatus.NON_FINITE)
        meta = cls.from_header(row.header, tuple(non_finite.tolist()))
        return replace(meta, has_holes=has_holes(row))

    def info_message(self) -> types_pb2.CheckpointInfo:
        """The same for the wire."""
        return types_pb2.CheckpointInfo(
            step=self.step,
            epoch=self.epoch,
            time_unix_seconds=self.time_unix_seconds,
            learning_rate=self.learning_rate,
            metrics=self.metrics,
            stall_seconds=self.stall_seconds,
            mode=self.mode,
            copy=self.copy,
        )
