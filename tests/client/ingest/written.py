"""Series of checkpoints: in memory and counted, and as files."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from trajmon.checkpoints.base import FoundCheckpoint, TensorInfo
from trajmon.checkpoints.plan import plan_checkpoints
from trajmon.numerics.layout import Dtype, Layout
from trajmon.numerics.views import View

TORCH: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
Shapes = Mapping[str, tuple[tuple[int, ...], Dtype]]
Values = dict[str, NDArray[np.float64]]


class Memory:
    """A checkpoint in memory; counts how often each byte is read."""

    def __init__(self, values: Values, dtypes: Mapping[str, Dtype]) -> None:
        self.path = Path("memory")
        self.skipped: dict[str, str] = {}
        self.step: int | None = None
        self.tensors = {name: TensorInfo(array.shape, dtypes[name]) for name, array in values.items()}
        self.data = {name: as_bytes(array, dtypes[name]) for name, array in values.items()}
        self.reads = {name: np.zeros(len(data), np.int64) for name, data in self.data.items()}
        self._guard = threading.Lock()

    def read(self, name: str, start: int, out: NDArray[np.uint8]) -> None:
        first = start * self.item_bytes(name)
        with self._guard:
            self.reads[name][first : first + len(out)] += 1
        out[:] = self.data[name][first : first + len(out)]

    def item_bytes(self, name: str) -> int:
        return len(self.data[name]) // max(1, self.tensors[name].num_elements)

    def verify_unchanged(self) -> None:
        pass

    def close(self) -> None:
        pass


def as_bytes(array: NDArray[np.float64], dtype: Dtype) -> NDArray[np.uint8]:
    """Little-endian and row-major; rounded as PyTorch rounds."""
    if not array.size:
        return np.empty(0, np.uint8)
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(TORCH[dtype]).contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy().copy()


def walk(shapes: Shapes, count: int, seed: int = 0) -> list[Values]:
    """A random walk with momentum: neighbours are close, as in training."""
    random = np.random.default_rng(seed)
    point = {name: random.standard_normal(shape) for name, (shape, _) in shapes.items()}
    speed = {name: np.zeros(shape) for name, (shape, _) in shapes.items()}
    points = []
    for _ in range(count):
        points.append({name: array.copy() for name, array in point.items()})
        for name, (shape, _) in shapes.items():
            speed[name] = 0.8 * speed[name] + 0.05 * random.standard_normal(shape)
            point[name] += speed[name]
    return points


def in_memory(points: Sequence[Values], shapes: Shapes) -> list[Memory]:
    dtypes = {name: dtype for name, (_, dtype) in shapes.items()}
    return [Memory(values, dtypes) for values in points]


def save_series(folder: Path, points: Sequence[Values], shapes: Shapes, first: int = 0) -> list[Path]:
    """One safetensors file for each point, at steps 0, 10, 20, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, values in enumerate(points, first):
        path = folder / f"step{10 * number}.safetensors"
        tensors = {
            name: torch.from_numpy(values[name].copy()).to(TORCH[dtype])
            for name, (_, dtype) in shapes.items()
        }
        save_file(tensors, path)
        paths.append(path)
    return paths


def found(paths: Sequence[Path]) -> list[FoundCheckpoint]:
    return [FoundCheckpoint(path, 10 * number, path.name) for number, path in enumerate(paths)]


def snapshots_of(
    readers: Sequence[Memory], views: Sequence[View] = ()
) -> tuple[Layout, list[NDArray[np.uint8]]]:
    """The same checkpoints as a live run would have stored them."""
    plan = plan_checkpoints(readers[0], views=views)
    snapshots = []
    for reader in readers:
        snapshots.append(np.zeros(plan.layout.nbytes, np.uint8))
        plan.fill(reader, snapshots[-1])
    return plan.layout, snapshots


def exact(reader: Memory, name: str) -> NDArray[np.float64]:
    """A tensor's stored elements, as float64."""
    if not len(reader.data[name]):
        return np.empty(0)
    tensor = torch.from_numpy(reader.data[name]).view(TORCH[reader.tensors[name].dtype])
    values: NDArray[np.float64] = tensor.double().numpy()
    return values
