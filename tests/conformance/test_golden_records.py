"""Row records of format version 1 as they lie in journals: they decode to the same numbers for ever."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajmon_protos import record

HERE = Path(__file__).parent
GOLDEN = sorted(HERE.glob("*.bin"))

Description = dict[str, Any]


def bit_patterns(array: np.ndarray[Any, np.dtype[np.float64]]) -> list[list[str]]:
    return [[f"{bits:016x}" for bits in row] for row in array.view(np.uint64).tolist()]


def double_bits(value: float) -> str:
    return f"{int(np.float64(value).view(np.uint64)):016x}"


def describe(row: record.Row) -> Description:
    """What was decoded, in the words of the golden JSON."""
    header, info = row.header, row.header.info
    described: Description = {
        name: getattr(header, name)
        for name in ("run_id", "attempt", "checkpoint", "part", "num_parts", "fingerprint", "num_layers")
    }
    if header.HasField("previous"):
        described["previous"] = header.previous
    described["info"] = {
        "step": info.step,
        "time_unix_seconds": double_bits(info.time_unix_seconds),
        "stall_seconds": double_bits(info.stall_seconds),
    }
    if info.HasField("epoch"):
        described["info"]["epoch"] = double_bits(info.epoch)
    if info.HasField("learning_rate"):
        described["info"]["learning_rate"] = double_bits(info.learning_rate)
    if info.metrics:
        described["info"]["metrics"] = {name: double_bits(value) for name, value in info.metrics.items()}
    if info.HasField("plan"):
        plan = info.plan
        described["info"]["plan"] = {
            "objective": plan.objective,
            "larger_is_better": plan.larger_is_better,
        }
        if plan.HasField("steps_ahead"):
            described["info"]["plan"]["steps_ahead"] = plan.steps_ahead
        for name in ("rate_sum_ahead", "rate_squared_sum_ahead", "objective_tolerance"):
            if plan.HasField(name):
                described["info"]["plan"][name] = double_bits(getattr(plan, name))
    return {
        "header": described,
        "gram_bits": bit_patterns(row.gram),
        "products_bits": bit_patterns(row.products),
        "status": row.status.tolist(),
    }


def golden_description(path: Path) -> Description:
    described: Description = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return described


def test_the_corpus_is_there() -> None:
    assert [path.stem for path in GOLDEN] == [
        "row_record_v1",
        "row_record_v1_first",
        "row_record_v1_plan",
        "row_record_v1_plan_end",
        "row_record_v1_previous_zero",
    ]
    assert [path.stem for path in sorted(HERE.glob("*.json"))] == [path.stem for path in GOLDEN]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
class TestGoldenRecord:
    def test_decodes_bit_for_bit(self, path: Path) -> None:
        expected = golden_description(path)
        assert expected.pop("about")
        assert describe(record.decode(path.read_bytes())) == expected

    def test_is_what_the_independent_encoder_writes(
        self, path: Path, encode_by_hand: Callable[[Description], bytes]
    ) -> None:
        assert encode_by_hand(golden_description(path)) == path.read_bytes()

    def test_is_what_the_encoder_writes(self, path: Path) -> None:
        stored = path.read_bytes()
        assert record.encode(record.decode(stored)) == stored

    def test_carries_its_digest_last(self, path: Path) -> None:
        stored = path.read_bytes()
        assert record.read_digest(stored) == stored[-16:]
