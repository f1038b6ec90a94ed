"""Views and groups by model family, so that the maps of Q, K and V need no pattern.

==============  =====================================================================================
module          what it holds
==============  =====================================================================================
``names``       what each family calls its projections
``fused``       how projections lie in one tensor, and the views that take them apart
``heads``       the number of heads, from a ``config.json``
``presets``     the families by name and by ``model_type``
``fitting``     a family beside the names and shapes of one model
``detection``   the family of a torch module
==============  =====================================================================================

Only ``detection`` needs torch; its names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from trajmon.families.errors import FamilyError
from trajmon.families.fitting import Fitted, fit
from trajmon.families.presets import MODEL_TYPES, Family, family_names, family_of_config, preset

if TYPE_CHECKING:
    from trajmon.families.detection import detect, presets_for

__all__ = [
    "MODEL_TYPES",
    "Family",
    "FamilyError",
    "Fitted",
    "detect",
    "family_names",
    "family_of_config",
    "fit",
    "preset",
    "presets_for",
]


def __getattr__(name: str) -> object:
    if name not in ("detect", "presets_for"):
        raise AttributeError(f"module 'trajmon.families' has no attribute {name!r}")
    value: object = getattr(import_module("trajmon.families.detection"), name)
    globals()[name] = value
    return value
