"""From a path to a reader: which format a file or a folder is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from trajmon._files import read_json
from trajmon.checkpoints.base import CheckpointReader
from trajmon.checkpoints.dcp_folder import METADATA, open_dcp
from trajmon.checkpoints.files import Files
from trajmon.checkpoints.safetensors_file import open_safetensors, safetensors_entries
from trajmon.checkpoints.table import RawTensor, TableReader
from trajmon.checkpoints.torch_file import open_torch_file, torch_entries
from trajmon.errors import CheckpointFileError

__all__ = ["INDEX_SUFFIX", "TORCH_SUFFIXES", "open_checkpoint", "weights_in"]

INDEX_SUFFIX: Final = ".index.json"
TORCH_SUFFIXES: Final = (".pt", ".pth", ".bin", ".ckpt")
# What Transformers, Diffusers and PEFT call the model in their folders, the preferred first.
_WEIGHTS: Final = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "mp_rank_00_model_states.pt",
)
_FSDP_FOLDER: Final = "pytorch_model_fsdp_0"
_TRAINER_STATE: Final = "trainer_state.json"


def open_checkpoint(path: Path, key: str | None = None) -> CheckpointReader:
    """Open a checkpoint of any supported format; nothing in it is run, and only its headers are read.

    A safetensors file, a file of ``torch.save`` (also a Lightning checkpoint), a Hugging Face folder, whole or in
    shards with their index, or a folder of ``torch.distributed.checkpoint``. `key` names the table of tensors in a
    file that holds several, with ``/`` between levels. Raises CheckpointFileError that names the file at fault.
    """
    files = Files()
    try:
        return _open(Path(path), files, key)
    except BaseException:
        files.close()
        raise


def weights_in(folder: Path) -> Path | None:
    """The file, index or folder that holds the model in a folder that is one checkpoint; None if it is none."""
    if (folder / METADATA).is_file():
        return folder
    for name in _WEIGHTS:
        # A link of the Hugging Face cache whose target is gone is still the one that is meant.
        if (folder / name).is_file() or (folder / name).is_symlink():
            return folder / name
    if (folder / _FSDP_FOLDER / METADATA).is_file():
        return folder / _FSDP_FOLDER
    return None


def _open(path: Path, files: Files, key: str | None) -> TableReader:
    if not path.exists():
        target = f": it is a link to {path.readlink()}, which is missing" if path.is_symlink() else ""
        raise CheckpointFileError(f"{path}: there is no such file or folder{target}")
    if path.is_dir():
        return _open_folder(path, files, key)
    if path.name.endswith(INDEX_SUFFIX):
        return _open_index(path, files, key)
    if path.name == METADATA:
        return open_dcp(path.parent, files, key)
    if path.suffix == ".safetensors" or _looks_like_safetensors(path, files):
        return open_safetensors(path, files)
    return open_torch_file(path, files, key)


def _open_folder(folder: Path, files: Files, key: str | None) -> TableReader:
    weights = weights_in(folder)
    if weights is None:
        raise CheckpointFileError(f"{folder}: {_why_none(folder)}")
    reader = open_dcp(weights, files, key) if weights.is_dir() else _open(weights, files, key)
    if weights.name.startswith("mp_rank_") and all(0 in info.shape for info in reader.tensors.values()):
        raise CheckpointFileError(
            f"{folder}: DeepSpeed has split its parameters (ZeRO stage 3); put them together with the zero_to_fp32.py "
            "that it left beside them"
        )
    state = read_json(folder / _TRAINER_STATE) or {}
    step = state.get("global_step")
    if reader.step is None and type(step) is int and step >= 0:
        reader.step = step
    reader.path = folder
    return reader


def _why_none(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    shards = [name for name in names if "-of-" in name and name.endswith((".safetensors", ".bin"))]
    if shards:
        return f"it holds shards ({shards[0]}, …) and no index of them: it is not complete"
    shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    return f"it is no checkpoint of a known format; it holds {shown or 'nothing'}"


def _looks_like_safetensors(path: Path, files: Files) -> bool:
    if path.suffix in TORCH_SUFFIXES or files.size_bytes(path) < 9:
        return False
    return files.read(path, 8, 1) == b"{"


def _open_index(index: Path, files: Files, key: str | None) -> TableReader:
    """Shards and the index that says which tensor is in which."""
    shard_of = _weight_map(index)
    skipped: dict[str, str] = {}
    tensors: dict[str, RawTensor] = {}
    for shard in sorted(set(shard_of.values())):
        path = index.parent / shard
        if not path.exists():
            raise CheckpointFileError(
                f"{path}: it is missing; {index.name} says that it is a part of the model"
            )
        if shard.endswith(".safetensors"):
            held, _ = safetensors_entries(path, files)
        else:
            _, held, left_out = torch_entries(path, files, key)
            skipped |= left_out
        for name in (name for name, its_shard in shard_of.items() if its_shard == shard):
            if name in held:
                tensors[name] = held[name]
            elif name not in skipped:
                raise CheckpointFileError(
                    f"{path}: tensor {name!r} is missing; {index.name} says that it is there"
                )
    return TableReader(index, files, tensors, skipped, None)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content: Any = json.loads(index.read_bytes())
        shard_of = content["weight_map"]
        pairs = list(shard_of.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointFileError(f"{index}: its weight_map cannot be read") from error
    for _, shard in pairs:
        # A shard lies beside its index; anything else is no business of this checkpoint.
        if not isinstance(shard, str) or not shard or Path(shard).name != shard:
            raise CheckpointFileError(f"{index}: {str(shard)[:80]!r} is not the name of a file beside it")
    return dict(pairs)
