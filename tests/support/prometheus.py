"""A real Prometheus that scrapes what a test names, and promtool."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Prometheus", "program", "rule_problems", "run_prometheus"]

START_SECONDS = 60.0


def program(name: str) -> str:
    """Where a program of Debian's package `prometheus` is."""
    found = shutil.which(name)
    assert found is not None, f"{name} is not on the PATH; `make promtool` installs it"
    return found


def rule_problems(expressions: Sequence[str], folder: Path) -> str:
    """What promtool says of expressions, as if each were a recording rule; empty if it takes them all."""
    rules = [{"record": f"checked:{number}", "expr": text} for number, text in enumerate(expressions)]
    path = folder / "checked.rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "checked", "rules": rules}]}), encoding="utf-8")
    answer = subprocess.run(
        [program("promtool"), "check", "rules", "--lint=none", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return "" if answer.returncode == 0 else answer.stdout + answer.stderr


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs."""

    url: str

    def labels(self, expr: str) -> list[dict[str, str]]:
        """Labels of the series that an instant query answers now."""
        return [sample["metric"] for sample in self._query(expr)["result"]]

    def values(self, expr: str) -> list[float]:
        """What an instant query answers now; numbers that are no numbers left out."""
        data = self._query(expr)
        samples = [data["result"]] if data["resultType"] == "scalar" else [s["value"] for s in data["result"]]
        found = [float(text) for _, text in samples]
        return [value for value in found if not math.isnan(value)]

    def _query(self, expr: str) -> dict[str, Any]:
        query = urllib.parse.urlencode({"query": expr})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=10) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
        return data

    def wait_for(self, exprs: Sequence[str], seconds: float) -> list[str]:
        """Wait until each has answered with data once; those that have not by then."""
        deadline = time.monotonic() + seconds
        missing = list(exprs)
        while missing and time.monotonic() < deadline:
            try:
                missing = [expr for expr in missing if not self.values(expr)]
            except urllib.error.URLError:
                # Refused until it listens.
                time.sleep(0.1)
                continue
            time.sleep(0.2)
        return missing


@contextlib.contextmanager
def run_prometheus(
    folder: Path, targets: Mapping[str, Path | None], rules: Path | None = None
) -> Iterator[Prometheus]:
    """One that scrapes the targets, or else itself, as job trajmon each second, and evaluates the rules as often.

    `targets`: addresses, each with the authority that is trusted for it; None without TLS.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [] if rules is None else [str(rules)],
        "scrape_configs": [
            {
                # Their names have to differ; what they are known by need not.
                "job_name": f"trajmon-{number}",
                "relabel_configs": [{"target_label": "job", "replacement": "trajmon"}],
                "static_configs": [{"targets": [target]}],
                **({} if trusted is None else {"scheme": "https", "tls_config": {"ca_file": str(trusted)}}),
            }
            for number, (target, trusted) in enumerate((targets or {address: None}).items())
        ],
    }
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [
        program("prometheus"),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        running = Prometheus(f"http://{address}")
        missing = running.wait_for([f"sum(up) == {max(len(targets), 1)}"], START_SECONDS)
        assert not missing, (folder / "prometheus.log").read_text()[-3000:]
        yield running
    finally:
        process.terminate()
        process.wait(timeout=30)
