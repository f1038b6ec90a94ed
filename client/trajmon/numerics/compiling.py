"""How loops are compiled: without the interpreter's lock, and kept for the next process where there is room."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from importlib import resources
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
            loop = njit(nogil=True, cache=True, **options)(function)
            _keep_with_all_sources(loop)
        except (AttributeError, RuntimeError) as error:
            # A read-only installation without a home, or a cache that is not as known: each process compiles.
            if isinstance(error, RuntimeError) and "no locator available" not in str(error):
                raise
            loop = njit(nogil=True, **options)(function)
        return cast("_F", loop)

    return compile_lazily


def _keep_with_all_sources(loop: Any) -> None:
    """Kept code is used again only while no source of this package has changed.

    numba looks at the loop's own file alone, though code of others is compiled into it: after an upgrade that changes
    only those, it would run the old code.
    """
    file = loop._cache._cache_file
    file._source_stamp = (file._source_stamp, _sources())


@functools.cache
def _sources() -> str:
    """Digest of all sources that are compiled into each other."""
    assert __package__
    files = {file.name: file for file in resources.files(__package__).iterdir() if file.name.endswith(".py")}
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(files[name].read_bytes())
    return digest.hexdigest()
