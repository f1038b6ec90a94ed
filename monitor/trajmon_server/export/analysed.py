"""What is exported of a run's analysis: hallmarks by group, and what the analysis found of the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trajmon_server.export.growth import growth, update_ratio
from trajmon_server.export.labels import RunLabels
from trajmon_server.export.text import Family, lines, with_label
from trajmon_server.hallmarks.stream import estimated_entries
from trajmon_server.runs.analysis import Analysis

__all__ = ["FAMILIES", "SERIES_PER_GROUP", "SERIES_PER_GROUP_SKETCHED", "SERIES_PER_RUN", "analysed_lines"]

_HALLMARKS = (
    ("mds", Family("trajmon_mean_directional_similarity", "Mean of all entries of the trajectory map.")),
    (
        "relative_mds",
        Family(
            "trajmon_relative_mean_directional_similarity",
            "Mean of all entries of the trajectory map relative to the initialization.",
        ),
    ),
    (
        "windowed_mds",
        Family(
            "trajmon_windowed_mean_directional_similarity",
            "Mean of all entries of the trajectory map of the last 10 checkpoints.",
        ),
    ),
    ("update_angle_degrees", Family("trajmon_update_angle_degrees", "Angle between the last two updates.")),
    ("parameter_norm", Family("trajmon_parameter_norm", "Norm of the parameters.")),
    (
        "distance_from_initialization",
        Family("trajmon_distance_from_initialization", "Distance from the initialization."),
    ),
    ("update_norm", Family("trajmon_update_norm", "Norm of the last update between checkpoints.")),
)
_NORMS = (
    Family(
        "trajmon_parameter_norm_growth",
        "Norm of the parameters over that of 8 checkpoints earlier on the path.",
    ),
    Family(
        "trajmon_update_norm_growth",
        "Norm of the last update over that of 8 checkpoints earlier on the path.",
    ),
    Family("trajmon_update_ratio", "Norm of the last update over that of the parameters."),
)
_APEX = Family("trajmon_apex_angle_degrees", "Angle of the cone that the trajectory spans at the vertex.")
_VERTICES = (
    ("apex_angle_initialization_degrees", "initialization"),
    ("apex_angle_origin_degrees", "origin"),
)
_ERROR = Family(
    "trajmon_hallmark_standard_error",
    "Standard error of a hallmark that rests on estimates from sketches; absent where it is exact.",
)
_WITH_ERROR = (
    "mds",
    "relative_mds",
    "windowed_mds",
    "distance_from_initialization",
    *(key for key, _ in _VERTICES),
)
"""Angles between updates, and norms, never rest on estimates."""
_OF_RUN = (
    Family("trajmon_integrity_findings", "Integrity findings of the run."),
    Family(
        "trajmon_estimated_entries",
        "Inner products of checkpoints of the whole network that are estimates from sketches.",
    ),
    Family("trajmon_nonfinite_layers", "Layers that hold NaN or Inf at the last checkpoint."),
)
FAMILIES = (*(family for _, family in _HALLMARKS), *_NORMS, _APEX, _ERROR, *_OF_RUN)
SERIES_PER_GROUP = len(_HALLMARKS) + len(_NORMS) + len(_VERTICES)
SERIES_PER_GROUP_SKETCHED = SERIES_PER_GROUP + len(_WITH_ERROR)
SERIES_PER_RUN = len(_OF_RUN)


def analysed_lines(labels: RunLabels, analysis: Analysis) -> tuple[bytes, ...]:
    """The run's lines of each of :data:`FAMILIES`, in their order. A function of the analysis alone."""
    hallmarks = [(text, analysis.hallmarks.get(name, {})) for name, text in labels.groups]
    found = [
        lines(family, [(text, values.get(key, math.nan)) for text, values in hallmarks])
        for key, family in _HALLMARKS
    ]
    growths = [growth(state) for state in analysis.streams]
    texts = [text for _, text in labels.groups]
    parameters, updates, ratio = _NORMS
    found += [
        lines(parameters, zip(texts, [grown for grown, _ in growths], strict=True)),
        lines(updates, zip(texts, [grown for _, grown in growths], strict=True)),
        lines(ratio, zip(texts, [update_ratio(state) for state in analysis.streams], strict=True)),
        lines(
            _APEX,
            [
                (with_label(text, "vertex", vertex), values.get(key, math.nan))
                for key, vertex in _VERTICES
                for text, values in hallmarks
            ],
        ),
        _error_lines(labels, analysis.errors),
    ]
    estimated = int(estimated_entries(analysis.streams[0]).sum())
    bad = math.nan if analysis.non_finite_layers is None else analysis.non_finite_layers
    numbers = (len(analysis.findings), estimated, bad)
    found += [lines(family, [(labels.run, value)]) for family, value in zip(_OF_RUN, numbers, strict=True)]
    return tuple(found)


def _error_lines(labels: RunLabels, errors: Mapping[str, Mapping[str, float]]) -> bytes:
    return lines(
        _ERROR,
        [
            (with_label(text, "hallmark", key), errors[name][key])
            for name, text in labels.groups
            for key in _WITH_ERROR
            if key in errors.get(name, ())
        ],
    )
