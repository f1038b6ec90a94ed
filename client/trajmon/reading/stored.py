"""A run read straight from a data directory: the server need not run, and nothing is written.

The published Zarr store holds Gram rows and update products; maps and hallmarks are made of them here. It holds
neither the advice, nor the metrics, nor what was trained: only a server tells those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from trajmon.reading import measures
from trajmon.reading.base import Arrays, LayoutFacts, MapRequest, last_values
from trajmon.reading.errors import NotAvailableError, UnknownNameError
from trajmon.reading.store import LOST_ATTEMPT, StoredRun, find_run, opened, require_rows
from trajmon_protos.errors import ScopeError
from trajmon_protos.names import Scope, parse_scope
from trajmon_protos.record import PRODUCTS

__all__ = ["HALLMARKS", "StoreSource"]

HALLMARKS = (
    "mds",
    "relative_mds",
    "update_angle_degrees",
    "apex_angle_initialization_degrees",
    "apex_angle_origin_degrees",
    "parameter_norm",
    "distance_from_initialization",
    "update_norm",
)
"""Those that are made here; a server has more."""

_Floats = NDArray[np.float64]


class StoreSource:
    """One run of a data directory. The store is opened anew for each question."""

    def __init__(self, data_dir: Path, run: str) -> None:
        """Find the run by its name or id. Raises ReadingError."""
        self._stored: StoredRun = find_run(data_dir, run)
        with opened(self._stored):
            pass

    def facts(self) -> dict[str, Any]:
        """What the files tell of the run as a whole."""
        with opened(self._stored) as store:
            superseded = store["superseded"].values
            path = np.flatnonzero(~superseded)
            steps = store["step"].values[path]
        return {
            "run": self._stored.name,
            "run_id": self._stored.run_id,
            "source": str(self._stored.path),
            "num_checkpoints": len(path),
            "num_superseded": int(superseded.sum()),
            "last_step": int(steps[-1]) if steps.size else -1,
            "not_available": "advice, findings, metrics, mode and further hallmarks: a server tells them",
        }

    def layout(self) -> LayoutFacts:
        """Layers and groups."""
        with opened(self._stored) as store:
            groups = {name: tuple(members) for name, members in store.attrs["groups"].items()}
            return LayoutFacts(tuple(map(str, store["layer"].values)), groups)

    def map(self, request: MapRequest) -> Arrays:
        """One map with linear kernel. Raises NotAvailableError for another one."""
        if request.kernel != "linear":
            raise NotAvailableError(
                f"a map with kernel {request.kernel!r} cannot be had from a data directory; read it from a server"
            )
        with opened(self._stored) as store:
            scope = _find_scope(store, request.scope)
            numbers = _numbers(store, request)
            known = _Known.read(store, scope, numbers)
            steps = store["step"].values[numbers]
        if request.relative_to is None:
            whole = known.about_origin() | {"gram": known.filled}
            if known.error is not None:
                whole["gram_error"] = known.error
            return whole | {"checkpoint": numbers, "step": steps}
        tau = _position(numbers, request.relative_to)
        keep = np.delete(np.arange(len(numbers)), tau)
        recorded = known.products["displacement_squared"] if request.relative_to == 0 else None
        entries = measures.relative_map(known.gram, tau, recorded)
        answer: dict[str, NDArray[Any]] = {"map": entries, "gram": known.filled[np.ix_(keep, keep)]}
        if known.error is not None:
            answer["gram_error"] = known.error[np.ix_(keep, keep)]
            answer["is_partial"] = np.array(True)
        return answer | {"checkpoint": numbers[keep], "step": steps[keep]}

    def hallmarks(self, scope: str) -> Arrays:
        """The hallmarks of :data:`HALLMARKS` along the path."""
        with opened(self._stored) as store:
            found = _find_scope(store, scope)
            numbers = _numbers(store, MapRequest())
            known = _Known.read(store, found, numbers)
            head = {"checkpoint": numbers, "step": store["step"].values[numbers]}
        return head | known.hallmarks()

    def checkpoints(self) -> Arrays:
        """Everything over the checkpoints of the path that does not depend on a scope."""
        with opened(self._stored) as store:
            numbers = _numbers(store, MapRequest())
            names = ("step", "epoch", "learning_rate", "time", "attempt")
            columns = {name: store[name].values[numbers] for name in names}
        return {"checkpoint": numbers, **columns, "time_unix_seconds": columns.pop("time")}

    def latest(self) -> Mapping[str, Mapping[str, float]]:
        """The latest hallmarks of every group."""
        latest = {}
        for group in self.layout().groups:
            arrays = self.hallmarks(f"group:{group}")
            latest[group] = {
                name: value
                for name, value in last_values(arrays).items()
                if name not in ("checkpoint", "step")
            }
        return latest

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the store holds of one scope, over T checkpoints."""

    gram: _Floats
    """[T, T], exact entries alone; NaN where missing or estimated."""
    filled: _Floats
    """[T, T], with estimates where there is nothing exact."""
    error: _Floats | None
    """[T, T], standard errors of `filled`, 0 where exact; None: no entry is estimated."""
    products: Mapping[str, _Floats]
    """[T] each."""

    @classmethod
    def read(cls, store: xr.Dataset, scope: Scope, numbers: NDArray[np.int64]) -> _Known:
        """Raises what the store raises."""
        prefix = "group_" if scope.kind == "group" else ""
        index = list(map(str, store[scope.kind].values)).index(scope.name)
        recorded = numbers[store["attempt"].values[numbers] != LOST_ATTEMPT]
        require_rows(store, f"{prefix}gram", index, recorded)

        def square(name: str) -> _Floats | None:
            if f"{prefix}{name}" not in store:
                return None
            return _square(store, f"{prefix}{name}", {scope.kind: index}, numbers)

        gram = square("gram")
        assert gram is not None
        products = {
            name: store[f"{prefix}{name}"].isel({scope.kind: index}).values[numbers] for name in PRODUCTS
        }
        estimate, error = square("gram_estimate"), square("gram_error")
        if estimate is None or error is None:
            return cls(gram, gram, None, products)
        is_estimated = np.isnan(gram) & np.isfinite(estimate) & np.isfinite(error)
        # Lengths are exact or not known.
        np.fill_diagonal(is_estimated, False)
        if not is_estimated.any():
            return cls(gram, gram, None, products)
        return cls(gram, np.where(is_estimated, estimate, gram), np.where(is_estimated, error, 0.0), products)

    def about_origin(self) -> dict[str, _Floats]:
        """`map`, and `error` where entries are estimated."""
        entries = measures.origin_map(self.filled)
        if self.error is None:
            return {"map": entries}
        lengths = measures.roots(np.diagonal(self.filled))
        error = np.where(np.isnan(entries), np.nan, self.error / lengths[:, None] / lengths[None, :])
        return {"map": entries, "error": error}

    def hallmarks(self) -> dict[str, _Floats]:
        """By the names of :data:`HALLMARKS`, [T] each; `error:mds` where it rests on estimates."""
        norms = np.diagonal(self.filled)
        update, moved = self.products["update_squared"], self.products["displacement_squared"]
        shown = {name: np.full(len(norms), np.nan) for name in HALLMARKS}
        about_origin = self.about_origin()
        shown["mds"] = measures.running_mean(about_origin["map"])
        if len(norms):
            about_start = measures.relative_map(self.gram, 0, moved)
            shown["relative_mds"][1:] = measures.running_mean(about_start)
            shown["relative_mds"][self._first_estimated() :] = np.nan
            shown["apex_angle_origin_degrees"] = measures.triangle_degrees(
                norms, np.full_like(norms, norms[0]), moved
            )
        shown["update_angle_degrees"][2:] = measures.angle_degrees(
            self.products["update_dot"][2:], update[2:], update[1:-1]
        )
        if len(norms) > 1:
            shown["apex_angle_initialization_degrees"][1:] = measures.angle_degrees(
                self.products["displacement_dot"][1:], moved[1:], np.full(len(norms) - 1, moved[1])
            )
        shown["parameter_norm"] = measures.roots(norms)
        shown["distance_from_initialization"] = measures.roots(moved)
        shown["update_norm"] = measures.roots(update)
        if "error" in about_origin:
            # The entries share their sketches: their mean is at most as wrong as they are on average.
            shown["error:mds"] = measures.running_mean(about_origin["error"])
        return shown

    def _first_estimated(self) -> int:
        """Position from which means about a checkpoint would leave out what only a server can estimate."""
        rows = np.tril(np.isnan(self.gram) & ~np.isnan(self.filled)).any(axis=1)
        return int(rows.argmax()) if rows.any() else len(self.gram)


def _square(store: xr.Dataset, name: str, where: Mapping[str, int], numbers: NDArray[np.int64]) -> _Floats:
    """A matrix over the checkpoints `numbers`, [T, T], symmetric; NaN where missing."""
    entries: _Floats = store[name].isel(where).values
    # Sealed rows before the tail: a row may move that way in between, not back.
    unsealed = np.flatnonzero(np.isnan(entries).all(axis=1))
    if unsealed.size:
        entries[unsealed] = store[f"{name}_tail"].isel({**where, "checkpoint": unsealed}).values
    if len(numbers) != len(entries):
        entries = entries[np.ix_(numbers, numbers)]
    # In place: of a long run, another copy would be the largest thing in memory.
    for row in range(len(entries)):
        entries[:row, row] = entries[row, :row]
    return entries


def _find_scope(store: xr.Dataset, text: str) -> Scope:
    try:
        scope = parse_scope(text)
    except ScopeError as error:
        raise UnknownNameError(str(error)) from error
    names = list(map(str, store[scope.kind].values))
    if scope.name not in names:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise UnknownNameError(f"there is no {scope.kind} {scope.name[:80]!r}; there are: {shown}")
    return scope


def _numbers(store: xr.Dataset, request: MapRequest) -> NDArray[np.int64]:
    superseded = store["superseded"].values
    shown = np.flatnonzero(np.ones_like(superseded) if request.include_superseded else ~superseded)
    start = 0 if request.start is None else request.start
    stop = len(superseded) if request.stop is None else request.stop
    if start > stop:
        raise UnknownNameError(f"start {start} is beyond stop {stop}")
    return np.asarray(shown[(shown >= start) & (shown < stop)], dtype=np.int64)


def _position(numbers: NDArray[np.int64], number: int) -> int:
    found = np.flatnonzero(numbers == number)
    if not found.size:
        ends = f"{numbers[0]} to {numbers[-1]}" if numbers.size else "none"
        raise UnknownNameError(f"checkpoint {number} is not among those of the map ({ends})")
    return int(found[0])
