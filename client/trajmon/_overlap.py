"""Copies from a GPU that training goes on beside.

The copy is queued on a stream of its own behind everything that training has queued so far, into memory that
is pinned. The next optimizer step waits for it on the GPU, by an event: the process never does. Forward and
backward passes read parameters and may run beside the copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trajmon.errors import RefusedError
from trajmon.switch.optimizers import innermost

__all__ = ["OverlappedCopy", "cuda_device", "steps_all"]


def cuda_device(model: nn.Module) -> torch.device | None:
    """The one CUDA device that all parameters of the model lie on; None if there is no such."""
    devices = {parameter.device for parameter in model.parameters()}
    device = devices.pop() if len(devices) == 1 else None
    return device if device is not None and device.type == "cuda" else None


def steps_all(optimizer: object, model: nn.Module) -> bool:
    """Whether every trained parameter of the model is one of the optimizer's."""
    groups = getattr(optimizer, "param_groups", ())
    stepped = {id(parameter) for group in groups for parameter in group["params"]}
    return all(id(parameter) in stepped for parameter in model.parameters() if parameter.requires_grad)


class OverlappedCopy:
    """One copy at a time into one buffer, [n] uint8 in host memory, which is pinned here and released by `close`."""

    def __init__(self, buffer: Tensor, device: torch.device, optimizer: object) -> None:
        """Raises RefusedError for an optimizer without step hooks, and where memory cannot be pinned."""
        register = getattr(innermost(optimizer), "register_step_pre_hook", None)
        if register is None:
            raise RefusedError(
                f'copy="overlap" needs an optimizer that can be made to wait; {type(optimizer).__name__} has no '
                "register_step_pre_hook"
            )
        self._buffer = buffer
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch's own
        self._done: Any = None
        self._then: Callable[[], None] | None = None
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call] # torch's own
        code = runtime.cudaHostRegister(buffer.data_ptr(), buffer.numel(), 0)
        if int(code) != 0:
            raise RefusedError(
                f'copy="overlap": {buffer.numel()} bytes of memory cannot be pinned (CUDA error {int(code)})'
            )
        self._runtime = runtime
        self._handle: Any = register(self._before_step)

    def start(self, copy: Callable[[], None], then: Callable[[], None]) -> None:
        """Queue `copy`, which must not block; `then` is called from :meth:`settle` once it is done."""
        self.settle(wait=True)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            try:
                copy()
            except BaseException:
                # What is queued already must not write into memory that is somebody else's from here on.
                self._stream.synchronize()
                raise
            self._done = self._stream.record_event()
        self._then = then

    def settle(self, *, wait: bool) -> None:
        """Call what is to follow the copy if that is done, or wait until it is."""
        if self._done is None:
            return
        if wait:
            self._done.synchronize()
        elif not self._done.query():
            return
        self._done = None
        then, self._then = self._then, None
        if then is not None:
            then()

    def close(self) -> None:
        """Wait for the last copy, and let the memory go."""
        self._handle.remove()
        self.settle(wait=True)
        self._runtime.cudaHostUnregister(self._buffer.data_ptr())

    def _before_step(self, optimizer: object, args: object, kwargs: object) -> None:
        if self._done is not None:
            # On the GPU: the step must not change what is still being copied.
            torch.cuda.current_stream(self._device).wait_event(self._done)
            self.settle(wait=False)
