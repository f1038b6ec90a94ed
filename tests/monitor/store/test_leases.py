"""Leases of several servers on one store: never two holders, whatever the delays; and hand-over when one is gone."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from trajmon_server.store.errors import StoreError
from trajmon_server.store.leases import Elsewhere, Holder, Leases
from trajmon_server.store.objects import Found, Objects

SECONDS = 6.0
RUNS = ("a" * 32, "b" * 32)


@dataclass
class Clock:
    """True time, and what one machine's clock makes of it."""

    true: list[float]
    offset: float = 0.0
    rate: float = 1.0

    def __call__(self) -> float:
        return self.offset + self.rate * self.true[0]


@dataclass
class World:
    """Servers on one store and one true time."""

    count: int
    true: list[float] = field(default_factory=lambda: [1000.0])
    store: MemoryStore = field(default_factory=MemoryStore)
    servers: list[Leases] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number in range(self.count):
            self.add(number)

    def add(self, number: int, objects: Objects | None = None) -> Leases:
        # Clocks that were set wrong, and that run off by 4 % against each other at most.
        clock = Clock(self.true, offset=977.0 * number, rate=1.0 + 0.02 * (number % 3 - 1))
        leases = Leases(objects or Objects(self.store, "memory"), f"server-{number}", SECONDS, clock)
        leases.begin()
        self.servers.append(leases)
        return leases

    def sleep(self, seconds: float, *renewing: Leases) -> None:
        """Let time pass; only these servers renew, all look around."""
        for _ in range(round(seconds)):
            self.true[0] += 1.0
            for server in self.servers:
                if server in renewing:
                    server.renew()
                server.look_around()

    def holders(self, run_id: str) -> list[str]:
        return [server.server for server in self.servers if server.holds(run_id)]


def test_one_of_many_holds_a_run_and_keeps_it_while_it_renews() -> None:
    world = World(3)
    first, second, _ = world.servers
    assert first.acquire(RUNS[0]) == 1
    for _ in range(5):
        world.sleep(10, *world.servers)
        with pytest.raises(Elsewhere, match="server-0 holds the run"):
            second.acquire(RUNS[0])
        assert world.holders(RUNS[0]) == ["server-0"]
    assert first.acquire(RUNS[0]) == 1


def test_a_run_of_a_server_that_died_is_taken_up_after_its_lease_and_not_before() -> None:
    world = World(2)
    dead, heir = world.servers
    dead.acquire(RUNS[0])
    world.sleep(4, heir)
    with pytest.raises(Elsewhere):
        heir.acquire(RUNS[0])
    world.sleep(4, heir)
    assert heir.acquire(RUNS[0]) == 2
    assert not dead.holds(RUNS[0])
    assert world.holders(RUNS[0]) == ["server-1"]


def test_a_server_that_slept_holds_nothing_and_starts_over() -> None:
    world = World(2)
    slept, heir = world.servers
    slept.acquire(RUNS[0])
    before = slept.incarnation
    world.sleep(8, heir)
    assert not slept.holds(RUNS[0])
    assert not slept.renew()
    assert slept.incarnation != before
    assert not slept.holds(RUNS[0])
    # Its own leases of before it may take up at once: it knows that it does not use them any more.
    assert slept.acquire(RUNS[0]) == 2
    with pytest.raises(Elsewhere):
        heir.acquire(RUNS[0])


def test_what_was_given_back_can_be_taken_at_once() -> None:
    world = World(3)
    first, second, third = world.servers
    first.acquire(RUNS[0])
    first.acquire(RUNS[1])
    first.release(RUNS[0])
    assert second.acquire(RUNS[0]) == 2
    with pytest.raises(Elsewhere):
        second.acquire(RUNS[1])
    first.end()
    assert third.acquire(RUNS[1]) == 2


def test_a_server_learns_what_others_want_of_it() -> None:
    world = World(2)
    first, second = world.servers
    first.acquire(RUNS[0])
    with pytest.raises(Elsewhere) as refused:
        second.acquire(RUNS[0])
    second.ask(RUNS[0], refused.value.incarnation)
    second.ask(RUNS[0], refused.value.incarnation)
    assert second.wanted() == []
    assert first.wanted() == [RUNS[0]]
    assert first.wanted() == []


def test_the_dead_are_forgotten_and_the_living_are_known() -> None:
    world = World(3)
    first, second, dead = world.servers
    world.sleep(8, first, second)
    assert first.living() == sorted([first.incarnation, second.incarnation])
    world.sleep(200, first, second)
    keys = [key for key, _ in Objects(world.store, "memory").list("leases/servers")]
    assert len(keys) == 2
    assert dead.incarnation not in " ".join(keys)
    # Forgotten though it lived: it finds out at its next renewal.
    world.true[0] -= 200
    dead.begin()
    objects = Objects(world.store, "memory")
    objects.delete(f"leases/servers/{dead.incarnation}.json")
    assert not dead.renew()


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"holder": "x", "epoch": "many"}', b"\xff\x00"])
def test_a_lease_that_cannot_be_read_is_nobodys_and_says_so(data: bytes) -> None:
    world = World(1)
    Objects(world.store, "memory").create(f"leases/runs/{RUNS[0]}.json", data)
    with pytest.raises(StoreError, match="cannot be read"):
        world.servers[0].acquire(RUNS[0])
    assert not world.servers[0].holds(RUNS[0])


def test_a_server_with_an_unreadable_object_is_given_time() -> None:
    world = World(1)
    objects = Objects(world.store, "memory")
    objects.create("leases/servers/feedbeef.json", b"nonsense")
    objects.create(f"leases/runs/{RUNS[0]}.json", b'{"holder": "feedbeef", "epoch": 4}')
    with pytest.raises(Elsewhere):
        world.servers[0].acquire(RUNS[0])
    world.sleep(700, world.servers[0])
    assert world.servers[0].acquire(RUNS[0]) == 5
    assert world.servers[0].holder(RUNS[0]) == Holder(world.servers[0].incarnation, 5)


class BusyObjects(Objects):
    """Between a call and its answer time passes, and other servers act."""

    def __init__(self, store: MemoryStore, meanwhile: Callable[[], None]) -> None:
        super().__init__(store, "memory")
        self._meanwhile = meanwhile

    def get(self, key: str) -> Found:
        self._meanwhile()
        try:
            return super().get(key)
        finally:
            self._meanwhile()

    def create(self, key: str, data: bytes) -> str | None:
        self._meanwhile()
        try:
            return super().create(key, data)
        finally:
            self._meanwhile()

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        self._meanwhile()
        try:
            return super().replace(key, data, tag)
        finally:
            self._meanwhile()

    def tags(self, prefix: str) -> dict[str, str]:
        self._meanwhile()
        try:
            return super().tags(prefix)
        finally:
            self._meanwhile()


def test_clocks_that_run_at_other_rates_leave_no_moment_with_two_holders() -> None:
    world = World(3)
    slow, _, fast = world.servers
    slow.acquire(RUNS[0])
    fast.look_around()
    taken_after = 0.0
    for tenth in range(100):
        world.true[0] += 0.1
        with contextlib.suppress(Elsewhere):
            fast.acquire(RUNS[0])
            taken_after = taken_after or (tenth + 1) / 10
        assert len(world.holders(RUNS[0])) <= 1
    assert SECONDS < taken_after < 1.2 * SECONDS


def test_a_renewal_that_goes_through_too_late_renews_nothing() -> None:
    world = World(1)
    (heir,) = world.servers
    stage: list[Callable[[], None]] = []
    late = world.add(1, BusyObjects(world.store, lambda: stage.pop()() if stage else None))
    late.acquire(RUNS[0])
    heir.look_around()

    def others_act() -> None:
        world.true[0] += 2.0
        assert heir.acquire(RUNS[0]) == 2

    world.true[0] += 5.5
    assert heir.renew()
    stage.append(others_act)
    assert not late.renew()
    assert world.holders(RUNS[0]) == ["server-0"]


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), patience=st.floats(0.05, 3.0))
def test_there_are_never_two_holders(seed: int, patience: float) -> None:
    chance = random.Random(seed)
    world = World(0)
    depth = 0
    taken: dict[str, tuple[str, int]] = {}
    renewing: set[str] = set()

    def check() -> None:
        for run_id in RUNS:
            assert len(world.holders(run_id)) <= 1

    def act(server: Leases) -> None:
        run_id = chance.choice(RUNS)
        match chance.randrange(10):
            case 0 | 1 | 2 | 3:
                if server.server not in renewing:
                    renewing.add(server.server)
                    server.renew()
                    renewing.discard(server.server)
            case 4 | 5 | 6:
                try:
                    epoch = server.acquire(run_id)
                except Elsewhere:
                    return
                if server.holds(run_id):
                    holder = server.incarnation
                    last, last_epoch = taken.get(run_id, ("", 0))
                    assert epoch > last_epoch or (epoch == last_epoch and holder == last)
                    taken[run_id] = (holder, epoch)
            case 7:
                server.look_around()
            case 8:
                with contextlib.suppress(Elsewhere):
                    server.release(run_id)
            case 9:
                world.true[0] += patience

    def meanwhile() -> None:
        nonlocal depth
        check()
        world.true[0] += chance.expovariate(1.0) * patience / 4
        if depth < 2 and chance.random() < 0.3:
            depth += 1
            try:
                act(chance.choice(world.servers))
            finally:
                depth -= 1
        check()

    def when_all_there() -> None:
        if len(world.servers) == 3:
            meanwhile()

    for number in range(3):
        world.add(number, BusyObjects(world.store, when_all_there))
    for _ in range(60):
        act(chance.choice(world.servers))
        world.true[0] += chance.expovariate(1.0) * patience
        check()


class HeldUpObjects(Objects):
    """The next read of a server waits; the next removal lets it go on, and waits until its look is done with."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store, "memory")
        self.holds_up = False
        self.listed, self.goes_on, self.done = threading.Event(), threading.Event(), threading.Event()

    def get(self, key: str) -> Found:
        if self.holds_up and "servers" in key:
            self.holds_up = False
            self.listed.set()
            assert self.goes_on.wait(20)
        return super().get(key)

    def delete(self, key: str) -> None:
        super().delete(key)
        if self.listed.is_set():
            self.goes_on.set()
            assert self.done.wait(20)


def test_a_look_that_was_held_up_makes_no_living_server_dead() -> None:
    world = World(2)
    holder, dead = world.servers
    objects = HeldUpObjects(world.store)
    other = world.add(2, objects)
    holder.acquire(RUNS[0])
    world.sleep(29 * 6, holder, other)
    assert dead.incarnation not in other.living()
    newcomer = world.add(3)
    objects.holds_up = True

    def look() -> None:
        other.look_around()
        objects.done.set()

    thread = threading.Thread(target=look)
    thread.start()
    assert objects.listed.wait(20)
    for _ in range(12):
        world.true[0] += 1.0
        holder.renew()
        newcomer.renew()
    # While this one removes what is left of the dead server, the other look ends: it has seen an old renewal.
    with pytest.raises(Elsewhere, match="server-0 holds the run"):
        other.acquire(RUNS[0])
    assert objects.goes_on.is_set()
    thread.join(20)
    assert world.holders(RUNS[0]) == ["server-0"]
    assert holder.incarnation in other.living()


def test_a_release_makes_good_what_only_the_store_knows() -> None:
    world = World(2)
    first, second = world.servers
    objects = Objects(world.store, "memory")
    first.acquire(RUNS[0])
    objects.create(f"leases/runs/{RUNS[1]}.json", f'{{"holder": "{first.incarnation}", "epoch": 7}}'.encode())
    for run_id in RUNS:
        first.release(run_id, only_stray=True)
    assert first.holds(RUNS[0])
    assert second.acquire(RUNS[1]) == 8
    objects.delete(f"leases/runs/{RUNS[0]}.json")
    first.release(RUNS[0])
    first.release(RUNS[1])
    assert not first.holds(RUNS[0])
    assert second.holds(RUNS[1])


def test_what_was_asked_of_servers_that_are_gone_does_not_pile_up() -> None:
    world = World(2)
    first, second = world.servers
    for run_id in RUNS:
        second.ask(run_id, first.incarnation)
    first.end()
    objects = Objects(world.store, "memory")
    assert len(list(objects.list("leases/wanted"))) == 2
    world.add(2).look_around()
    assert list(objects.list("leases/wanted")) == []


@pytest.mark.parametrize("seconds", ["NaN", "-1", "0", "1e300", "Infinity"])
def test_a_server_that_tells_nonsense_of_its_leases_is_given_time(seconds: str) -> None:
    world = World(1)
    objects = Objects(world.store, "memory")
    objects.create("leases/servers/feedbeef.json", f'{{"server": "x", "seconds": {seconds}}}'.encode())
    objects.create(f"leases/runs/{RUNS[0]}.json", b'{"holder": "feedbeef", "epoch": 4}')
    world.sleep(500, world.servers[0])
    with pytest.raises(Elsewhere, match="server x holds the run"):
        world.servers[0].acquire(RUNS[0])
    world.sleep(200, world.servers[0])
    assert world.servers[0].acquire(RUNS[0]) == 5
