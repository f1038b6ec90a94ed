"""xarray reads a run's maps while the run is being trained: never an error, never a wrong value."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.live import read_while_training
from support.server import ServerProcess

pytestmark = pytest.mark.long


def test_a_reader_beside_a_live_training(server: ServerProcess, tmp_path: Path) -> None:
    seen = read_while_training(server, tmp_path, steps=280, every=4, pause_seconds=0.01)
    assert seen.checkpoints == 71
    assert seen.lengths > 3
