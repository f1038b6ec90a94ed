"""Files that a command leaves behind, other than arrays and tables: pictures, and a Zarr store."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trajmon.cli.files import write_whole
from trajmon.cli.session import Problem
from trajmon.query import MapResult

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["check_store", "write_picture", "write_zarr"]

_DOCUMENT = "zarr.json"

_REMOVE_SECONDS: Final = 2.0


def write_picture(path: Path, figure: Figure) -> None:
    """The figure as PNG, 200 dots an inch, or as SVG, by the path's suffix. Raises Problem.

    An SVG holds its letters as outlines, so that it looks the same everywhere; the same figure gives the same bytes.
    """
    if path.suffix.lower() != ".svg":
        write_whole(path, lambda file: figure.savefig(file, format="png", dpi=200))
        return
    from matplotlib import rc_context

    settings = {"svg.fonttype": "path", "svg.hashsalt": "trajmon"}
    with rc_context(settings):  # type: ignore[arg-type] # the stubs list every key, and want no plain dict
        write_whole(path, lambda file: figure.savefig(file, format="svg", metadata={"Date": None}))


def check_store(path: Path) -> None:
    """Refuse a path where no store can be written, before anything is asked of a server. Raises Problem."""
    folder = path.resolve().parent
    if not folder.is_dir():
        raise Problem(f"cannot write {path}: there is no folder {folder}; create it first")
    if path.exists() and not (path / _DOCUMENT).is_file():
        raise Problem(f"cannot write {path}: something that is no Zarr store is there; name another path")


def write_zarr(path: Path, run: str, result: MapResult) -> None:
    """The map and its Gram as a Zarr v3 store for `xarray.open_zarr`, with the labels that `trajmon.open_run` gives.

    Written beside `path` and then renamed; an earlier store there is replaced. Raises Problem.
    """
    try:
        dataset = _dataset(run, result)
    except ImportError as error:
        raise Problem(
            f"writing Zarr needs xarray and zarr ({error}): pip install 'trajmon[reading]'"
        ) from error
    target = path.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        try:
            with warnings.catch_warnings():
                # Consolidated, as the server's own stores are: readers open it with one read.
                warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
                dataset.to_zarr(beside, mode="w-", zarr_format=3, consolidated=True)
            if target.exists():
                target.replace(old)
            beside.replace(target)
        finally:
            _remove(beside)
            if old.exists() and not target.exists():
                old.replace(target)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise Problem(f"cannot write {path}: {error.strerror or error}; nothing was left there") from error


def _remove(folder: Path) -> None:
    """After a failure, other chunks may still be on their way into the folder: until it stays away."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


def _dataset(run: str, result: MapResult) -> xr.Dataset:
    from trajmon.reading.base import MapRequest
    from trajmon.reading.labels import label_map
    from trajmon.reading.served import map_arrays

    known = map_arrays(result)
    request = MapRequest(result.scope, result.relative_to, result.kernel)
    facts = {"run": run, "run_id": "", "source": "export"}
    entries = label_map(known, request, facts, "map")
    gram = label_map(known, request, facts, "gram")
    # Each has a standard error of its own, so that neither can be a coordinate here.
    dataset = entries.drop_vars("standard_error", errors="ignore").to_dataset()
    dataset["gram"] = gram.drop_vars("standard_error", errors="ignore")
    for name, labelled in (("error", entries), ("gram_error", gram)):
        if "standard_error" in labelled.coords:
            dataset[name] = labelled["standard_error"].drop_vars("standard_error").rename(name)
    dataset.attrs = {key: value for key, value in entries.attrs.items() if key not in ("run_id", "source")}
    return dataset
