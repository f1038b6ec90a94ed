"""Rows whose every value is known from its place, so that a reader can tell a wrong one without a second copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from support.object_store import ObjectStoreProcess
from trajmon_protos.record import PRODUCTS, Row, encode
from trajmon_protos.sketch import SketchSpec
from trajmon_protos.sketch_record import SketchRow, spec_message
from trajmon_protos.v1 import types_pb2
from trajmon_server.store.base import Journal
from trajmon_server.store.journal import LocalJournal
from trajmon_server.store.layout import RunShape

RUN_ID = "ab" * 16

RowMaker = Callable[..., Row]


def _gram(num_layers: int, checkpoint: int) -> NDArray[np.float64]:
    layers = np.arange(1, num_layers + 1, dtype=np.float64)[:, None]
    return layers * 2.0**30 + checkpoint * 2.0**14 + np.arange(checkpoint + 1)[None, :] + 0.25


def _row(
    checkpoint: int,
    num_layers: int = 3,
    *,
    previous: int | None = None,
    attempt: int = 1,
    run_id: str = RUN_ID,
) -> Row:
    header = types_pb2.RowHeader(
        run_id=run_id, attempt=attempt, checkpoint=checkpoint, num_parts=1, num_layers=num_layers
    )
    if previous is not None or checkpoint:
        header.previous = checkpoint - 1 if previous is None else previous
    header.info.step = 10 * checkpoint
    header.info.time_unix_seconds = 1e9 + checkpoint
    if checkpoint % 2:
        header.info.epoch = checkpoint / 4
        header.info.learning_rate = 0.5**checkpoint
    products = np.arange(num_layers * len(PRODUCTS), dtype=np.float64).reshape(num_layers, -1) + checkpoint
    return Row(header, _gram(num_layers, checkpoint), products, np.zeros(num_layers, np.uint8))


def _sketch(
    checkpoint: int, num_layers: int = 3, *, attempt: int = 1, dtype: str = "<f4", run_id: str = RUN_ID
) -> SketchRow:
    row = _row(checkpoint, num_layers, attempt=attempt, run_id=run_id)
    values = np.arange(2 * 251 * num_layers, dtype=dtype).reshape(2, -1) - checkpoint
    header = types_pb2.SketchHeader(
        row=row.header, spec=spec_message(SketchSpec(251)), num_columns=values.shape[1], dtype=dtype
    )
    if dtype == "<i8":
        header.first_level, header.num_levels = -1, 2
    norms = np.arange(num_layers, dtype=np.float64) + 0.5 * checkpoint
    return SketchRow(
        header, norms, row.products, row.status, row.gram + 0.5, values if dtype == "<i8" else values[0]
    )


@pytest.fixture
def run_id() -> str:
    return RUN_ID


@pytest.fixture(scope="session")
def make_row() -> RowMaker:
    """make_row(checkpoint, num_layers=3, *, previous=None, attempt=1, run_id=...)"""
    return _row


@pytest.fixture(scope="session")
def make_sketch() -> Callable[..., SketchRow]:
    """make_sketch(checkpoint, num_layers=3, *, attempt=1, dtype="<f4", run_id=...)"""
    return _sketch


@pytest.fixture(scope="session")
def true_gram() -> Callable[[int, int], NDArray[np.float64]]:
    """true_gram(num_layers, length): [layer, checkpoint, checkpoint_j], NaN above the diagonal."""

    def build(num_layers: int, length: int) -> NDArray[np.float64]:
        gram = np.full((num_layers, length, length), np.nan)
        for checkpoint in range(length):
            gram[:, checkpoint, : checkpoint + 1] = _gram(num_layers, checkpoint)
        return gram

    return build


@pytest.fixture(scope="session")
def shape() -> RunShape:
    """Three layers, two groups."""
    return RunShape(
        RUN_ID, "demo", ("conv.weight", "bn.weight", "fc.bias é"), (("network", (0, 1, 2)), ("norm", (1,)))
    )


@pytest.fixture
def filled_journal(tmp_path: Path, make_row: RowMaker) -> Callable[..., Journal]:
    """filled_journal(count, num_layers=3): a journal with that many rows."""

    def build(count: int, **options: Any) -> Journal:
        journal = LocalJournal(tmp_path / "journal")
        for checkpoint in range(count):
            journal.append(RUN_ID, checkpoint, 0, encode(make_row(checkpoint, **options)))
        return journal

    return build


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreProcess]:
    """An S3 server. Each test takes a prefix of its own."""
    store = ObjectStoreProcess(tmp_path_factory.mktemp("object-store"))
    try:
        yield store.start()
    finally:
        store.kill()
