"""JSON schemas of the answers, for the OpenAPI document; every object lists all of its members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trajmon_server.query.overview import KINDS
from trajmon_server.web.values import ADVICE_STATES, MODES, PHASES, SNAPSHOT_MODES

__all__ = [
    "CROSS",
    "HALLMARKS",
    "LAYERS",
    "MAP",
    "NULL",
    "OPENAPI",
    "PROBLEM",
    "RUN",
    "RUN_LIST",
    "SPECTRUM",
    "ZARR_METADATA",
]

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
UNDEFINED: Schema = {"type": ["number", "null"], "description": "null where undefined"}


def _object(members: Mapping[str, Schema], description: str = "") -> Schema:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": dict(members),
        "required": list(members),
        "additionalProperties": False,
    }
    return schema | ({"description": description} if description else {})


def _list(item: Schema, description: str = "") -> Schema:
    schema: dict[str, Any] = {"type": "array", "items": dict(item)}
    return schema | ({"description": description} if description else {})


def _by_name(value: Schema, description: str = "") -> Schema:
    schema: dict[str, Any] = {"type": "object", "additionalProperties": dict(value)}
    return schema | ({"description": description} if description else {})


def _one_of(words: tuple[str, ...]) -> Schema:
    return {"type": "string", "enum": list(words)}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [dict(schema), {"type": "null"}]}


PROBLEM = {
    "type": "object",
    "properties": {
        "type": TEXT,
        "title": TEXT,
        "status": INTEGER,
        "detail": {"type": "string", "description": "what was wrong, and what to do"},
        "reason": {"type": "string", "description": "machine-readable, UPPER_SNAKE_CASE"},
        "violations": _list(_object({"field": TEXT, "text": TEXT})),
    },
    "required": ["type", "title", "status", "detail", "reason"],
    "additionalProperties": False,
}
"""RFC 9457."""

_ADVICE = _object(
    {
        "state": _one_of(ADVICE_STATES),
        "checkpoint": COUNT,
        "reason": TEXT,
        "evidence": _by_name(NUMBER, "the numbers behind the state; undefined ones are left out"),
        "policy": TEXT,
    }
)
_SUMMARY: dict[str, Schema] = {
    "name": TEXT,
    "id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "tags": _list(TEXT),
    "phase": _one_of(PHASES),
    "reason": {"type": "string", "description": "why it is in this phase, where that needs saying"},
    "attempt": COUNT,
    "created": {"type": "number", "description": "Unix seconds"},
    "checkpoints": {
        "type": "integer",
        "minimum": 0,
        "description": "recorded in all, superseded ones included",
    },
    "superseded": COUNT,
    "open": {"type": "integer", "minimum": 0, "description": "checkpoints of which some parts have not come"},
    "last_step": {"type": ["integer", "null"]},
    "last_time": {"type": ["number", "null"], "description": "Unix seconds"},
    "parameters": COUNT,
    "mds": UNDEFINED,
    "mds_error": {
        "type": "number",
        "minimum": 0,
        "description": "standard error of mds, 0 where it is exact",
    },
    "advice": _ADVICE,
    "mode": _one_of(MODES),
    "snapshot_mode": _one_of(SNAPSHOT_MODES),
    "sketch": _or_null(_object({"version": COUNT, "seed": TEXT, "bins": COUNT})),
    "early_checkpoints": {
        "type": "integer",
        "minimum": 0,
        "description": "checkpoints whose row has not come, shown by their sketches",
    },
    "sparkline": _list(UNDEFINED, "MDS of the network over the run, at most 64 values evenly spread"),
}
RUN_LIST = _object(
    {
        "runs": _list(_object(_SUMMARY)),
        "next_cursor": {"type": ["string", "null"], "description": "null on the last page"},
    }
)

_PLACE: dict[str, Schema] = {
    "name": TEXT,
    "kind": _one_of((*KINDS, "other")),
    "role": {"type": "string", "description": "its name with * for every number: the same in all blocks"},
    "depth": {
        "type": "integer",
        "minimum": 0,
        "description": "blocks, or modules outside of blocks, before its own",
    },
    "parameters": COUNT,
}
_BY_GROUP = _by_name(_by_name(UNDEFINED))
_CHECKPOINTS = _list(COUNT, "checkpoint numbers")
_STEPS = _list(INTEGER, "training steps; -1 where a row has been lost")
_MODES = _list({"type": "integer", "enum": [0, 1]}, "1: norm-only training")
RUN = _object(
    {
        **_SUMMARY,
        "layers": _list(_object({**_PLACE, "shape": _list(COUNT), "dtype": TEXT})),
        "groups": _list(_object({"name": TEXT, "layers": _list(COUNT, "positions among the layers")})),
        "hallmarks": _BY_GROUP,
        "errors": _BY_GROUP,
        "findings": _list(
            _object({"kind": TEXT, "checkpoint": COUNT, "text": TEXT}), "doubts about checkpoints"
        ),
        "non_finite": _list(
            _object({"checkpoint": COUNT, "layers": _list(TEXT)}),
            "layers that held NaN or Inf; the first 100",
        ),
        "missing": _list(
            _object({"checkpoint": COUNT, "num_parts": COUNT, "missing_parts": _list(COUNT)}),
            "checkpoints that wait for parts; the first 100",
        ),
        "agent": _object(
            {
                "phase": _one_of(PHASES),
                "reason": TEXT,
                "checkpoints_recorded": COUNT,
                "checkpoints_skipped": COUNT,
                "checkpoints_pending": COUNT,
                "checkpoints_uncomputed": COUNT,
                "snapshot_bytes": COUNT,
                "agent_restarts": COUNT,
                "lag_seconds": UNDEFINED,
            }
        ),
        "failure": {"type": "string", "description": "why the server cannot work off the run's rows, if so"},
        "phases": _list(
            _object({"start": COUNT, "stop": COUNT, "learning_rate": UNDEFINED}),
            "checkpoints with one learning rate, first and last inclusive; empty unless constant or stepwise",
        ),
        "schedule": _one_of(("constant", "stepwise", "continuous", "unknown")),
        "plan": _or_null(
            _object(
                {
                    "steps_ahead": _or_null(COUNT),
                    "rates_are_known": {"type": "boolean"},
                    "objective": {"type": "string", "description": "name of a metric, or empty"},
                    "larger_is_better": {"type": "boolean"},
                    "objective_tolerance": UNDEFINED,
                },
                "what training intends, as of the newest checkpoint",
            )
        ),
        "outlooks": _list(
            _object(
                {
                    "group": TEXT,
                    "remaining": NUMBER,
                    "low": NUMBER,
                    "high": NUMBER,
                    "settled_since": _or_null(COUNT),
                }
            ),
            "how far each group still has to go, as part of its distance from the initialization, with an interval; "
            "settled ones first, in the order in which they settled",
        ),
        "history": _list(
            _object({"checkpoint": COUNT, "state": _one_of(ADVICE_STATES)}), "where the advice changed"
        ),
    }
)

HALLMARKS = _object(
    {
        "run": TEXT,
        "scope": TEXT,
        "reduced": _or_null(
            _object(
                {
                    "from": COUNT,
                    "to": COUNT,
                    "every": {
                        "type": "integer",
                        "minimum": 2,
                        "description": "each so-many-th checkpoint is there",
                    },
                    "path": _list(
                        _list(COUNT), "all checkpoints of the path: ranges, first and last inclusive"
                    ),
                },
                "checkpoints are left out; what is there is exact",
            )
        ),
        "checkpoint": _CHECKPOINTS,
        "step": _STEPS,
        "mode": _MODES,
        "epoch": _list(UNDEFINED),
        "learning_rate": _list(UNDEFINED),
        "time_unix_seconds": _list(UNDEFINED),
        "metrics": _by_name(_list(UNDEFINED)),
        "hallmarks": _by_name(_list(UNDEFINED)),
        "errors": _by_name(
            _list(UNDEFINED), "standard errors of those that rest on estimates, 0 where exact"
        ),
    }
)

_MAP: dict[str, Schema] = {
    "run": TEXT,
    "scope": TEXT,
    "kernel": _one_of(("linear", "rbf", "polynomial")),
    "relative_to": {"type": ["integer", "null"], "description": "null: about the origin"},
    "shape": _list(COUNT),
    "mean": {
        "type": ["number", "null"],
        "description": "of all defined entries, before any reduction: the MDS",
    },
    "mean_error": {"type": ["number", "null"], "description": "bound of its standard error; 0 where exact"},
    "has_error": {"type": "boolean", "description": "whether entries are estimates"},
    "reduced": _or_null(
        _object(
            {
                "from": COUNT,
                "to": COUNT,
                "block": {"type": "integer", "minimum": 2, "description": "checkpoints in a block"},
                "blocks": _list(_list(COUNT), "first and last checkpoint of each block, inclusive"),
            },
            "entries are means of the defined entries of blocks",
        )
    ),
    "checkpoint": _list(COUNT, "checkpoint numbers; of a block, the first"),
    "step": _STEPS,
    "mode": _MODES,
}
_ENTRIES = _list(_list(UNDEFINED), "row by row")
_WITH_ENTRIES = {**_MAP, "map": _ENTRIES}
MAP = {
    **_object(_WITH_ENTRIES),
    "properties": {**_WITH_ENTRIES, "error": {**_ENTRIES, "description": "standard errors, if has_error"}},
}
NULL = _object({**_WITH_ENTRIES, "undefined_because": TEXT})

_LAYERS: dict[str, Schema] = {
    "run": TEXT,
    "shape": _list(COUNT),
    "total": {"type": "integer", "minimum": 0, "description": "checkpoints on the path"},
    "has_error": FLAG,
    "checkpoint": _list(COUNT, "checkpoints of the small maps, evenly spread over the path"),
    "step": _STEPS,
    "left_out": {
        "type": "string",
        "description": "why mds and relative_mds are null; empty if they are not left out",
    },
    "layers": _list(_object({**_PLACE, "hallmarks": _by_name(UNDEFINED)})),
    "maps": _list(_ENTRIES, "one for each layer; entries of the whole map, not means"),
}
LAYERS = {
    **_object(_LAYERS),
    "properties": {**_LAYERS, "errors": _list(_ENTRIES, "standard errors, if has_error; 0 where exact")},
}

_CROSS_ROWS = _list(_list(UNDEFINED), "a row for each checkpoint of `run`, an entry for each of `other`")
CROSS = _object(
    {
        "run": TEXT,
        "other": TEXT,
        "scope": TEXT,
        "from_initialization": FLAG,
        "map": _CROSS_ROWS,
        "error": _CROSS_ROWS,
        "distance": _CROSS_ROWS,
        "distance_error": _CROSS_ROWS,
        "checkpoint": _list(COUNT),
        "step": _list(INTEGER),
        "other_checkpoint": _list(COUNT),
        "other_step": _list(INTEGER),
    }
)

_SPECTRUM_OF = _object(
    {
        "eigenvalues": _list(NUMBER, "largest first, over the points between which all is defined"),
        "effective_rank": UNDEFINED,
        "error": {
            "type": ["number", "null"],
            "description": "no eigenvalue is off by much more; 0 where exact",
        },
    }
)
SPECTRUM = _object(
    {
        "run": TEXT,
        "scope": TEXT,
        "total": {"type": "integer", "minimum": 0, "description": "checkpoints that were asked for"},
        "checkpoint": _list(COUNT, "those that were taken: all, or 1024 evenly spread"),
        "map": _SPECTRUM_OF,
        "gram": _SPECTRUM_OF,
    }
)
ZARR_METADATA: Schema = {"type": "object", "description": "Zarr v3 metadata"}
OPENAPI: Schema = {"type": "object", "description": "this document"}
