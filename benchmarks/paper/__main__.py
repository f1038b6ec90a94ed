"""The paper's experiments on this software.

    python -m benchmarks.paper                     all that are not finished yet, then the page
    python -m benchmarks.paper random_walk         these only
    python -m benchmarks.paper --list              what there is, and how it stands
    python -m benchmarks.paper --report-only       write the page again from what is finished

Two experiments at a time, each with one thread at low priority. Stopped in any way, the next call goes on: a finished
experiment is left as it is unless its code has changed, and a finished training unless its recipe has.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benchmarks.paper import experiments
from benchmarks.paper.experiment import Experiment
from benchmarks.paper.house import shared_server
from benchmarks.paper.kept import Kept, read_kept, sources_digest
from benchmarks.paper.report import write_report
from benchmarks.paper.running import Failure, run_all
from rich.console import Console
from rich.table import Table

__all__ = ["main"]

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if every experiment that was asked for is finished; 1 if one failed; 2 for arguments that make no sense."""
    parser = _parser()
    given = parser.parse_args(arguments)
    known = experiments.all_names()
    for name in given.name:
        if name not in known:
            parser.error(f"there is no experiment {name!r}; there are {', '.join(known)}")
    if given.jobs < 1:
        parser.error(f"--jobs {given.jobs}: at least one")
    names = list(dict.fromkeys(given.name)) or known
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        if given.list:
            console.print(_table(names, given.out))
            return 0
        failures = [] if given.report_only else _run(names, given, console)
        # Of all that is finished: a page about the last call alone would forget the others.
        kept = [one for name in known if (one := read_kept(given.out / name))]
        page = write_report(kept, given.out, given.docs) if kept or not failures else None
    except (OSError, RuntimeError, ValueError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    for one in kept:
        if not _is_finished(one.name, given.out):
            console.print(f"{one.name}: made by other code than there is now; run it again", style="yellow")
    if page is not None:
        console.print(f"wrote {page}", soft_wrap=True, markup=False)
    for failure in failures:
        console.print(f"{failure.name} failed: {failure.reason}", style="red", markup=False, soft_wrap=True)
        console.print(f"  see {failure.log}", markup=False, soft_wrap=True)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description="Run the paper's experiments and write what came out."
    )
    parser.add_argument("name", nargs="*", help="an experiment; default: all of them")
    parser.add_argument("--list", action="store_true", help="run nothing; say what there is")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "out" / "reproduce",
        metavar="FOLDER",
        help="recordings and findings",
    )
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs" / "reproduction", metavar="FOLDER", help="page and figures"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="so many at a time (default: 2)")
    parser.add_argument("--fresh", action="store_true", help="forget what these experiments did before")
    parser.add_argument("--report-only", action="store_true", help="run nothing; write the page again")
    return parser


def _run(names: Sequence[str], given: argparse.Namespace, console: Console) -> list[Failure]:
    out: Path = given.out.absolute()
    if given.fresh:
        for name in names:
            shutil.rmtree(out / name, ignore_errors=True)
    loaded, failures = list[Experiment](), list[Failure]()
    for name in names:
        if _is_finished(name, out):
            console.print(f"{name}: finished before")
            continue
        try:
            loaded.append(experiments.load(name))
        except Exception as error:
            # Whatever is wrong with one file, the others are not held up by it.
            failures.append(Failure(name, f"cannot be loaded: {error!r}", experiments.file_of(name)))
    # The longest first, so that none of them is left over at the end with one core idle.
    order = [one.name for one in sorted(loaded, key=lambda one: -one.minutes)]
    if not order:
        return failures
    signal.signal(signal.SIGTERM, _stop)
    try:
        with shared_server(out / "home") as server:
            failures += run_all(
                order, out, server=server, home=out / "home", jobs=given.jobs, console=console
            )
    except KeyboardInterrupt:
        console.print("stopped; the next call goes on from here")
        sys.exit(130)
    return failures


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _is_finished(name: str, out: Path) -> bool:
    kept = read_kept(out / name)
    return kept is not None and kept.digest == sources_digest(name)


def _table(names: Sequence[str], out: Path) -> Table:
    table = Table()
    for heading in ("experiment", "state", "verdicts"):
        table.add_column(heading)
    table.add_column("seconds", justify="right")
    for name in names:
        kept = read_kept(out / name)
        if kept is None:
            table.add_row(name, "not finished", "", "")
            continue
        state = "finished" if _is_finished(name, out) else "finished, by other code"
        table.add_row(name, state, _verdicts(kept), f"{kept.seconds:.0f}")
    return table


def _verdicts(kept: Kept) -> str:
    counts: dict[str, int] = {}
    for row in kept.findings.rows:
        counts[row.verdict] = counts.get(row.verdict, 0) + 1
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


if __name__ == "__main__":
    sys.exit(main())
