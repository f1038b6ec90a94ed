"""The switch to norm-only training and back, and the memory of it.

"Hallmarks of Optimization Trajectories in Neural Networks", section 6: once the direction has settled, training
only the scalars of the normalisation layers goes on nearly as well.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from torch import nn

from trajmon.errors import SwitchError
from trajmon.switch.belonging import check_belonging
from trajmon.switch.freeze import Frozen
from trajmon.switch.optimizers import Optimizers
from trajmon.switch.report import SwitchReport, TrainingMode
from trajmon.switch.selection import Choice, Found, Selection, find_parameters, select, select_by_name
from trajmon.switch.timing import StepTimer
from trajmon.switch.wrapping import Freeze, Mode, bare, choose, gather

__all__ = [
    "is_switched",
    "restore_switch",
    "switch_back",
    "switch_state",
    "switch_to_norm_only",
    "training_mode",
]

log = logging.getLogger("trajmon")

_STATE_VERSION: Final = 1


@dataclass(slots=True, eq=False)
class _Switched:
    """What is known of a model in norm-only training."""

    frozen: Frozen
    selection: Selection
    choice: Choice
    requested: Mode
    after: StepTimer

    def says_the_same(self, choice: Choice, mode: Mode) -> bool:
        return self.choice == choice and mode in (self.requested, self.frozen.kind, "auto")


# By the module inside all wrappers. Not an attribute of it: copies of a model are not switched.
_switched: WeakKeyDictionary[nn.Module, _Switched] = WeakKeyDictionary()


def switch_to_norm_only(
    model: nn.Module,
    optimizer: object,
    *,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    keep: str | Sequence[str] = (),
    mode: Mode = "auto",
    recorder: object = None,
) -> SwitchReport:
    """Train only the scalars of the normalisation layers from here on; for between two steps.

    `optimizer` is the training's optimizer, wrapped or not, or a list of all of them. Regular expressions, searched
    in parameter names without wrappers: `include` and `exclude` correct which parameters count as norm parameters,
    `keep` names others that stay trainable, such as the head. The rest is frozen and its optimizer state freed;
    parameter groups stay, so that checkpoints fit before and after. `mode` is chosen by the model's wrapper
    (:mod:`trajmon.switch.wrapping`). Again on a switched model it changes nothing and says so.

    Raises SwitchError, with everything as it was, where there are no norm parameters to train, the optimizer does
    not hold them or holds parameters of another model, the wrapper allows no freeze, a pattern matches nothing,
    or the model is switched otherwise.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(9, 9), nn.LayerNorm(9), nn.Linear(9, 1))
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> print(switch_to_norm_only(model, optimizer))
    switched to norm-only training (hard freeze): 18 of 118 parameters (15.3 %) are trained, before 118; \
optimizer state 0 B -> 0 B
    """
    choice = Choice.of(include, exclude, keep)
    known = _switched.get(bare(model))
    if known is not None:
        return _again(model, known, Optimizers(optimizer), choice, mode)
    freeze = choose(model, mode)
    gather(model)
    parameters = find_parameters(model)
    selection = select(parameters, choice)
    return _switch(model, Optimizers(optimizer), parameters, selection, choice, mode, freeze, recorder)


def switch_back(model: nn.Module, optimizer: object, *, recorder: object = None) -> SwitchReport:
    """Train everything again that was trained before the switch; for between two steps.

    Parameters that were frozen before it stay frozen. The optimizer begins anew with the others: their state was
    freed and is made with the next step. Raises SwitchError if the model is not switched.
    """
    known = _switched.get(bare(model))
    if known is None:
        raise SwitchError("the model is not switched to norm-only training")
    optimizers = Optimizers(optimizer)
    parameters = find_parameters(model)
    before = _Measure.of(parameters, optimizers, known.frozen)
    names = _names(known.selection.frozen, known.frozen)
    step_seconds = known.after.seconds
    known.after.close()
    known.frozen.undo()
    del _switched[bare(model)]
    after = _Measure.of(parameters, optimizers, None)
    report = _report("full", known.frozen.kind, names, before, after, step_seconds, _time_steps(optimizers))
    _tell(recorder, report)
    return report


def is_switched(model: nn.Module) -> bool:
    """Whether the model, wrapped or not, is in norm-only training.

    >>> is_switched(nn.LayerNorm(3))
    False
    """
    return bare(model) in _switched


def training_mode(model: nn.Module) -> TrainingMode:
    """What is being trained; for a checkpoint's header."""
    return "norm_only" if is_switched(model) else "full"


def switch_state(model: nn.Module) -> dict[str, Any]:
    """What a training must save to resume in norm-only training; plain JSON values, empty if not switched."""
    known = _switched.get(bare(model))
    if known is None:
        return {}
    return {
        "version": _STATE_VERSION,
        "mode": known.requested,
        "norm": [found.names[0] for found in known.selection.norm],
        "kept": [found.names[0] for found in known.selection.kept],
        "include": list(known.choice.include),
        "exclude": list(known.choice.exclude),
        "keep": list(known.choice.keep),
    }


def restore_switch(model: nn.Module, optimizer: object, state: Mapping[str, Any]) -> SwitchReport | None:
    """Re-enter what :func:`switch_state` saved, before or after the optimizer's own state is loaded.

    The model may be wrapped in something else now. For a state that is empty, does nothing and gives None; does
    not switch back either. Raises SwitchError as :func:`switch_to_norm_only` does, and for a state that cannot be read.
    """
    if not state:
        return None
    if state.get("version") != _STATE_VERSION:
        raise SwitchError(
            f"switch state of version {state.get('version')!r}; this one reads {_STATE_VERSION}"
        )
    try:
        choice = Choice(*(tuple(map(str, state[name])) for name in ("include", "exclude", "keep")))
        norm, kept = ([str(name) for name in state[part]] for part in ("norm", "kept"))
        mode: Mode = state["mode"]
    except (KeyError, TypeError) as error:
        raise SwitchError(f"the switch state cannot be read: {error!r}") from error
    known = _switched.get(bare(model))
    optimizers = Optimizers(optimizer)
    if known is not None:
        return _again(model, known, optimizers, choice, mode)
    freeze = choose(model, mode)
    gather(model)
    parameters = find_parameters(model)
    selection = select_by_name(parameters, norm, kept)
    return _switch(model, optimizers, parameters, selection, choice, mode, freeze, None)


@dataclass(frozen=True, slots=True)
class _Measure:
    """What a report compares before and after."""

    elements: int
    trainable: int
    optimizer_bytes: int

    @classmethod
    def of(cls, parameters: Sequence[Found], optimizers: Optimizers, frozen: Frozen | None) -> _Measure:
        # Softly frozen parameters still require gradients.
        still = {id(parameter) for parameter in frozen.parameters} if frozen is not None else set()
        sizes = [found.parameter.numel() for found in parameters]
        trainable = [
            size
            for size, found in zip(sizes, parameters, strict=True)
            if found.parameter.requires_grad and id(found.parameter) not in still
        ]
        return cls(sum(sizes), sum(trainable), optimizers.state_bytes())


def _switch(
    model: nn.Module,
    optimizers: Optimizers,
    parameters: Sequence[Found],
    selection: Selection,
    choice: Choice,
    mode: Mode,
    freeze: Freeze,
    recorder: object,
) -> SwitchReport:
    check_belonging(optimizers, parameters, selection, freeze)
    before = _Measure.of(parameters, optimizers, None)
    timer = StepTimer.of(optimizers.innermost[0])
    step_seconds = None if timer is None else timer.seconds
    to_freeze = [found.parameter for found in selection.frozen if found.parameter.requires_grad]
    frozen = Frozen(to_freeze, optimizers, freeze)
    after_timer = _time_steps(optimizers)
    _switched[bare(model)] = _Switched(frozen, selection, choice, mode, after_timer)
    after = _Measure.of(parameters, optimizers, frozen)
    names = _names(selection.frozen, frozen)
    report = _report("norm_only", freeze, names, before, after, step_seconds, after_timer)
    _tell(recorder, report)
    return report


def _again(
    model: nn.Module, known: _Switched, optimizers: Optimizers, choice: Choice, mode: Mode
) -> SwitchReport:
    """A switched model is switched once more, perhaps with a new optimizer."""
    if not known.says_the_same(choice, mode):
        raise SwitchError(
            "the model is switched to norm-only training already, with another choice of parameters or mode; "
            "switch_back first"
        )
    parameters = find_parameters(model)
    before = _Measure.of(parameters, optimizers, known.frozen)
    if not known.frozen.optimizers.is_same(optimizers):
        check_belonging(optimizers, parameters, known.selection, known.frozen.kind)
        known.frozen.move_to(optimizers)
    after = _Measure.of(parameters, optimizers, known.frozen)
    names = _names(known.selection.frozen, known.frozen)
    return _report("norm_only", known.frozen.kind, names, before, after, None, known.after, already=True)


def _names(candidates: Sequence[Found], frozen: Frozen) -> tuple[str, ...]:
    ours = {id(parameter) for parameter in frozen.parameters}
    return tuple(found.names[0] for found in candidates if id(found.parameter) in ours)


def _time_steps(optimizers: Optimizers) -> StepTimer:
    """Time the steps after a change; who times them all begins anew."""
    standing = StepTimer.of(optimizers.innermost[0])
    if standing is not None:
        standing.restart()
    return StepTimer(optimizers.innermost[0], once=True)


def _report(
    to: TrainingMode,
    freeze: Freeze,
    names: tuple[str, ...],
    before: _Measure,
    after: _Measure,
    step_seconds: float | None,
    timer: StepTimer,
    *,
    already: bool = False,
) -> SwitchReport:
    return SwitchReport(
        training_mode=to,
        mode=freeze,
        already=already,
        parameters=after.elements,
        trainable_before=before.trainable,
        trainable_after=after.trainable,
        frozen_names=names,
        optimizer_bytes_before=before.optimizer_bytes,
        optimizer_bytes_after=after.optimizer_bytes,
        step_seconds_before=step_seconds,
        _after=timer,
    )


def _tell(recorder: object, report: SwitchReport) -> None:
    """Hand the report to whoever records the run. The switch is done: nothing that goes wrong here undoes it."""
    on_switch = getattr(recorder, "on_switch", None)
    if on_switch is None:
        return
    try:
        on_switch(report)
    except Exception as error:
        log.error("the recorder could not take note of the switch: %r; training goes on", error)
