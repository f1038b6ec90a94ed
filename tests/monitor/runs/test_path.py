"""The path of a run, against the plain definition: follow `previous` back from the newest checkpoint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajmon_server.runs.path import extend_path, path_of, superseded_by


def followed_back(previous: list[int | None]) -> tuple[int, ...]:
    path: list[int] = []
    at: int | None = len(previous) - 1 if previous else None
    while at is not None:
        path.append(at)
        at = previous[at]
    return tuple(reversed(path))


@st.composite
def histories(draw: st.DrawFn) -> list[int | None]:
    previous: list[int | None] = [None]
    for _ in range(draw(st.integers(0, 30))):
        previous.append(draw(st.sampled_from(followed_back(previous))))
    return previous


@given(histories())
def test_the_path_is_the_chain_of_previous(previous: list[int | None]) -> None:
    assert path_of(previous) == followed_back(previous)
    path: tuple[int, ...] = ()
    for checkpoint, before in enumerate(previous):
        dropped = superseded_by(path, before)
        longer = extend_path(path, checkpoint, before)
        assert (*longer[:-1], *dropped) == path
        path = longer
    assert path == path_of(previous)


def test_a_superseded_checkpoint_cannot_be_followed() -> None:
    with pytest.raises(
        ValueError, match=r"checkpoint 2 is superseded or does not exist; the path ends in \[0, 1, 5\]"
    ):
        superseded_by((0, 1, 5), 2)
