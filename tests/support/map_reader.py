"""Opens a live run's Zarr store again and again, as any user of xarray would, and remembers what it has seen.

Arguments: the .zarr folder, a file to write, a file whose appearance ends it. Warnings are errors. Every entry of
the Gram, of every group's Gram, of the update products and of the coordinates has one value for ever: one that
changes, or goes missing again, ends the program with an error. What it has seen goes into an .npz file: the arrays
by name, and `looks` and `lengths`, how often it looked and how many lengths it saw.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

JOINED = ("gram", "group_gram")
COLUMNS = ("update_squared", "update_dot", "displacement_squared", "displacement_dot")
COORDINATES = ("step", "epoch", "learning_rate", "time", "attempt")


def look(path: Path) -> dict[str, NDArray[Any]]:
    """Everything in the store that never changes once it is there."""
    with xr.open_zarr(path, chunks=None) as store:
        seen = {name: store[name].fillna(store[f"{name}_tail"]).values for name in JOINED}
        seen |= {name: store[name].values for name in (*COLUMNS, *COORDINATES)}
    return seen


def compare(before: dict[str, NDArray[Any]], now: dict[str, NDArray[Any]]) -> None:
    """Raises AssertionError if anything of `before` is not there now, or has another value."""
    for name, old in before.items():
        same = now[name][tuple(slice(extent) for extent in old.shape)]
        # Rows only come in: within the old shape nothing may change, not even what is missing.
        if not np.array_equal(old, same, equal_nan=old.dtype.kind == "f"):
            raise AssertionError(f"{name} changed between lengths {old.shape[-1]} and {now[name].shape[-1]}")


def main(path: Path, out: Path, end: Path) -> None:
    warnings.simplefilter("error")
    looks, lengths = 0, set()
    before: dict[str, NDArray[Any]] = {}
    last = False
    while not last:
        # Once more after the end: with everything there.
        last = end.exists()
        now = look(path)
        compare(before, now)
        before = now
        looks += 1
        lengths.add(now["step"].size)
    arrays: dict[str, Any] = {**before, "looks": looks, "lengths": len(lengths)}
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
