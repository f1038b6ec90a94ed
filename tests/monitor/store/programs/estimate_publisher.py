"""Publishes rows with estimates one by one and prints the number published. Arguments: root, first, rows to publish."""

from __future__ import annotations

import sys
from pathlib import Path

from support.estimated_rows import SHAPE, item
from trajmon_server.store.maps import MapStore


def main(root: Path, first: int, stop: int) -> None:
    store = MapStore(root, SHAPE)
    sys.stdout.write(f"{len(store.findings)} findings\n")
    sys.stdout.flush()
    for number in range(store.published(), stop):
        store.publish([item(number, first)])
        sys.stdout.write(f"{store.published()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
