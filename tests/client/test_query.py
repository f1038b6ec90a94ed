"""The query client against servers that break the contract, hang, or refuse: a clear error, bounded memory."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajmon.errors import TrajmonError
from trajmon.query import (
    BrokenReplyError,
    InvalidRequestError,
    NotAuthorisedError,
    NotFoundError,
    QueryClient,
    QueryError,
    ServerFailedError,
    UnreachableError,
    assemble,
)
from trajmon_protos.v1 import ingest_pb2, query_pb2, query_pb2_grpc, types_pb2

Chunk = types_pb2.ArrayChunk
Reply = query_pb2.GetMapResponse


def chunks_of(name: str, array: Any, piece: int = 64, dtype: str = "<f8") -> list[Chunk]:
    data = np.ascontiguousarray(array, dtype=dtype).tobytes()
    return [
        Chunk(name=name, dtype=dtype, shape=np.shape(array), offset_bytes=at, data=data[at : at + piece])
        for at in range(0, max(len(data), 1), piece)
    ]


def replies(chunks: list[Chunk]) -> list[Reply]:
    return [Reply(chunk=chunk) for chunk in chunks]


class Scripted(query_pb2_grpc.QueryServiceServicer):
    """A server that answers what a test says."""

    def __init__(self, answer: Callable[[Any, Any], Any]) -> None:
        self.answer = answer

    def ListRuns(self, request: Any, context: Any) -> Any:
        return self.answer(request, context)

    def GetRun(self, request: Any, context: Any) -> Any:
        return self.answer(request, context)

    def GetMap(self, request: Any, context: Any) -> Iterator[Any]:
        yield from self.answer(request, context)

    def GetHallmarks(self, request: Any, context: Any) -> Iterator[Any]:
        yield from self.answer(request, context)

    def GetCrossMap(self, request: Any, context: Any) -> Iterator[Any]:
        yield from self.answer(request, context)

    def WatchRun(self, request: Any, context: Any) -> Iterator[Any]:
        yield from self.answer(request, context)


@contextmanager
def scripted(answer: Callable[[Any, Any], Any]) -> Iterator[QueryClient]:
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    query_pb2_grpc.add_QueryServiceServicer_to_server(Scripted(answer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with QueryClient(f"127.0.0.1:{port}", "secret") as client:
            yield client
    finally:
        server.stop(None).wait()


@given(
    rows=st.integers(0, 9),
    columns=st.integers(0, 9),
    piece=st.integers(1, 200),
    order=st.randoms(use_true_random=False),
)
def test_pieces_of_any_size_and_interleaving_give_the_arrays_back(
    rows: int, columns: int, piece: int, order: Any
) -> None:
    arrays = {
        "a": np.arange(rows * columns, dtype=np.float64).reshape(rows, columns) / 7,
        "b": np.arange(rows, dtype=np.int64) - 3,
    }
    pending = [chunks_of("a", arrays["a"], piece), chunks_of("b", arrays["b"], piece, "<i8")]
    mixed = []
    while any(pending):
        mixed.append(order.choice([queue for queue in pending if queue]).pop(0))
    result = assemble(replies(mixed))
    for name, array in arrays.items():
        np.testing.assert_array_equal(result[name], array)
        assert result[name].dtype == array.dtype


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([Chunk(name="a", dtype="<c16", shape=[1])], "server sent array 'a' with unknown dtype '<c16'"),
        ([Chunk(name="a", dtype="|O", shape=[1])], "server sent array 'a' with unknown dtype '|O'"),
        ([Chunk(name="a", dtype="<f8", shape=[])], "server sent array 'a' with 0 dimensions, not 1 to 3"),
        (
            [Chunk(name="a", dtype="<f8", shape=[1] * 4)],
            "server sent array 'a' with 4 dimensions, not 1 to 3",
        ),
        (
            [Chunk(name="a", dtype="<f8", shape=[2**40, 2**40])],
            f"server announced {2**83} bytes for array 'a', more than the 2147483648 left for this reply",
        ),
        (
            [Chunk(name=f"a{i}", dtype="<f8", shape=[2**27]) for i in range(3)],
            "server announced 1073741824 bytes for array 'a2', more than the 0 left for this reply",
        ),
        (
            [Chunk(name="a", dtype="<f8", shape=[2], data=bytes(8))],
            "server sent 8 of 16 bytes of array 'a', then ended",
        ),
        (
            [Chunk(name="a", dtype="<f8", shape=[1], data=bytes(16))],
            "server sent array 'a' out of order: 16 bytes at 0, with 0 of 8 there",
        ),
        (
            [Chunk(name="a", dtype="<f8", shape=[2], offset_bytes=8, data=bytes(8))],
            "server sent array 'a' out of order: 8 bytes at 8, with 0 of 16 there",
        ),
        (
            [Chunk(name="a", dtype="<f8", shape=[2], data=bytes(8)) for _ in range(2)],
            "server sent array 'a' out of order: 8 bytes at 0, with 8 of 16 there",
        ),
        (
            [Chunk(name="a", dtype="<f8", shape=[2]), Chunk(name="a", dtype="<f8", shape=[3])],
            "server changed dtype or shape of array 'a' between its pieces",
        ),
        (
            [Chunk(name=str(i), dtype="|u1", shape=[0]) for i in range(300)],
            "server sent more than 256 arrays in one reply",
        ),
    ],
)
def test_pieces_that_break_the_contract(chunks: list[Chunk], text: str) -> None:
    with pytest.raises(BrokenReplyError) as caught:
        assemble(replies(chunks))
    assert str(caught.value).startswith(text)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_announced_bytes_take_no_memory_before_they_come() -> None:
    def one_gigabyte() -> Iterator[Reply]:
        yield Reply(chunk=Chunk(name="a", dtype="|u1", shape=[1 << 30], data=b"x"))
        resident.append(resident_bytes())

    resident: list[int] = []
    before = resident_bytes()
    with pytest.raises(BrokenReplyError, match="server sent 1 of 1073741824 bytes of array 'a', then ended"):
        assemble(one_gigabyte())
    assert resident[0] - before < 1 << 26


def good_map(t: int = 3) -> list[Chunk]:
    entries = np.eye(t)
    return [
        *chunks_of("map", entries),
        *chunks_of("gram", entries * 2),
        *chunks_of("checkpoint", np.arange(t), dtype="<i8"),
        *chunks_of("step", np.arange(t) * 10, dtype="<i8"),
    ]


def test_a_map_and_what_was_asked() -> None:
    asked = []

    def answer(request: Any, context: Any) -> list[Reply]:
        asked.append(
            (request, dict(context.invocation_metadata())["authorization"], context.time_remaining())
        )
        return replies(good_map())

    with scripted(answer) as client:
        result = client.get_map(
            "r", "layer:a", relative_to=0, kernel="polynomial", start=1, stop=9, include_superseded=True
        )
    np.testing.assert_array_equal(result.gram, np.eye(3) * 2)
    np.testing.assert_array_equal(result.step, [0, 10, 20])
    # This server does not know of modes.
    assert result.mode.dtype == np.uint8
    assert result.mode.tolist() == [0, 0, 0]
    assert (result.scope, result.relative_to, result.kernel) == ("layer:a", 0, "polynomial")
    request, authorization, remaining = asked[0]
    assert authorization == "Bearer secret"
    assert 0 < remaining <= 120
    assert request == query_pb2.GetMapRequest(
        run="r",
        scope="layer:a",
        relative_to=0,
        kernel=query_pb2.KERNEL_POLYNOMIAL,
        start=1,
        stop=9,
        include_superseded=True,
    )


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([], "server's map lacks the array map"),
        (good_map()[:-1], "server's map lacks the array step"),
        (
            [*chunks_of("map", np.eye(2)), *good_map()[2:]],
            "server sent array map with shape (2, 2) for 3 checkpoints",
        ),
        (
            [*good_map(), *chunks_of("mode", np.zeros(2), dtype="|u1")],
            "server sent array mode with shape (2,) for 3 checkpoints",
        ),
        (
            [*good_map(), *chunks_of("mode", np.zeros(3))],
            "server sent array mode with dtype <f8, not |u1",
        ),
        (
            [*good_map(), *chunks_of("error", np.zeros((3, 3)))],
            "server's map lacks the array gram_error",
        ),
        (
            [*good_map(), *chunks_of("error", np.zeros((3, 3))), *chunks_of("gram_error", np.zeros(3))],
            "server sent array gram_error with shape (3,) for 3 checkpoints",
        ),
    ],
)
def test_a_map_that_is_none(chunks: list[Chunk], text: str) -> None:
    with (
        scripted(lambda request, context: replies(chunks)) as client,
        pytest.raises(BrokenReplyError) as caught,
    ):
        client.get_map("r")
    assert str(caught.value) == text


def test_standard_errors_come_where_the_server_sends_them() -> None:
    error = np.array([[0.0, 0.0, 0.1], [0.0, 0.0, np.nan], [0.1, np.nan, 0.0]])
    sent = [*good_map(), *chunks_of("error", error), *chunks_of("gram_error", 2 * error)]
    with scripted(lambda *_: replies(sent)) as client:
        result = client.get_map("r")
    assert result.error is not None
    assert result.gram_error is not None
    np.testing.assert_array_equal(result.error, error)
    np.testing.assert_array_equal(result.gram_error, 2 * error)
    assert result.estimated_checkpoints == 1
    with scripted(lambda *_: replies(good_map())) as client:
        exact = client.get_map("r")
    assert (exact.error, exact.gram_error, exact.estimated_checkpoints) == (None, None, 0)


def test_hallmarks_of_different_lengths() -> None:
    pieces = [*chunks_of("checkpoint", np.arange(3), dtype="<i8"), *chunks_of("mds", np.zeros(2))]
    sent = [query_pb2.GetHallmarksResponse(chunk=chunk) for chunk in pieces]
    with scripted(lambda *_: sent) as client, pytest.raises(BrokenReplyError) as caught:
        client.get_hallmarks("r")
    assert str(caught.value) == "server sent hallmarks of different lengths"


def test_modes_come_as_the_server_sends_them() -> None:
    modes = chunks_of("mode", [0, 1, 1], dtype="|u1")
    with scripted(lambda *_: replies([*good_map(), *modes])) as client:
        assert client.get_map("r").mode.tolist() == [0, 1, 1]
    numbers = chunks_of("checkpoint", np.arange(3), dtype="<i8")
    sent = [query_pb2.GetHallmarksResponse(chunk=chunk) for chunk in [*numbers, *modes]]
    with scripted(lambda *_: sent) as client:
        assert client.get_hallmarks("r")["mode"].tolist() == [0, 1, 1]
    with scripted(lambda *_: sent[:-1]) as client:
        modes_of_old = client.get_hallmarks("r")["mode"]
    assert modes_of_old.dtype == np.uint8
    assert modes_of_old.tolist() == [0, 0, 0]


def test_hallmarks_with_modes_of_another_kind() -> None:
    pieces = [*chunks_of("checkpoint", np.arange(3), dtype="<i8"), *chunks_of("mode", np.zeros(3))]
    sent = [query_pb2.GetHallmarksResponse(chunk=chunk) for chunk in pieces]
    with (
        scripted(lambda *_: sent) as client,
        pytest.raises(BrokenReplyError, match=r"^server sent array mode with dtype <f8, not \|u1$"),
    ):
        client.get_hallmarks("r")


def test_a_list_of_runs_without_end() -> None:
    def answer(request: Any, context: Any) -> Any:
        return query_pb2.ListRunsResponse(runs=[query_pb2.RunSummary(name="r")], next_page_token="again")

    with (
        scripted(answer) as client,
        pytest.raises(BrokenReplyError, match=r"^server's list of runs does not come to an end$"),
    ):
        client.list_runs()


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (grpc.StatusCode.NOT_FOUND, NotFoundError, "why not"),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError, "why not"),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidRequestError, "why not"),
        (
            grpc.StatusCode.PERMISSION_DENIED,
            NotAuthorisedError,
            "server at {} refused the token: why not; set TRAJMON_TOKEN",
        ),
        (
            grpc.StatusCode.UNAVAILABLE,
            UnreachableError,
            "no server answers at {}: start one with `trajmon-server serve`",
        ),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            ServerFailedError,
            "server at {} failed (RESOURCE_EXHAUSTED): why not",
        ),
        (grpc.StatusCode.INTERNAL, ServerFailedError, "server at {} failed (INTERNAL): why not"),
        (
            grpc.StatusCode.UNIMPLEMENTED,
            ServerFailedError,
            "{} does not know this call: is it a trajmon server",
        ),
    ],
)
def test_refusals_keep_the_servers_text(code: grpc.StatusCode, kind: type[QueryError], text: str) -> None:
    def answer(request: Any, context: Any) -> Any:
        context.abort(code, "why not")

    with scripted(answer) as client:
        for call in (
            lambda: client.get_run("r"),
            lambda: client.get_map("r"),
            lambda: list(client.watch_run("r")),
        ):
            with pytest.raises(kind) as caught:
                call()
            assert str(caught.value).startswith(text.format(client.address))
            assert isinstance(caught.value, TrajmonError)


def test_a_message_over_the_limit_is_refused() -> None:
    big = [Reply(chunk=Chunk(name="a", dtype="|u1", shape=[5 << 20], data=bytes(5 << 20)))]
    with (
        scripted(lambda *_: big) as client,
        pytest.raises(ServerFailedError, match=r"RESOURCE_EXHAUSTED.*larger than max"),
    ):
        client.get_map("r")


def test_a_server_that_accepts_and_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trajmon.query._CALL_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with QueryClient(address, None) as client, pytest.raises(UnreachableError) as caught:
            client.get_run("r")
    assert address in str(caught.value)


def test_watch_ends_with_the_run_and_goes_on_after_a_quiet_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trajmon.query._WATCH_SECONDS", 0.5)
    calls = []

    def answer(request: Any, context: Any) -> Iterator[Any]:
        calls.append(request.run)
        yield query_pb2.WatchRunResponse(summary=query_pb2.RunSummary(name="r", checkpoints=len(calls)))
        if len(calls) == 1:
            # Quiet beyond the deadline of the stream: the client asks again.
            while context.is_active():
                pass
        else:
            yield query_pb2.WatchRunResponse(
                summary=query_pb2.RunSummary(phase=ingest_pb2.RUN_PHASE_FINISHED)
            )

    with scripted(answer) as client:
        heard = [reply.summary for reply in client.watch_run("r")]
    assert calls == ["r", "r"]
    assert [summary.checkpoints for summary in heard] == [1, 2, 0]
    assert heard[-1].phase == ingest_pb2.RUN_PHASE_FINISHED


def test_nobody_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (
        QueryClient(address, None) as client,
        pytest.raises(UnreachableError, match=f"^no server answers at {address}: "),
    ):
        client.list_runs()
