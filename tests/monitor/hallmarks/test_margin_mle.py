"""The likeliest inner product, against 50 digits and against its own distribution."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from support.folding import collision_rate, fold, random_signs, within
from trajmon_server.hallmarks.margin_mle import margin_mle, pair_variance

COSINES = [0.0, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999, -0.5, -0.9, -0.999]


def oracle(dot: float, m1: float, m2: float, s1: float, s2: float) -> mpmath.mpf:
    """The root of greatest likelihood within the bound, from all roots to 50 digits."""
    with mpmath.workdps(50):
        d, a, b, p, q = (mpmath.mpf(float(x)) for x in (dot, m1, m2, s1, s2))
        bound = mpmath.sqrt(a * b)
        # In units of the bound, to keep the cubic's coefficients near 1.
        c, s = d / bound, p / a + q / b
        roots = [
            mpmath.re(root)
            for root in mpmath.polyroots([1, -c, s - 1, -c], maxsteps=500, extraprec=500)
            if abs(mpmath.im(root)) < mpmath.mpf(10) ** -30
        ]
        inside = [root for root in roots if abs(root) < 1]
        if not inside:
            return bound * (1 if c > 0 else -1)
        return bound * min(inside, key=lambda x: mpmath.log(1 - x * x) + (s - 2 * c * x) / (1 - x * x))


@pytest.mark.parametrize("spread", [1.0, 0.1, 1e-3])
def test_against_50_digits(spread: float) -> None:
    rng = np.random.default_rng(11)
    for _ in range(60):
        m1, m2 = np.exp(rng.normal(size=2) * 5)
        # Two sketches of 1/spread² columns or so: lengths that lie that much off the vectors'.
        columns = rng.normal(size=(2, max(3, int(1 / spread**2)) if spread > 1e-2 else 100))
        columns /= np.linalg.norm(columns, axis=1, keepdims=True)
        columns *= np.sqrt([[m1], [m2]]) * (1 + spread * rng.normal(size=(2, 1)))
        s1, s2 = np.sum(columns**2, axis=1)
        dot = float(columns[0] @ columns[1])
        value = float(margin_mle(dot, m1, m2, s1, s2))
        assert abs(value - oracle(dot, m1, m2, s1, s2)) <= 1e-14 * np.sqrt(m1 * m2)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-8, 1e-11, 1e-14])
def test_near_parallel_keeps_its_digits(sign: int, gap: float) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        s1, s2 = 1 + 0.03 * rng.normal(size=2)
        dot = sign * np.sqrt(s1 * s2) * (1 - gap * rng.uniform(0.5, 2))
        assert abs(float(margin_mle(dot, 1.0, 1.0, s1, s2)) - oracle(dot, 1.0, 1.0, s1, s2)) <= 4e-16 * 4


def test_sketches_much_shorter_than_the_vectors_have_three_roots_and_the_likeliest_is_taken() -> None:
    rng = np.random.default_rng(5)
    several = 0
    for _ in range(300):
        s1, s2 = rng.uniform(0.001, 0.6, size=2)
        dot = rng.uniform(-1, 1) * np.sqrt(s1 * s2)
        several += dot**2 > 3 * (s1 + s2 - 1)
        value, truth = float(margin_mle(dot, 1.0, 1.0, s1, s2)), oracle(dot, 1.0, 1.0, s1, s2)
        assert abs(value - truth) <= 1e-13, (dot, s1, s2)
    assert several > 100


def test_exact_sketches_give_the_exact_value() -> None:
    cosines = np.linspace(-1, 1, 201)
    np.testing.assert_allclose(
        margin_mle(6 * cosines, 4.0, 9.0, 4.0, 9.0), 6 * cosines, rtol=0, atol=6 * 4e-16
    )


def test_what_has_no_length_is_orthogonal_to_everything() -> None:
    assert margin_mle([0.0, 0.0, 1e-20], [0.0, 1.0, -1e-20], [1.0, 0.0, 1.0], 1.0, 1.0).tolist() == [0, 0, 0]
    assert margin_mle(0.0, 1.0, 1.0, 0.0, 0.0) == 0.0
    assert pair_variance([0.0, 0.0], [0.0, 1.0], [1.0, 0.0], 0.1).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_undefined(place: int, value: float) -> None:
    arguments = [0.5, 1.0, 1.0, 1.0, 1.0]
    arguments[place] = value
    assert np.isnan(margin_mle(*arguments))


def test_never_beyond_the_bound_and_lengths_near_the_ends_of_float64() -> None:
    assert margin_mle(5.0, 1.0, 4.0, 1.0, 4.0) == 2.0
    assert margin_mle(-5.0, 1.0, 4.0, 1.0, 4.0) == -2.0
    for scale in (1e-200, 1e200):
        np.testing.assert_allclose(
            margin_mle(0.3 * scale, scale, scale, scale, scale), 0.3 * scale, rtol=1e-14
        )
        np.testing.assert_allclose(pair_variance(0.0, 1 / scale, scale, 1e-6), 1e-6, rtol=1e-4)


def test_every_correlation_is_covered_and_the_variance_is_the_stated_one() -> None:
    """400 seeds of 6 layers each. The sketch is linear: one sketched pair of axes serves for every cosine."""
    n, bins, layers = 8000, 499, 6
    rate = collision_rate(n, bins)
    dots = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        axes, _ = np.linalg.qr(rng.normal(size=(n, 2)))
        for _ in range(layers):
            sketch = fold(axes.T, random_signs(rng, n), bins)
            dots.append((sketch @ sketch.T)[[0, 0, 1], [0, 1, 1]])
    own, cross, other = np.array(dots).T
    for cosine in COSINES:
        sine = np.sqrt(1 - cosine**2)
        dot = cosine * own + sine * cross
        second = cosine**2 * own + 2 * cosine * sine * cross + sine**2 * other
        estimate = margin_mle(dot, 1.0, 1.0, own, second)
        error = np.sqrt(pair_variance(estimate, 1.0, 1.0, rate))
        theory = (1 - cosine**2) ** 2 / (1 + cosine**2) * rate
        assert 0.93 <= within(estimate - cosine, error) <= 0.97, cosine
        assert abs(np.mean(np.square(estimate - cosine)) / theory - 1) <= 0.1, cosine
        assert abs(np.mean(pair_variance(estimate, 1.0, 1.0, rate)) / theory - 1) <= 0.1, cosine
        # Margins are worth having: the plain inner product has (1 + ρ²)/k.
        plain = np.mean(np.square(dot - cosine)) / ((1 + cosine**2) * rate)
        assert abs(plain - 1) <= 0.1, cosine
