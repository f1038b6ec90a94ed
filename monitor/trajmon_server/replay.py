"""Replays a recorded trajectory: hallmarks and advice as of every checkpoint, as the server says them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks import GramRow, Trajectory, stream
from trajmon_server.hallmarks.stream_lags import lagged_dots
from trajmon_server.recording import Recording, ReplayError, load
from trajmon_server.signals.base import Advice, Ahead, GroupObservation, Observation, Policy
from trajmon_server.signals.observing import observe, observe_group
from trajmon_server.signals.outcomes import Score, score, share_floor
from trajmon_server.signals.policies import make_policy

__all__ = ["ReplayError", "advices", "first_switch", "observations", "replay", "replay_recording", "scores"]


def replay(path: Path, policy: Policy[Any] | None = None) -> Iterator[dict[str, Any]]:
    """One JSON-able object per checkpoint of a GRAM.npz, in order; numbers that are undefined are None.

    Keys: ``index``, ``advice``, ``hallmarks``, ``evidence``, ``reason``, ``policy``. Reads ``gram`` (L, T,
    T), ``names`` (L), and what else is there of a recording (docs/formats.md). The layers are summed to the network;
    update products come out of the Gram, undefined where it does not resolve them. The file is read and checked before
    the first object. O(T²) besides the sum over layers. `policy`: the server's by default. Raises :class:`ReplayError`.
    """
    return replay_recording(load(path), policy)


def replay_recording(
    recording: Recording, policy: Policy[Any] | None = None, *, with_plan: bool = True
) -> Iterator[dict[str, Any]]:
    """The same of a recording at hand. Without the plan no policy knows how long the run goes on, at what rates."""
    chosen = make_policy() if policy is None else policy
    state = chosen.init()
    for observation, hallmarks in _seen(recording, with_plan):
        state, advice = chosen.update(state, observation)
        yield {
            "index": observation.checkpoint,
            "advice": advice.state.value,
            "hallmarks": _json_numbers(hallmarks),
            "evidence": _json_numbers(advice.evidence),
            "reason": advice.reason,
            "policy": advice.policy,
        }


def observations(recording: Recording, *, with_plan: bool = True) -> list[Observation]:
    """What policies see of it, one a checkpoint. For several policies on one recording."""
    return [observation for observation, _ in _seen(recording, with_plan)]


def advices(policy: Policy[Any], seen: list[Observation]) -> list[Advice]:
    """What a policy says, one advice an observation."""
    state, said = policy.init(), []
    for observation in seen:
        state, advice = policy.update(state, observation)
        said.append(advice)
    return said


def first_switch(policy: Policy[Any], seen: list[Observation]) -> int | None:
    """Checkpoint of the first `switch`; None if there is none."""
    return next((advice.checkpoint for advice in advices(policy, seen) if advice.switch), None)


def scores(recording: Recording, signal: int | None) -> dict[str, Any] | None:
    """What a first `switch` there was worth, JSON-able; None if the recording holds no outcomes.

    Keys: ``signal``, ``earliest_safe`` (checkpoints), ``regret``, ``delta`` (in the metric), ``regret_in_deltas``,
    ``lateness`` (part of the run), ``wrong``, ``never_signalled``. None where not known.
    """
    if recording.outcomes is None:
        return None
    found: Score = score(recording.outcomes, signal)
    return {
        "signal": found.signal,
        "earliest_safe": found.earliest_safe,
        **_json_numbers({"regret": found.regret, "regret_in_deltas": found.regret_in_deltas}),
        "delta": recording.outcomes.delta,
        "lateness": found.lateness,
        "wrong": found.wrong,
        "never_signalled": found.never_signalled,
    }


def _seen(recording: Recording, with_plan: bool) -> Iterator[tuple[Observation, Mapping[str, float]]]:
    network = Trajectory.from_gram(recording.gram.sum(axis=0))
    groups = {name: _scope(Trajectory.from_gram(gram)) for name, gram in _grams(recording).items()}
    stream_state = stream.init()
    for t, seen in enumerate(_scope(network)):
        row = _row(network, t)
        stream_state = stream.update(stream_state, row)
        hallmarks = stream.latest(stream_state)
        objective, floor, tolerance = _objective(recording, t)
        told = observe(
            checkpoint=t,
            previous=t - 1 if t else None,
            step=None if recording.steps is None else recording.steps[t],
            finite=bool(np.isfinite(row.gram[t])),
            complete=bool(np.all(np.isfinite(row.gram))),
            learning_rate=float(recording.rates[t - 1]) if recording.rates is not None and t else None,
            network=seen,
            norm_squared=float(row.gram[t]),
            hallmarks=hallmarks,
            groups={name: series[t] for name, series in groups.items()},
            objective=objective,
            objective_floor=floor,
            objective_tolerance=tolerance,
            ahead=_ahead(recording, t) if with_plan else None,
        )
        yield told, hallmarks


def _grams(recording: Recording) -> dict[str, NDArray[np.float64]]:
    """Every layer as ``layer:NAME``, and ``norm`` where it is known which layers these are."""
    grams = {f"layer:{name}": gram for name, gram in zip(recording.names, recording.gram, strict=True)}
    if recording.norm is not None:
        grams["norm"] = recording.gram[recording.norm].sum(axis=0)
    return grams


def _row(trajectory: Trajectory, t: int) -> GramRow:
    return GramRow(
        gram=trajectory.gram[t, : t + 1],
        update_squared=float(trajectory.update_squared[t]),
        update_dot=float(trajectory.update_dot[t]),
        displacement_squared=float(trajectory.displacement_squared[t]),
        displacement_dot=float(trajectory.displacement_dot[t]),
    )


def _scope(trajectory: Trajectory) -> list[GroupObservation]:
    """One a checkpoint."""
    squares, update_squares = trajectory.squared_norms, trajectory.update_squared.tolist()
    found = []
    for t in range(len(trajectory)):
        row, before = _row(trajectory, t), trajectory.gram[max(t - 1, 0), :t]
        dots = lagged_dots(row.gram, before, squares[: t + 1], update_squares[: t + 1])
        found.append(observe_group(row, row.displacement_squared, dots))
    return found


def _ahead(recording: Recording, t: int) -> Ahead:
    """The plan as of checkpoint t: what was done is taken to be what was planned."""
    positions = recording.positions
    left = positions[-1] - positions[t]
    if recording.rates is None:
        return Ahead(left)
    rates, spans = recording.rates[t:], np.diff(positions[t:])
    return Ahead(left, float((rates * spans).sum()), float((rates * rates * spans).sum()))


def _objective(recording: Recording, t: int) -> tuple[float, float, float]:
    """What training is for, smaller is better, where it ends, and how much of it a switch may cost.

    NaN, -Inf and NaN where not known.
    """
    if recording.metric is None or recording.delta is None:
        return math.nan, -math.inf, math.nan
    known = recording.metric[np.isfinite(recording.metric)]
    value = float(recording.metric[t])
    if known.size and known.max() <= 0:
        # A loss with its sign turned.
        return -value, -math.inf, recording.delta
    return 1.0 - value, share_floor(recording.delta), recording.delta


def _json_numbers(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
