"""Expressions about the servers that are chosen above the dashboard of servers."""

from __future__ import annotations

__all__ = ["AT", "INSTANCE", "here", "rate"]

AT = 'job="$job", instance=~"$instance"'
INSTANCE = "{{instance}}"
WINDOW = "[$__rate_interval]"


def rate(metric: str, by: str, labels: str = "") -> str:
    """Per second, over a window that Grafana fits to the resolution."""
    return f"sum by ({by}) (rate({metric}{{{AT}{labels}}}{WINDOW}))"


def here(metric: str, labels: str = "") -> str:
    """One series a server."""
    return f"max by (instance) ({metric}{{{AT}{labels}}})"
