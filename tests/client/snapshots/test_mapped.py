"""Memory of mapped snapshots is given back, and what they hold stays the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trajmon.numerics.gram import PathIndices, gram_rows
from trajmon.numerics.layout import Group, Layer, Layout
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.mapped import releaser
from trajmon.snapshots.store import SnapshotStore

MIB = 1 << 20


def resident_bytes(path: Path) -> int:
    """Of the mapping of a file, by the kernel's count."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    found = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
    rss = next(line for line in lines[found:] if line.startswith("Rss:"))
    return int(rss.split()[1]) << 10


def test_a_pass_leaves_little_of_a_mapped_snapshot_in_memory(tmp_path: Path) -> None:
    layout = Layout(
        (Layer("w", (4 * MIB,), "float32"), Layer("b", (5,), "float32")), (Group("network", (0, 1)),)
    )
    store = SnapshotStore(tmp_path, layout.fingerprint, layout.nbytes, writer="agent")
    random = np.random.default_rng(0)
    for number in range(2):
        data = np.zeros(layout.nbytes, np.uint8)
        data.view(np.float32)[:] = random.standard_normal(layout.nbytes // 4, np.float32)
        store.write(number, SnapshotHeader(number, 1, number, layout.fingerprint), data.data, durable=False)
    stored, new = store.data(0), store.data(1)
    path = PathIndices(0, None, None)
    (plain,) = gram_rows(layout, [new], [stored], [path], threads=2)
    assert resident_bytes(store.path(0)) > 15 * MIB
    (released,) = gram_rows(layout, [new], [stored], [path], threads=2, release=releaser([stored, None, new]))
    assert resident_bytes(store.path(0)) < 2 * MIB
    assert resident_bytes(store.path(1)) < 2 * MIB
    np.testing.assert_array_equal(released.gram, plain.gram)
    np.testing.assert_array_equal(released.products, plain.products)
