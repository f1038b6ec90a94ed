"""Interrupted at any moment, an ingest goes on from its journal and ends with the same bits; another one does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.ingest import ingesting  # noqa: TID251 # tests/client, on the path of the tests
from client.ingest.ingesting import SMALL, records  # noqa: TID251
from client.ingest.written import Shapes, save_series, walk  # noqa: TID251
from trajmon._files import ProcessLock, write_json
from trajmon.errors import CheckpointFileError, DamagedRunError, RunExistsError, RunNameError, RunOwnedError
from trajmon.ingest.gram import Step
from trajmon.ingest.run import Options, compute, open_ingest
from trajmon.ingest.series import find_series
from trajmon.numerics.views import View
from trajmon.rundir import RunDir

SHAPES: Shapes = {
    "embed.weight": ((120, 300), "float32"),
    "norm.weight": ((33,), "float32"),
    "out.weight": ((50, 210), "bfloat16"),
}
OPTIONS = Options(run="run", threads=2, memory_bytes=SMALL)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return save_series(tmp_path / "saved", walk(SHAPES, 6), SHAPES)


def kill_after(steps: int, home: Path, folder: Path, save_seconds: float) -> None:
    program = Path(ingesting.__file__)
    done = subprocess.run(
        [sys.executable, str(program), str(home), str(folder), "run", str(steps), str(save_seconds)],
        env={**os.environ, "PYTHONPATH": str(program.parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(("steps", "save_seconds"), [(17, 0), (23, 0.1), (46, 0)])
def test_killed_it_goes_on_and_ends_with_the_same_bits(
    home: Path, tmp_path: Path, paths: list[Path], steps: int, save_seconds: float
) -> None:
    whole, all_steps = records(tmp_path / "other", paths, OPTIONS)
    kill_after(steps, home, paths[0].parent, save_seconds)
    rows, left = records(home, paths, OPTIONS)
    assert rows == whole
    if save_seconds == 0:
        # What was summed is not summed again; the last step may have been killed before it was saved.
        assert all_steps - left == steps - 1
    else:
        assert all_steps - steps < left <= all_steps
    assert records(home, paths, OPTIONS) == (whole, 0)


def test_killed_again_and_again(home: Path, tmp_path: Path, paths: list[Path]) -> None:
    for steps in (5, 9):
        kill_after(steps, home, paths[0].parent, 0)
    rows, left = records(home, paths, OPTIONS)
    whole, all_steps = records(tmp_path / "other", paths, OPTIONS)
    assert rows == whole
    assert left == all_steps - (4 + 8)


def test_ctrl_c_saves_its_place(home: Path, paths: list[Path]) -> None:
    seen = 0

    def interrupt(step: Step) -> None:
        nonlocal seen
        seen += 1
        if seen == 12:
            raise KeyboardInterrupt

    series = find_series(paths)
    with open_ingest(home, series, OPTIONS) as begun, pytest.raises(KeyboardInterrupt):
        compute(begun, interrupt)
    with open_ingest(home, series, OPTIONS) as begun:
        assert (begun.place.tensor, begun.place.block) == (0, 12)
    series.close()


def refused(home: Path, paths: list[Path], options: Options = OPTIONS, views: tuple[View, ...] = ()) -> str:
    """The text with which the ingest is refused; nothing in the home folder changes."""
    before = {path: path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}
    series = find_series(paths, views=views)
    with (
        pytest.raises((RunExistsError, RunNameError, RunOwnedError)) as caught,
        open_ingest(home, series, options),
    ):
        pass
    series.close()
    assert {path: path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()} == before
    return str(caught.value)


def test_other_inputs_are_told_and_start_over_only_on_request(home: Path, paths: list[Path]) -> None:
    whole, _ = records(home, paths, OPTIONS)
    tail = "); --restart throws away what it has computed, or choose another name"
    start = "run 'run' was begun from other checkpoints ("
    assert refused(home, paths[:-1]) == f"{start}there were 6 checkpoints, there are 5{tail}"
    assert refused(home, paths[1:]) == f"{start}checkpoint 0 was {paths[0]}, is {paths[1]}{tail}"
    cut = (View(r"out\.weight$", None, 1, ("a", "b")),)
    assert refused(home, paths, views=cut) == f"{start}other views{tail}"
    other = Options(run="run", memory_bytes=SMALL * 2)
    assert refused(home, paths, other) == f"{start}another limit of memory{tail}"
    os.utime(paths[3], ns=(1, 1))
    assert refused(home, paths) == f"{start}checkpoint 3 has changed on disk: {paths[3]}{tail}"
    again, steps = records(home, paths, Options(run="run", threads=2, memory_bytes=SMALL, restart=True))
    assert steps > 0
    # The time of a row is its file's.
    assert [a == b for a, b in zip(again, whole, strict=True)] == [True, True, True, False, True, True]


def test_rows_on_the_server_are_not_thrown_away(home: Path, paths: list[Path]) -> None:
    records(home, paths, OPTIONS)
    write_json(RunDir.of(home, "run").acked_file, {"acked": 2})
    text = refused(home, paths[1:], Options(run="run", memory_bytes=SMALL, restart=True))
    assert text == (
        f"run 'run' was ingested from other checkpoints (checkpoint 0 was {paths[0]}, is {paths[1]}), and the server "
        "has 2 of them; choose another name"
    )


def test_a_training_s_run_stays_as_it_is(home: Path, paths: list[Path]) -> None:
    run_dir = RunDir.of(home, "run")
    run_dir.create()
    write_json(run_dir.run_file, {"format": 1})
    assert (
        refused(home, paths)
        == f"run 'run' exists in {run_dir.path} and was not ingested; choose another name"
    )


def test_a_run_in_work(home: Path, paths: list[Path]) -> None:
    run_dir = RunDir.of(home, "run")
    run_dir.create()
    lock = ProcessLock(run_dir.agent_lock)
    assert lock.acquire()
    run_dir.owner_lock.touch()
    try:
        assert refused(home, paths) == f"process {os.getpid()} works on run 'run'; wait for it or end it"
    finally:
        lock.release()


def test_names_that_are_none(home: Path, paths: list[Path]) -> None:
    assert refused(home, paths, Options(run="../up")).startswith("'../up' is not a run name; use 1 to 64 of")
    assert (
        refused(home, paths, Options(run="run", tags=("",)))
        == "at most 32 tags of 1 to 64 characters are allowed"
    )


def test_a_damaged_place_is_told(home: Path, paths: list[Path]) -> None:
    records(home, paths, OPTIONS)
    state = RunDir.of(home, "run").path / "ingest" / "state.bin"
    data = bytearray(state.read_bytes())
    data[-3] ^= 1
    state.write_bytes(data)
    series = find_series(paths)
    with (
        pytest.raises(DamagedRunError, match=r"state\.bin does not match its checksum"),
        open_ingest(home, series, OPTIONS),
    ):
        pass
    series.close()


def test_sums_that_are_gone_are_made_again(home: Path, paths: list[Path]) -> None:
    whole, steps = records(home, paths, OPTIONS)
    (RunDir.of(home, "run").path / "ingest" / "sums.f64").unlink()
    assert records(home, paths, OPTIONS) == (whole, steps)


def test_a_file_that_changes_meanwhile(home: Path, paths: list[Path]) -> None:
    series = find_series(paths)

    def change(step: Step) -> None:
        os.utime(paths[2], ns=(1, 1))

    with (
        open_ingest(home, series, OPTIONS) as begun,
        pytest.raises(CheckpointFileError, match=r"step20\.safetensors"),
    ):
        compute(begun, change)
    series.close()
