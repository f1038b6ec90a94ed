"""Figures 2, 3 and 4: what momentum and weight decay do to the map, to angles and norms."""

from __future__ import annotations

from benchmarks.paper.digits_figures import draw_curves, draw_row
from benchmarks.paper.digits_sweep import Setting, sweep
from benchmarks.paper.experiment import Experiment, Findings
from benchmarks.paper.switch_off_claims import accuracy_row, angle_rows, cone_rows, mds_row, norm_rows
from benchmarks.paper.training_digits import IMAGENET_PULL, DigitsTraining, matched_weight_decay
from benchmarks.paper.workshop import Workshop
from benchmarks.switch.networks import ResNet

__all__ = ["EXPERIMENT", "SETTINGS"]

CHECKPOINTS, STEPS, RATE = 90, 20, 0.1
_DECAY = matched_weight_decay(IMAGENET_PULL, RATE, CHECKPOINTS * STEPS)


def _setting(name: str, label: str, momentum: float, weight_decay: float) -> Setting:
    training = DigitsTraining(
        network=ResNet(8),
        rate=RATE,
        momentum=momentum,
        weight_decay=weight_decay,
        checkpoints=CHECKPOINTS,
        steps=STEPS,
    )
    return Setting(name, label, training)


SETTINGS = (
    _setting("full", "full", 0.9, _DECAY),
    _setting("no-momentum", "no momentum", 0.0, _DECAY),
    _setting("no-weight-decay", "no weight decay", 0.9, 0.0),
    _setting("neither", "neither", 0.0, 0.0),
)

PANELS = (
    ("update_angle_degrees", "(a) update angle (degrees)"),
    ("apex_angle_initialization_degrees", "(c, d) apex angle at initialization"),
    ("apex_angle_origin_degrees", "(c, d) apex angle at origin"),
    ("mds", "MDS of the run so far"),
    ("parameter_norm", r"(f) $\|\theta_t\|$"),
    ("update_norm", r"(g) $\|\theta_t-\theta_{t-1}\|$"),
    ("distance_from_initialization", r"(h) $\|\theta_t-\theta_0\|$"),
    ("relative_mds", "relative MDS of the run so far"),
)
"""Letters are those of the paper's figure 4, as far as its text names them."""


def run(workshop: Workshop) -> Findings:
    """Four settings, three seeds."""
    outcomes = sweep(workshop, SETTINGS)
    draw_row(workshop.figure("maps"), outcomes)
    draw_curves(workshop.figure("curves"), outcomes, PANELS, outcomes[0].setting.training.drops_at)
    by = {outcome.setting.name: outcome for outcome in outcomes}
    return Findings(
        rows=(mds_row(by), accuracy_row(by), *angle_rows(by), *cone_rows(by), *norm_rows(by)),
        figures=(
            ("maps.png", "Trajectory maps on one scale, seed 0; ω is MDS. Figures 2 and 3 of the paper."),
            (
                "curves.png",
                "Angles and norms: mean of three seeds, bands from smallest to largest; dotted lines where the "
                "learning rate falls. Figure 4 of the paper, whose letters stand in brackets.",
            ),
        ),
    )


EXPERIMENT = Experiment(
    name="switch_off",
    title="Momentum and weight decay switched off",
    minutes=2.5,
    run=run,
    about="A ResNet of three blocks (width 8, batch norms, 20 thousand parameters) on digits under fresh noise, "
    f"which keeps it from memorising them. SGD, learning rate {RATE}, momentum 0.9, a tenth after checkpoints "
    f"30 and 60 of {CHECKPOINTS}: as in the paper. {CHECKPOINTS * STEPS:,} steps of 32 images stand for 450,450. "
    "What weight decay does to a network with batch norms follows from the product of learning rate, weight decay "
    f"and steps, 4.5 in the paper; with weight decay {_DECAY:.3g} it is the same here. Tried besides, with one seed "
    "each: 0.02 and 0.005, with the same order of full, one off and both off. Three seeds.",
)
