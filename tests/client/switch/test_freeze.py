"""Frozen weights keep every bit, whatever optimizer, loop and leftovers there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.optim import lr_scheduler

from client.switch.networks import (  # noqa: TID251 # tests/client, on the path of the tests
    NORM,
    OTHERS,
    check_freeze,
    loss_of,
    moved,
    network,
    train,
    values,
)
from trajmon.switch import switch_back, switch_to_norm_only
from trajmon.switch.optimizers import state_bytes

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "sgd nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, foreach=False),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01, weight_decay=0.1),
    "adafactor of transformers": lambda p: transformers.Adafactor(  # type: ignore[no-untyped-call] # states no types
        p, lr=0.01, relative_step=False, beta1=0.9
    ),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True, weight_decay=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, weight_decay=0.1, initial_accumulator_value=0.5),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_weights_keep_every_bit(name: str, set_to_none: bool, mode: Any) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, range(6), set_to_none=set_to_none)
    report = switch_to_norm_only(model, optimizer, mode=mode)
    assert (report.mode, list(report.frozen_names)) == (mode, OTHERS)
    before = values(model)
    train(model, optimizer, range(6, 56), set_to_none=set_to_none)
    assert moved(before, model) == NORM
    # And back: everything moves again, with no error from a state that is not there.
    switch_back(model, optimizer)
    train(model, optimizer, range(56, 59), set_to_none=set_to_none)
    assert set(moved(before, model)) == {*NORM, *OTHERS}


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_a_gradient_that_is_left_over_moves_nothing(mode: Any) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(model, optimizer, range(3))
    # Between forward and backward: the graph of the step still leads to every weight.
    optimizer.zero_grad()
    loss = loss_of(model, 3)
    switch_to_norm_only(model, optimizer, mode=mode)
    before = values(model)
    loss.backward()  # type: ignore[no-untyped-call] # torch's own
    optimizer.step()
    assert moved(before, model) == NORM


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_moves_nothing_either(mode: Any, by_name: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(model, optimizer, range(3))
    switch_to_norm_only(model, optimizer, mode=mode)
    before = values(model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, 4)
        loss.backward()  # type: ignore[no-untyped-call] # torch's own
        return loss

    for _ in range(5):
        loss: Any = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
        assert loss.item() > 0
    assert moved(before, model) == NORM


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=60),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=60),
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    ],
    ids=["one cycle", "cosine", "lambda"],
)
def test_schedulers_go_on(schedule: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]) -> None:
    model, plain = network(), nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    beside = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    scheduler, expected = schedule(optimizer), schedule(beside)

    def step_both() -> None:
        scheduler.step()
        beside.step()
        expected.step()
        assert scheduler.get_last_lr() == expected.get_last_lr()
        assert optimizer.param_groups[0]["lr"] == scheduler.get_last_lr()[0]

    check_freeze(model, optimizer, after_step=step_both)


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_gradient_scaler_and_clipping_go_on(mode: Any) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    norms = []

    def steps(numbers: range) -> None:
        for number in numbers:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, number)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call] # torch's own
            scaler.unscale_(optimizer)
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.05).item())
            scaler.step(optimizer)
            scaler.update()

    steps(range(6))
    switch_to_norm_only(model, optimizer, mode=mode)
    before = values(model)
    steps(range(6, 56))
    assert moved(before, model) == NORM
    assert min(norms) > 0
    assert scaler.get_scale() == 2.0**8


def test_hard_clipping_sees_norm_gradients_only() -> None:
    norms = {}
    modes: list[Literal["hard", "soft"]] = ["hard", "soft"]
    for mode in modes:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        switch_to_norm_only(model, optimizer, mode=mode)
        loss_of(model, 0).backward()  # type: ignore[no-untyped-call] # torch's own
        norms[mode] = nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
    assert norms["hard"] < 0.9 * norms["soft"]


def test_running_statistics_of_batch_norm_go_on() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    train(model, optimizer, range(3))
    switch_to_norm_only(model, optimizer)
    assert model.bn.running_mean is not None
    before = model.bn.running_mean.clone()
    train(model, optimizer, range(3, 6))
    assert not torch.equal(before, model.bn.running_mean)
    assert model.training


def test_a_compiled_model() -> None:
    model = network()
    compiled = torch.compile(model, backend="aot_eager")
    assert isinstance(compiled, nn.Module)
    optimizer = torch.optim.AdamW(compiled.parameters(), lr=0.01, weight_decay=0.1)
    check_freeze(compiled, optimizer)


def test_a_whole_transformer_frees_its_state() -> None:
    config = transformers.GPT2Config(n_layer=2, n_embd=128, n_head=4, vocab_size=2000, n_positions=64)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.randint(0, 2000, (2, 16))

    def step() -> None:
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()

    step()
    full = state_bytes(optimizer.state)
    report = switch_to_norm_only(model, optimizer)
    assert report.optimizer_bytes_before == full > 5_000_000
    assert report.optimizer_bytes_after == state_bytes(optimizer.state) < 0.01 * full
    before = values(model)
    step()
    step()
    names = moved(before, model)
    assert len(names) == 10
    assert all(".ln_" in name for name in names)
    assert 0 < report.trainable_fraction < 0.01
    assert report.trainable_after == sum(before[name].numel() for name in names)


def test_adagrad_gets_its_state_back_at_once() -> None:
    model = network()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01, initial_accumulator_value=0.5)
    train(model, optimizer, range(3))
    switch_to_norm_only(model, optimizer)
    assert len(optimizer.state) == len(NORM)
    switch_back(model, optimizer)
    assert len(optimizer.state) == len([*NORM, *OTHERS])
    assert (optimizer.state[model.head.weight]["sum"] == 0.5).all()
    assert (optimizer.state[model.bn.weight]["sum"] > 0.5).all()


def test_several_optimizers() -> None:
    model = network()
    matrices = torch.optim.Muon([model.head.weight], lr=0.01)
    rest = torch.optim.AdamW([p for p in model.parameters() if p is not model.head.weight], lr=0.01)

    def both(steps: range) -> None:
        def step() -> None:
            matrices.step()  # type: ignore[no-untyped-call] # torch's own
            matrices.zero_grad()

        train(model, rest, steps, after_step=step)

    both(range(4))
    report = switch_to_norm_only(model, [rest, matrices], mode="soft")
    assert len(matrices.state) == 0
    assert report.optimizer_bytes_after == state_bytes(rest.state) > 0
    before = values(model)
    both(range(4, 54))
    assert moved(before, model) == NORM
    switch_back(model, [rest, matrices])
    both(range(54, 56))
    assert set(moved(before, model)) == {*NORM, *OTHERS}
