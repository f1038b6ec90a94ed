"""What keeps the snapshots of two runs from being compared."""

from __future__ import annotations

from trajmon.errors import TrajmonError

__all__ = ["NotComparableError"]


class NotComparableError(TrajmonError):
    """Snapshots that are not here, or that do not belong beside each other; the text names both sides."""
