"""Names that are refused leave no series, however many; names that are taken leave no more than the cap."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import message

from monitor.export.feeding import Series, known, read  # noqa: TID251 # tests/monitor
from support.house import House, describe
from support.rows import SyntheticRun
from trajmon_protos.v1 import ingest_pb2
from trajmon_server.auth import LOCAL_TEAM, Principal
from trajmon_server.config import Limits
from trajmon_server.errors import Exhausted, InvalidRequest
from trajmon_server.export.page import most_series
from trajmon_server.export.prometheus import Exporter
from trajmon_server.ingest.service import Ingest
from trajmon_server.runs.ownership import Alone

CALLER = Principal(LOCAL_TEAM, "write")
NAMES = 1_000_000
SPOILERS = (
    'x"} 1\ntrajmon_parameter_norm{run="forged',
    "line\nbreak",
    "carriage\rreturn",
    "back\\slash",
    "{}",
    "nul\x00",
    "bell\x07",
    "escape\x1b[31m",
    "del\x7f",
    "team/run",
    "../../etc/passwd",
    "space in between",
    "tab\t",
    "comma,",
    "equals=",
    "naïve",
    "run\u200b",
    "\u202egnp.exe",
    "𝕣un",
    "\U0001f600",
    "e\u0301",
    "$__all",
    "a|b.*",
    "%s%n",
    "<script>",
    "'; drop table runs;",
    "L" * 300,
)


def hostile_names() -> Iterator[str]:
    """All different, none of them a name; every 27th is 300 characters long or more."""
    for number in itertools.count():
        spoiler = SPOILERS[number % len(SPOILERS)]
        yield f"run-{number}{spoiler}"
        yield f"{spoiler}{number}"


def ingest_of(house: House, limits: Limits) -> Ingest:
    return Ingest(
        house.journal, house.registry, limits, house.executor, house.folder, lambda *_: None, Alone()
    )


def series_of(exporter: Exporter) -> set[Series]:
    return set(read(exporter.page(False)))


async def refused(ingest: Ingest, request: ingest_pb2.OpenRunRequest) -> str:
    """The refusal's text."""
    try:
        await ingest.open_run(request, CALLER)
    except InvalidRequest as error:
        return str(error)
    raise AssertionError(f"{request.name!r} was taken")


@pytest.mark.timeout(400)
def test_a_million_names_that_are_refused_leave_no_series(house: House, tmp_path: Path) -> None:
    source = known(house, SyntheticRun("honest"), 3)
    exporter = Exporter(house.registry, Limits(), 300.0, tmp_path, lambda: True)
    before = series_of(exporter)
    ingest = ingest_of(house, Limits())
    request = SyntheticRun("stranger", num_layers=1).open_request()
    del request.layout.groups[1:]
    offered = 0

    async def offer() -> None:
        nonlocal offered
        for name in itertools.islice(hostile_names(), NAMES):
            request.name = name
            text = await refused(ingest, request)
            assert "is not a run name" in text, text
            offered += 1

    asyncio.run(offer())
    assert offered == NAMES
    assert house.registry.runs() == [source]
    assert series_of(exporter) == before


def test_names_of_groups_and_other_texts_that_are_refused_leave_no_series(
    house: House, tmp_path: Path
) -> None:
    known(house, SyntheticRun("honest"), 3)
    exporter = Exporter(house.registry, Limits(), 300.0, tmp_path, lambda: True)
    before = series_of(exporter)
    ingest = ingest_of(house, Limits())

    async def offer() -> None:
        for index in range(2000):
            request = SyntheticRun(f"stranger-{index}").open_request()
            text = ("\x00", "\n", "\u200b", "g" * 65, "")[index % 5]
            group = request.layout.groups.add(name=text and f"{index}{text}", layers=[1])
            assert "groups[2].name" in await refused(ingest, request), group
            request = SyntheticRun(f"stranger-{index}").open_request()
            request.run_id = f"{index:032X}g"
            assert "run_id" in await refused(ingest, request)
            request = SyntheticRun(f"stranger-{index}").open_request()
            request.layout.fingerprint = f'{index}"'
            assert "fingerprint" in await refused(ingest, request)
        request = SyntheticRun("wide").open_request()
        request.layout.groups.extend(
            type(request.layout.groups[0])(name=f"g{index}", layers=[0]) for index in range(63)
        )
        assert "65 groups; this server takes 1 to 64" in await refused(ingest, request)

    asyncio.run(offer())
    assert series_of(exporter) == before


def test_names_that_are_no_text_never_reach_the_server() -> None:
    request = ingest_pb2.OpenRunRequest()
    for name in ("\ud800", "run\udfff"):
        try:
            request.name = name
        except UnicodeEncodeError:
            continue
        raise AssertionError(f"{name!r} was taken")
    wire = b"\x12\x02\xff\xfe"
    try:
        decoded = ingest_pb2.OpenRunRequest.FromString(wire)
    except message.DecodeError:
        return
    raise AssertionError(f"{decoded.name!r} was taken")


def test_names_that_are_taken_are_bounded_by_the_limits(house: House, tmp_path: Path) -> None:
    limits = Limits(max_runs=50, max_exported_series=600, min_free_disk_bytes=0)
    exporter = Exporter(house.registry, limits, 300.0, tmp_path, lambda: True)
    server = series_of(exporter)
    ingest = ingest_of(house, limits)

    async def offer() -> None:
        for index in range(200):
            opening = ingest.open_run(SyntheticRun(f"run-{index}").open_request(), CALLER)
            if index < 50:
                await opening
            else:
                with pytest.raises(Exhausted, match=r"limits\.max_runs"):
                    await opening
        await house.worker.stop()

    asyncio.run(offer())
    of_runs = series_of(exporter) - server
    assert 0 < len(of_runs) <= 600
    each = most_series(house.registry.runs()[0])
    assert len({dict(labels)["run"] for _, labels in of_runs}) == 600 // each


def test_ten_thousand_runs_that_have_ended_leave_no_series(house: House, tmp_path: Path) -> None:
    exporter = Exporter(house.registry, Limits(), 300.0, tmp_path, lambda: True)
    before = series_of(exporter)
    long_ago = time.time() - 1000.0
    description = describe(SyntheticRun("run"))
    for index in range(10_000):
        run = house.registry.new(replace(description, run_id=f"{index:032x}", name=f"run-{index}"))
        run.control = run.control.reported(ingest_pb2.RUN_PHASE_FINISHED, "", long_ago)
        house.registry.add(run)
    page = read(exporter.page(False))
    assert set(page) == before
    assert page["trajmon_runs", frozenset({("state", "finished")})] == 10_000
