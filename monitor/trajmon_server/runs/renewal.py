"""The thread that renews a server's leases."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from trajmon_server.store.errors import StoreError
from trajmon_server.store.leases import Leases

__all__ = ["Renewal"]

log = structlog.get_logger(__name__)


class Renewal:
    """Renews four times a lease, in a thread of its own: a lease must not end because others are busy."""

    def __init__(self, leases: Leases, count_event: Callable[[str], None]) -> None:
        self._leases = leases
        self._count_event = count_event
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="lease", daemon=True)

    def start(self) -> None:
        """Begin. The leases are there already."""
        self._thread.start()

    def end(self) -> None:
        """Return once no renewal is under way any more. Blocking."""
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        pause = self._leases.seconds / 4
        while not self._stopping.wait(pause):
            pause = self._leases.seconds / 40  # after a failure there is little time left
            try:
                is_lost = not self._leases.renew()
            except StoreError as error:
                self._count_event("lease_not_renewed")
                log.warning("leases cannot be renewed", problem=str(error))
            except Exception as error:
                # Whatever it is: without this thread the server would hold nothing any more.
                self._count_event("lease_not_renewed")
                log.error("leases cannot be renewed", exc_info=error)
            else:
                pause = self._leases.seconds / 4
                if is_lost:
                    self._count_event("lease_lost")
                    log.warning(
                        "leases ended before they could be renewed; runs are taken up again as they are used"
                    )
