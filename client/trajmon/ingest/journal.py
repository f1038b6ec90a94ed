"""What of an ingest is finished, on disk: killed at any moment, it goes on from there and ends with the same bits.

Below the run's folder, in ``ingest/``:

===========  ==========================================================================================
file         what it holds
===========  ==========================================================================================
plan.json    from which files, in which order and blocks the sums are made; written once
sums.f64     [T, L, T + 4] float64, little-endian: for each checkpoint and layer the inner products with all
             checkpoints, those after it left zero, and the four update products. Layers arrive one after the other.
state.bin    the place from which to go on, replaced whole: BLAKE2b digest (16 bytes) of the rest; uint32 length
             of a JSON object ``{"tensor", "block", "levels"}``; the object; for each level the Gram sums and the
             update products of a subtree, float64
===========  ==========================================================================================

Sums come to disk before the place that counts on them.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trajmon._files import read_json, write_bytes, write_json
from trajmon.errors import DamagedRunError
from trajmon.ingest.cut import Tensor
from trajmon.ingest.gram import Place
from trajmon.ingest.tree import Sums, Tree
from trajmon_protos.record import PRODUCTS

__all__ = ["Journal"]

_LENGTH: Final = struct.Struct("<I")
_DIGEST_BYTES: Final = 16


class Journal:
    """The folder of one ingest. One process at a time: the caller holds the run's locks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plan_file = folder / "plan.json"
        self._state_file = folder / "state.bin"
        self._sums_file = folder / "sums.f64"
        self._descriptor = -1
        self._shape = (0, 0, 0)

    def plan(self) -> dict[str, Any] | None:
        """What was begun; None if nothing was."""
        return read_json(self._plan_file)

    def begin(self, plan: dict[str, Any]) -> None:
        """Forget everything and begin anew. Raises OSError."""
        self.close()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # In this order: a plan without its sums only means to begin at the beginning.
        self._plan_file.unlink(missing_ok=True)
        self._state_file.unlink(missing_ok=True)
        self._sums_file.unlink(missing_ok=True)
        write_json(self._plan_file, plan, durable=True)

    def open(self, num_checkpoints: int, num_layers: int) -> None:
        """Have the room for the sums. Raises OSError, most of all for a disk without it."""
        self._shape = (num_checkpoints, num_layers, num_checkpoints + len(PRODUCTS))
        if not self._sums_file.exists():
            # A place that counts on sums that are gone.
            self._state_file.unlink(missing_ok=True)
        self._descriptor = os.open(self._sums_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Now and not in the last hour of a long ingest.
        os.posix_fallocate(self._descriptor, 0, max(1, 8 * int(np.prod(self._shape))))

    def close(self) -> None:
        """Let go of the files."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def forget_sums(self) -> None:
        """Free the disk once the server has all rows; the plan stays, and says where they came from. Raises OSError."""
        self.close()
        self._sums_file.unlink(missing_ok=True)

    def put(self, tensor: Tensor, sums: Sums) -> None:
        """Keep the sums of a tensor that is complete. Raises OSError."""
        together = np.concatenate([np.tril(sums.gram), sums.products], axis=2).astype("<f8", copy=False)
        _, num_layers, width = self._shape
        for t in range(len(sums.gram[0])):
            offset = 8 * width * (t * num_layers + tensor.first_layer)
            _write_at(self._descriptor, together[:, t], offset)

    def row(self, checkpoint: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Gram row, [L, checkpoint + 1], and update products, [L, 4], of a checkpoint. Raises OSError."""
        if self._descriptor < 0:
            raise DamagedRunError(
                f"{self._sums_file} is gone, and the server asks for rows; run the ingest again"
            )
        num_checkpoints, num_layers, width = self._shape
        row_bytes = 8 * num_layers * width
        data = bytearray(row_bytes)
        if os.preadv(self._descriptor, [data], checkpoint * row_bytes) != row_bytes:
            raise DamagedRunError(f"{self._sums_file} is too short; --restart computes it again")
        both = np.frombuffer(data, "<f8").reshape(num_layers, width)
        return both[:, : checkpoint + 1].copy(), both[:, num_checkpoints:].copy()

    def save(self, place: Place) -> None:
        """Go on from here next time. Raises OSError; then it goes on from where it was told before."""
        # A power cut must not leave the place on disk and the sums it counts on in memory.
        os.fdatasync(self._descriptor)
        levels = [level for level, _ in place.tree.pending]
        head = json.dumps({"tensor": place.tensor, "block": place.block, "levels": levels}).encode()
        arrays = [array for _, sums in place.tree.pending for array in (sums.gram, sums.products)]
        body = b"".join(
            [
                _LENGTH.pack(len(head)),
                head,
                *(np.ascontiguousarray(array, "<f8").tobytes() for array in arrays),
            ]
        )
        write_bytes(self._state_file, _digest(body) + body, durable=True)

    def load(self, tensors: tuple[Tensor, ...]) -> Place:
        """Where to go on; the beginning if nothing was saved. Raises DamagedRunError."""
        try:
            data = self._state_file.read_bytes()
        except FileNotFoundError:
            return Place()
        body = data[_DIGEST_BYTES:]
        if len(data) < _DIGEST_BYTES + _LENGTH.size or data[:_DIGEST_BYTES] != _digest(body):
            raise DamagedRunError(f"{self._state_file} does not match its checksum; --restart begins anew")
        (head_bytes,) = _LENGTH.unpack_from(body)
        end = _LENGTH.size + head_bytes
        head = json.loads(body[_LENGTH.size : end])
        if not head["levels"]:
            return Place(head["tensor"], head["block"])
        t, layers = self._shape[0], tensors[head["tensor"]].num_layers
        entries = layers * t * (t + len(PRODUCTS))
        pending = []
        for index, level in enumerate(head["levels"]):
            numbers = np.frombuffer(body, "<f8", entries, end + 8 * entries * index).copy()
            gram, products = np.split(numbers, [layers * t * t])
            pending.append((level, Sums(gram.reshape(layers, t, t), products.reshape(layers, t, -1))))
        return Place(head["tensor"], head["block"], Tree(tuple(pending)))


def _write_at(descriptor: int, array: NDArray[np.float64], offset: int) -> None:
    rest = memoryview(array.tobytes())
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
