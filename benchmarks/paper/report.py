"""The page of docs/reproduction, out of kept findings. The same findings give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from benchmarks._files import write_whole
from benchmarks.paper.experiment import Verdict
from benchmarks.paper.kept import Kept

__all__ = ["LARGEST_FIGURE_BYTES", "anchor", "figure_name", "page", "write_report"]

LARGEST_FIGURE_BYTES = 200_000
ORDER = (
    "initialization",
    "switch_off",
    "quadratics",
    "adamw_weight_decay",
    "scale",
    "attention_depth",
    "norm_only",
    "random_walk",
    "batch_size",
    "label_noise",
    "learning_rate",
    "sam",
    "grokking",
    "phases",
)
"""As in the paper; what is not named here comes after, by name."""

_HEAD = """\
# The paper on this software

Experiments of *Hallmarks of Optimization Trajectories in Neural Networks* (Singh, He, Hofmann, Schölkopf;
[arXiv 2403.07379](https://arxiv.org/abs/2403.07379)), at small scale. Sections and figures are those of its first
version; "ICLR 2025" is the abstract of a later one. Every trajectory here was recorded by `trajmon.watch` at a real
server, and maps, hallmarks and inner products were read back through `trajmon.open_run`; accuracies and losses are the
trainings' own. The paper's networks have up to 12 billion parameters; these train on two processor cores in minutes.
The numbers are not expected to agree; what the paper concludes from them is: an order, a shape, a bound.

`make reproduce` runs all of it, goes on where it was stopped, and writes this page and its figures.

A verdict is computed from the numbers by a rule in the experiment's file: *reproduced* if the claim holds in every test
it was put to, *partly* if in most, else *not reproduced*. Some claims are tested seed by seed, others on means over
the seeds. A number is a mean over the seeds; two in brackets behind it are the smallest and the largest.
"""


def write_report(kept: Sequence[Kept], out: Path, docs: Path) -> Path:
    """Write README.md and the figures into `docs`; the page's path. `out` holds the folders of the experiments.

    Figures of an earlier page that are not in this one are removed. Raises ValueError if nothing is finished, or for
    a figure that is too large; then nothing is written.
    """
    if not kept:
        raise ValueError("no experiment is finished, so there is nothing to write")
    figures: dict[str, bytes] = {}
    for one in kept:
        for file_name, _ in one.findings.figures:
            data = (out / one.name / "figures" / file_name).read_bytes()
            if len(data) > LARGEST_FIGURE_BYTES:
                raise ValueError(
                    f"the figure {file_name} of {one.name} has {len(data):,} bytes; "
                    f"a page takes {LARGEST_FIGURE_BYTES:,}: draw it smaller"
                )
            figures[figure_name(one.name, file_name)] = data
    docs.mkdir(parents=True, exist_ok=True)
    for path in docs.glob("*.png"):
        if path.name not in figures:
            path.unlink()
    for name, data in figures.items():
        write_whole(docs / name, data)
    write_whole(docs / "README.md", page(kept).encode())
    return docs / "README.md"


def figure_name(experiment: str, file_name: str) -> str:
    """What a figure of an experiment is called beside the page."""
    return f"{experiment}-{file_name}"


def anchor(title: str) -> str:
    """What a heading is linked by.

    >>> anchor("Q, K and V over depth")
    'q-k-and-v-over-depth'
    """
    return "".join(sign for sign in title.lower() if sign.isalnum() or sign in " -_").replace(" ", "-")


def page(kept: Sequence[Kept]) -> str:
    """The page as Markdown."""
    place = {name: number for number, name in enumerate(ORDER)}
    ordered = sorted(kept, key=lambda one: (place.get(one.name, len(ORDER)), one.name))
    parts = [_HEAD, _summary(ordered), _claims(ordered), *map(_section, ordered), _making(ordered)]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _summary(kept: Sequence[Kept]) -> str:
    rows = [row for one in kept for row in one.findings.rows]

    def counted(verdicts: list[Verdict]) -> str:
        return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in get_args(Verdict))

    claims, own = ([row.verdict for row in rows if row.is_own == is_own] for is_own in (False, True))
    summary = f"Of {len(claims)} claims of the paper: {counted(claims)}."
    return summary + (f" Besides, {len(own)} checks of ours, marked so: {counted(own)}.\n" if own else "\n")


def _claims(kept: Sequence[Kept]) -> str:
    lines = ["## Claims", ""]
    lines += _table_lines(
        ("claim", "in the paper", "its numbers", "ours", "verdict", "what differs"),
        [
            (
                f"(ours) {row.claim}" if row.is_own else row.claim,
                f"[{row.source}](#{anchor(one.title)})",
                row.paper,
                row.ours,
                f"**{row.verdict}**",
                row.differs,
            )
            for one in kept
            for row in one.findings.rows
        ],
    )
    return "\n".join(lines)


def _section(one: Kept) -> str:
    lines = [f"## {one.title}", ""]
    for paragraph in (one.about, *one.findings.notes):
        if paragraph.strip():
            lines += [paragraph.strip(), ""]
    for file_name, caption in one.findings.figures:
        lines += [f"![{one.title}]({figure_name(one.name, file_name)})", "", f"*{caption.strip()}*", ""]
    return "\n".join(lines)


def _making(kept: Sequence[Kept]) -> str:
    rows = [
        (f"`{one.name}`", str(one.num_runs), f"{one.num_checkpoints:,}", f"{one.seconds:.0f}") for one in kept
    ]
    total = (
        "all",
        str(sum(one.num_runs for one in kept)),
        f"{sum(one.num_checkpoints for one in kept):,}",
        f"{sum(one.seconds for one in kept):.0f}",
    )
    versions = sorted({f"{name} {version}" for one in kept for name, version in one.versions.items()})
    lines = [
        "## How it was made",
        "",
        "Two experiments at a time, each with one thread at the lowest priority, beside one server. The seconds are",
        "processor time of the experiments; that of the agents and of the server is not in them.",
        "",
        *_table_lines(("experiment", "recorded runs", "checkpoints", "seconds"), [*rows, total]),
        "",
        f"Made with {', '.join(versions)}. Another version of these, or another processor, gives other digits.",
    ]
    return "\n".join(lines)


def _table_lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return lines + ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]


def _cell(text: str) -> str:
    """In one line, and without ending its cell.

    >>> _cell("a|b\\nc")
    'a\\\\|b c'
    """
    return " ".join(text.split()).replace("|", "\\|")
