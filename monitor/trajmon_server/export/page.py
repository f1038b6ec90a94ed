"""The runs' part of the exposition: which runs are in it, and their lines.

A run's lines are kept from scrape to scrape and made anew when what they are made of has changed: the analysis for
one part, what is told of the run for the other. The page is put together from them, family by family. Nothing
depends on whoever changes a run saying so: each scrape looks at every run that it shows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from trajmon_server.export import analysed, told
from trajmon_server.export.labels import RunLabels
from trajmon_server.export.text import Family, header, lines
from trajmon_server.model import RunDescription
from trajmon_server.runs.analysis import Analysis
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.run import Run

__all__ = ["RunPage", "most_series"]

_FAMILIES = (*analysed.FAMILIES, *told.FAMILIES)
_EXPORTED = Family("trajmon_exported_runs", "Runs whose series are shown.")
_RUNS_SUPPRESSED = Family(
    "trajmon_runs_suppressed", "Runs left out because of the cap limits.max_exported_series."
)
_SUPPRESSED = Family(
    "trajmon_series_suppressed",
    "Series left out because of the cap limits.max_exported_series: the most that the runs left out can have.",
)
_LIMIT = Family("trajmon_series_limit", "The cap limits.max_exported_series on the series of runs.")

_HOLD_SECONDS = 0.002
"""Longest that lines are made without a pause; the interpreter itself would let others in after 5 ms."""
_PAUSE_SECONDS = 0.0001


@dataclass(slots=True)
class _Kept:
    """A run's lines as of the last scrape, and what they were made of."""

    description: RunDescription
    labels: RunLabels
    analysis: Analysis
    analysed: tuple[bytes, ...]
    told: told.Told
    telling: tuple[bytes, ...]


def most_series(run: Run) -> int:
    """The most series that the run can have, by its groups and whether it is sketched."""
    is_sketched = run.sketches.spec is not None
    per_group = analysed.SERIES_PER_GROUP_SKETCHED if is_sketched else analysed.SERIES_PER_GROUP
    return analysed.SERIES_PER_RUN + told.SERIES_PER_RUN + per_group * len(run.description.groups)


class RunPage:
    """Series of active runs, and of those that ended a short while ago, up to a cap."""

    def __init__(self, registry: Registry, max_series: int, finished_seconds: float) -> None:
        self._registry = registry
        self._max_series = max_series
        self._finished_seconds = finished_seconds
        self._lock = threading.Lock()
        """Held while a page is made: two scrapes at once make each line once."""
        self._kept: dict[str, _Kept] = {}
        """By run id, of the runs that the last page shows."""

    def text(self, is_open_metrics: bool) -> list[bytes]:
        """The page in pieces, one for each family. Safe from any thread."""
        with self._lock:
            runs, num_left_out, series_left_out = self._select()
            self._kept = self._lines_of(runs)
            blocks = [(*kept.analysed, *kept.telling) for kept in self._kept.values()]
        pieces = [
            header(family, is_open_metrics) + b"".join([block[index] for block in blocks])
            for index, family in enumerate(_FAMILIES)
        ]
        numbers = (
            (_EXPORTED, len(runs)),
            (_RUNS_SUPPRESSED, num_left_out),
            (_SUPPRESSED, series_left_out),
            (_LIMIT, self._max_series),
        )
        pieces += [
            header(family, is_open_metrics) + lines(family, [(" ", value)]) for family, value in numbers
        ]
        return pieces

    def _select(self) -> tuple[Sequence[Run], int, int]:
        """The runs to show, those heard of last first; how many do not fit, and how many series they may have.

        A run is shown whole or not at all.
        """
        now = time.time()
        wanted = [
            run
            for run in self._registry.runs()
            if run.is_ours
            and (run.is_active or now - run.control.ended_unix_seconds < self._finished_seconds)
        ]
        # By this machine's clock: what a client tells must not push others out.
        wanted.sort(key=lambda run: -run.last_heard_unix_seconds)
        shown: list[Run] = []
        used = left_out = 0
        for run in wanted:
            series = most_series(run)
            if used + series <= self._max_series:
                shown.append(run)
                used += series
            else:
                left_out += series
        return shown, len(wanted) - len(shown), left_out

    def _lines_of(self, runs: Sequence[Run]) -> dict[str, _Kept]:
        found: dict[str, _Kept] = {}
        begun = time.perf_counter()
        for run in runs:
            found[run.description.run_id] = self._lines(run)
            if time.perf_counter() - begun > _HOLD_SECONDS:
                # The event loop, which would otherwise wait for the interpreter at each of its turns, goes first.
                time.sleep(_PAUSE_SECONDS)
                begun = time.perf_counter()
        return found

    def _lines(self, run: Run) -> _Kept:
        # One look at each: the loop goes on changing the run meanwhile.
        analysis, now = run.shown, told.told_of(run)
        kept = self._kept.get(run.description.run_id)
        if kept is None or kept.description is not run.description:
            labels = RunLabels.of(run.description)
            return _Kept(
                run.description,
                labels,
                analysis,
                analysed.analysed_lines(labels, analysis),
                now,
                told.told_lines(labels, now),
            )
        if kept.analysis is not analysis:
            kept.analysis, kept.analysed = analysis, analysed.analysed_lines(kept.labels, analysis)
        if kept.told != now:
            kept.told, kept.telling = now, told.told_lines(kept.labels, now)
        return kept
