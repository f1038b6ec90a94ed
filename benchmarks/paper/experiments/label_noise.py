"""Figure 68: the more labels are wrong, the lower MDS."""

from __future__ import annotations

from benchmarks.paper.digits_figures import draw_sweep
from benchmarks.paper.digits_sweep import Setting, mds_row, mean_and_range, sweep
from benchmarks.paper.experiment import Experiment, Findings
from benchmarks.paper.training_digits import DigitsTraining
from benchmarks.paper.workshop import Workshop
from benchmarks.switch.networks import PlainConv

__all__ = ["EXPERIMENT", "SETTINGS"]

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)

SETTINGS = tuple(
    Setting(
        f"wrong-{round(100 * share)}",
        f"{100 * share:.0f} % of labels random",
        DigitsTraining(
            network=PlainConv(16, norm="batch"),
            rate=0.05,
            checkpoints=40,
            steps=40,
            drops=(1 / 2, 3 / 4),
            noise=0.0,
            wrong_labels=share,
        ),
    )
    for share in SHARES
)


def run(workshop: Workshop) -> Findings:
    """Five shares, three seeds."""
    outcomes = sweep(workshop, SETTINGS)
    shares = [100 * share for share in SHARES]
    draw_sweep(workshop.figure("maps"), outcomes, "labels drawn by chance (%)", shares)
    losses = "; ".join(
        f"{100 * share:.0f} %: {mean_and_range([one.results['loss'] for one in outcome.recorded], 4)}"
        for share, outcome in zip(SHARES, outcomes, strict=True)
    )
    return Findings(
        rows=(
            mds_row(
                outcomes,
                "falls",
                claim="MDS falls monotonically as more labels are random.",
                source="figure 68, appendix E.10",
                paper="falls monotonically (no number is printed)",
                differs="A network of four convolutions with batch norms on 8 x 8 digits in place of a CNN on "
                "CIFAR-10. The paper does not print its shares.",
            ),
        ),
        figures=(
            (
                "maps.png",
                "Trajectory maps for growing shares of random labels, seed 0, and MDS over all seeds (bars: "
                "smallest and largest). Figure 68 of the paper.",
            ),
        ),
        notes=(
            "The network has to fit the labels for the claim to mean anything. Training loss at the end, nats: "
            f"{losses}. By chance it would be 2.3.",
        ),
    )


EXPERIMENT = Experiment(
    name="label_noise",
    title="Label noise",
    minutes=1.6,
    run=run,
    about="Four convolutions with batch norms (`PlainConv` of benchmarks/switch, width 16) on digits without noise "
    "on the images, so that they can be memorised. SGD, momentum 0.9, no weight decay, learning rate 0.05, a "
    "tenth after a half and after three quarters of the run; 1,600 steps of 32 images, 40 checkpoints beside the "
    "initialization. A share of the training images has labels that are drawn from all ten, once. Three seeds.",
)
