"""MDS of every layer of a run, one row at a time for all layers at once. Pure but for the object itself.

The same numbers as :mod:`trajmon_server.hallmarks.stream` gives for one layer, which would take a Python call for
every layer and row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.record import PRODUCTS
from trajmon_server.hallmarks.directions import angle_degrees, clamp_cosine, defined_length
from trajmon_server.hallmarks.resolution import above_resolution, cancellation

__all__ = ["LayerSums"]

_COLUMN = {name: index for index, name in enumerate(PRODUCTS)}
_SQUARE, _WITH_START, _DISPLACEMENT = range(3)


class LayerSums:
    """Running sums over the maps of L layers; 24 L bytes for each checkpoint, and the sums."""

    def __init__(self, num_layers: int) -> None:
        self.path: tuple[int, ...] = ()
        """Numbers of the checkpoints that went in."""
        self._points = np.empty((3, num_layers, 64))
        self._mds = np.zeros((2, num_layers))
        self._relative = np.zeros((2, num_layers))
        self._products = np.full((2, num_layers, len(PRODUCTS)), np.nan)
        """Of the last row but one, and of the last."""

    @property
    def nbytes(self) -> int:
        """Memory that is held."""
        return self._points.nbytes

    def add(self, checkpoint: int, gram: NDArray[np.float64], products: NDArray[np.float64]) -> None:
        """Add the row of the path's next checkpoint: [L, t + 1] over the path, its own entry last, and [L, 4]."""
        t = len(self.path)
        if t == self._points.shape[2]:
            self._points = np.concatenate([self._points, np.empty_like(self._points)], axis=2)
        points = self._points[:, :, : t + 1]
        points[_SQUARE, :, t] = gram[:, t]
        points[_WITH_START, :, t] = gram[:, 0]
        points[_DISPLACEMENT, :, t] = products[:, _COLUMN["displacement_squared"]]
        lengths = defined_length(points[_SQUARE])
        _add(self._mds, clamp_cosine(gram / (lengths * lengths[:, -1:])))
        if t:
            _add(self._relative, self._relative_cosines(gram, points))
        self._products = np.stack([self._products[1], products])
        self.path = (*self.path, checkpoint)

    @staticmethod
    def _relative_cosines(gram: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
        """About checkpoint 0, [L, t], without its own entry."""
        start_square = points[_SQUARE, :, :1]
        dots = gram[:, 1:] - points[_WITH_START, :, 1:] - gram[:, :1] + start_square
        lengths = defined_length(points[_DISPLACEMENT, :, 1:])
        ratios = cancellation(points[_SQUARE, :, 1:], start_square, points[_DISPLACEMENT, :, 1:])
        resolved = above_resolution(ratios, ratios[:, -1:], lengths_exact=True)
        return np.where(resolved, clamp_cosine(dots / (lengths * lengths[:, -1:])), np.nan)

    def latest(self) -> dict[str, NDArray[np.float64]]:
        """Hallmarks of every layer as of the last checkpoint, each [L], NaN where undefined."""
        t = len(self.path) - 1
        before, last = self._products
        square = self._points[_SQUARE, :, t]
        return {
            "mds": _means(self._mds),
            "relative_mds": _means(self._relative),
            "update_angle_degrees": angle_degrees(
                last[:, _COLUMN["update_dot"]],
                last[:, _COLUMN["update_squared"]],
                before[:, _COLUMN["update_squared"]],
            ),
            "parameter_norm": _root(square),
            "distance_from_initialization": _root(last[:, _COLUMN["displacement_squared"]]),
            "update_norm": _root(last[:, _COLUMN["update_squared"]]),
        }


def _add(sums: NDArray[np.float64], cosines: NDArray[np.float64]) -> None:
    """Add a row of each map, [L, t + 1]: every entry but the last also stands for its mirror."""
    last = cosines[:, -1]
    defined = ~np.isnan(last)
    # The cosine of a vector with itself, whatever rounding made of it.
    cosines[defined, -1] = 1.0
    counted = ~np.isnan(cosines)
    sums[0] += 2 * np.where(counted, cosines, 0.0).sum(axis=1) - defined
    sums[1] += 2 * counted.sum(axis=1) - defined


def _means(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = sums[0] / np.where(sums[1] > 0, sums[1], np.nan)
    return means


def _root(squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zero is a length here, though it has no direction."""
    return np.sqrt(np.where((squared >= 0) & (squared < np.inf), squared, np.nan))
