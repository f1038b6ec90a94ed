"""Hallmarks strip by strip are those of the series, whose oracle is in 50 digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trajmon_server.hallmarks.series import HALLMARKS, hallmark_series
from trajmon_server.hallmarks.trajectory import Trajectory
from trajmon_server.query import strip_hallmarks
from trajmon_server.query.strip_hallmarks import StripHallmarks
from trajmon_server.query.strips import GramStrip


@dataclass(frozen=True)
class Walk:
    """A trajectory, its Gram and its update products; rows without parameters are NaN."""

    gram: np.ndarray
    products: dict[str, np.ndarray]

    @classmethod
    def of(cls, points: np.ndarray, missing: np.ndarray) -> Walk:
        count = len(points)
        update, moved = np.diff(points, axis=0, prepend=points[:1]), points - points[:1]
        gram = points @ points.T
        gram = (gram + gram.T) / 2
        gram[missing] = gram[:, missing] = np.nan
        products = {
            "update_squared": np.einsum("tp,tp->t", update, update),
            "update_dot": np.concatenate([[np.nan], np.einsum("tp,tp->t", update[1:], update[:-1])]),
            "displacement_squared": np.einsum("tp,tp->t", moved, moved),
            "displacement_dot": moved @ (moved[1] if count > 1 else moved[0]),
        }
        products["update_squared"][0] = np.nan
        products["update_dot"][:2] = products["displacement_dot"][:1] = np.nan
        for values in products.values():
            values[missing] = np.nan
        return cls(gram, {name: values[:count] for name, values in products.items()})

    def by_strips(self, lengths: list[int]) -> dict[str, np.ndarray]:
        """Read in strips of these lengths, over and over."""
        sums, start, turn = StripHallmarks(), 0, 0
        while start < len(self.gram):
            stop = min(start + lengths[turn % len(lengths)], len(self.gram))
            rows = self.gram[start:stop, :stop].copy()
            # What stands above the diagonal must not be looked at.
            rows[:, start:][np.triu_indices(stop - start, 1)] = 99.0
            sums.add(GramStrip(start, rows), self.products)
            start, turn = stop, turn + 1
        return sums.series()


@st.composite
def walks(draw: st.DrawFn) -> Walk:
    """Walks, some far from the origin, with steps that go nowhere, points at the origin, or rows that are missing."""
    count = draw(st.integers(1, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    steps = random.normal(size=(count, 7)) * draw(st.sampled_from([1.0, 1e-2]))
    steps[random.random(count) < draw(st.sampled_from([0.0, 0.2]))] = 0.0
    points = np.cumsum(steps, axis=0) + draw(st.sampled_from([0.0, 3.0]))
    points[random.random(count) < draw(st.sampled_from([0.0, 0.1]))] = 0.0
    return Walk.of(points, random.random(count) < draw(st.sampled_from([0.0, 0.2, 1.0])))


def agree(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = 1e-12) -> None:
    assert list(found) == list(HALLMARKS)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=tolerance, err_msg=name)


STRAIGHT = Walk.of(np.outer(np.arange(1.0, 14.0), np.ones(3)), np.zeros(13, dtype=bool))


@settings(deadline=None)
@given(walks(), st.lists(st.integers(1, 64), min_size=1, max_size=4))
@example(STRAIGHT, [1])
@example(STRAIGHT, [64])
def test_the_series_strip_by_strip(walk: Walk, lengths: list[int]) -> None:
    agree(walk.by_strips(lengths), hallmark_series(Trajectory(walk.gram, **walk.products)))


def test_blocks_of_columns_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    points = np.cumsum(random.normal(size=(300, 9)), axis=0)
    walk = Walk.of(points, random.random(300) < 0.02)
    expected = hallmark_series(Trajectory(walk.gram, **walk.products))
    for columns in (7, 64, 100):
        monkeypatch.setattr(strip_hallmarks, "_BLOCK", columns)
        agree(walk.by_strips([64]), expected)


def test_what_the_gram_does_not_resolve_is_undefined() -> None:
    """Updates of 1e-6 of the parameters: cosines about the initialization drown in the Gram's rounding."""
    random = np.random.default_rng(2)
    points = 1e3 * np.ones(9) + np.cumsum(1e-4 * random.normal(size=(80, 9)), axis=0)
    walk = Walk.of(points, np.zeros(80, dtype=bool))
    expected = hallmark_series(Trajectory(walk.gram, **walk.products))
    found = walk.by_strips([64])
    assert np.isnan(expected["relative_mds"][2])
    for name, values in expected.items():
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(values), err_msg=name)


def test_rows_come_in_order() -> None:
    sums = StripHallmarks()
    with pytest.raises(ValueError, match="row 5 is not the next one, 0 is"):
        sums.add(GramStrip(5, np.ones((1, 6))), STRAIGHT.products)


def test_nothing_yet() -> None:
    assert {name: values.size for name, values in StripHallmarks().series().items()} == dict.fromkeys(
        HALLMARKS, 0
    )
