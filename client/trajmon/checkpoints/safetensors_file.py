"""Files in the safetensors format: 8 bytes length N, N bytes JSON, then the tensors.

Each entry of the JSON object is ``name: {"dtype", "shape", "data_offsets": [begin, end]}``, offsets counted from the
end of the header; ``__metadata__`` is a table of texts. Nothing follows the last tensor.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trajmon.checkpoints.files import Files
from trajmon.checkpoints.strided import Piece, Stored, row_major
from trajmon.checkpoints.table import RawTensor, TableReader
from trajmon.checkpoints.torch_objects import ITEM_BYTES_OF_TORCH
from trajmon.errors import CheckpointFileError

__all__ = ["open_safetensors", "safetensors_entries"]

_MAX_HEADER_BYTES: Final = 100_000_000
_DTYPES: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "BOOL": "bool",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
_STEPS: Final = ("step", "global_step", "iteration")


def open_safetensors(path: Path, files: Files) -> TableReader:
    """One whole file. Raises CheckpointFileError."""
    tensors, metadata = safetensors_entries(path, files)
    return TableReader(path, files, tensors, {}, _step(metadata))


def safetensors_entries(path: Path, files: Files) -> tuple[dict[str, RawTensor], Mapping[str, str]]:
    """The tensors and the metadata of a file. Raises CheckpointFileError unless it is complete."""
    size = files.size_bytes(path)
    if size < 8:
        raise CheckpointFileError(f"{path}: it has {size} bytes, and no safetensors file has fewer than 8")
    (header_bytes,) = struct.unpack("<Q", files.read(path, 0, 8))
    if header_bytes > _MAX_HEADER_BYTES:
        raise CheckpointFileError(
            f"{path}: not a safetensors file: its header would have {header_bytes} bytes"
        )
    if 8 + header_bytes > size:
        raise CheckpointFileError(
            f"{path}: it ends inside its header: it has {size} bytes, {8 + header_bytes} are needed"
        )
    try:
        header = json.loads(files.read(path, 8, header_bytes))
    except (ValueError, RecursionError) as error:
        raise CheckpointFileError(f"{path}: not a safetensors file: its header is no JSON") from error
    if not isinstance(header, dict):
        raise CheckpointFileError(f"{path}: not a safetensors file: its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise CheckpointFileError(f"{path}: its metadata is no JSON object")
    tensors, end = {}, 0
    for name, entry in header.items():
        tensor, stop = _tensor(path, name, entry, 8 + header_bytes)
        tensors[name], end = tensor, max(end, stop)
    if size != 8 + header_bytes + end:
        raise CheckpointFileError(
            f"{path}: it has {size} bytes, its header speaks of {8 + header_bytes + end}: not complete, or damaged"
        )
    return tensors, metadata


def _tensor(path: Path, name: str, entry: Any, data_start: int) -> tuple[RawTensor, int]:
    """A tensor, and where it ends, counted from the data's start."""
    try:
        dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointFileError(f"{path}: tensor {name[:80]!r}: its entry cannot be read") from error
    if any(type(number) is not int or number < 0 for number in (*shape, begin, end)) or begin > end:
        raise CheckpointFileError(f"{path}: tensor {name[:80]!r}: its entry cannot be read")
    known = _DTYPES.get(dtype, dtype)
    item = ITEM_BYTES_OF_TORCH.get(known)
    count = math.prod(shape)
    if item is None:
        return RawTensor(known, shape, (), None, f"{dtype} elements, which are not known"), end
    if end - begin != count * item:
        raise CheckpointFileError(
            f"{path}: tensor {name[:80]!r} of shape {shape} needs {count * item} bytes and has {end - begin}"
        )
    piece = Piece((0,) * len(shape), shape, Stored(path, data_start + begin, row_major(shape)))
    return RawTensor(known, shape, (piece,), (path, begin, end) if count else None), end


def _step(metadata: Mapping[str, str]) -> int | None:
    for key in _STEPS:
        text = metadata.get(key)
        if isinstance(text, str) and text.isascii() and text.isdecimal():
            return int(text)
    return None
