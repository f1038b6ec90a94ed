"""Opens a store again and again, as any user would, and compares what it sees with what must be there.

Arguments: the .zarr folder, number of layers, checkpoints after which to end. Warnings are errors. Prints one JSON
object: how often it looked, how many lengths it saw, how many flags it saw, and what was wrong.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import xarray as xr


def main(path: Path, num_layers: int, stop: int) -> None:
    warnings.simplefilter("error")
    looks = 0
    lengths: set[int] = set()
    flags: set[int] = set()
    wrong: list[str] = []
    while max(lengths, default=0) < stop and len(wrong) < 5:
        with xr.open_zarr(path) as ds:
            gram = ds.gram.fillna(ds.gram_tail).values
            group = ds.group_gram.fillna(ds.group_gram_tail).values
            length = ds.sizes["checkpoint"]
            numbers = np.arange(length)
            layers = np.arange(1, num_layers + 1.0)[:, None, None]
            truth = layers * 2.0**30 + numbers[:, None] * 2.0**14 + numbers + 0.25
            truth[:, np.triu(np.ones((length, length), bool), 1)] = np.nan
            checks = {
                "gram": (gram, truth),
                "group_gram": (group, np.stack([truth.sum(axis=0), truth[1]])),
                "step": (ds.step.values, 10 * numbers),
                "time": (ds.time.values, 1e9 + numbers),
                "attempt": (ds.attempt.values, np.ones(length, int)),
                "checkpoint": (ds.checkpoint.values, numbers),
                "checkpoint_j": (ds.checkpoint_j.values, numbers),
                "update_squared": (ds.update_squared.values, 4.0 * np.arange(num_layers)[:, None] + numbers),
                "group_update_dot": (ds.group_update_dot.sel(group="norm").values, 5.0 + numbers),
            }
            superseded = ds.superseded.values
        wrong += [
            f"{name} at length {length}"
            for name, (seen, true) in checks.items()
            if not np.array_equal(seen, true, equal_nan=seen.dtype.kind == "f")
        ]
        # Row 10 k + 9 follows row 10 k + 6: the two before it are superseded, at the latest when it is there.
        due = np.isin(numbers % 10, (7, 8))
        must = due & (numbers // 10 * 10 + 9 < length)
        if np.any(superseded & ~due) or np.any(must & ~superseded):
            wrong.append(f"superseded at length {length}")
        looks += 1
        lengths.add(length)
        flags.add(int(superseded.sum()))
    print(json.dumps({"looks": looks, "lengths": len(lengths), "flags": len(flags), "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
