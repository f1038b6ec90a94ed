"""Which of several servers on one object store writes a run: leases that end by themselves.

    leases/servers/<incarnation>.json     one a living server, put anew every quarter of the lease's length
    leases/runs/<run_id>.json             who holds the run, and how often it has changed hands (the epoch)
    leases/wanted/<incarnation>/<run_id>  another server asks that one for the run

No clocks are compared. A server may count on its leases for `seconds` from the moment at which it *began* its last
renewal that succeeded. Another takes it for dead once it has *seen* the same renewal for longer than that, or sees
its object gone. What is seen was begun before, so the first always ends before the second. A server that missed its
renewal starts over under a new incarnation: it holds nothing then.
"""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from trajmon_server.store.errors import StoreError
from trajmon_server.store.objects import Objects

__all__ = ["Elsewhere", "Holder", "Leases", "boot_seconds"]

SERVERS: Final = "leases/servers"
RUNS: Final = "leases/runs"
WANTED: Final = "leases/wanted"
_SLACK: Final = 1.1
"""Clocks of two machines run at rates that differ by far less."""
_FORGET_AFTER: Final = 30
"""Lease lengths after which the object of a dead server is removed."""
_MAX_SECONDS: Final = 600.0


def boot_seconds() -> float:
    """Seconds since the machine started, time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who held a run when last looked at."""

    incarnation: str
    """Empty: nobody."""
    epoch: int

    @classmethod
    def parse(cls, data: bytes) -> Holder:
        """From a run's lease; StoreError if it is none."""
        try:
            fields = _fields(data)
            return cls(str(fields["holder"]), int(fields["epoch"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"the run's lease in {RUNS}/ cannot be read ({error}); remove it") from error


class Elsewhere(Exception):
    """Another server, which lives, holds the run."""

    def __init__(self, incarnation: str, server: str) -> None:
        super().__init__(f"server {server or incarnation} holds the run")
        self.incarnation = incarnation


@dataclass(slots=True)
class _Seen:
    """What is known of another server."""

    tag: str
    since: float
    """When this tag was first seen."""
    server: str
    seconds: float
    """Length of its leases."""

    def lives(self, now: float) -> bool:
        """Whether it may still count on its leases at `now`."""
        return now - self.since <= self.seconds * _SLACK


class Leases:
    """This server's leases. Methods block, but for `holds`; all may be called from several threads at once, except
    `begin`, `renew` and `end`, which belong to one."""

    def __init__(
        self, objects: Objects, server: str, seconds: float, now: Callable[[], float] = boot_seconds
    ) -> None:
        self._objects = objects
        self.server = server
        """What people call this server."""
        self.seconds = seconds
        self._now = now
        self._lock = threading.Lock()
        """Guards what follows; never held while the store works."""
        self._incarnation = ""
        self._tag = ""
        self._beats = 0
        self._valid_until = 0.0
        self._held: dict[str, int] = {}
        """Epochs of the runs that this incarnation holds, by run id."""
        self._seen: dict[str, _Seen] = {}
        self._looked = -math.inf
        """When the look began that `_seen` is of."""
        self._swept = ""
        """Incarnation under which requests to servers that are gone were removed."""
        self._under_way: set[str] = set()
        """Runs that are being acquired or released."""

    # This server

    @property
    def incarnation(self) -> str:
        """Under which this server holds what it holds now; another one after everything was lost."""
        with self._lock:
            return self._incarnation

    def begin(self) -> None:
        """Become known under a new incarnation, holding nothing."""
        with self._lock:
            old, self._incarnation, self._held, self._valid_until = self._incarnation, "", {}, 0.0
        if old:
            self._objects.delete(_server_key(old))
        fresh, begun = uuid.uuid4().hex, self._now()
        tag = self._objects.create(_server_key(fresh), self._content(fresh, 0))
        if tag is None:
            raise StoreError(f"incarnation {fresh} is taken")  # a lost answer: the next try draws another
        with self._lock:
            self._incarnation, self._tag, self._beats = fresh, tag, 0
            self._valid_until = begun + self.seconds

    def renew(self) -> bool:
        """Put the renewal; False if it came too late, so that every run that was held is lost."""
        begun = self._now()
        with self._lock:
            incarnation, tag, beats, until = self._incarnation, self._tag, self._beats, self._valid_until
        if incarnation and begun < until:
            done = self._objects.replace(_server_key(incarnation), self._content(incarnation, beats + 1), tag)
            # One that went through later may have come after others had taken this server for dead.
            if done is not None and self._now() < until:
                with self._lock:
                    self._tag, self._beats, self._valid_until = done, beats + 1, begun + self.seconds
                return True
        self.begin()
        return False

    def end(self) -> None:
        """Give everything back at once. Nothing may be acknowledged after this."""
        with self._lock:
            old, self._incarnation, self._held, self._valid_until = self._incarnation, "", {}, 0.0
        if old:
            self._objects.delete(_server_key(old))

    @property
    def is_valid(self) -> bool:
        """Whether this server counts as living now, and so may hold runs."""
        with self._lock:
            return self._now() < self._valid_until

    def holds(self, run_id: str) -> bool:
        """Whether the run is this server's now."""
        with self._lock:
            return run_id in self._held and self._now() < self._valid_until

    def epoch(self, run_id: str) -> int:
        """How often the run has changed hands, as far as it is this server's; else 0."""
        with self._lock:
            return self._held.get(run_id, 0)

    def held(self) -> list[str]:
        """The runs that are this server's now."""
        with self._lock:
            return list(self._held) if self._now() < self._valid_until else []

    # Runs

    def acquire(self, run_id: str) -> int:
        """Hold the run from now on; its epoch. Elsewhere if another living server holds it."""
        with self._changing(run_id) as mine:
            return self._acquire(run_id, mine)

    def _acquire(self, run_id: str, mine: str) -> int:
        key = _run_key(run_id)
        try:
            found = self._objects.get(key)
        except KeyError:
            if self._objects.create(key, _lease(mine, 1)) is None:
                raise Elsewhere("", "that was faster") from None
            return self._keep(run_id, mine, 1)
        holder = Holder.parse(found.data)
        if holder.incarnation == mine:
            return self._keep(run_id, mine, holder.epoch)
        if holder.incarnation and self.look_around(holder.incarnation):
            with self._lock:
                seen = self._seen.get(holder.incarnation)
            raise Elsewhere(holder.incarnation, seen.server if seen else "")
        if self._objects.replace(key, _lease(mine, holder.epoch + 1), found.tag) is None:
            raise Elsewhere("", "that was faster")
        return self._keep(run_id, mine, holder.epoch + 1)

    def _keep(self, run_id: str, incarnation: str, epoch: int) -> int:
        with self._lock:
            if incarnation != self._incarnation:
                raise Elsewhere(incarnation, "that this one was before")
            self._held[run_id] = epoch
        return epoch

    def release(self, run_id: str, *, only_stray: bool = False) -> None:
        """Let the run go, if it is this server's. Nothing may be acknowledged for it after this.

        Also where only the store says that it is: an acquisition or a release whose answer was lost leaves that
        behind. `only_stray`: nothing else. Elsewhere if another change is under way.
        """
        with self._changing(run_id) as mine:
            with self._lock:
                if only_stray and run_id in self._held:
                    return
                self._held.pop(run_id, None)
            try:
                found = self._objects.get(_run_key(run_id))
            except KeyError:
                return  # somebody has removed it
            holder = Holder.parse(found.data)
            if holder.incarnation == mine:
                self._objects.replace(_run_key(run_id), _lease("", holder.epoch, released_by=mine), found.tag)

    @contextmanager
    def _changing(self, run_id: str) -> Iterator[str]:
        """One change of a run at a time; yields the incarnation. Elsewhere if another is under way."""
        with self._lock:
            if run_id in self._under_way or not self._incarnation:
                raise Elsewhere("", "that is changing it right now")
            self._under_way.add(run_id)
            mine = self._incarnation
        try:
            yield mine
        finally:
            with self._lock:
                self._under_way.discard(run_id)

    def holder(self, run_id: str) -> Holder:
        """Who holds the run; KeyError if nobody ever did."""
        return Holder.parse(self._objects.get(_run_key(run_id)).data)

    def run_tags(self) -> dict[str, str]:
        """For each run that was ever held, a tag that changes when it changes hands."""
        return {
            key.rpartition("/")[2].removesuffix(".json"): tag for key, tag in self._objects.tags(RUNS).items()
        }

    # Others

    def ask(self, run_id: str, incarnation: str) -> None:
        """Ask the holder to let the run go once it is idle there."""
        self._objects.create(f"{WANTED}/{incarnation}/{run_id}", b"{}")

    def wanted(self) -> list[str]:
        """Runs that others have asked this server for; each is told once."""
        with self._lock:
            mine = self._incarnation
        keys = [key for key, _ in self._objects.list(f"{WANTED}/{mine}")]
        for key in keys:
            self._objects.delete(key)
        return [key.rpartition("/")[2] for key in keys]

    def look_around(self, incarnation: str = "") -> bool:
        """Look which servers there are; whether that one lives, as far as can be told."""
        begun = self._now()
        tags = {_incarnation(key): tag for key, tag in self._objects.tags(SERVERS).items()}
        with self._lock:
            known, mine = dict(self._seen), self._incarnation
        fresh: dict[str, _Seen] = {}
        for name, tag in tags.items():
            old = known.get(name)
            if old is not None and old.tag == tag:
                fresh[name] = old
            elif old is not None:
                fresh[name] = _Seen(tag, self._now(), old.server, old.seconds)
            else:
                fresh[name] = self._first_seen(name, tag)
        with self._lock:
            # A look that was held up knows less than one that began later.
            if begun >= self._looked:
                self._seen, self._looked = fresh, begun
            sweeps, self._swept = self._swept != mine, mine
        self._forget_dead(fresh, begun)
        if sweeps:
            self._sweep(fresh)
        # By this look alone: another thread's may be older, and take one for dead that has renewed since.
        seen = fresh.get(incarnation)
        return seen is not None and seen.lives(begun)

    def _first_seen(self, incarnation: str, tag: str) -> _Seen:
        try:
            fields = _fields(self._objects.get(_server_key(incarnation)).data)
            server, seconds = str(fields["server"]), float(fields["seconds"])
        except (KeyError, ValueError, TypeError):
            server, seconds = "", _MAX_SECONDS  # whatever it is, it is given time
        if not 0.0 < seconds <= _MAX_SECONDS:
            seconds = _MAX_SECONDS
        return _Seen(tag, self._now(), server, seconds)

    def _forget_dead(self, seen: Mapping[str, _Seen], now: float) -> None:
        for incarnation, one in seen.items():
            if now - one.since > one.seconds * _FORGET_AFTER:
                self._objects.delete(_server_key(incarnation))
                for key, _ in self._objects.list(f"{WANTED}/{incarnation}"):
                    self._objects.delete(key)

    def _sweep(self, seen: Collection[str]) -> None:
        """Remove what was asked of servers that are gone."""
        for key, _ in self._objects.list(WANTED):
            if key.split("/")[-2] not in seen:
                self._objects.delete(key)

    def living(self) -> list[str]:
        """Incarnations that lived when last looked around, this one among them, sorted."""
        now = self._now()
        with self._lock:
            others, mine = dict(self._seen), self._incarnation
        living = {name for name, seen in others.items() if seen.lives(now)}
        return sorted((living | {mine}) - {""})

    def _content(self, incarnation: str, beats: int) -> bytes:
        return _json(server=self.server, incarnation=incarnation, seconds=self.seconds, beats=beats)


def _lease(holder: str, epoch: int, **more: str) -> bytes:
    return _json(holder=holder, epoch=epoch, **more)


def _json(**fields: object) -> bytes:
    return json.dumps(fields, indent=1).encode()


def _fields(data: bytes) -> dict[str, Any]:
    """What an object of leases says; ValueError if it is not a JSON object with the fields that all have."""
    fields = json.loads(data)
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    return fields


def _server_key(incarnation: str) -> str:
    return f"{SERVERS}/{incarnation}.json"


def _run_key(run_id: str) -> str:
    return f"{RUNS}/{run_id}.json"


def _incarnation(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")
