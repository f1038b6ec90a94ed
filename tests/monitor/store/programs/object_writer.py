"""Appends rows to a journal in an object store and prints what came of each, as `checkpoint outcome`.

Arguments: URL, options as JSON, attempt (which makes records differ), first checkpoint, how many.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from trajmon_protos.record import Row, encode
from trajmon_protos.v1 import types_pb2
from trajmon_server.store.errors import ConflictError
from trajmon_server.store.object_journal import ObjectJournal
from trajmon_server.store.objects import open_objects

RUN_ID = "ab" * 16
LAYERS = 4


def record(checkpoint: int, attempt: int) -> bytes:
    header = types_pb2.RowHeader(
        run_id=RUN_ID, attempt=attempt, checkpoint=checkpoint, num_parts=1, num_layers=LAYERS
    )
    gram = np.random.default_rng([checkpoint, attempt]).standard_normal((LAYERS, checkpoint + 1))
    return encode(Row(header, gram, np.zeros((LAYERS, 4)), np.zeros(LAYERS, np.uint8)))


def main(url: str, options: dict[str, str], attempt: int, first: int, count: int) -> None:
    journal = ObjectJournal(open_objects(url, options))
    for checkpoint in range(first, first + count):
        try:
            outcome: str = journal.append(RUN_ID, checkpoint, 0, record(checkpoint, attempt))
        except ConflictError:
            outcome = "conflict"
        sys.stdout.write(f"{checkpoint} {outcome}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), *map(int, sys.argv[3:6]))
