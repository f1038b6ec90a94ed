"""What users hand over beside the parameters, brought into plain numbers. Never raises."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from trajmon._settings import Limits

__all__ = ["Metadata"]

log = logging.getLogger("trajmon")


class Metadata:
    """Converts steps, metrics and learning rates; says once what it had to leave out."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._said: set[str] = set()

    def step(self, given: object, otherwise: int) -> int:
        """The given step as an integer, `otherwise` if there is none that fits into 64 bits."""
        if given is None:
            return otherwise
        number = given if isinstance(given, int) else self._number(given)
        if number is None or not -(2**63) <= number < 2**63:
            self._say_once("step", f"step {given!r} is not a 64-bit integer; {otherwise} was used")
            return otherwise
        return int(number)

    def finite(self, name: str, given: object) -> float | None:
        """The given number; None if there is none that is finite."""
        if given is None:
            return None
        number = self._number(given)
        if number is None or not math.isfinite(number):
            self._say_once(name, f"{name} {given!r} is not a finite number and was left out")
            return None
        return number

    def metrics(self, given: Mapping[str, object] | None) -> dict[str, float]:
        """The metrics that are numbers (NaN and Inf are), as floats."""
        if given is None:
            return {}
        kept: dict[str, float] = {}
        try:
            pairs = list(given.items())
        except (AttributeError, TypeError, ValueError):
            self._say_once("metrics", "metrics is not a mapping of names to numbers and was left out")
            return kept
        for name, value in pairs:
            number = self._number(value)
            if not self._name_fits(name):
                limit = self._limits.metric_name_characters
                self._say_once(
                    "metric names",
                    f"metric {str(name)[:80]!r} was left out: a name is a string of 1 to {limit} characters",
                )
            elif number is None:
                self._say_once(f"metric {name}", f"metric {name!r} is not a number and was left out")
            elif len(kept) == self._limits.metrics:
                self._say_once(
                    "metric count", f"only the first {self._limits.metrics} metrics of a checkpoint are kept"
                )
            else:
                kept[name] = number
        return kept

    def learning_rate(self, optimizer: object | None) -> float | None:
        """Of the first parameter group; None without an optimizer that shows one."""
        if optimizer is None:
            return None
        try:
            given = optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined] # any optimizer-like object
        except (AttributeError, IndexError, KeyError, TypeError):
            self._say_once("learning rate", "the optimizer shows no learning rate; it was left out")
            return None
        return self.finite("learning rate", given)

    def _name_fits(self, name: object) -> bool:
        if not isinstance(name, str) or not 1 <= len(name) <= self._limits.metric_name_characters:
            return False
        try:
            name.encode()
        except UnicodeEncodeError:
            return False
        return True

    def _number(self, value: object) -> float | None:
        # A tensor that requires grad warns when it becomes a number.
        detach = getattr(value, "detach", None)
        try:
            return float(detach() if callable(detach) else value)  # type: ignore[arg-type] # float() decides
        except Exception as error:
            # Objects of users may raise anything here, and training must go on.
            self._say_once(
                f"conversion {type(value).__name__}", f"{type(value).__name__} gave no number: {error}"
            )
            return None

    def _say_once(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            log.warning("%s", text)
