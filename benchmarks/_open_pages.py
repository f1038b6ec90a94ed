"""A program that is many open pages of one run: each listens to its events and fetches what the page's scripts fetch.

    python -m benchmarks._open_pages ADDRESS TOKEN RUN COUNT

What run.js and live.js do: after an event the run, then the map, then the curves, all about that event's version; while
that goes on, and for as long again, events are only collected. Nothing is drawn: what is measured is the server. Says
`open` once every page has what it shows first; ends when its input ends, and then prints what it did as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from urllib.parse import quote

PAUSE_SECONDS = (0.25, 5.0)
"""Between two refreshments at least, and at most."""
CURVE_POINTS = 1024


@dataclass
class Done:
    """What all pages did together."""

    events: int = 0
    fetches: int = 0
    refreshments: int = 0
    received_bytes: int = 0


class Page:
    """One page, with two connections of its own."""

    def __init__(self, address: str, token: str, run: str, done: Done) -> None:
        self._address = address
        self._host, _, port = address.partition(":")
        self._port = int(port)
        self._token = token
        self._base = f"/api/v1/runs/{quote(run, safe='')}"
        self._done = done
        self._version = 0
        self._seen: object = None
        self._newest: dict[str, object] | None = None
        self._heard = asyncio.Event()

    async def open(self) -> None:
        """Load it, and begin to listen."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 24)
        await self._refresh(None, everything=True)
        self._listening = asyncio.create_task(self._listen())
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Leave."""
        for task in (self._listening, self._following):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._writer.close()

    def _ask(self, path: str, writer: asyncio.StreamWriter) -> None:
        head = f"GET {path} HTTP/1.1\r\nHost: {self._address}\r\nAuthorization: Bearer {self._token}\r\n\r\n"
        writer.write(head.encode())

    async def _fetch(self, path: str) -> None:
        self._ask(self._base + path, self._writer)
        status, length, size = await _head(self._reader), None, 0
        if status.startswith(b"HTTP/1.1 200"):
            for line in status.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            if length is not None:
                await self._reader.readexactly(length)
                size = length
            else:
                while chunk := int(await self._reader.readline(), 16):
                    await self._reader.readexactly(chunk + 2)
                    size += chunk
                await self._reader.readline()
        else:
            raise RuntimeError(f"{path}: {status[:200]!r}")
        self._done.fetches += 1
        self._done.received_bytes += size

    async def _refresh(self, version: object, *, everything: bool) -> None:
        about = "" if version is None else f"&version={version}"
        await self._fetch(f"?{about[1:]}" if about else "")
        if everything:
            await self._fetch(f"/map?scope=network&format=f32{about}")
            await self._fetch(f"/hallmarks?scope=network&max_points={CURVE_POINTS}{about}")
        self._done.refreshments += 1

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        self._ask(f"{self._base}/events", writer)
        await _head(reader)
        try:
            while line := await reader.readline():
                if line.startswith(b"data: "):
                    self._done.events += 1
                    self._newest = json.loads(line[6:])
                    self._heard.set()
        finally:
            writer.close()

    async def _follow(self) -> None:
        while True:
            await self._heard.wait()
            self._heard.clear()
            assert self._newest is not None
            state = [self._newest.get(name) for name in ("checkpoint", "checkpoints", "superseded")]
            started = time.perf_counter()
            await self._refresh(self._newest.get("version"), everything=state != self._seen)
            self._seen = state
            took = time.perf_counter() - started
            await asyncio.sleep(min(PAUSE_SECONDS[1], max(PAUSE_SECONDS[0], took)))


async def _head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def main(address: str, token: str, run: str, count: int) -> None:
    """Open the pages, wait for the end of the input, and say what was done."""
    done = Done()
    pages = [Page(address, token, run, done) for _ in range(count)]
    for page in pages:
        await page.open()
    print("open", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for page in pages:
        for task in (page._listening, page._following):
            if task.done() and task.exception() is not None:
                raise RuntimeError("a page has failed") from task.exception()
        await page.close()
    print(json.dumps(vars(done)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
