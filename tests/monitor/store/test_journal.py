"""The contract of every journal, held by the one on a local disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.journal_contract import JournalContract
from support.shelves import LocalShelf, Shelf
from support.sketch_contract import SketchContract


class TestLocalJournal(JournalContract):
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> Shelf:
        return LocalShelf(tmp_path)


class TestLocalSketches(SketchContract):
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> Shelf:
        return LocalShelf(tmp_path)
