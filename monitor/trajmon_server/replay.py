"""Replays a recorded trajectory: hallmarks and advice as of every checkpoint, as the server says them."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks import GramRow, Trajectory, stream
from trajmon_server.signals import Observation, RemainingDisplacementPolicy

__all__ = ["ReplayError", "replay"]

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


class ReplayError(Exception):
    """The file is not a recorded trajectory; the message says what is wrong and what is expected."""


def replay(path: Path) -> Iterator[dict[str, Any]]:
    """One JSON-able object per checkpoint of a GRAM.npz, in order; numbers that are undefined are None.

    Keys: ``index``, ``advice``, ``hallmarks``, ``evidence``, ``reason``, ``policy``. Reads ``gram`` (L, T,
    T), ``names`` (L), and if they are there ``lr`` (T−1; entry t led to checkpoint t+1) and ``metric`` (T).
    The layers are summed to the network; update products come out of the Gram, undefined where it does not
    resolve them. The file is read and checked before the first object. O(T²) besides the sum over layers.
    Raises :class:`ReplayError`.
    """
    gram, learning_rates = _load(path)
    return _replay(gram, learning_rates)


def _replay(gram: NDArray[np.float64], rates: NDArray[np.float64] | None) -> Iterator[dict[str, Any]]:
    trajectory = Trajectory.from_gram(gram)
    policy = RemainingDisplacementPolicy()
    policy_state, stream_state = policy.init(), stream.init()
    for t in range(len(trajectory)):
        row = GramRow(
            gram=gram[t, : t + 1],
            update_squared=float(trajectory.update_squared[t]),
            update_dot=float(trajectory.update_dot[t]),
            displacement_squared=float(trajectory.displacement_squared[t]),
            displacement_dot=float(trajectory.displacement_dot[t]),
        )
        stream_state = stream.update(stream_state, row)
        hallmarks = stream.latest(stream_state)
        observation = Observation(
            checkpoint=t,
            previous=t - 1 if t else None,
            step=None,
            finite=bool(np.isfinite(row.gram[t])),
            complete=bool(np.all(np.isfinite(row.gram))),
            age_seconds=None,
            learning_rate=float(rates[t - 1]) if rates is not None and t else None,
            update_squared=row.update_squared,
            update_dot=row.update_dot,
            displacement_squared=row.displacement_squared,
            mds=hallmarks["mds"],
            relative_mds=hallmarks["relative_mds"],
        )
        policy_state, advice = policy.update(policy_state, observation)
        yield {
            "index": t,
            "advice": advice.state.value,
            "hallmarks": _json_numbers(hallmarks),
            "evidence": _json_numbers(advice.evidence),
            "reason": advice.reason,
            "policy": advice.policy,
        }


def _load(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """The network's Gram [T, T] and the learning rates [T-1]."""
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
    rates = arrays["lr"].astype(np.float64) if "lr" in arrays else None
    return gram.sum(axis=0), rates


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
                wanted = [key for key in ("gram", "names", "lr", "metric") if key in archive.files]
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


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _seen(array: NDArray[Any]) -> str:
    return f"it is {array.dtype} of shape {array.shape}"


def _listed(keys: list[str]) -> str:
    return ", ".join(sorted(keys)[:10]) or "no arrays"


def _json_numbers(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
