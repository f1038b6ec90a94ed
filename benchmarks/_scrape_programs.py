"""Programs that benchmarks/scrape.py starts, so that what it measures does not share a process with it.

python -m benchmarks._scrape_programs serve FILE          a server that notes how late its event loop is, into FILE
python -m benchmarks._scrape_programs scrape ADDRESS PERIOD COUNT      scrapes; prints `begin end bytes` of each
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from array import array
from pathlib import Path

PROBE_SECONDS = 0.005
ACCEPT = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


async def serve(out: Path) -> None:
    """Until it is ended; `out` fills with pairs of doubles: moments, by the monotonic clock, and seconds too late."""
    from trajmon_server.app import serving
    from trajmon_server.config import load_settings
    from trajmon_server.logs import configure_logs

    addresses = dict.fromkeys(("grpc", "http", "metrics"), "127.0.0.1:0")
    settings = load_settings(None, addresses, Path(os.environ["TRAJMON_HOME"]))
    configure_logs(settings.log_format, settings.log_level)
    noted = array("d")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with out.open("wb") as file:
        async with serving(settings):
            while not stop.is_set():
                due = time.monotonic() + PROBE_SECONDS
                await asyncio.sleep(PROBE_SECONDS)
                noted.extend((due, time.monotonic() - due))
                if len(noted) > 200:
                    noted.tofile(file)
                    file.flush()
                    del noted[:]


def scrape(host: str, port: int) -> int:
    """One scrape as Prometheus makes it: compressed, read to the end and not looked at. Returns the bytes."""
    request = f"GET /metrics HTTP/1.0\r\nHost: {host}\r\nAccept: {ACCEPT}\r\nAccept-Encoding: gzip\r\n\r\n"
    received = 0
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.sendall(request.encode())
        while piece := connection.recv(1 << 20):
            received += len(piece)
    return received


def scrape_on(address: str, period_seconds: float, count: int) -> None:
    """`count` scrapes that begin `period_seconds` apart, or one behind the other where that is too little."""
    host, _, port = address.rpartition(":")
    due = time.monotonic()
    for _ in range(count):
        time.sleep(max(0.0, due - time.monotonic()))
        begin = time.monotonic()
        received = scrape(host, int(port))
        print(begin, time.monotonic(), received, flush=True)
        due = begin + period_seconds


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(Path(sys.argv[2])))
    else:
        scrape_on(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
