"""Generated files of deploy/kubernetes/monitoring: the rules of deploy/prometheus and the dashboards of deploy/grafana.

``python deploy/kubernetes/generate.py`` writes them; with ``--check`` it says which are not what it would write.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

__all__ = ["dashboards", "main", "prometheus_rule"]

DEPLOY = Path(__file__).parents[1]
TARGET = Path(__file__).parent / "monitoring"
HEAD = "# Generated: make kubernetes-monitoring. Do not edit.\n"
LABELS = {"app.kubernetes.io/name": "trajmon"}


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are read."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def prometheus_rule(rules: str) -> dict[str, Any]:
    """The object that holds a file of Prometheus rules."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "trajmon", "labels": LABELS},
        "spec": {"groups": yaml.safe_load(rules)["groups"]},
    }


def dashboards(files: dict[str, str]) -> list[dict[str, Any]]:
    """An object for each dashboard, given by its file's name; a Secret or ConfigMap has room for one MiB."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"{name.removesuffix('.json')}-dashboard",
                "labels": {**LABELS, "grafana_dashboard": "1"},
            },
            # Without the spaces: the whole object has to fit.
            "data": {name: json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)},
        }
        for name, text in sorted(files.items())
    ]


def generated() -> dict[Path, str]:
    """What each generated file holds."""
    rules = (DEPLOY / "prometheus" / "trajmon.rules.yaml").read_text(encoding="utf-8")
    files = {
        path.name: path.read_text(encoding="utf-8")
        for path in (DEPLOY / "grafana" / "dashboards").glob("*.json")
    }
    return {
        TARGET / "prometheusrule.yaml": HEAD + _dump([prometheus_rule(rules)]),
        TARGET / "dashboards.yaml": HEAD + _dump(dashboards(files)),
    }


def _dump(documents: list[dict[str, Any]]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def main(arguments: list[str]) -> int:
    """Write or check; returns the exit code."""
    wrong = []
    for path, text in generated().items():
        if arguments == ["--check"]:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                wrong.append(path.name)
        else:
            path.write_text(text, encoding="utf-8")
    for name in wrong:
        print(f"{name} is not what it is generated from; run: make kubernetes-monitoring", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
