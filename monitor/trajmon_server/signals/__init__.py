"""Policies: when to switch to norm-only training, and when to return.

A policy is a pure fold over observations of the group `network`; the server and `replay` run the same one.
"""

from trajmon_server.signals.base import Advice, AdviceState, Observation, Policy
from trajmon_server.signals.remaining_displacement import (
    RemainingDisplacementPolicy,
    RemainingDisplacementState,
)

__all__ = [
    "Advice",
    "AdviceState",
    "Observation",
    "Policy",
    "RemainingDisplacementPolicy",
    "RemainingDisplacementState",
]
