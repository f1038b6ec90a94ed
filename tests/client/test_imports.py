"""What each part of the client loads, seen from a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys


def loaded(code: str) -> set[str]:
    probe = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded("import trajmon") & {"torch", "grpc", "numba", "numpy", "google"}


def test_watching_loads_no_grpc_and_no_numba() -> None:
    found = loaded("import trajmon\nfor name in trajmon.__all__: getattr(trajmon, name)")
    assert "torch" in found
    assert not found & {"grpc", "google", "numba", "trajmon_server"}


def test_the_agent_loads_no_torch() -> None:
    found = loaded("import trajmon.agent.__main__, trajmon.agent.sync")
    assert "grpc" in found
    assert not found & {"torch", "trajmon_server", "zarr"}
