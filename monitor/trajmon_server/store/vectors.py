"""Arrays over checkpoints, with or without layers or groups: small chunk files, replaced as they fill up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmon_server.store.chunks import ChunkError, decode_chunk, encode_chunk
from trajmon_server.store.errors import MapDamagedError
from trajmon_server.store.files import TempFolder, replace_file
from trajmon_server.store.layout import ArrayPlan

__all__ = ["VectorFiles"]


class VectorFiles:
    """Writes and reads the arrays over checkpoints. The last axis of every array is the checkpoint."""

    def __init__(self, folder: Path, temp: TempFolder, plans: Mapping[str, ArrayPlan], prefix: str) -> None:
        self._folder = folder
        self._temp = temp
        self._plans = plans
        self._prefix = prefix

    def write(self, name: str, start: int, values: NDArray[Any], length: int) -> None:
        """Put `values` at checkpoints from `start`. Chunks that begin below `length` must be there already."""
        plan = self._plans[name]
        columns = plan.chunk[-1]
        stop = start + values.shape[-1]
        for block in range(1 if values.ndim == 1 else -(-values.shape[0] // plan.chunk[0])):
            for chunk in range(start // columns, -(-stop // columns)):
                first, last = max(start, chunk * columns), min(stop, (chunk + 1) * columns)
                data = self._load(name, block, chunk, may_be_new=chunk * columns >= length)
                target = data[..., first - chunk * columns : last - chunk * columns]
                if data.ndim == 1:
                    target[:] = values[first - start : last - start]
                else:
                    part = values[
                        block * plan.chunk[0] : (block + 1) * plan.chunk[0], first - start : last - start
                    ]
                    target[: part.shape[0]] = part
                replace_file(
                    self._temp, self._path(name, block, chunk), encode_chunk(data), prefix=self._prefix
                )

    def fill_up(self, name: str, stop: int) -> None:
        """Fill the chunks of a coordinate that counts from 0, up to `stop`, where they are not there yet."""
        columns = self._plans[name].chunk[-1]
        for chunk in range(-(-stop // columns)):
            path = self._path(name, 0, chunk)
            if not path.exists():
                numbers = np.arange(chunk * columns, (chunk + 1) * columns, dtype=np.int64)
                replace_file(self._temp, path, encode_chunk(numbers), prefix=self._prefix)

    def put(self, name: str, numbers: Sequence[int], value: bool, length: int, stop: int) -> None:
        """Set single entries of a 1-D array; chunks up to `stop` are made. Those below `length` must be there."""
        columns = self._plans[name].chunk[-1]
        made = range(length // columns, -(-stop // columns))
        for chunk in sorted({*(number // columns for number in numbers), *made}):
            is_new = chunk * columns >= length
            data = self._load(name, 0, chunk, may_be_new=is_new)
            before = data.tobytes()
            data[[number - chunk * columns for number in numbers if number // columns == chunk]] = value
            if is_new or data.tobytes() != before:
                replace_file(self._temp, self._path(name, 0, chunk), encode_chunk(data), prefix=self._prefix)

    def read(self, name: str, length: int) -> NDArray[Any]:
        """The first `length` entries of a 1-D array."""
        columns = self._plans[name].chunk[-1]
        chunks = [self._load(name, 0, chunk, may_be_new=False) for chunk in range(-(-length // columns))]
        return np.concatenate([np.empty(0, self._plans[name].dtype), *chunks])[:length]

    def verify(self, name: str, extent: int, length: int) -> None:
        """Read the last chunks of an array through, over `extent` layers or groups. MapDamagedError if that fails."""
        plan = self._plans[name]
        blocks = 1 if len(plan.chunk) == 1 else -(-extent // plan.chunk[0])
        for block in range(blocks):
            self._load(name, block, (length - 1) // plan.chunk[-1], may_be_new=False)

    def _load(self, name: str, block: int, chunk: int, *, may_be_new: bool) -> NDArray[Any]:
        plan = self._plans[name]
        path = self._path(name, block, chunk)
        try:
            return decode_chunk(path.read_bytes(), plan)
        except FileNotFoundError as error:
            if may_be_new:
                return np.full(plan.chunk, plan.fill, dtype=plan.dtype)
            raise MapDamagedError(f"{path} is missing") from error
        except ChunkError as error:
            if may_be_new:
                # Written before a crash and not yet published: its content is written again now.
                return np.full(plan.chunk, plan.fill, dtype=plan.dtype)
            raise MapDamagedError(f"{path} is damaged: {error}") from error

    def _path(self, name: str, block: int, chunk: int) -> Path:
        position = (chunk,) if len(self._plans[name].chunk) == 1 else (block, chunk)
        return self._folder / name / ".".join(("c", *map(str, position)))
