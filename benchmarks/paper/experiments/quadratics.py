"""Lemma 1: the inner product of successive updates on a quadratic, its bounds, and what momentum does to it."""

from __future__ import annotations

from typing import Any

import numpy as np
from benchmarks.paper.drawing import COLORS, STYLE, save_png
from benchmarks.paper.experiment import Experiment, Findings, Row, verdict_of
from benchmarks.paper.lemma import (
    ALPHA,
    DECAY_AT,
    DIMENSION,
    LARGE_ALPHA,
    LARGEST,
    MOMENTUM,
    ROUNDING,
    SEEDS,
    SHARPNESS,
    SPECTRA,
    STEPS,
    Floats,
    Momentum,
    Pair,
    Problem,
    pairs,
    problems,
    train,
)
from benchmarks.paper.workshop import Workshop
from matplotlib import rc_context
from matplotlib.figure import Figure

__all__ = ["EXPERIMENT"]

MOMENTA: tuple[Momentum, ...] = ("none", "lemma", "optimizer")
WORDS = {"none": "no momentum", "lemma": "μ as in the proof", "optimizer": "μ as in SGD"}
SPECTRUM_WORDS = {"degenerate": "degenerate", "spread": "full rank"}


def identity_row(found: list[Pair]) -> Row:
    """The equation that the proof ends in."""
    error = max(abs(one.cosine - one.cosine_in_theory) for one in found)
    return Row(
        claim="The inner product of successive updates is η_t η_{t+1} ⟨θ_{t−1}, Z θ_{t−1}⟩, "
        "Z = (M + αI)((1 − μη_t − αη_t)I − η_t M)(M + αI).",
        source="Lemma 1, proof (Appendix A)",
        paper="an equation",
        ours=f"cosines of recorded updates differ from it by at most {error:.0e}, over {len(found)} pairs of updates",
        verdict=verdict_of([error <= ROUNDING]),
        differs="Nothing: quadratics of the lemma, 400 dimensions, float64.",
    )


def _within(pair: Pair, low: float, high: float) -> bool:
    room = ROUNDING * pair.unit * float(np.abs(pair.z).max())
    return pair.unit * low - room <= pair.product <= pair.unit * high + room


def bound_rows(found: list[Pair]) -> list[Row]:
    """The lemma's two bounds, where the paper uses them and everywhere."""
    meant = [one for one in found if one.problem.momentum != "optimizer"]
    used = [_within(one, float(one.z[0]), np.inf) for one in meant if one.is_in_range]
    stated = [_within(one, float(one.z[0]), float(one.z[-1])) for one in meant]
    upper = [_within(one, -np.inf, float(one.z[-1])) for one in meant]
    mended = [_within(one, float(one.z.min()), float(one.z.max())) for one in meant]
    return [
        Row(
            claim="The lower bound, at λ_1, for learning rates of at least 1/(λ_1 + μ + α), where it is negative.",
            source="Lemma 1, section 4.1",
            paper="holds",
            ours=f"holds for {sum(used)} of {len(used)} pairs of updates",
            verdict=verdict_of(used),
            differs="Nothing.",
        ),
        Row(
            claim="Both bounds, for every learning rate: lower at λ_1, upper at λ_d.",
            source="Lemma 1",
            paper="hold",
            ours=f"both hold for {sum(stated)} of {len(stated)} pairs, the upper one for {sum(upper)}",
            verdict=verdict_of(stated),
            differs="The proof takes the eigenvalues of Z to fall as those of M rise. They are (1 − μη − ηx)x² with "
            "x = λ + α, which rises up to x = 2(1 − μη)/(3η) and falls after. With the smallest and the largest of "
            f"all eigenvalues of Z the bounds hold for {sum(mended)} of {len(mended)}.",
        ),
    ]


def angle_row(found: list[Pair]) -> Row:
    """Obtuse angles at the edge of stability, acute ones after the decay."""
    turned, below = [], []
    for shape in SPECTRA:
        for momentum in MOMENTA[:2]:
            edge = [one for one in found if one.problem == Problem(shape, SHARPNESS[-1], momentum, ALPHA)]
            last = max(one.step for one in edge if one.step < DECAY_AT)
            before = [one.cosine < 0 for one in edge if one.step == last]
            after = [one.cosine > 0 for one in edge if one.step > DECAY_AT]
            turned += [*before, all(after)]
    meant = [one for one in found if one.problem.momentum != "optimizer" and not one.is_in_range]
    below = [one.cosine > 0 for one in meant]
    heavy = [
        one
        for one in found
        if one.problem.momentum == "optimizer"
        and one.problem.sharpness == SHARPNESS[-1]
        and one.problem.alpha == ALPHA
        and one.step < DECAY_AT
    ]
    return Row(
        claim="Successive updates turn obtuse only for learning rates of at least 1/(λ_1 + μ + α), also where most "
        "eigenvalues are zero, and acute again when the learning rate decays.",
        source="section 4.1",
        paper="explains figure 4(a)",
        ours=f"under that rate {sum(below)} of {len(below)} angles are acute; at η λ_1 = {SHARPNESS[-1]:g}, "
        f"{sum(turned)} of {len(turned)} checks hold: obtuse before the decay, acute after it. That is without "
        f"momentum "
        f"and with the proof's sign of it; with SGD's, {sum(one.cosine < 0 for one in heavy)} of {len(heavy)} angles "
        "before the decay are obtuse",
        verdict=verdict_of([all(below), *turned]),
        differs="A quadratic without noise; the learning rate falls to a tenth after half of the 16 steps. Under the "
        "stated rate all eigenvalues of Z are positive, so acute angles there are algebra.",
    )


def _first(found: list[Pair], momentum: Momentum, alpha: float) -> list[Pair]:
    """The first pair of updates, from the same point: over spectra, learning rates and seeds."""
    return [
        one
        for one in found
        if one.step == 1 and one.problem.momentum == momentum and one.problem.alpha == alpha
    ]


def _change(found: list[Pair], momentum: Momentum) -> Floats:
    """What a kind of momentum adds to the cosine of the first pair."""
    cosines = [[one.cosine for one in _first(found, kind, ALPHA)] for kind in (momentum, "none")]
    change: Floats = np.array(cosines[0]) - np.array(cosines[1])
    return change


def momentum_row(found: list[Pair]) -> Row:
    """What momentum does to the angle, with the sign that optimizers give it."""
    lemma, optimizer = _change(found, "lemma"), _change(found, "optimizer")
    return Row(
        claim="One step of momentum makes the angle between successive updates larger (our reading of μ in the "
        "condition).",
        source="Lemma 1, section 4.1",
        paper="the condition is η ≥ 1/(λ_1 + μ + α)",
        ours=f"with heavy ball (`torch.optim.SGD`) larger in {sum(optimizer < 0)} of {len(optimizer)} cases: the "
        f"cosine changes by {_spread(optimizer)}; with the sign of the proof in {sum(lemma < 0)}: {_spread(lemma)}",
        verdict=verdict_of([bool(change < 0) for change in optimizer]),
        differs="The proof subtracts the momentum term, ∇f(θ_t) − μη_t ∇f(θ_{t−1}), where heavy ball adds it. With "
        "the sign of heavy ball the factor is 1 + μ − η(λ + α), and momentum puts the obtuse angle off. This is "
        "about single steps from one point; angles between epochs are in the row on figure 4.",
    )


def weight_decay_row(found: list[Pair]) -> Row:
    """What weight decay does to the angle."""
    pairs_of_two = list(zip(_first(found, "none", LARGE_ALPHA), _first(found, "none", 0.0), strict=True))
    larger = {
        shape: [
            strong.cosine < none.cosine for strong, none in pairs_of_two if none.problem.spectrum == shape
        ]
        for shape in SPECTRA
    }
    steep = [strong.cosine_of_steep < none.cosine_of_steep for strong, none in pairs_of_two]
    change = np.array([strong.cosine - none.cosine for strong, none in pairs_of_two])
    return Row(
        claim="Weight decay makes the angle between successive updates larger (our reading of α in the condition).",
        source="Lemma 1, section 4.1",
        paper="the condition is η ≥ 1/(λ_1 + μ + α)",
        ours=f"α = {LARGE_ALPHA:g} against 0: larger in {sum(larger['spread'])} of {len(larger['spread'])} cases "
        f"where M has full rank, in {sum(larger['degenerate'])} of {len(larger['degenerate'])} where nine tenths "
        f"of its eigenvalues are zero; the cosine changes by {_spread(change)}",
        verdict=verdict_of([test for tests in larger.values() for test in tests]),
        differs=f"λ_1 = {LARGEST:g}, no momentum. Weight decay also sets the directions in motion in which M is zero, "
        f"and there successive updates are parallel. Without these directions the angle is larger in {sum(steep)} "
        f"of {len(steep)} cases; the rest was not examined.",
    )


def _spread(values: Floats) -> str:
    return f"{values.mean():+.3f} ({values.min():+.3f} to {values.max():+.3f})"


def draw(workshop: Workshop, found: list[Pair]) -> None:
    """Angles over the steps; Z's eigenvalues; the first product between the lemma's bounds."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.1), layout="constrained")
        axes: Any = figure.subplots(1, 3)
        _draw_angles(axes[0], found)
        _draw_eigenvalues(axes[1])
        _draw_bounds(axes[2], found)
        save_png(figure, workshop.figure("lemma"))


def _draw_angles(axis: Any, found: list[Pair]) -> None:
    for shape, marker in zip(SPECTRA, "o^", strict=True):
        for number, momentum in enumerate(MOMENTA):
            shown = [one for one in found if one.problem == Problem(shape, SHARPNESS[-1], momentum, ALPHA)]
            shown = shown[: len(shown) // len(SEEDS)]
            steps = [one.step + 1 for one in shown]
            theory = np.degrees(np.arccos([one.cosine_in_theory for one in shown]))
            axis.plot(steps, theory, color=COLORS[number], linewidth=0.8)
            axis.plot(
                steps,
                np.degrees(np.arccos([one.cosine for one in shown])),
                marker,
                color=COLORS[number],
                markersize=3.5,
                label=WORDS[momentum] if marker == "o" else None,
            )
    axis.axhline(90, color="#888888", linewidth=0.8, linestyle=":")
    axis.axvline(DECAY_AT + 1, color="#888888", linewidth=0.8)
    axis.set_title("angle between updates (degrees)", loc="left")
    axis.set_xlabel("step")
    axis.legend(loc="upper right", fontsize=7)


def _draw_eigenvalues(axis: Any) -> None:
    x = np.linspace(0, 1, 200)
    for number, sharpness in enumerate(SHARPNESS):
        axis.plot(x, (1 - sharpness * x) * x**2, color=COLORS[number], label=f"η λ₁ = {sharpness:g}")
        axis.plot([0, 1], [0, 1 - sharpness], "s", color=COLORS[number], markersize=3.5)
    axis.axhline(0, color="#888888", linewidth=0.8)
    axis.set_title("eigenvalue of Z, in units of λ₁²", loc="left")
    axis.set_xlabel("(λ + α) / λ₁")
    axis.legend(fontsize=7)


def _draw_bounds(axis: Any, found: list[Pair]) -> None:
    first = [
        one
        for one in found
        if one.step == 1 and one.problem.momentum == "none" and one.problem.alpha == ALPHA
    ]
    for shape, shift, color in zip(SPECTRA, (-0.12, 0.12), COLORS, strict=False):
        for number, sharpness in enumerate(SHARPNESS):
            shown = [
                one for one in first if one.problem.spectrum == shape and one.problem.sharpness == sharpness
            ]
            one = shown[0]
            low, high = one.z[0] / LARGEST**2, one.z[-1] / LARGEST**2
            bounds: dict[str, Any] = {"color": color, "markersize": 7, "alpha": 0.45, "linestyle": "none"}
            is_first = shape == SPECTRA[0] and number == 0
            axis.plot(number + shift, low, "^", label="stated lower bound" if is_first else None, **bounds)
            axis.plot(number + shift, high, "v", label="stated upper bound" if is_first else None, **bounds)
            axis.plot(
                [number + shift] * len(shown),
                [one.product / one.unit / LARGEST**2 for one in shown],
                "o",
                color=color,
                markersize=3.5,
                label=f"products, {SPECTRUM_WORDS[shape]}" if number == 0 else None,
            )
    axis.axhline(0, color="#888888", linewidth=0.8)
    axis.set_xticks(range(len(SHARPNESS)), [f"{sharpness:g}" for sharpness in SHARPNESS])
    axis.set_title("⟨Δ₁, Δ₂⟩ and the lemma's bounds", loc="left")
    axis.set_xlabel("η λ₁")
    axis.legend(fontsize=7)


def run(workshop: Workshop) -> Findings:
    """Three runs of forty quadratics each."""
    found: list[Pair] = []
    recipe = {
        "dimension": DIMENSION,
        "steps": STEPS,
        "decay": DECAY_AT,
        "momentum": MOMENTUM,
        "largest": LARGEST,
    }
    with workshop.progress("quadratics", len(SEEDS)) as progress:
        for seed in SEEDS:
            recorded = workshop.record(
                f"seed{seed}",
                lambda watch, seed=seed: train(watch, seed),  # type: ignore[misc]
                recipe={**recipe, "problems": [one.name for one in problems()], "seed": seed},
            )
            found += pairs(recorded, seed)
            progress.advance()
    # The seeds one after the other within each problem: the first third of a problem's pairs is one seed.
    found.sort(key=lambda one: one.problem.name)
    draw(workshop, found)
    return Findings(
        rows=(
            identity_row(found),
            *bound_rows(found),
            angle_row(found),
            momentum_row(found),
            weight_decay_row(found),
        ),
        figures=(
            (
                "lemma.png",
                f"Left: angles at η λ_1 = {SHARPNESS[-1]:g} (round: degenerate spectrum, triangles: full rank), "
                "recorded (marks) and in closed form, with the sign of momentum as named (lines); the learning rate "
                "falls "
                "to a tenth at the vertical line. Middle: the eigenvalues of Z over those of M; squares where the "
                "lemma has its bounds: "
                "the largest eigenvalue may lie between them. Right: the recorded inner product of the first two "
                "updates, in units of η_t η_{t+1} ‖θ‖² λ_1², and the lemma's bounds: at small η λ_1 the stated lower "
                "bound "
                "lies above the stated upper one.",
            ),
        ),
    )


EXPERIMENT = Experiment(
    name="quadratics",
    title="Lemma 1 on quadratics",
    minutes=0.5,
    run=run,
    about=f"{len(problems())} quadratics of {DIMENSION} dimensions each are descended beside each other, as layers "
    f"of one recorded model, for {STEPS} steps: M of full rank or with nine tenths of its eigenvalues zero, learning "
    f"rates η = {', '.join(f'{value:g}' for value in SHARPNESS)} over λ_1, α = 0, {ALPHA:g} and {LARGE_ALPHA:g}, "
    f"and μ = {MOMENTUM:g} or none, the buffer emptied after every two steps as in the proof.",
)
