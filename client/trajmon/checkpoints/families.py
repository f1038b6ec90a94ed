"""The architecture of a checkpoint, from the ``config.json`` that lies beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trajmon.checkpoints.base import CheckpointReader
from trajmon.errors import RefusedError
from trajmon.families.fitting import fit
from trajmon.families.presets import Family, family_of_config, preset
from trajmon.numerics.views import View

__all__ = ["with_family"]

log = logging.getLogger("trajmon")

_MAX_CONFIG_BYTES = 8 << 20

Groups = Mapping[str, str | Sequence[str]]


def with_family(
    reader: CheckpointReader,
    family: str | None,
    views: Sequence[View],
    groups: Groups | None,
) -> tuple[Sequence[View], Groups | None]:
    """Views and groups of the checkpoint's architecture beside the user's own.

    `family`: "auto" takes what the ``config.json`` in the checkpoint's folder says, if there is one, and leaves
    everything as it is where it does not fit; a name must fit, or raises RefusedError; None adds nothing.
    """
    if family is None:
        return views, groups
    config = _config_beside(reader.path)
    try:
        found = family_of_config(config) if family == "auto" else preset(family, config)
        if found is None:
            return views, groups
        return _fitted(found, reader, views, groups)
    except RefusedError as error:
        if family != "auto":
            raise
        log.warning("%s: %s; Q, K and V get no layers of their own", reader.path, error)
        return views, groups


def _fitted(
    family: Family, reader: CheckpointReader, views: Sequence[View], groups: Groups | None
) -> tuple[Sequence[View], Groups | None]:
    shapes = {name: info.shape for name, info in reader.tensors.items()}
    fitted = fit(family, shapes, views, groups)
    return fitted.views, fitted.groups


def _config_beside(path: Path) -> dict[str, Any]:
    """The model's configuration; empty if there is none that can be read."""
    folder = path if path.is_dir() else path.parent
    try:
        with (folder / "config.json").open("rb") as file:
            value = json.loads(file.read(_MAX_CONFIG_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", folder / "config.json", error)
        return {}
    return value if isinstance(value, dict) else {}
