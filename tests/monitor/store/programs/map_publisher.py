"""Publishes rows one by one and prints the number published. Arguments: root, journal root, rows to publish."""

from __future__ import annotations

import sys
from pathlib import Path

from trajmon_server.store.journal import LocalJournal
from trajmon_server.store.layout import RunShape
from trajmon_server.store.maps import MapStore, PublishRow

RUN_ID = "ab" * 16


def main(root: Path, journal: LocalJournal, stop: int) -> None:
    shape = RunShape(
        RUN_ID, "demo", ("conv.weight", "bn.weight", "fc.bias é"), (("network", (0, 1, 2)), ("norm", (1,)))
    )
    store = MapStore(root, shape, journal)
    sys.stdout.write(f"{len(store.findings)} findings\n")
    sys.stdout.flush()
    for row in journal.read_rows(RUN_ID, store.published(), stop):
        store.publish([PublishRow(row, row.header.attempt)])
        sys.stdout.write(f"{store.published()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), LocalJournal(Path(sys.argv[2])), int(sys.argv[3]))
