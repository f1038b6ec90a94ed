"""Maps of Q, K and V over depth, in a narrow and in a wide model (figures 8, 9, 74 and 75)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarks.paper.digits_sweep import mean_and_range
from benchmarks.paper.drawing import COLORS, STYLE, draw_map, save_png
from benchmarks.paper.experiment import Experiment, Findings, Row, verdict_of
from benchmarks.paper.training_text import TextTraining, falling_rate
from benchmarks.paper.workshop import Recorded, Workshop
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trajmon.plot.colors import Scale

__all__ = [
    "ATTENTION",
    "EXPERIMENT",
    "OTHERS",
    "Measured",
    "half_way",
    "layer_name",
    "measure",
    "rows",
    "thirds",
]

DEPTH = 8
NARROW, WIDE = 32, 128
SEEDS = (0, 1)
ATTENTION = ("Q", "K", "V")
OTHERS = ("attention out", "MLP in", "MLP out")
_PATHS = {
    "Q": "attention.query_key_value.weight.q",
    "K": "attention.query_key_value.weight.k",
    "V": "attention.query_key_value.weight.v",
    "attention out": "attention.dense.weight",
    "MLP in": "mlp.dense_h_to_4h.weight",
    "MLP out": "mlp.dense_4h_to_h.weight",
}
_DASHES = ("-", "-", "-", "--", "--", "--")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one width, over (seed, layer) for each kind."""

    mds: Mapping[str, Floats]
    half_way: Mapping[str, Floats]
    """Share of the run until a layer is half way to its final direction."""
    distance: Mapping[str, Floats]
    """Root of the mean squared difference between a layer's map and that of its network."""

    def spread(self, kind: str) -> float:
        """Of MDS over depth: highest less lowest, mean over seeds."""
        return float(np.ptp(self.mds[kind], axis=1).mean())


def layer_name(layer: int, kind: str) -> str:
    """As recorded: Q, K and V are views of one weight, a layer of their own each."""
    return f"gpt_neox.layers.{layer}.{_PATHS[kind]}"


def half_way(entries: Floats) -> float:
    """Share of the run from which on the angle to the last checkpoint is at most half of that at the start.

    [T, T] map to a share of T - 1, linear between checkpoints; NaN without an angle. How far a layer turns does not
    enter: only when.

    >>> angle = np.deg2rad([0.0, 10.0, 20.0, 30.0, 40.0])
    >>> float(round(half_way(np.cos(angle[:, None] - angle)), 6))
    0.5
    """
    angle = np.arccos(np.clip(entries[:, -1], -1.0, 1.0))
    if not angle[0] > 0:
        # It came back to where it began, or is undefined: there is no way to be half of.
        return float("nan")
    target = angle[0] / 2
    above = int(np.flatnonzero(angle > target)[-1])
    inside = (angle[above] - target) / (angle[above] - angle[above + 1])
    return float((above + inside) / (len(angle) - 1))


def thirds(depth: int) -> tuple[slice, slice, slice]:
    """First, middle and last layers; the middle takes what does not divide.

    >>> thirds(8)
    (slice(0, 2, None), slice(2, 6, None), slice(6, 8, None))
    """
    outer = depth // 3
    return slice(0, outer), slice(outer, depth - outer), slice(depth - outer, depth)


def run(workshop: Workshop) -> Findings:
    """Two widths, two seeds each."""
    recorded: dict[int, list[Recorded]] = {NARROW: [], WIDE: []}
    with workshop.progress("models", len(recorded) * len(SEEDS)) as progress:
        for seed in SEEDS:
            for width, runs in recorded.items():
                training = TextTraining(
                    width=width, depth=DEPTH, heads=width // 16, peak_rate=falling_rate(width), seed=seed
                )
                runs.append(workshop.record(f"width{width}_{seed}", training.train, recipe=training.recipe()))
                progress.advance()
    with workshop.progress("maps of layers", len(recorded)) as progress:
        measured = {}
        for width, runs in recorded.items():
            measured[width] = measure(runs, DEPTH)
            progress.advance()
    _draw_maps(workshop, {width: runs[0] for width, runs in recorded.items()})
    _draw_curves(workshop, measured)
    return Findings(
        rows=rows(measured[NARROW], measured[WIDE]),
        figures=(
            (
                "maps.png",
                f"Maps of the weights of Q, K and V over depth, at width {NARROW} (upper three rows) and {WIDE} (lower "
                "three), one seed, each width on a scale of its own; beside them the map of the network.",
            ),
            (
                "depth.png",
                "Over depth: MDS of each kind of weight, and the share of the run until it is half way to its final "
                f"direction; mean of {len(SEEDS)} seeds.",
            ),
        ),
    )


def measure(runs: Sequence[Recorded], depth: int) -> Measured:
    """From the maps of all seeds of one width."""
    networks = [one.run.map().values for one in runs]
    mds: dict[str, Floats] = {}
    half: dict[str, Floats] = {}
    distance: dict[str, Floats] = {}
    for kind in _PATHS:
        maps = [[one.run.map(f"layer:{layer_name(layer, kind)}") for layer in range(depth)] for one in runs]
        mds[kind] = np.array([[entries.attrs["mds"] for entries in line] for line in maps])
        half[kind] = np.array([[half_way(entries.values) for entries in line] for line in maps])
        distance[kind] = np.array(
            [
                [np.sqrt(np.mean((entries.values - network) ** 2)) for entries in line]
                for line, network in zip(maps, networks, strict=True)
            ]
        )
    return Measured(mds, half, distance)


def rows(narrow: Measured, wide: Measured) -> tuple[Row, ...]:
    """Verdicts on means over seeds, for Q, K and V each."""
    setting = (
        f"{DEPTH} layers of width {NARROW} and {WIDE}, {TextTraining.total_steps()} steps on characters; the paper: "
        "Pythia, 14M to 12B parameters."
    )
    return (
        _middle_row(narrow, setting),
        _heterogeneity_row(narrow, setting),
        _homogeneous_row(narrow, wide, setting),
    )


def _middle_row(narrow: Measured, setting: str) -> Row:
    first, middle, last = thirds(narrow.mds["Q"].shape[1])
    words, holds = [], []
    for kind in ATTENTION:
        half = narrow.half_way[kind]
        means = [float(half[:, part].mean()) for part in (first, middle, last)]
        by_seed = [[100 * float(seed[part].mean()) for seed in half] for part in (first, middle, last)]
        holds.append(means[1] > max(means[0], means[2]))
        words.append(f"{kind} {' / '.join(mean_and_range(values, 1) for values in by_seed)} %")
    return Row(
        claim="In smaller models Q, K and V of the middle layers converge last, later than in the first and the last "
        "layers.",
        source="figure 8",
        paper="seen in the maps of the 160M model; no numbers",
        ours="share of the run until half way to the final direction, first / middle / last layers: "
        + "; ".join(words),
        verdict=verdict_of(holds),
        differs=setting + ("" if all(holds) else " Why the order over depth is another was not examined."),
    )


def _heterogeneity_row(narrow: Measured, setting: str) -> Row:
    spreads = {kind: narrow.spread(kind) for kind in (*ATTENTION, *OTHERS)}
    highest = max(spreads[kind] for kind in OTHERS)
    holds = [spreads[kind] > highest for kind in ATTENTION]
    return Row(
        claim="In smaller models the maps differ over depth, most of all those of Q, K and V.",
        source="figures 8, 74 and 75",
        paper="seen in the maps of the 14M and 160M models; no numbers",
        ours="highest less lowest MDS over depth: "
        + ", ".join(f"{kind} {spread:.3f}" for kind, spread in spreads.items()),
        verdict=verdict_of(holds),
        differs=setting + ("" if all(holds) else " Why other kinds differ as much was not examined."),
    )


def _homogeneous_row(narrow: Measured, wide: Measured, setting: str) -> Row:
    words, holds = [], []
    for kind in ATTENTION:
        far = [float(one.distance[kind].mean()) for one in (narrow, wide)]
        spreads = [one.spread(kind) for one in (narrow, wide)]
        holds += [far[1] < far[0], spreads[1] < spreads[0]]
        words.append(f"{kind} rms {far[0]:.3f} → {far[1]:.3f}, range {spreads[0]:.3f} → {spreads[1]:.3f}")
    return Row(
        claim="Scale makes the dynamics of Q, K and V alike: their maps come to resemble that of the network.",
        source="figure 9",
        paper="seen in the maps from about 1B parameters on; no numbers",
        ours=f"from width {NARROW} to {WIDE}, rms difference to the network's map, and range of MDS over depth: "
        + "; ".join(words),
        verdict=verdict_of(holds),
        differs=f"{setting} The rate falls with width, which alone raises MDS, and all maps go to 1."
        + ("" if all(holds) else " Where it does not hold was not examined."),
    )


def _draw_maps(workshop: Workshop, shown: Mapping[int, Recorded]) -> None:
    maps = {
        (width, kind, layer): one.run.map(f"layer:{layer_name(layer, kind)}")
        for width, one in shown.items()
        for kind in ATTENTION
        for layer in range(DEPTH)
    }
    lines = len(shown) * len(ATTENTION)
    with rc_context(STYLE):
        figure = Figure(figsize=(1.12 * (DEPTH + 1) + 0.9, 1.24 * lines), layout="constrained")
        axes: Any = figure.subplots(lines, DEPTH + 1, squeeze=False)
        for number, (width, one) in enumerate(shown.items()):
            of_width = [entries.values for (at, _, _), entries in maps.items() if at == width]
            scale = Scale(min(float(entries.min()) for entries in of_width), 1.0)
            for line, kind in enumerate(ATTENTION, start=number * len(ATTENTION)):
                for layer in range(DEPTH):
                    entries = maps[width, kind, layer]
                    title = f"{kind}{layer}  ω {entries.attrs['mds']:.2f}"
                    image = draw_map(axes[line, layer], entries.values, scale, title, ticks=False)
                axes[line, 0].set_ylabel(f"width {width}")
                axes[line, DEPTH].set_axis_off()
            network = one.run.map()
            axis = axes[number * len(ATTENTION), DEPTH]
            axis.set_axis_on()
            draw_map(axis, network.values, scale, f"network  ω {network.attrs['mds']:.2f}", ticks=False)
            part = axes[number * len(ATTENTION) : (number + 1) * len(ATTENTION)]
            bar = figure.colorbar(
                image, ax=part, fraction=0.012, pad=0.01, label=f"cosine similarity, width {width}"
            )
            bar.outline.set_linewidth(0.6)
        for axis in axes.flat:
            axis.title.set_fontsize(6.5)
        save_png(figure, workshop.figure("maps"))


def _draw_curves(workshop: Workshop, measured: Mapping[int, Measured]) -> None:
    with rc_context(STYLE):
        figure = Figure(figsize=(10.6, 2.9), layout="constrained")
        axes: Any = figure.subplots(1, 2 * len(measured))
        for (width, one), pair in zip(measured.items(), axes.reshape(-1, 2), strict=True):
            for axis, values, title in (
                (pair[0], one.mds, "MDS"),
                (pair[1], one.half_way, "half way (share of run)"),
            ):
                for number, kind in enumerate(_PATHS):
                    axis.plot(
                        range(DEPTH),
                        values[kind].mean(axis=0),
                        _DASHES[number],
                        color=COLORS[number],
                        marker="o",
                        markersize=2.5,
                        linewidth=1.2,
                        label=kind,
                    )
                axis.set_title(f"width {width}: {title}", loc="left", fontsize=8)
                axis.set_xlabel("layer")
        for first, second in ((axes[0], axes[2]), (axes[1], axes[3])):
            second.sharey(first)
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_PATHS), fontsize=8
        )
        save_png(figure, workshop.figure("depth"))


EXPERIMENT = Experiment(
    name="attention_depth",
    title="Q, K and V over depth",
    minutes=2.7,
    run=run,
    about=f"Two GPT-NeoX of {DEPTH} layers, width {NARROW} and {WIDE}, trained as in the experiment on scale, "
    f"{len(SEEDS)} seeds. The fused weight of each attention is recorded as three layers, Q, K and V. A weight is half "
    "way to its final direction when the angle to its last checkpoint is, from then on, at most half of what it was at "
    "the start.",
)
