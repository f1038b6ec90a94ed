"""Arrays and names into xarray objects: dimensions, coordinates, units, words for axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from trajmon.reading.base import Arrays, LayoutFacts, MapRequest

__all__ = [
    "label_checkpoints",
    "label_hallmarks",
    "label_layers",
    "label_map",
    "label_summary",
    "variable_name",
]

_ERROR = "error:"
_WORDS = {
    "mds": "mean directional similarity",
    "relative_mds": "mean directional similarity about the initialization",
    "length_weighted_mds": "mean directional similarity, weighted by the length of the updates",
    "windowed_mds": "mean directional similarity of the last 10 checkpoints",
    "update_angle_degrees": "angle between consecutive updates",
    "apex_angle_initialization_degrees": "angle at the initialization, to the first update",
    "apex_angle_origin_degrees": "angle at the origin, to the initialization",
    "parameter_norm": "norm of the parameters",
    "distance_from_initialization": "distance from the initialization",
    "update_norm": "norm of the update",
    "path_length": "length of the path so far",
    "tortuosity": "length of the path over the distance from the initialization",
}
_COORDINATES = ("step", "mode")
_ROW, _COLUMN = "checkpoint", "checkpoint_j"


def variable_name(name: str) -> str:
    """A hallmark's name as that of a variable.

    >>> variable_name("error:mds"), variable_name("mds")
    ('mds_error', 'mds')
    """
    return f"{name.removeprefix(_ERROR)}_error" if name.startswith(_ERROR) else name


def label_map(arrays: Arrays, request: MapRequest, facts: Mapping[str, Any], name: str) -> xr.DataArray:
    """`map` or `gram` out of a source's arrays, (checkpoint, checkpoint_j); `error` becomes the coordinate
    `standard_error`, 0 where exact.
    """
    entries = arrays[name]
    numbers = arrays["checkpoint"]
    coordinates: dict[str, Any] = {
        _ROW: (_ROW, numbers, {"long_name": "checkpoint"}),
        _COLUMN: (_COLUMN, numbers, {"long_name": "checkpoint"}),
        "step": (_ROW, arrays["step"], {"long_name": "training step"}),
        "step_j": (_COLUMN, arrays["step"], {"long_name": "training step"}),
    }
    if "mode" in arrays:
        coordinates["mode"] = (_ROW, arrays["mode"], _mode_attributes())
    error = arrays.get("error" if name == "map" else "gram_error")
    if error is not None:
        words = {"long_name": "standard error; 0 where the entry is exact"}
        coordinates["standard_error"] = ((_ROW, _COLUMN), error, words)
    attributes = {
        **_origin(facts),
        "scope": request.scope,
        "relative_to": "origin" if request.relative_to is None else request.relative_to,
    }
    if name == "map":
        is_partial = "is_partial" in arrays
        attributes |= {"kernel": request.kernel, **_mean(entries, error, request, is_partial)}
        if is_partial:
            attributes["not_available"] = "entries that rest on estimates: a server tells them"
        attributes["long_name"] = _map_words(request)
    else:
        # A Gram is about the origin, whatever the map beside it is about.
        attributes |= {"relative_to": "origin", "long_name": "inner product of parameters"}
    return xr.DataArray(entries, coordinates, (_ROW, _COLUMN), name, attributes)


def _mean(entries: Any, error: Any, request: MapRequest, is_partial: bool) -> dict[str, float]:
    """The mean of a map under its name: that of all defined entries, the diagonal included.

    Undefined for a part of a map: the mean over what happens to be known is another measure.
    """
    defined = ~np.isnan(entries) & (not is_partial)
    name = "mean" if request.kernel != "linear" else "mds" if request.relative_to is None else "relative_mds"
    found = {name: float(entries[defined].mean()) if defined.any() else float("nan")}
    if error is not None and defined.any():
        found[f"{name}_error"] = float(error[defined].mean())
    return found


def _map_words(request: MapRequest) -> str:
    if request.kernel != "linear":
        return f"{request.kernel} similarity"
    about = "" if request.relative_to is None else f" about checkpoint {request.relative_to}"
    return f"cosine similarity{about}"


def _origin(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Where the numbers come from."""
    return {name: facts[name] for name in ("run", "run_id", "source")}


def _mode_attributes() -> dict[str, Any]:
    return {"long_name": "what was trained", "flag_values": [0, 1], "flag_meanings": "full norm_only"}


def label_hallmarks(arrays: Arrays, scope: str, facts: Mapping[str, Any]) -> xr.Dataset:
    """Every hallmark over (checkpoint); the standard error of NAME is NAME_error, where it rests on estimates."""
    found = xr.Dataset(attrs={**_origin(facts), "scope": scope})
    if "not_available" in facts:
        found.attrs["not_available"] = facts["not_available"]
    found = found.assign_coords(_over_checkpoints(arrays))
    for name, values in arrays.items():
        if name != _ROW and name not in _COORDINATES:
            found[variable_name(name)] = (_ROW, values, _describe(name))
    return found


def _over_checkpoints(arrays: Arrays) -> dict[str, Any]:
    coordinates: dict[str, Any] = {
        _ROW: (_ROW, arrays["checkpoint"], {"long_name": "checkpoint"}),
        "step": (_ROW, arrays["step"], {"long_name": "training step"}),
    }
    if "mode" in arrays:
        coordinates["mode"] = (_ROW, arrays["mode"], _mode_attributes())
    return coordinates


def _describe(name: str) -> dict[str, str]:
    measure = name.removeprefix(_ERROR)
    words = _WORDS.get(measure)
    if measure.startswith("update_cosine_lag"):
        words = f"cosine between updates, {measure.removeprefix('update_cosine_lag')} apart"
    attributes = {"long_name": words or measure}
    if name.startswith(_ERROR):
        attributes["long_name"] = f"standard error: {attributes['long_name']}"
    if measure.endswith("_degrees"):
        attributes["units"] = "degrees"
    return attributes


def label_checkpoints(arrays: Arrays, facts: Mapping[str, Any]) -> xr.Dataset:
    """What is known of each checkpoint of the path; `time` as datetime64, undefined as NaN or NaT."""
    found = xr.Dataset(attrs=_origin(facts)).assign_coords(_over_checkpoints(arrays))
    for name, values in arrays.items():
        if name == "time_unix_seconds":
            found["time"] = (_ROW, _moments(values), {"long_name": "when the copy was taken, UTC"})
        elif name != _ROW and name not in _COORDINATES:
            found[name] = (_ROW, values)
    return found


def _moments(seconds: Any) -> Any:
    """[T] seconds since 1970 to datetime64, to the microsecond; NaT where undefined or out of range."""
    known = np.isfinite(seconds) & (np.abs(seconds) < 9e9)
    micro = np.rint(np.where(known, seconds, 0.0) * 1e6).astype(np.int64)
    moments = micro.astype("datetime64[us]").astype("datetime64[ns]")
    moments[~known] = np.datetime64("NaT")
    return moments


def label_layers(layout: LayoutFacts, facts: Mapping[str, Any]) -> xr.Dataset:
    """What the run is over: `member`, (group, layer), says which layers a group holds."""
    member = np.zeros((len(layout.groups), len(layout.layers)), dtype=bool)
    for row, positions in enumerate(layout.groups.values()):
        member[row, list(positions)] = True
    found = xr.Dataset(
        {"member": (("group", "layer"), member, {"long_name": "whether the group holds the layer"})},
        {"group": _texts(list(layout.groups)), "layer": _texts(layout.layers)},
        _origin(facts),
    )
    for name, values in layout.columns.items():
        is_text = bool(values) and isinstance(values[0], str)
        found[name] = ("layer", _texts(values) if is_text else np.array(values))
    return found


def _texts(values: Sequence[str]) -> Any:
    return np.array(list(values), dtype=object)


def label_summary(latest: Mapping[str, Mapping[str, float]], facts: Mapping[str, Any]) -> xr.Dataset:
    """The latest hallmarks of every group, over (group), NaN where undefined; the facts are its attributes."""
    found = xr.Dataset(coords={"group": _texts(list(latest))}, attrs=dict(facts))
    names = dict.fromkeys(name for values in latest.values() for name in values)
    for name in names:
        default = 0.0 if name.startswith(_ERROR) else np.nan
        column = [values.get(name, default) for values in latest.values()]
        found[variable_name(name)] = ("group", np.array(column, dtype=np.float64), _describe(name))
    return found
