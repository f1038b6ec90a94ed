"""The compiled loops under :mod:`trajmon.numerics.sketch`: fold a block of elements into columns, exactly.

A *target* is the layer that is sketched; its elements come from one or several *chunks*, boxes of it that lie in the
snapshot one after the other. They are folded part by part, as they are widened to float64, in one of two ways; which,
is read off the largest and the smallest magnitude of the part.

Most parts span less than 51 bits from the first bit of the largest element to the last bit of the smallest. They are
added up as whole multiples of one unit, in 64-bit integers. The unit suits the first part of a target; it is chosen
anew when more elements than there are columns did not suit it.

Other parts are cut into whole multiples of 2^(32 l), one float64 accumulator for each *level* l, which adds those
exactly while no sum passes 2^53 of them. The highest level takes digits of up to 36 bits, so that elements below 16
need none above level -1, and levels below the last bit of the smallest element are left out. A digit is cut off by
adding and subtracting 1.5 * 2^52 times the level's unit, which rounds to the nearest whole multiple, ties to even:
nothing here may be compiled with reordering.

How far each accumulator can have come is kept count of; before it could pass what it holds, and when the target
changes, it is emptied into 64-bit digits.

The cache of compiled loops watches kernel.py alone: after a change here, touch that file.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajmon.numerics.compiling import compiled
from trajmon.numerics.sketch_digits import add_levels, add_whole
from trajmon.numerics.sketch_runs import FIRST_UNIT, add_in_levels, add_in_units
from trajmon.numerics.sketch_tile import widen_and_look
from trajmon.numerics.tile import BF16, F16, F32, F64
from trajmon_protos.sketch import DIGIT_BITS, LEVELS, MAX_MAGNITUDE

__all__ = ["NO_FOLDING", "Folding", "close_target", "fold_block"]


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
    whole: NDArray[np.int64]
    """[m, widest], scratch, zero at the start: sums of what suits `units`."""
    units: NDArray[np.int64]
    """[m], scratch: exponents of the units of `whole`."""
    adds: NDArray[np.int64]
    """[m], scratch, zero at the start: how many elements a sum in `whole` can have taken."""
    missed: NDArray[np.int64]
    """[m], scratch, zero at the start: elements that did not suit the unit."""
    used: NDArray[np.bool_]
    """[m, 9], set for levels of the digits that were written to."""
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
_MAX_ADDS: Final = 1 << 11
"""Elements, each of up to 2^51 units, that a sum in ``Folding.whole`` takes."""
_SPAN_BITS: Final = 51
"""Most bits of an element, counted from the unit, that can be added to 1.5 * 2^52 units."""
_SPARE_BITS: Final = 2
"""Of these, how many are left above the largest element of the first part."""
_PART: Final = 2048
"""Elements that are widened and folded at a time: 16 KiB as float64, to stay in the nearest cache."""
_TOO_LARGE: Final = int(np.float64(MAX_MAGNITUDE).view(np.int64)) >> 32
_BIAS: Final = 1023
_ITEM_BYTES: Final = np.array([8, 4, 2, 2])
"""By dtype code, see ``kernel.CODES``."""
_FRACTION_BITS: Final = np.array([52, 23, 7, 10])
"""By dtype code: bits behind the leading one."""
_LOWEST, _HIGHEST = LEVELS[0], LEVELS[-1]


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
        whole=np.zeros((0, 0), np.int64),
        units=whole,
        adds=whole,
        missed=whole,
        used=np.zeros((0, 9), np.bool_),
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
def _digits_of(folding: Any, row: int) -> Any:
    """Where the open target's columns are summed."""
    target = folding.open[0]
    width, sink = folding.widths[target], folding.sinks[target]
    if sink < 0:
        return folding.extra[row, :, -1 - sink : -1 - sink + width]
    return folding.digits[row, :, sink : sink + width]


@compiled()
def _empty_levels(folding: Any, row: int) -> None:
    width = folding.widths[folding.open[0]]
    totals = folding.accumulators[row, :, :width]
    add_levels(_digits_of(folding, row), totals, folding.loads[row], folding.used[row], folding.carry[:width])


@compiled()
def _empty_whole(folding: Any, row: int) -> None:
    if folding.adds[row] != 0:
        width = folding.widths[folding.open[0]]
        total = folding.whole[row, :width]
        add_whole(
            _digits_of(folding, row), total, folding.units[row], folding.used[row], folding.carry[:width]
        )
        folding.adds[row] = 0


@compiled()
def close_target(folding: Any) -> None:
    """Empty all accumulators; after the last block."""
    if folding.open[0] >= 0:
        for row in range(len(folding.loads)):
            _empty_whole(folding, row)
            _empty_levels(folding, row)
            folding.missed[row] = 0
    folding.open[0] = -1


@compiled()
def _choose_unit(folding: Any, row: int, top: int, last_bit: int, adds: int, count: int) -> bool:
    """For elements below 2^top, multiples of 2^last_bit, that did not suit, or that there is no room for.

    Whether they can be added in units now.
    """
    if folding.missed[row] > folding.widths[folding.open[0]] or folding.adds[row] + adds > _MAX_ADDS:
        _empty_whole(folding, row)
        folding.missed[row] = 0
    if folding.adds[row] == 0:
        folding.units[row] = max(top + _SPARE_BITS - _SPAN_BITS, FIRST_UNIT)
    if last_bit >= folding.units[row] and top <= folding.units[row] + _SPAN_BITS:
        return True
    folding.missed[row] += count
    return False


@compiled()
def _make_room(folding: Any, row: int, low: int, high: int, top: int, adds: int) -> None:
    """For elements below 2^top in the levels from `low` to `high`; counted."""
    for level in range(low, high + 1):
        digit_bits = max(top - DIGIT_BITS * high, 0) if level == high else DIGIT_BITS - 1
        if folding.loads[row, level - _LOWEST] + float(adds << digit_bits) > _MAX_LOAD:
            _empty_levels(folding, row)
            break
    for level in range(low, high + 1):
        digit_bits = max(top - DIGIT_BITS * high, 0) if level == high else DIGIT_BITS - 1
        folding.loads[row, level - _LOWEST] += float(adds << digit_bits)


@compiled()
def _element(boxes: NDArray[np.int64], dims: NDArray[np.int64], chunk: int, number: int) -> int:
    """Where run `number` of a chunk starts in its target."""
    first: int = boxes[chunk, 1]
    first_dim, num_dims = boxes[chunk, 3], boxes[chunk, 4]
    for dim in range(first_dim + num_dims - 1, first_dim - 1, -1):
        extent, stride = dims[dim, 0], dims[dim, 1]
        first += (number % extent) * stride
        number //= extent
    return first


@compiled()
def _widen_and_look(x: NDArray[np.float64], address: np.uint64, code: int) -> Any:
    """See :func:`trajmon.numerics.sketch_tile.widen_and_look`."""
    to, count = np.uint64(x.ctypes.data), len(x)
    if code == 0:
        return widen_and_look(to, address, count, F64)
    if code == 1:
        return widen_and_look(to, address, count, F32)
    if code == 2:
        return widen_and_look(to, address, count, BF16)
    return widen_and_look(to, address, count, F16)


@compiled()
def _fold_segment(
    folding: Any, row: int, chunk: int, at: int, code: int, address: np.uint64, buffer: NDArray[np.float64]
) -> None:
    """Widen consecutive elements of a chunk, from its element `at` on, into `buffer`; fold them into the open target.

    What takes all of `folding` is called seldom: to pass it takes as long as to fold a thousand elements.
    """
    target, run, bins = folding.boxes[chunk, 0], folding.boxes[chunk, 2], folding.bins
    for start in range(0, len(buffer), _PART):
        x = buffer[start : start + _PART]
        count = len(x)
        found = _widen_and_look(x, address + np.uint64(start * _ITEM_BYTES[code]), code)
        largest, smallest = int(found >> np.uint64(32)), int(found & np.uint64(0xFFFF_FFFF)) + 1
        if largest >= _TOO_LARGE:
            folding.undefined[row, target] = True
        if largest == 0 or largest >= _TOO_LARGE:
            continue
        top = (largest >> 20) - _BIAS + 1
        last_bit = (smallest >> 20) - _BIAS - _FRACTION_BITS[code]
        # A column takes at most one element more from each run than the run's length has whole rounds.
        number, within = (at + start) // run, (at + start) % run
        adds = min(count, count // bins + (within + count - 1) // run + 1)
        unit = folding.units[row]
        in_units = last_bit >= unit and top <= unit + _SPAN_BITS and 0 < folding.adds[row] <= _MAX_ADDS - adds
        in_units = in_units or _choose_unit(folding, row, top, last_bit, adds, count)
        low = high = _LOWEST
        if in_units:
            folding.adds[row] += adds
        else:
            high = min(max((top - _TOP_BITS + DIGIT_BITS - 1) // DIGIT_BITS, _LOWEST), _HIGHEST)
            low = min(max(last_bit // DIGIT_BITS, _LOWEST), high)
            _make_room(folding, row, low, high, top, adds)
        done, seed = 0, folding.seeds[target]
        while done < count:
            several = min(run - within, count - done)
            first = _element(folding.boxes, folding.dims, chunk, number) + within
            if in_units:
                data, to = np.uint64(x.ctypes.data + 8 * done), np.uint64(folding.whole[row].ctypes.data)
                add_in_units(data, several, first, seed, bins, to, folding.units[row], folding.signs)
            else:
                add_in_levels(
                    x[done : done + several],
                    first,
                    seed,
                    bins,
                    folding.accumulators[row],
                    low - _LOWEST,
                    high - _LOWEST,
                    last_bit < FIRST_UNIT,
                    folding.signed[:several],
                )
            done += several
            number, within = number + 1, 0


@compiled()
def fold_block(
    folding: Any,
    segments: NDArray[np.int64],
    first: int,
    last: int,
    new: NDArray[np.uint64],
    buffer: NDArray[np.float64],
) -> None:
    """Widen a block into `buffer`, [m, BLOCK], and fold it; all else as for ``kernel.run_tasks``."""
    for k in range(first, last):
        count, code, place = segments[k, 1], segments[k, 2], segments[k, 4]
        chunk, at = segments[k, 5], segments[k, 6]
        target = folding.boxes[chunk, 0]
        if target != folding.open[0]:
            close_target(folding)
            folding.open[0] = target
        for row in range(len(folding.loads)):
            address = new[row] + np.uint64(segments[k, 0])
            _fold_segment(folding, row, chunk, at, code, address, buffer[row, place : place + count])
