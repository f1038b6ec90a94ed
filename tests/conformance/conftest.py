"""A second, independent encoder of row records: the documented bytes by hand, from `struct` alone.

It shares no code with `trajmon_protos`: no protobuf library, no numpy. It takes the same description that
the golden files hold as JSON. Every float64 in it is written as its bit pattern, so that NaN payloads and
signed zeros survive.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import pytest

Description = dict[str, Any]
Encoder = Callable[[Description], bytes]


def _varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, bits: str) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<Q", int(bits, 16))


def _plain_double(field: int, bits: str) -> bytes:
    return _double(field, bits) if int(bits, 16) else b""


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _info(info: Description) -> bytes:
    # proto3 leaves plain zeros out; optional fields are written whenever they are present.
    out = _integer(1, info["step"]) if info["step"] else b""
    if "epoch" in info:
        out += _double(2, info["epoch"])
    out += _plain_double(3, info["time_unix_seconds"])
    if "learning_rate" in info:
        out += _double(4, info["learning_rate"])
    for name in sorted(info.get("metrics", {})):
        out += _bytes(5, _bytes(1, name.encode()) + _double(2, info["metrics"][name]))
    out += _plain_double(6, info["stall_seconds"])
    return out + (_bytes(9, _plan(info["plan"])) if "plan" in info else b"")


def _plan(plan: Description) -> bytes:
    out = _integer(1, plan["steps_ahead"]) if "steps_ahead" in plan else b""
    for field, name in ((2, "rate_sum_ahead"), (3, "rate_squared_sum_ahead")):
        if name in plan:
            out += _double(field, plan[name])
    out += _bytes(4, plan["objective"].encode()) if plan["objective"] else b""
    out += _integer(5, 1) if plan["larger_is_better"] else b""
    if "objective_tolerance" in plan:
        out += _double(6, plan["objective_tolerance"])
    return out


def _header(header: Description) -> bytes:
    out = _bytes(1, header["run_id"].encode())
    for field, name in ((2, "attempt"), (3, "checkpoint"), (4, "part"), (5, "num_parts")):
        out += _integer(field, header[name]) if header[name] else b""
    if "previous" in header:
        out += _integer(6, header["previous"])
    out += _bytes(7, header["fingerprint"].encode()) + _integer(8, header["num_layers"])
    return out + _bytes(9, _info(header["info"]))


def by_hand(description: Description) -> bytes:
    """The record that a description stands for."""
    header = _header(description["header"])
    payload = b"".join(
        struct.pack("<Q", int(bits, 16))
        for table in (description["gram_bits"], description["products_bits"])
        for row in table
        for bits in row
    ) + bytes(description["status"])
    body = b"TMROW\x00\x00\x01" + struct.pack("<IQ", len(header), len(payload)) + header + payload
    return body + hashlib.blake2b(body, digest_size=16).digest()


@pytest.fixture(scope="session")
def encode_by_hand() -> Encoder:
    """The independent encoder."""
    return by_hand
