"""A run with a plan, as rows for a server and as a recording for `replay`: the same numbers, to the last bit.

Its parameters are whole numbers, so that every inner product and every sum of them is exact, in whatever order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from support.rows import SyntheticRun
from trajmon_protos.v1 import types_pb2
from trajmon_server.recording import Recording, load
from trajmon_server.replay import observations
from trajmon_server.signals.base import Observation

PERIOD = 10
"""Optimizer steps between two checkpoints."""
TOLERANCE = 0.02


@dataclass
class PlannedRun(SyntheticRun):
    """Runs off in one direction, slows down, then moves on again; the last layer is a normalisation layer."""

    num_layers: int = 4
    layer_size: int = 40
    num_checkpoints: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        random = np.random.default_rng(self.seed)
        shape = (self.num_layers, self.layer_size)
        direction = random.normal(size=shape)
        theta = [np.round(random.normal(0, 2000, size=shape))]
        for number in range(1, self.num_checkpoints):
            size = 600 * math.exp(-number / 5) if number < 40 else 2000.0
            theta.append(theta[-1] + np.round(size * (direction + random.normal(0, 0.3, size=shape))))
        self.parameters = np.array(theta)
        numbers = np.arange(self.num_checkpoints)
        self.rates = 0.1 * (1 - 0.9 * numbers[1:] / self.num_checkpoints)
        self.metric = np.round(0.9 - 0.8 * np.exp(-numbers / 4), 6)

    def layout(self) -> types_pb2.Layout:
        """`network`, every layer alone, and `norm`: the groups that a recording has."""
        layout = super().layout()
        del layout.groups[1:]
        for index, name in enumerate(self.layer_names):
            layout.groups.add(name=f"layer:{name}", layers=[index])
        layout.groups.add(name="norm", layers=[self.num_layers - 1])
        return layout

    def recording(self, folder: Path, path: list[int] | None = None) -> Recording:
        """What `replay` reads, of the checkpoints of a path; of all by default."""
        path = list(range(self.num_checkpoints)) if path is None else path
        theta = self.parameters[path]
        file = folder / f"{self.name}.npz"
        np.savez(
            file,
            gram=np.einsum("slp,tlp->lst", theta, theta),
            names=np.array(self.layer_names),
            lr=self.rates[[number - 1 for number in path[1:]]],
            metric=self.metric[path],
            step=PERIOD * np.array(path),
            norm=np.arange(self.num_layers) == self.num_layers - 1,
            delta=np.float64(TOLERANCE),
            metric_name="accuracy",
        )
        return load(file)

    def expected(self, folder: Path, path: list[int] | None = None) -> list[Observation]:
        """What policies see of it, under the numbers that the checkpoints have in the run."""
        seen = observations(self.recording(folder, path))
        if path is None:
            return seen
        named = [replace(one, checkpoint=number) for one, number in zip(seen, path, strict=True)]
        return named[:1] + [
            replace(one, previous=number) for one, number in zip(named[1:], path, strict=False)
        ]

    def header(self, checkpoint: int, previous: int | None, attempt: int) -> types_pb2.RowHeader:
        header = super().header(checkpoint, previous, attempt)
        left = self.num_checkpoints - 1 - checkpoint
        rates = self.rates[checkpoint:]
        spans = np.full(left, PERIOD)
        header.info.metrics.clear()
        header.info.metrics["accuracy"] = self.metric[checkpoint]
        header.info.ClearField("learning_rate")
        if checkpoint:
            header.info.learning_rate = self.rates[checkpoint - 1]
        header.info.plan.CopyFrom(
            types_pb2.Plan(
                steps_ahead=PERIOD * left,
                rate_sum_ahead=float((rates * spans).sum()),
                rate_squared_sum_ahead=float((rates * rates * spans).sum()),
                objective="accuracy",
                larger_is_better=True,
                objective_tolerance=TOLERANCE,
            )
        )
        return header
