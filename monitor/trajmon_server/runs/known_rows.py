"""The rows of a run as its maps are made of them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from trajmon_protos.record import Row
from trajmon_server.model import RunDescription
from trajmon_server.runs.estimates import Estimates
from trajmon_server.runs.rows import Rows
from trajmon_server.store.base import RowSource
from trajmon_server.store.errors import RowMissingError
from trajmon_server.store.estimates import RowEstimates

__all__ = ["KnownRows"]


class KnownRows(RowSource):
    """The rows of one run that maps are made of. One that is not known is missing, without a look at the disk."""

    def __init__(self, rows: Rows, description: RunDescription, known: Callable[[], Collection[int]]) -> None:
        self._rows = rows
        self._description = description
        self._known = known
        self._estimates = Estimates(rows, description, known)

    def read_row(self, run_id: str, checkpoint: int, part: int = 0) -> Row:
        """See :meth:`RowSource.read_row`."""
        if checkpoint not in self._known():
            raise RowMissingError(f"checkpoint {checkpoint} of run {run_id} is not known")
        return self._rows.read(self._description, checkpoint)

    def read_estimates(self, run_id: str, checkpoint: int) -> RowEstimates | None:
        """See :meth:`RowSource.read_estimates`."""
        return self._estimates.of(self.read_row(run_id, checkpoint))
