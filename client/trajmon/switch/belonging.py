"""Whether an optimizer trains just the parameters of the model, and all that are to be trained."""

from __future__ import annotations

from collections.abc import Sequence

from trajmon.errors import SwitchError
from trajmon.switch.optimizers import Optimizers
from trajmon.switch.selection import Found, Selection
from trajmon.switch.wrapping import Freeze

__all__ = ["check_belonging"]


def check_belonging(
    optimizers: Optimizers, parameters: Sequence[Found], selection: Selection, freeze: Freeze
) -> None:
    """Refuse a model and an optimizer that are not of one training, or only in part."""
    held = optimizers.parameters()
    of_model = {id(found.parameter) for found in parameters}
    if not held.keys() & of_model:
        raise SwitchError(
            f"model and optimizer do not belong together: none of the optimizer's {len(held)} parameters is one of "
            f"the model's {len(of_model)}"
        )
    foreign = [held[key] for key in held.keys() - of_model if held[key].requires_grad]
    if foreign:
        raise SwitchError(
            f"the optimizer also holds {len(foreign)} parameters that are not the model's and would go on being "
            "trained; give the model that holds them all"
        )
    lost = [found.names[0] for found in selection.staying if id(found.parameter) not in held]
    if lost:
        raise SwitchError(
            f"the optimizer does not hold {len(lost)} of the {len(selection.staying)} parameters that are to be "
            f"trained; the first is {lost[0]!r}; give all optimizers as a list, or leave these out with exclude="
        )
    others = [
        found.names[0]
        for found in selection.frozen
        if found.parameter.requires_grad and id(found.parameter) not in held
    ]
    if others and freeze == "soft":
        raise SwitchError(
            f"{len(others)} parameters to be frozen are not in the optimizer, and another one may move them; the "
            f"first is {others[0]!r}; give all optimizers as a list"
        )
