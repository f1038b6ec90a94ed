"""Maps between two runs out of their sketches, and what the stated errors are worth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from support.folding import collision_rate, fold, random_signs, within
from trajmon_server.hallmarks.cross_map import CrossMap, LayerPair, cross_map

Array = NDArray[np.float64]
CLOSE = 2.0**-53
SIZES, BINS = (2000, 3000, 200), 251
SEEDS = 300


def squares(points: Array) -> Array:
    return np.asarray(np.einsum("tn,tn->t", points, points))


def runs(rng: np.random.Generator, step: float = 0.5) -> list[tuple[Array, Array]]:
    """Two walks of 5 and 4 checkpoints from one start, a layer each; later points share more or less."""
    layers = []
    for n in SIZES:
        shared = rng.normal(size=(5, n))
        a = rng.normal(size=n) + step * np.cumsum(shared, axis=0) - step * shared[0]
        b = a[0] + step * np.cumsum(0.7 * shared[:4] + 0.7 * rng.normal(size=(4, n)), axis=0)
        b[0] = a[0]
        layers.append((a, b))
    return layers


def truth(layers: list[tuple[Array, Array]], *, about: bool) -> tuple[Array, Array]:
    a, b = (np.concatenate(side, axis=1) for side in zip(*layers, strict=True))
    if about:
        a, b = a - a[0], b - b[0]
    with np.errstate(invalid="ignore"):
        cosines = a @ b.T / np.sqrt(np.outer(squares(a), squares(b)))
    return cosines, np.linalg.norm(a[:, None] - b[None], axis=2)


def mapped(
    layers: list[tuple[Array, Array]], rng: np.random.Generator, *, about: bool, displacements: bool
) -> CrossMap:
    def pairs() -> list[LayerPair]:
        found = []
        for a, b in layers:
            signs = random_signs(rng, a.shape[1])
            away = (squares(a - a[0]), squares(b - b[0])) if displacements else (None, None)
            rate = collision_rate(a.shape[1], BINS)
            sketches = (fold(a, signs, BINS), fold(b, signs, BINS))
            found.append(LayerPair(*sketches, squares(a), squares(b), rate, *away))
        return found

    return cross_map(iter(pairs()), from_initialization=about, rounding=CLOSE)


@pytest.mark.parametrize(("about", "displacements"), [(False, False), (True, True), (True, False)])
def test_cosines_and_distances_are_covered(about: bool, displacements: bool) -> None:
    rng = np.random.default_rng(1)
    cosines, distances = [], []
    for _ in range(SEEDS):
        layers = runs(rng)
        result = mapped(layers, rng, about=about, displacements=displacements)
        exact, apart = truth(layers, about=about)
        moved = (slice(1, None), slice(1, None))
        cosines.append(((result.map - exact)[moved], result.error[moved]))
        distances.append(((result.distance - apart)[moved], result.distance_error[moved]))
    for found in (cosines, distances):
        difference, error = (np.array(each) for each in zip(*found, strict=True))
        assert 0.93 <= within(difference, error) <= 0.97
        assert abs(np.mean(np.square(difference / error)) - 1) <= 0.1


def test_two_runs_from_one_seed_begin_as_one_without_error() -> None:
    rng = np.random.default_rng(2)
    layers = runs(rng)
    result = mapped(layers, rng, about=False, displacements=False)
    assert result.map[0, 0] == 1.0
    assert result.error[0, 0] == result.distance[0, 0] == result.distance_error[0, 0] == 0.0
    assert (result.error[1:, 1:] > 0).all()
    assert (result.distance_error[1:, 1:] > 0).all()
    about = mapped(layers, rng, about=True, displacements=True)
    assert np.isnan(about.map[0]).all()
    assert np.isnan(about.map[:, 0]).all()
    assert np.isnan(about.error[0]).all()
    assert about.distance[0, 0] == 0.0
    assert np.isfinite(about.map[1:, 1:]).all()


@pytest.mark.parametrize("step", [1e-3, 1e-4])
@pytest.mark.parametrize("displacements", [True, False])
def test_small_displacements_are_right(step: float, displacements: bool) -> None:
    """Two runs that have moved by a thousandth of their parameters, with sketches rounded to float32."""
    rng = np.random.default_rng(3)
    ratios, apart = [], []
    for _ in range(SEEDS):
        layers = runs(rng, step)
        pairs = []
        for a, b in layers:
            signs = random_signs(rng, a.shape[1])
            sketches = [fold(side, signs, BINS).astype(np.float32) for side in (a, b)]
            away = (squares(a - a[0]), squares(b - b[0])) if displacements else (None, None)
            rate = collision_rate(a.shape[1], BINS)
            pairs.append(LayerPair(sketches[0], sketches[1], squares(a), squares(b), rate, *away))
        result = cross_map(pairs, from_initialization=True)
        cosines, distances = truth(layers, about=True)
        ratios.append((result.map - cosines)[1:, 1:] / result.error[1:, 1:])
        plain = cross_map(pairs)
        apart.append(np.abs(plain.distance[1:, 1:] / distances[1:, 1:] - 1))
        assert (np.abs(plain.distance - distances) <= 5 * plain.distance_error + 1e-15)[1:, 1:].all()
    # Three layers of 251 columns: an error of the distance of a few percent of itself, not of the parameters.
    assert np.median(apart) < 0.05
    assert np.mean(np.abs(ratios) <= 1.96) >= 0.93
    assert np.sqrt(np.mean(np.square(ratios))) >= 0.5


def test_large_maps_are_worked_on_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    layers = runs(rng)
    for displacements in (True, False):
        whole = mapped(layers, np.random.default_rng(5), about=True, displacements=displacements)
        with monkeypatch.context() as patch:
            patch.setattr("trajmon_server.hallmarks.cross_map._BLOCK_ENTRIES", 8)
            parts = mapped(layers, np.random.default_rng(5), about=True, displacements=displacements)
        for name in ("map", "error", "distance", "distance_error"):
            np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12, atol=1e-9)


def test_undefined_and_zero() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(3, 40)), rng.normal(size=(2, 40))
    a[1], b[1] = 0.0, 0.0
    sketch = a.copy()
    sketch[2] = np.nan
    result = cross_map([LayerPair(sketch, b, squares(a), squares(b), 0.0)], rounding=CLOSE)
    assert np.isnan(result.map).tolist() == [[False, True], [True, True], [True, True]]
    assert np.isnan(result.error).tolist() == np.isnan(result.map).tolist()
    assert np.isnan(result.distance[2]).all()
    assert np.isnan(result.distance_error[2]).all()
    # Two zero vectors have no angle, but a distance.
    assert result.distance[1, 1] == 0.0
    assert result.distance_error[1, 1] == 0.0
    np.testing.assert_allclose(result.distance[0, 0], np.linalg.norm(a[0] - b[0]), rtol=1e-12)
    np.testing.assert_allclose(result.distance[1, 0], np.linalg.norm(b[0]), rtol=1e-12)


def test_a_plain_tuple_and_one_checkpoint() -> None:
    one = np.array([[3.0, 4.0]])
    layers: list[LayerPair] = [LayerPair(one, one * 2, np.array([25.0]), np.array([100.0]), 0.0)]
    result = cross_map(layers, rounding=CLOSE)
    assert result.map.tolist() == [[1.0]]
    assert abs(result.distance[0, 0] - 5.0) < 1e-6


def test_bad_input() -> None:
    a, norms = np.ones((2, 4)), np.full(2, 4.0)
    good = LayerPair(a, a, norms, norms, 0.0)
    with pytest.raises(ValueError, match="needs at least one layer"):
        cross_map([])
    bad = {
        "layer 0: the sketches of run a have 4 columns, those of run b 3": good._replace(sketches_b=a[:, :3]),
        r"layer 0 of run b: sketches \(2, 4\) and squared lengths \[\(1,\)\]": good._replace(
            squared_norms_b=norms[:1]
        ),
        r"layer 0 of run a: .* \[\(2,\), \(3,\)\] are not of 2 checkpoints": good._replace(
            displacement_squared_a=np.ones(3)
        ),
        r"layer 0: the rate 2 is not within \[0, 1\]": good._replace(rate=2),
        r"layer 0: the rate nan": good._replace(rate=np.nan),
    }
    for text, layer in bad.items():
        with pytest.raises(ValueError, match=text):
            cross_map([layer])
    with pytest.raises(ValueError, match=r"layer 1 of run a: .* are not of 2 checkpoints"):
        cross_map([good, good._replace(sketches_a=a[:1], squared_norms_a=norms[:1])])
