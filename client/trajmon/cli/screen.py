"""A run on the terminal: header, trajectory map, curves, fitted to the width that there is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from trajmon.cli.behind import duration
from trajmon.cli.picture import entry_name, estimates_words, mean_error_of, mean_of, mean_words
from trajmon.cli.plain import has_unicode, phase_name, state_name
from trajmon.cli.session import clean, text
from trajmon.plot.colors import Scale
from trajmon.plot.curves import MARKS, curve_lines, number, number_with_error
from trajmon.plot.modes import switch_positions
from trajmon.plot.terminal import legend, map_lines, modes_line
from trajmon.query import MapResult
from trajmon_protos.v1 import ingest_pb2, query_pb2, types_pb2

__all__ = ["lag_words", "print_header", "print_map_and_curves", "waiting_words"]

_CURVES = {
    "mds": "MDS",
    "relative_mds": "relative MDS",
    "update_angle_degrees": "update angle (degrees)",
    "parameter_norm": "norm of parameters",
    "distance_from_initialization": "distance from initialization",
    "update_norm": "norm of update",
}
_STATE_STYLES = {"switch": "bold green", "candidate": "green", "resume": "bold yellow", "unknown": "yellow"}
_MOST_PIXELS = 64
_MOST_ENLARGED = 48
_LEAST_PIXELS = 32
_MOST_FINDINGS = 5
_MOST_OPEN = 3
_MOST_PARTS = 8
_MOST_SETTLED = 8
_SNAPSHOTS = {
    ingest_pb2.SNAPSHOT_MODE_ANCHORED: "anchored: a few snapshots kept",
    ingest_pb2.SNAPSHOT_MODE_SKETCH: "sketch: last two snapshots kept",
}
_LAG_SECONDS = 5.0
"""One checkpoint that waits for less is in work."""


def print_header(console: Console, details: query_pb2.GetRunResponse) -> None:
    """Name, state, extent, advice with its reason, and findings that a reader should know of."""
    run = details.summary
    facts = [phase_name(run.phase)]
    if run.reason:
        facts[0] += f" ({clean(run.reason)})"
    superseded = f" and {run.superseded} superseded" if run.superseded else ""
    facts.append(f"{max(run.checkpoints - run.superseded, 0)} checkpoints{superseded}")
    if run.checkpoints:
        facts.append(f"step {run.last_step}")
    if run.attempt > 1:
        facts.append(f"attempt {run.attempt}")
    if run.parameters:
        facts.append(f"{run.parameters:,} parameters")
    if run.mode == types_pb2.TRAINING_MODE_NORM_ONLY:
        facts.append("norm-only training")
    if run.snapshot_mode in _SNAPSHOTS:
        facts.append(_SNAPSHOTS[run.snapshot_mode])
    console.print(Text.assemble(text(run.name, "bold"), "  ", ", ".join(facts)), soft_wrap=False)
    state = state_name(run.advice.state)
    line = Text.assemble("advice: ", (state, _STATE_STYLES.get(state, "bold")))
    if run.advice.reason:
        line.append(f" at checkpoint {run.advice.checkpoint}: {clean(run.advice.reason, 500)}")
    console.print(line)
    for words in (waiting_words(details), lag_words(details.agent)):
        if words:
            console.print(Text(words, style="yellow"))
    for words in (plan_words(details), settled_words(details)):
        if words:
            console.print(Text(words))
    for finding in details.findings[:_MOST_FINDINGS]:
        console.print(
            Text(f"finding: checkpoint {finding.checkpoint}: {clean(finding.text, 300)}", style="yellow")
        )
    if len(details.findings) > _MOST_FINDINGS:
        console.print(Text(f"and {len(details.findings) - _MOST_FINDINGS} more findings", style="yellow"))
    console.print()


def plan_words(details: query_pb2.GetRunResponse) -> str:
    """What the newest checkpoint says of the plan; empty if nothing.

    >>> plan = types_pb2.Plan(steps_ahead=300, objective="loss")
    >>> info = types_pb2.CheckpointInfo(plan=plan)
    >>> plan_words(query_pb2.GetRunResponse(checkpoints=[query_pb2.CheckpointDetail(info=info)]))
    'plan: 300 steps ahead, learning rates not known; for loss, smaller is better'
    """
    if not details.checkpoints or not details.checkpoints[-1].info.HasField("plan"):
        return ""
    plan, parts = details.checkpoints[-1].info.plan, []
    if plan.HasField("steps_ahead"):
        known = "known" if plan.HasField("rate_sum_ahead") else "not known"
        parts.append(f"{plan.steps_ahead:,} steps ahead, learning rates {known}")
    if plan.objective:
        better = "larger" if plan.larger_is_better else "smaller"
        parts.append(f"for {clean(plan.objective)}, {better} is better")
    return f"plan: {'; '.join(parts)}" if parts else ""


def settled_words(details: query_pb2.GetRunResponse) -> str:
    """The groups that have settled, in the order in which they did; empty if none has.

    >>> told = [query_pb2.GroupOutlook(group="norm", settled_since=7), query_pb2.GroupOutlook(group="mlp")]
    >>> settled_words(query_pb2.GetRunResponse(outlooks=told))
    'settled groups: norm (since checkpoint 7); 1 of 2 has not'
    """
    settled = [one for one in details.outlooks if one.HasField("settled_since")]
    if not settled:
        return ""
    shown = [f"{clean(one.group)} (since checkpoint {one.settled_since})" for one in settled[:_MOST_SETTLED]]
    more = len(settled) - len(shown)
    left = len(details.outlooks) - len(settled)
    words = ", ".join(shown) + (f" and {more} more" if more else "")
    verb = "has" if left == 1 else "have"
    return f"settled groups: {words}" + (f"; {left} of {len(details.outlooks)} {verb} not" if left else "")


def waiting_words(details: query_pb2.GetRunResponse) -> str:
    """The checkpoints that wait for parts, the first few with what they lack; empty if none does.

    >>> lacking = query_pb2.OpenCheckpoint(checkpoint=7, num_parts=8, missing_parts=[2, 5])
    >>> summary = query_pb2.RunSummary(open_checkpoints=1)
    >>> waiting_words(query_pb2.GetRunResponse(summary=summary, open=[lacking]))
    '1 checkpoint waits for parts: checkpoint 7 lacks parts 2, 5 of 8'
    """
    count = max(details.summary.open_checkpoints, len(details.open))
    if not count:
        return ""
    words = f"{count} checkpoints wait for parts" if count > 1 else "1 checkpoint waits for parts"
    shown = details.open[:_MOST_OPEN]
    lacks = []
    for known in shown:
        parts = ", ".join(str(part) for part in known.missing_parts[:_MOST_PARTS])
        more = len(known.missing_parts) - _MOST_PARTS
        parts += f" and {more} more" if more > 0 else ""
        noun = "part" if len(known.missing_parts) == 1 else "parts"
        lacks.append(f"checkpoint {known.checkpoint} lacks {noun} {parts} of {known.num_parts}")
    if shown and count > len(shown):
        lacks.append(f"and {count - len(shown)} more")
    return f"{words}: {'; '.join(lacks)}" if lacks else words


def lag_words(agent: ingest_pb2.ReportStatusRequest) -> str:
    """How far the agent last said it was behind; empty if it keeps up.

    >>> lag_words(ingest_pb2.ReportStatusRequest(checkpoints_pending=12, lag_seconds=40.0))
    'agent: 12 checkpoints behind, the oldest 40 s old'
    """
    pending, lag = agent.checkpoints_pending, agent.lag_seconds
    if not pending or (pending == 1 and not lag >= _LAG_SECONDS):
        return ""
    words = f"agent: {pending} checkpoint{'s' if pending > 1 else ''} behind"
    if 0 < lag < math.inf:
        words += f", {'the oldest ' if pending > 1 else ''}{duration(lag)} old"
    if agent.checkpoints_uncomputed:
        words += f", {agent.checkpoints_uncomputed} without a row"
    return words


def print_map_and_curves(
    console: Console, result: MapResult, hallmarks: Mapping[str, NDArray[Any]], scale: Scale
) -> None:
    """The map, and the curves beside it where the terminal is wide, below it where not."""
    width = console.width
    rich_color = console.color_system in ("256", "truecolor") and not console.no_color
    unicode = has_unicode(console)
    mean = number_with_error(mean_of(result), mean_error_of(result), plain=not unicode)
    color = rich_color and unicode
    margin = max((len(str(number)) for number in result.checkpoint), default=1) + 2
    beside = width >= 110
    most = _MOST_PIXELS if len(result.checkpoint) > _MOST_ENLARGED else _MOST_ENLARGED
    side = max(8, min(_pixels(console), most, width - margin - (46 if beside else 0)))
    title = Text.assemble(
        "trajectory map of ",
        (clean(result.scope), "bold"),
        f"   {mean_words(result)} {mean}",
    )
    estimates = estimates_words(result)
    if estimates:
        title.append(f"   ({estimates})", "dim")
    picture = map_lines(result.map, result.checkpoint, scale, side, color, result.mode)
    key = legend(result.map, scale, color, entry_name(result))
    modes = modes_line(result.mode, result.checkpoint, color)
    if beside:
        room = max(line.cell_len for line in picture) + 3
        curves = _curves(hallmarks, min(width - room, 60), dots=unicode, height=4 if len(picture) > 28 else 3)
        _print_key(console, title, key, modes)
        for left, right in zip_longest(picture, curves):
            line = left.copy() if left is not None else Text()
            if right is not None:
                line.pad_right(room - line.cell_len)
                line.append_text(right)
            console.print(line, no_wrap=True, crop=True)
        return
    _print_key(console, title, key, modes)
    for line in picture:
        console.print(line, no_wrap=True, crop=True)
    console.print()
    columns = 2 if width >= 64 else 1
    blocks = _blocks(hallmarks, (width - 3 * (columns - 1)) // columns, dots=unicode, height=3)
    for first in range(0, len(blocks), columns):
        for cells in zip_longest(*blocks[first : first + columns]):
            line = Text()
            for i, cell in enumerate(cells):
                line.pad_right(i * ((width - 3) // columns + 3) - line.cell_len)
                line.append_text(cell or Text())
            console.print(line, no_wrap=True, crop=True)


def _print_key(console: Console, title: Text, key: Text, modes: Text | None) -> None:
    console.print(title)
    console.print(key)
    if modes is not None:
        console.print(modes)
    console.print()


def _pixels(console: Console) -> int:
    """Sides of the map that fit the terminal's height, within what is readable."""
    if not console.is_terminal:
        return _MOST_PIXELS
    return int(np.clip(2 * (console.height - 9), _LEAST_PIXELS, _MOST_PIXELS))


def _curves(hallmarks: Mapping[str, NDArray[Any]], width: int, dots: bool, height: int) -> list[Text]:
    return [line for block in _blocks(hallmarks, width, dots, height) for line in block]


def _blocks(hallmarks: Mapping[str, NDArray[Any]], width: int, dots: bool, height: int) -> list[list[Text]]:
    """One block of lines for each known hallmark: name, latest value and range, then the curve."""
    blocks = []
    switches = switch_positions(hallmarks["mode"]) if "mode" in hallmarks else []
    for name, label in _CURVES.items():
        if name not in hallmarks:
            continue
        values = np.asarray(hallmarks[name], dtype=np.float64)
        defined = values[np.isfinite(values)]
        errors = np.asarray(hallmarks.get(f"error:{name}", np.zeros(values.size)), dtype=np.float64)
        latest = "undefined"
        if values.size:
            latest = number_with_error(float(values[-1]), float(errors[-1]), plain=not dots)
        head = Text.assemble(label, " ", (latest, "bold"))
        if defined.size > 1:
            span = f"  {number(float(defined.min()))} to {number(float(defined.max()))}"
            # Half a number would be a wrong one.
            head.append(span if head.cell_len + len(span) <= width else "", "dim")
        head.truncate(width)
        lines = curve_lines(values, width, height, dots, switches) if defined.size > 1 else []
        texts = [Text(line) for line in lines]
        for line in texts:
            line.highlight_words([MARKS[dots]], "dim")
        blocks.append([head, *texts])
    return blocks
