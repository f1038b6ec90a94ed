"""Snapshots put together from another cut: the same bytes, all of them, or none."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.recording import names  # noqa: TID251 # tests/client, on the path of the tests
from client.sharding.cuts import (  # noqa: TID251 # tests/client, on the path of the tests
    LAYOUT,
    Folder,
    bring,
    by_axis,
    by_runs,
    cut_folders,
    elements,
    partitions,
    whole,
)
from trajmon.numerics.layout import Group, Layer, Layout
from trajmon.sharding import reshard
from trajmon.sharding.chunks import Chunk
from trajmon.sharding.reshard import Resharder

VALUES = elements(LAYOUT, seed=1)


def test_one_to_four_to_two_to_runs_to_columns_to_one(tmp_path: Path) -> None:
    cuts = [
        by_axis(LAYOUT, 4),
        by_axis(LAYOUT, 2),
        by_runs(LAYOUT, 3),
        by_axis(LAYOUT, 3, axis=1),
        by_runs(LAYOUT, 2),
    ]
    folders = [Folder(tmp_path / "0", None)]
    folders[0].record(3, VALUES)
    for number, cut in enumerate(cuts):
        # Each cut has the one before it as its only source.
        home = tmp_path / str(number + 1)
        shutil.copytree(tmp_path / str(number), home)
        later = cut_folders(home, cut)
        assert bring(later, 3) == [True] * len(later)
        assert all(folder.holds(3, VALUES) for folder in later)
        for folder in folders:
            shutil.rmtree(home / "client" / folder.run_dir.path.name)
        folders = later
    last = Folder(home, None)
    assert bring([last], 3) == [True]
    assert last.holds(3, VALUES)
    header = last.store.header(3)
    assert (header.checkpoint, header.attempt, header.step, header.previous) == (3, 1, 30, 2)
    assert (header.metrics, header.time_unix_seconds) == ({"loss": 0.5}, 1.7e9)


@pytest.mark.parametrize("parts", [2, 3, 4, 8])
def test_ragged_cuts(tmp_path: Path, parts: int) -> None:
    for folder in cut_folders(tmp_path, by_axis(LAYOUT, parts, axis=1)):
        folder.record(0, VALUES)
    later = cut_folders(tmp_path, by_axis(LAYOUT, 3))
    assert all(bring(later))
    assert all(folder.holds(0, VALUES) for folder in later)


@settings(max_examples=25)
@given(data=st.data(), slab_bytes=st.sampled_from([64, 200, 8 << 20]))
def test_any_cut_from_any_other(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, slab_bytes: int
) -> None:
    home = tmp_path_factory.mktemp("reshard")
    earlier, later = (
        [
            [
                chunk
                for place, layer in enumerate(LAYOUT.layers)
                for index, chunk in enumerate(cut[place])
                if (index + place) % 3 == rank
            ]
            for rank in range(3)
        ]
        for cut in (
            [data.draw(partitions(whole(place, layer.shape))) for place, layer in enumerate(LAYOUT.layers)]
            for _ in range(2)
        )
    )
    for folder in cut_folders(home, earlier):
        folder.record(0, VALUES)
    folders = [folder for folder in cut_folders(home, later) if not folder.store.numbers()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reshard, "SLAB_BYTES", slab_bytes)
        assert all(bring(folders))
    assert all(folder.holds(0, VALUES) for folder in folders)


def test_each_checkpoint_has_its_own_bytes(tmp_path: Path) -> None:
    history = [elements(LAYOUT, seed) for seed in range(3)]
    for folder in cut_folders(tmp_path, by_axis(LAYOUT, 4)):
        for checkpoint, values in enumerate(history):
            folder.record(checkpoint, values)
    (first, second) = cut_folders(tmp_path, by_axis(LAYOUT, 2))
    for folder in (first, second):
        resharder = Resharder(folder.run_dir, folder.run)
        assert [resharder.bring(checkpoint) for checkpoint in (2, 0, 1, 2)] == [True] * 4
        assert [folder.holds(checkpoint, values) for checkpoint, values in enumerate(history)] == [True] * 3


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    Folder(tmp_path, None).record(0, VALUES)
    (folder,) = cut_folders(tmp_path, [[whole(0, (7, 13))]])
    folder.store.path(0).write_bytes(b"damaged")
    assert bring([folder]) == [True]
    assert folder.store.path(0).read_bytes() == b"damaged"


def test_a_missing_part_is_named_once_and_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = cut_folders(tmp_path, by_axis(LAYOUT, 2))
    later = Folder(tmp_path, None)
    resharder = Resharder(later.run_dir, later.run)
    assert not resharder.bring(5)
    earlier[0].record(5, VALUES)
    assert [resharder.bring(5) for _ in range(3)] == [False] * 3
    assert caplog.messages == [
        "checkpoint 5: no other folder of the run holds it",
        f"checkpoint 5 cannot be put together from {earlier[0].run_dir.path.name}: 39 elements of [0:7,0:13] of 7x13 "
        "of layer 'w' are in none of them",
    ]
    assert names(later.run_dir.snapshots) == []
    earlier[1].record(5, VALUES)
    assert resharder.bring(5)
    assert later.holds(5, VALUES)


def test_only_what_the_folder_needs_has_to_be_there(tmp_path: Path) -> None:
    earlier = cut_folders(tmp_path, by_axis(LAYOUT, 2))
    earlier[0].record(0, VALUES)
    top, bottom = cut_folders(
        tmp_path, [[Chunk(0, (7, 13), (1, 3), (3, 5))], [Chunk(0, (7, 13), (3, 0), (2, 13))]]
    )
    assert bring([top, bottom]) == [True, False]
    assert top.holds(0, VALUES)
    assert names(bottom.run_dir.snapshots) == []


def test_a_folder_without_elements_gets_its_snapshot_too(tmp_path: Path) -> None:
    later = Folder(tmp_path, [Chunk(0, (91,), (0,), (0,))], 3, 4)
    assert bring([later]) == [False]
    cut_folders(tmp_path, by_axis(LAYOUT, 2))[1].record(0, VALUES)
    assert bring([later]) == [True]
    assert later.holds(0, VALUES)
    assert later.store.header(0).fingerprint == later.layout.fingerprint


def test_a_truncated_snapshot_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    earlier = cut_folders(tmp_path, by_axis(LAYOUT, 2))
    for folder in earlier:
        folder.record(0, VALUES)
    path = earlier[1].store.path(0)
    os.truncate(path, path.stat().st_size - 1)
    later = Folder(tmp_path, None)
    assert bring([later]) == [False]
    name = earlier[1].run_dir.path.name
    assert f"checkpoint 0: {name} is left out: snapshot 00000000.snap: it has" in caplog.messages[0]
    assert "layer 'w' are in none of them" in caplog.messages[1]
    assert names(later.run_dir.snapshots) == []
    # Another cut has what it lacks.
    for folder in cut_folders(tmp_path, by_axis(LAYOUT, 3, axis=1)):
        folder.record(0, VALUES)
    assert bring([later]) == [True]
    assert later.holds(0, VALUES)


@pytest.mark.parametrize("damage", [b"", b"TMSNAP\x00\x01", b"x" * 5000])
def test_a_snapshot_without_a_header_is_named(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    source = Folder(tmp_path, None)
    source.store.path(0).write_bytes(damage)
    (later,) = cut_folders(tmp_path, [[whole(0, (7, 13))]])
    assert bring([later]) == [False]
    assert caplog.messages[0].startswith("checkpoint 0: net is left out: snapshot 00000000.snap: it ")
    assert caplog.messages[1:] == ["checkpoint 0: no other folder of the run holds it"]


@pytest.mark.parametrize("change", [{"step": 11}, {"previous": None}, {"attempt": 2}])
def test_parts_of_different_checkpoints_are_never_mixed(
    tmp_path: Path, change: dict[str, int | None], caplog: pytest.LogCaptureFixture
) -> None:
    earlier = cut_folders(tmp_path, by_axis(LAYOUT, 2))
    earlier[0].record(1, VALUES)
    earlier[1].record(1, VALUES, **change)
    later = Folder(tmp_path, None)
    assert bring([later], 1) == [False]
    left_out, low, high = {
        "step": (earlier[0], (1, 10, 0), (1, 11, 0)),
        "previous": (earlier[1], (1, 10, -1), (1, 10, 0)),
        "attempt": (earlier[0], (1, 10, 0), (2, 10, 0)),
    }[next(iter(change))]
    assert caplog.messages[0] == (
        f"checkpoint 1: {left_out.run_dir.path.name} is left out: attempt, step and previous checkpoint are "
        f"{low} there and {high} elsewhere"
    )
    assert names(later.run_dir.snapshots) == []


def test_the_latest_attempt_counts_if_two_cuts_differ(tmp_path: Path) -> None:
    old, new = elements(LAYOUT, 7), elements(LAYOUT, 8)
    for folder in cut_folders(tmp_path, by_axis(LAYOUT, 4)):
        folder.record(2, old, step=99)
    for folder in cut_folders(tmp_path, by_axis(LAYOUT, 2)):
        folder.record(2, new, attempt=2, step=20)
    later = Folder(tmp_path, None)
    assert bring([later], 2) == [True]
    assert later.holds(2, new)


def test_cuts_that_agree_complete_each_other(tmp_path: Path) -> None:
    rows, columns = by_axis(LAYOUT, 2), by_axis(LAYOUT, 2, axis=1)
    Folder(tmp_path, [chunk for chunk in rows[0] if chunk.num_elements], 0, 2).record(0, VALUES)
    Folder(tmp_path, [chunk for chunk in columns[1] if chunk.num_elements], 1, 2).record(0, VALUES)
    (later,) = cut_folders(tmp_path, [[Chunk(0, (7, 13), (0, 7), (7, 6)), Chunk(0, (7, 13), (0, 0), (4, 7))]])
    assert bring([later]) == [True]
    assert later.holds(0, VALUES)


def test_other_runs_are_no_sources(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Folder(tmp_path, None)
    source.record(0, VALUES)
    # A run of a longer name that has the same id by accident, and one of the same name from before.
    shutil.copytree(source.run_dir.path, tmp_path / "client" / "network")
    replace(source.run, run_id="b" * 32).write(source.run_dir)
    (later,) = cut_folders(tmp_path, [[whole(0, (7, 13))]])
    assert bring([later]) == [False]
    assert caplog.messages == ["checkpoint 0: no other folder of the run holds it"]


def test_a_folder_that_cannot_be_read_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in cut_folders(tmp_path, by_axis(LAYOUT, 2)):
        folder.record(0, VALUES)
    good = Folder(tmp_path, None)
    good.record(0, VALUES)
    broken, outside, half = cut_folders(
        tmp_path, [[whole(0, (7, 13))], [whole(1, (10,))], [whole(2, (3, 4, 5))]]
    )
    broken.run_dir.run_file.write_text("{")
    far = Chunk(1, (10,), (8,), (4,))
    assert outside.run.shard is not None
    replace(outside.run, shard=replace(outside.run.shard, chunks=(far,))).write(outside.run_dir)
    half.run_dir.run_file.unlink()
    (tmp_path / "client" / "net~file").write_text("no folder")
    (later,) = cut_folders(tmp_path, [[Chunk(0, (7, 13), (0, 0), (7, 2))]])
    assert bring([later]) == [True]
    assert later.holds(0, VALUES)
    told = sorted(caplog.messages)
    assert len(told) == 2
    assert any(
        f"{broken.run_dir.path.name} is left out: " in text and "cannot be read" in text for text in told
    )
    assert any(text.endswith("[8:12] of 10 reaches out of layer 'bias'") for text in told)


def test_a_folder_that_is_made_later_is_found(tmp_path: Path) -> None:
    later = Folder(tmp_path, None)
    resharder = Resharder(later.run_dir, later.run)
    assert not resharder.bring(0)
    for folder in cut_folders(tmp_path, by_runs(LAYOUT, 2)):
        folder.record(0, VALUES)
    assert resharder.bring(0)
    assert later.holds(0, VALUES)


def test_a_folder_that_is_made_anew_is_read_anew(tmp_path: Path) -> None:
    source = Folder(tmp_path, None)
    source.record(0, VALUES)
    replace(source.run, run_id="b" * 32).write(source.run_dir)
    (later,) = cut_folders(tmp_path, [[whole(0, (7, 13))]])
    resharder = Resharder(later.run_dir, later.run)
    assert not resharder.bring(0)
    source.run.write(source.run_dir)
    assert resharder.bring(0)


def test_the_header_is_that_of_the_first_part(tmp_path: Path) -> None:
    for parts in (2, 3, 4):
        home = tmp_path / str(parts)
        for folder in cut_folders(home, by_axis(LAYOUT, parts)):
            assert folder.run.shard is not None
            folder.record(0, VALUES, metrics={"rank": folder.run.shard.part})
        later = Folder(home, None)
        assert bring([later]) == [True]
        assert later.store.header(0).metrics == {"rank": 0.0}


PROGRAM = """
import os, resource, signal, sys
from pathlib import Path
from trajmon.rundir import RunDescription, RunDir
from trajmon.sharding.reshard import Resharder
run_dir = RunDir(Path(sys.argv[1]))
resharder = Resharder(run_dir, RunDescription.read(run_dir))
"""

KILLED = (
    PROGRAM
    + """sys.addaudithook(lambda event, _: event == sys.argv[2] and os.kill(os.getpid(), signal.SIGKILL))
resharder.bring(0)
"""
)


@pytest.mark.parametrize(
    ("moment", "left"), [("mmap.__new__", []), ("os.rename", [".resharder.00000000.tmp"])]
)
def test_killed_in_the_middle_it_leaves_nothing_half(tmp_path: Path, moment: str, left: list[str]) -> None:
    for folder in cut_folders(tmp_path, by_axis(LAYOUT, 3)):
        folder.record(0, VALUES)
    later = Folder(tmp_path, None)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(later.run_dir.path), moment], check=False, timeout=60
    )
    assert ended.returncode == -signal.SIGKILL
    assert names(later.run_dir.snapshots) == left
    assert later.store.numbers() == []
    resharder = Resharder(later.run_dir, later.run)
    assert names(later.run_dir.snapshots) == []
    assert resharder.bring(0)
    assert later.holds(0, VALUES)
    assert names(later.run_dir.snapshots) == ["00000000.snap"]


FULL = (
    PROGRAM
    + """resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    resharder.bring(0)
except OSError as error:
    print(error.strerror)
"""
)


@pytest.mark.parametrize("room", [100, 4200])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, room: int) -> None:
    for folder in cut_folders(tmp_path, by_axis(LAYOUT, 3)):
        folder.record(0, VALUES)
    later = Folder(tmp_path, None)
    command = [sys.executable, "-c", FULL, str(later.run_dir.path), str(room)]
    ended = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert ended.stdout == "File too large\n"
    assert names(later.run_dir.snapshots) == []


def test_memory_stays_bounded_however_large_the_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout((Layer("large", (1024, 4096), "float32"),), (Group("network", (0,)),))
    monkeypatch.setattr(reshard, "SLAB_BYTES", 1 << 20)
    values = elements(layout, 3)
    for folder in cut_folders(tmp_path, by_axis(layout, 2), layout):
        folder.record(0, values)
    (later,) = cut_folders(tmp_path, [[Chunk(0, (1024, 4096), (0, 100), (1024, 3996))]], layout)
    tracemalloc.start()
    try:
        assert bring([later]) == [True]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert later.holds(0, values)
    # A slab, its marks and the comings and goings of one copy; the layer has 16 MiB.
    assert peak_bytes < 4 << 20
