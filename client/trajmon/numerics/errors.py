"""Errors of the numerics.

NumericsError (ValueError)
├── LayoutError        layers or groups that contradict themselves
├── ViewError          a declared view that does not fit the tensor
├── SnapshotError      bytes that are not a snapshot of this layout, or a path that is none
└── ModelError         a model that cannot be recorded
    └── ModelChangedError    a model that is no longer the one that recording began with
"""

from __future__ import annotations

__all__ = ["LayoutError", "ModelChangedError", "ModelError", "NumericsError", "SnapshotError", "ViewError"]


class NumericsError(ValueError):
    """Something that was handed to the numerics cannot be worked with."""


class LayoutError(NumericsError):
    """Layers or groups that contradict themselves."""


class ViewError(NumericsError):
    """A declared view that does not fit the tensor."""


class SnapshotError(NumericsError):
    """Bytes that are not a snapshot of this layout, or path indices that name no path."""


class ModelError(NumericsError):
    """A model that cannot be recorded."""


class ModelChangedError(ModelError):
    """A model that is no longer the one that recording began with."""
