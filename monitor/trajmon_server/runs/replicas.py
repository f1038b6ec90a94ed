"""Several servers on one object store: which runs this one writes, and how it keeps up with the others."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

import structlog

from trajmon_protos.names import RUN_ID
from trajmon_server.errors import Unavailable
from trajmon_server.model import RunDescription
from trajmon_server.runs.control import CONTROL_FILE
from trajmon_server.runs.following import Follower, Known
from trajmon_server.runs.holders import Holders
from trajmon_server.runs.once import Once
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.renewal import Renewal
from trajmon_server.runs.run import Run
from trajmon_server.runs.several import each
from trajmon_server.store.base import Journal
from trajmon_server.store.errors import FencedError, StoreError
from trajmon_server.store.leases import Elsewhere, Holder, Leases
from trajmon_server.store.names import Names

__all__ = ["Replica"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

IDLE_SECONDS: Final = 3.0
"""A run is let go on request once nobody has called for it for so long."""
_ASK_SECONDS: Final = 2.0
_SELDOM: Final = 12
"""Runs that have ended are looked at every so many rounds: they may have been resumed."""
_FENCED_TRIES: Final = 5
_TURN_SECONDS: Final = 12.0
"""After so long a run is let go although it is called for."""
_ASKS_NO_MORE_SECONDS: Final = 10.0
_NOBODY: Final = Holder("", 0)


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
        self._adopted: dict[str, int] = {}
        """Runs that are known as far as anything is stored of them, and in which epoch that was so."""
        self._called: dict[str, float] = {}
        """When somebody last called for a run."""
        self._asked: dict[str, float] = {}
        self._wanted: dict[str, tuple[float, float]] = {}
        """When another server asked for a run first and last, as long as it goes on asking."""
        self._reading, self._taking = Once(), Once()
        self._left: dict[str, float] = {}
        """Since when a run that goes on has been seen with no server that holds it."""
        self._rounds = 0
        self._knows_all = False
        self._holders = Holders(leases)
        self._tasks: list[asyncio.Task[None]] = []
        self._renewal = Renewal(leases, registry.count_event)

    # Life

    async def start(self) -> None:
        """Become known to the other servers. StoreError if the store cannot be written."""
        await self._in_thread(self._leases.begin)
        self._renewal.start()
        for run in self._registry.runs():
            run.is_ours = False
        loop = asyncio.get_running_loop()
        every = self._leases.seconds / 4
        self._tasks = [
            loop.create_task(self._again(every, self.attend), name="attend"),
            loop.create_task(self._again(self._follow_seconds, self.follow), name="follow"),
        ]

    async def stop(self) -> None:
        """Let every run go. Nothing may be acknowledged after this."""
        self._registry.stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._taking.stop()
        await self._reading.stop()
        await self._in_thread(self._renewal.end)
        try:
            await self._in_thread(self._leases.end)
        except StoreError as error:
            log.warning("leases cannot be given back; they end by themselves", problem=str(error))

    async def _again(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        """Do it again and again; a failure is said, counted, and no reason to end."""
        while True:
            try:
                await action()
            except (StoreError, Unavailable, Elsewhere) as error:
                self._registry.count_event("following_failed")
                log.warning("cannot keep up with the other servers", problem=str(error))
            except Exception as error:
                self._registry.count_event("following_failed")
                log.error("cannot keep up with the other servers", exc_info=error)
            await asyncio.sleep(seconds)

    async def _in_thread(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, action)

    def problem(self) -> str:
        """Why this server should not be asked yet; empty if it may be."""
        if not self._knows_all:
            return "the runs in the object store are being read"
        return "" if self._leases.is_valid else "the object store cannot be written: no lease can be renewed"

    # What ingest asks

    async def meet(self, run_id: str) -> None:
        """See :meth:`Ownership.meet`."""
        # What is no run id must not become a part of a key, nor of a log.
        if self._registry.is_known(run_id) or RUN_ID.fullmatch(run_id) is None:
            return
        with self._said("read run", run_id):
            await self._reading.do(run_id, lambda: self._discover([run_id]))

    async def hold(self, run_id: str) -> None:
        """See :meth:`Ownership.hold`."""
        self._called[run_id] = time.monotonic()
        if self._is_ready(run_id):
            return
        with self._said("take up run", run_id):
            try:
                await self._taking.do(run_id, lambda: self._take(run_id))
            except Elsewhere as error:
                await self._ask(run_id, error.incarnation)
                raise Unavailable("NOT_HERE", f"{error}; try again", retry_seconds=1.0) from error

    async def _discover(self, run_ids: Iterable[str], *, as_writer: bool = False) -> None:
        """Get to know those of the runs that are not known. `as_writer`: this server holds them."""
        found: list[Run] = []

        async def read(run_id: str) -> None:
            run = await self._in_thread(lambda: self._registry.read(run_id, as_writer=as_writer))
            if run is None or self._registry.is_known(run_id) or self._registry.being_opened == run_id:
                return
            run.is_ours = False
            self._registry.welcome(run)
            found.append(run)

        try:
            await each(read, [run_id for run_id in run_ids if not self._registry.is_known(run_id)])
        finally:
            if found:
                self._catch_up_with(found)

    def confirm(self, run_id: str) -> None:
        """See :meth:`Ownership.confirm`."""
        if not self._is_ready(run_id):
            raise Unavailable(
                "LEASE_LOST", "this server may not write the run any more; try again", retry_seconds=0.5
            )

    async def named(self, team: str, name: str) -> str:
        """See :meth:`Ownership.named`."""
        with self._said("look up the name of a run of team", team):
            other = await self._in_thread(lambda: self._names.find(team, name))
            if not other:
                return ""
            is_there = await self._in_thread(lambda: self._has_come_about(other))
        return other if is_there else ""

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
        return self._leases.holds(run_id) and self._adopted.get(run_id) == self._leases.epoch(run_id)

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
        except (StoreError, OSError, ValueError, KeyError) as error:
            raise Unavailable(
                "LEASE_UNAVAILABLE", f"cannot {action} {run_id}: {error}", retry_seconds=2.0
            ) from error

    # Taking up and letting go

    async def _take(self, run_id: str) -> None:
        """Acquire the run's lease and read what is stored; Elsewhere, or StoreError."""
        epoch = await self._in_thread(lambda: self._leases.acquire(run_id))
        self._left.pop(run_id, None)
        if not self._registry.is_known(run_id):
            await self._discover([run_id], as_writer=True)
        run = self._registry.get(run_id)
        if run is not None:
            async with run.lock:
                await self._adopt(run, epoch)
            self._registry.wake(run)
            self._registry.count_event("lease_taken")
            log.info("run taken up", run=run.description.name, epoch=epoch)
        elif self._registry.unreadable(run_id) is not None:
            raise StoreError(f"it is stored but cannot be read: {self._registry.unreadable(run_id)}")
        # An epoch is one server's, and begins with what is then stored: what was known in another one is no good.
        self._adopted[run_id] = epoch

    async def _adopt(self, run: Run, epoch: int) -> None:
        """Know all that is stored, and fence off whoever wrote the run before."""
        run_id = run.description.run_id
        for _ in range(_FENCED_TRIES):
            known = Known.of(run)
            news = await self._in_thread(partial(self._follower.look, known, as_writer=True))
            control = replace(news.control or run.control, lease_epoch=epoch)
            if not self._leases.holds(run_id) or self._leases.epoch(run_id) != epoch:
                raise StoreError("its lease ended before it was taken up")
            try:
                # Whoever held the run before can replace the file no more once it has changed.
                put = partial(self._journal.put_run_file, run_id, CONTROL_FILE, control.to_json())
                await self._in_thread(put)
            except FencedError:
                continue
            # Only now is it certain that nothing of the one before is still to come that it has acknowledged.
            news.tell(run)
            run.control = control
            run.is_ours = True
            run.announce()
            return
        raise StoreError("another server keeps writing the run")

    async def _let_go(self, run_id: str) -> None:
        run = self._registry.get(run_id)
        async with contextlib.AsyncExitStack() as stack:
            if run is not None:
                await stack.enter_async_context(run.lock)
                run.is_ours = False
            self._adopted.pop(run_id, None)
            self._wanted.pop(run_id, None)
            await self._in_thread(lambda: self._leases.release(run_id))
        self._registry.count_event("lease_released")
        log.info("run let go for another server", run_id=run_id)

    # Rounds

    async def attend(self) -> None:
        """See who lives, and let runs go that others need. Done four times a lease."""
        try:
            await self._in_thread(self._leases.look_around)
            wanted = await self._in_thread(self._leases.wanted)
            await each(self._let_go, [run_id for run_id in wanted if self._may_go(run_id)])
        finally:
            # Whatever the store does: what is not held is not shown as held.
            for run in self._registry.runs():
                run.is_ours = self._is_ready(run.description.run_id)

    def _may_go(self, run_id: str) -> bool:
        """Whether to let a run go that another server asks for."""
        if run_id in self._taking:
            return False
        now = time.monotonic()
        first, last = self._wanted.get(run_id, (now, now))
        if now - last > _ASKS_NO_MORE_SECONDS:
            first = now
        self._wanted[run_id] = (first, now)
        if not self._leases.holds(run_id):
            return True  # only the store says so
        # Where several agents call for a run at several servers, each gets its turn.
        is_idle = now - self._called.get(run_id, -IDLE_SECONDS) >= IDLE_SECONDS
        return is_idle or now - first > _TURN_SECONDS

    async def follow(self) -> None:
        """Learn what others have taken in; take up what a dead server has left. Done every `follow_seconds`."""
        round_ = self._rounds
        self._rounds += 1
        is_full = round_ % _SELDOM == 0
        unread: Exception | None = None
        try:
            await self._discover(await self._not_known(wholly=is_full))
            self._knows_all = True
        except StoreError as error:
            unread = error  # the runs that are known are looked at all the same
        active = [run.description.run_id for run in self._registry.runs() if run.is_active]
        holders = await self._in_thread(lambda: self._holders.look(active))
        living = self._leases.living()

        async def look(run: Run) -> None:
            run_id = run.description.run_id
            if self._leases.holds(run_id):
                # Held, and not taken up: that failed, or a write was fenced off.
                await self._take_left(run_id)
                return
            await self._catch_up(run, wholly=is_full)
            holder = holders.get(run_id, _NOBODY)
            if holder is not None and holder.incarnation == self._leases.incarnation:
                # The store has it as held; this server knows nothing of that.
                await self._in_thread(lambda: self._leases.release(run_id, only_stray=True))
            elif not run.is_active or holder is None or holder.incarnation in living:
                self._left.pop(run_id, None)
            else:
                # Somebody who has rows of it will mostly call, and may call elsewhere.
                since = self._left.setdefault(run_id, time.monotonic())
                if time.monotonic() - since > self._leases.seconds and self._is_chosen(run_id, living):
                    await self._take_left(run_id)

        others = [run for run in self._registry.runs() if not self._is_ready(run.description.run_id)]
        await each(look, [run for run in others if run.is_active or is_full])
        if unread is not None:
            raise unread

    async def _not_known(self, *, wholly: bool) -> list[str]:
        """Runs that are stored and not known, but for those that somebody waits for; `wholly`: that were unreadable."""
        return [
            run_id
            for run_id in await self._in_thread(self._journal.list_runs)
            if run_id not in self._reading and (wholly or self._registry.unreadable(run_id) is None)
        ]

    async def _catch_up(self, run: Run, *, wholly: bool) -> None:
        async with run.lock:
            if self._leases.holds(run.description.run_id):
                return
            known = Known.of(run)
            news = await self._in_thread(lambda: self._follower.look(known, as_writer=False, wholly=wholly))
            if self._leases.holds(run.description.run_id):
                return
            news.tell(run)
        if not news.is_empty:
            self._registry.wake(run)

    def _is_chosen(self, run_id: str, living: list[str]) -> bool:
        """Whether of all living servers this one is to take a run up that nobody calls for."""
        return _chosen(run_id, living) == self._leases.incarnation

    async def _take_left(self, run_id: str) -> None:
        with contextlib.suppress(Elsewhere):  # somebody was faster
            await self._taking.do(run_id, lambda: self._take(run_id))


def _chosen(run_id: str, living: list[str]) -> str:
    return max(living, key=lambda name: hashlib.sha256(f"{name}/{run_id}".encode()).digest(), default="")
