"""Sketches of version 1: the same elements have the same digits and columns for ever."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import sketch_by_hand
from trajmon.numerics.layout import ITEM_BYTES, Group, Layer, Layout
from trajmon.numerics.sketch import Sketch, SketchPlan, sketch_digits
from trajmon_protos.sketch import SketchSpec

GOLDEN = sorted((Path(__file__).parent / "sketches").glob("*.json"))

Description = dict[str, Any]


def described(path: Path) -> Description:
    description: Description = json.loads(path.read_text(encoding="utf-8"))
    return description


def spec_of(golden: Description) -> SketchSpec:
    return SketchSpec(bins=golden["bins"], seed=golden["seed"], version=golden["version"])


def sketched(golden: Description) -> Sketch:
    layers = tuple(
        Layer(entry["name"], (len(entry["elements"]) // 2 // ITEM_BYTES[entry["dtype"]],), entry["dtype"])
        for entry in golden["layers"]
    )
    layout = Layout(layers, (Group("network", tuple(range(len(layers)))),))
    data = np.zeros(layout.nbytes, np.uint8)
    for entry, offset in zip(golden["layers"], layout.offsets_bytes, strict=True):
        raw = bytes.fromhex(entry["elements"])
        data[offset : offset + len(raw)] = np.frombuffer(raw, np.uint8)
    return sketch_digits(SketchPlan.of(layout, spec_of(golden)), data)


def test_the_corpus_is_there() -> None:
    assert [path.stem.removeprefix("sketch_v1_") for path in GOLDEN] == [
        "float32_columns",
        "hard_numbers",
        "seeds_and_names",
        "several_dtypes",
        "undefined",
    ]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
class TestGoldenSketch:
    def test_is_what_the_kernel_makes(self, path: Path) -> None:
        golden = described(path)
        sketch = sketched(golden)
        plan, values = sketch.plan, sketch.values()
        assert plan.dtype == golden["dtype"]
        assert plan.num_columns == sum(plan.widths)
        for index, entry in enumerate(golden["layers"]):
            columns = slice(plan.starts[index], plan.starts[index] + plan.widths[index])
            assert sketch.finite[index] == (entry["digits"] is not None)
            if entry["digits"] is None:
                assert np.isnan(values[columns]).all()
                assert not sketch.digits[:, columns].any()
            else:
                assert sketch.digits[:, columns].T.tolist() == entry["digits"]
                assert values[columns].tobytes().hex() == entry["values"]

    def test_is_what_whole_number_arithmetic_makes(self, path: Path) -> None:
        golden = described(path)
        code = {"<f4": "f", "<f8": "d"}[golden["dtype"]]
        for entry in golden["layers"]:
            elements = sketch_by_hand.decode(entry["dtype"], bytes.fromhex(entry["elements"]))
            sums = sketch_by_hand.sums(
                entry["name"], golden["seed"], golden["bins"], len(elements), enumerate(elements)
            )
            if sums is None:
                assert (entry["digits"], entry["values"]) == (None, None)
                continue
            assert [sketch_by_hand.digits(total) for total in sums] == entry["digits"]
            columns = [sketch_by_hand.column(form) for form in entry["digits"]]
            assert struct.pack(f"<{len(columns)}{code}", *columns).hex() == entry["values"]

    def test_layers_start_where_the_specification_says(self, path: Path) -> None:
        golden = described(path)
        for entry in golden["layers"]:
            assert f"{spec_of(golden).layer_seed(entry['name']):016x}" == entry["layer_seed"]
