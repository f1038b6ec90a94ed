"""Appendix E: the larger the learning rate, the lower MDS."""

from __future__ import annotations

from benchmarks.paper.digits_figures import draw_sweep
from benchmarks.paper.digits_sweep import Setting, mds_row, sweep
from benchmarks.paper.experiment import Experiment, Findings
from benchmarks.paper.training_digits import CIFAR_PULL, DigitsTraining, matched_weight_decay
from benchmarks.paper.workshop import Workshop
from benchmarks.switch.networks import ResNet

__all__ = ["EXPERIMENT", "SETTINGS"]

RATES = (0.025, 0.05, 0.1, 0.2)
CHECKPOINTS, STEPS = 40, 25

SETTINGS = tuple(
    Setting(
        f"rate-{rate:g}",
        f"learning rate {rate:g}",
        DigitsTraining(
            network=ResNet(8),
            rate=rate,
            weight_decay=matched_weight_decay(CIFAR_PULL, 0.1, CHECKPOINTS * STEPS),
            checkpoints=CHECKPOINTS,
            steps=STEPS,
            drops=(1 / 2, 3 / 4),
        ),
    )
    for rate in RATES
)


def run(workshop: Workshop) -> Findings:
    """Four rates, three seeds."""
    outcomes = sweep(workshop, SETTINGS)
    draw_sweep(workshop.figure("maps"), outcomes, "peak learning rate", RATES, logarithmic=True)
    return Findings(
        rows=(
            mds_row(
                outcomes,
                "falls",
                claim="A larger learning rate lets the direction explore more: MDS falls.",
                source="appendix E",
                paper="said in words",
                differs="A small ResNet on 8 x 8 digits; the paper: VGG16 on CIFAR-10, at 0.1 and 0.01 (E.5 to E.8).",
            ),
        ),
        figures=(
            (
                "maps.png",
                "Trajectory maps for growing learning rates, seed 0, and MDS over all seeds (bars: smallest and "
                "largest).",
            ),
        ),
    )


EXPERIMENT = Experiment(
    name="learning_rate",
    title="Learning rate",
    minutes=1.0,
    run=run,
    about="A ResNet of three blocks (width 8, batch norms) on digits under noise. SGD, momentum 0.9, weight decay "
    f"{SETTINGS[0].training.weight_decay:.2g}, the learning rate a tenth after a half and after three quarters of "
    f"the run; {CHECKPOINTS * STEPS} steps of 32 images, {CHECKPOINTS} checkpoints beside the initialization. Three "
    "seeds.",
)
