"""Cookies for browsers: proof that somebody once showed a token, without the token in it.

The value is ``EXPIRES.MAC``: when it ends (Unix seconds) and HMAC-SHA256 over the digest of the token and that time.
The key is derived from the server's own token, so that sessions outlive a restart and end when that token is
replaced; one whose token is taken out of the settings ends with it.
"""

from __future__ import annotations

import hashlib
import hmac
import time

from trajmon_server.auth import LOCAL_TEAM, Principal
from trajmon_server.config import TokenEntry

__all__ = ["COOKIE", "SESSION_SECONDS", "Sessions"]

COOKIE = "trajmon_session"
SESSION_SECONDS = 30 * 24 * 3600


class Sessions:
    """Makes and checks the cookies' values."""

    def __init__(self, local_token: str, entries: tuple[TokenEntry, ...] = ()) -> None:
        self._key = hmac.digest(local_token.encode(), b"trajmon browser session v1", "sha256")
        self._known = [(hashlib.sha256(local_token.encode()).digest(), Principal(LOCAL_TEAM, "write"))]
        self._known += [(bytes.fromhex(entry.sha256), Principal(entry.team, entry.role)) for entry in entries]

    def begin(self, token: str) -> str | None:
        """A cookie's value for whoever holds the token; None if it is not valid."""
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        found = False
        # All are compared, so that the time taken tells nothing.
        for known, _ in self._known:
            found |= hmac.compare_digest(known, digest)
        return self._value(digest, int(time.time()) + SESSION_SECONDS) if found else None

    def principal(self, value: str) -> Principal | None:
        """Who holds this cookie; None if it is not one that this server gave, or has ended."""
        expires, _, _ = value.partition(".")
        if not (expires.isascii() and expires.isdecimal() and len(expires) < 16):
            return None
        found = None
        for digest, principal in self._known:
            if hmac.compare_digest(
                self._value(digest, int(expires)).encode(), value.encode(errors="replace")
            ):
                found = principal
        return found if int(expires) > time.time() else None

    def _value(self, digest: bytes, expires: int) -> str:
        mac = hmac.new(self._key, digest + expires.to_bytes(8, "big"), "sha256").hexdigest()
        return f"{expires}.{mac}"
