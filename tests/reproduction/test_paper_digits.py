"""The paper's experiments on digits: trainings, what is measured on them, and the rules that give the verdicts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from benchmarks.paper.digits_figures import draw_curves, draw_row, draw_sweep
from benchmarks.paper.digits_sweep import Outcome, Setting, by_seed, mds_row, mean_and_range, sweep
from benchmarks.paper.experiments import (
    batch_size,
    label_noise,
    learning_rate,
    norm_only,
    phases,
    sam,
    switch_off,
)
from benchmarks.paper.norm_only_figure import Bars, draw_bars
from benchmarks.paper.phases_figure import draw_phases
from benchmarks.paper.switch_off_claims import accuracy_row, angle_rows, cone_rows, norm_rows
from benchmarks.paper.switch_off_claims import mds_row as switch_off_row
from benchmarks.paper.training_digits import (
    CIFAR_PULL,
    IMAGENET_PULL,
    DigitsTraining,
    Learner,
    matched_weight_decay,
    sam_step,
)
from benchmarks.paper.trajectory_measures import angles_at, directedness, first_from, origin_angles
from benchmarks.paper.workshop import Recorded, Workshop
from benchmarks.switch.networks import PlainConv, ResNet
from benchmarks.switch.tasks import Batch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import trajmon
from support.server import ServerProcess

TINY = DigitsTraining(
    network=ResNet(4),
    rate=0.1,
    weight_decay=0.01,
    batch=16,
    checkpoints=24,
    steps=2,
    drops=(1 / 2, 3 / 4),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def flat(network: nn.Module) -> NDArray[np.float64]:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).double().numpy()


def trajectory(training: DigitsTraining) -> NDArray[np.float64]:
    """[T, P], without any recording."""
    learner = Learner(training)
    points = [flat(learner.network)]
    for _ in range(training.checkpoints):
        learner.advance()
        points.append(flat(learner.network))
    return np.stack(points)


def width(path: Path) -> int:
    with Image.open(path) as image:
        return image.size[0]


class TestTraining:
    def test_weight_decay_keeps_the_product_with_rate_and_steps(self) -> None:
        assert pytest.approx(4.5045) == IMAGENET_PULL
        assert pytest.approx(0.6256) == CIFAR_PULL
        assert matched_weight_decay(4.5, rate=0.1, steps=1800) == 0.025

    def test_the_learning_rate_falls_to_a_tenth_twice(self) -> None:
        training = replace(TINY, checkpoints=90, drops=(1 / 3, 2 / 3))
        assert training.drops_at == (30, 60)
        assert [training.rate_after(at) for at in (0, 29)] == [0.1, 0.1]
        assert training.rate_after(30) == pytest.approx(0.01)
        assert training.rate_after(60) == pytest.approx(0.001)

    def test_the_same_settings_give_the_same_bits_and_others_do_not(self) -> None:
        short = replace(TINY, checkpoints=2)
        first = trajectory(short)
        assert np.array_equal(first, trajectory(short))
        for other in (
            replace(short, seed=1),
            replace(short, batch=8),
            replace(short, momentum=0.0),
            replace(short, weight_decay=0.0),
            replace(short, noise=0.1),
            replace(short, wrong_labels=0.5),
            replace(short, sam_radius=0.1),
        ):
            points = trajectory(other)
            assert not np.array_equal(first[-1], points[-1]), other
            # What makes runs of one seed comparable.
            assert np.array_equal(first[0], points[0]) == (other.seed == 0)

    def test_measuring_the_accuracy_changes_nothing(self) -> None:
        learner, other = Learner(TINY), Learner(TINY)
        assert 0 <= learner.accuracy() <= 1
        learner.advance()
        other.advance()
        assert np.array_equal(flat(learner.network), flat(other.network))

    def test_a_step_of_sam_takes_the_gradient_of_the_place_uphill(self) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        batch = Batch(torch.randn(7, 1, 2, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0]))
        uphill = copy.deepcopy(network)

        def gradient(of: nn.Module) -> torch.Tensor:
            of.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(of(batch.inputs), batch.targets))
            return torch.cat(
                [parameter.grad.flatten() for parameter in of.parameters() if parameter.grad is not None]
            )

        first = gradient(network)
        before = flat(network)
        moved = torch.from_numpy(before) + 0.3 * first / first.norm()
        nn.utils.vector_to_parameters(moved, uphill.parameters())
        sam_step(network, batch, 0.3)
        found = torch.cat(
            [parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]
        )
        torch.testing.assert_close(found, gradient(uphill), rtol=1e-9, atol=1e-12)
        assert not torch.allclose(found, first)
        assert np.array_equal(flat(network), before)

    def test_what_an_experiment_changes_is_all_that_differs_between_its_settings(self) -> None:
        changed = {
            switch_off: {"momentum", "weight_decay"},
            batch_size: {"batch", "rate"},
            label_noise: {"wrong_labels"},
            learning_rate: {"rate"},
            sam: {"sam_radius"},
            phases: {"momentum", "weight_decay"},
        }
        for module, expected in changed.items():
            recipes = [setting.training.recipe() for setting in module.SETTINGS]
            differing = {key for key in recipes[0] if any(one[key] != recipes[0][key] for one in recipes)}
            assert differing == expected, module
            names = [setting.name for setting in module.SETTINGS]
            assert len(set(names)) == len(names)
        rates = {setting.training.rate / setting.training.batch for setting in batch_size.SETTINGS}
        assert len(rates) == 1
        assert len({one.training.checkpoints * one.training.steps for one in batch_size.SETTINGS}) == 1


class TestMeasures:
    @pytest.fixture
    def points(self) -> NDArray[np.float64]:
        return np.random.default_rng(0).normal(size=(11, 40)).cumsum(axis=0) + 3

    @pytest.mark.parametrize("spacing", [1, 2, 5])
    def test_angles_are_those_of_the_differences(self, points: NDArray[np.float64], spacing: int) -> None:
        updates = np.diff(points[::spacing], axis=0)
        expected = [
            np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))) for a, b in pairwise(updates)
        ]
        np.testing.assert_allclose(angles_at(points @ points.T, spacing), expected)

    def test_angles_at_the_origin(self, points: NDArray[np.float64]) -> None:
        directions = points / np.linalg.norm(points, axis=1, keepdims=True)
        found = origin_angles(points @ points.T, to=3)
        np.testing.assert_allclose(np.cos(np.radians(found)), directions @ directions[3], atol=1e-9)

    def test_directedness_of_a_line_a_walk_and_an_oscillation(self) -> None:
        line = np.arange(9.0)[:, None] * np.ones(5)
        assert directedness(line @ line.T, 2, 8) == pytest.approx(6)
        walk = np.random.default_rng(1).normal(size=(31, 20_000)).cumsum(axis=0)
        assert directedness(walk @ walk.T, 0, 30) == pytest.approx(1, abs=0.05)
        swing = np.tile([[1.0], [-1.0]], (5, 1)) + 2
        assert directedness(swing @ swing.T, 0, 9) == pytest.approx(1 / 9)

    def test_the_first_position_from_which_on_it_holds(self) -> None:
        assert first_from(np.array([True, True])) == 0
        assert first_from(np.array([True, False, True, True])) == 2
        assert first_from(np.array([True, False])) is None


def outcome(label: str, mds: list[float], accuracy: list[float] | None = None) -> Outcome:
    """With maps of these means; the recordings themselves are not asked for."""
    recorded: list[Any] = [Recorded(None, {"accuracy": one / 100}) for one in accuracy or []]  # type: ignore[arg-type]
    maps = tuple(xr.DataArray(np.eye(2), attrs={"mds": one}) for one in mds)
    return Outcome(Setting(label, label, TINY), tuple(recorded), maps)


class TestVerdicts:
    @pytest.mark.parametrize(
        ("means", "falls", "rises"),
        [
            ([0.9, 0.8, 0.7, 0.6], "reproduced", "not reproduced"),
            ([0.9, 0.8, 0.85, 0.6], "partly", "not reproduced"),
            ([0.6, 0.7, 0.8, 0.9], "not reproduced", "reproduced"),
            ([0.7, 0.7, 0.7, 0.7], "not reproduced", "not reproduced"),
        ],
    )
    def test_order_of_means(self, means: list[float], falls: str, rises: str) -> None:
        outcomes = [outcome(str(i), [mean - 0.2, mean + 0.2]) for i, mean in enumerate(means)]
        words = {"claim": "c", "source": "s", "paper": "p", "differs": "d"}
        assert mds_row(outcomes, "falls", **words).verdict == falls
        assert mds_row(outcomes, "rises", **words).verdict == rises

    def test_the_row_tells_means_ranges_and_seeds(self) -> None:
        outcomes = [outcome("small", [0.9, 0.8]), outcome("large", [0.7, 0.81])]
        row = mds_row(outcomes, "falls", claim="c", source="s", paper="p", differs="d")
        assert row.ours == (
            "small: 0.850 (0.800 to 0.900); large: 0.755 (0.700 to 0.810). Seed by seed it falls in 1 of 2 steps"
        )
        assert by_seed([[0.1, 0.2], [0.2, 0.1], [0.3, 0.3]], "rises") == (3, 4)
        assert mean_and_range([71.25, 70.0], 1) == "70.6 (70.0 to 71.2)"

    @pytest.mark.parametrize(
        ("mds", "verdict"),
        [
            ((0.76, 0.90, 0.93, 0.98), "reproduced"),
            ((0.76, 0.93, 0.90, 0.98), "reproduced"),
            ((0.76, 0.90, 0.99, 0.98), "partly"),
            ((0.98, 0.90, 0.93, 0.76), "not reproduced"),
        ],
    )
    def test_order_of_the_switch_off(self, mds: tuple[float, ...], verdict: str) -> None:
        names = ("full", "no-momentum", "no-weight-decay", "neither")
        by = {name: outcome(name, [one, one]) for name, one in zip(names, mds, strict=True)}
        assert switch_off_row(by).verdict == verdict

    def test_order_of_its_accuracies(self) -> None:
        names = ("full", "no-momentum", "no-weight-decay", "neither")
        for accuracies, verdict in (((76, 73, 71, 69), "reproduced"), ((70, 71, 72, 73), "not reproduced")):
            by = {name: outcome(name, [0.5], [one]) for name, one in zip(names, accuracies, strict=True)}
            assert accuracy_row(by).verdict == verdict


class TestPhases:
    def made(self) -> NDArray[np.float64]:
        """Ten checkpoints straight on, then twenty that swing about where they led to; [31, 60]."""
        generator = np.random.default_rng(3)
        away = np.zeros((11, 60))
        away[:, 0] = 5.0
        away[:, 1] = np.arange(11.0)
        swing = away[-1] + generator.normal(scale=0.2, size=(20, 60))
        return np.concatenate([away, swing])

    def test_a_direction_that_is_found_and_then_kept(self) -> None:
        points = self.made()
        found = phases.phases_of(points @ points.T, (20,))
        # The angle at checkpoint t is atan(t / 5); it ends near atan(2).
        angles = np.degrees(np.arctan(np.arange(11) / 5))
        np.testing.assert_allclose(found.angle[:11], angles)
        assert found.saturated_at == int(np.argmax(angles >= 0.9 * found.angle[-1])) == 8
        assert found.directedness[0] == pytest.approx(8)
        assert found.directedness[2] < 0.3
        assert len(found.directedness) == 3
        assert found.cosine_to_final[-1] == pytest.approx(1)
        assert found.block_mds[1] > found.block_mds[0]

    def test_verdicts_follow_it(self) -> None:
        points = self.made()
        one = phases.phases_of(points @ points.T, (20,))
        still = replace(one, angle=one.angle / 2, saturated_at=one.saturated_at + 1)
        assert [row.verdict for row in phases.rows([one], [still], (20,))] == ["reproduced"] * 6
        # Saturated at 8, and near the end's direction from 4 on.
        assert one.near_final_at == 4
        verdicts = [row.verdict for row in phases.rows([one], [still], (3,))]
        assert verdicts[:2] == ["not reproduced", "not reproduced"]
        restless = replace(one, directedness=(8.0, 1.5, 0.5), block_mds=(0.9, 0.8))
        verdicts = [row.verdict for row in phases.rows([restless], [still], (20,))]
        assert verdicts == ["reproduced"] * 3 + ["not reproduced", "reproduced", "not reproduced"]
        swapped = phases.rows([still], [one], (20,))
        assert swapped[2].verdict == "not reproduced"
        # No sooner than a random walk with these rates.
        late = phases.rows([replace(one, saturated_at=17)], [still], (20,))
        assert (late[0].verdict, late[2].verdict) == ("not reproduced", "not reproduced")


class TestNormOnly:
    def test_each_part_trains_alone(self) -> None:
        parts: tuple[norm_only.Part, ...] = ("norm", "head")
        for part in parts:
            learner = Learner(TINY)
            learner.advance()
            before = {name: value.detach().clone() for name, value in learner.network.named_parameters()}
            norm_only._freeze_all_but(part, learner)
            learner.advance()
            changed = {
                name
                for name, value in learner.network.named_parameters()
                if not torch.equal(value, before[name])
            }
            head = {"8.weight", "8.bias"}
            expected = (
                head
                if part == "head"
                else {name for name, value in before.items() if value.dim() == 1} - head
            )
            assert changed == expected

    def rows(self, norm: list[float], head: list[float], cosines: list[float]) -> list[str]:
        points = (0, 10, 20, 30)
        bars = Bars(
            points,
            full=(90.0, 91.0),
            before=tuple((10.0, 12.0) for _ in points),
            norm=tuple((value, value) for value in norm),
            head=tuple((value, value) for value in head),
        )
        entries = np.eye(41)
        entries[list(points), -1] = cosines
        maps = [xr.DataArray(entries, attrs={"mds": 0.5})] * 2
        results = [{"trained_share": 0.005, "state_saved": 0.995}] * 2
        return [row.verdict for row in norm_only.rows(bars, maps, results)]

    def test_verdicts_follow_the_gaps(self) -> None:
        paper = self.rows([54.0, 89.0, 90.0, 90.6], [30.0, 60.0, 80.0, 90.0], [0.3, 0.91, 0.95, 0.99])
        assert paper == ["reproduced"] * 5
        # Nothing is lost from the start; the first point that is alike loses 5 points; the last layer is better.
        other = self.rows([90.0, 85.5, 85.5, 85.5], [90.2, 90.0, 90.0, 90.0], [0.3, 0.91, 0.95, 0.99])
        assert other[:4] == ["not reproduced"] * 4

    def test_the_figure_is_drawn(self, tmp_path: Path) -> None:
        values = tuple((50.0 + i, 52.0 + i) for i in range(3))
        draw_bars(tmp_path / "bars.png", np.eye(9), Bars((0, 3, 6), (60.0, 61.0), values, values, values))
        assert width(tmp_path / "bars.png") > 800


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("paper-digits")).start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def workshop(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    torch.set_num_threads(1)
    made = Workshop(
        "tiny", tmp_path_factory.mktemp("tiny"), server=server.addresses["grpc"], home=server.home
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def outcomes(workshop: Workshop) -> list[Outcome]:
    settings = [
        Setting("full", "full", TINY),
        Setting("neither", "neither", replace(TINY, momentum=0.0, weight_decay=0.0)),
    ]
    return sweep(workshop, settings, seeds=(0,))


class TestRecorded:
    """A very small sweep and a very small switch, at a real server."""

    def test_mds_is_that_of_the_parameters(self, outcomes: list[Outcome]) -> None:
        for one in outcomes:
            points = trajectory(one.setting.training)
            directions = points / np.linalg.norm(points, axis=1, keepdims=True)
            expected = directions @ directions.T
            np.testing.assert_allclose(one.maps[0].values, expected, atol=1e-12)
            assert one.mds[0] == pytest.approx(expected.mean(), abs=1e-12)
            rates = one.recorded[0].run.checkpoints.learning_rate.values[1:]
            np.testing.assert_allclose(rates, [0.1] * 12 + [0.01] * 6 + [0.001] * 6)

    def test_every_claim_of_figure_4_has_a_row(self, outcomes: list[Outcome]) -> None:
        full, neither = outcomes
        by = {"full": full, "no-momentum": neither, "no-weight-decay": full, "neither": neither}
        rows = [*angle_rows(by), *cone_rows(by), *norm_rows(by)]
        assert len(rows) == 10
        assert all("nan" not in row.ours for row in rows), [row.ours for row in rows]
        # Without momentum ten times less is moved, so these cannot come out otherwise.
        assert {row.verdict for row in rows if row.source.startswith(("figure 4(d)", "figure 4(h)"))} == {
            "reproduced"
        }
        swapped = {"full": neither, "no-momentum": full, "no-weight-decay": neither, "neither": full}
        assert {row.verdict for row in cone_rows(swapped) if "4(h)" in row.source} == {"not reproduced"}

    def test_figures_are_drawn(self, workshop: Workshop, outcomes: list[Outcome]) -> None:
        draw_row(workshop.figure("row"), outcomes)
        draw_sweep(workshop.figure("sweep"), outcomes, "setting", (1.0, 2.0))
        draw_curves(workshop.figure("curves"), outcomes, switch_off.PANELS, TINY.drops_at)
        found = [[phases.phases_of(one.recorded[0].run.gram().values, TINY.drops_at)] for one in outcomes]
        draw_phases(workshop.figure("phases"), outcomes, found)
        for name in ("row", "sweep", "curves", "phases"):
            path = workshop.figure(name)
            assert width(path) > 500
            assert path.stat().st_size < 200_000

    def test_a_training_with_its_switches_is_recorded_once(self, workshop: Workshop) -> None:
        training = norm_only.SwitchTraining(
            replace(TINY, checkpoints=2, network=PlainConv(4, norm="batch")), points=(0, 1)
        )
        names = {"full", *(f"{part}-{point}" for part in ("before", "norm", "head") for point in (0, 1))}
        with pytest.raises(trajmon.errors.SwitchError, match="matches no"):
            # Its last layer has another name.
            workshop.record("other", training.train, recipe=training.recipe())
        training = replace(training, training=replace(TINY, checkpoints=2))
        recorded = workshop.record("switch", training.train, recipe=training.recipe())
        assert set(recorded.results) == {*names, "trained_share", "state_saved"}
        assert recorded.run.checkpoints.sizes["checkpoint"] == 3
        parameters = dict(Learner(TINY).network.named_parameters())
        norm = sum(v.numel() for k, v in parameters.items() if v.dim() == 1 and k != "8.bias")
        assert recorded.results["trained_share"] == norm / sum(v.numel() for v in parameters.values())
        assert recorded.results["state_saved"] == pytest.approx(1 - recorded.results["trained_share"])
