"""Expressions about the run, and the groups, that are chosen above the dashboard of a run."""

from __future__ import annotations

__all__ = ["ABSENT", "GROUP", "NETWORK", "OVER_TIME", "RUN", "age", "by_group", "of_network", "of_run"]

RUN = 'job="$job", run="$run"'
GROUP = f'{RUN}, group=~"$group"'
NETWORK = f'{RUN}, group="network"'
OVER_TIME = "Over the time of the scrape; over steps it is on the web page."
ABSENT = "Undefined values are absent: a gap, never 0."


def by_group(metric: str, labels: str = "") -> str:
    """One series for each chosen group."""
    return f"max by (group) ({metric}{{{GROUP}{labels}}})"


def of_run(metric: str) -> str:
    """One series. Two replicas may both have the run for a moment, while it moves."""
    return f"max({metric}{{{RUN}}})"


def of_network(metric: str, labels: str = "") -> str:
    """Of the group of all layers."""
    return f"max({metric}{{{NETWORK}{labels}}})"


def age(metric: str) -> str:
    """Seconds since a time that the run has as a metric."""
    return f"time() - {of_run(metric)}"
