"""What torch writes into its pickles, as plain descriptions: tensors and where their bytes are. Without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from trajmon.checkpoints.inert import ForbiddenNameError, InertPickleError, Name, load_inert
from trajmon.errors import CheckpointFileError

__all__ = ["ITEM_BYTES_OF_TORCH", "PickledTensor", "Storage", "load_torch_pickle"]

ITEM_BYTES_OF_TORCH: Final = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "complex128": 16,
    "complex64": 8,
    "complex32": 4,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    **dict.fromkeys(
        ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"), 1
    ),
    **dict.fromkeys(("qint8", "quint8"), 1),
}
_STORAGE_DTYPES: Final = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "BFloat16Storage": "bfloat16",
    "HalfStorage": "float16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
}


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of bytes beside the pickle."""

    key: str
    dtype: str
    """`uint8` if it is bytes of no stated type."""
    num_elements: int
    offset: int = 0
    """Of a view: first element in the run that it is a part of."""


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """A tensor as the pickle describes it."""

    storage: Storage
    dtype: str
    offset: int
    """First element in the storage, counted in `dtype`."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements."""
    unreadable: str = ""
    """Why its elements are none that can be recorded; empty if they are."""


def load_torch_pickle(
    file: BinaryIO,
    path: Path,
    storages: dict[str, Storage] | None = None,
    allow: Callable[[Name], bool] = lambda _: True,
) -> Any:
    """One pickle that torch wrote: containers, numbers, :class:`PickledTensor`, and `Opaque` for all else.

    Enters what storages it refers to into `storages`. Raises CheckpointFileError that names `path`.
    """

    def persistent(key: object) -> Storage:
        storage = _persistent(key)
        if storages is not None:
            storages[storage.key] = storage
        return storage

    try:
        return load_inert(file, _rebuild, persistent, allow)
    except ForbiddenNameError as error:
        raise CheckpointFileError(
            f"{path}: refused: it names {error}, which has no place in a checkpoint; nothing in it was run"
        ) from error
    except InertPickleError as error:
        raise CheckpointFileError(f"{path}: {error}") from error


def _persistent(key: object) -> Storage:
    match key:
        case ("storage", Name(name=kind), str(name), _, int(count), *rest):
            storage = Storage(name, _storage_dtype(kind), count)
            match rest:
                case [] | [None]:
                    return storage
                case [(_, int(offset), int(size))]:
                    return replace(storage, offset=offset, num_elements=size)
    raise InertPickleError(f"not torch's: it refers to {str(key)[:80]!r}")


def _storage_dtype(kind: str) -> str:
    return "uint8" if kind == "UntypedStorage" else _STORAGE_DTYPES.get(kind, kind)


def _rebuild(name: Name, args: tuple[Any, ...]) -> object:
    if (
        name.module == "torch"
        and name.name == "Size"
        and len(args) == 1
        and isinstance(args[0], list | tuple)
    ):
        return tuple(args[0])
    if name.module not in ("torch._utils", "torch._tensor"):
        return NotImplemented
    match name.name, args:
        case (
            ("_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3" | "_rebuild_qtensor"),
            (
                Storage() as storage,
                int(offset),
                tuple(shape),
                tuple(strides),
                *rest,
            ),
        ):
            dtype = storage.dtype
            if name.name == "_rebuild_tensor_v3" and len(rest) > 2 and isinstance(rest[2], Name):
                dtype = rest[2].name
            reason = "quantized" if name.name == "_rebuild_qtensor" else ""
            return _tensor(storage, dtype, offset, shape, strides, reason)
        case (("_rebuild_parameter" | "_rebuild_parameter_with_state"), (PickledTensor() as data, *_)):
            return data
        # A subclass of Tensor around an ordinary one.
        case (("_rebuild_from_type" | "_rebuild_from_type_v2"), (Name() as inner, _, tuple(inner_args), *_)):
            return _rebuild(inner, inner_args)
    return NotImplemented


def _tensor(
    storage: Storage, dtype: str, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...], reason: str
) -> PickledTensor:
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(type(number) is not int or number < 0 for number in numbers):
        raise InertPickleError("not a whole pickle: a tensor has no shape")
    tensor = PickledTensor(storage, dtype, offset, shape, strides, reason)
    if 0 not in shape and dtype in ITEM_BYTES_OF_TORCH and storage.dtype in ITEM_BYTES_OF_TORCH:
        last = offset + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
        room = storage.num_elements * ITEM_BYTES_OF_TORCH[storage.dtype]
        if (last + 1) * ITEM_BYTES_OF_TORCH[dtype] > room:
            raise InertPickleError("not a whole pickle: a tensor reaches beyond its storage")
    return tensor
