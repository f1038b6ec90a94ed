"""A server, somebody who is signed in, and what may go wrong on a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import ConsoleMessage, Page

from support.server import ServerProcess

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 20_000


@dataclass
class Site:
    """A server and somebody who is signed in."""

    server: ServerProcess

    @property
    def address(self) -> str:
        return f"http://{self.server.addresses['http']}"

    def url(self, path: str) -> str:
        return self.address + path

    @property
    def entry(self) -> str:
        """The address of a first visit."""
        return self.url(f"/?token={self.server.token}")


@dataclass
class Watched:
    """What went wrong on a page."""

    problems: list[str] = field(default_factory=list)
    expected: str = ""
    """What a test provokes, in the browser's words: no problem."""

    def watch(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on("console", self._note)
        page.add_init_script(
            "addEventListener('securitypolicyviolation', "
            "e => console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI))"
        )

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (self.expected and self.expected in message.text):
            self.problems.append(f"console: {message.text}")


def run_server(home: Path) -> Iterator[ServerProcess]:
    """A server for as long as the generator is held."""
    started = ServerProcess(home).start()
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log
