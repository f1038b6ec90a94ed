"""What watching costs a sharded training: FSDP2 over two gloo processes, a checkpoint each 50 steps.

Two processes of one thread each fill this machine's two cores; the agents get what training leaves.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STEPS, STEPS_PER_CHECKPOINT, REPETITIONS = 300, 50, 6
ADDED_LIMIT_PERCENT = 3.0
AGENT_LIMIT_MIB = 512.0
_SECONDS = 600.0


def run() -> list[dict[str, Any]]:
    """Watched and unwatched by turns."""
    with tempfile.TemporaryDirectory(prefix="trajmon-bench-", ignore_cleanup_errors=True) as folder:
        numbers = [str(number) for number in (STEPS, STEPS_PER_CHECKPOINT, REPETITIONS)]
        program = Path(__file__).with_name("_sharded_program.py")
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
                *(str(program), folder, *numbers),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "TRAJMON_AGENT_LINGER_SECONDS": "0"},
            stdout=subprocess.PIPE,
            timeout=_SECONDS,
            check=True,
            text=True,
        )
    told = json.loads(ended.stdout.strip().splitlines()[-1])
    watched, unwatched = told["seconds"]["watched"], told["seconds"]["unwatched"]
    added = (statistics.median(watched) / statistics.median(unwatched) - 1.0) * 100.0
    spread = (max(unwatched) / min(unwatched) - 1.0) * 100.0
    what = f"FSDP2, 2 ranks, {STEPS} steps"
    return [
        _figure(f"{what}, unwatched", statistics.median(unwatched), "s"),
        _figure(f"{what}, unwatched: slowest over fastest", spread, "%"),
        _figure(f"{what}, a checkpoint each {STEPS_PER_CHECKPOINT}", statistics.median(watched), "s"),
        {
            **_figure(f"{what}: added by watching", added, "%"),
            "limit": f"<= {ADDED_LIMIT_PERCENT:.0f}",
            "ok": added <= ADDED_LIMIT_PERCENT,
        },
        {
            **_figure("an agent's own memory", told["agent_mib"], "MiB"),
            "limit": f"<= {AGENT_LIMIT_MIB:.0f}",
            "ok": 0.0 < told["agent_mib"] <= AGENT_LIMIT_MIB,
        },
    ]


def _figure(name: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "limit": None, "ok": True}
