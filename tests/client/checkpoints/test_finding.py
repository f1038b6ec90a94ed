"""What is found in a folder, in which order, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from client.checkpoints.saving import save_alone  # noqa: TID251 # tests/client, on the path of the tests
from trajmon.checkpoints import find_checkpoints
from trajmon.checkpoints.naming import step_in_name
from trajmon.errors import CheckpointFileError


def save(path: Path, value: float = 1.0) -> Path:
    """A checkpoint of one tensor; a folder if the name has no suffix."""
    state = {"w": torch.full((4,), value)}
    if path.suffix in (".pt", ".ckpt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)
    elif path.suffix == ".safetensors":
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, path)
    else:
        path.mkdir(parents=True)
        save_file(state, path / "model.safetensors")
    return path


def order(*paths: Path) -> list[tuple[str, int | None]]:
    series = find_checkpoints(paths)
    assert series.refused == ()
    return [(found.label, found.step) for found in series.checkpoints]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-500", 500),
        ("checkpoint-1000step", 1000),
        ("step0", 0),
        ("step143000", 143000),
        ("global_step5000", 5000),
        ("step-001000-2BT", 1000),
        ("stage1-step150-tokens1B", 150),
        ("stage2-ingredient1-step23852-tokens51B", 23852),
        ("epoch=1-step=16.ckpt", 16),
        ("model_step_30.pt", 30),
        ("iter_0001000", 1000),
        ("ckpt-7.pt", 7),
        ("3000-steps.pt", 3000),
        ("run.step12.safetensors", 12),
        ("epoch=3.ckpt", None),
        ("model_10.pt", None),
        ("footstep9x.pt", None),
        ("final", None),
    ],
)
def test_the_step_in_a_name(name: str, step: int | None) -> None:
    assert step_in_name(name) == step


def test_a_trainers_folder(tmp_path: Path) -> None:
    for step in (1000, 50, 500):
        folder = save(tmp_path / f"checkpoint-{step}")
        torch.save({"state": {}}, folder / "optimizer.pt")
        torch.save({}, folder / "scheduler.pt")
        torch.save({}, folder / "rng_state.pth")
    save(tmp_path / "tmp-checkpoint-1500")
    torch.save({}, tmp_path / "training_args.bin")
    (tmp_path / "notes.txt").touch()
    assert order(tmp_path) == [("checkpoint-50", 50), ("checkpoint-500", 500), ("checkpoint-1000", 1000)]


def test_nested_folders_and_formats_side_by_side(tmp_path: Path) -> None:
    save_alone({"w": torch.ones(4)}, tmp_path / "run" / "step-8")
    save(tmp_path / "run" / "epoch=0-step=4.ckpt")
    save(tmp_path / "warm" / "up" / "step2.safetensors")
    save(tmp_path / "step-16" / "model.pt")
    assert order(tmp_path) == [
        ("warm/up/step2.safetensors", 2),
        ("run/epoch=0-step=4.ckpt", 4),
        ("run/step-8", 8),
        ("step-16/model.pt", 16),
    ]


def test_revisions_in_the_cache_of_hugging_face(tmp_path: Path) -> None:
    cache = tmp_path / "models--EleutherAI--pythia-70m"
    blobs = cache / "blobs"
    blobs.mkdir(parents=True)
    for index, (sha, names) in enumerate(
        {"aa11": ["step0"], "bb22": ["step512"], "cc33": ["main", "step64"]}.items()
    ):
        snapshot = cache / "snapshots" / sha
        snapshot.mkdir(parents=True)
        save_file({"w": torch.full((4,), float(index))}, blobs / sha)
        (snapshot / "model.safetensors").symlink_to(blobs / sha)
        for name in names:
            (cache / "refs").mkdir(exist_ok=True)
            (cache / "refs" / name).write_text(sha)
    assert order(cache) == [("step0", 0), ("step64", 64), ("step512", 512)]
    (blobs / "bb22").unlink()
    series = find_checkpoints([cache])
    assert [found.step for found in series.checkpoints] == [0, 64]
    assert series.refused[0][0] == "step512"
    assert "model.safetensors: there is no such file or folder: it is a link to" in series.refused[0][1]


def test_two_of_one_step_are_refused_and_both_named(tmp_path: Path) -> None:
    save(tmp_path / "step10.pt")
    first, second = save(tmp_path / "step20.pt"), save(tmp_path / "step20.safetensors")
    series = find_checkpoints([tmp_path])
    assert [found.label for found in series.checkpoints] == ["step10.pt"]
    text = (
        "step 20 is given by 'step20.pt' and 'step20.safetensors'; leave one out, or give the order yourself"
    )
    assert series.refused == (("step20.pt", f"{first}: {text}"), ("step20.safetensors", f"{second}: {text}"))


def test_the_last_ckpt_of_lightning_comes_after_the_file_that_names_its_step(tmp_path: Path) -> None:
    for name, step in (("epoch=0-step=8.ckpt", 8), ("epoch=1-step=16.ckpt", 16), ("last.ckpt", 16)):
        torch.save({"state_dict": {"w": torch.ones(4)}, "global_step": step}, tmp_path / name)
    series = find_checkpoints([tmp_path])
    assert [found.label for found in series.checkpoints] == ["epoch=0-step=8.ckpt", "epoch=1-step=16.ckpt"]
    assert series.refused == ()
    assert series.remarks == (
        "step 16 is given by 'epoch=1-step=16.ckpt' and 'last.ckpt'; 'epoch=1-step=16.ckpt' is taken",
    )


def test_the_step_in_the_file_counts_if_the_name_has_none(tmp_path: Path) -> None:
    for name, step in (("a.pt", 30), ("b.pt", 10), ("step20.pt", 99)):
        torch.save({"model": {"w": torch.ones(4)}, "step": step}, tmp_path / name)
    assert order(tmp_path) == [("b.pt", 10), ("step20.pt", 20), ("a.pt", 30)]


def test_without_any_step_the_order_is_that_of_the_names_and_is_said(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        save(tmp_path / f"model_{number}.pt")
    series = find_checkpoints([tmp_path])
    assert [found.label for found in series.checkpoints] == ["model_1.pt", "model_9.pt", "model_10.pt"]
    assert series.remarks == ("no step in the names or files of 3 checkpoints: they are ordered by name",)


def test_one_without_a_step_among_others_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "step1.pt")
    path = save(tmp_path / "best.pt")
    series = find_checkpoints([tmp_path])
    assert [found.label for found in series.checkpoints] == ["step1.pt"]
    assert series.refused == (
        (
            "best.pt",
            f"{path}: neither its name nor the file gives a step, the others have one; give the order yourself to "
            "take it",
        ),
    )


def test_the_order_as_given(tmp_path: Path) -> None:
    paths = [save(tmp_path / name) for name in ("step20.pt", "final.pt", "step10.pt")]
    series = find_checkpoints(paths, order="as-given")
    assert [found.label for found in series.checkpoints] == ["step20.pt", "final.pt", "step10.pt"]


def test_labels_tell_two_folders_apart(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a" / "step1.pt"), save(tmp_path / "b" / "step1.pt")
    series = find_checkpoints([tmp_path / "a", tmp_path / "b"], order="as-given")
    assert [found.label for found in series.checkpoints] == [str(first), str(second)]


def test_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFileError) as missing:
        find_checkpoints([tmp_path / "nowhere"])
    assert str(missing.value) == f"{tmp_path / 'nowhere'}: there is no such file or folder"
    with pytest.raises(CheckpointFileError) as empty:
        find_checkpoints([tmp_path])
    assert str(empty.value) == f"{tmp_path}: there is no checkpoint in it"
