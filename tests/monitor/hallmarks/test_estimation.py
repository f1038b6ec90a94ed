"""What the estimator takes, refuses, leaves undefined, and where it must be exact."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from support.folding import collision_rate, estimated, fold, held, random_signs, with_holes
from trajmon_server.hallmarks.estimation import MAX_ANCHORS, Filled, add, group_sums, start

Array = NDArray[np.float64]
CLOSE = 2.0**-53
FLOAT32 = 2.0**-24
BINS = 101


def walk(seed: int, *, layers: int = 2, checkpoints: int = 20, n: int = 600) -> tuple[Array, Array, Array]:
    """Points [L, T, n] of a random walk, their Gram, and that of their sketches."""
    rng = np.random.default_rng(seed)
    points = np.cumsum(rng.normal(size=(layers, checkpoints, n)), axis=1)
    return points, points @ points.transpose(0, 2, 1), sketch_gram(points, rng)


def sketch_gram(points: Array, rng: np.random.Generator) -> Array:
    sketch = np.stack([fold(layer, random_signs(rng, layer.shape[-1]), BINS) for layer in points])
    return sketch @ sketch.transpose(0, 2, 1)


RATE = collision_rate(600, BINS)


def test_only_holes_are_filled() -> None:
    _, gram, sketch = walk(1)
    state = start(np.full(2, RATE), CLOSE)
    for newest, row in enumerate(with_holes(gram, 5)):
        state, filled = add(state, row, sketch[:, newest, : newest + 1])
        np.testing.assert_array_equal(np.isnan(filled.estimate), ~np.isnan(row))
        np.testing.assert_array_equal(np.isnan(filled.error), ~np.isnan(row))
        assert not (filled.error <= 0).any()


def test_without_sketches_nothing_is_said_and_the_next_checkpoints_are_estimated() -> None:
    _, gram, sketch = walk(2)
    sketch[:, 7], sketch[:, :, 7] = np.nan, np.nan
    values, errors, _ = estimated(with_holes(gram, 4), sketch, np.full(2, RATE), CLOSE)
    assert 7 not in held(19, 4)
    assert np.isnan(values[:, 19, 7]).all()
    assert np.isnan(errors[:, 19, 7]).all()
    assert np.isnan(values[:, 7, held(7, 4)]).sum() == 0
    assert np.isnan(values[:, 7, [2, 3]]).all()
    others = np.delete(np.arange(20), 7)
    assert np.isfinite(values[:, 19, others]).all()


def test_a_layer_that_is_not_finite_leaves_the_others_alone() -> None:
    _, gram, sketch = walk(3, layers=3)
    whole, whole_errors, _ = estimated(with_holes(gram, 5), sketch, np.full(3, RATE), CLOSE)
    for each in (gram, sketch):
        each[1, 9], each[1, :, 9] = np.nan, np.nan
    values, errors, _ = estimated(with_holes(gram, 5), sketch, np.full(3, RATE), CLOSE)
    np.testing.assert_allclose(values[[0, 2]], whole[[0, 2]], rtol=1e-12)
    np.testing.assert_allclose(errors[[0, 2]], whole_errors[[0, 2]], rtol=1e-9)
    assert np.isnan(values[1, 9]).all()
    assert np.isnan(errors[1, 9]).all()
    others = np.delete(np.arange(20), 9)
    assert np.isfinite(values[1][np.ix_(others, others)]).all()


def test_a_row_of_nothing_does_not_lose_the_anchors() -> None:
    _, gram, sketch = walk(4)
    broken, broken_sketch = gram.copy(), sketch.copy()
    for each in (broken, broken_sketch):
        each[:, 12], each[:, :, 12] = np.nan, np.nan
    _, errors, _ = estimated(with_holes(gram, 6), sketch, np.full(2, RATE), CLOSE)
    _, after, state = estimated(with_holes(broken, 6), broken_sketch, np.full(2, RATE), CLOSE)
    assert {0, 8, 16} <= set(state.anchors)
    others = np.delete(np.arange(19), 12)
    np.testing.assert_allclose(after[:, 19, others], errors[:, 19, others], rtol=0.2)


@pytest.mark.parametrize("rounding", [CLOSE, FLOAT32])
def test_sketches_without_collisions_are_exact_up_to_their_rounding(rounding: float) -> None:
    rng = np.random.default_rng(5)
    points = 1.0 + 0.01 * np.cumsum(rng.normal(size=(1, 24, 90)), axis=1)
    gram = points @ points.transpose(0, 2, 1)
    sketch = fold(points, random_signs(rng, 90), BINS)
    if rounding == FLOAT32:
        sketch = sketch.astype(np.float32).astype(np.float64)
    for keep in (2, 6):
        values, errors, _ = estimated(
            with_holes(gram, keep), sketch @ sketch.transpose(0, 2, 1), np.zeros(1), rounding
        )
        holes = errors > 0
        size = gram[0, 0, 0]
        assert (np.abs(values - gram) <= errors + 1e-14 * size)[holes].all()
        assert errors.max() <= 4 * rounding * size + 2e-12 * size


def test_the_same_checkpoint_twice() -> None:
    """Correlation exactly 1: to an anchor, to one that is not kept, and to the next one."""
    rng = np.random.default_rng(6)
    points = np.cumsum(rng.normal(size=(1, 20, 600)), axis=1)
    points[0, 19], points[0, 13], points[0, 14] = points[0, 5], points[0, 8], points[0, 13]
    gram = points @ points.transpose(0, 2, 1)
    values, errors, _ = estimated(with_holes(gram, 4), sketch_gram(points, rng), np.full(1, RATE), CLOSE)
    assert errors[0, 19, 5] > 0
    assert abs(values[0, 19, 5] / gram[0, 5, 5] - 1) <= 1e-9
    assert errors[0, 19, 5] <= 1e-9 * gram[0, 5, 5]
    assert np.mean(np.abs(values - gram) > 3 * errors + 1e-12 * gram.max()) <= 0.02


def test_zero_layers_and_constant_ones() -> None:
    rng = np.random.default_rng(7)
    points = np.cumsum(rng.normal(size=(3, 12, 600)), axis=1)
    points[0], points[1], points[2, 4] = 0.0, points[1, :1], 0.0
    gram = points @ points.transpose(0, 2, 1)
    values, errors, _ = estimated(with_holes(gram, 4), sketch_gram(points, rng), np.full(3, RATE), FLOAT32)
    assert (values[0] == 0).all()
    assert (errors[0] == 0).all()
    assert (np.abs(values[1] / gram[1] - 1) <= 1e-6).all()
    assert (errors[1] <= 1e-6 * gram[1]).all()
    assert (values[2, 4] == 0).all()
    assert (errors[2, 4] == 0).all()


@pytest.mark.parametrize("apart", [1e-3, 1e-5, 1e-7, 0.0])
def test_anchors_almost_parallel_do_no_harm(apart: float) -> None:
    """Anchors of cosines 1 - 1e-6, 1 - 1e-10, 1, and walkers far from them."""
    rng = np.random.default_rng(8)
    n, ratios = 600, []
    for _ in range(30):
        points = rng.normal(size=(1, 24, n))
        anchors = [0, 4, 8, 12, 16, 20]
        points[0, anchors] = points[0, 0] + apart * rng.normal(size=(len(anchors), n))
        points[0] += 3 * points[0, 0]
        gram = points @ points.transpose(0, 2, 1)
        values, errors, _ = estimated(
            with_holes(gram, 8), sketch_gram(points, rng), np.full(1, RATE), FLOAT32
        )
        holes = errors > 0
        ratios.append(((values - gram) / np.where(holes, errors, 1.0))[holes])
        # No worse than the residuals from one anchor alone.
        assert np.median(errors[holes]) <= 1.2 * np.sqrt(RATE) * n
    ratio = np.concatenate(ratios)
    assert 0.93 <= np.mean(np.abs(ratio) <= 1.96) <= 0.98


def test_rounding_of_the_gram_is_in_the_error() -> None:
    """Entries off by as much as resolution.py allows them to be, and residuals far below."""
    rng = np.random.default_rng(9)
    start_point = rng.normal(size=600)
    points = start_point + 1e-8 * np.cumsum(rng.normal(size=(1, 20, 600)), axis=1)
    exact = np.asarray(
        points.astype(np.longdouble) @ points.transpose(0, 2, 1).astype(np.longdouble), dtype=np.float64
    )
    noise = np.triu(rng.uniform(-1e-14, 1e-14, size=exact.shape))
    gram = exact * (1 + noise + noise.transpose(0, 2, 1))
    values, errors, _ = estimated(with_holes(gram, 5), sketch_gram(points, rng), np.full(1, RATE), CLOSE)
    holes = errors > 0
    assert np.isfinite(values).all()
    assert np.mean(np.abs(values - exact)[holes] <= 1.96 * errors[holes]) >= 0.95


def test_nonsense_from_a_client_is_survived() -> None:
    rng = np.random.default_rng(10)
    for scale in (1e300, 1e-300, 1.0):
        gram = scale * rng.normal(size=(2, 16, 16))
        sketch = scale * rng.normal(size=(2, 16, 16))
        with np.errstate(all="ignore"):
            estimated(with_holes(gram, 5), sketch, np.full(2, RATE), FLOAT32)


def test_one_checkpoint_and_two() -> None:
    state = start(np.array([RATE]), CLOSE)
    state, filled = add(state, np.array([[2.0]]), np.array([[2.1]]))
    assert np.isnan(filled.estimate).all()
    assert np.isnan(filled.error).all()
    state, filled = add(state, np.array([[np.nan, 2.0]]), np.array([[1.0, 2.0]]))
    assert 0.8 < filled.estimate[0, 0] < 1.1
    assert np.isnan(filled.estimate[0, 1])
    assert state.checkpoints == 2


def test_no_layers_and_exact_runs() -> None:
    state, filled = add(start(np.empty(0), CLOSE), np.empty((0, 1)), np.empty((0, 1)))
    assert filled.estimate.shape == (0, 1)
    assert state.checkpoints == 1
    _, gram, sketch = walk(11)
    values, errors, _ = estimated([gram[:, i, : i + 1] for i in range(20)], sketch, np.full(2, RATE), CLOSE)
    np.testing.assert_array_equal(values, gram)
    assert (errors == 0).all()


def test_columns_carried_are_bounded_and_serve_a_run_that_falls_over_its_budget() -> None:
    """80 checkpoints all kept, then every 16th: the columns of those are among the ones carried."""
    _, gram, sketch = walk(12, layers=1, checkpoints=90)
    state = start(np.array([RATE]), CLOSE)
    for newest in range(90):
        row = gram[:, newest, : newest + 1].copy()
        if newest >= 80:
            row[:, [c for c in range(newest - 2) if c % 16]] = np.nan
        state, filled = add(state, row, sketch[:, newest, : newest + 1])
        assert len(state.anchors) <= MAX_ANCHORS
        assert state.gram_columns.shape == state.sketch_columns.shape == (1, len(state.anchors), newest + 1)
    assert {0, 16, 32, 48, 64, 80} <= set(state.anchors)
    holes = ~np.isnan(filled.error[0])
    # Held by anchors 0 to 64, not only by its own length.
    free = np.sqrt(RATE * gram[0, 89, 89] * gram[0].diagonal()[:90])
    assert (filled.error[0, holes] < 0.6 * free[holes]).mean() > 0.5


def test_states_are_never_written_to() -> None:
    _, gram, sketch = walk(13)
    rows = with_holes(gram, 5)
    state = start(np.full(2, RATE), CLOSE)
    for newest in range(12):
        state, _ = add(state, rows[newest], sketch[:, newest, : newest + 1])
    for array in (state.gram_diagonal, state.gram_columns, state.sketch_columns, state.sketch_diagonal):
        array.flags.writeable = False
    first, again = (add(state, rows[12], sketch[:, 12, :13])[1] for _ in range(2))
    np.testing.assert_array_equal(first.estimate, again.estimate)


def test_superseded_checkpoints_are_checkpoints_like_others() -> None:
    """After a restart the walk goes on from checkpoint 6; rows know what is on disk, whatever path it is of."""
    rng = np.random.default_rng(14)
    points = np.cumsum(rng.normal(size=(1, 20, 600)), axis=1)
    points[0, 11:] += points[0, 6] - points[0, 10]
    gram = points @ points.transpose(0, 2, 1)
    values, errors, _ = estimated(with_holes(gram, 5), sketch_gram(points, rng), np.full(1, RATE), CLOSE)
    holes = errors > 0
    assert np.mean(np.abs(values - gram)[holes] <= 3 * errors[holes]) >= 0.97


def test_group_sums() -> None:
    gram = np.array([[1.0, np.nan, np.nan], [2.0, 3.0, np.nan], [4.0, 5.0, 6.0]])
    filled = Filled(
        np.array([[np.nan, 10.0, 20.0], [np.nan, np.nan, np.nan], [np.nan] * 3]),
        np.array([[np.nan, 3.0, 4.0], [np.nan, np.nan, np.nan], [np.nan] * 3]),
    )
    estimate, error = group_sums(gram, filled, [(0, 2), (2,), (0, 1, 2), ()])
    np.testing.assert_array_equal(
        estimate, [[np.nan, 15, 26], [np.nan] * 3, [np.nan, 18, np.nan], [np.nan] * 3]
    )
    np.testing.assert_array_equal(error, [[np.nan, 3, 4], [np.nan] * 3, [np.nan, 3, np.nan], [np.nan] * 3])
    both = Filled(np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]]))
    assert group_sums(np.full((2, 1), np.nan), both, [[0, 1]])[1].tolist() == [[5.0]]


@pytest.mark.parametrize(
    ("rates", "rounding", "text"),
    [
        ([0.1, -0.1], CLOSE, r"rates must be one number within \[0, 1\] a layer, got \[0.1, -0.1\]"),
        ([np.nan], CLOSE, "rates must be"),
        ([[0.1]], CLOSE, "rates must be"),
        ([0.1], -1.0, r"rounding must be within \[0, 1\], got -1.0"),
        ([0.1], np.nan, "rounding must be"),
    ],
)
def test_bad_beginnings(rates: list[float], rounding: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        start(np.array(rates), rounding)


@pytest.mark.parametrize(
    ("shape", "other"), [((2, 2), (2, 1)), ((1, 1), (2, 1)), ((2, 1), (2, 2)), ((2,), (2, 1))]
)
def test_bad_rows(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"checkpoint 0 of 2 layers needs rows of shape \(2, 1\), got"):
        add(start(np.full(2, RATE), CLOSE), np.ones(shape), np.ones(other))
