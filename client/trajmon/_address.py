"""Where a server is: ``HOST:PORT`` in clear text, ``grpcs://HOST:PORT`` over TLS. Needs no gRPC."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from trajmon._settings import allows_plaintext
from trajmon.errors import ServerAddressError

__all__ = ["ServerAddress", "check_plaintext", "parse_server"]

_SCHEME = "grpcs"


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One server, and how it is spoken to."""

    host: str
    """Name or number, without the brackets of an IPv6 address."""
    port: int
    tls: bool = False

    @property
    def target(self) -> str:
        """``HOST:PORT``, as gRPC takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{_SCHEME}://{self.target}" if self.tls else self.target

    @property
    def is_loopback(self) -> bool:
        """True where nothing leaves this machine."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_server(text: str) -> ServerAddress:
    """Read an address as users write it. Raises ServerAddressError.

    >>> parse_server("grpcs://monitor.example.org:50051")
    ServerAddress(host='monitor.example.org', port=50051, tls=True)
    >>> parse_server("[::1]:50051").host
    '::1'
    """
    scheme, separator, rest = text.rpartition("://")
    problem = f"{text[:80]!r} is not HOST:PORT, for example 127.0.0.1:50051, or grpcs://HOST:PORT"
    if separator and scheme != _SCHEME:
        raise ServerAddressError(f"{problem}: the scheme {scheme[:20]!r} is not known")
    host, _, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        is_host = _is_ipv6(host)
    else:
        is_host = bool(host) and host.isprintable() and not set(host) & set(" /\\?#@:[],")
    if not is_host or not port.isascii() or not port.isdigit() or len(port) > 5 or not 0 < int(port) < 65536:
        raise ServerAddressError(problem)
    return ServerAddress(host, int(port), tls=bool(separator))


def check_plaintext(server: ServerAddress, token: str | None) -> None:
    """Raises ServerAddressError if the token would cross a network in clear text, and nobody has allowed it."""
    if token and not server.tls and not server.is_loopback and not allows_plaintext():
        raise ServerAddressError(
            f"the token is not sent to {server} in clear text: name the server as grpcs://{server.target} if it "
            "speaks TLS, or set TRAJMON_ALLOW_PLAINTEXT=1 if nobody else can listen on the way"
        )


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
