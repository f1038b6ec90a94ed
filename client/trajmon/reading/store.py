"""The Zarr maps in a data directory, as files: which there are, and one of them opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from trajmon.reading.errors import DataDirectoryError, UnknownNameError

__all__ = [
    "FORMATS",
    "LOST_ATTEMPT",
    "StoredRun",
    "find_run",
    "opened",
    "require_rows",
]

FORMATS = (1, 2)
"""Versions of the layout that are read here; docs/formats.md, "Zarr maps"."""
LOST_ATTEMPT = -1
"""In `attempt`: the row has been lost, so that it has no file."""
_MOST_NAMES = 12


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One run's maps on disk."""

    path: Path
    run_id: str
    name: str


def find_run(data_dir: Path, run: str) -> StoredRun:
    """The maps of a run, by its name or id, below a server's data directory (or in a folder of such maps).

    Raises DataDirectoryError and UnknownNameError.
    """
    known, damaged = [], []
    for path in _stores(data_dir):
        try:
            known.append(_identify(path))
        except DataDirectoryError as error:
            damaged.append(str(error))
    by_name = [found for found in known if found.name == run]
    found = by_name or [found for found in known if found.run_id == run]
    if len(found) > 1:
        ids = ", ".join(sorted(one.run_id for one in found))
        raise UnknownNameError(
            f"{len(found)} runs in {data_dir} are named {run[:80]!r}; name one by its id: {ids}"
        )
    if found:
        return found[0]
    names = sorted(one.name for one in known)
    listed = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    text = f"no run named {run[:80]!r} in {data_dir}; there are: {listed or 'none'}"
    if damaged:
        text += f"; {len(damaged)} could not be looked at: {damaged[0]}"
    raise UnknownNameError(text)


def _stores(data_dir: Path) -> list[Path]:
    maps = data_dir / "maps"
    try:
        if not data_dir.is_dir():
            raise DataDirectoryError(
                f"there is no folder {data_dir}; data_dir is what `trajmon-server serve` was given"
            )
        folder = maps if maps.is_dir() else data_dir
        stores = sorted(path for path in folder.iterdir() if path.name.endswith(".zarr"))
    except OSError as error:
        raise _unreadable(Path(error.filename or data_dir), error) from error
    if not stores and folder is data_dir:
        raise DataDirectoryError(
            f"{data_dir} is no data directory: it holds no maps/RUN_ID.zarr; data_dir is what `trajmon-server serve` "
            "was given"
        )
    return stores


def _unreadable(path: Path, error: OSError) -> DataDirectoryError:
    mend = "; it can be read by who runs the server" if isinstance(error, PermissionError) else ""
    return DataDirectoryError(f"cannot read {path}: {error.strerror or error}{mend}")


def _identify(path: Path) -> StoredRun:
    """Name and id out of a store's own document. Raises DataDirectoryError."""
    document = path / "zarr.json"
    try:
        attributes = json.loads(document.read_bytes())["attributes"]
        version, run_id, name = (attributes[key] for key in ("trajmon_format", "run_id", "run_name"))
    except OSError as error:
        raise _unreadable(document, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataDirectoryError(
            f"{document} is damaged or not of trajmon ({error!r}); {_REBUILD}"
        ) from error
    if version not in FORMATS:
        raise DataDirectoryError(
            f"{path} is of format {version!r}, this trajmon reads {' and '.join(map(str, FORMATS))}; "
            "read it with the trajmon whose server wrote it, or through that server"
        )
    if not isinstance(name, str) or not isinstance(run_id, str):
        raise DataDirectoryError(f"{document} is damaged: run_name and run_id are no texts; {_REBUILD}")
    return StoredRun(path, run_id, name)


_REBUILD = "its server makes it again when it is started"


@contextmanager
def opened(stored: StoredRun) -> Iterator[xr.Dataset]:
    """The store as it is now, nothing of it read yet. What cannot be read raises DataDirectoryError.

    The store of a live run grows; what is opened here keeps its length.
    """
    # The version first: of another one, anything may be named otherwise.
    _identify(stored.path)
    try:
        with xr.open_zarr(stored.path, chunks=None, consolidated=True) as dataset:
            _require_columns(dataset)
            yield dataset
    except OSError as error:
        raise _unreadable(Path(error.filename or stored.path), error) from error
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise DataDirectoryError(f"{stored.path} cannot be read: {error}; {_REBUILD}") from error


def _require_columns(store: xr.Dataset) -> None:
    """Refuse a store that lacks files of the arrays over checkpoints: Zarr would read their fill values."""
    count = store.sizes["checkpoint"]
    for name in ("attempt", "checkpoint", "step", "superseded"):
        (size,) = store[name].encoding["chunks"]
        for chunk in range(-(-count // size)):
            path = _folder(store, name) / f"c.{chunk}"
            if not path.exists():
                raise DataDirectoryError(
                    f"{path} is missing: the store was not written to its end; {_REBUILD}"
                )


def require_rows(store: xr.Dataset, name: str, index: int, numbers: NDArray[np.int64]) -> None:
    """Refuse a Gram, `gram` or `group_gram`, that lacks files of one of the rows `numbers` of layer or group `index`.

    Zarr would read NaN, and a mean would be taken over what happens to be there. Raises DataDirectoryError.
    """
    sealed, tail = store[name], store[f"{name}_tail"]
    layers, strip_rows, _ = sealed.encoding["shards"]
    sealed_folder, tail_folder = _folder(store, name), _folder(store, f"{name}_tail")
    tail_layers = tail.encoding["shards"][0]
    complete: set[int] = set()
    for number in numbers.tolist():
        strip = number // strip_rows
        shard = sealed_folder / f"c.{index // layers}.{strip}.0"
        if strip in complete or shard.exists():
            complete.add(strip)
            continue
        row = tail_folder / f"c.{index // tail_layers}.{number}.0"
        # The shard again: a live server may have sealed the strip, and cleared the tail, in between.
        if not row.exists() and not shard.exists():
            raise DataDirectoryError(f"{row} is missing: checkpoint {number} cannot be read; {_REBUILD}")


def _folder(store: xr.Dataset, name: str) -> Path:
    return Path(store.encoding["source"]) / name
