"""Watch the direction of neural-network training.

>>> import trajmon
>>> sorted(trajmon.__all__) == trajmon.__all__
True

Names are loaded when they are first used: ``import trajmon`` alone loads neither PyTorch nor gRPC.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trajmon import errors
    from trajmon._plan import Plan
    from trajmon._recorder import Recorder
    from trajmon._status import RecorderStatus
    from trajmon._watch import watch
    from trajmon.advice import Advice
    from trajmon.numerics.views import View
    from trajmon.reading.opening import open_run
    from trajmon.switch.core import switch_back, switch_to_norm_only
    from trajmon.switch.interleave import Interleave
    from trajmon.switch.report import SwitchReport
    from trajmon_protos.sketch import SketchSpec

__all__ = [
    "Advice",
    "Interleave",
    "Plan",
    "Recorder",
    "RecorderStatus",
    "SketchSpec",
    "SwitchReport",
    "View",
    "errors",
    "open_run",
    "switch_back",
    "switch_to_norm_only",
    "watch",
]

_MODULES = {
    "Advice": "trajmon.advice",
    "Interleave": "trajmon.switch.interleave",
    "Plan": "trajmon._plan",
    "Recorder": "trajmon._recorder",
    "RecorderStatus": "trajmon._status",
    "SketchSpec": "trajmon_protos.sketch",
    "SwitchReport": "trajmon.switch.report",
    "View": "trajmon.numerics.views",
    "open_run": "trajmon.reading.opening",
    "switch_back": "trajmon.switch.core",
    "switch_to_norm_only": "trajmon.switch.core",
    "watch": "trajmon._watch",
}


def __getattr__(name: str) -> object:
    if name == "errors":
        return import_module("trajmon.errors")
    if name not in _MODULES:
        raise AttributeError(f"module 'trajmon' has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
