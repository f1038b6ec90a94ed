"""What the switch chooses, says, refuses, and gives back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
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
from trajmon.errors import SwitchError
from trajmon.switch import (
    StepTimer,
    SwitchReport,
    is_switched,
    switch_back,
    switch_to_norm_only,
    training_mode,
)


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)


def prepared() -> tuple[Net, torch.optim.AdamW]:
    """A network that has trained for a while."""
    model = network()
    optimizer = adamw(model)
    train(model, optimizer, range(4))
    return model, optimizer


def trained_after(model: nn.Module, optimizer: Any, steps: range = range(10, 14)) -> list[str]:
    before = values(model)
    train(model, optimizer, steps)
    return moved(before, model)


def test_the_report() -> None:
    model, optimizer = prepared()
    assert training_mode(model) == "full"
    report = switch_to_norm_only(model, optimizer)
    assert is_switched(model)
    assert training_mode(model) == "norm_only"
    # 12*3*3 + 12 and 24 + 2 others, 4 times 12 norm scalars; AdamW keeps two values each and a step of 4 bytes.
    assert (report.parameters, report.trainable_before, report.trainable_after) == (194, 194, 48)
    assert report.optimizer_bytes_before == 2 * 4 * 194 + 8 * 4
    assert report.optimizer_bytes_after == 2 * 4 * 48 + 4 * 4
    assert report.frozen_names == tuple(OTHERS)
    assert not report.already
    assert report.step_seconds_before is None
    assert report.step_seconds_after is None
    assert str(report) == (
        "switched to norm-only training (hard freeze): 48 of 194 parameters (24.7 %) are trained, before 194; "
        "optimizer state 1.58 kB -> 400 B"
    )
    with pytest.raises(AttributeError):
        report.mode = "soft"  # type: ignore[misc] # frozen


def test_step_times_of_a_training_that_is_timed() -> None:
    model = network()
    optimizer = adamw(model)
    timer = StepTimer(optimizer)
    train(model, optimizer, range(10))
    before = timer.seconds
    assert before is not None
    assert before > 0
    report = switch_to_norm_only(model, optimizer)
    assert report.step_seconds_before == before
    assert str(report).endswith(f"; step {1e3 * before:.3g} ms")
    assert timer.seconds is None
    train(model, optimizer, range(10, 60))
    after = report.step_seconds_after
    assert after is not None
    assert str(report).endswith(f"; step {1e3 * before:.3g} ms -> {1e3 * after:.3g} ms")
    # It ended by itself after 32 spans and stays what it was; the standing one goes on.
    train(model, optimizer, range(60, 62))
    assert report.step_seconds_after == after
    assert len(optimizer._optimizer_step_post_hooks) == 1
    back = switch_back(model, optimizer)
    assert back.step_seconds_before == after
    timer.close()


def test_without_a_timer_no_hook_outlives_the_first_steps() -> None:
    model, optimizer = prepared()
    report = switch_to_norm_only(model, optimizer)
    train(model, optimizer, range(40))
    assert len(optimizer._optimizer_step_post_hooks) == 0
    assert report.step_seconds_after is not None
    assert f"; step now {1e3 * report.step_seconds_after:.3g} ms" in str(report)


def test_include_exclude_and_keep() -> None:
    model, optimizer = prepared()
    report = switch_to_norm_only(
        model, optimizer, include=r"^stem\.bias$", exclude=[r"^bn\.bias$"], keep=("head",)
    )
    staying = ["stem.bias", "bn.weight", "ln.weight", "ln.bias", "head.weight", "head.bias"]
    assert report.frozen_names == ("stem.weight", "bn.bias")
    assert trained_after(model, optimizer) == staying


def test_names_are_without_wrappers() -> None:
    model = network()
    compiled = torch.compile(model, backend="eager")
    assert isinstance(compiled, nn.Module)
    wrapped = nn.DataParallel(compiled)
    optimizer = adamw(wrapped)
    report = switch_to_norm_only(wrapped, optimizer, keep=[r"^head\.weight$"])
    assert report.frozen_names == ("stem.weight", "stem.bias", "head.bias")
    # Known under every wrapper, and bare.
    assert is_switched(model)
    assert is_switched(wrapped)
    assert switch_back(model, optimizer).frozen_names == report.frozen_names


def test_switch_back_gives_back_what_was() -> None:
    model = network()
    model.stem.weight.requires_grad_(False)
    model.bn.bias.requires_grad_(False)
    optimizer = adamw(model)
    train(model, optimizer, range(4))
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    report = switch_to_norm_only(model, optimizer)
    assert report.frozen_names == ("stem.bias", "head.weight", "head.bias")
    assert trained_after(model, optimizer) == ["bn.weight", "ln.weight", "ln.bias"]
    back = switch_back(model, optimizer)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert (back.training_mode, back.frozen_names) == ("full", report.frozen_names)
    assert (back.trainable_before, back.trainable_after) == (36, 36 + 12 + 26)
    assert not is_switched(model)
    assert len(optimizer._optimizer_step_pre_hooks) == 0
    assert trained_after(model, optimizer) == [
        "stem.bias",
        "bn.weight",
        "ln.weight",
        "ln.bias",
        "head.weight",
        "head.bias",
    ]
    assert str(back).startswith(
        "switched to full training: 74 of 194 parameters (38.1 %) are trained, before 36;"
    )


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_there_and_back_many_times(mode: Any) -> None:
    model, optimizer = prepared()
    for _ in range(3):
        switch_to_norm_only(model, optimizer, mode=mode)
        assert trained_after(model, optimizer) == NORM
        switch_back(model, optimizer)
        assert set(trained_after(model, optimizer)) == {*NORM, *OTHERS}


def test_a_second_switch_says_that_it_is_one() -> None:
    model, optimizer = prepared()
    switch_to_norm_only(model, optimizer, keep=("head",))
    again = switch_to_norm_only(model, optimizer, keep=("head",))
    assert again.already
    assert (again.trainable_before, again.trainable_after) == (74, 74)
    assert str(again) == "norm-only training goes on: 38.1 % of the parameters are trained"
    assert len(optimizer._optimizer_step_pre_hooks) == 1


def test_a_new_optimizer_of_a_switched_model() -> None:
    model, optimizer = prepared()
    switch_to_norm_only(model, optimizer, mode="soft")
    newer = adamw(model)
    assert switch_to_norm_only(model, newer).already
    assert trained_after(model, newer) == NORM
    assert (len(optimizer._optimizer_step_pre_hooks), len(newer._optimizer_step_pre_hooks)) == (0, 1)
    switch_back(model, newer)
    assert set(trained_after(model, newer)) == {*NORM, *OTHERS}


def test_copies_are_not_switched() -> None:
    model, optimizer = prepared()
    switch_to_norm_only(model, optimizer)
    assert not is_switched(copy.deepcopy(model))


def test_accelerate_wraps_the_optimizer() -> None:
    accelerator = Accelerator(cpu=True)
    model = network()
    prepared_model, optimizer = accelerator.prepare(model, adamw(model))
    train(prepared_model, optimizer, range(4))
    report = switch_to_norm_only(prepared_model, optimizer)
    assert report.optimizer_bytes_after == 2 * 4 * 48 + 4 * 4
    assert trained_after(prepared_model, optimizer) == NORM
    assert len(optimizer.optimizer.state) == 4


class Listener:
    """Hears of switches; fails if told to."""

    def __init__(self, fails: bool = False) -> None:
        self.heard: list[SwitchReport] = []
        self.fails = fails

    def on_switch(self, report: SwitchReport) -> None:
        self.heard.append(report)
        if self.fails:
            raise RuntimeError("the disk is full")


def test_the_recorder_hears_of_it(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = prepared()
    listener, failing = Listener(), Listener(fails=True)
    there = switch_to_norm_only(model, optimizer, recorder=listener)
    back = switch_back(model, optimizer, recorder=failing)
    assert (listener.heard, failing.heard) == ([there], [back])
    assert not is_switched(model)
    assert (
        "could not take note of the switch: RuntimeError('the disk is full'); training goes on" in caplog.text
    )


class Plain(nn.Module):
    """Nothing is normalised here."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3, elementwise_affine=False))


def frozen_norms() -> Net:
    model = network()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in NORM)
    return model


def lazy() -> nn.Module:
    with torch.device("cpu"):
        return nn.Sequential(nn.LazyLinear(3), nn.LayerNorm(3))


class DeepSpeedLike(torch.optim.SGD):
    """Only its origin counts."""


DeepSpeedLike.__module__ = "deepspeed.runtime.zero.stage_1_and_2"


def only(names: list[str]) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD([p for name, p in model.named_parameters() if name in names], lr=0.1)


REFUSALS: list[tuple[Callable[[], nn.Module], Callable[[nn.Module], object], dict[str, Any], str]] = [
    (
        Plain,
        adamw,
        {},
        "none of the 2 parameters belongs to a normalisation layer; name those that do with include=",
    ),
    (
        network,
        adamw,
        {"exclude": "^(bn|ln)"},
        "none of the 8 parameters belongs to a normalisation layer; name those that do with include=",
    ),
    (frozen_norms, adamw, {}, "all 4 norm parameters are frozen already (requires_grad=False)"),
    (
        network,
        only(["head.weight", *NORM[:3]]),
        {},
        "the optimizer does not hold 1 of the 4 parameters that are to be trained; the first is 'ln.bias'; give all "
        "optimizers as a list, or leave these out with exclude=",
    ),
    (
        network,
        only(["head.weight", *NORM]),
        {"mode": "soft"},
        "3 parameters to be frozen are not in the optimizer, and another one may move them; the first is "
        "'stem.weight'; give all optimizers as a list",
    ),
    (
        network,
        lambda model: adamw(network()),
        {},
        "model and optimizer do not belong together: none of the optimizer's 8 parameters is one of the model's 8",
    ),
    (
        network,
        lambda model: torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(2))], lr=0.1),
        {},
        "the optimizer also holds 1 parameters that are not the model's and would go on being trained; give the "
        "model that holds them all",
    ),
    (network, adamw, {"keep": "hed"}, "'hed' matches none of the 8 parameters"),
    (
        network,
        adamw,
        {"include": ["("]},
        "'(' is not a regular expression: missing ), unterminated subpattern at position 0",
    ),
    (network, adamw, {"mode": "firm"}, 'mode=\'firm\' is not one of "auto", "hard", "soft"'),
    (network, lambda model: None, {}, "NoneType is no optimizer: it has no param_groups and state"),
    (network, lambda model: [], {}, "no optimizer was given"),
    (
        network,
        lambda model: torch.optim.LBFGS(model.parameters()),
        {},
        "LBFGS moves all parameters along one remembered direction; none can be frozen",
    ),
    (
        network,
        lambda model: DeepSpeedLike(model.parameters(), lr=0.1),
        {},
        "DeepSpeedLike keeps flat copies of the parameters that cannot be frozen in place",
    ),
]


@pytest.mark.parametrize(
    ("build", "optimize", "options", "text"), REFUSALS, ids=[case[3][:40] for case in REFUSALS]
)
def test_refusals_change_nothing(
    build: Callable[[], nn.Module],
    optimize: Callable[[nn.Module], object],
    options: dict[str, Any],
    text: str,
) -> None:
    model = build()
    optimizer = optimize(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    if isinstance(optimizer, torch.optim.Optimizer) and not isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step()
    before = picture(model, optimizer)
    with pytest.raises(SwitchError) as caught:
        switch_to_norm_only(model, optimizer, **options)
    assert str(caught.value) == text
    assert picture(model, optimizer) == before
    assert not is_switched(model)


def picture(model: nn.Module, optimizer: object) -> list[Any]:
    """Everything that a switch may touch."""
    flags = [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()]
    if not isinstance(optimizer, torch.optim.Optimizer):
        return flags
    hooks = (len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks))
    return [*flags, hooks, str(optimizer.state_dict())]


def test_a_lazy_parameter_is_refused() -> None:
    model = lazy()
    with pytest.raises(SwitchError) as caught:
        switch_to_norm_only(model, adamw(model[1]))  # type: ignore[index] # a Sequential
    assert str(caught.value) == "parameter '0.weight' has no shape yet; run a forward pass first"


def test_other_choices_on_a_switched_model_are_refused() -> None:
    model, optimizer = prepared()
    switch_to_norm_only(model, optimizer)
    for options in ({"keep": "head"}, {"mode": "soft"}):
        before = picture(model, optimizer)
        with pytest.raises(SwitchError) as caught:
            switch_to_norm_only(model, optimizer, **options)  # type: ignore[arg-type] # both fit
        assert str(caught.value) == (
            "the model is switched to norm-only training already, with another choice of parameters or mode; "
            "switch_back first"
        )
        assert picture(model, optimizer) == before


def test_there_is_nothing_to_switch_back() -> None:
    model, optimizer = prepared()
    with pytest.raises(SwitchError) as caught:
        switch_back(model, optimizer)
    assert str(caught.value) == "the model is not switched to norm-only training"
