"""Real servers and trainings to be killed, and the figures of every series at the end."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from faults.runs import end_agents
from support.server import Client, ServerProcess
from support.training import TrainingProcess
from support.truth import Truth

_figures: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the series measured, whatever is captured."""
    if _figures:
        terminalreporter.section("figures")
        for line in _figures:
            terminalreporter.write_line(line)


@pytest.fixture
def figure() -> Callable[[str], None]:
    """Takes a line of the report."""
    return _figures.append


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random moments. The seed is in the report; FAULTS_SEED repeats it."""
    seed = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(2**32))
    _figures.append(f"{request.node.name}: FAULTS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path / "home").start()
    yield started
    end_agents(started.home)
    started.stop()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.addresses["grpc"], server.token) as connected:
        yield connected


@dataclass(frozen=True, slots=True)
class Reference:
    """The same training, unwatched."""

    truth: Truth
    digest: str
    """Of its final weights."""


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int, int], Reference]:
    """Seed, steps and distance of the checkpoints -> what an unwatched training gives; each is trained once."""
    known: dict[tuple[int, int, int], Reference] = {}

    def train(seed: int, steps: int, every: int) -> Reference:
        key = (seed, steps, every)
        if key not in known:
            out = tmp_path_factory.mktemp("reference")
            options = ("--keep", "--seed", str(seed), "--steps", str(steps), "--every", str(every))
            report = TrainingProcess.start(out, *options).wait()
            known[key] = Reference(Truth.load(out / "kept.npz"), report.digest)
        return known[key]

    return train
