"""A family beside a model's own names and shapes: what is declared, what is refused, and in whose favour."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from trajmon.families import (
    MODEL_TYPES,
    FamilyError,
    family_names,
    family_of_config,
    fit,
    preset,
)
from trajmon.families.heads import Heads, heads_from
from trajmon.numerics.errors import ViewError
from trajmon.numerics.views import View

NEOX = {"model_type": "gpt_neox", "num_attention_heads": 4, "hidden_size": 16}
FUSED = "gpt_neox.layers.0.attention.query_key_value"
SHAPES: dict[str, tuple[int, ...]] = {
    "gpt_neox.embed_in.weight": (64, 16),
    f"{FUSED}.weight": (48, 16),
    f"{FUSED}.bias": (48,),
    "gpt_neox.layers.0.attention.dense.weight": (16, 16),
}


def test_only_what_matches_is_declared() -> None:
    fitted = fit(preset("gpt_neox", NEOX), SHAPES)
    assert [view.reshape for view in fitted.views] == [(4, 3, 4, -1), (4, 3, 4)]
    assert list(fitted.groups) == [
        "attention.q",
        "attention.k",
        "attention.v",
        "attention.out",
        "embedding",
    ]
    without_bias = {name: shape for name, shape in SHAPES.items() if not name.endswith("bias")}
    fitted = fit(preset("gpt_neox", NEOX), without_bias)
    assert len(fitted.views) == len(fitted.groups["attention.q"]) == 1


def test_a_users_view_takes_its_parameters_and_leaves_the_others() -> None:
    second = {name.replace("layers.0", "layers.1"): shape for name, shape in SHAPES.items()}
    own = View(r"layers\.0\.attention\.query_key_value\.weight$", None, 0, ("left", "right"))
    fitted = fit(preset("gpt_neox", NEOX), SHAPES | second, views=[own])
    assert fitted.views[0] is own
    assert [view.matches(f"{FUSED}.weight") for view in fitted.views] == [True, False, False]
    assert [view.matches(f"{FUSED}.weight".replace("layers.0", "layers.1")) for view in fitted.views] == [
        False,
        True,
        False,
    ]


def test_a_users_group_stands_in_the_place_of_the_familys() -> None:
    fitted = fit(
        preset("gpt_neox", NEOX), SHAPES, groups={"attention.q": r"\.weight\.q$", "mine": "embed_in"}
    )
    assert fitted.groups["attention.q"] == r"\.weight\.q$"
    assert fitted.groups["mine"] == "embed_in"
    assert "attention.k" in fitted.groups


def test_a_user_with_many_groups_keeps_them_all(caplog: pytest.LogCaptureFixture) -> None:
    own = {f"group {number}": "weight" for number in range(46)}
    with caplog.at_level(logging.WARNING, logger="trajmon"):
        fitted = fit(preset("gpt_neox", NEOX), SHAPES, groups=own)
    assert len(fitted.groups) == 48
    assert set(own) <= set(fitted.groups)
    assert caplog.messages == [
        "46 groups are declared: there is no room for attention.v, attention.out, embedding of model family 'gpt_neox'"
    ]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((24, 32), r"'.*weight' has shape \(24, 32\); expected 48 along axis 0"),
        ((16, 48), r"'.*weight' has shape \(16, 48\); expected 48 along axis 0"),
        ((), r"'.*weight' has shape \(\); expected an axis 0"),
    ],
)
def test_a_tensor_that_only_could_be_reshaped_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(FamilyError, match=f"^the model is not of family 'gpt_neox': {message}$"):
        fit(preset("gpt_neox", NEOX), SHAPES | {f"{FUSED}.weight": shape})


def test_a_linear_under_gpt2s_name_is_not_a_conv1d() -> None:
    # 24 columns do divide into three: they would be thirds of the input.
    shapes = {"h.0.attn.c_attn.weight": (72, 24), "h.0.attn.c_attn.bias": (72,)}
    with pytest.raises(
        FamilyError,
        match=r"has shape \(72, 24\); expected 3 times as much along axis 1 as along the other$",
    ):
        fit(preset("gpt2"), shapes)
    assert len(fit(preset("nanogpt"), shapes).views) == 2


def test_odd_halves_and_thirds_are_refused() -> None:
    with pytest.raises(
        FamilyError, match=r"axis 1 of \(3, 47, 16\) does not divide into 2 equal parts \('gate', 'up'\)$"
    ):
        fit(preset("mixtral"), {"model.layers.0.mlp.experts.gate_up_proj": (3, 47, 16)})
    with pytest.raises(FamilyError, match=r"axis 0 of \(70,\) does not divide into 3 equal parts"):
        fit(preset("gpt2"), {"h.0.attn.c_attn.bias": (70,)})


def test_a_model_with_other_names_is_refused() -> None:
    with pytest.raises(
        FamilyError,
        match=r"^the model is not of family 'llama': none of its 2 parameters is named as there$",
    ):
        fit(preset("llama"), {"fc.weight": (3, 2), "xself_attn.q_proj.weight": (3, 2)})


def test_a_users_view_that_fits_nothing_is_the_users_error() -> None:
    with pytest.raises(ViewError, match=r"^view 'nothing' matches none of the 4 parameters$"):
        fit(preset("gpt_neox", NEOX), SHAPES, views=[View("nothing", None, 0, ("a", "b"))])


def test_a_name_that_is_none() -> None:
    with pytest.raises(
        FamilyError, match=r"^there is no model family 'gpt5'; there are albert, bart, bert, "
    ):
        preset("gpt5")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {},
            "family 'gpt_neox' needs the number of attention heads; the configuration has none of "
            "num_attention_heads, n_head, n_heads, num_heads",
        ),
        (
            {"n_head": 4},
            "family 'gpt_neox' needs the size of a head; the configuration has neither head_dim nor one of "
            "hidden_size, n_embd, n_embed, d_model",
        ),
        (
            {"n_head": 4, "hidden_size": 18},
            "the configuration's hidden size 18 is no multiple of its 4 heads",
        ),
        ({"n_head": "4"}, "the configuration's n_head is '4', not a whole number from 1"),
        ({"n_head": True}, "the configuration's n_head is True, not a whole number from 1"),
        ({"n_head": 0}, "the configuration's n_head is 0, not a whole number from 1"),
        (
            {"n_head": 4, "num_key_value_heads": 3, "head_dim": 2},
            "heads=4 is no multiple of kv_heads=3",
        ),
    ],
)
def test_a_configuration_without_usable_heads(config: dict[str, object], message: str) -> None:
    with pytest.raises(FamilyError) as caught:
        preset("gpt_neox", config)
    assert str(caught.value) == message
    # Those who store queries, keys and values apart do not ask.
    assert preset("llama", config).views == ()


def test_heads_say_what_is_wrong_with_them() -> None:
    with pytest.raises(FamilyError, match=r"^head_dim=0 is not a whole number from 1$"):
        Heads(1, 1, 0)
    assert heads_from({"num_attention_heads": 6, "head_dim": 5, "num_key_value_heads": None}, "x") == Heads(
        6, 6, 5
    )


def test_codegen_needs_quarters() -> None:
    with pytest.raises(FamilyError, match=r"^3 heads of 2 do not divide into 4 quarters$"):
        preset("codegen", {"n_head": 3, "n_embd": 6})


@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        (
            {"model_type": "phi3", "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 16},
            {"self_attn.qkv_proj.weight": (32, 16), "self_attn.o_proj.weight": (16, 16)},
        ),
        (
            {"model_type": "falcon", "num_attention_heads": 4, "hidden_size": 16},
            {"self_attention.query_key_value.weight": (24, 16), "self_attention.dense.weight": (16, 16)},
        ),
        (
            {
                "model_type": "falcon",
                "num_attention_heads": 4,
                "hidden_size": 16,
                "new_decoder_architecture": True,
                "num_kv_heads": 2,
            },
            {"self_attention.query_key_value.weight": (32, 16), "self_attention.dense.weight": (16, 16)},
        ),
        (
            {"model_type": "gpt_bigcode", "n_head": 4, "n_embd": 16},
            {"h.0.attn.c_attn.weight": (24, 16), "h.0.attn.c_proj.weight": (16, 16)},
        ),
    ],
)
def test_parts_of_unequal_sizes(config: dict[str, object], shapes: dict[str, tuple[int, ...]]) -> None:
    family = family_of_config(config)
    assert family is not None
    fitted = fit(family, shapes)
    assert len(fitted.views) == 1
    assert list(fitted.groups) == ["attention.q", "attention.k", "attention.v", "attention.out"]


def test_families_of_configurations() -> None:
    assert family_of_config({}) is None
    assert family_of_config({"model_type": "unheard-of"}) is None
    assert family_of_config({"model_type": 7}) is None
    mistral = family_of_config({"model_type": "mistral"})
    assert mistral is not None
    assert mistral.name == "llama"
    assert set(MODEL_TYPES.values()) <= set(family_names())


def test_presets_need_no_torch() -> None:
    probe = (
        "import sys; from trajmon import families; families.family_of_config({'model_type': 'llama'}); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
