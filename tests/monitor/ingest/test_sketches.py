"""Sketches through the ingest core, over a real journal: in any order with the rows, in parts, across restarts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from support.core import CALLER, Server, play
from support.rows import Cut, SyntheticRun
from support.sketches import SPEC, part_sketch_row, sketch_record, sketch_row, thinned
from trajmon_protos.record import LayerStatus
from trajmon_protos.sketch import SketchSpec
from trajmon_protos.sketch_record import SketchRow, decode_sketch, encode_sketch
from trajmon_server.config import Limits
from trajmon_server.errors import Conflict, InvalidRequest, OutOfOrder
from trajmon_server.query.core import MapQuery, Query
from trajmon_server.runs.run import Run

COUNT = 12


def run_of(name: str, **options: int) -> SyntheticRun:
    return SyntheticRun(name, layer_size=64, num_checkpoints=COUNT, **options)


def kept(checkpoint: int) -> set[int]:
    """Checkpoint 0 and the last two."""
    return {0, checkpoint - 1, checkpoint - 2, checkpoint}


async def analysed(server: Server, source: SyntheticRun) -> Run:
    run = server.run(source)
    server.house.registry.wake(run)
    assert await run.wait_analysed(run.num_checkpoints, 60), run.failure
    return run


def group_estimates(server: Server, source: SyntheticRun) -> NDArray[np.float64]:
    maps = server.house.registry.maps(server.run(source).description)
    found = maps.read_estimates("group", 0, np.arange(COUNT))
    assert found is not None
    return np.stack([found.estimate, found.error])


def test_sketches_fill_holes_whenever_they_come(server: Server) -> None:
    before, after = run_of("before"), run_of("after")

    async def scenario() -> None:
        for checkpoint in range(COUNT):
            await server.push_whole(before, sketch_record(before, checkpoint))
            await server.push_whole(before, thinned(before, checkpoint, kept(checkpoint)))
        for checkpoint in range(COUNT):
            await server.push_whole(after, thinned(after, checkpoint, kept(checkpoint)))
        for checkpoint in reversed(range(COUNT)):
            await server.push_whole(after, sketch_record(after, checkpoint))
        for source in (before, after):
            run = await analysed(server, source)
            assert run.sketches.known == set(range(COUNT))
            assert run.analysis.errors["network"]["mds"] > 0.0

    play(server, scenario())
    # Both runs have the same parameters, and all came in the end.
    np.testing.assert_array_equal(group_estimates(server, before), group_estimates(server, after))
    estimate, error = group_estimates(server, before)
    truth = before.gram(list(range(COUNT)))
    holes = ~np.isnan(estimate)
    assert holes.sum() == sum(2 for i in range(COUNT) for j in range(i) if j not in kept(i))
    assert np.mean(np.abs(estimate - truth)[holes] <= 3.0 * error[holes]) > 0.95


def test_a_restart_finds_the_same_sketches_and_estimates(server: Server) -> None:
    source = run_of("restarted")

    async def scenario() -> None:
        for checkpoint in range(COUNT):
            await server.push_whole(source, sketch_record(source, checkpoint))
            await server.push_whole(source, thinned(source, checkpoint, kept(checkpoint)))
        run = await analysed(server, source)
        first, errors = group_estimates(server, source), run.analysis.errors
        await server.restart()
        run = await analysed(server, source)
        assert run.sketches.spec == SPEC
        assert run.sketches.known == set(range(COUNT))
        assert run.analysis.errors == errors
        np.testing.assert_array_equal(group_estimates(server, source), first)
        # Again the same: acknowledged again, stored once.
        receipt = await server.push_whole(source, sketch_record(source, 3))
        assert receipt.duplicate

    play(server, scenario())


def test_sketches_that_became_durable_just_before_a_crash_are_in_the_maps(server: Server) -> None:
    source = run_of("crashed")

    async def scenario() -> None:
        for checkpoint in range(COUNT):
            await server.push_whole(source, thinned(source, checkpoint, kept(checkpoint)))
        await analysed(server, source)
        for checkpoint in range(COUNT):
            record = sketch_record(source, checkpoint)
            server.house.journal.append(source.run_id, checkpoint, 0, record, kind="sketch")
        await server.restart()
        run = await analysed(server, source)
        assert run.analysis.errors["network"]["mds"] > 0.0
        assert not np.isnan(group_estimates(server, source)[0, COUNT - 1, 3])

    play(server, scenario())


def test_parts_of_a_sketch_add_up_to_the_sketch_of_the_whole_bit_for_bit(server: Server) -> None:
    source = run_of("parts")
    cut = Cut.of(source, 3)

    async def scenario() -> None:
        for checkpoint in range(4):
            for part in (2, 0, 1):
                record = encode_sketch(part_sketch_row(source, checkpoint, cut, part))
                await server.push(source, cut, part, record)
                if part == 0:
                    assert server.run(source).sketches.open[checkpoint].missing() == [1]
                    await server.restart()
            assert checkpoint in server.run(source).sketches.known

    play(server, scenario())
    for checkpoint in range(4):
        path = server.folder / "journal" / source.run_id / "sketches" / f"{checkpoint:08d}.0000.sketch"
        stored, expected = decode_sketch(path.read_bytes()), sketch_row(source, checkpoint)
        np.testing.assert_array_equal(stored.values, expected.values)
        np.testing.assert_allclose(stored.norms, expected.norms, rtol=1e-13)
        np.testing.assert_allclose(stored.products, expected.products, rtol=1e-12)
        assert stored.header.row.num_parts == 1


def test_what_came_ahead_of_its_row_is_shown_until_the_row_comes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trajmon_server.runs.worker.EARLY_AFTER_SECONDS", 0.0)
    source = run_of("early")

    async def scenario() -> None:
        for checkpoint in range(COUNT):
            await server.push_whole(source, sketch_record(source, checkpoint))
            if checkpoint < 6:
                await server.push_whole(source, source.record(checkpoint))
        run = await analysed(server, source)
        while run.shown.path != tuple(range(COUNT)):
            await run.next_change().wait()
        assert run.analysis.path == tuple(range(6))
        assert run.analysis.errors["network"] == {}
        early = run.shown
        truth = source.gram(list(range(COUNT)))
        lengths = np.sqrt(np.diagonal(truth))
        mds = float((truth / np.outer(lengths, lengths)).mean())
        assert abs(early.hallmarks["network"]["mds"] - mds) <= 3.0 * early.errors["network"]["mds"]
        assert "update_norm" not in early.errors["network"]
        assert run.meta(COUNT - 1) is not None
        assert run.current_advice().checkpoint == COUNT - 1
        await early_maps(server, source, truth)
        for checkpoint in range(6, COUNT):
            await server.push_whole(source, source.record(checkpoint))
        await analysed(server, source)
        assert run.early is None
        assert run.shown.hallmarks["network"]["mds"] == pytest.approx(mds, rel=1e-12)
        assert run.shown.errors["network"] == {}

    play(server, scenario())


async def early_maps(server: Server, source: SyntheticRun, truth: NDArray[np.float64]) -> None:
    """Maps and curves reach as far as the sketches do."""
    query = Query(server.house.registry, server.house.journal, Limits(), server.executor)
    lengths = np.sqrt(np.diagonal(truth))
    for scope in ("network", "layer:layer1.weight"):
        answer = await query.map(source.name, MapQuery(scope), CALLER)
        assert answer.checkpoint.tolist() == list(range(COUNT))
        assert answer.step.tolist() == [10 * number for number in range(COUNT)]
        assert answer.error is not None
        assert (answer.error[:6, :6] == 0.0).all()
        assert (np.diagonal(answer.error) == 0.0).all()
        assert answer.error[-1, 0] > 0.0
        if scope == "network":
            off = np.abs(answer.map - truth / np.outer(lengths, lengths))
            assert np.mean(off <= 3.0 * answer.error + 1e-9) > 0.95
    about = await query.map(source.name, MapQuery(relative_to=0), CALLER)
    assert about.map.shape == (COUNT - 1, COUNT - 1)
    curves = await query.hallmarks(source.name, "network", CALLER)
    update = np.linalg.norm(np.diff(source.parameters, axis=0).reshape(COUNT - 1, -1), axis=1)
    np.testing.assert_allclose(curves["update_norm"][1:], update, rtol=1e-9)
    assert curves["error:mds"][-1] > 0.0
    assert curves["error:mds"][5] == 0.0


def with_header(change: Callable[[SketchRow], object]) -> Callable[[SketchRow], SketchRow]:
    def changed(row: SketchRow) -> SketchRow:
        change(row)
        return row

    return changed


def with_value(index: int, value: float) -> Callable[[SketchRow], SketchRow]:
    def changed(row: SketchRow) -> SketchRow:
        values = row.values.copy()
        values[index] = value
        return replace(row, values=values)

    return changed


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        (
            with_header(lambda row: setattr(row.header.spec, "version", 2)),
            "spec",
            "sketch version 2 is not 1",
        ),
        (
            with_header(lambda row: setattr(row.header.spec, "bins", 12)),
            "spec",
            "12 bins: it must be a prime number",
        ),
        (
            with_header(lambda row: setattr(row.header.spec, "seed", 5)),
            "spec",
            "the sketch has version 1, 11 bins, seed 5; the run is sketched with version 1, 11 bins, seed 0",
        ),
        (
            with_header(lambda row: setattr(row.header.spec, "bins", 13)),
            "spec",
            "the sketch has version 1, 13 bins, seed 0; the run is sketched with version 1, 11 bins",
        ),
        (
            with_header(lambda row: setattr(row.header.row, "fingerprint", "0" * 32)),
            "fingerprint",
            "the run has",
        ),
        (with_header(lambda row: setattr(row.header.row, "run_id", "1" * 32)), "run_id", "record is of run"),
        (with_header(lambda row: setattr(row.header.row, "attempt", 7)), "attempt", "record is of attempt 7"),
        (
            lambda row: replace(row, values=row.values[:-1], header=shortened(row)),
            "num_columns",
            "has 32 columns; the run's layers with version 1, 11 bins, seed 0 have 33",
        ),
        (
            lambda row: replace(row, values=row.values.astype(np.float32), header=narrow(row)),
            "dtype",
            "sketches are '<f4', this run's are '<f8'",
        ),
        (with_value(12, np.nan), "values[1]", "layer 'layer1.weight' is sketched with NaN or Inf"),
        (with_value(2, np.inf), "values[0]", "mark the layer NON_FINITE instead"),
        (lambda row: replace(row, norms=-row.norms), "norms[0]", "inner product with itself is -"),
        (lambda row: replace(row, gram=np.full_like(row.gram, np.inf)), "gram[0]", "holds Inf"),
        (
            lambda row: replace(row, status=np.full_like(row.status, 9)),
            "status[0]",
            "9 is not a layer status",
        ),
    ],
)
def test_a_wrong_sketch_is_refused_and_changes_nothing(
    server: Server, change: Callable[[SketchRow], SketchRow], field: str, text: str
) -> None:
    source = run_of("wrong")

    async def scenario() -> None:
        await server.push_whole(source, sketch_record(source, 0))
        folder = server.folder / "journal" / source.run_id
        before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        record = encode_sketch(change(sketch_row(source, 1)))
        with pytest.raises(InvalidRequest) as refused:
            await server.push_whole(source, record)
        assert any(a.field == field and text in a.text for a in refused.value.violations), refused.value
        assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        assert server.run(source).sketches.known == {0}
        await server.push_whole(source, sketch_record(source, 1))

    play(server, scenario())


def shortened(row: SketchRow) -> object:
    row.header.num_columns -= 1
    return row.header


def narrow(row: SketchRow) -> object:
    row.header.dtype = "<f4"
    return row.header


def test_damaged_bytes_are_refused_in_words(server: Server) -> None:
    source = run_of("damaged")
    record = bytearray(sketch_record(source, 0))
    record[60] ^= 1

    async def scenario() -> None:
        with pytest.raises(InvalidRequest, match="does not match its checksum; nothing was stored"):
            await server.push_whole(source, bytes(record))
        with pytest.raises(InvalidRequest, match=r"announces|fewer than"):
            await server.push_whole(source, sketch_record(source, 0)[:-3])
        version = bytearray(sketch_record(source, 0))
        version[7] = 9
        with pytest.raises(InvalidRequest, match="version 9 is not 1"):
            await server.push_whole(source, bytes(version))

    play(server, scenario())


def test_another_sketch_of_the_same_checkpoint_is_refused(server: Server) -> None:
    source = run_of("conflict")

    async def scenario() -> None:
        await server.push_whole(source, sketch_record(source, 0))
        other = sketch_row(source, 0)
        other = replace(other, norms=other.norms * 2.0)
        with pytest.raises(Conflict, match="the stored row was kept"):
            await server.push_whole(source, encode_sketch(other))

    play(server, scenario())


def test_a_sketch_far_ahead_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trajmon_server.ingest.checks.MAX_UNSEEN", 3)
    source = run_of("ahead")

    async def scenario() -> None:
        with pytest.raises(OutOfOrder, match="the sketch of checkpoint 5 came, rows only up to 0"):
            await server.push_whole(source, sketch_record(source, 5))

    play(server, scenario())


def test_a_layer_that_is_not_finite_has_no_sketch(server: Server) -> None:
    source = run_of("nan")

    async def scenario() -> None:
        row = sketch_row(source, 0)
        status, values = row.status.copy(), row.values.copy()
        status[1], values[11:22] = LayerStatus.NON_FINITE, np.nan
        await server.push_whole(source, encode_sketch(replace(row, status=status, values=values)))

    play(server, scenario())


def test_another_specification_is_not_told_apart_by_bins_alone() -> None:
    assert SketchSpec(bins=11) != SketchSpec(bins=11, seed=1)
