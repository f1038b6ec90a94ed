"""What optimizers hold, behind whatever stands around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trajmon.errors import SwitchError
from trajmon.numerics.modules import is_instance
from trajmon.switch.wrapping import comes_from_deepspeed

__all__ = ["Optimizers", "innermost", "state_bytes"]


class Optimizers:
    """All optimizers of one training, wrappers included: what stands outside first.

    A wrapper holds another in `optimizer` (Accelerate and most others) or `optim` (ZeroRedundancyOptimizer).
    Nothing is copied: states and groups are looked up each time, for loading a checkpoint replaces them.
    Raises SwitchError for what is no optimizer and for those that move parameters without a gradient.
    """

    def __init__(self, given: object) -> None:
        several = list(given) if isinstance(given, Sequence) else [given]
        if not several:
            raise SwitchError("no optimizer was given")
        self.given: list[Any] = several
        self.chain: list[Any] = [link for one in several for link in _chain(one)]
        """Every link of every chain."""
        self.innermost: list[Any] = [innermost(one) for one in several]
        """Those that do the work."""
        for link in self.chain:
            _refuse_unfit(link)

    def is_same(self, other: Optimizers) -> bool:
        """Whether the same objects do the work."""
        return [id(one) for one in self.innermost] == [id(one) for one in other.innermost]

    def parameters(self) -> dict[int, nn.Parameter]:
        """By id, every parameter in a group of any link."""
        return {
            id(parameter): parameter
            for link in self.chain
            for group in link.param_groups
            for parameter in group["params"]
        }

    def state_bytes(self) -> int:
        """Of all states together, on this rank."""
        states: dict[int, Any] = {id(link.state): link.state for link in self.chain}
        return sum(state_bytes(state) for state in states.values())

    def drop_state(self, parameters: Iterable[Tensor]) -> None:
        """Forget what is remembered about these; groups stay as they are, so that checkpoints still fit."""
        parameters = list(parameters)
        for link in self.chain:
            for parameter in parameters:
                link.state.pop(parameter, None)

    def recreate_state(self) -> None:
        """Give back the states that an optimizer makes when it is built, and not with the first step."""
        for link in self.innermost:
            # Older versions of torch make Adagrad's state only there, and fail without it.
            if type(link) is torch.optim.Adagrad:
                _recreate_adagrad(link)

    def before_step(self, hook: Callable[..., Any]) -> list[Any]:
        """Register a step pre-hook with those that do the work; the handles."""
        return [link.register_step_pre_hook(hook) for link in self.innermost]


def state_bytes(state: object) -> int:
    """Bytes of every tensor in a nest of mappings and sequences; of a sharded one the local part.

    >>> state_bytes({"exp_avg": torch.zeros(3), "step": 2})
    12
    """
    if isinstance(state, Tensor):
        is_sharded = is_instance(state, "torch.distributed.tensor", "DTensor")
        return int(state.to_local().nbytes if is_sharded else state.nbytes)  # type: ignore[attr-defined] # DTensor's
    if isinstance(state, Mapping):
        return sum(map(state_bytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(state_bytes, state))
    return 0


def innermost(optimizer: object) -> Any:
    """The optimizer that really steps, inside of those that hold it as `optimizer` or `optim`.

    Step hooks belong there: wrappers may inherit the methods that register them without what those need.
    """
    return list(_chain(optimizer))[-1]


def _chain(optimizer: object) -> Iterator[Any]:
    seen: set[int] = set()
    link: Any = optimizer
    while id(link) not in seen:
        seen.add(id(link))
        yield link
        inner = getattr(link, "optimizer", None)
        inner = getattr(link, "optim", None) if inner is None else inner
        link = link if inner is None else inner


def _refuse_unfit(link: object) -> None:
    kind = type(link).__name__
    if comes_from_deepspeed(link):
        raise SwitchError(f"{kind} keeps flat copies of the parameters that cannot be frozen in place")
    if not hasattr(link, "param_groups") or not hasattr(link, "state"):
        raise SwitchError(f"{kind} is no optimizer: it has no param_groups and state")
    if isinstance(link, torch.optim.LBFGS):
        raise SwitchError("LBFGS moves all parameters along one remembered direction; none can be frozen")
    for needed in ("register_step_pre_hook", "register_step_post_hook"):
        if not hasattr(link, needed):
            raise SwitchError(f"{kind} takes no step hooks ({needed}), as torch's optimizers do")


def _recreate_adagrad(optimizer: torch.optim.Adagrad) -> None:
    # With its own words: a second one, over the parameters that lack a state.
    for group in optimizer.param_groups:
        lacking = [parameter for parameter in group["params"] if not optimizer.state.get(parameter)]
        if lacking:
            options = {name: value for name, value in group.items() if name in optimizer.defaults}
            optimizer.state.update(torch.optim.Adagrad(lacking, **options).state)
