"""Folders of ``torch.distributed.checkpoint``, without torch, a process group, or running anything in them.

``.metadata`` is a pickle: for each name the tensor's size, dtype and chunks, and for each chunk the file and the
range of bytes in it. That range is a file of ``torch.save`` of its own, which is opened when it is first read.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeGuard

from trajmon.checkpoints.files import Files
from trajmon.checkpoints.inert import Name, Opaque
from trajmon.checkpoints.state_dict import choose_state_dict, stated_step
from trajmon.checkpoints.strided import Piece, Stored, covers
from trajmon.checkpoints.table import RawTensor, TableReader
from trajmon.checkpoints.torch_file import open_zip, raw_tensor
from trajmon.checkpoints.torch_objects import PickledTensor, load_torch_pickle
from trajmon.errors import CheckpointFileError

__all__ = ["METADATA", "open_dcp"]

METADATA: Final = ".metadata"
_MODULES: Final = ("torch", "torch.serialization", "pathlib", "collections", "builtins")
_STEP_NAMES: Final = ("step", "global_step", "iteration", "iter")
_MAX_STEP_BYTES: Final = 1 << 16

_Key = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Part:
    """Where the bytes of a chunk or an object are."""

    path: Path
    offset: int
    length: int


def open_dcp(path: Path, files: Files, key: str | None = None) -> TableReader:
    """A folder with a ``.metadata`` file. Raises CheckpointFileError that names the file at fault."""
    metadata_file = path / METADATA
    root = load_torch_pickle(files.section(metadata_file), metadata_file, allow=_is_known)
    metadata = _fields(metadata_file, root, "Metadata")
    parts = _parts(path, metadata_file, metadata.get("storage_data"))
    names = metadata.get("planner_data")
    tree: dict[Any, Any] = {}
    for name, entry in _table(metadata_file, metadata.get("state_dict_metadata")).items():
        route = names.get(name) if isinstance(names, dict) else None
        if not isinstance(route, tuple) or not route:
            route = (name,)
        if isinstance(entry, Opaque) and str(entry.kind).endswith(".TensorStorageMetadata"):
            value: object = _tensor(files, metadata_file, name, entry, parts)
        elif route[-1] in _STEP_NAMES:
            value = _number(files, parts.get((name, ())))
        else:
            value = entry
        _put(tree, route, value)
    _check_sizes(files, parts)
    chosen = choose_state_dict(tree, RawTensor, path, key)
    return TableReader(path, files, chosen.tensors, chosen.skipped, stated_step(tree))


def _is_known(name: Name) -> bool:
    return name.module in _MODULES or name.module.startswith("torch.distributed.checkpoint.")


def _fields(path: Path, value: object, kind: str) -> dict[str, Any]:
    """The attributes of one of the classes of torch.distributed.checkpoint."""
    if isinstance(value, Opaque) and str(value.kind).endswith(f".{kind}") and isinstance(value.state, dict):
        return value.state
    raise CheckpointFileError(f"{path}: it is not torch's: a {kind} is missing")


def _table(path: Path, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointFileError(f"{path}: it is not torch's: a table is missing")
    return value


def _parts(folder: Path, metadata_file: Path, storage_data: object) -> dict[_Key, _Part]:
    parts = {}
    for index, info in _table(metadata_file, storage_data).items():
        where = _fields(metadata_file, index, "MetadataIndex")
        entry = _fields(metadata_file, info, "_StorageInfo")
        match where.get("fqn"), where.get("offset"), entry.get("relative_path"), entry:
            case str(name), offset, str(relative), {"offset": int(start), "length": int(length)} if (
                offset is None or _is_extents(offset)
            ):
                if entry.get("transform_descriptors"):
                    raise CheckpointFileError(
                        f"{metadata_file}: {name!r} was stored through {entry['transform_descriptors']}, which cannot "
                        "be read; save without"
                    )
                file = folder / relative
                if not file.resolve().is_relative_to(folder.resolve()):
                    raise CheckpointFileError(
                        f"{metadata_file}: it refers to {relative!r}, outside its folder"
                    )
                parts[name, tuple(offset or ())] = _Part(file, start, length)
            case _:
                raise CheckpointFileError(f"{metadata_file}: it is not torch's: a place is missing")
    return parts


def _check_sizes(files: Files, parts: dict[_Key, _Part]) -> None:
    """Every file is there and long enough: what is cut off is found out before anything is read."""
    needed: dict[Path, int] = {}
    for part in parts.values():
        needed[part.path] = max(needed.get(part.path, 0), part.offset + part.length)
    for path, end in sorted(needed.items()):
        if files.size_bytes(path) < end:
            raise CheckpointFileError(
                f"{path}: it has {files.size_bytes(path)} bytes, {end} are needed: it is not complete"
            )


def _tensor(
    files: Files, metadata_file: Path, name: str, entry: Opaque, parts: dict[_Key, _Part]
) -> RawTensor:
    state = _fields(metadata_file, entry, "TensorStorageMetadata")
    properties = state.get("properties")
    given = properties.state if isinstance(properties, Opaque) else None
    # A tuple since the class has __getstate__, a table before.
    dtype = given[0] if isinstance(given, tuple) and given else None
    dtype = given.get("dtype") if isinstance(given, dict) else dtype
    shape = state.get("size")
    if not isinstance(dtype, Name) or not _is_extents(shape):
        raise CheckpointFileError(f"{metadata_file}: tensor {name!r} has no type or shape")
    chunks = state.get("chunks")
    pieces = []
    for chunk in chunks if isinstance(chunks, list) else ():
        box = _fields(metadata_file, chunk, "ChunkStorageMetadata")
        offsets, sizes = box.get("offsets"), box.get("sizes")
        if not _is_extents(offsets) or not _is_extents(sizes):
            raise CheckpointFileError(f"{metadata_file}: a chunk of {name!r} has no place")
        part = parts.get((name, offsets))
        if part is None:
            raise CheckpointFileError(
                f"{metadata_file}: the chunk of {name!r} at {offsets} is stored nowhere"
            )
        pieces.append(Piece(offsets, sizes, _Place(files, part, name, sizes, dtype.name)))
    if not covers(shape, pieces):
        raise CheckpointFileError(f"{metadata_file}: the chunks of {name!r} do not make up its shape {shape}")
    return RawTensor(dtype.name, shape, tuple(pieces))


def _is_extents(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and all(type(extent) is int and extent >= 0 for extent in value)


@dataclass(slots=True)
class _Place:
    """Finds where a chunk's elements lie, once."""

    files: Files
    part: _Part
    name: str
    sizes: tuple[int, ...]
    dtype: str
    _found: Stored | None = None
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> Stored:
        with self._guard:
            if self._found is None:
                self._found = self._find()
            return self._found

    def _find(self) -> Stored:
        root, locate = open_zip(self.part.path, self.files, self.part.offset, self.part.length)
        if not isinstance(root, PickledTensor):
            raise CheckpointFileError(f"{self.part.path}: no tensor is where {self.name!r} should be")
        raw = raw_tensor(root, self.part.path, locate)
        if raw.shape != self.sizes or raw.dtype != self.dtype:
            raise CheckpointFileError(
                f"{self.part.path}: the chunk of {self.name!r} has shape {raw.shape} and type {raw.dtype}, "
                f"{self.sizes} and {self.dtype} are announced"
            )
        return raw.pieces[0].stored


def _number(files: Files, part: _Part | None) -> object:
    """A step that was saved beside the tensors; None if it is something else."""
    if part is None or part.length > _MAX_STEP_BYTES:
        return None
    root, _ = open_zip(part.path, files, part.offset, part.length)
    return root if type(root) is int else None


def _put(tree: dict[Any, Any], route: tuple[Any, ...], value: object) -> None:
    """Enter a value at its place in the tables that were saved."""
    for key in route[:-1]:
        inner = tree.setdefault(key, {})
        if not isinstance(inner, dict):
            return
        tree = inner
    tree[route[-1]] = value
