"""The text format, as the parsers of prometheus_client read it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from monitor.export.feeding import known, read, sketched  # noqa: TID251 # tests/monitor
from support.house import House
from support.rows import SyntheticRun
from support.sketched_rows import SketchedRun
from trajmon_server.config import Limits
from trajmon_server.export.prometheus import Exporter
from trajmon_server.export.text import Family, header, label_text, lines

FAMILY = Family("trajmon_tried", "What is tried: a \\ and\na second line.")
FACTS = Family("trajmon_tried_info", "Facts.", "info")


def page(family: Family, samples: Sequence[tuple[str, float]], is_open_metrics: bool) -> list[bytes]:
    end = b"# EOF\n" if is_open_metrics else b""
    return [header(family, is_open_metrics), lines(family, samples), end]


@pytest.mark.parametrize("is_open_metrics", [False, True])
@given(
    # Lines end at a newline, so that no other character may end one; a file has no halves of characters.
    values=some.lists(some.text(some.characters(exclude_categories=["Cs"])), min_size=1, unique=True),
    number=some.floats(allow_nan=False, allow_infinity=False),
)
def test_any_label_and_number_come_through(is_open_metrics: bool, values: list[str], number: float) -> None:
    samples = [(label_text(run=value, group="g"), number) for value in values]
    assert read(page(FAMILY, samples, is_open_metrics), is_open_metrics) == {
        ("trajmon_tried", frozenset({"run": value, "group": "g"}.items())): number for value in values
    }


@pytest.mark.parametrize("is_open_metrics", [False, True])
def test_facts(is_open_metrics: bool) -> None:
    samples = [(label_text(version='1.0"'), 1.0)]
    found = read(page(FACTS, samples, is_open_metrics), is_open_metrics)
    assert found == {("trajmon_tried_info", frozenset({("version", '1.0"')})): 1.0}


def test_what_is_not_finite_is_left_out() -> None:
    samples = [(label_text(run=str(value)), value) for value in (math.nan, math.inf, -math.inf, 0.0)]
    assert lines(FAMILY, samples) == b'trajmon_tried{run="0.0"} 0.0\n'


def test_half_a_character_spoils_its_own_label_only() -> None:
    samples = [(label_text(run="\ud800"), 1.0), (label_text(run="whole"), 2.0)]
    assert sorted(read(page(FAMILY, samples, is_open_metrics=False)).values()) == [1.0, 2.0]


def test_both_formats_say_the_same(house: House, tmp_path: Path) -> None:
    sketched(house, SketchedRun("sketched", num_checkpoints=6))
    known(house, SyntheticRun("exact"), 6, team="vision")
    exporter = Exporter(house.registry, Limits(), 300.0, tmp_path, lambda: True)
    exporter.observe_call("/trajmon_protos.v1.IngestService/PushRow", "OK", 0.01)
    exporter.observe_row(False, 100)
    plain, opened = (
        {
            series: value
            for series, value in read(exporter.page(is_open_metrics), is_open_metrics).items()
            # When counters were made, and what goes on changing.
            if not series[0].endswith("_created") and series[0].startswith("trajmon_")
        }
        for is_open_metrics in (False, True)
    )
    free = ("trajmon_disk_free_bytes", frozenset[tuple[str, str]]())
    assert plain.pop(free) > 0
    assert opened.pop(free) > 0
    assert plain == opened
    assert len(plain) > 100
