"""The table of the API: every endpoint, once."""

from __future__ import annotations

from importlib.metadata import version

from starlette.responses import Response

from trajmon_server.web import schemas
from trajmon_server.web.backend import Backend
from trajmon_server.web.cross_answers import cross_map
from trajmon_server.web.curve_answers import hallmarks
from trajmon_server.web.endpoints import Call, Endpoint
from trajmon_server.web.layer_answers import layers
from trajmon_server.web.map_endpoint import FORMATS, LARGEST, trajectory_map
from trajmon_server.web.openapi import document
from trajmon_server.web.parameters import choice, flag, text, whole
from trajmon_server.web.pieces import json_answer
from trajmon_server.web.run_answers import events, run_details, run_list
from trajmon_server.web.spectrum_answers import random_walk, spectrum
from trajmon_server.web.values import PHASES
from trajmon_server.web.zarr_files import zarr_file

__all__ = ["ENDPOINTS", "PREFIX"]

PREFIX = "/api/v1"
_RUN = f"{PREFIX}/runs/{{run}}"
_SCOPE = text("scope", "network, group:NAME or layer:NAME", longest=600, default="network")
_START = whole("start", "first checkpoint number, inclusive")
_STOP = whole("stop", "last checkpoint number, exclusive")
_SUPERSEDED = flag("superseded", "checkpoints that a restart replaced as well")
_SIZE = whole(
    "size",
    "side of the map at most; a longer one is reduced to means over blocks",
    least=1,
    most=LARGEST,
    default=LARGEST,
)
_VERSION = whole(
    "version", "of an event of the run's stream: an answer that was begun after it will do, and is shared"
)
_KERNELS = ("linear", "rbf", "polynomial")


async def _document(backend: Backend, call: Call) -> Response:
    return json_answer(document(ENDPOINTS, version("trajmon")))


ENDPOINTS = (
    Endpoint(
        f"{PREFIX}/openapi.json",
        "getOpenApi",
        "This document",
        _document,
        (),
        {"application/json": schemas.OPENAPI},
    ),
    Endpoint(
        f"{PREFIX}/runs",
        "listRuns",
        "Runs, newest first",
        run_list,
        (
            text("search", "only runs whose name holds this, in any case"),
            text("tag", "only runs with this tag; several: with all of them", repeated=True),
            choice("phase", "only runs in this phase; any: all of them", ("any", *PHASES[1:]), default="any"),
            whole("limit", "runs in one answer at most", least=1, most=1000, default=100),
            text("cursor", "next_cursor of the answer before", longest=200),
        ),
        {"application/json": schemas.RUN_LIST},
    ),
    Endpoint(
        _RUN,
        "getRun",
        "Everything about one run but its maps and curves",
        run_details,
        (_VERSION,),
        {"application/json": schemas.RUN},
    ),
    Endpoint(
        f"{_RUN}/hallmarks",
        "getHallmarks",
        "Every hallmark of a scope over the checkpoints",
        hallmarks,
        (
            _SCOPE,
            whole(
                "max_points",
                "checkpoints at most: evenly spaced ones and the last; without it, all",
                least=2,
                most=1_000_000,
            ),
            choice("format", "form of the answer", ("json", "csv", "arrow"), default="json"),
            _VERSION,
        ),
        {"application/json": schemas.HALLMARKS, "text/csv": {}, "application/vnd.apache.arrow.stream": {}},
    ),
    Endpoint(
        f"{_RUN}/map",
        "getMap",
        "A trajectory map",
        trajectory_map,
        (
            _SCOPE,
            whole("relative_to", "checkpoint that cosines are taken about; without it, the origin"),
            choice(
                "kernel",
                "similarity of two checkpoints; others than linear are about the origin",
                _KERNELS,
                default="linear",
            ),
            _START,
            _STOP,
            _SUPERSEDED,
            _SIZE,
            choice("format", "form of the answer; npz is never reduced", FORMATS, default="json"),
            choice(
                "scale",
                "colours of a picture: ending at 1, or fitted to the entries",
                ("fixed", "fitted"),
                default="fixed",
            ),
            _VERSION,
        ),
        {
            "application/json": schemas.MAP,
            "application/vnd.trajmon.f32": {},
            "image/png": {},
            "image/svg+xml": {},
            "application/octet-stream": {},
        },
    ),
    Endpoint(
        f"{_RUN}/layers",
        "getLayers",
        "Every layer: its latest hallmarks, and a small map over a few checkpoints",
        layers,
        (
            whole("size", "checkpoints of the small maps at most", least=2, most=48, default=48),
            choice("format", "form of the answer", ("json", "f32"), default="json"),
            _VERSION,
        ),
        {"application/json": schemas.LAYERS, "application/vnd.trajmon.f32": {}},
    ),
    Endpoint(
        f"{_RUN}/spectrum",
        "getSpectrum",
        "Eigenvalues and effective ranks of a scope's map and Gram",
        spectrum,
        (_SCOPE, _START, _STOP, _VERSION),
        {"application/json": schemas.SPECTRUM},
    ),
    Endpoint(
        f"{_RUN}/null",
        "getNull",
        "The map about the initialization that a random walk with the run's learning rates would have",
        random_walk,
        (
            _SCOPE,
            _START,
            _STOP,
            _SIZE,
            choice("format", "form of the answer", ("json", "f32"), default="json"),
            _VERSION,
        ),
        {"application/json": schemas.NULL, "application/vnd.trajmon.f32": {}},
    ),
    Endpoint(
        f"{PREFIX}/cross",
        "getCrossMap",
        "Cosines and distances between the checkpoints of two runs, from their sketches",
        cross_map,
        (
            text("run", "name or id of a run", longest=300, default=""),
            text("other", "name or id of another", longest=300, default=""),
            _SCOPE,
            flag("from_initialization", "between the displacements from each run's checkpoint 0"),
            whole("size", "checkpoints of each run at most, evenly chosen", least=2, most=256, default=128),
        ),
        {"application/json": schemas.CROSS},
    ),
    Endpoint(
        f"{_RUN}/zarr/{{path:path}}",
        "getZarrFile",
        "A file of the run's Zarr store, for xarray.open_zarr",
        zarr_file,
        (),
        {"application/octet-stream": {}, "application/json": schemas.ZARR_METADATA},
        (206, 416),
    ),
    Endpoint(
        f"{_RUN}/events",
        "watchRun",
        "The run as it goes on, as server-sent events",
        events,
        (),
        {"text/event-stream": {}},
    ),
)
