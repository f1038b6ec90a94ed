"""The quadratics of Lemma 1: their descent under watch, and what the lemma's proof says of each pair of updates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from benchmarks.paper.workshop import Recorded, Watch
from numpy.typing import NDArray
from torch import nn

__all__ = [
    "ALPHA",
    "DECAY_AT",
    "DIMENSION",
    "LARGEST",
    "LARGE_ALPHA",
    "MOMENTUM",
    "ROUNDING",
    "SEEDS",
    "SHARPNESS",
    "SPECTRA",
    "STEPS",
    "Floats",
    "Momentum",
    "Pair",
    "Problem",
    "Spectrum",
    "pairs",
    "pairs_in_theory",
    "problems",
    "spectrum",
    "train",
]

DIMENSION = 400
LARGEST = 20.0
"""Largest eigenvalue of M: 2 / η for the usual learning rate of 0.1."""
SHARPNESS = (0.3, 0.9, 1.5, 1.98)
"""η λ_1; gradient descent is stable below 2."""
MOMENTUM = 0.9
ALPHA, LARGE_ALPHA = 0.1, 1.0
STEPS = 16
DECAY_AT = 8
"""From this step on the learning rate is a tenth."""
SEEDS = (0, 1, 2)
ROUNDING = 1e-9
"""Of a recorded cosine."""

Floats = NDArray[np.float64]
Spectrum = Literal["degenerate", "spread"]
Momentum = Literal["none", "lemma", "optimizer"]
SPECTRA: tuple[Spectrum, ...] = ("degenerate", "spread")


@dataclass(frozen=True, slots=True)
class Problem:
    """One quadratic, and how it is descended: a layer of the recorded model."""

    spectrum: Spectrum
    """`degenerate`: nine tenths of the eigenvalues are zero; `spread`: none is under a twentieth of the largest."""
    sharpness: float
    """η λ_1 before the decay."""
    momentum: Momentum
    """`lemma`: with the sign of the lemma's proof; `optimizer`: with that of heavy ball and `torch.optim.SGD`."""
    alpha: float
    """Strength of the ℓ2 regularization."""

    @property
    def name(self) -> str:
        """Of its layer."""
        digits = f"{round(100 * self.sharpness):03}_{self.momentum}_{round(10 * self.alpha):02}"
        return f"{self.spectrum}_{digits}"

    def rate(self, step: int) -> float:
        """η of a step, counted from 1."""
        return self.sharpness / LARGEST * (0.1 if step > DECAY_AT else 1.0)


def problems() -> list[Problem]:
    """All of them."""
    variants: tuple[tuple[Momentum, float], ...] = (
        ("none", ALPHA),
        ("lemma", ALPHA),
        ("optimizer", ALPHA),
        ("none", 0.0),
        ("none", LARGE_ALPHA),
    )
    return [
        Problem(shape, sharpness, momentum, alpha)
        for shape in SPECTRA
        for sharpness in SHARPNESS
        for momentum, alpha in variants
    ]


def spectrum(shape: Spectrum, seed: int) -> Floats:
    """Eigenvalues of M, largest first, [d]. M is diagonal: cosines do not know of rotations."""
    generator = np.random.default_rng(1000 + seed)
    if shape == "spread":
        values = generator.uniform(0.05, 1.0, DIMENSION)
    else:
        values = np.zeros(DIMENSION)
        values[: DIMENSION // 10] = 10 ** generator.uniform(-2.0, 0.0, DIMENSION // 10)
    values *= LARGEST / values.max()
    return np.sort(values)[::-1]


def train(watch: Watch, seed: int) -> dict[str, float]:
    """Descend all problems from one point, beside each other; a checkpoint after every step."""
    start = np.random.default_rng(seed).normal(size=DIMENSION)
    model = nn.Module()
    model.point = nn.ParameterDict(
        {one.name: nn.Parameter(torch.from_numpy(start.copy())) for one in problems()}
    )
    eigenvalues = {shape: torch.from_numpy(spectrum(shape, seed).copy()) for shape in SPECTRA}
    last_gradient: dict[str, torch.Tensor] = {}
    with watch(model, family=None) as recorder, torch.no_grad():
        for step in range(1, STEPS + 1):
            for one in problems():
                point = model.point[one.name]
                gradient = (eigenvalues[one.spectrum] + one.alpha) * point
                direction = gradient.clone()
                # "One-step momentum": the buffer is emptied after every two steps.
                if step % 2 == 0 and one.momentum == "lemma":
                    direction -= MOMENTUM * one.rate(step - 1) * last_gradient[one.name]
                elif step % 2 == 0 and one.momentum == "optimizer":
                    direction += MOMENTUM * last_gradient[one.name]
                last_gradient[one.name] = gradient
                point -= one.rate(step) * direction
            recorder.checkpoint(step=step)
    return {"norm": float(sum(point.detach().norm() for point in model.point.values()))}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two successive updates, Δ_t and Δ_t+1, of one problem."""

    problem: Problem
    step: int
    """t, from 1."""
    cosine: float
    """Recorded."""
    product: float
    """Recorded."""
    cosine_in_theory: float
    cosine_of_steep: float
    """The same over the directions in which M is not zero."""
    unit: float
    """η_t η_t+1 ‖θ_t−1‖², the norm recorded: the lemma bounds the product in units of it."""
    z: Floats
    """[d] eigenvalues of the lemma's Z, for the momentum that the problem has; in the order of M's."""

    @property
    def is_in_range(self) -> bool:
        """Whether the learning rate is at least 1 / (λ_1 + μ + α), where the paper applies the lemma."""
        one = self.problem
        momentum = 0.0 if one.momentum == "none" else MOMENTUM
        return one.rate(self.step) >= 1 / (LARGEST + momentum + one.alpha)


def factor_of_z(one: Problem, rate: float) -> float:
    """The first term of (… − η x) x², which is what an eigenvalue x of M + αI becomes in Z."""
    return {"none": 1.0, "lemma": 1.0 - MOMENTUM * rate, "optimizer": 1.0 + MOMENTUM}[one.momentum]


def pairs_in_theory(one: Problem, seed: int) -> Iterator[tuple[int, Floats, Floats, Floats]]:
    """For each pair of updates that the lemma speaks of: t, Δ_t, Δ_t+1, and the eigenvalues of Z.

    Without momentum these are all t; with it the odd ones, since the buffer is emptied after every two steps.
    """
    x = spectrum(one.spectrum, seed) + one.alpha
    point = np.random.default_rng(seed).normal(size=DIMENSION)
    for step in range(1, STEPS):
        rate, next_rate = one.rate(step), one.rate(step + 1)
        factor = factor_of_z(one, rate)
        first, second = -rate * x * point, -next_rate * (factor - rate * x) * x * point
        if one.momentum == "none" or step % 2 == 1:
            yield step, first, second, (factor - rate * x) * x**2
            point = point + first
            if one.momentum != "none":
                point = point + second


def pairs(recorded: Recorded, seed: int) -> list[Pair]:
    """What was recorded beside what the lemma's proof says, for all problems of a run."""
    found = []
    for one in problems():
        hallmarks = recorded.run.hallmarks(f"layer:point.{one.name}")
        norms, lengths = hallmarks.parameter_norm.values, hallmarks.update_norm.values
        cosines = hallmarks.update_cosine_lag1.values
        steep = spectrum(one.spectrum, seed) > 0
        for step, first, second, z in pairs_in_theory(one, seed):
            scale = lengths[step] * lengths[step + 1]
            found.append(
                Pair(
                    problem=one,
                    step=step,
                    cosine=float(cosines[step + 1]),
                    product=float(cosines[step + 1] * scale),
                    cosine_in_theory=_cosine(first, second),
                    cosine_of_steep=_cosine(first[steep], second[steep]),
                    unit=float(one.rate(step) * one.rate(step + 1) * norms[step - 1] ** 2),
                    z=z,
                )
            )
    return found


def _cosine(one: Floats, other: Floats) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
