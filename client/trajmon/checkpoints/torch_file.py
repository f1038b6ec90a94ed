"""Files of ``torch.save``, both formats, without torch and without running anything in them.

The zip format keeps each storage as one uncompressed entry, so tensors are read where they lie. The older one
(until PyTorch 1.6) is five pickles (magic number, version, system, the object, the storages' keys) and then, for
each key, the number of elements (int64) and the elements; they are read where they lie as well.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from trajmon.checkpoints.files import Files
from trajmon.checkpoints.state_dict import choose_state_dict, stated_step
from trajmon.checkpoints.strided import Piece, Stored
from trajmon.checkpoints.table import RawTensor, TableReader
from trajmon.checkpoints.torch_objects import (
    ITEM_BYTES_OF_TORCH,
    PickledTensor,
    Storage,
    load_torch_pickle,
)
from trajmon.errors import CheckpointFileError

__all__ = ["open_torch_file", "open_zip", "raw_tensor", "torch_entries"]

Locate = Callable[[Storage], int]

_ZIP: Final = b"PK\x03\x04"
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION: Final = 1001
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")


def open_torch_file(path: Path, files: Files, key: str | None = None) -> TableReader:
    """A .pt, .pth, .bin or .ckpt file. Raises CheckpointFileError."""
    root, tensors, skipped = torch_entries(path, files, key)
    return TableReader(path, files, tensors, skipped, stated_step(root))


def torch_entries(
    path: Path, files: Files, key: str | None = None
) -> tuple[object, dict[str, RawTensor], Mapping[str, str]]:
    """The saved object, the tensors of its state dict, and what else is in that. Raises CheckpointFileError."""
    start = files.read(path, 0, min(4, files.size_bytes(path)))
    if start == _ZIP:
        root, locate = open_zip(path, files)
    elif start[:1] == b"\x80":
        root, locate = _open_legacy(path, files)
    else:
        raise CheckpointFileError(f"{path}: {_what_else(start)}")
    chosen = choose_state_dict(root, PickledTensor, path, key)
    tensors = {name: raw_tensor(tensor, path, locate) for name, tensor in chosen.tensors.items()}
    return root, tensors, chosen.skipped


def raw_tensor(tensor: PickledTensor, path: Path, locate: Locate) -> RawTensor:
    """Where a tensor's bytes are. Raises CheckpointFileError if they are not in the file."""
    item = ITEM_BYTES_OF_TORCH.get(tensor.dtype)
    if item is None:
        return RawTensor(
            tensor.dtype, tensor.shape, (), None, f"{tensor.dtype} elements, which are not known"
        )
    place = Stored(path, locate(tensor.storage) + tensor.offset * item, tensor.strides)
    piece = Piece((0,) * len(tensor.shape), tensor.shape, place)
    empty = 0 in tensor.shape
    identity = None if empty else (path, place.start, tensor.shape, tensor.strides, tensor.dtype)
    unreadable = f"{tensor.unreadable} elements, which cannot be recorded" if tensor.unreadable else ""
    return RawTensor(tensor.dtype, tensor.shape, (piece,), identity, unreadable)


def open_zip(path: Path, files: Files, start: int = 0, length: int | None = None) -> tuple[Any, Locate]:
    """The object in the zip format, in a whole file or a part of one; and where its storages are.

    Raises CheckpointFileError.
    """
    try:
        archive = zipfile.ZipFile(files.section(path, start, length))
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointFileError(f"{path}: a zip file that torch.save did not write")
        prefix = pickles[0].removesuffix("data.pkl")
        if f"{prefix}constants.pkl" in entries:
            raise CheckpointFileError(
                f"{path}: a TorchScript program, not a state dict; save model.state_dict() instead"
            )
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise CheckpointFileError(
                f"{path}: its entries are compressed, which torch.save never does; save it anew"
            )
        order = f"{prefix}byteorder"
        if order in entries and archive.read(order) != b"little":
            raise CheckpointFileError(f"{path}: its numbers are big-endian; save it anew on another machine")
        with archive.open(pickles[0]) as file:
            root = load_torch_pickle(io.BytesIO(file.read()), path)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointFileError(f"{path}: not a complete file of torch.save: {error}") from error

    def locate(storage: Storage) -> int:
        entry = entries.get(f"{prefix}data/{storage.key}")
        item = ITEM_BYTES_OF_TORCH.get(storage.dtype, 1)
        if entry is None or entry.file_size < storage.num_elements * item:
            raise CheckpointFileError(f"{path}: the bytes of storage {storage.key[:40]!r} are not all there")
        head = files.read(path, start + entry.header_offset, _LOCAL_HEADER.size)
        magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(head)
        if magic != _ZIP:
            raise CheckpointFileError(f"{path}: not a complete file of torch.save: an entry has no header")
        data = start + entry.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
        if data + entry.file_size > files.size_bytes(path):
            raise CheckpointFileError(f"{path}: it ends inside storage {storage.key[:40]!r}")
        return int(data + storage.offset * item)

    return root, locate


def _open_legacy(path: Path, files: Files) -> tuple[Any, Locate]:
    file: BinaryIO = files.section(path)
    magic = load_torch_pickle(file, path)
    if magic != _LEGACY_MAGIC:
        raise CheckpointFileError(
            f"{path}: a pickle that torch.save did not write; refused, nothing in it was run"
        )
    version, system = load_torch_pickle(file, path), load_torch_pickle(file, path)
    if version != _LEGACY_VERSION or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointFileError(
            f"{path}: an old file of torch.save, of a kind that cannot be read: save it anew"
        )
    storages: dict[str, Storage] = {}
    root = load_torch_pickle(file, path, storages)
    keys = load_torch_pickle(file, path)
    if not isinstance(keys, list):
        raise CheckpointFileError(
            f"{path}: not a complete file of torch.save: the list of storages is missing"
        )
    places: dict[str, int] = {}
    position = file.tell()
    for key in keys:
        known = storages.get(key) if isinstance(key, str) else None
        if known is None or known.dtype not in ITEM_BYTES_OF_TORCH:
            raise CheckpointFileError(f"{path}: storage {str(key)[:40]!r} has no known type")
        (count,) = struct.unpack("<q", files.read(path, position, 8))
        places[key] = position + 8
        position += 8 + count * ITEM_BYTES_OF_TORCH[known.dtype]
        if count < 0 or position > files.size_bytes(path):
            raise CheckpointFileError(f"{path}: it ends inside storage {key[:40]!r}")

    def locate(storage: Storage) -> int:
        if storage.key not in places:
            raise CheckpointFileError(f"{path}: the bytes of storage {storage.key[:40]!r} are not there")
        return places[storage.key] + storage.offset * ITEM_BYTES_OF_TORCH[storage.dtype]

    return root, locate


def _what_else(start: bytes) -> str:
    if not start:
        return "it is empty"
    if not start.strip(b"\0"):
        return "it begins with zeros: it was never written completely"
    return "not a file of torch.save"
