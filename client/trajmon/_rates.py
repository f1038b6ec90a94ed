"""The learning rates ahead, summed once: from a function of the step, or from a copy of a scheduler.

Bounded: a schedule of more rates than :data:`MOST_RATES` is asked for at evenly spread places if it is a function, and
else refused, as is one that takes longer than :data:`SECONDS`. What a scheduler holds is copied only as far as it is
small: its optimizer is replaced by one without parameters, a model in it is refused.
"""

from __future__ import annotations

import io
import pickle
import random
import time
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

__all__ = ["MOST_RATES", "SECONDS", "RateSums", "rates_ahead"]

MOST_RATES: Final = 200_000
SECONDS: Final = 2.0
_COPY_BYTES: Final = 16 << 20
_LARGE_TENSOR: Final = 1 << 12


@dataclass(frozen=True, slots=True)
class RateSums:
    """Σ η and Σ η² from any step to the planned end."""

    start: int
    """First step that a rate is known for."""
    width: int
    """Steps that each rate holds for; the last one to the end only."""
    stop: int
    """The planned end."""
    rates: NDArray[np.float64]
    """[n]"""
    sums: NDArray[np.float64]
    """[2, n + 1]: both sums from the start of each rate to the end."""

    @classmethod
    def of(cls, start: int, width: int, stop: int, rates: NDArray[np.float64]) -> RateSums:
        """Add up. ValueError for a rate that is no size."""
        wrong = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
        if wrong.size:
            raise ValueError(
                f"the rate at step {start + int(wrong[0]) * width} is {rates[wrong[0]]:g}, not a number of at least 0"
            )
        edges = np.minimum(start + width * np.arange(len(rates) + 1, dtype=np.float64), stop)
        spans = np.diff(edges)
        sums = np.zeros((2, len(rates) + 1))
        # From the end: the small rates there keep their digits.
        with np.errstate(over="ignore"):
            for row, values in zip(sums, (rates, rates * rates), strict=True):
                row[:-1] = np.cumsum((values * spans)[::-1])[::-1]
        return cls(start, width, stop, rates, sums)

    def from_step(self, step: int) -> tuple[float, float] | None:
        """Both sums from this step on; None where the rates are not known.

        >>> RateSums.of(0, 2, 5, np.array([1.0, 0.5, 0.25])).from_step(3)
        (0.75, 0.3125)
        """
        if step >= self.stop:
            return (0.0, 0.0) if step == self.stop else None
        if step < self.start:
            return None
        place = (step - self.start) // self.width
        left = min(self.start + (place + 1) * self.width, self.stop) - step
        rate = float(self.rates[place])
        after, squared_after = self.sums[:, place + 1]
        return float(after) + rate * left, float(squared_after) + rate * rate * left


def rates_ahead(source: Callable[[int], float] | LRScheduler, width: int, stop: int) -> RateSums:
    """Of a function of the number of rates before, or of a scheduler as it stands; each holds for `width` steps.

    ValueError, with the reason in words, where that cannot be told; whatever the function or the scheduler raises.
    """
    with _random_numbers_kept():
        if not callable(source) or hasattr(source, "get_last_lr"):
            return _of_scheduler(_unwrapped(source), width, stop)
        return _of_function(source, 0, width, stop)


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """A schedule may draw random numbers; training is to draw those that it would have drawn."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 # the user's own generator
    # Of the CPU and, where it is in use, of every CUDA device.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call] # torch
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _of_function(rate: Callable[[int], float], first: int, width: int, stop: int) -> RateSums:
    count = _count(first * width, width, stop)
    stride = -(-count // MOST_RATES)
    # In the middle of what each stands for.
    places = range(first + (stride - 1) // 2, first + (stride - 1) // 2 + count, stride)
    last = first + count - 1
    asked = _in_time(float(rate(min(place, last))) for place in places)
    return RateSums.of(first * width, width * stride, stop, np.array(asked, dtype=np.float64))


def _of_scheduler(scheduler: LRScheduler, width: int, stop: int) -> RateSums:
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError("the rates of ReduceLROnPlateau follow a metric and are not known ahead")
    copied = _copied(scheduler)
    done = _steps_done(copied)
    if type(copied) is LambdaLR:
        base, factor = float(copied.base_lrs[0]), copied.lr_lambdas[0]
        return _of_function(lambda place: base * float(factor(place)), done, width, stop)
    count = _count(done * width, width, stop)
    if count > MOST_RATES:
        raise ValueError(
            f"{count} steps of a {type(scheduler).__name__} are too many to go through, the most are {MOST_RATES}; "
            "give a function of the step"
        )
    with warnings.catch_warnings():
        # That no optimizer step was taken between its steps is meant.
        warnings.simplefilter("ignore")
        rates = _in_time(_stepped(copied, count))
    return RateSums.of(done * width, width, stop, np.array(rates, dtype=np.float64))


def _steps_done(scheduler: Any) -> int:
    # One that chains others has no count of its own.
    inner = getattr(scheduler, "_schedulers", None)
    last = getattr(scheduler, "last_epoch", None)
    if last is None and inner:
        return _steps_done(inner[0])
    return max(int(last or 0), 0)


def _stepped(scheduler: LRScheduler, count: int) -> Iterator[float]:
    for place in range(count):
        if place:
            scheduler.step()
        yield float(scheduler.optimizer.param_groups[0]["lr"])


def _count(start: int, width: int, stop: int) -> int:
    if start >= stop:
        raise ValueError(f"the schedule stands at step {start}, the planned end is {stop}")
    return -(-(stop - start) // width)


def _in_time(rates: Iterable[float]) -> list[float]:
    deadline, found = time.monotonic() + SECONDS, []
    for rate in rates:
        found.append(rate)
        if time.monotonic() > deadline:
            raise ValueError(
                f"going through the schedule takes longer than {SECONDS:g} s; give a quicker function of the step"
            )
    return found


def _unwrapped(scheduler: Any) -> LRScheduler:
    """The scheduler of PyTorch inside that of Accelerate."""
    inner = getattr(scheduler, "scheduler", None)
    if isinstance(scheduler, LRScheduler) or inner is None:
        if not isinstance(scheduler, LRScheduler):
            raise ValueError(f"a {type(scheduler).__name__} is no scheduler of torch.optim")
        return scheduler
    distributed = torch.distributed
    many = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    if many and getattr(scheduler, "step_with_optimizer", False) and not scheduler.split_batches:
        raise ValueError(
            "Accelerate steps this scheduler several times a step; give a function of the step instead"
        )
    return _unwrapped(inner)


class _NoParameters(Optimizer):
    """An optimizer with the settings of another and none of its parameters."""

    def __init__(self, other: Any) -> None:
        groups = [
            {
                name: value.detach().clone() if isinstance(value, torch.Tensor) else value
                for name, value in group.items()
                if name != "params"
            }
            for group in other.param_groups
        ]
        empty = [{**group, "params": [torch.zeros(1, device="cpu")]} for group in groups]
        super().__init__(empty, dict(getattr(other, "defaults", {})))


class _Bounded(io.BytesIO):
    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > _COPY_BYTES:
            raise ValueError("the scheduler holds too much to be copied; give a function of the step")
        return super().write(data)


class _Outward(pickle.Pickler):
    """Leaves out what a copy must share, and refuses what it must not hold."""

    def __init__(self, file: _Bounded, optimizer: object, shared: list[object]) -> None:
        super().__init__(file)
        self._optimizer = optimizer
        self._shared = shared

    def persistent_id(self, obj: object) -> int | None:
        # Wrappers of optimizers are not always optimizers themselves.
        if obj is self._optimizer or isinstance(obj, Optimizer):
            return 0
        is_large = (isinstance(obj, torch.Tensor) and obj.numel() > _LARGE_TENSOR) or (
            isinstance(obj, np.ndarray) and obj.size > _COPY_BYTES // 8
        )
        if isinstance(obj, nn.Module) or is_large:
            raise ValueError("the scheduler holds a model or data; give a function of the step")
        if isinstance(obj, types.FunctionType | types.BuiltinFunctionType | type):
            self._shared.append(obj)
            return len(self._shared) - 1
        return None


class _Inward(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: list[object]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, pid: Any) -> object:
        return self._shared[pid]


def _copied(scheduler: LRScheduler) -> LRScheduler:
    """A scheduler that goes on like this one, over an optimizer of its own."""
    # Not copy.deepcopy: that copies the optimizer's parameters, and whatever else there is, of any size.
    shared: list[object] = [_NoParameters(scheduler.optimizer)]
    file = _Bounded()
    try:
        _Outward(file, scheduler.optimizer, shared).dump(scheduler)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ValueError(f"a {type(scheduler).__name__} cannot be copied: {error}") from error
    file.seek(0)
    copied: LRScheduler = _Inward(file, shared).load()
    return copied
