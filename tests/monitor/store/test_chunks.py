"""Hand-written chunk files against zarr-python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from trajmon_server.store.chunks import (
    ChunkError,
    ShardReader,
    ShardWriter,
    decode_chunk,
    encode_chunk,
    encode_strings,
)
from trajmon_server.store.layout import ArrayPlan, RunShape


def _plan(grid: tuple[int, int, int], inner: tuple[int, int, int]) -> ArrayPlan:
    outer = (grid[0] * inner[0], grid[1] * inner[1], grid[2] * inner[2])
    return ArrayPlan("gram", ("layer", "checkpoint", "checkpoint_j"), "float64", np.nan, outer, inner)


def _write(path: Path, plan: ArrayPlan, chunks: dict[tuple[int, int, int], np.ndarray]) -> None:
    with path.open("wb") as file:
        writer = ShardWriter(file.fileno(), plan)
        for position, values in chunks.items():
            writer.add(position, values)
        writer.finish()


@given(
    grid=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 3)),
    inner=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4)),
    data=st.data(),
)
def test_a_shard_reads_back_through_zarr_and_here(
    tmp_path_factory: pytest.TempPathFactory,
    grid: tuple[int, int, int],
    inner: tuple[int, int, int],
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    plan = _plan(grid, inner)
    positions = data.draw(st.permutations(list(np.ndindex(grid))))
    present = positions[: data.draw(st.integers(0, len(positions)))]
    random = np.random.default_rng(len(present))
    chunks = {tuple(position): random.standard_normal(inner) for position in present}
    expected = np.full(plan.chunk, np.nan)
    for (a, b, c), values in chunks.items():
        expected[
            a * inner[0] : (a + 1) * inner[0],
            b * inner[1] : (b + 1) * inner[1],
            c * inner[2] : (c + 1) * inner[2],
        ] = values
    # Dimensions of a document come from the run; these are as long as one shard.
    run = RunShape("a" * 32, "x", ("l",) * plan.chunk[0], (("network", (0,)),))
    document = plan.document(run, 0) | {"shape": list(plan.chunk)}
    (folder / "zarr.json").write_text(json.dumps(document))
    _write(folder / "c.0.0.0", plan, chunks)
    array = zarr.open_array(folder, mode="r")
    assert np.array_equal(np.asarray(array[:]), expected, equal_nan=True)
    with ShardReader(folder / "c.0.0.0", plan) as reader:
        for position, values in chunks.items():
            assert np.array_equal(reader.read(position), values)
        for position in positions[len(present) :]:
            with pytest.raises(ChunkError, match=r"^inner chunk \(\d, \d, \d\) is not there$"):
                reader.read(position)


def test_every_flipped_bit_of_a_shard_is_found(tmp_path: Path) -> None:
    plan = _plan((2, 1, 1), (1, 2, 2))
    chunks = {(a, 0, 0): np.full((1, 2, 2), 1.5 + a) for a in range(2)}
    path = tmp_path / "shard"
    _write(path, plan, chunks)
    good = path.read_bytes()
    for place in range(8 * len(good)):
        spoilt = bytearray(good)
        spoilt[place // 8] ^= 1 << place % 8
        path.write_bytes(spoilt)
        found = 0
        try:
            with ShardReader(path, plan) as reader:
                for position, values in chunks.items():
                    try:
                        assert np.array_equal(reader.read(position), values)
                    except ChunkError:
                        found += 1
        except ChunkError:
            found += 1
        assert found == 1, place


@pytest.mark.parametrize("kept", [0, 3, 35, 71])
def test_a_cut_shard_is_refused(tmp_path: Path, kept: int) -> None:
    plan = _plan((2, 1, 1), (1, 2, 2))
    path = tmp_path / "shard"
    _write(path, plan, {(0, 0, 0): np.zeros((1, 2, 2))})
    path.write_bytes(path.read_bytes()[:kept])
    text = "checksum does not match" if kept == 71 else f"it has {kept} bytes, fewer than its index"
    with pytest.raises(ChunkError) as caught:
        ShardReader(path, plan)
    assert str(caught.value) == text


def test_a_plain_chunk_comes_back_and_damage_is_named() -> None:
    plan = ArrayPlan("step", ("checkpoint",), "int64", -1, (3,))
    data = encode_chunk(np.array([1, 2, 3]))
    assert decode_chunk(data, plan).tolist() == [1, 2, 3]
    for spoilt, text in ((data[:-1] + b"\0", "checksum does not match"), (b"", "checksum does not match")):
        with pytest.raises(ChunkError, match=text):
            decode_chunk(spoilt, plan)
    with pytest.raises(ChunkError, match=r"^it has 20 bytes instead of 28$"):
        decode_chunk(encode_chunk(np.array([1, 2])), plan)


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_names_read_back_through_zarr(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("names")
    run = RunShape("a" * 32, "x", tuple(names), (("network", (0,)),))
    plan = ArrayPlan("layer", ("layer",), "string", "", (len(names),))
    (folder / "zarr.json").write_text(json.dumps(plan.document(run, 0)))
    (folder / "c.0").write_bytes(encode_strings(tuple(names)))
    assert list(np.asarray(zarr.open_array(folder, mode="r")[:])) == names
