"""Files of weights have families too, under the names of the files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from client.families.architectures import (  # noqa: TID251 # tests/client, on the path of the tests
    DECODERS,
    ENCODERS,
    build,
)
from trajmon.families import family_of_config, fit, presets_for
from trajmon.numerics.grouping import user_groups
from trajmon.numerics.layout import NETWORK, Group
from trajmon.numerics.model import plan_model
from trajmon.numerics.views import match_views, split


def elements_by_group(path: Path) -> dict[str, int]:
    """Elements of each group that the family declares for a saved model, from its files alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    family = family_of_config(json.loads((path / "config.json").read_text()))
    assert family is not None
    fitted = fit(family, shapes)
    taken = match_views(fitted.views, list(shapes))
    layers: dict[str, int] = {}
    for name, shape in shapes.items():
        parts = split(taken[name], name, shape) if name in taken else ()
        layers |= {part.name: math.prod(part.shape) for part in parts} or {name: math.prod(shape)}
    names = list(layers)
    network = Group(NETWORK, tuple(range(len(names))))
    return {
        group.name: sum(layers[names[index]] for index in group.layers)
        for group in user_groups(fitted.groups, names, [network])[1:]
    }


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_a_saved_model_has_the_groups_of_the_model(name: str, tmp_path: Path) -> None:
    model_type, config = DECODERS[name] if name in DECODERS else ENCODERS[name]
    model: Any = build(model_type, config)
    model.save_pretrained(tmp_path)
    from_files = elements_by_group(tmp_path)
    views, groups = presets_for(model)
    plan = plan_model(model, views=views, groups=groups)
    assert {"attention.q", "attention.k", "attention.v"} <= from_files.keys()
    assert from_files == {
        group.name: sum(plan.layout.layers[index].num_parameters for index in group.layers)
        for group in plan.layout.groups
        if group.name in groups
    }


def test_a_saved_mixture_keeps_each_expert_by_itself(tmp_path: Path) -> None:
    build(*DECODERS["mixtral"]).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as tensors:
        assert "model.layers.0.block_sparse_moe.experts.2.w3.weight" in tensors.keys()  # noqa: SIM118
    elements = elements_by_group(tmp_path)
    assert elements["mlp.gate"] == elements["mlp.up"] == elements["mlp.down"] == 2 * 3 * 24 * 16
    assert elements["experts"] == 3 * elements["mlp.up"]
    assert elements["router"] == 2 * 3 * 16
