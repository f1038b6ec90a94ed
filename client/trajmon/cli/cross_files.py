"""A map across two runs as arrays and as a table."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from trajmon.cli.files import write_whole
from trajmon.cross.result import CrossResult

__all__ = ["write_cross_csv", "write_cross_npz"]


def write_cross_npz(path: Path, result: CrossResult) -> None:
    """The arrays of the map, and `run`, `other`, `scope`, `from_initialization`. Raises Problem."""

    def write(file: IO[bytes]) -> None:
        np.savez(
            file,
            map=result.map,
            error=result.error,
            distance=result.distance,
            distance_error=result.distance_error,
            checkpoint=result.checkpoint,
            step=result.step,
            other_checkpoint=result.other_checkpoint,
            other_step=result.other_step,
            run=np.array(result.run),
            other=np.array(result.other),
            scope=np.array(result.scope),
            from_initialization=np.array(result.from_initialization),
        )

    write_whole(path, write)


def write_cross_csv(path: Path, result: CrossResult) -> None:
    """A row for each checkpoint of the first run: its number, its step, the cosines with each of the other's.

    Distances follow under ``distance:NUMBER``; where there are estimates, standard errors under ``error:NUMBER`` and
    ``distance_error:NUMBER``. Empty where undefined. Raises Problem.
    """
    blocks = {"": result.map, "distance:": result.distance}
    if not result.is_exact:
        blocks |= {"error:": result.error, "distance_error:": result.distance_error}
    numbers = result.other_checkpoint.tolist()

    def write(file: IO[bytes]) -> None:
        lines = io.TextIOWrapper(file, encoding="utf-8", newline="")
        table = csv.writer(lines, lineterminator="\n")
        table.writerow(["checkpoint", "step", *(f"{name}{n}" for name in blocks for n in numbers)])
        for i, (number, step) in enumerate(zip(result.checkpoint, result.step, strict=True)):
            texts = [text for block in blocks.values() for text in _texts(block[i])]
            table.writerow([int(number), int(step), *texts])
        lines.detach()

    write_whole(path, write)


def _texts(row: NDArray[np.float64]) -> list[str]:
    # repr gives the shortest digits that read back as the same float64.
    return ["" if np.isnan(value) else repr(float(value)) for value in row]
