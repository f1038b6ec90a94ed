"""Looking into a run's folder, for the tests of the agent."""

from __future__ import annotations

from typing import Any

from trajmon._files import read_json
from trajmon.rundir import RunDir


def agent_note(run_dir: RunDir) -> dict[str, Any]:
    """What the agent says of itself; empty if it has said nothing."""
    return read_json(run_dir.agent_file) or {}
