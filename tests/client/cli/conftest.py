"""A real gRPC server on 127.0.0.1 that serves known trajectories, and the program as its user calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import grpc
import numpy as np
import pytest
from click.testing import CliRunner, Result
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from numpy.typing import NDArray

from support.server import ServerProcess
from trajmon.cli import main
from trajmon_protos.v1 import ingest_pb2, query_pb2, query_pb2_grpc, types_pb2

TOKEN = "a-token-for-tests"
EVIL_NAME = "\x1b[31m[bold]evil[/bold]\nsecond line"
Floats = NDArray[np.float64]


def cosines(gram: Floats) -> Floats:
    """The map of a Gram matrix; NaN where a point has no length."""
    squares = np.diag(gram).copy()
    squares[squares == 0] = np.nan
    lengths = np.sqrt(squares)
    entries: Floats = np.clip(gram / np.outer(lengths, lengths), -1.0, 1.0)
    return entries


@dataclass
class KnownRun:
    """A run whose every answer follows from its points."""

    name: str
    points: Floats
    """[T, p]; a row of NaN is a checkpoint that held NaN."""
    findings: list[types_pb2.IntegrityFinding] = field(default_factory=list)
    steps: int = 100
    mode: NDArray[np.uint8] | None = None
    """[T] 1: norm-only training. None: as a server that does not know of it."""
    lacking: list[query_pb2.OpenCheckpoint] = field(default_factory=list)
    agent: ingest_pb2.ReportStatusRequest | None = None
    gram_error: Floats | None = None
    """[T, T] standard errors, 0 where exact. None: nothing is an estimate."""
    snapshot_mode: ingest_pb2.SnapshotMode.ValueType = ingest_pb2.SNAPSHOT_MODE_UNSPECIFIED
    plan: types_pb2.Plan | None = None
    outlooks: list[query_pb2.GroupOutlook] = field(default_factory=list)

    @property
    def error(self) -> Floats:
        """Of the map about the origin."""
        assert self.gram_error is not None
        lengths = np.linalg.norm(self.points, axis=1)
        errors: Floats = self.gram_error / np.outer(lengths, lengths)
        return errors

    @property
    def gram(self) -> Floats:
        gram: Floats = self.points @ self.points.T
        return gram

    def relative_map(self, tau: int) -> tuple[NDArray[np.int64], Floats]:
        """Numbers and map, row tau left out."""
        keep = np.delete(np.arange(len(self.points)), tau)
        shifted = self.points[keep] - self.points[tau]
        return keep, cosines(shifted @ shifted.T)

    def hallmarks(self) -> dict[str, NDArray[Any]]:
        """A few hallmarks by their definitions; `mds` as of each checkpoint."""
        t = len(self.points)
        updates = np.diff(self.points, axis=0)
        lengths = np.linalg.norm(updates, axis=1)
        angle = np.full(t, np.nan)
        # A step of no length has no direction.
        for i in (i for i in range(2, t) if lengths[i - 1] * lengths[i - 2] > 0):
            dot = updates[i - 1] @ updates[i - 2]
            angle[i] = np.degrees(np.arccos(np.clip(dot / (lengths[i - 1] * lengths[i - 2]), -1, 1)))
        entries = cosines(self.gram)
        means = [_mean(entries[: i + 1, : i + 1]) for i in range(t)]
        about_first = self.relative_map(0)[1] if t else entries
        relative = [_mean(about_first[:i, :i]) for i in range(t)]
        modes: dict[str, NDArray[Any]] = {} if self.mode is None else {"mode": self.mode}
        errors: dict[str, NDArray[Any]] = {}
        if self.gram_error is not None:
            errors["error:mds"] = np.array([_mean(self.error[: i + 1, : i + 1]) for i in range(t)])
        return (
            modes
            | errors
            | {
                "checkpoint": np.arange(t),
                "step": np.arange(t) * self.steps,
                "mds": np.array(means, dtype=np.float64),
                "relative_mds": np.array(relative, dtype=np.float64),
                "update_angle_degrees": angle,
                "apex_angle_origin_degrees": np.degrees(np.arccos(entries[0])) if t else np.empty(0),
                "apex_angle_initialization_degrees": np.full(t, np.nan),
                "parameter_norm": np.linalg.norm(self.points, axis=1),
                "distance_from_initialization": np.linalg.norm(self.points - self.points[:1], axis=1),
                "update_norm": np.concatenate([np.full(min(t, 1), np.nan), lengths]),
            }
        )

    def summary(self) -> query_pb2.RunSummary:
        """As ListRuns and GetRun give it."""
        t = len(self.points)
        summary = query_pb2.RunSummary(
            run_id=self.name.encode().hex().ljust(32, "0")[:32],
            name=self.name,
            tags=["test"],
            phase=ingest_pb2.RUN_PHASE_RUNNING,
            checkpoints=t,
            last_step=max(0, t - 1) * self.steps,
            last_time_unix_seconds=1.7e9 if t else 0.0,
            parameters=self.points.shape[1],
            open_checkpoints=len(self.lacking),
            snapshot_mode=self.snapshot_mode,
        )
        if self.gram_error is not None:
            summary.sketch.CopyFrom(types_pb2.SketchSpec(version=1, seed=3, bins=4093))
            summary.mean_directional_similarity_error = _mean(self.error)
        if self.mode is not None:
            summary.mode = (
                types_pb2.TRAINING_MODE_NORM_ONLY if self.mode[-1] else types_pb2.TRAINING_MODE_FULL
            )
        mean = _mean(cosines(self.gram))
        if np.isfinite(mean):
            summary.mean_directional_similarity = mean
            summary.advice.CopyFrom(
                types_pb2.Advice(
                    state=types_pb2.ADVICE_STATE_EXPLORE,
                    checkpoint=t - 1,
                    evidence={"forecast": 0.4, "undefined": float("nan")},
                    reason="the forecast of the remaining displacement is 0.40, over 0.10",
                    policy="test 1",
                )
            )
        return summary


def _mean(entries: Floats) -> float:
    defined = entries[np.isfinite(entries)]
    return float(defined.mean()) if defined.size else float("nan")


def walk(t: int, seed: int = 0, p: int = 400) -> Floats:
    """A random walk with momentum whose steps shrink in two drops, from an initialization of length 1: [t, p]."""
    rng = np.random.default_rng(seed)
    points = [rng.standard_normal(p) / np.sqrt(p)]
    velocity = np.zeros(p)
    for i in range(1, t):
        scale = 0.3 if i < t / 3 else 0.1 if i < 2 * t / 3 else 0.02
        velocity = 0.9 * velocity + rng.standard_normal(p) * (4 / np.sqrt(p * t))
        points.append(points[-1] + scale * velocity)
    return np.array(points[:t]).reshape(t, p)


def in_spans(t: int, *spans: tuple[int, int]) -> NDArray[np.uint8]:
    """1 within the spans, last ones exclusive, else 0: [t]."""
    mode = np.zeros(t, dtype=np.uint8)
    for start, stop in spans:
        mode[start:stop] = 1
    return mode


def estimates(t: int) -> Floats:
    """Standard errors of the last twelve of `t` rows: half of their entries with checkpoints long before."""
    errors = np.zeros((t, t))
    errors[t - 12 :, 1 : t - 12 : 2] = 0.003
    both: Floats = errors + errors.T
    return both


def _runs() -> dict[str, KnownRun]:
    holes = walk(60, seed=3)
    holes[[17, 18, 40]] = np.nan
    finding = types_pb2.IntegrityFinding(
        kind="identical_checkpoints", checkpoint=4, text="checkpoints 3 and 4 hold identical bytes"
    )
    lacking = [
        query_pb2.OpenCheckpoint(
            checkpoint=7 + i, attempt=2, num_parts=64, missing_parts=range(i, 12 * i + 2)
        )
        for i in range(5)
    ]
    agent = ingest_pb2.ReportStatusRequest(
        checkpoints_recorded=19, checkpoints_pending=12, checkpoints_uncomputed=4, lag_seconds=40.2
    )
    found = [
        KnownRun("resnet20", walk(60, seed=1)),
        KnownRun("five", walk(5, seed=2), findings=[finding] * 7),
        KnownRun("long", walk(400, seed=4)),
        KnownRun("holes", holes),
        KnownRun("single", walk(1)),
        KnownRun("empty", walk(0)),
        KnownRun("undefined", np.full((6, 4), np.nan)),
        KnownRun("frozen", np.ones((4, 3))),
        KnownRun(EVIL_NAME, walk(3)),
        KnownRun("switched", walk(60, seed=5), mode=in_spans(60, (20, 35), (48, 60))),
        KnownRun("alternating", walk(400, seed=6), mode=(np.arange(400) // 40 % 2).astype(np.uint8)),
        KnownRun(
            "parts",
            walk(7, seed=7),
            lacking=lacking,
            agent=agent,
            plan=types_pb2.Plan(
                steps_ahead=12_000,
                rate_sum_ahead=3.5,
                rate_squared_sum_ahead=0.01,
                objective="accu\x1bracy",
                larger_is_better=True,
                objective_tolerance=0.01,
            ),
            outlooks=[
                query_pb2.GroupOutlook(group="norm", remaining=0.02, low=0.01, high=0.03, settled_since=3),
                query_pb2.GroupOutlook(group="mlp", remaining=0.5, low=0.4, high=0.6),
                query_pb2.GroupOutlook(group="conv", remaining=0.7, low=0.1, high=np.nan),
            ],
        ),
        KnownRun(
            "sketched",
            walk(60, seed=8),
            gram_error=estimates(60),
            snapshot_mode=ingest_pb2.SNAPSHOT_MODE_ANCHORED,
        ),
    ]
    return {run.name: run for run in found}


def array_chunks(arrays: dict[str, NDArray[Any]], piece: int = 10_000) -> Iterator[types_pb2.ArrayChunk]:
    """Arrays in pieces, as the wire contract says; an empty one is one piece."""
    for name, array in arrays.items():
        dtype = {"i": "<i8", "u": "|u1"}.get(array.dtype.kind, "<f8")
        data = np.ascontiguousarray(array, dtype=dtype).tobytes()
        for offset in range(0, max(len(data), 1), piece):
            yield types_pb2.ArrayChunk(
                name=name,
                dtype=dtype,
                shape=array.shape,
                offset_bytes=offset,
                data=data[offset : offset + piece],
            )


def refuse(
    context: grpc.ServicerContext, code: int, text: str, field_name: str = "", why: str = ""
) -> NoReturn:
    """End a call with rich details."""
    details = [error_details_pb2.ErrorInfo(reason="TEST", domain="trajmon")]
    packed = []
    for detail in [*details, *([_bad_request(field_name, why)] if field_name else [])]:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    context.abort_with_status(
        rpc_status.to_status(status_pb2.Status(code=code, message=text, details=packed))
    )
    raise AssertionError("abort_with_status returns by raising")


def _bad_request(name: str, why: str) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation(field=name, description=why)
    return error_details_pb2.BadRequest(field_violations=[violation])


class KnownRuns(query_pb2_grpc.QueryServiceServicer):
    """QueryService over the known runs, faithful to the contract."""

    def __init__(self) -> None:
        self.runs = _runs()

    def _run(self, name: str, context: grpc.ServicerContext) -> KnownRun:
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "token is not valid")
        for run in self.runs.values():
            if name in (run.name, run.summary().run_id):
                return run
        refuse(context, code_pb2.NOT_FOUND, f"no run named {name!r}; `trajmon runs` lists what there is")

    def _scope(self, scope: str, context: grpc.ServicerContext) -> None:
        if scope not in ("network", "group:norm", "layer:conv1.weight"):
            refuse(
                context, code_pb2.NOT_FOUND, f"there is no scope {scope!r}; there are: network, group:norm"
            )

    def ListRuns(self, request: Any, context: Any) -> query_pb2.ListRunsResponse:
        self._run("empty", context)
        names = sorted(self.runs)
        start = int(request.page_token or 0)
        # Two a page, so that every list has several pages.
        page = [self.runs[name].summary() for name in names[start : start + 2]]
        following = str(start + 2) if start + 2 < len(names) else ""
        return query_pb2.ListRunsResponse(runs=page, next_page_token=following)

    def GetRun(self, request: Any, context: Any) -> query_pb2.GetRunResponse:
        run = self._run(request.run, context)
        last = types_pb2.CheckpointInfo(plan=run.plan)
        return query_pb2.GetRunResponse(
            summary=run.summary(),
            findings=run.findings,
            open=run.lacking,
            agent=run.agent,
            checkpoints=[query_pb2.CheckpointDetail(), query_pb2.CheckpointDetail(info=last)],
            outlooks=run.outlooks,
        )

    def GetMap(self, request: Any, context: Any) -> Iterator[query_pb2.GetMapResponse]:
        run = self._run(request.run, context)
        self._scope(request.scope, context)
        t = len(run.points)
        numbers, entries = np.arange(t), cosines(run.gram)
        if request.HasField("relative_to"):
            if request.relative_to >= t:
                why = f"checkpoint {request.relative_to} is not among those of the map (0 to {t - 1})"
                refuse(context, code_pb2.INVALID_ARGUMENT, "request is not valid", "relative_to", why)
            numbers, entries = run.relative_map(request.relative_to)
        stop = request.stop if request.HasField("stop") else t
        keep = (numbers >= request.start) & (numbers < stop)
        numbers, entries = numbers[keep], entries[np.ix_(keep, keep)]
        if request.kernel == query_pb2.KERNEL_RBF:
            entries = np.exp(entries - 1)
        arrays = {
            "map": entries,
            "gram": run.gram[np.ix_(numbers, numbers)],
            "checkpoint": numbers,
            "step": numbers * run.steps,
        }
        if run.mode is not None:
            arrays["mode"] = run.mode[numbers]
        if run.gram_error is not None:
            arrays["gram_error"] = run.gram_error[np.ix_(numbers, numbers)]
            arrays["error"] = run.error[np.ix_(numbers, numbers)]
        for chunk in array_chunks(arrays):
            yield query_pb2.GetMapResponse(chunk=chunk)

    def GetCrossMap(self, request: Any, context: Any) -> Iterator[query_pb2.GetCrossMapResponse]:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "these runs are compared by nobody")
        yield query_pb2.GetCrossMapResponse()

    def WatchRun(self, request: Any, context: Any) -> Iterator[query_pb2.WatchRunResponse]:
        summary = self._run(request.run, context).summary()
        yield query_pb2.WatchRunResponse(summary=summary)
        summary.phase = ingest_pb2.RUN_PHASE_FINISHED
        yield query_pb2.WatchRunResponse(summary=summary)

    def GetHallmarks(self, request: Any, context: Any) -> Iterator[query_pb2.GetHallmarksResponse]:
        run = self._run(request.run, context)
        self._scope(request.scope, context)
        for chunk in array_chunks(run.hallmarks()):
            yield query_pb2.GetHallmarksResponse(chunk=chunk)


@dataclass(frozen=True)
class Served:
    """Where the known runs are served."""

    address: str
    runs: dict[str, KnownRun]


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """The server, for all tests: it never changes."""
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    servicer = KnownRuns()
    query_pb2_grpc.add_QueryServiceServicer_to_server(servicer, server)
    healthy = health.HealthServicer()
    healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Served(f"127.0.0.1:{port}", servicer.runs)
    server.stop(None).wait()


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The monitor server itself, without runs at first."""
    started = ServerProcess(tmp_path_factory.mktemp("monitor") / "home").start()
    yield started
    assert started.stop() == 0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own TRAJMON_HOME with the right token and right modes."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    monkeypatch.setenv("TRAJMON_HOME", str(folder))
    return folder


@pytest.fixture
def trajmon(served: Served, home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the program against the server: `trajmon("show", "resnet20")`."""
    monkeypatch.setenv("TRAJMON_SERVER", served.address)
    monkeypatch.delenv("NO_COLOR", raising=False)

    def invoke(*arguments: str, env: dict[str, str | None] | None = None) -> Result:
        result = CliRunner().invoke(main, list(arguments), env=env)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke
