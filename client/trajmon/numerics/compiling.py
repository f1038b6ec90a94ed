"""How loops are compiled: without the interpreter's lock, and kept for the next process where there is room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from numba import njit

__all__ = ["SUMS", "compiled"]

# Sums may be reordered and fused. NaN and Inf must stay what they are: no "nnan", no "ninf".
SUMS: Final = {"reassoc", "contract", "nsz"}

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[_F], _F]:
    """A decorator for loops; `options` as of ``numba.njit``."""

    def compile_lazily(function: _F) -> _F:
        try:
            return cast("_F", njit(nogil=True, cache=True, **options)(function))
        except RuntimeError as error:
            # A read-only installation without a home: nowhere to keep compiled code, each process compiles.
            if "no locator available" not in str(error):
                raise
            return cast("_F", njit(nogil=True, **options)(function))

    return compile_lazily
