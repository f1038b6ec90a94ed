"""Files that a command leaves behind: whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

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
    """The arrays of the map, its `scope`, and `run`, `kernel`, `relative_to` (-1: the origin)."""

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
        )

    write_whole(path, write)


def write_csv(path: Path, result: MapResult) -> None:
    """The map: a row for each checkpoint with its number, its step and the entries; empty where undefined."""

    def write(file: IO[bytes]) -> None:
        lines = io.TextIOWrapper(file, encoding="utf-8", newline="")
        table = csv.writer(lines, lineterminator="\n")
        table.writerow(["checkpoint", "step", *result.checkpoint.tolist()])
        for number, step, row in zip(result.checkpoint, result.step, result.map, strict=True):
            # repr gives the shortest digits that read back as the same float64.
            entries = ["" if np.isnan(value) else repr(float(value)) for value in row]
            table.writerow([int(number), int(step), *entries])
        lines.detach()

    write_whole(path, write)


def write_figure(path: Path, figure: Figure) -> None:
    """The figure as a PNG, 200 dots an inch."""
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=200))
