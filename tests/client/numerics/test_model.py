"""Plans of real modules, and their parameters in a snapshot."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations

from trajmon.numerics import reference
from trajmon.numerics.errors import ViewError
from trajmon.numerics.layout import Layout
from trajmon.numerics.model import ModelPlan, plan_model
from trajmon.numerics.views import View


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.bn(self.conv(x)))


def resnet() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), Block(4), Block(4), nn.Flatten(), nn.LazyLinear(2))


class Language(nn.Module):
    """Token embedding and output layer share one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(11, 6)
        self.module = nn.Linear(6, 6)
        self.lm_head = nn.Linear(6, 11, bias=False)
        self.lm_head.weight = self.wte.weight


def names(plan: ModelPlan) -> list[str]:
    return [layer.name for layer in plan.layout.layers]


def buffer_for(plan: ModelPlan) -> torch.Tensor:
    return torch.zeros(plan.layout.nbytes, dtype=torch.uint8)


def copied(plan: ModelPlan, model: nn.Module) -> list[list[float]]:
    """What a reader of the snapshot sees, layer by layer."""
    buffer = buffer_for(plan)
    plan.copy_into(model, buffer)
    return contents(plan.layout, buffer)


def contents(layout: Layout, buffer: torch.Tensor) -> list[list[float]]:
    snapshot = buffer.numpy()
    return [
        reference.elements(layer, offset, snapshot)
        for layer, offset in zip(layout.layers, layout.offsets_bytes, strict=True)
    ]


def expected(*tensors: torch.Tensor | None) -> list[list[float]]:
    return [tensor.detach().double().flatten().tolist() for tensor in tensors if tensor is not None]


@pytest.fixture
def process_group(tmp_path: Any) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_order_and_values_are_those_of_named_parameters() -> None:
    model = resnet()
    model(torch.zeros(1, 3, 8, 8))
    plan = plan_model(model)
    assert names(plan) == [name for name, _ in model.named_parameters()]
    assert copied(plan, model) == expected(*model.parameters())
    assert "running_mean" not in " ".join(names(plan))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype(dtype: torch.dtype) -> None:
    model = nn.Linear(5, 3).to(dtype)
    plan = plan_model(model)
    assert {layer.dtype for layer in plan.layout.layers} == {str(dtype).removeprefix("torch.")}
    assert copied(plan, model) == expected(model.weight, model.bias)


def test_a_tied_parameter_once_with_its_other_name() -> None:
    model = Language()
    plan = plan_model(model)
    assert names(plan) == ["wte.weight", "module.weight", "module.bias"]
    assert plan.aliases == {"wte.weight": ("lm_head.weight",)}
    assert "embedding" in {group.name for group in plan.layout.groups}


def test_frozen_empty_scalar_and_whole_number_parameters() -> None:
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    model.empty = nn.Parameter(torch.zeros(0, 3))
    model.scale = nn.Parameter(torch.tensor(2.5))
    model.counter = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
    plan = plan_model(model)
    assert names(plan) == ["weight", "bias", "empty", "scale"]
    assert plan.skipped == ("counter",)
    assert copied(plan, model) == expected(model.weight, model.bias, model.empty, model.scale)


def test_channels_last_is_read_row_major() -> None:
    model = nn.Conv2d(3, 4, 3)
    before = expected(model.weight, model.bias)
    plan = plan_model(model)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    assert not model.weight.is_contiguous()
    assert copied(plan, model) == before


def test_weight_norm_records_what_is_trained() -> None:
    model = parametrizations.weight_norm(nn.Linear(3, 2))
    plan = plan_model(model)
    assert names(plan) == [name for name, _ in model.named_parameters()]
    assert names(plan)[1:] == ["parametrizations.weight.original0", "parametrizations.weight.original1"]
    assert copied(plan, model) == expected(*model.parameters())


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "DistributedDataParallel": DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "compile": lambda model: torch.compile(model, backend="eager"),
    "compile of DistributedDataParallel": lambda model: torch.compile(
        DistributedDataParallel(model), backend="eager"
    ),
    "checkpoint_wrapper": checkpoint_wrapper,
}


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_prefixes_of_wrappers_are_removed_and_the_users_names_kept(wrapper: str) -> None:
    model = Language()
    plain = plan_model(model)
    wrapped = WRAPPERS[wrapper](model)
    plan = plan_model(wrapped)
    assert wrapped is not model
    assert plan.layout == plain.layout
    assert plan.aliases == plain.aliases
    # Planned in one state, copied in the other.
    assert copied(plain, wrapped) == copied(plan, model) == expected(*model.parameters())


def test_a_wrapper_inside_the_model() -> None:
    model = resnet()
    model(torch.zeros(1, 3, 8, 8))
    plain = plan_model(model)
    model[1] = checkpoint_wrapper(model[1])
    compiled: Any = torch.compile(model[2], backend="eager")
    model[2] = compiled
    assert plan_model(model).layout == plain.layout
    assert copied(plain, model) == expected(*model.parameters())


def test_replaced_parameters_are_found_by_name() -> None:
    model = nn.Linear(3, 2)
    plan = plan_model(model)
    buffer = buffer_for(plan)
    plan.copy_into(model, buffer)
    fresh = {"weight": torch.full((2, 3), 7.0), "bias": torch.full((2,), 8.0)}
    model.load_state_dict(fresh, assign=True)
    plan.copy_into(model, buffer)
    assert contents(plan.layout, buffer) == [[7.0] * 6, [8.0] * 2]


def test_training_does_not_notice() -> None:
    def train(record: bool) -> tuple[list[Any], torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        plan = plan_model(model)
        buffer = buffer_for(plan)
        for _ in range(5):
            loss = model(torch.randn(16, 4)).square().mean()
            loss.backward()
            if record:
                versions = [parameter._version for parameter in model.parameters()]
                plan.copy_into(model, buffer)
                assert versions == [parameter._version for parameter in model.parameters()]
            optimizer.step()
            optimizer.zero_grad()
        assert all(parameter.requires_grad for parameter in model.parameters())
        return expected(*model.parameters()), torch.get_rng_state()

    watched, unwatched = train(record=True), train(record=False)
    assert watched[0] == unwatched[0]
    assert torch.equal(watched[1], unwatched[1])


def test_a_buffer_is_let_go_with_its_memory_map() -> None:
    model = nn.Linear(3, 2)
    plan = plan_model(model)
    array = np.zeros(plan.layout.nbytes, np.uint8)
    alive = weakref.ref(array)
    buffer = torch.from_numpy(array)
    plan.copy_into(model, buffer)
    plan.copy_into(model, buffer)
    del buffer, array
    gc.collect()
    assert alive() is None


def test_a_slice_of_a_larger_buffer() -> None:
    model = nn.Linear(3, 2)
    plan = plan_model(model)
    whole = torch.zeros(3 * plan.layout.nbytes, dtype=torch.uint8)
    part = whole[plan.layout.nbytes : 2 * plan.layout.nbytes]
    plan.copy_into(model, part)
    assert contents(plan.layout, part) == expected(model.weight, model.bias)
    assert not whole[: plan.layout.nbytes].any()
    assert not whole[2 * plan.layout.nbytes :].any()


def test_views_of_thirds_and_interleaved() -> None:
    model = nn.ModuleDict({"c_attn": nn.Linear(4, 12), "query_key_value": nn.Linear(4, 12)})
    qkv = ("q", "k", "v")
    views = [
        View(r"c_attn", None, 0, qkv),
        View(r"query_key_value\.weight", (2, 3, 2, 4), 1, qkv),
        View(r"query_key_value\.bias", (2, 3, 2), 1, qkv),
    ]
    plan = plan_model(model, views=views)
    assert names(plan)[:3] == ["c_attn.weight.q", "c_attn.weight.k", "c_attn.weight.v"]
    thirds = [part for tensor in model["c_attn"].parameters() for part in tensor.chunk(3)]
    weight, bias = (tensor.detach() for tensor in model["query_key_value"].parameters())
    heads = [weight.reshape(2, 3, 2, 4)[:, index] for index in range(3)]
    heads += [bias.reshape(2, 3, 2)[:, index] for index in range(3)]
    assert copied(plan, model) == expected(*thirds, *heads)
    assert plan.layout.num_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_view_that_fits_nothing() -> None:
    with pytest.raises(ViewError) as caught:
        plan_model(nn.Linear(2, 2), views=[View("c_attn", None, 0, ("q", "k"))])
    assert str(caught.value) == "view 'c_attn' matches none of the 2 parameters"


def one(parameter: torch.Tensor) -> nn.Module:
    model = nn.Module()
    model.odd = nn.Parameter(parameter, requires_grad=parameter.is_floating_point())
    return model


def test_16_bit_decoding_of_the_oracle_agrees_with_torch() -> None:
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.bfloat16, torch.float16):
        values = bits.view(dtype)
        plan = plan_model(one(values.clone()))
        got = np.array(copied(plan, one(values.clone()))[0])
        np.testing.assert_array_equal(got, values.double().numpy())
