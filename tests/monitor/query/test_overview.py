"""What the list and the page of a run say of layers and learning rates."""

from __future__ import annotations

import dataclasses
import math

import pytest

from support.house import House, describe
from support.rows import SyntheticRun
from trajmon_server.model import CheckpointMeta, Group, Layer, RunDescription
from trajmon_server.query.overview import group_outlooks, layer_places, phases_of
from trajmon_server.query.spectrum import step_sizes
from trajmon_server.signals.forecast import Forecast
from trajmon_server.signals.settling import GroupSettling, SettlingState


def described(names: list[str], groups: dict[str, list[int]]) -> RunDescription:
    return dataclasses.replace(
        describe(SyntheticRun("places")),
        layers=tuple(Layer(name, (2,), "float32") for name in names),
        groups=tuple(Group(name, tuple(members)) for name, members in groups.items()),
    )


def test_places_of_a_transformer() -> None:
    names = [
        "transformer.wte.weight",
        "transformer.h.0.ln_1.weight",
        "transformer.h.0.attn.c_attn.weight[q]",
        "transformer.h.0.mlp.c_fc.weight",
        "transformer.h.1.ln_1.weight",
        "transformer.h.1.attn.c_attn.weight[q]",
        "lm_head.weight",
    ]
    groups = {
        "network": list(range(7)),
        "norm": [1, 4],
        "non_norm": [0, 2, 3, 5, 6],
        "attention": [2, 5],
        "attention.qkv": [2, 5],
        "mlp": [3],
        "embedding": [0],
        "head": [6],
    }
    places = layer_places(described(names, groups))
    kinds = ["embedding", "norm", "attention.qkv", "mlp", "norm", "attention.qkv", "head"]
    assert [place.kind for place in places] == kinds
    assert [place.depth for place in places] == [0, 1, 1, 1, 2, 2, 3]
    assert places[2].role == places[5].role == "transformer.h.*.attn.c_attn.weight[q]"


def test_a_layer_of_no_group_is_other() -> None:
    (place,) = layer_places(described(["scale"], {"network": [0]}))
    assert (place.kind, place.role, place.depth) == ("other", "scale", 0)


def rates_of(house: House, rates: list[float | None]) -> tuple[str, list[tuple[int, int, float]]]:
    source = SyntheticRun("rates", num_checkpoints=max(len(rates), 1))
    run = house.registry.new(describe(source))
    for checkpoint, rate in enumerate(rates):
        header = source.header(checkpoint, checkpoint - 1 if checkpoint else None, 1)
        if rate is None:
            header.info.ClearField("learning_rate")
        else:
            header.info.learning_rate = rate
        run.accept(CheckpointMeta.from_header(header, ()), checkpoint, 0)
    found = phases_of(run)
    return found.schedule, [(a.start, a.stop, a.learning_rate) for a in found.ranges]


@pytest.mark.parametrize(
    ("rates", "schedule", "ranges"),
    [
        ([], "unknown", []),
        ([None, None], "unknown", []),
        ([0.1], "constant", [(0, 0, 0.1)]),
        ([0.1] * 5, "constant", [(0, 4, 0.1)]),
        ([0.1, 0.1, 0.01, 0.01, 0.1], "stepwise", [(0, 1, 0.1), (2, 3, 0.01), (4, 4, 0.1)]),
        ([0.1 * 0.9**t for t in range(100)], "continuous", []),
    ],
)
def test_phases(
    house: House, rates: list[float | None], schedule: str, ranges: list[tuple[int, int, float]]
) -> None:
    assert rates_of(house, rates) == (schedule, ranges)


def test_a_rate_that_was_not_told_is_a_phase_of_its_own(house: House) -> None:
    schedule, ranges = rates_of(house, [0.1, None, None, 0.1])
    assert schedule == "stepwise"
    assert [(a, b) for a, b, _ in ranges] == [(0, 0), (1, 2), (3, 3)]
    assert math.isnan(ranges[1][2])


@pytest.mark.parametrize(
    ("steps", "rates", "count", "word"),
    [
        ([], [], 0, ""),
        ([0], [0.1], 0, ""),
        ([0, 1], [None, 0.1], 1, ""),
        ([0, 1, 2], [0.1, None, 0.1], 0, "learning rate was not recorded"),
        ([0, 1, 1], [0.1, 0.1, 0.1], 1, "does not rise"),
        ([0, -1, 2], [0.1, 0.1, 0.1], 0, "does not rise"),
        ([0, 1, 2], [0.1, 0.1, math.nan], 1, "learning rate was not recorded"),
        ([0, 1, 2], [0.1, 0.1, -1.0], 1, "learning rate was not recorded"),
    ],
)
def test_steps_of_the_random_walk(steps: list[int], rates: list[float | None], count: int, word: str) -> None:
    sizes, why = step_sizes(steps, rates)
    assert len(sizes) == count
    assert word in why
    assert bool(why) == bool(word)


def test_outlooks_have_settled_groups_first_and_leave_out_what_is_not_known() -> None:
    def settling(remaining: float, since: int | None) -> GroupSettling:
        nothing = {field.name: 0.0 for field in dataclasses.fields(Forecast)}
        outlook = Forecast(**nothing | {"remaining": remaining, "low": remaining / 2, "high": 2 * remaining})
        return GroupSettling(outlook=outlook, settled_since=since)

    state = SettlingState(
        groups={
            "far": settling(0.9, None),
            "silent": GroupSettling(),
            "late": settling(0.01, 7),
            "near": settling(0.2, None),
            "early": settling(0.02, 3),
        }
    )
    found = group_outlooks(state)
    assert [one.group for one in found] == ["early", "late", "near", "far"]
    assert [one.settled_since for one in found] == [3, 7, None, None]
    assert (found[0].remaining, found[0].low, found[0].high) == (0.02, 0.01, 0.04)
    assert group_outlooks(SettlingState()) == []
