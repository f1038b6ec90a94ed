"""Inner products of checkpoints whose snapshots were not kept, each with its standard error.

Rows of the exact Gram K have holes; the Gram G of the sketches has none. For a hole (i, j) of a layer, let C be the
checkpoints c with K_ic and K_jc known: the *anchors*. With any coefficients, θ_i = B_i θ_C + r_i, and

    ⟨θ_i, θ_j⟩ = B_i K_Cj + K_iC B_j' − B_i K_CC B_j' + ⟨r_i, r_j⟩

holds exactly. The residuals' lengths follow exactly from K, the inner products of their sketches from G; the last term
is their margin-constrained maximum likelihood estimate, the only one with an error. See :mod:`.residuals`.

A row costs O(L t) time for a bounded number of anchors. The state holds the columns of K and G for checkpoints
that may serve as anchors of later rows, and both diagonals: O(L t) memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.residuals import Accuracy, Pairs, estimate_pairs

__all__ = ["MAX_ANCHORS", "EstimatorState", "Filled", "add", "group_sums", "start"]

MAX_ANCHORS = 16
"""Columns of the Gram that are carried along."""
_LOOSE = 1 + 1e-6
"""An inner product beyond this many times the product of the lengths is nonsense, and not used."""
_RECENT = 3
"""The newest columns, always carried: the client keeps the last two snapshots."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What a row lacks, estimated."""

    estimate: NDArray[np.float64]
    """[L, n], inner products; NaN where the exact entry is known, and where nothing can be said."""
    error: NDArray[np.float64]
    """[L, n], their standard errors; NaN where `estimate` is."""


@dataclass(frozen=True, slots=True)
class EstimatorState:
    """All that later rows need of the t earlier ones. Arrays are replaced, never written to."""

    rates: NDArray[np.float64]
    """[L], 1/k of each layer's sketch; 0 without collisions."""
    rounding: float
    """Largest relative rounding of a sketch's columns."""
    gram_diagonal: NDArray[np.float64]
    """[L, t], ‖θ_s‖²; NaN where the layer is not finite."""
    sketch_diagonal: NDArray[np.float64]
    """[L, t], squared lengths of the sketches; NaN without one."""
    anchors: tuple[int, ...]
    """Numbers of the checkpoints whose columns are carried, ascending; at most MAX_ANCHORS."""
    gram_columns: NDArray[np.float64]
    """[L, anchors, t], K; NaN where missing."""
    sketch_columns: NDArray[np.float64]
    """[L, anchors, t], G; NaN where missing."""

    @property
    def checkpoints(self) -> int:
        """t, the number of rows so far."""
        return int(self.gram_diagonal.shape[1])


def start(rates: NDArray[np.float64], rounding: float) -> EstimatorState:
    """Before the first checkpoint.

    `rates` [L] are :func:`trajmon_protos.sketch.pair_rate` of the layers; `rounding` is the largest relative rounding
    of stored sketch columns, 2^-24 for float32. Raises ValueError for values outside of [0, 1].
    """
    rates = np.asarray(rates, dtype=np.float64)
    if rates.ndim != 1 or not np.all((rates >= 0) & (rates <= 1)):
        raise ValueError(f"rates must be one number within [0, 1] a layer, got {rates.tolist()}")
    if not 0 <= rounding <= 1:
        raise ValueError(f"rounding must be within [0, 1], got {rounding}")
    empty, none = np.empty((len(rates), 0)), np.empty((len(rates), 0, 0))
    return EstimatorState(rates, float(rounding), empty, empty, (), none, none)


def add(
    state: EstimatorState, gram: NDArray[np.float64], sketch_gram: NDArray[np.float64]
) -> tuple[EstimatorState, Filled]:
    """Take in the row of the next checkpoint, and estimate what it lacks.

    `gram` [L, n] holds ⟨θ_{n−1}, θ_s⟩ for s < n, NaN where not known; `sketch_gram` [L, n] the same of the
    sketches, NaN without one. A layer whose ⟨θ_{n−1}, θ_{n−1}⟩ is NaN gets no estimates. Raises ValueError if the
    shapes are not those of the next row.
    """
    expected = (len(state.rates), state.checkpoints + 1)
    if gram.shape != expected or sketch_gram.shape != expected:
        raise ValueError(
            f"checkpoint {state.checkpoints} of {len(state.rates)} layers needs rows of shape {expected}, "
            f"got {gram.shape} and {sketch_gram.shape}"
        )
    filled = _fill(state, gram, sketch_gram)
    return _extended(state, gram, sketch_gram), filled


def group_sums(
    gram: NDArray[np.float64], filled: Filled, groups: Sequence[Sequence[int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimates and standard errors of groups, [G, n] each, from a row's layers and the indices of their members.

    NaN where the sum is known exactly, and where a member is neither known nor estimated. Layers have independent
    signs, so that their variances add.
    """
    known = ~np.isnan(gram)
    values = np.where(known, gram, filled.estimate)
    variances = np.where(known, 0.0, np.square(filled.error))
    estimate, error = (
        np.full((len(groups), gram.shape[1]), np.nan),
        np.full((len(groups), gram.shape[1]), np.nan),
    )
    for row, members in enumerate(groups):
        chosen = list(members)
        holes = ~known[chosen].all(axis=0)
        estimate[row, holes] = values[chosen][:, holes].sum(axis=0)
        error[row, holes] = np.sqrt(variances[chosen][:, holes].sum(axis=0))
    return estimate, error


def _fill(state: EstimatorState, gram: NDArray[np.float64], sketch_gram: NDArray[np.float64]) -> Filled:
    estimate, error = np.full(gram.shape, np.nan), np.full(gram.shape, np.nan)
    at_hand = np.isfinite(state.gram_diagonal) & np.isfinite(state.sketch_diagonal)
    at_hand &= np.isfinite(gram[:, -1:]) & np.isfinite(sketch_gram[:, -1:])
    holes = np.isnan(gram[:, :-1]) & np.isfinite(sketch_gram[:, :-1]) & at_hand
    if not holes.any():
        return Filled(estimate, error)
    patterns = np.where(holes, _anchor_patterns(state, gram, sketch_gram), -1)
    places = np.arange(len(state.anchors))
    for layers, old, pattern in _alike(patterns):
        anchors = places[pattern >> places & 1 == 1]
        numbers = np.array(state.anchors, dtype=np.intp)[anchors]
        where, inner = np.ix_(layers, old), np.ix_(layers, anchors, numbers)
        columns = np.ix_(layers, anchors, old)
        pairs = Pairs(
            dot_sketch=sketch_gram[where],
            new_squared=gram[layers, -1],
            new_squared_sketch=sketch_gram[layers, -1],
            old_squared=state.gram_diagonal[where],
            old_squared_sketch=state.sketch_diagonal[where],
            new_anchors=gram[np.ix_(layers, numbers)],
            new_anchors_sketch=sketch_gram[np.ix_(layers, numbers)],
            old_anchors=state.gram_columns[columns],
            old_anchors_sketch=state.sketch_columns[columns],
            anchors=state.gram_columns[inner],
            anchors_sketch=state.sketch_columns[inner],
        )
        accuracy = Accuracy(state.rates[layers], state.rounding)
        estimate[where], error[where] = estimate_pairs(pairs, accuracy)
    return Filled(estimate, error)


def _anchor_patterns(
    state: EstimatorState, gram: NDArray[np.float64], sketch_gram: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Which of the carried columns serve the pair of each earlier checkpoint and the new one: bits, [L, t]."""
    numbers = list(state.anchors)
    squares = state.gram_diagonal[:, numbers]
    sketched = np.isfinite(state.sketch_columns)
    bound = _LOOSE * np.sqrt(squares)[:, :, None] * np.sqrt(state.gram_diagonal)[:, None, :]
    with np.errstate(invalid="ignore"):
        complete = (np.abs(state.gram_columns) <= bound) & sketched
        bound = _LOOSE * np.sqrt(squares) * np.sqrt(gram[:, -1:])
        usable = (np.abs(gram[:, numbers]) <= bound) & np.isfinite(sketch_gram[:, numbers]) & (squares > 0)
    # Anchors must know each other. Those that do not are left out, the older first come.
    for place in range(len(numbers)):
        mutual = ~usable[:, :place] | complete[:, place, numbers[:place]]
        usable[:, place] &= mutual.all(axis=1) & complete[:, place, numbers[place]]
    bits = np.left_shift(1, np.arange(len(numbers)))
    patterns: NDArray[np.int64] = np.einsum("lat,a->lt", complete & usable[:, :, None], bits)
    return patterns


def _alike(patterns: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], int]]:
    """Blocks of layers and checkpoints with the same pattern; none for the pattern -1.

    Layers differ only where some of them are not finite, so there are few blocks.
    """
    if (patterns == patterns[0]).all():
        classes, kinds = np.zeros(len(patterns), dtype=np.intp), patterns[:1]
    else:
        kinds, classes = np.unique(patterns, axis=0, return_inverse=True)
    for number, kind in enumerate(kinds):
        layers = np.flatnonzero(classes == number)
        for pattern in np.unique(kind):
            if pattern >= 0:
                yield layers, np.flatnonzero(kind == pattern), int(pattern)


def _extended(
    state: EstimatorState, gram: NDArray[np.float64], sketch_gram: NDArray[np.float64]
) -> EstimatorState:
    new = state.checkpoints
    known: NDArray[np.bool_] = np.asarray(np.isfinite(gram).any(axis=0))
    kept = _chosen(state.anchors, known, new)
    places = [state.anchors.index(number) for number in kept]
    anchors = (*kept, new)
    num_layers = len(state.rates)
    gram_columns, sketch_columns = (np.empty((num_layers, len(anchors), new + 1)) for _ in range(2))
    for columns, earlier, row in (
        (gram_columns, state.gram_columns, gram),
        (sketch_columns, state.sketch_columns, sketch_gram),
    ):
        for target, place in enumerate(places):
            columns[:, target, :new] = earlier[:, place]
        columns[:, :, new] = row[:, anchors]
        columns[:, -1] = row
    return EstimatorState(
        rates=state.rates,
        rounding=state.rounding,
        gram_diagonal=np.concatenate((state.gram_diagonal, gram[:, -1:]), axis=1),
        sketch_diagonal=np.concatenate((state.sketch_diagonal, sketch_gram[:, -1:]), axis=1),
        anchors=anchors,
        gram_columns=gram_columns,
        sketch_columns=sketch_columns,
    )


def _chosen(anchors: tuple[int, ...], known: NDArray[np.bool_], new: int) -> tuple[int, ...]:
    """Columns to carry on beside the new one.

    A snapshot that is gone does not come back, so a column that the newest row lacks is dropped; unless that row
    has nothing at all, as that of a checkpoint that is not finite. Of too many, the first and the newest stay, then
    those whose number is divisible by the greatest power of two: the ones that a client with a budget keeps.
    """
    present = [number for number in anchors if known[number]] or list(anchors)

    def rank(number: int) -> tuple[bool, bool, int, int]:
        return number == 0, number > new - _RECENT, number & -number, number

    return tuple(sorted(sorted(present, key=rank, reverse=True)[: MAX_ANCHORS - 1]))
