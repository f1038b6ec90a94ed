"""The rule for normalisation layers, against what modules do: architectures of transformers, by the hundred.

The oracle knows no names and no classes. It takes every module whose own parameters have at most one axis, fills it
with numbers and asks: is the answer the same when the input is eight times as large? Scaling away is what a
normalisation layer does and what gains, gates, biases and activations do not.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from trajmon.errors import SwitchError
from trajmon.numerics.modules import is_norm_module
from trajmon.switch.selection import Choice, find_parameters, select

# Of about 550, each fifth in alphabetical order, and these.
EVERY = 5
REFUSED = ["dac", "encodec", "glm_image_vqmodel", "hrm_text", "mobilebert", "nanochat", "olmo", "univnet"]
ODD = ["bit", "mistral_large4", "neomme", "xlstm", "zaya"]

# Their inputs fit no pattern that is tried. Read by hand: whether they normalise.
READ_BY_HAND = {
    "Gemma3nAudioCumulativeGroupNorm": True,
    "Inkling2BlockAttentionResidual": False,
    "MMGroundingDinoContrastiveEmbedding": False,
    "MistralLarge4TextSoftmaxScaling": False,
    "NeoMMEExclusiveSelfAttention": False,
    "PPDocLayoutV4S2RFusion": False,
    "xLSTMMultiHeadLayerNorm": True,
}
_DEPTH = re.compile(r"(num_)?(hidden_|encoder_|decoder_)?layers?|n_layers?|depth")


@dataclass(slots=True)
class Zoo:
    """What was found in all architectures together."""

    built: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """No norm parameters: the switch refuses them, and says so."""
    wide: list[str] = field(default_factory=list)
    """Norm parameters of more than one axis."""
    candidates: dict[str, tuple[nn.Module, set[bool]]] = field(default_factory=dict)
    """Class -> one module, and what the rule says of its modules."""


def shrink(config: transformers.PreTrainedConfig, depth: int = 0) -> None:
    """Two layers of everything: more are only more of the same classes."""
    for name, value in list(vars(config).items()):
        if isinstance(value, transformers.PreTrainedConfig) and depth < 3:
            shrink(value, depth + 1)
        elif _DEPTH.fullmatch(name) and isinstance(value, int) and value > 2:
            setattr(config, name, 2)


def architectures() -> Iterator[tuple[str, nn.Module]]:
    """Models with random nothing: on the meta device they have shapes only."""
    known = sorted(name for name in list(CONFIG_MAPPING) if CONFIG_MAPPING[name] in MODEL_MAPPING)
    for name in sorted({*known[::EVERY], *REFUSED, *ODD}):
        try:
            config = CONFIG_MAPPING[name]()
            shrink(config)
            with torch.device("meta"):
                model = transformers.AutoModel.from_config(config)  # type: ignore[no-untyped-call] # states no types
        except Exception:  # needs another package, or has no default configuration: counted below
            continue
        yield name, model


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    zoo = Zoo()
    for name, model in architectures():
        zoo.built.append(name)
        parameters = find_parameters(model)
        zoo.wide += [
            f"{name}: {one.names[0]}" for one in parameters if one.is_norm and one.parameter.dim() > 1
        ]
        if not any(one.is_norm for one in parameters):
            zoo.refused.append(name)
            with pytest.raises(SwitchError, match="parameters belongs to a normalisation layer"):
                select(parameters, Choice())
        for module in model.modules():
            remember(zoo, module)
    return zoo


def remember(zoo: Zoo, module: nn.Module) -> None:
    own = [parameter for parameter in module._parameters.values() if parameter is not None]
    if not own:
        return
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    below = any(True for child in module.children() for _ in child.parameters())
    if not below and all(parameter.dim() <= 1 for parameter in own):
        zoo.candidates.setdefault(kind, (module, set()))[1].add(is_norm_module(module))


def normalises(module: nn.Module) -> bool | None:
    """Whether the module's answer forgets the scale of its input; None if it takes nothing that is tried."""
    real = copy.deepcopy(module).to_empty(device="cpu").float().train()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in real.parameters():
            parameter.copy_(1 + torch.rand(parameter.shape))
        for buffer in real.buffers():
            buffer.zero_()
    width = max(parameter.numel() for parameter in real.parameters())
    for shape in [
        (2, 6, width),
        (6, width),
        (2, width, 6),
        (2, width, 4, 4),
        (2, width, 3, 3, 3),
        (2, 3, width, 4),
    ]:
        for count in arguments(real):
            inputs = [30 * torch.randn(shape) for _ in range(count)]
            try:
                with torch.no_grad():
                    once, scaled, other = (
                        answer(real, x, inputs[1:]) for x in (inputs[0], 8 * inputs[0], inputs[0].roll(1))
                    )
            except Exception:  # not a shape for this module: the next one
                continue
            if once.isfinite().all() and not torch.allclose(once, other, rtol=1e-2, atol=1e-2):
                return torch.allclose(once, scaled, rtol=1e-2, atol=1e-2)
    return None


def arguments(module: nn.Module) -> list[int]:
    """How many tensors the module may want."""
    # One more than it must have: a gate may be optional by its signature alone.
    parameters = inspect.signature(module.forward).parameters.values()
    needed = [one for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    return [max(1, len(needed)), len(needed) + 1]


def answer(module: nn.Module, x: Tensor, others: list[Tensor]) -> Tensor:
    given = module(x, *others)
    first = given[0] if isinstance(given, tuple) else given
    assert isinstance(first, Tensor)
    return first.float()


def test_enough_architectures_were_built(zoo: Zoo) -> None:
    assert len(zoo.built) >= 105
    assert {*REFUSED, *ODD} <= set(zoo.built)


def test_no_norm_parameter_has_more_than_one_axis(zoo: Zoo) -> None:
    assert zoo.wide == []


def test_only_these_are_refused(zoo: Zoo) -> None:
    assert zoo.refused == REFUSED


def test_the_rule_agrees_with_what_the_modules_do(zoo: Zoo) -> None:
    wrong, unknown = [], []
    for kind, (module, says) in zoo.candidates.items():
        short = kind.rpartition(".")[2]
        does = normalises(module)
        if does is None:
            unknown.append(short)
            does = READ_BY_HAND.get(short)
        if says != {does}:
            wrong.append((kind, says, does))
    assert wrong == []
    assert set(unknown) <= READ_BY_HAND.keys()
    assert len(zoo.candidates) > 70


def test_the_oracle_tells_gains_from_normalisation() -> None:
    assert normalises(nn.LayerNorm(12)) is True
    assert normalises(nn.BatchNorm2d(12)) is True
    assert normalises(nn.GroupNorm(2, 12)) is True
    assert normalises(nn.PReLU(12)) is False


class Conditional(nn.LayerNorm):
    """A subclass with a table of its own."""

    def __init__(self) -> None:
        super().__init__(4)
        self.table = nn.Parameter(torch.zeros(10, 4))


def named(name: str, **parameters: Tensor) -> nn.Module:
    module: nn.Module = type(name, (nn.Module,), {})()
    for key, value in parameters.items():
        setattr(module, key, nn.Parameter(value))
    return module


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.LayerNorm((5, 5)), True),
        (Conditional(), False),
        (named("BatchNormalization", gamma=torch.ones(3)), True),
        (named("InstanceNormalisation", gamma=torch.ones(3)), True),
        (named("NormalizedGate", gate=torch.ones(3)), False),
        (named("NormalPrior", mean=torch.ones(3)), False),
        (named("NoNorm", weight=torch.ones(3), bias=torch.ones(3)), False),
        (named("DinoNorm", weight=torch.ones(3)), True),
        (named("MyRMSNorm", table=torch.ones(3, 3)), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_names_and_shapes(module: nn.Module, expected: bool) -> None:
    assert is_norm_module(module) is expected
