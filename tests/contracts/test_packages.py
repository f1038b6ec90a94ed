"""What the three packages look like from outside: folders, exported names, who may import whom."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "trajmon": ROOT / "client" / "trajmon",
    "trajmon_server": ROOT / "monitor" / "trajmon_server",
    "trajmon_protos": ROOT / "protos" / "trajmon_protos",
}


def modules_of(package: str) -> list[str]:
    """Dotted names of all modules that can be imported without running a program."""
    folder = PACKAGES[package]
    names = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        if parts[-1] != "__main__":
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def imported_after(code: str) -> set[str]:
    """Top-level names of every module that a fresh interpreter holds after running the code."""
    probe = f"{code}\nimport sys\nprint(' '.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", probe], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("folder", ["client", "monitor", "protos", "tests", "benchmarks"])
def test_a_folder_of_packages_is_no_package(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


def test_test_folders_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_each_package_is_typed_and_imports_from_this_tree(package: str) -> None:
    assert (PACKAGES[package] / "py.typed").is_file()
    module = importlib.import_module(package)
    assert module.__file__ is not None
    assert Path(module.__file__).parent == PACKAGES[package]


def test_exported_members() -> None:
    import trajmon

    assert trajmon.__all__ == [
        "Advice",
        "Interleave",
        "Plan",
        "Recorder",
        "RecorderStatus",
        "SketchSpec",
        "SwitchReport",
        "View",
        "errors",
        "open_run",
        "switch_back",
        "switch_to_norm_only",
        "watch",
    ]
    for name in trajmon.__all__:
        assert getattr(trajmon, name) is not None
    assert set(trajmon.__all__) <= set(dir(trajmon))


def test_an_unknown_member_is_an_attribute_error() -> None:
    import trajmon

    misspelt = "wach"
    with pytest.raises(AttributeError, match=f"module 'trajmon' has no attribute '{misspelt}'"):
        getattr(trajmon, misspelt)


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_every_exported_name_exists(package: str) -> None:
    missing = []
    for name in modules_of(package):
        if "_pb2" in name:
            continue
        module = importlib.import_module(name)
        missing += [
            f"{name}.{member}" for member in getattr(module, "__all__", ()) if not hasattr(module, member)
        ]
    assert missing == []


def test_import_rules() -> None:
    answer = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "0 broken" in answer.stdout


def test_import_trajmon_is_light() -> None:
    heavy = {"torch", "grpc", "numba", "numpy", "google", "matplotlib", "zarr", "trajmon_server"}
    assert imported_after("import trajmon") & heavy == set()


def test_the_training_process_never_loads_grpc() -> None:
    loaded = imported_after("import trajmon, torch\nfor name in trajmon.__all__: getattr(trajmon, name)")
    assert "torch" in loaded
    assert loaded & {"grpc", "google", "trajmon_server", "zarr"} == set()


def test_the_agent_never_loads_torch() -> None:
    names = [name for name in modules_of("trajmon") if name.startswith("trajmon.agent")]
    assert names
    loaded = imported_after("\n".join(f"import {name}" for name in names))
    assert loaded & {"torch", "trajmon_server", "zarr"} == set()


@pytest.mark.parametrize("package", ["trajmon_server", "trajmon_protos"])
def test_no_module_of_the_server_loads_torch_or_the_client(package: str) -> None:
    names = modules_of(package)
    assert len(names) > 3
    loaded = imported_after("\n".join(f"import {name}" for name in names))
    assert package in loaded
    assert loaded & {"torch", "trajmon", "numba"} == set()
