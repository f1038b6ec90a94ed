"""Figure 63: larger batches, the learning rate in proportion, equally many steps: MDS falls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from benchmarks.paper.digits_figures import draw_sweep
from benchmarks.paper.digits_sweep import Outcome, Setting, mds_row, mean_and_range, sweep
from benchmarks.paper.experiment import Experiment, Findings, Row, verdict_of
from benchmarks.paper.training_digits import CIFAR_PULL, DigitsTraining, matched_weight_decay
from benchmarks.paper.workshop import Workshop
from benchmarks.switch.networks import PlainConv

__all__ = ["EXPERIMENT", "SETTINGS"]

BATCHES = (16, 32, 64, 128)
RATE, AT_BATCH = 0.1, 64
CHECKPOINTS, STEPS = 40, 25

SETTINGS = tuple(
    Setting(
        f"batch-{batch}",
        f"batch {batch}, rate {RATE * batch / AT_BATCH:g}",
        DigitsTraining(
            network=PlainConv(8, norm="batch"),
            rate=RATE * batch / AT_BATCH,
            weight_decay=matched_weight_decay(CIFAR_PULL, RATE, CHECKPOINTS * STEPS),
            batch=batch,
            checkpoints=CHECKPOINTS,
            steps=STEPS,
            drops=(1 / 2, 3 / 4),
        ),
    )
    for batch in BATCHES
)


def run(workshop: Workshop) -> Findings:
    """Four sizes, three seeds."""
    outcomes = sweep(workshop, SETTINGS)
    draw_sweep(workshop.figure("maps"), outcomes, "batch size", BATCHES, logarithmic=True)
    return Findings(
        rows=(
            mds_row(
                outcomes,
                "falls",
                claim="MDS falls as the batch grows, with the learning rate in proportion and equally many steps.",
                source="figure 63",
                paper="0.753, 0.723, 0.660, 0.619",
                differs="A network of four convolutions with batch norms on 8 x 8 digits in place of VGG16 on "
                "CIFAR-10. The paper does not print its batch sizes; these double.",
            ),
            _accuracy_row(outcomes),
        ),
        figures=(
            (
                "maps.png",
                "Trajectory maps for growing batches, seed 0, and MDS over all seeds (bars: smallest and largest). "
                "Figure 63 of the paper.",
            ),
        ),
    )


def _accuracy_row(outcomes: Sequence[Outcome]) -> Row:
    means = [float(np.mean(outcome.accuracy)) for outcome in outcomes]
    return Row(
        claim="The larger batches end with a higher test accuracy than the smallest.",
        source="figure 63",
        paper="91.63, 91.82, 92.44, 92.39 %",
        ours="; ".join(f"{one.setting.label}: {mean_and_range(one.accuracy, 1)}" for one in outcomes),
        verdict=verdict_of([mean > means[0] for mean in means[1:]]),
        differs="As above. Equally many steps of a larger batch see more images.",
    )


EXPERIMENT = Experiment(
    name="batch_size",
    title="Batch size",
    minutes=0.8,
    run=run,
    about="Four convolutions with batch norms (`PlainConv` of benchmarks/switch) on digits under noise. SGD, "
    f"momentum 0.9, learning rate {RATE} at a batch of {AT_BATCH} and in proportion for the others, a tenth after a "
    f"half and after three quarters of the run; {CHECKPOINTS * STEPS} steps and {CHECKPOINTS} checkpoints beside the "
    f"initialization, whatever the batch. Weight decay {SETTINGS[0].training.weight_decay:.2g}: at learning rate "
    f"{RATE}, learning rate × weight decay × steps is that of 160 epochs on CIFAR-10 with weight decay 1e-4. Three "
    "seeds.",
)
