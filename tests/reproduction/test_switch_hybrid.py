"""Hybrid training is measured on what really happened: advice of a real server, ways on from one and the same state."""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.switch import __main__ as commands
from benchmarks.switch.hybrid import Counter, load_all, main, measure_all, ways_after
from benchmarks.switch.hybrid_cases import CASES, Case, Continued, planned_intervals, training_of
from benchmarks.switch.hybrid_live import Event, HybridError, Live, follow_live, plan_of
from benchmarks.switch.hybrid_results import Result, Shelf
from benchmarks.switch.hybrid_server import Server
from benchmarks.switch.hybrid_table import (
    AT_ONCE,
    FULL,
    HEADINGS,
    HYBRID,
    NEVER_BACK,
    markdown,
    replaced,
    rows,
)
from benchmarks.switch.hybrid_ways import Held, Way, follow_ways
from benchmarks.switch.networks import PlainConv
from benchmarks.switch.recipes import OptimizerChoice, Recipe
from benchmarks.switch.tasks import Batch, Digits, Score
from benchmarks.switch.training import State, Training
from rich.console import Console

from support.switch_runs import TINY, full_run, same_bits, tiny
from trajmon.numerics.model import is_norm_module

GROUP_NORM = next(recipe for recipe in TINY if recipe.name == "group_norm")
PAIRS = next(recipe for recipe in TINY if recipe.name == "pairs")
GPT = next(recipe for recipe in TINY if recipe.name == "gpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaping(Recipe):
    """After three small intervals one at a rate at which even norm scalars turn the direction of everything."""

    def learning_rate(self, interval: int) -> float:
        return 20.0 if interval == 3 else 1e-3


_SMALL = tiny(
    "leaping_0",
    PlainConv(width=4),
    Digits(batch=399),
    OptimizerChoice("sgd", 1e-3, momentum=0.9),
    intervals=6,
)
LEAPING = Case("a tiny one", Leaping(**{f.name: getattr(_SMALL, f.name) for f in dataclasses.fields(_SMALL)}))
POLICY = "mds_threshold/1"
"""Not the server's own, but soon with a word: after three checkpoints that lie in one direction."""
RECIPE = LEAPING.seeded(0)
REPEATS = 2


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def screen() -> Console:
    return Console(file=io.StringIO(), width=200)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hybrid")


@pytest.fixture(scope="module")
def measured(out: Path) -> Result:
    torch.set_num_threads(1)
    console = screen()
    (result,) = measure_all([LEAPING], 1, Shelf(out, REPEATS, POLICY), console)[LEAPING.name]
    assert "leaping_0: " in text_of(console)
    return result


def by_hand(recipe: Recipe, events: dict[int, bool], start: State | None = None) -> Training:
    """Trained by a loop that freezes all but the norm parameters itself, and forgets their momentum."""
    training = training_of(recipe)
    if start is not None:
        training.restore(start)
    norm = {
        id(parameter)
        for module in training.network.modules()
        if is_norm_module(module)
        for parameter in module.parameters(recurse=False)
    }
    others = [parameter for parameter in training.network.parameters() if id(parameter) not in norm]
    while not training.is_over:
        change = events.get(training.checkpoint)
        for parameter in others if change is not None else ():
            parameter.requires_grad_(not change)
            parameter.grad = None
            training.optimizer.state.pop(parameter, None)
        training.advance()
    return training


def test_the_advice_of_a_real_server_is_followed_and_followed_back(measured: Result) -> None:
    # What is advised on one checkpoint is done at the next.
    assert [word for word in measured.words if word[1] in ("switch", "resume")] == [
        (2, "switch"),
        (4, "resume"),
    ]
    assert measured.events == (Event(3, norm_only=True), Event(5, norm_only=False))
    assert measured.places(norm_only=True) == (3 / 6,)
    assert measured.places(norm_only=False) == (5 / 6,)
    assert measured.policy == POLICY
    assert set(measured.ways) == {FULL, HYBRID, NEVER_BACK}
    assert measured.before_seconds > 0
    assert measured.waited_seconds > 0


def test_full_training_is_that_of_a_loop_without_a_recorder(measured: Result) -> None:
    assert measured.ways[FULL].final == by_hand(RECIPE, {}).score()


def test_hybrid_training_is_that_of_a_loop_that_freezes_by_hand(measured: Result) -> None:
    assert measured.ways[HYBRID].final == by_hand(RECIPE, {3: True, 5: False}).score()
    assert measured.ways[NEVER_BACK].final == by_hand(RECIPE, {3: True}).score()
    assert measured.ways[HYBRID].final.loss != measured.ways[FULL].final.loss


def test_memory_is_that_of_what_is_trained(measured: Result) -> None:
    network = RECIPE.network.build()
    everything = 4 * sum(parameter.numel() for parameter in network.parameters())
    # Weight and bias of four group norms over 4, 4, 8 and 8 channels.
    norms = 4 * 2 * (4 + 4 + 8 + 8)
    assert measured.ways[FULL].full == Held(everything, everything)
    assert measured.ways[FULL].norm_only is None
    assert measured.ways[HYBRID].norm_only == Held(norms, norms)
    assert measured.ways[HYBRID].full == Held(everything, everything)
    assert measured.ways[NEVER_BACK] == dataclasses.replace(measured.ways[NEVER_BACK], full=None)


def test_each_repeat_is_timed(measured: Result) -> None:
    for way in measured.ways.values():
        assert len(way.seconds) == REPEATS
        assert min(way.seconds) > 0


def test_what_is_measured_is_not_measured_again(measured: Result, out: Path) -> None:
    path = Shelf(out, REPEATS, POLICY).path(RECIPE)
    time = path.stat().st_mtime_ns
    console = screen()
    assert measure_all([LEAPING], 1, Shelf(out, REPEATS, POLICY), console) == {LEAPING.name: [measured]}
    assert path.stat().st_mtime_ns == time
    assert text_of(console) == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [("version", 0), ("torch", "0.4"), ("repeats", 3), ("policy", {"name": "planned_fraction/1"})],
)
def test_what_something_else_made_is_not_taken(
    measured: Result, tmp_path: Path, field: str, value: Any
) -> None:
    shelf = Shelf(tmp_path, REPEATS, POLICY)
    shelf.save(RECIPE, measured)
    assert shelf.load(RECIPE) == measured
    path = shelf.path(RECIPE)
    written = json.loads(path.read_text())
    assert field in written["made_by"]
    written["made_by"][field] = value
    path.write_text(json.dumps(written))
    assert shelf.load(RECIPE) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"made_by": 1}', "null"])
def test_a_damaged_result_is_measured_again(tmp_path: Path, content: str) -> None:
    shelf = Shelf(tmp_path, REPEATS)
    shelf.path(RECIPE).parent.mkdir()
    shelf.path(RECIPE).write_text(content)
    assert shelf.load(RECIPE) is None


def test_a_half_written_result_of_the_right_maker_is_measured_again(measured: Result, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, REPEATS, POLICY)
    shelf.save(RECIPE, measured)
    path = shelf.path(RECIPE)
    whole = json.loads(path.read_text())
    for name in set(whole) - {"made_by"}:
        path.write_text(json.dumps({key: value for key, value in whole.items() if key != name}))
        assert shelf.load(RECIPE) is None, name


def test_advice_that_does_not_come_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "0")
    nobody = Server("127.0.0.1:9", tmp_path)
    with pytest.raises(
        HybridError, match=r"no advice on checkpoint 0 within 0\.1 seconds; the last rests on None"
    ):
        follow_live(training_of(GROUP_NORM), "run", nobody, answer_seconds=0.1)


def test_a_live_training_that_ends_otherwise_than_its_repetition_is_an_error() -> None:
    states = full_run(GROUP_NORM)
    events = (Event(3, norm_only=True),)
    live = Live(events, states[3], Score(0.5, 1.0), (), POLICY, (0.1,) * 6, 0.0)
    with pytest.raises(
        HybridError, match=r"group_norm: live it ends with Score\(metric=0\.5, loss=1\.0\), repeated"
    ):
        ways_after(GROUP_NORM, training_of(GROUP_NORM), live, 1, Counter(6, lambda done, total: None))


def test_without_an_event_there_is_full_training_alone() -> None:
    training = by_hand(GROUP_NORM, {})
    live = Live((), None, training.score(), (), POLICY, (0.1,) * 6, 0.0)
    ways = ways_after(GROUP_NORM, training, live, 1, Counter(6, lambda done, total: None))
    assert list(ways) == [FULL]
    assert ways[FULL].final == training.score()
    assert ways[FULL].norm_only is None
    assert ways[FULL].full is not None


def test_ways_side_by_side_end_as_each_alone() -> None:
    recipe = PAIRS
    states = full_run(recipe)
    told: list[None] = []
    there, back = Event(2, norm_only=True), Event(4, norm_only=False)
    ways = {"full": (), "and back": (there, back), "for good": (there,)}
    found = follow_ways(lambda: training_of(recipe), states[2], ways, 2, lambda: told.append(None))
    assert len(told) == 2 * 3 * (recipe.intervals - 2)
    assert found["full"].final == by_hand(recipe, {}, states[2]).score()
    assert found["and back"].final == by_hand(recipe, {2: True, 4: False}, states[2]).score()
    assert found["for good"].final == by_hand(recipe, {2: True}, states[2]).score()
    assert len({way.final.loss for way in found.values()}) == 3
    assert found["and back"].full == found["full"].full
    assert found["and back"].norm_only == found["for good"].norm_only


def test_a_repeat_that_ends_otherwise_is_an_error() -> None:
    other = dataclasses.replace(GROUP_NORM, optimizer=OptimizerChoice("sgd", 0.2))
    recipes = iter([GROUP_NORM, other])
    with pytest.raises(HybridError, match="full: repeat 1 ends with Score"):
        follow_ways(lambda: training_of(next(recipes)), full_run(GROUP_NORM)[2], {"full": ()}, 2)


CONTINUED = Continued.of(dataclasses.replace(GROUP_NORM, intervals=3, name="group_0"), added=2)


def test_a_way_back_is_compared_with_none_and_with_one_at_once() -> None:
    fork = full_run(CONTINUED)[2]
    events = (Event(2, norm_only=True), Event(4, norm_only=False))
    final = by_hand(CONTINUED, {2: True, 4: False}, fork).score()
    live = Live(events, fork, final, (), POLICY, (0.1,) * 5, 0.0)
    ways = ways_after(CONTINUED, training_of(CONTINUED), live, 1, Counter(5, lambda done, total: None))
    assert list(ways) == [FULL, HYBRID, NEVER_BACK, AT_ONCE]
    assert ways[NEVER_BACK].final == by_hand(CONTINUED, {2: True}, fork).score()
    # The images change at checkpoint 3.
    assert ways[AT_ONCE].final == by_hand(CONTINUED, {2: True, 3: False}, fork).score()
    assert len({way.final.loss for way in ways.values()}) == 4


def test_a_continued_training_is_its_recipe_and_then_the_schedule_anew() -> None:
    recipe = dataclasses.replace(GROUP_NORM, intervals=3)
    assert CONTINUED.name == "continued_group_0"
    assert (CONTINUED.planned, CONTINUED.intervals) == (3, 5)
    planned = [CONTINUED.learning_rate(interval) for interval in range(3)]
    assert planned == [recipe.learning_rate(interval) for interval in range(3)]
    # One interval of warm-up, then constant.
    assert [CONTINUED.learning_rate(interval) for interval in (3, 4)] == [0.1, 0.1]
    continued, usual = training_of(CONTINUED), training_of(recipe)
    for _ in range(3):
        assert continued.advance() == usual.advance()
    assert continued.score() == usual.score()
    assert same_bits(continued.state(), usual.state())


def test_a_continued_training_goes_on_with_mirrored_images() -> None:
    continued = training_of(CONTINUED)
    for _ in range(3):
        continued.advance()
    state = continued.state()
    while not continued.is_over:
        continued.advance()

    oracle, task = training_of(GROUP_NORM), CONTINUED.task
    oracle.restore(state)
    generator = torch.Generator()
    generator.set_state(state["generator"])
    for group in oracle.optimizer.param_groups:
        group["lr"] = 0.1
    data = task.ready()
    for _ in range(2):
        for images, labels in data.batches(generator):
            oracle.optimizer.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(oracle.network(images.flip(3)), labels))
            oracle.optimizer.step()
    assert same_bits(continued.state()["network"], oracle.network.state_dict())
    images, labels = data.held_out()
    assert isinstance(task, Digits)
    assert continued.score() == task.score(oracle.network, Batch(images.flip(3), labels))

    again = training_of(CONTINUED)
    again.restore(state)
    while not again.is_over:
        again.advance()
    assert same_bits(again.state(), continued.state())


def test_only_digits_can_be_mirrored() -> None:
    with pytest.raises(TypeError, match="only digits can be mirrored, not Text"):
        training_of(Continued.of(GPT, added=2))


@pytest.mark.parametrize("recipe", [GROUP_NORM, GPT, CONTINUED], ids=lambda recipe: recipe.name)
def test_the_plan_is_what_comes(recipe: Recipe) -> None:
    plan = plan_of(recipe)
    training = training_of(recipe)
    assert callable(plan.learning_rate)
    for interval in range(planned_intervals(recipe)):
        assert training.step == interval * plan.steps_per_rate
        training.advance()
        rates = {group["lr"] for group in training.optimizer.param_groups}
        assert rates == {plan.learning_rate(interval)}
    assert training.step == plan.total_steps
    assert (plan.objective, plan.larger_is_better) == (
        ("loss", False) if recipe is GPT else ("accuracy", True)
    )


def test_the_cases_are_three_of_the_benchmark_and_one_that_is_made_to_resume() -> None:
    assert [isinstance(case.recipe, Continued) for case in CASES] == [False, False, False, True]
    assert len({case.name for case in CASES}) == len({case.recipe.family for case in CASES}) == 4
    for case in CASES:
        assert case.seeded(2).seed == 2
        assert case.seeded(2).name == f"{case.name}_2"
        assert case.seeded(case.recipe.seed) == case.recipe


def way(metric: float, *seconds: float, norm_bytes: int = 0) -> Way:
    return Way(Score(metric, -metric), seconds, Held(4000, 2000), Held(norm_bytes, 8) if norm_bytes else None)


def result(metric_name: str = "accuracy", **changes: Any) -> Result:
    events = (Event(20, norm_only=True), Event(30, norm_only=False), Event(36, norm_only=True))
    usual: dict[str, Any] = {
        "recipe": "one_0",
        "metric_name": metric_name,
        "intervals": 40,
        "events": events,
        "words": ((0, "unknown"), (19, "switch"), (29, "resume")),
        "policy": "some/1",
        "before_seconds": 6.0,
        "waited_seconds": 4.0,
        "ways": {
            FULL: way(0.9, 4.0, 2.0),
            HYBRID: way(0.88, 3.0, 1.0, norm_bytes=40),
            NEVER_BACK: way(0.7, 1.0, 1.0, norm_bytes=40),
        },
    }
    return Result(**usual | changes)


def cells(line: tuple[str, ...]) -> dict[str, str]:
    return {name: cell for name, cell in zip(HEADINGS, line, strict=True) if cell}


def test_the_lines_of_a_case() -> None:
    full, hybrid, never_back = map(cells, rows("a task", [result()]))
    assert full == {
        "training": "a task",
        "way": "full training",
        "at the end": "accuracy 0.900",
        "seconds after the switch": "3.00 (2.00 to 4.00)",
        "optimizer state": "4.0 kB",
        "gradients": "2.0 kB",
    }
    assert hybrid == {
        "way": "on the advice",
        "at the end": "accuracy 0.880",
        "against full training": "-0.020",
        "switched at": "0.50 and 0.90",
        "resumed at": "0.75",
        "seconds after the switch": "2.00 (1.00 to 3.00)",
        # 3 of 4 and 1 of 2 seconds; 1 of 10 and 1 of 8.
        "of these saved, %": "38 (25 to 50)",
        "of the whole run saved, %": "11.2 (10.0 to 12.5)",
        "optimizer state": "40 bytes",
        "gradients": "8 bytes",
    }
    assert never_back["way"] == "switched for good"
    assert never_back["against full training"] == "-0.200"
    # Places are those of the advice.
    assert {"switched at", "resumed at"}.isdisjoint(never_back)


def test_a_seed_that_is_never_advised_counts_as_full_training() -> None:
    never = result(events=(), ways={FULL: way(0.8)})
    full, hybrid, _ = map(cells, rows("a task", [result(), never]))
    assert full["at the end"] == "accuracy 0.850 (0.800 to 0.900)"
    assert full["seconds after the switch"] == "3.00 (2.00 to 4.00)"
    assert hybrid["at the end"] == "accuracy 0.840 (0.800 to 0.880)"
    assert hybrid["against full training"] == "-0.010 (-0.020 to +0.000)"
    assert hybrid["switched at"] == "0.50 and 0.90, never"
    full, hybrid = map(cells, rows("a task", [never]))
    assert hybrid == {"way": "on the advice", "at the end": "never advised to switch"}
    assert "seconds after the switch" not in full


def test_a_loss_is_shown_as_a_loss() -> None:
    ways = {FULL: way(-2.0, 1.0), HYBRID: way(-2.1, 1.0, norm_bytes=1)}
    full, hybrid = map(cells, rows("text", [result("minus_loss", ways=ways, events=(Event(20, True),))]))
    assert full["at the end"] == "loss 2.000"
    assert hybrid["against full training"] == "+0.100"


def test_the_table_as_markdown() -> None:
    table = markdown(rows("a task", [result()])).splitlines()
    assert len(table) == 5
    assert {line.count(" |") for line in table} == {len(HEADINGS)}
    assert table[2].startswith("| a task | full training | accuracy 0.900 |")


@pytest.mark.parametrize(
    "page", ["", "<!-- hybrid: end -->\n<!-- hybrid: measured -->", 2 * "<!-- hybrid: measured -->"]
)
def test_a_page_without_its_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="lacks its one <!-- hybrid: measured --> before its one"):
        replaced(page, "text")


def filled(folder: Path, repeats: int) -> None:
    """Results for all cases, one seed each, as if they had been measured."""
    for case in CASES:
        recipe = case.seeded(0)
        Shelf(folder, repeats).save(recipe, result(recipe=recipe.name))


def test_the_command_shows_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["hybrid", "--list", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "12 of 12 trainings are not measured yet\n"
    filled(tmp_path, repeats=2)
    assert commands.main(["hybrid", "--list", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "8 of 12 trainings are not measured yet" in said
    assert "Policy: some/1." in said
    assert commands.main(["hybrid", "--list", "--out", str(tmp_path), "--seeds", "1"]) == 0
    assert "not measured" not in capsys.readouterr().out
    assert [len(results) for results in load_all(CASES, 2, Shelf(tmp_path, 2)).values()] == [1] * 4
    # What one policy led to says nothing of another.
    assert commands.main(["hybrid", "--list", "--out", str(tmp_path), "--policy", "mds_threshold"]) == 1
    assert capsys.readouterr().out == "12 of 12 trainings are not measured yet\n"


def test_the_command_puts_the_table_into_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- hybrid: measured -->\nold\n<!-- hybrid: end -->\nafter\n")
    arguments = [
        "--list",
        "--out",
        str(tmp_path / "out"),
        "--docs",
        str(page),
        "--seeds",
        "1",
        "--repeats",
        "1",
    ]
    assert main(arguments) == 1
    assert "\nold\n" in page.read_text()
    filled(tmp_path / "out", repeats=1)
    assert main(arguments) == 0
    written = page.read_text()
    assert written.startswith("before\n<!-- hybrid: measured -->\n\n| training | way |")
    assert written.endswith(
        "seconds on average; no time holds this waiting.\n\n<!-- hybrid: end -->\nafter\n"
    )
    assert "\nold\n" not in written
    assert main(arguments) == 0
    assert page.read_text() == written
    page.write_text("no marks")
    capsys.readouterr()
    assert main(arguments) == 1
    assert "is left as it is: the page lacks its one" in " ".join(capsys.readouterr().out.split())
    assert page.read_text() == "no marks"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["perceptron"], "no case has 'perceptron' in its name; there are bn_resnet_sgd_step, "),
        (["--seeds", "0"], "'0' is not a whole number over 0"),
        (["--policy", "hope"], "there is no policy 'hope'; there are "),
        (["--repeats", "two"], "'two' is not a whole number over 0"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
