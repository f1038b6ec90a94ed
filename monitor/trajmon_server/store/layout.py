"""What a run's Zarr store looks like: names, dimensions, chunk shapes and metadata documents. Pure.

    ROOT/<run_id>.zarr/
      zarr.json                    group, with the metadata of all arrays inside ("consolidated")
      gram, group_gram             sealed strips of 64 rows: one shard per strip, 2048 columns and 128 layers
      gram_tail, group_gram_tail   one shard per row, 2048 columns and 1024 layers, while its strip is not sealed,
                                   and for a while after
      layer, group, checkpoint, checkpoint_j              coordinates, named like their dimension
      step, epoch, learning_rate, time, attempt, superseded      coordinates over checkpoint
      update_squared, update_dot, displacement_squared, displacement_dot      (layer, checkpoint)
      group_update_squared, ...                                               (group, checkpoint)

From the first row with estimates on there are also, shaped like `gram` and its tail:

      gram_estimate, gram_error, sketch_gram, with _tail, group_ and both
      estimated                    coordinate over checkpoint: which rows have something in these

A row without estimates has no chunks there, and a run without estimates none of these arrays.

Publish order: chunks, then the arrays' own metadata, then the group's zarr.json in one atomic replace. A reader who
takes shapes from the group's zarr.json, as `xarray.open_zarr` does, therefore never sees a row without its values.
Strips are sealed after their rows are published; that changes no shape, and moves values from tail to sealed.

Shards are uncompressed and hold the same inner chunks at the same offsets whatever the values, so that making one
again, after damage, cannot mislead a reader who has read the old index.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from trajmon_protos.record import PRODUCTS

__all__ = [
    "ESTIMATE_QUANTITIES",
    "FORMAT_VERSION",
    "FORMAT_WITH_ESTIMATES",
    "NO_ESTIMATES",
    "PRODUCT_COLUMNS",
    "STRIP_ROWS",
    "VECTOR_CHUNK",
    "ArrayPlan",
    "Quantity",
    "RunShape",
    "Scope",
    "array_name",
    "arrays",
    "attributes",
    "documents",
    "estimate_arrays",
]

FORMAT_VERSION = 1
FORMAT_WITH_ESTIMATES = 2
"""Of a store that has the arrays of sketches and estimates; without them it is one of version 1."""
STRIP_ROWS = 64
VECTOR_CHUNK = 4096
PRODUCT_COLUMNS = 64
"""Checkpoints in a chunk of the update products."""
NO_ESTIMATES = -1
"""In `estimated`: the row came without estimates."""

Scope = Literal["layer", "group"]
Quantity = Literal["gram", "gram_estimate", "gram_error", "sketch_gram"]
"""Matrices over checkpoints, of each layer and of each group."""
ESTIMATE_QUANTITIES: Final[tuple[Quantity, ...]] = ("gram_estimate", "gram_error", "sketch_gram")

_NOTES: Final[dict[Quantity, str]] = {
    "gram": "inner products of the {}'s parameters; sealed rows, checkpoint_j <= checkpoint",
    "gram_estimate": (
        "estimates, from sketches, of the {}'s inner products that gram lacks; entries of gram are exact; "
        "sealed rows, checkpoint_j <= checkpoint"
    ),
    "gram_error": (
        "standard error of the estimate, of each entry of gram_estimate; entries of gram are exact; "
        "sealed rows, checkpoint_j <= checkpoint"
    ),
    "sketch_gram": "inner products of the {}'s sketches; sealed rows, checkpoint_j <= checkpoint",
}
_SHARD_COLUMNS = 2048
_SEALED_LAYERS, _SEALED_COLUMNS = 128, 512
_TAIL_LAYERS, _TAIL_INNER_LAYERS, _TAIL_COLUMNS = 1024, 16, 256
_SCOPES: Final[tuple[Scope, ...]] = ("layer", "group")
_PREFIX: Final[dict[Scope, str]] = {"layer": "", "group": "group_"}
_CRC = {"name": "crc32c"}
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


@dataclass(frozen=True, slots=True)
class RunShape:
    """What the maps of a run are over. Fixed for the life of the run."""

    run_id: str
    name: str
    layer_names: tuple[str, ...]
    groups: tuple[tuple[str, tuple[int, ...]], ...]
    """Name, and indices into `layer_names`."""

    def __post_init__(self) -> None:
        if not self.layer_names or not self.groups:
            raise ValueError(f"run {self.name!r} has no layers or no groups; a map needs both")


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """One array of the store."""

    name: str
    dimensions: tuple[str, ...]
    dtype: str
    """numpy name, or ``string``."""
    fill: float | int | bool | str
    """What stands where nothing was written; NaN for floats, -1 for integers."""
    chunk: tuple[int, ...]
    """Shape of one file."""
    inner: tuple[int, ...] | None = None
    """Shape of the separately readable chunks in a file; None if the file is one chunk."""
    note: str = ""

    def shape(self, run: RunShape, length: int) -> tuple[int, ...]:
        """Shape of the array in a store of `length` checkpoints."""
        extent = {"layer": len(run.layer_names), "group": len(run.groups)}
        return tuple(extent.get(dimension, length) for dimension in self.dimensions)

    def document(self, run: RunShape, length: int) -> dict[str, Any]:
        """The array's zarr.json."""
        # NaN is written as a string, as the Zarr specification has it.
        fill = "NaN" if isinstance(self.fill, float) and np.isnan(self.fill) else self.fill
        return {
            "shape": list(self.shape(run, length)),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": fill,
            "codecs": self._codecs(),
            "attributes": {"long_name": self.note} if self.note else {},
            "dimension_names": list(self.dimensions),
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }

    def _codecs(self) -> list[dict[str, Any]]:
        if self.dtype == "string":
            return [{"name": "vlen-utf8", "configuration": {}}, _CRC]
        plain = {"name": "bytes"} if self.dtype == "bool" else _LITTLE
        if self.inner is None:
            return [plain, _CRC]
        sharding = {
            "chunk_shape": list(self.inner),
            "codecs": [plain, _CRC],
            "index_codecs": [_LITTLE, _CRC],
            "index_location": "end",
        }
        return [{"name": "sharding_indexed", "configuration": sharding}]


def arrays(run: RunShape) -> dict[str, ArrayPlan]:
    """The arrays of every run's store by name.

    >>> plans = arrays(RunShape("a" * 32, "demo", ("w", "b"), (("network", (0, 1)),)))
    >>> plans["gram"].chunk, plans["gram"].inner
    ((2, 64, 2048), (1, 64, 512))
    """
    layers, groups = _count(run, "layer"), _count(run, "group")
    plans = [
        ArrayPlan("layer", ("layer",), "string", "", (layers,)),
        ArrayPlan("group", ("group",), "string", "", (groups,)),
        _vector("checkpoint", "int64", "number of the checkpoint"),
        ArrayPlan(
            "checkpoint_j", ("checkpoint_j",), "int64", -1, (VECTOR_CHUNK,), note="number of the other one"
        ),
        _vector("step", "int64", "training step; -1 where the row has been lost"),
        _vector("epoch", "float64", "epoch"),
        _vector("learning_rate", "float64", "learning rate of the first parameter group"),
        _vector("time", "float64", "time of the checkpoint in seconds, 0 is 1970-01-01 UTC"),
        _vector("attempt", "int32", "attempt of the run; -1 where the row has been lost"),
        _vector("superseded", "bool", "true where a resumed attempt took another way"),
    ]
    for scope in _SCOPES:
        plans += _matrix(run, scope, "gram")
        plans += [
            ArrayPlan(
                f"{_PREFIX[scope]}{product}",
                (scope, "checkpoint"),
                "float64",
                np.nan,
                (min(_count(run, scope), _TAIL_LAYERS), PRODUCT_COLUMNS),
            )
            for product in PRODUCTS
        ]
    return {plan.name: plan for plan in plans}


def estimate_arrays(run: RunShape) -> dict[str, ArrayPlan]:
    """The arrays that a store has besides, from the first row with estimates on.

    >>> plans = estimate_arrays(RunShape("a" * 32, "demo", ("w", "b"), (("network", (0, 1)),)))
    >>> len(plans), plans["group_gram_error_tail"].chunk
    (13, (1, 1, 2048))
    """
    note = (
        "entries of the row that are estimated in some layer or group; -1 where nothing was said of the row"
    )
    plans = [_vector("estimated", "int32", note)]
    for scope in _SCOPES:
        for quantity in ESTIMATE_QUANTITIES:
            plans += _matrix(run, scope, quantity)
    return {plan.name: plan for plan in plans}


def array_name(scope: Scope, quantity: Quantity) -> str:
    """Of the sealed rows; those of the tail have ``_tail`` behind it.

    >>> array_name("group", "gram_error")
    'group_gram_error'
    """
    return f"{_PREFIX[scope]}{quantity}"


def _count(run: RunShape, scope: Scope) -> int:
    return len(run.layer_names) if scope == "layer" else len(run.groups)


def _matrix(run: RunShape, scope: Scope, quantity: Quantity) -> list[ArrayPlan]:
    """Sealed rows and tail of a matrix over checkpoints."""
    count = _count(run, scope)
    inner = min(count, _TAIL_INNER_LAYERS)
    tail_layers = min(-(-count // inner) * inner, _TAIL_LAYERS)
    name, dimensions = array_name(scope, quantity), (scope, "checkpoint", "checkpoint_j")
    return [
        ArrayPlan(
            name,
            dimensions,
            "float64",
            np.nan,
            (min(count, _SEALED_LAYERS), STRIP_ROWS, _SHARD_COLUMNS),
            (1, STRIP_ROWS, _SEALED_COLUMNS),
            _NOTES[quantity].format(scope),
        ),
        ArrayPlan(
            f"{name}_tail",
            dimensions,
            "float64",
            np.nan,
            (tail_layers, 1, _SHARD_COLUMNS),
            (inner, 1, _TAIL_COLUMNS),
            "the same, for rows not sealed yet",
        ),
    ]


def _vector(name: str, dtype: str, note: str) -> ArrayPlan:
    fill: float | int | bool = {"float64": np.nan, "bool": False}.get(dtype, -1)
    return ArrayPlan(name, ("checkpoint",), dtype, fill, (VECTOR_CHUNK,), note=note)


def attributes(run: RunShape, *, with_estimates: bool = False) -> dict[str, Any]:
    """The attributes of the store."""
    found: dict[str, Any] = {
        "trajmon_format": FORMAT_VERSION,
        "run_id": run.run_id,
        "run_name": run.name,
        "groups": {name: list(members) for name, members in run.groups},
        "fill_rule": "missing is NaN; only checkpoint_j <= checkpoint is stored, the matrix is symmetric",
        "join": "gram = ds.gram.fillna(ds.gram_tail); group_gram = ds.group_gram.fillna(ds.group_gram_tail)",
        "coordinates": "step epoch learning_rate time attempt superseded",
    }
    if with_estimates:
        found["trajmon_format"] = FORMAT_WITH_ESTIMATES
        found["coordinates"] += " estimated"
        found["estimates"] = (
            "gram is exact; where it is NaN, gram_estimate is an estimate, and gram_error its standard error; "
            "join each with its tail first, as gram"
        )
    return found


def documents(run: RunShape, plans: Mapping[str, ArrayPlan], length: int) -> tuple[dict[str, bytes], bytes]:
    """The zarr.json of every array by name, and the group's, for a store of `length` checkpoints."""
    own = {name: plan.document(run, length) for name, plan in plans.items()}
    root = {
        "attributes": attributes(run, with_estimates="estimated" in plans),
        "zarr_format": 3,
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": own},
        "node_type": "group",
    }
    return {name: json.dumps(document).encode() for name, document in own.items()}, json.dumps(root).encode()
