"""Several servers on one object store: which runs this one writes, and how it keeps up with the others."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from trajmon_server.errors import Unavailable
from trajmon_server.model import RunDescription
from trajmon_server.runs.control import CONTROL_FILE
from trajmon_server.runs.following import Follower, Known
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.run import Run
from trajmon_server.store.base import Journal
from trajmon_server.store.errors import FencedError, StoreError
from trajmon_server.store.leases import Elsewhere, Holder, Leases
from trajmon_server.store.names import Names

__all__ = ["Replica"]

log = structlog.get_logger(__name__)

A = TypeVar("A")
T = TypeVar("T")

IDLE_SECONDS: Final = 3.0
"""A run is let go on request once nobody has called for it for so long."""
_ASK_SECONDS: Final = 2.0
_SELDOM: Final = 12
"""Runs that have ended are looked at every so many rounds: they may have been resumed."""
_FENCED_TRIES: Final = 5
_AT_ONCE: Final = 8
"""Runs that are read or looked at together."""


class Replica:
    """An :class:`~trajmon_server.runs.ownership.Ownership` by leases. Used on the event loop."""

    def __init__(
        self,
        leases: Leases,
        names: Names,
        journal: Journal,
        registry: Registry,
        follower: Follower,
        executor: Executor,
        catch_up_with: Callable[[Iterable[Run]], None],
        follow_seconds: float,
    ) -> None:
        """`catch_up_with` is told of runs whose rows are to be worked off when there is time."""
        self._leases = leases
        self._names = names
        self._journal = journal
        self._registry = registry
        self._follower = follower
        self._executor = executor
        self._catch_up_with = catch_up_with
        self._follow_seconds = follow_seconds
        self._adopted: dict[str, str] = {}
        """Runs that are known as far as anything is stored of them, and under which incarnation that was so."""
        self._called: dict[str, float] = {}
        """When somebody last called for a run."""
        self._asked: dict[str, float] = {}
        self._taking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._left: dict[str, float] = {}
        """Since when a run that goes on has been seen with no server that holds it."""
        self._rounds = 0
        self._knows_all = False
        self._holders: dict[str, tuple[str, Holder]] = {}
        """By run: the tag of its lease, and what that says."""
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    # Life

    async def start(self) -> None:
        """Become known to the other servers. StoreError if the store cannot be written."""
        await self._in_thread(self._leases.begin)
        self._thread.start()
        for run in self._registry.runs():
            run.is_ours = False
        loop = asyncio.get_running_loop()
        every = self._leases.seconds / 4
        self._tasks = [
            loop.create_task(self._again(every, self._attend), name="attend"),
            loop.create_task(self._again(self._follow_seconds, self._follow), name="follow"),
        ]

    async def stop(self) -> None:
        """Let every run go. Nothing may be acknowledged after this."""
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._in_thread(self._thread.join)
        try:
            await self._in_thread(self._leases.end)
        except StoreError as error:
            log.warning("leases cannot be given back; they end by themselves", problem=str(error))

    def _renew(self) -> None:
        """In a thread of its own: a lease must not end because others are busy."""
        every = self._leases.seconds / 4
        while not self._stopping.wait(every):
            try:
                if not self._leases.renew():
                    self._registry.count_event("lease_lost")
                    log.warning(
                        "leases ended before they could be renewed; runs are taken up again as they are used"
                    )
            except StoreError as error:
                self._registry.count_event("lease_not_renewed")
                log.warning("leases cannot be renewed", problem=str(error))

    async def _again(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        """Do it again and again; a failure is said, counted, and no reason to end."""
        while True:
            try:
                await action()
            except (StoreError, Unavailable, OSError, ValueError) as error:
                self._registry.count_event("following_failed")
                log.warning("cannot keep up with the other servers", problem=str(error))
            await asyncio.sleep(seconds)

    async def _in_thread(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, action)

    def problem(self) -> str:
        """Why this server should not be asked yet; empty if it may be."""
        return "" if self._knows_all else "the runs in the object store are being read"

    # What ingest asks

    async def meet(self, run_id: str) -> None:
        """See :meth:`Ownership.meet`."""
        if not self._registry.is_known(run_id):
            with self._said("read run", run_id):
                await self._discover([run_id])

    async def hold(self, run_id: str) -> None:
        """See :meth:`Ownership.hold`."""
        self._called[run_id] = time.monotonic()
        if self._is_ready(run_id):
            return
        async with self._taking[run_id]:
            if self._is_ready(run_id):
                return
            with self._said("take up run", run_id):
                try:
                    await self._take(run_id)
                except Elsewhere as error:
                    await self._ask(run_id, error.incarnation)
                    raise Unavailable("NOT_HERE", f"{error}; try again", retry_seconds=1.0) from error

    async def _discover(self, run_ids: Iterable[str]) -> None:
        """Get to know those of the runs that are not known."""
        found: list[Run] = []

        async def read(run_id: str) -> None:
            run = await self._in_thread(lambda: self._registry.read(run_id))
            if run is not None and not self._registry.is_known(run_id):
                run.is_ours = False
                self._registry.welcome(run)
                found.append(run)

        await _each(read, [run_id for run_id in run_ids if not self._registry.is_known(run_id)])
        if found:
            self._catch_up_with(found)

    def confirm(self, run_id: str) -> None:
        """See :meth:`Ownership.confirm`."""
        if not self._is_ready(run_id):
            raise Unavailable(
                "LEASE_LOST", "this server may not write the run any more; try again", retry_seconds=0.5
            )

    async def claim(self, description: RunDescription) -> str:
        """See :meth:`Ownership.claim`."""
        team, name, run_id = description.team, description.name, description.run_id
        with self._said("claim the name of run", run_id):
            other = await self._in_thread(lambda: self._names.claim(team, name, run_id))
            if other == run_id or await self._in_thread(lambda: self._has_come_about(other)):
                return other
            passed = await self._in_thread(lambda: self._names.pass_on(team, name, other, run_id))
            return run_id if passed else other

    def _has_come_about(self, run_id: str) -> bool:
        """Whether a run that claimed a name is stored, or may be being stored right now."""
        try:
            holder = self._leases.holder(run_id)
        except KeyError:
            holder = Holder("", 0)
        lives = bool(holder.incarnation) and self._leases.look_around(holder.incarnation)
        # Looked for last: a server that has stored it and gone meanwhile has stored it before.
        return lives or run_id in self._journal.list_runs()

    def epoch(self, run_id: str) -> int:
        """See :meth:`Ownership.epoch`."""
        return self._leases.epoch(run_id)

    def doubt(self, run_id: str) -> None:
        """See :meth:`Ownership.doubt`."""
        self._adopted.pop(run_id, None)

    def _is_ready(self, run_id: str) -> bool:
        return self._leases.holds(run_id) and self._adopted.get(run_id) == self._leases.incarnation

    async def _ask(self, run_id: str, incarnation: str) -> None:
        now = time.monotonic()
        if incarnation and now - self._asked.get(run_id, -_ASK_SECONDS) >= _ASK_SECONDS:
            self._asked[run_id] = now
            await self._in_thread(lambda: self._leases.ask(run_id, incarnation))

    @contextlib.contextmanager
    def _said(self, action: str, run_id: str) -> Iterator[None]:
        """Errors of the store as an answer to the caller."""
        try:
            yield
        except StoreError as error:
            raise Unavailable(
                "LEASE_UNAVAILABLE", f"cannot {action} {run_id}: {error}", retry_seconds=2.0
            ) from error

    # Taking up and letting go

    async def _take(self, run_id: str) -> None:
        """Acquire the run's lease and read what is stored; Elsewhere, or StoreError."""
        epoch = await self._in_thread(lambda: self._leases.acquire(run_id))
        incarnation = self._leases.incarnation
        self._left.pop(run_id, None)
        if not self._registry.is_known(run_id):
            await self._discover([run_id])
        run = self._registry.get(run_id)
        if run is not None:
            async with run.lock:
                await self._adopt(run, epoch)
            self._registry.wake(run)
            self._registry.count_event("lease_taken")
            log.info("run taken up", run=run.description.name, epoch=epoch)
        self._adopted[run_id] = incarnation

    async def _adopt(self, run: Run, epoch: int) -> None:
        """Know all that is stored, and fence off whoever wrote the run before."""
        run_id = run.description.run_id
        for _ in range(_FENCED_TRIES):
            known = Known.of(run)
            news = await self._in_thread(lambda known=known: self._follower.look(known, as_writer=True))  # type: ignore[misc]
            control = replace(news.control or run.control, lease_epoch=epoch)
            try:
                # Whoever held the run before can replace the file no more once it has changed.
                await self._in_thread(
                    lambda control=control: self._journal.put_run_file(
                        run_id, CONTROL_FILE, control.to_json()
                    )  # type: ignore[misc]
                )
            except FencedError:
                continue
            # Only now is it certain that nothing of the one before is still to come that it has acknowledged.
            news.tell(run)
            run.control = control
            run.is_ours = True
            run.announce()
            return
        raise StoreError("another server keeps writing the run")

    async def _let_go(self, run: Run) -> None:
        async with run.lock:
            run.is_ours = False
            self._adopted.pop(run.description.run_id, None)
            await self._in_thread(lambda: self._leases.release(run.description.run_id))
        self._registry.count_event("lease_released")
        log.info("run let go for another server", run=run.description.name)

    # Rounds

    async def _attend(self) -> None:
        """See who lives, and let runs go that others need."""
        await self._in_thread(self._leases.look_around)
        for run_id in await self._in_thread(self._leases.wanted):
            run = self._registry.get(run_id)
            idle = time.monotonic() - self._called.get(run_id, 0.0)
            if run is not None and self._leases.holds(run_id) and idle > IDLE_SECONDS:
                await self._let_go(run)
        for run in self._registry.runs():
            run.is_ours = self._is_ready(run.description.run_id)

    async def _follow(self) -> None:
        """Learn what others have taken in; take up what a dead server has left."""
        round_ = self._rounds
        self._rounds += 1
        await self._discover(await self._in_thread(self._journal.list_runs))
        self._knows_all = True
        holders = await self._in_thread(self._look_at_leases)
        living = self._leases.living()

        async def look(run: Run) -> None:
            run_id = run.description.run_id
            await self._catch_up(run)
            holder = holders.get(run_id)
            if not run.is_active or (holder is not None and holder.incarnation in living):
                self._left.pop(run_id, None)
                return
            # Somebody who has rows of it will mostly call, and may call elsewhere.
            since = self._left.setdefault(run_id, time.monotonic())
            if time.monotonic() - since > self._leases.seconds and self._is_chosen(run_id, living):
                await self._take_left(run_id)

        others = [run for run in self._registry.runs() if not self._leases.holds(run.description.run_id)]
        await _each(look, [run for run in others if run.is_active or round_ % _SELDOM == 0])

    async def _catch_up(self, run: Run) -> None:
        async with run.lock:
            if self._leases.holds(run.description.run_id):
                return
            known = Known.of(run)
            news = await self._in_thread(lambda: self._follower.look(known, as_writer=False))
            if self._leases.holds(run.description.run_id):
                return
            news.tell(run)
        if not news.is_empty:
            self._registry.wake(run)

    def _look_at_leases(self) -> dict[str, Holder]:
        """Who holds which run. Blocking."""
        tags = self._leases.run_tags()
        known = self._holders
        fresh: dict[str, tuple[str, Holder]] = {}
        for run_id, tag in tags.items():
            if run_id in known and known[run_id][0] == tag:
                fresh[run_id] = known[run_id]
                continue
            with contextlib.suppress(KeyError):
                fresh[run_id] = (tag, self._leases.holder(run_id))
        self._holders = fresh
        return {run_id: holder for run_id, (_, holder) in fresh.items()}

    def _is_chosen(self, run_id: str, living: list[str]) -> bool:
        """Whether of all living servers this one is to take a run up that nobody calls for."""
        return max(
            living, key=lambda name: hashlib.sha256(f"{name}/{run_id}".encode()).digest(), default=""
        ) == (self._leases.incarnation)

    async def _take_left(self, run_id: str) -> None:
        async with self._taking[run_id]:
            if self._is_ready(run_id):
                return
            try:
                await self._take(run_id)
            except Elsewhere:
                return  # somebody was faster


async def _each(action: Callable[[A], Awaitable[None]], items: Iterable[A]) -> None:
    """Do it for all, a few at a time; then the first failure, if there was one."""
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            await action(item)

    done = await asyncio.gather(*(work() for _ in range(_AT_ONCE)), return_exceptions=True)
    for outcome in done:
        if isinstance(outcome, BaseException):
            raise outcome
