"""Sketch records on a local disk are as durable as rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trajmon_protos.sketch_record import SketchRow, encode_sketch
from trajmon_server.store.journal import LocalJournal

SketchMaker = Callable[..., SketchRow]


@pytest.fixture
def journal(tmp_path: Path) -> LocalJournal:
    return LocalJournal(tmp_path)


def test_the_name_of_a_sketch_is_durable_before_the_answer(
    journal: LocalJournal,
    make_sketch: SketchMaker,
    run_id: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    calls: list[str] = []
    real_fsync, real_fdatasync, real_link = os.fsync, os.fdatasync, os.link

    def fsync(fd: int) -> None:
        calls.append("fsync " + Path(f"/proc/self/fd/{fd}").readlink().name)
        real_fsync(fd)

    def fdatasync(fd: int) -> None:
        calls.append("fdatasync " + Path(f"/proc/self/fd/{fd}").readlink().parent.name)
        real_fdatasync(fd)

    def link(source: Path, target: Path) -> None:
        calls.append("link " + target.name)
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(os, "link", link)
    record = encode_sketch(make_sketch(0))
    stored = ["fdatasync tmp", "link 00000000.0000.sketch", "fsync sketches"]
    folders = [f"fsync {name}" for name in (run_id, tmp_path.name, tmp_path.parent.name)]
    journal.append(run_id, 0, 0, record, "sketch")
    assert calls == folders + stored
    calls.clear()
    journal.append(run_id, 0, 0, record, "sketch")
    assert calls == stored
