"""One small model, as every format saves it."""

from __future__ import annotations

import json
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint

__all__ = ["FORMATS", "STEP", "make_model", "parameters", "raw", "save_alone"]

STEP = 70


def make_model() -> nn.Module:
    """All recorded dtypes, a transposed weight, a scalar, an empty tensor, a tied one, and buffers."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(5, 7),
        nn.BatchNorm1d(7),
        nn.Linear(7, 3, dtype=torch.bfloat16),
        nn.Linear(3, 2, dtype=torch.float16),
        nn.Conv2d(2, 3, 2, dtype=torch.float64),
        nn.Linear(7, 5, bias=False),
    )
    # Elements in another order than rows, as a weight that was converted from another framework.
    model[0].weight = nn.Parameter(torch.randn(5, 7).t())
    model[5].weight = model[0].weight
    model.register_parameter("scale", nn.Parameter(torch.tensor(1.25)))
    model.register_parameter("empty", nn.Parameter(torch.zeros(0, 4)))
    model.register_buffer("position_ids", torch.arange(4.0))
    return model


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """The live parameters, a tied one once."""
    return {name: value.detach() for name, value in model.named_parameters()}


def raw(tensor: Tensor) -> bytes:
    """The elements, row-major."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _contiguous(model: nn.Module) -> dict[str, Tensor]:
    """A state dict as safetensors wants it: no tensor twice, no strides."""
    kept = {*parameters(model), *(name for name, _ in model.named_buffers())}
    return {name: value.contiguous() for name, value in model.state_dict().items() if name in kept}


def _safetensors(model: nn.Module, folder: Path) -> Path:
    path = folder / "step70.safetensors"
    save_file(_contiguous(model), path, metadata={"step": str(STEP)})
    return path


def _hugging_face(model: nn.Module, folder: Path) -> Path:
    path = folder / "checkpoint-70"
    path.mkdir()
    save_file(_contiguous(model), path / "model.safetensors", metadata={"format": "pt"})
    torch.save({"state": {}}, path / "optimizer.pt")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": STEP, "epoch": 1.5}))
    return path


def _shards(
    model: nn.Module, folder: Path, suffix: str, save: Callable[[dict[str, Tensor], Path], None]
) -> Path:
    path = folder / "checkpoint-70"
    path.mkdir()
    state = _contiguous(model)
    names = list(state)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map: dict[str, str] = {}
    for index in range(3):
        shard = f"{stem}-{index + 1:05d}-of-00003.{suffix}"
        save({name: state[name] for name in names[index::3]}, path / shard)
        weight_map |= dict.fromkeys(names[index::3], shard)
    (path / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (path / "trainer_state.json").write_text(json.dumps({"global_step": STEP}))
    return path


def _torch(model: nn.Module, folder: Path) -> Path:
    torch.save(model.state_dict(), folder / "step70.pt")
    return folder / "step70.pt"


def _wrapped(model: nn.Module, folder: Path) -> Path:
    optimizer = torch.optim.AdamW(model.parameters())
    value = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": STEP,
        "rng": torch.get_rng_state(),
    }
    torch.save(value, folder / "latest.pth")
    return folder / "latest.pth"


def _legacy(model: nn.Module, folder: Path) -> Path:
    value = {"model_state_dict": model.state_dict(), "iteration": STEP}
    torch.save(value, folder / "old.bin", _use_new_zipfile_serialization=False)
    return folder / "old.bin"


def _lightning(model: nn.Module, folder: Path) -> Path:
    value = {
        "epoch": 1,
        "global_step": STEP,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": model.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [torch.optim.SGD(model.parameters(), lr=0.1).state_dict()],
        # Which torch.load(weights_only=True) refuses.
        "hyper_parameters": {"args": Namespace(lr=0.1, device=torch.device("cpu"), path=Path("/data"))},
    }
    torch.save(value, folder / "epoch=1-step=70.ckpt")
    return folder / "epoch=1-step=70.ckpt"


def save_alone(state: dict[str, Any], folder: Path) -> None:
    """A checkpoint of torch.distributed from one process, which torch warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        save_checkpoint(state, checkpoint_id=folder, no_dist=True)


def _dcp(model: nn.Module, folder: Path) -> Path:
    path = folder / "step-70"
    state = {"model": model.state_dict(), "optimizer": {"exp_avg": torch.ones(3)}, "step": STEP}
    save_alone(state, path)
    return path


def _flat_dcp(model: nn.Module, folder: Path) -> Path:
    save_alone(dict(model.state_dict()), folder / "step70")
    return folder / "step70"


FORMATS: dict[str, Callable[[nn.Module, Path], Path]] = {
    "safetensors": _safetensors,
    "hugging face": _hugging_face,
    "safetensors shards": lambda model, folder: _shards(model, folder, "safetensors", save_file),
    "bin shards": lambda model, folder: _shards(model, folder, "bin", torch.save),
    "torch": _torch,
    "torch, wrapped": _wrapped,
    "torch, legacy": _legacy,
    "lightning": _lightning,
    "dcp": _dcp,
    "dcp, flat": _flat_dcp,
}
