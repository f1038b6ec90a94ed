"""The sketch of a layer: a random projection that anybody can make anew from its specification. Version 1.

Let x be the layer's elements in row-major order, i = 0 .. n-1, p the number of bins (a prime), and

* seed = the first 8 bytes, little-endian, of BLAKE2b (digest size 8) over ``b"trajmon sketch 1\\\\x00"``, the user's
  seed as 8 bytes little-endian, and the layer's name in UTF-8;
* word(q) = the (q+1)-th output of SplitMix64 started at that seed: z = seed + (q+1) * 0x9E3779B97F4A7C15,
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9, z = (z ^ (z >> 27)) * 0x94D049BB133111EB, z ^ (z >> 31), modulo 2^64;
* s(i) = -1 if bit (i mod 64) of word(i // 64) is set, else +1.

The sketch has min(n, p) columns; column b is the sum of s(i) x(i) over all i with i mod p = b. A layer of at most p
elements is thus kept whole, up to signs: its inner products are exact.

The sum is exact. Each element is taken as a whole multiple of 2^-160: float32 and narrower elements are, a float64 is
rounded to the nearest, ties to even. Sums are whole numbers, so that any order of adding, and any division into
shards, gives the same. A sum has one form in *digits* d(l) for the levels l = -5 .. 3: it is the sum of
d(l) * 2^(32 l), with -2^31 <= d(l) < 2^31 for all levels but the highest. To read a column, its digits, as float64
times 2^(32 l), are added from the lowest level up in float64, and rounded to float32 where no layer is float64.

An element that is not finite, or not below 2^127 in magnitude, leaves the whole layer's sketch undefined: NaN.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.errors import SketchError

__all__ = [
    "DIGIT_BITS",
    "LEVELS",
    "MAX_BINS",
    "SketchSpec",
    "canonical",
    "collapse",
    "default_bins",
    "pair_rate",
]

VERSION: Final = 1
MAX_BINS: Final = 1 << 20
DIGIT_BITS: Final = 32
LEVELS: Final = range(-5, 4)
"""Digit d at level l stands for d * 2^(32 l)."""
MAX_MAGNITUDE: Final = 2.0**127
_DOMAIN: Final = b"trajmon sketch 1\x00"
_SIZES: Final = (16381, 4093, 1021, 251)
"""Prime numbers of bins to choose from, the largest that is small beside the model."""
_SMALL_BESIDE: Final = 20


@dataclass(frozen=True, slots=True)
class SketchSpec:
    """What has to agree for two sketches to be comparable.

    Raises :class:`SketchError` for a version that this program does not know, for bins that are not a prime number
    from 2 to 2^20, and for a seed outside of 64 bits.

    >>> SketchSpec(bins=251).layer_seed("fc.weight") == SketchSpec(bins=251, seed=1).layer_seed("fc.weight")
    False
    """

    bins: int
    """p, a prime: a number that shares no factor with the layers' extents, whose columns would else fall together."""
    seed: int = 0
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise SketchError(
                f"sketch version {self.version} is not {VERSION}, which this program makes and reads"
            )
        if not (2 <= self.bins <= MAX_BINS and _is_prime(self.bins)):
            raise SketchError(f"a sketch of {self.bins} bins: it must be a prime number from 2 to {MAX_BINS}")
        if not 0 <= self.seed < 1 << 64:
            raise SketchError(f"sketch seed {self.seed} is not within 0 .. 2^64-1")

    def __str__(self) -> str:
        return f"version {self.version}, {self.bins} bins, seed {self.seed}"

    def layer_seed(self, name: str) -> int:
        """Where a layer's SplitMix64 starts: 64 bits, hashed, so that no two layers share signs."""
        data = _DOMAIN + self.seed.to_bytes(8, "little") + name.encode()
        return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")

    def width(self, num_elements: int) -> int:
        """Columns of the sketch of a layer."""
        return min(num_elements, self.bins)

    def is_lossless(self, num_elements: int) -> bool:
        """Whether the sketch is the layer itself, up to signs."""
        return num_elements <= self.bins


def default_bins(numels: Sequence[int]) -> int:
    """Bins where nobody says how many: as many as keep float32 sketches below a 20th of float32 parameters.

    >>> default_bins([1_000_000] * 10), default_bins([36_864] * 20)
    (16381, 1021)
    """
    total = sum(numels)
    for bins in _SIZES:
        if _SMALL_BESIDE * sum(min(numel, bins) for numel in numels) <= total:
            return bins
    return _SIZES[-1]


def pair_rate(num_elements: int, bins: int) -> float:
    """Share of pairs of different elements that meet in a bin, of all n²: the 1/k of a sketch's variance.

    With unit vectors of cosine c, the sketches' inner product has the variance pair_rate * (1 + c²), where the
    elements are of like size; 0 for a sketch without collisions.

    >>> pair_rate(1000, 1021), abs(pair_rate(10**9, 1021) * 1021 - 1) < 1e-5
    (0.0, True)
    """
    if num_elements <= bins:
        return 0.0
    low, longer = divmod(num_elements, bins)
    pairs = longer * (low + 1) * low + (bins - longer) * low * (low - 1)
    return pairs / num_elements**2


def canonical(digits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums of digits, [9, W] from level -5 up, brought into their one form; a new array.

    Raises :class:`SketchError` if the highest level overflows.

    >>> canonical(np.array([[3 << 31]] + [[0]] * 8)).ravel().tolist()[:3]
    [-2147483648, 2, 0]
    """
    if digits.ndim != 2 or len(digits) != len(LEVELS):
        raise SketchError(f"digits have shape {digits.shape}, not ({len(LEVELS)}, columns)")
    result = digits.copy()
    for level in range(len(LEVELS) - 1):
        carry = (result[level] + (1 << (DIGIT_BITS - 1))) >> DIGIT_BITS
        result[level] -= carry << DIGIT_BITS
        result[level + 1] += carry
    if (np.abs(result[-1]) > 1 << 62).any():
        raise SketchError("the sums of a sketch overflow")
    return result


def collapse(digits: NDArray[np.int64]) -> NDArray[np.float64]:
    """The columns that canonical digits, [9, W] from level -5 up, stand for, [W]."""
    total = np.zeros(digits.shape[1])
    for level, row in zip(LEVELS, digits, strict=True):
        total += row.astype(np.float64) * 2.0 ** (DIGIT_BITS * level)
    return total


@lru_cache(maxsize=64)
def _is_prime(number: int) -> bool:
    return number >= 2 and all(number % factor for factor in range(2, math.isqrt(number) + 1))
