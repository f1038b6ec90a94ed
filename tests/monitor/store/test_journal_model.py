"""Both journals against a plain dictionary: any order of what two servers do, damage included."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from obstore.store import MemoryStore

from support.shelves import LocalShelf, ObjectShelf, Shelf, kept
from trajmon_protos.record import Row, encode
from trajmon_protos.v1 import types_pb2
from trajmon_server.store import errors
from trajmon_server.store.objects import Objects

RUN = "ab" * 16
LAYERS = 2


def _record(checkpoint: int, variant: int) -> bytes:
    header = types_pb2.RowHeader(run_id=RUN, attempt=variant, checkpoint=checkpoint, num_layers=LAYERS)
    gram = np.arange(LAYERS * (checkpoint + 1), dtype=np.float64).reshape(LAYERS, -1) + variant
    return encode(Row(header, gram, np.zeros((LAYERS, 4)), np.zeros(LAYERS, np.uint8)))


CHECKPOINTS = st.integers(0, 3)
PARTS = st.integers(0, 1)
VARIANTS = st.integers(1, 2)
SERVERS = st.integers(0, 1)


class JournalMachine(RuleBasedStateMachine):
    """Two servers over one journal. `intact` and `damaged` say what is stored; `aside` what was set aside."""

    def shelf(self) -> Shelf:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.under = self.shelf()
        self.servers = [self.under.open(), self.under.open()]
        self.intact: dict[tuple[int, int], bytes] = {}
        self.damaged: dict[tuple[int, int], bytes] = {}
        self.aside: set[bytes] = set()

    def _put_aside(self, key: tuple[int, int]) -> None:
        self.aside.add(self.damaged.pop(key))

    @rule(server=SERVERS, checkpoint=CHECKPOINTS, part=PARTS, variant=VARIANTS)
    def append(self, server: int, checkpoint: int, part: int, variant: int) -> None:
        key, record = (checkpoint, part), _record(checkpoint, variant)
        expected = "stored" if key not in self.intact else "duplicate"
        if self.intact.get(key, record) != record:
            with pytest.raises(errors.ConflictError):
                self.servers[server].append(RUN, checkpoint, part, record)
            return
        assert self.servers[server].append(RUN, checkpoint, part, record) == expected
        if key in self.damaged:
            self._put_aside(key)
        self.intact[key] = record

    @precondition(lambda self: self.intact)
    @rule(data=st.data(), at=st.integers(20, 120))
    def damage(self, data: st.DataObject, at: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.intact)))
        changed = bytearray(self.intact.pop(key))
        changed[at % len(changed)] ^= 4
        self.damaged[key] = bytes(changed)
        self.under.put(f"{RUN}/rows/{key[0]:08d}.{key[1]:04d}.row", bytes(changed))

    @rule(server=SERVERS, checkpoint=CHECKPOINTS, part=PARTS)
    def read(self, server: int, checkpoint: int, part: int) -> None:
        key = (checkpoint, part)
        if key in self.intact:
            assert encode(self.servers[server].read_row(RUN, *key)) == self.intact[key]
            return
        expected = errors.RowDamagedError if key in self.damaged else errors.RowMissingError
        with pytest.raises(expected):
            self.servers[server].read_row(RUN, *key)
        if key in self.damaged:
            self._put_aside(key)

    @rule(server=SERVERS, checkpoint=CHECKPOINTS, part=PARTS)
    def set_aside(self, server: int, checkpoint: int, part: int) -> None:
        key = (checkpoint, part)
        stored = self.intact.get(key, self.damaged.get(key))
        if stored is None:
            with pytest.raises(errors.RowMissingError):
                self.servers[server].set_aside(RUN, checkpoint, "for the test", part)
            return
        found = self.servers[server].set_aside(RUN, checkpoint, "for the test", part)
        assert kept(self.under, found.kept_as) == stored
        self.intact.pop(key, None)
        self.damaged.pop(key, None)
        self.aside.add(stored)

    @rule(server=SERVERS)
    def verify(self, server: int) -> None:
        self.servers[server].verify(RUN)
        for key in list(self.damaged):
            self._put_aside(key)

    @rule(server=SERVERS)
    def restart(self, server: int) -> None:
        self.servers[server] = self.under.open()

    @invariant()
    def lists_what_there_is(self) -> None:
        stored = self.intact | self.damaged
        for server in self.servers:
            for after in (-1, 2):
                keys = [
                    (key.checkpoint, key.part, key.size_bytes) for key in server.list_rows(RUN, after=after)
                ]
                assert keys == [(*key, len(stored[key])) for key in sorted(stored) if key[0] >= after]
            assert server.parts(RUN, 1) == sorted(part for checkpoint, part in stored if checkpoint == 1)
            assert server.list_runs() == ([RUN] if stored else [])

    @invariant()
    def keeps_all_damage(self) -> None:
        for server in self.servers:
            assert {kept(self.under, damage.kept_as) for damage in server.damages(RUN)} == self.aside


class LocalMachine(JournalMachine):
    def shelf(self) -> Shelf:
        self.folder = tempfile.TemporaryDirectory()
        return LocalShelf(Path(self.folder.name))

    def teardown(self) -> None:
        self.folder.cleanup()


class ObjectMachine(JournalMachine):
    def shelf(self) -> Shelf:
        return ObjectShelf(Objects(MemoryStore(), "memory://"))


@pytest.mark.parametrize(("machine", "examples"), [(LocalMachine, 15), (ObjectMachine, 60)])
def test_any_order_of_events(machine: Any, examples: int) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=25))
