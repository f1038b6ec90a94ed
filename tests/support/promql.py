"""What a PromQL expression asks for: metrics, their label matchers, and the labels it groups by."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Selector", "grouping_labels", "selectors"]

_WORDS = {
    "and",
    "or",
    "unless",
    "bool",
    "by",
    "on",
    "ignoring",
    "without",
    "group_left",
    "group_right",
    "offset",
    "inf",
}
_GROUPING = re.compile(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^()]*)\)")
_STRING = r'"(?:[^"\\]|\\.)*"'
_MATCHER = re.compile(rf"([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*({_STRING})")
_SELECTOR = re.compile(rf"(?<![\w$:])([a-zA-Z_:][\w:]*+)\s*+(\{{(?:[^{{}}\"]|{_STRING})*\}})?+(?!\s*\()")


@dataclass(frozen=True, slots=True)
class Selector:
    """One metric that is asked for."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]
    """Label, operator, value."""


def selectors(expr: str) -> list[Selector]:
    """Every selector of an expression, in its order.

    >>> selectors('sum by (a) (rate(x_total{b="c", d=~"e"}[5m])) / on (a) group_left () y > 0')
    [Selector(metric='x_total', matchers=(('b', '=', 'c'), ('d', '=~', 'e'))), Selector(metric='y', matchers=())]
    """
    bare = _GROUPING.sub(" ", expr)
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    found = []
    for name, braces in _SELECTOR.findall(bare):
        if name in _WORDS:
            continue
        matchers = tuple((label, sign, text[1:-1]) for label, sign, text in _MATCHER.findall(braces))
        found.append(Selector(name, matchers))
    return found


def grouping_labels(expr: str) -> set[str]:
    """Every label that is grouped or matched by.

    >>> sorted(grouping_labels("sum by (a, b) (x) / on (a) group_left () y"))
    ['a', 'b']
    """
    return {
        label.strip() for inside in _GROUPING.findall(expr) for label in inside.split(",") if label.strip()
    }
