"""What was promised on the wire is kept: fields, numbers and methods of protos/wire.binpb, checked by buf."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROTOS = Path(__file__).parents[2] / "protos"
INGEST = Path("trajmon_protos") / "v1" / "ingest.proto"


def breaking(folder: Path) -> tuple[int, str]:
    outcome = subprocess.run(
        [Path(sys.executable).parent / "buf", "breaking", folder, "--against", PROTOS / "wire.binpb"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return outcome.returncode, outcome.stdout + outcome.stderr


def changed(folder: Path, old: str, new: str) -> Path:
    copy = Path(shutil.copytree(PROTOS, folder / "protos"))
    text = (copy / INGEST).read_text()
    assert text.count(old) == 1
    (copy / INGEST).write_text(text.replace(old, new))
    return copy


def test_the_wire_is_as_it_was_promised() -> None:
    assert breaking(PROTOS) == (0, "")


def test_a_new_field_breaks_nothing(tmp_path: Path) -> None:
    old = "  bool takes_sketches = 4;\n"
    assert breaking(changed(tmp_path, old, old + "  bool takes_all = 999;\n")) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  bool takes_sketches = 4;\n", "", 'field "4" with name "takes_sketches"'),
        ("bool takes_sketches = 4;", "bool takes_sketches = 999;", 'field "4" with name "takes_sketches"'),
        ("bool takes_sketches = 4;", "uint64 takes_sketches = 4;", 'changed type from "bool" to "uint64"'),
        ("rpc ReportStatus(", "rpc ReportState(", 'RPC "ReportStatus"'),
    ],
)
def test_a_planted_break_is_found(tmp_path: Path, old: str, new: str, said: str) -> None:
    code, text = breaking(changed(tmp_path, old, new))
    assert code != 0
    assert said in text
