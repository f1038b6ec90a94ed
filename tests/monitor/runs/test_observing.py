"""What a policy sees of a run with a plan: the same live and in a replay, after restarts, in any order of rows."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.core import Server, play
from support.planned_rows import PERIOD, TOLERANCE, PlannedRun
from support.rows import Cut
from trajmon_protos.record import decode, encode
from trajmon_server.hallmarks.stream_lags import BEYOND_NEIGHBOURS
from trajmon_server.model import CheckpointMeta, Plan
from trajmon_server.replay import advices
from trajmon_server.signals.base import LAGS, Advice, Ahead, Observation, Policy
from trajmon_server.signals.policies import make_policy


@dataclass(frozen=True)
class Seen:
    inner: Any
    observations: tuple[Observation, ...] = ()
    advices: tuple[Advice, ...] = ()


@dataclass(frozen=True)
class Witness:
    """A policy that remembers, in its state, what it was shown and what it said."""

    policy: Policy[Any] = field(default_factory=lambda: make_policy("remaining_displacement/2"))

    @property
    def name(self) -> str:
        return self.policy.name

    def init(self) -> Seen:
        return Seen(self.policy.init())

    def update(self, state: Seen, observation: Observation) -> tuple[Seen, Advice]:
        inner, advice = self.policy.update(state.inner, observation)
        seen = Seen(inner, (*state.observations, observation), (*state.advices, advice))
        return seen, advice


def plain(value: Any) -> Any:
    """Without NaN, which equals nothing."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def assert_same(seen: Seen, expected: list[Observation]) -> None:
    assert [plain(asdict(one)) for one in seen.observations] == [plain(asdict(one)) for one in expected]
    assert list(seen.advices) == advices(Witness().policy, expected)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path, ThreadPoolExecutor(2), Witness())


async def settle(server: Server, source: PlannedRun) -> Seen:
    """What the policy was shown, once all rows are worked off."""
    await server.gram(source)
    seen = server.run(source).analysis.policy_state
    assert isinstance(seen, Seen)
    return seen


def test_live_and_replay_see_the_same_and_say_the_same(server: Server, tmp_path: Path) -> None:
    source = PlannedRun("plan")
    expected = source.expected(tmp_path)

    async def scenario() -> None:
        for checkpoint in range(source.num_checkpoints):
            await server.push_whole(source, source.record(checkpoint))
            if checkpoint == 20:
                await server.restart()
        assert_same(await settle(server, source), expected)
        await server.restart()
        assert_same(await settle(server, source), expected)

    play(server, scenario())
    # The history has something to agree on.
    said = {advice.state.value for advice in advices(Witness().policy, expected)}
    assert {"unknown", "explore", "candidate", "switch"} <= said
    last = expected[30]
    assert set(last.groups) == {*(f"layer:{name}" for name in source.layer_names), "norm"}
    assert last.groups["norm"] == last.groups["layer:layer3.weight"]
    theta = source.parameters[:31].reshape(31, -1)
    steps = np.diff(theta, axis=0)
    assert last.norm_squared == theta[30] @ theta[30]
    assert last.lagged_dots == tuple(steps[-1] @ steps[-1 - lag] for lag in LAGS)
    assert last.ahead == Ahead(PERIOD * 17, expected[30].ahead.rate_sum, expected[30].ahead.rate_squared_sum)  # type: ignore[union-attr] # all have one
    assert (last.objective, last.objective_tolerance) == (1.0 - source.metric[30], TOLERANCE)


def test_after_a_resume_from_an_earlier_step(server: Server, tmp_path: Path) -> None:
    source = PlannedRun("resumed")
    path = [*range(20), *range(30, 48)]
    told = {one.checkpoint: one.ahead for one in source.expected(tmp_path)}
    expected = [replace(one, ahead=told[one.checkpoint]) for one in source.expected(tmp_path, path)]

    async def scenario() -> None:
        for checkpoint in range(30):
            await server.push_whole(source, source.record(checkpoint))
        await settle(server, source)
        await server.open_whole(source, attempt=2)
        for checkpoint in range(30, 48):
            await server.push_whole(source, source.record(checkpoint, path[: path.index(checkpoint)], 2))
        assert_same(await settle(server, source), expected)
        await server.restart()
        assert_same(await settle(server, source), expected)

    play(server, scenario())


def test_after_a_row_that_came_late(server: Server, tmp_path: Path) -> None:
    source = PlannedRun("late")
    two, three = Cut.of(source, 2), Cut.of(source, 3, attempt=2)
    expected = source.expected(tmp_path)

    async def scenario() -> None:
        for checkpoint in range(20):
            await server.hand_in(source, two, 0, checkpoint)
            if checkpoint < 19:
                await server.hand_in(source, two, 1, checkpoint)
        for part in range(3):
            await server.open(source, three, part, first_checkpoint=20)
        for checkpoint in range(20, 48):
            for part in range(3):
                await server.hand_in(source, three, part, checkpoint)
        without = await settle(server, source)
        assert without.advices[-1] != advices(Witness().policy, expected)[-1]
        await server.hand_in(source, two, 1, 19)
        assert_same(await settle(server, source), expected)

    play(server, scenario())


def test_the_plan_of_a_sharded_training_is_that_of_its_first_rank(server: Server) -> None:
    source = PlannedRun("ranks")
    cut = Cut.of(source, 2)

    async def scenario() -> None:
        for part in (1, 0):
            row = decode(source.part_record(0, cut, part))
            if part == 1:
                row.header.info.plan.steps_ahead = 4700
                row.header.info.plan.objective = "other"
            await server.push(source, cut, part, encode(row))
        await settle(server, source)

    play(server, scenario())
    plan = server.run(source).metas[0].plan
    assert plan.ahead is not None
    assert (plan.ahead.steps, plan.objective) == (470, "accuracy")


def test_what_cannot_be_resolved_or_is_not_known_is_undefined(server: Server) -> None:
    source = PlannedRun("undefined", num_checkpoints=12)
    # Layer 1 takes steps of 1 where its weights are of the order of 1e8: their products drown in the Gram.
    source.parameters[:, 1] = 1e8 + np.arange(12)[:, None]

    async def scenario() -> None:
        for checkpoint in range(12):
            row = source.row(checkpoint)
            if checkpoint == 9:
                row.gram[2, 5], row.status[2] = np.nan, 2
                row.header.info.ClearField("plan")
            await server.push_whole(source, encode(row))
        seen = (await settle(server, source)).observations
        before, at = seen[8], seen[9]
        assert before.complete
        assert not at.complete
        assert plain(before.groups["layer:layer1.weight"].lagged_dots) == [None] * 3
        assert None not in plain(before.groups["layer:layer0.weight"].lagged_dots)
        # Lags 3 and 4 at checkpoint 9 need its inner product with checkpoint 5.
        assert plain(at.groups["layer:layer2.weight"].lagged_dots)[1:] == [None, None]
        assert at.groups["layer:layer2.weight"].lagged_dots[0] == source_dot(source, 9, 2, layer=2)
        assert None not in plain(at.groups["layer:layer0.weight"].lagged_dots)
        assert at.ahead is None
        assert plain([at.objective, at.objective_tolerance]) == [None, None]

    play(server, scenario())


def source_dot(source: PlannedRun, checkpoint: int, lag: int, layer: int) -> float:
    steps = np.diff(source.parameters[:, layer], axis=0)
    return float(steps[checkpoint - 1] @ steps[checkpoint - 1 - lag])


def test_an_objective_that_a_checkpoint_does_not_have_is_undefined() -> None:
    source = PlannedRun("silent")
    header = source.header(3, 2, 1)
    assert CheckpointMeta.from_header(header, ()).objective == 1.0 - source.metric[3]
    header.info.plan.larger_is_better = False
    assert CheckpointMeta.from_header(header, ()).objective == source.metric[3]
    header.info.metrics.clear()
    assert math.isnan(CheckpointMeta.from_header(header, ()).objective)


def test_a_plan_goes_to_a_message_and_back() -> None:
    for plan in (
        Plan(Ahead(3, 0.3, 0.03), "loss", False, 0.1),
        Plan(Ahead(0)),
        Plan(None, "accuracy", True),
    ):
        assert plain(asdict(Plan.from_message(plan.message()))) == plain(asdict(plan))
    meta = CheckpointMeta.from_header(PlannedRun("a").header(5, 4, 1), ())
    assert meta.info_message().plan == meta.plan.message()


def test_the_lags_are_those_of_the_stream() -> None:
    assert LAGS == BEYOND_NEIGHBOURS
