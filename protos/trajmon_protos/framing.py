"""The frame that all records share: magic, lengths, header, payload, checksum.

All integers little-endian, without padding:

====================  =======  =====================================================================
bytes                 type     meaning
====================  =======  =====================================================================
0..8                  8 bytes  magic; its last byte is the format version
8..12                 uint32   H, length of the header
12..20                uint64   P, length of the payload
20..20+H              bytes    header, a serialised protobuf message
20+H..20+H+P          bytes    payload
last 16               bytes    BLAKE2b digest (16 bytes) of everything before it
====================  =======  =====================================================================
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import Final

from trajmon_protos.errors import RecordError

__all__ = ["DIGEST_BYTES", "PREFIX_BYTES", "open_frame", "pack", "read_digest"]

_MAGIC_BYTES: Final = 8
_LENGTHS: Final = struct.Struct("<IQ")
PREFIX_BYTES: Final = _MAGIC_BYTES + _LENGTHS.size
DIGEST_BYTES: Final = 16


def pack(magic: bytes, header: bytes, payload: Iterable[bytes]) -> bytes:
    """A record out of its header and the pieces of its payload."""
    pieces = list(payload)
    lengths = _LENGTHS.pack(len(header), sum(len(piece) for piece in pieces))
    body = b"".join((magic, lengths, header, *pieces))
    return body + _digest(body)


def open_frame(record: bytes | memoryview, magic: bytes) -> tuple[memoryview, memoryview]:
    """Header and payload of a verified record. Raises RecordError with a machine-readable kind if anything is off."""
    view = memoryview(record)
    if len(view) < PREFIX_BYTES + DIGEST_BYTES:
        raise RecordError("truncated", f"record has {len(view)} bytes, fewer than its fixed parts")
    if bytes(view[:7]) != magic[:7]:
        raise RecordError("not_a_record", "bytes do not start with the record magic")
    if view[7] != magic[7]:
        raise RecordError(
            "unknown_version", f"record format version {view[7]} is not {magic[7]}; update the reader"
        )
    header_bytes, payload_bytes = _LENGTHS.unpack(view[_MAGIC_BYTES:PREFIX_BYTES])
    total = PREFIX_BYTES + header_bytes + payload_bytes + DIGEST_BYTES
    if len(view) != total:
        raise RecordError("wrong_length", f"record has {len(view)} bytes, its prefix announces {total}")
    if bytes(view[-DIGEST_BYTES:]) != _digest(view[:-DIGEST_BYTES]):
        raise RecordError("damaged", "record does not match its checksum")
    start = PREFIX_BYTES + header_bytes
    return view[PREFIX_BYTES:start], view[start : start + payload_bytes]


def read_digest(record: bytes | memoryview) -> bytes:
    """The 16 digest bytes that a record carries, unverified."""
    return bytes(memoryview(record)[-DIGEST_BYTES:])


def _digest(body: bytes | memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()
