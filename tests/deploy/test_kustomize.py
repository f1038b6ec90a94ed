"""What tests/support makes of kustomize's folders, and the command that runs all checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from support import deployment
from support.kustomize import KustomizeError, render


def kustomization(folder: Path, **content: Any) -> Path:
    (folder / "object.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\ndata:\n  list: [a]\n"
    )
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"resources": ["object.yaml"], **content}))
    return folder


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"resources": ["gone.yaml"]}, "gone.yaml does not exist"),
        ({"resources": ["object.yaml", "object.yaml"]}, "an object comes twice"),
        ({"generators": []}, "generators: not known here"),
        ({"images": [{"name": "x", "newName": "x", "newTag": "1"}]}, "no container uses the image x"),
        (
            {"patches": [{"path": "patch.yaml", "target": {"kind": "ConfigMap", "name": "two"}}]},
            "meets 0 objects",
        ),
        (
            {"patches": [{"path": "patch.yaml", "target": {"kind": "ConfigMap", "name": "one"}}]},
            "no such place",
        ),
    ],
)
def test_a_folder_that_cannot_be_rendered_is_refused(
    tmp_path: Path, content: dict[str, Any], said: str
) -> None:
    (tmp_path / "patch.yaml").write_text("- op: replace\n  path: /data/nothing\n  value: 1\n")
    with pytest.raises(KustomizeError, match=said):
        render(kustomization(tmp_path, **content))


def test_patches_change_what_they_name(tmp_path: Path) -> None:
    (tmp_path / "patch.yaml").write_text(
        "- op: add\n  path: /data/list/-\n  value: c\n- op: add\n  path: /data/list/1\n  value: b\n"
        "- op: replace\n  path: /metadata/name\n  value: two\n- op: add\n  path: /data/a~1b\n  value: 1\n"
    )
    patch = {"path": "patch.yaml", "target": {"kind": "ConfigMap", "name": "one"}}
    (made,) = render(kustomization(tmp_path, namespace="here", patches=[patch]))
    assert made["metadata"] == {"name": "two", "namespace": "here"}
    assert made["data"] == {"list": ["a", "b", "c"], "a/b": 1}


def test_each_check_of_the_command_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "CHECKS", {"one": list, "two": lambda: ["why"]})
    assert deployment.main() == 1
    assert capsys.readouterr().out == "ok      one\nFAILED  two\n          why\n"
