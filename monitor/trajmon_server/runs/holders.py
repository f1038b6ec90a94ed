"""Which server holds which run, as the store has it."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from trajmon_server.store.errors import JournalError, StoreError
from trajmon_server.store.leases import Holder, Leases

__all__ = ["Holders"]

log = structlog.get_logger(__name__)


class Holders:
    """Reads leases again where their tags have changed. One look at a time."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._known: dict[str, tuple[str, Holder | None]] = {}
        """By run: the tag of its lease, and what that says."""

    def look(self, run_ids: Iterable[str]) -> dict[str, Holder | None]:
        """Of those runs that were ever held; None where that cannot be read. Blocking. JournalError."""
        tags = self._leases.run_tags()
        fresh: dict[str, tuple[str, Holder | None]] = {}
        for run_id in run_ids:
            tag = tags.get(run_id)
            if tag is None:
                continue
            known = self._known.get(run_id)
            if known is not None and known[0] == tag:
                fresh[run_id] = known
                continue
            try:
                fresh[run_id] = (tag, self._leases.holder(run_id))
            except KeyError:
                continue
            except JournalError:
                raise
            except StoreError as error:
                # One that is damaged keeps no other run from being looked at.
                log.error("lease cannot be read", run_id=run_id, problem=str(error))
                fresh[run_id] = (tag, None)
        self._known = fresh
        return {run_id: holder for run_id, (_, holder) in fresh.items()}
