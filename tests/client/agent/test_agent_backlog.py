"""An agent that is behind: rows together, and how far it is behind, said everywhere."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from client.agent.notes import agent_note  # noqa: TID251 # tests/client, on the path of the tests
from client.recording import (  # noqa: TID251 # tests/client, on the path of the tests
    IngestServer,
    RecordedRun,
    assert_rows_equal,
    names,
    record_run,
    run_agent,
    start_agent,
    wait_until,
)
from trajmon._files import ProcessLock
from trajmon._settings import AgentSettings
from trajmon.agent.loop import Agent
from trajmon.agent.rows import MOST_TOGETHER, RowMaker
from trajmon.cli.behind import behind
from trajmon.cli.checks import Check, run_checks
from trajmon.rundir import AgentNote
from trajmon.snapshots.format import SnapshotHeader
from trajmon_protos.record import payload_bytes


def row_files(first: int, stop: int) -> list[str]:
    return [f"{number:08d}.row" for number in range(first, stop)]


def check_of(recorded: RecordedRun) -> Check:
    name = f"run {recorded.run_dir.path.name}"
    return next(check for check in run_checks(recorded.run_dir.home, "127.0.0.1:9") if check.name == name)


def wait_for_a_row_more(recorded: RecordedRun, rows: int) -> None:
    wait_until(lambda: len(names(recorded.run_dir.spool)) > rows, "another row")


def rewrite_time(recorded: RecordedRun, number: int, seconds_ago: float) -> None:
    """Let a checkpoint be recorded some time ago."""
    header, data = recorded.store.header(number), bytes(recorded.store.data(number))
    changed = SnapshotHeader(
        header.checkpoint,
        header.attempt,
        header.step,
        header.fingerprint,
        header.previous,
        time_unix_seconds=time.time() - seconds_ago,
    )
    recorded.store.write(number, changed, memoryview(data), durable=False)


def test_what_waits_is_worked_on_together(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=MOST_TOGETHER + 5)
    agent = Agent(recorded.run_dir, AgentSettings())
    assert agent._next_rows()
    assert names(recorded.run_dir.spool) == row_files(0, MOST_TOGETHER)
    assert agent._next_rows()
    assert names(recorded.run_dir.spool) == row_files(0, MOST_TOGETHER + 5)
    assert not agent._next_rows()


def test_records_are_the_same_together_and_one_by_one(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=6)
    recorded.add(step=15, previous=1, attempt=2)
    recorded.add(step=25, previous=6, attempt=2)
    recorded.store.path(4).unlink()
    one, many = (RowMaker(recorded.run_dir, recorded.description, recorded.store, threads=1) for _ in "ab")
    alone = [(number, one.make(number)) for number in range(8)]
    assert list(many.make_many(range(8))) == alone
    assert many.unreadable == (4,)
    after = RowMaker(recorded.run_dir, recorded.description, recorded.store, threads=2)
    assert list(after.make_many(range(3, 8))) == alone[3:]


def test_together_does_not_go_past_the_spools_cap(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=8)
    layers = len(recorded.description.layout.layers)
    cap = sum(payload_bytes(layers, number) for number in range(3)) + 1
    agent = Agent(recorded.run_dir, AgentSettings(spool_cap_bytes=cap))
    assert agent._next_rows()
    assert names(recorded.run_dir.spool) == row_files(0, 4)
    assert not agent._next_rows()


def test_a_row_in_the_spool_is_not_made_again(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=6)
    agent = Agent(recorded.run_dir, AgentSettings())
    assert agent._next_rows()
    (recorded.run_dir.spool / "00000002.row").unlink()
    kept = {file: file.stat().st_ino for file in recorded.run_dir.spool.iterdir()}
    agent = Agent(recorded.run_dir, AgentSettings())
    assert agent._next_rows()
    assert names(recorded.run_dir.spool) == row_files(0, 6)
    assert {file: file.stat().st_ino for file in kept} == kept
    assert not agent._next_rows()


def test_many_large_rows_are_not_summed_at_once(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=1)
    maker = RowMaker(recorded.run_dir, recorded.description, recorded.store, threads=1)
    assert maker.most_together(0) == MOST_TOGETHER
    assert maker.most_together(10**6) == 2
    assert maker.most_together(10**8) == 1


def test_an_agent_killed_while_it_works_off_a_backlog_loses_nothing(home: Path, server: IngestServer) -> None:
    server.stop()
    recorded = record_run(home, server.address, checkpoints=60)
    chance = random.Random(2)
    kept: dict[str, bytes] = {}
    for _ in range(4):
        with start_agent(recorded.run_dir) as agent:
            wait_for_a_row_more(recorded, len(kept))
            time.sleep(chance.uniform(0.0, 0.02))
            agent.kill()
        rows = {
            name: (recorded.run_dir.spool / name).read_bytes()
            for name in row_files(0, 60)
            if (recorded.run_dir.spool / name).exists()
        }
        assert list(rows) == row_files(0, len(rows))
        assert {name: rows[name] for name in kept} == kept
        kept = rows
        if len(kept) == 60:
            break
    server.start()
    assert run_agent(recorded.run_dir) == 0
    assert len(server.run("run").rows) == 60
    assert_rows_equal(server.run("run"), recorded)


def test_the_agent_says_how_far_it_is_behind(home: Path, server: IngestServer) -> None:
    server.stop()
    recorded = record_run(home, server.address, checkpoints=5)
    for number in range(5):
        rewrite_time(recorded, number, 100.0 - number)
    owner = ProcessLock(recorded.run_dir.owner_lock)
    assert owner.acquire()
    with start_agent(recorded.run_dir) as agent:
        wait_until(lambda: len(names(recorded.run_dir.spool)) == 5, "all rows")
        wait_until(lambda: agent_note(recorded.run_dir)["uncomputed"] == 0, "the note")
        lag = agent_note(recorded.run_dir)["lag_seconds"]
        assert isinstance(lag, float)
        assert 100.0 <= lag < 200.0
        server.start()
        wait_until(lambda: recorded.run_dir.acked() == 5, "all acknowledgements")
        wait_until(lambda: agent_note(recorded.run_dir)["lag_seconds"] == 0.0, "no lag")
        owner.release()
        assert agent.wait(60) == 0


def test_the_oldest_checkpoint_moves_on_with_the_acknowledgements(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=4)
    agent = Agent(recorded.run_dir, AgentSettings())
    agent._backlog.update(agent._drain.look(), over=False)
    seen = agent._progress.seen
    assert (seen.recorded, seen.uncomputed, seen.oldest_unacked_unix_seconds) == (4, 4, 1e9)
    assert agent._next_rows()
    agent._progress.advance(2)
    agent._backlog.update(agent._drain.look())
    seen = agent._progress.seen
    assert (seen.recorded, seen.uncomputed, seen.oldest_unacked_unix_seconds) == (4, 0, 1e9 + 20)
    recorded.store.path(2).write_bytes(b"no snapshot")
    agent = Agent(recorded.run_dir, AgentSettings())
    agent._backlog.update(agent._drain.look(), over=True)
    seen = agent._progress.seen
    assert (seen.training_over, seen.oldest_unacked_unix_seconds) == (True, 1e9 + 30)
    agent._progress.advance(4)
    agent._backlog.update(agent._drain.look())
    assert (agent._progress.seen.training_over, agent._progress.seen.oldest_unacked_unix_seconds) == (
        True,
        0.0,
    )
    recorded.add(step=40, previous=3)
    agent._backlog.update(agent._drain.look())
    assert (agent._progress.seen.training_over, agent._progress.seen.recorded) == (False, 5)


def test_doctor_says_what_is_behind_and_what_keeps_it(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=4)
    run_dir = recorded.run_dir
    agent = Agent(run_dir, AgentSettings())
    assert agent._next_rows()
    agent._progress.advance(2)
    recorded.add(step=40, previous=3)
    for number in (2, 3, 4):
        rewrite_time(recorded, number, 420.0 - number)
    found = behind(run_dir.path)
    assert (found.checkpoints, found.uncomputed) == (3, 1)
    assert found.oldest_seconds == pytest.approx(418.0, abs=60.0)
    check = check_of(recorded)
    assert check.level == "warning"
    assert check.text.startswith("3 checkpoints wait, the oldest for ")
    assert " min, 1 without a row, 5 snapshots with " in check.text
    assert check.fix == "`trajmon sync run` sends them"
    AgentNote(pid=1, state="waiting", problem="UNAVAILABLE: no answer").write(run_dir)
    check = check_of(recorded)
    assert check.text.startswith("agent says: UNAVAILABLE: no answer; 3 checkpoints wait, the oldest for ")
    assert check.fix == f"see {run_dir.path}/agent.log"
    AgentNote(pid=1, state="working").write(run_dir)
    lock = ProcessLock(run_dir.agent_lock)
    assert lock.acquire()
    check = check_of(recorded)
    assert (check.level, check.text[:34]) == ("warning", "the agent is slower than training;")
    assert check.fix.startswith("record less often, or grant the agent more (agent_threads);")
    assert agent._next_rows()
    check = check_of(recorded)
    assert (check.level, check.text[:25]) == ("warning", "the server takes no rows;")
    agent._progress.advance(5)
    check = check_of(recorded)
    assert (check.level, check.text[:20]) == ("ok", "0 checkpoints wait, ")
    lock.release()
