"""The text that Prometheus reads, piece by piece.

Lines of one family stand together, behind a line of help and one of its type:

    # HELP trajmon_parameter_norm Norm of the parameters.
    # TYPE trajmon_parameter_norm gauge
    trajmon_parameter_norm{group="network",run="resnet20"} 41.7

OpenMetrics has the same lines of samples; it names a family of facts without its ``_info``, and calls it ``info``.
Lines are bytes, so that what has not changed since the last scrape is only copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Family", "header", "label_text", "lines", "with_label"]


@dataclass(frozen=True, slots=True)
class Family:
    """All series of one name."""

    name: str
    """With ``_info`` at its end, if it holds facts."""
    text: str
    """What it says, in one line."""
    kind: Literal["gauge", "info"] = "gauge"


def header(family: Family, is_open_metrics: bool) -> bytes:
    """The lines before a family's samples.

    >>> print(header(Family("trajmon_run_info", "Facts.", "info"), is_open_metrics=True).decode(), end="")
    # HELP trajmon_run Facts.
    # TYPE trajmon_run info
    """
    name = family.name.removesuffix("_info") if is_open_metrics and family.kind == "info" else family.name
    kind = family.kind if is_open_metrics else "gauge"
    text = family.text.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode()


def label_text(**labels: str) -> str:
    r"""Labels in braces, by name, with a space behind.

    >>> label_text(run="a", group='say "hi"')
    '{group="say \\"hi\\"",run="a"} '
    """
    return "{" + ",".join([f'{name}="{_escape(labels[name])}"' for name in sorted(labels)]) + "} "


def with_label(labels: str, name: str, value: str) -> str:
    """The text of `labels` with one more at its end.

    >>> with_label(label_text(run="a"), "vertex", "origin")
    '{run="a",vertex="origin"} '
    """
    return f'{labels[:-2]},{name}="{_escape(value)}"}} '


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def lines(family: Family, samples: Iterable[tuple[str, float]]) -> bytes:
    r"""Samples of a family, each the text of its labels and a value; what is not finite is undefined, and left out.

    >>> lines(Family("trajmon_update_norm", ""), [(label_text(run="a"), 0.5), (label_text(run="b"), math.nan)])
    b'trajmon_update_norm{run="a"} 0.5\n'
    """
    name, is_finite = family.name, math.isfinite
    text = "".join([f"{name}{labels}{float(value)!r}\n" for labels, value in samples if is_finite(value)])
    # A name from a damaged file may hold what is no text: the page is more than one run.
    return text.encode("utf-8", "replace")
