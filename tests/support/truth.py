"""What must be on the server, computed from the parameters themselves, and what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajmon.agent.rows import RowMaker
from trajmon.rundir import RunDescription, RunDir
from trajmon.snapshots.store import SnapshotStore
from trajmon_protos.record import Row, decode, encode

RELATIVE = 1e-13
"""Of the product of the two norms: what a sum in float64 may be off."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Parameters of one training at the steps of its checkpoints."""

    values: Mapping[str, NDArray[np.float64]]
    """Layer -> [T, parameters], in layout order."""
    place: Mapping[int, int]
    """Step -> place in T."""

    @classmethod
    def of(cls, layers: Mapping[str, NDArray[np.float64]], steps: Sequence[int]) -> Truth:
        """From arrays [T, ...]."""
        values = {name: array.reshape(len(steps), -1) for name, array in layers.items()}
        return cls(values, {step: place for place, step in enumerate(steps)})

    @classmethod
    def load(cls, kept: Path) -> Truth:
        """What a training kept."""
        with np.load(kept) as file:
            layers = {name: file[name] for name in file.files if name != "step"}
            return cls.of(layers, [int(step) for step in file["step"]])

    def at(self, steps: Sequence[int], layers: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Parameters of some layers side by side, [steps, parameters]; of all layers by default."""
        places = [self.place[step] for step in steps]
        return np.concatenate([self.values[name][places] for name in layers or self.values], axis=1)

    def assert_gram(
        self,
        gram: NDArray[np.float64],
        steps: Sequence[int],
        layers: Sequence[str] | None = None,
        relative: float = RELATIVE,
    ) -> None:
        """A Gram [steps, steps] is that of the parameters."""
        flat = self.at(steps, layers)
        assert_products(gram, flat @ flat.T, flat, flat, relative)

    def assert_row(self, row: Row, steps: Sequence[int], path: Sequence[int]) -> None:
        """A row is that of the parameters. `steps`: of all checkpoints up to it; `path`: the numbers on its path."""
        number = row.header.checkpoint
        for index, name in enumerate(self.values):
            theta = self.at(steps, [name])
            own = theta[number : number + 1]
            assert_products(row.gram[index][None], own @ theta.T, own, theta)
            moved = own[0] - theta[0]
            first = theta[path[1]] - theta[0] if len(path) > 1 else moved
            expected = [np.nan, np.nan, moved @ moved, moved @ first]
            if len(path) > 1:
                update = own[0] - theta[path[-2]]
                expected[0] = update @ update
            if len(path) > 2:
                expected[1] = update @ (theta[path[-2]] - theta[path[-3]])
            scale = float(own[0] @ own[0]) * 1e-12
            np.testing.assert_allclose(row.products[index], np.array(expected), rtol=1e-11, atol=scale)


def assert_products(
    seen: NDArray[np.float64],
    expected: NDArray[np.float64],
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    relative: float = RELATIVE,
) -> None:
    """Inner products agree to `relative` of the norms."""
    norms = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
    assert seen.shape == expected.shape
    worst = np.max(np.abs(seen - expected) / np.maximum(norms, np.finfo(float).tiny), initial=0.0)
    assert worst <= relative, f"off by {worst:.2e} of the norms"


def rows_in_journal(data_dir: Path, run_id: str) -> list[Row]:
    """Every row of a run, each there once, without a gap, and with the checksum that it came with."""
    files = sorted((data_dir / "journal" / run_id / "rows").iterdir())
    assert [file.name for file in files] == [f"{number:08d}.0000.row" for number in range(len(files))]
    return [decode(file.read_bytes()) for file in files]


def path_of(rows: Sequence[Row]) -> list[int]:
    """Numbers of the checkpoints on the path that ends in the last row."""
    path = [len(rows) - 1]
    while path[-1] > 0:
        path.append(rows[path[-1]].header.previous)
    return path[::-1]


def assert_journal(data_dir: Path, run_dir: RunDir, truth: Truth) -> list[Row]:
    """The server has the whole run: row by row what its snapshots and the training's own parameters give."""
    run = RunDescription.read(run_dir)
    rows = rows_in_journal(data_dir, run.run_id)
    store = SnapshotStore(run_dir.snapshots, run.layout.fingerprint, run.layout.nbytes, writer="test")
    assert store.numbers() == list(range(len(rows)))
    assert run_dir.acked() == len(rows)
    assert [layer.name for layer in run.layout.layers] == list(truth.values)
    maker = RowMaker(run_dir, run, store, threads=1)
    steps = [row.header.info.step for row in rows]
    for number, row in enumerate(rows):
        assert encode(row) == maker.make(number)
        assert row.header.run_id == run.run_id
        assert not row.status.any()
        truth.assert_row(row, steps[: number + 1], path_of(rows[: number + 1]))
    return rows
