"""A run read from a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmon.cli.plain import phase_name, state_name
from trajmon.query import KERNELS, MapResult, QueryClient
from trajmon.reading.base import Arrays, LayoutFacts, MapRequest
from trajmon.reading.errors import UnknownNameError
from trajmon_protos.v1 import query_pb2

__all__ = ["ServerSource", "map_arrays"]

_METRIC = "metric:"
_COLUMNS = ("checkpoint", "step", "mode", "epoch", "learning_rate", "time_unix_seconds")


def map_arrays(result: MapResult) -> Arrays:
    """The arrays of a map by name, as :class:`Source` gives them."""
    found: dict[str, NDArray[Any] | None] = {
        "map": result.map,
        "gram": result.gram,
        "checkpoint": result.checkpoint,
        "step": result.step,
        "mode": result.mode,
        "error": result.error,
        "gram_error": result.gram_error,
    }
    return {name: array for name, array in found.items() if array is not None}


class ServerSource:
    """One run of a server. Owns its connection."""

    def __init__(self, address: str, token: str | None, run: str) -> None:
        """Connect, and see that the run is there. Raises QueryError."""
        self._client = QueryClient(address, token)
        try:
            # By id from now on: a name might be given to another run in between.
            self._run = self._client.get_run(run).summary.run_id
        except BaseException:
            self._client.close()
            raise

    def facts(self) -> dict[str, Any]:
        """What the server tells of the run as a whole."""
        return _facts(self._client.get_run(self._run), self._client.address)

    def layout(self) -> LayoutFacts:
        """Layers and groups, with each layer's shape, dtype and number of parameters."""
        layout = self._client.get_run(self._run).layout
        shapes = [tuple(layer.shape) for layer in layout.layers]
        return LayoutFacts(
            tuple(layer.name for layer in layout.layers),
            {group.name: tuple(group.layers) for group in layout.groups},
            {
                "shape": [" x ".join(map(str, shape)) for shape in shapes],
                "dtype": [layer.dtype for layer in layout.layers],
                "parameters": [int(np.prod(shape, dtype=np.int64)) for shape in shapes],
            },
        )

    def map(self, request: MapRequest) -> Arrays:
        """One map."""
        if request.kernel not in KERNELS:
            raise UnknownNameError(f"there is no kernel {request.kernel!r}; there are: {', '.join(KERNELS)}")
        result = self._client.get_map(
            self._run,
            request.scope,
            request.relative_to,
            request.kernel,
            request.start,
            request.stop,
            request.include_superseded,
        )
        return map_arrays(result)

    def hallmarks(self, scope: str) -> Arrays:
        """Every hallmark that the server has."""
        arrays = self._client.get_hallmarks(self._run, scope)
        aside = {name for name in arrays if name in _COLUMNS or name.startswith(_METRIC)}
        return {
            name: array
            for name, array in arrays.items()
            if name not in aside - {"checkpoint", "step", "mode"}
        }

    def checkpoints(self) -> Arrays:
        """What the server knows of each checkpoint, with its metrics under their own names, `metric:NAME`."""
        arrays = self._client.get_hallmarks(self._run)
        return {name: array for name, array in arrays.items() if name in _COLUMNS or name.startswith(_METRIC)}

    def latest(self) -> Mapping[str, Mapping[str, float]]:
        """The latest hallmarks of every group."""
        found = self._client.get_run(self._run).hallmarks
        return {
            group.group: dict(group.values) | {f"error:{name}": value for name, value in group.errors.items()}
            for group in found
        }

    def close(self) -> None:
        """Give the connection up."""
        self._client.close()


def _facts(details: query_pb2.GetRunResponse, address: str) -> dict[str, Any]:
    run = details.summary
    return {
        "run": run.name,
        "run_id": run.run_id,
        "source": address,
        "state": phase_name(run.phase),
        "tags": list(run.tags),
        "attempt": run.attempt,
        "num_checkpoints": max(run.checkpoints - run.superseded, 0),
        "num_superseded": run.superseded,
        "last_step": run.last_step if run.checkpoints else -1,
        "parameters": run.parameters,
        "advice": state_name(run.advice.state),
        "advice_checkpoint": run.advice.checkpoint,
        "advice_reason": run.advice.reason,
        "findings": [f"checkpoint {finding.checkpoint}: {finding.text}" for finding in details.findings],
    }
