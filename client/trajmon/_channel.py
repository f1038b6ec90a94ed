"""The one place where channels to servers are opened: in clear text, or over TLS.

A token is not sent in clear text to another machine, unless TRAJMON_ALLOW_PLAINTEXT=1 says that the way is safe.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from pathlib import Path

import grpc

from trajmon._address import ServerAddress, check_plaintext
from trajmon._settings import TlsFiles
from trajmon.errors import ServerAddressError

__all__ = ["open_channel", "read_own_pair", "trusted_roots"]

_SYSTEM_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def open_channel(
    server: ServerAddress, token: str | None, options: Sequence[tuple[str, int | str]]
) -> grpc.Channel:
    """A channel that connects at the first call. Reads the TLS files now. Raises ServerAddressError."""
    chosen = list(options)
    if server.is_loopback:
        # A proxy setting of the environment must not catch connections within the machine.
        chosen.append(("grpc.enable_http_proxy", 0))
    if not server.tls:
        check_plaintext(server, token)
        return grpc.insecure_channel(server.target, options=chosen)
    return grpc.secure_channel(server.target, _credentials(TlsFiles.from_environment()), options=chosen)


def trusted_roots(files: TlsFiles) -> bytes | None:
    """Certificates of the authorities that are trusted, as PEM; None: those that gRPC comes with.

    TRAJMON_TLS_CA alone, if it is set; else this machine's own. Raises ServerAddressError.
    """
    if files.ca is not None:
        return _read_pem("TRAJMON_TLS_CA", files.ca, "CERTIFICATE")
    # By itself gRPC's Python package trusts a list of its own, which lacks what an institute adds to its machines.
    chosen = (os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"), ssl.get_default_verify_paths().cafile)
    for name in (*chosen, *_SYSTEM_ROOTS):
        if not name:
            continue
        try:
            data = Path(name).read_bytes()
        except OSError:
            continue
        if b"-----BEGIN CERTIFICATE-----" in data:
            return data
    return None


def _read_pem(variable: str, path: Path, kind: str) -> bytes:
    """A PEM file that an environment variable names. Raises ServerAddressError."""
    try:
        data = path.read_bytes() if path.is_file() or not path.exists() else None
    except OSError as error:
        raise ServerAddressError(f"{variable}: {path}: {error.strerror or error}") from error
    if data is None:
        raise ServerAddressError(f"{variable}: {path} is not a file")
    if f"{kind}-----".encode() not in data:
        what = "private key" if kind == "PRIVATE KEY" else "certificate"
        raise ServerAddressError(f"{variable}: {path} holds no {what} in PEM form")
    return data


def _credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    roots = trusted_roots(files)
    own = files.own_pair()
    if own is None:
        return grpc.ssl_channel_credentials(roots)
    chain, secret = read_own_pair(*own)
    return grpc.ssl_channel_credentials(roots, secret, chain)


def read_own_pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """A caller's certificate and key, as PEM; they belong together. Raises ServerAddressError."""
    chain = _read_pem("TRAJMON_TLS_CERT", certificate, "CERTIFICATE")
    secret = _read_pem("TRAJMON_TLS_KEY", key, "PRIVATE KEY")
    _check_pair(certificate, key)
    return chain, secret


def _check_pair(certificate: Path, key: Path) -> None:
    """gRPC itself says nothing of a key that is not the certificate's; no call gets through."""

    def no_password() -> str:
        raise ServerAddressError(
            f"TRAJMON_TLS_KEY: {key} is encrypted; give the key without a password, mode 0600"
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ServerAddressError(
                f"TRAJMON_TLS_KEY: {key} is not the key of the certificate in {certificate}"
            ) from error
        raise ServerAddressError(
            f"TRAJMON_TLS_CERT: {certificate} with {key} cannot be used: {error.reason or error}"
        ) from error
    except OSError as error:
        raise ServerAddressError(f"TRAJMON_TLS_CERT: {certificate}: {error.strerror or error}") from error
