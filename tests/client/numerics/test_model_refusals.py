"""Models that cannot be recorded, models that changed, buffers that do not fit: each is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from trajmon.numerics.errors import ModelChangedError, ModelError
from trajmon.numerics.model import ModelPlan, plan_model


class Language(nn.Module):
    """Token embedding and output layer share one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(11, 6)
        self.module = nn.Linear(6, 6)
        self.lm_head = nn.Linear(6, 11, bias=False)
        self.lm_head.weight = self.wte.weight


def buffer_for(plan: ModelPlan) -> torch.Tensor:
    return torch.zeros(plan.layout.nbytes, dtype=torch.uint8)


@pytest.fixture
def process_group(tmp_path: Any) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_fully_sharded_models_are_refused() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    mesh = init_device_mesh("cpu", (1,))
    fully: Any = fully_shard(Language(), mesh=mesh)
    with pytest.raises(
        ModelError, match="was sharded with fully_shard; sharded models cannot be recorded yet"
    ):
        plan_model(fully)
    flat = FullyShardedDataParallel(Language(), device_id=torch.device("cpu"))
    with pytest.raises(ModelError, match=r"FullyShardedDataParallel \(NO_SHARD\); sharded models cannot be"):
        plan_model(flat)
    whole = FullyShardedDataParallel(nn.Linear(3, 2), device_id=torch.device("cpu"), use_orig_params=True)
    assert [layer.name for layer in plan_model(whole).layout.layers] == ["weight", "bias"]


@pytest.mark.usefixtures("process_group")
def test_a_distributed_tensor_is_refused() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    model = nn.Linear(4, 2)
    sharded = distribute_tensor(model.weight.detach(), init_device_mesh("cpu", (1,)), [Shard(0)])
    model.weight = nn.Parameter(sharded)
    with pytest.raises(ModelError, match=r"layer 'weight' is sharded \(DTensor\); sharded models cannot"):
        plan_model(model)


def one(parameter: torch.Tensor) -> nn.Module:
    model = nn.Module()
    model.odd = nn.Parameter(parameter, requires_grad=parameter.is_floating_point())
    return model


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (nn.Identity, "Identity has no floating-point parameters: there is nothing to record"),
        (
            lambda: one(torch.zeros(2, dtype=torch.int32)),
            "Module has no floating-point parameters: there is nothing to record",
        ),
        (
            lambda: nn.LazyLinear(3),
            "layer 'weight' is not initialised yet: run one forward pass before recording",
        ),
        (
            lambda: one(torch.zeros(2, dtype=torch.complex64)),
            "layer 'odd' has dtype torch.complex64; recorded are float64, float32, bfloat16, float16",
        ),
        (
            lambda: one(torch.zeros(2).to(torch.float8_e4m3fn)),
            "layer 'odd' has dtype torch.float8_e4m3fn; recorded are float64, float32, bfloat16, float16",
        ),
        (lambda: nn.Linear(2, 2, device="meta"), "layer 'weight' is on the meta device and has no values"),
        (
            lambda: one(torch.eye(2).to_sparse()),
            "layer 'odd' is sparse or quantized (torch.sparse_coo); recorded are dense tensors",
        ),
    ],
)
def test_models_that_cannot_be_recorded(make: Callable[[], nn.Module], text: str) -> None:
    with pytest.raises(ModelError) as caught:
        plan_model(make())
    assert str(caught.value) == text


def change_shape(model: Any) -> None:
    model.weight = nn.Parameter(torch.zeros(7, 3))


def change_dtype(model: Any) -> None:
    model.half()


def change_nothing_but_add(model: Any) -> None:
    model.extra = nn.Parameter(torch.zeros(4))


def remove(model: Any) -> None:
    model.bias = None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (change_shape, "layer 'weight' has shape (7, 3), recording began with (2, 3)"),
        (change_dtype, "layer 'weight' has dtype torch.float16, recording began with torch.float32"),
        (change_nothing_but_add, "parameter 'extra' of shape (4,) was not in the model when recording began"),
        (remove, "layer 'bias' of shape (2,) is no longer in the model"),
    ],
)
def test_a_changed_model_is_refused_and_nothing_copied(change: Callable[[Any], None], text: str) -> None:
    model = nn.Linear(3, 2)
    plan = plan_model(model)
    buffer = buffer_for(plan)
    change(model)
    with pytest.raises(ModelChangedError) as caught:
        plan.copy_into(model, buffer)
    assert str(caught.value) == text
    assert not buffer.any()


def test_untying_is_a_change() -> None:
    model = Language()
    plan = plan_model(model)
    model.lm_head.weight = nn.Parameter(torch.zeros(11, 6))
    with pytest.raises(ModelChangedError) as caught:
        plan.copy_into(model, buffer_for(plan))
    assert "parameter 'lm_head.weight' of shape (11, 6) was not in the model" in str(caught.value)


@pytest.mark.parametrize(
    ("buffer", "found"),
    [
        (torch.zeros(128), "torch.float32 (128,) on cpu at offset 0"),
        (torch.zeros(129, dtype=torch.uint8), "torch.uint8 (129,) on cpu at offset 0"),
        (torch.zeros(256, dtype=torch.uint8)[::2], "torch.uint8 (128,) on cpu at offset 0"),
        (torch.zeros(256, dtype=torch.uint8)[4:132], "torch.uint8 (128,) on cpu at offset 4"),
        (torch.zeros(128, dtype=torch.uint8, device="meta"), "torch.uint8 (128,) on meta at offset 0"),
    ],
)
def test_a_buffer_that_does_not_fit(buffer: torch.Tensor, found: str) -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError) as caught:
        plan_model(model).copy_into(model, buffer)
    assert str(caught.value) == (
        f"buffer is {found}; the layout needs contiguous torch.uint8 (128,) on cpu at a multiple of 8"
    )
