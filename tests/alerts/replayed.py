"""Recorded runs that come into the states which alerts tell of, row by row."""

from __future__ import annotations

import numpy as np

from support.calls import open_run, push, push_all
from support.rows import SyntheticRun
from support.server import Client
from trajmon_protos import record
from trajmon_protos.record import LayerStatus

__all__ = ["BrokenRun", "settled"]

_SETTLED, _TURNING, _GOOD = 20, 15, 6


def settled(name: str) -> SyntheticRun:
    """A run that has all but arrived: each update is half of the one before, so that a switch is advised."""
    run = SyntheticRun(name, num_checkpoints=_SETTLED)
    way = 1.0 - 0.5 ** np.arange(_SETTLED)
    run.parameters = run.parameters[:1] + way[:, None, None] * np.ones_like(run.parameters[0])
    return run


class BrokenRun:
    """Turns back at every checkpoint and further each time, is not finite then, and is mended."""

    def __init__(self, client: Client, name: str) -> None:
        """Opens the run and hands in what turns back."""
        self._client = client
        self._run = run = SyntheticRun(name, num_checkpoints=_TURNING + 2)
        swing = 0.1 * (-1.5) ** np.arange(run.num_checkpoints)
        swing[_TURNING + 1] = swing[_GOOD - 1] * 1.01
        run.parameters = run.parameters[:1] + swing[:, None, None] * np.ones_like(run.parameters[0])
        self._epoch = push_all(client, run, stop=_TURNING)

    def blow_up(self) -> None:
        """The next checkpoint holds NaN in its first layer."""
        row = self._run.row(_TURNING)
        gram, products, status = row.gram.copy(), row.products.copy(), row.status.copy()
        gram[0], products[0], status[0] = np.nan, np.nan, LayerStatus.NON_FINITE
        push(
            self._client,
            self._run,
            self._epoch,
            record.encode(record.Row(row.header, gram, products, status)),
        )

    def mend(self) -> None:
        """A new attempt goes on from a good checkpoint."""
        self._epoch = open_run(self._client, self._run, attempt=2).writer_epoch
        path = list(range(_GOOD))
        push(self._client, self._run, self._epoch, self._run.record(_TURNING + 1, path, attempt=2))
