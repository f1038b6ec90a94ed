"""Files that would run a program when loaded are refused, and run nothing; harmless unknown objects are no obstacle."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.checkpoints.saving import save_alone  # noqa: TID251 # tests/client, on the path of the tests
from trajmon.checkpoints import find_checkpoints, open_checkpoint
from trajmon.checkpoints.inert import Name, Opaque, loads_inert
from trajmon.errors import CheckpointFileError
from trajmon.numerics.layout import ITEM_BYTES


class Runs:
    """Calls something when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def payload(marker: Path) -> Runs:
    return Runs(os.system, f"touch '{marker}'")


def pickled(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)


def zip_file(path: Path, marker: Path) -> None:
    torch.save({"model": {"w": torch.ones(2)}, "extra": payload(marker)}, path)


def legacy_file(path: Path, marker: Path) -> None:
    torch.save({"w": torch.ones(2), "extra": payload(marker)}, path, _use_new_zipfile_serialization=False)


def raw_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickled(payload(marker)))


def in_place_of_a_tensor(path: Path, marker: Path) -> None:
    torch.save({"state_dict": {"w": payload(marker)}, "global_step": 3}, path)


def in_hyper_parameters(path: Path, marker: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "hyper_parameters": {"args": payload(marker)}}, path)


def dcp_metadata(path: Path, marker: Path) -> None:
    save_alone({"model": {"w": torch.ones(2)}}, path)
    (path / ".metadata").write_bytes(pickled(payload(marker)))


def in_dcp_planner_data(path: Path, marker: Path) -> None:
    save_alone({"model": {"w": torch.ones(2)}}, path)
    metadata = pickle.loads((path / ".metadata").read_bytes())
    metadata.planner_data = payload(marker)
    (path / ".metadata").write_bytes(pickled(metadata))


def bin_shard(path: Path, marker: Path) -> None:
    path.mkdir()
    torch.save({"w": torch.ones(2), "x": payload(marker)}, path / "shard.bin")
    (path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"w": "shard.bin"}}')


WRITERS = {
    "evil.pt": zip_file,
    "old.pt": legacy_file,
    "raw.pt": raw_pickle,
    "tensor.ckpt": in_place_of_a_tensor,
    "hyper.ckpt": in_hyper_parameters,
    "metadata": dcp_metadata,
    "planner": in_dcp_planner_data,
    "shards": bin_shard,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_would_run_a_program_is_refused_and_runs_nothing(name: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "it ran", tmp_path / name
    WRITERS[name](path, marker)
    with pytest.raises(CheckpointFileError) as refused:
        open_checkpoint(path)
    assert "refused: it names posix.system, which has no place in a checkpoint; nothing in it was run" in str(
        refused.value
    )
    assert str(path) in str(refused.value)
    assert not marker.exists()


def test_the_payload_would_have_run(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    marker = tmp_path / "it ran"
    pickle.loads(pickled(payload(marker)))
    assert marker.exists()


def test_a_pickle_inside_a_chunk_is_refused_when_it_is_read(tmp_path: Path) -> None:
    marker, path = tmp_path / "it ran", tmp_path / "step-1"
    save_alone({"w": torch.ones(2)}, path)
    evil = io.BytesIO()
    torch.save(payload(marker), evil)
    metadata = pickle.loads((path / ".metadata").read_bytes())
    (info,) = metadata.storage_data.values()
    info.offset, info.length = 0, len(evil.getvalue())
    (path / ".metadata").write_bytes(pickled(metadata))
    (path / info.relative_path).write_bytes(evil.getvalue())
    reader = open_checkpoint(path)
    out = torch.zeros(8, dtype=torch.uint8).numpy()
    with pytest.raises(CheckpointFileError, match=r"__0_0\.distcp: refused: it names posix\.system"):
        reader.read("w", 0, out)
    assert not marker.exists()
    assert not out.any()


@pytest.mark.parametrize(
    ("function", "called"),
    [
        (builtins.eval, "builtins.eval"),
        (builtins.exec, "builtins.exec"),
        (builtins.getattr, "builtins.getattr"),
        (builtins.__import__, "builtins.__import__"),
        (subprocess.Popen, "subprocess.Popen"),
        (subprocess.getoutput, "subprocess.getoutput"),
        (os.execv, "posix.execv"),
    ],
)
@pytest.mark.parametrize("protocol", range(6))
def test_functions_that_run_things_in_every_protocol(
    function: Callable[..., Any], called: str, protocol: int
) -> None:
    data = pickle.dumps(Runs(function, "1"), protocol=protocol)
    with pytest.raises(Exception, match=f"^{called}$"):
        loads_inert(data, lambda name, args: NotImplemented, lambda key: key)


def test_unknown_names_are_placeholders() -> None:
    data = b"cno.such.module\nfunction\n(S'x'\ntR."
    made = loads_inert(data, lambda name, args: NotImplemented, lambda key: key)
    assert isinstance(made, Opaque)
    assert (made.kind, made.args) == (Name("no.such.module", "function"), ("x",))


def test_a_place_that_is_no_place_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "step-1"
    save_alone({"w": torch.ones(2)}, path)
    metadata = pickle.loads((path / ".metadata").read_bytes())
    (index,) = metadata.storage_data
    object.__setattr__(index, "offset", Path("here"))
    (path / ".metadata").write_bytes(pickled(metadata))
    with pytest.raises(CheckpointFileError, match=r"\.metadata: it is not torch's: a place is missing"):
        open_checkpoint(path)


def test_a_dcp_metadata_file_may_name_nothing_but_its_own_classes(tmp_path: Path) -> None:
    path = tmp_path / "step-1"
    save_alone({"w": torch.ones(2)}, path)
    (path / ".metadata").write_bytes(b"cno.such.module\nfunction\n)R.")
    with pytest.raises(CheckpointFileError, match=r"it names no\.such\.module\.function"):
        open_checkpoint(path)


def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "outside.bin")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"w": "../outside.bin"}}')
    with pytest.raises(CheckpointFileError, match=r"'\.\./outside\.bin' is not the name of a file beside it"):
        open_checkpoint(folder)


def test_a_dcp_folder_does_not_lead_out_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "step-1"
    save_alone({"w": torch.ones(2)}, path)
    (path / "__0_0.distcp").rename(tmp_path / "elsewhere")
    metadata = pickle.loads((path / ".metadata").read_bytes())
    (info,) = metadata.storage_data.values()
    info.relative_path = "../elsewhere"
    (path / ".metadata").write_bytes(pickled(metadata))
    with pytest.raises(CheckpointFileError, match=r"it refers to '\.\./elsewhere', outside its folder"):
        open_checkpoint(path)


def test_a_compressed_zip_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(
        CheckpointFileError, match=r"its entries are compressed, which torch\.save never does"
    ):
        open_checkpoint(tmp_path / "packed.pt")


def test_the_rest_of_a_series_goes_on(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        torch.save({"w": torch.ones(2) * step}, tmp_path / f"step{step}.pt")
    marker = tmp_path / "it ran"
    zip_file(tmp_path / "step2.pt", marker)
    series = find_checkpoints([tmp_path])
    assert [found.step for found in series.checkpoints] == [1, 3]
    ((label, why),) = series.refused
    assert label == "step2.pt"
    assert "posix.system" in why
    assert not marker.exists()


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "long.pt", "w") as forged,
    ):
        for name in plain.namelist():
            data = plain.read(name)
            # Shape (4,) becomes (127,); K is a one-byte number, \x85 a tuple of one.
            forged.writestr(name, data.replace(b"K\x04\x85", b"K\x7f\x85") if name.endswith(".pkl") else data)
    with pytest.raises(CheckpointFileError, match="a tensor reaches beyond its storage"):
        open_checkpoint(tmp_path / "long.pt")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_an_error_that_names_the_file_and_nothing_else(
    data: st.DataObject, saved: dict[str, Path], tmp_path: Path
) -> None:
    source = saved[
        data.draw(st.sampled_from(["safetensors", "torch, wrapped", "torch, legacy", "lightning", "dcp"]))
    ]
    path = tmp_path / f"damaged{source.suffix}"
    if source.is_dir():
        shutil.copytree(source, path, dirs_exist_ok=True)
    file = path / ".metadata" if source.is_dir() else path
    content = bytearray((source / ".metadata" if source.is_dir() else source).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    problem = ""
    try:
        reader = open_checkpoint(path)
        for name, info in reader.tensors.items():
            reader.read(name, 0, np.empty(info.num_elements * ITEM_BYTES[info.dtype], dtype=np.uint8))
    except CheckpointFileError as error:
        problem = str(error)
    assert not problem or str(path) in problem
