"""One experiment in a process of its own: `python -m benchmarks.paper.child NAME FOLDER SERVER HOME`.

Started by :mod:`benchmarks.paper.running`. Its stdout is a line of JSON for each step of progress, everything else that
is printed goes to stderr. It ends when its stdin does, that is with whoever started it, however that one ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

__all__ = ["main"]

PACKAGES = ("trajmon", "torch", "numpy", "scikit-learn", "transformers", "matplotlib")


def main(name: str, folder: Path, server: str, home: Path) -> int:
    """Run the experiment and keep what it found. 0, or 1 if another process is at it."""
    import torch
    from benchmarks.paper import experiments
    from benchmarks.paper.kept import Kept, sources_digest, write_kept
    from benchmarks.paper.workshop import Workshop

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process runs {name} in {folder}", file=sys.stderr)
            return 1
        # Before the import: code that is edited meanwhile was not what ran.
        digest = sources_digest(name)
        experiment = experiments.load(name)
        workshop = Workshop(name, folder, server=server, home=home, tell=_tell)
        try:
            findings = experiment.run(workshop)
        finally:
            workshop.close()
        for file_name, _ in findings.figures:
            if not (folder / "figures" / file_name).exists():
                raise FileNotFoundError(f"{name} names the figure {file_name}, and did not draw it")
        seconds = time.process_time() - workshop.trained_here_seconds + workshop.training_seconds
        versions = {
            "Python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        }
        kept = Kept(
            name=name,
            title=experiment.title,
            about=experiment.about,
            findings=findings,
            seconds=round(seconds, 1),
            num_runs=workshop.num_runs,
            num_checkpoints=workshop.num_checkpoints,
            versions=versions,
            digest=digest,
        )
        write_kept(folder, kept)
    return 0


def _tell(what: str, done: int, total: int) -> None:
    print(json.dumps({"what": what, "done": done, "total": total}), file=_events, flush=True)


def _end_with_parent() -> None:
    # Not through sys.stdin, whose lock would be held when the interpreter ends.
    while os.read(0, 1024):
        pass
    os._exit(75)


if __name__ == "__main__":
    _events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(19)
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])))
