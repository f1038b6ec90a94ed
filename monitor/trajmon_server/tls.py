"""TLS of the server's three ports: the files on disk, checked, and taken up again when they are renewed.

gRPC asks for the certificate at each new connection. For HTTP and metrics a context that lives as long as the port
hands each handshake to the context of the newest files, which is made whole before it is put in place: a renewal that
is only half written changes nothing. Connections that exist go on with what they began with.

Callers' certificates (`client_ca`) are asked for by gRPC and by the metrics, which know no token. HTTP has tokens,
and is where browsers and probes for life and readiness come from, which seldom have certificates: it asks for them
only with `client_ca_http`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, cast

import grpc
import structlog

from trajmon_server.certificates import Validity, first_certificate, validity_of
from trajmon_server.config import TlsSettings
from trajmon_server.errors import ConfigError, reason_of

__all__ = ["ServerTls", "load_tls"]

log = structlog.get_logger(__name__)

_MAX_FILE_BYTES = 1 << 20
_SOON_SECONDS = 14 * 86400.0
_REMIND_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class _Files:
    """What the files held at one moment."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None

    @classmethod
    def read(cls, settings: TlsSettings) -> _Files:
        """Raises ConfigError."""
        assert settings.certificate is not None
        assert settings.key is not None
        ca = None if settings.client_ca is None else _read("client_ca", settings.client_ca, "CERTIFICATE")
        return cls(
            _read("certificate", settings.certificate, "CERTIFICATE"),
            _read("key", settings.key, "PRIVATE KEY"),
            ca,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Material:
    """Files that go together, and what is made of them."""

    files: _Files
    validity: Validity
    open_context: ssl.SSLContext
    """Asks callers for nothing."""
    closed_context: ssl.SSLContext
    """Asks callers for a certificate, if there is a `client_ca`."""


def load_tls(settings: TlsSettings) -> ServerTls | None:
    """The server's TLS; None if none is configured. Raises ConfigError."""
    given = {"certificate": settings.certificate, "key": settings.key}
    missing = [name for name, path in given.items() if path is None]
    if len(missing) == 1:
        (there,) = given.keys() - set(missing)
        raise ConfigError(f"tls.{there} is set and tls.{missing[0]} is not; TLS needs both")
    if missing:
        for name, is_set in (
            ("client_ca", settings.client_ca is not None),
            ("client_ca_http", settings.client_ca_http),
        ):
            if is_set:
                raise ConfigError(f"tls.{name} is set without tls.certificate and tls.key; TLS needs both")
        return None
    if settings.client_ca_http and settings.client_ca is None:
        raise ConfigError(
            "tls.client_ca_http is set and tls.client_ca is not: nothing says who signs callers' certificates"
        )
    return ServerTls(settings)


class ServerTls:
    """The certificate that the server shows, and what it asks of callers."""

    def __init__(self, settings: TlsSettings) -> None:
        """Read and check the files. Raises ConfigError."""
        self._settings = settings
        self._material = _load(settings)
        self._refused = ""
        self._remind_at = 0.0
        self._remind()

    def expires(self) -> float:
        """When the certificate that is shown ends, in Unix seconds."""
        return self._material.validity.not_after_unix_seconds

    def http_context(self) -> ssl.SSLContext:
        """For the HTTP port, for as long as it is open."""
        if self._settings.client_ca_http:
            return self._lasting(lambda material: material.closed_context)
        return self._lasting(lambda material: material.open_context)

    def metrics_context(self) -> ssl.SSLContext:
        """For the metrics port, for as long as it is open. Safe to use from other threads."""
        return self._lasting(lambda material: material.closed_context)

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For the gRPC port, for as long as it is open."""
        shown = self._material

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            # Called from gRPC's own threads, before each handshake.
            nonlocal shown
            newest = self._material
            if newest is shown:
                return None
            shown = newest
            return _grpc_configuration(newest.files)

        return grpc.dynamic_ssl_server_credentials(
            _grpc_configuration(shown.files),
            # None for no change, which the stubs do not know.
            cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch),
            require_client_authentication=shown.files.client_ca is not None,
        )

    def renew(self) -> bool:
        """Take up the files if they have changed and are in order; True if they were taken up. Blocking."""
        try:
            if _Files.read(self._settings) == self._material.files:
                self._refused = ""
                self._remind()
                return False
            self._material = _load(self._settings)
        except ConfigError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                log.error("renewed TLS files cannot be used; the old ones stay in use", problem=self._refused)
            return False
        self._refused, self._remind_at = "", 0.0
        log.info("TLS files were renewed", certificate_ends=_date(self.expires()))
        self._remind()
        return True

    async def keep_renewing(self) -> None:
        """Look at the files again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.reload_seconds)
            try:
                await asyncio.to_thread(self.renew)
            except Exception as error:  # a look that fails must not be the last one
                log.error("TLS files could not be looked at", exc_info=error)

    def _lasting(self, choose: Callable[[_Material], ssl.SSLContext]) -> ssl.SSLContext:
        """A context of its own, which hands each handshake to the chosen context of the newest files."""
        ca = self._material.files.client_ca if choose(self._material).verify_mode else None
        lasting = _context(self._settings, ca)

        def hand_over(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            connection.context = choose(self._material)

        # Called in each handshake, whether or not the caller names the server.
        lasting.sni_callback = hand_over
        return lasting

    def _remind(self) -> None:
        """Say in the log, once a day, what is wrong with the certificate's time and the key's mode."""
        now = time.time()
        if now < self._remind_at:
            return
        self._remind_at = now + _REMIND_SECONDS
        key = self._settings.key
        assert key is not None
        with contextlib.suppress(OSError):
            if key.stat().st_mode & 0o007:
                log.warning("the TLS key is open to every user of this machine; chmod 600", path=str(key))
        validity, path = self._material.validity, str(self._settings.certificate)
        ends = _date(validity.not_after_unix_seconds)
        if now > validity.not_after_unix_seconds:
            log.error("the TLS certificate HAS EXPIRED: callers refuse it; renew it", path=path, ended=ends)
        elif now < validity.not_before_unix_seconds:
            begins = _date(validity.not_before_unix_seconds)
            log.error("the TLS certificate is NOT VALID YET: callers refuse it", path=path, begins=begins)
        elif now > validity.not_after_unix_seconds - _SOON_SECONDS:
            log.warning("the TLS certificate ends soon; renew it", path=path, ends=ends)


def _load(settings: TlsSettings) -> _Material:
    """Read, check and make everything. Raises ConfigError."""
    files = _Files.read(settings)
    try:
        validity = validity_of(first_certificate(files.certificate))
    except ValueError as error:
        raise ConfigError(f"tls.certificate {settings.certificate}: {error}") from error
    material = _Material(files, validity, _context(settings, None), _context(settings, files.client_ca))
    if _Files.read(settings) != files:
        raise ConfigError(f"tls.certificate {settings.certificate} or its key changes while it is read")
    return material


def _read(name: str, path: Path, kind: str) -> bytes:
    """A PEM file with at least one piece of this kind. Raises ConfigError."""
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise ConfigError(f"tls.{name} {path} is a folder; name the PEM file itself")
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MAX_FILE_BYTES:
            raise ConfigError(f"tls.{name} {path} is not a PEM file")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"tls.{name} {path}: {reason_of(error)}") from error
    if f"{kind}-----".encode() not in data or b"-----BEGIN " not in data:
        what = "private key" if kind == "PRIVATE KEY" else "certificate"
        raise ConfigError(f"tls.{name} {path} holds no {what} in PEM form")
    return data


def _context(settings: TlsSettings, client_ca: bytes | None) -> ssl.SSLContext:
    """A server's context; with `client_ca` callers must show a certificate. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    certificate, key = settings.certificate, settings.key
    assert certificate is not None

    def refuse_password() -> NoReturn:
        # Else OpenSSL asks for it at the terminal.
        raise ConfigError(f"tls.key {key} is encrypted; give the key without a password, mode 0600")

    try:
        context.load_cert_chain(certificate, key, refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"tls.key {key} is not the key of the certificate in tls.certificate {certificate}"
        else:
            text = f"tls.certificate {certificate} with tls.key {key} cannot be used: {error.reason or error}"
        raise ConfigError(text) from error
    except OSError as error:
        raise ConfigError(f"tls.certificate {certificate}: {reason_of(error)}") from error
    if client_ca is not None:
        try:
            context.load_verify_locations(cadata=client_ca.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError) as error:
            why = getattr(error, "reason", None) or error
            raise ConfigError(f"tls.client_ca {settings.client_ca} cannot be used: {why}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _grpc_configuration(files: _Files) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(files.key, files.certificate)], root_certificates=files.client_ca
    )


def _date(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat()
