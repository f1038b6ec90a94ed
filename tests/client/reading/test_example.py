"""The example of the documents, run as its reader runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "reading.py"


@pytest.mark.parametrize(("way", "run"), [("server", "long"), ("files", "resumed")])
def test_the_example_runs(house: Any, tmp_path: Path, way: str, run: str) -> None:
    where = ["--data-dir", str(house.server.data_dir)] if way == "files" else ["--server", house.address]
    out = tmp_path / "reading.png"
    answer = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), run, *where, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=tmp_path,
        env={**os.environ, "TRAJMON_HOME": str(house.server.home), "MPLBACKEND": "Agg"},
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    count = {"long": 70, "resumed": 6}[run]
    assert f" over {count} checkpoints\n" in answer.stdout
    assert f"num_checkpoints: {count}\n" in answer.stdout
    assert answer.stdout.count("not told by files") == (2 if way == "files" else 0)
    assert matplotlib.image.imread(out).shape[:2] == (432, 1440)
