"""The compiled loops that empty a sketch's accumulators into digits, and add digits to digits.

Digits are [9, W] int64, from level -5 up, canonical before and after: :mod:`trajmon_protos.sketch` has their form.

The cache of compiled loops watches kernel.py alone: after a change here, touch that file.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from trajmon.numerics.compiling import compiled
from trajmon_protos.sketch import DIGIT_BITS, LEVELS

__all__ = ["add_digits", "add_levels", "add_whole"]

_LOWEST, _NUM_LEVELS = LEVELS[0], len(LEVELS)
_PER_UNIT: Final = np.array([2.0 ** (-DIGIT_BITS * level) for level in LEVELS])
_HALF: Final = np.int64(1 << (DIGIT_BITS - 1))


@compiled()
def _settle(digits: NDArray[np.int64], carry: NDArray[np.int64], level: int) -> bool:
    """Add `carry` to one level's digits, leave in it what goes to the next level; whether that is anything."""
    anything = np.int64(0)
    if level + 1 == _NUM_LEVELS:
        for k in range(len(digits)):
            digits[k] += carry[k]
            carry[k] = 0
    else:
        for k in range(len(digits)):
            value = digits[k] + carry[k]
            over = (value + _HALF) >> DIGIT_BITS
            digits[k] = value - (over << DIGIT_BITS)
            carry[k] = over
            anything |= over
    return bool(anything != 0)


@compiled()
def add_digits(
    digits: NDArray[np.int64], more: NDArray[np.int64], used: NDArray[np.bool_], carry: NDArray[np.int64]
) -> None:
    """Add canonical digits to others, [9, W]; `used`: [9], levels of `more` that are not 0 everywhere, at least.

    `carry`: [W], scratch, zero before and after.
    """
    carried = False
    for level in range(_NUM_LEVELS):
        if carried or used[level]:
            if used[level]:
                for k in range(len(carry)):
                    carry[k] += more[level, k]
            carried = _settle(digits[level], carry, level)


@compiled()
def add_levels(
    digits: NDArray[np.int64],
    totals: NDArray[np.float64],
    loads: NDArray[np.float64],
    used: NDArray[np.bool_],
    carry: NDArray[np.int64],
) -> None:
    """Add float64 accumulators, [9, W] in whole multiples of their levels' units, and make them 0.

    `loads`: [9], 0 for an accumulator that is 0 everywhere; all 0 afterwards. `used`: [9], set for levels of `digits`
    that are written to.
    """
    carried = False
    for level in range(_NUM_LEVELS):
        if loads[level] != 0.0 or carried:
            loads[level] = 0.0
            total = totals[level]
            for k in range(len(carry)):
                carry[k] += np.int64(total[k] * _PER_UNIT[level])
                total[k] = 0.0
            used[level] = True
            carried = _settle(digits[level], carry, level)


@compiled()
def add_whole(
    digits: NDArray[np.int64],
    total: NDArray[np.int64],
    unit: int,
    used: NDArray[np.bool_],
    carry: NDArray[np.int64],
) -> None:
    """Add an accumulator of whole multiples of 2^unit, [W] below 2^63 in magnitude, and make it 0; -160 <= unit < 96.

    `used` as of :func:`add_levels`.
    """
    level, shift = (unit - DIGIT_BITS * _LOWEST) // DIGIT_BITS, (unit - DIGIT_BITS * _LOWEST) % DIGIT_BITS
    for k in range(len(total)):
        low = (total[k] << DIGIT_BITS) >> DIGIT_BITS
        carry[k] = low << shift
        total[k] = (total[k] - low) >> DIGIT_BITS
    _settle(digits[level], carry, level)
    for k in range(len(total)):
        carry[k] += total[k] << shift
        total[k] = 0
    used[level], used[level + 1] = True, True
    level += 1
    while _settle(digits[level], carry, level):
        level += 1
        used[level] = True
