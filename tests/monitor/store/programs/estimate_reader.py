"""Opens a store with estimates again and again, and compares what it sees with what must be there.

Arguments: the .zarr folder, the first row with estimates, checkpoints after which to end. Warnings are errors. Prints
one JSON object: how many lengths it saw, with and without estimates, and what was wrong.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import xarray as xr

from support.estimated_rows import NAMES, is_sketched, num_holes, truth


def main(path: Path, first: int, stop: int) -> None:
    warnings.simplefilter("error")
    expected = truth(stop, first)
    counts = [num_holes(n, first) if is_sketched(n, first) else -1 for n in range(stop)]
    lengths: dict[bool, set[int]] = {False: set(), True: set()}
    wrong: list[str] = []
    length = 0
    while length < stop and len(wrong) < 5:
        with xr.open_zarr(path, chunks=None) as ds:
            length = ds.sizes["checkpoint"]
            begun = "gram_error" in ds
            names = [
                f"{prefix}{name}" for prefix in ("", "group_") for name in (NAMES if begun else NAMES[:1])
            ]
            for name in names:
                seen = ds[name].fillna(ds[f"{name}_tail"]).values
                if not np.array_equal(seen, expected[name][:, :length, :length], equal_nan=True):
                    wrong.append(f"{name} at length {length}")
            if begun and ds.estimated.values.tolist() != counts[:length]:
                wrong.append(f"estimated at length {length}")
            if begun != (length > first):
                wrong.append(f"arrays at length {length}")
        lengths[begun].add(length)
    print(json.dumps({"without": len(lengths[False]), "with": len(lengths[True]), "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
