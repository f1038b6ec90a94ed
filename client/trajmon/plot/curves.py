"""Curves over checkpoints as lines of terminal text: braille dots, or asterisks in plain ASCII."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["MARKS", "curve_lines", "number", "number_with_error"]

MARKS = {True: "│", False: "|"}
"""The sign of a switch between checkpoints, with dots and without."""

_MOST_DECIMALS = 6
_LARGE = 1e6
_BRAILLE = 0x2800
# Bits of the 4 x 2 dots of a braille sign, by row and column.
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


def number(value: float) -> str:
    """A value in at most 9 signs.

    >>> number(0.86234), number(25600000.0), number(float("nan"))
    ('0.8623', '2.56e+07', 'undefined')
    """
    return "undefined" if np.isnan(value) else f"{value:.4g}"


def number_with_error(value: float, error: float, plain: bool = False) -> str:
    """A value with its standard error, to the digits that the error leaves; an error of 0 or NaN is not shown.

    `plain` writes ``+/-`` for terminals that have no other sign.

    >>> number_with_error(0.95612, 0.0012), number_with_error(0.95612, 0.0), number_with_error(153.2, 40.0)
    ('0.9561 ± 0.0012', '0.9561', '153 ± 40')
    >>> number_with_error(0.8712345, 3e-8), number_with_error(0.01, 2.0), number_with_error(2.5e7, 1e5)
    ('0.8712 ± 3.0e-08', '0.0 ± 2.0', '2.5e+07 ± 1.0e+05')
    """
    if not (math.isfinite(value) and 0 < error < math.inf):
        return number(value)
    sign = "+/-" if plain else "±"
    # Two digits of the error, and as many decimals of the value.
    decimals = 1 - math.floor(math.log10(error))
    if not 0 <= decimals <= _MOST_DECIMALS or abs(value) >= _LARGE:
        return f"{number(value)} {sign} {error:.1e}"
    return f"{value:.{decimals}f} {sign} {error:.{decimals}f}"


def curve_lines(
    values: NDArray[np.float64], width: int, height: int, dots: bool, switches: Sequence[int] = ()
) -> list[str]:
    """A curve, [T], in `height` lines of at most `width` signs, scaled to its range; gaps where undefined.

    With more checkpoints than columns each column spans the lowest to the highest of its values: no peak is
    lost. A line before each position in `switches` stands where the curve leaves room.
    """
    across, down = (2, 4) if dots else (1, 1)
    columns, rows = width * across, height * down
    low, high = _column_ranges(values, columns)
    defined = np.isfinite(low)
    grid = np.zeros((rows, columns), dtype=bool)
    if defined.any():
        floor, ceiling = float(low[defined].min()), float(high[defined].max())
        span = ceiling - floor
        top, bottom = (_to_row(edge, floor, span, rows) for edge in (high, low))
        previous = -1
        for column in np.flatnonzero(defined):
            upper, lower = top[column], bottom[column]
            if previous == column - 1 and column:
                # Joined to its neighbour, so that a steep curve stays one curve.
                upper, lower = min(upper, bottom[previous]), max(lower, top[previous])
            grid[upper : lower + 1, column] = True
            previous = int(column)
    lines = _braille(grid) if dots else ["".join("*" if cell else " " for cell in row) for row in grid]
    cells = {_cell_before(position, len(values), columns) // across for position in switches}
    marked = (
        "".join(MARKS[dots] if i in cells and sign in " ⠀" else sign for i, sign in enumerate(line))
        for line in lines
    )
    return [line if dots else line.rstrip() for line in marked]


def _cell_before(position: int, t: int, columns: int) -> int:
    """Column between a checkpoint and the one before it."""
    return int((position - 0.5) * (columns - 1) / (t - 1)) if t <= columns else position * columns // t


def _column_ranges(
    values: NDArray[np.float64], columns: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest value in each column; NaN where nothing is defined."""
    t = len(values)
    low, high = np.full(columns, np.nan), np.full(columns, np.nan)
    if t <= columns:
        position = np.linspace(0, t - 1, columns) if t > 1 else np.zeros(min(columns, t))
        left = np.floor(position).astype(int)
        right = np.minimum(left + 1, max(t - 1, 0))
        weight = position - left
        line = np.where(weight == 0, values[left], (1 - weight) * values[left] + weight * values[right])
        line[~np.isfinite(line)] = np.nan
        # A point without a defined neighbour still gets its dot.
        at = np.rint(np.arange(t) * ((columns - 1) / max(t - 1, 1))).astype(int)
        line[at] = np.where(np.isfinite(values), values, np.nan)
        low[: len(line)] = high[: len(line)] = line
        return low, high
    edges = np.arange(columns + 1) * t // columns
    for column in range(columns):
        block = values[edges[column] : edges[column + 1]]
        block = block[np.isfinite(block)]
        if block.size:
            low[column], high[column] = block.min(), block.max()
    return low, high


def _to_row(value: NDArray[np.float64], floor: float, span: float, rows: int) -> NDArray[np.intp]:
    # A constant curve is a line in the middle.
    fraction = np.where(np.isfinite(value), (value - floor) / span if span > 0 else 0.5, 0.0)
    return np.rint((1.0 - fraction) * (rows - 1)).astype(np.intp)


def _braille(grid: NDArray[np.bool_]) -> list[str]:
    rows, columns = grid.shape
    cells = grid.reshape(rows // 4, 4, columns // 2, 2)
    bits = (cells * _DOTS[None, :, None, :]).sum(axis=(1, 3))
    return ["".join(chr(_BRAILLE + int(cell)) for cell in row) for row in bits]
