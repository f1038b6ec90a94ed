"""Appends rows for ever and prints the number of each once it is acknowledged. Arguments: root, first checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from trajmon_protos.record import Row, encode
from trajmon_protos.v1 import types_pb2
from trajmon_server.store.journal import LocalJournal

RUN_ID = "ab" * 16
LAYERS = 40


def record(checkpoint: int) -> bytes:
    header = types_pb2.RowHeader(run_id=RUN_ID, checkpoint=checkpoint, num_parts=1, num_layers=LAYERS)
    gram = np.random.default_rng(checkpoint).standard_normal((LAYERS, checkpoint + 1))
    return encode(Row(header, gram, np.zeros((LAYERS, 4)), np.zeros(LAYERS, np.uint8)))


def main(root: Path, first: int) -> None:
    journal = LocalJournal(root)
    checkpoint = first
    while True:
        outcome = journal.append(RUN_ID, checkpoint, 0, record(checkpoint))
        sys.stdout.write(f"{checkpoint} {outcome}\n")
        sys.stdout.flush()
        checkpoint += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
