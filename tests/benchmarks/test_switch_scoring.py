"""Scores over many runs, and thresholds chosen on other families."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.switch.scoring import (
    DEMANDS,
    GRIDS,
    Run,
    at_equal_lateness,
    load_runs,
    score_held_out,
    score_policies,
    summarize,
    thresholded,
)

from trajmon_server.signals import POLICIES, make_policy
from trajmon_server.signals.base import Ahead, Observation
from trajmon_server.signals.outcomes import Outcomes, Score

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests" / "monitor" / "hallmarks" / "recorded"


def one(signal: int | None, regret: float, lateness: float, wrong: bool | None) -> Score:
    return Score(signal, 5, regret, regret / 0.01, lateness, wrong)


def test_a_summary_counts_what_it_says() -> None:
    found = summarize([
        one(5, 0.0, 0.1, False),
        one(2, 0.03, 0.0, True),
        one(None, 0.0, 0.8, False),
        one(0, math.nan, 0.0, None),
    ])  # fmt: skip
    assert (found.runs, found.wrong, found.unknown, found.never) == (4, 1, 1, 1)
    assert found.regret == pytest.approx(1.0)
    assert found.worst == pytest.approx(3.0)
    assert found.lateness == pytest.approx(0.05)
    assert found.wrong_part == 0.5
    assert math.isnan(summarize([one(0, math.nan, 0.0, None)]).regret)


def planned_run(family: str, safe: int, name: str) -> Run:
    """A run of 20 checkpoints of which only the plan is known; safe from `safe` on."""
    seen = tuple(
        Observation(
            checkpoint=t,
            previous=t - 1 if t else None,
            step=t,
            finite=True,
            complete=True,
            age_seconds=None,
            learning_rate=None,
            update_squared=1.0 if t else math.nan,
            update_dot=math.nan,
            displacement_squared=float(t),
            ahead=Ahead(20 - t),
        )
        for t in range(21)
    )
    reached = tuple(0.9 if t >= safe else 0.1 for t in range(20))
    return Run(name, family, Outcomes(tuple(range(21)), tuple(range(20)), reached, 0.9, 0.01), seen)


def test_a_threshold_is_chosen_on_the_other_families() -> None:
    runs = [
        planned_run("a", 5, "a0"),
        planned_run("a", 6, "a1"),
        planned_run("b", 12, "b0"),
        planned_run("c", 13, "c0"),
    ]
    found, chosen = score_held_out(runs, "planned_fraction/1")
    # The earliest fraction of the grid that is right on the other families: 0.65 of 20 is 13, 0.6 is 12.
    assert chosen == {"a": 0.65, "b": 0.65, "c": 0.6}
    assert [score.signal for score in found] == [13, 13, 13, 12]
    assert [score.wrong for score in found] == [False, False, False, True]


def test_where_no_threshold_is_right_the_one_with_the_fewest_wrong_is_chosen() -> None:
    runs = [planned_run("a", 20, "a0"), planned_run("a", 10, "a1"), planned_run("b", 5, "b0")]
    _, chosen = score_held_out(runs, "planned_fraction/1")
    # On family a, one of two is always wrong but never both from 0.5 on: of these the least late.
    assert chosen["b"] == 0.5


def test_equal_lateness_gives_a_policy_its_best_setting() -> None:
    runs = [planned_run("a", 5, "a0"), planned_run("a", 6, "a1"), planned_run("b", 12, "b0")]
    # At 0.6 of 20, which is 12, all are right, 7, 6 and 0 late; at 0.3, which is 6, one is wrong by 80 deltas.
    late = at_equal_lateness(runs, "planned_fraction/1", 0.3)
    assert late is not None
    assert (late[0], late[1].wrong, late[1].lateness) == (0.6, 0, 0.3)
    early = at_equal_lateness(runs, "planned_fraction/1", 0.04)
    assert early is not None
    assert (early[0], early[1].wrong) == (0.3, 1)
    assert early[1].regret == pytest.approx(80 / 3)
    assert at_equal_lateness(runs, "planned_fraction/1", -0.1) is None


def test_the_default_holds_what_it_claims_on_the_checked_in_runs() -> None:
    runs = load_runs([ROOT / "benchmarks" / "switch" / "data"])
    scores = [run.judge(make_policy("remaining_displacement/2")) for run in runs]
    found = summarize(scores)
    assert found.wrong_part <= 0.05
    assert found.lateness <= 0.15
    delicate = [one for run, one in zip(runs, scores, strict=True) if run.family in ("lazy", "modular")]
    assert len(delicate) >= 6
    assert all(one.wrong is False for one in delicate)


def test_leaving_a_family_out_needs_two() -> None:
    with pytest.raises(ValueError, match="leaving a family out needs at least two, there is 'a' only"):
        score_held_out([planned_run("a", 5, "a0")], "planned_fraction/1")


@pytest.mark.parametrize("name", POLICIES)
def test_every_threshold_of_every_grid_can_be_set_and_the_first_is_the_most_careful(name: str) -> None:
    runs = load_runs([RECORDED])
    policies = [thresholded(name, threshold) for threshold in GRIDS[name]]
    setting = DEMANDS.get(name, "threshold")
    assert [getattr(policy, setting) for policy in policies] == list(GRIDS[name])
    # Signals come never later under a bolder threshold.
    for run in runs:
        signals = [run.judge(policy).signal for policy in policies]
        numbers = [math.inf if signal is None else signal for signal in signals]
        assert numbers == sorted(numbers, reverse=True)


def test_recordings_are_loaded_with_their_families(tmp_path: Path) -> None:
    runs = load_runs([RECORDED])
    assert [run.family for run in runs] == [run.name for run in runs]
    with np.load(RECORDED / "res_lazy_0.npz", allow_pickle=False) as recording:
        np.savez(tmp_path / "mine.npz", allow_pickle=False, **recording, family=np.array("lazy"))
    (mine,) = load_runs([tmp_path / "mine.npz"])
    assert (mine.name, mine.family) == ("mine", "lazy")
    assert mine.outcomes == runs[1].outcomes


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no recordings to score"):
        load_runs([tmp_path])
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ValueError, match=r"text\.npz: cannot be read as an \.npz file"):
        load_runs([tmp_path])
    gram = np.eye(3)[None]
    np.savez(tmp_path / "text.npz", allow_pickle=False, gram=gram, names=np.array(["a"]))
    with pytest.raises(ValueError, match=r"text\.npz: holds no outcomes of switches"):
        load_runs([tmp_path])


def table(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.switch", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)


def test_the_table(tmp_path: Path) -> None:
    answer = table("table", RECORDED, "--json")
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    scored = score_policies(load_runs([RECORDED]))
    for name in POLICIES:
        found = summarize(scored[name])
        assert told["as_is"][name]["wrong"] == found.wrong
        assert told["as_is"][name]["regret"] == pytest.approx(found.regret)
        assert told["held_out"][name]["runs"] == 4
        assert len(told["held_out"][name]["thresholds"]) == 4
    shutil.copy(RECORDED / "res_lazy_0.npz", tmp_path)
    shown = table("table", tmp_path, "--runs")
    assert shown.returncode == 0, shown.stderr
    assert "Policies as they are, 1 runs of 1 families" in shown.stdout
    assert "left out" not in shown.stdout
    assert "holds" not in shown.stdout
    blind = json.loads(table("table", tmp_path, "--json", "--no-objective").stdout)
    assert blind["as_is"]["remaining_displacement/2"] != told["as_is"]["remaining_displacement/2"]
    checked = table("table", tmp_path, "--check")
    assert checked.returncode == 1
    assert "MISSED  mean regret" in checked.stdout or "MISSED  median lateness" in checked.stdout
    both = table("table", tmp_path, "--check", "--json")
    assert (both.returncode, both.stdout) == (2, "")
    assert "--check prints lines, --json one object: ask for one of them" in both.stderr
    refused = table("table", tmp_path / "absent.npz")
    assert refused.returncode == 1
    assert "there is no such file" in refused.stderr
    assert table("chair").returncode == 2
