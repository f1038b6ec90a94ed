"""Findings as they are kept: what a finished experiment leaves, and by which code it was made."""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._files import read_json, write_whole
from benchmarks.paper import experiments
from benchmarks.paper.experiment import Findings

__all__ = ["Kept", "read_kept", "sources_digest", "write_kept"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Kept:
    """A finished experiment."""

    name: str
    title: str
    about: str
    findings: Findings
    seconds: float
    """Processor time of the experiment, its trainings of earlier calls included; that of the agents is not."""
    num_runs: int
    """Recorded trainings."""
    num_checkpoints: int
    """Of all of them together."""
    versions: dict[str, str]
    """Of what it was made with, by name."""
    digest: str
    """Of the code that it was made by: :func:`sources_digest`."""


def write_kept(folder: Path, kept: Kept) -> None:
    """Into the experiment's folder."""
    value = {field: getattr(kept, field) for field in Kept.__dataclass_fields__}
    value["findings"] = kept.findings.to_json()
    write_whole(folder / "findings.json", json.dumps(value, indent=1, ensure_ascii=False).encode())


def read_kept(folder: Path) -> Kept | None:
    """The finished experiment in a folder; None if there is none, or if a figure of it is missing.

    Raises ValueError for a file that is damaged.
    """
    path = folder / "findings.json"
    value: dict[str, Any] | None = read_json(path)
    if value is None:
        return None
    try:
        kept = Kept(**{**value, "findings": Findings.from_json(value["findings"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); remove it to have it made anew") from None
    if not all((folder / "figures" / file_name).exists() for file_name, _ in kept.findings.figures):
        return None
    return kept


def sources_digest(name: str) -> str:
    """Digest of an experiment's file and of all files of benchmarks/ that it imports, directly or not.

    Raises ValueError if there is no such experiment.
    """
    waiting, seen = [experiments.file_of(name)], set[Path]()
    digest = hashlib.sha256()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        source = path.read_bytes()
        digest.update(path.name.encode() + b"\0" + source + b"\0")
        files = (ROOT / (module.replace(".", "/") + ".py") for module in sorted(_imported(source)))
        waiting += [file for file in files if file.exists()]
    return digest.hexdigest()


def _imported(source: bytes) -> set[str]:
    """Modules of benchmarks/ that a module names in its imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {module for module in found if module.startswith("benchmarks.")}
