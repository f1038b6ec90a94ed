"""What a request must look like. Pure: a request and what is known in, violations out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.errors import SketchError
from trajmon_protos.names import RUN_ID, RUN_NAME, RUN_NAME_RULE
from trajmon_protos.record import PRODUCTS, LayerStatus, Row
from trajmon_protos.sketch import SketchSpec
from trajmon_protos.sketch_record import DIGITS, SketchRow, spec_of
from trajmon_protos.v1 import ingest_pb2, types_pb2
from trajmon_server.config import Limits
from trajmon_server.errors import Violation
from trajmon_server.model import RunDescription
from trajmon_server.runs.parts import MAX_PARTS
from trajmon_server.runs.sketches import SketchColumns
from trajmon_server.signals.base import Ahead

__all__ = ["validate_open", "validate_report", "validate_row", "validate_sketch"]

DTYPES = ("float64", "float32", "bfloat16", "float16")
MAX_NAME_BYTES = 512
MAX_TAGS = 32
MAX_METRICS = 64
MAX_COPY = 32
MAX_CHECKPOINTS = 10**8
"""The journal's file names have room for these."""
MAX_VIOLATIONS = 20
MAX_DIMENSIONS = 32
MAX_PARAMETERS = 1 << 62
"""Of all layers together: what every count in a message holds."""


def validate_open(request: ingest_pb2.OpenRunRequest, limits: Limits) -> list[Violation]:
    """Check a request to open a run."""
    found: list[Violation] = []
    if RUN_ID.fullmatch(request.run_id) is None:
        found.append(Violation("run_id", f"{request.run_id[:80]!r} is not 32 lower-case hex digits"))
    if RUN_NAME.fullmatch(request.name) is None:
        found.append(Violation("name", f"{request.name[:80]!r} is not a run name; use {RUN_NAME_RULE}"))
    if request.attempt < 1:
        found.append(Violation("attempt", "attempts are counted from 1"))
    if len(request.tags) > MAX_TAGS or any(
        not 1 <= len(tag) <= 64 or not tag.isprintable() for tag in request.tags
    ):
        found.append(Violation("tags", f"at most {MAX_TAGS} tags of 1 to 64 printable characters"))
    found += _writer(request)
    found += _layout(request.layout, limits)
    return found[:MAX_VIOLATIONS]


def _writer(request: ingest_pb2.OpenRunRequest) -> list[Violation]:
    found: list[Violation] = []
    num_parts = max(request.num_parts, 1)
    if request.writer and RUN_ID.fullmatch(request.writer) is None:
        found.append(Violation("writer", f"{request.writer[:80]!r} is not 32 lower-case hex digits"))
    if num_parts > MAX_PARTS:
        found.append(Violation("num_parts", f"{num_parts} parts; this server takes rows in 1 to {MAX_PARTS}"))
    elif request.part >= num_parts:
        found.append(Violation("part", f"part {request.part} of {num_parts}: parts are counted from 0"))
    if num_parts > 1 and not request.writer:
        found.append(Violation("writer", f"a writer of part {request.part} of {num_parts} needs a name"))
    if request.first_checkpoint >= MAX_CHECKPOINTS:
        found.append(Violation("first_checkpoint", f"a run has at most {MAX_CHECKPOINTS} checkpoints"))
    return found


def _layout(layout: types_pb2.Layout, limits: Limits) -> list[Violation]:
    found: list[Violation] = []
    if not 1 <= len(layout.layers) <= limits.max_layers:
        count = len(layout.layers)
        found.append(
            Violation("layout.layers", f"{count} layers; this server takes 1 to {limits.max_layers}")
        )
        return found
    if not 1 <= len(layout.groups) <= limits.max_groups:
        count = len(layout.groups)
        found.append(
            Violation("layout.groups", f"{count} groups; this server takes 1 to {limits.max_groups}")
        )
        return found
    if RUN_ID.fullmatch(layout.fingerprint) is None:
        found.append(Violation("layout.fingerprint", "not 32 lower-case hex digits"))
    names = set()
    total = 0
    for index, layer in enumerate(layout.layers):
        where = f"layout.layers[{index}]"
        if not _printable(layer.name):
            found.append(Violation(f"{where}.name", f"1 to {MAX_NAME_BYTES} printable bytes are needed"))
        if layer.name in names:
            found.append(Violation(f"{where}.name", f"{layer.name!r} appears twice"))
        names.add(layer.name)
        parameters = math.prod(layer.shape[:MAX_DIMENSIONS])
        total += parameters
        if len(layer.shape) > MAX_DIMENSIONS or parameters > MAX_PARAMETERS:
            found.append(
                Violation(
                    f"{where}.shape",
                    f"more than {MAX_DIMENSIONS} dimensions or {MAX_PARAMETERS} parameters",
                )
            )
        if layer.dtype not in DTYPES:
            found.append(
                Violation(f"{where}.dtype", f"{layer.dtype[:40]!r} is not one of {', '.join(DTYPES)}")
            )
    if not found and total > MAX_PARAMETERS:
        found.append(Violation("layout.layers", f"more than {MAX_PARAMETERS} parameters in all"))
    group_names = set()
    for index, group in enumerate(layout.groups):
        where = f"layout.groups[{index}]"
        if not _printable(group.name) or len(group.name) > 64:
            found.append(Violation(f"{where}.name", "1 to 64 printable characters are needed"))
        if group.name in group_names:
            found.append(Violation(f"{where}.name", f"{group.name!r} appears twice"))
        group_names.add(group.name)
        members = list(group.layers)
        if not members or members != sorted(set(members)) or members[-1] >= len(layout.layers):
            found.append(
                Violation(f"{where}.layers", "layer indices must be ascending, distinct and in range")
            )
    first = layout.groups[0]
    if first.name != "network" or len(first.layers) != len(layout.layers):
        found.append(Violation("layout.groups[0]", "the first group must be `network` and hold every layer"))
    return found


def validate_report(request: ingest_pb2.ReportStatusRequest) -> list[Violation]:
    """Check an agent's report."""
    found: list[Violation] = []
    if request.phase not in ingest_pb2.RunPhase.values():
        found.append(
            Violation("phase", f"{request.phase} is no phase that this server knows; update the server")
        )
    if request.snapshot_mode not in ingest_pb2.SnapshotMode.values():
        found.append(
            Violation(
                "snapshot_mode",
                f"{request.snapshot_mode} is no mode that this server knows; update the server",
            )
        )
    if not (math.isfinite(request.lag_seconds) and request.lag_seconds >= 0.0):
        found.append(Violation("lag_seconds", f"{request.lag_seconds} is not a time span"))
    return found


def _printable(text: str) -> bool:
    return text.isprintable() and 1 <= len(text.encode()) <= MAX_NAME_BYTES


def validate_row(
    row: Row, run: RunDescription, attempt: int, part: int = 0, num_parts: int = 1
) -> list[Violation]:
    """Check a decoded row, or a part of one, against the run that it is meant for and the writer that sends it."""
    found = _header(row.header, run, attempt, part, num_parts)
    if not found:
        names = _names(row.header, run)
        found = _statuses(row.status) + _squares(row.gram[:, -1], row.status, names, "gram")
        marked = row.status == LayerStatus.NON_FINITE
        for layer in np.flatnonzero(marked & ~np.isnan(row.gram).all(axis=1))[:MAX_VIOLATIONS]:
            found.append(
                Violation(f"gram[{layer}]", f"layer {names[layer]!r} is marked NON_FINITE but has numbers")
            )
        found += _numbers(row.gram, row.products, names)
    return found[:MAX_VIOLATIONS]


def validate_sketch(
    sketch: SketchRow,
    run: RunDescription,
    spec: SketchSpec | None,
    attempt: int,
    part: int = 0,
    num_parts: int = 1,
) -> list[Violation]:
    """Check a decoded sketch, or a part of one; `spec` is what the run is sketched with, None before the first."""
    header = sketch.header.row
    found = _header(header, run, attempt, part, num_parts)
    try:
        theirs = spec_of(sketch.header.spec)
    except SketchError as error:
        return [*found, Violation("spec", str(error))][:MAX_VIOLATIONS]
    if spec is not None and theirs != spec:
        found.append(Violation("spec", f"the sketch has {theirs}; the run is sketched with {spec}"))
    if found:
        return found[:MAX_VIOLATIONS]
    columns = SketchColumns.of(run, theirs)
    dtype = DIGITS if num_parts > 1 else columns.dtype
    if sketch.header.dtype != dtype:
        found.append(Violation("dtype", f"sketches are {sketch.header.dtype!r}, this run's are {dtype!r}"))
    expected = sum(columns.widths(header.layers))
    if sketch.header.num_columns != expected:
        found.append(
            Violation(
                "num_columns",
                f"the sketch has {sketch.header.num_columns} columns; the run's layers with {theirs} have {expected}",
            )
        )
    if found:
        return found
    names = _names(header, run)
    found = _statuses(sketch.status) + _squares(sketch.norms, sketch.status, names, "norms")
    found += _numbers(sketch.gram, sketch.products, names)
    if dtype != DIGITS:
        for layer, place in enumerate(columns.slices()):
            if sketch.status[layer] != LayerStatus.NON_FINITE and not np.isfinite(sketch.values[place]).all():
                text = (
                    f"layer {names[layer]!r} is sketched with NaN or Inf; mark the layer NON_FINITE instead"
                )
                found.append(Violation(f"values[{layer}]", text))
    return found[:MAX_VIOLATIONS]


def _header(
    header: types_pb2.RowHeader, run: RunDescription, attempt: int, part: int, num_parts: int
) -> list[Violation]:
    found: list[Violation] = []
    if header.run_id != run.run_id:
        found.append(Violation("run_id", f"record is of run {header.run_id[:40]!r}, sent for {run.run_id}"))
    if header.fingerprint != run.fingerprint:
        found.append(
            Violation(
                "fingerprint", f"record has layout {header.fingerprint[:40]!r}, the run has {run.fingerprint}"
            )
        )
    found += _listed(header, run)
    if not 1 <= header.attempt <= attempt:
        found.append(Violation("attempt", f"record is of attempt {header.attempt}, the run is at {attempt}"))
    if (header.part, header.num_parts) != (part, num_parts):
        whole = "rows in one part from a writer that has opened the run for whole rows"
        takes = f"part {part} of {num_parts} from this writer" if num_parts > 1 else whole
        found.append(
            Violation("part", f"part {header.part} of {header.num_parts}: this server takes {takes}")
        )
    if header.checkpoint == 0 and header.HasField("previous"):
        found.append(Violation("previous", "checkpoint 0 has no checkpoint before it"))
    if header.checkpoint > 0 and not (header.HasField("previous") and header.previous < header.checkpoint):
        found.append(Violation("previous", "must name an earlier checkpoint"))
    if len(header.info.metrics) > MAX_METRICS or any(len(name) > 64 for name in header.info.metrics):
        found.append(
            Violation("info.metrics", f"at most {MAX_METRICS} metrics with names of at most 64 characters")
        )
    if not np.isfinite(header.info.time_unix_seconds):
        found.append(Violation("info.time_unix_seconds", "must be finite"))
    if header.info.mode not in types_pb2.TrainingMode.values():
        found.append(
            Violation("info.mode", f"{header.info.mode} is no mode that this server knows; update the server")
        )
    if len(header.info.copy) > MAX_COPY or not header.info.copy.isprintable():
        found.append(Violation("info.copy", f"at most {MAX_COPY} printable characters"))
    return found + _plan(header.info.plan)


def _plan(plan: types_pb2.Plan) -> list[Violation]:
    found: list[Violation] = []
    has_sum, has_squared_sum = plan.HasField("rate_sum_ahead"), plan.HasField("rate_squared_sum_ahead")
    if (has_sum or has_squared_sum) and not plan.HasField("steps_ahead"):
        found.append(
            Violation("info.plan.steps_ahead", "learning rates ahead need the number of steps ahead")
        )
    elif has_sum != has_squared_sum:
        found.append(Violation("info.plan.rate_sum_ahead", "both sums of learning rates are needed, or none"))
    elif has_sum:
        sums = (plan.rate_sum_ahead, plan.rate_squared_sum_ahead)
        ahead = Ahead(plan.steps_ahead, *sums)
        # Two NaN are nothing known where they stand for that; here somebody said them.
        if math.isnan(sums[0]) or not ahead.is_possible:
            text = "no learning rates over {} steps have the sum {:g} and the sum of squares {:g}"
            found.append(Violation("info.plan.rate_sum_ahead", text.format(plan.steps_ahead, *sums)))
    if len(plan.objective) > 64 or not plan.objective.isprintable():
        found.append(Violation("info.plan.objective", "at most 64 printable characters"))
    tolerance = plan.objective_tolerance
    if plan.HasField("objective_tolerance") and not (0 <= tolerance < math.inf and plan.objective):
        text = f"{tolerance:g} of the objective {plan.objective[:80]!r}; a number of at least 0, of one with a name"
        found.append(Violation("info.plan.objective_tolerance", text))
    return found


def _names(header: types_pb2.RowHeader, run: RunDescription) -> list[str]:
    return [run.layers[index].name for index in header.layers or range(len(run.layers))]


def _listed(header: types_pb2.RowHeader, run: RunDescription) -> list[Violation]:
    """Which layers the record holds."""
    listed, count = list(header.layers), len(run.layers)
    if not listed:
        if header.num_layers != count:
            text = f"record has {header.num_layers} layers, the run has {count}"
            return [Violation("num_layers", text)]
        return []
    if header.num_parts <= 1:
        return [Violation("layers", "a whole row holds every layer and lists none")]
    found: list[Violation] = []
    if header.num_layers != len(listed):
        text = f"record has {header.num_layers} layers, its header lists {len(listed)}"
        found.append(Violation("num_layers", text))
    if listed != sorted(set(listed)) or listed[-1] >= count:
        text = f"positions in the layout must be ascending, distinct and below {count}"
        found.append(Violation("layers", text))
    return found


def _statuses(status: NDArray[np.uint8]) -> list[Violation]:
    unknown = np.flatnonzero(~np.isin(status, [known.value for known in LayerStatus]))
    return [
        Violation(f"status[{layer}]", f"{status[layer]} is not a layer status")
        for layer in unknown[:MAX_VIOLATIONS]
    ]


def _squares(
    squares: NDArray[np.float64], status: NDArray[np.uint8], names: list[str], field: str
) -> list[Violation]:
    """Inner products of layers with themselves, which are known unless the layer is marked."""
    wrong = (status != LayerStatus.NON_FINITE) & ~(squares >= 0.0) | np.isinf(squares)
    return [
        Violation(
            f"{field}[{layer}]",
            f"layer {names[layer]!r}: inner product with itself is {squares[layer]}; mark the layer NON_FINITE instead",
        )
        for layer in np.flatnonzero(wrong)[:MAX_VIOLATIONS]
    ]


def _numbers(gram: NDArray[np.float64], products: NDArray[np.float64], names: list[str]) -> list[Violation]:
    infinite = np.isinf(gram).any(axis=1) | np.isinf(products).any(axis=1)
    found = [
        Violation(f"gram[{layer}]", f"layer {names[layer]!r} holds Inf; missing entries are NaN")
        for layer in np.flatnonzero(infinite)[:MAX_VIOLATIONS]
    ]
    squares = [PRODUCTS.index("update_squared"), PRODUCTS.index("displacement_squared")]
    found += [
        Violation(f"products[{layer}]", f"layer {names[layer]!r} has a negative squared norm")
        for layer in np.flatnonzero((products[:, squares] < 0.0).any(axis=1))[:MAX_VIOLATIONS]
    ]
    return found
