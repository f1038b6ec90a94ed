"""Spectral measures and other kernels, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from trajmon_server.hallmarks import polynomial_map, rbf_map, trajectory_map
from trajmon_server.hallmarks.kernels import median_bandwidth_squared
from trajmon_server.hallmarks.spectrum import defined_points, effective_rank, eigenvalues


@pytest.fixture
def points() -> NDArray[np.float64]:
    return np.random.default_rng(23).normal(size=(9, 20))


def test_eigenvalues_are_squared_singular_values(points: NDArray[np.float64]) -> None:
    values = eigenvalues(points @ points.T)
    singular = np.linalg.svd(points.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(values, singular**2, rtol=1e-12)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(
        eigenvalues(trajectory_map(points @ points.T)), np.linalg.svd(unit, compute_uv=False) ** 2, rtol=1e-12
    )


def test_effective_rank_of_a_line_and_of_orthogonal_points(points: NDArray[np.float64]) -> None:
    line = np.outer(np.arange(1.0, 7.0), points[0])
    assert effective_rank(line @ line.T) == pytest.approx(1.0, abs=1e-6)
    assert effective_rank(np.diag([2.0, 2.0, 0.0, 2.0])) == pytest.approx(3.0)
    assert np.all(eigenvalues(line @ line.T) >= 0)
    gram = points @ points.T
    shares = np.linalg.svd(points, compute_uv=False) ** 2 / np.trace(gram)
    assert effective_rank(gram) == pytest.approx(float(np.exp(-np.sum(shares * np.log(shares)))))


def test_undefined_points_are_left_out(points: NDArray[np.float64]) -> None:
    gram = points @ points.T
    damaged = gram.copy()
    damaged[4], damaged[:, 4] = np.nan, np.nan
    damaged[2, 7] = damaged[7, 2] = damaged[2, 8] = damaged[8, 2] = np.nan
    kept = [0, 1, 3, 5, 6, 7, 8]
    assert defined_points(damaged).tolist() == kept
    assert effective_rank(damaged) == pytest.approx(effective_rank(gram[np.ix_(kept, kept)]))
    assert np.isnan(effective_rank(np.full((3, 3), np.nan)))
    assert np.isnan(effective_rank(np.zeros((3, 3))))
    assert len(eigenvalues(np.full((3, 3), np.nan))) == 0


def test_rbf_map(points: NDArray[np.float64]) -> None:
    differences = points[:, None, :] - points[None, :, :]
    squares = np.sum(differences**2, axis=2)
    median = float(np.median(squares[np.triu_indices(9, 1)]))
    gram = points @ points.T
    assert median_bandwidth_squared(gram) == pytest.approx(median)
    np.testing.assert_allclose(rbf_map(gram), np.exp(-squares / (2 * median)), atol=1e-12)
    np.testing.assert_allclose(rbf_map(gram, 3.0), np.exp(-squares / 6), atol=1e-12)
    # Moving the origin changes nothing.
    moved = points + 10.0
    np.testing.assert_allclose(rbf_map(moved @ moved.T), rbf_map(gram), atol=1e-9)


def test_polynomial_map(points: NDArray[np.float64]) -> None:
    scale = np.mean(np.sum(points**2, axis=1))
    # The feature space of degree 2, written out: products of the coordinates of (x / sqrt(s), 1).
    lifted = np.hstack([points / np.sqrt(scale), np.ones((9, 1))])
    features = np.stack([np.outer(row, row).ravel() for row in lifted])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    gram = points @ points.T
    np.testing.assert_allclose(polynomial_map(gram), features @ features.T, atol=1e-12)
    np.testing.assert_allclose(polynomial_map(gram, 1, 0.0), trajectory_map(gram), atol=1e-14)


def test_kernels_leave_the_undefined_undefined(points: NDArray[np.float64]) -> None:
    gram = points @ points.T
    gram[3], gram[:, 3] = np.nan, np.nan
    for values in (rbf_map(gram), polynomial_map(gram)):
        assert np.isnan(values[3]).all()
        assert np.isnan(values[:, 3]).all()
        assert np.isfinite(np.delete(np.delete(values, 3, 0), 3, 1)).all()
    still = np.ones((4, 4))
    assert np.isnan(rbf_map(still)).all()
    near = np.ones(500) + 1e-9 * np.random.default_rng(1).normal(size=(5, 500))
    assert np.isnan(rbf_map(near @ near.T)).all()


def test_bad_kernel_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the squared bandwidth must be positive, not 0\.0"):
        rbf_map(np.eye(2), 0.0)
    with pytest.raises(ValueError, match=r"degree must be at least 1 and offset at least 0, not 0 and 1\.0"):
        polynomial_map(np.eye(2), 0)
    with pytest.raises(ValueError, match=r"not 2 and -1\.0"):
        polynomial_map(np.eye(2), 2, -1.0)
