"""Which family a module is of: inside wrappers, beside other models, and where there is none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Final

import pytest
import torch
import transformers
from torch import nn

from client.families.architectures import (  # noqa: TID251 # tests/client, on the path of the tests
    BASE,
    DECODERS,
    ENCODERS,
    build,
    group,
    planned,
)
from trajmon.families import MODEL_TYPES, FamilyError, detect, preset, presets_for
from trajmon.numerics.model import plan_model
from trajmon.numerics.views import View


def conv(width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width, width, 3, stride, 1, bias=False)


class Block(nn.Module):
    def __init__(self, shortcut: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(4), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = conv(4), nn.BatchNorm2d(4)
        self.downsample = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) if shortcut else None


class HandWrittenNet(nn.Module):
    """Named like torchvision's ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 7), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Block(False), Block(False))
        self.layer2 = nn.Sequential(Block(True), Block(False))
        self.layer3 = nn.Sequential(Block(True))
        self.fc = nn.Linear(4, 2)


class ResNetLookalike(nn.Module):
    """Has the name and the stages, but no such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(nn.Linear(3, 3))
        self.layer2 = nn.Sequential(nn.Linear(3, 3))


ResNetLookalike.__name__ = "ResNet"


def test_a_resnet_by_its_structure() -> None:
    _, plan = planned(HandWrittenNet())
    assert group(plan, "stem") == ["conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"]
    assert group(plan, "head") == ["fc.weight", "fc.bias"]
    assert group(plan, "shortcut") == [
        f"layer{stage}.0.downsample.{name}"
        for stage in (2, 3)
        for name in ("0.weight", "0.bias", "1.weight", "1.bias")
    ]
    assert all(name.startswith("layer2.") for name in group(plan, "stage.2"))
    assert len(group(plan, "stage.1")) == 12
    assert "stage.4" not in [each.name for each in plan.layout.groups]
    assert detect(ResNetLookalike()) is None


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_a_resnet_of_transformers(layer_type: str) -> None:
    config = {"embedding_size": 4, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": layer_type}
    _, plan = planned(build("resnet", config))
    assert all("embedder" in name for name in group(plan, "stem"))
    assert all(".stages.1." in name for name in group(plan, "stage.2"))
    assert all(".shortcut." in name for name in group(plan, "shortcut"))
    assert group(plan, "head") == ["classifier.1.weight", "classifier.1.bias"]
    named = {name for each in ("stem", "stage.1", "stage.2", "head") for name in group(plan, each)}
    assert named == {layer.name for layer in plan.layout.layers}


ELSEWHERE: Final = {"relative_attention_bias", "layer_scale1", "layer_scale2"}


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_every_layer_has_its_place(name: str) -> None:
    model_type, config = DECODERS[name] if name in DECODERS else ENCODERS[name]
    model = build(model_type, config)
    family = detect(model)
    assert family is not None
    assert family.name == MODEL_TYPES[model_type]
    _, plan = planned(model)
    assert {"attention.q", "attention.k", "attention.v", "attention.out", "mlp.in", "mlp.down"} <= {
        each.name for each in plan.layout.groups
    }
    placed = {layer for each in family.groups if each in plan_groups(plan) for layer in group(plan, each)}
    norms = set(group(plan, "norm"))
    assert not norms & (placed - set(group(plan, "embedding")))
    rest = {layer.name for layer in plan.layout.layers} - placed - norms
    assert not {layer for layer in rest if not ELSEWHERE & set(layer.split("."))}
    exclusive = (
        "attention.q",
        "attention.k",
        "attention.v",
        "attention.out",
        "mlp.in",
        "mlp.down",
        "embedding",
    )
    members = [layer for each in exclusive for layer in group(plan, each)]
    assert len(members) == len(set(members))


def plan_groups(plan: Any) -> set[str]:
    return {each.name for each in plan.layout.groups}


@pytest.fixture
def process_group(tmp_path: Any) -> Iterator[None]:
    address = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_wrappers_do_not_hide_a_family(process_group: None) -> None:
    model = build(*DECODERS["gpt2"])
    bare = planned(model)[1].layout
    assert planned(nn.parallel.DistributedDataParallel(model))[1].layout == bare
    compiled: Any = torch.compile(model, backend="eager")
    assert planned(compiled)[1].layout == bare


def test_a_model_inside_another_module() -> None:
    class Training(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build(*DECODERS["gpt_neox"])
            # Not of the family, though it is called like one of its parts.
            self.mlp = nn.ModuleDict({"dense_4h_to_h": nn.Linear(2, 2)})

    _, plan = planned(Training())
    assert group(plan, "attention.q")[0] == "net.gpt_neox.layers.0.attention.query_key_value.weight.q"
    assert all(name.startswith("net.") for name in group(plan, "mlp.down"))
    views, groups = presets_for(Training(), "gpt_neox")
    assert plan_model(Training(), views=views, groups=groups).layout == plan.layout


def test_two_models_with_other_head_sizes_side_by_side() -> None:
    model = nn.ModuleDict(
        {
            "teacher": build("gpt_neox", {**BASE, "num_attention_heads": 2}),
            "student": build("gpt_neox", {**BASE, "num_attention_heads": 8}),
            "eye": build(*ENCODERS["vit"]),
        }
    )
    family = detect(model)
    assert family is not None
    assert family.name == "gpt_neox+vit"
    _, plan = planned(model)
    shapes = {layer.name: layer.shape for layer in plan.layout.layers}
    assert shapes["teacher.gpt_neox.layers.0.attention.query_key_value.weight.k"] == (2, 1, 8, 16)
    assert shapes["student.gpt_neox.layers.0.attention.query_key_value.weight.k"] == (8, 1, 2, 16)
    assert {name.partition(".")[0] for name in group(plan, "attention.v")} == set(model)


class Adapter(nn.Module):
    """A low-rank adapter with the names that PEFT gives its own."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(16, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 16, bias=False)})


def test_adapters_belong_to_what_they_adapt() -> None:
    model = build(*DECODERS["gpt2"])
    block = model.transformer.h[0]
    block.attn.c_attn = Adapter(block.attn.c_attn)
    _, plan = planned(model)
    assert "transformer.h.0.attn.c_attn.base_layer.weight.q" in group(plan, "attention.q")
    model = build(*DECODERS["llama"])
    attention = model.model.layers[0].self_attn
    attention.q_proj = Adapter(attention.q_proj)
    _, plan = planned(model)
    assert group(plan, "attention.q")[:3] == [
        f"model.layers.0.self_attn.q_proj.{name}"
        for name in ("base_layer.weight", "lora_A.default.weight", "lora_B.default.weight")
    ]


def test_a_model_that_only_looks_like_one_is_left_alone_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    model = build(*DECODERS["gpt_neox"])
    model.gpt_neox.layers[1].attention.query_key_value = nn.Linear(24, 32)
    own = View(r"dense_4h_to_h\.weight$", None, 1, ("a", "b"))
    with caplog.at_level(logging.WARNING, logger="trajmon"):
        assert presets_for(model, views=[own], groups={"mine": "dense"}) == ((own,), {"mine": "dense"})
    message = (
        "the model is not of family 'gpt_neox': 'gpt_neox.layers.1.attention.query_key_value.weight' has "
        "shape (32, 24); expected 48 along axis 0"
    )
    assert caplog.messages == [f"no views and groups of a model family are used: {message}"]
    with pytest.raises(FamilyError) as caught:
        presets_for(model, "gpt_neox")
    assert str(caught.value) == message
    # A class of that name with a configuration of that type is not yet a model of transformers.
    imposter = type("GPTNeoXForCausalLM", (nn.Linear,), {"config": model.config})(2, 2)
    assert detect(imposter) is None


def test_a_family_by_name() -> None:
    plain = nn.Sequential(nn.Linear(2, 2))
    assert presets_for(plain, None) == ((), {})
    assert presets_for(plain) == ((), {})
    with pytest.raises(FamilyError, match=r"^there is no model family 'resnet50'; there are albert, "):
        presets_for(plain, "resnet50")
    with pytest.raises(FamilyError, match=r"^family 'bloom' needs the number of attention heads; "):
        presets_for(plain, "bloom")
    with pytest.raises(FamilyError, match=r"^the model is not of family 'gpt2': none of its 2 parameters "):
        presets_for(plain, "gpt2")
    model = build(*DECODERS["bloom"])
    neox = preset("bloom", {"n_head": 2, "hidden_size": 16})
    views, _ = presets_for(model, neox)
    assert views[0].reshape == (2, 3, 8, -1)


@pytest.mark.parametrize("model_type", ["siglip_vision_model", "siglip2_vision_model"])
def test_torchs_attention_as_a_pooling_layer_is_not_a_family(model_type: str) -> None:
    model = build(model_type, {**BASE, "image_size": 8, "patch_size": 4, "num_patches": 4})
    family = detect(model)
    if model_type == "siglip2_vision_model":
        assert family is None
    else:
        _, plan = planned(model)
        assert "head.attention.in_proj_weight.q" in "\n".join(group(plan, "attention.q"))
        assert len(group(plan, "attention.q")) == 6


# Besides those above; the sizes are those of the configurations' defaults, without memory.
OTHERS: Final = (
    "audio-spectrogram-transformer",
    "beit",
    "bigbird_pegasus",
    "big_bird",
    "biogpt",
    "bit",
    "canine",
    "clipseg",
    "convbert",
    "convnext",
    "convnextv2",
    "ctrl",
    "cvt",
    "deberta",
    "deberta-v2",
    "dpt",
    "encodec",
    "fnet",
    "focalnet",
    "gemma",
    "git",
    "glpn",
    "hubert",
    "imagegpt",
    "jamba",
    "layoutlm",
    "led",
    "lxmert",
    "mamba",
    "mamba2",
    "mobilevit",
    "mpnet",
    "perceiver",
    "pvt",
    "roformer",
    "rwkv",
    "sam",
    "segformer",
    "squeezebert",
    "swin",
    "swinv2",
    "timesformer",
    "unispeech",
    "vilt",
    "wav2vec2",
    "whisper",
    "xglm",
    "xlm",
    "xlnet",
    "yolos",
)


@pytest.mark.parametrize("model_type", OTHERS)
def test_all_architectures_can_be_looked_at(model_type: str, caplog: pytest.LogCaptureFixture) -> None:
    config: Any = transformers.AutoConfig.for_model(model_type)
    for depth in ("num_hidden_layers", "n_layer", "encoder_layers", "decoder_layers"):
        if isinstance(getattr(config, depth, None), int):
            setattr(config, depth, 2)
    with torch.device("meta"):
        auto: Any = transformers.AutoModel
        model = auto.from_config(config)
    family = detect(model)
    known = MODEL_TYPES.get(model_type)
    if known is not None:
        assert family is not None
        assert family.name == known
    with caplog.at_level(logging.WARNING, logger="trajmon"):
        views, groups = presets_for(model)
    assert caplog.messages == []
    assert bool(groups) == (family is not None)
    assert family is not None or not views
