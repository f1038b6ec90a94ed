"""Texts of a run's labels, made once for all scrapes."""

from __future__ import annotations

from dataclasses import dataclass

from trajmon_server.auth import LOCAL_TEAM
from trajmon_server.export.text import label_text
from trajmon_server.model import RunDescription

__all__ = ["RunLabels", "run_label"]


def run_label(description: RunDescription) -> str:
    """The run's name, behind the team's where it is not the local one: names are unique within a team only."""
    if description.team == LOCAL_TEAM:
        return description.name
    return f"{description.team}/{description.name}"


@dataclass(frozen=True, slots=True)
class RunLabels:
    """The labels that every sample of the run has."""

    name: str
    """Value of the label `run`."""
    run: str
    """Text of that label alone."""
    groups: tuple[tuple[str, str], ...]
    """Names of the groups, each with the text of both labels."""

    @classmethod
    def of(cls, description: RunDescription) -> RunLabels:
        """Of a run, in the order of its groups."""
        name = run_label(description)
        groups = tuple((group.name, label_text(run=name, group=group.name)) for group in description.groups)
        return cls(name, label_text(run=name), groups)
