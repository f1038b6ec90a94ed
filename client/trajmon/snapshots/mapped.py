"""Memory of mapped snapshots: given back while a pass goes over them."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any, Final

from numpy.typing import NDArray

__all__ = ["LARGE_BYTES", "releaser"]

LARGE_BYTES: Final = 1 << 30
"""Of a snapshot from which on this is worth its price: the next pass maps again, page by page, what was given back."""


def releaser(snapshots: Sequence[NDArray[Any] | None]) -> Callable[[int, int], None]:
    """What gives back the memory of a range of bytes of all these snapshots, as far as they are mapped files.

    The bytes stay in the files, and in the system's cache of them as long as there is room.
    """
    bases: list[object] = [None if data is None else data.base for data in snapshots]
    maps = [base for base in bases if isinstance(base, mmap.mmap)]

    def release(start: int, stop: int) -> None:
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        for mapped in maps:
            length = min(stop, len(mapped)) - first
            if length > 0:
                mapped.madvise(mmap.MADV_DONTNEED, first, length)

    return release
