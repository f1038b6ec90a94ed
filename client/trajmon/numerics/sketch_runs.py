"""The compiled loops of a sketch over consecutive elements: their signs, and their sums in consecutive columns.

Nothing here may be compiled with reordering: it would undo how elements are rounded to a level's units.

The cache of compiled loops watches kernel.py alone: after a change here, touch that file.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from trajmon.numerics.compiling import compiled
from trajmon.numerics.sketch_tile import fold_whole
from trajmon.numerics.tile import LANES
from trajmon_protos.sketch import DIGIT_BITS, LEVELS

__all__ = ["FIRST_UNIT", "add_in_levels", "add_in_units"]

FIRST_UNIT: Final = DIGIT_BITS * LEVELS[0]
"""Exponent of the unit that every element is a multiple of."""
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_ROUNDERS: Final = np.array([1.5 * 2.0 ** (52 + DIGIT_BITS * level) for level in LEVELS])
_UNIT_ROUNDERS: Final = np.array([1.5 * 2.0 ** (52 + unit) for unit in range(FIRST_UNIT, 127)])


@compiled()
def _word(seed: np.uint64, number: int) -> np.uint64:
    """Output `number` of SplitMix64, from 0."""
    z = seed + np.uint64(number + 1) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@compiled()
def _sign_bits(first: int, count: int, seed: np.uint64, out: NDArray[np.uint64]) -> None:
    """A bit for each of `count` elements from `first` on, set for minus; in `out`, 64 a word."""
    number, bit = first >> 6, np.uint64(first & 63)
    word = _word(seed, number)
    for k in range((count + 63) >> 6):
        if bit == np.uint64(0):
            out[k] = word
            word = _word(seed, number + k + 1)
        else:
            following = _word(seed, number + k + 1)
            out[k] = (word >> bit) | (following << (np.uint64(64) - bit))
            word = following


@compiled()
def add_in_units(
    x: np.uint64,
    count: int,
    first: int,
    seed: np.uint64,
    bins: int,
    whole: np.uint64,
    unit: int,
    signs: NDArray[np.uint64],
) -> None:
    """Add s(i) x(i), for `count` elements from i = `first` on, to columns i mod bins, as multiples of 2^unit.

    `x`: address of float64; `whole`: of int64, on a line of the cache; `signs`: scratch.
    """
    done, column, rounder = 0, first % bins, _UNIT_ROUNDERS[unit - FIRST_UNIT]
    while done < count:
        several = min(bins - column, count - done)
        # A vector of columns that lies across two lines takes twice the time: up to the next line first.
        if column % LANES:
            several = min(several, LANES - column % LANES)
        _sign_bits(first + done, several, seed, signs)
        start, to = x + np.uint64(8 * done), whole + np.uint64(8 * column)
        fold_whole(start, np.uint64(signs.ctypes.data), to, rounder, several)
        done += several
        column += several
        if column == bins:
            column = 0


@compiled()
def _apply_signs(x: NDArray[np.int64], first: int, seed: np.uint64, out: NDArray[np.int64]) -> None:
    """Bit patterns of s(i) x(i), of elements from `first` on."""
    done, count = 0, len(x)
    while done < count:
        bit = (first + done) & 63
        word = _word(seed, (first + done) >> 6) >> np.uint64(bit)
        several = min(64 - bit, count - done)
        a, b = x[done : done + several], out[done : done + several]
        if several == 64:
            for k in range(64):
                b[k] = a[k] ^ np.int64((word >> np.uint64(k)) << np.uint64(63))
        else:
            for k in range(several):
                b[k] = a[k] ^ np.int64((word >> np.uint64(k)) << np.uint64(63))
        done += several


@compiled()
def _add_all(total: NDArray[np.float64], x: NDArray[np.float64]) -> None:
    for k in range(len(x)):
        total[k] += x[k]


@compiled()
def _add_nearest(total: NDArray[np.float64], x: NDArray[np.float64], rounder: float) -> None:
    """Add what lies on the level's grid, and leave the rest."""
    for k in range(len(x)):
        near = (x[k] + rounder) - rounder
        total[k] += near
        x[k] -= near


@compiled()
def add_in_levels(
    x: NDArray[np.float64],
    first: int,
    seed: np.uint64,
    bins: int,
    accumulators: NDArray[np.float64],
    low: int,
    high: int,
    rounded: bool,
    signed: NDArray[np.int64],
) -> None:
    """The same in levels from `low` to `high`, counted from 0 for the lowest; `rounded`: to units of the lowest.

    `accumulators`: [9, widest]; `signed`: scratch.
    """
    done, count, column = 0, len(x), first % bins
    _apply_signs(x.view(np.int64), first, seed, signed)
    values = signed.view(np.float64)
    while done < count:
        several = min(bins - column, count - done)
        end, part = column + several, values[done : done + several]
        for level in range(high, low, -1):
            _add_nearest(accumulators[level, column:end], part, _ROUNDERS[level])
        if rounded:
            _add_nearest(accumulators[low, column:end], part, _ROUNDERS[low])
        else:
            _add_all(accumulators[low, column:end], part)
        done += several
        column = 0
