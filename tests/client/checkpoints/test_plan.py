"""From checkpoints to a layout: names, groups, views, dtypes, and what does not belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from client.checkpoints.saving import raw  # noqa: TID251 # tests/client, on the path of the tests
from trajmon.checkpoints import CheckpointReader, open_checkpoint, plan_checkpoints, strided
from trajmon.checkpoints.files import Files
from trajmon.checkpoints.strided import Piece, Stored, covers, read_elements
from trajmon.errors import CheckpointFileError
from trajmon.numerics.model import plan_model
from trajmon.numerics.views import View


def opened(path: Path, state: dict[str, Tensor]) -> CheckpointReader:
    torch.save(state, path)
    return open_checkpoint(path)


def filled(
    reader: CheckpointReader, first: CheckpointReader, views: tuple[View, ...] = ()
) -> dict[str, bytes]:
    plan = plan_checkpoints(first, views=views)
    buffer = np.zeros(plan.layout.nbytes, dtype=np.uint8)
    plan.fill(reader, buffer)
    return {
        layer.name: buffer[start : start + layer.nbytes].tobytes()
        for layer, start in zip(plan.layout.layers, plan.layout.offsets_bytes, strict=True)
    }


def test_a_snapshot_holds_the_parameters(tmp_path: Path) -> None:
    state = {"b.weight": torch.randn(3, 5).t(), "a.weight": torch.randn(4).double(), "n": torch.tensor(3)}
    reader = opened(tmp_path / "m.pt", state)
    assert filled(reader, reader) == {name: raw(state[name]) for name in ("a.weight", "b.weight")}


@pytest.mark.parametrize("given_dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_dtype_that_widens_is_converted_exactly(given_dtype: torch.dtype, tmp_path: Path) -> None:
    first = opened(tmp_path / "first.pt", {"w": torch.zeros(1000, dtype=torch.float64)})
    words = torch.randint(-(2**15), 2**15, (1000,), generator=torch.Generator().manual_seed(1)).to(
        torch.int16
    )
    value = words.view(given_dtype) if given_dtype.itemsize == 2 else torch.randn(1000)
    value = torch.nan_to_num(value)
    reader = opened(tmp_path / "later.pt", {"w": value})
    assert filled(reader, first) == {"w": raw(value.double())}


def test_what_does_not_belong_is_refused_by_name_and_changes_nothing(tmp_path: Path) -> None:
    first = opened(tmp_path / "first.pt", {"w": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(2)})
    plan = plan_checkpoints(first)
    wrong = {
        "lacks": ({"w": torch.zeros(2, 3).bfloat16()}, "b is missing, the series began with it"),
        "other": (
            {"w": torch.zeros(3, 2).bfloat16(), "b": torch.zeros(2)},
            "w has shape (3, 2), the series began with (2, 3)",
        ),
        "wider": (
            {"w": torch.zeros(2, 3), "b": torch.zeros(2)},
            "w is float32, the series began with bfloat16: converting it would lose digits",
        ),
        "half": (
            {"w": torch.zeros(2, 3).half(), "b": torch.zeros(2)},
            "w is float16, the series began with bfloat16: converting it would lose digits",
        ),
        "more": (
            {
                "w": torch.zeros(2, 3).bfloat16(),
                "b": torch.zeros(2),
                "x": torch.zeros(1),
                "y": torch.zeros(1),
            },
            "x and 1 more was not in the series when it began",
        ),
    }
    for name, (state, text) in wrong.items():
        path = tmp_path / f"{name}.pt"
        reader = opened(path, state)
        buffer = np.full(plan.layout.nbytes, 7, dtype=np.uint8)
        with pytest.raises(CheckpointFileError) as refused:
            plan.fill(reader, buffer)
        assert str(refused.value) == f"{path}: {text}"
        assert (buffer == 7).all()


def test_views_apply_to_names(tmp_path: Path) -> None:
    fused = torch.randn(4, 12)
    neox = torch.randn(2 * 3 * 4, 5)
    reader = opened(tmp_path / "m.pt", {"h.0.attn.c_attn.weight": fused, "query_key_value.weight": neox})
    views = (
        View(r"c_attn\.weight$", None, axis=1, names=("q", "k", "v")),
        View(r"query_key_value\.weight$", (2, 3, 4, 5), axis=1, names=("q", "k", "v")),
    )
    parts = filled(reader, reader, views)
    for index, name in enumerate("qkv"):
        assert parts[f"h.0.attn.c_attn.weight.{name}"] == raw(fused.chunk(3, 1)[index])
        assert parts[f"query_key_value.weight.{name}"] == raw(neox.reshape(2, 3, 4, 5)[:, index])


@pytest.mark.parametrize(
    "make",
    [
        lambda: GPT2LMHeadModel(
            GPT2Config(n_layer=11, n_embd=16, n_head=2, vocab_size=40, bos_token_id=0, eos_token_id=1)
        ),
        lambda: LlamaForCausalLM(
            LlamaConfig(
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=11,
                num_attention_heads=2,
                num_key_value_heads=2,
                vocab_size=40,
            )
        ),
        lambda: nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)),
        ),
    ],
)
def test_groups_by_name_are_those_that_the_modules_give(make: type[nn.Module], tmp_path: Path) -> None:
    model = make()
    named = dict(model.named_parameters())
    state = {
        name: value.contiguous() for name, value in model.state_dict().items() if name in named or "." in name
    }
    path = tmp_path / "model.safetensors"
    save_file(
        {name: value for name, value in state.items() if name != "lm_head.weight" or name in named}, path
    )
    plan = plan_checkpoints(open_checkpoint(path))
    by_name = {
        group.name: {plan.layout.layers[index].name for index in group.layers} for group in plan.layout.groups
    }
    live = plan_model(model).layout
    by_module = {group.name: {live.layers[index].name for index in group.layers} for group in live.groups}
    by_module.pop("linear", None)
    assert by_name == by_module


def test_declared_groups(tmp_path: Path) -> None:
    reader = opened(tmp_path / "m.pt", {"a.w": torch.zeros(2), "b.w": torch.zeros(2)})
    groups = {
        group.name: group.layers for group in plan_checkpoints(reader, groups={"mine": r"^b\."}).layout.groups
    }
    assert groups["mine"] == (1,)


@given(data=st.data())
def test_any_strides_and_any_cut_give_the_elements(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), max_size=4)))
    whole = np.arange(int(np.prod(shape)), dtype="<u4").reshape(shape)
    cuts = [sorted({0, extent, *data.draw(st.lists(st.integers(0, extent), max_size=2))}) for extent in shape]
    path = tmp_path_factory.mktemp("pieces") / "data"
    pieces, content = [], b""
    for index in np.ndindex(*(len(cut) - 1 for cut in cuts)):
        low = tuple(cut[i] for cut, i in zip(cuts, index, strict=True))
        high = tuple(cut[i + 1] for cut, i in zip(cuts, index, strict=True))
        part = whole[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        axes = data.draw(st.permutations(range(len(shape))))
        gap = data.draw(st.integers(1, 3))
        stored = np.zeros((*(part.shape[axis] for axis in axes), gap), dtype="<u4")
        stored[..., 0] = part.transpose(axes)
        strides = [0] * len(shape)
        for position, axis in enumerate(axes):
            strides[axis] = stored.strides[position] // 4
        pieces.append(Piece(low, part.shape, Stored(path, len(content), tuple(strides))))
        content += stored.tobytes()
    path.write_bytes(content)
    assert covers(shape, pieces)
    assert not covers(shape, pieces[1:])
    start = data.draw(st.integers(0, whole.size))
    count = data.draw(st.integers(0, whole.size - start))
    out = np.full(count * 4, 0xFF, dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        # At tiny sizes, what large tensors need: reading run by run, and in halves.
        patch.setattr(strided, "_SMALL_SPAN_BYTES", data.draw(st.sampled_from([0, 1 << 16])))
        patch.setattr(strided, "_SCRATCH_BYTES", data.draw(st.sampled_from([8, 64, 1 << 20])))
        read_elements(Files(), shape, pieces, 4, start, out)
    assert (out.view("<u4") == whole.ravel()[start : start + count]).all()
