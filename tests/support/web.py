"""Plain HTTP calls to a real server, as a program or a browser makes them."""

from __future__ import annotations

import http.client
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; nothing is followed or decoded by itself."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """Of a problem+json."""
        assert self.headers["content-type"] == "application/problem+json", self
        assert self.json["status"] == self.status
        return str(self.json["reason"])

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(frozen=True, slots=True)
class Web:
    """One caller of one server."""

    address: str
    token: str | None = None

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """`path` goes out as it stands; header names with _ for -."""
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT_SECONDS)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        try:
            connection.request(method, path, headers=sent)
            answer = connection.getresponse()
            return Answer(
                answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
            )
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        answer = self.get(path)
        assert answer.status == 200, answer
        return answer.json


def read_float32(body: bytes) -> tuple[dict[str, Any], list[NDArray[np.float32]]]:
    """Head and arrays of the f32 format; written from its description alone."""
    (length,) = struct.unpack_from("<I", body)
    head = json.loads(body[4 : 4 + length])
    count = int(np.prod(head["shape"]))
    blocks = 2 if head.get("has_error") else 1
    assert len(body) == 4 + length + 4 * blocks * count
    assert (4 + length) % 8 == 0
    values = np.frombuffer(body, "<f4", offset=4 + length)
    return head, [part.reshape(head["shape"]) for part in np.split(values, blocks)]
