"""One training, from checkpoint to checkpoint, that can be taken up anywhere with the same bits."""

from __future__ import annotations

import copy
from typing import Any

import torch
from benchmarks.switch.recipes import Recipe
from benchmarks.switch.tasks import Score, cross_entropy

__all__ = ["State", "Training"]

State = dict[str, Any]
"""Parameters, buffers, optimizer, random numbers, numbers of the checkpoint and of the steps before it."""


class Training:
    """A recipe being followed. One interval is what lies between two checkpoints.

    All that is random in it comes from one generator, which is part of the state: order of the data, noise. So is
    torch's own generator. On one thread the same state gives the same bits.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.checkpoint = 0
        self.step = 0
        torch.manual_seed(recipe.seed)
        self.network = recipe.network.build()
        self.network.train()
        self.optimizer = recipe.optimizer.build(self.network.parameters())
        self._generator = torch.Generator().manual_seed(recipe.seed)
        self._data = recipe.task.ready()
        self._held_out = self._data.held_out()

    @property
    def is_over(self) -> bool:
        """Whether the last checkpoint is reached."""
        return self.checkpoint == self.recipe.intervals

    def advance(self) -> float:
        """Train to the next checkpoint; mean training loss on the way."""
        rate = self.recipe.learning_rate(self.checkpoint)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = []
        for batch in self._data.batches(self._generator):
            loss = cross_entropy(self.network, batch)
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            self.optimizer.step()
            losses.append(loss.detach())
            self.step += 1
        self.checkpoint += 1
        return torch.stack(losses).mean().item()

    def score(self) -> Score:
        """On what is held out; changes nothing."""
        return self.recipe.task.score(self.network, self._held_out)

    def state(self) -> State:
        """A copy of all that decides how it goes on."""
        return {
            "checkpoint": self.checkpoint,
            "step": self.step,
            "network": copy.deepcopy(self.network.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "generator": self._generator.get_state(),
            "torch": torch.get_rng_state(),
        }

    def restore(self, state: State) -> None:
        """Be at the checkpoint of this state; of a training that was never switched, or not yet."""
        self.checkpoint, self.step = state["checkpoint"], state["step"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
