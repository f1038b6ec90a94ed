"""GPT-NeoX-shaped models of growing width on one text: does MDS rise with scale (figures 7 and 69)?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from benchmarks.paper.drawing import COLORS, STYLE, draw_map, save_png, scale_of
from benchmarks.paper.experiment import Experiment, Findings, Row, verdict_of
from benchmarks.paper.training_text import TextTraining, falling_rate
from benchmarks.paper.workshop import Recorded, Workshop
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

__all__ = ["EXPERIMENT", "Measured", "rows"]

DEPTH = 4
SEEDS = {16: (0, 1), 32: (0, 1), 64: (0, 1), 128: (0, 1), 256: (0,)}
"""By width; the widest takes as long as all others together."""
SAME_RATE_WIDTHS = (16, 64, 256)
SAME_RATE = falling_rate(64)
"""Of the models that are trained with one rate, whatever their width."""

_PAPER_SIZES = ("14M", "70M", "160M", "410M", "1.4B", "2.8B", "6.9B", "12B")
_PAPER_MDS = (0.650, 0.672, 0.678, 0.726, 0.759, 0.786, 0.818, 0.815)


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one width, one number per seed."""

    mds: tuple[float, ...]
    first_to_last: tuple[float, ...]
    """Cosine between the initialization and the last checkpoint."""
    loss: tuple[float, ...]
    """Held out, at the end; nats a character."""
    parameters: int


def run(workshop: Workshop) -> Findings:
    """Five widths with rates that fall as 1 / width; three of them with one rate, one seed."""
    falling: dict[int, list[Recorded]] = {width: [] for width in SEEDS}
    same: dict[int, list[Recorded]] = {}
    total = sum(map(len, SEEDS.values())) + len(SAME_RATE_WIDTHS)
    with workshop.progress("models", total) as progress:
        for width, seeds in SEEDS.items():
            for seed in seeds:
                training = _training(width, falling_rate(width), seed)
                falling[width].append(
                    workshop.record(f"width{width}_{seed}", training.train, recipe=training.recipe())
                )
                progress.advance()
        for width in SAME_RATE_WIDTHS:
            if falling_rate(width) == SAME_RATE:
                same[width] = falling[width][:1]
            else:
                training = _training(width, SAME_RATE, 0)
                same[width] = [
                    workshop.record(f"same_rate{width}_0", training.train, recipe=training.recipe())
                ]
            progress.advance()
    measured, measured_same = _measure(falling), _measure(same)
    _draw(workshop, {width: runs[0] for width, runs in falling.items()}, measured, measured_same)
    return Findings(
        rows=rows(measured, measured_same),
        figures=(
            (
                "maps.png",
                "Maps of GPT-NeoX-shaped models of growing width, one seed, on one scale; right: MDS over width, with "
                "the range over seeds, for rates that fall as 1 / width and for one rate for all.",
            ),
        ),
        notes=(_table(measured, measured_same),),
    )


def _training(width: int, rate: float, seed: int) -> TextTraining:
    return TextTraining(width=width, depth=DEPTH, heads=max(2, width // 16), peak_rate=rate, seed=seed)


def _measure(recorded: Mapping[int, Sequence[Recorded]]) -> dict[int, Measured]:
    found = {}
    for width, runs in recorded.items():
        maps = [one.run.map() for one in runs]
        found[width] = Measured(
            mds=tuple(entries.attrs["mds"] for entries in maps),
            first_to_last=tuple(float(entries.values[0, -1]) for entries in maps),
            loss=tuple(one.results["loss"] for one in runs),
            parameters=round(runs[0].results["parameters"]),
        )
    return found


def rows(measured: Mapping[int, Measured], same: Mapping[int, Measured]) -> tuple[Row, ...]:
    """Verdicts on means over seeds: what rises from each width to the next."""
    mds = [float(np.mean(one.mds)) for _, one in sorted(measured.items())]
    aligned = [float(np.mean(one.first_to_last)) for _, one in sorted(measured.items())]
    mds_same = [float(np.mean(one.mds)) for _, one in sorted(same.items())]
    widths = " / ".join(map(str, sorted(measured)))
    same_widths = " / ".join(map(str, sorted(same)))
    setting = (
        f"{DEPTH} layers at every width, {TextTraining.total_steps()} steps on characters of Python's library; the "
        "paper: Pythia, which also grows in depth, 143,000 steps on the Pile. Rates fall with width, as Pythia's do "
        "over much of its range; that alone raises MDS: "
        "see the last row on scale."
    )
    rises, rises_aligned, rises_same = (_rises(values) for values in (mds, aligned, mds_same))
    return (
        Row(
            claim="MDS rises with the scale of a language model.",
            source="figures 7 and 69",
            paper=f"MDS {_join(_PAPER_MDS)} from {_PAPER_SIZES[0]} to {_PAPER_SIZES[-1]} parameters",
            ours=f"MDS {_join(mds)} at width {widths}",
            verdict=verdict_of(rises),
            differs=setting + ("" if all(rises) else " Where it does not rise was not examined."),
        ),
        Row(
            claim="The wider a network, the more the trained parameters stay aligned with their initialization.",
            source="section 5, appendix B",
            paper="cosine to the initialization tends to 1 with width, for updates that keep features stable",
            ours=f"cosine of initialization and end {_join(aligned)} at width {widths}",
            verdict=verdict_of(rises_aligned),
            differs="A proof about the limit, beside finite widths. Rates that fall as 1 / width keep feature updates "
            "stable under Adam."
            + ("" if all(rises_aligned) else " Where it does not rise was not examined."),
        ),
        Row(
            claim="The rise is one of scale by itself: it is there with one learning rate for all widths.",
            source="section 5, which does not separate the two",
            paper="not reported: Pythia's peak rates fall from 1e-3 to 1.2e-4",
            ours=f"MDS {_join(mds_same)} at width {same_widths}, all with peak rate {SAME_RATE:g}",
            verdict=verdict_of(rises_same),
            differs="A check of ours, one seed."
            + (
                ""
                if all(rises_same)
                else " In theory one rate for all makes features move more the wider the network, against the premise "
                "of the paper's argument; whether that is the reason here was not examined."
            ),
            is_own=True,
        ),
    )


def _rises(values: Sequence[float]) -> list[bool]:
    return [b > a for a, b in pairwise(values)]


def _join(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.3f}" for value in values)


def _table(measured: Mapping[int, Measured], same: Mapping[int, Measured]) -> str:
    lines = [
        "Mean over seeds, lowest to highest in brackets; loss in nats a character, held out:",
        "",
        "| width | parameters | rates | MDS | cosine of initialization and end | loss |",
        "|---|---|---|---|---|---|",
    ]
    for words, found in (("as 1 / width", measured), ("one for all", same)):
        for width, one in sorted(found.items()):
            cells = [_spread(values) for values in (one.mds, one.first_to_last, one.loss)]
            lines.append(f"| {width} | {one.parameters:,} | {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _draw(
    workshop: Workshop,
    shown: Mapping[int, Recorded],
    measured: Mapping[int, Measured],
    same: Mapping[int, Measured],
) -> None:
    maps = {width: one.run.map() for width, one in shown.items()}
    scale = scale_of([entries.values for entries in maps.values()])
    with rc_context(STYLE):
        figure = Figure(figsize=(12.4, 2.5), layout="constrained")
        halves: Any = figure.subfigures(1, 2, width_ratios=(9.6, 2.8))
        axes: Any = halves[0].subplots(1, len(maps))
        for axis, (width, entries) in zip(axes, maps.items(), strict=True):
            image = draw_map(axis, entries.values, scale, f"width {width}   ω = {entries.attrs['mds']:.3f}")
        bar = halves[0].colorbar(image, ax=axes, fraction=0.01, pad=0.01, label="cosine")
        bar.outline.set_linewidth(0.6)
        axis = halves[1].subplots()
        for number, (label, found) in enumerate((("rates as 1 / width", measured), ("one rate", same))):
            values = [one.mds for _, one in sorted(found.items())]
            mean = np.array([np.mean(each) for each in values])
            spread = [mean - [min(each) for each in values], [max(each) for each in values] - mean]
            axis.errorbar(
                sorted(found),
                mean,
                spread,
                color=COLORS[number],
                marker="o",
                markersize=4,
                capsize=2,
                label=label,
            )
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(measured), [str(width) for width in sorted(measured)])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set(xlabel="width", ylabel="MDS")
        axis.legend()
        save_png(figure, workshop.figure("maps"))


EXPERIMENT = Experiment(
    name="scale",
    title="Scale: GPT-NeoX-shaped language models of growing width",
    minutes=5.0,
    run=run,
    about=f"transformers' GPT-NeoX (attention and MLP side by side, rotary positions, LayerNorm with biases), {DEPTH} "
    f"layers, widths {min(SEEDS)} to {max(SEEDS)}, begun as Pythia's are. AdamW, warm-up, a cosine down to a tenth, "
    f"weight decay 0.1, {TextTraining.total_steps()} steps of 8 windows of 48 characters of Python's library, the "
    "same for every width. 39 checkpoints, as in the paper. Peak rates fall as 1 / width.",
)
