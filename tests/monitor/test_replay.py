"""Replaying recorded trajectories, and files that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trajmon_server.hallmarks import HALLMARKS, Trajectory, hallmark_series
from trajmon_server.recording import load
from trajmon_server.replay import ReplayError, replay, replay_recording
from trajmon_server.signals.policies import make_policy

RECORDED = Path(__file__).parent / "hallmarks" / "recorded"
Arrays = dict[str, NDArray[Any]]


def words(name: str) -> list[str]:
    return [entry["advice"] for entry in replay(RECORDED / f"{name}.npz")]


def first_switch(name: str) -> int | None:
    said = words(name)
    return said.index("switch") if "switch" in said else None


@pytest.fixture
def arrays() -> Arrays:
    """A sound recording of three layers and six checkpoints."""
    points = np.cumsum(np.random.default_rng(3).normal(size=(3, 6, 5)), axis=1)
    gram = np.einsum("ltp,lsp->lts", points, points)
    return {
        "gram": (gram + gram.transpose(0, 2, 1)) / 2,
        "names": np.array(["a", "b", "c"]),
        "lr": np.full(5, 0.1),
        "metric": np.linspace(0, 1, 6),
    }


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Arrays], Path]:
    def write(arrays: Arrays) -> Path:
        path = tmp_path / "GRAM.npz"
        np.savez(path, allow_pickle=False, **arrays)
        return path

    return write


@pytest.mark.parametrize("name", ["gpt_adamw_0", "res_lazy_0", "res_sgd_step_0", "vgg_sgd_const_0"])
def test_every_checkpoint_is_one_line_of_valid_json(name: str) -> None:
    entries = list(replay(RECORDED / f"{name}.npz"))
    assert [entry["index"] for entry in entries] == list(range(41))
    for entry in entries:
        assert list(entry) == ["index", "advice", "hallmarks", "evidence", "reason", "policy"]
        assert json.loads(json.dumps(entry, allow_nan=False)) == entry
        assert tuple(entry["hallmarks"]) == HALLMARKS
        assert entry["advice"] in ("explore", "candidate", "switch", "resume", "unknown")
    assert entries[0]["hallmarks"]["update_norm"] is None
    assert entries[0]["hallmarks"]["mds"] == 1.0


def test_the_layers_are_summed(arrays: Arrays, written: Callable[[Arrays], Path]) -> None:
    entries = list(replay(written(arrays)))
    series = hallmark_series(Trajectory.from_gram(arrays["gram"].sum(axis=0)))
    for name in HALLMARKS:
        values = [entry["hallmarks"][name] for entry in entries]
        expected = [None if np.isnan(value) else pytest.approx(value) for value in series[name]]
        assert values == expected, name


def test_a_lazy_training_is_not_switched_while_it_still_moves() -> None:
    first = first_switch("res_lazy_0")
    assert first is not None
    assert first >= 12


@pytest.mark.parametrize(
    ("name", "points"), [("res_sgd_step_0", 0.01), ("res_lazy_0", 0.01), ("gpt_adamw_0", 0.02)]
)
def test_where_a_switch_is_advised_it_costs_little(name: str, points: float) -> None:
    first = first_switch(name)
    assert first is not None
    with np.load(RECORDED / f"{name}.npz", allow_pickle=False) as recording:
        tried, reached = recording["switch_points"], recording["norm_only_final"]
        full = float(recording["metric"][-1])
    # The trials next to the advice, on both sides.
    around = [reached[tried <= first][-1], reached[tried >= first][0] if (tried >= first).any() else full]
    assert min(around) >= full - points


def test_under_a_constant_learning_rate_that_still_moves_there_is_no_early_switch() -> None:
    first = first_switch("vgg_sgd_const_0")
    # Tries from 24 on cost less than a point.
    assert first is None or first >= 24
    before = list(replay(RECORDED / "vgg_sgd_const_0.npz", make_policy("remaining_displacement/1")))
    assert {entry["advice"] for entry in before} == {"unknown", "explore"}


def test_the_advice_does_not_know_the_future(written: Callable[[Arrays], Path]) -> None:
    with np.load(RECORDED / "res_sgd_step_0.npz", allow_pickle=False) as recording:
        cut = {
            "gram": recording["gram"][:, :20, :20],
            "names": recording["names"],
            "lr": recording["lr"][:19],
            "metric": recording["metric"][:20],
        }
    whole = list(replay_recording(load(RECORDED / "res_sgd_step_0.npz"), with_plan=False))
    assert list(replay_recording(load(written(cut)), with_plan=False)) == whole[:20]


def test_missing_rows_are_undefined_and_never_a_switch(written: Callable[[Arrays], Path]) -> None:
    with np.load(RECORDED / "res_sgd_step_0.npz", allow_pickle=False) as recording:
        damaged = {"gram": recording["gram"].copy(), "names": recording["names"], "lr": recording["lr"]}
    damaged["gram"][:, 25, :] = np.nan
    damaged["gram"][:, :, 25] = np.nan
    entries = list(replay(written(damaged)))
    assert entries[24]["advice"] == "switch"
    assert [entry["advice"] for entry in entries[25:30]] == ["unknown"] * 5
    assert entries[25]["hallmarks"]["parameter_norm"] is None
    assert entries[26]["hallmarks"]["mds"] is not None
    assert json.dumps(entries, allow_nan=False)


def test_learning_rates_may_be_absent(arrays: Arrays, written: Callable[[Arrays], Path]) -> None:
    assert len(list(replay(written({"gram": arrays["gram"], "names": arrays["names"]})))) == 6


def test_a_learning_rate_belongs_to_the_update_that_it_led(
    arrays: Arrays, written: Callable[[Arrays], Path]
) -> None:
    arrays["lr"] = np.array([0.1, 0.1, 0.1, 0.1, 0.2])
    first = make_policy("remaining_displacement/1")
    reasons = [entry["reason"] for entry in replay(written(arrays), first)]
    assert [reason.startswith("The learning rate has risen") for reason in reasons] == [False] * 5 + [True]


def asymmetric(arrays: Arrays) -> None:
    arrays["gram"][1, 2, 4] = 1e3


BAD: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "no gram": (lambda a: a.pop("gram"), "the key 'gram' is missing; it holds lr, metric, names"),
    "no names": (lambda a: a.pop("names"), "the key 'names' is missing; it holds gram, lr, metric"),
    "two dimensions": (
        lambda a: a.update(gram=a["gram"][0]),
        "gram must have shape (layers, checkpoints, checkpoints); it is float64 of shape (6, 6)",
    ),
    "not square": (lambda a: a.update(gram=a["gram"][:, :4]), "it is float64 of shape (3, 4, 6)"),
    "no checkpoint": (lambda a: a.update(gram=np.empty((3, 0, 0))), "it is float64 of shape (3, 0, 0)"),
    "float32": (
        lambda a: a.update(gram=a["gram"].astype(np.float32)),
        "gram must be float64, fewer bits do not hold small updates; it is float32 of shape (3, 6, 6)",
    ),
    "asymmetric": (asymmetric, "gram is not symmetric: layer 1 holds 1000 at (2, 4) and "),
    "half missing": (lambda a: a["gram"].__setitem__((0, 1, 2), np.nan), "layer 0 holds nan at (1, 2) and"),
    "too few names": (
        lambda a: a.update(names=np.array(["a"])),
        "names must be 3 strings, one a layer of gram; it is <U1 of shape (1,)",
    ),
    "names that are numbers": (lambda a: a.update(names=np.arange(3)), "names must be 3 strings"),
    "too many rates": (
        lambda a: a.update(lr=np.ones(6)),
        "lr must be 5 numbers for 6 checkpoints; it is float64 of shape (6,)",
    ),
    "rates that are words": (lambda a: a.update(lr=np.array(list("abcde"))), "lr must be 5 numbers"),
    "too few metrics": (lambda a: a.update(metric=np.ones(5)), "metric must be 6 numbers for 6 checkpoints"),
    "metrics that are words": (
        lambda a: a.update(metric=np.array(list("abcdef"))),
        "metric must be 6 numbers",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_recording_is_refused(kind: str, arrays: Arrays, written: Callable[[Arrays], Path]) -> None:
    spoil, message = BAD[kind]
    spoil(arrays)
    path = written(arrays)
    before = path.read_bytes()
    with pytest.raises(ReplayError) as caught:
        replay(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert path.read_bytes() == before


def test_files_that_are_no_archives_are_refused(tmp_path: Path, arrays: Arrays) -> None:
    with pytest.raises(ReplayError, match=r"there is no such file"):
        replay(tmp_path / "absent.npz")
    with pytest.raises(ReplayError, match=r"cannot be read as an \.npz file of arrays"):
        replay(tmp_path)
    text = tmp_path / "text.npz"
    text.write_text("not an archive\n")
    with pytest.raises(ReplayError, match=r"cannot be read as an \.npz file of arrays"):
        replay(text)
    empty = tmp_path / "empty.npz"
    empty.touch()
    with pytest.raises(ReplayError, match=r"cannot be read as an \.npz file of arrays"):
        replay(empty)
    single = tmp_path / "single.npy"
    np.save(single, arrays["gram"])
    with pytest.raises(ReplayError, match=r"is a single array; an \.npz file with the keys gram and names"):
        replay(single)


def test_a_truncated_or_damaged_archive_is_refused(arrays: Arrays, written: Callable[[Arrays], Path]) -> None:
    path = written(arrays)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReplayError, match=r"cannot be read as an \.npz file of arrays"):
        replay(path)
    spoiled = bytearray(whole)
    spoiled[400] ^= 0xFF
    path.write_bytes(bytes(spoiled))
    with pytest.raises(ReplayError, match=r"gram cannot be read"):
        replay(path)


def test_pickled_objects_are_never_loaded(tmp_path: Path, arrays: Arrays) -> None:
    path = tmp_path / "pickled.npz"
    arrays["names"] = np.array([["a"], "b", "c"], dtype=object)
    np.savez(path, allow_pickle=True, **arrays)
    with pytest.raises(ReplayError, match=r"names cannot be read .*allow_pickle=False"):
        replay(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_random_damage_is_an_error_or_harmless(tmp_path: Path, arrays: Arrays, compressed: bool) -> None:
    path = tmp_path / "GRAM.npz"
    if compressed:
        np.savez_compressed(path, allow_pickle=True, **arrays)
    else:
        np.savez(path, allow_pickle=True, **arrays)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(4), 0
    sound = list(replay(path))
    for _ in range(300):
        spoiled = bytearray(whole)
        spoiled[rng.integers(len(spoiled))] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(spoiled))
        try:
            read = list(replay(path))
        except ReplayError:
            refused += 1
            continue
        # An optional key may vanish under a spoiled name; the Gram itself is never taken wrong.
        assert [entry["hallmarks"] for entry in read] == [entry["hallmarks"] for entry in sound]
    assert refused > 150
