"""Runs the sharded training under torchrun, and compares what the server has with the parameters themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from support.server import ServerProcess
from support.truth import RELATIVE, Truth
from trajmon.query import QueryClient

PROGRAM = Path(__file__).with_name("sharded_training.py")
STEPS, EVERY = 12, 3
_LAUNCH_SECONDS = 300.0


def torchrun(world: int, out: Path, kinds: Sequence[str], *arguments: str, check: bool = True) -> str:
    """Train the kinds over `world` processes; what the processes printed."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    command += [str(PROGRAM), "--out", str(out), "--kinds", ",".join(kinds)]
    command += ["--steps", str(STEPS), "--every", str(EVERY), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRAJMON_AGENT_LINGER_SECONDS": "60"}
    ended = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_LAUNCH_SECONDS,
        text=True,
        check=False,
    )
    # The first cause stands far above the end.
    assert not check or ended.returncode == 0, f"{ended.stdout[:6000]}\n...\n{ended.stdout[-3000:]}"
    return ended.stdout


def watched(
    world: int, out: Path, kinds: Sequence[str], server: ServerProcess, *arguments: str, check: bool = True
) -> str:
    """The same under watch."""
    where = ("--home", str(server.home), "--server", server.grpc_address)
    return torchrun(world, out, kinds, *where, *arguments, check=check)


def report(out: Path, kind: str) -> dict[str, Any]:
    """What the ranks of a training said in the end."""
    loaded: dict[str, Any] = json.loads((out / f"{kind}.json").read_text())
    return loaded


def truth_of(out: Path, kind: str) -> Truth:
    """The whole parameters at each checkpoint of an unwatched training."""
    with np.load(out / f"{kind}.npz") as file:
        layers = {name: file[name] for name in file.files}
    return Truth.of(layers, range(0, STEPS + 1, EVERY))


def assert_map_is(
    server: ServerProcess, kind: str, truth: Truth, steps: Sequence[int], relative: float = RELATIVE
) -> None:
    """The server's Gram of the network and of every layer is that of the unsharded parameters."""
    with QueryClient(server.addresses["grpc"], server.token) as client:
        network = wait_for(lambda: complete(client, kind, len(steps)), f"the rows of {kind}")
        assert network.step.tolist() == list(steps)
        truth.assert_gram(network.gram, steps, relative=relative)
        for layer in truth.values:
            truth.assert_gram(client.get_map(kind, f"layer:{layer}").gram, steps, [layer], relative)


def complete(client: QueryClient, run: str, count: int) -> Any:
    """The network's map once it has `count` checkpoints, else None."""
    if not any(a.name == run for a in client.list_runs()):
        return None
    found = client.get_map(run, "network")
    return found if len(found.step) >= count and np.isfinite(found.gram).all() else None


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
    """What the condition gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:.0f} s"
        time.sleep(0.1)
