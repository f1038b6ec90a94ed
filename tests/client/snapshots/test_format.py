"""The snapshot file: what is written is what is read, and nothing else is taken for it."""

from __future__ import annotations

import math
import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.recording import names  # noqa: TID251 # tests/client, on the path of the tests
from trajmon._plan import PlanAhead
from trajmon.errors import SnapshotError
from trajmon.snapshots.format import (
    SnapshotHeader,
    open_data,
    read_header,
    snapshot_bytes,
    write_snapshot,
)

PRINT = "f" * 32
HEADER = SnapshotHeader(
    checkpoint=7,
    attempt=2,
    step=70,
    fingerprint=PRINT,
    previous=5,
    time_unix_seconds=1.7e9,
    epoch=1.5,
    learning_rate=0.1,
    metrics={"loss": 0.25, "ä": float("inf")},
    stall_seconds=0.001,
)


def write(path: Path, data: bytes, header: SnapshotHeader = HEADER) -> None:
    write_snapshot(path, header, memoryview(data), temporary=".t.tmp", durable=True)


def test_the_file_is_as_documented(tmp_path: Path) -> None:
    file = tmp_path / "a.snap"
    data = os.urandom(1000)
    write(file, data)
    raw = file.read_bytes()
    header_bytes, start, data_bytes = struct.unpack("<QQQ", raw[8:32])
    assert raw[:8] == b"TMSNAP\x00\x01"
    assert (start % 4096, data_bytes, len(raw)) == (0, 1000, start + 1000)
    assert raw[32 : 32 + header_bytes] == HEADER.to_json()
    assert set(raw[32 + header_bytes : start]) == {0}
    assert raw[start:] == data
    assert len(raw) == snapshot_bytes(HEADER, 1000)
    assert names(tmp_path) == ["a.snap"]


@given(
    data=st.binary(min_size=1, max_size=9000),
    step=st.integers(-(2**63), 2**63 - 1),
    metrics=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=64), st.floats(), max_size=64),
    epoch=st.none() | st.floats(allow_nan=False),
    plan=st.none()
    | st.builds(
        PlanAhead,
        steps=st.none() | st.integers(0, 2**63),
        rate_sum=st.none() | st.floats(0, 1e300),
        rate_squared_sum=st.none() | st.floats(0, 1e300),
        objective=st.text(st.characters(codec="utf-8"), max_size=64),
        larger_is_better=st.booleans(),
        tolerance=st.none() | st.floats(0, 1e300),
    ),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes,
    step: int,
    metrics: dict[str, float],
    epoch: float | None,
    plan: PlanAhead | None,
) -> None:
    file = tmp_path_factory.mktemp("format") / "a.snap"
    header = replace(HEADER, step=step, metrics=metrics, epoch=epoch, plan=plan)
    write(file, data, header)
    found = read_header(file)
    assert replace(found, metrics={}) == replace(header, metrics={})
    assert found.metrics.keys() == metrics.keys()
    assert all(
        found.metrics[name] == value or (math.isnan(value) and math.isnan(found.metrics[name]))
        for name, value in metrics.items()
    )
    mapped = open_data(file, PRINT, len(data))
    assert mapped.tobytes() == data
    assert not mapped.flags.writeable


def test_a_header_that_grows_while_the_data_is_written_still_fits(tmp_path: Path) -> None:
    headers = iter([replace(HEADER, stall_seconds=0.0), replace(HEADER, stall_seconds=123.45678901234567)])
    file = tmp_path / "a.snap"
    written = write_snapshot(
        file, lambda: next(headers), memoryview(b"x" * 64), temporary=".t.tmp", durable=False
    )
    assert read_header(file) == written
    assert written.stall_seconds == 123.45678901234567


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda raw: raw[:20], "snapshot a.snap: it ends inside its first bytes"),
        (lambda raw: raw[:40], "snapshot a.snap: it ends inside its header"),
        (lambda raw: raw[:-1], "snapshot a.snap: it has 4195 bytes, 4196 are needed"),
        (lambda raw: raw + b"x", "snapshot a.snap: it has 4197 bytes, 4196 are needed"),
        (lambda raw: b"X" + raw[1:], "snapshot a.snap: it is not a snapshot"),
        (lambda raw: raw[:7] + b"\x02" + raw[8:], "its format version 2 is not 1; update trajmon"),
        (lambda raw: raw[:8] + b"\xff" * 8 + raw[16:], "its lengths contradict each other"),
        (lambda raw: raw[:32] + b"!" + raw[33:], "snapshot header cannot be read"),
        (
            lambda raw: raw.replace(PRINT.encode(), b"e" * 32),
            f"it is of a model {'e' * 32}, the run is of {PRINT}",
        ),
        (lambda raw: raw.replace(b'"step": 70', b'"step": []'), "snapshot header cannot be read"),
    ],
)
def test_what_is_not_a_complete_snapshot_is_refused(tmp_path: Path, change, text: str) -> None:  # type: ignore[no-untyped-def] # a table of lambdas
    file = tmp_path / "a.snap"
    write(file, b"d" * 100)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(SnapshotError, match=re.escape(text)):
        open_data(file, PRINT, 100)


def test_a_missing_file_is_a_snapshot_error(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"snapshot a\.snap: .*No such file"):
        read_header(tmp_path / "a.snap")


def test_data_survives_mapping_at_page_boundaries(tmp_path: Path) -> None:
    data = np.arange(3 * 4096, dtype=np.uint8)
    write(tmp_path / "a.snap", data.tobytes())
    assert (open_data(tmp_path / "a.snap", PRINT, data.size) == data).all()
