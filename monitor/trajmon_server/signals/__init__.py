"""Policies: when to switch to norm-only training, and when to return.

A policy is a pure fold over observations of a run; the server and `replay` run the same one. `policies.py` lists all of
them, one file each; `settling.py` says which groups have settled; `outcomes.py` what a signal was worth.
"""

from trajmon_server.signals.base import (
    Advice,
    AdviceState,
    Ahead,
    GroupObservation,
    Observation,
    Policy,
)
from trajmon_server.signals.policies import POLICIES, make_policy
from trajmon_server.signals.remaining_displacement import (
    RemainingDisplacementPolicy,
    RemainingDisplacementState,
)

__all__ = [
    "POLICIES",
    "Advice",
    "AdviceState",
    "Ahead",
    "GroupObservation",
    "Observation",
    "Policy",
    "RemainingDisplacementPolicy",
    "RemainingDisplacementState",
    "make_policy",
]
