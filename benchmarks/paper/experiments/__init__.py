"""One experiment a file, each with an ``EXPERIMENT``; what lies in this folder is found by itself.

``PAPER_EXPERIMENTS`` names one more folder, for an experiment that is tried out elsewhere.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path

from benchmarks.paper.experiment import Experiment

__all__ = ["all_names", "file_of", "load"]

if os.environ.get("PAPER_EXPERIMENTS"):
    __path__ = [*__path__, os.environ["PAPER_EXPERIMENTS"]]


def all_names() -> list[str]:
    """The names of all experiments, sorted. Imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def file_of(name: str) -> Path:
    """Where an experiment is. Raises ValueError if there is none of this name."""
    for folder in __path__:
        path = Path(folder) / f"{name}.py"
        if name in all_names() and path.exists():
            return path
    raise ValueError(f"there is no experiment {name!r}; there are {', '.join(all_names())}")


def load(name: str) -> Experiment:
    """The experiment of one file. Raises ValueError if there is none of this name, or if it calls itself otherwise."""
    path = file_of(name)
    experiment: Experiment = importlib.import_module(f"{__name__}.{name}").EXPERIMENT
    if experiment.name != name:
        raise ValueError(f"the experiment in {path} calls itself {experiment.name!r}")
    return experiment
