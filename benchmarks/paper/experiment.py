"""What an experiment is, and what it finds: values that are kept as JSON and become the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    # At run time it would bring torch with it, which the list of experiments and the page do not need.
    from benchmarks.paper.workshop import Workshop

__all__ = [
    "Experiment",
    "Findings",
    "Row",
    "Verdict",
    "verdict_of",
]

Verdict = Literal["reproduced", "partly", "not reproduced"]


@dataclass(frozen=True, slots=True)
class Row:
    """One claim of the paper beside what came out here: a line of the table."""

    claim: str
    """What the paper says, in a sentence."""
    source: str
    """Where it says so, e.g. "figure 3"."""
    paper: str
    """The paper's numbers."""
    ours: str
    """Ours, with mean and range where there were several seeds."""
    verdict: Verdict
    """Computed from the numbers by a rule in code."""
    differs: str
    """What differs between the settings; where ours disagrees, why: a reason that was checked, or "not examined"."""
    is_own: bool = False
    """A check of ours, or a reading of the paper's numbers: the paper does not say it, and it is counted apart."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field that is empty, or a verdict that is none."""
        for name in ("claim", "source", "paper", "ours", "differs"):
            if not getattr(self, name).strip():
                raise ValueError(f"a row says nothing under {name!r}: {self}")
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"{self.verdict!r} is no verdict; use one of {', '.join(get_args(Verdict))}")


@dataclass(frozen=True, slots=True)
class Findings:
    """What an experiment found."""

    rows: tuple[Row, ...]
    """At least one."""
    figures: tuple[tuple[str, str], ...] = ()
    """File name, as written by ``workshop.figure(name)``, e.g. "maps.png", and caption."""
    notes: tuple[str, ...] = ()
    """Paragraphs of Markdown for the experiment's section, e.g. a table of numbers, or what was tried besides."""

    def __post_init__(self) -> None:
        """Raises ValueError without rows, and for a figure without a caption."""
        if not self.rows:
            raise ValueError("an experiment without rows has found nothing")
        for file_name, caption in self.figures:
            if not file_name.endswith(".png") or "/" in file_name or not caption.strip():
                raise ValueError(f"figure {file_name!r} needs a name that ends in .png and a caption")

    def to_json(self) -> dict[str, Any]:
        """Plain lists and texts; `from_json` gives it back."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "figures": [list(figure) for figure in self.figures],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Findings:
        """Raises KeyError, TypeError or ValueError for what `to_json` does not give."""
        return cls(
            rows=tuple(Row(**row) for row in value["rows"]),
            figures=tuple((str(file_name), str(caption)) for file_name, caption in value["figures"]),
            notes=tuple(str(note) for note in value["notes"]),
        )


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment: a file in ``experiments/`` of the same name."""

    name: str
    """That of its file."""
    title: str
    """Heading of its section."""
    minutes: float
    """What it takes on one core, measured."""
    run: Callable[[Workshop], Findings]
    """Records what is not recorded yet, draws, and says what was found."""
    about: str = ""
    """What is trained, and how: some sentences of Markdown with the sizes, above the section's figures."""


def verdict_of(holds: Sequence[bool], *, most: float = 0.5) -> Verdict:
    """The verdict on a claim that was put to several tests: all hold, more than `most` of them do, or neither.

    >>> verdict_of([True, True, False])
    'partly'
    >>> verdict_of([True, False])
    'not reproduced'
    """
    if not holds:
        raise ValueError("a claim that was put to no test has no verdict")
    if all(holds):
        return "reproduced"
    return "partly" if sum(map(bool, holds)) > most * len(holds) else "not reproduced"
