"""Tokens: who is known, and the token file."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from trajmon_server.auth import Authenticator, Principal, load_or_create_token
from trajmon_server.config import TokenEntry
from trajmon_server.errors import ConfigError


def test_tokens_name_team_and_role() -> None:
    entry = TokenEntry(sha256=hashlib.sha256(b"reader-token").hexdigest(), team="vision", role="read")
    authenticator = Authenticator("local-token", (entry,))
    assert authenticator.authenticate("Bearer local-token") == Principal("local", "write")
    reader = authenticator.authenticate("bearer reader-token")
    assert reader == Principal("vision", "read")
    assert reader.may("read")
    assert not reader.may("write")


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic local-token", "local-token", "Bearer x"]
)
def test_anything_else_is_nobody(header: str | None) -> None:
    assert Authenticator("local-token").authenticate(header) is None


def test_a_token_file_is_created_for_the_user_alone_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "home" / "token"
    token = load_or_create_token(path)
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_or_create_token(path) == token
    assert list(path.parent.iterdir()) == [path]


def test_what_a_crashed_server_left_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / f".token.{os.getpid()}").write_text("half")
    assert len(load_or_create_token(tmp_path / "token")) >= 32


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        (b"", 0o600, "holds no token of at least 16 characters; delete it to get a fresh one"),
        (b"short\n", 0o600, "holds no token of at least 16 characters; delete it to get a fresh one"),
        (b"\xff" * 40, 0o600, "is not text; delete it to get a fresh one"),
        (b"long-enough-to-be-a-token", 0o640, "can be read by others; run: chmod 600 {path}"),
    ],
)
def test_a_wrong_token_file_is_refused_and_kept(tmp_path: Path, content: bytes, mode: int, text: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        load_or_create_token(path)
    assert str(caught.value) == f"token file {path} {text.format(path=path)}"
    assert path.read_bytes() == content


def test_a_folder_is_no_token_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_or_create_token(tmp_path)
    assert str(caught.value) == f"token file {tmp_path}: Is a directory; give another with --token-file"
