"""Cookies: what they prove, and when they end."""

from __future__ import annotations

import hashlib

import pytest

from trajmon_server.auth import LOCAL_TEAM, Principal
from trajmon_server.config import TokenEntry
from trajmon_server.web.sessions import SESSION_SECONDS, Sessions

LOCAL, TEAM = "local-token-of-the-house", "token-of-a-team"
ENTRY = TokenEntry(sha256=hashlib.sha256(TEAM.encode()).hexdigest(), team="red", role="read")


@pytest.fixture
def made() -> Sessions:
    return Sessions(LOCAL, (ENTRY,))


def begun(made: Sessions, token: str) -> str:
    value = made.begin(token)
    assert value is not None
    return value


def test_a_session_is_its_tokens_principal(made: Sessions) -> None:
    assert made.principal(begun(made, LOCAL)) == Principal(LOCAL_TEAM, "write")
    assert made.principal(begun(made, TEAM)) == Principal("red", "read")
    assert made.begin("another") is None


def test_it_holds_neither_the_token_nor_its_digest(made: Sessions) -> None:
    value = begun(made, TEAM)
    assert TEAM not in value
    assert ENTRY.sha256 not in value


def test_it_outlives_a_restart_but_not_its_token(made: Sessions) -> None:
    local, team = begun(made, LOCAL), begun(made, TEAM)
    restarted = Sessions(LOCAL, (ENTRY,))
    assert restarted.principal(local) is not None
    assert restarted.principal(team) is not None
    assert Sessions(LOCAL).principal(team) is None
    replaced = Sessions("a-new-token-of-the-house", (ENTRY,))
    assert replaced.principal(local) is None
    assert replaced.principal(team) is None


def test_it_ends(made: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("trajmon_server.web.sessions.time.time", lambda: now)
    value = begun(made, TEAM)
    now += SESSION_SECONDS - 1
    assert made.principal(value) is not None
    now += 1
    assert made.principal(value) is None


def test_a_later_end_cannot_be_written_in(made: Sessions) -> None:
    expires, _, mac = begun(made, TEAM).partition(".")
    assert made.principal(f"{int(expires) + 1}.{mac}") is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "x",
        "1",
        "99999999999.",
        "99999999999." + "0" * 64,
        "9" * 40 + ".0",
        "-1.0",
        "٣.0",
        "é.\udcff",
    ],
)
def test_what_is_no_session(made: Sessions, value: str) -> None:
    assert made.principal(value) is None
