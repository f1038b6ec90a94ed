"""From files and folders to a series of checkpoints in order, and what has no place in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from trajmon.checkpoints.base import FoundCheckpoint
from trajmon.checkpoints.naming import natural_key, step_in_path
from trajmon.checkpoints.opening import TORCH_SUFFIXES, open_checkpoint, weights_in
from trajmon.errors import CheckpointFileError

__all__ = ["Candidate", "Order", "Series", "candidates", "find_checkpoints", "is_weights_name"]

Order = Literal["step", "as-given"]

_MAX_DEPTH: Final = 4
# Beside the model in the folders of training programs.
_OTHER_FILES: Final = (
    *("optimizer", "optim", "scheduler", "scaler", "training_args", "rng_state", "random_states"),
    *("sampler", "dataloader", "zero_pp_rank", "bf16_zero_pp_rank", "tokenizer", "meta.pt"),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that looks like a checkpoint; it is not opened yet."""

    path: Path
    label: str
    """Relative to the folder that was searched; in the Hugging Face cache the revision's name."""
    name_step: int | None
    """From the label."""


@dataclass(frozen=True, slots=True)
class Series:
    """What was found."""

    checkpoints: tuple[FoundCheckpoint, ...]
    """In order."""
    refused: tuple[tuple[str, str], ...] = ()
    """Label of what has no place in the series, and why; the text names the file."""
    remarks: tuple[str, ...] = ()
    """What the user should know of the order."""


def find_checkpoints(paths: Sequence[Path], *, order: Order = "step", key: str | None = None) -> Series:
    """All checkpoints in files and folders, by step; `as-given` keeps the order of `paths`.

    The headers of each are read: what cannot be opened is in `refused`, and the rest goes on. Two with one step
    are refused, both named, except that one whose name gives the step comes before one that only states it
    inside. Checkpoints without a step come by name, if none has one. Raises CheckpointFileError if there is
    nothing at all at a path.
    """
    found: list[tuple[FoundCheckpoint, bool]] = []
    refused = []
    for candidate in _distinct(candidate for path in paths for candidate in candidates(Path(path))):
        try:
            reader = open_checkpoint(candidate.path, key)
        except CheckpointFileError as error:
            refused.append((candidate.label, str(error)))
            continue
        step = reader.step if candidate.name_step is None else candidate.name_step
        reader.close()
        found.append(
            (FoundCheckpoint(candidate.path, step, candidate.label), candidate.name_step is not None)
        )
    if order == "as-given":
        return Series(tuple(checkpoint for checkpoint, _ in found), tuple(refused))
    return _by_step(found, refused)


def candidates(path: Path) -> list[Candidate]:
    """What looks like checkpoints at a path, none opened, by name. Raises CheckpointFileError if nothing does."""
    if not path.exists() and not path.is_symlink():
        raise CheckpointFileError(f"{path}: there is no such file or folder")
    if not path.is_dir():
        return [Candidate(path, path.name, step_in_path(path, path))]
    found = list(_in_cache(path)) if (path / "snapshots").is_dir() else list(_in_folder(path, path, 0))
    if not found:
        raise CheckpointFileError(f"{path}: there is no checkpoint in it")
    return sorted(found, key=lambda candidate: natural_key(candidate.label))


def is_weights_name(name: str) -> bool:
    """Whether a file of this name may be a checkpoint by itself."""
    lower = name.lower()
    if name.startswith(".") or lower.startswith(_OTHER_FILES) or "optim_states" in lower:
        return False
    return lower.endswith((".safetensors", *TORCH_SUFFIXES))


def _in_folder(folder: Path, root: Path, depth: int) -> Iterator[Candidate]:
    """The folder itself if it is one checkpoint, and what its folders hold; else its files too."""
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        # Removed by its trainer while we look.
        return
    weights = weights_in(folder)
    if weights is not None or _holds_shards(entries):
        label = "." if folder == root else folder.relative_to(root).as_posix()
        yield Candidate(folder, label, step_in_path(folder, root))
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            # The files of a folder that is a checkpoint, a folder of shards among them, are parts of it.
            if depth < _MAX_DEPTH and not _is_unfinished(entry.name) and entry != weights:
                yield from _in_folder(entry, root, depth + 1)
        elif weights is None and is_weights_name(entry.name) and not _is_shard(entry.name):
            yield Candidate(entry, entry.relative_to(root).as_posix(), step_in_path(entry, root))


def _in_cache(folder: Path) -> Iterator[Candidate]:
    """The revisions of a model in the Hugging Face cache, called by the branches and tags that point to them."""
    names: dict[str, list[str]] = defaultdict(list)
    refs = folder / "refs"
    for ref in sorted(refs.rglob("*")) if refs.is_dir() else ():
        if ref.is_file():
            names[ref.read_text(errors="replace").strip()].append(ref.relative_to(refs).as_posix())
    for revision in sorted((folder / "snapshots").iterdir()):
        if not revision.is_dir():
            continue
        called = names.get(revision.name) or [revision.name]
        # `main` often points to the last step's revision too.
        label = max(called, key=lambda name: (step_in_path(Path(name), Path(name)) is not None, name))
        yield Candidate(revision, label, step_in_path(Path(label), Path(label)))


def _is_unfinished(name: str) -> bool:
    """A folder that its trainer renames once it is written, or a hidden one."""
    return name.startswith((".", "tmp-", "tmp_")) or name.endswith((".tmp", ".partial", ".incomplete"))


def _is_shard(name: str) -> bool:
    return "-of-" in name


def _holds_shards(entries: Sequence[Path]) -> bool:
    return any(_is_shard(entry.name) and is_weights_name(entry.name) for entry in entries)


def _distinct(found: Iterable[Candidate]) -> Iterator[Candidate]:
    """Each path once; with two folders of one name, labels that tell them apart."""
    by_path: dict[Path, Candidate] = {}
    for candidate in found:
        by_path.setdefault(candidate.path.absolute(), candidate)
    labels: dict[str, int] = defaultdict(int)
    for candidate in by_path.values():
        labels[candidate.label] += 1
    for candidate in by_path.values():
        is_unique = labels[candidate.label] == 1 and candidate.label != "."
        label = candidate.label if is_unique else str(candidate.path)
        yield Candidate(candidate.path, label, candidate.name_step)


def _by_step(found: Sequence[tuple[FoundCheckpoint, bool]], refused: list[tuple[str, str]]) -> Series:
    by_step: dict[int | None, list[tuple[FoundCheckpoint, bool]]] = defaultdict(list)
    for checkpoint, is_named in found:
        by_step[checkpoint.step].append((checkpoint, is_named))
    nameless = [checkpoint for checkpoint, _ in by_step.pop(None, [])]
    if nameless and not by_step:
        remark = f"no step in the names or files of {len(nameless)} checkpoints: they are ordered by name"
        return Series(tuple(nameless), tuple(refused), (remark,) if len(nameless) > 1 else ())
    for checkpoint in nameless:
        text = "neither its name nor the file gives a step, the others have one; give the order yourself to take it"
        refused.append((checkpoint.label, f"{checkpoint.path}: {text}"))
    chosen: list[FoundCheckpoint] = []
    remarks: list[str] = []
    for step in sorted(step for step in by_step if step is not None):
        same = by_step[step]
        named = [checkpoint for checkpoint, is_named in same if is_named]
        if len(same) == 1:
            chosen.append(same[0][0])
            continue
        labels = " and ".join(repr(checkpoint.label) for checkpoint, _ in same)
        if len(named) == 1:
            # Such as Lightning's last.ckpt: a second name of what is there anyway.
            chosen.append(named[0])
            remarks.append(f"step {step} is given by {labels}; {named[0].label!r} is taken")
            continue
        advice = "leave one out, or give the order yourself"
        refused += [
            (checkpoint.label, f"{checkpoint.path}: step {step} is given by {labels}; {advice}")
            for checkpoint, _ in same
        ]
    return Series(tuple(chosen), tuple(refused), tuple(remarks))
