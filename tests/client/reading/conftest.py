"""A real server with known runs, and the two ways to read them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from support.calls import get_map, open_run, push, push_all
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon.reading.opening import open_run as open_for_reading
from trajmon.reading.view import RunView

Floats = NDArray[np.float64]
Open = Callable[..., RunView]


@dataclass(frozen=True)
class House:
    """A server and the runs that were pushed to it."""

    server: ServerProcess
    runs: dict[str, SyntheticRun]

    @property
    def address(self) -> str:
        return self.server.addresses["grpc"]

    def points(self, run: str, numbers: list[int], scope: str = "network") -> Floats:
        """[checkpoint, parameter] of a scope."""
        known = self.runs[run]
        layers = {"network": slice(None), "group:first": slice(0, 1)}.get(scope)
        if layers is None:
            index = known.layer_names.index(scope.removeprefix("layer:"))
            layers = slice(index, index + 1)
        return known.parameters[numbers][:, layers].reshape(len(numbers), -1)


PATH_AFTER_RESTART = [0, 1, 2, 6, 7, 8]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """`long` has a sealed strip of rows and a tail; of `resumed`, checkpoints 3 to 5 are superseded."""
    server = ServerProcess(tmp_path_factory.mktemp("house") / "home").start()
    try:
        yield House(server, _push_runs(server))
    finally:
        status = server.stop()
    assert status == 0


def _push_runs(server: ServerProcess) -> dict[str, SyntheticRun]:
    runs = {
        "long": SyntheticRun("long", num_checkpoints=70, seed=1),
        "resumed": SyntheticRun("resumed", num_checkpoints=9, seed=2),
        "single": SyntheticRun("single", num_checkpoints=1, seed=3),
        "empty": SyntheticRun("empty", num_checkpoints=1, seed=4),
        "live": SyntheticRun("live", num_checkpoints=6, seed=5),
    }
    with Client(server.addresses["grpc"], server.token) as client:
        push_all(client, runs["long"])
        push_all(client, runs["single"])
        push_all(client, runs["live"], stop=3)
        open_run(client, runs["empty"])
        resumed = runs["resumed"]
        push_all(client, resumed, stop=6)
        epoch = open_run(client, resumed, attempt=2).writer_epoch
        for at, checkpoint in enumerate(PATH_AFTER_RESTART[3:], 3):
            push(client, resumed, epoch, resumed.record(checkpoint, PATH_AFTER_RESTART[:at], attempt=2))
        for run in runs:
            # Rows are published after they are acknowledged; a query waits for them.
            get_map(client, run)
    return runs


@pytest.fixture(params=["server", "files"])
def read(request: pytest.FixtureRequest, house: House) -> Iterator[Open]:
    """Open a run of the house: once through its server, once from its files."""
    views: list[RunView] = []

    def from_there(run: str) -> RunView:
        if request.param == "server":
            views.append(open_for_reading(run, server=house.address, home=house.server.home))
        else:
            views.append(open_for_reading(run, data_dir=house.server.data_dir))
        return views[-1]

    yield from_there
    for view in views:
        view.close()


@pytest.fixture
def from_files(house: House) -> Callable[[str], RunView]:
    """Open a run of the house from its files."""
    return lambda run: open_for_reading(run, data_dir=house.server.data_dir)


@pytest.fixture
def copied(house: House, tmp_path: Path) -> Path:
    """A copy of the house's maps, for tests that damage them; a data directory."""
    shutil.copytree(house.server.data_dir / "maps", tmp_path / "data" / "maps")
    return tmp_path / "data"
