"""A recorded trajectory, GRAM.npz: read, checked, with the outcomes of switches where it holds them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmon_server.signals.outcomes import Outcomes

__all__ = ["Recording", "ReplayError", "load"]

ACCURACY_DELTA = 0.01
LOSS_DELTA = 0.01
"""What a switch may cost by default: one point of a metric from 0 to 1, one per cent of a loss."""

# All that numpy, zipfile and zlib raise on bytes that are not what they seem.
_UNREADABLE = (
    EOFError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
_KEYS = (
    "gram",
    "names",
    "lr",
    "metric",
    "step",
    "norm",
    "n_norm",
    "switch_points",
    "norm_only_final",
    "norm_only_tail",
    "full_final",
    "delta",
    "metric_name",
    "family",
)


class ReplayError(Exception):
    """The file is not a recorded trajectory; the message says what is wrong and what is expected."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded run of L layers and T checkpoints."""

    gram: NDArray[np.float64]
    """[L, T, T], symmetric; NaN where missing."""
    names: tuple[str, ...]
    rates: NDArray[np.float64] | None
    """[T-1]: entry t led to checkpoint t+1."""
    steps: tuple[int, ...] | None
    """[T], rising."""
    metric: NDArray[np.float64] | None
    """[T], larger is better."""
    norm: NDArray[np.bool_] | None
    """[L]: which layers are scalars of normalisation layers; None where that is not known."""
    family: str
    """Empty where it is not given."""
    delta: float | None
    """Loss of metric that a switch may cost; None where the metric is neither in [0, 1] nor all negative."""
    outcomes: Outcomes | None
    """None where no switches were tried."""

    @property
    def positions(self) -> tuple[int, ...]:
        """[T]: steps, or checkpoint numbers."""
        return tuple(range(self.gram.shape[1])) if self.steps is None else self.steps


def load(path: Path, delta: float | None = None) -> Recording:
    """Read and check the whole file; `delta` goes before what the file says of it. Raises :class:`ReplayError`."""
    arrays, found = _read(path)
    for key in ("gram", "names"):
        if key not in arrays:
            raise ReplayError(f"{path}: the key {key!r} is missing; it holds {_listed(found)}")
    gram = _checked_gram(path, arrays["gram"])
    layers, checkpoints = gram.shape[:2]
    names = arrays["names"]
    if names.shape != (layers,) or names.dtype.kind != "U":
        raise ReplayError(f"{path}: names must be {layers} strings, one a layer of gram; {_seen(names)}")
    for key, length in (("lr", checkpoints - 1), ("metric", checkpoints)):
        if key in arrays and (arrays[key].shape != (length,) or arrays[key].dtype.kind not in "fiu"):
            raise ReplayError(
                f"{path}: {key} must be {length} numbers for {checkpoints} checkpoints; {_seen(arrays[key])}"
            )
    metric = arrays["metric"].astype(np.float64) if "metric" in arrays else None
    steps = _steps(path, arrays, checkpoints)
    chosen = _number(path, arrays, "delta") if delta is None else delta
    if chosen is None:
        chosen = _default_delta(
            _text(path, arrays, "metric_name"), metric, _number(path, arrays, "full_final")
        )
    return Recording(
        gram=gram,
        names=tuple(str(name) for name in names),
        rates=arrays["lr"].astype(np.float64) if "lr" in arrays else None,
        steps=steps,
        metric=metric,
        norm=_norm_layers(path, arrays, gram),
        family=_text(path, arrays, "family"),
        delta=chosen,
        outcomes=_outcomes(path, arrays, metric, steps, chosen),
    )


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The arrays of a recording, and the names of everything in the file."""
    try:
        # Opened here: numpy leaves the file open when it turns out to be damaged.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ReplayError(
                    f"{path}: is a single array; an .npz file with the keys gram and names is expected"
                )
            with archive:
                wanted = [key for key in _KEYS if key in archive.files]
                return {key: _array(path, archive, key) for key in wanted}, archive.files
    except FileNotFoundError:
        raise ReplayError(f"{path}: there is no such file") from None
    except _UNREADABLE as error:
        raise ReplayError(f"{path}: cannot be read as an .npz file of arrays ({_said(error)})") from error


def _array(path: Path, archive: Mapping[str, Any], key: str) -> NDArray[Any]:
    try:
        return np.asarray(archive[key])
    except _UNREADABLE as error:
        raise ReplayError(f"{path}: {key} cannot be read ({_said(error)})") from error


def _checked_gram(path: Path, gram: NDArray[Any]) -> NDArray[np.float64]:
    if gram.ndim != 3 or gram.shape[1] != gram.shape[2] or 0 in gram.shape:
        raise ReplayError(f"{path}: gram must have shape (layers, checkpoints, checkpoints); {_seen(gram)}")
    if gram.dtype != np.float64:
        raise ReplayError(
            f"{path}: gram must be float64, fewer bits do not hold small updates; {_seen(gram)}"
        )
    lengths = np.sqrt(np.maximum(np.diagonal(gram, axis1=1, axis2=2), 0.0))
    # Missing entries are compared as missing; the rest to far below what an asymmetry could mean.
    tolerance = 1e-12 * lengths[:, :, None] * lengths[:, None, :]
    mirrored = gram.transpose(0, 2, 1)
    with np.errstate(invalid="ignore"):
        unequal = ~((np.abs(gram - mirrored) <= tolerance) | (gram == mirrored))
    unequal &= ~(np.isnan(gram) & np.isnan(mirrored))
    unequal &= ~(np.isnan(tolerance) & (gram == mirrored))
    if unequal.any():
        layer, i, j = (int(index) for index in np.argwhere(unequal)[0])
        raise ReplayError(
            f"{path}: gram is not symmetric: layer {layer} holds {gram[layer, i, j]:g} at ({i}, {j}) "
            f"and {gram[layer, j, i]:g} at ({j}, {i})"
        )
    return np.where(np.isfinite(gram), gram, np.nan)


def _steps(path: Path, arrays: Mapping[str, NDArray[Any]], checkpoints: int) -> tuple[int, ...] | None:
    if "step" not in arrays:
        return None
    step = arrays["step"]
    if step.shape != (checkpoints,) or step.dtype.kind not in "iu" or not np.all(step[1:] > step[:-1]):
        raise ReplayError(
            f"{path}: step must be {checkpoints} rising whole numbers, one a checkpoint; {_seen(step)}"
        )
    return tuple(int(one) for one in step)


def _norm_layers(
    path: Path, arrays: Mapping[str, NDArray[Any]], gram: NDArray[np.float64]
) -> NDArray[np.bool_] | None:
    """From `norm`, else from how normalisation layers start, if `n_norm` confirms it; else None.

    Their weights start at one, so that their squared norm is their number; their biases, under the same name, start at
    zero. If the numbers of all such layers add up to `n_norm`, these are the ones.
    """
    if "norm" in arrays:
        norm = arrays["norm"]
        if norm.shape != (len(gram),) or norm.dtype.kind != "b":
            raise ReplayError(
                f"{path}: norm must be {len(gram)} booleans, one a layer of gram; {_seen(norm)}"
            )
        return norm
    expected = _number(path, arrays, "n_norm")
    if expected is None:
        return None
    owners = [str(name).rpartition(".")[0] for name in arrays["names"]]
    starts = gram[:, 0, 0]
    # Sizes of the layers that start at one; others start at random, where a whole number is no accident to expect.
    with np.errstate(invalid="ignore"):
        ones = (starts > 0) & (starts == np.round(starts))
    sizes = {owners[layer]: starts[layer] for layer in np.flatnonzero(ones)}
    zeros = np.array([start == 0 and owner in sizes for start, owner in zip(starts, owners, strict=True)])
    total = starts[ones].sum() + sum(sizes[owners[layer]] for layer in np.flatnonzero(zeros))
    found: NDArray[np.bool_] = ones | zeros
    return found if total == expected else None


def _default_delta(name: str, metric: NDArray[np.float64] | None, full: float | None) -> float | None:
    if metric is None or not np.isfinite(metric).any():
        return None
    known = metric[np.isfinite(metric)]
    if name == "accuracy" or (not name and known.min() >= 0 and known.max() <= 1):
        return ACCURACY_DELTA
    return float(LOSS_DELTA * abs(known[-1] if full is None else full)) if known.max() < 0 else None


def _outcomes(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    metric: NDArray[np.float64] | None,
    steps: tuple[int, ...] | None,
    delta: float | None,
) -> Outcomes | None:
    present = [key for key in ("switch_points", "norm_only_final") if key in arrays]
    if not present:
        return None
    if len(present) == 1 or metric is None:
        raise ReplayError(
            f"{path}: outcomes need switch_points, norm_only_final and metric; not all are there"
        )
    tried, reached = arrays["switch_points"], arrays["norm_only_final"]
    if tried.ndim != 1 or tried.dtype.kind not in "iu":
        raise ReplayError(f"{path}: switch_points must be whole numbers; {_seen(tried)}")
    if reached.ndim != 1 or reached.dtype.kind != "f":
        raise ReplayError(f"{path}: norm_only_final must be numbers; {_seen(reached)}")
    if delta is None:
        raise ReplayError(
            f"{path}: what a switch may cost is not known: the metric is neither from 0 to 1 nor minus a loss; "
            "say it with --delta, or in the file as delta"
        )
    full = _number(path, arrays, "full_final")
    if "norm_only_tail" in arrays:
        reached, full = _settled_outcomes(path, arrays["norm_only_tail"], len(tried), metric)
    try:
        return Outcomes(
            positions=tuple(range(len(metric))) if steps is None else steps,
            tried=tuple(int(point) for point in tried),
            reached=tuple(float(value) for value in reached),
            full_final=float(metric[-1]) if full is None else full,
            delta=delta,
        )
    except ValueError as error:
        raise ReplayError(f"{path}: {error}") from error


def _settled_outcomes(
    path: Path, tail: NDArray[Any], tried: int, metric: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Outcomes of all tries and of full training, each as the mean of its last checkpoints.

    One checkpoint's metric has scatter of its own, of the size of what a switch may cost. NaN at a checkpoint before
    the switch is left out; a try whose last one is NaN diverged.
    """
    if tail.ndim != 2 or tail.dtype.kind != "f" or len(tail) != tried or not 0 < tail.shape[1] <= len(metric):
        raise ReplayError(
            f"{path}: norm_only_tail must be the last metrics of each of {tried} tries; {_seen(tail)}"
        )
    known = ~np.isnan(tail)
    means = np.where(known, tail, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.where(known[:, -1], means, np.nan), float(metric[-tail.shape[1] :].mean())


def _number(path: Path, arrays: Mapping[str, NDArray[Any]], key: str) -> float | None:
    if key not in arrays:
        return None
    if arrays[key].shape != () or arrays[key].dtype.kind not in "fiu":
        raise ReplayError(f"{path}: {key} must be one number; {_seen(arrays[key])}")
    return float(arrays[key])


def _text(path: Path, arrays: Mapping[str, NDArray[Any]], key: str) -> str:
    if key not in arrays:
        return ""
    if arrays[key].shape != () or arrays[key].dtype.kind != "U":
        raise ReplayError(f"{path}: {key} must be one text; {_seen(arrays[key])}")
    return str(arrays[key])


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _seen(array: NDArray[Any]) -> str:
    return f"it is {array.dtype} of shape {array.shape}"


def _listed(keys: list[str]) -> str:
    return ", ".join(sorted(keys)[:10]) or "no arrays"
