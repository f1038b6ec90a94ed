"""The paper's experiments on transformers and AdamW: measures, verdicts, and very small trainings of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from benchmarks.paper.experiments import adamw_weight_decay, attention_depth, grokking, scale
from benchmarks.paper.experiments.attention_depth import ATTENTION, OTHERS, half_way, layer_name
from benchmarks.paper.experiments.grokking import Grokked, Span, rise, split, transition, turning
from benchmarks.paper.modular_division import Decoder, Division, pairs_and_answers
from benchmarks.paper.training_text import TextTraining, build_model, falling_rate
from benchmarks.paper.workshop import Workshop
from numpy.typing import NDArray

from support.server import ServerProcess

Floats = NDArray[np.float64]


def cosines(points: Floats) -> Floats:
    """[T, d] to [T, T], by the definition."""
    unit: Floats = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit @ unit.T


def two_phases(turns: range, count: int = 60, dimension: int = 200) -> Floats:
    """The map of a trajectory that goes one way, turns by a right angle within `turns`, and goes the other way."""
    generator = np.random.default_rng(3)
    first, second = np.linalg.qr(generator.normal(size=(dimension, 2)))[0].T
    angle = np.interp(np.arange(count), [turns.start, turns.stop], [0.0, np.pi / 2])
    length = np.linspace(3.0, 1.0, count)
    path = length[:, None] * (np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second)
    return cosines(path + 0.01 * generator.normal(size=path.shape))


class TestTransition:
    @pytest.mark.parametrize("turns", [range(8, 12), range(25, 33), range(48, 52)])
    def test_it_is_where_a_two_phase_trajectory_turns(self, turns: range) -> None:
        entries = two_phases(turns)
        assert transition(entries).is_within(Span(turns.start - 1, turns.stop + 1))
        assert turns.start <= split(entries) <= turns.stop

    def test_an_even_turn_splits_in_the_middle_wherever_accuracy_rises(self) -> None:
        assert 27 <= split(two_phases(range(59))) <= 33

    def test_turning_is_the_definition(self) -> None:
        points = np.random.default_rng(0).normal(size=(9, 5))
        turned = turning(cosines(points), 2)
        a, b = points[1], points[5]
        assert turned[3] == pytest.approx(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert np.flatnonzero(np.isnan(turned)).tolist() == [0, 1, 7, 8]

    def test_undefined_entries_are_passed_over(self) -> None:
        entries = two_phases(range(25, 33))
        entries[:, 3] = entries[3] = np.nan
        assert transition(entries) == transition(two_phases(range(25, 33)))

    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            (np.ones((2, 2)), "map of 2 checkpoints is too short"),
            (np.full((9, 9), np.nan), "without defined"),
        ],
    )
    def test_no_transition_in_what_is_no_map(self, entries: Floats, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            transition(entries)

    def test_the_rise_is_that_of_the_best_so_far(self) -> None:
        accuracy = np.array([0.02, 0.05, 0.5, 0.0, 0.6, 0.9, 0.2, 1.0])
        assert rise(accuracy, 0.0) == Span(1, 5)
        assert rise(np.array([0.5, 0.8, 1.0]), 0.0) == Span(0, 2)
        with pytest.raises(ValueError, match=r"never reaches 0\.91; its highest is 0\.80"):
            rise(np.array([0.1, 0.8]), 0.1)

    def test_spans(self) -> None:
        assert Span(3, 4).is_within(Span(3, 4))
        assert not Span(2, 4).is_within(Span(3, 9))
        assert Span(2, 4).meets(Span(4, 9))
        assert not Span(2, 4).meets(Span(5, 9))

    @pytest.mark.parametrize(
        ("found", "verdicts"),
        [
            ((Span(22, 26), Span(24, 28), 25, 0.2, 0.1), ["reproduced"] * 3),
            ((Span(16, 20), Span(16, 20), 31, 0.7, 0.1), ["not reproduced"] * 3),
            ((Span(2, 6), Span(16, 20), 20, 1.0, 0.6), ["reproduced", "not reproduced", "not reproduced"]),
        ],
    )
    def test_verdicts(self, found: tuple[Span, Span, int, float, float], verdicts: list[str]) -> None:
        rows = grokking.rows([Grokked(9, Span(20, 29), *found)], 25, Division(intervals=60))
        assert [row.verdict for row in rows] == verdicts

    def test_a_split_where_any_map_would_have_it_is_no_evidence(self) -> None:
        seeds = [
            Grokked(9, rise, Span(22, 26), Span(24, 28), 25, 0.2, 0.1)
            for rise in (Span(20, 29), Span(20, 30))
        ]
        telling, silent = ([seed] for seed in seeds)
        for found, verdict in ((telling, "reproduced"), (seeds, "partly"), (silent, "not reproduced")):
            row = grokking.rows(found, 25, Division(intervals=60))[0]
            assert row.verdict == verdict
        assert "the rise of 1 of 2 seeds" in grokking.rows(seeds, 25, Division(intervals=60))[0].differs

    def test_a_run_is_examined(self) -> None:
        entries = two_phases(range(30, 36))
        train = np.r_[np.nan, np.linspace(0.0, 1.0, 9), np.ones(50)]
        test = np.r_[np.nan, np.zeros(29), np.linspace(0.0, 1.0, 7), np.ones(23)]
        found = grokking.examine(entries, train, test, 0.0)
        assert found.rise == Span(30, 36)
        assert found.learnt == 9
        assert found.transition.is_within(found.rise)
        assert found.ceiling == found.transition
        assert found.before < 0.5

    def test_moments_of_instability_are_told_apart(self) -> None:
        generator = np.random.default_rng(1)
        points = np.repeat([[1.0, 0.0, 0.0]], 60, axis=0)
        points[40:] = [1.0, 0.7, 0.0]
        # At one checkpoint training has lost its way.
        points[20] = [1.0, 0.0, 2.0]
        entries = cosines(points + 1e-3 * generator.normal(size=points.shape))
        train, test = np.ones(60), np.r_[np.zeros(35), np.linspace(0.0, 1.0, 10), np.ones(15)]
        train[:3] = 0.0
        train[20] = 0.2
        found = grokking.examine(entries, train, test, 0.0)
        assert found.transition.middle not in found.rise
        assert found.ceiling.middle in found.rise
        assert found.before == 1.0
        assert found.before_at_ceiling < 0.01


class TestDivision:
    @pytest.mark.parametrize("modulus", [2, 7, 11])
    def test_answers_times_divisor_give_the_dividend(self, modulus: int) -> None:
        tokens, answers = pairs_and_answers(modulus)
        assert len({tuple(row) for row in tokens.tolist()}) == len(tokens) == modulus * (modulus - 1)
        for (dividend, sign, divisor, equals), answer in zip(tokens.tolist(), answers.tolist(), strict=True):
            assert (sign, equals) == (modulus, modulus + 1)
            assert answer * divisor % modulus == dividend

    def test_the_last_layer_leaves_out_only_what_nobody_reads(self) -> None:
        torch.manual_seed(0)
        decoder = Decoder(7, 16, depth=2, heads=2).double()
        tokens, _ = pairs_and_answers(7)
        hidden = decoder.embedding(tokens) + decoder.place.weight
        for layer in decoder.layers:
            hidden = layer(hidden, is_last=False)
        whole = decoder.head(decoder.norm(hidden))[:, -1]
        torch.testing.assert_close(decoder(tokens), whole)


class TestText:
    def test_rates_warm_up_and_fall_to_a_tenth(self) -> None:
        training = TextTraining(16, 1, 1, 0.5, intervals=10, steps=2, warm_up=2)
        rates = [training.rate(step) for step in range(20)]
        assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
        assert rates[4] == 0.5
        assert all(b < a for a, b in pairwise(rates[4:]))
        assert training.rate(20) == pytest.approx(0.05)

    def test_parameters_begin_as_pythias_do(self) -> None:
        torch.manual_seed(0)
        model = build_model(64, 2, 4, 16)
        deviations = {name: parameter.std().item() for name, parameter in model.named_parameters()}
        inside = "gpt_neox.layers.1.attention.query_key_value.weight"
        assert deviations[inside] == pytest.approx((2 / (5 * 64)) ** 0.5, rel=0.05)
        for name in ("attention.dense.weight", "mlp.dense_4h_to_h.weight"):
            assert deviations[f"gpt_neox.layers.0.{name}"] == pytest.approx(2 / (2 * 8), rel=0.05)

    def test_falling_rates(self) -> None:
        assert falling_rate(256) == pytest.approx(falling_rate(16) / 16)


def measured_decays(mds: list[float], relative: list[float]) -> dict[float, adamw_weight_decay.Measured]:
    accuracy = [0.9] * (len(mds) - 1) + [0.4]
    return {
        float(decay): adamw_weight_decay.Measured((a, a + 0.002), (b, b + 0.002), (c, c))
        for decay, (a, b, c) in enumerate(zip(mds, relative, accuracy, strict=True))
    }


def depths(distance: float, spread: float, middle: float, others: float) -> attention_depth.Measured:
    mds = {kind: 0.9 - np.array([[0.0, 0.0, spread, 0.0, 0.0, 0.0]]) for kind in ATTENTION}
    mds |= {kind: 0.9 - np.array([[0.0, 0.0, others, 0.0, 0.0, 0.0]]) for kind in OTHERS}
    half = np.array([[0.3, 0.3, middle, middle, 0.2, 0.2]])
    kinds = (*ATTENTION, *OTHERS)
    far = np.full((1, 6), distance)
    return attention_depth.Measured(mds, dict.fromkeys(kinds, half), dict.fromkeys(kinds, far))


class TestVerdicts:
    @pytest.mark.parametrize(
        ("mds", "relative", "verdicts"),
        [
            # The paper's own numbers.
            (
                [0.885, 0.882, 0.844, 0.679, 0.731],
                [0.900, 0.897, 0.862, 0.807, 0.985],
                ["reproduced", "reproduced", "reproduced"],
            ),
            (
                [0.9, 0.8, 0.85, 0.7, 0.6],
                [0.9, 0.82, 0.86, 0.75, 0.7],
                ["partly", "partly", "partly"],
            ),
            ([0.6, 0.7, 0.8, 0.9, 0.95], [0.6, 0.6, 0.6, 0.6, 0.5], ["not reproduced"] * 3),
        ],
    )
    def test_weight_decay(self, mds: list[float], relative: list[float], verdicts: list[str]) -> None:
        found = adamw_weight_decay.rows(measured_decays(mds, relative))
        assert [row.verdict for row in found] == verdicts

    @pytest.mark.parametrize(
        ("mds", "same", "verdicts"),
        [
            ([0.6, 0.7, 0.8, 0.9], [0.7, 0.8, 0.9], ["reproduced", "reproduced", "reproduced"]),
            ([0.6, 0.8, 0.75, 0.9], [0.9, 0.8, 0.7], ["partly", "partly", "not reproduced"]),
        ],
    )
    def test_scale(self, mds: list[float], same: list[float], verdicts: list[str]) -> None:
        def measured(values: list[float]) -> dict[int, scale.Measured]:
            return {
                2 ** (4 + number): scale.Measured((value, value + 0.01), (value,), (2.0,), 1000)
                for number, value in enumerate(values)
            }

        assert [row.verdict for row in scale.rows(measured(mds), measured(same))] == verdicts

    def test_depth(self) -> None:
        narrow, wide = depths(0.2, 0.3, 0.5, 0.1), depths(0.1, 0.1, 0.3, 0.1)
        assert [row.verdict for row in attention_depth.rows(narrow, wide)] == ["reproduced"] * 3
        assert attention_depth.rows(depths(0.2, 0.1, 0.5, 0.3), wide)[1].verdict == "not reproduced"
        assert attention_depth.rows(narrow, narrow)[2].verdict == "not reproduced"

    @pytest.mark.parametrize("shares", [(0.6, 0.5, 0.4), (0.4, 0.5, 0.6)])
    def test_the_middle_is_later_than_both_ends(self, shares: tuple[float, ...]) -> None:
        narrow = depths(0.2, 0.3, 0.5, 0.1)
        half = dict.fromkeys(narrow.half_way, np.repeat(shares, 2)[None])
        assert attention_depth.rows(replace(narrow, half_way=half), narrow)[0].verdict == "not reproduced"

    def test_half_way_does_not_ask_how_far(self) -> None:
        steps = np.array([0.0, 1.0, 1.5, 1.9, 2.0])
        for largest in (0.01, 1.0):
            angle = largest * steps / steps[-1]
            assert half_way(np.cos(angle[:, None] - angle)) == pytest.approx(0.25)
        # It was half way, went back, and came again.
        angle = np.array([0.0, 0.6, 0.2, 1.0])
        assert half_way(np.cos(angle[:, None] - angle)) == pytest.approx((2 + 0.3 / 0.8) / 3)
        assert np.isnan(half_way(np.ones((4, 4))))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    home = tmp_path_factory.mktemp("transformers")
    server = ServerProcess(home / "home").start()
    made = Workshop("small", home / "workshop", server=server.addresses["grpc"], home=server.home)
    yield made
    made.close()
    server.stop()


class TestTrainings:
    def test_text(self, workshop: Workshop) -> None:
        training = TextTraining(
            16, 2, 2, falling_rate(16), intervals=2, steps=3, warm_up=1, batch=2, context=8
        )
        recorded = workshop.record("text", training.train, recipe=training.recipe())
        assert recorded.run.map(f"layer:{layer_name(1, 'K')}").shape == (3, 3)
        measured = attention_depth.measure([recorded], 2)
        assert set(measured.mds) == {*ATTENTION, *OTHERS}
        assert all(((values > 0) & (values < 1)).all() for values in measured.mds.values())
        assert recorded.results["loss"] < recorded.results["first_loss"]

    def test_division(self, workshop: Workshop) -> None:
        division = Division(modulus=5, batch=8, width=16, intervals=3, steps=2)
        recorded = workshop.record("division", division.train, recipe=division.recipe())
        checkpoints = recorded.run.checkpoints
        assert checkpoints.step.values.tolist() == [0, 2, 4, 6]
        assert checkpoints["metric:test_accuracy"].values[-1] == recorded.results["test_accuracy"]
        assert (
            workshop.record("division", division.train, recipe=division.recipe()).run.name
            == recorded.run.name
        )
