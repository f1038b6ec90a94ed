"""The error of the model families."""

from __future__ import annotations

from trajmon.errors import RefusedError

__all__ = ["FamilyError"]


class FamilyError(RefusedError):
    """A family that does not exist, lacks a number that it needs, or does not fit the model."""
