"""Who may do what. Tokens name a team and a role; every method has a rule, and a method without one is refused."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trajmon_server.config import TokenEntry
from trajmon_server.errors import ConfigError, reason_of

__all__ = ["LOCAL_TEAM", "Authenticator", "Principal", "load_or_create_token"]

LOCAL_TEAM = "local"
Role = Literal["read", "write"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, by the token alone."""

    team: str
    role: Role

    def may(self, needed: Role) -> bool:
        """Writers may read as well."""
        return needed == "read" or self.role == "write"


class Authenticator:
    """Knows the digests of all valid tokens."""

    def __init__(self, local_token: str, entries: tuple[TokenEntry, ...] = ()) -> None:
        self._known: list[tuple[bytes, Principal]] = [(_digest(local_token), Principal(LOCAL_TEAM, "write"))]
        self._known += [(bytes.fromhex(entry.sha256), Principal(entry.team, entry.role)) for entry in entries]

    def authenticate(self, authorization: str | None) -> Principal | None:
        """The caller behind an ``authorization: Bearer TOKEN`` header; None if there is none that is valid."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        digest = _digest(token.strip())
        found = None
        # All are compared, so that the time taken tells nothing.
        for known, principal in self._known:
            if hmac.compare_digest(known, digest):
                found = principal
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _create_token(path: Path) -> None:
    # Not named by the process id alone: in a container that is the same after every crash.
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link fails if the name exists: the first of two servers wins, the other reads its token.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink()


def load_or_create_token(path: Path) -> str:
    """Read the token file, or create one (mode 0600) with a fresh token. Safe against a second server starting."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _create_token(path)
        token = path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"token file {path}: {reason_of(error)}; give another with --token-file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"token file {path} is not text; delete it to get a fresh one") from error
    if len(token) < 16:
        raise ConfigError(
            f"token file {path} holds no token of at least 16 characters; delete it to get a fresh one"
        )
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"token file {path} can be read by others; run: chmod 600 {path}")
    return token
