"""Maps made small, whole and strip by strip: both are the means of blocks of the whole map."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajmon_server.hallmarks.relative_map import relative_trajectory_map
from trajmon_server.hallmarks.trajectory import Trajectory
from trajmon_server.hallmarks.trajectory_map import trajectory_map
from trajmon_server.query.overview import thinned
from trajmon_server.query.reduce import block_means, block_size, block_starts
from trajmon_server.query.strips import About, BlockSums, GramStrip, cosine_strips


def plain_means(entries: np.ndarray, size: int) -> np.ndarray:
    """The oracle: one block at a time."""
    count = -(-len(entries) // size)
    means = np.full((count, count), np.nan)
    for i in range(count):
        for j in range(count):
            block = entries[i * size : (i + 1) * size, j * size : (j + 1) * size]
            block = block[~np.isnan(block)]
            if block.size:
                means[i, j] = sum(block.tolist()) / block.size
    return means


@st.composite
def grams(draw: st.DrawFn) -> np.ndarray:
    """Grams of walks, some far from the origin, some with rows that are missing or have no direction."""
    count = draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    points = np.cumsum(random.normal(size=(count, 7)), axis=0) + draw(st.sampled_from([0.0, 3.0, 1e5]))
    points[random.random(count) < draw(st.sampled_from([0.0, 0.2]))] = 0.0
    gram = points @ points.T
    gram = (gram + gram.T) / 2
    missing = random.random(count) < draw(st.sampled_from([0.0, 0.2, 1.0]))
    gram[missing] = gram[:, missing] = np.nan
    return gram


def strips_of(gram: np.ndarray, rows: int) -> Iterator[GramStrip]:
    for start in range(0, len(gram), rows):
        stop = min(start + rows, len(gram))
        part = gram[start:stop, :stop].copy()
        # What stands above the diagonal must not be looked at.
        part[:, start:][np.triu_indices(stop - start, 1)] = 99.0
        yield GramStrip(start, part)


@given(grams(), st.integers(1, 9))
def test_block_means(gram: np.ndarray, size: int) -> None:
    entries = trajectory_map(gram)
    np.testing.assert_allclose(block_means(entries, size), plain_means(entries, size), rtol=1e-12, atol=1e-12)


@given(grams(), st.integers(1, 9), st.integers(1, 9))
def test_strips_about_the_origin(gram: np.ndarray, size: int, rows: int) -> None:
    whole = trajectory_map(gram)
    sums = BlockSums(block_starts(len(gram), size), len(gram))
    for start, entries in cosine_strips(strips_of(gram, rows), len(gram), None):
        np.testing.assert_array_equal(
            entries,
            np.where(
                np.tri(len(gram))[start : start + len(entries), : entries.shape[1]] > 0,
                whole[start : start + len(entries), : entries.shape[1]],
                np.nan,
            ),
        )
        sums.add(start, entries)
    means, mean = sums.means()
    np.testing.assert_allclose(means, plain_means(whole, size), rtol=1e-12, atol=1e-12)
    defined = whole[~np.isnan(whole)]
    assert mean == pytest.approx(defined.mean() if defined.size else np.nan, abs=1e-12, nan_ok=True)


@given(grams(), st.integers(1, 9), st.data())
@settings(max_examples=200)
def test_strips_about_a_checkpoint(gram: np.ndarray, rows: int, data: st.DataObject) -> None:
    tau = data.draw(st.integers(0, len(gram) - 1))
    trajectory = Trajectory.from_gram(gram)
    told = trajectory.displacement_squared if tau == 0 else None
    about = About(tau, gram[tau, : tau + 1], told)
    whole = relative_trajectory_map(trajectory, tau)
    found = np.full(gram.shape, np.nan)
    for start, entries in cosine_strips(strips_of(gram, rows), len(gram), about):
        found[start : start + len(entries), : entries.shape[1]] = entries
    keep = np.delete(np.arange(len(gram)), tau)
    assert np.isnan(found[tau]).all()
    assert np.isnan(found[:, tau]).all()
    expected = np.where(np.tri(len(keep)) > 0, whole, np.nan)
    np.testing.assert_allclose(found[np.ix_(keep, keep)], expected, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 20_000), st.integers(1, 1024))
def test_sizes(count: int, most: int) -> None:
    size = block_size(count, most)
    assert len(block_starts(count, size)) <= most
    assert size == 1 or len(block_starts(count, size - 1)) > most


@given(st.integers(0, 20_000), st.integers(2, 1024))
def test_thinned(count: int, most: int) -> None:
    chosen = thinned(count, most)
    assert len(chosen) == min(count, most)
    assert chosen == sorted(set(chosen))
    if count:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        gaps = np.diff(chosen)
        assert not gaps.size or gaps.max() - gaps.min() <= 1
