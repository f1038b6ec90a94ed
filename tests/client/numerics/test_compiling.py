"""Compiled loops that are kept between processes: never older than any source that is compiled into them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from trajmon.numerics import compiling

INNER = "from loops.compiling import compiled\n@compiled()\ndef inner(): return {}\n"
OUTER = (
    "from loops.compiling import compiled\nfrom loops.inner import inner\n"
    "@compiled()\ndef outer(): return 10 * inner()\n"
)


def run(folder: Path) -> tuple[int, bool]:
    """What the loop returns in a new process, and whether its code had been kept."""
    program = "from loops.outer import outer\nprint(outer(), sum(outer.stats.cache_hits.values()))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    value, hits = answer.split()
    return int(value), hits != "0"


def test_kept_code_ends_with_any_source_that_is_compiled_into_it(tmp_path: Path) -> None:
    package = tmp_path / "loops"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(compiling.__file__, package / "compiling.py")
    (package / "inner.py").write_text(INNER.format(1))
    (package / "outer.py").write_text(OUTER)
    assert run(tmp_path) == (10, False)
    assert run(tmp_path) == (10, True)
    # The outer loop's own file stays as it is, as in an upgrade that changes an inner one alone.
    (package / "inner.py").write_text(INNER.format(2))
    assert run(tmp_path) == (20, False)
    assert run(tmp_path) == (20, True)
