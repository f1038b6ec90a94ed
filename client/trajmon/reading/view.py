"""A run as a reader in Python sees it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import xarray as xr

from trajmon.reading import labels
from trajmon.reading.base import MapRequest, Source
from trajmon.reading.errors import ReadingError

if TYPE_CHECKING:
    from trajmon.query import Kernel

__all__ = ["RunView"]


class RunView:
    """One run, read from a server or from a data directory: see :func:`trajmon.open_run`.

    Every property and method asks anew, so a live run shows its newest checkpoints. Undefined is NaN. Where numbers are
    estimates their standard errors stand beside them. Raises QueryError (a server's word) or ReadingError. A context
    manager; `close` gives a connection up.
    """

    def __init__(self, source: Source) -> None:
        """Take over a source, which is closed with the view."""
        self._source = source
        facts = source.facts()
        self.name: str = facts["run"]
        """The run's name."""
        self.run_id: str = facts["run_id"]
        """32 hex digits."""
        self._where: str = facts["source"]

    def __repr__(self) -> str:
        return f"<trajmon run {self.name!r} in {self._where}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is held open."""
        self._source.close()

    @property
    def scopes(self) -> tuple[str, ...]:
        """Everything that `map` and `hallmarks` take as their scope."""
        layout = self._source.layout()
        groups = ("network" if name == "network" else f"group:{name}" for name in layout.groups)
        return (*groups, *(f"layer:{name}" for name in layout.layers))

    @property
    def layers(self) -> xr.Dataset:
        """Over (layer): what is known of each; over (group, layer): `member`, which layers a group holds."""
        return labels.label_layers(self._source.layout(), self._source.facts())

    @property
    def checkpoints(self) -> xr.Dataset:
        """Over (checkpoint), along the path: `step`, `epoch`, `learning_rate`, `time`.

        A server adds `mode` and the metrics, as `metric:NAME`; a data directory `attempt`.
        """
        return labels.label_checkpoints(self._source.checkpoints(), self._source.facts())

    @property
    def summary(self) -> xr.Dataset:
        """Over (group): the latest hallmarks. What is known of the run as a whole stands in its attributes."""
        return labels.label_summary(self._source.latest(), self._source.facts())

    def map(
        self,
        scope: str = "network",
        relative_to: int | None = None,
        kernel: Kernel = "linear",
        *,
        start: int | None = None,
        stop: int | None = None,
        include_superseded: bool = False,
    ) -> xr.DataArray:
        """A trajectory map, (checkpoint, checkpoint_j), float64; its mean is the attribute `mds` or `relative_mds`.

        Cosines about the origin, or about checkpoint `relative_to`, which is then left out. `start` is inclusive,
        `stop` exclusive. Where entries are estimates, the coordinate `standard_error` says how good they are.
        """
        request = _request(scope, relative_to, kernel, start, stop, include_superseded)
        return labels.label_map(self._source.map(request), request, self._source.facts(), "map")

    def gram(
        self,
        scope: str = "network",
        *,
        start: int | None = None,
        stop: int | None = None,
        include_superseded: bool = False,
    ) -> xr.DataArray:
        """Inner products about the origin, (checkpoint, checkpoint_j), float64; otherwise like `map`."""
        request = _request(scope, None, "linear", start, stop, include_superseded)
        return labels.label_map(self._source.map(request), request, self._source.facts(), "gram")

    def hallmarks(self, scope: str = "network") -> xr.Dataset:
        """Over (checkpoint), along the path: every hallmark as of each checkpoint; docs/hallmarks.md explains them.

        Where a hallmark NAME rests on estimates, NAME_error is its standard error.
        """
        return labels.label_hallmarks(self._source.hallmarks(scope), scope, self._source.facts())


def _request(
    scope: Any, relative_to: Any, kernel: Any, start: Any, stop: Any, include_superseded: bool
) -> MapRequest:
    for name, value in (("relative_to", relative_to), ("start", start), ("stop", stop)):
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 <= value < 2**63):
            raise ReadingError(f"{name}={value!r} is not the number of a checkpoint; they count from 0")
    if not isinstance(scope, str):
        raise ReadingError(f"scope={scope!r} is no text; use network, group:NAME or layer:NAME")
    return MapRequest(scope, relative_to, kernel, start, stop, include_superseded)
