"""The contract of every journal: sketch records are kept like rows, beside them, and never taken for them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from support.shelves import Shelf, change, flip, kept
from trajmon_protos.record import Row, encode
from trajmon_protos.sketch_record import SketchRow, encode_sketch
from trajmon_server.store import errors
from trajmon_server.store.base import Journal

RowMaker = Callable[..., Row]
SketchMaker = Callable[..., SketchRow]


def sketch_path(run_id: str, checkpoint: int, part: int = 0) -> str:
    return f"{run_id}/sketches/{checkpoint:08d}.{part:04d}.sketch"


class SketchContract:
    """What holds for every journal, as far as it keeps sketches. A subclass gives `shelf`."""

    @pytest.fixture
    def journal(self, shelf: Shelf) -> Journal:
        return shelf.open()

    @pytest.mark.parametrize("dtype", ["<f4", "<f8", "<i8"])
    def test_a_sketch_comes_back_byte_for_byte(
        self, journal: Journal, make_sketch: SketchMaker, run_id: str, dtype: str
    ) -> None:
        sketch = make_sketch(2, dtype=dtype)
        record = encode_sketch(sketch)
        assert journal.append(run_id, 2, 0, record, "sketch") == "stored"
        assert journal.append(run_id, 2, 0, record, "sketch") == "duplicate"
        assert journal.read(run_id, 2, kind="sketch") == record
        found = journal.read_sketch(run_id, 2)
        assert found.header == sketch.header
        for name in ("norms", "products", "status", "gram", "values"):
            assert np.array_equal(getattr(found, name), getattr(sketch, name)), name

    def test_rows_and_sketches_do_not_see_each_other(
        self, journal: Journal, make_row: RowMaker, make_sketch: SketchMaker, run_id: str
    ) -> None:
        row, sketches = encode(make_row(0)), [encode_sketch(make_sketch(n)) for n in range(3)]
        journal.append(run_id, 0, 0, row)
        for number, sketch in enumerate(sketches):
            journal.append(run_id, number, 0, sketch, "sketch")
        journal.append(run_id, 1, 2, sketches[1], "sketch")
        assert journal.count(run_id) == 1
        assert [(key.checkpoint, key.part, key.size_bytes) for key in journal.list_rows(run_id)] == [
            (0, 0, len(row))
        ]
        sizes = [len(record) for record in sketches]
        assert [
            (key.checkpoint, key.part, key.size_bytes) for key in journal.list_rows(run_id, "sketch")
        ] == [
            (0, 0, sizes[0]),
            (1, 0, sizes[1]),
            (1, 2, sizes[1]),
            (2, 0, sizes[2]),
        ]
        assert (journal.parts(run_id, 1), journal.parts(run_id, 1, "sketch")) == ([], [0, 2])
        assert [checkpoint for checkpoint, _, _ in journal.headers(run_id)] == [0]
        assert [found.header.checkpoint for found in journal.read_rows(run_id)] == [0]
        assert journal.read(run_id, 0) == row

    def test_a_run_with_sketches_alone_is_listed(
        self, journal: Journal, make_sketch: SketchMaker, run_id: str
    ) -> None:
        journal.append(run_id, 0, 0, encode_sketch(make_sketch(0)), "sketch")
        assert journal.list_runs() == [run_id]
        assert journal.list_rows(run_id) == []

    def test_another_sketch_under_the_same_key_is_refused(
        self, journal: Journal, make_sketch: SketchMaker, run_id: str
    ) -> None:
        first, second = (encode_sketch(make_sketch(0, attempt=attempt)) for attempt in (1, 2))
        journal.append(run_id, 0, 0, first, "sketch")
        with pytest.raises(errors.ConflictError) as caught:
            journal.append(run_id, 0, 0, second, "sketch")
        assert str(caught.value) == (
            f"sketch of checkpoint 0 part 0 of run {run_id} is stored with digest {first[-16:].hex()}, the record "
            f"offered has {second[-16:].hex()}; a stored record never changes: send the first record again, or record "
            "under a new checkpoint number"
        )
        assert journal.read(run_id, 0, kind="sketch") == first

    def test_of_many_writers_of_one_sketch_one_wins(
        self, journal: Journal, make_sketch: SketchMaker, run_id: str
    ) -> None:
        records = [encode_sketch(make_sketch(0, attempt=attempt)) for attempt in range(1, 9)]

        def offer(record: bytes) -> str:
            try:
                return journal.append(run_id, 0, 0, record, "sketch")
            except errors.ConflictError:
                return "conflict"

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(offer, records))
        assert sorted(outcomes) == ["conflict"] * 7 + ["stored"]
        assert journal.read(run_id, 0, kind="sketch") == records[outcomes.index("stored")]

    @pytest.mark.parametrize("dtype", ["<f4", "<i8"])
    @pytest.mark.parametrize("num_layers", [1, 3])
    def test_the_sketch_gram_alone_equals_the_whole_record(
        self, journal: Journal, make_sketch: SketchMaker, run_id: str, num_layers: int, dtype: str
    ) -> None:
        sketches = [make_sketch(number, num_layers, dtype=dtype) for number in range(5)]
        for number, sketch in enumerate(sketches):
            journal.append(run_id, number, 0, encode_sketch(sketch), "sketch")
        wanted = [4, 0, 2]
        for layer in range(num_layers):
            found = journal.read_sketch_gram(run_id, layer, wanted)
            assert all(np.array_equal(a, sketches[n].gram[layer]) for a, n in zip(found, wanted, strict=True))
        found = journal.read_sketch_gram(run_id, None, wanted)
        assert all(np.array_equal(a, sketches[n].gram) for a, n in zip(found, wanted, strict=True))
        with pytest.raises(ValueError, match=rf"^layer index {num_layers} is not in 0\.\.{num_layers - 1}$"):
            journal.read_sketch_gram(run_id, num_layers, [0])

    @pytest.mark.parametrize("how", ["read", "read_sketch", "read_sketch_gram", "set_aside"])
    def test_an_absent_sketch_is_named(
        self, journal: Journal, make_row: RowMaker, run_id: str, how: str
    ) -> None:
        journal.append(run_id, 7, 0, encode(make_row(7)))
        actions: dict[str, Callable[[], object]] = {
            "read": lambda: journal.read(run_id, 7, kind="sketch"),
            "read_sketch": lambda: journal.read_sketch(run_id, 7),
            "read_sketch_gram": lambda: journal.read_sketch_gram(run_id, 0, [7]),
            "set_aside": lambda: journal.set_aside(run_id, 7, "for the test", kind="sketch"),
        }
        with pytest.raises(errors.RowMissingError) as caught:
            actions[how]()
        assert str(caught.value) == (
            f"sketch of checkpoint 7 part 0 of run {run_id} is not in the journal; it was never accepted, or was "
            "damaged and set aside"
        )

    def test_a_damaged_sketch_is_set_aside_and_reported(
        self, journal: Journal, shelf: Shelf, make_row: RowMaker, make_sketch: SketchMaker, run_id: str
    ) -> None:
        journal.append(run_id, 1, 0, encode(make_row(1)))
        record = encode_sketch(make_sketch(1))
        journal.append(run_id, 1, 0, record, "sketch")
        flip(shelf, sketch_path(run_id, 1), 500)
        assert journal.verify(run_id) == []
        assert journal.damages(run_id, "sketch") == []
        (found,) = journal.verify(run_id, "sketch")
        assert (found.run_id, found.checkpoint, found.part, found.kind) == (run_id, 1, 0, "sketch")
        assert found.reason == "damaged: record does not match its checksum"
        assert found.kept_as == shelf.in_full(f"{run_id}/damaged/00000001.0000.sketch.1")
        assert len(kept(shelf, found.kept_as)) == len(record)
        assert journal.verify(run_id, "sketch") == [found]
        # The row beside it is as it was.
        assert journal.damages(run_id) == []
        assert journal.count(run_id) == 0
        assert journal.read_row(run_id, 1).header == make_row(1).header
        # Sent again, it is taken again.
        assert journal.append(run_id, 1, 0, record, "sketch") == "stored"
        assert journal.read(run_id, 1, kind="sketch") == record

    def test_reading_a_damaged_sketch_says_where_it_lies(
        self, journal: Journal, shelf: Shelf, make_sketch: SketchMaker, run_id: str
    ) -> None:
        journal.append(run_id, 0, 2, encode_sketch(make_sketch(0)), "sketch")
        flip(shelf, sketch_path(run_id, 0, 2), -1)
        with pytest.raises(errors.RowDamagedError) as caught:
            journal.read_sketch(run_id, 0, 2)
        (found,) = journal.damages(run_id, "sketch")
        assert found.part == 2
        assert str(caught.value) == (
            f"sketch of checkpoint 0 part 2 of run {run_id} is damaged (record does not match its checksum); it was "
            f"set aside as {found.kept_as}: the agent that recorded it can send it again"
        )

    def test_a_damaged_sketch_is_replaced_by_the_one_sent_again(
        self, journal: Journal, shelf: Shelf, make_sketch: SketchMaker, run_id: str
    ) -> None:
        record = encode_sketch(make_sketch(0))
        journal.append(run_id, 0, 0, record, "sketch")
        for at in (700, 701):
            flip(shelf, sketch_path(run_id, 0), at)
            assert journal.append(run_id, 0, 0, record, "sketch") == "stored"
            assert journal.read(run_id, 0, kind="sketch") == record
        assert len({found.kept_as for found in journal.damages(run_id, "sketch")}) == 2

    @pytest.mark.parametrize("kept_bytes", [0, 19, 100, -1])
    def test_a_cut_sketch_is_found_by_its_size(
        self, journal: Journal, shelf: Shelf, make_sketch: SketchMaker, run_id: str, kept_bytes: int
    ) -> None:
        journal.append(run_id, 0, 0, encode_sketch(make_sketch(0)), "sketch")
        change(shelf, sketch_path(run_id, 0), lambda data: data[:kept_bytes])
        with pytest.raises(errors.RowDamagedError, match=r"sketch of checkpoint 0 part 0 .* is damaged"):
            journal.read_sketch_gram(run_id, None, [0])
        assert [found.checkpoint for found in journal.damages(run_id, "sketch")] == [0]

    @pytest.mark.parametrize(
        "make",
        [
            lambda rows, sketches: encode_sketch(sketches(1)),
            lambda rows, sketches: encode(rows(0)),
        ],
    )
    def test_what_is_no_sketch_of_this_checkpoint_has_no_sketch_gram(
        self,
        journal: Journal,
        make_row: RowMaker,
        make_sketch: SketchMaker,
        run_id: str,
        make: Callable[[RowMaker, SketchMaker], bytes],
    ) -> None:
        journal.append(run_id, 0, 0, make(make_row, make_sketch), "sketch")
        with pytest.raises(errors.RowDamagedError, match=r"is of another checkpoint|magic"):
            journal.read_sketch_gram(run_id, 0, [0])
