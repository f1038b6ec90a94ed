"""The compiled sums of one block: all pairs of T checkpoints at once.

A block holds the same elements of every checkpoint, one row each. Its elements go through in *runs* of :data:`RUN`:
each row's run is converted to float64 into a scratch that stays in cache, then pairs of rows are multiplied four by
four, which loads eight vectors for sixteen products. The differences for the update products come from the same
scratch.

Rounding: a vector lane sums at most RUN / lanes products, :data:`RUNS` of those make a sum, and sums are added with
compensation. With two lanes, the least that any supported processor has, that is 2.9e-14 of Σ|x_i y_i| for any block.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from trajmon.numerics.compiling import SUMS, compiled

__all__ = ["RUN", "block_sums", "padded"]

RUN: Final = 384
"""Elements that are converted and multiplied at a time."""
RUNS: Final = 8
"""Plain additions of such products before a compensated one."""
_TILE: Final = 4
# Rows whose distance is a power of two share few places of the cache.
_GAP: Final = 8


def padded(rows: int) -> int:
    """Rows of the scratch and of the sums: a multiple of four.

    >>> padded(5)
    8
    """
    return -(-rows // _TILE) * _TILE


@compiled()
def _widen(
    wide: NDArray[np.float64],
    single: NDArray[np.float32],
    half: NDArray[np.uint16],
    code: int,
    start: int,
    count: int,
    out: NDArray[np.float64],
    at: int,
    bits: NDArray[np.uint32],
    floats: NDArray[np.float32],
) -> None:
    """Elements [start, start+count) of one row as float64 into out[at:]; three views of the row, codes as in `run`."""
    # Slices first: an index that may be negative keeps the loops from vector instructions.
    into = out[at : at + count]
    if code == 0:
        doubles = wide[start : start + count]
        for i in range(count):
            into[i] = doubles[i]
    elif code == 1:
        singles = single[start : start + count]
        for i in range(count):
            into[i] = singles[i]
    elif code == 2:
        words = half[start : start + count]
        # bfloat16 is the upper half of a float32.
        for i in range(count):
            bits[i] = np.uint32(words[i]) << np.uint32(16)
        for i in range(count):
            into[i] = floats[i]
    else:
        words = half[start : start + count]
        highest = np.uint32(0)
        for i in range(count):
            magnitude = np.uint32(words[i]) & np.uint32(0x7FFF)
            highest = max(highest, magnitude)
            # Exponent bias 15 becomes 127.
            rebased = (magnitude << np.uint32(13)) + np.uint32(112 << 23)
            bits[i] = rebased | ((np.uint32(words[i]) & np.uint32(0x8000)) << np.uint32(16))
        for i in range(count):
            word = np.int32(words[i])
            small = np.float32(word & np.int32(0x7FFF)) * np.float32(2.0**-24)
            small = -small if word >= np.int32(0x8000) else small
            # Subnormals and zero are multiples of 2^-24.
            into[i] = small if (word & np.int32(0x7FFF)) < np.int32(0x0400) else floats[i]
        if highest >= np.uint32(0x7C00):
            # Inf counts like NaN: either makes every entry that it takes part in non-finite.
            for i in range(count):
                if words[i] & np.uint16(0x7FFF) >= np.uint16(0x7C00):
                    into[i] = np.nan


@compiled(fastmath=SUMS)
def _pairs(x: NDArray[np.float64], count: int, sums: NDArray[np.float64]) -> None:
    """Add ⟨x_i, x_j⟩ over the first `count` elements for all i ≥ j; some i < j come along."""
    for i in range(0, len(x), 4):
        for j in range(0, i + 1, 4):
            a00 = a01 = a02 = a03 = a10 = a11 = a12 = a13 = 0.0
            a20 = a21 = a22 = a23 = a30 = a31 = a32 = a33 = 0.0
            x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
            y0, y1, y2, y3 = x[j], x[j + 1], x[j + 2], x[j + 3]
            for k in range(count):
                p0, p1, p2, p3 = x0[k], x1[k], x2[k], x3[k]
                q0, q1, q2, q3 = y0[k], y1[k], y2[k], y3[k]
                a00 += p0 * q0
                a01 += p0 * q1
                a02 += p0 * q2
                a03 += p0 * q3
                a10 += p1 * q0
                a11 += p1 * q1
                a12 += p1 * q2
                a13 += p1 * q3
                a20 += p2 * q0
                a21 += p2 * q1
                a22 += p2 * q2
                a23 += p2 * q3
                a30 += p3 * q0
                a31 += p3 * q1
                a32 += p3 * q2
                a33 += p3 * q3
            sums[i, j] += a00
            sums[i, j + 1] += a01
            sums[i, j + 2] += a02
            sums[i, j + 3] += a03
            sums[i + 1, j] += a10
            sums[i + 1, j + 1] += a11
            sums[i + 1, j + 2] += a12
            sums[i + 1, j + 3] += a13
            sums[i + 2, j] += a20
            sums[i + 2, j + 1] += a21
            sums[i + 2, j + 2] += a22
            sums[i + 2, j + 3] += a23
            sums[i + 3, j] += a30
            sums[i + 3, j + 1] += a31
            sums[i + 3, j + 2] += a32
            sums[i + 3, j + 3] += a33


@compiled(fastmath=SUMS)
def _differences(x: NDArray[np.float64], rows: int, count: int, sums: NDArray[np.float64]) -> None:
    """Add ‖x_t−x_{t−1}‖², ⟨x_t−x_{t−1}, x_{t−1}−x_{t−2}⟩, ‖x_t−x_0‖², ⟨x_t−x_0, x_1−x_0⟩ for each t ≥ 1."""
    for t in range(1, rows):
        # The first update has none before it: its column comes out 0.
        new, old, before, origin, first = x[t], x[t - 1], x[max(t - 2, 0)], x[0], x[1]
        a = b = c = d = 0.0
        for k in range(count):
            update, displacement = new[k] - old[k], new[k] - origin[k]
            a += update * update
            b += update * (old[k] - before[k])
            c += displacement * displacement
            d += displacement * (first[k] - origin[k])
        sums[t, 0] += a
        sums[t, 1] += b
        sums[t, 2] += c
        sums[t, 3] += d


# Without reordering, which would undo the compensation.
@compiled()
def _add(sums: NDArray[np.float64], total: NDArray[np.float64], carry: NDArray[np.float64]) -> None:
    """Add `sums` to total + carry (Knuth's two-sum) and set them to zero; all three are 1-D."""
    for i in range(len(sums)):
        old, value = total[i], sums[i]
        new = old + value
        kept = new - old
        carry[i] += (old - (new - kept)) + (value - kept)
        total[i] = new
        sums[i] = 0.0


@compiled()
def block_sums(
    wide: NDArray[np.float64],
    single: NDArray[np.float32],
    half: NDArray[np.uint16],
    codes: NDArray[np.int64],
    first: int,
    stretch: int,
    period: int,
    count: int,
    gram: NDArray[np.float64],
    products: NDArray[np.float64],
) -> None:
    """The inner products of one part of a block, over all pairs of rows, and its update products.

    `wide`, `single`, `half`: [T, ...], three views of the same bytes; `codes`: [T], which of them a row is:
    0 float64, 1 float32, 2 bfloat16, 3 float16. The part's `count` elements lie in stretches of `stretch`, the
    first of which starts at `first` and each next one `period` later. `gram`: [T, T], its lower triangle is
    written; `products`: [T, 4]. Sums that overflow, or that NaN goes into, come out as what is not finite.
    """
    rows = len(codes)
    height = -(-rows // 4) * 4
    x = np.zeros((height, RUN + _GAP))
    bits = np.empty(RUN, np.uint32)
    floats = bits.view(np.float32)
    entries = height * height
    # Both kinds of sums in one array: one compensated addition for all of them.
    sums = np.zeros(entries + 4 * height)
    total, carry = np.zeros_like(sums), np.zeros_like(sums)
    pair_sums = sums[:entries].reshape(height, height)
    product_sums = sums[entries:].reshape(height, 4)
    pending = 0
    for start in range(0, count, RUN):
        taken = min(RUN, count - start)
        filled = 0
        while filled < taken:
            whole, inside = divmod(start + filled, stretch)
            piece = min(stretch - inside, taken - filled)
            where = first + whole * period + inside
            for t in range(rows):
                _widen(wide[t], single[t], half[t], codes[t], where, piece, x[t], filled, bits, floats)
            filled += piece
        _pairs(x, taken, pair_sums)
        _differences(x, rows, taken, product_sums)
        pending += 1
        if pending == RUNS:
            _add(sums, total, carry)
            pending = 0
    _add(sums, total, carry)
    for i in range(len(total)):
        # What has overflowed has a carry that means nothing.
        if np.isfinite(total[i]):
            total[i] += carry[i]
    gram[:] = total[:entries].reshape(height, height)[:rows, :rows]
    products[:] = total[entries:].reshape(height, 4)[:rows]
