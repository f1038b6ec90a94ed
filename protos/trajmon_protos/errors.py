"""Errors of the wire contract.

ContractError (ValueError)
├── RecordError    bytes that are not a valid record
├── SketchError    sketches, or a specification of them, that cannot be, or that do not go together
└── ScopeError     a scope that is not `network`, `group:NAME` or `layer:NAME`
"""

from __future__ import annotations

from typing import Literal

__all__ = ["ContractError", "RecordError", "RecordProblem", "ScopeError", "SketchError"]

RecordProblem = Literal[
    "bad_header", "damaged", "not_a_record", "truncated", "unknown_version", "wrong_length", "wrong_payload"
]


class ContractError(ValueError):
    """Something that came over the wire, or out of a file, breaks the contract."""


class RecordError(ContractError):
    """Bytes that are not a valid record.

    >>> RecordError("damaged", "record does not match its checksum").kind
    'damaged'
    """

    def __init__(self, kind: RecordProblem, message: str) -> None:
        super().__init__(message)
        self.kind: RecordProblem = kind


class ScopeError(ContractError):
    """A scope that is not ``network``, ``group:NAME`` or ``layer:NAME``."""


class SketchError(ContractError):
    """Sketches, or a specification of them, that cannot be, or that do not go together."""
