"""The bar for slow work: on a terminal, after a while, and gone at the end."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from trajmon.cli.waiting import waiting


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80, legacy_windows=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def until_written(console: Console, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in written(console):
        assert time.monotonic() < deadline, written(console)
        time.sleep(0.01)


def test_it_shows_which_step_of_how_many_and_goes_away() -> None:
    console = terminal()
    with waiting(3, console, after_seconds=0.0) as step:
        step("resnet20")
        until_written(console, "resnet20")
        step("second\x1b[31m\nrun")
        until_written(console, "second [31m run")
        until_written(console, "1/3")
    # The last thing written erases the line.
    assert "\x1b[2K" in written(console).rpartition("1/3")[2]


def test_quick_work_shows_nothing() -> None:
    console = terminal()
    with waiting(2, console, after_seconds=600.0) as step:
        step("a")
        step("b")
    assert "a" not in written(console)


def test_without_a_terminal_nothing_is_shown() -> None:
    console = Console(file=io.StringIO())
    with waiting(2, console, after_seconds=0.0) as step:
        step("a")
    assert written(console) == ""


def test_an_error_passes_and_the_bar_goes_away() -> None:
    console = terminal()

    def work() -> None:
        with waiting(2, console, after_seconds=0.0) as step:
            step("first")
            until_written(console, "first")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    # The cursor is shown again.
    assert "\x1b[?25h" in written(console)
