"""Several servers' insides on one store: runs change hands, and the store fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from obstore.store import MemoryStore

from support.peers import CALLER, Peer, Peers
from support.rows import Cut, SyntheticRun
from support.sketched_rows import SketchedRun
from trajmon_server.errors import NotFound, ServiceError, Unavailable
from trajmon_server.runs.run import Run
from trajmon_server.store.errors import JournalUnavailableError, StoreError
from trajmon_server.store.objects import Found, Objects, Part


class FailingObjects(Objects):
    """Fails where it is told to, before a call or after it went through."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store, "memory://")
        self.fails: dict[tuple[str, str], str] = {}
        """By method and a part of the key: "before" or "after"."""

    def _check(self, method: str, key: str, when: str) -> None:
        for (name, part), moment in self.fails.items():
            if name == method and part in key and moment == when:
                raise JournalUnavailableError(f"cannot {method} {key}: no answer")

    def get(self, key: str) -> Found:
        self._check("get", key, "before")
        return super().get(key)

    def part(self, key: str, offset: int, size: int) -> Part:
        self._check("part", key, "before")
        return super().part(key, offset, size)

    def tags(self, prefix: str) -> dict[str, str]:
        self._check("tags", prefix, "before")
        return super().tags(prefix)

    def create(self, key: str, data: bytes) -> str | None:
        self._check("create", key, "before")
        done = super().create(key, data)
        self._check("create", key, "after")
        return done

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        self._check("replace", key, "before")
        done = super().replace(key, data, tag)
        self._check("replace", key, "after")
        return done


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    with ThreadPoolExecutor(8) as executor:
        yield Peers(tmp_path, executor)


async def refused(reason: str, peer: Peer, run: SyntheticRun, checkpoint: int) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await peer.push(run, run.record(checkpoint))
    assert caught.value.reason == reason, caught.value
    return caught.value


# A lease whose answer was lost


@pytest.mark.parametrize("calls", [True, False])
def test_an_acquisition_without_an_answer_does_not_lock_a_run_away(peers: Peers, calls: bool) -> None:
    async def scenario() -> None:
        run, failing = SyntheticRun("no-answer"), FailingObjects(peers.store)
        opener, first, second = peers.add("opener"), peers.add("first", failing), peers.add("second")
        await opener.open(run)
        await opener.push(run, run.record(0))
        opener.leases.end()
        await first.round()
        failing.fails["replace", "leases/runs"] = "after"
        await refused("LEASE_UNAVAILABLE", first, run, 1)
        failing.fails.clear()
        # The agent goes elsewhere and stays there; or nobody calls at all.
        if calls:
            await refused("NOT_HERE", second, run, 1)
        await (first.replica.attend() if calls else first.replica.follow())
        assert (await second.push(run, run.record(1))).next_checkpoint == 2

    peers.play(scenario())


def test_a_release_without_an_answer_can_be_made_up_for(peers: Peers) -> None:
    async def scenario() -> None:
        run, failing = SyntheticRun("released"), FailingObjects(peers.store)
        first, second = peers.add("first", failing), peers.add("second")
        await first.open(run)
        await first.push(run, run.record(0))
        await refused("NOT_HERE", second, run, 1)
        first.replica._called.clear()
        failing.fails["replace", "leases/runs"] = "before"
        with pytest.raises(StoreError):
            await first.replica.attend()
        failing.fails.clear()
        await first.round()
        assert (await second.push(run, run.record(1))).next_checkpoint == 2

    peers.play(scenario())


def test_a_run_whose_opening_failed_can_be_opened_at_another_server(peers: Peers) -> None:
    async def scenario() -> None:
        run, failing = SyntheticRun("half-open"), FailingObjects(peers.store)
        first, second = peers.add("first", failing), peers.add("second")
        failing.fails["create", "control.json"] = "before"
        with pytest.raises(Unavailable):
            await first.open(run)
        with pytest.raises(Unavailable, match="first holds the run"):
            await second.open(run)
        first.replica._called.clear()
        await first.replica.attend()
        assert (await second.open(run)).control.writer_epoch == 1
        assert (await second.push(run, run.record(0))).next_checkpoint == 1
        assert second.registry.event_counts().get("rebuilt_controls", 0) == 0

    peers.play(scenario())


def test_a_lease_that_cannot_be_read_stops_nothing_else(peers: Peers) -> None:
    async def scenario() -> None:
        runs = [SyntheticRun(f"run-{n}", seed=n) for n in range(12)]
        first, second = peers.add("first"), peers.add("second")
        for run in runs:
            await first.open(run)
        for run in runs[:11]:
            key = f"leases/runs/{run.run_id}.json"
            found = peers.objects().get(key)
            assert peers.objects().replace(key, b"nonsense", found.tag)
        await second.round()
        await first.push(runs[11], runs[11].record(0))
        await second.round()
        assert second.run(runs[11]).num_checkpoints == 1

    peers.play(scenario())


def test_a_run_that_was_held_and_not_taken_up_is_tried_again(peers: Peers) -> None:
    async def scenario() -> None:
        run, failing = SyntheticRun("not-adopted"), FailingObjects(peers.store)
        first, heir = peers.add("first"), peers.add("heir", failing)
        await first.open(run)
        await heir.round()
        first.leases.end()
        failing.fails["replace", "control.json"] = "before"
        await refused("LEASE_UNAVAILABLE", heir, run, 0)
        assert heir.leases.holds(run.run_id)
        failing.fails.clear()
        await heir.round()
        await heir.replica.attend()
        assert heir.run(run).is_ours

    peers.play(scenario())


def test_a_server_without_the_store_shows_no_run_as_its_own(peers: Peers) -> None:
    async def scenario() -> None:
        run, failing = SyntheticRun("cut-off"), FailingObjects(peers.store)
        first = peers.add("first", failing)
        await first.open(run)
        await first.round()
        assert first.run(run).is_ours
        assert first.replica.problem() == ""
        peers.time[0] += 7.0
        failing.fails["tags", ""] = "before"
        with pytest.raises(StoreError):
            await first.replica.attend()
        assert not first.run(run).is_ours
        assert "no lease can be renewed" in first.replica.problem()

    peers.play(scenario())


def test_agents_that_call_for_a_run_at_two_servers_each_get_their_turn(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        for name, seconds in (("IDLE_SECONDS", 60.0), ("_TURN_SECONDS", 0.5), ("_ASK_SECONDS", 0.0)):
            monkeypatch.setattr(f"trajmon_server.runs.replicas.{name}", seconds)
        run, first, second = SyntheticRun("both-doors"), peers.add("first"), peers.add("second")
        await first.open(run)
        await first.push(run, run.record(0))
        refusals = 0
        while refusals < 40:
            try:
                await second.push(run, run.record(1))
                break
            except Unavailable:
                refusals += 1
                await asyncio.sleep(0.05)
                await first.push(run, run.record(0))
                await first.replica.attend()
        else:
            pytest.fail("the second server was never given the run")
        assert refusals > 1
        # Now it is the first one's turn to wait.
        await refused("NOT_HERE", first, run, 1)

    peers.play(scenario())


def test_a_run_that_cannot_be_read_now_keeps_no_other_from_being_followed(peers: Peers) -> None:
    async def scenario() -> None:
        known, late, failing = SyntheticRun("known"), SyntheticRun("late"), FailingObjects(peers.store)
        first, second = peers.add("first"), peers.add("second", failing)
        await first.open(known)
        await second.round()
        await first.open(late)
        await first.push(known, known.record(0))
        failing.fails["get", f"{late.run_id}/run.json"] = "before"
        with pytest.raises(StoreError):
            await second.round()
        assert second.run(known).num_checkpoints == 1
        failing.fails.clear()
        await second.round()
        assert second.registry.is_known(late.run_id)

    peers.play(scenario())


def test_rounds_and_renewals_go_on_whatever_fails(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        first = Peer(peers.folder, peers.executor, peers.objects(), "first", peers.time)
        monkeypatch.setattr(first.leases, "seconds", 0.2)
        peers.all.append(first)
        calls: dict[str, int] = {}

        def failing(name: str) -> Callable[[], bool]:
            def fail() -> bool:
                calls[name] = calls.get(name, 0) + 1
                raise RuntimeError("of a kind that nobody has thought of")

            return fail

        for name in ("renew", "look_around"):
            monkeypatch.setattr(first.leases, name, failing(name))
        await first.replica.start()
        try:
            while min(calls.get("renew", 0), calls.get("look_around", 0)) < 3:
                await asyncio.sleep(0.02)
        finally:
            await first.replica.stop()
        assert first.registry.event_counts()["lease_not_renewed"] >= 3
        assert first.registry.event_counts()["following_failed"] >= 3

    peers.play(scenario())


# What is known of a run


@pytest.mark.parametrize("what", ["run.json", "rows"])
def test_a_run_that_could_not_be_read_is_no_new_run(peers: Peers, what: str) -> None:
    async def scenario() -> None:
        run, failing = SyntheticRun("unread"), FailingObjects(peers.store)
        first, second = peers.add("first"), peers.add("second", failing)
        await first.open(run)
        for checkpoint in range(3):
            await first.push(run, run.record(checkpoint))
        first.leases.end()
        failing.fails["part" if what == "rows" else "get", what] = "before"
        with pytest.raises(Unavailable):
            await second.open(run)
        with pytest.raises(Unavailable):
            await second.push(run, run.record(3))
        failing.fails.clear()
        assert (await second.open(run)).next_for("") == 3
        assert (await second.push(run, run.record(3), epoch=2)).next_checkpoint == 4

    peers.play(scenario())


def test_a_damaged_description_is_not_written_over(peers: Peers) -> None:
    async def scenario() -> None:
        run, first = SyntheticRun("damaged-description"), peers.add("first")
        await first.open(run)
        await first.push(run, run.record(0))
        first.leases.end()
        key = f"{run.run_id}/run.json"
        assert peers.objects().replace(key, b"{", peers.objects().get(key).tag)
        second = peers.add("second")
        for _ in range(2):
            with pytest.raises(Unavailable, match="is not JSON"):
                await second.open(run)
        await second.round()
        await second.round()
        assert peers.objects().get(key).data == b"{"
        assert second.registry.event_counts()["unreadable_runs"] == 1

    peers.play(scenario())


def test_a_run_that_is_being_opened_elsewhere_is_not_yet_there(peers: Peers) -> None:
    async def scenario() -> None:
        run, failing = SyntheticRun("being-opened"), FailingObjects(peers.store)
        first, second = peers.add("first", failing), peers.add("second")
        failing.fails["create", "control.json"] = "before"
        with pytest.raises(Unavailable):
            await first.open(run)
        await second.round()
        assert second.registry.get(run.run_id) is None
        failing.fails.clear()
        await first.open(run)
        await second.round()
        assert second.run(run).control.writer_epoch == 1
        assert second.registry.event_counts() == {}

    peers.play(scenario())


def test_a_row_that_was_set_aside_is_asked_for_by_whoever_writes_next(peers: Peers) -> None:
    async def scenario() -> None:
        run, first, second = SyntheticRun("set-aside"), peers.add("first"), peers.add("second")
        await first.open(run)
        for checkpoint in range(4):
            await first.push(run, run.record(checkpoint))
        await second.round()
        assert second.run(run).num_checkpoints == 4
        first.journal.set_aside(run.run_id, 2, "test")
        first.leases.end()
        assert (await second.open(run)).next_for("") == 2
        await second.push(run, run.record(2), epoch=2)
        assert [key.checkpoint for key in second.journal.list_rows(run.run_id)] == [0, 1, 2, 3]

    peers.play(scenario())


def test_a_damaged_header_neither_bends_the_path_nor_stops_the_follower(peers: Peers) -> None:
    async def scenario() -> None:
        run, first, second = SyntheticRun("bent"), peers.add("first"), peers.add("second")
        await first.open(run)
        for checkpoint in range(3):
            await first.push(run, run.record(checkpoint))
        await second.round()
        for checkpoint in (3, 4):
            await first.push(run, run.record(checkpoint))
        key = f"{run.run_id}/rows/00000003.0000.row"
        stored = peers.objects().get(key)
        row = run.row(3)
        row.header.previous = 7
        header = row.header.SerializeToString()
        assert len(header) == len(run.row(3).header.SerializeToString())
        start = stored.data.index(run.row(3).header.SerializeToString())
        damaged = stored.data[:start] + header + stored.data[start + len(header) :]
        assert peers.objects().replace(key, damaged, stored.tag)
        await second.round()
        assert sorted(second.run(run).metas) == [0, 1, 2, 4]
        assert second.run(run).path == (0, 1, 2, 3, 4)

    peers.play(scenario())


def test_sketch_parts_that_were_added_up_behind_their_row_are_seen(peers: Peers) -> None:
    async def scenario() -> None:
        run, first, second = SketchedRun("late-sketch"), peers.add("first"), peers.add("second")
        await first.open(run)
        for checkpoint in range(4):
            if checkpoint != 2:
                await first.push(run, run.sketch_record(checkpoint))
            await first.push(run, run.record(checkpoint))
        await second.round()
        await first.push(run, run.sketch_record(2))
        for _ in range(13):
            await second.round()
        assert second.run(run).sketches.known == {0, 1, 2, 3}
        assert second.run(run).journal_bytes == first.run(run).journal_bytes

    peers.play(scenario())


def test_bytes_are_counted_right_by_who_follows(peers: Peers) -> None:
    async def scenario() -> None:
        run, first, second = SyntheticRun("counted"), peers.add("first"), peers.add("second")
        cut = Cut.of(run, 2)
        for part in range(2):
            await first.ingest.open_run(run.part_request(cut, part), CALLER)
        for checkpoint in range(6):
            for part in range(2):
                await first.push_part(run, cut, part, run.part_record(checkpoint, cut, part))
                await second.round()
        stored = sum(key.size_bytes for key in first.journal.list_rows(run.run_id))
        assert second.run(run).journal_bytes == first.run(run).journal_bytes == stored

    peers.play(scenario())


def test_maps_of_before_show_what_was_healed_meanwhile(peers: Peers) -> None:
    async def scenario() -> None:
        run, first, second = SyntheticRun("healed-away"), peers.add("first"), peers.add("second")
        await first.open(run)
        for checkpoint in range(5):
            await first.push(run, run.record(checkpoint))
        first.journal.set_aside(run.run_id, 2, "test")
        first.run(run).lose(2)
        await second.round()
        assert np.isnan((await second.gram(run))[2, 2])
        await second.worker.stop()
        second.leases.end()
        await first.push(run, run.record(2))
        back = peers.add("second")
        await back.round()
        flat = run.parameters[:5].reshape(5, -1)
        np.testing.assert_allclose(await back.gram(run), flat @ flat.T, rtol=1e-13)

    peers.play(scenario())


# The fence


def test_a_server_that_follows_can_still_not_replace_what_the_writer_has_put(peers: Peers) -> None:
    async def scenario() -> None:
        run, first, heir = SyntheticRun("fenced"), peers.add("first"), peers.add("heir")
        await first.open(run)
        peers.pass_time(8, [heir])
        await heir.open(run)
        await first.round()
        with pytest.raises(StoreError, match="another server has changed"):
            first.journal.put_run_file(run.run_id, "control", {"of": "before"})
        await heir.push(run, run.record(0), epoch=2)

    peers.play(scenario())


def test_a_run_is_ready_only_in_the_epoch_in_which_it_was_taken_up(peers: Peers) -> None:
    async def scenario() -> None:
        run, first, second = SyntheticRun("epochs"), peers.add("first"), peers.add("second")
        await first.open(run)
        # Let go and taken by another without the first one's ingest being told.
        first.leases.release(run.run_id)
        await second.open(run)
        second.leases.release(run.run_id)
        first.leases.acquire(run.run_id)
        with pytest.raises(Unavailable):
            first.replica.confirm(run.run_id)
        await refused("FENCED", first, run, 0)  # the second has raised the writer's epoch

    peers.play(scenario())


# Many calls at once, calls that are given up, and hostile ones


def test_a_run_that_many_call_for_is_read_once(peers: Peers) -> None:
    async def scenario() -> None:
        run, first, second = SyntheticRun("herd"), peers.add("first"), peers.add("second")
        await first.open(run)
        await first.push(run, run.record(0))
        reads: list[str] = []
        read = second.registry.read

        def counted(run_id: str, *, as_writer: bool = False) -> Run | None:
            reads.append(run_id)
            return read(run_id, as_writer=as_writer)

        second.registry.read = counted  # type: ignore[method-assign]
        calls = [asyncio.create_task(second.push(run, run.record(0))) for _ in range(20)]
        await asyncio.sleep(0)
        calls[0].cancel()  # whoever gives up stops nobody else
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert len(reads) == 1
        assert {getattr(outcome, "reason", None) for outcome in outcomes[1:]} == {"NOT_HERE"}

    peers.play(scenario())


@pytest.mark.parametrize(
    "run_id",
    ["", "../leases", "A" * 32, "a" * 33, "x" * 100_000, "\x00" * 32],
    ids=["empty", "path", "capitals", "long", "huge", "zeros"],
)
def test_what_is_no_run_id_is_not_asked_for(peers: Peers, run_id: str) -> None:
    async def scenario() -> None:
        first = peers.add("first")
        with pytest.raises(NotFound):
            await first.ingest.push(run_id, 1, SyntheticRun("x").record(0), CALLER)
        assert first.registry.event_counts() == {}

    peers.play(scenario())


def test_calls_for_runs_that_there_are_not_leave_nothing(peers: Peers) -> None:
    async def scenario() -> None:
        run, first = SyntheticRun("none"), peers.add("first")
        await first.open(run)
        await first.round()
        before = [key for key, _ in peers.objects().list("")]
        locks = len(first.journal._files._locks)
        for number in range(50):
            with pytest.raises(NotFound):
                await first.ingest.push(f"{number:032x}", 1, run.record(0), CALLER)
        assert [key for key, _ in peers.objects().list("")] == before
        assert len(first.journal._files._locks) == locks

    peers.play(scenario())


def test_openings_under_a_name_that_is_taken_leave_nothing(peers: Peers) -> None:
    async def scenario() -> None:
        first, second = peers.add("first"), peers.add("second")
        await first.open(SyntheticRun("taken"))
        before = [key for key, _ in peers.objects().list("")]
        for seed in range(1, 20):
            with pytest.raises(ServiceError) as caught:
                await second.open(SyntheticRun("taken", seed=seed))
            assert caught.value.reason == "NAME_TAKEN"
        assert [key for key, _ in peers.objects().list("")] == before

    peers.play(scenario())
