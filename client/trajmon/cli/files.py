"""Files that a command leaves behind: whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trajmon.cli.session import Problem
from trajmon.query import MapResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_folder", "write_csv", "write_figure", "write_npz", "write_whole"]


def check_folder(path: Path) -> None:
    """Refuse a path that cannot be written, before anything is asked of a server."""
    folder = path.resolve().parent
    if not folder.is_dir():
        raise Problem(f"cannot write {path}: there is no folder {folder}; create it first")
    if path.is_dir():
        raise Problem(f"cannot write {path}: it is a folder; name a file in it")


def write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write beside `path`, then rename: readers see the old file or the whole new one. Raises Problem."""
    target = path.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            with beside.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise Problem(f"cannot write {path}: {error.strerror or error}; nothing was left there") from error


def write_npz(path: Path, run: str, result: MapResult) -> None:
    """The arrays of the map, its `scope`, and `run`, `kernel`, `relative_to` (-1: the origin).

    Where it rests on estimates, their standard errors as well: `error` and `gram_error`.
    """
    # The stubs of savez take any further name for its option.
    errors: dict[str, Any] = {"error": result.error, "gram_error": result.gram_error}

    def write(file: IO[bytes]) -> None:
        np.savez(
            file,
            map=result.map,
            gram=result.gram,
            checkpoint=result.checkpoint,
            step=result.step,
            mode=result.mode,
            scope=np.array(result.scope),
            run=np.array(run),
            kernel=np.array(result.kernel),
            relative_to=np.array(-1 if result.relative_to is None else result.relative_to),
            **{name: array for name, array in errors.items() if array is not None},
        )

    write_whole(path, write)


def write_csv(path: Path, result: MapResult) -> None:
    """The map: a row for each checkpoint with its number, its step and the entries; empty where undefined.

    Where it rests on estimates, the standard errors of the entries follow them, under ``error:NUMBER``.
    """
    numbers = result.checkpoint.tolist()
    errors = result.error

    def write(file: IO[bytes]) -> None:
        lines = io.TextIOWrapper(file, encoding="utf-8", newline="")
        table = csv.writer(lines, lineterminator="\n")
        more = [] if errors is None else [f"error:{number}" for number in numbers]
        table.writerow(["checkpoint", "step", *numbers, *more])
        for i, number in enumerate(numbers):
            values = _texts(result.map[i]) + ([] if errors is None else _texts(errors[i]))
            table.writerow([number, int(result.step[i]), *values])
        lines.detach()

    write_whole(path, write)


def _texts(row: NDArray[np.float64]) -> list[str]:
    # repr gives the shortest digits that read back as the same float64.
    return ["" if np.isnan(value) else repr(float(value)) for value in row]


def write_figure(path: Path, figure: Figure) -> None:
    """The figure as a PNG, 200 dots an inch."""
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=200))
