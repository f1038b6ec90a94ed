"""Columns as an Arrow IPC stream of one batch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import nanoarrow as na
import numpy as np
from nanoarrow.ipc import StreamWriter
from numpy.typing import NDArray

__all__ = ["arrow_stream"]

_TYPES = {"f": (na.float64, "<f8"), "i": (na.int64, "<i8"), "u": (na.uint8, "|u1")}


def arrow_stream(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """The columns, each [T], as float64, int64 or uint8. Undefined is NaN, as in every array of this server."""
    fields, arrays = {}, []
    for name, column in columns.items():
        make, dtype = _TYPES[column.dtype.kind]
        fields[name] = make()
        arrays.append(na.c_array(np.ascontiguousarray(column, dtype=dtype), make()))
    count = len(next(iter(columns.values())))
    batch = na.c_array_from_buffers(na.struct(fields), count, [None], children=arrays)
    out = io.BytesIO()
    with StreamWriter.from_writable(out) as writer:
        writer.write_stream(na.c_array_stream(batch))
    return out.getvalue()
