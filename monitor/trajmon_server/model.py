"""Values that the server's parts hand to each other."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from trajmon_protos.record import LayerStatus, Row
from trajmon_protos.v1 import types_pb2
from trajmon_server.signals.base import Ahead
from trajmon_server.signals.outcomes import share_floor

__all__ = ["CheckpointMeta", "Group", "Layer", "Plan", "RunDescription", "has_holes"]


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
class Plan:
    """What training intends, as of a checkpoint."""

    ahead: Ahead | None = None
    """None where the steps left are not known."""
    objective: str = ""
    """Name of the metric that training is for; empty: not told."""
    larger_is_better: bool = False
    objective_tolerance: float = math.nan
    """How much of it a switch may cost, in its own unit; NaN where not known."""

    @classmethod
    def from_message(cls, message: types_pb2.Plan) -> Plan:
        """As it came with a row."""

        def number(name: Literal["rate_sum_ahead", "rate_squared_sum_ahead", "objective_tolerance"]) -> float:
            return float(getattr(message, name)) if message.HasField(name) else math.nan

        ahead = None
        if message.HasField("steps_ahead"):
            ahead = Ahead(message.steps_ahead, number("rate_sum_ahead"), number("rate_squared_sum_ahead"))
        name = sys.intern(message.objective)
        return cls(ahead, name, message.larger_is_better, number("objective_tolerance"))

    def message(self) -> types_pb2.Plan:
        """Inverse of :meth:`from_message`."""

        def number(value: float) -> float | None:
            return None if math.isnan(value) else value

        ahead = self.ahead
        return types_pb2.Plan(
            steps_ahead=None if ahead is None else ahead.steps,
            rate_sum_ahead=None if ahead is None else number(ahead.rate_sum),
            rate_squared_sum_ahead=None if ahead is None else number(ahead.rate_squared_sum),
            objective=self.objective,
            larger_is_better=self.larger_is_better,
            objective_tolerance=number(self.objective_tolerance),
        )


_NO_PLAN = Plan()


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
    plan: Plan = _NO_PLAN
    lost: bool = False
    """True if the row has been lost to damage; every number of it is missing."""

    @property
    def objective(self) -> float:
        """What training is for, smaller is better; NaN where not told, Inf where it is not a number."""
        value = self.metrics.get(self.plan.objective)
        if value is None:
            return math.nan
        if math.isnan(value):
            return math.inf
        return 1.0 - value if self.plan.larger_is_better else value

    @property
    def objective_floor(self) -> float:
        """Under which the objective cannot fall, as far as the plan tells."""
        return share_floor(self.plan.objective_tolerance) if self.plan.larger_is_better else -math.inf

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
            plan=Plan.from_message(info.plan) if info.HasField("plan") else _NO_PLAN,
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
            plan=None if self.plan == _NO_PLAN else self.plan.message(),
        )
