"""One line of a benchmark's table."""

from __future__ import annotations

from typing import Any

__all__ = ["figure"]


def figure(name: str, value: float, unit: str, limit: float | None) -> dict[str, Any]:
    """A figure that should be at most `limit`; None: it is only told."""
    return {"name": name, "value": value, "unit": unit, "limit": limit, "ok": limit is None or value <= limit}
