"""The agents of shards: their rows add up to the row of the whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.agent.notes import agent_note  # noqa: TID251 # tests/client, on the path of the tests
from client.recording import (  # noqa: TID251 # tests/client, on the path of the tests
    SHAPES,
    RecordedRun,
    names,
    record_run,
)
from trajmon._settings import AgentSettings
from trajmon.agent.loop import Agent
from trajmon.agent.rows import RowMaker
from trajmon.rundir import RunDescription, RunDir
from trajmon.sharding.chunks import Chunk, Shard
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.store import SnapshotStore
from trajmon_protos.record import LayerStatus, Row, decode
from trajmon_protos.v1 import types_pb2

# Two ranks: rows of a matrix and a run of its other elements, an empty chunk, several chunks of one layer.
CUT = (
    (
        Chunk(0, (64, 33), (0, 0), (41, 33)),
        Chunk(1, (7,), (0,), (0,)),
        Chunk(2, (1010,), (0,), (333,)),
        Chunk(2, (1010,), (700,), (310,)),
    ),
    (Chunk(0, (2112,), (1353,), (759,)), Chunk(1, (7,), (0,), (7,)), Chunk(2, (1010,), (333,), (367,))),
)
OTHER_CUT = (
    (Chunk(0, (64, 33), (0, 0), (64, 33)), Chunk(1, (7,), (0,), (7,))),
    (Chunk(2, (10, 101), (0, 0), (10, 101)),),
)


def shard_of(part: int, cut: tuple[tuple[Chunk, ...], ...] = CUT, first_checkpoint: int = 0) -> Shard:
    return Shard(part, len(cut), f"{part:032x}", first_checkpoint, cut[part])


def cut_out(chunk: Chunk, values: dict[str, NDArray[Any]]) -> bytes:
    return values[list(SHAPES)[chunk.layer]].reshape(chunk.frame)[chunk.slices].tobytes()


def record_shard(
    whole: RecordedRun, shard: Shard, folder: str, numbers: range, damage: dict[int, int] | None = None
) -> tuple[RunDir, RunDescription, SnapshotStore]:
    """What the rank of a shard would have recorded; `damage`: checkpoint to the chunk whose first element is NaN."""
    run_dir = RunDir.of(whole.run_dir.home, folder)
    run_dir.create()
    run = dataclasses.replace(whole.description, shard=shard)
    run.write(run_dir)
    layout = run.snapshot_layout
    store = SnapshotStore(run_dir.snapshots, layout.fingerprint, layout.nbytes, writer="training")
    for number in numbers:
        data = np.zeros(layout.nbytes, np.uint8)
        for place, (chunk, start) in enumerate(zip(shard.chunks, layout.offsets_bytes, strict=True)):
            raw = np.frombuffer(cut_out(chunk, whole.parameters[number]), np.uint8)
            data[start : start + len(raw)] = raw
            if damage and damage.get(number) == place:
                data[start : start + 8] = 0xFF
        before = whole.store.header(number)
        header = dataclasses.replace(before, fingerprint=layout.fingerprint)
        store.write(number, header, data.data, durable=False)
    return run_dir, run, store


def rows_of(run_dir: RunDir, run: RunDescription, store: SnapshotStore, numbers: range) -> list[Row]:
    maker = RowMaker(run_dir, run, store, threads=1)
    while not maker.gather():
        continue
    return [decode(record) for _, record in maker.make_many(numbers)]


def assert_parts_make_the_row(parts: list[Row], whole: Row, scale: NDArray[np.float64]) -> None:
    gram, products = np.zeros_like(whole.gram), np.zeros_like(whole.products)
    for row in parts:
        assert row.header.num_layers == len(row.header.layers) == len(row.gram)
        assert row.header.fingerprint == whole.header.fingerprint
        gram[list(row.header.layers)] += row.gram
        products[list(row.header.layers)] += row.products
    np.testing.assert_array_equal(np.isnan(gram), np.isnan(whole.gram))
    np.testing.assert_array_equal(np.isnan(products), np.isnan(whole.products))
    assert (np.nan_to_num(np.abs(gram - whole.gram)) <= 1e-13 * scale).all()
    assert (np.nan_to_num(np.abs(products - whole.products)) <= 4e-13 * scale.max(axis=1)[:, None]).all()


def scales(whole: RecordedRun, number: int) -> NDArray[np.float64]:
    norms = np.sqrt(np.einsum("lii->li", whole.expected_gram(number + 1)))
    scale: NDArray[np.float64] = norms[:, number, None] * norms
    return scale


def test_the_parts_of_all_shards_add_up_to_the_row_of_the_whole(home: Path) -> None:
    whole = record_run(home, None, checkpoints=11)
    expected = rows_of(whole.run_dir, whole.description, whole.store, range(11))
    parts = [
        rows_of(*record_shard(whole, shard_of(part), f"run~{part}", range(11)), range(11)) for part in (0, 1)
    ]
    assert [list(rows[0].header.layers) for rows in parts] == [[0, 1, 2], [0, 1, 2]]
    assert [(rows[3].header.part, rows[3].header.num_parts) for rows in parts] == [(0, 2), (1, 2)]
    for number, row in enumerate(expected):
        assert_parts_make_the_row([rows[number] for rows in parts], row, scales(whole, number))
        assert all((rows[number].status == LayerStatus.EXACT).all() for rows in parts)


def test_a_shard_speaks_of_its_own_layers_alone(home: Path) -> None:
    whole = record_run(home, None, checkpoints=3)
    expected = rows_of(whole.run_dir, whole.description, whole.store, range(3))
    first, second = (
        rows_of(*record_shard(whole, shard_of(part, OTHER_CUT), f"run~{part}", range(3)), range(3))
        for part in (0, 1)
    )
    assert list(first[2].header.layers) == [0, 1]
    assert list(second[2].header.layers) == [2]
    assert second[2].gram.tobytes() == expected[2].gram[2:].tobytes()


def test_a_chunk_that_is_not_finite_takes_its_layer_with_it(home: Path) -> None:
    whole = record_run(home, None, checkpoints=4)
    run_dir, run, store = record_shard(whole, shard_of(0), "run~0", range(4), damage={2: 3})
    rows = rows_of(run_dir, run, store, range(4))
    exact, non_finite = LayerStatus.EXACT, LayerStatus.NON_FINITE
    assert rows[2].status.tolist() == [exact, exact, non_finite]
    assert np.isnan(rows[2].gram[2]).all()
    assert np.isnan(rows[2].products[2]).all()
    assert not np.isnan(rows[2].gram[:2]).any()
    assert rows[3].status.tolist() == [exact] * 3
    assert np.isnan(rows[3].gram).tolist() == [[False] * 4, [False] * 4, [False, False, True, False]]


def test_a_hole_of_one_rank_is_a_row_that_knows_nothing(home: Path) -> None:
    whole = record_run(home, None, checkpoints=4)
    run_dir, _, store = record_shard(whole, shard_of(1), "run~1", range(4))
    store.path(2).unlink()
    agent = Agent(run_dir, AgentSettings())
    assert agent._next_rows()
    assert names(run_dir.spool) == [f"{number:08d}.row" for number in range(4)]
    rows = [decode((run_dir.spool / f"{number:08d}.row").read_bytes()) for number in range(4)]
    assert (rows[2].status == LayerStatus.NON_FINITE).all()
    assert rows[2].gram.shape == (3, 3)
    assert (rows[3].status == LayerStatus.SNAPSHOT_MISSING).all()
    assert np.isnan(rows[3].gram[:, 2]).all()
    assert not np.isnan(rows[3].gram[:, [0, 1, 3]]).any()
    assert agent_note(run_dir)["unreadable"] == [2]


def test_rows_of_a_new_cut_run_over_the_checkpoints_of_the_old_one(home: Path) -> None:
    whole = record_run(home, None, checkpoints=6, name="whole")
    expected = rows_of(whole.run_dir, whole.description, whole.store, range(6))
    for part in (0, 1):
        record_shard(whole, shard_of(part), f"run~{part}", range(4))
    cut = [record_shard(whole, shard_of(p, OTHER_CUT, 4), f"run~new{p}", range(4, 6)) for p in (0, 1)]
    agents = [Agent(run_dir, AgentSettings()) for run_dir, _, _ in cut]
    assert all(agent._next_rows() for agent in agents)
    for number in (4, 5):
        file = f"{number:08d}.row"
        parts = [decode((run_dir.spool / file).read_bytes()) for run_dir, _, _ in cut]
        assert_parts_make_the_row(parts, expected[number], scales(whole, number))
    assert names(cut[0][0].spool) == ["00000004.row", "00000005.row"]


def test_an_earlier_checkpoint_that_cannot_be_brought_is_missing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trajmon.agent.rows._GATHER_SECONDS", 0.0)
    whole = record_run(home, None, checkpoints=4, name="whole")
    for part in (0, 1):
        record_shard(whole, shard_of(part), f"run~{part}", range(1))
    run_dir, _, _ = record_shard(whole, shard_of(0, OTHER_CUT, 2), "run~new", range(2, 4))
    agent = Agent(run_dir, AgentSettings())
    assert agent._next_rows()
    row = decode((run_dir.spool / "00000003.row").read_bytes())
    assert (row.status == LayerStatus.SNAPSHOT_MISSING).all()
    assert np.isnan(row.gram).tolist() == [[False, True, False, False]] * 2


def test_mode_and_way_of_copying_stand_in_the_row(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=1)
    header = SnapshotHeader(
        1, 1, 10, recorded.description.layout.fingerprint, previous=0, mode="norm_only", copy="overlap"
    )
    recorded.store.write(1, header, recorded.store.data(0).data, durable=False)
    rows = rows_of(recorded.run_dir, recorded.description, recorded.store, range(2))
    assert rows[0].header.info.mode == types_pb2.TRAINING_MODE_FULL
    assert rows[0].header.info.copy == "wait"
    assert rows[1].header.info.mode == types_pb2.TRAINING_MODE_NORM_ONLY
    assert rows[1].header.info.copy == "overlap"
    assert list(rows[1].header.layers) == []
