"""The documents agree with the code: settings, commands, metrics and links; and nothing names a machine."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest
from pydantic import BaseModel

from trajmon_server.config import Limits, Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("deploy/**/*.md")])
CODE = sorted(path for folder in ("client", "monitor", "protos") for path in (ROOT / folder).rglob("*.py"))

ENVIRONMENT_NAME = re.compile(r"(?<![A-Z_])TRAJMON_[A-Z][A-Z_]*[A-Z](?![A-Z_])")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def strings_in(path: Path) -> Iterator[str]:
    """Every string constant of a module: what the code can look up, not what its comments say."""
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def environment_names_in_code() -> set[str]:
    return {
        name
        for path in CODE
        for text in strings_in(path)
        for name in ENVIRONMENT_NAME.findall(text)
        if not name.startswith("TRAJMON_SERVER_")
    }


def test_every_environment_variable_is_documented() -> None:
    page = text_of(DOCS / "configuration.md")
    read = environment_names_in_code()
    assert {"TRAJMON_HOME", "TRAJMON_SERVER", "TRAJMON_TOKEN"} <= read
    assert sorted(name for name in read if f"`{name}`" not in page) == []


def test_every_documented_environment_variable_is_read() -> None:
    documented = set(
        re.findall(r"^\| `(TRAJMON_[A-Z_]+)` \|", text_of(DOCS / "configuration.md"), re.MULTILINE)
    )
    assert documented == environment_names_in_code()


def settings_of(model: type[BaseModel]) -> list[str]:
    return [name for name in model.model_fields if name != "limits"]


@pytest.mark.parametrize("model", [Settings, Limits])
def test_every_setting_of_the_server_is_documented(model: type[BaseModel]) -> None:
    page = text_of(DOCS / "configuration.md")
    names = settings_of(model)
    assert len(names) >= 5
    assert [name for name in names if f"| `{name}` |" not in page] == []


def commands() -> Iterator[tuple[str, click.Command]]:
    from trajmon.cli import main as client_main
    from trajmon_server.cli import main as server_main

    for program, group in (("trajmon", client_main), ("trajmon-server", server_main)):
        assert isinstance(group, click.Group)
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield f"{program} {name}", command


def test_every_command_and_option_is_documented() -> None:
    page = text_of(DOCS / "cli.md")
    sections = dict(re.findall(r"^## `([a-z -]+)`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    missing = []
    for name, command in commands():
        if name not in sections:
            missing.append(name)
            continue
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden and parameter.name != "help":
                missing += [f"{name} {opt}" for opt in parameter.opts if f"`{opt}" not in sections[name]]
            elif isinstance(parameter, click.Argument):
                label = parameter.human_readable_name.upper().rstrip(".").strip("[]")
                missing += [] if label in sections[name] else [f"{name} {label}"]
    assert missing == []
    assert sorted(set(sections) - {name for name, _ in commands()}) == []


def test_every_exported_metric_is_documented() -> None:
    page = text_of(DOCS / "guide-server.md")
    exported = {
        text
        for path in (ROOT / "monitor" / "trajmon_server" / "export").rglob("*.py")
        for text in strings_in(path)
        if re.fullmatch(r"trajmon_[a-z_]+", text)
    }
    assert "trajmon_mean_directional_similarity" in exported
    assert sorted(name for name in exported if f"`{name}" not in page) == []


def test_every_measure_has_its_place_in_the_hallmarks_page() -> None:
    page = text_of(DOCS / "hallmarks.md")
    folder = ROOT / "monitor" / "trajmon_server" / "hallmarks"
    measures = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    assert len(measures) > 10
    assert sorted(name for name in measures if f"`{name}.py`" not in page) == []


def test_links_lead_somewhere() -> None:
    links = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text_of(page))
    ]
    assert len(links) > 10
    assert [(page.name, target) for page, target in links if not (page.parent / target).exists()] == []


def test_python_in_the_documents_compiles() -> None:
    blocks = [
        (page, block)
        for page in PAGES
        for block in re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)
    ]
    assert blocks
    for page, block in blocks:
        compile(block, str(page), "exec")


def test_the_test_command_is_the_same_everywhere() -> None:
    readme = text_of(ROOT / "README.md")
    assert re.search(r"^make test\b", readme, re.MULTILINE)
    assert re.search(r"^make demo\b", readme, re.MULTILINE)
    lines = [line for line in text_of(ROOT / ".ci" / "run").splitlines() if line and not line.startswith("#")]
    assert lines[-1] == "exec make test"
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_every_make_command_in_the_documents_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    used = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z0-9-]+)", text_of(page), re.M)}
    assert {"demo", "test", "check"} <= used
    assert used <= targets


MACHINE_PATH = re.compile(r"(?<![\w.~$}>/-])/(?:work|root|tmp|opt|mnt|home/[a-z][\w-]*)(?:/|\b)")
REGISTRY_HOST = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|index-url|--find-links", re.IGNORECASE
)
TEXT_SUFFIXES = {
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
    ".json",
    ".proto",
    ".sh",
    ".html",
    ".js",
    ".css",
    "",
}


def published_files() -> list[Path]:
    folders = ["client", "monitor", "protos", "docs", "deploy", "benchmarks", ".ci"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    return [path for path in files if path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts]


@pytest.mark.parametrize("forbidden", [MACHINE_PATH, REGISTRY_HOST], ids=["machine_path", "registry_host"])
def test_nothing_published_names_a_machine(forbidden: re.Pattern[str]) -> None:
    files = published_files()
    assert len(files) > 50
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in files
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if forbidden.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("text", ["see /work/x", "'/tmp/a'", "cd /root", "(/home/ann/x)", "/opt/wheels"])
def test_the_machine_path_rule_catches(text: str) -> None:
    assert MACHINE_PATH.search(text)


@pytest.mark.parametrize(
    "text", ["~/work/x", "docs/work/", "$HOME/tmp/", "at work/tmp", "/workers", "https://x.org/home"]
)
def test_the_machine_path_rule_spares(text: str) -> None:
    assert not MACHINE_PATH.search(text)


def test_decisions_are_one_page_each_and_numbered() -> None:
    pages = sorted((DOCS / "decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    for page in pages:
        text = text_of(page)
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            "## Context",
            "## Options",
            "## Decision",
        ], page.name
        assert len(text.split()) < 700, page.name


def test_log_formats_are_documented() -> None:
    page = text_of(DOCS / "configuration.md")
    for word in get_args(Settings.model_fields["log_format"].annotation):
        assert f"`{word}`" in page
