"""Whether this server may write a run: always, where it is the only one; else while it holds the run's lease."""

from __future__ import annotations

from typing import Protocol

from trajmon_server.model import RunDescription

__all__ = ["Alone", "Ownership"]


class Ownership(Protocol):
    """Asked on the event loop, before a run is changed and before a change is acknowledged."""

    async def meet(self, run_id: str) -> None:
        """Get to know a run that another server has taken in, if there is one with this id."""
        ...

    async def hold(self, run_id: str) -> None:
        """Return once this server may write the run and knows all that is stored of it. Unavailable if it may not."""
        ...

    def confirm(self, run_id: str) -> None:
        """Unavailable if this server may not write the run any more. What was confirmed after it became durable
        will be seen by whoever writes the run next."""
        ...

    async def named(self, team: str, name: str) -> str:
        """The id of the run that has the name and is known to others alone; empty if there is none."""
        ...

    async def claim(self, description: RunDescription) -> str:
        """Claim the name for a new run that is held; the id of the run that has it, this one or another."""
        ...

    def epoch(self, run_id: str) -> int:
        """How often the run has changed hands; 0 where it never does."""
        ...

    def doubt(self, run_id: str) -> None:
        """A write was fenced off: what is known of the run is to be read anew before the next one."""
        ...


class Alone:
    """The :class:`Ownership` of the only server on a data directory."""

    async def meet(self, run_id: str) -> None:
        """There is no other server."""

    async def hold(self, run_id: str) -> None:
        """Always."""

    def confirm(self, run_id: str) -> None:
        """Always."""

    async def named(self, team: str, name: str) -> str:
        """There are no others."""
        return ""

    async def claim(self, description: RunDescription) -> str:
        """Always: that no known run has the name is checked by whoever asks."""
        return description.run_id

    def epoch(self, run_id: str) -> int:
        """Always 0."""
        return 0

    def doubt(self, run_id: str) -> None:
        """There is nobody who could fence this server off."""
