"""The trainings in which hybrid training is measured: three of the benchmark's, and one that is made to resume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from benchmarks.switch.recipes import RECIPES, Recipe
from benchmarks.switch.tasks import Batch, Data, Digits
from benchmarks.switch.training import Training
from torch import Tensor

__all__ = ["CASES", "Case", "Continued", "Mirrored", "planned_intervals", "training_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued(Recipe):
    """A recipe that ends as planned, and is then continued on mirrored images, its schedule from the beginning.

    It is recorded as one run, whose plan knows nothing of the continuation.
    """

    planned: int
    """Intervals of the recipe; `intervals` counts those of the continuation too."""

    def learning_rate(self, interval: int) -> float:
        """Of the interval that leads from checkpoint `interval` to the next."""
        first, length = (0, self.planned) if interval < self.planned else (self.planned, self._added)
        return self.optimizer.rate * self.schedule.factor(interval - first, length)

    @property
    def _added(self) -> int:
        return self.intervals - self.planned

    @classmethod
    def of(cls, recipe: Recipe, added: int) -> Continued:
        """The recipe, continued for so many intervals."""
        same = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
        own = {"name": f"continued_{recipe.name}", "intervals": recipe.intervals + added}
        return cls(**same | own, planned=recipe.intervals)


class _MirroredData:
    def __init__(self, data: Data) -> None:
        self._data = data

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        for batch in self._data.batches(generator):
            yield Batch(_mirror(batch.inputs), batch.targets)

    def held_out(self) -> Batch:
        batch = self._data.held_out()
        return Batch(_mirror(batch.inputs), batch.targets)


@dataclass(frozen=True, slots=True)
class Mirrored(Digits):
    """The same digits, left and right exchanged."""

    def ready(self) -> Data:
        """With its data loaded."""
        return _MirroredData(Digits.ready(self))


def _mirror(images: Tensor) -> Tensor:
    return images.flip(-1)


class _ContinuedTraining(Training):
    """Takes the mirrored images from the planned end on."""

    def __init__(self, recipe: Continued) -> None:
        super().__init__(recipe)
        if not isinstance(recipe.task, Digits):
            raise TypeError(f"only digits can be mirrored, not {type(recipe.task).__name__}")
        task = recipe.task
        self._planned = recipe.planned
        self._other = Mirrored(**{field.name: getattr(task, field.name) for field in fields(task)}).ready()

    def advance(self) -> float:
        """Train to the next checkpoint; from the planned end on with other data, on which it is scored then too."""
        if self.checkpoint >= self._planned:
            self._data, self._held_out = self._other, self._other.held_out()
        return super().advance()


def planned_intervals(recipe: Recipe) -> int:
    """After how many of its intervals the run was to end."""
    return recipe.planned if isinstance(recipe, Continued) else recipe.intervals


def training_of(recipe: Recipe) -> Training:
    """The recipe, about to be followed."""
    return _ContinuedTraining(recipe) if isinstance(recipe, Continued) else Training(recipe)


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table, once for each seed."""

    what: str
    """In words."""
    recipe: Recipe
    """With any seed."""

    @property
    def name(self) -> str:
        """Of its files and on the command line, without the seed."""
        return self.recipe.name.rpartition("_")[0]

    def seeded(self, seed: int) -> Recipe:
        """The recipe with this seed."""
        return replace(self.recipe, name=f"{self.name}_{seed}", seed=seed)


def _known(name: str) -> Recipe:
    return next(recipe for recipe in RECIPES if recipe.name == name)


CASES: tuple[Case, ...] = (
    Case("residual network, batch norm; SGD, steps", _known("bn_resnet_sgd_step_0")),
    Case("vision transformer, layer norm; AdamW, cosine", _known("layer_norm_vit_adamw_warmup_0")),
    Case("character transformer, RMSNorm; AdamW, steps", _known("rms_gpt_adamw_step_0")),
    Case(
        "convolutions, group norm; SGD, steps; continued on mirrored images",
        Continued.of(_known("group_norm_sgd_step_0"), added=20),
    ),
)
