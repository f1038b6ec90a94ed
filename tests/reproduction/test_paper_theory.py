"""Random walks, Lemma 1 and initialisations: the theory against independent computations, and the verdicts' rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.paper.experiments import initialization, quadratics, random_walk
from benchmarks.paper.lemma import (
    ALPHA,
    DECAY_AT,
    DIMENSION,
    MOMENTUM,
    SHARPNESS,
    SPECTRA,
    Pair,
    Problem,
    pairs,
    pairs_in_theory,
    problems,
    spectrum,
)
from benchmarks.paper.lemma import train as descend
from benchmarks.paper.workshop import Workshop

from support.server import ServerProcess
from trajmon_server.hallmarks.random_walk_null import random_walk_null


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    server = ServerProcess(tmp_path_factory.mktemp("paper")).start()
    folder: Path = tmp_path_factory.mktemp("theory")
    workshop = Workshop("theory", folder, server=server.addresses["grpc"], home=server.home)
    yield workshop
    workshop.close()
    server.stop()


@pytest.fixture(scope="module")
def found(workshop: Workshop) -> list[Pair]:
    """All pairs of updates of one seed, recorded."""
    return pairs(workshop.record("lemma", lambda watch: descend(watch, 0), recipe=0), 0)


def test_problems_have_layers_of_their_own() -> None:
    names = [one.name for one in problems()]
    assert len(set(names)) == len(names) == 40
    assert (np.diff(spectrum("degenerate", 0)) <= 0).all()
    assert np.count_nonzero(spectrum("degenerate", 0)) == DIMENSION // 10


@pytest.mark.parametrize("shape", SPECTRA)
@pytest.mark.parametrize("sharpness", SHARPNESS[::3])
def test_closed_form_is_what_sgd_does(shape: str, sharpness: float) -> None:
    """PyTorch's own SGD on the objective itself, by autograd; its buffer emptied after two steps."""
    assert shape in SPECTRA
    one = next(one for one in problems() if one.spectrum == shape and one.sharpness == sharpness)
    one = replace(one, momentum="optimizer", alpha=ALPHA)
    eigenvalues = torch.from_numpy(spectrum(one.spectrum, 3).copy())
    point = torch.from_numpy(np.random.default_rng(3).normal(size=DIMENSION)).requires_grad_()
    points = [point.detach().numpy().copy()]
    for step in range(1, DECAY_AT + 5):
        if step % 2 == 1:
            optimizer = torch.optim.SGD([point], lr=one.rate(step), momentum=MOMENTUM, weight_decay=ALPHA)
        optimizer.param_groups[0]["lr"] = one.rate(step)
        optimizer.zero_grad()
        torch.autograd.backward((eigenvalues * point**2).sum() / 2)
        optimizer.step()
        points.append(point.detach().numpy().copy())
    updates = np.diff(points, axis=0)
    checked = 0
    for step, first, second, z in pairs_in_theory(one, 3):
        if step < len(updates):
            np.testing.assert_allclose(first, updates[step - 1], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(second, updates[step], rtol=1e-9, atol=1e-12)
            # As the proof puts it: the product is η η' θᵀ Z θ.
            product = one.rate(step) * one.rate(step + 1) * np.sum(z * points[step - 1] ** 2)
            assert product == pytest.approx(float(first @ second), rel=1e-9)
            checked += 1
    assert checked == 6


def test_recorded_cosines_are_those_of_the_proof(found: list[Pair]) -> None:
    assert len(found) == 40 // 5 * (3 * 15 + 2 * 8)
    assert max(abs(one.cosine - one.cosine_in_theory) for one in found) < 1e-12
    assert quadratics.identity_row(found).verdict == "reproduced"
    wrong = [replace(found[0], cosine=found[0].cosine_in_theory + 1e-6), *found[1:]]
    assert quadratics.identity_row(wrong).verdict == "not reproduced"


def test_the_lower_bound_holds_where_it_is_used_and_both_do_not_everywhere(found: list[Pair]) -> None:
    used, stated = quadratics.bound_rows(found)
    assert used.verdict == "reproduced"
    assert stated.verdict == "not reproduced"
    total = sum(one.problem.momentum != "optimizer" for one in found)
    assert f"all eigenvalues of Z the bounds hold for {total} of {total}." in stated.differs


def test_rules_follow_the_numbers(found: list[Pair]) -> None:
    assert quadratics.angle_row(found).verdict == "reproduced"
    assert quadratics.momentum_row(found).verdict == "not reproduced"
    assert quadratics.weight_decay_row(found).verdict == "partly"
    edge = Problem("spread", SHARPNESS[-1], "none", ALPHA)
    acute = [replace(one, cosine=abs(one.cosine)) if one.problem == edge else one for one in found]
    assert quadratics.angle_row(acute).verdict == "partly"
    turned = [replace(one, cosine=-2.0) if one.problem.momentum == "optimizer" else one for one in found]
    assert quadratics.momentum_row(turned).verdict == "reproduced"


@pytest.mark.parametrize("decay", [True, False])
def test_the_limit_of_walks_is_the_servers_null(decay: bool) -> None:
    sizes = random_walk.step_sizes(decay=decay)
    np.testing.assert_allclose(random_walk.map_of_walk(sizes), random_walk_null(sizes), rtol=1e-12)


def test_a_recorded_walk_is_near_its_limit_and_another_one_is_not(workshop: Workshop) -> None:
    recorded = workshop.record(
        "walk",
        lambda watch: random_walk.walk(watch, decay=True, seed=0, parameters=random_walk.PARAMETERS),
        recipe=0,
    )
    entries = recorded.run.map(relative_to=0).values
    limits = [random_walk.map_of_walk(random_walk.step_sizes(decay=decay)) for decay in (True, False)]
    assert random_walk._walk_row("figure 11", True, [entries], limits[0]).verdict == "reproduced"
    assert random_walk._walk_row("figure 11", True, [entries], limits[1]).verdict == "not reproduced"
    rates = recorded.run.checkpoints.learning_rate.values[1:]
    np.testing.assert_allclose(rates, random_walk.step_sizes(decay=True))


def test_a_training_is_set_against_the_walk_of_its_own_rates() -> None:
    limit = random_walk.map_of_walk(np.full(5, 0.1))
    assert random_walk._training_row([(np.ones((5, 5)), limit, 0.9)]).verdict == "reproduced"
    assert random_walk._training_row([(limit - 0.1, limit, 0.9)]).verdict == "not reproduced"


def test_a_small_training_and_a_pair_of_initialisations_are_recorded(workshop: Workshop) -> None:
    trained = workshop.record("training", lambda watch: random_walk.learn(watch, seed=0, epochs=2), recipe=0)
    assert trained.run.map(relative_to=0).shape == (2, 2)
    assert 0 < trained.results["accuracy"] <= 1
    pair = workshop.record(
        "pair", lambda watch: initialization.draw_twice(watch, 0, blocks=((16, 2),), stem=16), recipe=0
    )
    assert abs(pair.run.map("group:non_norm").values[0, 1]) < 0.05
    assert pair.run.map("group:norm").values[0, 1] == pytest.approx(1.0)


def test_resnet50_has_its_parameters() -> None:
    assert sum(one.numel() for one in initialization.Bottlenecks().parameters()) == 25_557_032
