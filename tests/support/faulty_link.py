"""A network between a client and a server that is slow, loses answers or is down, for tests and measurements."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from typing import Self

_METHODS = (b"GET ", b"PUT ", b"POST ", b"DELETE ", b"HEAD ")


class FaultyLink:
    """Listens on a loopback port and passes HTTP/1.1 on to another port. A context manager."""

    def __init__(self, target: int, delay_seconds: float = 0.0) -> None:
        self.delay_seconds = delay_seconds
        """Before each request is passed on."""
        self.lost_answers = 0
        """How many answers to a PUT are still to be lost: the server gets it, the client gets no answer."""
        self.is_down = False
        """Connections end as soon as they are made."""
        self.removed_header = b""
        """The server never sees headers with this name, in lower case."""
        self.requests: Counter[str] = Counter()
        """Requests passed on, by method."""
        self._target = target
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._ends: set[socket.socket] = set()
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end(self._listener)
        self.cut()

    def cut(self) -> None:
        """End all connections."""
        with self._lock:
            ends = list(self._ends)
        for end in ends:
            self._end(end)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.is_down:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._ends |= {client, server}
            method = [b""]
            threading.Thread(target=self._up, args=(client, server, method), daemon=True).start()
            threading.Thread(target=self._down, args=(server, client, method), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, method: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(2**18):
                for known in _METHODS:
                    if data.startswith(known):
                        method[0] = known
                        with self._lock:
                            self.requests[known.decode().strip()] += 1
                        time.sleep(self.delay_seconds)
                        data = self._without_header(data)
                server.sendall(data)
        self._end(client, server)

    def _without_header(self, request: bytes) -> bytes:
        head, end, body = request.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        kept = [line for line in lines if line.partition(b":")[0].lower() != self.removed_header]
        return b"\r\n".join(kept) + end + body

    def _down(self, server: socket.socket, client: socket.socket, method: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(2**18):
                if method[0] == b"PUT " and self._loses():
                    break
                client.sendall(data)
        self._end(server, client)

    def _loses(self) -> bool:
        with self._lock:
            is_lost = self.lost_answers > 0
            self.lost_answers -= is_lost
            return is_lost

    def _end(self, *ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            with self._lock:
                self._ends.discard(end)
