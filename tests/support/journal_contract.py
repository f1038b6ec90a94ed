"""The contract of every journal: rows and the files of a run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from support.shelves import Shelf, change, flip, kept
from trajmon_protos.record import Row, encode
from trajmon_server.store import errors
from trajmon_server.store.base import Journal

RowMaker = Callable[..., Row]


def row_path(run_id: str, checkpoint: int, part: int = 0) -> str:
    return f"{run_id}/rows/{checkpoint:08d}.{part:04d}.row"


class JournalContract:
    """What holds for every journal, as far as it keeps rows. A subclass gives `shelf`."""

    @pytest.fixture
    def journal(self, shelf: Shelf) -> Journal:
        return shelf.open()

    def test_a_record_comes_back_byte_for_byte(
        self, journal: Journal, make_row: RowMaker, run_id: str
    ) -> None:
        record = encode(make_row(0))
        assert journal.append(run_id, 0, 0, record) == "stored"
        assert journal.read(run_id, 0) == record
        assert np.array_equal(journal.read_row(run_id, 0).gram, make_row(0).gram)

    def test_the_same_record_again_is_a_duplicate(
        self, journal: Journal, make_row: RowMaker, run_id: str
    ) -> None:
        record = encode(make_row(0))
        journal.append(run_id, 0, 0, record)
        assert journal.append(run_id, 0, 0, record) == "duplicate"
        assert [key.size_bytes for key in journal.list_rows(run_id)] == [len(record)]

    def test_another_record_under_the_same_key_is_refused(
        self, journal: Journal, make_row: RowMaker, run_id: str
    ) -> None:
        first, second = encode(make_row(0)), encode(make_row(0, attempt=2))
        journal.append(run_id, 0, 0, first)
        with pytest.raises(errors.ConflictError) as caught:
            journal.append(run_id, 0, 0, second)
        assert str(caught.value) == (
            f"checkpoint 0 part 0 of run {run_id} is stored with digest {first[-16:].hex()}, the record offered has "
            f"{second[-16:].hex()}; a stored record never changes: send the first record again, or record under a new "
            "checkpoint number"
        )
        assert journal.read(run_id, 0) == first

    def test_of_many_writers_of_one_key_one_wins(
        self, journal: Journal, make_row: RowMaker, run_id: str
    ) -> None:
        records = [encode(make_row(0, attempt=attempt)) for attempt in range(1, 9)]

        def offer(record: bytes) -> str:
            try:
                return journal.append(run_id, 0, 0, record)
            except errors.ConflictError:
                return "conflict"

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(offer, records))
        assert sorted(outcomes) == ["conflict"] * 7 + ["stored"]
        assert journal.read(run_id, 0) == records[outcomes.index("stored")]

    def test_parts_are_stored_beside_each_other(
        self, journal: Journal, make_row: RowMaker, run_id: str
    ) -> None:
        first, second = encode(make_row(0)), encode(make_row(0, attempt=2))
        assert journal.append(run_id, 0, 0, first) == "stored"
        assert journal.append(run_id, 0, 1, second) == "stored"
        assert (journal.read(run_id, 0, 0), journal.read(run_id, 0, 1)) == (first, second)
        assert journal.count(run_id) == 1

    def test_count_ends_at_the_first_gap(self, journal: Journal, make_row: RowMaker, run_id: str) -> None:
        assert journal.count(run_id) == 0
        for checkpoint in (0, 1, 2, 4):
            journal.append(run_id, checkpoint, 0, encode(make_row(checkpoint)))
        assert journal.count(run_id) == 3
        assert [key.checkpoint for key in journal.list_rows(run_id)] == [0, 1, 2, 4]

    def test_rows_and_headers_come_in_order(self, journal: Journal, make_row: RowMaker, run_id: str) -> None:
        for checkpoint in (2, 0, 1, 3):
            journal.append(run_id, checkpoint, 0, encode(make_row(checkpoint)))
        assert [row.header.checkpoint for row in journal.read_rows(run_id, 1, 3)] == [1, 2]
        headers = list(journal.headers(run_id))
        assert [checkpoint for checkpoint, _, _ in headers] == [0, 1, 2, 3]
        assert [header for _, header, _ in headers] == [make_row(c).header for c in range(4)]
        assert [size for _, _, size in headers] == [len(encode(make_row(c))) for c in range(4)]

    @pytest.mark.parametrize("num_layers", [1, 2, 7])
    def test_partial_reads_equal_whole_ones(
        self, journal: Journal, make_row: RowMaker, run_id: str, num_layers: int
    ) -> None:
        rows = [make_row(checkpoint, num_layers) for checkpoint in range(5)]
        for checkpoint, row in enumerate(rows):
            journal.append(run_id, checkpoint, 0, encode(row))
        for layer in range(num_layers):
            found = journal.read_layer_rows(run_id, layer, [4, 0, 2])
            assert all(np.array_equal(a, rows[c].gram[layer]) for a, c in zip(found, (4, 0, 2), strict=True))
        assert np.array_equal(journal.read_products(run_id, 3), rows[3].products)

    def test_an_absent_layer_is_refused(self, journal: Journal, make_row: RowMaker, run_id: str) -> None:
        journal.append(run_id, 0, 0, encode(make_row(0)))
        with pytest.raises(ValueError, match=r"^layer index 3 is not in 0\.\.2$"):
            journal.read_layer_rows(run_id, 3, [0])

    @pytest.mark.parametrize("how", ["read", "read_row", "read_products"])
    def test_an_absent_row_is_named(self, journal: Journal, run_id: str, how: str) -> None:
        with pytest.raises(errors.RowMissingError) as caught:
            getattr(journal, how)(run_id, 7)
        assert str(caught.value) == (
            f"checkpoint 7 part 0 of run {run_id} is not in the journal; it was never accepted, or was damaged and "
            "set aside"
        )

    def test_runs_are_those_with_a_file_or_a_row(self, journal: Journal, make_row: RowMaker) -> None:
        assert journal.list_runs() == []
        journal.put_run_file("c" * 32, "run.json", {"name": "demo"})
        journal.append("a" * 32, 0, 0, encode(make_row(0)))
        assert journal.list_runs() == ["a" * 32, "c" * 32]

    def test_a_run_file_is_replaced_whole(self, journal: Journal, run_id: str) -> None:
        assert journal.get_run_file(run_id, "run.json") is None
        journal.put_run_file(run_id, "run.json", {"a": 1, "b": [1, 2]})
        journal.put_run_file(run_id, "run.json", {"é": None})
        journal.put_run_file(run_id, "control", {"epoch": 3})
        assert journal.get_run_file(run_id, "run.json") == {"é": None}
        assert journal.get_run_file(run_id, "control.json") == {"epoch": 3}

    @pytest.mark.parametrize(
        ("key", "text"),
        [
            (("../etc", 0, 0), "run id '../etc' is not 32 hex digits"),
            (("A" * 32, 0, 0), f"run id '{'A' * 32}' is not 32 hex digits"),
            (("a" * 32, -1, 0), "checkpoint -1 part 0 is out of range: 0..99999999 and 0..9999"),
            (("a" * 32, 10**8, 0), "checkpoint 100000000 part 0 is out of range: 0..99999999 and 0..9999"),
            (("a" * 32, 0, 10**4), "checkpoint 0 part 10000 is out of range: 0..99999999 and 0..9999"),
        ],
    )
    def test_a_key_out_of_range_is_refused(
        self, journal: Journal, key: tuple[str, int, int], text: str
    ) -> None:
        with pytest.raises(ValueError) as caught:
            journal.append(*key, b"record")
        assert str(caught.value) == text
        assert journal.list_runs() == []

    def test_a_file_name_with_a_path_is_refused(self, journal: Journal, run_id: str) -> None:
        with pytest.raises(ValueError) as caught:
            journal.put_run_file(run_id, "../x.json", {})
        assert (
            str(caught.value) == "run file name '../x.json' is not made of a-z 0-9 _ -, with or without .json"
        )
        assert journal.list_runs() == []

    def test_a_damaged_row_is_set_aside_and_reported(
        self, journal: Journal, shelf: Shelf, make_row: RowMaker, run_id: str
    ) -> None:
        for checkpoint in range(3):
            journal.append(run_id, checkpoint, 0, encode(make_row(checkpoint)))
        flip(shelf, row_path(run_id, 1))
        assert journal.damages(run_id) == []
        (found,) = journal.verify(run_id)
        assert (found.run_id, found.checkpoint, found.part) == (run_id, 1, 0)
        assert found.reason == "damaged: record does not match its checksum"
        assert len(kept(shelf, found.kept_as)) == len(encode(make_row(1)))
        assert journal.count(run_id) == 1
        assert [row.header.checkpoint for row in journal.read_rows(run_id)] == [0, 2]
        assert journal.verify(run_id) == [found]

    def test_reading_a_damaged_row_says_where_it_lies(
        self, journal: Journal, shelf: Shelf, make_row: RowMaker, run_id: str
    ) -> None:
        journal.append(run_id, 0, 0, encode(make_row(0)))
        flip(shelf, row_path(run_id, 0))
        with pytest.raises(errors.RowDamagedError) as caught:
            journal.read_row(run_id, 0)
        (found,) = journal.damages(run_id)
        assert str(caught.value) == (
            f"checkpoint 0 part 0 of run {run_id} is damaged (record does not match its checksum); it was set aside "
            f"as {found.kept_as}: the agent that recorded it can send it again"
        )

    def test_a_damaged_row_is_replaced_by_the_one_sent_again(
        self, journal: Journal, shelf: Shelf, make_row: RowMaker, run_id: str
    ) -> None:
        record = encode(make_row(0))
        journal.append(run_id, 0, 0, record)
        for at in (100, 101):
            flip(shelf, row_path(run_id, 0), at)
            assert journal.append(run_id, 0, 0, record) == "stored"
            assert journal.read(run_id, 0) == record
        assert len({found.kept_as for found in journal.damages(run_id)}) == 2

    def test_an_intact_row_can_be_set_aside(self, journal: Journal, make_row: RowMaker, run_id: str) -> None:
        journal.append(run_id, 0, 0, encode(make_row(0)))
        assert journal.set_aside(run_id, 0, "of no known run").reason == "of no known run"
        assert journal.count(run_id) == 0
        assert [found.reason for found in journal.damages(run_id)] == ["intact now: it may be put back"]
        with pytest.raises(errors.RowMissingError, match=r"checkpoint 0 part 0 .* is not in the journal"):
            journal.set_aside(run_id, 0, "again")

    def test_the_same_damage_twice_is_kept(
        self, journal: Journal, shelf: Shelf, make_row: RowMaker, run_id: str
    ) -> None:
        record = encode(make_row(0))
        journal.append(run_id, 0, 0, record)
        for _ in range(2):
            flip(shelf, row_path(run_id, 0))
            assert journal.append(run_id, 0, 0, record) == "stored"
        assert {kept(shelf, found.kept_as)[:-16] != record[:-16] for found in journal.damages(run_id)} == {
            True
        }

    def test_a_row_that_was_set_aside_can_be_put_back(
        self, journal: Journal, make_row: RowMaker, run_id: str
    ) -> None:
        first, other = encode(make_row(0)), encode(make_row(0, attempt=2))
        journal.append(run_id, 0, 0, first)
        journal.set_aside(run_id, 0, "for the test")
        with pytest.raises(errors.RowMissingError):
            journal.read(run_id, 0)
        with pytest.raises(errors.RowMissingError):
            journal.header(run_id, 0, 0)
        assert (journal.list_rows(run_id), list(journal.headers(run_id))) == ([], [])
        assert journal.append(run_id, 0, 0, first) == "stored"
        assert journal.append(run_id, 0, 0, first) == "duplicate"
        with pytest.raises(errors.ConflictError):
            journal.append(run_id, 0, 0, other)
        assert journal.read(run_id, 0) == first

    def test_another_object_sees_the_same(
        self, journal: Journal, shelf: Shelf, make_row: RowMaker, run_id: str
    ) -> None:
        journal.append(run_id, 0, 0, encode(make_row(0)))
        journal.put_run_file(run_id, "run.json", {"a": 1})
        other = shelf.open()
        assert other.read(run_id, 0) == encode(make_row(0))
        assert other.get_run_file(run_id, "run.json") == {"a": 1}
        assert other.list_runs() == [run_id]

    @pytest.mark.parametrize("after", [-1, 0, 1, 2, 3, 7, 8, 99_999_999])
    def test_rows_can_be_listed_from_a_checkpoint_on(
        self, journal: Journal, make_row: RowMaker, run_id: str, after: int
    ) -> None:
        keys = [(0, 0), (2, 0), (2, 1), (2, 2), (3, 1), (7, 0)]
        for checkpoint, part in keys:
            journal.append(run_id, checkpoint, part, encode(make_row(checkpoint)))
        found = journal.list_rows(run_id, after=after)
        assert [(key.checkpoint, key.part) for key in found] == [key for key in keys if key[0] >= after]
        assert journal.list_rows(run_id, "sketch", after=after) == []

    @pytest.mark.parametrize("how", ["headers", "header", "read_products", "read_layer_rows"])
    @pytest.mark.parametrize("cut", [-9, 19, 0])
    def test_a_cut_row_is_found_by_its_size(
        self, journal: Journal, shelf: Shelf, make_row: RowMaker, run_id: str, how: str, cut: int
    ) -> None:
        journal.append(run_id, 0, 0, encode(make_row(0)))
        change(shelf, row_path(run_id, 0), lambda data: data[:cut])
        calls: dict[str, Callable[[], object]] = {
            "header": lambda: journal.header(run_id, 0, 0),
            "read_products": lambda: journal.read_products(run_id, 0),
            "read_layer_rows": lambda: journal.read_layer_rows(run_id, 0, [0]),
        }
        if how == "headers":
            assert list(journal.headers(run_id)) == []
        else:
            problem = {
                -9: "record has 201 bytes, its prefix announces 210",
                19: "record has 19 bytes",
                0: "record has 0 bytes",
            }[cut]
            with pytest.raises(errors.RowDamagedError, match=problem):
                calls[how]()
        assert [found.checkpoint for found in journal.damages(run_id)] == [0]

    def test_a_row_of_another_checkpoint_has_no_layers(
        self, journal: Journal, make_row: RowMaker, run_id: str
    ) -> None:
        journal.append(run_id, 5, 0, encode(make_row(0)))
        with pytest.raises(errors.RowDamagedError, match=r"checkpoint 5 part 0 .* is of another checkpoint$"):
            journal.read_layer_rows(run_id, 0, [5])
        assert journal.damages(run_id) == []

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (
                b"{",
                "is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
            ),
            (b"[1]", "is not a JSON object"),
            (b"\xff", "is not JSON ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte)"),
        ],
    )
    def test_a_spoilt_run_file_is_refused(
        self, journal: Journal, shelf: Shelf, run_id: str, content: bytes, text: str
    ) -> None:
        journal.put_run_file(run_id, "run.json", {})
        path = f"{run_id}/run.json"
        shelf.put(path, content)
        with pytest.raises(errors.JournalError) as caught:
            journal.get_run_file(run_id, "run.json")
        assert str(caught.value) == f"{shelf.in_full(path)} {text}; restore it from a copy"

    def test_foreign_names_are_no_rows_and_no_runs(
        self, journal: Journal, shelf: Shelf, make_row: RowMaker, run_id: str
    ) -> None:
        journal.append(run_id, 0, 0, encode(make_row(0)))
        for name in ("00000001.row", "x.row", "00000001.0000.sketch", "00000001.0000.row.bak"):
            shelf.put(f"{run_id}/rows/{name}", b"foreign")
        assert [key.checkpoint for key in journal.list_rows(run_id)] == [0]
        assert journal.parts(run_id, 1) == []

    def test_large_rows_are_read_in_order(self, journal: Journal, make_row: RowMaker, run_id: str) -> None:
        """Larger than what is read at once of any record."""
        numbers = [0, 40, 41, 60]
        for checkpoint in numbers:
            journal.append(run_id, checkpoint, 0, encode(make_row(checkpoint, 200)))
        rows = {number: make_row(number, 200) for number in numbers}
        for layer in (0, 199):
            found = journal.read_layer_rows(run_id, layer, numbers)
            assert all(np.array_equal(a, rows[c].gram[layer]) for a, c in zip(found, numbers, strict=True))
        assert np.array_equal(journal.read_products(run_id, 60), rows[60].products)
        assert [row.header.checkpoint for row in journal.read_rows(run_id)] == numbers
        assert [checkpoint for checkpoint, _, _ in journal.headers(run_id)] == numbers
