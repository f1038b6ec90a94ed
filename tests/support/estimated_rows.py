"""Rows with estimates whose every value is known from its place, so that a reader can tell a wrong one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.record import Row
from trajmon_protos.v1 import types_pb2
from trajmon_server.store.estimates import RowEstimates
from trajmon_server.store.layout import RunShape
from trajmon_server.store.maps import PublishRow

SHAPE = RunShape("ab" * 16, "demo", ("a", "b", "c"), (("network", (0, 1, 2)), ("norm", (1,))))
NAMES = ("gram", "gram_estimate", "gram_error", "sketch_gram")


def is_sketched(checkpoint: int, first: int) -> bool:
    """Whether the row comes with estimates: from `first` on, but for one in seven."""
    return checkpoint >= first and checkpoint % 7 != 2


def num_holes(checkpoint: int, first: int) -> int:
    return len(_holes(checkpoint, first))


def _holes(checkpoint: int, first: int) -> list[int]:
    if not is_sketched(checkpoint, first) or checkpoint % 7 == 3:
        return []
    return [j for j in range(checkpoint - 1) if (checkpoint + j) % 3 == 0]


def gram_row(num_layers: int, checkpoint: int) -> NDArray[np.float64]:
    layers = np.arange(1, num_layers + 1, dtype=np.float64)[:, None]
    return layers * 2.0**30 + checkpoint * 2.0**14 + np.arange(checkpoint + 1)[None, :] + 0.25


def estimates(checkpoint: int, first: int = 0, run: RunShape = SHAPE) -> RowEstimates | None:
    """What sketches say of a row whose number says where its holes are."""
    if not is_sketched(checkpoint, first):
        return None
    values = gram_row(len(run.layer_names), checkpoint)
    estimate, error = np.full_like(values, np.nan), np.full_like(values, np.nan)
    holes = _holes(checkpoint, first)
    estimate[:, holes], error[:, holes] = values[:, holes] + 0.5, values[:, holes] / 2.0**20
    groups = np.stack([estimate[list(members)].sum(axis=0) for _, members in run.groups])
    return RowEstimates(estimate, error, -values, groups, groups / 2.0**21)


def item(checkpoint: int, first: int = 0, run: RunShape = SHAPE) -> PublishRow:
    """The row, with holes where it has estimates."""
    num_layers = len(run.layer_names)
    gram = gram_row(num_layers, checkpoint)
    gram[:, _holes(checkpoint, first)] = np.nan
    header = types_pb2.RowHeader(
        run_id=run.run_id, attempt=1, checkpoint=checkpoint, num_parts=1, num_layers=num_layers
    )
    header.info.step = 10 * checkpoint
    if checkpoint:
        header.previous = checkpoint - 1
    row = Row(header, gram, np.zeros((num_layers, 4)), np.zeros(num_layers, np.uint8))
    return PublishRow(row, 1, estimates(checkpoint, first, run))


def truth(length: int, first: int = 0, run: RunShape = SHAPE) -> dict[str, NDArray[np.float64]]:
    """All matrices of a store by name, [layer or group, checkpoint, checkpoint_j], NaN above the diagonal."""
    counts = {"": len(run.layer_names), "group_": len(run.groups)}
    found = {
        f"{prefix}{name}": np.full((count, length, length), np.nan)
        for prefix, count in counts.items()
        for name in NAMES
    }
    for number in range(length):
        shown = item(number, first, run)
        parts = {"gram": shown.row.gram}
        if shown.estimates is not None:
            parts |= {
                "gram_estimate": shown.estimates.estimate,
                "gram_error": shown.estimates.error,
                "sketch_gram": shown.estimates.sketch_gram,
                "group_gram_estimate": shown.estimates.group_estimate,
                "group_gram_error": shown.estimates.group_error,
            }
        for name in ("gram", "sketch_gram"):
            if name in parts:
                sums = [parts[name][list(members)].sum(axis=0) for _, members in run.groups]
                parts[f"group_{name}"] = np.stack(sums)
        for name, values in parts.items():
            found[name][:, number, : number + 1] = values
    return found
