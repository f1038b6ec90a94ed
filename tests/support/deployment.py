"""The checks of deploy/ that need no server: `make deploy-check`, and each again in tests/deploy with planted faults.

Every check returns the problems it found, each as a text; none found is an empty list.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]

from support.kustomize import KustomizeError, load, render

__all__ = [
    "CHECKS",
    "OVERLAYS",
    "compose_schema",
    "dockerfile",
    "generated",
    "haproxy",
    "kubernetes_core",
    "kubernetes_extensions",
    "main",
    "unit",
    "yaml_style",
]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = ("single", "replicas")
SCHEMAS = ROOT / ".venv-tools" / "schemas"
"""Where `make deploy-tools` puts the packages of tests/deploy/schemas."""
NODE = ROOT / ".venv-tools" / "node" / "bin" / "node"
KUBERNETES_VERSION = "1.33"
CORE = {"v1", "apps/v1", "networking.k8s.io/v1", "policy/v1"}
"""API versions that Kubernetes itself brings; its validator lets all others pass unseen."""
LARGEST_OBJECT_BYTES = 1 << 20
MAX_EXPOSURE = 1.5
"""Of systemd's own scale from 0 to 10; a unit without any confinement has 9.6."""


def _run(
    *command: str | Path, stdin: str | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        input=stdin,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _problems(outcome: subprocess.CompletedProcess[str]) -> list[str]:
    if outcome.returncode == 0:
        return []
    lines = [line for line in (outcome.stdout + outcome.stderr).splitlines() if line.strip()]
    return lines or [f"exit code {outcome.returncode}"]


def _python_tool(name: str) -> Path:
    return Path(sys.executable).parent / name


def yaml_style(folder: Path = DEPLOY) -> list[str]:
    """Syntax and style of every YAML file."""
    return _problems(_run(_python_tool("yamllint"), "--strict", "-c", DEPLOY / ".yamllint.yaml", folder))


def dockerfile(path: Path = DEPLOY / "container" / "Dockerfile") -> list[str]:
    """hadolint."""
    return _problems(_run(_python_tool("hadolint"), path))


def compose_schema(path: Path = DEPLOY / "compose" / "compose.yaml") -> list[str]:
    """The schema of the compose specification."""
    return _problems(_run(_python_tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", path))


def haproxy(path: Path = DEPLOY / "proxy" / "haproxy.cfg") -> list[str]:
    """HAProxy's own check; a warning counts."""
    outcome = _run("haproxy", "-c", "-f", path)
    return _problems(outcome) or [line for line in outcome.stderr.splitlines() if "WARNING" in line]


def unit(path: Path = DEPLOY / "systemd" / "trajmon-server.service") -> list[str]:
    """systemd's own check of a unit, and of how much it may do. The program need not be installed."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / path.name
        # Where the program will be, nothing is: another stands in for it.
        copy.write_text(
            "\n".join(
                f"ExecStart={_python_tool('trajmon-server')} serve" if line.startswith("ExecStart=") else line
                for line in path.read_text().splitlines()
            )
        )
        verified = _run(
            "systemd-analyze", "verify", "--man=no", copy, environment={"SYSTEMD_LOG_LEVEL": "warning"}
        )
        # What systemd does not know it passes over, with a word.
        wrong = [line for line in verified.stderr.splitlines() if copy.name in line] or _problems(verified)
        exposure = _run(
            "systemd-analyze",
            "security",
            "--offline=true",
            "--no-pager",
            f"--threshold={MAX_EXPOSURE * 10:.0f}",
            copy,
        )
        return wrong + [line.strip() for line in _problems(exposure) if "exposure" in line]


def kubernetes_core(objects: Sequence[dict[str, Any]]) -> list[str]:
    """Kubernetes' own schemas, strictly: a key that they do not have is a problem."""
    found = []
    for item in objects:
        if item["apiVersion"] in CORE:
            try:
                kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True)
            except kubernetes_validate.ValidationError as error:
                found.append(f"{item['kind']} {item['metadata']['name']}: {error.message}")
            except kubernetes_validate.InvalidSchemaError as error:
                found.append(f"{item['kind']} {item['metadata']['name']}: {error}")
        if len(json.dumps(item)) > LARGEST_OBJECT_BYTES:
            found.append(f"{item['kind']} {item['metadata']['name']}: larger than one MiB")
    return found


def kubernetes_extensions(objects: Sequence[dict[str, Any]]) -> list[str]:
    """The schemas of Prometheus operator, Gateway API, Envoy Gateway and cert-manager."""
    if not ((SCHEMAS / ".ready").exists() and NODE.exists()):
        return [f"{SCHEMAS} is not complete; run: make deploy-tools"]
    chosen = [item for item in objects if item["apiVersion"] not in CORE]
    script = ROOT / "tests" / "deploy" / "schemas" / "validate.mjs"
    return _problems(_run(NODE, script, SCHEMAS, stdin=json.dumps(chosen)))


def generated() -> list[str]:
    """What is generated is what it would be now."""
    return _problems(_run(sys.executable, DEPLOY / "kubernetes" / "generate.py", "--check"))


def _overlay(name: str) -> list[str]:
    try:
        objects = render(DEPLOY / "kubernetes" / "overlays" / name)
    except KustomizeError as error:
        return [str(error)]
    return kubernetes_core(objects) + kubernetes_extensions(objects) + _as_kubectl(name, objects)


def _as_kubectl(name: str, objects: list[dict[str, Any]]) -> list[str]:
    """Where kubectl is at hand, it has to say the same."""
    if shutil.which("kubectl") is None:
        return []
    outcome = _run("kubectl", "kustomize", DEPLOY / "kubernetes" / "overlays" / name)
    if outcome.returncode:
        return _problems(outcome)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rendered.yaml"
        path.write_text(outcome.stdout)
        theirs = {_name(item): item for item in load(path)}
    ours = {_name(item): item for item in objects}
    return [
        f"kubectl makes another {key}" for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)
    ]


def _name(item: dict[str, Any]) -> str:
    return f"{item['apiVersion']} {item['kind']} {item['metadata']['name']}"


CHECKS: dict[str, Callable[[], list[str]]] = {
    "YAML (yamllint)": yaml_style,
    "image (hadolint)": dockerfile,
    "compose (schema)": compose_schema,
    "proxy (haproxy -c)": haproxy,
    "unit (systemd-analyze)": unit,
    "generated files": generated,
    **{f"Kubernetes, {name} (schemas)": lambda name=name: _overlay(name) for name in OVERLAYS},  # type: ignore[misc]
}


def main() -> int:
    """Run all; one line each, and the problems. Returns the exit code."""
    failed = False
    for name, check in CHECKS.items():
        found = check()
        failed |= bool(found)
        print(f"{'FAILED' if found else 'ok':<7} {name}")
        for problem in found:
            print(f"          {problem}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
