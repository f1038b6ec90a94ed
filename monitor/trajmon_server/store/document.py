"""The metadata of a store on disk: written with every row, and judged when the store is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trajmon_server.store import layout
from trajmon_server.store.files import TempFolder, replace_file
from trajmon_server.store.layout import ArrayPlan, RunShape

__all__ = ["Stored", "UnusableStore", "read_stored", "shown_plans", "write_metadata"]


class UnusableStore(Exception):
    """A store that cannot be continued. The message says why."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a store says of itself."""

    length: int
    """Checkpoints that a reader sees."""
    with_estimates: bool
    """Whether it has the arrays of sketches and estimates."""


def shown_plans(run: RunShape, *, with_estimates: bool) -> dict[str, ArrayPlan]:
    """The arrays of a store by name."""
    return layout.arrays(run) | (layout.estimate_arrays(run) if with_estimates else {})


def read_stored(folder: Path, run: RunShape) -> Stored | None:
    """What is stored; None if nothing was ever published. UnusableStore if it cannot be continued."""
    try:
        document = json.loads((folder / "zarr.json").read_bytes())
        metadata = document["consolidated_metadata"]["metadata"]
        stored = Stored(int(metadata["step"]["shape"][0]), "estimated" in metadata)
    except FileNotFoundError:
        if not any(folder.glob("gram_tail/c.*")):
            return None
        raise UnusableStore("its zarr.json is missing") from None
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UnusableStore(f"its zarr.json cannot be read ({error})") from error
    plans = shown_plans(run, with_estimates=stored.with_estimates)
    if document != json.loads(layout.documents(run, plans, stored.length)[1]):
        raise UnusableStore("it is of another format, or of another run")
    return stored


def write_metadata(
    folder: Path, temp: TempFolder, prefix: str, run: RunShape, plans: Mapping[str, ArrayPlan], length: int
) -> None:
    """Show `length` checkpoints of the arrays in `plans`."""
    own, root = layout.documents(run, plans, length)
    for name, document in own.items():
        replace_file(temp, folder / name / "zarr.json", document, prefix=prefix)
    replace_file(temp, folder / "zarr.json", root, prefix=prefix)
