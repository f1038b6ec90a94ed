"""What the actor does with advice: log, callback, switch; alone and agreed among ranks."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from client.switch.networks import (  # noqa: TID251 # tests/client, on the path of the tests
    NORM,
    OTHERS,
    Net,
    moved,
    network,
    train,
    values,
)
from trajmon.advice import Advice
from trajmon.errors import RefusedError
from trajmon.switch import AdviceActor, is_switched, switch_back, switch_to_norm_only

EXPLORE = Advice("explore", reason="it turns", checkpoint=1)
SWITCH = Advice("switch", reason="it is settled", checkpoint=2)
RESUME = Advice("resume", reason="it turns again", checkpoint=5)


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="trajmon")


def training() -> tuple[Net, torch.optim.Optimizer]:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, range(3))
    return model, optimizer


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_log_says_each_change_once(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = training()
    actor = AdviceActor(model, optimizer)
    for number, advice in enumerate([Advice(), EXPLORE, EXPLORE, SWITCH, SWITCH, SWITCH, EXPLORE]):
        actor.after_checkpoint(number, advice)
    assert lines(caplog) == [
        "advice is now explore: it turns",
        "advice is now switch: it is settled",
        "advice is now explore: it turns",
    ]
    assert not is_switched(model)
    assert actor.training_mode == "full"


def test_a_callback_hears_of_each_change(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = training()
    heard: list[Advice] = []
    actor = AdviceActor(model, optimizer, "callback", heard.append)
    for number, advice in enumerate([Advice(), EXPLORE, EXPLORE, SWITCH, SWITCH]):
        actor.after_checkpoint(number, advice)
    assert heard == [EXPLORE, SWITCH]
    assert not is_switched(model)


def test_a_failing_callback_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = training()

    def fail(advice: Advice) -> None:
        raise ZeroDivisionError(advice.state)

    AdviceActor(model, optimizer, "callback", fail).after_checkpoint(0, SWITCH)
    assert lines(caplog)[-1] == "the advice callback failed; training goes on"
    assert "ZeroDivisionError: switch" in caplog.text


def test_a_callback_may_switch() -> None:
    model, optimizer = training()
    actor = AdviceActor(model, None, "callback", lambda advice: switch_to_norm_only(model, optimizer))
    actor.after_checkpoint(0, SWITCH)
    assert actor.training_mode == "norm_only"


def test_switch_follows_the_advice_there_and_back(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = training()
    actor = AdviceActor(model, optimizer, "switch")
    modes = []
    changed = []
    for number, advice in enumerate([EXPLORE, SWITCH, SWITCH, SWITCH, RESUME, RESUME, SWITCH]):
        actor.after_checkpoint(number, advice)
        modes.append(actor.training_mode)
        before = values(model)
        train(model, optimizer, range(10 * number, 10 * number + 2))
        changed.append(moved(before, model) != NORM)
    assert modes == ["full", *["norm_only"] * 3, "full", "full", "norm_only"]
    assert changed == [mode == "full" for mode in modes]
    report = actor.last_report
    assert report is not None
    assert list(report.frozen_names) == OTHERS
    assert [line.partition(":")[0] for line in lines(caplog)] == [
        "advice is now explore",
        "advice is now switch",
        "switched to norm-only training (hard freeze)",
        "advice is now resume",
        "switched to full training",
        "advice is now switch",
        "switched to norm-only training (hard freeze)",
    ]


def test_what_the_user_switched_is_followed_too() -> None:
    model, optimizer = training()
    actor = AdviceActor(model, optimizer, "switch")
    switch_to_norm_only(model, optimizer)
    actor.after_checkpoint(0, SWITCH)
    assert is_switched(model)
    assert actor.last_report is None
    actor.after_checkpoint(1, RESUME)
    assert actor.training_mode == "full"


def test_a_refused_switch_is_logged_once_and_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    actor = AdviceActor(model, torch.optim.SGD(model.parameters(), lr=0.1), "switch")
    for number in range(3):
        actor.after_checkpoint(number, SWITCH)
    why = "not switched: none of the 2 parameters belongs to a normalisation layer; name those that do with include="
    assert lines(caplog) == ["advice is now switch: it is settled", f"{why}; training goes on as before"]
    assert actor.refused == why
    assert all(parameter.requires_grad for parameter in model.parameters())


class BrokenOptimizer(torch.optim.SGD):
    """Takes no hooks on this day."""

    def register_step_pre_hook(self, hook: Any) -> Any:
        raise OSError("not today")


def test_an_unexpected_failure_does_not_leave_the_actor(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    actor = AdviceActor(model, BrokenOptimizer(model.parameters(), lr=0.1), "switch")
    actor.after_checkpoint(0, SWITCH)
    actor.after_checkpoint(1, SWITCH)
    assert lines(caplog)[1:] == [
        "the switch failed unexpectedly: OSError('not today'); training goes on as before"
    ]
    assert not is_switched(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


class Agreed:
    """What ranks share: rank 0's decision becomes due one checkpoint later, on all of them."""

    def __init__(self) -> None:
        self.decided: dict[int, str] = {}

    def on(self, rank: int) -> OfRank:
        return OfRank(self, rank)


class OfRank:
    """One rank's side."""

    def __init__(self, shared: Agreed, rank: int) -> None:
        self._shared, self._rank = shared, rank

    def decide(self, number: int, action: str) -> None:
        if self._rank == 0:
            assert number + 1 not in self._shared.decided
            self._shared.decided[number + 1] = action

    def due(self, number: int) -> str | None:
        return self._shared.decided.get(number)


def test_ranks_switch_at_the_same_checkpoint_whenever_the_advice_reaches_them() -> None:
    agreed = Agreed()
    trainings = [training() for _ in range(3)]
    actors = [
        AdviceActor(model, optimizer, "switch", agreement=agreed.on(rank))
        for rank, (model, optimizer) in enumerate(trainings)
    ]
    # Rank 1 hears it first, rank 2 never.
    reaches = [
        [EXPLORE, EXPLORE, SWITCH, SWITCH, SWITCH, SWITCH, RESUME, RESUME],
        [SWITCH, SWITCH, SWITCH, SWITCH, SWITCH, RESUME, RESUME, RESUME],
        [EXPLORE] * 8,
    ]
    modes: list[list[str]] = []
    for number in range(8):
        for rank, actor in enumerate(actors):
            actor.after_checkpoint(number, reaches[rank][number])
        modes.append([actor.training_mode for actor in actors])
    assert modes == [["full"] * 3] * 3 + [["norm_only"] * 3] * 4 + [["full"] * 3]
    assert agreed.decided == {3: "switch", 7: "resume"}
    assert [list(actor.last_report.frozen_names) for actor in actors if actor.last_report] == [OTHERS] * 3


def test_a_decision_that_is_overtaken_does_nothing() -> None:
    agreed = Agreed()
    model, optimizer = training()
    actor = AdviceActor(model, optimizer, "switch", agreement=agreed.on(0))
    actor.after_checkpoint(0, SWITCH)
    switch_to_norm_only(model, optimizer)
    actor.after_checkpoint(1, SWITCH)
    assert actor.last_report is None
    switch_back(model, optimizer)
    actor.after_checkpoint(2, SWITCH)
    actor.after_checkpoint(3, SWITCH)
    assert actor.training_mode == "norm_only"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("shout",), 'on_advice=\'shout\' is not one of "log", "callback", "switch"'),
        (("callback",), 'on_advice="callback" needs a callback'),
    ],
)
def test_impossible_wishes(arguments: tuple[Any, ...], text: str) -> None:
    model, optimizer = training()
    with pytest.raises(RefusedError) as caught:
        AdviceActor(model, optimizer, *arguments)
    assert str(caught.value) == text


def test_a_switch_needs_an_optimizer() -> None:
    with pytest.raises(RefusedError) as caught:
        AdviceActor(network(), None, "switch")
    assert str(caught.value) == 'on_advice="switch" needs optimizer='
