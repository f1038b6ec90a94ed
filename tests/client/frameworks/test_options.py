"""What the callbacks take, and how they name runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trajmon._framework_options import Options, free_name, unique_name
from trajmon.huggingface import TrajectoryCallback as ForHuggingFace
from trajmon.lightning import TrajectoryCallback as ForLightning
from trajmon_protos.names import RUN_NAME

FORMS = 'give a number of steps, "step", "every 100 steps", "epoch", '


@pytest.mark.parametrize("callback", [ForLightning, ForHuggingFace, Options])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"every": "never"}, f"'never' is not a schedule; {FORMS}"),
        ({"every": 0}, "EverySteps: n is 0, not a whole number of at least 1"),
        ({"resume": "maybe"}, 'resume=\'maybe\' is not one of "never", "allow", "must"'),
        ({"on_advice": "obey"}, 'on_advice=\'obey\' is not one of "log", "callback", "switch"'),
        ({"on_advice": "callback"}, 'on_advice="callback" and advice_callback go together'),
        ({"advice_callback": print}, 'on_advice="callback" and advice_callback go together'),
        ({"log_hallmarks": "network"}, "log_hallmarks='network' is not True, False or a list of groups"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(
    callback: Any, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError) as refused:
        callback(**options)
    assert str(refused.value).startswith(text)


def test_groups_to_log() -> None:
    assert Options().logged_groups == ("network",)
    assert Options(log_hallmarks=False).logged_groups == ()
    assert Options(log_hallmarks=["norm", "mlp"]).logged_groups == ("norm", "mlp")


@pytest.mark.parametrize("word", ["ResNet", "my run/3", "…", "x" * 200, "-.-", "Größe"])
def test_made_names_are_names(word: str) -> None:
    names = {unique_name(word) for _ in range(20)}
    assert len(names) > 1
    assert all(RUN_NAME.fullmatch(name) for name in names)


def test_a_free_name_is_no_runs(tmp_path: Path) -> None:
    assert free_name(tmp_path, "run") == "run"
    for folder in ("run", "run-2~0123456789abcdef~00001", "x" * 64):
        (tmp_path / "client" / folder).mkdir(parents=True)
        (tmp_path / "client" / folder / "run.json").touch()
    assert free_name(tmp_path, "run") == "run-3", "whole, and in parts"
    assert free_name(tmp_path, "x" * 64) == "x" * 62 + "-2"
    assert free_name(tmp_path, "../../run") == "../../run", "for the recorder to refuse"
