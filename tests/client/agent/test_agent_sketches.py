"""Agents that sketch: what they hand in is the same however often they are killed, and nothing of it is lost."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from client.agent.killed_agent import __file__ as KILLED_AGENT  # noqa: TID251, N812 # a program beside this file
from client.agent.sketch_server import SketchServer, serving  # noqa: TID251 # tests/client, on the path of the tests
from client.recording import (  # noqa: TID251 # tests/client, on the path of the tests
    SHAPES,
    TOKEN,
    RecordedRun,
    assert_rows_equal,
    record_run,
    run_agent,
    wait_until,
)
from trajmon._files import ProcessLock, read_json
from trajmon._settings import AgentSettings
from trajmon.agent.rows import RowMaker
from trajmon.agent.spool import Spool
from trajmon.agent.sync import sync
from trajmon.rundir import RecorderNote
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.keeping import SnapshotMode, is_kept
from trajmon_protos.record import LayerStatus, decode

KEEP = 4
T = 9
IMPATIENT = AgentSettings(linger_seconds=0.5)


def ask_for(recorded: RecordedRun, address: str, mode: SnapshotMode, state: str = "finished") -> None:
    """What training asks of the agent."""
    note = RecorderNote(1, server=address, keeping=mode, keep=KEEP, sketching=True)
    replace(note, state="finished" if state == "finished" else "running").write(recorded.run_dir)


def kept(recorded: RecordedRun) -> list[int]:
    return [number for number in recorded.store.numbers() if recorded.store.header(number).kept]


def has_kept(recorded: RecordedRun, numbers: list[int]) -> bool:
    return kept(recorded) == numbers


def planned(newest: int, mode: SnapshotMode) -> list[int]:
    return [number for number in range(newest + 1) if is_kept(number, newest, mode, KEEP)]


def sketch_files(recorded: RecordedRun) -> list[Path]:
    return sorted(recorded.run_dir.spool.glob("*.sketch"))


def train(home: Path, server: SketchServer, mode: SnapshotMode, kills: list[int]) -> RecordedRun:
    """T checkpoints, each worked off before the next comes, by agents that are killed at their n-th change."""
    (home / "token").parent.mkdir(mode=0o700, exist_ok=True)
    (home / "token").write_text(TOKEN + "\n")
    recorded = record_run(home, server.address, checkpoints=0)
    ask_for(recorded, server.address, mode, "running")
    owner = ProcessLock(recorded.run_dir.owner_lock)
    assert owner.acquire()
    moments = itertools.chain(kills, itertools.repeat(0))
    agents: list[subprocess.Popen[bytes]] = []

    def is_done(number: int) -> bool:
        if not agents or agents[-1].poll() is not None:
            assert not agents or agents[-1].returncode == -signal.SIGKILL
            with recorded.run_dir.agent_log.open("ab") as log:
                command = [sys.executable, "-P", KILLED_AGENT, str(recorded.run_dir.path), str(next(moments))]
                agents.append(subprocess.Popen(command, stdout=log, stderr=log))
        is_handed_in = recorded.run_dir.acked() == number + 1 and not sketch_files(recorded)
        return is_handed_in and kept(recorded) == planned(number, mode)

    try:
        for number in range(T):
            recorded.add(step=10 * number, previous=number - 1 if number else None)
            wait_until(partial(is_done, number), f"checkpoint {number}", 120)
    finally:
        owner.release()
        for agent in agents:
            agent.kill()
            agent.wait(10)
    assert len(agents) == len(kills) + 1, "not every moment came"
    return recorded


@pytest.mark.parametrize("mode", ["anchored", "sketch"])
def test_killed_at_any_moment_agents_hand_in_the_same(tmp_path: Path, mode: SnapshotMode) -> None:
    with serving(SketchServer()) as server, serving(SketchServer()) as other:
        undisturbed = train(tmp_path / "one", server, mode, [])
        train(tmp_path / "two", other, mode, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15])
    assert sorted(server.sketches) == list(range(T))
    assert other.sketches == server.sketches
    assert other.run("run").records == server.run("run").records
    # What is known exactly is right, and only what was planned is not known.
    gram = undisturbed.expected_gram(T)
    for number, row in enumerate(server.run("run").rows):
        at_hand = [n in (*planned(number - 1, mode), number) for n in range(number + 1)]
        np.testing.assert_array_equal(~np.isnan(row.gram), np.tile(at_hand, (len(SHAPES), 1)))
        np.testing.assert_allclose(row.gram[:, at_hand], gram[:, number, : number + 1][:, at_hand], atol=1e-9)
        lacks_some = LayerStatus.EXACT if all(at_hand) else LayerStatus.NOT_KEPT
        assert (row.status == lacks_some).all()
        np.testing.assert_array_equal(server.sketch(number).norms, row.gram[:, -1])
        assert not np.isnan(server.sketch(number).gram).any()
        # Norm and angle of the update rest on the last two.
        assert not np.isnan(row.products[:, : min(number, 2)]).any()


def test_each_sketch_comes_before_its_row_and_not_far_ahead(home: Path) -> None:
    server = SketchServer(most_ahead=3)
    recorded = record_run(home, server.address, checkpoints=12)
    ask_for(recorded, server.address, "anchored")
    # Down for long: everything is made meanwhile.
    assert sync(recorded.run_dir.path, IMPATIENT) == 12
    assert len(sketch_files(recorded)) == 12
    with serving(server):
        assert run_agent(recorded.run_dir) == 0
    assert server.order == [(kind, n) for n in range(12) for kind in ("sketch", "row")]


def test_a_sketch_that_is_damaged_in_the_spool_is_made_again(home: Path) -> None:
    server = SketchServer()
    recorded = record_run(home, server.address, checkpoints=5)
    ask_for(recorded, server.address, "anchored")
    assert sync(recorded.run_dir.path, IMPATIENT) == 5
    whole = [file.read_bytes() for file in sketch_files(recorded)]
    for number in (3, 4):
        sketch_files(recorded)[number].write_bytes(whole[number][:-1] + bytes([whole[number][-1] ^ 1]))
    with serving(server):
        assert sync(recorded.run_dir.path) == 0
    assert [server.sketches[number] for number in range(5)] == whole


def test_a_sketch_that_is_damaged_where_it_is_kept_stops_nothing(home: Path) -> None:
    with serving(SketchServer()) as server:
        recorded = record_run(home, server.address, checkpoints=T)
        ask_for(recorded, server.address, "anchored")
        assert run_agent(recorded.run_dir) == 0
        before = dict(server.sketches)
        assert kept(recorded) == [0, 4, 7, 8]
        files = [recorded.run_dir.sketches / f"{number:08d}.snap" for number in range(T)]
        whole = files[4].read_bytes()
        # One of a snapshot that is kept, whose neighbours are not, and one that nothing can make again.
        files[4].write_bytes(b"")
        files[2].write_bytes(files[2].read_bytes()[:-1])
        recorded.add(step=10 * T, previous=T - 1)
        assert run_agent(recorded.run_dir) == 0
    assert (read_json(recorded.run_dir.agent_file) or {})["problem"] == ""
    assert {number: server.sketches[number] for number in before} == before
    assert files[4].read_bytes() == whole
    known = ~np.isnan(server.sketch(T).gram)
    np.testing.assert_array_equal(known, np.tile([n != 2 for n in range(T + 1)], (len(SHAPES), 1)))


def test_a_server_without_sketches_gets_the_rows(home: Path) -> None:
    with serving(SketchServer(takes_sketches=False)) as server:
        recorded = record_run(home, server.address, checkpoints=12)
        ask_for(recorded, server.address, "exact")
        # With room for few sketches: rows must not wait for those that nobody takes.
        settings = AgentSettings(linger_seconds=5.0, spool_cap_bytes=60_000)
        assert sync(recorded.run_dir.path, settings) == 0
        assert server.sketches == {}
        assert_rows_equal(server.run("run"), recorded)
        waiting = sketch_files(recorded)
        assert 0 < sum(file.stat().st_size for file in waiting) <= 30_000
    # A server that takes them gets those that are left.
    server = SketchServer()
    ask_for(recorded, server.address, "exact")
    with serving(server):
        sync(recorded.run_dir.path)
    assert {f"{number:08d}.sketch" for number in server.sketches} >= {file.name for file in waiting}


def test_a_sketch_that_the_server_has_otherwise_is_left_at_that(home: Path) -> None:
    with serving(SketchServer()) as server:
        server.sketches[1] = b"another"
        recorded = record_run(home, server.address, checkpoints=3)
        ask_for(recorded, server.address, "exact")
        assert run_agent(recorded.run_dir) == 0
    assert_rows_equal(server.run("run"), recorded)
    assert server.sketches[1] == b"another"
    assert sketch_files(recorded) == []


def test_a_server_that_has_nothing_gets_sketches_again(home: Path) -> None:
    with serving(SketchServer()) as server:
        recorded = record_run(home, server.address, checkpoints=10)
        ask_for(recorded, server.address, "exact")
        assert run_agent(recorded.run_dir) == 0
    with serving(SketchServer()) as other:
        ask_for(recorded, other.address, "exact")
        recorded.add(step=100, previous=9)
        assert run_agent(recorded.run_dir) == 0
    assert other.run("run").records.keys() == set(range(11))
    assert {number: other.sketches[number] for number in server.sketches} == server.sketches


def test_room_is_made_without_a_new_checkpoint(home: Path) -> None:
    """Training whose budget is used up records none before there is room."""
    with serving(SketchServer()) as server:
        recorded = record_run(home, server.address, checkpoints=10)
        ask_for(recorded, server.address, "exact")
        owner = ProcessLock(recorded.run_dir.owner_lock)
        assert owner.acquire()
        agent = subprocess.Popen([sys.executable, "-P", "-m", "trajmon.agent", str(recorded.run_dir.path)])
        try:
            wait_until(lambda: recorded.run_dir.acked() == 10, "ten rows")
            assert kept(recorded) == list(range(10))
            modes: tuple[SnapshotMode, ...] = ("anchored", "sketch")
            for mode in modes:
                ask_for(recorded, server.address, mode, "running")
                wait_until(partial(has_kept, recorded, planned(9, mode)), mode)
        finally:
            agent.kill()
            agent.wait(10)
            owner.release()


def row_maker(recorded: RecordedRun) -> RowMaker:
    maker = RowMaker(recorded.run_dir, recorded.description, recorded.store, threads=1)
    maker.sketch_from_here(Spool.of_sketches(recorded.run_dir.spool))
    return maker


def test_after_a_resume_the_last_two_of_the_path_are_kept(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=10)
    maker = row_maker(recorded)
    list(maker.make_many(range(10)))
    maker.thin(9, "sketch", 2)
    assert kept(recorded) == [8, 9]
    # The next attempt goes on from checkpoint 8.
    for number, previous in ((10, 8), (11, 10)):
        recorded.add(step=10 * number, previous=previous, attempt=2)
        row = decode(maker.make(number))
        maker.thin(number, "sketch", 2)
    assert kept(recorded) == [10, 11]
    assert row.header.previous == 10
    values = [recorded.parameters[n]["norm.weight"].astype(np.float64) for n in (8, 10, 11)]
    dot = (values[2] - values[1]) @ (values[1] - values[0])
    assert row.products[1, 1] == pytest.approx(dot, rel=1e-12)


def test_a_snapshot_that_is_lost_does_not_hide_which_were_not_kept(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=T)
    maker = row_maker(recorded)
    list(maker.make_many(range(T)))
    maker.thin(T - 1, "anchored", KEEP)
    assert kept(recorded) == [0, 4, 7, 8]
    recorded.store.path(4).write_bytes(b"")
    recorded.add(step=10 * T, previous=T - 1)
    maker = row_maker(recorded)
    row = decode(maker.make(T))
    assert np.flatnonzero(~np.isnan(row.gram[0])).tolist() == [0, 7, 8, 9]
    # Estimates are made for a row of this status alone.
    assert (row.status == LayerStatus.NOT_KEPT).all()
    assert maker.unreadable == (4,)


def test_headers_of_all_checkpoints_stay(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=10)
    maker = row_maker(recorded)
    list(maker.make_many(range(10)))
    maker.thin(9, "sketch", 2)
    headers = recorded.store.headers()
    assert [headers[n].previous for n in range(10)] == [None, *range(9)]
    assert isinstance(headers[3], SnapshotHeader)
    assert recorded.store.kept_bytes() == 2 * recorded.store.path(9).stat().st_size
