"""Prometheus and Alertmanager as real processes, with the configuration that is shipped, on free ports."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["DEPLOY", "Prometheus", "changed", "program", "running", "stack"]

DEPLOY = Path(__file__).parents[2] / "deploy"
START_SECONDS = 60.0


def program(name: str) -> str:
    """Where a program is; AssertionError that says how to get it."""
    found = shutil.which(name)
    assert found is not None, f"{name} is not on the PATH; `make alertmanager` installs it"
    return found


def changed(text: str, changes: dict[str, str]) -> str:
    """The text with each key, which occurs exactly once, replaced."""
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        text = text.replace(old, new)
    return text


def free_address() -> str:
    """`HOST:PORT` that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its output in `log`; ended by its own id."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `/-/ready` says so; AssertionError with the end of the log if it never does."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"{process.args!r} is not ready:\n{log.read_text(errors='replace')[-2000:]}")


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    address: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an instant query answers now."""
        answer = self._get("query?" + urllib.parse.urlencode({"query": expression}))
        found: list[dict[str, Any]] = answer["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """All rules as Prometheus sees them, with their health and last error."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}", timeout=20) as answer:
            return json.loads(answer.read())["data"]


@contextmanager
def stack(
    folder: Path,
    metrics: str,
    webhook: str,
    *,
    interval: str,
    rule_changes: dict[str, str] | None = None,
    alertmanager_changes: dict[str, str] | None = None,
) -> Iterator[Prometheus]:
    """Both programs, with what `deploy/` holds but for addresses and the scrape and evaluation interval.

    The changes are for tests that have no minute to wait for: every occurrence of a key becomes its value.
    """
    rules, templates = DEPLOY / "prometheus" / "trajmon.rules.yaml", DEPLOY / "alertmanager" / "templates"
    used = folder / "trajmon.rules.yaml"
    used.write_text(_shortened(rules.read_text(), rule_changes or {}))
    address, alertmanager = free_address(), free_address()
    config = changed(
        (DEPLOY / "prometheus" / "prometheus.yaml").read_text(),
        {
            "scrape_interval: 15s": f"scrape_interval: {interval}",
            "evaluation_interval: 15s": f"evaluation_interval: {interval}",
            "127.0.0.1:9093": alertmanager,
            "127.0.0.1:9108": metrics,
        },
    )
    (folder / "prometheus.yaml").write_text(config)
    routes = (DEPLOY / "alertmanager" / "alertmanager.yaml").read_text()
    routes = routes.replace("http://127.0.0.1:9099/", f"http://{webhook}/")
    routes = changed(routes, {"templates/*.tmpl": f"{templates}/*.tmpl"})
    (folder / "alertmanager.yaml").write_text(_shortened(routes, alertmanager_changes or {}))
    commands = {
        alertmanager: [
            program("prometheus-alertmanager"),
            f"--config.file={folder / 'alertmanager.yaml'}",
            f"--storage.path={folder / 'alertmanager'}",
            "--cluster.listen-address=",
            f"--web.listen-address={alertmanager}",
        ],
        address: [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}",
        ],
    }
    with ExitStack() as processes:
        for listens, command in commands.items():
            log = folder / f"{Path(command[0]).name}.log"
            wait_ready(listens, processes.enter_context(running(command, log)), log)
        yield Prometheus(address)


def _shortened(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"{old!r} does not occur"
        text = text.replace(old, new)
    return text
