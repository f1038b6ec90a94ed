"""`trajmon-server replay`: what a policy would have said, and what that was worth."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

__all__ = ["replay_command"]


@click.command("replay")
@click.argument("gram", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--policy", metavar="NAME", help="Another policy than the server's.")
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    help="Change a setting of the policy; repeatable.",
)
@click.option(
    "--no-plan", is_flag=True, help="Do not tell the policy how long the run goes on, and at what rates."
)
@click.option(
    "--delta",
    type=click.FloatRange(min=0, min_open=True),
    help="Loss of metric that a switch may cost; default: 0.01 of an accuracy, 1 % of a loss.",
)
def replay_command(
    gram: Path,
    as_json: bool,
    policy: str | None,
    settings: tuple[str, ...],
    no_plan: bool,
    delta: float | None,
) -> None:
    """Say what the policy would have advised at each checkpoint of GRAM.npz.

    Where the file holds outcomes of switches, the last line says what the first `switch` was worth: in JSON the last
    checkpoint's object has one key more, `scores`.
    """
    from trajmon_server.recording import load
    from trajmon_server.replay import ReplayError, replay_recording, scores
    from trajmon_server.signals.policies import DEFAULT, make_policy

    try:
        chosen = make_policy(policy or DEFAULT, dict(_setting(text) for text in settings))
        recording = load(gram, delta)
    except (ReplayError, ValueError) as error:
        click.echo(f"trajmon-server: {error}", err=True)
        raise SystemExit(1) from error
    signal: int | None = None
    last = recording.gram.shape[1] - 1
    for entry in replay_recording(recording, chosen, with_plan=not no_plan):
        if signal is None and entry["advice"] == "switch":
            signal = entry["index"]
        # One object a checkpoint, and nothing else: what reads these lines may rely on it.
        found = scores(recording, signal) if entry["index"] == last else None
        if as_json:
            scored = entry if found is None else {**entry, "scores": found}
            click.echo(json.dumps(scored, allow_nan=False))
            continue
        click.echo(_line(entry))
        if found is not None:
            click.echo(_worth(found))


def _setting(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (name and equals) or math.isnan(number):
        raise ValueError(f"--set takes NAME=NUMBER, not {text!r}")
    return name, number


def _line(entry: dict[str, Any]) -> str:
    mds = entry["hallmarks"].get("mds")
    shown = "undefined" if mds is None else f"{mds:.4f}"
    return f"{entry['index']:>5}  {entry['advice']:<9}  MDS {shown:<9}  {entry['reason']}"


def _worth(found: dict[str, Any]) -> str:
    safe = f"Switching was safe from {found['earliest_safe']} on (delta {found['delta']:.4g})."
    if found["never_signalled"]:
        return f"No switch was advised. {safe}"
    cost = "not known" if found["regret"] is None else f"{found['regret']:.4g}"
    verdict = {None: "", True: ", more than delta: a wrong switch", False: ""}[found["wrong"]]
    return (
        f"First switch at {found['signal']}, metric lost there {cost}{verdict}. {safe} "
        f"Late by {found['lateness']:.0%} of the run."
    )
