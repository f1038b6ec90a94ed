"""`trajmon demo --json`: a whole small training under watch; stdout is for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_demo_as_json(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    answer = subprocess.run(
        [sys.executable, "-m", "trajmon", "demo", "--epochs", "4", "--dir", str(folder), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        cwd=tmp_path,
    )
    assert answer.returncode == 0, answer.stderr
    value = json.loads(answer.stdout)
    assert value["run"]["name"] == "demo"
    # The initialization and four epochs.
    assert value["run"]["checkpoints"] == 5
    assert 0 < value["mean"] <= 1
    assert "live metrics" in answer.stderr
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
