"""The incremental twin agrees with the series at every checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trajmon_server.hallmarks import (
    HALLMARKS,
    GramRow,
    Trajectory,
    hallmark_series,
    integrity_findings,
    stream,
)

Record = Callable[[NDArray[np.float64]], Trajectory]


def row(trajectory: Trajectory, t: int) -> GramRow:
    return GramRow(
        gram=trajectory.gram[t, : t + 1],
        update_squared=float(trajectory.update_squared[t]),
        update_dot=float(trajectory.update_dot[t]),
        displacement_squared=float(trajectory.displacement_squared[t]),
        displacement_dot=float(trajectory.displacement_dot[t]),
        gram_error=None if trajectory.gram_error is None else trajectory.gram_error[t, : t + 1],
    )


def assert_agree(trajectory: Trajectory) -> None:
    series, state = hallmark_series(trajectory), stream.init()
    for t in range(len(trajectory)):
        state = stream.update(state, row(trajectory, t))
        assert state.checkpoints == t + 1
        newest = stream.latest(state)
        assert tuple(newest) == HALLMARKS
        assert_same_errors(stream.latest_errors(state), series, t)
        for name, value in newest.items():
            # A cosine's last digit is 1e-6 of an angle near 0 and 180 degrees.
            atol = 3e-6 if name.endswith("degrees") else 1e-12
            np.testing.assert_allclose(
                value, series[name][t], rtol=1e-12, atol=atol, err_msg=f"{name} at {t}"
            )
    assert state.findings == integrity_findings(trajectory)


def assert_same_errors(newest: dict[str, float], series: dict[str, NDArray[np.float64]], t: int) -> None:
    for name in HALLMARKS:
        expected = series[f"error:{name}"][t] if f"error:{name}" in series else 0.0
        assert np.isnan(expected) == (np.isnan(series[name][t]) and f"error:{name}" in series)
        expected = float(np.nan_to_num(expected))
        assert (name in newest) == (expected > 0), f"{name} at {t}"
        # An angle itself is right to 3e-6 degrees near 0 and 180 degrees, and its error moves with it.
        rtol = 1e-5 if name.endswith("degrees") else 1e-12
        np.testing.assert_allclose(
            newest.get(name, 0.0), expected, rtol=rtol, atol=1e-12, err_msg=f"{name} at {t}"
        )


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    """Walks with zero and repeated points, returns to the start, tiny updates, missing rows, entries and products."""
    t, p = draw(st.integers(1, 25)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1.0, 1e-4, 1e-7, 1e-100, 1e60]))
    start = rng.normal(size=p) * draw(st.sampled_from([0.0, scale, 1.0]))
    points = start + np.cumsum(rng.normal(size=(t, p)) * scale, axis=0)
    indices = st.integers(0, t - 1)
    for index in draw(st.lists(indices, max_size=3)):
        points[index] = draw(st.sampled_from([np.zeros(p), points[0], points[max(index - 1, 0)]]))
    exact = points.astype(np.longdouble)
    updates, away = np.diff(exact, axis=0), exact - exact[0]
    gram = np.asarray(exact @ exact.T, dtype=np.float64)
    products = np.full((4, t), np.nan)
    products[0, 1:] = np.sum(updates * updates, axis=1)
    products[1, 2:] = np.sum(updates[1:] * updates[:-1], axis=1)
    products[2] = np.sum(away * away, axis=1)
    products[3] = np.sum(away * away[min(1, t - 1)], axis=1)
    for index in draw(st.lists(indices, max_size=2)):
        gram[index], gram[:, index], products[:, index] = np.nan, np.nan, np.nan
    for i, j in draw(st.lists(st.tuples(indices, indices), max_size=2)):
        gram[i, j] = gram[j, i] = np.nan
    for column, index in draw(st.lists(st.tuples(st.integers(0, 3), indices), max_size=2)):
        products[column, index] = np.nan
    return Trajectory(gram, *products)


@st.composite
def estimated_trajectories(draw: st.DrawFn) -> Trajectory:
    """The same with estimates: any entries off the diagonal, from nearly exact to worthless, products lacking."""
    exact = draw(trajectories())
    t = len(exact)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    first = draw(st.integers(0, t))
    estimated = np.tril(rng.random((t, t)) < draw(st.sampled_from([0.1, 0.5, 1.0])), -1)
    estimated[:first] = False
    if draw(st.booleans()):
        estimated[:, 0] = False
    lengths = np.sqrt(np.maximum(np.nan_to_num(exact.squared_norms), 0.0))
    sizes = rng.random((t, t)) * draw(st.sampled_from([1e-12, 1e-4, 0.1, 2.0])) * np.outer(lengths, lengths)
    error = np.where(estimated, sizes, 0.0)
    error = error + error.T
    noise = np.tril(rng.normal(size=(t, t)), -1) * error
    lacks = estimated.any(axis=1) & (rng.random(t) < 0.7)
    return Trajectory(
        exact.gram + noise + noise.T,
        exact.update_squared,
        exact.update_dot,
        np.where(lacks, np.nan, exact.displacement_squared),
        np.where(lacks & (rng.random(t) < 0.8), np.nan, exact.displacement_dot),
        gram_error=error,
    )


@settings(max_examples=300, deadline=None)
@given(trajectories())
def test_random_and_degenerate_trajectories(trajectory: Trajectory) -> None:
    assert_agree(trajectory)


@settings(max_examples=400, deadline=None)
@given(estimated_trajectories())
def test_estimates_and_their_errors(trajectory: Trajectory) -> None:
    assert_agree(trajectory)


def test_recorded_trajectories(recorded_gram: NDArray[np.float64]) -> None:
    assert_agree(Trajectory.from_gram(recorded_gram))


def test_a_state_is_a_value(record: Record) -> None:
    trajectory = record(np.random.default_rng(5).normal(size=(20, 4)))
    states = [stream.init()]
    for t in range(20):
        states.append(stream.update(states[-1], row(trajectory, t)))
    # Continued from the middle, an old state gives what it gave the first time.
    state = states[7]
    for t in range(7, 20):
        state = stream.update(state, row(trajectory, t))
    assert stream.latest(state) == stream.latest(states[-1])
    stream.latest(states[3])["mds"] = 0.0
    assert stream.latest(states[3])["mds"] != 0.0


def test_memory_grows_with_checkpoints_not_with_their_square(record: Record) -> None:
    trajectory = record(np.random.default_rng(6).normal(size=(200, 3)))
    state = stream.init()
    for t in range(200):
        state = stream.update(state, row(trajectory, t))
    held = state.points.size + state.previous_gram.size + state.window.size
    assert held <= 8 * 200 + 100


def test_a_row_of_another_checkpoint_is_refused() -> None:
    nothing = GramRow(np.ones(3), 1.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"checkpoint 0 needs a Gram row of shape \(1,\), got \(3,\)"):
        stream.update(stream.init(), nothing)
