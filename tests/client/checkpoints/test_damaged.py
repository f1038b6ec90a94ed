"""Files that are cut off, empty or gone name themselves, and the rest goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from client.checkpoints.saving import FORMATS  # noqa: TID251 # tests/client, on the path of the tests
from trajmon.checkpoints import find_checkpoints, open_checkpoint
from trajmon.errors import CheckpointFileError


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_names_itself(
    name: str, keep: float, saved: dict[str, Path], tmp_path: Path
) -> None:
    source = saved[name]
    path = tmp_path / source.name
    if source.is_dir():
        shutil.copytree(source, path)
        suffixes = (".safetensors", ".bin", ".distcp")
        victim = max(
            (file for file in path.iterdir() if file.suffix in suffixes), key=lambda f: f.stat().st_size
        )
    else:
        shutil.copy(source, path)
        victim = path
    content = victim.read_bytes()
    victim.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CheckpointFileError) as refused:
        open_checkpoint(path)
    assert str(victim) in str(refused.value)


def test_the_texts(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(100)}, path)
    content = path.read_bytes()
    for count, text in (
        (3, "it has 3 bytes, and no safetensors file has fewer than 8"),
        (40, "it ends inside its header: it has 40 bytes, 72 are needed"),
        (200, "it has 200 bytes, its header speaks of 472: not complete, or damaged"),
    ):
        path.write_bytes(content[:count])
        with pytest.raises(CheckpointFileError) as refused:
            open_checkpoint(path)
        assert str(refused.value) == f"{path}: {text}"
    (tmp_path / "zeros.pt").write_bytes(bytes(1000))
    with pytest.raises(CheckpointFileError, match="begins with zeros: it was never written completely"):
        open_checkpoint(tmp_path / "zeros.pt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(CheckpointFileError, match=r"empty\.pt: it is empty"):
        open_checkpoint(tmp_path / "empty.pt")
    with pytest.raises(CheckpointFileError, match="there is no such file or folder"):
        open_checkpoint(tmp_path / "nowhere.pt")


def test_a_missing_shard_is_named(saved: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-70"
    shutil.copytree(saved["safetensors shards"], path)
    shard = path / "model-00002-of-00003.safetensors"
    shard.unlink()
    with pytest.raises(CheckpointFileError) as refused:
        open_checkpoint(path)
    assert str(refused.value) == (
        f"{shard}: it is missing; model.safetensors.index.json says that it is a part of the model"
    )


def test_a_tensor_that_its_shard_lacks_is_named(saved: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-70"
    shutil.copytree(saved["safetensors shards"], path)
    index = path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["ghost.weight"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(
        CheckpointFileError, match=r"00001-of-00003\.safetensors: tensor 'ghost\.weight' is missing"
    ):
        open_checkpoint(path)


def test_shards_without_an_index_are_not_complete(saved: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-70"
    shutil.copytree(saved["safetensors shards"], path)
    (path / "model.safetensors.index.json").unlink()
    series = find_checkpoints([tmp_path])
    assert series.checkpoints == ()
    assert series.refused == (
        (
            "checkpoint-70",
            f"{path}: it holds shards (model-00001-of-00003.safetensors, …) and no index of them: it is not complete",
        ),
    )


def test_a_truncated_file_among_others(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_file({"w": torch.ones(100) * step}, tmp_path / f"step{step}.safetensors")
    victim = tmp_path / "step20.safetensors"
    victim.write_bytes(victim.read_bytes()[:300])
    series = find_checkpoints([tmp_path])
    assert [found.label for found in series.checkpoints] == ["step10.safetensors", "step30.safetensors"]
    assert series.refused == (
        (
            "step20.safetensors",
            f"{victim}: it has 300 bytes, its header speaks of 472: not complete, or damaged",
        ),
    )


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "latest.safetensors"
    save_file({"w": torch.ones(100)}, path)
    reader = open_checkpoint(path)
    with path.open("r+b") as file:
        file.truncate(300)
    out = np.zeros(400, dtype=np.uint8)
    with pytest.raises(
        CheckpointFileError, match="it ends at byte 300, inside a tensor that reaches to byte 472"
    ):
        reader.read("w", 0, out)
    with pytest.raises(CheckpointFileError, match="it has changed since it was opened"):
        reader.verify_unchanged()


def test_reading_beyond_a_tensor_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    save_file({"w": torch.ones(4)}, tmp_path / "m.safetensors")
    reader = open_checkpoint(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="w has 4 elements; 3 to 5 were asked for"):
        reader.read("w", 3, np.zeros(8, dtype=np.uint8))
    with pytest.raises(ValueError, match="whole elements of 4 bytes are needed"):
        reader.read("w", 0, np.zeros(6, dtype=np.uint8))
