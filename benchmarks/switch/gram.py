"""The exact Gram of a run's checkpoints, by trajmon's own kernel."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trajmon.numerics.gram import PathIndices, gram_row
from trajmon.numerics.model import plan_model

__all__ = ["gram_of_states"]


def gram_of_states(
    network: nn.Module, states: Iterable[dict[str, torch.Tensor]]
) -> tuple[NDArray[np.float64], list[str]]:
    """Inner products of all checkpoints, [L, T, T], and the names of the layers, [L].

    `states`: the network's state_dict at every checkpoint, the initialization first. Loads each into `network`. A layer
    that holds NaN or Inf at a checkpoint is NaN there.
    """
    plan = plan_model(network)
    snapshots: list[NDArray[np.uint8]] = []
    rows = []
    for t, state in enumerate(states):
        network.load_state_dict(state)
        buffer = torch.zeros(plan.layout.nbytes, dtype=torch.uint8)
        plan.copy_into(network, buffer)
        snapshots.append(buffer.numpy())
        path = PathIndices(
            previous=t - 1 if t else None,
            before_previous=t - 2 if t > 1 else None,
            first=1 if t > 1 else None,
        )
        rows.append(gram_row(plan.layout, snapshots[t], snapshots[:t], path).gram)
    gram = np.zeros((len(plan.layout.layers), len(rows), len(rows)))
    for t, row in enumerate(rows):
        gram[:, t, : t + 1] = row
        gram[:, : t + 1, t] = row
    return gram, [layer.name for layer in plan.layout.layers]
