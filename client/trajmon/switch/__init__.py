"""Norm-only training: switch to it, back, by turns, or on the server's advice.

The way of a switch: `selection` says which parameters stay trainable, `wrapping` whether the others can be frozen
hard, `optimizers` what the optimizer holds, `freeze` does it, `core` ties them and remembers, `report` says what
it saved. `interleave` and `actor` decide when.
"""

from __future__ import annotations

from trajmon.switch.actor import AdviceActor, Agreement, LocalAgreement
from trajmon.switch.core import (
    is_switched,
    restore_switch,
    switch_back,
    switch_state,
    switch_to_norm_only,
    training_mode,
)
from trajmon.switch.interleave import Interleave
from trajmon.switch.report import SwitchReport
from trajmon.switch.timing import StepTimer

__all__ = [
    "AdviceActor",
    "Agreement",
    "Interleave",
    "LocalAgreement",
    "StepTimer",
    "SwitchReport",
    "is_switched",
    "restore_switch",
    "switch_back",
    "switch_state",
    "switch_to_norm_only",
    "training_mode",
]
