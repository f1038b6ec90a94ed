"""Which tensors of a state dict are no parameters: buffers that are computed, masks, counters, optimizer state."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_optimizer_key", "why_no_parameter"]

# By the last part of the name.
_STATISTICS: Final = re.compile(r"running_(mean|var|std)|num_batches_tracked|num_updates")
_ROTARY: Final = re.compile(
    r"(original_)?inv_freq|freqs_c(is|os)|freqs_sin|(cos|sin)(_cached|_cache)?|rotary_pos_emb"
)
_MASKS: Final = re.compile(r"masked_bias|attn_mask|causal_mask|attention_mask|tril")
_POSITIONS: Final = re.compile(r"position_ids|token_type_ids|relative_position_index")
_OPTIMIZER_STATE: Final = re.compile(r"(max_)?exp_avg(_sq)?|momentum_buffer|square_avg|exp_inf")
# By the first.
_OPTIMIZER_KEY: Final = re.compile(
    r"optim(izer)?s?(_states?|_state_dict)?|opt(_state)?|(lr_)?schedulers?(_state_dict)?|lr_schedulers?"
    r"|scaler|grad_scaler|amp|rng(_states?)?|loops|callbacks|dataloader|hyper_parameters",
    re.IGNORECASE,
)
_ATTENTION: Final = re.compile(r"attn|attention", re.IGNORECASE)
_PARAMETER_TYPES: Final = ("float64", "float32", "bfloat16", "float16")


def is_optimizer_key(key: object) -> bool:
    """Whether a top-level entry of a checkpoint holds the state of something else than the model."""
    return isinstance(key, str) and _OPTIMIZER_KEY.fullmatch(key) is not None


def why_no_parameter(name: str, dtype: str, shape: tuple[int, ...]) -> str | None:
    """The reason to leave a tensor out; None for a parameter.

    >>> why_no_parameter("bn.running_mean", "float32", (8,))
    'a running statistic'
    >>> why_no_parameter("h.0.attn.bias", "float32", (1, 1, 64, 64))
    'an attention mask'
    >>> why_no_parameter("h.0.attn.bias", "float32", (64,)) is None
    True
    """
    path = name.split(".")
    last = path[-1]
    if _STATISTICS.fullmatch(last):
        return "a running statistic"
    if _ROTARY.fullmatch(last):
        return "a table of rotary positions"
    if _MASKS.fullmatch(last) or _is_mask(path, shape):
        return "an attention mask"
    if _POSITIONS.fullmatch(last):
        return "a table of positions"
    if _OPTIMIZER_STATE.fullmatch(last) or (len(path) > 1 and is_optimizer_key(path[0])):
        return "state of the optimizer"
    if dtype.startswith(("float8", "float4")):
        return f"{dtype} elements, which cannot be recorded"
    if dtype not in _PARAMETER_TYPES:
        return f"{dtype} elements, which are no parameters"
    return None


def _is_mask(path: list[str], shape: tuple[int, ...]) -> bool:
    """The causal mask that GPT-2 and GPT-NeoX used to save under the name of a bias."""
    square = len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    return square and path[-1] in ("bias", "mask") and any(map(_ATTENTION.search, path[:-1]))
