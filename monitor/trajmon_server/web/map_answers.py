"""A trajectory map in the form that was asked for: JSON, float32, .npz or a picture."""

from __future__ import annotations

import contextlib
import json
import math
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from trajmon_server.query.core import MapAnswer, MapQuery
from trajmon_server.query.long_maps import LongMap
from trajmon_server.query.reduce import block_means, block_size, block_starts
from trajmon_server.web.pieces import PIECE_BYTES, Pieces, Run, finite, in_threads, json_with_arrays

__all__ = ["FORMATS", "LARGEST", "Shown", "float32_pieces", "map_answer", "npz_answer", "show", "show_long"]

FORMATS = ("json", "f32", "png", "svg", "npz")
LARGEST = 1024
"""Side of the largest map that is sent unless it is an .npz."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A map as it is sent: n x n entries that stand for T checkpoints."""

    head: Mapping[str, Any]
    """What is said beside the entries."""
    map: NDArray[np.float64]
    """[n, n], NaN where undefined."""
    error: NDArray[np.float64] | None
    """[n, n] standard errors, 0 where exact; None if all of it is exact."""

    @property
    def headers(self) -> dict[str, str]:
        """The same in short, for those who do not look inside."""
        reduced = self.head["reduced"]
        said = {"Trajmon-Shape": f"{len(self.map)},{len(self.map)}"}
        if reduced is not None:
            said["Trajmon-Reduced"] = f"{reduced['from']}->{reduced['to']}"
        return said


def show(run: str, query: MapQuery, answer: MapAnswer, size: int) -> Shown:
    """A map with at most `size` rows, and what is said of it. Blocking where it is large."""
    error = answer.error
    block = block_size(len(answer.map), size)
    defined = ~np.isnan(answer.map)
    mean = float(answer.map[defined].mean()) if defined.any() else math.nan
    # Errors share their signs at worst: the mean's is then the mean of theirs.
    mean_error = float(error[defined].mean()) if error is not None and defined.any() else 0.0
    return _shown(
        _Described(run, query, str(answer.scope), answer.checkpoint, answer.step, answer.mode),
        block,
        (mean, mean_error),
        block_means(answer.map, block),
        None if error is None else block_means(error, block),
    )


def show_long(run: str, query: MapQuery, answer: LongMap) -> Shown:
    """The same of a map that was reduced on the way."""
    told = _Described(run, query, str(answer.scope), answer.checkpoint, answer.step, answer.mode)
    return _shown(told, answer.block, (answer.mean, 0.0), answer.map, None)


@dataclass(frozen=True, slots=True)
class _Described:
    run: str
    query: MapQuery
    scope: str
    checkpoint: NDArray[np.int64]
    step: NDArray[np.int64]
    mode: NDArray[np.uint8]


def _shown(
    told: _Described,
    block: int,
    mean: tuple[float, float],
    entries: NDArray[np.float64],
    error: NDArray[np.float64] | None,
) -> Shown:
    count, numbers = len(told.checkpoint), told.checkpoint
    starts = block_starts(count, block)
    ends = np.minimum(starts + block, count) - 1
    blocks = np.stack([numbers[starts], numbers[ends]], axis=1).tolist() if count else []
    head = {
        "run": told.run,
        "scope": told.scope,
        "kernel": told.query.kernel,
        "relative_to": told.query.relative_to,
        "shape": [len(starts), len(starts)],
        "mean": finite(mean[0]),
        "mean_error": finite(mean[1]),
        "has_error": error is not None,
        "reduced": None
        if block == 1
        else {"from": count, "to": len(starts), "block": block, "blocks": blocks},
        "checkpoint": numbers[starts].tolist(),
        "step": told.step[starts].tolist(),
        "mode": told.mode[starts].tolist(),
    }
    return Shown(head, entries, error)


def map_answer(shown: Shown, form: str, run: Run, held: contextlib.ExitStack) -> Response:
    """The map as JSON or float32; takes over what is held."""
    if form == "json":
        arrays = {"map": shown.map} | ({} if shown.error is None else {"error": shown.error})
        pieces: Iterator[bytes] = json_with_arrays(shown.head, arrays)
        media_type = "application/json"
    else:
        pieces = float32_pieces(shown.head, [shown.map] + ([] if shown.error is None else [shown.error]))
        media_type = "application/vnd.trajmon.f32"
    return Pieces(in_threads(pieces, run), media_type=media_type, headers=shown.headers, held=held)


def float32_pieces(head: Mapping[str, Any], arrays: Sequence[NDArray[Any]]) -> Iterator[bytes]:
    """Length of the head (uint32), the head (JSON, padded with spaces so that the rest is aligned), the arrays.

    All little-endian; the arrays are float32, row-major, one behind the other, NaN where undefined.
    """
    text = json.dumps(head, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-(4 + len(text)) % 8)
    yield struct.pack("<I", len(text)) + text
    for array in arrays:
        rows = max(1, PIECE_BYTES // (4 * max(1, array.shape[-1])))
        flat = array.reshape(-1, array.shape[-1]) if array.size else array.reshape(0, 1)
        for start in range(0, len(flat), rows):
            yield np.ascontiguousarray(flat[start : start + rows], dtype="<f4").tobytes()


def npz_answer(
    name: str, query: MapQuery, answer: MapAnswer, run: Run, held: contextlib.ExitStack
) -> Response:
    """What `trajmon export` writes, for all checkpoints that were asked for."""
    file = held.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    return Pieces(
        in_threads(_npz_pieces(name, query, answer, file), run),
        media_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="{name}.npz"'},
        held=held,
    )


def _npz_pieces(name: str, query: MapQuery, answer: MapAnswer, file: Any) -> Iterator[bytes]:
    arrays: dict[str, Any] = {
        "map": answer.map,
        "gram": answer.gram,
        "checkpoint": answer.checkpoint,
        "step": answer.step,
        "mode": answer.mode,
        "scope": np.array(str(answer.scope)),
        "run": np.array(name),
        "kernel": np.array(query.kernel),
        "relative_to": np.array(-1 if query.relative_to is None else query.relative_to),
    }
    errors = {"error": answer.error, "gram_error": answer.gram_error}
    arrays |= {extra: values for extra, values in errors.items() if values is not None}
    np.savez(file, **arrays)
    file.seek(0)
    while piece := file.read(PIECE_BYTES):
        yield piece
