"""A real training, recorded here, with six snapshots of sixty: what the estimates are worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

from support.folding import estimated, fold, held, random_signs, with_holes
from trajmon_protos.sketch import default_bins, pair_rate
from trajmon_server.hallmarks import Trajectory, mds, relative_mds, relative_trajectory_map, trajectory_map
from trajmon_server.hallmarks.map_error import map_error
from trajmon_server.hallmarks.relative_error import relative_map_with_error

Array = NDArray[np.float64]
CHECKPOINTS = 60
STEPS = 4
ROUNDING = 2.0**-24


@dataclass(frozen=True)
class Recorded:
    layers: list[Array]
    """[T, n] each, float32 values."""
    sketches: list[Array]
    """[T, W] each, float32 values."""
    rates: Array

    @property
    def gram(self) -> Array:
        return np.stack([layer @ layer.T for layer in self.layers])

    @property
    def sketch_gram(self) -> Array:
        return np.stack([sketch @ sketch.T for sketch in self.sketches])


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recorded]:
    """A perceptron of 0.9 M parameters on handwritten digits: AdamW, warm-up, then a falling learning rate."""
    threads = torch.get_num_threads()
    # Threads that wait for each other crawl on a machine that is busy.
    torch.set_num_threads(1)
    yield train()
    torch.set_num_threads(threads)


def train() -> Recorded:
    torch.manual_seed(4)
    data = load_digits()
    images = torch.tensor(data.images.reshape(-1, 64) / 16 - 0.5, dtype=torch.float32)
    labels = torch.tensor(data.target)
    model = nn.Sequential(
        *(
            nn.Linear(64, 640),
            nn.LayerNorm(640),
            nn.GELU(),
            nn.Linear(640, 640),
            nn.LayerNorm(640),
            nn.GELU(),
        ),
        *(nn.Linear(640, 640), nn.GELU(), nn.Linear(640, 10)),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    points = [[p.detach().numpy().ravel().astype(np.float64) for p in model.parameters()]]
    for checkpoint in range(1, CHECKPOINTS):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(checkpoint / 5, 1.0) * (0.02 + 0.98 * (1 - checkpoint / CHECKPOINTS))
        for _ in range(STEPS):
            batch = torch.randint(len(images), (64,))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        points.append([p.detach().numpy().ravel().astype(np.float64) for p in model.parameters()])
    layers = [np.stack(each) for each in zip(*points, strict=True)]
    numels = [layer.shape[1] for layer in layers]
    bins = default_bins(numels)
    rng = np.random.default_rng(1)
    sketches = [
        fold(layer, random_signs(rng, layer.shape[1]), bins).astype(np.float32).astype(np.float64)
        for layer in layers
    ]
    return Recorded(layers, sketches, np.array([pair_rate(numel, bins) for numel in numels]))


def trajectory(recorded: Recorded, gram: Array, *, start_kept: bool) -> Trajectory:
    """Of the network; without the products that need checkpoint 0, if that was not kept."""
    whole = np.concatenate(recorded.layers, axis=1)
    updates, away = np.diff(whole, axis=0), whole - whole[0]
    update_dot = np.concatenate(([np.nan, np.nan], np.sum(updates[1:] * updates[:-1], axis=1)))
    squared, dot = np.sum(away**2, axis=1), away @ away[1]
    if not start_kept:
        squared[3:], dot[3:] = np.nan, np.nan
    update_squared = np.concatenate(([np.nan], np.sum(updates**2, axis=1)))
    return Trajectory(gram, update_squared, update_dot, squared, dot)


def rms(values: Array) -> float:
    return float(np.sqrt(np.nanmean(np.square(values))))


@pytest.mark.parametrize(("keep", "limits"), [(6, (1e-3, 2e-3, 1e-3)), (2, (2e-3, 2e-2, 2e-3))])
def test_maps_of_a_real_training(recorded: Recorded, keep: int, limits: tuple[float, float, float]) -> None:
    """Six snapshots anchored, and only the last two: rms errors of map, map about the start, and MDS."""
    gram = recorded.gram
    values, errors, _ = estimated(with_holes(gram, keep), recorded.sketch_gram, recorded.rates, ROUNDING)
    exact = trajectory(recorded, gram.sum(axis=0), start_kept=True)
    filled = trajectory(recorded, values.sum(axis=0), start_kept=keep > 2)
    error = np.sqrt(np.square(errors).sum(axis=0))
    holes = error > 0
    off = trajectory_map(filled.gram) - trajectory_map(exact.gram)
    stated = map_error(filled.gram, error)
    about, about_error = relative_map_with_error(
        filled, error, recorded.sketch_gram.sum(axis=0), float(recorded.rates.max())
    )
    about_off = about - relative_trajectory_map(exact)
    assert np.isfinite(about).all()
    numbers = {
        "holes": float(np.mean(holes)),
        "map rms": rms(off),
        "map stated": rms(stated),
        "map within 1.96": float(np.mean(np.abs(off[holes]) <= 1.96 * stated[holes])),
        "relative rms": rms(about_off),
        "relative stated": rms(about_error),
        "relative within 1.96": float(np.mean(np.abs(about_off) <= 1.96 * about_error + 1e-12)),
        "mds off": abs(float(np.mean(off))),
        "relative mds off": abs(float(np.mean(about_off))),
    }
    print(f"keep {keep}:", ", ".join(f"{name} {value:.2g}" for name, value in numbers.items()))
    print(f"MDS {mds(exact):.4f}, relative MDS {relative_mds(exact):.4f}, least cosine {about.min():.3f}")
    assert numbers["map rms"] <= limits[0]
    assert numbers["relative rms"] <= limits[1]
    assert numbers["mds off"] <= limits[2]
    # No claim is bolder than the truth, on this one run; errors of one run belong together.
    assert numbers["map rms"] <= 2 * numbers["map stated"]
    assert numbers["relative rms"] <= 2 * numbers["relative stated"]


def test_storage(recorded: Recorded) -> None:
    kept = [number for number in held(CHECKPOINTS, 6) if number < CHECKPOINTS]
    assert kept == [0, 16, 32, 48, 58, 59]
    snapshot = 4 * sum(layer.shape[1] for layer in recorded.layers)
    sketch = 4 * sum(sketch.shape[1] for sketch in recorded.sketches)
    share = (len(kept) * snapshot + CHECKPOINTS * sketch) / (CHECKPOINTS * snapshot)
    print(f"six snapshots and all sketches: {share:.1%} of all snapshots")
    assert share <= 0.15
