"""Sketches in whole numbers of Python, element by element, from the text of the specification: slow, and sure.

Shares no code with the product, and no number passes through numpy. A sum is a whole number of 2^-160.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction

MASK = (1 << 64) - 1
LEVELS = range(-5, 4)


def layer_seed(name: str, user_seed: int) -> int:
    """Where the layer's SplitMix64 starts."""
    text = b"trajmon sketch 1\x00" + struct.pack("<Q", user_seed) + name.encode("utf-8")
    return struct.unpack("<Q", hashlib.blake2b(text, digest_size=8).digest())[0]  # type: ignore[no-any-return]


def word(seed: int, number: int) -> int:
    """Output `number`, from 0, of SplitMix64."""
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def sign(seed: int, index: int) -> int:
    """s(i)"""
    return -1 if word(seed, index // 64) >> (index % 64) & 1 else 1


def decode(dtype: str, raw: bytes) -> list[float]:
    """The elements that a layer's bytes stand for."""
    if dtype == "bfloat16":
        words = struct.unpack(f"<{len(raw) // 2}H", raw)
        raw, dtype = struct.pack(f"<{len(words)}I", *(bits << 16 for bits in words)), "float32"
    code, size = {"float64": ("d", 8), "float32": ("f", 4), "float16": ("e", 2)}[dtype]
    return list(struct.unpack(f"<{len(raw) // size}{code}", raw))


def units(value: float) -> int | None:
    """A whole number of 2^-160, to the nearest, ties to even; None for what a sketch cannot hold."""
    if value != value or abs(value) >= 2.0**127:
        return None
    # round() of a Fraction rounds ties to even.
    return round(Fraction(value) * 2**160)


def sums(
    name: str, user_seed: int, bins: int, num_elements: int, elements: Iterable[tuple[int, float]]
) -> list[int] | None:
    """Each column's sum of some elements, given as (i, x(i)), of a layer; None if it is undefined."""
    seed, columns = layer_seed(name, user_seed), [0] * min(num_elements, bins)
    for index, value in elements:
        whole = units(value)
        if whole is None:
            return None
        columns[index % bins] += sign(seed, index) * whole
    return columns


def digits(total: int) -> list[int]:
    """The one form of a sum, level -5 first."""
    result = []
    for _ in LEVELS[:-1]:
        digit = (total + (1 << 31)) % (1 << 32) - (1 << 31)
        result.append(digit)
        total = (total - digit) >> 32
    return [*result, total]


def column(form: Sequence[int]) -> float:
    """What digits are read as, in float64."""
    value = 0.0
    for level, digit in zip(LEVELS, form, strict=True):
        value += float(digit) * 2.0 ** (32 * level)
    return value


def single(value: float) -> float:
    """Rounded to float32."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
