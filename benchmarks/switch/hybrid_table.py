"""The table of hybrid training: one line for each way of each case, over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.switch.hybrid_results import Result
from benchmarks.switch.outcomes import allowed_loss
from rich import filesize
from rich.table import Table

__all__ = ["HEADINGS", "markdown", "measured_how", "rich_table", "rows"]

FULL, HYBRID = "full training", "on the advice"
NEVER_BACK, AT_ONCE = "switched for good", "switched back at once"

HEADINGS = (
    "training",
    "way",
    "at the end",
    "against full training",
    "switched at",
    "resumed at",
    "seconds after the switch",
    "of these saved, %",
    "of the whole run saved, %",
    "optimizer state",
    "gradients",
)
_WORDS = 2
"""Leading columns that are text."""

Row = tuple[str, ...]


def rows(what: str, results: Sequence[Result]) -> list[Row]:
    """The lines of one case; cells as in :data:`HEADINGS`. `results`: one for each seed, at least one."""
    switched = [result for result in results if result.events]
    lines = [_full(what, results, switched)]
    if not switched:
        return [*lines, ("", HYBRID, *_blank("never advised to switch"))]
    lines.append(_way(HYBRID, results, switched))
    for name in (NEVER_BACK, AT_ONCE):
        able = [result for result in results if name in result.ways]
        if able:
            lines.append(_way(name, results, able))
    return lines


def _blank(first: str) -> list[str]:
    return [first] + [""] * (len(HEADINGS) - _WORDS - 1)


def _full(what: str, results: Sequence[Result], switched: Sequence[Result]) -> Row:
    held = [way.full for result in results if (way := result.ways[FULL]).full]
    seconds = [one for result in switched for one in result.ways[FULL].seconds]
    return (
        what,
        FULL,
        _shown_metric(results[0], [_shown(result, FULL) for result in results]),
        "",
        "",
        "",
        _range(seconds, "{:.2f}"),
        "",
        "",
        _sizes(one.optimizer_bytes for one in held),
        _sizes(one.gradient_bytes for one in held),
    )


def _way(name: str, results: Sequence[Result], able: Sequence[Result]) -> Row:
    """`able`: those that have this way; the others trained as in full training to the end."""
    held = [way.norm_only for result in able if (way := result.ways[name]).norm_only]
    parts, wholes = [], []
    for result in able:
        full, mine = result.ways[FULL].seconds, result.ways[name].seconds
        parts += [1 - less / more for less, more in zip(mine, full, strict=True)]
        wholes += [
            (more - less) / (result.before_seconds + more) for less, more in zip(mine, full, strict=True)
        ]
    ends = [_shown(result, name if name in result.ways else FULL) for result in results]
    less = [end - _shown(result, FULL) for end, result in zip(ends, results, strict=True)]
    return (
        "",
        name,
        _shown_metric(results[0], ends),
        _range(less, "{:+.3f}"),
        "" if name != HYBRID else _places([result.places(norm_only=True) for result in results]),
        "" if name != HYBRID else _places([result.places(norm_only=False) for result in results]),
        _range([one for result in able for one in result.ways[name].seconds], "{:.2f}"),
        _range([100 * part for part in parts], "{:.0f}"),
        _range([100 * part for part in wholes], "{:.1f}"),
        _sizes(one.optimizer_bytes for one in held),
        _sizes(one.gradient_bytes for one in held),
    )


def _shown(result: Result, way: str) -> float:
    """Accuracy, or loss: the number itself, not its negative."""
    final = result.ways[way].final
    return final.metric if result.metric_name == "accuracy" else final.loss


def _shown_metric(first: Result, values: Sequence[float]) -> str:
    return f"{'accuracy' if first.metric_name == 'accuracy' else 'loss'} {_range(values, '{:.3f}')}"


def _range(values: Iterable[float], form: str) -> str:
    """Mean, lowest and highest.

    >>> _range([1.0, 2.0, 6.0], "{:.1f}"), _range([0.5], "{:.1f}"), _range([], "{:.1f}")
    ('3.0 (1.0 to 6.0)', '0.5', '')
    """
    known = list(values)
    if not known:
        return ""
    mean = form.format(statistics.fmean(known))
    if len(known) == 1:
        return mean
    low, high = form.format(min(known)), form.format(max(known))
    return f"{mean} ({low} to {high})" if low != high else mean


def _places(places: Sequence[tuple[float, ...]]) -> str:
    """Parts of the run, seed by seed; one seed where all are alike.

    >>> _places([(0.5,), ()]), _places([(0.25, 0.75), (0.25, 0.75)]), _places([()])
    ('0.50, never', '0.25 and 0.75', '')
    """
    if not any(places):
        return ""
    words = [" and ".join(f"{place:.2f}" for place in some) or "never" for some in places]
    return words[0] if len(set(words)) == 1 else ", ".join(words)


def _sizes(sizes: Iterable[int]) -> str:
    return " or ".join(filesize.decimal(size) for size in sorted(set(sizes)))


def measured_how(results: Sequence[Result], seeds: int) -> str:
    """What the table's numbers are, in sentences."""
    policies = ", ".join(sorted({result.policy for result in results}))
    waits = [result.waited_seconds / result.intervals for result in results]
    repeats = max((len(result.ways[FULL].seconds) for result in results), default=0)
    return (
        f"Policy: {policies}. Mean, with lowest and highest in brackets, over the seeds ({seeds}), times also over "
        f"repeats ({repeats} of each seed). Seconds are processor time of one thread from the first switch to the "
        "end, steps and their data alone; the ways were trained side by side, an interval of each by turns. Memory is "
        "while switched. "
        f"Before each checkpoint training waited for the advice on the one before, {statistics.fmean(waits):.1f} "
        "seconds on average; no time holds this waiting."
    )


def allowed(results: Sequence[Result]) -> float:
    """How much a safe switch may cost, in the unit that is shown; mean over the seeds."""
    return statistics.fmean(
        allowed_loss(result.metric_name, result.ways[FULL].final.metric) for result in results
    )


def rich_table(lines: Sequence[Row]) -> Table:
    """For a terminal."""
    table = Table(title="Hybrid training", show_lines=True)
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if index < _WORDS else "right", overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table


def markdown(lines: Sequence[Row]) -> str:
    """For a document."""
    marks = ["---" if index < _WORDS else "---:" for index in range(len(HEADINGS))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADINGS, marks, *lines))


def replaced(page: str, text: str) -> str:
    """The page with `text` between the two marks. ValueError if it has not just these.

    >>> replaced("a\\n<!-- hybrid: measured -->\\nold\\n<!-- hybrid: end -->\\nb", "new")
    'a\\n<!-- hybrid: measured -->\\n\\nnew\\n\\n<!-- hybrid: end -->\\nb'
    """
    begin, end = "<!-- hybrid: measured -->", "<!-- hybrid: end -->"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end) or page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page lacks its one {begin} before its one {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"
