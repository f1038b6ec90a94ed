"""What a team, a run and the requests under way may use up; each refusal names the limit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from trajmon_server.config import Limits
from trajmon_server.errors import Exhausted

__all__ = ["ByteBudget", "Usage", "check_new_run", "check_new_writer", "check_record_size", "check_row"]

MAX_WRITERS = 16_384
"""Of one run: ranks times ways to cut it. They are all in the run's control file."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What is used up before the request."""

    run_bytes: int
    """Journal bytes of the run."""
    free_disk_bytes: int
    """On the data directory's disk."""


class ByteBudget:
    """Memory that requests may hold together; what does not fit is refused and may be tried again."""

    def __init__(self, total_bytes: int, what: str) -> None:
        self._total = total_bytes
        self._what = what
        self._used = 0

    @contextlib.contextmanager
    def reserve(self, count_bytes: int) -> Iterator[None]:
        """Hold so much for the length of the context. One reservation always fits, however large."""
        if self._used and self._used + count_bytes > self._total:
            raise Exhausted(
                "BUSY",
                f"{self._what} under way hold {self._used} bytes, {self._total} is the most; try again",
                retry_seconds=1.0,
            )
        self._used += count_bytes
        try:
            yield
        finally:
            self._used -= count_bytes


def check_new_run(num_runs: int, limits: Limits) -> None:
    """Refuse a run beyond the team's number."""
    if num_runs >= limits.max_runs:
        raise Exhausted(
            "RUN_QUOTA", f"this team has {num_runs} runs, the limit is {limits.max_runs} (limits.max_runs)"
        )


def check_new_writer(num_writers: int) -> None:
    """Refuse a writer beyond a run's number."""
    if num_writers >= MAX_WRITERS:
        raise Exhausted(
            "WRITER_QUOTA",
            f"this run has {num_writers} writers, the limit is {MAX_WRITERS}; cut it another way in a new "
            "run",
        )


def check_record_size(record_bytes: int, limits: Limits) -> None:
    """Refuse a record larger than any this server takes."""
    if record_bytes > limits.max_record_bytes:
        raise Exhausted(
            "RECORD_TOO_LARGE",
            f"record has {record_bytes} bytes, the limit is {limits.max_record_bytes} (limits.max_record_bytes); "
            "record fewer layers or raise the limit",
        )


def check_row(record_bytes: int, usage: Usage, limits: Limits) -> None:
    """Refuse a row that would break a limit; trying later helps only once somebody makes room."""
    check_record_size(record_bytes, limits)
    if usage.run_bytes + record_bytes > limits.max_run_bytes:
        raise Exhausted(
            "RUN_BYTES_QUOTA",
            f"run uses {usage.run_bytes} bytes, the limit is {limits.max_run_bytes} (limits.max_run_bytes)",
            retry_seconds=60.0,
        )
    # Without a reserve, the disk itself says when it is full.
    if 0 < limits.min_free_disk_bytes > usage.free_disk_bytes - record_bytes:
        raise Exhausted(
            "DISK_RESERVE",
            f"the server's disk has {usage.free_disk_bytes} bytes free and keeps "
            f"{limits.min_free_disk_bytes} in reserve (limits.min_free_disk_bytes); free some space",
            retry_seconds=10.0,
        )
