"""A training of the switch benchmark is taken up with the same bits, and a switch changes what it says and no more."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from benchmarks.switch.outcomes import norm_only_outcome, switched
from benchmarks.switch.recipes import Recipe
from benchmarks.switch.training import Training

from support.switch_runs import TINY, full_run, same_bits
from trajmon.numerics.model import is_norm_module

by_name = pytest.mark.parametrize("recipe", TINY, ids=lambda recipe: recipe.name)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def to_the_end(training: Training) -> Training:
    while not training.is_over:
        training.advance()
    return training


@by_name
def test_taken_up_anywhere_it_ends_with_the_same_bits(recipe: Recipe) -> None:
    states = full_run(recipe)
    for start in (0, 1, 4, recipe.intervals):
        training = Training(recipe)
        # What was before must not matter.
        training.advance()
        training.restore(states[start])
        assert same_bits(to_the_end(training).state(), states[-1]), start


@by_name
def test_a_switch_that_freezes_nothing_ends_as_the_full_run(recipe: Recipe) -> None:
    states = full_run(recipe)
    training, report = switched(recipe, states[2], keep=".")
    assert report.frozen_names == ()
    assert same_bits(to_the_end(training).state(), states[-1])
    outcome = norm_only_outcome(recipe, states[2], keep=".")
    assert outcome.final == training.score()


@by_name
def test_a_switch_trains_the_norm_scalars_alone_on_the_same_data(recipe: Recipe) -> None:
    states = full_run(recipe)
    training, report = switched(recipe, states[2])
    end = to_the_end(training).state()
    norm = {
        f"{path}.{name}"
        for path, module in training.network.named_modules()
        if is_norm_module(module)
        for name, _ in module.named_parameters(recurse=False)
    }
    parameters = dict(training.network.named_parameters())
    assert report.trainable_after == sum(parameters[name].numel() for name in norm) > 0
    for name in parameters:
        before, after = states[2]["network"][name], end["network"][name]
        assert torch.equal(before, after) == (name not in norm), name
    # The same batches and noise, and as many of them.
    assert torch.equal(end["generator"], states[-1]["generator"])
    assert end["step"] == states[-1]["step"]
    assert not same_bits(end["network"], states[-1]["network"])


@by_name
def test_an_outcome_is_that_of_a_loop_that_never_stopped(recipe: Recipe) -> None:
    """Against a training that was neither saved nor restored, its other parameters frozen by hand."""
    training = Training(recipe)
    for _ in range(3):
        training.advance()
    saved = training.state()
    norm = {
        id(parameter)
        for module in training.network.modules()
        if is_norm_module(module)
        for parameter in module.parameters(recurse=False)
    }
    for parameter in training.network.parameters():
        if id(parameter) not in norm:
            parameter.requires_grad_(False)
            parameter.grad = None
    to_the_end(training)
    outcome = norm_only_outcome(recipe, saved)
    assert outcome.final == training.score()
    restored, _ = switched(recipe, saved)
    assert same_bits(to_the_end(restored).state()["network"], training.state()["network"])


@by_name
def test_scoring_changes_nothing(recipe: Recipe) -> None:
    training = Training(recipe)
    training.advance()
    before = training.state()
    score = training.score()
    assert same_bits(before, training.state())
    assert training.score() == score
    assert training.network.training


@by_name
def test_learning_rates_are_those_of_the_recipe(recipe: Recipe) -> None:
    training = Training(recipe)
    for interval in range(recipe.intervals):
        training.advance()
        rates = {group["lr"] for group in training.optimizer.param_groups}
        assert rates == {recipe.learning_rate(interval)}


def test_another_seed_is_another_run() -> None:
    recipe = TINY[0]
    other = dataclasses.replace(recipe, seed=recipe.seed + 1)
    assert not same_bits(Training(recipe).state()["network"], Training(other).state()["network"])
    assert not torch.equal(Training(recipe).state()["generator"], Training(other).state()["generator"])


def test_a_broken_network_has_no_score() -> None:
    training = Training(TINY[3])
    with torch.no_grad():
        next(training.network.parameters()).fill_(math.nan)
    score = training.score()
    assert math.isnan(score.metric)
    assert math.isnan(score.loss)


def test_tail_of_a_late_switch_is_undefined_before_it() -> None:
    recipe = TINY[3]
    states = full_run(recipe)
    outcome = norm_only_outcome(recipe, states[recipe.intervals - 1])
    assert [math.isnan(value) for value in outcome.tail] == [True, True, False]
    assert outcome.tail[-1] == outcome.final.metric
    early = norm_only_outcome(recipe, states[0])
    assert not any(map(math.isnan, early.tail))
    assert early.tail[-1] == early.final.metric
