"""Ingest over the wire: each check asserts the answer and what is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from support.calls import get_run, open_run, push, refused
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon_protos import record
from trajmon_protos.v1 import ingest_pb2, query_pb2


@pytest.fixture
def server(shared_server: ServerProcess) -> ServerProcess:
    return shared_server


@pytest.fixture
def client(team_client: Client) -> Client:
    return team_client


def stored_rows(server: ServerProcess, run: SyntheticRun) -> dict[str, bytes]:
    folder = server.data_dir / "journal" / run.run_id
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.row"))}


def test_rows_are_stored_as_they_came(server: ServerProcess, client: Client) -> None:
    run = SyntheticRun("plain")
    epoch = open_run(client, run).writer_epoch
    records = [run.record(n) for n in range(4)]
    for number, data in enumerate(records):
        receipt = push(client, run, epoch, data)
        assert (receipt.checkpoint, receipt.duplicate, receipt.next_checkpoint) == (number, False, number + 1)
        assert receipt.digest == record.read_digest(data)
    assert list(stored_rows(server, run).values()) == records


def test_same_record_again_is_acknowledged_again_and_stored_once(
    server: ServerProcess, client: Client
) -> None:
    run = SyntheticRun("again")
    epoch = open_run(client, run).writer_epoch
    push(client, run, epoch, run.record(0))
    receipt = push(client, run, epoch, run.record(0))
    assert receipt.duplicate
    assert receipt.next_checkpoint == 1
    assert len(stored_rows(server, run)) == 1


def test_other_record_for_a_stored_checkpoint_is_refused(server: ServerProcess, client: Client) -> None:
    run, other = SyntheticRun("conflict"), SyntheticRun("conflict")
    other.parameters = other.parameters + 1.0
    epoch = open_run(client, run).writer_epoch
    push(client, run, epoch, run.record(0))
    before = stored_rows(server, run)
    refused(
        grpc.StatusCode.ALREADY_EXISTS,
        "ROW_CONFLICT",
        "the stored row was kept",
        lambda: push(client, run, epoch, other.record(0)),
    )
    assert stored_rows(server, run) == before


def test_a_gap_is_refused_and_says_what_is_expected(server: ServerProcess, client: Client) -> None:
    run = SyntheticRun("gap")
    epoch = open_run(client, run).writer_epoch
    push(client, run, epoch, run.record(0))
    before = stored_rows(server, run)
    refused(
        grpc.StatusCode.FAILED_PRECONDITION,
        "GAP",
        "checkpoint 3 came, 1 is expected; send that first",
        lambda: push(client, run, epoch, run.record(3)),
    )
    assert stored_rows(server, run) == before


def test_an_older_writer_is_fenced_off(server: ServerProcess, client: Client) -> None:
    run = SyntheticRun("fenced")
    old = open_run(client, run).writer_epoch
    new = open_run(client, run).writer_epoch
    assert new == old + 1
    refused(
        grpc.StatusCode.FAILED_PRECONDITION,
        "FENCED",
        f"writer epoch {old} of run 'fenced' is over, {new} is current",
        lambda: push(client, run, old, run.record(0)),
    )
    assert stored_rows(server, run) == {}
    push(client, run, new, run.record(0))


def _changed(run: SyntheticRun, **header: object) -> bytes:
    row = run.row(1)
    for name, value in header.items():
        setattr(row.header, name, value)
    return record.encode(row)


def _with_arrays(run: SyntheticRun, change: str) -> bytes:
    row = run.row(1)
    gram, products, status = row.gram.copy(), row.products.copy(), row.status.copy()
    if change == "negative":
        gram[1, -1] = -1.0
    elif change == "infinite":
        gram[1, 0] = np.inf
    elif change == "status":
        status[1] = 9
    elif change == "marked":
        status[1] = record.LayerStatus.NON_FINITE
    elif change == "square":
        products[2, 0] = -0.5
    return record.encode(record.Row(row.header, gram, products, status))


@pytest.mark.parametrize(
    ("make", "field", "text"),
    [
        (lambda run: _changed(run, run_id="0" * 32), "run_id", "record is of run '0000"),
        (lambda run: _changed(run, fingerprint="f" * 32), "fingerprint", "the run has"),
        (lambda run: _changed(run, attempt=2), "attempt", "record is of attempt 2, the run is at 1"),
        (lambda run: _changed(run, num_parts=2), "part", "part 0 of 2: this server takes rows in one part"),
        (lambda run: _changed(run, previous=7), "previous", "must name an earlier checkpoint"),
        (
            lambda run: SyntheticRun("bad", num_layers=4).record(1),
            "num_layers",
            "record has 4 layers, the run has 3",
        ),
        (
            lambda run: _with_arrays(run, "negative"),
            "gram[1]",
            "layer 'layer1.weight': inner product with itself is -1.0",
        ),
        (
            lambda run: _with_arrays(run, "infinite"),
            "gram[1]",
            "layer 'layer1.weight' holds Inf; missing entries are NaN",
        ),
        (lambda run: _with_arrays(run, "status"), "status[1]", "9 is not a layer status"),
        (lambda run: _with_arrays(run, "marked"), "gram[1]", "is marked NON_FINITE but has numbers"),
        (
            lambda run: _with_arrays(run, "square"),
            "products[2]",
            "layer 'layer2.weight' has a negative squared norm",
        ),
        (lambda run: run.record(1)[:-1], "record", "its prefix announces"),
        (lambda run: run.record(1)[:20], "record", "fewer than its fixed parts"),
        (lambda run: b"\x00" * 100, "record", "do not start with the record magic"),
        (
            lambda run: run.record(1)[:60] + b"\xff" + run.record(1)[61:],
            "record",
            "does not match its checksum",
        ),
    ],
)
def test_a_wrong_record_names_what_is_wrong(
    server: ServerProcess, client: Client, make: Callable[[SyntheticRun], bytes], field: str, text: str
) -> None:
    run = SyntheticRun("bad")
    epoch = open_run(client, run).writer_epoch
    push(client, run, epoch, run.record(0))
    before = stored_rows(server, run)
    error = refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        None,
        text,
        lambda: push(client, run, epoch, make(run), run_id=run.run_id),
    )
    violations = error_details_pb2.BadRequest()
    status = rpc_status.from_call(error)
    assert status is not None
    assert any(detail.Unpack(violations) for detail in status.details)
    assert field in [violation.field for violation in violations.field_violations]
    assert stored_rows(server, run) == before
    assert push(client, run, epoch, run.record(1)).next_checkpoint == 2


def test_unknown_run_is_not_found(server: ServerProcess, client: Client) -> None:
    run = SyntheticRun("nobody")
    refused(
        grpc.StatusCode.NOT_FOUND, "NO_SUCH_RUN", "open it first", lambda: push(client, run, 1, run.record(0))
    )
    assert stored_rows(server, run) == {}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: setattr(r, "run_id", "../../etc"), "'../../etc' is not 32 lower-case hex digits"),
        (lambda r: setattr(r, "name", "a/b"), "'a/b' is not a run name; use 1 to 64 of the characters"),
        (lambda r: setattr(r, "name", "x" * 65), "is not a run name"),
        (lambda r: setattr(r, "attempt", 0), "attempts are counted from 1"),
        (lambda r: r.layout.ClearField("layers"), "0 layers; this server takes 1 to 4096"),
        (lambda r: setattr(r.layout.layers[1], "name", "layer0.weight"), "'layer0.weight' appears twice"),
        (lambda r: setattr(r.layout.layers[1], "dtype", "int8"), "'int8' is not one of float64, float32"),
        (lambda r: setattr(r.layout.layers[1], "name", "a\x00b"), "printable bytes are needed"),
        (
            lambda r: r.layout.groups[1].layers.append(9),
            "layer indices must be ascending, distinct and in range",
        ),
        (lambda r: setattr(r.layout.groups[0], "name", "all"), "the first group must be `network`"),
        (lambda r: setattr(r.layout, "fingerprint", "zz"), "not 32 lower-case hex digits"),
    ],
)
def test_a_wrong_open_request_names_what_is_wrong(
    server: ServerProcess, client: Client, change: Callable[[ingest_pb2.OpenRunRequest], object], text: str
) -> None:
    request = SyntheticRun("open").open_request()
    change(request)
    before = sorted((server.data_dir / "journal").glob("*/run.json"))
    refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        text,
        lambda: client.ingest.OpenRun(request, metadata=client.metadata, timeout=20),
    )
    assert sorted((server.data_dir / "journal").glob("*/run.json")) == before


def test_another_model_under_the_same_name_is_refused_with_both_fingerprints(client: Client) -> None:
    first, second = SyntheticRun("taken"), SyntheticRun("taken", seed=1, num_layers=4)
    open_run(client, first)
    error = refused(
        grpc.StatusCode.ALREADY_EXISTS, "NAME_TAKEN", "choose another name", lambda: open_run(client, second)
    )
    assert first.fingerprint in error.details()
    assert second.fingerprint in error.details()
    second.run_id = first.run_id
    error = refused(grpc.StatusCode.ALREADY_EXISTS, "OTHER_MODEL", "", lambda: open_run(client, second))
    assert first.fingerprint in error.details()
    assert second.fingerprint in error.details()


@pytest.mark.parametrize("token", [None, "", "wrong-token-wrong-token"])
def test_without_a_valid_token_nothing_is_served(server: ServerProcess, token: str | None) -> None:
    run = SyntheticRun("token")
    with Client(server.addresses["grpc"], token) as stranger:
        for call in (
            lambda: open_run(stranger, run),
            lambda: push(stranger, run, 1, run.record(0)),
        ):
            refused(grpc.StatusCode.UNAUTHENTICATED, None, "set TRAJMON_TOKEN", call)
    assert not (server.data_dir / "journal" / run.run_id).exists()


def test_an_oversized_message_is_refused_and_others_go_on(server: ServerProcess, client: Client) -> None:
    run = SyntheticRun("big")
    epoch = open_run(client, run).writer_epoch
    refused(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        None,
        "larger than max",
        lambda: push(client, run, epoch, b"\x00" * (2 << 20)),
    )
    assert stored_rows(server, run) == {}
    push(client, run, epoch, run.record(0))


def _stream(run: SyntheticRun, epoch: int, data: bytes, announced: int | None = None, piece: int = 1000):  # type: ignore[no-untyped-def] # an iterator of requests
    header = ingest_pb2.PushRowStreamRequest.Header(
        run_id=run.run_id, writer_epoch=epoch, record_bytes=len(data) if announced is None else announced
    )
    yield ingest_pb2.PushRowStreamRequest(header=header)
    for start in range(0, len(data), piece):
        yield ingest_pb2.PushRowStreamRequest(data=data[start : start + piece])


def test_a_large_record_comes_in_pieces(server: ServerProcess, client: Client) -> None:
    run = SyntheticRun("stream", num_layers=200)
    epoch = open_run(client, run).writer_epoch
    data = run.record(0)
    response = client.ingest.PushRowStream(_stream(run, epoch, data), metadata=client.metadata, timeout=20)
    assert response.receipt.digest == record.read_digest(data)
    assert list(stored_rows(server, run).values()) == [data]


@pytest.mark.parametrize(
    ("announced", "code", "text"),
    [
        (10, grpc.StatusCode.INVALID_ARGUMENT, "more than the announced 10 bytes came"),
        (10_000_000, grpc.StatusCode.INVALID_ARGUMENT, "send the record again"),
        (1 << 40, grpc.StatusCode.RESOURCE_EXHAUSTED, "record fewer layers or raise the limit"),
    ],
)
def test_a_broken_stream_leaves_nothing(
    server: ServerProcess, client: Client, announced: int, code: grpc.StatusCode, text: str
) -> None:
    run = SyntheticRun("broken")
    epoch = open_run(client, run).writer_epoch
    refused(
        code,
        None,
        text,
        lambda: client.ingest.PushRowStream(
            _stream(run, epoch, run.record(0), announced), metadata=client.metadata, timeout=20
        ),
    )
    assert stored_rows(server, run) == {}


def test_a_stream_without_header_is_refused(server: ServerProcess, client: Client) -> None:
    pieces = [ingest_pb2.PushRowStreamRequest(data=b"x")]
    refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        "BAD_STREAM",
        "a header must come first and once",
        lambda: client.ingest.PushRowStream(iter(pieces), metadata=client.metadata, timeout=20),
    )


def test_non_finite_layer_is_marked_and_the_others_stay(server: ServerProcess, client: Client) -> None:
    run = SyntheticRun("nan")
    epoch = open_run(client, run).writer_epoch
    push(client, run, epoch, run.record(0))
    row = run.row(1)
    gram, products, status = row.gram.copy(), row.products.copy(), row.status.copy()
    gram[2], products[2], status[2] = np.nan, np.nan, record.LayerStatus.NON_FINITE
    push(client, run, epoch, record.encode(record.Row(row.header, gram, products, status)))
    details = get_run(client, run.name)
    assert list(details.checkpoints[1].non_finite_layers) == ["layer2.weight"]
    assert [layer.name for layer in details.layout.layers] == run.layer_names


def test_a_second_server_on_the_same_data_is_refused(server: ServerProcess, tmp_path: Path) -> None:
    second = ServerProcess(tmp_path / "other")
    second.home.mkdir()
    with pytest.raises(AssertionError, match=r"data directory .* is in use by another server \(pid \d+\)"):
        second.start("--data-dir", str(server.data_dir))


@pytest.mark.parametrize(
    ("option", "surface"), [("--grpc", "gRPC"), ("--http", "HTTP"), ("--metrics", "metrics")]
)
def test_a_taken_port_is_refused(server: ServerProcess, tmp_path: Path, option: str, surface: str) -> None:
    second = ServerProcess(tmp_path / "other")
    second.grpc_address = "127.0.0.1:0"
    taken = server.addresses[option.removeprefix("--")]
    with pytest.raises(
        AssertionError, match=f"{surface} address {taken}.*in use; give another with {option}"
    ):
        second.start(option, taken)


def test_a_public_address_needs_a_word(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "home")
    with pytest.raises(AssertionError, match="tokens would cross the network in clear text"):
        server.start("--grpc", "0.0.0.0:0")


def test_a_run_id_of_another_team_is_refused(server: ServerProcess, client: Client) -> None:
    run = SyntheticRun("theirs")
    with Client(server.addresses["grpc"], server.token) as other:
        epoch = open_run(other, run).writer_epoch
        push(other, run, epoch, run.record(0))
        refused(
            grpc.StatusCode.ALREADY_EXISTS,
            "RUN_ID_TAKEN",
            f"run id {run.run_id} is in use; draw another",
            lambda: open_run(client, run),
        )
        assert push(other, run, epoch, run.record(1)).next_checkpoint == 2


def test_a_shape_that_no_number_holds_is_refused(client: Client) -> None:
    request = SyntheticRun("huge").open_request()
    request.layout.layers[0].shape[:] = [1 << 63, 1 << 63]
    refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        f"layout.layers[0].shape: more than 32 dimensions or {1 << 62} parameters",
        lambda: client.ingest.OpenRun(request, metadata=client.metadata, timeout=20),
    )
    listed = client.query.ListRuns(query_pb2.ListRunsRequest(), metadata=client.metadata, timeout=20)
    assert not listed.runs


def test_many_long_violations_still_reach_the_caller(client: Client) -> None:
    request = SyntheticRun("wordy", num_layers=40).open_request()
    for layer in request.layout.layers:
        layer.name = "é" * 256
    error = refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "appears twice",
        lambda: client.ingest.OpenRun(request, metadata=client.metadata, timeout=20),
    )
    status = rpc_status.from_call(error)
    violations = error_details_pb2.BadRequest()
    assert status is not None
    assert status.details[1].Unpack(violations)
    assert violations.field_violations[0].field == "layout.layers[1].name"


def test_a_stream_for_an_unknown_run_is_refused_before_its_data(client: Client) -> None:
    run = SyntheticRun("unknown")
    refused(
        grpc.StatusCode.NOT_FOUND,
        "NO_SUCH_RUN",
        "open it first",
        lambda: client.ingest.PushRowStream(
            _stream(run, 1, b"x" * 1000), metadata=client.metadata, timeout=20
        ),
    )
