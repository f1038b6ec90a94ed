"""Several runs on the terminal: maps side by side as far as the width goes, then a table of their hallmarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trajmon.cli.picture import entry_name, estimates_words, mean_error_of, mean_of, mean_words
from trajmon.cli.plain import state_name
from trajmon.cli.session import clean, text
from trajmon.plot.colors import Scale
from trajmon.plot.curves import number_with_error
from trajmon.plot.terminal import legend, map_lines, modes_line

if TYPE_CHECKING:
    from trajmon.cli.compare import Side

__all__ = ["print_comparison"]

# Hallmark, and what its row of the table is called.
_ROWS = {
    "mds": "MDS",
    "relative_mds": "relative MDS",
    "length_weighted_mds": "length-weighted MDS",
    "update_angle_degrees": "update angle (degrees)",
    "apex_angle_initialization_degrees": "angle at start (degrees)",
    "apex_angle_origin_degrees": "angle at origin (degrees)",
    "parameter_norm": "norm",
    "distance_from_initialization": "distance from start",
    "update_norm": "norm of update",
    "tortuosity": "tortuosity",
}
_MEANS = ("mds", "relative_mds")
"""They depend on how many checkpoints they are over."""
_GAP = 3
_LEAST_MAP, _MOST_MAP = 16, 48
_HEADINGS, _COLUMN = 25, 15


def print_comparison(console: Console, sides: Sequence[Side], scale: Scale) -> None:
    """Maps on one scale, then the table."""
    unicode = console.encoding.lower().replace("-", "").startswith("utf")
    rich_color = console.color_system in ("256", "truecolor") and not console.no_color
    color = rich_color and unicode
    everything = np.concatenate([side.map.map.ravel() for side in sides])
    console.print(
        Text.assemble("trajectory maps of ", (clean(sides[0].map.scope), "bold"), ", one colour scale")
    )
    # Undefined entries of any of the maps call for their sign in the key.
    any_undefined = np.full((1, 1), np.nan) if np.isnan(everything).any() else np.ones((1, 1))
    console.print(_without_count(legend(any_undefined, scale, color, entry_name(sides[0].map))))
    console.print()
    for row in _rows_of_maps(console.width, sides):
        _print_row(console, row, scale, color, unicode)
    for part in _columns(console.width, sides):
        console.print(_table(part, sides))
        console.print()
    lengths = {side.count for side in sides}
    if len(lengths) > 1:
        console.print(
            Text(
                f"The runs have {min(lengths)} to {max(lengths)} checkpoints, and a mean over more of them is another "
                "measure: the rows that say `first` compare like with like.",
                style="yellow",
            )
        )


def _without_count(key: Text) -> Text:
    """The key of the colours alone: how much is undefined differs between the maps."""
    words = key.plain
    end = words.find(" undefined (")
    return key[: end + len(" undefined")] if end >= 0 else key


def _rows_of_maps(width: int, sides: Sequence[Side]) -> Iterator[list[Side]]:
    """The sides in as many rows as it takes for each map to stay readable."""
    margin = _margin(sides)
    fitting = max(1, (width + _GAP) // (_LEAST_MAP + margin + _GAP))
    rows = -(-len(sides) // fitting)
    in_a_row = -(-len(sides) // rows)
    for first in range(0, len(sides), in_a_row):
        yield list(sides[first : first + in_a_row])


def _margin(sides: Sequence[Side]) -> int:
    """Cells that the labels of an axis take."""
    return max((len(str(n)) for side in sides for n in side.map.checkpoint), default=1) + 3


def _print_row(console: Console, row: Sequence[Side], scale: Scale, color: bool, unicode: bool) -> None:
    room = (console.width + _GAP) // len(row) - _GAP
    # One width for all, so that the maps of runs of equal length are equally large.
    side_of_map = max(8, min(_MOST_MAP, room - _margin(row)))
    blocks = []
    for side in row:
        mean = f"{mean_words(side.map)} {number_with_error(mean_of(side.map), mean_error_of(side.map))}"
        lines = [text(side.name, "bold"), Text(mean)]
        lines += map_lines(side.map.map, side.map.checkpoint, scale, side_of_map, color, side.map.mode)
        # Below: maps side by side begin on the same line.
        modes = modes_line(side.map.mode, side.map.checkpoint, color)
        lines += [] if modes is None else [modes]
        estimates = estimates_words(side.map)
        lines += [Text(estimates, style="dim")] if estimates else []
        for line in lines:
            line.truncate(room, overflow="ellipsis" if unicode else "crop")
        blocks.append(lines)
    width = max(line.cell_len for block in blocks for line in block) + _GAP
    for cells in zip_longest(*blocks):
        line = Text()
        for index, cell in enumerate(cells):
            line.pad_right(index * width - line.cell_len)
            line.append_text(cell or Text())
        console.print(line, no_wrap=True, crop=True)
    console.print()


def _columns(width: int, sides: Sequence[Side]) -> Iterator[Sequence[Side]]:
    """The sides in tables that fit the width."""
    fitting = max(1, (width - _HEADINGS) // _COLUMN)
    for first in range(0, len(sides), fitting):
        yield sides[first : first + fitting]


def _table(part: Sequence[Side], sides: Sequence[Side]) -> Table:
    shortest = min(side.count for side in sides)
    is_uneven = any(side.count != shortest for side in sides)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", style="dim", overflow="fold")
    for side in part:
        table.add_column(text(side.name), justify="right", overflow="fold")
    table.add_row("checkpoints", *(str(side.count) for side in part))
    table.add_row("last step", *(str(side.summary.last_step) for side in part))
    for name, heading in _ROWS.items():
        if not any(name in side.hallmarks for side in sides):
            continue
        if name in _MEANS and is_uneven:
            values = [side.at(name, shortest) for side in part]
            table.add_row(f"{heading}, first {shortest}", *(number_with_error(*value) for value in values))
        values = [side.at(name, side.count) for side in part]
        table.add_row(heading, *(number_with_error(*value) for value in values))
    table.add_row("advice", *(state_name(side.summary.advice.state) for side in part))
    return table
