"""The compiled loops under :mod:`trajmon.numerics.sketch`: fold a block of widened elements into columns, exactly.

A *target* is the layer that is sketched; its elements come from one or several *chunks*, boxes of it that lie in the
snapshot one after the other. Columns are added up in float64, one accumulator for each *level*: elements are cut
into whole multiples of 2^(32 l), and float64 adds those exactly while no sum passes 2^53 of them. How far each
accumulator can have come is kept count of; before it could pass, and when the target changes, accumulators are
emptied into 64-bit digits.

Most blocks of float32 need two levels. Which ones is read off the largest and the smallest element of a segment:
the highest level takes digits of up to 36 bits, so that elements below 16 need none above level -1, and levels below
the last bit of the smallest element are left out. A digit is cut off by adding and subtracting 1.5 * 2^52 times the
level's unit, which rounds to the nearest whole multiple, ties to even: nothing here may be compiled with reordering.

The cache of compiled loops watches kernel.py alone: after a change here, touch that file.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajmon.numerics.compiling import compiled
from trajmon.numerics.sketch_tile import extremes, fold_two_levels
from trajmon_protos.sketch import DIGIT_BITS, LEVELS, MAX_MAGNITUDE

__all__ = ["NO_FOLDING", "Folding", "add_digits", "close_target", "fold_block"]


class Folding(NamedTuple):
    """What the loops need to sketch m new snapshots: L targets, W columns. All arrays are C-contiguous."""

    bins: int
    """p; 0 for no sketch at all."""
    boxes: NDArray[np.int64]
    """[chunks, 5]: target, its element where the chunk starts, elements in a run, first of `dims`, how many."""
    dims: NDArray[np.int64]
    """[D, 2]: extent and stride, in the target's elements, of the axes over runs; each chunk's from the outermost."""
    seeds: NDArray[np.uint64]
    """[L]"""
    widths: NDArray[np.int64]
    """[L]"""
    sinks: NDArray[np.int64]
    """[L], first column of each target in `digits`; -1 - c for column c of `extra`."""
    accumulators: NDArray[np.float64]
    """[m, 9, widest], scratch, zero at the start and after :func:`close_target`."""
    loads: NDArray[np.float64]
    """[m, 9], scratch, zero at the start: how many units a sum in each accumulator can have come to."""
    open: NDArray[np.int64]
    """[1], the target that the accumulators are of; -1 at the start."""
    signed: NDArray[np.int64]
    """[BLOCK], scratch: bit patterns of s(i) x(i)."""
    signs: NDArray[np.uint64]
    """[BLOCK / 64 + 1], scratch: a bit an element, set for minus."""
    carry: NDArray[np.int64]
    """[widest], scratch, zero at the start."""
    digits: NDArray[np.int64]
    """[m, 9, W]; sums are added, the form stays canonical."""
    extra: NDArray[np.int64]
    """[m, 9, X]; the same for targets that another piece of the work adds to `digits`."""
    undefined: NDArray[np.bool_]
    """[m, L]; set where a target has an element that a sketch cannot hold."""


_MAX_LOAD: Final = 2.0**53
_TOP_BITS: Final = 36
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_TOO_LARGE: Final = int(np.float64(MAX_MAGNITUDE).view(np.int64)) >> 32
_BIAS: Final = 1023
_FRACTION_BITS: Final = np.array([52, 23, 7, 10])
"""By dtype code, see ``kernel.CODES``: bits behind the leading one."""
_LOWEST, _HIGHEST, _NUM_LEVELS = LEVELS[0], LEVELS[-1], len(LEVELS)
_ROUNDERS: Final = np.array([1.5 * 2.0 ** (52 + DIGIT_BITS * level) for level in LEVELS])
_PER_UNIT: Final = np.array([2.0 ** (-DIGIT_BITS * level) for level in LEVELS])


def _nothing() -> Folding:
    whole, digits = np.zeros(0, np.int64), np.zeros((0, 9, 0), np.int64)
    return Folding(
        bins=0,
        boxes=np.zeros((0, 5), np.int64),
        dims=np.zeros((0, 2), np.int64),
        seeds=np.zeros(0, np.uint64),
        widths=whole,
        sinks=whole,
        accumulators=np.zeros((0, 9, 0)),
        loads=np.zeros((0, 9)),
        open=whole,
        signed=whole,
        signs=np.zeros(0, np.uint64),
        carry=whole,
        digits=digits,
        extra=digits,
        undefined=np.zeros((0, 0), np.bool_),
    )


NO_FOLDING: Final = _nothing()
"""For a Gram row without a sketch."""


@compiled()
def _word(seed: np.uint64, number: int) -> np.uint64:
    """Output `number` of SplitMix64, from 0."""
    z = seed + np.uint64(number + 1) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


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
def _fold_run(
    signs: NDArray[np.uint64],
    x: NDArray[np.float64],
    first: int,
    seed: np.uint64,
    bins: int,
    high: NDArray[np.float64],
    low: NDArray[np.float64],
    rounder: float,
) -> None:
    """Add consecutive elements to consecutive columns, round and round, in two neighbouring levels."""
    done, count, column = 0, len(x), first % bins
    addresses = (
        np.uint64(x.ctypes.data),
        np.uint64(signs.ctypes.data),
        np.uint64(high.ctypes.data),
        np.uint64(low.ctypes.data),
    )
    while done < count:
        several = min(bins - column, count - done)
        _sign_bits(first + done, several, seed, signs)
        at, to = np.uint64(8 * done), np.uint64(8 * column)
        fold_two_levels(
            addresses[0] + at, addresses[1], addresses[2] + to, addresses[3] + to, rounder, several
        )
        done += several
        column = 0


@compiled()
def _add_run(
    accumulators: NDArray[np.float64],
    x: NDArray[np.float64],
    column: int,
    bins: int,
    low: int,
    high: int,
    rounded: bool,
) -> None:
    """Add consecutive elements to consecutive columns, round and round; levels from 0 for the lowest."""
    done, count = 0, len(x)
    while done < count:
        several = min(bins - column, count - done)
        end, part = column + several, x[done : done + several]
        for level in range(high, low, -1):
            _add_nearest(accumulators[level, column:end], part, _ROUNDERS[level])
        if rounded:
            _add_nearest(accumulators[low, column:end], part, _ROUNDERS[low])
        else:
            _add_all(accumulators[low, column:end], part)
        done += several
        column = 0


@compiled()
def _settle(digits: NDArray[np.int64], carry: NDArray[np.int64], level: int) -> bool:
    """Add `carry` to one level's digits, leave in it what goes to the next level; whether that is anything."""
    half, anything = np.int64(1 << (DIGIT_BITS - 1)), np.int64(0)
    if level + 1 == _NUM_LEVELS:
        for k in range(len(digits)):
            digits[k] += carry[k]
            carry[k] = 0
    else:
        for k in range(len(digits)):
            value = digits[k] + carry[k]
            over = (value + half) >> DIGIT_BITS
            digits[k] = value - (over << DIGIT_BITS)
            carry[k] = over
            anything |= over
    return bool(anything != 0)


@compiled()
def _empty(folding: Any, row: int) -> None:
    """Accumulators into digits, which stay canonical."""
    target = folding.open[0]
    width, sink = folding.widths[target], folding.sinks[target]
    digits = folding.digits[row, :, sink : sink + width]
    if sink < 0:
        digits = folding.extra[row, :, -1 - sink : -1 - sink + width]
    carried = False
    for level in range(_NUM_LEVELS):
        if folding.loads[row, level] != 0.0 or carried:
            folding.loads[row, level] = 0.0
            total = folding.accumulators[row, level, :width]
            for k in range(width):
                folding.carry[k] += np.int64(total[k] * _PER_UNIT[level])
                total[k] = 0.0
            carried = _settle(digits[level], folding.carry[:width], level)


@compiled()
def add_digits(digits: NDArray[np.int64], more: NDArray[np.int64]) -> None:
    """Add canonical digits to others, [9, W]; the form stays canonical."""
    carried, carry = False, np.zeros(digits.shape[1], np.int64)
    for level in range(_NUM_LEVELS):
        if carried or more[level].any():
            carry += more[level]
            carried = _settle(digits[level], carry, level)


@compiled()
def close_target(folding: Any) -> None:
    """Empty all accumulators; after the last block."""
    if folding.open[0] >= 0:
        for row in range(len(folding.loads)):
            _empty(folding, row)
    folding.open[0] = -1


@compiled()
def _fold_segment(folding: Any, row: int, chunk: int, at: int, code: int, x: NDArray[np.float64]) -> None:
    """Fold consecutive elements of a chunk, from its element `at` on, into the open target."""
    target, base, run = folding.boxes[chunk, 0], folding.boxes[chunk, 1], folding.boxes[chunk, 2]
    first_dim, num_dims = folding.boxes[chunk, 3], folding.boxes[chunk, 4]
    bits, count = x.view(np.int64), len(x)
    found = extremes(np.uint64(x.ctypes.data), count)
    largest = int(found >> np.uint64(32))
    if largest >= _TOO_LARGE:
        folding.undefined[row, target] = True
        return
    if largest == 0:
        return
    smallest: int = int(found & np.uint64(0xFFFF_FFFF)) + 1
    exponent: int = (largest >> 20) - _BIAS
    last_bit: int = (smallest >> 20) - _BIAS - _FRACTION_BITS[code]
    high: int = (exponent + 1 - _TOP_BITS + DIGIT_BITS - 1) // DIGIT_BITS
    low: int = last_bit // DIGIT_BITS
    high = min(max(high, _LOWEST), _HIGHEST)
    low = min(max(low, _LOWEST), high)
    rounded = last_bit < DIGIT_BITS * _LOWEST
    # A column takes at most one element more from each run than the run's length has whole rounds.
    runs = (at + count - 1) // run - at // run + 1
    adds = float(min(count, count // folding.bins + runs))
    for level in range(low, high + 1):
        digit_bits = max(exponent + 1 - DIGIT_BITS * high, 0) if level == high else DIGIT_BITS - 1
        load = adds * 2.0**digit_bits
        if folding.loads[row, level - _LOWEST] + load > _MAX_LOAD:
            _empty(folding, row)
            break
    for level in range(low, high + 1):
        digit_bits = max(exponent + 1 - DIGIT_BITS * high, 0) if level == high else DIGIT_BITS - 1
        folding.loads[row, level - _LOWEST] += adds * 2.0**digit_bits
    accumulators, signed = folding.accumulators[row], folding.signed[:count]
    seed, done = folding.seeds[target], 0
    while done < count:
        number, within = (at + done) // run, (at + done) % run
        several = min(run - within, count - done)
        first = base + within
        for dim in range(first_dim + num_dims - 1, first_dim - 1, -1):
            extent, stride = folding.dims[dim, 0], folding.dims[dim, 1]
            first += (number % extent) * stride
            number //= extent
        if high == low + 1 and not rounded:
            _fold_run(
                folding.signs,
                x[done : done + several],
                first,
                seed,
                folding.bins,
                accumulators[high - _LOWEST],
                accumulators[low - _LOWEST],
                _ROUNDERS[high - _LOWEST],
            )
        else:
            part = signed[done : done + several]
            _apply_signs(bits[done : done + several], first, seed, part)
            _add_run(
                accumulators,
                part.view(np.float64),
                first % folding.bins,
                folding.bins,
                low - _LOWEST,
                high - _LOWEST,
                rounded,
            )
        done += several


@compiled()
def fold_block(
    folding: Any, segments: NDArray[np.int64], first: int, last: int, buffer: NDArray[np.float64]
) -> None:
    """Fold a block, widened in `buffer` [m, BLOCK]; `segments` as of :func:`trajmon.numerics.kernel.run_tasks`."""
    for k in range(first, last):
        count, code, place = segments[k, 1], segments[k, 2], segments[k, 4]
        chunk, at = segments[k, 5], segments[k, 6]
        target = folding.boxes[chunk, 0]
        if target != folding.open[0]:
            close_target(folding)
            folding.open[0] = target
        for row in range(len(folding.loads)):
            _fold_segment(folding, row, chunk, at, code, buffer[row, place : place + count])
