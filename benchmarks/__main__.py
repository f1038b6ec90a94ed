"""Run every benchmark, print one table of figures beside their limits; exit 1 if one is missed.

A benchmark is a module in this folder with ``run() -> list[dict]``; each dict holds ``name``, ``value``,
``unit``, ``limit`` (None for a figure without one) and ``ok``. Each module runs in a process of its own, so
that one's threads, caches and memory do not colour the next one's figures.

    python -m benchmarks            all of them
    python -m benchmarks gram       one of them
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 900.0
KEYS = {"name", "value", "unit", "limit", "ok"}


def modules() -> list[str]:
    """Names of all benchmark modules, in order."""
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def write_figures(module: str, out: Path) -> None:
    """In the benchmark's own process: run it and leave its figures in a file."""
    figures = importlib.import_module(f"benchmarks.{module}").run()
    for figure in figures:
        if not figure.keys() >= KEYS:
            raise ValueError(f"benchmark {module}: a figure lacks {sorted(KEYS - figure.keys())}")
    out.write_text(json.dumps(figures, default=float), encoding="utf-8")


def failure(module: str, reason: str) -> list[dict[str, Any]]:
    """A benchmark that gave no figures counts as a missed one."""
    return [{"name": f"{module}: {reason}", "value": None, "unit": "", "limit": None, "ok": False}]


def measure(module: str, timeout_seconds: float) -> list[dict[str, Any]]:
    """Run one benchmark in its own process group; ends all of it when the time is up."""
    with tempfile.TemporaryDirectory(prefix="trajmon-bench-") as folder:
        out = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "benchmarks", "--figures-to", str(out), module]
        process = subprocess.Popen(command, cwd=HERE.parent, start_new_session=True, stdout=sys.stderr)
        try:
            status = process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return failure(module, f"not done after {timeout_seconds:.0f} s")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if status != 0:
            return failure(module, f"ended with status {status}")
        figures: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
        return figures or failure(module, "gave no figures")


def number(value: Any) -> str:
    """A figure with four significant digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def print_table(rows: list[tuple[str, dict[str, Any]]]) -> None:
    """One line a figure."""
    table = Table(title="Figures and their limits")
    for heading, justify in (("benchmark", "left"), ("figure", "left"), ("value", "right"), ("unit", "left")):
        table.add_column(heading, justify="right" if justify == "right" else "left", overflow="fold")
    table.add_column("limit", overflow="fold")
    table.add_column("")
    for module, figure in rows:
        limit = "" if figure["limit"] is None else number(figure["limit"])
        verdict = "[red]missed[/]" if not figure["ok"] else "[green]ok[/]" if limit else ""
        cells = (module, str(figure["name"]), number(figure["value"]), str(figure["unit"]), limit)
        table.add_row(*cells, verdict)
    width = None if sys.stdout.isatty() else 140
    Console(width=width).print(table)


def main() -> int:
    """Run what was asked for; 0 if every figure is within its limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Figures beside their limits.")
    parser.add_argument("module", nargs="*", choices=[[], *modules()], metavar="MODULE", help="default: all")
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_SECONDS, metavar="SECONDS", help="for each module"
    )
    parser.add_argument("--figures-to", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.figures_to is not None:
        write_figures(arguments.module[0], arguments.figures_to)
        return 0
    chosen = arguments.module or modules()
    if not chosen:
        print("no benchmarks here", file=sys.stderr)
        return 1
    rows: list[tuple[str, dict[str, Any]]] = []
    for module in chosen:
        print(f"running {module} ...", file=sys.stderr, flush=True)
        rows += [(module, figure) for figure in measure(module, arguments.timeout)]
    print_table(rows)
    return 0 if all(figure["ok"] for _, figure in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
