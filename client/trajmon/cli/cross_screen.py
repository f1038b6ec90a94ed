"""A map across two runs on the terminal: the ends, the map, and a table over training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trajmon.cli.session import clean, text
from trajmon.cross.result import CrossResult, Nearest
from trajmon.plot.cross_terminal import cross_lines, cross_scale
from trajmon.plot.curves import number_with_error
from trajmon.plot.terminal import legend

__all__ = ["print_cross"]

_ROWS = 12
_LEAST_MAP, _MOST_MAP = 8, 64


def print_cross(console: Console, result: CrossResult, is_exact: bool, notes: Sequence[str]) -> None:
    """Everything about a map that has at least one entry; `notes`: what is not in it."""
    unicode = console.encoding.lower().replace("-", "").startswith("utf")
    rich_color = console.color_system in ("256", "truecolor") and not console.no_color
    color = rich_color and unicode
    t, u = result.map.shape
    console.print(
        Text.assemble(
            text(result.run, "bold"), f", {t} checkpoints, against ", text(result.other, "bold"), f", {u}"
        )
    )
    console.print(_basis(result, is_exact))
    for note in notes:
        console.print(Text(note, style="yellow"))
    console.print()
    _print_map(console, result, color)
    console.print()
    nearest = result.nearest()
    for line in _sentences(result, nearest):
        console.print(line)
    console.print()
    console.print(_table(result, nearest))


def _basis(result: CrossResult, is_exact: bool) -> Text:
    about = ", seen from each run's initialization" if result.from_initialization else ""
    how = (
        "exact, from the snapshots on this machine" if is_exact else "from sketches, standard errors after ±"
    )
    return Text.assemble((clean(result.scope), "bold"), f"{about}; {how}")


def _print_map(console: Console, result: CrossResult, color: bool) -> None:
    scale = cross_scale(result.map)
    # One row that is not wholly undefined: the key needs the sign, and no count of rows.
    any_undefined = np.array([[1.0, np.nan if np.isnan(result.map).any() else 1.0]])
    console.print(legend(any_undefined, scale, color))
    margin = max(len(str(number)) for number in result.checkpoint) + 2
    side = max(_LEAST_MAP, min(_MOST_MAP, console.width - margin))
    lines = cross_lines(result.map, result.checkpoint, result.other_checkpoint, scale, side, color)
    for line in lines:
        console.print(line, no_wrap=True, crop=True)
    words = f"downwards {clean(result.run, 40)}, across {clean(result.other, 40)}"
    console.print(Text(words, style="dim"))


def _sentences(result: CrossResult, nearest: Nearest) -> list[Text]:
    lines = []
    for name, place in (("first", 0), ("last", -1)):
        cosine = number_with_error(float(result.map[place, place]), float(result.error[place, place]))
        distance = number_with_error(
            float(result.distance[place, place]), float(result.distance_error[place, place])
        )
        lines.append(
            Text(
                f"{name} checkpoints, {result.checkpoint[place]} and {result.other_checkpoint[place]}: "
                f"cosine {cosine}, distance {distance}"
            )
        )
    lines.append(
        Text(f"nearest to checkpoint {result.checkpoint[-1]}: {_nearest_words(nearest, -1, long=True)}")
    )
    return lines


def _nearest_words(nearest: Nearest, place: int, long: bool = False) -> str:
    number = nearest.checkpoint[place]
    if number < 0:
        return "undefined"
    first, last = nearest.first[place], nearest.last[place]
    others = "" if first == last else f" ({first} to {last} within error)" if long else f" ({first}-{last})"
    if not long:
        return f"{number}{others}"
    distance = number_with_error(float(nearest.distance[place]), float(nearest.error[place]))
    return f"checkpoint {number} of the other run{others}, at {distance}"


def _table(result: CrossResult, nearest: Nearest) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    headings = ("checkpoint", "step", "other's step", "cosine", "distance", "nearest", "at")
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    rows, columns = result.same_number()
    column_of = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    # Where the numbers meet, else wherever: the nearest checkpoint does not need a number in common.
    places = rows if len(rows) else np.arange(len(result.checkpoint))
    chosen = np.unique(np.linspace(0, len(places) - 1, min(_ROWS, len(places))).round().astype(int))
    for row in places[chosen].tolist():
        at = column_of.get(row)
        step = int(result.step[row])
        cells = ["", "", ""]
        if at is not None:
            cells = [
                _step(int(result.other_step[at])),
                number_with_error(float(result.map[row, at]), float(result.error[row, at])),
                number_with_error(float(result.distance[row, at]), float(result.distance_error[row, at])),
            ]
        far = number_with_error(float(nearest.distance[row]), float(nearest.error[row]))
        table.add_row(str(result.checkpoint[row]), _step(step), *cells, _nearest_words(nearest, row), far)
    return table


def _step(step: int) -> str:
    return "not known" if step < 0 else str(step)
