"""The sum of a row's parts, against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.rows import Cut, SyntheticRun
from trajmon_protos.record import LayerStatus, Row, decode, encode
from trajmon_protos.v1 import types_pb2
from trajmon_server.runs.parts import OpenRow, add_up, file_part

EXACT, NON_FINITE, MISSING = LayerStatus.EXACT, LayerStatus.NON_FINITE, LayerStatus.SNAPSHOT_MISSING


def part(values: list[float], number: int, count: int, layers: list[int] | None = None) -> Row:
    """Part `number` of `count` of checkpoint 0; one value for each layer, in the Gram and in every product."""
    header = types_pb2.RowHeader(
        run_id="a" * 32,
        attempt=1,
        part=number,
        num_parts=count,
        num_layers=len(values),
        layers=layers or [],
        info=types_pb2.CheckpointInfo(step=7, time_unix_seconds=100.0 - number, stall_seconds=float(number)),
    )
    column = np.array(values)[:, None]
    status = np.where(np.isnan(column[:, 0]), NON_FINITE, EXACT).astype(np.uint8)
    return Row(header, column, np.repeat(column, 4, axis=1), status)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_row_is_the_sum_of_any_cut_of_it(data: st.DataObject) -> None:
    num_layers = data.draw(st.integers(1, 4))
    run = SyntheticRun("cut", num_layers=num_layers, layer_size=6, num_checkpoints=4)
    num_parts = data.draw(st.integers(2, 9))
    cut = Cut.of(run, num_parts, seed=data.draw(st.integers(0, 99)))
    checkpoint = data.draw(st.integers(0, 3))
    total = add_up((run.part_row(checkpoint, cut, p) for p in range(num_parts)), num_layers)
    whole = run.row(checkpoint)
    scale = np.abs(run.parameters).max() ** 2 * 6
    np.testing.assert_allclose(total.gram, whole.gram, rtol=0, atol=1e-15 * scale)
    np.testing.assert_allclose(total.products, whole.products, rtol=0, atol=1e-15 * scale)
    np.testing.assert_array_equal(total.status, EXACT)
    # As it is stored, it is a whole row like any other.
    stored = decode(encode(total))
    assert (stored.header.part, stored.header.num_parts, stored.header.num_layers) == (0, 1, num_layers)
    assert not stored.header.layers
    assert stored.header.HasField("previous") == (checkpoint > 0)


WIDE = st.floats(-1e150, 1e150)


@settings(max_examples=100, deadline=None)
@given(st.lists(WIDE, min_size=2, max_size=60))
def test_nothing_is_lost_in_rounding(values: list[float]) -> None:
    total = add_up((part([value], p, len(values)) for p, value in enumerate(values)), 1)
    exact = sum(map(Fraction, values), Fraction(0))
    size = sum((abs(Fraction(value)) for value in values), Fraction(0))
    error = abs(Fraction(float(total.gram[0, 0])) - exact)
    # One rounding of the result, and what the compensation itself rounds.
    assert (
        error
        <= abs(exact) * Fraction(2) ** -53
        + size * len(values) ** 2 * Fraction(2) ** -104
        + Fraction(2) ** -1074
    )
    np.testing.assert_array_equal(total.products, np.full((1, 4), total.gram[0, 0]))


def test_a_thousand_parts_that_cancel_are_exact_where_a_plain_sum_is_not() -> None:
    values = [1e16, *[1.0] * 998, -1e16]
    total = add_up((part([value], p, 1000) for p, value in enumerate(values)), 1)
    assert total.gram[0, 0] == math.fsum(values) == 998.0
    assert np.sum(np.array(values)) != 998.0


@pytest.mark.parametrize("values", [[1.0, 1e100, 1.0, -1e100], [1e100, 1.0, -1e100, 1.0]])
def test_small_parts_are_kept_before_and_after_large_ones(values: list[float]) -> None:
    assert add_up((part([value], p, 4) for p, value in enumerate(values)), 1).gram[0, 0] == 2.0


def test_what_any_part_does_not_know_is_not_known() -> None:
    parts = [part([1.0, 2.0, 3.0], 0, 2), part([10.0, np.nan, 30.0], 1, 2)]
    parts[0].status[2] = MISSING
    total = add_up(parts, 3)
    np.testing.assert_array_equal(total.status, [EXACT, NON_FINITE, MISSING])
    np.testing.assert_array_equal(total.gram[:, 0], [11.0, np.nan, 33.0])
    np.testing.assert_array_equal(total.products[:, 2], [11.0, np.nan, 33.0])


def test_a_non_finite_layer_has_no_numbers_at_all() -> None:
    parts = [part([1.0], 0, 2), part([2.0], 1, 2)]
    parts[1].status[0] = NON_FINITE
    total = add_up(parts, 1)
    assert np.isnan(total.gram).all()
    assert np.isnan(total.products).all()
    assert total.status[0] == NON_FINITE


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_non_finite_wins_over_missing_in_either_order(order: tuple[int, int]) -> None:
    marks = (NON_FINITE, MISSING)
    parts = [part([1.0], 0, 2), part([2.0], 1, 2)]
    for row, mark in zip(parts, order, strict=True):
        row.status[0] = marks[mark]
    assert add_up(parts, 1).status[0] == NON_FINITE


def test_a_sum_beyond_float64_is_not_finite() -> None:
    total = add_up([part([1.7e308, 1.0], 0, 2), part([1.7e308, 2.0], 1, 2)], 2)
    np.testing.assert_array_equal(total.status, [NON_FINITE, EXACT])
    assert np.isnan(total.gram[0]).all()
    assert total.gram[1, 0] == 3.0


def test_layers_that_a_part_does_not_list_get_nothing_from_it() -> None:
    total = add_up([part([1.0, 2.0], 0, 2, [0, 3]), part([10.0, 20.0], 1, 2, [1, 3])], 5, empty_layers=[4])
    # Layer 2 is nobody's: that is a hole in the cut, not a zero. Layer 4 has no elements to own.
    np.testing.assert_array_equal(total.gram[:, 0], [1.0, 10.0, np.nan, 22.0, 0.0])
    np.testing.assert_array_equal(total.status, [EXACT, EXACT, MISSING, EXACT, EXACT])


def test_what_else_a_row_says() -> None:
    parts = [part([1.0], p, 3) for p in range(3)]
    for row in parts:
        row.header.info.metrics["rank"] = row.header.part
        row.header.info.epoch = row.header.part + 0.5
        row.header.info.mode = types_pb2.TRAINING_MODE_FULL
        row.header.info.copy = "overlap" if row.header.part == 0 else "wait"
    parts[0].header.info.mode = types_pb2.TRAINING_MODE_NORM_ONLY
    info = add_up(parts, 1).header.info
    assert (info.step, info.time_unix_seconds, info.stall_seconds) == (7, 98.0, 2.0)
    assert (dict(info.metrics), info.epoch, info.copy) == ({"rank": 0.0}, 0.5, "overlap")
    assert info.mode == types_pb2.TRAINING_MODE_NORM_ONLY


def test_the_parts_are_left_as_they_are() -> None:
    parts = [part([1.0], p, 2) for p in range(2)]
    before = [encode(row) for row in parts]
    add_up(parts, 1)
    assert [encode(row) for row in parts] == before


def other(name: str, value: object) -> Row:
    row = part([1.0], 1, 2)
    setattr(row.header.info if name == "step" else row.header, name, value)
    return row


@pytest.mark.parametrize(
    ("second", "text"),
    [
        (
            other("attempt", 2),
            "does not belong to the others: attempt is 2, the parts that are stored have 1",
        ),
        (other("step", 8), "step is 8, the parts that are stored have 7"),
        (other("num_parts", 3), "num_parts is 3, the parts that are stored have 2"),
        (other("previous", 0), "previous is 0, the parts that are stored have None"),
        (other("run_id", "b" * 32), "part 1 of checkpoint 0 is of another run or checkpoint"),
        (other("fingerprint", "f"), "is of another run or checkpoint"),
        (part([1.0], 0, 2), "part 0 of checkpoint 0 came, part 1 is next"),
    ],
)
def test_what_does_not_belong_together_has_no_sum(second: Row, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        add_up([part([1.0], 0, 2), second], 1)


def test_some_parts_are_not_a_row() -> None:
    for parts in ([], [part([1.0], 0, 2)]):
        with pytest.raises(ValueError, match="some are missing"):
            add_up(parts, 1)


def test_what_is_known_of_an_open_row() -> None:
    run = SyntheticRun("open")
    cut = Cut.of(run, 70)
    known = OpenRow.announced_by(run.part_row(1, cut, 3).header)
    assert (known.attempt, known.num_parts, known.previous, known.step, known.stored) == (1, 70, 0, 10, 0)
    assert len(known.missing()) == 70
    for number in range(70):
        assert not known.is_complete
        assert not known.has(number)
        known = known.with_part(number).with_part(number)
        assert known.has(number)
    assert known.is_complete
    assert known.missing() == []


def test_parts_lie_behind_the_whole_row() -> None:
    run = SyntheticRun("files")
    assert file_part(run.row(0).header) == 0
    cut = Cut.of(run, 3)
    assert [file_part(run.part_row(0, cut, p).header) for p in range(3)] == [1, 2, 3]
