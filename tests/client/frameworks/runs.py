"""Runs as a real server has them."""

from __future__ import annotations

from dataclasses import dataclass

import trajmon
from client.recording import wait_until  # noqa: TID251 # tests/client, on the path of the tests
from trajmon.query import NotFoundError, QueryClient
from trajmon_protos.v1 import query_pb2, types_pb2

DELIVERY_SECONDS = 60.0
"""Given to a callback as its `close_timeout`: training is over once the server has everything."""


@dataclass(frozen=True, slots=True)
class Point:
    """One checkpoint."""

    step: int
    attempt: int
    superseded: bool
    epoch: float | None
    metrics: dict[str, float]
    norm_only: bool


class Runs(QueryClient):
    """Reads runs by name, once they are complete."""

    def wait(self, name: str, checkpoints: int) -> query_pb2.GetRunResponse:
        """The run, once so many checkpoints are there."""

        def is_there() -> bool:
            try:
                return self.get_run(name).summary.checkpoints >= checkpoints
            except NotFoundError:
                return False

        wait_until(is_there, f"{checkpoints} checkpoints of run {name}", DELIVERY_SECONDS)
        run = self.get_run(name)
        assert run.summary.checkpoints == checkpoints
        assert not run.findings, run.findings
        return run

    def points(self, name: str, checkpoints: int) -> list[Point]:
        """The checkpoints of a run, in order; there must be exactly so many."""
        run = self.wait(name, checkpoints)
        assert [detail.checkpoint for detail in run.checkpoints] == list(range(checkpoints))
        return [
            Point(
                detail.info.step,
                detail.attempt,
                detail.superseded,
                detail.info.epoch if detail.info.HasField("epoch") else None,
                dict(detail.info.metrics),
                detail.info.mode == types_pb2.TRAINING_MODE_NORM_ONLY,
            )
            for detail in run.checkpoints
        ]


def steps(points: list[Point]) -> list[int]:
    return [point.step for point in points]


def path(points: list[Point]) -> list[int]:
    """Steps of what is not superseded."""
    return [point.step for point in points if not point.superseded]


def wait_for_answer(recorder: trajmon.Recorder) -> None:
    """Until the server has something to say about the run."""
    wait_until(lambda: recorder.advice.state != "unknown", "the server's first advice", DELIVERY_SECONDS)
