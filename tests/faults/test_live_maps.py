"""xarray beside a live run for longer: over the sealing of several strips, and kills of the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.live import read_while_training
from support.server import ServerProcess


@pytest.mark.timeout(600)
def test_a_reader_beside_a_live_training(
    server: ServerProcess, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    began = time.monotonic()
    seen = read_while_training(server, tmp_path, steps=1600, every=4, pause_seconds=0.02, kills=5)
    assert seen.checkpoints == 401
    assert seen.lengths > 20
    figure(
        f"xarray.open_zarr: {seen.looks} looks at {seen.lengths} lengths of a live run of {seen.checkpoints} "
        f"checkpoints and 5 kills of the server, no error, no wrong value; {time.monotonic() - began:.0f} s"
    )
