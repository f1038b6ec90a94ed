"""A server's ingest core, without its network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.core import Server


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path, ThreadPoolExecutor(4))
