"""Appendix C: the trajectory map of a Gaussian random walk, and how far a training is from one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from benchmarks.paper.drawing import draw_maps, scale_of
from benchmarks.paper.experiment import Experiment, Findings, Row, verdict_of
from benchmarks.paper.workshop import Watch, Workshop
from numpy.typing import NDArray
from torch import nn

from trajmon.demo.training import Training

__all__ = ["EXPERIMENT", "map_of_walk", "step_sizes", "walk"]

Floats = NDArray[np.float64]

PARAMETERS = 10_000
STEPS = 90
DECAYS_AT = (30, 60)
SEEDS = (0, 1, 2)
EPOCHS = 60
WALK_DEVIATIONS = 5.0
"""So many standard errors an entry of a walk's map may lie off its limit: the largest of 4005 lies about 4 off."""


def step_sizes(*, decay: bool) -> Floats:
    """η_1 … η_T: a tenth after 30 and after 60 steps, as for the paper's ResNet50, or all equal."""
    sizes = np.full(STEPS, 0.1)
    if decay:
        for at in DECAYS_AT:
            sizes[at:] /= 10
    return sizes


def map_of_walk(sizes: Floats) -> Floats:
    """√(H_s / H_t) for s ≤ t, H_u = Σ_{t ≤ u} η_t²: [T, T], the limit of many parameters."""
    lengths = np.cumsum(sizes**2)
    shorter, longer = np.minimum.outer(lengths, lengths), np.maximum.outer(lengths, lengths)
    entries: Floats = np.sqrt(shorter / longer)
    return entries


def walk(watch: Watch, *, decay: bool, seed: int, parameters: int = PARAMETERS) -> dict[str, float]:
    """Record a random walk: one parameter vector that is moved by Gaussian steps."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Module()
    model.point = nn.Parameter(torch.randn(parameters, generator=generator, dtype=torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with watch(model, optimizer=optimizer) as recorder:
        for step, size in enumerate(step_sizes(decay=decay), start=1):
            optimizer.param_groups[0]["lr"] = float(size)
            # A gradient of noise: what SGD subtracts is Gaussian too.
            model.point.grad = torch.randn(parameters, generator=generator, dtype=torch.float64)
            optimizer.step()
            recorder.checkpoint(step=step)
    return {"norm": float(model.point.detach().norm())}


def learn(watch: Watch, *, seed: int, epochs: int = EPOCHS) -> dict[str, float]:
    """Record a real training: a small ResNet, SGD with momentum and weight decay, the learning rate in three steps."""
    training = Training(epochs, seed=seed)
    accuracy = 0.0
    with watch(training.model, optimizer=training.optimizer) as recorder:
        for epoch in training.run():
            accuracy = epoch.accuracy
            recorder.checkpoint(step=epoch.step, epoch=epoch.number, metrics={"accuracy": accuracy})
    return {"accuracy": accuracy}


def _worst(entries: Floats, limit: Floats) -> float:
    """Largest deviation of an entry from its limit, in standard errors (1 − ρ²) / √p of a cosine."""
    above = np.triu_indices(len(entries), k=1)
    errors = (1 - limit[above] ** 2) / np.sqrt(PARAMETERS)
    return float(np.max(np.abs(entries[above] - limit[above]) / errors))


def _range(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _walk_row(source: str, decay: bool, found: Sequence[Floats], limit: Floats) -> Row:
    worst = max(_worst(entries, limit) for entries in found)
    rms = float(np.sqrt(np.mean([(entries - limit) ** 2 for entries in found])))
    means = [float(entries.mean()) for entries in found]
    kind = "with step size decay" if decay else "without step size decay"
    return Row(
        claim=f"The relative map of a random walk of {PARAMETERS:,} parameters, {kind}, is √(H_s/H_t).",
        source=source,
        paper="the two maps look alike (no number is printed)",
        ours=f"recorded and analytic maps differ by {rms:.4f} rms, and by at most {worst:.1f} standard errors; "
        f"relative MDS {_range(means)}, analytic {limit.mean():.3f}",
        verdict=verdict_of([_worst(entries, limit) <= WALK_DEVIATIONS for entries in found]),
        differs=f"{len(SEEDS)} walks instead of one."
        + (" The factor of each decay is 10, as for the paper's ResNet50." if decay else ""),
    )


def run(workshop: Workshop) -> Findings:
    """Six walks and three trainings."""
    walks: dict[bool, list[Floats]] = {True: [], False: []}
    trained: list[tuple[Floats, Floats, float]] = []
    with workshop.progress("walks and trainings", 3 * len(SEEDS)) as progress:
        for seed in SEEDS:
            for decay in (True, False):
                recorded = workshop.record(
                    f"{'decay' if decay else 'constant'}-{seed}",
                    lambda watch, decay=decay, seed=seed: walk(watch, decay=decay, seed=seed),  # type: ignore[misc]
                    recipe={
                        "parameters": PARAMETERS,
                        "sizes": step_sizes(decay=decay).tolist(),
                        "seed": seed,
                    },
                )
                walks[decay].append(recorded.run.map(relative_to=0).values)
                progress.advance()
            recorded = workshop.record(
                f"training-{seed}",
                lambda watch, seed=seed: learn(watch, seed=seed),  # type: ignore[misc]
                recipe={"epochs": EPOCHS, "seed": seed},
            )
            rates = recorded.run.checkpoints.learning_rate.values[1:]
            trained.append(
                (
                    recorded.run.map(relative_to=0).values,
                    map_of_walk(rates),
                    recorded.results["accuracy"],
                )
            )
            progress.advance()
    limits = {decay: map_of_walk(step_sizes(decay=decay)) for decay in (True, False)}
    _draw(workshop, walks, limits, trained[0])
    return Findings(
        rows=(
            _walk_row("figure 11", True, walks[True], limits[True]),
            _walk_row("figure 13", False, walks[False], limits[False]),
            _training_row(trained),
        ),
        figures=(
            (
                "walk.png",
                "Relative maps about the initialization of a random walk of 10,000 parameters, as recorded and in "
                "the limit of many parameters; ω_0 is the mean of the map. Figures 11 and 13 of the paper.",
            ),
            (
                "training.png",
                "Left: relative map of a small ResNet on digits. Right: of a random walk with the same learning rates, "
                "one step an epoch. Figure 12 of the paper beside figure 11.",
            ),
        ),
    )


def _training_row(trained: Sequence[tuple[Floats, Floats, float]]) -> Row:
    ours = [float(entries.mean()) for entries, _, _ in trained]
    null = float(trained[0][1].mean())
    above = [
        float(np.mean((entries > limit)[~np.eye(len(entries), dtype=bool)])) for entries, limit, _ in trained
    ]
    return Row(
        claim="The relative map of a training shows more directional redundancy than that of a random walk with "
        "the same schedule.",
        source="figures 11 and 12",
        paper="seen in the maps (no number is printed)",
        ours=f"relative MDS {_range(ours)}, of the random walk {null:.3f}; "
        f"{100 * np.mean(above):.0f} % of the entries beside the diagonal lie over the walk's",
        verdict=verdict_of([value > null for value in ours]),
        differs=f"A small ResNet on digits, {EPOCHS} epochs, in place of ResNet50 on ImageNet: momentum 0.9, weight "
        f"decay 5e-4, learning rate 0.05 with two decays to a tenth; accuracy {_range([one[2] for one in trained])}.",
    )


def _draw(
    workshop: Workshop,
    walks: dict[bool, list[Floats]],
    limits: dict[bool, Floats],
    trained: tuple[Floats, Floats, float],
) -> None:
    maps = []
    for decay, words in ((True, "decay"), (False, "no decay")):
        for entries, kind in ((walks[decay][0], "recorded"), (limits[decay], "analytic")):
            maps.append((f"{words}, {kind}\nω₀ = {entries.mean():.3f}", entries))
    draw_maps(workshop.figure("walk"), maps, first=1)
    entries, limit, _ = trained
    draw_maps(
        workshop.figure("training"),
        [
            (f"training\nω₀ = {entries.mean():.3f}", entries),
            (f"random walk\nω₀ = {limit.mean():.3f}", limit),
        ],
        scale=scale_of([entries, limit]),
        size_inches=2.6,
        first=1,
    )


EXPERIMENT = Experiment(
    name="random_walk",
    title="Random walks, and how far a training is from one",
    minutes=1.5,
    run=run,
    about=f"A vector of {PARAMETERS:,} parameters is moved by Gaussian steps and recorded after each of {STEPS}, with "
    f"the step size a tenth after 30 and after 60 of them, and without. Beside it a real training: the ResNet of "
    f"`trajmon demo` on scikit-learn's digits, {EPOCHS} epochs, a checkpoint after each.",
)
