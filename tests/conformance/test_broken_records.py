"""Bytes that are not a whole, intact record are refused with a stated kind, whatever is wrong with them."""

from __future__ import annotations

import hashlib
import resource
import struct
from pathlib import Path

import pytest

from trajmon_protos import record
from trajmon_protos.errors import ContractError, RecordError, RecordProblem
from trajmon_protos.v1 import types_pb2

STORED = (Path(__file__).parent / "row_record_v1_first.bin").read_bytes()
PREFIX_BYTES = 20


def sealed(body: bytes) -> bytes:
    """The body with the digest that belongs to it: only its contents are wrong."""
    return body + hashlib.blake2b(body, digest_size=16).digest()


def with_header(header: bytes, payload: bytes) -> bytes:
    return sealed(record.MAGIC + struct.pack("<IQ", len(header), len(payload)) + header + payload)


def refusal(broken: bytes) -> RecordError:
    with pytest.raises(RecordError) as caught:
        record.decode(broken)
    assert isinstance(caught.value, ContractError)
    assert isinstance(caught.value, ValueError)
    return caught.value


def test_every_single_bit_flip_is_detected() -> None:
    record.decode(STORED)
    kinds: set[RecordProblem] = set()
    for position in range(8 * len(STORED)):
        broken = bytearray(STORED)
        broken[position // 8] ^= 1 << position % 8
        kinds.add(refusal(bytes(broken)).kind)
    assert kinds == {"not_a_record", "unknown_version", "wrong_length", "damaged"}


def test_every_truncation_is_detected() -> None:
    for length in range(len(STORED)):
        kind = "truncated" if length < PREFIX_BYTES + 16 else "wrong_length"
        assert refusal(STORED[:length]).kind == kind


@pytest.mark.parametrize("extra", [1, 16, 4096])
def test_bytes_after_the_end_are_detected(extra: int) -> None:
    assert str(refusal(STORED + b"\0" * extra)) == (
        f"record has {len(STORED) + extra} bytes, its prefix announces {len(STORED)}"
    )


def test_an_empty_record() -> None:
    assert str(refusal(b"")) == "record has 0 bytes, fewer than its fixed parts"


def test_other_bytes() -> None:
    assert str(refusal(b"PK\x03\x04" + bytes(200))) == "bytes do not start with the record magic"


@pytest.mark.parametrize("version", [0, 2, 255])
def test_an_unknown_version_names_both_versions(version: int) -> None:
    broken = sealed(STORED[:7] + bytes([version]) + STORED[8:-16])
    assert str(refusal(broken)) == f"record format version {version} is not 1; update the reader"


def test_a_damaged_byte() -> None:
    broken = bytearray(STORED)
    broken[-17] ^= 0xFF
    assert str(refusal(bytes(broken))) == "record does not match its checksum"


@pytest.mark.parametrize(("header", "payload"), [(0xFFFFFFFF, 0), (0, 2**64 - 1), (0xFFFFFFFF, 2**63)])
def test_huge_announced_lengths_take_no_memory(header: int, payload: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    broken = sealed(record.MAGIC + struct.pack("<IQ", header, payload) + STORED[PREFIX_BYTES:-16])
    assert (
        str(refusal(broken))
        == f"record has {len(STORED)} bytes, its prefix announces {36 + header + payload}"
    )
    # KiB; the smallest announced size is 4 GiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize(
    "header",
    [b"\xff", b"\x0a\x20short", b"\x0a\x02\xff\xfe", b"\x07"],
    ids=["varint", "length", "utf8", "wire_type"],
)
def test_a_header_that_is_no_message(header: bytes) -> None:
    error = refusal(with_header(header, bytes(41)))
    assert (error.kind, str(error)) == ("bad_header", "record header is not a RowHeader message")


@pytest.mark.parametrize("checkpoint", [0, 5, 2**62, 2**64 - 1])
def test_a_header_without_layers(checkpoint: int) -> None:
    error = refusal(with_header(types_pb2.RowHeader(checkpoint=checkpoint).SerializeToString(), b""))
    assert (error.kind, str(error)) == ("bad_header", "record header announces no layers")


@pytest.mark.parametrize(
    ("num_layers", "checkpoint", "needed"),
    [(1, 0, 41), (2, 1, 98), (2**32 - 1, 2**64 - 1, (2**32 - 1) * (8 * 2**64 + 33))],
)
def test_a_payload_that_does_not_fit_the_header(num_layers: int, checkpoint: int, needed: int) -> None:
    header = types_pb2.RowHeader(num_layers=num_layers, checkpoint=checkpoint).SerializeToString()
    error = refusal(with_header(header, bytes(40)))
    assert error.kind == "wrong_payload"
    assert str(error) == f"payload has 40 bytes; {num_layers} layers at checkpoint {checkpoint} need {needed}"
