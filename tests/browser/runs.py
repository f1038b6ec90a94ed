"""Runs that look like trainings, small enough to be pushed in a second, and what a page may be shown of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.calls import TIMEOUT_SECONDS, open_run, push
from support.rows import SALT, SyntheticRun
from support.server import Client
from trajmon_protos import record
from trajmon_protos.v1 import ingest_pb2, types_pb2

IMAGE = "<img src=x onerror=\"document.title='owned'\">"
"""What a page must show letter by letter."""


@dataclass
class Training(SyntheticRun):
    """A path that comes to rest, in layers that settle one after another; the learning rate falls twice."""

    layer_size: int = 24
    num_checkpoints: int = 24
    names: tuple[str, ...] = tuple(
        f"h.{block}.{part}.weight" for block in range(3) for part in ("attn.qkv", "mlp.fc", "ln_1")
    )
    tags: tuple[str, ...] = ("test",)
    twin: int | None = None
    """This checkpoint holds the parameters of the one before."""
    metric: str = "loss"
    others: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Further groups: name and what a layer's name holds."""

    def __post_init__(self) -> None:
        self.num_layers = len(self.names)
        super().__post_init__()
        random = np.random.default_rng([self.seed, 7])
        shape = (self.num_layers, self.layer_size)
        start, way = random.normal(size=shape), 2 * random.normal(size=shape)
        rest = 2.0 + 3.0 * np.arange(self.num_layers) / self.num_layers
        t = np.arange(self.num_checkpoints)
        gone = 1 - np.exp(-t[:, None] / rest)
        noise = (
            np.cumsum(random.normal(size=(len(t), *shape)), axis=0)
            * 0.08
            * self.rates()[:, None, None] ** 0.5
        )
        self.parameters = start + gone[:, :, None] * way + noise - noise[0]
        if self.twin is not None:
            self.parameters[self.twin] = self.parameters[self.twin - 1]

    def rates(self) -> NDArray[np.float64]:
        """Learning rate of every checkpoint."""
        third = max(1, self.num_checkpoints // 3)
        falls = (np.arange(self.num_checkpoints) // third).astype(np.float64)
        return np.asarray(0.1 * 10.0**-falls, dtype=np.float64)

    @property
    def layer_names(self) -> list[str]:
        return list(self.names)

    def layout(self) -> types_pb2.Layout:
        layout = super().layout()
        holds = {"attention.qkv": ("qkv",), "mlp": ("mlp",), "norm": ("ln",), **self.others}
        for group, parts in holds.items():
            members = [i for i, name in enumerate(self.names) if any(part in name for part in parts)]
            if members:
                layout.groups.append(types_pb2.Group(name=group, layers=members))
        return layout

    def open_request(self, attempt: int = 1) -> ingest_pb2.OpenRunRequest:
        request = super().open_request(attempt)
        del request.tags[:]
        request.tags.extend(self.tags)
        return request

    def header(self, checkpoint: int, previous: int | None, attempt: int) -> types_pb2.RowHeader:
        header = super().header(checkpoint, previous, attempt)
        header.info.learning_rate = float(self.rates()[checkpoint])
        header.info.time_unix_seconds = self.started - 60.0 * (self.num_checkpoints - checkpoint)
        header.info.metrics.clear()
        header.info.metrics[self.metric] = 2.0 / (2 + checkpoint)
        return header


@dataclass(frozen=True)
class Pushed:
    """A run that is being pushed, row by row."""

    client: Client
    run: Training
    epoch: int

    @classmethod
    def begin(cls, client: Client, run: Training) -> Pushed:
        return cls(client, run, open_run(client, run).writer_epoch)

    def push(self, start: int, stop: int) -> None:
        """Rows start to stop - 1, and wait until they are shown."""
        for checkpoint in range(start, stop):
            push(self.client, self.run, self.epoch, self.run.record(checkpoint))

    def push_undefined(self, checkpoint: int, layers: list[int]) -> None:
        """A row in which some layers hold NaN."""
        row = self.run.row(checkpoint)
        row.gram[layers] = np.nan
        row.products[layers] = np.nan
        row.status[layers] = record.LayerStatus.NON_FINITE
        push(self.client, self.run, self.epoch, record.encode(row))

    def report(self, phase: ingest_pb2.RunPhase.ValueType) -> None:
        request = ingest_pb2.ReportStatusRequest(run_id=self.run.run_id, writer_epoch=self.epoch, phase=phase)
        self.client.ingest.ReportStatus(request, metadata=self.client.metadata, timeout=TIMEOUT_SECONDS)


def shown_map(page: Any, element: str = "map") -> NDArray[np.float64]:
    """The entries that a plot of the page holds; NaN where undefined."""
    rows = page.evaluate(
        "id => Array.from(document.getElementById(id).data[0].z, r => Array.from(r, v => Number.isNaN(v) ? null : v))",
        element,
    )
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(rows))


def shown_curves(page: Any, panel: str) -> dict[str, tuple[list[Any], NDArray[np.float64]]]:
    """x and y of every curve of a panel, by its name; NaN where undefined."""
    told = page.evaluate(
        "id => document.getElementById(id).data.map(({name, x, y}) => [name, Array.from(x), Array.from(y)])",
        f"curve-{panel}",
    )
    return {name: (x, np.array(y, dtype=np.float64)) for name, x, y in told}


def keep_screenshot(page: Any, name: str) -> None:
    """A picture of the whole page in out/browser."""
    folder = Path(__file__).parents[2] / "out" / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)


def until(check: Any, seconds: float = 30.0) -> None:
    """Until the check holds; its last failure is raised."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


# Their ids are made here, so that all modules mean the same runs.
_salt = SALT.set("browser")
PLAIN = Training("plain", twin=15)
OTHER = Training("other", seed=3, tags=("test", "second"))
SINGLE = Training("single", num_checkpoints=1)
GAPS = Training("gaps", seed=5, num_checkpoints=9)
HOSTILE = Training(
    "hostile",
    seed=9,
    num_checkpoints=6,
    names=(
        IMAGE,
        f"<script>document.title='owned'</script>.{'a' * 290}",
        "a%2e%2e/b",
        "quo\"te'.w & <b>x</b>",
        "plain.w",
    ),
    tags=("test", IMAGE[:40], "%2e%2e"),
    metric="<b onmouseover=alert(1)>loss</b>",
    others={"<i>group</i>": ("a",), 'gr"oup': ("quo",)},
)
SALT.reset(_salt)
