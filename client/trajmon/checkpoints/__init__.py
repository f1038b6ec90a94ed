"""Checkpoints that other programs wrote: found, put in order, and read without running anything in them.

Nothing here imports PyTorch.
"""

from __future__ import annotations

from trajmon.checkpoints.base import CheckpointReader, FoundCheckpoint, TensorInfo
from trajmon.checkpoints.finding import Series, find_checkpoints
from trajmon.checkpoints.opening import open_checkpoint
from trajmon.checkpoints.plan import CheckpointPlan, plan_checkpoints

__all__ = [
    "CheckpointPlan",
    "CheckpointReader",
    "FoundCheckpoint",
    "Series",
    "TensorInfo",
    "find_checkpoints",
    "open_checkpoint",
    "plan_checkpoints",
]
