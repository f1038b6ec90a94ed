"""Section 3: two initialisations of ResNet50 are not orthogonal, because norm scales start at one."""

from __future__ import annotations

import torch
from benchmarks.paper.experiment import Experiment, Findings, Row, verdict_of
from benchmarks.paper.workshop import Watch, Workshop
from torch import nn

__all__ = ["EXPERIMENT", "Bottlenecks", "draw_twice"]

PAPER = 0.374
NEAR = 0.02
SEEDS = (0, 1)
BLOCKS = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Width and number of the bottleneck blocks in each stage of ResNet50."""


class Bottlenecks(nn.Module):
    """The parameters of a ResNet with bottleneck blocks, initialised as usual; there is no forward pass.

    Convolutions: normal, standard deviation √(2 / fan out), which is He's; norm scales one, offsets zero; the last
    layer as PyTorch has it.
    """

    def __init__(
        self, blocks: tuple[tuple[int, int], ...] = BLOCKS, stem: int = 64, classes: int = 1000
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        self._add(3, stem, 7)
        channels = stem
        for width, count in blocks:
            for number in range(count):
                self._add(channels, width, 1)
                self._add(width, width, 3)
                self._add(width, 4 * width, 1)
                if number == 0:
                    self._add(channels, 4 * width, 1)
                channels = 4 * width
        self.head = nn.Linear(channels, classes)

    def _add(self, inputs: int, outputs: int, size: int) -> None:
        convolution = nn.Conv2d(inputs, outputs, size, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.convolutions.append(convolution)
        self.norms.append(nn.BatchNorm2d(outputs))


def draw_twice(
    watch: Watch, seed: int, blocks: tuple[tuple[int, int], ...] = BLOCKS, stem: int = 64
) -> dict[str, float]:
    """Record one initialisation as checkpoint 0 and another one, independent of it, as checkpoint 1."""
    torch.manual_seed(2 * seed)
    model = Bottlenecks(blocks, stem)
    with watch(model, family=None) as recorder:
        torch.manual_seed(2 * seed + 1)
        model.load_state_dict(Bottlenecks(blocks, stem).state_dict())
        recorder.checkpoint(step=1)
    return {"parameters": float(sum(one.numel() for one in model.parameters()))}


def run(workshop: Workshop) -> Findings:
    """Two pairs of initialisations."""
    whole, without, sizes = list[float](), list[float](), list[float]()
    with workshop.progress("pairs of initialisations", len(SEEDS)) as progress:
        for seed in SEEDS:
            recorded = workshop.record(
                f"pair-{seed}",
                lambda watch, seed=seed: draw_twice(watch, seed),  # type: ignore[misc]
                recipe={"blocks": BLOCKS, "seed": seed},
            )
            whole.append(float(recorded.run.map().values[0, 1]))
            without.append(float(recorded.run.map("group:non_norm").values[0, 1]))
            sizes.append(recorded.results["parameters"])
            progress.advance()
    numbers, others = (
        " and ".join(f"{round(value, 3) + 0.0:.3f}" for value in found) for found in (whole, without)
    )
    return Findings(
        rows=(
            Row(
                claim="Two random initialisations of ResNet50 have a cosine far from zero, because norm scales start "
                "at one.",
                source="section 3, footnote 4",
                paper=f"{PAPER}",
                ours=f"{numbers}; without the norm scales {others}",
                verdict=verdict_of(
                    [
                        abs(one - PAPER) < NEAR and abs(other) < NEAR
                        for one, other in zip(whole, without, strict=True)
                    ]
                ),
                differs=f"ResNet50's {sizes[0] / 1e6:.1f} million parameters, drawn as in He's scheme. The paper "
                "does not say which scheme it takes; where the rest comes from was not examined.",
            ),
        )
    )


EXPERIMENT = Experiment(
    name="initialization",
    title="Two initialisations",
    minutes=0.3,
    run=run,
    about="Two independent initialisations of ResNet50, recorded as two checkpoints of one run, twice. "
    "Nothing is trained.",
)
