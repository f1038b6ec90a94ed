"""Every format gives the live parameters back, bit by bit, and says what it leaves out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from client.checkpoints.saving import (  # noqa: TID251 # tests/client, on the path of the tests
    FORMATS,
    STEP,
    parameters,
    raw,
)
from trajmon.checkpoints import CheckpointReader, open_checkpoint
from trajmon.errors import CheckpointFileError
from trajmon.numerics.layout import ITEM_BYTES

PROGRAM = Path(__file__).parent / "programs" / "save_sharded.py"


def whole(reader: CheckpointReader, name: str) -> bytes:
    info = reader.tensors[name]
    out = np.full(info.num_elements * ITEM_BYTES[info.dtype], 0xAA, dtype=np.uint8)
    reader.read(name, 0, out)
    return out.tobytes()


@pytest.mark.parametrize("name", FORMATS)
def test_a_checkpoint_is_the_live_parameters_bit_by_bit(
    name: str, saved: dict[str, Path], model: nn.Module
) -> None:
    reader = open_checkpoint(saved[name])
    live = parameters(model)
    # DCP and shards do not tell that a tensor is tied.
    extra = {"5.weight"} & reader.tensors.keys()
    assert reader.tensors.keys() - extra == live.keys()
    for key, value in live.items():
        assert reader.tensors[key].shape == tuple(value.shape)
        assert f"torch.{reader.tensors[key].dtype}" == str(value.dtype)
        assert whole(reader, key) == raw(value)
    for key in extra:
        assert whole(reader, key) == raw(live["0.weight"])
    reader.verify_unchanged()
    reader.close()


@pytest.mark.parametrize("name", FORMATS)
def test_any_range_of_elements_can_be_read(name: str, saved: dict[str, Path], model: nn.Module) -> None:
    reader = open_checkpoint(saved[name])
    for key, value in parameters(model).items():
        item, expected = value.element_size(), raw(value)
        for start in range(0, value.numel(), 3):
            for stop in range(start + 1, value.numel() + 1, 4):
                out = np.zeros((stop - start) * item, dtype=np.uint8)
                reader.read(key, start, out)
                assert out.tobytes() == expected[start * item : stop * item]
    reader.close()


@pytest.mark.parametrize("name", FORMATS)
def test_buffers_are_left_out_with_a_reason(name: str, saved: dict[str, Path]) -> None:
    skipped = open_checkpoint(saved[name]).skipped
    assert skipped["1.running_mean"] == "a running statistic"
    assert skipped["1.num_batches_tracked"] == "a running statistic"
    assert skipped["position_ids"] == "a table of positions"


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("torch", "dcp, flat")])
def test_the_step_that_the_file_states(name: str, saved: dict[str, Path]) -> None:
    assert open_checkpoint(saved[name]).step == STEP


@pytest.mark.parametrize("name", ["torch", "dcp, flat"])
def test_no_step_is_made_up(name: str, saved: dict[str, Path]) -> None:
    assert open_checkpoint(saved[name]).step is None


@pytest.mark.parametrize("name", ["torch", "torch, wrapped", "torch, legacy", "lightning"])
def test_a_tied_tensor_is_kept_once(name: str, saved: dict[str, Path]) -> None:
    reader = open_checkpoint(saved[name])
    assert "5.weight" not in reader.tensors
    assert reader.skipped["5.weight"] == "the same bytes as 0.weight"


def test_readers_never_import_torch(saved: dict[str, Path]) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom trajmon.checkpoints import open_checkpoint\n"
        "print([len(open_checkpoint(Path(path)).tensors) for path in sys.argv[1:]])\n"
        "print([name for name in ('torch', 'safetensors', 'grpc') if name in sys.modules])"
    )
    paths = [str(path) for path in saved.values()]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60, check=True
    )
    counts, modules = done.stdout.splitlines()
    assert counts.count(",") == len(paths) - 1
    assert modules == "[]"


def test_only_the_bytes_that_are_asked_for_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1 << 20), "b": torch.ones(1 << 20)}, tmp_path / "large.pt")
    code = (
        "import sys\nimport numpy as np\nfrom pathlib import Path\nfrom trajmon.checkpoints import open_checkpoint\n"
        "def count():\n return int(Path('/proc/self/io').read_text().split()[1])\n"
        "reader = open_checkpoint(Path(sys.argv[1]))\nout = np.zeros(4096, dtype=np.uint8)\nbefore = count()\n"
        "for start in range(0, 1 << 20, 1 << 10):\n reader.read('b', start, out)\n"
        "print(count() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "large.pt")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert 4 << 20 <= int(done.stdout) <= 1.01 * (4 << 20)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that two ranks wrote together, each its shards."""
    folder = tmp_path_factory.mktemp("sharded")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(PROGRAM), str(folder), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    for process in ranks:
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 0, output.decode()
    return folder


def test_tensors_in_chunks_along_any_axis(sharded: Path) -> None:
    reader = open_checkpoint(sharded / "step-5")
    whole_tensors = torch.load(sharded / "whole.pt", weights_only=True)
    assert reader.tensors.keys() == whole_tensors.keys() == {"rows", "columns", "middle", "small", "copied"}
    for name, value in whole_tensors.items():
        expected, item = raw(value), value.element_size()
        assert whole(reader, name) == expected
        for start in range(0, value.numel(), 7):
            for count in (1, 5, 11, 40):
                stop = min(start + count, value.numel())
                out = np.zeros((stop - start) * item, dtype=np.uint8)
                reader.read(name, start, out)
                assert out.tobytes() == expected[start * item : stop * item]
    assert reader.step == 5


def test_a_missing_shard_of_a_rank_is_named(sharded: Path, tmp_path: Path) -> None:
    copy = tmp_path / "step-5"
    copy.mkdir()
    for file in (sharded / "step-5").iterdir():
        if file.name != "__1_0.distcp":
            (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointFileError, match=r"__1_0\.distcp: No such file"):
        open_checkpoint(copy)


def test_elements_that_cannot_be_recorded_are_named(tmp_path: Path) -> None:
    torch.save(
        {
            "w": torch.ones(3),
            "fp8": torch.ones(4).to(torch.float8_e4m3fn),
            "count": torch.arange(3),
            "mask": torch.ones(2, dtype=torch.bool),
            "z": torch.ones(2, dtype=torch.complex64),
            "h.0.attn.bias": torch.ones(1, 1, 4, 4),
            "text": "a word",
        },
        tmp_path / "mixed.pt",
    )
    reader = open_checkpoint(tmp_path / "mixed.pt")
    assert list(reader.tensors) == ["w"]
    assert dict(reader.skipped) == {
        "text": "a value of type str, not a tensor",
        "fp8": "float8_e4m3fn elements, which cannot be recorded",
        "count": "int64 elements, which are no parameters",
        "mask": "bool elements, which are no parameters",
        "z": "complex64 elements, which are no parameters",
        "h.0.attn.bias": "an attention mask",
    }


def test_what_is_ambiguous_is_listed_and_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "gan.pt"
    torch.save({"generator": {"w": torch.ones(2)}, "critic": {"w": torch.zeros(2)}, "epoch": 3}, path)
    with pytest.raises(CheckpointFileError) as refused:
        open_checkpoint(path)
    assert str(refused.value) == (
        f"{path}: it is not clear what in it is the model; it holds generator (1 tensors), critic (1 tensors), "
        "epoch (a value of type int)"
    )
    reader = open_checkpoint(path, "critic")
    assert whole(reader, "w") == bytes(8)
    with pytest.raises(CheckpointFileError, match="there are no tensors under 'encoder'"):
        open_checkpoint(path, "encoder")


def test_a_whole_model_is_no_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(CheckpointFileError) as refused:
        open_checkpoint(path)
    assert str(refused.value) == (
        f"{path}: it holds an object of torch.nn.modules.linear.Linear, not a state dict; save model.state_dict() "
        "instead"
    )


def test_expanded_and_sliced_tensors(tmp_path: Path) -> None:
    base = torch.randn(6, 50)
    state = {"expanded": torch.randn(4, 1).expand(4, 30), "every third": base[:, ::3], "column": base[:, 7]}
    torch.save(state, tmp_path / "views.pt")
    reader = open_checkpoint(tmp_path / "views.pt")
    for name, value in state.items():
        assert whole(reader, name) == raw(value)
