"""The two trainings of the demonstration: `python -m alerts.training healthy|broken FOLDER SERVER`.

Both go on until a file in FOLDER tells them what is next: `follow` has the healthy one follow the advice, `mend` has
the broken one go back to a good checkpoint with a smaller learning rate, `end` ends either.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import trajmon
from trajmon.demo.training import Training

__all__ = ["BROKEN", "HEALTHY"]

HEALTHY, BROKEN = "healthy", "broken"
EPOCHS = 16
GOOD_STEP = 6
RATE = 0.5
"""Times one over the sharpness."""
RAISED = 3.5
"""Over 2 the error grows by this less 1 at every step."""
PAUSE_SECONDS = 0.4
START_SECONDS = 60.0
STEPS_AT_MOST = 20_000


def wait_for_first_answer(recorder: trajmon.Recorder) -> None:
    """Until the agent runs and the server has seen checkpoint 0: starting up is no part of what is shown."""
    deadline = time.monotonic() + START_SECONDS
    while not recorder.hallmarks and time.monotonic() < deadline:
        time.sleep(0.1)


def say(text: str) -> None:
    print(f"{time.time():.3f} {text}", flush=True)


def healthy(server: str, told: Callable[[str], bool]) -> None:
    """A ResNet learns digits; after its learning rate has dropped, a switch is advised."""
    training = Training(EPOCHS)
    with trajmon.watch(training.model, run=HEALTHY, optimizer=training.optimizer, server=server) as recorder:
        wait_for_first_answer(recorder)
        step = 0
        for epoch in training.run():
            step = epoch.step
            recorder.checkpoint(step=step, epoch=epoch.number, metrics={"loss": epoch.loss})
            if recorder.advice.switch:
                break
        say(f"epoch {epoch.number}: advice {recorder.advice.state}, loss {epoch.loss:.3f}")
        # The same schedule once more at its last, small learning rate, until somebody says what to do.
        training.epochs = STEPS_AT_MOST
        followed = False
        for epoch in training.run():
            if told("end"):
                break
            if told("follow") and not followed:
                followed = True
                say(f"follows the advice: {trajmon.switch_to_norm_only(training.model, training.optimizer)}")
            recorder.checkpoint(
                step=step + epoch.step, epoch=EPOCHS + epoch.number, metrics={"loss": epoch.loss}
            )
            time.sleep(1.0)
        recorder.close(timeout=30.0)


class Regression:
    """A linear classifier of digits, gradient descent on all of them at once: a rate over 2/sharpness blows it up."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        digits = load_digits()
        self.images = torch.tensor(digits.data, dtype=torch.float32) / 16.0
        self.targets = nn.functional.one_hot(torch.tensor(digits.target), 10).float()
        self.model = nn.Linear(64, 10)
        with_bias = torch.cat([self.images, torch.ones(len(self.images), 1)], dim=1)
        largest = torch.linalg.matrix_norm(with_bias, 2) ** 2
        self.sharpness = float(2.0 * largest / self.targets.numel())
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE / self.sharpness)

    def step(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = nn.functional.mse_loss(self.model(self.images), self.targets)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.detach()

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def broken(server: str, told: Callable[[str], bool]) -> None:
    """Its learning rate is raised too far: steps turn back and grow until they are not finite. Then it is mended."""
    training = Regression()
    good = copy.deepcopy(training.model.state_dict())
    with trajmon.watch(training.model, run=BROKEN, optimizer=training.optimizer, server=server) as recorder:
        wait_for_first_answer(recorder)
        for step in range(1, STEPS_AT_MOST):
            if told("mend") or told("end"):
                break
            loss = training.step()
            recorder.checkpoint(step=step, metrics={"loss": float(loss)})
            if step == GOOD_STEP:
                good = copy.deepcopy(training.model.state_dict())
                training.set_rate(RAISED / training.sharpness)
                say(f"the learning rate is {RAISED / RATE:.0f} times as high from here")
            time.sleep(PAUSE_SECONDS)
        recorder.close(timeout=30.0)
    if told("end"):
        return
    say(f"back to step {GOOD_STEP} with the old learning rate")
    training.model.load_state_dict(good)
    training.set_rate(RATE / training.sharpness)
    with trajmon.watch(
        training.model, run=BROKEN, optimizer=training.optimizer, server=server, resume="must"
    ) as recorder:
        for step in range(GOOD_STEP + 1, STEPS_AT_MOST):
            if told("end"):
                break
            loss = training.step()
            recorder.checkpoint(step=step, metrics={"loss": float(loss)})
            time.sleep(PAUSE_SECONDS)
        recorder.close(timeout=30.0)


def main() -> int:
    kind, folder, server = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    trainings = {HEALTHY: healthy, BROKEN: broken}
    trainings[kind](server, lambda word: (folder / word).exists())
    say("ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
