"""What cannot be read is refused with a text that says what to do; nothing is read out of half a store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trajmon
from trajmon.errors import TrajmonError
from trajmon.query import InvalidRequestError, NotAuthorisedError, NotFoundError, UnreachableError
from trajmon.reading.errors import DataDirectoryError, ReadingError, UnknownNameError
from trajmon.reading.view import RunView

Open = Callable[[str], RunView]
NOBODY = 65534


def test_unknown_run(house: Any) -> None:
    with pytest.raises(NotFoundError, match="no run named 'absent'"):
        trajmon.open_run("absent", server=house.address, home=house.server.home)
    with pytest.raises(
        UnknownNameError,
        match=r"no run named 'absent' in .*; there are: empty, live, long, resumed, single$",
    ):
        trajmon.open_run("absent", data_dir=house.server.data_dir)


@pytest.mark.parametrize(
    ("scope", "text"),
    [
        ("layer:absent", "has no layer 'absent'|there is no layer 'absent'"),
        ("group:absent", "has no group 'absent'|there is no group 'absent'"),
        ("everything", "is not one of: network, group:NAME, layer:NAME"),
    ],
)
def test_unknown_scope(read: Open, scope: str, text: str) -> None:
    view = read("long")
    for ask in (view.map, view.hallmarks, view.gram):
        with pytest.raises(TrajmonError, match=text):
            ask(scope)


def test_unknown_checkpoint(read: Open) -> None:
    view = read("resumed")
    for number in (9, 4):  # beyond the end; superseded
        with pytest.raises(TrajmonError, match=f"checkpoint {number} is not among those of the map"):
            view.map(relative_to=number)
    with pytest.raises(TrajmonError, match=r"start:? 5 is beyond stop 2"):
        view.map(start=5, stop=2)


@pytest.mark.parametrize("value", [-1, 2**63, 1.5, "3", True])
@pytest.mark.parametrize("name", ["relative_to", "start", "stop"])
def test_what_is_no_number_of_a_checkpoint(read: Open, name: str, value: Any) -> None:
    with pytest.raises(ReadingError, match=f"{name}=.* is not the number of a checkpoint; they count from 0"):
        read("long").map(**{name: value})


def test_unknown_kernel(read: Open) -> None:
    kernel: Any = "cubic"
    with pytest.raises(ReadingError, match=r"kernel 'cubic'"):
        read("long").map(kernel=kernel)


def test_a_scope_that_is_no_text(read: Open) -> None:
    scope: Any = 3
    with pytest.raises(ReadingError, match="scope=3 is no text"):
        read("long").map(scope)


def test_kernels_about_a_checkpoint_are_refused_by_the_server(house: Any) -> None:
    with (
        trajmon.open_run("long", server=house.address, home=house.server.home) as view,
        pytest.raises(InvalidRequestError, match="leave relative_to unset"),
    ):
        view.map(relative_to=3, kernel="rbf")


def test_one_source_and_a_name(tmp_path: Path) -> None:
    with pytest.raises(ReadingError, match="server and data_dir were both given"):
        trajmon.open_run("run", server="127.0.0.1:1", data_dir=tmp_path)
    with pytest.raises(ReadingError, match="run is empty"):
        trajmon.open_run("", data_dir=tmp_path)


@pytest.mark.parametrize(
    "address", ["nowhere", "127.0.0.1:", "127.0.0.1:99999", "http://127.0.0.1:80", ":1x"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ReadingError, match="is not HOST:PORT"):
        trajmon.open_run("run", server=address)


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"no server answers at 127\.0\.0\.1:1\b"):
        trajmon.open_run("run", server="127.0.0.1:1", home=tmp_path)


def test_no_token(house: Any, tmp_path: Path) -> None:
    with pytest.raises(NotAuthorisedError, match="TRAJMON_TOKEN"):
        trajmon.open_run("long", server=house.address, home=tmp_path)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryError, match=r"there is no folder .*absent; data_dir is what"):
        trajmon.open_run("run", data_dir=tmp_path / "absent")
    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(DataDirectoryError, match="there is no folder"):
        trajmon.open_run("run", data_dir=file)
    with pytest.raises(DataDirectoryError, match=r"is no data directory: it holds no maps/RUN_ID.zarr"):
        trajmon.open_run("run", data_dir=tmp_path)
    with pytest.raises(DataDirectoryError, match=r"cannot read .*File name too long"):
        trajmon.open_run("run", data_dir=tmp_path / ("x" * 300))


def test_a_data_directory_without_runs(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    with pytest.raises(UnknownNameError, match=r"no run named 'run' in .*; there are: none"):
        trajmon.open_run("run", data_dir=tmp_path)


def store_of(copied: Path, house: Any, run: str = "long") -> Path:
    found: Path = copied / "maps" / f"{house.runs[run].run_id}.zarr"
    assert found.is_dir()
    return found


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_document_that_was_not_written_to_its_end(copied: Path, house: Any, cut: int) -> None:
    document = store_of(copied, house) / "zarr.json"
    document.write_bytes(document.read_bytes()[:cut])
    with pytest.raises(UnknownNameError, match=r"; 1 could not be looked at: .*zarr\.json is damaged"):
        trajmon.open_run("long", data_dir=copied)
    # The others do not suffer.
    assert trajmon.open_run("single", data_dir=copied).map().shape == (1, 1)


def test_a_store_without_its_document(copied: Path, house: Any) -> None:
    (store_of(copied, house) / "zarr.json").unlink()
    with pytest.raises(UnknownNameError, match=r"could not be looked at: cannot read .*No such file"):
        trajmon.open_run("long", data_dir=copied)


@pytest.mark.parametrize("version", [0, 99, "1", None])
def test_another_format(copied: Path, house: Any, version: Any) -> None:
    document = store_of(copied, house) / "zarr.json"
    value = json.loads(document.read_bytes())
    value["attributes"]["trajmon_format"] = version
    document.write_text(json.dumps(value))
    with pytest.raises(UnknownNameError, match=f"is of format {version!r}, this trajmon reads 1 and 2"):
        trajmon.open_run("long", data_dir=copied)


def test_a_store_of_somebody_else(copied: Path) -> None:
    import xarray as xr

    xr.Dataset({"a": ("x", [1.0])}).to_zarr(copied / "maps" / "other.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(UnknownNameError, match=r"other\.zarr/zarr\.json is damaged or not of trajmon"):
        trajmon.open_run("other", data_dir=copied)


@pytest.mark.parametrize("name", ["superseded", "step", "attempt", "checkpoint"])
def test_a_missing_column_is_not_read_as_its_fill_value(copied: Path, house: Any, name: str) -> None:
    (store_of(copied, house) / name / "c.0").unlink()
    with pytest.raises(
        DataDirectoryError, match=f"{name}/c.0 is missing: the store was not written to its end"
    ):
        trajmon.open_run("long", data_dir=copied)


def test_a_missing_row_is_not_left_out_of_the_mean(copied: Path, house: Any) -> None:
    view = trajmon.open_run("long", data_dir=copied)
    (store_of(copied, house) / "group_gram_tail" / "c.0.66.0").unlink()
    for ask in (view.map, view.hallmarks):
        with pytest.raises(DataDirectoryError, match=r"c\.0\.66\.0 is missing: checkpoint 66 cannot be read"):
            ask()
    # What does not need the row can still be read.
    assert view.map("layer:layer0.weight").shape == (70, 70)


def test_a_missing_strip_and_no_tail(copied: Path, house: Any) -> None:
    store = store_of(copied, house)
    (store / "group_gram" / "c.0.0.0").unlink()
    for row in (store / "group_gram_tail").glob("c.0.[0-9].0"):
        row.unlink()
    with pytest.raises(DataDirectoryError, match="is missing: checkpoint 0 cannot be read"):
        trajmon.open_run("long", data_dir=copied).map()


@pytest.mark.parametrize("name", ["group_gram/c.0.0.0", "group_update_squared/c.0.0", "step/c.0"])
def test_a_damaged_file(copied: Path, house: Any, name: str) -> None:
    path = store_of(copied, house) / name
    content = bytearray(path.read_bytes())
    content[8] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataDirectoryError, match=r"\.zarr cannot be read: .*; its server makes it again"):
        trajmon.open_run("long", data_dir=copied).hallmarks()


def test_a_shard_cut_short(copied: Path, house: Any) -> None:
    path = store_of(copied, house) / "group_gram" / "c.0.0.0"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataDirectoryError, match="cannot be read"):
        trajmon.open_run("long", data_dir=copied).map()


def test_two_runs_of_one_name_are_told_apart_by_id(copied: Path, house: Any) -> None:
    document = store_of(copied, house, "single") / "zarr.json"
    value = json.loads(document.read_bytes())
    value["attributes"]["run_name"] = "long"
    document.write_text(json.dumps(value))
    with pytest.raises(UnknownNameError, match=r"2 runs in .* are named 'long'; name one by its id: "):
        trajmon.open_run("long", data_dir=copied)
    assert trajmon.open_run(house.runs["single"].run_id, data_dir=copied).map().shape == (1, 1)


@pytest.mark.parametrize("locked", [".", "maps", "maps/RUN.zarr"])
def test_no_permission(copied: Path, house: Any, locked: str) -> None:
    for folder in (copied, *copied.parents[:3]):
        folder.chmod(0o755)
    (copied / locked.replace("RUN", house.runs["long"].run_id)).chmod(0o700 if os.geteuid() == 0 else 0o000)
    code = (
        "import os, sys, zarr, trajmon\n"
        "from trajmon.reading import stored\n"
        f"if os.geteuid() == 0: os.setuid({NOBODY})\n"
        "try: trajmon.open_run('long', data_dir=sys.argv[1])\n"
        "except trajmon.errors.TrajmonError as error: print(error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(copied)], capture_output=True, text=True, check=False, timeout=60
    )
    (copied / locked.replace("RUN", house.runs["long"].run_id)).chmod(0o755)
    assert answer.returncode == 0, answer.stderr
    assert "Permission denied; it can be read by who runs the server" in answer.stdout


@pytest.mark.parametrize(("missing", "way"), [("xarray", "server='127.0.0.1:1'"), ("zarr", "data_dir='.'")])
def test_a_missing_package_is_named(missing: str, way: str) -> None:
    # An entry of None is how an interpreter without the package behaves.
    code = (
        f"import sys; sys.modules['{missing}'] = None; import trajmon\n"
        f"try: trajmon.open_run('run', {way})\n"
        "except trajmon.errors.TrajmonError as error: print(type(error).__name__, error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.stdout == (
        f"MissingPackageError reading runs from Python needs {missing}: pip install 'trajmon[reading]'\n"
    ), answer.stderr
