"""All policies by name, and making one with settings given as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from trajmon_server.signals.base import Policy
from trajmon_server.signals.effective_perturbation import EffectivePerturbationPolicy
from trajmon_server.signals.look_back_cosine import LookBackCosinePolicy
from trajmon_server.signals.mds_threshold import MdsThresholdPolicy
from trajmon_server.signals.planned_fraction import PlannedFractionPolicy
from trajmon_server.signals.remaining_displacement import RemainingDisplacementPolicy
from trajmon_server.signals.remaining_displacement_2 import RemainingDisplacement2Policy
from trajmon_server.signals.update_norm_change import UpdateNormChangePolicy

__all__ = ["DEFAULT", "POLICIES", "make_policy", "settings_of"]

DEFAULT = "remaining_displacement/2"
"""What the server uses."""

POLICIES: Mapping[str, type[Any]] = {
    "remaining_displacement/2": RemainingDisplacement2Policy,
    "remaining_displacement/1": RemainingDisplacementPolicy,
    "mds_threshold/1": MdsThresholdPolicy,
    "look_back_cosine/1": LookBackCosinePolicy,
    "planned_fraction/1": PlannedFractionPolicy,
    "update_norm_change/1": UpdateNormChangePolicy,
    "effective_perturbation/1": EffectivePerturbationPolicy,
}
"""Every policy, the default first."""


def make_policy(name: str = DEFAULT, settings: Mapping[str, float] | None = None) -> Policy[Any]:
    """A policy by its name, the version may be left out (the newest), with some settings changed.

    ValueError, with the names that there are, for a name or a setting that is none, and for a value that the policy
    refuses.

    >>> make_policy("mds_threshold", {"threshold": 0.99}).name
    'mds_threshold/1'
    """
    known = [one for one in POLICIES if name in (one, one.split("/")[0])]
    if not known:
        raise ValueError(f"there is no policy {name!r}; there are {', '.join(POLICIES)}")
    full = max(known, key=_version)
    kind = POLICIES[full]
    changed: dict[str, float | int] = {}
    types = settings_of(full)
    for setting, value in (settings or {}).items():
        if setting not in types:
            raise ValueError(f"{full} has no setting {setting!r}; it has {', '.join(types)}")
        if types[setting] is int and value != math.floor(value if math.isfinite(value) else 0.5):
            raise ValueError(f"{setting} must be a whole number, not {value:g}")
        changed[setting] = types[setting](value)
    made: Policy[Any] = kind(**changed)
    return made


def settings_of(name: str) -> dict[str, type[int | float]]:
    """Names and types of the settings of a policy, by its full name."""
    return {one.name: int if isinstance(one.default, int) else float for one in fields(POLICIES[name])}


def _version(name: str) -> int:
    return int(name.split("/")[1])
