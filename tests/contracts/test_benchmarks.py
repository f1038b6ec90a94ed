"""`python -m benchmarks`: one table, and a status that says whether a figure was missed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).parents[2] / "benchmarks" / "__main__.py"

MODULES = {
    "within": "def run(): return [dict(name='rate', value=12345.6, unit='rows/s', limit='100+', ok=True)]",
    "beyond": "def run(): return [dict(name='ratio', value=0.5, unit='', limit=0.6, ok=False)]",
    "plain": "def run(): return [dict(name='size', value=3, unit='MiB', limit=None, ok=True)]",
    "crashing": "def run(): raise RuntimeError('no disk here')",
    "silent": "def run(): return []",
    "endless": "import time\ndef run(): time.sleep(600)",
    "careless": "def run(): return [dict(name='rate', value=1.0)]",
    "_helper": "raise AssertionError('not a benchmark')",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(RUNNER, tmp_path / "benchmarks")
    for name, source in MODULES.items():
        (tmp_path / "benchmarks" / f"{name}.py").write_text(source)
    return tmp_path


def benchmarks(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)


def line_with(text: str, answer: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in answer.stdout.splitlines() if text in line]
    assert len(lines) == 1, answer.stdout + answer.stderr
    return lines[0]


def test_figures_within_their_limits(folder: Path) -> None:
    answer = benchmarks(folder, "within", "plain")
    assert answer.returncode == 0, answer.stderr
    line = line_with("rate", answer)
    assert "12,346" in line
    assert "rows/s" in line
    assert "100+" in line
    assert "ok" in line
    assert "3" in line_with("size", answer)


def test_one_missed_figure_fails_the_whole(folder: Path) -> None:
    answer = benchmarks(folder, "within", "beyond")
    assert answer.returncode == 1
    assert "missed" in line_with("ratio", answer)
    assert "ok" in line_with("rate", answer)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("crashing", "crashing: ended with status 1"),
        ("silent", "silent: gave no figures"),
        ("careless", "careless: ended with status 1"),
        ("endless", "endless: not done after 1 s"),
    ],
)
def test_a_benchmark_without_figures_is_a_missed_one(folder: Path, module: str, text: str) -> None:
    answer = benchmarks(folder, "--timeout", "1" if module == "endless" else "60", module)
    assert answer.returncode == 1
    assert "missed" in line_with(text, answer)


def test_what_went_wrong_is_shown(folder: Path) -> None:
    assert "RuntimeError: no disk here" in benchmarks(folder, "crashing").stderr
    assert (
        "benchmark careless: a figure lacks ['limit', 'ok', 'unit']" in benchmarks(folder, "careless").stderr
    )


def test_all_of_them_without_arguments(folder: Path) -> None:
    answer = benchmarks(folder, "--timeout", "2")
    assert answer.returncode == 1
    for module in MODULES:
        assert (f"running {module} ..." in answer.stderr) == (not module.startswith("_"))


def test_an_unknown_benchmark(folder: Path) -> None:
    answer = benchmarks(folder, "nothing")
    assert answer.returncode == 2
    assert "invalid choice: 'nothing'" in answer.stderr


def test_no_benchmarks_at_all(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(RUNNER, tmp_path / "benchmarks")
    answer = benchmarks(tmp_path)
    assert (answer.returncode, answer.stderr) == (1, "no benchmarks here\n")
