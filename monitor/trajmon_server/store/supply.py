"""Where maps take rows from when they are made again, and what is said of those that are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from trajmon_protos.record import Row
from trajmon_server.store.base import EstimateSource, RowSource
from trajmon_server.store.entries import PublishRow
from trajmon_server.store.errors import RowDamagedError, RowMissingError
from trajmon_server.store.estimates import RowEstimates

__all__ = ["FindingKind", "MapFinding", "Supply"]

FindingKind = Literal["damaged_chunk", "damaged_store", "lost_row", "lost_estimates"]


@dataclass(frozen=True, slots=True)
class MapFinding:
    """Something that was wrong with the maps, and what was done about it."""

    kind: FindingKind
    text: str


class Supply:
    """The rows of one run, out of a source."""

    def __init__(self, source: RowSource, run_id: str, note: Callable[[FindingKind, str], None]) -> None:
        """`note` is told, by kind and in words, what has been lost."""
        self._source = source
        self._run_id = run_id
        self._note = note

    def row(self, number: int) -> Row | None:
        """The row; None, said, if it has been lost."""
        try:
            return self._source.read_row(self._run_id, number)
        except (RowMissingError, RowDamagedError) as error:
            self._note("lost_row", f"checkpoint {number} is shown as missing: {error}")
            return None

    def estimates(self, number: int, *, expected: bool) -> RowEstimates | None:
        """What sketches say of the row; None if nothing, said if something is `expected` or has been lost."""
        reason = "its sketch is not there any more"
        if isinstance(self._source, EstimateSource):
            try:
                found = self._source.read_estimates(self._run_id, number)
            except (RowMissingError, RowDamagedError) as error:
                found, expected, reason = None, True, str(error)
            if found is not None:
                return found
        if expected:
            self._note("lost_estimates", f"checkpoint {number} is shown without estimates: {reason}")
        return None

    def rows(self, stop: int, expected: Callable[[int], bool]) -> Iterator[PublishRow]:
        """All rows up to `stop`, exclusive, that are there; `expected` tells of which estimates are missed."""
        for number in range(stop):
            row = self.row(number)
            if row is not None:
                estimates = self.estimates(number, expected=expected(number))
                yield PublishRow(row, row.header.attempt, estimates)
