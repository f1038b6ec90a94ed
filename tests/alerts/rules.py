"""The shipped rules, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from alerts.stack import DEPLOY

__all__ = ["ALERTS", "FOLDER", "RECORDS", "RULES", "load"]

FOLDER = DEPLOY / "prometheus"
RULES = FOLDER / "trajmon.rules.yaml"


def load(path: Path) -> Any:
    """What a YAML file holds."""
    return YAML(typ="safe").load(path.read_text())


def _rules(kind: str) -> dict[str, dict[str, Any]]:
    groups = load(RULES)["groups"]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


ALERTS = _rules("alert")
"""By name."""
RECORDS = _rules("record")
"""By name."""
