"""The file of one run: its Gram, and what came of every switch.

===================  ================  ======================================================================
key                  shape             meaning
===================  ================  ======================================================================
``gram``             (L, T, T)         exact inner products per parameter tensor; index 0 is the initialization
``names``            (L,)              of the tensors
``step``             (T,)              optimizer steps until the checkpoint
``lr``               (T-1,)            learning rate of the interval that led to checkpoint t+1
``metric``           (T,)              of the full run, on what is held out; higher is better
``loss``             (T,)              cross entropy of the full run, on what is held out
``train_loss``       (T,)              mean over the interval before the checkpoint; NaN at 0
``metric_name``      ()                ``accuracy`` or ``minus_loss``
``full_final``       ()                metric of the full run at its end
``delta``            ()                what a safe switch may cost, in units of the metric: one point of an
                                       accuracy, one per cent of the final loss
``switch_points``    (S,)              checkpoints from which norm-only training was tried, ascending
``norm_only_final``  (S,)              metric at the end of that try
``norm_only_loss``   (S,)              held-out loss at the end of that try
``norm_only_tail``   (S, 3)            metric of that try at the last three checkpoints; NaN before the switch
``n_params``         ()                parameters
``n_norm``           ()                parameters that are trained after the switch
``family``           ()                runs of one family are left out together
``seed``             ()
``provenance``       ()                JSON: recipe, command, where the data come from, versions
===================  ================  ======================================================================

Floats are float64, counts int64. A number that is not finite is undefined: that training broke.
"""

from __future__ import annotations

import io
import json
import platform
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from benchmarks._files import write_whole
from benchmarks.switch.gram import gram_of_states
from benchmarks.switch.outcomes import Outcome, allowed_loss
from benchmarks.switch.recipes import Recipe
from benchmarks.switch.tasks import Text

__all__ = ["is_made_by", "metric_name_of", "recording_of", "write_recording"]


def metric_name_of(recipe: Recipe) -> str:
    """What ``metric`` is."""
    return "minus_loss" if isinstance(recipe.task, Text) else "accuracy"


def recording_of(
    recipe: Recipe, checkpoints: Sequence[Mapping[str, Any]], outcomes: Mapping[int, Outcome]
) -> dict[str, Any]:
    """All arrays of the file. `checkpoints`: as a workshop keeps them, the initialization first."""
    network = recipe.network.build()
    gram, names = gram_of_states(network, (record["state"]["network"] for record in checkpoints))
    metric = np.array([record["metric"] for record in checkpoints])
    points = sorted(outcomes)
    full_final = float(metric[-1])
    return {
        "gram": gram,
        "names": np.array(names),
        "step": np.array([record["step"] for record in checkpoints], np.int64),
        "lr": np.array([recipe.learning_rate(t) for t in range(recipe.intervals)]),
        "metric": metric,
        "loss": np.array([record["loss"] for record in checkpoints]),
        "train_loss": np.array([record["train_loss"] for record in checkpoints]),
        "metric_name": np.array(metric_name_of(recipe)),
        "full_final": np.array(full_final),
        "delta": np.array(allowed_loss(metric_name_of(recipe), full_final)),
        "switch_points": np.array(points, np.int64),
        "norm_only_final": np.array([outcomes[point].final.metric for point in points]),
        "norm_only_loss": np.array([outcomes[point].final.loss for point in points]),
        "norm_only_tail": np.array([outcomes[point].tail for point in points]),
        "n_params": np.array(sum(parameter.numel() for parameter in network.parameters()), np.int64),
        "n_norm": np.array(outcomes[points[0]].trained, np.int64),
        "family": np.array(recipe.family),
        "seed": np.array(recipe.seed, np.int64),
        "provenance": np.array(json.dumps(_provenance(recipe), sort_keys=True)),
    }


def write_recording(path: Path, recording: Mapping[str, Any]) -> int:
    """Replace the file whole; its bytes. The same recording gives the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **recording)
    write_whole(path, buffer.getvalue())
    return len(buffer.getvalue())


def is_made_by(path: Path, recipe: Recipe) -> bool:
    """Whether the file is there, whole, and of this recipe."""
    try:
        # Opened here: numpy leaves the file open when it turns out to be damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            provenance = json.loads(str(archive["provenance"]))
    except (FileNotFoundError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return False
    return isinstance(provenance, dict) and provenance.get("recipe") == _plain(recipe.to_json())


def _provenance(recipe: Recipe) -> dict[str, Any]:
    return {
        "command": f"python -m benchmarks.switch.generate {recipe.name}",
        "recipe": recipe.to_json(),
        **recipe.task.origin(),
        "trajmon": metadata.version("trajmon"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "python": platform.python_version(),
        "threads": 1,
    }


def _plain(value: dict[str, Any]) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value))
