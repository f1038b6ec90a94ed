"""When a state begins and ends, read from the server's own metrics: Prometheus and its rules are not asked."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Exposition", "Span", "Watcher"]

Exposition = Mapping[tuple[str, str], float]
"""By name and run; of the group `network` where there are groups, of the run alone else."""
POLL_SECONDS = 0.25


def read(address: str) -> dict[tuple[str, str], float]:
    """What the server at `address`, `HOST:PORT`, exposes of its runs now."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {
        (sample.name, sample.labels["run"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "run" in sample.labels
        and sample.labels.get("group", "network") == "network"
        and not sample.labels.keys() - {"run", "group"}
    }


@dataclass(slots=True)
class Span:
    """When a state held, in Unix seconds."""

    alert: str
    run: str
    holds: Callable[[Exposition, str], bool]
    """Whether the state of the run is there."""
    since: str = "trajmon_last_checkpoint_timestamp_seconds"
    """The metric that tells when it began: when the checkpoint was recorded that shows it."""
    begun: float | None = None
    ended: float | None = None
    """Seen to be over."""


class Watcher:
    """Looks a few times a second. A context manager."""

    def __init__(self, address: str, spans: list[Span], clock: Callable[[], float]) -> None:
        self._address = address
        self._spans = spans
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                exposed = read(self._address)
            except OSError:
                # Not there yet, or no more: nothing is known.
                continue
            for span in self._spans:
                holds = span.holds(exposed, span.run)
                if holds and span.begun is None:
                    span.begun = exposed[span.since, span.run]
                if holds:
                    span.ended = None
                elif span.begun is not None and span.ended is None:
                    span.ended = self._clock()
