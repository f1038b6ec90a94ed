"""Runs in its own mount namespace: a journal on a small disk that fills up, then on one that is read-only.

Prints one JSON object a line. Arguments: a folder to mount on, path of a record file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from trajmon_server.store.errors import JournalError
from trajmon_server.store.journal import LocalJournal

RUN_ID = "ab" * 16


def main(folder: Path, record: bytes) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], check=True)
    root = folder / "journal"
    journal = LocalJournal(root)
    stored = 0
    for checkpoint in range(1000):
        try:
            journal.append(RUN_ID, checkpoint, 0, record)
        except JournalError as error:
            report("full", error, root, stored)
            break
        stored += 1
    (root / RUN_ID / "rows" / "00000000.0000.row").unlink()
    print(json.dumps({"case": "freed", "outcome": journal.append(RUN_ID, stored, 0, record)}))
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    actions: dict[str, Callable[[], object]] = {
        "read-only row": lambda: journal.append(RUN_ID, 0, 0, record),
        "read-only file": lambda: journal.put_run_file(RUN_ID, "run.json", {}),
        "read-only run": lambda: journal.append("cd" * 16, 0, 0, record),
        "read-only open": lambda: LocalJournal(folder / "other"),
    }
    for case, action in actions.items():
        try:
            action()
        except JournalError as error:
            report(case, error, root, stored)
    print(
        json.dumps(
            {"case": "intact", "outcome": [journal.read(RUN_ID, n) == record for n in range(1, stored + 1)]}
        )
    )


def report(case: str, error: JournalError, root: Path, stored: int) -> None:
    print(
        json.dumps(
            {
                "case": case,
                "error": type(error).__name__,
                "text": str(error),
                "stored": stored,
                "rows": sum(1 for _ in root.glob("*/rows/*")),
                "temporary": sum(1 for _ in root.glob("tmp/*")),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes())
